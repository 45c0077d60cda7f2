"""Options that several verbs share, and how progress is shown."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prosma_core.cli.terminal import say
from prosma_core.errors import ConfigError
from prosma_core.events import Event, StageStarted, drain
from prosma_core.printable import VisibleFormatter

if TYPE_CHECKING:
    from prosma_core.config.voxel_size import VoxelSize
    from prosma_core.inference.device import DeviceChoice

Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.", show_default=True)]
Model = Annotated[str, typer.Option("--model", help="A shipped model's name, or a .safetensors file.")]
Data = Annotated[Path, typer.Option("--data", help="Folder with images/ and labels/, or an nnU-Net raw data set.")]
Spacing = Annotated[
    str | None,
    typer.Option("--spacing", help="Voxel size of scans that state none: z,y,x, such as 3,1,1mm or 0.5,0.2,0.2um."),
]
Unit = Annotated[str | None, typer.Option("--unit", help="Unit of --spacing: mm unless given, um, nm, …")]
Overlap = Annotated[float | None, typer.Option("--overlap", help="Least overlap of tiles, 0 to 0.9; less is faster.")]


def parse_region(text: str | None) -> tuple[tuple[int, int], ...] | None:
    """Box of voxels from ``z0:z1,y0:y1,x0:x1``; raises `ConfigError` where the text is not of this form."""
    if text is None:
        return None
    box = []
    for part in text.split(","):
        start, colon, stop = (word.strip() for word in part.partition(":"))
        if not (colon and start.isdecimal() and stop.isdecimal()):
            msg = (
                f"--region {text!r} is not a box of voxels: {part.strip()!r} is not START:STOP. Give z0:z1,y0:y1,x0:x1 "
                "(y0:y1,x0:x1 for a 2D image), numbers from 0, STOP not included: 40:41,0:128,0:128 is one slice."
            )
            raise ConfigError(msg)
        box.append((int(start), int(stop)))
    return tuple(box)


def voxel_size(spacing: str | None, unit: str | None) -> VoxelSize | None:
    """Voxel size of ``--spacing`` and ``--unit``; raises `ConfigError` where they are none."""
    from prosma_core.io.voxel_size import parse_voxel_size

    if spacing is None and unit is not None:
        msg = f"--unit {unit} is the unit of --spacing, which was not given. Give --spacing z,y,x as well."
        raise ConfigError(msg)
    return None if spacing is None else parse_voxel_size(spacing, unit)


def computing_on(name: str) -> DeviceChoice:
    """The device of this name, made ready and said."""
    from prosma_core.inference.device import prepare_device

    def show(event: Event) -> None:
        if isinstance(event, StageStarted):
            say(event.message, err=True)

    choice = drain(prepare_device(name), show)
    say(f"Computing on {choice.inferring}.", err=True)
    return choice


def log_to_stderr() -> None:
    """Let warnings of this library reach the person; what other libraries log is not meant for them."""
    handler = logging.StreamHandler()
    handler.setFormatter(VisibleFormatter("Warning: %(message)s"))
    handler.addFilter(logging.Filter("prosma_core"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def clock(seconds: float) -> str:
    """Duration as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
