"""From choices to a request, without a window."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from napari.layers import Image

from napari_prosma.layers.scan import read
from napari_prosma.scan.selection import Problem, fits
from napari_prosma.segment.state import SegmentChoices, SegmentPlan, resolve, run_command, run_command_note, save_path
from prosma_core.cli.main import app
from prosma_core.config.inference import InferenceConfig
from prosma_core.errors import ConfigError
from prosma_core.io.bundle import ModelEntry, read_header, shipped_models


def entry(name: str) -> ModelEntry:
    path = shipped_models()[name]
    return ModelEntry(path, read_header(path), shipped=True)


def choices(shape: tuple[int, ...] = (12, 40, 44), model: str = "phantom-3d", **layer: object) -> SegmentChoices:
    phantom = {"prosma": {"synthetic": "phantom", "modality": "US"}}  # for which nothing is doubted
    image = Image(np.zeros(shape, np.float32), name="scan", **{"metadata": phantom, **layer})
    return SegmentChoices(scan=read(image), model=entry(model))


def test_a_valid_choice_gives_a_request_named_after_scan_and_model() -> None:
    plan = resolve(choices(), None)
    assert isinstance(plan, SegmentPlan)
    assert plan.result_name == "scan phantom-3d"
    assert Path(plan.request.model).name == "phantom-3d.safetensors"
    assert plan.request.config == InferenceConfig()
    assert len(plan.notes) == 1
    assert plan.notes[0].startswith("Voxel size unknown")


def test_a_scan_of_which_the_model_sees_too_little_is_refused_or_noted() -> None:
    small = choices((40, 64, 64), scale=(2, 0.5, 0.5), units="um")
    problem = resolve(small, None)
    assert isinstance(problem, Problem)
    assert problem.field == "model"
    assert "(40 x 64 x 64 voxels of 2 x 0.5 x 0.5 um) would have 1 x 1 x 1 voxels for the model" in problem.text
    plan = resolve(choices((40, 64, 64), scale=(0.1, 1, 1), units="mm"), None)
    assert isinstance(plan, SegmentPlan)
    assert any("few are left along an axis" in note for note in plan.notes)
    plan = resolve(choices((40, 64, 64), scale=(3, 1, 1), units="mm"), None)
    assert isinstance(plan, SegmentPlan)
    assert plan.notes == ()


def test_the_name_given_by_hand_wins() -> None:
    plan = resolve(replace(choices(), name="mine"), None)
    assert isinstance(plan, SegmentPlan)
    assert plan.result_name == "mine"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CT/MR liver", "scan_CT_MR liver.nii.gz"),
        ("../../etc/x", "scan__.._etc_x.nii.gz"),
        ("\u202e\x1b[31m", "scan___[31m.nii.gz"),
        ("肝" * 150, f"scan_{'肝' * 50}.nii.gz"),
    ],
)
def test_a_result_is_saved_under_a_safe_name_whatever_the_model_is_called(
    name: str, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "scan.nii.gz"
    path.touch()
    given = choices(metadata={"prosma": {"path": str(path)}})
    assert given.model is not None
    plan = resolve(replace(given, model=replace(given.model, header=given.model.header.replace(name=name))), None)
    assert isinstance(plan, SegmentPlan)
    assert save_path(plan) == tmp_path / expected
    corrected = expected.replace(".nii.gz", "_corrected.nii.gz")
    assert save_path(plan, corrected=True) == tmp_path / corrected
    assert save_path(replace(plan, scan=replace(plan.scan, path=tmp_path / f"{'s' * 240}.nii"))) is None  # not there


def test_workers_are_in_the_request_and_in_the_command() -> None:
    plan = resolve(replace(choices(), workers=True, address="local:2"), None)
    assert isinstance(plan, SegmentPlan)
    assert plan.request.on == "local:2"
    assert run_command(plan).endswith(" --on local:2")
    plan = resolve(replace(choices(), address="local:2", device_error="no GPU here"), None)
    assert isinstance(plan, Problem)
    assert isinstance(
        resolve(replace(choices(), workers=True, address="local", device_error="none"), None), SegmentPlan
    )


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        (SegmentChoices(), "image", "Open a scan"),
        (SegmentChoices(scan_error="Axes 'q' cannot be used"), "axes", "Axes 'q'"),
        (replace(choices(), model=None), "model", "No shipped model is meant for this scan"),
        (choices((40, 44)), "model", "The model is 3D, the image 2D"),
    ],
)
def test_what_is_missing_is_said_under_its_field(given: SegmentChoices, field: str, words: str) -> None:
    problem = resolve(given, None)
    assert isinstance(problem, Problem)
    assert problem.field == field
    assert words in problem.text


def test_channels_that_do_not_fit_are_refused() -> None:
    image = Image(np.zeros((4, 12, 40, 44), np.float32), name="scan")
    problem = resolve(SegmentChoices(scan=read(image, "czyx"), model=entry("phantom-3d")), None)
    assert isinstance(problem, Problem)
    assert "4 channels" in problem.text


def test_a_part_that_is_not_in_view_is_refused() -> None:
    problem = resolve(replace(choices(), part="view"), None)
    assert isinstance(problem, Problem)
    assert problem.field == "part"


def test_a_slice_for_a_3d_model_is_explained() -> None:
    plan = resolve(replace(choices(), part="slice"), ((5, 6), (0, 40), (0, 44)))
    assert isinstance(plan, SegmentPlan)
    assert plan.request.config.region == ((5, 6), (0, 40), (0, 44))
    assert "neighboring slices" in " ".join(plan.notes)


def test_a_2d_model_walks_through_a_3d_scan_along_the_chosen_axis() -> None:
    given = choices(model="breast-lesion-us")
    automatic = resolve(given, None)
    along_x = resolve(replace(given, options=InferenceConfig(slice_axis="x")), None)
    assert isinstance(automatic, SegmentPlan)
    assert isinstance(along_x, SegmentPlan)
    assert automatic.notes == ("The model is 2D: the 12 slices along z are segmented one by one.",)
    assert along_x.notes == ("The model is 2D: the 44 slices along x are segmented one by one.",)


def test_time_points_are_announced() -> None:
    plan = resolve(choices((5, 12, 40, 44)), None)
    assert isinstance(plan, SegmentPlan)
    assert plan.notes[-1] == "5 time points are segmented one by one."


def test_the_region_is_left_out_for_the_whole_scan() -> None:
    plan = resolve(choices(), ((5, 6), (0, 40), (0, 44)))
    assert isinstance(plan, SegmentPlan)
    assert plan.request.config.region is None


def test_models_that_fit_are_told_from_others() -> None:
    flat = choices((40, 44)).scan
    assert flat is not None
    assert fits(flat, entry("breast-lesion-us"))
    assert not fits(flat, entry("hippocampus-mri"))


def test_facts_of_a_model_are_one_line() -> None:
    facts = entry("hippocampus-mri").facts
    assert facts.startswith("3D · 1 channel · 1 × 1 × 1 mm · anterior hippocampus, posterior hippocampus")
    assert "validation Dice 0.885" in facts
    assert "· 0.8 × 0.8 × 0.8 mm ·" in entry("fetal-brain-mri").facts  # 0.799999 in the header


def test_colors_that_are_turned_to_gray_are_announced() -> None:
    image = Image(np.zeros((40, 44, 3), np.uint8), name="picture", rgb=True)
    plan = resolve(SegmentChoices(scan=read(image), model=entry("breast-lesion-us")), None)
    assert isinstance(plan, SegmentPlan)
    assert plan.notes == ("Colors are turned to gray: the model takes one channel.",)


def test_a_slice_for_a_2d_model_is_one_slice() -> None:
    given = replace(choices(model="breast-lesion-us"), part="slice")
    plan = resolve(given, ((5, 6), (0, 40), (0, 44)))
    assert isinstance(plan, SegmentPlan)
    assert plan.notes == ()


def test_the_run_command_of_what_is_in_no_file_says_what_its_scan_stands_for(tmp_path: Path) -> None:
    plan = resolve(choices(), None)
    assert isinstance(plan, SegmentPlan)
    assert " SCAN " in run_command(plan)
    assert "\n" not in run_command(plan)  # it is copied and run as it is
    assert "File > Save Selected Layers" in run_command_note(plan.scan)
    assert run_command_note(replace(plan.scan, path=tmp_path / "x.nii")) == ""


REGION = ((1, 9), (2, 30), (3, 31))
OTHER = {"overlap": 0.123456789, "threshold": 0.3, "min_size": 12, "region": REGION, "slice_axis": "y"}
"""A value that is not the default; the other settings are switches."""


@pytest.mark.parametrize("name", sorted(InferenceConfig.model_fields.keys() - {"batch_size"}))
def test_every_setting_is_in_the_run_command_and_reaches_the_command_line(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = OTHER.get(name, True)
    options = InferenceConfig.model_validate({name: value})
    plan = resolve(replace(choices(), options=options, part="view" if name == "region" else "whole"), REGION)
    assert isinstance(plan, SegmentPlan)
    seen: dict[str, Any] = {}

    def stop(values: dict[str, Any], what: str) -> InferenceConfig:
        seen.update(values)
        raise ConfigError(what)

    monkeypatch.setattr(InferenceConfig, "parse", stop)
    verb, *arguments = shlex.split(run_command(plan).removeprefix("prosma "))
    with pytest.raises(ConfigError, match="command line"):
        typer.main.get_command(app).commands[verb].main(arguments, standalone_mode=False)  # type: ignore[attr-defined]
    assert seen[name] == value
    default = InferenceConfig()
    assert [other for other in seen if seen[other] != getattr(default, other)] == [name]
