"""Fixtures and settings that all tests share."""

from __future__ import annotations

import compileall
import contextlib
import gc
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import coverage
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"


def _load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FSYNC = os.fsync
UNTRACED = None
if sys.gettrace() is not None:  # coverage is measured: of ours, here and in the processes that tests start
    MEASURED = ROOT / "tests" / "measured"
    UNTRACED = _load(MEASURED / "sitecustomize.py", "prosma_test_measured").untraced
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(MEASURED), os.environ.get("PYTHONPATH"))))

os.environ.setdefault("PROSMA_PROBE", "0")  # every machine computes the same way; the engines that tests start as well

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background, or by nohup
    signal.signal(signal.SIGINT, lambda *_: None)  # the same here, and not inherited by the processes that tests start

# No deadline: the first call of a torch function is slow. In CI every run draws the same examples.
settings.register_profile("local", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the project once: where Python writes no bytecode, each process of the tests compiles it anew."""
    if not hasattr(session.config, "workerinput"):  # not in each of several workers
        compileall.compile_dir(ROOT / "src", quiet=2)


FIRST = (
    "tests/e2e/train",
    "tests/e2e",
    "tests/core/engine",
    "tests/core/training",
    "tests/test_docs_commands.py",
    "tests/test_fuzz.py",
    "tests/evidence",
)
"""What takes longest: begun first, so that two processes end at about the same time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `data` every test that asks for the real scans; let the long files come first."""
    items.sort(key=lambda item: next((i for i, at in enumerate(FIRST) if item.nodeid.startswith(at)), len(FIRST)))
    for item in items:
        if "data_root" in getattr(item, "fixturenames", ()):
            item.add_marker("data")


def counts(item: pytest.Item) -> bool:
    """Whether a test counts for the coverage: it is about the core or the plugin, and not marked as slow."""
    part = item.path.relative_to(ROOT / "tests").parts[0]
    return part in {"core", "plugin"} and item.get_closest_marker("slow") is None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Let the others go unmeasured: what they reach, quick tests reach as well, and tracing makes each take longer."""
    measured = coverage.Coverage.current()
    if measured is None or counts(item):
        return (yield)
    measured.stop()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # nor the processes that they start
        try:
            return (yield)
        finally:
            measured.start()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Generator[None, None, None]:
    """Delete the widgets that a test closed: without an event loop Qt keeps them, and looks through all of them."""
    yield
    if "qtpy.QtCore" in sys.modules:
        from qtpy.QtCore import QCoreApplication, QEvent

        if QCoreApplication.instance() is not None:
            QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)


def pytest_collection_finish() -> None:
    """Let garbage collection pass over all that was imported: after each window it would look through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk() -> Iterator[None]:
    """Let `os.fsync` return at once: what a process wrote is only lost when the power fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # a descriptor that is none is still an error
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the folder of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Return the folder of real annotated scans; skip the test where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"needs the real scans, which are not part of the repository; no folder {DATA}")
    return DATA


@pytest.fixture(scope="session")
def display() -> None:
    """Skip the test where there is no screen to open a window on."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        pytest.skip("needs a display: python3 run.py test")


@pytest.fixture(scope="session")
def untraced() -> Callable[[Callable[..., Any]], Callable[..., Any]] | None:
    """Return what takes a function of others out of what is traced; None where no coverage is measured."""
    return UNTRACED


@pytest.fixture
def rng() -> np.random.Generator:
    """Return random numbers, the same ones in every run."""
    return np.random.default_rng(20260303)


@pytest.fixture
def run_py() -> ModuleType:
    """Return a fresh module made from ``run.py``."""
    return _load(ROOT / "run.py", "run_py")


@pytest.fixture(scope="session")
def faults() -> ModuleType:
    """Return the module ``tests/faults.py``: file operations that fail, or end the process."""
    return _load(ROOT / "tests" / "faults.py", "prosma_test_faults")


@pytest.fixture
def small_disk(tmp_path: Path, faults: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a file system of 4 MiB, a `SmallDisk` of ``tests/faults.py``; skip the test where none can be mounted."""
    monkeypatch.setattr(os, "fsync", FSYNC)  # where a full disk may be told first
    with contextlib.ExitStack() as stack:
        try:
            disk = stack.enter_context(faults.small_disk(tmp_path / "disk", 4 << 20))
        except faults.MountError as error:
            pytest.skip(str(error))
        yield disk


@pytest.fixture(scope="session")
def scheduler() -> Iterator[str]:
    """Return the address of a Dask scheduler with two workers."""
    from tests.dask_cluster import two_workers

    with two_workers() as address:
        yield address


@pytest.fixture
def worker_with(tmp_path: Path) -> Callable[..., AbstractContextManager[Any]]:
    """Return what starts one more worker for a scheduler, in which some code runs first: address, code."""
    from tests.dask_cluster import worker

    return lambda address, code="": worker(tmp_path, address, code)


@pytest.fixture
def scheduler_file(tmp_path: Path) -> Iterator[tuple[Path, Any]]:
    """Return the file of a Dask scheduler without workers, and its process."""
    from tests.dask_cluster import scheduler

    with scheduler(tmp_path) as found:
        yield found
