"""Requests to look into the gates of a model and to change them, and their results."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prosma_core.config.base import Config
from prosma_core.config.inspection import InspectConfig, Inspection, Variant, VariantResult
from prosma_core.engine.references import ScanRef


class InspectRequest(Config):
    """Look into the gates while a scan is segmented; the arrays of the result are named as its maps."""

    kind: Literal["inspect"] = "inspect"
    model: str
    """Model file."""
    device: str = "auto"
    """As of `prosma_core.engine.messages.SegmentRequest`."""
    config: InspectConfig = InspectConfig()
    """At what."""
    scan: ScanRef | None = None
    """As of `prosma_core.engine.messages.SegmentRequest`."""


class InspectResult(Config):
    """What was found, beside the maps."""

    kind: Literal["inspect"] = "inspect"
    inspection: Inspection
    words: str
    """What is worth knowing, such as that a plain U-Net has no gates."""
    seconds: float
    """From the request to the result."""
    device: str
    """Where it was computed, in words."""


class WhatIfRequest(Config):
    """Segment a scan with changed gates, and compare with the unchanged result.

    The arrays of the first variant are named ``labels`` (class values on the scan's grid) and ``changes`` (uint8: 0
    the same, 1 background before, 2 background now, 3 another class).
    """

    kind: Literal["whatif"] = "whatif"
    model: str
    """Model file."""
    device: str = "auto"
    """As of `prosma_core.engine.messages.SegmentRequest`."""
    variants: tuple[Variant, ...] = Field(min_length=1, max_length=64)
    """Each is compared with the unchanged gates."""
    config: InspectConfig = InspectConfig()
    """Its overlap, region and slice axis."""
    scan: ScanRef | None = None
    """As of `prosma_core.engine.messages.SegmentRequest`."""
    truth: ScanRef | None = None
    """Labels on the scan's grid, of the model's class values."""
    key: str = ""
    """Names the scan as it is now: while it, the model and the config stay, the unchanged result is kept."""
    arrays: bool = True
    """Whether the arrays are wanted, or the numbers only."""


class WhatIfResult(Config):
    """The comparisons, in the order of the variants."""

    kind: Literal["whatif"] = "whatif"
    variants: tuple[VariantResult, ...]
    seconds: float
    """From the request to the result."""
    device: str
    """Where it was computed, in words."""
