"""Evidence for the gate: trains and judges the rows of an experiment, one JSON for each run.

    python3 run.py bench evidence RUN.yaml --data DIR --out JSON_DIR --device cuda --parallel 4 --minutes 25

RUN.yaml is one or several of `benchmarks/evidence/`. What is measured already, by its settings, is left out; what was
stopped goes on. Learning rates are chosen on a part of the training cases, by one run for each rate; then all training
cases are trained on, and the validation cases are judged. `python3 run.py bench evidence_page JSON_DIR` makes a page of
the JSON files. The code is in the folder `evidence` beside this file.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch
from evidence.experiment import RESULTS, Experiment, dry, load
from evidence.many import STOPPED, Many
from evidence.one import OutOfTimeError, measure
from evidence.runs import Run, count_left, read_results, ready


def options() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("yaml", type=Path, nargs="+", help="Experiments.")
    parser.add_argument("--data", type=Path, required=True, help="Folder that holds the folders of the data sets.")
    parser.add_argument("--out", type=Path, default=RESULTS, help="Folder of the JSON files.")
    parser.add_argument("--work", type=Path, help="Folder of models, logs and stopped runs; OUT/models unless given.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="Only these rows.")
    parser.add_argument("--parallel", type=int, default=1, help="Runs side by side; 0 for all in this process.")
    parser.add_argument("--gpus", nargs="+", default=[], metavar="N", help="Deal the runs out to these GPUs.")
    parser.add_argument("--minutes", type=float, help="Stop after this time; the same command goes on.")
    parser.add_argument("--whole", action="store_true", help="Start no run that will probably not end in time.")
    parser.add_argument("--threads", type=int, help="Of each run; the cores divided by --parallel unless given.")
    parser.add_argument("--dry", action="store_true", help="Two steps of tiny networks, to see that everything runs.")
    parser.add_argument("--list", action="store_true", help="Only list what can be started now.")
    parser.add_argument("--run", help=argparse.SUPPRESS)  # the key of the one run of this process
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    chosen.work = chosen.work or chosen.out / "models"
    chosen.threads = chosen.threads or max(1, (os.cpu_count() or 1) // max(1, chosen.parallel))
    if chosen.minutes is not None:
        chosen.until = time.time() + 60 * chosen.minutes
    return chosen


def command(chosen: argparse.Namespace, run: Run, until: float | None) -> list[str]:
    """Command line of one run."""
    words = [sys.executable, str(Path(__file__).resolve()), *map(str, chosen.yaml), "--run", run.key]
    for name in ("data", "out", "work", "device", "threads"):
        words += [f"--{name}", str(getattr(chosen, name))]
    return words + (["--dry"] if chosen.dry else []) + ([] if until is None else ["--until", str(until)])


def one(run: Run, chosen: argparse.Namespace) -> int:
    """Measure one run here; the exit code."""
    try:
        print(measure(run, chosen.data, chosen.out, chosen.work, chosen.device, chosen.until).name, flush=True)
    except OutOfTimeError:
        return STOPPED
    return 0


def here(experiments: list[Experiment], chosen: argparse.Namespace) -> int:
    """Measure all runs in this process, one after the other; the number of those that are left."""
    tried: set[str] = set()
    for experiment in experiments:
        while runs := [r for r in ready(experiment, read_results(chosen.out), chosen.only) if r.key not in tried]:
            tried.add(runs[0].key)
            if one(runs[0], chosen):
                break
    return sum(count_left(experiment, read_results(chosen.out), chosen.only) for experiment in experiments)


def main() -> int:
    """Measure, or list; the exit code says whether all went well."""
    chosen = options()
    torch.set_num_threads(chosen.threads)
    experiments = [dry(load(path)) if chosen.dry else load(path) for path in chosen.yaml]
    unknown = set(chosen.only) - {row for experiment in experiments for row in experiment.rows}
    if unknown:
        sys.exit(f"No experiment has a row {', '.join(sorted(unknown))}.")
    can_start = [run for e in experiments for run in ready(e, read_results(chosen.out), chosen.only)]
    if chosen.run:
        return one(next(run for run in can_start if run.key == chosen.run), chosen)
    if chosen.list:
        print(*(run.key for run in can_start), sep="\n")
        return 0
    failed: list[str] = []
    if chosen.parallel == 0:
        left = here(experiments, chosen)
    else:
        many = Many(
            experiments,
            chosen.only,
            chosen.out,
            chosen.work,
            lambda run, until: command(chosen, run, until),
            chosen.parallel,
            chosen.until,
            chosen.gpus,
            chosen.whole,
        )
        left, failed = many.run(), many.failed
    print(f"{left} runs are left{f', {len(failed)} failed: see the logs in {chosen.work}' if failed else ''}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
