"""What networks cost, and the network that is not ours."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from prosma_core.config import GateConfig, ModelConfig

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from evidence import networks

    return networks


def config(kind: str = "none") -> ModelConfig:
    return ModelConfig(
        dims=2,
        in_channels=1,
        num_classes=2,
        widths=(4, 8),
        strides=((1, 1), (2, 2)),
        kernels=((3, 3), (3, 3)),
        gate=GateConfig.parse({"kind": kind}, "gate"),
    )


def test_operations_are_those_of_the_convolutions(networks: ModuleType) -> None:
    plain, gated = (networks.cost(config(kind), "own", (32, 32)) for kind in ("none", "prosma"))
    projections, scales = 2 * 4 * 4, 3 * 9 * 4  # two 1x1 convolutions, three depthwise 3x3
    channel_gate = 2 * (4 * 4 + 4 * 4)  # two linear layers, once per tile
    assert gated["flops"] - plain["flops"] == 2 * 32 * 32 * (projections + scales) + channel_gate
    assert gated["parameters"] > plain["parameters"]
    assert networks.cost(config(), "own", (64, 32))["flops"] == 2 * plain["flops"]


def test_missing_library_is_said_with_what_to_install(networks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dynamic_network_architectures", None)
    with pytest.raises(SystemExit, match="pip install --no-deps dynamic-network-architectures"):
        networks.build(config(), "residual-encoder")


def test_residual_encoder_answers_like_our_networks(networks: ModuleType) -> None:
    pytest.importorskip("dynamic_network_architectures", reason="an optional library of the benchmark")
    model, again = (networks.build(config(), "residual-encoder", seed=3) for _ in range(2))
    x = torch.ones(1, 1, 16, 16)
    assert [tuple(logits.shape) for logits in model.forward_deep(x)] == [(1, 2, 16, 16)]
    assert torch.equal(model(x), again(x))
