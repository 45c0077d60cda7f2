"""Newer releases of the program: the package index is asked where a person wants to know, and never otherwise."""

from __future__ import annotations

import json
import re
from urllib.request import urlopen

from prosma_core.errors import FileFormatError

PACKAGE_INDEX = "https://pypi.org/pypi/napari-prosma/json"
LONGEST_ANSWER = 20_000_000
"""Bytes that are read of the package index's answer."""
PATIENCE = 10
"""Seconds until it is given up."""


def ask_for_update(version: str) -> str:
    """Ask the package index once whether there is a newer release than this version; the answer as a sentence.

    Raises
    ------
    FileFormatError
        The index cannot be reached, or answers with something else.
    """
    try:
        with urlopen(PACKAGE_INDEX, timeout=PATIENCE) as answer:
            newest = str(json.loads(answer.read(LONGEST_ANSWER))["info"]["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"The newest release could not be read from {PACKAGE_INDEX}: {error}. Check the network and try again."
        raise FileFormatError(msg) from error
    newer = _numbers(newest) > _numbers(version)
    return f"Version {newest} is available: pip install --upgrade napari-prosma" if newer else "Up to date."


def _numbers(version: str) -> tuple[int, ...]:
    """Numbers of a version, so that 0.10.0 comes after 0.9.2."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
