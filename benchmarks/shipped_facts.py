"""Write statistics of the training scans into the headers of the shipped models; the weights do not change.

    python benchmarks/shipped_facts.py NAME --data DIR [--validation]

DIR is the data set that NAME was trained on (see docs/models.md). The statements of its settings in benchmarks/shipped/
(``purpose``) and the numbers measured on the train split are written; with --validation also in how many cases of the
val split a class is missed altogether (no voxel of it found), which takes a minute.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from prosma_core.api import load_model, segment
from prosma_core.config.training import load_run_yaml
from prosma_core.data.labels import class_indices
from prosma_core.data.look import describe, facts_of
from prosma_core.io.bundle import find_model, load_bundle, save_bundle
from prosma_core.io.dataset_folder import open_dataset, read_case
from prosma_core.training.split import choose_cases

SETTINGS = Path(__file__).parent / "shipped"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--validation", action="store_true")
    options = parser.parse_args()
    path = find_model(options.name)
    header, weights = load_bundle(path)
    purpose = load_run_yaml(SETTINGS / f"{options.name}.yaml")["purpose"]
    folder = open_dataset(options.data)
    split = choose_cases(folder, 0)
    looks = []
    for case in split.train:
        image, _ = read_case(folder.cases[case])
        looks.append(describe(image.spec, image.data))
    facts = facts_of(looks, synthetic=header.synthetic)
    training = dict(header.training)
    if options.validation:
        training["validation_missed"] = missed(options.name, folder, split.val)
    values = header.model_dump() | {"purpose": purpose, "facts": facts.model_dump(), "training": training}
    written = save_bundle(path, type(header).parse(values, options.name), weights)
    assert written.sha256 == header.sha256, "the weights changed"
    print(facts.model_dump_json(indent=1), training.get("validation_missed"))


def missed(name: str, folder, cases) -> dict[str, tuple[int, int]]:
    """Cases in which no voxel of a class was found where there is one, and cases that show it, by class."""
    model = load_model(name, device="cpu")
    counts = {c.name: [0, 0] for c in model.header.classes[1:]}
    for case in cases:
        image, labels = read_case(folder.cases[case])
        reference = class_indices(labels.data, model.header.classes, case)
        found = segment(image, model)
        for i, info in enumerate(model.header.classes[1:], 1):
            if (reference == i).any():
                counts[info.name][1] += 1
                counts[info.name][0] += not np.any((reference == i) & (found == info.value))
    return {key: (value[0], value[1]) for key, value in counts.items()}


if __name__ == "__main__":
    main()
