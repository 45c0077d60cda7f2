"""Jobs that a worker computes: frozen settings with absolute paths, sent by Dask; what comes back."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, get_args

from prosma_core.errors import ProsmaError
from prosma_core.events import Event

if TYPE_CHECKING:
    from prosma_core.inference.segment import Segmenter

THREADS = "PROSMA_WORKER_THREADS"
"""Environment variable: threads of a worker of our own, which takes one job at a time and has several cores."""
_EVENTS = {kind.__name__: kind for kind in get_args(Event)}


class Job(Protocol):
    """What a worker does with a model; done twice, it leaves the same files."""

    def run(self, segmenter: Segmenter) -> Generator[Event, None, Any]:
        """Do it; each `yield` is a place to stop. What is returned is sent to the client."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes
    ----------
    result : object
        What its `run` returned.
    seconds : float
    error : ProsmaError or None
        Why there is no result.
    disk : bool
        Whether the disk takes nothing more, so that other jobs would fail as well.
    """

    result: Any = None
    seconds: float = 0.0
    error: ProsmaError | None = None
    disk: bool = False


@dataclass(frozen=True)
class Sent:
    """What all jobs of a run share on a worker.

    Attributes
    ----------
    topic : str
        Under which events are reported.
    model : str
        SHA-256 of the model file.
    device : str
        As of `choose_device`.
    versions : dict of str
        Of the client.
    """

    topic: str
    model: str
    device: str
    versions: dict[str, str]


def encode(event: Event) -> dict[str, Any]:
    """An event as plain values."""
    return {"kind": type(event).__name__, "values": asdict(event)}


def decode(values: dict[str, Any]) -> Event:
    """The event of `encode`."""
    event: Event = _EVENTS[values["kind"]](**values["values"])
    return event
