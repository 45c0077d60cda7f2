"""Put the results of new runs into the table that is committed: ``python3 run.py bench evidence_pack``."""

from __future__ import annotations

import argparse
from pathlib import Path

from evidence.experiment import RESULTS
from evidence.runs import pack_results


def main() -> None:
    """Pack a folder of results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    folder = parser.parse_args().results
    print(f"{pack_results(folder)} runs in {folder}")


if __name__ == "__main__":
    main()
