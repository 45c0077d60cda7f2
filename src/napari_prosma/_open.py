"""The reader that napari calls: as `_reader`, and the window stays alive while a URL is opened."""

from __future__ import annotations

from typing import Any

from napari.utils.notifications import show_info

from napari_prosma import _reader
from napari_prosma._reader import LayerData, Reader, read_paths
from napari_prosma.jobs.opening import OpeningCanceledError, from_server
from prosma_core.printable import plain

NOTHING: list[Any] = [(None,)]
"""What napari takes for no layer."""


def get_reader(path: str | list[str]) -> Reader | None:
    """Function that reads this path, None where it is nothing that is read here."""
    return read_for_window if _reader.get_reader(path) else None


def read_for_window(path: str | list[str]) -> list[LayerData]:
    """As `_reader.read_paths`; a canceled URL and those that follow it are left out."""
    layers: list[LayerData] = []
    try:
        for item in [path] if isinstance(path, str) else path:
            layers += read_paths(item, from_server)
    except OpeningCanceledError as canceled:
        show_info(plain(str(canceled)))
    return layers or NOTHING
