"""Cleanup that goes on after an error."""

from __future__ import annotations

import logging
from collections.abc import Callable

_LOG = logging.getLogger(__name__)


def run_all(what: str, *parts: Callable[[], object]) -> bool:
    """Call every part, also after one that raises; errors are logged as `what`, quietly where Qt deleted the object.

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
