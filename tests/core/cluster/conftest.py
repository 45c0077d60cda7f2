"""A Dask cluster of two worker processes, and workers and schedulers of their own, as on other computers."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster

from prosma_core.data.geometry import array_spec
from prosma_core.io.images import write_image

PATIENCE = 120.0
"""Seconds for a process to start, on a machine that is busy."""


@pytest.fixture(scope="session")
def scheduler() -> Iterator[str]:
    """Return the address of a scheduler with two workers."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",  # None takes port 8787, with a warning where that is taken
        scheduler_kwargs={"dashboard": False},
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster.scheduler_address


@contextmanager
def _running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ.copy()
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def worker_with(tmp_path: Path) -> Callable[[str, str], AbstractContextManager[object]]:
    """Return what starts one more worker for a scheduler, in which some code runs first."""

    @contextmanager
    def start(address: str, code: str = "") -> Iterator[object]:
        first, started = tmp_path / "first.py", tmp_path / "started"
        first.write_text(
            f"{code}\ndef dask_setup(worker):\n    open({str(started)!r}, 'w').close()\n", encoding="utf-8"
        )
        arguments = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--preload", str(first))
        with _running("distributed.cli.dask_worker", address, *arguments) as process:
            wait_for(started.exists)
            yield process
        started.unlink()

    return start


@pytest.fixture
def scheduler_file(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """Return the file of a scheduler of its own, and its process."""
    path = tmp_path / "scheduler.json"
    arguments = (
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
        "--dashboard-address",
        "127.0.0.1:0",
        "--scheduler-file",
        str(path),
    )
    with _running("distributed.cli.dask_scheduler", *arguments) as process:
        wait_for(path.exists)
        yield path, process


def wait_for(there: Callable[[], bool]) -> None:
    """Wait until something holds."""
    until = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Return a folder with four pictures of noise."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("a.tif", "b.tif", "c.tif", "d.nii.gz"):
        write_image(
            folder / name, rng.normal(size=(20, 21)).astype(np.float32), array_spec((20, 21), "yx", (2, 2), "mm")
        )
    return folder
