"""OME-TIFF: the OME-XML, read within bounds, and which page of which file holds each plane."""

from __future__ import annotations

import itertools
import logging
import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from prosma_core.errors import FileFormatError
from prosma_core.io.read_errors import damaged
from prosma_core.io.tiff_pages import Pages, check_pages, covers, first_description, same_layout
from prosma_core.printable import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


_MARKS = (b"<OME", b"OME>", b"openmicroscopy.org/Schemas/OME")
_ORDERS = {"XYZCT", "XYZTC", "XYCTZ", "XYCZT", "XYTCZ", "XYTZC"}
_MOST_BYTES = 256 << 20
_MOST_SIZE = 1 << 31


@dataclass(frozen=True)
class Block:
    """A TiffData element: planes of an image that follow each other in a file.

    Attributes
    ----------
    first : dict of str to int
        Index of the first plane along ``T``, ``C`` and ``Z``.
    page : int
        Its page in the file.
    count : int or None
        Number of planes; None for all pages of the file.
    file, uuid : str
        Name and UUID of the file; empty for the file with this XML.
    """

    first: dict[str, int]
    page: int
    count: int | None
    file: str = ""
    uuid: str = ""


@dataclass(frozen=True)
class OmeImage:
    """A Pixels element.

    Attributes
    ----------
    order : str
        Axes of its planes, slowest first: ``T``, ``C``, ``Z`` in some order.
    sizes : dict of str to int
        Of ``T``, ``C``, ``Z``, ``Y`` and ``X``; the samples of a page are not counted in C.
    samples : int
        Samples of each page that are channels, 1 where each channel has its own page.
    attributes : dict of str
        All attributes of the element, among them the voxel size.
    channels : tuple of str
        Names of the channels, empty where one has none.
    blocks : tuple of Block
    modulo : bool
        Whether one of its axes holds a further one (lifetimes, angles).
    """

    order: str
    sizes: dict[str, int]
    samples: int
    attributes: dict[str, str]
    channels: tuple[str, ...]
    blocks: tuple[Block, ...]
    modulo: bool = False

    @property
    def planes(self) -> tuple[int, ...]:
        """Sizes along `order`."""
        return tuple(self.sizes[letter] for letter in self.order)


@dataclass(frozen=True)
class Ome:
    """What an OME-XML says.

    Attributes
    ----------
    uuid : str
        Of the file with this XML.
    companion : str
        Name of the file that holds the description instead of this one; empty where this is it.
    images : tuple of OmeImage
    notes : dict of str
        Entries of its map annotations.
    """

    uuid: str = ""
    companion: str = ""
    images: tuple[OmeImage, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)


def claims_ome(path: Path, description: bytes) -> bool:
    """Whether the name or the text of the first page says OME-TIFF."""
    named = path.name.lower().endswith((".ome.tif", ".ome.tiff"))
    return named or any(mark in description for mark in _MARKS)


def parse_ome(path: Path, text: bytes) -> Ome:
    """Read an OME-XML.

    Parameters
    ----------
    path : Path
        The file with it; named in errors.
    text : bytes

    Raises
    ------
    FileFormatError
        It is no XML, no OME-XML, declares entities, or lacks the sizes of an image.
    """
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text or b"\0" in text:
        msg = f"The OME-XML of {path} declares entities or holds zero bytes, which is not read. Export it without them."
        raise FileFormatError(msg)
    if len(text) > _MOST_BYTES:
        raise damaged(path, "its OME-XML is larger than 256 MB")
    root = _root(path, text)
    if _name(root) != "OME":
        raise damaged(path, f"its description is XML but no OME-XML: it starts with {_name(root)[:40]}")
    binary = next(_children(root, "BinaryOnly"), None)
    if binary is not None:
        return Ome(root.get("UUID", ""), companion=binary.get("MetadataFile", ""))
    moduli = {
        str(annotation.get("ID"))
        for group in _children(root, "StructuredAnnotations")
        for annotation in group
        if str(annotation.get("Namespace", "")).lower().endswith("modulo")
    }
    try:
        images = tuple(
            _image(image, pixels, moduli) for image in _children(root, "Image") for pixels in _children(image, "Pixels")
        )
    except (KeyError, ValueError, OverflowError) as error:
        raise damaged(path, f"its OME-XML has no usable {str(error)[:120]}") from error
    if not images:
        raise damaged(path, "its OME-XML describes no image")
    return Ome(root.get("UUID", ""), images=images, notes=_notes(root))


def _root(path: Path, text: bytes) -> ElementTree.Element:
    try:
        try:
            return ElementTree.fromstring(text)
        except ElementTree.ParseError:
            text.decode()
            raise
    except (UnicodeDecodeError, LookupError):  # a micro sign in the encoding of Windows, or an encoding there is not
        try:
            return ElementTree.fromstring(text.decode("latin-1"))
        except ElementTree.ParseError as error:
            raise _no_xml(path, error) from error
    except (ElementTree.ParseError, ValueError) as error:
        raise _no_xml(path, error) from error


def _no_xml(path: Path, error: Exception) -> FileFormatError:
    return FileFormatError(
        f"The OME-XML of {path}, which holds its axes and voxel size, is damaged ({str(error)[:80]}). Copy or export "
        "it again; with --axes given, its pages are read as those of a plain TIFF without a voxel size."
    )


def _image(image: ElementTree.Element, pixels: ElementTree.Element, moduli: set[str]) -> OmeImage:
    order = pixels.get("DimensionOrder", "")
    if order not in _ORDERS:
        msg = f"DimensionOrder ({order!r})"
        raise ValueError(msg)
    sizes = {letter: _whole(pixels, f"Size{letter}", 1, None) for letter in "XYZCT"}
    channels = list(_children(pixels, "Channel"))
    samples = {_whole(channel, "SamplesPerPixel", 1, 1) for channel in channels} or {1}
    each = samples.pop()
    if samples or sizes["C"] % each:
        msg = "SamplesPerPixel: they differ between channels, or do not fit SizeC"
        raise ValueError(msg)
    names = tuple(str(channel.get("Name") or "") for channel in channels)
    blocks = tuple(_block(data) for data in _children(pixels, "TiffData"))
    refs = {str(ref.get("ID")) for ref in _children(image, "AnnotationRef")}
    return OmeImage(
        order[:1:-1],
        {**sizes, "C": sizes["C"] // each},
        each,
        dict(pixels.attrib),
        names if all(names) else (),
        blocks or (Block({}, 0, None),),
        bool(refs & moduli),
    )


def _block(data: ElementTree.Element) -> Block:
    first = {letter: _whole(data, f"First{letter}", 0, 0) for letter in "TCZ"}
    planes = data.get("PlaneCount") or data.get("NumPlanes")
    given = _whole(data, "PlaneCount" if data.get("PlaneCount") else "NumPlanes", 0, 0) if planes else 0
    count = given or (1 if data.get("IFD") is not None else None)
    uuid = next(_children(data, "UUID"), None)
    file, name = (uuid.get("FileName", ""), (uuid.text or "").strip()) if uuid is not None else ("", "")
    return Block(first, _whole(data, "IFD", 0, 0), count, file, name)


def _whole(element: ElementTree.Element, name: str, least: int, default: int | None) -> int:
    text = element.get(name)
    if text is None and default is not None:
        return default
    value = int(text) if text is not None and text.isdecimal() and len(text) < 20 else -1
    if not least <= value < _MOST_SIZE:
        msg = f"{name} ({text!r:.40})"
        raise ValueError(msg)
    return value


def _notes(root: ElementTree.Element) -> dict[str, str]:
    return {
        str(entry.get("K")): entry.text or ""
        for annotations in _children(root, "StructuredAnnotations")
        for annotation in _children(annotations, "MapAnnotation")
        for value in _children(annotation, "Value")
        for entry in _children(value, "M")
    }


def _children(element: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    return (child for child in element if _name(child) == name)


def _name(element: ElementTree.Element) -> str:
    return str(element.tag).rsplit("}", 1)[-1]


_LOG = logging.getLogger(__name__)

_UUID = re.compile(rb"""<(?:\w+:)?OME\b[^>]*?\bUUID\s*=\s*["']([^"']+)["']""")
_IN_SET = re.compile(rb"<(?:\w+:)?(BinaryOnly|UUID)\b[^>]*\b(MetadataFile|FileName)\b")
_MOST_COMPANION = 256 << 20
_ADVICE = "with --axes given, its pages are read as those of a plain TIFF without a voxel size."


@dataclass(frozen=True)
class Planes:
    """The planes of one image.

    Attributes
    ----------
    image : OmeImage
    sizes : dict of str to int
        Number of planes along each letter of ``image.order``: those of the image, or of the part that is here.
    files : dict of Path to list of (int, int)
        For each file, the position of a plane in row-major order over `sizes`, and the page that holds it.
    pages : dict of Path to Pages
        Of the same files.
    """

    image: OmeImage
    sizes: dict[str, int]
    files: dict[Path, list[tuple[int, int]]]
    pages: dict[Path, Pages]


def read_ome(path: Path, description: bytes) -> tuple[Ome, str]:
    """The OME-XML of a file, from its companion where it is there, and the UUID of the file itself.

    Raises
    ------
    FileFormatError
        The XML is damaged, or the companion is missing.
    """
    own = parse_ome(path, description)
    if not own.companion:
        return own, own.uuid
    companion = _neighbor(path, own.companion)
    if not companion.is_file():
        msg = (
            f"{path.name} is one file of an OME-TIFF set whose description, {companion.name}, is not in its folder. "
            f"Copy {companion.name} to {path.parent}; {_ADVICE}"
        )
        raise FileFormatError(msg)
    if companion.suffix.lower() in {".tif", ".tiff"}:
        text = first_description(companion)
    else:
        if companion.stat().st_size > _MOST_COMPANION:
            raise damaged(companion, "it is larger than 256 MB")
        text = companion.read_bytes()
    whole = parse_ome(companion, text)
    if whole.companion:
        raise damaged(companion, "it names a further file as its description")
    return whole, own.uuid


def set_members(path: Path) -> tuple[Path, ...]:
    """The files of the OME-TIFF set that `path` belongs to and that are in its folder, sorted; itself, if of none."""
    if not path.name.lower().endswith((".tif", ".tiff")) or not path.is_file():
        return (path,)
    try:
        description = first_description(path)
        if not _IN_SET.search(description) or not claims_ome(path, description):
            return (path,)
        ome, uuid = read_ome(path, description)
        image = _image_of(path, ome, uuid)
        names = {block.file for block in image.blocks if block.file and not _is_own(path, block, ome, uuid)}
        others = {_neighbor(path, name) for name in names}
    except (FileFormatError, OSError):  # reading it says what is wrong with it
        return (path,)
    if not all(other.is_file() for other in others):
        return (path,)
    return tuple(sorted({path, *others}))


def find_planes(path: Path, pages: Pages, ome: Ome, uuid: str) -> Planes:
    """The planes of the first image that has any in `path`.

    Parameters
    ----------
    path : Path
    pages : Pages
        Of `path`.
    ome, uuid
        As `read_ome` gives them.

    Returns
    -------
    Planes
        All of the image where all of its files are in the folder, else those in `path`.

    Raises
    ------
    FileFormatError
        Planes, pages or files do not fit what the XML says.
    """
    image = _image_of(path, ome, uuid)
    if len(ome.images) > 1:
        _LOG.warning("%s describes %d images; one of them is read.", path, len(ome.images))
    here = [block for block in image.blocks if _is_own(path, block, ome, uuid)]
    others = [block for block in image.blocks if not _is_own(path, block, ome, uuid)]
    files, first_page = {path: pages}, here[0].page
    missing = sorted({block.file for block in others if not _neighbor(path, block.file).is_file()})
    if others and not missing:
        for name in sorted({block.file for block in others}):
            files[_neighbor(path, name)] = check_pages(_neighbor(path, name))
        _check_uuids(path, files, others)
        here = list(image.blocks)
    image = _with_samples(path, image, pages.layouts[min(first_page, len(pages) - 1)])
    placed = _place(path, image, here, files, ome, uuid)
    if len(placed) == math.prod(image.planes):
        return _planes(image, image.planes, placed, files)
    if not missing:
        declared = math.prod(image.planes)
        raise _misfit(path, f"{counted(declared, 'plane')} ({_words(image)}), of which it places {len(placed)}")
    box = covers(list(placed))
    names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    if box is None:
        msg = (
            f"{path.name} is one file of an OME-TIFF set and holds no whole part of it: {names} missing in its folder. "
            f"Copy the whole set to {path.parent}."
        )
        raise FileFormatError(msg)
    _LOG.warning("%s is one file of an OME-TIFF set; without %s only its own planes are read.", path, names)
    start = [first for first, _ in box]
    moved = {tuple(a - b for a, b in zip(index, start, strict=True)): place for index, place in placed.items()}
    return _planes(image, tuple(last - first + 1 for first, last in box), moved, files)


def _image_of(path: Path, ome: Ome, uuid: str) -> OmeImage:
    for image in ome.images:
        if any(_is_own(path, block, ome, uuid) for block in image.blocks):
            return image
    names = sorted({block.file for image in ome.images for block in image.blocks})
    msg = (
        f"The OME-XML of {path.name} describes {', '.join(names[:3])}, not this file: it was renamed or belongs to "
        f"another set. Give it its old name; {_ADVICE}"
    )
    raise FileFormatError(msg)


def _is_own(path: Path, block: Block, ome: Ome, uuid: str) -> bool:
    if not block.file or (block.uuid and block.uuid.lower() == uuid.lower()):
        return True
    if block.file.lower() == path.name.lower():
        return True
    if ome.uuid != uuid:  # the XML is that of a companion
        return False
    return not uuid and len({(b.file, b.uuid) for image in ome.images for b in image.blocks}) == 1


def _neighbor(path: Path, name: str) -> Path:
    if not name or name in {".", ".."} or any(letter in name for letter in "/\\:\0"):
        msg = f"The OME-XML of {path} names {name!r:.60}; only plain names of files in its own folder are read."
        raise FileFormatError(msg)
    return path.parent / name


def _check_uuids(path: Path, files: dict[Path, Pages], blocks: Iterable[Block]) -> None:
    for block in blocks:
        other = _neighbor(path, block.file)
        found = _UUID.search(files[other].description[:65536])
        if found and block.uuid and found[1].decode(errors="replace").lower() != block.uuid.lower():
            msg = f"{other.name} is not the file that the OME-TIFF set of {path.name} names: their UUIDs differ. "
            raise FileFormatError(msg + "Put the files of each set into a folder of their own.")


def _with_samples(path: Path, image: OmeImage, layout: tuple[int, ...]) -> OmeImage:
    """The image with the samples its pages have; width and height are compared with them, too."""
    width, height, samples = layout[0], layout[1], layout[5] or 1
    if (image.sizes["X"], image.sizes["Y"]) != (width, height):
        raise _misfit(path, f"planes of {image.sizes['X']} x {image.sizes['Y']} pixels, and has {width} x {height}")
    whole = image.sizes["C"] * image.samples
    if image.samples == samples:
        return image
    if whole % samples:
        raise _misfit(path, f"{counted(whole, 'channel')}, and its pages have {samples}")
    return replace(image, sizes={**image.sizes, "C": whole // samples}, samples=samples)


def _place(
    path: Path, image: OmeImage, blocks: list[Block], files: dict[Path, Pages], ome: Ome, uuid: str
) -> dict[tuple[int, ...], tuple[Path, int]]:
    """File and page of each plane by its index along ``image.order``."""
    planes, total = math.prod(image.planes), sum(map(len, files.values()))
    placed: dict[tuple[int, ...], tuple[Path, int]] = {}
    used = 0
    for block in blocks:
        file = path if _is_own(path, block, ome, uuid) else _neighbor(path, block.file)
        have = len(files[file])
        count = max(have - block.page, 0) if block.count is None else block.count
        index = [block.first.get(letter, 0) for letter in image.order]
        if any(i >= n for i, n in zip(index, image.planes, strict=True)):
            raise _misfit(path, f"a plane at {dict(zip(image.order, index, strict=True))} of {_words(image)}")
        start = _number(index, image.planes)
        used += count
        if block.page + count > have or start + count > planes or used > total:
            pages = counted(have, "page") + ("" if file == path else f" in {file.name}")
            raise _misfit(path, f"{_words(image)}: plane {start + 1} to {start + count}, and has {pages}")
        for step in range(count):
            placed[_index(start + step, image.planes)] = (file, block.page + step)
    return placed


def _planes(
    image: OmeImage,
    sizes: tuple[int, ...],
    placed: dict[tuple[int, ...], tuple[Path, int]],
    files: dict[Path, Pages],
) -> Planes:
    by_file: dict[Path, list[tuple[int, int]]] = {}
    for number, index in enumerate(itertools.product(*map(range, sizes))):
        file, page = placed[index]
        by_file.setdefault(file, []).append((number, page))
    for file, entries in by_file.items():
        same_layout(file, files[file], [page for _, page in entries])
    layouts = {files[file].layouts[entries[0][1]][:4] for file, entries in by_file.items()}
    if len(layouts) > 1:
        raise damaged(next(iter(by_file)), "the files of its set differ in size or type of pixels")
    return Planes(image, dict(zip(image.order, sizes, strict=True)), by_file, files)


def _number(index: list[int], sizes: tuple[int, ...]) -> int:
    number = 0
    for i, n in zip(index, sizes, strict=True):
        number = number * n + i
    return number


def _index(number: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    index = []
    for n in reversed(sizes):
        number, i = divmod(number, n)
        index.append(i)
    return tuple(reversed(index))


def _words(image: OmeImage) -> str:
    return ", ".join(f"{letter} {image.sizes[letter]}" for letter in image.order)


def _misfit(path: Path, what: str) -> FileFormatError:
    return FileFormatError(
        f"The OME-XML of {path} does not fit its pages: it declares {what}. Export it again; {_ADVICE}"
    )
