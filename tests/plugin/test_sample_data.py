"""Sample scans: each with its labels on top, known to the models that are meant for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from napari.layers import Layer

from napari_prosma import _sample_data
from prosma_core.io.hardware import cache_folder

LARGEST = 300_000
"""Bytes of a sample in the wheel."""


@pytest.mark.parametrize(
    ("make", "ndim", "names"),
    [
        (_sample_data.hippocampus_layers, 3, ["background", "anterior hippocampus", "posterior hippocampus"]),
        (_sample_data.breast_layers, 2, ["background", "lesion"]),
        (_sample_data.phantom_2d_layers, 2, ["background", "lesion"]),
        (_sample_data.phantom_3d_layers, 3, ["background", "organ", "lesion"]),
    ],
)
def test_a_sample_comes_with_its_labels_on_top(make: Callable[[], list], ndim: int, names: list[str]) -> None:
    image, labels = (Layer.create(*layer) for layer in make())
    assert (type(image).__name__, type(labels).__name__) == ("Image", "Labels")
    assert image.ndim == ndim
    assert labels.features["name"].tolist() == names
    assert np.unique(labels.data).tolist() == list(range(len(names)))
    last = np.array(labels.data.shape) - 1
    np.testing.assert_allclose(labels.data_to_world(last), image.data_to_world(last))
    assert {str(unit) for unit in image.units} == {"pixel" if make is _sample_data.breast_layers else "millimeter"}
    assert image.source.path is None  # nothing is saved beside it


def test_each_sample_file_is_small_and_its_license_is_named() -> None:
    files = [path for path in _sample_data.SAMPLES.iterdir() if path.name != "README.md"]
    text = (_sample_data.SAMPLES / "README.md").read_text(encoding="utf-8")
    assert len(files) == 4
    for path in files:
        assert path.stat().st_size <= LARGEST
        assert path.name.replace("_labels", "") in text


def test_the_cache_is_the_users_unless_it_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROSMA_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("PROSMA_CACHE")
    assert "napari-prosma" in str(cache_folder())
