"""Models by name or file: the shipped ones, and those a person trained."""

from __future__ import annotations

from pathlib import Path

from prosma_core.errors import ModelFileError

PRETRAINED = Path(__file__).parent.parent / "pretrained"
SUFFIX = ".safetensors"


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
