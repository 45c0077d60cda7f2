"""What fine-tuning on a few slices wins back on scans of another scanner.

    python3 run.py bench other_scanner DIR/msd_hippocampus [--slices 3] [--minutes 3] [--threads 2]

Validation scans of the hippocampus with a strong bias field, noise and doubled slice thickness: the shipped model is
measured on `--cases` of them before and after it is fine-tuned on `--slices` annotated slices of each of three others.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sparse_training import keep_slices, whole_scans_dice

from prosma_core.cli.options import drain
from prosma_core.config.run import resolve_run
from prosma_core.data.geometry import Scan
from prosma_core.data.random_fields import smooth_field
from prosma_core.io.dataset_folder import open_dataset, read_case
from prosma_core.io.images import write_image, write_labels
from prosma_core.io.models import find_model
from prosma_core.training.loop import train

MODEL = "hippocampus-mri"


def other_scanner(image: Scan, labels: Scan, rng: np.random.Generator) -> tuple[Scan, Scan]:
    """A scan as a worse scanner would give it: bias field, noise, every second slice, twice as thick."""
    values = image.data.astype(np.float32)
    values = values * np.exp(0.6 * smooth_field(rng, values.shape, 3))
    values = values + rng.normal(0, 0.15 * values.std(), values.shape)
    pairs = len(values) // 2
    thick = values[: 2 * pairs].reshape(pairs, 2, *values.shape[1:]).mean(axis=1).astype(np.float32)
    affine = image.spec.affine.copy()
    affine[:3, 3] += 0.5 * affine[:3, 0]
    affine[:3, 0] *= 2
    spacing = (2 * image.spec.spacing[0], *image.spec.spacing[1:])
    spec = replace(image.spec, shape=thick.shape, spacing=spacing, affine=affine, header=None)
    return Scan(thick, spec), Scan(labels.data[: 2 * pairs : 2].copy(), spec)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--slices", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = open_dataset(options.data)
    rng = np.random.default_rng(0)
    clean = [read_case(folder.cases[name]) for name in folder.splits["val"][: 3 + options.cases]]
    worse = [other_scanner(image, labels, rng) for image, labels in clean]
    start = find_model(MODEL)
    print(f"{MODEL} on {options.cases} scans: {whole_scans_dice(start, clean[3:]):.4f}")
    print(f"the same of another scanner: {whole_scans_dice(start, worse[3:]):.4f}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        pairs = []
        for i, (image, labels) in enumerate(worse[:3]):
            paths = Path(place) / f"scan{i}.nii.gz", Path(place) / f"labels{i}.nii.gz"
            write_image(paths[0], image.data, image.spec)
            write_labels(paths[1], keep_slices(labels.data, options.slices), labels.spec)
            pairs.append(paths)
        values = {
            "pairs": pairs,
            "init": MODEL,
            "out": Path(place) / "tuned.safetensors",
            "preset": "quick",
            "device": "cpu",
            "labels": {"zero": "annotated_slices", "slice_axis": "z"},
            "training": {"minutes": options.minutes, "learning_rate": 3e-4},
        }
        result = drain(train(resolve_run(values)), lambda _: None)
        print(f"fine-tuned for {options.minutes:g} minutes: {whole_scans_dice(result.path, worse[3:]):.4f}")


if __name__ == "__main__":
    main()
