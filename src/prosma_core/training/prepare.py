"""Everything a run needs before its first step: cases, plan, network and header."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

import prosma_core
from prosma_core.config.model import (
    PACKAGE,
    ClassInfo,
    ModelConfig,
    ModelHeader,
    PreprocessConfig,
    Purpose,
    ScanFacts,
)
from prosma_core.config.training import FINE_TUNING_RATE, PlanOptions, RunConfig
from prosma_core.data.fit import model_modality
from prosma_core.data.intensities import COLOR
from prosma_core.data.look import facts_of
from prosma_core.data.slices import SliceStates
from prosma_core.data.stored_annotation import check_by_parts
from prosma_core.errors import IntensityError
from prosma_core.events import Event, StageStarted, Working
from prosma_core.io.bundle import Weights, find_model, load_bundle
from prosma_core.io.dataset_folder import Case, DatasetFolder, open_cases
from prosma_core.io.notes import made_by_model, read_notes
from prosma_core.model.pretrained import ATTRIBUTION, imagenet_weights
from prosma_core.printable import counted
from prosma_core.training.cases import TrainingCase, prepare_case
from prosma_core.training.classes import check_background, find_classes, format_classes
from prosma_core.training.dataset_summary import Fingerprint, read_annotated, read_split
from prosma_core.training.plan import (
    LITE0_TRAINING_WIDTH,
    choose_encoder,
    plan_batch,
    plan_preprocess,
    plan_run,
    training_voxels,
    with_usual,
)
from prosma_core.training.processes import ALONE, Processes
from prosma_core.training.reading import plan_reading
from prosma_core.training.split import Split, all_slices, check_split, choose_cases, class_counts, unjudged_words

CPU_BATCH = 2
"""Most patches per step planned on a CPU, which computes none faster in a larger batch: more steps learn more."""


@dataclass(frozen=True, eq=False)
class Setup:
    """A run, ready to start.

    Attributes
    ----------
    run : RunConfig
        With everything that was planned filled in: it repeats the run.
    header : ModelHeader
        Of the model to be.
    split : Split
    train, val : list of TrainingCase
        On the CPU.
    start : (ModelHeader, Weights) or None
        Model to start from.
    synthetic : bool
        Whether all training cases are computed phantoms.
    pretrained : dict of str to Tensor or None
        Published weights of the encoder, for a new model that has such an encoder.
    cases : dict of str to Case
        Files of each case, as they were when the run began.
    """

    run: RunConfig
    header: ModelHeader
    split: Split
    train: list[TrainingCase]
    val: list[TrainingCase]
    start: tuple[ModelHeader, Weights] | None
    synthetic: bool = False
    pretrained: dict[str, Tensor] | None = None
    cases: Mapping[str, Case] = field(default_factory=dict)


def prepare_run(
    run: RunConfig, device: torch.device, split: Split | None = None, group: Processes = ALONE
) -> Generator[Event, None, Setup]:
    """Read the data, plan, and put all cases on the network's grid; yields after each case.

    Parameters
    ----------
    run : RunConfig
    device : torch.device
        Whose memory the tile must fit.
    split : Split, optional
        Of a run that is resumed; its weights are not those of ``run.init`` any more, which is not read.
    group : Processes
        Those that prepare the same run at the same time; their plan is the same.

    Raises
    ------
    ProsmaError
        The data set, a case or the settings cannot be used; the text says which and why.
    """
    folder = open_cases(run.data, run.pairs, run.validation)
    start = load_bundle(find_model(run.init)) if run.init and split is None else None
    fresh = split is None
    states = all_slices(folder, run)
    split = choose_cases(folder, run.training.seed, states) if split is None else check_split(folder, split)
    number = len({*split.train, *split.val})
    read = f"{counted(number, 'case')} of {folder.root.name}" if run.data else counted(number, "pair")
    yield StageStarted(f"Reading {read}.")
    if fresh and (words := unjudged_words(folder.splits.get("val", ()), split)):
        yield StageStarted(words)
    given, header = (start[0].model.dims, start[0]) if start else (run.preprocess.dims, None)
    reading = plan_reading(folder.cases, {*split.train, *split.val}, run, header, group)
    if reading.words:
        yield StageStarted(reading.words)
    parts = reading.by_parts
    for name in sorted(parts):
        check_by_parts(run.labels, states.get(name), name)
    dims, facts, split = yield from read_split(folder, split, run, given, fresh=fresh, states=states, by_parts=parts)
    names = {**({} if run.labels.one_class else facts.names), **folder.class_names, **run.class_names}
    seen = {v for each in facts.validation.values() for v in each}
    classes = find_classes(facts.prints, names, run.labels, run.class_colors, seen)
    if warning := check_background(classes, run.labels, painted=facts.background):
        yield StageStarted(warning)
    counts, apart = class_counts(split, facts.values, facts.validation), split.kind != "none held out"
    for words in format_classes(classes, *counts, split.unit, held_out=apart):
        yield StageStarted(words)
    if 2 * facts.numbered > len(facts.prints) and not names:
        yield StageStarted(
            f"Label values seem to number objects in {facts.numbered} of {len(facts.prints)} cases, and are taken for "
            "classes. To learn one class of them, merge labels into one class and keep touching objects apart "
            "(--one-class --separate)."
        )
    split = replace(split, derived=_derived(folder, split, states), corrected=_corrected(folder, split, states))
    if start:
        yield StageStarted(f"Preprocessing and network are those of {start[0].name}.")
    run = with_usual(run, header, dims, facts.prints, sparse=facts.sparse)
    pre, model, batch = plan_model(run, header, facts.prints, dims, len(classes), folder.channel_names, device, group)
    published = (yield from _pretrained(run, model)) if fresh and not start else None
    scans = _scan_facts(facts.prints, synthetic=(synthetic := _synthetic(folder, split)))
    if header:
        run = _for_fine_tuning(run, header)  # from here on, what was not chosen cannot be told from what was
        run = run.replace(purpose=inherited(run.purpose, header, scans))
    run = _resolved(run, pre, model, classes, batch)
    if run.training.keep == "auto":
        run = run.replace(training=run.training.replace(keep=split.keep(run.training.validation_cases)))
    yield StageStarted(describe_plan(pre, model, split))
    if pre.resample == "spacing" and pre.unit != "pixel" and facts.prints[0].unit == "pixel":
        size = " x ".join(f"{edge:.3g}" for edge in pre.spacing)
        word = "pixel" if dims == len(facts.prints[0].shape) == 2 else "voxel"
        yield StageStarted(
            f"The images have no {word} size or no unit of it: assumed those of the model to start from ({size} "
            f"{pre.unit}). Give the true size if it differs (--spacing)."
        )
    if split.words():
        yield StageStarted(split.words())
    train = yield from _prepare_cases(folder, split, "train", run, pre, classes, parts)
    val = yield from _prepare_cases(folder, split, "val", run, pre, classes, parts)
    if not val and not fresh and split.kind == "slices":  # since the run began, its labels there were taken back
        split = Split(split.train, split.train, "none held out")
        yield StageStarted(f"On the held-out slices nothing is annotated any more. {split.words()}")
        train = val = yield from _prepare_cases(folder, split, "train", run, pre, classes, parts)
    for part, cases in (("train", train), ("val", val)):
        if not cases:
            msg = (
                f"No case of {part!r} can be used: every image has one value everywhere, or no annotation. "
                f"Check {folder.root}."
            )
            raise IntensityError(msg)
    described = _header(run, model, pre, classes).replace(facts=scans)
    return Setup(run, described, split, train, val, start, synthetic, published, folder.cases)


def _scan_facts(prints: Sequence[Fingerprint], *, synthetic: bool) -> ScanFacts | None:
    looks = [each.look for each in prints if each.look is not None]
    return facts_of(looks, synthetic=synthetic) if looks else None


def _pretrained(run: RunConfig, model: ModelConfig) -> Generator[Event, None, dict[str, Tensor] | None]:
    """Published weights of a new network's encoder, where it has such; says so where they would fit and are missing."""
    if model.encoder == "efficientnet-lite0":
        return imagenet_weights()
    if choose_encoder(run, model.dims, model.in_channels, installed=True) != model.encoder:
        yield StageStarted(f"The package {PACKAGE} is not installed: the network is trained from scratch.")
    return None


def _derived(folder: DatasetFolder, split: Split, states: Mapping[str, SliceStates]) -> tuple[str, ...]:
    """Validation cases whose labels are a model's result, as their notes say, and not known to be edited."""
    return tuple(name for name in _results(folder, split) if name not in states or not states[name].judges)


def _corrected(folder: DatasetFolder, split: Split, states: Mapping[str, SliceStates]) -> tuple[str, ...]:
    """Validation cases whose labels are a model's result of which edited slices are validated on."""
    return tuple(name for name in _results(folder, split) if name in states and states[name].judges)


def _results(folder: DatasetFolder, split: Split) -> list[str]:
    return [name for name in split.val if made_by_model(read_notes(folder.cases[name].label))]


def _synthetic(folder: DatasetFolder, split: Split) -> bool:
    """Whether the notes of every training case, of its image or its labels, say that it is a phantom."""
    cases = [folder.cases[name] for name in split.train]
    return all(any(read_notes(path).get("synthetic") for path in (case.label, case.images[0])) for case in cases)


def plan_model(
    run: RunConfig,
    start: ModelHeader | None,
    prints: list[Fingerprint],
    dims: int,
    num_classes: int,
    channel_names: tuple[str, ...],
    device: torch.device,
    group: Processes = ALONE,
) -> tuple[PreprocessConfig, ModelConfig, int]:
    """Preprocessing, network and batch size of a new model or of one that goes on learning, on a device.

    A batch that is planned is as large as one process would have it, and has a patch for each process.

    Raises
    ------
    DatasetError, ConfigError
        As in `plan_run`.
    """
    free = group.free_memory(device)
    if start:
        pre, model, batch = _plan_from(start, run, num_classes, prints, free)
    else:
        pre, model, batch = plan_run(prints, dims, num_classes, run, channel_names, free)
    if device.type == "cpu" and run.training.batch_size is None:
        batch = min(batch, CPU_BATCH)
    if run.training.batch_size is None:
        batch = max(batch, group.size)
    group.check_batch(batch)
    return pre, model, batch


def _prepare_cases(
    folder: DatasetFolder,
    split: Split,
    key: Literal["train", "val"],
    run: RunConfig,
    pre: PreprocessConfig,
    classes: tuple[ClassInfo, ...],
    by_parts: Collection[str],
) -> Generator[Event, None, list[TrainingCase]]:
    cases: list[TrainingCase] = []
    for i, name in enumerate(split.train if key == "train" else split.val):
        image, labels = yield from read_annotated(folder.cases[name], run, by_parts=name in by_parts)
        cases += yield from prepare_case(name, image, split.part(key, name, labels), pre, classes, seed=i)
        yield Working(f"Preparing {name}")
    return cases


def _header(run: RunConfig, model: ModelConfig, pre: PreprocessConfig, classes: tuple[ClassInfo, ...]) -> ModelHeader:
    return ModelHeader.parse(
        {
            "name": run.name or run.out.stem,
            "description": run.description,
            "purpose": run.purpose,
            "licence": run.licence,
            "attribution": _attribution(run, model),
            "created": datetime.now(UTC).date().isoformat(),
            "version": prosma_core.__version__,
            "model": model,
            "preprocess": pre,
            "classes": classes,
            "mirror_axes": "".join(a for a in "zyx"[-pre.dims :] if a in run.training.augment.mirror),
        },
        "The model's header",
    )


def _attribution(run: RunConfig, model: ModelConfig) -> str:
    """Whom to credit: for the training data, and for pretrained weights."""
    pretrained = ATTRIBUTION if model.encoder == "efficientnet-lite0" and ATTRIBUTION not in run.attribution else ""
    return "\n".join(filter(None, (run.attribution, pretrained)))


def inherited(purpose: Purpose, start: ModelHeader, scans: ScanFacts | None) -> Purpose:
    """What a tuned model is for: where no one states what it is not for, the same as the model it started from.

    Not where its own scans are of another modality, or real and those of the start model synthetic: what that was not
    for may be what this one is for.

    Parameters
    ----------
    purpose : Purpose
        As stated for the run.
    start : ModelHeader
    scans : ScanFacts or None
        The training scans of the run.
    """
    modality, before = purpose.modality or (scans.modality if scans else ""), model_modality(start)
    other = bool(modality and before and modality != before)
    real = start.synthetic and not (scans and scans.synthetic)
    return purpose if purpose.not_for or other or real else purpose.replace(not_for=start.purpose.not_for)


def _for_fine_tuning(run: RunConfig, start: ModelHeader) -> RunConfig:
    """The run with a lower learning rate and the mirroring of the model to start from, unless others were chosen.

    A model that tells left from right, or front from back, would otherwise first have to unlearn it.
    """
    training, augment = run.training, run.training.augment
    if "mirror" not in augment.model_fields_set:
        augment = augment.replace(mirror=start.mirror_axes)
    rate = training.learning_rate if "learning_rate" in training.model_fields_set else FINE_TUNING_RATE
    return run.replace(training=training.replace(augment=augment, learning_rate=rate))


def _plan_from(
    start: ModelHeader, run: RunConfig, num_classes: int, prints: list[Fingerprint], free_bytes: int
) -> tuple[PreprocessConfig, ModelConfig, int]:
    """Preprocessing, network and batch size with the model to start from, this data's classes and channels."""
    pre, model = start.preprocess, start.model
    planned = plan_preprocess(prints, pre.dims, PlanOptions(), ())
    color = COLOR in (planned.channels, pre.channels)
    if len(planned.channels) != len(pre.channels) and not (
        color and {len(planned.channels), len(pre.channels)} == {1, 3}
    ):
        pre = pre.replace(channels=planned.channels, intensities=planned.intensities)
    gate = model.gate.replace(**{name: getattr(run.gate, name) for name in run.gate.model_fields_set})
    model = model.replace(num_classes=num_classes, in_channels=len(pre.channels), gate=gate)
    width = LITE0_TRAINING_WIDTH if model.encoder == "efficientnet-lite0" else model.widths[0]
    room = training_voxels(free_bytes, 0, width)
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
        data=run.data and run.data.absolute(),
        pairs=tuple((image.absolute(), labels.absolute()) for image, labels in run.pairs),
        out=run.out.absolute(),
        init=str(Path(run.init).absolute()) if run.init and Path(run.init).is_file() else run.init,
        class_names={c.value: c.name for c in classes},
        class_colors={c.value: c.color for c in classes},
        gate=model.gate,
        network=run.network.replace(
            encoder=model.encoder,
            width=model.widths[0],
            max_width=max(model.widths),
            strides=model.strides,
            kernels=model.kernels,
        ),
        preprocess=run.preprocess.replace(**options),
        training=run.training.replace(batch_size=batch_size),
    )


def describe_plan(pre: PreprocessConfig, model: ModelConfig, split: Split) -> str:
    """Text of the plan."""
    grid = {
        "spacing": f"voxels of {' x '.join(f'{s:.3g}' for s in pre.spacing)} {pre.unit}",
        "longest_side": f"longest side {pre.longest_side} pixels",
        "none": "the files' own pixels",
    }[pre.resample]
    encoder = "" if model.encoder == "residual" else f"encoder {model.encoder}, "
    train, val = len(split.train), counted(len(split.val), "validation case")
    cases = counted(train, "case") if split.kind == "none held out" else f"{train} training and {val}"
    kinds = ", ".join(sorted({i.kind for i in pre.intensities}))
    return (
        f"{pre.dims}D, {counted(len(pre.channels), 'channel')} ({kinds}), {grid}, "
        f"tile {'x'.join(map(str, pre.tile))}, {encoder}widths {'-'.join(map(str, model.widths))}, "
        f"gate {model.gate.kind}; {cases}."
    )
