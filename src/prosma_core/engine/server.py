"""Entry point of the engine process: ``python -m prosma_core.engine.server FOLDER...``, started by the client."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable

from prosma_core.engine import guardian

NICENESS = 5
"""How far this process stands behind the viewer when both want the processor."""
PARENT_POLL = 2.0
"""Seconds between two checks whether the parent lives."""


def main() -> None:
    """Serve the client at the other end of this process's input and output, until it is gone."""
    requests, replies = guardian.private_pipes()
    guardian.start(sys.argv[1:])  # while there is one thread
    import faulthandler
    import signal
    from pathlib import Path

    from prosma_core.engine.arrays import remove_folders
    from prosma_core.engine.serving import Server

    folders = [Path(folder) for folder in sys.argv[1:]]
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the viewer's terminal is the viewer's
    _step_back()

    def orphaned() -> None:
        """Leave at once, however busy: nobody is there to hear of anything."""
        remove_folders(folders)
        os._exit(0)

    server = Server(replies, folders, orphaned)
    threading.Thread(target=server.listen, args=(requests,), daemon=True).start()
    threading.Thread(target=_watch_parent, args=(os.getppid(), orphaned), daemon=True).start()
    guardian.end_with_parent()
    try:
        server.serve()
    except BaseException:  # noqa: BLE001  (the parent reads it in the log)
        import traceback

        traceback.print_exc()
        os._exit(1)  # without waiting for the thread that reads


def _step_back() -> None:
    """Let the viewer go first."""
    import psutil

    with contextlib.suppress(OSError, psutil.Error):
        psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS if sys.platform == "win32" else NICENESS)


def _watch_parent(parent: int, orphaned: Callable[[], None]) -> None:
    """See the parent go even where another process still holds the pipe open."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL)
    orphaned()


if __name__ == "__main__":
    main()
