r"""The mathematics of the gate: proximal operators of the l1 norm, as pure functions.

.. math::
    \mathrm{prox}_{\tau\|\cdot\|_1}(z) = \arg\min_p \tfrac12 (p - z)^2 + \tau |p|
    = \mathrm{sign}(z)\max(|z| - \tau, 0)

(arXiv 2603.03187; Parikh and Boyd, Proximal Algorithms, 2014, section 6.5.2). A value is removed exactly when it is 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from prosma_core.config.model import GateForm


def soft_threshold(z: Tensor, tau: Tensor) -> Tensor:
    """Prox of tau times the l1 norm: ``sign(z) max(|z| - tau, 0)``.

    Parameters
    ----------
    z : Tensor, floating point, any shape
    tau : Tensor, >= 0, broadcastable to `z`

    Returns
    -------
    Tensor, shape of `z`
        Exactly 0 where ``|z| <= tau``.
    """
    return z - z.clamp(-tau, tau)


def bounded_threshold(z: Tensor, tau: Tensor) -> Tensor:
    """``tanh`` of the prox: as `soft_threshold`, within (-1, 1); same parameters."""
    return torch.tanh(soft_threshold(z, tau))


def nonnegative_threshold(z: Tensor, tau: Tensor) -> Tensor:
    """Prox of tau times the l1 norm over p >= 0: ``max(z - tau, 0)``; same parameters."""
    return F.relu(z - tau)


def removed_estimate(z: Tensor, tau: Tensor, *, signed: bool) -> Tensor:
    """Removed fraction as a number with a gradient.

    The value is exact; the gradient is that of the mean of ``1 / (1 + (|z| / tau)^4)``, which depends on the ratio
    alone and is not 0 far from the threshold.

    Parameters
    ----------
    z, tau : Tensor
        Field, and threshold broadcastable to it.
    signed : bool
        Whether values below -tau are kept: all forms but those of `ONE_SIDED`.
    """
    size = z.float().abs() if signed else z.float().clamp_min(0)
    soft = (1 / (1 + (size / tau.float()) ** 4)).mean()
    exact = (size <= tau).float().mean()
    return soft + (exact - soft).detach()


THRESHOLDS: dict[GateForm, Callable[[Tensor, Tensor], Tensor]] = {
    "signed": soft_threshold,
    "bounded": bounded_threshold,
    "nonnegative": nonnegative_threshold,
}
"""Prox operators by the gate's form."""
