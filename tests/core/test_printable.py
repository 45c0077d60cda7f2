"""What a terminal would act on becomes visible."""

from __future__ import annotations

import logging
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prosma_core.errors import BELOW, LONGEST_TEXT, ProsmaError
from prosma_core.printable import VisibleFormatter, counted, show_visibly, visible

names = st.text(st.characters(), max_size=40)
HOSTILE = 'a\x1b[31m\x07\r\nError: all is lost\u202e\u2066\ud800\u2028\x9b"<b>\ufeff'


@given(text=names)
@example(text=HOSTILE)
def test_nothing_is_left_that_a_terminal_acts_on(text: str) -> None:
    shown = visible(text)
    assert not [c for c in shown if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} - {"Cf"}]
    assert not [c for c in shown if unicodedata.bidirectional(c) in {"LRE", "RLE", "LRO", "RLO", "PDF"}]
    assert not set(shown) & set("\u2066\u2067\u2068\u2069\u200e\u200f\u061c\ufeff\u200b")
    assert visible(shown) == shown
    assert len(shown.splitlines()) <= 1
    shown.encode()  # can be printed


def test_names_people_use_stay_as_they_are() -> None:
    for name in ("CT/MR liver", "Zähne & Kiefer", "肝臓", "כבד", "می‌خواهم", "👩‍⚕️", "C:\\new\\table", ""):
        assert visible(name) == name
    assert visible("a\x1b[31mb\nc\u202ed") == r"a\x1b[31mb\nc\u202ed"


@given(first=names, second=names)
def test_an_error_has_one_line_for_each_that_it_was_given(first: str, second: str) -> None:
    text = str(ProsmaError(f"{first} is damaged.", f"{second} is not there."))
    assert len(text.splitlines()) == 2
    assert not text.splitlines()[1].startswith("Error:")
    assert str(ProsmaError(*text.split("\n  "))) == text


def test_log_messages_are_one_line() -> None:
    record = logging.LogRecord("prosma_core.io", logging.WARNING, "", 1, "no %s", (HOSTILE,), None)
    line = VisibleFormatter("Warning: %(message)s").format(record)
    assert line == f"Warning: no {visible(HOSTILE)}"
    foreign = logging.LogRecord("napari", logging.WARNING, "", 1, "no %s", ("a\nb",), None)
    assert show_visibly(foreign)
    assert foreign.getMessage() == "no a\nb"
    assert show_visibly(record)
    assert record.getMessage() == f"no {visible(HOSTILE)}"
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        failed = logging.LogRecord("prosma_core", 40, "", 1, "failed", (), (type(error), error, error.__traceback__))
    shown = VisibleFormatter().format(failed)
    assert "\x1b" not in shown
    assert "Traceback" in shown


@given(lines=st.lists(st.text(max_size=600), min_size=1, max_size=8))
def test_long_texts_of_errors_are_cut_in_the_middle_whatever_they_hold(lines: list[str]) -> None:
    text = str(ProsmaError(*lines))
    assert len(text) <= LONGEST_TEXT
    assert text == BELOW.join(map(visible, lines)) or "…" in text
    assert str(ProsmaError(*text.split(BELOW))) == text or "  " in "".join(lines)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((1, "case"), "1 case"),
        ((0, "case"), "0 cases"),
        ((2, "axis", "axes"), "2 axes"),
        ((1, "holds", "hold"), "1 holds"),
        ((5, "holds", "hold"), "5 hold"),
    ],
)
def test_one_is_no_plural(asked: tuple[Any, ...], said: str) -> None:
    assert counted(*asked) == said
