"""Real scans from the click on Segment to the saved file, in a real window with the real engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from napari.layers.utils.stack_utils import images_to_stack

from prosma_core.io.images import read_image

pytestmark = pytest.mark.slow

NIFTI = {
    "msd_hippocampus/images/hippocampus_003.nii.gz": "hippocampus-mri",
    "msd_hippocampus/images/hippocampus_004.nii.gz": "hippocampus-mri",
    "acdc/images/patient001_frame01.nii.gz": "coarse-3d",
    "ui_samples/anat_bigendian/image.nii": "phantom-3d",
    "ui_samples/ct_head_oblique16/image.nii.gz": "coarse-3d",
    "ui_samples/ct_multiorgan_pseudo/image.nii.gz": "coarse-3d",
    "ui_samples/epi4d_oblique/image4d.nii.gz": "coarse-3d",
    "ui_samples/mr_abdomen_LPS/image.nii.gz": "coarse-3d",
    "ui_samples/rgb_dtype/rgb.nii.gz": "color-3d",
    "ui_samples/spine_3contrast_oblique9/T2w.nii.gz": "coarse-3d",
    "ui_samples/spine_mt_3channel/t1w.nii.gz": "coarse-3d",
    "ui_samples/spine_t2_PSR/image.nii.gz": "coarse-3d",
    "ui_samples/spine_t2s_aniso_oblique/image.nii.gz": "coarse-3d",
    "ui_samples/spleen2_crop/image.nii.gz": "coarse-3d",
}
"""Scans and the model that segments each."""
PICTURES = {
    "busi/images/benign_122.png": "breast-lesion-us",
    "busi/images/malignant_76.png": "breast-lesion-us",
    "kvasir_seg/images/{first}": "breast-lesion-us",
    "ui_samples/nuclei2d_instances/image.tif": "large-2d",
    "ui_samples/nuclei3d_instances/image.tif": "plain-3d",
}


SPINES = {
    "ui_samples/spine_mt_3channel": ("mt0", "mt1", "t1w"),
    "ui_samples/spine_3contrast_oblique9": ("T1w", "T2w", "T2star"),
}
"""Folders of scans whose files are the channels of one model."""
IN_A_WINDOW = {
    "msd_hippocampus/images/hippocampus_003.nii.gz",
    "ui_samples/epi4d_oblique/image4d.nii.gz",
    "ui_samples/rgb_dtype/rgb.nii.gz",
    "ui_samples/spine_t2s_aniso_oblique/image.nii.gz",
    "kvasir_seg/images/{first}",
    "ui_samples/nuclei3d_instances/image.tif",
    "ui_samples/spine_mt_3channel",
}
"""One of each kind is drawn as well; a window takes longer than all the rest of such a test."""


@pytest.fixture
def place(name: str, request: pytest.FixtureRequest) -> Any:
    """Return the widget in a window, or beside a viewer that draws nothing."""
    return request.getfixturevalue("desk" if name in IN_A_WINDOW else "bare_desk")


def test_no_sample_is_left_out(data_root: Path) -> None:
    tested = {name.split("/")[1] for name in (*NIFTI, *PICTURES, *SPINES) if name.startswith("ui_samples/")}
    tested |= {"spleen_label_only", "dicom_hippocrop"}
    assert {folder.name for folder in (data_root / "ui_samples").iterdir() if folder.is_dir()} == tested


@pytest.mark.parametrize("name", NIFTI)
def test_a_nifti_scan_from_the_click_to_the_saved_file(
    name: str,
    place: Any,
    copy_of: Callable[[str], Path],
    lies_on: Callable[..., None],
    same_nifti: Callable[..., None],
    tmp_path: Path,
) -> None:
    path = copy_of(name)
    scan = place.open(path)
    place.choose(NIFTI[name])
    result = place.segment()
    lies_on(result, scan, place.controller.axes)
    if name in IN_A_WINDOW:
        place.picture(tmp_path / "window.png")
    output = place.command_line()
    by_command = output.rename(output.with_name(f"command_{output.name}"))
    saved = place.save()
    same_nifti(path, saved)
    labels = np.asanyarray(nibabel.load(saved).dataobj)
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(labels, np.asanyarray(nibabel.load(by_command).dataobj))
    np.testing.assert_array_equal(place.open(by_command).data, result.data)


def test_a_label_map_of_full_size_is_read_like_a_scan(
    bare_desk: Any, copy_of: Callable[[str], Path], lies_on: Callable[..., None], same_nifti: Callable[..., None]
) -> None:
    path = copy_of("ui_samples/spleen_label_only/spleen_10.nii.gz")
    scan = bare_desk.open(path)
    bare_desk.choose("coarse-3d")
    bare_desk.pick("part", "Current slice")
    result = bare_desk.segment()
    lies_on(result, scan, bare_desk.controller.axes)
    assert len(np.unique(result.data)) > 1
    same_nifti(path, bare_desk.save())


def test_a_dicom_series_becomes_a_nifti_in_its_place(
    desk: Any, copy_of: Callable[[str], Path], lies_on: Callable[..., None], tmp_path: Path
) -> None:
    pytest.importorskip("SimpleITK", reason="DICOM needs the extra 'medical'")
    path = copy_of("ui_samples/dicom_hippocrop")
    scan = desk.open(path)
    desk.choose("coarse-3d")
    result = desk.segment()
    lies_on(result, scan, desk.controller.axes)
    desk.picture(tmp_path / "window.png")
    output = desk.command_line()
    by_command = output.rename(output.with_name(f"command_{output.name}"))
    a, b = nibabel.load(by_command), nibabel.load(desk.save())
    np.testing.assert_array_equal(a.affine, b.affine)
    np.testing.assert_array_equal(np.asanyarray(a.dataobj), np.asanyarray(b.dataobj))
    np.testing.assert_array_equal(desk.open(by_command).data, result.data)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_from_the_click_to_the_saved_file(
    name: str, place: Any, copy_of: Callable[[str], Path], lies_on: Callable[..., None], data_root: Path, tmp_path: Path
) -> None:
    first = min(p.name for p in (data_root / "kvasir_seg/images").iterdir())
    path = copy_of(name.format(first=first))
    scan = place.open(path)
    place.choose(PICTURES[name])
    result = place.segment()
    lies_on(result, scan, place.controller.axes)
    if name in IN_A_WINDOW:
        place.picture(tmp_path / "window.png")
    output = place.command_line()
    by_command = output.rename(output.with_name(f"command_{output.name}"))
    saved = read_image(place.save()).data
    np.testing.assert_array_equal(saved, result.data)
    np.testing.assert_array_equal(saved, read_image(by_command).data)


@pytest.mark.parametrize("name", SPINES)
def test_channels_that_no_shipped_model_takes_say_why_and_an_own_model_takes_them(
    name: str, place: Any, data_root: Path, lies_on: Callable[..., None], tmp_path: Path
) -> None:
    files = [place.open(data_root / name / f"{channel}.nii.gz") for channel in SPINES[name]]
    stack = place.viewer.add_layer(images_to_stack(files, axis=0))
    for layer in files:
        place.viewer.layers.remove(layer)
    place.pick("axes", "czyx")
    for model in ("phantom-3d", "hippocampus-mri", "breast-lesion-us"):
        place.choose(model)
        assert not place.button("run").isEnabled()
        said = place.text("problem_model")
        assert "3 channels" in said
        assert place.button("run").toolTip() == said
    place.choose("spine-3d")
    result = place.segment()
    lies_on(result, stack, "czyx")
    assert place.command().startswith("prosma segment SCAN ")  # no file holds the three together
    assert len(np.unique(result.data)) > 1
    if name in IN_A_WINDOW:
        place.picture(tmp_path / "window.png")
