"""The only way to the engine and to threads: jobs go out as `JobSpec`, messages come back in the GUI thread. No Qt."""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  (so that it ends after us: see `at_the_end`)
import contextlib
import functools
import logging
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from psygnal import Signal

from napari_prosma.cleanup import run_all
from napari_prosma.jobs.spec import JobSpec, RequestSpec, release_scans, share_scan
from napari_prosma.layers.scan import LayerScan
from prosma_core.engine.client import Engine, Job, scans_of
from prosma_core.engine.messages import Cancelled, Failed, Listener, Message, Ready, Request, ScanRef, is_last
from prosma_core.errors import EngineBusyError, ProsmaError
from prosma_core.events import Working

_LOG = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class JobName:
    """What a job is called, so that a user knows where to stop it.

    Attributes
    ----------
    what : str
        With its article, as the beginning of a sentence.
    widget : str
        Title of its widget.
    """

    what: str
    widget: str


class WidgetClosedError(Exception):
    """A job's widget was closed while the job began: it is not begun."""


class Timer(Protocol):
    """Calls a function in the GUI thread after a time."""

    def start(self, milliseconds: int, /) -> object:
        """Call it in that many milliseconds; a pending call is dropped."""

    def stop(self) -> object:
        """Do not call it."""


class EventLoop(Protocol):
    """Protocol of the GUI thread's event loop."""

    def post(self, call: Callable[..., object], /, *values: Any) -> None:
        """Call this with these values in the GUI thread soon, after what was posted before; from any thread."""

    def timer(self, call: Callable[[], object], *, repeat: bool = False) -> Timer:
        """A timer, not started yet, that calls once, or again and again until it is stopped."""


class Jobs:
    """The engine and the threads of one napari process.

    Parameters
    ----------
    loop : EventLoop
        Where messages come back.

    Attributes
    ----------
    started : Signal
        Emits, in the GUI thread, the engine's `Ready` each time one has started.
    """

    started = Signal(Ready)

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._engine = Engine(on_ready=self._ready)
        self._second = Engine()
        self._aside: EngineJob | None = None
        self._begun: weakref.WeakSet[EngineJob] = weakref.WeakSet()  # while they are prepared, their thread has them
        self._reserved: JobName | None = None
        atexit.register(self.close)

    def warm_up(self) -> None:
        """Start the engine where none lives; returns at once."""
        self._engine.start()

    @property
    def ready(self) -> Ready | None:
        """What the engine reported at its start; None before."""
        return self._engine.ready

    @property
    def alive(self) -> bool:
        """Whether an engine lives or is being started."""
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
        self.end_background()
        self._engine.free()

    def close(self) -> None:
        """End the engine for good."""
        atexit.unregister(self.close)
        run_all("An engine could not be closed", self._second.close, self._engine.close)

    def check_idle(self) -> None:
        """Raise `EngineBusyError`, which names the job, where there is one that neither yields nor is being stopped."""
        holds = (job.name for job in self._begun if not (job.over or job.yields or job.stopping))
        name = self._reserved or next(holds, None)
        if name is not None:
            msg = f"{name.what} is running in {name.widget}. Stop it there, or wait."
            raise EngineBusyError(msg)

    def unload(self) -> None:
        """End the engine for a user who wants its memory, and what yields; raises as `check_idle`."""
        self.check_idle()
        self.free()

    @contextlib.contextmanager
    def reserve(self, name: JobName) -> Iterator[None]:
        """Keep the engine for a job of this name, from the click until it is begun; raises as `check_idle`.

        What a job changes in its widget first may let events be handled: no other is begun meanwhile, and where the
        widget is closed by one (`WidgetClosedError`), none is.
        """
        self.check_idle()
        self._reserved = name
        try:
            yield
        except WidgetClosedError:
            _LOG.info("%s was not begun: its widget was closed", name.what)
        finally:
            self._reserved = None

    def start(self, spec: JobSpec, listener: Listener, name: JobName, *, yields: bool = False) -> EngineJob:
        """Give the engine a job; its data is prepared in a thread. A job that yields is canceled for it.

        Parameters
        ----------
        spec : JobSpec
        listener : callable
            Called in the GUI thread with events, arrays and, exactly once and last, `Finished`, `Failed` or
            `Cancelled`.
        name : JobName
        yields : bool
            Whether the next job, of whatever widget, cancels this one instead of being refused.

        Raises
        ------
        EngineBusyError
            As of `check_idle`, unless the engine was reserved for a job of this name.
        """
        if self._reserved != name:
            self.check_idle()
        self.end_background()
        for earlier in self._begun:
            if not earlier.over:
                earlier.cancel()
        ending = tuple(job for job in self._begun if not job.over)  # the engine still has them
        job = self._run(self._engine, spec, listener, ending)
        job.name, job.yields = name, yields
        self._begun.add(job)
        return job

    def submit_background(self, request: Request, listener: Listener) -> None:
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
        if self._aside is not None or self._reserved or any(job.preparing or not job.over for job in self._begun):
            msg = "Another job is running. Wait for it, or cancel it."
            raise EngineBusyError(msg)

        def tell(message: Message) -> None:
            if is_last(message) and self._aside is job:
                self.end_background()  # its memory is needed elsewhere
            listener(message)

        job = self._aside = self._run(self._second, RequestSpec(request), tell)

    def end_background(self) -> None:
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
                self._loop.post(failed, error)
            else:
                self._loop.post(done, result)

        thread = threading.Thread(target=body, name="prosma-work", daemon=not lasting)
        if lasting:
            _finish_at_the_end()
            _lasting.add(thread)
        thread.start()

    def timer(self, call: Callable[[], object], *, repeat: bool = False) -> Timer:
        """A timer of the GUI thread, as of `EventLoop`."""
        return self._loop.timer(call, repeat=repeat)

    def _run(self, engine: Engine, spec: JobSpec, listener: Listener, before: tuple[EngineJob, ...] = ()) -> EngineJob:
        job = EngineJob(engine, functools.partial(self._loop.post, listener), before)
        threading.Thread(target=job.run, args=(spec,), name="prosma-job", daemon=True).start()
        return job

    def _ready(self, ready: Ready) -> None:
        self._loop.post(self.started.emit, ready)


_lasting: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def finish_lasting() -> None:
    """Wait for the work that was started as ``lasting``."""
    for thread in list(_lasting):
        if thread.ident is not None and thread is not threading.current_thread():
            thread.join()


def at_the_end(call: Callable[[], None]) -> None:
    """Register a function for the end of Python, called while threads still work; the latest is called first.

    `atexit` comes too late: writing an OME-Zarr needs a pool of threads, and those are shut down before.
    """
    with contextlib.suppress(RuntimeError):  # it is ending already
        getattr(threading, "_register_atexit", atexit.register)(call)


@functools.cache
def _finish_at_the_end() -> None:
    at_the_end(finish_lasting)


class EngineJob:
    """A submitted job: its request is prepared in a thread, then the engine runs it.

    Parameters
    ----------
    engine : Engine
    listener : callable
        Told of what happens, on other threads, and exactly once and last `Finished`, `Failed` or `Cancelled`.
    before : tuple of EngineJob
        Canceled jobs whose end is awaited.

    Attributes
    ----------
    name : JobName
    yields : bool
        Whether the next job cancels this one.
    stopping : bool
        Whether it was asked to stop.
    """

    name = JobName("A job", "ProSMA")

    def __init__(self, engine: Engine, listener: Listener, before: tuple[EngineJob, ...] = ()) -> None:
        self._engine, self._tell, self._before = engine, listener, before
        self.yields = self.stopping = False
        self._cancelled = threading.Event()
        self._prepared = threading.Event()
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._previews = 0
        self._first_preview: ScanRef | None = None

    @property
    def preparing(self) -> bool:
        """Whether the request is still being prepared."""
        return not self._prepared.is_set()

    @property
    def over(self) -> bool:
        """Whether the engine has nothing more to do for it."""
        if self._job is None:
            return self._cancelled.is_set() or not self.preparing
        return self._job.over.is_set()

    def cancel(self) -> None:
        """Ask it to stop; `Cancelled` follows, at once while the job is still being prepared."""
        self.stopping = True
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

    def learn(self, changed: Mapping[Path, Path], *, wait: bool) -> bool:
        """Let a training learn labels that changed, as of `Job.learn`; False where it is not there yet, or over."""
        with self._lock:
            if self._job is None or self._job.over.is_set() or self._cancelled.is_set():
                return False
            self._job.learn(changed, wait=wait)
            return True

    def wait_prepared(self) -> None:
        """Wait until preparation has ended, which may be after `Cancelled`; not in the GUI thread."""
        self._prepared.wait()

    def wait_over(self) -> None:
        """Wait until the engine has nothing more to do for it; not in the GUI thread."""
        self._prepared.wait()
        if self._job is not None:
            self._job.over.wait()

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
            before, self._before = self._before, ()
            for earlier in before:
                earlier.wait_over()
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
        """What a preparation returns; None where the job was canceled meanwhile."""
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
