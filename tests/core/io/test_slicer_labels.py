"""Segmentations of 3D Slicer as labels: cropped to what is segmented, with names for their values."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from prosma_core.config.training import resolve_run
from prosma_core.data.geometry import ImageSpec, Scan, spacing_affine
from prosma_core.data.pair_check import pasted
from prosma_core.data.phantom import phantom_3d
from prosma_core.errors import DatasetError, GeometryError
from prosma_core.events import StageStarted
from prosma_core.io.dataset_folder import Case, open_dataset, read_case
from prosma_core.io.images import write_image
from prosma_core.training.prepare import prepare_run

NAMES = ("organ", "lesion")
SPACING = (2.0, 0.5, 0.5)


def save_segments(
    path: Path, labels: np.ndarray, first: tuple[int, ...], names: tuple[str, ...] = NAMES, shift: float = 0.0
) -> Path:
    """Write labels as 3D Slicer does: in left-posterior-superior, from voxel `first` (z, y, x) of the scan on."""
    corner = [i * s for i, s in zip(first, SPACING, strict=True)]
    header = (
        "NRRD0004\ntype: unsigned char\ndimension: 3\nspace: left-posterior-superior\n"
        f"sizes: {' '.join(map(str, labels.shape[::-1]))}\nspace directions: (-0.5,0,0) (0,-0.5,0) (0,0,2)\n"
        f"kinds: domain domain domain\nencoding: gzip\nspace origin: ({-corner[2] + shift},{-corner[1]},{corner[0]})\n"
    )
    for i, name in enumerate(names):
        header += f"Segment{i}_ID:=Segment_{i + 1}\nSegment{i}_Name:={name}\nSegment{i}_LabelValue:={i + 1}\n"
        header += f"Segment{i}_Layer:=0\nSegment{i}_Color:=1 0 0\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.encode() + b"\n" + gzip.compress(np.ascontiguousarray(labels).tobytes()))
    return path


def cropped(labels: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """Labels cut to what is labeled, and the first voxel of the box."""
    places = np.argwhere(labels)
    low, high = places.min(0), places.max(0) + 1
    return labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], tuple(low.tolist())


def save_scan(path: Path, seed: int) -> np.ndarray:
    """Write a scan; return its labels."""
    scan, labels = phantom_3d(seed, (12, 40, 40))
    path.parent.mkdir(parents=True, exist_ok=True)
    spec = ImageSpec("zyx", scan.data.shape, SPACING, "mm", spacing_affine(SPACING), "ras")
    write_image(path, scan.data, spec)
    return np.asarray(labels.data, np.uint8)


def test_cropped_segments_are_pasted_onto_the_scans_grid(tmp_path: Path) -> None:
    truth = save_scan(tmp_path / "images" / "a.nrrd", 3)
    box, first = cropped(truth)
    assert box.shape != truth.shape
    save_segments(tmp_path / "labels" / "a.seg.nrrd", box, first)
    (case,) = open_dataset(tmp_path).cases.values()  # a.seg.nrrd is the label file of a.nrrd
    image, labels = read_case(case)
    assert np.array_equal(labels.data, truth)
    assert np.array_equal(labels.spec.affine, image.spec.affine)


def test_segments_between_the_scans_voxels_or_outside_of_it_are_refused(tmp_path: Path) -> None:
    truth = save_scan(tmp_path / "a.nrrd", 3)
    box, first = cropped(truth)
    between = save_segments(tmp_path / "b.seg.nrrd", box, first, shift=0.2)
    outside = save_segments(tmp_path / "c.seg.nrrd", box, (10, 0, 0))
    for path in (between, outside):
        with pytest.raises(GeometryError, match="different grids"):
            read_case(Case("a", (tmp_path / "a.nrrd",), path))


def test_empty_margins_outside_of_the_scan_are_cut_off() -> None:
    spec = ImageSpec("zyx", (4, 5, 6), (1.0,) * 3, "mm", np.eye(4), "ras")
    moved = np.eye(4)
    moved[:3, 3] = -1
    data = np.zeros((6, 7, 8), np.uint8)
    data[1:5, 1:6, 1:7] = np.arange(120).reshape(4, 5, 6)
    found = pasted(Scan(data, ImageSpec("zyx", data.shape, (1.0,) * 3, "mm", moved, "ras")), spec)
    assert found is not None
    assert np.array_equal(found.data, data[1:5, 1:6, 1:7])
    data[0, 3, 3] = 1
    assert pasted(Scan(data, ImageSpec("zyx", data.shape, (1.0,) * 3, "mm", moved, "ras")), spec) is None


def prepared(root: Path, tmp_path: Path):
    run = resolve_run(
        {
            "device": "cpu",
            "data": root,
            "out": tmp_path / "m.safetensors",
            "network": {"width": 4, "max_width": 8, "max_stages": 2},
            "preprocess": {"tile_voxels": 4096},
        }
    )
    work, events = prepare_run(run, torch.device("cpu")), []
    while True:
        try:
            events.append(next(work))
        except StopIteration as stop:
            return stop.value, [e.message for e in events if isinstance(e, StageStarted)]


def test_names_of_segments_are_those_of_the_classes_unless_two_files_differ(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for seed in (3, 4):
        truth = save_scan(root / "images" / f"s{seed}.nrrd", seed)
        save_segments(root / "labels" / f"s{seed}.seg.nrrd", *cropped(truth))
    setup, said = prepared(root, tmp_path)
    assert [(c.value, c.name) for c in setup.header.classes] == [(0, "background"), (1, "organ"), (2, "lesion")]
    assert any("organ (1) in " in words and "lesion (2) in " in words for words in said)
    save_segments(root / "labels" / "s4.seg.nrrd", *cropped(truth), names=NAMES[::-1])
    with pytest.raises(DatasetError, match=r"Value 1 is 'lesion' in s4.seg.nrrd and 'organ' in another label file"):
        prepared(root, tmp_path)
