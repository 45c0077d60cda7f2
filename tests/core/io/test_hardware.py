"""What is known of the machine: a container's share of its cores, and the file of what was found out."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from prosma_core.config.inference import CpuSettings
from prosma_core.io import atomic
from prosma_core.io.hardware import (
    ARENAS,
    cache_folder,
    cpu_name,
    cpu_quota,
    load_cpu_settings,
    save_cpu_settings,
    usable_cores,
)

WAY = CpuSettings(threads=3, bf16=True)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSMA_CACHE", str(tmp_path / "cache"))


def groups(root: Path, files: dict[str, str], own: str) -> float:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "own").write_text(own)
    return cpu_quota(root, root / "own")


@pytest.mark.parametrize(
    ("files", "own", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 1.5),
        ({"cpu.max": "max 100000\n"}, "0::/\n", math.inf),
        ({"a/cpu.max": "400000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b\n", 4),
        (
            {"cpu/job/cpu.cfs_quota_us": "250000\n", "cpu/job/cpu.cfs_period_us": "100000\n"},
            "4:cpuacct,cpu:/job\n",
            2.5,
        ),
        ({"cpu/job/cpu.cfs_quota_us": "-1\n", "cpu/job/cpu.cfs_period_us": "100000\n"}, "4:cpu:/job\n", math.inf),
        ({"cpu.max": "nonsense"}, "0::/\n", math.inf),
        ({}, "0::/gone\n", math.inf),
    ],
)
def test_the_share_of_a_container_is_read(tmp_path: Path, files: dict[str, str], own: str, cores: float) -> None:
    assert groups(tmp_path, files, own) == cores


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, tmp_path / "missing") == math.inf


def test_this_machine_has_a_name_and_cores() -> None:
    assert cpu_name()
    assert usable_cores() >= 1


@pytest.mark.skipif(os.name == "nt", reason="where there are no locks, a process lives as long as its id")
def test_the_part_of_a_killed_process_is_removed() -> None:
    cache_folder().mkdir()
    os.close(atomic.take(cache_folder() / "cpu.json").descriptor)  # as the system does when a process ends
    load_cpu_settings("a")
    assert list(cache_folder().iterdir()) == []


def test_what_is_kept_is_found_again_beside_what_was_there() -> None:
    other = CpuSettings(threads=1, channels_last=True)
    assert load_cpu_settings("a") is None
    assert save_cpu_settings("a", WAY)
    assert save_cpu_settings("b", other)
    assert (load_cpu_settings("a"), load_cpu_settings("b"), load_cpu_settings("c")) == (WAY, other, None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"a": 3}',
        b'{"a": {"threads": 0}}',
        b'{"a": {"threads": 2, "bf16": "perhaps"}}',
        b'{"a": {"threads": 2, "more": 1}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_holds_nothing_and_is_replaced(content: bytes) -> None:
    cache_folder().mkdir()
    (cache_folder() / "cpu.json").write_bytes(content)
    assert load_cpu_settings("a") is None
    assert save_cpu_settings("a", WAY)
    assert load_cpu_settings("a") == WAY
    assert json.loads((cache_folder() / "cpu.json").read_bytes())["a"]["threads"] == 3


def test_a_folder_that_cannot_be_made_breaks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PROSMA_CACHE", str(tmp_path / "file"))
    assert not save_cpu_settings("a", WAY)
    assert load_cpu_settings("a") is None


MANY_THREADS = """
import sys, threading
from contextlib import nullcontext
import numpy as np, psutil
from prosma_core.io.hardware import returning_memory

def work():
    for _ in range(3):
        large = np.ones(20 << 20, np.uint8)
        ready.wait()
        kept.append(np.ones(100_000, np.uint8))
        del large

first = np.ones(30 << 20, np.uint8)
del first  # from here on, memory of this size is reused
kept, ready = [], threading.Barrier(4)
before = psutil.Process().memory_info().rss
with returning_memory() if sys.argv[1] == "returning" else nullcontext():
    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
print((psutil.Process().memory_info().rss - before) >> 20)
"""


def with_usual_arenas() -> dict[str, str]:
    """The environment without what commands and Dask, which ran in this process, have set."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}


def left_of_freed_arrays(how: str) -> int:
    """MiB that a process holds after four threads have made and freed arrays of 20 MiB."""
    command = [sys.executable, "-c", MANY_THREADS, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=with_usual_arenas())
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries return memory in their own way")
def test_memory_of_freed_arrays_is_returned_where_it_is_asked_for() -> None:
    assert left_of_freed_arrays("returning") < 16
    assert left_of_freed_arrays("usual") > 40


ARENAS_OF_THREADS = """
import ctypes, os, sys, threading
from prosma_core.io.hardware import COMPUTING, limit_arenas

os.environ.update(COMPUTING if sys.argv[1] == "limited" else {})
limit_arenas()
libc, ready = ctypes.CDLL(None), threading.Barrier(6)
libc.fopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]

def work():
    ready.wait()
    kept.append(bytearray(5000))
    ready.wait()

kept = []
threads = [threading.Thread(target=work) for _ in range(6)]
[t.start() for t in threads]
[t.join() for t in threads]
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")
def test_threads_share_few_arenas_of_memory(tmp_path: Path) -> None:
    found = {}
    for how in ("limited", "usual"):
        report = tmp_path / how
        command = [sys.executable, "-c", ARENAS_OF_THREADS, how, str(report)]
        subprocess.run(command, check=True, env=with_usual_arenas())
        found[how] = report.read_text().count("<heap nr=")
    assert found["limited"] <= ARENAS < found["usual"]


REUSING = """
import resource, sys
import numpy as np
from prosma_core.io.hardware import reuse_memory

if sys.argv[1] == "reusing":
    reuse_memory()
np.ones(2 << 20, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(2 << 20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(how: str) -> int:
    """Pages that the system gives for 20 arrays of 512 pages, where Dask has set how memory is returned."""
    done = subprocess.run(
        [sys.executable, "-c", REUSING, how],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"},
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries return memory in their own way")
def test_memory_is_reused_also_where_dask_has_it_returned() -> None:
    assert new_pages("reusing") < 2000
    assert new_pages("usual") > 9000
