"""Labels that are painted while a training runs are handed to it, once strokes have stopped; nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_prosma.layers.slices import mark, slice_states
from napari_prosma.train.autosave import Saving
from napari_prosma.train.export_pairs import write_pairs
from napari_prosma.train.live import OFF, QUIET, LiveLabels
from napari_prosma.train.pairs import Pair
from napari_prosma.train.presenter import AbstractTrainView
from napari_prosma.train.sources import Source, layer_source
from prosma_core.engine.messages import ArrayReady, Cancelled, Failed, Finished, TrainResult
from prosma_core.errors import EngineError, OutputError
from prosma_core.events import LabelsTaken, PreviewDone
from prosma_core.io.bundle import find_model, load_bundle, save_bundle
from prosma_core.io.images import read_labels
from prosma_core.io.notes import noted_slices, read_notes


@pytest.fixture
def painting(tmp_path: Path, annotated: Any, jobs: Any, clock: Any, fake_view: Callable[[Any], Any]) -> SimpleNamespace:
    """Return two pairs of layers that are trained on, and what hands their labels over."""
    viewer = ViewerModel()
    layers = [annotated(viewer, name) for name in ("liver", "other")]
    pairs = [Pair(layer_source(image), layer_source(labels)) for image, labels in layers]
    found = SimpleNamespace(viewer=viewer, labels=[labels for _, labels in layers], view=fake_view(AbstractTrainView))
    found.files, found.jobs, found.clock, found.folder = [], jobs, clock, tmp_path / "m.prosma" / "data"
    found.job = jobs.start(None, lambda _: None)

    def write() -> None:
        work = write_pairs(pairs, found.folder)
        while True:
            try:
                next(work)
            except StopIteration as stop:
                found.files += stop.value
                return

    found.write = write
    found.live = LiveLabels(pairs, lambda: tuple(found.files), found.job, jobs, found.view, on=True)
    return found


def sent(painting: Any) -> list[tuple[str, bool, np.ndarray]]:
    """What was handed over: name of the label file, whether the training waits, and the labels."""
    return [
        (label.name, wait, np.asarray(read_labels(new).data))
        for changed, wait in painting.job.learned
        for label, new in changed.items()
    ]


def test_a_layer_that_was_painted_is_handed_over_when_strokes_stop(painting: Any) -> None:
    painting.write()
    labels = painting.labels[0]
    labels.data_setitem((np.array([1]), np.array([2]), np.array([3])), 1)
    labels.refresh()
    painting.clock.run(QUIET - 1)
    assert painting.job.learned == []  # a stroke may follow
    painting.clock.run(QUIET)
    ((name, wait, values),) = sent(painting)
    assert (name, wait) == (painting.files[0][1].name, True)
    np.testing.assert_array_equal(values, labels.data)
    labels.refresh()
    painting.labels[1].refresh()
    painting.clock.run(QUIET)
    assert len(painting.job.learned) == 1  # nothing has changed
    painting.live.taken(LabelsTaken(3, ("liver",)))
    assert painting.view.shown["show_live"] == (True, "Epoch 3: learns the new labels of liver.")


def test_a_move_of_the_slider_reads_and_saves_nothing(painting: Any, tmp_path: Path) -> None:
    painting.write()
    written: list[int] = []
    saving = Saving(painting.labels, lambda: written.append(1), tmp_path, painting.jobs, pytest.fail, unsaved=False)
    for point in (3, 4):
        painting.viewer.dims.set_point(0, point)
    assert not saving.unsaved
    assert painting.live.painted == []
    painting.labels[0].visible = False  # it tells of no refresh
    painting.viewer.dims.set_point(0, 5)
    assert [pair.labels.layer for pair, _ in painting.live.painted] == [painting.labels[0]]
    painting.labels[0].visible = True
    saving.unsaved = False
    painting.labels[0].data[4, 3, 3] = 1
    painting.labels[0].refresh()
    assert saving.unsaved
    assert [pair.labels.layer for pair, _ in painting.live.painted] == [painting.labels[0]]
    saving.end()
    assert len(written) == 1


def test_a_slice_that_is_marked_as_checked_is_handed_over_too(painting: Any) -> None:
    painting.write()
    labels = painting.labels[0]
    mark(labels, 0, slice_states(labels))
    painting.clock.run(QUIET)
    ((changed, _),) = painting.job.learned
    (new,) = changed.values()
    assert noted_slices(read_notes(new)).checked == (0,)
    labels.refresh()
    painting.clock.run(QUIET)
    assert len(painting.job.learned) == 1


def test_what_is_painted_before_the_training_is_there_waits_for_it(painting: Any) -> None:
    painting.labels[1].fill((0, 0, 0), 1)
    painting.clock._timers[-1].fire()  # once: no file is written yet
    assert painting.job.learned == []
    painting.write()
    painting.labels[1].data_setitem((np.array([1]), np.array([2]), np.array([3])), 2)
    painting.labels[1].refresh()
    painting.job.there = False
    painting.clock._timers[-1].fire()  # once: the engine has not been asked yet
    assert painting.job.learned == []
    painting.job.there = True
    painting.clock.run(QUIET)
    assert [name for name, _, _ in sent(painting)] == [painting.files[1][1].name]
    assert len(list((painting.folder / "changed").iterdir())) == 1


def test_undone_renamed_and_deleted_layers_are_as_good_as_others(painting: Any) -> None:
    painting.write()
    labels = painting.labels[0]
    before = labels.data.copy()
    labels.fill((1, 1, 1), 1)
    painting.clock.run(QUIET)
    labels.undo()
    labels.name = "renamed"
    painting.viewer.layers.clear()
    painting.clock.run(QUIET)
    assert [name for name, _, _ in sent(painting)] == [painting.files[0][1].name] * 2
    np.testing.assert_array_equal(sent(painting)[1][2], before)
    labels.fill((1, 1, 1), 1)
    painting.live.end()  # as when the viewer is closed
    painting.clock.run(QUIET)
    assert len(painting.job.learned) == 2
    assert not (painting.folder / "changed").exists()


def test_without_live_it_is_only_said_and_with_it_what_was_painted_follows(painting: Any) -> None:
    painting.write()
    painting.live.switch(False)
    painting.labels[0].refresh()
    painting.clock.run(QUIET)
    assert painting.view.shown["show_live"] == (False, "")
    painting.labels[0].fill((1, 1, 1), 1)
    painting.clock.run(QUIET)
    assert painting.view.shown["show_live"] == (False, OFF)
    assert list((painting.folder / "changed").iterdir()) == []
    assert painting.job.learned == []
    painting.live.switch(True)
    painting.clock.run(0)
    assert len(sent(painting)) == 1
    painting.live.switch(False)
    assert painting.job.learned[-1] == ({}, False)  # it need not wait for more


def test_labels_that_cannot_be_written_are_said_once_and_tried_again(
    painting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    painting.write()
    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            msg = "The disk is full."
            raise OutputError(msg)

        patch.setattr("napari_prosma.train.live.write_changed", full)
        painting.labels[0].fill((1, 1, 1), 1)
        painting.clock.run(QUIET)
        assert "The disk is full." in painting.view.shown["show_error"][0]
    painting.labels[1].refresh()
    painting.clock.run(QUIET)
    assert len(sent(painting)) == 1


def test_the_widget_learns_what_is_painted_and_keeps_the_preview(widget: Any, annotated: Any, qtbot: Any) -> None:
    image, labels = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    job.prepared()
    labels.fill((0, 0, 0), 1)
    qtbot.waitUntil(lambda: bool(job.learned), timeout=5000)
    ((changed, wait),) = job.learned
    assert wait
    assert all(label.exists() and new.exists() for label, new in changed.items())
    job.say(ArrayReady("preview", np.zeros(image.data.shape, np.uint8)))
    job.say(LabelsTaken(2, ("liver",)))
    job.say(PreviewDone(2, 90.0, 0.712, "training slices"))
    assert job.previews[-1] is not None  # however slow: somebody waits for it
    assert widget.text("preview_facts").endswith(", Dice 0.71 on training slices.")
    assert widget.text("live_facts") == "Epoch 2: learns the new labels of liver."
    widget.viewer.layers.remove(labels)
    job.say(Failed(EngineError("The engine was killed."), ""))
    assert widget.text("error") == "The engine was killed."
    assert widget.text("live_facts") == ""
    saved = list(widget.models.glob("*.prosma/annotations/*"))
    assert [int(np.asarray(read_labels(path).data)[0, 0, 0]) for path in saved] == [1]


def test_only_what_was_written_for_the_run_is_removed_at_its_end(painting: Any, tmp_path: Path) -> None:
    painting.write()
    own, kept = painting.folder / "changed", tmp_path / "mine" / "changed"
    for folder in (own, kept):
        folder.mkdir(parents=True)
        (folder / "labels.nii.gz").touch()
    files = ((tmp_path / "mine" / "images" / "a.nii.gz", tmp_path / "mine" / "labels" / "a.nii.gz"), painting.files[1])
    pairs = [Pair(Source(path=files[0][0]), Source(path=files[0][1])), painting.live._pairs[1]]
    live = LiveLabels(pairs, lambda: files, painting.job, painting.jobs, painting.view, on=True)
    live.used = True
    live.end()
    assert (kept / "labels.nii.gz").is_file()
    assert not own.exists()


def test_pairs_that_are_added_meanwhile_are_for_the_next_training(widget: Any, annotated: Any) -> None:
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    job.prepared()
    assert widget.text("live_facts") == ""
    for name in ("spleen", "kidney", "lung", "heart"):
        annotated(widget.viewer, name)
        widget.controller.pairs.add_active()
    later = "For the next training: spleen labels, kidney labels, lung labels and 1 more."
    assert widget.text("live_facts") == later
    job.say(LabelsTaken(2, ("liver",)))
    assert widget.text("live_facts") == f"Epoch 2: learns the new labels of liver. {later}"
    widget.controller._pairs.remove([1, 2, 3, 4])
    assert widget.text("live_facts") == "Epoch 2: learns the new labels of liver."
    annotated(widget.viewer, "spleen")
    widget.controller.pairs.add_active()
    job.say(Cancelled())
    assert widget.text("live_facts") == ""


def test_a_scan_of_a_series_that_was_closed_is_not_for_the_next_training(painting: Any) -> None:
    first, second = painting.live._pairs
    closed = Pair(Source(path=Path("liver.nii.gz"), title=first.image.name), Source(path=Path("liver_labels.nii.gz")))
    again = Pair(second.image, second.labels)
    painting.live.listed([closed, again])
    assert painting.live._later == ""


@pytest.mark.parametrize("late", [True, False])
def test_what_was_painted_too_late_for_the_model_is_said(widget: Any, annotated: Any, *, late: bool) -> None:
    _, labels = annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    job.prepared()
    widget.viewer.dims.set_point(0, 3)  # nothing is painted by that
    if late:
        labels.fill((0, 0, 0), 1)
    model = widget.models / "m.safetensors"
    header, weights = load_bundle(find_model("phantom-3d"))
    save_bundle(model, header.replace(name="m"), weights)
    figures = {"dice": {}, "mean_dice": None, "before": None, "words": "", "held_out": ""}
    job.say(Finished(TrainResult(model=str(model), seconds=1.0, device="CPU", **figures)))
    words = "Not in this model: what was painted last in liver labels. Train again to learn it."
    assert (words in widget.text("status")) == late


def test_whether_it_learns_is_remembered(widget: Any, annotated: Any) -> None:
    widget.view.live_toggled.emit(False)
    assert widget.session.recall("live") is False
    annotated(widget.viewer)
    widget.controller.pairs.add_active()
    job = widget.start()
    job.prepared()
    widget.view.live_toggled.emit(True)
    assert job.learned == []
    job.say(Cancelled())
