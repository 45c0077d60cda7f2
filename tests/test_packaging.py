"""What surrounds the code on its way to people: conda recipe, container, address of the project, what the hub shows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import prosma_core

ROOT = Path(__file__).resolve().parent.parent
CONDA_NAMES = {"torch": "pytorch", "pyqt6": "pyqt"}
"""Packages whose names differ between PyPI and conda-forge."""
FOR_DEVELOPERS = {"dev", "docs"}
"""Extras that no user of a package needs."""


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def dockerfile() -> list[str]:
    """Instructions of the Dockerfile, continued lines joined, without comments."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [" ".join(line.split()) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def test_conda_recipe_has_the_dependencies_of_the_project_and_the_window(project: dict[str, Any]) -> None:
    recipe = read_yaml("conda/recipe.yaml")
    wanted = from_pypi([*project["dependencies"], *project["optional-dependencies"]["qt"]])
    wanted["pyqt"] = SpecifierSet(">=6")
    python, *run = recipe["requirements"]["run"]
    assert python == "python >=${{ python_min }}"
    assert project["requires-python"] == f">={recipe['context']['python_min']}"
    assert from_conda(run) == wanted
    assert recipe["context"]["version"] == prosma_core.__version__
    assert recipe["build"]["python"]["entry_points"] == [f"{k} = {v}" for k, v in project["scripts"].items()]


def test_conda_recipe_limits_the_packages_of_every_other_extra(project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"]
    others = {name: lines for name, lines in extras.items() if name not in {"qt", *FOR_DEVELOPERS}}
    assert {"medical", "remote", "cluster"} <= set(others)
    recipe = read_yaml("conda/recipe.yaml")
    wanted = from_pypi([line for lines in others.values() for line in lines])
    assert from_conda(recipe["requirements"]["run_constraints"]) == wanted
    install = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    (line,) = [line for line in install.splitlines() if line.startswith("**conda**")]
    assert [name for name in wanted if f"`{name}`" not in line] == []


def from_pypi(lines: list[str]) -> dict[str, SpecifierSet]:
    """Packages by their names on conda-forge, and the versions that are allowed."""
    requirements = [Requirement(line) for line in lines]
    return {CONDA_NAMES.get(each.name.lower(), each.name.lower()): each.specifier for each in requirements}


def from_conda(lines: list[str]) -> dict[str, SpecifierSet]:
    """The same from lines of a recipe."""
    parts = [(line + " ").split(" ", 1) for line in lines]
    return {name: SpecifierSet(limits.replace(" ", "")) for name, limits in parts}


def test_container_copies_what_is_there_and_starts_a_program_of_the_project(
    dockerfile: list[str], project: dict[str, Any]
) -> None:
    known = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD"}
    assert {line.split()[0] for line in dockerfile} <= known
    copied = [name for line in dockerfile if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) <= let_through
    needed = {"pyproject.toml", project["readme"], *project["license-files"], "src"}  # what a wheel is made of
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed |= {name.split("/")[0] for name in settings["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]}
    assert needed <= set(copied)
    (program,) = [yaml.safe_load(line.split(" ", 1)[1]) for line in dockerfile if line.startswith("ENTRYPOINT ")]
    assert program[0] in project["scripts"]
    assert any(line.startswith("USER ") and line != "USER root" for line in dockerfile)


def test_container_installs_the_versions_that_are_tested(dockerfile: list[str], project: dict[str, Any]) -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    installs = [line.removeprefix("RUN pip install ") for line in dockerfile if line.startswith("RUN pip install ")]
    torch, package = installs
    assert set(re.findall(r"\S+==\S+", torch)) <= set(pins)
    assert "whl/${TORCH}" in torch
    assert "-c constraints.txt" in package
    assert set(re.search(r"\[(.*)\]", package)[1].split(",")) <= set(project["optional-dependencies"])  # type: ignore[index]


def test_one_address_of_the_project_everywhere(project: dict[str, Any]) -> None:
    urls = project["urls"]
    home, site = urls["Homepage"], urls["Documentation"]
    assert {"Homepage", "Documentation", "Source Code", "Bug Tracker", "Changelog", "User Support"} <= set(urls)
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert f"link: {home}\n" in text
    assert f"site_url: {site}\n" in text
    citation, about = read_yaml("CITATION.cff"), read_yaml("conda/recipe.yaml")["about"]
    assert citation["repository-code"] == about["homepage"] == home
    assert citation["url"] == about["documentation"] == site
    owner = home.removeprefix("https://github.com/")
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "docs" / "site_hooks.py"]
    ours = re.compile(r"github(?:usercontent)?\.com/([\w.-]+/napari-prosma)\b")
    named = {found for page in pages for found in ours.findall(page.read_text(encoding="utf-8"))}
    assert named == {owner}


def test_the_hub_finds_what_it_shows(project: dict[str, Any]) -> None:
    manifest = read_yaml("src/napari_prosma/napari.yaml")
    assert manifest["display_name"] == "ProSMA"
    assert manifest["visibility"] == "public"
    assert manifest["categories"][0] == "Segmentation"
    assert "Framework :: napari" in project["classifiers"]
    assert len(project["description"]) <= 200


def test_the_readme_can_be_shown_elsewhere(project: dict[str, Any]) -> None:
    """On PyPI and the napari hub relative links lead nowhere."""
    readme = (ROOT / project["readme"]).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)", readme)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    home = project["urls"]["Homepage"].removeprefix("https://github.com/")
    inside = (
        rf"https://(?:raw\.githubusercontent\.com/{home}/main|github\.com/{home}/(?:blob|tree|raw)/main)/([^)#\s]+)"
    )
    paths = re.findall(inside, readme)
    assert len([path for path in paths if path.endswith((".png", ".gif"))]) >= 4
    assert [path for path in paths if not (ROOT / path).exists()] == []
