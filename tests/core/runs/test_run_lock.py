"""One process at a time trains into a run folder; the second is told who does, and a lock left behind is replaced."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from prosma_core.errors import OutputError, RunLockedError, TrainingError
from prosma_core.runs.run_folder import RunFolder
from prosma_core.runs.run_state import LOCK_NAME, holder, keep_stopped, run_lock

HOLD = """
import sys
from pathlib import Path
from prosma_core.runs.run_folder import RunFolder
from prosma_core.runs.run_state import run_lock
with run_lock(RunFolder(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["locks", "no locks"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """Return a run folder on a file system with locks, and on one without."""
    if request.param == "no locks":
        fcntl = pytest.importorskip("fcntl")

        def refuse(*_: Any) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
    return RunFolder(tmp_path / "a model.prosma")


def left_behind(folder: RunFolder, **values: Any) -> None:
    """Write the lock of this process, and change what it says: nobody holds it any more."""
    with run_lock(folder):
        said = json.loads((folder.root / LOCK_NAME).read_text())
    folder.root.mkdir(exist_ok=True)
    (folder.root / LOCK_NAME).write_text(json.dumps({**said, **values}))


def test_a_second_training_is_refused_with_who_holds_the_folder(folder: RunFolder) -> None:
    with run_lock(folder):
        here = f"process {os.getpid()} of "
        assert holder(folder).words().startswith(here)
        words = f"{re.escape(str(folder.root))}: {here}.* on .*, since"
        with pytest.raises(RunLockedError, match=words) as error, run_lock(folder):
            pass
        assert "delete" not in str(error.value)
        assert len(str(error.value)) <= 400
        with pytest.raises(RunLockedError, match=here):
            keep_stopped(folder)
    assert not folder.root.exists()  # nothing was written: nothing is left
    assert holder(folder) is None
    with run_lock(folder):
        (folder.root / "kept").touch()
    assert [path.name for path in folder.root.iterdir()] == ["kept"]


def test_the_lock_of_another_process_holds_until_that_is_killed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "m.prosma")
    command = [sys.executable, "-c", HOLD, str(folder.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunLockedError, match=f"process {other.pid} of"), run_lock(folder):
            pass
        assert holder(folder).pid == other.pid
        other.kill()
        other.wait()
    assert (folder.root / LOCK_NAME).exists()
    assert holder(folder) is None
    with run_lock(folder):
        assert holder(folder).pid == os.getpid()


@pytest.mark.parametrize(
    "values",
    [{"pid": 2**22 + 5}, {"created": 1.0}, {"boot": "another start of this machine"}, None],
    ids=["process gone", "process id used again", "machine started again", "damaged"],
)
def test_a_lock_that_was_left_behind_is_replaced(folder: RunFolder, values: dict[str, Any] | None) -> None:
    left_behind(folder, **(values or {}))
    if values is None:
        (folder.root / LOCK_NAME).write_bytes(b'{"pid": ')
    with run_lock(folder):
        assert holder(folder).pid == os.getpid()


def test_a_lock_of_another_machine_is_kept_and_it_is_said_what_to_do(folder: RunFolder) -> None:
    left_behind(folder, host="node-7", boot="another", pid=2**22 + 5)
    words = r"on node-7, since .* If it has ended, delete .*in-use\.lock"
    with pytest.raises(RunLockedError, match=words), run_lock(folder):
        pass
    assert holder(folder).host == "node-7"


def test_of_many_that_begin_at_once_one_trains(folder: RunFolder) -> None:
    together, results = threading.Barrier(4), list[str]()
    known = threading.Condition()

    def train() -> None:
        together.wait()
        try:
            with run_lock(folder):
                tell("trains")
        except RunLockedError:
            tell("refused")

    def tell(result: str) -> None:
        with known:
            results.append(result)
            known.notify_all()
            known.wait_for(lambda: len(results) == 4, 20)

    threads = [threading.Thread(target=train) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["refused"] * 3 + ["trains"]


def test_keeping_what_is_no_run_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no run"):
        keep_stopped(RunFolder(tmp_path / "none.prosma"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_place_of_the_lock_is_neither_written_to_nor_waited_for(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    folder, precious = RunFolder(tmp_path / "m.prosma"), tmp_path / "thesis.txt"
    folder.root.mkdir()
    precious.write_text("years of work")
    (folder.root / LOCK_NAME).symlink_to(precious)
    with pytest.raises(OutputError, match="Cannot write"), run_lock(folder):
        pass
    assert precious.read_text() == "years of work"
    (folder.root / LOCK_NAME).unlink()
    os.mkfifo(folder.root / LOCK_NAME)
    assert holder(folder) is None


def test_a_folder_that_goes_while_the_lock_is_taken_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real, gone = RunFolder(tmp_path / "m.prosma"), os.open, []

    def opened(path: Any, *flags: Any, **more: Any) -> int:
        if str(path).endswith(LOCK_NAME) and not gone:
            gone.append(folder.root.rmdir())
        return real(path, *flags, **more)

    monkeypatch.setattr(os, "open", opened)
    with run_lock(folder):
        assert gone
        assert holder(folder) is not None
