"""The engine's process by itself, at its pipes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from prosma_core.data.geometry import array_spec
from prosma_core.engine.arrays import create, private_folders, remove_folders
from prosma_core.engine.messages import (
    MAX_LINE,
    REPLY,
    Ask,
    Cancel,
    Failed,
    Ready,
    Received,
    ScanRef,
    SegmentRequest,
    encode,
    spec_message,
)
from prosma_core.errors import DeviceError

Process = subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def folders() -> Iterator[list[Path]]:
    """Return private folders, as a client makes them."""
    made = private_folders()
    yield made
    remove_folders(made)


@pytest.fixture(scope="module")
def server(folders: list[Path]) -> Iterator[Process]:
    """Return a process that is ready."""
    command = [sys.executable, "-m", "prosma_core.engine.server", *map(str, folders)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert isinstance(answer(process), Ready)
        yield process
        process.kill()


def answer(process: Process) -> object:
    """What it says next, apart from that a request has arrived."""
    assert process.stdout is not None
    said = REPLY.validate_json(process.stdout.readline())
    return answer(process) if isinstance(said, Received) else said


def say(process: Process, line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"\x00\xff\xfenonsense\n",
        b'{"job": 7, "request": {"kind": "brew coffee"}}\n',
        b'{"cancel": "all"}\n',
        b"[" * 100_000 + b"\n",
        b"x" * (MAX_LINE + 10) + b"\n",
    ],
    ids=["empty", "bytes", "unknown kind", "wrong type", "nested", "too long"],
)
def test_a_line_that_is_no_request_is_refused_and_the_process_lives_on(server: Process, line: bytes) -> None:
    say(server, line)
    refused = answer(server)
    assert refused.job == (7 if b"coffee" in line else None)
    message = refused.message()
    assert isinstance(message, Failed)
    assert "The request cannot be read" in str(message.error)
    say(server, encode(Ask(job=8, request=SegmentRequest(model="none", device="abacus"))))
    failed = answer(server)
    assert failed.job == 8
    message = failed.message()
    assert isinstance(message, Failed)
    assert isinstance(message.error, DeviceError)


def test_a_request_is_served_after_all_that(server: Process, folders: list[Path], model_2d: Path) -> None:
    say(server, encode(Cancel(cancel=99)))
    shared = create(folders, (20, 20), np.float32)
    shared.array[...] = np.random.default_rng(0).normal(size=(20, 20))
    scan = ScanRef(array=shared.ref, spec=spec_message(array_spec((20, 20), "yx")))
    say(server, encode(Ask(job=9, request=SegmentRequest(model=str(model_2d), device="cpu", scan=scan))))
    replies = [answer(server)]
    while replies[-1].name not in {"Finished", "Failed"}:
        replies.append(answer(server))
    assert replies[-1].name == "Finished"


def test_a_process_whose_input_ends_goes_and_takes_only_private_folders_with_it(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"1")
    folders = private_folders()
    command = [sys.executable, "-m", "prosma_core.engine.server", *map(str, folders), str(tmp_path)]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=60, check=True)
    assert done.stdout.count(b"\n") <= 1
    assert (tmp_path / "kept").exists()
    assert not any(folder.exists() for folder in folders)
