"""GPU memory of the engine before, during and after trainings, and when it is freed, as the driver counts it.

    python3 run.py bench gpu_memory DIR [--preset balanced] [--no-graph]

Two ways: of the engine's process (nvidia-smi), where the driver tells it; and in use on the whole GPU. Only the first
--scans training scans are read. With --no-graph training.graph is off.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from _engine import result_of, started_engine

from prosma_core.config.training import resolve_run
from prosma_core.data.phantom import phantom_3d
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import Cancelled, Message, ScanRef, SegmentRequest, TrainRequest, spec_message
from prosma_core.events import StepDone
from prosma_core.io.bundle import find_model
from prosma_core.io.dataset_folder import open_dataset


def query(what: str, fields: str) -> list[list[str]]:
    """Rows that nvidia-smi answers with."""
    command = ["nvidia-smi", f"--query-{what}={fields}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [[word.strip() for word in line.split(",")] for line in answer.splitlines() if line.strip()]


def say(when: str, pid: int | None) -> None:
    """Print the memory now, in MiB."""
    time.sleep(0.5)
    of_engine = [row[1] for row in query("compute-apps", "pid,used_memory") if row[0] == str(pid)]
    print(f"{when:52}{of_engine[0] if of_engine else 0:>12}{query('gpu', 'memory.used')[0][0]:>12}", flush=True)


def segment(engine: Engine) -> None:
    """Segment a phantom, so that the engine holds a model."""
    scan, _ = phantom_3d(7, (24, 112, 112))
    shared = engine.allocate(scan.spec.shape, scan.data.dtype)
    shared.array[...] = scan.data
    reference = ScanRef(array=shared.ref, spec=spec_message(scan.spec))
    result_of(engine, SegmentRequest(model=str(find_model("phantom-3d")), device="cuda", scan=reference))


def train_until(engine: Engine, values: dict[str, Any], *, steps: int) -> None:
    """Train, say the memory after so many steps, and cancel."""
    there, over = threading.Event(), threading.Event()

    def listen(message: Message) -> None:
        if isinstance(message, StepDone) and message.step >= steps:
            there.set()
        elif isinstance(message, Cancelled):
            over.set()

    with tempfile.TemporaryDirectory() as place:
        job = engine.submit(TrainRequest(run=resolve_run({**values, "out": Path(place) / "m.safetensors"})), listen)
        there.wait(120)
        say(f"training, after {steps} steps", engine.pid)
        job.cancel()
        over.wait(30)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--scans", type=int, default=6)
    parser.add_argument("--graph", action=argparse.BooleanOptionalAction, default=True, help="training.graph.")
    options = parser.parse_args()
    if shutil.which("nvidia-smi") is None:
        raise SystemExit("There is no nvidia-smi: this needs an NVIDIA GPU and its driver.")
    folder = open_dataset(options.data)
    names = folder.splits["train"][: options.scans]
    values: dict[str, Any] = {
        "pairs": [(folder.cases[name].images[0], folder.cases[name].label) for name in names],
        "preset": options.preset,
        "device": "cuda",
        "training": {"epochs": 1, "steps": 30, "graph": options.graph},
    }
    print(f"{'MiB':52}{'of engine':>12}{'of GPU':>12}")
    say("before the engine is started", None)
    engine = started_engine()
    say("engine ready", engine.pid)
    segment(engine)
    say("after a segmentation: what a model needs", engine.pid)
    with tempfile.TemporaryDirectory() as place:
        result_of(engine, TrainRequest(run=resolve_run({**values, "out": Path(place) / "m.safetensors"})))
    say("after a training", engine.pid)
    train_until(engine, values, steps=10)
    say("after a training that was stopped", engine.pid)
    segment(engine)
    say("after a segmentation", engine.pid)
    pid = engine.pid
    engine.free()
    say("after Free memory", pid)
    engine.close()


if __name__ == "__main__":
    main()
