"""DICOM: series and single files, where their headers say, with the values their headers say."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from prosma_core.errors import FileFormatError, GeometryError, LabelError, MissingExtraError, ProsmaError
from prosma_core.io.images import preflight, read_image, read_labels, result_name, write_labels

sitk = pytest.importorskip("SimpleITK", reason="the extra 'medical' is not installed")


def dicom_series(folder: Path, uid: str = "1.2.3", positions: tuple[float, ...] = (0, 2, 4, 6)) -> Path:
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, z in enumerate(positions):
        plane = sitk.GetImageFromArray(np.full((1, 5, 6), number * 10, np.int16))
        plane.SetSpacing((0.5, 0.75, 2))
        tags = {
            "0008|0060": "MR",
            "0020|000e": uid,
            "0020|0013": str(number),
            "0020|0032": f"1\\2\\{z}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0008|0018": f"{uid}.{number}",
        }
        for tag, value in tags.items():
            plane.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid}-{number}.dcm"))
        writer.Execute(plane)
    return folder


def test_a_dicom_series_is_read_and_its_result_is_nifti(tmp_path: Path) -> None:
    folder = dicom_series(tmp_path / "scan")
    preflight(folder)
    scan = read_image(folder)
    assert (scan.spec.axes, scan.spec.shape, scan.spec.spacing) == ("zyx", (4, 5, 6), (2.0, 0.75, 0.5))
    assert scan.data[:, 0, 0].tolist() == [0, 10, 20, 30]
    assert result_name(folder, scan.spec) == "scan.nii.gz"
    write_labels(tmp_path / "scan.nii.gz", scan.data, scan.spec)
    affine = np.diag([-0.5, -0.75, 2, 1])
    affine[:3, 3] = -1, -2, 0
    assert np.allclose(nib.load(tmp_path / "scan.nii.gz").affine, affine)


def test_dicom_files_without_suffix_are_read(tmp_path: Path) -> None:
    folder = dicom_series(tmp_path / "scan")
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(folder / f"IM{number}")
    assert read_image(folder).spec.shape == (4, 5, 6)


def test_two_series_are_named(tmp_path: Path) -> None:
    dicom_series(tmp_path / "scan", "1.2.3")
    dicom_series(tmp_path / "scan", "1.2.4")
    with pytest.raises(FileFormatError, match=r"1\.2\.3.* \(4 files\); 1\.2\.4"):
        read_image(tmp_path / "scan")


def test_missing_slices_are_said(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="slices 2 and 3 are 6 mm apart, the others 2 mm"):
        read_image(dicom_series(tmp_path / "scan", positions=(0, 2, 8, 10)))


def test_a_cut_slice_is_not_left_out_silently(tmp_path: Path) -> None:
    folder = dicom_series(tmp_path / "scan")
    last = max(folder.iterdir())
    last.write_bytes(last.read_bytes()[:400])
    with pytest.raises(FileFormatError, match=last.name):
        read_image(folder)


def test_without_simpleitk_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'napari-prosma\[medical\]'"):
        read_image(Path(pydicom.__file__).parent / "data" / "test_files" / "MR_small_jpeg_ls_lossless.dcm")


CT, MR, PET = (f"1.2.840.10008.5.1.4.1.1.{number}" for number in (2, 4, 128))
ENHANCED_MR, SEGMENTATION = "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.66.4"
FLAT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def object_of(sop: str, number: int, planes: np.ndarray, **more: Any) -> FileDataset:
    """An object with pixels (rows, columns) or (frames, rows, columns) of 16 bits, and further attributes."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop, f"1.2.3.{number + 1}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = sop, f"1.2.3.{number + 1}", "1.2.9"
    data.Modality, data.InstanceNumber, data.SamplesPerPixel = "MR", number, 1
    data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 1
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.Rows, data.Columns = planes.shape[-2:]
    if planes.ndim == 3:
        data.NumberOfFrames = len(planes)
    data.PixelData = planes.astype("<i2").tobytes()
    for name, value in more.items():
        setattr(data, name, value)
    return data


def save(data: FileDataset, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def slices(folder: Path, positions: Any, planes: np.ndarray, each: Any = lambda _: {}, **more: Any) -> Path:
    """A series: a file for each position."""
    for number, (position, plane) in enumerate(zip(positions, planes, strict=True)):
        place = {
            "ImagePositionPatient": [float(v) for v in position],
            "ImageOrientationPatient": list(FLAT),
            "PixelSpacing": [0.75, 0.5],
        }
        save(object_of(MR, number, plane, **{**place, **more, **each(number)}), folder / f"IM{number:03d}.dcm")
    return folder


@pytest.fixture
def volume(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(-500, 500, (6, 5, 4)).astype(np.int16)


def test_slices_that_shift_in_their_own_plane_keep_the_shear(tmp_path: Path, volume: np.ndarray) -> None:
    tilt = np.deg2rad(20)
    plane = (1, 0, 0, 0, float(np.cos(tilt)), -float(np.sin(tilt)))
    positions = [np.array([-40, -30, 10]) + k * np.array([0, 0, 3.0]) for k in range(6)]
    scan = read_image(slices(tmp_path / "scan", positions, volume, ImageOrientationPatient=list(plane)))
    last = scan.spec.affine @ [5, 0, 0, 1]
    assert np.allclose(last[:3][::-1], positions[5] * [-1, -1, 1])
    assert np.allclose(scan.spec.affine[:3, 0], [3, 0, 0])  # along z only: not along the normal of the slices
    assert np.array_equal(scan.data, volume)


@pytest.mark.parametrize(
    ("slopes", "intercepts", "dtype"),
    [
        ((1.0, *[0.003] * 5), (0,) * 6, np.float32),
        ((2.0,) * 6, (-1000,) * 6, np.int32),
        ((1,) * 6, (0, *[-1000.5] * 5), np.float32),
        ((100,) * 6, (0, 0, 0, 0, 0, 7), np.int32),
        ((1,) * 6, (0,) * 6, np.int16),
    ],
)
def test_every_file_has_its_own_slope_and_intercept(
    tmp_path: Path, volume: np.ndarray, slopes: tuple[float, ...], intercepts: tuple[float, ...], dtype: type
) -> None:
    folder = slices(
        tmp_path / "scan",
        [(0, 0, 3 * k) for k in range(6)],
        volume,
        lambda k: {"RescaleSlope": str(slopes[k]), "RescaleIntercept": str(intercepts[k])},
    )
    scan = read_image(folder)
    expected = volume * np.array(slopes)[:, None, None] + np.array(intercepts)[:, None, None]
    assert scan.data.dtype == dtype
    assert np.allclose(scan.data, expected, rtol=1e-6, atol=1e-6)


def test_the_type_of_values_holds_those_of_every_file(tmp_path: Path, volume: np.ndarray) -> None:
    volume = volume.copy()
    volume[1:] = 30_000
    folder = slices(
        tmp_path / "scan",
        [(0, 0, 3 * k) for k in range(6)],
        volume,
        lambda k: {
            "RescaleSlope": "4",
            "RescaleIntercept": "0",
            "BitsStored": 16 if k else 12,
            "HighBit": 15 if k else 11,
        },
    )
    scan = read_image(folder)
    assert (scan.data[1:] == 120_000).all()


def enhanced(path: Path, planes: np.ndarray, places: list[float], each: Any = lambda _: Dataset()) -> Path:
    """A multi-frame object whose frames lie at z = `places`; `each` gives more for a frame's content."""
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.75, 0.5], 9.0
    orientation.ImageOrientationPatient = list(FLAT)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    groups = []
    for index, place in enumerate(places):
        group, position = Dataset(), Dataset()
        position.ImagePositionPatient = [1.0, 2.0, place]
        group.PlanePositionSequence, group.FrameContentSequence = [position], [each(index)]
        groups.append(group)
    data = object_of(ENHANCED_MR, 0, planes, SharedFunctionalGroupsSequence=[shared])
    data.PerFrameFunctionalGroupsSequence = groups
    return save(data, path)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [0, 2, 4, 1, 3, 5]])
def test_frames_of_one_file_are_sorted_by_their_places(tmp_path: Path, volume: np.ndarray, order: list[int]) -> None:
    path = enhanced(tmp_path / "a.dcm", volume[order], [3.0 * k for k in order])
    scan = read_image(path)
    assert (scan.spec.axes, scan.spec.spacing) == ("zyx", (3.0, 0.75, 0.5))
    assert np.array_equal(scan.data, volume)
    assert scan.spec.affine[:3, 3].tolist() == [0.0, -2.0, -1.0]


def content(**values: Any) -> Dataset:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def test_time_points_of_one_file_are_time(tmp_path: Path, volume: np.ndarray) -> None:
    time = [2, 1, 2, 1, 2, 1]
    path = enhanced(tmp_path / "a.dcm", volume, [0.0, 0, 3, 3, 6, 6], lambda k: content(TemporalPositionIndex=time[k]))
    scan = read_image(path)
    assert (scan.spec.axes, scan.spec.shape) == ("tzyx", (2, 3, 5, 4))
    assert np.array_equal(scan.data, np.stack([volume[1::2], volume[::2]]))


def test_one_time_point_is_no_time(tmp_path: Path, volume: np.ndarray) -> None:
    path = enhanced(tmp_path / "a.dcm", volume, [3.0 * k for k in range(6)], lambda _: content(TemporalPositionIndex=1))
    assert read_image(path).spec.axes == "zyx"


def test_stacks_of_one_file_are_named(tmp_path: Path, volume: np.ndarray) -> None:
    path = enhanced(tmp_path / "a.dcm", volume, [0.0, 0, 3, 3, 6, 6], lambda k: content(StackID=f"stack {k % 2}"))
    with pytest.raises(FileFormatError, match=r"2 images of each of 3 slices.* the stack \(stack 0, stack 1"):
        read_image(path)


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("EchoTime", ["4.6", "9.2"], r"differ in the echo time \(4\.6, 9\.2\)"),
        ("DiffusionBValue", [0.0, 1000.0], r"differ in the b-value \(0, 1000\)"),
        ("PatientName", ["a", "a"], "no attribute that tells them apart"),
    ],
)
def test_images_at_the_same_places_are_named(
    tmp_path: Path, volume: np.ndarray, name: str, values: list[Any], reason: str
) -> None:
    folder = slices(
        tmp_path / "scan", [(0, 0, 3 * (k // 2)) for k in range(6)], volume, lambda k: {name: values[k % 2]}
    )
    with pytest.raises(FileFormatError, match=reason):
        read_image(folder)


def test_a_series_over_time_is_time(tmp_path: Path, volume: np.ndarray) -> None:
    folder = slices(
        tmp_path / "scan",
        [(0, 0, 3 * (k % 3)) for k in range(6)],
        volume,
        lambda k: {"TemporalPositionIdentifier": k // 3 + 1},
    )
    scan = read_image(folder)
    assert scan.spec.axes == "tzyx"
    assert np.array_equal(scan.data, volume.reshape(2, 3, 5, 4))


def test_one_slice_that_is_there_twice_is_named(tmp_path: Path, volume: np.ndarray) -> None:
    folder = slices(tmp_path / "scan", [(0, 0, 3 * min(k, 4)) for k in range(6)], volume)
    with pytest.raises(FileFormatError, match=r"several images of some slices, for example IM004\.dcm, IM005\.dcm"):
        read_image(folder)


def test_a_localizer_in_the_series_is_named(tmp_path: Path, volume: np.ndarray) -> None:
    turned = {"ImageOrientationPatient": [0.0, 1, 0, 0, 0, -1]}
    folder = slices(tmp_path / "scan", [(0, 0, 3 * k) for k in range(6)], volume, lambda k: turned if k == 5 else {})
    with pytest.raises(GeometryError, match=r"2 orientations in one series: IM005\.dcm .* \(a localizer\?\)"):
        read_image(folder)


def test_uneven_slices_are_refused_with_their_error(tmp_path: Path, volume: np.ndarray) -> None:
    positions = [(0, 0, z) for z in (0, 3, 6, 9, 11, 13)]
    assert read_image(slices(tmp_path / "a", positions, volume)).spec.spacing[0] == pytest.approx(2.6)
    many = [(0, 0, z) for z in [*range(0, 36, 3), *range(36, 60, 2)]]
    planes = np.repeat(volume, 4, axis=0)
    with pytest.raises(GeometryError, match=r"uneven distances \(2 to 3 mm\)"):
        read_image(slices(tmp_path / "b", many, planes))


def test_a_single_file_is_read_in_its_place(tmp_path: Path, volume: np.ndarray) -> None:
    folder = slices(tmp_path / "scan", [(1, 2, 3)] * 1, volume[:1], SliceThickness=4)
    for name in ("IM000.dcm", "1.2.840.7"):
        path = next(folder.iterdir()).rename(folder / name)
        scan = read_image(path)
        assert (scan.spec.shape, scan.spec.spacing, scan.spec.world) == ((1, 5, 4), (4, 0.75, 0.5), "ras")
    assert result_name(folder / "1.2.840.7", scan.spec) == "1.2.840.7.nii.gz"
    assert result_name(folder / "a.dcm", scan.spec) == "a.nii.gz"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Rows": 400, "Columns": 400}, "320000 bytes of pixels but 40 are there"),
        ({"NumberOfFrames": 1_000_000}, "40000000 bytes of pixels but 40 are there"),
        ({"Rows": 0}, "Rows is 0"),
        ({"BitsAllocated": 12}, "Bits Allocated is 12"),
        ({"NumberOfFrames": -1}, "Number of Frames is '-1'"),
        ({"SamplesPerPixel": 7}, "7 samples"),
        ({"PixelSpacing": [0, 1]}, "pixels of the size 0 x 1"),
        ({"ImageOrientationPatient": [0.0, 0, 0, 0, 0, 0]}, "not two directions"),
        ({"ImageOrientationPatient": [1.0, 0, 0, 1, 0, 0]}, "not two directions"),
    ],
)
def test_a_header_that_cannot_be_true_is_refused(
    tmp_path: Path, volume: np.ndarray, changes: dict[str, Any], reason: str
) -> None:
    place = {"ImagePositionPatient": [0.0, 0, 0], "ImageOrientationPatient": list(FLAT), "PixelSpacing": [1, 1]}
    path = save(object_of(MR, 0, volume[0], **{**place, **changes}), tmp_path / "a.dcm")
    for read in (preflight, read_image):
        with pytest.raises(ProsmaError, match=reason):
            read(path)


def nested(depth: int) -> bytes:
    """An explicit little-endian file of sequences in sequences, all of undefined length, then pixels."""
    undefined = b"\xff\xff\xff\xff"
    start = (b"\x08\x00\x40\x11SQ\0\0" + undefined + b"\xfe\xff\x00\xe0" + undefined) * depth
    end = (b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0") * depth
    return start + end


@pytest.mark.parametrize(("depth", "allowed"), [(60, True), (65, False), (20_000, False)])
def test_nesting_is_bounded(tmp_path: Path, volume: np.ndarray, depth: int, allowed: bool) -> None:
    path = save(object_of(MR, 0, volume[0]), tmp_path / "a.dcm")
    content = path.read_bytes()
    at = content.index(b"\x08\x00\x16\x00UI")
    path.write_bytes(content[:at] + nested(depth) + content[at:])
    if allowed:
        assert np.array_equal(read_image(path).data, volume[0])
    else:
        with pytest.raises(FileFormatError, match="nested more than 64 deep"):
            read_image(path)


def test_deflated_bytes_are_bounded(tmp_path: Path, volume: np.ndarray) -> None:
    path = save(object_of(MR, 0, volume[0]), tmp_path / "a.dcm")
    content = path.read_bytes()
    meta = content.index(b"\x08\x00\x16\x00UI")
    head = content[:meta].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    head = head.replace(b"UI\x14\x001.2.840.10008.1.2.1.99", b"UI\x16\x001.2.840.10008.1.2.1.99")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(head + packer.compress(content[meta:]) + packer.flush())
    assert np.array_equal(read_image(path).data, volume[0])
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(head + packer.compress(bytes(65 << 20)) + packer.flush())
    with pytest.raises(FileFormatError, match="inflate to more than 64 MiB"):
        read_image(path)


def test_a_file_cut_anywhere_is_refused_or_read_alike(tmp_path: Path, volume: np.ndarray) -> None:
    path = enhanced(tmp_path / "a.dcm", volume, [3.0 * k for k in range(6)])
    whole = path.read_bytes()
    for size in [*range(1, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(FileFormatError):
            read_image(path)


def segmentation(path: Path, planes: np.ndarray, places: list[float], numbers: list[int], kind: str = "BINARY") -> Path:
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SpacingBetweenSlices = [0.75, 0.5], 3.0
    orientation.ImageOrientationPatient = list(FLAT)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    groups = []
    for place, number in zip(places, numbers, strict=True):
        group = Dataset()
        group.PlanePositionSequence = [content(ImagePositionPatient=[0.0, 0, place])]
        group.SegmentIdentificationSequence = [content(ReferencedSegmentNumber=number)]
        groups.append(group)
    data = object_of(SEGMENTATION, 0, planes, SharedFunctionalGroupsSequence=[shared], SegmentationType=kind)
    data.PerFrameFunctionalGroupsSequence = groups
    data.SegmentSequence = [
        content(SegmentNumber=1, SegmentLabel="liver"),
        content(SegmentNumber=2, SegmentLabel="tumor"),
    ]
    data.BitsAllocated = data.BitsStored = 1
    data.HighBit = data.PixelRepresentation = 0
    bits = np.packbits(planes.ravel() > 0, bitorder="little").tobytes()
    data.PixelData = bits + bytes(len(bits) % 2)
    return save(data, path)


def test_segments_become_classes_with_empty_slices_between(tmp_path: Path) -> None:
    planes = np.zeros((3, 5, 4), np.uint8)
    planes[0, 0], planes[1, 1], planes[2, 2] = 1, 1, 1
    labels = read_labels(segmentation(tmp_path / "a.dcm", planes, [0.0, 9, 0], [1, 1, 2]))
    expected = np.zeros((4, 5, 4))
    expected[0, 0], expected[3, 1], expected[0, 2] = 1, 1, 2
    assert np.array_equal(labels.data, expected)
    assert labels.spec.spacing == (3, 0.75, 0.5)
    assert labels.spec.header.classes == {1: "liver", 2: "tumor"}


def test_frames_too_far_apart_for_one_label_map_are_refused(tmp_path: Path) -> None:
    planes = np.zeros((2, 512, 512), np.uint8)
    planes[:, 9, 9] = 1
    path = segmentation(tmp_path / "a.dcm", planes, [0.0, 3.0 * 1025], [1, 1])
    with pytest.raises(FileFormatError, match="2 frames of 512 x 512 pixels spread over 1026 slices"):
        read_labels(path)


def test_segments_in_several_files_of_a_series_are_one_label_map(tmp_path: Path) -> None:
    planes = np.zeros((1, 5, 4), np.uint8)
    planes[0, 0] = 1
    (tmp_path / "seg").mkdir()
    segmentation(tmp_path / "seg" / "a.dcm", planes, [0.0], [1])
    segmentation(tmp_path / "seg" / "b.dcm", planes[:, ::-1], [3.0], [2])
    expected = np.zeros((2, 5, 4))
    expected[0, 0], expected[1, 4] = 1, 2
    assert np.array_equal(read_labels(tmp_path / "seg").data, expected)


def test_segments_that_overlap_or_are_fractions_are_refused(tmp_path: Path) -> None:
    planes = np.ones((2, 5, 4), np.uint8)
    with pytest.raises(LabelError, match=r"'liver' and 'tumor' .* overlap"):
        read_labels(segmentation(tmp_path / "a.dcm", planes, [0.0, 0], [1, 2]))
    with pytest.raises(FileFormatError, match="fractional segmentation"):
        read_labels(segmentation(tmp_path / "b.dcm", planes, [0.0, 3], [1, 1], "FRACTIONAL"))


def test_a_mosaic_is_refused(tmp_path: Path, volume: np.ndarray) -> None:
    path = save(object_of(MR, 0, volume[0], ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), tmp_path / "a.dcm")
    with pytest.raises(FileFormatError, match="mosaic of Siemens"):
        read_image(path)


def test_objects_without_an_image_are_left_out_of_a_folder(
    tmp_path: Path, volume: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    folder = slices(tmp_path / "scan", [(0, 0, 3 * k) for k in range(6)], volume)
    report = object_of("1.2.840.10008.5.1.4.1.1.88.11", 9, volume[0], SeriesInstanceUID="1.2.10")
    del report.PixelData
    save(report, folder / "report.dcm")
    assert np.array_equal(read_image(folder).data, volume)
    assert "report.dcm (a structured report)" in caplog.text


def test_the_first_window_of_the_images_is_kept_of_a_series_the_median(tmp_path: Path, volume: np.ndarray) -> None:
    path = enhanced(tmp_path / "a.dcm", volume, [3.0 * k for k in range(6)])
    assert read_image(path).spec.header.window == ()
    data = pydicom.dcmread(path)
    data.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence = [content(WindowCenter=[40, 300], WindowWidth=[400, 9])]
    save(data, path)
    assert read_image(path).spec.header.window == (-160.0, 240.0)
    for number, (center, width) in enumerate(((["50", "7"], ["100", "1"]), ("70", "100"), ("90", "0"))):
        own = {"ImagePositionPatient": [0, 0, 3 * number], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        own |= {"PixelSpacing": [1, 1], "WindowCenter": center, "WindowWidth": width, "Modality": "CT"}
        save(object_of(CT, number, volume[number], **own), tmp_path / "series" / f"{number}.dcm")
    header = read_image(tmp_path / "series").spec.header
    assert (header.window, header.modality) == ((10.0, 110.0), "CT")  # a width of 0 is none
