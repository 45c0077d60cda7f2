"""The remaining time of a sparse scan: tiles that are computed and others, before they are reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.core.inference.test_blocks import CASES, Disk, run, scan_of, segmenter

from prosma_core.config import InferenceConfig, ModelHeader
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.events import Event, SlabDone, TileDone
from prosma_core.inference import effort
from prosma_core.inference.effort import KNOWN, Effort, Tiles

MakeHeader = Callable[..., ModelHeader]


class Clock:
    """Seconds that pass when they are told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock of the code that is tested."""
    found = Clock()
    monkeypatch.setattr(effort, "time", found)
    return found


def test_both_kinds_of_tiles_have_a_pace_of_their_own(clock: Clock) -> None:
    work = Effort(left=Tiles(10, 1000))
    block = Tiles(3, 2)
    work.hear(Tiles(1, 0), block)
    assert work.seconds_left is None  # the first tile takes what begins with it
    clock.now += 2
    work.hear(Tiles(2, 0), block)
    assert work.seconds_left == pytest.approx(2 * (1 + 10) + 2 * KNOWN * (2 + 1000))
    clock.now += 0.001
    work.hear(Tiles(2, 1), block)
    assert work.seconds_left == pytest.approx(2 * 11 + 0.001 * 1001)
    clock.now += 2
    work.hear(Tiles(3, 2), block)
    work.end_block()
    assert work.share == pytest.approx((3 + KNOWN * 2) / (13 + KNOWN * 1002))
    work.left = Tiles()
    assert (work.share, work.seconds_left) == (1.0, 0.0)


def test_a_pace_follows_what_was_measured_of_late(clock: Clock) -> None:
    work = Effort()
    for n in range(1200):
        clock.now += 10 if n < 200 else 1
        work.hear(Tiles(n), Tiles(1300))
    assert work.seconds_left == pytest.approx(101, rel=0.02)


def sparse(dtype: Any = np.uint16) -> np.ndarray:
    data = np.full((96, 96, 128), 100, dtype)
    data[:32, :32, :64] = np.random.default_rng(0).integers(80, 220, (32, 32, 64))
    return data


def told(data: np.ndarray, header: ModelHeader, config: InferenceConfig | None = None, **more: Any) -> list[Event]:
    disk = Disk((32, 32, 32))
    scan = Scan(disk.lazy(data), array_spec(data.shape, "zyx"))
    return run(segmenter(header, 1 << 20), scan, config or InferenceConfig(), allocate=disk.allocate, **more)[1]


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_tiles_that_hold_nothing_are_known_of_before_they_are_reached(
    overlap: float, make_header: MakeHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[tuple[Tiles, Tiles]] = []

    hear = Effort.hear

    def watched(self: Effort, now: Tiles, block: Tiles) -> None:
        hear(self, now, block)
        states.append((self.done.plus(now), block.minus(now).plus(self.left)))

    monkeypatch.setattr(Effort, "hear", watched)
    events = told(sparse(), make_header(3, tile=(16, 16, 16)), InferenceConfig(overlap=overlap))
    tiles = [event for event in events if isinstance(event, TileDone)]
    assert len([event for event in events if isinstance(event, SlabDone)]) > 4
    wholly = [sum(done) + sum(left) for done, left in states]
    assert set(wholly) == {tiles[-1].total}
    (done, nothing), first = states[-1], states[0][0].plus(states[0][1])
    assert nothing == Tiles()
    assert done.computed - 1 <= first.computed <= 1.5 * done.computed < tiles[-1].total / 2  # one that is empty
    assert tiles[-1].share == 1.0
    shares = [event.share for event in tiles]
    assert shares == sorted(shares)


def test_the_remaining_time_is_that_of_the_tiles_that_hold_something(make_header: MakeHeader, clock: Clock) -> None:
    by = segmenter(make_header(3, tile=(16, 16, 16)), 1 << 20)
    forward, disk = by.model.forward, Disk((32, 32, 32))
    seen: list[int] = []

    def slow(batch: Any) -> Any:
        clock.now += 2.0
        seen.append(len(batch))
        return forward(batch)

    by.model.forward = slow  # type: ignore[method-assign]
    scan = Scan(disk.lazy(sparse()), array_spec((96, 96, 128), "zyx"))
    events = run(by, scan, InferenceConfig(overlap=0.0, batch_size=1), allocate=disk.allocate)[1]
    tiles = [event for event in events if isinstance(event, TileDone)]
    whole = 2.0 * len(seen)
    assert len(seen) < len(tiles) / 2
    told_at = next(event for event in tiles if event.seconds_left is not None)
    assert told_at.done == 2
    assert told_at.seconds_left == pytest.approx(whole, rel=0.5)
    assert 2.0 * (len(tiles) - 2) > 2 * whole  # what the tiles alone would make of it


@pytest.mark.parametrize("name", CASES)
def test_tiles_are_those_that_are_computed(name: str, make_header: MakeHeader) -> None:
    dims, preprocess, spec = CASES[name]
    tile = (8,) * dims
    scan = scan_of(spec)
    disk = Disk((4,) * dims)
    lazy = Scan(disk.lazy(np.asarray(scan.data)), spec)
    by = segmenter(make_header(dims, tile=tile, **preprocess), 1 << 14)
    events = run(by, lazy, InferenceConfig(), allocate=disk.allocate)[1]
    tiles = [event for event in events if isinstance(event, TileDone)]
    assert (tiles[-1].done, tiles[-1].share) == (tiles[-1].total, 1.0)


def test_a_run_that_continues_counts_what_it_computes(make_header: MakeHeader) -> None:
    header = make_header(3, tile=(16, 16, 16))
    every = told(sparse(), header)
    slabs = [event for event in every if isinstance(event, SlabDone)]
    done = [tuple(zip(slab.start, slab.stop, strict=True)) for slab in slabs[: len(slabs) // 2]]
    disk = Disk((32, 32, 32))

    def allocate(*given: Any) -> Any:
        return replace(disk.allocate(*given), done=frozenset(done))

    scan = Scan(disk.lazy(sparse()), array_spec((96, 96, 128), "zyx"))
    events = run(segmenter(header, 1 << 20), scan, InferenceConfig(), allocate=allocate)[1]
    tiles = [event for event in events if isinstance(event, TileDone)]
    whole = next(event.total for event in every if isinstance(event, TileDone))
    assert tiles[-1].done == tiles[-1].total < whole
    assert tiles[-1].share == 1.0
