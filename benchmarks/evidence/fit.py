"""One training of an experiment, by the package's own trainer; goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import torch

from evidence.networks import replace_network
from evidence.runs import Run
from evidence.splits import inner_split
from prosma_core.config.training import resolve_run
from prosma_core.events import EpochDone, Event
from prosma_core.io.dataset_folder import open_dataset
from prosma_core.training.loop import training_memory
from prosma_core.training.prepare import prepare_run
from prosma_core.training.split import Split
from prosma_core.training.trainer import Trainer
from prosma_core.training.validate import Validation


def split_of(run: Run, data: Path) -> Split:
    """Cases of a run: to choose a rate, a part of the training cases and their rest; to be judged, all of them and val.

    Nothing is chosen by the second part of a run that is judged: the weights are those of the last epoch.
    """
    folder, most = open_dataset(data), run.experiment.most_cases
    if run.phase == "tune":
        fit, rest = inner_split(folder, run.experiment.choose)
    else:
        fit, rest = list(folder.splits["train"]), list(folder.splits["val"])
    return Split(tuple(fit[:most]), tuple(rest[:most]))


def fit(run: Run, data: Path, out: Path, device: torch.device) -> Generator[Event, None, tuple[Trainer, Validation]]:
    """Train; whoever stops after an `EpochDone` loses nothing.

    Parameters
    ----------
    run : Run
    data : Path
        Folder of the data set.
    out : Path
        Model file; its run folder lies beside it.
    device : torch.device

    Returns
    -------
    trainer : Trainer
        Its ``evaluated`` network has the final weights.
    validation : Validation
        Of the second part of the split, on the network's grid.
    """
    values = {**run.values, "data": data, "out": out, "device": device.type}
    with training_memory(device):
        setup = yield from prepare_run(resolve_run(values), device, split_of(run, data))
        trainer = Trainer(setup, device)
        row = run.experiment.rows[run.row]
        replace_network(trainer, row.network, row.variant)
        if trainer.folder.states():
            trainer.resume()
        else:
            trainer.folder.clear()
        trainer.folder.write_settings(setup.run, setup.split.as_json())
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            while not trainer.finished:
                for event in trainer.epoch():
                    if isinstance(event, EpochDone):  # only then the state is on disk
                        yield event
        validation = yield from trainer.validate(trainer.weights(), trainer.val)
    return trainer, validation
