"""Settings of a run that goes on: those of its folder, with the changes that a resume may make."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from prosma_core.config.run import load_run_yaml
from prosma_core.errors import ConfigError
from prosma_core.runs.run_folder import RunFolder

CHANGEABLE = {
    ("data",),
    ("pairs",),
    ("out",),
    ("device",),
    ("init",),
    *(("training", name) for name in ("epochs", "minutes", "learning_rate", "patience", "keep", "graph", "compile")),
    *(("training", name) for name in ("validation_cases", "validation_every")),
}
"""Settings a resumed run may change (`init` is not read again); any other would make it another run."""


def resumed_settings(folder: RunFolder, given: dict[str, Any], more_epochs: int | None = None) -> dict[str, Any]:
    """Settings of the run in a folder, with those changes that a resume may make.

    Parameters
    ----------
    folder : RunFolder
    given : dict
        Nested values from a YAML and the command line.
    more_epochs : int, optional
        Train for so many epochs beyond those that are finished, whatever limits of time or patience the run had.

    Raises
    ------
    TrainingError
        There is no run to resume.
    ConfigError
        A value differs that a resumed run cannot change; the text names it.
    """
    folder.read_splits()
    values = load_run_yaml(folder.run_yaml)
    for path, value in _leaves(given):
        stored = _lookup(values, path)
        if path in CHANGEABLE:
            (values if len(path) == 1 else values[path[0]])[path[-1]] = value
        elif stored != json.loads(json.dumps(value, default=str)):
            msg = (
                f"{'.'.join(path)} is {stored!r} in the run to resume, {value!r} was given; a resumed run cannot "
                "change it. Leave it out, or start a new run with another --out (and --init to start from this one)."
            )
            raise ConfigError(msg)
    if more_epochs is not None:
        values["training"] |= {"epochs": folder.epochs_done() + more_epochs, "minutes": None, "patience": None}
    return values


def _leaves(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, str(key)))
        else:
            yield (*path, str(key)), value


def _lookup(values: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        values = {str(k): v for k, v in values.items()}.get(key) if isinstance(values, dict) else None
    return values
