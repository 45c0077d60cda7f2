"""Fixtures of the plugin's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from napari.layers import Layer
from napari.plugins.io import save_layers
from npe2 import PluginManifest

import napari_prosma
from napari_prosma._reader import get_reader
from prosma_core.config.model import ClassInfo

MANIFEST = Path(napari_prosma.__file__).parent / "napari.yaml"
CLASSES = (
    ClassInfo(value=0, name="background", color="#000000"),
    ClassInfo(value=1, name="organ", color="#ff0000"),
    ClassInfo(value=5, name="lesion", color="#00ff00"),
)


@pytest.fixture
def classes() -> tuple[ClassInfo, ...]:
    """Return a background and two classes."""
    return CLASSES


@pytest.fixture
def open_layer() -> Callable[[Path], Any]:
    """Return a function that opens a file with the plugin's reader, as the only layer in it."""

    def open_path(path: Path) -> Any:
        reader = get_reader(str(path))
        assert reader is not None
        (layer,) = reader(str(path))
        return Layer.create(*layer)

    return open_path


@pytest.fixture
def plugin(npe2pm: Any) -> Any:
    """Return npe2's plugin manager with this plugin and nothing else in it."""
    npe2pm.register(PluginManifest.from_file(MANIFEST))
    return npe2pm


@pytest.fixture
def save_layer(plugin: Any) -> Callable[[Any, Path], list[str]]:
    """Return a function that saves a layer as napari does: with the writer that the name asks for."""

    def save(layer: Any, path: Path) -> list[str]:
        return save_layers(str(path), [layer])

    return save
