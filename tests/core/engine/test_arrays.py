"""Shared arrays hold what is put into them, take their room beforehand, and leave nothing behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prosma_core.engine.arrays import PREFIX, attach, create, private_folders, remove_folders, sweep
from prosma_core.engine.messages import ArrayRef
from prosma_core.errors import EngineError

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="shared memory that can be full is Linux's")
posix_only = pytest.mark.skipif(os.name == "nt", reason="Windows keeps files that are mapped, and knows no modes")


@pytest.fixture(scope="module")
def folders() -> Iterator[list[Path]]:
    """Return private folders."""
    made = private_folders()
    yield made
    remove_folders(made)


def full_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every folder but those under the given one have no room."""
    reserve = os.posix_fallocate

    def refuse(descriptor: int, offset: int, size: int) -> None:
        if not Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(folder):
            raise OSError(errno.ENOSPC, "No space left on device")
        reserve(descriptor, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", refuse)


DTYPES = st.sampled_from([np.bool_, np.uint8, np.int16, np.uint16, np.int64, np.float16, np.float32, np.float64])


@given(st.data())
def test_the_other_side_sees_what_was_filled_in_however_it_lay(folders: list[Path], data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=5, max_side=7))
    source = data.draw(hnp.arrays(data.draw(DTYPES), shape))
    source = source.transpose(data.draw(st.permutations(range(source.ndim))))[::-1]
    shared = create(folders, source.shape, source.dtype)
    assert not shared.array.any()
    shared.array[...] = source
    other = attach(shared.ref)
    shared.release()
    assert (other.dtype, other.shape, other.flags.c_contiguous) == (source.dtype, source.shape, True)
    np.testing.assert_array_equal(other, source)


@posix_only
def test_arrays_outlive_their_file(folders: list[Path]) -> None:
    shared = create(folders, (3, 4), np.int32)
    other = attach(shared.ref)
    shared.release()
    assert not Path(shared.ref.path).exists()
    shared.array[1, 2] = 7
    assert other[1, 2] == 7


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
def test_an_array_without_voxels_is_refused(folders: list[Path], shape: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match="no voxels"):
        create(folders, shape, np.uint8)


@posix_only
def test_folders_are_private_and_the_last_one_is_on_disk(folders: list[Path]) -> None:
    assert [folder.stat().st_mode & 0o777 for folder in folders] == [0o700] * len(folders)
    assert folders[-1].parent == Path(tempfile.gettempdir())


def test_arrays_lie_in_shared_memory_where_it_has_room(folders: list[Path]) -> None:
    shared = create(folders, (8,), np.uint8)
    assert Path(shared.ref.path).parent == folders[0]
    shared.release()


@linux_only
def test_a_full_shared_memory_is_replaced_by_the_disk(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    full_in(folders[-1], monkeypatch)
    shared = create(folders, (8,), np.uint8)
    assert Path(shared.ref.path).parent == folders[-1]
    assert [list(folder.iterdir()) for folder in folders[:-1]] == [[]] * (len(folders) - 1)
    shared.release()


@linux_only
def test_no_room_anywhere_is_said_with_size_and_places(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    full_in(Path("/nowhere"), monkeypatch)
    with pytest.raises(EngineError, match=r"64000000 bytes \(61 MiB\)") as error:
        create(folders, (8, 1000, 1000), np.float64)
    assert all(str(folder.parent) in str(error.value) for folder in folders)
    assert not any(list(folder.iterdir()) for folder in folders)


def test_what_exceeds_memory_and_disk_is_refused_before_anything_is_written(folders: list[Path]) -> None:
    with pytest.raises(EngineError, match="no room"):
        create(folders, (1 << 20, 1 << 20, 1 << 10), np.float64)


@linux_only
def test_an_array_larger_than_half_of_the_free_memory_goes_to_the_disk(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Little:
        available = 1000

    monkeypatch.setattr(psutil, "virtual_memory", Little)
    small, large = create(folders, (400,), np.uint8), create(folders, (600,), np.uint8)
    assert [Path(a.ref.path).parent for a in (small, large)] == [folders[0], folders[-1]]
    small.release()
    large.release()


@posix_only
def test_room_is_taken_by_writing_where_the_system_cannot_reserve_it(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    shared = create(folders, (40_000_001,), np.uint8)
    path = Path(shared.ref.path)
    assert (path.stat().st_size, path.stat().st_blocks * 512 >= 40_000_001) == (40_000_001, True)
    shared.release()


@pytest.mark.parametrize("content", [None, b"short"])
def test_a_file_that_is_gone_or_too_small_is_an_error_in_words(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.array"
    if content is not None:
        path.write_bytes(content)
    before = path.stat().st_size if content else None
    with pytest.raises(EngineError, match="cannot be opened"):
        attach(ArrayRef(path=str(path), shape=(1000, 1000), dtype="<f4"))
    assert (path.stat().st_size if content else None) == before


HOLD = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from prosma_core.engine import arrays
print(*arrays.private_folders(), flush=True)
sys.stdin.read()
"""


def test_folders_of_dead_processes_are_swept_and_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    stranger = tmp_path / f"{PREFIX}notes-1"
    stranger.mkdir()
    ours = private_folders()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as other:
        assert other.stdout is not None
        theirs = [Path(name) for name in other.stdout.readline().split()]
        sweep()
        assert all(folder.is_dir() for folder in [*ours, *theirs])
        other.kill()
        other.wait()
    sweep()
    assert [folder for folder in theirs if folder.exists()] == []
    assert all(folder.is_dir() for folder in ours)
    remove_folders(ours)
    assert list(tmp_path.iterdir()) == [stranger]


@posix_only
def test_whether_a_folder_is_in_use_is_not_judged_by_a_process_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers share file systems, and each counts its processes for itself."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    *others, living = private_folders()
    elsewhere = living.rename(tmp_path / f"{PREFIX}{2**22 + 5}-abc")  # an id that is unknown here
    abandoned = tmp_path / f"{PREFIX}{os.getppid()}-abc"  # an id that is another process here
    abandoned.mkdir()
    sweep()
    assert sorted(tmp_path.iterdir()) == [elsewhere]
    remove_folders([*others, living, elsewhere])


@posix_only
def test_where_there_are_no_locks_a_process_id_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(fcntl, "flock", refuse)
    dead, living = tmp_path / f"{PREFIX}{2**22 + 5}-abc", tmp_path / f"{PREFIX}{os.getppid()}-abc"
    for folder in (dead, living):
        folder.mkdir()
    sweep()
    assert list(tmp_path.iterdir()) == [living]


def test_only_private_folders_are_ever_removed(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"1")
    remove_folders([tmp_path])
    assert (tmp_path / "kept").exists()
