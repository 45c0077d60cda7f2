"""Values of any size and offset give the network the same picture; absurd ones are named with their place."""

from __future__ import annotations

import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from prosma_core.config.model import ChannelIntensity, PreprocessConfig
from prosma_core.data.frames import frames
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.data.grid import plan_grid
from prosma_core.data.intensities import (
    SOFT_TISSUE,
    display_window,
    finite_range,
    single_precision,
)
from prosma_core.data.normalization import normalize
from prosma_core.errors import IntensityError
from prosma_core.inference.prepare import network_image
from prosma_core.io.images import read_image, write_image
from prosma_core.training.dataset_summary import fingerprint
from prosma_core.training.plan import plan_intensities

ZSCORE = (ChannelIntensity(),)
PLAIN = np.random.default_rng(0).normal(300, 80, (6, 8, 7)).round().clip(0, 1000)


def for_network(data: NDArray[np.generic], axes: str = "zyx", dims: int = 3) -> list[NDArray[np.float32]]:
    """What the network gets of a scan, frame by frame."""
    spec = array_spec(data.shape, axes)
    config = PreprocessConfig(dims=dims, channels=("image",), intensities=ZSCORE, tile=(16,) * dims)
    found = []
    for frame in frames(Scan(data, spec), dims):
        image, _ = network_image(frame, plan_grid(frame.spec, config), config)
        found.append(image.numpy())
    return found


@settings(max_examples=60, deadline=None)
@given(size=st.floats(-60, 60), offset=st.floats(-1e7, 1e7), sign=st.sampled_from((1.0, -1.0)), wide=st.booleans())
def test_any_unit_and_offset_gives_the_network_the_same_picture(
    size: float, offset: float, sign: float, wide: bool
) -> None:
    wanted = for_network(PLAIN)[0] * sign
    scaled = (PLAIN + offset) * sign * 10.0**size
    if not wide:  # as far as float32 can hold it at all
        scaled = (PLAIN * sign * 10.0 ** (size / 2)).astype(np.float32)
    np.testing.assert_allclose(for_network(scaled)[0], wanted, atol=1e-4)


@pytest.mark.parametrize(
    "data",
    [
        (PLAIN + 4_000_000_000).astype(np.uint32),
        (PLAIN - 2_000_000_000).astype(np.int32),
        (PLAIN + 2**52).astype(np.int64),
        PLAIN.astype(np.int64) + 2**62,
        PLAIN.astype(np.int64) + np.iinfo(np.int64).min,
        PLAIN.astype(">i8") + 2**60,
        PLAIN.astype(np.uint64) + np.uint64(2**64 - 1001),
        PLAIN * 1e-3 + 1e7,
        PLAIN * 1e-12,
        PLAIN * 1e200,
        (PLAIN * 1e-40).astype(np.float64),
        (PLAIN * 1e-12).astype(np.float32),
    ],
    ids=[
        "uint32",
        "int32",
        "int64",
        "int64 2^62",
        "int64 -2^63",
        "big-endian",
        "uint64",
        "float64 offset",
        "1e-12",
        "1e200",
        "1e-40",
        "float32 1e-12",
    ],
)
def test_types_that_float32_cannot_carry_keep_their_differences(data: NDArray[np.generic]) -> None:
    np.testing.assert_allclose(for_network(data)[0], for_network(PLAIN)[0], atol=2e-4)


def test_numbers_beyond_what_float64_tells_apart_are_neither_blank_nor_absurd() -> None:
    data = np.full((6, 20, 20), 2**62, np.int64)
    data[:, 3:7, 3:7] += 900
    wanted = np.zeros(data.shape, np.uint8)
    wanted[:, 3:7, 3:7] = 9
    np.testing.assert_allclose(for_network(data)[0], for_network(wanted)[0], atol=1e-5)
    data[:, 3:7, 3:7] = 2**62
    data[2, 5, 5] = -(2**62)
    data[2, 5, 6] += 1
    with pytest.raises(
        IntensityError, match=r"One voxel lies far outside of all others: -4.61169e\+18 at z 2, y 5, x 5"
    ):
        for_network(data)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_usual_values_are_normalized_in_float32_as_ever(dtype: type[np.generic]) -> None:
    data = PLAIN.clip(0, 255).astype(dtype)
    values = data.astype(np.float32)[None]
    wanted = values.copy()
    wanted -= float(values.mean(dtype=np.float64))
    wanted /= float(values.std(dtype=np.float64))
    np.testing.assert_array_equal(for_network(data)[0], wanted)


def test_a_channel_of_one_value_beside_another_is_zero() -> None:
    image = np.stack([np.full_like(PLAIN, 1e9 + 0.1), PLAIN * 1e-9])
    found = normalize(image, ZSCORE * 2)
    assert not found[0].any()
    assert found[1].std() == pytest.approx(1, abs=1e-5)


def test_the_frames_of_small_types_are_float32_and_those_of_wide_types_are_no_copies() -> None:
    wide = PLAIN.astype(np.float64)
    (frame,) = frames(Scan(wide, array_spec(wide.shape, "zyx")), 3)
    assert np.shares_memory(frame.image, wide)
    (frame,) = frames(Scan(wide.astype(np.uint16), array_spec(wide.shape, "zyx")), 3)
    assert frame.image.dtype == np.float32


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e20, 1e38, -1e15])
@pytest.mark.parametrize(
    ("shape", "axes", "dims", "at", "place"),
    [
        ((6, 8, 7), "zyx", 3, (3, 4, 5), "z 3, y 4, x 5"),
        ((6, 8, 7), "zyx", 2, (3, 4, 5), "z 3, y 4, x 5"),
        ((2, 6, 8, 7), "tzyx", 3, (1, 3, 4, 5), "t 1, z 3, y 4, x 5"),
        ((2, 6, 8, 7), "tzyx", 2, (1, 3, 4, 5), "t 1, z 3, y 4, x 5"),
        ((2, 8, 7), "tyx", 2, (1, 4, 5), "t 1, y 4, x 5"),
        ((1, 8, 7), "cyx", 2, (0, 4, 5), "c 0, y 4, x 5"),
        ((3, 1, 6, 8, 7), "tczyx", 3, (2, 0, 5, 0, 6), "t 2, c 0, z 5, y 0, x 6"),
    ],
)
def test_a_voxel_that_cannot_be_is_named_with_its_place(
    value: float, shape: tuple[int, ...], axes: str, dims: int, at: tuple[int, ...], place: str
) -> None:
    data = np.random.default_rng(1).normal(300, 80, shape).astype(np.float32)
    data[at] = value
    with pytest.raises(IntensityError, match=f"at {place}[;,]") as caught:
        for_network(data, axes, dims)
    assert len(str(caught.value)) <= 400


@pytest.mark.parametrize(
    "data",
    [
        np.eye(40)[None].astype(np.float32),  # a few bright voxels on nothing
        np.where(np.random.default_rng(2).random((8, 32, 32)) < 1e-3, 60000.0, PLAIN[0, 0, 0]),
        np.where(np.arange(8192).reshape(8, 32, 32) == 77, 1e7, np.arange(8192).reshape(8, 32, 32) % 500),
    ],
    ids=["points", "sparse", "metal"],
)
def test_bright_points_are_no_damage(data: NDArray[np.floating]) -> None:
    for_network(data)


def test_a_channel_that_is_clipped_may_hold_absurd_voxels() -> None:
    data = PLAIN.astype(np.float32).copy()
    data[0, 0, 0] = 1e20
    normalize(data[None], (ChannelIntensity(kind="ct", low=-1000, high=1000, mean=0, std=1),))


@pytest.mark.parametrize(("slope", "intercept"), [(1e-3, 1e7), (1e-12, 0.0), (2.0, 0.0), (1.0, 4e9)])
def test_scaled_nifti_keeps_the_differences_of_its_values(tmp_path: Path, slope: float, intercept: float) -> None:
    raw, path = PLAIN.astype(np.int16), tmp_path / "a.nii"
    nib.Nifti1Image(raw.T.copy(), np.eye(4)).to_filename(path)
    header = bytearray(path.read_bytes())
    header[112:120] = struct.pack("<ff", slope, intercept)
    path.write_bytes(header)
    found = read_image(path).data
    assert found.dtype == (np.float64 if intercept else np.float32)
    slope, intercept = struct.unpack("<ff", header[112:120])
    np.testing.assert_allclose((found.astype(np.float64) - intercept) / slope, raw, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.ome.tif", "a.zarr", "a.nrrd"])
def test_float64_is_written_as_float32_only_where_that_holds_it(tmp_path: Path, name: str) -> None:
    spec = array_spec(PLAIN.shape, "zyx", (1.0, 1.0, 1.0), "mm")
    for data, kind in ((PLAIN / 3, np.float32), (PLAIN * 1e-3 + 1e7, np.float64)):
        write_image(tmp_path / name, data, spec, overwrite=True)
        back = read_image(tmp_path / name).data
        assert back.dtype == kind
        np.testing.assert_allclose(back, data, rtol=1e-7 if kind == np.float32 else 0)


def test_ct_limits_are_planned_from_values_with_an_offset() -> None:
    spec = array_spec(PLAIN.shape, "zyx")
    labels = Scan(np.ones(PLAIN.shape, np.uint8), spec)
    rules = []
    for offset in (0.0, 1e8):
        found = fingerprint(Scan(PLAIN + offset, spec), labels, 3, np.random.default_rng(0))
        (rule,) = plan_intensities([found], 1, "ct", ("image",))
        rules.append(rule)
        assert rule.std == pytest.approx(rules[0].std, rel=1e-3)
        assert rule.low - offset == pytest.approx(rules[0].low, abs=0.5)
    shifted = normalize((PLAIN + 1e8)[None], rules[1:])
    np.testing.assert_allclose(shifted, normalize(PLAIN[None], rules[:1]), atol=1e-2)


def test_what_float32_holds() -> None:
    assert single_precision(-1024, 3071)
    assert single_precision(0, 0)
    assert not single_precision(1e7, 1e7 + 1)
    assert not single_precision(0, 1e-31)
    assert not single_precision(float("nan"), 1)


def test_a_scan_is_drawn_in_the_window_of_its_file_else_between_percentiles_of_its_values() -> None:
    values = np.arange(10_000, dtype=np.int16).reshape(10, 20, 50)
    values[0, 0, :3] = 32_000  # hot pixels
    low, high = display_window(values)
    assert (low, high) == pytest.approx((0.005 * 10_000, 0.995 * 10_000), abs=5)
    assert display_window(values, (1000.0, 3000.0)) == (1000.0, 3000.0)
    assert display_window(values, (-90_000.0, 90_000.0)) == (low, high)  # nothing would be seen
    assert display_window(values, (50_000.0, 60_000.0)) == (low, high)
    assert display_window(np.where(values > 5000, np.nan, values / 2.0))[1] < 2500
    mask = np.zeros((90, 90), np.uint8)
    mask[4, 4] = 1
    for nothing in (mask, np.full((9, 9), np.nan), np.zeros((9, 9), bool)):
        assert display_window(nothing) is None


def test_ct_is_drawn_in_the_window_of_soft_tissue() -> None:
    body = np.linspace(-1000, 900, 8000).round().astype(np.int16).reshape(20, 20, 20)
    assert display_window(body) == SOFT_TISSUE  # by its values
    assert display_window(body + 1024, modality="CT") == SOFT_TISSUE
    assert display_window(body, (-1350.0, 150.0), modality="CT") == (-1350.0, 150.0)  # of the lung, as its file says
    assert display_window(body, modality="MR") != SOFT_TISSUE
    assert display_window(body[..., :2] * 0 + 3000, modality="CT") is None


def test_the_range_of_a_scan_is_that_of_its_finite_values() -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    values[0, 0, 0], values[0, 1, 1], values[1, 2, 3] = np.nan, np.inf, -np.inf
    for data in (values, values.transpose(2, 0, 1)[::-1, :, ::-1]):
        assert finite_range(data) == (1, 22)
    values[0] = np.nan
    assert finite_range(values) == (12, 22)
    assert finite_range(np.array([[-32768, 32767]], np.int16)) == (-32768, 32767)
