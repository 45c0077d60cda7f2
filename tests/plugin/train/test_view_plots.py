"""The curves of the Train widget: what is drawn, in which colors, and what they leave alone."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import pytest
import qtpy
from napari.qt import get_stylesheet
from napari.utils.theme import get_theme
from pytestqt.qtbot import QtBot
from qtpy.QtGui import QColor, QFontMetrics
from qtpy.QtWidgets import QApplication, QGraphicsView, QLabel, QWidget

from napari_prosma.train.plots import REDRAW, TrainingPlots
from napari_prosma.train.view import TrainView
from prosma_core.config.model import ClassInfo
from prosma_core.events import EpochDone, LevelStats
from prosma_core.runs.run_folder import history_row

CLASSES = (
    ClassInfo(value=1, name="liver", color="#e6194b"),
    ClassInfo(value=2, name="spleen", color="#3cb44b"),
)


def row(epoch: int, *, dice: dict[str, float] | None = None, thresholds: bool = True) -> dict[str, Any]:
    """A row of history.csv as training writes it."""
    levels = tuple(LevelStats(removed=0.5 + i / 10, threshold=0.6 if thresholds else None) for i in range(3))
    mean = sum(dice.values()) / len(dice) if dice else None
    return history_row(EpochDone(epoch, 20, 2.0 / epoch, 1e-3, dice, mean, levels))


ROWS = (
    row(1),
    row(2, dice={"liver": 0.5, "spleen": 0.3}),
    row(3),
    row(4, dice={"liver": 0.75, "spleen": 0.25}),
)


@pytest.fixture
def plots(qtbot: QtBot) -> TrainingPlots:
    made = TrainingPlots()
    qtbot.addWidget(made)
    return made


def areas(plots: QWidget) -> list[Any]:
    """The plots there are: loss and Dice, then gates."""
    import pyqtgraph

    plots.show()
    QApplication.processEvents()
    return plots.findChildren(pyqtgraph.PlotWidget)


def drawn(area: Any) -> dict[str, list[tuple[float, float]]]:
    """Points of each curve of a plot, by the scale it is on, its color and the style of its line."""
    import pyqtgraph

    curves = {}
    for item in area.scene().items():
        if isinstance(item, pyqtgraph.PlotDataItem) and item.getData()[0] is not None and len(item.getData()[0]):
            scale = "left" if item.getViewBox() is area.getPlotItem().getViewBox() else "right"
            pen = pyqtgraph.mkPen(item.opts["pen"])
            key = f"{scale} {pen.color().name()} {pen.style().name}"
            assert key not in curves
            curves[key] = [(float(x), float(y)) for x, y in zip(*item.getData(), strict=True)]
    return curves


def legends(plots: QWidget) -> list[str]:
    return [label.text() for label in plots.findChildren(QLabel, "legend")]


def test_loss_and_dice_are_drawn_over_epochs(plots: TrainingPlots) -> None:
    plots.show_history(ROWS, CLASSES)
    text = plots.palette().windowText().color().name()
    assert drawn(areas(plots)[0]) == {
        "left #3b9eff SolidLine": [(1, 2.0), (2, 1.0), (3, pytest.approx(2 / 3, abs=1e-5)), (4, 0.5)],
        "right #e6194b SolidLine": [(2, 0.5), (4, 0.75)],
        "right #3cb44b SolidLine": [(2, 0.3), (4, 0.25)],
        f"right {text} DashLine": [(2, 0.4), (4, 0.5)],
    }
    (low, high), _ = areas(plots)[0].getPlotItem().viewRange()
    assert low <= 0
    assert 4 <= high < 5


def test_the_uppermost_figures_of_the_scales_have_room(plots: TrainingPlots) -> None:
    plots.show_history(ROWS, CLASSES)
    for area in areas(plots):
        box = area.getPlotItem().getViewBox().sceneBoundingRect()
        assert box.top() >= QFontMetrics(QApplication.font()).ascent() / 2


def test_the_loss_has_a_color_of_its_own_and_scales_begin_at_zero(plots: TrainingPlots) -> None:
    blue = (ClassInfo(value=1, name="liver", color="#3b9eff"),)
    plots.show_history([row(1, dice={"liver": 0.5})], blue)
    assert {key.split()[1] for key in drawn(areas(plots)[0]) if key.startswith("left")} == {"#f2b134"}
    for area, top in zip(areas(plots), (2.0, 0.6), strict=True):  # loss, thresholds: from the first epoch on
        low, high = area.getPlotItem().viewRange()[1]
        assert -0.1 * top < low <= 0
        assert top < high < 1.2 * top
    for step in range(99):
        plots.show_step(1.01 + step / 100, 90.0 if step == 50 else 1.0)
    plots._draw_steps()
    assert areas(plots)[0].getPlotItem().viewRange()[1][1] < 3  # one step does not press the curve flat


def test_what_the_gates_do_is_drawn_level_by_level(plots: TrainingPlots) -> None:
    plots.show_history(ROWS, CLASSES)
    curves = drawn(areas(plots)[1])
    assert sorted(key.split()[0] + key.split()[2] for key in curves) == ["leftDashLine"] * 3 + ["rightSolidLine"] * 3
    removed = [points for key, points in curves.items() if key.startswith("right")]
    assert sorted(points[0][1] for points in removed) == pytest.approx([50, 60, 70])
    assert all(points[0] == (1, 0.6) for key, points in curves.items() if key.startswith("left"))
    assert "level&nbsp;0&nbsp;(finest)" in legends(plots)[1]


def test_gates_without_thresholds_have_one_scale(plots: TrainingPlots) -> None:
    plots.show_history([row(1, thresholds=False), row(2, thresholds=False)], CLASSES)
    assert {key.split()[0] for key in drawn(areas(plots)[1])} == {"right"}


def test_a_network_without_gates_has_one_plot(plots: TrainingPlots) -> None:
    rows = [{key: value for key, value in r.items() if "level" not in key} for r in ROWS]
    plots.show_history(rows, CLASSES)
    assert len(areas(plots)) == 1
    plots.show_history(ROWS, CLASSES)
    plots.show_history(rows, CLASSES)
    assert [area.isVisibleTo(plots) for area in areas(plots)] == [True, False]


def test_a_run_of_other_classes_replaces_the_curves(plots: TrainingPlots) -> None:
    plots.show_history(ROWS, CLASSES)
    plots.show_history([row(1, dice={"nerve": 0.5})], (ClassInfo(value=1, name="nerve", color="#ff8800"),))
    curves = drawn(areas(plots)[0])
    assert [key for key in curves if key.startswith("right")] == ["right #ff8800 SolidLine"]
    plots.show_history((), ())
    assert plots.isHidden()


def test_steps_show_before_the_first_epoch_is_done(plots: TrainingPlots, qtbot: QtBot) -> None:
    for i in range(500):
        plots.show_step((i + 1) / 1000, 2.0)
    plots.show_step(0.6, float("nan"))
    assert plots.isHidden()
    qtbot.waitUntil(lambda: not plots.isHidden())
    (points,) = drawn(areas(plots)[0]).values()
    assert (len(points), points[-1]) == (500, (0.5, 2.0))
    (low, high), _ = areas(plots)[0].getPlotItem().viewRange()
    assert low <= 0
    assert high >= 1


def test_the_first_losses_of_a_run_are_all_in_the_plot(plots: TrainingPlots, qtbot: QtBot) -> None:
    for step in range(10):
        plots.show_step((step + 1) / 100, 3.0 - 0.25 * step)
    qtbot.waitUntil(lambda: not plots.isHidden())
    _, (_, high) = areas(plots)[0].getPlotItem().viewRange()
    assert high >= 3.0


def test_steps_of_an_epoch_make_room_for_the_epoch(plots: TrainingPlots, qtbot: QtBot) -> None:
    plots.show_step(0.5, 2.0)
    qtbot.waitUntil(lambda: not plots.isHidden())
    plots.show_history(ROWS[:1], CLASSES)
    plots.show_step(0.9, 7.0)  # comes late
    plots.show_step(1.5, 1.5)
    qtbot.waitUntil(lambda: [(1.5, 1.5)] in drawn(areas(plots)[0]).values())
    assert sorted(drawn(areas(plots)[0]).values()) == [[(1, 2.0)], [(1.5, 1.5)]]


def test_a_new_run_begins_without_the_curves_of_the_last(plots: TrainingPlots, qtbot: QtBot) -> None:
    plots.show_history(ROWS, CLASSES)
    assert len(areas(plots)) == 2
    plots.show_step(4.5, 2.0)
    plots.show_history((), CLASSES)
    qtbot.wait(2 * REDRAW)
    assert plots.isHidden()
    plots.show_step(0.1, 3.0)
    qtbot.waitUntil(lambda: not plots.isHidden())
    learning, gates = areas(plots)
    assert list(drawn(learning).values()) == [[(0.1, 3.0)]]
    assert not gates.isVisible()
    assert legends(plots)[0].endswith("training&nbsp;loss")


def test_names_are_plain_text_and_many_are_counted(plots: TrainingPlots) -> None:
    names = ["<b>x</b>", "a" * 100, *(f"class {i}" for i in range(20))]
    plots.show_history([row(1, dice=dict.fromkeys(names, 0.5))], ())
    assert areas(plots)
    legend = legends(plots)[0]
    assert "&lt;b&gt;x" in legend
    assert "a" * 27 + "…" in legend
    assert legend.endswith("and 16 more")


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_colors_are_those_of_the_theme_also_when_it_changes(theme: str, plots: TrainingPlots, qtbot: QtBot) -> None:
    plots.setStyleSheet(get_stylesheet("light" if theme == "dark" else "dark"))
    black_and_white = (
        ClassInfo(value=1, name="liver", color="#000000"),
        ClassInfo(value=2, name="spleen", color="#ffffff"),
    )
    plots.show_history(ROWS, black_and_white)
    assert len(areas(plots)) == 2
    plots.setStyleSheet(get_stylesheet(theme))
    wanted = QColor(*get_theme(theme).background.as_rgb_tuple())
    for area in areas(plots):
        assert area.grab().toImage().pixelColor(1, 1) == wanted
        assert area.backgroundBrush().color() == wanted
        colors = [QColor(key.split()[1]) for key in drawn(area)]
        assert min(abs(color.lightnessF() - wanted.lightnessF()) for color in colors) > 0.15
    assert all(area.getPlotItem().getAxis("left").textPen().color().lightnessF() > 0.5 for area in areas(plots)) == (
        theme == "dark"
    )


def test_the_mouse_passes_through_to_what_the_plots_stand_in(plots: TrainingPlots, qtbot: QtBot) -> None:
    plots.show_history(ROWS, CLASSES)
    plots.resize(300, 500)
    with qtbot.waitExposed(plots):
        plots.show()
    for area in areas(plots):
        qtbot.waitUntil(area.isVisible)
        assert area.height() > 100
        under = plots.childAt(area.mapTo(plots, area.rect().center()))
        assert under is area.parentWidget()


def test_the_plots_belong_to_the_same_qt_as_everything(plots: TrainingPlots) -> None:
    import pyqtgraph

    plots.show_history(ROWS, CLASSES)
    assert pyqtgraph.Qt.QT_LIB.lower() == qtpy.API
    assert all(isinstance(area, QGraphicsView) for area in areas(plots))


def test_the_view_passes_on_what_is_drawn(qtbot: QtBot) -> None:
    view = TrainView()
    qtbot.addWidget(view)
    view.show_history(ROWS, CLASSES)
    assert len(drawn(areas(view)[0])) == 4
    view.show_step(4.5, 0.4)
    qtbot.waitUntil(lambda: [(4.5, 0.4)] in drawn(areas(view)[0]).values())


def test_plots_go_with_the_view(qtbot: QtBot) -> None:
    for _ in range(2):
        view = TrainView()
        view.show_history(ROWS, CLASSES)
        view.show_step(4.5, 0.4)  # will be drawn later
        gone = [*areas(view), view]
        view.deleteLater()
        del view
        qtbot.waitUntil(lambda gone=gone: all(is_deleted(part) for part in gone))
        gc.collect()
    qtbot.wait(2 * REDRAW)


def is_deleted(part: QWidget) -> bool:
    try:
        part.objectName()
    except RuntimeError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.usefixtures("display")
def test_plots_load_with_the_first_curve() -> None:
    code = (
        "import sys; from qtpy.QtWidgets import QApplication; app = QApplication([])\n"
        "from napari_prosma.train.view import TrainView; view = TrainView(); view.show_history((), ())\n"
        "assert 'pyqtgraph' not in sys.modules\n"
        "view.show_history([{'epoch': 1, 'loss': 1.0}], ())\n"
        "assert 'pyqtgraph' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
