"""Names and colors of classes as a note in the file of a label map."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from prosma_core.config.documents import load_json
from prosma_core.config.model import ClassInfo

CLASSES = "classes"
"""Name of the note: `ClassInfo` as a JSON list."""
_LOG = logging.getLogger(__name__)


def classes_note(classes: Sequence[ClassInfo]) -> dict[str, str]:
    """Note on names and colors of classes, for a file of the label map; none where they are not known."""
    return {CLASSES: json.dumps([c.model_dump() for c in classes])} if classes else {}


def noted_classes(notes: Mapping[str, Any]) -> tuple[ClassInfo, ...]:
    """Classes in the notes of a file, empty where there are none or they are damaged."""
    try:
        return tuple(ClassInfo.model_validate(entry) for entry in load_json(notes.get(CLASSES, "[]")))
    except (TypeError, ValueError, ValidationError) as error:
        _LOG.warning("The class names in a file's notes cannot be read (%s)", error)
        return ()
