"""Gates recorded, counted and edited, by hooks on the named values of their formula."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from prosma_core.config.inspection import Edits, LevelEdit, check_edits
from prosma_core.config.model import ModelConfig
from prosma_core.events import LevelStats
from prosma_core.model.gate import HookPoint, ProximalGate, SkipGate


class GatedNetwork(Protocol):
    """A network with a gate per level, as `UNet`."""

    @property
    def config(self) -> ModelConfig:
        """Its settings."""

    @property
    def skip_gates(self) -> list[SkipGate]:
        """Gate of each level, finest first."""


@dataclass(frozen=True, eq=False)
class GateRecord:
    """Values of one gate in one forward, edits included.

    Attributes
    ----------
    fields : tuple of Tensor, shape (B, C, *grid)
        Compatibility field z_d of each scale; empty for a gate without.
    z : Tensor or None, shape (B, C, *grid)
        Combined field.
    tau : Tensor or None, shape (C,)
        Threshold of each channel.
    a : Tensor, shape (B, C, *grid)
        The gate's value; 0 exactly where x is removed.
    c : Tensor or None, shape (B, C)
        Weight of each channel; None for a gate without channel gate.
    before, after : Tensor, shape (B, C, *grid)
        Skip before the gate, and what the decoder receives.
    """

    fields: tuple[Tensor, ...]
    z: Tensor | None
    tau: Tensor | None
    a: Tensor
    c: Tensor | None
    before: Tensor
    after: Tensor


def _hook(point: HookPoint, see: Callable[[Tensor], Tensor | None], *, first: bool = False) -> Any:
    """Let a function see a value, and change it by returning another; gives the handle that removes the hook."""
    return point.register_forward_hook(lambda _module, _inputs, value: see(value), prepend=first)


@contextmanager
def _hooks(*hooks: tuple[HookPoint, Callable[[Tensor], Tensor | None]], first: bool = False) -> Iterator[None]:
    """Hooks inside the block."""
    handles: list[Any] = []
    try:
        handles.extend(_hook(point, see, first=first) for point, see in hooks)
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recording(
    model: GatedNetwork, take: Callable[[int, GateRecord], None], levels: Iterable[int] | None = None
) -> Iterator[None]:
    """Record the gates of a network inside the block.

    On a CPU, the output stays bit-identical. On a GPU, a recorded gate is plain PyTorch instead of the fused kernels,
    equal up to rounding.

    Parameters
    ----------
    model : UNet
    take : callable
        Called with each level's number and `GateRecord`, coarsest first, while the network runs.
    levels : iterable of int, optional
        Levels to record; all unless given.
    """
    with ExitStack() as stack:
        for level in range(len(model.skip_gates)) if levels is None else levels:
            stack.enter_context(recording_gate(model.skip_gates[level], _taker(take, level)))
        yield


def _taker(take: Callable[[int, GateRecord], None], level: int) -> Callable[[GateRecord], None]:
    return lambda record: take(level, record)


@contextmanager
def recording_gate(gate: SkipGate, take: Callable[[GateRecord], None]) -> Iterator[None]:
    """Record one gate inside the block, as `recording`; `take` is called with each record."""
    seen: dict[str, Any] = {}

    def keep(name: str) -> Callable[[Tensor], None]:
        return lambda value: seen.update({name: value})

    def finish(after: Tensor) -> None:
        before = seen["x"]
        a = seen["a"].expand_as(before) if "a" in seen else torch.ones_like(before)
        record = GateRecord(seen.get("fields", ()), seen.get("z"), seen.get("tau"), a, seen.get("c"), before, after)
        seen.clear()
        take(record)

    points = [(gate.hook_x, keep("x")), (gate.hook_a, keep("a")), (gate.hook_out, finish)]
    if isinstance(gate, ProximalGate):
        points += [(gate.hook_tau, keep("tau")), (gate.hook_z, keep("z")), (gate.hook_c, keep("c"))]
        points += [(gate.hook_q, lambda q: seen.update(fields=gate.fields(q)))]
    with _hooks(*points):
        yield


SkipPair = tuple[Tensor, Tensor]
"""Skip before a gate and behind it, each of shape (B, C, *grid)."""


@contextmanager
def recording_skips(
    model: GatedNetwork, take: Callable[[int, SkipPair], None], levels: Iterable[int]
) -> Iterator[None]:
    """Record the skips of a network inside the block, in front of the gates and behind them, and nothing else of them.

    Parameters
    ----------
    model : UNet
    take : callable
        Called with each level's number and its `SkipPair`, coarsest first, while the network runs.
    levels : iterable of int
    """
    with ExitStack() as stack:
        for level in levels:
            stack.enter_context(_recording_skip(model.skip_gates[level], level, take))
        yield


@contextmanager
def _recording_skip(gate: SkipGate, level: int, take: Callable[[int, SkipPair], None]) -> Iterator[None]:
    before: list[Tensor] = []
    with _hooks((gate.hook_x, before.append), (gate.hook_out, lambda after: take(level, (before.pop(), after)))):
        yield


@contextmanager
def edited(model: GatedNetwork, edits: Edits) -> Iterator[None]:
    """Change the gates of a network inside the block; records made inside have the changes.

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
    with ExitStack() as stack:
        for edit in edits:
            stack.enter_context(_edited_gate(model.skip_gates[edit.level], edit))
        yield


@contextmanager
def _edited_gate(gate: SkipGate, edit: LevelEdit) -> Iterator[None]:
    """Change one gate inside the block: with a = c = 1, c . a . x is x to the bit, and with a = 0 it is 0."""
    points: list[tuple[HookPoint, Callable[[Tensor], Tensor | None]]] = []
    whole = edit.state != "learned"
    if whole or edit.open_channels or edit.closed_channels:
        points.append((gate.hook_a, lambda a: _edited_weight(a, edit)))
    if isinstance(gate, ProximalGate):
        if edit.threshold != 1:
            points.append((gate.hook_tau, lambda tau: tau * edit.threshold))
        if not edit.channel_gate:
            points.append((gate.hook_c, torch.ones_like))
        elif edit.state == "open" or edit.open_channels:
            points.append((gate.hook_c, lambda c: _edited_weight(c, edit, closes=False)))
    before = gate.forced
    try:
        if edit.state != "learned" and not edit.open_channels and not edit.closed_channels:
            gate.forced = edit.state
        with _hooks(*points, first=True):
            yield
    finally:
        gate.forced = before


def _edited_weight(weight: Tensor, edit: LevelEdit, *, closes: bool = True) -> Tensor:
    """Gate value a or channel gate c after an edit: 1 where it opens and, with `closes`, 0 where it closes.

    Parameters
    ----------
    weight : Tensor, shape (B, C, ...)
    edit : LevelEdit
    closes : bool
        False for the channel gate: where a is 0, c stays what it is.
    """
    if edit.state == "open" or (edit.state == "closed" and closes):
        weight = torch.full_like(weight, float(edit.state == "open"))
    if edit.open_channels or edit.closed_channels:
        weight = weight.clone()
        weight[:, list(edit.open_channels)] = 1
        if closes:
            weight[:, list(edit.closed_channels)] = 0
    return weight


@contextmanager
def counting(gates: Sequence[SkipGate]) -> Iterator[list[LevelStats]]:
    """Count removed activations inside the block.

    Parameters
    ----------
    gates : sequence of SkipGate
        Such as ``model.skip_gates``.

    Yields
    ------
    list of LevelStats
        Filled when the block ends: removed fraction (0 where nothing ran) and median threshold of each gate.
    """
    result: list[LevelStats] = []
    counts = [_Count() for _ in gates]
    try:
        with _hooks(*((gate.hook_a, count.add) for gate, count in zip(gates, counts, strict=True))):
            yield result
    finally:
        result += [count.stats(gate) for gate, count in zip(gates, counts, strict=True)]


class _Count:
    """Removed and all activations of a gate."""

    def __init__(self) -> None:
        self.removed, self.total = 0.0, 0

    def add(self, a: Tensor) -> None:
        """Count a gate's value."""
        self.removed += float((a == 0).sum())
        self.total += a.numel()

    def stats(self, gate: SkipGate) -> LevelStats:
        """Removed fraction, and the median of the gate's threshold."""
        tau = gate.threshold()
        median = None if tau is None else float(tau.detach().float().median())
        return LevelStats(self.removed / self.total if self.total else 0.0, median)


def estimate_removed(gates: Sequence[SkipGate]) -> None:
    """Let proximal gates keep the removed fraction of every forward, differentiable, in their `estimate`.

    Parameters
    ----------
    gates : sequence of SkipGate
    """
    for gate in gates:
        if isinstance(gate, ProximalGate):
            _Estimate(gate)


class _Estimate:
    """Hooks that set the estimate of a gate."""

    def __init__(self, gate: ProximalGate) -> None:
        self.gate = gate
        self.tau: Tensor | None = None
        _hook(gate.hook_tau, self.see_threshold)
        _hook(gate.hook_z, self.see_field)

    def see_threshold(self, tau: Tensor) -> None:
        """Keep the threshold until the field is there."""
        self.tau = tau

    def see_field(self, z: Tensor) -> None:
        """Estimate, and let go of the threshold."""
        assert self.tau is not None
        self.gate.estimate, self.tau = self.gate.removed(z, self.tau), None
