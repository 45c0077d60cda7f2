"""Inspect what the gates of a model keep and remove on a scan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_prosma.gates.widget import GatesWidget

__all__ = ["GatesWidget"]


def __getattr__(name: str) -> Any:
    """Import the widget, and Qt with it, when it is asked for."""
    if name == "GatesWidget":
        from napari_prosma.gates.widget import GatesWidget

        return GatesWidget
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
