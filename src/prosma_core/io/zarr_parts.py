"""Writing of arrays that are too large for memory, part by part, into zarr folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.data.geometry import ImageSpec
from prosma_core.io.atomic import make_folder, replace_dir
from prosma_core.io.images import check_output, warn_of_orientation
from prosma_core.io.zarr_images import complete_zarr, create_zarr, writes_ended
from prosma_core.io.zarr_labels import image_of, list_label_image, plan_label_image

Part = tuple[tuple[slice, ...], NDArray[Any]]
"""Where voxels lie in an array, and these."""


def write_parts(
    path: Path,
    parts: Iterable[Part],
    dtype: np.dtype[Any],
    spec: ImageSpec,
    *,
    provenance: dict[str, str],
    chunks: tuple[int, ...] | None = None,
    overwrite: bool = False,
) -> None:
    """Write an array that comes part by part into a zarr folder; whole or not at all.

    Parameters
    ----------
    path : Path
        Its `written_format` is zarr.
    parts : iterable of (index, ndarray)
        Together the array, of shape ``spec.shape``.
    dtype : numpy.dtype
        Of the file.
    spec : ImageSpec
    provenance : dict of str
        As in `prosma_core.io.images.write_image`.
    chunks : tuple of int, optional
        Chunks in which the array is stored: best those in which the parts come.
    overwrite : bool
        As there.

    Raises
    ------
    OutputError
        `path` exists, or cannot be written.
    """
    check_output(path, overwrite=overwrite)
    warn_of_orientation(path, spec)
    image = plan_label_image(path, spec, provenance)
    if image_of(path) is not None:
        make_folder(path.parent)

    def write(folder: Path) -> None:
        with writes_ended():
            array = create_zarr(folder, dtype, spec, provenance, chunks, image=image)
            for index, values in parts:
                array[index] = values
            for _ in complete_zarr(folder, array, image):
                pass

    replace_dir(path, write)
    list_label_image(path)
