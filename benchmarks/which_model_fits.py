"""Which shipped model is warned of on which scan, which is chosen by itself: a table of benchmarks/experiments.md.

    python benchmarks/which_model_fits.py --data DIR

DIR holds data sets (``images/`` and ``splits.json`` each) and ``ui_samples``. All validation scans of the sets and all
scans of the samples are compared with what the headers of the shipped models say; nothing is segmented.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from prosma_core.config.model import ModelHeader
from prosma_core.data.fit import compare, misfit
from prosma_core.data.look import describe
from prosma_core.io.bundle import read_header, shipped_models
from prosma_core.io.dicom import dicom_modality
from prosma_core.io.images import is_image_path, read_image

SAMPLES = "ui_samples"
LABELS = "label"


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    root = parser.parse_args().data
    headers = {name: read_header(path) for name, path in shipped_models().items()}
    print("| scans | " + " | ".join(headers) + " |")
    print("|---|" + "---|" * len(headers))
    for name, paths in scans(root):
        rows = [Counter[str]() for _ in headers]
        said: list[str] = ["" for _ in headers]
        for path in paths:
            for i, (verdict, text) in enumerate(verdicts(path, list(headers.values()))):
                rows[i][verdict] += 1
                said[i] = said[i] or text
        cells = [", ".join(f"{verdict} {count}" for verdict, count in row.most_common()) for row in rows]
        print(f"| {name} | " + " | ".join(cells) + " |")
        for text in filter(None, said):
            print(f"    {text}")


def scans(root: Path) -> Iterator[tuple[str, list[Path]]]:
    """Names of sets and samples, and their scans."""
    for folder in sorted(root.iterdir()):
        if (folder / "images").is_dir():
            names = json.loads((folder / "splits.json").read_text(encoding="utf-8"))["val"]
            files = {path.name.partition(".")[0]: path for path in (folder / "images").iterdir()}
            yield f"{folder.name} ({len(names)} val)", [files[name] for name in names]
    for folder in sorted((root / SAMPLES).iterdir()):
        if not folder.is_dir():
            continue
        if any(folder.glob("*.dcm")):
            yield folder.name, [folder]
            continue
        for path in sorted(folder.iterdir()):
            if is_image_path(path) and not path.name.startswith(LABELS):
                yield f"{folder.name}/{path.name}", [path]


def verdicts(path: Path, headers: list[ModelHeader]) -> list[tuple[str, str]]:
    """Verdict and reason of each model for a scan; "cannot" where it cannot take the scan at all."""
    scan = read_image(path)
    modality = dicom_modality(path) if scan.spec.format == "dicom" else ""
    look = describe(scan.spec, scan.data, modality=modality)
    found = []
    for header in headers:
        refused, fit = misfit(scan, header), compare(look, header)
        found.append(("cannot", refused) if refused else (fit.verdict, fit.text))
    return found


if __name__ == "__main__":
    main()
