"""Text that may hold names from files, for parts of Qt and napari that would take it for HTML. No Qt."""

from __future__ import annotations

from prosma_core.printable import visible


def shown(text: str) -> str:
    """A text with its lines, in which controls and bidirectional marks of names are visible."""
    return "\n".join(map(visible, text.split("\n")))


def plain(text: str) -> str:
    """A text as Qt shows it letter by letter also where it guesses the format, as in tooltips and in parts of napari.

    An invisible space behind ``<`` and ``&`` keeps it from being taken for HTML.
    """
    return shown(text).replace("<", "<\u200b").replace("&", "&\u200b")
