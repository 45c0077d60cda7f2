"""What a shipped model's settings reach on all training images, each answered by a model that has not seen it.

    python3 run.py bench shipped_folds DIR [breast-lesion-us] [--parallel 5] [--device cuda] [--only 0 1] [--epochs 40]
    python3 run.py bench shipped_folds DIR axon-myelin-sem --parallel 4

DIR holds the data sets. The training images are dealt into as many folds as `shipped_models.yaml` says; images that
look alike (thumbnails with a correlation above 0.95, such as repeated frames) stay in one, and where it says so all
images of an animal (what their names begin with: ``rat3_data9``). Of the images that show a class: Dice, IoU, and in
how many it is missed; of the others: in how many it was found. For data sets in 2D, whose kinds of images, or animals,
begin their names.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import yaml
from _shipped import Scores, scores
from numpy.typing import NDArray
from PIL import Image
from shipped_facts import SAID, SETTINGS, data_of

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import MISSED
from prosma_core.config.training import load_run_yaml, merge, resolve_run
from prosma_core.data.labels import class_indices
from prosma_core.events import drain
from prosma_core.inference.device import choose_device
from prosma_core.inference.segment import Segmenter
from prosma_core.io.dataset_folder import DatasetFolder, open_dataset, read_case
from prosma_core.training.loop import train

ALIKE, SIDE = 0.95, 32

Found = dict[str, tuple[float, float, bool, bool]]
"""By class: Dice and IoU, whether the image shows it, and whether it was found."""


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", nargs="?", default="breast-lesion-us")
    parser.add_argument("--parallel", type=int, default=1, help="Folds side by side.")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", type=int, nargs="+", help="Only these folds, from 0.")
    parser.add_argument("--settings", type=Path, help="YAML of what differs from the shipped settings.")
    parser.add_argument("--epochs", type=int, help="Instead of those of the settings, to try it.")
    options = parser.parse_args()
    said = yaml.safe_load(SAID.read_text(encoding="utf-8"))[options.model]
    with tempfile.TemporaryDirectory() as place:
        folder = data_of(said, options.data, Path(place) / "set")
        parts = dealt(open_dataset(folder), said["folds"]["count"], by_animal=said["folds"].get("by_animal", False))
        os.environ.setdefault("OMP_NUM_THREADS", "2" if options.parallel == 1 else "1")
        every: list[Found] = []
        with ProcessPoolExecutor(options.parallel, multiprocessing.get_context("spawn")) as pool:
            numbers = options.only or range(len(parts))
            jobs = [(n, pool.submit(measured, folder, parts[n], options)) for n in numbers]
            for number, job in jobs:
                results = job.result()
                every += results
                print(f"fold {number}, {len(results)} images: {said_of(results)}", flush=True)
    print(f"all {len(every)} images: {said_of(every)}")


def said_of(results: list[Found]) -> str:
    """Text of each class."""
    parts = []
    for name in results[0]:
        shown = [each[name] for each in results if each[name][2]]
        without = [each[name] for each in results if not each[name][2]]
        if shown:
            dice, iou = (mean(values[i] for values in shown) for i in (0, 1))
            missed = sum(values[0] < MISSED for values in shown)
            parts.append(f"{name}: Dice {dice:.3f}, IoU {iou:.3f}, missed in {missed} of {len(shown)}")
        if without:
            parts.append(f"{name} found in {sum(values[3] for values in without)} of {len(without)} without it")
    return "; ".join(parts)


def dealt(folder: DatasetFolder, count: int, *, by_animal: bool) -> list[list[str]]:
    """Training cases in folds, each kind of image spread evenly, images that look alike (or of an animal) together."""
    names = folder.splits["train"]
    views = np.stack([thumbnail(folder.cases[name].images[0]) for name in names])
    kinds = [name.split("_")[0] for name in names]
    alike = views @ views.T > ALIKE
    if by_animal:
        alike |= np.equal.outer(kinds, kinds)
    group = list(range(len(names)))

    def first(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    for i, j in zip(*np.nonzero(np.triu(alike, 1)), strict=True):
        group[first(int(i))] = first(int(j))
    groups: dict[int, list[str]] = {}
    for i, name in enumerate(names):
        groups.setdefault(first(i), []).append(name)
    folds: list[list[str]] = [[] for _ in range(count)]
    for together in sorted(groups.values(), key=lambda each: (-len(each), each[0])):
        kind = together[0].split("_")[0]
        least = min(folds, key=lambda fold: (sum(name.startswith(kind) for name in fold), len(fold)))
        least += together
    return folds


def thumbnail(path: Path) -> NDArray[np.float64]:
    """A small gray copy of an image, flat, with mean 0 and length 1."""
    values = np.asarray(Image.open(path).convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), float).ravel()
    values -= values.mean()
    scaled: NDArray[np.float64] = values / np.linalg.norm(values)
    return scaled


def measured(root: Path, held_out: list[str], options: argparse.Namespace) -> list[Found]:
    """Train without the held-out images, and what is found in each of them."""
    folder = open_dataset(root)
    with tempfile.TemporaryDirectory() as place:
        data, out = Path(place) / "data", Path(place) / "model.safetensors"
        data.mkdir()
        for part in ("images", "labels"):
            (data / part).symlink_to((folder.root / part).resolve())
        trained = [name for name in folder.splits["train"] if name not in set(held_out)]
        (data / "splits.json").write_text(json.dumps({"train": trained, "val": held_out}), encoding="utf-8")
        values: dict[str, Any] = load_run_yaml(SETTINGS / f"{options.model}.yaml")
        if options.settings:
            values = merge(values, load_run_yaml(options.settings))
        if options.epochs:
            values = merge(values, {"training": {"epochs": options.epochs}})
        values = merge(values, {"data": data, "out": out, "device": options.device})
        drain(train(resolve_run(values)), lambda _: None)
        segmenter = Segmenter.load(out, choose_device(options.device).device)
        return [found_in(segmenter, folder, name) for name in held_out]


def found_in(segmenter: Segmenter, folder: DatasetFolder, case: str) -> Found:
    """What a model finds in one image."""
    image, labels = read_case(folder.cases[case])
    result = drain(segmenter.segment(image, InferenceConfig()), lambda _: None).labels.data
    classes = segmenter.header.classes
    found, wanted = (class_indices(np.asarray(values), classes, case) for values in (result, labels.data))
    names = [info.name for info in classes[1:]]
    each: Scores = scores(found, wanted, names)
    return {
        name: (*each[name], bool((wanted == number).any()), bool((found == number).any()))
        for number, name in enumerate(names, 1)
    }


if __name__ == "__main__":
    main()
