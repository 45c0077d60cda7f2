"""The test of Dask workers: what is shown of it when the choice changes meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtWidgets import QPushButton

from napari_prosma.scan import workers
from prosma_core.engine.messages import Cancelled, Failed, Finished, WorkersResult
from prosma_core.errors import ClusterError
from prosma_core.events import Working

if TYPE_CHECKING:
    from tests.plugin.segment.conftest import Widget


@pytest.fixture
def testing(widget: Widget, monkeypatch: pytest.MonkeyPatch) -> Widget:
    """Return a widget that tests an address."""
    monkeypatch.setattr(workers, "is_installed", lambda: True)
    widget.choose("phantom-3d")
    widget.controller.choose_workers(True)
    widget.controller.choose_address("tcp://old:1")
    widget.controller.test_or_stop()
    return widget


def shown(widget: Widget) -> tuple[str, bool, str]:
    """Text of the button, whether it can be clicked, and what was found."""
    found = widget.view.findChild(QPushButton, "workers_test")
    return found.text(), found.isEnabled(), widget.text("workers_found") + widget.text("workers_wrong")


@pytest.mark.parametrize(
    "last", [Cancelled(), Finished(WorkersResult(words="2 workers of tcp://old:1")), Failed(ClusterError("old"), "")]
)
@pytest.mark.parametrize(("address", "can_test"), [("", False), ("nowhere", False), ("tcp://new:1", True)])
def test_nothing_of_a_test_of_another_address_is_shown(
    address: str, can_test: bool, last: Any, testing: Widget
) -> None:
    job = testing.jobs.jobs[-1]
    assert shown(testing)[:2] == ("Stop test", True)
    testing.controller.choose_address(address)
    assert job.cancelled
    assert shown(testing) == ("Stopping…", False, "")
    job.say(Working("Checking the workers"))
    job.say(last)
    assert shown(testing) == ("Test", can_test, "")


def test_a_test_that_is_stopped_says_so_and_can_be_done_again(testing: Widget) -> None:
    testing.controller.test_or_stop()
    testing.jobs.jobs[-1].end_cancelled()
    assert shown(testing) == ("Test", True, "The test was stopped.")
    testing.controller.test_or_stop()
    testing.jobs.jobs[-1].say(Finished(WorkersResult(words="2 workers")))
    assert shown(testing) == ("Test", True, "Found: 2 workers")


def test_this_computer_is_chosen_while_workers_are_tested(testing: Widget) -> None:
    testing.controller.choose_workers(False)
    testing.jobs.jobs[-1].end_cancelled()
    assert shown(testing) == ("Test", False, "")
