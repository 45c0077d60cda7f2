"""From annotated layers to a model that segments, with the real engine; where a window matters, in one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from napari.layers import Labels
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFileDialog, QPushButton
from typer.testing import CliRunner

from napari_prosma.layers.slices import slice_states
from napari_prosma.segment import SegmentWidget
from napari_prosma.train.run_library import list_runs
from prosma_core.cli.main import app
from prosma_core.config.training import PRESETS
from prosma_core.io.bundle import read_header
from prosma_core.io.images import read_image
from prosma_core.runs.run_folder import RunFolder

pytestmark = pytest.mark.slow


def few_slices(layer: Labels, keep: int = 5) -> Labels:
    """Leave only some slices of a labels layer annotated."""
    full = np.flatnonzero(np.asarray(layer.data).any(axis=(1, 2)))
    kept = full[np.linspace(0, len(full) - 1, keep).astype(int)]
    data = np.asarray(layer.data).copy()
    data[np.setdiff1d(np.arange(len(data)), kept)] = 0
    layer.data = data
    return layer


@pytest.mark.data
def test_paint_a_few_slices_train_stop_resume_and_segment(desk: Any, data_root: Path, tmp_path: Path) -> None:
    folder = data_root / "msd_hippocampus"
    for name in json.loads((folder / "splits.json").read_text())["train"][:2]:
        image = desk.open(folder / "images" / f"{name}.nii.gz")
        labels = desk.open_labels(folder / "labels" / f"{name}.nii.gz")
        few_slices(labels)
        labels.selected_label = 1
        labels.paint(np.argwhere(np.asarray(labels.data) == 1)[0], 1)  # a stroke of the person's own
        desk.add(image, labels)
    desk.pick("zero", "annotated_slices")
    desk.read(2)
    desk.short(epochs=4, steps=6)
    desk.click("run")
    desk.until(lambda: desk.controller.trainings.run is None or len(desk.controller.trainings.run._rows) == 1)
    run = desk.controller.trainings.run
    assert run is not None, desk.text("error")
    desk.until(lambda: any(layer.name.endswith("preview") for layer in desk.viewer.layers))
    desk.picture(tmp_path / "training.png")
    desk.click("run")  # Stop
    kept = desk.wait()
    assert kept is not None
    assert kept.model.is_file()
    desk.until(lambda: bool(desk.cells("runs")))  # listed in a thread
    (state,) = desk.cells("runs")
    assert state[0] == kept.model.stem

    run_folder = RunFolder.beside(kept.model)
    assert {p.name for p in run_folder.root.iterdir()} >= {"run.yaml", "command.txt", "history.csv", "preview", "data"}
    assert len(list((run_folder.root / "annotations").iterdir())) == 2

    desk.controller.resume(list_runs(desk.models)[0])
    outcome = desk.wait()
    assert desk.text("error") == ""
    assert [(run.epochs_done, run.finished) for run in list_runs(desk.models)] == [(4, True)]
    desk.picture(tmp_path / "outcome.png")

    desk.click("Use in Segment")
    segment = desk.viewer.window.dock_widgets["Segment (ProSMA)"]
    assert isinstance(segment, SegmentWidget)
    assert segment.controller._choices.model.path == outcome.model
    segment.controller.choose_image(image)
    segment.controller.start_or_cancel()
    desk.until(lambda: segment.controller.run is None)
    assert segment.error_text() == ""
    np.testing.assert_array_equal(segment.controller.last.labels.scale, image.scale)


def test_a_run_is_repeated_headless_to_the_bit(
    bare_desk: Any, phantoms: list[tuple[Path, Path]], tmp_path: Path
) -> None:
    for scan, truth in phantoms:
        bare_desk.add(bare_desk.open(scan), bare_desk.open_labels(truth))
    bare_desk.short(epochs=1)
    outcome = bare_desk.train()
    again = tmp_path / "again.safetensors"
    config = RunFolder.beside(outcome.model).run_yaml
    result = CliRunner().invoke(app, ["train", "--config", str(config), "--out", str(again)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert read_header(again).sha256 == read_header(outcome.model).sha256


def suggested(desk: Any, labels: Labels) -> str:
    """What is said of the next suggested slice, once it is in view."""
    desk.click("next_slice")
    desk.until(lambda: bool(desk.text("suggestion")) and not desk.controller.next.running)
    layer, index = desk.controller.next._shown
    assert layer is labels
    assert index in slice_states(labels).untouched
    assert desk.viewer.dims.current_step[0] == index
    desk.read(1)
    return desk.text("suggestion")


def test_the_loop_segment_correct_fine_tune_segment(desk: Any, phantoms: list[tuple[Path, Path]]) -> None:
    desk.open(phantoms[0][0])
    segment = SegmentWidget(desk.viewer, desk.session)
    desk.viewer.window.add_dock_widget(segment, name="Segment (ProSMA)", area="right")
    segment.controller.choose_model(next(m for m in desk.session.models() if m.header.name == "phantom-3d"))
    segment.controller.start_or_cancel()
    desk.until(lambda: segment.controller.run is None)
    segment.result.correct_clicked.emit()
    copy = desk.viewer.layers.selection.active
    assert isinstance(copy, Labels)
    desk.read(1)
    assert not desk.widget.findChild(QPushButton, "run").isEnabled()  # nothing is checked or edited yet
    copy.paint((6, 24, 24), 2)
    copy.events.labels_update(data=copy.data, offset=(0, 0, 0))
    desk.read(1)
    desk.viewer.dims.set_point(0, copy.scale[0] * 12)
    desk.click("mark_slice")
    desk.read(1)
    assert ": 1 checked, " in desk.text("slice_counts")
    assert desk.text("start_facts").startswith("Fine-tuning: 3D")
    assert "phantom-3d is unsure" in suggested(desk, copy)
    desk.short(epochs=1)
    outcome = desk.train()
    assert f"{outcome.model.stem} is unsure" in suggested(desk, copy)
    assert outcome.before is None  # the model is not judged by a copy of its own result
    assert "No independent validation" in desk.text("held_out")
    assert "->" not in desk.text("outcome_words")
    if not outcome.worse:
        assert segment.controller._choices.model.path == outcome.model


@pytest.mark.data
def test_pictures_in_color_from_files_to_a_copy_of_the_model(
    bare_desk: Any, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = data_root / "kvasir_seg"
    names = json.loads((folder / "splits.json").read_text())["train"][:2]
    chosen = iter([[str(next((folder / part).glob(f"{name}.*"))) for name in names] for part in ("images", "labels")])
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *_: (next(chosen), ""))
    bare_desk.click("add_files")
    bare_desk.read(2)
    bare_desk.short(epochs=1)
    model = bare_desk.train().model
    header = read_header(model)
    assert (header.model.dims, header.model.in_channels) == (2, 3)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "copy"), ""))
    bare_desk.click("save_as")
    bare_desk.until(lambda: "Saved" in bare_desk.text("status"))
    assert (tmp_path / "copy.safetensors").read_bytes() == model.read_bytes()
    opened: list[str] = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
    bare_desk.click("folder")
    bare_desk.click("run_folder")
    assert opened == [str(RunFolder.beside(model).root)] * 2


def test_two_painted_slices_are_trained_on_after_two_clicks(bare_desk: Any, phantoms: list[tuple[Path, Path]]) -> None:
    image = bare_desk.open(phantoms[0][0])
    placed = {name: getattr(image, name) for name in ("scale", "translate", "affine", "units")}
    labels = bare_desk.viewer.add_labels(np.zeros(image.data.shape, np.uint8), **placed)
    for z in (5, 7):
        labels.data_setitem((np.full(90, z), *np.mgrid[20:29, 20:30].reshape(2, -1)), 1)
    bare_desk.add(image, labels)
    bare_desk.click("run")
    assert (bare_desk.clicks, bare_desk.widget.running) == (2, True)
    bare_desk.click("run")
    bare_desk.wait()


def test_scribbles_with_painted_background(bare_desk: Any, phantoms: list[tuple[Path, Path]]) -> None:
    scan, truth = phantoms[0]
    image, labels = bare_desk.open(scan), bare_desk.open_labels(truth)
    data = np.zeros(labels.data.shape, np.uint8)
    inside = np.asarray(labels.data) > 0
    data[::3][inside[::3]] = 1
    data[::3, 4:8, 4:20] = 7
    labels.data = data
    bare_desk.add(image, labels)
    bare_desk.pick("zero", "unlabeled")
    bare_desk.read(1)
    bare_desk.controller.choose_labels(bare_desk.controller._choices.labels.replace(background=7))
    bare_desk.read(1)
    bare_desk.short(epochs=1)
    header = read_header(bare_desk.train().model)
    assert [c.value for c in header.classes] == [0, 1]
    written = next((RunFolder.beside(bare_desk.controller.trainings.outcome.model).root / "data" / "labels").iterdir())
    assert set(np.unique(read_image(written).data)) == {0, 1, 7}


def engines() -> int:
    """Return how many engines run; the process that decodes foreign files is none."""
    children = psutil.Process().children()
    return sum("prosma_core.engine.server" in (child.as_dict(["cmdline"])["cmdline"] or ()) for child in children)


def test_the_time_of_each_preset_is_there_without_a_click(
    bare_desk: Any, phantoms: list[tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for preset in PRESETS:
        monkeypatch.setitem(PRESETS, preset, PRESETS["quick"])
    monkeypatch.setattr("napari_prosma.train.runtime_estimate.AFTER", 0.05)
    before = engines()  # this one's, and those that other tests share
    bare_desk.controller.choose_budget((None, None))  # by the clock, each would take as long
    bare_desk.controller.pairs.add_files(*([path] for path in phantoms[0]))
    bare_desk.until(lambda: "best: about" in bare_desk.text("times"))
    bare_desk.until(lambda: engines() == before)  # the one that timed has given its memory back
    assert re.fullmatch(r"quick: about .* · balanced: about .* · best: about .*", bare_desk.text("times"))
