"""What fine-tuning on a few slices wins back on scans of another scanner.

    python3 run.py bench other_scanner DIR/msd_hippocampus [--slices 3] [--scans 3] [--minutes 3] [--threads 2] \
        [--start before.safetensors] [--epochs 1 --training steps=60 trained_share=1 distillation=0]

Scans of the hippocampus as a worse scanner would give them: with a strong bias field, noise, and slices twice as thick.
The shipped model is measured on validation scans as they are and made worse, and on the latter once more after it was
fine-tuned on a few annotated slices of the first training scans, made worse, too.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from _measured_training import add_options, budget, mean_dice, measured_training
from sparse_training import keep_slices

from prosma_core.data.geometry import Scan
from prosma_core.data.phantom import smooth_field
from prosma_core.io.bundle import find_model
from prosma_core.io.dataset_folder import open_dataset, read_case
from prosma_core.io.images import write_image, write_labels

MODEL = "hippocampus-mri"
BIAS, NOISE = 0.3, 0.15
"""Standard deviations: of the bias field's logarithm; of the noise, in those of the scan."""


def other_scanner(image: Scan, labels: Scan, rng: np.random.Generator) -> tuple[Scan, Scan]:
    """A scan with bias field and noise, of which every second slice is left, with a quarter of each neighbor in it."""
    biased = image.data * np.exp(BIAS * smooth_field(rng, image.data.shape, 3))
    thick, fewer = thick_slices(replace(image, data=biased), labels)
    noisy = thick.data + rng.normal(0, NOISE * thick.data.std(), thick.data.shape)
    return replace(thick, data=noisy.astype(np.float32)), fewer


def thick_slices(image: Scan, labels: Scan) -> tuple[Scan, Scan]:
    """Every second slice of a scan, with a quarter of each neighbor in it, and the labels of these slices."""
    padded = np.pad(image.data.astype(np.float64), ((1, 1), (0, 0), (0, 0)), mode="edge")
    thick = (padded[:-2] / 4 + padded[1:-1] / 2 + padded[2:] / 4)[::2]
    affine = image.spec.affine.copy()
    affine[:3, 0] *= 2
    spacing = (2 * image.spec.spacing[0], *image.spec.spacing[1:])
    spec = replace(image.spec, shape=thick.shape, spacing=spacing, affine=affine, header=None)
    return Scan(thick, spec), Scan(labels.data[::2].copy(), spec)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--slices", type=int, default=3)
    parser.add_argument("--scans", type=int, default=3)
    parser.add_argument("--start", default=MODEL, help="Model to start from.")
    parser.add_argument("--first", type=int, default=0, help="Number of the first training scan.")
    parser.add_argument("--training", nargs="+", default=[], metavar="NAME=VALUE", help="Settings of the training.")
    add_options(parser, minutes=3.0, cases=35)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = open_dataset(options.data)
    rng = np.random.default_rng(0)
    clean = [read_case(folder.cases[name]) for name in folder.splits["val"][: options.cases]]
    worse = [other_scanner(image, labels, rng) for image, labels in clean]
    before, lost = (mean_dice(find_model(options.start), cases) for cases in (clean, worse))
    print(
        f"{options.start}, mean Dice of {len(clean)} validation scans: {before:.4f}; made worse: {lost:.4f}", flush=True
    )
    chosen = {name: float(value) for name, value in (each.split("=") for each in options.training)}
    with tempfile.TemporaryDirectory() as place:
        pairs = []
        for name in folder.splits["train"][options.first : options.first + options.scans]:
            image, labels = other_scanner(*read_case(folder.cases[name]), rng)
            paths = Path(place) / f"{name}.nii.gz", Path(place) / f"{name}-labels.nii.gz"
            write_image(paths[0], image.data, image.spec)
            write_labels(paths[1], keep_slices(labels.data, options.slices), labels.spec)
            pairs.append(paths)
        values = {
            "pairs": pairs,
            "init": options.start,
            "device": options.device,
            "labels": {"zero": "annotated_slices", "slice_axis": "z"},
            "training": budget(options) | chosen,
        }
        title = f"fine-tuned on {options.slices} slices of each of {options.scans} scans, {options.threads} threads"
        after = measured_training(values, worse, title)
    print(f"share of the loss won back: {(after - lost) / (before - lost):.2f}")


if __name__ == "__main__":
    main()
