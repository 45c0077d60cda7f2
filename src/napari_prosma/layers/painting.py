"""Labels layers of a viewer whose voxels lie on a disk: brought into memory, or kept from being painted in. No Qt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from napari.layers import Labels
from napari.utils.notifications import show_info, show_warning

from napari_prosma.layers.results import PAINTING
from napari_prosma.layers.slices import keep, marks_of, packed
from napari_prosma.layers.stored import is_on_disk
from prosma_core.printable import plain

MOST_BYTES = 256 << 20
"""Of a label map that is brought into memory where a tool that paints is chosen."""


def guard_voxels(event: Any) -> None:
    """See to it that a tool that changes voxels is chosen only for labels whose voxels can be changed.

    A label map that lies in a file and is small is read into memory; for a larger one the tool is put away, with the
    reason.

    Parameters
    ----------
    event : napari event
        Of a Labels layer's `mode`.
    """
    layer = event.source
    if str(layer.mode) not in PAINTING or not is_on_disk(layer.data):
        return
    if not layer.multiscale and np.dtype(layer.data.dtype).itemsize * layer.data.size <= MOST_BYTES:
        into_memory(layer)
        read = f"{layer.name} was read from its file to be painted in; the file stays until the layer is saved."
        show_info(plain(read))
        return
    layer.mode = "pan_zoom"
    words = "pixels" if layer.ndim == 2 else "voxels"
    refused = (
        f"{layer.name} cannot be painted in: its {words} lie in a file, and are too many to be held in memory. Open or "
        "segment a part of the scan, and correct that."
    )
    show_warning(plain(refused))


def into_memory(layer: Labels) -> None:
    """Give a labels layer its voxels as an array in memory; what it was made from stays known."""
    marks = marks_of(layer)
    layer.data = np.array(layer.data)
    if marks is not None and marks.base is not None and marks.base.later:  # the file may be replaced
        keep(layer, replace(marks, base=packed(layer).base))
