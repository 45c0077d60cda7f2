"""By which a scan that changed is told, and what the results of a job rest on."""

from __future__ import annotations

import contextlib
import hashlib
import json
from array import array
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prosma_core.data.geometry import Box
from prosma_core.errors import ProsmaError
from prosma_core.io.atomic import PREFIX, write_bytes_atomic
from prosma_core.io.remote import RemotePath
from prosma_core.io.zarr_checks import load_node, remote_state
from prosma_core.io.zarr_labels import GROUP

HEAD = "job.json"


class ScanState:
    """Files of a scan at one moment: 16 bytes each, as a zarr may have millions.

    Label maps are written into a scan: the `labels` group, and what its uppermost group says of its members, are none
    of its own. Of a zarr on a server only the metadata is known.

    Parameters
    ----------
    source : Path
        As the scan is named.
    copy : Path
        Where it is read.
    """

    def __init__(self, source: Path, copy: Path) -> None:
        names, stamps = array("Q"), array("Q")
        self._own: tuple[str, ...]
        self._parts = not isinstance(copy, RemotePath) and copy.is_dir()
        if isinstance(copy, RemotePath):
            self._own = str(source), str(remote_state(copy))
        else:
            copy = copy.resolve()
            changed = {copy / ".zmetadata", copy / "zarr.json"}
            for file in copy.rglob("*") if copy.is_dir() else [copy]:
                if file not in changed and GROUP not in file.relative_to(copy).parts and file.is_file():
                    found = file.stat()
                    names.append(_hash(str(file)))
                    stamps.append(_hash(f"{file.relative_to(copy)}\n{found.st_size}\n{found.st_mtime_ns}"))
            self._own = str(source.resolve()), _metadata(copy)
        self._names, self._stamps = np.array(names, np.uint64), np.array(stamps, np.uint64)

    def without(self, files: Collection[str]) -> list[Any]:
        """The state, as JSON, of all but some files of a folder, which may change without a trace."""
        some = np.array([_hash(file) for file in files if self._parts], np.uint64)
        left = self._stamps[~np.isin(self._names, some)]
        return [*self._own, len(left), int(left.sum(dtype=np.uint64))]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def _metadata(copy: Path) -> str:
    with contextlib.suppress(ProsmaError, OSError):
        node = load_node(copy)
        known = {key: value for key, value in node.metadata.items() if key != "consolidated_metadata"} if node else {}
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    return ""


@dataclass(frozen=True)
class Head:
    """What all blocks that are done rest on; it is on the disk before the first of them is marked.

    Attributes
    ----------
    job : str
        Tells the same job, on the same scan but for what could not be read, from others.
    unreadable : list of str
        Files that could not be read when this was written: no block that is done has any of them in it.
    normalized : str
        How blocks are normalized, as of `StoredArray`.
    """

    job: str
    unreadable: list[str]
    normalized: str

    @property
    def digest(self) -> str:
        """By which a list of blocks names it."""
        return hashlib.sha256(self._content()).hexdigest()

    def _content(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    def write(self, folder: Path) -> None:
        """Write it in place of an earlier one; raises `OutputError`."""
        write_bytes_atomic(folder / HEAD, self._content())

    @classmethod
    def read(cls, folder: Path) -> Head | None:
        """The one of a folder; None where there is none."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads((folder / HEAD).read_text(encoding="utf-8"))
            return cls(str(found["job"]), list(map(str, found["unreadable"])), str(found["normalized"]))
        return None


def hidden_folder(target: Path) -> Path:
    """Where a label map that is written by parts, and what belongs to it, lie until all are whole."""
    return target.with_name(f"{PREFIX}partial-{target.name}")


def listed_blocks(folder: Path, head: Head) -> set[Box]:
    """Blocks in the lists of a hidden folder that name its head."""
    found: set[Box] = set()
    for path in folder.glob("blocks*.txt"):
        with contextlib.suppress(OSError, ValueError):
            first, *lines = path.read_text(encoding="utf-8").splitlines()
            if first == head.digest:
                found |= set(filter(None, map(_box_of, lines)))
    return found


def kept_blocks(target: Path) -> int:
    """How many blocks of a label map a run that has ended left in its hidden folder."""
    head = Head.read(hidden_folder(target))
    return 0 if head is None else len(listed_blocks(hidden_folder(target), head))


def _box_of(line: str) -> Box | None:
    """A block in the list of those that are done; None of a line that was cut, as where the disk was full."""
    try:
        return tuple((int(start), int(stop)) for start, stop in json.loads(line))
    except (ValueError, TypeError):
        return None
