"""Class names, colors and provenance of a label map, in the notes of its file: written along, found again."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

import prosma_core
from prosma_core.config.documents import load_json
from prosma_core.config.model import ClassInfo

_LOG = logging.getLogger(__name__)
_CLASSES = "classes"


def file_notes(provenance: Mapping[str, str], classes: Sequence[ClassInfo], kind: str) -> dict[str, str]:
    """Notes for a file.

    Parameters
    ----------
    provenance : mapping of str to str
        How a result was made; empty for a layer drawn by hand.
    classes : sequence of ClassInfo
        Empty where they are not known.
    kind : {"labels", "image"}
    """
    notes = dict(provenance) or {"program": f"napari-prosma {prosma_core.__version__}"}
    notes["kind"] = kind
    if classes:
        notes[_CLASSES] = json.dumps([c.model_dump() for c in classes])
    return notes


def says_labels(notes: Mapping[str, Any], dtype: Any, axes: str) -> bool:
    """Whether a file with these notes holds class numbers: it says so, or is a result of whole numbers."""
    if "c" in axes or dtype.kind != "u" or not notes:
        return False
    return bool(notes.get("kind", "labels") == "labels")


def noted_classes(notes: Mapping[str, Any]) -> tuple[ClassInfo, ...]:
    """Classes in the notes of a file, empty where there are none or they are damaged."""
    try:
        return tuple(ClassInfo.model_validate(entry) for entry in load_json(notes.get(_CLASSES, "[]")))
    except (TypeError, ValueError, ValidationError) as error:
        _LOG.warning("The class names in a file's notes cannot be read (%s)", error)
        return ()


def noted_provenance(notes: Mapping[str, Any]) -> dict[str, str]:
    """How a result was made, without what describes the file itself."""
    return {str(key): str(value) for key, value in notes.items() if key not in {"kind", _CLASSES}}
