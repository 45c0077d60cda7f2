"""Requests of the engine that Dask workers compute: what is sent to them, and what comes back. The client: no torch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.cluster.blocks import Filled, InBlocks, Shared, plan_shared
from prosma_core.cluster.checks import Answer, unreadable, versions_here
from prosma_core.cluster.connecting import connecting
from prosma_core.cluster.connection import Cluster, absolute
from prosma_core.cluster.jobs import Job, Outcome
from prosma_core.cluster.place import Place, parse_place
from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import Scan
from prosma_core.data.lazy import IN_CORE, LazyArray, in_memory
from prosma_core.engine.requests import (
    InspectRequest,
    InspectResult,
    Request,
    Result,
    SegmentRequest,
    SegmentResult,
    WorkersRequest,
    WorkersResult,
)
from prosma_core.errors import ClusterError, PartUnreadableError
from prosma_core.events import Event, SlabDone, StageStarted, TileDone, Working
from prosma_core.io.atomic import machine_state
from prosma_core.io.bundle import read_header
from prosma_core.io.downloads import Downloads
from prosma_core.io.remote import RemotePath, input_path
from prosma_core.printable import counted

if TYPE_CHECKING:
    from prosma_core.inference.results import Allocate
    from prosma_core.inference.segment import Blocks, Segmenter
    from prosma_core.inference.stored_results import Sharing, StoredResults

MOST_SENT = IN_CORE
"""Bytes of a scan that are sent to workers which do not see its file."""
FOLDER = "Results of large scans lie in a temporary folder: set TMPDIR to one that all see before napari is started."


def serve_on_workers(request: Request, allocate: Allocate) -> Generator[Event, None, Result]:
    """Let Dask workers compute a request, or look at them.

    Raises
    ------
    ProsmaError
        As of `compute_on_workers` and `look_at_workers`.
    """
    if isinstance(request, WorkersRequest):
        return (yield from look_at_workers(request))
    assert isinstance(request, SegmentRequest | InspectRequest)
    return (yield from compute_on_workers(request, allocate))


def look_at_workers(request: WorkersRequest) -> Generator[Event, None, WorkersResult]:
    """Connect to workers, compare versions, have them look at files, and one of them load the model.

    Raises
    ------
    ConfigError, ModelFileError
        The address or the model file is none.
    ClusterError
        Nothing answers, there is no worker, one has another version, or the scan is too large to be sent.
    """
    place = parse_place(request.on)
    name = read_header(Path(request.model)).name
    with connecting(place, _connecting(place)) as made:
        cluster = yield from made
        yield Working("Checking the workers")
        path = input_path(request.file) if request.file else None
        named = [] if path is None or isinstance(path, RemotePath) else [path]
        files = [
            path for path in (*named, *([Path(request.copies)] if request.copies else [])) if not unreadable((path,))
        ]
        answers = cluster.ask(Path(request.folder) if request.folder else None, files)
        threads = cluster.count_threads()
        device = ""
        with cluster.with_model(Path(request.model), request.device) as sent:
            for found in cluster.work([("model", LoadModel(request.device))], sent):
                yield Working("A worker loads the model")
                if found is not None and isinstance(found[1], Outcome):
                    if found[1].error is not None:
                        raise found[1].error
                    device = found[1].result
    problem = _problem(answers)
    if problem and request.size > MOST_SENT:
        msg = f"The workers answer and have the same versions as here. {_too_large(problem, request.size)}"
        raise ClusterError(msg)
    seen = _seen(named if files else [], folder=bool(request.folder), scan=bool(request.size))
    if problem:
        which = f"the scan ({_mib(request.size)})" if request.size else "a scan of up to 2 GiB"
        seen = f"files of this computer are not all seen: {which} would be sent to one of them"
    who = f"{counted(len(answers), 'worker')} of {place.address}" if place.address else place.text
    versions = versions_here()
    same = f"napari-prosma {versions['napari-prosma']}, torch {versions['torch']}"
    return WorkersResult(
        words=f"{who}, {counted(threads, 'thread')}: the same versions as here ({same}), {name} loads "
        f"({_short(device)}), {seen}."
    )


def _seen(files: list[Path], *, folder: bool, scan: bool) -> str:
    """What workers were asked for, and see."""
    if files:
        return f"{files[0].name}{' and the folder for results are' if folder else ' is'} seen"
    if scan:
        return f"the scan{' and the folder for results are' if folder else ' is'} seen"
    return "the folder for results is seen (no scan was looked for: none of this computer's files is chosen)"


def _problem(answers: list[Answer]) -> str:
    """Which worker does not see a file, and why; empty where all see all."""
    return next((f"{said.place} {said.problem}" for said in answers if said.problem), "")


def _too_large(problem: str, size: int) -> str:
    """Why a scan of so many bytes is refused, with what to do."""
    return (
        f"The worker {problem}. A scan of up to 2 GiB would be sent; this one has {size / 2**30:.1f} GiB. Save it in a "
        f"folder that all workers see under the same path, and open it from there. {FOLDER}"
    )


def _mib(size: int) -> str:
    return f"{max(1, round(size / 2**20))} MiB"


@dataclass(frozen=True)
class LoadModel:
    """Load the model alone."""

    device: str

    def run(self, segmenter: Segmenter) -> Generator[Event, None, str]:
        """Return the device that it computes on."""
        from prosma_core.inference.device import choose_device

        assert segmenter is not None
        yield Working("Loaded")
        return choose_device(self.device).inferring


def compute_on_workers(
    request: SegmentRequest | InspectRequest, allocate: Allocate
) -> Generator[Event, None, SegmentResult | InspectResult]:
    """Let workers serve a request, as this process would: the results are the same.

    A scan that is read by parts into a zarr folder is shared out among all workers; any other is computed by one.

    Parameters
    ----------
    request : SegmentRequest or InspectRequest
    allocate : callable
        Gives the arrays of the result.

    Raises
    ------
    ConfigError, ModelFileError, GeometryError
        Address, model file or scan cannot be used.
    ClusterError
        Nothing answers, a worker does not fit, the scan is too large to be sent, or the connection was lost.
    """
    began, place = time.monotonic(), parse_place(request.on)
    read_header(Path(request.model))
    with connecting(place, _connecting(place)) as made:
        cluster = yield from made
        yield from cluster.begin()
        serve = yield from _sendable(cluster, request)
        with cluster.with_model(Path(request.model), request.device) as sent:
            work = _Work(cluster, serve, allocate)
            for found in cluster.work(work.jobs(), sent):
                if found is not None:
                    yield from work.hear(found[1])
                yield work.last
    assert work.result is not None
    device = f"{place.text} ({_short(work.result.device)})"
    return work.result.replace(seconds=time.monotonic() - began, device=device)


def _short(device: str) -> str:
    """What a device is, without why it was taken."""
    return device.partition(" (")[0]


def _connecting(place: Place) -> Working:
    return Working(f"Connecting to {place.address}" if place.address else f"Starting {place.text}")


def _sendable(cluster: Cluster, request: SegmentRequest | InspectRequest) -> Generator[Event, None, Serve]:
    """What a worker is to do: with the files where all workers see them, else with the voxels."""
    from prosma_core.engine.handlers import open_scan

    scan = yield from open_scan(request.scan)
    ref, folder, files = request.scan, None, list[Path]()
    assert ref is not None
    if ref.array is not None:
        files = [Path(ref.array.path)]
    elif ref.file is not None and not isinstance(path := input_path(ref.file), RemotePath):
        files = [absolute(path)]
        request = request.replace(scan=ref.replace(file=str(files[0])))
    if isinstance(request, SegmentRequest) and ref.array is None and request.store:
        folder = Path(request.store).parent
    problem = _problem(cluster.ask(folder, files))
    if not problem:
        return Serve(request, machine_state())
    size = int(scan.data.nbytes)
    if size > MOST_SENT:
        raise ClusterError(_too_large(problem, size))
    yield StageStarted(f"The scan is sent to a worker ({_mib(size)}), which does not see its file.")
    voxels = in_memory(scan.data) if isinstance(scan.data, LazyArray) else scan.data
    if isinstance(request, SegmentRequest):
        request = request.replace(store="")
    return Serve(request, machine_state(), voxels)


@dataclass(frozen=True, eq=False)
class Served:
    """A result with its arrays, by name."""

    result: SegmentResult | InspectResult
    arrays: dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Serve:
    """Serve a request on a worker, or plan the blocks of its scan.

    Attributes
    ----------
    request : SegmentRequest or InspectRequest
    machine : dict of str
        State of the computer of the client.
    voxels : ndarray or None
        In place of those that the request refers to.
    """

    request: SegmentRequest | InspectRequest
    machine: dict[str, str]
    voxels: NDArray[Any] | None = None

    def run(self, segmenter: Segmenter) -> Generator[Event, None, Served | InBlocks]:
        """Do what the engine does; arrays of the result are returned, unless they are written block by block."""
        from prosma_core.engine.handlers import open_scan, serve_inspection, serve_segmentation
        from prosma_core.engine.on_disk import goes_on_disk
        from prosma_core.inference.device import choose_device, name_memory_errors

        began, request, arrays = time.monotonic(), self.request, dict[str, NDArray[Any]]()

        def allocate(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
            arrays[name] = np.zeros(shape, dtype)
            return arrays[name]

        with name_memory_errors():
            choice = choose_device(request.device)
            if self.voxels is None:
                scan = yield from open_scan(request.scan)
            else:
                assert request.scan is not None
                assert request.scan.spec is not None
                scan = Scan(self.voxels, request.scan.spec.spec())
            given = segmenter, choice, allocate, began
            result: SegmentResult | InspectResult
            if isinstance(request, InspectRequest):
                result = yield from serve_inspection(request, scan, *given)
            elif request.store and goes_on_disk(request, scan, segmenter):
                return (yield from plan_shared(self.whole, segmenter, OpenedLayer(scan)))
            else:
                result = yield from serve_segmentation(request.replace(preview=False, store=""), scan, *given)
        return Served(result, arrays)

    @property
    def whole(self) -> StoredLayer:
        """The scan whose blocks are shared out."""
        assert isinstance(self.request, SegmentRequest)
        return StoredLayer(self.request, self.machine)


@dataclass(frozen=True)
class OpenedLayer:
    """The scan of a layer, opened on a worker."""

    scan: Scan


@dataclass(frozen=True)
class StoredLayer:
    """The scan of a layer whose blocks are shared out, as of `Whole`.

    Attributes
    ----------
    request : SegmentRequest
        With a scan file and a folder for the result, which all workers see.
    machine : dict of str
        State of the computer of the client.
    """

    request: SegmentRequest
    machine: dict[str, str]

    @property
    def config(self) -> InferenceConfig:
        """How it is segmented."""
        return self.request.config

    def open(self, _: Segmenter, _downloads: Downloads) -> Generator[Event, None, OpenedLayer]:
        """As of `Whole`."""
        from prosma_core.engine.handlers import open_scan

        return OpenedLayer((yield from open_scan(self.request.scan)))

    def stored(self, segmenter: Segmenter, opened: OpenedLayer, sharing: Sharing) -> StoredResults:
        """As of `Whole`."""
        from prosma_core.engine.on_disk import results_of

        return results_of(self.request, opened.scan, segmenter.header, sharing)

    def finish(
        self, segmenter: Segmenter, opened: OpenedLayer, blocks: Blocks, sharing: Sharing
    ) -> Generator[Event, None, Served]:
        """As of `Whole`; returns what is no image."""
        from prosma_core.engine.handlers import count_classes
        from prosma_core.inference.device import choose_device

        with self.stored(segmenter, opened, sharing) as stored:
            work = segmenter.segment(opened.scan, self.config, allocate=stored.allocate, blocks=blocks)
            found = yield from work
            voxels = count_classes(found.labels.data, segmenter.header)
            yield from stored.complete()
        table = {} if found.object_table is None else {"object_table": found.object_table}
        device = choose_device(self.request.device).inferring
        return Served(SegmentResult(voxels=voxels, seconds=0.0, device=device), table)


@dataclass
class _Work:
    """A request under way on workers."""

    cluster: Cluster
    serve: Serve
    allocate: Allocate
    result: SegmentResult | InspectResult | None = None
    last: Event = field(default_factory=lambda: Working("A worker loads the model"))
    shared: Shared | None = None
    more: deque[Job] = field(default_factory=deque)
    said: set[str] = field(default_factory=set)

    def jobs(self) -> Iterator[tuple[str, Job] | None]:
        """The scan first; then its blocks, where it is shared out, and their end."""
        yield "scan", self.serve
        while self.result is None:
            yield ("blocks", self.more.popleft()) if self.more else None

    def hear(self, what: Event | Outcome) -> Iterator[Event]:
        """Take what a worker reports, and pass it on; raises the error of a job that failed."""
        shared = self.shared
        if isinstance(what, Outcome):
            if shared is not None and not shared.ending and isinstance(what.error, PartUnreadableError):
                shared.unreadable.append(what.error)  # all other blocks can be done
                self._end_job(shared)
            elif what.error is not None:
                raise what.error
            else:
                yield from self._take(what.result)
        elif isinstance(what, StageStarted):
            if what.message not in self.said:
                self.said.add(what.message)
                yield what
        elif isinstance(what, SlabDone) and shared is not None:
            shared.hear(what)
            yield what
            self._count()
        elif isinstance(what, TileDone | Working) and shared is None:
            self.last = what

    def _take(self, found: Served | InBlocks | Filled) -> Iterator[Event]:
        from prosma_core.engine.on_disk import places_of, tell_stored

        if isinstance(found, InBlocks):
            self.shared = Shared(self.serve.whole, found, self.cluster.count_workers())
            self.more += self.shared.jobs
            tasks = counted(len(self.shared.jobs), "task")
            yield StageStarted(f"{counted(self.shared.total, 'block')} of the scan in {tasks} for the workers.")
            yield from (tell_stored(name, folder) for name, folder in self._begun().items())
            self._count()
        elif isinstance(found, Filled):
            assert self.shared is not None
            self.shared.done.update(found.boxes)
            for box in found.boxes:  # of which one may not have been reported
                yield SlabDone(tuple(low for low, _ in box), tuple(high for _, high in box))
            self._count()
            self._end_job(self.shared)
        else:
            for name, array in found.arrays.items():
                self.allocate(name, array.shape, array.dtype)[...] = array
            self.result = found.result
            if self.shared is not None:
                assert isinstance(self.serve.request, SegmentRequest)
                there = {name: path for name, path in places_of(self.serve.request.store).items() if path.is_dir()}
                yield from (tell_stored(name, path) for name, path in there.items())

    def _end_job(self, shared: Shared) -> None:
        """Some blocks are done, or cannot be: after the last ones comes their end."""
        shared.left -= 1
        if not shared.left:
            self.more.append(shared.finish())
            self.last = Working("Putting the blocks together")

    def _begun(self) -> dict[str, Path]:
        """Where results lie that are being filled."""
        from prosma_core.engine.on_disk import places_of
        from prosma_core.inference.stored_results import hidden_places

        request = self.serve.request
        assert isinstance(request, SegmentRequest)
        return {name: path for name, path in hidden_places(places_of(request.store)).items() if path.is_dir()}

    def _count(self) -> None:
        if self.shared is not None:
            shared = self.shared
            self.last = TileDone(len(shared.done), shared.total, shared.share, shared.seconds_left)
