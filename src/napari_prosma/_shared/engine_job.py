"""A job for the engine on its way: what it needs is prepared in a thread, then handed over. No Qt."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from typing import TypeVar

from napari_prosma._shared.job_spec import JobSpec, release_scans, share_scan
from napari_prosma._shared.layers import LayerScan
from prosma_core.engine.client import Engine
from prosma_core.engine.job import Job, scans_of
from prosma_core.engine.messages import Cancelled, Failed, Listener, ScanRef
from prosma_core.errors import ProsmaError
from prosma_core.events import Working

T = TypeVar("T")

_LOG = logging.getLogger(__name__)


class EngineJob:
    """A job on its way: what it needs is prepared in a thread, then the engine works.

    Parameters
    ----------
    engine : Engine
    listener : callable
        Told of what happens, on other threads, and exactly once and last `Finished`, `Failed` or `Cancelled`.
    """

    def __init__(self, engine: Engine, listener: Listener) -> None:
        self._engine, self._tell = engine, listener
        self._cancelled = threading.Event()
        self._prepared = threading.Event()
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._previews = 0
        self._first_preview: ScanRef | None = None

    def cancel(self) -> None:
        """Ask it to stop; `Cancelled` follows, at once while the job is still being prepared."""
        with self._lock:
            if self._job is not None:
                self._job.cancel()
            elif not self._cancelled.is_set():
                self._cancelled.set()
                self._tell(Cancelled())

    def preview(self, scan: LayerScan | None) -> None:
        """Let a training segment this scan after each validation from now on; None ends that. Returns at once."""
        self._previews += 1  # a later call overtakes this one
        threading.Thread(target=self._preview, args=(scan, self._previews), name="prosma-preview", daemon=True).start()

    def wait_prepared(self) -> None:
        """Wait until nothing is prepared any more, as may still be when `Cancelled` was told; not in the GUI thread."""
        self._prepared.wait()

    def run(self, spec: JobSpec) -> None:
        """Prepare the request and submit it; in a thread of its own."""
        try:
            self._run(spec)
        finally:
            self._prepared.set()

    def _run(self, spec: JobSpec) -> None:
        request = None
        try:
            request = self._drain(spec.prepare(self._engine), self._tell)
            with self._lock:
                if request is not None and not self._cancelled.is_set():
                    self._job = self._engine.submit(request, self._tell)
                    if self._first_preview is not None:
                        self._job.preview(self._first_preview)
                    return
        except ProsmaError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  (a lazy array raises whatever its source does)
            _LOG.exception("A job for the engine could not be prepared")
            self._fail(ProsmaError(f"The layer cannot be read: {type(error).__name__}: {error}"))
        release_scans(*(scans_of(request) if request is not None else ()), self._first_preview)

    def _drain(self, work: Generator[str, None, T], tell: Listener) -> T | None:
        """What a preparation returns; None where the job was cancelled meanwhile."""
        while not self._cancelled.is_set():
            try:
                doing = next(work)
            except StopIteration as stop:
                value: T = stop.value
                return value
            with self._lock:
                if not self._cancelled.is_set():  # `Cancelled` was the last that was told
                    tell(Working(doing))
        work.close()
        return None

    def _preview(self, scan: LayerScan | None, number: int) -> None:
        reference = None
        try:
            if scan is not None:
                reference = self._drain(share_scan(self._engine, scan), lambda _: None)
        except Exception as error:  # noqa: BLE001  (as above; the training goes on without)
            _LOG.warning("The scan cannot be handed over for the preview: %s", error)
            return
        with self._lock:
            if number == self._previews and not self._cancelled.is_set():
                if self._job is not None:
                    self._job.preview(reference)
                else:
                    release_scans(self._first_preview)
                    self._first_preview = reference
                return
        release_scans(reference)

    def _fail(self, error: ProsmaError) -> None:
        with self._lock:
            if not self._cancelled.is_set():
                self._cancelled.set()
                self._tell(Failed(error, ""))
