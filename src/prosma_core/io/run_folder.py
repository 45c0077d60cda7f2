"""The folder beside a model that holds everything of its training run."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prosma_core.config.run import RunConfig
from prosma_core.errors import OutputError
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
    def splits(self) -> Path:
        """Cases trained and validated on."""
        return self.root / "splits.json"

    @property
    def history(self) -> Path:
        """Loss, Dice and gates per epoch, as CSV."""
        return self.root / "history.csv"

    def clear(self) -> None:
        """Remove the state and the best model of an earlier run."""
        for path in (self.state, self.best):
            path.unlink(missing_ok=True)

    def write_settings(self, run: RunConfig, splits: dict[str, list[str]]) -> None:
        """Write run.yaml, splits.json and command.txt, each in one step."""
        self.root.mkdir(parents=True, exist_ok=True)
        values = run.model_dump(mode="json")
        write_bytes_atomic(self.run_yaml, yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())
        write_bytes_atomic(self.splits, json.dumps(splits, indent=1).encode())
        write_bytes_atomic(self.root / "command.txt", f'prosma train --config "{self.run_yaml}"\n'.encode())

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
    existing = next((p for p in (model, folder.state) if p.exists()), None)
    if existing and not overwrite:
        msg = f"{existing} exists already: use --resume to go on, --overwrite to start again, or another --out."
        raise OutputError(msg)
