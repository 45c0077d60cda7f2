"""The documentation names only what exists: paths, links, verbs and flags; and every option."""

from __future__ import annotations

import importlib.util
import os
import re
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    if page.is_file()
)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
REPOSITORY_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*/?")
FENCE = re.compile(r"^ *```[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SUFFIXES = (".py", ".toml", ".md", ".yml", ".yaml", ".cff", ".sh")
MADE_BY_TOOLS = {".venv", ".git", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "__pycache__", "dist"}

# What the pages say of the user's own folders, and names that are no paths.
USER_SIDE = [
    r"(OUT|DIR|RUN|MODEL|NAME|INPUT)\b.*",  # placeholders
    r"(\.\./)?shared(/.*)?",  # the real scans beside the repository
    r"(images|labels|imagesTr|labelsTr|imagesTs)/.*",  # a training folder
    r"(config|train|run)\.ya?ml",  # a settings file of the user's, also in a run folder
    r"\.venv(/.*)?",
    r"build/.*",  # what tools make
    r"\w{1,2}/\w{1,2}",  # units and ratios: mm/s, n/a
    r"(demo|results|bids)/.*",  # what the demo and the examples write
]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def without_fences(text: str) -> str:
    return FENCE.sub("", text)


def code_spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", without_fences(text))


def commands(text: str) -> list[str]:
    """Return the command lines of a page, one command each, without comments and prompts."""
    fenced = [match[1] for match in FENCE.finditer(text)]
    indented = "\n".join(re.findall(r"^ {4}(.*)$", without_fences(text), re.MULTILINE))
    lines = "\n".join([*fenced, indented, *code_spans(text)]).replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in re.split(r"&&|;|\|\s", re.sub(r"(^|\s)#.*", "", line))]
    return [" ".join(part.split()).removeprefix("$ ") for part in parts if part.strip()]


@cache
def repository_paths() -> list[str]:
    """Return the path of every file and folder of the repository, with a slash in front."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in MADE_BY_TOOLS]
        inside = Path(folder).relative_to(ROOT)
        found += [f"/{(inside / name).as_posix()}" for name in [*folders, *files]]
    return found


def is_path(span: str) -> bool:
    looks_so = REPOSITORY_NAME.fullmatch(span) is not None and ("/" in span or span.endswith(SUFFIXES))
    return looks_so and not any(re.fullmatch(pattern, span) for pattern in USER_SIDE)


def exists(span: str) -> bool:
    return any(path.endswith("/" + span.rstrip("/")) for path in repository_paths())


def flags(arguments: str) -> set[str]:
    return set(re.findall(r"(?<!\S)\[?(--?[a-zA-Z][\w-]*)", arguments))


@pytest.fixture(scope="module")
def cli() -> dict[str, set[str]]:
    """Return the flags of every verb of `prosma`, such as ``{"segment": {"--model", …}, "models list": {…}}``."""
    if not (ROOT / "src" / "prosma_core" / "cli" / "main.py").is_file():
        pytest.skip("the command line is not there yet")
    typer = pytest.importorskip("typer")
    from prosma_core.cli.main import app

    found: dict[str, set[str]] = {}

    def collect(command: object, name: str) -> None:
        found[name] = {"--help"}.union(*(p.opts + p.secondary_opts for p in command.params))  # type: ignore[attr-defined]
        for verb, inner in getattr(command, "commands", {}).items():
            collect(inner, f"{name} {verb}".strip())

    collect(typer.main.get_command(app), "")
    return found


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page: str) -> None:
    missing = [span for span in code_spans(text_of(page)) if is_path(span) and not exists(span)]
    assert missing == [], "neither in the repository nor in USER_SIDE above"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    folder = (ROOT / page).parent
    assert [link for link in LINK.findall(text_of(page)) if not (folder / link).exists()] == []


def test_every_picture_is_shown_somewhere_and_made_of_real_scans() -> None:
    linked = {Path(link).name for page in PAGES for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page))}
    pictures = {path.name for path in (ROOT / "docs" / "images").iterdir()}
    assert pictures - linked == set()
    scripts = list((ROOT / "docs").glob("screenshots*.py"))
    assert scripts
    assert [path.name for path in scripts if "phantom" in path.read_text(encoding="utf-8").lower()] == []
    assert (ROOT / "docs" / "images" / "tour.gif").stat().st_size < 3_000_000


@pytest.mark.parametrize("page", PAGES)
def test_verbs_and_benchmarks_of_run_py_exist(page: str, run_py: ModuleType) -> None:
    found = [re.search(r"\brun\.py +([a-z]+)(?: +(\w+))?", command) for command in commands(text_of(page))]
    for match in filter(None, found):
        verb, name = match.groups()
        assert verb in run_py.VERBS, match[0]
        assert verb != "bench" or name is None or (ROOT / "benchmarks" / f"{name}.py").is_file(), match[0]


@pytest.mark.parametrize("page", PAGES)
def test_verbs_and_flags_of_prosma_exist(page: str, cli: dict[str, set[str]]) -> None:
    for command in commands(text_of(page)):
        match = re.search(r"(?:^|\s)(?:(?:\S*/)?prosma|-m prosma_core\.cli) +([a-z]+)(?: +(list|info)\b)?(.*)", command)
        if match is None:
            continue
        name = " ".join(filter(None, match.groups()[:2]))
        assert name in cli, command
        assert flags(match[3]) <= cli[name], command


def test_commands_of_other_programs_name_what_is_there() -> None:
    """Extras of pip, files of python and docker, the plugin's name, also of lines that are too slow to be run."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.findall(r"^(\w+) = \[", project.partition("[project.optional-dependencies]")[2], re.MULTILINE)
    known = {"pip", "napari", "python", "python3", "docker", "torchrun", "source"}
    found = [part for page in PAGES for part in commands(text_of(page)) if part.partition(" ")[0] in known]
    assert known - {part.partition(" ")[0] for part in found} == set()
    for part in found:
        for asked in re.findall(r"napari-prosma\[([\w,]+)\]", part):
            assert set(asked.split(",")) <= set(extras), part
        for path in re.findall(r"(?<!\S)(?:benchmarks|docs|src|tests)/\S+", part):
            assert exists(path), part
        for name in re.findall(r"-w (\S+)(?: ([A-Z]\w+))?", part):
            manifest = text_of("src/napari_prosma/napari.yaml")
            assert f"name: {name[0]}\n" in manifest, part
            assert not name[1] or f"display_name: {name[1]}" in manifest, part
        assert not part.startswith("docker build") or (ROOT / "Dockerfile").is_file()


def test_every_option_of_prosma_is_documented(cli: dict[str, set[str]]) -> None:
    documented = {flag for page in PAGES for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", text_of(page))}
    for verb in filter(None, cli):  # those of the program itself are about versions and shells
        assert {flag for flag in cli[verb] if flag.startswith("--")} <= documented, verb


def test_readme_and_models_page_state_the_figures_in_the_headers_of_the_models() -> None:
    from prosma_core.io.bundle import read_header, shipped_models

    readme, page = (
        {
            re.sub(r"\].*", "", row.removeprefix("| [")): row
            for row in text_of(name).splitlines()
            if "/pretrained/" in row
        }
        for name in ("README.md", "docs/models.md")
    )
    assert set(readme) == set(page) - {"phantom-3d"}
    for name, path in shipped_models().items():
        header = read_header(path)
        assert header.evaluation is not None
        dice = header.evaluation.mean_dice
        stated = f"{dice.value:.3f} ({dice.low:.3f} to {dice.high:.3f})"
        assert stated in page[name]
        if name in readme:
            assert f"| {stated}, {dice.images} |" in readme[name]
            assert readme[name].rstrip().endswith(f"| {header.purpose.not_for} |")


def test_shares_that_gates_remove_and_missed_lesions_are_those_measured() -> None:
    """One range in README and method: over the cards' images, and over those of the table of noise and signs."""
    cards = sorted((ROOT / "src" / "prosma_core" / "pretrained").glob("*.md"))
    rows = [
        row for card in cards for row in card.read_text(encoding="utf-8").splitlines() if row.startswith("| Gates |")
    ]
    assert len(rows) == len(cards) == 8
    method = text_of("docs/method.md")
    table = [
        row.split("|")[3] for row in method.splitlines() if re.match(rf"\| ({'|'.join(c.stem for c in cards)}) \|", row)
    ]
    assert len(table) == len(cards)
    shares = [int(share) for row in [*rows, *table] for share in re.findall(r"(\d+) %", row)]
    for page in ("README.md", "docs/method.md"):
        assert f"at each level, {min(shares)} to {max(shares)} % of the" in text_of(page), page
    from prosma_core.io.bundle import read_header, shipped_models

    found = read_header(shipped_models()["breast-lesion-us"]).evaluation
    assert found is not None
    missed, wrong = found.missed["lesion"], found.false_positives["lesion"]
    said = f"misses {missed.count} of {missed.images} lesions, and finds one in {wrong.count} of {wrong.images} images"
    assert said in text_of("README.md")


def test_readme_states_the_evidence() -> None:
    """Dice to three digits; intervals of three seeds are 4.303 standard errors to either side."""
    glance = text_of("docs/evidence.md").partition("## At a glance")[2].partition("\n## ")[0]
    measured = [[cell.strip(" *") for cell in row.split("|")[1:-1]] for row in glance.splitlines() if "±" in row]
    figures = re.compile(r"\| [\d.]+ \| [\d.]+ \| [\d.]+ \|")
    stated = [
        [c.strip() for c in row.split("|")[1:-1]] for row in text_of("README.md").splitlines() if figures.search(row)
    ]
    assert len(stated) == len(measured) == 6
    for said, found in zip(stated, measured, strict=True):
        assert found[0][:3].lower() in said[0].lower()
        assert [float(cell) for cell in said[1:4]] == pytest.approx([float(cell) for cell in found[2:5]], abs=0.00051)
        difference, error = (float(part) for part in found[7].split("±"))
        numbers = [float(number) for number in re.findall(r"[+-]?\d+\.\d+", said[4])]
        expected = [difference, difference - 4.303 * error, difference + 4.303 * error]
        assert numbers == pytest.approx(expected, abs=0.0501)
        assert said[5] == f"{found[11]} %"


@pytest.fixture(scope="module")
def site() -> ModuleType:
    """Return what mkdocs calls while it builds the site."""
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_on_the_site_has_every_command_and_option(site: ModuleType, cli: dict[str, set[str]]) -> None:
    assert site.REFERENCE in text_of("docs/cli.md")
    sections = dict(part.split("\n", 1) for part in site.reference().split("## ")[1:])
    assert set(sections) == {f"prosma {name}".strip() for name in cli}
    for name, names in cli.items():
        listed = re.findall(r"`(--?[\w-]+)`", sections[f"prosma {name}".strip()])
        assert {flag for flag in names - {"--help"} if flag.startswith("-")} == set(listed)


def test_reference_says_on_github_what_the_commands_are_and_where_the_options_stand(
    site: ModuleType, cli: dict[str, set[str]]
) -> None:
    text = text_of("docs/cli.md")
    for name in filter(None, cli):
        assert f"`prosma {name}`" in text or any(other.startswith(f"{name} ") for other in cli), name
    made = site.on_page_markdown(text, SimpleNamespace(file=SimpleNamespace(src_uri="cli.md")))
    assert "github" not in made.split("## prosma", 1)[0]
    assert "| `--overlap` |" in made


def test_start_page_and_links_of_the_site_stay_inside_it(site: ModuleType) -> None:
    text = site.start_page()
    assert "](images/tour.gif)" in text
    assert "](cards/hippocampus-mri.md)" in text
    assert "](evidence.md)" in text
    assert "shields.io" not in text
    assert site._target("../src/prosma_core/pretrained/nerve-us.md", "") == "cards/nerve-us.md"
    assert site._target("../benchmarks/experiments.md", "") == f"{site.REPOSITORY}/blob/main/benchmarks/experiments.md"
    assert site._target("models.md", "") == "models.md"


def test_reading_of_commands_sees_continued_lines_prompts_and_spans() -> None:
    fenced = "```bash\n$ prosma train --data A \\\n    --out B  # why\ncd x && prosma segment y\n```\n"
    expected = ["prosma train --data A --out B", "cd x", "prosma segment y", "prosma models list", "prosma doctor"]
    assert commands(f"Call `prosma doctor`.\n\n{fenced}\n    prosma models list\n") == expected
    assert flags(" --data A [--resume] -k x a--b") == {"--data", "--resume", "-k"}


def test_reading_of_paths_leaves_out_what_is_the_users() -> None:
    spans = [
        "src/prosma_core/errors.py",
        "errors.py",
        "OUT/case.nii.gz",
        "images/",
        "../shared/data",
        "x.png",
        "--out A/B",
    ]
    assert [span for span in spans if is_path(span)] == ["src/prosma_core/errors.py", "errors.py"]
    assert exists("prosma_core/errors.py")
    assert not exists("prosma_core/mistakes.py")
