"""Measures and inspections on a real cluster are those of one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from prosma_core.io.images import read_image

Prosma = Callable[..., tuple[int, str, str]]
Make = Callable[..., Path]


def test_figures_are_those_of_one_process(
    prosma: Prosma, make_data: Make, make_model: Make, tmp_path: Path, scheduler: str
) -> None:
    data, model = make_data(tmp_path / "data"), make_model(tmp_path / "m.safetensors")
    (data / "images" / "case_1.png").write_bytes(b"no picture")
    command = ["evaluate", "--model", model, "--data", data, "--device", "cpu"]
    here = prosma(*command, "--json", tmp_path / "here.json")
    there = prosma(*command, "--json", tmp_path / "there.json", "--on", scheduler)
    assert (here[0], here[1]) == (there[0], there[1])
    assert here[0] == 3
    assert f"Computing on {scheduler}: 2 workers." in there[2]
    assert there[2].count("case_1 is left out: ") == 1
    found: list[dict[str, Any]] = [json.loads((tmp_path / f"{name}.json").read_bytes()) for name in ("here", "there")]
    reasons = [each.pop("failed") for each in found]
    assert found[0] == found[1]
    assert list(found[0]["cases"]) == list(found[1]["cases"]) == ["case_0", "case_2", "case_3"]
    assert [list(each) for each in reasons] == [["case_1"], ["case_1"]]


def test_inspections_are_those_of_one_process(
    prosma: Prosma, scans: Path, make_model: Make, tmp_path: Path, scheduler: str
) -> None:
    model = make_model(tmp_path / "m.safetensors")
    command = ["inspect", scans, "--model", model, "--device", "cpu", "--what-if", "level=0:open"]
    code, out, err = prosma(*command, "--out", tmp_path / "here")
    assert code == 0, err
    code, there, err = prosma(*command, "--out", tmp_path / "there", "--on", scheduler)
    assert code == 0, err
    assert sorted(there.splitlines()) == sorted(out.splitlines())  # scans end in any order
    names = [path.relative_to(tmp_path / "here") for path in sorted((tmp_path / "here").glob("*/*.*"))]
    assert names == [path.relative_to(tmp_path / "there") for path in sorted((tmp_path / "there").glob("*/*.*"))]
    assert len(names) > 20
    for name in names:
        one, other = tmp_path / "here" / name, tmp_path / "there" / name
        if name.suffix == ".json":
            assert json.loads(one.read_bytes()) == json.loads(other.read_bytes())
        else:
            np.testing.assert_array_equal(read_image(one).data, read_image(other).data)
    code, _, err = prosma(*command, "--out", tmp_path / "there", "--on", scheduler, "--skip-existing")
    assert (code, "4 finished already" in err) == (0, True)
