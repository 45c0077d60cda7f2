"""The demo: a scan, its segmentation, the Dice and a picture."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from prosma_core.cli.demo import demo
from prosma_core.config.model import ClassInfo
from prosma_core.inference.picture import contact_sheet, overlay

CLASSES = (ClassInfo(value=0, name="background"), ClassInfo(value=1, name="organ", color="#ff0000"))


def test_the_demo_segments_its_phantom_and_writes_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo(tmp_path / "demo", "cpu")
    said = capsys.readouterr().out
    dice = float(said.split("Mean Dice: ")[1].split()[0])
    assert dice > 0.85
    scan, result = (nibabel.load(tmp_path / "demo" / f"{n}.nii.gz") for n in ("phantom", "phantom_segmented"))
    assert np.array_equal(scan.affine, result.affine)
    assert scan.shape == result.shape
    with Image.open(tmp_path / "demo" / "demo.png") as picture:
        assert min(picture.size) > 300


def test_an_overlay_tints_the_class_and_leaves_the_rest_grey() -> None:
    image = np.linspace(0, 100, 64).reshape(8, 8)
    labels = np.zeros((8, 8), np.uint8)
    labels[2:4, 2:4] = 1
    picture = overlay(image, labels, CLASSES)
    assert picture.shape == (8, 8, 3)
    assert np.array_equal(picture[0, :, 0], picture[0, :, 1])
    assert (picture[2:4, 2:4, 0] > picture[2:4, 2:4, 1]).all()


def test_a_contact_sheet_places_every_picture() -> None:
    pictures = [[np.full((4, 6, 3), 10 * (3 * i + j), np.uint8) for j in range(3)] for i in range(2)]
    sheet = contact_sheet(pictures, height=8, gap=2)
    assert sheet.shape == (2 * 8 + 2, 3 * 12 + 2 * 2, 3)
    assert set(np.unique(sheet)) == {0, 10, 20, 30, 40, 50, 255}
