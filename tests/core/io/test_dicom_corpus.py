"""DICOM files nobody here wrote: each of pydicom's own is equal to pydicom's reading or refused for its reason."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from prosma_core.errors import ProsmaError
from prosma_core.io.images import preflight, read_image, read_labels

ROOT = Path(pydicom.__file__).parent / "data" / "test_files"
FILES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*")) if path.is_file()}
REFUSED = {  # the first that fits a name
    "DICOMDIR": "index of files",
    "TINY_ALPHA/PT": "modality CT without pixel data",
    "README": "is not an image that can be read",
    ".txt": "is not an image that can be read",
    ".icc": "is not an image that can be read",
    ".json": "is not an image that can be read",
    ".dump": "is not an image that can be read",
    ".gz": "is not an image that can be read",
    "rtplan": "is an RT plan",
    "rtstruct": "is an RT structure set",
    "LitEndNoMeta": "is an RT ion plan",
    "BigEndNoMeta": "ends inside the attribute",
    "no_meta_group_length": "record of radiotherapy",
    "no_meta.dcm": "does not start as a DICOM file",
    "reportsi": "is a structured report",
    "test-SR": "is a structured report",
    "waveform": "is a waveform",
    "UN_sequence": "no pixel data",
    "empty_charset": "no pixel data",
    "priv_SQ": "no pixel data",
    "meta_missing_tsyntax": "no pixel data",
    "MR_truncated": "8192 bytes of pixels but 8130 are there",
    "badVR": "Number of Frames is '1A'",
    "GDCMJ2K_TextGBR": "the packed stream holds no image",
    "embedded-sequence-delimiter": "the packed stream holds",
}
BY_SIMPLEITK = {  # pydicom has no reader for these without further packages
    "JPEG-lossy.dcm", "JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm", "JPGExtended.dcm",
    "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jls_lossy_line.dcm", "SC_rgb_jls_lossy_sample.dcm", "SC_rgb_jpeg_gdcm.dcm",
}  # fmt: skip


def theirs(name: str, path: Path) -> tuple[Any, np.ndarray]:
    """pydicom's data set, and its values with slope and intercept or the dose's factor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(path, force=True)
        if name in BY_SIMPLEITK:
            sitk = pytest.importorskip("SimpleITK", reason="the extra 'medical' is not installed")
            values = np.squeeze(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
        elif data.PhotometricInterpretation == "PALETTE COLOR":
            values = pydicom.pixels.apply_color_lut(data.pixel_array, data)
        else:
            values = data.pixel_array
    slope = float(data.get("DoseGridScaling", data.get("RescaleSlope", None) or 1))
    return data, values * slope + float(data.get("RescaleIntercept", None) or 0)


def lps_affine(data: Any) -> np.ndarray:
    """Where the columns and rows of the first frame lie, as the standard says (PS3.3 C.7.6.2.1.1)."""
    affine = np.eye(4)[:, [0, 1, 3]]
    affine[:3, 0] = np.array(data.ImageOrientationPatient[:3]) * data.PixelSpacing[1]
    affine[:3, 1] = np.array(data.ImageOrientationPatient[3:]) * data.PixelSpacing[0]
    affine[:3, 2] = data.ImagePositionPatient
    return affine


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_what_pydicom_reads_or_is_refused_for_its_reason(name: str) -> None:
    path = FILES[name]
    reason = next((text for part, text in REFUSED.items() if part in name), None)
    if reason is not None:
        with pytest.raises(ProsmaError, match=reason) as error:
            read_image(path)
        assert len(str(error.value).replace(str(path), path.name)) <= 400
        return
    preflight(path)
    scan = read_image(path)
    data, values = theirs(name, path)
    colors_last = np.moveaxis(scan.data, scan.spec.axes.index("c"), -1) if "c" in scan.spec.axes else scan.data
    assert np.allclose(np.squeeze(colors_last), values, rtol=1e-6, atol=0)
    if "ImagePositionPatient" in data:
        ours = np.diag([-1, -1, 1, 1]) @ scan.spec.affine[[2, 1, 0, 3]][:, [2, 1, 3]]
        assert np.allclose(ours, lps_affine(data))
        assert (scan.spec.world, scan.spec.unit) == ("ras", "mm")
    elif "liver" in name:  # its position is in the groups of its frames
        assert (scan.spec.world, scan.spec.unit) == ("ras", "mm")
    else:
        assert scan.spec.world == "image"
        regions = data.get("SequenceOfUltrasoundRegions", [])
        sized = {"PixelSpacing", "ImagerPixelSpacing"} & set(data.dir()) or len(regions) == 1
        assert scan.spec.unit == ("mm" if sized and "z" not in scan.spec.axes else "pixel")


def test_a_segmentation_is_a_label_map_with_names() -> None:
    labels = read_labels(FILES["liver_1frame.dcm"])
    assert labels.spec.header.classes == {1: "Liver"}
    assert np.array_equal(labels.data[0], pydicom.dcmread(FILES["liver_1frame.dcm"]).pixel_array)


def test_white_that_is_low_is_kept_and_said(caplog: pytest.LogCaptureFixture) -> None:
    read_image(FILES["dicomdirtests/77654033/CR1/6154"])
    assert "MONOCHROME1" in caplog.text


def test_a_folder_is_a_series_with_the_slices_in_their_places() -> None:
    folder = ROOT / "dicomdirtests" / "98892001" / "CT5N"
    scan = read_image(folder)
    files = [pydicom.dcmread(path) for path in folder.iterdir()]
    assert (scan.spec.axes, scan.spec.shape) == ("zyx", (5, 16, 16))
    for file in files:
        place = np.linalg.solve(scan.spec.affine, [*(np.array(file.ImagePositionPatient) * [-1, -1, 1])[::-1], 1])
        index = int(np.rint(place[0]))
        assert np.allclose(place, [index, 0, 0, 1], atol=0.01)
        assert np.array_equal(scan.data[index], file.pixel_array * file.RescaleSlope + file.RescaleIntercept)


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("77654033/CT2", r"slices 1 and 2 are 202 mm apart, the others 1\.25 mm"),
        ("98892003/MR700", "each of its 7 images has another orientation"),
        ("98892003/MR2", "3 DICOM series"),
        ("77654033", "is not an image that can be read"),
    ],
)
def test_a_folder_that_is_no_stack_is_refused_for_its_reason(folder: str, reason: str) -> None:
    with pytest.raises(ProsmaError, match=reason):
        read_image(ROOT / "dicomdirtests" / folder)
