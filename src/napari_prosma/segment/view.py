"""The Segment widget as a person sees it: signals out, setters in, no decisions."""

from __future__ import annotations

from napari_prosma._shared.scan_view import ScanView
from napari_prosma.segment.advanced import AdvancedPanel
from napari_prosma.segment.result_panel import ResultPanel


class SegmentView(ScanView):
    """Picks, options, the Segment button, progress and result, from top to bottom."""

    def __init__(self) -> None:
        super().__init__(("image", "axes", "size", "model", "device"))
        self.advanced = AdvancedPanel()
        self._problems["part"] = self.advanced.part.problem
        self._add_image("The scan to segment: an Image layer.")
        self._add_model()
        self._add_device()
        self._add(self.advanced)
        self._add_run("Segment")
        self.result = ResultPanel()
        self._add(self.result)
        self._locked.append(self.advanced)
        self._finish(**self._scan_parts())

    def show_problem(self, field: str | None, text: str) -> None:
        """Why Segment is disabled, under its field; None: it is not."""
        super().show_problem(field, text)
        if field == "part":
            self.advanced.expand()
