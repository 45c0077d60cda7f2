"""The Gates widget as a person sees it: signals out, setters in, no decisions."""

from __future__ import annotations

from qtpy.QtCore import QTimer

from napari_prosma._shared.part_fields import PartFields
from napari_prosma._shared.scan_view import ScanView
from napari_prosma.gates.choices_panel import AdvancedPanel, LevelBoxes
from napari_prosma.gates.result_panel import ResultPanel


class GatesView(ScanView):
    """Picks, the Inspect button, progress and what was found, from top to bottom."""

    def __init__(self) -> None:
        super().__init__(("image", "axes", "size", "model", "device"))
        self.part = PartFields("Only this part of the scan gets maps. The model sees its surroundings as well.")
        self.levels, self.advanced = LevelBoxes(), AdvancedPanel()
        self._problems |= {"part": self.part.problem, "levels": self.levels.problem}
        self._add_image("The scan to look at: an Image layer.")
        self._add_model()
        self._add(self.part, self.levels)
        self._add_device()
        self._add(self.advanced)
        self._add_run("Inspect")
        self.result = ResultPanel()
        self._add(self.result)
        self._locked += [self.part, self.levels, self.advanced]
        self._finish(**self._scan_parts())

    def scroll_to_result(self) -> None:
        """Scroll down to what was found, as soon as the column has its new length."""
        QTimer.singleShot(0, self._scroll)

    def _scroll(self) -> None:
        self._area.verticalScrollBar().setValue(self.result.y())
