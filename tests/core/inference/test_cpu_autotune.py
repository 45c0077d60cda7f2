"""The probe of a CPU: what it takes, what it never tries, and that a machine is probed once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from prosma_core.config.inference import CpuSettings
from prosma_core.errors import DeviceError
from prosma_core.events import StageStarted
from prosma_core.inference import cpu_autotune, cpu_tuning
from prosma_core.inference.cpu_autotune import CLEARLY, Network, Probe, Took, bf16_supported, error, find_fastest
from prosma_core.inference.device import choose_device, prepare_device
from prosma_core.io.hardware import cache_folder

PLAIN = CpuSettings(threads=4)
LAST = PLAIN.replace(channels_last=True)
BF16 = PLAIN.replace(bf16=True)
BOTH = PLAIN.replace(bf16=True, channels_last=True)


class Clock:
    """Forwards that take what a test says: seconds by the clock of each way, 0.1 unless said."""

    def __init__(self) -> None:
        self.takes: dict[CpuSettings, float] = {}
        self.works: dict[CpuSettings, float] = {}
        self.gives: dict[CpuSettings, float] = {}
        self.runs: Counter[CpuSettings] = Counter()
        self.others = 0.0

    def timed(self, network: Network, way: CpuSettings) -> Took:
        self.runs[way] += 1
        clock = self.takes.get(way, 0.1)
        return Took(clock, self.works.get(way, clock), torch.full((4,), self.gives.get(way, 1.0)))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(cpu_autotune, "timed", found.timed)
    monkeypatch.setattr(cpu_autotune, "others_at_work", lambda: lambda: found.others)
    return found


def test_float32_and_contiguous_where_everything_else_is_slower(clock: Clock) -> None:
    clock.takes = {
        PLAIN: 0.1,
        LAST: 0.11,
        BF16: 8.9,
        BOTH: 0.2,
        CpuSettings(threads=2): 0.2,
        CpuSettings(threads=8): 0.1,
    }
    assert find_fastest(4, 8, bf16=True).settings == PLAIN


def test_what_is_not_clearly_faster_is_not_taken(clock: Clock) -> None:
    clock.takes = {LAST: 0.101 * CLEARLY, BF16: 0.101 * CLEARLY}
    assert find_fastest(4, None, bf16=True).settings == PLAIN


@pytest.mark.parametrize("best", [LAST, BF16, BOTH])
def test_the_fastest_is_taken(clock: Clock, best: CpuSettings) -> None:
    clock.takes = {LAST: 0.08, BF16: 0.08, best: 0.05}
    found = find_fastest(4, None, bf16=True)
    assert found.settings == best
    assert dict(found.ratios)[best] == pytest.approx(0.5)


def test_a_layout_that_adds_little_to_bf16_is_left(clock: Clock) -> None:
    clock.takes = {BF16: 0.05, BOTH: 0.049}
    assert find_fastest(4, None, bf16=True).settings == BF16


def test_without_support_bf16_is_never_tried(clock: Clock) -> None:
    clock.takes = {BF16: 0.001, BOTH: 0.001}
    assert find_fastest(4, 8, bf16=False).settings == PLAIN
    assert not any(way.bf16 for way in clock.runs)


@pytest.mark.parametrize("logits", [1.2, float("nan"), float("inf")])
def test_what_is_fast_and_wrong_is_not_taken(clock: Clock, logits: float) -> None:
    clock.takes, clock.gives = {BF16: 0.01}, {BF16: logits}
    assert find_fastest(4, None, bf16=True).settings == PLAIN


def test_what_takes_for_ever_is_tried_once(clock: Clock) -> None:
    clock.takes = {BF16: 9.0}
    find_fastest(4, None, bf16=True)
    assert clock.runs[BF16] == 1


def test_the_slower_of_2d_and_3d_counts(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(network: Network, way: CpuSettings) -> Took:
        slow = way.bf16 and network.image.ndim == 5
        return Took(0.12, 0.12, torch.ones(1)) if slow else Took(0.05 if way.bf16 else 0.1, 0.1, torch.ones(1))

    monkeypatch.setattr(cpu_autotune, "timed", timed)
    assert find_fastest(4, None, bf16=True).settings == PLAIN


def test_less_work_that_takes_longer_is_not_taken_unless_others_are_in_the_way(clock: Clock) -> None:
    clock.takes, clock.works = {BF16: 0.12}, {BF16: 0.05}
    assert find_fastest(4, None, bf16=True).settings == PLAIN
    clock.others = 3.0
    assert find_fastest(4, None, bf16=True).settings == BF16


def test_fewer_threads_are_taken_as_long_as_they_are_clearly_faster(clock: Clock) -> None:
    clock.takes = {CpuSettings(threads=n): t for n, t in ((16, 0.1), (8, 0.08), (4, 0.06), (2, 0.06))}
    found = find_fastest(16, 32, bf16=False)
    assert found.settings.threads == 4
    assert CpuSettings(threads=32) not in clock.runs


def test_all_cores_are_taken_where_that_is_clearly_faster(clock: Clock) -> None:
    clock.takes = {CpuSettings(threads=8): 0.07}
    assert find_fastest(4, 8, bf16=False).settings.threads == 8


def test_threads_stay_where_others_compute_or_a_person_said_how_many(clock: Clock) -> None:
    clock.takes = {CpuSettings(threads=2): 0.01, CpuSettings(threads=8): 0.01}
    assert find_fastest(4, None, bf16=False).settings.threads == 4
    clock.others = 3.0
    assert find_fastest(4, 8, bf16=False).settings.threads == 4


def test_a_real_probe_gives_what_it_tried_and_leaves_the_threads_alone() -> None:
    before = torch.get_num_threads()
    found = find_fastest(1, None, bf16=bf16_supported())
    assert found.settings in [PLAIN.replace(threads=1), *(other for other, _ in found.ratios)]
    assert found.settings.bf16 <= bf16_supported()
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("how", [LAST, BF16, BOTH])
def test_every_way_is_right_but_for_rounding(dims: int, how: CpuSettings) -> None:
    if how.bf16 and not bf16_supported():
        pytest.skip("needs a CPU that multiplies in bfloat16")
    network = Network(dims, 1)
    plain = network.logits(CpuSettings(threads=1))
    assert error(network.logits(how.replace(threads=1)), plain) < (cpu_autotune.RIGHT if how.bf16 else 1e-4)


def test_support_of_bf16_is_what_the_system_says() -> None:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        pytest.skip("needs Linux")
    flags = set(info.read_text().split())
    assert bf16_supported() == bool(flags & {"amx_bf16", "amx_tile", "avx512_bf16"})


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """A machine that nobody has probed, and that finds bf16 fastest; gives how often it was probed."""
    probes: list[int] = []

    def find(base: int, cores: int | None, *, bf16: bool) -> Probe:
        probes.append(base)
        return Probe(CpuSettings(threads=base, bf16=True), (), 1.0)

    monkeypatch.setenv("PROSMA_PROBE", "1")
    monkeypatch.setenv("PROSMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cpu_tuning, "find_fastest", find)
    cpu_tuning.cpu_settings.cache_clear()
    yield lambda: len(probes)
    cpu_tuning.cpu_settings.cache_clear()


def test_a_machine_is_probed_once(machine: Callable[[], int]) -> None:
    assert cpu_tuning.known_cpu_settings() is None
    first = cpu_tuning.cpu_settings()
    assert first.bf16
    assert cpu_tuning.cpu_settings() is first
    cpu_tuning.cpu_settings.cache_clear()  # as in the next process
    assert cpu_tuning.known_cpu_settings() == first
    assert cpu_tuning.cpu_settings() == first
    assert machine() == 1


@pytest.mark.parametrize("what", ["cpu_name", "usable_cores", "bf16_supported"])
def test_another_machine_is_probed_anew(machine: Callable[[], int], monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    cpu_tuning.cpu_settings()
    cpu_tuning.cpu_settings.cache_clear()
    other = {"cpu_name": "another", "usable_cores": 77, "bf16_supported": not bf16_supported()}[what]
    monkeypatch.setattr(cpu_tuning, what, lambda: other)
    cpu_tuning.cpu_settings()
    assert machine() == 2


@pytest.mark.parametrize(("asked", "tried"), [("1", False), ("bf16", True)])
def test_bf16_is_tried_only_where_it_is_asked_for(
    machine: Callable[[], int], monkeypatch: pytest.MonkeyPatch, asked: str, tried: bool
) -> None:
    given: list[bool] = []
    monkeypatch.setenv("PROSMA_PROBE", asked)
    monkeypatch.setattr(cpu_tuning, "bf16_supported", lambda: True)
    found = Probe(CpuSettings(threads=1), (), 0.1)
    monkeypatch.setattr(cpu_tuning, "find_fastest", lambda *_, bf16: given.append(bf16) or found)
    cpu_tuning.cpu_settings()
    assert given == [tried]


def test_a_damaged_file_is_written_anew(machine: Callable[[], int]) -> None:
    cache_folder().mkdir()
    (cache_folder() / "cpu.json").write_text("{")
    first = cpu_tuning.cpu_settings()
    cpu_tuning.cpu_settings.cache_clear()
    assert cpu_tuning.known_cpu_settings() == first


def test_where_nothing_can_be_kept_the_process_still_knows(
    machine: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PROSMA_CACHE", str(tmp_path / "file"))
    assert cpu_tuning.cpu_settings().bf16
    assert cpu_tuning.known_cpu_settings() is cpu_tuning.cpu_settings()
    assert machine() == 1


def test_the_probe_can_be_turned_off(machine: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_tuning.cpu_settings()
    cpu_tuning.cpu_settings.cache_clear()
    monkeypatch.setenv("PROSMA_PROBE", "0")
    assert cpu_tuning.cpu_settings() == CpuSettings(threads=torch.get_num_threads())
    assert machine() == 1


def test_the_device_says_how_it_computes(machine: Callable[[], int]) -> None:
    def prepare() -> tuple[list[object], str, str]:
        work, events = prepare_device("cpu"), []
        while True:
            try:
                events.append(next(work))
            except StopIteration as stop:
                return events, stop.value.inferring, stop.value.reason

    threads = "1 thread" if torch.get_num_threads() == 1 else f"{torch.get_num_threads()} threads"
    assert choose_device("cpu").inferring == f"CPU, {threads} (chosen)"
    events, inferring, reason = prepare()
    assert [type(event) for event in events] == [StageStarted]
    assert inferring == f"CPU, {threads}, bf16 (chosen)"
    assert reason == f"CPU, {threads} (chosen)"  # training is float32
    assert prepare() == ([], inferring, reason)
    with pytest.raises(DeviceError):
        next(prepare_device("abacus"))


@pytest.mark.slow
@pytest.mark.parametrize(("given", "threads"), [(None, 1), ("2", 2)])
def test_a_process_takes_the_threads_that_were_found_unless_a_person_set_them(
    tmp_path: Path, given: str | None, threads: int
) -> None:
    script = (
        "import torch\n"
        "from prosma_core.config.inference import CpuSettings\n"
        "from prosma_core.inference import cpu_tuning\n"
        "from prosma_core.inference.cpu_autotune import Probe\n"
        "probed = lambda base, cores, bf16: Probe(CpuSettings(threads=base if cores is None else 1), (), 0.0)\n"
        "cpu_tuning.find_fastest = probed\n"
        "cpu_tuning.cpu_settings()\n"
        "print(torch.get_num_threads())"
    )

    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment |= {"PROSMA_PROBE": "1", "PROSMA_CACHE": str(tmp_path)}
    environment |= {} if given is None else {"OMP_NUM_THREADS": given}
    run = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    assert run.stdout.split() == [str(threads)]
