"""A part of a scan larger than memory is inspected as it is in memory; all of it is refused with advice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tests.e2e.conftest import engine_of_large_scans

from napari_prosma.gates import state
from napari_prosma.jobs.boundary import Jobs


@pytest.fixture(scope="module")
def jobs(one_thread: None, qapp: Any) -> Iterator[Jobs]:
    """Return an engine for which every scan that can be read by parts is large."""
    with engine_of_large_scans() as made:
        yield made


def inspected(desk: Any, data: Any) -> Any:
    """Inspect the slice that is displayed."""
    desk.controller.choose_image(desk.viewer.add_image(data, scale=(3, 1, 1), units=("mm",) * 3))
    desk.choose("plain-3d")
    desk.viewer.dims.set_current_step(0, 11)
    desk.widget.part.part_chosen.emit("slice")
    found = desk.inspect()
    desk.answered()
    return found


def test_a_part_of_a_large_scan_is_inspected_as_in_memory(
    bare_desk: Any, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    voxels = rng.integers(0, 2000, (41, 50, 44), np.uint16)
    array = zarr.create_array(str(tmp_path / "scan.zarr"), shape=voxels.shape, dtype="u2", chunks=(8, 16, 16))
    array[...] = voxels
    wanted, found = inspected(bare_desk, voxels), inspected(bare_desk, array)
    assert wanted.arrays.keys() == found.arrays.keys()
    for name in wanted.arrays:
        np.testing.assert_array_equal(found.arrays[name], wanted.arrays[name])
    for one, other in zip(wanted.inspection.levels, found.inspection.levels, strict=True):
        assert (one.removed, one.thresholds, one.channel_removed) == (
            other.removed,
            other.thresholds,
            other.channel_removed,
        )
    bare_desk.slide(0, 40)
    bare_desk.answered()
    assert bare_desk.controller.shown_result.what_if is not None
    bare_desk.widget.part.part_chosen.emit("whole")
    assert bare_desk.button("run").isEnabled()
    monkeypatch.setattr(state, "free_memory", lambda: 100_000)
    bare_desk.widget.part.part_chosen.emit("slice")
    bare_desk.widget.part.part_chosen.emit("whole")
    assert not bare_desk.button("run").isEnabled()
    assert bare_desk.text("problem_part").startswith(
        "The whole scan is too large to be inspected: that takes about 0.0"
    )
