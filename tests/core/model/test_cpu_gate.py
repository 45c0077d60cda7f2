"""The gate's path for x86 processors against the gate as plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prosma_core.config.model import LITE0_STRIDES, GateConfig, GateForm, ModelConfig
from prosma_core.io.bundle import find_model, load_bundle
from prosma_core.model.gate import ProximalGate, build_gate
from prosma_core.model.gate_hooks import GateRecord, recording_gate
from prosma_core.model.kernels import cpu
from prosma_core.model.pretrained import imagenet_weights
from prosma_core.model.prox import THRESHOLDS
from prosma_core.model.unet import UNet, build_model, model_from

pytestmark = pytest.mark.skipif(not cpu.usable(torch.zeros(1)), reason="the path is for x86 processors with oneDNN")

SHAPES = [
    ((3, 3, 3), (9, 6, 11)),
    ((3, 3, 3), (8, 8, 8)),
    ((1, 3, 3), (5, 8, 9)),
    ((3, 3), (16, 12)),
    ((3, 3), (7, 1)),
    ((3, 3, 3), (1, 2, 3)),
]


def gate_of(channels: int, kernel: tuple[int, ...], **config: object) -> ProximalGate:
    torch.manual_seed(0)
    gate = build_gate(channels, kernel, GateConfig.model_validate(config))
    assert isinstance(gate, ProximalGate)
    torch.nn.init.normal_(gate.offset, std=0.2)
    return gate


def run(gate: ProximalGate, x: Tensor, g: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Gated skip, and the gradients of x, g and all parameters from its square."""
    inputs = [x.clone().requires_grad_(), g.clone().requires_grad_()]
    out = gate(*inputs)
    wanted = [*inputs, *gate.parameters()]
    found = torch.autograd.grad(out.square().mean(), wanted, allow_unused=True)
    return out.detach(), [torch.zeros_like(w) if f is None else f for w, f in zip(wanted, found, strict=True)]


def check(gate: ProximalGate, x: Tensor, g: Tensor) -> None:
    """Value and gradients in float32 by this path, and in float64 by plain PyTorch, are the same up to rounding.

    A value that lies at the threshold may fall on either side of it, so a few voxels may differ by a little.
    """
    out, gradients = run(gate, x, g)
    with torch.no_grad():
        torch.testing.assert_close(gate(x, g), out, rtol=1e-5, atol=1e-5)
    expected, expected_gradients = run(gate.double(), x.double(), g.double())
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4)
    for found, right in zip(gradients, expected_gradients, strict=True):
        assert (found.double() - right).norm() <= 1e-3 * right.norm() + 1e-6
    assert out.is_contiguous()


@pytest.mark.parametrize("form", sorted(THRESHOLDS))
@pytest.mark.parametrize(("kernel", "grid"), SHAPES)
def test_value_and_gradients_are_those_of_plain_pytorch(
    kernel: tuple[int, ...], grid: tuple[int, ...], form: str
) -> None:
    x, g = torch.randn(2, 2, 6, *grid, generator=torch.Generator().manual_seed(1)).unbind()
    check(gate_of(6, kernel, form=form), x, g)


@pytest.mark.parametrize("form", sorted(THRESHOLDS))
def test_a_form_that_cannot_be_computed_in_place_has_the_same_values(
    form: GateForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = gate_of(6, (3, 3), form=form)
    x, g = torch.randn(2, 2, 6, 16, 12, generator=torch.Generator().manual_seed(1)).unbind()
    monkeypatch.delitem(cpu.IN_PLACE, form, raising=False)
    with torch.no_grad():
        torch.testing.assert_close(gate(x, g).double(), gate.double()(x.double(), g.double()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["prosma", "attention"])
def test_gates_stay_float32_where_the_rest_of_a_network_is_bf16(kind: str) -> None:
    torch.manual_seed(0)
    gate = build_gate(6, (3, 3, 3), GateConfig.model_validate({"kind": kind}))
    x, g = torch.randn(2, 2, 6, 8, 9, 10).bfloat16().unbind()
    with torch.no_grad():
        right = gate(x.float(), g.float())
        with torch.autocast("cpu", torch.bfloat16):
            out = gate(x, g)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, right.bfloat16())


@settings(deadline=None, max_examples=25)
@given(
    grid=st.lists(st.integers(1, 9), min_size=2, max_size=3),
    dilations=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    channels=st.sampled_from([1, 3, 16, 80]),
    scans=st.integers(1, 2),
    channel_gate=st.booleans(),
)
def test_any_shape_and_any_dilations(
    grid: list[int], dilations: list[int], channels: int, scans: int, channel_gate: bool
) -> None:
    x, g = torch.randn(2, scans, channels, *grid, generator=torch.Generator().manual_seed(2)).unbind()
    gate = gate_of(channels, (3,) * len(grid), dilations=tuple(dilations), channel_gate=channel_gate)
    check(gate, x, g)


def test_scales_add_up_to_the_field() -> None:
    gate = gate_of(5, (3, 3, 3))
    x, g = torch.randn(2, 1, 5, 6, 7, 8, generator=torch.Generator().manual_seed(3)).unbind()
    records: list[GateRecord] = []
    with recording_gate(gate, records.append):
        gate(x, g)
        gate.double()(x.double(), g.double())
    fields, double = (record.fields for record in records)
    assert len(fields) == 3
    for found, expected in zip(fields, double, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_inputs_are_left_alone() -> None:
    gate = gate_of(4, (3, 3))
    x, g = torch.randn(2, 1, 4, 8, 8).unbind()
    kept = x.clone(), g.clone()
    with torch.no_grad():
        gate(x, g)
    assert torch.equal(x, kept[0])
    assert torch.equal(g, kept[1])


def test_layouts_that_are_not_contiguous() -> None:
    gate = gate_of(4, (3, 3))
    x, g = torch.randn(2, 2, 4, 8, 6).unbind()
    expected = gate(x, g)
    turned = [t.to(memory_format=torch.channels_last) for t in (x, g)]
    torch.testing.assert_close(gate(*turned), expected)
    torch.testing.assert_close(gate(x.mT.contiguous().mT, g), expected)


def pretrained_network() -> UNet:
    """Return a network on the pretrained encoder, with its published weights."""
    values = {"dims": 2, "in_channels": 3, "num_classes": 3, "encoder": "efficientnet-lite0"}
    shape = {"widths": (24, 32, 64, 96, 128), "strides": LITE0_STRIDES, "kernels": ((3, 3),) * 5}
    model = build_model(ModelConfig.parse({**values, **shape}, "The network"), seed=0)
    model.load_pretrained(imagenet_weights())
    return model.eval()


def test_only_float32_without_autocast_is_taken() -> None:
    x = torch.zeros(1)
    assert not cpu.usable(x.double())
    assert not cpu.usable(x, x.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert not cpu.usable(x)


@pytest.mark.parametrize("name", ["phantom-3d", "hippocampus-mri", "breast-lesion-us", "efficientnet-lite0"])
def test_shipped_models_give_the_labels_they_give_as_plain_pytorch(name: str) -> None:
    if name == "efficientnet-lite0":
        model = pretrained_network()
    else:
        header, weights = load_bundle(find_model(name))
        model = model_from(header.model, weights).eval()
    x = torch.randn(1, model.config.in_channels, *(2 * d for d in model.config.divisor))
    with torch.no_grad():
        found = model(x)
        expected = model.double()(x.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)
    best = expected.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 1e-3
    assert torch.equal(found.argmax(1)[clear], expected.argmax(1)[clear])
