"""The JSON of zarr v2 and v3 nodes and of OME-Zarr, read without the zarr library."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prosma_core.config.documents import load_json
from prosma_core.errors import FileFormatError
from prosma_core.io.read_errors import damaged

_MOST_BYTES = 16 << 20  # of one metadata file
_MOST_LEVELS = 3  # of groups: row, column and field of a plate
_MOST_MEMBERS = 2000
_NO_IMAGES = {"labels", "OME"}  # groups beside the image


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
    """The array to read in a zarr folder, and the OME-Zarr image that names it (empty if none does).

    `labels` is true where the folder says that it holds labels of an image.
    """

    array: Node
    header: ZarrHeader
    multiscale: dict[str, Any] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    labels: bool = False


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
        return _level(node) or Located(node, ZarrHeader(node.zarr_format, ""), labels=path.parent.name == "labels")
    ome = _ome(node)
    if ome.get("multiscales"):
        return _finest_level(node, ome)
    images = _images(path, path.resolve(), _MOST_LEVELS)
    if len(images) != 1:
        some = ", ".join(f"{path.name}/{image.relative_to(path).as_posix()}" for image in images[:3]) or "none"
        msg = f"{path} is a zarr group of {len(images)} images. Give the path of one of them: {some}."
        raise FileFormatError(msg)
    return locate_array(images[0])


def _level(array: Node) -> Located | None:
    """An array that is a level of the OME-Zarr image around it, with its own voxel size."""
    group = load_node(array.path.parent)
    if group is None or group.is_array or not _ome(group).get("multiscales"):
        return None
    found = _finest_level(group, _ome(group))
    own = [entry for entry in found.multiscale["datasets"] if str(entry.get("path")) == array.path.name]
    return replace(found, array=array, multiscale={**found.multiscale, "datasets": own}) if own else None


def _images(group: Path, root: Path, levels: int) -> list[Path]:
    """Arrays and OME-Zarr images in a group and its groups, without labels and what links out of the folder lead to."""
    found: list[Path] = []
    for child in sorted(group.iterdir()):
        if not child.is_dir() or child.name in _NO_IMAGES or not child.resolve().is_relative_to(root):
            continue
        node = load_node(child)
        if node is None or len(found) >= _MOST_MEMBERS:
            continue
        if node.is_array or _ome(node).get("multiscales"):
            found.append(child)
        elif levels > 1:
            found += _images(child, root, levels - 1)
    return found


def _ome(node: Node) -> dict[str, Any]:
    """What OME-Zarr says in the attributes of a group: from version 0.5 on under a name of its own."""
    ome = node.attributes.get("ome", node.attributes)
    return ome if isinstance(ome, dict) else {}


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
        raise damaged(file, "its metadata is larger than 16 MB")
    try:
        content = load_json(file.read_bytes(), finite=False)
    except ValueError as error:
        raise damaged(file, f"its metadata is not JSON ({str(error)[:100]})") from error
    if not isinstance(content, dict):
        raise damaged(file, "its metadata is not a JSON object")
    return content


def _finest_level(group: Node, ome: dict[str, Any]) -> Located:
    try:
        multiscale = ome["multiscales"][0]
        datasets = multiscale["datasets"]
        datasets[0]["path"].strip()
    except (LookupError, TypeError, AttributeError) as error:
        raise damaged(group.path, "its OME-Zarr metadata names no level with a path") from error
    place = _inside(group.path, datasets[0])
    array = load_node(place)
    if array is None or not array.is_array:
        raise damaged(group.path, f"the array of its first level, {place.name}, is missing")
    version = str(ome.get("version") or multiscale.get("version") or "0.4")
    labels = [str(channel.get("label", "")) for channel in (ome.get("omero") or {}).get("channels", [])]
    names = tuple(labels) if all(labels) else ()
    is_labels = "image-label" in ome or group.path.parent.name == "labels"
    return Located(array, ZarrHeader(group.zarr_format, version), multiscale, names, is_labels)


def _inside(group: Path, dataset: dict[str, Any]) -> Path:
    place = (group / str(dataset["path"])).resolve()
    if not place.is_relative_to(group.resolve()):
        raise damaged(group, "one of its levels lies outside the folder")
    return place
