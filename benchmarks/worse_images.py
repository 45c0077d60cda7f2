"""What a model makes of scans as they are, and of the same scans made worse.

    python3 run.py bench worse_images MODEL DIR/msd_hippocampus [--strength 2] [--cases 35]

MODEL is a shipped model or a file. Mean Dice of the validation scans and classes, on the scans' own grids; the kinds of
worse images, and what their strengths mean, are in `benchmarks/evidence/corruptions.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from _measured_training import mean_dice
from evidence.corruptions import CORRUPTIONS, corrupted

from prosma_core.io.bundle import find_model
from prosma_core.io.dataset_folder import open_dataset, read_case


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--strength", type=int, choices=(1, 2, 3), default=2)
    parser.add_argument("--cases", type=int, help="Only the first of them.")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder, model = open_dataset(options.data), find_model(options.model)
    cases = {name: read_case(folder.cases[name]) for name in folder.splits["val"][: options.cases]}
    print(f"{options.model}, mean Dice of {len(cases)} validation scans: {mean_dice(model, [*cases.values()]):.4f}")
    for kind in CORRUPTIONS:
        worse = [(corrupted(image, name, kind, options.strength), labels) for name, (image, labels) in cases.items()]
        print(f"{kind}, strength {options.strength}: {mean_dice(model, worse):.4f}", flush=True)


if __name__ == "__main__":
    main()
