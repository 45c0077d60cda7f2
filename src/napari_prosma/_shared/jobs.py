"""The plugin's only boundary to the engine and to threads: work goes out, messages come back in the GUI thread."""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  (so that it ends after us: see `at_the_end`)
import contextlib
import functools
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from psygnal import Signal as PlainSignal
from qtpy.QtCore import QObject, Qt, Signal

from napari_prosma._shared.each import each
from napari_prosma._shared.engine_job import EngineJob
from napari_prosma._shared.job_spec import JobSpec, RequestSpec
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import Listener, Message, Ready, Request, is_last
from prosma_core.errors import EngineBusyError

T = TypeVar("T")


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
        with contextlib.suppress(RuntimeError):  # Qt is gone already: the program ends
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
        self._second = Engine()
        self._aside: EngineJob | None = None
        self._under_way = 0  # jobs of the first engine, from `submit` to their last message
        atexit.register(self.close)

    def warm_up(self) -> None:
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
        self.end_aside()
        self._engine.free()

    def close(self) -> None:
        """End the engine for good."""
        atexit.unregister(self.close)
        each("An engine could not be closed", self._second.close, self._engine.close)

    def check_idle(self) -> None:
        """Raise `EngineBusyError` where the engine has a job that is not over yet."""
        self._engine.check_idle()

    def start(self, spec: JobSpec, listener: Listener) -> EngineJob:
        """Give the engine a job; its data is prepared in a thread.

        Parameters
        ----------
        spec : JobSpec
        listener : callable
            Called in the GUI thread with events, arrays and, exactly once and last, `Finished`, `Failed` or
            `Cancelled`.
        """
        self.end_aside()
        self._under_way += 1

        def tell(message: Message) -> None:
            self._under_way -= is_last(message)
            listener(message)

        return self._run(self._engine, spec, tell)

    def aside(self, request: Request, listener: Listener) -> None:
        """Give a second engine a job that is not urgent: it is ended as soon as the first one is given anything.

        Parameters
        ----------
        request : Request
        listener : callable
            As of `start`.

        Raises
        ------
        EngineBusyError
            A job of one of the engines is not over yet.
        """
        if self._under_way or self._aside is not None:
            msg = "The engine is busy with another job. Wait for it, or cancel it."
            raise EngineBusyError(msg)

        def tell(message: Message) -> None:
            if is_last(message) and self._aside is job:
                self.end_aside()  # its memory is needed elsewhere
            listener(message)

        job = self._aside = self._run(self._second, RequestSpec(request), tell)

    def end_aside(self) -> None:
        """End the second engine, and its job where it has one."""
        job, self._aside = self._aside, None
        if job is not None:
            job.cancel()
            self._second.free()

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
            Whether a program that ends waits for the work, as it must where something is written.
        """

        def body() -> None:
            try:
                result = work()
            except Exception as error:  # noqa: BLE001  (handed to the caller, whatever it is)
                reason = error
                self._mailbox.post(lambda: failed(reason))
            else:
                self._mailbox.post(lambda: done(result))

        thread = threading.Thread(target=body, name="prosma-work", daemon=not lasting)
        if lasting:
            _finish_at_the_end()
            _lasting.add(thread)
        thread.start()

    def _run(self, engine: Engine, spec: JobSpec, listener: Listener) -> EngineJob:
        job = EngineJob(engine, lambda message: self._mailbox.post(lambda: listener(message)))
        threading.Thread(target=job.run, args=(spec,), name="prosma-job", daemon=True).start()
        return job

    def _ready(self, ready: Ready) -> None:
        self._mailbox.post(lambda: self.started.emit(ready))


_lasting: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def finish_lasting() -> None:
    """Wait for the work that lasts."""
    for thread in list(_lasting):
        if thread.ident is not None and thread is not threading.current_thread():
            thread.join()


def at_the_end(call: Callable[[], None]) -> None:
    """Let something be called when Python ends, while threads and their pools still work; the latest comes first.

    `atexit` comes too late: writing an OME-Zarr needs a pool of threads, and those are shut down before.
    """
    with contextlib.suppress(RuntimeError):  # it is ending already
        getattr(threading, "_register_atexit", atexit.register)(call)


@functools.cache
def _finish_at_the_end() -> None:
    at_the_end(finish_lasting)
