"""A training by several processes, one for each GPU, that the engine starts and listens to."""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from typing import IO

from pydantic import ValidationError

from prosma_core.engine.messages import REPLY, Failed, Finished, Message, Said, TrainRequest, TrainResult, read_lines
from prosma_core.engine.process import child_environment
from prosma_core.errors import EngineError, TrainingError
from prosma_core.events import Event, Working
from prosma_core.io.hardware import usable_cores

LOOK = 0.3
"""Seconds between two looks at whether all processes are there."""
STOPPING = 1.5
"""Seconds that processes get to end by themselves when the training is stopped."""
ENDING = 20.0
"""Seconds that the others get to end when one has failed."""
SILENT = 2.0
"""Seconds without an event of the first process after which there is a place to stop."""
LOG = 4000
"""Bytes of the end of a process's log that are kept."""


def train_by_several(request: TrainRequest) -> Generator[Event, None, TrainResult]:
    """Train with several processes of this computer; the events are those of the first one.

    Parameters
    ----------
    request : TrainRequest
        With the whole run.

    Raises
    ------
    TrainingError
        A process was killed, or ended by itself without a word of the first one.
    ProsmaError
        As in `train`.
    """
    group = _Group(request)
    try:
        return (yield from group.follow())
    finally:
        group.end()


class _Group:
    """The processes of one training."""

    def __init__(self, request: TrainRequest) -> None:
        self._said: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `end`)
        size = request.processes
        ours = {
            **child_environment(),
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "TORCHELASTIC_RUN_ID": secrets.token_hex(8),
        }
        ours.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // size)))
        line = request.model_dump_json().encode() + b"\n"
        for rank in range(size):
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "prosma_core.engine.rank"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                stderr=self._log,
                env={**ours, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            self._processes.append(process)
            assert process.stdin is not None
            with contextlib.suppress(OSError), process.stdin:  # it may have ended: seen later
                process.stdin.write(line)
        threading.Thread(target=self._listen, name="prosma-ranks", daemon=True).start()

    def follow(self) -> Generator[Event, None, TrainResult]:
        """Events of the first process, and its result."""
        doing: Working | None = (starting := Working("Starting the processes"))
        yield starting
        ended, heard = 0.0, time.monotonic()
        while True:
            try:
                said = self._said.get(timeout=LOOK)
            except queue.Empty:
                now = time.monotonic()
                if doing is not None:
                    yield doing  # a place to stop
                elif now - heard > SILENT:
                    heard = now
                    yield Working("Waiting for the processes")
                if self._failed() and not ended:
                    ended = now
                if ended and now - ended > ENDING:
                    raise self._ended() from None
                continue
            heard = time.monotonic()
            if isinstance(said, Finished):
                assert isinstance(said.result, TrainResult)
                return said.result
            if isinstance(said, Failed):
                raise self._ended() if self._killed() else said.error
            if said is None:
                raise self._ended()
            doing = said if isinstance(said, Working) else None
            assert not hasattr(said, "array")
            yield said  # type: ignore[misc]

    def end(self) -> None:
        """End all processes, by a signal first."""
        left = [process for process in self._processes if process.poll() is None]
        for process in left:
            process.terminate()
        until = time.monotonic() + STOPPING
        for process in left:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            process.kill()
            process.wait()
        self._log.close()

    def _listen(self) -> None:
        """Take what the first process says, in a thread, until it ends."""
        replies = self._processes[0].stdout
        assert replies is not None
        with replies, contextlib.suppress(ValidationError, ValueError, EngineError):
            for line in read_lines(replies):
                reply = REPLY.validate_json(line)
                if isinstance(reply, Said):
                    self._said.put(reply.message())
        self._said.put(None)

    def _killed(self) -> list[int]:
        """Processes that a signal has ended."""
        return [rank for rank, process in enumerate(self._processes) if (process.poll() or 0) < 0]

    def _failed(self) -> list[int]:
        """Processes that have ended before their work was done."""
        return [rank for rank, process in enumerate(self._processes) if process.poll()]

    def _ended(self) -> TrainingError:
        """Why the training has ended without a word of the first process."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._processes[0].wait(STOPPING)
        which = (self._killed() or self._failed() or [0])[0]
        code, who = self._processes[which].poll() or 0, f"Process {which + 1} of {len(self._processes)}"
        if code < 0:
            why = f"{who} of this training was ended ({signal.Signals(-code).name}), possibly as memory ran out."
        else:
            self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - LOG))
            lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
            why = f"{who} of this training has ended (exit code {code}): {lines[-1] if lines else 'without a message'}."
        return TrainingError(f"{why} What the last finished epoch reached is kept: resume it under Earlier runs.")


def _free_port() -> int:
    """A port of this computer that is free now."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])
