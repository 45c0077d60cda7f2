"""The page: tables and claims from stored results, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import mean
from typing import Any

from evidence.claims import LEAST_SEEDS, RIVALS, STRENGTH, claims, difference
from evidence.corruptions import CORRUPTIONS
from evidence.experiment import Experiment
from evidence.measured import Measured, Spread, paired
from evidence.runs import DIVERGED, Result

HEAD = """\
# Evidence: does the gate earn its place?

This page is made by `python3 run.py bench evidence_page` from the files of `benchmarks/evidence/results/`, one for each
training; the experiments are the YAML files of `benchmarks/evidence/`. Do not edit it.

Every row has the same steps, patches and augmentation. Its learning rate was chosen on a part of the training cases,
by one run (a shorter one, where the experiment says so) for each of the same rates; then it was trained on all
training cases, and judged on the validation cases, by the weights of the last step, on each image's own grid. Dice and
IoU are means over the images in which a class is, then over classes, then over seeds (± is the standard deviation over
seeds). Differences are paired by seed, in Dice points, ± the standard error of their mean. One that is not **bold** may
as well be none: its 95 % interval, with three seeds 4.3 standard errors to either side, holds 0. Errors are those of
other seeds, not of other images: where few images are judged, one of them can decide.
"""


def page(experiments: Sequence[Experiment], results: Sequence[Result], *, dry: bool = False) -> str:
    """The page as Markdown."""
    measured = [Measured.of(experiment, results) for experiment in experiments]
    sets = [m for m in measured if m.experiment.kind == "comparison"]
    parts = [HEAD]
    if dry:
        parts.append("**This is a dry run of two steps: none of its numbers means anything.**\n")
    parts += [_overview(sets), _claims(sets), *(_comparison(m) for m in sets)]
    parts += [_ablation(m) for m in measured if m.experiment.kind == "ablation"]
    parts += [_missing(measured), _origin(results)]
    return "\n".join(part for part in parts if part)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def number(spread: Spread | None) -> str:
    """Mean ± standard deviation."""
    if spread is None:
        return "–"
    return f"{spread.mean:.4f}" + ("" if spread.sd is None else f" ± {spread.sd:.4f}")


def against(measured: Measured, row: str, other: str) -> str:
    """Paired difference of a row to another."""
    spread = None if row == other else paired(measured.clean(row), measured.clean(other))
    return "" if spread is None else difference(spread)


def _overview(sets: Sequence[Measured]) -> str:
    """One line for each data set: what was measured of ProSMA and its rivals."""
    rows = (*RIVALS, "prosma")
    lines = []
    for measured in sets:
        if not any(measured.results.get(row) for row in rows):
            lines.append([measured.experiment.name, *["–"] * (1 + len(rows) + 2 * len(RIVALS) + 1)])
            continue
        cases = next(found for row in rows if (found := measured.value(row, "cases")))
        worse = [
            paired(measured.corrupted("prosma", STRENGTH), measured.corrupted(rival, STRENGTH)) for rival in RIVALS
        ]
        levels = measured.levels("prosma")
        lines.append(
            [
                measured.experiment.name,
                str(cases["judged"]),
                *(_with_count(measured, row) for row in rows),
                *(against(measured, "prosma", rival) for rival in RIVALS),
                *("" if spread is None else difference(spread) for spread in worse),
                f"{100 * min(levels):.0f} to {100 * max(levels):.0f}" if levels else "–",
            ]
        )
    head = ["data", "judged", *rows]
    head += [f"against {rival}" for rival in RIVALS]
    head += [f"worse images, against {rival}" for rival in RIVALS]
    words = (
        f"Dice; ProSMA's difference to the other two, as they are and made worse (strength {STRENGTH}); what its gates "
        "remove, by level."
    )
    return f"## At a glance\n\n{words}\n\n" + table([*head, "removed (%)"], lines)


def _with_count(measured: Measured, row: str) -> str:
    """Mean Dice, and how many seeds where some are missing."""
    values = list(measured.clean(row).values())
    missing = "" if measured.complete(row) or not values else f" ({len(values)} of {len(measured.experiment.seeds)})"
    return f"{mean(values):.4f}{missing}" if values else "–"


def _claims(sets: Sequence[Measured]) -> str:
    lines = ["## What holds, and what does not\n"]
    for claim in claims(sets):
        lines.append(f"- **{claim.verdict.capitalize()}**: {claim.text}")
        lines += [f"  - {why}" for why in claim.why]
    return "\n".join(lines) + f"\n\nA comparison needs {LEAST_SEEDS} seeds of both sides.\n"


def _comparison(measured: Measured) -> str:
    there = [row for row, found in measured.results.items() if found]
    lines = [f"## {measured.experiment.title or measured.experiment.name}\n"]
    if not there:
        return lines[0] + "\nNothing is measured yet.\n"
    head = [
        "row",
        "seeds",
        "rate",
        "Dice",
        "IoU",
        "mirrored",
        *(f"against {r}" for r in RIVALS),
        "values",
        "GFLOP",
    ]
    lines.append(table(head, [_row(measured, row) for row in there]))
    lines += [f"- {row}: {measured.experiment.rows[row].words}" for row in there] + [""]
    if cases := measured.value(there[0], "cases"):
        lines.append(f"{cases['train']} cases were trained on, {cases['judged']} judged.\n")
    tile = " x ".join(map(str, measured.value(there[0], "tile")))
    lines.append(f"GFLOP: forward pass of one tile, {tile}; *: lowest or highest rate tried.\n")
    lines += [_rates(measured), _removed(measured), _robustness(measured, there), _curve(measured)]
    return "\n".join(lines)


def _row(measured: Measured, row: str) -> list[str]:
    found = measured.results[row]
    return [
        row,
        str(len(found)),
        _rate(measured, row),
        number(Spread.of(list(measured.clean(row).values()))),
        number(Spread.of(list(measured.clean(row, "iou").values()))),
        number(Spread.of(list(measured.mirrored(row).values()))),
        *(against(measured, row, rival) for rival in RIVALS),
        f"{measured.value(row, 'parameters') / 1e6:.2f} M",
        f"{measured.value(row, 'flops') / 1e9:.1f}",
    ]


def _rate(measured: Measured, row: str) -> str:
    """Learning rate, with a star where a further one, beyond all that were tried, might be better."""
    rate, tried = measured.value(row, "rate"), measured.experiment.rates
    return f"{rate:g}{'*' if len(tried) > 1 and rate in (min(tried), max(tried)) else ''}"


def _rates(measured: Measured) -> str:
    """What each rate was chosen by, row by row."""
    if not any(measured.tuning.values()):
        return ""
    rates, lines = measured.experiment.rates, []
    for row, scores in measured.tuning.items():
        told = (
            "–" if rate not in scores else "diverged" if scores[rate] == DIVERGED else f"{scores[rate]:.4f}"
            for rate in rates
        )
        lines.append([row, *told])
    head = ["row", *(f"{rate:g}" for rate in rates)]
    return "What learning rates are chosen by: Dice on the training cases set aside, one seed.\n\n" + table(head, lines)


def _removed(measured: Measured) -> str:
    levels = measured.levels("prosma")
    if not levels:
        return ""
    told = ", ".join(f"{100 * level:.1f} %" for level in levels)
    return f"Removed by ProSMA's gates, finest level first: {told}.\n"


def _robustness(measured: Measured, rows: Sequence[str]) -> str:
    rows = [row for row in rows if measured.corrupted(row, 1)]
    if not rows:
        return ""
    lines = []
    for kind in (*CORRUPTIONS, None):
        for strength in (1, 2, 3):
            values = [number(Spread.of(list(measured.corrupted(row, strength, kind).values()))) for row in rows]
            lines.append([kind or "**mean**", str(strength), *values])
    return "Dice on the same images made worse:\n\n" + table(["corruption", "strength", *rows], lines)


def _curve(measured: Measured) -> str:
    curves = (
        [result["curve"] for result in measured.results["prosma"].values() if result.get("curve")]
        if ("prosma" in measured.results)
        else []
    )
    if not curves:
        return ""
    lines = []
    for same in zip(*curves, strict=False):  # the first curves ended at 4
        removed = [mean(level) for level in zip(*(point["removed"] for point in same), strict=True)]
        dice = number(Spread.of([point["dice"] for point in same]))
        lines.append([f"{same[0]['scale']:g}", *(f"{100 * level:.1f}" for level in (mean(removed), *removed)), dice])
    head = [
        "thresholds times",
        "removed, mean of levels (%)",
        *(f"level {i}" for i in range(len(lines[0]) - 3)),
        "Dice",
    ]
    return "ProSMA with all learned thresholds multiplied after the training:\n\n" + table(head, lines)


def _ablation(measured: Measured) -> str:
    there = [row for row, found in measured.results.items() if found]
    title = f"## Ablation: {measured.experiment.title or measured.experiment.name}\n"
    if len(there) < 2:
        return f"{title}\nNothing is measured yet.\n"
    lines = []
    for row in there:
        levels = ", ".join(f"{100 * level:.0f}" for level in measured.levels(row))
        dice = number(Spread.of(list(measured.clean(row).values())))
        words = measured.experiment.rows[row].words
        values = f"{measured.value(row, 'parameters') / 1e6:.2f} M"
        flops = f"{measured.value(row, 'flops') / 1e9:.1f}"
        seeds = str(len(measured.results[row]))
        lines.append([row, words, seeds, dice, against(measured, row, "prosma"), levels, values, flops])
    seen = "Judged on the validation cases.\n"
    if measured.experiment.judged_on == "choose":
        seen = "Trained on a part of the training cases, judged on the rest: no validation case is seen.\n"
    rates = ", ".join(f"{rate:g}" for rate in measured.experiment.rates)
    seen += f"Learning rate {rates} unless the row says otherwise.\n" if len(measured.experiment.rates) == 1 else ""
    return f"{title}\n{seen}\n" + table(
        ["row", "what", "seeds", "Dice", "against prosma", "removed per level (%)", "parameters", "GFLOP"], lines
    )


def _missing(measured: Sequence[Measured]) -> str:
    lines = []
    for each in measured:
        missing, failed = each.missing(), {row: count for row, count in each.failed.items() if count}
        of = len(each.experiment.seeds)
        if len(missing) == len(each.results) and set(missing.values()) == {of}:
            lines.append(f"- {each.experiment.name}: every row")
        elif missing:
            told = (row if count == of else f"{row} ({count} of {of} seeds)" for row, count in missing.items())
            lines.append(f"- {each.experiment.name}: {', '.join(told)}")
        if failed:
            lines.append(f"- {each.experiment.name}, diverged: {', '.join(f'{r} ({c})' for r, c in failed.items())}")
    return "## Missing\n\n" + ("\n".join(lines) or "Nothing: every row of every experiment is measured.") + "\n"


def _origin(results: Sequence[Result]) -> str:
    """Where the numbers come from: machines and versions, most frequent first."""

    def count(key: str, words: Any) -> str:
        return "; ".join(f"{name} ({n} runs)" for name, n in Counter(words(r[key]) for r in results).most_common())

    if not results:
        return ""
    machines = count("machine", lambda m: f"{m['device']} {m['name']}")
    versions = count("versions", lambda v: f"torch {v['torch']}, prosma_core {v['prosma_core']}")
    return f"## Where the numbers come from\n\n{machines}. {versions}.\n"
