"""Help of the widgets: their pages, offline; About with version, citation and licenses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from napari.qt import get_stylesheet
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices, QTextCursor
from qtpy.QtWidgets import QWidget

import prosma_core
from napari_prosma.widgets import help as help_module
from napari_prosma.widgets.help import HelpButton, HelpWindow, about, anchor, is_shipped, online, read_page
from prosma_core.errors import FileFormatError
from prosma_core.io.bundle import shipped_models

ROOT = Path(__file__).resolve().parents[3]
PAGES = ("segment-widget", "train-widget", "gates-widget")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the addresses that a browser was asked for."""
    asked: list[str] = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: asked.append(url.toString()))
    return asked


@pytest.mark.parametrize("page", PAGES)
def test_the_page_of_each_widget_is_shown_without_a_network(page: str, qtbot: QtBot, opened: list[str]) -> None:
    parent = QWidget()
    qtbot.addWidget(parent)
    window = HelpWindow(parent, page)
    title = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    assert window.text().startswith(title)
    assert "![" not in read_page(page)
    assert ".png" not in window.text()
    assert "Picture online: " in window.text()
    assert opened == []


def test_links_stay_in_the_window_where_the_page_is_there(qtbot: QtBot, opened: list[str]) -> None:
    parent = QWidget()
    qtbot.addWidget(parent)
    window: Any = HelpWindow(parent, "segment-widget")
    window.show()
    window._follow(QUrl("#keyboard-shortcuts"))
    assert window._text.verticalScrollBar().value() > 100
    window._follow(QUrl("train-widget.md"))
    assert "Train widget" in window.text()
    for link in (
        "../CHANGELOG.md",
        "../src/prosma_core/pretrained/nerve-us.md",
        "none.md#part",
        "https://napari.org",
        "images/train-curves.png",
    ):
        window._follow(QUrl(link))
    site, files = help_module.SITE, help_module.FILES
    expected = [f"{files}CHANGELOG.md", f"{site}cards/nerve-us.html", f"{site}none.html#part", "https://napari.org"]
    expected.append(f"{files}docs/images/train-curves.png")
    assert opened == expected


def test_addresses_are_those_of_the_site() -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert f"site_url: {help_module.SITE}\n" in config
    assert "use_directory_urls: false" in config
    assert help_module.FILES in (ROOT / "README.md").read_text(encoding="utf-8")
    assert online("models.md") == f"{help_module.SITE}models.html"


@pytest.mark.parametrize(("theme", "color"), [("dark", "#6ab0ff"), ("light", "#0b57d0")])
def test_links_can_be_read_on_the_background_of_the_theme(theme: str, color: str, qtbot: QtBot) -> None:
    parent = QWidget()
    parent.setStyleSheet(get_stylesheet(theme))
    qtbot.addWidget(parent)
    window: Any = HelpWindow(parent, "", about())
    document = window._text.document()
    places = help_module.link_places(document)
    assert places
    for start, length in places:
        cursor = QTextCursor(document)
        cursor.setPosition(start + length)
        assert cursor.charFormat().isAnchor()
        assert cursor.charFormat().foreground().color().name() == color


def test_only_pages_are_shown() -> None:
    assert not is_shipped("../README")


def test_anchors_are_those_of_the_docs() -> None:
    assert anchor("Was it worth it?") == "was-it-worth-it"
    assert anchor("The walk: open a scan, draw or segment") == "the-walk-open-a-scan-draw-or-segment"


def test_about_names_version_paper_and_the_license_of_every_model() -> None:
    text = about()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert f"napari-prosma {prosma_core.__version__}" in text
    paper = citation["references"][0]
    assert paper["title"] in text
    assert all(f"{a['given-names']} {a['family-names']}" in text for a in paper["authors"])
    for name in shipped_models():
        assert f"**{name}**" in text
    assert "CC-BY-SA-4.0" in text
    assert "BSD-3-Clause" in text


@pytest.mark.parametrize("there", ["Version 9.1.0 is available: pip install --upgrade napari-prosma", None])
def test_the_package_index_is_asked_by_a_click_alone(
    there: str | None, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask(version: str) -> str:
        asked.append(version)
        if there is None:
            msg = "The newest release could not be read."
            raise FileFormatError(msg)
        return there

    def run(work: Any, done: Any, failed: Any) -> None:
        try:
            done(work())
        except FileFormatError as error:
            failed(error)

    monkeypatch.setattr(help_module, "ask_for_update", ask)
    parent = QWidget()
    qtbot.addWidget(parent)
    button = HelpButton("gates-widget")
    button.setParent(parent)
    button.offer_updates(run)
    button.show_about()
    assert asked == []
    next(action for action in button.menu().actions() if action.text() == "Check for updates").trigger()
    assert asked == [prosma_core.__version__]
    assert (there or "The newest release could not be read.") in parent.findChildren(HelpWindow)[-1].text()


def test_the_button_opens_page_site_and_about(qtbot: QtBot, opened: list[str]) -> None:
    parent = QWidget()
    qtbot.addWidget(parent)
    button = HelpButton("gates-widget")
    button.setParent(parent)
    page, site, _updates, about_this = button.menu().actions()
    page.trigger()
    about_this.trigger()
    site.trigger()
    shown = [window.text() for window in parent.findChildren(HelpWindow)]
    assert any(text.startswith("The Gates widget") for text in shown)
    assert any(prosma_core.__version__ in text for text in shown)
    assert opened == [f"{help_module.SITE}gates-widget.html"]
