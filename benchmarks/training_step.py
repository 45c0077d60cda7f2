"""What real data costs, and what a GPU gains by CUDA graphs and compiling: the trainer's own step, several ways.

    python3 run.py bench training_step DIR [--device cuda] [--preset balanced] [--sides real random] [--repeats 15]

real: patches drawn, turned, zoomed and augmented. random: a batch that lies on the device, without augmentation.
graph, compiled, both: real, with ``training.graph``, ``training.compile``, and with both of them. Blocks of --steps
steps of the sides alternate; the device is waited for at the end of each block. Ratios are to the first side. Only the
first --scans scans of each split are read.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from prosma_core.config.training import resolve_run
from prosma_core.events import drain
from prosma_core.inference.device import choose_device
from prosma_core.io.dataset_folder import open_dataset
from prosma_core.training.prepare import Setup, prepare_run
from prosma_core.training.trainer import Trainer

SIDES = ("real", "random", "graph", "compiled", "both")
WARM_UP = 4
UNCHANGED = dict.fromkeys(
    ("p_rotate", "p_scale", "p_gamma", "p_contrast", "p_noise", "p_blur", "p_low_resolution"), 0.0
)


class FixedBatch:
    """Gives the same random batch at every draw."""

    def __init__(self, setup: Setup, device: torch.device) -> None:
        pre, model, batch = setup.header.preprocess, setup.header.model, setup.run.training.batch_size
        assert batch is not None
        self._images = torch.randn(batch, model.in_channels, *pre.tile, device=device)
        self._labels = torch.randint(model.num_classes, (batch, 1, *pre.tile), device=device)

    def draw(self, batch_size: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch."""
        return self._images, self._labels


def make_trainer(side: str, setup: Setup, device: torch.device) -> Trainer:
    """The trainer of a side."""
    changes = {"graph": side in {"graph", "both"}, "compile": side in {"compiled", "both"}}
    setup = replace(setup, run=setup.run.replace(training=setup.run.training.replace(**changes)))
    trainer = Trainer(setup, device)
    if side == "random":
        trainer.sampler = FixedBatch(setup, device)  # type: ignore[assignment]
        trainer.config = trainer.config.replace(augment=trainer.config.augment.replace(**UNCHANGED))
    return trainer


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", nargs="+", default=["real", "random"], choices=SIDES)
    parser.add_argument("--scans", type=int, default=6)
    parser.add_argument("--steps", type=int, default=2, help="Steps of a block.")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = choose_device(options.device).device
    folder = open_dataset(options.data)
    names = folder.splits["train"][: options.scans]
    with tempfile.TemporaryDirectory() as place, torch.backends.cudnn.flags(enabled=True, benchmark=True):
        values = {
            "pairs": [(folder.cases[name].images[0], folder.cases[name].label) for name in names],
            "out": Path(place) / "model.safetensors",
            "preset": options.preset,
            "device": options.device,
        }
        setup = drain(prepare_run(resolve_run(values), device), lambda _: None)
        sides, rng = (
            {side: make_trainer(side, setup, device) for side in options.sides},
            torch.Generator().manual_seed(0),
        )
        pre, batch = setup.header.preprocess, setup.run.training.batch_size
        print(
            f"{device.type}, {options.threads} threads, load {os.getloadavg()[0]:.1f}, preset {options.preset}, "
            f"{batch} patches of {'x'.join(map(str, pre.tile))}, widths {setup.header.model.widths}",
            flush=True,
        )
        times: dict[str, list[float]] = {side: [] for side in sides}
        for repeat in range(options.repeats + WARM_UP):
            for name in list(sides)[:: 1 if repeat % 2 else -1]:
                began = time.perf_counter()
                for _ in range(options.steps):
                    found = sides[name].step(rng)
                found.tolist()  # waits for the device
                if repeat >= WARM_UP:
                    times[name].append((time.perf_counter() - began) / options.steps)
    for name, values_of in times.items():
        print(f"{name:8}{1000 * median(values_of):9.1f} ms (median), {1000 * min(values_of):9.1f} ms (least)")
    first, *others = options.sides
    for other in others:
        paired = median(a / b for a, b in zip(times[first], times[other], strict=True))
        print(f"{first} / {other} {median(times[first]) / median(times[other]):.3f}, paired {paired:.3f}")


if __name__ == "__main__":
    main()
