"""Write a data folder of 3D phantoms: ``python benchmarks/phantom_dataset.py FOLDER``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from prosma_core.data.phantom import phantom_3d
from prosma_core.io.images import write_image, write_labels

FIRST_SEED = 1000
"""Seeds below are left for the demo, the tests and people who try."""


def main() -> None:
    """Write 40 training and 10 validation cases, half of them MR-like and half CT-like."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    names = []
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for i in range(50):
        image, labels = phantom_3d(FIRST_SEED + i, modality="ct" if i % 2 else "mr")
        names.append(f"phantom_{i:03d}")
        write_image(folder / "images" / f"{names[-1]}.nii.gz", image.data, image.spec, overwrite=True)
        notes = {"program": "phantom_dataset.py", "synthetic": "phantom"}  # the model's header says so, too
        target = folder / "labels" / f"{names[-1]}.nii.gz"
        write_labels(target, labels.data, labels.spec, overwrite=True, provenance=notes)
    splits = {"train": names[:40], "val": names[40:]}
    (folder / "splits.json").write_text(json.dumps(splits, indent=1))


if __name__ == "__main__":
    main()
