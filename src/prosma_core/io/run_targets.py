"""What a training reads, and the files it will write, compared before anything is removed or written."""

from __future__ import annotations

import contextlib

from prosma_core.config.run import RunConfig
from prosma_core.errors import OutputError, ProsmaError
from prosma_core.io.dataset_folder import input_files
from prosma_core.io.models import find_model
from prosma_core.io.output_plan import OutputPlan, check_replace
from prosma_core.io.pairs import open_cases
from prosma_core.io.run_folder import RunFolder, check_model_name


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
