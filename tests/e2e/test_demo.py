"""The demo as `run.py` starts it: a real window, the real engine, a picture and the Dice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


@pytest.mark.slow
def test_the_demo_segments_its_scan_and_writes_a_picture(display: None, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "napari_prosma.demo",
        "--screenshot",
        str(tmp_path / "demo.png"),
        "--device",
        "cpu",
    ]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=280)
    assert answer.returncode == 0, answer.stderr
    assert float(answer.stdout.split("Mean Dice: ")[1].split()[0]) > 0.85
    with Image.open(tmp_path / "demo.png") as picture:
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 100


@pytest.mark.slow
def test_a_demo_that_fails_says_so(display: None, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "napari_prosma.demo",
        "--screenshot",
        str(tmp_path / "demo.png"),
        "--device",
        "abacus",
    ]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=280)
    assert answer.returncode == 1
    assert "abacus" in answer.stdout
    assert not (tmp_path / "demo.png").exists()
