"""Whatever the engine's process dies of, its job ends with a reason in words and the next one runs."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from prosma_core import errors
from prosma_core.config.training import RunConfig
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.engine.client import NOT_ANSWERING, Engine
from prosma_core.engine.messages import Cancelled, Failed, Finished, TrainRequest
from prosma_core.events import TileDone, Working

Submit = Callable[..., Any]
Noise = Callable[..., Scan]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the faults are signals and scripts of POSIX")

ODDITIES = """
import os, sys

def hook(event, arguments):
    if event == "import" and arguments[0] == "torch":
        os.write(1, b"printed by a library")
    if event == "open" and str(arguments[0]).endswith("trap.safetensors"):
        1 / 0

sys.addaudithook(hook)
"""

READY = '{"kind": "ready", "version": "0", "torch": "0", "devices": {}}'


def wait_until(so: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("last_act", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "most likely because memory ran out"),
        ("os.kill(os.getpid(), signal.SIGBUS)", "shared memory or the disk is full"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "native code in it crashed"),
        ("os.kill(os.getpid(), signal.SIGUSR2)", "SIGUSR2"),
        ("sys.exit(5)", "exit code 5"),
    ],
)
def test_a_process_that_dies_is_mourned_in_words(
    last_act: str,
    words: str,
    own_engine: Engine,
    submit: Submit,
    noise: Noise,
    play_engine: Callable[[str], None],
    model_2d: Path,
) -> None:
    play_engine(f"import os, signal\nprint('{READY}', flush=True)\nsys.stdin.readline()\n{last_act}")
    end = submit(own_engine, model_2d, noise((20, 20), "yx")).end()
    assert isinstance(end, Failed)
    assert type(end.error) is errors.EngineError
    assert f"The background process ended: {words}" in str(end.error).replace("it was killed, ", "").replace(
        "exit code -12, ", ""
    )


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_a_process_that_dies_in_the_middle_is_replaced(
    name: str,
    engine: Engine,
    submit: Submit,
    noise: Noise,
    long_scan: Scan,
    model_2d: Path,
    shared_files: Callable[..., list[Path]],
) -> None:
    heard = submit(engine, model_2d, long_scan)
    heard.wait_for(TileDone)
    pid = engine.pid
    psutil.Process(pid).send_signal(signal.Signals[name])
    end = heard.end()
    assert isinstance(end, Failed)
    assert len(heard.of((Failed, Finished, Cancelled))) == 1
    assert [path for path in shared_files() if path.suffix == ".array"] == []
    if name == "SIGSEGV":
        assert "Segmentation fault" in end.details
        assert "Segmentation fault" in engine.log_tail()
    again = submit(engine, model_2d, noise((20, 20), "yx"))
    assert isinstance(again.end(), Finished)
    assert engine.pid != pid


@pytest.mark.parametrize("when", ["before the request", "as the request is on its way"])
def test_a_process_that_died_between_two_jobs_is_replaced(
    when: str, engine: Engine, submit: Submit, noise: Noise, model_2d: Path
) -> None:
    assert isinstance(submit(engine, model_2d, noise((20, 20), "yx")).end(), Finished)
    process = psutil.Process(engine.pid)
    if when == "before the request":
        process.kill()
        psutil.wait_procs([process], timeout=20)
        heard = submit(engine, model_2d, noise((20, 20), "yx"))
    else:
        process.suspend()
        heard = submit(engine, model_2d, noise((20, 20), "yx"))
        process.kill()
    assert isinstance(heard.end(), Finished)
    assert len(heard.of((Failed, Finished, Cancelled))) == 1
    assert engine.pid != process.pid


def test_a_process_that_does_not_answer_is_killed_after_the_grace_time(
    own_engine: Engine, submit: Submit, noise: Noise, long_scan: Scan, model_2d: Path
) -> None:
    heard = submit(own_engine, model_2d, long_scan)
    heard.wait_for(TileDone)
    process = psutil.Process(own_engine.pid)
    process.suspend()
    heard.job.cancel()
    assert isinstance(heard.end(), Cancelled)
    assert not process.is_running()
    assert isinstance(submit(own_engine, model_2d, noise((20, 20), "yx")).end(), Finished)
    assert len(heard.of((Failed, Finished, Cancelled))) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a running process")
def test_memory_that_ends_is_the_jobs_error_and_the_process_lives_on(
    engine: Engine, submit: Submit, noise: Noise, model_3d: Path
) -> None:
    assert isinstance(submit(engine, model_3d, noise((4, 20, 20), "zyx")).end(), Finished)
    process = psutil.Process(engine.pid)
    unlimited = process.rlimit(psutil.RLIMIT_AS)
    scan = Scan(np.ones((64, 512, 512), np.uint8), array_spec((64, 512, 512), "zyx"))
    scan.data[0] = 0
    process.rlimit(psutil.RLIMIT_AS, (process.memory_info().vms + 100_000_000, unlimited[1]))
    end = submit(engine, model_3d, scan).end()
    assert isinstance(end, Failed)
    assert type(end.error) is errors.DeviceError
    assert "memory" in str(end.error)
    process.rlimit(psutil.RLIMIT_AS, unlimited)
    assert isinstance(submit(engine, model_3d, noise((4, 20, 20), "zyx")).end(), Finished)
    assert engine.pid == process.pid


@pytest.mark.parametrize(
    "said",
    [
        b"\x00\xff\xfenonsense\n",
        b"{}\n",
        b'{"kind": "said", "job": 1, "name": "Explosion", "values": {}}\n',
        b'{"kind": "said", "job": 1, "name": "TileDone", "values": {"done": "many"}}\n',
        b'{"kind": "said", "job": 1, "name": "Failed", "values": {"error": {"kind": "OSError"}}}\n',
        b"[" * 100_000 + b"\n",
    ],
)
def test_a_process_that_sends_garbage_is_ended(
    said: bytes, own_engine: Engine, submit: Submit, noise: Noise, play_engine: Callable[[str], None], model_2d: Path
) -> None:
    play_engine(
        f"print('{READY}', flush=True)\nsys.stdin.readline()\nsys.stdout.buffer.write({said!r})\ntime.sleep(99)"
    )
    heard = submit(own_engine, model_2d, noise((20, 20), "yx"))
    process = psutil.Process(own_engine.pid)
    end = heard.end()
    assert isinstance(end, Failed)
    assert "sent something that cannot be read" in str(end.error)
    assert not process.is_running()


def said(kind: str, **values: Any) -> str:
    """Return the line of a message of job 1."""
    return json.dumps({"kind": "said", "job": 1, "name": kind, "values": values})


def test_a_missing_array_ends_the_process_not_the_program(
    own_engine: Engine, submit: Submit, noise: Noise, play_engine: Callable[[str], None], model_2d: Path
) -> None:
    made = said("ArrayReady", name="labels", array={"path": "/gone", "shape": [2], "dtype": "<f4"})
    play_engine(f"print('{READY}')\nprint('{made}', flush=True)\ntime.sleep(99)")
    end = submit(own_engine, model_2d, noise((20, 20), "yx")).end()
    assert isinstance(end, Failed)
    assert "/gone cannot be opened" in str(end.error)


@pytest.mark.parametrize("again", [False, True])
def test_a_request_that_did_not_arrive_is_sent_once_more(
    again: bool,
    own_engine: Engine,
    submit: Submit,
    noise: Noise,
    play_engine: Callable[[str], None],
    model_2d: Path,
    tmp_path: Path,
) -> None:
    failed, mark = said("Failed", error={"kind": "LabelError", "lines": ["it arrived"]}), str(tmp_path / "mark")
    play_engine(
        f"import os\nfirst = not os.path.exists({mark!r})\nopen({mark!r}, 'a').write('x')\n"
        f"print('{READY}', flush=True)\nsys.stdin.readline()\nif first or {again}:\n    sys.exit(3)\n"
        f"print('{failed}', flush=True)\ntime.sleep(99)"
    )
    own_engine.start()
    wait_until(lambda: own_engine.ready is not None)
    end = submit(own_engine, model_2d, noise((20, 20), "yx")).end()
    assert isinstance(end, Failed)
    assert ("exit code 3" if again else "it arrived") in str(end.error)
    assert Path(mark).read_text() == "xx"


@pytest.mark.parametrize("then", ["cancel", "free", "close"])
def test_nobody_waits_for_a_process_that_reads_nothing(
    then: str,
    own_engine: Engine,
    begin: Submit,
    play_engine: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The request is longer than what a pipe holds, and the process is stopped."""
    monkeypatch.setattr("prosma_core.engine.client.ANSWER", 0.3)
    play_engine(f"print('{READY}', flush=True)\nsys.stdin.readline()\ntime.sleep(99)")
    own_engine.start()
    wait_until(lambda: own_engine.ready is not None)
    process = psutil.Process(own_engine.pid)
    process.suspend()
    run = RunConfig(
        out=tmp_path / "m.safetensors", pairs=[(f"scan{i}.nii.gz", f"labels{i}.nii.gz") for i in range(9000)]
    )
    began = time.monotonic()
    heard = begin(own_engine, TrainRequest(run=run))
    with pytest.raises(errors.EngineBusyError):
        own_engine.check_idle()
    assert own_engine.alive
    heard.job.preview(None)
    assert time.monotonic() - began < 2
    heard.wait_for(Working, so=lambda event: event.message == NOT_ANSWERING)
    began = time.monotonic()
    {"cancel": heard.job.cancel, "free": own_engine.free, "close": own_engine.close}[then]()
    assert isinstance(heard.end(), Cancelled)
    assert time.monotonic() - began < 3
    assert not process.is_running()
    assert len(heard.of(Working)) == 1
    own_engine.check_idle()


def test_a_process_that_is_stopped_at_work_is_said_not_to_answer(
    own_engine: Engine,
    submit: Submit,
    noise: Noise,
    play_engine: Callable[[str], None],
    model_2d: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prosma_core.engine.client.ANSWER", 0.2)
    done = said("Failed", error={"kind": "LabelError", "lines": ["late"]})
    play_engine(
        f'print(\'{READY}\')\nsys.stdin.readline()\nprint(\'{{"kind": "received", "job": 1}}\', flush=True)\n'
        f"time.sleep(1.5)\nprint('{done}', flush=True)\ntime.sleep(99)"
    )
    heard = submit(own_engine, model_2d, noise((20, 20), "yx"))
    wait_until(lambda: heard.job.received)
    time.sleep(0.5)
    assert heard.of(Working) == []
    process = psutil.Process(own_engine.pid)
    process.suspend()
    heard.wait_for(Working, so=lambda event: event.message == NOT_ANSWERING)
    process.resume()
    assert "late" in str(heard.end().error)


def test_an_error_of_an_unknown_class_is_still_told(
    own_engine: Engine, submit: Submit, noise: Noise, play_engine: Callable[[str], None], model_2d: Path
) -> None:
    failed = said("Failed", error={"kind": "annotations", "lines": ["it broke"]}, details="line 3")
    play_engine(f"sys.stdin.readline()\nprint('{failed}', flush=True)\ntime.sleep(99)")
    end = submit(own_engine, model_2d, noise((20, 20), "yx")).end()
    assert (type(end.error), str(end.error), end.details) == (errors.EngineError, "it broke", "line 3")


def test_a_process_that_closes_its_pipe_and_stays_is_ended(
    own_engine: Engine,
    submit: Submit,
    noise: Noise,
    play_engine: Callable[[str], None],
    model_2d: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prosma_core.engine.process.LAST_WORDS", 0.3)
    play_engine("import os\nos.close(1)\ntime.sleep(99)")
    heard = submit(own_engine, model_2d, noise((20, 20), "yx"))
    assert "fell silent" in str(heard.end().error)


def test_an_interpreter_without_torch_is_said_with_its_last_words(
    own_engine: Engine, submit: Submit, noise: Noise, model_2d: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so: file too short')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    end = submit(own_engine, model_2d, noise((20, 20), "yx")).end()
    assert isinstance(end, Failed)
    assert "could not start: ImportError: libtorch.so: file too short." in str(end.error)
    assert "prosma doctor" in str(end.error)
    assert "Traceback" in end.details
    monkeypatch.delenv("PYTHONPATH")
    assert isinstance(submit(own_engine, model_2d, noise((20, 20), "yx")).end(), Finished)


def test_an_interpreter_that_is_not_there_is_said(
    own_engine: Engine, submit: Submit, noise: Noise, model_2d: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    end = submit(own_engine, model_2d, noise((20, 20), "yx")).end()
    assert "could not start" in str(end.error)
    assert "/no/such/python" in str(end.error)
    assert own_engine.pid is None


@pytest.fixture(scope="module")
def odd_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Return an engine where a library prints, files named trap cannot be opened, and the folder has modules' names."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "lib").mkdir()
    (folder / "lib" / "sitecustomize.py").write_text(ODDITIES)
    for name in ("torch.py", "numpy.py", "random.py"):
        (folder / name).write_text("raise RuntimeError('this is a file of the person')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder / "lib"))
        patch.chdir(folder)
        made = Engine()
        made.start()
        assert made.pid
    yield made
    made.close()


def test_what_libraries_print_goes_to_the_log(odd_engine: Engine, submit: Submit, noise: Noise, model_2d: Path) -> None:
    assert isinstance(submit(odd_engine, model_2d, noise((20, 20), "yx")).end(), Finished)
    assert "printed by a library" in odd_engine.log_tail()


def test_an_error_that_nobody_foresaw_is_told_and_the_process_lives_on(
    odd_engine: Engine, submit: Submit, noise: Noise, model_2d: Path, tmp_path: Path
) -> None:
    trap = tmp_path / "trap.safetensors"
    trap.write_bytes(model_2d.read_bytes())
    end = submit(odd_engine, trap, noise((20, 20), "yx")).end()
    assert isinstance(end, Failed)
    assert "An unexpected error: ZeroDivisionError: division by zero. The log has the details." in str(end.error)
    assert "Traceback" in end.details
    pid = odd_engine.pid
    assert isinstance(submit(odd_engine, model_2d, noise((20, 20), "yx")).end(), Finished)
    assert odd_engine.pid == pid


def test_the_process_stands_behind_the_viewer(engine: Engine, submit: Submit, noise: Noise, model_2d: Path) -> None:
    submit(engine, model_2d, noise((20, 20), "yx")).end()
    assert psutil.Process(engine.pid).nice() > psutil.Process().nice()


def test_ctrl_c_in_the_viewers_terminal_does_not_reach_the_engine(
    engine: Engine, submit: Submit, noise: Noise, model_2d: Path
) -> None:
    submit(engine, model_2d, noise((20, 20), "yx")).end()
    pid = engine.pid
    psutil.Process(pid).send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert isinstance(submit(engine, model_2d, noise((20, 20), "yx")).end(), Finished)
    assert engine.pid == pid
