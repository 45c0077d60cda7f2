"""Small convolutions on a CPU give what PyTorch's own give, and the same gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prosma_core.model import blocks as conv
from prosma_core.model.blocks import CONV

PLAIN = {2: nn.Conv2d, 3: nn.Conv3d}


def both(dims: int, *args: Any) -> tuple[nn.Module, nn.Module]:
    ours, plain = CONV[dims](*args), PLAIN[dims](*args)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@given(
    st.sampled_from([2, 3]),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from([1, 2, 3, 5]),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(1, 2),
    st.booleans(),
)
def test_features_and_gradients_are_the_same(
    dims: int, inputs: int, outputs: int, kernel: int, stride: int, dilation: int, batch: int, bias: bool
) -> None:
    torch.manual_seed(0)
    ours, plain = both(dims, inputs, outputs, kernel, stride, kernel // 2 * dilation, dilation, 1, bias)
    x = torch.randn(batch, inputs, *range(9, 9 + dims), requires_grad=True)
    found = []
    for module in (ours, plain):
        x.grad = None
        y = module(x)
        y.square().sum().backward()
        found.append([y, x.grad, *(p.grad for p in module.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.detach().abs().max()) + 1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_only_what_pytorch_would_compute_slowly_is_taken(dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(conv, "_onednn", lambda module, x: taken.append(x) or nn.Module.__call__(plain, x))
    ours, plain = both(dims, 4, 4, 3, 1, 1)
    small, large = torch.randn(1, 4, *(8,) * dims), torch.randn(1, 4, *(80, 80, 4)[:dims])
    ours(small)
    assert len(taken) == 1
    ours(large)
    ours(torch.cat([small, small]))
    ours.double()(small.double())
    assert len(taken) == 1
    ours.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(small).dtype == torch.bfloat16
    monkeypatch.setattr(torch._C, "_get_mkldnn_enabled", lambda: False)
    ours(small)
    assert len(taken) == 1


def test_a_strided_view_is_taken_as_it_is() -> None:
    ours, plain = both(2, 3, 5, 3, 1, 1)
    x = torch.randn(1, 12, 12, 3).movedim(-1, 1)
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours(x[..., ::2]), plain(x[..., ::2]), rtol=1e-4, atol=1e-5)
