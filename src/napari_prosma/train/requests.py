"""Job specifications of the Train widget: new and resumed trainings, plans and runtimes."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_prosma.jobs.spec import Preparation
from napari_prosma.train.export_pairs import write_pairs
from napari_prosma.train.pairs import Pair, PairRow
from napari_prosma.train.state import TrainPlan
from prosma_core.config.model import ClassInfo
from prosma_core.config.training import RunConfig, load_run_yaml, presets_for, resolve_run
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import (
    PlanRequest,
    TimesRequest,
    TrainRequest,
    spec_message,
)
from prosma_core.errors import OutputError
from prosma_core.io.bundle import read_header
from prosma_core.runs.run_folder import RunFolder
from prosma_core.runs.run_state import RunState, run_lock


@dataclass(frozen=True)
class TrainingOrder:
    """A training to start: name, run folder, classes and specification.

    Attributes
    ----------
    name : str
    folder : RunFolder
    classes : tuple of ClassInfo
        For the colors of curves and preview.
    spec : NewTraining or ResumedTraining
    """

    name: str
    folder: RunFolder
    classes: tuple[ClassInfo, ...]
    spec: NewTraining | ResumedTraining


def _set_event() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@dataclass(frozen=True, eq=False)
class NewTraining:
    """A new training on the current pairs; layers are written into its run folder.

    Attributes
    ----------
    plan : TrainPlan
    pairs : sequence of Pair
    folder : RunFolder
    owned : Event
        Set where the run folder is known to be this run's: a name that was free can be another's a moment later.
    files : list of (Path, Path)
        Image and labels of each pair, as soon as they are written.
    """

    plan: TrainPlan
    pairs: Sequence[Pair]
    folder: RunFolder
    owned: threading.Event = field(default_factory=threading.Event)
    files: list[tuple[Path, Path]] = field(default_factory=list)

    def prepare(self, _: Engine) -> Preparation:
        """Write the layers, and ask for a training on all pairs.

        Raises
        ------
        OutputError
            The folder belongs to another training.
        """
        with run_lock(self.folder):  # another napari may have chosen the same name just before
            data = self.folder.root / "data"
            if data.exists():
                msg = f"{self.folder.root} belongs to another training already. Choose another name."
                raise OutputError(msg)
            self.owned.set()
            run = yield from _run(self.plan, self.pairs, data)
            self.files.extend(run.pairs)
        return TrainRequest(run=run, processes=self.plan.gpus)


@dataclass(frozen=True, eq=False)
class ResumedTraining:
    """A resumed training on the pairs it had; one that was stopped in its first epoch starts over.

    Attributes
    ----------
    state : RunState
    more_epochs : int or None
        Epochs beyond those it was meant to have.
    device : str
    gpus : int
        Among how many each batch is divided.
    owned : Event
        As of `NewTraining`; set.
    """

    state: RunState
    more_epochs: int | None
    device: str
    gpus: int = 1
    owned: threading.Event = field(default_factory=_set_event)

    def prepare(self, _: Engine) -> Preparation:
        """Ask for a training with the settings of its folder."""
        yield from ()
        given = {"out": str(self.state.out)} | ({"device": self.device} if self.device != "auto" else {})
        if self.state.epochs_done:
            return TrainRequest(
                run=RunConfig.parse(given, "This run"), resume=True, more_epochs=self.more_epochs, processes=self.gpus
            )
        settings = RunFolder.beside(self.state.out).run_yaml
        run = resolve_run({**load_run_yaml(settings), **given}, str(settings))
        return TrainRequest(run=run, processes=self.gpus)


@dataclass(frozen=True, eq=False)
class PlanSpec:
    """Specification of a plan of a training.

    Attributes
    ----------
    plan : TrainPlan
    pairs : sequence of Pair
    folder : Path
        Where layers are written; the caller removes it.
    """

    plan: TrainPlan
    pairs: Sequence[Pair]
    folder: Path

    def prepare(self, _: Engine) -> Preparation:
        """Write the layers, and ask for a plan."""
        run = yield from _run(self.plan, self.pairs, self.folder)
        return PlanRequest(run=run)


def times_request(plan: TrainPlan, rows: Sequence[PairRow], num_classes: int) -> TimesRequest:
    """Ask how long each preset would take for what is chosen.

    Parameters
    ----------
    plan : TrainPlan
    rows : sequence of PairRow
        The pairs of the plan.
    num_classes : int
        Background included.
    """
    kept = ("device", "init", "preprocess", "network", "training")
    presets = presets_for(fine_tuning="init" in plan.request_values)
    values: dict[str, Any] = {"out": "model.safetensors"}
    values |= {k: plan.request_values[k] for k in kept if k in plan.request_values}
    if "init" not in values and plan.dims is not None:  # the labels, which are not sent, have a part in them
        values["preprocess"] = {"dims": plan.dims}
    return TimesRequest(
        runs={preset: resolve_run({**values, "preset": preset}) for preset in presets},
        scans=tuple(spec_message(row.spec) for row in rows if row.spec is not None),
        num_classes=num_classes,
    )


def _run(plan: TrainPlan, pairs: Sequence[Pair], folder: Path) -> Generator[str, None, RunConfig]:
    files = yield from write_pairs(pairs, folder)
    return resolve_run({**plan.request_values, "pairs": files}, "This training")


def run_classes(folder: RunFolder) -> tuple[ClassInfo, ...]:
    """Classes of a run, from its last model, else from its settings.

    Raises
    ------
    ConfigError
        The settings in its folder are damaged.
    """
    if folder.last.is_file():
        return read_header(folder.last).classes
    values = load_run_yaml(folder.run_yaml)
    names, colors = values.get("class_names", {}), values.get("class_colors", {})
    return tuple(
        ClassInfo.parse({"value": v, "name": n} | ({"color": colors[v]} if v in colors else {}), "A class of the run")
        for v, n in sorted(names.items())
    )
