"""What is worth knowing before a training starts, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter

from napari_prosma._shared.session import ModelEntry
from napari_prosma.train.handover import case_names
from napari_prosma.train.pairs import PairRow, splits_of
from napari_prosma.train.sources import unnamed
from prosma_core.config.labels import LabelsConfig
from prosma_core.config.model import ClassInfo
from prosma_core.config.run import RunConfig
from prosma_core.data.frames import slice_axis
from prosma_core.data.geometry import size_note
from prosma_core.data.intensities import COLOR
from prosma_core.io.notes import made_by_model
from prosma_core.printable import counted
from prosma_core.training.classes import missing_words
from prosma_core.training.split import Split, class_counts, draw_cases, hold_out_slices, keep_classes


def notes(
    rows: Sequence[PairRow],
    labels: LabelsConfig,
    classes: Sequence[ClassInfo],
    start: ModelEntry | None,
    run: RunConfig,
) -> tuple[str, ...]:
    """Sentences about a run that can start: what is held out, and what a person may not expect.

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
    """
    said = [*_annotation(rows, labels, classes), *_start(rows, classes, start), *_network(rows, start, run)]
    return (*said, *_held_out(rows, classes, run.training.seed))


def _held_out(rows: Sequence[PairRow], classes: Sequence[ClassInfo], seed: int) -> Iterator[str]:
    """What is validated on, and the classes that this part, or the one that is trained on, does not hold."""
    pairs = [row.pair for row in rows]
    held, words = splits_of(pairs)
    if words:
        yield words
    names = case_names(pairs)
    values = {name: row.class_slices for name, row in sorted(zip(names, rows, strict=True), key=itemgetter(0))}
    if held:
        kept = {names[i] for i in held}
        split = Split(tuple(name for name in names if name not in kept), tuple(names[i] for i in held))
    else:
        split = draw_cases(names, seed)
    if split.kind != "cases":
        slices = {name: sorted({i for there in each.values() for i in there}) for name, each in values.items()}
        split = hold_out_slices(slices, seed, values)
    elif not held:
        split, _ = keep_classes(split, values, {})
    trained = {name: values[name] for name in split.train}
    validated = {name: values[name].keys() for name in split.val} if split.kind == "cases" else {}
    yield from filter(None, [split.words()])
    yield from missing_words(classes, *class_counts(split, trained, validated), split.unit)


def _annotation(rows: Sequence[PairRow], labels: LabelsConfig, classes: Sequence[ClassInfo]) -> Iterator[str]:
    for row in rows if labels.zero == "background" else ():
        if row.spec is not None and row.axis and _looks_unfinished(row):
            total = row.spec.size(row.axis)
            yield (
                f"{row.labels}: of {total} slices, {counted(len(row.slices), 'holds', 'hold')} labels, the others "
                "count as background. If they are not annotated, choose “Only annotated slices”."
            )
    empty = [row.labels for row in rows if not row.values]
    if empty and labels.zero == "background":
        names = ", ".join(empty[:5]) + (", …" if len(empty) > 5 else "")
        yield f"No object in {len(empty)} of {len(rows)} label maps ({names}): these scans are background throughout."
    if labels.zero == "unlabelled" and not any(row.background for row in rows):
        names = ", ".join(info.name for info in classes[1:])
        yield (
            f"0 means unlabelled and no background is painted: the model will give every voxel one of {names}. Where "
            "one of them is the background, give its value as background value."
        )
    images = [row.pair.image.key if row.pair.image.layers else row.pair.image.paths for row in rows]
    twice = next((row for i, row in enumerate(rows) if images[i] in images[:i]), None)
    if twice:
        yield f"{twice.image} is in more than one pair: validation may be on an image that is trained on."


def _looks_unfinished(row: PairRow) -> bool:
    """Whether slices between the labelled ones, or all but one, hold no label."""
    if not row.slices:
        return False
    first, last = row.slices[0], row.slices[-1]
    return (len(row.slices) == 1 or last - first + 1 >= 2 * len(row.slices)) and row.spec.size(row.axis) > 1


def _start(rows: Sequence[PairRow], classes: Sequence[ClassInfo], start: ModelEntry | None) -> Iterator[str]:
    if start is None:
        return
    made = [row for row in rows if made_by_model(row.provenance)]
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


def _network(rows: Sequence[PairRow], start: ModelEntry | None, run: RunConfig) -> Iterator[str]:
    dims = start.header.model.dims if start else run.preprocess.dims
    deep = next((row.spec for row in rows if row.spec is not None and row.spec.spatial_ndim == 3), None)
    if dims == 2 and deep is not None and min(deep.spatial_shape) > 1:
        yield f"The model is 2D: scans are taken slice by slice, along {deep.spatial_axes[slice_axis(deep)]}."
    if start is not None:
        said = (size_note(row.spec, start.header.preprocess) for row in rows if row.spec is not None)
        yield from [note for note in said if note][:1]
    if start is not None and len(start.header.preprocess.channels) == 1 and _names(rows, 3) == COLOR:
        yield "Colors are turned to gray: the start model takes one channel."


def _names(rows: Sequence[PairRow], number: int) -> tuple[str, ...]:
    """Channel names of the first image with so many channels."""
    return next((r.spec.channel_names for r in rows if r.spec is not None and r.spec.num_channels == number), ())
