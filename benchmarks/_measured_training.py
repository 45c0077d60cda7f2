"""What the benchmarks of training share: a run whose models are measured epoch by epoch on scans it never saw."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.training import resolve_run
from prosma_core.data.geometry import Scan
from prosma_core.data.labels import class_indices
from prosma_core.events import CheckpointSaved, EpochDone, Event, StageStarted, drain
from prosma_core.inference.device import choose_device
from prosma_core.inference.segment import Segmenter
from prosma_core.runs.run_folder import RunFolder
from prosma_core.training.loop import train
from prosma_core.training.validate import dice_per_class

MOST_EPOCHS = 100_000
"""Epochs of a run that is ended by minutes, as in the Train widget."""

Pairs = Sequence[tuple[Scan, Scan]]
Work = Callable[[argparse.Namespace, Any], None]


def add_options(parser: argparse.ArgumentParser, *, minutes: float, cases: int) -> None:
    """Options that these benchmarks have in common."""
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--epochs", type=int, help="Instead of minutes, where the machine is not quiet.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="Where to train.")
    parser.add_argument("--cases", type=int, default=cases, help="Validation cases that the models are measured on.")


def budget(options: argparse.Namespace) -> dict[str, Any]:
    """Values of `TrainingConfig` for epochs or minutes."""
    return {"epochs": options.epochs} if options.epochs else {"epochs": MOST_EPOCHS, "minutes": options.minutes}


def mean_dice(model: Path, cases: Pairs) -> float:
    """Mean Dice of scans and classes, on the scans' own grids; computed wherever it is fastest."""
    segmenter = Segmenter.load(model, choose_device("auto").device)
    classes, scores = segmenter.header.classes, []
    for image, labels in cases:
        found = drain(segmenter.segment(image, InferenceConfig()), lambda _: None).labels.data
        pair = [torch.from_numpy(class_indices(values, classes, "a scan")) for values in (found, labels.data)]
        scores.append(dice_per_class(pair[0], pair[1], len(classes)))
    return float(np.mean(scores))


def measured_training(values: dict[str, Any], cases: Pairs, title: str) -> float:
    """Train as `values` say, and print Dice over minutes on `cases`.

    The model of each epoch is kept and measured after the training, so that this takes none of its time.

    Parameters
    ----------
    values : dict
        For `resolve_run`, but for ``out``.
    cases : sequence of (Scan, Scan)
        Images and labels that are not trained on.
    title : str
        What is measured, in words.

    Returns
    -------
    float
        Mean Dice of the finished model.
    """
    print(title, flush=True)
    with tempfile.TemporaryDirectory() as place:
        out, models = Path(place) / "model.safetensors", dict[Path, tuple[float, EpochDone]]()
        began, done = time.monotonic(), list[EpochDone]()

        def show(event: Event) -> None:
            if isinstance(event, StageStarted) and "the start model" in event.message.lower():
                print(f"  {event.message}", flush=True)
            elif isinstance(event, EpochDone):
                done.append(event)
            elif isinstance(event, CheckpointSaved) and event.path != str(out):
                minutes, path = (time.monotonic() - began) / 60, Path(place) / f"epoch{done[-1].epoch}.safetensors"
                shutil.copy(RunFolder.beside(out).last, path)
                models[path] = (minutes, done[-1])
                print(f"  {minutes:.2f} min: loss {done[-1].loss:.3f}", flush=True)

        drain(train(resolve_run({"preset": "quick", **values, "out": out})), show)
        spent, final = (time.monotonic() - began) / 60, mean_dice(out, cases)
        print(f"finished, {spent:.1f} minutes: mean Dice of {len(cases)} validation cases {final:.4f}", flush=True)
        print("minutes  epoch   loss  Dice held out by the run  Dice of the validation cases")
        for path, (minutes, epoch) in models.items():
            held_out = f"{epoch.mean_dice or 0:25.4f}"
            print(f"{minutes:7.2f}{epoch.epoch:7}{epoch.loss:7.3f}{held_out}{mean_dice(path, cases):30.4f}", flush=True)
    return final


def write_line(result: dict[str, Any], out: Path | None) -> None:
    """Print a result, and add it to a file as one line at once: several processes may do so, and all may be stopped."""
    line = json.dumps(result)
    print(line, flush=True)
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def in_parallel(work: Work, options: argparse.Namespace, jobs: Sequence[Any]) -> None:
    """Do jobs in ``options.workers`` processes of ``options.threads`` threads each, spread over all GPUs there are."""
    if options.workers == 1:
        torch.set_num_threads(options.threads)
        for job in jobs:
            work(options, job)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, spawn, _begin, (options.threads, spawn.Value("i"))) as pool:
        for job in as_completed([pool.submit(work, options, job) for job in jobs]):
            if (error := job.exception()) is not None:  # ends only its job
                traceback.print_exception(error)


def _begin(threads: int, started: Any) -> None:
    torch.set_num_threads(threads)
    with started.get_lock():
        number = started.value
        started.value += 1
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
