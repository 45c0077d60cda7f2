"""What a look into the gates costs beside a segmentation, its memory against the plan, and the wait of a what-if.

    python3 run.py bench inspect_cost --scan SCAN [--model hippocampus-mri] [--repeats 7]

Inspection (all levels, all maps) and segmentation run alternating in one process on the CPU; then each runs once in a
process of its own, whose peak memory is compared. The what-if runs in the engine, on a made-up image of 256 x 256
with breast-lesion-us: the time from the request to the result, the unchanged result being known.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from statistics import median
from typing import Any, get_args

import psutil
import torch

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.inspection import InspectConfig, LevelEdit, MapKind, Variant
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.data.phantom import phantom_2d
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import Cancelled, Failed, Finished, ScanRef, WhatIfRequest, spec_message
from prosma_core.inference.prepare import plan_scan
from prosma_core.inference.segment import Segmenter
from prosma_core.inspection.inspect import inspect_scan, plan_inspection
from prosma_core.inspection.level_grid import level_cells
from prosma_core.inspection.maps import plan_layout
from prosma_core.io.bundle import find_model
from prosma_core.io.images import read_image

ALL = InspectConfig(maps=get_args(MapKind))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, required=True)
    parser.add_argument("--model", default="hippocampus-mri")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--alone", choices=("segment", "inspect", "without"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    segmenter = Segmenter.load(find_model(options.model), torch.device("cpu"))
    scan = read_image(options.scan)
    work = {
        "segment": lambda: segmenter.segment(scan, InferenceConfig()),
        "inspect": lambda: inspect_scan(segmenter, scan, ALL),
        "without": lambda: inspect_scan(segmenter, scan, ALL.replace(noise_gain=False)),
    }
    if options.alone:
        before = psutil.Process().memory_info().rss
        kept = drain(work[options.alone]())
        print(peak_memory() - before, type(kept).__name__)
        return
    times: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(options.repeats + 1):
        for name, run in work.items():
            began = time.perf_counter()
            drain(run())
            if repeat:  # the first round warms up
                times[name].append(time.perf_counter() - began)
    a, b = median(times["segment"]), median(times["inspect"])
    ratio = median(y / x for x, y in zip(times["segment"], times["inspect"], strict=True))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, scan {scan.spec.shape}, {options.model}")
    print(f"segmentation {a:.3f} s, inspection {b:.3f} s, median of paired ratios {ratio:.2f}")
    more = median(y / x for x, y in zip(times["without"], times["inspect"], strict=True))
    print(f"without the noise gain {median(times['without']):.3f} s; with it, median of paired ratios {more:.2f}")
    taken = {name: measured_alone(options, name) for name in work}
    extra, planned = taken["inspect"] - taken["segment"], planned_extra(segmenter, scan)
    mib = 2**20
    print(f"peak memory beyond the model: segmentation {taken['segment'] / mib:.0f} MiB, ", end="")
    print(f"inspection {taken['inspect'] / mib:.0f} MiB: {extra / mib:.0f} MiB more, planned {planned / mib:.0f} MiB")
    waits = what_if_waits(options.repeats)
    print(f"what-if on 256 x 256, breast-lesion-us: median {median(waits):.3f} s, longest {max(waits):.3f} s")


def drain(work: Generator[Any, None, Any]) -> Any:
    """What a generator returns."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value


def peak_memory() -> int:
    """Most bytes this process has had in memory."""
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measured_alone(options: argparse.Namespace, name: str) -> int:
    """Peak bytes of one run in a process of its own, beyond what the model takes."""
    command = [sys.executable, __file__, "--scan", str(options.scan), "--model", options.model, "--alone", name]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(said.split()[0])


def planned_extra(segmenter: Segmenter, scan: Scan) -> int:
    """Bytes beside a segmentation's that the inspection has planned."""
    header = segmenter.header
    plan = plan_scan(scan, header, None, None)
    tile, levels = header.preprocess.tile, range(len(header.model.widths) - 1)
    cells = [level_cells(level, header.model, tile, ALL.overlap, plan.part) for level in levels]
    layout = plan_layout(plan, header.model, None)
    maps = sum(layout.size(info, level) for level in cells for info in layout.infos(level, ALL.maps))
    return plan_inspection(header.model, cells, maps, 1, segmenter.device, noise=True).extra


def what_if_waits(repeats: int) -> list[float]:
    """Seconds from request to result, in a warm engine, each with another threshold."""
    picture, _ = phantom_2d(0, (256, 256))
    spec, engine, waits = array_spec((256, 256), "yx"), Engine(), []
    for number in range(repeats + 2):
        shared = engine.allocate(spec.shape, picture.data.dtype)
        shared.array[...] = picture.data
        variant = Variant(name="x", edits=(LevelEdit(level=number % 4, threshold=number / 4),))
        scan = ScanRef(array=shared.ref, spec=spec_message(spec))
        request = WhatIfRequest(
            model=str(find_model("breast-lesion-us")), device="cpu", variants=(variant,), scan=scan, key="x"
        )
        over, last = threading.Event(), []

        def hear(message: Any, over: threading.Event = over, last: list[Any] = last) -> None:
            if isinstance(message, Finished | Failed | Cancelled):
                last.append(message)
                over.set()

        began = time.perf_counter()
        engine.submit(request, hear)
        over.wait()
        assert isinstance(last[0], Finished), last
        if number > 1:  # the engine is warm, and has the unchanged result
            waits.append(time.perf_counter() - began)
    engine.close()
    return waits


if __name__ == "__main__":
    main()
