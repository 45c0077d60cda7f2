"""Noise gain, flipped share and channel gate of the shipped models on validation images: the table of docs/method.md.

    python3 run.py bench gate_numbers DIR [NAME ...] [--images 10]

DIR holds the data sets (see docs/models.md). Of each model the first validation images are inspected, without maps; a
column is the mean over them, for each level, finest first. The spread of the channel gate between images is the
standard deviation over images of each channel's mean weight, averaged over the channels. It takes some minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from shipped_facts import HERE, SAID

from prosma_core.config.inspection import InspectConfig, LevelSummary
from prosma_core.events import drain
from prosma_core.inference.segment import Segmenter
from prosma_core.inspection.inspect import inspect_scan
from prosma_core.io.bundle import find_model, shipped_models
from prosma_core.io.dataset_folder import open_dataset, read_case


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--images", type=int, default=10)
    options = parser.parse_args()
    said = yaml.safe_load(SAID.read_text(encoding="utf-8"))
    print("| model | images | removed | energy removed | noise gain | flipped | spread between images |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for name in options.names or shipped_models():
            folder = options.data / said[name]["data"]
            if "made_by" in said[name]:
                folder = Path(place) / name
                script, *words = (part.format(data=options.data, out=folder) for part in said[name]["made_by"])
                subprocess.run([sys.executable, str(HERE / script), *words], check=True, stdout=subprocess.DEVNULL)
            print(row(name, looked_at(name, folder, options.images)), flush=True)


def looked_at(name: str, folder: Path, images: int) -> list[tuple[LevelSummary, ...]]:
    """Numbers of the levels on each of the first validation images."""
    segmenter, found = Segmenter.load(find_model(name), torch.device("cpu")), open_dataset(folder)
    cases = [read_case(found.cases[case])[0] for case in found.splits["val"][:images]]
    config = InspectConfig(maps=())
    return [drain(inspect_scan(segmenter, scan, config), ignore).inspection.levels for scan in cases]


def ignore(_: Any) -> None:
    """Show nothing."""


def row(name: str, found: list[tuple[LevelSummary, ...]]) -> str:
    """Row of the table."""
    removed, energy, flipped, gain, spread = [], [], [], [], []
    for level in zip(*found, strict=True):
        removed.append(f"{100 * np.mean([one.removed for one in level]):.0f} %")
        energy.append(f"{100 * np.mean([one.energy for one in level]):.0f} %")
        flipped.append(f"{100 * np.mean([one.flipped for one in level]):.0f} %")
        gain.append(f"{np.mean([one.noise_gain for one in level]):.2f}")
        weights = np.array([one.channel_gate for one in level])
        spread.append(f"{weights.std(0, ddof=1).mean():.4f}" if len(level) > 1 else "–")
    cells = (name, str(len(found)), *map(", ".join, (removed, energy, gain, flipped, spread)))
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
