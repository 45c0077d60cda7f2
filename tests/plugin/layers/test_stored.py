"""An array in a zarr folder is indexed as an array in memory is, and shows what is written when it is told to."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from napari_prosma.layers import stored, zarr_slices
from napari_prosma.layers.stored import DiskArray, FileArray, is_on_disk
from napari_prosma.layers.zarr_slices import ZarrArray
from prosma_core.data.geometry import Box, box_slices
from prosma_core.data.lazy import LazyArray


@pytest.fixture
def array(tmp_path: Path) -> Any:
    made = zarr.create_array(str(tmp_path / "a"), shape=(7, 12, 10), chunks=(4, 5, 5), dtype="u1")
    made[...] = np.random.default_rng(0).integers(0, 9, made.shape, np.uint8)
    return made


INDICES: tuple[Any, ...] = (
    3,
    -1,
    (2, slice(None), slice(None)),
    (slice(1, 6, 2), slice(None, None, 3), 4),
    (Ellipsis, 5),
    (slice(2, 2), 0),
    (slice(None), slice(-4, -1)),
    (np.array([0, 6]), np.array([1, 11]), np.array([9, 0])),
    (np.int64(1), np.int64(2), np.int64(3)),
)


@pytest.mark.parametrize("kept", [0, stored.KEPT])
@pytest.mark.parametrize("index", INDICES, ids=str)
def test_it_is_indexed_like_an_array(index: Any, kept: int, array: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "KEPT", kept)
    data, disk = array[...], DiskArray(Path(array.store.root))
    np.testing.assert_array_equal(disk[index], data[index])
    np.testing.assert_array_equal(disk[index], data[index])
    turned, expanded = disk.transpose((2, 0, 1)), disk.expand(1)
    np.testing.assert_array_equal(np.asarray(turned), data.transpose(2, 0, 1))
    assert turned.chunks == (5, 4, 5)
    np.testing.assert_array_equal(expanded[2], data[2][None])
    np.testing.assert_array_equal(expanded[2, 0], data[2])
    assert (expanded.shape, expanded.ndim, expanded.size) == ((7, 1, 12, 10), 4, 840)


@pytest.mark.parametrize("index", [slice(None), (slice(None), slice(None), slice(5)), 3], ids=str)
def test_what_is_given_can_be_written_to_and_what_is_kept_stays(index: Any, array: Any, tmp_path: Path) -> None:
    data = array[...]
    file = tmp_path / "scan.nii"
    file.touch()
    os.utime(file, (0, 0))
    lazy = LazyArray(data.shape, data.dtype, lambda box: data[box_slices(box)].copy(), array.chunks)
    for shown in (DiskArray(Path(array.store.root)), FileArray(lazy, file)):
        shown[3]
        for _ in range(2):
            found = shown[index]
            np.testing.assert_array_equal(found, data[index])
            found[...] = 100
        np.testing.assert_array_equal(shown[:], data)
        assert lazy.release() is None


@pytest.mark.parametrize("aged", [True, False])
def test_a_file_that_changes_is_shown_anew(aged: bool, tmp_path: Path) -> None:
    file, now = tmp_path / "scan.nii", iter(range(10))

    def write(value: int) -> None:
        file.write_bytes(bytes([value]))
        if aged:
            os.utime(file, (next(now), 0))

    def read(box: Box) -> Any:
        return np.full([b - a for a, b in box], file.read_bytes()[0], np.uint8)

    write(1)
    shown = FileArray(LazyArray((6, 5, 4), np.dtype("u1"), read, (3, 5, 4)), file)
    for value in (1, 2, 3):
        write(value)
        assert (shown[1] == value).all()
        assert (shown.transpose((2, 0, 1))[:, 2] == value).all()


@pytest.mark.parametrize("index", [7, (0, 12), (0, 0, 0, 0)])
def test_what_lies_outside_is_an_index_error(index: Any, array: Any) -> None:
    with pytest.raises(IndexError):
        DiskArray(Path(array.store.root))[index]


def test_a_slice_is_kept_until_a_box_is_read_anew(array: Any) -> None:
    disk = DiskArray(Path(array.store.root))
    assert not disk.refresh(((0, 7), (0, 12), (0, 10)))  # nothing is kept yet
    before = disk[2].copy()
    array[...] = 50
    np.testing.assert_array_equal(disk[3], disk[3])
    np.testing.assert_array_equal(disk[2], before)
    assert not disk.refresh(((4, 7), (0, 12), (0, 10)))
    assert disk.refresh(((0, 4), (5, 10), (0, 5)))
    assert (disk[2][5:10, :5] == 50).all()
    np.testing.assert_array_equal(disk[2][:5], before[:5])
    assert (disk[6] == 50).all()


def test_it_cannot_be_written_to_and_follows_where_it_moves(array: Any, tmp_path: Path) -> None:
    disk = DiskArray(Path(array.store.root))
    with pytest.raises(TypeError):
        disk[0] = 1  # type: ignore[index]
    values = disk[5].copy()
    (tmp_path / "a").rename(tmp_path / "b")
    assert not disk[1].any(), "a chunk that is gone reads as empty"
    disk.move(tmp_path / "b")
    np.testing.assert_array_equal(disk[5], values)
    assert disk[1].any()
    assert is_on_disk(disk)
    assert is_on_disk([array])
    assert not is_on_disk(array[...])


def test_a_file_is_read_where_it_is_looked_at() -> None:
    data = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    asked: list[Box] = []

    def read(box: Box) -> np.ndarray:
        asked.append(box)
        return data[box_slices(box)].copy()

    file = FileArray(LazyArray(data.shape, data.dtype, read), Path("scan.nii")).transpose((2, 0, 1))
    np.testing.assert_array_equal(file[2], data[..., 2])
    assert asked == [((0, 4), (0, 5), (2, 3))]
    np.testing.assert_array_equal(file[[1, 2], [0, 3], [4, 0]], data[[0, 3], [4, 0], [1, 2]])
    assert (file.shape, file.order, file.nbytes) == ((6, 4, 5), (2, 0, 1), 240)
    with pytest.raises(TypeError):
        file[0] = 1  # type: ignore[index]
    assert is_on_disk(file)


@pytest.mark.parametrize("aged", [True, False])
def test_a_whole_result_that_another_program_writes_anew_is_shown_anew(aged: bool, array: Any) -> None:
    folder = Path(array.store.root)
    disk = DiskArray(folder)
    disk.move(folder)  # as it is whole
    for value in (1, 2, 3):
        array[...] = value
        for file in folder.rglob("*") if aged else ():
            os.utime(file, (value, value))
        assert (disk[1] == value).all()
        assert (disk[2] == value).all()


def test_a_copy_reads_the_folder(array: Any) -> None:
    disk = DiskArray(Path(array.store.root), (2, 0, 1))
    disk[:, 2]
    array[...] = 50
    for other in (copy.copy(disk), pickle.loads(pickle.dumps(disk))):
        assert (other.path, other.order) == (disk.path, disk.order)
        assert (other[:, 2] == 50).all()


def test_memory_that_unpacking_takes_is_returned_at_once(array: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[bool] = []
    seen: list[bool] = []
    read = zarr.Array.__getitem__

    @contextmanager
    def noted() -> Iterator[None]:
        inside.append(True)
        yield
        inside.pop()

    def noting(of: Any, index: Any) -> Any:
        seen.append(bool(inside))
        return read(of, index)

    for module in (stored, zarr_slices):
        monkeypatch.setattr(module, "returning_memory", noted)
    monkeypatch.setattr(zarr.Array, "__getitem__", noting)
    folder = Path(array.store.root)
    disk, lazy = DiskArray(folder), LazyArray(array.shape, array.dtype, lambda box: array[box_slices(box)])
    for shown in (disk, ZarrArray(array), FileArray(lazy, folder / "zarr.json")):
        for index in (3, slice(None), (slice(None, None, 2), slice(None, None, 3))):
            np.asarray(shown[index])
    assert disk.refresh(((0, 2), (0, 2), (0, 2)))
    assert len(seen) >= 9
    assert all(seen)
