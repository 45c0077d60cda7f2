"""The JSON of zarr v2 and v3 nodes and of OME-Zarr, read without the zarr library."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prosma_core.errors import FileFormatError
from prosma_core.io.failures import damaged

_MOST_BYTES = 64 << 20  # of one metadata file


@dataclass(frozen=True)
class ZarrHeader:
    """What a result must repeat to be of the same kind as its source.

    Attributes
    ----------
    zarr_format : int
        2 or 3.
    ome : str
        Version of OME-Zarr, empty for a plain array.
    """

    zarr_format: int = 2
    ome: str = "0.4"


@dataclass(frozen=True)
class Node:
    """A zarr array or group: where it is, its own metadata and its attributes."""

    path: Path
    zarr_format: int
    is_array: bool
    metadata: dict[str, Any]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Located:
    """The array to read in a zarr folder, and the OME-Zarr image that names it (empty if none does)."""

    array: Node
    header: ZarrHeader
    multiscale: dict[str, Any] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()


def locate_array(path: Path) -> Located:
    """Find the array of a zarr folder: itself, the finest level of its OME-Zarr image, or its only member.

    Raises
    ------
    FileFormatError
        The folder is no zarr, its metadata is damaged, or it holds several arrays and none is marked as the image.
    """
    node = load_node(path)
    if node is None:
        raise damaged(path, "the folder has no zarr metadata (.zarray, .zgroup or zarr.json)")
    if node.is_array:
        return Located(node, ZarrHeader(node.zarr_format, ""))
    ome = node.attributes.get("ome", node.attributes)
    if ome.get("multiscales"):
        return _finest_level(node, ome)
    members = [member for child in sorted(path.iterdir()) if child.is_dir() and (member := load_node(child))]
    images = [m for m in members if m.is_array or m.attributes.get("ome", m.attributes).get("multiscales")]
    if len(images) != 1:
        names = ", ".join(child.path.name for child in members[:10]) or "none"
        msg = f"{path} is a zarr group that does not say which array is the image. Give one of its members: {names}."
        raise FileFormatError(msg)
    return locate_array(images[0].path)


def coarser_levels(found: Located) -> list[Node]:
    """The other resolution levels of an OME-Zarr image, as far as their arrays are there.

    Raises
    ------
    FileFormatError
        A level lies outside the folder.
    """
    datasets = found.multiscale.get("datasets") or []
    if not datasets:
        return []
    group = found.array.path
    for _ in Path(str(datasets[0]["path"])).parts:
        group = group.parent
    nodes = [load_node(_inside(group, entry)) for entry in datasets[1:]]
    return [node for node in nodes if node is not None and node.is_array]


def load_node(path: Path) -> Node | None:
    """The array or group at `path`, None where there is none.

    Raises
    ------
    FileFormatError
        Its metadata is not JSON, or not an object.
    """
    both = _load(path / "zarr.json")
    if both is not None:
        attributes = both.get("attributes", {})
        return Node(path, 3, both.get("node_type") == "array", both, attributes if isinstance(attributes, dict) else {})
    array, group = _load(path / ".zarray"), _load(path / ".zgroup")
    if array is None and group is None:
        return None
    return Node(path, 2, array is not None, array or {}, _load(path / ".zattrs") or {})


def _load(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    if file.stat().st_size > _MOST_BYTES:
        raise damaged(file, "its metadata is larger than 64 MB")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise damaged(file, f"its metadata is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise damaged(file, "its metadata is not a JSON object")
    return content


def _finest_level(group: Node, ome: dict[str, Any]) -> Located:
    multiscale = ome["multiscales"][0]
    place = _inside(group.path, multiscale["datasets"][0])
    array = load_node(place)
    if array is None or not array.is_array:
        raise damaged(group.path, f"the array of its first level, {place.name}, is missing")
    version = str(ome.get("version") or multiscale.get("version") or "0.4")
    labels = [str(channel.get("label", "")) for channel in (ome.get("omero") or {}).get("channels", [])]
    names = tuple(labels) if all(labels) else ()
    return Located(array, ZarrHeader(group.zarr_format, version), multiscale, names)


def _inside(group: Path, dataset: dict[str, Any]) -> Path:
    place = (group / str(dataset["path"])).resolve()
    if not place.is_relative_to(group.resolve()):
        raise damaged(group, "one of its levels lies outside the folder")
    return place
