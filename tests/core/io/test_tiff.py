"""TIFF: axes and voxel size from whatever the file says, and back again from what was written."""

from __future__ import annotations

import contextlib
import logging
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

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


@pytest.mark.parametrize(
    ("notes", "pixels", "unit", "spacing"),
    [
        ({"unit": "\\u00B5m", "spacing": -2}, 4, "um", (2, 0.25, 0.25)),
        ({"unit": "mm", "zunit": "micron", "spacing": 3000}, 1, "mm", (3, 1, 1)),
        ({"unit": "mm", "yunit": "cm", "spacing": 3}, 4, "mm", (3, 2.5, 0.25)),
        ({"unit": "inch", "spacing": 0.5}, 4, "inch", (0.5, 0.25, 0.25)),
    ],
)
def test_imagej_units_of_each_axis_and_spacing_below_zero(
    tmp_path: Path, notes: dict[str, Any], pixels: float, unit: str, spacing: tuple[float, ...]
) -> None:
    path = tmp_path / "a.tif"
    metadata = {"axes": "ZYX", **notes}
    tifffile.imwrite(path, np.zeros((3, 5, 6), np.uint16), imagej=True, resolution=(pixels, pixels), metadata=metadata)
    spec = read_image(path).spec
    assert (spec.unit, spec.spacing) == (unit, pytest.approx(spacing))


def test_imagej_without_a_unit_has_that_of_the_resolution(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    options = {"imagej": True, "resolution": (20, 20), "resolutionunit": "CENTIMETER", "metadata": {"axes": "YX"}}
    tifffile.imwrite(path, np.zeros((5, 6), np.uint8), **options)
    spec = read_image(path).spec
    assert (spec.unit, spec.spacing) == ("cm", (0.05, 0.05))


def test_imagej_proportions_are_kept_without_a_unit(tmp_path: Path) -> None:
    metadata = {"axes": "ZYX", "spacing": 5}
    spec = read_image(save(tmp_path / "a.tif", np.zeros((3, 5, 6), np.uint8), imagej=True, metadata=metadata)).spec
    assert (spec.spacing, spec.unit) == ((5, 1, 1), "pixel")


@pytest.mark.parametrize(
    ("unit", "resolution", "spacing", "name"),
    [
        ("CENTIMETER", 20000, 0.5, "um"),
        ("INCH", 254000, 0.1, "um"),
        ("INCH", 254, 100, "um"),
        ("CENTIMETER", 72 / 2.54, 1, "pixel"),
        ("INCH", 96, 1, "pixel"),
        ("INCH", 300, 1, "pixel"),
        ("INCH", 1, 1, "pixel"),
        ("NONE", 2, 1, "pixel"),
    ],
)
def test_a_resolution_that_no_printer_or_camera_has_is_a_voxel_size(
    tmp_path: Path, unit: str, resolution: float, spacing: float, name: str
) -> None:
    data = np.zeros((5, 6), np.uint8)
    spec = read_image(save(tmp_path / "a.tif", data, resolution=(resolution, resolution), resolutionunit=unit)).spec
    assert (spec.spacing, spec.unit) == (pytest.approx((spacing, spacing)), name)


def test_color_becomes_three_channels_and_alpha_is_left_out(tmp_path: Path) -> None:
    data = np.arange(5 * 6 * 4, dtype=np.uint8).reshape(5, 6, 4)
    path = save(tmp_path / "a.tif", data, photometric="rgb", extrasamples=["unassalpha"])
    scan = read_image(path)
    assert scan.spec.axes == "cyx"
    assert np.array_equal(scan.data, np.moveaxis(data[..., :3], -1, 0))


@pytest.mark.parametrize("opaque", [True, False])
def test_alpha_of_gray_is_left_out_and_reported_where_it_hides_something(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rng: np.random.Generator, opaque: bool
) -> None:
    gray = rng.integers(0, 255, (5, 6)).astype(np.uint8)
    alpha = np.full_like(gray, 255) if opaque else gray
    Image.fromarray(np.dstack([gray, alpha]), "LA").save(tmp_path / "a.tif")
    scan = read_image(tmp_path / "a.tif")
    assert scan.spec.axes == "yx"
    assert np.array_equal(scan.data, gray)
    assert ("alpha" in caplog.text) is not opaque


def test_values_of_which_0_is_white_are_those_that_pillow_shows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rng: np.random.Generator
) -> None:
    data = rng.integers(0, 255, (5, 6)).astype(np.uint8)
    for name, stored in (("gray", data), ("bits", data > 100)):
        path = save(tmp_path / f"{name}.tif", stored, photometric="miniswhite")
        assert np.array_equal(read_image(path).data, np.asarray(Image.open(path)).astype(np.uint8))
    assert caplog.text.count("inverted") == 2


def test_values_are_kept_where_the_photometric_tag_is_unreadable(tmp_path: Path) -> None:
    data = np.arange(12, dtype=np.uint8).reshape(3, 4)
    path = save(tmp_path / "a.tif", data)
    raw = bytearray(path.read_bytes())
    at = raw.index((262).to_bytes(2, "little") + (3).to_bytes(2, "little"))  # tag, type of its value
    raw[at : at + 2] = (60_000).to_bytes(2, "little")
    path.write_bytes(raw)
    np.testing.assert_array_equal(read_image(path).data, data)


def test_a_mask_of_which_0_is_white_marks_the_white_and_class_numbers_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = np.array([[0, 1], [1, 1]], np.uint8)
    assert read_labels(save(tmp_path / "a.tif", data > 0, photometric="miniswhite")).data.tolist() == [[1, 0], [0, 0]]
    assert read_labels(save(tmp_path / "b.tif", data * 2, photometric="miniswhite")).data.tolist() == [[0, 2], [2, 2]]
    assert "white is taken as the object" in caplog.text
    assert "kept as stored" in caplog.text


def test_a_palette_is_color_in_an_image_and_class_numbers_in_labels(tmp_path: Path, rng: np.random.Generator) -> None:
    picture = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], np.uint8)).convert("P")
    picture.putpalette(rng.integers(0, 255, 768).tolist())
    picture.save(tmp_path / "a.tif")
    assert np.array_equal(read_image(tmp_path / "a.tif").data, np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0))
    assert np.array_equal(read_labels(tmp_path / "a.tif").data, np.asarray(picture))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colors_are_converted_as_pillow_does_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rng: np.random.Generator, mode: str
) -> None:
    Image.fromarray(rng.integers(0, 255, (5, 6, 3)).astype(np.uint8)).convert(mode).save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as picture:
        right = np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0)
    assert np.array_equal(read_image(tmp_path / "a.tif").data, right)
    assert f"converted from {mode}" in caplog.text


def test_colors_that_are_not_converted_are_refused(tmp_path: Path) -> None:
    Image.new("LAB", (6, 5)).save(tmp_path / "a.tif")
    with pytest.raises(FileFormatError, match="CIELab"):
        read_image(tmp_path / "a.tif")


def test_an_orientation_is_reported_and_the_stored_grid_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "a.tif", np.zeros((5, 6), np.uint8), extratags=[(274, 3, 1, 6, True)])
    assert read_image(path).spec.shape == (5, 6)
    assert "EXIF orientation 6" in caplog.text


def test_color_saved_as_planes_of_three_columns_is_seen(tmp_path: Path) -> None:
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


def raw_tiff(path: Path, *lists: dict[int, tuple[int, int, bytes]], pixels: bytes = bytes(100)) -> Path:
    """A TIFF of pages with these tags: type, count and value, or the place of the value."""
    content, pointer = bytearray(b"II*\0\0\0\0\0" + pixels), 4
    for tags in lists:
        entries = b""
        for tag, (kind, count, value) in sorted(tags.items()):
            place = value
            if len(value) > 4:
                place = struct.pack("<I", len(content))
                content += value
            entries += struct.pack("<HHI", tag, kind, count) + place.ljust(4, b"\0")
        struct.pack_into("<I", content, pointer, len(content))
        content += struct.pack("<H", len(tags)) + entries
        pointer = len(content)
        content += bytes(4)
    path.write_bytes(content)
    return path


def page(width: int = 10, height: int = 10, size: int = 100, **more: tuple[int, int, bytes]) -> dict[int, Any]:
    """Tags of a page of 8 bits whose one strip starts at byte 8; `more` by ``tNUMBER``."""
    values = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: size}
    tags: dict[int, Any] = {tag: (4, 1, struct.pack("<I", value)) for tag, value in values.items()}
    return tags | {int(name[1:]): entry for name, entry in more.items()}


def text(content: str) -> tuple[int, int, bytes]:
    return 2, len(content) + 1, content.encode() + b"\0"


LARGEST = (1 << 32) - 1
HOSTILE: dict[str, Any] = {
    "imagej": lambda path: raw_tiff(path, page(t270=text("ImageJ=1.53\nimages=1000000000\nslices=1000000000\n"))),
    "shaped": lambda path: raw_tiff(path, page(t270=text('{"shape": [1000000000, 10, 10]}'))),
    "dimensions": lambda path: raw_tiff(path, page(t270=text('{"shape": [' + "9," * 50_000 + "10, 10]}"))),
    "deep": lambda path: raw_tiff(path, page(t270=text('{"shape":' + "[" * 100_000 + "]}"))),
    "reduced": lambda path: raw_tiff(path, page(t330=(4, 50_000, struct.pack("<I", 900) * 50_000))),
    "overlap": lambda path: raw_tiff(path, *[page(300, 300, 90_000)] * 600, pixels=bytes(90_000)),
    "depth": lambda path: raw_tiff(path, page(t32997=(4, 1, struct.pack("<I", (1 << 31) - 1)))),
    "tiles": lambda path: raw_tiff(
        path, page((1 << 32) - 1, (1 << 32) - 1, t322=(4, 1, b"\x10"), t323=(4, 1, b"\x10"))
    ),
    "rows": lambda path: raw_tiff(path, page(10, LARGEST, t278=(4, 1, b"\x01"))),
    "samples": lambda path: raw_tiff(path, page(t277=(3, 1, b"\xff\xff"))),
    "stk": lambda path: raw_tiff(path, page(t33628=(4, 1, b"\x01"), t33629=(5, 10_000, bytes(80_000)))),
    "lsm": lambda path: raw_tiff(path, *[page(t34412=(1, 600, b"\x4c\x49\x00\x04" + b"\x7f" * 596))] * 2),
    "fluoview": lambda path: raw_tiff(path, page(t34361=(1, 1000, bytes(1000)), t34362=(1, 8, bytes(8)))),
    "colormap": lambda path: raw_tiff(path, page(t262=(3, 1, b"\x03"), t320=(3, 30, bytes(60)))),
    "repeated tags": lambda path: raw_tiff(
        path, *[page(t700=(1, 9_000, struct.pack("<I", 8)))] * 600, pixels=bytes(9_000)
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_small_file_takes_little_memory_and_gives_a_sentence(tmp_path: Path, name: str) -> None:
    path = HOSTILE[name](tmp_path / "a.tif")
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with contextlib.suppress(FileFormatError, GeometryError):  # the only errors there may be
            read_image(path)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 64 << 20


@pytest.mark.parametrize("period", [1, 2, 99, 101])
def test_a_chain_of_pages_in_a_circle_is_refused(tmp_path: Path, period: int) -> None:
    path = raw_tiff(tmp_path / "a.tif", *[page()] * (period + 1))
    content = bytearray(path.read_bytes())
    first = struct.unpack_from("<I", content, 4)[0]
    second = first + 2 + 12 * len(page()) + 4
    content[-4:] = struct.pack("<I", second)
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=f"page {period + 2} is declared to start"):
        read_image(path)


def test_a_blank_image_of_hundreds_of_megabytes_in_kilobytes_is_refused(tmp_path: Path) -> None:
    packed = zlib.compress(bytes(241 << 20), 9)
    path = raw_tiff(tmp_path / "a.tif", page(1 << 20, 241, len(packed), t259=(3, 1, b"\x08")), pixels=packed)
    with pytest.raises(FileFormatError, match="241 MB of voxels"):
        read_image(path)


def test_many_pages_of_two_sizes_are_read_in_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = raw_tiff(tmp_path / "a.tif", *(page(10, 10 - number % 2) for number in range(3000)))
    assert read_image(path).spec.shape == (1500, 10, 10)
    assert "1500 of its 3000 pages" in caplog.text


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
