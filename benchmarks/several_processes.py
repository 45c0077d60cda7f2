"""What training with several processes costs: the trainer's own steps, and what is exchanged in them.

    python3 run.py bench several_processes DIR [--device cpu] [--preset balanced] [--batch 4 8] [--steps 30]
    torchrun --nproc-per-node 2 benchmarks/several_processes.py DIR [the same]

The first is one process, the second several, which divide each batch. Steps follow each other as in a training, and
are timed together; each batch size is measured without and with a CUDA graph, where there is a GPU. Without one, a
second round times each exchange by itself, the device waited for before and after: the sums of the loss, the
gradients, and the agreement on share and end of the run. With `--profile` a third one tells the kernels that a GPU
spends most time in. Only the first --scans scans of the training split are read.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from prosma_core.config.training import resolve_run
from prosma_core.events import drain
from prosma_core.inference.device import choose_device
from prosma_core.io.dataset_folder import open_dataset
from prosma_core.model.unet import count_parameters
from prosma_core.training.prepare import prepare_run
from prosma_core.training.processes import Processes, joined
from prosma_core.training.trainer import Trainer

WARM_UP = 8
EXCHANGES = ("summed", "sum_gradients", "agreed")


def wait(device: torch.device) -> float:
    """Time when all that was asked of a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(function: Callable[..., Any], device: torch.device, times: list[float]) -> Callable[..., Any]:
    """The function, whose time goes into a list at each call."""

    def call(*values: Any) -> Any:
        began = wait(device)
        result = function(*values)
        times.append(wait(device) - began)
        return result

    return call


@contextmanager
def timed_exchanges(group: Processes, device: torch.device) -> Iterator[dict[str, list[float]]]:
    """Times of each exchange that is made within."""
    parts: dict[str, list[float]] = {name: [] for name in EXCHANGES}
    for name, times in parts.items():
        setattr(group, name, timed(getattr(group, name), device, times))
    try:
        yield parts
    finally:
        for name in EXCHANGES:
            delattr(group, name)


def settings(options: argparse.Namespace, place: str, batch: int, graph: bool) -> dict[str, Any]:
    """Those of a run that is never started: its trainer's steps are."""
    folder = open_dataset(options.data)
    names = folder.splits["train"][: options.scans]
    return {
        "pairs": [(folder.cases[name].images[0], folder.cases[name].label) for name in names],
        "out": Path(place) / "model.safetensors",
        "preset": options.preset,
        "device": options.device,
        "training": {"batch_size": batch, "graph": graph, "compile": options.compile},
    }


def measure(options: argparse.Namespace, group: Processes, device: torch.device, values: dict[str, Any]) -> None:
    """Measure one batch size, without or with a graph; the first process prints."""
    setup = drain(prepare_run(resolve_run(values), device, None, group), lambda _: None)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer, rng = Trainer(setup, device, group=group), torch.Generator().manual_seed(group.seed(0))
    trainer.model.train()

    def steps(count: int) -> float:
        began = wait(device)
        for _ in range(count):
            group.agreed(0.0, 0.0)
            trainer.step(rng)
        return wait(device) - began

    steps(1)
    first = time.time() - psutil.Process().create_time()
    steps(WARM_UP)
    rounds = [steps(options.steps) / options.steps for _ in range(3)]
    step, batch = median(rounds), values["training"]["batch_size"]
    memory = f", {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB of each GPU" if device.type == "cuda" else ""
    how = ("graph" if values["training"]["graph"] else "no graph") + (", compiled" if options.compile else "")
    lines = [
        f"{group.size} x {device.type}, {torch.get_num_threads()} threads each, load {os.getloadavg()[0]:.1f}, "
        f"{batch} patches of {'x'.join(map(str, setup.header.preprocess.tile))}, "
        f"{count_parameters(trainer.model) / 1e6:.1f} M parameters, {how}{memory}",
        f"  first step {first:.1f} s after the start of the process",
        f"  step {1000 * step:.1f} ms ({1000 * min(rounds):.1f} to {1000 * max(rounds):.1f}), {batch / step:.0f} "
        "patches a second",
    ]
    if not values["training"]["graph"]:  # in a graph nothing can be waited for
        with timed_exchanges(group, device) as parts:
            steps(options.steps)
        lines += [f"  {name:14}{1000 * median(times):9.2f} ms (median)" for name, times in parts.items()]
    if options.profile:
        with torch.profiler.profile() as profile:
            steps(10)
        key = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
        lines.append(profile.key_averages().table(sort_by=key, row_limit=8, max_name_column_width=60))
    if group.first:
        print("\n".join(lines), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--batch", type=int, nargs="+", default=[4], help="Patches of all processes together.")
    parser.add_argument("--scans", type=int, default=6)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as place,
        torch.backends.cudnn.flags(enabled=True, benchmark=True),
        joined() as group,
    ):
        group.choose_gpu()
        device = choose_device(options.device).device
        group.use(device)
        for batch in options.batch:
            for graph in (False, True) if device.type == "cuda" else (False,):
                measure(options, group, device, settings(options, place, batch, graph))


if __name__ == "__main__":
    main()
