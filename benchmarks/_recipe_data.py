"""Data folders as the arrays that `_recipe.py` trains on."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from _nuclei import touching_classes
from _recipe import OUTSIDE, Case, Images, Recipe
from numpy.typing import NDArray
from torch.nn import functional as F

from prosma_core.io.dataset_folder import DatasetFolder, read_case

Pair = tuple[NDArray[np.uint8], NDArray[Any]]
"""An image of shape (C, *grid) and its labels, shape (*grid)."""


def read_pair(folder: DatasetFolder, name: str) -> Pair:
    """A case in 8 bits: pictures unchanged, volumes from their 0.5th to 99.5th percentile; label 255 is class 1."""
    image, labels = read_case(folder.cases[name])
    data, found = np.asarray(image.data), np.asarray(labels.data)
    data = data if data.ndim > found.ndim else data[None]
    if found.ndim == 3 or data.min() < 0 or data.max() > 255:
        low, high = np.percentile(data, [0.5, 99.5])
        data = np.clip((data - low) / max(high - low, 1e-6), 0, 1) * 255
    values = np.unique(found)
    return data.round().astype(np.uint8), (found > 0).astype(np.uint8) if values[values > 0].tolist() == [
        255
    ] else found


def pixel_sizes(folder: DatasetFolder) -> dict[str, float]:
    """Pixel size of each case in micrometers, from the folder's cases.csv."""
    with (folder.root / "cases.csv").open(encoding="utf-8", newline="") as file:
        return {row["name"]: float(row["pixel_size_um"]) for row in csv.DictReader(file)}


def one_channel(pair: Pair, channels: int) -> Pair:
    """A pair as it is, or gray where the other images of its set are."""
    image, labels = pair
    return (image if len(image) == channels else image.mean(0, keepdims=True).round().astype(np.uint8)), labels


def training_images(pairs: Sequence[Pair], recipe: Recipe) -> Images:
    """Pairs on the recipe's canvas: slices of volumes where it is 2D, crops of images that are larger."""
    if recipe.touching:
        pairs = [(image, touching_classes(labels)) for image, labels in pairs]
    if pairs[0][1].ndim > recipe.dims:
        slices = [s for pair in pairs for s in slices_of(pair, neighbors=recipe.neighbors)]
        pairs = [(image, labels) for image, labels in slices if (labels != OUTSIDE).any()]
    if recipe.fit:
        pairs = [fitted(pair, max(recipe.canvas)) for pair in pairs]
    else:
        pairs = [crop for pair in pairs for crop in _crops(pair, recipe.canvas)]
    images = np.full((len(pairs), len(pairs[0][0]), *recipe.canvas), 127, np.uint8)
    labels = np.full((len(pairs), *recipe.canvas), OUTSIDE, np.uint8)
    for i, (image, found) in enumerate(pairs):
        inner = tuple(slice((c - n) // 2, (c - n) // 2 + n) for c, n in zip(recipe.canvas, found.shape, strict=True))
        images[(i, slice(None), *inner)] = image
        labels[(i, *inner)] = found
    return Images(torch.from_numpy(images), torch.from_numpy(labels))


def _crops(pair: Pair, canvas: tuple[int, ...]) -> list[Pair]:
    """Crops of at most the canvas that cover an image, evenly spaced."""
    image, labels = pair
    starts = []
    for n, side in zip(labels.shape, canvas, strict=True):
        count = -(-n // side)
        starts.append([round(i * (n - side) / (count - 1)) for i in range(count)] if count > 1 else [0])
    places = [tuple(slice(s, s + c) for s, c in zip(at, canvas, strict=True)) for at in itertools.product(*starts)]
    return [(image[(slice(None), *place)], labels[place]) for place in places]


def fitted(pair: Pair, side: int) -> Pair:
    """A pair resized so that its longest side is `side`."""
    image, labels = pair
    factor = side / max(labels.shape)
    if factor == 1:
        return pair
    grid = [max(1, round(n * factor)) for n in labels.shape]
    x, y = torch.tensor(image)[None].float(), torch.tensor(labels)[None, None].float()
    x = F.interpolate(x, grid, mode="bilinear", antialias=factor < 1)[0]
    y = F.interpolate(y, grid, mode="nearest-exact")[0, 0]
    return x.round().clamp(0, 255).to(torch.uint8).numpy(), y.to(torch.uint8).numpy()


def slices_of(pair: Pair, *, neighbors: bool) -> list[Pair]:
    """The slices of a volume as images, with the slices before and after as channels if wanted."""
    stack, labels = pair[0][0], pair[1]
    if not neighbors:
        return [(stack[i][None], labels[i]) for i in range(len(stack))]
    padded = np.pad(stack, ((1, 1), (0, 0), (0, 0)), mode="edge")
    return [(padded[i : i + 3], labels[i]) for i in range(len(stack))]


def as_case(pair: Pair, recipe: Recipe) -> Case:
    """A pair as it is measured."""
    pairs = slices_of(pair, neighbors=recipe.neighbors) if pair[1].ndim > recipe.dims else [pair]
    return np.stack([image for image, _ in pairs]), np.stack([labels for _, labels in pairs])


def few_slices(labels: NDArray[Any], count: int) -> NDArray[np.uint8]:
    """Labels of `count` slices, evenly spaced over the object; the others are ignored."""
    full = np.flatnonzero((labels > 0).any(axis=(1, 2)))
    kept = full[np.linspace(0, len(full) - 1, count + 2).round().astype(int)[1:-1]]
    result = np.full(labels.shape, OUTSIDE, np.uint8)
    result[kept] = labels[kept]
    return result
