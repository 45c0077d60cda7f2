"""What the window saves: each operation fails, or ends the process; old or new is whole, and nothing is left."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest
from tests import window_writers

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="the faults are made with functions and signals of POSIX"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nothing here depends on the disk
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.slow
@pytest.mark.parametrize("kind", window_writers.SAVED)
def test_each_operation_of_a_save_fails_or_ends_the_process(kind: str, target: Path, faults: ModuleType) -> None:
    save, found = window_writers.SAVED[kind](target)
    assert faults.fail_everywhere(target, save, found) > 5
    assert faults.end_everywhere(target, save, found) > 5


def test_settings_are_old_or_new_and_the_next_change_saves_them(target: Path, faults: ModuleType) -> None:
    save, found = window_writers.settings(target)
    assert faults.fail_everywhere(target, save, found, said=bool) > 5


def test_a_folder_of_maps_is_there_whole_or_not_at_all(target: Path, faults: ModuleType) -> None:
    save, found = window_writers.maps(target)
    save(0)
    at = 0
    while True:
        at += 1
        fault = faults.Faults(target)
        try:
            with fault.failing(at, faults.ERRORS[at % 4], always=at % 2 == 0):
                save(at)
            assert not fault.struck or (target / f"maps {at}").is_dir()
        except faults.ProsmaError:
            pass
        if at % 2 == 0:  # nothing could be removed
            for folder in target.glob("maps *"):
                faults.atomic.sweep(folder)
        found()
        faults.atomic.sweep(target)
        assert all(path.name.startswith("maps ") for path in target.iterdir())
        if not fault.struck:
            break
    assert at > 5
