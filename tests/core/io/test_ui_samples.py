"""Real scans of odd geometry, format and channels: each is read, and labels for it come back on its own grid."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from prosma_core.io.images import is_image_path, preflight, read_image, read_labels, result_name, write_labels

NIFTI = (".nii", ".nii.gz")


def scans(data_root: Path) -> list[Path]:
    found = [path for path in sorted((data_root / "ui_samples").rglob("*")) if is_image_path(path)]
    assert len(found) > 25
    return [path for path in found if path.suffix != ".dcm"]


@pytest.mark.slow
def test_labels_come_back_on_the_grid_of_every_scan(data_root: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    for number, path in enumerate(scans(data_root)):
        if path.is_dir():
            pytest.importorskip("SimpleITK", reason="the extra 'medical' is not installed")
        preflight(path)
        spec = read_image(path).spec
        labels = rng.integers(0, 300, spec.labels_spec().shape)
        result = tmp_path / f"{number}-{result_name(path, spec)}"
        write_labels(result, labels, spec)
        again = read_labels(result)
        assert np.array_equal(again.data, labels), path
        assert again.spec.axes == spec.labels_spec().axes, path
        assert np.allclose(again.spec.affine, spec.affine), path
        if path.name.endswith(NIFTI):
            before, after = nib.load(path), nib.load(result)
            assert np.array_equal(after.affine, before.affine), path
            for get in ("get_qform", "get_sform"):
                assert np.array_equal(getattr(after.header, get)(), getattr(before.header, get)()), path
            for field in ("qform_code", "sform_code", "xyzt_units"):
                assert after.header[field] == before.header[field], path
            assert after.shape == before.shape, path


def test_labels_of_the_samples_are_class_numbers(data_root: Path) -> None:
    for path in scans(data_root):
        if path.name.startswith("label"):
            assert read_labels(path).data.dtype.kind == "u", path
