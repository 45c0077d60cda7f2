"""Entry point of `prosma`, and the commands that only print: `prosma models` and `prosma doctor`."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prosma_core import __version__
from prosma_core.cli.evaluate import evaluate
from prosma_core.cli.inspect import inspect
from prosma_core.cli.options import (
    ERROR_EXIT,
    NOTHING_EXIT,
    SIGNAL_EXIT,
    PairsCommand,
    Stopped,
    VisibleGroup,
    cell,
    say,
    say_error,
)
from prosma_core.cli.segment import segment
from prosma_core.cli.train import train
from prosma_core.errors import NothingDoneError, ProsmaError
from prosma_core.io.claims import is_disturbing
from prosma_core.io.hardware import COMPUTING, limit_arenas
from prosma_core.io.remote import input_path
from prosma_core.printable import gib, visible

if TYPE_CHECKING:
    from prosma_core.config.model import ModelHeader
    from prosma_core.data.fit import Fit

models_app = typer.Typer(help="Shipped models, and what a model file says about itself.", no_args_is_help=True)


@models_app.command("list")
def list_models(
    scan: Annotated[
        Path | None,
        typer.Option("--for", parser=input_path, metavar="SCAN", help="A scan; the models that fit it come first."),
    ] = None,
) -> None:
    """List the shipped models by modality."""
    from rich.console import Console
    from rich.table import Column, Table

    from prosma_core.data.fit import Fit, rank_of, verdict_text
    from prosma_core.io.bundle import ModelEntry, dice_text, figures_text, model_groups, read_header, shipped_models

    models = [ModelEntry(path, read_header(path), shipped=True) for path in shipped_models().values()]
    if not models:
        say("No models are shipped with this installation; prosma train makes one.")
        return
    found = {model.path: look(model.header) for model in models} if (look := _comparing(scan)) else {}
    said = []
    whole = [Column(name, no_wrap=True) for name in (("name", "fit") if scan else ("name",))]
    classes, licence = Column("classes", min_width=LONGEST_WORD), Column("license", no_wrap=True)
    table = Table(*whole, "dims", Column("channels", max_width=8), classes, "Dice", "MB", licence)
    for title, group in model_groups(models, lambda model: rank_of(verdict_text(found.get(model.path)))):
        table.add_section()
        table.add_row(f"[bold]{cell(title)}[/bold]")
        for model in group:
            header, fit = model.header, found.get(model.path)
            why = fit.text if isinstance(fit, Fit) else fit
            said.append(" ".join(filter(None, (f"{model.path.stem}:", model.description, figures_text(header), why))))
            table.add_row(
                cell(model.path.stem),
                *([verdict_text(fit) or "not known"] if scan else []),
                f"{header.model.dims}D",
                cell(", ".join(header.preprocess.channels)),
                cell(_some([c.name for c in header.classes[1:]])),
                cell(dice_text(header)),
                f"{model.path.stat().st_size / 1e6:.1f}",
                cell(header.licence) or "-",
            )
    Console(width=114).print(table)
    say(*said)


LONGEST_WORD = 12
"""Letters of a class's name that stand in one line at least."""
MOST_CLASSES = 4
"""Classes of a model that are named in the list; of more, the first three and how many there are."""


def _some(names: list[str]) -> str:
    """Names in a cell of the list."""
    few = names if len(names) <= MOST_CLASSES else [*names[:3], f"and {len(names) - 3} more"]
    return ", ".join(few)


def _comparing(path: Path | None) -> Callable[[ModelHeader], Fit | str] | None:
    """What says whether a model fits a scan, or why it cannot take it; None without a scan."""
    if path is None:
        return None
    from prosma_core.data.fit import compare, misfit
    from prosma_core.data.look import describe
    from prosma_core.io.images import read_image
    from prosma_core.io.notes import known_of

    scan = read_image(path)
    look = describe(scan.spec, scan.data, **known_of(path))
    return lambda header: misfit(scan, header) or compare(look, header)


@models_app.command("info")
def info(model: Annotated[str, typer.Argument(metavar="NAME_OR_FILE", help="A shipped model or a file.")]) -> None:
    """Print everything a model file says about itself, as YAML, the network last; its hash is checked."""
    import yaml

    from prosma_core.io.bundle import find_model, load_bundle

    path = find_model(model)
    header, weights = load_bundle(path)
    values = header.model_dump(mode="json")
    values |= {"file": str(path), "parameters": sum(w.size for w in weights.values())}
    between = [name for name in values if name not in {*FIRST, *LAST}]
    ordered = {name: values[name] for name in (*FIRST, *between, *LAST)}
    lines = yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True, width=10**9, default_flow_style=None)
    say(*lines.rstrip().split("\n"))


FIRST = ("name", "description", "purpose", "classes", "evaluation", "facts", "training", "licence", "attribution")
"""What a person asks first about a model."""
LAST = ("model", "parameters", "file", "sha256")


PACKAGES = ("numpy", "monai", "nibabel", "tifffile", "zarr", "safetensors", "pydantic", "SimpleITK", "napari")


def doctor(
    probe: Annotated[
        bool, typer.Option("--probe", help="Find out again how this CPU computes fastest; close other programs before.")
    ] = False,
) -> None:
    """Print versions, devices, memory and threads, and what would be used."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import psutil
    import torch

    from prosma_core.inference.cpu_tuning import SWITCH, known_cpu_settings, probe_cpu
    from prosma_core.inference.device import choose_device, cuda_missing
    from prosma_core.io.bundle import shipped_models
    from prosma_core.io.hardware import cpu_name, usable_cores

    rows = {
        "prosma": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__}, CUDA build: {torch.version.cuda or 'no'}",
    }
    for name in PACKAGES:
        try:
            rows[name] = version(name)
        except PackageNotFoundError:
            rows[name] = "not installed"
    memory = psutil.virtual_memory()
    rows["memory"] = f"{gib(memory.available)} free of {gib(memory.total)}"
    rows["threads"] = (
        f"{torch.get_num_threads()} of {psutil.cpu_count()} logical, {psutil.cpu_count(logical=False)} physical "
        f"cores; {usable_cores()} for this process"
    )
    found = probe_cpu() if probe else None
    settings = found.settings if found else known_cpu_settings()
    rows["cpu"] = f"{cpu_name()}, {settings.words if settings else 'probed when it is used first'}"
    if os.environ.get(SWITCH) == "0":
        rows["cpu"] += f" ({SWITCH}=0)"
    for other, ratio in found.ratios if found else ():
        rows[f"  {other.words}"] = f"{ratio:.2f} of the time"
    rows["cuda"] = cuda_missing() or ""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        rows["cuda"] = f"{torch.cuda.get_device_name()}, {gib(free)} free of {gib(total)}"
    rows["mps"] = "available" if torch.backends.mps.is_available() else "not available"
    rows["models"] = ", ".join(shipped_models()) or "none shipped"
    rows["would use"] = choose_device("auto").inferring
    for key, value in rows.items():
        say(f"{key + ':':12} {value}")


app = typer.Typer(
    cls=VisibleGroup,
    name="prosma",
    help="Train ProSMA-UNets on annotated scans and segment new scans with them, in 2D and 3D.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(cls=PairsCommand)(train)
app.command()(segment)
app.command()(evaluate)
app.command()(inspect)
app.add_typer(models_app, name="models")
app.command()(doctor)


def _print_version(value: bool) -> None:
    if value:
        say(f"prosma {__version__}")
        raise typer.Exit


def _check_update(value: bool) -> None:
    if value:
        from prosma_core.io.releases import ask_for_update

        say(f"prosma {__version__}", ask_for_update(__version__))
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
    check_update: Annotated[
        bool,
        typer.Option(
            "--check-update",
            help="Ask the package index (pypi.org) once whether there is a newer release; nothing else does.",
            is_eager=True,
            callback=_check_update,
        ),
    ] = False,
) -> None:
    """Segmentation of 2D and 3D scans with ProSMA-UNets."""


STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that end a command as soon as what it writes is whole or gone."""
SAME_SIGNAL_S = 1.0
"""Signals within so many seconds are one: of a job scheduler to a process and to its group."""
AGAIN_S = 0.1
"""Seconds after which a signal comes again that came at a moment when it cannot be handled."""


def main() -> None:
    """Run the command line; our own errors become one message and exit code 2."""
    for name, value in COMPUTING.items():
        os.environ.setdefault(name, value)
    limit_arenas()
    try:
        with _stoppable():
            app(prog_name="prosma")
    except ProsmaError as error:
        say_error(str(error))
        sys.exit(NOTHING_EXIT if isinstance(error, NothingDoneError) else ERROR_EXIT)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        say_error(visible(f"{place}{error.strerror or error}. Check the name, the permissions and the disk."))
        sys.exit(ERROR_EXIT)
    except Stopped as stop:
        name = signal.Signals(stop.number).name
        say("Stopped." if name == "SIGINT" else f"Stopped by {name}.", err=True)
        sys.exit(SIGNAL_EXIT + stop.number)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Signals raise `Stopped` in the main thread, unless they are ignored (nohup) or handled by others."""
    before: dict[int, Any] = {}
    told: list[tuple[float, int]] = []

    def stop(number: int, _: object) -> None:
        if _importing_torch() or is_disturbing():
            again = threading.Timer(AGAIN_S, _signal_main_thread, (number,))
            again.daemon = True
            again.start()
            return
        told.append((time.monotonic(), number))
        if len(told) == 1 or told[-1][0] - told[-2][0] > SAME_SIGNAL_S:  # cleaning up is not interrupted at once
            raise Stopped(number)

    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in STOPPING if hasattr(signal, name)):
            handler = signal.getsignal(number)
            if handler in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = handler
                signal.signal(number, stop)
    try:
        yield
    except Exception as error:
        if told:  # Python and libraries wrap what is raised within them
            raise Stopped(told[-1][1]) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signal_main_thread(number: int) -> None:
    """Send a signal to the main thread, which wakes it where it waits."""
    if os.name == "nt":
        signal.raise_signal(number)
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, number)


def _importing_torch() -> bool:
    """Whether torch is being imported: an exception in its C++ code ends the process by a crash."""
    return bool(getattr(getattr(sys.modules.get("torch"), "__spec__", None), "_initializing", False))


def program() -> None:
    """Run the command line as a process; one that was stopped ends by the signal, so that a shell's loop ends, too."""
    stopped: list[int] = []
    atexit.register(_end_by, stopped)  # first in, last out
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, int) and end.code > SIGNAL_EXIT:
            stopped.append(end.code - SIGNAL_EXIT)
        raise


def _end_by(stopped: list[int]) -> None:
    if stopped and os.name == "posix":
        sys.stdout.flush()
        sys.stderr.flush()
        signal.signal(stopped[0], signal.SIG_DFL)
        os.kill(os.getpid(), stopped[0])


if __name__ == "__main__":
    program()
