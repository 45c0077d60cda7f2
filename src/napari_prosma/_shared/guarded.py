"""A guard around whatever handles a job's messages: an error in it is shown, and the widget stays usable."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

from napari_prosma._shared.engine_job import Listener
from prosma_core.engine.client import Message

_LOG = logging.getLogger(__name__)


def guarded(
    message: Message,
    handle: Listener,
    *,
    cancel: Callable[[], None],
    failed: Callable[[str, str], None],
    over: Callable[[], None],
) -> None:
    """Hand a message to its handler; where that raises, cancel the job and show the error.

    Parameters
    ----------
    message : Message
    handle : callable
        Takes the message.
    cancel : callable
        Stops the job.
    failed : callable
        Given the error in one line and its traceback; shows them and makes the widget ready for the next job.
    over : callable
        Makes the widget ready where `failed` raises as well.
    """
    try:
        handle(message)
    except Exception as error:  # noqa: BLE001  (whatever a viewer, a layer or a view raises)
        _LOG.exception("A message of the engine could not be shown")
        words, details = f"{type(error).__name__}: {error}", traceback.format_exc()
        each("The job could not be cancelled", cancel)
        if not each("The error could not be shown", lambda: failed(words, details)):
            each("The widget could not be made ready", over)


def each(what: str, *parts: Callable[[], object]) -> bool:
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
