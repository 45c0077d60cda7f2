"""One look into the gates, from the click to what was found."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from napari_prosma.gates.inspection_result import InspectionResult
from napari_prosma.gates.state import Plan
from napari_prosma.jobs.boundary import Jobs
from napari_prosma.jobs.run import Handlers, RunTexts, RunView, ShownRun
from napari_prosma.jobs.spec import ScanSpec
from prosma_core.engine.messages import ArrayReady, Finished, InspectResult
from prosma_core.printable import format_duration

TEXTS = RunTexts(
    cancel_tooltip="Stop looking.",
    broken="The gates could not be shown: {reason}. Inspect again.",
)


class InspectJob(ShownRun):
    """A running inspection of the gates.

    Parameters
    ----------
    plan : Plan
    view : RunView
    jobs : Jobs
    over : callable
        Told, once, what was found; None where nothing was.
    """

    def __init__(self, plan: Plan, view: RunView, jobs: Jobs, over: Callable[[InspectionResult | None], None]) -> None:
        self.plan = plan
        self._told = over
        self._arrays: dict[str, NDArray[Any]] = {}
        self._shown = False
        self._key = uuid.uuid4().hex
        view.show_running(True)
        super().__init__(view, TEXTS, f"ProSMA: {plan.group}")
        self.start(jobs, ScanSpec(plan.request.replace(key=self._key), plan.scan))

    def scan_changed(self, _event: Any = None) -> None:
        """The scan may not be what is looked at any more: no result for it is used again."""
        self._key = ""

    # --- Messages of the engine, in the GUI thread ------------------------------------------------------------------

    @property
    def handlers(self) -> Handlers:
        """As of `JobRun`."""
        return {**super().handlers, ArrayReady: self._take, Finished: self._finish}

    def over(self) -> None:
        """There is nothing to show, or it could not be shown."""
        super().over()
        if not (self._shown or self.abandoned):
            self._told(None)

    def _take(self, ready: ArrayReady) -> None:
        self._arrays[ready.name] = ready.array

    def _finish(self, message: Finished) -> None:
        result = message.result
        assert isinstance(result, InspectResult)
        if result.words:
            self.say(result.words)
        self.say(f"Done in {format_duration(result.seconds)} on {result.device.partition(' (')[0]}.")
        self._told(InspectionResult(self.plan, result.inspection, self._arrays, self._key))
        self._shown = True
