"""Segment scans: state, controller, view, job and dock widget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_prosma.segment.widget import SegmentWidget

__all__ = ["SegmentWidget"]


def __getattr__(name: str) -> Any:
    """Import the widget, and Qt with it, when it is asked for."""
    if name == "SegmentWidget":
        from napari_prosma.segment.widget import SegmentWidget

        return SegmentWidget
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
