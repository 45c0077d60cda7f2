"""`prosma inspect`: maps and numbers of what the gates remove from a scan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prosma_core.cli.options import (
    Device,
    Model,
    Overlap,
    Spacing,
    Unit,
    computing_on,
    log_to_stderr,
    parse_levels,
    parse_maps,
    parse_region,
    parse_what_if,
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
    scan_choice,
)
from prosma_core.events import CaseFailed, Event, StageStarted, TileDone, Working, drain
from prosma_core.io.remote import input_path, local_path

if TYPE_CHECKING:
    from prosma_core.config.inspection import Inspection, VariantResult


def inspect(
    model: Model,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            parser=local_path,
            metavar="PATH",
            help="Folder for maps, pictures and summary.json; of several scans, one in it each.",
        ),
    ],
    inputs: Inputs = None,
    levels: Annotated[
        str | None, typer.Option("--levels", help="Levels to inspect, 0 the finest: 0,1; all unless given.")
    ] = None,
    maps: Annotated[
        str | None,
        typer.Option("--maps", help="Maps to write, beside removed and energy: kept,field,scales,gate,…; or all."),
    ] = None,
    what_if: Annotated[
        list[str] | None,
        typer.Option("--what-if", help="Segment with changed gates: level=2:tau*0, level=1:open, …; may be repeated."),
    ] = None,
    which_level: Annotated[
        bool,
        typer.Option(
            "--which-level", help="Rank levels by ablation: force each gate open, one at a time, and compare."
        ),
    ] = False,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            "--truth",
            parser=input_path,
            metavar="PATH",
            help="Reference labels of the scan, to compare both results with.",
        ),
    ] = None,
    noise_gain: Annotated[
        bool, typer.Option(help="Measure the noise gain of each level, which takes a second pass.")
    ] = True,
    device: Device = "auto",
    on: On = None,
    overlap: Overlap = None,
    region: Annotated[
        str | None, typer.Option("--region", help="Inspect this box of voxels only: z0:z1,y0:y1,x0:x1.")
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files in the folder.")] = False,
) -> None:
    """Inspect the gates: what each skip connection removed from a scan, and what changes when it is changed.

    Exit code 0: all scans are done; 2: the command cannot be used as given; 3: some scans failed; 4: all failed;
    130, 143 or 129: stopped by Ctrl+C, SIGTERM or SIGHUP.
    """
    from prosma_core.config.inspection import InspectConfig
    from prosma_core.inference.segment import Segmenter
    from prosma_core.inspection.files import Asked, Report, check_asked, inspect_plan, plan_inspections
    from prosma_core.io.bundle import find_model, read_header

    log_to_stderr()
    place = place_of(on)
    settings = {
        **({} if overlap is None else {"overlap": overlap}),
        "levels": parse_levels(levels),
        "maps": parse_maps(maps),
        "noise_gain": noise_gain,
        "region": parse_region(region),
        "slice_axis": slice_axis,
    }
    config = InspectConfig.parse(settings, "The command line")
    variants = tuple(parse_what_if(text) for text in what_if or ())
    size = voxel_size(spacing, unit)
    path = find_model(model)
    protected = (path, *([listed] if listed else []))
    asked = Asked(config, variants, which_level, reference, axes, size, overwrite, protected)
    header = read_header(path)
    check_asked(header, asked)
    choice = scan_choice(inputs, listed, recursive, match, root, part)
    plan = plan_inspections(choice, out, header, asked, skip_existing=skip_existing)
    say(*describe_part(plan, choice.part), err=True)
    several = plan.total > 1

    def show(name: str, report: Report) -> None:
        said = (*([report.words] if report.words else []), *_levels(report.inspection))
        changed = (*_variants("what if", report.what_if), *_variants("level ranking", report.which_level))
        say(*([f"{name}:"] if several else []), *said, *changed)

    if plan.left and place is not None:
        from prosma_core.cluster.connection import connect
        from prosma_core.cluster.inspections import inspect_on

        say(f"Connecting to {place.text}.", err=True)
        with connect(place) as cluster:
            work = inspect_on(cluster, plan, out, path, asked, show, device)
            drain(work, _Progress(len(plan.left)).show)
    elif plan.left:
        segmenter = Segmenter.load(path, computing_on(device).device)
        drain(inspect_plan(plan, segmenter, asked, show), _Progress(len(plan.left)).show)
    if plan.done:
        say(f"Written to {out}.", err=True)
    end_of(plan, "inspected")


class _Progress:
    """Sentences, and where there is a terminal what is done at the moment."""

    def __init__(self, scans: int) -> None:
        self.lines, self.scans = Lines(), scans
        self.console = self.lines.console

    def show(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, StageStarted):
            self.lines.say(event.message)
        elif isinstance(event, CaseFailed):
            self.lines.failed(event, self.scans)
        elif isinstance(event, TileDone | Working):
            words = event.message if isinstance(event, Working) else f"Tile {event.done} of {event.total}"
            self.lines.now(words)
            if self.console.is_terminal:
                self.console.print(f"{words:<60}", end="\r")


def _levels(inspection: Inspection) -> Iterator[str]:
    """Table of the levels."""
    if inspection.levels:
        head = f"{'level':<7}{'grid':<16}{'channels':>8}{'removed':>10}{'energy removed':>16}{'threshold':>11}"
        yield f"{head}{'noise gain':>12}{'flipped':>9}{'gate spread':>13}"
    for level in inspection.levels:
        grid = "x".join(map(str, level.shape))
        counts = f"{level.level:<7}{grid:<16}{level.channels:>8}{level.removed:>10.1%}{level.energy:>16.1%}"
        tau, gain = _number(level.threshold, ".3f"), _number(level.noise_gain, ".2f")
        flipped, spread = _number(level.flipped, ".1%"), _number(level.channel_gate_spread, ".4f")
        yield f"{counts}{tau:>11}{gain:>12}{flipped:>9}{spread:>13}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _variants(title: str, results: Sequence[VariantResult]) -> Iterator[str]:
    """Table of changed results."""
    if not results:
        return
    width = max(len(title), *(len(result.name) for result in results)) + 2
    names = max(len(change.name) for result in results for change in result.classes) + 2
    yield ""
    head = f"{'before':>9}{'after':>9}{'added':>9}{'lost':>9}{'Dice':>8}  Dice with reference"
    yield f"{title:<{width}}{'class':<{names}}{head}"
    for result in results:
        for c in result.classes:
            reference = "-" if c.truth_before is None else f"{c.truth_before:.3f} -> {c.truth_after:.3f}"
            counts = f"{c.before:>9}{c.after:>9}{c.turned_on:>9}{c.turned_off:>9}"
            yield f"{result.name:<{width}}{c.name:<{names}}{counts}{c.dice:>8.3f}  {reference}"
