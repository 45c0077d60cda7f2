"""Small things that the tests of files and of the command line share: models of random weights, tiny data folders."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prosma_core.cli.main import main
from prosma_core.config import ClassInfo, GateConfig, ModelConfig, ModelHeader, PreprocessConfig
from prosma_core.config.model import ChannelIntensity
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.data.phantom import phantom_2d
from prosma_core.inference import memory, segment
from prosma_core.io import zarr_images
from prosma_core.io.bundle import save_bundle
from prosma_core.io.images import write_image, write_labels
from prosma_core.model.unet import build_model
from prosma_core.model.weights import weights_of


def tiny_config(dims: int, channels: int = 1, classes: int = 2, gate: str = "prosma") -> ModelConfig:
    """Return the smallest network that has a skip."""
    return ModelConfig.parse(
        {
            "dims": dims,
            "in_channels": channels,
            "num_classes": classes,
            "widths": (4, 8),
            "strides": ((1,) * dims, (2,) * dims),
            "kernels": ((3,) * dims,) * 2,
            "gate": GateConfig.parse({"kind": gate}, "gate"),
        },
        "tiny network",
    )


def tiny_header(
    dims: int = 2,
    channels: tuple[str, ...] = ("image",),
    values: tuple[int, ...] = (0, 1),
    *,
    gate: str = "prosma",
    **preprocess: Any,
) -> ModelHeader:
    """Return the header of a tiny network; `preprocess` changes its preprocessing."""
    settings: dict[str, Any] = {
        "dims": dims,
        "channels": channels,
        "intensities": (ChannelIntensity(),) * len(channels),
        "tile": (16,) * dims,
    }
    names = ("background", *(f"class {v}" for v in values[1:]))
    return ModelHeader(
        name="tiny",
        model=tiny_config(dims, len(channels), len(values), gate),
        preprocess=PreprocessConfig.parse({**settings, **preprocess}, "tiny preprocessing"),
        classes=tuple(ClassInfo(value=v, name=n) for v, n in zip(values, names, strict=True)),
        mirror_axes="zyx"[-dims:],
    )


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Compute tiny networks with one thread: several wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_header() -> Callable[..., ModelHeader]:
    """Return a maker of headers, see `tiny_header`."""
    return tiny_header


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Path]:
    """Return a maker of model files of random weights: path, then the arguments of `tiny_header`."""

    def make(path: Path, *args: Any, seed: int = 0, **kwargs: Any) -> Path:
        header = tiny_header(*args, **kwargs)
        save_bundle(path, header, weights_of(build_model(header.model, seed).state_dict()))
        return path

    return make


@pytest.fixture(scope="session")
def make_data() -> Callable[..., Path]:
    """Return a maker of data folders: `count` pictures of 32 x 32 with a lesion each, and their labels."""

    def make(root: Path, count: int = 4, image: str = ".png", label: str = ".png", lesion: int = 1) -> Path:
        (root / "images").mkdir(parents=True)
        (root / "labels").mkdir()
        for number in range(count):
            scan, labels = phantom_2d(number, (48, 64))
            crop = (slice(8, 40), slice(16, 48))
            spec = array_spec((32, 32), "yx")
            mask = labels.data[crop].copy()
            mask[12:20, 12:20] = 1
            write_image(root / "images" / f"case_{number}{image}", scan.data[crop], spec)
            write_labels(root / "labels" / f"case_{number}{label}", mask * np.uint8(lesion), spec)
        return root

    return make


@pytest.fixture
def noise(rng: np.random.Generator) -> Callable[..., Scan]:
    """Return a maker of scans of random numbers: shape, axes, and optionally spacing and unit."""

    def make(shape: tuple[int, ...], axes: str, spacing: tuple[float, ...] | None = None, unit: str = "mm") -> Scan:
        return Scan(rng.normal(100, 20, shape).astype(np.float32), array_spec(shape, axes, spacing, unit))

    return make


@pytest.fixture
def prosma(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return the command line in this process: exit code, stdout and stderr of ``prosma ARGUMENTS``."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["prosma", *map(str, arguments)])
        capsys.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No scan is small enough to be read whole, where parts of it can be read."""
    monkeypatch.setattr(memory, "IN_CORE", 0)
    monkeypatch.setattr(memory, "WORKING", 0)
    monkeypatch.setattr(memory, "KEPT", 0)
    monkeypatch.setattr(memory, "WORTH", 99.0)
    monkeypatch.setattr(segment, "_CHUNK", 8)
    monkeypatch.setattr(zarr_images, "_CHUNK", {"t": 1, "c": 1, "z": 4, "y": 8, "x": 8})
