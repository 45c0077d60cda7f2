"""Folders of annotated scans: which files are one case, and what is said of those that are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prosma_core.config import ClassInfo
from prosma_core.data.geometry import ImageSpec, array_spec, spacing_affine
from prosma_core.data.labels import class_indices
from prosma_core.data.phantom import phantom_3d
from prosma_core.errors import DatasetError, GeometryError, LabelError
from prosma_core.io.dataset_folder import open_dataset, read_case
from prosma_core.io.images import write_image, write_labels

MakeData = Callable[..., Path]
MASK = (ClassInfo(value=0, name="background"), ClassInfo(value=1, name="lesion"))


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def ras(shape: tuple[int, int, int], origin: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> ImageSpec:
    return ImageSpec("zyx", shape, (3.0, 1.0, 1.0), "mm", spacing_affine((3.0, 1.0, 1.0), origin), "ras")


def test_images_and_labels_of_one_name_are_a_case(tmp_path: Path) -> None:
    touch(tmp_path, "images/b.nii.gz", "images/a.png", "labels/a.png", "labels/b.nii", "images/notes.txt")
    folder = open_dataset(tmp_path)
    assert list(folder.cases) == ["a", "b"]
    assert folder.cases["b"].images == (tmp_path / "images/b.nii.gz",)
    assert folder.cases["b"].label == tmp_path / "labels/b.nii"
    assert (folder.splits, folder.class_names, folder.channel_names) == ({}, {}, ())


def test_numbered_files_are_channels_in_their_order(tmp_path: Path) -> None:
    touch(tmp_path, "labels/a.nii.gz", *(f"images/a_{n:04d}.nii.gz" for n in (1, 0, 2)))
    names = [p.name for p in open_dataset(tmp_path).cases["a"].images]
    assert names == ["a_0000.nii.gz", "a_0001.nii.gz", "a_0002.nii.gz"]


def test_a_name_that_ends_in_digits_and_has_its_own_label_is_a_case(tmp_path: Path) -> None:
    names = ("img_0000.png", "img_0007.png", "img_12345.png", "img_001.png")
    touch(tmp_path, *(f"images/{n}" for n in names), *(f"labels/{n}" for n in names))
    assert list(open_dataset(tmp_path).cases) == ["img_0000", "img_0007", "img_001", "img_12345"]


def test_channels_of_a_name_that_itself_ends_in_digits(tmp_path: Path) -> None:
    touch(tmp_path, "images/p_0012_0000.nii.gz", "images/p_0012_0001.nii.gz", "labels/p_0012.nii.gz")
    assert len(open_dataset(tmp_path).cases["p_0012"].images) == 2


def test_hidden_files_are_no_cases(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii.gz", "images/._a.nii.gz", "labels/a.nii.gz", "labels/._a.nii.gz")
    assert list(open_dataset(tmp_path).cases) == ["a"]


@pytest.mark.parametrize(
    "values",
    [
        {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "tumour": 1, "edema": 2}},
        {"modality": {"1": "T2", "0": "T1"}, "labels": {"0": "background", "1": "tumour", "2": "edema"}},
        {"modality": ["T1", "T2"], "labels": {"background": "0", "tumour": "1", "edema": "2"}},
    ],
    ids=["nnU-Net v2", "MSD", "lists and strings"],
)
def test_names_of_an_nnunet_data_set_are_taken(tmp_path: Path, values: dict[str, object]) -> None:
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz", "imagesTs/b_0000.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps(values))
    folder = open_dataset(tmp_path)
    assert list(folder.cases) == ["a"]
    assert folder.channel_names == ("T1", "T2")
    assert folder.class_names == {0: "background", 1: "tumour", 2: "edema"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "no JSON object"),
        ('{"labels": {"background": 0, "whole": [1, 2]}}', "region-based"),
        ('{"labels": {"background": 0, "ignore": 3}}', "ignore labels are not supported"),
        ('{"labels": {"background": 0, "tumour": "one"}}', "'tumour' has no class number but 'one'"),
        ('{"labels": {"background": 0, "tumour": -1}}', "'tumour' has no class number but -1"),
        ('{"labels": {"background": 0, "tumour": "' + "9" * 5000 + '"}}', "'tumour' has no class number but '999"),
        ('{"labels": {"background": 0, "\u00b2": "tumour"}}', "no class number"),
        ('{"labels": "tumour"}', "labels is neither"),
        ('{"channel_names": {"T1": "0"}}', "numbers of channels as keys"),
        ('{"channel_names": 3}', "channel_names is neither"),
    ],
)
def test_an_unusable_dataset_json_is_named(tmp_path: Path, text: str, said: str) -> None:
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=said) as caught:
        open_dataset(tmp_path)
    assert "dataset.json" in str(caught.value)


def test_splits_are_read_and_notes_beside_them_left_alone(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "images/b.png", "labels/a.png", "labels/b.png")
    (tmp_path / "splits.json").write_text('{"dataset": "x", "seed": 3, "train": ["a"], "val": ["b"], "test": []}')
    assert open_dataset(tmp_path).splits == {"train": ("a",), "val": ("b",), "test": ()}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"train": ["a"', "cannot be read as JSON"),
        ('["a"]', "no list of training cases"),
        ('{"val": ["a"]}', "no list of training cases"),
        ('{"train": "a"}', "no list of training cases"),
        ('{"train": [1, 2]}', "'train' is not a list of case names"),
        ('{"train": ["a"], "val": ["zebra"]}', "names 1 case that is not there, for example 'zebra'"),
        (b"\xff\xfe\x00", "cannot be read as JSON"),
    ],
)
def test_unusable_splits_are_named(tmp_path: Path, text: str | bytes, said: str) -> None:
    touch(tmp_path, "images/a.png", "labels/a.png")
    (tmp_path / "splits.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DatasetError, match=said) as caught:
        open_dataset(tmp_path)
    assert "splits.json" in str(caught.value)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((), "is not a data folder"),
        (("images/a.png",), "is not a data folder"),
        (("images/a.txt", "labels/a.txt"), "0 images and 0 label maps"),
        (("images/a.png", "images/b.png", "labels/a.png"), "'b' has no label"),
        (("images/a.png", "labels/a.png", "labels/b.png"), "'b' has no image"),
        (("images/a.png", "images/a.tif", "labels/a.png"), r"a\.png and a\.tif are both image 'a'"),
        (("images/a.png", "labels/a.png", "labels/a.tif"), r"a\.png and a\.tif are both the label of 'a'"),
        (("images/a_0000.nii", "images/a_0002.nii", "labels/a.nii"), "'a' are not complete: found 0000, 0002"),
        (("images/a_0001.nii", "labels/a.nii"), "'a' are not complete: found 0001"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(tmp_path: Path, files: tuple[str, ...], said: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(DatasetError, match=said):
        open_dataset(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere is not a data folder"):
        open_dataset(tmp_path / "nowhere")


def write_case(root: Path, image: ImageSpec, labels: ImageSpec, data: np.ndarray | None = None) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    suffix = ".nii.gz" if image.spatial_ndim == 3 else ".png"
    write_image(root / f"images/a{suffix}", np.ones(image.shape, np.uint8), image)
    data = np.zeros(labels.shape, np.uint8) if data is None else data
    write_labels(root / f"labels/a{'.nii.gz' if labels.spatial_ndim == 3 else '.png'}", data, labels)
    return root


def test_a_phantom_comes_back_as_it_was_written(tmp_path: Path) -> None:
    image, labels = phantom_3d(0, (8, 32, 32))
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    write_image(tmp_path / "images/p.nii.gz", image.data, image.spec)
    write_labels(tmp_path / "labels/p.nii.gz", labels.data, labels.spec)
    again, truth = read_case(open_dataset(tmp_path).cases["p"])
    np.testing.assert_array_equal(again.data, image.data)
    np.testing.assert_array_equal(truth.data, labels.data)
    assert again.spec.spacing == pytest.approx(image.spec.spacing)


@pytest.mark.parametrize("white", [1, 255])
def test_a_mask_of_0_and_255_is_one_class(tmp_path: Path, make_data: MakeData, white: int) -> None:
    folder = open_dataset(make_data(tmp_path / "d", 1, lesion=white))
    _, labels = read_case(folder.cases["case_0"])
    assert set(np.unique(labels.data)) == {0, white}
    np.testing.assert_array_equal(class_indices(labels.data, MASK, "case_0"), labels.data == white)


@pytest.mark.parametrize("values", [[0, 1, 255], [0, 2], [0, 1, 2], [3]])
def test_labels_outside_the_classes_are_named(values: list[int]) -> None:
    with pytest.raises(LabelError, match=r"Labels of case_7 hold .* none of the classes \[0, 1\]"):
        class_indices(np.array(values, np.uint8), MASK, "case_7")


def test_class_numbers_become_indices() -> None:
    classes = tuple(ClassInfo(value=v, name=str(v)) for v in (0, 300, 7))
    found = class_indices(np.array([[7, 0], [300, 300]], np.uint16), classes, "a")
    np.testing.assert_array_equal(found, [[2, 0], [1, 1]])


def test_channel_files_become_one_scan(tmp_path: Path) -> None:
    spec = ras((2, 3, 4))
    write_case(tmp_path, spec, spec)
    (tmp_path / "images/a.nii.gz").unlink()
    for n in range(3):
        write_image(tmp_path / f"images/a_{n:04d}.nii.gz", np.full(spec.shape, n, np.int16), spec)
    scan, _ = read_case(open_dataset(tmp_path).cases["a"])
    assert (scan.spec.axes, scan.spec.shape) == ("czyx", (3, 2, 3, 4))
    assert scan.spec.channel_names == ("a_0000", "a_0001", "a_0002")
    np.testing.assert_array_equal(scan.data[:, 0, 0, 0], [0, 1, 2])
    np.testing.assert_array_equal(scan.spec.affine, spec.affine)


def test_channels_on_different_grids_are_named(tmp_path: Path) -> None:
    write_case(tmp_path, ras((2, 3, 4)), ras((2, 3, 4)))
    (tmp_path / "images/a.nii.gz").rename(tmp_path / "images/a_0000.nii.gz")
    write_image(tmp_path / "images/a_0001.nii.gz", np.ones((2, 3, 5), np.int16), ras((2, 3, 5)))
    with pytest.raises(GeometryError, match=r"a_0000\.nii\.gz and a_0001\.nii\.gz lie on different grids"):
        read_case(open_dataset(tmp_path).cases["a"])


def test_a_channel_file_with_channels_of_its_own_is_refused(tmp_path: Path) -> None:
    write_case(tmp_path, array_spec((4, 5), "yx"), array_spec((4, 5), "yx"))
    (tmp_path / "images/a.png").unlink()
    for n in range(2):
        color = np.zeros((3, 4, 5), np.uint8)
        write_image(tmp_path / f"images/a_{n:04d}.png", color, array_spec((3, 4, 5), "cyx"))
    with pytest.raises(GeometryError, match="has a channel axis and is one of 2 channel files"):
        read_case(open_dataset(tmp_path).cases["a"])


@pytest.mark.parametrize(
    ("labels", "facts"),
    [
        (ras((2, 3, 5)), ("(2, 3, 4)", "(2, 3, 5)")),
        (ras((2, 3, 4), (9.0, 0.0, 0.0)), ("[3.0, 0.0, 0.0, 0.0]", "[3.0, 0.0, 0.0, 9.0]")),
        (replace(ras((2, 3, 4)), affine=spacing_affine((3.0, -1.0, 1.0))), ("[0.0, 1.0, 0.0, 0.0]", "-1.0")),
    ],
    ids=["shape", "origin", "flip"],
)
def test_mismatched_grids_name_the_pair_both_shapes_and_both_affines(
    tmp_path: Path, labels: ImageSpec, facts: tuple[str, ...]
) -> None:
    write_case(tmp_path, ras((2, 3, 4)), labels)
    with pytest.raises(GeometryError) as caught:
        read_case(open_dataset(tmp_path).cases["a"])
    for fact in ("images/a.nii.gz", "labels/a.nii.gz", "different grids", *facts):
        assert fact in str(caught.value)


def test_a_rounded_affine_is_the_same_grid(tmp_path: Path) -> None:
    write_case(tmp_path, ras((2, 3, 4)), ras((2, 3, 4), (0.005, -0.005, 0.0)))
    assert read_case(open_dataset(tmp_path).cases["a"])[1].spec.spatial_shape == (2, 3, 4)


def test_a_flat_volume_takes_a_2d_label(tmp_path: Path) -> None:
    write_case(tmp_path, ras((1, 6, 7)), array_spec((6, 7), "yx"))
    image, labels = read_case(open_dataset(tmp_path).cases["a"])
    assert image.spec.spatial_shape == labels.spec.spatial_shape == (6, 7)


def test_frames_that_share_one_label_map_are_channels(tmp_path: Path) -> None:
    spec = ras((2, 3, 4))
    write_case(tmp_path, replace(spec, axes="tzyx", shape=(4, *spec.shape)), spec)
    image, labels = read_case(open_dataset(tmp_path).cases["a"])
    assert (image.spec.axes, image.spec.num_channels, labels.spec.axes) == ("czyx", 4, "zyx")


@pytest.mark.parametrize("colored", [0, 1])
def test_a_gray_and_a_color_channel_file_are_named(tmp_path: Path, colored: int) -> None:
    write_case(tmp_path, array_spec((4, 5), "yx"), array_spec((4, 5), "yx"))
    (tmp_path / "images/a.png").unlink()
    for n in range(2):
        axes, shape = ("cyx", (3, 4, 5)) if n == colored else ("yx", (4, 5))
        write_image(tmp_path / f"images/a_{n:04d}.png", np.zeros(shape, np.uint8), array_spec(shape, axes))
    with pytest.raises(GeometryError, match=rf"a_000{colored}\.png has a channel axis and is one of 2 channel files"):
        read_case(open_dataset(tmp_path).cases["a"])


def test_channel_files_with_other_axes_are_named(tmp_path: Path) -> None:
    write_case(tmp_path, array_spec((4, 5), "yx"), array_spec((4, 5), "yx"))
    (tmp_path / "images/a.png").unlink()
    for n, (axes, shape) in enumerate([("yx", (4, 5)), ("tyx", (1, 4, 5))]):
        write_image(tmp_path / f"images/a_{n:04d}.zarr", np.zeros(shape, np.uint8), array_spec(shape, axes))
    with pytest.raises(GeometryError, match=r"a_0000\.zarr has axes yx, a_0001\.zarr tyx"):
        read_case(open_dataset(tmp_path).cases["a"])
