"""The JSON files beside annotated scans: splits.json, and nnU-Net's dataset.json."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from prosma_core.config.documents import load_json
from prosma_core.errors import DatasetError
from prosma_core.printable import counted

_MOST_DIGITS = 9  # of a class or channel number


def _read_json(path: Path) -> Any:
    try:
        return load_json(path.read_bytes())
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read as JSON: {error}. Correct or remove it."
        raise DatasetError(msg) from error


def find_splits(root: Path) -> Path:
    """The file of splits in a data folder: splits.json, or nnU-Net's splits_final.json where that is the only one."""
    final = root / "splits_final.json"
    return final if final.is_file() and not (root / "splits.json").is_file() else root / "splits.json"


def read_splits(path: Path, cases: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Case names by split, empty where there is no such file; of a list of folds (nnU-Net) those of the first.

    Raises
    ------
    DatasetError
        It is not a JSON object with a list ``"train"``, or a list holds what is not the name of one of `cases`.
    """
    if not path.is_file():
        return {}
    values = _read_json(path)
    if isinstance(values, list) and values:
        values = values[0]
    if not isinstance(values, dict) or not isinstance(values.get("train"), list):
        msg = f'{path} has no list of training cases; {{"train": [...], "val": [...]}} is needed.'
        raise DatasetError(msg)
    splits = {key: tuple(names) for key, names in values.items() if isinstance(names, list)}  # the rest are notes
    for key, names in splits.items():
        if not all(isinstance(name, str) for name in names):
            msg = f"{path}: {key!r} is not a list of case names in quotes. Correct it."
            raise DatasetError(msg)
    unknown = sorted({n for names in splits.values() for n in names} - set(cases))
    if unknown:
        lacking = counted(len(unknown), "case that is", "cases that are")
        msg = f"{path} names {lacking} not there, for example {unknown[0]!r}. Correct it."
        raise DatasetError(msg)
    return splits


def read_names(path: Path) -> tuple[dict[int, str], tuple[str, ...]]:
    """Class names by label value, and channel names, of nnU-Net's dataset.json (version 1 or 2); empty without one.

    Raises
    ------
    DatasetError
        It is no JSON object, a name has no number, or it has region-based classes or an ignore label.
    """
    if not path.is_file():
        return {}, ()
    values = _read_json(path)
    if not isinstance(values, dict):
        msg = f"{path} holds no JSON object with channel and label names. Correct or remove it."
        raise DatasetError(msg)
    classes = {}
    for key, value in _entries(values.get("labels"), path, "labels"):
        number, name = (key, value) if key.isdecimal() else (value, key)
        if isinstance(number, list) or name == "ignore":
            msg = f"{path}: region-based classes and ignore labels are not supported; give each voxel one class number."
            raise DatasetError(msg)
        if not str(number).isdecimal() or len(str(number)) > _MOST_DIGITS:
            msg = f"{path}: label {name!r:.60} has no class number but {number!r:.40}. Give a whole number from 0."
            raise DatasetError(msg)
        classes[int(number)] = str(name)
    channels = _entries(values.get("channel_names") or values.get("modality"), path, "channel_names")
    if not all(key.isdecimal() and len(key) <= _MOST_DIGITS for key, _ in channels):
        msg = f'{path}: channel_names needs the numbers of channels as keys, such as {{"0": "T1", "1": "T2"}}.'
        raise DatasetError(msg)
    return classes, tuple(str(name) for _, name in sorted(channels, key=lambda entry: int(entry[0])))


def _entries(values: Any, path: Path, what: str) -> list[tuple[str, Any]]:
    """Pairs of a JSON object or, numbered, of a list; none where there is nothing."""
    if isinstance(values, list):
        return [(str(i), value) for i, value in enumerate(values)]
    if not isinstance(values, dict | None):
        msg = f"{path}: {what} is neither an object nor a list. Correct or remove it."
        raise DatasetError(msg)
    return list((values or {}).items())
