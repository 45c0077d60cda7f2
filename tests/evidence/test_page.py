"""What the page of the evidence says of results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Make = Callable[..., Any]

COMPARED = {
    "plain": {"full": True, "set": {"gate": {"kind": "none"}}},
    "attention": {"full": True, "set": {"gate": {"kind": "attention"}}},
    "prosma": {"full": True},
    "plain-wide": {"full": True, "set": {"gate": {"kind": "none"}, "network": {"width": 8}}},
}
SIGNED = {"gate": {"form": "signed"}}
WON = {"plain": 0.80, "attention": 0.81, "prosma": 0.83, "plain-wide": 0.80}


def whole(ev: SimpleNamespace, experiments: list[Any], results: list[dict[str, Any]], **options: bool) -> str:
    """The page and the tables behind it."""
    return ev.page.page(experiments, results, **options) + ev.page.tables(experiments, results, **options)


def verdicts(ev: SimpleNamespace, experiments: list[Any], results: list[dict[str, Any]]) -> list[str]:
    sets = [ev.measured.Measured.of(each, results) for each in experiments]
    return [claim.verdict for claim in (*ev.claims.claims(sets), *ev.claims.goals(sets))]


def test_claims_hold_where_the_gate_wins(ev: SimpleNamespace, experiment: Make, judged: Make) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1, 2), targets={"dice": 0.8})
    assert verdicts(ev, [each], judged(each, WON)) == ["holds"] * 7


def test_claims_do_not_hold_where_it_loses(ev: SimpleNamespace, experiment: Make, judged: Make) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1, 2), targets={"dice": 0.8})
    lost = judged(each, {**WON, "prosma": 0.79}, levels=[{"removed": 0.5}, {"removed": 0.1}])
    assert verdicts(ev, [each], lost) == ["does not hold"] * 7
    text = whole(ev, [each], lost)
    assert "**Does not hold**: On clean images" in text
    assert "not above both (**-1.00 ± 0.00** against plain, **-2.00 ± 0.00** against attention)" in text


def test_too_few_seeds_prove_nothing(ev: SimpleNamespace, experiment: Make, judged: Make) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1, 2), targets={"dice": 0.8})
    two = [r for r in judged(each, WON) if r["seed"] < 2]
    assert set(verdicts(ev, [each], two)) == {"cannot be said"}


def test_difference_of_three_seeds_needs_more_than_two_standard_errors(ev: SimpleNamespace) -> None:
    spread = ev.measured.Spread.of([0.001, 0.002, 0.003])
    assert ev.claims.difference(spread) == "+0.20 ± 0.06"
    assert ev.claims.difference(ev.measured.Spread.of([0.0019, 0.002, 0.0021])) == "**+0.20 ± 0.01**"


def test_small_loss_is_allowed_but_no_win(ev: SimpleNamespace, experiment: Make, judged: Make) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1, 2))
    close = judged(each, {**WON, "prosma": 0.808})
    assert verdicts(ev, [each], close)[:2] == ["does not hold", "holds"]


def test_larger_network_wins_nothing(ev: SimpleNamespace, experiment: Make, judged: Make) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1, 2))
    results = judged(each, WON)
    for each_result in results:
        each_result["parameters"] += 50 * (each_result["row"] == "prosma")
    assert verdicts(ev, [each], results)[5] == "does not hold"


def test_four_of_six_can_be_lost_before_all_are_measured(ev: SimpleNamespace, experiment: Make, judged: Make) -> None:
    six = [experiment(rows=COMPARED, seeds=(0, 1, 2), data=f"set{i}", name=f"set{i}") for i in range(6)]
    lost = [r for each in six[:3] for r in judged(each, {**WON, "prosma": 0.7})]
    assert verdicts(ev, six, lost)[0] == "does not hold"
    assert verdicts(ev, six, [r for each in six[:3] for r in judged(each, WON)])[0] == "cannot be said"
    assert verdicts(ev, six, [r for each in six[:4] for r in judged(each, WON)])[0] == "holds"


def test_page_names_what_is_missing_and_what_diverged(ev: SimpleNamespace, experiment: Make, judged: Make) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1, 2), title="Tiny set")
    results = judged(each, {"plain": 0.8, "prosma": 0.82})
    results[0] = {**results[0], "failed": "training diverged"}
    text = whole(ev, [each], results)
    assert "- tiny: plain (1 of 3 seeds), attention, plain-wide\n" in text
    assert "- tiny, diverged: plain (1)" in text
    assert "| prosma | 3 | 0.001 | 0.8210 ± 0.0010 |" in text
    assert "+2.00 ± 0.00" in text


def test_page_begins_with_one_line_for_each_data_set(ev: SimpleNamespace, experiment: Make, judged: Make) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1, 2))
    results = [r for r in judged(each, {**WON, "prosma": 0.831}) if (r["row"], r["seed"]) != ("plain", 2)]
    (line,) = [line for line in whole(ev, [each], results).split("\n") if line.startswith("| tiny | 2 |")]
    assert line.startswith(
        "| tiny | 2 | 0.8005 (2 of 3) | 0.8110 | 0.8320 | 0.8010 | **+3.10 ± 0.00** | **+2.10 ± 0.00** |"
    )
    assert line.endswith("| 50 to 50 |")
    assert "| tiny | – | – |" in whole(ev, [each], [])


def test_page_has_tables_of_robustness_curve_and_ablation(ev: SimpleNamespace, experiment: Make, judged: Make) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1, 2))
    ablation = experiment(
        name="cut", kind="ablation", rows={"prosma": {"full": True}, "signed": {"rate_of": "prosma", "set": SIGNED}}
    )
    results = judged(each, WON)
    results += judged(ablation, {"signed": 0.82}, levels=[{"removed": 0.25}])
    text = whole(ev, [each, ablation], results)
    assert "| speckle | 1 | 0.7010 ± 0.0010 |" in text
    assert "| **mean** | 3 |" in text
    assert "4 cases were trained on in 2 steps (learning rates are chosen by 2), 2 judged." in text
    assert "| 1 | 50.0 | 50.0 | 0.8310 ± 0.0010 |" in text
    assert "-1.00 (one seed) | 25 |" in text


def test_page_without_results_claims_nothing(ev: SimpleNamespace) -> None:
    text = whole(ev, ev.experiment.every(), [])
    assert "**Holds**" not in text
    assert "**Does not hold**" not in text
    assert "- busi: every row" in text


def test_page_says_how_much_hangs_on_the_images(ev: SimpleNamespace, experiment: Make, result: Make) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1), alike=("b",), notes="Two patients.")

    def run_of(row: str, seed: int, a: float, b: float) -> Any:
        scores = {
            name: {"organ": {"dice": dice, "present": True}, "other": {"dice": 1.0, "present": False}}
            for name, dice in (("a", a), ("b", b))
        }
        return result(ev.runs.Run(each, row, "judge", seed, 1e-3), (a + b) / 2, scores=scores)

    results = [run_of("plain", s, 0.5, 0.9) for s in (0, 1)]
    results += [run_of("prosma", 0, 0.6, 0.7), run_of("prosma", 1, 0.62, 0.7)]
    text = whole(ev, [each], results)
    assert "2 judged. Two patients." in text
    assert "Over the 2 images instead of the seeds, ± the standard error of their mean: ProSMA -4.50 ± 15.50 ag" in text
    assert "Without them, over seeds: ProSMA +11.00 ± 1.00 against plain." in text


def test_page_lists_what_was_judged_with_another_rate(ev: SimpleNamespace, experiment: Make, judged: Make) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1, 2))
    before = experiment(rows=COMPARED, seeds=(0, 1, 2), rates=(0.02,))
    text = whole(ev, [each], judged(each, WON) + judged(before, {"plain": 0.9}))
    assert "| tiny | plain | 0.02 | 2 | 3 | 0.9010 ± 0.0010 |" in text
    assert "Measured, and not used" not in whole(ev, [each], judged(each, WON))


def test_page_shows_what_rates_were_chosen_by(
    ev: SimpleNamespace, experiment: Make, judged: Make, result: Make
) -> None:
    rows = {"prosma": {}, "plain": {"set": {"gate": {"kind": "none"}}}, "signed": {"rate_of": "prosma", "set": SIGNED}}
    each = experiment(rows=rows, rates=(1e-3, 1e-2))
    results = [
        result(run, score=-1.0 if run.rate == 1e-2 else 0.4)
        for run in ev.runs.ready(each, [])
        if (run.row, run.rate) != ("plain", 1e-2)
    ]
    text = whole(ev, [each], results + judged(each, {"prosma": 0.8}))
    assert "| row | 0.001 | 0.01 |\n| --- | --- | --- |\n| prosma | 0.4000 | diverged |\n| plain | 0.4000 | – |" in text


def test_ablation_on_training_cases_is_said_to_be_one(ev: SimpleNamespace, experiment: Make, result: Make) -> None:
    each = experiment(kind="ablation", judged_on="choose", rates=(0.003,), rows={"prosma": {}, "fast": {"rate": 0.01}})
    scores = {"prosma": 0.8, "fast": 0.82}
    text = whole(ev, [each], [result(run, score=scores[run.row]) for run in ev.runs.ready(each, [])])
    assert "no validation case is seen.\n4 cases trained on in 2 steps, 2 judged.\n" in text
    assert "\nLearning rate 0.003 unless the row says otherwise." in text
    assert "| fast |  | 1 | 0.8200 | +2.00 (one seed) |" in text


def test_page_of_the_repository_is_that_of_its_results(ev: SimpleNamespace) -> None:
    results = ev.runs.read_results(ev.experiment.RESULTS)
    for make, name in ((ev.page.page, "docs/evidence.md"), (ev.page.tables, "benchmarks/evidence/tables.md")):
        stored = (ROOT / name).read_text(encoding="utf-8")
        assert stored == make(ev.experiment.every(), results), "make them anew: python3 run.py bench evidence_page"


def test_row_that_turns_out_to_be_another_is_listed_once(ev: SimpleNamespace, experiment: Make, judged: Make) -> None:
    rows = {**COMPARED, "again": {"full": True, "rate_of": "prosma", "set": {"gate": {"kind": "none"}}}}
    each = experiment(rows=rows, seeds=(0, 1, 2))
    results = judged(each, WON)
    measured = ev.measured.Measured.of(each, results)
    assert len(measured.results["again"]) == 3
    assert measured.there() == ["plain", "attention", "prosma", "plain-wide"]
    assert "| again |" not in whole(ev, [each], results)


def test_summary_says_where_the_gate_is_ahead_and_how_surely(
    ev: SimpleNamespace, experiment: Make, judged: Make
) -> None:
    two = [experiment(rows=COMPARED, seeds=(0, 1, 2), data=name, name=name) for name in ("won", "lost")]
    results = judged(two[0], WON) + judged(two[1], WON | {"prosma": 0.7})
    worse = judged(two[1], {"plain": 0.8})[0]["corrupted"]["speckle"]["2"]["dice"] + 0.1
    unsure = [r for r in results if (r["data"], r["row"], r["seed"]) == ("won", "plain", 1)]
    unsure[0]["corrupted"]["blur"]["2"] = {"dice": worse}
    text = whole(ev, two, results)
    assert "| clean | plain | won | won | lost | lost |" in text
    assert "| clean, mirrored | plain-wide |" in text
    assert (
        "strength 2), against plain: significantly ahead on 5 of 12, significantly behind on lost speckle -10.00"
        in text
    )
    curve = [{"scale": scale, "removed": [scale / 2], "dice": dice} for scale, dice in ((0, 0.81), (1, 0.83))]
    assert "Dice changes by -2.00 (won) to -2.00 (won)." in whole(ev, two, judged(two[0], WON, curve=curve))


def test_summary_says_nothing_of_fewer_than_three_seeds(ev: SimpleNamespace, experiment: Make, judged: Make) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1, 2))
    two = [result for result in judged(each, WON) if result["seed"] < 2]
    text = whole(ev, [each], two)
    assert "| clean | plain | – | – | – | – |" in text
    assert "significantly ahead on 0 of 6, significantly behind on none" in text


def test_a_difference_counts_as_certain_where_the_other_rival_is_missing(
    ev: SimpleNamespace, experiment: Make, judged: Make
) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1, 2))
    results = judged(each, {row: WON[row] for row in ("plain", "prosma")})
    claim = ev.claims.claims([ev.measured.Measured.of(each, results)])[0]
    assert (claim.verdict, "significant against plain on 1" in claim.text) == ("cannot be said", True)
    assert claim.why == ("tiny: (**+3.00 ± 0.00** against plain, not measured with 3 seeds)",)


def test_longer_training_has_a_table_and_targets_of_its_own(
    ev: SimpleNamespace, experiment: Make, judged: Make
) -> None:
    rows = {row: COMPARED[row] for row in ("plain", "prosma")}
    each = experiment(name="long", kind="longer", title="Tiny, long", rows=rows, targets={"dice": 0.82}, steps=200)
    short = experiment(rows=rows, steps=100, seeds=(0, 1, 2))
    results = judged(each, {row: WON[row] for row in rows})
    text = whole(ev, [each, short], results + judged(short, {"plain": 0.7, "prosma": 0.75}))
    assert "| Tiny, long | prosma | 1 | 0.001 | 0.8300 |" in text
    assert "+3.00 (one seed)" in text
    assert "Tiny, long: Dice of ProSMA at least 0.82.\n  - clean: 0.8300 (plain 0.8000), 1 of 3 seeds" in text
    assert "With longer training" not in text
    assert "## Longer training" not in whole(ev, [each], [])


def test_longer_training_of_three_seeds_is_a_comparison(ev: SimpleNamespace, experiment: Make, judged: Make) -> None:
    few, many = (
        experiment(name=name, kind=kind, rows=COMPARED, steps=steps, seeds=(0, 1, 2))
        for name, kind, steps in (("tiny", "comparison", 100), ("tiny_long", "longer", 200))
    )
    text = whole(ev, [few, many], judged(few, WON) + judged(many, WON | {"prosma": 0.82}))
    lead = "tiny **+2.00 ± 0.00** to **+1.00 ± 0.00** (100 to 200 steps)"
    assert f"- With longer training, against attention: {lead}." in text
    assert "- **Holds**: With longer training, ProSMA is above both on at least 1 of 1 data sets" in text
    lost = whole(ev, [few, many], judged(few, WON) + judged(many, WON | {"attention": 0.84}))
    assert "- **Does not hold**: With longer training" in lost


def change(ev: SimpleNamespace, experiment: Make, result: Make, score: float, **more: Any) -> list[Any]:
    """A data set and its ablation, with one change of the gate that has this Dice against the default's 0.8."""
    each = experiment(rows={"prosma": {}}, rates=(1e-3, 1e-2))
    asked = experiment(
        name="tiny_ablation",
        kind="ablation",
        judged_on="choose",
        seeds=(1, 2, 3),
        rows={"prosma": {}, "signed": {"set": SIGNED}},
    )
    scores = {"prosma": 0.8, "signed": score}
    results = [result(run, score=0.7 if run.rate == 1e-2 else 0.6) for run in ev.runs.ready(each, [])]
    results += [result(run, score=scores[run.row], **more) for run in ev.runs.ready(asked, [])]
    return [whole(ev, [each, asked], results), *(ev.measured.Measured.of(e, results) for e in (each, asked))]


def test_default_stands_where_no_change_is_above_it(ev: SimpleNamespace, experiment: Make, result: Make) -> None:
    text, each, asked = change(ev, experiment, result, 0.79)
    gate, rate = ev.defaults.stands([each], [asked])
    assert (gate.verdict, gate.why) == ("holds", ("signed: above on 0 of the 1 asked, mean -1.00",))
    assert rate.verdict == "does not hold"
    assert "| signed |  | **-1.00 ± 0.00** | 0 of 1 |" in text
    assert "| 0.01 | +10.00 | 1 of 1 | +10.00 |" in text


def test_default_falls_where_a_change_is_above_it(ev: SimpleNamespace, experiment: Make, result: Make) -> None:
    _, each, asked = change(ev, experiment, result, 0.81)
    assert ev.defaults.stands([each], [asked])[0].verdict == "does not hold"
    sparse = change(ev, experiment, result, 0.81, levels=[{"removed": 0.2}])
    gate = ev.defaults.stands(sparse[1:2], sparse[2:])[0]
    assert (gate.verdict, gate.why[0][-34:]) == ("holds", "; a level removes 20 %, too little")
    assert ev.defaults.stands([each], []) == ev.defaults.stands([each], [asked])[1:]


def test_default_is_open_while_a_change_may_still_be_above_it(
    ev: SimpleNamespace, experiment: Make, result: Make
) -> None:
    _, each, asked = change(ev, experiment, result, 0.81)
    others = [experiment(name=f"set{i}", data=f"set{i}", rows={"prosma": {}}) for i in range(5)]
    sets = [each, *(ev.measured.Measured.of(other, []) for other in others)]
    second = ev.measured.Measured.of(asked.experiment.replace(name="set0_ablation"), list(_all(asked)))
    gate = ev.defaults.stands(sets, [asked, second])[0]
    assert (gate.verdict, gate.why) == ("cannot be said", ("signed: above on 2 of the 2 asked, mean +1.00",))


def test_change_that_all_sets_were_asked_is_settled(ev: SimpleNamespace) -> None:
    by_set = {f"set{i}": ev.measured.Spread(0.01 if i < 4 else -0.1, None, 3) for i in range(6)}
    often_above = ev.defaults.Change("signed", "", by_set)
    assert (often_above.above, often_above.mean < 0) == (4, True)
    assert ev.defaults.verdict([often_above], 6) == "holds"
    asked_of_five = ev.defaults.Change("signed", "", {name: by_set[name] for name in list(by_set)[:5]})
    assert ev.defaults.verdict([asked_of_five], 6) == "cannot be said"


def _all(measured: Any) -> list[Any]:
    return [found for by_seed in measured.results.values() for found in by_seed.values()]


def test_patient_with_two_scans_counts_once(ev: SimpleNamespace, experiment: Make, result: Make) -> None:
    each = experiment(rows=COMPARED, choose={"group": "prefix"})

    def run_of(row: str, *dice: float) -> Any:
        names = zip(("p1_a", "p1_b", "p2_a"), dice, strict=True)
        scores = {name: {"organ": {"dice": value, "present": True}} for name, value in names}
        return result(ev.runs.Run(each, row, "judge", 0, 1e-3), 0.5, scores=scores)

    text = whole(ev, [each], [run_of("plain", 0.5, 0.7, 0.6), run_of("prosma", 0.6, 0.8, 0.8)])
    assert "Over the 2 patients instead of the seeds" in text
    assert "ProSMA +15.00 ± 5.00 against plain." in text


def test_curve_that_ends_early_is_missing(ev: SimpleNamespace, experiment: Make, judged: Make) -> None:
    each = experiment(rows=COMPARED, seeds=(0, 1, 2))
    assert "- tiny: Dice beyond 50 % removed\n" in whole(ev, [each], judged(each, WON))
    full = judged(each, WON, curve=[{"scale": 9.0, "removed": [0.96], "dice": 0.1}])
    assert "removed\n" not in whole(ev, [each], full).partition("## Missing")[2]
