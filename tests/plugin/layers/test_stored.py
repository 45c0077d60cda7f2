"""An array in a zarr folder is indexed as an array in memory is, and shows what is written when it is told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from napari_prosma.layers import stored
from napari_prosma.layers.stored import DiskArray, FileArray, is_on_disk
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
