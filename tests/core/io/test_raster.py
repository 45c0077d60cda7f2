"""PNG and JPEG: the stored pixel grid, class numbers from every way to store them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prosma_core.data.geometry import array_spec
from prosma_core.data.pair_check import grid_problem
from prosma_core.errors import FileFormatError, GeometryError, LabelError, OutputError
from prosma_core.io.images import preflight, read_image, read_labels, result_name, write_image, write_labels
from prosma_core.io.raster import open_picture


def save(path: Path, data: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    picture = Image.fromarray(data)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


def png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_gray_keeps_its_depth(tmp_path: Path, rng: np.random.Generator, dtype: type) -> None:
    data = rng.integers(0, np.iinfo(dtype).max, (5, 7)).astype(dtype)
    scan = read_image(save(tmp_path / "a.png", data))
    assert (scan.spec.axes, scan.spec.unit, scan.data.dtype) == ("yx", "pixel", dtype)
    assert np.array_equal(scan.data, data)


@pytest.mark.parametrize("channels", [3, 4])
def test_color_is_three_channels(tmp_path: Path, rng: np.random.Generator, channels: int) -> None:
    data = rng.integers(0, 255, (5, 7, channels)).astype(np.uint8)
    scan = read_image(save(tmp_path / "a.png", data))
    assert scan.spec.axes == "cyx"
    assert scan.spec.channel_names == ("red", "green", "blue")
    assert np.array_equal(scan.data, np.moveaxis(data[..., :3], -1, 0))


def test_a_palette_is_color_in_an_image_and_class_numbers_in_labels(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode=None).convert("P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.putdata([0, 1, 2, 1])
    picture.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").data[:, 0, 1].tolist() == [255, 0, 0]
    assert read_labels(tmp_path / "a.png").data.tolist() == [[0, 1], [2, 1]]


@pytest.mark.parametrize(("depth", "row"), [(1, 0b01000000), (2, 0b01110000), (4, 0b00010011)])
def test_labels_of_few_bits_are_read_as_stored(tmp_path: Path, depth: int, row: int) -> None:
    (tmp_path / "a.png").write_bytes(png(2, 1, depth, 0, bytes([0, row])))
    stored = [row >> (8 - depth), (row >> (8 - 2 * depth)) & ((1 << depth) - 1)]
    assert read_labels(tmp_path / "a.png").data.tolist() == [stored]


def test_gray_labels_saved_as_color_are_taken_and_colored_ones_not(tmp_path: Path) -> None:
    gray = np.repeat(np.array([[0, 3], [255, 1]], np.uint8)[..., None], 3, axis=2)
    assert read_labels(save(tmp_path / "a.png", gray)).data.tolist() == [[0, 3], [255, 1]]
    gray[0, 0, 1] = 9
    with pytest.raises(LabelError, match="3 channels that differ"):
        read_labels(save(tmp_path / "b.png", gray))


def test_jpeg_keeps_the_stored_grid_whatever_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees"
    path = save(tmp_path / "a.jpg", np.zeros((16, 32, 3), np.uint8), exif=exif)
    assert read_image(path).spec.shape == (3, 16, 32)


def test_an_orientation_of_exif_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.jpg", "a.png"):
        exif = Image.Exif()
        exif[0x0112] = 6
        read_image(save(tmp_path / name, np.zeros((16, 32), np.uint8), exif=exif))
    assert caplog.text.count("EXIF orientation 6") == 2
    labels = array_spec((32, 16), "yx")
    assert "EXIF" in grid_problem(read_image(tmp_path / "a.jpg").spec, labels, "The scan", "the labels")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_bmp_is_read_as_pillow_reads_it(tmp_path: Path, rng: np.random.Generator, mode: str) -> None:
    picture = Image.fromarray(rng.integers(0, 255, (5, 7, 3)).astype(np.uint8)).convert(mode)
    picture.save(tmp_path / "a.bmp")
    scan = read_image(tmp_path / "a.bmp")
    right = picture.convert("RGB" if mode in {"P", "RGBA"} else mode)
    data = np.asarray(right).astype(np.uint8) if mode in {"1", "L"} else np.moveaxis(np.asarray(right), -1, 0)
    assert np.array_equal(scan.data, data * 255 if mode == "1" and scan.data.max() > 1 else data)
    assert scan.spec.format == "bmp"
    assert result_name(tmp_path / "a.bmp", scan.spec) == "a.png"
    preflight(tmp_path / "a.bmp")


@pytest.mark.parametrize("name", ["a.bmp", "a.jpg"])
def test_a_picture_cut_anywhere_is_refused(tmp_path: Path, rng: np.random.Generator, name: str) -> None:
    path = save(tmp_path / name, rng.integers(0, 255, (9, 9)).astype(np.uint8))
    whole = path.read_bytes()
    for size in range(2, len(whole) - 4, 7):
        path.write_bytes(whole[:size])
        with pytest.raises((FileFormatError, GeometryError)):
            read_image(path)


def test_a_jpeg_that_declares_more_than_it_can_hold_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", np.zeros((16, 16), np.uint8))
    whole = bytearray(path.read_bytes())
    at = whole.index(b"\xff\xc0") + 5
    whole[at : at + 4] = struct.pack(">HH", 13000, 13000)
    path.write_bytes(whole)
    for check in (preflight, read_image):
        with pytest.raises(FileFormatError, match="13000 x 13000"):
            check(path)


def test_alpha_that_hides_something_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, alpha in (("a.png", 255), ("b.png", 7)):
        read_image(save(tmp_path / name, np.full((5, 7, 4), alpha, np.uint8)))
    assert "b.png: the alpha channel" in caplog.text
    assert "a.png" not in caplog.text


def test_a_mask_whose_palette_begins_with_white_marks_the_white(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture = Image.fromarray(np.array([[0, 1], [1, 1]], np.uint8)).convert("P")
    picture.putpalette([255, 255, 255, 0, 0, 0])
    picture.putdata([0, 1, 1, 1])
    picture.save(tmp_path / "a.png")
    assert read_labels(tmp_path / "a.png").data.tolist() == [[1, 0], [0, 0]]
    assert "white is taken as the object" in caplog.text
    assert read_image(tmp_path / "a.png").data.tolist() == [[255, 0], [0, 0]]


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.czi", "OME-TIFF"), ("a.webp", "PNG"), ("a.npy", "voxel size"), ("s.companion.ome", "TIFF")],
)
def test_other_formats_say_what_to_export(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(b"content")
    with pytest.raises(FileFormatError, match=text):
        read_image(tmp_path / name)


def test_results_and_notes_are_plain_png(tmp_path: Path) -> None:
    labels = np.array([[0, 1], [2, 300]])
    write_labels(tmp_path / "a.png", labels, array_spec((2, 2), "yx"), provenance={"model": "µ"})
    with Image.open(tmp_path / "a.png") as picture:
        assert np.array_equal(np.asarray(picture), labels)
        assert picture.text["model"] == "µ"


@pytest.mark.parametrize(
    ("name", "data", "axes"),
    [
        ("a.png", np.zeros((2, 3, 4), np.uint8), "zyx"),
        ("a.png", np.zeros((3, 4), np.float32), "yx"),
        ("a.jpg", np.zeros((3, 4), np.uint16), "yx"),
        ("a.png", np.zeros((2, 3, 4), np.uint8), "cyx"),
    ],
)
def test_what_a_picture_cannot_hold_is_refused(tmp_path: Path, name: str, data: np.ndarray, axes: str) -> None:
    with pytest.raises(OutputError, match="2D picture"):
        write_image(tmp_path / name, data, array_spec(data.shape, axes))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("check", [preflight, read_image, read_labels])
def test_every_flipped_bit_and_every_cut_of_a_png_is_seen(tmp_path: Path, rng: np.random.Generator, check: Any) -> None:
    path = save(tmp_path / "a.png", rng.integers(0, 255, (9, 9)).astype(np.uint8))
    whole = path.read_bytes()
    for offset in range(len(whole)):
        broken = bytearray(whole)
        broken[offset] ^= 1
        for content in (bytes(broken), whole[:offset] or b"x"):
            path.write_bytes(content)
            with pytest.raises(FileFormatError):
                check(path)


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(8, 8, 8, 0, bytes(9 * 3)))
    with pytest.raises(FileFormatError, match="27 bytes of 72"):
        read_image(tmp_path / "a.png")


def test_a_picture_that_declares_far_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(50000, 50000, 8, 0, bytes(9)))
    with pytest.raises(FileFormatError, match="50000 x 50000"):
        preflight(tmp_path / "a.png")


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(20000, 20000, 1, 0, bytes(2501 * 20000)))
    with pytest.raises(FileFormatError, match=r"381 MB of voxels in .* kB, which no scan fits into"):
        read_image(tmp_path / "a.png")


def test_pillows_limit_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(20_000, 20_000, 8, 0, b""))
    with open_picture(tmp_path / "a.png") as picture:
        assert picture.size == (20_000, 20_000)


def test_a_side_of_no_pixels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(0, 8, 8, 0, b"\0"))
    with pytest.raises(GeometryError, match="without pixels"):
        read_image(tmp_path / "a.png")


def test_another_format_under_the_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"GIF89a and so on")
    with pytest.raises(FileFormatError, match="neither a PNG nor a JPEG or BMP"):
        read_image(tmp_path / "a.png")


def test_interlaced_pictures_are_read(tmp_path: Path) -> None:
    data = np.arange(30, dtype=np.uint8).reshape(5, 6)
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b"".join(b"\0" + row.tobytes() for x, y, dx, dy in passes for row in data[y::dy, x::dx] if row.size)
    whole = bytearray(png(6, 5, 8, 0, rows))
    whole[28] = 1
    whole[29:33] = struct.pack(">I", zlib.crc32(whole[12:29]))
    (tmp_path / "a.png").write_bytes(bytes(whole))
    assert np.array_equal(read_image(tmp_path / "a.png").data, data)
