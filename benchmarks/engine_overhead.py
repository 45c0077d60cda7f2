"""What the engine adds to a segmentation in this process: copying the scan, messages, live preview, counting voxels.

    python3 run.py bench engine_overhead [--repeats 9]

Both sides alternate in one script, warm, with the same number of threads and the engine's priority. The engine's side
is what the widget asks for, from the copy of the scan to the last message. Processor time (of both processes together)
tells the same where other programs disturb the clock, with OMP_NUM_THREADS=1 (threads that wait for each other count as
computing). The last lines show what a large scan adds.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from statistics import median

import numpy as np
import psutil
import torch

from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.data.phantom import phantom_3d
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import (
    ArrayRef,
    Cancelled,
    Failed,
    Finished,
    Message,
    ScanRef,
    SegmentRequest,
    spec_message,
)
from prosma_core.inference.segment import Segmenter
from prosma_core.io.bundle import find_model


class Sides:
    """The same segmentation in this process and by the engine."""

    def __init__(self, model: str) -> None:
        self._path = find_model(model)
        ready = threading.Event()
        self.engine = Engine(on_ready=lambda _: ready.set())
        self.engine.start()
        ready.wait()
        threads = torch.get_num_threads()
        torch.set_num_threads(min(threads, psutil.cpu_count(logical=False) or threads))  # as the engine
        psutil.Process().nice(psutil.Process(self.engine.pid).nice())
        self._segmenter = Segmenter.load(self._path, torch.device("cpu"))

    def here(self, scan: Scan, config: InferenceConfig) -> None:
        """Segment in this process, as the command line does it."""
        for _ in self._segmenter.segment(scan, config):
            pass

    def there(self, scan: Scan, config: InferenceConfig) -> None:
        """Segment by the engine, as the widget does it."""
        over = threading.Event()
        ends: list[Message] = []

        def listen(message: Message) -> None:
            if isinstance(message, Finished | Failed | Cancelled):
                ends.append(message)
                over.set()

        reference = ScanRef(array=self.share(scan), spec=spec_message(scan.spec))
        self.engine.submit(SegmentRequest(model=str(self._path), device="cpu", scan=reference, config=config), listen)
        over.wait()
        if not isinstance(ends[0], Finished):
            raise SystemExit(f"The engine did not finish: {ends[0]}")

    def computing(self) -> float:
        """Processor seconds of both processes so far."""
        times = [psutil.Process(pid).cpu_times() for pid in (os.getpid(), self.engine.pid)]
        return sum(t.user + t.system for t in times)

    def share(self, scan: Scan) -> ArrayRef:
        """Copy a scan to where the engine finds it."""
        shared = self.engine.allocate(scan.spec.shape, scan.data.dtype)
        shared.array[...] = scan.data
        return shared.ref


def compare(name: str, sides: Sides, scan: Scan, config: InferenceConfig, repeats: int) -> None:
    """Alternate both sides, and print."""
    runs = {"in this process": sides.here, "by the engine": sides.there}
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in runs}
    for repeat in range(repeats + 1):
        for side in list(runs)[:: 1 if repeat % 2 else -1]:
            began, computed = time.perf_counter(), sides.computing()
            runs[side](scan, config)
            if repeat:  # the first round warms up
                times[side].append((time.perf_counter() - began, sides.computing() - computed))
    print(f"{name}, {scan.data.dtype} {scan.data.shape}, median of {repeats} pairs")
    for i, measure in enumerate(("clock", "processor")):
        here, there = ([both[i] for both in times[side]] for side in runs)
        paired = median(b / a for a, b in zip(here, there, strict=True))
        print(f"  {measure:10}{median(here):8.3f} s in this process, {median(there):8.3f} s by the engine, ", end="")
        print(f"ratio {median(there) / median(here):.3f} (paired {paired:.3f}, least {min(there) / min(here):.3f})")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    sides = Sides("phantom-3d")
    print(f"load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    scan, _ = phantom_3d(7, (24, 112, 112))
    compare("phantom", sides, scan, InferenceConfig(), repeats)

    shape = (128, 256, 256)
    data = np.random.default_rng(0).integers(0, 1000, shape, np.uint16)
    large = Scan(data, array_spec(shape, "zyx", (3.0, 1.0, 1.0), "mm"))
    box = InferenceConfig(region=((100, 116), (100, 148), (100, 148)))
    compare("box in a large scan", sides, large, box, 3)
    copies = []
    for _ in range(repeats):
        began = time.perf_counter()
        path = sides.share(large).path
        copies.append(time.perf_counter() - began)
        os.unlink(path)  # noqa: PTH108
    print(f"copying the large scan ({data.nbytes >> 20} MiB): {median(copies) * 1000:.0f} ms")
    print(f"load {os.getloadavg()[0]:.1f}")
    sides.engine.close()


if __name__ == "__main__":
    main()
