"""What the window saves: each operation fails, or ends the process; old or new is whole, and nothing is left."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from napari.layers import Image, Labels, Layer
from tests.plugin.gates.conftest import made_up
from tests.plugin.gates.test_found import REGION
from tests.plugin.gates.test_state import choices, planned

from napari_prosma._reader import image_layer_data
from napari_prosma._shared.layers import read
from napari_prosma._shared.session import Session
from napari_prosma._writer import write_labels_layer
from napari_prosma.gates.export import write_maps, write_numbers
from napari_prosma.gates.found import Found
from napari_prosma.train.handover import autosave
from napari_prosma.train.pairs import Pair
from napari_prosma.train.runs import save_as
from napari_prosma.train.sources import layer_source
from prosma_core.data.geometry import ImageSpec
from prosma_core.io.bundle import read_header
from prosma_core.io.images import read_labels
from prosma_core.io.models import shipped_models
from prosma_core.io.notes import read_notes

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="the faults are made with functions and signals of POSIX"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]

Save = Callable[[int], object]
Found_ = Callable[[], int | None]
SPEC = ImageSpec(axes="zyx", shape=(2, 3, 4), spacing=(3, 1, 1), unit="mm", affine=np.diag([3.0, 1, 1, 1]), world="ras")
MODELS = [shipped_models()["phantom-3d"], shipped_models()["hippocampus-mri"]]


def _only(path: Path) -> int:
    (value,) = np.unique(read_labels(path).data)
    return int(value)


def _autosave(folder: Path) -> tuple[Save, Found_]:
    image = Layer.create(*image_layer_data(np.zeros(SPEC.shape, np.float32), SPEC, "scan", None))
    labels = Labels(np.zeros(image.data.shape, np.uint8), name="painted", affine=image.affine, units=image.units)
    pairs = [Pair(layer_source(image), layer_source(labels))]

    def save(number: int) -> None:
        labels.data = np.full(image.data.shape, number, np.uint8)
        autosave(pairs, folder / "annotations")

    return save, lambda: _only(next((folder / "annotations").glob("painted.*")))


def _writer(folder: Path) -> tuple[Save, Found_]:
    def save(number: int) -> None:
        write_labels_layer(str(folder / "l.nii.gz"), np.full((2, 3, 4), number, np.uint8), {"name": "l"})

    return save, lambda: _only(folder / "l.nii.gz")


def _numbers(folder: Path) -> tuple[Save, Found_]:
    found = _look()

    def save(number: int) -> None:
        write_numbers(folder / "n.json", found, {"number": str(number)}, ())()

    return save, lambda: int(json.loads((folder / "n.json").read_text())["provenance"]["number"])


def _settings(folder: Path) -> tuple[Save, Found_]:
    session = Session(folder, jobs=object())  # type: ignore[arg-type]

    def found() -> int:
        return int(json.loads((folder / "settings.json").read_text())["number"])

    def save(number: int) -> bool:
        session.remember("number", number)
        return found() == number  # a failure is logged

    return save, found


def _copy(folder: Path) -> tuple[Save, Found_]:
    """A copy of two models in turn."""
    names = [read_header(model).name for model in MODELS]

    class Turn(int):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, int) and other % 2 == int(self)

        __hash__ = int.__hash__

    def save(number: int) -> None:
        save_as(MODELS[number % 2], folder / "copy.safetensors")

    return save, lambda: Turn(names.index(read_header(folder / "copy.safetensors").name))


def _look() -> Found:
    scan = Image(np.zeros((12, 40, 44), np.float32), name="scan", scale=(3, 1, 2), units=("mm",) * 3)
    given = choices()
    plan = planned(type(given)(scan=read(scan), model=given.model, part="view"), REGION)
    return Found(plan, *made_up(plan))


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nothing here depends on the disk
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize("make", [_autosave, _writer, _numbers, _copy])
def test_each_operation_of_a_save_fails_or_ends_the_process(
    make: Callable[[Path], tuple[Save, Found_]], target: Path, faults: ModuleType
) -> None:
    save, found = make(target)
    assert faults.fail_everywhere(target, save, found) > 5
    assert faults.end_everywhere(target, save, found) > 5


def test_settings_are_old_or_new_and_the_next_change_saves_them(target: Path, faults: ModuleType) -> None:
    save, found = _settings(target)
    assert faults.fail_everywhere(target, save, found, said=bool) > 5


def test_a_folder_of_maps_is_there_whole_or_not_at_all(target: Path, faults: ModuleType) -> None:
    found = _look()
    kept = {name: array for name, array in found.arrays.items() if name in {"level1/removed", "level1/energy"}}
    found = Found(found.plan, found.inspection, kept)

    def save(number: int) -> None:
        write_maps(target / f"maps {number}", found, {"program": "prosma", "number": str(number)}, ".nii")()

    at = 0
    while True:
        at += 1
        fault = faults.Faults(target)
        try:
            with fault.failing(at, faults.ERRORS[at % 4], always=at % 2 == 0):
                save(at)
            assert not fault.struck or (target / f"maps {at}").is_dir()
        except faults.ProsmaError:
            pass
        for folder in target.glob("maps *"):
            if at % 2 == 0:  # nothing could be removed
                faults.atomic.sweep(folder)
            notes = [read_notes(path) for path in sorted(folder.iterdir())]
            assert [note["number"] for note in notes] == [folder.name.split()[1]] * 2
        faults.atomic.sweep(target)
        assert all(path.name.startswith("maps ") for path in target.iterdir())
        if not fault.struck:
            break
    assert at > 5
