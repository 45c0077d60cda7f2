"""Library of trained models and their runs: free names, list of runs, copies."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from prosma_core.config.training import load_run_yaml
from prosma_core.errors import OutputError, ProsmaError
from prosma_core.io.atomic import sweep, write_atomic
from prosma_core.io.bundle import SUFFIX, find_model, read_header, shipped_models
from prosma_core.io.names import MOST_LETTERS, safe_name
from prosma_core.io.output_plan import OutputPlan, check_replace
from prosma_core.runs.run_folder import RunFolder
from prosma_core.runs.run_state import RunState, run_state

_LOG = logging.getLogger(__name__)


def taken_names(folder: Path) -> set[str]:
    """Names of models and runs in a folder, and of the shipped models, in small letters."""
    files = folder.iterdir() if folder.is_dir() else ()
    own = {path.stem.lower() for path in files if path.suffix in {SUFFIX, ".prosma"}}
    return own | {name.lower() for name in shipped_models()}


def free_name(name: str, folder: Path) -> str:
    """A name for a new model: this one, with ``-2``, ``-3``, … where the file of another model or run has it."""
    wanted, taken = " ".join(name.split())[:MOST_LETTERS].strip() or safe_name(""), taken_names(folder)
    free, number = wanted, 2
    while safe_name(free).lower() in taken:
        free, number = f"{wanted}-{number}", number + 1
    return free


def list_runs(folder: Path) -> list[RunState]:
    """Runs in a folder, the one that was worked on last first; those that cannot be read are left out, and logged.

    What killed processes have left of files that they were writing, among models and runs, is removed.
    """
    found: list[tuple[float, RunState]] = []
    sweep(folder)
    for root in sorted(folder.glob("*.prosma")):
        run = RunFolder(root)
        run.sweep()
        try:
            found.append((_last_change(run), run_state(run)))
        except (ProsmaError, OSError) as error:
            _LOG.info("A run is left out: %s", error)
    return [state for _, state in sorted(found, key=lambda each: each[0], reverse=True)]


def save_as(model: Path, to: Path) -> Path:
    """Copy a model to where the user wants it, whole or not at all; what was there is replaced.

    Returns
    -------
    Path
        Where it is: `to`, with the suffix of models.

    Raises
    ------
    ModelFileError
        `model` is not a model, or gone.
    OutputError
        `to` cannot be written, is the model that the training started from, or a file that is no model.
    """
    if to.suffix != SUFFIX:
        to = to.with_name(to.name + SUFFIX)
        if to.exists():
            msg = f"{to} is there already. Choose it by its whole name to replace it, or choose another name."
            raise OutputError(msg)
    read_header(model)
    if to.exists() and to.samefile(model):
        msg = f"{to} is the model itself. Choose another name or folder for the copy."
        raise OutputError(msg)
    OutputPlan(_start_of(model)).check(to)
    check_replace(to, overwrite=True)
    write_atomic(to, lambda temporary: _copy(model, temporary))
    return to


def _start_of(model: Path) -> list[Path]:
    """The model that a training started from, as its run folder says."""
    try:
        start = load_run_yaml(RunFolder.beside(model).run_yaml).get("init")
        return [find_model(str(start))] if start else []
    except ProsmaError:
        return []


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _last_change(run: RunFolder) -> float:
    files = (run.run_yaml, run.history, run.state)
    return max((path.stat().st_mtime for path in files if path.exists()), default=0.0)
