"""What tiled segmentation costs outside the network: whole segmentation against the pure forwards of its tiles.

    python3 run.py bench tiled_overhead [--repeats 7] [--size 64 128 128] [--model hippocampus-mri]

Both sides run in one process, alternating, on the CPU with a random scan of 1 mm voxels; the median of each and their
ratio are printed.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import torch

from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.data.grid import padding_to, plan_tiles
from prosma_core.inference.segment import Segmenter
from prosma_core.io.bundle import find_model


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--size", type=int, nargs="+", default=[64, 112, 112])
    parser.add_argument("--model", default="hippocampus-mri")
    options = parser.parse_args()
    segmenter = Segmenter.load(find_model(options.model), torch.device("cpu"))
    shape = tuple(options.size)
    rng = np.random.default_rng(0)
    axes = "zyx"[-len(shape) :]
    scan = Scan(rng.normal(100, 20, shape).astype(np.float32), array_spec(shape, axes, (1.0,) * len(shape), "mm"))
    config = InferenceConfig()
    tile = segmenter.header.preprocess.tile
    padded = tuple(n + sum(p) for n, p in zip(shape, padding_to(shape, tile), strict=True))
    count = len(plan_tiles(padded, tile, config.overlap))
    batch = torch.randn(1, segmenter.header.model.in_channels, *tile)

    def whole() -> None:
        for _ in segmenter.segment(scan, config):
            pass

    @torch.no_grad()
    def forwards() -> None:
        for _ in range(count):
            segmenter.model(batch)

    times: dict[str, list[float]] = {"whole": [], "forwards": []}
    for repeat in range(options.repeats + 1):
        for name, run in (("whole", whole), ("forwards", forwards)):
            began = time.perf_counter()
            run()
            if repeat:  # the first round warms up
                times[name].append(time.perf_counter() - began)
    a, b = median(times["whole"]), median(times["forwards"])
    ratios = [x / y for x, y in zip(times["whole"], times["forwards"], strict=True)]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {count} tiles of {tile}, scan {shape}")
    paired = median(ratios)
    print(f"segmentation {a:.3f} s, forwards {b:.3f} s, ratio {a / b:.3f} (median of paired ratios {paired:.3f})")


if __name__ == "__main__":
    main()
