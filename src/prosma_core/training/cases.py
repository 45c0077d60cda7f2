"""Training cases on the network's grid, in memory or read by parts, and batches of augmented patches of them."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from prosma_core.config.model import ClassInfo, PreprocessConfig
from prosma_core.config.training import AugmentConfig
from prosma_core.data.frames import frames
from prosma_core.data.geometry import Scan
from prosma_core.data.grid import NetworkGrid, network_grid, thick_axes
from prosma_core.data.intensities import check_channels, fit_channels
from prosma_core.data.labels import IGNORED, Annotation, class_indices
from prosma_core.data.normalization import check_not_blank, measure
from prosma_core.data.point_table import LabelFacts
from prosma_core.data.resample import resize, resize_labels
from prosma_core.data.stored_annotation import StoredAnnotation
from prosma_core.errors import ChannelError, GeometryError, IntensityError
from prosma_core.events import Working
from prosma_core.training.stored_cases import StoredImage, StoredLabels, stored_frames

MAX_POINTS = 5000
"""Voxels kept per class, and of all that are annotated, to center patches on."""


@dataclass(frozen=True, eq=False)
class TrainingCase:
    """One frame, ready for the network.

    Attributes
    ----------
    name : str
    image : Tensor or StoredImage, float32, shape (C, *grid)
        Normalized.
    labels : Tensor or StoredLabels, uint8, int16 or int32, shape (*grid)
        Class indices, `IGNORED` where nothing is known.
    points : list of Tensor, int64, shape (n, dims)
        Voxels of each foreground class that is present.
    annotated : Tensor or None, int64, shape (n, dims)
        Of a sparsely annotated scan: voxels of any class, background too. Patches lie there, and nothing is known
        outside the scan. None where patches may lie anywhere.
    probabilities : Tensor or None, float16, shape (K, *grid)
        Of a start model, for some classes; None where they are not wanted.
    scan : str
        Name of the case that it is a frame of.
    judged : Tensor or None, bool, shape (*grid)
        Annotated voxels by which a start model may be judged: those of edited slices. The others of a model's result,
        on slices that were only checked, are its own. None where all may.
    stored : LabelFacts or None
        Of a case that is read by parts, what is known of its labels; None of one in memory.
    """

    name: str
    image: Tensor | StoredImage
    labels: Tensor | StoredLabels
    points: list[Tensor]
    annotated: Tensor | None = None
    probabilities: Tensor | None = None
    scan: str = ""
    judged: Tensor | StoredLabels | None = None
    stored: LabelFacts | None = None

    @cached_property
    def present(self) -> frozenset[int]:
        """Indices of the classes in its labels."""
        return self.stored.present if self.stored else frozenset(torch.unique(self.labels_in_memory).tolist())

    @cached_property
    def unknown(self) -> bool:
        """Whether it holds voxels that are not annotated; a slice that is annotated as a whole does not."""
        return self.stored.unknown if self.stored else bool((self.labels_in_memory.int() == IGNORED).any())

    @property
    def image_in_memory(self) -> Tensor:
        """The image of a case in memory."""
        assert isinstance(self.image, Tensor)
        return self.image

    @property
    def labels_in_memory(self) -> Tensor:
        """The labels of a case in memory."""
        assert isinstance(self.labels, Tensor)
        return self.labels

    @property
    def masked(self) -> bool:
        """Whether patches of it may hold ignored voxels, also beyond its edge."""
        return self.annotated is not None or self.unknown

    def to(self, device: torch.device) -> TrainingCase:
        """The same case with its arrays on a device (points stay on the CPU)."""
        soft = None if self.probabilities is None else self.probabilities.to(device)
        image, labels = self.image_in_memory.to(device), self.labels_in_memory.to(device)
        return replace(self, image=image, labels=labels, probabilities=soft)


def prepare_case(
    name: str,
    image: Scan,
    labels: Annotation | StoredAnnotation,
    pre: PreprocessConfig,
    classes: tuple[ClassInfo, ...],
    seed: int,
) -> Generator[Working, None, list[TrainingCase]]:
    """Training cases of a scan, one per frame; frames without annotation, and of one value in stacks, are left out.

    With labels that are read by parts, the scan is, too; yields after each part then, and may be closed there.

    Raises
    ------
    ProsmaError
        Of the kinds `segment` raises, with the case named, or `LabelError` for values outside the classes.
    """
    if isinstance(labels, StoredAnnotation):
        return (yield from _stored_cases(name, image, labels, pre, classes, seed))
    try:
        check_channels(image, pre.channels)
        grid = network_grid(image.spec, pre)
    except (ChannelError, GeometryError) as error:
        msg = f"{name}: {error}"
        raise type(error)(msg) from error
    indices = class_indices(labels.values, classes, name)
    if labels.ignored is not None:
        indices = np.where(labels.ignored, np.int16(IGNORED), indices.astype(np.int16))
    unjudged = None if labels.edited is None else labels.only(labels.edited).ignored
    if unjudged is None or (labels.ignored is not None and np.array_equal(unjudged, labels.ignored)):
        unjudged = None
    rng = np.random.default_rng(seed)
    every, found = list(frames(image, pre.dims)), []
    for frame in every:
        wanted = grid.orient(indices[frame.index])
        if bool((wanted == IGNORED).all()) or (len(every) > 1 and frame.image.min() == frame.image.max()):
            continue
        try:
            how = measure([frame], pre.intensities)[0]
            check_not_blank(how)
            values = how.apply(grid.orient(fit_channels(frame.image, len(pre.channels))[0]))
        except IntensityError as error:
            msg = f"{name}: {error}"
            raise IntensityError(msg) from error
        tensor = resize(torch.from_numpy(np.ascontiguousarray(values)), grid.shape, grid.thick)
        target = np.ascontiguousarray(resize_labels(np.ascontiguousarray(wanted), grid.shape, grid.thick))
        points = [_some_points(target == c, rng) for c in range(1, len(classes))]
        case = TrainingCase(
            f"{name} {frame.name}".strip(),
            tensor,
            torch.from_numpy(target),
            [p for p in points if len(p)],
            _some_points(target != IGNORED, rng) if labels.sparse else None,
            scan=name,
            judged=None if unjudged is None else _judged(wanted, grid.orient(unjudged[frame.index]), grid),
        )
        found.append(case)
    return found


def _stored_cases(
    name: str,
    image: Scan,
    labels: StoredAnnotation,
    pre: PreprocessConfig,
    classes: tuple[ClassInfo, ...],
    seed: int,
) -> Generator[Working, None, list[TrainingCase]]:
    rng, found = np.random.default_rng(seed), []
    for frame in (yield from stored_frames(name, image, labels, pre, classes)):
        wanted = [*range(1, len(classes)), *[IGNORED] * labels.sparse]
        drawn = [torch.from_numpy(each) for each in frame.table.draw(wanted, MAX_POINTS, rng)]
        points, annotated = drawn[: len(classes) - 1], drawn[len(classes) - 1 :]
        case = TrainingCase(
            frame.name,
            frame.image,
            frame.labels,
            [p for p in points if len(p)],
            annotated[0] if annotated else None,
            scan=name,
            judged=frame.judged,
            stored=frame.table.facts,
        )
        found.append(case)
    return found


def _judged(wanted: NDArray[Any], unjudged: NDArray[np.bool_], grid: NetworkGrid) -> Tensor:
    """Annotated voxels of a frame, oriented, that are not to be left out, on the network's grid."""
    kept = np.where(unjudged, np.int16(IGNORED), (wanted != IGNORED).astype(np.int16) - 1)  # 0 or ignored
    return torch.from_numpy(resize_labels(np.ascontiguousarray(kept), grid.shape, grid.thick) != IGNORED)


def _some_points(mask: np.ndarray, rng: np.random.Generator) -> Tensor:
    points = np.argwhere(mask)
    if len(points) > MAX_POINTS:
        points = points[rng.choice(len(points), MAX_POINTS, replace=False)]
    return torch.from_numpy(points)


class PatchSampler:
    """Draws patches from cases; the same generator state gives the same patches.

    Parameters
    ----------
    cases : sequence of TrainingCase
        On one device, of whatever is in memory; those with probabilities have as many of them.
    patch : tuple of int
        Patch size.
    spacing : tuple of float
        Voxel size of the grid: rotations are rotations of space, not of voxels.
    foreground : float
        Share of patches centered on a foreground voxel; the others lie anywhere, or about an annotated voxel where
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
        self.probabilities = max((len(c.probabilities) for c in cases if c.probabilities is not None), default=0)
        self._base: Tensor | None = None
        self.mirror = [i for i, a in enumerate("zyx"[-len(patch) :]) if a in augment.mirror]

    def draw(self, batch_size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """A batch.

        Returns
        -------
        images : Tensor, float32, shape (B, C, *patch)
            Followed, along C, by the probabilities of a start model where a case has such; they are 0 outside of a
            scan, and in a case without.
        labels : Tensor, int64, shape (B, 1, *patch)
        """
        numbers = Random(int(torch.randint(2**62, (), generator=rng)))  # plain numbers: a GPU waits for each of torch's
        places = [self._place(numbers) for _ in range(batch_size)]
        turned = [self._about(p) for p in places if p.matrix is not None]
        grids = self._grids(np.stack([a for _, a in turned]), places[0].case.image.device) if turned else ()
        where = iter([(box, grid) for (box, _), grid in zip(turned, grids, strict=True)])
        pairs = [self._crop(p) if p.matrix is None else self._turn(p.case, *next(where)) for p in places]
        images, labels = zip(*(_flip(*pair, p.flips) for pair, p in zip(pairs, places, strict=True)), strict=True)
        return torch.stack(images), torch.stack(labels).long()[:, None]

    def _place(self, rng: Random) -> _Place:
        case = rng.choice(self.cases)
        center, matrix = self._center(case, rng), self._matrix(rng)
        return _Place(case, center, matrix, [a for a in self.mirror if rng.random() < 0.5])

    def _center(self, case: TrainingCase, rng: Random) -> list[float]:
        grid = case.labels.shape
        if case.points and rng.random() < self.foreground:
            points = rng.choice(case.points)
            wanted = points[rng.randrange(len(points))].tolist()
        elif case.annotated is not None:  # anywhere in the middle half of the patch
            point = case.annotated[rng.randrange(len(case.annotated))].tolist()
            wanted = [v + p * rng.uniform(-0.25, 0.25) for v, p in zip(point, self.patch, strict=True)]
        else:
            wanted = [rng.uniform(0, n - 1) for n in grid]
        center, shift = [], self.augment.shift
        for value, n, p in zip(wanted, grid, self.patch, strict=True):
            # keep the patch inside the scan where it fits, and the scan inside the patch where it does not
            low, high = sorted((p / 2 - 0.5, n - p / 2 - 0.5))
            center.append(min(max(value, low), high) + (rng.uniform(-shift, shift) * p if shift else 0.0))
        return center

    def _matrix(self, rng: Random) -> NDArray[np.float64] | None:
        """Patch voxels to scan voxels, about the center; None where the patch is neither turned nor zoomed."""
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

    def _crop(self, place: _Place) -> tuple[Tensor, Tensor]:
        case, grid = place.case, place.case.labels.shape
        starts = [round(c - (p - 1) / 2) for c, p in zip(place.center, self.patch, strict=True)]
        inside = tuple(slice(max(0, s), min(n, s + p)) for s, p, n in zip(starts, self.patch, grid, strict=True))
        pads = [
            amount
            for s, p, n in reversed(list(zip(starts, self.patch, grid, strict=True)))
            for amount in (max(0, -s), max(0, s + p - n))
        ]
        image, labels = self._with_probabilities(case, case.image[(slice(None), *inside)], inside), case.labels[inside]
        return F.pad(image, pads), F.pad(labels, pads, value=_outside(case))

    def _with_probabilities(self, case: TrainingCase, image: Tensor, part: tuple[slice, ...]) -> Tensor:
        """A part of the image, followed by its probabilities where any case has such."""
        if not self.probabilities:
            return image
        if case.probabilities is None:
            return torch.cat([image, image.new_zeros(self.probabilities, *image.shape[1:])])
        return torch.cat([image, case.probabilities[(slice(None), *part)].float()])

    def _turn(self, case: TrainingCase, box: tuple[slice, ...], where: Tensor) -> tuple[Tensor, Tensor]:
        """Image and labels of a turned patch, from the places of its voxels in a box of the case."""
        image = self._with_probabilities(case, case.image[(slice(None), *box)], box)
        image = F.grid_sample(image[None], where[None], mode="bilinear", padding_mode="zeros", align_corners=False)[0]
        labels, outside = case.labels[box], _outside(case)
        shifted = labels[None, None].float() - outside  # grid_sample fills with 0
        turned = F.grid_sample(shifted, where[None], mode="nearest", align_corners=False)[0, 0] + outside
        return image, turned.to(labels.dtype)

    def _about(self, place: _Place) -> tuple[tuple[slice, ...], NDArray[np.float64]]:
        """The box of a case that a turned patch reaches: all that is read of it; and where the patch lies in it.

        That is an affine in the coordinates of grid_sample: from -1 to 1, edge to edge, and x first.
        """
        assert place.matrix is not None
        grid, middle = np.array(place.case.labels.shape), np.array(place.center)
        turned = place.matrix * self.patch / 2
        reach = np.abs(turned).sum(1)
        low = np.clip(np.floor(middle - reach).astype(int), 0, grid - 1)
        high = np.clip(np.ceil(middle + reach).astype(int) + 1, low + 1, grid)
        size, shift = high - low, (2 * (middle - low) + 1) / (high - low) - 1
        affine = np.concatenate([(2 * turned / size[:, None])[::-1, ::-1], shift[::-1, None]], axis=1)
        return tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True)), affine

    def _grids(self, affines: NDArray[np.float64], device: torch.device) -> Tensor:
        """Where the voxels of each turned patch lie, shape (n, *patch, dims); one small copy to the device for all."""
        if self._base is None:
            axes = [(2 * torch.arange(n, device=device) + 1) / n - 1 for n in self.patch]
            x_first = torch.meshgrid(*axes, indexing="ij")[::-1]
            self._base = torch.stack([*x_first, torch.ones_like(x_first[0])], dim=-1).flatten(
                0, -2
            )  # (voxels, dims + 1)
        sent = torch.from_numpy(affines.astype(np.float32)).to(device, non_blocking=True)
        return (self._base @ sent.mT).view(len(sent), *self.patch, len(self.patch))


@dataclass(frozen=True)
class _Place:
    """Where a patch comes from: a case, a point in it, how it is turned and zoomed (None: not), what is mirrored."""

    case: TrainingCase
    center: list[float]
    matrix: NDArray[np.float64] | None
    flips: list[int]


def _flip(image: Tensor, labels: Tensor, axes: list[int]) -> tuple[Tensor, Tensor]:
    return (image.flip([a + 1 for a in axes]), labels.flip(axes)) if axes else (image, labels)


def _outside(case: TrainingCase) -> int:
    """Label of what lies outside of a scan."""
    return 0 if case.annotated is None else IGNORED


def _rotation(dims: int, i: int, j: int, angle: float) -> NDArray[np.float64]:
    matrix = np.eye(dims)
    matrix[i, i] = matrix[j, j] = math.cos(angle)
    matrix[i, j], matrix[j, i] = -math.sin(angle), math.sin(angle)
    return matrix
