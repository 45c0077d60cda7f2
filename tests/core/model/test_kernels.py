"""The fused kernels against plain PyTorch in float64.

They run on an NVIDIA GPU, or slowly on a CPU in Triton's interpreter: TRITON_INTERPRET=1, numpy before 2.4.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck

from prosma_core.config.model import GateConfig
from prosma_core.model import kernels
from prosma_core.model.gate import build_gate
from prosma_core.model.gate_hooks import GateRecord, recording_gate
from prosma_core.model.kernels import cpu, ops, reference
from prosma_core.model.kernels.taps import merge_branches, tap_offsets

CUDA = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if CUDA else "cpu"
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
FORMS = sorted(ops.FORMS)

runs_kernels = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not (CUDA or INTERPRETED),
    reason="needs Triton, and an NVIDIA GPU or TRITON_INTERPRET=1",
)
# Triton's interpreter takes an array for a number, which numpy deprecates and from 2.4 on refuses
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")
on_gpu = pytest.mark.skipif(not CUDA, reason="needs an NVIDIA GPU")


@dataclass(frozen=True)
class Case:
    """Shapes and settings of a gate."""

    shape: tuple[int, ...]
    kernel: tuple[int, ...]
    dilations: tuple[int, ...] = (1, 2, 4)
    form: str = "bounded"
    dtype: torch.dtype = torch.float32

    def inputs(self, seed: int = 0) -> list[torch.Tensor]:
        """q, taps, offset, tau, c, x."""
        generator = torch.Generator().manual_seed(seed)
        batch, channels = self.shape[:2]
        taps = len(tap_offsets(self.kernel, self.dilations))
        wide = [torch.randn(self.shape, generator=generator).to(self.dtype) for _ in range(2)]
        small = [torch.randn(channels, n, generator=generator) / n**0.5 for n in (taps, 1)]
        tau = 0.1 + torch.rand(channels, generator=generator)
        c = torch.rand(batch, channels, generator=generator)
        return [t.to(DEVICE) for t in (wide[0], small[0], small[1][:, 0], tau, c, wide[1])]


def distance(found: torch.Tensor, exact: torch.Tensor, terms: int = 0) -> float:
    """Relative distance in the Euclidean norm; the norm of the difference where what is exact is 0.

    A sum of so many terms of size about 1 may cancel, its rounding does not: it is judged by the size it would have.
    """
    found, exact = found.detach().double(), exact.detach()
    return float((found - exact).norm() / exact.norm().clamp_min(max(1e-3, 0.2 * (terms * exact.numel()) ** 0.5)))


def terms_of(gradient: torch.Tensor, wide: torch.Tensor) -> int:
    """How many products are added up in a value of this gradient; 0 for one as large as the features."""
    return 0 if gradient.shape == wide.shape else wide.numel() // wide.shape[1]


def beside_threshold(exact: list[torch.Tensor], case: Case) -> torch.Tensor:
    """Where the field is so near to the threshold that rounding decides."""
    with torch.no_grad():
        q, taps, offset, tau, c, _ = exact
        ones, zeros = torch.ones_like(q), torch.zeros_like(tau)
        z = reference.select(q, taps, offset, zeros, torch.ones_like(c), ones, case.kernel, case.dilations, "signed")
        return (z.abs() - tau.view(-1, *(1,) * (q.ndim - 2))).abs() < 1e-4


def project(
    x: torch.Tensor, g: torch.Tensor, skip_weight: torch.Tensor, decoder_weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the reference projects with these weights."""
    channels = (slice(None), *(None,) * (x.ndim - 2))
    return reference.project(
        x,
        g,
        lambda t: torch.einsum("oi,bi...->bo...", skip_weight, t) + bias[channels],
        lambda t: torch.einsum("oi,bi...->bo...", decoder_weight, t),
    )


def check_select(case: Case, seed: int = 0) -> None:
    found = [t.requires_grad_() for t in case.inputs(seed)]
    exact = [t.detach().double().requires_grad_() for t in found]
    out = ops.fused_select(*found, case.kernel, case.dilations, case.form)
    expected = reference.select(*exact, case.kernel, case.dilations, case.form)
    grad_out = torch.randn(case.shape, generator=torch.Generator().manual_seed(seed + 1)).to(DEVICE, case.dtype)
    grad_out[beside_threshold(exact, case)] = 0  # rounding may remove a value there or keep it: the gradient jumps
    grads = torch.autograd.grad(out, found, grad_out)
    exact_grads = torch.autograd.grad(expected, exact, grad_out.double())
    names = ["out", "q", "taps", "offset", "tau", "c", "x"]
    far = {
        name: off
        for name, a, b in zip(names, (out, *grads), (expected, *exact_grads), strict=True)
        if not (off := distance(a, b, terms_of(b, exact[0]))) < TOLERANCE[case.dtype]
    }
    assert far == {}, case
    assert all(a.dtype == b.dtype and a.shape == b.shape for a, b in zip(grads, found, strict=True))


def check_project(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    channels = shape[1]
    wide = [torch.randn(shape, generator=generator).to(DEVICE, dtype) for _ in range(3)]
    # the kernel multiplies weights in the features' dtype: give it weights that lose nothing
    square = [(torch.randn(channels, channels, generator=generator) / channels**0.5).to(dtype).float() for _ in "xg"]
    bias, grad_out = torch.randn(channels, generator=generator), torch.randn(shape[:2], generator=generator)
    found = [t.to(DEVICE).requires_grad_() for t in (*wide[:2], *square, bias)]
    exact = [t.detach().double().requires_grad_() for t in found]
    q, context = ops.fused_project(*found)
    expected = project(*exact)
    grads = torch.autograd.grad([q, context], found, [wide[2], grad_out.to(DEVICE)])
    exact_grads = torch.autograd.grad(expected, exact, [wide[2].double(), grad_out.to(DEVICE).double()])
    voxels = wide[0][0, 0].numel()
    pairs = zip((q, context * voxels, *grads), (expected[0], expected[1] * voxels, *exact_grads), strict=True)
    far = [off for a, b in pairs if not (off := distance(a, b, terms_of(b, exact[0]))) < TOLERANCE[dtype]]
    assert far == [], (shape, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", [(3, 3), (3, 1, 3)])
def test_gradcheck_of_the_reference(form: str, kernel: tuple[int, ...]) -> None:
    case = Case((1, 2, *(4, 5, 3)[: len(kernel)]), kernel, (1, 2), form)
    inputs = [t.cpu().double().requires_grad_() for t in case.inputs()]
    assert gradcheck(lambda *t: reference.select(*t, kernel, case.dilations, form), inputs, atol=1e-6)
    x, g = (t.clone().requires_grad_() for t in (inputs[0].detach(), inputs[5].detach()))
    square = [torch.randn(2, 2, dtype=torch.float64, requires_grad=True) for _ in "xg"]
    assert gradcheck(project, [x, g, *square, inputs[2]], atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("thick", [False, True])
def test_reference_is_the_gate(form: str, dims: int, thick: bool) -> None:
    torch.manual_seed(0)
    kernel = (3,) * dims if not thick else (1, *(3,) * (dims - 1))
    gate = build_gate(3, kernel, GateConfig(form=form)).double()
    x, g = (torch.randn(2, 3, *(5, 7, 9)[:dims], dtype=torch.float64) for _ in "xg")
    weights = [p.weight.flatten(1) for p in (gate.project_skip, gate.project_decoder)]
    q, context = project(x, g, *weights, gate.project_skip.bias)
    taps = merge_branches([scale.weight for scale in gate.scales])
    c = gate.channel_gate(context)
    found = reference.select(q, taps, gate.offset, gate.threshold(), c, x, kernel, gate.dilations, form)
    torch.testing.assert_close(found, gate(x, g))


@runs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", [(3, 3), (3, 3, 3)])
def test_every_form_and_dtype_agrees_with_the_reference(dtype: torch.dtype, form: str, kernel: tuple[int, ...]) -> None:
    grid = (11, 9) if len(kernel) == 2 else (6, 3, 5)
    dilations = (1, 2, 4) if CUDA or len(kernel) == 2 else (2,)  # the interpreter is slow
    check_select(Case((2, 2, *grid), kernel, dilations, form, dtype))


@runs_kernels
@given(data=st.data())
@settings(max_examples=12 if CUDA else 5)
def test_any_shape_kernel_and_dilations_agree_with_the_reference(data: st.DataObject) -> None:
    dims = data.draw(st.sampled_from([2, 3]))
    most = {2: 70, 3: 20} if CUDA else {2: 12, 3: 6}
    shape = (
        data.draw(st.integers(1, 3)),
        data.draw(st.integers(1, 5)),
        *(data.draw(st.integers(1, most[dims])) for _ in range(dims)),
    )
    kernel = tuple(data.draw(st.sampled_from([1, 3])) for _ in range(dims))
    dilations = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    check_select(Case(shape, kernel, dilations, data.draw(st.sampled_from(FORMS))), data.draw(st.integers(0, 99)))


@runs_kernels
@given(data=st.data())
@settings(max_examples=12 if CUDA else 4)
def test_any_projection_agrees_with_the_reference(data: st.DataObject) -> None:
    # Triton's interpreter multiplies no bf16 matrices
    dtype = data.draw(st.sampled_from(DTYPES if CUDA else DTYPES[:2]))
    grid = data.draw(st.lists(st.integers(1, 40 if CUDA else 9), min_size=2, max_size=3))
    check_project((data.draw(st.integers(1, 3)), data.draw(st.integers(1, 70)), *grid), dtype)


@runs_kernels
@pytest.mark.parametrize("channels", [32, 33, 70, 130])
def test_projection_in_several_blocks_agrees_with_the_reference(channels: int) -> None:
    check_project((2, channels, 5, 40), torch.float16)


@on_gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 32, 20, 24, 64), (1, 320, 8, 8, 8), (2, 16, 96, 520), (3, 130, 32, 32)])
def test_sizes_of_real_networks_agree_with_the_reference(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    check_select(Case(shape, (3,) * (len(shape) - 2), dtype=dtype))
    check_project(shape, dtype)


@on_gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [32, 64, 128])
def test_projection_of_many_voxels_agrees_with_the_reference(dtype: torch.dtype, channels: int) -> None:
    check_project((2, channels, 300, 600), dtype)


@runs_kernels
def test_other_layouts_give_the_same() -> None:
    case = Case((2, 4, 6, 8), (3, 3))
    q, taps, offset, tau, c, x = case.inputs()
    expected = ops.fused_select(q, taps, offset, tau, c, x, case.kernel, case.dilations, case.form)
    turned = [t.to(memory_format=torch.channels_last) for t in (q, x)]
    found = ops.fused_select(turned[0], taps, offset, tau, c, turned[1], case.kernel, case.dilations, case.form)
    assert found.is_contiguous()
    assert torch.equal(found, expected)


@runs_kernels
def test_nothing_is_written_beside_the_output_and_nan_stays_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    guards: list[torch.Tensor] = []
    plain = torch.empty_like

    def guarded(like: torch.Tensor) -> torch.Tensor:
        wide = torch.full((like.numel() + 256,), -7.0, device=like.device, dtype=like.dtype)
        guards.append(wide)
        return wide[128 : 128 + like.numel()].view(like.shape)

    monkeypatch.setattr(torch, "empty_like", guarded)
    case = Case((2, 3, 9, 7), (3, 3), (1, 2))
    check_select(case)
    check_project(case.shape, case.dtype)
    monkeypatch.setattr(torch, "empty_like", plain)
    assert len(guards) >= 8
    assert all(bool((w[:128] == -7).all()) and bool((w[-128:] == -7).all()) for w in guards)
    for form in FORMS:
        q, *rest = case.inputs()
        q[0, 0, 4, 3] = torch.nan
        out = ops.fused_select(q, *rest, case.kernel, case.dilations, form)
        assert bool(out[0, 0, 4, 3].isnan())
        assert not bool(out[0, 1].isnan().any())


@runs_kernels
def test_torch_finds_the_operators_well_made() -> None:
    case = Case((1, 2, 5, 6), (3, 3), (1, 2))
    inputs = [t.requires_grad_() for t in case.inputs()]
    torch.library.opcheck(ops.fused_select, (*inputs, list(case.kernel), list(case.dilations), case.form))
    square = torch.randn(2, 2, device=DEVICE, requires_grad=True)
    torch.library.opcheck(ops.fused_project, (inputs[0], inputs[5], square, square.detach() + 1, inputs[2]))


def test_operators_are_compiled_whole_and_know_their_shapes_without_running() -> None:
    case = Case((1, 2, 5, 6), (3, 3), (1, 2))
    inputs = [t.cpu() for t in case.inputs()]
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> Callable[..., tuple[torch.Tensor]]:
        graphs.append(graph)
        return lambda *tensors: (torch.zeros(case.shape),)

    def work(q: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return 2 * ops.fused_select(q, *rest, case.kernel, case.dilations, case.form)

    torch.compile(work, backend=keep, fullgraph=True)(*inputs)
    assert "prosma.select" in graphs[0].code
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(t).requires_grad_() for t in inputs]
        out = ops.fused_select(*fake, case.kernel, case.dilations, case.form)
        grads = torch.autograd.grad(out.sum(), fake)
        q, context = ops.fused_project(fake[0], fake[5], *(torch.empty(2, 2) for _ in "xg"), fake[2])
    assert [g.shape for g in grads] == [t.shape for t in fake]
    assert (q.shape, context.shape) == (case.shape, case.shape[:2])


def test_on_a_cpu_nothing_takes_the_fused_kernels_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.randn(1, 2, 6, 6)
    with caplog.at_level("INFO", "prosma_core.model.kernels"):
        assert not kernels.usable(x.to(torch.int8))  # logged once per dtype: one that no other test asks for
    assert "plain PyTorch on cpu" in caplog.text
    fast = cpu if cpu.usable(x) else reference
    for watched in (False, True):
        assert kernels.dispatch(x, x, form="bounded", fused=True, watched=watched)[0] is fast
    assert kernels.dispatch(x, x, form="bounded", fused=False, watched=False)[0] is reference
    assert kernels.dispatch(x.double(), x.double(), form="bounded", fused=True, watched=False)[0] is reference


def test_a_form_that_the_fused_kernels_lack_is_plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "usable", lambda _: True)  # as on a GPU
    monkeypatch.delitem(ops.FORMS, "signed")
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    assert kernels.dispatch(x, x, form="bounded", fused=True, watched=False)[0] is ops
    assert kernels.dispatch(x, x, form="signed", fused=True, watched=False)[0] is reference


@on_gpu
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's compiler uses it itself
@pytest.mark.filterwarnings("ignore:TensorFloat32:UserWarning")
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channel_gate", [False, True])
def test_on_a_gpu_the_fused_gate_is_the_gate_also_compiled_and_under_autocast(
    dims: int, channel_gate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    gate = build_gate(24, (3,) * dims, GateConfig(channel_gate=channel_gate)).cuda()
    x, g = (torch.randn(2, 24, *(16,) * dims, device="cuda", requires_grad=True) for _ in "xg")
    exact = build_gate(24, (3,) * dims, GateConfig(channel_gate=channel_gate)).double()
    exact.load_state_dict(gate.state_dict())
    expected = exact(x.detach().cpu().double(), g.detach().cpu().double()).cuda()
    assert not kernels.usable(x)  # small, and launched one by one
    monkeypatch.setattr(kernels, "LEAST_VALUES", 0)
    assert kernels.usable(x)
    assert distance(gate(x, g), expected) < TOLERANCE[torch.float32]
    compiled = torch.compile(gate, fullgraph=True)
    out = compiled(x, g)
    assert distance(out, expected) < TOLERANCE[torch.float32]
    out.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in (x, g, *gate.parameters()))
    with torch.autocast("cuda", torch.bfloat16):
        assert gate(x, g).dtype == torch.bfloat16
        assert distance(gate(x, g), expected) < 2 * TOLERANCE[torch.bfloat16]


@on_gpu
def test_on_a_gpu_a_recorded_gate_is_plain_pytorch_and_an_edited_threshold_stays_fused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "LEAST_VALUES", 0)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # which the kernels do not use
    torch.manual_seed(0)
    gate = build_gate(24, (3, 3), GateConfig()).cuda()
    x, g = (torch.randn(1, 24, 16, 16, device="cuda") for _ in "xg")
    records: list[GateRecord] = []
    with torch.no_grad():
        fused = gate(x, g)
        with recording_gate(gate, records.append):
            found = gate(x, g)
        torch.testing.assert_close(found, fused, rtol=1e-4, atol=1e-4)
        (record,) = records
        assert torch.equal(record.after, record.c[..., None, None] * record.a * record.before)
        handle = gate.hook_tau.register_forward_hook(lambda _, inputs, tau: 0 * tau)
        assert kernels.dispatch(x, g, form="bounded", fused=True, watched=gate.watched)[0] is ops
        kept = gate(x, g)
        gate.fused = False
        torch.testing.assert_close(kept, gate(x, g), rtol=1e-4, atol=1e-4)
        handle.remove()
