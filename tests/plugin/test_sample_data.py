"""Sample scans: each with its labels on top, known to the models that are meant for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from napari.layers import Layer

from napari_prosma import _sample_data
from napari_prosma.layers.scan import read
from napari_prosma.scan.selection import fit_of, fits, look_of, suitable_model
from prosma_core.data.fit import compare
from prosma_core.io.bundle import ModelEntry, read_header, shipped_models
from prosma_core.io.hardware import cache_folder

PICTURES = (
    _sample_data.breast_layers,
    _sample_data.nerve_layers,
    _sample_data.nuclei_layers,
    _sample_data.tissue_layers,
)
MODELS = {
    _sample_data.hippocampus_layers: "hippocampus-mri",
    _sample_data.breast_layers: "breast-lesion-us",
    _sample_data.nerve_layers: "nerve-us",
    _sample_data.nuclei_layers: "nuclei-fluorescence",
    _sample_data.tissue_layers: "nuclei-stained",
    _sample_data.axon_layers: "axon-myelin-sem",
    _sample_data.fetal_brain_layers: "fetal-brain-mri",
}
"""Models that samples are for, whether they are shipped yet or not."""
LARGEST = 300_000
"""Bytes of a sample in the wheel."""


@pytest.mark.parametrize(
    ("make", "ndim", "names"),
    [
        (_sample_data.hippocampus_layers, 3, ["background", "anterior hippocampus", "posterior hippocampus"]),
        (_sample_data.breast_layers, 2, ["background", "lesion"]),
        (_sample_data.nerve_layers, 2, ["background", "nerve", "vessel"]),
        (_sample_data.nuclei_layers, 2, ["background", "nucleus"]),
        (_sample_data.tissue_layers, 2, ["background", "nucleus"]),
        (_sample_data.axon_layers, 2, ["background", "axon", "myelin"]),
        (
            _sample_data.fetal_brain_layers,
            3,
            [
                "background",
                "white matter",
                "ventricles",
                "cerebellum",
                "outer fluid",
                "cortical gray matter",
                "deep gray matter",
                "brainstem",
                "corpus callosum",
            ],
        ),
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
    units = {_sample_data.axon_layers: "micrometer", **dict.fromkeys(PICTURES, "pixel")}
    assert {str(unit) for unit in image.units} == {units.get(make, "millimeter")}
    assert image.source.path is None  # nothing is saved beside it


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_sample_is_like_the_scans_of_its_model_and_chooses_it_alone(make: Callable[[], list]) -> None:
    models = [ModelEntry(path, read_header(path), shipped=True) for path in shipped_models().values()]
    own = {model.header.name: model for model in models}.get(MODELS[make])
    scan = read(Layer.create(*make()[0]))
    assert suitable_model(scan, models) == own
    assert [model for model in models if fits(scan, model) and fit_of(scan, model).verdict == "fits"] == [own] * bool(
        own
    )
    if own:
        assert compare(look_of(scan), own.header).verdict == "fits"


def test_each_shipped_model_for_real_scans_has_a_sample() -> None:
    real = {name for name, path in shipped_models().items() if not read_header(path).synthetic}
    assert real <= set(MODELS.values())


def test_each_sample_file_is_small_and_its_license_is_named() -> None:
    files = [path for path in _sample_data.SAMPLES.iterdir() if path.name != "README.md"]
    text = (_sample_data.SAMPLES / "README.md").read_text(encoding="utf-8")
    assert len(files) == 2 * len(MODELS)
    for path in files:
        assert path.stat().st_size <= LARGEST
        assert path.name.replace("_labels", "") in text


def test_the_cache_is_the_users_unless_it_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROSMA_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("PROSMA_CACHE")
    assert "napari-prosma" in str(cache_folder())
