"""How many files a reader meets who follows one click on Segment, and how many functions a message passes on its way.

The stacks are those of the real window and its engine. The part in the child is played in this process, by the same
server, with the very request that the click made: a child's stack cannot be seen from here.
"""

from __future__ import annotations

import gc
import inspect
import io
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import QCoreApplication, QEvent

from napari_prosma.jobs.qt_loop import QtEventLoop
from prosma_core.engine import (
    handlers,  # noqa: F401  (imported before it is looked at what runs)
    messages,
    process,
)
from prosma_core.engine.arrays import private_folders, remove_folders
from prosma_core.engine.messages import Ask, ScanRef
from prosma_core.engine.serving import Server
from prosma_core.inference.tiled import TiledPredictor

pytestmark = pytest.mark.slow

CHILD = "prosma_core.engine.server"
"""What the child runs."""
FILES = 15
"""Most modules, with that one, in the stacks of: the request written, the first tile computed, the layer added."""
HOPS = 7
"""Most functions of ours from where a message of the child is decoded to the widget's handler of it."""
IN_WINDOW, IN_CHILD = 38, 40
"""Most modules of which anything runs between the click and the result."""

Step = tuple[str, str]
"""Module and function."""


def ours(name: str) -> bool:
    return name.startswith(("napari_prosma", "prosma_core"))


class Way:
    """Call stacks of ours, over threads and posts: that of whoever started a thread, or posted a call, comes first."""

    def __init__(self) -> None:
        self._cause: dict[int, list[Step]] = {}

    def stack(self) -> list[Step]:
        """Functions of ours that led here, the first one first."""
        steps, frame = list[Step](), sys._getframe(1)
        while frame is not None:
            step = frame.f_globals.get("__name__", ""), frame.f_code.co_qualname
            steps += [step] if ours(step[0]) else []
            frame = frame.f_back
        return [*self._cause.get(threading.get_ident(), ()), *reversed(steps)]

    def after(self, cause: list[Step], call: Callable[..., Any], *values: Any) -> Any:
        """Make a call that has this cause."""
        me = threading.get_ident()
        before = self._cause.get(me, [])
        self._cause[me] = cause
        try:
            return call(*values)
        finally:
            self._cause[me] = before


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch) -> Way:
    """Return what follows calls into the threads they start and through the window's event loop."""
    made, start, post = Way(), threading.Thread.start, QtEventLoop.post

    def start_after(thread: threading.Thread) -> None:
        cause, run = made.stack(), thread.run
        thread.run = lambda: made.after(cause, run)  # type: ignore[method-assign]
        start(thread)

    def post_after(loop: QtEventLoop, call: Callable[..., Any], *values: Any) -> None:
        cause = [*made.stack(), (QtEventLoop.__module__, "QtEventLoop.post")]
        post(loop, lambda: made.after(cause, call, *values))

    monkeypatch.setattr(threading.Thread, "start", start_after)
    monkeypatch.setattr(QtEventLoop, "post", post_after)
    return made


@contextmanager
def modules_that_run() -> Iterator[set[str]]:
    """Names of the modules of ours of which a function is called, in this thread or one that begins.

    What earlier tests left is ended before, and no garbage is collected meanwhile: it would run modules of its own.
    """
    found: set[str] = set()
    seen: list[str] = []
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    QCoreApplication.processEvents()
    gc.collect()

    def see(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_flags & inspect.CO_NEWLOCALS:  # no body of a module or class
            seen.append(frame.f_globals.get("__name__", ""))

    gc.disable()
    threading.setprofile(see)
    sys.setprofile(see)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
        gc.enable()
        found |= set(filter(ours, seen.copy()))  # threads that have begun go on telling what they call


class Replies(io.BytesIO):
    """Where a server writes; it finds its client gone after the last word of a job."""

    def write(self, line: Any, /) -> int:
        if b'"Finished"' in line:
            raise BrokenPipeError
        return super().write(line)


def serve(request: bytes) -> None:
    """Do what a child does that is sent this line, in a thread of its own."""
    folders = private_folders()
    server = Server(Replies(), folders, sys.exit)

    def work() -> None:
        with suppress(SystemExit):
            server.serve()

    thread = threading.Thread(target=work)
    thread.start()
    with pytest.raises(SystemExit):  # there are no more lines
        server.listen(io.BytesIO(request))
    thread.join(60)
    remove_folders(folders)
    assert not thread.is_alive()


def test_a_click_on_segment_is_short_to_follow(
    bare_desk: Any, scan_file: Path, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks: dict[str, list[Step]] = {}
    asked: list[Ask] = []

    def write(message: Any) -> bytes:
        if isinstance(message, Ask):
            asked.append(message)
            stacks["request written"] = [*way.stack(), (messages.__name__, "encode")]
        return messages.encode(message)

    def compute(predictor: TiledPredictor, batch: Any, forward: Any = TiledPredictor._forward) -> Any:
        stacks.setdefault("first tile computed", way.stack())
        return forward(predictor, batch)

    monkeypatch.setattr(process, "encode", write)
    monkeypatch.setattr(TiledPredictor, "_forward", compute)
    bare_desk.open(scan_file)
    bare_desk.choose("plain-3d")
    bare_desk.viewer.layers.events.inserted.connect(lambda _: stacks.setdefault("layer added", way.stack()))
    before = set(sys.modules)
    with modules_that_run() as in_window:
        bare_desk.segment()
    imported = sorted(name for name in set(sys.modules) - before if ours(name))
    (ask,) = asked
    request = ask.request.replace(scan=ScanRef(file=str(scan_file), axes="zyx"))  # the array is gone with its job
    with modules_that_run() as in_child:
        serve(messages.encode(ask.replace(request=request)))

    assert sorted(stacks) == ["first tile computed", "layer added", "request written"]
    files = {CHILD, *(module for stack in stacks.values() for module, _ in stack)}
    back = [function for _, function in stacks["layer added"]]
    hops = back[back.index("Engine._receive") : back.index("SegmentJob._take")]  # from where it is decoded
    assert len(files) <= FILES, sorted(files)
    assert len(hops) <= HOPS, hops
    assert len(in_window) <= IN_WINDOW, "\n".join(sorted(in_window))
    assert len(in_child) <= IN_CHILD, sorted(in_child)
    assert imported == []
