"""Numbers in the features tables of Labels layers, which hold only until the voxels change. No Qt."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from napari_prosma.layers.scan import METADATA

if TYPE_CHECKING:
    from napari.layers import Labels

COLUMNS = "columns"
"""Key in a layer's metadata: the columns that this plugin wrote into its features table, and what they held."""

VOXELS, PIXELS = "voxels", "pixels"
"""Columns with the number of voxels, of a picture pixels."""
ML, MM2, UM3, UM2 = "Volume (mL)", "Area (mm²)", "Volume (µm³)", "Area (µm²)"
"""Columns with sizes."""
PAINTED = ("data", "paint", "labels_update")
"""Events of a Labels layer after which its voxels may be others."""


def mean_heading(heading: str) -> str:
    """Heading of sizes that are means over the time points."""
    return f"Mean {heading[0].lower()}{heading[1:]}"


NUMBERS = {VOXELS, PIXELS, *(name for size in (ML, MM2, UM3, UM2) for name in (size, mean_heading(size)))}
"""Columns that are computed from the voxels."""


def write_numbers(layer: Labels, columns: Mapping[str, Any]) -> None:
    """Put numbers into the features table of a result; a column of the same name that is not ours stays.

    Parameters
    ----------
    layer : Labels
    columns : mapping of str to sequence
        By heading, a value for each row of the table.
    """
    table, own = layer.features.copy(), _written(layer)
    for name, values in columns.items():
        if name not in table or name in own:
            table[name] = values
            own[name] = ""
    layer.features = table
    _keep(layer, own)


def forget_numbers(event: Any) -> None:
    """Take the numbers out of the features table of a result whose voxels changed: those that this plugin wrote.

    Names of classes and objects stay. Who counts again adds the new numbers.
    """
    drop_numbers(event.source)


def drop_numbers(layer: Any) -> None:
    """Take the numbers that this plugin wrote out of a features table."""
    if (layer.metadata.get(METADATA) or {}).get(COLUMNS):
        own = _written(layer)
        if own:
            layer.features = layer.features.drop(columns=list(own))
        _keep(layer, {})


def _written(layer: Any) -> dict[str, str]:
    """Columns that this plugin wrote and nobody changed since, each with the values it had then, as `_values`."""
    known = (layer.metadata.get(METADATA) or {}).get(COLUMNS) or {}
    table = layer.features
    return {name: values for name, values in known.items() if name in table and _values(table[name]) == values}


def _keep(layer: Any, own: Mapping[str, str]) -> None:
    noted = {name: _values(layer.features[name]) for name in own}
    layer.metadata = {**layer.metadata, METADATA: {**(layer.metadata.get(METADATA) or {}), COLUMNS: noted}}


def _values(column: Any) -> str:
    """Checksum of a column's values, with their types."""
    return f"{zlib.crc32(repr(column.tolist()).encode()):08x}"
