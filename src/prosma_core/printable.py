"""Text for people: names from files made safe to print or show, counts, sizes and durations."""

from __future__ import annotations

import logging
import time
import unicodedata
from collections import deque

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories that are shown as escapes: controls, bidirectional and other formats, surrogates, line ends."""
_JOINERS = "\u200c\u200d"
"""Formats without which some scripts and emoji are misspelt; they reorder nothing."""


def visible(text: str) -> str:
    r"""A text as one line in which controls, line ends and bidirectional marks are escapes, as in ``liver\x1b[31m``.

    A text without any of these stays as it is; so does the result, made visible again.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(letter) if unsafe(letter) else letter for letter in text)


def shown(text: str) -> str:
    """A text of several lines, each as of `visible`."""
    return "\n".join(map(visible, text.split("\n")))


def plain(text: str) -> str:
    """A text for widgets that detect HTML by themselves (tooltips of Qt, parts of napari), shown letter by letter.

    A zero-width space behind ``<`` and ``&`` keeps it from being taken for HTML.
    """
    return shown(text).replace("<", "<\u200b").replace("&", "&\u200b")


def counted(number: int, one: str, many: str = "") -> str:
    """A number with what it counts: "1 case", "3 cases", "2 classes"; the plural ends with s unless it is given."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def gib(size: float) -> str:
    """A number of bytes, for messages."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{max(1, round(size / 2**20))} MiB"


def format_duration(seconds: float) -> str:
    """Duration as text, such as 40 s, 2 min, 1 h 5 min or 3 days."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    hours = minutes // 60
    if hours >= 48:
        return f"{round(minutes / (24 * 60))} days"
    if hours >= 10:
        return f"{round(minutes / 60)} h"
    return f"{minutes} min" if minutes < 60 else f"{hours} h {minutes % 60} min"


class TimeLeft:
    """Remaining time of what is done part by part, from the pace of the last parts."""

    PARTS, SECONDS = 8, 3.0
    """Reports, and seconds, that the pace is taken from at least."""

    def __init__(self) -> None:
        self._reports: deque[tuple[float, float]] = deque()

    def text(self, done: float, total: float, seconds: float | None = None) -> str:
        """Remaining time after `done` of `total` as text, empty while it is unknown; of so many `seconds` if given."""
        if seconds is not None:
            return "" if done >= total else _left(seconds)
        now, reports = time.monotonic(), self._reports
        if reports and done < reports[-1][1]:  # something else is counted
            reports.clear()
        reports.append((now, done))
        while len(reports) > self.PARTS + 1 and now - reports[1][0] >= self.SECONDS:
            reports.popleft()
        began, first = reports[0]
        if done <= first or done >= total:
            return ""
        return _left((now - began) / (done - first) * (total - done))


def _left(seconds: float) -> str:
    return f"about {format_duration(seconds)} left"


class Passing:
    """How much of one pass over the parts of something is done.

    Parameters
    ----------
    words : str
        What is done.
    total : int
        Parts.
    """

    def __init__(self, words: str, total: int) -> None:
        self._words, self._total, self._done, self._left = words, total, 0, TimeLeft()

    def another(self) -> str:
        """After a further part: the share that is done, and the remaining time where it is known."""
        self._done += 1
        left = self._left.text(self._done, self._total)
        return f"{self._words}: {100 * self._done // self._total} %" + (f", {left}" if left else "")


def unsafe(letter: str) -> bool:
    """Whether a character is invisible and acts on what shows it."""
    return unicodedata.category(letter) in _HIDDEN and letter not in _JOINERS


def _escape(letter: str) -> str:
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(letter)
    number = ord(letter)
    return short or (
        f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"
    )


class VisibleFormatter(logging.Formatter):
    """Writes each record in one line, and the lines of a traceback below it, all made visible."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        first, *rest = super().format(_one_line(record)).split("\n")
        return "\n".join(map(visible, (first, *rest)))


def show_visibly(record: logging.LogRecord) -> bool:
    """A filter of a handler that lets everything pass, records of this project made visible."""
    if record.name.partition(".")[0] in {"prosma_core", "napari_prosma"}:
        record.msg, record.args = visible(record.getMessage()), ()
    return True


def _one_line(record: logging.LogRecord) -> logging.LogRecord:
    made = logging.makeLogRecord(record.__dict__)
    made.msg, made.args = visible(record.getMessage()), ()
    return made
