"""Everything a run needs before its first step: cases, plan, network and header."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

import prosma_core
from prosma_core.config.header import ModelHeader
from prosma_core.config.model import ClassInfo, ModelConfig
from prosma_core.config.preprocess import PreprocessConfig
from prosma_core.config.run import PlanOptions, RunConfig
from prosma_core.data.annotation import read_annotation
from prosma_core.data.fingerprint import Fingerprint, fingerprint
from prosma_core.data.geometry import Scan
from prosma_core.data.intensities import COLOUR
from prosma_core.errors import DatasetError, IntensityError
from prosma_core.events import Event, StageStarted, Working
from prosma_core.inference.device import free_memory
from prosma_core.io.bundle import Weights, load_bundle
from prosma_core.io.dataset_folder import DatasetFolder, open_dataset, read_case
from prosma_core.io.models import find_model
from prosma_core.training.cases import TrainingCase, prepare_case
from prosma_core.training.plan import plan_batch, plan_run, training_voxels
from prosma_core.training.plan_preprocess import plan_preprocess

COLORS = ("#000000", "#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c")
MAX_CLASSES = 256
VALIDATION_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class Setup:
    """A run, ready to start.

    Attributes
    ----------
    run : RunConfig
        With everything that was planned filled in: it repeats the run.
    header : ModelHeader
        Of the model to be.
    splits : dict
        Case names of "train" and "val".
    train, val : list of TrainingCase
        On the CPU.
    start : Weights or None
        Weights to start from.
    """

    run: RunConfig
    header: ModelHeader
    splits: dict[str, list[str]]
    train: list[TrainingCase]
    val: list[TrainingCase]
    start: Weights | None


def prepare_run(
    run: RunConfig, device: torch.device, splits: dict[str, list[str]] | None = None
) -> Generator[Event, None, Setup]:
    """Read the data, plan, and put all cases on the network's grid; yields after each case.

    Parameters
    ----------
    run : RunConfig
    device : torch.device
        Whose memory the tile must fit.
    splits : dict, optional
        Cases of a run that is resumed; its weights are not those of ``run.init`` any more, which is not read.

    Raises
    ------
    ProsmaError
        The data set, a case or the settings cannot be used; the text says which and why.
    """
    folder = open_dataset(run.data)
    start = load_bundle(find_model(run.init)) if run.init and splits is None else None
    splits = choose_splits(folder, run.training.seed) if splits is None else check_splits(folder, splits)
    yield StageStarted(f"Reading {len(splits['train']) + len(splits['val'])} cases of {folder.root.name}.")
    dims = start[0].model.dims if start else run.preprocess.dims
    prints: dict[str, Fingerprint] = {}
    for i, name in enumerate(splits["train"]):
        image, labels = read_case(folder.cases[name])
        dims = dims or (2 if image.spec.spatial_ndim == 2 or min(image.spec.spatial_shape) == 1 else 3)
        known = Scan(read_annotation(labels, run.labels).values, labels.spec)
        prints[name] = fingerprint(image, known, dims, np.random.default_rng([run.training.seed, i]))
        yield Working(f"Reading {name}")
    if dims is None:
        msg = f"{folder.root} has no training cases."
        raise DatasetError(msg)
    classes = find_classes(list(prints.values()), {**folder.class_names, **run.class_names})
    if start:
        yield StageStarted(f"Preprocessing and network are those of {start[0].name}.")
        pre, model, batch = _plan_from(start[0], run, len(classes), list(prints.values()), free_memory(device))
    else:
        budget = free_memory(device)
        pre, model, batch = plan_run(list(prints.values()), dims, len(classes), run, folder.channel_names, budget)
    run = _resolved(run, pre, model, classes, batch)
    yield StageStarted(describe_plan(pre, model, len(splits["train"]), len(splits["val"])))
    sets: dict[str, list[TrainingCase]] = {"train": [], "val": []}
    for key, cases in sets.items():
        for i, name in enumerate(splits[key]):
            image, labels = read_case(folder.cases[name])
            cases.extend(prepare_case(name, image, read_annotation(labels, run.labels), pre, classes, seed=i))
            yield Working(f"Preparing {name}")
        if not cases:
            msg = f"No case of {key!r} can be used: every image has one value everywhere. Check {folder.root}."
            raise IntensityError(msg)
    header = ModelHeader.parse(
        {
            "name": run.name or run.out.stem,
            "description": run.description,
            "licence": run.licence,
            "attribution": run.attribution,
            "created": datetime.now(UTC).date().isoformat(),
            "version": prosma_core.__version__,
            "model": model,
            "preprocess": pre,
            "classes": classes,
            "mirror_axes": "".join(a for a in "zyx"[-pre.dims :] if a in run.training.augment.mirror),
        },
        "The model's header",
    )
    return Setup(run, header, splits, sets["train"], sets["val"], start[1] if start else None)


def choose_splits(folder: DatasetFolder, seed: int) -> dict[str, list[str]]:
    """Training and validation cases: the folder's own, else a seeded draw of a fifth for validation.

    Raises
    ------
    DatasetError
        Fewer than two cases, or the folder's splits have no training or validation cases.
    """
    if folder.splits:
        train, val = folder.splits["train"], folder.splits.get("val", ())
        if not train or not val:
            msg = f"{folder.root / 'splits.json'} needs at least one case in 'train' and one in 'val'."
            raise DatasetError(msg)
        return check_splits(folder, {"train": list(train), "val": list(val)})
    names = sorted(folder.cases)
    if len(names) < 2:
        msg = f"{folder.root} has {len(names)} case; at least two are needed, one of them to validate on."
        raise DatasetError(msg)
    order = np.random.default_rng(seed).permutation(len(names))
    count = max(1, round(VALIDATION_SHARE * len(names)))
    return {
        "train": sorted(names[i] for i in order[count:]),
        "val": sorted(names[i] for i in order[:count]),
    }


def check_splits(folder: DatasetFolder, splits: dict[str, list[str]]) -> dict[str, list[str]]:
    """The same splits.

    Raises
    ------
    DatasetError
        A case is not in the folder, or in both training and validation.
    """
    missing = sorted({n for names in splits.values() for n in names} - folder.cases.keys())
    both = sorted(set(splits["train"]) & set(splits["val"]))
    if missing or both:
        problem = f"{missing[0]!r} is not there" if missing else f"{both[0]!r} is in both train and val"
        msg = f"The splits of {folder.root} cannot be used: {problem}. Correct splits.json."
        raise DatasetError(msg)
    return splits


def find_classes(prints: list[Fingerprint], names: dict[int, str]) -> tuple[ClassInfo, ...]:
    """Classes of a training set: the named ones where the background is named, too, else every label value that occurs.

    A mask of 0 and 255 is one class.

    Raises
    ------
    DatasetError
        No labelled voxel at all, or far too many values for classes.
    """
    found = sorted({v for p in prints for v in p.label_values} | {0})
    if set(found) <= {0, 1, 255} and 255 not in names and not any({1, 255} <= set(p.label_values) for p in prints):
        found = [0, 1] if len(found) > 1 else [0]
    values = sorted(names) if 0 in names else sorted(set(found) | set(names))
    if len(values) < 2:
        msg = "No training case has a labelled voxel; at least one foreground class is needed."
        raise DatasetError(msg)
    if len(values) > MAX_CLASSES:
        msg = (
            f"The labels hold {len(values)} values, more than {MAX_CLASSES}: "
            "they number objects, not classes. Set every object to 1."
        )
        raise DatasetError(msg)
    default = {0: "background"}
    return tuple(
        ClassInfo.parse(
            {"value": v, "name": names.get(v) or default.get(v, f"class {v}"), "color": COLORS[i % len(COLORS)]},
            f"Class {v}",
        )
        for i, v in enumerate(values)
    )


def _plan_from(
    start: ModelHeader, run: RunConfig, num_classes: int, prints: list[Fingerprint], free_bytes: int
) -> tuple[PreprocessConfig, ModelConfig, int]:
    """Preprocessing, network and batch size with the model to start from, this data's classes and channels."""
    pre, model = start.preprocess, start.model
    planned = plan_preprocess(prints, pre.dims, PlanOptions(), ())
    colour = COLOUR in (planned.channels, pre.channels)
    if len(planned.channels) != len(pre.channels) and not (
        colour and {len(planned.channels), len(pre.channels)} == {1, 3}
    ):
        pre = pre.replace(channels=planned.channels, intensities=planned.intensities)
    gate = model.gate.replace(**{name: getattr(run.gate, name) for name in run.gate.model_fields_set})
    model = model.replace(num_classes=num_classes, in_channels=len(pre.channels), gate=gate)
    room = training_voxels(free_bytes, 0, model.widths[0])
    return pre, model, run.training.batch_size or plan_batch(pre.tile, room)


def _resolved(
    run: RunConfig, pre: PreprocessConfig, model: ModelConfig, classes: tuple[ClassInfo, ...], batch_size: int
) -> RunConfig:
    options = {
        "dims": pre.dims,
        "orientation": pre.orientation or "keep",
        "resample": pre.resample,
        "spacing": pre.spacing or None,
        "longest_side": pre.longest_side,
        "intensities": pre.intensities,
        "tile": pre.tile,
        "tile_voxels": run.preprocess.tile_voxels,
    }
    return run.replace(
        data=run.data.absolute(),
        out=run.out.absolute(),
        init=str(Path(run.init).absolute()) if run.init and Path(run.init).is_file() else run.init,
        class_names={c.value: c.name for c in classes},
        gate=model.gate,
        network=run.network.replace(
            width=model.widths[0], max_width=max(model.widths), strides=model.strides, kernels=model.kernels
        ),
        preprocess=run.preprocess.replace(**options),
        training=run.training.replace(batch_size=batch_size),
    )


def describe_plan(pre: PreprocessConfig, model: ModelConfig, train: int, val: int) -> str:
    """The plan in words."""
    grid = {
        "spacing": f"voxels of {' x '.join(f'{s:.3g}' for s in pre.spacing)} {pre.unit}",
        "longest_side": f"longest side {pre.longest_side} pixels",
        "none": "the files' own pixels",
    }[pre.resample]
    kinds = ", ".join(sorted({i.kind for i in pre.intensities}))
    return (
        f"{pre.dims}D, {len(pre.channels)} channel{'s' * (len(pre.channels) > 1)} ({kinds}), {grid}, "
        f"tile {'x'.join(map(str, pre.tile))}, widths {'-'.join(map(str, model.widths))}, gate {model.gate.kind}; "
        f"{train} training and {val} validation cases."
    )
