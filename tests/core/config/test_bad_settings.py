"""Settings that cannot work: one message, exit code 2, nothing written."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from prosma_core.io.bundle import load_bundle

BAD = {
    "tile against strides": {
        "preprocess": {"tile": [60, 60]},
        "network": {"strides": [[1, 1], [8, 8]], "kernels": [[3, 3], [3, 3]]},
    },
    "tile of another dimension": {"preprocess": {"tile": [16, 16, 16]}},
    "spacing of another dimension": {"preprocess": {"spacing": [1, 1, 1], "resample": "spacing"}},
    "too many intensities": {"preprocess": {"intensities": [{"kind": "zscore"}, {"kind": "zscore"}]}},
    "zoom of nothing": {"training": {"augment": {"scale": [0, 1]}}},
    "long description": {"description": "x" * 10_001},
    "long class name": {"class_names": {"1": "x" * 201}},
    "class number": {"class_names": {"70000": "far"}},
    "unknown name": {"trainig": {}},
    "unknown preset": {"preset": "fast"},
    "preset that is a list": {"preset": ["quick"]},
    "out that is a number": {"out": 5},
    "wrong gate": {"gate": {"kind": "magic"}},
    "epochs of none": {"training": {"epochs": 0}},
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_settings_are_named(name: str, prosma, make_data, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    config = tmp_path / "run.yaml"
    values = {
        "network": {"width": 4, "max_width": 8},
        "training": {"epochs": 1, "steps": 1},
        "device": "cpu",
        **BAD[name],
    }
    config.write_text(json.dumps(values))
    out = [] if "out" in BAD[name] else ["--out", tmp_path / "m.safetensors"]
    code, _, err = prosma("train", "--config", config, "--data", data, *out)
    assert code == 2
    assert err.count("Error:") == 1
    assert "Traceback" not in err
    assert not list(tmp_path.glob("m.*"))


def test_the_command_in_the_run_folder_repeats_the_run(prosma, make_data, tmp_path: Path) -> None:
    config, out = tmp_path / "run.yaml", tmp_path / "m.safetensors"
    config.write_text(
        json.dumps({"network": {"width": 4, "max_width": 8}, "training": {"epochs": 1, "steps": 2, "batch_size": 1}})
    )
    data = make_data(tmp_path / "data")
    assert prosma("train", "--config", config, "--data", data, "--out", out, "--device", "cpu")[0] == 0
    first = load_bundle(out)
    command = shlex.split((tmp_path / "m.prosma" / "command.txt").read_text())
    assert command[:3] == ["prosma", "train", "--config"]
    assert prosma(*command[1:])[0] == 0
    again = load_bundle(out)
    assert again[0] == first[0]  # with the hash of the weights
