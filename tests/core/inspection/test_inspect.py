"""Maps of the gates: where they lie, that tiles do not show in them, and that the numbers are theirs."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

from prosma_core.config import GateConfig, ModelHeader
from prosma_core.config.inspection import InspectConfig, LevelEdit, MapInfo, MapKind
from prosma_core.config.model import (
    LITE0_STRIDES,
    ONE_SIDED,
    ChannelIntensity,
    ClassInfo,
    ModelConfig,
    PreprocessConfig,
)
from prosma_core.data.geometry import Box, ImageSpec, Scan, array_spec, box_slices, map_spec
from prosma_core.data.grid import padding_to
from prosma_core.data.lazy import LazyArray
from prosma_core.errors import ConfigError, DeviceError, GeometryError
from prosma_core.events import StageStarted, TileDone
from prosma_core.inference.segment import Segmenter
from prosma_core.inspection import inspect
from prosma_core.inspection.inspect import Inspected, inspect_scan
from prosma_core.model.encoders import Stages
from prosma_core.model.gate_hooks import recording_skips
from prosma_core.model.prox import THRESHOLDS
from prosma_core.model.unet import build_model

Noise = Callable[..., Scan]
CPU = torch.device("cpu")
EVERY: tuple[MapKind, ...] = get_args(MapKind)
ALL = InspectConfig(maps=EVERY)


def drain(work: Generator[Any, None, Any]) -> tuple[Any, list[Any]]:
    events = []
    while True:
        try:
            events.append(next(work))
        except StopIteration as stop:
            return stop.value, events


def look(by: Segmenter, scan: Scan, config: InspectConfig = ALL) -> Inspected:
    return drain(inspect_scan(by, scan, config))[0]


def three_levels(
    dims: int, tile: tuple[int, ...], gate: dict[str, Any] | None = None, **preprocess: Any
) -> ModelHeader:
    model = ModelConfig(
        dims=dims,
        in_channels=1,
        num_classes=2,
        widths=(4, 4, 4),
        strides=((1,) * dims, (2,) * dims, (2,) * dims),
        kernels=((3,) * dims,) * 3,
        gate=GateConfig.parse({"dilations": (1, 2), "threshold": 0.3, **(gate or {})}, "gate"),
    )
    values = {"dims": dims, "channels": ("image",), "intensities": (ChannelIntensity(),), "tile": tile, **preprocess}
    classes = (ClassInfo(value=0, name="background"), ClassInfo(value=1, name="blob"))
    return ModelHeader(name="m", model=model, preprocess=PreprocessConfig.parse(values, "p"), classes=classes)


def pretrained_encoder(gate: dict[str, Any] | None = None) -> ModelHeader:
    """Return the header of a network on the pretrained encoder, whose finest level has half the resolution."""
    header = three_levels(2, (32, 32), gate)
    values = {"widths": (4,) * 5, "strides": LITE0_STRIDES, "kernels": ((3, 3),) * 5, "encoder": "efficientnet-lite0"}
    return header.replace(model=ModelConfig.parse({**header.model.model_dump(), **values}, "m"))


class Pooled(nn.Module):
    """A stage that averages the cells of the finer one."""

    def __init__(self, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pool = nn.functional.avg_pool2d if len(self.stride) == 2 else nn.functional.avg_pool3d
        return (
            pool(x, self.stride).expand(-1, 4, *(-1,) * len(self.stride)) if x.shape[1] == 1 else pool(x, self.stride)
        )


def local_network(header: ModelHeader) -> Segmenter:
    """Return a network whose skips are the averages of the scan over each cell, and which sees near voxels only."""
    model = build_model(header.model, seed=3)
    model.encoder = Stages(Pooled(stride) for stride in header.model.strides)
    conv = nn.Conv2d if header.model.dims == 2 else nn.Conv3d
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model.decoder = nn.ModuleList(conv(8, 4, 3, padding=1) for _ in range(2))
    return Segmenter(header, model, CPU)


def blob(spec: ImageSpec, center: tuple[float, ...], width: float) -> Scan:
    """Return a scan with a round blob about a point of the world."""
    n = spec.spatial_ndim
    index = np.stack(np.meshgrid(*(np.arange(s) for s in spec.shape), indexing="ij"), -1)
    world = index @ spec.affine[:n, :n].T + spec.affine[:n, n]
    return Scan(np.exp(-(((world - np.array(center)) / width) ** 2).sum(-1) / 2).astype(np.float32), spec)


def middle(array: np.ndarray, info: MapInfo, spec: ImageSpec) -> np.ndarray:
    """Return where in the world the first channel of a map has its center of mass."""
    values = array[0].astype(np.float64)
    values -= values.min()
    values[values < 0.1 * values.max()] = 0
    index = [(values * g).sum() / values.sum() for g in np.indices(values.shape)]
    affine = map_spec(spec, info, array.shape).affine
    n = values.ndim
    return affine[:n, :n] @ index + affine[:n, n]


OBLIQUE = np.array([[0.1, -0.9, 0.2], [-1.2, -0.1, 0.1], [0.1, 0.2, 1.7]])
"""Columns are the steps of the array's axes: turned, flipped and slanted."""


@pytest.mark.parametrize("case", ["plain", "padded", "resampled", "oblique"])
def test_maps_of_all_levels_lie_where_the_scan_has_what_they_show(case: str) -> None:
    if case in ("plain", "padded"):
        header = three_levels(2, (32, 32) if case == "plain" else (64, 64))
        spec, center, width = array_spec((45, 51), "yx"), (20.3, 28.6), 5.0
    elif case == "resampled":
        header = three_levels(2, (32, 32), resample="longest_side", longest_side=72)
        spec, center, width = array_spec((45, 51), "yx"), (20.3, 28.6), 5.0
    else:
        header = three_levels(
            3, (24, 24, 24), resample="spacing", spacing=(1.0, 1.0, 1.0), unit="mm", orientation="RAS"
        )
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = OBLIQUE, (3.0, 40.0, -20.0)
        spacing = tuple(float(s) for s in np.linalg.norm(OBLIQUE, axis=0))
        spec = ImageSpec("zyx", (34, 40, 25), spacing, "mm", affine, "ras")
        center, width = tuple(affine[:3, :3] @ (17.3, 18.8, 11.4) + affine[:3, 3]), 3.5
    scan = blob(spec, center, width)
    found = look(local_network(header), scan, InspectConfig(maps=("before", "field")))
    checked = 0
    for info in found.inspection.maps:
        if info.kind == "before":
            place = middle(found.maps[info.name], info, spec)
            assert np.abs(place - center).max() < 0.12, (info.name, place, center)
            checked += 1
    assert checked == 2


@pytest.mark.parametrize("dims", [2, 3])
def test_tiles_do_not_show_away_from_their_borders(dims: int, noise: Noise) -> None:
    rest, gate = (24,) * (dims - 1), {"channel_gate": False}
    tiled = local_network(three_levels(dims, (*rest, 64), gate))
    whole = local_network(three_levels(dims, (*rest, 112), gate))
    scan = noise((*rest, 112), "zyx"[-dims:])
    config = InspectConfig(maps=EVERY, overlap=0.25)
    events = drain(inspect_scan(tiled, scan, config))[1]
    assert [e.total for e in events if isinstance(e, TileDone)] == [2, 2]
    found, expected = look(tiled, scan, config), look(whole, scan, config)
    assert len(found.maps) == 2 * 9
    for info in found.inspection.maps:
        one, other = found.maps[info.name].astype(np.float64), expected.maps[info.name].astype(np.float64)
        assert one.shape == other.shape
        assert float(np.ptp(other)) > 0
        step = 2**info.level
        for part in (slice(0, 34 // step), slice(80 // step, None)):  # borders inside the scan are at 48 and 64
            np.testing.assert_allclose(one[..., part], other[..., part], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("dims", [2, 3, "lite0"])
@pytest.mark.parametrize("form", sorted(THRESHOLDS))
def test_kept_and_removed_are_all_and_the_numbers_are_those_of_the_maps(
    dims: int | str, form: str, noise: Noise
) -> None:
    header = (
        three_levels(dims, (16,) * dims, {"form": form})
        if isinstance(dims, int)
        else pretrained_encoder({"form": form})
    )
    n = header.model.dims
    by = Segmenter(header, build_model(header.model, 0), CPU)
    found = look(by, noise((27, 30, 19)[:n], "zyx"[-n:]))
    assert [level.level for level in found.inspection.levels] == list(range(len(header.model.widths) - 1))
    first = next(info for info in found.inspection.maps if (info.level, info.kind) == (0, "removed"))
    assert first.scale == ((1.0,) * n if n is dims else (2.0, 2.0))
    for level in found.inspection.levels:
        maps = {info.kind: found.maps[info.name] for info in found.inspection.maps if info.level == level.level}
        removed, kept = maps["removed"], maps["kept"]
        assert level.shape == removed.shape == kept.shape[1:]
        assert kept.dtype == np.uint8
        np.testing.assert_array_equal(removed * 4 + kept.sum(0), np.full(removed.shape, 4))
        assert 0.05 < level.removed < 0.95
        assert level.removed == pytest.approx(removed.mean(dtype=np.float64), abs=1e-12)
        np.testing.assert_allclose(level.channel_removed, 1 - kept.reshape(4, -1).mean(1), atol=1e-12)
        assert all(sum(row) == pytest.approx(1) for row in level.histogram)
        if form not in ONE_SIDED:  # 8 bins of an eighth are |z| < tau
            np.testing.assert_allclose([sum(row[:8]) for row in level.histogram], level.channel_removed, atol=1e-3)
        else:
            kept_some = [p for p, share in zip(level.positive, level.channel_removed, strict=True) if share < 1]
            assert set(kept_some) == {1.0}
        assert all(0 < c < 1 for c in level.channel_gate)
        assert maps["channel_gate"].std() < 0.1


def test_energy_is_what_the_decoder_did_not_receive(noise: Noise) -> None:
    header = three_levels(2, (32, 32))
    by = Segmenter(header, build_model(header.model, 0), CPU)
    found = look(by, noise((32, 32), "yx"))
    for level in found.inspection.levels:
        before, after = (found.maps[f"level{level.level}/{kind}"].astype(np.float64) for kind in ("before", "after"))
        expected = 1 - (after**2).sum(0) / (before**2).sum(0)
        np.testing.assert_allclose(found.maps[f"level{level.level}/energy"], expected, atol=5e-3)
        assert level.energy == pytest.approx(1 - (after**2).sum() / (before**2).sum(), abs=1e-3)
        scales = sum(found.maps[f"level{level.level}/scale{d}"].astype(np.float64) for d in (1, 2))
        np.testing.assert_allclose(found.maps[f"level{level.level}/field"], scales, atol=5e-3)  # beta is 0 at first


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("gate", [{"form": form} for form in sorted(THRESHOLDS)] + [{"kind": "attention"}])
def test_the_noise_gain_and_the_flipped_share_are_those_of_the_skips(dims: int, gate: dict, noise: Noise) -> None:
    header = three_levels(dims, (16,) * dims, gate)
    by = Segmenter(header, build_model(header.model, 0), CPU)
    scan = noise((11, 14, 16)[:dims], "zyx"[-dims:])  # one tile, with padding
    found, without = look(by, scan), look(by, scan, ALL.replace(noise_gain=False))
    assert set(found.maps) == set(without.maps)
    assert all(np.array_equal(found.maps[name], without.maps[name]) for name in found.maps)
    skips: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    image = torch.from_numpy(np.asarray(scan.data)).float()
    image = (image - image.mean()) / image.std(correction=0)
    drawn = torch.randn((1, 1, *image.shape), generator=torch.Generator().manual_seed(0))
    padding = padding_to(image.shape, header.preprocess.tile)
    pad = [p for a, b in reversed(padding) for p in (a, b)]
    for added in (0, 0.3):
        batch = nn.functional.pad(image[None, None] + added * drawn, pad)
        with torch.no_grad(), recording_skips(by.model, lambda i, pair: skips.append((i, *pair)), range(2)):
            by.model(batch)
    for summary, bare in zip(found.inspection.levels, without.inspection.levels, strict=True):
        assert bare == summary.replace(noise_gain=None)
        sizes, step = zip(image.shape, padding, strict=True), 2**summary.level
        inside = (..., *(slice(p // step, -(-(p + n) // step)) for n, (p, _) in sizes))
        seen = [(x[inside], y[inside]) for level, x, y in skips if level == summary.level]
        (before, after), (noisy_before, noisy_after) = seen
        expected = (noisy_after - after).norm() / after.norm() / ((noisy_before - before).norm() / before.norm())
        assert summary.noise_gain == pytest.approx(float(expected), rel=1e-3)
        maps = {i.kind: found.maps[i.name] for i in found.inspection.maps if i.level == summary.level}
        signed = (maps["kept"] != 0) & (maps["before"] != 0)
        flipped = np.sign(maps["before"]) * np.sign(maps["after"]) < 0
        assert summary.flipped == pytest.approx(flipped.sum() / signed.sum(), abs=2e-3)
        assert (summary.flipped > 0.2) == (gate.get("form") in {"bounded", "signed"})


def test_the_spread_of_the_channel_gate_is_that_of_the_tiles_of_all_frames(noise: Noise) -> None:
    header = three_levels(2, (16, 16))
    by = Segmenter(header, build_model(header.model, 0), CPU)
    scan = noise((3, 16, 16), "tyx")
    found = look(by, scan, InspectConfig(maps=("channel_gate",)))
    for level in found.inspection.levels:
        weights = found.maps[f"level{level.level}/channel_gate"][:, :, 0, 0].astype(np.float64)
        assert level.channel_gate_spread == pytest.approx(weights.std(0, ddof=1).mean(), abs=5e-4)
    alone = look(by, Scan(scan.data[0], array_spec((16, 16), "yx"))).inspection.levels
    assert [level.channel_gate_spread for level in alone] == [None, None]


@pytest.mark.slow
@pytest.mark.parametrize("resample", ["none", "longest_side"])
def test_the_maps_of_a_region_are_those_of_the_whole_scan(resample: str, noise: Noise) -> None:
    header = three_levels(2, (16, 16), resample=resample, longest_side=70 if resample != "none" else None)
    by = Segmenter(header, build_model(header.model, 0), CPU)
    scan = noise((43, 50), "yx")
    whole, part = (look(by, scan, InspectConfig(maps=EVERY, region=r)) for r in (None, ((9, 21), (30, 50))))
    for one, other in zip(part.inspection.maps, whole.inspection.maps, strict=True):
        assert (one.name, one.scale) == (other.name, other.scale)
        first = (np.array(one.offset) - other.offset) / one.scale
        np.testing.assert_allclose(first, first.round(), atol=1e-9)
        shape = part.maps[one.name].shape[-2:]
        at = tuple(slice(int(a), int(a) + n) for a, n in zip(first.round(), shape, strict=True))
        np.testing.assert_array_equal(part.maps[one.name], whole.maps[one.name][(..., *at)])
        for o, s, n, (start, stop) in zip(one.offset, one.scale, shape, ((9, 21), (30, 50)), strict=True):
            assert start - 0.5 - s < o - s / 2 <= start - 0.5 + 1e-9  # the cells cover the region, and no more do
            assert stop - 0.5 - 1e-9 <= o + (n - 0.5) * s < stop - 0.5 + s


@pytest.mark.parametrize("resample", ["none", "longest_side"])
def test_of_a_scan_on_a_disk_only_what_the_tiles_of_a_region_reach_is_read(
    resample: str, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = three_levels(2, (16, 16), resample=resample, longest_side=150 if resample != "none" else None)
    by = Segmenter(header, build_model(header.model, 0), CPU)
    scan, boxes = noise((103, 120), "yx"), list[Box]()

    def read(box: Box) -> np.ndarray:
        boxes.append(box)
        return scan.data[box_slices(box)].copy()

    lazy = Scan(LazyArray(scan.data.shape, scan.data.dtype, read, (1, 120)), scan.spec)
    monkeypatch.setattr(lazy.data, "keep", 0)
    config = InspectConfig(maps=EVERY, region=((9, 21), (30, 50)), noise_gain=False)
    wanted, found = look(by, scan, config), look(by, lazy, config)
    for name, values in wanted.maps.items():
        np.testing.assert_array_equal(found.maps[name], values)
    assert found.inspection == wanted.inspection
    measured = [box for box in boxes if box[1] == (0, 120)]
    assert sum(stop - start for (start, stop), _ in measured) == 103  # one pass for the intensities
    assert all(stop <= 60 for (start, stop), columns in boxes if columns != (0, 120))
    monkeypatch.setattr(inspect, "free_memory", lambda _: 12_000_000)
    look(by, lazy, config)
    monkeypatch.setattr(inspect, "plan_inspection", lambda *_, **__: None)
    monkeypatch.setattr(inspect, "free_memory", lambda _: 10_000)
    with pytest.raises(DeviceError, match=r"Inspecting this part of the scan needs about 1 MiB.*Choose a smaller part"):
        look(by, lazy, config)


def test_slices_and_time_points_are_looked_at_one_by_one(noise: Noise) -> None:
    header = three_levels(2, (16, 16))
    by = Segmenter(header, build_model(header.model, 0), CPU)
    scan = noise((2, 5, 20, 21), "tzyx")
    found = look(by, scan, InspectConfig(maps=EVERY, region=((1, 4), (0, 20), (0, 21))))
    info = next(i for i in found.inspection.maps if i.name == "level1/field")
    assert (info.axes, info.scale, info.offset) == ("tczyx", (1.0, 2.0, 2.0), (1.0, 0.5, 0.5))
    assert found.inspection.levels[1].shape == (3, 10, 11)
    alone = look(by, Scan(scan.data[1, 3], array_spec((20, 21), "yx")))
    np.testing.assert_array_equal(found.maps["level1/field"][1, :, 2], alone.maps["level1/field"])
    np.testing.assert_array_equal(found.maps["level0/removed"][1, 2], alone.maps["level0/removed"])


def test_edits_are_seen_and_leave_nothing_behind(noise: Noise) -> None:
    header = three_levels(2, (16, 16))
    by = Segmenter(header, build_model(header.model, 0), CPU)
    scan = noise((16, 16), "yx")
    plain = look(by, scan).inspection
    edits = (LevelEdit(level=0, state="closed"), LevelEdit(level=1, threshold=0))
    work = inspect_scan(by, scan, InspectConfig(edits=edits))
    next(work)
    work.close()
    changed = look(by, scan, InspectConfig(edits=edits)).inspection.levels
    assert (changed[0].removed, changed[0].energy) == (1, 1)
    assert (changed[1].removed, changed[1].threshold) == (0, 0)
    assert look(by, scan).inspection == plain


@pytest.mark.parametrize(("kind", "levels"), [("attention", 2), ("none", 0)])
def test_other_networks_show_what_they_have(kind: str, levels: int, noise: Noise) -> None:
    header = three_levels(2, (16, 16), {"kind": kind})
    by = Segmenter(header, build_model(header.model, 0), CPU)
    found = look(by, noise((20, 16), "yx"))
    assert len(found.inspection.levels) == levels
    kinds = {info.kind for info in found.inspection.maps}
    if kind == "none":
        assert not kinds
        assert "no gates" in found.words
        return
    assert kinds == {"removed", "energy", "kept", "gate", "before", "after"}
    assert "remove nothing" in found.words
    assert "field" in found.words
    for level in found.inspection.levels:
        assert (level.removed, level.threshold, level.thresholds, level.histogram) == (0, None, (), ())
        assert 0 < level.energy < 1


def test_only_what_is_asked_for_is_made_and_memory_is_said_before(noise: Noise, monkeypatch: Any) -> None:
    header = three_levels(3, (16, 16, 16))
    by = Segmenter(header, build_model(header.model, 0), CPU)
    scan, made = noise((20, 16, 16), "zyx"), []

    def allocate(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        made.append((name, shape, dtype.name))
        return np.zeros(shape, dtype)

    config = InspectConfig(levels=(1,), maps=("kept", "removed"))
    _, events = drain(inspect_scan(by, scan, config, allocate))
    assert made == [("level1/kept", (4, 10, 8, 8), "uint8"), ("level1/removed", (10, 8, 8), "float16")]
    said = [e.message for e in events if isinstance(e, StageStarted)]
    assert any(s.startswith("Inspecting level 1 in 2 tiles of 16x16x16, about") and "for the maps" in s for s in said)
    needed = inspect.tile_bytes(header.model, header.preprocess.tile)
    monkeypatch.setattr(inspect, "free_memory", lambda _: 2.2 * needed)
    found, events = drain(inspect_scan(by, scan, config))
    assert any("the noise gain is left out" in e.message for e in events if isinstance(e, StageStarted))
    assert found.inspection.levels[0].noise_gain is None
    monkeypatch.setattr(inspect, "free_memory", lambda _: 1000)
    with pytest.raises(DeviceError, match=r"needs about .* are free"):
        look(by, scan)


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"levels": (2,)}, ConfigError, "no level 2: the model has levels 0"),
        ({"levels": ()}, ConfigError, "No level is given"),
        ({"edits": (LevelEdit(level=5, state="open"),)}, ConfigError, "no level 5"),
        ({"region": ((0, 99), (0, 3))}, GeometryError, "reaches outside"),
    ],
)
def test_what_is_not_there_is_refused_in_words(config: dict, error: type, words: str, noise: Noise) -> None:
    header = three_levels(2, (16, 16))
    by = Segmenter(header, build_model(header.model, 0), CPU)
    with pytest.raises(error, match=words):
        look(by, noise((16, 16), "yx"), InspectConfig(**config))
