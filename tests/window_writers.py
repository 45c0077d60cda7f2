"""Everything that the window saves, as `tests.writers` has it for the library."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from napari.layers import Image, Labels, Layer
from tests.plugin.gates.conftest import made_up
from tests.plugin.gates.test_job import REGION
from tests.plugin.gates.test_state import choices, planned
from tests.writers import Found, Number, Save, Writer, one_value

from napari_prosma import _writer
from napari_prosma._reader import image_layer_data
from napari_prosma.gates import job as gates
from napari_prosma.gates.job import write_maps, write_numbers
from napari_prosma.jobs.session import Session
from napari_prosma.layers.scan import read
from napari_prosma.train.export_pairs import autosave, write_pairs
from napari_prosma.train.pairs import Pair
from napari_prosma.train.run_library import save_as
from napari_prosma.train.sources import layer_source
from prosma_core.data.geometry import ImageSpec
from prosma_core.io.bundle import read_header, shipped_models
from prosma_core.io.images import read_image, read_labels
from prosma_core.io.notes import read_notes

PATIENT = ImageSpec(
    axes="zyx", shape=(2, 3, 4), spacing=(3, 1, 1), unit="mm", affine=np.diag([3.0, 1, 1, 1]), world="ras"
)
PLAIN = ImageSpec(axes="zyx", shape=(2, 3, 4), spacing=(3, 1, 1), unit="mm", affine=np.diag([3.0, 1, 1, 1]))
MODELS = [shipped_models()["phantom-3d"], shipped_models()["hippocampus-mri"]]


def _layers(spec: ImageSpec) -> tuple[Layer, Labels]:
    image = Layer.create(*image_layer_data(np.zeros(spec.shape, np.float32), spec, "scan", None))
    return image, Labels(np.zeros(spec.shape, np.uint8), name="painted", affine=image.affine, units=image.units)


def _autosave(spec: ImageSpec) -> Writer:
    """What is painted during a training."""

    def make(folder: Path) -> tuple[Save, Found]:
        image, labels = _layers(spec)
        pairs = [Pair(layer_source(image), layer_source(labels))]

        def save(number: int) -> None:
            labels.data = np.full(spec.shape, number % 250, np.uint8)
            autosave(pairs, folder / "annotations")

        return save, lambda: one_value(read_labels(next((folder / "annotations").glob("painted.*"))).data)

    return make


def _pairs(folder: Path) -> tuple[Save, Found]:
    """Layers that become files of a run: the image, then its labels."""
    image, labels = _layers(PATIENT)
    pairs = [Pair(layer_source(image), layer_source(labels))]

    def save(number: int) -> None:
        image.data = np.full(PATIENT.shape, number % 250, np.float32)
        labels.data = np.full(PATIENT.shape, number % 250, np.uint8)
        for _ in write_pairs(pairs, folder):
            pass

    def found() -> int:
        one_value(read_image(folder / "images" / "scan.nii").data)
        return one_value(read_labels(folder / "labels" / "scan.nii.gz").data)

    return save, found


def _writer_of(name: str) -> Writer:
    """**Save Selected Layers** of napari."""

    def make(folder: Path) -> tuple[Save, Found]:
        def save(number: int) -> None:
            values = np.full((2, 3, 4), number % 250, np.uint8)
            _writer.write_labels_layer(str(folder / name), values, {"name": "l"})

        return save, lambda: one_value(read_labels(folder / name).data)

    return make


def look() -> gates.InspectionResult:
    """What a look into gates found, two maps of it."""
    scan = Image(np.zeros((12, 40, 44), np.float32), name="scan", scale=(3, 1, 2), units=("mm",) * 3)
    given = choices()
    plan = planned(type(given)(scan=read(scan), model=given.model, part="view"), REGION)
    inspection, arrays = made_up(plan)
    kept = {name: array for name, array in arrays.items() if name in {"level1/removed", "level1/energy"}}
    return gates.InspectionResult(plan, inspection, kept)


def _numbers(folder: Path) -> tuple[Save, Found]:
    """Numbers of the gates."""
    found = look()

    def save(number: int) -> None:
        write_numbers(folder / "n.json", found, {"number": str(number)}, ())()

    return save, lambda: int(json.loads((folder / "n.json").read_text())["provenance"]["number"])


def settings(folder: Path) -> tuple[Save, Found]:
    """Settings of the widgets; `save` returns whether they were saved."""
    session = Session(folder, jobs=object())  # type: ignore[arg-type]

    def found() -> int:
        return int(Session(folder, jobs=object()).recall("number"))  # type: ignore[arg-type]

    def save(number: int) -> bool:
        session.remember("number", number)
        return found() == number  # a failure is logged

    return save, found


def _copy(folder: Path) -> tuple[Save, Found]:
    """A copy of two models in turn."""
    names = [read_header(model).name for model in MODELS]

    def save(number: int) -> None:
        save_as(MODELS[number % 2], folder / "copy.safetensors")

    return save, lambda: Number(names.index(read_header(folder / "copy.safetensors").name), 2)


def maps(folder: Path) -> tuple[Save, Found]:
    """Maps of the gates: a new folder each time, whose name is its number, and which is there whole or not at all."""
    found = look()

    def save(number: int) -> None:
        write_maps(folder / f"maps {number}", found, {"program": "prosma", "number": str(number)}, ".nii")()

    def last() -> int:
        numbers = [int(path.name.split()[1]) for path in folder.glob("maps *")]
        for number in numbers:
            notes = [read_notes(path) for path in sorted((folder / f"maps {number}").iterdir())]
            assert [note["number"] for note in notes] == [str(number)] * 2
        return max(numbers)

    return save, last


SAVED: dict[str, Writer] = {
    "autosave": _autosave(PATIENT),
    "layer nii.gz": _writer_of("l.nii.gz"),
    "numbers": _numbers,
    "copy": _copy,
}
"""Replaced by each save."""
WINDOW: dict[str, Writer] = {
    **SAVED,
    "autosave zarr": _autosave(PLAIN),
    "layer zarr": _writer_of("l.ome.zarr"),
    "pairs": _pairs,
    "window settings": settings,
    "maps": maps,
}
