"""Transform, unit and axis labels of a layer, those of results on its grid, and how oblique scans are shown."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.utils.transforms import CompositeAffine
from numpy.typing import NDArray

from prosma_core.data.geometry import METRES, SPATIAL_AXES, ImageSpec
from prosma_core.errors import GeometryError
from prosma_core.io.axes_units import unit_name

_unit_name = functools.lru_cache(maxsize=64)(unit_name)  # the texts of napari's units are slow to make
_PART = 1e-6
"""Two grids are the same where they differ by less than this part of a voxel."""


@dataclass(frozen=True, eq=False)
class Placement:
    """Transform of a layer, one entry per axis of the layer (colors of RGB are no axis).

    Attributes
    ----------
    physical : CompositeAffine
        napari's scale, translate, rotate and shear, with units and axis labels.
    affine : ndarray, float64, shape (n + 1, n + 1)
        napari's additional affine, applied after it.
    """

    physical: CompositeAffine
    affine: NDArray[np.float64]

    @classmethod
    def of(cls, layer: Any) -> Placement:
        """Placement of a layer, as it is now."""
        return cls.from_state({name: getattr(layer, name) for name in _STATE}, layer.ndim)

    @classmethod
    def from_state(cls, state: Mapping[str, Any], ndim: int) -> Placement:
        """Placement from a layer's attributes, as writers get them; what is missing is napari's default."""
        physical = CompositeAffine(
            state.get("scale") if state.get("scale") is not None else [1.0] * ndim,
            state.get("translate") if state.get("translate") is not None else [0.0] * ndim,
            rotate=state.get("rotate"),
            shear=state.get("shear"),
            units=state.get("units"),
            axis_labels=state.get("axis_labels"),
            ndim=ndim,
        )
        affine = np.eye(ndim + 1)
        given = state.get("affine")
        if given is not None:
            matrix = np.asarray(getattr(given, "affine_matrix", given), np.float64)
            size = len(matrix) - 1
            affine[ndim - size :, ndim - size :] = matrix
        return cls(physical, affine)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.physical.scale)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Voxel index to world, float64, shape (n + 1, n + 1)."""
        product: NDArray[np.float64] = self.affine @ self.physical.affine_matrix
        return product

    def arguments(self) -> dict[str, Any]:
        """Arguments of a layer's constructor for this placement."""
        return {name: getattr(self.physical, name) for name in _STATE if name != "affine"} | {"affine": self.affine}

    def put_on(self, layer: Any) -> None:
        """Move a layer here; sets only what differs."""
        for name, value in self.arguments().items():
            now = getattr(layer, name)
            if name == "affine":
                now = now.affine_matrix
            same = tuple(now) == tuple(value) if name in {"units", "axis_labels"} else np.array_equal(now, value)
            if not same:
                setattr(layer, name, value)

    def at_level(self, factors: Sequence[float]) -> Placement:
        """Placement of a coarser level whose voxels are `factors` as large; its first voxel covers the same corner."""
        if all(factor == 1 for factor in factors):
            return self
        f = np.asarray(factors, np.float64)
        return self.moved(f.tolist(), ((f - 1) / 2).tolist())

    def without(self, axis: int) -> Placement:
        """Placement on all axes but this one."""
        keep = [i for i in range(self.ndim) if i != axis]
        return Placement(self.physical.set_slice(keep), self.affine[np.ix_([*keep, -1], [*keep, -1])])

    def with_channel(self, label: str = "c") -> Placement:
        """Placement on these axes and a channel axis in front of them, called `label`."""
        old, n = self.physical, self.ndim + 1
        rotate, shear, affine = np.eye(n), np.eye(n), np.eye(n + 1)
        rotate[1:, 1:], affine[1:, 1:] = old.rotate, self.affine
        shear[1:, 1:] = CompositeAffine([1.0] * (n - 1), [0.0] * (n - 1), shear=old.shear, ndim=n - 1).linear_matrix
        physical = CompositeAffine(
            [1.0, *old.scale],
            [0.0, *old.translate],
            rotate=rotate,
            shear=shear,
            units=["pixel", *old.units],
            axis_labels=[label, *old.axis_labels],
            ndim=n,
        )
        return Placement(physical, affine)

    def spread(self, axis: int, size: int) -> Placement:
        """Placement of one voxel along `axis` that covers the `size` voxels there are."""
        return self.at_level([float(size) if i == axis else 1.0 for i in range(self.ndim)])

    def check_apart(self, axis: int, letter: str) -> None:
        """Raise `GeometryError` where an axis (time or channel) is turned or sheared into others."""
        linear = self.matrix[:-1, :-1].copy()
        linear[axis, axis] = 0
        if np.any(linear[axis]) or np.any(linear[:, axis]):
            msg = (
                f"Axis {letter} of the layer is rotated or sheared into others; only space may be. Reset its transform."
            )
            raise GeometryError(msg)

    def unit(self, axes: Sequence[int]) -> tuple[str, NDArray[np.float64]]:
        """Unit of these axes (that of the last), and what to multiply the numbers of each with to be in it."""
        names = [_unit_name(self.physical.units[axis]) for axis in axes]
        if len(set(names)) == 1:
            return names[0], np.ones(len(axes))
        if set(names) <= set(METRES):
            return names[-1], np.array([METRES[name] / METRES[names[-1]] for name in names])
        return "pixel", np.ones(len(axes))

    def moved(self, factors: Sequence[float], shift: Sequence[float]) -> Placement:
        """Placement of a grid whose voxels are `factors` as large, its voxel 0 at index `shift` of this one."""
        old = self.physical
        physical = CompositeAffine(
            old.scale * np.asarray(factors, np.float64),
            old.translate + old.linear_matrix @ np.asarray(shift, np.float64),
            rotate=old.rotate,
            shear=old.shear,
            units=old.units,
            axis_labels=old.axis_labels,
            ndim=self.ndim,
        )
        return Placement(physical, self.affine)


_STATE = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")


def drawn_axes(spec: ImageSpec) -> str:
    """Letters of an array's axes in the order in which it is drawn.

    Each spatial axis comes where the patient's axis lies that it is closest to (superior, anterior, right), so that
    napari's view of two axes shows them undistorted; time and channels stay in front.
    """
    if spec.world != "ras" or spec.spatial_ndim != 3:
        return spec.axes
    world = patient_axes(spec)
    spatial = "".join(spec.spatial_axes[world.index(w)] for w in range(3))
    return spec.axes[: -len(spatial)] + spatial


def rows_and_columns(axes: str, spec: ImageSpec | None) -> tuple[list[int], list[int]]:
    """Where a layer's matrix keeps the spatial rows and columns of an affine, in canonical order.

    The columns are the array's axes, in whatever order the layer has them. The rows are the world's: a patient's axes
    keep their order, those of an image without a patient go along with the array's.
    """
    columns = [axes.index(letter) for letter in SPATIAL_AXES if letter in axes]
    patient = spec is not None and spec.world == "ras" and spec.spatial_ndim == len(columns)
    return sorted(columns) if patient else columns, columns


def spec_arguments(spec: ImageSpec, axes: str, straight: NDArray[np.float64] | None = None) -> dict[str, Any]:
    """Arguments that draw an array where its file says: in the file's world, with axis labels and units.

    Parameters
    ----------
    spec : ImageSpec
    axes : str
        Letters of the layer's axes, without the colors of RGB.
    straight : ndarray, shape (4, 4), optional
        Of `oblique.straight_affine`; drawn in place of the scan's own affine.

    Returns
    -------
    dict
        ``scale`` and ``translate``, and ``affine`` as well where axes are turned, flipped or sheared; ``units`` and
        ``axis_labels``. Voxel (k, j, i) is drawn at ``spec.affine @ (k, j, i, 1)``.
    """
    step, time_unit = _time(spec)
    size = dict(zip(spec.spatial_axes, spec.spacing, strict=True)) | {"t": step}
    unit = dict.fromkeys(spec.spatial_axes, spec.unit) | {"t": time_unit}
    if straight is not None:
        size |= dict(zip(spec.spatial_axes, np.abs(straight[:3, :3]).max(axis=0).tolist(), strict=True))
    scale = [size.get(letter, 1.0) for letter in axes]
    rows, columns = rows_and_columns(axes, spec)
    matrix = np.diag([*scale, 1.0])
    matrix[np.ix_(rows, columns)] = 0
    matrix[np.ix_([*rows, -1], [*columns, -1])] = spec.affine if straight is None else straight
    drawn = {"units": [unit.get(letter, "pixel") for letter in axes], "axis_labels": list(axes)}
    diagonal, linear = np.diag(matrix)[:-1], matrix[:-1, :-1]
    if np.array_equal(linear, np.diag(diagonal)) and np.all(diagonal > 0):
        return {"scale": diagonal.tolist(), "translate": matrix[:-1, -1].tolist(), **drawn}
    affine = matrix / [*scale, 1.0]
    return {"scale": scale, "translate": [0.0] * len(axes), "affine": affine, **drawn}


def same_grid(a: NDArray[np.float64], b: NDArray[np.float64], spacing: Sequence[float]) -> bool:
    """Whether two affines place voxels alike, up to the rounding of a composed transform."""
    return a.shape == b.shape and bool(np.abs(a - b).max() <= _PART * min(spacing))


def _time(spec: ImageSpec) -> tuple[float, str]:
    """Time between frames and its unit where the NIfTI header says; else 1 pixel."""
    if "t" not in spec.axes or spec.format != "nifti" or spec.header is None:
        return 1.0, "pixel"
    try:
        unit = spec.header.get_xyzt_units()[1]
    except KeyError:
        return 1.0, "pixel"
    step = float(spec.header["pixdim"][4])
    names = {"sec": "second", "msec": "millisecond", "usec": "microsecond"}
    if unit not in names or not np.isfinite(step) or step <= 0:
        return 1.0, "pixel"
    return step, names[unit]


_VISIBLE = 1e-4
"""Scans turned by less than this angle (radians) are not called oblique: 0.02 mm at 200 mm."""


def patient_axes(spec: ImageSpec) -> list[int]:
    """Row of the affine (0 superior, 1 anterior, 2 right) that each spatial axis of the array is closest to."""
    from nibabel.orientations import io_orientation

    rows: list[int] = io_orientation(spec.affine)[:, 0].astype(int).tolist()  # type: ignore[no-untyped-call]
    return rows


def straight_affine(spec: ImageSpec) -> NDArray[np.float64] | None:
    """Affine of a scan turned about the world's origin until its axes run along the patient axes they are closest to.

    Returns
    -------
    ndarray, float64, shape (4, 4), or None
        Never a mirror image of the scan; where its axes are not at right angles to each other they are straightened
        as well. Its numbers are rounded to 3e-8 of a voxel: napari counts the positions of its sliders with sums of
        them, and loses the last slice where these are not exact. None where there is nothing to turn.
    """
    if spec.world != "ras" or spec.spatial_ndim != 3:
        return None
    linear = spec.affine[:3, :3]
    rows, columns = patient_axes(spec), [0, 1, 2]
    along = linear[rows, columns]
    if np.count_nonzero(linear) == np.count_nonzero(along):
        return None
    straight = np.eye(4)
    straight[:3, :3] = 0
    straight[rows, columns] = np.copysign(spec.spacing, along)
    if np.linalg.det(straight) * np.linalg.det(linear) < 0:
        straight[:3, np.argmin(np.abs(along) / spec.spacing)] *= -1
    quantum = 2.0 ** (np.floor(np.log2(min(spec.spacing))) - 24)
    straight[:3, :3] = np.round(straight[:3, :3] / quantum) * quantum
    origin = straight[:3, :3] @ np.linalg.solve(linear, spec.affine[:3, 3])
    straight[:3, 3] = np.round(origin / quantum) * quantum
    return straight


def turn_between(spec: ImageSpec, straight: NDArray[np.float64]) -> NDArray[np.float64]:
    """What takes a scan's world to the one it is drawn in: a rotation, shape (3, 3), in the order of its rows."""
    turn: NDArray[np.float64] = straight[:3, :3] @ np.linalg.inv(spec.affine[:3, :3])
    return turn


def oblique_note(name: str, turn: NDArray[np.float64] | None) -> str:
    """What to say of a scan that is drawn turned; empty where nobody would see it."""
    if turn is None:
        return ""
    axes = np.linalg.inv(turn)
    cosines = np.clip(np.diag(axes) / np.linalg.norm(axes, axis=0), -1, 1)
    angle = float(np.arccos(cosines).max())
    if angle <= _VISIBLE:
        return ""
    return (
        f"{name} is oblique ({np.degrees(angle):.2g} degrees): it is drawn along its own axes so that every slice can "
        "be seen and painted; files keep its exact orientation."
    )
