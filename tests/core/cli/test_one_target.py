"""Two commands into one result, and a place where nothing can be written: real processes, a real file system."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from prosma_core.data.geometry import array_spec
from prosma_core.io.images import read_labels, write_image

Prosma = Callable[..., tuple[int, str, str]]
Make = Callable[..., Path]

HOLDS = """
import sys, time
from pathlib import Path
from prosma_core.cli.main import program
from prosma_core.inference import files
real, mark, go = files.write_labels, Path(sys.argv.pop(1)), Path(sys.argv.pop(1))
def held(*given, **more):
    mark.touch()
    while not go.exists():
        time.sleep(0.02)
    real(*given, **more)
files.write_labels = held
program()
"""


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def arguments(tmp_path: Path, make_model: Make) -> list[str]:
    values = np.random.default_rng(0).integers(0, 999, (20, 21)).astype(np.uint16)
    write_image(tmp_path / "scan.tif", values, array_spec(values.shape, "yx"))
    model = make_model(tmp_path / "m.safetensors")
    return ["segment", str(tmp_path / "scan.tif"), "--model", str(model), "--device", "cpu"]


@pytest.fixture
def first(arguments: list[str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Return a command that is about to write its result, and does so when `go` is there."""
    mark, go = tmp_path / "mark", tmp_path / "go"
    command = [sys.executable, "-c", HOLDS, str(mark), str(go), *arguments, "--out", str(tmp_path / "out.tif")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: mark.exists() or process.poll() is not None)
            assert process.poll() is None
            yield process
        finally:
            go.touch()
            process.communicate(timeout=120)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prosma_core.cli", *arguments]


def test_a_second_command_into_a_result_that_is_made_is_refused(
    first: subprocess.Popen[str], arguments: list[str], tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path / "out.tif"), "--overwrite"]
    second = subprocess.run(command(*arguments, *out), capture_output=True, text=True, timeout=120, check=False)
    assert first.poll() is None  # both were there at once
    assert second.returncode == 4
    assert f"process {first.pid} on " in second.stderr
    assert "Traceback" not in second.stderr
    assert not (tmp_path / "out.tif").exists()
    (tmp_path / "go").touch()
    assert first.wait(120) == 0
    assert read_labels(tmp_path / "out.tif").data.shape == (20, 21)


def test_a_second_command_that_leaves_out_finished_scans_waits_for_the_first(
    first: subprocess.Popen[str], arguments: list[str], tmp_path: Path
) -> None:
    out, said = ["--out", str(tmp_path / "out.tif"), "--skip-existing"], tmp_path / "said"
    with said.open("w") as file, subprocess.Popen(command(*arguments, *out), stderr=file) as second:
        wait_for(lambda: "is left to process" in said.read_text() or second.poll() is not None)
        assert (first.poll(), second.poll()) == (None, None)
        (tmp_path / "go").touch()
        assert second.wait(120) == 0
    assert first.wait(120) == 0
    assert "Traceback" not in said.read_text()
    assert read_labels(tmp_path / "out.tif").data.shape == (20, 21)


@pytest.mark.skipif(sys.platform != "linux", reason="a file system where nobody can make a file: /proc")
@pytest.mark.parametrize("out", ["/proc/results", "/proc/results.tif", "/proc/results.zarr"])
def test_a_file_system_that_takes_no_files_ends_the_command_with_a_message(
    out: str, arguments: list[str], prosma: Prosma
) -> None:
    code, _, said = prosma(*arguments, "--out", out)
    assert code in {2, 4}
    assert "Traceback" not in said
    message = said[said.index("Error: ") :]
    assert message.count("Error: ") == 1
    assert "/proc" in message
