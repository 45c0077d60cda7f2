"""Dice over minutes of a new 3D model from a few annotated slices of three hippocampus scans.

    python3 run.py bench sparse_training DIR/msd_hippocampus [--slices 1 3 5 0] [--scans 3] [--minutes 5] [--threads 2]

Of each of the first training scans (of ACDC, the two time points of a patient are two) only so many axial slices keep
their labels, evenly spaced over the object (0 for all slices); the others are set to 0 and count as not annotated. The
Dice is that of validation scans, all of whose slices are annotated.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measured_training import add_options, budget, measured_training
from numpy.typing import NDArray

from prosma_core.io.dataset_folder import open_dataset, read_case
from prosma_core.io.images import write_labels


def keep_slices(labels: NDArray[Any], count: int) -> NDArray[Any]:
    """Labels of `count` axial slices, evenly spaced over what is labeled (all for 0); 0 on the others."""
    data = labels.copy()
    if count:
        full = np.flatnonzero((data > 0).any(axis=(1, 2)))
        kept = full[np.linspace(0, len(full) - 1, count + 2).round().astype(int)[1:-1]]
        data[np.setdiff1d(np.arange(len(data)), kept)] = 0
    return data


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--slices", type=int, nargs="+", default=[5])
    parser.add_argument("--scans", type=int, default=3)
    add_options(parser, minutes=5.0, cases=35)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = open_dataset(options.data)
    cases = [read_case(folder.cases[name]) for name in folder.splits["val"][: options.cases]]
    for slices in options.slices:
        with tempfile.TemporaryDirectory() as place:
            pairs = []
            for name in folder.splits["train"][: options.scans]:
                labels, path = read_case(folder.cases[name])[1], Path(place) / f"{name}.nii.gz"
                write_labels(path, keep_slices(labels.data, slices), labels.spec)
                pairs.append((folder.cases[name].images[0], path))
            values = {
                "pairs": pairs,
                "device": options.device,
                "labels": {"zero": "annotated_slices", "slice_axis": "z"},
                "training": budget(options),
            }
            title = f"{slices or 'all'} slices of each of {options.scans} scans, {options.threads} threads"
            measured_training(values, cases, title)


if __name__ == "__main__":
    main()
