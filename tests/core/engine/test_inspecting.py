"""Inspecting gates and changing them in the real engine: as in the library, stopped when asked, all released."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prosma_core.config.inspection import InspectConfig, LevelEdit, Variant
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.engine.client import Engine
from prosma_core.engine.messages import ArrayReady, Cancelled, Failed, Finished, InspectRequest, ScanRef, WhatIfRequest
from prosma_core.errors import ConfigError, EngineError
from prosma_core.events import TileDone, Working
from prosma_core.inference.segment import Segmenter
from prosma_core.inspection.inspect import inspect_scan
from prosma_core.inspection.whatif import what_if
from prosma_core.io.images import write_image

Noise = Callable[..., Scan]
HandOver = Callable[..., ScanRef]
Begin = Callable[..., Any]
OPEN = Variant(name="open", edits=(LevelEdit(level=0, state="open"),))


def result_of(work: Generator[Any, None, Any]) -> Any:
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value


def inspect(model: Path, ref: ScanRef | None, **settings: Any) -> InspectRequest:
    return InspectRequest(model=str(model), device="cpu", scan=ref, config=InspectConfig(**settings))


def change(model: Path, ref: ScanRef, **settings: Any) -> WhatIfRequest:
    return WhatIfRequest(model=str(model), device="cpu", scan=ref, **{"variants": (OPEN,), **settings})


def arrays(heard: Any) -> dict[str, np.ndarray]:
    return {message.name: message.array for message in heard.of(ArrayReady)}


def test_an_inspection_is_that_of_the_library(
    engine: Engine, begin: Begin, hand_over: HandOver, noise: Noise, model_3d: Path
) -> None:
    scan = noise((20, 33, 18), "zyx")
    by = Segmenter.load(model_3d, torch.device("cpu"))
    expected = result_of(inspect_scan(by, scan, InspectConfig(region=((2, 19), (0, 33), (0, 18)))))
    heard = begin(engine, inspect(model_3d, hand_over(engine, scan), region=((2, 19), (0, 33), (0, 18))))
    end = heard.end()
    assert isinstance(end, Finished)
    assert end.result.inspection == expected.inspection
    found = arrays(heard)
    assert sorted(found) == sorted(expected.maps) == sorted(info.name for info in end.result.inspection.maps)
    for name, array in expected.maps.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_what_if_keeps_the_unchanged_result_under_its_key_and_releases_both_scans(
    engine: Engine,
    begin: Begin,
    hand_over: HandOver,
    noise: Noise,
    model_2d: Path,
    shared_files: Callable[..., list[Path]],
) -> None:
    scan = noise((40, 33), "yx")
    truth = Scan((scan.data > 100).astype(np.uint8), scan.spec)
    by = Segmenter.load(model_2d, torch.device("cpu"))
    expected = result_of(what_if(by, scan, (OPEN,), InspectConfig(), truth=truth))
    totals = []
    for key in ("a", "a", "b", ""):
        ref, labels = hand_over(engine, scan), hand_over(engine, truth)
        heard = begin(engine, change(model_2d, ref, truth=labels, key=key))
        end = heard.end()
        assert isinstance(end, Finished)
        assert end.result.variants == expected.variants
        np.testing.assert_array_equal(arrays(heard)["labels"], expected.labels.data)
        np.testing.assert_array_equal(arrays(heard)["changes"], expected.changes.data)
        totals.append(len(heard.of(TileDone)))
        assert not [p for p in (ref, labels) if Path(p.array.path).exists()]
    assert totals == [2 * totals[1], totals[1], 2 * totals[1], 2 * totals[1]]
    heard = begin(engine, change(model_2d, hand_over(engine, scan), arrays=False))
    assert isinstance(heard.end(), Finished)
    assert arrays(heard) == {}
    assert [p for p in shared_files() if p.suffix == ".array"] == []


@pytest.mark.parametrize("how", ["in place", "elsewhere"])
def test_what_if_of_a_file_that_changed_compares_with_the_file_as_it_is(
    how: str, engine: Engine, begin: Begin, noise: Noise, model_2d: Path, tmp_path: Path
) -> None:
    scan, by = noise((40, 33), "yx"), Segmenter.load(model_2d, torch.device("cpu"))
    for number, each in enumerate((scan, Scan(scan.data[::-1].copy() * 2, scan.spec))):
        path = tmp_path / f"{number if how == 'elsewhere' else 0}.tif"
        write_image(path, each.data, each.spec, overwrite=True)
        heard = begin(engine, change(model_2d, ScanRef(file=str(path)), key="a"))
        end = heard.end()
        assert isinstance(end, Finished)
        expected = result_of(what_if(by, each, (OPEN,), InspectConfig()))
        assert end.result.variants == expected.variants
        np.testing.assert_array_equal(arrays(heard)["changes"], expected.changes.data)


@pytest.mark.parametrize("kind", [inspect, change])
def test_both_stop_when_asked(
    kind: Callable[..., Any], engine: Engine, begin: Begin, hand_over: HandOver, long_scan: Scan, model_2d: Path
) -> None:
    heard = begin(engine, kind(model_2d, hand_over(engine, long_scan)))
    heard.wait_for(TileDone, Working, so=lambda m: isinstance(m, TileDone) or m.message.startswith("Tile"))
    pid = engine.pid
    heard.job.cancel()
    assert isinstance(heard.end(), Cancelled)
    small = Scan(long_scan.data[0, :16, :16].copy(), array_spec((16, 16), "yx"))
    heard = begin(engine, change(model_2d, hand_over(engine, small)))
    assert isinstance(heard.end(), Finished)
    assert engine.pid == pid


def test_what_cannot_be_done_is_an_error_in_words(
    engine: Engine, begin: Begin, hand_over: HandOver, noise: Noise, model_2d: Path
) -> None:
    heard = begin(engine, inspect(model_2d, hand_over(engine, noise((16, 16), "yx")), levels=(7,)))
    end = heard.end()
    assert isinstance(end, Failed)
    assert isinstance(end.error, ConfigError)
    assert "no level 7" in str(end.error)
    with pytest.raises(EngineError, match="names no scan"):
        begin(engine, inspect(model_2d, None))
