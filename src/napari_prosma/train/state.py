"""Choices of a training, the run that follows from them, and notes on it. No Qt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from napari_prosma.scan.selection import Problem
from napari_prosma.train.export_pairs import case_names
from napari_prosma.train.pairs import Pair, PairRow, splits_of
from napari_prosma.train.run_library import free_name, taken_names
from napari_prosma.train.sources import unnamed
from prosma_core.config.model import COLORS, ClassInfo, EncoderKind
from prosma_core.config.training import (
    FINE_TUNING_RATE,
    MOST_EPOCHS,
    LabelsConfig,
    Preset,
    RunConfig,
    TrainingConfig,
    presets_for,
    resolve_run,
)
from prosma_core.data.fit import compare
from prosma_core.data.frames import slice_axis
from prosma_core.data.geometry import size_note, with_voxel_size
from prosma_core.data.grid import network_grid
from prosma_core.data.intensities import COLOR
from prosma_core.data.labels import LEAST_OBJECTS
from prosma_core.data.pair_check import NOTHING_CHECKED
from prosma_core.errors import ConfigError, GeometryError, ProsmaError
from prosma_core.io.axes_units import parse_voxel_size
from prosma_core.io.bundle import ModelEntry
from prosma_core.io.names import MOST_LETTERS, safe_name, stem
from prosma_core.io.notes import made_by_model
from prosma_core.printable import counted
from prosma_core.training.classes import format_missing_classes
from prosma_core.training.dataset_summary import grid_fingerprint, thick_words, usual_dims
from prosma_core.training.plan import with_usual
from prosma_core.training.split import (
    Split,
    class_counts,
    draw_cases,
    hold_out_slices,
    keep_classes,
    leave_unjudged,
    unjudged_words,
    unvalidated,
)


@dataclass(frozen=True)
class TrainChoices:
    """Choices for a training.

    Attributes
    ----------
    rows : tuple of PairRow
    labels : LabelsConfig
        What the label values mean.
    classes : tuple of ClassInfo
        The background first; `classes_of` as `edited`.
    size : str
        Voxel size of the images that state none, as typed.
    start : ModelEntry or None
        Model to fine-tune; None for a new one.
    dims : 2, 3 or None
        Of a new model; None is planned from the data.
    encoder : str or None
        Of a new network; None is planned from the data.
    preset : str
    epochs, minutes : number or None
        Budget; the preset's own where both are None, by the clock where only minutes are given.
    training : dict
        Values of `TrainingConfig` set by hand.
    device : str
    device_error : str
        Why the device cannot be used.
    gpus : int
        Among how many GPUs each batch is divided; 1: the device alone.
    name : str
        Of the model to be.
    """

    rows: tuple[PairRow, ...] = ()
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    classes: tuple[ClassInfo, ...] = ()
    size: str = ""
    start: ModelEntry | None = None
    dims: Literal[2, 3] | None = None
    encoder: EncoderKind | None = None
    preset: Preset = "quick"
    epochs: int | None = None
    minutes: float | None = None
    training: dict[str, Any] = field(default_factory=dict)
    device: str = "auto"
    device_error: str = ""
    gpus: int = 1
    name: str = ""


@dataclass(frozen=True)
class TrainPlan:
    """Valid choices as settings of a run, model file, and notes.

    Attributes
    ----------
    request_values : dict
        For `resolve_run`, as soon as the files of the pairs are added as ``pairs``.
    out : Path
        Model file to write; its folder may not exist yet.
    notes : tuple of str
        What is worth knowing before, a sentence each.
    dims : 2, 3 or None
        Spatial axes of the network; None where they are not known.
    gpus : int
        Among how many GPUs each batch is divided.
    """

    request_values: dict[str, Any]
    out: Path
    notes: tuple[str, ...]
    dims: Literal[2, 3] | None = None
    gpus: int = 1


OF_GPUS = re.compile(r"(\d+) GPUs")
SEVERAL = "cuda"
"""Device on which several processes train."""


def gpu_choices(count: int) -> list[str]:
    """Choices of several GPUs, where there are so many."""
    return [f"{number} GPUs" for number in range(2, count + 1)]


def resolve(choices: TrainChoices, folder: Path) -> TrainPlan | Problem:
    """Plan of these choices, or the first problem.

    Parameters
    ----------
    choices : TrainChoices
    folder : Path
        Where the model goes; it may not exist yet.
    """
    problem = (
        _size_problem(choices)
        or _pairs_problem(sized(choices))
        or _classes_problem(choices)
        or _start_problem(choices)
        or _budget_problem(choices)
        or (Problem("device", choices.device_error) if choices.device_error else None)
        or _name_problem(choices.name, folder)
    )
    if problem:
        return problem
    out = folder / f"{safe_name(choices.name)}.safetensors"
    values = _values(choices, out)
    try:
        run = resolve_run(values, "This training")
    except ConfigError as error:
        return Problem("advanced", in_words(error))
    dims = expected_dims(choices)
    said = notes(sized(choices), choices.labels, choices.classes, choices.start, run, dims)
    if choices.gpus > 1:
        said += (f"Each batch is divided among {choices.gpus} GPUs. Times are those of one.",)
    return TrainPlan(values, out, said, dims, choices.gpus)


def in_words(error: ConfigError) -> str:
    """What is wrong with settings, for the window: fields instead of the names that settings have in files."""
    first, *lines = error.args
    named = [line.partition(": ") for line in lines if ": " in line]
    texts = [f"{name.rpartition('.')[2].replace('_', ' ').capitalize()}: {text}." for name, _, text in named]
    return " ".join(texts) or str(first)


def expected_dims(choices: TrainChoices) -> Literal[2, 3] | None:
    """Spatial axes of the network as chosen, or else as the engine will choose them; None where no scan tells."""
    if choices.start is not None:
        return choices.start.header.model.dims
    rows = [(row, row.spec) for row in sized(choices) if row.spec is not None]
    if choices.dims is not None or not rows:
        return choices.dims
    if any(spec.spatial_ndim == 2 for _, spec in rows):
        return 2
    row, spec = next((each for each in rows if each[0].annotated), rows[0])
    return usual_dims(spec, sparse=_sparse(row, choices.labels), axis=row.axis)


def _sparse(row: PairRow, labels: LabelsConfig) -> bool:
    """Whether only a part of a scan is annotated."""
    return labels.sparse or (row.result is not None and len(row.result.whole) < row.result.count)


def usual_training(choices: TrainChoices) -> TrainingConfig:
    """Settings of the loop that a run of these choices has, apart from those that are set by hand.

    They are those of the preset, for the network and the annotation there will be.
    """
    start, dims = choices.start, expected_dims(choices)
    there = presets_for(fine_tuning=start is not None)
    preset = choices.preset if choices.preset in there else there[0]
    values: dict[str, Any] = {"out": "model.safetensors", "preset": preset, "labels": choices.labels.model_dump()}
    values |= {"init": start.argument} if start else {}
    values |= {"network": {"encoder": choices.encoder}} if choices.encoder and not start else {}
    run = resolve_run(values)
    rows = [row for row in sized(choices) if row.spec is not None and row.annotated]
    if dims is not None and rows:
        prints = [grid_fingerprint(row.spec, dims) for row in rows if row.spec is not None]
        few = 2 * sum(_sparse(row, choices.labels) for row in rows) > len(rows)
        run = with_usual(run, start.header if start else None, dims, prints, sparse=few)
    return run.training.replace(learning_rate=FINE_TUNING_RATE) if start else run.training


def sized(choices: TrainChoices) -> tuple[PairRow, ...]:
    """The pairs, those without a voxel size with the one that was given; without it where it cannot be theirs."""
    try:
        given = parse_voxel_size(choices.size) if choices.size else None
        return tuple(replace(row, spec=row.spec and with_voxel_size(row.spec, given)) for row in choices.rows)
    except ProsmaError:
        return choices.rows


def voxel_word(rows: Sequence[PairRow]) -> str:
    """What one place of the images is called: voxel, where all are pictures pixel."""
    words = {row.spec.voxel_word for row in rows if row.spec is not None}
    return "pixel" if words == {"pixel"} else "voxel"


def asks_for_size(choices: TrainChoices) -> bool:
    """Whether a voxel size is asked for: images state none, but others or the start model use one."""
    units = {row.spec.unit for row in choices.rows if row.spec is not None}
    pre = choices.start.header.preprocess if choices.start else None
    by_size = pre is not None and pre.resample == "spacing" and pre.unit != "pixel"
    deep = any(row.spec is not None and row.spec.spatial_ndim == 3 for row in choices.rows)
    return "pixel" in units and (bool(choices.size) or len(units) > 1 or by_size or (deep and pre is None))


CPU_MINUTES = 10.0
"""Minutes of a new, quick model where there is no GPU, unless chosen otherwise."""


def known_preset(name: Any) -> Preset | None:
    """A remembered preset for new models, where there is one of that name still."""
    return next((preset for preset in presets_for(fine_tuning=False) if preset == name), None)


def usual_budget(chosen: Preset | None, *, fine_tuning: bool, gpu: bool) -> tuple[Preset, float | None]:
    """Preset, and minutes (None: as the preset says), as far as the user has not chosen.

    Parameters
    ----------
    chosen : str or None
        Preset that the user chose.
    fine_tuning : bool
        Whether a model goes on learning.
    gpu : bool
        Whether it is trained on a GPU.
    """
    if fine_tuning:
        return chosen or presets_for(fine_tuning=True)[0], None
    preset = chosen or ("balanced" if gpu else "quick")
    return preset, CPU_MINUTES if preset == "quick" and not gpu else None


def usual_name(choices: TrainChoices, folder: Path) -> str:
    """Name of a model unless the user gives one: after its start or its first image; empty without either."""
    if choices.start is not None:
        return free_name(f"{choices.start.header.name} tuned", folder)
    return free_name(f"{stem(Path(choices.rows[0].image))} model", folder) if choices.rows else ""


def _values(choices: TrainChoices, out: Path) -> dict[str, Any]:
    """Explicit values of the run; what is not chosen is left to the preset."""
    training = dict(choices.training)
    if choices.epochs is not None or choices.minutes is not None:
        training |= {"epochs": choices.epochs or MOST_EPOCHS, "minutes": choices.minutes}
    dims = choices.dims
    if dims is None and any(row.spec is not None and row.spec.spatial_ndim == 2 for row in choices.rows):
        dims = 2
    values: dict[str, Any] = {
        "out": out,
        "preset": choices.preset,
        "device": choices.device,
        "name": choices.name.strip(),
        "class_names": {info.value: info.name for info in choices.classes},
        "class_colors": {info.value: info.color for info in choices.classes},
        "labels": choices.labels.model_dump(),
        "training": training,
    }
    if choices.size and asks_for_size(choices):
        values["voxel_size"] = parse_voxel_size(choices.size).model_dump(mode="json")
    validation, _ = splits_of(_parted(choices.rows))
    values |= {"validation": validation} if validation else {}
    if choices.start is not None:
        return values | {"init": choices.start.argument}
    values |= {"network": {"encoder": choices.encoder}} if choices.encoder else {}
    return values | ({"preprocess": {"dims": dims}} if dims else {})


def _size_problem(choices: TrainChoices) -> Problem | None:
    """Why the voxel size that was typed cannot be that of the images."""
    if not choices.size or not asks_for_size(choices):
        return None
    try:
        given = parse_voxel_size(choices.size)
        for row in choices.rows:
            if row.spec is not None:
                with_voxel_size(row.spec, given)
    except ProsmaError as error:
        return Problem("size", str(error))
    return None


def _pairs_problem(rows: Sequence[PairRow]) -> Problem | None:
    if not rows:
        text = "Add an image and its labels: select both layers and choose “Add selected image + labels”, "
        text += "add files, or go through a folder."
        return Problem("pairs", text)
    bad = next((row for row in rows if row.problem), None)
    if bad:
        return Problem("pairs", f"{bad.image}: {bad.problem}")
    if all(row.result is not None and not row.result.annotated for row in rows):
        return Problem("pairs", NOTHING_CHECKED)
    if any(row.result is not None for row in rows) and not any(row.values for row in rows):
        text = "The checked and edited slices hold no object, so that nothing can be learned: "
        return Problem("pairs", f"{text}correct a slice with the object, or mark one as checked.")
    specs = [(row.image, row.spec) for row in rows if row.spec is not None]
    units = Counter(spec.unit for _, spec in specs)
    if len(units) > 1 and "pixel" in units:
        without = next(name for name, spec in specs if spec.unit == "pixel")
        size = f"{voxel_word(rows)} size"
        text = f"Of {len(specs)} images, {counted(units['pixel'], 'has', 'have')} no {size}, for example {without}."
        return Problem("size", f"{text} Enter it under {size.capitalize()}, or remove them.")
    if len(units) > 1:
        return Problem("pairs", f"The images have different units ({_listed(units)}); give all of them the same.")
    channels = Counter(spec.num_channels for _, spec in specs)
    colors = all(spec.channel_names == COLOR for _, spec in specs if spec.num_channels == 3)
    if len(channels) > 1 and not (set(channels) == {1, 3} and colors):
        few = channels.most_common()[-1][0]
        odd = next(name for name, spec in specs if spec.num_channels == few)
        text = f"The images have different numbers of channels ({_listed(channels)}), for example {odd}."
        return Problem("pairs", f"{text} All need the same: remove those that differ.")
    return None


def _classes_problem(choices: TrainChoices) -> Problem | None:
    classes = choices.classes
    if len(classes) < 2:
        text = "No object is painted yet: paint all objects of a few slices, one class with label 1, another with 2."
        return Problem("classes", text)
    twice = [name for name, n in Counter(info.name for info in classes).items() if n > 1]
    if twice:
        return Problem("classes", f"Two classes are named {twice[0]!r}. Give each its own name.")
    if choices.labels.zero != "unlabeled" or len(classes) > 2 or any(row.background for row in choices.rows):
        return None
    given = choices.labels.background
    word = voxel_word(choices.rows)
    missing = f"no {word} has the background value {given}" if given else "no background value is given"
    text = (
        f"Only {classes[1].name} is painted, unlabeled {word}s are ignored, and {missing}. Paint some background with "
        "a value of its own and give it as background value, or choose “Ignored in other slices” where each "
        "annotated slice is painted completely."
    )
    return Problem("labels", text)


def _start_problem(choices: TrainChoices) -> Problem | None:
    """Why a network of these dimensions cannot take these scans; the checks are those the engine would fail with."""
    start = choices.start
    dims = start.header.model.dims if start else choices.dims
    if dims is None:
        return None
    for row in sized(choices):
        if row.spec is None:
            continue
        if dims > row.spec.spatial_ndim:
            return Problem("start", f"{row.image} is a 2D picture, the model is 3D: choose a 2D model.")
        if start is None:
            continue
        try:
            network_grid(row.spec, start.header.preprocess)
        except GeometryError as error:
            return Problem("start", f"{row.image}: {error}")
    return None


def start_warning(choices: TrainChoices) -> str:
    """Why the start model may not be meant for the open scans, in the words of Segment; empty where nothing says so."""
    if choices.start is None:
        return ""
    for row in choices.rows:
        fit = compare(row.look, choices.start.header) if row.look is not None else None
        if fit is not None and fit.text:
            return f"{row.image}: {fit.text}" if len(choices.rows) > 1 else fit.text
    return ""


def _budget_problem(choices: TrainChoices) -> Problem | None:
    given = {"epochs": choices.epochs, "minutes": choices.minutes}
    try:
        TrainingConfig.parse({key: value for key, value in given.items() if value is not None}, "The budget")
    except ConfigError as error:
        return Problem("budget", in_words(error))
    return None


def _name_problem(name: str, folder: Path) -> Problem | None:
    name = name.strip()
    if not name:
        return Problem("name", "Give the new model a name.")
    if len(name) > MOST_LETTERS:
        return Problem("name", f"The name has {len(name)} characters; at most {MOST_LETTERS} are allowed. Shorten it.")
    if safe_name(name).lower() in taken_names(folder):
        return Problem("name", f"There is a model or a run named {name!r} already. Choose another name.")
    return None


def _listed(things: Counter[Any]) -> str:
    return ", ".join(sorted(map(str, things)))


def notes(
    rows: Sequence[PairRow],
    labels: LabelsConfig,
    classes: Sequence[ClassInfo],
    start: ModelEntry | None,
    run: RunConfig,
    dims: int | None = None,
) -> tuple[str, ...]:
    """Notes on a run that can start, a sentence each: validation split and caveats.

    Parameters
    ----------
    rows : sequence of PairRow
        Without problems.
    labels : LabelsConfig
    classes : sequence of ClassInfo
        The background first.
    start : ModelEntry or None
    run : RunConfig
        As resolved, without its pairs.
    dims : int or None
        As of `TrainPlan`.
    """
    chosen = start is not None or run.preprocess.dims is not None
    said = [*_annotation(rows, labels, classes), *_start(rows, classes, start), *_network(rows, start, dims, chosen)]
    return (*said, *_held_out(rows, classes, run.training.seed))


def _held_out(rows: Sequence[PairRow], classes: Sequence[ClassInfo], seed: int) -> Iterator[str]:
    """What is validated on, and the classes that this part, or the one that is trained on, does not hold."""
    pairs = _parted(rows)
    held, words = splits_of(pairs)
    if words:
        yield words
    names = case_names(pairs)
    known = sorted(zip(names, rows, strict=True), key=itemgetter(0))
    results = {name: row.result for name, row in known if row.result is not None}
    values = {name: row.class_slices for name, row in known if name not in results or results[name].annotated}
    marked = tuple(names[i] for i in held)
    if marked:
        split = Split(tuple(name for name in names if name not in marked), marked)
        split = leave_unjudged(split, seed, results)
        yield from filter(None, [unjudged_words(marked, split)])
    else:
        split = draw_cases(names, seed, results)
    values = {name: each for name, each in values.items() if name in {*split.train, *split.val}}
    if split.kind != "cases":
        slices = {name: sorted({i for there in each.values() for i in there}) for name, each in values.items()}
        slices |= {n: [i for i in slices[n] if i in results[n].validated] for n in slices if n in results}
        split = hold_out_slices(slices, seed, values, {name: row.slices for name, row in known if name in results})
    elif not set(split.val) <= set(marked):  # it was drawn
        split, _ = keep_classes(split, values, {}, unvalidated(results))
    trained = {name: values[name] for name in split.train if name in values}
    validated = {name: values[name].keys() for name in split.val if name in values} if split.kind == "cases" else {}
    corrected = tuple(name for name in split.val if name in results and results[name].judges)
    yield from filter(None, [replace(split, corrected=corrected).words()])
    yield from format_missing_classes(classes, *class_counts(split, trained, validated), split.unit)


def _parted(rows: Sequence[PairRow]) -> list[Pair]:
    """The pairs, without a part in the splits where nothing of them is checked or edited: nothing is judged by them."""
    empty = [row.result is not None and not row.result.annotated for row in rows]
    pairs = zip(rows, empty, strict=True)
    return [replace(row.pair, part="", splits="") if nothing else row.pair for row, nothing in pairs]


def _annotation(rows: Sequence[PairRow], labels: LabelsConfig, classes: Sequence[ClassInfo]) -> Iterator[str]:
    for row in rows:
        if row.result is not None and row.result.untouched and row.result.axis:
            single = len(row.result.untouched) == 1
            own = (
                f" {'holds' if single else 'hold'} the model's own labels and" if made_by_model(row.provenance) else ""
            )
            count = counted(len(row.result.untouched), "untouched slice")
            yield f"{row.labels}: {count}{own} {'takes' if single else 'take'} no part."
    for row in rows if labels.zero == "background" else ():
        if row.spec is not None and _looks_unfinished(row):
            total = row.spec.size(row.axis)
            yield (
                f"{row.labels}: of {total} slices, {counted(len(row.slices), 'holds', 'hold')} labels, the others "
                "count as background. If they are not annotated, choose “Ignored in other slices”."
            )
    empty = [row.labels for row in rows if not row.values and row.result is None]
    if empty and labels.zero == "background":
        names = ", ".join(empty[:5]) + (", …" if len(empty) > 5 else "")
        yield f"No object in {len(empty)} of {len(rows)} label maps ({names}): these scans are background throughout."
    if labels.zero == "unlabeled" and not any(row.background for row in rows):
        names = ", ".join(info.name for info in classes[1:])
        word = voxel_word(rows)
        yield (
            f"Unlabeled {word}s are ignored and no background is painted: the model will give every {word} one of "
            f"{names}. Where one of them is the background, give its value as background value."
        )
    images = [row.pair.image.key if row.pair.image.layers else row.pair.image.paths for row in rows]
    twice = next((row for i, row in enumerate(rows) if images[i] in images[:i]), None)
    if twice:
        yield f"{twice.image} is in more than one pair: validation may be on an image that is trained on."


def _looks_unfinished(row: PairRow) -> bool:
    """Whether some slices seem to be annotated, and others not yet.

    So it seems where slices between the labeled ones, or all but one, hold no label; and where few slices of a layer
    do that was painted here.
    """
    if not row.slices or row.result is not None or row.spec is None or not row.axis:
        return False
    first, last, total = row.slices[0], row.slices[-1], row.spec.size(row.axis)
    layer = row.pair.labels.layer
    painted = layer is not None and layer.source.path is None
    few = painted and FEW * len(row.slices) <= total
    return total > 1 and (few or len(row.slices) == 1 or last - first + 1 >= 2 * len(row.slices))


FEW = 4
"""A layer painted here on less than one in so many slices is taken as unfinished."""


def usual_meaning(rows: Sequence[PairRow], before: LabelsConfig, start: ModelEntry | None) -> tuple[LabelsConfig, str]:
    """What the label values mean unless the user chooses, and why.

    Parameters
    ----------
    rows : sequence of PairRow
    before : LabelsConfig
        What they meant before: what was chosen stays as long as there are pairs.
    start : ModelEntry or None
        Model to start from.
    """
    labels, why = before if rows else LabelsConfig(), []
    row = next(filter(_looks_unfinished, rows), None)
    if row is not None:
        total = row.spec.size(row.axis) if row.spec else 0
        labels = labels.replace(zero="annotated_slices")
        why.append(f"Chosen because {len(row.slices)} of {total} slices of {row.labels} hold labels.")
    objects = _numbered_objects(rows, start)
    if objects:
        labels = labels.replace(one_class=True, separate=True)
        why.append(f"The labels of {objects} number objects: taken as one class, touching ones kept apart.")
    return labels, " ".join(why)


def _numbered_objects(rows: Sequence[PairRow], start: ModelEntry | None) -> str:
    """Name of the first labels where all number objects as far as can be told; empty where some may name classes.

    Values that have names, that several label maps have in common, or of a model of several classes, name classes.
    """
    held = [row for row in rows if row.numbers or len(row.values) >= LEAST_OBJECTS]
    if not held or (start is not None and len(start.header.classes) > 2):
        return ""
    told = all(row.numbers and not made_by_model(row.provenance) and all(map(unnamed, row.classes)) for row in held)
    alike = len(held) > 1 and len({row.numbers for row in held}) == 1
    return held[0].labels if told and not alike else ""


def _start(rows: Sequence[PairRow], classes: Sequence[ClassInfo], start: ModelEntry | None) -> Iterator[str]:
    if start is None:
        return
    made = [row for row in rows if made_by_model(row.provenance) and row.result is None]
    if made:
        which = f"{len(made)} of the {len(rows)} labels are" if len(rows) > 1 else f"{made[0].labels} is"
        yield f"{which} a model's result, corrected or not: before and after are not compared on such labels."
    present = {info.name.casefold() for info in classes} | {info.value for info in classes if unnamed(info)}
    lost = [c for c in start.header.classes[1:] if c.name.casefold() not in present and c.value not in present]
    if lost:
        names = ", ".join(info.name for info in lost)
        yield f"The new model will not know {names}: {start.header.name} does, and these labels do not."
    channels, given = start.header.preprocess.channels, {r.spec.num_channels for r in rows if r.spec is not None}
    for number in sorted(given - {len(channels)}):
        if {number, len(channels)} != {1, 3} or COLOR not in (channels, _names(rows, number)):
            yield (
                f"{start.header.name} takes {counted(len(channels), 'channel')}, these images have "
                f"{number}: its first layer starts afresh, and before and after cannot be compared."
            )


def _network(rows: Sequence[PairRow], start: ModelEntry | None, dims: int | None, chosen: bool) -> Iterator[str]:
    deep = next((row.spec for row in rows if row.spec is not None and row.spec.spatial_ndim == 3), None)
    if dims == 2 and deep is not None and min(deep.spatial_shape) > 1 and not chosen:
        yield f"{thick_words(deep)} For a 3D one, choose New 3D model."
    elif dims == 2 and deep is not None and min(deep.spatial_shape) > 1:
        yield f"The model is 2D: scans are taken slice by slice, along {deep.spatial_axes[slice_axis(deep)]}."
    if start is not None:
        said = (size_note(row.spec, start.header.preprocess) for row in rows if row.spec is not None)
        yield from [note for note in said if note][:1]
    if start is not None and len(start.header.preprocess.channels) == 1 and _names(rows, 3) == COLOR:
        yield "Colors are turned to gray: the start model takes one channel."


def _names(rows: Sequence[PairRow], number: int) -> tuple[str, ...]:
    """Channel names of the first image with so many channels."""
    return next((r.spec.channel_names for r in rows if r.spec is not None and r.spec.num_channels == number), ())


def classes_of(rows: Sequence[PairRow], start: ModelEntry | None) -> tuple[ClassInfo, ...]:
    """Classes of a training set: background, every value that occurs, and those the start model and the labels share.

    Names are those the labels come with, else the start model's, else ``class N``; colors likewise. A mask of 0 and
    255 is one class of value 1. Classes of the start model that do not occur stay where the labels name them, too, as
    those of a corrected result do. Labels that hold no classes, such as numbered objects, give none.
    """
    rows = [row for row in rows if not {"one_class", "threshold"} & set(row.fixes)]
    values = {value for row in rows for value in row.values}
    known = {info.value: info for row in reversed(rows) for info in row.classes}
    named = known | {v: c for row in reversed(rows) for c in row.classes if not unnamed(c) for v in (c.value,)}
    started = {info.value: info for info in start.header.classes} if start else {}
    if values <= {1, 255} and unnamed(named.get(255)) and not any({1, 255} <= row.values.keys() for row in rows):
        values = {1} if values else set()
    values |= {v for v, c in started.items() if v in named and named[v].name.casefold() == c.name.casefold()}
    values -= {0}
    result = [_background(named.get(0), started.get(0))] if values else []
    for i, value in enumerate(sorted(values), start=1):
        own, theirs = named.get(value), started.get(value)
        name = theirs.name if theirs and unnamed(own) else own.name if own else f"class {value}"
        drawn = known.get(value)
        color = next(
            (c.color for c in (drawn, theirs) if c and c.color != COLORS[0]), COLORS[1 + (i - 1) % (len(COLORS) - 1)]
        )
        result.append(ClassInfo(value=value, name=name, color=color))
    return tuple(result)


def edited(classes: Sequence[ClassInfo], edits: Mapping[int, tuple[str, str]]) -> tuple[ClassInfo, ...]:
    """Classes with the names and colors, by value, that a user gave them."""
    return tuple(
        info.replace(name=edits[info.value][0], color=edits[info.value][1]) if info.value in edits else info
        for info in classes
    )


def _background(*infos: ClassInfo | None) -> ClassInfo:
    name = next((info.name for info in infos if info is not None and not unnamed(info)), "background")
    return ClassInfo(value=0, name=name, color=COLORS[0])
