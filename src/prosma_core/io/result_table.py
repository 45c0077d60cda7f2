"""A table of results as a CSV file, to which several processes may write at the same time."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path

from prosma_core.data.geometry import ImageSpec
from prosma_core.data.grid import unit_factor
from prosma_core.errors import OutputError
from prosma_core.io.atomic import make_folder, write_bytes_atomic
from prosma_core.io.claims import ClaimedError, claimed
from prosma_core.io.output_plan import OutputPlan, check_replace

_WAIT_S = 60.0
"""Longest time to wait for another process that writes the table."""
_SHARE = 20
"""Rows are kept back for so many times the seconds that writing took."""


@dataclass(frozen=True)
class Row:
    """One class of one scan, or a scan that failed.

    Attributes
    ----------
    scan : str
        The file.
    status : str
        ``done`` or ``failed``.
    voxels, volume, seconds : int or float or str
        Empty where there is none. The volume (area in 2D; of a time series the mean of its time points) is in `unit`.
    """

    scan: str
    status: str
    label: str = ""
    voxels: int | str = ""
    volume: float | str = ""
    unit: str = ""
    seconds: float | str = ""
    model: str = ""
    error: str = ""


_NAMES = ["class" if entry.name == "label" else entry.name for entry in fields(Row)]
COLUMNS = (_NAMES[0], "result", *_NAMES[1:])
KEYS = COLUMNS[:4]
"""First columns, by which a table of this program is known."""


def class_rows(
    scan: Path, voxels: dict[str, int], spec: ImageSpec, model: str, seconds: float | None = None
) -> list[Row]:
    """A row for each class of a scan that was segmented."""
    size, unit = _voxel_size(spec)
    took = "" if seconds is None else round(seconds, 3)
    return [
        Row(str(scan), "done", name, count, float(f"{count * size:.9g}") if unit else "", unit, took, model)
        for name, count in voxels.items()
    ]


def _voxel_size(spec: ImageSpec) -> tuple[float, str]:
    """Size of a voxel as its share of one time point, and its unit; no unit where the scan's is not known."""
    if spec.unit == "pixel":
        return 0.0, ""
    unit = "um" if spec.unit in {"um", "nm"} else "mm"
    size = prod(step * unit_factor(spec.unit, unit) for step in spec.spacing)
    return size / spec.num_frames, f"{unit}^{spec.spatial_ndim}"


def _made(rows: Sequence[Row]) -> bool:
    """Whether a result was made."""
    return any(row.status == "done" for row in rows)


class ResultTable:
    """Rows by result; those of other results in the file stay, those of the same one are replaced.

    A failure leaves the rows of a result that is there: it was not made again, or belongs to another scan.

    Parameters
    ----------
    path : Path
        Made at the first row. Columns that a person added behind ours are kept.
    sources : sequence of Path
        Files that must not be replaced.

    Raises
    ------
    OutputError
        Something else is at `path`, it is not named ``.csv``, or it cannot be written.
    """

    def __init__(self, path: Path, sources: Sequence[Path] = ()) -> None:
        if path.suffix.lower() != ".csv":
            msg = f"The table {path} is a CSV file: let its name end with .csv."
            raise OutputError(msg)
        OutputPlan(sources).check(path)
        check_replace(path, overwrite=True, keys=KEYS)
        make_folder(path.parent)
        self.path = path
        self.problem = ""
        self._pending: dict[str, list[Row]] = {}
        self._rows: list[dict[str, str]] = []
        self._extra: list[str] = []
        self._done: set[str] = set()
        self._due = 0.0
        self._read()

    def has(self, result: Path) -> bool:
        """Whether the result of a scan that was segmented is in the table."""
        return self._key(result) in self._done

    def put(self, result: Path, rows: Sequence[Row]) -> None:
        """Give the rows of a result; they are written soon."""
        key, scans = self._key(result), {row.scan for row in rows}
        others = [row for row in self._pending.get(key, ()) if row.scan not in scans]
        self._pending[key] = [*(() if _made(rows) else others), *rows]
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Write all rows that were given; where that fails, `problem` says why and the rows are kept."""
        began = time.monotonic()
        try:
            self._write()
            self.problem = ""
        except OutputError as error:
            self.problem = str(error)
        ended = time.monotonic()
        self._due = ended + _SHARE * (ended - began)

    def _write(self) -> None:
        if not self._pending:
            return
        until = time.monotonic() + _WAIT_S
        while True:
            try:
                with claimed(self.path):
                    self._read()
                    rows = [row for row in self._rows if row["result"] not in self._pending]
                    rows += [row for key, given in self._pending.items() for row in self._merged(key, given)]
                    self._rows = sorted(rows, key=lambda row: row["result"])  # classes stay in their order
                    self._done = {row["result"] for row in self._rows if row["status"] == "done"}
                    text = io.StringIO(newline="")
                    table = csv.DictWriter(text, [*COLUMNS, *self._extra], restval="", lineterminator="\n")
                    table.writeheader()
                    table.writerows(self._rows)
                    write_bytes_atomic(self.path, text.getvalue().encode("utf-8", "surrogateescape"))
                self._pending = {}
            except ClaimedError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
            else:
                return

    def _merged(self, key: str, given: Sequence[Row]) -> list[dict[str, str]]:
        """The rows of a result: those given, and where all are failures those that these do not change."""
        new = [self._cells(key, row) for row in given]
        if _made(given):
            return new
        there, scans = os.path.lexists(self.path.parent / key), {row.scan for row in given}
        old = [
            row
            for row in self._rows
            if row["result"] == key and (there if row["status"] == "done" else row["scan"] not in scans)
        ]
        finished = {row["scan"] for row in old if row["status"] == "done"}
        return [*old, *(row for row in new if row["scan"] not in finished)]

    def _read(self) -> None:
        check_replace(self.path, overwrite=True, keys=KEYS)
        try:
            text = self.path.read_bytes().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            text = ""
        except OSError as error:
            msg = f"The table {self.path} cannot be read ({error.strerror or error}). Choose another name."
            raise OutputError(msg) from error
        try:
            table = csv.DictReader(io.StringIO(text, newline=""), restkey="", restval="")
            self._extra = [name for name in table.fieldnames or () if name and name not in COLUMNS]
            self._rows = [{name: row.get(name) or "" for name in (*COLUMNS, *self._extra)} for row in table]
        except csv.Error as error:
            msg = f"The table {self.path} is damaged ({error}). Choose another name."
            raise OutputError(msg) from error
        self._done = {row["result"] for row in self._rows if row["status"] == "done"}

    def _cells(self, key: str, row: Row) -> dict[str, str]:
        cells = {"class" if name == "label" else name: str(value) for name, value in asdict(row).items()}
        return {"result": key, **cells, **dict.fromkeys(self._extra, "")}

    def _key(self, result: Path) -> str:
        """A result as seen from the table's folder, or its whole path where it is not below that."""
        place, folder = Path(os.path.abspath(result)), Path(os.path.abspath(self.path.parent))  # noqa: PTH100
        return (place.relative_to(folder) if place.is_relative_to(folder) else place).as_posix()
