"""The classes a training starts with, from the labels and the model to start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from napari_prosma._shared.session import ModelEntry
from napari_prosma.train.pairs import PairRow
from napari_prosma.train.sources import unnamed
from prosma_core.config.model import ClassInfo
from prosma_core.training.classes import COLORS


def classes_of(rows: Sequence[PairRow], start: ModelEntry | None) -> tuple[ClassInfo, ...]:
    """Classes of a training set: background, every value that occurs, and those the start model and the labels share.

    Names are those the labels come with, else the start model's, else ``class N``; colors likewise. A mask of 0 and
    255 is one class of value 1. Classes of the start model that do not occur stay where the labels name them, too, as
    those of a corrected result do. Labels that hold no classes, such as numbered objects, give none.
    """
    rows = [row for row in rows if not {"one_class", "threshold"} & set(row.fixes)]
    values = {value for row in rows for value in row.values}
    known = {info.value: info for row in reversed(rows) for info in row.classes}
    named = known | {v: c for row in reversed(rows) for c in row.classes if not unnamed(c) for v in (c.value,)}
    started = {info.value: info for info in start.header.classes} if start else {}
    if values <= {1, 255} and unnamed(named.get(255)) and not any({1, 255} <= row.values.keys() for row in rows):
        values = {1} if values else set()
    values |= {v for v, c in started.items() if v in named and named[v].name.casefold() == c.name.casefold()}
    values -= {0}
    result = [_background(named.get(0), started.get(0))] if values else []
    for i, value in enumerate(sorted(values), start=1):
        own, theirs = named.get(value), started.get(value)
        name = theirs.name if theirs and unnamed(own) else own.name if own else f"class {value}"
        drawn = known.get(value)
        color = next(
            (c.color for c in (drawn, theirs) if c and c.color != COLORS[0]), COLORS[1 + (i - 1) % (len(COLORS) - 1)]
        )
        result.append(ClassInfo(value=value, name=name, color=color))
    return tuple(result)


def edited(classes: Sequence[ClassInfo], edits: Mapping[int, tuple[str, str]]) -> tuple[ClassInfo, ...]:
    """Classes with the names and colors, by value, that a person gave them."""
    return tuple(
        info.replace(name=edits[info.value][0], color=edits[info.value][1]) if info.value in edits else info
        for info in classes
    )


def _background(*infos: ClassInfo | None) -> ClassInfo:
    name = next((info.name for info in infos if info is not None and not unnamed(info)), "background")
    return ClassInfo(value=0, name=name, color=COLORS[0])
