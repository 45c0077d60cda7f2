"""Names in files and of files reach the terminal as text: no escapes, no turned text, no line of their own."""

from __future__ import annotations

import ast
import json
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import prosma_core.cli
from prosma_core.data.geometry import array_spec
from prosma_core.io.bundle import load_bundle, save_bundle
from prosma_core.io.images import write_image, write_labels

Run = Callable[..., tuple[int, str, str]]

NAME = "li\x1b[31mver\u202e\r\nError: all is lost\n  Error: and this\x07[bold]"
FILE = "sc\x1b[31man\u202e\nError: fake\n  Error: fake"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file systems of Windows refuse such names")


def harmless(code: int, out: str, err: str) -> str:
    """What was printed, after a check of all of it."""
    said = out + err
    hidden = {c for c in said if unicodedata.category(c) in {"Cc", "Cf", "Cs"}} - {"\n"}
    assert not hidden, said
    lines = [line.strip() for line in said.split("\n")]
    assert sum(line.startswith("Error:") for line in lines) == (code in (2, 3, 4)), said
    return said


@pytest.fixture
def hostile(make_model: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """Return a model and a scan in a folder, with names that a terminal would act on."""
    header, weights = load_bundle(make_model(tmp_path / "plain.safetensors", 2))
    classes = tuple(c.replace(name=f"{i}{NAME}") for i, c in enumerate(header.classes))
    model = tmp_path / f"m{FILE}.safetensors"
    texts = {"name": NAME, "description": NAME, "licence": NAME, "attribution": NAME}
    save_bundle(model, header.replace(**texts, classes=classes, training={"data": NAME}), weights)
    for part in ("images", "labels"):
        (tmp_path / "data" / part).mkdir(parents=True)
    spec = array_spec((40, 48), "yx")
    pixels = np.random.default_rng(0).integers(0, 255, spec.shape).astype(np.uint8)
    write_image(tmp_path / "data" / "images" / f"{FILE}.png", pixels, spec)
    write_labels(tmp_path / "data" / "labels" / f"{FILE}.png", (pixels > 128).astype(np.uint8), spec)
    (tmp_path / "data" / "splits.json").write_text(json.dumps({"train": [FILE], "val": [FILE]}))
    return model, tmp_path / "data"


def test_every_verb_prints_names_as_text(hostile: tuple[Path, Path], prosma: Run, tmp_path: Path) -> None:
    model, data = hostile
    scan = data / "images" / f"{FILE}.png"
    shown = r"\x1b[31m"
    for arguments, expected in (
        (("models", "info", model), 0),
        (("segment", scan, "--model", model, "--out", tmp_path / "out"), 0),
        (("segment", scan, "--model", model, "--out", tmp_path / "out"), 4),  # it is there
        (("segment", scan, tmp_path / FILE, "--model", model, "--out", tmp_path / "other"), 3),
        (("segment", scan, "--model", tmp_path / FILE, "--out", tmp_path / "x"), 2),
        (("segment", scan, "--model", model, "--out", tmp_path / "x", "--axes", NAME), 4),
        (("evaluate", "--model", model, "--data", data, "--split", "val"), 0),
        (("inspect", scan, "--model", model, "--out", tmp_path / "maps"), 0),
        (("train", "--config", tmp_path / FILE), 2),
        (("evaluate", "--model", model, "--data", data, FILE), 2),
        ((FILE,), 2),
        (("segment", f"--{NAME}"), 2),
    ):
        code, out, err = prosma(*arguments)
        said = harmless(code, out, err)
        assert code == expected, (arguments, said)
        assert shown in said or expected == 0, (arguments, said)


def test_messages_of_other_libraries_and_of_the_log_are_one_line(
    prosma: Run, tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    (tmp_path / f"{FILE}.nii.gz").write_bytes(b"no gzip")
    (tmp_path / f"{FILE}.yaml").write_text(f"a: [\n{'b' * 10}: :\n", encoding="utf-8")
    model = make_model(tmp_path / "plain.safetensors", 2)
    for arguments in (
        ("segment", tmp_path / f"{FILE}.nii.gz", "--model", model, "--out", tmp_path / "out"),
        ("train", "--config", tmp_path / f"{FILE}.yaml", "--out", tmp_path / "m.safetensors"),
    ):
        code, out, err = prosma(*arguments)
        assert code in (2, 4)
        assert r"\x1b[31m" in harmless(code, out, err)


def test_nothing_is_printed_but_through_what_makes_it_visible() -> None:
    """A rule for the source, so that it cannot be forgotten."""
    folder = Path(prosma_core.cli.__file__).parent
    wrong = []
    for path in sorted(folder.glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and path.name != "options.py":
                name = ast.unparse(call.func)
                if name in {"print", "typer.echo", "typer.secho", "escape", "logging.Formatter"}:
                    wrong.append(f"{path.name}:{call.lineno} {name}")
    assert wrong == []
