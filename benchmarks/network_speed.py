"""A training step of our networks against those of MONAI and nnU-Net with as many channels at each level.

    python3 run.py bench network_speed [--device cuda] [--dims 3 2] [--parts step] [--compile] [--out FILE.json]

All have widths 32 to 320, strides of 2, one input channel and 3 classes. A step is the same for all: forward, Dice and
cross-entropy of the finest logits (no deep supervision), backward, AdamW. ``--parts forward`` measures the forward
without gradients. Sides alternate in one process, medians of --repeats after 3 rounds of warming up. On a GPU bf16
autocast, eager, as CUDA graphs, and with --compile as compiled graphs; on a CPU fp32; shapes as in gate_speed. Equal
widths are not equal sizes: parameters and the operations of one image's forward stand beside the times, as does the
peak of GPU memory, weights and optimizer included.

ProSMA-UNet and the plain U-Net are ours: residual blocks, two convolutions each. MONAI's UNet has two residual units
per level and its finest features at half resolution; its AttentionUnet has batch norm. nnU-Net's two are as it plans
them (2 convolutions per stage; residual blocks 1, 3, 4, 6, 6, 6 and one convolution per stage of the decoder) and need
``pip install --no-deps dynamic-network-architectures``; without it they are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from evidence.networks import BLOCKS
from gate_speed import SHAPES, WIDTHS, Work, alternate, autocast, forward_work, graphed, network, peak_of
from monai.networks.nets import AttentionUnet
from monai.networks.nets import UNet as MonaiUNet
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from prosma_core.config.training import TrainingConfig
from prosma_core.model.unet import count_parameters
from prosma_core.training.cuda_graph import Graphed
from prosma_core.training.optimization import SegmentationLoss, build_optimizer

CLASSES = 3
STRIDES = (2,) * (len(WIDTHS) - 1)
LIBRARY = "dynamic_network_architectures"
MEASURED = ("eager", "compiled", "compiled+graph")
"""Modes with a memory of their own; a graph's is that of eager."""
TRAINING = TrainingConfig(deep_supervision=False)


def nnunet(kind: str, dims: int) -> nn.Module:
    """A network of nnU-Net's, with the norm and activation of its plans."""
    from dynamic_network_architectures.architectures import unet

    three, residual = dims == 3, kind == "ResidualEncoderUNet"
    built: nn.Module = getattr(unet, kind)(
        1,
        len(WIDTHS),
        WIDTHS,
        nn.Conv3d if three else nn.Conv2d,
        3,
        (1, *STRIDES),
        BLOCKS[: len(WIDTHS)] if residual else 2,
        CLASSES,
        1 if residual else 2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d if three else nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )
    return built


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "prosma": lambda dims: network(dims, "prosma", "cpu"),
    "plain": lambda dims: network(dims, "plain", "cpu"),
    "monai-unet": lambda dims: MonaiUNet(dims, 1, CLASSES, WIDTHS, STRIDES, num_res_units=2),
    "monai-attention": lambda dims: AttentionUnet(dims, 1, CLASSES, WIDTHS, STRIDES),
    "nnunet-plain": lambda dims: nnunet("PlainConvUNet", dims),
    "nnunet-residual": lambda dims: nnunet("ResidualEncoderUNet", dims),
}


def size_of(model: nn.Module, shape: tuple[int, ...]) -> dict[str, float]:
    """Parameters in millions, and operations of one image's forward in 10^9, counted without computing it."""
    empty = deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        empty(torch.empty(1, *shape[1:], device="meta"))
    return {"parameters, M": count_parameters(model) / 1e6, "GFLOP": counter.get_total_flops() / 1e9}


def step_work(net: Callable[[Tensor], Tensor], model: nn.Module, x: Tensor, *, graph: bool) -> Work:
    """A training step on one batch; all but the optimizer as a CUDA graph if wanted, as our trainer does it."""
    labels = torch.randint(CLASSES, (x.shape[0], 1, *x.shape[2:]), device=x.device)
    loss, optimizer = SegmentationLoss(TRAINING), build_optimizer(model, TRAINING)

    def gradients(images: Tensor, labels: Tensor) -> Tensor:
        with autocast(x.device.type):
            logits = net(images)
        value = loss([logits], labels)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        return value.detach()

    ready = Graphed(gradients) if graph else gradients

    def work() -> None:
        ready(x, labels)
        optimizer.step()

    return work


def work_of(part: str, model: nn.Module, x: Tensor, mode: str) -> Work:
    """A network's forward or training step."""
    net, graph = torch.compile(model, dynamic=False) if "compiled" in mode else model, "graph" in mode
    if part == "step":
        return step_work(net, model, x, graph=graph)
    return graphed(forward_work(net, x)) if graph else forward_work(net, x)


def measure(part: str, models: dict[str, nn.Module], x: Tensor, mode: str, repeats: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each network, and on a GPU its peak memory in GiB (before its graph is captured)."""
    works: dict[str, Work] = {}
    found: dict[str, dict[str, float]] = {}
    torch.compiler.reset()
    for side, model in models.items():
        model.train(part == "step").zero_grad(set_to_none=True)
        others = torch.cuda.memory_allocated() - sum(p.nbytes for p in model.parameters()) if x.is_cuda else 0
        works[side] = work_of(part, model, x, mode)
        peak = peak_of(works[side], x.device.type) - others / 2**30
        found[side] = {f"{mode}, GiB": peak} if x.is_cuda and mode in MEASURED else {}
    times = alternate(works, x.device.type, repeats)
    works.clear()
    if x.is_cuda:
        torch.cuda.empty_cache()  # what a graph holds is its own
    return {side: {f"{mode}, ms": times[side], **found[side]} for side in models}


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print a table; the last column is the fastest mode against the first row's."""
    columns = list(rows[next(iter(rows))])
    fastest = {side: min(value for name, value in row.items() if name.endswith("ms")) for side, row in rows.items()}
    first = next(iter(rows))
    print(f"\n{title}\n| | {' | '.join(columns)} | fastest / {first} |", flush=True)
    print("|---" * (len(columns) + 2) + "|")
    for side, row in rows.items():
        print(f"| {side} | {' | '.join(f'{row[c]:.2f}' for c in columns)} | {fastest[side] / fastest[first]:.3f} |")


def arguments() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--parts", nargs="+", default=["step"], choices=["forward", "step"])
    parser.add_argument("--dims", nargs="+", type=int, default=[3, 2], choices=[2, 3])
    parser.add_argument("--sides", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--compile", action="store_true", help="Also by torch.compile, minutes in all.")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--size", type=int, help="Voxels along each axis, a multiple of 32 from 64 on.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.modes = ["eager", "graph"] if options.device == "cuda" else ["eager"]
    if options.compile:
        options.modes.append("compiled+graph" if options.device == "cuda" else "compiled")
    if importlib.util.find_spec(LIBRARY) is None and any(side.startswith("nnunet") for side in options.sides):
        print("nnU-Net's networks are left out: dynamic-network-architectures is not installed (see --help).")
        options.sides = [side for side in options.sides if not side.startswith("nnunet")]
    return options


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    results |= {"threads": options.threads, "repeats": options.repeats}
    print(results, flush=True)
    for mode in options.modes:  # all of what is quick first
        for dims in options.dims:
            batch, size = SHAPES[options.device][dims]
            shape = (options.batch or batch, 1, *(options.size or size,) * dims)
            x = torch.randn(shape, device=options.device)
            models = {side: NETWORKS[side](dims).to(options.device) for side in options.sides}
            sizes = {side: size_of(model, shape) for side, model in models.items()}
            for part in options.parts:
                title = f"{part} {dims}D {'x'.join(map(str, shape))}"
                rows = results.setdefault(title, dict(sizes))
                for side, found in measure(part, models, x, mode, options.repeats).items():
                    rows[side] = {**rows[side], **found}
                show(title, rows)
                if options.out:
                    options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
