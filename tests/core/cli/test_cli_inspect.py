"""`prosma inspect`: what it writes and where that lies, and how it refuses what cannot work."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from prosma_core.cli.options import parse_what_if
from prosma_core.config.inspection import LevelEdit
from prosma_core.data.phantom import phantom_2d
from prosma_core.io import atomic
from prosma_core.io.images import read_image, write_image

Prosma = Callable[..., tuple[int, str, str]]
Make = Callable[..., Path]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    scan, _ = phantom_2d(1, (40, 48))
    write_image(tmp_path / "x.png", scan.data, scan.spec)
    return tmp_path / "x.png"


def test_a_picture_gives_zarr_maps_numbers_and_pictures(
    prosma: Prosma, tmp_path: Path, picture: Path, make_model: Make
) -> None:
    model, out = make_model(tmp_path / "m.safetensors"), tmp_path / "out"
    changes = ["--what-if", "level=0:tau*0", "--what-if", "level=0:closed", "--which-level"]
    out.mkdir()
    if os.name != "nt":
        os.close(atomic.take(out / "summary.json").descriptor)  # as the system does when a process is killed
    code, said, _ = prosma("inspect", picture, "--model", model, "--out", out, "--maps", "kept", *changes)
    assert code == 0
    names = {p.name for p in out.iterdir()}
    made = {f"level0_{kind}" for kind in ("removed", "energy", "kept")}
    results = {f"whatif{n}_{what}.zarr" for n in (1, 2) for what in ("labels", "changes")}
    pictures = {"level0_removed.png", "level0_energy.png", "whatif1.png", "whatif2.png"}
    assert names == {f"{m}.zarr" for m in made} | results | pictures | {"summary.json"}
    summary = json.loads((out / "summary.json").read_text())
    (level,) = summary["inspection"]["levels"]
    assert f"{level['removed']:.1%}" in said
    assert "noise gain" in said
    assert f"{level['noise_gain']:.2f}" in said
    assert f"{level['flipped']:.1%}" in said
    assert [v["name"] for v in summary["what_if"]] == ["level=0:tau*0", "level=0:closed"]
    assert [v["name"] for v in summary["which_level"]] == ["level 0 open"]
    (ranked,) = (line.split() for line in said.splitlines() if line.startswith("level ranking"))
    assert ranked[2:] == ["class", "before", "after", "added", "lost", "Dice", "Dice", "with", "reference"]
    kept = read_image(out / "level0_kept.zarr")
    assert (kept.spec.axes, kept.data.shape) == ("cyx", (4, 40, 48))
    assert 1 - kept.data.mean() == pytest.approx(level["removed"])
    with Image.open(out / "level0_removed.png") as shown:
        assert shown.size == (2 * 384 + 4, 320)
    before = (out / "summary.json").read_bytes()
    code, _, err = prosma("inspect", picture, "--model", model, "--out", out)
    assert code == 4
    assert "--overwrite" in err
    assert (out / "summary.json").read_bytes() == before
    code, _, _ = prosma("inspect", picture, "--model", model, "--out", out, "--overwrite", "--levels", "0")
    assert code == 0


def test_what_becomes_of_the_scan_is_said_once(prosma: Prosma, tmp_path: Path, picture: Path, make_model: Make) -> None:
    model, out = make_model(tmp_path / "m.safetensors"), tmp_path / "out"
    changes = ["--what-if", "level=0:open", "--what-if", "level=0:closed", "--which-level"]
    code, _, err = prosma("inspect", picture, "--model", model, "--out", out, "--region", "0:8,0:8", *changes)
    assert code == 0
    assert err.count("gets labels") == 1
    for words in ("What if level=0:open.", "What if level=0:closed.", "Level ranking: 1 level, one at a time"):
        assert err.count(words) == 1
    assert len(set(err.splitlines())) == len(err.splitlines())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--levels", "9"], "no level 9: the model has levels 0 (the finest) to 0"),
        (["--levels", "x"], "--levels 'x'"),
        (["--maps", "fields"], "Allowed are removed, energy, kept, field"),
        (["--what-if", "level=0:half"], "Allowed are level=L:tau*K"),
        (["--what-if", "level=0:tau*9"], "at most 4"),
        (["--what-if", "level=4:open"], "no level 4"),
        (["--region", "0:90,0:4"], "reaches outside"),
        (["--reference", "absent.png"], "absent.png"),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_is_written(
    flags: list[str], words: str, prosma: Prosma, tmp_path: Path, picture: Path, make_model: Make
) -> None:
    model, out = make_model(tmp_path / "m.safetensors"), tmp_path / "out"
    code, _, err = prosma("inspect", picture, "--model", model, "--out", out, *flags)
    assert code in (2, 4)
    assert words in err
    assert not (out.exists() and list(out.iterdir()))


def test_changes_of_gates_are_read_as_they_are_written() -> None:
    text = "level=2:tau*0.5, level=0:open,level=2:channel=3:closed,level=2:channel=5:closed,level=1:nochannelgate"
    assert parse_what_if(text).edits == (
        LevelEdit(level=2, threshold=0.5, closed_channels=(3, 5)),
        LevelEdit(level=0, state="open"),
        LevelEdit(level=1, channel_gate=False),
    )


def test_maps_of_a_hippocampus_lie_in_the_world_where_the_scan_does(
    prosma: Prosma, tmp_path: Path, data_root: Path
) -> None:
    scan = sorted((data_root / "msd_hippocampus" / "images").iterdir())[0]
    labels = data_root / "msd_hippocampus" / "labels" / scan.name
    out = tmp_path / "out"
    flags = ["--model", "hippocampus-mri", "--device", "cpu", "--levels", "1,2", "--maps", "field"]
    code, said, err = prosma("inspect", scan, "--out", out, *flags, "--what-if", "level=1:open", "--truth", labels)
    assert (code, said != "") == (0, True), err
    source = nib.load(scan)
    for level, step in ((1, 2), (2, 4)):
        removed, field = (nib.load(out / f"level{level}_{name}") for name in ("removed.nii.gz", "field.nii"))
        np.testing.assert_allclose(removed.affine, field.affine)
        assert field.shape == (*removed.shape, 1, 64 * level)
        # The first cell's corner lies at most a cell outside the scan's, the last one's likewise.
        corners = np.array([[-0.5] * 3, np.array(removed.shape) - 0.5])
        inside = nib.affines.apply_affine(np.linalg.inv(source.affine) @ removed.affine, corners)
        extent = np.array([[-0.5] * 3, np.array(source.shape) - 0.5])
        assert np.abs(inside - extent).max() < step
        np.testing.assert_allclose(nib.affines.voxel_sizes(removed.affine), step * np.array(source.header.get_zooms()))
    summary = json.loads((out / "summary.json").read_text())
    (result,) = summary["what_if"]
    assert min(c["truth_before"] for c in result["classes"]) > 0.8
    assert all(c["truth_after"] < c["truth_before"] for c in result["classes"])


def test_nothing_that_is_read_is_replaced(prosma: Prosma, tmp_path: Path, picture: Path, make_model: Make) -> None:
    model, out = make_model(tmp_path / "m.safetensors"), tmp_path / "out"
    out.mkdir()
    scan = picture.rename(out / "level0_removed.png")
    before = scan.read_bytes()
    for overwrite in ((), ("--overwrite",)):
        code, _, err = prosma("inspect", scan, "--model", model, "--out", out, *overwrite)
        assert code == 4
        assert "would replace the input" in err
        assert "--overwrite" not in err
    assert scan.read_bytes() == before
    (out / "level0_energy.zarr").mkdir()
    (out / "level0_energy.zarr" / "thesis.txt").write_text("years of work")
    scan = scan.rename(tmp_path / "x.png")
    code, _, err = prosma("inspect", scan, "--model", model, "--out", out, "--overwrite")
    assert code == 4
    assert "was not written by this program" in err
    write_image(tmp_path / "x.zarr", np.zeros((40, 48), np.uint8), read_image(scan).spec)
    code, _, err = prosma("inspect", tmp_path / "x.zarr", "--model", model, "--out", tmp_path / "x.zarr" / "maps")
    assert code == 4
    assert "lies inside the input" in err
    assert not (tmp_path / "x.zarr" / "maps").exists()


def test_each_of_several_scans_has_a_folder_of_its_own(
    prosma: Prosma, tmp_path: Path, picture: Path, make_model: Make
) -> None:
    model, out = make_model(tmp_path / "m.safetensors"), tmp_path / "out"
    for name in ("a/x.png", "b/x.png", "b/y.png"):
        (tmp_path / "scans" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, tmp_path / "scans" / name)
    (tmp_path / "scans" / "b" / "y.png").write_bytes(b"no picture")
    command = ("inspect", tmp_path / "scans", "--recursive", "--model", model, "--out", out, "--no-noise-gain")
    code, said, err = prosma(*command)
    assert (code, said.count("energy removed")) == (3, 2)
    assert "y: " in err
    failed = next(number for number, line in enumerate(err.splitlines()) if line.startswith("y failed: "))
    assert failed < err.splitlines().index("2 inspected, 0 finished already, 1 failed.")  # when it happens
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("summary.json")) == [
        "a/x/summary.json",
        "b/x/summary.json",
    ]
    assert not (out / "b" / "y").exists()
    shutil.copy(picture, tmp_path / "scans" / "b" / "y.png")
    code, said, err = prosma(*command, "--skip-existing")
    assert (code, said.count("energy removed")) == (0, 1)
    assert "1 inspected, 2 finished already, 0 failed." in err
    code, _, err = prosma(*command, "--reference", picture)
    assert code == 2
    assert "belongs to one scan, and there are 3" in err
