"""Segmentation with random weights: results lie on the scan's own grid, whatever that is."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import torch

from prosma_core.config import InferenceConfig, ModelHeader
from prosma_core.data.geometry import ImageSpec, Scan, array_spec, spacing_affine
from prosma_core.data.grid import plan_grid
from prosma_core.errors import ChannelError, DeviceError, GeometryError, IntensityError
from prosma_core.events import StageStarted, TileDone
from prosma_core.inference.segment import Segmentation, Segmenter
from prosma_core.inference.tiled import TiledPredictor
from prosma_core.model.unet import build_model

CPU = torch.device("cpu")
PLAIN = InferenceConfig()
EXTRAS = InferenceConfig(probabilities=True, entropy=True)
RGB = ("red", "green", "blue")

MakeHeader = Callable[..., ModelHeader]
Noise = Callable[..., Scan]


def segmenter(header: ModelHeader, seed: int = 0) -> Segmenter:
    """Return a network whose random weights give every class somewhere."""
    model = build_model(header.model, seed)
    with torch.no_grad():
        for gate in model.heads:
            gate.bias.zero_()
            gate.weight.mul_(20)
    return Segmenter(header, model, CPU)


def run(by: Segmenter, scan: Scan, config: InferenceConfig = PLAIN) -> tuple[Segmentation, list[Any]]:
    events = []
    work = by.segment(scan, config)
    while True:
        try:
            events.append(next(work))
        except StopIteration as stop:
            return stop.value, events


def labels_of(by: Segmenter, scan: Scan, config: InferenceConfig = PLAIN) -> np.ndarray:
    return run(by, scan, config)[0].labels.data


def words(events: Sequence[Any]) -> str:
    return " ".join(e.message for e in events if isinstance(e, StageStarted))


def ras(data: np.ndarray, affine: np.ndarray) -> Scan:
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    return Scan(data, ImageSpec("zyx", data.shape, spacing, "mm", affine, "ras"))


@pytest.mark.parametrize(
    ("dims", "shape", "axes"),
    [
        (2, (40, 33), "yx"),
        (2, (5, 7), "yx"),
        (2, (3, 20, 21), "tyx"),
        (2, (3, 20, 21), "zyx"),
        (2, (2, 3, 20, 21), "tzyx"),
        (3, (20, 33, 18), "zyx"),
        (3, (3, 5, 40), "zyx"),
        (3, (2, 9, 17, 20), "tzyx"),
    ],
)
def test_labels_lie_on_the_scans_own_grid(
    dims: int, shape: tuple[int, ...], axes: str, make_header: MakeHeader, noise: Noise
) -> None:
    scan = noise(shape, axes)
    result, events = run(segmenter(make_header(dims)), scan)
    assert (result.labels.spec.axes, result.labels.data.shape) == (axes, shape)
    assert result.labels.data.dtype == np.uint8
    assert set(np.unique(result.labels.data)) == {0, 1}
    np.testing.assert_array_equal(result.labels.spec.affine, scan.spec.affine)
    tiles = [e for e in events if isinstance(e, TileDone)]
    assert tiles[-1].done == tiles[-1].total == len(tiles)
    assert [t.done for t in tiles] == list(range(1, len(tiles) + 1))


@pytest.mark.parametrize("axes", ["yx", "zyx"])
@pytest.mark.parametrize("size", [1, 2])
def test_thin_axes_are_segmented(axes: str, size: int, make_header: MakeHeader, noise: Noise) -> None:
    for thin in range(len(axes)):
        shape = tuple(size if i == thin else 19 for i in range(len(axes)))
        assert labels_of(segmenter(make_header(len(axes))), noise(shape, axes)).shape == shape


@pytest.mark.parametrize(("dims", "spacing"), [(3, (4.0, 1.0, 1.0)), (3, (1.0, 0.7, 2.0)), (2, (4.0, 1.0, 1.0))])
def test_an_anisotropic_scan_is_resampled_there_and_back(
    dims: int, spacing: tuple[float, ...], make_header: MakeHeader, noise: Noise
) -> None:
    header = make_header(dims, resample="spacing", spacing=(1.5,) * dims, unit="mm")
    scan = noise((6, 22, 25), "zyx", spacing)
    result, events = run(segmenter(header), scan, EXTRAS)
    assert result.labels.data.shape == scan.data.shape
    assert result.probabilities is not None
    assert result.probabilities.data.shape == (2, *scan.data.shape)
    assert "resampled for the model" in words(events)


def test_resampling_keeps_voxel_edges_in_place(make_header: MakeHeader) -> None:
    """A network that answers with its input's sign must find a half-space again, at any target spacing."""
    header = make_header(3, resample="spacing", spacing=(1.0, 1.0, 1.0), unit="mm")
    by = Segmenter(header, Sign(header), CPU)  # type: ignore[arg-type]
    for axis, spacing in product(range(3), [(2.0, 2.0, 2.0), (0.5, 0.5, 0.5), (5.0, 1.0, 1.0)]):
        data = np.zeros((12, 12, 12), np.float32)
        np.moveaxis(data, axis, 0)[6:] = 100
        scan = Scan(data, array_spec(data.shape, "zyx", spacing, "mm"))
        np.testing.assert_array_equal(labels_of(by, scan), data > 0)


class Sign(torch.nn.Module):
    """Class 1 where the normalized scan is above its mean."""

    def __init__(self, header: ModelHeader) -> None:
        super().__init__()
        self.header = header

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([-x, x], dim=1)


def test_units_are_converted(make_header: MakeHeader, noise: Noise) -> None:
    by = segmenter(make_header(3, resample="spacing", spacing=(0.001, 0.001, 0.001), unit="mm"))
    scan = noise((8, 9, 10), "zyx", (2.0, 1.0, 1.0), "um")
    in_mm = Scan(scan.data, array_spec(scan.data.shape, "zyx", (0.002, 0.001, 0.001), "mm"))
    np.testing.assert_array_equal(labels_of(by, scan), labels_of(by, in_mm))


def test_a_spacing_in_the_wrong_unit_is_refused_before_it_fills_the_memory(
    make_header: MakeHeader, noise: Noise
) -> None:
    by = segmenter(make_header(3, resample="spacing", spacing=(1.0, 1.0, 1.0), unit="mm"))
    said = r"\(8 x 9 x 10 voxels of 1 x 1 x 1 m\) would have 8000 x 9000 x 10000 .* works with voxels of 1 x 1 x 1 mm"
    with pytest.raises(
        GeometryError, match=said + ".* for other scans, or the voxel size or unit of the scan is wrong"
    ):
        run(by, noise((8, 9, 10), "zyx", (1.0, 1.0, 1.0), "m"))


@pytest.mark.parametrize("resample", [{}, {"resample": "spacing", "spacing": (1.0, 0.8, 0.8)}])
def test_a_scan_of_any_size_may_keep_about_its_size(make_header: MakeHeader, resample: dict[str, Any]) -> None:
    spec = array_spec((40_000, 4_000, 4_000), "zyx", (1.0, 1.0, 1.0), "mm")  # 1.2 TiB of uint16
    grid = plan_grid(spec, make_header(3, unit="mm", **resample).preprocess)
    assert grid.shape[0] == 40_000
    assert grid.oriented == spec.shape


def test_pictures_are_brought_to_the_longest_side(make_header: MakeHeader, noise: Noise) -> None:
    by = segmenter(make_header(2, resample="longest_side", longest_side=32))
    result, events = run(by, noise((30, 61), "yx", None, "pixel"))
    assert result.labels.data.shape == (30, 61)
    assert "16x32" in words(events)


@pytest.mark.slow
@pytest.mark.parametrize("resampled", [False, True])
@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
def test_labels_do_not_depend_on_how_the_file_is_oriented(
    order: tuple[int, ...],
    flips: tuple[int, ...],
    resampled: bool,
    make_header: MakeHeader,
    rng: np.random.Generator,
) -> None:
    """The same patient, stored with other axes and directions, gets the same labels in the same place."""
    spacing = (1.0, 1.0, 1.0) if resampled else (2.0, 1.0, 1.5)
    header = make_header(3, orientation="RAS", resample="spacing", spacing=spacing, unit="mm")
    by = segmenter(header)
    data = rng.normal(size=(9, 18, 21)).astype(np.float32)
    affine = spacing_affine((2.0, 1.0, 1.5), (5.0, -3.0, 7.0))
    turned, moved = data.transpose(order), affine.copy()
    moved[:3, :3] = affine[:3, :3][:, list(order)]
    for axis in flips:
        turned = np.flip(turned, axis)
        moved[:3, 3] += moved[:3, axis] * (turned.shape[axis] - 1)
        moved[:3, axis] *= -1
    expected = labels_of(by, ras(data, affine)).transpose(order)
    found = run(by, ras(turned, moved))[0].labels
    np.testing.assert_array_equal(found.data, np.flip(expected, flips))
    np.testing.assert_array_equal(found.spec.affine, moved)


def test_turning_is_said_with_both_orientations(make_header: MakeHeader, rng: np.random.Generator) -> None:
    by = segmenter(make_header(3, orientation="RAS"))
    scan = ras(rng.normal(size=(8, 9, 10)).astype(np.float32), spacing_affine((1.0, -1.0, -1.0)))
    assert scan.spec.orientation == "LPS"
    assert "from LPS to RAS" in words(run(by, scan)[1])


@pytest.mark.parametrize("thick", [0, 1, 2])
def test_a_2d_model_takes_a_stack_slice_by_slice_across_its_thickest_axis(
    thick: int, make_header: MakeHeader, noise: Noise
) -> None:
    by = segmenter(make_header(2))
    spacing = tuple(5.0 if axis == thick else 1.0 for axis in range(3))
    stack = noise((17, 18, 19), "zyx", spacing)
    found = labels_of(by, stack)
    one = stack.data.take(4, axis=thick)
    np.testing.assert_array_equal(found.take(4, axis=thick), labels_of(by, Scan(one, array_spec(one.shape, "yx"))))


def test_frames_are_segmented_one_by_one(make_header: MakeHeader, noise: Noise) -> None:
    by = segmenter(make_header(3))
    scan = noise((3, 8, 17, 18), "tzyx")
    found = labels_of(by, scan)
    alone = Scan(scan.data[1], array_spec(scan.data.shape[1:], "zyx", (1.0, 1.0, 1.0), "mm"))
    np.testing.assert_array_equal(found[1], labels_of(by, alone))


def fourth(scan: Scan, form: str) -> Scan:
    return Scan(scan.data, replace(scan.spec, format=form))


@pytest.mark.parametrize("form", ["nifti", "nrrd", "mha"])
def test_a_fourth_axis_of_the_models_length_is_read_as_channels(
    form: str, make_header: MakeHeader, noise: Noise
) -> None:
    by = segmenter(make_header(3, ("T1", "T2")))
    scan = noise((2, 8, 17, 18), "tzyx")
    result, events = run(by, fourth(scan, form))
    channels = replace(array_spec(scan.data.shape, "czyx"), channel_names=("T1", "T2"))
    assert result.labels.spec.axes == "zyx"
    np.testing.assert_array_equal(result.labels.data, labels_of(by, Scan(scan.data, channels)))
    assert "The fourth axis is read as the model's 2 channels." in words(events)


@pytest.mark.parametrize(("form", "channels"), [("nifti", RGB), ("tiff", RGB), ("nifti", ("Red", "GREEN", "blue"))])
def test_three_frames_are_no_colors(
    form: str, channels: tuple[str, ...], make_header: MakeHeader, noise: Noise
) -> None:
    result, events = run(segmenter(make_header(2, channels)), fourth(noise((3, 20, 21), "tyx"), form))
    assert result.labels.spec.axes == "tyx"
    assert "fourth axis" not in words(events)


@pytest.mark.parametrize("form", ["tiff", "zarr", "array"])
def test_time_of_a_format_that_names_its_axes_stays_time(form: str, make_header: MakeHeader, noise: Noise) -> None:
    with pytest.raises(ChannelError, match="The scan has 1 channel, the model takes 2"):
        run(segmenter(make_header(2, ("T1", "T2"))), fourth(noise((2, 20, 21), "tyx"), form))


def color(shape: tuple[int, ...], rng: np.random.Generator) -> Scan:
    data = rng.integers(0, 255, (3, *shape), dtype=np.uint8)
    return Scan(data, replace(array_spec(data.shape, "cyx"), channel_names=RGB))


def test_color_is_turned_to_gray_for_a_gray_model(make_header: MakeHeader, rng: np.random.Generator) -> None:
    scan = color((20, 21), rng)
    by = segmenter(make_header(2))
    result, events = run(by, scan)
    assert result.labels.spec.axes == "yx"
    assert "turned to gray" in words(events)
    gray = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), scan.data.astype(np.float32), 1)
    np.testing.assert_array_equal(result.labels.data, labels_of(by, Scan(gray, array_spec(gray.shape, "yx"))))


def test_gray_is_taken_for_color_by_a_color_model(make_header: MakeHeader, noise: Noise) -> None:
    by = segmenter(make_header(2, RGB))
    scan = noise((20, 21), "yx")
    result, events = run(by, scan)
    assert "used for red, green and blue" in words(events)
    tripled = Scan(np.stack([scan.data] * 3), array_spec((3, 20, 21), "cyx"))
    np.testing.assert_array_equal(result.labels.data, labels_of(by, tripled))


@pytest.mark.parametrize(
    ("channels", "given"),
    [(("T1", "T2", "FLAIR"), 1), (("image",), 3), (("image",), 2), (("T1", "T2"), 1), (("T1", "T2"), 4), (RGB, 4)],
)
def test_a_wrong_number_of_channels_is_refused(
    channels: tuple[str, ...], given: int, make_header: MakeHeader, noise: Noise
) -> None:
    """Contrasts are no colors: they are neither mixed to one nor made from one."""
    scan = noise((given, 20, 21), "cyx") if given > 1 else noise((20, 21), "yx")
    with pytest.raises(ChannelError, match=rf"The scan has {given} channel.* the model takes {len(channels)} \("):
        run(segmenter(make_header(2, channels)), scan)


def test_a_3d_model_refuses_a_picture(make_header: MakeHeader, noise: Noise) -> None:
    with pytest.raises(GeometryError, match="The model is 3D, the image 2D"):
        run(segmenter(make_header(3)), noise((20, 21), "yx"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("shape", [(20, 21), (3, 20, 21)])
def test_voxels_that_are_not_finite_are_counted(
    bad: float, shape: tuple[int, ...], make_header: MakeHeader, noise: Noise
) -> None:
    scan = noise(shape, "zyx"[-len(shape) :])
    data = scan.data.astype(np.float64)
    data[..., 3, 4] = bad
    with pytest.raises(
        IntensityError, match=r"(Of 420 voxels, 1 is NaN or infinite, the first at|1e.300 at) .*y 3, x 4"
    ):
        run(segmenter(make_header(2)), Scan(data, scan.spec))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_frame_of_infinities_is_no_empty_frame(bad: float, make_header: MakeHeader, noise: Noise) -> None:
    scan = noise((3, 20, 21), "tyx")
    scan.data[1] = bad
    with pytest.raises(
        IntensityError, match=r"All 420 voxels are NaN or infinite, the first at t 1, .* nothing to see in them"
    ):
        run(segmenter(make_header(2)), scan)


@pytest.mark.parametrize(("shape", "axes"), [((20, 21), "yx"), ((3, 20, 21), "zyx"), ((2, 20, 21), "tyx")])
def test_a_constant_scan_is_refused(shape: tuple[int, ...], axes: str, make_header: MakeHeader, noise: Noise) -> None:
    scan = noise(shape, axes)
    scan.data[...] = 7
    with pytest.raises(IntensityError, match="Every voxel has the value 7"):
        run(segmenter(make_header(2)), scan)


def test_an_empty_slice_of_a_stack_is_background_and_said(make_header: MakeHeader, noise: Noise) -> None:
    scan = noise((4, 20, 21), "zyx")
    scan.data[2] = 0
    result, events = run(segmenter(make_header(2)), scan, EXTRAS)
    assert not result.labels.data[2].any()
    assert result.labels.data[1].any()
    assert result.probabilities is not None
    np.testing.assert_array_equal(result.probabilities.data[:, 2], np.stack([np.ones((20, 21)), np.zeros((20, 21))]))
    assert "one value everywhere: 1 of 4 frames" in words(events)


def test_what_is_done_is_said_once_at_the_first_slice_that_is_computed(
    make_header: MakeHeader, rng: np.random.Generator
) -> None:
    scan = color((20, 21), rng)
    data = np.stack([np.zeros_like(scan.data), *[scan.data] * 3])
    stack = Scan(data, replace(array_spec(data.shape, "tcyx"), channel_names=RGB))
    said = words(run(segmenter(make_header(2)), stack)[1])
    assert said.count("turned to gray") == 1
    assert said.count("Segmenting: ") == 1


@pytest.mark.parametrize(("dims", "shape", "axes"), [(3, (9, 18, 20), "zyx"), (2, (2, 3, 18, 20), "tzyx")])
@pytest.mark.parametrize("resampled", [False, True])
def test_probabilities_sum_to_one_and_their_largest_is_the_label(
    dims: int, shape: tuple[int, ...], axes: str, resampled: bool, make_header: MakeHeader, noise: Noise
) -> None:
    more: dict[str, Any] = {"resample": "spacing", "spacing": (1.3,) * dims, "unit": "mm"} if resampled else {}
    header = make_header(dims, values=(0, 3, 1), **more)
    result, _ = run(segmenter(header), noise(shape, axes), EXTRAS)
    assert result.probabilities is not None
    p, spec = result.probabilities.data, result.probabilities.spec
    at = spec.axes.index("c")
    assert p.dtype == np.float32
    assert spec.channel_names == ("background", "class 3", "class 1")
    assert p.shape == spec.shape
    np.testing.assert_allclose(p.sum(at), 1, atol=1e-5)
    np.testing.assert_array_equal(np.array([0, 3, 1])[p.argmax(at)], result.labels.data)


def test_entropy_is_between_0_and_1_and_follows_the_probabilities(make_header: MakeHeader, noise: Noise) -> None:
    result, _ = run(segmenter(make_header(2, values=(0, 1, 2))), noise((30, 31), "yx"), EXTRAS)
    assert result.entropy is not None
    assert result.probabilities is not None
    assert result.entropy.data.shape == (30, 31)
    p = result.probabilities.data.astype(np.float64)
    expected = -np.sum(p * np.log(np.maximum(p, 1e-30)), 0) / np.log(3)
    np.testing.assert_allclose(result.entropy.data, expected, atol=1e-5)
    assert result.entropy.data.min() >= 0
    assert result.entropy.data.max() <= 1


def test_without_being_asked_for_there_are_no_extras(make_header: MakeHeader, noise: Noise) -> None:
    result, _ = run(segmenter(make_header(2)), noise((20, 21), "yx"))
    assert result.probabilities is None
    assert result.entropy is None


@pytest.mark.parametrize("dims", [2, 3])
def test_mirror_averaging_does_not_know_left_from_right(dims: int, make_header: MakeHeader, noise: Noise) -> None:
    by = segmenter(make_header(dims))
    scan = noise((14, 20, 16)[-dims:], "zyx"[-dims:])
    config = InferenceConfig(mirror=True, probabilities=True)
    straight = run(by, scan, config)[0].probabilities
    for axis in range(dims):
        other = run(by, Scan(np.flip(scan.data, axis), scan.spec), config)[0].probabilities
        assert straight is not None
        assert other is not None
        np.testing.assert_allclose(np.flip(other.data, axis + 1), straight.data, atol=1e-4)


def test_mirroring_keeps_to_the_axes_of_the_training(make_header: MakeHeader, noise: Noise) -> None:
    header = make_header(2).replace(mirror_axes="")
    scan = noise((20, 21), "yx")
    plain, quiet = run(segmenter(header), scan)
    mirrored, said = run(segmenter(header), scan, InferenceConfig(mirror=True))
    np.testing.assert_array_equal(plain.labels.data, mirrored.labels.data)
    assert "mirrored no axis: mirroring is left out" in words(said)
    assert "mirror" not in words(quiet)


def test_only_the_largest_piece_is_kept(make_header: MakeHeader, noise: Noise) -> None:
    from scipy import ndimage

    by, scan = segmenter(make_header(2)), noise((40, 41), "yx")
    whole = labels_of(by, scan)
    kept = labels_of(by, scan, InferenceConfig(keep_largest=True))
    assert ndimage.label(whole, np.ones((3, 3)))[1] > 1
    assert ndimage.label(kept, np.ones((3, 3)))[1] == 1
    assert not (kept & ~whole).any()


def test_holes_are_filled(make_header: MakeHeader) -> None:
    by = Segmenter(make_header(2), Sign(make_header(2)), CPU)  # type: ignore[arg-type]
    data = np.zeros((20, 20), np.float32)
    data[4:15, 4:15] = 9
    data[8:10, 8:10] = 0
    scan = Scan(data, array_spec(data.shape, "yx"))
    assert labels_of(by, scan).sum() == 117
    assert labels_of(by, scan, InferenceConfig(fill_holes=True)).sum() == 121


def test_class_values_above_255_are_kept(make_header: MakeHeader, noise: Noise) -> None:
    found = labels_of(segmenter(make_header(2, values=(0, 300, 65535))), noise((40, 41), "yx"))
    assert found.dtype == np.uint16
    assert set(np.unique(found)) == {0, 300, 65535}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8, ">i2"])
def test_the_scan_given_is_not_changed(dtype: Any, make_header: MakeHeader, noise: Noise) -> None:
    scan = noise((8, 18, 20), "zyx")
    scan = Scan(scan.data.astype(dtype), scan.spec)
    before = scan.data.copy()
    scan.data.flags.writeable = False
    run(segmenter(make_header(3, orientation="RAS")), scan, EXTRAS)
    np.testing.assert_array_equal(scan.data, before)


def test_a_run_can_be_closed_in_the_middle_and_started_again(make_header: MakeHeader, noise: Noise) -> None:
    by, scan = segmenter(make_header(2)), noise((60, 61), "yx")
    expected = labels_of(by, scan)
    work = by.segment(scan, PLAIN)
    assert any(isinstance(next(work), TileDone) for _ in range(5))
    work.close()
    with pytest.raises(StopIteration):
        next(work)
    np.testing.assert_array_equal(labels_of(by, scan), expected)


def test_batches_and_overlap_change_the_work_not_the_grid(make_header: MakeHeader, noise: Noise) -> None:
    by, scan = segmenter(make_header(2)), noise((60, 61), "yx")
    one = labels_of(by, scan, InferenceConfig(batch_size=1))
    np.testing.assert_array_equal(labels_of(by, scan, InferenceConfig(batch_size=7)), one)
    counts = []
    for overlap in (0.0, 0.5, 0.75):
        result, events = run(by, scan, InferenceConfig(overlap=overlap))
        assert result.labels.data.shape == (60, 61)
        counts.append(sum(isinstance(e, TileDone) for e in events))
    assert counts[0] < counts[1] < counts[2]


class Hungry(torch.nn.Module):
    """Runs out of memory above a number of tiles at once."""

    def __init__(self, most: int, error: Exception) -> None:
        super().__init__()
        self.most, self.error = most, error
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        if len(x) > self.most:
            raise self.error
        return torch.cat([-x, x], dim=1)


ENDED = [
    torch.OutOfMemoryError("CUDA out of memory."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried 1 TB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
]


def finish(work: Generator[Any, None, torch.Tensor]) -> tuple[torch.Tensor, list[Any]]:
    events = []
    while True:
        try:
            events.append(next(work))
        except StopIteration as stop:
            return stop.value, events


@pytest.mark.parametrize("error", ENDED, ids=["cuda", "numpy", "cpu", "mps"])
def test_batches_are_halved_until_they_fit(error: Exception) -> None:
    model = Hungry(2, error)
    image = torch.randn(1, 40, 40)
    expected, _ = finish(TiledPredictor(Hungry(99, error), (8, 8), CPU, overlap=0.5, batch_size=8).predict(image, CPU))
    found, events = finish(TiledPredictor(model, (8, 8), CPU, overlap=0.5, batch_size=8).predict(image, CPU))
    assert model.batches[:3] == [8, 4, 2]
    assert set(model.batches[2:]) <= {1, 2}
    assert [e.message for e in events if isinstance(e, StageStarted)] == [
        "Memory ran out: continuing with 4 tiles at a time.",
        "Memory ran out: continuing with 2 tiles at a time.",
    ]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("error", ENDED, ids=["cuda", "numpy", "cpu", "mps"])
def test_when_main_memory_ends_it_is_said(error: Exception, make_header: MakeHeader, noise: Noise) -> None:
    by = Segmenter(make_header(2), Hungry(0, error), CPU)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="Main memory ran out"):
        run(by, noise((20, 21), "yx"))


def test_other_failures_of_the_network_are_not_taken_for_memory(make_header: MakeHeader, noise: Noise) -> None:
    by = Segmenter(make_header(2), Hungry(0, RuntimeError("shapes differ")), CPU)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(by, noise((20, 21), "yx"))


def test_a_scan_that_cannot_fit_is_refused_before_the_work(
    make_header: MakeHeader, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prosma_core.inference.memory.free_memory", lambda _: 50_000)
    model = Hungry(99, MemoryError())
    by = Segmenter(make_header(2), model, CPU)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match=r"needs about .* MiB .* free on cpu\. Close other programs"):
        run(by, noise((200, 210), "yx"))
    assert model.batches == []


def test_the_plan_is_said_in_words(make_header: MakeHeader, noise: Noise) -> None:
    said = words(run(segmenter(make_header(2)), noise((20, 16), "yx"))[1])
    assert "Segmenting: 2 tiles of 16x16, 1 at a time, about" in said


@pytest.mark.parametrize(
    "place",
    [
        "segment.measure",
        "segment.network_image",
        "segment.Results",
        "prepare.network_grid",
        "results.argmax_part",
        "results.fill_holes",
    ],
)
@pytest.mark.parametrize("error", [MemoryError(), ENDED[2]], ids=["numpy", "torch"])
def test_main_memory_may_end_anywhere(
    place: str, error: Exception, make_header: MakeHeader, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*_: object) -> None:
        raise error

    monkeypatch.setattr(f"prosma_core.inference.{place}", ends)
    with pytest.raises(DeviceError, match="Main memory ran out"):
        run(segmenter(make_header(2)), noise((20, 21), "yx"), InferenceConfig(fill_holes=True))


class TwoDevices(TiledPredictor):
    """A GPU with memory for small scans beside a CPU that works."""

    def predict(self, image: torch.Tensor, sums_on: torch.device, *more: Any) -> Generator[Any, None, torch.Tensor]:
        if self.device.type == "cuda" and image.shape[-1] > 20:
            message = "CUDA out of memory."
            raise torch.OutOfMemoryError(message)
        self.device = CPU
        return (yield from super().predict(image, CPU, *more))


class Movable(torch.nn.Module):
    """A network that only notes where it was put."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.place = model, ""

    def to(self, device: torch.device | None = None, **_: object) -> Movable:  # type: ignore[override]
        self.place = self.place if device is None else device.type
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


def on_gpu(header: ModelHeader) -> Segmenter:
    return Segmenter(header, Movable(segmenter(header).model), torch.device("cuda"))  # type: ignore[arg-type]


@pytest.fixture
def small_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a GPU be there whose memory ends above a width of 20, in use or by plan (the parameter: free bytes)."""
    monkeypatch.setattr("prosma_core.inference.segment.TiledPredictor", TwoDevices)
    monkeypatch.setattr(
        "prosma_core.inference.memory.free_memory", lambda device: request.param if device.type == "cuda" else 10**9
    )


@pytest.mark.parametrize("small_gpu", [10**9, 1000], ids=["ends while computing", "too little by plan"], indirect=True)
@pytest.mark.usefixtures("small_gpu")
def test_the_cpu_takes_over_when_the_gpus_memory_does_not_suffice(make_header: MakeHeader, noise: Noise) -> None:
    scan = noise((20, 21), "yx")
    expected = labels_of(segmenter(make_header(2)), scan)
    by = on_gpu(make_header(2))
    result, events = run(by, scan)
    assert "Memory of cuda does not suffice: continuing on the CPU" in words(events)
    assert "free on cpu" in words(events)
    assert by.model.place == "cpu"
    assert np.array_equal(result.labels.data, expected)


@pytest.mark.parametrize("small_gpu", [10**9], indirect=True)
@pytest.mark.usefixtures("small_gpu")
def test_one_scan_too_large_for_the_gpu_does_not_keep_the_others_from_it(make_header: MakeHeader, noise: Noise) -> None:
    by = on_gpu(make_header(2))
    assert "continuing on the CPU" in words(run(by, noise((20, 21), "yx"))[1])
    said = words(run(by, noise((20, 20), "yx"))[1])
    assert "free on cuda" in said
    assert "CPU" not in said
    assert by.model.place == "cuda"


@pytest.mark.parametrize("small_gpu", [10**9], indirect=True)
@pytest.mark.usefixtures("small_gpu")
def test_the_other_frames_of_a_scan_too_large_stay_on_the_cpu(make_header: MakeHeader, noise: Noise) -> None:
    said = words(run(on_gpu(make_header(2)), noise((3, 20, 21), "tyx"))[1])
    assert said.count("continuing on the CPU") == 1
