"""The gate as a module of other people's networks: any decoder, hooks, copies, export, double backward."""

from __future__ import annotations

import copy
import inspect
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from prosma_core.config.model import GateConfig
from prosma_core.errors import ChannelError, ConfigError, GeometryError, ProsmaError
from prosma_core.model.gate import ProximalGate, build_gate
from prosma_core.model.gate_hooks import GateRecord, estimate_removed, recording_gate
from prosma_core.model.kernels import cpu
from prosma_core.model.prox import THRESHOLDS

both_dims = pytest.mark.parametrize("dims", [2, 3])


def gate_of(dims: int = 2, skip: int = 4, decoder: int = 6, **settings: object) -> ProximalGate:
    torch.manual_seed(0)
    return ProximalGate(skip, decoder, dims=dims, **settings)  # type: ignore[arg-type]


def features(dims: int = 2, skip: int = 4, decoder: int = 6, size: int = 8, dtype: torch.dtype = torch.float32):
    made = torch.Generator().manual_seed(1)
    x = torch.randn(2, skip, *(size,) * dims, generator=made, dtype=dtype)
    return x, torch.randn(2, decoder, *(size // 2,) * dims, generator=made, dtype=dtype)


def test_defaults_are_those_of_the_settings() -> None:
    found = {n: p.default for n, p in inspect.signature(ProximalGate).parameters.items()}
    for name, value in GateConfig():
        assert name == "kind" or found[name] == value, name


@both_dims
def test_a_decoder_of_another_width_and_grid_is_interpolated_and_projected(dims: int) -> None:
    gate, (x, g) = gate_of(dims), features(dims)
    on_grid = nn.functional.interpolate(g, x.shape[2:], mode={2: "bilinear", 3: "trilinear"}[dims])
    out = gate(x, g)
    assert out.shape == x.shape
    assert torch.equal(out, gate(x, on_grid))
    out.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in gate.parameters())
    exact = gate.double()(x.double(), g.double())
    torch.testing.assert_close(out.double(), exact, rtol=1e-4, atol=1e-4)


@both_dims
def test_plain_pytorch_gives_the_same(dims: int) -> None:
    gate, (x, g) = gate_of(dims, skip=6), features(dims, skip=6)
    out = gate(x, g)
    gate.fused = False
    torch.testing.assert_close(gate(x, g), out, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "g", "kind", "words"),
    [
        ((1, 3, 8, 8), (1, 6, 8, 8), ChannelError, "(batch, 4, then 2 spatial axes)"),
        ((1, 4, 8, 8), (1, 4, 8, 8), ChannelError, "(batch, 6, then 2 spatial axes)"),
        ((4, 8, 8), (1, 6, 8, 8), GeometryError, "(batch, 4, then 2 spatial axes)"),
        ((1, 4, 8, 8), (1, 6, 4, 4, 4), GeometryError, "(batch, 6, then 2 spatial axes)"),
        ((2, 4, 8, 8), (1, 6, 8, 8), GeometryError, "batches of 2 and 1"),
        ((0, 4, 8, 8), (0, 6, 8, 8), GeometryError, "each at least 1"),
        ((1, 4, 8, 0), (1, 6, 8, 8), GeometryError, "each at least 1"),
    ],
)
def test_features_that_do_not_fit_are_refused_with_those_that_do(x, g, kind: type[ProsmaError], words: str) -> None:
    with pytest.raises(kind) as raised:
        gate_of()(torch.zeros(x), torch.zeros(g))
    assert words in str(raised.value)


@pytest.mark.parametrize("wrong", [None, np.zeros((1, 4, 8, 8)), torch.zeros(1, 4, 8, 8, dtype=torch.int32)])
def test_features_that_are_no_tensors_of_floating_point_are_refused(wrong) -> None:
    with pytest.raises(TypeError, match=r"\(batch, 4, then 2 spatial axes\), a tensor of floating-point numbers"):
        gate_of()(wrong, torch.zeros(1, 6, 8, 8))


@pytest.mark.parametrize("kind", ["prosma", "attention", "none"])
@pytest.mark.parametrize("forced", ["open", "closed"])
def test_a_forced_gate_is_forced_whoever_watches(kind: str, forced: str) -> None:
    gate, (x, g) = build_gate(4, (3, 3), GateConfig(kind=kind)), torch.randn(2, 1, 4, 8, 8)
    expected = x if forced == "open" else torch.zeros_like(x)
    gate.forced = forced
    records: list[GateRecord] = []
    seen: list[torch.Tensor] = []
    with torch.no_grad(), recording_gate(gate, records.append):
        assert torch.equal(gate(x, g), expected)
    gate.hook_x.register_forward_hook(lambda _module, _inputs, value: seen.append(value))
    assert torch.equal(gate(x, g), expected)
    assert torch.equal(records[0].after, expected)
    assert len(seen) == 1


def test_a_gate_is_forced_open_or_closed_only() -> None:
    gate = gate_of()
    gate.forced = "ajar"  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="'open', 'closed' or None"):
        gate(*features())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dims": 4}, "dims is 2 or 3"),
        ({"dims": [2]}, "dims is 2 or 3"),
        ({"kernel_size": None}, "one of 1, 3, 5, 7"),
        ({"skip": 0}, "0 skip channels"),
        ({"decoder": 2.5}, "2.5 decoder channels"),
        ({"kernel_size": 4}, "one of 1, 3, 5, 7"),
        ({"kernel_size": (3, 3, 3)}, "one per spatial axis"),
        ({"dilations": ()}, "dilations"),
        ({"form": "dense"}, "form"),
        ({"threshold": 0.0}, "threshold"),
        ({"channel_reduction": 0}, "channel_reduction"),
    ],
)
def test_arguments_out_of_bounds_are_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        gate_of(**arguments)  # type: ignore[arg-type]
    assert words in str(raised.value)


@pytest.mark.parametrize("autocast", [False, True])
def test_hooks_of_the_gate_run_once(autocast: bool) -> None:
    gate, (x, g) = gate_of(), features()
    ran: Counter[str] = Counter()
    gate.register_forward_pre_hook(lambda *_: ran.update(["before"]))
    gate.register_forward_hook(lambda *_: ran.update(["after"]))
    gate.register_full_backward_hook(lambda *_: ran.update(["backward"]))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = gate(x.requires_grad_(), g.requires_grad_())
    out.float().sum().backward()
    assert ran == {"before": 1, "after": 1, "backward": 1}


def test_a_hook_can_change_what_the_decoder_receives() -> None:
    gate, (x, g) = gate_of(), features()
    handle = gate.register_forward_hook(lambda module, inputs, output: inputs[0])
    assert torch.equal(gate(x, g), x)
    handle.remove()
    assert not torch.equal(gate(x, g), x)


def test_hooks_inside_run_in_plain_pytorch() -> None:
    gate, (x, g) = gate_of(), features()
    gate.fused = False
    ran: list[str] = []
    for name, module in gate.named_modules():
        if name and not list(module.children()):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    gate(x, g)
    inside = {name for name, module in gate.named_modules() if isinstance(module, nn.Conv2d)}
    assert inside <= set(ran)


def test_a_copy_is_the_same_gate_and_records_for_nobody() -> None:
    gate, (x, g) = gate_of(), features()
    records: list[object] = []
    estimate_removed([gate])
    with recording_gate(gate, records.append):
        out = gate(x, g)
        assert gate.estimate is not None
        assert gate.estimate.requires_grad
        twin = copy.deepcopy(gate)
        assert torch.equal(twin(x, g), out)
    assert len(records) == 1
    assert twin.estimate is None
    with torch.no_grad():
        twin.offset += 1
    assert torch.equal(gate(x, g), out)


@both_dims
def test_export_gives_the_same(dims: int) -> None:
    gate, (x, g) = gate_of(dims).eval(), features(dims)
    exported = torch.export.export(gate, (x, g)).module()
    torch.testing.assert_close(exported(x, g), gate(x, g), rtol=1e-4, atol=1e-5)


def test_export_with_sizes_that_vary() -> None:
    gate, (x, _) = gate_of(decoder=4).eval(), features(size=16)
    batch, rows, columns = (torch.export.Dim(name, min=2, max=64) for name in ("batch", "rows", "columns"))
    sizes = ({0: batch, 2: rows, 3: columns},) * 2
    exported = torch.export.export(gate, (x, x.roll(1, 0)), dynamic_shapes=sizes).module()
    other = torch.randn(3, 4, 9, 21)
    torch.testing.assert_close(exported(other, other.flip(2)), gate(other, other.flip(2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", sorted(THRESHOLDS))
def test_double_backward_in_float64(form: str) -> None:
    gate, (x, g) = gate_of(decoder=3, form=form).double(), features(decoder=3, size=4, dtype=torch.float64)
    inputs = (x[:1].requires_grad_(), g[:1].requires_grad_())
    assert torch.autograd.gradgradcheck(lambda a, b: gate(a, b), inputs, fast_mode=True)


@pytest.mark.skipif(not cpu.usable(torch.zeros(1)), reason="the path is for x86 processors with oneDNN")
def test_double_backward_in_float32_needs_plain_pytorch() -> None:
    gate, (x, g) = gate_of(), features()
    x.requires_grad_()
    (slope,) = torch.autograd.grad(gate(x, g).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.square().sum().backward()
    gate.fused = False
    (slope,) = torch.autograd.grad(gate(x, g).square().sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_functional_transforms_take_plain_pytorch() -> None:
    gate, (x, g) = gate_of(), features()
    gate.fused = False
    found = torch.func.vmap(lambda a, b: gate(a[None], b[None])[0])(x, g)
    torch.testing.assert_close(found, gate(x, g), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's compiler uses it itself
def test_compiled_whole() -> None:
    gate, (x, g) = gate_of(), features()
    compiled = torch.compile(gate, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, g), gate(x, g), rtol=1e-4, atol=1e-5)
