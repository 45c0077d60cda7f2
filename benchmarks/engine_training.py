"""What the engine adds to a training in this process: starting it is not counted, messages and progress are.

    python3 run.py bench engine_training DIR [--device cpu] [--epochs 2] [--steps 10] [--threads 2] [--repeats 3]

The same run, with the same epochs, alternates between the engine, as the Train widget asks for it, and this process, as
the command line does it: reading, planning, training, validation, checkpoints, the model file. Processor time is that
of both processes together. Only the first --scans training scans are read.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from _engine import result_of, started_engine

from prosma_core.config.training import RunConfig, resolve_run
from prosma_core.engine.messages import TrainRequest
from prosma_core.events import drain
from prosma_core.io.dataset_folder import open_dataset
from prosma_core.training.loop import train


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scans", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of the engine's process
    torch.set_num_threads(options.threads)
    folder = open_dataset(options.data)
    names = folder.splits["train"][: options.scans]
    values: dict[str, Any] = {
        "pairs": [(folder.cases[name].images[0], folder.cases[name].label) for name in names],
        "preset": options.preset,
        "device": options.device,
        "training": {"epochs": options.epochs, "steps": options.steps},
    }
    engine = started_engine()
    processes = [psutil.Process(pid) for pid in (os.getpid(), engine.pid)]
    processes[0].nice(processes[1].nice())

    def here(run: RunConfig) -> float:
        return drain(train(run), lambda _: None).validation.mean

    def there(run: RunConfig) -> float:
        return float(result_of(engine, TrainRequest(run=run)).mean_dice)

    sides, dice = {"in this process": here, "by the engine": there}, dict[str, float]()
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for repeat in range(options.repeats + 1):
        for side in list(sides)[:: 1 if repeat % 2 else -1]:
            with tempfile.TemporaryDirectory() as place:
                run = resolve_run({**values, "out": Path(place) / "model.safetensors"})
                began, computed = time.perf_counter(), sum(sum(p.cpu_times()[:2]) for p in processes)
                dice[side] = sides[side](run)
                clock = time.perf_counter() - began
                if repeat:  # the first round warms up
                    times[side].append((clock, sum(sum(p.cpu_times()[:2]) for p in processes) - computed))
    engine.close()
    print(f"{options.device}, {options.threads} threads, load {os.getloadavg()[0]:.1f}, Dice of the last runs {dice}")
    for i, measure in enumerate(("clock", "processor")):
        inside, engines = ([both[i] for both in times[side]] for side in sides)
        paired = median(b / a for a, b in zip(inside, engines, strict=True))
        ratio, least = median(engines) / median(inside), min(engines) / min(inside)
        print(f"{measure:10}{median(inside):8.2f} s in this process, {median(engines):8.2f} s by the engine, ", end="")
        print(f"ratio {ratio:.3f} (paired {paired:.3f}, least {least:.3f})")


if __name__ == "__main__":
    main()
