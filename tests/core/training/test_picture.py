"""The picture of each validation shows the annotated slice, what was annotated, and what was found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prosma_core.config import ClassInfo
from prosma_core.data.geometry import whole
from prosma_core.data.labels import IGNORED
from prosma_core.errors import OutputError
from prosma_core.io.raster import PICTURE_GAP, PICTURE_SIDE
from prosma_core.training.cases import TrainingCase
from prosma_core.training.validate import CasePicture

CLASSES = (
    ClassInfo(value=0, name="background", color="#000000"),
    ClassInfo(value=1, name="rim", color="#ff0000"),
    ClassInfo(value=5, name="core", color="#0000ff"),
)


def case_of(labels: np.ndarray, channels: int = 1, *, sparse: bool = False) -> TrainingCase:
    """Return a case whose image is brighter where there are labels."""
    image = torch.from_numpy(np.stack([(labels > 0) * 1.0 + c for c in range(channels)]).astype(np.float32))
    points = torch.zeros((1, labels.ndim), dtype=torch.int64) if sparse else None
    return TrainingCase("a", image, torch.from_numpy(labels.astype(np.int16)), [], points)


def square(labels: np.ndarray, value: int = 1) -> np.ndarray:
    labels[..., 8:24, 8:24] = value
    return labels


def halves(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    width = (picture.shape[1] - PICTURE_GAP) // 2
    return picture[:, :width], picture[:, width + PICTURE_GAP :]


def test_a_picture_holds_the_image_the_annotated_outline_and_what_was_found() -> None:
    case = case_of(square(np.zeros((32, 32))))
    picture = CasePicture([case], (1.0, 1.0), CLASSES)
    found = torch.zeros((32, 32), dtype=torch.int64)
    found[0:4] = 2
    picture.take(case, whole(tuple(found.shape)), found)
    plain, drawn = halves(picture.draw())
    assert plain.shape == drawn.shape == (PICTURE_SIDE, PICTURE_SIDE, 3)
    zoom = PICTURE_SIDE // 32
    assert {tuple(v) for v in plain.reshape(-1, 3).tolist()} == {(0, 0, 0), (255, 255, 255)}
    outline = (drawn == (255, 0, 0)).all(-1)
    assert outline[8 * zoom, 12 * zoom]
    assert outline[12 * zoom, 24 * zoom]
    assert not outline[16 * zoom, 16 * zoom]
    assert tuple(drawn[2 * zoom, 2 * zoom]) == (0, 0, 115)  # 45 % of blue over black
    assert tuple(drawn[16 * zoom, 16 * zoom]) == (255, 255, 255)


def test_the_slice_with_most_labels_of_the_case_with_most_is_shown() -> None:
    little, much = np.zeros((4, 32, 32)), np.zeros((4, 32, 32))
    little[0, :4], much[1, :4] = 1, 1
    square(much[2])
    cases = [case_of(little), case_of(much)]
    picture = CasePicture(cases, (3.0, 1.0, 1.0), CLASSES)
    for case, index in zip(cases, (0, 2), strict=True):
        found = torch.zeros((4, 32, 32), dtype=torch.int64)
        found[index, 28:] = 2
        picture.take(case, whole(tuple(found.shape)), found)
    plain, drawn = halves(picture.draw())
    assert plain.shape == (PICTURE_SIDE, PICTURE_SIDE, 3)
    zoom = PICTURE_SIDE // 32
    assert plain[16 * zoom, 16 * zoom].min() == 255
    assert plain[1, 1].max() == 0
    assert tuple(drawn[30 * zoom, 2]) == (0, 0, 115)


def test_a_sparse_volume_is_shown_across_its_annotated_axis_with_square_voxels() -> None:
    labels = np.full((10, 32, 32), IGNORED)
    labels[:, 7] = 0
    labels[2:8, 7, 8:24] = 1
    picture = CasePicture([case_of(labels, sparse=True)], (2.0, 1.0, 1.0), CLASSES)
    plain, drawn = halves(picture.draw())
    assert plain.shape == (round(PICTURE_SIDE * 20 / 32), PICTURE_SIDE, 3)
    assert plain[len(plain) // 2, PICTURE_SIDE // 2].min() == 255
    assert (drawn == (255, 0, 0)).all(-1).any()


@pytest.mark.parametrize(("channels", "colored"), [(2, False), (3, True)])
def test_three_channels_are_colors_of_others_the_first_is_shown(channels: int, colored: bool) -> None:
    plain, _ = halves(CasePicture([case_of(square(np.zeros((32, 32))), channels)], (1.0, 1.0), CLASSES).draw())
    assert bool((plain != plain[..., :1]).any()) == colored


def test_a_picture_is_written_whole_or_said_not_to_be(tmp_path: Path) -> None:
    picture = CasePicture([case_of(square(np.zeros((32, 32))))], (1.0, 1.0), CLASSES)
    path = tmp_path / "preview" / "epoch-0001.png"
    picture.write(path)
    with Image.open(path) as file:
        np.testing.assert_array_equal(np.asarray(file), picture.draw())
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(OutputError, match="Cannot write"):
        picture.write(tmp_path / "file" / "epoch-0001.png")
