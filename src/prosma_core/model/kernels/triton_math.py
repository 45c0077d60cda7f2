"""Functions that the Triton kernels share: fast to about 1e-6, where Triton's own are exact to the last bits."""

from __future__ import annotations

import os

import triton
import triton.language as tl

_COMPILED = tl.constexpr(os.environ.get("TRITON_INTERPRET") != "1")  # the interpreter knows no PTX


@triton.jit
def exp2(x):
    """2 to the power of x."""
    if _COMPILED:
        power = tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    else:
        power = tl.exp2(x)
    return power


@triton.jit
def inverse(x):
    """1 / x."""
    if _COMPILED:
        result = tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    else:
        result = 1 / x
    return result


@triton.jit
def tanh(x):
    """Hyperbolic tangent; exactly 0 at 0."""
    return 1 - 2 * inverse(1 + exp2(x * 2.885390081777927))  # 2 / ln 2


@triton.jit
def normal(x):
    """Normal distribution function of x, and its density, by Abramowitz and Stegun 7.1.26."""
    size = tl.abs(x) * 0.7071067811865476
    bell = exp2(x * x * -0.7213475204444817)  # exp(-x^2 / 2)
    t = inverse(1 + 0.3275911 * size)
    tail = 1.061405429 * t - 1.453152027
    tail = tail * t + 1.421413741
    tail = tail * t - 0.284496736
    tail = (tail * t + 0.254829592) * t * bell * 0.5  # beyond |x|, on one side
    return tl.where(x > 0, 1 - tail, tail), bell * 0.3989422804014327
