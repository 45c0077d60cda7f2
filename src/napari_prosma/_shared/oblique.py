"""Oblique scans: how they are turned so that napari, which cuts along the world's axes only, reaches every slice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prosma_core.data.geometry import ImageSpec

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
