"""Words of the window: no identifiers, no backticks, no word of the program's own parts; every control has a name."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from napari.layers import Image, Labels
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QSlider,
    QTabBar,
    QTableView,
    QTableWidget,
    QWidget,
)
from tests.test_spelling import british

import napari_prosma
import prosma_core
from napari_prosma.gates.plots import BarPlot
from napari_prosma.gates.state import LevelFacts
from napari_prosma.gates.view import GatesView
from napari_prosma.segment.view import SegmentView
from napari_prosma.train.pairs import Pair, PairRow
from napari_prosma.train.pairs_table import FIXES
from napari_prosma.train.slice_bar import SliceBar
from napari_prosma.train.sources import layer_source
from napari_prosma.train.view import TrainView
from napari_prosma.widgets.fields import say
from prosma_core.config.base import Config
from prosma_core.config.inference import InferenceConfig
from prosma_core.config.inspection import HISTOGRAM_EDGES, InspectConfig, LevelSummary
from prosma_core.config.model import ClassInfo, GateConfig
from prosma_core.config.training import TrainingConfig
from prosma_core.data.pair_check import many_values

PLUGIN, CORE = Path(napari_prosma.__file__).parent, Path(prosma_core.__file__).parent
PARTS = (
    r"\b(engines?|tensors?|dtype|boolean|kwargs?|std(out|err)|traceback|callbacks?|softmax|logits?|argmax|bf16|fp16"
    r"|pydantic|made worse|looks? into|taken over)\b"
)
"""Words of the program's parts or of no field."""
STRANGE = re.compile(r"`|\b[a-z]+_[a-z_]+\b|" + PARTS)
"""Identifiers, and words of the program's parts or of no field."""
BANNED = re.compile(
    r"`|\b(?:go(?:es|ing)? on|went on|made worse|looks? into|taken over|as they were at first|makes of (?:it|the scan)"
    r"|turned o(?:n|ff)|which level matters|(?:of|with|to) the truth|is said)\b",
    re.IGNORECASE,
)
"""What no text of a window or of the command line has: words that the vocabulary replaces."""
SIGNALS = re.compile(r"(?:[a-z]+_(?:clicked|chosen|changed)\s*)+|(?:[a-z_]+ )+[a-z_]+_(?:clicked|chosen|changed)")
"""Names of signals, a text of which connects several."""
QUIET = {"setObjectName", "getattr", "setattr", "debug", "info", "warning", "exception", "run_all"}
"""Calls whose texts nobody reads in the window."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Texts with a blank in a module, other than docstrings, what is logged and names of objects."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(id(node.value))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in QUIET:
            left_out |= {id(part) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and id(node) not in left_out:
            left_out |= {id(part) for part in node.values}
            parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
            yield node.lineno, "".join(map(str, parts))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out:
            yield node.lineno, node.value


def modules() -> list[Path]:
    """Modules whose texts reach the window: the plugin's own, and what the background process says of itself."""
    return [*sorted(PLUGIN.rglob("*.py")), *sorted((CORE / "engine").glob("*.py"))]


@pytest.mark.parametrize("path", modules(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_text_has_an_identifier_or_a_word_of_the_program_s_parts(path: Path) -> None:
    read = [(line, text) for line, text in texts(path) if " " in text.strip() and not SIGNALS.fullmatch(text)]
    strange = [f"{path.name}:{line}: {found[0]!r} in {t!r}" for line, t in read if (found := STRANGE.search(t))]
    assert strange == []


def test_window_and_command_line_share_one_vocabulary() -> None:
    paths = sorted([*PLUGIN.rglob("*.py"), *CORE.rglob("*.py")])
    read = [(path, line, text) for path in paths for line, text in texts(path)]
    assert len(read) > 5000
    assert [f"{p.name}:{n}: {found[0]!r} in {t!r}" for p, n, t in read if (found := BANNED.search(t))] == []


def test_messages_of_the_library_name_no_part_of_the_program() -> None:
    """Those that reach the window with a scan, a file or a training; names of settings and files may be among them."""
    packages = ("config", "data", "io", "inference", "inspection", "runs", "training")
    read = [(p, *each) for name in packages for p in sorted((CORE / name).glob("*.py")) for each in texts(p)]
    read = [(path, line, text) for path, line, text in read if " " in text.strip() and text != "bf16 tried"]  # a key
    assert len(read) > 800
    assert [f"{p.name}:{n}: {found[0]!r} in {t!r}" for p, n, t in read if (found := re.search(PARTS, t))] == []


SETTINGS = (InferenceConfig, TrainingConfig, InspectConfig)


@pytest.mark.parametrize("config", SETTINGS)
def test_what_settings_do_is_told_in_words_of_the_window(config: type[Config]) -> None:
    told = config.explanations()
    assert {name: text for name, text in told.items() if BANNED.search(text.replace("`", "")) or "None" in text} == {}


def test_options_of_the_command_line_are_left_out_in_the_window(qtbot: QtBot) -> None:
    label = QLabel()
    qtbot.addWidget(label)
    say(label, many_values(300))
    assert label.text().endswith("To take all objects as one class, merge labels into one class.")
    assert "--" not in label.toolTip()
    say(label, "State is damaged. Start a new training (without --resume).")
    assert label.text() == "State is damaged. Start a new training."


def test_what_the_rule_reads() -> None:
    found = [text for _, text in texts(PLUGIN / "jobs" / "session.py")]
    assert "The devices are listed when the next run starts." in found
    assert not any("What the engine found" in text for text in found)
    for text in ("Set batch_size", "The `x`", "The engine ended", "a tensor"):
        assert STRANGE.search(text), text


VIEWS = {"segment": SegmentView, "train": TrainView, "gates": GatesView}
CONTROLS = (QAbstractButton, QAbstractSpinBox, QComboBox, QLineEdit, QSlider, QTableView, SliceBar, BarPlot)


@pytest.fixture(params=VIEWS, scope="module")
def view(request: pytest.FixtureRequest, qapp: object) -> Iterator[QWidget]:
    """Return each view, as it is opened."""
    made = VIEWS[request.param]()
    fill(made)
    yield made
    made.deleteLater()


def fill(view: QWidget) -> None:
    """Show what has controls of its own only once it is there: pairs that can be mended, levels, edits, plots."""
    if isinstance(view, TrainView):
        pair = Pair(layer_source(Image(np.zeros((4, 4)))), layer_source(Labels(np.zeros((4, 4), int))))
        view.show_pairs([PairRow(pair, "a", "b", facts="2D", problem="Mend it.", fixes=tuple(FIXES))])
        view.show_classes((ClassInfo(value=1, name="lesion"),))
    if isinstance(view, GatesView):
        gate, share = GateConfig().form, (0.5, 0.25)
        histogram = ((1 / (len(HISTOGRAM_EDGES) - 1),) * (len(HISTOGRAM_EDGES) - 1),) * 2
        found = LevelSummary(
            level=0, shape=(4, 4), channels=2, removed=0.4, energy=0.5, threshold=0.4, thresholds=share,
            channel_removed=share, channel_energy=share, channel_gate=share, positive=share, histogram=histogram,
        )  # fmt: skip
        view.levels.show_levels((LevelFacts(0, (1, 1), 2), LevelFacts(1, (2, 2), 4)), frozenset())
        view.result.levels.show_levels("a", [found], 0)
        view.result.what_if.make_rows((0, 1), thresholds=True)
        view.result.plots.show_level(found, gate, 0)


def controls(view: QWidget) -> list[QWidget]:
    """Every control of a view that a person can use; the inner parts of another one are part of it."""
    found = [part for kind in CONTROLS for part in view.findChildren(kind)]
    inner = [part for part in found if any(other is not part and other.isAncestorOf(part) for other in found)]
    inner += [part for part in found if part.objectName() == "plot_distribution"]  # none of its bars can be chosen
    of_qt = {"qt_tableview_cornerbutton", "ScrollLeftButton", "ScrollRightButton"}  # of headers and tabs
    inner += [part for part in found if part.objectName() in of_qt]
    return [part for part in found if part not in inner]


def name_of(part: QWidget) -> str:
    """What a screen reader calls it."""
    return part.accessibleName() or (part.text() if isinstance(part, QAbstractButton) else "")


def test_every_control_has_a_name_a_tooltip_and_a_place_in_the_tab_order(view: QWidget) -> None:
    found = controls(view)
    assert len(found) > 10
    say: Callable[[QWidget], str] = lambda part: f"{type(part).__name__} {part.objectName()!r} {name_of(part)!r}"  # noqa: E731
    assert [say(part) for part in found if not re.search(r"[A-Za-z?]", name_of(part))] == []
    assert [say(part) for part in found if not part.toolTip()] == []
    assert [say(part) for part in found if not part.focusPolicy() & Qt.FocusPolicy.TabFocus] == []


def test_names_tooltips_and_labels_are_in_plain_words(view: QWidget) -> None:
    read = [part.toolTip() for part in view.findChildren(QWidget)]
    read += [part.text() for kind in (QLabel, QAbstractButton) for part in view.findChildren(kind)]
    read += [part.accessibleName() for part in view.findChildren(QWidget)]
    read += [part.tabText(i) for part in view.findChildren(QTabBar) for i in range(part.count())]
    for table in view.findChildren(QTableWidget):
        heads = [table.horizontalHeaderItem(i) for i in range(table.columnCount())]
        read += [text for head in heads if head is not None for text in (head.text(), head.toolTip())]
    for box in view.findChildren(QComboBox):
        read += [box.itemText(i) for i in range(box.count())]
    assert len([text for text in read if text]) > 40
    rules = (STRANGE.search, BANNED.search, british, re.compile(r"\bNone\b").search)
    assert [text for text in read if any(rule(text) for rule in rules)] == []


def test_tab_goes_from_top_to_bottom(view: QWidget, qtbot: QtBot) -> None:
    view.resize(360, 1400)
    view.show()
    qtbot.waitExposed(view)
    order: list[QWidget] = []
    part = view.nextInFocusChain()
    while part is not view:
        if part.focusPolicy() & Qt.FocusPolicy.TabFocus and part.isVisible() and not isinstance(part, QTabBar):
            order.append(part)
        part = part.nextInFocusChain()
    tops = [part.mapTo(view, part.rect().topLeft()).y() for part in order]
    backwards = [
        (a.objectName() or name_of(a), b.objectName() or name_of(b))
        for a, b, y, z in zip(order, order[1:], tops, tops[1:], strict=False)
        if z < y - 12
    ]
    trapped = [part.objectName() for part in view.findChildren(QTableView) if part.tabKeyNavigation()]
    view.hide()
    assert trapped == [], "Tab would lead from cell to cell, and never out"
    assert len(order) > 5
    assert backwards == []
