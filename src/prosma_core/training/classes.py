"""Classes of a training set, from what its labels hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from prosma_core.config.model import COLORS, ClassInfo
from prosma_core.config.training import LabelsConfig
from prosma_core.data.pair_check import MAX_CLASSES, many_values
from prosma_core.errors import DatasetError
from prosma_core.training.dataset_summary import Fingerprint

LISTED = 12
"""Classes that are named in a message; of more, how many there are."""


def find_classes(
    prints: Sequence[Fingerprint],
    names: dict[int, str],
    config: LabelsConfig | None = None,
    colors: Mapping[int, str] | None = None,
    validation: Collection[int] = (),
) -> tuple[ClassInfo, ...]:
    """Classes of a training set: the named ones where the background is named, too, else every label value that occurs.

    A mask of 0 and 255 is one class. Values that `config` gives another meaning are no classes; those that only
    validation cases hold (`validation`) are.

    Raises
    ------
    DatasetError
        No labeled voxel at all, or far too many values for classes.
    """
    config, colors = config or LabelsConfig(), colors or {}
    other = {config.ignore, config.background} - {None, 0}
    names = {value: name for value, name in names.items() if value not in other}
    trained = {v for p in prints for v in p.label_values} - {0}
    found = sorted(trained | set(validation) | {0})
    if set(found) <= {0, 1, 255} and 255 not in names and not any({1, 255} <= set(p.label_values) for p in prints):
        found = [0, 1] if len(found) > 1 else [0]
    values = sorted(names) if 0 in names else sorted(set(found) | set(names))
    if not trained or len(values) < 2:
        msg = "No training case has a labeled voxel; at least one foreground class is needed. Paint some, and save."
        raise DatasetError(msg)
    if len(values) > MAX_CLASSES:
        raise DatasetError(many_values(len(values)))
    default = {0: "background"}
    return tuple(
        ClassInfo.parse(
            {
                "value": v,
                "name": names.get(v) or default.get(v, f"class {v}"),
                "color": colors.get(v, COLORS[i % len(COLORS)]),
            },
            f"Class {v}",
        )
        for i, v in enumerate(values)
    )


def format_classes(
    classes: Sequence[ClassInfo], train: Mapping[int, int], val: Mapping[int, int], unit: str, *, held_out: bool = True
) -> list[str]:
    """The classes of a training set, how many cases or slices hold each, and which are in none; a sentence each.

    Parameters
    ----------
    classes : sequence of ClassInfo
        The background first.
    train, val : mapping of int to int
        Cases or slices by the value of the class.
    unit : str
        "case" or "slice".
    held_out : bool
        Whether training and validation are on different cases or slices.
    """
    counted = _counted(classes, train, val)
    listed = [f"{c.name} ({c.value}) in {f'{t} and {v}' if held_out else t}" for c, t, v in counted[:LISTED]]
    more = f"; and {len(counted) - LISTED} more" if len(counted) > LISTED else ""
    return [
        f"Classes, in {'training and validation' if held_out else 'annotated'} {unit}s: {'; '.join(listed)}{more}.",
        *format_missing_classes(classes, train, val, unit),
    ]


def format_missing_classes(
    classes: Sequence[ClassInfo], train: Mapping[int, int], val: Mapping[int, int], unit: str
) -> list[str]:
    """Classes that no validation case or slice holds, and those that no training one does; a sentence each.

    Parameters are those of `format_classes`.
    """
    counted, said = _counted(classes, train, val), []
    if untold := [c.name for c, _, v in counted if not v]:
        said.append(f"No validation {unit} holds {_names(untold)}: no validation Dice (–), no part in the mean.")
    if unknown := [c.name for c, t, _ in counted if not t]:
        said.append(f"No training {unit} holds {_names(unknown)}: this cannot be learned here.")
    return said


def _counted(
    classes: Sequence[ClassInfo], train: Mapping[int, int], val: Mapping[int, int]
) -> list[tuple[ClassInfo, int, int]]:
    """Each class but the background, with its training and validation cases or slices."""
    if len(classes) == 2:  # perhaps a mask of 0 and 255
        return [(classes[1], sum(train.values()), sum(val.values()))]
    return [(c, train.get(c.value, 0), val.get(c.value, 0)) for c in classes[1:]]


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def check_background(classes: tuple[ClassInfo, ...], config: LabelsConfig, *, painted: bool) -> str:
    """Sentence on what follows where 0 means unlabeled and no background is painted; empty where all is well.

    Parameters
    ----------
    classes : tuple of ClassInfo
    config : LabelsConfig
    painted : bool
        Whether a training case has an annotated background voxel.

    Raises
    ------
    DatasetError
        There is only one class, so that nothing could be learned.
    """
    if config.zero != "unlabeled" or painted:
        return ""
    given = f"no voxel is painted {config.background}" if config.background else "no background value was given"
    names = ", ".join(c.name for c in classes[1:])
    if len(classes) == 2:
        msg = (
            f"Only {names} is painted, unlabeled voxels are ignored, and {given}. Paint some background with a value "
            "of its own and give it (--background N), or, where each annotated slice is painted completely, ignore the "
            "other slices (--annotated-slices)."
        )
        raise DatasetError(msg)
    return (
        f"Unlabeled voxels are ignored and {given}: the model will give every voxel one of the painted classes "
        f"({names}). "
        "Where one of them is the background, give its value (--background N)."
    )
