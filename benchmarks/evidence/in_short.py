"""The page's summary: where ProSMA is ahead and behind, how surely, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from evidence.claims import LEAST_SEEDS, RIVALS, STRENGTH, Values, certain, clean, lead, mirrored, points, worse
from evidence.comparison import by_case
from evidence.corruptions import CORRUPTIONS
from evidence.longer import what_becomes_of_the_lead
from evidence.measured import Measured, Spread, paired
from evidence.tables import table

LARGER = ("plain-wide", "residual-encoder")
"""Rows with more parameters than ProSMA."""


def in_short(sets: Sequence[Measured], longer: Sequence[Measured]) -> str:
    """The section; nothing without data sets."""
    if not sets:
        return ""
    ways: dict[str, Values] = {
        "clean": clean,
        "clean, mirrored": mirrored,
        f"corrupted (mean of {len(CORRUPTIONS)} kinds, strength {STRENGTH})": worse,
    }
    lines = [
        [images, rival, *_ahead_and_behind(_differences(sets, rival, values))]
        for images, values in ways.items()
        for rival in (*RIVALS, *LARGER)
        if any(measured.results.get(rival) for measured in sets)
    ]
    words = (
        f"Data sets where ProSMA is ahead or behind by the mean over {LEAST_SEEDS} seeds, and where significantly "
        "(the 95 % interval does not include 0)."
    )
    head = ["images", "against", "ahead on", "significantly", "behind on", "significantly"]
    facts = [*_over_cases(sets), *_single_kinds(sets), *_opened([*sets, *longer])]
    facts += what_becomes_of_the_lead(sets, longer)
    listed = "\n".join(f"- {fact}" for fact in facts)
    return f"## In short\n\n{words}\n\n{table(head, lines)}\n{listed}\n"


def _differences(sets: Sequence[Measured], rival: str, values: Values) -> dict[str, Spread]:
    """ProSMA minus a rival, by data set."""
    found = {m.experiment.name: lead(m, rival, values) for m in sets}
    return {name: spread for name, spread in found.items() if spread}


def _ahead_and_behind(spreads: Mapping[str, Spread]) -> list[str]:
    """Names of data sets: ahead, certainly; behind, certainly."""
    ahead = {name: certain(spread) for name, spread in spreads.items() if spread.mean > 0}
    behind = {name: certain(spread) for name, spread in spreads.items() if spread.mean < 0}
    cells = (ahead, [n for n, sure in ahead.items() if sure], behind, [n for n, sure in behind.items() if sure])
    return [", ".join(cell) or "–" for cell in cells]


def _over_cases(sets: Sequence[Measured]) -> list[str]:
    """What is certain over images or patients."""
    facts = []
    for rival in RIVALS:
        spreads = {m.experiment.name: paired(by_case(m)[1]("prosma"), by_case(m)[1](rival)) for m in sets}
        facts.append(f"Against {rival}, significant over images or patients instead of seeds: {_sure(spreads)}.")
    return facts


def _single_kinds(sets: Sequence[Measured]) -> list[str]:
    """What is certain of single kinds of worse images."""
    facts = []
    for rival in RIVALS:
        spreads = {
            f"{m.experiment.name} {kind}": lead(m, rival, lambda m, row, kind=kind: m.corrupted(row, STRENGTH, kind))
            for m in sets
            for kind in CORRUPTIONS
        }
        ahead = sum(spread is not None and certain(spread) and spread.mean > 0 for spread in spreads.values())
        behind = {name: spread for name, spread in spreads.items() if spread and spread.mean < 0}
        facts.append(
            f"Single kinds of corruption (strength {STRENGTH}), against {rival}: significantly ahead on {ahead} of "
            f"{len(spreads)}, significantly behind on {_sure(behind)}."
        )
    return facts


def _sure(spreads: Mapping[str, Spread | None]) -> str:
    told = [f"{name} {points(spread.mean)}" for name, spread in spreads.items() if spread and certain(spread)]
    return ", ".join(told) or "none"


def _opened(trainings: Sequence[Measured]) -> list[str]:
    """What Dice gains where ProSMA's thresholds are 0, in the mean over seeds."""
    gains = {}
    for measured in trainings:
        curves = [{p["scale"]: p["dice"] for p in r["curve"]} for r in measured.results.get("prosma", {}).values()]
        if changed := [curve[0] - curve[1] for curve in curves if {0, 1} <= curve.keys()]:
            gains[measured.experiment.name] = mean(changed)
    if not gains:
        return []
    least, most = min(gains, key=gains.__getitem__), max(gains, key=gains.__getitem__)
    change = f"{points(gains[least])} ({least}) to {points(gains[most])} ({most})"
    return [f"With all thresholds 0 after the training, so that nothing is removed, Dice changes by {change}."]
