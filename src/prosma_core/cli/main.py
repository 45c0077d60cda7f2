"""Entry point of `prosma`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from prosma_core import __version__
from prosma_core.cli.doctor import doctor
from prosma_core.cli.evaluate import evaluate
from prosma_core.cli.inspect import inspect
from prosma_core.cli.models import models_app
from prosma_core.cli.options import PairsCommand
from prosma_core.cli.segment import segment
from prosma_core.cli.terminal import ERROR_EXIT, VisibleGroup, say, say_error
from prosma_core.cli.train import train
from prosma_core.computing import COMPUTING
from prosma_core.errors import ProsmaError
from prosma_core.printable import visible

app = typer.Typer(
    cls=VisibleGroup,
    name="prosma",
    help="Train ProSMA-UNets on annotated scans and segment new scans with them, in 2D and 3D.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(cls=PairsCommand)(train)
app.command()(segment)
app.command()(evaluate)
app.command()(inspect)
app.add_typer(models_app, name="models")
app.command()(doctor)


def _print_version(value: bool) -> None:
    if value:
        say(f"prosma {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Segmentation that shows its work."""


def main() -> None:
    """Run the command line; our own errors become one message and exit code 2."""
    for name, value in COMPUTING.items():
        os.environ.setdefault(name, value)
    try:
        app(prog_name="prosma")
    except ProsmaError as error:
        say_error(str(error))
        sys.exit(ERROR_EXIT)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        say_error(visible(f"{place}{error.strerror or error}. Check the name, the permissions and the disk."))
        sys.exit(ERROR_EXIT)
    except KeyboardInterrupt:
        say("Stopped.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
