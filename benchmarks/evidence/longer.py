"""The page's words on longer training: what more steps give, and what becomes of the lead."""

from __future__ import annotations

from collections.abc import Sequence

from evidence.claims import LEAST_SEEDS, RIVALS, STRENGTH, difference, points
from evidence.comparison import curve
from evidence.measured import Measured, Spread, paired
from evidence.tables import against, number, table


def longer_training(longer: Sequence[Measured]) -> str:
    """The section: one table, and what the thresholds do after each training."""
    lines = [_row(measured, row) for measured in longer for row in measured.there()]
    if not lines:
        return ""
    words = "The same data, settings and learning rates, more steps. One seed is a look, not a comparison."
    head = ["data", "row", "seeds", "rate", "Dice", "IoU", "mirrored", *(f"against {rival}" for rival in RIVALS)]
    head += [f"worse images (strength {STRENGTH}), against {rival}" for rival in RIVALS]
    curves = [f"{measured.experiment.title}. {found}" for measured in longer if (found := curve(measured))]
    table_of_rows = table([*head, "removed per level (%)"], lines)
    return "\n".join([f"## Longer training\n\n{words}\n", table_of_rows, *curves])


def what_becomes_of_the_lead(sets: Sequence[Measured], longer: Sequence[Measured]) -> list[str]:
    """ProSMA against each rival with few and with many steps, on the seeds that both trainings have."""
    lines = []
    for rival in RIVALS:
        told: dict[bool, list[str]] = {True: [], False: []}
        for after in longer:
            before = next((each for each in sets if each.experiment.data == after.experiment.data), None)
            both = None if before is None else _both(before, after, rival)
            if before is None or both is None:
                continue
            steps = f"{before.experiment.steps} to {after.experiment.steps}"
            change = f"{before.experiment.name} {points(both[0].mean)} to {points(both[1].mean)} ({steps})"
            told[both[1].count >= LEAST_SEEDS].append(change)
        if told[True]:
            lines.append(f"- With more steps, the same seeds, against {rival}: {', '.join(told[True])}.")
        if told[False]:
            few = f"fewer than {LEAST_SEEDS} seeds"
            lines.append(f"- With more steps, {few}, against {rival}: {', '.join(told[False])}.")
    return lines


def _both(before: Measured, after: Measured, rival: str) -> tuple[Spread, Spread] | None:
    """ProSMA against a rival in both trainings, on the seeds of the longer one; None unless both have all of them."""
    seeds = after.clean("prosma").keys() & after.clean(rival).keys()
    same = ({s: dice for s, dice in before.clean(row).items() if s in seeds} for row in ("prosma", rival))
    short, long = paired(*same), paired(after.clean("prosma"), after.clean(rival))
    return (short, long) if short and long and short.count == long.count else None


def _row(measured: Measured, row: str) -> list[str]:
    worse = {r: paired(measured.corrupted(row, STRENGTH), measured.corrupted(r, STRENGTH)) for r in RIVALS if r != row}
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
        ", ".join(f"{100 * level:.0f}" for level in measured.levels(row)),
    ]
