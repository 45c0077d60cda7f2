"""How a widget follows a job, whatever its handlers do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from napari_prosma.jobs.boundary import JobName
from napari_prosma.jobs.run import Handlers, JobRun
from napari_prosma.jobs.spec import RequestSpec
from prosma_core.engine.messages import Cancelled, Failed, Finished, SegmentRequest, SegmentResult
from prosma_core.errors import EngineError
from prosma_core.events import StageStarted, TileDone

SPEC = RequestSpec(SegmentRequest(model="m"))
ENDS = [
    Finished(SegmentResult(voxels={}, seconds=1.0, device="CPU")),
    Failed(EngineError("It failed."), ""),
    Cancelled(),
]


class Noted(JobRun):
    """Notes what it is told; `raises` names what fails."""

    NAME = JobName("A test", "ProSMA Segment")

    def __init__(self, *raises: str) -> None:
        super().__init__()
        self.heard: list[str] = []
        self._raises = raises

    def note(self, what: str) -> None:
        self.heard.append(what)
        if what in self._raises:
            msg = "the view is broken"
            raise RuntimeError(msg)

    @property
    def handlers(self) -> Handlers:
        kinds = (TileDone, Finished, Failed, Cancelled)
        return {kind: lambda message: self.note(type(message).__name__) for kind in kinds}

    def show_error(self, reason: str, details: str) -> None:
        assert reason == "RuntimeError: the view is broken"
        assert "Traceback" in details
        self.note("error")

    def over(self) -> None:
        self.note("over")


@pytest.fixture
def begin(make_jobs: Callable[[], Any]) -> Callable[..., tuple[Noted, Any]]:
    """Return what starts a job whose handlers fail as named."""

    def start(*raises: str) -> tuple[Noted, Any]:
        run, jobs = Noted(*raises), make_jobs()
        run.start(jobs, SPEC)
        return run, jobs.jobs[0]

    return start


@pytest.mark.parametrize("end", ENDS)
def test_each_message_has_one_handler_and_the_end_is_told_once(begin: Callable[..., Any], end: Any) -> None:
    run, job = begin()
    for message in (StageStarted("dropped"), TileDone(1, 2), end, end, TileDone(2, 2)):
        job.say(message)
    assert run.heard == ["TileDone", type(end).__name__, "over"]
    assert job.spec is SPEC


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("raises", [("TileDone",), ("TileDone", "error")])
def test_progress_that_cannot_be_shown_cancels_and_nothing_more_is_handled(
    begin: Callable[..., Any], raises: tuple[str, ...], end: Any
) -> None:
    run, job = begin(*raises)
    job.say(TileDone(1, 2))
    assert job.cancelled
    assert run.heard == ["TileDone", "error"]
    job.say(TileDone(2, 2))
    job.say(end)
    assert run.heard == ["TileDone", "error", "over"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("error", [(), ("error",)])
def test_an_end_that_cannot_be_shown_is_an_end(begin: Callable[..., Any], error: tuple[str, ...], end: Any) -> None:
    run, job = begin(type(end).__name__, *error)
    job.say(end)
    assert not job.cancelled
    assert run.heard == [type(end).__name__, "error", "over"]


def test_what_fails_at_the_very_end_is_shown(begin: Callable[..., Any]) -> None:
    run, job = begin("over")
    job.say(Cancelled())
    assert run.heard == ["Cancelled", "over", "error"]


def test_of_an_abandoned_job_only_the_end_is_told(begin: Callable[..., Any]) -> None:
    run, job = begin()
    run.abandon()
    assert job.cancelled
    job.say(TileDone(1, 2))
    job.say(Cancelled())
    assert run.heard == ["over"]
