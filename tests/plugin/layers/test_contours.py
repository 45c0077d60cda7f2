"""Results and previews as contours or filled, and colors that nobody takes for those of a class."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.layers._layer_actions import _duplicate_layer
from napari.utils.colormaps import label_colormap

from napari_prosma._writer import write_labels_layer
from napari_prosma.gates.what_if import CHANGES, changes_beside
from napari_prosma.jobs.session import LooksView, Session, recall_looks
from napari_prosma.layers.contours import contour_view, contour_width, toggle_contours
from napari_prosma.layers.labels import APART, _distances, _rgb, colors_apart
from napari_prosma.layers.results import (
    LOOKS,
    OUTLINED,
    PREVIEW,
    drawing_layer,
    editable_copy,
    image_layer,
    labels_layer,
    objects_layer,
)
from napari_prosma.layers.scan import METADATA, read
from prosma_core.config.model import COLORS, ClassInfo

Classes = tuple[ClassInfo, ...]
NOTES = {"model": "m", "program": "p"}


@pytest.fixture(autouse=True)
def _looks() -> Iterator[None]:
    LOOKS.choose(contours=False, letters=True)
    yield
    LOOKS.choose(contours=False, letters=True)


@pytest.fixture
def viewer() -> ViewerModel:
    viewer = ViewerModel()
    contour_view(viewer)
    return viewer


def result_on(shape: tuple[int, ...], classes: Classes, **own: Any) -> Labels:
    """A result, with what else is kept in its metadata."""
    scan = read(Image(np.zeros(shape, np.uint8), name="scan"))
    layer = labels_layer(scan, np.zeros(shape, np.uint8), classes, "result", NOTES)
    layer.metadata[METADATA].update(own)
    return layer


def test_one_toggle_draws_all_results_as_contours_and_those_to_come(viewer: ViewerModel, classes: Classes) -> None:
    scan = read(Image(np.zeros((4, 500, 600)), name="scan"))
    labels = np.zeros(scan.spec.shape, np.uint8)
    result = labels_layer(scan, labels, classes, "result", NOTES)
    objects = objects_layer(scan, labels, {"index": []}, "objects", NOTES)
    own, corrected = drawing_layer(scan, "painted"), editable_copy(result)
    others: list[Any] = [own, corrected, Labels(labels), image_layer(scan, labels / 1.0, "zyx", "entropy", NOTES)]
    for layer in (result, objects, *others):
        viewer.add_layer(layer)
    toggle_contours(viewer)
    assert (result.contour, objects.contour) == (2, 2)  # of 500 pixels
    assert [layer.contour for layer in others[:3]] == [0, 0, 0]
    assert viewer.add_layer(labels_layer(scan, labels, classes, "next", NOTES)).contour == 2
    toggle_contours(viewer)
    assert (result.contour, objects.contour) == (0, 0)
    result.contour = 5  # in napari's own controls
    own.visible = False
    assert result.contour == 5


@pytest.mark.parametrize(
    ("shape", "width"), [((60, 50), 1), ((4, 500, 600), 2), ((2048, 2048), 3), ((2, 4096, 4096), 1), ((5000, 5000), 0)]
)
def test_contours_are_as_wide_as_napari_draws_at_once(shape: tuple[int, ...], width: int) -> None:
    assert contour_width(Labels(np.broadcast_to(np.uint8(0), shape))) == width


def test_contours_of_a_pyramid_are_as_wide_as_its_coarsest_level_asks_for() -> None:
    levels = [np.broadcast_to(np.uint8(0), (size, size)) for size in (8192, 2048, 512)]
    assert contour_width(Labels(levels, multiscale=True)) == 2


def test_every_viewer_follows_the_toggle(viewer: ViewerModel, classes: Classes) -> None:
    other = ViewerModel()
    contour_view(other)
    layers = [each.add_layer(result_on((50, 60), classes)) for each in (viewer, other)]
    toggle_contours(viewer)
    assert [layer.contour for layer in layers] == [1, 1]


def test_a_saved_result_is_opened_as_contours_and_saved_annotations_are_not(
    viewer: ViewerModel, classes: Classes, tmp_path: Path, open_layer: Any
) -> None:
    LOOKS.choose(contours=True)
    painted = drawing_layer(read(Image(np.zeros((50, 60)), name="scan")), "painted")
    for path, layer, contour in (
        (tmp_path / "a.nii", result_on((50, 60), classes), 1),
        (tmp_path / "b.nii", painted, 0),
    ):
        write_labels_layer(str(path), *layer.as_layer_data_tuple()[:2])
        assert viewer.add_layer(open_layer(path)).contour == contour
    preview = viewer.add_layer(result_on((50, 60), classes, **{PREVIEW: True}))
    LOOKS.choose(contours=False)
    assert preview.contour == 1  # a person painted what is opened here


def test_a_duplicate_of_a_result_follows_on_its_own(viewer: ViewerModel, classes: Classes) -> None:
    LOOKS.choose(contours=True)
    result = viewer.add_layer(result_on((50, 60), classes))
    viewer.layers.selection = {result}
    _duplicate_layer(viewer.layers)
    assert [layer.contour for layer in viewer.layers] == [1, 1]
    toggle_contours(viewer)
    assert [layer.contour for layer in viewer.layers] == [0, 0]
    toggle_contours(viewer)
    viewer.layers[1].paint((5, 5), 1)  # of one, not of the other
    assert [layer.contour for layer in viewer.layers] == [1, 0]


def test_what_is_painted_in_a_result_stays_filled(viewer: ViewerModel, classes: Classes) -> None:
    LOOKS.choose(contours=True)
    result = viewer.add_layer(result_on((50, 60), classes))
    result.mode = "paint"
    assert result.contour == 0
    result.mode = "pan_zoom"  # nothing was painted
    assert result.contour == 1
    result.mode = "paint"
    result.paint((5, 5), 1)
    result.mode = "pan_zoom"
    assert result.contour == 0
    toggle_contours(viewer)
    toggle_contours(viewer)
    assert result.contour == 0


def test_a_preview_never_mixes_its_colors_with_painted_labels(viewer: ViewerModel, classes: Classes) -> None:
    preview = viewer.add_layer(result_on((4, 50, 60), classes, **{PREVIEW: True}))
    assert preview.contour == 0
    painted = viewer.add_layer(drawing_layer(read(Image(np.zeros((4, 50, 60)), name="scan")), "painted"))
    assert (preview.contour, preview.opacity) == (1, 1)  # no color shines through
    painted.visible = False
    assert (preview.contour, preview.opacity) == (0, Labels(np.zeros((4, 4), int)).opacity)
    painted.visible = True
    assert preview.contour == 1
    viewer.layers.remove(painted)
    assert preview.contour == 0
    result = viewer.add_layer(result_on((4, 50, 60), classes))
    assert preview.contour == 0
    result.paint((0, 5, 5), 1)  # it holds a person's colors from now on
    assert preview.contour == 1
    viewer.layers.remove(result)
    toggle_contours(viewer)
    assert preview.contour == 1


def test_a_what_if_result_is_always_contours(viewer: ViewerModel, classes: Classes) -> None:
    layer = viewer.add_layer(result_on((50, 60), classes, **{OUTLINED: True}))
    toggle_contours(viewer)
    toggle_contours(viewer)
    assert layer.contour == 1


@pytest.mark.filterwarnings("error:Contours are not displayed")
def test_results_are_filled_in_3d(viewer: ViewerModel, classes: Classes) -> None:
    LOOKS.choose(contours=True)
    result = viewer.add_layer(result_on((4, 50, 60), classes))
    result.contour = 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        viewer.dims.ndisplay = 3  # napari draws it before anybody is told, and says so
    result.refresh()
    added = viewer.add_layer(result_on((4, 50, 60), classes))
    assert (result.contour, added.contour) == (0, 0)
    viewer.dims.ndisplay = 2
    assert (result.contour, added.contour) == (2, 1)  # of the user's own width
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        viewer.dims.ndisplay = 3
    toggle_contours(viewer)
    viewer.dims.ndisplay = 2
    assert (result.contour, added.contour) == (0, 0)
    viewer.dims.ndisplay = 3
    toggle_contours(viewer)
    assert result.contour == 0
    viewer.dims.ndisplay = 2
    assert result.contour == 1


def test_tools_of_a_result_are_drawn_once_it_is_painted_in(
    display: None, make_napari_viewer: Any, classes: Classes
) -> None:
    viewer = make_napari_viewer(show=True)
    image = viewer.add_image(np.zeros((40, 50)), name="scan")
    result = viewer.add_layer(labels_layer(read(image), np.zeros((40, 50), np.uint8), classes, "result", NOTES))
    drawn = viewer.window._qt_viewer.canvas._layer_overlay_to_visual[result]
    assert not drawn
    result.mode = "polygon"
    tools = {name: result._overlays[name] for name in ("polygon", "brush_stroke")}
    assert set(tools.values()) <= set(drawn)
    tools["polygon"].points = [[5, 5], [5, 20], [20, 20], [20, 5]]
    assert drawn[tools["polygon"]]._polygon.visible
    tools["polygon"].add_polygon_to_labels(result)
    assert result.data[10, 10] == result.selected_label
    viewer.layers.remove(result)  # with its tools
    assert result not in viewer.window._qt_viewer.canvas._layer_overlay_to_visual


def test_looks_are_remembered(jobs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(tmp_path, jobs)
    toggle_contours(ViewerModel())
    LOOKS.choose(letters=False)
    assert (session.recall("contours"), session.recall("letters")) == (True, False)
    LOOKS.changed.disconnect(session._remember_looks)
    LOOKS.choose(contours=False, letters=True)
    LOOKS.recalled = False
    monkeypatch.setattr("napari_prosma.jobs.session.user_config_path", lambda _: tmp_path)
    recall_looks()  # as where a file is opened before any widget
    assert (LOOKS.contours, LOOKS.letters) == (True, False)
    Session(tmp_path / "other", jobs)
    assert (LOOKS.contours, LOOKS.letters) == (False, True)


def test_a_view_shows_and_chooses_the_looks(jobs: Any, tmp_path: Path, fake_view: Any) -> None:
    session, view, viewer = Session(tmp_path, jobs), fake_view(LooksView), ViewerModel()
    leave = session.follow_looks(viewer, view)
    assert view.shown["show_looks"] == (False, True)
    view.contours_toggled.emit(True)
    view.letters_toggled.emit(False)
    assert view.shown["show_looks"] == (LOOKS.contours, LOOKS.letters) == (True, False)
    toggle_contours(viewer)  # by its shortcut
    assert view.shown["show_looks"] == (False, False)
    leave()
    toggle_contours(viewer)
    assert view.shown["show_looks"] == (False, False)


@pytest.mark.parametrize("count", range(1, 21))
def test_changes_are_drawn_in_colors_that_no_class_has(count: int) -> None:
    own = [COLORS[1 + i % (len(COLORS) - 1)] for i in range(count)]
    drawn = label_colormap(49).map(np.arange(1, count + 1))[:, :3]
    napari = ["#" + "".join(f"{round(255 * part):02x}" for part in color) for color in drawn.tolist()]
    for colors in (own, napari):
        made = (ClassInfo(value=0, name="background"), *(
            ClassInfo(value=i + 1, name=f"class {i}", color=color) for i, color in enumerate(colors)
        ))  # fmt: skip
        changes = [_rgb(c.color) for c in changes_beside(made)[1:]]
        assert _distances(np.array(changes), [_rgb(color) for color in colors]).min() >= APART
        for i, change in enumerate(changes):
            assert _distances(change[None], changes[:i] + changes[i + 1 :]).min() >= APART / 2


def test_wanted_colors_stay_where_no_class_is_like_them() -> None:
    wanted = [c.color for c in CHANGES[1:]]
    assert colors_apart(wanted, ["#4363d8"]) == wanted
    assert colors_apart(["#e6194b"], ["#e6194b"]) != ["#e6194b"]
