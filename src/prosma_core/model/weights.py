"""Weights of a network to and from arrays: exactly, or as far as they fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from prosma_core.config.model import ModelConfig
from prosma_core.errors import ModelFileError
from prosma_core.model.unet import UNet
from prosma_core.printable import counted


def weights_of(state: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Weights as numpy arrays (float32), by name."""
    return {name: value.detach().float().cpu().numpy() for name, value in state.items()}


def model_from(config: ModelConfig, weights: Mapping[str, NDArray[Any]]) -> UNet:
    """Network with exactly these weights, on the CPU, in evaluation mode.

    Raises
    ------
    ModelFileError
        A weight is missing, unexpected, or of another shape.
    """
    with torch.device("meta"):
        model = UNet(config)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
    if wrong:
        first = wrong[0]
        msg = (
            f"{counted(len(wrong), 'weight does', 'weights do')} not fit the header's network, for example {first}: "
            f"needed {expected.get(first, 'none')}, given {given.get(first, 'none')}. The file is not usable."
        )
        raise ModelFileError(msg)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, assign=True)
    return model.eval()


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
