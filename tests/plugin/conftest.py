"""Fixtures of the plugin's tests."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Layer
from napari.plugins.io import save_layers
from npe2 import PluginManifest
from psygnal import Signal

import napari_prosma
from napari_prosma._open import get_reader
from napari_prosma.jobs.boundary import Timer, WidgetClosedError
from napari_prosma.jobs.run import ViewSignal
from prosma_core.config.inspection import ClassChange, Inspection, VariantResult
from prosma_core.config.model import ClassInfo
from prosma_core.engine.messages import ArrayReady, Cancelled, Finished, InspectResult, Listener, Ready, WhatIfResult
from prosma_core.errors import EngineBusyError

MANIFEST = Path(napari_prosma.__file__).parent / "napari.yaml"
CLASSES = (
    ClassInfo(value=0, name="background", color="#000000"),
    ClassInfo(value=1, name="organ", color="#ff0000"),
    ClassInfo(value=5, name="lesion", color="#00ff00"),
)


class FakeJob:
    """A job that ends when the test says so; its request is prepared when the test wants it."""

    def __init__(self, spec: Any, listener: Listener) -> None:
        self.spec, self.say = spec, listener
        self.cancelled = self.yields = False
        self.previews: list[Any] = []
        self.learned: list[tuple[dict[Path, Path], bool]] = []
        self.there = True

    @property
    def request(self) -> Any:
        """Return the request of a spec that has one."""
        return self.spec.request

    def prepared(self) -> Any:
        """Prepare the request as the thread would."""
        work = self.spec.prepare(None)
        while True:
            try:
                next(work)
            except StopIteration as stop:
                return stop.value

    def cancel(self) -> None:
        self.cancelled = True

    def preview(self, scan: Any) -> None:
        self.previews.append(scan)

    def learn(self, changed: dict[Path, Path], *, wait: bool) -> bool:
        if self.there:
            self.learned.append((changed, wait))
        return self.there

    def wait_prepared(self) -> None:
        pass

    def end_cancelled(self) -> None:
        self.say(Cancelled())

    def give_labels(self) -> np.ndarray:
        """Hand over the labels' array, as the engine does before the first tile."""
        labels = np.zeros(self.spec.scan.spec.labels_spec().shape, np.uint8)
        self.say(ArrayReady("labels", labels))
        return labels

    def answer(self, inspection: Inspection, arrays: dict[str, np.ndarray], words: str = "") -> None:
        """Say what an inspection found."""
        for name, array in arrays.items():
            self.say(ArrayReady(name, array))
        self.say(Finished(InspectResult(inspection=inspection, words=words, seconds=2.0, device="CPU")))

    def reply(self, shape: tuple[int, ...], *, changed: int = 5) -> dict[str, np.ndarray]:
        """Say what a change of the gates changed; return the arrays."""
        arrays = {"labels": np.zeros(shape, np.uint8), "changes": np.zeros(shape, np.uint8)}
        truth = {"truth_before": 0.9, "truth_after": 0.8} if self.spec.truth is not None else {}
        change = ClassChange(name="organ", before=100, after=105, turned_on=changed, turned_off=0, dice=0.97, **truth)
        results = tuple(
            VariantResult(name=v.name, changed=changed * (i + 1), classes=(change,))
            for i, v in enumerate(self.request.variants)
        )
        for name, array in arrays.items() if self.request.arrays else ():
            self.say(ArrayReady(name, array))
        self.say(Finished(WhatIfResult(variants=results, seconds=0.2, device="CPU")))
        return arrays


class FakeJobs:
    """Stands in for the boundary to the engine: jobs are recorded, work for threads is done at once, or when told.

    Parameters
    ----------
    timer : callable
        Gives timers, as of `EventLoop`.

    Attributes
    ----------
    jobs : list of FakeJob
        What was given to the engine.
    held : list of callable, or None
        Work for threads that waits; None: none does.
    """

    started = Signal(Ready)

    def __init__(self, timer: Callable[..., Timer]) -> None:
        self.timer = timer
        self.jobs: list[FakeJob] = []
        self.held: list[Callable[[], None]] | None = None
        self.asides: list[tuple[Any, Listener]] = []
        self.ready: Ready | None = None
        self.pid: int | None = None
        self.alive = self.freed = self.busy = self.aside_busy = self._reserved = False

    def warm_up(self) -> None:
        self.pid, self.alive = 1, True

    def start(self, spec: Any, listener: Listener, _name: Any = None, *, yields: bool = False) -> FakeJob:
        if not self._reserved:
            self.check_idle()
        for earlier in self.jobs:
            if earlier.yields:
                earlier.cancel()
        self.jobs.append(FakeJob(spec, listener))
        self.jobs[-1].yields = yields
        return self.jobs[-1]

    def check_idle(self) -> None:
        if self.busy or self._reserved:
            msg = "The engine is busy."
            raise EngineBusyError(msg)

    @contextlib.contextmanager
    def reserve(self, _: Any) -> Iterator[None]:
        self.check_idle()
        self._reserved = True
        try:
            with contextlib.suppress(WidgetClosedError):
                yield
        finally:
            self._reserved = False

    def submit_background(self, request: Any, listener: Listener) -> None:
        if self.busy or self.aside_busy:
            msg = "The second engine is busy."
            raise EngineBusyError(msg)
        self.asides.append((request, listener))

    def end_background(self) -> None:
        pass

    def run(
        self,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
        *,
        lasting: bool = False,
    ) -> None:
        def call() -> None:
            try:
                result = work()
            except Exception as error:  # noqa: BLE001  (as the real one)
                failed(error)
            else:
                done(result)

        if self.held is None:
            call()
        else:
            self.held.append(call)

    def unload(self) -> None:
        self.check_idle()
        self.free()

    def free(self) -> None:
        self.freed, self.alive, self.pid, self.ready = True, False, None, None

    def log(self) -> str:
        return "the log"

    def close(self) -> None:
        self.alive, self.pid = False, None


class FakeTimer:
    """A timer whose time comes when the test says so."""

    def __init__(self, call: Callable[[], object], *, repeat: bool = False) -> None:
        self._call, self._repeat = call, repeat
        self.due: int | None = None

    def start(self, milliseconds: int, /) -> None:
        self.due = milliseconds

    def stop(self) -> None:
        self.due = None

    def fire(self) -> None:
        self.due = self.due if self._repeat else None
        self._call()


class Clock:
    """Gives timers, and lets their time come."""

    def __init__(self) -> None:
        self._timers: list[FakeTimer] = []

    def timer(self, call: Callable[[], object], *, repeat: bool = False) -> FakeTimer:
        self._timers.append(FakeTimer(call, repeat=repeat))
        return self._timers[-1]

    def run(self, milliseconds: int = 1000) -> None:
        """Let the time of all timers come that are due by then, and of those they start, until none is left."""
        while due := [timer for timer in self._timers if timer.due is not None and timer.due <= milliseconds]:
            due[0].fire()


class FakeSignal:
    """A signal of a view, emitted by the test."""

    def __init__(self) -> None:
        self._slots: list[Callable[..., object]] = []

    def connect(self, slot: Callable[..., object], /) -> None:
        self._slots.append(slot)

    def emit(self, *values: Any) -> None:
        for slot in self._slots:
            slot(*values)


class FakeView:
    """What the Protocol of a view asks for, and no more: signals, parts, and setters that keep what they were given.

    Attributes
    ----------
    shown : dict of str to tuple
        What each setter was called with last, by its name.
    """

    def __init__(self, protocol: Any) -> None:
        self.shown: dict[str, tuple[Any, ...]] = {}
        for base in protocol.__mro__:
            for name, member in vars(base).items():
                if getattr(base, "_is_protocol", False) and not name.startswith("_"):
                    setattr(self, name, self._made(name, member))

    def _made(self, name: str, member: Any) -> Any:
        if isinstance(member, property):
            return _made_from(get_type_hints(member.fget)["return"])
        given, wanted = inspect.signature(member), get_type_hints(member)["return"]

        def call(*args: Any, **kwargs: Any) -> Any:
            given.bind(self, *args, **kwargs)
            self.shown[name] = (*args, *kwargs.values())
            return _made_from(wanted)

        return call


def _made_from(wanted: Any) -> Any:
    if wanted is ViewSignal:
        return FakeSignal()
    return FakeView(wanted) if getattr(wanted, "_is_protocol", False) else wanted()


@pytest.fixture(scope="session", autouse=True)
def _only_ours_is_measured(untraced: Callable[..., Any] | None) -> Iterator[None]:
    """Let napari make its viewers and layers untraced: half of the time of these tests, and nothing of ours in it."""
    with pytest.MonkeyPatch.context() as patch:
        if untraced is not None:
            patch.setattr(ViewerModel, "__init__", untraced(ViewerModel.__init__))
            patch.setattr(type(Layer), "__call__", untraced(type(Layer).__call__))
        yield


@pytest.fixture(scope="session")
def pixels() -> Callable[[Any], np.ndarray]:
    """Return what gives the colors of a QImage: height, width, red to blue, each from 0 to 1."""

    def colors(picture: Any) -> np.ndarray:
        picture = picture.convertToFormat(picture.Format.Format_RGBA8888)
        data = picture.constBits()
        if hasattr(data, "setsize"):  # PyQt
            data.setsize(picture.sizeInBytes())
        return np.frombuffer(data, np.uint8).reshape(picture.height(), picture.width(), 4)[..., :3] / 255

    return colors


@pytest.fixture
def press() -> Callable[[Any, str], None]:
    """Return what does what napari does when a key is pressed in a viewer."""

    def call(viewer: Any, key: str) -> None:
        bound = {str(k): v for k, v in {**ViewerModel.class_keymap, **viewer.keymap}.items()}
        bound[key](viewer)

    return call


@pytest.fixture
def fake_view() -> Callable[[Any], Any]:
    """Return what makes a view without Qt of its Protocol."""
    return FakeView


@pytest.fixture
def clock() -> Clock:
    """Return what gives timers without Qt."""
    return Clock()


@pytest.fixture
def jobs(clock: Clock) -> FakeJobs:
    """Return a boundary to no engine, without Qt."""
    return FakeJobs(clock.timer)


@pytest.fixture
def make_jobs() -> Callable[[], Any]:
    """Return what makes a boundary to no engine, which records what it is given; its timers are Qt's."""
    from napari_prosma.jobs.qt_loop import QtEventLoop  # late: the controllers' tests need no Qt

    return lambda: FakeJobs(QtEventLoop().timer)


@pytest.fixture
def classes() -> tuple[ClassInfo, ...]:
    """Return a background and two classes."""
    return CLASSES


@pytest.fixture
def open_layer() -> Callable[[Path], Any]:
    """Return a function that opens a file with the plugin's reader, as the only layer in it."""

    def open_path(path: Path) -> Any:
        reader = get_reader(str(path))
        assert reader is not None
        (layer,) = reader(str(path))
        return Layer.create(*layer)

    return open_path


@pytest.fixture
def plugin(npe2pm: Any) -> Any:
    """Return npe2's plugin manager with this plugin and nothing else in it."""
    npe2pm.register(PluginManifest.from_file(MANIFEST))
    return npe2pm


@pytest.fixture
def save_layer(plugin: Any) -> Callable[[Any, Path], list[str]]:
    """Return a function that saves a layer as napari does: with the writer that the name asks for."""

    def save(layer: Any, path: Path) -> list[str]:
        return save_layers(str(path), [layer])

    return save
