"""`prosma evaluate`: measures of a model on annotated scans."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prosma_core.cli.options import (
    PARTIAL_EXIT,
    AnnotatedSlices,
    Background,
    Data,
    Device,
    GrayLabels,
    Ignore,
    LabelsOnImage,
    Mirror,
    Model,
    OneClass,
    Overlap,
    Spacing,
    Sparse,
    Unit,
    cell,
    computing_on,
    label_meaning,
    log_to_stderr,
    say,
    voxel_size,
)
from prosma_core.cli.progress import Lines
from prosma_core.cli.scans import On, place_of
from prosma_core.events import CaseDone, Event, StageStarted, TileDone, Working, drain
from prosma_core.io.remote import local_path
from prosma_core.printable import counted, visible

if TYPE_CHECKING:
    from rich.status import Status


def evaluate(
    model: Model,
    data: Data,
    split: Annotated[
        str | None,
        typer.Option(
            "--split", help="Cases of this key of splits.json, or a run folder's splits.json; val where there is one."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", parser=local_path, metavar="PATH", help="Write every number to this file.")
    ] = None,
    device: Device = "auto",
    on: On = None,
    overlap: Overlap = None,
    mirror: Mirror = False,
    sparse: Sparse = False,
    annotated_slices: AnnotatedSlices = False,
    ignore: Ignore = None,
    background: Background = None,
    one_class: OneClass = False,
    gray_labels: GrayLabels = None,
    labels_on_image: LabelsOnImage = False,
    spacing: Spacing = None,
    unit: Unit = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Tolerance of surface Dice, in the scan's unit.", min=0)
    ] = 1.0,
) -> None:
    """Measure a model on annotated scans: Dice, IoU, HD95 and surface Dice per case and class.

    Labels that number objects, with --one-class: also how many were found (F1, IoU above 0.5).

    Exit code 0: all cases were measured; 2: the command cannot be used as given; 3: some could not be measured, and
    are named; 4: none could; 130, 143 or 129: stopped by Ctrl+C, SIGTERM or SIGHUP.
    """
    from prosma_core.config.inference import InferenceConfig
    from prosma_core.config.training import LabelsConfig
    from prosma_core.inference.evaluate import CaseOptions, evaluate_cases
    from prosma_core.inference.segment import Segmenter
    from prosma_core.io.atomic import check_target, write_bytes_atomic
    from prosma_core.io.bundle import find_model, read_header
    from prosma_core.io.dataset_folder import input_files, open_dataset
    from prosma_core.io.output_plan import OutputPlan, check_replace

    log_to_stderr()
    place = place_of(on)
    values = label_meaning(
        sparse=sparse,
        annotated_slices=annotated_slices,
        ignore=ignore,
        background=background,
        one_class=one_class,
        gray=gray_labels,
        on_image=labels_on_image,
    )
    size = voxel_size(spacing, unit)
    meaning = LabelsConfig.parse(values, "The command line")
    path = find_model(model)
    if json_file:
        check_target(json_file)
        OutputPlan([path, *input_files(open_dataset(data)), *([Path(split)] if split else [])]).check(json_file)
        check_replace(json_file, overwrite=True, keys=("cases", "summary"))
    given = {"mirror": mirror} if overlap is None else {"mirror": mirror, "overlap": overlap}
    config = InferenceConfig.parse(given, "The command line")
    lines = Lines()
    with ExitStack() as stack:
        if place is None:
            segmenter = Segmenter.load(path, computing_on(device).device)
            work = evaluate_cases(segmenter, data, split, config, tolerance, meaning, size)
        else:
            from prosma_core.cluster.cases import evaluate_on
            from prosma_core.cluster.connection import connect

            say(f"Connecting to {place.text}.", err=True)
            cluster = stack.enter_context(connect(place))
            options = CaseOptions(config, tolerance, meaning, size)
            work = evaluate_on(cluster, path, read_header(path), data, split, options, device)
        status = stack.enter_context(lines.console.status("Reading"))
        report = drain(work, partial(_show, lines, status))
    if json_file:
        write_bytes_atomic(json_file, json.dumps(report, indent=1).encode())
    _print_table(report)
    if report["failed"]:
        failed = ", ".join(list(report["failed"])[:5])
        say(f"{counted(len(report['failed']), 'case')} could not be measured, with no part above: {failed}.", err=True)
        raise typer.Exit(PARTIAL_EXIT)


def _show(lines: Lines, status: Status, event: Event) -> None:
    from rich.text import Text

    if isinstance(event, Working):
        status.update(Text(visible(event.message)))
        lines.now(event.message)
    elif isinstance(event, TileDone):
        lines.now(f"Segmenting: {event.done} of {event.total} tiles")
    elif isinstance(event, StageStarted):
        lines.say(event.message)
    elif isinstance(event, CaseDone):
        lines.say(f"{event.name} ({event.seconds:.1f} s)")


def _print_table(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    unit = "/".join(visible(unit) for unit in report["units"])  # cases need not have the same
    distance = f"{report['tolerance']:g} {unit}"
    table = Table("case", "class", "Dice", "IoU", f"HD95 ({unit})", f"surface Dice ({distance})")
    for case, classes in report["cases"].items():
        for name, m in classes.items():
            table.add_row(cell(case), cell(name), *(_number(m[k]) for k in ("dice", "iou", "hd95", "surface_dice")))
    summary = report["summary"]
    table.add_section()
    for name, m in {**summary["classes"], "all classes": summary["mean"]}.items():
        table.add_row("mean", cell(name), *(_number(m[k]) for k in ("dice", "iou", "hd95", "surface_dice")))
    Console(width=110).print(table)
    if (dice := summary["mean_dice"])["cases"]:
        say(
            f"Mean Dice {_number(dice['value'])}: of the classes that each case shows, over "
            f"{counted(dice['cases'], 'case')}."
        )
    for name, m in summary["classes"].items():
        if not m["present"]:
            say(f"{name} is in no case: it has no Dice.")
        if m["absent"]:
            say(
                f"{name}: Dice of cases that have it {_number(m['dice_present'])}; "
                f"no false positive in {m['absent_predicted_empty']} of {counted(m['absent'], 'case')} without it."
            )
        if m["objects"]:
            o = m["objects"]
            say(
                f"{name}: {o['matched']} of {counted(o['wanted'], 'object')} found (IoU above 0.5), "
                f"{o['found'] - o['matched']} pieces match none; F1 {_number(o['f1'])}."
            )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
