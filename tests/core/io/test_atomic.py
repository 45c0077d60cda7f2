"""Atomic writing: the whole new file, or what was there before and nothing else."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from prosma_core.errors import OutputError
from prosma_core.io import atomic
from prosma_core.io.atomic import put_back, replace_dir, scratch_folder, sweep, write_atomic, write_bytes_atomic

posix_only = pytest.mark.skipif(os.name == "nt", reason="locks and folders that can be synced are of POSIX")


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


def new_folder(content: str) -> Any:
    """Return what writes a folder with one file."""

    def write(temporary: Path) -> None:
        temporary.mkdir()
        (temporary / "0").write_text(content)

    return write


@posix_only
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS])
def test_a_shared_folder_that_cannot_be_synced_is_no_failure(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    write_bytes_atomic(tmp_path / "a.json", b"new")
    replace_dir(tmp_path / "a.zarr", new_folder("new"))
    assert (tmp_path / "a.json").read_bytes() == b"new"
    assert (tmp_path / "a.zarr" / "0").read_text() == "new"


def test_a_file_that_cannot_be_synced_for_a_true_reason_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes_atomic(tmp_path / "a.json", b"old")

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match="Input/output error"):
        write_bytes_atomic(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"old"


@posix_only
def test_a_folder_that_cannot_be_put_in_place_nor_back_is_kept_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.zarr"
    replace_dir(target, new_folder("old"))
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    real = os.rename

    def rename(source: Any, goal: Any) -> None:
        if Path(goal) == target:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, goal)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OutputError, match="Nothing is lost") as refused:
        replace_dir(target, new_folder("new"))
    monkeypatch.setattr(os, "rename", real)
    replace_dir(tmp_path / "other.zarr", new_folder("other"))  # the next save does not remove what was promised
    kept = {p.name: (p / "0").read_text() for p in tmp_path.iterdir() if p.name.startswith(".prosma-")}
    assert sorted(kept.values()) == ["new", "old"]
    assert all(name in str(refused.value) for name in kept)


@posix_only
def test_what_was_moved_aside_by_a_killed_process_is_put_back(tmp_path: Path) -> None:
    part = atomic.take(tmp_path / "a.zarr")
    new_folder("new")(part.path)
    new_folder("old")(part.aside)
    put_back(tmp_path / "a.zarr")  # the process lives
    assert not (tmp_path / "a.zarr").exists()
    os.close(part.descriptor)  # as the system does when a process ends
    put_back(tmp_path / "a.zarr")
    assert (tmp_path / "a.zarr" / "0").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


@posix_only
def test_parts_of_a_living_process_stay_and_those_of_a_killed_one_go(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from prosma_core.io.atomic import take\n"
        "part = take(Path(sys.argv[1]) / 'scan.nii.gz'); part.path.write_bytes(b'half'); print('ready', flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        write_bytes_atomic(tmp_path / "b.json", b"new")
        assert len(list(tmp_path.iterdir())) == 3
        other.kill()
        other.wait()
    write_bytes_atomic(tmp_path / "b.json", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["b.json"]


@posix_only
@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
@pytest.mark.parametrize(
    ("change", "days", "gone"),
    [
        ({}, 0, True),
        ({"host": "elsewhere", "boot": "another"}, 1, False),
        ({"host": "elsewhere", "boot": "another"}, 8, True),
    ],
    ids=["ended here", "on another machine", "on another machine, a week ago"],
)
def test_whose_part_it_is_decides(
    locks: bool, change: dict[str, str], days: int, gone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not locks:
        monkeypatch.setattr(atomic, "_lock", lambda _: False)
    part = atomic.take(tmp_path / "scan.tif")
    part.path.write_bytes(b"half")
    sweep(tmp_path)
    assert part.path.exists()  # the process lives: it is this one
    record = json.loads(part.lock.read_bytes())
    os.close(part.descriptor)
    part.lock.write_text(json.dumps(record | {"pid": 2**22 + 1} | change))
    os.utime(part.lock, (time.time() - days * 86_400,) * 2)
    sweep(tmp_path)
    assert part.path.exists() != gone
    assert part.lock.exists() != gone


def test_parts_of_earlier_versions_go_after_a_week_and_other_hidden_files_stay(tmp_path: Path) -> None:
    for name in (".prosma-0123456789ab.nii.gz", ".prosma-settings", ".prosma-0123456789ab.a.b.c"):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - 8 * 86_400,) * 2)
    (tmp_path / ".prosma-ffffffffffff.nii.gz").write_bytes(b"x")
    write_bytes_atomic(tmp_path / "a.json", b"new")
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"a.json", ".prosma-settings", ".prosma-0123456789ab.a.b.c", ".prosma-ffffffffffff.nii.gz"}


def test_a_scratch_folder_goes_at_its_end(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as folder:
        (folder / "map").write_bytes(b"x")
        sweep(tmp_path)
        assert (folder / "map").exists()
    assert list(tmp_path.iterdir()) == []


@posix_only
def test_a_link_to_a_folder_is_replaced_and_the_folder_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for one_step in (True, False):
        if not one_step:
            monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
        place = tmp_path / str(one_step)
        replace_dir(tmp_path / "linked", new_folder("old"))
        place.mkdir()
        (place / "a.zarr").symlink_to(tmp_path / "linked")
        replace_dir(place / "a.zarr", new_folder("new"))
        assert (place / "a.zarr" / "0").read_text() == "new"
        assert (tmp_path / "linked" / "0").read_text() == "old"
        assert [p.name for p in place.iterdir()] == ["a.zarr"]
