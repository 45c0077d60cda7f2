"""How each kind of map looks: its words, its colors."""

from __future__ import annotations

from napari.utils.colormaps import Colormap

from prosma_core.config.inspection import MapInfo
from prosma_core.config.model import GateForm

REACH = 4.0
"""The colors of a field reach from -REACH to REACH times the threshold of the channel that is shown."""
BAND_NAME = "prosma band"
"""What the names of colormaps of combined fields begin with."""
BAND = "#3d3d3d"
"""Color of the values that are removed."""
COLD = ("#2b6ca3", "#9be0ff")
"""Negative values, from the threshold to the end of the range."""
WARM = ("#b5482a", "#ffd08a")
"""Positive values, likewise."""
KEPT = "#3b9eff"
"""Color of what is kept, in masks and plots."""
REMOVED = "#e8590c"
"""Color of what is removed, likewise."""
MASK_NAMES = ("removed", "kept")
"""Names of 0 and 1 in a mask."""
SHARES = {"removed": "inferno", "energy": "magma", "gate": "viridis", "channel_gate": "viridis"}
"""Maps of shares, and the colormap of each."""
WORDS = {
    "removed": "removed",
    "energy": "energy",
    "kept": "kept",
    "field": "field",
    "scales": "dilation {dilation}",
    "gate": "gate",
    "channel_gate": "channel gate",
    "before": "skip before",
    "after": "skip after",
}
"""What a map is called in the name of its layer."""

_EDGE = 1e-4


def map_title(info: MapInfo) -> str:
    """A map in words, such as ``level 0 removed``."""
    return f"level {info.level} {WORDS[info.kind].format(dilation=info.dilation)}"


def band_colors(form: GateForm) -> Colormap:
    """Colors of a combined field: a flat band where the gate removes, cold below it and warm above.

    Parameters
    ----------
    form : {"signed", "bounded", "nonnegative"}
        A nonnegative gate removes all that is not above the threshold: its band has no lower end.
    """
    low, high = 0.5 - 0.5 / REACH, 0.5 + 0.5 / REACH
    warm = [(high - _EDGE, BAND), (high, WARM[0]), (1.0, WARM[1])]
    if form == "nonnegative":
        stops = [(0.0, BAND), *warm]
    else:
        stops = [(0.0, COLD[1]), (low, COLD[0]), (low + _EDGE, BAND), *warm]
    return Colormap([c for _, c in stops], controls=[p for p, _ in stops], name=f"{BAND_NAME} {form}")


def plain_colors() -> Colormap:
    """Colors of the field of one dilation, which has no threshold of its own: dark at 0, cold below, warm above."""
    colors = [COLD[1], COLD[0], BAND, WARM[0], WARM[1]]
    return Colormap(colors, controls=[0.0, 0.25, 0.5, 0.75, 1.0], name="prosma field")
