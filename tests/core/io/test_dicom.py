"""DICOM: series and single files, where their headers say, with the values their headers say."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from prosma_core.errors import FileFormatError, GeometryError, MissingExtraError
from prosma_core.io.images import preflight, read_image, result_name, write_labels

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


def test_without_simpleitk_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = dicom_series(tmp_path / "scan")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'napari-prosma\[medical\]'"):
        read_image(folder)
