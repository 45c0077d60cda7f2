"""Phantoms: the promised grid and values, from a seed alone."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from scipy import ndimage

from prosma_core.data.phantom import Modality, phantom_2d, phantom_3d, phantom_case
from prosma_core.errors import GeometryError

MODALITIES: tuple[Modality, ...] = ("mr", "ct")


@pytest.mark.parametrize("dims", [2, 3])
def test_the_same_seed_gives_the_same_bits(dims: Literal[2, 3]) -> None:
    first, second = phantom_case(5, dims), phantom_case(5, dims)
    for one, other in zip(first, second, strict=True):
        assert one.data.dtype == other.data.dtype
        assert one.data.tobytes() == other.data.tobytes()
        assert np.array_equal(one.spec.affine, other.spec.affine)


@pytest.mark.parametrize("dims", [2, 3])
def test_another_seed_gives_another_scan(dims: Literal[2, 3]) -> None:
    (image, labels), (other_image, other_labels) = phantom_case(1, dims), phantom_case(2, dims)
    assert not np.array_equal(image.data, other_image.data)
    assert not np.array_equal(labels.data, other_labels.data)


@pytest.mark.parametrize("shape", [(192, 224), (32, 32), (33, 71)])
def test_2d_picture_is_gray_on_a_millimetre_grid(shape: tuple[int, int]) -> None:
    image, labels = phantom_2d(0, shape)
    assert image.data.dtype == labels.data.dtype == np.uint8
    assert image.data.shape == labels.data.shape == image.spec.shape == labels.spec.shape == shape
    assert (image.spec.axes, image.spec.unit, image.spec.world) == ("yx", "mm", "image")
    assert image.spec.spacing == (0.3, 0.3)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("shape", [(24, 80, 80), (8, 32, 32), (9, 33, 50)])
def test_3d_scan_is_anisotropic_in_patient_space(shape: tuple[int, int, int], modality: Modality) -> None:
    image, labels = phantom_3d(0, shape, modality)
    assert image.data.dtype == np.int16
    assert labels.data.dtype == np.uint8
    assert image.data.shape == labels.data.shape == image.spec.shape == shape
    assert (image.spec.axes, image.spec.unit, image.spec.world) == ("zyx", "mm", "ras")
    assert image.spec.spacing == (3.0, 1.0, 1.0)
    assert np.array_equal(np.diag(image.spec.affine), [3.0, 1.0, 1.0, 1.0])
    assert image.spec.orientation == "RAS"
    assert np.array_equal(labels.spec.affine, image.spec.affine)


def test_one_2d_seed_in_ten_has_no_lesion() -> None:
    lesions = [phantom_2d(seed, (48, 48))[1].data for seed in range(200)]
    assert all(set(np.unique(labels)) <= {0, 1} for labels in lesions)
    without = sum(not labels.any() for labels in lesions)
    assert 8 <= without <= 35


def test_2d_pictures_have_one_to_three_lesions_of_visible_size() -> None:
    counts = set()
    for seed in range(40):
        labels = phantom_2d(seed)[1].data
        components, count = ndimage.label(labels)
        counts.add(count)
        assert count <= 3
        assert all(size >= 20 for size in np.bincount(components.ravel())[1:])
    assert {0, 1, 2} <= counts


def test_2d_lesions_are_darker_than_the_ring_around_them() -> None:
    contrasts = []
    for seed in range(30):
        image, labels = (scan.data for scan in phantom_2d(seed))
        lesion = labels.astype(bool)
        if lesion.any():
            ring = ndimage.binary_dilation(lesion, iterations=8) & ~lesion
            contrasts.append(float(image[ring].mean() - image[lesion].mean()))
    assert np.mean(np.array(contrasts) > 0) >= 0.9
    assert 15 < np.median(contrasts) < 70


def test_2d_speckle_is_neighborly_and_wider_than_deep() -> None:
    image = phantom_2d(3)[0].data.astype(np.float64)
    residual = image - ndimage.gaussian_filter(image, 8.0)
    variance = (residual**2).mean()
    across = (residual[:, 2:] * residual[:, :-2]).mean() / variance
    down = (residual[2:] * residual[:-2]).mean() / variance
    assert 0.3 < across < 0.95
    assert down < across


@pytest.mark.parametrize("modality", MODALITIES)
def test_3d_scans_have_one_organ_with_lesions_inside(modality: Modality) -> None:
    for seed in range(8):
        labels = phantom_3d(seed, modality=modality)[1].data
        sizes = np.bincount(labels.ravel(), minlength=3)
        assert sizes.size == 3
        assert sizes[1] > 1500
        assert sizes[2] > 50
        near = ndimage.binary_dilation(labels == 1, np.ones((3, 3, 3)), iterations=2)
        components, count = ndimage.label(labels == 2)
        assert all(near[components == number].any() for number in range(1, count + 1))


@pytest.mark.parametrize("modality", MODALITIES)
def test_3d_organ_has_low_contrast_and_look_alikes_outside(modality: Modality) -> None:
    image, labels = (scan.data for scan in phantom_3d(0, modality=modality))
    organ, lesion = labels == 1, labels == 2
    assert image[lesion].mean() > image[organ].mean()
    around = ndimage.binary_dilation(organ | lesion, iterations=4) & (labels == 0)
    contrast = np.median(image[organ]) - np.median(image[around])
    assert 0 < contrast < 2.5 * image[organ].std()
    smooth = ndimage.gaussian_filter(image.astype(np.float64), (0.0, 1.0, 1.0))
    low, high = np.quantile(smooth[lesion], (0.25, 0.75))
    alike = (smooth > low) & (smooth < high) & ~ndimage.binary_dilation(organ | lesion, iterations=3)
    assert alike.sum() > 50


def test_ct_is_in_hounsfield_units_with_air_outside() -> None:
    image = phantom_3d(2, modality="ct")[0].data
    assert image.min() >= -1024
    corner = image[:, :4, :4]
    assert abs(corner.mean() + 1000) < 10
    assert 20 < np.median(image[image > -50]) < 100


def test_mr_scale_is_arbitrary_and_never_negative() -> None:
    brightest = [int(phantom_3d(seed, (8, 32, 32))[0].data.max()) for seed in range(12)]
    lowest = min(int(phantom_3d(seed, (8, 32, 32))[0].data.min()) for seed in range(12))
    assert lowest >= 0
    assert max(brightest) > 2 * min(brightest)


@pytest.mark.parametrize("shape", [(31, 64), (64, 0)])
def test_2d_shape_without_room_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(GeometryError, match=r"use at least \(32, 32\)"):
        phantom_2d(0, shape)


def test_3d_shape_without_room_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"use at least \(8, 32, 32\)"):
        phantom_3d(0, (7, 32, 32))
