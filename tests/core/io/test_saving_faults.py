"""Every operation of every save fails, or ends the process: the old or the new result is whole, and nothing is left."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from prosma_core.config import ModelHeader
from prosma_core.config.cpu import CpuWay
from prosma_core.config.run import resolve_run
from prosma_core.data.geometry import ImageSpec, array_spec
from prosma_core.inspection.pictures import write_picture
from prosma_core.io import atomic, machine, parts
from prosma_core.io.atomic import put_back, replace_dir
from prosma_core.io.bundle import load_bundle, read_header, save_bundle
from prosma_core.io.images import read_image, read_labels, write_image, write_labels
from prosma_core.io.run_folder import RunFolder
from prosma_core.io.stopped_run import keep_stopped, read_history
from prosma_core.io.zarr_metadata import ZarrHeader
from prosma_core.training.checkpoint import Progress, load_state, save_state
from prosma_core.training.schedule import MovingAverage

posix_only = pytest.mark.skipif(os.name == "nt", reason="the faults are made with functions and signals of POSIX")
pytestmark = posix_only
ends = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
"""A process that ends does not close its files."""

Save = Callable[[int], object]
Found = Callable[[], int | None]
Writer = Callable[[Path, ModelHeader], tuple[Save, Found]]

VOLUME = ImageSpec(axes="zyx", shape=(2, 3, 4), spacing=(3, 1, 1), unit="mm", affine=np.diag([3.0, 1, 1, 1]))


def _labels(name: str, spec: ImageSpec = VOLUME) -> Writer:
    def make(folder: Path, _: ModelHeader) -> tuple[Save, Found]:
        path = folder / name

        def save(number: int) -> None:
            labels = np.full(spec.shape, number % 250, np.uint8)
            write_labels(path, labels, spec, overwrite=True, provenance={"program": "prosma", "number": str(number)})

        return save, lambda: _one_value(read_labels(path).data, 250)

    return make


def _picture(name: str) -> Writer:
    def make(folder: Path, _: ModelHeader) -> tuple[Save, Found]:
        spec = array_spec((8, 8), "yx")

        def save(number: int) -> None:
            write_image(folder / name, np.full((8, 8), number % 250, np.uint8), spec, overwrite=True)

        return save, lambda: _one_value(read_image(folder / name).data, 250)

    return make


class _Number(int):
    """A number that was stored modulo something."""

    def __new__(cls, value: int, modulo: int) -> _Number:
        number = super().__new__(cls, value)
        number.modulo = modulo
        return number

    modulo: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int) and other % self.modulo == int(self)

    __hash__ = int.__hash__


def _one_value(data: np.ndarray, modulo: int) -> int:
    values = np.unique(data)
    assert values.size == 1, values
    return _Number(int(values[0]), modulo)


def _model(folder: Path, header: ModelHeader) -> tuple[Save, Found]:
    path = folder / "model.safetensors"

    def save(number: int) -> None:
        save_bundle(path, header, {"weight": np.full((2, 3), number % 1000)})

    return save, lambda: _one_value(load_bundle(path)[1]["weight"], 1000)


def _state(folder: Path, _: ModelHeader) -> tuple[Save, Found]:
    run, network = RunFolder(folder / "model.prosma"), nn.Linear(2, 2)
    average, optimizer = MovingAverage(network, 0.9), torch.optim.SGD(network.parameters(), 0.1)
    run.root.mkdir()

    def save(number: int) -> None:
        save_state(run, network, average, optimizer, Progress(epoch=number))

    def found() -> int:
        progress, note = load_state(run, network, average, optimizer)
        assert note == ""
        return progress.epoch

    save(0)  # from now on there are two states
    return save, found


def _settings(folder: Path, _: ModelHeader) -> tuple[Save, Found]:
    run = RunFolder(folder / "model.prosma")

    def save(number: int) -> None:
        values = {"data": "data", "out": "model.safetensors", "training": {"seed": number}}
        run.write_settings(resolve_run(values), {"train": [str(number)], "val": []})
        run.write_history([{"epoch": number, "loss": 0.5}])
        run.write_before_after({"organ": float(number)})

    def found() -> int | None:
        """All files are whole; the last one is the oldest."""
        read_history(run)
        before = run.read_before()
        return None if before is None else int(before["organ"])

    return save, found


def _machine(folder: Path, _: ModelHeader) -> tuple[Save, Found]:
    os.environ["PROSMA_CACHE"] = str(folder)

    def found() -> int | None:
        way = machine.kept_way("key")
        return None if way is None else way.threads

    return lambda number: machine.keep_way("key", CpuWay(threads=number + 1)), lambda: (found() or 0) - 1


def _report(folder: Path, _: ModelHeader) -> tuple[Save, Found]:
    """What `prosma evaluate` and `prosma inspect` write as JSON."""
    path = folder / "report.json"
    return (
        lambda number: atomic.write_bytes_atomic(path, json.dumps({"number": number}).encode()),
        lambda: int(json.loads(path.read_bytes())["number"]),
    )


def _kept(folder: Path, header: ModelHeader) -> tuple[Save, Found]:
    """The model of a stopped run."""
    run = RunFolder(folder / "model.prosma")
    run.write_settings(resolve_run({"data": "data", "out": "model.safetensors"}), {"train": ["a"], "val": ["b"]})

    def save(number: int) -> None:
        training = {"validation_dice": {"organ": 0.5}, "epochs": number}
        save_bundle(run.best, header.replace(training=training), {"weight": np.zeros((2, 3))})
        keep_stopped(run)

    return save, lambda: int(read_header(run.model).training["epochs"])


def _case_picture(folder: Path, _: ModelHeader) -> tuple[Save, Found]:
    """What `prosma inspect` draws, and a training after each validation."""
    path = folder / "picture.png"

    def found() -> int:
        with Image.open(path) as picture:
            return _one_value(np.asarray(picture), 250)

    return lambda number: write_picture(path, np.full((4, 5, 3), number % 250, np.uint8)), found


WRITERS: dict[str, Writer] = {
    "report": _report,
    "kept": _kept,
    "case picture": _case_picture,
    "nii.gz": _labels("labels.nii.gz"),
    "nii": _labels("labels.nii"),
    "tiff": _labels("labels.ome.tif"),
    "png": _picture("picture.png"),
    "nrrd": _labels("labels.nrrd"),
    "mha": _labels("labels.mha"),
    "model": _model,
    "state": _state,
    "settings": _settings,
    "machine": _machine,
}
FOLDERS: dict[str, Writer] = {
    "ome-zarr 2": _labels("labels.ome.zarr"),
    "zarr 2": _labels("labels.zarr", replace(VOLUME, header=ZarrHeader(ome=False))),
    "ome-zarr 3": _labels("labels.zarr", replace(VOLUME, header=ZarrHeader(zarr_format=3))),
}


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder."""
    monkeypatch.setenv("PROSMA_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nothing here depends on the disk
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize("kind", WRITERS)
def test_each_operation_of_a_save_fails(kind: str, target: Path, faults: ModuleType, make_header: Any) -> None:
    save, found = WRITERS[kind](target, make_header())
    said = bool if kind == "machine" else lambda _: True
    assert faults.fail_everywhere(target, save, found, errors=faults.ERRORS if kind == "png" else (), said=said) > 5


@ends
@pytest.mark.parametrize("kind", [*WRITERS, *FOLDERS])
def test_a_process_ends_at_each_operation_of_a_save(
    kind: str, target: Path, faults: ModuleType, make_header: Any
) -> None:
    save, found = (WRITERS | FOLDERS)[kind](target, make_header())
    assert faults.end_everywhere(target, save, found) > 5


def test_signal_9_at_each_operation_of_a_save(target: Path, faults: ModuleType, make_header: Any) -> None:
    save, found = WRITERS["png"](target, make_header())
    assert faults.end_everywhere(target, save, found, kill=True) > 5


@pytest.mark.parametrize("kind", ["ome-zarr 2", "ome-zarr 3"])
def test_each_operation_of_a_folder_fails(kind: str, target: Path, faults: ModuleType, make_header: Any) -> None:
    save, found = FOLDERS[kind](target, make_header())
    assert faults.fail_everywhere(target, save, found, modes=[None]) > 5


def _small(path: Path) -> tuple[Save, Found]:
    def save(number: int) -> None:
        def write(temporary: Path) -> None:
            temporary.mkdir()
            (temporary / "number").write_text(str(number))

        replace_dir(path, write)

    def found() -> int | None:
        put_back(path)
        return int((path / "number").read_text())

    return save, found


@ends
def test_a_folder_is_replaced_in_two_steps_where_one_is_not_possible(
    target: Path, faults: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    save, found = _small(target / "folder")
    assert faults.fail_everywhere(target, save, found, errors=faults.ERRORS, modes=[False]) > 5
    assert faults.end_everywhere(target, save, found) > 5


def test_a_training_that_starts_removes_the_parts_of_a_killed_one(target: Path) -> None:
    run = RunFolder(target / "model.prosma")
    (run.root / "preview").mkdir(parents=True)
    for place in (run.model, run.history, run.picture(1)):
        part = parts.take(place)
        part.path.write_bytes(b"half")
        os.close(part.descriptor)  # as the system does when a process ends
    run.write_settings(resolve_run({"data": "data", "out": "model.safetensors"}), {"train": ["a"], "val": ["b"]})
    assert not list(target.rglob(".prosma-*"))
