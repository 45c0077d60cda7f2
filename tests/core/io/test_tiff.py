"""TIFF: axes and voxel size from whatever the file says, and back again from what was written."""

from __future__ import annotations

import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from prosma_core.data.geometry import array_spec
from prosma_core.errors import FileFormatError, GeometryError, OutputError
from prosma_core.io.images import preflight, read_image, read_labels, write_image, write_labels


def save(path: Path, data: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, data, photometric=options.pop("photometric", "minisblack"), **options)
    return path


def test_ome_axes_voxel_size_unit_and_channel_names(tmp_path: Path) -> None:
    metadata = {
        "axes": "TZCYX",
        "PhysicalSizeX": 0.3,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": 300,
        "PhysicalSizeYUnit": "nm",
        "PhysicalSizeZ": 2,
        "Channel": {"Name": ["DAPI", "GFP"]},
    }
    data = np.arange(2 * 3 * 2 * 5 * 6, dtype=np.uint16).reshape(2, 3, 2, 5, 6)
    scan = read_image(save(tmp_path / "a.ome.tif", data, metadata=metadata))
    assert (scan.spec.axes, scan.spec.unit) == ("tczyx", "um")
    assert scan.spec.spacing == pytest.approx((2, 0.3, 0.3))
    assert scan.spec.channel_names == ("DAPI", "GFP")
    assert np.array_equal(scan.data, data.transpose(0, 2, 1, 3, 4))


def test_imagej_hyperstack_axes_and_voxel_size(tmp_path: Path) -> None:
    metadata = {"axes": "ZCYX", "spacing": 2.5, "unit": "micron"}
    data = np.zeros((3, 2, 5, 6), np.uint16)
    spec = read_image(save(tmp_path / "a.tif", data, imagej=True, resolution=(4, 2), metadata=metadata)).spec
    assert (spec.axes, spec.shape, spec.spacing, spec.unit) == ("czyx", (2, 3, 5, 6), (2.5, 0.5, 0.25), "um")


def test_imagej_proportions_are_kept_without_a_unit(tmp_path: Path) -> None:
    metadata = {"axes": "ZYX", "spacing": 5}
    spec = read_image(save(tmp_path / "a.tif", np.zeros((3, 5, 6), np.uint8), imagej=True, metadata=metadata)).spec
    assert (spec.spacing, spec.unit) == ((5, 1, 1), "pixel")


@pytest.mark.parametrize(
    ("unit", "resolution", "spacing", "name"),
    [
        ("CENTIMETER", 20000, 0.5, "um"),
        ("CENTIMETER", 72 / 2.54, 1, "pixel"),
        ("INCH", 300, 1, "pixel"),
        ("NONE", 2, 1, "pixel"),
    ],
)
def test_only_a_resolution_in_cm_that_no_printer_has_is_a_voxel_size(
    tmp_path: Path, unit: str, resolution: float, spacing: float, name: str
) -> None:
    data = np.zeros((5, 6), np.uint8)
    spec = read_image(save(tmp_path / "a.tif", data, resolution=(resolution, resolution), resolutionunit=unit)).spec
    assert (spec.spacing, spec.unit) == ((spacing, spacing), name)


def test_colour_becomes_three_channels_and_alpha_is_left_out(tmp_path: Path) -> None:
    data = np.arange(5 * 6 * 4, dtype=np.uint8).reshape(5, 6, 4)
    path = save(tmp_path / "a.tif", data, photometric="rgb", extrasamples=["unassalpha"])
    scan = read_image(path)
    assert scan.spec.axes == "cyx"
    assert np.array_equal(scan.data, np.moveaxis(data[..., :3], -1, 0))


def test_colour_saved_as_planes_of_three_columns_is_seen(tmp_path: Path) -> None:
    spec = read_image(save(tmp_path / "a.tif", np.zeros((20, 30, 3), np.uint8))).spec
    assert (spec.axes, spec.shape) == ("cyx", (3, 20, 30))


def test_one_unnamed_axis_is_z_and_this_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "a.tif", np.zeros((3, 20, 30), np.uint8))
    with caplog.at_level(logging.INFO):
        assert read_image(path).spec.axes == "zyx"
    assert "read as z" in caplog.text
    assert read_image(path, axes="tyx").spec.axes == "tyx"


def test_two_unnamed_axes_must_be_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", np.zeros((3, 2, 20, 30), np.uint8))
    with pytest.raises(GeometryError, match="axes="):
        read_image(path)
    assert read_image(path, axes="zcyx").spec.shape == (2, 3, 20, 30)


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif"])
def test_results_open_in_tifffile_with_axes_and_notes(tmp_path: Path, suffix: str) -> None:
    spec = array_spec((2, 3, 5, 6), "tzyx", (2.0, 0.1, 0.2), "um")
    write_labels(tmp_path / f"a{suffix}", np.ones(spec.shape, int), spec, provenance={"model": "phantom-3d"})
    with tifffile.TiffFile(tmp_path / f"a{suffix}") as tiff:
        assert tiff.series[0].axes == "TZYX"
        assert tiff.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert 'PhysicalSizeZ="2.0"' in str(tiff.ome_metadata)
        assert "phantom-3d" in str(tiff.ome_metadata)


def test_a_type_ome_tiff_lacks_is_refused(tmp_path: Path) -> None:
    spec = array_spec((5, 6), "yx")
    with pytest.raises(OutputError, match="uint64"):
        write_image(tmp_path / "a.tif", np.zeros((5, 6), np.uint64), spec)
    assert not list(tmp_path.iterdir())


def tiny_tiff(path: Path, width: int, height: int) -> Path:
    """A TIFF of one page that declares its pixels in one strip of 0 bytes."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 4, height), (279, 4, 0)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0))
    return path


@pytest.mark.parametrize("check", [preflight, read_image, read_labels])
def test_122_bytes_that_declare_gigabytes_are_refused(tmp_path: Path, check: Any) -> None:
    path = tiny_tiff(tmp_path / "a.tif", 40000, 40000)
    assert path.stat().st_size == 122
    with pytest.raises(FileFormatError, match="1600000000 bytes"):
        check(path)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("contiguous", [True, False])
def test_a_stack_cut_anywhere_is_never_read_as_a_shorter_one(
    tmp_path: Path, rng: np.random.Generator, compression: str | None, contiguous: bool
) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for _ in range(4):
            plane = rng.integers(0, 255, (16, 16)).astype(np.uint8)
            options: Any = {"contiguous": contiguous and compression is None, "compression": compression}
            writer.write(plane, photometric="minisblack", metadata=None, **options)
    whole, voxels = path.read_bytes(), read_image(path).data
    refused = 0
    for size in range(1, len(whole), 23):
        path.write_bytes(whole[:size])
        try:
            read = read_image(path).data
        except FileFormatError:
            refused += 1
        else:  # only the last list of tags was cut off behind what is needed
            assert np.array_equal(read, voxels)
    assert refused > 10
