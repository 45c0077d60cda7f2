"""What is checked on every worker before work begins: versions, scans to read, a folder to write."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import prosma_core
from prosma_core.io.remote import RemotePath

PACKAGES = ("torch", "numpy", "zarr", "nibabel", "tifffile", "pydantic", "distributed")
"""Packages that the results, or the way to them, depend on."""
PLACES, SAMPLE = 8, 4096
"""Places of a file, and bytes at each, that tell it from another one."""


@dataclass(frozen=True)
class Probe:
    """What a worker is asked to look at.

    Attributes
    ----------
    folder : Path or None
        A folder in the one for results.
    token : str
        What the file ``client`` in it says.
    scans : tuple of Path
    marks : tuple of str
        `mark` of each scan.
    """

    folder: Path | None = None
    token: str = ""
    scans: tuple[Path, ...] = ()
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a worker found: its versions, where it is, and what it cannot read or write."""

    versions: dict[str, str]
    place: str
    problem: str = ""


def versions_here() -> dict[str, str]:
    """Versions of this process; builds of a package (such as torch's for CUDA) are one version."""
    found = {"napari-prosma": prosma_core.__version__, "Python": ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def difference(ours: dict[str, str], theirs: dict[str, str]) -> str:
    """Which versions differ, as text; empty where none does."""
    other = [(name, theirs.get(name, "not installed")) for name in ours if theirs.get(name) != ours[name]]
    return ", ".join(f"{name} {there} (here {ours[name]})" for name, there in other)


def answer(probe: Probe) -> Answer:
    """Look, on a worker."""
    place = f"process {os.getpid()} on {platform.node()}"
    return Answer(versions_here(), place, _unwritable(probe) or unreadable(probe.scans) or _other(probe))


def _unwritable(probe: Probe) -> str:
    """Why the folder for results is not that of the client; leaves a file in it."""
    if probe.folder is None:
        return ""
    folder = probe.folder.parent
    try:
        if (probe.folder / "client").read_text(encoding="ascii") != probe.token:
            return f"{folder} is another folder there"
        own = probe.folder / f"{platform.node()}-{os.getpid()}"
        own.write_text(probe.token, encoding="ascii")
        own.unlink()
    except OSError as error:
        what = "does not see" if isinstance(error, FileNotFoundError) else "cannot write to"
        return f"{what} {folder} ({error.strerror})"
    return ""


def unreadable(scans: Sequence[Path]) -> str:
    """Which scan cannot be read here, and why; empty where all can. Those of a URL are not asked for."""
    for path in scans:
        if isinstance(path, RemotePath):
            continue
        try:
            if path.is_dir():
                os.listdir(path)  # noqa: PTH208  (whether it may be read)
            else:
                with path.open("rb") as file:
                    file.read(1)
        except OSError as error:
            return f"cannot read {path} ({error.strerror})"
    return ""


def mark(path: Path) -> str:
    """Size and some bytes of a file, of a folder of one file in it: of two scans they differ; empty for a URL.

    Times are not compared: copies of a file on several computers have times of their own.
    """
    if isinstance(path, RemotePath):
        return ""
    while path.is_dir():
        names = sorted(os.listdir(path))  # noqa: PTH208  (names alone)
        if not names:
            return "empty"
        shown = [name for name in names if not name.startswith(".")] or names
        path = path / shown[len(shown) // 2]
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        for place in range(PLACES):
            file.seek(max(0, size - SAMPLE) * place // (PLACES - 1))
            digest.update(file.read(SAMPLE))
    return f"{size}-{digest.hexdigest()}"


def marks(scans: Sequence[Path]) -> tuple[str, ...]:
    """`mark` of each scan; empty where it cannot be read here."""

    def one(path: Path) -> str:
        try:
            return mark(path)
        except OSError:
            return ""

    return tuple(map(one, scans))


def _other(probe: Probe) -> str:
    """Which scan is another one here."""
    for path, wanted in zip(probe.scans, probe.marks, strict=False):
        try:
            if wanted and mark(path) != wanted:
                return f"has another scan as {path}"
        except OSError as error:
            return f"cannot read {path} ({error.strerror})"
    return ""
