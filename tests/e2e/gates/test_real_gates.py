"""Inspections of the gates, of real scans in a real window, always with the real engine."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prosma_core.io.images import read_image


def test_a_killed_engine_is_a_sentence_and_the_next_look_works(bare_desk: Any, volume: np.ndarray) -> None:
    bare_desk.viewer.add_image(np.tile(volume, (1, 3, 3)), name="scan")
    bare_desk.choose("plain-3d")
    bare_desk.click("run")
    bare_desk.until(
        lambda: bare_desk.controller.run is None or bare_desk.widget.progress_text().startswith("Inspecting: ")
    )
    os.kill(bare_desk.session.jobs.pid, signal.SIGKILL)
    bare_desk.until(lambda: bare_desk.controller.run is None)
    assert "memory" in bare_desk.text("error")
    bare_desk.widget.part.part_chosen.emit("slice")
    found = bare_desk.inspect()
    assert found.inspection.gate == "prosma"


def test_a_look_at_the_current_slice_of_a_turned_scan(bare_desk: Any, volume: np.ndarray) -> None:
    scan = bare_desk.viewer.add_image(volume, name="scan", scale=(3, 2, 1), translate=(5, 6, 7), units=("mm",) * 3)
    bare_desk.viewer.dims.set_current_step(0, 4)
    bare_desk.choose("plain-3d")
    bare_desk.widget.part.part_chosen.emit("slice")
    found = bare_desk.inspect()
    info = found.maps("removed", 0)[0]
    assert found.arrays[info.name].shape == (1, 40, 48)
    layer = bare_desk.maps["level 0 removed"]
    np.testing.assert_allclose(layer.data_to_world((0, 3, 9)), scan.data_to_world((4, 3, 9)))
    bare_desk.click("Remove inspection")
    bare_desk.until(lambda: list(bare_desk.viewer.layers) == [scan])


def test_baselines_show_what_they_have_and_say_what_they_have_not(bare_desk: Any, volume: np.ndarray) -> None:
    bare_desk.viewer.add_image(volume, name="scan")
    bare_desk.choose("ungated-3d")
    assert "plain U-Net" in bare_desk.text("problem_model")
    assert not bare_desk.button("run").isEnabled()
    bare_desk.choose("attention-3d")
    found = bare_desk.inspect()
    assert "remove nothing" in bare_desk.text("messages")
    assert list(bare_desk.maps) == ["level 0 gate"]
    assert [row[2] for row in bare_desk.cells("levels_table")] == ["0 %"]
    assert "level" in bare_desk.text("headline")
    bare_desk.controller.shown_result.picker.pick((0, 3, 4, 5))
    weights = found.arrays["level0/gate"][:, 3, 4, 5]
    assert {float(row[1]) for row in bare_desk.voxel_rows()} <= {round(float(w), 2) for w in weights}
    bare_desk.controller.shown_result.what_if.change(0, state="closed")
    bare_desk.answered()
    assert "what if" in bare_desk.maps


@pytest.mark.slow
def test_a_hippocampus_from_the_click_to_the_files(
    desk: Any, copy_of: Callable[[str], Path], save_as: Callable[[Path], None], tmp_path: Path
) -> None:
    scan = desk.open(copy_of("msd_hippocampus/images/hippocampus_003.nii.gz"))
    desk.viewer.dims.set_current_step(0, 17)
    before = np.array(scan.data), str(scan.as_layer_data_tuple()[1])
    desk.choose("hippocampus-mri")
    found = desk.inspect()
    assert desk.text("headline").startswith(("Without the gate of level", "Without the gate of any one level"))
    rows = desk.cells("levels_table")
    assert sorted(row[0] for row in rows) == ["0", "1", "2"]
    assert [float(row[1]) for row in rows] == sorted(float(row[1]) for row in rows)
    assert all(float(row[3]) > 0.5 for row in rows)
    arrays, summary = found.arrays, found.level(0)
    kept = arrays["level0/kept"].astype(bool)
    np.testing.assert_allclose(arrays["level0/removed"], 1 - kept.mean(axis=0), atol=1e-3)
    assert summary.removed == pytest.approx(1 - kept.mean(), abs=1e-4)
    tau = np.array(summary.thresholds).reshape(-1, 1, 1, 1)
    sure = np.abs(np.abs(arrays["level0/field"].astype(float)) - tau) > 0.01 * (1 + tau)
    np.testing.assert_array_equal(kept[sure], (np.abs(arrays["level0/field"].astype(float)) > tau)[sure])
    for info in found.maps("removed", 0):
        layer = desk.maps["level 0 removed"]
        there = np.array(info.offset) + np.array(info.scale) * (3, 4, 5)
        np.testing.assert_allclose(layer.data_to_world((3, 4, 5)), scan.data_to_world(there), atol=1e-3)

    desk.widget.result.open_tab("Voxel")
    desk.click("probe")
    desk.click_canvas()
    assert desk.text("voxel_said").startswith("Voxel z 17, y ")
    rows = desk.voxel_rows()
    voxel = desk.controller.shown_result.picker.voxel
    column = arrays["level0/field"][:, voxel["z"], voxel["y"], voxel["x"]]
    assert float(rows[0][4]) == pytest.approx(float(column[int(rows[0][0])]), rel=0.006, abs=0.006)

    desk.widget.result.open_tab("What if")
    desk.slide(0, 0)
    desk.until(lambda: "what if, changes" in desk.maps)
    changes = desk.maps["what if, changes"]
    assert changes.data.shape == scan.data.shape
    assert f"{int((changes.data > 0).sum()):,} voxels" in desk.text("whatif_said")
    desk.click("reset")
    assert "what if" not in desk.maps

    desk.widget.result.open_tab("Export")
    for button, name in (("Save numbers…", "n.csv"), ("Save plots…", "p.png"), ("Save maps…", "maps")):
        save_as(tmp_path / name)
        desk.click(button)
        desk.until(lambda name=name: desk.text("files_said") == f"Saved {tmp_path / name}")
    assert len(list(csv.DictReader((tmp_path / "n.csv").read_text().splitlines()))) == 32 + 64 + 128 + 3
    again = read_image(tmp_path / "maps" / "level1_removed.nii.gz")
    world = again.spec.affine @ (2, 3, 4, 1)
    info = found.maps("removed", 1)[0]
    there = np.array(info.offset) + np.array(info.scale) * (2, 3, 4)
    np.testing.assert_allclose(world, found.plan.scan.spec.affine @ (*there, 1), atol=1e-4)
    desk.click("Remove inspection")
    desk.until(lambda: list(desk.viewer.layers) == [scan])
    assert str(scan.as_layer_data_tuple()[1]) == before[1]
    np.testing.assert_array_equal(scan.data, before[0])


@pytest.mark.slow
def test_a_breast_ultrasound_and_what_the_newest_slider_says(desk: Any, copy_of: Callable[[str], Path]) -> None:
    scan = desk.open(copy_of("busi/images/malignant_76.png"))
    assert not desk.button("run").isEnabled()  # a picture does not say what it shows: no model is chosen by itself
    desk.choose("breast-lesion-us")
    found = desk.inspect()
    assert len(found.inspection.levels) == 4
    removed = desk.maps["level 0 removed"]
    shape = scan.data.shape[:2]
    for axis, size in enumerate(shape):  # the map covers the picture, to the pixel
        step = removed.data_to_world((1, 1))[axis] - removed.data_to_world((0, 0))[axis]
        first = removed.data_to_world((0, 0))[axis] - step / 2
        last = removed.data_to_world(np.array(removed.data.shape) - 1)[axis] + step / 2
        assert (first, last) == pytest.approx((-0.5, size - 0.5), abs=1e-6)
    desk.slide(2, 40)
    desk.until(lambda: desk.controller.shown_result.what_if.queries.busy)
    desk.slide(2, 0)
    desk.until(lambda: "With level 2: threshold × 0: " in desk.text("whatif_said"))
    (result,) = desk.controller.shown_result.what_if.results
    assert result.changed == int((desk.maps["what if, changes"].data > 0).sum()) > 0
