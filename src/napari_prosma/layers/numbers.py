"""Numbers in the features tables of Labels layers, which hold only until the voxels change. No Qt."""

from __future__ import annotations

from typing import Any

from napari_prosma.layers.labels import drop_columns

VOXELS, PIXELS = "voxels", "pixels"
"""Columns with the number of voxels, of a picture pixels."""
ML, MM2, UM3, UM2 = "Volume (mL)", "Area (mm²)", "Volume (µm³)", "Area (µm²)"
"""Columns with sizes."""
PAINTED = ("data", "paint", "labels_update")
"""Events of a Labels layer after which its voxels may be others."""


def mean_heading(heading: str) -> str:
    """Heading of sizes that are means over the time points."""
    return f"Mean {heading[0].lower()}{heading[1:]}"


NUMBERS = {VOXELS, PIXELS, *(name for size in (ML, MM2, UM3, UM2) for name in (size, mean_heading(size)))}
"""Columns that are computed from the voxels."""


def forget_numbers(event: Any) -> None:
    """Take the numbers out of the features table of a result whose voxels changed: those that this plugin wrote.

    Names of classes and objects stay. Who counts again adds the new numbers.
    """
    drop_columns(event.source)
