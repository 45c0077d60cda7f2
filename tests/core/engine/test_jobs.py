"""What the engine gives is what the library gives in this process; one job at a time, and each ends exactly once."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from prosma_core import errors
from prosma_core.config import InferenceConfig
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.data.phantom import phantom_3d
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import (
    ArrayReady,
    ArrayRef,
    Cancelled,
    Failed,
    Finished,
    ScanRef,
    SegmentRequest,
    spec_message,
)
from prosma_core.events import SlabDone, StageStarted, TileDone
from prosma_core.inference.segment import Segmentation, Segmenter
from prosma_core.io.bundle import shipped_models
from prosma_core.io.images import write_image

Submit = Callable[..., Any]
Noise = Callable[..., Scan]

EXTRAS = InferenceConfig(probabilities=True, entropy=True)


def in_process(model: Path, scan: Scan, config: InferenceConfig) -> tuple[Segmentation, list[Any]]:
    work = Segmenter.load(model, torch.device("cpu")).segment(scan, config, preview=True)
    events = []
    while True:
        try:
            events.append(next(work))
        except StopIteration as stop:
            return stop.value, events


def loads(heard: Any) -> int:
    return sum("Loading the model" in event.message for event in heard.of(StageStarted))


@pytest.mark.parametrize(
    ("dims", "shape", "axes", "config"),
    [
        (2, (40, 33), "yx", InferenceConfig()),
        (2, (3, 40, 33), "zyx", EXTRAS),
        (3, (20, 33, 18), "zyx", EXTRAS),
        (3, (2, 20, 33, 18), "tzyx", InferenceConfig(keep_largest=True, threshold=0.4, objects=True)),
        (3, (20, 33, 18), "zyx", InferenceConfig(region=((2, 9), (10, 30), (0, 18)), entropy=True)),
    ],
)
def test_results_are_those_of_the_library(
    dims: int,
    shape: tuple[int, ...],
    axes: str,
    config: InferenceConfig,
    engine: Engine,
    submit: Submit,
    noise: Noise,
    model_2d: Path,
    model_3d: Path,
) -> None:
    scan, model = noise(shape, axes), model_2d if dims == 2 else model_3d
    expected, events = in_process(model, scan, config)
    heard = submit(engine, model, scan, config=config)
    end = heard.end()
    assert isinstance(end, Finished)
    arrays = {message.name: message.array for message in heard.of(ArrayReady)}
    for name in ("labels", "probabilities", "entropy", "objects", "object_table"):
        found, wanted = arrays.get(name), getattr(expected, name)
        assert (found is None) == (wanted is None)
        if wanted is not None:
            wanted = wanted.data if isinstance(wanted, Scan) else wanted
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)
    assert end.result.voxels == {"class 1": np.count_nonzero(expected.labels.data)}
    kinds = (TileDone, SlabDone)
    assert untimed(heard.of(kinds)) == untimed([event for event in events if isinstance(event, kinds)])
    assert heard.threads == {"prosma-engine"}


def untimed(events: list[Any]) -> list[Any]:
    """Events without the time that is left, and the share that is told from it."""
    return [replace(event, share=None, seconds_left=None) if isinstance(event, TileDone) else event for event in events]


def test_a_shipped_model_finds_the_phantoms_organ(engine: Engine, submit: Submit) -> None:
    scan, _ = phantom_3d(3)
    model = shipped_models()["phantom-3d"]
    expected, _ = in_process(model, scan, InferenceConfig())
    heard = submit(engine, model, scan)
    assert heard.end().result.voxels["organ"] > 1000
    np.testing.assert_array_equal(heard.of(ArrayReady)[0].array, expected.labels.data)


def test_classes_are_in_the_array_while_it_works(
    engine: Engine, submit: Submit, long_scan: Scan, model_2d: Path
) -> None:
    heard = submit(engine, model_2d, long_scan)
    slab = heard.wait_for(SlabDone)
    labels = heard.wait_for(ArrayReady).array
    box = tuple(slice(a, b) for a, b in zip(slab.start, slab.stop, strict=True))
    assert labels[box].any()
    assert heard.of(Finished) == []
    heard.job.cancel()
    heard.end()


@pytest.mark.parametrize("suffix", [".nii.gz", ".zarr", ".tif"])
def test_a_file_is_opened_by_the_engine(
    suffix: str, engine: Engine, submit: Submit, noise: Noise, model_3d: Path, tmp_path: Path
) -> None:
    scan, path = noise((8, 20, 22), "zyx", (2.0, 1.0, 1.0)), tmp_path / f"scan{suffix}"
    write_image(path, scan.data, scan.spec)
    expected, _ = in_process(model_3d, scan, InferenceConfig())
    for spec in (None, spec_message(scan.spec)):
        heard = submit(engine, model_3d, ScanRef(file=str(path), spec=spec))
        assert isinstance(heard.end(), Finished)
        np.testing.assert_array_equal(heard.of(ArrayReady)[0].array, expected.labels.data)


def test_the_level_of_a_zarr_image_is_opened_with_the_axes_given(
    engine: Engine, submit: Submit, noise: Noise, model_2d: Path, tmp_path: Path
) -> None:
    scan, path = noise((2, 3, 20, 22), "tzyx"), tmp_path / "scan.ome.zarr"
    write_image(path, scan.data, scan.spec)
    level = next(p for p in sorted(path.iterdir()) if p.is_dir())
    expected, _ = in_process(model_2d, scan, InferenceConfig())
    heard = submit(engine, model_2d, ScanRef(file=str(level), axes="tzyx", spec=spec_message(scan.spec)))
    assert isinstance(heard.end(), Finished), heard.end()
    np.testing.assert_array_equal(heard.of(ArrayReady)[0].array, expected.labels.data)


def test_a_model_is_loaded_once_until_its_file_changes(
    engine: Engine, submit: Submit, noise: Noise, model_2d: Path, model_3d: Path, tmp_path: Path
) -> None:
    model, scan = tmp_path / "mine.safetensors", noise((20, 20), "yx")
    shutil.copy(model_2d, model)
    counts = []
    for _ in range(3):
        heard = submit(engine, model, scan)
        assert isinstance(heard.end(), Finished)
        counts.append(loads(heard))
    shutil.copy(model_3d, model)
    heard = submit(engine, model, noise((4, 20, 20), "zyx"))
    assert isinstance(heard.end(), Finished)
    assert [*counts, loads(heard)] == [1, 0, 0, 1]


def test_only_one_job_at_a_time(
    engine: Engine, submit: Submit, noise: Noise, long_scan: Scan, model_2d: Path, shared_files: Callable[..., Any]
) -> None:
    engine.check_idle()
    first = submit(engine, model_2d, long_scan)
    first.wait_for(TileDone)
    before = shared_files()
    with pytest.raises(errors.EngineBusyError, match="Another job is running"):
        submit(engine, model_2d, noise((20, 20), "yx"))
    with pytest.raises(errors.EngineBusyError, match="Another job is running"):
        engine.check_idle()
    assert shared_files() == before
    first.job.cancel()
    first.end()
    engine.check_idle()
    assert isinstance(submit(engine, model_2d, noise((20, 20), "yx")).end(), Finished)


def test_a_job_is_cancelled_in_the_middle_and_the_engine_stays_warm(
    engine: Engine, submit: Submit, noise: Noise, long_scan: Scan, model_2d: Path
) -> None:
    heard = submit(engine, model_2d, long_scan)
    heard.wait_for(TileDone)
    pid = engine.pid
    heard.job.cancel()
    heard.job.cancel()
    assert isinstance(heard.end(), Cancelled)
    again = submit(engine, model_2d, noise((20, 20), "yx"))
    assert isinstance(again.end(), Finished)
    heard.job.cancel()
    assert (engine.pid, loads(again)) == (pid, 0)
    assert len(heard.of((Cancelled, Finished, Failed))) == 1


def test_a_job_is_cancelled_while_the_engine_still_starts(own_engine: Engine, submit: Submit, model_2d: Path) -> None:
    scan = Scan(np.ones((20, 20), np.float32), array_spec((20, 20), "yx"))
    heard = submit(own_engine, model_2d, scan)
    heard.job.cancel()
    assert isinstance(heard.end(), Cancelled)
    assert heard.messages == [Cancelled()]


def test_freeing_memory_cancels_the_job_and_ends_the_process(
    engine: Engine, submit: Submit, noise: Noise, long_scan: Scan, model_2d: Path
) -> None:
    heard = submit(engine, model_2d, long_scan)
    heard.wait_for(TileDone)
    process = psutil.Process(engine.pid)
    engine.free()
    assert (engine.alive, engine.pid, engine.ready) == (False, None, None)
    assert isinstance(heard.end(), Cancelled)
    assert psutil.wait_procs([process], timeout=20)[1] == []
    assert isinstance(submit(engine, model_2d, noise((20, 20), "yx")).end(), Finished)


def test_whoever_listens_may_fail(engine: Engine, submit: Submit, noise: Noise, model_2d: Path) -> None:
    over = threading.Event()

    def clumsy(message: Any) -> None:
        if isinstance(message, Finished):
            over.set()
        msg = "the listener's own fault"
        raise RuntimeError(msg)

    scan = noise((20, 20), "yx")
    shared = engine.allocate(scan.data.shape, scan.data.dtype)
    shared.array[...] = scan.data
    ref = ScanRef(array=shared.ref, spec=spec_message(scan.spec))
    engine.submit(SegmentRequest(model=str(model_2d), scan=ref), clumsy)
    assert over.wait(60)
    assert isinstance(submit(engine, model_2d, scan).end(), Finished)


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        ({"model": "no-such-model.safetensors"}, errors.ModelFileError, "no model file"),
        ({"device": "abacus"}, errors.DeviceError, "'abacus' does not exist"),
        ({"scan": ScanRef(file="no-such-scan.nii.gz")}, errors.FileFormatError, "no-such-scan"),
    ],
)
def test_an_error_of_the_core_keeps_its_class_and_text(
    wrong: dict[str, Any], kind: type, words: str, engine: Engine, submit: Submit, noise: Noise, model_2d: Path
) -> None:
    right = {"model": str(model_2d), "scan": ScanRef(file="unused")}
    heard = submit(engine, model_2d, noise((20, 20), "yx"))
    assert isinstance(heard.end(), Finished)
    pid = engine.pid
    other = type(heard)()
    engine.submit(SegmentRequest(**{**right, **wrong}), other)
    end = other.end()
    assert isinstance(end, Failed)
    assert type(end.error) is kind
    assert words in str(end.error)
    assert "Traceback" in end.details
    assert engine.pid == pid


def test_a_scan_whose_geometry_is_of_another_one_is_refused(
    engine: Engine, submit: Submit, hand_over: Callable[..., ScanRef], noise: Noise, model_2d: Path
) -> None:
    ref = hand_over(engine, noise((20, 20), "yx"))
    wrong = ref.replace(spec=spec_message(array_spec((20, 21), "yx")))
    end = submit(engine, model_2d, wrong).end()
    assert isinstance(end.error, errors.GeometryError)


def test_a_scan_that_declares_what_is_not_there_is_refused(
    engine: Engine, submit: Submit, hand_over: Callable[..., ScanRef], noise: Noise, model_3d: Path
) -> None:
    shape = (10**5, 10**5, 10**5)
    path = hand_over(engine, noise((20, 20), "yx")).array.path
    absurd = ScanRef(array=ArrayRef(path=path, shape=shape, dtype="<f4"), spec=spec_message(array_spec(shape, "zyx")))
    end = submit(engine, model_3d, absurd).end()
    assert isinstance(end.error, errors.EngineError)
    assert "shorter than" in str(end.error)


def test_a_request_without_a_scan_is_refused_at_once(engine: Engine, model_2d: Path) -> None:
    with pytest.raises(errors.EngineError, match="no scan"):
        engine.submit(SegmentRequest(model=str(model_2d)), lambda _message: None)


def test_the_scans_array_is_released_when_its_job_ends(
    engine: Engine, submit: Submit, noise: Noise, model_2d: Path, shared_files: Callable[..., list[Path]]
) -> None:
    heard = submit(engine, model_2d, noise((20, 20), "yx"))
    heard.end()
    assert [path.name for path in shared_files() if path.suffix == ".array"] == []
    assert heard.of(ArrayReady)[0].array.shape == (20, 20)


def test_ready_says_what_can_be_computed_with(engine: Engine, submit: Submit, noise: Noise, model_2d: Path) -> None:
    submit(engine, model_2d, noise((20, 20), "yx")).end()
    assert engine.ready is not None
    assert engine.ready.torch == torch.__version__
    assert {"auto", "cpu"} <= set(engine.ready.devices)
    assert set(engine.ready.devices) | set(engine.ready.why_not) == {"auto", "cpu", "cuda", "mps"}
