"""Models by name or file: the shipped ones, and those a person trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from prosma_core.config.header import ModelHeader
from prosma_core.errors import ModelFileError

PRETRAINED = Path(__file__).parent.parent / "pretrained"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Purpose:
    """Scans that a model was trained on, as far as it is known.

    Attributes
    ----------
    synthetic : bool
        Computed phantoms, not scans of anything.
    modality : str
        As DICOM abbreviates it (``"CT"``, ``"MR"``, ``"US"``); empty where it is not known.
    extent : (float, float) or None
        Shortest and longest side of the scans in mm, where they show one thing only and are cut around it.
    """

    synthetic: bool = False
    modality: str = ""
    extent: tuple[float, float] | None = None


_SHIPPED = {
    "3ca35ae0ce4484d8aae6a4544cfd4b808141e9a60a114da47018a36c6bad94d4": Purpose(synthetic=True),  # phantom-3d
    "f65066fba6c8e25a7d4d77b3c380b84540eabad36ed2c1440cfb409c7b59a69f": Purpose(modality="MR", extent=(20.0, 64.0)),
    "5d3eb367024e135f233e3c409f880c3ea1cd7922b26febd4d32f685accaabe6f": Purpose(modality="US"),  # breast-lesion-us
}
"""Of the shipped models, by the hash of their weights: their headers are older than these facts."""


def purpose_of(header: ModelHeader) -> Purpose:
    """What a model was trained on: from its header, of a shipped model (under any name) from a table."""
    if header.sha256 in _SHIPPED:
        return _SHIPPED[header.sha256]
    synthetic = header.training.get("synthetic") is True or str(header.training.get("data", "")).startswith("phantom")
    ct = any(intensity.kind == "ct" for intensity in header.preprocess.intensities)
    return Purpose(synthetic=synthetic, modality="CT" if ct else "")


def dice_text(header: ModelHeader) -> str:
    """Mean Dice of a model and what it was measured on: only a Dice on held-out data is called validation Dice."""
    training = header.training
    dice, held_out = training.get("validation_mean_dice"), training.get("validation", "cases")
    if isinstance(dice, bool) or not isinstance(dice, int | float) or not math.isfinite(dice):
        return "not validated"
    if training.get("independent_labels") is False:
        return f"Dice {dice:.3f} against labels of a model"
    if held_out == "none held out":
        return f"training Dice {dice:.3f}, not validated"
    if not training.get("validation_cases"):
        return f"Dice {dice:.3f}, not validated"
    where = " on slices of its training scans" if held_out == "slices" else ""
    return f"validation Dice {dice:.3f}{' on phantoms' if purpose_of(header).synthetic else where}"


def shipped_models() -> dict[str, Path]:
    """Files of the shipped models by name, sorted."""
    return {path.stem: path for path in sorted(PRETRAINED.glob(f"*{SUFFIX}"))}


def find_model(name_or_file: str) -> Path:
    """File of a model given by name or by path.

    Raises
    ------
    ModelFileError
        There is no such model; the text lists the shipped ones.
    """
    shipped = shipped_models()
    if name_or_file in shipped:
        return shipped[name_or_file]
    path = Path(name_or_file).expanduser()
    if path.is_file():
        return path
    msg = (
        f"There is no model {name_or_file!r}: no such file, and "
        f"the shipped models are {', '.join(shipped) or '(none)'}."
    )
    raise ModelFileError(msg)
