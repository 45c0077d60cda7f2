"""What DICOM files without an image are, and the error that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prosma_core.errors import FileFormatError
from prosma_core.io.failures import damaged, shown

if TYPE_CHECKING:
    from prosma_core.io.dicom_header import DicomFile

_CLASSES = {
    "1.2.840.10008.1.3.10": "an index of files (DICOMDIR)",
    "1.2.840.10008.5.1.4.1.1.481.3": "an RT structure set (contours)",
    "1.2.840.10008.5.1.4.1.1.481.5": "an RT plan",
    "1.2.840.10008.5.1.4.1.1.481.8": "an RT ion plan",
    "1.2.840.10008.5.1.4.1.1.481.": "a record of radiotherapy",
    "1.2.840.10008.5.1.4.1.1.88.": "a structured report",
    "1.2.840.10008.5.1.4.1.1.9.": "a waveform",
    "1.2.840.10008.5.1.4.1.1.11.": "a presentation state",
    "1.2.840.10008.5.1.4.1.1.104.": "an encapsulated document",
    "1.2.840.10008.5.1.4.1.1.66.5": "a surface segmentation",
    "1.2.840.10008.5.1.4.1.1.66.6": "a tractography result",
    "1.2.840.10008.5.1.4.1.1.66.": "a registration or raw data",
    "1.2.840.10008.5.1.4.1.1.66": "raw data",
    "1.2.840.10008.5.1.4.1.1.67": "a real-world value mapping",
}


def what_it_is(file: DicomFile) -> str:
    """What kind of object a file without pixels is, with its article; empty where that is not known."""
    uid = file.data.text(0x00080016) or file.file_class
    name = _CLASSES.get(uid) or next((text for start, text in _CLASSES.items() if uid.startswith(start)), "")
    modality = shown(file.data.text(0x00080060), 16)
    return name or (f"an object of the modality {modality} without pixel data" if modality else "")


def no_image(file: DicomFile) -> FileFormatError:
    """The error for a file without pixels."""
    kind = what_it_is(file)
    if not kind and file.data.cut:
        return damaged(file.path, f"it ends inside the attribute {tag_name(file.data.cut)}, before any pixels")
    reason = f": it is {kind}" if kind else " (no pixel data)"
    return FileFormatError(f"{file.path} holds no image{reason}. Give the folder or the files of the image series.")


def tag_name(tag: int) -> str:
    """A tag as DICOM writes it: ``(7FE0,0010)``."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
