"""What a training reads, and the files it will write, compared before anything is removed or written."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from prosma_core.config.run import RunConfig, resolve_run
from prosma_core.errors import ConfigError, OutputError, ProsmaError
from prosma_core.io.dataset_folder import input_files
from prosma_core.io.models import find_model
from prosma_core.io.output_plan import OutputPlan, check_replace
from prosma_core.io.pairs import open_cases
from prosma_core.io.resume import resumed_settings
from prosma_core.io.run_folder import RunFolder, check_model_name, check_new_run


def run_to_train(
    given: dict[str, Any], what: str, *, resume: bool = False, more_epochs: int | None = None, overwrite: bool = False
) -> RunConfig:
    """The run that values describe, checked against what is on the disk.

    Parameters
    ----------
    given : dict
        Nested values as in `RunConfig`.
    what : str
        Where they come from, for error texts.
    resume : bool
        Whether a run goes on; its own settings are underneath.
    more_epochs : int, optional
        As of `resumed_settings`.
    overwrite : bool
        Whether an existing model and its run may be replaced.

    Raises
    ------
    ConfigError
        A value is unknown or out of bounds, no model file is named, or no data.
    OutputError, DatasetError, TrainingError
        As in `check_new_run`, `check_run_targets` and `resumed_settings`.
    """
    target = given.get("out")
    if not isinstance(target, str | Path) or not str(target):
        msg = "No --out was given; name the model file to write, such as --out liver.safetensors."
        raise ConfigError(msg)
    folder = RunFolder.beside(Path(target))
    if resume:
        given = resumed_settings(folder, given, more_epochs)
    if given.get("data") is None and not given.get("pairs"):
        msg = "No --data was given; name the folder with images/ and labels/, or give --pair IMAGE LABELS."
        raise ConfigError(msg)
    run = resolve_run(given, what)
    check_run_targets(run, resume=resume)
    if not resume:
        check_new_run(run.out, folder, overwrite=overwrite)
    return run


def check_run_targets(run: RunConfig, *, resume: bool = False) -> None:
    """Check that a training replaces nothing that it reads, and nothing but models and run folders.

    Parameters
    ----------
    run : RunConfig
    resume : bool
        Whether the run goes on, and does not read its start model any more.

    Raises
    ------
    OutputError
        The model or a file of the run folder is, holds or lies in a scan, a label map, a document of the data folder
        or the start model; something is in its place that is not a model, or not a run folder; or the name is none of
        a model.
    ConfigError, DatasetError
        As in `open_cases`.
    """
    check_model_name(run.out)
    sources = input_files(open_cases(run.data, run.pairs))
    if run.init and not resume:
        with contextlib.suppress(ProsmaError):  # said where it is read
            sources.append(find_model(run.init))
    plan, folder = OutputPlan(sources), RunFolder.beside(run.out)
    reached = [folder.best, folder.last, folder.history, folder.before_after, *sorted(folder.root.glob("state*"))]
    settings = [folder.run_yaml, folder.splits, folder.root / "command.txt"]
    for target in (run.out, *settings, *reached, folder.picture(0).parent):
        plan.add(target)
    if run.out.is_file():
        check_replace(run.out, overwrite=True)
    foreign = next((path for path in reached if path.exists()), None)
    if foreign is not None and not folder.run_yaml.is_file():
        msg = f"{folder.root} is not the folder of a training run, but holds {foreign.name}. Choose another --out."
        raise OutputError(msg)
