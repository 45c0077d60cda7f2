"""The examples of docs/library.md run, in the order of the page, those of one section together."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def wheel_script() -> ModuleType:
    """Return the script that runs the same examples from a wheel."""
    spec = importlib.util.spec_from_file_location("library_wheel", ROOT / "benchmarks" / "library_wheel.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXAMPLES: dict[str, str] = wheel_script().examples()


def test_the_page_has_the_four_examples() -> None:
    titles = ["Segment an array", "The gate in another U-Net", "Train from arrays", "Inspect what was removed"]
    assert list(EXAMPLES) == titles


@pytest.mark.parametrize("title", EXAMPLES)
def test_example_runs(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[title], f"library.md ({title})", "exec"), {"__name__": "example"})
