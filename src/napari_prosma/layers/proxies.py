"""What stands behind the proxies that napari hands to plugins."""

from __future__ import annotations

from typing import TypeVar, cast

T = TypeVar("T")


def unwrapped(value: T) -> T:
    """Give the viewer or layer itself: napari makes a proxy for each widget, and calls keys with the viewer."""
    return cast("T", getattr(value, "__wrapped__", value))
