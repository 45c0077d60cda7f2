"""Training state on disk: safetensors and JSON, the last two of them; only a finite one is written or resumed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prosma_core.config.documents import load_json
from prosma_core.errors import DivergedError, TrainingError
from prosma_core.printable import counted
from prosma_core.runs.run_folder import RunFolder
from prosma_core.training.optimization import MovingAverage


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
    budget_epoch : int
    budget_seconds : float
        Epochs and seconds trained before the budget began to count anew, because labels changed.
    history : list of dict
        Rows of history.csv.
    """

    epoch: int = 0
    elapsed: float = 0.0
    best_dice: float = -1.0
    best_epoch: int = 0
    budget_epoch: int = 0
    budget_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """What `as_json` wrote; raises `ValueError` or `TypeError` for another text."""
        return cls(**load_json(text))

    def as_json(self) -> str:
        """As JSON, which knows no numbers that are not finite: a Dice that is none becomes null."""
        values = asdict(self)
        for row in values["history"]:
            row.update({k: None for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)})
        return json.dumps(values, allow_nan=False)


def check_finite_state(
    model: nn.Module, average: MovingAverage, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Raise `DivergedError` that names what is not finite: a weight, an average, a moment, or a number of the schedule.

    A loss and a gradient that are finite say nothing of the step that follows them.
    """
    _check(_tensors(model, average, optimizer), progress, optimizer)


def save_state(
    folder: RunFolder, model: nn.Module, average: MovingAverage, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write everything needed to go on exactly from here; the state before stays beside it.

    Raises
    ------
    DivergedError
        As `check_finite_state` does; the states on the disk are as before.
    OutputError
        The state cannot be written; those on the disk are as before.
    """
    from safetensors.torch import save

    tensors = _tensors(model, average, optimizer)
    _check(tensors, progress, optimizer)
    tensors = {k: v.detach().contiguous().cpu().clone() for k, v in tensors.items()}
    metadata = {"progress": progress.as_json(), "average_steps": str(average.steps), "hash": _hash(tensors)}
    folder.write_state(save(tensors, metadata))


def load_state(
    folder: RunFolder, model: nn.Module, average: MovingAverage, optimizer: torch.optim.Optimizer
) -> tuple[Progress, str]:
    """Restore, in place, the newest of a folder's states that is complete and finite.

    Returns
    -------
    progress : Progress
    note : str
        Why an older state than the newest was taken; empty where it was not.

    Raises
    ------
    TrainingError
        There is no state, each is damaged, or they belong to another network.
    """
    problems = []
    for path in folder.states():
        try:
            progress = _load(path, model, average, optimizer)
        except TrainingError as error:
            problems.append(str(error))
            continue
        if not problems:
            return progress, ""
        folder.restore_state(path)
        return progress, f"{problems[0]} The state before it is used."
    if problems:
        raise TrainingError(f"{problems[0]} Start a new training (without --resume).")
    msg = f"There is no training to resume: {folder.state} does not exist. Start a new training (without --resume)."
    raise TrainingError(msg)


def _load(path: Path, model: nn.Module, average: MovingAverage, optimizer: torch.optim.Optimizer) -> Progress:
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            for key in file.keys():  # noqa: SIM118 - not a mapping
                tensors[key] = file.get_tensor(key)
        if "hash" in metadata and metadata["hash"] != _hash(tensors):  # states of older versions have none
            msg = "its content was changed after it was written"
            raise ValueError(msg)
        progress = Progress.from_json(metadata["progress"])
        _check(tensors, progress)
        _restore(tensors, model, average, optimizer)
        average.steps = int(metadata["average_steps"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError, DivergedError) as error:
        msg = f"The training state {path} is damaged or belongs to other settings ({str(error)[:120]})."
        raise TrainingError(msg) from error
    return progress


def _tensors(model: nn.Module, average: MovingAverage, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors of a state by their names in the file."""
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.weights.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
    return tensors


def _check(tensors: Mapping[str, Tensor], progress: Progress, optimizer: torch.optim.Optimizer | None = None) -> None:
    finite = {name: torch.isfinite(value).all() for name, value in tensors.items()}
    bad = [name for name, whole in finite.items() if not whole]
    numbers = {"elapsed": progress.elapsed, "best_dice": progress.best_dice}
    numbers |= {f"learning_rate {i}": g["lr"] for i, g in enumerate(optimizer.param_groups if optimizer else ())}
    bad += [name for name, value in numbers.items() if not math.isfinite(value)]
    if bad:
        msg = (
            f"{counted(len(bad), 'value of the training is', 'values of the training are')} not finite, first {bad[0]}"
        )
        raise DivergedError(msg)


def _hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and values."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


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
