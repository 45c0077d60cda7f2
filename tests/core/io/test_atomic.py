"""Atomic writing: the whole new file, or what was there before and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from prosma_core.errors import OutputError
from prosma_core.io.atomic import replace_dir, write_atomic, write_bytes_atomic


class Interrupted(BaseException):
    """Stands for Ctrl-C and for any error of a library."""


def test_bytes_are_written(tmp_path: Path) -> None:
    write_bytes_atomic(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_the_writer_gets_a_name_with_the_same_suffixes_in_the_same_folder(tmp_path: Path) -> None:
    seen = []

    def writer(temporary: Path) -> None:
        seen.append(temporary)
        temporary.write_bytes(b"x")

    write_atomic(tmp_path / "case.1.nii.gz", writer)
    assert seen[0].parent == tmp_path
    assert seen[0].name.endswith(".nii.gz")


@pytest.mark.parametrize("error", [Interrupted, ValueError, OSError])
@pytest.mark.parametrize("before", [b"old", None])
def test_a_writer_that_fails_in_the_middle_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException], before: bytes | None
) -> None:
    target = tmp_path / "a.tif"
    if before is not None:
        target.write_bytes(before)

    def writer(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise error

    with pytest.raises(OutputError if error is OSError else error):
        write_atomic(target, writer)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == ({"a.tif": before} if before else {})


@pytest.mark.parametrize("error", [Interrupted, OSError])
@pytest.mark.parametrize("before", [b"old", None])
def test_a_folder_writer_that_fails_in_the_middle_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException], before: bytes | None
) -> None:
    target = tmp_path / "a.zarr"
    if before is not None:
        target.mkdir()
        (target / "0").write_bytes(before)

    def writer(temporary: Path) -> None:
        temporary.mkdir()
        (temporary / "0").write_bytes(b"half")
        raise error

    with pytest.raises(OutputError if error is OSError else error):
        replace_dir(target, writer)
    files = {file.relative_to(tmp_path).as_posix(): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert files == ({"a.zarr/0": before} if before else {})
    assert len(list(tmp_path.iterdir())) == (before is not None)


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    def writer(name: str) -> None:
        def write(temporary: Path) -> None:
            temporary.mkdir()
            (temporary / name).write_bytes(b"x")

        replace_dir(tmp_path / "a.zarr", write)

    writer("first")
    writer("second")
    assert [file.name for file in (tmp_path / "a.zarr").iterdir()] == ["second"]
    assert [file.name for file in tmp_path.iterdir()] == ["a.zarr"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="absent does not exist"):
        write_bytes_atomic(tmp_path / "absent" / "a.json", b"x")


def test_a_file_does_not_replace_a_folder_nor_a_folder_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputError, match="a file is needed"):
        write_bytes_atomic(tmp_path / "folder", b"x")
    with pytest.raises(OutputError, match="a folder is needed"):
        replace_dir(tmp_path / "file", Path.mkdir)
