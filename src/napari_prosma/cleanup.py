"""Doing every part of a thing, also after one that fails."""

from __future__ import annotations

import logging
from collections.abc import Callable

_LOG = logging.getLogger(__name__)


def run_all(what: str, *parts: Callable[[], object]) -> bool:
    """Do every part, also after one that fails: that is logged as `what`, unless Qt has deleted what it is about.

    Returns
    -------
    bool
        Whether none failed.
    """
    whole = True
    for part in parts:
        try:
            part()
        except Exception as error:  # noqa: BLE001  (the next part must still be done)
            gone = isinstance(error, RuntimeError) and "deleted" in str(error)  # of Qt, as when a program ends
            _LOG.log(logging.DEBUG if gone else logging.WARNING, "%s", what, exc_info=True)
            whole = False
    return whole
