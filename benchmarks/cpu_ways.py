"""Ways to compute on a CPU: what the probe takes, and the shipped models by every way, in time and in labels.

    python3 run.py bench cpu_ways [--probes 3] [--threads 2 1] [--repeats 7] [--data ../shared/data --cases 20]

One tile of random numbers per model: all ways alternate in one process; medians by the clock, the work of all threads,
and the share of voxels whose label differs from float32, contiguous. With --data, validation scans of MSD Hippocampus
and BUSI and phantoms are segmented in float32 and in bf16, and compared with each other and with the truth.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

os.environ.update({"THP_MEM_ALLOC_ENABLE": "1", "OMP_WAIT_POLICY": "PASSIVE"})  # as the engine and the command line

import numpy as np
import torch

from prosma_core.config.inference import CpuSettings, InferenceConfig
from prosma_core.data.labels import class_indices
from prosma_core.data.phantom import phantom_3d
from prosma_core.inference import cpu_tuning
from prosma_core.inference.cpu_autotune import bf16_supported, find_fastest, memory_format, threads
from prosma_core.inference.evaluate import measure_case
from prosma_core.inference.segment import Segmenter
from prosma_core.io.bundle import shipped_models
from prosma_core.io.dataset_folder import open_dataset, read_case
from prosma_core.io.hardware import cpu_name, usable_cores

CPU = torch.device("cpu")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probes", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cases", type=int, default=20)
    options = parser.parse_args()
    print(f"{cpu_name()}, {usable_cores()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    for _ in range(options.probes):
        found = find_fastest(cpu_tuning.default_cpu_settings().threads, usable_cores(), bf16=bf16_supported())
        ratios = "; ".join(f"{other.words} {ratio:.2f}" for other, ratio in found.ratios)
        print(f"probe, {found.seconds:.1f} s: {found.settings.words} ({ratios})", flush=True)
    for name, path in shipped_models().items():
        segmenter = Segmenter.load(path, CPU)
        tiles(segmenter, options.threads, options.repeats)
        if options.data:
            scans(name, segmenter, options.data, options.cases)


def tiles(segmenter: Segmenter, counts: Sequence[int], repeats: int) -> None:
    """One tile by every way."""
    model, tile = segmenter.model, segmenter.header.preprocess.tile
    image = torch.randn(1, segmenter.header.model.in_channels, *tile, generator=torch.Generator().manual_seed(0))
    formats = [False, True] if bf16_supported() else [False]
    ways = [CpuSettings(threads=n, bf16=b, channels_last=c) for n in counts for b in formats for c in (False, True)]
    took: dict[CpuSettings, list[tuple[float, float]]] = {how: [] for how in ways}
    labels = {}
    for repeat in range(repeats + 1):
        for how in ways:
            layout = memory_format(len(tile), how)
            model.to(memory_format=layout)
            batch = image.to(memory_format=layout)
            with threads(how.threads), torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=how.bf16):
                clock, work = time.perf_counter(), time.process_time()
                logits = model(batch)
                clock, work = time.perf_counter() - clock, time.process_time() - work
            labels[how] = logits.float().argmax(1)
            if repeat:  # the first round warms up
                took[how].append((clock, work))
    model.to(memory_format=torch.contiguous_format)
    base, right = median(clock for clock, _ in took[ways[0]]), labels[ways[0]]
    print(f"{segmenter.header.name}, tile {'x'.join(map(str, tile))}")
    for how in ways:
        clock, work = (median(times[i] for times in took[how]) for i in (0, 1))
        differ = float((labels[how] != right).float().mean())
        print(f"  {how.words:36}{clock * 1e3:8.1f} ms {clock / base:5.2f}   work {work * 1e3:8.1f} ms   {differ:.3%}")


def scans(name: str, segmenter: Segmenter, data: Path, count: int) -> None:
    """Scans in float32 and in bf16: time, labels, Dice."""
    classes = segmenter.header.classes
    names = {c.value: c.name for c in classes[1:]}
    plain = CpuSettings(threads=torch.get_num_threads())
    seconds = {plain: 0.0, plain.replace(bf16=True): 0.0}
    scores: dict[CpuSettings, list[Any]] = {how: [] for how in seconds}
    differ, worst, voxels = 0, 0.0, 0
    for image, truth in cases(name, data, count):
        found = []
        for how in seconds:
            cpu_tuning.cpu_settings = lambda how=how: how
            began = time.perf_counter()
            found.append(segment(segmenter, image))
            seconds[how] += time.perf_counter() - began
            measures = measure_case(found[-1], class_indices(truth.data, classes, name), image.spec.spacing, names, 1.0)
            scores[how].append([measure.dice for measure in measures.values()])
        other = int(np.count_nonzero(found[0] != found[1]))
        differ, voxels, worst = differ + other, voxels + found[0].size, max(worst, other / found[0].size)
    dice = [np.array(values, float) for values in scores.values()]
    print(
        f"  {len(dice[0])} scans: {', '.join(f'{s:.1f} s' for s in seconds.values())}; differ {differ / voxels:.4%}"
        f", worst scan {worst:.3%}; Dice {np.nanmean(dice[0]):.5f} and {np.nanmean(dice[1]):.5f}"
        f", one scan at most {np.nanmax(np.abs(dice[0] - dice[1])):.5f} apart",
        flush=True,
    )


def cases(name: str, data: Path, count: int) -> Iterator[tuple[Any, Any]]:
    """Scans and labels for a shipped model, spread over the validation cases."""
    if name == "phantom-3d":
        yield from (phantom_3d(seed) for seed in range(7, 7 + min(count, 8)))
        return
    folder = data / {"hippocampus-mri": "msd_hippocampus", "breast-lesion-us": "busi"}[name]
    names = json.loads((folder / "splits.json").read_text(encoding="utf-8"))["val"]
    dataset = open_dataset(folder)
    yield from (read_case(dataset.cases[case]) for case in names[:: max(1, len(names) // count)][:count])


def segment(segmenter: Segmenter, image: Any) -> Any:
    """Labels of a scan."""
    work = segmenter.segment(image, InferenceConfig())
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value.labels.data


if __name__ == "__main__":
    main()
