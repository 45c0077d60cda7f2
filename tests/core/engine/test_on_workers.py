"""Requests that Dask workers compute, through the real engine process: the results of this computer, and what fails."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zarr

from prosma_core.cluster.checks import Answer
from prosma_core.cluster.connection import connect
from prosma_core.cluster.jobs import Outcome
from prosma_core.cluster.place import Place
from prosma_core.config import InferenceConfig
from prosma_core.config.inspection import InspectConfig
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.engine import on_workers
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import (
    ArrayReady,
    Cancelled,
    Failed,
    Finished,
    InspectRequest,
    ScanRef,
    SegmentRequest,
    WorkersRequest,
    spec_message,
)
from prosma_core.errors import ClusterError, ConfigError, PartUnreadableError
from prosma_core.events import ResultStored, SlabDone, StageStarted, TileDone, Working, drain
from prosma_core.io.images import read_image, write_image

Worker = Callable[..., AbstractContextManager[Any]]
SchedulerFile = tuple[Path, subprocess.Popen[bytes]]
LARGE = (
    "from prosma_core.inference import memory; from prosma_core.io import images; memory.IN_CORE = memory.WORKING = {};"
    "images.open_image.__kwdefaults__['least'] = {}"
)
"""Has a worker take scans of so many bytes for larger than memory."""


@pytest.fixture
def small_scan(rng: np.random.Generator) -> Scan:
    """Return a scan of a few tiles."""
    return Scan(rng.normal(size=(6, 40, 50)).astype(np.float32), array_spec((6, 40, 50), "zyx"))


def arrays(heard: Any) -> dict[str, np.ndarray]:
    assert isinstance(heard.end(), Finished), heard.messages[-1]
    return {message.name: message.array for message in heard.of(ArrayReady)}


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.slow
def test_results_are_those_of_this_computer_to_the_bit(
    engine: Engine, submit: Any, model_3d: Path, small_scan: Scan, scheduler: str
) -> None:
    config = InferenceConfig(probabilities=True, entropy=True, objects=True)
    here = submit(engine, model_3d, small_scan, config=config)
    wanted = arrays(here)
    there = submit(engine, model_3d, small_scan, config=config, on=scheduler)
    assert_same(arrays(there), wanted)
    result = there.end().result
    assert result.voxels == here.end().result.voxels
    assert result.device.startswith(f"{scheduler} (CPU")
    assert f"Computing on {scheduler}: 2 workers." in [each.message for each in there.of(StageStarted)]


@pytest.mark.slow
def test_inspection_on_workers_started_for_it(
    engine: Engine, begin: Any, hand_over: Any, model_3d: Path, small_scan: Scan
) -> None:
    def asked(on: str) -> Any:
        scan = hand_over(engine, small_scan)
        request = InspectRequest(model=str(model_3d), device="cpu", config=InspectConfig(), scan=scan, on=on)
        return begin(engine, request)

    here, there = asked(""), None
    wanted = arrays(here)
    there = asked("local:1")
    assert_same(arrays(there), wanted)
    assert there.end().result.inspection == here.end().result.inspection
    assert there.end().result.device.startswith("1 worker of this computer (CPU")


@pytest.mark.slow
def test_scan_that_workers_do_not_see_is_sent(
    engine: Engine, submit: Any, model_2d: Path, small_scan: Scan, scheduler_file: SchedulerFile, worker_with: Worker
) -> None:
    wanted = arrays(submit(engine, model_2d, small_scan))
    blind = (
        "from prosma_core.cluster import checks\n"
        "from prosma_core.engine import arrays\n"
        "checks.unreadable = lambda files: f'cannot read {files[0]} (not here)' if files else ''\n"
        "arrays.attach = None\n"
    )
    with worker_with(address_of(scheduler_file), blind):
        there = submit(engine, model_2d, small_scan, on=str(scheduler_file[0]))
        assert_same(arrays(there), wanted)
    assert "The scan is sent to a worker" in there.of(StageStarted)[1].message


def address_of(scheduler_file: SchedulerFile) -> str:
    return str(json.loads(scheduler_file[0].read_text())["address"])


@pytest.fixture
def large(tmp_path: Path) -> tuple[ScanRef, Path]:
    """Return a zarr of several blocks, and a folder for its result."""
    data = np.random.default_rng(2).integers(0, 999, (80, 30, 40)).astype(np.uint16)
    write_image(tmp_path / "large.zarr", data, array_spec(data.shape, "zyx"))
    spec = spec_message(array_spec(data.shape, "zyx"))
    return ScanRef(file=str(tmp_path / "large.zarr"), spec=spec), tmp_path / "results" / "r.zarr"


@pytest.mark.slow
def test_blocks_of_a_large_scan_are_shared_out(
    engine: Engine, submit: Any, model_3d: Path, large: tuple[ScanRef, Path], scheduler: str
) -> None:
    ref, store = large
    wanted = arrays(submit(engine, model_3d, ref))["labels"]
    with connect(Place(scheduler), patience=60) as cluster:
        cluster.client.wait_for_workers(2, timeout=60)
        cluster.client.run(exec, LARGE.format(1, 0), {})
        try:
            heard = submit(engine, model_3d, ref, on=scheduler, store=str(store))
            assert isinstance(heard.end(), Finished), heard.messages[-1]
        finally:
            cluster.client.run(exec, LARGE.format(2 << 30, 16 << 20), {})
    first, last = heard.of(ResultStored)
    assert (first.name, last.name) == ("labels", "labels")
    assert Path(last.path).is_relative_to(store)
    np.testing.assert_array_equal(read_image(store).data, wanted)
    blocks = {(each.start, each.stop) for each in heard.of(SlabDone)}
    assert len(blocks) == heard.of(TileDone)[-1].total > 2
    said = [each.message for each in heard.of(StageStarted)]
    assert any(re.fullmatch(r"\d+ blocks of the scan in [2-8] tasks for the workers\.", each) for each in said), said
    assert sum(heard.end().result.voxels.values()) == np.count_nonzero(wanted)


@pytest.mark.slow
def test_blocks_that_cannot_be_read_are_named_and_all_others_are_done(
    engine: Engine, submit: Any, model_3d: Path, tmp_path: Path, scheduler: str
) -> None:
    shape, store = (80, 30, 40), tmp_path / "results" / "r.zarr"
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=shape, dtype=np.uint16, chunks=(10, 30, 40))
    array[...] = np.random.default_rng(2).integers(0, 999, shape)
    (tmp_path / "a.zarr" / "c" / "7" / "0" / "0").write_bytes(b"damaged")
    ref = ScanRef(file=str(tmp_path / "a.zarr"), axes="zyx", spec=spec_message(array_spec(shape, "zyx")))
    with connect(Place(scheduler), patience=60) as cluster:
        cluster.client.wait_for_workers(2, timeout=60)
        cluster.client.run(exec, LARGE.format(1, 0), {})
        try:
            heard = submit(engine, model_3d, ref, on=scheduler, store=str(store))
            failed = heard.end()
        finally:
            cluster.client.run(exec, LARGE.format(2 << 30, 16 << 20), {})
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, PartUnreadableError)
    assert heard.of(SlabDone)
    assert not store.exists()
    assert [each.name for each in store.parent.iterdir()] == [".prosma-partial-r.zarr"]


def test_a_scan_that_is_neither_seen_nor_can_be_sent_is_refused_before_anything_is_computed(
    tmp_path: Path, large: tuple[ScanRef, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, store = large
    request = SegmentRequest(model="m", scan=ref, on="tcp://h:1", store=str(store))
    given: Any = Blind()
    sent = drain(on_workers._sendable(given, request), lambda _: None)
    assert given.asked == [(store.parent, [tmp_path / "large.zarr"])]
    assert sent.voxels is not None
    assert isinstance(sent.request, SegmentRequest)
    assert sent.request.store == ""
    monkeypatch.setattr(on_workers, "MOST_SENT", 1000)
    with pytest.raises(
        ClusterError, match=r"The worker tcp://h:1 .* does not see it .* set TMPDIR to one that all see"
    ):
        drain(on_workers._sendable(given, request), lambda _: None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("on", "kind", "words"),
    [
        ("tcp://127.0.0.1:9", ClusterError, "No Dask scheduler answers at tcp://127.0.0.1:9"),
        ("nowhere", ConfigError, "'nowhere' is no place to compute on: give local"),
        ("gone.json", ConfigError, "gone.json is not the file of a Dask scheduler"),
    ],
)
def test_what_is_wrong_with_an_address_is_said_and_the_engine_lives_on(
    on: str, kind: type[Exception], words: str, engine: Engine, submit: Any, model_2d: Path, small_scan: Scan
) -> None:
    arrays(submit(engine, model_2d, small_scan))
    process = engine.pid
    failed = submit(engine, model_2d, small_scan, on=on).end()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, kind)
    assert words in str(failed.error)
    arrays(submit(engine, model_2d, small_scan))
    assert engine.pid == process


@pytest.mark.slow
def test_worker_of_another_version_is_named(
    engine: Engine,
    submit: Any,
    model_2d: Path,
    small_scan: Scan,
    scheduler_file: SchedulerFile,
    worker_with: Worker,
    begin: Any,
    tmp_path: Path,
) -> None:
    other = "from prosma_core.cluster import checks\nchecks.version = lambda name: '0.1'"
    with worker_with(address_of(scheduler_file), other):
        asked = WorkersRequest(on=str(scheduler_file[0]), model=str(model_2d), folder=str(tmp_path / "f"))
        for start in (lambda: submit(engine, model_2d, small_scan, on=asked.on), lambda: begin(engine, asked)):
            failed = start().end()
            assert isinstance(failed, Failed)
            assert "has other versions: torch 0.1 (here" in str(failed.error)
    arrays(submit(engine, model_2d, small_scan))


@pytest.mark.slow
def test_scheduler_that_is_killed_midway_ends_the_job_alone(
    engine: Engine, submit: Any, model_2d: Path, long_scan: Scan, scheduler_file: SchedulerFile, worker_with: Worker
) -> None:
    with worker_with(address_of(scheduler_file)):
        heard = submit(engine, model_2d, long_scan, on=str(scheduler_file[0]))
        heard.wait_for(TileDone)
        process = engine.pid
        scheduler_file[1].kill()
        failed = heard.end()
    assert isinstance(failed, Failed)
    assert "was lost. Start it where it has ended, and run again." in str(failed.error)
    arrays(submit(engine, model_2d, Scan(long_scan.data[:1], array_spec((1, 256, 256), "zyx"))))
    assert engine.pid == process


@pytest.mark.slow
def test_cancel_stops_the_worker_and_the_engine_lives_on(
    engine: Engine, submit: Any, model_2d: Path, long_scan: Scan, scheduler: str
) -> None:
    heard = submit(engine, model_2d, long_scan, on=scheduler)
    heard.wait_for(TileDone)
    process = engine.pid
    heard.job.cancel()
    assert isinstance(heard.end(), Cancelled)
    with connect(Place(scheduler), patience=60) as cluster:
        assert not any(cluster.client.processing().values())
    arrays(submit(engine, model_2d, Scan(long_scan.data[:1], array_spec((1, 256, 256), "zyx"))))
    assert engine.pid == process


@pytest.mark.slow
def test_cancel_while_nothing_computes_yet_leaves_the_engine(
    engine: Engine, begin: Any, model_2d: Path, scheduler_file: SchedulerFile, tmp_path: Path
) -> None:
    asked = WorkersRequest(on=str(scheduler_file[0]), model=str(model_2d), device="cpu", folder=str(tmp_path / "f"))
    heard = begin(engine, asked)  # the scheduler has no worker
    heard.wait_for(Working)
    time.sleep(2)
    process, began = engine.pid, time.monotonic()
    heard.job.cancel()
    assert isinstance(heard.end(), Cancelled)
    assert time.monotonic() - began < 8
    assert engine.pid == process


@pytest.mark.slow
@pytest.mark.parametrize("seen", [True, False])
def test_what_is_found_is_said_in_a_sentence(
    seen: bool,
    engine: Engine,
    begin: Any,
    model_2d: Path,
    scheduler_file: SchedulerFile,
    worker_with: Worker,
    tmp_path: Path,
) -> None:
    blind = "" if seen else "from prosma_core.cluster import checks\nchecks.unreadable = lambda files: 'cannot read it'"
    with worker_with(address_of(scheduler_file), blind):
        asked = WorkersRequest(
            on=address_of(scheduler_file),
            model=str(model_2d),
            device="cpu",
            folder=str(tmp_path / "f"),
            file=str(model_2d),
        )
        words = begin(engine, asked).end().result.words
    assert words.startswith(f"1 worker of {address_of(scheduler_file)}, 1 thread: the same versions as here")
    assert "loads (CPU" in words
    assert (f"{model_2d.name} and the folder for results are seen." in words) is seen
    assert ("a scan of up to 2 GiB would be sent" in words) is not seen


@pytest.mark.parametrize(
    ("size", "refused"), [(480 << 20, False), (2 << 30, False), ((2 << 30) + 1, True), (5 << 30, True)]
)
def test_a_test_says_whether_the_scan_would_be_sent_or_refused(
    size: int, refused: bool, tmp_path: Path, model_2d: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = tmp_path / "scan.zarr"
    scan.mkdir()
    asked = WorkersRequest(on="tcp://h:1", model=str(model_2d), folder=str(tmp_path / "f"), file=str(scan), size=size)
    blind = Blind()
    monkeypatch.setattr(on_workers, "connecting", lambda *_: nullcontext(iter_of(blind)))
    if not refused:
        words = drain(on_workers.look_at_workers(asked), lambda _: None).words
        assert f"not all seen: the scan ({size >> 20} MiB) would be sent to one of them" in words
    else:
        with pytest.raises(ClusterError) as error:
            drain(on_workers.look_at_workers(asked), lambda _: None)
        assert "have the same versions as here. The worker tcp://h:1 (process 1 on h) does not see it" in str(
            error.value
        )
        assert f"this one has {size / 2**30:.1f} GiB. Save it in a folder that all workers see" in str(error.value)
    assert blind.asked == [(tmp_path / "f", [scan])]


def test_a_scan_in_no_file_is_looked_for_where_its_copy_would_lie(
    tmp_path: Path, model_2d: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = Blind()
    monkeypatch.setattr(on_workers, "connecting", lambda *_: nullcontext(iter_of(blind)))
    asked = WorkersRequest(on="tcp://h:1", model=str(model_2d), copies=str(tmp_path), size=5 << 30)
    with pytest.raises(ClusterError, match=r"this one has 5\.0 GiB"):
        drain(on_workers.look_at_workers(asked), lambda _: None)
    assert blind.asked == [(None, [tmp_path])]
    blind.problem = ""
    assert drain(on_workers.look_at_workers(asked), lambda _: None).words.endswith("loads (CPU), the scan is seen.")


class Blind:
    """Workers that do not see files, in place of a cluster."""

    problem = "does not see it (not here)"

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def ask(self, *what: Any) -> list[Answer]:
        self.asked.append(what)
        return [Answer({}, "tcp://h:1 (process 1 on h)", self.problem)]

    def count_threads(self) -> int:
        return 1

    def with_model(self, *_: Any) -> AbstractContextManager[Any]:
        return nullcontext()

    def work(self, jobs: Any, _: Any) -> Any:
        for name, _job in jobs:
            yield name, Outcome(result="CPU")


def iter_of(cluster: Any) -> Any:
    """Return a generator that returns a cluster, as of `connecting`."""
    yield from ()
    return cluster


@pytest.mark.parametrize("file", ["", "gone.tif", "https://127.0.0.1:9/a.zarr"])
def test_no_process_of_a_cluster_is_left_and_a_scan_that_was_not_looked_for_is_not_seen(
    file: str, engine: Engine, begin: Any, model_2d: Path, tmp_path: Path
) -> None:
    asked = WorkersRequest(on="local:2", model=str(model_2d), device="cpu", folder=str(tmp_path / "f"), file=file)
    words = begin(engine, asked).end().result.words
    assert words.startswith("2 workers of this computer, 2 threads: the same versions as here")
    assert words.endswith(
        "the folder for results is seen (no scan was looked for: none of this computer's files is chosen)."
    )
    assert not [
        each for each in psutil.Process(engine.pid).children(recursive=True) if "spawn_main" in str(each.cmdline())
    ]


def test_engine_and_client_have_no_dask_until_it_is_asked_for() -> None:
    code = (
        "import sys, prosma_core.engine.client, prosma_core.cluster.place, prosma_core.engine.handlers;"
        "print({'dask', 'distributed'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert answer.stdout.strip() == "set()"
