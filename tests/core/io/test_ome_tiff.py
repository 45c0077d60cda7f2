"""OME-TIFF: damaged XML, sizes against pages, companions, and sets of several files."""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

import numpy as np
import pytest
import tifffile

from prosma_core.errors import FileFormatError
from prosma_core.io.dataset_folder import image_files
from prosma_core.io.images import preflight, read_image, read_labels
from prosma_core.io.scan_files import collect_scans

NAMESPACE = 'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
SIZES = (
    'PhysicalSizeX="0.5" PhysicalSizeXUnit="µm" PhysicalSizeY="0.5" PhysicalSizeYUnit="µm" PhysicalSizeZ="2000" '
    'PhysicalSizeZUnit="nm"'
)


def urn(number: int) -> str:
    return f"urn:uuid:{uuid.UUID(int=number)}"


def ome(data: str, z: int, t: int = 1, own: str = "", x: int = 6) -> str:
    """OME-XML of one image of 5 x `x` pixels."""
    pixels = f'DimensionOrder="XYZCT" Type="uint16" SizeX="{x}" SizeY="5" SizeZ="{z}" SizeC="1" SizeT="{t}" {SIZES}'
    root = f'UUID="{own}"' if own else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><OME {NAMESPACE} {root}><Image ID="Image:0"><Pixels ID="P" {pixels}>'
        f'<Channel ID="C" SamplesPerPixel="1"/>{data}</Pixels></Image></OME>'
    )


def pages(path: Path, planes: np.ndarray, xml: str | bytes) -> Path:
    """A TIFF with one page for each plane; the text of the first is `xml`."""
    text = xml.encode() if isinstance(xml, str) else xml
    with tifffile.TiffWriter(path) as writer:
        for number, plane in enumerate(planes):
            options = {"photometric": "minisblack", "metadata": None, "contiguous": False}
            writer.write(plane, description=text if number == 0 else None, **options)
    return path


def planes(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 60000, (*shape, 5, 6)).astype(np.uint16)


def block(t: int, z: int, page: int, file: str, name: str, count: int = 1) -> str:
    place = f'FirstT="{t}" FirstC="0" FirstZ="{z}" IFD="{page}" PlaneCount="{count}"'
    return f'<TiffData {place}><UUID FileName="{file}">{name}</UUID></TiffData>'


def write_set(folder: Path, data: np.ndarray) -> list[Path]:
    """One file for each time point, each with the description of all."""
    names = [f"cells_t{t}.ome.tif" for t in range(len(data))]
    parts = "".join(block(t, 0, 0, name, urn(t + 1), data.shape[1]) for t, name in enumerate(names))
    return [
        pages(folder / name, data[t], ome(parts, data.shape[1], len(data), urn(t + 1))) for t, name in enumerate(names)
    ]


@pytest.mark.parametrize("order", ["XYZCT", "XYCTZ", "XYTZC"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_planes_in_any_order_are_those_that_tifffile_reads(tmp_path: Path, order: str, compression: str | None) -> None:
    letters = "".join(reversed(order))
    shape = tuple({"T": 2, "C": 3, "Z": 4, "Y": 5, "X": 6}[letter] for letter in letters)
    data = np.arange(2 * 3 * 4 * 30, dtype=np.uint16).reshape(shape)
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, data, photometric="minisblack", compression=compression, metadata={"axes": letters})
    scan = read_image(path)
    assert scan.spec.axes == "tczyx"
    assert np.array_equal(scan.data, tifffile.imread(path).transpose([letters.index(letter) for letter in "TCZYX"]))


def test_samples_of_color_pages_are_channels(tmp_path: Path, rng: np.random.Generator) -> None:
    data = rng.integers(0, 255, (4, 5, 6, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.ome.tif", data, photometric="rgb", metadata={"axes": "ZYXS"})
    scan = read_image(tmp_path / "a.ome.tif")
    assert (scan.spec.axes, scan.spec.channel_names) == ("czyx", ("red", "green", "blue"))
    assert np.array_equal(scan.data, np.moveaxis(data, -1, 0))


def test_one_damaged_byte_never_makes_it_a_plain_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "CZYX", "PhysicalSizeX": 0.3, "PhysicalSizeY": 0.4, "PhysicalSizeZ": 2.0}
    tifffile.imwrite(path, planes(2, 3), photometric="minisblack", metadata=metadata)
    whole, right = path.read_bytes(), read_image(path).spec
    start, end = whole.index(b"<?xml"), whole.index(b"</OME>") + 6
    refused = 0
    for offset in range(start, end, 3):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])
        try:
            spec = read_image(path).spec
        except FileFormatError:
            refused += 1
        else:
            assert (spec.axes, spec.shape, spec.unit) == (right.axes, right.shape, right.unit)
    assert refused > 50


@pytest.mark.parametrize("name", ["a.ome.tif", "a.tif"])
def test_damaged_xml_is_refused_and_ignored_only_where_axes_are_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    data = planes(3)
    path = pages(tmp_path / name, data, ome('<TiffData IFD="0" PlaneCount="3"/>', 3).replace("</Pixels>", "</Pixel>"))
    for check in (preflight, read_image, read_labels):
        with pytest.raises(FileFormatError, match=r"OME-XML.*damaged.*--axes"):
            check(path)
    scan = read_image(path, axes="zyx")
    assert (scan.spec.axes, scan.spec.unit) == ("zyx", "pixel")
    assert np.array_equal(scan.data, data)
    assert "voxel size is not known" in caplog.text


def test_a_name_that_says_ome_without_any_xml_is_refused(tmp_path: Path) -> None:
    path = pages(tmp_path / "a.ome.tif", planes(3), b"nothing")
    with pytest.raises(FileFormatError, match="OME-XML"):
        read_image(path)


def test_a_micro_sign_in_another_encoding_is_read(tmp_path: Path) -> None:
    xml = ome('<TiffData IFD="0" PlaneCount="3"/>', 3).encode("latin-1")
    spec = read_image(pages(tmp_path / "a.ome.tif", planes(3), xml)).spec
    assert (spec.unit, spec.spacing) == ("um", pytest.approx((2, 0.5, 0.5)))


@pytest.mark.parametrize(
    ("data", "z", "t", "x", "text"),
    [
        ('<TiffData IFD="0" PlaneCount="3"/>', 4, 1, 6, "declares 4 planes .* places 3"),
        ('<TiffData IFD="0" PlaneCount="3"/>', 3, 10**9, 6, "declares 3000000000 planes"),
        ('<TiffData IFD="0" PlaneCount="2000000000"/>', 3, 1, 6, "has 3 pages"),
        ('<TiffData IFD="0" FirstZ="7" PlaneCount="1"/>', 3, 1, 6, "a plane at"),
        ('<TiffData IFD="0" PlaneCount="3"/>', 3, 1, 7, "7 x 5 pixels, and has 6 x 5"),
        ('<TiffData IFD="x" PlaneCount="3"/>', 3, 1, 6, "no usable IFD"),
        ('<TiffData IFD="0" PlaneCount="1"/>' * 9, 1, 1, 6, "has 3 pages"),
    ],
)
def test_what_the_xml_declares_is_compared_with_the_pages(
    tmp_path: Path, data: str, z: int, t: int, x: int, text: str
) -> None:
    path = pages(tmp_path / "a.ome.tif", planes(3), ome(data, z, t, x=x))
    for check in (preflight, read_image):
        with pytest.raises(FileFormatError, match=text):
            check(path)


def test_entities_are_refused(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">]>' + ome("&a;", 3).partition("?>")[2]
    with pytest.raises(FileFormatError, match="entities"):
        read_image(pages(tmp_path / "a.ome.tif", planes(3), bomb))


def test_a_renamed_file_is_still_its_own(tmp_path: Path) -> None:
    data = planes(3)
    for own in ("", urn(1)):
        xml = ome(block(0, 0, 0, "before.ome.tif", urn(1), 3), 3, own=own)
        assert np.array_equal(read_image(pages(tmp_path / "after.ome.tif", data, xml)).data, data)


def test_every_file_of_a_set_is_the_whole_and_a_folder_holds_one_scan(tmp_path: Path) -> None:
    data = planes(3, 4)
    files = write_set(tmp_path, data)
    for path in files:
        scan = read_image(path)
        assert (scan.spec.axes, scan.spec.unit) == ("tzyx", "um")
        assert scan.spec.spacing == pytest.approx((2, 0.5, 0.5))
        assert np.array_equal(scan.data, data)
        preflight(path)
    assert np.array_equal(tifffile.imread(files[0]), data)
    assert image_files(tmp_path) == [files[0]]
    for given in ([tmp_path], files, [files[0], tmp_path]):
        assert [job.files for job in collect_scans(given, ("a",))] == [(files[0],)]


@pytest.mark.parametrize("name", ["cells_t1.ome.tif", "renamed.ome.tif"])
def test_one_file_of_a_set_alone_gives_its_own_planes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    data = planes(3, 4)
    files = write_set(tmp_path, data)
    alone = tmp_path / "alone"
    alone.mkdir()
    files[1].rename(alone / name)
    scan = read_image(alone / name)
    assert (scan.spec.axes, scan.spec.spacing) == ("zyx", pytest.approx((2, 0.5, 0.5)))
    assert np.array_equal(scan.data, data[1])
    assert "cells_t0.ome.tif, cells_t2.ome.tif" in caplog.text
    assert len(image_files(tmp_path)) == 2  # without the moved one the others are no whole set


def test_planes_that_are_no_whole_part_name_what_is_missing(tmp_path: Path) -> None:
    data = (
        block(0, 0, 0, "a.ome.tif", urn(1)) + block(0, 1, 0, "b.ome.tif", urn(2)) + block(0, 2, 1, "a.ome.tif", urn(1))
    )
    path = pages(tmp_path / "a.ome.tif", planes(2), ome(data, 3, own=urn(1)))
    with pytest.raises(FileFormatError, match=r"b\.ome\.tif missing.*whole set"):
        read_image(path)


@pytest.mark.parametrize("name", ["../b.ome.tif", "/etc/passwd", "..", "C:\\b.tif"])
def test_names_outside_the_folder_are_never_opened(tmp_path: Path, name: str) -> None:
    data = block(0, 0, 0, "a.ome.tif", urn(1)) + block(0, 1, 0, name, urn(2))
    path = pages(tmp_path / "a.ome.tif", planes(1), ome(data, 2, own=urn(1)))
    with pytest.raises(FileFormatError, match="plain names"):
        read_image(path)
    assert image_files(tmp_path) == [path]


def test_a_file_of_another_set_under_the_name_is_refused(tmp_path: Path) -> None:
    files = write_set(tmp_path, planes(2, 3))
    pages(files[1], planes(3), ome(block(0, 0, 0, files[1].name, urn(9), 3), 3, own=urn(9)))
    with pytest.raises(FileFormatError, match="UUIDs differ"):
        read_image(files[0])


def test_a_companion_gives_axes_and_voxel_size(tmp_path: Path) -> None:
    data = planes(2, 3)
    binary = f'<OME {NAMESPACE} UUID="{urn(2)}"><BinaryOnly MetadataFile="s.companion.ome" UUID="{urn(1)}"/></OME>'
    path = pages(tmp_path / "s.ome.tif", data.reshape(6, 5, 6), binary)
    with pytest.raises(FileFormatError, match=r"s\.companion\.ome, is not in its folder"):
        read_image(path)
    (tmp_path / "s.companion.ome").write_text(ome(block(0, 0, 0, "s.ome.tif", urn(2), 6), 3, 2, urn(1)), "utf-8")
    scan = read_image(path)
    assert (scan.spec.axes, scan.spec.unit, scan.spec.spacing) == ("tzyx", "um", pytest.approx((2, 0.5, 0.5)))
    assert np.array_equal(scan.data, data)
    preflight(path)


@pytest.mark.parametrize(("size", "warned"), [("-0.5", "absolute value"), ("0", "not used"), ("nan", "not used")])
def test_an_unusable_voxel_size_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size: str, warned: str
) -> None:
    xml = ome('<TiffData IFD="0" PlaneCount="3"/>', 3).replace('PhysicalSizeX="0.5"', f'PhysicalSizeX="{size}"')
    spec = read_image(pages(tmp_path / "a.ome.tif", planes(3), xml)).spec
    assert spec.spacing == pytest.approx((2, 0.5, 0.5))
    assert warned in caplog.text


def test_pages_of_other_sizes_are_no_planes_of_one_image(tmp_path: Path) -> None:
    path = pages(tmp_path / "a.ome.tif", planes(3), ome('<TiffData IFD="0" PlaneCount="3"/>', 3))
    whole = path.read_bytes()
    offset = whole.index(struct.pack("<HHII", 257, 4, 1, 5), whole.index(struct.pack("<HHII", 257, 4, 1, 5)) + 1)
    path.write_bytes(whole[: offset + 8] + struct.pack("<I", 4) + whole[offset + 12 :])
    with pytest.raises(FileFormatError, match=r"pages 1 and 2 .* 6 x 5 and 6 x 4"):
        read_image(path)
