"""What the engine adds to a segmentation in this process: copying the scan, messages, live preview, counting voxels.

    python3 run.py bench engine_overhead [--repeats 9]

Both sides alternate in one script, warm, with the same number of threads and the engine's priority. The engine's side
is what the widget asks for, from the copy of the scan to the last message. The last lines show what a large scan adds.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import psutil
import torch

from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.data.phantom import phantom_3d
from prosma_core.engine.client import Cancelled, Engine, Failed, Finished, Message
from prosma_core.engine.messages import ArrayRef, ScanRef, SegmentRequest, spec_message
from prosma_core.inference.segment import Segmenter
from prosma_core.io.models import find_model


class Sides:
    """The same segmentation in this process and by the engine."""

    def __init__(self, model: str) -> None:
        self._path = find_model(model)
        ready = threading.Event()
        self.engine = Engine(on_ready=lambda _: ready.set())
        self.engine.start()
        ready.wait()
        torch.set_num_threads(psutil.cpu_count(logical=False) or torch.get_num_threads())  # as the engine
        psutil.Process().nice(psutil.Process(self.engine.pid).nice())
        self._segmenter = Segmenter.load(self._path, torch.device("cpu"))

    def here(self, scan: Scan, config: InferenceConfig) -> float:
        """Seconds in this process, as the command line does it."""
        began = time.perf_counter()
        for _ in self._segmenter.segment(scan, config):
            pass
        return time.perf_counter() - began

    def there(self, scan: Scan, config: InferenceConfig) -> float:
        """Seconds by the engine."""
        over = threading.Event()
        ends: list[Message] = []

        def listen(message: Message) -> None:
            if isinstance(message, Finished | Failed | Cancelled):
                ends.append(message)
                over.set()

        began = time.perf_counter()
        reference = ScanRef(array=self.share(scan), spec=spec_message(scan.spec))
        self.engine.submit(SegmentRequest(model=str(self._path), device="cpu", scan=reference, config=config), listen)
        over.wait()
        took = time.perf_counter() - began
        if not isinstance(ends[0], Finished):
            raise SystemExit(f"The engine did not finish: {ends[0]}")
        return took

    def share(self, scan: Scan) -> ArrayRef:
        """Copy a scan to where the engine finds it."""
        shared = self.engine.allocate(scan.spec.shape, scan.data.dtype)
        shared.array[...] = scan.data
        return shared.ref


def compare(name: str, sides: Sides, scan: Scan, config: InferenceConfig, repeats: int) -> None:
    """Alternate both sides, and print."""
    times: dict[str, list[float]] = {"here": [], "there": []}
    order: list[tuple[str, Callable[[Scan, InferenceConfig], float]]] = [("here", sides.here), ("there", sides.there)]
    for repeat in range(repeats + 1):
        for side, run in order if repeat % 2 else order[::-1]:
            took = run(scan, config)
            if repeat:  # the first round warms up
                times[side].append(took)
    here, there = (median(times[side]) for side in ("here", "there"))
    paired = median(b / a for a, b in zip(times["here"], times["there"], strict=True))
    print(f"{name}, {scan.data.dtype} {scan.data.shape}, {repeats} pairs")
    print(f"  in this process {here:.3f} s (least {min(times['here']):.3f})")
    print(f"  by the engine   {there:.3f} s (least {min(times['there']):.3f})")
    print(
        f"  ratio {there / here:.3f}, of the least {min(times['there']) / min(times['here']):.3f}, paired {paired:.3f}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    sides = Sides("phantom-3d")
    print(f"load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    scan, _ = phantom_3d(7, (24, 160, 160))
    compare("phantom", sides, scan, InferenceConfig(), repeats)

    shape = (256, 256, 256)
    data = np.random.default_rng(0).integers(0, 1000, shape, np.uint16)
    large = Scan(data, array_spec(shape, "zyx", (3.0, 1.0, 1.0), "mm"))
    box = InferenceConfig(region=((100, 116), (100, 148), (100, 148)))
    compare("box in a large scan", sides, large, box, repeats)
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
