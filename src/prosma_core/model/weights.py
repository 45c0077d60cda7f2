"""Weights of a network as arrays, and into another network as far as they fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from prosma_core.model.unet import UNet


def weights_of(state: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Weights as numpy arrays (float32), by name."""
    return {name: value.detach().float().cpu().numpy() for name, value in state.items()}


def fitting(model: UNet, weights: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """The weights that a network has by the same name and shape."""
    state = model.state_dict()
    return {k: torch.from_numpy(v) for k, v in weights.items() if k in state and state[k].shape == v.shape}


def transfer(model: UNet, weights: Mapping[str, NDArray[Any]]) -> str:
    """Copy every weight that fits by name and shape; the others keep their initial values.

    Returns
    -------
    str
        Text: how many tensors were loaded, and which start from initial values.
    """
    state, fits = model.state_dict(), fitting(model, weights)
    model.load_state_dict(fits, strict=False)
    fresh = sorted({name.rsplit(".", 1)[0] for name in state if name not in fits})
    if not fresh:
        return f"All weights loaded ({len(state)} tensors)."
    listed = ", ".join(fresh[:6]) + (", …" if len(fresh) > 6 else "")
    return f"{len(fits)} of {len(state)} weight tensors loaded; trained from scratch: {listed}."
