"""Scans that are read by parts: the same voxels and geometry as of the whole file, chunk by chunk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
import zarr

from prosma_core.data.geometry import Box, array_spec, box_slices
from prosma_core.data.lazy import LazyArray
from prosma_core.errors import FileFormatError
from prosma_core.io.images import open_image, read_image, write_image
from prosma_core.io.zarr_images import open_zarr

NUMBERS = np.random.default_rng(0).integers(0, 1000, (2, 5, 3, 20, 30)).astype(np.uint16)
STACK = NUMBERS[0, :, 0]


def sparse(path: Path, **how: Any) -> None:
    array = zarr.create_array(str(path), shape=STACK.shape, dtype=STACK.dtype, chunks=(2, 10, 10), fill_value=7, **how)
    array[:3] = STACK[:3]
    array[4:, 10:] = STACK[4:, 10:]


FILES: dict[str, Callable[[Path], object]] = {
    "plain.tif": lambda path: tifffile.imwrite(path, STACK),
    "picture.tif": lambda path: tifffile.imwrite(path, STACK[0]),
    "packed.tif": lambda path: tifffile.imwrite(path, STACK, compression="zlib", tile=(16, 16)),
    "imagej.tif": lambda path: tifffile.imwrite(path, NUMBERS, imagej=True, metadata={"axes": "TZCYX", "spacing": 2}),
    "ours.ome.tif": lambda path: write_image(path, STACK, array_spec(STACK.shape, "zyx", (2.0, 1.0, 1.0), "um")),
    "ome.ome.tif": lambda path: tifffile.imwrite(path, NUMBERS[0], metadata={"axes": "ZCYX"}),
    "turned.nii": lambda path: nib.Nifti1Image(STACK.T.copy(), np.diag([-1, 2, 3, 1])).to_filename(path),
    "frames.nii": lambda path: nib.Nifti1Image(NUMBERS[0].T.astype(">f4"), np.eye(4)).to_filename(path),
    "v2.zarr": lambda path: sparse(path, zarr_format=2),
    "v3.zarr": lambda path: sparse(path, zarr_format=3),
    "shards.zarr": lambda path: sparse(path, zarr_format=3, shards=(4, 10, 10)),
    "ours.zarr": lambda path: write_image(path, NUMBERS, array_spec(NUMBERS.shape, "tczyx")),
}


@pytest.mark.parametrize("name", list(FILES))
def test_parts_are_those_of_the_whole(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    FILES[name](tmp_path / name)
    lazy, scan = open_image(tmp_path / name, least=0), read_image(tmp_path / name)
    assert isinstance(lazy.data, LazyArray)
    for field in ("axes", "shape", "spacing", "unit", "world", "channel_names", "format"):
        assert getattr(lazy.spec, field) == getattr(scan.spec, field)
    np.testing.assert_array_equal(lazy.spec.affine, scan.spec.affine)
    assert lazy.data.dtype == scan.data.dtype
    for _ in range(10):
        ends = [sorted(rng.choice(n + 1, 2, replace=False).tolist()) for n in scan.data.shape]
        box: Box = tuple((a, b) for a, b in ends)
        np.testing.assert_array_equal(lazy.data.read(box), scan.data[box_slices(box)])
    np.testing.assert_array_equal(np.asarray(lazy.data[..., 3][None]), scan.data[..., 3][None])
    np.testing.assert_array_equal(np.asarray(lazy.data), scan.data)


@pytest.mark.parametrize("name", ["a.nii.gz", "scaled.nii", "color.tif"])
def test_what_has_no_parts_is_read_whole(name: str, tmp_path: Path) -> None:
    if name == "color.tif":
        tifffile.imwrite(tmp_path / name, NUMBERS[0, 0, :, :, :3].astype(np.uint8), photometric="rgb")
    else:
        image = nib.Nifti1Image(STACK.T.copy(), np.eye(4))
        if name == "scaled.nii":
            image.header.set_slope_inter(0.5, 3)
        image.to_filename(tmp_path / name)
    assert isinstance(open_image(tmp_path / name, least=0).data, np.ndarray)


def test_nothing_is_read_of_chunks_that_are_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=(2000,) * 3, dtype="uint16", chunks=(100,) * 3)
    array[:100, :100, :100] = 5
    with pytest.raises(FileFormatError, match="7999 of its 8000 chunks are missing"):
        read_image(tmp_path / "a.zarr")
    with caplog.at_level(logging.WARNING):
        data: Any = open_image(tmp_path / "a.zarr").data
    assert "7999 of 8000 chunks are missing and read as the fill value" in caplog.text
    empty = ((0, 1000), (100, 2000), (0, 2000))
    assert data.single(empty) == 0
    assert not any(data.read(empty).strides)  # no memory for its voxels
    assert data.single(((99, 101), (99, 101), (99, 101))) is None
    assert np.count_nonzero(data.read(((99, 101), (99, 101), (99, 101)))) == 1
    shown = open_zarr(tmp_path / "a.zarr")  # as a window does
    assert (shown.levels[0].shape, int(shown.levels[0][99, 99, 99])) == ((2000,) * 3, 5)


@pytest.mark.parametrize("fault", ["damaged", "gone"])
def test_a_chunk_that_cannot_be_read_is_named(fault: str, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_array(str(path), shape=(6, 4, 4), dtype="uint16", chunks=(2, 4, 4), zarr_format=2)[...] = 3
    data: Any = open_image(path).data
    data.keep = 0
    assert data.read(((0, 2), (0, 4), (0, 4))).all()
    chunk = path / "1.0.0"
    if fault == "gone":
        chunk.unlink()
    else:
        chunk.write_bytes(chunk.read_bytes()[:-3] + b"abc")
    with pytest.raises(FileFormatError, match=rf"1\.0\.0 is {fault}"):
        data.read(((0, 6), (0, 4), (0, 4)))
    assert data.read(((4, 6), (0, 4), (0, 4))).all()
