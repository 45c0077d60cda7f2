"""One run from start to end: train, judge, write its JSON."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import prosma_core
from evidence.fit import fit
from evidence.judge import Cases, judge, judge_corrupted, removed_curve, summary
from evidence.networks import cost
from evidence.runs import DIVERGED, Run, config_hash
from prosma_core.errors import DivergedError
from prosma_core.inference.device import choose_device
from prosma_core.inference.segment import Segmenter
from prosma_core.io.atomic import remove, write_bytes_atomic
from prosma_core.io.dataset_folder import open_dataset, read_case
from prosma_core.training.trainer import Trainer

FORMAT = 1


class OutOfTimeError(Exception):
    """The time that was given is over; what was trained is kept."""


def measure(run: Run, data: Path, out: Path, work: Path, device: str, until: float | None = None) -> Path:
    """Train and judge a run, and write what was measured.

    Parameters
    ----------
    run : Run
    data : Path
        Folder that holds the data sets.
    out : Path
        Folder of the JSON files.
    work : Path
        Folder of the models, and of what a run needs to go on.
    device : str
    until : float, optional
        When to stop, by `time.time`.

    Returns
    -------
    Path
        The JSON.

    Raises
    ------
    OutOfTimeError
        The run has to be called again.
    ProsmaError
        The data, the settings or the device cannot be used. A training that diverges is a result, not an error.
    """

    def check() -> None:
        if until is not None and time.time() > until:
            raise OutOfTimeError(run.key)

    began = time.monotonic()
    result: dict[str, Any] = {
        "format": FORMAT,
        "experiment": run.experiment.name,
        "data": run.experiment.data,
        "row": run.row,
        "phase": run.phase,
        "seed": run.seed,
        "rate": run.rate,
        "config": run.config,
        "hash": config_hash(run.config),
    }
    place = choose_device(device).device
    try:
        result |= _trained(run, data / run.experiment.data, work / f"{run.key}.safetensors", place, check)
    except DivergedError as error:
        result |= {"failed": str(error), "score": DIVERGED}
    result |= {"machine": machine(place), "versions": versions()}
    result["seconds"] = {**result.get("seconds", {}), "this_session": round(time.monotonic() - began, 1)}
    path = out / f"{run.key}.json"
    out.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(path, (json.dumps(result, indent=1, sort_keys=True) + "\n").encode())
    return path


def _trained(run: Run, data: Path, model: Path, device: torch.device, check: Any) -> dict[str, Any]:
    trainer, validation = _drain(fit(run, data, model, device), check)
    header, split = trainer.setup.header, trainer.setup.split
    row = run.experiment.rows[run.row]
    result: dict[str, Any] = {
        "tile": list(header.preprocess.tile),
        "batch_size": trainer.config.batch_size,
        "cases": {"train": len(split.train), "judged": len(split.val)},
        **cost(header.model, row.network, header.preprocess.tile, row.variant),
        "levels": [asdict(level) for level in validation.levels] if header.model.gate.kind != "none" else [],
        "seconds": {"train": round(trainer.progress.elapsed, 1)},
        "loss": trainer.progress.history[-1]["loss"],
    }
    if run.phase == "tune":
        result["score"] = round(validation.mean, 6)
    else:
        began = time.monotonic()
        result |= _judged(run, trainer, data, device, check)
        result["seconds"]["judge"] = round(time.monotonic() - began, 1)
    remove([trainer.folder.state, trainer.folder.previous_state, trainer.folder.best])
    return result


def _judged(run: Run, trainer: Trainer, data: Path, device: torch.device, check: Any) -> dict[str, Any]:
    segmenter = Segmenter(trainer.setup.header, trainer.evaluated, device)
    folder = open_dataset(data)
    cases: Cases = {name: read_case(folder.cases[name]) for name in trainer.setup.split.val}
    scores = judge(segmenter, cases, check)
    result: dict[str, Any] = {"scores": scores, "summary": summary(scores)}
    if run.experiment.rows[run.row].full:
        result["mirrored"] = summary(judge(segmenter, cases, check, mirror=True))
        result["corrupted"] = judge_corrupted(segmenter, cases, check)
        result["curve"] = removed_curve(segmenter, cases, check)
    return result


def _drain(steps: Generator[Any, None, Any], check: Any) -> Any:
    """Result of a generator, `check` called at each of its events."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value
        check()


def machine(device: torch.device) -> dict[str, Any]:
    """What the run was computed on."""
    if device.type == "cuda":
        return {"device": "cuda", "name": torch.cuda.get_device_name(device)}
    return {"device": device.type, "name": platform.machine(), "threads": torch.get_num_threads()}


def versions() -> dict[str, str]:
    """Versions of what numbers depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "prosma_core": prosma_core.__version__,
    }
