"""What the engine is asked for: a new training, one that goes on, or an estimate."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import get_args

from napari_prosma._shared.engine_job import Preparation
from napari_prosma.train.handover import write_pairs
from napari_prosma.train.pairs import Pair, PairRow
from napari_prosma.train.run import Order
from napari_prosma.train.state import Plan
from prosma_core.config.model import ClassInfo
from prosma_core.config.run import Preset, RunConfig, load_run_yaml, resolve_run
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import PlanRequest, TimesRequest, TrainRequest, spec_message
from prosma_core.errors import OutputError
from prosma_core.io.bundle import read_header
from prosma_core.io.run_folder import RunFolder
from prosma_core.io.run_lock import run_lock
from prosma_core.io.stopped_run import RunState


def new_order(plan: Plan, pairs: Sequence[Pair], classes: Sequence[ClassInfo]) -> Order:
    """A new training, on the pairs as they are now: layers are written into its run folder."""
    folder, owned = RunFolder.beside(plan.out), threading.Event()

    def prepare(_: Engine) -> Preparation:
        with run_lock(folder):  # another napari may have chosen the same name just before
            data = folder.root / "data"
            if data.exists():
                msg = f"{folder.root} belongs to another training already. Choose another name."
                raise OutputError(msg)
            owned.set()
            run = yield from _run(plan, pairs, data)
        return TrainRequest(run=run)

    return Order(plan.out.stem, folder, tuple(classes), prepare, owned)


def resumed_order(state: RunState, more_epochs: int | None, device: str) -> Order:
    """A training that goes on, on the pairs it had; for more epochs than it was meant to have where they are given.

    One that was stopped in its first epoch begins anew.

    Raises
    ------
    ConfigError
        The settings in its folder are damaged.
    """
    folder = RunFolder.beside(state.out)
    given = {"out": str(state.out)} | ({"device": device} if device != "auto" else {})

    def prepare(_: Engine) -> Preparation:
        yield from ()
        if not state.epochs_done:
            return TrainRequest(run=resolve_run({**load_run_yaml(folder.run_yaml), **given}, str(folder.run_yaml)))
        return TrainRequest(run=RunConfig.parse(given, "This run"), resume=True, more_epochs=more_epochs)

    owned = threading.Event()
    owned.set()
    return Order(state.name, folder, _classes(folder), prepare, owned)


def times_request(plan: Plan, rows: Sequence[PairRow], num_classes: int) -> TimesRequest:
    """Ask how long each preset would take for what is chosen.

    Parameters
    ----------
    plan : Plan
    rows : sequence of PairRow
        The pairs of the plan.
    num_classes : int
        Background included.
    """
    kept = ("device", "gate", "init", "preprocess", "training")
    values = {"out": "model.safetensors"} | {k: plan.request_values[k] for k in kept if k in plan.request_values}
    return TimesRequest(
        runs={preset: resolve_run({**values, "preset": preset}) for preset in get_args(Preset)},
        scans=tuple(spec_message(row.spec) for row in rows if row.spec is not None),
        num_classes=num_classes,
    )


def plan_preparation(plan: Plan, pairs: Sequence[Pair], folder: Path) -> Preparation:
    """Ask what a training would be; layers are written into `folder`, which the caller removes."""
    run = yield from _run(plan, pairs, folder)
    return PlanRequest(run=run)


def _run(plan: Plan, pairs: Sequence[Pair], folder: Path) -> Generator[str, None, RunConfig]:
    files = yield from write_pairs(pairs, folder)
    return resolve_run({**plan.request_values, "pairs": files}, "This training")


def _classes(folder: RunFolder) -> tuple[ClassInfo, ...]:
    """Classes of a run, from its last model, else from its settings."""
    if folder.last.is_file():
        return read_header(folder.last).classes
    values = load_run_yaml(folder.run_yaml)
    names, colors = values.get("class_names", {}), values.get("class_colors", {})
    return tuple(
        ClassInfo.parse({"value": v, "name": n} | ({"color": colors[v]} if v in colors else {}), "A class of the run")
        for v, n in sorted(names.items())
    )
