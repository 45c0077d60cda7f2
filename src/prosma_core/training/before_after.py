"""Whether fine-tuning was worth it: the start model and the result on the same held-out cases."""

from __future__ import annotations

from collections.abc import Generator

import torch

from prosma_core.config.model import ClassInfo
from prosma_core.events import Event, StageStarted
from prosma_core.io.notes import NO_INDEPENDENT_LABELS
from prosma_core.model.weights import model_from
from prosma_core.training.setup import Setup
from prosma_core.training.validate import validate


def common_classes(start: tuple[ClassInfo, ...], new: tuple[ClassInfo, ...]) -> dict[int, int]:
    """Index in `new` of each foreground class of `start` that is there, too.

    Classes are the same where their names are (in any case), or where their values are and one has no name of its own.
    """
    names = {c.name.casefold(): i for i, c in enumerate(new) if i}
    found = {i: names[c.name.casefold()] for i, c in enumerate(start) if i and c.name.casefold() in names}
    values = {c.value: i for i, c in enumerate(new) if i and i not in found.values()}
    for i, c in enumerate(start):
        j = values.get(c.value)
        if i and i not in found and j is not None and (_unnamed(c) or _unnamed(new[j])):
            found[i] = j
    return found


def _unnamed(info: ClassInfo) -> bool:
    return info.name == f"class {info.value}"


def validate_start(setup: Setup, device: torch.device) -> Generator[Event, None, dict[str, float] | None]:
    """Dice of the start model per class that both models have, on the run's validation cases.

    None without any, and where the labels of a validation case are a model's result: a model is not judged by these.
    """
    if setup.start is None:
        return None
    if setup.split.derived:
        yield StageStarted(f"{NO_INDEPENDENT_LABELS}: before and after are not compared.")
        return None
    header, weights = setup.start
    if header.model.in_channels != setup.header.model.in_channels:
        yield StageStarted("The start model takes other channels, so that before and after cannot be compared.")
        return None
    common = common_classes(header.classes, setup.header.classes)
    if not common:
        yield StageStarted("The start model has none of these classes, so that before and after cannot be compared.")
        return None
    yield StageStarted(f"Validating {header.name} before fine-tuning.")
    model = model_from(header.model, weights).to(device)
    meant = torch.zeros(len(header.classes), dtype=torch.int64)
    for i, j in common.items():
        meant[i] = j
    pre, classes = setup.header.preprocess, setup.header.classes
    amp = setup.run.training.amp
    found = yield from validate(model, setup.val, pre.tile, classes, device, amp=amp, meant=meant)
    names = [classes[j].name for j in sorted(common.values()) if classes[j].name in found.dice]
    if not names:
        yield StageStarted("No validation case holds a class of the start model: before and after are not compared.")
        return None
    return {name: found.dice[name] for name in names}
