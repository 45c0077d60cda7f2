"""The file that holds a layer's voxels as the layer shows them is found, or none is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from napari.layers import Image

from napari_prosma.layers import source
from napari_prosma.layers.scan import METADATA, read
from napari_prosma.layers.source import Source, is_large, source_of
from napari_prosma.layers.stored import FileArray
from napari_prosma.layers.zarr_slices import ZarrArray
from prosma_core.data.geometry import box_shape
from prosma_core.data.lazy import LazyArray


@pytest.fixture(autouse=True)
def _all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "IN_CORE", 0)


@pytest.fixture
def array(tmp_path: Path, rng: np.random.Generator) -> Any:
    """Return a zarr of two channels."""
    made = zarr.create_array(str(tmp_path / "a.zarr"), shape=(2, 6, 20, 18), chunks=(1, 4, 8, 8), dtype="u2")
    made[...] = rng.integers(0, 1000, made.shape, np.uint16)
    return made


def found(data: Any, **arguments: Any) -> Source | None:
    return source_of(read(Image(data, contrast_limits=(0, 1), **arguments)))


def test_a_dask_array_of_a_zarr_is_that_zarr(array: Any, tmp_path: Path) -> None:
    folder = tmp_path / "a.zarr"
    for data in (da.from_zarr(str(folder)), da.from_zarr(array), da.from_array(array)):
        assert found(data, axis_labels="czyx") == Source(folder, "czyx")


def test_a_channel_or_time_point_of_a_zarr_is_a_part_of_it(array: Any, tmp_path: Path) -> None:
    assert found(da.from_zarr(array)[1], axis_labels="zyx") == Source(tmp_path / "a.zarr", "czyx", {"c": 1})
    wide = zarr.create_array(str(tmp_path / "t.zarr"), shape=(3, *array.shape), chunks=(1, 1, 4, 8, 8), dtype="u2")
    wide[...] = np.random.default_rng(1).integers(0, 999, wide.shape, np.uint16)
    of_time = Source(tmp_path / "t.zarr", "tczyx", {"t": 2})
    assert found(da.from_zarr(wide)[2], axis_labels="czyx") == of_time
    assert found(da.from_zarr(wide)[1, 0], axis_labels="zyx") == Source(of_time.path, "tczyx", {"t": 1, "c": 0})


def test_a_dask_array_of_a_zarr_that_was_opened_with_the_reader_is_that_zarr(array: Any, tmp_path: Path) -> None:
    folder, shown = tmp_path / "a.zarr", ZarrArray(array)
    assert found(da.from_array(shown), axis_labels="czyx") == Source(folder, "czyx")
    assert found(da.from_array(shown)[1], axis_labels="zyx") == Source(folder, "czyx", {"c": 1})
    notes = {METADATA: {"path": str(folder)}}
    assert found(da.from_array(shown.transpose((0, 1, 3, 2))), axis_labels="czyx", metadata=notes) is None
    assert found(da.from_array(shown)[0] + 1, axis_labels="zyx", metadata=notes) is None


COMPUTED: dict[str, Callable[[Any], Any]] = {
    "other values": lambda x: x[0] + 1,
    "mirrored": lambda x: x[0, :, ::-1],
    "turned": lambda x: x[0].transpose(0, 2, 1),
    "cut": lambda x: x[0, :, :10],
    "rechunked": lambda x: x[0].rechunk((6, 20, 18)),
    "two arrays": lambda x: da.stack([x[0, 0], x[1, 0], x[0, 1]]),
}


@pytest.mark.parametrize("how", COMPUTED)
def test_what_is_computed_from_a_zarr_is_no_part_of_it(how: str, array: Any) -> None:
    assert found(COMPUTED[how](da.from_zarr(array)), axis_labels="zyx") is None


def test_a_mask_that_is_nearly_empty_is_not_taken_for_its_mirror_image(tmp_path: Path) -> None:
    mask = np.zeros((40, 60, 60), np.uint8)
    mask[12:27, 18:45, 16:40] = 1
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=mask.shape, chunks=(20, 30, 30), dtype="u1")
    array[...] = mask
    for mirrored in (da.from_zarr(array)[::-1], da.from_zarr(array)[:, ::-1], da.from_zarr(array)[:, :, ::-1]):
        assert found(mirrored, axis_labels="zyx") is None


def test_a_part_that_voxels_do_not_tell_is_not_guessed(tmp_path: Path) -> None:
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=(2, 6, 20, 18), chunks=(1, 4, 8, 8), dtype="u2")
    assert found(da.from_zarr(array)[1], axis_labels="zyx") is None


def test_a_dask_array_of_a_tiff_is_the_file_it_was_read_from(tmp_path: Path, rng: np.random.Generator) -> None:
    data = rng.integers(0, 1000, (40, 520, 512), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", data, metadata={"axes": "ZYX"})
    notes = {METADATA: {"path": str(tmp_path / "a.tif")}}
    lazy = da.map_blocks(lambda block_info=None: data, dtype=data.dtype, chunks=tuple((n,) for n in data.shape))
    assert found(lazy, axis_labels="zyx", metadata=notes) == Source(tmp_path / "a.tif")
    changed = da.map_blocks(lambda block_info=None: data[::-1], dtype=data.dtype, chunks=lazy.chunks)
    assert found(changed, axis_labels="zyx", metadata=notes) is None
    assert found(lazy[:, :100], axis_labels="zyx", metadata=notes) is None
    assert found(lazy, axis_labels="zyx") is None


def test_an_array_in_memory_and_a_small_one_are_not_large(array: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = read(Image(da.from_zarr(array), contrast_limits=(0, 1)))
    assert is_large(lazy)
    assert not is_large(read(Image(array[...])))
    monkeypatch.setattr(source, "IN_CORE", 1 << 30)
    assert not is_large(lazy)
    assert source_of(lazy) is None


def test_an_image_file_is_its_own_source_unless_its_axes_are_read_in_another_order() -> None:
    lazy = LazyArray((2, 6, 7, 8), np.dtype(np.int16), lambda box: np.zeros(box_shape(box), np.int16))
    file = FileArray(lazy, Path("scan.nii"))
    assert found(file, axis_labels="czyx") == Source(Path("scan.nii"))
    assert found(file.transpose((0, 2, 1, 3)), axis_labels="cyzx") == Source(Path("scan.nii"))
    assert found(file, axis_labels="zcyx") is None
