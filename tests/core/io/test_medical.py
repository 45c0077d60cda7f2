"""NRRD, MHA and DICOM: the same place in the world as in the NIfTI that SimpleITK writes."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from prosma_core.data.geometry import array_spec
from prosma_core.errors import FileFormatError, GeometryError, MissingExtraError, OutputError
from prosma_core.io.images import preflight, read_image, read_labels, result_name, write_image, write_labels

sitk = pytest.importorskip("SimpleITK", reason="the extra 'medical' is not installed")

FORMATS = [".nrrd", ".mha"]


def oblique(rng: np.random.Generator) -> sitk.Image:
    image = sitk.GetImageFromArray(rng.integers(0, 200, (4, 5, 6)).astype(np.int16))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    image.SetDirection(turn.ravel())
    image.SetSpacing((0.7, 0.8, 3.1))
    image.SetOrigin((-12.5, 30.25, 7.125))
    return image


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


def test_without_simpleitk_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\n")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'napari-prosma\[medical\]'"):
        read_image(tmp_path / "a.nrrd")
