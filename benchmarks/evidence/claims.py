"""What is claimed, and whether the results bear it out; every rule is here, none is in the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import t as student

from evidence.measured import BySeed, Measure, Measured, Spread, paired

Verdict = Literal["holds", "does not hold", "cannot be said"]
RIVALS = ("plain", "attention")
LEAST_SEEDS = 3
"""Seeds that both sides of a comparison need."""
WORST = -0.003
"""Largest loss of Dice that counts as none: 0.3 points."""
LEAST_REMOVED = 0.3
"""Share of activations that every level removes."""
STRENGTH = 2
"""Of the corruptions."""
Values = Callable[[Measured, str], BySeed]
"""Dice of a row by seed, on images of one kind."""
TOO_FEW = f"not measured with {LEAST_SEEDS} seeds"


@dataclass(frozen=True)
class Claim:
    """A sentence, what becomes of it, and the numbers that say so (one line each)."""

    text: str
    verdict: Verdict
    why: tuple[str, ...]


def claims(sets: Sequence[Measured]) -> list[Claim]:
    """All claims, judged by the comparisons on each data set."""
    return [
        _above(sets, "On clean images, ProSMA is above the plain and the attention U-Net", 4, clean),
        _never_below(sets),
        _above(sets, "With mirroring, ProSMA is above both", 4, mirrored),
        _above(sets, f"On corrupted images (strength {STRENGTH}), ProSMA is above both", 5, worse),
        _sparse(sets),
        _not_by_size(sets),
    ]


def claims_of_longer(longer: Sequence[Measured]) -> list[Claim]:
    """What is claimed of the trainings with more steps that have enough seeds; nothing without any."""
    enough = [measured for measured in longer if len(measured.experiment.seeds) >= LEAST_SEEDS]
    return [_above(enough, "With longer training, ProSMA is above both", 4, clean)] if enough else []


def points(value: float) -> str:
    """A difference of Dice in points, signed."""
    return f"{100 * value:+.2f}"


def difference(spread: Spread) -> str:
    """A paired difference; bold where its 95 % interval, of Student's t over so few seeds, does not hold 0."""
    if spread.error is None:
        return f"{points(spread.mean)} (one seed)"
    told = f"{points(spread.mean)} ± {100 * spread.error:.2f}"
    return f"**{told}**" if certain(spread) else told


def certain(spread: Spread) -> bool:
    """Whether the 95 % interval of a mean, of Student's t, does not hold 0; never of a single value."""
    return abs(spread.mean) > half_interval(spread)


def half_interval(spread: Spread) -> float:
    """Half of the 95 % interval of a mean, of Student's t; infinite of a single value."""
    return float("inf") if spread.error is None else float(student.ppf(0.975, spread.count - 1)) * spread.error


def clean(measured: Measured, row: str) -> BySeed:
    """Dice on the clean images."""
    return measured.clean(row)


def mirrored(measured: Measured, row: str) -> BySeed:
    """Dice averaged over mirrored copies."""
    return measured.mirrored(row)


def worse(measured: Measured, row: str) -> BySeed:
    """Dice on the corrupted images: the mean of all kinds."""
    return measured.corrupted(row, STRENGTH)


def lead(measured: Measured, rival: str, values: Values) -> Spread | None:
    """ProSMA minus a rival; None with too few seeds."""
    spread = paired(values(measured, "prosma"), values(measured, rival))
    return spread if spread is not None and spread.count >= LEAST_SEEDS else None


def _above(sets: Sequence[Measured], text: str, wanted: int, values: Values) -> Claim:
    """Whether the mean paired difference to every rival is above 0 on enough data sets."""
    won, open_sets, why = 0, 0, []
    sure = dict.fromkeys(RIVALS, 0)
    for measured in sets:
        spreads = {rival: lead(measured, rival, values) for rival in RIVALS}
        known = {rival: spread for rival, spread in spreads.items() if spread is not None}
        for rival, spread in known.items():
            sure[rival] += certain(spread) and spread.mean > 0
        lost = any(spread.mean <= 0 for spread in known.values())
        unknown = len(known) < len(RIVALS) and not lost
        open_sets += unknown
        won += not lost and not unknown
        told = [f"{difference(spread)} against {rival}" for rival, spread in known.items()]
        told += [TOO_FEW] if unknown else []
        word = "" if unknown else "not above both " if lost else "above both "
        why.append(f"{measured.experiment.name}: {word}({', '.join(told)})")
    wanted = min(wanted, len(sets))
    verdict: Verdict = "cannot be said"
    if won >= wanted and sets:
        verdict = "holds"
    elif won + open_sets < wanted:
        verdict = "does not hold"
    text = f"{text} on at least {wanted} of {len(sets)} data sets (by the mean, however small the difference;"
    text += f" significant {', '.join(f'against {rival} on {count}' for rival, count in sure.items())})."
    return Claim(text, verdict, tuple(why))


def _each(text: str, judged: Sequence[tuple[str, bool | None, str]]) -> Claim:
    """A claim that has to be true of every entry: its name, whether it is (None: unknown), and the numbers."""
    why = tuple(f"{name}: {numbers}" for name, _, numbers in judged)
    if any(true is False for _, true, _ in judged):
        return Claim(text, "does not hold", why)
    known = bool(judged) and all(true for _, true, _ in judged)
    return Claim(text, "holds" if known else "cannot be said", why)


def _never_below(sets: Sequence[Measured]) -> Claim:
    entries: list[tuple[str, bool | None, str]] = []
    every, further = 0, 0
    for measured in sets:
        spreads = [(rival, lead(measured, rival, clean)) for rival in RIVALS]
        known = [(rival, spread) for rival, spread in spreads if spread is not None]
        lost = any(spread.mean < WORST for _, spread in known)
        true = False if lost else (True if len(known) == len(RIVALS) else None)
        told = ", ".join(f"{difference(spread)} against {rival}" for rival, spread in known)
        entries.append((measured.experiment.name, true, told or TOO_FEW))
        every += len(known)
        further += sum(spread.mean - half_interval(spread) < WORST for _, spread in known)
    text = f"By the mean, on clean images, it is nowhere more than {-100 * WORST:g} Dice points below either"
    return _each(f"{text} (of {every} 95 % intervals, {further} reach further below).", entries)


def _sparse(sets: Sequence[Measured]) -> Claim:
    entries: list[tuple[str, bool | None, str]] = []
    for measured in sets:
        levels, spread = measured.levels("prosma"), lead(measured, "plain", clean)
        if not levels or not measured.complete("prosma"):
            entries.append((measured.experiment.name, None, TOO_FEW))
            continue
        told = ", ".join(f"{100 * level:.0f}" for level in levels) + " % removed, finest level first"
        told += f", the least of one seed {100 * measured.least_removed('prosma'):.0f} %"
        enough = min(levels) >= LEAST_REMOVED
        kept = None if spread is None else spread.mean >= WORST
        told += f"; {difference(spread)} against plain" if spread is not None else f"; plain {TOO_FEW}"
        entries.append((measured.experiment.name, kept if enough else False, told))
    text = (
        f"Every level removes at least {100 * LEAST_REMOVED:.0f} % of its skip (mean over seeds), and by the mean no "
    )
    text += f"more than {-100 * WORST:g} points are lost against the plain net."
    return _each(text, entries)


def _not_by_size(sets: Sequence[Measured]) -> Claim:
    entries: list[tuple[str, bool | None, str]] = []
    for measured in sets:
        spread = lead(measured, "plain-wide", clean)
        sizes = [(measured.value(row, "parameters"), measured.value(row, "flops")) for row in ("prosma", "plain-wide")]
        if spread is None or any(None in size for size in sizes):
            entries.append((measured.experiment.name, None, TOO_FEW))
            continue
        fair = all(ours <= theirs for ours, theirs in zip(*sizes, strict=True))
        told = f"{difference(spread)}, with {sizes[0][0] / sizes[1][0]:.2f} times its values"
        told += f" and {sizes[0][1] / sizes[1][1]:.2f} times its operations"
        entries.append((measured.experiment.name, fair and spread.mean > 0, told))
    return _each("It is above a plain net of at least its size.", entries)


def goals(sets: Sequence[Measured]) -> list[Claim]:
    """What ProSMA is meant to reach on each data set, with and without mirroring, and what its rivals reach."""
    result = []
    for measured in sets:
        for name, target in measured.experiment.targets.items():
            ways = (("clean", measured.clean), ("mirrored", measured.mirrored))
            entries = [(way, *_reached(values, name, target)) for way, values in ways]
            word = {"dice": "Dice", "iou": "IoU"}[name]
            result.append(_each(f"{measured.experiment.title}: {word} of ProSMA at least {target:g}.", entries))
    return result


def _reached(values: Callable[[str, Measure], BySeed], name: Measure, target: float) -> tuple[bool | None, str]:
    """Whether a goal is reached (None: too few seeds), and the values of ProSMA and its rivals."""
    spread = Spread.of(list(values("prosma", name).values()))
    if spread is None:
        return None, "not measured"
    others = {rival: Spread.of(list(values(rival, name).values())) for rival in RIVALS}
    beside = [f"{rival} {other.mean:.4f}" for rival, other in others.items() if other is not None]
    told = f"{spread.mean:.4f}" + (f" ({', '.join(beside)})" if beside else "")
    if spread.count < LEAST_SEEDS:
        return None, f"{told}, {spread.count} of {LEAST_SEEDS} seeds"
    return spread.mean >= target, told
