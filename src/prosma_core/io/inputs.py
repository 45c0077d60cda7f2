"""What the library takes: arrays, scans or files as images and labels, and voxel sizes as numbers."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from prosma_core.config.preprocess import VoxelSize
from prosma_core.data.array_scan import array_axes, array_scan, in_axes
from prosma_core.data.geometry import SPATIAL_AXES, Scan, with_voxel_size
from prosma_core.errors import ConfigError, DatasetError, GeometryError
from prosma_core.events import Event, StageStarted, Working
from prosma_core.io.axes_units import unit_name
from prosma_core.io.dataset_folder import store_image, store_labels
from prosma_core.io.images import read_image, read_labels

Image = ArrayLike | Scan | str | Path
"""An array, a scan that was read, or a file."""
Pair = tuple[Image, Image]
"""An image and its labels."""
Spacing = float | Sequence[float]
"""Voxel size: one number for all axes, or one for each."""
Geometry = tuple[str | None, Spacing | None, str | None, ArrayLike | None]
"""Axes, spacing, unit and affine of an array; None where they were not given."""
_NOTHING: Geometry = (None, None, None, None)


def voxel_size_of(spacing: Spacing | None, unit: str | None) -> VoxelSize | None:
    """A voxel size from numbers; in mm unless a unit is given.

    Raises
    ------
    ConfigError
        They are none, or a unit is given without them.
    """
    if spacing is None:
        if unit is not None:
            msg = f"The unit {unit} is that of a spacing or an affine, which was not given. Give it as well."
            raise ConfigError(msg)
        return None
    sizes = (spacing,) if np.isscalar(spacing) else tuple(spacing)  # type: ignore[arg-type]
    known = "mm" if unit is None else unit_name(unit)
    return VoxelSize.parse({"sizes": sizes, "unit": unit if known == "pixel" else known}, "The spacing")


def read_input(image: Image, geometry: Geometry = _NOTHING) -> Generator[Event, None, tuple[Scan, str]]:
    """An image as a scan.

    Parameters
    ----------
    image : array_like, Scan or path
    geometry : tuple
        As given; a file or scan takes a spacing where it states none, a file takes axes.

    Returns
    -------
    scan : Scan
    axes : str
        Letters of the image's axes in its own order.

    Raises
    ------
    ConfigError
        What was given is not for such an image.
    FileFormatError, GeometryError, IntensityError
        As in `read_image` and `array_scan`.
    """
    axes, spacing, unit, affine = geometry
    if isinstance(image, Scan | str | Path):
        if affine is not None or (axes is not None and isinstance(image, Scan)):
            msg = "Axes and affine are those of an array: a file or scan has its own. Leave them out."
            raise ConfigError(msg)
        size = voxel_size_of(spacing, unit)
        name = "The scan" if isinstance(image, Scan) else Path(image).name
        if not isinstance(image, Scan):
            yield Working(f"Reading {name}")
            image = read_image(Path(image), axes=axes)
        if size is not None and image.spec.unit != "pixel":
            yield StageStarted(f"{name} states a voxel size of its own, which is used.")
        return Scan(image.data, with_voxel_size(image.spec, size)), image.spec.axes
    array = np.asarray(image)
    own = array_axes(array.shape, axes)
    if affine is None:
        return array_scan(array, own, _array_size(own, spacing, unit)), own
    if spacing is not None:
        msg = "Spacing and affine were both given: the affine has the voxel size in it. Leave out the spacing."
        raise ConfigError(msg)
    known = "mm" if unit is None else unit_name(unit)
    return array_scan(array, own, affine=affine, unit=known), own


def _array_size(axes: str, spacing: Spacing | None, unit: str | None) -> VoxelSize | None:
    """Voxel size of an array, one number for each of its spatial axes."""
    size = voxel_size_of(spacing, unit)
    n = sum(a in SPATIAL_AXES for a in axes)
    if size is not None and len(size.sizes) not in (1, n):
        msg = f"A spacing of {len(size.sizes)} numbers does not fit axes {axes}: give one, or {n} of them."
        raise GeometryError(msg)
    return size


def labels_on(labels: Image, scan: Scan, own: str, what: str) -> Scan:
    """Labels of a scan.

    Parameters
    ----------
    labels : array_like, Scan or path
        A file or scan is taken as it is; an array is on the scan's grid.
    scan : Scan
    own : str
        Axes of the image in its own order; those of the labels are the same without channels.
    what : str
        Which labels they are, for error texts.

    Raises
    ------
    GeometryError
        An array has another shape.
    LabelError, FileFormatError
        As in `read_labels`.
    """
    if isinstance(labels, str | Path):
        return read_labels(Path(labels))
    if isinstance(labels, Scan):
        return labels
    spec, array = scan.spec.labels_spec(), np.asarray(labels)
    axes = "".join(a for a in own if a in spec.axes)
    if array.ndim == len(axes):
        array = in_axes(array, axes, spec.axes)
    if array.shape != spec.shape:
        msg = (
            f"Labels of shape {np.shape(labels)} ({what}) do not fit an image of axes {scan.spec.axes} and shape "
            f"{scan.spec.shape}: give them on its grid, axes {axes}."
        )
        raise GeometryError(msg)
    return Scan(array, spec)


def pair_files(
    pairs: Iterable[Pair], folder: Path, geometry: Geometry
) -> Generator[Event, None, tuple[tuple[Path, Path], ...]]:
    """Files of pairs: arrays and scans are written into a folder, files stay where they are.

    Parameters
    ----------
    pairs : iterable of (image, labels)
    folder : Path
        Gets ``images/`` and ``labels/``; what this program wrote there under the same names is replaced.
    geometry : tuple
        Of the arrays.

    Returns
    -------
    tuple of (Path, Path)
        For `RunConfig.pairs`.

    Raises
    ------
    DatasetError
        There is no pair, or one is none.
    OutputError
        A file cannot be written.
    ProsmaError
        As in `read_input` and `labels_on`.
    """
    pairs = list(pairs)
    if not pairs or any(not isinstance(pair, tuple | list) or len(pair) != 2 for pair in pairs):
        msg = "No pairs of images and labels were given: give a sequence such as [(image, labels), …]."
        raise DatasetError(msg)
    found = []
    for number, (image, labels) in enumerate(pairs, 1):
        name = f"pair-{number}"
        if isinstance(image, str | Path) and isinstance(labels, str | Path):
            found.append((Path(image).absolute(), Path(labels).absolute()))
            continue
        yield Working(f"Writing {name} of {len(pairs)}")
        of_image = _NOTHING if isinstance(image, Scan | str | Path) else geometry
        scan, own = yield from read_input(image, of_image)
        truth = labels_on(labels, scan, own, f"pair {number}")
        stored = Path(image).absolute() if isinstance(image, str | Path) else store_image(folder, name, scan)
        kept = Path(labels).absolute() if isinstance(labels, str | Path) else store_labels(folder, name, truth)
        found.append((stored, kept))
    return tuple(found)
