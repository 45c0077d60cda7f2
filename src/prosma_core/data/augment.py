"""Random changes of a batch's intensities, on the device of the batch."""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from prosma_core.config.training import AugmentConfig

BLUR_RADIUS = 3
BIAS_WAVES = 3
"""A bias field has fewer half periods per axis."""


class AugmentParams(NamedTuple):
    """What is done to each patch of a batch: a value for each patch, as lists, or as Tensors of shape (B, 1, ...).

    Of the first five and of `bias`, 0 leaves a patch as it is; noise and bias are strengths, the others switches.
    """

    noise: Any
    blur: Any
    contrast: Any
    low_resolution: Any
    gamma: Any
    shift: Any
    scale: Any
    exponent: Any
    sign: Any
    bias: Any

    def on(self, images: Tensor) -> AugmentParams:
        """The same as Tensors on the device of `images`, copied there in one go."""
        table = torch.tensor(self).to(images.device, non_blocking=True)
        return AugmentParams(*table.view(len(self), -1, *(1,) * (images.ndim - 1)))


def augment_intensities(images: Tensor, config: AugmentConfig, rng: torch.Generator) -> Tensor:
    """A batch after random noise, blur, brightness, contrast, low resolution, gamma and bias field.

    Parameters
    ----------
    images : Tensor, float32, shape (B, C, *patch)
        Normalized to about zero mean and unit deviation.
    config : AugmentConfig
        Probabilities per patch.
    rng : torch.Generator
        On the CPU; the same state gives the same result on the same device.

    Returns
    -------
    Tensor, float32, shape (B, C, *patch)
    """
    seed = int(torch.randint(2**62, (), generator=rng))
    numbers = Random(seed)  # plain numbers: a GPU waits for each of torch's
    drawn, sigma, factor = draw_params(images.shape[0], config, numbers)
    if not any(map(any, (*drawn[:5], drawn.bias))):
        return images
    params = drawn.on(images)
    if any(drawn.noise):
        device_rng = torch.Generator(images.device).manual_seed(seed)
        images = images + params.noise * torch.randn(
            images.shape, generator=device_rng, device=images.device, dtype=images.dtype
        )
    if any(drawn.blur):
        images = torch.where(params.blur > 0, blur(images, torch.tensor(sigma)), images)
    if any(drawn.contrast):
        mean = images.mean(dim=tuple(range(2, images.ndim)), keepdim=True)
        images = torch.where(params.contrast > 0, (images - mean) * params.scale + mean + params.shift, images)
    if any(drawn.low_resolution):
        images = torch.where(params.low_resolution > 0, low_resolution(images, factor), images)
    if any(drawn.gamma):
        curved = params.sign * gamma_curve(params.sign * images, params.exponent)
        images = torch.where(params.gamma > 0, curved, images)
    if any(drawn.bias):
        batch, dims = images.shape[0], images.ndim - 2
        waves = torch.tensor([numbers.gauss(0, 1) for _ in range(batch * BIAS_WAVES**dims)])
        waves = waves.view(batch, *(BIAS_WAVES,) * dims).to(images.device, non_blocking=True)
        images = torch.where(params.bias > 0, bias_field(images, waves, params.bias), images)
    return images


def draw_params(batch: int, config: AugmentConfig, numbers: Random) -> tuple[AugmentParams, list[float], float]:
    """Draw what is done to each patch; the order of the draws is part of what a seed means.

    Returns
    -------
    AugmentParams
        Lists.
    list of float
        Width of each patch's blur, in voxels.
    float
        Size of the batch at low resolution, as a share.
    """

    def drawn(probability: float) -> list[float]:
        return [float(numbers.random() < probability) for _ in range(batch)]

    def between(low: float, high: float) -> list[float]:
        return [numbers.uniform(low, high) for _ in range(batch)]

    noise = [chosen * size for chosen, size in zip(drawn(config.p_noise), between(0, 0.3), strict=True)]
    switches = [drawn(p) for p in (config.p_blur, config.p_contrast, config.p_low_resolution, config.p_gamma)]
    sigma, factor = between(0.5, 1.0), numbers.uniform(0.5, 1.0)
    values = [between(-0.25, 0.25), between(0.7, 1.35), between(0.7, 1.5), [1 - 2 * v for v in drawn(0.5)]]
    bias = [chosen * size for chosen, size in zip(drawn(config.p_bias), between(0.1, 0.4), strict=True)]
    return AugmentParams._make((noise, *switches, *values, bias)), sigma, factor


def bias_field(images: Tensor, waves: Tensor, strength: Tensor) -> Tensor:
    """Batch times a smooth gain, the same for all channels, as of an MRI coil; mean and deviation stay.

    Parameters
    ----------
    images : Tensor, float32, shape (B, C, *patch)
    waves : Tensor, shape (B, K, ...) with one axis of length K for each of the patch
        Weight of each product of cosines of 0 to K - 1 half periods; long waves count more.
    strength : Tensor, shape (B, 1, ...)
        Standard deviation of the gain's logarithm.
    """
    dims = tuple(range(2, images.ndim))
    order = torch.arange(waves.shape[-1], device=waves.device, dtype=waves.dtype)
    squares = sum((order**2).view(-1, *(1,) * (len(dims) - 1 - axis)) for axis in range(len(dims)))
    field = waves / (1 + squares)
    for size in images.shape[2:]:  # the first axis of waves becomes the last axis of the grid, in turn
        place = (torch.arange(size, device=waves.device, dtype=waves.dtype) + 0.5) / size
        field = torch.tensordot(field, torch.cos(torch.pi * order[:, None] * place), dims=([1], [0]))
    std, mean = torch.std_mean(field, tuple(range(1, field.ndim)), keepdim=True)
    gain = torch.exp(strength * ((field - mean) / std.clamp_min(1e-6))[:, None])
    low = images.amin(dims, keepdim=True)
    return _restored((images - low) * gain + low, images)


def gamma_curve(images: Tensor, gamma: Tensor) -> Tensor:
    """Values on [min, max] of each patch and channel raised to `gamma`, then brought back to its mean and deviation.

    Parameters
    ----------
    images : Tensor, float32, shape (B, C, *patch)
    gamma : Tensor, broadcastable, > 0
    """
    dims = tuple(range(2, images.ndim))
    low, high = images.amin(dims, keepdim=True), images.amax(dims, keepdim=True)
    span = (high - low).clamp_min(1e-6)
    curved = ((images - low) / span).clamp_min(1e-7).pow(gamma) * span + low
    return _restored(curved, images)


def _restored(changed: Tensor, images: Tensor) -> Tensor:
    """Each patch and channel with the mean and deviation it had before."""
    dims = tuple(range(2, images.ndim))
    std, mean = torch.std_mean(images, dims, keepdim=True)
    new_std, new_mean = torch.std_mean(changed, dims, keepdim=True)
    return (changed - new_mean) / new_std.clamp_min(1e-6) * std + mean


def low_resolution(images: Tensor, factor: float) -> Tensor:
    """Batch shrunk to `factor` of its size (nearest) and back (linear), shape unchanged."""
    shape = images.shape[2:]
    small = [max(1, round(n * factor)) for n in shape]
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return F.interpolate(F.interpolate(images, small, mode="nearest-exact"), shape, mode=mode, align_corners=False)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Batch smoothed by a Gaussian of its own width per patch.

    Parameters
    ----------
    images : Tensor, float32, shape (B, C, *patch)
    sigma : Tensor, shape (B,), voxels
    """
    batch, channels = images.shape[:2]
    x = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (x / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    kernel = kernel.to(images.device, non_blocking=True)
    dims = images.ndim - 2
    conv = F.conv2d if dims == 2 else F.conv3d
    flat = images.reshape(1, batch * channels, *images.shape[2:])
    for axis in range(dims):
        shape = [1] * dims
        shape[axis] = 2 * BLUR_RADIUS + 1
        pads = [0] * (2 * dims)
        last = dims - 1 - axis
        pads[2 * last] = pads[2 * last + 1] = BLUR_RADIUS
        padded = F.pad(flat, pads, mode="replicate")
        flat = conv(padded, kernel.view(-1, 1, *shape), groups=batch * channels)
    return flat.reshape(images.shape)
