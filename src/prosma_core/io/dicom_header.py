"""DICOM files walked tag by tag: what is needed to place and decode an image, with every size and depth bounded."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prosma_core.errors import FileFormatError
from prosma_core.io.read_errors import damaged

if TYPE_CHECKING:
    from pathlib import Path

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
PIXELS, FLOAT_PIXELS, DOUBLE_PIXELS = 0x7FE00010, 0x7FE00008, 0x7FE00009
_SYNTAX, _CLASS_OF_FILE = 0x00020010, 0x00020002
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_DEEPEST = 64
"""Levels of sequences in sequences; images have about six. Real files with more are not known."""
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_VRS = _LONG | {
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
    b"ST", b"TM", b"UI", b"UL", b"US",
}  # fmt: skip
_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "AT": "HH", "UV": "Q", "SV": "q"}
_IMPLICIT_VRS = {  # of the binary values that are used
    0x00189087: "FD", 0x00189089: "FD", 0x00189082: "FD", 0x00189153: "FD", 0x00209153: "FD", 0x00209128: "UL",
    0x00280002: "US", 0x00280006: "US", 0x00280010: "US", 0x00280011: "US", 0x00280100: "US", 0x00280101: "US",
    0x00280102: "US", 0x00280103: "US", 0x00281101: "US", 0x00281102: "US", 0x00281103: "US", 0x00283002: "US",
    0x00620004: "US", 0x0062000B: "US", 0x0018602C: "FD", 0x0018602E: "FD", 0x00186024: "US", 0x00186026: "US",
    0x00280009: "AT",
}  # fmt: skip
_SEQUENCES = {
    0x00081140, 0x00186011, 0x00189114, 0x00189117, 0x00189118, 0x00189301, 0x00189304, 0x00189715, 0x00189718,
    0x00209071, 0x00209111, 0x00209113, 0x00209116, 0x00209170, 0x00209221, 0x00209222, 0x00209253,
    0x00209254, 0x00209310, 0x00189226, 0x00283000, 0x00289110, 0x00289132, 0x00289145, 0x00540022, 0x00620002,
    0x0062000A, 0x52009229, 0x52009230,
}  # fmt: skip
"""Sequences that are used; the others are stepped over where their length is given."""
_MOST_INFLATED = 200  # times the file's size, or 64 MiB if that is more
_LEAST_BOUND = 64 << 20


@dataclass
class Element:
    """One attribute: its bytes, the items of a sequence, or the fragments of packed pixels."""

    vr: str
    value: memoryview
    items: list[DicomObject] = field(default_factory=list)
    fragments: list[memoryview] | None = None


class DicomObject:
    """Attributes by tag number.

    Attributes
    ----------
    elements : dict of int to Element
    big : bool
        Whether binary values are big-endian.
    cut : int
        Tag in which the file ends too early, 0 where it is whole.
    """

    def __init__(self, *, big: bool) -> None:
        self.elements: dict[int, Element] = {}
        self.big = big
        self.cut = 0

    def __contains__(self, tag: int) -> bool:
        return tag in self.elements

    def texts(self, tag: int) -> list[str]:
        """The values of a text attribute; empty where it is absent or has none."""
        element = self.elements.get(tag)
        if element is None:
            return []
        text = bytes(element.value[: 1 << 20]).decode("latin-1").strip("\0 ")
        return [part.strip("\0 ") for part in text.split("\\")] if text else []

    def text(self, tag: int) -> str:
        """The first value of a text attribute, empty where there is none."""
        return next(iter(self.texts(tag)), "")

    def numbers(self, tag: int) -> list[float]:
        """The values of a numeric attribute (text or binary); empty where it is absent or no number."""
        element = self.elements.get(tag)
        if element is None:
            return []
        code = _BINARY.get(element.vr if element.vr in _BINARY else _IMPLICIT_VRS.get(tag, ""))
        if code is None:
            try:
                return [float(text) for text in self.texts(tag) if text]
            except ValueError:
                return []
        size = struct.calcsize("<" + code)
        count = len(element.value) // size
        return [
            float(value)
            for value in struct.unpack((">" if self.big else "<") + code * count, element.value[: count * size])
        ]

    def number(self, tag: int, default: float | None = None) -> float | None:
        """The first value of a numeric attribute."""
        return next(iter(self.numbers(tag)), default)

    def items(self, tag: int) -> list[DicomObject]:
        """Items of a sequence, empty where it is absent."""
        element = self.elements.get(tag)
        return element.items if element is not None else []


@dataclass(frozen=True)
class DicomFile:
    """A walked file.

    Attributes
    ----------
    path : Path
    syntax : str
        UID of the transfer syntax.
    file_class : str
        SOP class from the file's meta information.
    data : DicomObject
    """

    path: Path
    syntax: str
    file_class: str
    data: DicomObject


def read_dicom_file(path: Path) -> DicomFile:
    """Walk a file.

    Raises
    ------
    FileFormatError
        It is no DICOM file, its sequences are nested more than 64 deep, or it inflates beyond all measure.
    """
    content = path.read_bytes()
    view = memoryview(content)
    start = 132 if content[128:132] == b"DICM" else 0
    if not start and not _looks_like_dicom(content):
        raise damaged(path, "it does not start as a DICOM file")
    walker = _Walker(path, view, explicit=True, big=False)
    meta, start = walker.meta(start)
    syntax = meta.text(_SYNTAX)
    if syntax == DEFLATED:
        view = _inflated(path, view[start:])
        start = 0
    explicit = syntax != IMPLICIT
    if syntax != BIG_ENDIAN:  # what the bytes are is believed, not what the file says of them
        explicit = bytes(view[start + 4 : start + 6]) in _VRS
    walker = _Walker(path, view, explicit=explicit, big=syntax == BIG_ENDIAN)
    data, _ = walker.walk(start, len(view), depth=0)
    data.cut = data.cut or meta.cut
    return DicomFile(path, syntax or (EXPLICIT if explicit else IMPLICIT), meta.text(_CLASS_OF_FILE), data)


def _looks_like_dicom(content: bytes) -> bool:
    """Whether a file without the preamble starts with an attribute of the lowest groups."""
    if len(content) < 8:
        return False
    group, _ = struct.unpack_from("<HH", content)
    big_group, _ = struct.unpack_from(">HH", content)
    return group in {2, 8} or (big_group == 8 and content[4:6] in _VRS)


def _inflated(path: Path, packed: memoryview) -> memoryview:
    most = max(_LEAST_BOUND, _MOST_INFLATED * len(packed))
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = unpacker.decompress(packed, most)
    if unpacker.unconsumed_tail:
        raise damaged(path, f"its {len(packed)} deflated bytes inflate to more than {most >> 20} MiB")
    return memoryview(plain)


class _Walker:
    """Steps through the bytes of one data set."""

    def __init__(self, path: Path, view: memoryview, *, explicit: bool, big: bool) -> None:
        self.path, self.view, self.explicit, self.big = path, view, explicit, big
        order = ">" if big else "<"
        self._tag, self._short, self._word = (struct.Struct(order + code) for code in ("HH", "H", "I"))

    def meta(self, start: int) -> tuple[DicomObject, int]:
        """The file's meta information (group 2), and where the data set begins."""
        meta = DicomObject(big=False)
        while start + 8 <= len(self.view) and self._tag.unpack_from(self.view, start)[0] == 2:
            tag, element, start = self._element(start, len(self.view), 0, meta)
            if element is None:
                return meta, len(self.view)
            meta.elements[tag] = element
        return meta, start

    def walk(self, start: int, end: int, depth: int, *, delimited: bool = False) -> tuple[DicomObject, int]:
        """The attributes from `start` to `end`, or to the delimiter of an item."""
        if depth > _DEEPEST:
            msg = f"{self.path} has sequences nested more than {_DEEPEST} deep, as no image has. Export it again."
            raise FileFormatError(msg)
        found = DicomObject(big=self.big)
        while start + 8 <= end:
            if delimited and self._number(start) == _ITEM_END:
                return found, start + 8
            tag, element, start = self._element(start, end, depth, found)
            if element is None:
                break
            found.elements[tag] = element
        if delimited and not found.cut:
            found.cut = _ITEM
        return found, start

    def _number(self, at: int) -> int:
        group, element = self._tag.unpack_from(self.view, at)
        return int(group) << 16 | int(element)

    def _element(self, at: int, end: int, depth: int, into: DicomObject) -> tuple[int, Element | None, int]:
        """One attribute and where the next one begins; None where the bytes end inside it (`into.cut` is set)."""
        tag = self._number(at)
        vr, length, at = self._head(at, end)
        if vr == "" or (length != _UNDEFINED and at + length > end and tag != PIXELS):
            into.cut = tag
            return tag, None, end
        if tag == PIXELS and length == _UNDEFINED:
            fragments, at, whole = self._fragments(at, end)
            into.cut = 0 if whole else tag
            return tag, Element(vr, self.view[:0], fragments=fragments), at
        if length == _UNDEFINED or vr == "SQ" or tag in _SEQUENCES:
            implicit = vr == "UN" and self.explicit
            items, at, cut = self._items(at, end if length == _UNDEFINED else at + length, length, depth, implicit)
            into.cut = into.cut or cut
            return tag, None if cut else Element("SQ", self.view[:0], items), at
        if at + length > end:
            into.cut = tag
        return tag, Element(vr, self.view[at : min(at + length, end)]), at + length

    def _head(self, at: int, end: int) -> tuple[str, int, int]:
        """Type, length and first byte of a value; an empty type where the bytes end."""
        if not self.explicit or self._number(at) >> 16 == 0xFFFE:
            return "??", self._word.unpack_from(self.view, at + 4)[0], at + 8
        vr = bytes(self.view[at + 4 : at + 6])
        if vr in _LONG:
            if at + 12 > end:
                return "", 0, end
            return vr.decode("latin-1"), self._word.unpack_from(self.view, at + 8)[0], at + 12
        return vr.decode("latin-1"), self._short.unpack_from(self.view, at + 6)[0], at + 8

    def _items(self, at: int, end: int, length: int, depth: int, implicit: bool) -> tuple[list[DicomObject], int, int]:
        """Items of a sequence, where the next attribute begins, and the tag in which the bytes end (0: they do not)."""
        walker = _Walker(self.path, self.view, explicit=False, big=self.big) if implicit else self
        items: list[DicomObject] = []
        while at + 8 <= end:
            tag, size = walker._number(at), self._word.unpack_from(self.view, at + 4)[0]
            at += 8
            if tag == _SEQUENCE_END:
                return items, at, 0
            if tag != _ITEM:
                return items, at, tag or _ITEM
            if size == _UNDEFINED:
                item, at = walker.walk(at, end, depth + 1, delimited=True)
            else:
                if at + size > end:
                    return items, end, _ITEM
                item, _ = walker.walk(at, at + size, depth + 1)
                at += size
            items.append(item)
            if item.cut:
                return items, end, item.cut
        return items, at, 0 if length != _UNDEFINED else _ITEM

    def _fragments(self, at: int, end: int) -> tuple[list[memoryview], int, bool]:
        """Fragments of packed pixels, the table of offsets first; where they end, and whether all are there."""
        found: list[memoryview] = []
        while at + 8 <= end:
            tag, size = self._number(at), self._word.unpack_from(self.view, at + 4)[0]
            at += 8
            if tag == _SEQUENCE_END:
                return found, at, True
            if tag != _ITEM or at + size > end:
                return found, end, False
            found.append(self.view[at : at + size])
            at += size
        return found, at, False
