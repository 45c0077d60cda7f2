"""Which slice to annotate next: Dice after 1 to 10 slices by several ways to choose, with labels from the reference.

    python3 run.py bench next_slice DIR/acdc --recipe benchmarks/recipes/few-thick-slices.yaml \
        --encoder lite0.safetensors --steps 300 [--device cuda --workers 12] [--seeds 0 1 2] [--out results.jsonl]
    python3 run.py bench next_slice DIR/msd_hippocampus --recipe benchmarks/recipes/few-slices-3d.yaml

A person has a few scans (`--scans`, others for each seed) and annotates one slice at a time; after each, a network is
trained from the same start on all slices so far. Dice of the validation scans, and of the scans themselves.
`pretrained_encoder.py` says what the recipes and `--encoder` are.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measured_training import in_parallel, write_line
from _recipe import OUTSIDE, Case, Images, Recipe, Training, build, predict, score, train_together
from _recipe_data import Pair, as_case, read_pair, training_images
from numpy.typing import NDArray
from pretrained_encoder import read_recipe
from torch import Tensor, nn

from prosma_core.data.next_slice import power_scores
from prosma_core.io.dataset_folder import DatasetFolder, open_dataset

TABLE = 2520
"""Length of the table of images that are drawn: a multiple of 1 to 10."""


@dataclass
class Pool:
    """Slices of a few scans, what is annotated so far, and what a network says of them.

    Attributes
    ----------
    place : ndarray, int64, shape (slices, 2)
        Scan of each slice, and its number there.
    depth : ndarray, int64, shape (scans,)
        Slices of each scan.
    full : ndarray, bool, shape (slices,)
        Which hold an object.
    rng : Generator
    annotated : list of int
        Numbers of slices, in order.
    entropy : ndarray, float64, shape (slices, K)
        Mean over a slice of the entropy of voxels that are predicted to be of a class.
    """

    place: NDArray[np.int64]
    depth: NDArray[np.int64]
    full: NDArray[np.bool_]
    rng: np.random.Generator
    annotated: list[int] = field(default_factory=list)
    entropy: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 1)))

    @property
    def left(self) -> NDArray[np.bool_]:
        """Which slices are not annotated."""
        left = np.ones(len(self.place), bool)
        left[self.annotated] = False
        return left

    def distance(self) -> NDArray[np.float64]:
        """Of each slice to the nearest annotated one of its scan, as a share of the scan; 1 where there is none."""
        away = np.ones(len(self.place))
        for number in self.annotated:
            scan, z = self.place[number]
            same = self.place[:, 0] == scan
            away[same] = np.minimum(away[same], np.abs(self.place[same, 1] - z) / self.depth[scan])
        return away

    def best(self, scores: NDArray[np.float64], among: NDArray[np.bool_] | None = None) -> int:
        """The slice with the highest score that is not annotated; among some of them where any is left."""
        left = self.left
        if among is not None and (left & among).any():
            left &= among
        return int(np.argmax(np.where(left, scores, -np.inf)))


def at_random(pool: Pool) -> int:
    """Any slice."""
    return pool.best(pool.rng.random(len(pool.place)))


def at_random_in_the_object(pool: Pool) -> int:
    """Any slice that holds an object, as a person sees."""
    return pool.best(pool.rng.random(len(pool.place)), pool.full)


def evenly(pool: Pool, among: NDArray[np.bool_] | None = None) -> int:
    """Scan by scan in turn; the middle first, then what halves, quarters, … the stack."""
    step = len(pool.annotated)
    scan, turn = step % len(pool.depth), step // len(pool.depth) + 1
    share, half = 0.0, 0.5
    while turn:
        share, turn, half = share + half * (turn % 2), turn // 2, half / 2
    here = (pool.place[:, 0] == scan) & (True if among is None else among)
    stack = pool.place[here, 1]
    wanted = stack.min() + share * (stack.max() - stack.min())
    away = np.abs(pool.place[:, 1] - wanted)
    return pool.best(-away, here)


def evenly_in_the_object(pool: Pool) -> int:
    """As `evenly`, over what holds an object, as a person sees."""
    return evenly(pool, pool.full)


def by_entropy(pool: Pool) -> int:
    """The slice with the highest mean entropy."""
    return pool.best(pool.entropy.sum(1)) if pool.annotated else evenly(pool)


def by_entropy_and_distance(pool: Pool) -> int:
    """Mean entropy times the distance to what is annotated, which counts in full from a quarter of the scan on."""
    return pool.best(pool.entropy.sum(1) * np.minimum(1, 4 * pool.distance())) if pool.annotated else evenly(pool)


def by_entropy_after_middles(pool: Pool) -> int:
    """The middle of each scan, then as `by_entropy_and_distance`."""
    return evenly(pool) if len(pool.annotated) < len(pool.depth) else by_entropy_and_distance(pool)


def by_class(pool: Pool, *, noise: float = 1.0) -> int:
    """ClaSP PE for slices, what the product suggests by: see `power_scores`. Neighbors are not left out here."""
    if not pool.annotated:
        return evenly(pool)
    return pool.best(power_scores(pool.entropy, len(pool.annotated), pool.left, pool.rng, noise=noise)[0])


def by_class_without_noise(pool: Pool) -> int:
    """As `by_class`, the highest score itself."""
    return by_class(pool, noise=0.0)


WAYS: dict[str, Callable[[Pool], int]] = {
    "random": at_random,
    "random, object": at_random_in_the_object,
    "even": evenly,
    "even, object": evenly_in_the_object,
    "entropy": by_entropy,
    "entropy, distance": by_entropy_and_distance,
    "middles, then entropy, distance": by_entropy_after_middles,
    "ClaSP PE": by_class,
    "class entropy": by_class_without_noise,
}


class Annotator:
    """Scans of one seed on a device, and the labels that have been asked for."""

    def __init__(self, pairs: Sequence[Pair], recipe: Recipe, seed: int, device: str) -> None:
        self.recipe = recipe
        data = training_images(pairs, recipe)
        self.images, self.truth = data.images, data.labels.clone().to(device)
        self.data = Images(data.images.to(device), torch.full_like(self.truth, OUTSIDE))
        self.data.drawn = torch.zeros(TABLE, dtype=torch.int64, device=device)
        depth = np.array([len(labels) for _, labels in pairs])
        place = np.array([(scan, z) for scan, n in enumerate(depth) for z in range(n)])
        full = np.concatenate([(labels > 0).any(axis=(1, 2)) for _, labels in pairs])
        self.pool = Pool(place, depth, full, np.random.default_rng(seed))

    def rows(self, labels: Tensor) -> Tensor:
        """Slices of labels or of a map on the canvas, in the order of the pool."""
        if self.recipe.dims == 2:
            return labels
        depth, canvas = self.pool.depth, labels.shape[1]
        return torch.cat([v[(canvas - n) // 2 : (canvas - n) // 2 + n] for v, n in zip(labels, depth, strict=True)])

    def annotate(self, number: int) -> None:
        """Ask for the labels of a slice."""
        pool = self.pool
        pool.annotated.append(number)
        scan, z = pool.place[number]
        at: Any = number if self.recipe.dims == 2 else (scan, z + (self.truth.shape[1] - pool.depth[scan]) // 2)
        self.data.labels[at] = self.truth[at]
        images = pool.annotated if self.recipe.dims == 2 else pool.place[pool.annotated, 0].tolist()
        assert self.data.drawn is not None
        self.data.drawn.copy_(torch.tensor(images * (TABLE // len(images) + 1))[:TABLE])

    def look(self, model: nn.Module, classes: int) -> float:
        """Let the pool know what a network says of its slices; mean Dice of the scans."""
        pool = self.pool
        probabilities = predict(model, self.images.numpy(), self.recipe)
        entropy = self.rows(-(probabilities * probabilities.clamp_min(1e-8).log()).sum(1))
        found, truth = self.rows(probabilities.argmax(1)), self.rows(self.truth)
        inside = truth != OUTSIDE
        each = [(entropy * (inside & (found == c))).flatten(1).sum(1) for c in range(classes)]
        pool.entropy = (torch.stack(each, 1) / inside.flatten(1).sum(1)[:, None]).double().cpu().numpy()
        scan, dice = torch.from_numpy(pool.place[:, 0]).to(found.device), list[float]()
        for c in range(1, classes):
            both, size = ((found == c) & (truth == c)).flatten(1).sum(1), ((found == c) & inside).flatten(1).sum(1)
            size = size + (truth == c).flatten(1).sum(1)
            dice += [float(2 * both[scan == i].sum() / size[scan == i].sum()) for i in range(len(pool.depth))]
        return float(np.mean(dice))


def scans_of(folder: DatasetFolder, seed: int, count: int) -> list[str]:
    """Names of training scans, others for each seed; no two of them with the same number (of a patient)."""
    first = {"".join(re.findall(r"\d+", name)[:1]): name for name in reversed(folder.splits["train"])}
    names = [name for name in folder.splits["train"] if name in first.values()]
    return [names[(count * seed + i) % len(names)] for i in range(count)]


def work(options: argparse.Namespace, seed: int) -> None:
    """Annotate slice by slice with one seed, in all ways side by side; a line for each slice and way."""
    recipe = read_recipe(options.recipe, [f"seed={seed}", *options.set], None, options.steps)
    folder = open_dataset(options.data)
    pairs = [read_pair(folder, name) for name in scans_of(folder, seed, options.scans)]
    classes = 1 + max(int(labels.max()) for _, labels in pairs)
    cases: list[Case] = [as_case(read_pair(folder, name), recipe) for name in folder.splits["val"]]
    annotators = {way: Annotator(pairs, recipe, seed, options.device) for way in options.ways}
    for way, annotator in annotators.items():
        annotator.annotate(WAYS[way](annotator.pool))
    trainings = [
        Training(build(recipe, each.images.shape[1], classes, options.encoder), each.data, recipe)
        for each in annotators.values()
    ]
    for count in range(1, options.slices + 1):
        for (way, annotator), done in zip(annotators.items(), train_together(trainings), strict=True):
            scans = annotator.look(done.model, classes)
            pool, last = annotator.pool, annotator.pool.annotated[-1]
            result = {
                "data": folder.root.name,
                "way": way,
                "seed": seed,
                "slices": count,
                "dice": round(float(np.nanmean(score(done.model, cases, recipe, classes))), 4),
                "dice_of_scans": round(scans, 4),
                "last": [*pool.place[last].tolist(), bool(pool.full[last])],
                "seconds": round(done.seconds, 1),
            }
            write_line(result, options.out)
            if count < options.slices:
                annotator.annotate(WAYS[way](pool))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, help="Converted weights; recipes from scratch need none.")
    parser.add_argument("--scans", type=int, default=3)
    parser.add_argument("--slices", type=int, default=10)
    parser.add_argument("--steps", type=int, help="Instead of the recipe's.")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="Change settings of the recipe.")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="File that results are added to, one line each.")
    options = parser.parse_args()
    in_parallel(work, options, options.seeds)


if __name__ == "__main__":
    main()
