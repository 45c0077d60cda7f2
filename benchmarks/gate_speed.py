"""What the gates cost: fused against plain PyTorch, against memory bandwidth, and the whole network against others.

    python3 run.py bench gate_speed [--device cuda] [--parts gate forward step] [--dims 3 2] [--out DIR/speed.json]

gate: the gate of every level, forward and backward, by the fused kernels and as plain PyTorch, and the fused forward
against five passes over its tensor at the measured bandwidth of a copy. forward, step: U-Nets of the same widths with
proximal gates, attention gates and none, a forward without gradients and a training step (forward of all levels,
loss, backward, optimizer), eager, compiled and as CUDA graphs. Sides alternate in one process; medians. bf16 autocast
on a GPU (3D 2 x 128^3, 2D 16 x 512^2), fp32 on a CPU (smaller).
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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosma_core.config.model import GateConfig, ModelConfig
from prosma_core.model.gate import ProximalGate, build_gate
from prosma_core.model.unet import UNet, build_model

WIDTHS = (32, 64, 128, 256, 320, 320)
SHAPES = {"cuda": {3: (2, 128), 2: (16, 512)}, "cpu": {3: (1, 64), 2: (1, 256)}}
SIDES = {"plain": "none", "prosma": "prosma", "attention": "attention"}
Work = Callable[[], object]


def seconds(work: Work, device: str) -> float:
    """Time of one call."""
    if device == "cpu":
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def alternate(sides: dict[str, Work], device: str, repeats: int) -> dict[str, float]:
    """Median milliseconds of each side, one call of each in turn."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 3):
        for name in list(sides)[:: 1 if repeat % 2 else -1]:
            taken = seconds(sides[name], device)
            if repeat >= 3:
                times[name].append(taken)
    return {name: 1000 * median(values) for name, values in times.items()}


def graphed(work: Work) -> Work:
    """The same work as one CUDA graph; it holds on to the work, whose tensors the graph reads."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()

    def replay(_: Work = work) -> None:
        graph.replay()

    return replay


def autocast(device: str) -> torch.autocast:
    """bf16 on a GPU, nothing on a CPU; casts of weights are not kept, so that graphs can be captured."""
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=False)


def copy_bandwidth(device: str, repeats: int) -> float:
    """Bytes read and written per second by a copy."""
    source = torch.randn((1 << 28) if device == "cuda" else (1 << 24), device=device)
    target = torch.empty_like(source)
    took = alternate({"copy": lambda: target.copy_(source)}, device, repeats)["copy"]
    return 2 * source.nbytes / (took / 1000)


def gate_work(gate: ProximalGate, x: Tensor, g: Tensor, above: Tensor, *, fused: bool, backward: bool) -> Work:
    """Forward, or forward and backward, of one gate."""

    def work() -> None:
        gate.fused = fused
        with autocast(x.device.type), torch.set_grad_enabled(backward):
            out = gate(x, g)
        if backward:
            torch.autograd.grad(out, [x, g, *gate.parameters()], above.to(out.dtype))

    return work


def measure_gates(dims: int, batch: int, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Every level's gate, fused and not."""
    device, found = options.device, {}
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    bandwidth = copy_bandwidth(device, options.repeats)
    found["copy, TB/s"] = bandwidth / 1e12
    for level, width in enumerate(WIDTHS[:-1]):
        shape = (batch, width, *(size >> level,) * dims)
        x, g, above = (torch.randn(shape, device=device, dtype=dtype) for _ in range(3))
        x.requires_grad_()
        g.requires_grad_()
        gate = build_gate(width, (3,) * dims, GateConfig()).to(device)
        assert isinstance(gate, ProximalGate)
        row: dict[str, float] = {"floor": 1000 * 5 * x.nbytes / bandwidth}
        for backward in (False, True):
            sides = {
                side: gate_work(gate, x, g, above, fused=side == "fused", backward=backward)
                for side in ("fused", "reference")
            }
            if device == "cuda":
                sides["fused, graph"] = graphed(sides["fused"])
            times = alternate(sides, device, options.repeats)
            row |= {f"{side}, {'both' if backward else 'forward'}": t for side, t in times.items()}
        found[str(shape)] = row
        print(shape, {name: round(value, 3) for name, value in row.items()}, flush=True)
        del x, g, above, gate
    return found


def network(dims: int, side: str, device: str) -> UNet:
    """U-Net of a side."""
    config = ModelConfig(
        dims=dims,
        in_channels=1,
        num_classes=3,
        widths=WIDTHS,
        strides=((1,) * dims, *((2,) * dims,) * (len(WIDTHS) - 1)),
        kernels=((3,) * dims,) * len(WIDTHS),
        gate=GateConfig(kind=SIDES[side]),
    )
    return build_model(config, seed=0).to(device)


class Deep(nn.Module):
    """All levels' logits as the forward, so that it can be compiled."""

    def __init__(self, model: UNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits of every level, finest first."""
        return self.model.forward_deep(x)


def forward_work(net: Callable[[Tensor], Tensor], x: Tensor) -> Work:
    """Forward without gradients."""

    def work() -> None:
        with torch.no_grad(), autocast(x.device.type):
            net(x)

    return work


def step_work(net: Callable[[Tensor], list[Tensor]], model: UNet, x: Tensor) -> Work:
    """A training step on one batch."""
    labels = torch.randint(3, (x.shape[0], *x.shape[2:]), device=x.device)
    targets = [labels[(slice(None), *(slice(None, None, 1 << i),) * (x.ndim - 2))] for i in range(len(WIDTHS) - 1)]
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.99, nesterov=True, foreach=True)

    def work() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(x.device.type):
            levels = net(x)
        torch.stack([F.cross_entropy(z.float(), t) for z, t in zip(levels, targets, strict=True)]).sum().backward()
        optimizer.step()

    return work


def work_of(part: str, side: str, x: Tensor, *, compiled: bool) -> Work:
    """One side's forward or training step."""
    model = network(x.ndim - 2, side, x.device.type)
    net: nn.Module = model if part == "forward" else Deep(model)
    ready = torch.compile(net, dynamic=False) if compiled else net
    return forward_work(ready, x) if part == "forward" else step_work(ready, model, x)


def peak_of(work: Work, device: str) -> float:
    """Peak memory in GiB of a call after the first, above what lay there before; 0 on a CPU."""
    work()
    if device == "cpu":
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**30


def measure_nets(part: str, dims: int, batch: int, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Forward or training step of the networks, in every mode."""
    x = torch.randn(batch, 1, *(size,) * dims, device=options.device)
    times: dict[str, dict[str, float]] = {side: {} for side in options.sides}
    peaks: dict[str, dict[str, float]] = {side: {} for side in options.sides}
    for mode in options.modes:
        works: dict[str, Work] = {}
        for side in options.sides:
            torch.compiler.reset()
            works[side] = work_of(part, side, x, compiled="compiled" in mode)
            before = torch.cuda.memory_allocated() / 2**30 if options.device == "cuda" else 0.0
            peaks[side][mode] = peak_of(works[side], options.device) - before
            if "graph" in mode:
                works[side] = graphed(works[side])
        for side, took in alternate(works, options.device, options.repeats).items():
            times[side][mode] = took
        print(part, f"{dims}D", mode, {s: round(times[s][mode], 3) for s in works}, flush=True)
        print("    peak GiB", {s: round(peaks[s][mode], 3) for s in works}, flush=True)
        if options.profile and mode == "compiled":
            profile(works, f"{part}{dims}d", Path(options.profile))
        works.clear()
    best = {side: min(values.values()) for side, values in times.items()}
    least = {side: min(values.values()) for side, values in peaks.items()}
    ratios = {side: best[side] / best[options.sides[0]] for side in options.sides}
    print(part, f"{dims}D fastest", {s: f"{best[s]:.2f} ms ({ratios[s]:.3f}x)" for s in best}, flush=True)
    return {"ms": times, "GiB": peaks, "fastest": best, "least GiB": least, "ratio": ratios}


def profile(works: dict[str, Work], name: str, folder: Path) -> None:
    """Write which kernels the time goes to."""
    for side, work in works.items():
        with torch.profiler.profile() as seen:
            work()
            torch.cuda.synchronize()
        table = seen.key_averages().table(sort_by="self_device_time_total", row_limit=25, max_name_column_width=70)
        (folder / f"{name}-{side}.txt").write_text(table, encoding="utf-8")


def arguments() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--parts", nargs="+", default=["gate", "forward", "step"], choices=["gate", "forward", "step"])
    parser.add_argument("--dims", nargs="+", type=int, default=[3, 2], choices=[2, 3])
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--modes", nargs="+", help="Of eager, graph, compiled, compiled+graph.")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--profile", help="Folder for tables of kernels.")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    graphs = ["graph", "compiled+graph"] if options.device == "cuda" else []
    options.modes = options.modes or ["eager", "compiled", *graphs]
    return options


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    print(results, flush=True)
    for dims in options.dims:
        batch, size = SHAPES[options.device][dims]
        batch, size = options.batch or batch, options.size or size
        for part in options.parts:
            measured = (
                measure_gates(dims, batch, size, options)
                if part == "gate"
                else measure_nets(part, dims, batch, size, options)
            )
            results[f"{part} {dims}D {batch}x{size}"] = measured
            if options.out:
                options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
