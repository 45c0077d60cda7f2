"""Measure the shipped models, and write what was found into headers, cards and docs/models.md; weights do not change.

    python3 run.py bench shipped_facts DIR [NAME ...] [--threads 2] [--tables]

DIR holds the data sets (see docs/models.md); models without a NAME stay unchanged. Of each model are written: the
statements of its settings in benchmarks/shipped/ (``purpose``); what its training scans are like; figures on the images
of the val split, clean and corrupted, with 95 % intervals; what `shipped_models.yaml` says of its training; and
its thumbnail, a training image with the outline of its labels. On 2 cores that takes some minutes. --tables writes what
`shipped_models.yaml` says and the tables of cards and docs anew, and measures nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from _shipped import (
    MOST_LOOKED_AT,
    Scores,
    card_table,
    evaluation,
    models_table,
    scores,
    strip,
    thumbnail,
    usual_case,
    with_figures,
)
from evidence.corruptions import CORRUPTIONS, corrupted
from numpy.typing import NDArray
from other_scanner import other_scanner, thick_slices

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import Evaluation, ModelHeader
from prosma_core.config.training import LabelsConfig, load_run_yaml
from prosma_core.data.geometry import Scan
from prosma_core.data.labels import class_indices, read_annotation
from prosma_core.data.look import describe, facts_of
from prosma_core.events import drain
from prosma_core.inference.cpu_tuning import SWITCH
from prosma_core.inference.postprocess import count_objects
from prosma_core.inference.segment import Segmenter
from prosma_core.io.bundle import find_model, load_bundle, read_header, read_thumbnail, save_bundle, shipped_models
from prosma_core.io.dataset_folder import DatasetFolder, open_dataset, read_case

HERE = Path(__file__).parent
SETTINGS, SAID = HERE / "shipped", HERE / "shipped_models.yaml"
PAGE = HERE.parent / "docs" / "models.md"
PICTURE = HERE.parent / "docs" / "images" / "models.png"
STRENGTH = 2
"""Of `CORRUPTIONS`: the middle one."""
GAIN = 1.5
"""Factor of the values of 8-bit images, cut at 255."""

Pair = tuple[Scan, Scan]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tables", action="store_true")
    options = parser.parse_args()
    os.environ[SWITCH] = "0"  # in single precision
    torch.set_num_threads(options.threads)
    said = yaml.safe_load(SAID.read_text(encoding="utf-8"))
    if not options.tables:
        with tempfile.TemporaryDirectory() as place:
            for name in options.names or shipped_models():
                folder = data_of(said[name], options.data, Path(place) / name)
                write_facts(name, open_dataset(folder), said[name])
    for name in shipped_models():
        write_said(name, said[name])
    write_tables()


def data_of(said: dict[str, Any], data: Path, out: Path) -> Path:
    """Folder of a model's data set; written to `out` first where it is made from another."""
    if "made_by" not in said:
        return data / str(said["data"])
    script, *words = (part.format(data=data, out=out) for part in said["made_by"])
    subprocess.run([sys.executable, str(HERE / script), *words], check=True)
    return out


def write_facts(name: str, folder: DatasetFolder, said: dict[str, Any]) -> None:
    """Measure one model, and write its header and its thumbnail."""
    path = find_model(name)
    header, weights = load_bundle(path)
    train, val = folder.splits["train"], folder.splits["val"]
    looks = [describe(image.spec, image.data) for image, _ in (read_case(folder.cases[case]) for case in train)]
    settings = load_run_yaml(SETTINGS / f"{name}.yaml")
    meaning = LabelsConfig.parse(settings.get("labels", {}), name)
    if said.get("objects"):
        meaning = LabelsConfig(one_class=True)
    found, unfound = measure(path, {case: read_case(folder.cases[case]) for case in val}, meaning, said)
    training = (
        {key: value for key, value in header.training.items() if key != "missed"}  # the figures have it
        | of_training(said)
        | {
            "validation_dice": {name: figure.value for name, figure in found.dice.items()},
            "validation_mean_dice": found.mean_dice.value,
            "not_found": unfound,
        }
    )
    values = header.model_dump() | {
        "purpose": settings["purpose"],
        "facts": facts_of(looks, synthetic=header.synthetic).model_dump(),
        "training": training,
        "evaluation": found.model_dump(),
    }
    cases = {case: read_case(folder.cases[case]) for case in train[:MOST_LOOKED_AT]}
    classes = {case: of_classes(labels, header, meaning, case) for case, (_, labels) in cases.items()}
    case = usual_case(classes)
    picture = thumbnail(cases[case][0], classes[case], header, f"{said['data']}, {case}")
    written = save_bundle(path, type(header).parse(values, name), weights, picture)
    if written.sha256 != header.sha256:
        raise SystemExit(f"The weights of {name} changed.")
    print(f"{name}: {found.model_dump_json(indent=1)}", flush=True)


def of_training(said: dict[str, Any]) -> dict[str, Any]:
    """What `shipped_models.yaml` says of a training."""
    folds = {"folds": said["folds"]["found"]} if "folds" in said else {}
    return {"commands": said["commands"], "cost": said["cost"], **folds}


def write_said(name: str, said: dict[str, Any]) -> None:
    """Write what `shipped_models.yaml` says into a header, where it says something else."""
    path = find_model(name)
    header, weights = load_bundle(path)
    training = header.training | of_training(said)
    if training != header.training:
        save_bundle(path, header.replace(training=training), weights, read_thumbnail(path))


def of_classes(labels: Scan, header: ModelHeader, meaning: LabelsConfig, case: str) -> NDArray[Any]:
    """Index of the class of each voxel of a label map."""
    return class_indices(read_annotation(labels, meaning).values, header.classes, case)


def scored(header: ModelHeader, meaning: LabelsConfig) -> list[str]:
    """Names of the classes that the labels can show: where they number objects, the first."""
    names = [info.name for info in header.classes[1:]]
    return names[:1] if meaning.one_class else names


Measured = tuple[set[str], Scores, float]
"""Classes that an image shows, its scores, and F1 of its objects (0 where they are not counted)."""


def measured(result: NDArray[Any], labels: Scan, header: ModelHeader, meaning: LabelsConfig, case: str) -> Measured:
    """What the result of one image is worth; its objects are those of the labels, whole, as in `prosma evaluate`."""
    names, meaning = scored(header, meaning), meaning.replace(separate=False)
    known = read_annotation(labels, meaning)
    found, wanted = class_indices(result, header.classes, case), of_classes(labels, header, meaning, case)
    found = np.where(found > len(names), 0, found)  # a border between objects belongs to none
    found = found if known.ignored is None else np.where(known.ignored, 0, found)
    shown = {name for number, name in enumerate(names, 1) if (wanted == number).any()}
    counts = count_objects(found > 0, np.where(known.values > 0, labels.data, 0)) if meaning.one_class else None
    f1 = 2 * counts.matched / max(counts.found + counts.wanted, 1) if counts else 0.0
    return shown, scores(found, wanted, names), f1


def measure(
    path: Path, cases: dict[str, Pair], meaning: LabelsConfig, said: dict[str, Any]
) -> tuple[Evaluation, dict[str, tuple[int, int]]]:
    """Figures on cases; and by class the cases in which not a voxel of it was found, and those that show it."""
    segmenter = Segmenter.load(path, torch.device("cpu"))
    header = segmenter.header
    names = scored(header, meaning)

    def of(pairs: dict[str, Pair]) -> list[Measured]:
        results = []
        for case, (image, labels) in pairs.items():
            result = drain(segmenter.segment(image, InferenceConfig()), lambda _: None).labels.data
            results.append(measured(result, labels, header, meaning, case))
        return results

    clean = of(cases)
    worse = {}
    for kind in said["worse"]:
        results = of({case: made_worse(pair, case, kind) for case, pair in cases.items()})
        worse[kind] = ([there for there, _, _ in results], [each for _, each, _ in results])
        print(f"{header.name}: {kind}", flush=True)
    shown = [there for there, _, _ in clean]
    unfound = {
        name: (sum(name in there and s[name][0] == 0 for there, s, _ in clean), sum(name in there for there in shown))
        for name in names
    }
    f1 = [value for there, _, value in clean if there] if meaning.one_class else []
    return evaluation(said["held_out"], shown, [s for _, s, _ in clean], worse, f1), unfound


def made_worse(pair: Pair, case: str, kind: str) -> Pair:
    """A corrupted image, with its labels."""
    image, labels = pair
    if kind in CORRUPTIONS:
        return corrupted(image, case, kind, STRENGTH), labels
    return OTHERS[kind](image, labels)


def _gain(image: Scan, labels: Scan) -> Pair:
    brighter = np.clip(GAIN * image.data.astype(np.float32), 0, 255)
    return replace(image, data=brighter), labels


OTHERS: dict[str, Callable[[Scan, Scan], Pair]] = {
    "other gain": _gain,
    "thick slices": thick_slices,
    "another scanner": lambda image, labels: other_scanner(image, labels, np.random.default_rng(0)),
}
"""Other ways to make images worse than `CORRUPTIONS`."""


def write_tables() -> None:
    """Write the tables of the cards and of docs/models.md from the headers of the models."""
    headers = {name: read_header(path) for name, path in shipped_models().items()}
    for name, header in headers.items():
        if header.evaluation is not None:
            card = shipped_models()[name].with_suffix(".md")
            card.write_text(with_figures(card.read_text(encoding="utf-8"), card_table(header)), encoding="utf-8")
    if all(header.evaluation for header in headers.values()):
        PAGE.write_text(
            with_figures(PAGE.read_text(encoding="utf-8"), models_table(headers.values())), encoding="utf-8"
        )
        real = [path for path in shipped_models().values() if not read_header(path).synthetic]
        strip([read_thumbnail(path) for path in real]).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
