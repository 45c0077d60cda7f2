"""Segmentation of one scan: a label map on the scan's own grid."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from prosma_core.config.documents import load_json
from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import ModelHeader
from prosma_core.data.frames import Frame, frame_axes, frames
from prosma_core.data.geometry import SPATIAL_AXES, Box, Scan, box_shape
from prosma_core.data.geometry import whole as whole_box
from prosma_core.data.intensities import check_varies
from prosma_core.data.lazy import LazyArray, in_memory
from prosma_core.data.normalization import Normalization, check_not_blank, measure, measuring
from prosma_core.errors import DeviceError, OutputError, PartUnreadableError
from prosma_core.events import Event, SlabDone, StageStarted, TileDone, Working, relay
from prosma_core.inference.device import memory_ended, name_memory_errors
from prosma_core.inference.effort import NONE, Effort, Tiles, TileWork
from prosma_core.inference.grid_restore import RegionOfInterest
from prosma_core.inference.memory import BlockPlan, Column, Need, Unpacking, format_plan, plan_blocks, plan_memory
from prosma_core.inference.prepare import ScanPlan, network_image, plan_scan
from prosma_core.inference.results import Allocate, Results, Segmentation, StoredArray
from prosma_core.inference.tiled import Among, TiledPredictor, wanted_tiles
from prosma_core.io.bundle import load_bundle
from prosma_core.io.hardware import give_back_memory
from prosma_core.model.unet import UNet, model_from
from prosma_core.printable import counted

_CHUNK = 64
"""Voxels that blocks of a label map in memory are multiples of, along each axis."""


@dataclass
class _Work:
    """One scan under way: `done` of `total` tiles of all its frames are computed."""

    config: InferenceConfig
    results: Results
    device: torch.device
    tiles: int
    total: int
    preview: bool
    only: frozenset[Box] | None = None
    done: int = 0
    said: bool = False
    known: dict[tuple[float, ...], Tensor] = field(default_factory=dict)
    unreadable: list[PartUnreadableError] = field(default_factory=list)
    effort: Effort = field(default_factory=Effort)
    expected: dict[tuple[int, Box], Tiles] = field(default_factory=dict)

    def expect(self, number: int, box: Box, tiles: Tiles) -> None:
        """Count the tiles that a block of a frame is expected to have, before it is begun."""
        self.expected[number, box] = tiles
        self.effort.left = self.effort.left.plus(tiles)

    def begin(self, number: int, block: RegionOfInterest) -> None:
        """Begin a block."""
        self.effort.left = self.effort.left.minus(self.expected.pop((number, block.source), NONE))

    def leaves(self, frame: Frame, block: RegionOfInterest) -> bool:
        """Whether a block of a frame is done, or done elsewhere."""
        elsewhere = self.only is not None and frame.place(block.source) not in self.only
        return elsewhere or self.results.is_done(frame, block)


@dataclass(frozen=True)
class Blocks:
    """How a scan is computed by parts, also by several processes: all by the same plan.

    Attributes
    ----------
    plan : BlockPlan
    measured : dict of int to Normalization
        Of each frame.
    only : frozenset of box, optional
        Blocks of the label map to compute; the others are done, or done elsewhere.
    lacks : PartUnreadableError, optional
        Why intensities that decide over the labels were not measured in the whole scan.
    """

    plan: BlockPlan
    measured: dict[int, Normalization]
    only: frozenset[Box] | None = None
    lacks: PartUnreadableError | None = None


class Segmenter:
    """A model, loaded once, for any number of scans.

    Parameters
    ----------
    header : ModelHeader
    model : UNet
        With the header's network.
    device : torch.device
        Where to compute; when its memory ends, the CPU takes over for the rest of that scan.
    """

    working: int | None = None
    """Bytes that a block of a scan may take; None plans it from the memory that is free."""

    def __init__(self, header: ModelHeader, model: UNet, device: torch.device) -> None:
        self.header = header
        self.model = model.to(device).eval()
        self.device = device

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Segmenter:
        """Segmenter from a model file; raises `ModelFileError` as `load_bundle` does."""
        header, weights = load_bundle(path)
        return cls(header, model_from(header.model, weights), device)

    def by_parts(self, scan: Scan, config: InferenceConfig) -> bool:
        """Whether a scan that is still on the disk would be computed in blocks, as it is too large to be read whole.

        Told by its geometry alone; errors as of `segment`.
        """
        plan = plan_scan(scan, self.header, config.region, config.slice_axis)
        return self._plan_blocks(plan, config).by_parts

    def plan_parts(
        self, scan: Scan, config: InferenceConfig, allocate: Allocate
    ) -> Generator[Event, None, tuple[Blocks, dict[Box, float]]]:
        """Plan a scan that is computed by parts, and make the arrays of its results; errors as of `segment`.

        Returns
        -------
        blocks : Blocks
        boxes : dict of box to float
            Of the label map, in the order in which they are computed, and their work, in tiles that are computed.
        """
        plan = plan_scan(scan, self.header, config.region, config.slice_axis)
        results = Results(self.header, config, plan.scan.spec.labels_spec(), plan.part, allocate)
        blocks = self._blocks(plan, results, config)
        if blocks.words:
            yield StageStarted(blocks.words)
        every = list(frames(plan.scan, self.header.model.dims, config.slice_axis, plan.region))
        measured, lacks = yield from self._measured(every, results)
        works = [
            TileWork(plan.part.grid, self.header.preprocess.tile, config.overlap, measured[number])
            for number in range(len(every))
        ]
        boxes = {
            frame.place(block.source): tiles.work
            for column in blocks.columns
            for frame, of in zip(every, works, strict=True)
            for block, tiles in zip(column.blocks, of.column(column, [False] * len(column.blocks)), strict=True)
        }
        bare = {number: replace(how, cells=None) for number, how in measured.items()}
        return Blocks(blocks, bare, lacks=lacks), boxes

    def segment(
        self,
        scan: Scan,
        config: InferenceConfig,
        *,
        allocate: Allocate | None = None,
        preview: bool = False,
        blocks: Blocks | None = None,
    ) -> Generator[Event, None, Segmentation]:
        """Segment a scan; yields at least once per tile batch, and may be closed there.

        Parameters
        ----------
        scan : Scan
            Any grid, orientation and dtype; several frames and slices are done one by one.
        config : InferenceConfig
        allocate : callable, optional
            Gives the arrays that the results are written into, see `Allocate`; new arrays otherwise.
        preview : bool
            Put classes into the label map while it is computed, and yield a `SlabDone` for each box that has some.
            At the end the same array holds the final classes. A label map on a disk gets final classes only, and has a
            `SlabDone` for each block in any case.
        blocks : Blocks, optional
            Of `plan_parts`, for results that were made there.

        Raises
        ------
        GeometryError, ChannelError, IntensityError
            The scan does not fit the model or the region, or cannot be computed with.
        DeviceError
            Memory does not suffice, even on the CPU.
        """
        with name_memory_errors():
            return (yield from self._segment(scan, config, allocate, preview, blocks))

    def _segment(
        self,
        scan: Scan,
        config: InferenceConfig,
        allocate: Allocate | None,
        preview: bool,
        given: Blocks | None,
    ) -> Generator[Event, None, Segmentation]:
        plan = plan_scan(scan, self.header, config.region, config.slice_axis)
        scan, part, whole = plan.scan, plan.part, plan.whole
        if plan.note:
            yield StageStarted(plan.note)
        tiles, every = wanted_tiles(part.grid.shape, self.header.preprocess.tile, config.overlap, part.network)
        for sentence in format_plan(
            scan.spec, self.header, config, part.grid, frames=(plan.frames, whole), tiles=(len(tiles), every)
        ):
            yield StageStarted(sentence)
        results = Results(self.header, config, scan.spec.labels_spec(), part, allocate)
        blocks = self._blocks(plan, results, config) if given is None else given.plan
        if blocks.words:
            yield StageStarted(blocks.words)
        if isinstance(scan.data, LazyArray) and not blocks.by_parts:
            yield Working("Reading the scan")
            scan = Scan(in_memory(scan.data), scan.spec)
        preview = preview and not results.stored
        work = _Work(config, results, self.device, len(tiles), plan.frames * blocks.tiles, preview)
        work.only = None if given is None else given.only
        measured, lacks = ({}, None) if given is None else (dict(given.measured), given.lacks)
        if given is not None and isinstance(results.labels, StoredArray):
            _check_settled(results.labels, list(given.measured.values()))
        if (isinstance(scan.data, LazyArray) or results.stored) and given is None:
            if isinstance(scan.data, LazyArray) and self.header.model.dims < scan.spec.spatial_ndim:
                scan.data.origin.keep *= 3  # chunks of several slices, which are computed one by one
            every_frame = list(frames(scan, self.header.model.dims, config.slice_axis, plan.region))
            measured, lacks = yield from self._measured(every_frame, results)
        self._expect(plan, blocks, measured, work)
        blank = set()
        for column in blocks.columns:
            for number, frame in enumerate(frames(scan, self.header.model.dims, config.slice_axis, plan.region)):
                if number not in measured:
                    measured[number] = measure([frame], self.header.preprocess.intensities)[0]
                if whole > 1 and measured[number].blank:
                    blank.add(number)
                    for block in column.blocks:
                        if work.leaves(frame, block):
                            continue
                        work.begin(number, block)
                        done = results.put_blank(frame, block)
                        results.mark_done(frame, block)
                        if preview or results.stored:
                            yield done
                    work.done = min(work.done + column.tiles, work.total)
                else:
                    check_not_blank(measured[number])
                    yield from self._column(number, frame, measured[number], column, work)
        if work.unreadable and work.only is None:
            every_block = plan.frames * sum(len(column.blocks) for column in blocks.columns)
            raise left_out(work.unreadable, len(work.unreadable), every_block)
        if work.unreadable:
            raise PartUnreadableError(*work.unreadable[0].args, files=_files(work.unreadable))
        if work.only is not None:  # all else is for the one that puts the results in place
            return results.segmentation()
        if lacks is not None:
            msg = f"{lacks} Intensities were measured without it. Run the same command again when it can be read."
            raise PartUnreadableError(msg, files=lacks.files)
        if len(blank) == plan.frames:
            check_varies(scan.data)
        if blank:
            yield StageStarted(
                f"Left as background, as they have one value everywhere: {len(blank)} of "
                f"{counted(plan.frames, 'frame')}."
            )
        if results.stored:
            yield from results.clean_stored(plan.region, config)
        else:
            results.clean(plan.region, config)
        if config.objects:
            yield Working("Numbering objects")
            if results.stored:
                yield StageStarted((yield from results.separate_stored(plan.region)))
            else:
                yield StageStarted(results.separate(plan.region))
        return results.segmentation()

    def _expect(self, plan: ScanPlan, blocks: BlockPlan, measured: dict[int, Normalization], work: _Work) -> None:
        """Count the tiles of all blocks that are to be computed, before the first is begun."""
        tile, work.total = self.header.preprocess.tile, 0
        every = frames(plan.scan, self.header.model.dims, work.config.slice_axis, plan.region) if measured else None
        of = None
        for number in range(plan.frames):
            frame, how = None if every is None else next(every), measured.get(number)
            if of is None or how is not None:
                of = TileWork(plan.part.grid, tile, work.config.overlap, how)
            for column in blocks.columns:
                leaves = [frame is not None and work.leaves(frame, block) for block in column.blocks]
                for block, tiles in zip(column.blocks, of.column(column, leaves), strict=True):
                    work.total += sum(tiles)
                    if how is None or not how.blank:
                        work.expect(number, block.source, tiles)

    def _measured(
        self, every: list[Frame], results: Results
    ) -> Generator[Event, None, tuple[dict[int, Normalization], PartUnreadableError | None]]:
        """How each frame of a scan on a disk is normalized; where the result is as well, without unreadable parts.

        All blocks of a frame are normalized alike: as long as something cannot be read, as those of the earlier run;
        when everything can, blocks that were normalized otherwise are not done any more. Also returned is the error of
        a part that was left out and would have changed what was measured.
        """
        rules, stored = self.header.preprocess.intensities, results.labels
        if not isinstance(stored, StoredArray):
            return dict(enumerate((yield from measuring(every, rules, cells=True)))), None
        missing: list[PartUnreadableError] = []
        found = yield from measuring(every, rules, missing, cells=True)
        before = None if stored.normalized is None else _normalizations(stored.normalized)
        outdated: set[Box] = set()
        if missing:
            yield StageStarted(f"{missing[0]} All blocks that do not reach it are segmented.")
            if before is not None:
                yield StageStarted("Intensities are those of the earlier run.")
            found = before or found
        elif before is not None:
            changed = [frame for frame, new, old in zip(every, found, before, strict=True) if not new.is_as(old)]
            outdated = {box for box in stored.done for frame in changed if frame.holds(box)}
            if outdated:
                text = counted(len(outdated), "block is", "blocks are")
                yield StageStarted(f"Intensities are not those of the earlier run any more: {text} computed again.")
        stored.settle(_as_text(found), _files(missing), outdated)
        lacks = missing[0] if missing and any(rule.kind != "ct" for rule in rules) else None
        if lacks is not None:
            lacks = PartUnreadableError(*lacks.args, files=_files(missing))
        return dict(enumerate(found)), lacks

    def _blocks(self, plan: ScanPlan, results: Results, config: InferenceConfig) -> BlockPlan:
        """What of a frame is computed at once."""
        chunks = None
        if results.stored:
            scan, kept = plan.scan, plan.scan.spec.labels_spec().axes
            taken = frame_axes(scan.spec, self.header.model.dims, config.slice_axis)
            chunks = tuple(results.labels.chunks[kept.index(axis)] for axis in taken)
        return self._plan_blocks(plan, config, chunks)

    def _plan_blocks(self, plan: ScanPlan, config: InferenceConfig, chunks: tuple[int, ...] | None = None) -> BlockPlan:
        scan, part, lazy = plan.scan, plan.part, isinstance(plan.scan.data, LazyArray)
        need = Need(
            self.header.model,
            self.header.preprocess.tile,
            config.overlap,
            config.probabilities or config.entropy,
            config.threshold is not None,
            int(scan.data.nbytes) if lazy else 0,
            chunks or tuple(_CHUNK for _ in part.oriented),
            self._unpacking(scan, config),
        )
        return plan_blocks(part, need, lazy=lazy, working=self.working, least=chunks is not None)

    def _unpacking(self, scan: Scan, config: InferenceConfig) -> Unpacking | None:
        if not isinstance(scan.data, LazyArray):
            return None
        taken = frame_axes(scan.spec, self.header.model.dims, config.slice_axis)
        return Unpacking.of(scan.data, scan.spec.axes, taken)

    def _column(
        self, number: int, frame: Frame, how: Normalization, column: Column, work: _Work
    ) -> Generator[Event, None, None]:
        """Compute the blocks of a column, each with what the one before has left of their common tiles."""
        grid, tile = column.blocks[0].grid, self.header.preprocess.tile
        among = Among(grid.shape, whole_box(grid.shape), known=work.known)
        for block, following in zip(column.blocks, [*column.blocks[1:], None], strict=True):
            if work.leaves(frame, block):  # those after it begin anew
                among = Among(grid.shape, whole_box(grid.shape), known=work.known)
                continue
            work.begin(number, block)
            among.on = None if following is None else following.network[0][0]
            among.box = among.hull(tile, work.config.overlap, block.network)
            try:
                image, note = network_image(frame, grid, self.header.preprocess, how, among.box)
            except PartUnreadableError as error:
                if not work.results.stored:
                    raise
                work.unreadable.append(error)
                among = Among(grid.shape, whole_box(grid.shape), known=work.known)  # the next one begins anew
                continue
            if work.results.stored:
                give_back_memory()  # what unpacking chunks took
            if note and not work.said:
                yield StageStarted(f"For the model, {note}.")
            computed = len(among.tiles(tile, work.config.overlap, block.network)[0])
            logits = yield from self._logits(image, among, frame, block, work)
            del image
            try:
                done = work.results.put(frame, block, logits)
            except RuntimeError as error:
                if logits.device.type == "cpu" or not memory_ended(error):
                    raise
                yield StageStarted(f"Memory of {logits.device.type} does not suffice: finishing on the CPU.")
                done = work.results.put(frame, block, logits.cpu())
            del logits  # before the next block takes its own
            if work.results.stored:
                give_back_memory()
            work.results.mark_done(frame, block)
            work.done = min(work.done + computed, work.total)
            work.effort.end_block()
            among.done = block.network[0][1]
            if work.preview or work.results.stored:
                yield done

    def _logits(
        self, image: Tensor, among: Among, frame: Frame, block: RegionOfInterest, work: _Work
    ) -> Generator[Event, None, Tensor]:
        try:
            return (yield from self._predict(image, among, frame, block, work))
        except (DeviceError, RuntimeError, MemoryError) as error:
            if work.device.type == "cpu" or not (isinstance(error, DeviceError) or memory_ended(error)):
                raise
        yield StageStarted(f"Memory of {work.device.type} does not suffice: continuing on the CPU, which takes longer.")
        work.device, work.said = torch.device("cpu"), False
        self.model.to(work.device)
        torch.cuda.empty_cache()
        return (yield from self._predict(image, among, frame, block, work))

    def _predict(
        self, image: Tensor, among: Among, frame: Frame, block: RegionOfInterest, work: _Work
    ) -> Generator[Event, None, Tensor]:
        config, tile, box = work.config, self.header.preprocess.tile, block.network
        more = tile[0] if among.on is not None or among.carried is not None else 0
        plan = plan_memory(
            self.header.model,
            tile,
            (box_shape(box)[0] + more, *box_shape(box)[1:]),
            box_shape(block.oriented),
            work.device,
            tiles=work.tiles,
            all_classes=config.probabilities or config.entropy,
            threshold=config.threshold is not None,
            batch_size=config.batch_size,
        )
        if not work.said:
            yield StageStarted(f"Segmenting: {plan.words}.")
            work.said = True
        axes = SPATIAL_AXES[-len(tile) :]
        mirror = [axes.index(a) for a in self.header.mirror_axes] if config.mirror else []
        model = self.model.to(work.device)  # it is on the CPU where the scan before was too large
        predictor = TiledPredictor(
            model, tile, work.device, overlap=config.overlap, mirror=mirror, batch_size=plan.batch_size
        )
        shown: list[SlabDone | None] = []

        def show(first: int, sums: Tensor, weights: Tensor) -> None:
            shown.append(work.results.put_planes(frame, block, first, sums, weights))

        def change(event: Event) -> Iterator[Event]:
            if isinstance(event, TileDone):
                work.effort.hear(among.so_far, among.effort)
                done, how = min(work.done + event.done, work.total), work.effort
                event = TileDone(done, work.total, how.share, how.seconds_left)
            yield event
            yield from (slab for slab in shown if slab is not None)
            shown.clear()

        run = predictor.predict(image, plan.sums_on, box, show if work.preview else None, among)
        return (yield from relay(run, change))


def left_out(errors: Sequence[PartUnreadableError], left: int, blocks: int) -> PartUnreadableError:
    """The error for `left` of some blocks that could not be read, where all others are done."""
    if left >= blocks:
        return errors[0]
    files = _files(errors)
    more = f" {counted(len(files) - 1, 'other file')} as well." if len(files) > 1 else ""
    return PartUnreadableError(
        f"{errors[0]}{more} {left} of {counted(blocks, 'block')} reach it and are not done; the others are "
        "kept. Run the same command again when it can be read: these blocks are done then.",
        files=files,
    )


def _check_settled(stored: StoredArray, measured: Sequence[Normalization]) -> None:
    """Raise `OutputError` where blocks of another plan are there: a job of an earlier one goes on."""
    if stored.normalized not in {None, _as_text(measured)}:
        msg = "The result, which several processes fill, is gone or was changed. Run the same command again."
        raise OutputError(msg)


def _as_text(measured: Sequence[Normalization]) -> str:
    return json.dumps([each.as_json() for each in measured])


def _normalizations(text: str) -> list[Normalization]:
    return [Normalization.from_json(each) for each in load_json(text)]


def _files(errors: Sequence[PartUnreadableError]) -> list[str]:
    return list(dict.fromkeys(file for error in errors for file in error.files))
