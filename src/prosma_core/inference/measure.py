"""How well a label map agrees with its reference: per case and class, and over all cases."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.errors import ConfigError, GeometryError


@dataclass(frozen=True)
class ClassMeasures:
    """Agreement of one class in one case.

    Where the class is in neither map, they agree: 1, 1, 0 and 1. Where it is in only one of them: 0, 0, None
    and 0. No value is ever NaN or infinite.

    Attributes
    ----------
    dice : float
        2 |P and R| / (|P| + |R|) of the voxels predicted (P) and in the reference (R), 0..1.
    iou : float
        |P and R| / |P or R|, 0..1.
    hd95 : float or None
        95th percentile of the distances from each surface to the other, the larger of both directions, in the
        unit of the spacing; None (undefined) where only one map has the class.
    surface_dice : float
        Share of both surfaces that lies within the tolerance of the other one, 0..1; a surface is the voxels
        of a class that have a face to another class or to the border of the map.
    reference_voxels, predicted_voxels : int
    """

    dice: float
    iou: float
    hd95: float | None
    surface_dice: float
    reference_voxels: int
    predicted_voxels: int


def measure_case(
    prediction: NDArray[np.integer[Any]],
    reference: NDArray[np.integer[Any]],
    spacing: Sequence[float],
    classes: Mapping[int, str],
    surface_tolerance: float,
) -> dict[str, ClassMeasures]:
    """Agreement of each class, by its name.

    Parameters
    ----------
    prediction, reference : ndarray, integer, shape (Y, X) or (Z, Y, X)
        Class numbers; equal shapes.
    spacing : sequence of float
        Voxel size per axis, in array order; its unit is the unit of the distances.
    classes : mapping of int to str
        Number and name of the classes to measure (the background is left out of it); other numbers are ignored.
    surface_tolerance : float
        Distance up to which a surface counts as met, in the unit of `spacing`; 0 or more.

    Returns
    -------
    dict of str to ClassMeasures

    Raises
    ------
    GeometryError
        If the shapes differ, are not 2D or 3D, or do not fit the spacing.
    ConfigError
        If the tolerance is negative or not finite, or two classes have one name.
    """
    _check(prediction, reference, spacing)
    if not (np.isfinite(surface_tolerance) and surface_tolerance >= 0):
        msg = f"Surface tolerance {surface_tolerance} is no distance; use a finite number of 0 or more."
        raise ConfigError(msg)
    if len(set(classes.values())) < len(classes):
        msg = f"Two classes have the same name: {', '.join(classes.values())}. Give each class its own name."
        raise ConfigError(msg)
    return {
        name: _measure_class(prediction == number, reference == number, spacing, surface_tolerance)
        for number, name in classes.items()
    }


def summarise(cases: Mapping[str, Mapping[str, ClassMeasures]]) -> dict[str, Any]:
    """Means over cases for each class, and over classes; plain numbers that JSON can hold.

    Parameters
    ----------
    cases : mapping of str to mapping of str to ClassMeasures
        Case name -> class name -> measures, as `measure_case` gives them. Cases may lack classes.

    Returns
    -------
    dict
        ``"cases"``: number of cases. ``"classes"``: for each class name

        - ``cases``: number of cases in which the class was measured;
        - ``dice``, ``iou``, ``surface_dice``: mean over all of them; None where no reference has the class;
        - ``hd95``: mean over the cases where it is defined; ``hd95_undefined``: number of the others;
        - ``present``: number of cases with the class in the reference; ``dice_present``: mean Dice over them;
        - ``absent``: number of cases without it; ``absent_predicted_empty``: those correctly left empty.

        ``"mean"``: ``dice``, ``iou``, ``surface_dice``, ``hd95`` and ``dice_present``, each the mean of that value
        over the classes that have it. A mean of nothing is None.
    """
    names = dict.fromkeys(name for case in cases.values() for name in case)
    classes = {name: _summarise_class([case[name] for case in cases.values() if name in case]) for name in names}
    keys = ("dice", "iou", "surface_dice", "hd95", "dice_present")
    overall = {key: _mean(summary[key] for summary in classes.values()) for key in keys}
    return {"cases": len(cases), "classes": classes, "mean": overall}


def _check(prediction: NDArray[Any], reference: NDArray[Any], spacing: Sequence[float]) -> None:
    if prediction.shape != reference.shape:
        msg = (
            f"The prediction has shape {prediction.shape}, the reference {reference.shape}; only maps on the same "
            "grid can be compared. Bring the prediction back to the grid of its scan first."
        )
        raise GeometryError(msg)
    if prediction.ndim not in (2, 3):
        msg = f"Label maps of shape {prediction.shape} are not 2D or 3D; measure each time frame for itself."
        raise GeometryError(msg)
    if len(spacing) != prediction.ndim or not all(np.isfinite(s) and s > 0 for s in spacing):
        msg = f"Spacing {tuple(spacing)} does not fit a {prediction.ndim}D map: one finite number above 0 per axis."
        raise GeometryError(msg)


def _measure_class(
    predicted: NDArray[np.bool_], wanted: NDArray[np.bool_], spacing: Sequence[float], tolerance: float
) -> ClassMeasures:
    """Measures of one class from its two masks; the cases MONAI would warn about are answered here."""
    counts = {"reference_voxels": int(wanted.sum()), "predicted_voxels": int(predicted.sum())}
    if not any(counts.values()):
        return ClassMeasures(1.0, 1.0, 0.0, 1.0, **counts)
    if not all(counts.values()):
        return ClassMeasures(0.0, 0.0, None, 0.0, **counts)
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.meandice import compute_dice
    from monai.metrics.meaniou import compute_iou
    from monai.metrics.surface_dice import compute_surface_dice

    pair = torch.from_numpy(predicted)[None, None], torch.from_numpy(wanted)[None, None]  # (B, C, *grid)
    steps = [float(s) for s in spacing]
    with warnings.catch_warnings():  # MONAI 1.6 warns of an argument that it passes to itself
        warnings.filterwarnings("ignore", "monai.metrics.utils get_mask_edges", FutureWarning)
        distance = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=steps)
        surface = compute_surface_dice(*pair, [float(tolerance)], include_background=True, spacing=steps)
    return ClassMeasures(
        dice=compute_dice(*pair).item(),
        iou=compute_iou(*pair).item(),
        hd95=distance.item(),
        surface_dice=surface.item(),
        **counts,
    )


def _summarise_class(measures: Sequence[ClassMeasures]) -> dict[str, Any]:
    present = [m for m in measures if m.reference_voxels]
    absent = [m for m in measures if not m.reference_voxels]
    counted = measures if present else []  # of a class that is nowhere, every value would be of what is not there
    return {
        "cases": len(measures),
        "dice": _mean(m.dice for m in counted),
        "iou": _mean(m.iou for m in counted),
        "surface_dice": _mean(m.surface_dice for m in counted),
        "hd95": _mean(m.hd95 for m in counted),
        "hd95_undefined": sum(m.hd95 is None for m in measures),
        "present": len(present),
        "dice_present": _mean(m.dice for m in present),
        "absent": len(absent),
        "absent_predicted_empty": sum(not m.predicted_voxels for m in absent),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are defined; None if there are none."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
