"""Many scans as people run them: again, in parts, side by side, stopped in the middle."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prosma_core.data.geometry import array_spec
from prosma_core.errors import OutputError
from prosma_core.inference import files, scan_runs
from prosma_core.io.claims import claimed
from prosma_core.io.images import read_labels, write_image

Prosma = Callable[..., tuple[int, str, str]]
Make = Callable[..., Path]
NAMES = ("one/a.tif", "one/b.tif", "two/a.tif", "two/c.nii.gz")


@pytest.fixture
def command(tmp_path: Path, make_model: Make) -> list[object]:
    """Return arguments that segment four scans in two folders."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, rng.normal(size=(20, 21)).astype(np.float32), array_spec((20, 21), "yx", (2, 2), "mm"))
    model = make_model(tmp_path / "m.safetensors")
    return ["segment", tmp_path / "scans", "--recursive", "--model", model, "--out", tmp_path / "out"]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of scans that are read, in their order."""
    names: list[str] = []
    real = files.open_image

    def read(path: Path, axes: str | None = None) -> Any:
        names.append(path.name)
        return real(path, axes=axes)

    monkeypatch.setattr(files, "open_image", read)
    return names


def written(tmp_path: Path) -> list[str]:
    """Files in the folder for results, hidden ones as well."""
    out = tmp_path / "out"
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def table(path: Path) -> list[tuple[str, str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["result"], row["status"], row["voxels"]) for row in csv.DictReader(file)]


def test_a_finished_folder_is_not_read_again(
    prosma: Prosma, command: list[object], reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "out" / "results.csv"
    assert prosma(*command, "--table", results)[0] == 0
    assert sorted(reads) == sorted(Path(name).name for name in NAMES)
    assert written(tmp_path) == sorted([*NAMES, "results.csv"])
    rows = table(results)
    assert [(name, status) for name, status, _ in rows] == [(name, "done") for name in NAMES]
    reads.clear()
    code, _, err = prosma(*command, "--table", results)
    assert (code, reads) == (4, [])  # before, each was read first
    assert table(results) == rows  # what was not made again has not failed: its result is there
    assert err.count("exists already; add --overwrite") == 8  # when it happens, and in the summary
    assert "--skip-existing" in err
    monkeypatch.setattr("prosma_core.cli.segment.computing_on", None)  # no device is prepared for nothing
    code, _, err = prosma(*command, "--skip-existing")
    assert (code, reads) == (0, [])
    assert "0 segmented, 4 finished already, 0 failed." in err
    assert "another model" not in err
    results.unlink()
    code, _, _ = prosma(*command, "--skip-existing", "--table", results)
    assert (code, reads) == (0, [])
    assert table(results) == rows  # counted in the results


def test_what_is_not_whole_is_not_finished(
    prosma: Prosma, command: list[object], reads: list[str], tmp_path: Path, make_model: Make
) -> None:
    assert prosma(*command, "--probabilities")[0] == 0
    out = tmp_path / "out"
    (out / "one" / "a.tif").unlink()  # as a process that is killed after the probabilities were written
    (out / "one" / "b.tif").write_bytes(b"")
    (out / "two" / "a_probabilities.tif").unlink()
    reads.clear()
    code, _, err = prosma(*command, "--probabilities", "--skip-existing")
    assert code == 3
    assert reads == ["a.tif", "b.tif"]
    assert "two/a.tif: " in err
    assert "exists already; add --overwrite" in err
    assert prosma(*command, "--probabilities", "--skip-existing", "--overwrite")[0] == 0
    assert reads == ["a.tif", "b.tif", "a.tif"]
    (out / "one" / "a_probabilities.tif").write_bytes((tmp_path / "scans" / "one" / "a.tif").read_bytes())
    (out / "one" / "a.tif").unlink()  # and a file of somebody else in its place is never replaced so
    assert prosma(*command, "--probabilities", "--skip-existing")[0] == 3
    other = make_model(tmp_path / "other.safetensors", seed=1)
    (out / "one" / "a.tif").write_bytes((tmp_path / "scans" / "one" / "a.tif").read_bytes())
    command[command.index("--model") + 1] = other
    code, _, err = prosma(*command, "--skip-existing")
    assert code == 0
    assert "3 results there are made with another model or other settings" in err
    assert "1 result there is without a note of a model" in err


def test_files_of_channels_are_one_scan_and_not_read_once_it_is_finished(
    prosma: Prosma, reads: list[str], tmp_path: Path, make_model: Make, make_header: Callable[..., Any]
) -> None:
    rng = np.random.default_rng(0)
    for number in range(4):
        path = tmp_path / "scans" / f"{'ab'[number // 2]}_000{number % 2}.tif"
        path.parent.mkdir(exist_ok=True)
        write_image(path, rng.normal(size=(20, 21)).astype(np.float32), array_spec((20, 21), "yx"))
    model = make_model(tmp_path / "m.safetensors", channels=("t1", "t2"))
    command = ("segment", tmp_path / "scans", "--model", model, "--out", tmp_path / "out", "--skip-existing")
    assert prosma(*command, "--part", "1/2")[0] == 0
    assert written(tmp_path) == ["a.tif"]
    assert prosma(*command, "--part", "2/2")[0] == 0
    assert written(tmp_path) == ["a.tif", "b.tif"]
    reads.clear()
    code, _, err = prosma(*command, "--part", "2/2")
    assert "Part 2 of 2: 1 of 2 scans.\n1 scan of 1 finished already." in err
    assert prosma(*command)[0] == 0
    assert reads == []
    for name in ("a_0000", "a_0001", "b_0000", "b_0001"):  # as where each were a scan of its own
        (tmp_path / "out" / f"{name}.tif").write_bytes((tmp_path / "out" / "a.tif").read_bytes())
    (tmp_path / "out" / "a.tif").unlink()
    (tmp_path / "out" / "b.tif").unlink()
    code, _, err = prosma(*command)
    assert (code, reads) == (0, [])
    assert "4 scans of 4 finished already." in err


def test_what_is_there_of_others_is_not_silently_a_result(
    prosma: Prosma, command: list[object], tmp_path: Path
) -> None:
    scans, other = tmp_path / "scans", tmp_path / "other.zarr"
    picture = np.zeros((20, 21), np.uint8)
    picture[5:9, 5:9] = 200
    for name in ("x.png", "x.bmp"):  # the result of either is x.png
        Image.fromarray(picture).save(scans / name)
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    run = [command[0], *command[3:5], "--skip-existing"]
    code, _, err = prosma(*run, scans / "x.png", "--out", other)
    assert (code, [path.name for path in other.iterdir()]) == (4, ["notes.txt"])
    assert "was not written by this program" in err
    assert prosma(*run, scans / "x.png", "--out", tmp_path / "out")[0] == 0
    code, _, err = prosma(*run, scans / "x.bmp", "--out", tmp_path / "out")
    assert code == 0
    assert "1 result there is of other files than the scan, such as that of x (made from x.png)." in err
    assert "of other files" not in prosma(*run, scans / "x.png", "--out", tmp_path / "out")[2]


def test_exit_codes_tell_all_some_and_none(prosma: Prosma, command: list[object], tmp_path: Path) -> None:
    bad = tmp_path / "scans" / "one" / "b.tif"
    content = bad.read_bytes()
    bad.write_bytes(b"no picture")
    results = tmp_path / "out" / "results.csv"
    assert prosma(*command, "--table", results)[0] == 3
    assert [row[1] for row in table(results)] == ["done", "failed", "done", "done"]
    assert prosma(*command, "--skip-existing")[0] == 3  # three results are there
    assert prosma("segment", bad, *command[2:])[0] == 4
    assert prosma(*command, "--part", "5/4")[0] == 2
    assert prosma(*command[:1], *command[2:])[0] == 2  # no scan
    bad.write_bytes(content)
    assert prosma(*command, "--skip-existing", "--table", results)[0] == 0
    assert [row[1] for row in table(results)] == ["done"] * 4


def test_parts_into_one_folder_give_all_results_and_rows(prosma: Prosma, command: list[object], tmp_path: Path) -> None:
    results = tmp_path / "out" / "results.csv"
    for number in (2, 1, 3, 5, 4):
        code, _, err = prosma(*command, "--table", results, "--part", f"{number}/5")
        assert code == 0
        assert f"Part {number} of 5: {int(number < 5)} of 4 scans." in err
    assert written(tmp_path) == sorted([*NAMES, "results.csv"])
    assert [name for name, _, _ in table(results)] == list(NAMES)


def test_a_list_and_its_root_give_the_same_results(prosma: Prosma, command: list[object], tmp_path: Path) -> None:
    (tmp_path / "scans" / "list.txt").write_text("".join(f"{name}\n" for name in NAMES))
    rest = command[3:]
    code, _, err = prosma("segment", "--list", tmp_path / "scans" / "list.txt", *rest)
    assert code == 3
    assert "would both be written to" in err
    assert "--root" in err
    more = ("--root", tmp_path / "scans", "--skip-existing")
    assert prosma("segment", "--list", tmp_path / "scans" / "list.txt", *rest, *more)[0] == 0
    assert set(NAMES) <= set(written(tmp_path))


def test_of_two_runs_one_refuses_or_waits_and_takes_over(
    prosma: Prosma, command: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_runs, "WAIT_S", 0.01)
    target = tmp_path / "out" / "one" / "a.tif"
    target.parent.mkdir(parents=True)
    with claimed(target):
        code, _, err = prosma(*command)
        assert code == 3
        assert f"a.tif is being made by process {os.getpid()} on " in err
    ended = threading.Event()
    claim = claimed(target)
    claim.__enter__()
    threading.Timer(0.3, lambda: (claim.__exit__(None, None, None), ended.set())).start()
    code, _, err = prosma(*command, "--skip-existing")
    assert ended.is_set()
    assert code == 0
    assert f"one/a.tif is left to process {os.getpid()} on " in err
    assert written(tmp_path) == sorted(NAMES)


def test_a_full_disk_ends_the_run(
    prosma: Prosma, command: list[object], reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OutputError("Cannot write it: no space left.") from OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_labels", full)
    code, _, err = prosma(*command)
    assert (code, len(reads)) == (4, 1)
    assert "3 scans were not started, because nothing more can be written." in err


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_run_that_is_stopped_leaves_nothing_half_done_and_goes_on(
    name: str, prosma: Prosma, command: list[object], tmp_path: Path
) -> None:
    number = getattr(signal, name)
    code = (
        "import time\nfrom prosma_core.cli.main import program\nfrom prosma_core.inference import files\n"
        "real = files.write_labels\n"
        "def slow(path, *rest, **more):\n    real(path, *rest, **more)\n    time.sleep(600 * (path.name == 'b.tif'))\n"
        "files.write_labels = slow\nprogram()\n"
    )
    arguments = [*map(str, command), "--skip-existing", "--table", str(tmp_path / "out" / "results.csv")]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True, env=os.environ | {"CI": "1"}
    ) as process:
        until = time.monotonic() + 120
        while not (tmp_path / "out" / "one" / "b.tif").exists() and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(number)
        began = time.monotonic()
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 10
    assert process.returncode == -number  # by the signal itself, so that the loop of a shell ends as well
    assert "1 of 4 scans segmented. Run the command again for the rest." in err
    assert err.endswith("Stopped.\n" if name == "SIGINT" else "Stopped by SIGTERM.\n")
    assert "Traceback" not in err
    assert written(tmp_path) == ["one/a.tif", "one/b.tif", "results.csv"]
    assert [row[0] for row in table(tmp_path / "out" / "results.csv")] == ["one/a.tif"]
    assert prosma(*arguments)[0] == 0
    assert written(tmp_path) == sorted([*NAMES, "results.csv"])
    assert len(table(tmp_path / "out" / "results.csv")) == 4
    for result in NAMES:
        assert read_labels(tmp_path / "out" / result).data.shape == (20, 21)


def test_signals_are_handled_as_before_afterwards(prosma: Prosma) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert prosma("models", "list")[0] == 0
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_command_goes_on_where_nohup_or_the_shell_has_a_signal_ignored(
    prosma: Prosma, command: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*rest: Any, **more: Any) -> None:
        for number in before:
            signal.raise_signal(number)
        real(*rest, **more)

    real = files.write_labels
    monkeypatch.setattr(files, "write_labels", write)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        code, _, err = prosma(*command)
        assert {signal.getsignal(number) for number in before} == {signal.SIG_IGN}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert code == 0, err
    assert written(tmp_path) == sorted(NAMES)


@pytest.fixture
def usual_sigterm() -> Iterator[None]:
    """SIGTERM as in a process that was just started: a window in this one may have set its own handler."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.usefixtures("usual_sigterm")
def test_a_signal_stops_where_a_library_wraps_it_and_after_torch_is_imported(
    prosma: Prosma, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wraps(**_: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raise RuntimeError("in a library") from error

    def imports(**_: object) -> None:
        monkeypatch.setattr(sys.modules["torch"].__spec__, "_initializing", True)
        signal.raise_signal(signal.SIGTERM)  # an exception there would end the process by a crash
        monkeypatch.setattr(sys.modules["torch"].__spec__, "_initializing", False)
        time.sleep(30)

    for work in (wraps, imports):
        monkeypatch.setattr("prosma_core.cli.main.app", work)
        code, _, err = prosma()
        assert (code, err) == (143, "Stopped by SIGTERM.\n")
