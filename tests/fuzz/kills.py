"""Kill a process at every file operation of every save, and count what the next one finds.

``python3 run.py fuzz --kills``; ``--only png,autosave``: some of the writers, ``--every 7``: a sample of operations.
For each operation a fork of this process replaces an earlier result and gets signal 9 right before the operation (of a
write: after half of it), another right after it. Then this process reads what is there, removes what the dead one has
left as the next start does, and every fourth time saves anew. Exit code 1 where neither the old nor the new result is
whole ("neither"), or anything but the result is there after the next start ("parts left").
"""

from __future__ import annotations

import functools
import gc
import importlib
import itertools
import json
import logging
import os
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests import faults
from tests.writers import MORE, TORCH, WRITERS, Found, Save, Writer

from prosma_core.runs.run_folder import RunFolder


@dataclass
class Row:
    """What came out for a writer."""

    operations: int = 0
    kills: int = 0
    old: int = 0
    new: int = 0
    neither: int = 0
    left: int = 0
    seconds: float = 0.0
    found: list[str] = field(default_factory=list)

    def add(self, other: Row) -> None:
        """Add the sums of another."""
        for name in ("operations", "kills", "old", "new", "neither", "left", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Saved:
    """The result of a writer in a folder of its own, which survives what is done to it."""

    def __init__(self, make: Writer, root: Path) -> None:
        self._make, self._root, self._rounds = make, root, itertools.count()
        self.begin()

    def begin(self) -> None:
        """Save a first result into an empty folder."""
        self.folder = self._root / str(next(self._rounds))
        self.folder.mkdir()
        self.save: Save
        self.found: Found
        self.save, self.found = self._make(self.folder)
        self.number = 0
        self.save(0)
        self.names = self._listing()

    def operations(self) -> int:
        """How many operations there are in a save that replaces the result."""
        counted = faults.Faults(self.folder)
        with counted.failing(0, 0):
            self.save(self.number + 1)
        self.number += 1
        return counted.count

    def kill(self, at: int, *, after: bool) -> bool:
        """Kill a save at an operation; False where it came to its end before."""
        save = functools.partial(self.save, self.number + 1)
        return faults.killed(faults.Faults(self.folder), at, save, after=after)

    def look(self) -> str:
        """Which result is there: "old" or "new"; raises where neither is whole."""
        number = self.found()
        if number == self.number + 1:
            self.number += 1
            return "new"
        assert number == self.number, f"{number} was found, neither {self.number} nor the next"
        return "old"

    def left(self, *, whole: bool) -> set[str]:
        """What is there beside the result after the next start, or after the next `whole` save."""
        if whole:
            self.number += 1
            self.save(self.number)
            assert self.found() == self.number
        else:
            RunFolder(self.folder).sweep()
        listing = self._listing()
        assert self.names <= listing, self.names - listing
        return listing - self.names

    def _listing(self) -> set[str]:
        return {re.sub(r"^maps \d+", "maps", name) for name in faults.listing(self.folder)}


def kill_everywhere(name: str, make: Writer, root: Path, every: int) -> Row:
    """Kill one writer before and after each operation, or before one and after another of every `every`."""
    began, row, saved = time.monotonic(), Row(), Saved(make, root)
    row.operations = saved.operations()
    for turn, at in enumerate(itertools.count(1, every)):
        ways = (False, True) if every == 1 else (turn % 2 == 1,)
        died = [_kill_once(name, saved, at, after=after, row=row) for after in ways]
        if at >= row.operations and not any(died):
            break
    row.seconds = time.monotonic() - began
    return row


def _kill_once(name: str, saved: Saved, at: int, *, after: bool, row: Row) -> bool:
    where = f"{name}: killed {'after' if after else 'before'} operation {at}"
    died = False
    try:
        died = saved.kill(at, after=after)
        row.kills += died
        outcome = saved.look()
        assert died or outcome == "new"
        row.old += died and outcome == "old"
        row.new += died and outcome == "new"
        left = saved.left(whole=row.kills % 4 == 1)
    except Exception:  # noqa: BLE001  (the very thing that is looked for)
        row.neither += 1
        row.found.append(f"{where}: {traceback.format_exc()}")
        saved.begin()
        return died
    if left:
        row.left += len(left)
        row.found.append(f"{where}: left: {', '.join(sorted(left))}")
        saved.begin()
    return died


def _careless(folder: Path) -> tuple[Save, Found]:
    """Writes into the file itself."""
    path = folder / "number.json"
    return lambda number: path.write_text(json.dumps([number])), lambda: int(json.loads(path.read_text())[0])


def _untidy(folder: Path) -> tuple[Save, Found]:
    """Never removes what a killed one has left."""
    path = folder / "number"

    def save(number: int) -> None:
        part = folder / f"number-{os.getpid()}"
        part.write_text(str(number))
        part.replace(path)

    return save, lambda: int(path.read_text())


BROKEN: dict[str, Writer] = {"broken-neither": _careless, "broken-left": _untidy}
"""Writers that do what is looked for."""


def all_writers() -> Iterator[tuple[str, Writer]]:
    """Every writer by its name; each fork copies tables of all memory, so what imports the most comes last."""
    library = {**WRITERS, **MORE}
    yield from ((name, make) for name, make in library.items() if name not in TORCH)
    yield from importlib.import_module("tests.window_writers").WINDOW.items()
    yield from ((name, make) for name, make in library.items() if name in TORCH)


def kills(names: list[str], every: int) -> int:
    """Kill all writers (or some), print the table, and return how many kills left something wrong."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    os.fsync = lambda _: None  # what a killed process has written is not lost, as it is when the power fails
    gc.disable()
    total, trouble, known = Row(), list[str](), set[str]()
    columns = ("operations", "kills", "old", "new", "neither", "parts left")
    print(f"{'writer':<20}" + "".join(f"{column:>12}" for column in columns))
    for name, make in itertools.chain(((name, BROKEN[name]) for name in BROKEN if name in names), all_writers()):
        known.add(name)
        if names and name not in names:
            continue
        gc.collect()
        gc.freeze()
        with tempfile.TemporaryDirectory(prefix="pk-") as root:
            row = kill_everywhere(name, make, Path(root), every)
        _print(name, row)
        total.add(row)
        trouble += row.found
        if known.issuperset(names) and names:
            break
    else:
        if unknown := set(names) - known:
            sys.exit(f"There is no writer {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}.")
    _print("all", total)
    for text in trouble:
        print(f"\n{text}")
    return len(trouble)


def _print(name: str, row: Row) -> None:
    numbers = (row.operations, row.kills, row.old, row.new, row.neither, row.left)
    print(f"{name:<20}" + "".join(f"{n:>12}" for n in numbers) + f"{row.seconds:>10.2f} s", flush=True)
