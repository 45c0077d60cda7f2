"""Options that say which labels are meant, and what their values mean."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from prosma_core.errors import ConfigError

_BETWEEN = "\0"  # no argument holds it


class PairsCommand(TyperCommand):
    """A verb whose option --pair takes two values (typer has no lists of pairs)."""

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
        One of the two is missing.
    """
    pairs = []
    for value in values or []:
        image, between, labels = value.partition(_BETWEEN)
        if not (image and between and labels):
            msg = f"--pair {image} needs two files: --pair IMAGE LABELS."
            raise ConfigError(msg)
        pairs.append((image, labels))
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


def label_meaning(
    *,
    sparse: bool,
    annotated_slices: bool,
    ignore: int | None,
    background: int | None,
    one_class: bool,
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
        values["zero"] = "unlabelled" if sparse else "annotated_slices"
    values |= {"geometry": "image"} if on_image else {}
    return values | ({"one_class": True} if one_class else {})
