"""The time of each preset is found out unasked, by an engine that gives way to everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pytestqt.qtbot import QtBot

from prosma_core.engine.messages import Cancelled, Failed, Finished, TimesResult
from prosma_core.errors import DeviceError

SECONDS = {"quick": 1600.0, "balanced": 22000.0, "best": 300000.0}
TIMES = "quick: about 27 min · balanced: about 6 h 7 min · best: about 3 days"


@pytest.fixture
def asked(widget: Any, annotated: Any, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Any]:
    """Add a pair, and return what waits for so many requests and gives the last one with its listener."""
    monkeypatch.setattr("napari_prosma.train.runtime_estimate.AFTER", 0.01)
    annotated(widget.viewer)
    widget.controller.choose_budget((None, None))

    def wait(count: int) -> Any:
        qtbot.waitUntil(lambda: len(widget.jobs.asides) == count)
        qtbot.wait(60)
        assert len(widget.jobs.asides) == count
        return widget.jobs.asides[-1] if count else None

    return wait


def test_nothing_is_said_while_there_is_nothing_to_train(widget: Any) -> None:
    assert widget.text("times") == ""


def test_the_times_of_all_presets_are_found_out_once(widget: Any, asked: Any) -> None:
    widget.controller.pairs.add_active()
    assert "Estimating" in widget.text("times")
    request, listener = asked(1)
    assert list(request.runs) == ["quick", "balanced", "best"]
    assert [run.preset for run in request.runs.values()] == list(request.runs)
    assert request.scans[0].shape == (12, 24, 28)
    assert request.num_classes == 2
    listener(Finished(TimesResult(seconds=SECONDS)))
    assert widget.text("times") == TIMES
    widget.controller.choose_preset("quick")
    widget.controller.choose_name("mine")
    widget.controller.choose_class(1, "liver", "#00ff00")
    asked(1)
    assert widget.text("times") == TIMES


def test_another_budget_takes_another_time_and_the_old_one_is_still_known(widget: Any, asked: Any) -> None:
    widget.controller.pairs.add_active()
    asked(1)[1](Finished(TimesResult(seconds=SECONDS)))
    widget.controller.choose_budget((None, 3.0))
    assert "Estimating" in widget.text("times")
    request, listener = asked(2)
    assert {run.training.minutes for run in request.runs.values()} == {3.0}
    widget.controller.choose_budget((None, None))
    assert widget.text("times") == TIMES
    listener(Finished(TimesResult(seconds=dict.fromkeys(SECONDS, 180.0))))
    assert widget.text("times") == TIMES
    widget.controller.choose_budget((None, 3.0))
    assert widget.text("times").startswith("Ends by the clock")
    asked(2)


@pytest.mark.parametrize("busy", ["busy", "aside_busy"])
def test_it_waits_until_the_engine_is_idle(widget: Any, asked: Any, busy: str) -> None:
    setattr(widget.jobs, busy, True)
    widget.controller.pairs.add_active()
    asked(0)
    setattr(widget.jobs, busy, False)
    asked(1)


def test_it_waits_where_a_person_freed_the_memory(widget: Any, asked: Any) -> None:
    widget.controller.pairs.add_active()
    asked(1)
    widget.controller.free_memory()
    widget.jobs.asides[-1][1](Cancelled())
    asked(1)
    widget.jobs.warm_up()
    asked(2)


def test_what_gave_way_is_asked_again(widget: Any, asked: Any) -> None:
    widget.controller.pairs.add_active()
    asked(1)[1](Cancelled())
    asked(2)[1](Finished(TimesResult(seconds=SECONDS)))
    assert widget.text("times") == TIMES


def test_where_it_fails_it_is_said_and_not_tried_again(widget: Any, asked: Any) -> None:
    widget.controller.pairs.add_active()
    asked(1)[1](Failed(DeviceError("Memory ran out."), ""))
    assert "estimate it below" in widget.text("times")
    assert widget.text("error") == ""
    asked(1)


def test_a_widget_that_is_gone_hears_of_nothing(widget: Any, asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    widget.controller.pairs.add_active()
    _, listener = asked(1)
    widget.controller.close()
    monkeypatch.setattr(widget.view, "show_preset", lambda *_: pytest.fail("The widget is gone."))
    listener(Finished(TimesResult(seconds=SECONDS)))
    listener(Cancelled())
    asked(1)
    widget.session.widget_opened()  # for the fixture, which closes again
