"""Label maps that are no class numbers: told from those that are, and what becomes of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from prosma_core.config.training import LabelsConfig
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.data.labels import gray_kind, gray_problem, read_annotation
from prosma_core.data.pair_check import check_pair
from prosma_core.data.phantom import phantom_2d, phantom_3d
from prosma_core.io.images import read_image, read_labels


def mask(seed: int = 0) -> np.ndarray:
    """A mask of 0 and 255."""
    return (phantom_2d(seed, (96, 112))[1].data > 0).astype(np.uint8) * 255


def jpeg(values: np.ndarray, quality: int = 80) -> np.ndarray:
    packed = io.BytesIO()
    Image.fromarray(values).save(packed, "JPEG", quality=quality)
    return np.asarray(Image.open(packed))


def resized(values: np.ndarray) -> np.ndarray:
    """The same after a resize to half and back."""
    small = Image.fromarray(values).resize((values.shape[1] // 2, values.shape[0] // 2), Image.Resampling.BILINEAR)
    return np.asarray(small.resize(values.shape[::-1], Image.Resampling.BILINEAR))


def rectangle() -> np.ndarray:
    values = np.zeros((96, 96), np.uint8)
    values[21:60, 31:77] = 255
    return values


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("quality", [30, 70, 75, 90, 95])  # 70: black becomes 1
def test_a_mask_saved_as_jpeg_has_gray_edges_and_is_itself_again_above_half(seed: int, quality: int) -> None:
    gray = jpeg(mask(seed), quality)
    assert gray_kind(gray) == "edges"
    labels = Scan(gray, array_spec(gray.shape, "yx"))
    for config in (LabelsConfig(gray="threshold"), LabelsConfig(one_class=True)):
        found = read_annotation(labels, config)
        assert np.array_equal(found.values, mask(seed) > 0)
        assert found.threshold == 127
    above_zero = read_annotation(labels, LabelsConfig(one_class=True, gray="classes"))
    assert (above_zero.values > 0).sum() > (mask(seed) > 0).sum()


@pytest.mark.parametrize("values", [resized(mask()), resized(rectangle()), np.stack([jpeg(mask(i)) for i in range(3)])])
def test_resized_masks_and_stacks_have_gray_edges(values: np.ndarray) -> None:
    assert gray_kind(values) == "edges"
    assert gray_kind(values.astype(np.uint16) * 257) == "edges"


def test_the_best_jpeg_of_a_mask_has_values_next_to_the_ends_only() -> None:
    values = mask()
    values[0, :3], values[1, :3] = 1, 254
    assert gray_kind(values) == "edges"
    values[1, :3] = 255
    assert gray_kind(values) is None  # class 1, and 255 as one to be ignored


def test_a_photo_is_no_label_map(data_root: Path) -> None:
    for name in ("busi", "kvasir_seg"):
        path = next(iter(sorted((data_root / name / "images").iterdir())))
        values = read_image(path).data
        assert gray_kind(values if values.ndim == 2 else values[0]) == "picture"


def test_label_maps_are_class_numbers(data_root: Path, rng: np.random.Generator) -> None:
    for name in ("acdc", "busi", "dsb2018_fluo", "dsb2018_stained", "fetal_brain_atlas", "msd_hippocampus"):
        for path in sorted((data_root / name / "labels").iterdir())[:4]:
            assert gray_kind(read_labels(path).data) is None, path


@pytest.mark.parametrize("size", [4, 6])
def test_numbers_of_touching_objects_and_coded_classes_are_class_numbers(size: int, rng: np.random.Generator) -> None:
    cells = np.repeat(np.repeat(rng.integers(0, 200, (20, 20)), size, 0), size, 1).astype(np.uint8)
    assert gray_kind(cells) is None
    seeds = rng.random((96, 96)) < 0.01
    areas = ndimage.distance_transform_edt(~seeds, return_distances=False, return_indices=True)
    assert gray_kind(((areas[0] * 96 + areas[1]) % 251).astype(np.uint8)) is None
    assert gray_kind((phantom_3d(1, (8, 40, 40))[1].data * 100).astype(np.uint8)) is None
    spots = np.zeros((96, 96), np.uint8)
    spots[4::4, 4::4] = np.arange(23 * 23).reshape(23, 23) % 250 + 1
    assert gray_kind(spots) is None


def test_gray_labels_are_refused_unless_a_choice_was_made() -> None:
    gray = jpeg(mask())
    labels, image = Scan(gray, array_spec(gray.shape, "yx")), array_spec(gray.shape, "yx")
    found = check_pair(image, labels, LabelsConfig())
    assert found.gray == "edges"
    assert "gray edges" in found.problem
    assert "--gray-labels threshold" in found.problem
    thresholded = check_pair(image, labels, LabelsConfig(gray="threshold"))
    assert (thresholded.problem, thresholded.values) == ("", {1: int((mask() > 0).sum())})
    assert len(check_pair(image, labels, LabelsConfig(gray="classes")).values) > 20


def test_values_that_are_named_are_class_numbers() -> None:
    gray = jpeg(mask())
    assert gray_problem(gray, LabelsConfig(), named=np.unique(gray).tolist()) == (None, "")
    assert gray_problem(gray, LabelsConfig(), named=[0, 1, 2])[0] == "edges"


def test_the_image_itself_is_refused_as_labels_whatever_was_chosen(rng: np.random.Generator) -> None:
    image = rng.integers(0, 9, (3, 20, 20)).astype(np.uint8)  # of few values: only the comparison tells
    for values, scan in ((image, image), (image[1], image), (image[1], image[1].astype(np.float32))):
        for config in (LabelsConfig(), LabelsConfig(one_class=True), LabelsConfig(gray="threshold")):
            kind, words = gray_problem(values, config, image=lambda scan=scan: scan)
            assert kind == "image"
            assert "the image itself" in words
    assert gray_problem(image[1], LabelsConfig(), image=lambda: image[:, ::-1])[0] is None
