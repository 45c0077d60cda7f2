"""Where a map of a gate lies in the world, from where it lies in its scan. No torch: viewers need it as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from prosma_core.config.inspection import MapInfo
from prosma_core.data.geometry import SPATIAL_AXES, ImageSpec


def map_spec(spec: ImageSpec, info: MapInfo, shape: Sequence[int]) -> ImageSpec:
    """Geometry of a map, so that it lies in the world where it lies in its scan.

    Parameters
    ----------
    spec : ImageSpec
        Of the scan; its axes are a subset of the map's, but for channels.
    info : MapInfo
    shape : sequence of int
        Of the map's array, axes ``info.axes``.
    """
    sizes = tuple(int(n) for n in shape)
    n = len(info.scale)
    step = np.eye(n + 1)
    step[:n, :n], step[:n, n] = np.diag(info.scale), info.offset
    spacing = tuple(s * f for s, f in zip(spec.spacing, info.scale, strict=True))
    names = tuple(f"channel {c}" for c in range(sizes[info.axes.index("c")])) if "c" in info.axes else ()
    assert spec.spatial_axes == "".join(a for a in info.axes if a in SPATIAL_AXES)
    return replace(
        spec, axes=info.axes, shape=sizes, spacing=spacing, affine=spec.affine @ step, channel_names=names, header=None
    )
