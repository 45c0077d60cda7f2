"""Dock widget Train: view, controller and dialogs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFileDialog

from napari_prosma.jobs.qt_loop import session
from napari_prosma.jobs.session import Session
from napari_prosma.layers.proxies import unwrapped
from napari_prosma.train.controller import TrainController
from napari_prosma.train.view import TrainView
from napari_prosma.widgets.docks import open_dock
from napari_prosma.widgets.job_view import MODEL_FILES
from prosma_core.io.names import IMAGE_SUFFIXES
from prosma_core.runs.run_folder import RunFolder
from prosma_core.runs.run_state import RunState

if TYPE_CHECKING:
    import napari


PATTERNS = f"Scans ({' '.join(f'*{suffix}' for suffix in IMAGE_SUFFIXES)})"


class TrainWidget(TrainView):
    """Dock widget that trains and fine-tunes models.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    shared : Session, optional
        The process's session unless given.
    """

    def __init__(self, napari_viewer: napari.Viewer, shared: Session | None = None) -> None:
        super().__init__()
        self._viewer = unwrapped(napari_viewer)
        self._session = shared or session()
        self.keep_sections(self._session.recall, self._session.remember)
        self.help.offer_updates(self._session.jobs.run)
        self.controller = TrainController(self._viewer, self, self._session)
        self.add_files_clicked.connect(self._add_files)
        self.add_folder_clicked.connect(self._add_folder)
        self.series_clicked.connect(self._go_through_folder)
        self.series_files_clicked.connect(self._go_through_files)
        self.browse_clicked.connect(self._browse)
        self.details_clicked.connect(self._show_details)
        self.use_clicked.connect(self._use)
        self.save_as_clicked.connect(self._save_as)
        self.folder_clicked.connect(self._show_last_folder)
        self.run_folder_clicked.connect(self._show_folder)
        self.destroyed.connect(self.controller.close)

    def _add_files(self) -> None:
        images, _ = QFileDialog.getOpenFileNames(self, "Choose the images", "", PATTERNS)
        if not images:
            return
        folder = str(Path(images[0]).parent)
        labels, _ = QFileDialog.getOpenFileNames(self, "Choose their labels", folder, PATTERNS)
        if labels:
            self.controller.pairs.add_files([Path(name) for name in images], [Path(name) for name in labels])

    def _add_folder(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Choose a folder with images and labels")
        if name:
            self.controller.pairs.add_folder(Path(name))

    def _go_through_folder(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Choose a folder with scans to go through")
        if name:
            self.controller.series.begin(Path(name))

    def _go_through_files(self) -> None:
        names, _ = QFileDialog.getOpenFileNames(self, "Choose the scans to go through", "", PATTERNS)
        if names:
            self.controller.series.begin(Path(names[0]).parent, [Path(name) for name in names])

    def _browse(self) -> None:
        path = self.ask_model()
        if path is not None:
            self.controller.add_model(path)
        self.controller.show_starts()

    def _show_details(self) -> None:
        self.show_log(self.controller.details())

    def _use(self) -> None:
        if self.controller.trainings.outcome is not None:
            segment = open_dock(self._viewer, "ProSMA Segment", self._session)
            segment.controller.use_trained(self.controller.trainings.outcome.model)

    def _save_as(self) -> None:
        outcome = self.controller.trainings.outcome
        if outcome is None:
            return
        name, _ = QFileDialog.getSaveFileName(self, "Save the model", outcome.model.name, MODEL_FILES)
        if name:
            self.controller.trainings.save_as(Path(name))

    def _show_last_folder(self) -> None:
        if self.controller.trainings.outcome is not None:
            _open(RunFolder.beside(self.controller.trainings.outcome.model).root)

    def _show_folder(self, state: RunState) -> None:
        _open(RunFolder.beside(state.out).root)


def _open(folder: Path) -> None:
    QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))
