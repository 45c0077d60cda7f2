"""What is sent arrives as it was."""

from __future__ import annotations

import io
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prosma_core.config import InferenceConfig, RunConfig
from prosma_core.config.training import resolve_run
from prosma_core.data.geometry import ImageSpec
from prosma_core.engine import messages
from prosma_core.engine.messages import (
    ASK,
    REPLY,
    ArrayRef,
    Ask,
    Cancel,
    Failed,
    Finished,
    PlanRequest,
    PlanResult,
    PreviewScan,
    Said,
    ScanRef,
    SegmentRequest,
    TimesRequest,
    TrainRequest,
    TrainResult,
    encode,
    read_lines,
    spec_message,
)
from prosma_core.errors import ConfigError, DeviceError, EngineError, ProsmaError
from prosma_core.events import EpochDone, Event

SIZES = st.integers(1, 10**6)
SPACINGS = st.floats(1e-6, 1e6)


@st.composite
def specs(draw: st.DrawFn) -> ImageSpec:
    axes = draw(st.sampled_from(["yx", "zyx", "tyx", "cyx", "czyx", "tczyx"]))
    n = sum(a in "zyx" for a in axes)
    spacing = draw(st.tuples(*[SPACINGS] * n))
    affine = np.diag([*spacing, 1.0])
    affine[:-1, -1] = draw(hnp.arrays(np.float64, n, elements=st.floats(-1e6, 1e6)))
    world = draw(st.sampled_from(["ras", "image"]))
    shape = draw(st.tuples(*[SIZES] * len(axes)))
    names = tuple(draw(st.lists(st.text(), max_size=3)))
    return ImageSpec(axes, shape, spacing, draw(st.text()), affine, world, names, draw(st.text()))


def array_refs() -> st.SearchStrategy[ArrayRef]:
    dtypes = st.sampled_from(["|u1", "<u2", ">i4", "<f4", "<f8", "|b1"])
    return st.builds(ArrayRef, path=st.text(), shape=st.lists(SIZES, min_size=1, max_size=5).map(tuple), dtype=dtypes)


def scans() -> st.SearchStrategy[ScanRef]:
    geometry = specs().map(spec_message)
    return st.builds(ScanRef, array=array_refs(), spec=geometry) | st.builds(
        ScanRef, file=st.text(), axes=st.none() | st.text(), spec=st.none() | geometry
    )


def configs() -> st.SearchStrategy[InferenceConfig]:
    spans = st.tuples(st.integers(0, 9), st.integers(10, 99))
    return st.builds(
        InferenceConfig,
        overlap=st.floats(0, 0.9),
        mirror=st.booleans(),
        entropy=st.booleans(),
        threshold=st.none() | st.floats(0.001, 0.999),
        min_size=st.integers(0, 10**6),
        objects=st.booleans(),
        batch_size=st.none() | st.integers(1, 256),
        region=st.none() | st.lists(spans, min_size=2, max_size=3).map(tuple),
        slice_axis=st.sampled_from([None, "z", "y", "x"]),
    )


@given(st.one_of(*(st.from_type(kind) for kind in get_args(Event))), st.integers())
def test_every_event_crosses_with_all_its_numbers_infinite_ones_too(event: Any, job: int) -> None:
    reply = REPLY.validate_json(encode(Said.of(job, event)))
    assert isinstance(reply, Said)
    assert reply.job == job
    assert repr(reply.message()) == repr(event)  # as text, since NaN is not equal to itself


def test_a_loss_that_is_no_number_stays_one() -> None:
    event = EpochDone(1, 2, float("nan"), float("inf"), {"organ": float("-inf")}, None)
    reply = REPLY.validate_json(encode(Said.of(1, event)))
    assert isinstance(reply, Said)
    assert repr(reply.message()) == repr(event)


@given(st.builds(SegmentRequest, model=st.text(), device=st.text(), config=configs(), scan=scans()), st.integers())
def test_every_request_crosses(request: SegmentRequest, job: int) -> None:
    assert ASK.validate_json(encode(Ask(job=job, request=request))) == Ask(job=job, request=request)


def runs() -> st.SearchStrategy[RunConfig]:
    """Return runs as people give them: some values, and whatever the preset changes."""
    classes = st.dictionaries(st.integers(0, 65535), st.text(min_size=1, max_size=9), max_size=3)
    values = st.fixed_dictionaries(
        {"out": st.just("model.safetensors"), "preset": st.sampled_from(["quick", "balanced", "best"])},
        optional={
            "pairs": st.lists(st.tuples(st.just("a.nii.gz"), st.just("b.nii.gz")), max_size=2),
            "class_names": classes,
            "class_colors": st.dictionaries(st.integers(0, 65535), st.just("#0a0B0c"), max_size=3),
            "gate": st.fixed_dictionaries({}, optional={"kind": st.sampled_from(["prosma", "none"])}),
            "training": st.fixed_dictionaries({}, optional={"minutes": st.floats(0.1, 1e6), "seed": st.integers(0, 9)}),
        },
    )
    return values.map(resolve_run)


@given(
    st.builds(
        TimesRequest,
        runs=st.dictionaries(st.text(), runs(), min_size=1, max_size=3),
        scans=st.lists(specs().map(spec_message), min_size=1, max_size=3).map(tuple),
        num_classes=st.integers(2, 99),
    ),
    st.integers(),
)
def test_a_question_for_times_crosses(request: TimesRequest, job: int) -> None:
    assert ASK.validate_json(encode(Ask(job=job, request=request))) == Ask(job=job, request=request)


@given(
    st.builds(
        TrainRequest, run=runs(), resume=st.booleans(), more_epochs=st.none() | st.integers(1, 9), preview=scans()
    )
    | st.builds(PlanRequest, run=runs()),
    st.integers(),
)
def test_a_run_crosses_with_what_was_chosen_and_nothing_else(request: Any, job: int) -> None:
    found = ASK.validate_json(encode(Ask(job=job, request=request)))
    assert isinstance(found, Ask)
    assert found.request == request
    other = found.request.run
    for name in RunConfig.model_fields:
        one, two = getattr(request.run, name), getattr(other, name)
        assert getattr(one, "model_fields_set", None) == getattr(two, "model_fields_set", None)
    assert other.model_fields_set == request.run.model_fields_set


@given(st.integers(), st.none() | scans())
def test_a_change_of_what_is_watched_crosses(job: int, scan: ScanRef | None) -> None:
    assert ASK.validate_json(encode(PreviewScan(preview=job, scan=scan))) == PreviewScan(preview=job, scan=scan)


DICE = st.dictionaries(st.text(), st.floats(0, 1), max_size=3)


@given(
    st.builds(TrainResult, dice=DICE, before=st.none() | DICE, mean_dice=st.floats(0, 1), seconds=st.floats(0, 1e9))
    | st.builds(PlanResult, step_seconds=st.floats(0, 9), epoch_seconds=st.floats(0, 9), seconds=st.floats(0, 9))
)
def test_a_result_arrives_as_what_it_is(result: Any) -> None:
    reply = REPLY.validate_json(encode(Said.of(1, Finished(result))))
    assert isinstance(reply, Said)
    assert reply.message() == Finished(result)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DeviceError("No GPU."), DeviceError),
        (ConfigError("Two lines:", "the second"), ConfigError),
        (type("Unknown", (ProsmaError,), {})("Of a newer version."), EngineError),
    ],
)
def test_an_error_arrives_as_what_it_is(error: ProsmaError, kind: type[ProsmaError]) -> None:
    reply = REPLY.validate_json(encode(Said.of(1, Failed(error, "a traceback"))))
    assert isinstance(reply, Said)
    found = reply.message()
    assert isinstance(found, Failed)
    assert (type(found.error), found.error.args, found.details) == (kind, error.args, "a traceback")


def test_a_message_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no message 'Coffee'"):
        Said(job=1, name="Coffee", values={}).message()


@given(specs())
def test_a_geometry_crosses_exactly(spec: ImageSpec) -> None:
    found = spec_message(spec).spec()
    np.testing.assert_array_equal(found.affine, spec.affine)
    for name in ("axes", "shape", "spacing", "unit", "world", "channel_names", "format"):
        assert getattr(found, name) == getattr(spec, name)


@pytest.mark.parametrize("dtype", ["|O", "<M8[s]", "<c8", "<U4", "[('a', '<f4')]", "nonsense"])
def test_an_array_of_anything_but_real_numbers_is_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match="dtype"):
        ArrayRef(path="a", shape=(1,), dtype=dtype)


@pytest.mark.parametrize("sources", [{}, {"file": "a.nii", "array": ArrayRef(path="a", shape=(1,), dtype="<f4")}])
def test_a_scan_has_exactly_one_source(sources: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either an array with its geometry or a file"):
        ScanRef(**sources)


def test_a_message_is_one_line() -> None:
    line = encode(Said.of(1, Failed(EngineError("two", "lines"))))
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")


def test_a_line_that_is_too_long_is_cut_and_the_next_one_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_LINE", 100)
    lines = list(read_lines(io.BytesIO(b"x" * 250 + b"\n" + encode(Cancel(cancel=1)) + b"cut off at the e")))
    assert lines == [b"x" * 100, encode(Cancel(cancel=1))]
    with pytest.raises(EngineError, match="too long"):
        encode(Said.of(1, Failed(EngineError("x" * 100))))
