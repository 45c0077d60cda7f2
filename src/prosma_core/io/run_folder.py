"""The folder beside a model that holds everything of its training run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prosma_core.config.run import RunConfig, load_run_yaml
from prosma_core.errors import ConfigError, OutputError, TrainingError
from prosma_core.events import EpochDone
from prosma_core.io.atomic import write_bytes_atomic


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run, ``MODEL.prosma`` for the model ``MODEL.safetensors``."""

    root: Path

    @classmethod
    def beside(cls, model: Path) -> RunFolder:
        """Run folder of the model file to be written."""
        return cls(model.with_suffix(".prosma"))

    @property
    def run_yaml(self) -> Path:
        """Every setting, as resolved."""
        return self.root / "run.yaml"

    @property
    def state(self) -> Path:
        """What a resume needs: weights, moments, epoch."""
        return self.root / "state.safetensors"

    @property
    def best(self) -> Path:
        """Model of the best validation so far."""
        return self.root / "best.safetensors"

    @property
    def last(self) -> Path:
        """Model of the last validation."""
        return self.root / "last.safetensors"

    @property
    def splits(self) -> Path:
        """Cases trained and validated on."""
        return self.root / "splits.json"

    @property
    def history(self) -> Path:
        """Loss, Dice and gates per epoch, as CSV."""
        return self.root / "history.csv"

    @property
    def before_after(self) -> Path:
        """Dice of the start model and of the result on the same cases, where a model was fine-tuned."""
        return self.root / "before_after.json"

    def clear(self) -> None:
        """Remove the state and the models of an earlier run."""
        for path in (self.state, self.best, self.last, self.before_after):
            path.unlink(missing_ok=True)

    def write_settings(self, run: RunConfig, splits: dict[str, Any]) -> None:
        """Write run.yaml, splits.json and command.txt, each in one step."""
        self.root.mkdir(parents=True, exist_ok=True)
        values = run.model_dump(mode="json")
        write_bytes_atomic(self.run_yaml, yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())
        write_bytes_atomic(self.splits, json.dumps(splits, indent=1).encode())
        write_bytes_atomic(self.root / "command.txt", f'prosma train --config "{self.run_yaml}" --overwrite\n'.encode())

    def read_splits(self) -> dict[str, Any]:
        """Content of splits.json: cases trained and validated on, and what else `Split` holds.

        Raises
        ------
        TrainingError
            There is no run to resume, or its splits cannot be read.
        """
        if not self.state.is_file() or not self.splits.is_file():
            msg = f"There is no training to resume: {self.root} holds no state. Start without --resume."
            raise TrainingError(msg)
        try:
            values = json.loads(self.splits.read_text(encoding="utf-8"))
            names = {key: [str(name) for name in values[key]] for key in ("train", "val")}
            return {**values, **names}
        except (OSError, ValueError, KeyError, TypeError) as error:
            msg = f"{self.splits} cannot be read ({error}). Start again without --resume."
            raise TrainingError(msg) from error

    def write_before_after(
        self, before: dict[str, float], after: dict[str, float] | None = None, words: str = ""
    ) -> None:
        """Write before_after.json; without `after` while training goes on."""
        values = {"before": before, "after": after, "words": words}
        write_bytes_atomic(self.before_after, json.dumps(values, indent=1, ensure_ascii=False).encode())

    def read_before(self) -> dict[str, float] | None:
        """Dice of the start model; None where there is none.

        Raises
        ------
        TrainingError
            The file is damaged.
        """
        if not self.before_after.is_file():
            return None
        try:
            values = json.loads(self.before_after.read_text(encoding="utf-8"))["before"]
            return {str(name): float(dice) for name, dice in values.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            msg = f"{self.before_after} cannot be read ({error!r}). Remove it to go on without a comparison."
            raise TrainingError(msg) from error

    def epochs_done(self) -> int:
        """Epochs that the state has finished.

        Raises
        ------
        TrainingError
            There is no state, or it is damaged.
        """
        from safetensors import SafetensorError, safe_open

        self.read_splits()
        try:
            with safe_open(self.state, framework="numpy") as file:
                return int(json.loads((file.metadata() or {})["progress"])["epoch"])
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            msg = f"The training state {self.state} is damaged ({error}). Start again without --resume."
            raise TrainingError(msg) from error

    def write_history(self, epochs: list[dict[str, Any]]) -> None:
        """Write history.csv from rows of `history_row`."""
        columns: dict[str, None] = {}
        for row in epochs:
            columns.update(dict.fromkeys(row))
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(epochs)
        write_bytes_atomic(self.history, text.getvalue().encode())


def history_row(event: EpochDone) -> dict[str, Any]:
    """One line of history.csv."""
    row: dict[str, Any] = {
        "epoch": event.epoch,
        "loss": round(event.loss, 6),
        "learning_rate": event.learning_rate,
        "seconds": round(event.seconds, 2),
        "mean_dice": event.mean_dice,
    }
    row |= {f"dice {name}": value for name, value in (event.dice or {}).items()}
    for i, level in enumerate(event.levels):
        row |= {f"removed level {i}": level.removed, f"threshold level {i}": level.threshold}
    return row


CHANGEABLE = {
    ("data",),
    ("pairs",),
    ("out",),
    ("device",),
    ("init",),
    *(("training", name) for name in ("epochs", "minutes", "learning_rate", "patience", "keep")),
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


def check_new_run(model: Path, folder: RunFolder, *, overwrite: bool) -> None:
    """Check that a new run may be written.

    Raises
    ------
    OutputError
        The model or its run folder exists and `overwrite` is not set, or the name does not end in .safetensors.
    """
    if model.suffix != ".safetensors":
        msg = f"--out {model} must be a file name that ends in .safetensors."
        raise OutputError(msg)
    if model.is_dir():
        msg = f"--out {model} is a folder; name the model file to write."
        raise OutputError(msg)
    existing = next((p for p in (model, folder.state) if p.exists()), None)
    if existing and not overwrite:
        msg = f"{existing} exists already: use --resume to go on, --overwrite to start again, or another --out."
        raise OutputError(msg)
