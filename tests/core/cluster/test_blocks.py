"""A scan larger than memory on a real cluster: its blocks are tasks, and its labels those of one process."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from prosma_core.cluster.connection import Cluster, connect
from prosma_core.cluster.place import Place
from prosma_core.cluster.scans import segment_on
from prosma_core.config import InferenceConfig
from prosma_core.config.model import ChannelIntensity
from prosma_core.events import Event
from prosma_core.inference.files import FileOptions, plan_files
from prosma_core.inference.scan_runs import ScanPlan
from prosma_core.io.bundle import read_header
from prosma_core.io.images import read_image
from prosma_core.io.notes import read_notes
from prosma_core.io.scan_files import ScanChoice

Prosma = Callable[..., tuple[int, str, str]]
Make = Callable[..., Path]
CT = ChannelIntensity(kind="ct", low=200.0, high=800.0, mean=500.0, std=200.0)
SMALL = "from prosma_core.inference import memory; memory.IN_CORE, memory.WORKING = {}, {}"


@pytest.fixture
def cluster(scheduler: str) -> Iterator[Cluster]:
    """Return a cluster whose workers take any scan for one that is larger than memory."""
    with connect(Place(scheduler), patience=60) as cluster:
        cluster.client.wait_for_workers(2, timeout=60)
        cluster.client.run(exec, SMALL.format(1, 1), {})
        yield cluster
        cluster.client.run(exec, SMALL.format(2 << 30, 1 << 30), {})


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Return a zarr of many tiles, and of several time points of which one is empty."""
    data = np.random.default_rng(2).integers(0, 999, (2, 80, 30, 40)).astype(np.uint16)
    data[1] = 7
    array = zarr.create_array(str(tmp_path / "large.zarr"), data=data, chunks=(1, 16, 30, 40), zarr_format=2)
    array.attrs["axes"] = list("tzyx")
    return tmp_path / "large.zarr"


def planned(scan: Path, out: Path, model: Path, config: InferenceConfig) -> ScanPlan:
    return plan_files(ScanChoice((scan,)), out, read_header(model), config, FileOptions(skip_existing=True))


def run(cluster: Cluster, plan: ScanPlan, model: Path, config: InferenceConfig) -> Iterator[Event]:
    return segment_on(cluster, plan, model, config, FileOptions(skip_existing=True), device="cpu")


def content(path: Path) -> tuple[Any, ...]:
    return read_image(path).data.tobytes(), read_notes(path)


def blocks_done(event: Event) -> int:
    """How many blocks an event says are done."""
    found = re.search(r"large (\d+) of \d+ blocks", str(event))
    return int(found[1]) if found else 0


def test_labels_are_those_of_one_process_also_where_a_worker_is_killed_inside_a_block(
    prosma: Prosma, large: Path, make_model: Make, tmp_path: Path, cluster: Cluster
) -> None:
    model, config = make_model(tmp_path / "m.safetensors", 3), InferenceConfig(probabilities=True)
    here, there = tmp_path / "here.zarr", tmp_path / "there.zarr"
    command = ["segment", large, "--model", model, "--device", "cpu", "--probabilities"]
    assert prosma(*command, "--out", here)[0] == 0
    processes, plan, killed, said = cluster.client.run(os.getpid), planned(large, there, model, config), 0, []
    for event in run(cluster, plan, model, config):
        said.append(str(event))
        if not killed and blocks_done(event):
            address = next(at for at, keys in cluster.client.processing().items() if keys)
            killed = processes[address]
            os.kill(killed, signal.SIGKILL)
    assert killed, "\n".join(dict.fromkeys(said))
    assert (plan.done, plan.failed) == (1, [])
    assert sum("Computed in 5 blocks" in text for text in said) == 1
    assert content(there) == content(here)
    one, other = (read_image(tmp_path / f"{name}_probabilities.zarr").data for name in ("here", "there"))
    np.testing.assert_array_equal(one, other)
    assert not list(tmp_path.glob(".prosma*"))


def test_what_was_stopped_is_continued_and_done_blocks_stay(
    prosma: Prosma, large: Path, make_model: Make, tmp_path: Path, cluster: Cluster
) -> None:
    model, config = make_model(tmp_path / "m.safetensors", 3), InferenceConfig()
    here, there = tmp_path / "here.zarr", tmp_path / "there.zarr"
    assert prosma("segment", large, "--model", model, "--device", "cpu", "--out", here)[0] == 0
    with closing(run(cluster, planned(large, there, model, config), model, config)) as work:
        next(event for event in work if blocks_done(event))
    assert not there.exists()
    plan = planned(large, there, model, config)
    said = [str(event) for event in run(cluster, plan, model, config)]
    (stay,) = {text for text in said if "of an earlier run stay" in text}
    assert int(stay.split("large: ")[1].split()[0]) > 0
    assert (plan.done, plan.failed) == (1, [])
    assert content(there) == content(here)


@pytest.mark.parametrize("intensities", ["ct", "zscore"])
def test_a_chunk_that_cannot_be_read_costs_its_blocks_only(
    intensities: str, prosma: Prosma, large: Path, make_model: Make, tmp_path: Path, cluster: Cluster
) -> None:
    more = {"intensities": (CT,)} if intensities == "ct" else {}
    model, config = make_model(tmp_path / "m.safetensors", 3, **more), InferenceConfig()
    here, there = tmp_path / "here.zarr", tmp_path / "there.zarr"
    assert prosma("segment", large, "--model", model, "--device", "cpu", "--out", here)[0] == 0
    chunk = large / "0.4.0.0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-3])
    plan = planned(large, there, model, config)
    list(run(cluster, plan, model, config))
    error = plan.failed[0].error
    assert f"{chunk} is damaged" in error
    left, total = map(int, re.search(r"(\d+) of (\d+) blocks reach it and are not done", error).groups())  # type: ignore[union-attr]
    assert 0 < left < total
    again = planned(large, there, model, config)
    said = [str(event) for event in run(cluster, again, model, config)]  # it is still damaged
    assert again.failed[0].error == error
    assert sum(f"large: {total - left} blocks of an earlier run stay" in text for text in said) == 1
    chunk.write_bytes(whole)
    plan = planned(large, there, model, config)
    said = [str(event) for event in run(cluster, plan, model, config)]
    assert (plan.done, plan.failed) == (1, [])
    assert sum(f"large: {total - left} blocks of an earlier run stay" in text for text in said) == 1
    assert any("computed again" in text for text in said) == (intensities == "zscore")
    assert content(there) == content(here)
    assert not list(tmp_path.glob(".prosma*"))
