"""The napari plugin of ProSMA-UNet: knows viewers, layers and widgets, never a tensor."""
