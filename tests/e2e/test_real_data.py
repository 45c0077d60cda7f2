"""The whole way on real scans, by the command line: train, segment, evaluate, read back with other libraries."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from prosma_core.cli.main import app
from prosma_core.io.bundle import read_header

pytestmark = pytest.mark.slow

SETS = {
    "msd_hippocampus": {"dims": 3, "channels": 1, "values": {0, 1, 2}},
    "busi": {"dims": 2, "channels": 1, "values": {0, 1}},
    "kvasir_seg": {"dims": 2, "channels": 3, "values": {0, 1}},
    "acdc": {"dims": 3, "channels": 1, "values": {0, 1, 2, 3}},
}
TINY = {
    "device": "cpu",
    "network": {"width": 4, "max_width": 8, "max_stages": 4},
    "preprocess": {"tile_voxels": 120_000},
    "training": {"epochs": 1, "steps": 2, "batch_size": 1, "validation_cases": 1},
}


def excerpt(source: Path, target: Path) -> list[str]:
    """Copy three training cases and one validation case; gives the name of the latter."""
    splits = json.loads((source / "splits.json").read_text())
    chosen = {"train": splits["train"][:3], "val": splits["val"][:1]}
    for part in ("images", "labels"):
        (target / part).mkdir(parents=True)
        for name in chosen["train"] + chosen["val"]:
            for path in (source / part).glob(f"{name}.*"):
                shutil.copy(path, target / part)
    (target / "splits.json").write_text(json.dumps(chosen))
    return chosen["val"]


def prosma(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("name", sorted(SETS))
def test_train_segment_evaluate(name: str, data_root: Path, tmp_path: Path) -> None:
    expected = SETS[name]
    (case,) = excerpt(data_root / name, tmp_path / "data")
    config, model, report = tmp_path / "run.yaml", tmp_path / "m.safetensors", tmp_path / "report.json"
    config.write_text(json.dumps(TINY))
    prosma("train", "--data", tmp_path / "data", "--out", model, "--config", config)
    header = read_header(model)
    if name == "acdc":  # keeps its thick slices
        assert header.preprocess.spacing[0] == pytest.approx(10)
        assert header.model.strides[1] == (1, 2, 2)
        assert header.model.kernels[0] == (1, 3, 3)
    assert header.model.dims == expected["dims"]
    assert header.model.in_channels == expected["channels"]
    assert {c.value for c in header.classes} == expected["values"]

    image = next((tmp_path / "data" / "images").glob(f"{case}.*"))
    prosma("segment", image, "--model", model, "--out", tmp_path / "out", "--device", "cpu")
    suffix = ".nii.gz" if image.name.endswith(".nii.gz") else ".png"
    result = tmp_path / "out" / f"{case}{suffix}"
    if suffix == ".png":
        labels = np.asarray(Image.open(result))
        assert labels.shape == np.asarray(Image.open(image)).shape[:2]
    else:
        before, after = nibabel.load(image), nibabel.load(result)
        assert after.shape == before.shape
        assert np.array_equal(after.affine, before.affine)
        for code in ("qform_code", "sform_code"):
            assert after.header[code] == before.header[code]
        labels = np.asarray(after.dataobj)
    assert set(np.unique(labels)) <= expected["values"]

    prosma("evaluate", "--data", tmp_path / "data", "--model", model, "--json", report, "--device", "cpu")
    values = json.loads(report.read_text())
    assert list(values["cases"]) == [case]
    assert set(values["cases"][case]) == {c.name for c in header.classes[1:]}
