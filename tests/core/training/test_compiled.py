"""Training with the network compiled; with torch's own compiler on a GPU only, where it takes long enough."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from prosma_core.config.model import ModelConfig
from prosma_core.errors import TrainingError
from prosma_core.model.gate_hooks import estimate_removed
from prosma_core.model.unet import UNet, build_model
from prosma_core.training.cuda_graph import compiled

ON_GPU = torch.cuda.is_available()


def network() -> UNet:
    shape = {"widths": (16, 32), "strides": ((1, 1), (2, 2)), "kernels": ((3, 3), (3, 3))}
    return build_model(ModelConfig(dims=2, in_channels=1, num_classes=3, **shape))


def fails(_graph: torch.fx.GraphModule, _inputs: Any) -> Any:
    msg = "no compiler here"
    raise RuntimeError(msg)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what sets how torch compiles."""
    plain = torch.compile

    def use(backend: Any) -> None:
        torch.compiler.reset()
        monkeypatch.setattr(torch, "compile", partial(plain, backend=backend))

    return use


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's compiler uses it itself
@pytest.mark.filterwarnings("ignore:TensorFloat32:UserWarning")
@pytest.mark.parametrize("estimating", [False, True])
def test_it_gives_the_same_logits_and_gradients(backend: Any, estimating: bool) -> None:
    backend("inductor" if ON_GPU else "eager")
    device = "cuda" if ON_GPU else "cpu"
    model, images = network().to(device), torch.randn(2, 1, 32, 32, device=device)
    if estimating:
        estimate_removed(model.skip_gates)
    found = []
    for forward in (model.forward_deep, compiled(model)):
        model.zero_grad()
        logits = forward(images)
        loss = sum(level.square().mean() for level in logits)
        if estimating:
            loss = loss + model.skip_gates[0].estimate
        loss.backward()
        found.append([*logits, *(p.grad for p in model.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # as above
def test_where_torch_cannot_compile_it_says_what_to_set(backend: Any) -> None:
    backend(fails)
    with pytest.raises(TrainingError, match=r"cannot be compiled here .*no compiler here.*compile set to false"):
        compiled(network())(torch.randn(1, 1, 32, 32))
