"""The gate's heavy part, fused: two functions, each in plain PyTorch (`reference`) and in Triton (`ops`).

`project` gives q and the decoder's context, `select` gates the skip with the field of q. `usable` says whether the
Triton kernels can take over on the device of a tensor; the reason is logged once where they cannot. `cpu` is
the gate's path on x86 processors, which `prosma_core.model.gate` calls by itself (docs/kernels.md).
"""

from __future__ import annotations

import importlib.util
import logging
from functools import cache

import torch
from torch import Tensor

from prosma_core.model.kernels.ops import project, select
from prosma_core.model.kernels.taps import merge_branches, tap_offsets

__all__ = ["merge_branches", "project", "select", "tap_offsets", "usable"]

_LOG = logging.getLogger(__name__)
_HAS_TRITON = torch.version.cuda is not None and importlib.util.find_spec("triton") is not None
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

LEAST_VALUES = 2**23
"""Values of a skip below which a GPU waits for the processor to launch kernels, of which plain PyTorch needs fewer; and
their first call, which compiles them, takes seconds."""


def usable(x: Tensor) -> bool:
    """Whether the Triton kernels take a skip like x: on an NVIDIA GPU with Triton, in a dtype they know, and large.

    Of any size in a compiled network, where they are compiled anyway.
    """
    if torch.compiler.is_compiling():
        return x.is_cuda and _HAS_TRITON and x.dtype in _DTYPES
    small = x.is_cuda and x.numel() < LEAST_VALUES
    return not small and _works(x.device, x.dtype)


@cache
def _works(device: torch.device, dtype: torch.dtype) -> bool:
    """Run the kernels once on a few numbers; where they do not work say why, and that plain PyTorch is used."""
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
            q, _ = project(x, x, square, square, row)
            select(q, row[:, None], row, row, row[None], x, [1, 1], [1], "bounded")
        torch.cuda.synchronize(device)
    except Exception as error:  # noqa: BLE001  (Triton raises whatever its compiler, linker or driver says)
        _LOG.warning("Triton does not work on %s (%s): gates run as plain PyTorch, which is slower.", device, error)
        return False
    return True
