"""Devices as the widgets offer them."""

from __future__ import annotations

from prosma_core.engine.messages import Ready


def devices(chosen: str, ready: Ready | None, *, alive: bool) -> tuple[list[tuple[str, str]], str]:
    """Devices to choose from, as (words, name), and what the chosen one means here.

    Parameters
    ----------
    chosen : str
    ready : Ready or None
        What the engine found; None while it is not there.
    alive : bool
        Whether it is on its way.
    """
    facts = "The engine is starting…" if alive else "The engine starts with the next run."
    names = ["auto"]
    if ready is not None:
        names = list(ready.devices)
        facts = ready.devices.get(chosen, "")
    if chosen not in names:
        names.append(chosen)
    return [("Auto" if n == "auto" else n.upper(), n) for n in names], facts
