"""How soon a training shows something, and how soon it shows what was painted meanwhile: on a CPU, with real scans.

    python3 run.py bench live_training DIR/acdc DIR/msd_hippocampus [--preset quick] [--paints 3]

Of the first training scan three slices are annotated (`sparse_training.py`), as a person would paint them. An engine
that was started beforehand, as by opening the widget, is asked for a training with a preview on that scan, as Train
does it: seconds until the first preview, and its Dice on all slices of that scan. Then one more slice at a time is
annotated: seconds from handing it over to the preview that has learned it, and the epochs in between. With other
programs at work, seconds of CPU time say more than those of the clock: both are given, and the load.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _engine import started_engine
from numpy.typing import NDArray
from sparse_training import keep_slices

from prosma_core.config.training import resolve_run
from prosma_core.data.geometry import Scan
from prosma_core.engine.messages import ArrayReady, Failed, ScanRef, TrainRequest
from prosma_core.events import LabelsTaken, PreviewDone
from prosma_core.io.dataset_folder import open_dataset, read_case
from prosma_core.io.images import write_labels

PATIENCE = 600


@dataclass
class Heard:
    """What a training has said, and when."""

    said: list[tuple[float, Any]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, message: Any) -> None:
        """Take a message."""
        with self.changed:
            self.said.append((time.monotonic(), message))
            self.changed.notify_all()

    def wait(self, kind: type, after: float, so: Callable[[Any], bool] = lambda _: True) -> tuple[float, Any]:
        """The first message of a kind after a time."""

        def found() -> list[tuple[float, Any]]:
            return [each for each in self.said if each[0] > after and isinstance(each[1], kind) and so(each[1])]

        with self.changed:
            if not self.changed.wait_for(lambda: found() or self.failures(), PATIENCE) or self.failures():
                raise SystemExit(f"There is no {kind.__name__}: {self.failures()}")
            return found()[0]

    def failures(self) -> list[Any]:
        """What ended the training."""
        return [message for _, message in self.said if isinstance(message, Failed)]


def dice(found: NDArray[Any], true: NDArray[Any]) -> float:
    """Mean Dice of the classes of a scan."""
    scores = []
    for value in np.unique(true[true > 0]):
        a, b = found == value, true == value
        scores.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return float(np.mean(scores))


def measure(data: Path, preset: str, paints: int) -> None:
    """Train on a scan of a data set, paint, and print."""
    folder = open_dataset(data)
    case = folder.cases[folder.splits["train"][0]]
    _, true = read_case(case)
    engine = started_engine()
    process = psutil.Process(engine.pid)

    def cpu() -> float:
        times = process.cpu_times()
        return times.user + times.system

    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "model.safetensors"
        label = out.with_suffix(".prosma") / "data" / "labels" / f"{case.name}.nii.gz"
        label.parent.mkdir(parents=True)
        painted = keep_slices(np.asarray(true.data), 3)
        write_labels(label, painted, true.spec)
        values = {"pairs": [(case.images[0], label)], "out": out, "preset": preset, "device": "cpu"}
        run = resolve_run(values | {"labels": {"zero": "annotated_slices"}})
        heard, began, spent = Heard(), time.monotonic(), cpu()
        job = engine.submit(TrainRequest(run=run, preview=ScanRef(file=str(case.images[0]))), heard)
        at, shown = heard.wait(PreviewDone, began)
        result = next(message.array for _, message in heard.said if isinstance(message, ArrayReady))
        print(
            f"{data.name}: first preview {_words(at - began, cpu() - spent)}, {_dice(shown, result, true)}", flush=True
        )
        rest = [z for z in np.flatnonzero(true.data.any(axis=(1, 2))) if not painted[z].any()]
        for number, z in enumerate(rest[:: max(1, len(rest) // paints)][:paints]):
            painted[z] = true.data[z]
            new = label.parent.with_name("changed") / f"{number}.nii.gz"
            new.parent.mkdir(exist_ok=True)
            began, spent = time.monotonic(), cpu()
            write_labels(new, painted, true.spec)
            job.learn({label: new}, wait=True)
            taken, labels = heard.wait(LabelsTaken, began)
            at, shown = heard.wait(PreviewDone, taken)
            epochs = shown.epoch - labels.epoch
            words = f"slice {z} learned after {taken - began:.1f} s, shown {_words(at - began, cpu() - spent)}"
            print(f"{data.name}: {words}, {epochs} epochs later, {_dice(shown, result, true)}", flush=True)
        job.cancel()
        job.over.wait()
    engine.close()


def _words(seconds: float, cpu: float) -> str:
    return f"after {seconds:.1f} s ({cpu:.1f} s of CPU time, load {os.getloadavg()[0]:.1f})"


def _dice(shown: PreviewDone, result: NDArray[Any], true: Scan) -> str:
    return f"Dice {shown.mean_dice:.2f} on {shown.dice_on}, {dice(result, np.asarray(true.data)):.2f} on the whole scan"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--paints", type=int, default=3)
    options = parser.parse_args()
    for data in options.data:
        measure(data, options.preset, options.paints)


if __name__ == "__main__":
    main()
