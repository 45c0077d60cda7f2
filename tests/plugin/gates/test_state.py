"""From choices to a request, without a window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from napari.layers import Image

from napari_prosma.gates.state import GateEdits, InspectChoices, InspectPlan, level_facts, map_bytes, resolve
from napari_prosma.layers.scan import read
from napari_prosma.scan.selection import Problem
from prosma_core.config.inspection import InspectConfig, LevelEdit
from prosma_core.config.model import GateConfig
from prosma_core.io.bundle import ModelEntry, read_header, shipped_models


def entry(name: str, kind: str = "prosma") -> ModelEntry:
    path = shipped_models()[name]
    header = read_header(path)
    network = header.model.replace(gate=GateConfig(kind=kind))
    return ModelEntry(path, header.replace(model=network), shipped=True)


def choices(shape: tuple[int, ...] = (12, 40, 44), model: str = "phantom-3d", kind: str = "prosma") -> InspectChoices:
    scale = (3.0, 1.0, 1.0)[-len(shape) :]  # voxels of the phantom's model
    phantom = {"prosma": {"synthetic": "phantom"}}  # for which nothing is doubted
    image = Image(np.zeros(shape, np.float32), name="scan", scale=scale, metadata=phantom)
    return InspectChoices(scan=read(image), model=entry(model, kind))


def planned(given: InspectChoices, region: tuple[tuple[int, int], ...] | None = None) -> InspectPlan:
    plan = resolve(given, region)
    assert isinstance(plan, InspectPlan)
    return plan


def test_a_valid_choice_asks_for_all_levels() -> None:
    plan = planned(choices())
    assert plan.request.config == InspectConfig()
    assert ["has no unit: mm is assumed" in note for note in plan.notes] == [True]


def test_levels_part_and_maps_go_into_the_request() -> None:
    given = replace(choices(), without=frozenset({1}), options=InspectConfig(maps=("removed",)), part="slice")
    config = planned(given, ((5, 6), (0, 40), (0, 44))).request.config
    assert (config.levels, config.maps, config.region) == ((0, 2, 3), ("removed",), ((5, 6), (0, 40), (0, 44)))


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        (InspectChoices(), "image", "Open a scan"),
        (choices((40, 44)), "model", "The model is 3D"),
        (choices(kind="none"), "model", "plain U-Net"),
        (replace(choices(), without=frozenset(range(4))), "levels", "at least one"),
        (replace(choices(), part="view"), "part", "Nothing of the scan is in view"),
    ],
)
def test_what_is_missing_is_said_under_its_field(given: InspectChoices, field: str, words: str) -> None:
    problem = resolve(given, None)
    assert isinstance(problem, Problem)
    assert problem.field == field
    assert words in problem.text


def test_of_an_attention_gate_there_are_its_weights_and_that_is_said() -> None:
    plan = planned(choices(kind="attention"))
    assert plan.request.config.maps == ("gate", "energy")
    assert any("removes none" in note for note in plan.notes)


def test_levels_are_known_beforehand() -> None:
    facts = level_facts(entry("phantom-3d").header.model)
    assert [(f.level, f.step, f.channels) for f in facts][:3] == [
        (0, (1, 1, 1), 16),
        (1, (1, 2, 2), 32),
        (2, (2, 4, 4), 64),
    ]
    assert level_facts(entry("phantom-3d", "none").header.model) == ()


def test_the_size_of_the_maps_is_that_of_their_voxels_and_large_maps_are_announced() -> None:
    given = replace(choices(), options=InspectConfig(levels=(0,), maps=("kept", "removed")))
    assert map_bytes(given.scan, given.model, given.options) == 12 * 40 * 44 * (16 + 2)
    large = planned(replace(choices((200, 400, 400))))
    assert any("GiB" in note for note in large.notes)


def test_a_slice_of_a_2d_model_is_counted_once() -> None:
    given = choices((30, 64, 64), "breast-lesion-us")
    one = planned(replace(given, part="slice"), ((5, 6), (0, 64), (0, 64)))
    all_of_it = planned(given)
    sizes = [map_bytes(given.scan, given.model, plan.request.config) for plan in (one, all_of_it)]
    assert sizes[1] == 30 * sizes[0]


def test_changes_are_kept_level_by_level_and_none_are_left_when_all_is_as_learned() -> None:
    edits = GateEdits().change(2, threshold=0.0).change(0, state="open").change_channel(2, 7, "closed")
    assert edits.ordered == (
        LevelEdit(level=0, state="open"),
        LevelEdit(level=2, threshold=0.0, closed_channels=(7,)),
    )
    assert edits.text() == "level 0: open; level 2: threshold × 0, channel 7 closed"
    assert edits.channel(2, 7) == "closed"
    edits = edits.change_channel(2, 7, "open")
    assert edits.of(2).open_channels == (7,)
    assert edits.of(2).closed_channels == ()
    undone = edits.change_channel(2, 7, "learned").change(2, threshold=1.0).change(0, state="learned")
    assert undone.ordered == ()
