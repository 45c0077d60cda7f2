"""Training from scans that stay on the disk: the same cases, patches, losses and validation as from memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from prosma_core.config.training import resolve_run
from prosma_core.data.geometry import ImageSpec, box_slices, spacing_affine
from prosma_core.data.labels import IGNORED
from prosma_core.data.lazy import LazyArray, parts_of
from prosma_core.errors import DeviceError, LabelError
from prosma_core.events import EpochDone, StageStarted, StepDone, Working
from prosma_core.io.images import write_image, write_labels
from prosma_core.runs.run_folder import RunFolder
from prosma_core.training import case_logits, reading
from prosma_core.training.cases import PatchSampler
from prosma_core.training.loop import train
from prosma_core.training.prepare import prepare_run
from prosma_core.training.stored_cases import StoredImage, StoredLabels

CPU = torch.device("cpu")
SHAPE = (30, 44, 37)


def done(job):
    """Result and events of a generator."""
    events = []
    while True:
        try:
            events.append(next(job))
        except StopIteration as end:
            return end.value, events


def case(seed: int, shape=SHAPE):
    """A scan and its labels: two blocks of classes 1 and 3 in noise."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    labels[8 : 20 + seed, 10:30, 6:20] = 1
    labels[14:24, 20:40, 22:34] = 3
    return rng.normal(500, 60, shape).astype(np.uint16) + 200 * labels, labels


@pytest.fixture
def folder(tmp_path: Path):
    """Writes a data folder of zarr pairs."""

    def write(
        count=5, suffix=".ome.zarr", spacing=(1.0, 1.0, 1.0), unit="um", change=lambda labels: labels, **given
    ) -> Path:
        root = tmp_path / "data"
        for kind in ("images", "labels"):
            (root / kind).mkdir(parents=True)
        for seed in range(count):
            image, labels = case(seed)
            sizes = tuple(s * (1 + 0.1 * seed * (spacing[0] != 1)) for s in spacing)
            spec = ImageSpec("zyx", SHAPE, sizes, unit, spacing_affine(sizes))
            if given.get("turned"):
                affine = np.eye(4)
                affine[:3, :3] = [[0, 0, -1], [1, 0, 0], [0, -1, 0]]
                spec = replace(spec, affine=affine, world="ras", unit="mm")
            write_image(root / "images" / f"case{seed}{suffix}", given.get("image", lambda i: i)(image), spec)
            write_labels(root / "labels" / f"case{seed}{suffix}", change(labels), spec)
        return root

    return write


def settings(data: Path, out: Path, **values):
    training = {"epochs": 1, "steps": 6, "batch_size": 2, "ema_decay": 0.9} | values.pop("training", {})
    preprocess = {"tile": [16, 16, 16]} | values.pop("preprocess", {})
    network = {"width": 4, "max_width": 8, "max_stages": 3}
    return resolve_run(
        {"data": data, "out": out, "device": "cpu", "network": network, "preprocess": preprocess, "training": training}
        | values
    )


def without_room(monkeypatch) -> None:
    """No case fits into memory, and a block holds a few tiles."""
    monkeypatch.setattr(reading, "SHARE", 0.0)
    monkeypatch.setattr(reading, "LEAST", 0)
    monkeypatch.setattr(case_logits, "WORKING", 40 << 20)


@pytest.fixture
def no_room(monkeypatch):
    """As `without_room`."""
    without_room(monkeypatch)


def alike(whole, stored):
    """Whether cases hold the same, read in odd boxes."""
    assert [c.name for c in whole] == [c.name for c in stored]
    for a, b in zip(whole, stored, strict=True):
        assert isinstance(b.image, StoredImage)
        assert isinstance(b.labels, StoredLabels)
        assert a.labels.shape == b.labels.shape
        assert (a.present, a.unknown, a.masked) == (b.present, b.unknown, b.masked)
        assert all(torch.equal(p, q) for p, q in zip(a.points, b.points, strict=True))
        assert (a.annotated is None) == (b.annotated is None)
        assert a.annotated is None or torch.equal(a.annotated, b.annotated)
        cuts = [[(0, n // 3), (n // 3, n - 2), (n - 2, n)] for n in a.labels.shape]
        for box in product(*cuts):
            at = box_slices(box)
            assert torch.equal(a.image[(slice(None), *at)], b.image[(slice(None), *at)])
            assert torch.equal(a.labels[at].int(), b.labels[at].int())


def prepared(run, monkeypatch):
    """The same run prepared in memory and by parts."""
    whole, _ = done(prepare_run(run, CPU))
    without_room(monkeypatch)
    stored, events = done(prepare_run(run, CPU))
    assert any("read by parts" in getattr(event, "message", "") for event in events)
    return whole, stored


def sparse(labels):
    """Three slices of a label map, with a stroke of background."""
    kept = np.zeros_like(labels)
    kept[[12, 15, 18]] = labels[[12, 15, 18]]
    kept[15, 40:42] = 7
    return kept


@pytest.mark.parametrize(
    ("data", "run"),
    [
        ({}, {}),
        ({"count": 2}, {}),  # slices of the same scans are held out
        ({"suffix": ".nii", "turned": True}, {}),
        ({"spacing": (2.0, 1.0, 1.0)}, {"preprocess": {"spacing": (1.6, 1.3, 0.8)}}),
        ({"spacing": (5.0, 1.0, 1.0)}, {"labels": {"ignore": 3}}),
        ({"count": 2, "change": sparse}, {"labels": {"zero": "annotated_slices", "background": 7}}),
        ({"count": 2, "change": sparse, "spacing": (2, 1, 1)}, {"labels": {"zero": "unlabeled", "background": 7}}),
        ({"image": lambda i: i.astype(np.float32) - 1000}, {"preprocess": {"intensities": "ct"}}),
        ({}, {"labels": {"one_class": True}}),
        ({}, {"preprocess": {"dims": 2, "tile": [16, 16]}}),
    ],
    ids=["plain", "slices", "turned nifti", "resampled", "thick", "sparse", "strokes", "ct", "one class", "2D"],
)  # fmt: skip
def test_cases_read_by_parts_are_those_in_memory(folder, tmp_path: Path, monkeypatch, data, run) -> None:
    monkeypatch.setattr("prosma_core.training.cases.MAX_POINTS", 500)
    monkeypatch.setattr("prosma_core.data.point_table.AT_ONCE", 4000)
    monkeypatch.setattr("prosma_core.data.lazy.PART", 5000)
    monkeypatch.setattr("prosma_core.io.images.SMALL", 0)
    whole, stored = prepared(settings(folder(**data), tmp_path / "m.safetensors", **run), monkeypatch)
    assert whole.header.preprocess == stored.header.preprocess
    assert whole.header.model == stored.header.model
    assert whole.run == stored.run
    assert whole.split == stored.split
    assert data.get("turned") is None or whole.header.preprocess.orientation == "RAS"
    alike(whole.train, stored.train)
    alike(whole.val, stored.val)


def test_each_pass_over_a_scan_read_by_parts_shows_its_share(folder, tmp_path: Path, monkeypatch, no_room) -> None:
    monkeypatch.setattr("prosma_core.data.point_table.AT_ONCE", 4000)
    monkeypatch.setattr(parts_of, "__defaults__", (5000, ()))
    monkeypatch.setattr("prosma_core.data.normalization.PART", 1)
    _, events = done(prepare_run(settings(folder(2), tmp_path / "m.safetensors"), CPU))
    shown = [event.message for event in events if isinstance(event, Working)]
    for words in ("Reading the labels of case1", "Counting the labels of case1", "Reading case1 by parts"):
        shares = [text.partition(": ")[2].partition(" %")[0] for text in shown if text.startswith(f"{words}: ")]
        assert len(shares) > 2, words
        assert shares[-1] == "100"
    assert sum(text.startswith("Reading intensities of case1: ") for text in shown) > 2


@pytest.mark.parametrize("count", [2, 5])
def test_a_training_by_parts_has_the_losses_and_the_dice_of_one_in_memory(
    folder, tmp_path: Path, monkeypatch, count: int
) -> None:
    data = folder(count)
    results = []
    for name in ("memory", "parts"):
        if name == "parts":
            without_room(monkeypatch)
        run = settings(data, tmp_path / f"{name}.safetensors", training={"steps": 8, "epochs": 2})
        result, events = done(train(run))
        validated = [event.dice for event in events if isinstance(event, EpochDone)]
        picture = RunFolder.beside(run.out).picture(1).read_bytes()
        losses = [event.loss for event in events if isinstance(event, StepDone)]
        results.append((losses, validated, picture, result.validation.dice))
    assert len(results[0][0]) == 16
    assert results[0] == results[1]


def test_turned_and_patches_beyond_the_edge_are_the_same(folder, tmp_path: Path, monkeypatch) -> None:
    run = settings(folder(2), tmp_path / "m.safetensors")
    whole, stored = prepared(run, monkeypatch)
    augment = run.training.augment.replace(p_rotate=0.7, p_scale=0.5, shift=0.5)
    drawn = []
    for setup in (whole, stored):
        sampler = PatchSampler(setup.train, (16, 24, 48), (1.0, 1.0, 1.0), 0.3, augment)
        drawn.append(sampler.draw(24, torch.Generator().manual_seed(3)))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])


def test_fine_tuning_by_parts_validates_its_start_and_chooses_as_in_memory(folder, tmp_path: Path, monkeypatch) -> None:
    data = folder(5)
    start, _ = done(train(settings(data, tmp_path / "start.safetensors")))
    results = []
    for name in ("memory", "parts"):
        if name == "parts":
            without_room(monkeypatch)
        values = {"data": data, "out": tmp_path / f"{name}.safetensors", "device": "cpu", "init": str(start.path)}
        run = resolve_run({**values, "training": {"epochs": 1, "steps": 2, "batch_size": 2}})
        result, events = done(train(run))
        said = [event.message for event in events if "start model" in getattr(event, "message", "")]
        results.append((result.before, result.validation.dice, said))
    assert results[0] == results[1]
    assert results[0][0]


@pytest.mark.parametrize(
    ("labels", "words"),
    [({"one_class": True, "separate": True}, "kept apart"), ({"gray": "threshold"}, "gray edges")],
)
def test_what_needs_the_whole_label_map_is_refused_before_any_is_read(
    folder, tmp_path: Path, no_room, monkeypatch, labels, words: str
) -> None:
    run = settings(folder(2), tmp_path / "m.safetensors", labels=labels)
    monkeypatch.setattr(LazyArray, "read", lambda *_: pytest.fail("voxels are read"))
    with pytest.raises(LabelError, match=words):
        done(prepare_run(run, CPU))


def test_a_gray_picture_and_negative_labels_are_refused(folder, tmp_path: Path, no_room) -> None:
    noise = np.random.default_rng(0).integers(0, 200, SHAPE, np.uint8)
    data = folder(2, change=lambda labels: noise)
    with pytest.raises(LabelError, match="not class numbers"):
        done(prepare_run(settings(data, tmp_path / "m.safetensors"), CPU))


def test_the_largest_cases_stay_on_the_disk_until_the_others_fit(folder, tmp_path: Path, monkeypatch) -> None:
    data = folder(5)
    voxels = int(np.prod(SHAPE))
    room = 3 * 6 * voxels + 2 * voxels + reading.PREPARING * voxels  # three of them, and one that is prepared
    monkeypatch.setattr(reading, "SHARE", 1.0)
    monkeypatch.setattr(reading, "LEAST", 0)
    monkeypatch.setattr("prosma_core.training.processes.free_memory", lambda _: room)
    setup, events = done(prepare_run(settings(data, tmp_path / "m.safetensors"), CPU))
    stored = [case.scan for case in (*setup.train, *setup.val) if case.stored is not None]
    assert sorted(stored) == ["case3", "case4"]
    (words,) = [event.message for event in events if "read by parts" in getattr(event, "message", "")]
    assert words.startswith("2 cases of 5 are read by parts (case3, case4)")


def test_a_scan_that_cannot_be_read_by_parts_and_does_not_fit_is_refused(folder, tmp_path: Path, monkeypatch) -> None:
    data = folder(2, suffix=".nii.gz")
    monkeypatch.setattr(reading, "LEAST", 0)
    monkeypatch.setattr("prosma_core.training.processes.free_memory", lambda _: 100)
    with pytest.raises(DeviceError, match=r"nii\.gz takes .* convert the scan"):
        done(prepare_run(settings(data, tmp_path / "m.safetensors"), CPU))


def test_ignored_voxels_stay_ignored(folder, tmp_path: Path, no_room) -> None:
    run = settings(folder(2), tmp_path / "m.safetensors", labels={"ignore": 3})
    setup, _ = done(prepare_run(run, CPU))
    values, counts = torch.unique(setup.val[0].labels[:, :, :], return_counts=True)
    assert values.tolist() == [IGNORED, 0, 1]
    assert all(counts > 0)


def test_labels_that_change_are_learned_in_memory_only(folder, tmp_path: Path, no_room) -> None:
    class Changed:
        pending = waits = wants_preview = True

    run = settings(folder(2), tmp_path / "m.safetensors", training={"steps": 2})
    result, events = done(train(run, live=Changed()))
    assert result.path.is_file()
    said = [event.message for event in events if isinstance(event, StageStarted)]
    assert said.count("Labels painted during training are not learned: scans are read by parts.") == 1
