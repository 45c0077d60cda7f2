"""Decoder process, reads files for a viewer: ``python -m prosma_core.engine.decode_server FOLDER...``. No torch."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosma_core.engine import guardian

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosma_core.data.geometry import Scan
    from prosma_core.engine.messages import DecodeAsk, Decoded, DecodedScan, NotDecoded

IDLE = 120.0
"""Seconds without a request after which this process ends."""
_SHARE_OF_MEMORY = 0.9
"""Share of the free memory that one file may take."""


def main() -> None:
    """Answer the viewer at the other end of this process's input and output, until it is gone or asks no more."""
    requests, replies = guardian.private_pipes()
    guardian.start(sys.argv[1:])  # while there is one thread
    import faulthandler
    import queue
    import signal
    import threading

    from prosma_core.engine.messages import DECODE_ASK
    from prosma_core.io import dataset_folder  # noqa: F401  (loads the readers while the request is on its way)

    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the viewer's terminal is the viewer's
    _go_first()
    folders = [Path(folder) for folder in sys.argv[1:]]
    asked: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        for line in requests:
            asked.put(line)
        os._exit(0)  # nobody is there to hear of anything

    threading.Thread(target=listen, daemon=True).start()
    while True:
        try:
            line = asked.get(timeout=IDLE)
        except queue.Empty:
            return
        _limit_memory()
        reply = answer(DECODE_ASK.validate_json(line), folders)
        replies.write(reply.model_dump_json().encode() + b"\n")
        replies.flush()


def answer(ask: DecodeAsk, folders: Sequence[Path]) -> Decoded | NotDecoded:
    """Read what is asked for into arrays of these folders; whatever goes wrong is an answer, too."""
    from prosma_core.engine.messages import NotDecoded
    from prosma_core.errors import FileFormatError, ProsmaError

    try:
        return _read(ask, folders)
    except ProsmaError as error:
        return NotDecoded(error=type(error).__name__, message=str(error))
    except MemoryError:
        words = f"{ask.paths[0]} does not fit into memory. Close other programs, or use a smaller part of the scan."
    except Exception as error:  # noqa: BLE001  (whatever it is, the person hears of it and the next file is read)
        words = f"{ask.paths[0]} cannot be read ({type(error).__name__}: {str(error)[:100]}). Copy or export it again."
    return NotDecoded(error=FileFormatError.__name__, message=words)


def _read(ask: DecodeAsk, folders: Sequence[Path]) -> Decoded:
    from prosma_core.engine.messages import Decoded
    from prosma_core.io.dataset_folder import Case, read_case, read_channels
    from prosma_core.io.images import read_image, read_labels
    from prosma_core.io.names import stem
    from prosma_core.io.notes import read_notes
    from prosma_core.io.read_errors import warnings_of

    paths = tuple(Path(path) for path in ask.paths)
    scans: tuple[Scan, ...] = ()
    notes: dict[str, Any] = {}
    with warnings_of("prosma_core.io") as said:
        if ask.what == "image":
            scans, notes = (read_image(paths[0], axes=ask.axes),), read_notes(paths[0])
        elif ask.what == "labels":
            scans = (read_labels(paths[0]),)
        elif ask.what == "channels":
            scans = (read_channels(paths),)
        elif ask.what == "case":
            scans = read_case(Case(stem(paths[0]), paths[:-1], paths[-1]))
        else:
            notes = read_notes(paths[0])
    return Decoded(
        scans=tuple(_hand_over(scan, paths[0], folders) for scan in scans), notes=notes, warnings=tuple(said)
    )


def _hand_over(scan: Scan, path: Path, folders: Sequence[Path]) -> DecodedScan:
    from prosma_core.engine.arrays import create
    from prosma_core.engine.messages import DecodedScan, header_message
    from prosma_core.engine.requests import spec_message
    from prosma_core.errors import FileFormatError

    if scan.data.dtype.kind not in "buif":
        msg = f"{path} holds values of type {scan.data.dtype}; real numbers are needed. Convert it."
        raise FileFormatError(msg)
    shared = create(folders, scan.data.shape, scan.data.dtype)
    shared.array[...] = scan.data
    return DecodedScan(array=shared.ref, spec=spec_message(scan.spec), header=header_message(scan.spec.header))


def _go_first() -> None:
    """Where memory runs out, let the system end this process rather than the viewer."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _limit_memory() -> None:
    """Let an allocation beyond the free memory fail, so that the file is refused with a message."""
    if sys.platform == "linux":
        import resource

        import psutil

        taken, free = psutil.Process().memory_info().rss, psutil.virtual_memory().available
        with contextlib.suppress(OSError, ValueError):
            hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
            resource.setrlimit(resource.RLIMIT_DATA, (taken + int(free * _SHARE_OF_MEMORY), hard))


if __name__ == "__main__":
    main()
