"""The child process: reads requests from its input, serves one at a time, writes replies.

Started by `prosma_core.engine.client` as ``python -m prosma_core.engine.server FOLDER...`` with private pipes.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pydantic import ValidationError

from prosma_core.engine.arrays import remove_folders
from prosma_core.engine.messages import ASK, ArrayMade, Ask, Cancel, Done, Failure, Progress, Ready, Stopped
from prosma_core.errors import DeviceError, ProsmaError

if TYPE_CHECKING:
    from prosma_core.engine.services import Services

NICENESS = 5
"""How far the child stands behind the viewer when both want the processor."""


class Server:
    """Replies to the requests of one client.

    Parameters
    ----------
    replies : binary file
        Where replies go, a line each.
    folders : sequence of Path
        Where result arrays are made.
    """

    def __init__(self, replies: BinaryIO, folders: Sequence[Path]) -> None:
        self._replies, self._folders = replies, folders
        self._writing = threading.Lock()
        self._asked: queue.SimpleQueue[Ask] = queue.SimpleQueue()
        self._cancelled: set[int] = set()

    def listen(self, requests: BinaryIO) -> None:
        """Read requests until the client is gone, then end the process, however busy it is."""
        for line in requests:
            try:
                message = ASK.validate_json(line)
            except ValidationError as error:
                self.send(_not_understood(line, error))
                continue
            if isinstance(message, Cancel):
                self._cancelled.add(message.cancel)
            else:
                self._asked.put(message)
        remove_folders(self._folders)
        os._exit(0)

    def serve(self, services: Services) -> None:
        """Serve requests, for ever."""
        while True:
            self._reply(self._asked.get(), services)

    def send(self, message: Ready | Progress | ArrayMade | Done | Failure | Stopped) -> None:
        """Send one message."""
        with self._writing:
            self._replies.write(message.model_dump_json().encode() + b"\n")
            self._replies.flush()

    def _run(self, ask: Ask, services: Services) -> Done | Stopped:
        work = services.run(ask.request, lambda name, ref: self.send(ArrayMade(job=ask.job, name=name, array=ref)))
        while True:
            if ask.job in self._cancelled:
                work.close()
                return Stopped(job=ask.job)
            try:
                event = next(work)
            except StopIteration as stop:
                return Done(job=ask.job, result=stop.value)
            self.send(Progress.of(ask.job, event))

    def _reply(self, ask: Ask, services: Services) -> None:
        """Send what a job ends with; nothing it raises ends the process."""
        job = ask.job
        try:
            self.send(self._run(ask, services))
        except ProsmaError as error:
            self._fail(job, type(error).__name__, str(error))
        except MemoryError:
            words = "Main memory ran out. Close other programs, or crop the scan."
            self._fail(job, DeviceError.__name__, words)
        except Exception as error:  # noqa: BLE001  (whatever it is, the person hears of it and the engine lives on)
            words = f"The engine met an error it does not know: {type(error).__name__}: {error}. See the details."
            self._fail(job, "EngineError", words)

    def _fail(self, job: int, error: str, message: str) -> None:
        self.send(Failure(job=job, error=error, message=message, details=traceback.format_exc()))


def _not_understood(line: bytes, error: ValidationError) -> Failure:
    """Reply to a request that is not one; its job's number is found where there is one."""
    try:
        job = int(json.loads(line)["job"])
    except (ValueError, TypeError, KeyError):
        job = 0
    text = f"The engine cannot read the request: {error.errors()[0]['msg']}. Restart napari; if it stays, reinstall."
    return Failure(job=job, error="EngineError", message=text, details=str(error)[:2000])


def main(folders: Sequence[Path]) -> None:
    """Serve the client at the other end of this process's input and output."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints goes to the log, not between the replies
    _die_with_parent()
    with contextlib.suppress(AttributeError, OSError):  # Windows has no nice
        os.nice(NICENESS)
    server = Server(replies, folders)
    threading.Thread(target=server.listen, args=(sys.stdin.buffer,), daemon=True).start()

    from prosma_core.engine.services import Services, ready

    server.send(ready())
    server.serve(Services(folders))


def _die_with_parent() -> None:
    """Ask Linux to kill this process when the thread that started it ends, should its input not say so."""
    if sys.platform == "linux":
        import ctypes
        import signal

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
