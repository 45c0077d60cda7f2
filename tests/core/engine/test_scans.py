"""Scans behind references: parts of files, files that changed, and what is too large."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from prosma_core.data.geometry import array_spec
from prosma_core.data.lazy import LazyArray
from prosma_core.engine import handlers
from prosma_core.engine.handlers import check_labels_fit, open_scan, read_scan, watched_scan
from prosma_core.engine.requests import ScanRef, spec_message
from prosma_core.errors import DeviceError, FileFormatError, GeometryError


def done(work: Generator[Any, None, Any]) -> Any:
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value


@pytest.fixture
def data(tmp_path: Path, rng: np.random.Generator) -> np.ndarray:
    """Return the voxels of a zarr, axes tczyx."""
    made = rng.integers(0, 1000, (2, 3, 6, 8, 9), np.uint16)
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=made.shape, dtype=made.dtype, chunks=(1, 1, 4, 8, 8))
    array[...] = made
    array.attrs["axes"] = list("tczyx")
    return made


def ref(tmp_path: Path, axes: str, shape: tuple[int, ...], **more: Any) -> ScanRef:
    return ScanRef(file=str(tmp_path / "a.zarr"), spec=spec_message(array_spec(shape, axes)), **more)


def test_a_part_of_a_file_is_opened_without_reading_it(tmp_path: Path, data: np.ndarray) -> None:
    for axes, shape, select, wanted in (
        ("zyx", (6, 8, 9), {"c": 2, "t": 1}, data[1, 2]),
        ("tzyx", (2, 6, 8, 9), {"c": 1}, data[:, 1]),
        ("tczyx", data.shape, {}, data),
    ):
        scan = done(open_scan(ref(tmp_path, axes, shape, select=select, dtype="<u2")))
        assert isinstance(scan.data, LazyArray)
        assert scan.spec.axes == axes
        np.testing.assert_array_equal(np.asarray(scan.data), wanted)
        whole = done(read_scan(ref(tmp_path, axes, shape, select=select)))
        assert isinstance(whole.data, np.ndarray)
        np.testing.assert_array_equal(whole.data, wanted)


@pytest.mark.usefixtures("data")
def test_a_file_that_is_another_one_by_now_is_an_error(tmp_path: Path) -> None:
    shape = (2, 3, 6, 8, 9)
    for what, text in (
        (ref(tmp_path, "tczyx", (2, 3, 6, 8, 8)), r"its geometry \(2, 3, 6, 8, 8\)"),
        (ref(tmp_path, "tczyx", shape, dtype="<f4"), "holds voxels of type uint16, the layer of float32"),
        (ref(tmp_path, "tzyx", (2, 6, 8, 9), select={"c": 3}), "has no c 3"),
        (ref(tmp_path, "czyx", (3, 6, 8, 9), select={"s": 0}), "has no s 0"),
    ):
        with pytest.raises(GeometryError, match=text):
            done(open_scan(what))
    with pytest.raises(FileFormatError, match="does not exist"):
        done(open_scan(ScanRef(file=str(tmp_path / "b.zarr"))))


@pytest.mark.usefixtures("data")
def test_what_does_not_fit_is_refused_before_it_is_read(
    tmp_path: Path, make_header: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ref(tmp_path, "tczyx", (2, 3, 6, 8, 9))
    monkeypatch.setattr(LazyArray, "read", None)
    monkeypatch.setattr(handlers, "PREVIEWED", 1000)
    with pytest.raises(DeviceError, match=r"takes 1 MiB of memory.*at most 1 MiB are taken"):
        done(watched_scan(given))
    monkeypatch.setattr(handlers, "free_memory", lambda _: 3000)
    with pytest.raises(DeviceError, match=r"takes 1 MiB of memory.*1 MiB are free.*Crop the layer"):
        done(read_scan(given))
    scan = done(open_scan(given))
    check_labels_fit(scan, make_header(3), 2)
    with pytest.raises(DeviceError, match="3 label maps of this scan would take 1 MiB"):
        check_labels_fit(scan, make_header(3), 3)
