"""Settings that last, and models a person knows."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from napari_prosma.jobs import session as session_module
from napari_prosma.jobs.session import ScanMark, Session
from napari_prosma.layers.results import Looks
from prosma_core.errors import ModelFileError
from prosma_core.io import atomic
from prosma_core.io.bundle import read_header, shipped_models


class NoJobs:
    """Notes what would happen to the engine."""

    def __init__(self) -> None:
        self.running = False

    def warm_up(self) -> None:
        self.running = True

    def free(self) -> None:
        self.running = False


@pytest.fixture
def open_session(tmp_path: Path) -> Any:
    """Return what opens a session on one folder of settings, without an engine."""

    return lambda: Session(tmp_path, NoJobs())  # type: ignore[arg-type]


def test_settings_last(open_session) -> None:
    assert open_session().recall("device", "auto") == "auto"
    open_session().remember("device", "cpu")
    assert open_session().recall("device", "auto") == "cpu"


@pytest.mark.skipif(os.name == "nt", reason="where there are no locks, a process lives as long as its id")
def test_the_part_of_a_killed_session_is_removed(open_session, tmp_path: Path) -> None:
    os.close(atomic.take(tmp_path / "settings.json").descriptor)  # as the system does when a process ends
    open_session()
    assert list(tmp_path.glob(".prosma-*")) == []


def test_a_damaged_settings_file_is_left_out(open_session, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{")
    session = open_session()
    assert session.recall("device") is None
    session.remember("device", "cpu")
    assert open_session().recall("device") == "cpu"


def test_two_sessions_that_are_open_at_once_lose_nothing_of_each_other(open_session, tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes(shipped_models()["phantom-3d"].read_bytes())
    first, second = open_session(), open_session()
    entry = first.add_model(own)
    first.remember("sections", {"Segment: Advanced": True})
    first.remember_model(ScanMark("mri", "a"), entry)
    second.remember_model(ScanMark("ct", "b"), entry)
    second.remember("sections", {**second.recall("sections", {}), "Train: Advanced": False})
    second.remember("device", "cpu")
    for session in (first, second, open_session()):
        assert session.models()[-1].path == own
        assert session.recall("sections") == {"Segment: Advanced": True, "Train: Advanced": False}
        assert session.model_for(ScanMark("mri", "a")).near
        assert session.model_for(ScanMark("ct", "b")).near
        assert session.recall("device") == "cpu"


def test_what_one_session_switches_leaves_the_other_switches_alone(open_session, monkeypatch) -> None:
    monkeypatch.setattr(session_module, "LOOKS", Looks())
    session = open_session()
    session.remember("letters", False)  # as another napari does
    session_module.LOOKS.choose(contours=True)
    assert (open_session().recall("contours"), open_session().recall("letters")) == (True, False)


def test_settings_that_cannot_be_saved_are_kept_until_they_can(open_session, monkeypatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    session, other = open_session(), open_session()
    with monkeypatch.context() as patch:
        patch.setattr(session_module, "write_bytes_atomic", full)
        session.remember("device", "cpu")
    other.remember("preset", "quick")
    assert (session.recall("device"), session.recall("preset")) == ("cpu", "quick")
    session.remember("live", False)
    assert [open_session().recall(key) for key in ("device", "preset", "live")] == ["cpu", "quick", False]


def test_models_in_the_folder_of_trained_ones_are_known_though_no_setting_names_them(open_session) -> None:
    session = open_session()
    changes: list[None] = []
    session.models_changed.connect(lambda: changes.append(None))
    session.models_folder.mkdir()
    trained = session.models_folder / "mine.safetensors"
    trained.write_bytes(shipped_models()["phantom-3d"].read_bytes())
    (session.models_folder / "bad.safetensors").write_bytes(b"nothing")
    (session.models_folder / "mine.prosma").mkdir()
    assert [m.path for m in session.models() if not m.shipped] == [trained]
    assert session.add_model(trained).path == trained  # at the end of its training: widgets list it
    assert len(changes) == 1
    assert [m.path for m in open_session().models() if not m.shipped] == [trained]


def test_an_own_model_is_known_from_then_on_and_once(open_session, tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes(shipped_models()["phantom-3d"].read_bytes())
    session = open_session()
    changes: list[None] = []
    session.models_changed.connect(lambda: changes.append(None))
    entry = session.add_model(own)
    session.add_model(own)
    assert len(changes) == 1
    assert not entry.shipped
    assert entry.argument == str(own)
    assert [m.path for m in open_session().models() if not m.shipped] == [own]


def test_the_header_of_a_model_is_read_again_only_where_its_file_is_another(
    open_session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, shipped = tmp_path / "own.safetensors", list(shipped_models().values())
    own.write_bytes(shipped[0].read_bytes())
    session, read = open_session(), []
    first = session.add_model(own)
    session.models()
    monkeypatch.setattr(session_module, "read_header", lambda path: read.append(path) or read_header(path))
    assert session.models()[-1] == first
    assert read == []
    atomic.write_bytes_atomic(own, shipped[1].read_bytes())
    assert session.models()[-1].header == read_header(shipped[1])
    assert session.models()[-1].header == read_header(shipped[1])
    assert read == [own]
    own.write_bytes(b"damaged")
    assert own not in [m.path for m in session.models()]
    own.unlink()
    assert own not in [m.path for m in session.models()]


def test_a_file_that_is_no_model_is_refused(open_session, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"nothing")
    with pytest.raises(ModelFileError, match=r"bad\.safetensors"):
        open_session().add_model(bad)


def test_the_engine_ends_with_the_last_widget(open_session) -> None:
    session = open_session()
    session.widget_opened()
    session.widget_opened()
    session.widget_closed()
    assert session.jobs.running
    session.widget_closed()
    assert not session.jobs.running
