"""Suggesting slices by the engine: the ranking of the library, scans released, canceled between tiles, refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from prosma_core.data.geometry import Scan
from prosma_core.data.next_slice import rank_slices
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import (
    ArrayReady,
    Cancelled,
    Failed,
    Finished,
    ScanRef,
    SlicesRef,
    SuggestRequest,
    SuggestResult,
)
from prosma_core.errors import GeometryError
from prosma_core.events import StageStarted, TileDone, drain
from prosma_core.inference.next_slice import slice_entropy
from prosma_core.inference.segment import Segmenter
from prosma_core.io.images import write_image

HandOver = Callable[..., Any]
Begin = Callable[..., Any]


def test_the_engine_ranks_as_the_library_does_and_releases_the_scans(
    engine: Engine, begin: Begin, hand_over: HandOver, noise: Callable[..., Scan], model_3d: Path, tmp_path: Path
) -> None:
    scans, annotated = [noise((12, 20, 22), "zyx"), noise((9, 20, 22), "zyx")], [(3, 4), ()]
    flat = hand_over(engine, noise((20, 22), "yx"))
    ref = hand_over(engine, scans[0])
    write_image(tmp_path / "closed.tif", np.asarray(scans[1].data), scans[1].spec)  # one that is not open
    closed = SlicesRef(name="closed", scan=ScanRef(file=str(tmp_path / "closed.tif")), axis=None)
    wanted = [SlicesRef(name="scan", scan=ref, axis="z", annotated=annotated[0]), closed]
    wanted.insert(1, SlicesRef(name="a picture", scan=flat, axis=""))
    heard = begin(engine, SuggestRequest(model=str(model_3d), device="cpu", scans=tuple(wanted), seed=3))
    end = heard.end()
    assert isinstance(end, Finished), end
    assert isinstance(end.result, SuggestResult)
    segmenter = Segmenter.load(model_3d, torch.device("cpu"))
    entropy = [drain(slice_entropy(segmenter, scan, "z"), lambda _: None) for scan in scans]
    order, turn = rank_slices(entropy, annotated, 3)
    assert end.result.ranked == tuple(((0, 2)[scan], index) for scan, index in order)
    assert end.result.of == (segmenter.header.classes[turn].name if turn else "")
    assert any("a picture is left out" in event.message for event in heard.of(StageStarted))
    assert heard.of(TileDone)
    assert heard.of(ArrayReady) == []
    assert not any(Path(ref.array.path).exists() for ref in (ref, flat))


def test_a_suggestion_is_cancelled_between_tiles_and_one_that_cannot_be_made_fails_in_words(
    engine: Engine, begin: Begin, hand_over: HandOver, noise: Callable[..., Scan], long_scan: Scan, model_2d: Path
) -> None:
    long = SlicesRef(name="a picture", scan=hand_over(engine, long_scan), axis="z")
    heard = begin(engine, SuggestRequest(model=str(model_2d), device="cpu", scans=(long,)))
    heard.wait_for(TileDone)
    heard.job.cancel()
    assert isinstance(heard.end(), Cancelled)
    flat = SlicesRef(name="a picture", scan=hand_over(engine, noise((20, 22), "yx")), axis="z")
    failed = begin(engine, SuggestRequest(model=str(model_2d), device="cpu", scans=(flat,))).end()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, GeometryError)
    with pytest.raises(ValidationError):
        SuggestRequest(model=str(model_2d), scans=())
    with pytest.raises(ValidationError):
        SlicesRef(name="a picture", scan=flat.scan, axis="z", annotated=(-1,))
