"""Voxel counts of classes and objects as rows of tables, with volume or area where the scan's unit is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.model import ClassInfo
from prosma_core.data.geometry import ImageSpec
from prosma_core.data.grid import unit_factor

if TYPE_CHECKING:
    from pandas import DataFrame

MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class ClassRow:
    """One class of a result; `size` is its volume or area, None where the scan has no unit."""

    value: int
    name: str
    color: str
    voxels: int
    size: float | None


def size_heading(spec: ImageSpec) -> str:
    """Heading of the sizes, of one time point on average; empty where the scan's unit is not known."""
    heading, _ = _voxel_size(spec)
    return f"Mean {heading[0].lower()}{heading[1:]}" if heading and spec.num_frames > 1 else heading


def class_rows(classes: Sequence[ClassInfo], voxels: Mapping[str, int], spec: ImageSpec) -> list[ClassRow]:
    """A row for each class but the background.

    Parameters
    ----------
    classes : sequence of ClassInfo
    voxels : mapping of str to int
        Count by class name.
    spec : ImageSpec
        Of the scan; its voxel size and unit give volumes in mL (3D) or areas in mm² (2D), of a time series the mean.
    """
    heading, size = _voxel_size(spec)
    rows = []
    for c in classes[1:]:
        count = voxels.get(c.name, 0)
        rows.append(ClassRow(c.value, c.name, c.color, count, count * size / spec.num_frames if heading else None))
    return rows


def object_features(classes: Sequence[ClassInfo], table: NDArray[np.integer[Any]], spec: ImageSpec) -> dict[str, Any]:
    """The features table of a Labels layer of objects: number (column ``index``), class, voxels, and volume or area.

    Parameters
    ----------
    classes : sequence of ClassInfo
    table : ndarray, integer, shape (objects + 1, 2)
        Class value and voxels of each object at its number; row 0, the background, is left out.
    spec : ImageSpec
        As of `class_rows`; the size of an object is its own, also in a time series.
    """
    values, voxels = table[1:].T
    order = sorted(classes, key=lambda c: c.value)
    names = np.array([c.name for c in order], object)
    heading, size = _voxel_size(spec)
    found = np.searchsorted([c.value for c in order], values)
    features = {"index": np.arange(1, len(table)), "class": names[found], "voxels": voxels}
    return features | ({heading: voxels * size} if heading else {})


def _voxel_size(spec: ImageSpec) -> tuple[str, float]:
    """Heading of sizes, and the size of one voxel: mL (3D) or mm² (2D); empty where the scan's unit is not known."""
    if spec.unit == "pixel":
        return "", 0.0
    size = prod(s * unit_factor(spec.unit, "mm") for s in spec.spacing)
    return ("Volume (mL)", size / MM3_PER_ML) if spec.spatial_ndim == 3 else ("Area (mm²)", size)


def with_measures(features: DataFrame, rows: Sequence[ClassRow], heading: str) -> DataFrame:
    """The features table of a Labels layer (column ``index`` holds the value) with voxel counts and sizes added."""
    table = features.copy()
    by_value = {row.value: row for row in rows}
    chosen = [by_value.get(int(value)) for value in table["index"]]
    table["voxels"] = [row.voxels if row else 0 for row in chosen]
    if heading:
        table[heading] = [row.size if row else None for row in chosen]
    return table
