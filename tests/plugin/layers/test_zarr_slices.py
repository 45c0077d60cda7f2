"""Slices of a zarr array come from windows of unpacked slices, which are read ahead and do not grow without bound."""

from __future__ import annotations

import copy
import os
import pickle
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from napari.components import ViewerModel

from napari_prosma.layers import zarr_slices
from napari_prosma.layers.source import source_of
from napari_prosma.layers.zarr_slices import ZarrArray, ZarrLevel
from prosma_core.data.geometry import Box
from prosma_core.io.read_ahead import Windows

PLANE = 24 * 20 * 2
"""Bytes of a plane of the array, in whole chunks."""


class Counted:
    """A zarr array of which it is known what was read."""

    def __init__(self, array: Any) -> None:
        self.inner, self.read = array, list[Box]()
        self.shape, self.chunks, self.dtype, self.name = array.shape, array.chunks, array.dtype, array.name
        self.ndim, self.shards = array.ndim, array.shards
        self.store, self.path, self.metadata, self.vindex = array.store, array.path, array.metadata, array.vindex

    def __getitem__(self, index: tuple[slice, ...]) -> Any:
        self.read.append(tuple((part.start, part.stop) for part in index))
        return self.inner[index]


@pytest.fixture
def counted(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Return an array of 5 chunks of 8 planes, of which 4 planes are one window."""
    monkeypatch.setattr(zarr_slices, "WINDOW", 4 * PLANE)
    monkeypatch.setattr(zarr_slices, "WINDOWS", Windows(12 * PLANE))
    array = zarr.create_array(str(tmp_path / "a"), shape=(38, 24, 20), chunks=(8, 12, 10), dtype="u2")
    array[...] = rng.integers(0, 999, array.shape, np.uint16)
    age(tmp_path)
    return Counted(array)


def age(folder: Path, by: int = 60) -> None:
    """Let files have been changed some seconds ago."""
    for file in folder.rglob("*"):
        if file.is_file():
            os.utime(file, (time.time() - by,) * 2)


def settled() -> None:
    """Wait for what is read ahead."""
    for thread in threading.enumerate():
        if thread.name == "prosma-slices":
            thread.join(10)


def test_scrolling_unpacks_each_window_once_and_mostly_ahead(counted: Counted) -> None:
    shown, waited = ZarrArray(counted), 0
    for z in range(38):
        settled()
        before = len(counted.read)
        np.testing.assert_array_equal(shown[z], counted.inner[z])
        settled()
        waited += ((z // 4 * 4, min(z // 4 * 4 + 4, 38)), (0, 24), (0, 20)) in counted.read[before:]
    assert waited == 1  # for the first slice; all others were there
    assert len(counted.read) == len(set(counted.read)) == 10
    assert all(b - a <= 4 and a // 8 == (b - 1) // 8 for (a, b), *_ in counted.read)


def test_no_more_is_kept_than_the_bound_and_nothing_of_arrays_that_are_gone(counted: Counted) -> None:
    shown, windows = ZarrArray(counted), zarr_slices.WINDOWS
    for z in (0, 9, 30, 20, 2, 37):
        np.testing.assert_array_equal(shown[z, 3:17], counted.inner[z, 3:17])
        settled()
        assert 0 < windows.nbytes <= 12 * PLANE
    del shown
    assert windows.nbytes == 0


@pytest.mark.parametrize("index", [slice(None), (slice(3, 9), slice(0, 24), slice(2, 20)), (slice(None), 7, slice(4))])
def test_what_is_no_slice_of_a_window_is_read_as_it_is(counted: Counted, index: Any) -> None:
    shown = ZarrArray(counted)
    np.testing.assert_array_equal(shown[index], counted.inner[index])
    settled()
    assert all(np.prod([b - a for a, b in box]) * 2 <= zarr_slices.WINDOW for box in counted.read[1:])


def test_a_slice_too_large_for_a_window_is_not_kept(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarr_slices, "WINDOW", PLANE - 1)
    shown = ZarrArray(counted)
    np.testing.assert_array_equal(shown[5], counted.inner[5])
    settled()
    assert counted.read == [((5, 6), (0, 24), (0, 20))]


def test_what_cannot_be_read_ahead_is_an_error_of_the_slice_that_needs_it(counted: Counted) -> None:
    class Broken(Counted):
        def __getitem__(self, index: tuple[slice, ...]) -> Any:
            if index[0].stop > 4:
                msg = "a chunk is damaged"
                raise OSError(msg)
            return super().__getitem__(index)

    shown = ZarrArray(Broken(counted.inner))
    np.testing.assert_array_equal(shown[3], counted.inner[3])
    settled()
    with pytest.raises(OSError, match="damaged"):
        shown[4]


def test_the_window_is_there_while_another_is_read_ahead(counted: Counted) -> None:
    gate = threading.Event()

    class Slow(Counted):
        def __getitem__(self, index: tuple[slice, ...]) -> Any:
            if threading.current_thread().name == "prosma-slices":
                gate.wait(10)
            return super().__getitem__(index)

    shown = ZarrArray(Slow(counted.inner))
    shown[2]
    began = time.monotonic()
    np.testing.assert_array_equal(shown[3], counted.inner[3])
    assert time.monotonic() - began < 5
    gate.set()
    settled()


@pytest.mark.parametrize("aged", [0, 60])
def test_a_store_that_changes_is_shown_anew(counted: Counted, tmp_path: Path, aged: int) -> None:
    shown = ZarrArray(counted)
    for value in (1, 2, 3):
        for z in (0, 5, 9):
            np.testing.assert_array_equal(shown[z], counted.inner[z])
        settled()  # with windows that nobody has looked at
        counted.inner[...] = value
        if aged:
            age(tmp_path, aged + value)
        for z in range(38):
            assert (shown[z] == value).all()


def test_a_chunk_that_changes_at_once_or_comes_and_goes_is_shown_anew(counted: Counted, tmp_path: Path) -> None:
    shown, file = ZarrArray(counted), tmp_path / "a" / "c" / "0" / "0" / "0"
    there, content = shown[2], file.read_bytes()
    file.unlink()
    assert not shown[2][:12, :10].any()
    file.write_bytes(content)
    np.testing.assert_array_equal(shown[2], there)
    counted.inner[:8, :12, :10] = 5
    os.utime(file, (time.time() - 60,) * 2)  # as old as it was
    assert (shown[2][:12, :10] == 5).all()


def test_what_changed_just_now_is_not_kept(counted: Counted, tmp_path: Path) -> None:
    counted.inner[0, 0, 0] = 1
    shown = ZarrArray(counted)
    np.testing.assert_array_equal(shown[2], counted.inner[2])
    settled()
    assert counted.read == [((2, 3), (0, 24), (0, 20))]
    age(tmp_path)
    np.testing.assert_array_equal(shown[2], counted.inner[2])
    assert counted.read[1] == ((0, 4), (0, 24), (0, 20))


@pytest.mark.parametrize("again", [copy.copy, lambda array: pickle.loads(pickle.dumps(array))])
def test_a_copy_has_windows_of_its_own(counted: Counted, again: Any) -> None:
    shown = ZarrArray(counted.inner, (2, 0, 1))
    shown[:, 2]
    other = again(shown)
    assert (other.shape, other.order, other._owner != shown._owner) == (shown.shape, shown.order, True)
    np.testing.assert_array_equal(other[:, 2], shown[:, 2])
    del other
    assert zarr_slices.WINDOWS.nbytes > 0


def test_an_array_of_another_process_is_not_taken_for_one_of_this(counted: Counted, tmp_path: Path) -> None:
    here = ZarrArray(counted.inner)
    sent = pickle.dumps(here)
    other = zarr.create_array(str(tmp_path / "b"), shape=(38, 24, 20), chunks=(8, 12, 10), dtype="u2")
    other[...] = 1
    age(tmp_path / "b")
    zarr_slices.WINDOWS._owners = iter([here._owner, 10**6])  # as another process counts
    of_other = ZarrArray(other)
    assert (of_other[2] == 1).all()
    np.testing.assert_array_equal(pickle.loads(sent)[2], counted.inner[2])


def test_single_voxels_and_lines_make_no_windows(counted: Counted, rng: np.random.Generator) -> None:
    shown, turned = ZarrArray(counted), ZarrArray(counted.inner, (2, None, 0, 1))
    at = tuple(rng.integers(-n, n, 500) for n in shown.shape)
    data = counted.inner[...]
    np.testing.assert_array_equal(shown[at], data[at])
    np.testing.assert_array_equal(turned[at[2], 0, at[0], at[1]], data[at])
    assert (shown[3, 4, 5], len(shown[3, 4]), len(shown[:, 4, 5])) == (data[3, 4, 5], 20, 38)
    settled()
    assert zarr_slices.WINDOWS.nbytes == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "prosma-slices"]
    with pytest.raises(IndexError):
        shown[np.array([38]), np.array([0]), np.array([0])]
    with pytest.raises(IndexError, match="all axes"):
        shown[[1, 2]]


def test_of_a_shard_only_the_chunks_that_are_needed_are_unpacked(tmp_path: Path, rng: np.random.Generator) -> None:
    array = zarr.create_array(
        str(tmp_path / "s"), shape=(16, 64, 64), chunks=(2, 16, 16), shards=(8, 32, 64), dtype="u2"
    )
    array[...] = rng.integers(0, 999, array.shape, np.uint16)
    age(tmp_path)
    sharded = Counted(array)
    shown = ZarrArray(sharded)
    assert shown.chunks == (8, 32, 64)
    np.testing.assert_array_equal(shown[5, 20:30, 3:15], array[5, 20:30, 3:15])
    settled()
    assert sharded.read == [((4, 6), (16, 32), (0, 16)), ((6, 8), (16, 32), (0, 16))]
    array[5, 40, 40] = 1000  # of another shard
    np.testing.assert_array_equal(shown[5, 20:30, 3:15], array[5, 20:30, 3:15])
    assert len(sharded.read) == 2
    array[5, 25, 60] = 1000  # of the same
    array[5, 20, 3] = 1000
    assert shown[5, 20, 3:5][0] == 1000


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_all_voxels_take_their_memory_once_and_steps_read_no_more_than_these(tmp_path: Path, order: Any) -> None:
    array = zarr.create_array(str(tmp_path / "w"), shape=(64, 128, 128), chunks=(8, 32, 32), dtype="u2")
    array[...] = 7
    shown = ZarrArray(array, order)
    tracemalloc.start()
    try:
        whole = np.asarray(shown)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * shown.nbytes
        del whole
        tracemalloc.reset_peak()
        assert (shown[::8, ::8, ::-8] == 7).all()
        assert tracemalloc.get_traced_memory()[1] < 0.5 * shown.nbytes
    finally:
        tracemalloc.stop()


def test_what_is_given_can_be_written_to_and_the_windows_stay(counted: Counted) -> None:
    shown, data = ZarrArray(counted), counted.inner[...]
    for index in (5, slice(None), (slice(None), 3), (slice(0, 4),), (slice(9, 1, -2), slice(None), slice(8, 2, -3))):
        found = shown[index]
        np.testing.assert_array_equal(found, data[index])
        found[...] = 0
        np.testing.assert_array_equal(shown[index], data[index])


def test_a_large_zarr_of_the_reader_is_shown_by_windows_and_known_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    from napari_prosma._reader import read_paths
    from napari_prosma.layers.scan import read

    monkeypatch.setattr("napari_prosma._reader.SMALL", 0)
    array = zarr.create_array(str(tmp_path / "s.zarr"), shape=(9, 10, 11), chunks=(4, 5, 6), dtype="u2", zarr_format=2)
    array[...] = rng.integers(0, 99, array.shape, np.uint16)
    array.attrs.update({"axes": ["z", "y", "x"], "spacing": [3.0, 1.0, 1.0], "unit": "mm"})
    data, arguments, _ = read_paths(str(tmp_path / "s.zarr"))[0]
    assert isinstance(data, ZarrArray)
    layer = ViewerModel().add_image(data, **arguments)
    np.testing.assert_array_equal(np.asarray(layer.data), array[...])
    found = source_of(read(layer))
    assert found is not None
    assert found.path == tmp_path / "s.zarr"


def test_a_step_through_a_pyramid_reads_slices_of_a_level_not_the_whole_level(counted: Counted, tmp_path: Path) -> None:
    small = zarr.create_array(str(tmp_path / "small"), shape=(38, 12, 10), chunks=(8, 12, 10), dtype="u2")
    small[...] = counted.inner[:, ::2, ::2]
    age(tmp_path)
    levels = [counted, Counted(small)]
    viewer = ViewerModel()
    layer = viewer.add_image([ZarrLevel(level) for level in levels], multiscale=True, contrast_limits=(0, 999))
    for level in levels:
        level.read.clear()
    for z in (3, 20):
        viewer.dims.set_current_step(0, z)
        shown = np.asarray(layer._slice.image.raw)
        (a, b), (c, d) = (layer.corner_pixels[:, axis] + (0, 1) for axis in (1, 2))
        np.testing.assert_array_equal(shown, levels[layer.data_level].inner[z, a:b, c:d])
    settled()
    assert levels[0].read or levels[1].read
    assert max(b - a for level in levels for (a, b), *_ in level.read) <= 8


def test_a_part_of_a_level_gives_the_same_voxels_as_the_array(counted: Counted) -> None:
    level, data = ZarrLevel(counted), counted.inner[...]
    part = level[:, 2:20, -8:]
    assert (part.shape, part.ndim, part.dtype, part.size) == ((38, 18, 8), 3, data.dtype, 38 * 18 * 8)
    assert counted.read == []
    of = data[:, 2:20, -8:]
    for index in (5, -1, (3, 4), (3, slice(1, 9), slice(None, None, 2)), (slice(4, 2, -1),), (Ellipsis, 0), (0, 0, 0)):
        np.testing.assert_array_equal(part[index], of[index])
    np.testing.assert_array_equal(
        part[np.array([1, 2]), np.array([0, 3]), np.array([1, -1])], of[[1, 2], [0, 3], [1, -1]]
    )
    np.testing.assert_array_equal(np.asarray(part), of)
    np.testing.assert_array_equal(np.asarray(level), data)
    assert isinstance(level[3], np.ndarray)
    with pytest.raises(IndexError):
        part[0, 18]
