"""A training recipe in one place, on arrays: images or volumes in memory; on a GPU every step is one CUDA graph.

Everything random is drawn on the device, so that a step is nothing but the replay of a graph: an H200 does 200 steps
of 8 images in about two seconds, and many settings can be compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from _lite0 import Lite0, Norm, PretrainedUNet
from numpy.typing import NDArray
from torch import Tensor, nn

from prosma_core.config.base import Config
from prosma_core.config.model import GateConfig, GateKind, ModelConfig
from prosma_core.data.augment import bias_field
from prosma_core.data.labels import IGNORED
from prosma_core.model.unet import UNet


class Augmentation(Config):
    """Random changes of a training image."""

    flip: str = "yx"
    """Axes that are mirrored."""
    rotate: float = 30.0
    """Degrees, at most."""
    zoom: tuple[float, float] = (0.65, 1.55)
    shift: float = 0.2
    """Of a side, at most."""
    elastic: float = 0.0
    """Deviation of the displacement, as a share of a side."""
    contrast: float = 0.35
    """Largest change of the logarithm."""
    brightness: float = 0.2
    """Half the range of values is 1."""
    gamma: float = 0.0
    """Largest change of the exponent's logarithm."""
    gain: float = 0.15
    """Largest change of each color channel's logarithm."""
    noise: float = 0.1
    """Largest deviation."""
    blur: float = 0.0
    """Share of images that are blurred or sharpened."""
    bias: float = 0.0
    """Share of images with a smooth gain."""
    boxes: float = 0.0
    """Share of images with a box of another one, its labels too."""


class Recipe(Config):
    """Everything that decides the result of a training."""

    dims: Literal[2, 3] = 2
    """3 for volumes; 2 for images, and for volumes slice by slice."""
    neighbors: bool = False
    """Slices of volumes: the slices before and after it are further channels."""
    canvas: tuple[int, ...] = (352, 352)
    """Training images lie in the middle of a canvas of this size; larger ones are cut into crops."""
    fit: bool = True
    """The longest side of an image is brought to that of the canvas; else its pixels are not resampled."""
    touching: bool = False
    """Labels are instances: class 1 is their inside, class 2 what lies within 2 pixels of two of them."""
    network: Literal["lite0", "scratch", "unet"] = "lite0"
    """Pretrained encoder, the same encoder from scratch, or the U-Net of the package."""
    widths: tuple[int, ...] = (24, 32, 64, 96, 128)
    """Of the decoder, finest first; one more than the encoder has resolutions adds one at full resolution."""
    gate: GateKind = "prosma"
    norm: Norm = "frozen"
    still: int = 0
    """Blocks of the encoder that are not trained."""
    size: tuple[int, ...] = (256, 256)
    """Size of a patch, which is the network's input in training."""
    covers: float = 1.0
    """Share of the canvas that a patch covers without zoom."""
    standard: bool = False
    """Bring each image to mean 0 and deviation 1, instead of (x - 127) / 128."""
    steps: int = 200
    batch: int = 8
    minutes: float | None = None
    """End after so many minutes instead of steps."""
    rate: float = 1e-3
    encoder_rate: float = 0.3
    """The encoder's share of the rate."""
    warmup: float = 0.05
    decay: float = 0.01
    average: float = 0.99
    """Decay of the averaged weights."""
    dice: Literal["each", "present", "batch"] = "each"
    """Dice image by image, of the classes that an image has, or of all images of a step together."""
    smooth: float = 1e-5
    entropy: float = 1.0
    """Weight of the cross-entropy."""
    deep: bool = True
    """Loss at coarser levels as well."""
    half: bool = False
    """bf16 on a CPU as well."""
    channels_last: bool = True
    augment: Augmentation = Augmentation()
    seed: int = 0


@dataclass
class Images:
    """Training images on one canvas.

    Attributes
    ----------
    images : Tensor, uint8, shape (N, C, *canvas)
    labels : Tensor, uint8, shape (N, *canvas)
        `OUTSIDE` where there is no image or nothing is annotated.
    drawn : Tensor or None, int64
        Numbers of the images that are drawn, on their device; None draws all.
    """

    images: Tensor
    labels: Tensor
    drawn: Tensor | None = None


OUTSIDE = 255
"""Label of what does not count."""

Case = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""An image of shape (slices, C, *grid) and its labels, (slices, *grid); a volume that is segmented as a whole is one
slice."""


def build(recipe: Recipe, channels: int, classes: int, weights: Path | None) -> nn.Module:
    """The network of a recipe, with fresh weights but for the encoder's."""
    torch.manual_seed(recipe.seed)
    gate = GateConfig(kind=recipe.gate)
    if recipe.network != "unet":
        encoder = Lite0(weights if recipe.network == "lite0" else None, recipe.norm, recipe.still)
        return PretrainedUNet(encoder, channels, classes, recipe.widths, gate)
    stages, dims = len(recipe.widths), recipe.dims
    config = {
        "dims": dims,
        "in_channels": channels,
        "num_classes": classes,
        "widths": recipe.widths,
        "strides": ((1,) * dims, *((2,) * dims for _ in range(stages - 1))),
        "kernels": ((3,) * dims,) * stages,
        "gate": gate,
    }
    return UNet(ModelConfig.parse(config, "The network"))


class Batches:
    """Draws augmented batches on the device, without waiting for it."""

    def __init__(self, data: Images, recipe: Recipe) -> None:
        self.data, self.recipe = data, recipe
        canvas = data.labels.shape[1:]
        device = data.labels.device
        axes = [(2 * torch.arange(n, device=device) + 1) / n - 1 for n in recipe.size]
        self.base = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) * torch.tensor(
            [n / max(recipe.size) for n in recipe.size], device=device
        )  # isotropic: 1 is half the longest side
        self.per_axis = torch.tensor([max(canvas) / n for n in canvas], device=device)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Normalized images, float32, shape (B, C, *size), and labels, int64, shape (B, *size)."""
        recipe, augment, data = self.recipe, self.recipe.augment, self.data
        batch, dims, device = recipe.batch, recipe.dims, self.base.device
        chosen = torch.randint(len(data.images if data.drawn is None else data.drawn), (batch,), device=device)
        chosen = chosen if data.drawn is None else data.drawn[chosen]
        matrix = self._matrices(batch)
        shift = _signed(batch, dims, device=device) * augment.shift * 2 * recipe.covers
        where = torch.einsum("...j,bij->b...i", self.base, matrix) + shift.view(batch, *(1,) * dims, dims)
        if augment.elastic:
            coarse = torch.randn(batch, dims, *(5,) * dims, device=device) * 2 * augment.elastic * recipe.covers
            mode = "bilinear" if dims == 2 else "trilinear"
            where = where + F.interpolate(coarse, recipe.size, mode=mode, align_corners=True).movedim(1, -1)
        where = (where * self.per_axis).flip(-1)  # grid_sample wants x first
        images = F.grid_sample(data.images[chosen].float() - 127, where, align_corners=False) / 128
        labels = data.labels[chosen, None].float() - OUTSIDE
        labels = F.grid_sample(labels, where, mode="nearest", align_corners=False)[:, 0].round().long() + OUTSIDE
        images = self._intensities(images)
        if augment.boxes:
            images, labels = self._boxes(images, labels)
        return images, labels.masked_fill(labels == OUTSIDE, IGNORED)

    def _matrices(self, batch: int) -> Tensor:
        augment, dims, device = self.recipe.augment, self.recipe.dims, self.base.device
        low, high = (math.log(z) for z in augment.zoom)
        zoom = torch.exp(-(low + (high - low) * torch.rand(batch, 1, 1, device=device)))
        matrix = torch.eye(dims, device=device).expand(batch, dims, dims) * zoom * self.recipe.covers
        for i in range(dims):
            for j in range(i + 1, dims):
                angle = _signed(batch, device=device) * math.radians(augment.rotate)
                turn = torch.eye(dims, device=device).repeat(batch, 1, 1)
                turn[:, i, i] = turn[:, j, j] = angle.cos()
                turn[:, j, i] = angle.sin()
                turn[:, i, j] = -angle.sin()
                matrix = matrix @ turn
        for axis, name in enumerate("zyx"[-dims:]):
            if name in augment.flip:
                matrix = matrix.clone()
                matrix[:, :, axis] *= torch.rand(batch, 1, device=device).sub(0.5).sign()
        return matrix

    def _intensities(self, x: Tensor) -> Tensor:
        augment, batch, dims, device = self.recipe.augment, len(x), self.recipe.dims, x.device
        shape = (batch, *(1,) * (dims + 1))
        if augment.gamma:
            x = ((x + 1) / 2).clamp_min(1e-4).pow(torch.exp(_signed(*shape, device=device) * augment.gamma)) * 2 - 1
        if augment.bias:
            waves = torch.randn(batch, *(3,) * dims, device=device)
            strength = (0.1 + 0.3 * torch.rand(shape, device=device)) * (
                torch.rand(shape, device=device) < augment.bias
            )
            x = bias_field(x, waves, strength)
        mean = x.mean(dim=tuple(range(1, x.ndim)), keepdim=True)
        x = (x - mean) * torch.exp(_signed(*shape, device=device) * augment.contrast) + mean
        x = x + _signed(*shape, device=device) * augment.brightness
        if x.shape[1] == 3 and augment.gain:
            x = (x + 1) * torch.exp(_signed(batch, 3, *(1,) * dims, device=device) * augment.gain) - 1
        if augment.blur:
            pool = F.avg_pool2d if dims == 2 else F.avg_pool3d
            amount = torch.rand(shape, device=device) * 1.6 - 0.6
            x = x + amount * (torch.rand(shape, device=device) < augment.blur) * (pool(x, 5, 1, 2) - x)
        x = x + torch.randn_like(x) * torch.rand(shape, device=device) * augment.noise
        return standard(x) if self.recipe.standard else x

    def _boxes(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        batch, dims, device = len(images), self.recipe.dims, images.device
        center, half = (
            torch.rand(batch, dims, device=device) * 2 - 1,
            0.2 + 0.3 * torch.rand(batch, dims, device=device),
        )
        half = half * (torch.rand(batch, 1, device=device) < self.recipe.augment.boxes)
        view = (batch, *(1,) * dims, dims)
        inside = ((self.base - center.view(view)).abs() < half.view(view)).all(-1)
        return torch.where(inside[:, None], images.roll(1, 0), images), torch.where(inside, labels.roll(1, 0), labels)


def _signed(*shape: int, device: torch.device) -> Tensor:
    """Uniform in [-1, 1)."""
    return torch.rand(shape, device=device) * 2 - 1


def standard(x: Tensor) -> Tensor:
    """Each image and channel with mean 0 and deviation 1."""
    std, mean = torch.std_mean(x, dim=tuple(range(2, x.ndim)), keepdim=True)
    return (x - mean) / std.clamp_min(1e-4)


def loss_of(logits: Sequence[Tensor], labels: Tensor, recipe: Recipe) -> Tensor:
    """Dice and cross-entropy of what is annotated, with weights 1, 1/2, 1/4, … of the levels, finest first."""
    total, weights = torch.zeros((), device=labels.device), 0.0
    for level, z in enumerate(logits):
        target = labels
        if z.shape[2:] != labels.shape[1:]:
            if level == 0:  # a network whose finest level is half the resolution
                z = F.interpolate(z, labels.shape[1:], mode="bilinear")
            else:
                target = F.interpolate(labels[:, None].float(), z.shape[2:], mode="nearest")[:, 0].long()
        weight = 0.5**level
        total = total + weight * _dice_and_entropy(z.float(), target, recipe)
        weights += weight
    return total / weights


def _dice_and_entropy(logits: Tensor, target: Tensor, recipe: Recipe) -> Tensor:
    known = target != IGNORED
    index = target.clamp_min(0)
    log = logits.log_softmax(1)
    entropy = (-log.gather(1, index[:, None])[:, 0] * known).sum() / known.sum().clamp_min(1)
    wanted = torch.zeros_like(log).scatter_(1, index[:, None], 1.0)[:, 1:] * known[:, None]
    found = log.exp()[:, 1:] * known[:, None]
    axes = tuple(range(2, log.ndim))
    both, sizes, present = (found * wanted).sum(axes), (found + wanted).sum(axes), wanted.sum(axes)
    if recipe.dice == "batch":
        both, sizes = both.sum(0, keepdim=True), sizes.sum(0, keepdim=True)
    missed = 1 - (2 * both + recipe.smooth) / (sizes + recipe.smooth)
    if recipe.dice == "present":
        missed = missed * (present > 0) / (present > 0).float().mean().clamp_min(1e-3)
    return missed.mean() + recipe.entropy * entropy


@dataclass
class Trained:
    """A network with averaged weights, and what it took."""

    model: nn.Module
    steps: int
    seconds: float
    loss: float


def train(model: nn.Module, data: Images, recipe: Recipe) -> Trained:
    """Train a network on the device of the images."""
    return Training(model, data, recipe).run()


class Training:
    """A training that can be run again from the same weights, after the labels on the device have changed.

    On a GPU each has a stream of its own: several that run in turn overlap there (see `train_together`).
    """

    def __init__(self, model: nn.Module, data: Images, recipe: Recipe) -> None:
        self.recipe, self.device = recipe, data.images.device
        self.stream = torch.cuda.Stream() if self.device.type == "cuda" else None
        model = model.to(self.device).train()
        if recipe.network != "unet" and recipe.channels_last:
            model = model.to(memory_format=torch.channels_last)
        self.model = model
        torch.manual_seed(recipe.seed)
        groups = _groups(model, recipe)
        for group in groups:
            group["base"] = group["lr"]
            if self.stream is not None:
                group["lr"] = torch.tensor(group["lr"], device=self.device)
        graphed = self.stream is not None
        self.optimizer = torch.optim.AdamW(groups, fused=graphed, capturable=graphed)
        self.batches = Batches(data, recipe)
        self.learned = [p for p in model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.learned]
        self.keep, self.loss = (torch.zeros((), device=self.device) for _ in range(2))
        self.start = {name: value.clone() for name, value in model.state_dict().items()}
        self.done, self.seconds = 0, 0.0
        self.step = self._step if self.stream is None else _graph(self._step, self.stream)

    def run(self) -> Trained:
        """Train from the beginning; the network of an earlier run is the same object."""
        for _ in self.steps():
            pass
        return self.result()

    def steps(self) -> Iterator[None]:
        """Train from the beginning, step by step."""
        recipe = self.recipe
        self._restart()
        began = time.monotonic()
        while True:
            self.seconds = time.monotonic() - began
            share = self.seconds / (60 * recipe.minutes) if recipe.minutes else self.done / recipe.steps
            if share >= 1:
                break
            factor = min(1.0, (share + 1 / recipe.steps) / recipe.warmup) * 0.5 * (1 + math.cos(math.pi * share))
            with nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
                for group in self.optimizer.param_groups:
                    if self.stream is not None:
                        group["lr"].fill_(group["base"] * factor)
                    else:
                        group["lr"] = group["base"] * factor
                self.keep.fill_(min(recipe.average, (1 + self.done) / (10 + self.done)))
                self.step()
            self.done += 1
            yield

    def result(self) -> Trained:
        """The network with averaged weights, after the last step."""
        began = time.monotonic()
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)
        loss = float(self.loss)
        with torch.no_grad():
            torch._foreach_copy_(self.learned, self.average)
        return Trained(self.model.eval(), self.done, self.seconds + time.monotonic() - began, loss)

    def _restart(self) -> None:
        """The weights of the beginning, and nothing remembered of steps."""
        self.done = 0
        self.model.load_state_dict(self.start)
        self.model.train()
        for state in self.optimizer.state.values():
            for value in state.values():
                value.zero_()
        with torch.no_grad():
            torch._foreach_copy_(self.average, self.learned)
        torch.manual_seed(self.recipe.seed)
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream())

    def _step(self) -> None:
        recipe, cuda = self.recipe, self.stream is not None
        self.optimizer.zero_grad(set_to_none=True)
        images, labels = self.batches.draw()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=cuda or recipe.half, cache_enabled=False):
            logits = self.model.forward_deep(images)
        loss = loss_of(logits if recipe.deep else logits[:1], labels, recipe)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learned, 5.0, foreach=True)
        self.optimizer.step()
        torch._foreach_mul_(self.average, self.keep)
        torch._foreach_add_(self.average, torch._foreach_mul([p.detach() for p in self.learned], 1 - self.keep))
        self.loss.copy_(loss.detach())


def train_together(trainings: Sequence[Training]) -> list[Trained]:
    """Trainings of as many steps, a step of each in turn: small kernels leave room on a GPU for those of others."""
    for _ in zip(*(training.steps() for training in trainings), strict=True):
        pass
    return [training.result() for training in trainings]


def _groups(model: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Parameters by rate and decay; norms, biases and thresholds do not decay."""
    kinds = dict[tuple[bool, bool], list[Tensor]]()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            encoder = recipe.network == "lite0" and name.startswith("encoder.")
            kinds.setdefault((encoder, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": recipe.rate * (recipe.encoder_rate if encoder else 1.0),
            "weight_decay": recipe.decay if decays else 0.0,
        }
        for (encoder, decays), parameters in kinds.items()
        if not encoder or recipe.encoder_rate > 0
    ]


def _graph(step: Callable[[], None], stream: torch.cuda.Stream) -> Callable[[], None]:
    """The step as a CUDA graph, captured on a stream after steps that warm up."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        step()
    return graph.replay


def predict(model: nn.Module, image: NDArray[np.uint8], recipe: Recipe, *, mirror: str = "") -> Tensor:
    """Class probabilities, shape (slices, K, *grid), of an image, uint8, shape (slices, C, *grid).

    Where a patch covers the whole canvas in 2D, the longest side of the image is brought to that of the patch; else
    the image keeps its resolution. It is padded to a multiple of the network's strides.
    """
    device = next(model.parameters()).device
    x = torch.from_numpy(image).to(device).float()
    grid = x.shape[2:]
    divisor = 32 if recipe.network != "unet" else 2 ** (len(recipe.widths) - 1)
    if recipe.dims == 2 and recipe.covers == 1:
        factor = max(recipe.size) / max(grid)
        target = [max(1, round(n * factor)) for n in grid]
        x = F.interpolate(x, target, mode="bilinear", antialias=factor < 1, align_corners=False)
    inner = x.shape[2:]
    x = (x - 127) / 128
    pads = [(-n) % divisor for n in inner]
    x = F.pad(x, [v for p in reversed(pads) for v in (p // 2, p - p // 2)])
    x = standard(x) if recipe.standard else x
    axes = ["zyx"[-recipe.dims :].index(a) + 2 for a in mirror]
    views = [[a for i, a in enumerate(axes) if bits >> i & 1] for bits in range(2 ** len(axes))]
    total: Tensor | None = None
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        for flips in views:
            z = torch.cat([model(part.flip(flips)).flip(flips) for part in x.split(16)]).float()
            z = z[(..., *(slice(p // 2, p // 2 + n) for p, n in zip(pads, inner, strict=True)))]
            total = z.softmax(1) if total is None else total + z.softmax(1)
    assert total is not None
    total = total / len(views)
    if total.shape[2:] != grid:
        total = F.interpolate(total, grid, mode="bilinear", align_corners=False)
    return total


def score(
    model: nn.Module, cases: Sequence[Case], recipe: Recipe, classes: int, *, mirror: str = ""
) -> NDArray[np.float64]:
    """Dice of each case and class, shape (cases, classes - 1), on the case's own grid; nan where neither has any."""
    result = np.full((len(cases), classes - 1), np.nan)
    for rows in _alike(cases):
        image = np.concatenate([cases[i][0] for i in rows])
        found = predict(model, image, recipe, mirror=mirror).argmax(1)
        wanted = torch.from_numpy(np.concatenate([cases[i][1] for i in rows])).to(found.device)
        for c in range(1, classes):
            both = ((found == c) & (wanted == c)).flatten(1).sum(1).view(len(rows), -1).sum(1)
            size = ((found == c).long() + (wanted == c)).flatten(1).sum(1).view(len(rows), -1).sum(1)
            dice = torch.where(size > 0, 2 * both / size, torch.nan)
            result[rows, c - 1] = dice.cpu().numpy()
    return result


def _alike(cases: Sequence[Case]) -> list[list[int]]:
    """Numbers of cases of the same shape, at most 64 together."""
    groups = dict[tuple[int, ...], list[int]]()
    for i, (image, _) in enumerate(cases):
        groups.setdefault(image.shape, []).append(i)
    return [rows[i : i + 64] for rows in groups.values() for i in range(0, len(rows), 64)]
