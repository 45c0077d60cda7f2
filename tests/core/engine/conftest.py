"""Real engine processes for the tests, scans that take long enough to interrupt, and a listener that remembers."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prosma_core.config.training import RunConfig, resolve_run
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.engine.arrays import PREFIX
from prosma_core.engine.client import Engine, Job
from prosma_core.engine.messages import Cancelled, Failed, Finished, Request, ScanRef, SegmentRequest, spec_message
from prosma_core.io.images import write_image, write_labels

PATIENCE = 120
"""Seconds after which a test gives up."""


class Heard:
    """What a listener was told, and by which thread."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.threads: set[str] = set()
        self.job: Job | None = None
        self._changed = threading.Condition()

    def __call__(self, message: Any) -> None:
        with self._changed:
            self.messages.append(message)
            self.threads.add(threading.current_thread().name)
            self._changed.notify_all()

    def of(self, kind: type) -> list[Any]:
        return [m for m in self.messages if isinstance(m, kind)]

    def wait_for(self, *kinds: type, so: Callable[[Any], bool] = lambda _: True) -> Any:
        """First message of a kind, of those that are so."""

        def found() -> list[Any]:
            return [m for m in self.messages if isinstance(m, kinds) and so(m)]

        with self._changed:
            assert self._changed.wait_for(found, PATIENCE), f"none of {kinds} among {self.messages[-3:]}"
            return found()[0]

    def end(self) -> Any:
        """Last message, when the job is over."""
        self.wait_for(Finished, Failed, Cancelled)
        return self.messages[-1]


@pytest.fixture(scope="session", autouse=True)
def _children_with_one_thread() -> Iterator[None]:
    """Let engines compute with one thread: results are then those of this process to the last bit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def warm_engine() -> Iterator[Engine]:
    """Return the engine that the tests share: a start takes seconds."""
    made = Engine()
    yield made
    made.close()


@pytest.fixture
def engine(warm_engine: Engine) -> Iterator[Engine]:
    """Return the shared engine, warm after the first test; whoever kills it leaves the start to the next job."""
    yield warm_engine
    warm_engine.check_idle()


@pytest.fixture
def own_engine() -> Iterator[Engine]:
    """Return an engine of the test's own that waits only a moment for a canceled job."""
    made = Engine(grace=0.5)
    yield made
    made.close()


@pytest.fixture(scope="session")
def model_2d(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path]) -> Path:
    """Return a tiny 2D model."""
    return make_model(tmp_path_factory.mktemp("models") / "flat.safetensors")


@pytest.fixture(scope="session")
def model_3d(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path]) -> Path:
    """Return a tiny 3D model."""
    return make_model(tmp_path_factory.mktemp("models") / "deep.safetensors", 3)


@pytest.fixture(scope="session")
def long_scan() -> Scan:
    """Return a scan that keeps a tiny 2D model busy for many seconds, a fraction of one per tile."""
    shape = (60, 256, 256)
    return Scan(np.random.default_rng(1).normal(size=shape).astype(np.float32), array_spec(shape, "zyx"))


@pytest.fixture(scope="session")
def hand_over() -> Callable[..., ScanRef]:
    """Return what puts a scan into an array that the engine can map: engine, scan."""

    def fill(engine: Engine, scan: Scan) -> ScanRef:
        shared = engine.allocate(scan.data.shape, scan.data.dtype)
        shared.array[...] = scan.data
        return ScanRef(array=shared.ref, spec=spec_message(scan.spec))

    return fill


@pytest.fixture(scope="session")
def submit(hand_over: Callable[..., ScanRef]) -> Callable[..., Heard]:
    """Return what starts a job: engine, model file, scan, settings of the request. What it gives is the listener."""

    def start(engine: Engine, model: Path, scan: Scan | ScanRef, **settings: Any) -> Heard:
        ref = hand_over(engine, scan) if isinstance(scan, Scan) else scan
        heard = Heard()
        heard.job = engine.submit(SegmentRequest(model=str(model), device="cpu", scan=ref, **settings), heard)
        return heard

    return start


@pytest.fixture(scope="session")
def begin() -> Callable[..., Heard]:
    """Return what gives an engine any request: engine, request. What it gives is the listener."""

    def start(engine: Engine, request: Request) -> Heard:
        heard = Heard()
        heard.job = engine.submit(request, heard)
        return heard

    return start


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Path]]:
    """Return files to train on: four small pictures of a bright disc, and their labels."""
    folder, found, spec = tmp_path_factory.mktemp("pairs"), [], array_spec((48, 48), "yx")
    for seed in range(4):
        rng = np.random.default_rng(seed)
        center = rng.integers(18, 30, 2)
        labels = (sum((g - c) ** 2 for g, c in zip(np.indices((48, 48)), center, strict=True)) < 150).astype(np.uint8)
        paths = folder / f"scan{seed}.tif", folder / f"labels{seed}.tif"
        write_image(paths[0], (labels * 50 + rng.normal(0, 10, (48, 48))).astype(np.float32), spec)
        write_labels(paths[1], labels, spec)
        found.append(paths)
    return found


@pytest.fixture(scope="session")
def tiny_run(pairs: list[tuple[Path, Path]]) -> Callable[..., RunConfig]:
    """Return a maker of runs of a moment each: model file, changes of the loop, other changes."""

    def make(out: Path, training: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
        loop = {"epochs": 2, "steps": 4, "batch_size": 2, "ema_decay": 0.5, "learning_rate": 0.01, **(training or {})}
        values = {
            "device": "cpu",
            "pairs": pairs,
            "out": out,
            "network": {"width": 4, "max_width": 8, "max_stages": 3},
            "preprocess": {"tile": [32, 32]},
        }
        return resolve_run({**values, **changes, "training": loop})

    return make


@pytest.fixture
def make_run(tmp_path: Path, tiny_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    """Return a maker of runs in the test's folder: name of the model, changes of the loop, other changes."""

    def make(
        name: str = "m", training: dict[str, Any] | None = None, out: Path | None = None, **changes: Any
    ) -> RunConfig:
        return tiny_run(out or tmp_path / f"{name}.safetensors", training, **changes)

    return make


@pytest.fixture(scope="session")
def shared_files() -> Callable[..., list[Path]]:
    """Return what lists the private folders of a process (this one unless given), and the files in them."""

    def find(pid: int | None = None) -> list[Path]:
        bases = [Path("/dev/shm"), Path(tempfile.gettempdir())]
        folders = [f for base in bases for f in base.glob(f"{PREFIX}{pid or os.getpid()}-*")]
        return [*folders, *(file for folder in folders for file in folder.iterdir())]

    return find


@pytest.fixture
def play_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return what puts a Python script in the place of the engine's process."""

    def play(code: str) -> None:
        script = tmp_path / "played.py"
        script.write_text(f"#!{sys.executable}\nimport sys, time\n{code}\n", encoding="utf-8")
        script.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(script))

    return play
