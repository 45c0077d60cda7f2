"""Minutes until a new 3D hippocampus model reaches a Dice, with the preset `quick` on the CPU.

    python3 run.py bench quick_training DIR/msd_hippocampus [--dice 0.80] [--threads 2] [--minutes 10]

Prints every epoch with the mean Dice (both classes) of the preset's validation cases, the minutes at which it first
reached the target, and the Dice of the finished model on all validation cases; reading the data and validating are part
of the time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from prosma_core.config.training import resolve_run
from prosma_core.events import EpochDone, Event, drain
from prosma_core.training.loop import train


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--dice", type=float, default=0.80)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    curve: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        run = resolve_run(
            {
                "data": options.data,
                "out": Path(folder) / "quick.safetensors",
                "preset": "quick",
                "device": "cpu",
                "training": {"minutes": options.minutes},
            }
        )
        began = time.monotonic()

        def show(event: Event) -> None:
            if not isinstance(event, EpochDone) or event.mean_dice is None:
                return
            minutes = (time.monotonic() - began) / 60
            curve.append((round(minutes, 2), round(event.mean_dice, 4)))
            line = f"{minutes:5.2f} min  epoch {event.epoch}  loss {event.loss:.3f}  Dice {event.mean_dice:.4f}"
            print(line, flush=True)

        final = drain(train(run), show).validation.mean
    reached = next((minutes for minutes, dice in curve if dice >= options.dice), None)
    if options.json:
        options.json.write_text(json.dumps({"curve": curve, "reached": reached, "final": final}, indent=1))
    print(f"Dice {options.dice}: " + ("not reached" if reached is None else f"after {reached:.1f} minutes"))
    print(f"All validation cases, finished model: {final:.4f}")


if __name__ == "__main__":
    main()
