"""Trained networks on images that they never saw, on each image's own grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from evidence.corruptions import CORRUPTIONS, corrupted
from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import ClassInfo
from prosma_core.data.geometry import Scan
from prosma_core.data.labels import class_indices
from prosma_core.events import Event, drain
from prosma_core.inference.segment import Segmenter
from prosma_core.model.gate_hooks import counting
from prosma_core.model.unet import UNet
from prosma_core.training.validate import dice_per_class

SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)
"""What the thresholds are multiplied by for the curve of Dice over the removed fraction."""

Cases = Mapping[str, tuple[Scan, Scan]]
"""Image and labels by name."""
Scores = dict[str, dict[str, dict[str, Any]]]
"""Per case and class: ``dice``, ``iou``, and whether the class is ``present`` in the reference."""
Check = Callable[[], None]
"""Called often; raises where time is up."""


def judge(
    segmenter: Segmenter,
    cases: Cases,
    check: Check,
    change: Callable[[Scan, str], Scan] | None = None,
    *,
    mirror: bool = False,
) -> Scores:
    """Dice and IoU of each case and class.

    Parameters
    ----------
    segmenter : Segmenter
    cases : mapping of str to (Scan, Scan)
    check : callable
    change : callable, optional
        Gives another image for an image and its name.
    mirror : bool
        Average over mirrored copies.
    """
    classes, config = segmenter.header.classes, InferenceConfig(mirror=mirror)

    def show(event: Event) -> None:
        check()

    scores: Scores = {}
    for name, (image, labels) in cases.items():
        check()
        seen = image if change is None else change(image, name)
        found = class_indices(drain(segmenter.segment(seen, config), show).labels.data, classes, name)
        scores[name] = agreement(found, class_indices(labels.data, classes, name), classes)
    return scores


def agreement(
    found: NDArray[np.integer[Any]], wanted: NDArray[np.integer[Any]], classes: Sequence[ClassInfo]
) -> dict[str, dict[str, Any]]:
    """Dice and IoU of each foreground class; 1 where it is in neither map.

    Parameters
    ----------
    found, wanted : ndarray, integer, shape (*grid)
        Class indices.
    classes : sequence of ClassInfo
        The first is the background.
    """
    dice = dice_per_class(torch.from_numpy(found), torch.from_numpy(wanted), len(classes))
    return {
        info.name: {"dice": round(d, 6), "iou": round(d / (2 - d), 6), "present": bool((wanted == index).any())}
        for index, (info, d) in enumerate(zip(classes[1:], dice, strict=True), start=1)
    }


def summary(scores: Scores) -> dict[str, Any]:
    """Means of Dice and IoU over the cases that have a class, then over classes; and how often nothing was right.

    ``empty``: cases and classes without anything in the reference, and how many of them were answered so.
    """
    names = dict.fromkeys(name for case in scores.values() for name in case)
    classes = {name: _mean([case[name] for case in scores.values() if case[name]["present"]]) for name in names}
    absent = [each["dice"] for case in scores.values() for each in case.values() if not each["present"]]
    with_any = [each for each in classes.values() if each]
    return {
        **_mean(with_any),
        "classes": {name: each for name, each in classes.items() if each},
        "empty": {"right": sum(d == 1 for d in absent), "of": len(absent)},
    }


def _mean(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    if not entries:
        return {}
    return {key: round(float(np.mean([entry[key] for entry in entries])), 6) for key in ("dice", "iou")}


def judge_corrupted(segmenter: Segmenter, cases: Cases, check: Check) -> dict[str, dict[str, Any]]:
    """Summary for each kind of corruption and strength; both as text, for JSON."""
    result: dict[str, dict[str, Any]] = {}
    for kind, strength in product(CORRUPTIONS, (1, 2, 3)):
        worse = partial(corrupted, kind=kind, strength=strength)
        result.setdefault(kind, {})[str(strength)] = summary(judge(segmenter, cases, check, worse))
    return result


@contextmanager
def thresholds_times(model: UNet, scale: float) -> Iterator[None]:
    """Multiply all learned thresholds within; by more than a user's edit may, and by 0."""
    learned = [gate.get_parameter("raw_threshold") for gate in model.skip_gates if gate.threshold() is not None]
    before = [raw.detach().clone() for raw in learned]
    try:
        for raw in learned:
            tau = scale * F.softplus(raw.detach())
            raw.data = tau + torch.log(-torch.expm1(-tau))  # the inverse of softplus; -inf at 0
        yield
    finally:
        for raw, values in zip(learned, before, strict=True):
            raw.data = values


def removed_curve(segmenter: Segmenter, cases: Cases, check: Check) -> list[dict[str, Any]]:
    """Dice and removed fraction with all learned thresholds multiplied by each of `SCALES`; empty without any."""
    model, points = segmenter.model, []
    if not isinstance(model, UNet) or model.config.gate.kind != "prosma":
        return []
    for scale in SCALES:
        with thresholds_times(model, scale), counting(model.skip_gates) as levels:
            found = summary(judge(segmenter, cases, check))
        removed = [round(level.removed, 6) for level in levels]
        points.append({"scale": scale, "removed": removed, "dice": found.get("dice"), "iou": found.get("iou")})
    return points
