"""What must hold for the repository as a whole."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import prosma_core

ROOT = Path(__file__).resolve().parent.parent
LARGEST_FILE = 12_000_000
LARGEST_WHEEL = 60_000_000
PLANNED_MODELS = 7
MACHINE_PATHS = re.compile(rb"/wor[k]/|/tm[p]/bas[h]|/roo[t]/|/Users/\w+/|/home/\w+/|[A-Z]:\\Users", re.IGNORECASE)


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Return the files git knows; skip in a copy without git."""
    try:
        answer = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git repository, or no git")
    files = [ROOT / name for name in answer.stdout.split("\0") if name]
    return [file for file in files if file.is_file()]


def test_no_tracked_file_is_large(tracked: list[Path]) -> None:
    assert [str(file) for file in tracked if file.stat().st_size > LARGEST_FILE] == []


def test_no_tracked_file_names_a_folder_of_one_machine(tracked: list[Path]) -> None:
    assert [str(file) for file in tracked if MACHINE_PATHS.search(file.read_bytes())] == []


def test_citation_names_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == prosma_core.__version__


def test_constraints_pin_one_version_of_every_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = project.partition("\ndependencies = [")[2].partition("\n]")[0]
    names = {name.lower() for name in re.findall(r'^\s*"([\w-]+)', block, re.MULTILINE)}
    assert "torch" in names
    assert names <= {pin.partition("==")[0].lower() for pin in pins}


@pytest.mark.parametrize(
    ("name", "vulnerable"),
    [
        ("numcodecs", "0.16.5"),  # runs pickles found in zarr object arrays
        ("monai", "1.5.1"),  # CVE-2025-58756, CVE-2026-21851
        ("pillow", "12.2.0"),
        ("SimpleITK", "2.5.2"),
        ("torch", "2.9.1"),  # CVE-2025-32434, CVE-2026-24747
    ],
)
def test_dependency_floors_exclude_versions_with_advisories(name: str, vulnerable: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = [*project["dependencies"], *project["optional-dependencies"]["medical"]]
    (requirement,) = [Requirement(line) for line in stated if Requirement(line).name.lower() == name.lower()]
    assert not requirement.specifier.contains(vulnerable)


@pytest.mark.parametrize("module", ["prosma_core", "prosma_core.config", "prosma_core.io", "prosma_core.cli.main"])
def test_import_loads_no_heavy_library(module: str) -> None:
    if not list((ROOT / "src").glob(f"{module.replace('.', '/')}*")):
        pytest.skip(f"{module} is not there yet")
    code = f"import sys, {module}; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    heavy = {"torch", "monai", "nibabel", "tifffile", "zarr", "SimpleITK", "PIL", "scipy", "napari", "qtpy"}
    assert heavy.intersection(answer.stdout.split()) == set()


def test_wheel_carries_the_shipped_models_and_their_cards(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    shipped = [file for file in (ROOT / "src" / "prosma_core" / "pretrained").glob("*.*") if file.suffix != ".py"]
    assert {f"prosma_core/pretrained/{file.name}" for file in shipped} <= inside
    assert {"prosma_core/py.typed", "prosma_core/errors.py", "napari_prosma/__init__.py"} <= inside
    assert {f"napari_prosma/help/{name}-widget.md" for name in ("segment", "train", "gates")} <= inside
    models = [entry for entry in zipfile.ZipFile(wheel).infolist() if entry.filename.endswith(".safetensors")]
    assert wheel.stat().st_size < LARGEST_WHEEL
    assert len(models) == len([file for file in shipped if file.suffix == ".safetensors"])
    taken = sum(entry.compress_size for entry in models) / len(models)
    assert max(len(models), PLANNED_MODELS) * taken < LARGEST_WHEEL  # as many as are planned fit in it


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_processes_that_tests_start_hear_ctrl_c_also_where_the_shell_ignores_it() -> None:
    code = (
        "import importlib, os, signal, subprocess, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "importlib.import_module('tests.conftest')\n"
        "signal.raise_signal(signal.SIGINT)\n"  # still ignored here
        "told = 'import os, signal; os.kill(os.getpid(), signal.SIGINT)'\n"
        "ran = subprocess.run([sys.executable, '-c', told], capture_output=True, text=True)\n"
        "print(ran.returncode, ran.stderr)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith(f"-{int(signal.SIGINT)} Traceback")
    assert "KeyboardInterrupt" in ran.stdout
