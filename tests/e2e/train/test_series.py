"""A person goes through a folder of scans: open next, correct, mark, next; labels stay, and training takes all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels

from prosma_core.config.training import RunConfig, load_run_yaml
from prosma_core.data.phantom import phantom_3d
from prosma_core.io.images import read_image, write_image
from prosma_core.io.notes import noted_slices, read_notes

pytestmark = pytest.mark.slow


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Return a folder with three small scans."""
    root = tmp_path / "scans"
    root.mkdir()
    for seed in range(3):
        scan, _ = phantom_3d(seed, (12, 48, 48))
        write_image(root / f"scan{seed}.nii.gz", scan.data, scan.spec)
    return root


def opened(desk: Any, name: str) -> Labels:
    """Wait until a scan and its labels are open, and nothing else is; return the labels."""
    wanted = [name, f"{name} labels"]
    desk.until(lambda: [layer.name for layer in desk.viewer.layers] == wanted and desk.text("series_busy") == "")
    assert desk.viewer.layers.selection.active is desk.viewer.layers[1]
    return desk.viewer.layers[1]


def states(desk: Any) -> list[str]:
    return [row[1] for row in desk.cells("series_table")]


def test_a_folder_of_scans_is_gone_through_and_trained_on(desk: Any, scans: Path) -> None:
    desk.controller.choose_start(desk.model("phantom-3d"))
    desk.controller.series.begin(scans)
    desk.until(lambda: states(desk) == ["untouched"] * 3)

    desk.click("series_next")  # what the model makes of it is corrected
    labels = opened(desk, "scan0.nii.gz")
    assert labels.data.any()
    labels.paint((5, 4, 4), 1)
    desk.until(lambda: states(desk)[0] == "open: 1 of 12")
    desk.viewer.dims.set_current_step(0, 8)
    desk.click("mark_slice")
    corrected = labels.data.copy()

    desk.controller.choose_start(None)
    desk.click("series_next")  # drawn by hand
    labels = opened(desk, "scan1.nii.gz")
    assert states(desk)[0] == "done: 2 of 12"
    labels.data[4:7, 20:30, 20:30] = 1
    labels.refresh()
    desk.click("series_next")
    opened(desk, "scan2.nii.gz")
    desk.click("series_nothing")
    desk.until(lambda: desk.text("series_problem").startswith("No scan of scans is left"))
    desk.until(lambda: states(desk) == ["done: 2 of 12", "done: 3 of 12", "open: 12 of 12"])
    desk.click("series_leave")
    desk.until(lambda: desk.text("series_counts") == "")

    desk.controller.series.begin(scans)
    desk.until(lambda: states(desk)[2:] == ["done: 12 of 12"])
    table = desk.widget.series._table
    table.selectRow(0)
    desk.click("series_open")
    labels = opened(desk, "scan0.nii.gz")
    np.testing.assert_array_equal(labels.data, corrected)
    desk.until(lambda: states(desk)[0] == "open: 2 of 12")

    desk.read(3)
    desk.short(epochs=1)
    desk.click("run")
    run = desk.controller.trainings.run
    assert run is not None, desk.text("error")
    desk.wait()
    assert desk.text("error") == ""
    used = RunConfig.parse(load_run_yaml(run.order.folder.run_yaml), "the run").pairs
    assert len(used) == 3
    noted = [noted_slices(read_notes(label)) for _, label in used]
    assert sorted(each.annotated for each in noted if each is not None) == [tuple(range(12)), (4, 5, 6), (5, 8)]
    assert sum(bool(read_image(label).data.any()) for _, label in used) == 2
    assert sorted(path.name for path in scans.iterdir()) == [f"scan{seed}.nii.gz" for seed in range(3)]
