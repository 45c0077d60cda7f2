"""The controllers, driven through views that are nothing but their Protocols, in a process that has no Qt."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
import PIL.Image
import pytest
from napari.components import ViewerModel
from napari.layers import Labels, Layer

from napari_prosma._reader import image_layer_data
from napari_prosma._sample_data import SAMPLES
from napari_prosma.gates.controller import AbstractGatesView, GatesController
from napari_prosma.jobs import session
from napari_prosma.jobs.session import Session
from napari_prosma.layers.results import editable_copy, labels_layer
from napari_prosma.layers.scan import read
from napari_prosma.layers.slices import slice_states
from napari_prosma.layers.source import Source
from napari_prosma.scan import workers
from napari_prosma.segment.controller import AbstractSegmentView, SegmentController
from napari_prosma.train.controller import TrainController
from napari_prosma.train.presenter import AbstractTrainView
from napari_prosma.train.training_manager import NOT_LIVE
from prosma_core.config.inference import InferenceConfig
from prosma_core.config.inspection import Inspection, LevelSummary, MapInfo
from prosma_core.config.model import ClassInfo
from prosma_core.data.geometry import array_spec
from prosma_core.engine.messages import (
    Failed,
    Finished,
    Ready,
    SegmentRequest,
    SegmentResult,
    TrainResult,
    WorkersResult,
)
from prosma_core.errors import ClusterError, DeviceError
from prosma_core.events import EpochDone, LevelStats, StepDone, TileDone, Working

NO_QT = ("qtpy", "PyQt5", "PyQt6", "PySide2", "PySide6")
RUN = f"""
import sys
import pytest

class NoQt:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {NO_QT!r}:
            raise ModuleNotFoundError(f"no {{name}} here")

sys.meta_path.insert(0, NoQt())
code = pytest.main([*sys.argv[1:], "-q", "-p", "pytest_timeout", "-p", "no:cacheprovider", "-k", "not in_a_process"])
print("Qt:", [name for name in sys.modules if name in {NO_QT!r}])
sys.exit(code)
"""

Made = Callable[[Any, Any], Any]


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def make(
    viewer: ViewerModel, jobs: Any, fake_view: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Made]:
    """Return what makes a controller with a view of its Protocol."""
    monkeypatch.setattr(session, "EARLY", 3600.0)  # what is imported ahead of a window needs one
    made: list[Any] = []

    def make(controller: Any, protocol: Any) -> Any:
        made.append(controller(viewer, fake_view(protocol), Session(tmp_path, jobs)))
        return made[-1]

    yield make
    for controller in made:
        controller.close()


@pytest.fixture
def segment(make: Made) -> Any:
    return make(SegmentController, AbstractSegmentView)


@pytest.fixture
def gates(make: Made) -> Any:
    return make(GatesController, AbstractGatesView)


@pytest.fixture
def train(make: Made) -> Any:
    return make(TrainController, AbstractTrainView)


@pytest.fixture
def open_scan(viewer: ViewerModel, rng: np.random.Generator) -> Callable[[], Any]:
    """Return what opens a scan in the viewer."""
    scan = rng.normal(100, 20, (12, 40, 44)).astype(np.float32)
    return lambda: viewer.add_image(scan, name="mri", scale=(3, 1, 1), units=("mm",) * 3)


@pytest.fixture
def result(viewer: ViewerModel, open_scan: Callable[[], Any]) -> tuple[Any, Labels]:
    """A scan, and the corrected copy of a model's result on it, which is selected."""
    image = open_scan()
    made = np.zeros(image.data.shape, np.uint8)
    made[3:9, 10:20, 10:20] = 1
    classes = (ClassInfo(value=0, name="background"), ClassInfo(value=1, name="organ"))
    notes = {"program": "prosma", "model": "phantom-3d"}
    copy = editable_copy(labels_layer(read(image), made, classes, "organ", notes))
    viewer.add_layer(copy)
    viewer.layers.selection = {image, copy}
    return image, copy


def choose(controller: Any) -> None:
    """Choose the phantom's model, as a person does."""
    controller.view.model_chosen.emit(models_in(controller.view.shown["show_models"][0])["phantom-3d"])


def models_in(groups: Any) -> dict[str, Any]:
    return {row.name: row.value for _, rows in groups for row in rows}


def chosen(controller: Any) -> str:
    """Name of the model that is shown as chosen, empty for none."""
    model = controller.view.shown["show_models"][1]
    return model.header.name if model is not None else ""


PICTURES = {"breast_386": "breast-lesion-us", "nerve_0178": "nerve-us", "nuclei_4e1c889d": "nuclei-fluorescence"}
"""Gray pictures that do not say what they show, and the models that are for them."""


def open_picture(viewer: ViewerModel, name: str, file: Path) -> None:
    """Open one of `PICTURES` as from a file of another program, which does not tell what it shows."""
    with PIL.Image.open(SAMPLES / f"{name}.png") as picture:
        gray = np.asarray(picture.convert("L"))
    pixels = gray if file.stem == "first" else gray[:, ::-1]
    layer = image_layer_data(pixels, replace(array_spec(pixels.shape, "yx"), format="png"), name, file)
    viewer.add_layer(Layer.create(*layer))


@pytest.mark.parametrize("order", [list(PICTURES), list(PICTURES)[::-1]])
def test_a_model_that_was_used_before_is_chosen_for_pictures_of_its_folder_alone(
    order: list[str], segment: Any, viewer: ViewerModel, tmp_path: Path
) -> None:
    for name in order:
        open_picture(viewer, name, tmp_path / name / "first.png")
        assert chosen(segment) == ""  # what was used for other pictures of this kind says nothing
        segment.view.model_chosen.emit(models_in(segment.view.shown["show_models"][0])[PICTURES[name]])
    for name in order:
        viewer.layers.clear()
        open_picture(viewer, name, tmp_path / name / "second.png")
        assert chosen(segment) == PICTURES[name]
    viewer.add_image(np.full((200, 300), 7, np.uint8))  # looks like none of them
    assert chosen(segment) == ""


def enabled(controller: Any) -> bool:
    return bool(controller.view.shown["show_run"][1])


def labels_in(viewer: ViewerModel) -> list[Any]:
    return [layer for layer in viewer.layers if isinstance(layer, Labels)]


def test_segment_from_the_scan_to_its_result(
    segment: Any, jobs: Any, viewer: ViewerModel, open_scan: Callable[[], Any]
) -> None:
    view = segment.view
    assert view.shown["show_problem"][0] == "image"
    assert not enabled(segment)
    layer = open_scan()
    assert view.shown["show_images"] == ([("mri", layer)], layer)
    assert view.shown["show_axes"][0] == "zyx"
    assert view.shown["show_train"] == (True,)
    choose(segment)
    assert view.shown["show_train"] == (False,)
    assert "on real scans its labels mean nothing" in view.shown["show_fit"][1]
    assert (view.shown["show_problem"], enabled(segment)) == ((None, ""), True)
    view.run_clicked.emit()
    (job,) = jobs.jobs
    assert isinstance(job.request, SegmentRequest)
    assert (view.shown["show_running"], view.shown["show_run"][0]) == ((True,), "Cancel")
    job.give_labels()
    job.say(Working("Reading the scan"))
    assert view.shown["show_progress"] == (0, 0, "Reading the scan")
    job.say(TileDone(1, 4))
    assert view.shown["show_progress"][:2] == (1, 4)
    job.say(TileDone(2, 400, 0.25, 90.0))
    assert view.shown["show_progress"] == (250, 1000, "Segmenting: 25 %, about 2 min left")
    job.say(Finished(SegmentResult(voxels={"organ": 7}, seconds=2.0, device="CPU")))
    (labels,) = labels_in(viewer)
    name, (row, *_), heading, nothing, counted = view.result.shown["show_result"]
    assert (name, row.voxels, heading, nothing, counted) == (labels.name, 7, "Volume (mL)", "", "Voxels")
    assert (view.shown["show_running"], view.shown["show_run"][0]) == ((False,), "Segment")
    viewer.layers.remove(labels)
    assert segment.last is None
    assert "hide" in view.result.shown


def test_what_a_closed_scan_or_a_running_inspection_keeps_from_being_done_is_said(
    segment: Any, gates: Any, train: Any, jobs: Any, viewer: ViewerModel, open_scan: Callable[[], Any]
) -> None:
    assert segment.start_or_cancel() == segment.view.shown["show_problem"][1] != ""
    assert train.start_or_stop() == train.view.shown["show_problem"][1] != ""
    assert train.slices.toggle() == train.view.shown["show_error"][0] != ""
    assert train.next.go() == train.view.shown["show_suggestion"][0] != ""
    scan, other = open_scan(), open_scan()
    segment.choose_image(scan)
    choose(segment)
    assert segment.start_or_cancel() == ""
    jobs.jobs[-1].give_labels()
    jobs.jobs[-1].say(Finished(SegmentResult(voxels={"organ": 7}, seconds=2.0, device="CPU")))
    panel = segment.view.result
    assert panel.shown["show_scan_open"] == (True,)
    viewer.layers.remove(scan)
    assert panel.shown["show_scan_open"] == (False,)
    choose(gates)
    gates.view.run_clicked.emit()
    gates.inspect_layer(scan, segment.last.plan.model)
    assert gates.view.shown["show_error"][0].startswith(f"An inspection is running: {scan.name} was not chosen.")
    assert gates._layer is other


def test_a_pair_that_is_there_or_closed_is_no_failure(train: Any, viewer: ViewerModel, result: Any) -> None:
    view, (image, copy) = train.view, result
    view.add_active_clicked.emit()
    view.add_active_clicked.emit()
    assert view.shown["show_error"] == ("", False)
    assert view.shown["show_messages"] == (("This pair is in the list already.",),)
    view.shown.pop("show_messages")
    train.pairs.add_layers(image, copy)  # as Segment does when it goes back to the copy
    assert "show_messages" not in view.shown
    viewer.layers.remove(copy)
    assert view.shown["show_error"] == ("", False)
    assert "its pair stays" in view.shown["show_messages"][0][0]
    view.remove_clicked.emit([0])
    assert view.shown["show_messages"] == ((),)


def test_segment_is_cancelled_fails_and_finds_no_device(
    segment: Any, jobs: Any, viewer: ViewerModel, open_scan: Callable[[], Any]
) -> None:
    view = segment.view
    open_scan()
    choose(segment)
    view.run_clicked.emit()
    view.run_clicked.emit()
    assert jobs.jobs[-1].cancelled
    assert view.shown["show_run"][:2] == ("Canceling…", False)
    jobs.jobs[-1].end_cancelled()
    assert (view.shown["show_messages"], enabled(segment)) == ((["Canceled."],), True)
    view.run_clicked.emit()
    jobs.jobs[-1].say(Failed(DeviceError("no memory"), "log"))
    assert view.shown["show_error"] == ("no memory", True)
    assert labels_in(viewer) == []
    view.device_chosen.emit("cuda")
    jobs.started.emit(Ready(version="1", torch="2", devices={"auto": "CPU"}, why_not={"cuda": "no driver"}))
    assert view.shown["show_problem"] == ("device", "no driver")


def fields_of(controller: Any) -> Any:
    return controller.view.workers


@pytest.mark.parametrize("widget", ["segment", "gates"])
def test_dask_workers_are_chosen_tested_and_asked_for(
    widget: str, request: pytest.FixtureRequest, jobs: Any, open_scan: Callable[[], Any], tmp_path: Path
) -> None:
    controller = request.getfixturevalue(widget)
    view, fields = controller.view, fields_of(controller)
    open_scan()
    fields.test_clicked.emit()
    assert fields.shown["show_found"][0].startswith("Choose a model first")
    choose(controller)
    assert fields.shown["show_place"] == (False, "")
    fields.place_chosen.emit(True)
    assert view.shown["show_problem"][0] == "workers"
    assert view.shown["show_problem"][1].startswith("Enter where the workers are")
    assert fields.shown["show_test"] == ("Test", False)
    fields.address_chosen.emit("nowhere")
    assert view.shown["show_problem"][1].startswith("'nowhere' is no place to compute on: give local")
    fields.address_chosen.emit("tcp://h:8786")
    assert (view.shown["show_problem"], enabled(controller)) == ((None, ""), True)
    assert fields.shown["show_test"] == ("Test", True)
    assert jobs.jobs == []  # nothing is contacted unasked
    fields.test_clicked.emit()
    (test,) = jobs.jobs
    assert (test.spec.on, test.spec.model.stem, test.spec.device) == ("tcp://h:8786", "phantom-3d", "auto")
    assert fields.shown["show_test"] == ("Stop test", True)
    test.say(Working("Checking the workers"))
    assert fields.shown["show_found"] == ("Checking the workers…", False)
    test.say(Finished(WorkersResult(words="2 workers.")))
    assert fields.shown["show_found"] == ("Found: 2 workers.", False)
    assert fields.shown["show_test"] == ("Test", True)
    fields.test_clicked.emit()
    jobs.jobs[-1].say(Failed(ClusterError("No Dask scheduler answers."), ""))
    assert fields.shown["show_found"] == ("No Dask scheduler answers.", True)
    fields.test_clicked.emit()
    fields.test_clicked.emit()
    assert jobs.jobs[-1].cancelled
    jobs.jobs[-1].end_cancelled()
    assert fields.shown["show_found"] == ("The test was stopped.", False)
    jobs.busy = True
    fields.test_clicked.emit()
    assert fields.shown["show_found"] == ("The engine is busy.", True)
    jobs.busy = False
    fields.test_clicked.emit()
    view.run_clicked.emit()  # the test gives way
    assert jobs.jobs[-2].cancelled
    assert jobs.jobs[-1].request.on == "tcp://h:8786"


def test_the_address_is_remembered_and_this_computer_computes_until_workers_are_chosen(
    segment: Any, make: Made, jobs: Any, open_scan: Callable[[], Any]
) -> None:
    open_scan()
    choose(segment)
    fields_of(segment).place_chosen.emit(True)
    fields_of(segment).address_chosen.emit("local:2")
    again = make(GatesController, AbstractGatesView)
    assert fields_of(again).shown["show_place"] == (False, "local:2")
    fields_of(segment).place_chosen.emit(False)
    segment.view.run_clicked.emit()
    assert jobs.jobs[-1].request.on == ""
    jobs.jobs[-1].end_cancelled()
    segment.session.remember("workers_address", ["damaged"])
    assert fields_of(make(GatesController, AbstractGatesView)).shown["show_place"] == (False, "")


def test_a_test_of_workers_names_the_file_of_the_scan_and_says_what_it_cannot_show(
    segment: Any, jobs: Any, open_scan: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_scan()
    choose(segment)
    fields_of(segment).place_chosen.emit(True)
    fields_of(segment).address_chosen.emit("local")
    fields_of(segment).test_clicked.emit()
    engine = SimpleNamespace(disk_folder=lambda: tmp_path, array_folder=lambda: tmp_path / "shared")

    def prepared() -> Any:
        work = jobs.jobs[-1].spec.prepare(engine)
        assert next(work) == "Starting"
        with pytest.raises(StopIteration) as end:
            next(work)
        return end.value.value

    asked = prepared()
    assert (asked.on, asked.file, asked.folder, asked.copies) == ("local", "", "", str(tmp_path / "shared"))
    scan = jobs.jobs[-1].spec.scan
    assert asked.size == scan.data.nbytes
    large = replace(scan, data=da.from_array(scan.data))
    jobs.jobs[-1].spec = replace(jobs.jobs[-1].spec, scan=large)
    monkeypatch.setattr(workers, "is_large", lambda _: True)
    asked = prepared()
    assert (asked.file, asked.folder, asked.copies) == ("", str(tmp_path / "results"), str(tmp_path))
    monkeypatch.setattr(workers, "source_of", lambda _: Source(tmp_path / "scan.zarr"))
    asked = prepared()
    assert (asked.file, asked.folder, asked.copies) == (str(tmp_path / "scan.zarr"), str(tmp_path / "results"), "")
    jobs.jobs[-1].spec = replace(jobs.jobs[-1].spec, stores=False)
    assert prepared().folder == ""
    jobs.jobs[-1].say(Finished(SegmentResult(voxels={}, seconds=1.0, device="CPU")))  # not what was asked for
    assert fields_of(segment).shown["show_found"][1]
    assert fields_of(segment).shown["show_found"][0].startswith("What was found could not be shown: AssertionError")


@pytest.mark.parametrize("widget", ["segment", "gates"])
def test_what_a_test_of_workers_found_goes_with_its_scan(
    widget: str, request: pytest.FixtureRequest, jobs: Any, open_scan: Callable[[], Any]
) -> None:
    controller = request.getfixturevalue(widget)
    open_scan()
    choose(controller)
    fields = fields_of(controller)
    fields.place_chosen.emit(True)
    fields.address_chosen.emit("tcp://h:8786")
    fields.test_clicked.emit()
    assert jobs.jobs[-1].spec.stores is (widget == "segment")
    jobs.jobs[-1].say(Failed(ClusterError("The worker does not see it, and this one has 5.0 GiB."), ""))
    assert fields.shown["show_found"][1]
    open_scan()
    assert fields.shown["show_found"] == ("", False)
    assert fields.shown["show_test"] == ("Test", True)


def test_without_dask_the_choice_says_how_to_install_it(
    segment: Any, open_scan: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda _: None)
    open_scan()
    choose(segment)
    fields_of(segment).place_chosen.emit(True)
    fields_of(segment).address_chosen.emit("local")
    assert segment.view.shown["show_problem"] == ("workers", workers.NOT_INSTALLED)
    assert 'pip install "napari-prosma[cluster]"' in workers.NOT_INSTALLED
    assert fields_of(segment).shown["show_test"] == ("Test", False)


def test_settings_of_segment_are_in_the_request_and_remembered(
    segment: Any, make: Made, jobs: Any, open_scan: Callable[[], Any]
) -> None:
    view = segment.view
    open_scan()
    choose(segment)
    view.advanced.options_changed.emit(InferenceConfig(overlap=0.25))
    view.advanced.part.part_chosen.emit("slice")
    view.advanced.name_chosen.emit("mine")
    view.run_clicked.emit()
    config = jobs.jobs[-1].request.config
    assert (config.overlap, config.region) == (0.25, ((5, 6), (0, 40), (0, 44)))
    assert segment.run.plan.result_name == "mine"
    again = make(SegmentController, AbstractSegmentView)
    assert again.view.advanced.shown["show_options"][0].overlap == 0.25


def found() -> tuple[Inspection, dict[str, np.ndarray]]:
    """What an inspection of one level found."""
    kept = np.zeros((2, 12, 40, 44), bool)
    kept[0] = True
    level = LevelSummary(
        level=0, shape=(12, 40, 44), channels=2, removed=0.5, energy=0.4, threshold=0.3, thresholds=(0.2, 0.4)
    )
    maps = [("removed", "zyx", kept.mean(axis=0, dtype=np.float16)), ("kept", "czyx", kept)]
    where: dict[str, Any] = {"level": 0, "scale": (1, 1, 1), "offset": (0, 0, 0)}
    infos = tuple(MapInfo(name=kind, kind=kind, axes=axes, **where) for kind, axes, _ in maps)  # type: ignore[arg-type]
    return Inspection(gate="prosma", form="signed", levels=(level,), maps=infos), {kind: data for kind, _, data in maps}


def test_gates_from_the_scan_to_maps_a_voxel_and_what_if(
    gates: Any, jobs: Any, clock: Any, viewer: ViewerModel, open_scan: Callable[[], Any]
) -> None:
    view, panel = gates.view, gates.view.result
    open_scan()
    choose(gates)
    assert enabled(gates)
    view.run_clicked.emit()
    jobs.jobs[-1].answer(*found(), "words")
    jobs.jobs[-1].reply((), changed=9)
    assert view.shown["show_messages"][0][0] == "words"
    assert "this level" in panel.levels.shown["show_headline"][0]
    assert panel.levels.shown["show_levels"][2] == 0
    assert panel.plots.shown["show_level"][2] == 0
    clock.run(10)
    assert [layer.name for layer in viewer.layers[1:]] == ["Gates: level 0 removed"]
    panel.plots.channel_clicked.emit(1)
    clock.run(10)
    assert [layer.name for layer in viewer.layers[1:]] == ["Gates: level 0 kept or removed"]
    assert panel.plots.shown["show_level"][2] == 1
    gates.shown_result.picker.pick((1.0, 3.0, 5.0, 6.0))
    assert panel.voxel.shown["show_voxel"][0] == "Voxel z 1, y 5, x 6. Level 0: 1 of 2 channels kept"
    panel.what_if.threshold_chosen.emit(0, 2.0)
    assert panel.what_if.shown["say"] == ("Segmenting with level 0: threshold × 2…",)
    jobs.jobs[-1].reply((12, 40, 44), changed=3)
    assert panel.what_if.shown["show_changes"][1].changed == 3
    panel.remove_clicked.emit()
    clock.run(10)
    assert "hide" in panel.shown
    assert [layer.name for layer in viewer.layers] == ["mri"]


def test_the_time_that_is_said_counts_from_the_click(
    segment: Any,
    gates: Any,
    train: Any,
    jobs: Any,
    clock: Any,
    result: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    image, copy = result
    for controller in (segment, gates):
        controller.choose_image(image)
        choose(controller)

    def later(click: Any, answer: Callable[[Any], object]) -> None:
        click.emit()
        now[0] += 8  # the engine is started, it gets the scan, and says itself that it took 2 s
        answer(jobs.jobs[-1])

    done = SegmentResult(voxels={"organ": 7}, seconds=2.0, device="CPU (8 threads)")
    later(segment.view.run_clicked, lambda job: (job.give_labels(), job.say(Finished(done))))
    assert segment.view.shown["show_messages"][0][-1] == "Done in 8 s on CPU."
    later(gates.view.run_clicked, lambda job: job.answer(*found()))
    assert gates.view.shown["show_messages"][0][-1] == "Done in 8 s on CPU."
    now[0] += 5
    jobs.jobs[-1].reply((), changed=9)
    assert gates.view.shown["show_messages"][0][-1] == "Levels ranked in 5 s."
    panel = gates.view.result.what_if
    panel.threshold_chosen.emit(0, 2.0)
    now[0] += 1.5
    jobs.jobs[-1].reply((12, 40, 44), changed=3)
    assert panel.shown["show_changes"][0].endswith("3 voxels are of another class (1.5 s).")
    train.view.add_active_clicked.emit()
    train.slices.mark(copy, 5)
    clock.run()
    model = str(models_in(train.view.shown["show_starts"][0])["phantom-3d"].path)
    dice: dict[str, Any] = {"dice": {"organ": 0.8}, "mean_dice": 0.8, "words": "", "held_out": ""}
    trained = TrainResult(model=model, seconds=2.0, device="CPU", **dice)
    later(train.view.run_clicked, lambda job: job.say(Finished(trained)))
    assert train.view.shown["show_messages"][0][-1] == "Done in 8 s on CPU."


def test_while_another_job_has_the_engine_a_click_changes_nothing(
    segment: Any, gates: Any, train: Any, jobs: Any, clock: Any, viewer: ViewerModel, open_scan: Callable[[], Any]
) -> None:
    image = open_scan()
    choose(segment)
    choose(gates)
    viewer.layers.selection = {image, viewer.add_labels(np.ones((12, 40, 44), np.uint8), name="organ", scale=(3, 1, 1))}
    train.view.add_active_clicked.emit()
    gates.view.run_clicked.emit()
    jobs.jobs[-1].answer(*found())
    jobs.jobs[-1].reply((), changed=9)
    clock.run(10)
    given, there, panel = list(jobs.jobs), list(viewer.layers), gates.view.result
    panel.what_if.threshold_chosen.emit(0, 2.0)
    what_if = jobs.jobs[-1]
    jobs.busy = True
    for controller in (segment, gates, train):
        view = controller.view
        view.shown.pop("show_run")
        view.run_clicked.emit()
        assert view.shown["show_error"] == ("The engine is busy.", False)
        assert view.shown.get("show_run", ("",))[0] != "Cancel"
        view.free_clicked.emit()
        assert view.shown["show_error"] == ("Nothing was unloaded. The engine is busy.", False)
    assert "hide_outcome" not in train.view.shown
    assert not what_if.cancelled, "what was asked before is still answered"
    what_if.reply((12, 40, 44), changed=3)
    panel.what_if.threshold_chosen.emit(0, 3.0)
    assert panel.what_if.shown["say"] == ("There is no answer: The engine is busy.",)
    panel.ranking_clicked.emit()
    assert panel.levels.shown["show_headline"] == ("The levels were not ranked. The engine is busy.",)
    assert (jobs.jobs[:-1], jobs.freed) == (given, False)
    assert list(viewer.layers)[: len(there)] == there
    jobs.busy = False
    segment.view.free_clicked.emit()
    assert jobs.freed


def test_values_of_a_picture_are_pixels(
    segment: Any, gates: Any, train: Any, jobs: Any, clock: Any, viewer: ViewerModel
) -> None:
    picture = viewer.add_image(np.random.default_rng(0).integers(0, 255, (40, 44), np.uint8), name="photo")
    assert segment.view.shown["show_axes"][2] == "y 40 · x 44; pixel size unknown"
    model = models_in(gates.view.shown["show_models"][0])["breast-lesion-us"]
    gates.view.model_chosen.emit(model)
    gates.view.run_clicked.emit()
    level = LevelSummary(level=0, shape=(40, 44), channels=2, removed=0.5, energy=0.4, threshold=0.3)
    kept = np.ones((2, 40, 44), bool)
    info = MapInfo(name="kept", kind="kept", axes="cyx", level=0, scale=(1, 1), offset=(0, 0))
    jobs.jobs[-1].answer(Inspection(gate="prosma", form="signed", levels=(level,), maps=(info,)), {"kept": kept})
    voxel = gates.view.result.voxel
    assert voxel.shown["show_hint"] == ("Tick Probe and click a pixel of the scan in the viewer (2D view, pan tool).",)
    gates.shown_result.picker.pick((5.0, 6.0))
    assert voxel.shown["show_voxel"][0] == "Pixel y 5, x 6. Level 0: 2 of 2 channels kept"
    viewer.dims.ndisplay = 3
    gates.shown_result.picker.pick((5.0, 6.0))
    assert voxel.shown["show_hint"] == ("In 3D view a click names no pixel. Turn to the 2D view.",)
    viewer.dims.ndisplay = 2
    viewer.layers.selection = {picture, viewer.add_labels(np.ones((40, 44), np.uint8))}
    train.view.add_active_clicked.emit()
    assert train.view.shown["show_pairs"][0][0].facts == "1 class, 100 % of pixels"


@pytest.mark.parametrize("job", ["segment", "gates", "train", "next"])
def test_a_second_click_while_a_job_begins_is_none(
    job: str, request: pytest.FixtureRequest, jobs: Any, clock: Any, viewer: ViewerModel, result: Any
) -> None:
    controller = request.getfixturevalue("train" if job == "next" else job)
    view = controller.view
    if job in ("train", "next"):
        view.add_active_clicked.emit()
        controller.slices.mark(result[1], 5)
        clock.run()
        if job == "next":
            view.start_chosen.emit(models_in(view.shown["show_starts"][0])["phantom-3d"])
    else:
        choose(controller)
        part = view.part if job == "gates" else view.advanced.part
        part.part_chosen.emit("slice")
    make_activity, button = view.begin_activity, view.next_clicked if job == "next" else view.run_clicked

    def begin_activity(*args: Any) -> Any:  # napari's progress bars let the event loop run when they are made
        button.emit()
        view.run_clicked.emit()
        viewer.dims.set_point(0, 9)
        return make_activity(*args)

    view.begin_activity = begin_activity
    button.emit()
    assert len(jobs.jobs) == 1
    assert not jobs.jobs[0].cancelled
    assert view.shown["show_error"] == ("", False)
    assert view.shown["show_run"][0] in ("Cancel", "Stop")


@pytest.mark.parametrize("job", ["segment", "gates", "train", "next", "estimate"])
def test_the_log_is_that_of_the_failure_that_is_shown(
    job: str, request: pytest.FixtureRequest, jobs: Any, clock: Any, result: Any
) -> None:
    controller = request.getfixturevalue(job if job in ("segment", "gates") else "train")
    view = controller.view
    if job in ("segment", "gates"):
        choose(controller)
    else:
        view.add_active_clicked.emit()
        controller.slices.mark(result[1], 5)
        clock.run()
        view.start_chosen.emit(models_in(view.shown["show_starts"][0])["phantom-3d"])
    view.run_clicked.emit()
    jobs.jobs[-1].say(Failed(DeviceError("no memory"), "first log"))
    assert (view.shown["show_error"], controller.details()) == (("no memory", True), "first log")
    signal = {"next": "next_clicked", "estimate": "estimate_clicked"}.get(job, "run_clicked")
    getattr(view, signal).emit()
    assert view.shown["show_error"] == ("", False)
    jobs.jobs[-1].say(Failed(DeviceError("no device"), "second log"))
    assert (view.shown["show_error"], controller.details()) == (("no device", True), "second log")
    getattr(view, signal).emit()
    jobs.jobs[-1].say(Failed(DeviceError("no words"), ""))
    assert (view.shown["show_error"], controller.details()) == (("no words", False), "the log")
    getattr(view, signal).emit()
    view.show_progress = lambda *_: 1 / 0
    jobs.jobs[-1].say(Working("Reading the scan"))
    assert view.shown["show_error"][1]
    assert "ZeroDivisionError" in view.shown["show_error"][0]
    assert "Traceback" in controller.details(), "before the engine has stopped"


def test_gates_are_inspected_at_the_levels_that_are_ticked(gates: Any, jobs: Any, open_scan: Callable[[], Any]) -> None:
    view = gates.view
    open_scan()
    choose(gates)
    facts, _ = view.levels.shown["show_levels"]
    view.levels.levels_chosen.emit(frozenset(fact.level for fact in facts))
    assert (view.shown["show_problem"][0], enabled(gates)) == ("levels", False)
    view.levels.levels_chosen.emit(frozenset({facts[0].level}))
    view.run_clicked.emit()
    assert facts[0].level not in jobs.jobs[-1].request.config.levels


def test_train_from_the_pair_to_its_model(
    train: Any, jobs: Any, clock: Any, viewer: ViewerModel, open_scan: Callable[[], Any], tmp_path: Path
) -> None:
    view = train.view
    assert not enabled(train)
    image = open_scan()
    data = np.zeros((12, 40, 44), np.uint8)
    data[3:9, 8:16, 8:16] = 1
    labels = viewer.add_labels(data, name="organ", scale=(3, 1, 1), units=("mm",) * 3)
    viewer.layers.selection = {image, labels}
    view.add_active_clicked.emit()
    ((row,),) = view.shown["show_pairs"]
    assert (row.image, row.labels) == ("mri", "organ")
    titles = [title for title, _ in view.shown["show_starts"][0]]
    # by the number of signs that speak against each
    assert titles == [
        "",
        "Electron microscopy",
        "Fluorescence microscopy",
        "Histology",
        "Ultrasound",
        "MRI",
        "Synthetic",
    ]
    assert {row.verdict for _, rows in view.shown["show_starts"][0] for row in rows} == {""}
    assert [info.name for info in view.shown["show_classes"][0]] == ["class 1"]
    view.class_changed.emit(1, "liver", "#ff0000")
    view.name_chosen.emit("mine")
    labels.data_setitem((np.arange(8),) * 3, 2)  # painted: read again when the brush rests
    assert not enabled(train)
    clock.run()
    assert [info.name for info in view.shown["show_classes"][0]] == ["liver", "class 2"]
    view.run_clicked.emit()
    (job,) = jobs.jobs
    assert "show_training" in view.shown
    job.say(StepDone(1, 1, 4, 0.7))
    assert view.shown["show_progress"][:2] == (1, 4)
    job.say(EpochDone(1, 5, 0.7, 1e-3, {"liver": 0.5}, 0.5, (LevelStats(0.3, 0.6),), True, 10.0, 40.0))
    assert len(view.shown["show_history"][0]) == 1
    assert (tmp_path / "models" / "mine.prosma" / "annotations").is_dir()
    model = models_in(view.shown["show_starts"][0])["phantom-3d"].path
    job.say(
        Finished(
            TrainResult(
                model=str(model), dice={"liver": 0.8}, mean_dice=0.8, words="", held_out="", seconds=3.0, device="CPU"
            )
        )
    )
    assert view.shown["show_outcome"][1]["liver"] == 0.8
    assert view.shown["show_running"] == (False,)


def test_train_says_what_is_wrong_and_asks_for_times_when_nothing_changes(
    train: Any, jobs: Any, clock: Any, viewer: ViewerModel, open_scan: Callable[[], Any]
) -> None:
    view = train.view
    view.add_active_clicked.emit()
    assert view.shown["show_error"][0]
    image = open_scan()
    viewer.layers.selection = {image, viewer.add_labels(np.ones((12, 40, 44), np.uint8), name="organ", scale=(3, 1, 1))}
    view.add_active_clicked.emit()
    view.budget_chosen.emit((3, None))
    assert jobs.asides == []
    jobs.alive = True
    clock.run(2000)
    assert len(jobs.asides) == 1


def test_several_gpus_are_offered_where_the_engine_found_them_and_learn_nothing_live(
    train: Any, segment: Any, jobs: Any, viewer: ViewerModel, open_scan: Callable[[], Any]
) -> None:
    view = train.view
    image = open_scan()
    viewer.layers.selection = {image, viewer.add_labels(np.ones((12, 40, 44), np.uint8), name="organ", scale=(3, 1, 1))}
    view.add_active_clicked.emit()
    devices = {"auto": "GPU", "cpu": "CPU", "cuda": "GPU of a name"}
    jobs.ready = Ready(version="1", torch="2", devices=devices, gpus=1)
    jobs.started.emit(jobs.ready)
    assert [name for _, name in view.shown["show_devices"][0]] == ["auto", "cpu", "cuda"]
    jobs.ready = Ready(version="1", torch="2", devices=devices, gpus=3)
    jobs.started.emit(jobs.ready)
    assert [name for _, name in view.shown["show_devices"][0]] == ["auto", "cpu", "cuda", "2 GPUs", "3 GPUs"]
    assert [name for _, name in segment.view.shown["show_devices"][0]] == ["auto", "cpu", "cuda"]
    view.device_chosen.emit("3 GPUs")
    assert view.shown["show_devices"][1:] == ("3 GPUs", "GPU of a name")
    assert view.shown["show_live"] == (False, NOT_LIVE)
    view.live_toggled.emit(True)
    assert view.shown["show_live"] == (False, NOT_LIVE)
    assert "divided among 3 GPUs" in view.shown["show_notes"][0]
    view.run_clicked.emit()
    plan = jobs.jobs[-1].spec.plan
    assert (plan.gpus, plan.request_values["device"]) == (3, "cuda")
    view.live_toggled.emit(True)
    assert view.shown["show_live"] == (False, NOT_LIVE)
    jobs.jobs[-1].say(Failed(DeviceError("no memory"), "log"))
    view.device_chosen.emit("cpu")
    assert view.shown["show_live"] == (True, "")
    view.run_clicked.emit()
    plan = jobs.jobs[-1].spec.plan
    assert (plan.gpus, plan.request_values["device"]) == (1, "cpu")


def test_all_of_these_pass_in_a_process_that_cannot_import_qt() -> None:
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-c", RUN, __file__]
    done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8", env=environment)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "34 passed" in done.stdout
    assert "Qt: []" in done.stdout


def test_slices_of_a_corrected_result_are_marked_shown_and_asked_for(
    train: Any, viewer: ViewerModel, clock: Any, result: tuple[Any, Labels]
) -> None:
    view, (_, copy) = train.view, result
    view.add_active_clicked.emit()
    states, name = view.shown["show_slices"]
    assert (states.axis, states.count, name) == ("z", 12, copy.name)
    assert view.shown["show_problem"] == (
        "pairs",
        "Nothing is checked or edited yet: paint or correct a slice, or mark one as checked.",
    )
    assert not enabled(train)

    viewer.dims.set_point(0, 3 * 5)  # slices are 3 mm thick
    assert view.shown["show_slice"] == (5,)
    view.mark_clicked.emit()
    assert view.shown["show_slices"][0].checked == (5,)  # at once
    clock.run()
    assert slice_states(copy).checked == (5,)
    assert (view.shown["show_problem"], enabled(train)) == ((None, ""), True)
    assert "11 untouched slices hold the model's own labels and take no part" in view.shown["show_notes"][0]
    assert "No independent validation" in view.shown["show_notes"][0]

    copy.data_setitem((np.array([7]), np.array([1]), np.array([1])), 1)
    clock.run()
    assert view.shown["show_slices"][0].words() == "1 checked, 1 edited, 10 untouched"
    copy.undo()
    clock.run()
    assert view.shown["show_slices"][0].words() == "1 checked, 0 edited, 11 untouched"

    copy.name = "renamed"
    clock.run()
    assert view.shown["show_slices"][1] == "renamed"
    view.slice_clicked.emit(9)
    assert viewer.dims.point[0] == 27
    assert view.shown["show_slice"] == (9,)
    viewer.dims.ndisplay = 3
    assert view.shown["show_slice"] == (None,)
    view.mark_clicked.emit()
    assert "No slice of renamed is in view" in view.shown["show_error"][0]
    viewer.dims.ndisplay = 2
    viewer.dims.set_point(0, 15)
    view.mark_clicked.emit()
    assert slice_states(copy).annotated == ()
    train.slices.mark(copy, 2)
    assert slice_states(copy).checked == (2,)
    viewer.layers.remove(copy)
    assert view.shown["show_slices"] == (None, "")


def test_corrections_outside_of_the_object_alone_are_asked_about(
    train: Any, clock: Any, result: tuple[Any, Labels]
) -> None:
    train.view.add_active_clicked.emit()
    _, copy = result
    copy.data_setitem((np.array([3]), np.array([10]), np.array([10])), 0)
    copy.data[3] = 0  # all that was found there was wrong
    copy.refresh()
    clock.run()
    field, words = train.view.shown["show_problem"]
    assert (field, enabled(train)) == ("pairs", False)
    assert "hold no object" in words
    train.slices.mark(copy, 5)
    clock.run()
    assert enabled(train)


def test_all_slices_of_a_result_can_be_checked(train: Any, clock: Any, result: tuple[Any, Labels]) -> None:
    train.view.add_active_clicked.emit()
    for index in range(12):
        train.slices.mark(result[1], index)
    clock.run()
    assert train.view.shown["show_slices"][0].words() == "12 checked, 0 edited, 0 untouched"
    assert enabled(train)
    assert "untouched" not in train.view.shown["show_notes"][0]
    assert "No independent validation" in train.view.shown["show_notes"][0]
