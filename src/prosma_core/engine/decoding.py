"""What crosses between a viewer and the process that decodes files for it: JSON, a line each; voxels as references."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, TypeAdapter

from prosma_core.config.base import Config
from prosma_core.engine.requests import ArrayRef, SpecMessage

_HEADERS = "prosma_core.io."
"""Headers are classes of these modules; those of libraries stay behind."""


class DecodeAsk(Config):
    """Viewer to child: read this."""

    what: Literal["image", "labels", "channels", "case", "notes"]
    """As `read_image`, `read_labels`, `read_channels`, `read_case` (the label file last) and `read_notes`."""
    paths: tuple[str, ...] = Field(min_length=1)
    """Files or folders."""
    axes: str | None = None
    """Of ``image``: as of `read_image`."""


class DecodedScan(Config):
    """A scan that was read."""

    array: ArrayRef
    spec: SpecMessage
    header: dict[str, Any] | None = None
    """What `header_message` made of the header; None where that stays behind."""


class Decoded(Config):
    """Child to viewer: what was read."""

    kind: Literal["decoded"] = "decoded"
    scans: tuple[DecodedScan, ...] = ()
    notes: dict[str, Any] = Field(default_factory=dict)
    """Of ``notes``, and of ``image`` those of the file."""
    warnings: tuple[str, ...] = ()
    """What is worth knowing of the file."""


class NotDecoded(Config):
    """Child to viewer: the file cannot be read."""

    kind: Literal["failed"] = "failed"
    error: str
    """Class of the error in `prosma_core.errors`."""
    message: str
    """For people."""


DECODE_ASK: TypeAdapter[DecodeAsk] = TypeAdapter(DecodeAsk)
"""Reads a line of the viewer."""
DECODE_REPLY: TypeAdapter[Decoded | NotDecoded] = TypeAdapter(
    Annotated[Decoded | NotDecoded, Field(discriminator="kind")]
)
"""Reads a line of the child."""


def header_message(header: object) -> dict[str, Any] | None:
    """Header of a scan as plain values, where it is a dataclass of our own of such; else None."""
    try:
        values = _plain(header)
    except TypeError:
        return None
    return values if isinstance(values, dict) and "class" in values else None


def header_from(message: Any) -> Any:
    """The header that `header_message` made plain values of.

    Raises
    ------
    TypeError
        The message names no header of ours.
    """
    if isinstance(message, list):
        return tuple(header_from(value) for value in message)
    if not isinstance(message, dict):
        return message
    if "array" in message:
        return np.array(message["array"], message["dtype"])
    if "entries" in message:
        return {key: header_from(value) for key, value in message["entries"]}
    module, _, name = str(message.get("class")).rpartition(".")
    if not module.startswith(_HEADERS):
        msg = f"{message.get('class')!r} is no header"
        raise TypeError(msg)
    kind = getattr(importlib.import_module(module), name, None)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        msg = f"{message.get('class')!r} is no header"
        raise TypeError(msg)
    return kind(**{key: header_from(value) for key, value in message["values"].items()})


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "buif":
        return {"array": value.tolist(), "dtype": value.dtype.str}
    if isinstance(value, dict):
        return {"entries": [[_plain(key), _plain(each)] for key, each in value.items()]}
    kind = type(value)
    if dataclasses.is_dataclass(kind) and kind.__module__.startswith(_HEADERS):
        values = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(kind)}
        return {"class": f"{kind.__module__}.{kind.__qualname__}", "values": values}
    msg = f"{kind} stays behind"
    raise TypeError(msg)
