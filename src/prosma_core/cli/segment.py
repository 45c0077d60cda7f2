"""`prosma segment`: label maps of scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prosma_core.cli.options import (
    Device,
    Model,
    Overlap,
    Spacing,
    Unit,
    computing_on,
    log_to_stderr,
    parse_region,
    say_error,
    voxel_size,
)
from prosma_core.cli.progress import Lines
from prosma_core.errors import BELOW
from prosma_core.events import CaseDone, CaseFailed, Event, StageStarted, TileDone, Working, drain
from prosma_core.printable import TimeLeft, format_duration, visible


def segment(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Scans, or folders of scans.")],
    model: Model,
    out: Annotated[Path, typer.Option("--out", help="Folder for the results; with one input also a file name.")],
    device: Device = "auto",
    overlap: Overlap = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Average over mirrored copies (4 or 8 times slower).")
    ] = False,
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")] = False,
) -> None:
    """Segment scans; each label map is written on its scan's grid."""
    from prosma_core.cli.options import ERROR_EXIT
    from prosma_core.config.inference import InferenceConfig
    from prosma_core.inference.files import segment_files
    from prosma_core.inference.segment import Segmenter
    from prosma_core.io.bundle import find_model

    log_to_stderr()
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
    size = voxel_size(spacing, unit)
    path = find_model(model)
    choice = computing_on(device)
    segmenter = Segmenter.load(path, choice.device)
    progress = _Progress()
    with progress.bar:
        run = segment_files(
            inputs, out, segmenter, config, axes=axes, voxel_size=size, overwrite=overwrite, protected=[path]
        )
        failures = drain(run, progress.show)
    if failures:
        total = progress.finished + len(failures)
        reasons = [f"{visible(failure.name)}: {failure.error}" for failure in failures]
        if total > 1:
            reasons = [f"{len(failures)} of {total} scans could not be segmented:", *reasons]
        say_error(BELOW.join(reasons))
        raise typer.Exit(ERROR_EXIT)


class _Progress:
    """A bar over the tiles of the present scan, and one line per finished scan."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.lines, self.left = Lines(), TimeLeft()
        self.console = self.lines.console
        self.finished = self.failed = 0
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} tiles"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("Reading", total=None)

    def show(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, TileDone):
            failed = f" ({self.failed} failed)" if self.failed else ""
            self.bar.update(self.task, description=f"Segmenting{failed}", completed=event.done, total=event.total)
            left = self.left.text(event.done, event.total)
            done = f"{event.done} of {event.total} tiles" + (f", {left}" if left else "")
            self.lines.now(f"Segmenting scan {self.finished + self.failed + 1}: {done}")
        elif isinstance(event, Working):
            self.lines.now(event.message)
        elif isinstance(event, StageStarted):
            self.lines.say(event.message)
        elif isinstance(event, CaseDone):
            sizes = ", ".join(f"{name} {count}" for name, count in event.voxels.items())
            self.lines.say(f"{event.name} -> {event.output} ({format_duration(event.seconds)}; voxels: {sizes})")
            self.finished += 1
            self.bar.reset(self.task, total=None, description="Reading")
        elif isinstance(event, CaseFailed):
            self.failed += 1  # the reasons are listed at the end
