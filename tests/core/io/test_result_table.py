"""The table of results: rows of several processes in one file, whole at every moment."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from prosma_core.data.geometry import array_spec
from prosma_core.errors import OutputError
from prosma_core.io.claims import claimed
from prosma_core.io.result_table import ResultTable, Row, class_rows


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_of_two_processes_and_of_a_second_run_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "out" / "results.csv"
    one, two = ResultTable(path), ResultTable(path)
    for number in range(3):
        for table, name in ((one, "a"), (two, "b")):
            result = tmp_path / "out" / "sub" / f"{name}{number}.nii.gz"
            table.put(result, [Row(f"{name}.nii", "done", each) for each in ("liver, left", 'a "b"')])
    one.put(tmp_path / "c.nii", [Row("c", "failed", error="bad\nfile")])
    for table in (one, two):
        table.flush()
    names = [f"sub/{name}{number}.nii.gz" for name in "ab" for number in range(3)]
    assert [row["result"] for row in rows(path)] == sorted([*names, *names, (tmp_path / "c.nii").as_posix()])
    assert [row["class"] for row in rows(path)][-2:] == ["liver, left", 'a "b"']  # as given, not sorted
    again = ResultTable(path)
    assert not again.has(tmp_path / "c.nii")
    again.put(tmp_path / "c.nii", [Row("c", "done", "liver")])
    assert again.has(tmp_path / "c.nii")
    assert [row["status"] for row in rows(path) if row["scan"] == "c"] == ["done"]
    assert sorted(each.name for each in path.parent.iterdir()) == ["results.csv"]


def test_columns_of_a_person_stay_and_other_files_are_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    ResultTable(path).put(tmp_path / "a.nii", [Row("a", "done", "x")])
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line},{note}\n" for line, note in zip(lines, ("checked", "yes"), strict=True)))
    ResultTable(path).put(tmp_path / "b.nii", [Row("b", "done", "x")])
    assert [row["checked"] for row in rows(path)] == ["yes", ""]
    with pytest.raises(OutputError, match=r"let its name end with \.csv"):
        ResultTable(tmp_path / "results.txt")
    path.write_text("name,age\n")
    with pytest.raises(OutputError, match="never replaced"):
        ResultTable(path)
    assert path.read_text() == "name,age\n"


def test_rows_are_kept_while_the_table_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prosma_core.io.result_table._WAIT_S", 0.0)
    path = tmp_path / "results.csv"
    table = ResultTable(path)
    with claimed(path):
        table.put(tmp_path / "a.nii", [Row("a", "done", "x")])
        assert "is being made by process" in table.problem
    table.flush()
    assert table.problem == ""
    assert [row["scan"] for row in rows(path)] == ["a"]


def test_a_failure_leaves_the_rows_of_a_result_that_is_there(tmp_path: Path) -> None:
    path, result = tmp_path / "results.csv", tmp_path / "a.nii"
    result.write_bytes(b"a")
    table = ResultTable(path)
    table.put(result, [Row("a", "done", "liver", 10), Row("a", "done", "spleen", 5)])
    done = [(row["scan"], row["class"], row["voxels"]) for row in rows(path)]
    for scans in (("a",), ("other/a", "third/a"), ("other/a",)):  # exists already; would both be written there
        for scan in scans:
            table.put(result, [Row(scan, "failed", error="of another")])
    table.flush()
    found = [(row["scan"], row["class"], row["voxels"]) for row in rows(path)]
    assert found == [*done, ("third/a", "", ""), ("other/a", "", "")]
    assert table.has(result)
    result.unlink()
    table.put(result, [Row("a", "failed", error="cannot be read")])
    table.flush()
    assert not table.has(result)
    assert {row["status"] for row in rows(path)} == {"failed"}
    table.put(result, [Row("a", "done", "liver", 10)])
    table.flush()
    assert [row["status"] for row in rows(path)] == ["done"]


@pytest.mark.parametrize(
    ("shape", "axes", "spacing", "unit", "volume"),
    [
        ((2, 4, 4), "zyx", (3, 0.5, 0.5), "mm", (7.5, "mm^3")),
        ((4, 4), "yx", (500, 500), "nm", (2.5, "um^2")),
        ((5, 4, 4), "tyx", (1, 1), "mm", (2.0, "mm^2")),
        ((4, 4), "yx", None, "pixel", ("", "")),
    ],
)
def test_volumes_have_a_unit_or_are_empty(
    shape: tuple[int, ...], axes: str, spacing: tuple[float, ...] | None, unit: str, volume: tuple[object, str]
) -> None:
    (row,) = class_rows(Path("a"), {"liver": 10}, array_spec(shape, axes, spacing, unit), "m")
    assert (row.voxels, row.volume, row.unit) == (10, *volume)
