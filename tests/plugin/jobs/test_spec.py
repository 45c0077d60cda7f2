"""What is shared with the engine for a job, and that nothing of it is left behind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from napari.layers import Image, Labels

from napari_prosma.jobs import spec
from napari_prosma.jobs.boundary import EngineJob
from napari_prosma.jobs.spec import ScanSpec, share_scan
from napari_prosma.layers import source
from napari_prosma.layers.labels import read_on
from napari_prosma.layers.scan import read
from prosma_core.config.inspection import Variant
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import Cancelled, Failed, InspectRequest, WhatIfRequest
from prosma_core.errors import EngineError

REQUEST = WhatIfRequest(model="m", variants=(Variant(name="as learned", edits=()),))


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Return the files that are made for the engine."""
    made: list[Path] = []
    allocate = Engine.allocate

    def noted(engine: Engine, *what: Any) -> Any:
        shared = allocate(engine, *what)
        made.append(Path(shared.ref.path))
        return shared

    monkeypatch.setattr(Engine, "allocate", noted)
    yield made
    for path in made:
        path.unlink(missing_ok=True)


def prepared() -> ScanSpec:
    """Return a question on a small scan with labels."""
    scan = read(Image(np.random.default_rng(0).normal(size=(8, 9))), "yx", 0)
    truth = read_on(Labels(np.eye(8, 9, dtype=np.uint8)), scan)
    return ScanSpec(REQUEST, scan, truth)


def test_scan_and_labels_are_copied(copies: list[Path]) -> None:
    engine = Engine()
    work = prepared().prepare(engine)
    while len(copies) < 2:
        next(work)
    assert next(work) == "Starting…", "what it waits for after that is the engine, not the scan"
    with pytest.raises(StopIteration) as stop:
        next(work)
    request = stop.value.value
    assert [Path(ref.array.path) for ref in (request.truth, request.scan)] == copies
    assert all(path.is_file() for path in copies)


def test_a_question_that_is_left_leaves_no_copy_of_the_labels(copies: list[Path]) -> None:
    engine = Engine()
    work = prepared().prepare(engine)
    while len(copies) < 2:
        next(work)
    work.close()
    assert not any(path.exists() for path in copies)


def test_a_question_that_is_cancelled_when_it_is_prepared_leaves_no_copies(copies: list[Path]) -> None:
    said: list[Any] = []
    engine = Engine()
    job = EngineJob(engine, said.append)
    spec = prepared()

    class CancelledAtTheEnd:
        def prepare(self, engine: Engine) -> Any:
            request = yield from spec.prepare(engine)
            job.cancel()
            return request

    job.run(CancelledAtTheEnd())
    assert [message for message in said if isinstance(message, Cancelled)] == [Cancelled()]
    assert len(copies) == 2
    assert not any(path.exists() for path in copies)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Engine]:
    """Return an engine that is never started, for which every layer is large."""
    monkeypatch.setattr(source, "IN_CORE", 0)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    engine = Engine()
    yield engine
    engine.close()


def copy_of(engine: Engine, data: Any, axes: str = "zyx") -> Path:
    """Share a layer; the zarr that it was written to."""
    work = share_scan(engine, read(Image(data, contrast_limits=(0, 1)), axes, 0))
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return Path(stop.value.file)


def mapped(path: Path) -> np.ndarray:
    """Return an array of a file that is mapped into memory."""
    data = np.lib.format.open_memmap(path, "w+", np.uint16, (9, 40, 30))
    data[...] = np.random.default_rng(0).integers(0, 999, data.shape)
    return data


def test_a_copy_is_kept_until_the_layer_is_changed_in_place(engine: Engine, tmp_path: Path) -> None:
    data = mapped(tmp_path / "a.npy")
    first = copy_of(engine, data)
    np.testing.assert_array_equal(zarr.open_array(str(first))[...], data)
    assert copy_of(engine, data) == first
    data[4, 20, 7] += 1
    second = copy_of(engine, data)
    assert second != first
    assert not first.exists()
    np.testing.assert_array_equal(zarr.open_array(str(second))[...], data)
    turned = copy_of(engine, data, "xyz")
    assert turned != second
    np.testing.assert_array_equal(zarr.open_array(str(turned))[...], data.T)


def test_a_computed_layer_is_copied_again_where_its_source_changed(engine: Engine) -> None:
    data = np.random.default_rng(0).integers(0, 999, (9, 40, 30)).astype(np.uint16)
    lazy = da.map_blocks(lambda: data + 1, dtype=data.dtype, chunks=tuple((n,) for n in data.shape))
    first = copy_of(engine, lazy)
    assert copy_of(engine, lazy) == first
    data[0, 0, 0] += 5
    np.testing.assert_array_equal(zarr.open_array(str(copy_of(engine, lazy)))[...], data + 1)


def test_a_what_if_takes_the_copy_of_its_inspection_and_reads_nothing(engine: Engine, tmp_path: Path) -> None:
    data = mapped(tmp_path / "a.npy")
    scan = read(Image(data, contrast_limits=(0, 1)), "zyx", 0)

    def asked(request: InspectRequest | WhatIfRequest, key: str) -> tuple[str, bool]:
        work, said = ScanSpec(request, scan, key=key).prepare(engine), list[str]()
        while True:
            try:
                said.append(next(work))
            except StopIteration as stop:
                return stop.value.scan.file, bool(said)

    inspection = InspectRequest(model="m")
    first, read_all = asked(inspection, "a")
    assert read_all
    assert asked(REQUEST, "a") == (first, False)
    assert asked(inspection, "a") == (first, True), "an inspection is of what the layer holds now"
    assert asked(REQUEST, "b") == (first, True), "the layer may have changed since"
    assert asked(REQUEST, "b") == (first, False)
    data[4, 20, 7] += 1
    assert asked(REQUEST, "b") == (first, False), "as the inspection was"
    second, _ = asked(inspection, "c")
    assert second != first
    assert asked(REQUEST, "b")[1], "of another copy"
    assert asked(REQUEST, "")[1]
    assert asked(REQUEST, "")[1]


def test_a_copy_to_a_full_disk_is_told_in_the_window_and_leaves_nothing(
    engine: Engine, small_disk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk.path))
    data, said = mapped(tmp_path / "a.npy"), []
    folder = engine.disk_folder()
    layer = read(Image(data, contrast_limits=(0, 1), name="scan"), "zyx", 0)
    small_disk.fill()
    with monkeypatch.context() as patched:  # it fills up after it was looked at
        patched.setattr(spec, "_free", lambda _: 1 << 40)
        EngineJob(engine, said.append).run(ScanSpec(REQUEST, layer))
    (failed,) = [message for message in said if isinstance(message, Failed)]
    assert isinstance(failed.error, EngineError)
    assert str(failed.error).startswith("scan is no file that can be read by parts")
    assert "TMPDIR" in str(failed.error)
    assert not list((folder / "scans").glob("*"))
    small_disk.clear()
    np.testing.assert_array_equal(zarr.open_array(str(copy_of(engine, data)))[...], data)
