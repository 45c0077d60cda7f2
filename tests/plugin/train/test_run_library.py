"""Where models go, how they are named, and which runs there are."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from napari_prosma.train.run_library import free_name, list_runs, save_as, taken_names
from prosma_core.config.training import resolve_run
from prosma_core.errors import ModelFileError, OutputError
from prosma_core.io import atomic
from prosma_core.io.bundle import read_header, shipped_models
from prosma_core.runs.run_folder import RunFolder

PHANTOM = shipped_models()["phantom-3d"]


def make_run(folder: Path, name: str, changed: float) -> RunFolder:
    """A run that has not finished an epoch, last worked on at a time."""
    out = folder / f"{name}.safetensors"
    run = RunFolder.beside(out)
    run.write_settings(resolve_run({"out": out, "name": name}), {"train": ["a"], "val": ["a"]})
    os.utime(run.run_yaml, (changed, changed))
    return run


def test_a_free_name_is_taken_by_no_model_run_or_shipped_model(tmp_path: Path) -> None:
    (tmp_path / "liver.safetensors").write_bytes(b"")
    (tmp_path / "liver-2.prosma").mkdir()
    (tmp_path / "kidney.txt").write_text("")
    assert free_name("liver", tmp_path) == "liver-3"
    assert free_name("LIVER", tmp_path) == "LIVER-3"
    assert free_name("kidney", tmp_path) == "kidney"
    assert free_name("phantom-3d", tmp_path) == "phantom-3d-2"
    assert free_name("a/b", tmp_path) == "a/b"  # its file is a_b
    (tmp_path / "a_b.safetensors").touch()
    assert free_name("a/b", tmp_path) == "a/b-2"
    assert taken_names(tmp_path) >= {"liver", "liver-2", "phantom-3d"}


def test_runs_are_listed_latest_first_and_broken_ones_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert list_runs(tmp_path / "none") == []
    make_run(tmp_path, "old", 1000)
    make_run(tmp_path, "new", 3000)
    make_run(tmp_path, "middle", 2000)
    (tmp_path / "empty.prosma").mkdir()
    broken = make_run(tmp_path, "broken", 4000)
    broken.run_yaml.write_text("epochs: [")
    wrong = make_run(tmp_path, "wrong", 4000)
    wrong.run_yaml.write_text("training: {epochs: none}\nout: x.safetensors\n")
    (tmp_path / "file.prosma").write_text("not a folder")
    with caplog.at_level(logging.INFO, logger="napari_prosma.train.run_library"):
        found = list_runs(tmp_path)
    assert [run.name for run in found] == ["new", "middle", "old"]
    assert [(run.epochs_done, run.finished, run.model_written) for run in found] == [(0, False, False)] * 3
    assert len([r for r in caplog.records if "left out" in r.message]) == 4


@pytest.mark.skipif(os.name == "nt", reason="where there are no locks, a process lives as long as its id")
def test_where_runs_are_listed_parts_of_killed_processes_are_removed(tmp_path: Path) -> None:
    run = make_run(tmp_path, "killed", 1000)
    written = tmp_path / "writing.prosma" / "data" / "images"  # has no settings yet
    places = (run.model, run.state, run.root / "annotations-2" / "l.nii.gz", run.picture(1), written / "scan.ome.zarr")
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        part = atomic.take(place)
        part.path.write_bytes(b"half")
        os.close(part.descriptor)  # as the system does when a process ends
    held = atomic.take(written / "other.nii")
    list_runs(tmp_path)
    assert [path.name for path in tmp_path.rglob(".prosma-*")] == [held.lock.name]
    held.release()


def test_a_model_is_saved_under_another_name(tmp_path: Path) -> None:
    to = save_as(PHANTOM, tmp_path / "mine")
    assert to == tmp_path / "mine.safetensors"
    assert to.read_bytes() == PHANTOM.read_bytes()
    assert read_header(to).name == "phantom-3d"
    with pytest.raises(OutputError, match="is there already"):  # the dialog asked about another name
        save_as(PHANTOM, tmp_path / "mine")
    save_as(shipped_models()["hippocampus-mri"], tmp_path / "other")
    assert save_as(tmp_path / "other.safetensors", to) == to
    assert read_header(to).name == "hippocampus-mri"
    (tmp_path / "other.safetensors").write_bytes(b"weights of somebody else")
    with pytest.raises(OutputError, match="is never replaced"):
        save_as(PHANTOM, tmp_path / "other.safetensors")
    (tmp_path / "other.safetensors").unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"]


def test_a_copy_does_not_replace_the_model_that_the_training_started_from(tmp_path: Path) -> None:
    start, model = (save_as(PHANTOM, tmp_path / name) for name in ("start", "tuned"))
    RunFolder.beside(model).write_settings(
        resolve_run({"out": model, "init": str(start), "data": tmp_path}), {"train": ["a"], "val": ["a"]}
    )
    with pytest.raises(OutputError, match="would replace the input"):
        save_as(model, start)
    assert save_as(model, tmp_path / "copy").is_file()


def test_what_cannot_be_saved_is_said(tmp_path: Path) -> None:
    model = save_as(PHANTOM, tmp_path / "mine.v2")
    assert model.name == "mine.v2.safetensors"
    with pytest.raises(OutputError, match="is the model itself"):
        save_as(model, model)
    with pytest.raises(OutputError, match="does not exist"):
        save_as(model, tmp_path / "nowhere" / "mine")
    with pytest.raises(ModelFileError):
        save_as(tmp_path / "gone.safetensors", tmp_path / "b")
    model.write_bytes(model.read_bytes()[:1000])
    with pytest.raises(ModelFileError):
        save_as(model, tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.v2.safetensors"]
