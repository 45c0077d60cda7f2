"""What a look into the gates will need, planned before it starts and said in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch

from prosma_core.config.model import ModelConfig
from prosma_core.errors import DeviceError
from prosma_core.inference.device import free_memory, gib
from prosma_core.inference.memory import SHARE, tile_bytes
from prosma_core.inspection.level_grid import LevelCells
from prosma_core.inspection.stitch import CHANNELS_AT_ONCE
from prosma_core.printable import counted

BESIDE_FIELDS = 6
"""Tensors of a level alive at the peak of a record beside the fields of its scales: z, a, and those on the way."""


@dataclass(frozen=True)
class InspectionPlan:
    """How a scan is looked at.

    Attributes
    ----------
    device : torch.device
        Where the network runs.
    extra : int
        Bytes beside those of a segmentation: maps, sums, and one level of one tile as it is recorded.
    words : str
        The plan for people.
    """

    device: torch.device
    extra: int
    words: str


def record_bytes(model: ModelConfig, cells: LevelCells) -> int:
    """Bytes that recording a level of one tile takes, and putting it into the maps."""
    channels, grid = model.widths[cells.level], prod(cells.tile_shape)
    scales = len(model.gate.dilations) if model.gate.kind == "prosma" else 0
    return 4 * grid * (channels * (scales + BESIDE_FIELDS) + 4 * min(channels, CHANNELS_AT_ONCE))


def plan_inspection(
    model: ModelConfig, levels: Sequence[LevelCells], maps: int, tiles: int, device: torch.device
) -> InspectionPlan:
    """Plan: one tile at a time, one level of it at a time.

    Parameters
    ----------
    model : ModelConfig
    levels : sequence of LevelCells
        At least one.
    maps : int
        Bytes of all maps.
    tiles : int
        Tiles in all.
    device : torch.device
        Where to compute, if it has the memory.

    Raises
    ------
    DeviceError
        Not even one tile fits.
    """
    cpu, tile = torch.device("cpu"), levels[0].tile
    record = max(record_bytes(model, cells) for cells in levels)
    sums = sum(4 * 4 * prod(cells.shape) for cells in levels)
    one = tile_bytes(model, tile) + record
    instead = ""
    if device != cpu and one > free_memory(device) * SHARE:
        instead = f" ({device.type} has too little)"
        device = cpu
    if one + sums > free_memory(cpu) * SHARE or one > free_memory(device) * SHARE:
        msg = (
            f"Looking into this scan needs about {gib(one + sums)}; {gib(free_memory(cpu))} are free. "
            "Close other programs, or choose a region."
        )
        raise DeviceError(msg)
    numbers = ", ".join(str(cells.level) for cells in levels)
    words = (
        f"{'levels' if len(levels) > 1 else 'level'} {numbers} in {counted(tiles, 'tile')} of "
        f"{'x'.join(map(str, tile))}, about {gib(one + sums)} of {gib(free_memory(device))} free on {device.type}"
        f"{instead}, and {gib(maps)} for the maps"
    )
    return InspectionPlan(device, maps + record + sums, words)
