"""What mkdocs makes of the repository: start page, model cards, command line reference, links that leave the folder.

The start page is the README and the cards are those of the shipped models, so that nothing is written twice; the
reference is read from the commands themselves.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
CARDS = ROOT / "src" / "prosma_core" / "pretrained"
REPOSITORY = "https://github.com/napari-prosma/napari-prosma"
IMAGES = "https://raw.githubusercontent.com/napari-prosma/napari-prosma/main/docs/"
REFERENCE = "<!-- commands: written by docs/site_hooks.py -->"
ELSEWHERE = re.compile(r"<!-- github -->.*?<!-- end -->\n", re.DOTALL)
"""What stands in place of the reference where the page is read in the repository."""
BADGES = re.compile(r"^\[!\[.*\n", re.MULTILINE)
RELATIVE = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the start page and the model cards."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "index.md", content=start_page()))
    for card in sorted(CARDS.glob("*.md")):
        files.append(File.generated(config, f"cards/{card.name}", abs_src_path=str(card)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put in the reference, and make links to files outside the site lead to the repository."""
    if REFERENCE in markdown:
        markdown = ELSEWHERE.sub("", markdown).replace(REFERENCE, reference())
    folder = posixpath.dirname(page.file.src_uri)
    return RELATIVE.sub(lambda link: link[1] + _target(link[2], folder), markdown)


def start_page() -> str:
    """The README with links inside the site, without the badges that other servers draw."""
    text = BADGES.sub("", (ROOT / "README.md").read_text(encoding="utf-8"))
    text = text.replace(IMAGES, "").replace(f"{REPOSITORY}/blob/main/docs/", "")
    return re.sub(rf"{REPOSITORY}/blob/main/src/prosma_core/pretrained/([\w-]+\.md)", r"cards/\1", text)


def _target(link: str, folder: str) -> str:
    """Where a relative link leads on the site."""
    path = posixpath.normpath(posixpath.join("docs", folder, link))
    if path.startswith("docs/"):
        return link
    inside = posixpath.relpath(f"cards/{posixpath.basename(path)}", folder or ".")
    return inside if (CARDS / posixpath.basename(path)).is_file() else f"{REPOSITORY}/blob/main/{path}"


def reference() -> str:
    """All commands with their arguments and options, as Markdown."""
    import typer

    from prosma_core.cli.main import app

    command = typer.main.get_command(app)
    return "\n".join(_lines(command, "prosma", command.make_context("prosma", [], resilient_parsing=True)))


def _lines(command: Any, name: str, context: Any) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    inner = getattr(command, "commands", {})
    usage = [name, *(["[OPTIONS]"] if options else []), *(["COMMAND"] if inner else []), *map(_usage, arguments)]
    lines = [f"## {name}", "", _cell(command.help or ""), "", "```text", " ".join(usage), "```", ""]
    if arguments or options:
        rows = [_row(parameter, context) for parameter in [*arguments, *options]]
        lines += ["| argument or option | value | meaning |", "|---|---|---|", *rows, ""]
    for verb, each in inner.items():
        lines += _lines(each, f"{name} {verb}", context)
    return lines


def _usage(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return f"{name if argument.required else f'[{name}]'}{'...' if argument.nargs == -1 and '.' not in name else ''}"


def _row(parameter: Any, context: Any) -> str:
    argument = parameter.param_type_name == "argument"
    names = [parameter.metavar or parameter.name.upper()] if argument else [*parameter.opts, *parameter.secondary_opts]
    value = "" if argument or parameter.is_flag else parameter.metavar or parameter.display_type(context)
    notes = [_cell(parameter.help or "")]
    if parameter.required and not argument:
        notes.append("Required.")
    elif parameter.default not in (None, False, (), [], "", ...) and not callable(parameter.default):
        notes.append(f"Default: `{parameter.default}`.")
    shown = ", ".join(f"`{name}`" for name in names)
    return f"| {shown} | {f'`{_escaped(value)}`' if value else ''} | {' '.join(filter(None, notes))} |"


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("<", "&lt;")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
