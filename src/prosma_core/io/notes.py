"""Provenance notes in files that this program wrote: which model made a label map, and how."""

from __future__ import annotations

import gzip
import json
import logging
import re
import struct
from html import unescape
from pathlib import Path
from typing import Any

from prosma_core.config.documents import load_json
from prosma_core.data.slices import SliceStates
from prosma_core.errors import ProsmaError
from prosma_core.io.dicom import dicom_modality
from prosma_core.io.names import FORMATS, image_suffix, is_zarr_node
from prosma_core.io.raster import open_picture
from prosma_core.io.read_errors import reading
from prosma_core.io.tiff import AXES_NOTE

NO_INDEPENDENT_LABELS = "No independent labels"
"""How a text begins that says why a model is not judged by labels that a model made."""
SLICES = "slices"
"""Note on the slices that a person checked or edited: `SliceStates` as JSON."""
_LOG = logging.getLogger(__name__)
_COMMENT = 6
"""Code of a comment among the extensions of a NIfTI file."""
_MOST_BYTES = 1 << 20
"""Of a text header that is searched for notes."""
_OME_NOTE = re.compile(r'<M K="([^"]{1,200})">([^<]{0,100000})</M>')
_TEXT_NOTE = re.compile(r"^([A-Za-z_][A-Za-z0-9_]*)(?::=| = )(.*)$", re.MULTILINE)


def made_by_model(notes: dict[str, Any]) -> str:
    """Name of the model whose result a file or layer with these notes is, corrected or not; empty for others."""
    return str(notes.get("model", ""))


def slices_note(states: SliceStates | None) -> dict[str, str]:
    """Note on checked and edited slices, for a file of the label map; none where there is nothing to say."""
    if states is None or not (states.only or states.checked):
        return {}
    return {SLICES: json.dumps(states.as_json())}


def noted_slices(notes: dict[str, Any]) -> SliceStates | None:
    """Checked and edited slices in the notes of a file; None where they say nothing of it, or are damaged."""
    if SLICES not in notes:
        return None
    try:
        return SliceStates.from_json(load_json(str(notes[SLICES])))
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        _LOG.warning("What a label file notes on checked slices cannot be read (%r)", error)
        return None


def known_of(path: Path) -> dict[str, Any]:
    """What a file says of its scan beside geometry and values: its modality, and whether it is a phantom.

    Parameters
    ----------
    path : Path
        An image that was read without an error.

    Returns
    -------
    dict
        Arguments of `prosma_core.data.fit.warn_unfit`.
    """
    return {"modality": dicom_modality(path), "synthetic": bool(read_notes(path).get("synthetic"))}


def read_notes(path: Path) -> dict[str, Any]:
    """Notes of this program in an image file; empty where there are none, and where they cannot be read.

    Parameters
    ----------
    path : Path
        An image that was read without an error.

    Returns
    -------
    dict
        As they were given to `write_labels` or `write_image` as provenance; ``program`` is always among them.
    """
    kind = FORMATS.get(image_suffix(path).lower(), "zarr" if is_zarr_node(path) else "")
    readers = {"nifti": _nifti, "zarr": _zarr, "tiff": _tiff, "raster": _raster, "nrrd": _text, "metaimage": _text}
    if kind not in readers:
        return {}
    try:
        with reading(path, "notes"):
            notes = readers[kind](path)
    except ProsmaError:
        return {}
    return notes if "program" in notes else {}


def _nifti(path: Path) -> dict[str, Any]:
    """From the extensions behind the header; much faster than nibabel, which matters where a folder is gone through."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as stream:
        head = stream.read(540)
        order = "<" if head[:4] in (b"\x5c\x01\0\0", b"\x1c\x02\0\0") else ">"
        if head[344:347] == b"n+1":
            size, offset = 348, int(struct.unpack_from(f"{order}f", head, 108)[0])
        elif head[4:7] == b"n+2":
            size, offset = 540, struct.unpack_from(f"{order}q", head, 168)[0]
        else:
            return {}
        content = (head + stream.read(max(0, min(offset, _MOST_BYTES) - len(head))))[size:offset]
    at = 4
    while content[:1] not in (b"", b"\0") and at + 8 <= len(content):
        length, code = struct.unpack_from(f"{order}2i", content, at)
        if code == _COMMENT:
            try:
                notes = load_json(content[at + 8 : at + length].rstrip(b"\0"))
            except ValueError:
                notes = None
            if isinstance(notes, dict) and "program" in notes:
                return notes
        at += max(length, 8)
    return {}


def _zarr(path: Path) -> dict[str, Any]:
    from prosma_core.io.zarr_images import open_zarr

    return dict(open_zarr(path).notes)


def _tiff(path: Path) -> dict[str, Any]:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        description = tiff.pages.first.description
    notes = {unescape(key): unescape(value) for key, value in _OME_NOTE.findall(description)}
    return {key: value for key, value in notes.items() if key != AXES_NOTE}


def _raster(path: Path) -> dict[str, Any]:
    with open_picture(path) as picture:
        return {str(key): str(value) for key, value in getattr(picture, "text", {}).items()}


def _text(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        start = file.read(_MOST_BYTES)
    text, _, _ = start.partition(b"ElementDataFile" if path.suffix.lower() == ".mha" else b"\n\n")
    found = _TEXT_NOTE.findall(text.decode("utf-8", "replace").replace("\r\n", "\n"))
    return {key: value for key, value in found if key[0].islower()}  # MetaImage's own fields have capitals
