"""OME-XML, the description of an OME-TIFF, read within bounds: axes, sizes, voxel size, and where its planes are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from prosma_core.errors import FileFormatError
from prosma_core.io.read_errors import damaged

if TYPE_CHECKING:
    from collections.abc import Iterator
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
