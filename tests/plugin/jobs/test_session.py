"""Settings that last, and models a person knows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from napari_prosma.jobs import session as session_module
from napari_prosma.jobs.session import Session
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
