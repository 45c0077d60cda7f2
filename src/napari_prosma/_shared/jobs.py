"""The plugin's only boundary to the engine and to threads: work goes out, messages come back in the GUI thread."""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from psygnal import Signal as PlainSignal
from qtpy.QtCore import QObject, Qt, Signal

from napari_prosma._shared.layers import LayerScan
from prosma_core.engine.arrays import SharedArray
from prosma_core.engine.client import Cancelled, Engine, Failed, Finished, Job, Message
from prosma_core.engine.messages import Ready, ScanRef, SegmentRequest, spec_message
from prosma_core.errors import ProsmaError
from prosma_core.events import Working

T = TypeVar("T")
Listener = Callable[[Message], None]

_LOG = logging.getLogger(__name__)


class Mailbox(QObject):
    """Runs functions in the GUI thread, in the order in which other threads post them."""

    _posted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[Callable[[], None]] = deque()
        self._delivering = False
        self._posted.connect(self._deliver, Qt.ConnectionType.QueuedConnection)

    def post(self, call: Callable[[], None]) -> None:
        """Run `call` in the GUI thread soon; from any thread."""
        self._waiting.append(call)
        self._posted.emit()

    def _deliver(self) -> None:
        if self._delivering or not self._waiting:
            return  # inside a call that lets the event loop run, as napari's progress bars do: the rest waits for it
        self._delivering = True
        try:
            self._waiting.popleft()()
        finally:
            self._delivering = False
            if self._waiting:
                self._posted.emit()


class Jobs:
    """The engine and the threads of one napari process.

    Attributes
    ----------
    started : Signal
        Emits, in the GUI thread, the engine's `Ready` each time one has started.
    """

    started = PlainSignal(Ready)

    def __init__(self) -> None:
        self._mailbox = Mailbox()
        self._engine = Engine(on_ready=self._ready)
        atexit.register(self.close)

    def start(self) -> None:
        """Start the engine where none lives; returns at once."""
        self._engine.start()

    @property
    def ready(self) -> Ready | None:
        """What the engine said of itself, None until it has started."""
        return self._engine.ready

    @property
    def alive(self) -> bool:
        """Whether an engine is there, or on its way."""
        return self._engine.alive

    @property
    def pid(self) -> int | None:
        """Process id of the engine, None where none lives."""
        return self._engine.pid

    def log(self) -> str:
        """End of the engine's log."""
        return self._engine.log_tail()

    def free(self) -> None:
        """End the engine, and with it all the memory it holds; the next job starts a fresh one."""
        self._engine.free()

    def close(self) -> None:
        """End the engine for good."""
        atexit.unregister(self.close)
        self._engine.close()

    def segment(self, scan: LayerScan, request: SegmentRequest, listener: Listener) -> SegmentJob:
        """Segment a layer's scan.

        Parameters
        ----------
        scan : LayerScan
            Handed over by reference where the engine can open it itself, else copied to shared memory in a thread.
        request : SegmentRequest
            Its `scan` is filled in here.
        listener : callable
            Called in the GUI thread with events, arrays and, exactly once and last, `Finished`, `Failed` or
            `Cancelled`.
        """
        job = SegmentJob(self._engine, lambda message: self._mailbox.post(lambda: listener(message)))
        threading.Thread(target=job.run, args=(scan, request), name="prosma-segment", daemon=True).start()
        return job

    def run(self, work: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]) -> None:
        """Run `work` in a thread, then `done` with its result or `failed` with its error in the GUI thread."""

        def body() -> None:
            try:
                result = work()
            except Exception as error:  # noqa: BLE001  (handed to the caller, whatever it is)
                reason = error
                self._mailbox.post(lambda: failed(reason))
            else:
                self._mailbox.post(lambda: done(result))

        threading.Thread(target=body, name="prosma-work", daemon=True).start()

    def _ready(self, ready: Ready) -> None:
        self._mailbox.post(lambda: self.started.emit(ready))


class SegmentJob:
    """One segmentation on its way: the scan is handed over, then the engine works."""

    def __init__(self, engine: Engine, listener: Listener) -> None:
        self._engine, self._tell = engine, listener
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._shared: SharedArray | None = None

    def cancel(self) -> None:
        """Ask it to stop; `Cancelled` follows, at once while the scan is still being handed over."""
        with self._lock:
            if self._job is not None:
                self._job.cancel()
            elif not self._cancelled.is_set():
                self._cancelled.set()
                self._tell(Cancelled())

    def run(self, scan: LayerScan, request: SegmentRequest) -> None:
        """Hand over the scan and submit the request; in a thread of its own."""
        try:
            reference = self._hand_over(scan)
            with self._lock:
                if not self._cancelled.is_set():
                    self._shared = None  # it is the engine's from here on
                    self._job = self._engine.submit(request.replace(scan=reference), self._tell)
        except ProsmaError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  (a lazy array raises whatever its source does)
            _LOG.exception("The scan could not be handed to the engine")
            self._fail(ProsmaError(f"The layer cannot be read: {type(error).__name__}: {error}"))
        if self._shared is not None:
            self._shared.release()

    def _hand_over(self, scan: LayerScan) -> ScanRef | None:
        """Reference to the scan for the engine; None where cancelled meanwhile."""
        path = scan.reference()
        if path is not None:
            return ScanRef(file=str(path), axes=scan.axes, spec=spec_message(scan.spec))
        self._shared = self._engine.allocate(scan.spec.shape, scan.dtype)
        for share in scan.fill(self._shared.array):
            if self._cancelled.is_set():
                return None
            self._tell(Working(f"Reading the scan: {share:.0%}"))
        return ScanRef(array=self._shared.ref, spec=spec_message(scan.spec))

    def _fail(self, error: ProsmaError) -> None:
        with self._lock:
            if not self._cancelled.is_set():
                self._cancelled.set()
                self._tell(Failed(error, ""))


def is_last(message: Any) -> bool:
    """Whether a message ends its job."""
    return isinstance(message, Finished | Failed | Cancelled)
