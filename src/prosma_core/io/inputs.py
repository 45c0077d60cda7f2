"""What the library takes: arrays, scans or files as images and labels, and voxel sizes as numbers."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prosma_core.config.model import VoxelSize
from prosma_core.data.geometry import (
    AXIS_ORDER,
    SPATIAL_AXES,
    ImageSpec,
    Scan,
    World,
    affine_spacing,
    array_spec,
    with_voxel_size,
)
from prosma_core.errors import ConfigError, DatasetError, GeometryError, IntensityError
from prosma_core.events import Event, StageStarted, Working
from prosma_core.io.axes_units import unit_name
from prosma_core.io.dataset_folder import store_image, store_labels
from prosma_core.io.images import read_image, read_labels
from prosma_core.io.remote import input_path, local_path

_USUAL = {2: "yx", 3: "zyx"}
_COLORS = (3, 4)


def array_scan(
    data: ArrayLike,
    axes: str | None = None,
    voxel_size: VoxelSize | None = None,
    affine: ArrayLike | None = None,
    unit: str = "mm",
) -> Scan:
    """An array with a geometry, its axes in the canonical order.

    Parameters
    ----------
    data : array_like, integer, floating point or bool
    axes : str, optional
        As of `array_axes`.
    voxel_size : VoxelSize, optional
        Sizes in the order of the array's own spatial axes, or one for all. Without it and without an affine, the voxel
        size is unknown.
    affine : array_like, shape (n + 1, n + 1), optional
        Maps a voxel index to the world, rows and columns in the order of the array's own n spatial axes. In 3D with
        the unit mm, the world is the patient's (to the Right, Anterior, Superior), as in nibabel.
    unit : str
        Of the affine.

    Returns
    -------
    Scan
        The data are a view of the array, where it is one.

    Raises
    ------
    GeometryError
        Axes, sizes or affine do not fit the array.
    IntensityError
        The array holds no numbers.
    """
    array = np.asarray(data)
    if array.dtype.kind not in "biuf":
        msg = f"An array of type {array.dtype} holds no gray values: give integers or floating-point numbers."
        raise IntensityError(msg)
    own = array_axes(array.shape, axes)
    order = canonical(own)
    array = in_axes(array, own, order)
    spatial, turned = ("".join(a for a in letters if a in SPATIAL_AXES) for letters in (own, order))
    at = [spatial.index(a) for a in turned]
    if affine is None:
        if voxel_size is not None and len(voxel_size.sizes) == len(spatial):
            voxel_size = voxel_size.replace(sizes=tuple(voxel_size.sizes[i] for i in at))
        return Scan(array, with_voxel_size(array_spec(array.shape, order), voxel_size))
    n = len(spatial)
    matrix = as_array(affine, "The affine")
    if matrix.dtype.kind not in "biuf":
        msg = f"An affine of type {matrix.dtype} holds no real numbers: give a matrix of shape {(n + 1, n + 1)}."
        raise GeometryError(msg)
    matrix = matrix.astype(np.float64)
    if matrix.shape != (n + 1, n + 1):
        msg = f"The affine has shape {matrix.shape}; an array with axes {own} needs {(n + 1, n + 1)}."
        raise GeometryError(msg)
    if not np.array_equal(matrix[n], np.eye(n + 1)[n]):
        msg = f"The last row of the affine is {matrix[n].tolist()}: it must be {np.eye(n + 1)[n].tolist()}."
        raise GeometryError(msg)
    matrix = np.ascontiguousarray(matrix[np.ix_([*at, n], [*at, n])])
    world: World = "ras" if n == 3 and unit == "mm" else "image"
    return Scan(array, ImageSpec(order, array.shape, affine_spacing(matrix), unit, matrix, world))


def as_array(values: Any, what: str) -> NDArray[Any]:
    """Values as an array.

    Raises
    ------
    GeometryError
        They are no array: rows of different lengths, or no sequence at all.
    """
    try:
        array = np.asarray(values)
    except ValueError:
        msg = f"{what} has rows of different lengths: give a rectangular array."
        raise GeometryError(msg) from None
    if array.ndim == 0:
        msg = f"{what} is of type {type(values).__name__}: give an array, a scan, or the path of a file."
        raise GeometryError(msg)
    return array


def array_axes(shape: tuple[int, ...], axes: str | None) -> str:
    """Letters of an array's axes, in the array's order.

    Parameters
    ----------
    shape : tuple of int
    axes : str, optional
        Letters of ``"tczyx"`` in any order, one per axis, y and x among them: ``"yxc"`` of a color picture, ``"xyz"``
        of an array of nibabel. Unless given, ``"yx"`` in 2D and ``"zyx"`` in 3D.

    Raises
    ------
    GeometryError
        They do not fit the shape, or cannot be told from it.
    """
    ndim = len(shape)
    if axes is None:
        if ndim not in _USUAL:
            msg = f"The axes of an array of shape {shape} cannot be told: give them, such as axes='czyx' or axes='tyx'."
            raise GeometryError(msg)
        if ndim == 3 and shape[-1] in _COLORS and min(shape[:2]) > max(_COLORS):
            msg = (
                f"An array of shape {shape} may be a color picture or a stack of slices: "
                "give axes='yxc' for a picture, axes='zyx' for a stack."
            )
            raise GeometryError(msg)
        return _USUAL[ndim]
    if (
        not isinstance(axes, Sequence)
        or len(axes) != ndim
        or len(set(axes)) != ndim
        or not {"y", "x"} <= set(axes) <= set(AXIS_ORDER)
    ):
        msg = (
            f"Axes {axes!r} do not describe an array of shape {shape}: one letter of {AXIS_ORDER!r} for each axis, "
            "in the order of the array, y and x among them."
        )
        raise GeometryError(msg)
    return axes


def canonical(axes: str) -> str:
    """The same letters in the canonical order."""
    return "".join(a for a in AXIS_ORDER if a in axes)


def in_axes(data: NDArray[Any], axes: str, wanted: str) -> NDArray[Any]:
    """An array with its axes in another order.

    Parameters
    ----------
    data : ndarray
    axes, wanted : str
        The same letters: of the array, and in the order that is wanted.

    Returns
    -------
    ndarray
        A view.
    """
    return data.transpose([axes.index(a) for a in wanted])


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
        name = "The scan" if isinstance(image, Scan) else input_path(image).name
        if not isinstance(image, Scan):
            yield Working(f"Reading {name}")
            image = read_image(input_path(image), axes=axes)
        if size is not None and image.spec.unit != "pixel":
            yield StageStarted(f"{name} states a voxel size of its own, which is used.")
        return Scan(image.data, with_voxel_size(image.spec, size)), image.spec.axes
    array = as_array(image, "The image")
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
        return read_labels(input_path(labels))
    if isinstance(labels, Scan):
        return labels
    spec, array = scan.spec.labels_spec(), as_array(labels, f"The labels ({what})")
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
    pairs = list(pairs) if isinstance(pairs, Iterable) else []
    if not pairs or any(not isinstance(pair, tuple | list) or len(pair) != 2 for pair in pairs):
        msg = "No pairs of images and labels were given: give a sequence such as [(image, labels), …]."
        raise DatasetError(msg)
    found = []
    for number, (image, labels) in enumerate(pairs, 1):
        name = f"pair-{number}"
        if isinstance(image, str | Path) and isinstance(labels, str | Path):
            found.append((local_path(image).absolute(), local_path(labels).absolute()))
            continue
        yield Working(f"Writing {name} of {len(pairs)}")
        of_image = _NOTHING if isinstance(image, Scan | str | Path) else geometry
        scan, own = yield from read_input(image, of_image)
        truth = labels_on(labels, scan, own, f"pair {number}")
        stored = local_path(image).absolute() if isinstance(image, str | Path) else store_image(folder, name, scan)
        kept = local_path(labels).absolute() if isinstance(labels, str | Path) else store_labels(folder, name, truth)
        found.append((stored, kept))
    return tuple(found)
