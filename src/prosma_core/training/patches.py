"""Batches of patches: drawn, turned and zoomed in one interpolation each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from prosma_core.config.training import AugmentConfig
from prosma_core.data.grid import thick_axes
from prosma_core.data.labels import IGNORED
from prosma_core.training.cases import TrainingCase


class PatchSampler:
    """Draws patches from cases that are in memory; the same generator state gives the same patches.

    Parameters
    ----------
    cases : sequence of TrainingCase
        On the device the patches are wanted on.
    patch : tuple of int
        Patch size.
    spacing : tuple of float
        Voxel size of the grid: rotations are rotations of space, not of voxels.
    foreground : float
        Share of patches centred on a foreground voxel; the others lie anywhere, or about an annotated voxel where
        the case is sparsely annotated.
    augment : AugmentConfig
    """

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        patch: tuple[int, ...],
        spacing: tuple[float, ...],
        foreground: float,
        augment: AugmentConfig,
    ) -> None:
        self.cases = cases
        self.patch = patch
        self.spacing = np.array(spacing)
        self.foreground = foreground
        self.augment = augment
        self.thick = thick_axes(spacing) if len(patch) == 3 else ()
        self.mirror = [i for i, a in enumerate("zyx"[-len(patch) :]) if a in augment.mirror]

    def draw(self, batch_size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """A batch.

        Returns
        -------
        images : Tensor, float32, shape (B, C, *patch)
        labels : Tensor, int64, shape (B, 1, *patch)
        """
        numbers = Random(int(torch.randint(2**62, (), generator=rng)))  # plain numbers: a GPU waits for each of torch's
        pairs = [self._draw_one(numbers) for _ in range(batch_size)]
        return torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs]).long()[:, None]

    def _draw_one(self, rng: Random) -> tuple[Tensor, Tensor]:
        case = rng.choice(self.cases)
        centre = self._centre(case, rng)
        matrix = self._matrix(rng)
        if matrix is None:
            image, labels = self._crop(case, centre)
        else:
            image, labels = self._interpolate(case, centre, matrix)
        flips = [a for a in self.mirror if rng.random() < 0.5]
        return (image.flip([a + 1 for a in flips]), labels.flip(flips)) if flips else (image, labels)

    def _centre(self, case: TrainingCase, rng: Random) -> list[float]:
        grid = case.labels.shape
        if case.points and rng.random() < self.foreground:
            points = rng.choice(case.points)
            wanted = points[rng.randrange(len(points))].tolist()
        elif case.annotated is not None:  # anywhere in the middle half of the patch
            point = case.annotated[rng.randrange(len(case.annotated))].tolist()
            wanted = [v + p * rng.uniform(-0.25, 0.25) for v, p in zip(point, self.patch, strict=True)]
        else:
            wanted = [rng.uniform(0, n - 1) for n in grid]
        centre = []
        for value, n, p in zip(wanted, grid, self.patch, strict=True):
            # keep the patch inside the scan where it fits, and the scan inside the patch where it does not
            low, high = sorted((p / 2 - 0.5, n - p / 2 - 0.5))
            centre.append(min(max(value, low), high))
        return centre

    def _matrix(self, rng: Random) -> NDArray[np.float64] | None:
        """Patch voxels to scan voxels, about the centre; None where the patch is neither turned nor zoomed."""
        a, dims = self.augment, len(self.patch)
        rotate, zoom = rng.random() < a.p_rotate, rng.random() < a.p_scale
        if not rotate and not zoom:
            return None
        matrix = np.eye(dims)
        if rotate:
            planes = [(i, j) for i in range(dims) for j in range(i + 1, dims) if not {i, j} & set(self.thick)]
            for i, j in planes:
                angle = math.radians(rng.uniform(-a.rotate_degrees, a.rotate_degrees))
                matrix = matrix @ _rotation(dims, i, j, angle)
        if zoom:
            factor = math.exp(rng.uniform(math.log(a.scale[0]), math.log(a.scale[1])))
            matrix = matrix * [1.0 if i in self.thick else 1 / factor for i in range(dims)]
        scaled: NDArray[np.float64] = matrix * self.spacing / self.spacing[:, None]
        return scaled

    def _crop(self, case: TrainingCase, centre: list[float]) -> tuple[Tensor, Tensor]:
        starts = [round(c - (p - 1) / 2) for c, p in zip(centre, self.patch, strict=True)]
        grid = case.labels.shape
        inside = tuple(slice(max(0, s), min(n, s + p)) for s, p, n in zip(starts, self.patch, grid, strict=True))
        pads = [
            amount
            for s, p, n in reversed(list(zip(starts, self.patch, grid, strict=True)))
            for amount in (max(0, -s), max(0, s + p - n))
        ]
        outside = 0 if case.annotated is None else IGNORED
        return F.pad(case.image[(slice(None), *inside)], pads), F.pad(case.labels[inside], pads, value=outside)

    def _interpolate(
        self, case: TrainingCase, centre: list[float], matrix: NDArray[np.float64]
    ) -> tuple[Tensor, Tensor]:
        grid = np.array(case.labels.shape)
        turned = matrix * self.patch / grid[:, None]  # grid_sample counts from -1 to 1, edge to edge, and x first
        shift = (2 * np.array(centre) + 1) / grid - 1
        both = np.concatenate([turned[::-1, ::-1], shift[::-1, None]], axis=1, dtype=np.float32)
        affine = torch.from_numpy(both)[None].to(case.image.device, non_blocking=True)  # a device is not waited for
        where = F.affine_grid(affine, [1, 1, *self.patch], align_corners=False)
        image = F.grid_sample(case.image[None], where, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
        outside = 0 if case.annotated is None else IGNORED  # grid_sample fills with 0
        shifted = case.labels[None, None].float()
        if outside:
            shifted -= outside
        labels = F.grid_sample(shifted, where, mode="nearest", align_corners=False)[0, 0]
        if outside:
            labels += outside
        return image, labels.to(case.labels.dtype)


def _rotation(dims: int, i: int, j: int, angle: float) -> NDArray[np.float64]:
    matrix = np.eye(dims)
    matrix[i, i] = matrix[j, j] = math.cos(angle)
    matrix[i, j], matrix[j, i] = -math.sin(angle), math.sin(angle)
    return matrix
