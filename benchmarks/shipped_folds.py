"""What a shipped model's settings reach on all training images, each answered by a model that has not seen it.

    python3 run.py bench shipped_folds DIR/busi [--model breast-lesion-us] [--folds 5] [--device cuda] [--epochs 40]

The training images are dealt into folds; images that look alike (thumbnails with a correlation above 0.95, such as
repeated frames) stay in one. Of images with an object: Dice, IoU, and how many are missed; of images without: in how
many something was found. For data sets of one class in 2D, whose kinds of images begin with their kind (``normal_12``).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean

import numpy as np
from _shipped import scores
from numpy.typing import NDArray
from PIL import Image
from shipped_facts import SETTINGS

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.training import load_run_yaml, merge, resolve_run
from prosma_core.data.labels import class_indices
from prosma_core.events import drain
from prosma_core.inference.device import choose_device
from prosma_core.inference.segment import Segmenter
from prosma_core.io.bundle import MISSED
from prosma_core.io.dataset_folder import DatasetFolder, open_dataset, read_case
from prosma_core.training.loop import train

ALIKE, SIDE = 0.95, 32

Result = tuple[float, float] | bool
"""Dice and IoU; of an image without an object, whether something was found."""


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="breast-lesion-us", help="Whose settings are taken.")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--epochs", type=int, help="Instead of those of the settings, to try it.")
    options = parser.parse_args()
    folder = open_dataset(options.data)
    parts = dealt(folder, options.folds)
    lesions, empty, found = list[tuple[float, float]](), 0, 0
    for number, held_out in enumerate(parts):
        results = measured(folder, held_out, options)
        with_object = [result for result in results if not isinstance(result, bool)]
        lesions += with_object
        without = [result for result in results if isinstance(result, bool)]
        empty, found = empty + len(without), found + sum(without)
        print(f"fold {number}: Dice {mean(d for d, _ in with_object):.3f} of {len(with_object)}, ", end="")
        print(f"something found in {sum(without)} of {len(without)} without an object", flush=True)
    dice, iou = (mean(result[i] for result in lesions) for i in (0, 1))
    missed = sum(d < MISSED for d, _ in lesions)
    print(
        f"all: Dice {dice:.3f}, IoU {iou:.3f}, missed {missed} of {len(lesions)}; found in {found} of {empty} without"
    )


def dealt(folder: DatasetFolder, count: int) -> list[list[str]]:
    """Training cases in folds, each kind of image spread evenly, images that look alike together."""
    names = folder.splits["train"]
    views = np.stack([thumbnail(folder.cases[name].images[0]) for name in names])
    group = list(range(len(names)))

    def first(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    for i, j in zip(*np.nonzero(np.triu(views @ views.T > ALIKE, 1)), strict=True):
        group[first(int(i))] = first(int(j))
    groups: dict[int, list[str]] = {}
    for i, name in enumerate(names):
        groups.setdefault(first(i), []).append(name)
    folds: list[list[str]] = [[] for _ in range(count)]
    for alike in sorted(groups.values(), key=lambda each: (-len(each), each[0])):
        kind = alike[0].split("_")[0]
        least = min(folds, key=lambda fold: (sum(name.startswith(kind) for name in fold), len(fold)))
        least += alike
    return folds


def thumbnail(path: Path) -> NDArray[np.float64]:
    """A small gray copy of an image, flat, with mean 0 and length 1."""
    values = np.asarray(Image.open(path).convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), float).ravel()
    values -= values.mean()
    scaled: NDArray[np.float64] = values / np.linalg.norm(values)
    return scaled


def measured(
    folder: DatasetFolder, held_out: list[str], options: argparse.Namespace
) -> list[tuple[float, float] | bool]:
    """Dice and IoU of each held-out image with an object; of one without, whether something was found."""
    with tempfile.TemporaryDirectory() as place:
        data, out = Path(place) / "data", Path(place) / "model.safetensors"
        data.mkdir()
        for part in ("images", "labels"):
            (data / part).symlink_to((folder.root / part).resolve())
        trained = [name for name in folder.splits["train"] if name not in set(held_out)]
        (data / "splits.json").write_text(json.dumps({"train": trained, "val": held_out}), encoding="utf-8")
        epochs = {"epochs": options.epochs} if options.epochs else {}
        values = {"data": data, "out": out, "device": options.device, "training": epochs}
        drain(train(resolve_run(merge(load_run_yaml(SETTINGS / f"{options.model}.yaml"), values))), lambda _: None)
        segmenter = Segmenter.load(out, choose_device(options.device).device)
        classes = segmenter.header.classes
        results: list[Result] = []
        for name in held_out:
            image, labels = read_case(folder.cases[name])
            result = drain(segmenter.segment(image, InferenceConfig()), lambda _: None).labels.data
            pair = [class_indices(np.asarray(values), classes, name) for values in (result, labels.data)]
            results.append(scores(*pair, ["object"])["object"] if pair[1].any() else bool(pair[0].any()))
        return results


if __name__ == "__main__":
    main()
