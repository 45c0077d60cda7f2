"""The folder beside a model with all of its training run: names, settings, splits, resume."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prosma_core.config.documents import load_json
from prosma_core.config.training import RunConfig, load_run_yaml, resolve_run
from prosma_core.errors import ConfigError, OutputError, ProsmaError, TrainingError
from prosma_core.events import EpochDone
from prosma_core.io.atomic import check_length, make_folder, remove, sweep, write_atomic, write_bytes_atomic
from prosma_core.io.bundle import find_model
from prosma_core.io.dataset_folder import input_files, open_cases
from prosma_core.io.names import command_line
from prosma_core.io.output_plan import OutputPlan, check_replace

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
        before = int(folder.progress().get("budget_epoch", 0))
        values["training"] |= {"epochs": folder.epochs_done() - before + more_epochs, "minutes": None, "patience": None}
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


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run, ``MODEL.prosma`` for the model ``MODEL.safetensors``."""

    root: Path

    @classmethod
    def beside(cls, model: Path) -> RunFolder:
        """Run folder of the model file to be written."""
        return cls(model.with_suffix(".prosma"))

    @property
    def model(self) -> Path:
        """The model file."""
        return self.root.with_suffix(".safetensors")

    @property
    def run_yaml(self) -> Path:
        """Every setting, as resolved."""
        return self.root / "run.yaml"

    @property
    def state(self) -> Path:
        """What a resume needs: weights, moments, epoch."""
        return self.root / "state.safetensors"

    @property
    def previous_state(self) -> Path:
        """The state before that one, in case it is damaged."""
        return self.root / "state-previous.safetensors"

    def states(self) -> list[Path]:
        """The states that are there, the newest first."""
        return [path for path in (self.state, self.previous_state) if path.is_file()]

    @property
    def best(self) -> Path:
        """Model of the best validation so far."""
        return self.root / "best.safetensors"

    @property
    def last(self) -> Path:
        """Model of the last validation."""
        return self.root / "last.safetensors"

    @property
    def interim(self) -> Path:
        """Model of a step in the middle of an epoch, for a preview."""
        return self.root / "interim.safetensors"

    @property
    def start(self) -> Path:
        """Model that fine-tuning started from, of which it keeps a part."""
        return self.root / "start.safetensors"

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

    def picture(self, epoch: int) -> Path:
        """What the model of an epoch makes of a slice that is held out."""
        return self.root / "preview" / f"epoch-{epoch:04d}.png"

    def sweep(self) -> None:
        """Remove the parts of killed processes from the run folder and the folders in it; never fails."""
        for root, folders, _ in os.walk(self.root):
            folders[:] = [name for name in folders if not name.endswith(".zarr")]  # which are written whole
            sweep(Path(root))

    def clear(self) -> None:
        """Remove what an earlier run has reached; raises `OutputError` where it cannot be removed."""
        pictures = self.picture(0).parent.glob("epoch-*.png")
        models = [self.best, self.last, self.interim, self.start]
        reached = [self.state, self.previous_state, *models, self.before_after, self.history]
        remove([*reached, *pictures])

    def write_settings(self, run: RunConfig, splits: dict[str, Any]) -> None:
        """Write run.yaml, splits.json and command.txt, each in one step; parts of killed trainings are removed."""
        make_folder(self.root)
        sweep(self.root.parent)
        self.sweep()
        values = run.model_dump(mode="json")
        write_bytes_atomic(self.run_yaml, yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())
        write_bytes_atomic(self.splits, json.dumps(splits, indent=1).encode())
        command = ["prosma", "train", "--config", str(self.run_yaml), "--overwrite"]
        write_bytes_atomic(self.root / "command.txt", f"{command_line(command)}\n".encode())

    def write_state(self, content: bytes) -> None:
        """Write a new state; the present one becomes the previous one as soon as the new one is read back unchanged.

        Raises
        ------
        OutputError
            It cannot be written, or does not come back from the disk as it was. What was there is there still.
        """

        def write(temporary: Path) -> None:
            temporary.write_bytes(content)
            if temporary.read_bytes() != content:
                raise OSError(errno.EIO, "what was written does not read back the same")
            if self.state.is_file():
                write_atomic(self.previous_state, lambda path: _link_or_copy(self.state, path))

        write_atomic(self.state, write)

    def restore_state(self, path: Path) -> None:
        """Put an earlier state in the place of the newest, which is damaged; raises `OutputError` where it cannot."""
        write_atomic(self.state, lambda temporary: _link_or_copy(path, temporary))

    def read_splits(self) -> dict[str, Any]:
        """Content of splits.json: cases trained and validated on, and what else `Split` holds.

        Raises
        ------
        TrainingError
            There is no run to resume, or its splits cannot be read.
        """
        if not self.states() or not self.splits.is_file():
            msg = (
                f"There is no training to resume: {self.root} holds no state. Start a new training (without --resume)."
            )
            raise TrainingError(msg)
        try:
            values = load_json(self.splits.read_bytes())
            names = {key: [str(name) for name in values[key]] for key in ("train", "val")}
            return {**values, **names}
        except (OSError, ValueError, KeyError, TypeError) as error:
            msg = f"{self.splits} cannot be read ({error}). Start a new training (without --resume)."
            raise TrainingError(msg) from error

    def write_before_after(
        self, before: dict[str, float], after: dict[str, float] | None = None, words: str = ""
    ) -> None:
        """Write before_after.json; without `after` while training goes on."""
        values = {"before": before, "after": after, "words": words}
        write_bytes_atomic(self.before_after, json.dumps(values, indent=1, ensure_ascii=False).encode())

    def remove_before(self) -> None:
        """Remove before_after.json, where nothing is compared any more; raises `OutputError` where that fails."""
        remove([self.before_after])

    def read_before(self) -> dict[str, float] | None:
        """Dice of the start model; None where there is none, of no class either.

        Raises
        ------
        TrainingError
            The file is damaged.
        """
        if not self.before_after.is_file():
            return None
        try:
            values = load_json(self.before_after.read_bytes())["before"]
            return {str(name): float(dice) for name, dice in values.items()} or None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            msg = f"{self.before_after} cannot be read ({error!r}). Remove it to continue without a comparison."
            raise TrainingError(msg) from error

    def epochs_done(self) -> int:
        """Epochs that the state has finished; errors as in `read_splits` and `progress`."""
        self.read_splits()
        return int(self.progress()["epoch"])

    def progress(self) -> dict[str, Any]:
        """Where the newest readable state is: fields of `prosma_core.training.checkpoint.Progress`.

        Raises
        ------
        TrainingError
            There is no state, or each is damaged.
        """
        problem: TrainingError | None = None
        for path in self.states() or [self.state]:
            try:
                return _progress(path)
            except TrainingError as error:
                problem = problem or error
        assert problem is not None
        raise problem

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


def _link_or_copy(file: Path, to: Path) -> None:
    """Give a file a second name; where the file system has no links, a copy."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)


def _progress(state: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(state, framework="numpy") as file:
            values: dict[str, Any] = load_json((file.metadata() or {})["progress"])
        {name: float(values[name]) for name in ("epoch", "elapsed", "best_dice", "best_epoch")}
        return values
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        msg = f"The training state {state} is damaged ({error}). Start a new training (without --resume)."
        raise TrainingError(msg) from error


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
    check_model_name(model)
    existing = next((p for p in (model, folder.state, folder.previous_state) if p.exists()), None)
    if existing and not overwrite:
        msg = f"{existing} exists already: use --resume to continue, --overwrite to start again, or another --out."
        raise OutputError(msg)


def check_model_name(model: Path) -> None:
    """Raise `OutputError` unless a model file can have this name."""
    check_length(model)
    if model.suffix != ".safetensors":
        msg = f"--out {model} must be a file name that ends in .safetensors."
        raise OutputError(msg)
    if model.is_dir():
        msg = f"--out {model} is a folder; name the model file to write."
        raise OutputError(msg)


def run_to_train(
    given: dict[str, Any], what: str, *, resume: bool = False, more_epochs: int | None = None, overwrite: bool = False
) -> RunConfig:
    """The run that values describe, checked against what is on the disk.

    Parameters
    ----------
    given : dict
        Nested values as in `RunConfig`.
    what : str
        Where they come from, for error texts.
    resume : bool
        Whether a run goes on; its own settings are underneath.
    more_epochs : int, optional
        As of `resumed_settings`.
    overwrite : bool
        Whether an existing model and its run may be replaced.

    Raises
    ------
    ConfigError
        A value is unknown or out of bounds, no model file is named, or no data.
    OutputError, DatasetError, TrainingError
        As in `check_new_run`, `check_run_targets` and `resumed_settings`.
    """
    target = given.get("out")
    if not isinstance(target, str | Path) or not str(target):
        msg = "No --out was given; name the model file to write, such as --out liver.safetensors."
        raise ConfigError(msg)
    folder = RunFolder.beside(Path(target))
    if resume:
        given = resumed_settings(folder, given, more_epochs)
    if given.get("data") is None and not given.get("pairs"):
        msg = "No --data was given; name the folder with images/ and labels/, or give --pair IMAGE LABELS."
        raise ConfigError(msg)
    run = resolve_run(given, what)
    check_run_targets(run, resume=resume)
    if not resume:
        check_new_run(run.out, folder, overwrite=overwrite)
    return run


def check_run_targets(run: RunConfig, *, resume: bool = False) -> None:
    """Check that a training replaces nothing that it reads, and nothing but models and run folders.

    Parameters
    ----------
    run : RunConfig
    resume : bool
        Whether the run goes on, and does not read its start model any more.

    Raises
    ------
    OutputError
        The model or a file of the run folder is, holds or lies in a scan, a label map, a document of the data folder
        or the start model; something is in its place that is not a model, or not a run folder; or the name is none of
        a model.
    ConfigError, DatasetError
        As in `open_cases`.
    """
    check_model_name(run.out)
    sources = input_files(open_cases(run.data, run.pairs))
    if run.init and not resume:
        with contextlib.suppress(ProsmaError):  # said where it is read
            sources.append(find_model(run.init))
    plan, folder = OutputPlan(sources), RunFolder.beside(run.out)
    models = [folder.best, folder.last, folder.interim, folder.start]
    states = sorted(folder.root.glob("state*"))
    reached = [*models, folder.history, folder.before_after]
    settings = [folder.run_yaml, folder.splits, folder.root / "command.txt"]
    for target in (run.out, *settings, *reached, folder.picture(0).parent):
        plan.add(target)
    for state in states:
        plan.check(state)  # a training that is killed while it writes one can leave both names to one file
    if run.out.is_file():
        check_replace(run.out, overwrite=True)
    foreign = next((path for path in [*reached, *states] if path.exists()), None)
    if foreign is not None and not folder.run_yaml.is_file():
        msg = f"{folder.root} is not the folder of a training run, but holds {foreign.name}. Choose another --out."
        raise OutputError(msg)
