"""Dice over minutes of a new model from a few annotated images or scans.

    python3 run.py bench few_images DIR/busi [--images 10] [--minutes 5] [--threads 2] [--cases 40]

Images that hold an object, evenly spaced over the training split; the run itself holds out a fifth of them (slices
where there are fewer than four scans). The Dice is that of validation images that hold an object, likewise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from _measured_training import add_options, budget, measured_training

from prosma_core.io.dataset_folder import DatasetFolder, open_dataset, read_case
from prosma_core.io.images import read_labels


def spread(folder: DatasetFolder, split: str, count: int) -> list[str]:
    """Names of at most `count` cases of a split that hold an object, evenly spaced."""
    names = [name for name in folder.splits[split] if read_labels(folder.cases[name].label).data.any()]
    return [names[i * len(names) // count] for i in range(count)] if count < len(names) else names


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=10)
    add_options(parser, minutes=5.0, cases=40)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = open_dataset(options.data)
    cases = [read_case(folder.cases[name]) for name in spread(folder, "val", options.cases)]
    chosen = [folder.cases[name] for name in spread(folder, "train", options.images)]
    dims = cases[0][0].spec.spatial_ndim
    values = {
        "pairs": [(case.images[0], case.label) for case in chosen],
        "device": options.device,
        "preprocess": {"dims": dims},
        "training": budget(options),
    }
    title = f"new {dims}D model from {len(chosen)} of {folder.root.name}, {options.threads} threads"
    measured_training(values, cases, title)


if __name__ == "__main__":
    main()
