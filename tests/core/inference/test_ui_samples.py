"""Real scans of many kinds pass through segmentation and come back on their own grid."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from prosma_core.config import InferenceConfig
from prosma_core.events import CaseFailed
from prosma_core.inference.files import segment_files
from prosma_core.inference.segment import Segmenter
from prosma_core.io.images import read_image

MakeModel = Callable[..., Path]

VOLUMES = (
    "anat_bigendian/image.nii",
    "ct_head_oblique16/image.nii.gz",
    "ct_multiorgan_pseudo/image.nii.gz",
    "epi4d_oblique/image4d.nii.gz",
    "mr_abdomen_LPS/image.nii.gz",
    "rgb_dtype/rgb.nii.gz",
    "spine_t2_PSR/image.nii.gz",
    "spine_t2s_aniso_oblique/image.nii.gz",
    "spleen2_crop/image.nii.gz",
    "spleen_label_only/spleen_10.nii.gz",
)
STACKS = {
    "spine_mt_3channel": ("mt0", "mt1", "t1w"),
    "spine_3contrast_oblique9": ("T1w", "T2w", "T2star"),
}
COARSE: dict[str, Any] = {"resample": "spacing", "spacing": (6.0, 4.0, 4.0), "unit": "mm", "orientation": "RAS"}


@pytest.fixture
def samples(data_root: Path) -> Path:
    return data_root / "ui_samples"


@pytest.fixture
def segment(tmp_path: Path, make_model: MakeModel) -> Callable[..., Path]:
    """Segment one input with a network of these dimensions and channels; give the only result."""

    def run(inputs: list[Path], dims: int, channels: tuple[str, ...], **preprocess: Any) -> Path:
        settings = {"tile": (16, 32, 32)[-dims:], **preprocess}
        path = make_model(tmp_path / "m.safetensors", dims, channels, **settings)
        by = Segmenter.load(path, torch.device("cpu"))
        failed = [
            e for e in segment_files(inputs, tmp_path / "out", by, InferenceConfig()) if isinstance(e, CaseFailed)
        ]
        assert not failed
        (result,) = (tmp_path / "out").iterdir()
        return result

    return run


def same_grid(source: Path, result: Path, *, color: bool = False) -> None:
    """Compare headers with nibabel alone."""
    a, b = nib.load(source), nib.load(result)
    assert type(b) is type(a)
    assert b.shape == a.shape
    assert np.isfinite(a.affine).all()
    np.testing.assert_array_equal(b.affine, a.affine)
    for matrix, code in ((b.get_qform(coded=True), a.get_qform(coded=True)), (b.get_sform(True), a.get_sform(True))):
        assert matrix[1] == code[1]
        np.testing.assert_array_equal(matrix[0], code[0])
    assert b.header.get_xyzt_units() == a.header.get_xyzt_units()
    assert b.header.get_zooms() == a.header.get_zooms()
    assert set(np.unique(np.asanyarray(b.dataobj))) <= {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("name", VOLUMES)
def test_a_volume_comes_back_on_its_own_grid(name: str, samples: Path, segment: Callable[..., Path]) -> None:
    result = segment([samples / name], 3, ("image",), **COARSE)
    assert result.name == Path(name).name
    same_grid(samples / name, result)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["anat_bigendian/image.nii", "spine_t2s_aniso_oblique/image.nii.gz"])
def test_a_volume_taken_slice_by_slice_comes_back(name: str, samples: Path, segment: Callable[..., Path]) -> None:
    same_grid(samples / name, segment([samples / name], 2, ("image",), tile=(160, 160), resample="none"))


def test_no_sample_is_left_out(samples: Path) -> None:
    tested = {Path(name).parts[0] for name in VOLUMES} | set(STACKS)
    tested |= {"nuclei2d_instances", "nuclei3d_instances", "dicom_hippocrop"}
    assert {folder.name for folder in samples.iterdir() if folder.is_dir()} == tested


@pytest.mark.parametrize("name", list(STACKS))
def test_channel_files_give_one_result_on_their_grid(
    name: str, samples: Path, segment: Callable[..., Path], tmp_path: Path
) -> None:
    channels = STACKS[name]
    (tmp_path / "in").mkdir()
    for number, channel in enumerate(channels):
        shutil.copy(samples / name / f"{channel}.nii.gz", tmp_path / "in" / f"spine_{number:04d}.nii.gz")
    result = segment([tmp_path / "in"], 3, channels, **COARSE)
    assert result.name == "spine.nii.gz"
    same_grid(samples / name / f"{channels[0]}.nii.gz", result)


def test_color_voxels_pass_through_a_color_model(samples: Path, segment: Callable[..., Path]) -> None:
    source = samples / "rgb_dtype/rgb.nii.gz"
    same_grid(source, segment([source], 3, ("red", "green", "blue"), **COARSE))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dims"), [("nuclei2d_instances", 2), ("nuclei3d_instances", 3)])
def test_a_tiff_comes_back_on_its_own_grid(name: str, dims: int, samples: Path, segment: Callable[..., Path]) -> None:
    import tifffile

    source = samples / name / "image.tif"
    result = segment([source], dims, ("image",), tile=(16, 64, 64)[-dims:])
    assert result.name == "image.tif"
    assert tifffile.imread(result).shape == tifffile.imread(source).shape
    before, after = read_image(source).spec, read_image(result).spec
    assert (after.axes, after.spacing, after.unit) == (before.axes, before.spacing, before.unit)


def test_a_dicom_series_becomes_a_nifti_on_its_grid(samples: Path, segment: Callable[..., Path]) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="DICOM needs the extra 'medical'")
    source = samples / "dicom_hippocrop"
    result = segment([source], 3, ("image",), **COARSE)
    assert result.name == "dicom_hippocrop.nii.gz"
    series = sitk.ImageSeriesReader()
    series.SetFileNames(series.GetGDCMSeriesFileNames(str(source)))
    scan, labels = series.Execute(), sitk.ReadImage(str(result))
    assert labels.GetSize() == scan.GetSize()
    for ours, theirs in (
        (labels.GetOrigin(), scan.GetOrigin()),
        (labels.GetSpacing(), scan.GetSpacing()),
        (labels.GetDirection(), scan.GetDirection()),
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
