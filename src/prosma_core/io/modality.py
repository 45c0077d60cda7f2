"""What kind of device a scan comes from, as its file or its values say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prosma_core.io.names import is_dicom_file

AIR_HU = -500.0
"""CT is recognised by whole numbers that reach below this."""
_TAGS: tuple[tuple[bytes, Literal["little", "big"]], ...] = (
    (b"\x08\x00\x60\x00", "little"),
    (b"\x00\x08\x00\x60", "big"),
)
_PREAMBLE = 128
_LONGEST = 16
_START = 1 << 16
"""Bytes of a DICOM file in which its modality stands: the tag is among the first."""
_SAMPLE = 1 << 18
"""Voxels that are looked at, at most."""


def dicom_modality(path: Path) -> str:
    """Modality of a DICOM file, or of the first file of a folder, such as ``"MR"``; empty where it says none."""
    try:
        file = next((each for each in sorted(path.iterdir()) if is_dicom_file(each)), None) if path.is_dir() else path
        if file is None or not is_dicom_file(file):
            return ""
        with file.open("rb") as opened:
            start = opened.read(_START)
    except OSError:
        return ""
    found = next(((tag, order) for tag, order in _TAGS if tag in start[_PREAMBLE:]), None)
    if found is None:
        return ""
    tag, order = found
    rest = start[_PREAMBLE:].partition(tag)[2]
    # With an explicit value representation two bytes of length follow it, else four in its place.
    at, size = (2, 2) if rest[:2] == b"CS" else (0, 4)
    value = rest[4 : 4 + min(int.from_bytes(rest[at : at + size], order), _LONGEST)]
    text = value.decode("ascii", "replace").strip(" \0")
    return text if text.isalnum() and text.isupper() and text.isascii() else ""


def looks_ct(data: Any) -> bool:
    """Whether voxels are Hounsfield units: whole numbers with air among them.

    Parameters
    ----------
    data : array-like
        Only a numpy array is looked at, and of a large one some voxels on a grid.
    """
    if not isinstance(data, np.ndarray) or data.dtype.kind not in "if" or data.ndim < 2:
        return False
    step = max(1, math.ceil((data.size / _SAMPLE) ** (1 / data.ndim)))
    voxels = np.asarray(data[(slice(None, None, step),) * data.ndim], np.float64)
    low = voxels.min()
    return bool(np.isfinite(voxels).all() and -5000 < low <= AIR_HU and (voxels == np.rint(voxels)).all())
