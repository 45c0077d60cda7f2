"""What a result is and what can be done with it, with the real engine; where a window matters, in one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from napari.layers import Image, Labels
from qtpy.QtWidgets import QCheckBox, QTableWidget

from napari_prosma.layers.slices import slice_states
from prosma_core.io.bundle import shipped_models

pytestmark = pytest.mark.slow


def test_probabilities_and_uncertainty_lie_on_the_scan(
    bare_desk: Any, scan_file: Path, lies_on: Callable[..., None]
) -> None:
    scan = bare_desk.open(scan_file)
    bare_desk.choose("plain-3d")
    bare_desk.widget.advanced.expand()
    boxes = [b for b in bare_desk.widget.advanced.findChildren(QCheckBox) if not b.isHidden()]
    for box in boxes:
        if box.text() in {"Probability layer", "Uncertainty layer (entropy)"}:
            box.click()
    result = bare_desk.segment()
    maps = {layer.name: layer for layer in bare_desk.viewer.layers if isinstance(layer, Image) and layer is not scan}
    assert sorted(maps) == [f"{result.name} probability", f"{result.name} uncertainty"]
    probability, uncertainty = maps[f"{result.name} probability"], maps[f"{result.name} uncertainty"]
    lies_on(uncertainty, scan, "zyx")
    np.testing.assert_allclose(probability.data.sum(axis=0, dtype=np.float64), 1, atol=0.01)
    np.testing.assert_array_equal(probability.data.argmax(axis=0), result.data)
    assert uncertainty.data.min() >= 0
    assert 0.1 < uncertainty.data.max() <= 1
    for corner in ((0, 0, 0), (11, 39, 47)):
        np.testing.assert_array_equal(probability.data_to_world((1, *corner))[1:], scan.data_to_world(corner))
    assert probability.units[1:] == scan.units
    assert probability.axis_labels == ("c", *scan.axis_labels)


def test_a_picture_in_color_with_and_without_alpha(bare_desk: Any, rng: np.random.Generator) -> None:
    picture = rng.integers(0, 255, (60, 80, 4), np.uint8)
    results = []
    for channels in (3, 4):
        bare_desk.viewer.add_image(picture[..., :channels], rgb=True)
        bare_desk.choose("breast-lesion-us")
        results.append(bare_desk.segment())
    assert results[0].data.shape == (60, 80)
    np.testing.assert_array_equal(results[0].data, results[1].data)


def test_how_it_was_made_and_the_names_of_classes_stay_with_the_file(bare_desk: Any, scan_file: Path) -> None:
    bare_desk.open(scan_file)
    bare_desk.choose("phantom-3d")
    result = bare_desk.segment()
    kept = result.metadata["prosma"]["provenance"]
    assert kept["model"].startswith("phantom-3d")
    assert "scan.nii.gz" in kept.values()
    saved = bare_desk.save()
    comments = b"".join(e.get_content() for e in nibabel.load(saved).header.extensions)
    for value in kept.values():
        assert value.encode() in comments.replace(b'\\"', b'"')
    again = bare_desk.open(saved)
    assert isinstance(again, Labels)
    assert list(again.features["name"]) == ["background", "organ", "lesion"]
    assert again.metadata["prosma"]["provenance"] == kept
    for value in (1, 2):
        np.testing.assert_allclose(again.get_color(value), result.get_color(value))
    np.testing.assert_array_equal(again.data, result.data)


def test_correcting_makes_a_copy_and_picks_the_brush(desk: Any, scan_file: Path, lies_on: Callable[..., None]) -> None:
    scan = desk.open(scan_file)
    desk.choose("plain-3d")
    result = desk.segment()
    result.mode = "paint"
    result.data_setitem(tuple(np.array([i]) for i in (3, 9, 9)), 1 - int(result.data[3, 9, 9]))
    desk.click("Correct && fine-tune")
    copy = desk.viewer.layers.selection.active
    lies_on(copy, scan, "zyx")
    assert copy is not result
    assert copy.mode == "paint"
    assert not result.visible
    assert slice_states(copy).edited == (3,)  # what was painted into the result itself
    np.testing.assert_array_equal(copy.data, result.data)
    copy.data[:] = 0
    copy.data[3, 9, 9] = 1
    assert result.data.any()
    desk.click("Save result")
    desk.until(lambda: desk.text("status").startswith("Saved the corrected labels as "))
    target = Path(desk.text("status").removeprefix("Saved the corrected labels as "))
    assert target == scan_file.with_name("scan_plain-3d_corrected.nii.gz"), "not the name of the result itself"
    assert np.asarray(nibabel.load(target).dataobj).sum() == 1
    desk.viewer.layers.remove(copy)
    assert desk.controller.last.to_save is result


def test_a_deleted_result_can_no_longer_be_saved(bare_desk: Any, scan_file: Path) -> None:
    bare_desk.open(scan_file)
    bare_desk.choose("plain-3d")
    bare_desk.viewer.layers.remove(bare_desk.segment())
    bare_desk.qtbot.wait(50)
    assert bare_desk.widget.result.isHidden()


SAMPLES = {
    "hippocampus": ("hippocampus-mri", 0.81),
    "breast": ("breast-lesion-us", 0.89),
    "nerve": ("nerve-us", 0.71),
    "nuclei": ("nuclei-fluorescence", 0.92),
    "tissue": ("nuclei-stained", 0.77),
    "axons": ("axon-myelin-sem", 0.78),
    "fetal_brain": ("fetal-brain-mri", 0.74),
    "phantom_2d": ("breast-lesion-us", 0),
    "phantom_3d": ("phantom-3d", 0.84),
}
"""Samples, the model of each, shipped or not, and the least Dice of a class: what was measured, less 0.05."""


@pytest.mark.parametrize("sample", [name for name, (model, _) in SAMPLES.items() if model in shipped_models()])
def test_the_sample_scans(sample: str, desk: Any, lies_on: Callable[..., None], tmp_path: Path) -> None:
    model, least = SAMPLES[sample]
    scan, truth = desk.viewer.open_sample("napari-prosma", sample)
    if sample.startswith("phantom"):
        desk.choose(model)
    else:  # chosen by itself: it is meant for this scan
        assert desk.controller._choices.model.header.name == model
    result = desk.segment()
    lies_on(result, scan, "zyx"[-result.ndim :])
    desk.picture(tmp_path / "window.png")
    table = desk.widget.result.findChild(QTableWidget)
    assert table.sizeHintForColumn(0) <= table.columnWidth(0)  # no class name is cut off
    if least:
        assert result.thumbnail[..., :3].any()
        for value in np.unique(truth.data)[1:]:
            found, wanted = result.data == value, truth.data == value
            assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > least
