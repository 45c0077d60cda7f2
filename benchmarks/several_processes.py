"""What training with several processes costs: the trainer's own step, and what is exchanged in it.

    python3 run.py bench several_processes DIR [--device cpu] [--preset balanced] [--batch 4] [--steps 30]
    torchrun --nproc-per-node 2 benchmarks/several_processes.py DIR [the same]

The first is one process, the second several, which divide the batch. In a second round of steps each exchange is timed
by itself, the device waited for before and after: the sums of the loss, the gradients, and the agreement on share and
end of the run. Only the first --scans scans of the training split are read.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from prosma_core.config.training import resolve_run
from prosma_core.events import drain
from prosma_core.inference.device import choose_device
from prosma_core.io.dataset_folder import open_dataset
from prosma_core.model.unet import count_parameters
from prosma_core.training.prepare import prepare_run
from prosma_core.training.processes import Processes, joined
from prosma_core.training.trainer import Trainer

WARM_UP = 5
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


def measure(options: argparse.Namespace, group: Processes, place: str) -> None:
    """Measure; the first process prints."""
    group.choose_gpu()
    device = choose_device(options.device).device
    group.use(device)
    folder = open_dataset(options.data)
    names = folder.splits["train"][: options.scans]
    values = {
        "pairs": [(folder.cases[name].images[0], folder.cases[name].label) for name in names],
        "out": Path(place) / "model.safetensors",
        "preset": options.preset,
        "device": options.device,
        "training": {"batch_size": options.batch, "graph": options.graph, "compile": options.compile},
    }
    setup = drain(prepare_run(resolve_run(values), device, None, group), lambda _: None)
    trainer, rng = Trainer(setup, device, group=group), torch.Generator().manual_seed(group.seed(0))

    def steps() -> list[float]:
        took = []
        for number in range(WARM_UP + options.steps):
            group.agreed(0.0, 0.0)
            began = wait(device)
            trainer.step(rng)
            if number >= WARM_UP:
                took.append(wait(device) - began)
        return took

    step = median(steps())
    parts: dict[str, list[float]] = {name: [] for name in EXCHANGES}
    for name, times in parts.items():
        setattr(group, name, timed(getattr(group, name), device, times))
    steps()
    if not group.first:
        return
    pre, batch = setup.header.preprocess, setup.run.training.batch_size
    memory = f", {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB of the first GPU" if device.type == "cuda" else ""
    print(
        f"{group.size} x {device.type}, {torch.get_num_threads()} threads each, load {os.getloadavg()[0]:.1f}, "
        f"{batch} patches of {'x'.join(map(str, pre.tile))}, {count_parameters(trainer.model) / 1e6:.1f} M parameters"
        f"{memory}"
    )
    print(f"step {1000 * step:.1f} ms (median), {batch / step:.1f} patches/s" if batch else "")
    for name, times in parts.items():
        print(f"{name:14}{1000 * median(times):9.2f} ms (median)")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--batch", type=int, default=4, help="Patches of all processes together.")
    parser.add_argument("--scans", type=int, default=6)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--graph", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as place,
        torch.backends.cudnn.flags(enabled=True, benchmark=True),
        joined() as group,
    ):
        measure(options, group, place)


if __name__ == "__main__":
    main()
