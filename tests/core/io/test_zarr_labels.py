"""Label maps of OME-Zarr: in the `labels` group of their image, with names, colors and coarser levels."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from prosma_core.config.model import ClassInfo
from prosma_core.data.geometry import ImageSpec, spacing_affine
from prosma_core.errors import OutputError
from prosma_core.io import zarr_labels
from prosma_core.io.class_notes import classes_note, noted_classes
from prosma_core.io.images import read_image, read_labels, write_image, write_labels
from prosma_core.io.notes import read_notes
from prosma_core.io.output_plan import OutputPlan
from prosma_core.io.zarr_images import open_zarr
from prosma_core.io.zarr_labels import LARGEST, image_of, is_listed, list_label_image, own_levels

CLASSES = (
    ClassInfo(value=0, name="background", color="#000000"),
    ClassInfo(value=1, name="liver", color="#e6194b"),
    ClassInfo(value=7, name="lesion", color="#3cb44b"),
)
NOTES = {"program": "prosma test", "kind": "labels", **classes_note(CLASSES)}
SHAPES = ((2, 12, 31, 40), (2, 12, 15, 20), (2, 6, 7, 10))


def make_image(path: Path, version: int, *, together: bool = False) -> np.ndarray:
    """An image of three levels, the third also coarser along z."""
    data = np.random.default_rng(0).integers(0, 1000, SHAPES[0], np.uint16)
    group = zarr.create_group(str(path), zarr_format=version)
    datasets = []
    for number, shape in enumerate(SHAPES):
        zarr.create_array(
            str(path / str(number)), data=data[tuple(map(slice, shape))], chunks=(1, 4, 16, 16), zarr_format=version
        )
        ratios = [a / b for a, b in zip((12, 32, 40), (12, 16, 20) if number == 1 else (6, 8, 10), strict=True)]
        scale = [2.0, 0.5, 0.5] if not number else [s * r for s, r in zip((2.0, 0.5, 0.5), ratios, strict=True)]
        start = [10.0 + scale[0] / 2 - 1, scale[1] / 2 - 0.25, scale[2] / 2 - 0.25]
        datasets.append(
            {
                "path": str(number),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0, *scale]},
                    {"type": "translation", "translation": [0.0, *start]},
                ],
            }
        )
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}]
    axes += [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    multiscale = {"axes": axes, "datasets": datasets, "name": "made elsewhere"}
    if version == 2:
        group.attrs["multiscales"] = [{"version": "0.4", **multiscale}]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    if together:
        zarr.consolidate_metadata(str(path), zarr_format=version)
    return data


def content(path: Path) -> dict[str, bytes]:
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and "labels" not in file.relative_to(path).parts
    }


def ome(path: Path) -> dict[str, Any]:
    """What OME-Zarr says in a group, as the zarr library reads it."""
    attributes = dict(zarr.open_group(str(path), mode="r", use_consolidated=False).attrs)
    return attributes.get("ome", attributes)


def label_map() -> np.ndarray:
    return np.random.default_rng(1).choice(np.array([0, 1, 7], np.uint8), SHAPES[0][1:])


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("name", ["organs", "organs.zarr"])
def test_labels_of_an_image_have_its_levels_names_and_colors(version: int, name: str, tmp_path: Path) -> None:
    image, labels = tmp_path / "scan.ome.zarr", label_map()
    make_image(image, version)
    before, spec = content(image), read_image(image).spec
    write_labels(image / "labels" / name, labels, spec, provenance=NOTES)
    assert content(image) == before
    assert ome(image / "labels")["labels"] == [name]
    found = ome(image / "labels" / name)
    assert found["image-label"] == {
        "version": "0.4" if version == 2 else "0.5",
        "colors": [
            {"label-value": 0, "rgba": [0, 0, 0, 0]},
            {"label-value": 1, "rgba": [230, 25, 75, 255]},
            {"label-value": 7, "rgba": [60, 180, 75, 255]},
        ],
        "properties": [
            {"label-value": 0, "class": "background"},
            {"label-value": 1, "class": "liver"},
            {"label-value": 7, "class": "lesion"},
        ],
        "source": {"image": "../../"},
    }
    own, source = found["multiscales"][0], ome(image)["multiscales"][0]
    for number, (mine, its) in enumerate(zip(own["datasets"], source["datasets"], strict=True)):
        for step, wanted in zip(mine["coordinateTransformations"], its["coordinateTransformations"], strict=True):
            np.testing.assert_allclose(step[step["type"]], wanted[step["type"]][1:])
        assert zarr.open_array(str(image / "labels" / name / mine["path"])).shape == SHAPES[number][1:]
    level = zarr.open_array(str(image / "labels" / name / "1"))[...]
    nearest = [((np.arange(n) + 0.5) * old / n).astype(int) for old, n in zip((12, 31, 40), level.shape, strict=True)]
    np.testing.assert_array_equal(level, labels[np.ix_(*nearest)])
    np.testing.assert_array_equal(read_labels(image / "labels" / name).data, labels)
    assert noted_classes(read_notes(image / "labels" / name)) == CLASSES
    write_labels(image / "labels" / "more", labels, spec, provenance=NOTES)
    assert ome(image / "labels")["labels"] == [name, "more"]
    assert not list(image.rglob(".prosma*"))


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
@pytest.mark.parametrize("version", [2, 3])
def test_metadata_that_is_kept_together_names_the_labels(version: int, tmp_path: Path) -> None:
    image, labels = tmp_path / "scan.zarr", label_map()
    make_image(image, version, together=True)
    for _ in range(2):
        write_labels(image / "labels" / "organs", labels, read_image(image).spec, overwrite=True, provenance=NOTES)
    group = zarr.open_consolidated(str(image), zarr_format=version)
    assert list(dict(group["labels"].members())) == ["organs"]
    np.testing.assert_array_equal(group["labels/organs/0"][...], labels)
    assert group["0"].shape == SHAPES[0]
    again = dict(group.metadata.consolidated_metadata.metadata)
    zarr.consolidate_metadata(str(image), zarr_format=version)
    wanted = zarr.open_consolidated(str(image), zarr_format=version).metadata.consolidated_metadata.metadata
    assert again.keys() == wanted.keys()


def test_only_what_belongs_there_becomes_labels_of_an_image(tmp_path: Path) -> None:
    image, labels = tmp_path / "scan.zarr", label_map()
    make_image(image, 2)
    spec, place = read_image(image).spec, image / "labels" / "organs"
    with pytest.raises(OutputError, match="has the shape 11 x 31 x 40"):
        write_labels(place, labels[1:], ImageSpec("zyx", (11, 31, 40), (1, 1, 1), "um", spacing_affine((1, 1, 1))))
    with pytest.raises(OutputError, match="only label maps go"):
        write_image(place, labels, spec.labels_spec())
    write_labels(place, labels, spec, provenance=NOTES)
    with pytest.raises(OutputError, match="add --overwrite"):
        write_labels(place, labels, spec)
    write_labels(place, labels[::-1], spec, overwrite=True)
    assert ome(image / "labels")["labels"] == ["organs"]
    zarr.create_group(str(image / "labels" / "by hand"), zarr_format=2)
    with pytest.raises(OutputError, match="never replaced"):
        write_labels(image / "labels" / "by hand", labels, spec, overwrite=True)
    half = spec.labels_spec()
    coarse = ImageSpec("zyx", SHAPES[1][1:], (2, 1, 1), "um", half.affine)
    write_labels(image / "labels" / "coarse", labels[:, :15, :20], coarse, provenance=NOTES)
    assert len(ome(image / "labels" / "coarse")["multiscales"][0]["datasets"]) == 2
    with pytest.raises(OutputError, match="names no format"):
        write_labels(tmp_path / "labels" / "organs", labels, spec)


def test_no_other_place_in_a_source_is_written(tmp_path: Path) -> None:
    image, other = tmp_path / "plate.zarr" / "A" / "1" / "0", tmp_path / "other.zarr"
    zarr.create_group(str(tmp_path / "plate.zarr"), zarr_format=2)
    for path in (image, other):
        make_image(path, 2)
    plan = OutputPlan([image, other])
    plan.add(image / "labels" / "organs", labels=True)
    (other / "labels").symlink_to(image / "1")
    for target in (
        image / "labels",
        image / "labels" / "organs" / "0",
        image / "1" / "labels" / "x",
        tmp_path / "plate.zarr" / "labels" / "x",
        other / "labels" / "x",
        image,
    ):
        with pytest.raises(OutputError):
            plan.add(target, labels=True)
    with pytest.raises(OutputError, match="lies inside the input"):
        plan.check(image / "labels" / "maps")


def test_a_label_map_is_finished_when_its_group_names_it(tmp_path: Path) -> None:
    image, labels = tmp_path / "scan.zarr", label_map()
    make_image(image, 3)
    place = image / "labels" / "organs"
    assert image_of(place) == image
    assert image_of(tmp_path / "labels" / "organs") is None
    write_labels(place, labels, read_image(image).spec)
    assert is_listed(place)
    group = image / "labels" / "zarr.json"
    node = json.loads(group.read_text())
    node["attributes"] = {"ome": {"version": "0.5", "labels": ["first"]}, "kept": 1}
    group.write_text(json.dumps(node))
    assert not is_listed(place)
    list_label_image(place)
    list_label_image(place)
    assert json.loads(group.read_text())["attributes"] == {
        "ome": {"version": "0.5", "labels": ["first", "organs"]},
        "kept": 1,
    }


@given(
    st.lists(st.integers(1, 5000), min_size=2, max_size=3), st.lists(st.sampled_from([0.1, 0.5, 1, 3, 20]), min_size=3)
)
def test_own_levels_shrink_until_they_are_small(shape: list[int], spacing: list[float]) -> None:
    axes, sizes = "zyx"[-len(shape) :], tuple(spacing[: len(shape)])
    levels = own_levels(ImageSpec(axes, tuple(shape), sizes, "um", spacing_affine(sizes)))
    assert bool(levels) == (max(shape) > LARGEST)
    before = tuple(shape)
    for level in levels:
        assert max(before) > LARGEST
        assert level.shape != before
        assert all(a in {b, -(-b // 2)} for a, b in zip(level.shape, before, strict=True))
        for size, ratio, shift, whole in zip(level.shape, level.ratio, level.shift, shape, strict=True):
            assert (size - 1) * ratio < whole <= size * ratio
            assert shift == (ratio - 1) / 2
        before = level.shape
    assert max(before) <= LARGEST


def test_a_result_of_its_own_has_names_colors_and_levels(tmp_path: Path) -> None:
    labels = np.zeros((2, 600, 1030), np.uint8)
    labels[:, 100:, 500:] = 7
    spec = ImageSpec("zyx", labels.shape, (5.0, 0.5, 0.5), "um", spacing_affine((5.0, 0.5, 0.5)))
    write_labels(tmp_path / "out.ome.zarr", labels, spec, provenance=NOTES)
    opened = open_zarr(tmp_path / "out.ome.zarr")
    assert [level.shape for level in opened.levels] == [(2, 600, 1030), (2, 300, 515), (2, 150, 258)]
    assert "source" not in ome(tmp_path / "out.ome.zarr")["image-label"]
    assert opened.labels
    np.testing.assert_array_equal(opened.levels[1][...], labels[:, 1::2, 1::2])
    write_image(tmp_path / "image.ome.zarr", labels, spec)
    assert "image-label" not in ome(tmp_path / "image.ome.zarr")
    assert len(open_zarr(tmp_path / "image.ome.zarr").levels) == 1


def test_names_and_colors_of_other_programs_are_read(tmp_path: Path) -> None:
    group = zarr.create_group(str(tmp_path / "x.zarr"), zarr_format=2)
    zarr.create_array(str(tmp_path / "x.zarr" / "0"), data=np.zeros((4, 4), np.uint8), zarr_format=2)
    group.attrs["multiscales"] = [{"version": "0.4", "axes": ["y", "x"], "datasets": [{"path": "0"}]}]
    group.attrs["image-label"] = {
        "colors": [{"label-value": 3, "rgba": [255, 0, 16, 255]}, {"label-value": "no"}, 5],
        "properties": [{"label-value": 3, "class": "nucleus"}, {"label-value": 70000, "class": "x"}, None],
    }
    assert [(c.value, c.name, c.color) for c in noted_classes(open_zarr(tmp_path / "x.zarr").notes)] == [
        (0, "background", "#000000"),
        (3, "nucleus", "#ff0010"),
    ]
    assert read_notes(tmp_path / "x.zarr") == {}  # of this program


@pytest.mark.parametrize("version", [2, 3])
def test_labels_of_a_time_series_have_its_times(version: int, tmp_path: Path) -> None:
    image, shape = tmp_path / "scan.ome.zarr", (3, 4, 9, 8)
    group = zarr.create_group(str(image), zarr_format=version)
    zarr.create_array(str(image / "0"), data=np.ones(shape, np.uint16), chunks=shape, zarr_format=version)
    steps = [{"type": "scale", "scale": [30.0, 2, 0.5, 0.5]}, {"type": "translation", "translation": [60.0, 0, 0, 0]}]
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    axes.insert(0, {"name": "t", "type": "time", "unit": "second"})
    multiscale = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    if version == 2:
        group.attrs["multiscales"] = [{"version": "0.4", **multiscale}]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    write_labels(image / "labels" / "a", np.ones(shape, np.uint8), read_image(image).spec, provenance=NOTES)
    written = ome(image / "labels" / "a")["multiscales"][0]
    assert written["axes"] == axes
    assert written["datasets"][0]["coordinateTransformations"] == steps


def make_plate(path: Path, version: int) -> list[Path]:
    """A plate of two fields, which keeps the metadata of all; where a label map goes in each."""
    zarr.create_group(str(path), zarr_format=version)
    for field in "01":
        make_image(path / field, version)
        zarr.create_group(str(path / field / "labels"), zarr_format=version)
        zarr.consolidate_metadata(str(path / field / "labels"), zarr_format=version)
    zarr.consolidate_metadata(str(path), zarr_format=version)
    return [path / field / "labels" / "organs" for field in "01"]


def kept_names(path: Path, version: int) -> set[str]:
    """Members in the metadata that a group keeps together."""
    group = zarr.open_consolidated(str(path), zarr_format=version)
    return {name for name, _ in group.members(max_depth=None)}


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("fails", [1, 2])
def test_a_label_map_is_listed_last(fails: int, version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = make_plate(tmp_path / "plate.zarr", version)
    real, written = zarr_labels._write, []

    def fail(file: Path, content: dict[str, Any]) -> None:
        written.append(file)
        if len(written) == fails:
            raise OSError("disk full")
        real(file, content)

    monkeypatch.setattr(zarr_labels, "_write", fail)
    spec = read_image(tmp_path / "plate.zarr" / "0").spec
    with pytest.raises(OutputError, match="disk full"):
        write_labels(places[0], label_map(), spec, provenance=NOTES)
    assert not is_listed(places[0])
    list_label_image(places[0])
    assert is_listed(places[0])
    assert ome(places[0].parent)["labels"] == ["organs"]
    assert {"0/labels/organs", "0/labels/organs/0", "1/0"} <= kept_names(tmp_path / "plate.zarr", version)
    assert {"organs", "organs/0"} <= kept_names(places[0].parent, version)


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
@pytest.mark.parametrize("version", [2, 3])
def test_fields_of_a_plate_are_listed_at_the_same_time(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = make_plate(tmp_path / "plate.zarr", version)
    real = zarr_labels._write

    def slow(file: Path, content: dict[str, Any]) -> None:
        time.sleep(0.1)
        real(file, content)

    monkeypatch.setattr(zarr_labels, "_write", slow)
    spec = read_image(tmp_path / "plate.zarr" / "0").spec
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda place: write_labels(place, label_map(), spec, provenance=NOTES), places))
    assert {f"{n}/labels/organs/{m}" for n in "01" for m in "012"} <= kept_names(tmp_path / "plate.zarr", version)
    assert not list(tmp_path.rglob(".prosma*"))
