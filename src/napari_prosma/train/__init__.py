"""Train and fine-tune models on annotated layers and files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_prosma.train.widget import TrainWidget

__all__ = ["TrainWidget"]


def __getattr__(name: str) -> Any:
    """Import the widget, and Qt with it, when it is asked for."""
    if name == "TrainWidget":
        from napari_prosma.train.widget import TrainWidget

        return TrainWidget
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
