"""Sample data: real scans with their labels, which no shipped model was trained on, and synthetic phantoms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from napari_prosma._reader import LayerData, as_labels_data, image_layer_data, let_stand, windowed
from napari_prosma.layers.results import file_notes
from napari_prosma.layers.scan import MADE_FOR, METADATA
from prosma_core.config.model import COLORS, ClassInfo
from prosma_core.data.geometry import Scan
from prosma_core.data.phantom import phantom_2d, phantom_3d
from prosma_core.engine.decoder import DECODER

_TISSUES = (
    "white matter",
    "ventricles",
    "cerebellum",
    "outer fluid",
    "cortical gray matter",
    "deep gray matter",
    "brainstem",
    "corpus callosum",
)
SAMPLES = Path(__file__).parent / "samples"
"""Real scans; sources and licenses are in the README there."""
_SEED = 3
PHANTOM = {"synthetic": "phantom"}
"""Note of layers and files that show nothing real."""


def hippocampus_layers() -> list[LayerData]:
    """A T1-weighted MRI of one hippocampus and its labels (MSD Task04, CC BY-SA 4.0)."""
    return _real(
        "hippocampus_095", ".nii.gz", ("anterior hippocampus", "posterior hippocampus"), "MR", "hippocampus-mri"
    )


def breast_layers() -> list[LayerData]:
    """An ultrasound of the breast and the labels of its lesion (BUSI, CC BY 4.0)."""
    return _real("breast_386", ".png", ("lesion",), "US", "breast-lesion-us")


def nuclei_layers() -> list[LayerData]:
    """Nuclei in fluorescence microscopy and their labels, with a gap between touching ones (DSB 2018, CC0)."""
    return _real("nuclei_4e1c889d", ".png", ("nucleus",), "FM", "nuclei-fluorescence")


def tissue_layers() -> list[LayerData]:
    """A stained tissue section and the labels of its nuclei, with a gap between touching ones (DSB 2018, CC0)."""
    return _real("tissue_ad473063", ".png", ("nucleus",), "SM", "nuclei-stained")


def nerve_layers() -> list[LayerData]:
    """An ultrasound of a nerve and two vessels, and their labels (usgra-seg, CC BY 4.0)."""
    return _real("nerve_0178", ".png", ("nerve", "vessel"), "US", "nerve-us")


def axon_layers() -> list[LayerData]:
    """Scanning electron microscopy of white matter with its pixel size, axons and myelin (AxonDeepSeg, MIT)."""
    return _real("axons_rat7", ".tif", ("axon", "myelin"), "EM", "axon-myelin-sem")


def fetal_brain_layers() -> list[LayerData]:
    """An averaged T2-weighted MRI of the fetal brain and its tissues (atlas of Fidon et al., CC0)."""
    return _real("fetal_brain_ga22", ".nii.gz", _TISSUES, "MR", "fetal-brain-mri")


def phantom_2d_layers() -> list[LayerData]:
    """An ultrasound-like picture and its true labels."""
    return _pair(*phantom_2d(_SEED), "Phantom 2D", ("lesion",), "US", PHANTOM)


def phantom_3d_layers() -> list[LayerData]:
    """An MR-like volume and its true labels."""
    return _pair(*phantom_3d(_SEED), "Phantom 3D", ("organ", "lesion"), "MR", PHANTOM | {MADE_FOR: "phantom-3d"})


def _real(name: str, suffix: str, classes: tuple[str, ...], modality: str, model: str) -> list[LayerData]:
    """A scan for a model and its labels; the layers have no file, so that no result is saved beside it."""
    image = DECODER.read_file(SAMPLES / f"{name}{suffix}").scan
    labels = DECODER.read_labels(SAMPLES / f"{name}_labels{suffix}")
    if len(classes) == 1:
        labels = Scan((labels.data > 0).astype("uint8"), labels.spec)
    return _pair(image, labels, name, classes, modality, {MADE_FOR: model})


def _pair(
    image: Scan, labels: Scan, name: str, classes: tuple[str, ...], modality: str, notes: Mapping[str, str]
) -> list[LayerData]:
    layer = windowed(image_layer_data(image.data, image.spec, name, None), modality)
    layer = _noted(layer, {"modality": modality, **notes})
    let_stand()
    made = {key: value for key, value in notes.items() if key in PHANTOM}
    return [layer, _labels(labels, f"{name} labels", classes, made)]


def _noted(layer: LayerData, notes: Mapping[str, str]) -> LayerData:
    """The same layer with a note of what it is: models are chosen by it."""
    data, arguments, kind = layer
    return data, {**arguments, "metadata": {METADATA: arguments["metadata"][METADATA] | notes}}, kind


def _labels(labels: Scan, name: str, classes: tuple[str, ...], notes: Mapping[str, str]) -> LayerData:
    names = ("background", *classes)
    infos = [ClassInfo(value=i, name=n, color=c) for i, (n, c) in enumerate(zip(names, COLORS, strict=False))]
    layer = image_layer_data(labels.data, labels.spec, name, None)
    data, arguments, kind = as_labels_data(layer, file_notes({"program": "ground truth", **notes}, infos, "labels"))
    return data, {**arguments, "visible": False}, kind  # they have the colors of a result, and would hide it
