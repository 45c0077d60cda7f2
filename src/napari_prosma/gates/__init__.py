"""The Gates widget."""

from napari_prosma.gates.widget import GatesWidget

__all__ = ["GatesWidget"]
