"""A model on annotated scans: every measure per case and class, on the scan's own grid."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prosma_core.config.inference import InferenceConfig
from prosma_core.data.labels import class_indices
from prosma_core.errors import DatasetError, ProsmaError
from prosma_core.events import CaseDone, Event, StageStarted
from prosma_core.inference.measure import measure_case, summarise
from prosma_core.inference.segment import Segmenter
from prosma_core.io.dataset_folder import DatasetFolder, open_dataset, read_case


def evaluate_cases(
    segmenter: Segmenter, data: Path, split: str | None, config: InferenceConfig, tolerance: float
) -> Generator[Event, None, dict[str, Any]]:
    """Measures of all cases of a split.

    Parameters
    ----------
    segmenter : Segmenter
    data : Path
        Data folder.
    split : str or None
        Key of splits.json; None takes "val" where there is one, else all cases.
    config : InferenceConfig
    tolerance : float
        Of surface Dice, in each scan's unit (mm, or pixels where the file has no unit).

    Returns
    -------
    dict
        "model", "sha256", "split", "tolerance", "cases" (per case and class) and "summary"; plain values for JSON.

    Raises
    ------
    ProsmaError
        The folder, the split or a case cannot be used.
    """
    folder = open_dataset(data)
    split = split or ("val" if folder.splits.get("val") else None)
    names = split_cases(folder, split)
    header = segmenter.header
    yield StageStarted(f"Evaluating {header.name} on {len(names)} cases of {folder.root.name}.")
    classes = {index: c.name for index, c in enumerate(header.classes) if index}
    cases = {}
    for name in names:
        began = time.monotonic()
        image, labels = read_case(folder.cases[name])
        reference = class_indices(labels.data, header.classes, name)
        try:
            result = yield from segmenter.segment(image, config)
        except ProsmaError as error:
            raise type(error)(f"{name}: {error}") from error
        prediction = class_indices(result.labels.data, header.classes, name)
        if prediction.ndim == image.spec.spatial_ndim:
            cases[name] = measure_case(prediction, reference, image.spec.spacing, classes, tolerance)
        else:
            for t, (p, r) in enumerate(zip(prediction, reference, strict=True)):
                cases[f"{name} frame {t}"] = measure_case(p, r, image.spec.spacing, classes, tolerance)
        yield CaseDone(name, "", time.monotonic() - began)
    return {
        "model": header.name,
        "sha256": header.sha256,
        "data": folder.root.name,
        "split": split,
        "settings": config.model_dump(mode="json"),
        "tolerance": tolerance,
        "cases": {name: {k: asdict(m) for k, m in measures.items()} for name, measures in cases.items()},
        "summary": summarise(cases),
    }


def split_cases(folder: DatasetFolder, split: str | None) -> list[str]:
    """Names of the cases of a split, of all cases for None.

    Raises
    ------
    DatasetError
        The folder has no such split, or it is empty.
    """
    if split is None:
        return list(folder.cases)
    if not folder.splits.get(split):
        known = ", ".join(folder.splits) or "none; the folder has no splits.json"
        msg = f"{folder.root} has no split {split!r} with cases; it has: {known}."
        raise DatasetError(msg)
    return list(folder.splits[split])
