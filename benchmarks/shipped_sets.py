"""Bring a data set into the form that a shipped model is trained on.

    python benchmarks/shipped_sets.py axonmyelin_sem DIR/axonmyelin_sem OUT
    python benchmarks/shipped_sets.py dsb2018_stained DIR/dsb2018_stained OUT

Images whose pixel size stands in cases.csv (axonmyelin_sem) become TIFF files that state it; labels that number objects
(dsb2018_stained) become two classes, 2 where two objects touch. All else stays. The other sets need no change.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

import numpy as np
import tifffile
from _nuclei import touching_classes
from PIL import Image


def write_axons(source: Path, out: Path) -> None:
    """TIFF images with their pixel size in micrometers, and labels beside them."""
    for part in ("images", "labels"):
        (out / part).mkdir(parents=True)
        with (source / "cases.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                path = source / part / f"{row['name']}.png"
                if path.exists():  # the table names the cases of the held-out part as well
                    size = float(row["pixel_size_um"])
                    tifffile.imwrite(
                        out / part / f"{row['name']}.tif",
                        np.asarray(Image.open(path)),
                        imagej=True,
                        resolution=(1 / size, 1 / size),
                        metadata={"unit": "um", "axes": "YX"},
                    )
    shutil.copy(source / "splits.json", out / "splits.json")


def write_borders(source: Path, out: Path) -> None:
    """The same images, with labels 1 inside of an object and 2 within 2 pixels of two."""
    shutil.copytree(source / "images", out / "images")
    (out / "labels").mkdir()
    for path in sorted((source / "labels").iterdir()):
        Image.fromarray(touching_classes(np.asarray(Image.open(path)))).save(out / "labels" / path.name)
    shutil.copy(source / "splits.json", out / "splits.json")


SETS = {"axonmyelin_sem": write_axons, "dsb2018_stained": write_borders}


def main() -> None:
    """Write one set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=sorted(SETS))
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    SETS[options.set](options.source, options.out)


if __name__ == "__main__":
    main()
