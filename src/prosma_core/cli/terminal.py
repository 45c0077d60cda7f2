"""What is printed: names from files, in whatever text, do nothing to a terminal and begin no line of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from prosma_core.errors import BELOW
from prosma_core.printable import visible

if TYPE_CHECKING:
    from rich.console import Console

ERROR_EXIT = 2
"""Exit code where an error is reported."""
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]  # the base of all that the parser raises


def say(*lines: str, err: bool = False) -> None:
    """Print lines, each made visible; `err`: to stderr."""
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
    """Where progress is shown; names from files are plain text there, and lines are not broken."""
    from rich.console import Console

    class Visible(Console):
        def print(self, *objects: Any, **how: Any) -> None:
            super().print(*(visible(each) if isinstance(each, str) else each for each in objects), **how)

    return Visible(stderr=True, markup=False, highlight=False, soft_wrap=True)


class VisibleGroup(TyperGroup):
    """The verbs; what the parser says of an argument is made visible as well."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """As in click."""
        with _usage_visible():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """As in click."""
        with _usage_visible():
            return super().invoke(ctx)


@contextmanager
def _usage_visible() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        error.message = visible(getattr(error, "message", ""))  # type: ignore[attr-defined]
        raise
