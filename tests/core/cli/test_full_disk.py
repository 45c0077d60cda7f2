"""Commands whose disk, a real file system, is full: what is done stays, exit codes and messages tell, a re-run ends."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from prosma_core.data.geometry import array_spec
from prosma_core.io.bundle import load_bundle, save_bundle
from prosma_core.io.images import read_image, read_labels, write_image
from prosma_core.model.unet import build_model
from prosma_core.model.weights import weights_of
from prosma_core.runs.run_folder import RunFolder

Prosma = Callable[..., tuple[int, str, str]]
PAGE = 4096
TINY = {
    "network": {"width": 4, "max_width": 8, "max_stages": 2},
    "preprocess": {"tile": [16, 16]},
    "training": {"epochs": 2, "steps": 2, "batch_size": 2},
}


@pytest.fixture
def model(tmp_path: Path, make_header: Callable[..., Any]) -> Path:
    """Return a model of random weights that give every class somewhere."""
    return saved(tmp_path, make_header(3, tile=(8, 8, 8)))


@pytest.fixture
def model_of_large_tiles(tmp_path: Path, make_header: Callable[..., Any]) -> Path:
    """Return the same model for scans that need not be taken apart."""
    return saved(tmp_path, make_header(3, tile=(40, 40, 40)))


def saved(folder: Path, header: Any) -> Path:
    network = build_model(header.model, 0)
    for gate in network.heads:
        gate.bias.data.zero_()
        gate.weight.data.mul_(20)
    save_bundle(folder / "m.safetensors", header, weights_of(network.state_dict()))
    return folder / "m.safetensors"


def full(disk: Any) -> str:
    """Return what messages say of a disk."""
    return f"No space left on device: nothing of 4 MiB is free on the disk of {disk.path}. Free some space there"


def plain(text: str) -> str:
    """Return messages without line ends."""
    return " ".join(text.split())


def rows(table: Path) -> list[dict[str, str]]:
    """Return the rows of a table."""
    return list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))


def scan(path: Path, shape: tuple[int, ...] = (15, 13, 11)) -> Path:
    """Return a scan of noise."""
    data = np.random.default_rng(0).integers(0, 999, shape).astype(np.uint16)
    write_image(path, data, array_spec(shape, "tzyx"[-len(shape) :]))
    return path


@pytest.mark.usefixtures("by_parts")
@pytest.mark.parametrize("pages", [3, 20, 40])
def test_blocks_that_are_done_stay_and_a_re_run_equals_a_clean_one(
    pages: int, prosma: Prosma, model: Path, small_disk: Any, tmp_path: Path
) -> None:
    command = ["segment", scan(tmp_path / "scan.zarr"), "--model", model, "--device", "cpu", "--probabilities"]
    clean, out = tmp_path / "clean.zarr", small_disk.path / "out.zarr"
    assert prosma(*command, "--out", clean)[0] == 0
    small_disk.fill(pages * PAGE)
    code, _, err = prosma(*command, "--out", out)
    assert code == 4
    assert f"No space left on device: nothing of 4 MiB is free on the disk of {small_disk.path}." in " ".join(
        err.split()
    )
    assert not out.exists()
    done = small_disk.path / ".prosma-partial-out.zarr" / "blocks.txt"
    kept = len([line for line in done.read_text().splitlines()[1:] if line.endswith("]]")]) if done.is_file() else 0
    assert kept > 0 or pages < 30
    assert kept == 0 or f"{kept} blocks are done and stay" in plain(err)
    small_disk.clear()
    code, _, err = prosma(*command, "--out", out)
    assert code == 0
    assert ("of an earlier run stay" in err) == (kept > 0)
    np.testing.assert_array_equal(read_labels(out).data, read_labels(clean).data)
    found = [read_image(path.with_name(f"{path.stem}_probabilities.zarr")).data for path in (out, clean)]
    np.testing.assert_array_equal(*found)
    assert sorted(path.name for path in small_disk.path.iterdir()) == ["out.zarr", "out_probabilities.zarr"]


@pytest.mark.parametrize("suffix", [".nii.gz", ".tif", ".zarr"])
def test_scans_that_are_done_stay_and_the_rest_is_not_begun(
    suffix: str, prosma: Prosma, model_of_large_tiles: Path, small_disk: Any, tmp_path: Path
) -> None:
    (tmp_path / "scans").mkdir()
    for name in ("a", "b", "c"):
        scan(tmp_path / "scans" / f"{name}{suffix}", (40, 40, 40))
    table, model = small_disk.path / "out" / "results.csv", model_of_large_tiles
    command = ["segment", tmp_path / "scans", "--model", model, "--device", "cpu", "--skip-existing", "--table", table]
    assert prosma(*command[:-2], "--out", tmp_path / "clean")[0] == 0
    taken = sum(-(-file.stat().st_size // PAGE) for file in (tmp_path / "clean").rglob("*") if file.is_file())
    small_disk.fill((taken // 2 + 2) * PAGE)
    code, _, err = prosma(*command, "--out", table.parent)
    assert code == 3
    assert "No space left on device" in err
    assert "not started, because nothing more can be written" in err
    small_disk.clear()
    code, _, err = prosma(*command, "--out", table.parent)
    assert code == 0
    names = [f"{name}{suffix}" for name in ("a", "b", "c")]
    assert sorted(path.name for path in table.parent.iterdir()) == [*names, "results.csv"]
    for name in names:
        np.testing.assert_array_equal(
            read_labels(table.parent / name).data, read_labels(tmp_path / "clean" / name).data
        )
    assert [(row["result"], row["status"]) for row in rows(table)] == [(name, "done") for name in names]


def test_a_table_without_room_is_told_and_its_rows_follow(
    prosma: Prosma, model: Path, small_disk: Any, tmp_path: Path
) -> None:
    table = small_disk.path / "results.csv"
    command = ["segment", scan(tmp_path / "a.nii"), "--model", model, "--device", "cpu", "--skip-existing"]
    small_disk.fill()
    code, _, err = prosma(*command, "--out", tmp_path / "out", "--table", table)
    assert code == 3
    assert full(small_disk) in plain(err)
    assert (tmp_path / "out" / "a.nii").is_file()
    small_disk.clear()
    assert prosma(*command, "--out", tmp_path / "out", "--table", table)[0] == 0
    assert [row["status"] for row in rows(table)] == ["done"]


@pytest.mark.parametrize("states", [0, 3])
def test_a_training_without_room_ends_and_continues(
    states: int, prosma: Prosma, make_data: Callable[..., Path], small_disk: Any, tmp_path: Path
) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump(TINY), encoding="utf-8")
    clean, out = tmp_path / "clean" / "m.safetensors", small_disk.path / "m.safetensors"
    command = ["train", "--data", make_data(tmp_path / "data"), "--device", "cpu", "--config", settings]
    assert prosma(*command, "--out", clean)[0] == 0
    state = RunFolder.beside(clean).state.stat().st_size
    small_disk.fill(8 * PAGE + states * state)
    code, _, err = prosma(*command, "--out", out)
    assert code == 2
    assert full(small_disk) in plain(err)
    assert not out.exists()
    assert RunFolder.beside(out).state.is_file() == (states > 0)
    small_disk.clear()
    code, _, err = prosma(*command, "--out", out, *(["--resume"] if states else []))
    assert code == 0, err
    one, other = (load_bundle(path)[1] for path in (clean, out))
    for name, values in one.items():
        np.testing.assert_array_equal(other[name], values)
