"""napari plugin of ProSMA-UNet: readers, writers, widgets and layers; no torch in its process."""
