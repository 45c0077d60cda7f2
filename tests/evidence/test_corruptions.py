"""Properties of the images made worse."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from prosma_core.data.geometry import Scan, array_spec
from prosma_core.data.phantom import phantom_2d

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("speckle", "noise", "contrast", "blur", "bias", "resolution")


@pytest.fixture
def worse(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from evidence import corruptions

    return corruptions


@pytest.fixture
def scan() -> Scan:
    picture, _ = phantom_2d(0, (64, 48))
    return Scan(picture.data.astype(np.float32), array_spec((64, 48), "yx"))


def test_there_are_no_others(worse: ModuleType) -> None:
    assert tuple(worse.CORRUPTIONS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_stronger_is_further_from_the_image(worse: ModuleType, scan: Scan, kind: str) -> None:
    before = scan.data.copy()
    away = [np.abs(worse.corrupted(scan, "a", kind, s).data - scan.data).mean() for s in (1, 2, 3)]
    assert 0 < away[0] < away[1] < away[2]
    assert np.array_equal(scan.data, before)  # the image itself is as it was


@pytest.mark.parametrize("kind", KINDS)
def test_same_name_gives_the_same_image(worse: ModuleType, scan: Scan, kind: str) -> None:
    first, second = (worse.corrupted(scan, "a", kind, 2) for _ in range(2))
    assert np.array_equal(first.data, second.data)
    if kind in ("speckle", "noise", "bias"):
        assert not np.array_equal(first.data, worse.corrupted(scan, "b", kind, 2).data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "axes"), [((3, 24, 20), "cyx"), ((6, 20, 24), "zyx"), ((2, 6, 20, 24), "czyx")])
def test_geometry_and_shape_stay(
    worse: ModuleType, rng: np.random.Generator, kind: str, shape: tuple[int, ...], axes: str
) -> None:
    spec = array_spec(shape, axes)
    scan = Scan(rng.normal(50, 10, shape).astype(np.float32), spec)
    found = worse.corrupted(scan, "a", kind, 3)
    assert found.data.shape == shape
    assert found.data.dtype == np.float32
    assert found.spec is spec
    assert np.isfinite(found.data).all()


@pytest.mark.parametrize("kind", KINDS)
def test_8_bit_images_stay_in_their_range(worse: ModuleType, rng: np.random.Generator, kind: str) -> None:
    scan = Scan(rng.integers(0, 256, (32, 32), np.uint8), array_spec((32, 32), "yx"))
    found = worse.corrupted(scan, "a", kind, 3).data
    assert found.min() >= 0
    assert found.max() <= 255


@pytest.mark.parametrize("kind", ["blur", "resolution"])
def test_thick_slices_are_not_mixed(worse: ModuleType, rng: np.random.Generator, kind: str) -> None:
    values = np.stack([np.full((24, 24), v, np.float32) for v in (1, 5, 2)])
    values += rng.normal(0, 0.01, values.shape).astype(np.float32)
    scan = Scan(values, array_spec(values.shape, "zyx", (8.0, 1.0, 1.0)))
    found = worse.corrupted(scan, "a", kind, 3).data
    assert found.mean(axis=(1, 2)) == pytest.approx(values.mean(axis=(1, 2)), abs=0.02)


def test_contrast_cannot_be_undone_by_normalising(worse: ModuleType, scan: Scan) -> None:
    found = worse.corrupted(scan, "a", "contrast", 2).data
    a, b = ((v - v.mean()) / v.std() for v in (scan.data, found))
    assert np.abs(a - b).mean() > 0.05


def test_noise_is_as_strong_as_said(worse: ModuleType, rng: np.random.Generator) -> None:
    scan = Scan(rng.normal(0, 7, (128, 128)).astype(np.float32), array_spec((128, 128), "yx"))
    added = worse.corrupted(scan, "a", "noise", 2).data - scan.data
    assert added.std() == pytest.approx(0.3 * 7, rel=0.1)
