"""Sample data: synthetic phantoms with ground-truth labels, and a case of MSD Hippocampus."""

from __future__ import annotations

from collections.abc import Mapping

from napari_prosma._reader import LayerData, as_labels_data, image_layer_data, read_paths
from napari_prosma.jobs.download import Archive, download_shown, unpacked
from napari_prosma.layers.results import file_notes
from napari_prosma.layers.scan import MADE_FOR, METADATA
from prosma_core.config.model import ClassInfo
from prosma_core.data.geometry import Scan
from prosma_core.data.phantom import phantom_2d, phantom_3d
from prosma_core.engine.decoder import DECODER
from prosma_core.io.hardware import cache_folder

_SEED = 3
PHANTOM = {"synthetic": "phantom"}
"""Note of layers and files that show nothing real."""
_COLORS = ("#e6194b", "#3cb44b")

HIPPOCAMPUS = Archive(
    url="https://msd-for-monai.s3-us-west-2.amazonaws.com/Task04_Hippocampus.tar",
    md5="9d24dba78a72977dbd1d2e110310f31b",
    members=(
        ("Task04_Hippocampus/imagesTr/hippocampus_003.nii.gz", "hippocampus_003.nii.gz"),
        ("Task04_Hippocampus/labelsTr/hippocampus_003.nii.gz", "hippocampus_003_labels.nii.gz"),
    ),
)
"""Medical Segmentation Decathlon, task 4 (Antonelli et al. 2022), CC BY-SA 4.0."""


def phantom_2d_layers() -> list[LayerData]:
    """An ultrasound-like picture and its true labels."""
    return _pair(*phantom_2d(_SEED), "Phantom 2D", ("lesion",), "US", "breast-lesion-us")


def phantom_3d_layers() -> list[LayerData]:
    """An MR-like volume and its true labels."""
    return _pair(*phantom_3d(_SEED), "Phantom 3D", ("organ", "lesion"), "MR", "phantom-3d")


def hippocampus_layers() -> list[LayerData]:
    """A case of MSD Hippocampus and its true labels; downloaded the first time, while the viewer stays usable.

    Raises
    ------
    DownloadError
        As in `download.fetch`; or the download was cancelled, or is already under way.
    """
    folder = cache_folder()
    files = unpacked(HIPPOCAMPUS, folder)
    if files is None:
        download_shown(HIPPOCAMPUS, folder)
        files = unpacked(HIPPOCAMPUS, folder) or []
    (image,) = read_paths(str(files[0]))
    labels = DECODER.read_labels(files[1])
    return [_noted(image, "MR", {}), _labels(labels, "hippocampus_003 labels", ("anterior", "posterior"), {})]


def _pair(
    image: Scan, labels: Scan, name: str, classes: tuple[str, ...], modality: str, model: str = ""
) -> list[LayerData]:
    notes = PHANTOM | ({MADE_FOR: model} if model else {})
    layer = _noted(image_layer_data(image.data, image.spec, name, None), modality, notes)
    return [layer, _labels(labels, f"{name} labels", classes, PHANTOM)]


def _noted(layer: LayerData, modality: str, notes: Mapping[str, str]) -> LayerData:
    """The same layer with a note of what it is: models are chosen by it."""
    data, arguments, kind = layer
    own = arguments["metadata"][METADATA] | {"modality": modality} | notes
    return data, {**arguments, "metadata": {METADATA: own}}, kind


def _labels(labels: Scan, name: str, classes: tuple[str, ...], notes: Mapping[str, str]) -> LayerData:
    infos = [ClassInfo(value=0, name="background", color="#000000")]
    infos += [ClassInfo(value=i, name=n, color=c) for i, (n, c) in enumerate(zip(classes, _COLORS, strict=False), 1)]
    layer = image_layer_data(labels.data, labels.spec, name, None)
    return as_labels_data(layer, file_notes({"program": "ground truth", **notes}, infos, "labels"))
