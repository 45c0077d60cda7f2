"""Scans on a real cluster: the results of one computer, whatever ends meanwhile."""

from __future__ import annotations

import csv
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from prosma_core.cluster import connection
from prosma_core.cluster.connection import Cluster, connect
from prosma_core.cluster.place import Place, parse_place
from prosma_core.cluster.scans import segment_on
from prosma_core.config import InferenceConfig
from prosma_core.data.geometry import array_spec
from prosma_core.errors import ClusterError, ConfigError
from prosma_core.events import CaseDone, Event, StageStarted, drain
from prosma_core.inference.files import FileOptions, plan_files
from prosma_core.inference.scan_runs import ScanPlan
from prosma_core.io.bundle import read_header
from prosma_core.io.claims import claimed
from prosma_core.io.images import read_image, write_image
from prosma_core.io.notes import read_notes
from prosma_core.io.scan_files import ScanChoice

Prosma = Callable[..., tuple[int, str, str]]
Make = Callable[..., Path]
Worker = Callable[..., AbstractContextManager[object]]
SchedulerFile = tuple[Path, subprocess.Popen[bytes]]


@contextmanager
def cluster_at(address: str) -> Iterator[Cluster]:
    with connect(Place(address), patience=60) as cluster:
        yield cluster


def content(folder: Path) -> dict[str, tuple[object, ...]]:
    """Voxels, geometry and notes of all results."""
    found = {}
    for path in sorted(folder.glob("[!.]*")):
        if path.suffix != ".csv":
            scan = read_image(path)
            found[path.name] = scan.data.tobytes(), scan.spec.axes, scan.spec.spacing, read_notes(path)
    return found


def planned(scans: Path, out: Path, model: Path, **options: bool) -> ScanPlan:
    choice = ScanChoice((scans,))
    return plan_files(choice, out, read_header(model), InferenceConfig(), FileOptions(**options))


def run(cluster: Cluster, plan: ScanPlan, model: Path, **options: bool) -> Iterator[Event]:
    return segment_on(cluster, plan, model, InferenceConfig(), FileOptions(**options), device="cpu")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Return a folder with one scan of many tiles."""
    folder = tmp_path / "large"
    folder.mkdir()
    data = np.random.default_rng(1).normal(size=(160, 160)).astype(np.float32)
    write_image(folder / "e.tif", data, array_spec(data.shape, "yx"))
    return folder


def test_results_and_table_are_those_of_one_process(
    prosma: Prosma, scans: Path, make_model: Make, tmp_path: Path, scheduler: str
) -> None:
    model = make_model(tmp_path / "m.safetensors")
    command = ["segment", scans, "--model", model, "--device", "cpu", "--probabilities"]
    assert prosma(*command, "--out", tmp_path / "here", "--table", tmp_path / "here" / "t.csv")[0] == 0
    there = [*command, "--out", tmp_path / "there", "--table", tmp_path / "there" / "t.csv", "--on", scheduler]
    code, _, err = prosma(*there)
    assert code == 0, err
    assert f"Computing on {scheduler}: 2 workers." in err
    assert "4 segmented, 0 finished already, 0 failed." in err
    assert content(tmp_path / "there") == content(tmp_path / "here")

    def rows(folder: str) -> list[dict[str, str]]:
        with (tmp_path / folder / "t.csv").open(encoding="utf-8", newline="") as file:
            return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]

    assert rows("there") == rows("here")
    code, _, err = prosma(*there, "--skip-existing")
    assert (code, "4 finished already" in err) == (0, True)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries return memory in their own way")
def test_workers_of_our_own_reuse_memory(scans: Path, make_model: Make, tmp_path: Path) -> None:
    def new_pages() -> int:
        """Of 20 arrays of 512 pages."""
        import resource

        np.ones(2 << 20, np.uint8)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            np.ones(2 << 20, np.uint8)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    model = make_model(tmp_path / "m.safetensors")
    with connect(parse_place("local:1"), patience=60) as cluster:
        drain(run(cluster, planned(scans, tmp_path / "out", model), model), lambda _: None)
        (found,) = cluster.client.run(new_pages).values()
    assert found < 2000


def test_what_fails_by_itself_is_named_and_the_rest_is_done(
    prosma: Prosma, scans: Path, make_model: Make, tmp_path: Path, scheduler: str
) -> None:
    (scans / "b.tif").write_bytes(b"II*\0 no picture")
    model = make_model(tmp_path / "m.safetensors")
    command = ["segment", scans, "--model", model, "--device", "cpu", "--on", scheduler]
    code, _, err = prosma(*command, "--out", tmp_path / "there")
    assert code == 3
    assert err.count("b: ") == 1
    assert "3 segmented, 0 finished already, 1 failed." in err
    (scans / "b.tif").unlink()
    code, _, err = prosma(*command, "--out", tmp_path / "there")
    assert code == 4
    assert "exists already; add --overwrite" in err


def test_result_that_another_process_makes_is_left_to_it(
    scans: Path, make_model: Make, tmp_path: Path, scheduler: str
) -> None:
    model, out = make_model(tmp_path / "m.safetensors"), tmp_path / "out"
    out.mkdir()
    with claimed(out / "b.tif"), cluster_at(scheduler) as cluster:
        plan = planned(scans, out, model)
        assert len(list(run(cluster, plan, model))) > 0
        assert [failure.name for failure in plan.failed] == ["b"]
        assert "is being made by process" in plan.failed[0].error
        assert plan.done == 3


def test_killed_worker_inside_a_scan_leaves_the_same_labels(
    large: Path, prosma: Prosma, make_model: Make, tmp_path: Path, scheduler: str
) -> None:
    model = make_model(tmp_path / "m.safetensors")
    assert prosma("segment", large, "--model", model, "--device", "cpu", "--out", tmp_path / "here")[0] == 0
    with cluster_at(scheduler) as cluster:
        processes = cluster.client.run(os.getpid)
        plan, killed, begun = planned(large, tmp_path / "there", model), 0, 0
        for event in run(cluster, plan, model):
            begun += isinstance(event, StageStarted) and event.message.startswith("e: yx")
            if not killed and " tiles" in str(event):  # some are computed: this is inside the scan
                (address,) = [at for at, keys in cluster.client.processing().items() if keys]
                killed = processes[address]
                os.kill(killed, signal.SIGKILL)
        assert killed
        assert begun == 2
        assert (plan.done, plan.failed) == (1, [])
        cluster.client.wait_for_workers(2, timeout=60)
    assert content(tmp_path / "there") == content(tmp_path / "here")


def test_worker_that_dask_pauses_for_its_memory_ends_its_scan(
    large: Path, make_model: Make, tmp_path: Path, scheduler: str
) -> None:
    def set_status(name: str, fraction: float | bool, dask_worker: Any = None) -> None:
        dask_worker.memory_manager.memory_pause_fraction = fraction
        dask_worker.status = type(dask_worker.status)[name]

    model, paused = make_model(tmp_path / "m.safetensors"), ""
    with cluster_at(scheduler) as cluster:
        plan = planned(large, tmp_path / "out", model)
        for event in run(cluster, plan, model):
            if not paused and " tiles" in str(event):
                (paused,) = [at for at, keys in cluster.client.processing().items() if keys]
                cluster.client.run(set_status, "paused", False, workers=[paused])
        assert paused
        cluster.client.run(set_status, "running", 0.8, workers=[paused])
    assert (plan.done, plan.failed) == (1, [])


def test_closing_stops_the_workers_and_leaves_nothing(
    large: Path, make_model: Make, tmp_path: Path, scheduler: str
) -> None:
    model = make_model(tmp_path / "m.safetensors")
    with cluster_at(scheduler) as cluster:
        with closing(run(cluster, planned(large, tmp_path / "out", model), model)) as work:
            for event in work:
                if " tiles" in str(event):
                    break
        assert not any(cluster.client.processing().values())
        assert list((tmp_path / "out").iterdir()) == []
        plan = planned(large, tmp_path / "out", model)
        assert any(isinstance(event, CaseDone) for event in run(cluster, plan, model))  # the workers are free again


def test_worker_of_another_version_is_refused_before_work_begins(
    prosma: Prosma, scans: Path, make_model: Make, tmp_path: Path, scheduler: str, worker_with: Worker
) -> None:
    model = make_model(tmp_path / "m.safetensors")
    with worker_with(scheduler, "import prosma_core\nprosma_core.__version__ = '0.0.9'"):
        code, _, err = prosma("segment", scans, "--model", model, "--out", tmp_path / "out", "--on", scheduler)
    assert code == 2
    assert "has other versions: napari-prosma 0.0.9 (here " in err
    assert list((tmp_path / "out").iterdir()) == []


def test_worker_without_the_program_is_refused(scheduler: str, worker_with: Worker) -> None:
    lacking = "import sys\nsys.modules['prosma_core.cluster.checks'] = None"
    with worker_with(scheduler, lacking), cluster_at(scheduler) as cluster:
        cluster.client.wait_for_workers(3, timeout=60)
        with pytest.raises(ClusterError, match=r"cannot run this program .*Install the same there as here"):
            cluster.check()


ELSEWHERE = """
from dataclasses import replace
from pathlib import Path
from prosma_core.cluster import checks
checks.real = getattr(checks, "real", checks.answer)
def answer(probe):
    {change}
    return checks.real(probe)
checks.answer = answer
"""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("probe = replace(probe, folder=Path('/elsewhere') / probe.folder.name)", "does not see /elsewhere"),
        ("probe = replace(probe, scans=[Path('/elsewhere/a.tif')])", "cannot read /elsewhere/a.tif"),
        ("probe = replace(probe, scans=probe.scans[::-1])", "has another scan as "),
    ],
)
def test_worker_that_does_not_see_the_files_is_refused(
    change: str,
    words: str,
    prosma: Prosma,
    scans: Path,
    make_model: Make,
    tmp_path: Path,
    scheduler: str,
    worker_with: Worker,
) -> None:
    model = make_model(tmp_path / "m.safetensors")
    with worker_with(scheduler, ELSEWHERE.format(change=change)):
        code, _, err = prosma("segment", scans, "--model", model, "--out", tmp_path / "out", "--on", scheduler)
    assert code == 2
    assert words in err
    assert "under the same paths" in err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_scheduler_that_is_killed_leaves_what_is_done_and_the_rest_follows(
    prosma: Prosma,
    scans: Path,
    large: Path,
    make_model: Make,
    tmp_path: Path,
    scheduler_file: SchedulerFile,
    worker_with: Worker,
    scheduler: str,
) -> None:
    file, process = scheduler_file
    model, out = make_model(tmp_path / "m.safetensors"), tmp_path / "out"
    (large / "e.tif").rename(scans / "e.tif")
    place = parse_place(str(file))
    with worker_with(place.address), connect(place, patience=10) as cluster:
        plan = planned(scans, out, model, skip_existing=True)
        for event in run(cluster, plan, model, skip_existing=True):
            if "e 1" in str(event) and process.poll() is None:
                process.kill()
                process.wait()
    assert plan.done == 4
    assert [failure.name for failure in plan.failed] == ["e"]
    assert "was lost. Start it where it has ended, and run again." in plan.failed[0].error
    assert sorted(path.name for path in out.glob("[!.]*")) == ["a.tif", "b.tif", "c.tif", "d.nii.gz"]
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("[!.]*")}
    command = ["segment", scans, "--model", model, "--device", "cpu", "--out", out, "--skip-existing"]
    code, _, err = prosma(*command, "--on", scheduler)
    assert code == 0, err
    assert "1 segmented, 4 finished already, 0 failed." in err
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before


def test_scheduler_that_does_not_answer_or_has_no_workers(
    scheduler_file: SchedulerFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WORKERS", 1)
    with (
        pytest.raises(ClusterError, match=r"No Dask scheduler answers at tcp://127.0.0.1:9"),
        connect(Place("tcp://127.0.0.1:9"), patience=1),
    ):
        pass
    with (
        pytest.raises(ClusterError, match=r"has no workers\. Start some: dask worker tcp://"),
        connect(parse_place(str(scheduler_file[0])), patience=3),
    ):
        pass


@pytest.mark.parametrize("text", ["", "locals", "local:0", "local:x", "127.0.0.1:8786", "tcp://host", "gone.json"])
def test_place_that_is_none(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no place|is not the file"):
        parse_place(str(tmp_path / text) if text.endswith("json") else text)


def test_places(tmp_path: Path) -> None:
    assert parse_place("local:3") == Place(workers=3)
    assert parse_place("local").workers >= 1
    assert parse_place("tcp://10.0.0.1:8786") == Place("tcp://10.0.0.1:8786")
    (tmp_path / "s.json").write_text('{"address": "tls://h:1"}')
    assert parse_place(str(tmp_path / "s.json")) == Place("tls://h:1")
    (tmp_path / "s.json").write_text('{"address": 3}')
    with pytest.raises(ConfigError, match="it has no address"):
        parse_place(str(tmp_path / "s.json"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("local:8786", r"asks for 8786 workers on this computer.* at most, or .*tcp://HOST:8786"),
        ("local:99999999999999999999", "asks for 99999999999999999999 workers"),
        ("tcp://10.0.0.1:99999", "no port that exists: they go to 65535"),
        ("~nobody-of-this-name/scheduler.json", "names no file"),
        ("127.0.0.1:8786", r"is no place .*begins with its protocol; give tcp://127\.0\.0\.1:8786\.$"),
        ("[::1]:8786", r"give tcp://\[::1\]:8786\.$"),
        ("node01:8786", r"give tcp://node01:8786\.$"),
        ("tcp://node01", r"ends with its port; give tcp://node01:8786, "),
        ("tcp://node01:8786/", r"ends with its port; give tcp://node01:8786\.$"),
        ("http://node01:8787/", r"dashboard.*tcp://node01:8786\.$"),
        ("node01", r"is no place to compute on: give local, local:2 "),
        ("local:x", r"is no place to compute on: give local, local:2 "),
    ],
)
def test_a_slip_in_an_address_is_told_before_anything_is_started(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_place(text)


def test_the_client_needs_no_torch() -> None:
    code = "import sys, prosma_core.cluster.scans, prosma_core.cluster.worker; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert answer.stdout.strip() == "False"


def started(*arguments: object) -> subprocess.Popen[str]:
    """Start ``prosma ARGUMENTS`` in a process group of its own, as a shell does."""
    command = [sys.executable, "-m", "prosma_core.cli", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_ends_workers_of_our_own_and_run_again_the_rest_follows(
    large: Path, scans: Path, make_model: Make, tmp_path: Path
) -> None:
    model, out = make_model(tmp_path / "m.safetensors"), tmp_path / "out"
    (large / "e.tif").rename(scans / "e.tif")
    command = [
        "segment",
        scans,
        "--model",
        model,
        "--device",
        "cpu",
        "--out",
        out,
        "--skip-existing",
        "--on",
        "local:2",
    ]
    process = started(*command)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("a -> "):
            children = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGINT)  # to the workers as well, as a terminal does
    process.stderr.close()
    assert process.wait(60) == -signal.SIGINT, said
    assert any("Computing on 2 workers of this computer." in line for line in said)
    assert "Run the command again for the rest." in said[-2]
    assert len(children) >= 2
    psutil.wait_procs(children, timeout=30)
    assert not any(child.is_running() for child in children)
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    process = started(*command)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "0 failed." in err
    assert len(list(out.iterdir())) == 5
