"""Annotated cases measured on the workers of a cluster."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosma_core.cluster.connection import Cluster, absolute, working_text
from prosma_core.cluster.jobs import Outcome
from prosma_core.config.model import ModelHeader
from prosma_core.errors import ClusterError, DeviceError
from prosma_core.events import Event, StageStarted, TileDone, Working
from prosma_core.inference.device import name_memory_errors
from prosma_core.inference.evaluate import (
    CaseMeasures,
    CaseOptions,
    ClassMeasures,
    evaluate_by,
    evaluate_case,
    said_once,
)
from prosma_core.io.dataset_folder import Case, DatasetFolder

if TYPE_CHECKING:
    from prosma_core.inference.segment import Segmenter


@dataclass(frozen=True)
class EvaluateCase:
    """Segment a case and measure the result; nothing is written."""

    case: Case
    options: CaseOptions

    def run(self, segmenter: Segmenter) -> Generator[Event, None, tuple[dict[str, dict[str, ClassMeasures]], str]]:
        """Measures by case or time point and class, and the unit of distances."""
        with name_memory_errors():
            return (yield from evaluate_case(segmenter, self.case, self.options))


def evaluate_on(
    cluster: Cluster,
    model: Path,
    header: ModelHeader,
    data: Path | DatasetFolder,
    split: str | None,
    options: CaseOptions,
    device: str = "auto",
) -> Generator[Event, None, dict[str, Any]]:
    """Measures of all cases of a split, by a cluster; what is returned and raised as of `evaluate_cases`.

    Parameters
    ----------
    cluster, model, device
        As of `segment_on`, whose errors are raised as well.
    header : ModelHeader
        Of the model.
    data, split, options
        As of `evaluate_cases`.
    """
    return (yield from evaluate_by(partial(_measure, cluster, model, device), header, data, split, options))


def _measure(
    cluster: Cluster, model: Path, device: str, cases: Sequence[Case], options: CaseOptions
) -> Generator[Event | CaseMeasures, None, None]:
    yield from cluster.begin(files=[path for case in cases for path in (*case.images, case.label)])
    running: dict[str, str] = {}
    said: set[str] = set()

    def jobs() -> Iterator[tuple[str, EvaluateCase]]:
        for case in cases:
            running[case.name] = ""
            images = tuple(map(absolute, case.images))
            yield case.name, EvaluateCase(replace(case, images=images, label=absolute(case.label)), options)

    with cluster.with_model(model, device) as sent:
        for found in cluster.work(jobs(), sent):
            if found is not None:
                name, what = found
                if isinstance(what, TileDone):
                    running[name] = f"{what.done} of {what.total} tiles"
                elif isinstance(what, StageStarted):
                    yield from said_once(name, said, what)
                elif isinstance(what, Outcome):
                    del running[name]
                    yield _case(name, what)
            yield working_text(running) if running else Working("All cases are measured")


def _case(name: str, outcome: Outcome) -> CaseMeasures:
    if isinstance(outcome.error, DeviceError | ClusterError):
        raise outcome.error
    if outcome.error is not None:
        return CaseMeasures(name, outcome.seconds, {}, error=str(outcome.error))
    return CaseMeasures(name, outcome.seconds, *outcome.result)
