"""Help of a widget: its page of the docs, shown offline, the docs online, and About."""

from __future__ import annotations

import contextlib
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, QUrl
from qtpy.QtGui import QColor, QDesktopServices, QPalette, QTextBlock, QTextCharFormat, QTextCursor, QTextDocument
from qtpy.QtWidgets import QDialog, QDialogButtonBox, QMenu, QTextBrowser, QToolButton, QVBoxLayout, QWidget

import prosma_core
from prosma_core.io.bundle import read_header, shipped_models
from prosma_core.io.releases import ask_for_update

SITE = "https://napari-prosma.github.io/napari-prosma/"
"""The docs online; a page has the name of its file."""
FILES = "https://github.com/napari-prosma/napari-prosma/blob/main/"
"""Files of the repository that are no pages."""
CARDS = "src/prosma_core/pretrained/"
"""Where the cards of models are, which have a folder of their own in the docs online."""
SHIPPED = Path(__file__).parents[1] / "help"
"""Pages in an installed package."""
SOURCES = Path(__file__).parents[3] / "docs"
"""Pages in a checkout."""
STYLE = """
QToolButton { border: 1px solid palette(mid); border-radius: 9px; min-width: 18px; min-height: 18px; }
QToolButton::menu-indicator { image: none; }
"""
"""Of the "?": a circle that is seen to be a button in both themes."""
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]*)\)")
"""Of pages that are shown offline its caption stays, as a link: pictures are not shipped."""
CITATION = (
    "If you use this software, please cite it by its name and version, and the paper that introduced the network:\n\n"
    "Chun-Wun Cheng, Yanqi Cheng, Peiyuan Jing, Guang Yang, Javier A. Montoya-Zegarra, Carola-Bibiane Schönlieb, "
    "Angelica I. Aviles-Rivero. *ProSMA-UNet: Decoder Conditioning for Proximal-Sparse Skip Feature Selection.* "
    "[arXiv:2603.03187](https://arxiv.org/abs/2603.03187), 2026.\n\n"
    "This is an independent re-implementation from the abstract of the paper."
)


class HelpButton(QToolButton):
    """The "?" of a widget.

    Parameters
    ----------
    page : str
        Name of the widget's page, without its suffix.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.setText("?")
        self.setObjectName("help")
        self.setAccessibleName("Help")
        self.setToolTip("Help on this widget, the documentation online, and about ProSMA.")
        self.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setStyleSheet(STYLE)
        self._page = page
        menu = QMenu(self)
        menu.addAction("Help on this widget", self.show_page)
        menu.addAction("Documentation online", lambda: QDesktopServices.openUrl(QUrl(online(f"{page}.md"))))
        self._updates: Any = menu.addAction("Check for updates")
        self._updates.setEnabled(False)
        menu.addAction("About ProSMA", lambda: self.show_about())
        self.setMenu(menu)

    def show_page(self) -> None:
        """Show the widget's page."""
        HelpWindow(self.window(), self._page).show()

    def show_about(self, news: str = "") -> None:
        """Show version, citation and licenses, below what is new."""
        HelpWindow(self.window(), "", about(news)).show()

    def offer_updates(self, run: Callable[..., None]) -> None:
        """Let the menu ask the package index for a newer release, in a thread; the program never asks by itself.

        Parameters
        ----------
        run : callable
            As of `Jobs`.
        """

        def show(news: object) -> None:
            with contextlib.suppress(RuntimeError):  # the widget is gone meanwhile
                self.show_about(str(news))

        self._updates.triggered.connect(lambda: run(lambda: ask_for_update(prosma_core.__version__), show, show))
        self._updates.setEnabled(True)


class HelpWindow(QDialog):
    """A window with a page of the docs; links to pages that are not shipped open the browser.

    Parameters
    ----------
    parent : QWidget or None
    page : str
        Name of the page, without its suffix.
    text : str, optional
        Shown instead of the page, in Markdown.
    """

    def __init__(self, parent: QWidget | None, page: str, text: str | None = None) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle("ProSMA help" if text is None else "About ProSMA")
        self._text = QTextBrowser()
        self._text.setOpenLinks(False)
        self._text.anchorClicked.connect(self._follow)
        self._text.setAccessibleName(self.windowTitle())
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.addWidget(self._text)
        layout.addWidget(buttons)
        self.resize(760, 620)
        self._page = page
        self._show(read_page(page) if text is None else text)

    def text(self) -> str:
        """What is shown, without its markup."""
        return self._text.toPlainText()

    def _follow(self, url: QUrl) -> None:
        target, _, heading = url.toString().partition("#")
        page = target.removesuffix(".md") or self._page
        if url.scheme() or not is_shipped(page):
            QDesktopServices.openUrl(url if url.scheme() else QUrl(online(target, heading)))
            return
        if page != self._page:
            self._page = page
            self._show(read_page(page))
        self._show_heading(heading)

    def _show(self, text: str) -> None:
        """Show a text in Markdown, its links in a color that can be read: Qt gives them that of light windows."""
        self._text.setMarkdown(text)
        links, color = QTextCursor(self._text.document()), QTextCharFormat()
        color.setForeground(QColor(link_color(self._text)))
        for start, length in link_places(self._text.document()):
            links.setPosition(start)
            links.setPosition(start + length, QTextCursor.MoveMode.KeepAnchor)
            links.mergeCharFormat(color)
        self._text.moveCursor(QTextCursor.MoveOperation.Start)

    def _show_heading(self, heading: str) -> None:
        document = self._text.document()
        block: QTextBlock = document.begin()
        while block.isValid() and not (block.blockFormat().headingLevel() and anchor(block.text()) == heading):
            block = block.next()
        top = document.documentLayout().blockBoundingRect(block).top() if block.isValid() else 0
        self._text.verticalScrollBar().setValue(round(top))


def link_color(shown: QWidget) -> str:
    """A blue that can be read where a widget shows text, in the theme of its window."""
    shown.ensurePolished()
    text = shown.palette().color(QPalette.ColorGroup.Active, QPalette.ColorRole.Text)
    bright = text.red() + text.green() + text.blue() > 3 * 128
    return "#6ab0ff" if bright else "#0b57d0"


def link_places(document: QTextDocument | None) -> list[tuple[int, int]]:
    """Position and length of each piece of a link in a text."""
    places: list[tuple[int, int]] = []
    block = document.begin()
    while block.isValid():
        pieces: Any = block.begin()
        while not pieces.atEnd():
            piece = pieces.fragment()
            if piece.charFormat().isAnchor():
                places.append((piece.position(), piece.length()))
            pieces += 1
        block = block.next()
    return places


def anchor(heading: str) -> str:
    """What links call a heading.

    Examples
    --------
    >>> anchor("Which model is chosen?")
    'which-model-is-chosen'
    """
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def is_shipped(page: str) -> bool:
    """Whether a page can be shown offline."""
    return bool(re.fullmatch(r"[\w-]+", page)) and _file(page).is_file()


def read_page(page: str) -> str:
    """Text of a page in Markdown, with links to its pictures online in their places."""
    return PICTURE.sub(r"*[Picture online: \1](\2)*", _file(page).read_text(encoding="utf-8"))


def online(target: str, heading: str = "") -> str:
    """Address of what a page links to, relative to the folder of the pages.

    Examples
    --------
    >>> online("kernels.md", "speed")
    'https://napari-prosma.github.io/napari-prosma/kernels.html#speed'
    """
    path = posixpath.normpath(f"docs/{target}")
    if path.startswith(CARDS):
        path = f"docs/cards/{path.removeprefix(CARDS)}"
    part = f"#{heading}" if heading else ""
    if path.startswith("docs/") and path.endswith(".md"):
        return f"{SITE}{path.removeprefix('docs/').removesuffix('.md')}.html{part}"
    return f"{FILES}{path}{part}"


def about(news: str = "") -> str:
    """Version, citation, licenses of code and models, in Markdown; below the version what is new."""
    headers = [read_header(path) for path in shipped_models().values()]
    models = "\n".join(f"- **{header.name}**: {header.licence}. {header.attribution}" for header in headers)
    return (
        f"# napari-prosma {prosma_core.__version__}\n\n{news}\n\nNot a medical device: results are for research "
        f"and must be checked by a person.\n\n{CITATION}\n\n"
        f"## Licenses\n\nCode: BSD-3-Clause. Shipped models:\n\n{models}\n"
    )


def _file(page: str) -> Path:
    return (SHIPPED if SHIPPED.is_dir() else SOURCES) / f"{page}.md"
