"""Blocks of an interrupted run stay only where they were normalized as those of the next one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tests.core.inference.test_blocks import CT, MakeHeader, Watched, run, segmented, segmenter, store

from prosma_core.cluster.blocks import SegmentScan, Shared, Whole, plan_shared
from prosma_core.config import InferenceConfig
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.engine import on_disk
from prosma_core.engine.on_disk import segment_to_disk
from prosma_core.engine.on_workers import StoredLayer
from prosma_core.engine.requests import ScanRef, SegmentRequest, spec_message
from prosma_core.errors import OutputError, PartUnreadableError
from prosma_core.events import Event, SlabDone, StageStarted
from prosma_core.inference import scan_state, stored_results
from prosma_core.inference.files import FileOptions, segment_files
from prosma_core.inference.scan_runs import ScanTask
from prosma_core.inference.segment import Segmenter
from prosma_core.io import zarr_images
from prosma_core.io.atomic import machine_state
from prosma_core.io.downloads import Downloads
from prosma_core.io.images import open_image, read_labels
from prosma_core.io.scan_files import ScanFiles

pytestmark = pytest.mark.usefixtures("by_parts")
CHUNK = "3.0.0"
CONFIG = InferenceConfig(overlap=0.25)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a zarr whose last planes are three times as bright: without them, mean and deviation are others."""
    path = tmp_path / "scan.zarr"
    monkeypatch.setattr(on_disk, "WORKING", 0)
    store(path, array_spec((15, 13, 11), "zyx"))
    array = zarr.open_array(str(path), mode="r+")
    array[12:] = array[12:] * 3
    return path


@contextmanager
def away(path: Path, name: str = CHUNK) -> Iterator[None]:
    """A chunk cannot be read for a while, of which its file tells nothing."""
    real, start = zarr_images._part, 4 * int(name.split(".")[0])

    def part(opened: Any, box: tuple[slice, ...]) -> Any:
        if box[0].start < start + 4 and box[0].stop > start:
            raise PartUnreadableError("The server is busy.", files=[str(path / name)])
        return real(opened, box)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(zarr_images, "_part", part)
        yield


def clean(path: Path, by: Segmenter, config: InferenceConfig = CONFIG) -> np.ndarray:
    """Labels of a run that nothing disturbs."""
    scan = open_image(path)
    data = np.asarray(zarr.open_array(str(path), mode="r")[...])
    labels: np.ndarray = run(by, Scan(data, scan.spec), config)[0].labels.data
    return labels


def request_for(path: Path, out: Path, config: InferenceConfig = CONFIG) -> SegmentRequest:
    ref = ScanRef(file=str(path), spec=spec_message(open_image(path).spec))
    return SegmentRequest(model="m", device="cpu", config=config, scan=ref, store=str(out))


def drained(work: Generator[Event, None, Any], said: list[str]) -> Any:
    while True:
        try:
            event = next(work)
        except StopIteration as stop:
            return stop.value
        said += [event.message] if isinstance(event, StageStarted) else []


def by_engine(path: Path, out: Path, by: Segmenter) -> Generator[Event, None, Any]:
    """As the window's engine does it."""
    return segment_to_disk(request_for(path, out), open_image(path), by, lambda *_: {}, None)  # type: ignore[arg-type]


def by_command(path: Path, out: Path, by: Segmenter) -> Generator[Event, None, Any]:
    return segment_files([path], out, by, CONFIG)


@pytest.mark.parametrize("way", [by_engine, by_command])
@pytest.mark.parametrize("end", ["stopped", "full"])
def test_blocks_of_a_run_that_was_stopped_while_a_chunk_was_away_are_computed_again(
    end: str, way: Callable[..., Generator[Event, None, Any]], path: Path, tmp_path: Path, make_header: MakeHeader
) -> None:
    by, out = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "out.zarr"
    with away(path), pytest.MonkeyPatch.context() as patched:
        if end == "full":
            real = stored_results.create_zarr
            patched.setattr(stored_results, "create_zarr", lambda *given: Watched(real(*given), 4))
            with suppress(OutputError):  # which the command tells as an event
                drained(way(path, out, by), [])
        else:
            work = way(path, out, by)
            for _ in range(3):
                next(event for event in work if isinstance(event, SlabDone))
            work.close()
    assert len((tmp_path / ".prosma-partial-out.zarr" / "blocks.txt").read_text().splitlines()) == 4
    said: list[str] = []
    drained(way(path, out, by), said)
    assert "3 blocks are computed again" in " ".join(said)
    np.testing.assert_array_equal(read_labels(out).data, clean(path, by))


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_run_that_ends_while_it_notes_its_intensities_mixes_no_blocks(
    written: int, tmp_path: Path, make_header: MakeHeader
) -> None:
    by, path, out = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "scan.zarr", tmp_path / "out.zarr"
    scan, chunk = store(path, array_spec((2, 15, 13, 11), "tzyx"), (1, 4, 8, 8)), path / "1.3.0.0"
    whole, files = chunk.read_bytes(), list[Path]()
    chunk.write_bytes(b"")
    assert segmented([path], out, by)[0]
    chunk.write_bytes(whole)
    real, unlink = stored_results.write_bytes_atomic, Path.unlink

    def write(to: Path, content: bytes) -> None:
        if len(files) == written:
            raise KeyboardInterrupt
        files.append(to)
        real(to, content)

    def remove(file: Path, **more: Any) -> None:
        if file.name == "blocks.txt":
            raise KeyboardInterrupt
        unlink(file, **more)

    with pytest.MonkeyPatch.context() as patched:
        for module in (stored_results, scan_state):
            patched.setattr(module, "write_bytes_atomic", write)
        patched.setattr(Path, "unlink", remove)
        with pytest.raises(KeyboardInterrupt):
            segmented([path], out, by)
    assert [file.suffix for file in files] == [".txt", ".json"][:written]
    failures, said = segmented([path], out, by)
    assert not failures
    assert f"{16 if written == 2 else 20} blocks of an earlier run stay" in said
    assert ("4 blocks are computed again" in said) == (written < 2)
    np.testing.assert_array_equal(read_labels(out).data, run(by, scan, CONFIG)[0].labels.data)


class Held:
    """A scan whose blocks are shared out, by the command or by the window."""

    def __init__(self, kind: str, path: Path, out: Path, config: InferenceConfig) -> None:
        self.whole: Whole
        if kind == "window":
            self.whole = StoredLayer(request_for(path, out, config), machine_state())
        else:
            task = ScanTask(ScanFiles("scan", (path,)), "scan", out, (out,))
            self.whole = SegmentScan(task, config, FileOptions(skip_existing=True), machine_state(), 2)

    def plan(self, by: Segmenter, said: list[str]) -> Shared:
        with Downloads() as downloads:
            opened = drained(self.whole.open(by, downloads), [])
        return Shared(self.whole, drained(plan_shared(self.whole, by, opened), said), 2)


@pytest.mark.parametrize("kind", ["window", "command"])
@pytest.mark.parametrize("end", ["stopped", "finished"])
def test_blocks_that_were_shared_out_while_a_chunk_was_away_are_computed_again(
    end: str, kind: str, path: Path, tmp_path: Path, make_header: MakeHeader
) -> None:
    by, out, said = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "out.zarr", list[str]()
    held = Held(kind, path, out, CONFIG)
    with away(path):
        shared = held.plan(by, [])
    for job in shared.jobs[: 2 if end == "stopped" else None]:  # when it is back
        shared.done.update(drained(job.run(by), []).boxes)
    if end == "finished":
        with pytest.raises(PartUnreadableError, match="Intensities were measured without it"):
            drained(shared.finish().run(by), [])
    done = len(shared.done)
    assert done == (16 if end == "finished" else 4)
    shared = held.plan(by, said)
    assert f"{done} blocks are computed again" in " ".join(said)
    assert len(shared.found.left) == 16
    for job in shared.jobs:
        shared.done.update(drained(job.run(by), []).boxes)
    drained(shared.finish().run(by), [])
    np.testing.assert_array_equal(read_labels(out).data, clean(path, by))


@pytest.mark.parametrize("kind", ["window", "command"])
def test_a_job_of_an_earlier_plan_marks_no_block_of_the_next_one(
    kind: str, path: Path, tmp_path: Path, make_header: MakeHeader
) -> None:
    by, out = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "out.zarr"
    held = Held(kind, path, out, CONFIG)
    with away(path):
        earlier = held.plan(by, [])
    shared = held.plan(by, [])
    with pytest.raises(OutputError, match="is gone or was changed"):
        drained(earlier.jobs[0].run(by), [])
    assert held.plan(by, []).found.done == shared.found.done == frozenset()


@pytest.mark.parametrize("intensities", ["ct", "zscore"])
def test_a_chunk_that_was_mended_with_a_wrong_file_is_computed_again_with_the_right_one(
    intensities: str, tmp_path: Path, make_header: MakeHeader
) -> None:
    by = segmenter(make_header(3, tile=(8, 8, 8), **(CT if intensities == "ct" else {})))
    path, out = tmp_path / "scan.zarr", tmp_path / "out.zarr"
    store(path, array_spec((40, 13, 11), "zyx"))
    first, last = path / "0.0.0", path / "9.0.0"
    whole = {chunk: chunk.read_bytes() for chunk in (first, last)}
    for chunk in whole:
        chunk.write_bytes(b"")
    assert segmented([path], out, by)[0]
    first.write_bytes((path / "1.0.0").read_bytes())
    assert segmented([path], out, by)[0]  # the last one is still damaged
    assert len(list((tmp_path / ".prosma-partial-out.zarr").glob("blocks*.txt"))) > 0
    for chunk, content in whole.items():
        chunk.write_bytes(content)
    assert not segmented([path], out, by)[0]
    np.testing.assert_array_equal(read_labels(out).data, clean(path, by))


def test_a_scan_that_is_read_whole_at_last_settles_its_intensities_too(
    path: Path, tmp_path: Path, make_header: MakeHeader
) -> None:
    by, out, scan = segmenter(make_header(3, tile=(8, 8, 8))), tmp_path / "out.zarr", open_image(path)
    whole = Scan(np.asarray(zarr.open_array(str(path), mode="r")[...]), scan.spec)
    with on_disk.results_of(request_for(path, out), scan, by.header) as stored:
        run(by, whole, CONFIG, allocate=stored.allocate)
    np.testing.assert_array_equal(read_labels(out).data, clean(path, by))
