"""Voxel counts of a result as rows of its table, with volume or area where the scan's unit is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from napari_prosma.segment.result_panel import ClassRow
from prosma_core.config.model import ClassInfo
from prosma_core.data.geometry import ImageSpec
from prosma_core.data.grid import unit_factor

if TYPE_CHECKING:
    from pandas import DataFrame

MM3_PER_ML = 1000.0


def size_heading(spec: ImageSpec) -> str:
    """Heading of the sizes, of one time point on average; empty where the scan's unit is not known."""
    if spec.unit == "pixel":
        return ""
    heading = "Volume (mL)" if spec.spatial_ndim == 3 else "Area (mm²)"
    return f"Mean {heading[0].lower()}{heading[1:]}" if spec.num_frames > 1 else heading


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
    size = None
    if size_heading(spec):
        size = prod(s * unit_factor(spec.unit, "mm") for s in spec.spacing)
        size = (size / MM3_PER_ML if spec.spatial_ndim == 3 else size) / spec.num_frames
    rows = []
    for c in classes[1:]:
        count = voxels.get(c.name, 0)
        rows.append(ClassRow(c.value, c.name, c.color, count, None if size is None else count * size))
    return rows


def with_measures(features: DataFrame, rows: Sequence[ClassRow], heading: str) -> DataFrame:
    """The features table of a Labels layer (column ``index`` holds the value) with voxel counts and sizes added."""
    table = features.copy()
    by_value = {row.value: row for row in rows}
    chosen = [by_value.get(int(value)) for value in table["index"]]
    table["voxels"] = [row.voxels if row else 0 for row in chosen]
    if heading:
        table[heading] = [row.size if row else None for row in chosen]
    return table
