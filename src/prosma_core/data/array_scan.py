"""A plain array as a scan, and results back in the array's own order of axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prosma_core.config.preprocess import VoxelSize
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
from prosma_core.errors import GeometryError, IntensityError

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
    matrix = np.asarray(affine, np.float64)
    n = len(spatial)
    if matrix.shape != (n + 1, n + 1):
        msg = f"The affine has shape {matrix.shape}; an array with axes {own} needs {(n + 1, n + 1)}."
        raise GeometryError(msg)
    matrix = np.ascontiguousarray(matrix[np.ix_([*at, n], [*at, n])])
    world: World = "ras" if n == 3 and unit == "mm" else "image"
    return Scan(array, ImageSpec(order, array.shape, affine_spacing(matrix), unit, matrix, world))


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
    if len(axes) != ndim or len(set(axes)) != ndim or not {"y", "x"} <= set(axes) <= set(AXIS_ORDER):
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
