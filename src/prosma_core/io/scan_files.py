"""Which scans a command is for: files, folders, trees of folders, lists, and parts of them."""

from __future__ import annotations

import csv
import fnmatch
import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prosma_core.data.intensities import COLOR
from prosma_core.errors import ConfigError, DatasetError
from prosma_core.io.dataset_folder import channel_name, first_of_sets, image_files
from prosma_core.io.names import image_suffix, is_dicom_file, is_dicom_folder, is_image_path, result_name, stem
from prosma_core.io.notes import made_by_model, read_notes
from prosma_core.io.remote import RemotePath, input_path


@dataclass(frozen=True)
class ScanFiles:
    """One scan: its name, its files (one per channel or one with all), and the folder of its result below ``--out``."""

    name: str
    files: tuple[Path, ...]
    folder: Path = Path()


@dataclass(frozen=True)
class ScanChoice:
    """What a person chose.

    Attributes
    ----------
    inputs : tuple of Path
        Files and folders.
    recursive : bool
        Whether folders in folders are gone through; results then lie in folders as the scans do.
    match : str
        Names of files to take from folders, such as ``*_T1w.nii.gz``; all where empty.
    root : Path or None
        Results lie in folders as the scans do below this one; None: as below the folder that is gone through.
    part : tuple of (int, int)
        Which part of how many, from 1.
    """

    inputs: tuple[Path, ...]
    recursive: bool = False
    match: str = ""
    root: Path | None = None
    part: tuple[int, int] = (1, 1)


_LONGEST_LIST = 64 << 20
_COLUMNS = ("scan", "path", "file", "image")
"""Names of the column of a table that holds the scans."""
_NO_DATA = ("derivatives", "sourcedata", "code", "stimuli", "phenotype")
"""Folders of a BIDS data set, beside its dataset_description.json, that hold no raw scans."""
_PART = re.compile(r"(\d{1,9})/(\d{1,9})")


def parse_part(text: str | None) -> tuple[int, int]:
    """Part and number of parts from ``2/8``; raises `ConfigError` where the text is not of this form."""
    if text is None:
        return 1, 1
    match = _PART.fullmatch(text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        msg = f"--part {text!r} is no part: give NUMBER/PARTS, counted from 1, such as 1/4, 2/4, 3/4 and 4/4."
        raise ConfigError(msg)
    return int(match[1]), int(match[2])


def read_list(path: Path) -> tuple[Path, ...]:
    """Paths in a list: one a line, ``#`` for comments; of a ``.csv`` or ``.tsv`` one column.

    Parameters
    ----------
    path : Path
        ``-`` is standard input. Paths in it are relative to the current folder or, where nothing is there, to the
        list's own folder. In a table, the column ``scan``, ``path``, ``file`` or ``image``, otherwise the first.

    Raises
    ------
    ConfigError
        It cannot be read, is no text, holds no path, or one that could mean two files.
    """
    standard = str(path) == "-"
    try:
        if standard:
            content = sys.stdin.buffer.read(_LONGEST_LIST + 1)
        else:
            with path.open("rb") as file:
                content = file.read(_LONGEST_LIST + 1)
    except OSError as error:
        msg = f"The list {path} cannot be read ({error.strerror or error}). Give a text file with one path a line."
        raise ConfigError(msg) from error
    if b"\0" in content or len(content) > _LONGEST_LIST:
        msg = f"{path} is no list of scans: give a text file with one path a line."
        raise ConfigError(msg)
    text = os.fsdecode(content.removeprefix(b"\xef\xbb\xbf"))
    separator = {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower())
    lines = _column(text, separator) if separator else text.splitlines()
    words = [line.strip() for line in lines]
    found = dict.fromkeys(word for word in words if word and not word.startswith("#"))
    if not found:
        msg = f"The list {path} holds no path. Write one path a line."
        raise ConfigError(msg)
    return tuple(_place(word, Path() if standard else path.parent, path) for word in found)


def _column(text: str, separator: str) -> list[str]:
    rows = [row for row in csv.reader(text.splitlines(), delimiter=separator) if row and not row[0].startswith("#")]
    heading = [cell.strip().lower() for cell in rows[0]] if rows else []
    at = next((heading.index(name) for name in _COLUMNS if name in heading), None)
    return [row[0] for row in rows] if at is None else [row[at] for row in rows[1:] if len(row) > at]


def _place(word: str, folder: Path, source: Path) -> Path:
    here, beside = input_path(word).expanduser(), folder / word
    if isinstance(here, RemotePath):
        return here
    if here.is_absolute() or not beside.exists():
        return here
    if here.exists() and not here.samefile(beside):
        msg = f"{word} in {source} could be {here.absolute()} or {beside.absolute()}. Write whole paths into the list."
        raise ConfigError(msg)
    return beside


def collect_scans(
    choice: ScanChoice | Sequence[Path], channels: tuple[str, ...], out: Path | None = None
) -> list[ScanFiles]:
    """Scans among files and folders; ``NAME_0000, NAME_0001, …`` are one scan where a file is there for each channel.

    Files are never taken for the colors of a picture: those of a model of colors stay apart.

    Parameters
    ----------
    choice : ScanChoice or sequence of Path
    channels : tuple of str
        Names of the model's channels.
    out : Path, optional
        Folder for results: where it lies in a folder that is gone through, what is in it is not taken for scans.

    Raises
    ------
    DatasetError
        A folder holds no scan.
    ConfigError
        A scan lies outside the root.
    """
    chosen = choice if isinstance(choice, ScanChoice) else ScanChoice(tuple(choice))
    folders = [path for path in chosen.inputs if path.is_dir() and not (is_image_path(path) and not _only_index(path))]
    base = chosen.root or (_common(folders) if chosen.recursive and folders else None)
    files: list[Path] = []
    from_folders: set[Path] = set()
    for path in chosen.inputs:
        if path not in folders:
            files.append(path)
            continue
        beside = out is not None and out.is_dir() and out.samefile(base if chosen.recursive and base else path)
        found = list(_walk(path, chosen, out, beside=beside))
        if not found:
            what = f"file named {chosen.match}" if chosen.match else "scan of a known format"
            advice = "" if chosen.recursive else ", and --recursive for folders in it"
            msg = f"{path} holds no {what}. Give files, or a folder with .nii.gz, .tif, .png, .zarr, … in it{advice}."
            raise DatasetError(msg)
        files += found
        from_folders.update(found)
    single = len(channels) == 1 or tuple(name.lower() for name in channels) == COLOR
    scans = []
    for name, group in _grouped(first_of_sets(files), 1 if single else len(channels)):
        mirrored = base is not None and (chosen.root is not None or group[0] in from_folders)
        scans.append(ScanFiles(name, group, _below(base, group[0]) if base is not None and mirrored else Path()))
    return scans


def _grouped(files: Sequence[Path], channels: int) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """Names and files of the scans among files."""
    groups: dict[tuple[Path, str], list[Path]] = {}
    for path in files:
        groups.setdefault((path.parent, channel_name(path) if channels > 1 else path.name), []).append(path)
    for (_, name), group in groups.items():
        numbered = sorted(group, key=stem)
        if channels > 1 and [stem(p) for p in numbered] == [f"{name}_{n:04d}" for n in range(channels)]:
            yield name, tuple(numbered)
        else:
            yield from ((stem(p), (p,)) for p in group)


def _walk(folder: Path, choice: ScanChoice, out: Path | None, *, beside: bool) -> Iterator[Path]:
    """Scans of a folder, and with ``recursive`` of the folders in it; always in the same order.

    Where results are written `beside` the scans, those of earlier runs are left out.
    """
    waiting, seen = [folder], set[tuple[int, int]]()
    while waiting:
        place = waiting.pop()
        found = place.stat()
        if (found.st_dev, found.st_ino) in seen:  # a link in circles
            continue
        seen.add((found.st_dev, found.st_ino))
        ours = out is not None and out.is_dir() and place.samefile(out)
        if ours and place != folder:
            continue
        for path in image_files(place):
            series = _only_index(path) if path.is_dir() else is_dicom_file(path)  # its folder stands for a file
            if series or (choice.match and not fnmatch.fnmatch(path.name, choice.match)):
                continue
            if not (beside and made_by_model(read_notes(path))):
                yield path
        if choice.recursive:
            waiting += reversed(_folders(place))


def _folders(place: Path) -> list[Path]:
    """Folders in a folder that may hold scans, sorted."""
    left_out = _NO_DATA if (place / "dataset_description.json").is_file() else ()
    return sorted(
        path
        for path in place.iterdir()
        if path.is_dir()
        and not path.name.startswith(".")
        and path.name not in left_out
        and (not is_image_path(path) or is_dicom_folder(path))
    )


def _only_index(folder: Path) -> bool:
    """Whether nothing but a DICOMDIR makes a folder one of DICOM files: the series lie in folders in it."""
    if not is_dicom_folder(folder):
        return False
    return not any(is_dicom_file(file) for file in folder.iterdir() if file.name.upper() != "DICOMDIR")


def _common(folders: Sequence[Path]) -> Path:
    try:
        return Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))  # noqa: PTH100  (keeps links)
    except ValueError as error:
        msg = "The folders lie on different drives. Segment one at a time."
        raise ConfigError(msg) from error


def _below(base: Path, file: Path) -> Path:
    """Folder of a file, as seen from a folder above it."""
    zarr = [parent for parent in file.parents if image_suffix(parent).lower().endswith(".zarr")]
    parent = (zarr[-1] if zarr else file).parent
    if isinstance(file, RemotePath) or isinstance(base, RemotePath):
        if isinstance(base, RemotePath) and parent.is_relative_to(base):
            return Path(*parent.relative_to(base).parts)
        raise _not_below(file, base)
    for way in (os.path.abspath, os.path.realpath):
        place, top = Path(way(parent)), Path(way(base))
        if place.is_relative_to(top):
            return place.relative_to(top)
    raise _not_below(file, base)


def _not_below(file: Path, base: Path) -> ConfigError:
    return ConfigError(f"{file} does not lie below --root {base}. Choose a folder above all scans.")


def target_name(scan: ScanFiles) -> Path:
    """Result of a scan, below the folder for results."""
    name = result_name(scan.files[0])
    return scan.folder / (name if len(scan.files) == 1 else scan.name + name.removeprefix(stem(scan.files[0])))


def separate(scan: ScanFiles) -> list[ScanFiles]:
    """Each file of a scan as a scan of its own."""
    return [replace(scan, name=stem(file), files=(file,)) for file in scan.files]


def of_part(scans: Sequence[ScanFiles], part: tuple[int, int]) -> list[bool]:
    """Whether each scan belongs to a part; every scan belongs to one, whatever the order in which they were found."""
    number, parts = part
    keys = [
        (unicodedata.normalize("NFC", target_name(scan).as_posix()), [file.name for file in scan.files], i)
        for i, scan in enumerate(scans)
    ]
    mine = {key[-1] for key in sorted(keys)[number - 1 :: parts]}
    return [i in mine for i in range(len(scans))]
