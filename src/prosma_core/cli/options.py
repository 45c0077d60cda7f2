"""Options that several commands share, and printing: text from files cannot act on the terminal."""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from prosma_core.config.inspection import InspectConfig, LevelEdit, MapKind, Variant
from prosma_core.errors import BELOW, ConfigError, Signaled
from prosma_core.events import Event, StageStarted, drain
from prosma_core.io.remote import local_path
from prosma_core.printable import VisibleFormatter, visible

if TYPE_CHECKING:
    from rich.console import Console

    from prosma_core.config.model import VoxelSize
    from prosma_core.inference.device import DeviceChoice


ERROR_EXIT = 2
"""Exit code where a command cannot be carried out as it was given."""
PARTIAL_EXIT = 3
"""Exit code where some scans are done and others failed."""
NOTHING_EXIT = 4
"""Exit code where all scans failed."""
SIGNAL_EXIT = 128
"""With the number of the signal added: exit code of a command that was stopped."""


class Stopped(Signaled):
    """The process was told to end, by Ctrl+C or another signal."""


_UsageError: type[Exception] = typer.BadParameter.__mro__[2]  # the base of all that the parser raises


def say(*lines: str, err: bool = False) -> None:
    """Print lines, if any, control characters in them as escapes; `err`: to stderr."""
    if lines:
        typer.echo("\n".join(map(visible, lines)), err=err)


def say_error(text: str) -> None:
    """Print an error; lines of its own stand indented below the first."""
    first, *more = text.split(BELOW)
    say(f"Error: {first}", *(f"  {line}" for line in more), err=True)


def cell(text: str) -> str:
    """A text for a cell of a table that rich draws."""
    from rich.markup import escape

    return escape(visible(text))


def stderr_console() -> Console:
    """Console on stderr for progress; names from files are plain text there, and lines are not broken."""
    from rich.console import Console

    class Visible(Console):
        def print(self, *objects: Any, **how: Any) -> None:
            super().print(*(visible(each) if isinstance(each, str) else each for each in objects), **how)

    return Visible(stderr=True, markup=False, highlight=False, soft_wrap=True)


class VisibleGroup(TyperGroup):
    """Group of the commands; in usage errors, control characters of arguments are escapes as well."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """As in click."""
        with _usage_visible():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """As in click, which would end on `KeyboardInterrupt` without a word."""
        try:
            with _usage_visible():
                return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Stopped(signal.SIGINT) from error


@contextmanager
def _usage_visible() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        error.message = visible(getattr(error, "message", ""))  # type: ignore[attr-defined]
        raise


Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.", show_default=True)]
Model = Annotated[str, typer.Option("--model", help="A shipped model's name, or a .safetensors file.")]
Data = Annotated[
    Path,
    typer.Option(
        "--data", parser=local_path, metavar="PATH", help="Folder with images/ and labels/, or an nnU-Net raw data set."
    ),
]
Spacing = Annotated[
    str | None,
    typer.Option("--spacing", help="Voxel size of scans that state none: z,y,x, such as 3,1,1mm or 0.5,0.2,0.2um."),
]
Unit = Annotated[str | None, typer.Option("--unit", help="Unit of --spacing: mm unless given, um, nm, …")]
Overlap = Annotated[float | None, typer.Option("--overlap", help="Least overlap of tiles, 0 to 0.9; less is faster.")]
Mirror = Annotated[
    bool,
    typer.Option(
        "--mirror",
        help="Average over mirrored copies, along the axes that the training mirrored: 2 to 8 times the work.",
    ),
]


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
    from prosma_core.io.axes_units import parse_voxel_size

    if spacing is None and unit is not None:
        msg = f"--unit {unit} is the unit of --spacing, which was not given. Give --spacing z,y,x as well."
        raise ConfigError(msg)
    return None if spacing is None else parse_voxel_size(spacing, unit)


def computing_on(name: str) -> DeviceChoice:
    """Device of this name, prepared; prints which one it is."""
    from prosma_core.inference.device import prepare_device

    def show(event: Event) -> None:
        if isinstance(event, StageStarted):
            say(event.message, err=True)

    choice = drain(prepare_device(name), show)
    say(f"Computing on {choice.inferring}.", err=True)
    return choice


def log_to_stderr() -> None:
    """Log warnings of this library to stderr; those of other libraries are left out."""
    handler = logging.StreamHandler()
    handler.setFormatter(VisibleFormatter("Warning: %(message)s"))
    handler.addFilter(logging.Filter("prosma_core"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


ALLOWED = (
    "level=L:tau*K (K from 0 to 4), level=L:open, level=L:closed, level=L:nochannelgate, level=L:channel=C:open or "
    "level=L:channel=C:closed; several with commas in between"
)
_PART = re.compile(r"level=(\d+):(?:tau\*(?P<factor>\d+\.?\d*|\.\d+)|(?P<word>open|closed|nochannelgate)|"
                   r"channel=(?P<channel>\d+):(?P<state>open|closed))")  # fmt: skip


def parse_what_if(text: str) -> Variant:
    """Changes of gates from ``level=2:tau*0,level=0:open``; raises `ConfigError` where the text is not of this form."""
    changes: dict[int, dict[str, Any]] = {}
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            msg = f"--what-if {text!r}: {part.strip()!r} is not a change of a gate. Allowed are {ALLOWED}."
            raise ConfigError(msg)
        level = int(match[1])
        edit = changes.setdefault(level, {"level": level})
        if match["factor"] is not None:
            edit["threshold"] = float(match["factor"])
        elif match["channel"] is not None:
            key = f"{match['state']}_channels"
            edit[key] = (*edit.get(key, ()), int(match["channel"]))
        elif match["word"] == "nochannelgate":
            edit["channel_gate"] = False
        else:
            edit["state"] = match["word"]
    what = f"--what-if {text!r}"
    return Variant(name=text, edits=tuple(LevelEdit.parse(edit, what) for edit in changes.values()))


def parse_levels(text: str | None) -> tuple[int, ...] | None:
    """Levels from ``0,1``; raises `ConfigError` where the text is not of this form."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        msg = f"--levels {text!r}: give numbers of levels, 0 for the finest, with commas in between: 0,1,2."
        raise ConfigError(msg)
    return tuple(int(word) for word in words)


def parse_maps(text: str | None) -> tuple[MapKind, ...]:
    """Maps from ``removed,field`` or ``all``, the usual ones for None; raises `ConfigError` where one is unknown."""
    kinds: tuple[MapKind, ...] = get_args(MapKind)
    if text is None:
        usual: tuple[MapKind, ...] = InspectConfig.model_fields["maps"].default
        return usual
    words = [word.strip() for word in text.split(",")]
    if words == ["all"]:
        return kinds
    unknown = next((word for word in words if word not in kinds), None)
    if unknown is not None:
        msg = f"--maps {text!r}: there is no map {unknown!r}. Allowed are {', '.join(kinds)}, or all."
        raise ConfigError(msg)
    return tuple(kind for kind in kinds if kind in words)


_BETWEEN = "\0"  # no argument holds it


class PairsCommand(TyperCommand):
    """A command whose option --pair takes two values (typer has no lists of pairs)."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments, each ``--pair IMAGE LABELS`` made one value before."""
        joined: list[str] = []
        rest = iter(args)
        for word in rest:
            joined.append(word)
            if word == "--pair":
                values = list(islice(rest, 2))
                joined += [_BETWEEN.join(values)] if len(values) == 2 and values[1][:2] != "--" else values
        return super().parse_args(ctx, joined)


def split_pairs(values: list[str] | None) -> list[tuple[str, str]]:
    """Image and label file of each --pair.

    Raises
    ------
    ConfigError
        One of the two is missing, or a URL.
    """
    pairs = []
    for value in values or []:
        image, between, labels = value.partition(_BETWEEN)
        if not (image and between and labels):
            msg = f"--pair {image} needs two files: --pair IMAGE LABELS."
            raise ConfigError(msg)
        pairs.append((str(local_path(image)), str(local_path(labels))))
    return pairs


Pairs = Annotated[
    list[str] | None,
    typer.Option(
        "--pair",
        metavar="IMAGE LABELS",
        help="A scan and its labels; may be given several times, beside --data or instead of it.",
    ),
]
Sparse = Annotated[bool, typer.Option("--sparse", help="0 means not annotated (scribbles): only painted voxels count.")]
AnnotatedSlices = Annotated[
    bool,
    typer.Option(
        "--annotated-slices", help="0 is background on slices that hold any label, and not annotated on all others."
    ),
]
Ignore = Annotated[int | None, typer.Option("--ignore", help="Label value that is left out of everything.", min=1)]
Background = Annotated[
    int | None, typer.Option("--background", help="Painted label value that means background.", min=1)
]
OneClass = Annotated[
    bool,
    typer.Option(
        "--one-class",
        help="Take all labels above 0 as one class, such as numbered cells; masks with gray edges above half.",
    ),
]


GrayLabels = Annotated[
    str | None,
    typer.Option(
        "--gray-labels",
        metavar="threshold|classes",
        help="Masks with gray edges (JPEG, resized): above half is one class, or each value is a class.",
    ),
]


LabelsOnImage = Annotated[
    bool,
    typer.Option(
        "--labels-on-image", help="Label files lie on the image's voxels where shapes are equal, whatever they say."
    ),
]


Separate = Annotated[
    bool,
    typer.Option("--separate", help="With --one-class: keep touching objects apart, by a gap between their numbers."),
]


def label_meaning(
    *,
    sparse: bool,
    annotated_slices: bool,
    ignore: int | None,
    background: int | None,
    one_class: bool,
    separate: bool = False,
    gray: str | None = None,
    on_image: bool = False,
) -> dict[str, Any]:
    """Values of `LabelsConfig` that were given on the command line.

    Raises
    ------
    ConfigError
        0 was given two meanings.
    """
    if sparse and annotated_slices:
        msg = "--sparse and --annotated-slices give 0 different meanings on annotated slices. Give one of them."
        raise ConfigError(msg)
    values: dict[str, Any] = {"ignore": ignore, "background": background, "gray": gray}
    values = {key: value for key, value in values.items() if value is not None}
    if sparse or annotated_slices:
        values["zero"] = "unlabeled" if sparse else "annotated_slices"
    values |= {"geometry": "image"} if on_image else {}
    values |= {"separate": True} if separate else {}
    return values | ({"one_class": True} if one_class else {})
