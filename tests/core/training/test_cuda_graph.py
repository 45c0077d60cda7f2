"""Training steps as CUDA graphs; on a GPU only."""

from __future__ import annotations

import gc
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prosma_core.config.training import resolve_run
from prosma_core.data.geometry import array_spec
from prosma_core.events import StepDone
from prosma_core.io.images import write_image, write_labels
from prosma_core.training.cuda_graph import WARM_UP, Graphed
from prosma_core.training.loop import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    made = torch.Generator("cuda").manual_seed(0)
    return [
        (
            torch.randn(2, 1, 24, 24, device="cuda", generator=made),
            torch.randint(3, (2, 24, 24), device="cuda", generator=made),
        )
        for _ in range(count)
    ]


def gradients_of(model: nn.Module, call: Callable[[], Any] = lambda: None) -> Callable[[Tensor, Tensor], Tensor]:
    def gradients(images: Tensor, labels: Tensor) -> Tensor:
        for parameter in model.parameters():
            parameter.grad = None
        call()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss.detach()

    return gradients


def found_by(gradients: Callable[[Tensor, Tensor], Tensor], model: nn.Module) -> list[list[Tensor]]:
    found = []
    for images, labels in batches(WARM_UP + 4):
        loss = gradients(images, labels)
        found.append([t.clone() for t in (loss, *(p.grad for p in model.parameters()))])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(0.1 * parameter.grad)
                parameter.grad.mul_(0.5)  # as clipping does: what is left there must not count in the next call
    return found


def blobs(root: Path, dims: int) -> Path:
    """Four scans of a bright ball in noise, and their labels."""
    shape, axes = (32,) * dims, "zyx"[-dims:]
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for number in range(4):
        rng = np.random.default_rng(number)
        center = rng.integers(12, 20, dims)
        ball = sum((g - c) ** 2 for g, c in zip(np.indices(shape), center, strict=True)) < 50
        spec = array_spec(shape, axes, (1.0,) * dims, "mm")
        image = (ball * 50 + rng.normal(0, 10, shape)).astype(np.float32)
        write_image(root / "images" / f"{number}.nii.gz", image, spec)
        write_labels(root / "labels" / f"{number}.nii.gz", ball.astype(np.uint8), spec)
    return root


def test_it_gives_the_same_losses_and_gradients_on_other_data_and_weights() -> None:
    found = []
    for wrap in (Graphed, lambda function: function):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.InstanceNorm2d(8), nn.GELU(), nn.Conv2d(8, 3, 1)).cuda()
        graphed = wrap(gradients_of(model))
        found.append(found_by(graphed, model))
        if wrap is Graphed:
            assert graphed._graph is not None
    for graphed, plain in zip(*found, strict=True):
        for a, b in zip(graphed, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_what_waits_for_the_device_is_called_as_it_is_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Conv2d(1, 3, 1).cuda()
    graphed = Graphed(gradients_of(model, lambda: next(model.parameters()).sum().item()))
    with caplog.at_level(logging.WARNING, "prosma_core.training.cuda_graph"):
        found = found_by(graphed, model)
    assert len(caplog.records) == 1
    assert torch.randn(3, device="cuda").isfinite().all()
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert all(bool(torch.isfinite(t).all()) for step in found for t in step)
    assert len({float(step[0]) for step in found}) == len(found)


def test_where_memory_ends_in_the_capture_the_step_goes_on_without(caplog: pytest.LogCaptureFixture) -> None:
    def full() -> None:
        if torch.cuda.is_current_stream_capturing():
            torch.zeros(1, device="cuda")  # torch warns of a graph without any kernel
            torch.empty(2**50, device="cuda")

    model = nn.Conv2d(1, 3, 1).cuda()
    with caplog.at_level(logging.WARNING, "prosma_core.training.cuda_graph"):
        found = found_by(Graphed(gradients_of(model, full)), model)
    assert [record.name for record in caplog.records] == ["prosma_core.training.cuda_graph"]
    assert "memory" in caplog.text
    assert all(bool(torch.isfinite(t).all()) for step in found for t in step)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gate": {"kind": "attention"}},
        {"gate": {"kind": "none"}},
        {"training": {"removed_target": 0.5}},
        {"labels": {"zero": "annotated_slices"}},
        {"training": {"compile": True}},
        {"training": {"amp": True}},
    ],
    ids=["prosma", "attention", "none", "removed", "sparse", "compiled", "amp"],
)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's compiler uses it itself
@pytest.mark.filterwarnings("ignore:TensorFloat32:UserWarning")
def test_a_training_has_the_same_losses(dims: int, changes: dict[str, Any], tmp_path: Path, caplog: Any) -> None:
    losses = []
    folder = blobs(tmp_path / "data", dims)
    for name in ("graphed", "plain"):
        values = {
            "data": folder,
            "out": tmp_path / f"{name}.safetensors",
            "device": "cuda",
            "network": {"width": 8, "max_width": 16, "max_stages": 3},
            "preprocess": {"dims": dims},
            **changes,
        }
        loop = {
            "epochs": 2,
            "steps": 8,
            "batch_size": 2,
            "amp": False,
            "learning_rate": 1e-3,
            "graph": name == "graphed",
        }
        values["training"] = loop | changes.get("training", {})
        losses.append([event.loss for event in train(resolve_run(values)) if isinstance(event, StepDone)])
    assert [record for record in caplog.records if record.name.startswith("prosma_core")] == []
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_its_memory_is_given_back() -> None:
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    model = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.GELU(), nn.Conv2d(64, 3, 1)).cuda()
    graphed = Graphed(gradients_of(model))
    images, labels = torch.randn(8, 1, 256, 256, device="cuda"), torch.randint(3, (8, 256, 256), device="cuda")
    for _ in range(WARM_UP + 2):
        graphed(images, labels)
    assert torch.cuda.memory_reserved() > before + 2**27
    for parameter in model.parameters():
        parameter.grad = None
    graphed.release()
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() < before + 2**26
    assert bool(graphed(images, labels).isfinite())  # captured again
    del graphed, images, labels, model
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before + 2**23


EXCHANGED = """
import os, sys
import torch
from torch import nn
from prosma_core.training.cuda_graph import WARM_UP, Graphed
from prosma_core.training.processes import _Torchrun

group, device = _Torchrun(), torch.device("cuda", 0)
group.choose_gpu()
group.use(device)
found = []
for wrap in (Graphed, lambda function: function):
    torch.manual_seed(0)
    model = nn.Conv2d(1, 3, 3, padding=1).to(device)

    def gradients(images, labels):
        for parameter in model.parameters():
            parameter.grad = None
        ((total,),) = group.summed([nn.functional.cross_entropy(model(images), labels)])
        total.backward()
        group.sum_gradients(model.parameters())
        return total.detach()

    step = wrap(gradients)
    made = torch.Generator("cuda").manual_seed(0)
    for _ in range(WARM_UP + 4):
        images = torch.randn(2, 1, 24, 24, device="cuda", generator=made)
        labels = torch.randint(3, (2, 24, 24), device="cuda", generator=made)
        loss = step(images, labels)
        found.append([t.clone() for t in (loss, *(p.grad for p in model.parameters()))])
    captured = getattr(step, "_graph", None) is not None
    assert captured == (wrap is Graphed), "not captured"
half = len(found) // 2
for one, other in zip(found[:half], found[half:]):
    for a, b in zip(one, other):
        torch.testing.assert_close(a, b)
group.close()
print("equal")
"""


def test_an_exchange_by_nccl_is_captured_with_the_step() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    alone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0", "WORLD_SIZE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", EXCHANGED], env={**os.environ, **alone}, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "equal\n", done.stderr
