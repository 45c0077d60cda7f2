"""`prosma models`."""

from __future__ import annotations

from typing import Annotated

import typer

from prosma_core.cli.terminal import cell, say

models_app = typer.Typer(help="Shipped models, and what a model file says about itself.", no_args_is_help=True)


@models_app.command("list")
def list_models() -> None:
    """List the shipped models."""
    from rich.console import Console
    from rich.table import Table

    from prosma_core.io.bundle import dice_text, read_header, shipped_models

    if not shipped_models():
        say("No models are shipped with this installation; `prosma train` makes one.")
        return
    table = Table("name", "dims", "channels", "classes", "Dice", "MB", "licence")
    for name, path in shipped_models().items():
        header = read_header(path)
        table.add_row(
            cell(name),
            f"{header.model.dims}D",
            cell(", ".join(header.preprocess.channels)),
            cell(", ".join(c.name for c in header.classes[1:])),
            cell(dice_text(header)),
            f"{path.stat().st_size / 1e6:.1f}",
            cell(header.licence) or "-",
        )
    Console(width=110).print(table)


@models_app.command("info")
def info(model: Annotated[str, typer.Argument(metavar="NAME_OR_FILE", help="A shipped model or a file.")]) -> None:
    """Print everything a model file says about itself, as YAML; its hash is checked."""
    import yaml

    from prosma_core.io.bundle import find_model, load_bundle

    path = find_model(model)
    header, weights = load_bundle(path)
    values = header.model_dump(mode="json")
    values["file"] = str(path)
    values["parameters"] = sum(w.size for w in weights.values())
    say(*yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10**9).rstrip().split("\n"))
