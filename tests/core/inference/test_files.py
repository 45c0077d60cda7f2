"""Many files in one go: what ends one of them leaves the others alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prosma_core.config import InferenceConfig
from prosma_core.data.geometry import array_spec
from prosma_core.data.phantom import phantom_3d
from prosma_core.events import CaseDone, CaseFailed, StageStarted
from prosma_core.inference import files
from prosma_core.inference.segment import Segmenter
from prosma_core.io.bundle import shipped_models
from prosma_core.io.images import write_image

ENDED = [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 TB")]


@pytest.mark.parametrize("step", ["open_image", "write_labels", "Segmenter.segment"])
@pytest.mark.parametrize("error", ENDED, ids=["numpy", "torch"])
def test_a_scan_too_large_for_main_memory_does_not_stop_the_others(
    step: str,
    error: Exception,
    tmp_path: Path,
    make_model: Callable[..., Path],
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in "ab":
        write_image(tmp_path / f"{name}.tif", rng.normal(size=(20, 21)).astype(np.float32), array_spec((20, 21), "yx"))
    segmenter = Segmenter.load(make_model(tmp_path / "m.safetensors"), torch.device("cpu"))
    owner: Any = Segmenter if "." in step else files
    name = step.rpartition(".")[2]
    real, calls = getattr(owner, name), []

    def first_ends(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, first_ends)
    inputs = [tmp_path / "a.tif", tmp_path / "b.tif"]
    events = list(files.segment_files(inputs, tmp_path / "out", segmenter, InferenceConfig()))
    failed = [e for e in events if isinstance(e, CaseFailed)]
    assert [e.name for e in failed] == ["a"]
    assert "Main memory ran out" in failed[0].error
    assert [e.name for e in events if isinstance(e, CaseDone)] == ["b"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b.tif"]


def save_picture(path: Path) -> Path:
    write_image(path, np.zeros((16, 17), np.uint8), array_spec((16, 17), "yx"))
    return path


def test_names_of_all_results_are_checked_before_the_work(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    scan, out = save_picture(tmp_path / "a.tif"), tmp_path / "out" / ("a" * 245 + ".tif")
    segmenter = Segmenter.load(make_model(tmp_path / "m.safetensors"), torch.device("cpu"))
    (said,) = files.segment_files([scan], out, segmenter, InferenceConfig(probabilities=True))
    assert isinstance(said, CaseFailed)
    assert "_probabilities.tif has 263 bytes; " in said.error


def test_scans_of_one_name_are_told_apart_and_where_one_result_is_meant_for_two_both_are_named(
    tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    inputs = [save_picture(tmp_path / name) for name in ("one/a.png", "one/a.tif", "two/a.tif", "two/b.png")]
    segmenter = Segmenter.load(make_model(tmp_path / "m.safetensors"), torch.device("cpu"))
    config = InferenceConfig(probabilities=True)
    events = list(files.segment_files(inputs, tmp_path / "out", segmenter, config))
    failed = {event.name: event.error for event in events if isinstance(event, CaseFailed)}
    assert list(failed) == ["a.png", "one/a.tif", "two/a.tif", "b"]
    for name, both in (("one/a.tif", "one/a.tif and a.png"), ("two/a.tif", "two/a.tif and one/a.tif")):
        assert failed[name].startswith(f"{both} would both be written to ")
        assert failed[name].endswith("Rename one, or write them into different folders.")


def test_a_scan_of_another_kind_is_warned_of_and_an_empty_result_said_but_nothing_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture = save_picture(tmp_path / "a.tif")
    write_image(picture, np.eye(32, 33, dtype=np.uint8), array_spec((32, 33), "yx"), overwrite=True)
    segmenter = Segmenter.load(shipped_models()["breast-lesion-us"], torch.device("cpu"))
    nothing = InferenceConfig(threshold=0.999999)
    events = list(files.segment_files([picture], tmp_path / "out", segmenter, nothing))
    (warning,) = [r.getMessage() for r in caplog.records if r.name.startswith("prosma_core")]
    assert warning.startswith("a: breast-lesion-us was trained on ultrasound images of the breast; this scan ")
    assert [e.voxels for e in events if isinstance(e, CaseDone)] == [{"lesion": 0}]
    said = [e.message for e in events if isinstance(e, StageStarted)]
    assert (
        "a: No lesion found. This model missed (Dice below 0.1) lesion in 2 of 30 held-out images that show it." in said
    )


def test_where_nothing_tells_what_a_picture_shows_the_model_s_purpose_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture = save_picture(tmp_path / "a.png")
    segmenter = Segmenter.load(shipped_models()["breast-lesion-us"], torch.device("cpu"))
    segmenter.header = segmenter.header.replace(facts=None)
    events = files.segment_files([picture], tmp_path / "out", segmenter, InferenceConfig())
    said = [event.message for event in events if isinstance(event, StageStarted)]
    assert (
        "a: Nothing tells what this scan shows: check that it is what breast-lesion-us is for "
        "(ultrasound images of the breast)." in said
    )
    assert not [r for r in caplog.records if r.name.startswith("prosma_core")]


def test_a_phantom_that_says_so_fits_a_model_of_phantoms(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scan, _ = phantom_3d(1, (8, 32, 32))
    segmenter = Segmenter.load(shipped_models()["phantom-3d"], torch.device("cpu"))
    for name, notes in (("said", {"program": "phantom", "synthetic": "phantom"}), ("unsaid", None)):
        path = tmp_path / f"{name}.nii.gz"
        write_image(path, scan.data, scan.spec, provenance=notes)
        list(files.segment_files([path], tmp_path / "out", segmenter, InferenceConfig()))
    assert [r.getMessage() for r in caplog.records if r.name.startswith("prosma_core")] == [
        "unsaid: phantom-3d was trained on synthetic phantoms: on real scans its labels mean nothing."
    ]
