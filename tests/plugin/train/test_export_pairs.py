"""Layers handed to training as files: every kind comes back as it was."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer

from napari_prosma.layers.labels import known_classes, read_on
from napari_prosma.layers.results import editable_copy, labels_layer
from napari_prosma.layers.scan import class_numbers, read
from napari_prosma.layers.source import source_of
from napari_prosma.train.export_pairs import autosave, left_out, write_pairs
from napari_prosma.train.pairs import Pair, check
from napari_prosma.train.series import Series
from napari_prosma.train.sources import Source, layer_source
from prosma_core.config.model import ClassInfo
from prosma_core.config.training import LabelsConfig, resolve_run
from prosma_core.data.geometry import METRES, ImageSpec, array_spec
from prosma_core.data.pair_check import check_pair
from prosma_core.errors import OutputError
from prosma_core.io.dataset_folder import open_cases, open_dataset, read_case
from prosma_core.io.images import read_image, read_labels, write_image, write_labels
from prosma_core.runs.run_folder import RunFolder

Files = tuple[tuple[Path, Path], ...]

OBLIQUE = np.array([[-0.8, 0.1, 0.0, 90], [0.1, 0.8, 0.0, -126], [0, 0, 2.5, -72], [0, 0, 0, 1]])


def write(pairs: list[Pair], folder: Path) -> Files:
    """Run the generator to its end; it has to say something for each pair."""
    steps, words = write_pairs(pairs, folder), []
    while True:
        try:
            words.append(next(steps))
        except StopIteration as stop:
            assert len(words) >= len(pairs)
            files: Files = stop.value
            return files


def painted_on(image: Image) -> Labels:
    """New labels of an image, as napari's button makes them, with some voxels of 1 and 3."""
    viewer = ViewerModel()
    viewer.add_layer(image)
    viewer.layers.selection = {image}
    viewer._new_labels()
    labels = viewer.layers[-1]
    labels.data[..., 1:3, 1:4] = 1
    labels.data[..., 3, 2:5] = 3
    return labels


def assert_same_spec(found: ImageSpec, expected: ImageSpec, *, rtol: float = 0.0) -> None:
    assert (found.axes, found.shape, found.unit) == (expected.axes, expected.shape, expected.unit)
    assert (found.world, found.channel_names) == (expected.world, expected.channel_names)
    np.testing.assert_allclose(found.spacing, expected.spacing, rtol=rtol)
    np.testing.assert_allclose(found.affine, expected.affine, rtol=rtol, atol=rtol * 100)


def assert_comes_back(image: Image, folder: Path, *, rtol: float = 0.0) -> Path:
    """Write an image with labels painted on it; specs, voxels and labels are read back; training takes them."""
    labels = painted_on(image)
    pair = Pair(layer_source(image), layer_source(labels))
    assert check(pair, LabelsConfig()).problem == ""
    files = write([pair], folder)
    ((image_file, labels_file),) = files
    scan = read(image)
    back, back_labels = read_image(image_file), read_labels(labels_file)
    assert_same_spec(back.spec, scan.spec, rtol=rtol)
    np.testing.assert_array_equal(back.data, scan.load())
    expected = class_numbers(read_on(labels, scan))
    assert set(np.unique(back_labels.data)) == {0, 1, 3}
    np.testing.assert_array_equal(back_labels.data, expected)
    assert_same_spec(back_labels.spec, back.spec.labels_spec(), rtol=rtol)
    (case,) = open_cases(None, files).cases.values()
    trained, trained_labels = read_case(case)
    assert check_pair(trained.spec, trained_labels, LabelsConfig()).problem == ""
    return image_file


def values(shape: tuple[int, ...], dtype: Any = np.int16) -> Any:
    return (np.arange(np.prod(shape)).reshape(shape) % 251).astype(dtype)


PLAIN: dict[str, Callable[[], Image]] = {
    "volume": lambda: Image(values((5, 6, 7)), name="scan"),
    "placed": lambda: Image(values((5, 6, 7)), scale=(3, 0.5, 0.7), translate=(-10, 20, 30), units="um"),
    "picture": lambda: Image(values((6, 7), np.uint8)),
    "small picture": lambda: Image(values((6, 7), np.float32), scale=(0.2, 0.3), units="nm"),
    "colors": lambda: Image(values((6, 7, 3), np.uint8), rgb=True),
    "colors and alpha": lambda: Image(values((6, 7, 4), np.uint8), rgb=True),
    "stack of colors": lambda: Image(values((4, 6, 7, 3), np.uint8), rgb=True, scale=(2, 1, 1), units="mm"),
    "channels": lambda: Image(values((2, 5, 6, 7)), axis_labels=tuple("czyx"), scale=(1, 2, 1, 1), units="um"),
    "channels of a picture": lambda: Image(values((4, 6, 7)), axis_labels=tuple("cyx")),
    "channels inside": lambda: Image(values((5, 2, 6, 7)), axis_labels=tuple("zcyx")),
    "frames": lambda: Image(values((3, 5, 6, 7))),
    "film": lambda: Image(values((3, 6, 7), np.uint8), axis_labels=tuple("tyx"), scale=(1, 0.5, 0.5), units="um"),
    "frames and channels": lambda: Image(values((3, 2, 5, 6, 7), np.uint16)),
    "one slice": lambda: Image(values((1, 6, 7)), scale=(5, 1, 1), units="mm"),
    "turned axes": lambda: Image(values((5, 6, 7)), axis_labels=tuple("xyz")),
    "lazy": lambda: Image(da.from_array(values((5, 6, 7)), chunks=(2, 6, 3))),
    "big endian": lambda: Image(values((5, 6, 7), ">u2")),
    "long whole numbers": lambda: Image(values((5, 6, 7), np.int64)),
    "levels": lambda: Image([values((8, 12, 12)), values((4, 6, 6))], multiscale=True, scale=(2, 1, 1), units="mm"),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_layers_come_back(kind: str, tmp_path: Path) -> None:
    assert_comes_back(PLAIN[kind](), tmp_path)


def test_truth_values_and_long_floats_become_what_files_hold(tmp_path: Path) -> None:
    for dtype, stored in ((bool, np.uint8), (np.float64, np.float32), (np.float16, np.float32)):
        pair = Pair(layer_source(image := Image(values((6, 7), dtype))), layer_source(painted_on(image)))
        ((file, _),) = write([pair], tmp_path)
        assert read_image(file).data.dtype == stored


@pytest.mark.slow
@given(
    axes=st.sampled_from(["yx", "zyx", "cyx", "tyx", "czyx", "tzyx", "tcyx", "tczyx"]),
    step=st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3),
    corner=st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3),
    unit=st.sampled_from([*METRES, "pixel"]),
    dtype=st.sampled_from(["uint8", "int16", "uint16", "int32", "float32"]),
)
def test_any_place_unit_and_size_come_back(
    axes: str, step: list[float], corner: list[float], unit: str, dtype: str
) -> None:
    size = {"t": 2, "c": 2, "z": 4, "y": 6, "x": 7}
    scale = [step["zyx".index(a)] if a in "zyx" else 1.0 for a in axes]
    origin = [corner["zyx".index(a)] if a in "zyx" else 0.0 for a in axes]
    units = [unit if a in "zyx" else "pixel" for a in axes]
    data = values(tuple(size[a] for a in axes), dtype)
    image = Image(data, scale=scale, translate=origin, units=units, axis_labels=tuple(axes))
    with tempfile.TemporaryDirectory() as folder:
        assert_comes_back(image, Path(folder), rtol=1e-12)


@pytest.mark.parametrize("affine", [np.diag([1.0, 2, 3, 1]), np.diag([-1.0, -1, 2, 1]), OBLIQUE, OBLIQUE[[1, 2, 0, 3]]])
def test_a_patients_scan_keeps_its_header_to_the_last_bit(
    affine: np.ndarray, tmp_path: Path, open_layer: Callable[[Path], Any]
) -> None:
    source = tmp_path / "case.nii.gz"
    made = nib.Nifti1Image(values((5, 6, 7)), affine)
    made.header.set_xyzt_units("mm", "sec")
    made.to_filename(source)
    file = assert_comes_back(open_layer(source), tmp_path / "data")
    before, after = nib.load(source), nib.load(file)
    np.testing.assert_array_equal(after.affine, before.affine)
    assert int(after.header["sform_code"]) == int(before.header["sform_code"])


@pytest.mark.parametrize("shape", [(5, 6, 7, 3), (6, 7), (5, 6, 7, 1, 2)])
def test_other_niftis_come_back(shape: tuple[int, ...], tmp_path: Path, open_layer: Callable[[Path], Any]) -> None:
    source = tmp_path / "case.nii"
    nib.Nifti1Image(values(shape), np.diag([0.5, 0.6, 2, 1])).to_filename(source)
    assert_comes_back(open_layer(source), tmp_path / "data")


def test_a_scan_that_a_person_moved_comes_back_where_it_is(tmp_path: Path, open_layer: Callable[[Path], Any]) -> None:
    source = tmp_path / "case.nii"
    nib.Nifti1Image(values((5, 6, 7)), np.diag([1.0, 2, 3, 1])).to_filename(source)
    image = open_layer(source)
    image.translate = (7.5, 8.25, -3)
    file = assert_comes_back(image, tmp_path / "data", rtol=1e-6)
    assert read_image(file).spec.affine[:3, 3].tolist() == pytest.approx([7.5, 8.25, -3])


@pytest.mark.parametrize("name", ["a.ome.zarr", "a.zarr"])
def test_zarr_layers_come_back(name: str, tmp_path: Path, open_layer: Callable[[Path], Any]) -> None:
    spec = array_spec((2, 5, 6, 7), "czyx", (2.5, 0.3, 0.3), "um").with_channels(("DAPI", "GFP"))
    write_image(tmp_path / name, values((2, 5, 6, 7), np.uint16), spec)
    image = open_layer(tmp_path / name)
    assert source_of(read(image)) is not None
    assert_comes_back(image, tmp_path / "data")


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing is being requested:UserWarning")
def test_a_layer_that_a_person_turned_is_stored_straight(tmp_path: Path) -> None:
    image = Image(values((5, 6, 7)), scale=(2, 1, 1), rotate=(10, 20, 30), name="turned")
    ((file, labels),) = write([Pair(layer_source(image), layer_source(painted_on(image)))], tmp_path)
    for found in (read_image(file), read_labels(labels)):
        np.testing.assert_allclose(found.spec.spacing, (2, 1, 1))
        np.testing.assert_allclose(found.spec.affine[:3, :3], np.diag((2, 1, 1)), atol=1e-12)
    np.testing.assert_array_equal(read_image(file).data, image.data)


def test_axes_that_a_person_named_are_stored(tmp_path: Path) -> None:
    image = Image(values((3, 6, 7), np.uint8), name="film")
    labels = painted_on(image)
    ((file, label_file),) = write([Pair(layer_source(image, "tyx"), layer_source(labels))], tmp_path)
    assert (read_image(file).spec.axes, read_labels(label_file).spec.axes) == ("tyx", "tyx")


def test_labels_of_a_result_keep_names_and_provenance(
    tmp_path: Path, classes: tuple[ClassInfo, ...], open_layer: Callable[[Path], Any]
) -> None:
    image = Image(values((5, 6, 7)), name="scan")
    scan = read(image)
    result = labels_layer(scan, np.ones((5, 6, 7), np.uint8), classes, "result", {"model": "m"})
    copy = editable_copy(result)
    ((_, file),) = write([Pair(layer_source(image), layer_source(copy))], tmp_path)
    again = open_layer(file)
    assert isinstance(again, Labels)
    assert known_classes(again) == classes
    assert read(again).metadata["provenance"]["model"] == "m"


def test_files_stay_where_they_are_and_channel_files_are_put_together(tmp_path: Path) -> None:
    spec = array_spec((5, 6, 7), "zyx", (2, 1, 1), "mm")
    for i in range(2):
        write_image(tmp_path / f"a_{i:04d}.nii.gz", values((5, 6, 7)) + i, spec)
    write_labels(tmp_path / "a.nii.gz", np.ones((5, 6, 7), np.uint8), spec)
    labels = Source(path=tmp_path / "a.nii.gz", title="a")
    one = Source(path=tmp_path / "a_0000.nii.gz", title="a")
    both = Source(path=one.path, title="a", channels=(tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"))
    files = write([Pair(one, labels), Pair(both, labels)], tmp_path / "data")
    assert files[0] == (tmp_path / "a_0000.nii.gz", tmp_path / "a.nii.gz")
    assert files[1][0].is_relative_to(tmp_path / "data")
    assert read_image(files[1][0]).spec.axes == "czyx"
    np.testing.assert_array_equal(read_image(files[1][0]).data[1], values((5, 6, 7)) + 1)


def test_saved_labels_of_a_series_are_copied_and_a_resumed_run_says_what_changed_since(tmp_path: Path) -> None:
    def draw(path: Path, value: int) -> Path:
        labels = np.zeros((8, 9), np.uint8)
        labels[2:5, 2:5] = value
        write_labels(path, labels, array_spec((8, 9), "yx"), overwrite=True)
        return path

    (tmp_path / "scans").mkdir()
    for name in ("a", "b", "own"):
        write_image(tmp_path / "scans" / f"{name}.tif", np.ones((8, 9), np.uint8), array_spec((8, 9), "yx"))
    series = Series(tmp_path / "scans", tmp_path / "models")
    for name in ("a.tif", "b.tif"):
        place, _ = series.place(name)
        series.saved(name, draw(place.with_name(place.name + ".tif"), 1), None)
    given = Pair(Source(path=tmp_path / "scans/own.tif", title="own"), Source(path=draw(tmp_path / "own.tif", 1)))
    folder = RunFolder.beside(tmp_path / "models" / "m.safetensors")

    def pairs() -> list[Pair]:
        return [pair for scan in series.scans if (pair := series.pair(scan)) is not None] + [given]

    files = write(pairs(), folder.root / "data")
    assert [label.parent == folder.root / "data" / "labels" for _, label in files] == [True, True, False]
    run = resolve_run({"out": folder.root.parent / "m.safetensors", "pairs": files})
    folder.write_settings(run, {"train": ["a"], "val": ["b"]})
    assert left_out(pairs(), folder) == ""
    draw(series.scans[0].saved, 2)
    draw(tmp_path / "own.tif", 3)
    assert left_out(pairs(), folder) == (
        "This run continues with its own copies of 2 pairs. Not in it: a.tif (changed since). Train anew to use all. "
        "Label files changed since are learned in their present state: own."
    )
    assert [int(read_labels(label).data.max()) for _, label in files] == [1, 1, 3]


def test_names_are_legal_unique_and_make_a_data_folder(tmp_path: Path) -> None:
    names = ["a/b", "a_b", "A_B", "case.nii.gz", "aux", "  . ", "x" * 300, 'quote"?*']
    pairs = []
    for name in names:
        image = Image(values((6, 7), np.uint8), name=name)
        pairs.append(Pair(layer_source(image), layer_source(painted_on(image))))
    files = write(pairs, tmp_path)
    stems = [path.name.removesuffix(".ome.zarr") for path, _ in files]
    assert stems[:6] == ["a_b", "a_b-2", "A_B-3", "case", "aux_", "model"]
    assert len({stem.lower() for stem in stems}) == len(names)
    assert set(open_dataset(tmp_path).cases) == set(stems)


def test_one_image_with_two_annotations_is_written_once(tmp_path: Path) -> None:
    image = Image(values((6, 7)), name="scan")
    pairs = [Pair(layer_source(image), layer_source(painted_on(image))) for _ in range(2)]
    files = write(pairs, tmp_path)
    assert files[0][0] == files[1][0]
    assert files[0][1] != files[1][1]
    assert len(open_cases(None, files).cases) == 2


def test_the_persons_layers_are_not_changed(tmp_path: Path) -> None:
    image = Image(values((5, 6, 7)), name="scan")
    labels = painted_on(image)
    before = labels.data.copy()
    write([Pair(layer_source(image), layer_source(labels))], tmp_path)
    np.testing.assert_array_equal(labels.data, before)
    assert (labels.name, labels.data.dtype, labels.metadata) == ("scan - Labels", before.dtype, {})


def test_stopping_in_between_leaves_whole_files(tmp_path: Path) -> None:
    image = Image(values((5, 6, 7)), name="scan")
    steps = write_pairs([Pair(layer_source(image), layer_source(painted_on(image)))], tmp_path)
    next(steps)
    next(steps)
    steps.close()
    np.testing.assert_array_equal(read_image(tmp_path / "images" / "scan.ome.zarr").data, image.data)
    assert not list((tmp_path / "labels").iterdir())


def test_what_is_painted_is_saved_as_it_is_now(tmp_path: Path, open_layer: Callable[[Path], Any]) -> None:
    nib.Nifti1Image(values((5, 6, 7)), OBLIQUE).to_filename(tmp_path / "case.nii")
    image = open_layer(tmp_path / "case.nii")
    labels = painted_on(image)
    file_pair = Pair(Source(path=tmp_path / "case.nii", title="case"), Source(path=tmp_path / "l.nii", title="l"))
    pairs = [Pair(layer_source(image), layer_source(labels)), file_pair]
    folder = tmp_path / "run" / "annotations"
    (first,) = autosave(pairs, folder)
    assert first.name == "case - Labels.nii.gz"
    labels.data[0, 0, 0] = 9
    (second,) = autosave(pairs, folder)
    assert second == first
    saved = read_labels(second)
    assert saved.data.max() == 9
    np.testing.assert_array_equal(saved.spec.affine, read_image(tmp_path / "case.nii").spec.affine)
    assert [path.name for path in folder.iterdir()] == [first.name]


def test_labels_of_another_grid_are_saved_too(tmp_path: Path) -> None:
    image = Image(values((5, 6, 7)), name="scan")
    labels = Labels(np.ones((3, 3), np.uint8), name="flat")
    (file,) = autosave([Pair(layer_source(image), layer_source(labels))], tmp_path)
    assert read_labels(file).spec.axes == "yx"


def test_one_layer_that_cannot_be_saved_does_not_stop_the_others(tmp_path: Path) -> None:
    image = Image(values((6, 7)), name="scan")

    gone = []

    def read(block: Any) -> Any:
        if gone:
            raise OSError("the share is gone")
        return block

    lost = Labels(da.map_blocks(read, da.zeros((6, 7), dtype=np.uint8), dtype=np.uint8, meta=np.zeros((0, 0), "u1")))
    lost.name = "lost"
    below = Labels(np.full((6, 7), -1), name="below zero")
    good = painted_on(image)
    pairs = [Pair(layer_source(image), layer_source(each)) for each in (lost, below, good)]
    gone.append(True)
    with pytest.raises(OutputError, match=r"lost: OSError: the share is gone; below zero: .* contain -1"):
        autosave(pairs, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["scan - Labels.ome.zarr"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    layer: Layer = Image(values((6, 7)), name="scan")
    pairs = [Pair(layer_source(layer), layer_source(painted_on(layer)))]
    with pytest.raises(OutputError, match="Cannot make the folder"):
        write(pairs, tmp_path / "file" / "data")
    with pytest.raises(OutputError, match="Cannot make the folder"):
        autosave(pairs, tmp_path / "file" / "data")


def as_labels(image: Image) -> Labels:
    """An image layer turned to labels, as napari's menu does."""
    kept = {name: getattr(image, name) for name in ("scale", "translate", "affine", "units", "axis_labels", "metadata")}
    return Labels(np.asarray(image.data).astype(np.int32), name=image.name, **kept)


@pytest.mark.slow
def test_real_scans_come_back(data_root: Path, tmp_path: Path, open_layer: Callable[[Path], Any]) -> None:
    samples = data_root / "ui_samples"
    scans = [path for path in sorted(samples.rglob("*.nii*")) if "label" not in path.parent.name + path.name]
    scans.remove(samples / "rgb_dtype" / "rgb.nii.gz")  # NIfTI has no place for the names of channels
    scans += [samples / "dicom_hippocrop", *sorted((data_root / "acdc" / "images").iterdir())[:2]]
    assert len(scans) >= 12
    for path in scans:
        image = open_layer(path)
        same_bits = read(image).spec.format == "nifti"
        assert_comes_back(image, tmp_path / path.parent.name / path.name, rtol=0 if same_bits else 1e-6)


def test_real_labels_opened_as_layers_go_to_training_as_they_are(
    data_root: Path, tmp_path: Path, open_layer: Callable[[Path], Any]
) -> None:
    samples = data_root / "ui_samples"
    names = [("spine_3contrast_oblique9/T2w", "spine_3contrast_oblique9/label_cord_T2w")]
    cases = {"spleen2_crop": "label", "spine_t2s_aniso_oblique": "label_gm", "ct_multiorgan_pseudo": "label_pseudo"}
    names += [(f"{folder}/image", f"{folder}/{label}") for folder, label in cases.items()]
    for number, (image_name, labels_name) in enumerate(names):
        image, truth = samples / f"{image_name}.nii.gz", samples / f"{labels_name}.nii.gz"
        pair = Pair(layer_source(open_layer(image)), layer_source(as_labels(open_layer(truth))))
        by_layer = check(pair, LabelsConfig())
        by_file = check(Pair(Source(path=image, title="i"), Source(path=truth, title="l")), LabelsConfig())
        assert (by_layer.problem, by_layer.values, by_layer.facts) == ("", by_file.values, by_file.facts)
        ((_, written),) = write([pair], tmp_path / str(number))
        np.testing.assert_array_equal(read_labels(written).data, read_labels(truth).data)
        np.testing.assert_allclose(nib.load(written).affine, nib.load(truth).affine, atol=1e-6)


def test_colors_of_a_patients_scan_are_taken_for_colors(tmp_path: Path, open_layer: Callable[[Path], Any]) -> None:
    record = np.zeros((5, 6, 7), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for number, name in enumerate("RGB"):
        record[name] = values((5, 6, 7), np.uint8) // (number + 1)
    nib.Nifti1Image(record, np.diag([-1.0, 1, 2, 1])).to_filename(tmp_path / "rgb.nii")
    image = open_layer(tmp_path / "rgb.nii")
    assert image.rgb
    pair = Pair(layer_source(image), layer_source(painted_on(image)))
    ((file, labels),) = write([pair], tmp_path / "data")
    back, spec = read_image(file), check(pair, LabelsConfig()).spec
    assert spec is not None
    np.testing.assert_array_equal(back.data, read_image(tmp_path / "rgb.nii").data)
    np.testing.assert_array_equal(back.spec.affine, spec.affine)
    again = check(Pair(Source(path=file, title="i"), Source(path=labels, title="l")), LabelsConfig())
    assert again.spec is not None
    assert again.spec.channel_names == spec.channel_names == ("red", "green", "blue")
