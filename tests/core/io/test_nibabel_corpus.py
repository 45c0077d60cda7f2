"""Files that nibabel ships for its own tests: each equal to nibabel's reading, or refused for its reason."""

from __future__ import annotations

import gzip
import shutil
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

from prosma_core.errors import FileFormatError, ProsmaError
from prosma_core.io.images import preflight, read_image, read_labels, result_name, write_labels

ROOT = Path(nib.__file__).parent / "tests" / "data"
OTHER = {".py", ".pyc", ".m", ".rst", ".txt"}
FILES = {path.name: path for path in sorted(ROOT.iterdir()) if path.suffix not in OTHER and path.is_file()}
WITH_VOXELS = {path.stem for path in FILES.values() if path.suffix == ".REC"} - {"phantom_truncated"}
REFUSED = {  # the first that fits a name
    ".gitignore": "is not an image that can be read",
    ".trk": "It holds streamlines",
    ".tck": "It holds streamlines",
    ".v": "Convert it to NIfTI",
    ".BRIK": "Give the header of the pair",
    ".REC": "Give the header of the pair",
    "phantom_truncated.PAR": "Found 3 dynamic scan values, but expected 4",
    "bad_attribute": r"\.BRIK, which is not beside it",
    "bad_datatype": r"\.BRIK, which is not beside it",
    "analyze.hdr": r"in a file analyze\.img, which is not beside it",
    "nifti1.hdr": r"in a file nifti1\.img, which is not beside it",
    "nifti2.hdr": r"in a file nifti2\.img, which is not beside it",
    "row_major.dconn.nii": "CIFTI",
    ".dcm": "is a mosaic of Siemens",
}


def reason_for(name: str) -> str | None:
    if name.endswith(".PAR") and name[:-4] not in WITH_VOXELS | {"phantom_truncated"}:
        return r"\.REC, which is not beside it"
    return next((text for part, text in REFUSED.items() if part in name), None)


def quietly(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nib.load(path)


def check_equal(path: Path, letters: str | None = None) -> None:
    """Our reading against nibabel's voxels, and its affine for the corner voxels of the grid."""
    scan, image = read_image(path), quietly(path)
    values = image.get_fdata()
    if path.suffix == ".PAR":
        image.dataobj.file_like.close()  # nibabel leaves it open
    if letters is None:
        letters = "xyzt"[: values.ndim]
    while values.ndim > 3 and values.shape[-1] == 1:
        values, letters = values[..., 0], letters[:-1]
    order = [letters.index(letter) for letter in scan.spec.axes]
    assert np.allclose(scan.data, values.transpose(order), rtol=1e-6, equal_nan=True)
    spatial = [letter for letter in letters if letter in "xyz"]
    for corner in np.ndindex(2, 2, 2):
        index = [(scan.spec.size(letter) - 1) * at for letter, at in zip("zyx", corner, strict=True)]
        theirs = image.affine @ [*(index["zyx".index(letter)] for letter in spatial), 1]
        assert np.allclose((scan.spec.affine @ [*index, 1])[:3][::-1], theirs[:3], atol=1e-4)
    assert (scan.spec.world, scan.spec.unit) == ("ras", "mm")


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_what_nibabel_reads_or_is_refused_for_its_reason(name: str) -> None:
    path = FILES[name]
    reason = reason_for(name)
    if reason is not None:
        with pytest.raises(ProsmaError, match=reason) as error:
            read_image(path)
        assert len(str(error.value).replace(str(path), path.name)) <= 400
        return
    preflight(path)
    letters = None
    if path.suffix == ".mnc":
        names = [str(name) for name in quietly(path).dataobj.minc_file._dim_names]
        letters = "".join({"time": "t"}.get(name, name[0]) for name in names)
    check_equal(path, letters)


@pytest.mark.parametrize("name", ["decimal_rescale.dcm", "slicethickness_empty_string.dcm"])
def test_nibabels_dicom_files_are_what_pydicom_reads(name: str) -> None:
    path = ROOT.parents[1] / "nicom" / "tests" / "data" / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(path)
        expected = data.pixel_array * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))
    assert np.allclose(np.squeeze(read_image(path).data), expected, rtol=1e-6)


@pytest.mark.parametrize(("name", "reason"), [("bad_attribute", "improper type casting"), ("bad_datatype", "multiple")])
def test_damaged_afni_headers_are_refused_for_their_reason(tmp_path: Path, name: str, reason: str) -> None:
    shutil.copy(ROOT / f"{name}+orig.HEAD", tmp_path)
    shutil.copy(ROOT / "example4d+orig.BRIK.gz", tmp_path / f"{name}+orig.BRIK.gz")
    with pytest.raises(FileFormatError, match=reason):
        read_image(tmp_path / f"{name}+orig.HEAD")


AFFINE = np.array([[0, -2.0, 0.1, 5], [1.5, 0, 0, 6], [0, 0.2, 3, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("cls", "name", "dtype"),
    [
        (nib.MGHImage, "a.mgz", np.int32),
        (nib.MGHImage, "a.mgh", np.uint8),
        (nib.Nifti1Pair, "a.hdr", np.int16),
        (nib.Spm99AnalyzeImage, "a.hdr", np.int16),
        (nib.Spm2AnalyzeImage, "a.hdr", np.float32),
        (nib.AnalyzeImage, "a.hdr", np.uint8),
    ],
)
def test_what_nibabel_writes_is_read_in_its_place(
    tmp_path: Path, rng: np.random.Generator, cls: Any, name: str, dtype: type
) -> None:
    affine = AFFINE if cls is not nib.AnalyzeImage else np.diag([-2.0, 3, 4, 1])
    data = rng.integers(0, 99, (3, 4, 5)).astype(dtype)
    image = cls(data, affine)
    image.to_filename(tmp_path / name)
    preflight(tmp_path / name)
    check_equal(tmp_path / name)
    scan = read_image(tmp_path / name)
    assert np.array_equal(scan.data, data.T)
    assert scan.data.dtype == dtype
    result = tmp_path / result_name(tmp_path / name, scan.spec)
    assert result.name == "a.nii.gz"
    write_labels(result, scan.data.astype(int), scan.spec)
    assert np.allclose(nib.load(result).affine, quietly(tmp_path / name).affine, atol=1e-5)
    assert np.array_equal(read_labels(result).data, data.T)


@pytest.mark.parametrize("cut", [4, 200, 600, -1])
@pytest.mark.parametrize("name", ["test.mgz", "tiny.mnc", "small.mnc", "example4d+orig.HEAD", "phantom_varscale.PAR"])
def test_a_file_that_is_cut_is_refused(tmp_path: Path, name: str, cut: int) -> None:
    beside = {".HEAD": ".BRIK.gz", ".PAR": ".REC"}.get(Path(name).suffix)
    shutil.copy(ROOT / name, tmp_path / name)
    target = tmp_path / name
    if beside is not None:
        target = Path(shutil.copy(ROOT / (Path(name).stem + beside), tmp_path))
    content = target.read_bytes()
    target.write_bytes(content[:cut])
    with pytest.raises(FileFormatError):
        read_image(tmp_path / name)


def test_a_header_that_declares_more_than_is_there_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    nib.MGHImage(np.zeros((2, 2, 2), np.uint8), np.eye(4)).to_filename(tmp_path / "a.mgz")
    content = bytearray(gzip.decompress((tmp_path / "a.mgz").read_bytes()))
    content[4:16] = (20_000).to_bytes(4, "big") * 3
    (tmp_path / "a.mgz").write_bytes(gzip.compress(content))
    (tmp_path / "b.mgh").write_bytes(content)
    for name in ("a.mgz", "b.mgh"):
        with pytest.raises(FileFormatError, match="its header declares 8000000000000 bytes of voxels"):
            read_image(tmp_path / name)


def test_an_analyze_pair_without_orientation_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nib.AnalyzeImage(np.zeros((2, 3, 4), np.uint8), np.diag([-1.0, 1, 1, 1])).to_filename(tmp_path / "a.hdr")
    read_image(tmp_path / "a.hdr")
    assert "gives no orientation: its first axis is taken to run to the left" in caplog.text
