"""What would be if: questions about one look. The newest counts; an older one is cancelled, its answer dropped."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from napari_prosma.gates.state import Plan
from napari_prosma.jobs.boundary import Jobs
from napari_prosma.jobs.run import Handlers, JobRun
from napari_prosma.jobs.spec import ScanSpec
from napari_prosma.layers.access import LayerScan
from prosma_core.config.inspection import Edits, InspectConfig, Variant, VariantResult, opened_one_at_a_time
from prosma_core.engine.messages import ArrayReady, Cancelled, Failed, Finished, WhatIfRequest, WhatIfResult

WHAT_IF = "what if"
"""Name of the variant that a person makes with the sliders."""


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer to the newest question: its variants and arrays, or why there is none."""

    ranking: bool
    variants: tuple[VariantResult, ...] = ()
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    seconds: float = 0.0
    error: str = ""
    details: str = ""


class WhatIfQueries:
    """Asks the engine, one question at a time.

    Parameters
    ----------
    jobs : Jobs
    plan : Plan
        Of the look that the questions are about.
    key : str
        Names its scan, as of `InspectionResult`.
    heard : callable
        Told the answer to the newest question.
    """

    def __init__(self, jobs: Jobs, plan: Plan, key: str, heard: Callable[[Answer], None]) -> None:
        self._jobs, self._plan, self._heard = jobs, plan, heard
        self._generation = 0
        self._job: _Question | None = None
        self._next: Callable[[], None] | None = None
        self._key = key or uuid.uuid4().hex

    def renew(self) -> None:
        """The scan may have changed: its unchanged result is computed anew with the next question."""
        self._key = uuid.uuid4().hex

    @property
    def busy(self) -> bool:
        """Whether an answer is awaited."""
        return self._job is not None

    def what_if(self, edits: Edits, truth: LayerScan | None) -> None:
        """Ask what a change of the gates would change."""
        self._ask((Variant(name=WHAT_IF, edits=edits),), truth, ranking=False)

    def which_level(self, truth: LayerScan | None) -> None:
        """Ask what each level, forced open alone, would change."""
        self._ask(opened_one_at_a_time(self._plan.model.header.model), truth, ranking=True)

    def stop(self, then: Callable[[], None] | None = None) -> None:
        """Drop what is asked; `then` is called when the engine is free."""
        self._generation += 1
        self._next = then
        if self._job is not None:
            self._job.cancel()
        else:
            self._go_on()

    def _ask(self, variants: tuple[Variant, ...], truth: LayerScan | None, *, ranking: bool) -> None:
        looked, plan = self._plan.request.config, self._plan
        config = InspectConfig(overlap=looked.overlap, region=looked.region, slice_axis=looked.slice_axis)
        request = WhatIfRequest(
            model=plan.request.model,
            device=plan.request.device,
            variants=variants,
            config=config,
            key=self._key,
            arrays=not ranking,
        )
        spec = ScanSpec(request, plan.scan, truth)
        self.stop(lambda: self._submit(spec, ranking=ranking))

    def _submit(self, spec: ScanSpec, *, ranking: bool) -> None:
        generation = self._generation

        def answered(answer: Answer) -> None:
            if generation == self._generation:
                self._heard(answer)

        def over() -> None:
            self._job = None
            self._go_on()

        self._job = _Question(answered, over, ranking=ranking)
        self._job.start(self._jobs, spec)

    def _go_on(self) -> None:
        """Do what waits for the engine, if anything does."""
        waiting, self._next = self._next, None
        if waiting is not None:
            waiting()


class _Question(JobRun):
    """One question on its way to its answer."""

    def __init__(self, answered: Callable[[Answer], None], over: Callable[[], None], *, ranking: bool) -> None:
        super().__init__()
        self._answered, self._told, self._ranking = answered, over, ranking
        self._arrays: dict[str, NDArray[Any]] = {}

    @property
    def handlers(self) -> Handlers:
        """As of `JobRun`."""
        return {
            ArrayReady: self._take,
            Finished: self._finish,
            Failed: lambda failed: self.show_error(str(failed.error), failed.details),
            Cancelled: lambda _: self.show_error("It was cancelled.", ""),
        }

    def show_error(self, reason: str, details: str) -> None:
        """Answer with why there is none."""
        self._answered(Answer(self._ranking, error=reason, details=details))

    def over(self) -> None:
        """The engine is free."""
        self._told()

    def _take(self, ready: ArrayReady) -> None:
        self._arrays[ready.name] = ready.array

    def _finish(self, message: Finished) -> None:
        result = message.result
        assert isinstance(result, WhatIfResult)
        self._answered(Answer(self._ranking, result.variants, self._arrays, result.seconds))
