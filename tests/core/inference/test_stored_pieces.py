"""Connected pieces found block by block are those of the whole label map, to the voxel."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prosma_core.config import InferenceConfig
from prosma_core.data.geometry import Box, box_slices, whole
from prosma_core.inference.postprocess import fill_holes, keep_largest, number_pieces, remove_small
from prosma_core.inference.stored_pieces import Blocks, clean_stored, join, number_stored, object_order

CLASSES = 4


def drained(work: Any) -> Any:
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value


def label_maps() -> st.SearchStrategy[np.ndarray]:
    shapes = st.one_of(hnp.array_shapes(min_dims=2, max_dims=2, max_side=14), hnp.array_shapes(min_dims=3, max_dims=3))
    few = shapes.flatmap(lambda s: hnp.arrays(np.uint8, s, elements=st.integers(0, CLASSES - 1)))
    seeds = st.tuples(shapes, st.integers(0, 10_000), st.floats(0.2, 0.9))
    return few | seeds.map(lambda given: dense(*given))


def dense(shape: tuple[int, ...], seed: int, share: float) -> np.ndarray:
    """A map in which one class surrounds many holes, some with other classes in them."""
    rng = np.random.default_rng(seed)
    found = rng.integers(0, CLASSES, shape).astype(np.uint8)
    found[rng.random(shape) < share] = 1
    return found


def blocks_of(labels: np.ndarray, chunks: tuple[int, ...], most: int, box: Box) -> Blocks:
    return Blocks(box, chunks[-labels.ndim :], lambda part: labels[box_slices(part)], most)


CHUNKS = st.tuples(*[st.integers(1, 5)] * 3)


@settings(max_examples=300, deadline=None)
@given(
    label_maps(),
    CHUNKS,
    st.integers(1, 200),
    st.booleans(),
    st.integers(0, 6),
    st.booleans(),
    st.integers(0, 3),
    st.randoms(),
)
@example(np.pad(np.zeros((3, 3, 3), np.uint8), 2, constant_values=2), (2, 2, 2), 1, False, 0, True, 0, None)
def test_a_stored_map_is_tidied_as_one_in_memory(
    labels: np.ndarray,
    chunks: tuple[int, ...],
    most: int,
    largest: bool,
    least: int,
    holes: bool,
    stops: int,
    random: Any,
) -> None:
    box = whole(labels.shape)
    if random is not None:  # a region that does not begin where a chunk does
        box = tuple((a := random.randrange(n), random.randrange(a + 1, n + 1)) for n in labels.shape)
    region = labels[box_slices(box)]
    wanted = keep_largest(region, CLASSES) if largest else region
    wanted = remove_small(wanted, CLASSES, least) if least > 1 else wanted
    wanted = fill_holes(wanted) if holes else wanted
    stored = labels.copy()

    def put(part: Box, values: np.ndarray) -> None:
        assert all(a <= c and d <= b for (c, d), (a, b) in zip(part, box, strict=True))
        stored[box_slices(part)] = values

    def stop(part: Box, values: np.ndarray) -> None:
        put(part, values)
        raise InterruptedError

    blocks = blocks_of(stored, chunks, most, box)
    asked = InferenceConfig(keep_largest=largest, min_size=least, fill_holes=holes)
    for _ in range(stops):  # each time after a block more
        with contextlib.suppress(InterruptedError):
            drained(clean_stored(blocks, stop, CLASSES, asked))
    drained(clean_stored(blocks, put, CLASSES, asked))
    np.testing.assert_array_equal(stored[box_slices(box)], wanted)
    outside = np.ones(labels.shape, bool)
    outside[box_slices(box)] = False
    np.testing.assert_array_equal(stored[outside], labels[outside])


@settings(max_examples=300, deadline=None)
@given(label_maps(), CHUNKS, st.integers(1, 200), st.integers(1, 1000))
def test_objects_of_a_stored_map_have_the_numbers_of_one_in_memory(
    labels: np.ndarray, chunks: tuple[int, ...], most: int, first: int
) -> None:
    wanted = np.zeros(labels.shape, np.uint32)
    sizes = number_pieces(labels, CLASSES, wanted, first)
    numbers = np.zeros(labels.shape, np.uint32)

    def put(part: Box, values: np.ndarray) -> None:
        numbers[box_slices(part)] = values

    blocks = blocks_of(labels, chunks, most, whole(labels.shape))
    found = drained(join(blocks, 3))
    drained(number_stored(blocks, put, first, found))
    np.testing.assert_array_equal(numbers, wanted)
    order = object_order(found)
    assert found.size[order].tolist() == [int(n) for _, each in sizes for n in each]
    assert found.number[order].tolist() == [c for c, each in sizes for _ in each]


@given(hnp.array_shapes(min_dims=2, max_dims=3, max_side=40), CHUNKS, st.integers(1, 3000))
def test_blocks_are_whole_chunks_and_together_the_map(
    shape: tuple[int, ...], chunks: tuple[int, ...], most: int
) -> None:
    chunks = chunks[-len(shape) :]
    blocks = Blocks(whole(shape), chunks, lambda _: np.zeros(0), most)
    seen = np.zeros(shape, int)
    for box in blocks.boxes:
        seen[box_slices(box)] += 1
        assert all(a % n == 0 and (b % n == 0 or b == size) for (a, b), n, size in zip(box, chunks, shape, strict=True))
        voxels = np.prod([b - a for a, b in box])
        assert voxels <= max(most, np.prod(chunks))
    assert (seen == 1).all()
