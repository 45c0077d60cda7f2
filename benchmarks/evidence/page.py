"""The page: tables and claims from stored results, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import mean
from typing import Any

from evidence.claims import LEAST_SEEDS, RIVALS, STRENGTH, Claim, claims, claims_of_longer, difference, goals
from evidence.comparison import comparison
from evidence.defaults import defaults, stands
from evidence.experiment import Experiment
from evidence.in_short import LARGER, in_short
from evidence.longer import longer_training, short_table
from evidence.measured import Measured, Spread, paired
from evidence.runs import Result
from evidence.tables import against, number, table

FULL_CURVE = 0.95
"""Removed fraction that a curve has to reach."""
HEAD = """\
# Evidence: does the gate earn its place?

Made by `python3 run.py bench evidence_page` from one stored result per training (`benchmarks/evidence/results/`); do
not edit it. Every table behind it, with corruptions, thresholds, learning rates and ablations of each data set:
[benchmarks/evidence/tables.md](../benchmarks/evidence/tables.md).

**How it was measured.** Plain U-Net, attention U-Net and ProSMA-UNet (the package's default gate) with the same
steps, patches, loss and augmentation on six public data sets, three seeds each. Only the learning rate was tuned for
each network, on training cases set aside. Then all training cases were trained on, and the moving average of the last
weights was judged on the validation cases, on each image's own grid. *plain-wide* is a plain U-Net with at least
ProSMA's parameters and operations; *residual-encoder* is nnU-Net's network alone, larger, trained like the others.
Splits are our own: Dice cannot be compared with papers.

**How to read it.** Dice is the mean over the images that show a class, then over classes, then over seeds.
Differences are paired by seed, in Dice points, ± their standard error. In **bold**: significant, the 95 % interval
(4.3 standard errors to either side with three seeds) does not include 0. Many differences are looked at: some are
bold by chance.

**What was not independent.** Settings other than the rate were found earlier, with ProSMA, those of hippocampus on
the cases judged here. Rates were added where the lowest or highest had been chosen, some after a row had been judged
(on GlaS that turned -0.82 against plain into +0.48).
"""
TABLES = """\
# Tables of the evidence

All that was measured, by data set; made with `docs/evidence.md`, which says how it was measured and what follows from
it.

Words: a *level* is a skip connection, the finest first; an activation of a skip is *removed* where the gate sets it
to exactly 0, which its *threshold* decides; *dilations* are the scales of the gate's field, *offset* is what is added
to it (`docs/method.md`). *Strengths* 1 to 3 of the corruptions are in `benchmarks/evidence/corruptions.py`. ± of a
Dice is the standard deviation over seeds, of a difference its standard error. plain-wide has the learning rate of
plain, plain-same-rate that of ProSMA. Rates were added where the lowest or highest had been chosen (not below 0.0001
and above 0.01): 0.01 after GlaS and hippocampus had been judged with the other three, 0.0003 after Kvasir-SEG had,
0.0001 after ACDC, BUSI and Kvasir-SEG had.
"""
DRY = "**This is a dry run of two steps: none of its numbers means anything.**\n"


def page(experiments: Sequence[Experiment], results: Sequence[Result], *, dry: bool = False) -> str:
    """What a reader decides by, as Markdown."""
    measured, sets, longer, ablations = _measured(experiments, results)
    judged = [*claims(sets), *stands(sets, ablations), *claims_of_longer(longer)]
    parts = [HEAD, DRY if dry else "", in_short(sets, longer), _overview(sets)]
    parts += [_claims(judged), short_table(longer), defaults(sets, ablations), _missing(measured), _origin(results)]
    return "\n".join(part for part in parts if part)


def tables(experiments: Sequence[Experiment], results: Sequence[Result], *, dry: bool = False) -> str:
    """Everything that was measured, as Markdown."""
    measured, sets, longer, ablations = _measured(experiments, results)
    judged = [*claims(sets), *stands(sets, ablations), *claims_of_longer(longer)]
    parts = [TABLES, DRY if dry else "", _claims(judged, whole=True), _goals(goals([*sets, *longer]))]
    parts += [*(comparison(m) for m in sets), longer_training(longer), *(_ablation(m) for m in ablations)]
    used = {id(found) for each in measured for rows in each.results.values() for found in rows.values()}
    parts += [_no_longer(sets, [r for r in results if id(r) not in used])]
    return "\n".join(part for part in parts if part)


def _measured(
    experiments: Sequence[Experiment], results: Sequence[Result]
) -> tuple[list[Measured], list[Measured], list[Measured], list[Measured]]:
    """All experiments; the comparisons, the longer trainings and the ablations among them."""
    measured = [Measured.of(experiment, results) for experiment in experiments]
    kinds = {kind: [m for m in measured if m.experiment.kind == kind] for kind in ("comparison", "longer", "ablation")}
    return measured, kinds["comparison"], kinds["longer"], kinds["ablation"]


def _overview(sets: Sequence[Measured]) -> str:
    """One line for each data set: what was measured of ProSMA, its rivals and larger networks."""
    rows = (*RIVALS, "prosma", *(row for row in LARGER if any(m.results.get(row) for m in sets)))
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
                str(len(measured.by_image("prosma")) or cases["judged"]),
                *(_with_count(measured, row) for row in rows),
                *(against(measured, "prosma", rival) for rival in RIVALS),
                *("" if spread is None else difference(spread) for spread in worse),
                f"{100 * min(levels):.0f} to {100 * max(levels):.0f}" if levels else "–",
            ]
        )
    head = ["data", "judged", *rows]
    head += [f"against {rival}" for rival in RIVALS]
    head += [f"corrupted, against {rival}" for rival in RIVALS]
    words = (
        "Dice on clean images; ProSMA's difference to plain and attention on clean and corrupted ones (strength "
        f"{STRENGTH}); share of activations that its gates set to zero, lowest to highest level."
    )
    return f"## At a glance\n\n{words}\n\n" + table([*head, "removed (%)"], lines)


def _with_count(measured: Measured, row: str) -> str:
    """Mean Dice, and how many seeds where some are missing."""
    values = list(measured.clean(row).values())
    missing = "" if measured.complete(row) or not values else f" ({len(values)} of {len(measured.experiment.seeds)})"
    return f"{mean(values):.4f}{missing}" if values else "–"


def _claims(judged: Sequence[Claim], *, whole: bool = False) -> str:
    lines = ["## What holds, and what does not\n", f"A comparison needs {LEAST_SEEDS} seeds of both sides.\n"]
    return "\n".join([*lines, *_listed(judged, whole=whole)]) + "\n"


def _goals(goals_set: Sequence[Claim]) -> str:
    if not goals_set:
        return ""
    words = "Set for ProSMA before anything was measured; reaching one is no credit to the gate.\n"
    return "\n".join(["## Goals\n", words, *_listed(goals_set, whole=True)]) + "\n"


def _listed(judged: Sequence[Claim], *, whole: bool) -> list[str]:
    lines = []
    for claim in judged:
        lines.append(f"- **{claim.verdict.capitalize()}**: {claim.text}")
        lines += [f"  - {why}" for why in claim.why if whole]
    return lines


def _ablation(measured: Measured) -> str:
    there = measured.there()
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
    cases, steps = measured.value(there[0], "cases"), measured.experiment.tuning_steps or measured.experiment.steps
    seen += f"{cases['train']} cases trained on in {steps} steps, {cases['judged']} judged.\n"
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
    for each in (m for m in measured if m.experiment.kind == "comparison" and m.results.get("prosma")):
        ends = [m.most_removed("prosma") for m in measured if m.experiment.data == each.experiment.data]
        if max(ends) < FULL_CURVE:
            lines.append(f"- {each.experiment.name}: Dice beyond {100 * max(ends):.0f} % removed")
    return "## Missing\n\n" + ("\n".join(lines) or "Nothing: every row of every experiment is measured.") + "\n"


def _no_longer(sets: Sequence[Measured], unused: Sequence[Result]) -> str:
    """What was judged with a rate that is not the chosen one: nothing that was measured is left out of the page."""
    by_row: dict[tuple[str, str, float, int], list[float]] = {}
    for result in unused:
        if result["phase"] == "judge" and "summary" in result:
            steps = result["config"]["run"]["training"]
            key = (result["data"], result["row"], result["rate"], steps["epochs"] * steps["steps"])
            by_row.setdefault(key, []).append(result["summary"]["dice"])
    titles = {each.experiment.data: each.experiment.name for each in sets}
    lines = [
        [titles.get(data, data), row, f"{rate:g}", str(steps), str(len(dice)), number(Spread.of(dice))]
        for (data, row, rate, steps), dice in sorted(by_row.items())
    ]
    if not lines:
        return ""
    words = "Judged before another rate was chosen; no verdict rests on these.\n"
    return f"## Measured, and not used\n\n{words}\n" + table(["data", "row", "rate", "steps", "seeds", "Dice"], lines)


def _origin(results: Sequence[Result]) -> str:
    """Where the numbers come from: machines and versions, most frequent first."""

    def count(key: str, words: Any) -> str:
        return "; ".join(f"{name} ({n} runs)" for name, n in Counter(words(r[key]) for r in results).most_common())

    if not results:
        return ""
    machines = count("machine", lambda m: f"{m['device']} {m['name']}")
    versions = count("versions", lambda v: f"torch {v['torch']}, prosma_core {v['prosma_core']}")
    return f"## Where the numbers come from\n\n{machines}. {versions}.\n"
