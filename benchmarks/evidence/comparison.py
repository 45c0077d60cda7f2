"""The page's section of one data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean

from evidence.claims import RIVALS, difference
from evidence.corruptions import CORRUPTIONS
from evidence.measured import Measured, Spread, paired
from evidence.runs import DIVERGED
from evidence.splits import ALIKE
from evidence.tables import against, number, table


def comparison(measured: Measured) -> str:
    """All that was measured on one data set."""
    there = measured.there()
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
        "parameters",
        "GFLOP",
    ]
    lines.append(table(head, [_row(measured, row) for row in there]))
    lines += [f"- {row}: {measured.experiment.rows[row].words}" for row in there] + [""]
    experiment = measured.experiment
    if cases := measured.value(there[0], "cases"):
        lines.append(
            f"{cases['train']} cases were trained on in {experiment.steps} steps (learning rates are chosen by "
            f"{experiment.tuning_steps or experiment.steps}), {cases['judged']} judged. {experiment.notes}".strip()
            + "\n"
        )
    tile = " x ".join(map(str, measured.value(there[0], "tile")))
    lines.append(f"GFLOP: forward pass of one tile, {tile}; *: lowest or highest rate tried.\n")
    lines += [over_cases(measured), _rates(measured), _removed(measured), _robustness(measured, there), curve(measured)]
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


def by_case(measured: Measured) -> tuple[str, Callable[[str], dict[str, float]]]:
    """What counts as one case, and the Dice of each by row: patients where they have several images."""
    grouped = measured.experiment.choose.group == "prefix"
    return ("patients", measured.by_patient) if grouped else ("images", measured.by_image)


def over_cases(measured: Measured) -> str:
    """What hangs on the images that happened to be judged: ProSMA against its rivals, image by image."""
    what, values = by_case(measured)
    ours, alike, words = values("prosma"), measured.experiment.alike, ""
    for rival in RIVALS:
        if spread := paired(ours, values(rival)):
            words += f", {difference(spread)} against {rival}"
    if not words:
        return ""
    text = f"Over the {len(ours)} {what} instead of the seeds, ± the standard error of their mean: ProSMA{words[1:]}.\n"
    if alike:
        told = [
            f"{difference(spread)} against {rival}"
            for rival in RIVALS
            if (spread := paired(measured.without("prosma", alike), measured.without(rival, alike)))
        ]
        text += (
            f"\nImages that look like a training image (thumbnails correlate by {ALIKE} or more): {', '.join(alike)}. "
        )
        text += f"Without them, over seeds: ProSMA {', '.join(told)}.\n"
    return text


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
    words = "What learning rates are chosen by: Dice on the training cases set aside, on the network's grid, one seed"
    return f"{words}; a class that is in neither map counts as 1.\n\n" + table(head, lines)


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
    return "Dice on the same images, corrupted:\n\n" + table(["corruption", "strength", *rows], lines)


def curve(measured: Measured) -> str:
    """Dice over the removed fraction, at the multiples of the thresholds that all seeds have."""
    curves = [
        {point["scale"]: point for point in result["curve"]}
        for result in measured.results.get("prosma", {}).values()
        if result.get("curve")
    ]
    if not curves:
        return ""
    lines: list[list[str]] = []
    for scale in sorted(set.intersection(*map(set, curves))):
        points = [curve[scale] for curve in curves]
        removed = [mean(level) for level in zip(*(point["removed"] for point in points), strict=True)]
        dice = number(Spread.of([point["dice"] for point in points]))
        lines.append([f"{scale:g}", *(f"{100 * level:.1f}" for level in (mean(removed), *removed)), dice])
    if not lines:
        return ""
    levels = [f"level {i}{' (finest)' if i == 0 else ''}" for i in range(len(lines[0]) - 3)]
    head = ["thresholds times", "removed, mean of levels (%)", *levels, "Dice"]
    return "ProSMA with all learned thresholds multiplied after the training:\n\n" + table(head, lines)
