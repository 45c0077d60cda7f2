"""Segmentation with decoder-conditioned proximal-sparse skip gates (ProSMA-UNet).

The names of `prosma_core.api` can be imported from here. Importing the package is cheap: nothing heavy (torch, nibabel,
MONAI) is loaded until one of them is used.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

__all__ = [
    "ProximalGate",
    "UNet",
    "__version__",
    "evaluate",
    "inspect",
    "load_model",
    "read_image",
    "segment",
    "train",
    "what_if",
    "write_labels",
]


def __getattr__(name: str) -> Any:
    """A name of `prosma_core.api`, loaded when it is first used."""
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    import importlib

    value = getattr(importlib.import_module("prosma_core.api"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
