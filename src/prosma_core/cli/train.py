"""`prosma train`: trains or fine-tunes a model."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prosma_core.cli.options import (
    ERROR_EXIT,
    AnnotatedSlices,
    Background,
    Device,
    GrayLabels,
    Ignore,
    LabelsOnImage,
    OneClass,
    Pairs,
    Separate,
    Spacing,
    Sparse,
    Stopped,
    Unit,
    label_meaning,
    log_to_stderr,
    say,
    split_pairs,
    voxel_size,
)
from prosma_core.cli.progress import Lines
from prosma_core.config.model import ModelHeader
from prosma_core.config.training import MOST_EPOCHS
from prosma_core.errors import ConfigError, ProsmaError
from prosma_core.events import CheckpointSaved, EpochDone, Event, StageStarted, StepDone, Working, drain
from prosma_core.io.remote import local_path
from prosma_core.printable import format_duration, visible

if TYPE_CHECKING:
    from prosma_core.runs.run_folder import RunFolder
    from prosma_core.training.processes import Processes


def train(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            parser=local_path,
            metavar="PATH",
            help="Folder with images/ and labels/, or an nnU-Net raw data set.",
        ),
    ] = None,
    pair: Pairs = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", parser=local_path, metavar="PATH", help="Model file to write, MODEL.safetensors."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            parser=local_path,
            metavar="PATH",
            help="YAML with any of the settings; a run folder's run.yaml repeats it.",
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="quick, balanced (default) or best; with --init fine-tune (default).")
    ] = None,
    gate: Annotated[
        str | None, typer.Option("--gate", help="prosma (default), none (plain U-Net) or attention.")
    ] = None,
    init: Annotated[str | None, typer.Option("--init", help="Model to start from (fine-tuning).")] = None,
    sparse: Sparse = False,
    annotated_slices: AnnotatedSlices = False,
    ignore: Ignore = None,
    background: Background = None,
    one_class: OneClass = False,
    separate: Separate = False,
    gray_labels: GrayLabels = None,
    labels_on_image: LabelsOnImage = False,
    spacing: Spacing = None,
    unit: Unit = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue where the run beside --out stopped.")] = False,
    device: Device = "auto",
    epochs: Annotated[int | None, typer.Option("--epochs", help="Epochs to train.", min=1)] = None,
    more_epochs: Annotated[
        int | None, typer.Option("--more-epochs", help="With --resume: train for so many epochs more.", min=1)
    ] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Stop after this time.", min=0.01)] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of weights, patches and augmentation.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing model and its run.")] = False,
) -> None:
    """Train a model on a folder of annotated scans, or fine-tune one.

    Exit code 0: the model is written; 2: the command cannot be used as given, or the training ended with an error;
    130, 143 or 129: stopped by Ctrl+C, SIGTERM or SIGHUP.
    """
    from prosma_core.training.processes import EndedElsewhereError, StopAsked, joined

    given: dict[str, Any] = {"data": data, "out": out, "preset": preset, "init": init}
    given = {k: v for k, v in given.items() if v is not None}
    given |= {"device": device} if device != "auto" else {}
    training = {k: v for k, v in {"epochs": epochs, "minutes": minutes, "seed": seed}.items() if v is not None}
    given |= {"training": training} if training else {}
    given |= {"gate": {"kind": gate}} if gate else {}
    given |= {"pairs": split_pairs(pair)} if pair else {}
    size = voxel_size(spacing, unit)
    given |= {"voxel_size": size.model_dump(mode="json")} if size else {}
    labels = label_meaning(
        sparse=sparse,
        annotated_slices=annotated_slices,
        ignore=ignore,
        background=background,
        one_class=one_class,
        separate=separate,
        gray=gray_labels,
        on_image=labels_on_image,
    )
    given |= {"labels": labels} if labels else {}
    if more_epochs is not None and (not resume or epochs is not None or minutes is not None):
        msg = "--more-epochs continues a run: give it with --resume, and without --epochs and --minutes."
        raise ConfigError(msg)
    try:
        with joined() as group:
            _train(given, config, group, resume=resume, more_epochs=more_epochs, overwrite=overwrite)
    except EndedElsewhereError:
        raise typer.Exit(ERROR_EXIT) from None
    except StopAsked as stop:
        raise Stopped(stop.number) from None


def _train(
    given: dict[str, Any],
    config: Path | None,
    group: Processes,
    *,
    resume: bool,
    more_epochs: int | None,
    overwrite: bool,
) -> None:
    """Train, and print what comes of it; of several processes, the first one prints."""
    from prosma_core.config.training import load_run_yaml, merge
    from prosma_core.runs.run_folder import RunFolder, run_to_train
    from prosma_core.runs.run_state import format_before_after
    from prosma_core.training.loop import train as run_training

    given = merge(load_run_yaml(config) if config else {}, given)
    source = str(config or "The command line")
    run = run_to_train(given, source, resume=resume, more_epochs=more_epochs, overwrite=overwrite)
    if not group.first:
        logging.getLogger().addHandler(logging.NullHandler())  # the first logs
        drain(run_training(run, resume=resume, group=group), lambda _: group.check_stop())
        return
    log_to_stderr()
    progress = _Progress()

    def show(event: Event) -> None:
        progress.show(event)
        group.check_stop()

    try:
        with progress.bar:
            result = drain(run_training(run, resume=resume, group=group), show)
    except (KeyboardInterrupt, Stopped):
        say(how_to_continue(RunFolder.beside(run.out), run.out), err=True)
        raise
    say(f"Mean {measured(result.header)} Dice {_dice(result.validation.mean)}")
    for info in result.header.classes[1:]:
        say(f"  {info.name}: {_dice(result.validation.dice.get(info.name))}")
    if result.held_out:
        say(result.held_out)
    if result.before is not None:
        say(f"Before and after: {format_before_after(result.before, result.validation.dice, result.held_out)}")
    say(f"Model: {result.path}", f"Run folder: {RunFolder.beside(run.out).root}")


def how_to_continue(folder: RunFolder, out: Path) -> str:
    """What a training that was stopped has saved, and how to continue it."""
    try:
        done = folder.epochs_done()
    except ProsmaError:
        done = 0
    if not done:
        return "No epoch was finished, so that nothing is kept. Run the command again to start anew."
    model = f" Its model is {folder.last}." if folder.last.is_file() else ""
    return visible(f"Epoch {done} is kept.{model} To continue: prosma train --resume --out {shlex.quote(str(out))}")


class _Progress:
    """A bar per epoch, and one line for each that is finished."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self.lines = Lines()
        self.console = self.lines.console
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("Preparing", total=None, note="")
        self.epoch = self.left = ""

    def show(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Working):
            self.bar.update(self.task, note=visible(event.message))
            words = event.message
            if self.epoch and "epoch" not in words:
                words = f"{self.epoch}, {words[:1].lower()}{words[1:]}"
            self.lines.now(f"{words}{self.left}")
        elif isinstance(event, StageStarted):
            self.lines.say(event.message)
        elif isinstance(event, StepDone):
            self.left = _left(event) or self.left
            self.epoch = f"epoch {event.epoch}{_of(event)}"
            note = f"loss {event.loss:.3f}{self.left}"
            self.bar.update(
                self.task, description=self.epoch.capitalize(), total=event.steps, completed=event.step, note=note
            )
            self.lines.now(f"{self.epoch}, step {event.step} of {event.steps}, {note}", "steps")
        elif isinstance(event, EpochDone):
            self.left = _left(event)
            self.lines.say(epoch_line(event))
        elif isinstance(event, CheckpointSaved):
            self.bar.update(self.task, note=f"saved{self.left}")


def _of(event: StepDone | EpochDone) -> str:
    """How many epochs there are, where that is known."""
    return f"/{event.epochs}" if event.epochs is not None and event.epochs < MOST_EPOCHS else ""


def _left(event: StepDone | EpochDone) -> str:
    """Time left, empty where it is not known and at the end."""
    return f", {format_duration(event.seconds_left)} left" if event.seconds_left else ""


def measured(header: ModelHeader) -> str:
    """Kind of the final Dice: "validation", or "training" where nothing is held out."""
    return "training" if header.training.get("validation") == "none held out" else "validation"


def _dice(value: float | None) -> str:
    """A Dice, or a dash for a class that no validation case holds."""
    return "–" if value is None else f"{value:.4f}"


def epoch_line(event: EpochDone) -> str:
    """One epoch in a line: loss, Dice per class, and what each gate removes."""
    parts = [f"epoch {event.epoch}{_of(event)}", f"loss {event.loss:.4f}"]
    if event.dice is not None and event.mean_dice is not None:
        classes = ", ".join(f"{name} {dice:.3f}" for name, dice in event.dice.items()) if len(event.dice) > 1 else ""
        parts.append(f"Dice {event.mean_dice:.4f}{f' ({classes})' if classes else ''}{' best' if event.best else ''}")
    if any(level.threshold is not None for level in event.levels):
        parts.append("removed " + " ".join(f"{100 * level.removed:.0f}%" for level in event.levels))
        parts.append("threshold " + " ".join(f"{level.threshold:.2f}" for level in event.levels if level.threshold))
    if event.seconds_left is not None:
        parts.append(f"{format_duration(event.seconds_left)} left")
    return "  ".join(parts)
