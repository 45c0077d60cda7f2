"""A series of scans to go through: which there are, how far each is, and where its labels are kept. No Qt."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import re
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from napari_prosma.train.pairs import Pair
from napari_prosma.train.sources import Source
from prosma_core.config.documents import load_json
from prosma_core.data.slices import SliceStates
from prosma_core.errors import DatasetError, OutputError, ProsmaError
from prosma_core.io.atomic import cannot_write, write_bytes_atomic
from prosma_core.io.dataset_folder import image_files
from prosma_core.io.names import FORMATS, image_suffix, is_dicom_folder, is_image_path, safe_name, stem
from prosma_core.printable import counted

_LOG = logging.getLogger(__name__)

Step = Literal["untouched", "in work", "done"]
MOST_SCANS = 5000
"""Files of a series; a folder with more is not meant as one."""
LABELS = "_labels"
"""Ending of the name of saved labels, before the suffix."""
NOTES = "series.json"
_FOLDERS = {"images": "labels", "imagesTr": "labelsTr"}
"""Folders of images, and the folder of labels beside each."""
NOT_DICOM = FORMATS.keys() - {".dcm"}
_KEPT = ("annotated", "slices", "finished", "validation")
_COPY = "copy"
"""Which labels the notes of a scan are of: the number in the name of the file; 0 where it has none."""
_ASIDE = re.compile(rf"^(.+{LABELS})-([1-9]\d*)$")
_CHANNEL = re.compile(r"^(.+)_(\d{4})$")
_MOST_CHANNELS = 8
Stamp = tuple[tuple[str, int, int, int], ...]
"""Name, number, time and size of files."""


@dataclass(frozen=True)
class SeriesScan:
    """A scan of a series, and what is known of its labels.

    Attributes
    ----------
    name : str
        Path of its file below the folder of the series; of channels, with the channel's number left out.
    images : tuple of Path
        The file, or one for each channel.
    given : Path or None
        Labels that the folder holds already; never written to.
    saved : Path or None
        Labels that were saved of it, last.
    others : tuple of str
        Names of other labels that were saved of it, such as by another window, without suffix.
    annotated, slices : int
        Checked and edited slices of the saved labels, and all of them; 0 slices where that is not known.
    finished : bool
        Whether it was left with checked or edited slices, and still has them.
    validation : bool
        Whether it is for validation.
    problem : str
        Why it cannot be opened; empty unless that was tried.
    """

    name: str
    images: tuple[Path, ...]
    given: Path | None = None
    saved: Path | None = None
    others: tuple[str, ...] = ()
    annotated: int = 0
    slices: int = 0
    finished: bool = False
    validation: bool = False
    problem: str = ""

    @property
    def labels(self) -> Path | None:
        """File of the labels: what was saved, or else what the folder holds."""
        return self.saved or self.given

    @property
    def step(self) -> Step:
        """How far it is."""
        if self.saved is None:
            return "done" if self.given is not None else "untouched"
        if self.finished:
            return "done"
        return "in work" if self.annotated or not self.slices else "untouched"

    @property
    def words(self) -> str:
        """How far it is, in words, such as ``done: 3 of 31`` (slices)."""
        if self.problem:
            return "cannot be opened"
        if self.saved is None:
            return "done: own labels" if self.given is not None else self.step
        if self.step == "untouched" or not self.slices:
            return self.step
        return f"{self.step}: {self.annotated} of {self.slices}"

    @property
    def others_words(self) -> str:
        """That there are other labels than those it is opened with; empty where there are none."""
        if self.saved is None or not self.others:
            return ""
        names = ", ".join(self.others[:3]) + (", …" if len(self.others) > 3 else "")
        return f"{self.name} was opened with its labels {stem(self.saved)}; others are kept beside them: {names}."

    @property
    def trained_on(self) -> bool:
        """Whether there are labels to train on."""
        return not self.problem and self.labels is not None and self.step != "untouched"


class Series:
    """The scans of a folder, and what is kept of them in a folder of its own.

    Parameters
    ----------
    folder : Path
        Of the scans; nothing is written there.
    home : Path
        Folder of the models, in which that of the labels is made as soon as there are any.
    files : sequence of Path
        Those of the folder that are meant; none: all, also in its subfolders.

    Attributes
    ----------
    folder : Path
    root : Path
        Where labels and notes are kept; the same for the same folder.
    scans : list of SeriesScan
    moved : str
        Where labels are kept of a folder with such scans that is not there any more; empty where there are none.

    Raises
    ------
    DatasetError
        The folder is not there, or holds no image or too many.
    """

    def __init__(self, folder: Path, home: Path, files: Sequence[Path] = ()) -> None:
        self.folder = folder.absolute()
        digest = hashlib.blake2b(os.fsencode(self.folder.resolve()), digest_size=4).hexdigest()
        self.root = home / f"{safe_name(self.folder.name)}-{digest} annotations"
        self._lock = threading.Lock()
        self._notes = _read_notes(self.root / NOTES)
        found = find_scans(self.folder, files)
        there = _saved_files(self.root)
        self._places: dict[str, Path] = {}
        self._stamps: dict[str, Stamp] = {}
        self.scans = [self._known(scan, there) for scan in found]
        self.moved = "" if self._notes or there else self._labels_elsewhere(home)

    @property
    def title(self) -> str:
        """Name of the folder."""
        return self.folder.name or str(self.folder)

    @property
    def words(self) -> str:
        """How many scans there are, and how far they are."""
        steps = [scan.step for scan in self.scans if not scan.problem]
        parts = [counted(len(self.scans), "scan"), f"{steps.count('done')} done", f"{steps.count('in work')} in work"]
        broken = len(self.scans) - len(steps)
        return f"{self.title}: {', '.join(parts)}" + (f", {broken} cannot be opened" if broken else "")

    def number(self, name: str) -> int:
        """Number of a scan."""
        return next(i for i, scan in enumerate(self.scans) if scan.name == name)

    def next_after(self, name: str | None) -> SeriesScan | None:
        """The first scan after one (None: from the beginning, and around) that is not done and can be opened."""
        start = 0 if name is None else self.number(name) + 1
        order = [*self.scans[start:], *self.scans[:start]]
        return next((s for s in order if s.step != "done" and not s.problem and s.name != name), None)

    def file_of(self, scan: SeriesScan) -> Path:
        """Where labels of a scan are saved, without suffix."""
        flat = scan.name.replace("/", "__")
        safe = safe_name(flat, most=100)
        if safe != scan.name:
            safe += "-" + hashlib.blake2b(scan.name.encode(errors="surrogateescape"), digest_size=4).hexdigest()
        return self.root / f"{safe}{LABELS}"

    def reread(self) -> None:
        """Know what another window, or another program, has saved or written down meanwhile; in any thread."""
        there = _saved_files(self.root)
        with self._lock:
            self._notes |= _read_notes(self.root / NOTES)
            self.scans = [self._known(scan, there) for scan in self.scans]

    def place(self, name: str) -> tuple[Path, str]:
        """Where labels of a scan, that was opened, are saved next, without suffix; in any thread.

        What was saved there since by somebody else stays: another place is taken, and the text says so, once.

        Raises
        ------
        OutputError
            The folder cannot be made.
        """
        self._make_root()
        usual = self.file_of(self.scans[self.number(name)])
        own = self._places.get(name, usual)
        there = _stamps(self.root)
        if there.get(own.name, ()) == self._stamps.get(name, ()):
            return own, ""
        names = (f"{usual.name}-{number}" for number in itertools.count(2))
        other = self._places[name] = self.root / next(each for each in names if each not in there)
        self._stamps[name] = ()
        words = f"Labels of {name} were saved by another window or program since they were opened here: both are kept"
        return other, f"{words}, yours in {other.name}."

    def pair(self, scan: SeriesScan) -> Pair | None:
        """A scan and the file of its labels; None where there is nothing to train on."""
        path = scan.labels
        if path is None or not scan.trained_on:
            return None
        channels = scan.images if len(scan.images) > 1 else ()
        image = Source(path=scan.images[0], title=scan.name, channels=channels)
        labels = Source(path=path, title=path.name, copied=path == scan.saved)
        return self.parted(Pair(image, labels), scan)

    def parted(self, pair: Pair, scan: SeriesScan) -> Pair:
        """The pair, for validation where its scan is."""
        held = scan.validation
        return replace(pair, part="val" if held else "", splits=f"the series {self.title}" if held else "")

    def update(self, name: str, **changes: Any) -> SeriesScan:
        """Change what is known of a scan, in memory."""
        number = self.number(name)
        self.scans[number] = replace(self.scans[number], **changes)
        return self.scans[number]

    def keep(self, *names: str, **changes: Any) -> None:
        """Change what is known of scans, and write it down; in any thread.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        with self._lock:
            self._notes |= _read_notes(self.root / NOTES)  # another window writes there, too
            noted = {key: int(value) for key, value in changes.items() if key in _KEPT}
            if "saved" in changes:
                noted[_COPY] = _numbered(changes["saved"])[1]
            there = _saved_files(self.root)
            for name in names:
                self._notes[name] = {**self._notes.get(name, {}), **noted}
                number = self.number(name)
                self.scans[number] = replace(self._known(self.scans[number], there), **changes)
            content = {"folder": str(self.folder), "scans": self._notes}
            self._make_root()
            try:
                write_bytes_atomic(self.root / NOTES, json.dumps(content, indent=1).encode(errors="surrogateescape"))
            except OSError as error:
                raise self._unwritable(error) from error

    def saved(self, name: str, path: Path, states: SliceStates | None) -> None:
        """Labels of a scan were saved; without a checked or edited slice it is not done. Errors as of `keep`.

        In any thread.
        """
        self._stamps[name] = _stamps(self.root).get(stem(path), ())
        count = len(states.annotated) if states is not None else 0
        undone = {"finished": False} if states is not None and not count else {}
        self.keep(name, saved=path, annotated=count, slices=states.count if states is not None else 0, **undone)

    def _known(self, scan: SeriesScan, there: dict[str, dict[int, Path]]) -> SeriesScan:
        """What the notes say of a scan and of the labels that were saved last; of others only that they are there."""
        notes, files = self._notes.get(scan.name, {}), there.get(self.file_of(scan).name, {})
        copy = notes.get(_COPY, 0)
        if files and copy not in files:  # gone since
            copy = min(files)
            notes = {"validation": notes.get("validation", 0)}
        numbers = {key: max(0, int(notes.get(key, 0))) for key in ("annotated", "slices")}
        flags = {key: bool(notes.get(key, False)) for key in ("finished", "validation")}
        saved, others = files.get(copy), tuple(stem(files[each]) for each in sorted(files) if each != copy)
        known = replace(scan, validation=flags["validation"], saved=saved, others=others, **numbers)  # type: ignore[arg-type]
        marked = known.annotated > 0 or not known.slices
        return replace(known, finished=flags["finished"] and saved is not None and marked)

    def opened(self, name: str) -> SeriesScan:
        """A scan that is about to be opened, as it is now: what is saved of it is known; in any thread."""
        self.reread()
        scan = self.scans[self.number(name)]
        own = self._places[name] = self.file_of(scan) if scan.saved is None else self.root / stem(scan.saved)
        self._stamps[name] = _stamps(self.root).get(own.name, ())
        return scan

    def _make_root(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> OutputError:
        return cannot_write(self.root, error)

    def _labels_elsewhere(self, home: Path) -> str:
        names = {scan.name for scan in self.scans}
        for path in sorted(home.glob(f"* annotations/{NOTES}")):
            folder = _noted_folder(path)
            if folder is not None and not os.path.isdir(folder) and names & _read_notes(path).keys():  # noqa: PTH112
                return (
                    f"Labels of {folder}, which is not there any more, are kept in {path.parent.name}. If these are "
                    f"the same scans, close the series, rename that folder of the models to {self.root.name}, and "
                    "open the series again."
                )
        return ""


def find_scans(folder: Path, files: Sequence[Path] = ()) -> tuple[SeriesScan, ...]:
    """Scans of a folder and its subfolders, by name; no image is opened.

    Of a data folder (``images`` and ``labels``, or ``imagesTr`` and ``labelsTr``) the images, with the labels there
    are: by the image's own name, or by that of its case, without ``_0000``. Where all of a folder's files end with
    ``_0000``, ``_0001``, … and each of them has the same of these, they are channels; pictures that are numbered like
    frames, files with labels of their own name, and more than 8 of them are not.

    Raises
    ------
    DatasetError
        The folder is not there, or holds no image or too many.
    """
    if not os.path.isdir(folder):  # noqa: PTH112  (False for a name that is too long)
        msg = f"The folder {folder} is not there. Connect its drive, or choose it again."
        raise DatasetError(msg)
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    try:
        for path in sorted(files) if files else _walk(folder):
            by_folder[path.parent].append(path)
    except OSError as error:
        msg = f"The folder {folder} cannot be read: {error.strerror or error}. Check its permissions."
        raise DatasetError(msg) from error
    scans = [scan for parent in sorted(by_folder) for scan in _grouped(parent, by_folder[parent], folder)]
    if not scans:
        msg = f"{folder} holds no image of a known format. Choose the folder with the scans."
        raise DatasetError(msg)
    return tuple(scans)


def _walk(folder: Path) -> list[Path]:
    """Image files of a folder and its subfolders; zarr and DICOM folders are scans, and not looked into."""
    if is_dicom_folder(folder) and not any(image_suffix(path).lower() in NOT_DICOM for path in folder.iterdir()):
        return [folder]
    found: list[Path] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        files = image_files(here)
        found += files
        if len(found) > MOST_SCANS or len(waiting) > MOST_SCANS:
            msg = f"{folder} holds more than {MOST_SCANS} images or folders. Choose one of its subfolders."
            raise DatasetError(msg)
        inside = sorted(path for path in here.iterdir() if path.is_dir() and not path.is_symlink())
        names = {path.name for path in inside}
        labels = {_FOLDERS[name] for name in names & _FOLDERS.keys()}
        labels |= {"labelsTs"} if "imagesTs" in names else set()
        waiting += [p for p in inside if p.name not in labels and not p.name.startswith(".") and p not in files]
    return found


def _grouped(parent: Path, files: Sequence[Path], folder: Path) -> list[SeriesScan]:
    """Scans of the files of one folder."""
    beside = _FOLDERS.get(parent.name)
    labels: dict[str, Path] = {}
    if beside is not None and (parent.parent / beside).is_dir():
        labels = {stem(path): path for path in image_files(parent.parent / beside)}
    channels = _channels(files, sure=parent.name in {"imagesTr", "imagesTs"}, labels=labels)
    given = _labels_of(channels, labels)
    scans = []
    for name, images in channels.items():
        below = os.path.relpath(parent / name, folder).replace(os.sep, "/")
        path = folder.name if below == "." else below
        scans.append(SeriesScan(path, images, given.get(name)))
    return scans


def _labels_of(scans: dict[str, tuple[Path, ...]], labels: dict[str, Path]) -> dict[str, Path]:
    """Labels by scan: of its name, or its file's, or that without ``_0000`` where no other scan can have them.

    Of a data set with one channel, ``case_0000`` has the labels ``case``.
    """
    stems = {name: stem(images[0]) for name, images in scans.items()}
    cases = {name: match.group(1) for name, own in stems.items() if (match := _CHANNEL.match(own))}
    taken = {*stems.values(), *(case for name, case in cases.items() if not stems[name].endswith("_0000"))}
    found = {}
    for name, own in stems.items():
        case = cases.get(name, own)
        first = own.endswith("_0000") and case not in taken
        path = labels.get(name) or labels.get(own) or (labels.get(case) if first else None)
        if path is not None:
            found[name] = path
    return found


def _channels(files: Sequence[Path], *, sure: bool, labels: dict[str, Path]) -> dict[str, tuple[Path, ...]]:
    """Files by scan: each by its own name, or the channels of one, by the name of the case.

    None are channels where any of them has labels of its own name, or a case has more than 8 of them or one twice.
    """
    groups: dict[str, dict[int, Path]] = defaultdict(dict)
    numbered: list[Path] = []
    for path in files:
        match = _CHANNEL.match(stem(path))
        if match:
            groups[match.group(1)][int(match.group(2))] = path
            numbered.append(path)
    twice = sum(map(len, groups.values())) < len(numbered)
    own = any(stem(path) in labels for path in numbered)
    if not groups or twice or own or max(map(len, groups.values())) > _MOST_CHANNELS:
        return {path.name: (path,) for path in files}
    numbers = {tuple(sorted(group)) for group in groups.values()}
    same = len(numbers) == 1 and len(numbered) == len(files)
    pictures = any(FORMATS.get(image_suffix(path).lower()) == "raster" for path in files)
    count = len(next(iter(numbers))) if same else 0
    whole = same and numbers == {tuple(range(count))}
    if sure and all(sorted(group) == list(range(len(group))) for group in groups.values()):
        alone = {path.name: (path,) for path in files if not _CHANNEL.match(stem(path))}
        return {name: tuple(group[n] for n in sorted(group)) for name, group in groups.items()} | alone
    if whole and count > 1 and not pictures:
        return {name: tuple(group[n] for n in range(count)) for name, group in groups.items()}
    return {path.name: (path,) for path in files}


def _read_notes(path: Path) -> dict[str, dict[str, Any]]:
    """What was written down of the scans; empty where nothing was, or it is damaged."""
    try:
        scans = load_json(path.read_bytes())["scans"]
        kept = {}
        for name, notes in scans.items():
            kept[str(name)] = {key: int(value) for key, value in notes.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ProsmaError) as error:
        _LOG.warning("What is known of a series cannot be read in %s: %s", path, error)
        return {}
    return kept


def _noted_folder(path: Path) -> str | None:
    """Folder of the scans, as the notes of a series say."""
    try:
        return str(load_json(path.read_bytes())["folder"])
    except (OSError, ValueError, KeyError, TypeError, ProsmaError):
        return None


def _stamps(root: Path) -> dict[str, Stamp]:
    """What tells the files of each name, without suffix, from others that took their place."""
    found: dict[str, Stamp] = {}
    for path in _saved_paths(root):
        with contextlib.suppress(OSError):  # gone since
            status = path.stat()
            own = (path.name, status.st_ino, status.st_mtime_ns, status.st_size)
            found[stem(path)] = (*found.get(stem(path), ()), own)
    return found


def _saved_files(root: Path) -> dict[str, dict[int, Path]]:
    """Saved labels by their usual name, without suffix, and the number that is put to it; 0 where none is."""
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in _saved_paths(root):
        usual, number = _numbered(path)
        found[usual][number] = path
    return found


def _numbered(path: Path) -> tuple[str, int]:
    """Usual name of saved labels, without suffix, and the number that is put to it; 0 where none is."""
    aside = _ASIDE.match(stem(path))
    return (aside.group(1), int(aside.group(2))) if aside else (stem(path), 0)


def _saved_paths(root: Path) -> list[Path]:
    try:
        return [path for path in sorted(root.iterdir()) if is_image_path(path)]
    except OSError:
        return []
