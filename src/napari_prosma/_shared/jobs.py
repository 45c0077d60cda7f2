"""The plugin's only boundary to the engine and to threads: work goes out, messages come back in the GUI thread."""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

from psygnal import Signal as PlainSignal
from qtpy.QtCore import QObject, Qt, Signal

from napari_prosma._shared.layers import LayerScan
from prosma_core.engine.client import Cancelled, Engine, Failed, Finished, Job, Message
from prosma_core.engine.job import scans_of
from prosma_core.engine.messages import Ready, Request, ScanRef, SegmentRequest, spec_message
from prosma_core.errors import ProsmaError
from prosma_core.events import Working

T = TypeVar("T")
Listener = Callable[[Message], None]
Preparation = Generator[str, None, Request]

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

    def check_idle(self) -> None:
        """Raise `EngineBusyError` where the engine has a job that is not over yet."""
        self._engine.check_idle()

    def segment(self, scan: LayerScan, request: SegmentRequest, listener: Listener) -> EngineJob:
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

        def prepare(engine: Engine) -> Preparation:
            return request.replace(scan=(yield from hand_over(engine, scan)))

        return self.submit(prepare, listener)

    def submit(self, prepare: Callable[[Engine], Preparation], listener: Listener) -> EngineJob:
        """Give the engine a job.

        Parameters
        ----------
        prepare : callable
            Given the engine, a generator that yields what it does, in words, and returns the request; runs in a
            thread.
        listener : callable
            As of `segment`.
        """
        job = EngineJob(self._engine, lambda message: self._mailbox.post(lambda: listener(message)))
        threading.Thread(target=job.run, args=(prepare,), name="prosma-job", daemon=True).start()
        return job

    def run(
        self,
        work: Callable[[], T],
        done: Callable[[T], None],
        failed: Callable[[Exception], None],
        *,
        lasting: bool = False,
    ) -> None:
        """Run `work` in a thread, then `done` with its result or `failed` with its error in the GUI thread.

        Parameters
        ----------
        work, done, failed : callable
        lasting : bool
            Whether a program that ends waits for the work.
        """

        def body() -> None:
            try:
                result = work()
            except Exception as error:  # noqa: BLE001  (handed to the caller, whatever it is)
                reason = error
                self._mailbox.post(lambda: failed(reason))
            else:
                self._mailbox.post(lambda: done(result))

        threading.Thread(target=body, name="prosma-work", daemon=not lasting).start()

    def _ready(self, ready: Ready) -> None:
        self._mailbox.post(lambda: self.started.emit(ready))


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

    def run(self, prepare: Callable[[Engine], Preparation]) -> None:
        """Prepare the request and submit it; in a thread of its own."""
        try:
            self._run(prepare)
        finally:
            self._prepared.set()

    def _run(self, prepare: Callable[[Engine], Preparation]) -> None:
        request = None
        try:
            request = self._drain(prepare(self._engine), self._tell)
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
        discard(*(scans_of(request) if request is not None else ()), self._first_preview)

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
                reference = self._drain(hand_over(self._engine, scan), lambda _: None)
        except Exception as error:  # noqa: BLE001  (as above; the training goes on without)
            _LOG.warning("The scan cannot be handed over for the preview: %s", error)
            return
        with self._lock:
            if number == self._previews and not self._cancelled.is_set():
                if self._job is not None:
                    self._job.preview(reference)
                else:
                    discard(self._first_preview)
                    self._first_preview = reference
                return
        discard(reference)

    def _fail(self, error: ProsmaError) -> None:
        with self._lock:
            if not self._cancelled.is_set():
                self._cancelled.set()
                self._tell(Failed(error, ""))


def hand_over(engine: Engine, scan: LayerScan) -> Generator[str, None, ScanRef]:
    """Reference to a layer's scan: to what the engine can open itself, else to a copy in shared memory."""
    path = scan.reference()
    if path is not None:
        return ScanRef(file=str(path), axes=scan.axes, spec=spec_message(scan.spec))
    shared = engine.allocate(scan.spec.shape, scan.dtype)
    try:
        for share in scan.fill(shared.array):
            yield f"Reading the scan: {share:.0%}"
    except BaseException:
        shared.release()
        raise
    return ScanRef(array=shared.ref, spec=spec_message(scan.spec))


def discard(*scans: ScanRef | None) -> None:
    """Remove the copies of scans that the engine will not see."""
    for scan in scans:
        if scan is not None and scan.array is not None:
            Path(scan.array.path).unlink(missing_ok=True)


def is_last(message: Any) -> bool:
    """Whether a message ends its job."""
    return isinstance(message, Finished | Failed | Cancelled)
