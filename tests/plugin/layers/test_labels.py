"""Labels layers read on the image they are drawn over, and the names of their values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_prosma.layers.labels import known_classes, lies_on, read_on
from napari_prosma.layers.scan import LayerScan, class_numbers, read
from prosma_core.config.model import ClassInfo


def on(image: Image, labels: Labels, axes: str | None = None) -> LayerScan:
    return read_on(labels, read(image, axes))


@pytest.mark.parametrize(
    ("image", "axes", "shape", "expected"),
    [
        ((4, 5, 6), "zyx", (4, 5, 6), "zyx"),
        ((4, 5, 6), "tyx", (4, 5, 6), "tyx"),
        ((4, 5, 6), "xzy", (4, 5, 6), "xzy"),
        ((2, 4, 5, 6), "czyx", (4, 5, 6), "zyx"),
        ((2, 4, 5, 6), "czyx", (2, 4, 5, 6), "czyx"),
        ((4, 2, 5, 6), "zcyx", (4, 5, 6), "zyx"),
        ((3, 2, 4, 5, 6), "tczyx", (3, 4, 5, 6), "tzyx"),
        ((3, 2, 4, 5, 6), "tczyx", (4, 5, 6), "zyx"),
        ((5, 6, 2), "yxc", (5, 6), "yx"),
        ((3, 5, 6, 2), "zyxc", (5, 6), "yx"),
        ((5, 6), "yx", (4, 5, 6), "zyx"),
    ],
)
def test_axes_are_those_of_the_image_beneath(
    image: tuple[int, ...], axes: str, shape: tuple[int, ...], expected: str
) -> None:
    found = on(Image(np.zeros(image), rgb=False), Labels(np.zeros(shape, int)), axes)
    assert found.axes == expected


def test_labels_painted_on_an_oblique_scan_have_its_exact_affine(
    tmp_path: Path, open_layer: Callable[[Path], Any]
) -> None:
    affine = np.array([[-0.8, 0.1, 0, 90], [0.1, 0.8, 0.02, -126], [0, 0.03, 2.5, -72], [0, 0, 0, 1]])
    nib.Nifti1Image(np.zeros((5, 6, 7), np.int16), affine).to_filename(tmp_path / "a.nii")
    image = open_layer(tmp_path / "a.nii")
    placed = {name: getattr(image, name) for name in ("scale", "translate", "affine", "units")}
    scan, painted = read(image), Labels(np.zeros(image.data.shape, int), **placed)
    found = read_on(painted, scan)
    assert lies_on(found, scan)
    np.testing.assert_array_equal(found.spec.affine, scan.spec.affine)
    assert (found.spec.world, found.spec.header) == ("ras", scan.spec.header)
    painted.translate = np.add(painted.translate, (0, 0, 0.01))
    assert not lies_on(read_on(painted, scan), scan)


def test_labels_of_another_file_keep_the_place_that_it_says(tmp_path: Path, open_layer: Callable[[Path], Any]) -> None:
    turned = np.array([[0.0, 1, 0, 3], [-1, 0, 0, 4], [0, 0, 1, 5], [0, 0, 0, 1]])
    nib.Nifti1Image(np.zeros((5, 6, 7), np.int16), np.eye(4)).to_filename(tmp_path / "a.nii")
    nib.Nifti1Image(np.zeros((6, 5, 7), np.uint8), turned).to_filename(tmp_path / "b.nii")
    image, other = open_layer(tmp_path / "a.nii"), open_layer(tmp_path / "b.nii")
    place = {name: getattr(other, name) for name in ("scale", "translate", "affine", "units", "metadata")}
    found = on(image, Labels(np.asarray(other.data).astype(np.uint8), **place))
    np.testing.assert_array_equal(found.spec.affine, read(other).spec.affine)


def test_class_numbers_are_small_and_a_copy() -> None:
    data = np.full((4, 5), 300, np.int64)
    numbers = class_numbers(read(Labels(data)))
    numbers[:] = 0
    assert (numbers.dtype, data.min()) == (np.uint16, 300)


def test_names_come_from_the_features_then_from_the_notes() -> None:
    noted = (ClassInfo(value=1, name="noted"), ClassInfo(value=2, name="also noted"))
    colors = DirectLabelColormap(color_dict={0: "transparent", 1: "#102030", None: "#ffffff"})
    labels = Labels(np.zeros((3, 3), int), colormap=colors, metadata={"prosma": {"classes": noted}})
    labels.features = pd.DataFrame({"index": [0, 1, 5], "name": ["nothing", "liver", None]})
    found = known_classes(labels, [7])
    assert [(c.value, c.name) for c in found] == [(0, "nothing"), (1, "liver"), (2, "also noted"), (7, "class 7")]
    assert [c.color for c in found] == ["#000000", "#102030", "#ffffff", "#ffffff"]


def test_tables_of_other_plugins_and_impossible_values_are_left_out() -> None:
    labels = Labels(np.zeros((3, 3), int))
    labels.features = pd.DataFrame({"area": [1.0, 2.0]})
    assert known_classes(labels) == ()
    labels.features = pd.DataFrame({"index": range(400), "name": [f"cell {i}" for i in range(400)]})
    assert known_classes(labels) == ()
    assert known_classes(labels, range(1, 10_000)) == ()
    labels.features = pd.DataFrame({"index": [1.5, "x"], "name": ["a", "b"]})
    assert known_classes(labels, [70_000, 3])[0].value == 3
