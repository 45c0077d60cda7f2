"""Label images of OME-Zarr: the `labels` group of an image, names and colors of classes, coarser levels."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import product, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.config.documents import load_json
from prosma_core.config.model import COLORS, LONGEST_CLASS_NAME, ClassInfo
from prosma_core.errors import OutputError, ProsmaError
from prosma_core.io.atomic import output_errors, write_bytes_atomic
from prosma_core.io.claims import ClaimedError, claimed
from prosma_core.io.class_notes import classes_note, noted_classes
from prosma_core.io.zarr_checks import Located, Node, ZarrHeader, load_node, locate_array, ome_of
from prosma_core.io.zarr_geometry import axes_of, transform_of

if TYPE_CHECKING:
    from prosma_core.data.geometry import ImageSpec

LARGEST = 512
"""Voxels along an axis above which a label map of its own gets a coarser level."""
GROUP = "labels"
_MOST_NAMED = 1000
"""Names of values above which they are those of objects, not of classes."""
_WAIT_S, _TRIES = 0.2, 300


@dataclass(frozen=True)
class Level:
    """A coarser level of a label map, axes those of the label map.

    Attributes
    ----------
    shape : tuple of int
    ratio : tuple of float
        Size of its voxels, in voxels of the finest level.
    shift : tuple of float
        Where its voxel 0 lies, in voxels of the finest level.
    """

    shape: tuple[int, ...]
    ratio: tuple[float, ...]
    shift: tuple[float, ...]


@dataclass(frozen=True)
class Time:
    """How far apart the time points of an image are, when the first is, and the unit of both (empty: none stated)."""

    step: float = 1.0
    start: float = 0.0
    unit: str = ""


@dataclass(frozen=True)
class LabelImage:
    """What a label map gets beside its voxels.

    Attributes
    ----------
    header : ZarrHeader
        The version to write.
    levels : tuple of Level
    attributes : dict
        The metadata ``image-label``; empty for an image.
    time : Time
    """

    header: ZarrHeader
    levels: tuple[Level, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    time: Time = field(default_factory=Time)


def image_of(path: Path) -> Path | None:
    """The OME-Zarr image in whose `labels` group a path lies, there or not; None for all other paths."""
    group = path.absolute().parent
    if group.name != GROUP or not path.name:
        return None
    try:
        node = load_node(group.parent)
    except (ProsmaError, OSError):
        return None
    return group.parent if node is not None and not node.is_array and ome_of(node).get("multiscales") else None


def plan_label_image(path: Path, spec: ImageSpec, notes: dict[str, Any]) -> LabelImage:
    """What is written for a label map (or an image, by its notes) that goes to a path.

    Parameters
    ----------
    path : Path
        In the `labels` group of an OME-Zarr image, or anywhere else.
    spec : ImageSpec
        Of the label map.
    notes : dict
        Its provenance.

    Raises
    ------
    OutputError
        It goes into the `labels` group of an image that has no level of its shape, or is no label map.
    """
    image = image_of(path)
    header = spec.header if isinstance(spec.header, ZarrHeader) else ZarrHeader()
    labels = notes.get("kind") == "labels"
    if image is not None and not labels:
        msg = f"{path} lies among the labels of {image.name}, where only label maps go. Choose another name."
        raise OutputError(msg)
    if not labels or (image is None and not header.ome):
        return LabelImage(header)
    levels, time = own_levels(spec), Time()
    if image is not None:
        found = locate_array(image)
        header, (levels, time) = found.header, _levels_of(image, found, spec)
    version = {"version": "0.5" if header.zarr_format == 3 else "0.4"}
    source = {"source": {"image": "../../"}} if image is not None else {}
    return LabelImage(header, levels, {**version, **_colors(noted_classes(notes)), **source}, time)


def _colors(classes: tuple[ClassInfo, ...]) -> dict[str, Any]:
    """Colors and names as OME-Zarr has them; the background, the first, is transparent."""
    if not classes:
        return {}
    rgba = [[*bytes.fromhex(c.color[1:]), 255 if number else 0] for number, c in enumerate(classes)]
    return {
        "colors": [{"label-value": c.value, "rgba": color} for c, color in zip(classes, rgba, strict=True)],
        "properties": [{"label-value": c.value, "class": c.name} for c in classes],
    }


def foreign_notes(node: Node) -> dict[str, Any]:
    """Notes on the classes of a label map of another program: its names and colors in OME-Zarr; empty for none."""
    found = ome_of(node).get("image-label")
    if not isinstance(found, dict):
        return {}
    names: dict[int, str] = {}
    colors: dict[int, str] = {}
    for entry in (e for e in found.get("properties") or () if isinstance(e, dict)):
        value, name = entry.get("label-value"), entry.get("class", entry.get("name"))
        if type(value) is int and isinstance(name, str) and name:
            names[value] = name[:LONGEST_CLASS_NAME]
    for entry in (e for e in found.get("colors") or () if isinstance(e, dict)):
        value, rgba = entry.get("label-value"), entry.get("rgba")
        if type(value) is int and isinstance(rgba, list) and all(type(v) is int and 0 <= v < 256 for v in rgba[:3]):
            colors[value] = "#" + bytes(rgba[:3]).hex() if len(rgba) >= 3 else ""
    values = sorted(v for v in {0, *names} if 0 <= v <= 65535)
    if not names or len(values) > _MOST_NAMED:
        return {}
    named = {0: "background", **names}
    infos = [ClassInfo(value=v, name=named[v], color=colors.get(v) or COLORS[v % len(COLORS)]) for v in values]
    return classes_note(infos)


def own_levels(spec: ImageSpec) -> tuple[Level, ...]:
    """Levels of half the size, along the axes with the smallest voxels, until none is longer than `LARGEST`."""
    levels: list[Level] = []
    sizes = {axis: (spec.shape[spec.axes.index(axis)], 1) for axis in spec.spatial_axes}
    spacing = dict(zip(spec.spatial_axes, spec.spacing, strict=True))
    while max(size for size, _ in sizes.values()) > LARGEST:
        finest = min(spacing[axis] * ratio for axis, (size, ratio) in sizes.items() if size > 1)
        for axis, (size, ratio) in sizes.items():
            if size > 1 and (spacing[axis] * ratio < 2 * finest or size > LARGEST):
                sizes[axis] = (-(-size // 2), 2 * ratio)
        whole = [sizes.get(axis, (n, 1)) for axis, n in zip(spec.axes, spec.shape, strict=True)]
        levels.append(
            Level(
                tuple(size for size, _ in whole),
                tuple(float(ratio) for _, ratio in whole),
                tuple((ratio - 1) / 2 for _, ratio in whole),
            )
        )
    return tuple(levels)


def _levels_of(image: Path, found: Located, spec: ImageSpec) -> tuple[tuple[Level, ...], Time]:
    """The levels of an image behind the one that has the shape of a label map, and the times of that one."""
    entries = found.multiscale["datasets"]
    levels = []
    for entry in entries:
        node = load_node(image / str(entry.get("path")))
        if node is None or not node.is_array:
            continue
        shape = tuple(node.metadata.get("shape", ()))
        names = axes_of(image, found, shape)
        scale, start = transform_of(image, {**found.multiscale, "datasets": [entry]}, len(shape))
        levels.append({axis: (shape[i], scale[i], start[i]) for i, axis in enumerate(names)})
    wanted = list(zip(spec.axes, spec.shape, strict=True))
    fit = [all(level.get(axis, (1,))[0] == size for axis, size in wanted) for level in levels]
    if not any(fit):
        shapes = "; ".join(" x ".join(str(size) for size, _, _ in level.values()) for level in levels)
        msg = (
            f"The label map has the shape {' x '.join(map(str, spec.shape))} ({spec.axes}), the image {image.name} "
            f"{shapes}. Its labels hold label maps of its own grid; choose another --out."
        )
        raise OutputError(msg)
    coarser, finest = [], levels[fit.index(True)]
    for level in levels[fit.index(True) + 1 :]:
        there = [(level[axis], finest[axis]) if axis in finest else ((1, 1.0, 0.0),) * 2 for axis in spec.axes]
        coarser.append(
            Level(
                tuple(int(own[0]) for own, _ in there),
                tuple(own[1] / base[1] for own, base in there),
                tuple((own[2] - base[2]) / base[1] for own, base in there),
            )
        )
    _, size, begin = finest.get("t", (1, 1.0, 0.0))
    unit = next((axis.get("unit") for axis in _named_axes(found) if axis.get("type") == "time"), None)
    return tuple(coarser), Time(size, begin, unit if isinstance(unit, str) else "")


def _named_axes(found: Located) -> list[dict[str, Any]]:
    return [axis for axis in found.multiscale.get("axes") or () if isinstance(axis, dict)]


def fill_levels(folder: Path, finest: Any, levels: tuple[Level, ...], create: Any) -> Iterator[tuple[int, int]]:
    """Make the coarser levels of a label map, each of the nearest voxels of the one before, chunk by chunk.

    Parameters
    ----------
    folder : Path
        Of the label map.
    finest : zarr.Array
        The finest level, filled.
    levels : tuple of Level
    create : callable
        Makes the array of a path and a shape.

    Yields
    ------
    tuple of int
        Chunks that are done, of how many.
    """
    made = [create(folder / str(number), level.shape) for number, level in enumerate(levels, 1)]
    boxes = [list(_chunk_boxes(array.shape, array.chunks)) for array in made]
    total, done = sum(map(len, boxes)), 0
    before = finest
    for array, each in zip(made, boxes, strict=True):
        ratios = [old / new for old, new in zip(before.shape, array.shape, strict=True)]
        for box in each:
            nearest = [
                ((np.arange(a, b) + 0.5) * ratio).astype(np.intp) for (a, b), ratio in zip(box, ratios, strict=True)
            ]
            part = before[tuple(slice(int(i[0]), int(i[-1]) + 1) for i in nearest)]
            array[tuple(slice(a, b) for a, b in box)] = part[np.ix_(*(i - i[0] for i in nearest))]
            done += 1
            yield done, total
        before = array


def _chunk_boxes(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Iterator[tuple[tuple[int, int], ...]]:
    cuts = [[(a, min(a + n, size)) for a in range(0, size, n)] for size, n in zip(shape, chunks, strict=True)]
    return product(*cuts)


def is_listed(path: Path) -> bool:
    """Whether the `labels` group that a path lies in names it; True for a path in none."""
    return image_of(path) is None or path.name in _listed(load_node(path.parent))


def _listed(group: Node | None) -> list[str]:
    names = ome_of(group).get(GROUP) if group is not None else None
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def list_label_image(path: Path) -> None:
    """Name a label map in the `labels` group that it lies in, and in the metadata that is kept together above.

    Nothing is done for a path in no such group.

    Raises
    ------
    OutputError
        The group cannot be written, or another process keeps it.
    """
    image = image_of(path)
    if image is None:
        return
    group = path.parent
    with output_errors(path), ExitStack() as alone:
        alone.enter_context(_alone(group / ".zattrs"))
        node = load_node(image)
        assert node is not None
        above = [image, *takewhile(lambda folder: load_node(folder) is not None, image.parents)]
        keepers = list(filter(_keeps, above))
        if keepers:  # labels of other images are named in the uppermost as well
            alone.enter_context(_alone(keepers[-1] / ".zattrs"))
        names = _listed(load_node(group))
        names += [path.name] * (path.name not in names)
        if node.zarr_format == 2:
            if not (group / ".zgroup").is_file():
                _write(group / ".zgroup", {"zarr_format": 2})
            new = {group / ".zattrs": {**_read(group / ".zattrs"), GROUP: names}}
        else:
            own = _read(group / "zarr.json") or {"zarr_format": 3, "node_type": "group"}
            attributes = own.get("attributes") or {}
            ome = {"version": "0.5", **(attributes.get("ome") or {}), GROUP: names}
            new = {group / "zarr.json": {**own, "attributes": {**attributes, "ome": ome}}}
        for root in (*keepers, *filter(_keeps, [group])):
            new |= _consolidated(root, path, new)
        for file in reversed(new):  # the group last: what it names is done
            _write(file, new[file])


def _keeps(folder: Path) -> bool:
    """Whether a group keeps the metadata of all its members."""
    together = (folder / ".zmetadata").is_file()
    return together or isinstance(_read(folder / "zarr.json").get("consolidated_metadata"), dict)


def _consolidated(root: Path, path: Path, new: dict[Path, dict[str, Any]]) -> dict[Path, dict[str, Any]]:
    """The file in which a group keeps its members' metadata, with a label map and what is to be written (`new`)."""
    file = root / ".zmetadata"
    old = file.is_file()
    both = {} if old else new.get(root / "zarr.json") or _read(root / "zarr.json")
    content = _read(file) if old else both["consolidated_metadata"]
    own = path.relative_to(root).as_posix()
    known = content.get("metadata") or {}
    kept = {key: value for key, value in known.items() if key != own and not key.startswith(f"{own}/")}
    for folder in (path.parent, path, *(child for child in sorted(path.iterdir()) if child.is_dir())):
        for name in (".zgroup", ".zarray", ".zattrs") if old else ("zarr.json",):
            value = new.get(folder / name) or _read(folder / name)
            if value and (old or folder != root):
                key = (folder / name if old else folder).relative_to(root).as_posix()
                kept[key] = {k: v for k, v in value.items() if k != "consolidated_metadata"}
    content = {**content, "metadata": kept}
    return {file: content} if old else {root / "zarr.json": {**both, "consolidated_metadata": content}}


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Claim a file while it is changed; another process is waited for."""
    with ExitStack() as stack:
        for left in reversed(range(_TRIES)):
            try:
                stack.enter_context(claimed(file))
                break
            except ClaimedError:
                if not left:
                    raise
                time.sleep(_WAIT_S)
        yield


def _read(file: Path) -> dict[str, Any]:
    found: Any = load_json(file.read_bytes(), finite=False) if file.is_file() else {}
    return found if isinstance(found, dict) else {}


def _write(file: Path, content: dict[str, Any]) -> None:
    write_bytes_atomic(file, json.dumps(content, indent=2).encode())
