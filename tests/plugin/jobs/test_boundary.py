"""Calls of other threads in the GUI thread, one after the other; work in threads, and what a job prepares."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QApplication

from napari_prosma.jobs.boundary import EngineJob, JobName, Jobs
from napari_prosma.jobs.qt_loop import QtEventLoop
from napari_prosma.jobs.spec import RequestSpec
from prosma_core.config.training import resolve_run
from prosma_core.data.geometry import array_spec
from prosma_core.engine.messages import Cancelled, Failed, PlanRequest, TimesRequest, is_last, spec_message
from prosma_core.errors import EngineBusyError, ProsmaError
from prosma_core.events import Working

TRAINING = JobName("A training", "ProSMA Train")
SEGMENTATION = JobName("A segmentation", "ProSMA Segment")
RANKING = JobName("A ranking of levels", "ProSMA Gates")
LEAVING = """
import pathlib, sys, time
from qtpy.QtCore import QCoreApplication
from napari_prosma.jobs.boundary import Jobs
from napari_prosma.jobs.qt_loop import QtEventLoop
app, jobs, folder = QCoreApplication([]), Jobs(QtEventLoop()), pathlib.Path(sys.argv[1])
for name, seconds, lasting in (("yes", 0.3, True), ("no", 60, False)):
    def work(name=name, seconds=seconds):
        time.sleep(seconds)
        (folder / name).touch()
    jobs.run(work, lambda _: None, lambda _: None, lasting=lasting)
"""


def test_calls_that_let_the_window_live_do_not_pile_up(qtbot: QtBot) -> None:
    box = QtEventLoop()
    said: list[str] = []

    def call(number: int) -> None:
        said.append(f"begin {number}")
        QApplication.processEvents()  # as napari's progress bars do
        said.append(f"end {number}")

    for number in range(2000):
        box.post(lambda number=number: call(number))
    qtbot.waitUntil(lambda: len(said) == 4000)
    assert said == [f"{word} {number}" for number in range(2000) for word in ("begin", "end")]


def test_a_call_that_fails_does_not_hold_up_the_next(qtbot: QtBot) -> None:
    box = QtEventLoop()
    said: list[str] = []
    with qtbot.captureExceptions() as failures:
        box.post(lambda: said.remove("nothing"))
        box.post(lambda: said.append("next"))
        qtbot.waitUntil(lambda: said == ["next"])
    assert [kind for kind, *_ in failures] == [ValueError]


@pytest.mark.slow
def test_a_program_that_ends_waits_for_work_that_lasts(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LEAVING, str(tmp_path)]
    made = subprocess.run(command, check=False, capture_output=True, encoding="utf-8", timeout=50)
    assert (made.returncode, made.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["yes"]


def test_a_job_that_is_cancelled_may_still_be_preparing_and_can_be_waited_for() -> None:
    said: list[Any] = []
    job = EngineJob(None, said.append)  # type: ignore[arg-type]  # the engine is never reached
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    class Slow:
        def prepare(self, _: Any) -> Any:
            began.set()
            may_end.wait(10)
            ended.set()
            yield "written"

    threading.Thread(target=job.run, args=(Slow(),)).start()
    assert began.wait(10)
    job.cancel()
    assert said == [Cancelled()]
    threading.Timer(0.05, may_end.set).start()
    job.wait_prepared()
    assert ended.is_set()
    assert said == [Cancelled()]


def test_what_other_threads_post_runs_in_the_thread_of_the_window(qtbot: QtBot) -> None:
    box = QtEventLoop()
    ran_in: list[threading.Thread] = []
    other = threading.Thread(target=lambda: box.post(lambda: ran_in.append(threading.current_thread())))
    other.start()
    other.join()
    assert ran_in == []
    qtbot.waitUntil(lambda: bool(ran_in))
    assert ran_in == [threading.current_thread()]


def test_a_job_that_is_over_keeps_nothing_of_whoever_listened() -> None:
    class Loop:
        post = timer = staticmethod(lambda call, *values: call(*values))

    class Bad:
        def prepare(self, _: Any) -> Any:
            yield "reading"
            msg = "no scan"
            raise ProsmaError(msg)

    class Widget(list[Any]):
        def hear(self, message: Any) -> None:
            self.append(message)

    jobs, widget = Jobs(Loop()), Widget()
    job = jobs.start(Bad(), widget.hear, SEGMENTATION)
    job.wait_prepared()
    assert [type(message) for message in widget] == [Working, Failed]
    kept = weakref.ref(widget)
    del job, widget
    for thread in threading.enumerate():
        if thread.name == "prosma-job":
            thread.join()
    del thread
    gc.collect()
    assert kept() is None
    jobs.close()


class Preparing:
    """A job that is prepared when the test wants it, and is refused then."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()

    def prepare(self, _: Any) -> Any:
        self.began.set()
        self.may_end.wait(20)
        yield "ready"
        msg = "It cannot be read."
        raise ProsmaError(msg)


@pytest.fixture
def idle_jobs() -> Iterator[Jobs]:
    """Jobs whose engine is never reached."""

    class Loop:
        post = timer = staticmethod(lambda call, *values: call(*values))

    jobs = Jobs(Loop())
    yield jobs
    jobs.close()


def test_a_job_is_refused_at_once_while_another_is_prepared_and_told_which(idle_jobs: Jobs) -> None:
    first, second, heard = Preparing(), Preparing(), list[Any]()
    job = idle_jobs.start(first, lambda _: None, TRAINING)
    assert first.began.wait(10)
    wanted: tuple[Callable[[], object], ...] = (
        lambda: idle_jobs.start(second, heard.append, SEGMENTATION),
        lambda: idle_jobs.start(second, heard.append, RANKING, yields=True),
        idle_jobs.reserve(SEGMENTATION).__enter__,
        idle_jobs.unload,
        idle_jobs.check_idle,
    )
    for want in wanted:
        with pytest.raises(
            EngineBusyError, match=r"^A training is running in ProSMA Train\. Stop it there, or wait\.$"
        ):
            want()
    assert (second.began.is_set(), heard) == (False, []), "nothing was copied in vain"
    job.cancel()
    idle_jobs.start(second, heard.append, SEGMENTATION)  # what is given up keeps nobody
    assert second.began.wait(10)
    for each in (first, second):
        each.may_end.set()


def test_the_engine_is_kept_for_the_job_whose_widget_is_still_being_made_ready(idle_jobs: Jobs) -> None:
    spec, other = Preparing(), Preparing()
    with idle_jobs.reserve(TRAINING):
        with pytest.raises(EngineBusyError, match="A training is running"):
            idle_jobs.start(other, lambda _: None, RANKING, yields=True)
        idle_jobs.start(spec, lambda _: None, TRAINING).cancel()
    with contextlib.suppress(RuntimeError), idle_jobs.reserve(TRAINING):
        msg = "the view is broken"
        raise RuntimeError(msg)
    ranking = idle_jobs.start(spec, lambda _: None, RANKING, yields=True)
    idle_jobs.unload()  # nobody waits for what yields
    ranking.cancel()
    assert not other.began.is_set()
    spec.may_end.set()


@pytest.fixture
def engines() -> Callable[[], int]:
    """Return what counts the processes that were started since."""
    before = set(psutil.Process().children())
    return lambda: len(set(psutil.Process().children()) - before)


def times_request() -> TimesRequest:
    run = resolve_run({"out": "m.safetensors", "preset": "best", "device": "cpu"})
    return TimesRequest(runs={"best": run}, scans=(spec_message(array_spec((64, 64, 64), "zyx")),), num_classes=2)


@pytest.mark.slow
def test_what_is_done_aside_or_yields_gives_way_to_a_job(
    qtbot: QtBot, tmp_path: Path, engines: Callable[[], int]
) -> None:
    jobs, heard, done = Jobs(QtEventLoop()), list[Any](), list[Any]()
    plan = RequestSpec(PlanRequest(run=resolve_run({"out": tmp_path / "m.safetensors", "data": tmp_path})))
    try:
        jobs.submit_background(times_request(), heard.append)
        jobs.check_idle()  # nobody has to wait for it
        qtbot.waitUntil(lambda: any(isinstance(message, Working) for message in heard), timeout=60_000)
        jobs.start(plan, done.append, TRAINING)
        qtbot.waitUntil(lambda: bool(heard) and is_last(heard[-1]), timeout=10_000)
        assert isinstance(heard[-1], Cancelled)
        qtbot.waitUntil(lambda: engines() == 1, timeout=10_000)
        qtbot.waitUntil(lambda: bool(done) and is_last(done[-1]), timeout=60_000)
        ranking, wanted = list[Any](), list[Any]()
        kept = jobs.start(RequestSpec(times_request()), ranking.append, RANKING, yields=True)
        assert kept.yields
        qtbot.waitUntil(lambda: any(isinstance(message, Working) for message in ranking), timeout=60_000)
        jobs.check_idle()  # nobody has to wait for what yields either
        jobs.start(plan, wanted.append, TRAINING)
        qtbot.waitUntil(lambda: bool(wanted) and is_last(wanted[-1]), timeout=60_000)
        assert isinstance(ranking[-1], Cancelled)
        assert str(wanted[-1].error) == str(done[-1].error), "it was done, not refused"
        jobs.submit_background(times_request(), heard.append)  # it can be asked again
        jobs.end_background()
        qtbot.waitUntil(lambda: sum(map(is_last, heard)) == 2, timeout=10_000)
    finally:
        jobs.close()


def test_nothing_is_done_aside_while_a_job_is_prepared_or_something_else_is_done_aside(
    qtbot: QtBot, engines: Callable[[], int]
) -> None:
    jobs, heard, done, reading = Jobs(QtEventLoop()), list[Any](), list[Any](), Preparing()
    try:
        jobs.start(reading, done.append, TRAINING)
        with pytest.raises(EngineBusyError):
            jobs.submit_background(times_request(), heard.append)
        reading.may_end.set()
        qtbot.waitUntil(lambda: bool(done) and is_last(done[-1]), timeout=10_000)
        jobs.submit_background(times_request(), heard.append)
        with pytest.raises(EngineBusyError):
            jobs.submit_background(times_request(), heard.append)
        jobs.free()
        qtbot.waitUntil(lambda: any(map(is_last, heard)), timeout=10_000)
        assert isinstance(heard[-1], Cancelled)
        qtbot.waitUntil(lambda: engines() == 0, timeout=10_000)
    finally:
        jobs.close()
