"""Scans without a voxel size are never resampled in silence; a size that a person gives is used and kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from prosma_core.config import InferenceConfig, PreprocessConfig
from prosma_core.config.model import ChannelIntensity, VoxelSize
from prosma_core.config.training import PlanOptions
from prosma_core.data.geometry import METRES, array_spec, size_note, with_voxel_size
from prosma_core.data.grid import coarse_note, network_grid, unit_factor
from prosma_core.errors import ConfigError, DatasetError, GeometryError
from prosma_core.events import CaseDone, CaseFailed, StageStarted
from prosma_core.inference.files import FileOptions, segment_files
from prosma_core.inference.segment import Segmenter
from prosma_core.io.axes_units import OME_UNITS, ZARR_UNITS, parse_voxel_size
from prosma_core.io.images import read_labels, write_image
from prosma_core.io.notes import read_notes
from prosma_core.training.dataset_summary import grid_fingerprint
from prosma_core.training.plan import plan_preprocess

MM = PreprocessConfig(
    dims=3,
    channels=("image",),
    resample="spacing",
    spacing=(3, 1, 1),
    unit="mm",
    intensities=(ChannelIntensity(),),
    tile=(16,) * 3,
)


@pytest.mark.parametrize(
    ("text", "unit", "sizes", "found"),
    [
        ("3,1,1", None, (3, 1, 1), "mm"),
        ("0.5,0.2,0.2um", None, (0.5, 0.2, 0.2), "um"),
        ("0.5 x 0.2 × 0.2 µm", None, (0.5, 0.2, 0.2), "um"),
        ("0.5; 0.2; 0.2", "micron", (0.5, 0.2, 0.2), "um"),
        (" 2 1 1 mm ", None, (2, 1, 1), "mm"),
        ("1e-3,1e-3", "m", (1e-3, 1e-3), "m"),
        ("0.7cm", None, (0.7,), "cm"),
        ("5,5,5mm", "nm", (5, 5, 5), "nm"),
    ],
)
def test_a_voxel_size_is_read_as_people_write_it(
    text: str, unit: str | None, sizes: tuple[float, ...], found: str
) -> None:
    assert parse_voxel_size(text, unit) == VoxelSize(sizes=sizes, unit=found)


@pytest.mark.parametrize(
    "text", ["", "a,b,c", "0,1,1", "-1,1,1", "1,1,1,1", "nan,1,1", "inf", "1,1 parsec", "1e400", "mm"]
)
def test_what_is_no_voxel_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a voxel size: give numbers above 0 in the order z,y,x") as caught:
        parse_voxel_size(text)
    assert len(str(caught.value)) <= 400


def test_a_given_size_scales_the_grid_and_leaves_a_stated_one_alone() -> None:
    spec = array_spec((4, 5, 6), "zyx")
    given = with_voxel_size(spec, parse_voxel_size("3,1,2um"))
    assert (given.spacing, given.unit) == ((3, 1, 2), "um")
    np.testing.assert_array_equal(given.affine, np.diag([3, 1, 2, 1]))
    assert with_voxel_size(spec, parse_voxel_size("2")).spacing == (2, 2, 2)
    assert with_voxel_size(array_spec((2, 5, 6), "tyx"), parse_voxel_size("3,1,2")).spacing == (1, 2)
    stated = array_spec((4, 5, 6), "zyx", (1, 1, 1), "mm")
    assert with_voxel_size(stated, parse_voxel_size("3,1,2um")) is stated
    with pytest.raises(GeometryError, match="give z,y,x or one number"):
        with_voxel_size(spec, parse_voxel_size("3,1"))


@pytest.mark.parametrize(
    ("spacing", "unit", "shape", "note"),
    [
        (None, "pixel", (24, 20, 20), "Voxel size unknown: assumed that of the model's training scans (3 × 1 × 1 mm)"),
        ((3, 1, 1), "pixel", (24, 20, 20), "The voxel size 3 × 1 × 1 has no unit: mm is assumed"),
        ((1, 0.5, 0.5), "pixel", (8, 10, 10), "The voxel size 1 × 0.5 × 0.5 has no unit: mm is assumed"),
        ((1, 1, 1), "mm", (8, 20, 20), ""),
    ],
    ids=["unknown", "the model's", "a scale", "stated"],
)
def test_a_scan_of_unknown_size_keeps_its_own_grid(
    spacing: tuple[float, ...] | None, unit: str, shape: tuple[int, ...], note: str
) -> None:
    spec = array_spec((24, 20, 20), "zyx", spacing, unit)
    assert network_grid(spec, MM).shape == shape
    assert size_note(spec, MM).startswith(note)
    assert bool(size_note(spec, MM)) == bool(note)


def test_a_scan_of_which_resampling_leaves_nothing_is_refused() -> None:
    spec = array_spec((40, 64, 64), "zyx", (2, 0.5, 0.5), "um")
    said = (
        r"This scan \(40 x 64 x 64 voxels of 2 x 0.5 x 0.5 um\) would have 1 x 1 x 1 voxels for the model, which works "
        r"with voxels of 3 x 1 x 1 mm\. Its longest side needs 8 at least\. .* voxel size or unit of the scan is wrong"
    )
    with pytest.raises(GeometryError, match=said):
        network_grid(spec, MM)
    flat = MM.replace(dims=2, spacing=(0.5, 0.5), tile=(16, 16))
    with pytest.raises(
        GeometryError, match=r"\(300 x 200 pixels of .* 1 x 1 pixels for .* with pixels of 0.5 x 0.5 mm"
    ):
        network_grid(array_spec((300, 200), "yx", (0.5, 0.5), "um"), flat)


@pytest.mark.parametrize(
    ("shape", "spacing", "found"),
    [
        ((40, 64, 64), (0.1, 0.3, 0.3), "would have 1 x 19 x 19 voxels"),
        ((24, 64, 64), (0.5, 1, 1), "would have 4 x 64 x 64 voxels"),
        ((24, 64, 64), (2, 1, 1), ""),
        ((1, 64, 64), (1, 1, 1), ""),
        ((6, 6, 6), (3, 1, 1), ""),
        ((3, 7, 7), (2, 0.5, 0.5), ""),
    ],
    ids=["one left", "thin", "usual", "a slice", "a small scan", "half of a small scan"],
)
def test_what_resampling_leaves_is_a_warning_where_it_is_little(
    shape: tuple[int, ...], spacing: tuple[float, ...], found: str
) -> None:
    spec = array_spec(shape, "zyx", spacing, "mm")
    note = coarse_note(spec, MM, network_grid(spec, MM))
    assert (found in note) if found else note == ""


def test_a_scan_in_the_wrong_unit_fails_by_its_name_and_a_coarse_one_is_warned_of(
    tmp_path: Path, make_model: Callable[..., Path], rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"resample": "spacing", "spacing": (1, 1, 1), "unit": "mm"}
    segmenter = Segmenter.load(make_model(tmp_path / "m.safetensors", 3, **settings), torch.device("cpu"))
    for name, unit, size in (("small", "um", 2.0), ("thin", "mm", 0.25)):
        values = rng.normal(100, 20, (24, 40, 40)).astype(np.float32)
        write_image(tmp_path / f"{name}.ome.tif", values, array_spec(values.shape, "zyx", (size, 1, 1), unit))
    inputs = [tmp_path / "small.ome.tif", tmp_path / "thin.ome.tif"]
    events = list(segment_files(inputs, tmp_path / "out", segmenter, InferenceConfig()))
    failed = [event for event in events if isinstance(event, CaseFailed)]
    assert [event.name for event in failed] == ["small"]
    assert "would have 1 x 1 x 1 voxels" in failed[0].error
    assert [event.name for event in events if isinstance(event, CaseDone)] == ["thin"]
    assert sum("would have 6 x 40 x 40 voxels" in record.getMessage() for record in caplog.records) == 1


def test_a_picture_has_pixels() -> None:
    flat = MM.replace(dims=2, spacing=(0.5, 0.5), tile=(16, 16))
    assert size_note(array_spec((20, 20), "yx"), flat).startswith("Pixel size unknown: assumed that of")
    assert size_note(array_spec((20, 20), "yx", (2, 2)), flat).startswith("The pixel size 2 × 2 has no unit")


def test_models_that_need_no_size_say_nothing_of_it() -> None:
    for pre in (MM.replace(resample="none", spacing=()), MM.replace(unit="pixel")):
        assert size_note(array_spec((24, 20, 20), "zyx"), pre) == ""


def test_every_unit_of_files_can_be_converted() -> None:
    assert unit_factor("inch", "mm") == pytest.approx(25.4)
    assert set(OME_UNITS) == set(ZARR_UNITS) == set(METRES)
    assert set(VoxelSize.model_json_schema()["properties"]["unit"]["enum"]) == set(METRES)


def test_a_stack_without_a_size_is_segmented_voxel_by_voxel_and_a_given_size_is_kept(
    tmp_path: Path, make_model: Callable[..., Path], rng: np.random.Generator
) -> None:
    values = rng.normal(100, 20, (12, 16, 17)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values, metadata={"axes": "ZYX"}, imagej=True)
    write_image(tmp_path / "b.ome.tif", values, array_spec(values.shape, "zyx", (3, 1, 1), "mm"))
    settings = {"resample": "spacing", "spacing": (3, 1, 1), "unit": "mm"}
    segmenter = Segmenter.load(make_model(tmp_path / "m.safetensors", 3, **settings), torch.device("cpu"))
    inputs = [tmp_path / "a.tif", tmp_path / "b.ome.tif"]

    def run(name: str, size: VoxelSize | None) -> list[str]:
        events = list(
            segment_files(inputs, tmp_path / name, segmenter, InferenceConfig(), FileOptions(voxel_size=size))
        )
        assert sum(isinstance(event, CaseDone) for event in events) == 2
        return [event.message for event in events if isinstance(event, StageStarted)]

    said = run("unknown", None)
    assert not any("resampled for the model" in line for line in said)
    assert sum("Voxel size unknown" in line and "--spacing" in line for line in said) == 1
    unknown, stated = (read_labels(tmp_path / "unknown" / path.name) for path in inputs)
    np.testing.assert_array_equal(unknown.data, stated.data)  # as of the same voxels of the model's size
    assert unknown.spec.unit == "pixel"
    said = run("given", parse_voxel_size("1.5,1,1"))
    assert any("resampled for the model to 6x16x17" in line for line in said)
    assert any("b states a voxel size of its own" in line for line in said)
    given = read_labels(tmp_path / "given" / "a.tif").spec
    assert (given.spacing, given.unit) == ((1.5, 1, 1), "mm")
    notes = [
        read_notes(tmp_path / name).get("voxel_size") for name in ("given/a.tif", "given/b.ome.tif", "unknown/a.tif")
    ]
    assert notes == ["1.5,1,1mm", None, None]


def test_training_scans_with_and_without_a_size_are_not_mixed() -> None:
    specs = [array_spec((9, 32, 32), "zyx", (1, 1, 1), "mm"), array_spec((9, 32, 32), "zyx")]
    prints = [grid_fingerprint(spec, 3) for spec in specs]
    with pytest.raises(DatasetError, match=r"Of 2 images, 1 has no voxel size.*--spacing"):
        plan_preprocess(prints, 3, PlanOptions(), ("image",))
    sized = [grid_fingerprint(with_voxel_size(spec, parse_voxel_size("1")), 3) for spec in specs]
    assert plan_preprocess(sized, 3, PlanOptions(), ("image",)).spacing == (1, 1, 1)


def _save(path: Path, shape: tuple[int, ...], axes: str) -> Path:
    data = np.random.default_rng(len(path.name)).integers(0, 200, shape).astype(np.uint8)
    write_image(path, data, array_spec(shape, axes, (1, 1), "mm"))
    return path


@pytest.mark.parametrize(
    ("channels", "shape", "axes", "names"),
    [
        (("t1", "t2"), (16, 17), "yx", ["patient"]),
        (("t1", "t2"), (2, 16, 17), "cyx", ["patient_0000", "patient_0001"]),
        (("t1", "t2"), (2, 16, 17), "tyx", ["patient_0000", "patient_0001"]),
        (("image",), (16, 17), "yx", ["patient_0000", "patient_0001"]),
    ],
    ids=["a file a channel", "all channels in each", "channels as times", "one channel"],
)
def test_patients_whose_names_end_like_channel_numbers_stay_apart(
    channels: tuple[str, ...], shape: tuple[int, ...], axes: str, names: list[str], tmp_path: Path, make_model: Any
) -> None:
    segmenter = Segmenter.load(make_model(tmp_path / "m.safetensors", 2, channels), torch.device("cpu"))
    inputs = [_save(tmp_path / f"patient_000{n}.ome.tif", shape, axes) for n in range(2)]
    events = list(segment_files(inputs, tmp_path / "out", segmenter, InferenceConfig()))
    found = [event.name for event in events if isinstance(event, CaseDone | CaseFailed)]
    assert found == names


def test_files_are_never_taken_for_the_colors_of_a_picture(tmp_path: Path, make_model: Any) -> None:
    model = make_model(tmp_path / "m.safetensors", 2, ("red", "green", "blue"))
    segmenter = Segmenter.load(model, torch.device("cpu"))
    inputs = [_save(tmp_path / f"case_000{n}.png", (16, 17), "yx") for n in range(3)]
    events = list(segment_files(inputs, tmp_path / "out", segmenter, InferenceConfig()))
    assert [event.name for event in events if isinstance(event, CaseDone)] == ["case_0000", "case_0001", "case_0002"]
