"""The training loop, as a generator: each yield is a progress report and a place to stop."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from prosma_core.config.model import ModelHeader
from prosma_core.config.training import MOST_EPOCHS, RunConfig
from prosma_core.errors import ConfigError, DeviceError
from prosma_core.events import CheckpointSaved, Event, StageStarted
from prosma_core.inference.device import memory_ended, prepare_device
from prosma_core.io.atomic import make_folder
from prosma_core.io.bundle import load_bundle
from prosma_core.model.weights import transfer
from prosma_core.printable import counted, format_duration
from prosma_core.runs.run_folder import RunFolder, check_run_targets
from prosma_core.runs.run_state import format_before_after, run_lock
from prosma_core.training.fine_tuning import keep_start
from prosma_core.training.live import LiveInput, wait_for_labels
from prosma_core.training.optimization import MovingAverage
from prosma_core.training.prepare import prepare_run
from prosma_core.training.processes import ALONE, Processes
from prosma_core.training.split import Split
from prosma_core.training.trainer import Trainer
from prosma_core.training.validate import Validation, in_words, validate_start

LOW_DICE = 0.5
"""A model whose training was ended by its minutes is hardly trained where its mean Dice is below this."""


@dataclass(frozen=True)
class TrainingResult:
    """The finished model: its file, header, and validation on all validation cases.

    Attributes
    ----------
    path : Path
    header : ModelHeader
    validation : Validation
    before : dict of str to float, or None
        Of fine-tuning: Dice of the start model on the same cases, of the classes that both have.
    held_out : str
        What the validation figures mean, in words; empty where whole cases were held out.
    """

    path: Path
    header: ModelHeader
    validation: Validation
    before: dict[str, float] | None = None
    held_out: str = ""


def train(
    run: RunConfig, *, resume: bool = False, live: LiveInput | None = None, group: Processes = ALONE
) -> Generator[Event, None, TrainingResult]:
    """Train a model and write it to ``run.out``; everything else goes to the run folder beside it.

    Parameters
    ----------
    run : RunConfig
    resume : bool
        Go on from the run folder's state, with its cases; on a CPU, and without a limit of minutes, the result is the
        same to the bit as if it had never stopped. `run` must be the folder's own (see `resumed_settings`).
    live : LiveInput, optional
        Labels that change meanwhile are learned at once, and kept in the run folder; the budget counts anew from then.
    group : Processes
        Those that train together, see `joined`; each does this. Only the first one's result has a validation.

    Raises
    ------
    ProsmaError
        The data, the settings or the device cannot be used, memory ended, the loss or what it led to is not finite,
        or another process trains into the run folder.
    """
    if live is not None and group.size > 1:
        msg = "Labels that change meanwhile are learned by one process only. Start it without torchrun."
        raise ConfigError(msg)
    check_run_targets(run, resume=resume)
    folder = RunFolder.beside(run.out)
    if resume:
        folder.read_splits()  # without a run there is nothing to lock
    group.choose_gpu()
    with run_lock(folder) if group.first else nullcontext():
        with group.first_before_others():  # a CPU that is not known yet is probed once
            choice = yield from prepare_device(run.device)
        group.use(choice.device)
        split = Split.from_json(folder.read_splits()) if resume else None
        together = f", with {group.size} processes that divide each batch" if group.size > 1 else ""
        yield StageStarted(f"Training on {choice.reason}{together}.")
        with training_memory(choice.device):
            setup = yield from prepare_run(run, choice.device, split, group)
            if live is not None and any(case.stored is not None for case in (*setup.train, *setup.val)):
                yield StageStarted("Labels painted during training are not learned: scans are read by parts.")
                live = None
            setup, kept = yield from keep_start(setup, choice.device, resume=resume, group=group)
            group.check_same(f"{choice.device} {setup.run.model_dump_json()} {setup.split.as_json()}")
            trainer = Trainer(setup, choice.device, kept, live, group)
            if resume:
                with group.first_before_others():  # it may have to put a damaged state right
                    words = trainer.resume()
                yield StageStarted(words)
            if group.first:
                yield from _begin(trainer, resume)
            return (yield from _run(trainer))


@contextmanager
def training_memory(device: torch.device) -> Iterator[None]:
    """Turn what is raised within, when memory ends, into a `DeviceError` that says what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not memory_ended(error):
            raise
        graph = ", or switch CUDA graphs off" if device.type == "cuda" else ""
        msg = (
            f"Memory of {device.type} ran out. Choose a smaller batch size or patch size{graph}, or close other "
            "programs; a run that has finished an epoch can be resumed where that is enough."
        )
        raise DeviceError(msg) from error


def _begin(trainer: Trainer, resume: bool) -> Generator[Event, None, None]:
    """Write what a run folder holds from the start on, and validate the start model of fine-tuning."""
    if resume:
        trainer.before = trainer.folder.read_before()
        if trainer.before is not None and trainer.setup.split.kind == "none held out":  # not any more
            trainer.before = None
            trainer.folder.remove_before()
    else:
        trainer.folder.clear()
        trainer.before = yield from validate_start(trainer.setup, trainer.device)
    trainer.folder.write_settings(trainer.setup.run, trainer.setup.split.as_json())
    if trainer.before is not None:
        trainer.folder.write_before_after(trainer.before)
    if trainer.kept is not None and not resume:
        trainer.kept.write(trainer.folder)


def _run(trainer: Trainer) -> Generator[Event, None, TrainingResult]:
    if trainer.setup.start is not None:
        yield StageStarted(transfer(trainer.model, trainer.setup.start[1]))
        trainer.average = MovingAverage(trainer.model, trainer.config.ema_decay)
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        while True:
            if not trainer.finished:
                yield from trainer.epoch()
            elif (yield from wait_for_labels(trainer.live)):
                yield from trainer.learn_new_labels()
            else:
                break
        if trainer.group.first:
            result = yield from _finish(trainer)
        else:
            result = TrainingResult(trainer.folder.model, trainer.setup.header, Validation({}, None, (), 0))
        trainer.group.agreed()  # the others wait until the model is written
        return result


def _finish(trainer: Trainer) -> Generator[Event, None, TrainingResult]:
    """Validate the chosen weights on every validation case and write the model."""
    split = trainer.setup.split
    held_out, cases = split.words(), counted(len(trainer.val), "validation case")
    apart = split.kind != "none held out"
    yield StageStarted(f"Validating on {cases}." if apart else "Measuring the Dice on the training slices.")
    folder, weights, out = trainer.folder, trainer.weights(), trainer.setup.run.out
    if trainer.config.keep == "best" and folder.best.is_file():
        weights = {k: torch.from_numpy(v) for k, v in load_bundle(folder.best)[1].items()}
    work = trainer.validate(weights, trainer.val)
    validation = yield from in_words(work, "Validating the model", len(trainer.val), timed=True)
    if words := _ended_by_time(trainer, validation.mean):
        yield StageStarted(words)
    make_folder(out.parent)
    header = trainer.save_model(out, validation)
    yield CheckpointSaved(str(out))
    if trainer.before is not None:
        words = format_before_after(trainer.before, validation.dice, held_out)
        folder.write_before_after(trainer.before, validation.dice, words)
    return TrainingResult(out, header, validation, trainer.before, held_out)


def _ended_by_time(trainer: Trainer, dice: float | None) -> str:
    """What to know of a run that its minutes ended before its epochs; empty for any other.

    Parameters
    ----------
    trainer : Trainer
    dice : float or None
        Mean Dice of the model, 0..1.
    """
    p, config = trainer.progress, trainer.config
    spent = p.elapsed - p.budget_seconds
    if config.minutes is None or spent < 60 * config.minutes or p.epoch >= trainer.epochs:
        return ""
    part = trainer.steps_done is not None and trainer.steps_done < config.steps
    of = f" of {trainer.epochs}" if config.epochs < MOST_EPOCHS else ""
    where = "in the middle of" if part else "after"
    why = ["less than one epoch was trained"] if part and p.epoch == 1 and trainer.setup.start is None else []
    why += [f"its mean Dice is {dice:.3f}"] if dice is not None and dice < LOW_DICE else []
    hardly = f" The model is hardly trained: {', and '.join(why)}." if why else ""
    return (
        f"The time budget of {format_duration(60 * config.minutes)} was used up {where} epoch {p.epoch}{of}.{hardly} "
        "To continue: Train more, under Earlier runs, or prosma train --resume with --more-epochs or more --minutes."
    )
