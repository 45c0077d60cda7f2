"""A Dask scheduler and workers of their own, as on other computers."""

from __future__ import annotations

import logging
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Client, LocalCluster

PATIENCE = 120.0
"""Seconds for a process to start, on a machine that is busy."""
JOINED_S = 10.0
"""For a worker that has started to be in the scheduler's list."""


@contextmanager
def two_workers() -> Iterator[str]:
    """Address of a scheduler with two workers."""
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


@contextmanager
def worker(folder: Path, address: str, code: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """One more worker for a scheduler, in which some code runs first."""
    first, started = folder / "first.py", folder / "started"
    first.write_text(f"{code}\ndef dask_setup(worker):\n    open({str(started)!r}, 'w').close()\n", encoding="utf-8")
    name = secrets.token_hex(4)
    arguments = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--name", name, "--preload", str(first))
    with _running("distributed.cli.dask_worker", address, *arguments) as process:
        wait_for(started.exists)
        with Client(address, set_as_default=False, timeout=PATIENCE) as client:  # it joins a moment later
            until = time.monotonic() + JOINED_S
            while name not in _names(client) and time.monotonic() < until:
                time.sleep(0.05)
        yield process
    started.unlink()


@contextmanager
def scheduler(folder: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """File of a scheduler without workers, and its process."""
    path = folder / "scheduler.json"
    arguments = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--dashboard-address", "127.0.0.1:0")
    with _running("distributed.cli.dask_scheduler", *arguments, "--scheduler-file", str(path)) as process:
        wait_for(path.exists)
        yield path, process


def _names(client: Client) -> set[str]:
    return {each["name"] for each in client.scheduler_info(n_workers=-1)["workers"].values()}


def wait_for(there: Callable[[], bool]) -> None:
    """Wait until something holds."""
    until = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < until
        time.sleep(0.05)
