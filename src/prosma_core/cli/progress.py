"""What a command says while it works, where no terminal shows a bar: in a log, a pipe, a job of a cluster."""

from __future__ import annotations

import time

from prosma_core.cli.options import stderr_console
from prosma_core.events import CaseFailed
from prosma_core.printable import visible

EVERY = 15.0
"""Seconds after which a command that still works says how far it is."""


class Lines:
    """Lines on stderr: what is finished, and without a terminal also what is done at the moment.

    Attributes
    ----------
    console : rich.console.Console
    """

    def __init__(self) -> None:
        self.console = stderr_console()
        self._said, self._stage = time.monotonic(), ""

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(text)
        self._said = time.monotonic()

    def failed(self, event: CaseFailed, scans: int) -> None:
        """Print that one of several scans failed, and why, when it happens; of a single one the end says it."""
        if scans > 1:
            self.say(f"{event.name} failed: {' '.join(event.error.split())}")

    def now(self, text: str, stage: str = "") -> None:
        """Print what is done at the moment, where a stage begins and after `EVERY` seconds without a line.

        Parameters
        ----------
        text : str
        stage : str
            Empty: that of the last call.
        """
        begins, self._stage = bool(stage) and stage != self._stage, stage or self._stage
        if not self.console.is_terminal and (begins or time.monotonic() - self._said >= EVERY):
            self.say(visible(text))
