"""Next suggested slice: by a model, evenly spread without one, and what is closed, annotated or does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QPushButton

from napari_prosma.train.next_slice import ALL_ANNOTATED, SuggestSpec
from prosma_core.engine.messages import Failed, Finished, SuggestResult
from prosma_core.errors import ChannelError
from prosma_core.events import SlicesUnsure, TileDone


@pytest.fixture
def painted(widget: Any, annotated: Any) -> Any:
    """Slices 3 to 8 of 12 of a scan are annotated, and a model is chosen to start from."""
    _, labels = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    widget.controller.choose_start(widget.model("phantom-3d"))
    return labels


def ranked(*places: tuple[int, int], of: str = "organ") -> Finished:
    return Finished(SuggestResult(ranked=places, of=of, seconds=1.0, device="CPU"))


def shown(widget: Any) -> tuple[int, str]:
    return widget.viewer.dims.current_step[0], widget.text("suggestion")


def test_the_button_goes_where_the_model_is_unsure_and_then_to_the_next(
    widget: Any, painted: Any, qtbot: QtBot
) -> None:
    view = widget.view
    view.resize(360, 900)
    view.show()
    button = view.findChild(QPushButton, "next_slice")
    assert "phantom-3d" in button.toolTip()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    (job,) = widget.jobs.jobs
    assert isinstance(job.spec, SuggestSpec)
    ((scan, states),) = job.spec.scans
    assert (scan.name, states.annotated) == ("liver", (3, 4, 5, 6, 7, 8))
    assert widget.text("run") == "Cancel"
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    assert len(widget.jobs.jobs) == 1
    job.say(TileDone(1, 2))
    job.say(ranked((0, 10), (0, 1), (0, 9)))
    assert shown(widget) == (10, "Slice 10 (z): phantom-3d is unsure about organ there.")
    assert widget.text("run") == "Train"
    qtbot.waitUntil(lambda: widget.can_run)  # pairs are read anew after the move
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)  # nothing was annotated: the second of the same ranking
    assert len(widget.jobs.jobs) == 1
    assert shown(widget)[0] == 1
    widget.controller.slices.toggle()
    assert widget.text("suggestion") == ""  # it was followed
    widget.controller.next.go()
    assert len(widget.jobs.jobs) == 2  # ranked anew
    widget.start()
    assert widget.jobs.jobs[1].cancelled
    widget.jobs.jobs[1].end_cancelled()
    assert shown(widget) == (1, "")
    assert widget.text("run") == "Train"


def test_without_a_model_slices_that_hold_something_are_spread_evenly(widget: Any, annotated: Any) -> None:
    image, labels = annotated(widget.viewer)
    labels.data = np.zeros_like(labels.data)
    image.data[:8] = 0
    widget.controller.pairs.add_active()
    found = []
    for _ in range(3):
        widget.controller.next.go()
        found.append(shown(widget)[0])
        assert widget.text("suggestion") == f"Slice {found[-1]} (z): no model yet, evenly spread."
        widget.controller.slices.mark(labels, found[-1])
    assert found == [8, 10, 9]  # the middle of what is left that is not blank
    assert widget.jobs.jobs == []
    for index in set(range(12)) - {8, 9, 10}:
        widget.controller.slices.mark(labels, index)
    button = widget.view.findChild(QPushButton, "next_slice")
    assert (button.isEnabled(), button.toolTip()) == (False, ALL_ANNOTATED)


def test_for_the_only_slice_that_is_left_no_model_is_asked(widget: Any, painted: Any) -> None:
    for index in (0, 1, 2, 10, 11):
        widget.controller.slices.mark(painted, index)
    widget.controller.next.go()  # a large picture would take minutes
    assert shown(widget) == (9, "Slice 9 (z): the only one that is neither checked nor edited.")
    assert widget.jobs.jobs == []


def test_while_a_model_is_trained_it_is_not_asked(widget: Any, painted: Any) -> None:
    widget.start()
    button = widget.view.findChild(QPushButton, "next_slice")
    assert "in training" in button.toolTip()
    assert button.isEnabled()
    widget.controller.next.go()
    assert len(widget.jobs.jobs) == 1
    assert shown(widget) == (1, "Slice 1 (z): evenly spread, as the model is in training.")
    entropy = np.zeros((12, 3))
    entropy[11, 1] = 0.5
    widget.jobs.jobs[0].say(SlicesUnsure("z", tuple(map(tuple, entropy.tolist()))))
    widget.controller.next.go()
    assert shown(widget)[0] == 11
    assert "the model in training is unsure" in widget.text("suggestion")
    widget.controller.next.go()  # the second of the same ranking
    assert shown(widget)[0] in {0, 1, 10}
    widget.controller.slices.mark(painted, 11)
    widget.jobs.jobs[0].say(SlicesUnsure("x", ((0.0, 0.1, 0.1),) * 28))  # along another axis
    widget.controller.next.go()
    assert "evenly spread" in widget.text("suggestion")
    assert len(widget.jobs.jobs) == 1


def test_without_the_preview_what_it_said_last_counts_no_more(widget: Any, painted: Any) -> None:
    widget.start()
    unsure = SlicesUnsure("z", tuple((0.0, 0.5 * (i == 11), 0.0) for i in range(12)))
    widget.jobs.jobs[0].say(unsure)
    widget.view.preview_toggled.emit(False)
    widget.jobs.jobs[0].say(unsure)  # was on its way
    widget.controller.next.go()
    assert shown(widget) == (1, "Slice 1 (z): evenly spread, as the model is in training.")
    widget.view.preview_toggled.emit(True)
    widget.jobs.jobs[0].say(unsure)
    widget.controller.next.go()
    assert shown(widget)[0] == 11
    assert "the model in training is unsure" in widget.text("suggestion")


def test_of_several_open_scans_the_one_is_named_and_a_closed_one_is_passed_over(
    widget: Any, painted: Any, annotated: Any
) -> None:
    image, labels = annotated(widget.viewer, "spleen")
    widget.controller.pairs.add_active()
    widget.viewer.layers.selection.active = painted
    widget.controller.next.go()
    job = widget.jobs.jobs[-1]
    assert [scan.name for scan, _ in job.spec.scans] == ["liver", "spleen"]
    job.say(ranked((1, 11), (0, 0), (1, 1), of=""))
    assert shown(widget) == (11, "spleen, slice 11 (z): phantom-3d is unsure there.")
    assert widget.viewer.layers.selection.active is labels
    widget.controller.slices.toggle()
    widget.controller.next.go()
    widget.viewer.layers.remove(image)  # while the engine works
    widget.jobs.jobs[-1].say(ranked((1, 10), (0, 0)))
    assert shown(widget)[1] == "Slice 0 (z): phantom-3d is unsure about organ there."
    widget.controller.next.go()
    widget.viewer.layers.remove(painted)
    widget.jobs.jobs[-1].say(ranked((0, 9)))
    assert "add them as a pair" in widget.text("suggestion")
    assert not widget.view.findChild(QPushButton, "next_slice").isEnabled()


def test_a_model_that_does_not_fit_says_why_and_slices_are_spread_evenly(widget: Any, painted: Any) -> None:
    widget.controller.next.go()
    widget.jobs.jobs[-1].say(Failed(ChannelError("The model takes 3 channels, the scan has 1."), ""))
    assert "3 channels" in widget.text("error")
    assert shown(widget) == (1, "Slice 1 (z): evenly spread, as phantom-3d cannot segment this scan.")
    widget.jobs.busy = True
    widget.controller.next.go()
    assert "busy" in widget.text("error")


def test_the_request_holds_all_scans_and_a_failure_removes_their_copies(widget: Any, painted: Any) -> None:
    widget.controller.next.go()
    spec = widget.jobs.jobs[-1].spec
    made: list[Any] = []

    class Shelf:
        """Gives the first scan room, and no other."""

        def allocate(self, shape: Any, dtype: Any) -> Any:
            if made:
                raise MemoryError
            made.append(np.zeros(shape, dtype))
            return _Shared(made[0])

    refused = SuggestSpec(spec.model, spec.device, spec.scans * 2)
    with pytest.raises(MemoryError):
        for _ in refused.prepare(Shelf()):  # type: ignore[arg-type]
            pass
    np.testing.assert_array_equal(made[0], spec.scans[0][0].data)


class _Shared:
    def __init__(self, array: np.ndarray) -> None:
        from prosma_core.engine.messages import ArrayRef

        self.array = array
        self.ref = ArrayRef(path="nowhere", shape=array.shape, dtype=array.dtype.str)
