"""Dice over minutes of a new 3D model from a few annotated slices of three hippocampus scans.

    python3 run.py bench sparse_training DIR/msd_hippocampus [--slices 5] [--scans 3] [--minutes 5] [--threads 2]

Of each of the first training scans only `--slices` axial slices keep their labels, evenly spaced over the object (0 for
all slices); the others are set to 0 and count as not annotated. Prints the Dice on the held-out slices after each epoch
and, after training, the Dice of the finished model on `--cases` validation scans, all of whose slices are annotated.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prosma_core.cli.options import drain
from prosma_core.config.inference import InferenceConfig
from prosma_core.config.run import resolve_run
from prosma_core.data.geometry import Scan
from prosma_core.data.labels import class_indices
from prosma_core.events import EpochDone, Event
from prosma_core.inference.segment import Segmenter
from prosma_core.io.dataset_folder import open_dataset, read_case
from prosma_core.io.images import write_labels
from prosma_core.training.loop import train
from prosma_core.training.validate import dice_per_class


def keep_slices(labels: NDArray[Any], count: int) -> NDArray[Any]:
    """Labels of `count` axial slices, evenly spaced over what is labelled (all for 0); 0 on the others."""
    data = labels.copy()
    if count:
        full = np.flatnonzero((data > 0).any(axis=(1, 2)))
        kept = full[np.linspace(0, len(full) - 1, count + 2).round().astype(int)[1:-1]]
        data[np.setdiff1d(np.arange(len(data)), kept)] = 0
    return data


def whole_scans_dice(model: Path, cases: Iterable[tuple[Scan, Scan]]) -> float:
    """Mean Dice of scans and classes, on the scans' own grids."""
    segmenter = Segmenter.load(model, torch.device("cpu"))
    classes, scores = segmenter.header.classes, []
    for image, labels in cases:
        found = drain(segmenter.segment(image, InferenceConfig()), lambda _: None).labels.data
        pair = [torch.from_numpy(class_indices(values, classes, "a scan")) for values in (found, labels.data)]
        scores.append(dice_per_class(pair[0], pair[1], len(classes)))
    return float(np.mean(scores))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--slices", type=int, default=5)
    parser.add_argument("--scans", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--epochs", type=int, help="Instead of minutes, where the machine is not quiet.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = open_dataset(options.data)
    curve: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as place:
        pairs = []
        for name in folder.splits["train"][: options.scans]:
            labels, path = read_case(folder.cases[name])[1], Path(place) / f"{name}.nii.gz"
            write_labels(path, keep_slices(labels.data, options.slices), labels.spec)
            pairs.append((folder.cases[name].images[0], path))
        run = resolve_run(
            {
                "pairs": pairs,
                "out": Path(place) / "sparse.safetensors",
                "preset": "quick",
                "device": "cpu",
                "labels": {"zero": "annotated_slices", "slice_axis": "z"},
                "training": {"epochs": options.epochs} if options.epochs else {"minutes": options.minutes},
            }
        )
        began = time.monotonic()

        def show(event: Event) -> None:
            if isinstance(event, EpochDone) and event.mean_dice is not None:
                minutes = (time.monotonic() - began) / 60
                curve.append((round(minutes, 2), round(event.mean_dice, 4)))
                line = f"{minutes:5.2f} min  epoch {event.epoch}  loss {event.loss:.3f}  Dice {event.mean_dice:.4f}"
                print(line, flush=True)

        result = drain(train(run), show)
        trained = (time.monotonic() - began) / 60
        names = folder.splits["val"][: options.cases]
        final = whole_scans_dice(result.path, (read_case(folder.cases[name]) for name in names))
    if options.json:
        options.json.write_text(json.dumps({"curve": curve, "final": final, "minutes": trained}, indent=1))
    print(
        f"{options.slices or 'all'} slices of {options.scans} scans, {trained:.1f} minutes, {options.threads} threads:"
    )
    print(f"mean Dice of {options.cases} validation scans: {final:.4f}")


if __name__ == "__main__":
    main()
