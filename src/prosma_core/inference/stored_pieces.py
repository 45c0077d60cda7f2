"""Connected pieces of label maps that are larger than memory: found block by block, joined over the blocks' faces."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from itertools import pairwise, product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import Box, box_shape
from prosma_core.errors import DeviceError
from prosma_core.events import Event, Working

BLOCK = 1 << 23
"""Voxels of a block; finding its pieces takes about 30 bytes for each."""
_MOST = (1 << 32) - 2
FACES, CORNERS = 1, 3
"""How voxels of a piece are connected: by faces, or by edges and corners as well."""


class Blocks:
    """A box of a label map, block by block in array order.

    Parameters
    ----------
    box : tuple of (int, int)
        Its spatial axes, two or three.
    chunks : tuple of int
        What is read and written at once; blocks are of whole chunks.
    read : callable
        Takes a box, gives class numbers, unsigned integers.
    most : int
        Voxels of a block, where a chunk has no more.
    """

    def __init__(
        self,
        box: Box,
        chunks: tuple[int, ...],
        read: Callable[[Box], NDArray[Any]],
        most: int | None = None,
    ) -> None:
        self.box, self._read = box, read
        most = BLOCK if most is None else most
        step, shape = list(chunks), box_shape(box)
        for axis in reversed(range(len(step))):
            room = max(1, most // prod(min(a, b) for a, b in zip(step, shape, strict=True)))
            step[axis] *= min(room, -(-shape[axis] // step[axis]))
        cuts = [_cuts(ends, n) for ends, n in zip(box, step, strict=True)]
        self.boxes: list[Box] = list(product(*cuts))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the box, as three axes."""
        shape = box_shape(self.box)
        return (1, *shape) if len(shape) == 2 else shape  # type: ignore[return-value]

    def classes(self, box: Box) -> NDArray[Any]:
        """Class numbers of a block, with three axes."""
        found = self._read(box)
        return found[None] if found.ndim == 2 else found

    def place(self, box: Box) -> tuple[int, int, int]:
        """Where a block begins, as three axes."""
        start = [a - first for (a, _), (first, _) in zip(box, self.box, strict=True)]
        return (0, *start) if len(start) == 2 else tuple(start)  # type: ignore[return-value]


def _cuts(ends: tuple[int, int], step: int) -> list[tuple[int, int]]:
    start, stop = ends
    edges = [start, *range((start // step + 1) * step, stop, step), stop]
    return list(pairwise(edges))


@dataclass(eq=False)
class Joined:
    """Pieces of a label map, each with a number from 1 in each block that it has a part in.

    Attributes
    ----------
    piece : ndarray, int, one entry for each number
        Which piece it is a part of; at 0 none.
    number : ndarray
        Class of each piece.
    size : ndarray, int64
        Voxels of each piece.
    first : ndarray, int64
        First voxel of each piece in array order.
    border : ndarray, bool
        Whether a piece reaches the border of the box; axes of one voxel do not count.
    touching : ndarray, int, shape (n, 2)
        Pairs of pieces of different classes that share a face, where these were asked for.
    """

    piece: NDArray[np.int64]
    number: NDArray[Any]
    size: NDArray[np.int64]
    first: NDArray[np.int64]
    border: NDArray[np.bool_]
    touching: NDArray[np.int64]


@dataclass(eq=False)
class _Found:
    """What is collected block by block: of each number its class, voxels, first voxel; pairs of numbers that touch."""

    number: list[NDArray[Any]] = field(default_factory=list)
    size: list[NDArray[np.int64]] = field(default_factory=list)
    first: list[NDArray[np.int64]] = field(default_factory=list)
    border: list[NDArray[np.int64]] = field(default_factory=list)
    same: list[NDArray[np.uint64]] = field(default_factory=list)
    other: list[NDArray[np.uint64]] = field(default_factory=list)
    count: int = 0


class _Sides:
    """Numbers and classes on the sides of blocks that later ones touch: a layer's last plane, rows, and columns."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.layer: Side = _empty(shape[1:])
        self.next: Side = _empty(shape[1:])
        self.row: Side = _empty((0, 0))
        self.next_row: Side = _empty((0, 0))
        self.column: Side = _empty((0, 0))


Side = tuple[NDArray[np.uint32], NDArray[Any]]
Labelled = tuple[NDArray[np.uint32], NDArray[Any], list[int], list[int]]


def _empty(shape: tuple[int, ...]) -> Side:
    return np.zeros(shape, np.uint32), np.zeros(shape, np.uint16)


def _label(classes: NDArray[Any], connected: int, *, background: bool) -> Labelled:
    """Numbers of the pieces of a block from 1, its classes, and which classes are there with how many pieces."""
    from scipy import ndimage

    structure = ndimage.generate_binary_structure(3, connected)
    numbers = np.zeros(classes.shape, np.uint32)
    there = [int(c) for c in np.unique(classes) if c or background]
    counts, total = [], 0
    for number in there:
        inside = classes == number
        pieces, count = ndimage.label(inside, structure)
        numbers[inside] = pieces[inside].astype(np.uint32) + np.uint32(total)
        counts.append(int(count))
        total += int(count)
    return numbers, classes, there, counts


def join(
    blocks: Blocks, connected: int, *, background: bool = False, touching: bool = False
) -> Generator[Event, None, Joined]:
    """Find the pieces of each class of a label map.

    Parameters
    ----------
    blocks : Blocks
    connected : int
        1: pieces are connected by faces; 3: also by edges and corners.
    background : bool
        Whether pieces of background are found as well.
    touching : bool
        Whether pairs of pieces that share a face are collected.

    Raises
    ------
    DeviceError
        There are more pieces than can be numbered.
    """
    shape, found, sides = blocks.shape, _Found(), _Sides(blocks.shape)
    for done, box in enumerate(blocks.boxes):
        yield Working(f"Connected pieces: block {done + 1} of {len(blocks.boxes)}")
        start = blocks.place(box)
        numbers, classes, there, counts = _label(blocks.classes(box), connected, background=background)
        if found.count + sum(counts) > _MOST:
            msg = "The label map has more connected pieces than can be numbered. Segment a part of the scan (--region)."
            raise DeviceError(msg)
        _measure(found, numbers, there, counts, start, shape)
        numbers[numbers > 0] += np.uint32(found.count)
        found.count += sum(counts)
        _mark_border(found, numbers, start, shape)
        if touching:
            for axis in range(3):
                ahead, behind = ([slice(None)] * 3 for _ in range(2))
                ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
                found.other.append(_pairs(numbers[tuple(ahead)], numbers[tuple(behind)]))
        _join_block(found, sides, (numbers, classes), start, shape, connected == CORNERS, touching)
    return _joined(found)


def _measure(
    found: _Found,
    numbers: NDArray[np.uint32],
    there: list[int],
    counts: list[int],
    start: tuple[int, int, int],
    shape: tuple[int, int, int],
) -> None:
    flat = numbers.reshape(-1)
    total = sum(counts)
    found.number.append(np.repeat(np.array(there, np.uint16), counts))
    found.size.append(np.bincount(flat, minlength=total + 1)[1:].astype(np.int64))
    first = np.full(total + 1, flat.size, np.int64)
    first[flat[::-1]] = np.arange(flat.size - 1, -1, -1)  # the last one written is the first in array order
    z, y, x = np.unravel_index(first[1:], numbers.shape) if total else (np.zeros(0, np.int64),) * 3
    found.first.append(((z + start[0]) * shape[1] + y + start[1]) * shape[2] + x + start[2])


def _mark_border(
    found: _Found, numbers: NDArray[np.uint32], start: tuple[int, int, int], shape: tuple[int, int, int]
) -> None:
    for axis in range(3):
        if shape[axis] == 1:
            continue
        if start[axis] == 0:
            found.border.append(np.unique(numbers.take(0, axis)).astype(np.int64))
        if start[axis] + numbers.shape[axis] == shape[axis]:
            found.border.append(np.unique(numbers.take(-1, axis)).astype(np.int64))


def _pairs(a: NDArray[np.uint32], b: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Different pairs of numbers at the same place, each packed into one."""
    at = (a != b) & (a > 0) & (b > 0)
    low, high = np.minimum(a[at], b[at]).astype(np.uint64), np.maximum(a[at], b[at])
    return np.unique(low << np.uint64(32) | high)


def _join_block(
    found: _Found,
    sides: _Sides,
    block: Side,
    start: tuple[int, int, int],
    shape: tuple[int, int, int],
    corners: bool,
    touching: bool,
) -> None:
    """Join a block with those before it, and keep its sides for those behind it."""
    numbers, classes = block
    (z, y, x), (depth, height, width) = start, numbers.shape
    if y == 0 and x == 0:
        sides.layer, sides.next = sides.next, _empty(shape[1:])
    if x == 0:
        sides.row, sides.next_row = sides.next_row, _empty((depth, shape[2]))

    def meet(side: Side, own: Side, first: tuple[int, int]) -> None:
        _meet(found, side, own, first, corners, touching)

    if z:
        meet(sides.layer, (numbers[0], classes[0]), (y, x))
    if y:
        meet(sides.row, (numbers[:, 0], classes[:, 0]), (0, x))
    if x:
        meet(sides.column, (numbers[:, :, 0], classes[:, :, 0]), (0, 0))
    for kept, own in zip(sides.next, block, strict=True):
        kept[y : y + height, x : x + width] = own[-1]
    for kept, own in zip(sides.next_row, block, strict=True):
        kept[:, x : x + width] = own[:, -1]
    sides.column = numbers[:, :, -1].copy(), classes[:, :, -1].copy()


def _meet(found: _Found, side: Side, own: Side, first: tuple[int, int], corners: bool, touching: bool) -> None:
    """Pairs of a side of earlier blocks and the one of a block that begins at a place of it."""
    reach = 1 if corners else 0
    (rows, columns), (top, left) = own[0].shape, first
    for down, right in product(range(-reach, reach + 1), repeat=2):
        low = max(0, top + down), max(0, left + right)
        high = min(side[0].shape[0], top + rows + down), min(side[0].shape[1], left + columns + right)
        if low[0] >= high[0] or low[1] >= high[1]:
            continue
        there = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        here = tuple(slice(a - f - d, b - f - d) for a, b, f, d in zip(low, high, first, (down, right), strict=True))
        same = side[1][there] == own[1][here]
        found.same.append(_pairs(np.where(same, side[0][there], 0), np.where(same, own[0][here], 0)))
        if touching and not down and not right:
            found.other.append(_pairs(np.where(same, 0, side[0][there]), np.where(same, 0, own[0][here])))


def _joined(found: _Found) -> Joined:
    from scipy import sparse

    def unpacked(packed: list[NDArray[np.uint64]]) -> NDArray[np.int64]:
        pairs = np.unique(np.concatenate(packed)) if packed else np.zeros(0, np.uint64)
        return np.stack([pairs >> np.uint64(32), pairs & np.uint64(0xFFFFFFFF)], 1).astype(np.int64)

    def gathered(each: list[NDArray[Any]], kind: type) -> NDArray[Any]:
        return np.concatenate([np.zeros(1, kind), *each]).astype(kind)

    same = unpacked(found.same)
    graph = sparse.coo_array((np.ones(len(same), np.uint8), (same[:, 0], same[:, 1])), shape=(found.count + 1,) * 2)
    count, piece = sparse.csgraph.connected_components(graph, directed=False)
    piece = piece.astype(np.int64)
    number, first = np.zeros(count, np.uint16), np.full(count, np.iinfo(np.int64).max, np.int64)
    number[piece] = gathered(found.number, np.uint16)
    size = np.zeros(count, np.int64)
    np.add.at(size, piece, gathered(found.size, np.int64))
    np.minimum.at(first, piece[1:], gathered(found.first, np.int64)[1:])
    border = np.zeros(count, bool)
    for numbers in found.border:
        border[piece[numbers[numbers > 0]]] = True
    touching = piece[unpacked(found.other)]
    touching = np.unique(np.sort(touching, axis=1), axis=0) if len(touching) else touching
    different = number[touching[:, 0]] != number[touching[:, 1]]
    return Joined(piece, number, size, first, border, touching[different])


def _again(
    blocks: Blocks, connected: int, *, background: bool = False
) -> Iterator[tuple[Box, NDArray[np.uint32], NDArray[Any]]]:
    """Each block with the numbers that `join` gave it, and its classes."""
    total = 0
    for box in blocks.boxes:
        numbers, classes, _, counts = _label(blocks.classes(box), connected, background=background)
        numbers[numbers > 0] += np.uint32(total)
        total += sum(counts)
        yield box, numbers, classes


Put = Callable[[Box, NDArray[Any]], None]


def clean_stored(blocks: Blocks, put: Put, num_classes: int, config: InferenceConfig) -> Generator[Event, None, None]:
    """Tidy a label map as `keep_largest`, `remove_small` and `fill_holes` do, to the voxel.

    Parameters
    ----------
    blocks : Blocks
    put : callable
        Takes a box and its class numbers.
    num_classes : int
    config : InferenceConfig
        What is asked for.
    """
    if config.keep_largest or config.min_size > 1:
        found = yield from join(blocks, CORNERS)
        kept = np.ones(len(found.number), bool)
        own = found.number[1:]
        if config.keep_largest:
            kept[1:] = False
            order = np.lexsort((found.first[1:], -found.size[1:], own))
            kept[1 + order[np.flatnonzero(np.diff(own[order], prepend=0))]] = True
        kept[1:] &= found.size[1:] >= config.min_size
        kept[0] = True
        if not kept.all():
            yield from _write(blocks, put, CORNERS, np.where(kept, found.number, 0)[found.piece])
    if config.fill_holes:
        found = yield from join(blocks, FACES, background=True, touching=True)
        filled = _holes(found, num_classes)
        if (filled != found.number).any():
            yield from _write(blocks, put, FACES, filled[found.piece], background=True)


def _write(
    blocks: Blocks, put: Put, connected: int, become: NDArray[Any], *, background: bool = False
) -> Generator[Event, None, None]:
    """Give each number another class; blocks without a change are not written."""
    for done, (box, numbers, classes) in enumerate(_again(blocks, connected, background=background)):
        yield Working(f"Connected pieces: writing block {done + 1} of {len(blocks.boxes)}")
        changed = become[numbers].astype(classes.dtype)
        if (changed != classes).any():
            put(box, changed.reshape(box_shape(box)))


def _holes(found: Joined, num_classes: int) -> NDArray[Any]:
    """Class of each piece when holes are filled: what of the background a class touches and keeps from the border."""
    from scipy import sparse

    number, pairs, filled = found.number, found.touching, found.number.copy()
    for own in range(1, num_classes):
        apart = pairs[(number[pairs] != own).all(axis=1)]
        graph = sparse.coo_array((np.ones(len(apart), np.uint8), (apart[:, 0], apart[:, 1])), shape=(len(number),) * 2)
        count, whole = sparse.csgraph.connected_components(graph, directed=False)
        outside = np.zeros(count, bool)
        outside[whole[found.border]] = True
        beside = pairs[(number[pairs] == own).any(axis=1)].reshape(-1)
        beside = beside[(number[beside] == 0) & (filled[beside] == 0) & ~outside[whole[beside]]]
        filled[beside] = own
    return filled


def number_stored(blocks: Blocks, put: Put, first: int, found: Joined) -> Generator[Event, None, None]:
    """Write the numbers of objects as `number_pieces` gives them.

    Parameters
    ----------
    blocks : Blocks
    put : callable
        Takes a box and its numbers, uint32.
    first : int
        The first number.
    found : Joined
        Pieces that are connected by corners.
    """
    order = object_order(found)
    numbers = np.zeros(len(found.number), np.uint32)
    numbers[order] = np.arange(first, first + len(order), dtype=np.uint32)
    of_each = numbers[found.piece]
    for done, (box, parts, _) in enumerate(_again(blocks, CORNERS)):
        yield Working(f"Numbering objects: block {done + 1} of {len(blocks.boxes)}")
        if parts.any():
            put(box, of_each[parts].reshape(box_shape(box)))


def object_order(found: Joined) -> NDArray[np.int64]:
    """The pieces in the order of their numbers: by class, then by their first voxel."""
    return 1 + np.lexsort((found.first[1:], found.number[1:]))
