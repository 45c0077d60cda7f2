"""Evaluation compares what segmentation gives with what the labels say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.inference.evaluate import evaluate_cases
from prosma_core.inference.segment import Segmenter
from prosma_core.io.images import write_image, write_labels


def drain(run):
    while True:
        try:
            next(run)
        except StopIteration as stop:
            return stop.value


@pytest.fixture
def segmenter(make_model, tmp_path) -> Segmenter:
    return Segmenter.load(make_model(tmp_path / "tiny.safetensors", dims=2), torch.device("cpu"))


def test_a_model_is_perfect_on_its_own_answers_in_every_frame(segmenter, tmp_path, rng) -> None:
    spec = array_spec((3, 24, 32), "tyx", (1.0, 1.0), "um")
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    data = rng.normal(size=spec.shape).astype(np.float32)
    write_image(images / "movie.tif", data, spec)
    answer = drain(segmenter.segment(Scan(data, spec), InferenceConfig()))
    assert set(np.unique(answer.labels.data)) == {0, 1}
    write_labels(labels / "movie.tif", answer.labels.data, spec)
    report = drain(evaluate_cases(segmenter, tmp_path, None, InferenceConfig(), 1.0))
    assert list(report["cases"]) == [f"movie frame {t}" for t in range(3)]
    assert all(m["dice"] == 1.0 for case in report["cases"].values() for m in case.values())
    assert report["summary"]["mean"]["dice"] == 1.0
