"""A scan that is read and computed by parts has the labels of the scan in memory, to the bit."""

from __future__ import annotations

import errno
import os
import re
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from prosma_core.config import InferenceConfig, ModelHeader
from prosma_core.config.model import ChannelIntensity
from prosma_core.data.geometry import Box, ImageSpec, Scan, array_spec, box_shape, box_slices, spacing_affine
from prosma_core.data.grid import NetworkGrid
from prosma_core.data.lazy import LazyArray
from prosma_core.errors import OutputError
from prosma_core.events import CaseFailed, Event, SlabDone, StageStarted, TileDone, Working
from prosma_core.inference import memory, segment, stored_pieces, stored_results
from prosma_core.inference.files import FileOptions, plan_files, segment_files
from prosma_core.inference.results import Results, Segmentation, StoredArray
from prosma_core.inference.segment import Segmenter
from prosma_core.inference.tiled import TiledPredictor
from prosma_core.io import atomic, images, zarr_images
from prosma_core.io.class_notes import noted_classes
from prosma_core.io.images import read_image, read_labels, write_image, write_labels
from prosma_core.io.scan_files import ScanChoice
from prosma_core.io.zarr_labels import is_listed
from prosma_core.model.unet import build_model

MakeHeader = Callable[..., ModelHeader]


def segmenter(header: ModelHeader, working: int | None = None) -> Segmenter:
    """Return a network whose random weights give every class somewhere."""
    model = build_model(header.model, 0)
    for gate in model.heads:
        gate.bias.data.zero_()
        gate.weight.data.mul_(20)
    by = Segmenter(header, model, segment.torch.device("cpu"))
    by.working = working
    return by


def run(by: Segmenter, scan: Scan, config: InferenceConfig, **more: Any) -> tuple[Segmentation, list[Event]]:
    events, work = [], by.segment(scan, config, **more)
    while True:
        try:
            events.append(next(work))
        except StopIteration as stop:
            return stop.value, events


class Disk:
    """Arrays on a disk, of which it is known what was read and written."""

    def __init__(self, chunks: tuple[int, ...], fill: int = 0) -> None:
        self.chunks, self.fill = chunks, fill
        self.arrays: dict[str, np.ndarray] = {}
        self.written: list[tuple[str, Box]] = []
        self.most = 0

    def lazy(self, data: np.ndarray) -> LazyArray:
        def read(box: Box) -> np.ndarray:
            found = data[box_slices(box)].copy()
            self.most = max(self.most, found.nbytes)
            return found

        return LazyArray(data.shape, data.dtype, read, (1,) * (data.ndim - len(self.chunks)) + self.chunks)

    def allocate(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> StoredArray:
        data = self.arrays[name] = np.full(shape, self.fill if name == "labels" else 0, dtype)

        def put(box: Box, values: np.ndarray) -> None:
            self.written.append((name, box))
            data[box_slices(box)] = values

        chunks = (1,) * (len(shape) - len(self.chunks)) + self.chunks
        return StoredArray(shape, dtype, chunks, put, self.lazy(data))


def turned(shape: tuple[int, ...], spacing: tuple[float, ...], flips: tuple[int, ...], swap: bool) -> ImageSpec:
    """Geometry of a patient's scan whose axes are not those of RAS."""
    matrix = np.diag(spacing)
    for axis in flips:
        matrix[axis, axis] *= -1
    matrix = matrix[[1, 0, 2]] if swap else matrix
    affine = np.eye(4)
    affine[:3, :3] = matrix
    return ImageSpec("zyx", shape, spacing, "mm", affine, "ras", format="nifti")


def sized(shape: tuple[int, ...], spacing: tuple[float, ...]) -> ImageSpec:
    return ImageSpec("zyx", shape, spacing, "mm", spacing_affine(spacing))


def resampled(*spacing: float) -> dict[str, Any]:
    return {"resample": "spacing", "spacing": spacing, "unit": "mm"}


CASES: dict[str, tuple[int, dict[str, Any], ImageSpec]] = {
    "odd": (3, {}, array_spec((21, 17, 13), "zyx")),
    "channels": (3, {"channels": ("t1", "t2")}, array_spec((2, 17, 20, 11), "czyx")),
    "thin": (3, {}, array_spec((3, 12, 19), "zyx")),
    "resampled": (3, resampled(1.3, 0.8, 1.0), sized((20, 13, 15), (1.0, 1.0, 1.7))),
    "thick axis resampled": (3, resampled(2.0, 1.5, 1.5), sized((9, 25, 21), (5.0, 1.0, 1.0))),
    "flipped": (3, {"orientation": "RAS"}, turned((20, 17, 13), (1, 1, 1), (0, 2), False)),
    "turned and resampled": (
        3,
        {"orientation": "RAS", **resampled(1.4, 1.0, 0.7)},
        turned((17, 20, 13), (1, 1.2, 1), (1,), True),
    ),
    "frames": (3, {}, array_spec((2, 20, 10, 17), "tzyx")),
    "slices": (2, {}, array_spec((3, 35, 23), "zyx")),
    "slices with channels": (2, {"channels": ("a", "b")}, array_spec((2, 3, 25, 33), "czyx")),
    "color": (2, {}, replace(array_spec((3, 35, 33), "cyx"), channel_names=("red", "green", "blue"))),
}


def scan_of(spec: ImageSpec) -> Scan:
    data = np.random.default_rng(0).normal(100, 20, spec.shape)
    return Scan(data.astype(np.uint8 if spec.channel_names else np.float32), spec)


SIZES = [(case, 0, 0.25) for case in CASES]
SIZES += [(case, working, overlap) for case in ("odd", "resampled") for working, overlap in ((0, 0.5), (250_000, 0.5))]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "working", "overlap"), SIZES)
def test_labels_do_not_depend_on_the_blocks(
    case: str, working: int, overlap: float, make_header: MakeHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "KEPT", 0)
    dims, more, spec = CASES[case]
    header, scan = make_header(dims, tile=(8,) * dims, **more), scan_of(spec)
    config = InferenceConfig(overlap=overlap, probabilities=True, mirror=case == "thin")
    whole, one = run(segmenter(header), scan, config)
    disk = Disk((4, 8, 8)[3 - scan.spec.spatial_ndim :], header.classes[0].value)
    by = segmenter(header, working)
    _, several = run(by, Scan(disk.lazy(scan.data), scan.spec), config, allocate=disk.allocate)
    assert len(np.unique(whole.labels.data)) > 1
    np.testing.assert_array_equal(disk.arrays["labels"], whole.labels.data)
    assert whole.probabilities is not None  # whose softmax may round otherwise at the end of a row
    np.testing.assert_allclose(disk.arrays["probabilities"], whole.probabilities.data, atol=1e-6)
    assert working or "Computed in" in " ".join(e.message for e in several if isinstance(e, StageStarted))
    voxels = sum(prod(box_shape(box)) for name, box in disk.written if name == "labels")
    assert voxels == disk.arrays["labels"].size  # each is written once
    done = [event for event in several if isinstance(event, TileDone)]
    assert [event.done for event in done] == list(range(1, done[-1].total + 1))
    assert done[-1].total >= [event for event in one if isinstance(event, TileDone)][-1].total


def store(path: Path, spec: ImageSpec, chunks: tuple[int, ...] = (4, 8, 8), **attributes: Any) -> Scan:
    """A scan in a zarr folder."""
    scan = scan_of(spec)
    data = (scan.data * 10).astype(np.uint16)
    array = zarr.create_array(str(path), shape=data.shape, dtype=data.dtype, chunks=chunks, zarr_format=2)
    array[...] = data
    array.attrs.update({"axes": list(spec.axes), **attributes})
    return Scan(data, spec)


def segmented(
    inputs: list[Path], out: Path, by: Segmenter, options: FileOptions | None = None, **settings: Any
) -> tuple[list[CaseFailed], str]:
    """Failures and messages of a command."""
    failures, said = [], []
    for event in segment_files(inputs, out, by, InferenceConfig(overlap=0.25, **settings), options):
        failures += [event] if isinstance(event, CaseFailed) else []
        said += [event.message] if isinstance(event, StageStarted) else []
    return failures, " ".join(said)


@pytest.mark.usefixtures("by_parts")
@pytest.mark.parametrize("name", ["labels.zarr", "labels.nii.gz"])
@pytest.mark.parametrize("region", [None, ((3, 9), (0, 12), (5, 9))])
def test_files_read_by_parts_give_the_labels_of_the_scan_in_memory(
    name: str, region: Box | None, tmp_path: Path, make_header: MakeHeader
) -> None:
    by = segmenter(make_header(3, tile=(8, 8, 8)))
    scan = store(tmp_path / "scan.zarr", array_spec((15, 13, 11), "zyx"))
    wanted, _ = run(by, scan, InferenceConfig(overlap=0.25, region=region, probabilities=True))
    failures, said = segmented([tmp_path / "scan.zarr"], tmp_path / name, by, region=region, probabilities=True)
    assert not failures
    assert "Computed in" in said
    assert wanted.probabilities is not None
    np.testing.assert_array_equal(read_labels(tmp_path / name).data, wanted.labels.data)
    found = read_image(tmp_path / name.replace("labels", "labels_probabilities")).data
    np.testing.assert_allclose(found, wanted.probabilities.data, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_small_region_of_a_large_scan_is_one_block_and_the_rest_is_not_read(
    make_header: MakeHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "IN_CORE", 4_000_000)
    monkeypatch.setattr(memory, "KEPT", 0)
    by, scan = segmenter(make_header(3, tile=(8, 8, 8))), scan_of(array_spec((200, 80, 80), "zyx"))
    config = InferenceConfig(overlap=0.25, region=((40, 50), (30, 40), (50, 60)))
    disk = Disk((4, 8, 8))
    lazy = Scan(disk.lazy(scan.data), scan.spec)
    assert by.by_parts(lazy, config)
    found, _ = run(by, lazy, config)
    assert disk.most <= scan.data.nbytes / 10
    np.testing.assert_array_equal(found.labels.data, run(by, scan, config)[0].labels.data)


@pytest.mark.usefixtures("by_parts")
def test_a_damaged_chunk_is_named_and_the_other_scans_are_done(tmp_path: Path, make_header: MakeHeader) -> None:
    by = segmenter(make_header(3, tile=(8, 8, 8)))
    for name in ("a.zarr", "b.zarr"):
        store(tmp_path / name, array_spec((15, 13, 11), "zyx"))
    chunk = tmp_path / "a.zarr" / "3.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-3] + b"abc")
    failures, _ = segmented([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "out", by)
    assert [failure.name for failure in failures] == ["a"]
    assert "a.zarr/3.0.0 is damaged" in failures[0].error
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".prosma-partial-a.zarr", "b.zarr"]


class Watched:
    """A stored array whose writes are counted; one of them may fail."""

    def __init__(self, array: Any, fails: int = 0) -> None:
        self.array, self.fails, self.count = array, fails, 0

    def __setitem__(self, index: Any, values: Any) -> None:
        self.count += 1
        if self.count == self.fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.array[index] = values

    def __getitem__(self, index: Any) -> Any:
        return self.array[index]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.array, name)


@pytest.mark.usefixtures("by_parts")
@pytest.mark.parametrize("end", ["full", "stopped", "changed"])
def test_what_is_done_stays_and_the_next_run_does_the_rest(
    end: str, tmp_path: Path, make_header: MakeHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    by, out = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "out.zarr"
    scan = store(tmp_path / "scan.zarr", array_spec((15, 13, 11), "zyx"))
    wanted, _ = run(by, scan, InferenceConfig(overlap=0.25))
    made: list[Watched] = []

    def watch(name: str, fails: int) -> None:
        real = getattr(zarr_images, name)
        monkeypatch.setattr(stored_results, name, lambda *given: made.append(Watched(real(*given), fails)) or made[-1])

    watch("create_zarr", 4 if end == "full" else 0)
    watch("open_written", 0)
    if end == "full":
        assert "No space left on device" in segmented([tmp_path / "scan.zarr"], out, by)[0][0].error
    else:
        work = segment_files([tmp_path / "scan.zarr"], out, by, InferenceConfig(overlap=0.25))
        while not made or made[0].count < 3:
            next(work)
        work.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".prosma-partial-out.zarr", "scan.zarr"]
    kept = len((tmp_path / ".prosma-partial-out.zarr" / "blocks.txt").read_text().splitlines()) - 1
    assert 2 <= kept < 16
    watch("create_zarr", 0)
    if end == "changed":
        (tmp_path / "scan.zarr" / "0.0.0").touch()
    failures, said = segmented([tmp_path / "scan.zarr"], out, by)
    assert not failures
    assert ("blocks of an earlier run stay" in said) == (end != "changed")
    assert made[-1].count == (16 if end == "changed" else 16 - kept)
    np.testing.assert_array_equal(read_labels(out).data, wanted.labels.data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr", "scan.zarr"]


@pytest.mark.usefixtures("by_parts")
def test_what_cannot_be_done_by_parts_is_said_before_the_work(
    tmp_path: Path, make_header: MakeHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    by = segmenter(make_header(3, tile=(8, 8, 8)))
    store(tmp_path / "scan.zarr", array_spec((15, 13, 11), "zyx"))
    assert not segmented([tmp_path / "scan.zarr"], tmp_path / "out.nii", by, keep_largest=True)[0]
    monkeypatch.setattr(stored_results, "free_memory", lambda _: 1000)
    failures, _ = segmented([tmp_path / "scan.zarr"], tmp_path / "out.nii.gz", by)
    assert "Let --out end with .zarr" in failures[0].error
    write_image(tmp_path / "packed.nii.gz", np.zeros((100, 100, 100), np.uint8), array_spec((100, 100, 100), "zyx"))
    monkeypatch.setattr(stored_results, "free_memory", lambda _: 4_000_000)
    monkeypatch.setattr(images, "_read", None)
    failures, _ = segmented([tmp_path / "packed.nii.gz"], tmp_path / "out.nii.gz", by)
    assert "packed.nii.gz takes at least 5 MiB of memory" in failures[0].error


@pytest.mark.usefixtures("by_parts")
def test_empty_tiles_of_a_sparse_scan_are_computed_once(
    tmp_path: Path, make_header: MakeHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    by, computed = segmenter(make_header(3, tile=(8, 8, 8))), []
    array = zarr.create_array(str(tmp_path / "scan.zarr"), shape=(64, 24, 24), dtype="uint16", chunks=(8, 8, 8))
    array[:8, :8, :8] = np.random.default_rng(0).integers(0, 1000, (8, 8, 8))
    array.attrs["axes"] = ["z", "y", "x"]
    real = TiledPredictor._forward
    monkeypatch.setattr(
        TiledPredictor, "_forward", lambda self, batch: computed.append(len(batch)) or real(self, batch)
    )
    failures, said = segmented([tmp_path / "scan.zarr"], tmp_path / "out.zarr", by)
    assert not failures
    assert "of 66 tiles" not in said
    assert sum(computed) <= 30
    wanted, _ = run(by, Scan(array[...], array_spec(array.shape, "zyx")), InferenceConfig(overlap=0.25))
    np.testing.assert_array_equal(read_labels(tmp_path / "out.zarr").data, wanted.labels.data)


def store_image(path: Path, version: int = 2) -> Scan:
    """A scan in an OME-Zarr image of two levels."""
    scan = scan_of(array_spec((15, 13, 11), "zyx"))
    data = (scan.data * 10).astype(np.uint16)
    group = zarr.create_group(str(path), zarr_format=version)
    for name, values in (("0", data), ("1", data[:7, :6, :5])):
        zarr.create_array(str(path / name), data=values, chunks=(4, 8, 8), zarr_format=version)
    scales: list[list[dict[str, Any]]] = [[{"type": "scale", "scale": [n] * 3}] for n in (1.0, 2.0)]
    levels = [{"path": str(n), "coordinateTransformations": scale} for n, scale in enumerate(scales)]
    multiscale = {"axes": [{"name": n, "type": "space"} for n in "zyx"], "datasets": levels}
    if version == 2:
        group.attrs["multiscales"] = [{"version": "0.4", **multiscale}]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    return Scan(data, scan.spec)


def image_files(path: Path) -> dict[Path, bytes]:
    inside = (file for file in path.rglob("*") if file.is_file())
    return {file: file.read_bytes() for file in inside if "labels" not in file.relative_to(path).parts}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("parts", [False, True])
def test_a_label_map_goes_into_the_labels_of_its_image(
    parts: bool, version: int, tmp_path: Path, make_header: MakeHeader, request: pytest.FixtureRequest
) -> None:
    if parts:
        request.getfixturevalue("by_parts")
    by, image = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "scan.ome.zarr"
    scan = store_image(image, version)
    wanted, _ = run(by, scan, InferenceConfig(overlap=0.25))
    before, place = image_files(image), image / "labels" / "organs"
    assert "only label maps go" in segmented([image], place, by, probabilities=True)[0][0].error
    failures, said = segmented([image], place, by)
    assert not failures
    assert ("Computed in" in said) == parts
    assert image_files(image) == before
    np.testing.assert_array_equal(read_labels(place).data, wanted.labels.data)
    opened = zarr_images.open_zarr(place)
    assert [level.shape for level in opened.levels] == [(15, 13, 11), (7, 6, 5)]
    assert [c.name for c in noted_classes(opened.notes)] == [c.name for c in by.header.classes]
    assert [path.name for path in (image / "labels").iterdir() if path.is_dir()] == ["organs"]
    assert "add --overwrite" in segmented([image], place, by)[0][0].error
    options = FileOptions(skip_existing=True)
    plan = plan_files(ScanChoice((image,)), place, by.header, InferenceConfig(), options)
    assert (len(plan.left), len(plan.finished)) == (0, 1)
    for file in (image / "labels").glob("z*.json"):
        file.unlink()
    for file in (image / "labels").glob(".zattrs"):
        file.unlink()
    assert not is_listed(place)
    list(segment_files([image], place, by, InferenceConfig(overlap=0.25), options))
    assert is_listed(place)


@pytest.mark.usefixtures("by_parts")
def test_labels_in_an_image_are_continued(tmp_path: Path, make_header: MakeHeader) -> None:
    by, image = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "scan.ome.zarr"
    scan = store_image(image)
    wanted, _ = run(by, scan, InferenceConfig(overlap=0.25))
    place = image / "labels" / "organs"
    work = segment_files([image], place, by, InferenceConfig(overlap=0.25))
    done = image / "labels" / ".prosma-partial-organs" / "blocks.txt"
    while not done.is_file() or len(done.read_text().splitlines()) < 3:
        next(work)
    work.close()
    assert not place.exists()
    failures, said = segmented([image], place, by)
    assert not failures
    assert "of an earlier run stay" in said
    np.testing.assert_array_equal(read_labels(place).data, wanted.labels.data)
    assert sorted(path.name for path in (image / "labels").iterdir()) == [".zattrs", ".zgroup", "organs"]


FEW = 1 - 1e-9
"""Threshold above which a few pieces of random logits lie."""
TIDIED = [
    {"keep_largest": True, "threshold": FEW},
    {"min_size": 4, "threshold": FEW},
    {"fill_holes": True},
    {"min_size": 2, "fill_holes": True, "threshold": 0.3},
]


@pytest.mark.slow
@pytest.mark.parametrize("settings", TIDIED)
@pytest.mark.parametrize("case", ["odd", "flipped", "frames", "slices", "color"])
def test_pieces_of_a_map_by_parts_are_those_of_the_map_in_memory(
    case: str, settings: dict[str, Any], make_header: MakeHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "KEPT", 0)
    monkeypatch.setattr(stored_pieces, "BLOCK", 700)
    dims, more, spec = CASES[case]
    header, scan = make_header(dims, tile=(8,) * dims, **more), scan_of(spec)
    plain, _ = run(segmenter(header), scan, InferenceConfig(overlap=0.25, threshold=settings.get("threshold")))
    box = tuple((n > 4, n - (n > 8)) for n in scan.spec.labels_spec().spatial_shape)
    config = InferenceConfig(overlap=0.25, objects=True, region=box, **settings)
    whole, said = run(segmenter(header), scan, config)
    assert (whole.labels.data != plain.labels.data)[..., *box_slices(box)].any()
    disk = Disk((4, 8, 8)[3 - scan.spec.spatial_ndim :], header.classes[0].value)
    by_parts, heard = run(segmenter(header, 0), Scan(disk.lazy(scan.data), scan.spec), config, allocate=disk.allocate)
    np.testing.assert_array_equal(disk.arrays["labels"], whole.labels.data)
    assert whole.objects is not None
    assert by_parts.objects is not None
    assert by_parts.objects.data.dtype == whole.objects.data.dtype
    np.testing.assert_array_equal(disk.arrays["objects"], whole.objects.data)
    assert whole.object_table is not None
    assert by_parts.object_table is not None
    assert by_parts.object_table.tolist() == whole.object_table.tolist()
    assert heard[-1] == said[-1]  # how many objects of each class


@pytest.mark.usefixtures("by_parts")
def test_objects_of_files_by_parts(tmp_path: Path, make_header: MakeHeader) -> None:
    by = segmenter(make_header(3, tile=(8, 8, 8)))
    scan = store(tmp_path / "scan.zarr", array_spec((15, 13, 11), "zyx"))
    config = InferenceConfig(overlap=0.25, objects=True, min_size=4, fill_holes=True)
    wanted, _ = run(by, scan, config)
    failures, said = segmented(
        [tmp_path / "scan.zarr"], tmp_path / "out.zarr", by, objects=True, min_size=4, fill_holes=True
    )
    assert not failures
    assert "Computed in" in said
    assert wanted.objects is not None
    np.testing.assert_array_equal(read_labels(tmp_path / "out.zarr").data, wanted.labels.data)
    np.testing.assert_array_equal(read_labels(tmp_path / "out_objects.zarr").data, wanted.objects.data)


CT = {"intensities": (ChannelIntensity(kind="ct", low=700.0, high=1300.0, mean=1000.0, std=200.0),)}


@pytest.mark.usefixtures("by_parts")
@pytest.mark.parametrize(
    ("image", "intensities", "damage"),
    [("array", "ct", "garbled"), ("image", "ct", "cut"), ("image", "zscore", "garbled"), ("array", "zscore", "cut")],
)
def test_all_blocks_but_those_that_cannot_be_read_are_done(
    image: str, intensities: str, damage: str, tmp_path: Path, make_header: MakeHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    by = segmenter(make_header(3, tile=(8, 8, 8), **(CT if intensities == "ct" else {})))
    path, out = tmp_path / "scan.zarr", tmp_path / "out.zarr"
    if image == "image":
        scan = store_image(path)
        chunk = path / "0" / "3.0.0"
    else:
        scan, chunk = store(path, array_spec((15, 13, 11), "zyx")), path / "3.0.0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-3] + b"abc" if damage == "garbled" else whole[:-3])
    made: list[Watched] = []
    for name in ("create_zarr", "open_written"):
        real = getattr(zarr_images, name)
        monkeypatch.setattr(
            stored_results, name, lambda *given, real=real: made.append(Watched(real(*given))) or made[-1]
        )
    failures, said = segmented([path], out, by)
    text = failures[0].error
    assert "3.0.0 is damaged" in text
    assert "Run the same command again" in text
    left = int(re.search(r"(\d+) of 16 blocks reach it and are not done", text)[1])  # type: ignore[index]
    assert left == 12  # tiles of 8 planes reach it from planes 4 on
    assert made[0].count == 16 - left
    assert not out.exists()
    assert "All blocks that do not reach it are segmented" in said
    again, _ = segmented([path], out, by)  # it is still damaged: nothing is done twice
    assert again[0].error == text
    assert made[1].count == 0
    chunk.write_bytes(whole)
    failures, said = segmented([path], out, by)
    assert not failures
    assert f"{16 - left} blocks of an earlier run stay" in said
    anew = intensities == "zscore"
    assert (f"{16 - left} blocks are computed again" in said) == anew
    assert made[2].count == (16 if anew else left)
    wanted, _ = run(by, scan, InferenceConfig(overlap=0.25))
    np.testing.assert_array_equal(read_labels(out).data, wanted.labels.data)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.zarr", "scan.zarr"]


@pytest.mark.usefixtures("by_parts")
@pytest.mark.parametrize("mended_first", ["0.0.0", "3.0.0"])
def test_only_time_points_whose_intensities_change_are_computed_again(
    mended_first: str, tmp_path: Path, make_header: MakeHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    by, path, out = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "scan.zarr", tmp_path / "out.zarr"
    scan = store(path, array_spec((2, 15, 13, 11), "tzyx"), (1, 4, 8, 8))
    chunks = [path / f"1.{name}" for name in ("0.0.0", "3.0.0")]
    whole = {chunk: chunk.read_bytes() for chunk in chunks}
    for chunk in chunks:
        chunk.write_bytes(b"")
    assert segmented([path], out, by)[0]
    chunk = path / f"1.{mended_first}"
    chunk.write_bytes(whole[chunk])  # the other one is still damaged: intensities stay
    failures, said = segmented([path], out, by)
    assert "is damaged" in failures[0].error
    assert "computed again" not in said
    assert "Intensities are those of the earlier run" in said
    (other,) = set(chunks) - {chunk}
    other.write_bytes(whole[other])
    computed: list[Box] = []
    real = Results.mark_done
    monkeypatch.setattr(
        Results,
        "mark_done",
        lambda self, frame, part: computed.append(frame.place(part.source)) or real(self, frame, part),
    )
    failures, said = segmented([path], out, by)
    assert not failures
    assert "blocks are computed again" in said
    assert {box[0] for box in computed} == {(1, 2)}
    assert len(computed) == 16
    wanted, _ = run(by, scan, InferenceConfig(overlap=0.25))
    np.testing.assert_array_equal(read_labels(out).data, wanted.labels.data)


@pytest.mark.usefixtures("by_parts")
def test_a_run_that_measures_anew_may_be_stopped(tmp_path: Path, make_header: MakeHeader) -> None:
    by, path, out = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "scan.zarr", tmp_path / "out.zarr"
    scan, chunk = store(path, array_spec((15, 13, 11), "zyx")), path / "3.0.0"
    whole = chunk.read_bytes()
    chunk.write_bytes(b"")
    assert segmented([path], out, by)[0]
    chunk.write_bytes(whole)
    work = segment_files([path], out, by, InferenceConfig(overlap=0.25))
    for _ in range(3):
        next(event for event in work if isinstance(event, SlabDone))
    work.close()
    chunk.write_bytes(b"")
    assert segmented([path], out, by)[0]  # of other files than before: anew
    chunk.write_bytes(whole)
    failures, _ = segmented([path], out, by)
    assert not failures
    wanted, _ = run(by, scan, InferenceConfig(overlap=0.25))
    np.testing.assert_array_equal(read_labels(out).data, wanted.labels.data)


@pytest.mark.usefixtures("by_parts")
def test_a_chunk_that_is_gone_after_intensities_were_measured_does_not_change_them(
    tmp_path: Path, make_header: MakeHeader
) -> None:
    by, path, out = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "scan.zarr", tmp_path / "out.zarr"
    scan, chunk = store(path, array_spec((15, 13, 11), "zyx")), path / "3.0.0"
    whole, failures = chunk.read_bytes(), []
    for event in segment_files([path], out, by, InferenceConfig(overlap=0.25)):
        failures += [event] if isinstance(event, CaseFailed) else []
        if isinstance(event, SlabDone) and chunk.read_bytes():
            chunk.write_bytes(b"")
    assert "is damaged" in failures[0].error
    assert segmented([path], out, by)[0]
    chunk.write_bytes(whole)
    failures, said = segmented([path], out, by)
    assert not failures
    assert "of an earlier run stay" in said
    assert "computed again" not in said
    wanted, _ = run(by, scan, InferenceConfig(overlap=0.25))
    np.testing.assert_array_equal(read_labels(out).data, wanted.labels.data)


@pytest.mark.usefixtures("by_parts")
@pytest.mark.parametrize("intensities", ["ct", "zscore"])
def test_a_region_whose_intensities_lack_a_chunk_elsewhere_is_not_finished(
    intensities: str, tmp_path: Path, make_header: MakeHeader
) -> None:
    by = segmenter(make_header(3, tile=(8, 8, 8), **(CT if intensities == "ct" else {})))
    path, out, region = tmp_path / "scan.zarr", tmp_path / "out.zarr", ((0, 4), (0, 13), (0, 11))
    scan, chunk = store(path, array_spec((31, 13, 11), "zyx")), path / "7.0.0"
    whole = chunk.read_bytes()
    chunk.write_bytes(b"")
    failures, _ = segmented([path], out, by, region=region)
    assert bool(failures) == (intensities == "zscore")
    if failures:
        assert "Intensities were measured without it" in failures[0].error
        chunk.write_bytes(whole)
        assert not segmented([path], out, by, region=region)[0]
    wanted, _ = run(by, scan, InferenceConfig(overlap=0.25, region=region))
    np.testing.assert_array_equal(read_labels(out).data, wanted.labels.data)


@pytest.mark.usefixtures("by_parts")
def test_a_scan_that_changed_elsewhere_too_is_started_anew(tmp_path: Path, make_header: MakeHeader) -> None:
    by, path, out = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "scan.zarr", tmp_path / "out.zarr"
    scan = store(path, array_spec((15, 13, 11), "zyx"))
    chunk = path / "3.0.0"
    whole = chunk.read_bytes()
    chunk.write_bytes(b"")
    assert segmented([path], out, by)[0]
    assert (tmp_path / ".prosma-partial-out.zarr" / "job.json").is_file()
    chunk.write_bytes(whole)
    (path / "0.0.0").touch()
    failures, said = segmented([path], out, by)
    assert not failures
    assert "earlier run" not in said
    wanted, _ = run(by, scan, InferenceConfig(overlap=0.25))
    np.testing.assert_array_equal(read_labels(out).data, wanted.labels.data)


@pytest.mark.usefixtures("by_parts")
def test_a_store_that_vanishes_midway_is_gone_on_with_when_it_is_back(tmp_path: Path, make_header: MakeHeader) -> None:
    by, path, out = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "scan.zarr", tmp_path / "out.zarr"
    scan = store(path, array_spec((15, 13, 11), "zyx"))
    done = tmp_path / ".prosma-partial-out.zarr" / "blocks.txt"
    failures = []
    for event in segment_files([path], out, by, InferenceConfig(overlap=0.25)):
        failures += [event] if isinstance(event, CaseFailed) else []
        if path.exists() and done.is_file() and len(done.read_text().splitlines()) > 3:
            path.rename(tmp_path / "away")
    assert "is gone since scan.zarr was opened" in failures[0].error
    assert len(done.read_text().splitlines()) < 16
    (tmp_path / "away").rename(path)
    failures, said = segmented([path], out, by)
    assert not failures
    assert "blocks of an earlier run stay" in said
    wanted, _ = run(by, scan, InferenceConfig(overlap=0.25))
    np.testing.assert_array_equal(read_labels(out).data, wanted.labels.data)


@pytest.mark.usefixtures("by_parts")
@pytest.mark.parametrize("reason", [errno.EROFS, errno.EACCES])
def test_a_target_that_cannot_be_written_ends_before_the_work(
    reason: int, tmp_path: Path, make_header: MakeHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    by, path = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "scan.zarr"
    store(path, array_spec((15, 13, 11), "zyx"))
    real, computed = Path.mkdir, []

    def refuse(self: Path, *given: Any, **more: Any) -> None:
        if "partial" in self.name:
            raise OSError(reason, os.strerror(reason))
        real(self, *given, **more)

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(TiledPredictor, "_forward", lambda *_: computed.append(1))
    failures, _ = segmented([path], tmp_path / "out.zarr", by)
    assert f"Cannot write {tmp_path / 'out.zarr'}: {os.strerror(reason)}" in failures[0].error
    assert not computed


@pytest.mark.usefixtures("by_parts")
def test_objects_by_parts_lie_among_the_labels_of_an_image(tmp_path: Path, make_header: MakeHeader) -> None:
    by, image = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "scan.ome.zarr"
    scan = store_image(image)
    failures, _ = segmented([image], image / "labels" / "organs", by, objects=True)
    assert not failures
    wanted, _ = run(by, scan, InferenceConfig(overlap=0.25, objects=True))
    assert wanted.objects is not None
    np.testing.assert_array_equal(read_labels(image / "labels" / "organs_objects").data, wanted.objects.data)
    assert sorted(zarr.open_group(str(image / "labels")).attrs["labels"]) == ["organs", "organs_objects"]


def test_what_a_block_took_is_free_before_the_next_one_begins(
    make_header: MakeHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "KEPT", 0)
    scan, disk, taken, blocks = scan_of(array_spec((21, 17, 13), "zyx")), Disk((4, 8, 8)), [], []
    real_put, real_image = Results.put, segment.network_image

    def put(self: Results, frame: Any, part: Any, logits: Any) -> Any:
        taken.append(weakref.ref(logits))
        return real_put(self, frame, part, logits)

    def image(*given: Any) -> Any:
        blocks.append([ref() is None for ref in taken])
        return real_image(*given)

    monkeypatch.setattr(Results, "put", put)
    monkeypatch.setattr(segment, "network_image", image)
    by = segmenter(make_header(3, tile=(8, 8, 8)), 0)
    run(by, Scan(disk.lazy(scan.data), scan.spec), InferenceConfig(overlap=0.25), allocate=disk.allocate)
    assert len(blocks) > 4
    assert all(map(all, blocks))


def test_memory_is_planned_with_what_the_process_holds(
    make_header: MakeHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, disk = scan_of(array_spec((21, 17, 13), "zyx")), Disk((4, 8, 8))
    by = segmenter(make_header(3, tile=(8, 8, 8)), 0)
    monkeypatch.setattr(memory, "used_memory", lambda: 5 << 30)
    lazy = Scan(disk.lazy(scan.data), scan.spec)
    _, events = run(by, lazy, InferenceConfig(overlap=0.25), allocate=disk.allocate)
    said = " ".join(event.message for event in events if isinstance(event, StageStarted))
    assert "voxels, about 5.0 GiB of memory in all (as a whole 5.0 GiB; " in said


@pytest.mark.parametrize(
    ("dtype", "channels", "chunks", "mib"),
    [
        ("uint16", 1, (64, 256, 256), 96 + 12 * 8),  # three layers of four chunks: kept, and unpacked together
        ("float32", 1, (64, 256, 256), 80 + 12 * 16),  # too large to be kept: what is read alone
        ("uint16", 2, (64, 256, 256), 80 + 16 * 8),  # 24 chunks, of which 16 are unpacked together
        ("uint16", 1, (1, 1, 1), 40),
    ],
)
def test_the_plan_counts_chunks_that_are_unpacked(
    dtype: str, channels: int, chunks: tuple[int, int, int], mib: int
) -> None:
    shape, axes = (640, 512, 512), "zyx"
    if channels > 1:
        shape, chunks, axes = (channels, *shape), (1, *chunks), "czyx"  # type: ignore[assignment]
    scan = LazyArray(shape, np.dtype(dtype), lambda _: np.zeros(0), chunks)
    grid = NetworkGrid((0, 1, 2), (), (640, 512, 512), (640, 512, 512), (1.0,) * 3)
    found = memory.Unpacking.of(scan, axes, "zyx").bytes((80, 512, 512), grid)
    assert found / 2**20 == pytest.approx(mib, rel=0.02)


def old_result(path: Path, scan: Scan) -> None:
    """A result of an earlier time that may be replaced."""
    write_labels(path, np.full(scan.data.shape, 3, np.uint8), scan.spec, provenance={"program": "prosma test"})


def interrupt(stage: str, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run end while finished results are put in place."""
    full = OSError(errno.ENOSPC, "No space left on device") if stage == "sync" else OutputError("full")
    error = full if end == "full" else KeyboardInterrupt()
    moved: list[Path] = []
    move = stored_results.move_dir

    def fail(*_: Any) -> None:
        raise error

    def moving(source: Path, path: Path) -> None:
        if stage == "between" and moved:
            raise error
        move(source, path)
        moved.append(path)
        if stage == "moved":
            raise error

    place, name, does = {
        "sync": (atomic, "_sync_tree", fail),
        "list": (stored_results, "list_label_image", fail),
    }.get(stage, (stored_results, "move_dir", moving))
    monkeypatch.setattr(place, name, does)


@pytest.mark.slow
@pytest.mark.usefixtures("by_parts")
@pytest.mark.parametrize("target", ["image", "new", "replaced"])
@pytest.mark.parametrize("stage", ["sync", "between", "moved", "list"])
@pytest.mark.parametrize("end", ["full", "stopped"])
def test_a_finished_result_survives_an_end_while_it_is_put_in_place(
    stage: str, end: str, target: str, tmp_path: Path, make_header: MakeHeader
) -> None:
    by, path = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "scan.ome.zarr"
    scan = store_image(path)
    out = path / "labels" / "organs" if target == "image" else tmp_path / "out.zarr"
    more: dict[str, Any] = {"objects": True} if target == "image" else {"probabilities": True, "entropy": True}
    wanted, _ = run(by, scan, InferenceConfig(overlap=0.25, **more))
    others = [out.with_name(f"{out.stem}_{name}{out.suffix}") for name in more]
    for place in [out, *others] if target == "replaced" else ():
        old_result(place, scan)
    options = FileOptions(overwrite=target == "replaced")
    with pytest.MonkeyPatch.context() as patched:
        interrupt(stage, end, patched)
        try:
            failures, _ = segmented([path], out, by, options, **more)
        except KeyboardInterrupt:
            failures = []
        assert bool(failures) == (end == "full")
        assert not any(".prosma" in failure.error for failure in failures)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TiledPredictor, "_forward", None)
        failures, said = segmented([path], out, by, options, **more)
    assert not failures
    assert "16 blocks of an earlier run stay" in said
    np.testing.assert_array_equal(read_labels(out).data, wanted.labels.data)
    for name, place in zip(more, others, strict=True):
        found = read_image(place).data
        np.testing.assert_allclose(found, getattr(wanted, name).data, atol=1e-6)
    assert is_listed(out)
    assert not list(tmp_path.rglob(".prosma*"))
    if target != "image":
        assert sorted(tmp_path.iterdir()) == sorted([path, out, *others])


@pytest.mark.usefixtures("by_parts")
@pytest.mark.parametrize("lost", ["labels", "probabilities"])
@pytest.mark.parametrize("how", ["gone", "of another shape", "without an array"])
def test_blocks_count_as_done_only_where_their_arrays_are_there(
    how: str, lost: str, tmp_path: Path, make_header: MakeHeader
) -> None:
    by, path, out = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "scan.zarr", tmp_path / "out.zarr"
    scan = store(path, array_spec((15, 13, 11), "zyx"))
    wanted, _ = run(by, scan, InferenceConfig(overlap=0.25))
    stop(path, out, by, probabilities=True)
    hidden = tmp_path / ".prosma-partial-out.zarr" / lost
    shutil.rmtree(hidden)
    if how == "of another shape":
        zarr.create_array(str(hidden), shape=(9, 9, 9), dtype="uint8", chunks=(4, 8, 8), zarr_format=2)
    elif how == "without an array":
        hidden.mkdir()
    failures, said = segmented([path], out, by, probabilities=True)
    assert not failures
    assert "earlier run" not in said
    np.testing.assert_array_equal(read_labels(out).data, wanted.labels.data)
    assert read_image(tmp_path / "out_probabilities.zarr").data.sum(0).min() > 0.99


def stop(path: Path, out: Path, by: Segmenter, options: FileOptions | None = None, **settings: Any) -> None:
    """Segment a few blocks."""
    done = out.with_name(f".prosma-partial-{out.name}") / "blocks.txt"
    work = segment_files([path], out, by, InferenceConfig(overlap=0.25, **settings), options)
    while not done.is_file() or len(done.read_text().splitlines()) < 4:
        next(work)
    work.close()


@pytest.mark.usefixtures("by_parts")
@pytest.mark.parametrize("shape", [(16, 16, 16), (15, 13, 11)])
def test_a_scan_whose_axes_are_read_otherwise_is_started_anew(
    shape: tuple[int, ...], tmp_path: Path, make_header: MakeHeader
) -> None:
    by, path, out = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "scan.zarr", tmp_path / "out.zarr"
    store(path, array_spec(shape, "zyx"))
    stop(path, out, by, FileOptions(axes="xyz"))
    options = FileOptions(axes="zyx")
    failures, said = segmented([path], out, by, options)
    assert not failures
    assert "earlier run" not in said
    assert not segmented([path], tmp_path / "clean.zarr", by, options)[0]
    np.testing.assert_array_equal(read_labels(out).data, read_labels(tmp_path / "clean.zarr").data)


@pytest.mark.usefixtures("by_parts")
def test_extra_results_without_a_label_map_are_left_overs(tmp_path: Path, make_header: MakeHeader) -> None:
    by, path, out = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "scan.zarr", tmp_path / "out.zarr"
    store(path, array_spec((15, 13, 11), "zyx"))
    assert not segmented([path], out, by, probabilities=True)[0]
    shutil.rmtree(out)
    assert "add --overwrite" in segmented([path], out, by, probabilities=True)[0][0].error
    assert not segmented([path], out, by, FileOptions(skip_existing=True), probabilities=True)[0]
    assert out.is_dir()


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
@pytest.mark.usefixtures("by_parts")
@pytest.mark.parametrize("version", [2, 3])
def test_another_label_map_of_the_image_does_not_undo_what_is_done(
    version: int, tmp_path: Path, make_header: MakeHeader
) -> None:
    by, path = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "scan.ome.zarr"
    store_image(path, version)
    zarr.consolidate_metadata(str(path), zarr_format=version)
    stop(path, path / "labels" / "organs", by)
    assert not segmented([path], path / "labels" / "other", by)[0]
    failures, said = segmented([path], path / "labels" / "organs", by)
    assert not failures
    assert "of an earlier run stay" in said


def test_a_run_that_was_taken_for_dead_leaves_the_folder_of_the_next_one(
    tmp_path: Path, make_header: MakeHeader
) -> None:
    scan = store(tmp_path / "scan.zarr", array_spec((15, 13, 11), "zyx"))
    given = (tmp_path / "scan.zarr", scan.spec, make_header(3), InferenceConfig(), {})
    old, new = (stored_results.StoredResults({"labels": tmp_path / "out.zarr"}, *given) for _ in range(2))
    for each in (old, new):
        each.__enter__()
        made = each.allocate("labels", scan.data.shape, np.dtype(np.uint8))
    old.__exit__(OutputError, OutputError("gone"), None)
    assert (tmp_path / ".prosma-partial-out.zarr" / "labels").is_dir()
    made.put(((0, 1), (0, 1), (0, 1)), np.ones((1, 1, 1), np.uint8))
    new.__exit__(OutputError, OutputError("gone"), None)
    assert not (tmp_path / ".prosma-partial-out.zarr").exists()


def test_one_of_several_processes_makes_no_array_anew(tmp_path: Path, make_header: MakeHeader) -> None:
    scan = store(tmp_path / "scan.zarr", array_spec((15, 13, 11), "zyx"))
    given = (tmp_path / "scan.zarr", scan.spec, make_header(3), InferenceConfig(), {})
    sharing = stored_results.Sharing({}, done=frozenset({((0, 1), (0, 1), (0, 1))}), ends=True)
    results = stored_results.StoredResults({"labels": tmp_path / "out.zarr"}, *given, sharing=sharing)
    with pytest.raises(OutputError, match="is gone or was changed"), results as stored:
        stored.allocate("labels", scan.data.shape, np.dtype(np.uint8))
    assert not (tmp_path / "out.zarr").exists()


def test_intensities_of_a_scan_on_a_disk_show_their_progress_and_can_be_stopped(
    make_header: MakeHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prosma_core.data.normalization.PART", 1)
    data = np.random.default_rng(0).normal(100, 9, (8, 16, 16)).astype(np.float32)
    data[0, 0, 0] = 1e9  # far from all others, which are read once more
    read: list[Box] = []

    def part(box: Box) -> np.ndarray:
        read.append(box)
        return data[box_slices(box)]

    scan = Scan(LazyArray(data.shape, data.dtype, part, (1, 16, 16)), array_spec(data.shape, "zyx"))
    by = segmenter(make_header(3, tile=(8, 8, 8)), 1)
    shown = []
    work = by.segment(scan, InferenceConfig(), allocate=Disk((8, 8, 8)).allocate)
    for event in work:
        shown += [event.message.partition(" %")[0]] if isinstance(event, Working) else []
        if len(shown) == 10:
            break
    shares = [12, 25, 37, 50, 62, 75, 87, 100]
    assert shown == [*(f"Reading intensities: {n}" for n in shares), *(f"Checking intensities: {n}" for n in (12, 25))]
    assert len(read) == 10
    work.close()
    assert len(read) == 10
