"""The engine's process starts and ends with its parent, however that ends, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from prosma_core.data.geometry import Scan
from prosma_core.engine.arrays import sweep
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import ArrayReady, Finished, SegmentRequest
from prosma_core.io.hardware import COMPUTING

Submit = Callable[..., Any]
Noise = Callable[..., Scan]
SharedFiles = Callable[..., list[Path]]

posix_only = pytest.mark.skipif(os.name == "nt", reason="counts and signals of POSIX")

PARENT = """
import os, sys, threading, time
import numpy as np
from prosma_core.data.geometry import array_spec
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import ScanRef, SegmentRequest, spec_message
from prosma_core.events import TileDone

first = threading.Event()

def tell_pid():
    print(engine.pid, flush=True)

def tell(message):
    if isinstance(message, TileDone):
        first.set()

engine = Engine()
shape = (40, 256, 256)
shared = engine.allocate(shape, np.float32)
shared.array[...] = np.random.default_rng(1).normal(size=shape)
scan = ScanRef(array=shared.ref, spec=spec_message(array_spec(shape, "zyx")))
engine.submit(SegmentRequest(model=sys.argv[1], device="cpu", scan=scan), tell)
first.wait()
"""

STUCK = """
import ctypes, os, sys

def hook(event, arguments):
    if event == "import" and arguments[0] == "torch":
        open(os.environ["STUCK"], "w").close()
        ctypes.PyDLL(None).sleep(30)  # holds Python's lock: no other thread runs

sys.addaudithook(hook)
"""

IDLE = """
import time
from prosma_core.engine.client import Engine

engine = Engine()
engine.start()
time.sleep(600)
"""


def processes() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def wait_until(so: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not so() and time.monotonic() < end:
        time.sleep(0.02)
    return so()


@posix_only
def test_ten_starts_and_ends_leave_nothing(
    submit: Submit, noise: Noise, model_2d: Path, shared_files: SharedFiles
) -> None:
    def present() -> tuple[Any, ...]:
        threads = {thread.name for thread in threading.enumerate() if "engine" in thread.name}
        return processes(), set(shared_files()), threads

    one = Engine()
    submit(one, model_2d, noise((20, 20), "yx")).end()
    one.close()
    before, files = present(), psutil.Process().num_fds()
    for cycle in range(10):
        made = Engine()
        made.start()
        assert made.alive
        assert made.pid in processes()
        if cycle == 5:
            heard = submit(made, model_2d, noise((20, 20), "yx"))
            assert isinstance(heard.end(), Finished)
            del heard
        made.close()
        assert not made.alive
    assert present() == before
    assert psutil.Process().num_fds() <= files  # fewer where the test before is tidied up meanwhile


def test_a_closed_engine_leaves_its_arrays_and_takes_jobs_again(
    engine: Engine, submit: Submit, noise: Noise, model_2d: Path
) -> None:
    heard = submit(engine, model_2d, noise((20, 20), "yx"))
    end = heard.end()
    engine.close()
    labels = heard.of(ArrayReady)[0].array
    assert np.count_nonzero(labels) == end.result.voxels["class 1"]
    labels[...] = 1
    assert labels.all()
    assert isinstance(submit(engine, model_2d, noise((20, 20), "yx")).end(), Finished)


@pytest.mark.skipif(sys.platform != "linux", reason="the environment of a process is read")
def test_an_engine_computes_in_large_pages_with_threads_that_sleep(
    engine: Engine, submit: Submit, noise: Noise, model_2d: Path
) -> None:
    submit(engine, model_2d, noise((20, 20), "yx")).end()
    assert psutil.Process(engine.pid).environ().items() >= COMPUTING.items()


def test_an_engine_may_be_closed_by_its_listener(
    own_engine: Engine, hand_over: Any, noise: Noise, model_2d: Path, shared_files: SharedFiles
) -> None:
    over = threading.Event()

    def close(message: Any) -> None:
        if isinstance(message, Finished):
            own_engine.close()
            over.set()

    scan = hand_over(own_engine, noise((20, 20), "yx"))
    own_engine.submit(SegmentRequest(model=str(model_2d), scan=scan), close)
    assert over.wait(120)
    assert not own_engine.alive


@posix_only
@pytest.mark.parametrize(
    ("then", "killed"),
    [
        ("tell_pid(); time.sleep(600)", True),
        ("tell_pid()", False),
        ("other = os.fork()\nif other: tell_pid()\ntime.sleep(600)", True),
    ],
    ids=["killed", "ends without closing", "killed while another process holds the pipe"],
)
def test_a_busy_engine_does_not_outlive_its_parent(
    then: str, killed: bool, model_2d: Path, shared_files: SharedFiles
) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT + then, str(model_2d)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        others = []
        if killed:
            assert shared_files(parent.pid)
            others = [process for process in psutil.Process(parent.pid).children() if process != child]
            parent.kill()
        parent.wait()
        assert psutil.wait_procs([child], timeout=20)[1] == []
        assert wait_until(lambda: shared_files(parent.pid) == [])
        for other in others:
            other.kill()


@posix_only
@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "without its guardian"])
def test_an_engine_stuck_in_native_code_does_not_outlive_its_parent(
    guarded: bool, tmp_path: Path, shared_files: SharedFiles
) -> None:
    if not guarded and sys.platform != "linux":
        pytest.skip("only Linux tells a process of its parent's end")
    (tmp_path / "sitecustomize.py").write_text(STUCK)
    stuck = tmp_path / "stuck"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}", "STUCK": str(stuck)}
    with subprocess.Popen([sys.executable, "-c", IDLE], env=environment) as parent:
        assert wait_until(stuck.exists)
        (child,) = psutil.Process(parent.pid).children()
        (guardian,) = child.children()
        time.sleep(0.1)
        assert shared_files(parent.pid)
        if not guarded:
            guardian.kill()
        began = time.monotonic()
        parent.kill()
        assert psutil.wait_procs([child], timeout=20)[1] == []
        assert time.monotonic() - began <= 3
        if guarded:
            assert wait_until(lambda: shared_files(parent.pid) == [], 3)
    sweep()  # as the next start does, where the process had no time to tidy up
    assert shared_files(parent.pid) == []
    assert psutil.wait_procs([guardian], timeout=5)[1] == []


def test_the_guardian_of_an_engine_ends_with_it_and_leaves_its_parent_s_folders(shared_files: SharedFiles) -> None:
    engine = Engine()
    shared = engine.allocate((3,), np.uint8)
    engine.start()
    child = psutil.Process(engine.pid)
    if os.name != "nt":
        assert wait_until(lambda: len(child.children()) == 1)
    guardians = child.children()
    engine.free()
    assert psutil.wait_procs([child, *guardians], timeout=20)[1] == []
    assert Path(shared.ref.path) in shared_files()
    engine.close()
    assert Path(shared.ref.path) not in shared_files()


def test_closing_right_after_freeing_waits_until_the_process_is_gone() -> None:
    engine = Engine()
    engine.start()
    pid = engine.pid
    assert pid is not None
    engine.free()
    engine.close()
    assert not psutil.pid_exists(pid)
