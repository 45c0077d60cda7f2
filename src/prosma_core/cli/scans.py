"""Options of commands over many scans, and how such a command ends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prosma_core.cli.options import NOTHING_EXIT, PARTIAL_EXIT, say, say_error
from prosma_core.errors import BELOW, ConfigError
from prosma_core.io.remote import input_path, local_path
from prosma_core.printable import counted, visible

if TYPE_CHECKING:
    from prosma_core.cluster.place import Place
    from prosma_core.inference.scan_runs import ScanPlan
    from prosma_core.io.scan_files import ScanChoice

Inputs = Annotated[
    list[Path] | None,
    typer.Argument(parser=input_path, metavar="INPUT...", help="Scans, folders of scans, or URLs of scans."),
]
ListFile = Annotated[
    Path | None,
    typer.Option(
        "--list",
        parser=local_path,
        metavar="FILE",
        help="Text file with one scan a line, or a .csv; - is standard input.",
    ),
]
Recursive = Annotated[
    bool, typer.Option("--recursive", help="Also folders in folders; results lie in folders as the scans do.")
]
Match = Annotated[
    str, typer.Option("--match", metavar="PATTERN", help="Names to take from folders, such as '*_T1w.nii.gz'.")
]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root", parser=input_path, metavar="DIR", help="Results lie in folders below --out as the scans do below DIR."
    ),
]
PartOf = Annotated[
    str | None,
    typer.Option("--part", metavar="I/N", help="Only part I of N of the scans, such as 1/4."),
]
SkipExisting = Annotated[
    bool, typer.Option("--skip-existing", help="Leave out scans whose results exist; they are not read.")
]

On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="WHERE",
        help="Compute on Dask workers: local, local:2, tcp://HOST:8786 or scheduler.json; this process unless given.",
    ),
]


def scan_choice(
    inputs: list[Path] | None, listed: Path | None, recursive: bool, match: str, root: Path | None, part: str | None
) -> ScanChoice:
    """Which scans a command is for; raises `ConfigError` where there is none, or an option has no meaning."""
    from prosma_core.io.scan_files import ScanChoice, parse_part, read_list

    given = [*(inputs or ()), *(read_list(listed) if listed else ())]
    if not given:
        msg = "No scan is given: name files or folders, or a list of them with --list FILE."
        raise ConfigError(msg)
    return ScanChoice(tuple(given), recursive, match, root, parse_part(part))


def place_of(on: str | None) -> Place | None:
    """Where is computed, None for this process; raises `ConfigError` where the text of ``--on`` names no place."""
    from prosma_core.cluster.place import parse_place

    return None if on is None else parse_place(on)


def describe_part(plan: ScanPlan, part: tuple[int, int]) -> list[str]:
    """Which scans are done of how many, where this is not all."""
    number, parts = part
    ours = len(plan.left) + len(plan.finished)
    return [f"Part {number} of {parts}: {ours} of {plan.total} scans."] if parts > 1 else []


def say_kept(plan: ScanPlan) -> None:
    """Print where blocks of scans that were not finished are kept."""
    from prosma_core.inference.scan_state import hidden_folder, kept_blocks

    for task in plan.left:
        if blocks := kept_blocks(task.target):
            text = counted(blocks, "finished block is", "finished blocks are")
            say(
                f"{task.name}: {text} kept in {hidden_folder(task.target)}. The same command continues there.", err=True
            )


def end_of(plan: ScanPlan, what: str, problem: str = "") -> None:
    """Print how many scans were done and what failed; raises `typer.Exit` with the exit code where not all was done."""
    done, there, failures = plan.done, len(plan.finished), plan.failed
    total = done + there + len(failures)
    reasons = [f"{visible(failure.name)}: {failure.error}" for failure in failures]
    if total > 1:
        say(f"{done} {what}, {there} finished already, {len(failures)} failed.", err=True)
        reasons = [f"{len(failures)} of {total} scans could not be {what}:", *reasons] if reasons else []
    if reasons:
        say_error(BELOW.join(reasons))
        say_kept(plan)
        if any(" exists already; add --overwrite" in failure.error for failure in failures) and not plan.skip:
            say("Add --skip-existing to leave out scans whose results exist.", err=True)
        if any(" would both be written to " in failure.error for failure in failures):
            say("With --root DIR, results lie in folders as the scans do below DIR.", err=True)
    if problem:
        say_error(problem)
    if failures or problem:
        raise typer.Exit(PARTIAL_EXIT if done or there else NOTHING_EXIT)
