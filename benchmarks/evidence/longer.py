"""The page's words on longer training: what more steps give, and what becomes of the lead."""

from __future__ import annotations

from collections.abc import Sequence

from evidence.claims import LEAST_SEEDS, RIVALS, STRENGTH, clean, difference, lead
from evidence.comparison import curve, over_cases
from evidence.measured import Measured, Spread, paired
from evidence.tables import against, number, table

WORDS = """\
## Longer training

The same data, settings and learning rates as above, more steps; rates were not chosen for so many. One seed decides
nothing.
"""


def longer_training(longer: Sequence[Measured]) -> str:
    """The section: one table, and what hangs on the images and the thresholds of each training."""
    lines = [_row(measured, row) for measured in longer for row in measured.there()]
    if not lines:
        return ""
    head = ["data", "row", "seeds", "rate", "Dice", "IoU", "mirrored", *(f"against {rival}" for rival in RIVALS)]
    head += [f"corrupted (strength {STRENGTH}), against {rival}" for rival in RIVALS]
    parts = [WORDS, table([*head, "removed per level (%)"], lines)]
    for measured in longer:
        found = [text for text in (over_cases(measured), curve(measured)) if text]
        parts += [f"{measured.experiment.title}:\n", *found] if found else []
    return "\n".join(parts)


def short_table(longer: Sequence[Measured]) -> str:
    """Dice of the trainings with enough seeds, and ProSMA's lead; nothing without any."""
    lines = [
        [
            measured.experiment.title,
            *(number(Spread.of(list(measured.clean(row).values()))) for row in (*RIVALS, "prosma")),
            *(against(measured, "prosma", rival) for rival in RIVALS),
        ]
        for measured in longer
        if len(measured.experiment.seeds) >= LEAST_SEEDS and measured.results.get("prosma")
    ]
    head = ["data", *RIVALS, "prosma", *(f"against {rival}" for rival in RIVALS)]
    return f"{WORDS}\n{table(head, lines)}" if lines else ""


def what_becomes_of_the_lead(sets: Sequence[Measured], longer: Sequence[Measured]) -> list[str]:
    """ProSMA against each rival with few and with many steps, where both have enough seeds."""
    by_data = {measured.experiment.data: measured for measured in sets}
    facts = []
    for rival in RIVALS:
        told = []
        for after in longer:
            before = by_data.get(after.experiment.data)
            leads = [lead(m, rival, clean) for m in (before, after) if m is not None]
            known = [difference(spread) for spread in leads if spread is not None]
            if before is not None and len(known) == 2:
                steps = f"{before.experiment.steps} to {after.experiment.steps} steps"
                told.append(f"{before.experiment.name} {' to '.join(known)} ({steps})")
        if told:
            facts.append(f"With longer training, against {rival}: {', '.join(told)}.")
    return facts


def _row(measured: Measured, row: str) -> list[str]:
    worse = {r: paired(measured.corrupted(row, STRENGTH), measured.corrupted(r, STRENGTH)) for r in RIVALS if r != row}
    levels = measured.levels(row)
    return [
        measured.experiment.title,
        row,
        str(len(measured.results[row])),
        f"{measured.value(row, 'rate'):g}",
        number(Spread.of(list(measured.clean(row).values()))),
        number(Spread.of(list(measured.clean(row, "iou").values()))),
        number(Spread.of(list(measured.mirrored(row).values()))),
        *(against(measured, row, rival) for rival in RIVALS),
        *(difference(spread) if (spread := worse.get(rival)) else "" for rival in RIVALS),
        ", ".join(f"{100 * level:.0f}" for level in levels) if any(levels) else "",
    ]
