"""Logits of training cases: of one in memory at once, of one that is read by parts block by block."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import torch
from torch import Tensor

from prosma_core.data.geometry import Box, box_slices, whole
from prosma_core.data.grid import NetworkGrid
from prosma_core.events import Event, TileDone, relay
from prosma_core.inference.grid_restore import plan_part
from prosma_core.inference.memory import Need, plan_blocks
from prosma_core.inference.tiled import Among, TiledPredictor
from prosma_core.model.unet import UNet
from prosma_core.training.cases import TrainingCase

WORKING: int | None = None
"""Bytes that a block may take; None plans it from the memory that is free."""
_EDGE = 64
"""Voxels that blocks are multiples of, along each axis."""

Take = Callable[[Box, Tensor], None]
"""Takes a box of a case's grid, and its logits, float32, shape (K, *box)."""


def predict_case(
    case: TrainingCase, predictor: TiledPredictor, device: torch.device, take: Take
) -> Generator[Event, None, None]:
    """Hand over the logits of all that is annotated of a case; yields after each batch of tiles.

    They are those of the whole case, whether it is in memory or not.
    """
    if case.stored is None:
        logits = yield from predictor.predict(case.image_in_memory, device)
        take(whole(tuple(case.labels.shape)), logits)
        return
    assert isinstance(predictor.model, UNet)
    shape, axes = tuple(case.labels.shape), tuple(range(len(case.labels.shape)))
    part = plan_part(NetworkGrid(axes, (), shape, shape, (1.0,) * len(shape)), case.stored.hull)
    image = 4 * predictor.model.config.in_channels * case.labels.numel()
    need = Need(predictor.model.config, predictor.tile, predictor.overlap, False, False, image, (_EDGE,) * len(shape))
    plan = plan_blocks(part, need, lazy=True, working=WORKING)
    done, known = 0, dict[tuple[float, ...], Tensor]()

    def change(event: Event) -> Iterator[Event]:
        yield TileDone(min(done + event.done, plan.tiles), plan.tiles) if isinstance(event, TileDone) else event

    for column in plan.columns:
        among = Among(shape, whole(shape), known=known)
        for block, following in zip(column.blocks, [*column.blocks[1:], None], strict=True):
            among.on = None if following is None else following.network[0][0]
            among.box = among.hull(predictor.tile, predictor.overlap, block.network)
            count = len(among.tiles(predictor.tile, predictor.overlap, block.network)[0])
            values = case.image[(slice(None), *box_slices(among.box))]
            logits = yield from relay(predictor.predict(values, device, block.network, None, among), change)
            done += count
            among.done = block.network[0][1]
            take(block.network, logits)
