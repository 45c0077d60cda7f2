"""How long ``import prosma_core`` and ``prosma --help`` take: whole processes, median of --repeats.

python3 run.py bench start_up [--repeats 15]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from statistics import median

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import prosma_core": ["-c", "import prosma_core"],
    "prosma --help": ["-m", "prosma_core.cli.main", "--help"],
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats + 1):
        for name, arguments in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            times[name].append(time.perf_counter() - began)
    for name, values in times.items():
        print(f"{name:20} {median(values[1:]):.3f} s")


if __name__ == "__main__":
    main()
