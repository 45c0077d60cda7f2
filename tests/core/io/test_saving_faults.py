"""Every operation of every save fails, or ends the process: the old or the new result is whole, and nothing is left."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest
from tests.writers import FILES, FOLDERS, TORCH, WRITERS, Found, Save

from prosma_core.config.training import resolve_run
from prosma_core.io import atomic
from prosma_core.io.atomic import put_back, replace_dir
from prosma_core.runs.run_folder import RunFolder

posix_only = pytest.mark.skipif(os.name == "nt", reason="the faults are made with functions and signals of POSIX")
pytestmark = posix_only
ends = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
"""A process that ends does not close its files."""


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder."""
    monkeypatch.setenv("PROSMA_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nothing here depends on the disk
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_each_operation_of_a_save_fails(kind: str, target: Path, faults: ModuleType) -> None:
    save, found = WRITERS[kind](target)
    said = bool if kind == "machine" else lambda _: True
    assert faults.fail_everywhere(target, save, found, errors=faults.ERRORS if kind == "png" else (), said=said) > 5


@pytest.mark.slow
@ends
@pytest.mark.parametrize("kind", WRITERS)
def test_a_process_ends_at_each_operation_of_a_save(kind: str, target: Path, faults: ModuleType) -> None:
    save, found = WRITERS[kind](target)
    assert faults.end_everywhere(target, save, found) > 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["png", *TORCH & WRITERS.keys()])
def test_signal_9_at_each_operation_of_a_save(kind: str, target: Path, faults: ModuleType) -> None:
    save, found = WRITERS[kind](target)  # of the others a sample in tests/test_fuzz.py
    assert faults.end_everywhere(target, save, found, kill=True) > 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ome-zarr 2", "ome-zarr 3"])
def test_each_operation_of_a_folder_fails(kind: str, target: Path, faults: ModuleType) -> None:
    save, found = FOLDERS[kind](target)
    assert faults.fail_everywhere(target, save, found, modes=[None]) > 5


def _small(path: Path) -> tuple[Save, Found]:
    def save(number: int) -> None:
        def write(temporary: Path) -> None:
            temporary.mkdir()
            (temporary / "number").write_text(str(number))

        replace_dir(path, write)

    def found() -> int | None:
        put_back(path)
        return int((path / "number").read_text())

    return save, found


@ends
def test_a_folder_is_replaced_in_two_steps_where_one_is_not_possible(
    target: Path, faults: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    save, found = _small(target / "folder")
    assert faults.fail_everywhere(target, save, found, errors=faults.ERRORS, modes=[False]) > 5
    assert faults.end_everywhere(target, save, found) > 5


def test_a_training_that_starts_removes_the_parts_of_a_killed_one(target: Path) -> None:
    run = RunFolder(target / "model.prosma")
    (run.root / "preview").mkdir(parents=True)
    for place in (run.model, run.history, run.picture(1)):
        part = atomic.take(place)
        part.path.write_bytes(b"half")
        os.close(part.descriptor)  # as the system does when a process ends
    run.write_settings(resolve_run({"data": "data", "out": "model.safetensors"}), {"train": ["a"], "val": ["b"]})
    assert not list(target.rglob(".prosma-*"))
