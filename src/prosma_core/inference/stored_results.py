"""Segmentation of scans that are larger than memory: read by parts, written by parts into zarr folders."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import shutil
from collections.abc import Collection, Generator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import ModelHeader
from prosma_core.data.frames import frame_axes
from prosma_core.data.geometry import Box, ImageSpec, Scan, box_slices
from prosma_core.data.lazy import LazyArray, in_memory
from prosma_core.errors import DeviceError, OutputError, PartUnreadableError, ProsmaError
from prosma_core.events import Event, Working
from prosma_core.inference.device import free_memory
from prosma_core.inference.memory import SHARE
from prosma_core.inference.results import StoredArray
from prosma_core.inference.scan_state import Head, ScanState, hidden_folder, listed_blocks
from prosma_core.inference.segment import Segmenter
from prosma_core.io.atomic import (
    check_target,
    is_full,
    machine_state,
    move_dir,
    output_errors,
    remove,
    sync_dir,
    write_bytes_atomic,
)
from prosma_core.io.class_notes import classes_note
from prosma_core.io.images import check_output, least_bytes, written_format
from prosma_core.io.zarr_images import complete_zarr, create_zarr, open_written, zarr_chunks
from prosma_core.io.zarr_labels import LabelImage, is_listed, list_label_image, plan_label_image
from prosma_core.printable import counted, gib

_MOVING = "moving.json"
"""Written when all results are whole, before the first takes its place: which folders they are."""
_OWNER = "owner"
"""Which run fills the folder: one that was taken for dead may still be there."""
DEPTH = 16
"""Planes of the chunks of other results: blocks of fewer planes take less memory."""
SLICE = 1024
"""Side of the chunks of results that are computed slice by slice."""


def is_zarr(path: Path) -> bool:
    """Whether a result of this name is written by parts."""
    return written_format(path) == "zarr"


def check_fits(files: Collection[Path]) -> None:
    """Raise `DeviceError` where files that are read whole take more memory than is free, before they are read."""
    needed, free = sum(map(least_bytes, files)), free_memory(torch.device("cpu"))
    if needed > free * SHARE:
        first = next(iter(files)).name
        msg = (
            f"{first} takes at least {gib(needed)} of memory, as it is not read by parts; {gib(free)} are free. Close "
            "other programs, or convert it to .zarr (or .nii without scaling), which is read by parts."
        )
        raise DeviceError(msg)


def read_whole_if_it_fits(scan: Scan, segmenter: Segmenter, config: InferenceConfig, target: Path) -> tuple[Scan, bool]:
    """The scan in memory where that is planned to fit; and whether it is segmented by parts.

    Parameters
    ----------
    scan : Scan
        Of `open_image`.
    segmenter : Segmenter
    config : InferenceConfig
    target : Path
        Where its label map goes.

    Raises
    ------
    DeviceError
        The label map has to be in memory, as `target` is not written by parts, and does not fit.
    GeometryError, ChannelError
        As `Segmenter.segment`.
    """
    if not isinstance(scan.data, LazyArray):
        return scan, False
    if not segmenter.by_parts(scan, config):
        return Scan(in_memory(scan.data), scan.spec), False
    if not is_zarr(target) and config.region is None:
        labels = scan.spec.labels_spec()
        voxel = np.dtype(segmenter.header.label_dtype).itemsize + 4 * (
            len(segmenter.header.classes) * config.probabilities + config.entropy
        )
        needed, free = int(np.prod(labels.shape, dtype=np.int64)) * voxel, free_memory(torch.device("cpu"))
        if needed > free * SHARE:
            msg = (
                f"The result would take {gib(needed)} of memory ({gib(free)} are free), as {target.name} is written as "
                "a whole. Let --out end with .zarr, which is written by parts, or segment a part (--region)."
            )
            raise DeviceError(msg)
    return scan, True


def moved_before(targets: Mapping[str, Path]) -> dict[str, Path]:
    """Results that a run has put in place before it was stopped; none where it has put all, and named them.

    Parameters
    ----------
    targets : mapping of str to Path
        As of `StoredResults`.
    """
    moving = _moving(_hidden(targets))
    places = {name: targets[name] for name, folder in moving.items() if _identity(targets[name]) == folder}
    return {} if len(places) == len(moving) and all(map(is_listed, places.values())) else places


def _hidden(targets: Mapping[str, Path]) -> Path:
    """Where results lie until all are whole."""
    return hidden_folder(targets["labels"])


def hidden_places(targets: Mapping[str, Path]) -> dict[str, Path]:
    """Where each result lies until all are whole."""
    return {name: _hidden(targets) / name for name in targets}


def _moving(folder: Path) -> dict[str, list[int]]:
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        return dict(json.loads((folder / _MOVING).read_text(encoding="utf-8")))
    return {}


def _identity(folder: Path) -> list[int] | None:
    """By which a folder is told that was renamed; None where there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return [found.st_ino, found.st_mtime_ns]


@dataclass(frozen=True)
class Sharing:
    """How one of several processes, on computers that see the same folder, fills results.

    Attributes
    ----------
    machine : dict of str
        State of the computer that shares the work out, by which what is done is known.
    begins, ends : bool
        Whether this process makes the arrays, and whether it puts the results in place.
    done : frozenset of box
        Blocks that others have done.
    """

    machine: dict[str, str]
    begins: bool = False
    ends: bool = False
    done: frozenset[Box] = frozenset()


class StoredResults:
    """Zarr folders that a segmentation fills part by part; each takes its place when all are whole.

    Used in a ``with`` statement. Until then they lie in a hidden folder beside the label map, with what their blocks
    rest on (`Head`), and lists of those that are done, which name it. Where the statement ends with an error, or the
    process is killed, that folder stays, and the next run of the same job does what is missing. What such a run has put
    in place already is moved back first.

    Parameters
    ----------
    targets : mapping of str to Path
        Where each result goes, by its name in `Segmentation`.
    source : Path
        The scan, whose change makes what is done worthless.
    spec : ImageSpec
        Of the scan.
    header : ModelHeader
    config : InferenceConfig
    notes : dict of str
        How the results are made.
    replaceable : collection of Path
        Targets that may be there already.
    copy : Path, optional
        The file that a scan was downloaded to.
    reading : object, optional
        What else tells how the scan is read, as JSON: other axes, one of several time points.
    sharing : Sharing, optional
        Where several processes fill them; each keeps a list of its own of the blocks that are done.
    """

    def __init__(
        self,
        targets: Mapping[str, Path],
        source: Path,
        spec: ImageSpec,
        header: ModelHeader,
        config: InferenceConfig,
        notes: dict[str, str],
        replaceable: Collection[Path] = (),
        copy: Path | None = None,
        reading: object = None,
        sharing: Sharing | None = None,
    ) -> None:
        self._sharing = sharing or Sharing(machine_state(), begins=True, ends=True)
        own = "" if sharing is None else f"-{platform.node()}-{os.getpid()}"
        self._targets, self._spec, self._header = targets, spec, header
        self._config, self._notes, self._replaceable = config, notes, replaceable
        self._folder = _hidden(targets)
        self._source, self._copy, self._reading = source, copy or source, reading
        self._list = self._folder / f"blocks{own}.txt"
        self._head: Head | None = None
        self._scan: ScanState | None = None
        self._listed = False
        self._done: set[Box] = set(self._sharing.done)
        self._found: dict[str, Any] = {}
        self._made: dict[str, tuple[Any, LabelImage]] = {}
        self._completed = self._owned = False
        self._token = secrets.token_hex(8)

    @property
    def done(self) -> frozenset[Box]:
        """Blocks that are done."""
        return frozenset(self._done)

    def place(self, name: str) -> Path:
        """Where a result lies until all are whole, by its name in `Segmentation`."""
        return self._folder / name

    def __enter__(self) -> StoredResults:
        """Take up what an earlier run of the same job has done."""
        self._head = Head.read(self._folder)
        if self._sharing.begins:
            self._scan = ScanState(self._source, self._copy)
            if self._head is not None and self._head.job != self._job(self._head.unreadable):
                self._head = None
        self._done |= set() if self._head is None else listed_blocks(self._folder, self._head)
        self._replaceable = {*self._replaceable, *moved_before(self._targets).values()}
        if not self._sharing.begins:
            self._open_all()
        elif self._done and self._taken_back() and self._open_all():
            self._own()
        else:
            self._done, self._found, self._head = set(), {}, None
            shutil.rmtree(self._folder, ignore_errors=True)
        return self

    def _own(self) -> None:
        self._owned = True
        with output_errors(self._targets["labels"]):
            (self._folder / _OWNER).write_text(self._token, encoding="ascii")

    def _is_own(self) -> bool:
        try:
            return (self._folder / _OWNER).read_text(encoding="ascii") == self._token
        except (OSError, ValueError):
            return False

    def _taken_back(self) -> bool:
        """Move what an earlier run has put in place into the hidden folder; whether all is there again."""
        moving = _moving(self._folder)
        back = moved_before(self._targets)
        if any(_identity(self.place(name)) != folder for name, folder in moving.items() if name not in back):
            return False
        for name, target in back.items():
            shutil.rmtree(self.place(name), ignore_errors=True)  # what was replaced
            with output_errors(target):
                target.rename(self.place(name))
        remove([self._folder / _MOVING])
        return True

    def _open_all(self) -> bool:
        """Open the arrays that the blocks of an earlier run are in; whether all are there."""
        spec, single = self._spec.labels_spec(), np.dtype(np.float32)
        wanted: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            "labels": (spec.shape, np.dtype(self._header.label_dtype))
        }
        if self._config.probabilities:
            wanted["probabilities"] = (spec.with_channels(tuple(c.name for c in self._header.classes)).shape, single)
        if self._config.entropy:
            wanted["entropy"] = (spec.shape, single)
        self._found = {name: self._open(name, *kind) for name, kind in wanted.items()}
        return all(array is not None for array in self._found.values())

    def _open(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """The array of an earlier run; None where there is none of this shape and type."""
        with contextlib.suppress(ProsmaError, OSError, ValueError, KeyError):
            array = open_written(self.place(name))
            if (tuple(array.shape), array.dtype) == (tuple(shape), dtype):
                return array
        return None

    def _job(self, without: Collection[str]) -> str:
        """By which the same job is told: without the files that could not be read, which may be mended."""
        self._scan = self._scan or ScanState(self._source, self._copy)
        spec, state = self._spec, self._scan.without(without)
        grid = [spec.axes, spec.shape, spec.spacing, spec.unit, spec.affine.tolist(), spec.channel_names]
        return json.dumps([*sorted(self._notes.items()), *state, grid, self._reading, *self._sharing.machine.items()])

    def _settle(self, normalized: str, files: Collection[str], outdated: Set[Box] = frozenset()) -> None:
        """Write what blocks rest on, before the first of them is marked; see `StoredArray`.

        The list of those that stay is there before the head that it names, and lists that name the earlier head until
        that is replaced: wherever this ends, blocks count as done only under the head that they were computed with.
        """
        unreadable = sorted({str(Path(file).resolve()) for file in files})
        head = Head(self._job(unreadable), unreadable, normalized)
        if head == self._head:
            return
        stay, carried = self._done - outdated, self._folder / f"blocks-{head.digest[:16]}.txt"
        with output_errors(self._targets["labels"]):
            if stay:
                lines = [head.digest, *map(json.dumps, sorted(stay))]
                write_bytes_atomic(carried, ("\n".join(lines) + "\n").encode())
            head.write(self._folder)
            for path in self._folder.glob("blocks*.txt"):
                if path != carried:
                    path.unlink()
        self._done &= stay
        self._head, self._listed = head, False

    def _leave(self, files: Collection[str]) -> None:
        """Note which more files could not be read, unless the scan changed since blocks were computed."""
        head = self._head
        if head is not None and head.job == self._job(head.unreadable):
            with contextlib.suppress(OSError, OutputError):
                self._settle(head.normalized, {*head.unreadable, *files})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the results in place, the label map last: where it is, everything is."""
        if not self._sharing.ends:
            return
        if kind is None:
            for _ in self.complete():
                pass
            self._put_in_place()
        if isinstance(error, PartUnreadableError) and self._done:
            self._leave(error.files)
        if isinstance(error, OutputError) and is_full(error) and self._done:
            text = counted(len(self._done), "block is", "blocks are")
            msg = f"{error} {text} done and stay; the next run of the same job does the rest."
            raise OutputError(msg) from error
        if kind is None or (not self._done and self._is_own()):
            shutil.rmtree(self._folder, ignore_errors=True)

    def _put_in_place(self) -> None:
        """Move whole results to their places; each stays in one of the two folders wherever this ends."""
        for name in self._made:
            sync_dir(self.place(name), self._targets[name])
        folders = {name: _identity(self.place(name)) for name in self._made}
        write_bytes_atomic(self._folder / _MOVING, json.dumps(folders).encode())
        for name in reversed(self._made):
            move_dir(self.place(name), self._targets[name])
            list_label_image(self._targets[name])

    def complete(self) -> Generator[Event, None, None]:
        """Make the coarser levels of filled results, once; what a killed run has made of them is made anew."""
        for name, (array, image) in () if self._completed else self._made.items():
            for number in range(1, len(image.levels) + 1):
                shutil.rmtree(self._folder / name / str(number), ignore_errors=True)
            steps = complete_zarr(self._folder / name, array, image)
            while True:
                with output_errors(self._targets[name]):
                    step = next(steps, None)
                if step is None:
                    break
                yield Working(f"Coarser levels: {step[0]} of {step[1]} chunks")
        self._completed = True

    def allocate(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> StoredArray:
        """Make the array of a result, or open that of an earlier run; see `Allocate`."""
        path, folder = self._targets[name], self.place(name)
        check_output(path, overwrite=path in self._replaceable)
        check_target(path, folder=True)
        spec = self._spec.labels_spec()
        if name == "probabilities":
            spec = spec.with_channels(tuple(c.name for c in self._header.classes))
        notes = self._notes
        if name in {"labels", "objects"}:
            notes = {**notes, "kind": "labels", **(classes_note(self._header.classes) if name == "labels" else {})}
        image = plan_label_image(path, spec, notes)
        fill = self._header.classes[0].value if name == "labels" else 0
        lost = self._head is None or (name != "objects" and self._found.get(name) is None)
        if not self._sharing.begins and lost:
            msg = f"{folder}, which several processes fill, is gone or was changed. Run the same command again."
            raise OutputError(msg)
        chunks = self._chunks(spec)
        with output_errors(path):
            if self._sharing.begins and not self._owned:
                self._folder.mkdir(exist_ok=True)
                self._own()
            array = self._found.get(name)
            if array is None and (not folder.is_dir() or (array := self._open(name, shape, dtype)) is None):
                shutil.rmtree(folder, ignore_errors=True)
                array = create_zarr(folder, dtype, spec, notes, chunks, fill, image)
        self._made[name] = array, image

        def put(box: Box, values: NDArray[Any]) -> None:
            with output_errors(path):
                array[box_slices(box)] = values

        def read(box: Box) -> NDArray[Any]:
            found: NDArray[Any] = array[box_slices(box)]
            return found

        values = LazyArray(shape, dtype, read, chunks)
        normalized = None if self._head is None else self._head.normalized
        return StoredArray(shape, dtype, chunks, put, values, self._done, self._mark, normalized, self._settle)

    def _mark(self, box: Box) -> None:
        if self._head is None:
            msg = "blocks are marked before it is settled what they rest on"
            raise RuntimeError(msg)
        with output_errors(self._targets["labels"]):
            if not self._listed:
                self._begin_list(self._head.digest)
            with self._list.open("a", encoding="utf-8") as file:
                file.write(json.dumps(box) + "\n")
        self._done.add(box)

    def _begin_list(self, digest: str) -> None:
        """Begin the list of this process, unless one of the same name goes on."""
        first = ""
        with contextlib.suppress(OSError, ValueError), self._list.open(encoding="utf-8") as file:
            first = file.readline().rstrip("\n")
        if first != digest:
            self._list.write_text(digest + "\n", encoding="utf-8")
        self._listed = True

    def _chunks(self, spec: ImageSpec) -> tuple[int, ...]:
        """Chunks that are each written at once: of slices where the model takes slices."""
        dims, along = self._header.model.dims, self._config.slice_axis
        if dims == spec.spatial_ndim == 3:
            chunks = zarr_chunks(spec)
            return tuple(min(DEPTH, n) if axis == "z" else n for axis, n in zip(spec.axes, chunks, strict=True))
        taken = frame_axes(spec, dims, along)
        sizes = zip(spec.axes, spec.shape, strict=True)
        return tuple(min(SLICE, size) if axis in taken else 1 for axis, size in sizes)
