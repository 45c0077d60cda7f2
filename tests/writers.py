"""Everything that the library saves: for each kind, what saves content with a number, and what finds it again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from prosma_core.config import ModelHeader
from prosma_core.config.inference import CpuSettings
from prosma_core.config.training import resolve_run
from prosma_core.data.geometry import ImageSpec, array_spec
from prosma_core.io import atomic, hardware
from prosma_core.io.bundle import load_bundle, read_header, save_bundle, shipped_models
from prosma_core.io.images import read_image, read_labels, write_image, write_labels
from prosma_core.io.raster import write_picture
from prosma_core.io.zarr_checks import ZarrHeader
from prosma_core.runs.run_folder import RunFolder
from prosma_core.runs.run_state import keep_stopped, read_history

Save = Callable[[int], object]
"""Saves the content with this number in the place of what is there."""
Found = Callable[[], int | None]
"""Reads the content that is there, checks that it is whole, and returns its number."""
Writer = Callable[[Path], tuple[Save, Found]]
"""Both for a folder, in which nothing else is."""

VOLUME = ImageSpec(axes="zyx", shape=(2, 3, 4), spacing=(3, 1, 1), unit="mm", affine=np.diag([3.0, 1, 1, 1]))


class Number(int):
    """A number that was stored modulo something."""

    def __new__(cls, value: int, modulo: int) -> Number:
        number = super().__new__(cls, value)
        number.modulo = modulo
        return number

    modulo: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int) and other % self.modulo == int(self)

    __hash__ = int.__hash__


def one_value(data: np.ndarray, modulo: int = 250) -> int:
    """The number of an array that holds nothing else."""
    values = np.unique(data)
    assert values.size == 1, values
    return Number(int(values[0]), modulo)


@cache
def _header() -> ModelHeader:
    return read_header(shipped_models()["phantom-3d"])


def _labels(name: str, spec: ImageSpec = VOLUME) -> Writer:
    def make(folder: Path) -> tuple[Save, Found]:
        path = folder / name

        def save(number: int) -> None:
            labels = np.full(spec.shape, number % 250, np.uint8)
            write_labels(path, labels, spec, overwrite=True, provenance={"program": "prosma", "number": str(number)})

        return save, lambda: one_value(read_labels(path).data)

    return make


def _picture(name: str) -> Writer:
    def make(folder: Path) -> tuple[Save, Found]:
        spec = array_spec((8, 8), "yx")

        def save(number: int) -> None:
            write_image(folder / name, np.full((8, 8), number % 250, np.uint8), spec, overwrite=True)

        return save, lambda: one_value(read_image(folder / name).data)

    return make


def _jpeg(folder: Path) -> tuple[Save, Found]:
    """Its values are not exact."""
    path = folder / "picture.jpg"

    def save(number: int) -> None:
        write_image(path, np.full((8, 8), number % 25 * 10, np.uint8), array_spec((8, 8), "yx"), overwrite=True)

    return save, lambda: one_value(np.round(read_image(path).data / 10), 25)


def _in_two_steps(make: Writer) -> Writer:
    """As where the system cannot let two folders change places."""

    def made(folder: Path) -> tuple[Save, Found]:
        save, found = make(folder)

        def save_in_two_steps(number: int) -> None:
            with mock.patch.object(atomic, "_exchange", return_value=False):
                save(number)

        return save_in_two_steps, found

    return made


def _model(folder: Path) -> tuple[Save, Found]:
    path = folder / "model.safetensors"

    def save(number: int) -> None:
        save_bundle(path, _header(), {"weight": np.full((2, 3), number % 1000)})

    return save, lambda: one_value(load_bundle(path)[1]["weight"], 1000)


def _state(folder: Path) -> tuple[Save, Found]:
    import torch

    from prosma_core.training.checkpoint import Progress, load_state, save_state
    from prosma_core.training.optimization import MovingAverage

    run, network = RunFolder(folder / "model.prosma"), torch.nn.Linear(2, 2)
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


def _settings(folder: Path) -> tuple[Save, Found]:
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


def _machine(folder: Path) -> tuple[Save, Found]:
    os.environ["PROSMA_CACHE"] = str(folder)

    def found() -> int | None:
        way = hardware.load_cpu_settings("key")
        return None if way is None else way.threads

    return lambda number: hardware.save_cpu_settings("key", CpuSettings(threads=number + 1)), lambda: (found() or 0) - 1


def _report(folder: Path) -> tuple[Save, Found]:
    """What `prosma evaluate` and `prosma inspect` write as JSON."""
    path = folder / "report.json"
    return (
        lambda number: atomic.write_bytes_atomic(path, json.dumps({"number": number}).encode()),
        lambda: int(json.loads(path.read_bytes())["number"]),
    )


def _kept(folder: Path) -> tuple[Save, Found]:
    """The model of a stopped run."""
    run = RunFolder(folder / "model.prosma")
    run.write_settings(resolve_run({"data": "data", "out": "model.safetensors"}), {"train": ["a"], "val": ["b"]})

    def save(number: int) -> None:
        training = {"validation_dice": {"organ": 0.5}, "epochs": number}
        save_bundle(run.best, _header().replace(training=training), {"weight": np.zeros((2, 3))})
        keep_stopped(run)

    return save, lambda: int(read_header(run.model).training["epochs"])


def _case_picture(folder: Path) -> tuple[Save, Found]:
    """What `prosma inspect` draws, and a training after each validation."""
    path = folder / "picture.png"

    def found() -> int:
        with Image.open(path) as picture:
            return one_value(np.asarray(picture))

    return lambda number: write_picture(path, np.full((4, 5, 3), number % 250, np.uint8)), found


def _inspected(folder: Path) -> tuple[Save, Found]:
    """What `prosma inspect` writes into a folder, each file by itself and ``summary.json`` last."""
    import torch
    from tests.core.conftest import tiny_header

    from prosma_core.config.inspection import InspectConfig
    from prosma_core.inference.segment import Segmenter
    from prosma_core.inspection.files import Asked, inspect_file
    from prosma_core.model.unet import build_model

    torch.set_num_threads(1)
    segmenter = Segmenter(header := tiny_header(), build_model(header.model, 0), torch.device("cpu"))
    images, asked = folder.with_name(f"{folder.name} images"), Asked(InspectConfig(maps=("energy",)), overwrite=True)
    images.mkdir()
    scan = images / "scan.png"
    write_image(scan, np.arange(256, dtype=np.uint8).reshape(16, 16), array_spec((16, 16), "yx"))

    def save(number: int) -> None:
        image = images / f"{number}.png"
        if not image.exists():
            image.symlink_to(scan)
        for _ in inspect_file(segmenter, image, folder / "maps", asked):
            pass

    def found() -> int:
        for path in (folder / "maps").glob("level*"):
            read_image(path)
        return int(json.loads((folder / "maps" / "summary.json").read_text())["source"].split(".")[0])

    return save, found


FILES: dict[str, Writer] = {
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
MORE: dict[str, Writer] = {
    "plain tiff": _picture("picture.tif"),
    "jpeg": _jpeg,
    "seg.nrrd": _labels("labels.seg.nrrd"),
    "image nii.gz": _picture("picture.nii.gz"),
    "image zarr": _picture("picture.ome.zarr"),
    "zarr 3": _labels("labels.zarr", replace(VOLUME, header=ZarrHeader(ome=False, zarr_format=3))),
    "zarr in two steps": _in_two_steps(_labels("labels.ome.zarr")),
    "inspect": _inspected,
}
"""Only in ``python3 run.py fuzz --kills``: mostly the same code with other arguments."""
TORCH = {"state", "inspect"}
"""Those that import torch."""
WRITERS = FILES | FOLDERS
