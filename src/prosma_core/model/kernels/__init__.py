"""How a gate is computed: `dispatch` is the only place that chooses.

`reference` is plain PyTorch, for any device; `cpu` is for x86 processors, `ops` for NVIDIA GPUs with Triton. Each has
the four steps of the gate's formula (`Backend`), see docs/kernels.md.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from prosma_core.config.model import GateForm
from prosma_core.model.kernels import cpu, ops, reference

__all__ = ["LEAST_VALUES", "Backend", "dispatch", "usable"]

_LOG = logging.getLogger(__name__)
_HAS_TRITON = torch.version.cuda is not None and importlib.util.find_spec("triton") is not None
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

LEAST_VALUES = 2**23
"""Values of a skip below which plain PyTorch is taken on a GPU: launching the Triton kernels takes longer than running
them, and their first call, which compiles them, takes seconds."""


class Backend(Protocol):
    """Steps of the gate's formula; `reference` documents them.

    A field z and a value a of `ops` are not tensors: its `apply` computes them and the gated skip in one kernel.
    """

    def project(self, x: Tensor, g: Tensor, skip: Any, decoder: Any) -> tuple[Tensor, Tensor]:
        """``q = GELU(W_x x + W_g g + b)``, and ``GAP(g)``."""

    def field(self, q: Tensor, scales: Sequence[Any], offset: Any) -> Any:
        """``z = sum of D_d * q + beta``."""

    def prox(self, z: Any, tau: Tensor, form: GateForm, *, keep: bool) -> Any:
        """``a = prox of tau ||.||_1 at z``; z may be overwritten unless it is to be kept."""

    def apply(self, c: Tensor | None, a: Any, x: Tensor) -> Tensor:
        """``x' = c . a . x``."""


def dispatch(x: Tensor, g: Tensor, *, form: GateForm, fused: bool, watched: bool) -> tuple[Backend, Tensor, Tensor]:
    """Choose what computes a gate.

    Parameters
    ----------
    x, g : Tensor, shapes (B, C, *grid) and (B, D, *grid)
        Encoder and decoder features.
    form : GateForm
        The Triton kernels have those of `ops.FORMS`.
    fused : bool
        Whether it may be anything but plain PyTorch.
    watched : bool
        Whether z or a is wanted, which the fused kernels on GPUs never hold in memory.

    Returns
    -------
    backend : Backend
    x, g : Tensor
        In the dtype in which they are to be computed.
    """
    if fused and cpu.usable(x, g):
        return cpu, x, g
    if fused and not watched and form in ops.FORMS and x.shape[1] == g.shape[1] and usable(x):
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
        return ops, x.to(dtype), g.to(dtype)
    return reference, x, g


def usable(x: Tensor) -> bool:
    """Whether the Triton kernels take a skip like x: on an NVIDIA GPU with Triton, in a supported dtype, and large.

    In a compiled network of any size, as they are compiled anyway. Where they do not work, the reason is logged once.
    """
    if torch.compiler.is_compiling():
        return x.is_cuda and _HAS_TRITON and x.dtype in _DTYPES
    small = x.is_cuda and x.numel() < LEAST_VALUES
    return not small and _works(x.device, x.dtype)


@cache
def _works(device: torch.device, dtype: torch.dtype) -> bool:
    """Run the kernels once on a few values; log why where they do not work."""
    if device.type != "cuda" or dtype not in _DTYPES:
        _LOG.info("Gates run as plain PyTorch on %s in %s.", device, dtype)
        return False
    if not _HAS_TRITON:
        _LOG.warning("Triton is not installed: gates run as plain PyTorch, which is slower on %s.", device)
        return False
    x = torch.ones(1, 16, 4, 16, device=device, dtype=dtype)
    square, row = torch.ones(16, 16, device=device), torch.ones(16, device=device)
    try:
        with torch.no_grad():
            q, _ = ops.fused_project(x, x, square, square, row)
            ops.fused_select(q, row[:, None], row, row, row[None], x, [1, 1], [1], "bounded")
        torch.cuda.synchronize(device)
    except Exception as error:  # noqa: BLE001  (Triton raises whatever its compiler, linker or driver says)
        _LOG.warning("Triton does not work on %s (%s): gates run as plain PyTorch, which is slower.", device, error)
        return False
    return True
