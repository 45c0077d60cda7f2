"""Dock widget Gates: view, controller and dialogs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFileDialog

from napari_prosma.gates.controller import GatesController
from napari_prosma.gates.job import check_place, write_maps, write_numbers
from napari_prosma.gates.view import GatesView
from napari_prosma.jobs.qt_loop import session
from napari_prosma.jobs.session import Session
from napari_prosma.layers.proxies import unwrapped
from napari_prosma.widgets.job_view import tell
from prosma_core.errors import ProsmaError
from prosma_core.io.atomic import write_bytes_atomic
from prosma_core.io.names import safe_name

if TYPE_CHECKING:
    import napari


class GatesWidget(GatesView):
    """Dock widget that inspects the gates of a model.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    shared : Session, optional
        The process's session unless given.
    """

    def __init__(self, napari_viewer: napari.Viewer, shared: Session | None = None) -> None:
        super().__init__()
        self._session = shared or session()
        self.keep_sections(self._session.recall, self._session.remember)
        self.help.offer_updates(self._session.jobs.run)
        self.controller = GatesController(unwrapped(napari_viewer), self, self._session)
        self.browse_clicked.connect(self._browse)
        self.details_clicked.connect(self._show_details)
        self.result.files.numbers_clicked.connect(self._save_numbers)
        self.result.files.plots_clicked.connect(self._save_plots)
        self.result.files.maps_clicked.connect(self._save_maps)
        self.destroyed.connect(self.controller.close)

    def _browse(self) -> None:
        path = self.ask_model()
        if path is not None:
            self.controller.add_model(path)
        self.controller.show_models()

    def _show_details(self) -> None:
        self.show_log(self.controller.details())

    # --- Files ------------------------------------------------------------------------------------------------------

    def _save_numbers(self) -> None:
        shown_result = self.controller.shown_result
        path = self._file("Save the numbers", "gates.csv", "Tables (*.csv *.json)")
        if shown_result is not None and path is not None:
            self._write(path, write_numbers(path, shown_result.found, shown_result.notes, shown_result.results))

    def _save_plots(self) -> None:
        content = self.result.plots.png()
        if not content:
            self.result.files.say("There are no plots.")
            return
        path = self._file("Save the plots", "gates.png", "Pictures (*.png)")
        if path is not None:
            self._write(path, lambda: write_bytes_atomic(path, content))

    def _save_maps(self, suffix: str) -> None:
        shown_result = self.controller.shown_result
        path = self._file("Save the maps in a new folder", "gates", "Folders (*)")
        if shown_result is not None and path is not None:
            self._write(path, write_maps(path, shown_result.found, shown_result.notes, suffix))

    def _file(self, title: str, name: str, patterns: str) -> Path | None:
        """A place to write to: beside the scan, where it has a file, is proposed."""
        shown_result = self.controller.shown_result
        scan = shown_result.found.plan.scan if shown_result is not None else None
        beside = scan.path.parent if scan is not None and scan.path is not None and scan.path.exists() else Path()
        proposed = beside / f"{safe_name(scan.name if scan is not None else 'scan')} {name}"
        chosen, _ = QFileDialog.getSaveFileName(self, title, str(proposed), patterns)
        return Path(chosen) if chosen else None

    def _write(self, path: Path, work: Callable[[], object]) -> None:
        """Write in a thread, and say what became of it; no scan, label map or model is replaced."""
        from napari_prosma._writer import open_files  # with the file formats: late, to open sooner

        say, shown_result = self.result.files.say, self.controller.shown_result
        scan = shown_result.found.plan.scan.path if shown_result is not None else None
        try:
            check_place(path, [*open_files(), *([scan] if scan is not None else [])])
        except ProsmaError as error:
            say(f"Nothing was saved: {error}")
            return
        say(f"Saving {path.name}…")
        self._session.jobs.run(
            work,
            lambda _: tell(self, say, f"Saved {path}"),
            lambda error: tell(self, say, f"{path.name} was not saved: {error}"),
            lasting=True,
        )
