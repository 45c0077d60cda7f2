"""The demo as `run.py` starts it: a real window, the real engine, a picture and the Dice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

BOTH = """
import os, sys
from napari_prosma.demo import main

picture = ["--screenshot", sys.argv[1], "--device"]
assert main([*picture, "abacus"]) == 1
assert not os.path.exists(sys.argv[1])
print("---", flush=True)
sys.exit(main([*picture, "cpu"]))
"""
"""The demo twice in one process, which loads napari once: on a device that is none, and on one that is there."""


@pytest.mark.slow
def test_the_demo_says_what_fails_and_else_segments_its_scan_and_writes_a_picture(
    display: None, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", BOTH, str(tmp_path / "demo.png")]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=280)
    assert answer.returncode == 0, answer.stderr
    failed, done = answer.stdout.split("---")
    assert "Failed: " in failed
    assert "abacus" in failed
    assert float(done.split("Mean Dice: ")[1].split()[0]) > 0.85
    with Image.open(tmp_path / "demo.png") as picture:
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 100
