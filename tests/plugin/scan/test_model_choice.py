"""Which model is chosen by itself for a scan, in the Segment and in the Gates widget: only one made for such scans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Layer
from napari.qt import get_stylesheet
from napari.utils.theme import get_theme
from psygnal import Signal
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QComboBox, QLabel, QPushButton

from napari_prosma._reader import image_layer_data
from napari_prosma._sample_data import breast_layers, phantom_2d_layers, phantom_3d_layers, tissue_layers
from napari_prosma.gates.controller import GatesController
from napari_prosma.gates.view import GatesView
from napari_prosma.jobs.qt_loop import QtEventLoop
from napari_prosma.jobs.session import Session
from napari_prosma.layers.scan import MADE_FOR, METADATA, read
from napari_prosma.scan import selection
from napari_prosma.scan.selection import mark_of, rows_for, suitable_model
from napari_prosma.scan.view import HEADING, ROW
from napari_prosma.segment.controller import SegmentController
from napari_prosma.segment.view import SegmentView
from napari_prosma.widgets.fields import AMBER, ON_AMBER
from prosma_core.config.model import Purpose
from prosma_core.data.geometry import array_spec
from prosma_core.data.intensities import COLOR
from prosma_core.engine.messages import Ready
from prosma_core.io.bundle import ModelEntry, find_model, load_bundle, read_header, save_bundle, shipped_models


class NoEngine:
    """Stands in for the boundary to the engine; nothing is run."""

    started = Signal(Ready)
    ready: Ready | None = None
    alive = False

    def warm_up(self) -> None:
        pass

    free = close = warm_up

    def timer(self, call: Any, *, repeat: bool = False) -> Any:
        return QtEventLoop().timer(call, repeat=repeat)


class Widget:
    """A widget in which a model is chosen for a scan."""

    def __init__(self, kind: str, folder: Path, qtbot: QtBot) -> None:
        self.viewer, self.session = ViewerModel(), Session(folder, NoEngine())  # type: ignore[arg-type]
        self.view: Any = SegmentView() if kind == "segment" else GatesView()
        made: Any = SegmentController if kind == "segment" else GatesController
        self.controller = made(self.viewer, self.view, self.session)
        qtbot.addWidget(self.view)

    def open(self, layer: Any) -> Any:
        return self.viewer.add_layer(layer if isinstance(layer, Layer) else Layer.create(*layer))

    def choose(self, name: str) -> None:
        self.controller.choose_model(self.model(name))

    def model(self, name: str) -> ModelEntry:
        return next(m for m in self.session.models() if m.header.name == name)

    def text(self, part: str) -> str:
        label = self.view.findChild(QLabel, part)
        return "" if label.isHidden() else label.text()

    @property
    def chosen(self) -> str:
        return str(self.view.findChild(QComboBox, "model").currentText())

    @property
    def run(self) -> QPushButton:
        return self.view.findChild(QPushButton, "run")


@pytest.fixture(params=["segment", "gates"])
def widget(request: pytest.FixtureRequest, qtbot: QtBot, tmp_path: Path) -> Iterator[Widget]:
    made = Widget(request.param, tmp_path, qtbot)
    yield made
    made.controller.close()


def values(shape: tuple[int, ...]) -> Any:
    """Values that vary slowly with some noise, 0 to 1: those of a picture are darker than those of a volume."""
    ramp = np.broadcast_to(np.linspace(0, 1, shape[-1]), shape) ** (1.5 if len(shape) == 2 else 1)
    return np.clip(0.15 + 0.7 * ramp + np.random.default_rng(0).normal(0, 0.07, shape), 0, 1)


def scan(
    shape: tuple[int, ...], unit: str = "mm", *, patient: bool = False, low: int = 0, fmt: str = "nifti", **note: str
) -> Any:
    """A layer as the reader makes it, of voxels of 1 unit; `note` is what the file is known to be."""
    axes = {2: "yx", 3: "zyx", 4: "czyx"}[len(shape)]
    data = (low + 1500 * values(shape)).astype(np.int16)
    spec = replace(
        array_spec(shape, axes, (1.0,) * min(len(shape), 3), unit), world="ras" if patient else "image", format=fmt
    )
    made, arguments, kind = image_layer_data(data, spec, "scan", None)
    arguments["metadata"]["prosma"] |= note
    return made, arguments, kind


def picture(*, gray: bool, **note: str) -> Any:
    """A picture of three colors, which may be equal."""
    pixels = (255 * values((60, 70))).astype(np.uint8)[None].repeat(3, axis=0)
    if not gray:
        pixels[1:] = np.random.default_rng(0).integers(0, 255, (2, 60, 70), np.uint8)
    spec = replace(array_spec(pixels.shape, "cyx"), channel_names=COLOR, format="png")
    made, arguments, kind = image_layer_data(pixels, spec, "picture", None)
    assert arguments["rgb"]
    arguments["metadata"]["prosma"] |= note
    return made, arguments, kind


def ct() -> Any:
    return scan((40, 64, 64), patient=True, low=-1000)


def brain(**note: str) -> Any:
    return scan((90, 110, 90), patient=True, **note)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (lambda: phantom_3d_layers()[0], "phantom-3d"),
        (lambda: phantom_2d_layers()[0], ""),
        (lambda: scan((36, 50, 35), patient=True), "hippocampus-mri"),
        (lambda: scan((36, 50, 35), patient=True, modality="MR"), "hippocampus-mri"),
        (lambda: scan((60, 70), "pixel", modality="US"), "breast-lesion-us"),
        (lambda: picture(gray=True, modality="US"), "breast-lesion-us"),
        (lambda: picture(gray=False, modality="US"), ""),
        (lambda: picture(gray=True), ""),
        (lambda: picture(gray=False), ""),
        (lambda: scan((60, 70), "pixel"), ""),
        (lambda: scan((60, 70), "um"), ""),
        (ct, ""),
        (lambda: scan((36, 50, 35), patient=True, low=-1000), ""),
        (lambda: scan((36, 50, 35), patient=True, modality="PT"), ""),
        (brain, ""),
        (lambda: scan((60, 63, 73), patient=True), ""),  # the smallest brain of a fetal atlas
        (lambda: scan((20, 60, 70), "um"), ""),
        (lambda: scan((20, 60, 70), "pixel"), ""),
        (lambda: scan((2, 36, 50, 35), patient=True), ""),
    ],
)
def test_only_a_model_made_for_such_scans_is_meant(layer: Callable[[], Any], expected: str) -> None:
    shipped = [ModelEntry(path, read_header(path), shipped=True) for path in shipped_models().values()]
    found = suitable_model(read(Layer.create(*layer())), shipped)
    assert (found.header.name if found else "") == expected


@pytest.mark.parametrize(("part", "chosen"), [("breast", "breast-lesion-us"), ("neck", "")])
def test_between_models_for_several_parts_of_the_body_a_person_chooses(
    part: str, chosen: str, widget: Widget, monkeypatch: pytest.MonkeyPatch
) -> None:
    breast = widget.model("breast-lesion-us")
    purpose = breast.header.purpose.replace(body_part=part)
    header = breast.header.replace(name="other-us", purpose=purpose)
    other = replace(breast, path=breast.path.with_stem("other-us"), header=header)
    monkeypatch.setattr(widget.session, "models", lambda: [breast, other])
    widget.open(scan((60, 70), "pixel", modality="US"))
    assert widget.chosen == chosen
    if not chosen:
        said = "may be one for breast-lesion-us or other-us: choose the one that is for what it shows."
        assert said in widget.text("problem_model")
    widget.open(breast_layers()[0])
    assert widget.chosen == "breast-lesion-us"
    assert widget.text("fit") == "Sample data for this model."
    widget.choose("other-us")
    assert "other-us was trained on other scans: this is sample data for breast-lesion-us." in widget.text(
        "fit_warning"
    )


def test_where_no_model_is_meant_none_is_chosen_and_the_reason_stands_there(widget: Widget) -> None:
    widget.open(ct())
    assert widget.chosen == ""
    assert not widget.run.isEnabled()
    reason = (
        "No shipped model is meant for this scan (3D, 1 channel, patient geometry, CT): train one from a few slices, "
        "or choose a model."
    )
    assert widget.text("problem_model") == widget.run.toolTip() == reason
    assert widget.text("model_facts") == ""


def test_for_a_picture_a_few_images_are_asked_for(widget: Widget) -> None:
    widget.open(picture(gray=False))
    assert "(2D, color, no pixel size): train one from a few images" in widget.text("problem_model")


def test_where_a_model_may_be_meant_but_nothing_tells_that_is_said(widget: Widget) -> None:
    data, arguments, kind = tissue_layers()[0]
    notes = {key: value for key, value in arguments["metadata"][METADATA].items() if key not in (MADE_FOR, "modality")}
    widget.open((data, {**arguments, "metadata": {METADATA: notes}}, kind))
    assert widget.chosen == ""
    reason = "Nothing tells what this scan shows (2D, color, no pixel size): choose a model that is for it, or train"
    assert widget.text("problem_model").startswith(reason)


def test_the_description_stands_under_the_box(widget: Widget) -> None:
    widget.open(phantom_3d_layers()[0])
    assert widget.run.isEnabled()
    said = widget.text("model_facts")
    assert said.startswith("Organ and lesions of the procedural MR-like and CT-like phantom")
    assert "Not for: real scans." in said
    assert widget.text("fit") == "Sample data for this model."
    assert "validation Dice 0.882 on phantoms" in said


def test_a_model_is_not_kept_for_a_scan_of_another_kind(widget: Widget) -> None:
    widget.open(scan((60, 70), "pixel"))
    widget.choose("breast-lesion-us")
    for other in (brain(), picture(gray=False), scan((60, 70), "um"), ct()):
        widget.open(other)
        assert widget.chosen == ""
    widget.open(scan((64, 80), "pixel"))
    assert widget.chosen == "breast-lesion-us"
    assert widget.run.isEnabled()


@pytest.mark.parametrize("widget", ["segment"], indirect=True)
def test_a_model_that_a_person_chooses_works_on_any_scan_it_can_take(widget: Widget) -> None:
    widget.open(ct())
    widget.choose("phantom-3d")
    assert widget.run.isEnabled()
    assert "phantom-3d was trained on synthetic phantoms" in widget.text("fit_warning")
    widget.choose("hippocampus-mri")
    assert widget.run.isEnabled()
    assert "1.8 times larger (40 × 64 × 64 mm) and looks like CT" in widget.text("fit_warning")
    assert widget.text("fit") == ""


@pytest.mark.parametrize("widget", ["segment"], indirect=True)
def test_a_synthetic_model_is_not_chosen_again_for_real_scans(widget: Widget) -> None:
    widget.open(ct())
    widget.choose("phantom-3d")
    widget.open(ct())
    assert widget.chosen == ""


@pytest.mark.parametrize("widget", ["segment"], indirect=True)
def test_a_model_chosen_before_the_scan_is_there_is_kept_where_it_fits(widget: Widget) -> None:
    widget.choose("breast-lesion-us")
    widget.open(scan((60, 70), "pixel"))
    assert widget.chosen == "breast-lesion-us"
    widget.viewer.layers.clear()
    widget.choose("breast-lesion-us")
    widget.open(brain())
    assert widget.chosen == ""


@pytest.mark.parametrize("widget", ["segment"], indirect=True)
def test_other_axes_are_another_kind_of_scan(widget: Widget) -> None:
    widget.open(scan((20, 60, 70), "pixel"))
    widget.choose("hippocampus-mri")
    widget.controller.choose_axes("tyx")
    assert widget.chosen == ""
    widget.controller.choose_axes("zyx")
    assert widget.chosen == "hippocampus-mri"


def own_model(widget: Widget, tmp_path: Path, name: str = "liver", **header: Any) -> ModelEntry:
    """A model that a person trained, added to the list but not chosen."""
    old, weights = load_bundle(find_model("hippocampus-mri"))
    old = old.replace(purpose=Purpose(), facts=None)  # as in a file of an earlier version
    weights = {key: value * np.float32(0.5) for key, value in weights.items()}
    save_bundle(tmp_path / f"{name}.safetensors", old.replace(name=name, **header), weights)
    return widget.session.add_model(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("widget", ["segment"], indirect=True)
def test_a_model_trained_on_this_scan_is_chosen_for_it_and_its_like(widget: Widget, tmp_path: Path) -> None:
    layer = widget.open(ct())
    entry = own_model(widget, tmp_path)
    assert widget.chosen == ""
    widget.session.prefer(entry, mark_of(widget.controller._choices.scan))
    assert widget.chosen.startswith("liver")
    widget.open(brain())
    assert widget.chosen == ""  # another modality, although it can take it
    mark = mark_of(widget.controller._choices.scan)
    widget.session.prefer(entry, replace(mark, kind=mark.kind.replace("3D", "2D")))
    assert widget.chosen.startswith("liver")  # nothing speaks against it
    widget.open(picture(gray=False))
    widget.session.prefer(entry)
    assert widget.chosen == ""
    widget.controller.choose_image(layer)
    assert widget.chosen.startswith("liver")
    again = Session(tmp_path, NoEngine())  # type: ignore[arg-type]
    assert again.model_for(mark_of(widget.controller._choices.scan)).model.path == entry.path
    entry.path.unlink()
    assert again.model_for(mark_of(widget.controller._choices.scan)) is None


@pytest.mark.parametrize("widget", ["segment"], indirect=True)
@pytest.mark.parametrize(("dice", "chosen"), [(0.28, "hippocampus-mri"), (0.8, "liver")])
def test_a_model_that_learned_little_gives_way_to_a_shipped_one_that_fits(
    widget: Widget, tmp_path: Path, dice: float, chosen: str
) -> None:
    training = read_header(find_model("hippocampus-mri")).training | {"validation_mean_dice": dice}
    entry = own_model(widget, tmp_path, training=training)
    widget.open(scan((36, 50, 35), patient=True, modality="MR"))
    widget.session.prefer(entry, mark_of(widget.controller._choices.scan))
    widget.viewer.layers.clear()
    widget.open(scan((36, 50, 35), patient=True, modality="MR"))
    assert widget.chosen.startswith(chosen)


@pytest.mark.parametrize("widget", ["segment"], indirect=True)
def test_a_model_that_was_not_validated_is_never_chosen_by_itself(widget: Widget, tmp_path: Path) -> None:
    layer = widget.open(ct())
    mark = mark_of(widget.controller._choices.scan)
    entry = own_model(widget, tmp_path, training={"validation_mean_dice": 0.2, "validation": "none held out"})
    widget.session.prefer(entry, mark)  # as the Train widget does
    assert widget.chosen.startswith("liver")  # for the scan it was trained on
    assert "training Dice" in widget.text("model_facts") or "not validated" in widget.text("model_facts")
    widget.open(ct())
    assert widget.chosen == ""
    widget.controller.choose_image(layer)
    assert widget.chosen.startswith("liver")
    widget.open(ct())
    widget.choose("liver")  # a user's own choice counts
    widget.open(ct())
    assert widget.chosen.startswith("liver")


@pytest.mark.parametrize("widget", ["segment"], indirect=True)
def test_a_model_that_was_trained_here_is_not_chosen_for_a_scan_that_it_does_not_fit(
    widget: Widget, tmp_path: Path
) -> None:
    facts = read_header(find_model("hippocampus-mri")).facts
    entry = own_model(widget, tmp_path, facts=facts)
    widget.open(scan((36, 50, 35), patient=True))
    assert widget.chosen == "hippocampus-mri"
    widget.session.prefer(entry, mark_of(widget.controller._choices.scan))  # as the Train widget does
    assert widget.chosen.startswith("liver")
    widget.open(scan((36, 50, 35), patient=True))
    assert widget.chosen.startswith("liver")
    widget.open(brain())  # of the same kind
    assert widget.chosen == ""
    widget.open(brain(path="/study/a.nii"))
    widget.choose("liver")
    assert widget.text("fit") == ""
    widget.open(brain(path="/study/b.nii"))
    assert widget.chosen.startswith("liver")  # a user's own choice for the scans of this folder, which is warned of
    assert widget.text("fit") == "Chosen because you chose it for another scan of this folder."
    assert "times larger" in widget.text("fit_warning")
    widget.open(brain(path="/other/b.nii"))
    assert widget.chosen == ""


@pytest.mark.parametrize("widget", ["segment"], indirect=True)
@pytest.mark.parametrize("by_hand", [True, False])
def test_a_model_that_was_used_before_gives_way_to_a_shipped_one_that_fits(
    by_hand: bool, widget: Widget, tmp_path: Path
) -> None:
    facts = read_header(find_model("hippocampus-mri")).facts.replace(sides=((200, 200, 200),) * 3)
    training = {"validation_mean_dice": 0.9, "validation": "none held out"}
    entry = own_model(widget, tmp_path, facts=facts, training=training)
    widget.open(scan((160, 200, 200), patient=True, path="/study/a.nii"))
    if by_hand:
        widget.choose("liver")
    else:
        widget.controller.use_trained(entry.path)  # as “Use in Segment” does
    assert widget.chosen.startswith("liver")
    widget.open(scan((180, 210, 190), patient=True))
    assert widget.chosen.startswith("liver")
    widget.open(scan((36, 50, 35), patient=True))  # of the same kind, and much smaller
    assert widget.chosen == "hippocampus-mri"
    widget.open(brain(path="/study/b.nii"))
    assert widget.chosen.startswith("liver") == by_hand  # nothing shipped is made for it


def test_what_was_chosen_for_a_scan_is_kept_for_it_and_warned_of(widget: Widget) -> None:
    layer = widget.open(ct())
    widget.choose("phantom-3d")
    assert "on real scans its labels mean nothing" in widget.text("fit_warning")
    widget.open(scan((36, 50, 35), patient=True))
    assert widget.chosen == "hippocampus-mri"
    assert widget.text("fit") == "This scan is like those it was trained on."
    assert widget.text("fit_warning") == ""
    widget.controller.choose_image(layer)
    assert widget.chosen == "phantom-3d"
    assert widget.text("fit_warning")


def test_a_picture_that_does_not_say_what_it_shows_is_not_warned_of(widget: Widget) -> None:
    widget.open(scan((60, 70), "pixel"))
    widget.choose("breast-lesion-us")
    assert widget.text("fit") == "Nothing tells what this scan shows: check that it is what the model is for."
    assert widget.text("fit_warning") == ""


@pytest.mark.parametrize("widget", ["segment"], indirect=True)
def test_voxels_are_looked_at_once_however_often_a_layer_changes(
    widget: Widget, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    real = selection.describe
    monkeypatch.setattr(selection, "describe", lambda *args, **kwargs: seen.append(args) or real(*args, **kwargs))
    layer = widget.open(scan((36, 50, 35), patient=True))
    layer.name = "renamed"
    widget.viewer.add_points(np.zeros((1, 3)))
    assert len(seen) == 1
    layer.data = layer.data[:, ::-1]
    assert len(seen) == 2
    layer.scale = (9, 9, 9)
    assert len(seen) == 3
    assert "times larger" in widget.text("fit_warning")


def test_nothing_is_said_of_a_model_that_cannot_take_the_scan(widget: Widget) -> None:
    widget.open(scan((60, 70), "pixel"))
    widget.choose("hippocampus-mri")
    assert "The model is 3D" in widget.text("problem_model")
    assert widget.text("fit_warning") == widget.text("fit") == ""


def test_a_warning_can_be_read_in_every_theme(widget: Widget) -> None:
    widget.open(ct())
    widget.choose("phantom-3d")
    style = widget.view.findChild(QLabel, "fit_warning").styleSheet()
    assert AMBER in style
    assert ON_AMBER in style
    assert contrast(QColor(AMBER), QColor(ON_AMBER)) > 7  # WCAG 2, level AAA
    backgrounds = [QColor(*get_theme(name).background.as_rgb_tuple()[:3]) for name in ("dark", "light")]
    assert contrast(QColor(AMBER), backgrounds[0]) > 3
    assert contrast(QColor(ON_AMBER), backgrounds[1]) > 7


def contrast(a: QColor, b: QColor) -> float:
    """Contrast ratio of two colors, by WCAG 2."""
    bright, dim = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def luminance(color: QColor) -> float:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in color.getRgbF()[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({}, "not validated"),
        ({"validation_mean_dice": None, "validation_cases": 3}, "not validated"),
        ({"validation_mean_dice": "1", "validation_cases": 3}, "not validated"),
        ({"validation_mean_dice": 0.9, "validation_cases": 0}, "Dice 0.900, not validated"),
        (
            {"validation_mean_dice": 0.9, "validation_cases": 1, "validation": "none held out"},
            "training Dice 0.900, not validated",
        ),
        (
            {"validation_mean_dice": 0.9, "validation_cases": 1, "validation": "slices"},
            "validation Dice 0.900 on slices of its training scans",
        ),
        (
            {"validation_mean_dice": 0.9, "validation_cases": 5, "independent_labels": False},
            "Dice 0.900 against labels of a model",
        ),
        ({"validation_mean_dice": 0.9, "validation_cases": 5, "validation": "cases"}, "validation Dice 0.900"),
        (
            {"validation_mean_dice": 0.9, "validation_cases": 5, "synthetic": True},
            "validation Dice 0.900 on phantoms",
        ),
    ],
)
def test_only_what_was_held_out_is_called_validation(training: dict[str, Any], said: str, tmp_path: Path) -> None:
    header = load_bundle(find_model("hippocampus-mri"))[0].replace(training=training, evaluation=None, sha256="")
    assert ModelEntry(tmp_path, header, shipped=False).facts.split(" · ")[-1] == said


# --- The list of models ---------------------------------------------------------------------------------------------

MADE_UP = {
    "axon-myelin-sem": ("breast-lesion-us", "SEM", "Axons and myelin in scanning electron microscopy."),
    "fetal-brain-mri": ("hippocampus-mri", "MR", "Tissues of the fetal brain, in averages of several fetuses."),
    "nerve-us": ("breast-lesion-us", "US", "Nerves and vessels in ultrasound-guided anesthesia."),
    "nuclei-fluorescence": ("breast-lesion-us", "FM", "Nuclei in fluorescence microscopy."),
    "nuclei-stained": ("breast-lesion-us", "SM", "Nuclei in stained tissue."),
}
LONG = "left and right ventricles of thick-slice cardiac MRI, all corrected scans, tuned twice"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> list[ModelEntry]:
    """Return the shipped models, as many as are planned, and one that a person trained."""
    folder = tmp_path_factory.mktemp("zoo")
    shipped = {name: path for name, path in shipped_models().items() if name not in MADE_UP}
    models = [ModelEntry(path, read_header(path), shipped=True) for path in shipped.values()]
    headers = {m.header.name: m.header for m in models}
    for name, (like, modality, line) in MADE_UP.items():
        purpose = Purpose(modality=modality, shows=line)
        header = headers[like].replace(name=name, purpose=purpose, description=line, facts=None)
        models.append(ModelEntry(folder / f"{name}.safetensors", header, shipped=True))
    own = headers["hippocampus-mri"].replace(name=LONG, description="", purpose=Purpose(), facts=None)
    return [*models, ModelEntry(folder / "own.safetensors", own, shipped=False)]


def listed(layer: Any, models: list[ModelEntry]) -> list[tuple[str, list[tuple[str, str]]]]:
    found = read(Layer.create(*layer)) if layer else None
    return [(title, [(row.name, row.verdict) for row in rows]) for title, rows in rows_for(found, models)]


def test_models_are_grouped_by_modality_and_own_ones_stand_apart(zoo: list[ModelEntry]) -> None:
    groups = listed(None, zoo)
    assert [title for title, _ in groups] == [
        "Your models",
        "Electron microscopy",
        "Fluorescence microscopy",
        "Histology",
        "MRI",
        "Ultrasound",
        "Synthetic",
    ]
    assert dict(groups)["MRI"] == [("fetal-brain-mri", ""), ("hippocampus-mri", "")]
    assert dict(groups)["Your models"] == [(f"{LONG} (own.safetensors)", "")]


@pytest.mark.parametrize(
    ("layer", "first", "verdict"),
    [
        (lambda: scan((36, 50, 35), patient=True, modality="MR"), ("MRI", "hippocampus-mri"), "fits"),
        (lambda: scan((60, 70), "pixel", modality="US"), ("Ultrasound", "breast-lesion-us"), "fits"),
        (lambda: phantom_3d_layers()[0], ("Synthetic", "phantom-3d"), "fits"),
    ],
)
def test_what_fits_comes_first_and_what_cannot_take_the_scan_last(
    layer: Callable[[], Any], first: tuple[str, str], verdict: str, zoo: list[ModelEntry]
) -> None:
    groups = listed(layer(), [m for m in zoo if m.header.name not in ("fetal-brain-mri", "nerve-us", LONG)])
    assert (groups[0][0], *groups[0][1][0]) == (*first, verdict)
    order = ["fits", "", "may not fit", "does not fit", "cannot take it"]
    best = [min(order.index(said) for _, said in rows) for _, rows in groups]
    assert best == sorted(best)
    for _, rows in groups:
        ranks = [order.index(said) for _, said in rows]
        assert ranks == sorted(ranks)


@pytest.mark.parametrize("layer", [ct, brain, lambda: scan((60, 70), "um"), lambda: picture(gray=False)])
def test_a_synthetic_model_is_last_for_every_real_scan(layer: Callable[[], Any], zoo: list[ModelEntry]) -> None:
    assert [title for title, _ in listed(layer(), zoo)][-1] == "Synthetic"


def box_of(widget: Widget, models: list[ModelEntry], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(widget.session, "models", lambda: models)
    widget.controller.show_models()
    return widget.view.findChild(QComboBox, "model")


def test_the_list_is_sorted_anew_for_the_scan_that_is_opened(
    widget: Widget, zoo: list[ModelEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    box = box_of(widget, zoo, monkeypatch)
    headings = [i for i in range(box.count() - 1) if not box.model().item(i).isEnabled() and box.itemText(i)]
    assert box.itemText(headings[0]) == "Your models"
    assert box.currentIndex() == -1
    widget.open(scan((60, 70), "pixel", modality="US"))
    assert box.itemText(0) == "Ultrasound"
    assert box.itemText(box.count() - 1) == "Browse…"
    widget.open(scan((36, 50, 35), patient=True, modality="MR"))
    assert "MRI" in (box.itemText(0), box.itemText(2))
    rows = [box.itemData(i, ROW) for i in range(box.count()) if box.itemData(i, ROW)]
    assert {row.name: row.warned for row in rows}["nerve-us"]
    assert not {row.name: row.warned for row in rows}["hippocampus-mri"]


@pytest.mark.parametrize("widget", ["segment"], indirect=True)
def test_headings_cannot_be_chosen_and_models_can(
    widget: Widget, zoo: list[ModelEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    box = box_of(widget, zoo, monkeypatch)
    heard: list[Any] = []
    widget.view.model_chosen.connect(heard.append)
    for i in range(box.count()):
        assert (box.model().item(i).flags() == Qt.ItemFlag.NoItemFlags) == bool(box.itemData(i, HEADING))
    index = box.findText("nerve-us")
    box.setCurrentIndex(index)
    box.activated.emit(index)
    assert [m.header.name for m in heard] == ["nerve-us"]
    assert (box.currentText(), box.currentData().header.name) == ("nerve-us", "nerve-us")
    box.setCurrentIndex(box.count() - 1)
    widget.controller.show_models()  # what happens when nothing is chosen among the files
    assert box.currentText() == "nerve-us"


@pytest.mark.usefixtures("display")
@pytest.mark.parametrize("widget", ["segment"], indirect=True)
def test_the_list_of_eight_models_fits_a_small_screen_and_long_names_lose_their_middle(
    widget: Widget, zoo: list[ModelEntry], monkeypatch: pytest.MonkeyPatch, qtbot: QtBot
) -> None:
    widget.view.setStyleSheet(get_stylesheet("dark"))
    widget.view.resize(320, 700)
    with qtbot.waitExposed(widget.view):
        widget.view.show()
    box = box_of(widget, zoo, monkeypatch)
    widget.open(scan((36, 50, 35), patient=True, modality="MR"))
    widget.controller.choose_model(zoo[-1])
    assert box.width() < 320
    assert LONG in box.toolTip()
    assert str(zoo[-1].path) in box.toolTip()
    box.showPopup()
    view = box.view()
    qtbot.waitUntil(view.isVisible)
    frame, screen = view.window().geometry(), box.screen().availableGeometry()
    assert screen.contains(frame)
    assert frame.width() <= 420
    assert frame.height() < 700
    rows = [i for i in range(box.count()) if box.itemData(i, ROW)]
    assert all(view.visualRect(box.model().index(i, 0)).height() >= 44 for i in rows)
    assert not view.verticalScrollBar().isVisible()
    drawn = view.viewport().grab().toImage()
    row = view.visualRect(box.model().index(box.findText("hippocampus-mri"), 0))
    colors = {drawn.pixelColor(x, y).name() for x in range(10, 44) for y in range(row.top() + 6, row.bottom() - 6)}
    assert len(colors) > 50  # a picture, not a frame with letters
    box.hidePopup()
