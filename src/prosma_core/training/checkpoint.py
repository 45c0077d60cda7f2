"""Training state on disk: safetensors and JSON, written in one step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prosma_core.config.documents import load_json
from prosma_core.errors import TrainingError
from prosma_core.io.atomic import write_bytes_atomic
from prosma_core.training.schedule import MovingAverage


@dataclass
class Progress:
    """Where a run is: everything of its state that is not a tensor.

    Attributes
    ----------
    epoch : int
        Epochs finished.
    elapsed : float
        Seconds trained, all sessions together.
    best_dice : float
        Best mean validation Dice, -1 before the first.
    best_epoch : int
    history : list of dict
        Rows of history.csv.
    """

    epoch: int = 0
    elapsed: float = 0.0
    best_dice: float = -1.0
    best_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def save_state(
    path: Path, model: nn.Module, average: MovingAverage, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write everything needed to go on exactly from here."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.weights.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
    tensors = {k: v.detach().contiguous().cpu().clone() for k, v in tensors.items()}
    metadata = {"progress": json.dumps(asdict(progress)), "average_steps": str(average.steps)}
    write_bytes_atomic(path, save(tensors, metadata))


def load_state(path: Path, model: nn.Module, average: MovingAverage, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore what `save_state` wrote, in place.

    Raises
    ------
    TrainingError
        There is no state, it is damaged, or it belongs to another network.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        msg = f"There is no training to resume: {path} does not exist. Start without --resume."
        raise TrainingError(msg)
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            for key in file.keys():  # noqa: SIM118 - not a mapping
                tensors[key] = file.get_tensor(key)
        progress = Progress(**load_json(metadata["progress"]))
        average.steps = int(metadata["average_steps"])
        _restore(tensors, model, average, optimizer)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        msg = (
            f"The training state {path} is damaged or belongs to "
            f"other settings ({error}). Start again without --resume."
        )
        raise TrainingError(msg) from error
    return progress


def _restore(
    tensors: dict[str, Tensor], model: nn.Module, average: MovingAverage, optimizer: torch.optim.Optimizer
) -> None:
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    for name, value in average.weights.items():
        value.copy_(tensors[f"average.{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
