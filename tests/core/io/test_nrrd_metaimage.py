"""NRRD and MetaImage: the same place in the world as in the NIfTI that SimpleITK writes."""

from __future__ import annotations

import bz2
import gzip
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prosma_core.data.geometry import array_spec
from prosma_core.errors import FileFormatError, GeometryError, LabelError, OutputError, ProsmaError
from prosma_core.io.images import preflight, read_image, read_labels, result_name, stem, write_image, write_labels
from prosma_core.io.read_errors import reading

sitk = pytest.importorskip("SimpleITK", reason="an independent reader; the extra 'medical' is not installed")

FORMATS = [".nrrd", ".mha"]


def oblique(rng: np.random.Generator) -> sitk.Image:
    image = sitk.GetImageFromArray(rng.integers(0, 200, (4, 5, 6)).astype(np.int16))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    image.SetDirection(turn.ravel())
    image.SetSpacing((0.7, 0.8, 3.1))
    image.SetOrigin((-12.5, 30.25, 7.125))
    return image


@pytest.mark.parametrize("suffix", FORMATS)
def test_voxels_lie_where_simpleitk_says_in_nifti(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    image = oblique(rng)
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    ours, theirs = read_image(tmp_path / f"a{suffix}"), read_image(tmp_path / "a.nii.gz")
    assert np.array_equal(ours.data, theirs.data)
    assert np.allclose(ours.spec.affine, theirs.spec.affine, atol=1e-5)
    assert (ours.spec.world, ours.spec.unit) == ("ras", "mm")


@pytest.mark.parametrize("suffix", FORMATS)
def test_series_of_simpleitk_lie_where_it_says_and_name_a_patient_only_where_their_header_does(
    tmp_path: Path, rng: np.random.Generator, suffix: str
) -> None:
    """It writes no space into a 4D NRRD, and LPS into every MetaImage."""
    volume = oblique(rng)
    series = sitk.JoinSeries([volume, volume + 1], 7.0, 2.0)
    sitk.WriteImage(series, str(tmp_path / f"a{suffix}"))
    scan, theirs = read_image(tmp_path / f"a{suffix}"), sitk.ReadImage(str(tmp_path / f"a{suffix}"))
    assert (scan.spec.axes, scan.spec.unit) == ("tzyx", "mm")
    assert scan.spec.world == ("image" if suffix == ".nrrd" else "ras")
    np.testing.assert_array_equal(scan.data, sitk.GetArrayFromImage(theirs))
    signs = (1, 1, 1) if suffix == ".nrrd" else (1, -1, -1)  # z, y, x: LPS is turned to RAS
    for t, z, y, x in np.ndindex(scan.spec.shape):
        place = theirs.TransformIndexToPhysicalPoint((x, y, z, t))[2::-1]
        ours = scan.spec.affine @ (z, y, x, 1)
        np.testing.assert_allclose(ours[:3], np.multiply(signs, place), atol=1e-4)


@pytest.mark.parametrize("suffix", FORMATS)
def test_labels_keep_the_geometry_and_carry_notes(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    sitk.WriteImage(oblique(rng), str(tmp_path / f"a{suffix}"))
    spec = read_image(tmp_path / f"a{suffix}").spec
    write_labels(tmp_path / f"b{suffix}", np.ones(spec.shape, int), spec, provenance={"model": "x"})
    source, result = (sitk.ReadImage(str(tmp_path / f"{name}{suffix}")) for name in "ab")
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(result, get)() == getattr(source, get)()
    assert result.GetMetaData("model") == "x"
    assert np.array_equal(read_labels(tmp_path / f"b{suffix}").spec.affine, spec.affine)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_nifti_scan_keeps_its_place(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    sitk.WriteImage(oblique(rng), str(tmp_path / "a.nii.gz"))
    spec = read_image(tmp_path / "a.nii.gz").spec
    write_labels(tmp_path / f"b{suffix}", np.ones(spec.shape, int), spec)
    assert np.allclose(read_labels(tmp_path / f"b{suffix}").spec.affine, spec.affine)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("axes", ["yx", "zyx", "tzyx", "cyx", "czyx"])
def test_axes_come_back(tmp_path: Path, rng: np.random.Generator, suffix: str, axes: str) -> None:
    spacing = (2.0, 0.25, 0.5)[-2 if "z" not in axes else 0 :]
    spec = array_spec(tuple({"t": 2, "c": 3, "z": 4, "y": 5, "x": 6}[a] for a in axes), axes, spacing, "mm")
    data = rng.random(spec.shape, np.float32)
    write_image(tmp_path / f"a{suffix}", data, spec)
    again = read_image(tmp_path / f"a{suffix}")
    assert (again.spec.axes, again.spec.spacing) == (axes, spacing)
    assert np.array_equal(again.data, data)


def test_time_and_channels_together_are_refused(tmp_path: Path) -> None:
    spec = array_spec((2, 2, 3, 4, 5), "tczyx")
    with pytest.raises(OutputError, match="time and channels"):
        write_image(tmp_path / "a.nrrd", np.zeros(spec.shape, np.float32), spec)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("compressed", [True, False])
def test_a_file_cut_anywhere_is_refused(
    tmp_path: Path, rng: np.random.Generator, suffix: str, compressed: bool
) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(oblique(rng), str(path), useCompression=compressed)
    whole = path.read_bytes()
    for size in range(1, len(whole), 29):
        path.write_bytes(whole[:size])
        with pytest.raises(FileFormatError):
            preflight(path)


@pytest.mark.parametrize(
    ("suffix", "old", "new"), [(".nrrd", b"sizes: 6", b"sizes: 0"), (".mha", b"= 6 5 4", b"= 0 5 4")]
)
def test_an_axis_of_no_voxels_is_refused(
    tmp_path: Path, rng: np.random.Generator, suffix: str, old: bytes, new: bytes
) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(oblique(rng), str(path))
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(GeometryError, match="without voxels"):
        read_image(path)


def nrrd(path: Path, data: np.ndarray, lines: str, encoding: str = "raw") -> Path:
    """A file with the given header lines; its sizes and type are those of `data`."""
    sizes = " ".join(map(str, data.shape[::-1]))
    packed = {"raw": bytes, "gzip": gzip.compress, "bzip2": bz2.compress}[encoding](data.tobytes())
    kind = {"int16": "short", "uint8": "uchar"}[data.dtype.name]
    head = f"NRRD0004\ntype: {kind}\ndimension: {data.ndim}\nsizes: {sizes}\nendian: little\nencoding: {encoding}\n"
    path.write_bytes(f"{head}{lines}\n\n".encode() + packed)
    return path


PLACED = "space directions: ({0},0,0) (0,{0},0) (0,0,{1})\nspace origin: (1,2,3)"


@pytest.mark.parametrize(
    ("space", "world", "corner"),
    [
        ("space: left-posterior-superior", "ras", [3, -2, -1]),
        ("space: LPS", "ras", [3, -2, -1]),
        ("space: right-anterior-superior", "ras", [3, 2, 1]),
        ("space: LAS", "ras", [3, 2, -1]),
        ("space: scanner-xyz", "image", [3, 2, 1]),
        ("space dimension: 3", "image", [3, 2, 1]),
    ],
)
def test_only_a_space_that_names_a_patient_is_turned(
    tmp_path: Path, rng: np.random.Generator, space: str, world: str, corner: list[float]
) -> None:
    data = rng.integers(0, 99, (4, 5, 6)).astype(np.int16)
    path = nrrd(tmp_path / "a.nrrd", data, f"{space}\n{PLACED.format(1, 3)}")
    scan = read_image(path)
    assert (scan.spec.world, scan.spec.spacing) == (world, (3, 1, 1))
    assert scan.spec.affine[:3, 3].tolist() == corner
    assert np.array_equal(scan.data, data)
    write_labels(tmp_path / "b.nrrd", np.ones(data.shape, int), scan.spec)
    result = read_labels(tmp_path / "b.nrrd").spec
    assert result.world == world
    assert np.array_equal(result.affine, scan.spec.affine)


@pytest.mark.parametrize(
    ("lines", "spacing", "unit"),
    [
        ('spacings: 1 1 3\nunits: "um" "um" "um"', (3, 1, 1), "um"),
        ("spacings: 1 1 3", (3, 1, 1), "mm"),
        ("kinds: domain domain domain", (1, 1, 1), "pixel"),
    ],
)
def test_without_a_space_only_the_spacing_is_known(
    tmp_path: Path, lines: str, spacing: tuple[float, ...], unit: str
) -> None:
    spec = read_image(nrrd(tmp_path / "a.nrrd", np.zeros((4, 5, 6), np.int16), lines)).spec
    assert (spec.world, spec.orientation, spec.spacing, spec.unit) == ("image", None, spacing, unit)
    assert read_image(tmp_path / "a.nrrd", axes="zyx").spec.spacing == spacing


@pytest.mark.parametrize(
    ("units", "unit", "spacing"),
    [
        (["microns"] * 3, "um", (3, 1, 1)),
        (["mm"] * 3, "mm", (3, 1, 1)),
        (["um", "um", "mm"], "mm", (3, 0.001, 0.001)),
        (["furlong"] * 3, "pixel", (3, 1, 1)),
    ],
)
def test_space_units_are_read_and_written_back(
    tmp_path: Path, units: list[str], unit: str, spacing: tuple[float, ...]
) -> None:
    line = "space units: " + " ".join(f'"{name}"' for name in units)
    path = nrrd(
        tmp_path / "a.nrrd", np.zeros((4, 5, 6), np.int16), f"space dimension: 3\n{PLACED.format(1, 3)}\n{line}"
    )
    spec = read_image(path).spec
    assert spec.unit == unit
    assert np.allclose(spec.spacing, spacing)
    write_labels(tmp_path / "b.nrrd", np.ones(spec.shape, int), spec)
    assert line.encode() in (tmp_path / "b.nrrd").read_bytes()
    assert read_labels(tmp_path / "b.nrrd").spec.unit == unit


def test_micrometres_of_another_format_are_written(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.nrrd", np.ones((2, 3, 4), int), array_spec((2, 3, 4), "zyx", (2, 1, 1), "um"))
    spec = read_labels(tmp_path / "a.nrrd").spec
    assert (spec.unit, spec.spacing, spec.world) == ("um", (2, 1, 1), "image")


def test_time_of_a_patient_is_what_simpleitk_reads(tmp_path: Path, rng: np.random.Generator) -> None:
    image = oblique(rng)
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    spec = read_image(tmp_path / "a.nrrd").spec
    series = replace(spec, axes="tzyx", shape=(2, *spec.shape))
    data = rng.integers(0, 99, series.shape).astype(np.uint8)
    write_image(tmp_path / "b.nrrd", data, series)
    theirs, ours = sitk.ReadImage(str(tmp_path / "b.nrrd")), read_image(tmp_path / "b.nrrd")
    assert np.array_equal(sitk.GetArrayFromImage(theirs), data)
    assert np.array_equal(ours.data, data)
    assert ours.spec.world == "ras"
    assert np.array_equal(ours.spec.affine, spec.affine)
    assert np.allclose(theirs.GetSpacing()[:3], image.GetSpacing())


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
@pytest.mark.parametrize("first", [True, False])
def test_a_list_axis_is_channels_wherever_it_stands(
    tmp_path: Path, rng: np.random.Generator, encoding: str, first: bool
) -> None:
    data = rng.integers(0, 99, (2, 3, 4, 5)).astype(np.int16)
    kinds = "list domain domain domain" if first else "domain domain domain list"
    vectors = "none (1,0,0) (0,1,0) (0,0,3)" if first else "(1,0,0) (0,1,0) (0,0,3) none"
    stored = np.ascontiguousarray(np.moveaxis(data, 0, -1)) if first else data
    lines = f"space: LPS\nkinds: {kinds}\nspace directions: {vectors}\nspace origin: (0,0,0)"
    scan = read_image(nrrd(tmp_path / "a.nrrd", stored, lines, encoding))
    assert scan.spec.axes == "czyx"
    assert np.array_equal(scan.data, data)


SEGMENTS = (
    "space: LPS\nspace origin: (0,0,0)\nSegment0_ID:=Segment_1\nSegment0_Name:=liver\nSegment0_LabelValue:=1\n"
    "Segment0_Layer:=0\nSegment1_ID:=Segment_2\nSegment1_Name:=tumor\nSegment1_LabelValue:=1\nSegment1_Layer:=1\n"
    "kinds: list domain domain domain\nspace directions: none (1,0,0) (0,1,0) (0,0,3)"
)


def test_layers_of_slicer_segments_become_one_label_map_with_names(tmp_path: Path) -> None:
    layers = np.zeros((4, 5, 6, 2), np.uint8)
    layers[1, :, :, 0] = layers[2, :, :, 1] = 1
    labels = read_labels(nrrd(tmp_path / "a.seg.nrrd", layers, SEGMENTS, "gzip"))
    assert labels.spec.axes == "zyx"
    assert labels.data[:, 0, 0].tolist() == [0, 1, 2, 0]
    assert labels.spec.header.classes == {1: "liver", 2: "tumor"}
    assert stem(tmp_path / "a.seg.nrrd") == stem(tmp_path / "a.nrrd") == "a"


def test_slicer_segments_of_old_files_are_layers_of_their_own(tmp_path: Path) -> None:
    layers = np.zeros((4, 5, 6, 2), np.uint8)
    layers[1, :, :, 0] = layers[2, :, :, 1] = 1
    old = re.sub(r"Segment\d_(LabelValue|Layer):=\d\n", "", SEGMENTS)
    labels = read_labels(nrrd(tmp_path / "a.seg.nrrd", layers, old))
    assert labels.data[:, 0, 0].tolist() == [0, 1, 2, 0]
    assert labels.spec.header.classes == {1: "liver", 2: "tumor"}


def test_slicer_segments_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    layers = np.zeros((4, 5, 6, 2), np.uint8)
    layers[1, :, :, 0], layers[2, :, :, 1] = 1, 7
    with pytest.raises(LabelError, match=r"\(30\) belong to none of its segments"):
        read_labels(nrrd(tmp_path / "a.seg.nrrd", layers, SEGMENTS))
    with pytest.raises(LabelError, match=r"'liver' and 'tumor' .* have the same value, 1, in one layer"):
        read_labels(nrrd(tmp_path / "b.seg.nrrd", layers, SEGMENTS.replace("Segment1_Layer:=1", "Segment1_Layer:=0")))


def test_slicer_segments_that_overlap_are_named(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "a.seg.nrrd", np.ones((4, 5, 6, 2), np.uint8), SEGMENTS)
    with pytest.raises(LabelError, match=r"'liver' and 'tumor' .* overlap in 120 voxels"):
        read_labels(path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("suffix", "result"), [(".nhdr", "a.nrrd"), (".mhd", "a.mha")])
def test_a_header_with_its_voxels_beside_it_is_read(
    tmp_path: Path, rng: np.random.Generator, suffix: str, result: str, compressed: bool
) -> None:
    image = oblique(rng)
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"), useCompression=compressed)
    path = tmp_path / f"a{suffix}"
    preflight(path)
    scan = read_image(path)
    assert np.array_equal(scan.data, sitk.GetArrayFromImage(image))
    sitk.WriteImage(image, str(tmp_path / "b.nii.gz"))
    assert np.allclose(scan.spec.affine, read_image(tmp_path / "b.nii.gz").spec.affine, atol=1e-5)
    assert result_name(path, scan.spec) == result
    next(file for file in tmp_path.iterdir() if "raw" in file.suffix or file.name.endswith("raw.gz")).unlink()
    with pytest.raises(FileFormatError, match="not beside it"):
        read_image(path)


@pytest.mark.parametrize("name", ["../b.raw", "/etc/passwd", "c:\\b.raw", "sub/../../b.raw", "link.raw"])
@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_voxels_outside_the_folder_are_not_opened(
    tmp_path: Path, rng: np.random.Generator, suffix: str, name: str
) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    path = folder / f"a{suffix}"
    sitk.WriteImage(oblique(rng), str(path))
    (tmp_path / "b.raw").write_bytes((folder / "a.raw").read_bytes())
    (folder / "link.raw").symlink_to(tmp_path / "b.raw")
    path.write_bytes(path.read_bytes().replace(b"a.raw", name.encode()))
    with pytest.raises(FileFormatError, match="folder"):
        read_image(path)


MHA = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
    "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 1 1 3\nElementNumberOfChannels = 1\n"
    "DimSize = 6 5 4\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
)
NRRD = (
    "NRRD0004\ntype: short\ndimension: 3\nspace: LPS\nsizes: 6 5 4\nspace directions: (1,0,0) (0,1,0) (0,0,3)\n"
    "kinds: domain domain domain\nendian: little\nencoding: raw\nspace origin: (0,0,0)\n\n"
)


@pytest.mark.parametrize(
    ("text", "old", "new", "reason"),
    [
        (MHA, "1 1 3", "1 1 0", "voxels of the size 1 1 0"),
        (MHA, "1 1 3", "1 1 -3", "voxels of the size 1 1 -3"),
        (MHA, "1 1 3", "1 1 nan", "3 finite numbers"),
        (MHA, "0 0 1\nOffset", "0 0 0\nOffset", "point the same way"),
        (MHA, "Channels = 1", "Channels = 99999999", "channels"),
        (MHA, "Channels = 1", "Channels = -1", "channels"),
        (MHA, "6 5 4", "6 5 " + "4" * 5000, "whole numbers"),
        (MHA, "6 5 4", "6 5 4 4", "NDims"),
        (MHA, "6 5 4", "99999 99999 99999", "too short"),
        (MHA, "BinaryData = True", "BinaryData = False", "as text"),
        (MHA, "LOCAL", "LIST", "several files"),
        (MHA, "LOCAL", "slice%03d.raw 1 4 1", "several files"),
        (MHA, "MET_SHORT", "MET_STRING", "the type 'MET_STRING'"),
        (NRRD, "6 5 4", "6 5 " + "4" * 5000, "whole numbers"),
        (NRRD, "(0,0,3)", "(0,0,0)", "voxels of the size"),
        (NRRD, "(0,0,3)", "(0,1,0)", "point the same way"),
        (NRRD, "(0,0,3)", "(0,0,inf)", "finite"),
        (NRRD, "(0,0,3)", "(0,3)", "finite"),
        (NRRD, "encoding: raw", "encoding: hex", "encoding 'hex'"),
        (NRRD, "encoding: raw", "encoding: ascii", "encoding 'ascii'"),
        (NRRD, "type: short", "type: block", "the type 'block'"),
        (NRRD, "endian: little", "endian: middle", "endian"),
        (NRRD, "kinds: domain domain", "kinds: complex domain", "complex numbers"),
        (NRRD, "kinds: domain domain domain", "kinds: domain list vector", "axes of .* cannot be told"),
        (NRRD, "encoding: raw", "encoding: raw\ndata file: LIST", "several files"),
    ],
)
def test_a_header_that_cannot_be_used_is_refused_for_its_reason(
    tmp_path: Path, text: str, old: str, new: str, reason: str
) -> None:
    path = tmp_path / ("a.mha" if text is MHA else "a.nrrd")
    path.write_bytes(text.encode() + bytes(240))
    assert read_image(path).spec.spacing == (3, 1, 1)
    path.write_bytes(text.replace(old, new).encode() + bytes(240))
    with pytest.raises(ProsmaError, match=reason) as error:
        read_image(path)
    if "cannot be told" not in reason:
        with pytest.raises(ProsmaError, match=reason):
            preflight(path)
    assert len(str(error.value)) <= 400 + len(str(path))
    assert "ITK" not in str(error.value)


def test_element_size_gives_the_spacing_where_none_is_given(tmp_path: Path) -> None:
    (tmp_path / "a.mha").write_bytes(MHA.replace("ElementSpacing", "ElementSize").encode() + bytes(240))
    assert read_image(tmp_path / "a.mha").spec.spacing == (3, 1, 1)


@pytest.mark.parametrize("error", [SystemError("x"), RecursionError("x"), KeyError("x"), AssertionError()])
def test_whatever_a_library_raises_becomes_a_sentence(error: Exception) -> None:
    with pytest.raises(FileFormatError, match=r"a\.x is damaged"), reading(Path("a.x"), "an image"):
        raise error
    with pytest.raises(KeyboardInterrupt), reading(Path("a.x"), "an image"):
        raise KeyboardInterrupt
    with pytest.raises(FileFormatError, match="does not fit into memory"), reading(Path("a.x"), "an image"):
        raise MemoryError
