"""Labels layers as annotations: grid relative to their image, class names and colors, columns of features tables."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from napari_prosma.layers.placement import Placement, same_grid
from napari_prosma.layers.scan import METADATA, LayerScan, guess, read, read_arrays, source_path
from prosma_core.config.model import ClassInfo
from prosma_core.data.geometry import METRES, affine_spacing

if TYPE_CHECKING:
    from napari.layers import Labels

MOST_NAMES = 256
"""Names and colors that are taken from a layer: more values than that are no classes."""


def read_on(layer: Any, image: LayerScan) -> LayerScan:
    """A Labels layer as a scan in the world of the image layer it is drawn over.

    A layer painted by hand knows neither the names of its axes nor the patient: it has those of the image, and the
    image's own geometry where it lies on its voxels. Labels of a file that knows the patient keep what it says.

    Parameters
    ----------
    layer : napari.layers.Labels
    image : LayerScan

    Raises
    ------
    GeometryError
        As in `layer_scan.read`.
    """
    kept = dict(layer.metadata.get(METADATA) or {})
    if kept.get("spec") is not None and kept["spec"].world == image.spec.world == "ras":
        return read(layer)
    kept.pop("turn", None)
    kept |= {"spec": image.spec} | ({"turn": image.metadata["turn"]} if "turn" in image.metadata else {})
    data = list(layer.data) if layer.multiscale else [layer.data]
    state = {"name": layer.name, "metadata": {METADATA: kept}}
    path = layer.source.path
    axes = _axes_over(image, Placement.of(layer), str(kept.get("axes", "")))
    scan = read_arrays(data, Placement.of(layer), state, axes=axes, path=source_path(path))
    return _in_unit_of(image, scan)


def lies_on(labels: LayerScan, image: LayerScan) -> bool:
    """Whether labels have the image's voxels, in the same place; at as many times, or at one."""
    a, b = labels.spec, image.spec
    return (
        a.spatial_shape == b.spatial_shape
        and a.num_frames in (1, b.num_frames)
        and same_grid(a.affine, b.affine, b.spacing)
    )


def known_classes(layer: Any, values: Iterable[int] = ()) -> tuple[ClassInfo, ...]:
    """Names and colors a Labels layer gives its values.

    Parameters
    ----------
    layer : napari.layers.Labels
    values : iterable of int
        Values that occur; those without a name get ``class N`` and the color they are drawn in.

    Returns
    -------
    tuple of ClassInfo
        Sorted by value: those of the features table (columns ``index`` and ``name``), else of the file's notes, and
        those of `values`. Empty where these are too many for classes.
    """
    noted = {c.value: c.name for c in (layer.metadata.get(METADATA) or {}).get("classes", ())}
    names = noted | _features(layer)
    numbers = sorted({*names, *values})
    if len(numbers) > MOST_NAMES:
        return ()
    found = []
    for value in numbers:
        name = names.get(value, f"class {value}" if value else "background")
        try:
            found.append(ClassInfo(value=value, name=name, color=_color(layer, value)))
        except ValidationError:  # a value or a name no class can have
            continue
    return tuple(found)


BRUSH = 10
"""Diameter of napari's brush in a new layer, in voxels."""
MOST_COUNTED = 2**24
"""Voxels of a layer up to which its objects are measured for the brush."""


def brush_for(values: NDArray[Any]) -> int:
    """Diameter of a brush, in voxels, for labels of this shape: about a third of what is painted already.

    Parameters
    ----------
    values : ndarray, integer, shape (..., y, x)
        Of objects, the width of a disc as large as the median slice that holds any; without any, a 25th of the shorter
        side. At least 1, at most `BRUSH`.

    Examples
    --------
    >>> brush_for(np.zeros((20, 35, 50), np.uint8))
    1
    """
    side = min(values.shape[-2:])
    areas = np.count_nonzero(values, axis=(-2, -1))
    painted = areas[areas > 0]
    wide = 2 * np.sqrt(np.median(painted) / np.pi) / 3 if painted.size else side / 25
    return int(np.clip(round(wide), 1, BRUSH))


def fit_brush(layer: Any) -> None:
    """Give a Labels layer in memory a brush that suits it, unless the user has chosen one."""
    if layer.brush_size == BRUSH and not layer.multiscale and isinstance(layer.data, np.ndarray):
        counted = layer.data.size <= MOST_COUNTED
        layer.brush_size = brush_for(layer.data if counted else np.zeros((0, *layer.data.shape[-2:]), np.uint8))


APART = 150.0
"""Distance of two colors, of 765 between black and white, from which on nobody takes one for the other."""
_LEVELS = (0, 85, 170, 255)


def colors_apart(wanted: Sequence[str], taken: Iterable[str]) -> list[str]:
    """Colors for a layer that is seen beside another: those wanted, unless one of the taken ones is like them.

    Parameters
    ----------
    wanted, taken : str
        As ``#rrggbb``.

    Returns
    -------
    list of str
        As many as wanted. In place of one that is less than `APART` from those taken or from another one, the bright
        color that is farthest from these.
    """
    used, chosen = [_rgb(color) for color in taken], []
    levels = np.array(list(itertools.product(_LEVELS, repeat=3)))
    bright = levels[(levels.max(axis=1) == _LEVELS[-1]) & (np.ptp(levels, axis=1) >= _LEVELS[2])]
    for color in wanted:
        own = _rgb(color)
        if used and _distances(own[None], used).min() < APART:
            own = bright[_distances(bright, used).argmax()]
        used.append(own)
        chosen.append("#" + "".join(f"{part:02x}" for part in own))
    return chosen


def _rgb(color: str) -> NDArray[np.int_]:
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])


def _distances(colors: NDArray[np.int_], used: Sequence[NDArray[np.int_]]) -> NDArray[np.float64]:
    """How far each color is from the nearest of those used, about as an eye sees it (the "redmean" distance)."""
    a, b = colors[:, None].astype(np.float64), np.array(used, np.float64)[None]
    red, squares = (a[..., 0] + b[..., 0]) / 2, (a - b) ** 2
    weights = np.stack([2 + red / 256, np.full(red.shape, 4.0), 2 + (255 - red) / 256], axis=-1)
    nearest: NDArray[np.float64] = np.sqrt((weights * squares).sum(axis=-1)).min(axis=1)
    return nearest


def _axes_over(image: LayerScan, placement: Placement, known: str) -> str:
    """Letters of a layer's axes: those of the image beneath, the last ones where the layer has fewer."""
    letters = image.axes[:-1] if image.rgb else image.axes
    plain = letters.replace("c", "")
    if placement.ndim == len(plain):
        return plain
    if placement.ndim <= len(letters) and {"y", "x"} <= set(letters[-placement.ndim :]):
        return letters[-placement.ndim :]
    if 1 < placement.ndim < len(plain) and {"y", "x"} <= set(plain[-placement.ndim :]):
        return plain[-placement.ndim :]
    return guess(placement.physical.axis_labels, known, rgb=False)


def _in_unit_of(image: LayerScan, scan: LayerScan) -> LayerScan:
    """The scan in the image's unit (pixels are taken to be in it), with the image's numbers where they say the same."""
    spec, target = scan.spec, image.spec
    if spec.unit == target.unit:
        return scan
    factor = METRES[spec.unit] / METRES[target.unit] if {spec.unit, target.unit} <= set(METRES) else 1.0
    affine = np.diag([factor] * spec.spatial_ndim + [1.0]) @ spec.affine
    if spec.spatial_ndim == target.spatial_ndim and same_grid(affine, target.affine, target.spacing):
        own = {"axes": spec.axes, "shape": spec.shape, "channel_names": spec.channel_names}
        return replace(scan, spec=replace(target, **own))  # type: ignore[arg-type]
    return replace(scan, spec=replace(spec, unit=target.unit, affine=affine, spacing=affine_spacing(affine)))


def names_values(features: Any) -> bool:
    """Whether a layer's features table names its values; a table without names is another plugin's."""
    return {"index", "name"} <= set(features.columns)


def _features(layer: Any) -> dict[int, str]:
    """Names by value from a layer's features table; empty where it has no such columns."""
    table = layer.features
    if not names_values(table) or len(table) > MOST_NAMES:
        return {}
    rows = zip(table["index"], table["name"], strict=True)
    return {int(v): str(n) for v, n in rows if isinstance(v, int | np.integer) and isinstance(n, str) and n}


def _color(layer: Any, value: int) -> str:
    """Color a value is drawn in, ``#rrggbb``; black for what is not drawn."""
    red, green, blue, alpha = (float(part) for part in layer.colormap.map(value))
    if alpha == 0:
        return "#000000"
    return "#" + "".join(f"{round(255 * part):02x}" for part in (red, green, blue))


COLUMNS = "columns"
"""Key in a layer's metadata: the columns that this plugin wrote into its features table, and what they held."""


def write_columns(layer: Labels, columns: Mapping[str, Any]) -> None:
    """Put columns into the features table of a layer; a column of the same name that is not ours stays.

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


def drop_columns(layer: Any) -> None:
    """Take the columns that `write_columns` wrote, and nobody changed since, out of the features table of a layer."""
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
