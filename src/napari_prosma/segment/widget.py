"""Dock widget Segment: view, controller and dialogs."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog

from napari_prosma.jobs.qt_loop import session
from napari_prosma.jobs.session import Session
from napari_prosma.layers.proxies import unwrapped
from napari_prosma.layers.stored import DiskArray
from napari_prosma.segment.controller import SegmentController
from napari_prosma.segment.state import run_command, run_command_note, save_path, writer
from napari_prosma.segment.view import CORRECT_CLOSED, SegmentView
from napari_prosma.widgets.docks import open_dock
from napari_prosma.widgets.fields import show_text
from napari_prosma.widgets.job_view import tell
from prosma_core.errors import OutputError
from prosma_core.io.names import LABEL_SUFFIXES, safe_name

if TYPE_CHECKING:
    import napari


TIDY = 3000
"""Milliseconds after opening when Python's garbage is collected: otherwise that falls into the first segmentation."""


class SegmentWidget(SegmentView):
    """Dock widget that segments scans.

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
        self.controller = SegmentController(self._viewer, self, self._session)
        self.browse_clicked.connect(self._browse)
        self.train_clicked.connect(self._draw_and_train)
        self.details_clicked.connect(self._show_details)
        self.result.save_clicked.connect(self._save)
        self.result.correct_clicked.connect(self._correct)
        self.result.gates_clicked.connect(self._inspect)
        self.result.command_clicked.connect(self._show_command)
        self.destroyed.connect(self.controller.close)
        QTimer.singleShot(TIDY, gc.collect)

    def _browse(self) -> None:
        path = self.ask_model()
        if path is not None:
            self.controller.add_model(path)
        self.controller.show_models()

    def _show_details(self) -> None:
        self.show_log(self.controller.details())

    def _show_command(self) -> None:
        if self.controller.last is not None:
            plan = self.controller.last.plan
            note = run_command_note(plan.scan)
            show_text(self, "The command that repeats this without napari", run_command(plan), note)

    def _correct(self) -> None:
        last = self.controller.last
        copy = last.correct() if last is not None else None
        if last is None or copy is None:
            return
        if last.source is None or last.source not in self._viewer.layers:
            self.show_messages((CORRECT_CLOSED,))
            return
        train = open_dock(self._viewer, "ProSMA Train", self._session)
        train.controller.fine_tune(last.source, copy, last.plan.model)

    def _draw_and_train(self) -> None:
        drawn = self.controller.draw_labels()
        if drawn is not None:
            open_dock(self._viewer, "ProSMA Train", self._session).controller.pairs.add_layers(*drawn)

    def _inspect(self) -> None:
        last = self.controller.last
        if last is None or last.source is None or last.source not in self._viewer.layers:
            return
        gates = open_dock(self._viewer, "ProSMA Gates", self._session)
        gates.controller.inspect_layer(last.source, last.plan.model)

    def _save(self) -> None:
        last = self.controller.last
        labels = last.to_save if last is not None else None
        if last is None or labels is None:
            return
        corrected = labels is not last.labels
        path = save_path(last.plan, corrected=corrected, by_parts=isinstance(labels.data, DiskArray))
        if path is None or path.exists():
            suffix = ".zarr" if isinstance(labels.data, DiskArray) else ".nii.gz"
            proposed = str(path) if path else f"{safe_name(labels.name)}{suffix}"
            patterns = " ".join(f"*{suffix}" for suffix in LABEL_SUFFIXES)
            name, _ = QFileDialog.getSaveFileName(self, "Save the labels", proposed, f"Label maps ({patterns})")
            if not name:
                return
            path = Path(name)
        target, what = path, "the corrected labels as " if corrected else ""
        self.show_error("", details=False)
        try:
            write = writer(labels, target)
        except OutputError as error:
            self._not_saved(error)
            return
        self.show_messages((f"Saving {target.name}…",))
        self._session.jobs.run(
            write,
            lambda _: tell(self, lambda text: self.show_messages((text,)), f"Saved {what}{target.absolute()}"),
            self._not_saved,
            lasting=True,
        )

    def _not_saved(self, error: Exception) -> None:
        def show(text: str) -> None:
            self.show_messages(())
            self.show_error(text, details=False)

        tell(self, show, f"The labels were not saved: {error}")
