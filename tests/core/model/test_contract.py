"""One contract for every gate form, in 2D and 3D."""

from __future__ import annotations

import copy
import itertools
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from prosma_core.config.model import LITE0_STRIDES, ONE_SIDED, GateConfig, GateForm, ModelConfig
from prosma_core.errors import ConfigError, GeometryError, ModelFileError
from prosma_core.model.gate import ProximalGate, SkipGate, build_gate
from prosma_core.model.gate_hooks import GateRecord, counting, recording_gate
from prosma_core.model.prox import removed_estimate
from prosma_core.model.unet import UNet, build_model, model_from
from prosma_core.model.weights import transfer, weights_of

GATES = {
    **{form: GateConfig(form=form) for form in get_args(GateForm)},
    "no channel gate": GateConfig(channel_gate=False),
    "one scale": GateConfig(dilations=(1,)),
    "attention": GateConfig(kind="attention"),
    "none": GateConfig(kind="none"),
}
PROXIMAL = [name for name, gate in GATES.items() if gate.kind == "prosma"]

every_gate = pytest.mark.parametrize("gate", sorted(GATES))
proximal_gate = pytest.mark.parametrize("gate", PROXIMAL)
both_dims = pytest.mark.parametrize("dims", [2, 3])
every_network = pytest.mark.parametrize(
    ("dims", "gate"),
    [*itertools.product((2, 3), sorted(GATES)), *(("lite0", gate) for gate in ("bounded", "attention", "none"))],
)


def config(dims: int | str, gate: str, *, channels: int = 2, classes: int = 3, thick: bool = False) -> ModelConfig:
    """Settings of a small network with 2 or 3 axes, or on the pretrained encoder (``lite0``)."""
    if dims == "lite0":
        values = {"dims": 2, "in_channels": 3, "num_classes": classes, "encoder": "efficientnet-lite0"}
        shape = {"widths": (4, 5, 6, 7, 8), "strides": LITE0_STRIDES, "kernels": ((3, 3),) * 5}
        return ModelConfig.parse({**values, **shape, "gate": GATES[gate]}, "The network")
    assert isinstance(dims, int)
    first = (2,) * dims if not thick else (1, *(2,) * (dims - 1))
    kernel = (3,) * dims if not thick else (1, *(3,) * (dims - 1))
    return ModelConfig(
        dims=dims,
        in_channels=channels,
        num_classes=classes,
        widths=(4, 6, 8),
        strides=((1,) * dims, first, (2,) * dims),
        kernels=(kernel, (3,) * dims, (3,) * dims),
        gate=GATES[gate],
    )


def scan(model: UNet, size: int = 1, seed: int = 0) -> torch.Tensor:
    grid = [size * d * 2 for d in model.config.divisor]
    return torch.randn(2, model.config.in_channels, *grid, generator=torch.Generator().manual_seed(seed))


def recorded(gate: SkipGate, x: torch.Tensor, g: torch.Tensor) -> GateRecord:
    """Return what a gate did in one forward."""
    records: list[GateRecord] = []
    with recording_gate(gate, records.append):
        gate(x, g)
    return records[0]


@every_gate
@both_dims
@pytest.mark.parametrize("thick", [False, True])
def test_forward_gives_logits_on_the_input_grid_and_backward_reaches_every_weight(dims, gate, thick) -> None:
    model = build_model(config(dims, gate, thick=thick), seed=0)
    x = scan(model)
    levels = model.forward_deep(x)
    assert levels[0].shape == (2, 3, *x.shape[2:])
    assert [tuple(a.shape[2:]) for a in levels[1:]] == [
        tuple(n // s for n, s in zip(x.shape[2:], model.config.strides[1], strict=True))
    ]
    torch.stack([level.square().mean() for level in levels]).sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


@every_network
def test_evaluation_is_deterministic_and_leaves_the_input_alone(dims, gate) -> None:
    model = build_model(config(dims, gate), seed=0).eval()
    x = scan(model)
    before = x.clone()
    with torch.no_grad():
        assert torch.equal(model(x), model(x))
    assert torch.equal(x, before)


@every_network
def test_weights_go_out_and_in_exactly(dims, gate) -> None:
    model = build_model(config(dims, gate), seed=3).eval()
    again = model_from(model.config, weights_of(model.state_dict()))
    x = scan(model)
    with torch.no_grad():
        assert torch.equal(model(x), again(x))


@every_network
def test_open_gates_make_the_network_the_plain_unet_with_the_same_weights(dims, gate) -> None:
    model = build_model(config(dims, gate), seed=1).eval()
    plain = build_model(config(dims, "none"), seed=2).eval()
    transfer(plain, weights_of(model.state_dict()))
    x = scan(model)
    with torch.no_grad():
        if gate != "none":
            assert not torch.equal(model(x), plain(x))
        for skip_gate in model.skip_gates:
            skip_gate.forced = "open"
        assert torch.equal(model(x), plain(x))


@every_network
def test_the_same_seed_gives_the_same_weights_and_leaves_torch_alone(dims, gate) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a = build_model(config(dims, gate), seed=7).state_dict()
    assert torch.equal(torch.rand(3), expected)
    b = build_model(config(dims, gate), seed=7).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
@proximal_gate
@both_dims
def test_gradcheck_in_float64(dims, gate) -> None:
    torch.manual_seed(0)
    module = build_gate(3, (3,) * dims, GATES[gate]).double()
    grid = (5, 4) if dims == 2 else (4, 3, 3)
    x = torch.randn(1, 3, *grid, dtype=torch.float64, requires_grad=True)
    g = torch.randn(1, 3, *grid, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda *tensors: module(tensors[0], tensors[1]), (x, g, *module.parameters()), atol=1e-6)


@proximal_gate
@both_dims
@given(seed=st.integers(0, 2**31), factor=st.floats(0.1, 8))
@settings(max_examples=10)
def test_removed_means_exactly_zero_and_grows_with_the_threshold(dims, gate, seed, factor) -> None:
    torch.manual_seed(seed)
    module = build_gate(4, (3,) * dims, GATES[gate])
    assert isinstance(module, ProximalGate)
    x, g = torch.randn(1, 4, *(6,) * dims), torch.randn(1, 4, *(6,) * dims)
    per_channel = (-1,) + (1,) * dims
    with torch.no_grad():
        record = recorded(module, x, g)
        z = sum(record.fields, module.offset.view(per_channel))
        size = z if module.form in ONE_SIDED else z.abs()
        removed = record.a == 0
        assert torch.equal(removed, size <= module.threshold().view(per_channel))
        assert bool((module(x, g)[removed] == 0).all())
        raised = copy.deepcopy(module)
        raised.raw_threshold += factor
        assert bool((removed <= (recorded(raised, x, g).a == 0)).all())


@proximal_gate
@both_dims
def test_branches_add_up_to_one_sparse_kernel(dims, gate) -> None:
    torch.manual_seed(0)
    module = build_gate(3, (3,) * dims, GATES[gate])
    x, g = torch.randn(1, 3, *(11,) * dims), torch.randn(1, 3, *(11,) * dims)
    reach = max(GATES[gate].dilations)
    merged = torch.zeros(3, 1, *(2 * reach + 1,) * dims)
    for scale, d in zip(module.scales, GATES[gate].dilations, strict=True):
        merged[(slice(None), slice(None), *(slice(reach - d, reach + d + 1, d),) * dims)] += scale.weight
    q = torch.nn.functional.gelu(module.project_skip(x) + module.project_decoder(g))
    conv = {2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}[dims]
    taps = int((merged[0] != 0).sum())
    assert taps == {1: 3**dims, 3: 3 * (3**dims - 1) + 1}[len(GATES[gate].dilations)]
    torch.testing.assert_close(conv(q, merged, padding=reach, groups=3), sum(recorded(module, x, g).fields))


@every_gate
def test_counting_changes_nothing_and_counts_what_is_zero(gate) -> None:
    model = build_model(config(2, gate), seed=0).eval()
    x = scan(model)
    with torch.no_grad():
        expected = model(x)
        with counting(model.skip_gates) as levels:
            assert torch.equal(model(x), expected)
    assert len(levels) == 2
    if GATES[gate].kind == "prosma":
        assert all(0 < level.removed < 1 for level in levels)
        assert all(level.threshold == pytest.approx(0.6, abs=1e-5) for level in levels)
    else:
        assert all(level.removed == 0 and level.threshold is None for level in levels)


@every_gate
@both_dims
@given(data=st.data())
@settings(max_examples=8)
def test_any_legal_size_works_and_any_other_is_refused_with_the_legal_ones(dims, gate, data) -> None:
    model = build_model(config(dims, gate), seed=0).eval()
    sizes = [data.draw(st.integers(1, 14)) for _ in range(dims)]
    legal = all(n % 4 == 0 for n in sizes) and any(n > 4 for n in sizes)
    x = torch.randn(1, 2, *sizes)
    if legal:
        with torch.no_grad():
            assert model(x).shape == (1, 3, *sizes)
    elif any(n % 4 for n in sizes):
        wrong = next(n for n in sizes if n % 4)
        with pytest.raises(GeometryError, match=f"{wrong} voxels, not a multiple of 4 .*use .*{-(-wrong // 4) * 4}"):
            model(x)


def test_wrong_channels_are_refused() -> None:
    model = build_model(config(2, "bounded"), seed=0)
    with pytest.raises(GeometryError, match=r"takes \(batch, 2, then 2 spatial axes\)"):
        model(torch.randn(1, 3, 8, 8))


def test_weights_of_another_network_are_refused() -> None:
    small = build_model(config(2, "bounded"), seed=0)
    with pytest.raises(ModelFileError, match="do not fit"):
        model_from(config(2, "bounded", classes=4), weights_of(small.state_dict()))


def test_transfer_loads_what_fits_and_names_what_is_trained_from_scratch() -> None:
    old = build_model(config(2, "bounded"), seed=0)
    new = build_model(config(2, "bounded", classes=5), seed=1)
    head = new.state_dict()["heads.0.weight"].clone()
    words = transfer(new, weights_of(old.state_dict()))
    assert "heads.0" in words
    assert "from scratch" in words
    assert torch.equal(new.state_dict()["heads.0.weight"], head)
    assert torch.equal(new.state_dict()["encoder.0.0.conv1.weight"], old.state_dict()["encoder.0.0.conv1.weight"])


def test_a_thick_axis_is_not_convolved_where_its_kernel_is_one() -> None:
    torch.manual_seed(0)
    gate = build_gate(2, (1, 3, 3), GateConfig())
    x, g = torch.randn(1, 2, 5, 8, 8), torch.randn(1, 2, 5, 8, 8)
    changed = x.clone()
    changed[:, :, 4] += 1
    with torch.no_grad():
        a, b = recorded(gate, x, g).a, recorded(gate, changed, g).a
    assert torch.equal(a[:, :, :4], b[:, :, :4])
    assert not torch.equal(a[:, :, 4], b[:, :, 4])


@pytest.mark.parametrize("signed", [True, False])
@given(seed=st.integers(0, 2**31), scale=st.floats(0.1, 30))
@settings(max_examples=10)
def test_the_removed_estimate_is_exact_and_its_gradient_reaches_far(signed: bool, seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    z = scale * torch.randn(2, 3, 9)
    tau = torch.full((3, 1), 0.5, requires_grad=True)
    estimate = removed_estimate(z, tau, signed=signed)
    size = z.abs() if signed else z
    assert estimate.item() == pytest.approx(float((size <= 0.5).float().mean()), abs=1e-6)
    estimate.backward()
    assert tau.grad is not None
    assert bool((tau.grad > 0).all())


@both_dims
def test_a_network_of_plain_values_is_the_one_of_its_config(dims) -> None:
    network = UNet(dims=dims, in_channels=2, num_classes=3, widths=(4, 6), gate="none")
    assert network.config == ModelConfig(
        dims=dims,
        in_channels=2,
        num_classes=3,
        widths=(4, 6),
        strides=((1,) * dims, (2,) * dims),
        kernels=((3,) * dims,) * 2,
        gate=GateConfig(kind="none"),
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "dims"),
        ({"dims": 2, "in_channels": 1, "num_classes": 2, "widths": (8,)}, "widths"),
        ({"dims": 2, "in_channels": 1, "num_classes": 2, "widths": (8, 16), "depth": 3}, "depth"),
        ({"config": config(2, "none"), "blocks": 2}, "blocks was given"),
        ({"config": 5}, "give a ModelConfig"),
        ({"dims": [2], "in_channels": 1, "num_classes": 2, "widths": (8, 16)}, "dims"),
    ],
)
def test_a_network_that_cannot_be_is_refused(settings, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        UNet(**settings)


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (None, TypeError, "NoneType"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.int32), TypeError, "floating-point"),
        (torch.zeros(0, 1, 8, 8), GeometryError, "one or more"),
    ],
)
def test_an_input_that_is_no_image_is_refused(given, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        UNet(dims=2, in_channels=1, num_classes=2, widths=(4, 6))(given)
