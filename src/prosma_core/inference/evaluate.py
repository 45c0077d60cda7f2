"""Measures of a label map against its reference, and a model evaluated on annotated scans."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.config.documents import load_json
from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import ModelHeader, VoxelSize
from prosma_core.config.training import LabelsConfig
from prosma_core.data.geometry import Scan, with_voxel_size
from prosma_core.data.labels import Annotation, class_indices, gray_problem, read_annotation
from prosma_core.data.pair_check import GRAY_HELP
from prosma_core.errors import (
    ConfigError,
    DatasetError,
    DeviceError,
    GeometryError,
    LabelError,
    NothingDoneError,
    ProsmaError,
)
from prosma_core.events import CaseDone, Event, StageStarted, Working, relay
from prosma_core.inference.postprocess import ObjectCounts, count_objects
from prosma_core.inference.segment import Segmenter
from prosma_core.io.dataset_folder import Case, DatasetFolder, open_dataset, read_case, read_splits
from prosma_core.io.notes import NO_INDEPENDENT_LABELS, made_by_model, noted_slices, read_notes
from prosma_core.printable import counted


@dataclass(frozen=True)
class ClassMeasures:
    """Agreement of one class in one case.

    Where the class is in neither map, they agree: 1, 1, 0 and 1. Where it is in only one of them: 0, 0, None
    and 0. No value is ever NaN or infinite.

    Attributes
    ----------
    dice : float
        2 |P and R| / (|P| + |R|) of the voxels predicted (P) and in the reference (R), 0..1.
    iou : float
        |P and R| / |P or R|, 0..1.
    hd95 : float or None
        95th percentile of the distances from each surface to the other, the larger of both directions, in the
        unit of the spacing; None (undefined) where only one map has the class.
    surface_dice : float
        Share of both surfaces that lies within the tolerance of the other one, 0..1; a surface is the voxels
        of a class that have a face to another class or to the border of the map.
    reference_voxels, predicted_voxels : int
    objects : ObjectCounts or None
        Where the reference numbers its objects.
    """

    dice: float
    iou: float
    hd95: float | None
    surface_dice: float
    reference_voxels: int
    predicted_voxels: int
    objects: ObjectCounts | None = None


def measure_case(
    prediction: NDArray[np.integer[Any]],
    reference: NDArray[np.integer[Any]],
    spacing: Sequence[float],
    classes: Mapping[int, str],
    surface_tolerance: float,
) -> dict[str, ClassMeasures]:
    """Agreement of each class, by its name.

    Parameters
    ----------
    prediction, reference : ndarray, integer, shape (Y, X) or (Z, Y, X)
        Class numbers; equal shapes.
    spacing : sequence of float
        Voxel size per axis, in array order; its unit is the unit of the distances.
    classes : mapping of int to str
        Number and name of the classes to measure (the background is left out of it); other numbers are ignored.
    surface_tolerance : float
        Distance up to which a surface counts as met, in the unit of `spacing`; 0 or more.

    Returns
    -------
    dict of str to ClassMeasures

    Raises
    ------
    GeometryError
        If the shapes differ, are not 2D or 3D, or do not fit the spacing.
    ConfigError
        If the tolerance is negative or not finite, or two classes have one name.
    """
    _check(prediction, reference, spacing)
    if not (np.isfinite(surface_tolerance) and surface_tolerance >= 0):
        msg = f"Surface tolerance {surface_tolerance} is no distance; use a finite number of 0 or more."
        raise ConfigError(msg)
    if len(set(classes.values())) < len(classes):
        msg = f"Two classes have the same name: {', '.join(classes.values())}. Give each class its own name."
        raise ConfigError(msg)
    return {
        name: _measure_class(prediction == number, reference == number, spacing, surface_tolerance)
        for number, name in classes.items()
    }


def summarize(cases: Mapping[str, Mapping[str, ClassMeasures]]) -> dict[str, Any]:
    """Means over cases for each class, and over classes; plain numbers that JSON can hold.

    Parameters
    ----------
    cases : mapping of str to mapping of str to ClassMeasures
        Case name -> class name -> measures, as `measure_case` gives them. Cases may lack classes.

    Returns
    -------
    dict
        ``"cases"``: number of cases. ``"classes"``: for each class name

        - ``cases``: number of cases in which the class was measured;
        - ``dice``, ``iou``, ``surface_dice``: mean over all of them; None where no reference has the class;
        - ``hd95``: mean over the cases where it is defined; ``hd95_undefined``: number of the others;
        - ``present``: number of cases with the class in the reference; ``dice_present``: mean Dice over them;
        - ``absent``: number of cases without it; ``absent_predicted_empty``: those correctly left empty;
        - ``objects``: None, or where references number them: ``found``, ``wanted``, ``matched`` of all cases
          together, and ``f1``, 2 matched / (found + wanted).

        ``"mean"``: ``dice``, ``iou``, ``surface_dice``, ``hd95`` and ``dice_present``, each the mean of that value
        over the classes that have it. A mean of nothing is None.
        ``"mean_dice"``: that of model cards and headers, the mean over cases of the mean Dice of the classes that
        each case shows (``"value"``, None where none shows any), and how many cases show one (``"cases"``).
    """
    names = dict.fromkeys(name for case in cases.values() for name in case)
    classes = {name: _summarize_class([case[name] for case in cases.values() if name in case]) for name in names}
    keys = ("dice", "iou", "surface_dice", "hd95", "dice_present")
    overall = {key: _mean(summary[key] for summary in classes.values()) for key in keys}
    shown = [[m.dice for m in case.values() if m.reference_voxels] for case in cases.values()]
    by_case = [float(np.mean(values)) for values in shown if values]
    mean_dice = {"value": _mean(by_case), "cases": len(by_case)}
    return {"cases": len(cases), "classes": classes, "mean": overall, "mean_dice": mean_dice}


def _check(prediction: NDArray[Any], reference: NDArray[Any], spacing: Sequence[float]) -> None:
    if prediction.shape != reference.shape:
        msg = (
            f"The prediction has shape {prediction.shape}, the reference {reference.shape}; only maps on the same "
            "grid can be compared. Bring the prediction back to the grid of its scan first."
        )
        raise GeometryError(msg)
    if prediction.ndim not in (2, 3):
        msg = f"Label maps of shape {prediction.shape} are not 2D or 3D; measure each time frame for itself."
        raise GeometryError(msg)
    if len(spacing) != prediction.ndim or not all(np.isfinite(s) and s > 0 for s in spacing):
        msg = f"Spacing {tuple(spacing)} does not fit a {prediction.ndim}D map: one finite number above 0 per axis."
        raise GeometryError(msg)


def _measure_class(
    predicted: NDArray[np.bool_], wanted: NDArray[np.bool_], spacing: Sequence[float], tolerance: float
) -> ClassMeasures:
    """Measures of one class from its two masks; the cases MONAI would warn about are answered here."""
    counts = int(wanted.sum()), int(predicted.sum())
    if not any(counts):
        return ClassMeasures(1.0, 1.0, 0.0, 1.0, *counts)
    if not all(counts):
        return ClassMeasures(0.0, 0.0, None, 0.0, *counts)
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.meandice import compute_dice
    from monai.metrics.meaniou import compute_iou
    from monai.metrics.surface_dice import compute_surface_dice

    pair = torch.from_numpy(predicted)[None, None], torch.from_numpy(wanted)[None, None]  # (B, C, *grid)
    steps = [float(s) for s in spacing]
    with warnings.catch_warnings():  # MONAI 1.6 warns of an argument that it passes to itself
        warnings.filterwarnings("ignore", "monai.metrics.utils get_mask_edges", FutureWarning)
        distance = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=steps)
        surface = compute_surface_dice(*pair, [float(tolerance)], include_background=True, spacing=steps)
    dice, iou = compute_dice(*pair).item(), compute_iou(*pair).item()
    return ClassMeasures(dice, iou, distance.item(), surface.item(), *counts)


def _summarize_class(measures: Sequence[ClassMeasures]) -> dict[str, Any]:
    present = [m for m in measures if m.reference_voxels]
    absent = [m for m in measures if not m.reference_voxels]
    counted = measures if present else []  # of a class that is nowhere, every value would be of what is not there
    return {
        "cases": len(measures),
        "dice": _mean(m.dice for m in counted),
        "iou": _mean(m.iou for m in counted),
        "surface_dice": _mean(m.surface_dice for m in counted),
        "hd95": _mean(m.hd95 for m in counted),
        "hd95_undefined": sum(m.hd95 is None for m in measures),
        "present": len(present),
        "dice_present": _mean(m.dice for m in present),
        "absent": len(absent),
        "absent_predicted_empty": sum(not m.predicted_voxels for m in absent),
        "objects": _sum_objects([m.objects for m in measures if m.objects is not None]),
    }


def _sum_objects(counts: Sequence[ObjectCounts]) -> dict[str, Any] | None:
    if not counts:
        return None
    total = {key: sum(getattr(each, key) for each in counts) for key in ("found", "wanted", "matched")}
    both = total["found"] + total["wanted"]
    return {**total, "f1": 2 * total["matched"] / both if both else None}


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are defined; None if there are none."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


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
        What the label values mean; voxels that nothing is known of are background in both maps. Labels that are one
        class may number its objects; where those of any case do, all cases are counted.
    voxel_size : VoxelSize, optional
        Of scans that state none.

    Returns
    -------
    dict
        "model", "sha256", "split", "tolerance", "units" (of distances and the tolerance: those of the scans),
        "derived_labels" (cases whose labels are a model's result), "cases" (per case and class), "failed" (reason by
        case) and "summary"; plain values for JSON.

    Raises
    ------
    ProsmaError
        The folder or the split cannot be used, or none of its cases.
    """
    options = CaseOptions(config, tolerance, meaning or LabelsConfig(), voxel_size)
    return (yield from evaluate_by(partial(_one_by_one, segmenter), segmenter.header, data, split, options))


@dataclass(frozen=True)
class CaseOptions:
    """How cases are measured: as of `evaluate_cases`."""

    config: InferenceConfig
    tolerance: float
    meaning: LabelsConfig
    voxel_size: VoxelSize | None = None


@dataclass(frozen=True)
class CaseMeasures:
    """Measures of one case, or of each of its annotated time points; empty where none is annotated, or with the error.

    Attributes
    ----------
    name, error : str
    seconds : float
    measures : dict
        By case or time point, and class.
    unit : str
        Of distances.
    """

    name: str
    seconds: float
    measures: dict[str, dict[str, ClassMeasures]]
    unit: str = ""
    error: str = ""


Measure = Callable[[Sequence[Case], CaseOptions], Generator[Event | CaseMeasures, None, None]]
"""Measures cases, in any order."""


def _one_by_one(
    segmenter: Segmenter, cases: Sequence[Case], options: CaseOptions
) -> Generator[Event | CaseMeasures, None, None]:
    """Measure cases here; raises `DeviceError` where memory is gone, or the device: the next would fail as well."""
    said: set[str] = set()
    for case in cases:
        began = time.monotonic()
        yield Working(f"Reading {case.name}")
        try:
            work = evaluate_case(segmenter, case, options)
            found, unit = yield from relay(work, partial(said_once, case.name, said))
        except DeviceError:
            raise
        except ProsmaError as error:
            yield CaseMeasures(case.name, time.monotonic() - began, {}, error=str(error))
        else:
            yield CaseMeasures(case.name, time.monotonic() - began, found, unit)


def evaluate_by(
    measure: Measure, header: ModelHeader, data: Path | DatasetFolder, split: str | None, options: CaseOptions
) -> Generator[Event, None, dict[str, Any]]:
    """Measures of all cases of a split by a model that `measure` has; the rest as of `evaluate_cases`."""
    folder = open_dataset(data) if isinstance(data, Path) else data
    split = split or ("val" if folder.splits.get("val") else None)
    names = split_cases(folder, split)
    cases_text = counted(len(names), "case")
    yield StageStarted(f"Evaluating {header.name} on {cases_text} of {folder.root.name}.")
    if split is None:
        lacking = (
            f"{folder.root / 'splits.json'} has no 'val'" if folder.splits else f"{folder.root} has no splits.json"
        )
        yield StageStarted(f"{lacking}: every case is measured ({cases_text}), possibly also those it was trained on.")
    elif _trained_on(split):
        yield StageStarted(f"Other slices of these {cases_text}, or the same, were trained on: no fair figure.")
    derived = [name for name in names if made_by_model(read_notes(folder.cases[name].label))]
    if derived:
        yield StageStarted(
            f"{NO_INDEPENDENT_LABELS}: those of {len(derived)} of {cases_text} are a model's result, corrected or not. "
            "The figures measure agreement with that result."
        )
    results: dict[str, CaseMeasures] = {}
    failed: dict[str, str] = {}
    for found in measure([folder.cases[name] for name in names], options):
        if not isinstance(found, CaseMeasures):
            yield found
        elif found.error:
            failed[found.name] = found.error
            yield StageStarted(f"{found.name} is left out: {found.error}")
        elif not found.measures:
            yield StageStarted(f"{found.name} holds no annotation and is left out.")
        else:
            results[found.name] = found
            yield CaseDone(found.name, "", found.seconds)
    cases = {key: each for name in names if name in results for key, each in results[name].measures.items()}
    failed = {name: failed[name] for name in names if name in failed}
    if not any(m.objects and m.objects.wanted > 1 for each in cases.values() for m in each.values()):
        cases = {n: {k: replace(m, objects=None) for k, m in each.items()} for n, each in cases.items()}  # one class
    if failed and not cases:
        name, reason = next(iter(failed.items()))
        msg = f"None of {cases_text} of {folder.root.name} could be measured, for example {name}: {reason}"
        raise NothingDoneError(msg)
    return {
        "model": header.name,
        "sha256": header.sha256,
        "data": folder.root.name,
        "split": split,
        "settings": options.config.model_dump(mode="json"),
        "tolerance": options.tolerance,
        "units": sorted({found.unit for found in results.values()}),
        "derived_labels": derived,
        "cases": {name: {k: asdict(m) for k, m in measures.items()} for name, measures in cases.items()},
        "failed": failed,
        "summary": summarize(cases),
    }


def evaluate_case(
    segmenter: Segmenter, case: Case, options: CaseOptions
) -> Generator[Event, None, tuple[dict[str, dict[str, ClassMeasures]], str]]:
    """Measures of one case, or of each of its annotated time points (empty where none is), and the unit of distances.

    Raises
    ------
    ProsmaError
        The case cannot be read, segmented or measured.
    """
    header, meaning = segmenter.header, options.meaning
    image, labels = read_case(case, on_image=meaning.geometry == "image")
    image = Scan(image.data, with_voxel_size(image.spec, options.voxel_size))
    noted = noted_slices(read_notes(case.label))
    states = noted and noted.on(labels.spec, None, case.name)
    labels = states.part(labels) if states else labels
    values = {c.value for c in header.classes}
    kind, words = gray_problem(np.asarray(labels.data), meaning, values, lambda: image.data)
    if kind is not None:
        msg = words if kind == "image" else f"{words} {GRAY_HELP}"
        raise LabelError(msg)
    known = read_annotation(labels, meaning, states)
    if not known.known:
        return {}, image.spec.unit
    reference = class_indices(known.values, header.classes, case.name)
    result = yield from segmenter.segment(image, options.config)
    prediction = class_indices(result.labels.data, header.classes, case.name)
    if known.ignored is not None:
        prediction = np.where(known.ignored, 0, prediction)
    classes = {index: c.name for index, c in enumerate(header.classes) if index}
    numbers = _object_numbers(labels, reference, known, meaning) if len(classes) == 1 else None

    def measure(at: tuple[int, ...]) -> dict[str, ClassMeasures]:
        found = measure_case(prediction[at], reference[at], image.spec.spacing, classes, options.tolerance)
        if numbers is None:
            return found
        (name,) = classes.values()
        return {name: replace(found[name], objects=count_objects(prediction[at] > 0, numbers[at]))}

    if prediction.ndim == image.spec.spatial_ndim:
        return {case.name: measure(())}, image.spec.unit
    frames = [t for t in range(len(prediction)) if known.ignored is None or not known.ignored[t].all()]
    return {f"{case.name} frame {t}": measure((t,)) for t in frames}, image.spec.unit


def _object_numbers(
    labels: Scan, reference: NDArray[Any], known: Annotation, meaning: LabelsConfig
) -> NDArray[np.integer[Any]] | None:
    """Number of each voxel's object, 0 where there is none; None where labels are not one class of numbered objects."""
    if not meaning.one_class or known.threshold is not None:
        return None
    return np.where(reference > 0, np.asarray(labels.data), 0)


def said_once(name: str, said: set[str], event: Event) -> Iterator[Event]:
    """An event of one case; a sentence that differs from one in `said` by numbers only becomes `Working`."""
    if isinstance(event, StageStarted):
        kind = re.sub(r"[\d.]+", "0", event.message)
        if kind in said:
            event = Working(f"{name}: {event.message}")
        said.add(kind)
    yield event


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
