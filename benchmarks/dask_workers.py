"""What a Dask cluster costs: scans segmented by two workers of one thread each, and by one process with two threads.

    python3 run.py bench dask_workers [--scans 8] [--rounds 3] [--size 64] [--threads 2] [--model hippocampus-mri]

Both are warm: started, the model loaded. They take turns. CPU seconds are those of all processes: workers, scheduler
and client. With other programs on the cores, compare these; the clock then says little. Label maps are compared in
every voxel.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import array_spec
from prosma_core.events import Event, drain
from prosma_core.inference.files import FileOptions, plan_files, segment_plan
from prosma_core.inference.scan_runs import ScanPlan
from prosma_core.io.bundle import find_model, read_header
from prosma_core.io.images import read_labels, write_image
from prosma_core.io.scan_files import ScanChoice

WORKERS = 2


def cpu_seconds() -> float:
    """Of this process so far."""
    return time.process_time()


def silent(event: Event) -> None:
    """Show nothing."""


def timed(work: Callable[[], None], cpu: Callable[[], float]) -> tuple[float, float]:
    """Seconds by the clock and of the processors."""
    began, used = time.perf_counter(), cpu()
    work()
    return time.perf_counter() - began, cpu() - used


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2, help="of the one process; with 1, CPU seconds compare")
    parser.add_argument("--model", default="hippocampus-mri")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Measure in a folder."""
    import torch

    from prosma_core.cluster.connection import connect
    from prosma_core.cluster.place import parse_place
    from prosma_core.cluster.scans import segment_on
    from prosma_core.inference.segment import Segmenter

    rng = np.random.default_rng(0)
    (folder / "scans").mkdir()
    shape = (options.size,) * 3
    for number in range(options.scans):
        data = rng.normal(100, 20, shape).astype(np.float32)
        write_image(folder / "scans" / f"{number}.nii.gz", data, array_spec(shape, "zyx", (1, 1, 1), "mm"))
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers, as `--on local:2` does with two cores
    torch.set_num_threads(options.threads)
    model = find_model(options.model)
    config, how = InferenceConfig(), FileOptions(overwrite=True)

    def planned(name: str) -> ScanPlan:
        return plan_files(ScanChoice((folder / "scans",)), folder / name, read_header(model), config, how)

    segmenter = Segmenter.load(model, torch.device("cpu"))
    with connect(parse_place(f"local:{WORKERS}")) as cluster:

        def here() -> None:
            drain(segment_plan(planned("here"), segmenter, config, how), silent)

        def there() -> None:
            drain(segment_on(cluster, planned("there"), model, config, how, device="cpu"), silent)

        def all_seconds() -> float:
            workers = cluster.client.run(cpu_seconds)
            return cpu_seconds() + sum(workers.values())

        here()
        there()
        rounds = [(timed(here, cpu_seconds), timed(there, all_seconds)) for _ in range(options.rounds)]
    same = [
        np.array_equal(read_labels(path).data, read_labels(folder / "there" / path.name).data)
        for path in sorted((folder / "here").glob("*.nii.gz"))
    ]
    print(f"One process with {options.threads} threads, {WORKERS} workers with one each")
    print(f"{options.scans} scans of {' x '.join(map(str, shape))}, {options.rounds} rounds, median (load {load()})")
    for index, what in enumerate(("clock", "CPU")):
        one, several = (median(each[side][index] for each in rounds) for side in (0, 1))
        ratios = ", ".join(f"{each[1][index] / each[0][index]:.2f}" for each in rounds)
        both = f"one process {one:6.2f} s   {WORKERS} workers {several:6.2f} s"
        print(f"{what:6} {both}   ratio {several / one:.2f} ({ratios})")
    print(f"labels equal in {sum(same)} of {options.scans} scans")


def load() -> str:
    """Processes that want a core, of how many cores."""
    return f"{psutil.getloadavg()[0]:.1f} on {psutil.cpu_count()} cores"


if __name__ == "__main__":
    main()
