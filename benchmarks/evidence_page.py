"""The page docs/evidence.md and the tables behind it from the stored results of `evidence`.

python3 run.py bench evidence_page [JSON_DIR] [--out docs/evidence.md] [--tables benchmarks/evidence/tables.md]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from evidence.experiment import RESULTS, dry, every
from evidence.page import page, tables
from evidence.runs import read_results

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "evidence.md")
    parser.add_argument("--tables", type=Path, default=ROOT / "benchmarks" / "evidence" / "tables.md")
    parser.add_argument("--dry", action="store_true", help="Of the experiments as `evidence --dry` runs them.")
    options = parser.parse_args()
    experiments = [dry(experiment) if options.dry else experiment for experiment in every()]
    results = read_results(options.results)
    for path, make in ((options.out, page), (options.tables, tables)):
        path.write_text(make(experiments, results, dry=options.dry), encoding="utf-8")
        print(f"{path} is written.")


if __name__ == "__main__":
    main()
