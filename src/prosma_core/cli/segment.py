"""`prosma segment`: label maps of scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prosma_core.cli.options import (
    Device,
    Mirror,
    Model,
    Overlap,
    Spacing,
    Stopped,
    Unit,
    computing_on,
    log_to_stderr,
    parse_region,
    say,
    voxel_size,
)
from prosma_core.cli.progress import Lines
from prosma_core.cli.scans import (
    Inputs,
    ListFile,
    Match,
    On,
    PartOf,
    Recursive,
    Root,
    SkipExisting,
    describe_part,
    end_of,
    place_of,
    say_kept,
    scan_choice,
)
from prosma_core.events import CaseDone, CaseFailed, Event, StageStarted, TileDone, Working, drain
from prosma_core.io.remote import local_path
from prosma_core.printable import TimeLeft, format_duration, visible


def segment(
    model: Model,
    out: Annotated[
        Path,
        typer.Option(
            "--out", parser=local_path, metavar="PATH", help="Folder for results; with one input also a file."
        ),
    ],
    inputs: Inputs = None,
    device: Device = "auto",
    on: On = None,
    overlap: Overlap = None,
    mirror: Mirror = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write the probability of every class.")
    ] = False,
    entropy: Annotated[bool, typer.Option("--entropy", help="Also write the uncertainty, 0 to 1.")] = False,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="Least probability of foreground, between 0 and 1; otherwise the likeliest."),
    ] = None,
    objects: Annotated[
        bool, typer.Option("--objects", help="Also number the objects: the connected pieces of each class.")
    ] = False,
    min_size: Annotated[
        int, typer.Option("--min-size", help="Remove pieces of a class with fewer voxels; 0 keeps all.")
    ] = 0,
    keep_largest: Annotated[
        bool, typer.Option("--keep-largest", help="Keep the largest piece of each class only.")
    ] = False,
    fill_holes: Annotated[bool, typer.Option("--fill-holes", help="Fill holes inside each class.")] = False,
    region: Annotated[
        str | None, typer.Option("--region", help="Only this box of voxels gets labels: z0:z1,y0:y1,x0:x1.")
    ] = None,
    slice_axis: Annotated[
        str | None, typer.Option("--slice-axis", help="Axis a 2D model walks along in a 3D scan: z, y or x.")
    ] = None,
    axes: Annotated[
        str | None, typer.Option("--axes", help="How the file's axes are read, such as zyx, czyx or tyx.")
    ] = None,
    spacing: Spacing = None,
    unit: Unit = None,
    listed: ListFile = None,
    recursive: Recursive = False,
    match: Match = "",
    root: Root = None,
    part: PartOf = None,
    skip_existing: SkipExisting = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")] = False,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table",
            parser=local_path,
            metavar="FILE",
            help="A .csv that gets a row for each scan and class; others stay.",
        ),
    ] = None,
) -> None:
    """Segment scans; each label map is written on its scan's grid.

    Exit code 0: all scans are done; 2: the command cannot be used as given; 3: some scans failed; 4: all failed;
    130, 143 or 129: stopped by Ctrl+C, SIGTERM or SIGHUP.
    """
    from prosma_core.config.inference import InferenceConfig
    from prosma_core.inference.files import FileOptions, describe_finished, fill_table, plan_files, segment_plan
    from prosma_core.io.bundle import find_model, read_header
    from prosma_core.io.result_table import ResultTable

    log_to_stderr()
    place = place_of(on)
    config = InferenceConfig.parse(
        {
            **({} if overlap is None else {"overlap": overlap}),
            "mirror": mirror,
            "probabilities": probabilities,
            "entropy": entropy,
            "threshold": threshold,
            "objects": objects,
            "min_size": min_size,
            "keep_largest": keep_largest,
            "fill_holes": fill_holes,
            "region": parse_region(region),
            "slice_axis": slice_axis,
        },
        "The command line",
    )
    choice = scan_choice(inputs, listed, recursive, match, root, part)
    path = find_model(model)
    protected = (path, *([listed] if listed else []))
    options = FileOptions(axes, voxel_size(spacing, unit), overwrite, skip_existing, protected)
    header = read_header(path)
    plan = plan_files(choice, out, header, config, options)
    rows = ResultTable(table, [*protected, *(f for t in plan.left for f in t.scan.files)]) if table else None
    say(*describe_part(plan, choice.part), *describe_finished(plan, header, config), err=True)
    progress = _Progress(len(plan.left), several=place is not None)
    try:
        if plan.left and place is not None:
            from prosma_core.cluster.connection import connect
            from prosma_core.cluster.scans import segment_on

            say(f"Connecting to {place.text}.", err=True)
            with connect(place) as cluster, progress.bar:
                drain(segment_on(cluster, plan, path, config, options, rows, device), progress.show)
        elif plan.left:
            from prosma_core.inference.segment import Segmenter  # late: brings torch

            segmenter = Segmenter.load(path, computing_on(device).device)
            with progress.bar:
                drain(segment_plan(plan, segmenter, config, options, rows), progress.show)
        if rows is not None:
            drain(fill_table(plan, header, rows), progress.show)
    except Stopped:
        say_kept(plan)
        if len(plan.left) > 1:
            again = "" if skip_existing else " with --skip-existing"
            say(
                f"{plan.done} of {len(plan.left)} scans segmented. Run the command again{again} for the rest.", err=True
            )
        raise
    end_of(plan, "segmented", rows.problem if rows is not None else "")


class _Progress:
    """A bar over the tiles of the present scan, or over scans where several are computed; a line per finished scan."""

    def __init__(self, scans: int, *, several: bool = False) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.lines, self.left = Lines(), TimeLeft()
        self.console = self.lines.console
        self.scans, self.finished, self.failed, self.several = scans, 0, 0, several
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *(
                [TextColumn("{task.completed}/{task.total} scans"), TimeRemainingColumn()]
                if several
                else [TextColumn("{task.fields[done]}", markup=False)]
            ),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("Reading", total=None, done="")

    def show(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, TileDone):
            failed = f" ({self.failed} failed)" if self.failed else ""
            left = self.left.text(event.part, 1.0, event.seconds_left)
            done = f"{event.done} of {event.total} tiles" + (f", {left}" if left else "")
            self.bar.update(self.task, description=f"Segmenting{failed}", completed=event.part, total=1, done=done)
            self.lines.now(f"Segmenting scan {self.finished + self.failed + 1} of {self.scans}: {done}")
        elif isinstance(event, Working):
            self.bar.update(self.task, description=visible(event.message))
            if self.several:
                self.bar.update(self.task, completed=self.finished, total=self.scans)
            self.lines.now(event.message)
        elif isinstance(event, StageStarted):
            self.lines.say(event.message)
        elif isinstance(event, CaseDone):
            sizes = ", ".join(f"{name} {count}" for name, count in event.voxels.items())
            self.lines.say(f"{event.name} -> {event.output} ({format_duration(event.seconds)}; voxels: {sizes})")
            self.finished += 1
            self.bar.reset(self.task, total=None, description="Reading", done="")
        elif isinstance(event, CaseFailed):
            self.failed += 1
            self.lines.failed(event, self.scans)
