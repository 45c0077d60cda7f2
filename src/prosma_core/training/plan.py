"""Preprocessing, network, tile and batch from a training set and from memory, after rules of nnU-Net."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil, isqrt, prod

import numpy as np

from prosma_core.config.model import (
    LITE0_STRIDES,
    ChannelIntensity,
    EncoderKind,
    ModelConfig,
    ModelHeader,
    PreprocessConfig,
    Resample,
    weights_file,
)
from prosma_core.config.training import (
    PRETRAINED,
    NetworkOptions,
    PlanOptions,
    RunConfig,
    few_slices,
    with_defaults,
)
from prosma_core.data.grid import STRONG_ANISOTROPY, resampled_shape
from prosma_core.data.intensities import AIR_HU, COLOR
from prosma_core.errors import ConfigError, DatasetError
from prosma_core.printable import counted
from prosma_core.training.dataset_summary import Fingerprint


def plan_preprocess(
    prints: Sequence[Fingerprint],
    dims: int,
    options: PlanOptions,
    channel_names: tuple[str, ...],
    side: int | None = None,
) -> PreprocessConfig:
    """Preprocessing for a training set; the tile is only bounded by the data, see `plan_tile`.

    Parameters
    ----------
    prints : sequence of Fingerprint
    dims : int
    options : PlanOptions
        What was chosen by hand wins.
    channel_names : tuple of str
        From the data set, or empty.
    side : int, optional
        Larger pictures, whose pixels have no size, are brought to this longest side, if what is labeled stays large.

    Raises
    ------
    DatasetError
        The cases differ in unit or in number of channels.
    """
    channels = _common_channels(prints)
    unit = _common_unit(prints)
    oriented = all(p.oriented for p in prints)
    orientation = options.orientation or ("RAS" if oriented else "keep")
    usual = int(np.median([max(p.shape) for p in prints]))
    whole = side is not None and unit == "pixel" and usual > side and _stay_large(prints, side)
    resample = options.resample or ("longest_side" if whole else _choose_resample(prints, unit, dims))
    longest = options.longest_side or (side if whole else usual)
    spacing = options.spacing or target_spacing([p.spacing for p in prints], [p.shape for p in prints])
    names = channel_names if len(channel_names) == channels else _channel_names(prints, channels)
    if options.intensities is None or isinstance(options.intensities, str):
        intensities = plan_intensities(prints, channels, options.intensities, names)
    else:
        intensities = options.intensities
    return PreprocessConfig.parse(
        {
            "dims": dims,
            "channels": names,
            "orientation": "RAS" if orientation == "RAS" else None,
            "resample": resample,
            "spacing": spacing if resample == "spacing" else (),
            "unit": unit,
            "longest_side": longest if resample == "longest_side" else None,
            "intensities": intensities,
            "tile": options.tile or (1,) * dims,
        },
        "The planned preprocessing",
    )


OBJECT_PIXELS = 20
"""Smallest mean diameter of objects in pictures that are made smaller."""


def _stay_large(prints: Sequence[Fingerprint], side: int) -> bool:
    """Whether what is labeled can still be told in pictures of this longest side."""
    return float(np.median([p.object_size * side / max(p.shape) for p in prints])) >= OBJECT_PIXELS


def _choose_resample(prints: Sequence[Fingerprint], unit: str, dims: int) -> Resample:
    if unit != "pixel":
        return "spacing"
    sides = Counter(max(p.shape) for p in prints)
    side, count = sides.most_common(1)[0]
    varied = len({p.shape for p in prints}) > 1
    return "longest_side" if dims == 2 and varied and side >= 8 and count >= 0.8 * len(prints) else "none"


def _common_channels(prints: Sequence[Fingerprint]) -> int:
    counts = Counter(p.channels for p in prints)
    most = counts.most_common(1)[0][0]
    color = all(p.color for p in prints if p.channels == 3)
    if len(counts) > 1 and not (set(counts) == {1, 3} and color):
        msg = f"The images have different numbers of channels ({sorted(counts)}); all need the same."
        raise DatasetError(msg)
    return most


def _common_unit(prints: Sequence[Fingerprint]) -> str:
    units = {p.unit for p in prints}
    if len(units) > 1:
        unknown = sum(p.unit == "pixel" for p in prints)
        msg = f"The images have different units ({', '.join(sorted(units))}); bring them to one."
        if unknown:
            word = "pixel" if all(len(p.shape) == 2 for p in prints) else "voxel"
            msg = (
                f"Of {len(prints)} images, {counted(unknown, 'has', 'have')} no {word} size or no unit of it. Give the "
                "size of those that have none (--spacing z,y,x and a unit), or train without them."
            )
        raise DatasetError(msg)
    return units.pop()


def _channel_names(prints: Sequence[Fingerprint], channels: int) -> tuple[str, ...]:
    for p in prints:
        if len(p.channel_names) == channels:
            return p.channel_names
    if channels == 3 and all(p.color for p in prints if p.channels == 3):
        return COLOR
    return tuple(f"channel {i}" for i in range(channels)) if channels > 1 else ("image",)


def target_spacing(spacings: Sequence[tuple[float, ...]], shapes: Sequence[tuple[int, ...]]) -> tuple[float, ...]:
    """Median spacing; along a strongly anisotropic axis the 10th percentile, so that thin-sliced scans keep detail.

    Parameters
    ----------
    spacings, shapes : sequence of tuple
        Per case, in the same axis order.
    """
    all_spacings = np.asarray(spacings)
    target = np.median(all_spacings, axis=0)
    size = np.median(np.asarray(shapes), axis=0)
    thick = int(np.argmax(target))
    others = [a for a in range(len(target)) if a != thick]
    if target[thick] > STRONG_ANISOTROPY * max(target[others]) and size[thick] * STRONG_ANISOTROPY < min(size[others]):
        fine = float(np.percentile(all_spacings[:, thick], 10))
        target[thick] = max(fine, max(target[others]))
    return tuple(float(t) for t in target)


def plan_intensities(
    prints: Sequence[Fingerprint], channels: int, kind: str | None, names: tuple[str, ...]
) -> tuple[ChannelIntensity, ...]:
    """Normalization per channel: CT by its name or its values, z-score otherwise."""
    looks_ct = sum(p.whole_numbers and p.low <= AIR_HU for p in prints) >= 0.8 * len(prints)
    result = []
    for c in range(channels):
        ct = kind == "ct" or (kind is None and (names[c].lower() == "ct" or (channels == 1 and looks_ct)))
        values = np.concatenate([p.foreground[c] for p in prints if p.channels == channels]) if ct else np.empty(0)
        if not ct or values.size == 0:
            result.append(ChannelIntensity())
            continue
        low, high = np.percentile(values, [0.5, 99.5])
        clipped = np.clip(values, low, high)
        std = float(clipped.std()) or 1.0
        result.append(
            ChannelIntensity(kind="ct", low=float(low), high=float(high), mean=float(clipped.mean()), std=std)
        )
    return tuple(result)


MIN_EDGE = 4
"""Smallest feature map edge: an axis is not halved below it."""
TILE_VOXELS = {2: 512**2, 3: 128**3}
TRAINING_TENSORS = 45
"""Float32 tensors of the finest level alive in a training step, per patch."""
LITE0_WIDTHS = (24, 32, 64, 96, 128)
"""Channels of the decoder over the pretrained encoder, finest first."""
LITE0_TRAINING_WIDTH = 12
"""A training step with the pretrained encoder keeps 490 values a pixel (measured), as a residual one of this width."""
MEMORY_SHARE = 0.7
"""Share of the free memory that is planned with."""

Stages = tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]


def plan_stages(tile: tuple[int, ...], spacing: tuple[float, ...], max_stages: int, *, exact: bool = False) -> Stages:
    """Strides and kernels per stage.

    An axis is halved while it is at least twice `MIN_EDGE` long and its voxels are less than twice as long as the
    shortest; a kernel is 1 along an axis whose voxels are at least twice as long as the shortest. With `exact`, an
    odd number of voxels is not halved, so that the tile fits as it is.

    Returns
    -------
    strides, kernels : tuple of tuple of int
        One per stage, finest first.
    """
    size, voxel = list(tile), list(spacing)
    strides, kernels = [(1,) * len(tile)], [_kernel(voxel)]
    while len(strides) < max_stages:
        long_enough = [a for a in range(len(tile)) if size[a] >= 2 * MIN_EDGE and not (exact and size[a] % 2)]
        if not long_enough:
            break
        finest = min(voxel[a] for a in long_enough)
        halved = [a for a in long_enough if voxel[a] < 2 * finest]
        stride = tuple(2 if a in halved else 1 for a in range(len(tile)))
        for a in halved:
            size[a] //= 2
            voxel[a] *= 2
        strides.append(stride)
        kernels.append(tuple(max(k, b) for k, b in zip(kernels[-1], _kernel(voxel), strict=True)))
    return tuple(strides), tuple(kernels)


def _kernel(spacing: Sequence[float]) -> tuple[int, ...]:
    return tuple(1 if s >= 2 * min(spacing) else 3 for s in spacing)


def plan_tile(
    shapes: Sequence[tuple[int, ...]],
    spacing: tuple[float, ...],
    voxels: int,
    max_stages: int,
    strides: tuple[tuple[int, ...], ...] | None = None,
) -> tuple[tuple[int, ...], Stages]:
    """Tile and stages: the median scan, cut along its relatively longest axis until it has few enough voxels.

    Parameters
    ----------
    shapes : sequence of tuple
        Scans on the network's grid.
    spacing : tuple of float
        Voxel size of that grid.
    voxels : int
        Most voxels of a tile.
    max_stages : int
        Most resolutions.
    strides : tuple, optional
        Strides chosen by hand, which the tile must fit.
    """
    median = np.maximum(1, np.median(np.asarray(shapes), axis=0))
    isotropic = 1 / np.asarray(spacing)
    isotropic *= (prod(median.tolist()) / isotropic.prod()) ** (1 / len(spacing)) * 1.5
    tile = tuple(max(1, int(n)) for n in np.minimum(median, np.maximum(isotropic, 8)))
    if max(tile) < 2 * MIN_EDGE:
        tile = (2 * MIN_EDGE,) * len(tile)
    while True:
        stages = plan_stages(tile, spacing, max_stages)
        divisor = tuple(prod(s[a] for s in strides or stages[0]) for a in range(len(tile)))
        padded = tuple(ceil(n / d) * d for n, d in zip(tile, divisor, strict=True))
        if prod(padded) <= voxels:
            return padded, stages
        axis = int(np.argmax(np.asarray(padded) / median))
        smaller = max(1, padded[axis] - divisor[axis])
        if smaller == padded[axis]:
            return padded, stages
        tile = tuple(smaller if a == axis else n for a, n in enumerate(padded))


def plan_batch(tile: tuple[int, ...], most_voxels: int) -> int:
    """Patches per step: many small ones, few large ones, together at most `most_voxels` (but at least one)."""
    wanted, least, most = (16 * 256**2, 4, 32) if len(tile) == 2 else (2 * 128**3, 2, 8)
    batch = max(least, min(most, wanted // prod(tile)))
    return max(1, min(batch, most_voxels // prod(tile)))


def check_tile(tile: tuple[int, ...], strides: tuple[tuple[int, ...], ...]) -> None:
    """Raise `ConfigError` unless each axis of a tile is a multiple of the network's stride along it."""
    for axis, size in enumerate(tile):
        divisor = prod(s[axis] for s in strides)
        if size % divisor:
            below, above = size // divisor * divisor, -(-size // divisor) * divisor
            legal = f"{below} or {above}" if below else str(above)
            msg = f"Tile {size} along axis {axis} is not a multiple of {divisor} (network stride); use {legal}."
            raise ConfigError(msg)


def plan_run(
    prints: Sequence[Fingerprint],
    dims: int,
    num_classes: int,
    run: RunConfig,
    channel_names: tuple[str, ...],
    free_bytes: int,
) -> tuple[PreprocessConfig, ModelConfig, int]:
    """Preprocessing, network and batch size of a run.

    Parameters
    ----------
    prints : sequence of Fingerprint
        Of the training cases.
    dims : int
        Spatial axes of the network.
    num_classes : int
        Background included.
    run : RunConfig
        What was chosen by hand wins.
    channel_names : tuple of str
        From the data set, or empty.
    free_bytes : int
        Free memory of the device.

    Raises
    ------
    DatasetError
        As in `plan_preprocess`.
    ConfigError
        A tile chosen by hand does not fit the network's strides.
    """
    _check_axes(run.network, dims)
    encoder = choose_encoder(run, dims, prints[0].channels)
    side = isqrt(run.preprocess.tile_voxels or 0) if encoder == "efficientnet-lite0" else None
    pre = plan_preprocess(prints, dims, run.preprocess, channel_names, side)
    shapes = [resampled_shape(p.shape, p.spacing, pre) for p in prints]
    spacing = pre.spacing or (1.0,) * dims
    net = run.network
    width = LITE0_TRAINING_WIDTH if encoder == "efficientnet-lite0" else net.width
    room = training_voxels(free_bytes, sum(prod(s) for s in shapes) * (4 * len(pre.channels) + 1), width)
    least_batch = run.training.batch_size or (4 if dims == 2 else 2)
    voxels = min(run.preprocess.tile_voxels or TILE_VOXELS[dims], max(16**dims, room // least_batch))
    fixed = LITE0_STRIDES if encoder == "efficientnet-lite0" else net.strides
    if run.preprocess.tile:
        tile, stages = pre.tile, plan_stages(pre.tile, spacing, net.max_stages, exact=True)
    else:
        tile, stages = plan_tile(shapes, spacing, voxels, net.max_stages, fixed)
    if encoder == "efficientnet-lite0":
        stages = LITE0_STRIDES, ((3, 3),) * len(LITE0_STRIDES)
    strides = net.strides or stages[0]
    kernels = net.kernels or (*stages[1], *(stages[1][-1:] * len(strides)))[: len(strides)]
    widths = LITE0_WIDTHS if encoder == "efficientnet-lite0" else _widths(net, len(strides))
    check_tile(tile, strides)
    model = ModelConfig.parse(
        {
            "dims": dims,
            "in_channels": len(pre.channels),
            "num_classes": num_classes,
            "encoder": encoder,
            "widths": widths,
            "strides": strides,
            "kernels": kernels,
            "blocks": net.blocks,
            "gate": run.gate,
        },
        "The planned network",
    )
    return pre.replace(tile=tile), model, run.training.batch_size or plan_batch(tile, room)


def _check_axes(net: NetworkOptions, dims: int) -> None:
    """Raise `ConfigError` where strides or kernels that were chosen are of another number of axes."""
    for name, stages in (("strides", net.strides), ("kernels", net.kernels)):
        if wrong := next((stage for stage in stages or () if len(stage) != dims), None):
            msg = f"network.{name} has a stage {list(wrong)} of {len(wrong)} axes; the network is {dims}D: give {dims}."
            raise ConfigError(msg)


def _widths(net: NetworkOptions, stages: int) -> tuple[int, ...]:
    return tuple(min(net.max_width, net.width * 2**i) for i in range(stages))


def with_usual(
    run: RunConfig, start: ModelHeader | None, dims: int, prints: Sequence[Fingerprint], *, sparse: bool = False
) -> RunConfig:
    """The run with the defaults of the encoder that its network has or will have, and of few slices of a body.

    Parameters
    ----------
    run : RunConfig
    start : ModelHeader or None
        Of the model to start from.
    dims : int
    prints : sequence of Fingerprint
    sparse : bool
        Whether only some slices of the scans are annotated, beside what the run says of all of them.
    """
    encoder = start.model.encoder if start else choose_encoder(run, dims, prints[0].channels)
    if encoder == "efficientnet-lite0":
        run = with_defaults(run, PRETRAINED[run.preset])
    few = (sparse or run.labels.sparse) and all(p.unit == "mm" for p in prints)
    return with_defaults(run, few_slices(dims, run.preset)) if few and not start else run


def choose_encoder(run: RunConfig, dims: int, channels: int, *, installed: bool | None = None) -> EncoderKind:
    """The pretrained encoder for 2D images of 1 or 3 channels, unless another setting of the network is chosen.

    Where a tile is chosen that does not fit it, or the package with its weights is missing, the residual one;
    `installed` says whether it is there, None looks for it.
    """
    net, tile = run.network, run.preprocess.tile
    if net.encoder is not None:
        return net.encoder
    fits = dims == 2 and channels in (1, 3) and not net.model_fields_set
    if tile is not None:
        fits = fits and not any(n % d for n, d in zip(tile, map(prod, zip(*LITE0_STRIDES, strict=True)), strict=True))
    if fits and installed is None:
        installed = weights_file() is not None
    return "efficientnet-lite0" if fits and installed else "residual"


def training_voxels(free_bytes: int, case_bytes: int, width: int) -> int:
    """Voxels of a batch that a training step has room for, beside the cases in memory."""
    room = MEMORY_SHARE * free_bytes - min(case_bytes, free_bytes // 3)
    return max(1, int(room / (4 * width * TRAINING_TENSORS)))
