"""Tiled segmentation against the pure forwards of its tiles, MONAI's sliding window, and an nnU-Net-style loop.

    python3 run.py bench inference_speed [--device cuda] [--size 512] [--tile 128] [--classes 2 30] [--json OUT]

All sides have one network with random weights, one scan of random numbers in main memory (float32), the same tiles
with overlap 0.5, Gaussian weights and one dtype, and give a label map in main memory. They alternate in one process
after one round of warming up, until there are --repeats rounds or --seconds are over for this number of classes;
medians, and the share of voxels where labels differ from ours.

ours: `TiledPredictor` and the decision as `prosma segment` does them. forwards: its batches, again and again, nothing
else. monai: `sliding_window_inference`, the same tiles per forward, sums on the device. nnunet: tile by tile, logits
added up in half precision on the device, a Gaussian map, argmax at the end (written from a description).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from torch import Tensor, nn

from prosma_core.config.model import GateConfig, ModelConfig
from prosma_core.data.grid import gaussian_weight, plan_tiles
from prosma_core.inference.grid_restore import argmax_streaming
from prosma_core.inference.tiled import TiledPredictor
from prosma_core.model import kernels
from prosma_core.model.gate import ProximalGate
from prosma_core.model.unet import build_model

OVERLAP = 0.5
DEFAULTS: dict[str, dict[str, Any]] = {
    "cuda": {"size": 512, "tile": 128, "widths": [32, 64, 128, 256, 320, 320], "batch": 4, "seconds": 30.0},
    "cpu": {"size": 72, "tile": 48, "widths": [16, 32, 64, 128], "batch": 1, "seconds": 150.0},
}
Labels = NDArray[Any]
Side = Callable[[], Labels | None]


def network(classes: int, options: argparse.Namespace) -> nn.Module:
    """Network of the options, in evaluation mode on the device."""
    stages = len(options.widths)
    config = ModelConfig(
        dims=3,
        in_channels=1,
        num_classes=classes,
        widths=tuple(options.widths),
        strides=((1, 1, 1), *((2, 2, 2),) * (stages - 1)),
        kernels=((3, 3, 3),) * stages,
        gate=GateConfig(kind=options.gate),
    )
    model = build_model(config, seed=0).to(options.device).eval()
    if options.device == "cuda" and kernels.usable(torch.zeros(1, device="cuda", dtype=torch.bfloat16)):
        for gate in model.skip_gates:
            if isinstance(gate, ProximalGate):
                gate.fused = True
    return model


def sides(model: nn.Module, image: Tensor, options: argparse.Namespace) -> dict[str, Side]:
    """What is compared; each gives labels, uint8 of the scan's shape, or None."""
    device, tile, batch = torch.device(options.device), (options.tile,) * 3, options.batch
    tiles = plan_tiles(tuple(image.shape[1:]), tile, OVERLAP)
    predictor = TiledPredictor(model, tile, device, overlap=OVERLAP, batch_size=batch)
    resting = torch.randn(batch, 1, *tile, device=device)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def ours() -> Labels:
        run = predictor.predict(image, device)
        while True:
            try:
                next(run)
            except StopIteration as stop:
                return argmax_streaming(iter(stop.value), len(stop.value))

    @torch.no_grad()
    def forwards() -> None:
        for done in range(0, len(tiles), batch):
            with autocast():
                model(resting[: len(tiles) - done])
        if device.type == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def monai() -> Labels:
        with autocast():
            logits = sliding_window_inference(
                image[None], tile, batch, model, OVERLAP, "gaussian", sw_device=device, device=device, progress=False
            )
        assert isinstance(logits, Tensor)
        found: Labels = logits.argmax(1)[0].to(torch.uint8).cpu().numpy()
        return found

    @torch.no_grad()
    def nnunet() -> Labels:
        weight = torch.from_numpy(10 * gaussian_weight(tile)).to(device, torch.half)
        scan, total = image.to(device), None
        weights = torch.zeros(image.shape[1:], dtype=torch.half, device=device)
        for t in tiles:
            with autocast():
                logits = model(scan[(slice(None), *t.slices)][None])[0]
            if total is None:
                total = torch.zeros(len(logits), *image.shape[1:], dtype=torch.half, device=device)
            total[(slice(None), *t.slices)] += logits.half() * weight
            weights[t.slices] += weight
        assert total is not None
        total /= weights
        found: Labels = total.argmax(0).to(torch.uint8).cpu().numpy()
        return found

    return {"ours": ours, "forwards": forwards, "monai": monai, "nnunet": nnunet}


def compare(works: dict[str, Side], options: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of each side, ratios to ours, and how many labels differ."""
    labels = {name: work() for name, work in works.items()}  # warms up
    times: dict[str, list[float]] = {name: [] for name in works}
    clock = time.process_time if options.processor_time else time.perf_counter
    began = time.perf_counter()
    while len(times["ours"]) < options.repeats:
        for name in list(works)[:: 1 if len(times["ours"]) % 2 == 0 else -1]:
            start = clock()
            works[name]()
            times[name].append(clock() - start)
        if time.perf_counter() - began > options.seconds:
            break
    result: dict[str, Any] = {"rounds": len(times["ours"]), "seconds": {n: median(v) for n, v in times.items()}}
    pairs = {n: [a / b for a, b in zip(v, times["ours"], strict=True)] for n, v in times.items()}
    result["ours / forwards"] = 1 / median(pairs["forwards"])
    result |= {f"{name} / ours": median(pairs[name]) for name in ("monai", "nnunet")}
    right = labels["ours"]
    assert right is not None
    others = {n: found for n, found in labels.items() if n != "ours" and found is not None}
    result["other labels"] = {n: float(np.mean(found != right)) for n, found in others.items()}
    return result


def arguments() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", type=int, help="Voxels along each axis of the scan.")
    parser.add_argument("--tile", type=int)
    parser.add_argument("--batch", type=int, help="Tiles per forward of ours, forwards and monai.")
    parser.add_argument("--widths", type=int, nargs="+")
    parser.add_argument("--gate", default="prosma", choices=["prosma", "none"])
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 30])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seconds", type=float, help="Most time for the rounds of one number of classes.")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--processor-time", action="store_true", help="For a busy machine; with --threads 1.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    for name, value in DEFAULTS[options.device].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    scan = torch.from_numpy(np.random.default_rng(0).standard_normal((1, *(options.size,) * 3), dtype=np.float32))
    count = len(plan_tiles((options.size,) * 3, (options.tile,) * 3, OVERLAP))
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    results |= {"size": options.size, "tile": options.tile, "tiles": count, "batch": options.batch}
    results |= {"gate": options.gate, "widths": options.widths}
    print(results, flush=True)
    for classes in options.classes:
        measured = compare(sides(network(classes, options), scan, options), options)
        results[f"{classes} classes"] = measured
        print(f"{classes} classes:", json.dumps(measured), flush=True)
        if options.device == "cuda":
            torch.cuda.empty_cache()
        if options.json:
            options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
