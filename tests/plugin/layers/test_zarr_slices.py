"""Slices of a zarr array come from windows of unpacked slices, which are read ahead and do not grow without bound."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from napari.components import ViewerModel

from napari_prosma.layers import zarr_slices
from napari_prosma.layers.source import source_of
from napari_prosma.layers.zarr_slices import ZarrArray
from prosma_core.data.geometry import Box
from prosma_core.io.read_ahead import Windows

PLANE = 24 * 20 * 2
"""Bytes of a plane of the array, in whole chunks."""


class Counted:
    """A zarr array of which it is known what was read."""

    def __init__(self, array: Any) -> None:
        self.inner, self.read = array, list[Box]()
        self.shape, self.chunks, self.dtype, self.name = array.shape, array.chunks, array.dtype, array.name
        self.ndim, self.shards = array.ndim, None

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
    return Counted(array)


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
