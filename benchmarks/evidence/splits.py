"""The training cases, divided once more: some to fit, the rest to choose learning rates on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from evidence.experiment import InnerSplit
from prosma_core.data.geometry import Scan
from prosma_core.data.resample import resize
from prosma_core.io.dataset_folder import DatasetFolder, read_channels

ALIKE = 0.93
"""Correlation of thumbnails from which on two pictures count as alike."""
THUMBNAIL = (24, 24)


def inner_split(folder: DatasetFolder, split: InnerSplit) -> tuple[list[str], list[str]]:
    """Names of the training cases to fit, and of those to choose on; groups are never divided."""
    names = sorted(folder.splits["train"])
    if split.group == "last":
        count = max(1, round(split.share * len(names)))
        return names[:-count], names[-count:]
    groups = _groups(folder, names, split.group)
    order = np.random.default_rng(split.seed).permutation(len(groups))
    chosen: list[str] = []
    for group in (groups[i] for i in order):
        if len(chosen) + len(group) <= max(1, round(split.share * len(names))):
            chosen += group
    chosen = chosen or groups[order[0]]
    return [name for name in names if name not in set(chosen)], sorted(chosen)


def alike_to_training(folder: DatasetFolder) -> list[str]:
    """Names of the validation pictures that look like a training picture."""
    train, val = (
        np.stack([thumbnail(read_channels(folder.cases[name].images)) for name in folder.splits[part]])
        for part in ("train", "val")
    )
    near = (val @ train.T >= ALIKE).any(axis=1)
    return sorted(name for name, is_near in zip(folder.splits["val"], near, strict=True) if is_near)


def _groups(folder: DatasetFolder, names: Sequence[str], kind: str) -> list[list[str]]:
    if kind == "case":
        return [[name] for name in names]
    if kind == "prefix":
        heads = [name.partition("_")[0] for name in names]
        return [[n for n, h in zip(names, heads, strict=True) if h == head] for head in sorted(set(heads))]
    pictures = np.stack([thumbnail(read_channels(folder.cases[name].images)) for name in names])
    return [[names[i] for i in group] for group in alike(pictures)]


def thumbnail(scan: Scan) -> NDArray[np.float32]:
    """A 2D picture without its colors on a small grid, zero mean and unit length, shape (576,)."""
    values = scan.data.astype(np.float32)
    gray = values.mean(axis=0) if "c" in scan.spec.axes else values
    small = resize(torch.from_numpy(np.ascontiguousarray(gray))[None], THUMBNAIL).numpy().ravel()
    small = small - small.mean()
    result: NDArray[np.float32] = small / max(float(np.linalg.norm(small)), 1e-6)
    return result


def alike(pictures: NDArray[np.float32], least: float = ALIKE) -> list[list[int]]:
    """Groups of pictures, each linked to another one of its group by a correlation of at least `least`.

    Parameters
    ----------
    pictures : ndarray, float32, shape (n, values)
        Each of zero mean and unit length.
    """
    near = pictures @ pictures.T >= least
    left, groups = set(range(len(pictures))), []
    while left:
        group, waiting = [], [min(left)]
        left.remove(waiting[0])
        while waiting:
            group.append(waiting.pop())
            found = [i for i in np.flatnonzero(near[group[-1]]).tolist() if i in left]
            left.difference_update(found)
            waiting += found
        groups.append(sorted(group))
    return groups
