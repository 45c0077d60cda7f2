"""A model on annotated scans: every measure per case and class, on the scan's own grid."""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from prosma_core.config.documents import load_json
from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import VoxelSize
from prosma_core.config.training import LabelsConfig
from prosma_core.data.geometry import Scan, with_voxel_size
from prosma_core.data.labels import class_indices, gray_problem, read_annotation
from prosma_core.data.pair_check import GRAY_HELP
from prosma_core.errors import DatasetError, DeviceError, LabelError, ProsmaError
from prosma_core.events import CaseDone, Event, StageStarted, Working, relay
from prosma_core.inference.measure import ClassMeasures, measure_case, summarise
from prosma_core.inference.results import Segmentation
from prosma_core.inference.segment import Segmenter
from prosma_core.io.dataset_folder import Case, DatasetFolder, open_dataset, read_case, read_splits
from prosma_core.io.notes import NO_INDEPENDENT_LABELS, made_by_model, read_notes
from prosma_core.printable import counted


def evaluate_cases(
    segmenter: Segmenter,
    data: Path | DatasetFolder,
    split: str | None,
    config: InferenceConfig,
    tolerance: float,
    meaning: LabelsConfig | None = None,
    voxel_size: VoxelSize | None = None,
) -> Generator[Event, None, dict[str, Any]]:
    """Measures of all cases of a split; those that cannot be measured are left out, and named with the reason.

    Parameters
    ----------
    segmenter : Segmenter
    data : Path or DatasetFolder
        Data folder, or its cases.
    split : str or None
        Key of the folder's splits.json, or the path of another one, whose "val" is taken; None takes "val" where
        the folder has it, else all cases, and says so.
    config : InferenceConfig
    tolerance : float
        Of surface Dice, in each scan's unit (mm, or pixels where the file has no unit).
    meaning : LabelsConfig, optional
        What the label values mean; voxels that nothing is known of are background in both maps.

    voxel_size : VoxelSize, optional
        Of scans that state none.

    Returns
    -------
    dict
        "model", "sha256", "split", "tolerance", "derived_labels" (cases whose labels are a model's result), "cases"
        (per case and class), "failed" (reason by case) and "summary"; plain values for JSON.

    Raises
    ------
    ProsmaError
        The folder or the split cannot be used, or none of its cases.
    """
    folder = open_dataset(data) if isinstance(data, Path) else data
    split = split or ("val" if folder.splits.get("val") else None)
    names = split_cases(folder, split)
    header = segmenter.header
    cases_text = counted(len(names), "case")
    yield StageStarted(f"Evaluating {header.name} on {cases_text} of {folder.root.name}.")
    if split is None:
        lacking = (
            f"{folder.root / 'splits.json'} has no 'val'" if folder.splits else f"{folder.root} has no splits.json"
        )
        yield StageStarted(f"{lacking}: all {cases_text} are measured, training cases possibly among them.")
    elif _trained_on(split):
        yield StageStarted(f"Other slices of these {cases_text}, or the same, were trained on: no fair figure.")
    derived = [name for name in names if made_by_model(read_notes(folder.cases[name].label))]
    if derived:
        yield StageStarted(
            f"{NO_INDEPENDENT_LABELS}: those of {len(derived)} of {cases_text} are a model's result, corrected or not. "
            "The figures measure agreement with that result."
        )
    meaning = meaning or LabelsConfig()
    cases: dict[str, dict[str, ClassMeasures]] = {}
    failed: dict[str, str] = {}
    said: set[str] = set()
    for name in names:
        began = time.monotonic()
        yield Working(f"Reading {name}")
        try:
            found = yield from _evaluate_case(
                segmenter, folder.cases[name], config, tolerance, meaning, voxel_size, said
            )
        except DeviceError:
            raise  # memory is gone, or the device: the next case would fail as well
        except ProsmaError as error:
            failed[name] = str(error)
            yield StageStarted(f"{name} is left out: {error}")
            continue
        if not found:
            yield StageStarted(f"{name} holds no annotation and is left out.")
            continue
        cases |= found
        yield CaseDone(name, "", time.monotonic() - began)
    if failed and not cases:
        name, reason = next(iter(failed.items()))
        msg = f"None of {cases_text} of {folder.root.name} could be measured, for example {name}: {reason}"
        raise DatasetError(msg)
    return {
        "model": header.name,
        "sha256": header.sha256,
        "data": folder.root.name,
        "split": split,
        "settings": config.model_dump(mode="json"),
        "tolerance": tolerance,
        "derived_labels": derived,
        "cases": {name: {k: asdict(m) for k, m in measures.items()} for name, measures in cases.items()},
        "failed": failed,
        "summary": summarise(cases),
    }


def _evaluate_case(
    segmenter: Segmenter,
    case: Case,
    config: InferenceConfig,
    tolerance: float,
    meaning: LabelsConfig,
    voxel_size: VoxelSize | None,
    said: set[str],
) -> Generator[Event, None, dict[str, dict[str, ClassMeasures]]]:
    """Measures of one case, or of each of its time points that is annotated; empty where none is.

    Raises
    ------
    ProsmaError
        The case cannot be read, segmented or measured.
    """
    header = segmenter.header
    image, labels = read_case(case, on_image=meaning.geometry == "image")
    image = Scan(image.data, with_voxel_size(image.spec, voxel_size))
    values = {c.value for c in header.classes}
    kind, words = gray_problem(np.asarray(labels.data), meaning, values, lambda: image.data)
    if kind is not None:
        msg = words if kind == "image" else f"{words} {GRAY_HELP}"
        raise LabelError(msg)
    known = read_annotation(labels, meaning)
    if not known.known:
        return {}
    reference = class_indices(known.values, header.classes, case.name)
    result = yield from _say_once(segmenter.segment(image, config), case.name, said)
    prediction = class_indices(result.labels.data, header.classes, case.name)
    if known.ignored is not None:
        prediction = np.where(known.ignored, 0, prediction)
    classes = {index: c.name for index, c in enumerate(header.classes) if index}
    spacing = image.spec.spacing
    if prediction.ndim == image.spec.spatial_ndim:
        return {case.name: measure_case(prediction, reference, spacing, classes, tolerance)}
    measures = {}
    for t, (p, r) in enumerate(zip(prediction, reference, strict=True)):
        if known.ignored is None or not known.ignored[t].all():
            measures[f"{case.name} frame {t}"] = measure_case(p, r, spacing, classes, tolerance)
    return measures


def _say_once(
    run: Generator[Event, None, Segmentation], name: str, said: set[str]
) -> Generator[Event, None, Segmentation]:
    """Events of one case; a sentence that differs from one in `said` by numbers only becomes `Working`."""

    def change(event: Event) -> Iterator[Event]:
        if isinstance(event, StageStarted):
            kind = re.sub(r"[\d.]+", "0", event.message)
            if kind in said:
                event = Working(f"{name}: {event.message}")
            said.add(kind)
        yield event

    return (yield from relay(run, change))


def _trained_on(split: str) -> bool:
    """Whether a split is the splits.json of a run that held out no whole cases."""
    path = Path(split)
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        return bool(load_json(path.read_bytes()).get("validation", "cases") != "cases")
    except (OSError, ValueError, AttributeError) as error:
        msg = f"{path} cannot be read as the splits of a run ({error}). Give a splits.json of a run folder, or a key."
        raise DatasetError(msg) from error


def split_cases(folder: DatasetFolder, split: str | None) -> list[str]:
    """Names of the cases of a split (a key, or the path of a splits.json), of all cases for None.

    Raises
    ------
    DatasetError
        There is no such split, it is empty, or the file is not usable for this folder.
    """
    if split is None:
        return list(folder.cases)
    source, key, splits = folder.root, split, folder.splits
    path = Path(split)
    if path.suffix == ".json" and path.is_file():
        source, key, splits = path, "val", read_splits(path, folder.cases)
    if not splits.get(key):
        known = ", ".join(splits) or "none; the folder has no splits.json"
        msg = (
            f"{source} has no split {key!r} with cases; it has: {known}. "
            "Give one of its keys, or the path of a splits.json with 'val'."
        )
        raise DatasetError(msg)
    return list(splits[key])
