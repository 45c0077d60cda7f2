"""What the maps say at a voxel, and the files they become."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from napari.layers import Image
from tests.plugin.gates.conftest import made_up
from tests.plugin.gates.test_state import choices, planned

from napari_prosma.gates.job import InspectionResult, at_voxel, channel_table, check_place, write_maps, write_numbers
from napari_prosma.gates.state import resolve
from napari_prosma.layers.scan import read
from prosma_core.data.geometry import array_spec
from prosma_core.errors import OutputError
from prosma_core.io.images import read_image, write_image

REGION = ((4, 12), (8, 40), (0, 44))


@pytest.fixture
def found() -> InspectionResult:
    scan = Image(np.zeros((12, 40, 44), np.float32), name="scan", scale=(3, 1, 2), units=("mm",) * 3)
    given = choices()
    plan = planned(type(given)(scan=read(scan), model=given.model, part="view"), REGION)
    return InspectionResult(plan, *made_up(plan))


def test_a_voxel_has_the_values_of_the_map_voxel_that_covers_it(found: InspectionResult) -> None:
    rows = at_voxel(found, 2, {"z": 7, "y": 21, "x": 30})
    z, tau = found.arrays["level2/field"][:, 1, 3, 7].astype(float), np.array(found.level(2).thresholds)
    assert rows is not None
    assert list(rows.columns) == ["z1", "z2", "z4", "z", "τ"]
    np.testing.assert_array_equal(rows.columns["z"], z[rows.channels])
    np.testing.assert_array_equal(rows.columns["z2"], found.arrays["level2/scale2"][rows.channels, 1, 3, 7])
    np.testing.assert_array_equal(rows.kept, found.arrays["level2/kept"][rows.channels, 1, 3, 7])
    above = np.abs(rows.columns["z"]) - rows.columns["τ"]
    np.testing.assert_array_equal(above, np.sort(np.abs(z) - tau)[::-1])


def test_outside_of_the_part_there_is_nothing(found: InspectionResult) -> None:
    assert at_voxel(found, 0, {"z": 3, "y": 21, "x": 30}) is None
    assert at_voxel(found, 0, {"z": 4, "y": 8, "x": 0}) is not None


def test_without_the_mask_kept_is_what_lies_above_the_threshold(found: InspectionResult) -> None:
    arrays = {name: array for name, array in found.arrays.items() if "kept" not in name}
    less = InspectionResult(found.plan, found.inspection, arrays)
    voxel = {"z": 7, "y": 21, "x": 30}
    np.testing.assert_array_equal(at_voxel(less, 1, voxel).kept, at_voxel(found, 1, voxel).kept)
    form = InspectionResult(found.plan, found.inspection.replace(form="nonnegative"), arrays)
    rows = at_voxel(form, 1, voxel)
    np.testing.assert_array_equal(rows.kept, rows.columns["z"] > rows.columns["τ"])


def test_the_table_has_a_row_for_each_level_and_channel(found: InspectionResult) -> None:
    rows = list(csv.DictReader(io.StringIO(channel_table(found))))
    assert len(rows) == sum(1 + s.channels for s in found.inspection.levels)
    summary = found.level(1)
    row = next(r for r in rows if (r["level"], r["channel"]) == ("1", "3"))
    assert float(row["threshold"]) == summary.thresholds[3]
    assert float(row["removed"]) == summary.channel_removed[3]


def test_numbers_become_csv_or_json(found: InspectionResult, tmp_path: Path) -> None:
    write_numbers(tmp_path / "a.csv", found, {}, ())()
    assert (tmp_path / "a.csv").read_text().startswith("level,channel,threshold")
    write_numbers(tmp_path / "a.json", found, {"model": "m"}, ())()
    read_back = json.loads((tmp_path / "a.json").read_text())
    assert read_back["provenance"] == {"model": "m"}
    assert len(read_back["inspection"]["levels"]) == len(found.inspection.levels)


@pytest.mark.parametrize("suffix", [".nii.gz", ".zarr"])
def test_maps_become_files_that_lie_on_the_scan(found: InspectionResult, suffix: str, tmp_path: Path) -> None:
    kept = {n: a for n, a in found.arrays.items() if n in {"level1/removed", "level1/field"}}
    write_maps(tmp_path / "maps", InspectionResult(found.plan, found.inspection, kept), {}, suffix)()
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == [
        f"level1_{n}{suffix}" for n in ("field", "removed")
    ]
    again = read_image(tmp_path / "maps" / f"level1_removed{suffix}")
    np.testing.assert_allclose(again.spec.affine @ (0, 0, 0, 1), (3 * 4, 8.5, 1, 1))
    assert again.spec.spacing == pytest.approx((3, 2, 4))
    np.testing.assert_array_equal(again.data, kept["level1/removed"])


def test_a_folder_that_is_there_is_never_replaced(found: InspectionResult, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(OutputError, match="there already"):
        write_maps(tmp_path, found, {}, ".zarr")()
    assert (tmp_path / "precious.txt").exists()


def test_an_attention_gate_has_weights_and_nothing_is_kept_or_removed() -> None:
    plan = resolve(choices(kind="attention"), None)
    found = InspectionResult(plan, *made_up(plan))
    rows = at_voxel(found, 0, {"z": 1, "y": 1, "x": 1})
    assert rows is not None
    assert list(rows.columns) == ["a"]
    assert rows.kept is None


def test_numbers_and_plots_replace_only_their_like_and_no_file_of_a_layer(
    found: InspectionResult, tmp_path: Path
) -> None:
    scan = tmp_path / "scan.png"
    write_image(scan, np.zeros((4, 5), np.uint8), array_spec((4, 5), "yx"))
    with pytest.raises(OutputError, match="would replace the input"):
        check_place(scan, [scan])
    for name in ("a.csv", "a.json"):
        (tmp_path / name).write_text("patient,age\n")
        with pytest.raises(OutputError, match="is never replaced"):
            check_place(tmp_path / name, [scan])
        (tmp_path / name).unlink()
        write_numbers(tmp_path / name, found, {}, ())()
        check_place(tmp_path / name, [scan])
    check_place(tmp_path / "new.png", [scan])
