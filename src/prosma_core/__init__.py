"""Segmentation with decoder-conditioned proximal-sparse skip gates (ProSMA-UNet).

Importing the package is cheap: nothing heavy (torch, nibabel, MONAI) is loaded until it is used.
"""

__version__ = "0.1.0"
