"""What the parts of the page are made of: tables, means, differences."""

from __future__ import annotations

from collections.abc import Sequence

from evidence.claims import difference
from evidence.measured import Measured, Spread, paired


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def number(spread: Spread | None) -> str:
    """Mean ± standard deviation."""
    if spread is None:
        return "–"
    return f"{spread.mean:.4f}" + ("" if spread.sd is None else f" ± {spread.sd:.4f}")


def against(measured: Measured, row: str, other: str) -> str:
    """Paired difference of a row to another."""
    spread = None if row == other else paired(measured.clean(row), measured.clean(other))
    return "" if spread is None else difference(spread)
