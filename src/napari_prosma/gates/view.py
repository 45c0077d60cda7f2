"""View of the Gates widget: signals out, setters in, no decisions."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QVBoxLayout, QWidget

from napari_prosma.gates.result_panel import GatesResultPanel
from napari_prosma.gates.state import MAP_NAMES, LevelFacts
from napari_prosma.scan.view import PartFields, ScanView
from napari_prosma.widgets.config_form import ConfigForm
from napari_prosma.widgets.fields import Fold, PlainLabel, button, note_label, tab_after
from prosma_core.config.inspection import InspectConfig, MapKind
from prosma_core.printable import counted, plain


class GatesView(ScanView):
    """Fields, details and result from top to bottom; Inspect, progress and status under them."""

    TITLE, PURPOSE = "ProSMA Gates", "See what the gates keep and remove."
    PAGE = "gates-widget"

    def __init__(self) -> None:
        super().__init__(("image", "axes", "size", "model", "device"))
        self.part = PartFields("Only this part of the scan gets maps. The model sees its surroundings as well.")
        self.levels, self.advanced = LevelBoxes(), GatesAdvanced()
        self._problems |= {"part": self.part.problem, "levels": self.levels.problem}
        self._add_image("The scan to inspect: an Image layer.")
        self._add_model()
        self._add(self.part, self.levels)
        self._add_device()
        self._add_looks()
        self._add(self.advanced)
        self._add_workers()
        self._add_run("Inspect")
        self.result = GatesResultPanel()
        self.result.what_if.answered.connect(lambda: self._reveal(self.result.what_if.answer))
        self._add(self.result)
        self._locked += [self.part, self.levels, self.advanced]
        self._finish(**self._scan_parts())

    def scroll_to_result(self) -> None:
        """Scroll to the result as soon as the layout is updated."""
        self._reveal(self.result)


class LevelBoxes(QWidget):
    """Check boxes, one for each level with a gate."""

    levels_chosen = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.problem = note_label("problem")
        self._boxes: dict[int, QCheckBox] = {}
        self._facts: tuple[LevelFacts, ...] | None = None
        label = PlainLabel("Levels")
        label.setMinimumWidth(84)
        self._row = QHBoxLayout()
        self._row.addWidget(label)
        self._row.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(self._row)
        layout.addWidget(self.problem)

    def show_levels(self, facts: tuple[LevelFacts, ...], without: frozenset[int]) -> None:
        """Show the levels of a network, ticked but for those that are left out; signals come from the user only."""
        if facts != self._facts:
            self._facts = facts
            for box in self._boxes.values():
                box.setParent(None)
                box.deleteLater()
            self._boxes = {fact.level: self._box(fact) for fact in facts}
            for place, box in enumerate(self._boxes.values(), 1):
                self._row.insertWidget(place, box)
            tab_after(self, self._boxes.values())
        for level, box in self._boxes.items():
            box.setChecked(level not in without)
        self.setVisible(bool(facts))

    def _box(self, fact: LevelFacts) -> QCheckBox:
        box = QCheckBox(str(fact.level))
        box.setAccessibleName(f"Level {fact.level}")
        box.setObjectName(f"level_{fact.level}")
        step = " × ".join(map(str, fact.step))
        channels = counted(fact.channels, "channel")
        box.setToolTip(plain(f"Level {fact.level}: a value covers {step} of the network's input; {channels}."))
        box.clicked.connect(self._chosen)
        return box

    def _chosen(self) -> None:
        self.levels_chosen.emit(frozenset(level for level, box in self._boxes.items() if not box.isChecked()))


class GatesAdvanced(Fold):
    """Advanced settings: maps and tile overlap."""

    options_changed = Signal(object)
    defaults_clicked = Signal()

    def __init__(self) -> None:
        super().__init__("Advanced")
        self._options = InspectConfig()
        self._boxes: dict[MapKind, QCheckBox] = {}
        inner = QWidget()
        column = QVBoxLayout(inner)
        column.setContentsMargins(0, 0, 0, 0)
        for kind, text in MAP_NAMES.items():
            box = QCheckBox(text)
            box.setObjectName(f"map_{kind}")
            box.setToolTip("Whether the next inspection records this map.")
            box.clicked.connect(self._changed)
            column.addWidget(box)
            self._boxes[kind] = box
        self._form = ConfigForm(InspectConfig, {"overlap": "Tile overlap"})
        self._form.changed.connect(self._changed)
        defaults = button("Restore defaults", "All advanced settings back to their defaults.", self.defaults_clicked)
        self.add(PlainLabel("Maps"), inner, self._form.native, defaults)

    def show_options(self, options: InspectConfig) -> None:
        """Show settings; no signal is sent."""
        self._options = options
        self._form.set(options)
        for kind, box in self._boxes.items():
            box.setChecked(kind in options.maps)

    def _changed(self) -> None:
        maps: Sequence[MapKind] = [kind for kind, box in self._boxes.items() if box.isChecked()]
        overlap = self._form.value.overlap  # type: ignore[attr-defined]
        self.options_changed.emit(self._options.replace(maps=tuple(maps), overlap=overlap))
