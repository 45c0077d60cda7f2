"""Pairs of files: names, checks, and what is said about those that cannot be used."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from prosma_core.config.training import LabelsConfig
from prosma_core.data.geometry import ImageSpec, Scan, array_spec
from prosma_core.data.pair_check import check_pair, overlap
from prosma_core.errors import ConfigError, DatasetError, GeometryError
from prosma_core.io.dataset_folder import Case, open_cases, read_case
from prosma_core.io.images import write_image
from prosma_core.training.split import choose_cases


def patient(shape=(8, 9, 10), corner=(0.0, 0.0, 0.0), size: float = 1.0) -> ImageSpec:
    affine = np.diag([size, size, size, 1.0])
    affine[:3, 3] = corner
    return ImageSpec("zyx", shape, (size,) * 3, "mm", affine, "ras")


def painted(spec: ImageSpec) -> Scan:
    labels = np.zeros(spec.shape, np.uint8)
    labels[..., 2, 2:6], labels[..., 3, 2] = 1, 4
    return Scan(labels, spec)


def test_a_good_pair_is_described() -> None:
    labels = painted(patient())
    labels.data[[0, 1, 2, 4, 6, 7]] = 0
    found = check_pair(patient(), labels, LabelsConfig(zero="annotated_slices"))
    assert found.problem == ""
    assert found.values == {1: 8, 4: 2}
    assert (found.axis, found.slices, found.annotated) == ("z", (3, 5), 0.25)


def test_labels_of_another_grid_are_refused_with_what_geometry_says() -> None:
    half = painted(patient(corner=(4.0, 0.0, 0.0)))
    assert overlap(patient(), half.spec) == pytest.approx(0.5)
    assert (
        "50 % of the second lies within the first: resample it" in check_pair(patient(), half, LabelsConfig()).problem
    )
    far = painted(patient(corner=(40.0, 0.0, 0.0)))
    assert "different places" in check_pair(patient(), far, LabelsConfig()).problem
    fine = painted(patient((16, 18, 20), (-0.25,) * 3, 0.5))
    assert "100 % of the second" in check_pair(patient(), fine, LabelsConfig()).problem
    unknown = painted(array_spec((4, 9, 10), "zyx"))
    assert "Resample one onto the other." in check_pair(patient(), unknown, LabelsConfig()).problem


def test_one_picture_painted_for_a_volume_is_refused_with_what_to_do() -> None:
    labels = painted(array_spec((9, 10), "yx"))
    problem = check_pair(patient(), labels, LabelsConfig(slice_axis="z")).problem
    assert "which slice it is cannot be told" in problem
    assert "labels of the volume's shape" in problem


def test_nothing_painted_and_numbered_objects_are_said() -> None:
    spec = array_spec((40, 50), "yx")
    empty = Scan(np.zeros(spec.shape, np.uint8), spec)
    assert "No class is painted" in check_pair(spec, empty, LabelsConfig(zero="unlabeled")).problem
    many = Scan(np.arange(2000, dtype=np.uint16).reshape(spec.shape), spec)
    assert "--one-class" in check_pair(spec, many, LabelsConfig()).problem
    assert check_pair(spec, many, LabelsConfig(one_class=True)).problem == ""


def test_an_axis_that_the_labels_lack_is_a_problem_not_an_exception() -> None:
    spec = array_spec((9, 10), "yx")
    assert "no slices along" in check_pair(spec, painted(spec), LabelsConfig(slice_axis="z")).problem


def test_pairs_stand_beside_a_folder_or_alone_under_names_of_their_own(tmp_path: Path, make_data) -> None:
    one, two = make_data(tmp_path / "one"), make_data(tmp_path / "two", 2)
    pair = (two / "images" / "case_0.png", two / "labels" / "case_0.png")
    mixed = open_cases(one, [pair, pair])
    assert list(mixed.cases) == ["case_0", "case_1", "case_2", "case_3", "case_0-2", "case_0-3"]
    assert mixed.cases["case_0-3"].label == pair[1]
    assert list(open_cases(None, [pair]).cases) == ["case_0"]
    (one / "splits.json").write_text('{"train": ["case_0"], "val": ["case_1"]}')
    assert open_cases(one, [pair]).splits == {"train": ("case_0", "case_0-2"), "val": ("case_1",)}


def test_nothing_given_and_a_missing_file_are_refused(tmp_path: Path, make_data) -> None:
    with pytest.raises(ConfigError, match="--pair IMAGE LABELS"):
        open_cases(None, [])
    root = make_data(tmp_path / "d")
    with pytest.raises(DatasetError, match=r"no\.png of the pair .* does not exist"):
        open_cases(None, [(root / "images" / "case_0.png", root / "no.png")])


def test_pairs_that_are_validated_on_are_not_trained_on(make_data, tmp_path: Path) -> None:
    root = make_data(tmp_path / "data")
    pairs = [(root / "images" / f"case_{i}.png", root / "labels" / f"case_{i}.png") for i in range(4)]
    found = open_cases(None, pairs, (1, 3))
    assert found.splits == {"train": ("case_0", "case_2"), "val": ("case_1", "case_3")}
    split = choose_cases(found, 0)
    assert (split.train, split.val, split.kind) == (("case_0", "case_2"), ("case_1", "case_3"), "cases")
    beside = open_cases(root, pairs[:2], (0,))
    assert beside.splits["train"] == (*(f"case_{i}" for i in range(4)), "case_1-2")
    assert beside.splits["val"] == ("case_0-2",)
    with pytest.raises(ConfigError, match="Pair 4 is to be validated on, but the data holds 4 pairs"):
        open_cases(None, pairs, (4,))


def test_labels_without_geometry_are_named_as_such_and_take_the_images_place_where_it_is_said(tmp_path: Path) -> None:
    spec = array_spec((5, 6, 7), "zyx", (2.0, 1.0, 1.0), "mm")
    write_image(tmp_path / "i.nii", np.zeros(spec.shape, np.uint8), spec)
    nib.Nifti1Image(np.ones(spec.shape[::-1], np.uint8), np.eye(4)).to_filename(tmp_path / "l.nii")
    case = Case("i", (tmp_path / "i.nii",), tmp_path / "l.nii")
    with pytest.raises(GeometryError, match=r"no geometry of its own.*--labels-on-image"):
        read_case(case)
    image, labels = read_case(case, on_image=True)
    assert np.array_equal(labels.spec.affine, image.spec.affine)
    assert labels.data.all()
