"""Where is computed: on this computer, or by Dask workers, which can be tested. No Qt."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np

from napari_prosma.jobs.boundary import JobName
from napari_prosma.jobs.run import Handlers, JobRun, ViewSignal
from napari_prosma.jobs.spec import Preparation
from napari_prosma.layers.scan import LayerScan
from napari_prosma.layers.source import is_large, source_of
from prosma_core.cluster.place import check_place
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import Cancelled, Failed, Finished, WorkersRequest, WorkersResult
from prosma_core.errors import ProsmaError
from prosma_core.events import StageStarted, Working

ADDRESS = "workers_address"
"""Under which the address is remembered."""
NOT_INSTALLED = (
    'Dask distributed is not installed here. In the environment of napari: pip install "napari-prosma[cluster]". Then '
    "start napari anew."
)
NO_ADDRESS = "Enter where the workers are, such as tcp://HOST:8786 or local:2."


class AbstractWorkersFields(Protocol):
    """Protocol of the fields for where is computed."""

    @property
    def place_chosen(self) -> ViewSignal:
        """Whether Dask workers compute (bool)."""

    @property
    def address_chosen(self) -> ViewSignal:
        """Address as typed (str)."""

    @property
    def test_clicked(self) -> ViewSignal:
        """Test the workers, or stop the test."""

    def show_place(self, workers: bool, address: str, /) -> None:
        """Show the choice."""

    def show_test(self, text: str, /, *, enabled: bool) -> None:
        """The button that tests."""

    def show_found(self, text: str, /, *, problem: bool) -> None:
        """What a test has found, empty where there was none; `problem`: that they cannot be used."""


def address_problem(address: str) -> str:
    """Why workers at an address cannot be used, as far as it is known without contacting them; empty where they can."""
    if not is_installed():
        return NOT_INSTALLED
    if not address:
        return NO_ADDRESS
    try:
        check_place(address)
    except ProsmaError as error:
        return str(error)
    return ""


def is_installed() -> bool:
    """Whether Dask distributed can be imported, which is left to the engine."""
    return importlib.util.find_spec("distributed") is not None


@dataclass(frozen=True, eq=False)
class WorkersSpec:
    """A test of Dask workers.

    Attributes
    ----------
    on : str
        Address.
    model : Path
    device : str
    scan : LayerScan or None
        Whose file they should see, or the copy that is made of it.
    stores : bool
        Whether the result of a large scan would lie on the disk, where they write it.
    """

    on: str
    model: Path
    device: str
    scan: LayerScan | None
    stores: bool = True

    def prepare(self, engine: Engine) -> Preparation:
        """As of `JobSpec`."""
        yield "Starting"
        request = WorkersRequest(on=self.on, model=str(self.model), device=self.device)
        if self.stores:
            request = request.replace(folder=str(engine.disk_folder() / "results"))
        if self.scan is None:
            return request
        request = request.replace(size=self.scan.dtype.itemsize * prod(self.scan.spec.shape))
        source = source_of(self.scan) if type(self.scan.data) is not np.ndarray else None
        if source is not None:
            return request.replace(file=str(source.path))
        if is_large(self.scan):
            return request.replace(copies=str(engine.disk_folder()))
        return request.replace(folder="", copies=str(engine.array_folder()))


class WorkersTest(JobRun):
    """A test of Dask workers, which gives way to any other job.

    Parameters
    ----------
    fields : AbstractWorkersFields
    over : callable
        Told when it has ended; shows what can be clicked then.
    """

    NAME = JobName("A test of Dask workers", "ProSMA")
    YIELDS = True

    def __init__(self, fields: AbstractWorkersFields, over: Callable[[], None]) -> None:
        super().__init__()
        self._fields, self._over, self._outdated = fields, over, False
        fields.show_test("Stop test", enabled=True)
        fields.show_found("Starting…", problem=False)

    def drop(self) -> None:
        """Cancel, where another place was chosen: nothing of this one is shown any more."""
        self._outdated = True
        self._fields.show_found("", problem=False)
        self.cancel()

    def cancel(self) -> None:
        """As of `JobRun`."""
        self._fields.show_test("Stopping…", enabled=False)
        super().cancel()

    @property
    def handlers(self) -> Handlers:
        """As of `JobRun`."""
        if self._outdated:
            return {}
        return {
            Working: lambda working: self._fields.show_found(f"{working.message}…", problem=False),
            StageStarted: lambda stage: self._fields.show_found(stage.message, problem=False),
            Finished: self._finish,
            Failed: self._fail,
            Cancelled: lambda _: self._fields.show_found("The test was stopped.", problem=False),
        }

    def show_error(self, reason: str, details: str) -> None:
        """As of `JobRun`."""
        self.failure.details = details
        if self._outdated:
            return
        self._fields.show_found(f"What was found could not be shown: {reason}", problem=True)

    def over(self) -> None:
        """As of `JobRun`."""
        if not self.abandoned:
            self._over()

    def _finish(self, message: Finished) -> None:
        assert isinstance(message.result, WorkersResult)
        self._fields.show_found(f"Found: {message.result.words}", problem=False)

    def _fail(self, message: Failed) -> None:
        self.failure.details = message.details
        self._fields.show_found(str(message.error), problem=True)
