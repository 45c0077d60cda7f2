"""Gates changed or recorded for a while; what was there before is there again afterwards, whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from prosma_core.config.inspection import Edits, check_edits
from prosma_core.model.gate_record import GateRecord
from prosma_core.model.unet import UNet


@contextmanager
def edited(model: UNet, edits: Edits) -> Iterator[None]:
    """Change the gates of a network inside the block.

    Parameters
    ----------
    model : UNet
    edits : tuple of LevelEdit
        At most one for each level.

    Raises
    ------
    ConfigError
        A level or channel does not exist, or its gate has nothing that could be changed so.
    """
    check_edits(model.config, edits)
    before = [gate.edit for gate in model.skip_gates]
    try:
        for edit in edits:
            model.skip_gates[edit.level].edit = edit
        yield
    finally:
        for gate, edit_before in zip(model.skip_gates, before, strict=True):
            gate.edit = edit_before


@contextmanager
def recording(
    model: UNet, take: Callable[[int, GateRecord], None], levels: Iterable[int] | None = None
) -> Iterator[None]:
    """Record the gates of a network inside the block; its output stays the same to the last bit.

    Parameters
    ----------
    model : UNet
    take : callable
        Given each level's number and `GateRecord`, coarsest first, while the network runs.
    levels : iterable of int, optional
        Levels to record; all unless given.
    """
    gates = model.skip_gates
    before = [gate.recorder for gate in gates]
    try:
        for level in range(len(gates)) if levels is None else levels:
            gates[level].recorder = _taker(take, level)
        yield
    finally:
        for gate, recorder in zip(gates, before, strict=True):
            gate.recorder = recorder


def _taker(take: Callable[[int, GateRecord], None], level: int) -> Callable[[GateRecord], None]:
    return lambda record: take(level, record)
