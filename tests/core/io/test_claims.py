"""Claims: one process at a time makes a result, and those of processes that ended do not stand in the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from prosma_core.errors import OutputError
from prosma_core.io import atomic, claims
from prosma_core.io.claims import ClaimedError, claimed

posix_only = pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")


def test_a_result_is_claimed_by_one_at_a_time(tmp_path: Path) -> None:
    with claimed(tmp_path / "a.nii.gz"):
        with pytest.raises(ClaimedError, match=rf"A\.nii\.gz is being made by process {os.getpid()} on "):
            claimed(tmp_path / "A.nii.gz").__enter__()  # the same file on some systems
        with claimed(tmp_path / "b.nii.gz"):
            atomic.sweep(tmp_path)
            assert len(list(tmp_path.iterdir())) == 2
    with claimed(tmp_path / "a.nii.gz"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_ends_the_program_while_a_result_is_claimed_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), claimed(tmp_path / "a.nii.gz"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_signals_wait_while_a_claim_is_made_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def take(*given: Any) -> atomic.Part:
        seen.append(claims.is_disturbing())
        return atomic.take(*given)

    monkeypatch.setattr(claims, "take", take)
    with claims.undisturbed(), claimed(tmp_path / "a.nii.gz"):
        assert claims.is_disturbing()
    with claimed(tmp_path / "a.nii.gz"):
        assert not claims.is_disturbing()
    monkeypatch.setattr(claims, "take", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError), claimed(tmp_path / "a.nii.gz"):
        pass
    assert not claims.is_disturbing()
    assert seen == [True, True]


@posix_only
def test_the_claim_of_a_killed_process_is_void(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from prosma_core.io.claims import claimed\n"
        "with claimed(Path(sys.argv[1])):\n    print('ready', flush=True); time.sleep(600)"
    )
    target = tmp_path / "a.zarr"
    with subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(ClaimedError, match=f"process {other.pid} on "):
            claimed(target).__enter__()
        other.kill()
        other.wait()
    with claimed(target):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


@posix_only
@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
@pytest.mark.parametrize(
    ("change", "seconds", "void"),
    [
        ({"start": 1.0}, 0, True),
        ({"host": "elsewhere", "boot": "another"}, 200, False),
        ({"host": "elsewhere", "boot": "another"}, 400, True),
        ({"host": "elsewhere", "boot": "another", "touched": "?"}, 400, False),
    ],
    ids=["number of another process", "elsewhere, alive", "elsewhere, no sign of life", "damaged"],
)
def test_whose_claim_it_is_decides(
    locks: bool, change: dict[str, object], seconds: int, void: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not locks:
        monkeypatch.setattr(atomic, "_lock", lambda _: False)
    target = tmp_path / "a.tif"
    with claimed(target):
        (lock,) = tmp_path.iterdir()
        record = json.loads(lock.read_bytes())
    lock.write_text(json.dumps(record | change))
    os.utime(lock, (time.time() - seconds,) * 2)
    if void:
        with claimed(target):
            pass
        assert not lock.exists()
    else:
        with pytest.raises(ClaimedError, match="elsewhere"):
            claimed(target).__enter__()
        assert lock.exists()


def test_a_living_claim_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "TOUCH_S", 0.01)
    with claimed(tmp_path / "a.tif"):
        (lock,) = tmp_path.iterdir()
        os.utime(lock, (0, 0))
        until = time.monotonic() + 10
        while lock.stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert lock.stat().st_mtime > 0


@posix_only
def test_who_lost_a_claim_does_not_remove_that_of_another(tmp_path: Path) -> None:
    with claimed(tmp_path / "a.tif"):
        (lock,) = tmp_path.iterdir()
        lock.unlink()
        lock.write_text("of another")
    assert lock.read_text() == "of another"
