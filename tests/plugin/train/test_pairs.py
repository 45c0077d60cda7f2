"""Which layers and files are a pair, and what its row says."""

from __future__ import annotations

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
from napari.layers import Image, Labels
from scipy import ndimage

from napari_prosma.layers.results import file_notes, image_layer, labels_layer
from napari_prosma.layers.scan import read
from napari_prosma.train.pairs import (
    Pair,
    PairRow,
    active_pair,
    check,
    pairs_from_files,
    pairs_from_folder,
    splits_of,
)
from napari_prosma.train.sources import Source, layer_source
from prosma_core.config.model import ClassInfo
from prosma_core.config.training import LabelsConfig
from prosma_core.data.geometry import array_spec
from prosma_core.errors import DatasetError
from prosma_core.io.images import write_image, write_labels

SPEC = array_spec((5, 6, 7), "zyx", (2, 1, 1), "mm")


def row_of(image: Any, labels: Any, config: LabelsConfig | None = None, **named: Any) -> PairRow:
    return check(Pair(layer_source(image, **named), layer_source(labels)), config or LabelsConfig())


def painted(shape: tuple[int, ...] = (10, 20, 20), **placed: Any) -> Labels:
    """Labels with class 1 on slices 2 and 3 and class 2 on slice 3."""
    data = np.zeros(shape, np.int32)
    data[..., 2:4, 4:8, 4:8] = 1
    data[..., 3, 10:12, 10:12] = 2
    return Labels(data, name="painted", **placed)


def files(folder: Path, *names: str) -> list[Path]:
    """Label maps of one class, by name."""
    folder.mkdir(exist_ok=True)
    for name in names:
        write_labels(folder / name, np.ones((5, 6, 7), np.uint8), SPEC)
    return [folder / name for name in names]


class TestActivePair:
    @pytest.fixture
    def viewer(self) -> ViewerModel:
        """Return a viewer with two images, labels on the second, and a result on it."""
        viewer = ViewerModel()
        viewer.add_image(np.zeros((10, 20, 20)), name="a", scale=(2, 1, 1))
        viewer.add_image(np.zeros((10, 20, 20)), name="b")
        viewer.add_layer(painted())
        scan = read(viewer.layers["b"])
        background = (ClassInfo(value=0, name="background"),)
        result = labels_layer(scan, np.zeros((10, 20, 20), np.uint8), background, "result", {"model": "m"})
        viewer.add_layer(result)
        entropy = image_layer(scan, np.zeros((10, 20, 20)), "zyx", "entropy", {"model": "m"})
        viewer.add_layer(entropy)
        return viewer

    def select(self, viewer: ViewerModel, *names: str) -> tuple[str, str]:
        viewer.layers.selection = {viewer.layers[name] for name in names}
        pair = active_pair(viewer)
        return pair.image.name, pair.labels.name

    @pytest.mark.parametrize("labels", ["painted", "result"])
    def test_labels_bring_the_image_on_their_grid(self, viewer: ViewerModel, labels: str) -> None:
        assert self.select(viewer, labels) == ("b", labels)

    def test_two_selected_layers_are_the_pair_even_if_they_do_not_fit(self, viewer: ViewerModel) -> None:
        assert self.select(viewer, "a", "painted") == ("a", "painted")
        assert self.select(viewer, "entropy", "result") == ("entropy", "result")

    def test_an_image_with_two_labels_on_it_is_not_guessed(self, viewer: ViewerModel) -> None:
        with pytest.raises(DatasetError, match=r"Which labels layer belongs to b .* painted, result"):
            self.select(viewer, "b")
        viewer.layers.remove("result")
        assert self.select(viewer, "b") == ("b", "painted")

    def test_labels_on_two_images_of_one_grid_are_not_guessed(self, viewer: ViewerModel) -> None:
        viewer.add_image(np.zeros((10, 20, 20)), name="other contrast")
        with pytest.raises(DatasetError, match=r"Which image belongs to painted .* b, other contrast"):
            self.select(viewer, "painted")

    def test_too_many_selected_are_counted(self, viewer: ViewerModel) -> None:
        with pytest.raises(DatasetError, match="1 image and 2 labels layers are selected"):
            self.select(viewer, "b", "painted", "result")

    def test_nothing_selected_is_clear_where_there_is_one_of_each(self) -> None:
        viewer = ViewerModel()
        viewer.add_image(np.zeros((10, 20, 20)), name="a")
        viewer.add_layer(painted())
        viewer.layers.selection.clear()
        assert active_pair(viewer).image.name == "a"
        viewer.add_image(np.zeros((3, 3)), name="b")
        viewer.layers.selection.clear()
        with pytest.raises(DatasetError, match="2 images and 1 labels layer are there"):
            active_pair(viewer)

    def test_the_only_image_is_taken_even_if_it_does_not_fit_so_that_the_row_says_why(self) -> None:
        viewer = ViewerModel()
        viewer.add_image(np.zeros((10, 20, 20)), name="a")
        viewer.add_labels(np.ones((20, 20), int), name="flat")
        assert active_pair(viewer).image.name == "a"

    def test_what_is_missing_is_said(self) -> None:
        viewer = ViewerModel()
        with pytest.raises(DatasetError, match="0 images and 0 labels layers are there"):
            active_pair(viewer)
        viewer.add_image(np.zeros((10, 20, 20)), name="a")
        with pytest.raises(DatasetError, match="There is no labels layer for a"):
            active_pair(viewer)
        viewer.layers.clear()
        viewer.add_layer(painted())
        with pytest.raises(DatasetError, match="There is no image for painted"):
            active_pair(viewer)

    def test_labels_of_a_file_bring_the_image_of_that_file(self) -> None:
        viewer = ViewerModel()
        for name in ("a", "b"):
            image = Image(np.zeros((10, 20, 20)), name=name, metadata={"prosma": {"path": f"/data/{name}.nii"}})
            viewer.add_layer(image)
        labels = viewer.add_labels(np.ones((3, 4, 4), int), metadata={"prosma": {"path": "/data/b.nii"}})
        viewer.layers.selection = {labels}
        assert active_pair(viewer).image.name == "b"

    def test_layers_that_are_no_scans_are_passed_over(self) -> None:
        viewer = ViewerModel()
        viewer.add_image(np.zeros((1, 1, 1, 2, 3, 3)), name="six axes")
        viewer.add_image(np.zeros((10, 20, 20)), name="a")
        viewer.layers.selection = {viewer.add_layer(painted())}
        assert active_pair(viewer).image.name == "a"
        viewer.layers["a"].translate = (5, 5, 5)
        with pytest.raises(DatasetError, match=r"Which image belongs to painted .* six axes, a"):
            active_pair(viewer)


class TestFiles:
    def test_equal_names_are_pairs_and_numbered_files_are_channels(self, tmp_path: Path) -> None:
        images = files(tmp_path / "i", "b_0000.nii.gz", "b_0001.nii.gz", "a.nii.gz")
        labels = files(tmp_path / "l", "a.nii", "b.nii.gz")
        found = pairs_from_files(images, labels)
        assert [pair.labels.name for pair in found] == ["a.nii", "b.nii.gz"]
        assert [pair.image.name for pair in found] == ["a.nii.gz", "b"]
        assert [len(pair.image.paths) for pair in found] == [1, 2]
        rows = [check(pair, LabelsConfig()) for pair in found]
        assert [(row.problem, row.spec and row.spec.num_channels) for row in rows] == [("", 1), ("", 2)]
        assert rows[1].facts == "1 class, on 5 of 5 slices (z), 100 % of voxels, 2 channels"

    def test_one_image_and_one_label_file_may_have_any_names(self, tmp_path: Path) -> None:
        (pair,) = pairs_from_files(files(tmp_path, "scan.nii"), files(tmp_path, "drawn.nii"))
        assert (pair.image.name, pair.labels.name) == ("scan.nii", "drawn.nii")

    @pytest.mark.parametrize(
        ("images", "labels", "words"),
        [
            (["a.nii", "b.nii"], ["a.nii"], "'b' has no labels"),
            (["a.nii"], ["a.nii", "c.nii"], "'c' has no image"),
            (["a.nii", "b.nii"], ["a.nii", "a.nii.gz", "b.nii"], "two labels have one of the same name"),
            ([], ["a.nii"], "0 images and 1 label file were"),
        ],
    )
    def test_what_is_no_pair_is_said(self, images: list[str], labels: list[str], words: str, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=words):
            pairs_from_files(files(tmp_path / "i", *images), files(tmp_path / "l", *labels))

    def test_a_missing_file_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"gone.nii does not exist"):
            pairs_from_files([tmp_path / "gone.nii"], files(tmp_path, "a.nii"))

    def test_a_folder_gives_its_training_and_validation_cases(self, tmp_path: Path) -> None:
        for name in ("images", "labels"):
            files(tmp_path / name, "a.nii", "b.nii", "c.nii")
        assert len(pairs_from_folder(tmp_path)) == 3
        (tmp_path / "splits.json").write_text('{"train": ["c"], "val": ["a"], "test": ["b"]}')
        assert [pair.image.name for pair in pairs_from_folder(tmp_path)] == ["a.nii", "c.nii"]
        with pytest.raises(DatasetError, match="is not a data folder"):
            pairs_from_folder(tmp_path / "images")

    @pytest.mark.parametrize("name", ["splits.json", "splits_final.json"])
    def test_a_folders_splits_say_what_is_validated_on(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        for folder in ("images", "labels"):
            files(tmp_path / "data" / folder, "a.nii", "b.nii", "c.nii")
        fold = '{"train": ["c", "b"], "val": ["a"]}'
        (tmp_path / "data" / name).write_text(f"[{fold}, {fold}]" if "final" in name else fold)
        pairs = pairs_from_folder(tmp_path / "data")
        assert [pair.part for pair in pairs] == ["val", "train", "train"]
        assert check(pairs[0], LabelsConfig()).facts.endswith("for validation")
        assert splits_of(pairs) == ((0,), f"Validation: 1 of 3 pairs, as {name} of data says.")
        drawn = Pair(layer_source(Image(np.zeros((10, 20, 20)))), layer_source(painted()))
        assert splits_of([drawn, *pairs])[0] == (1,)
        assert splits_of(pairs[1:]) == (
            (),
            f"The splits in {name} of data are not used: no validation pair of them is in the list.",
        )
        assert "no training pair" in splits_of(pairs[:1])[1]
        assert splits_of([drawn]) == ((), "")

    def test_a_folder_names_its_classes(self, tmp_path: Path) -> None:
        files(tmp_path / "imagesTr", "a_0000.nii.gz")
        files(tmp_path / "labelsTr", "a.nii.gz")
        text = '{"labels": {"background": 0, "liver": 1, "tumour": 2}, "channel_names": {"0": "CT"}}'
        (tmp_path / "dataset.json").write_text(text)
        (pair,) = pairs_from_folder(tmp_path)
        classes = check(pair, LabelsConfig()).classes
        assert [(c.value, c.name) for c in classes] == [(0, "background"), (1, "liver"), (2, "tumour")]
        assert len({c.color for c in classes}) == 3

    def test_files_of_different_grids_and_damaged_files_are_problems(self, tmp_path: Path) -> None:
        image, labels = files(tmp_path, "i.nii", "l.nii")
        moved = np.diag([1.0, 1, 2, 1])
        moved[:3, 3] = (2, 0, 0)
        nib.Nifti1Image(np.ones((7, 6, 5), np.uint8), moved).to_filename(labels)
        (pair,) = pairs_from_files([image], [labels])
        row = check(pair, LabelsConfig())
        assert row.fixes == ("resample",)
        assert "shifted" in row.problem
        labels.write_bytes(labels.read_bytes()[:400])
        row = check(pair, LabelsConfig())
        assert "l.nii" in row.problem
        assert (row.facts, row.fixes, row.spec) == ("", (), None)

    def test_names_noted_in_a_file_are_found(self, tmp_path: Path, classes: tuple[ClassInfo, ...]) -> None:
        (image,) = files(tmp_path, "i.nii")
        write_labels(
            tmp_path / "l.nii", np.ones((5, 6, 7), np.uint8), SPEC, provenance=file_notes({}, classes, "labels")
        )
        (pair,) = pairs_from_files([image], [tmp_path / "l.nii"])
        assert check(pair, LabelsConfig()).classes == classes

    def test_a_thin_stack_with_a_flat_label_is_a_pair(self, tmp_path: Path) -> None:
        write_image(tmp_path / "i.tif", np.zeros((1, 6, 7), np.uint8), array_spec((1, 6, 7), "zyx"))
        write_labels(tmp_path / "l.tif", np.ones((6, 7), np.uint8), array_spec((6, 7), "yx"))
        (pair,) = pairs_from_files([tmp_path / "i.tif"], [tmp_path / "l.tif"])
        row = check(pair, LabelsConfig())
        assert (row.problem, row.facts) == ("", "1 class, 100 % of pixels")


class TestFacts:
    def test_what_is_painted_is_counted(self) -> None:
        row = row_of(Image(np.zeros((10, 20, 20)), name="scan"), painted())
        assert (row.image, row.labels, row.problem, row.fixes) == ("scan", "painted", "", ())
        assert row.facts == "2 classes, on 2 of 10 slices (z), 0.9 % of voxels"
        assert (row.values, row.slices, row.axis, row.background) == ({1: 32, 2: 4}, (2, 3), "z", True)

    def test_sparse_labels_say_what_is_annotated(self) -> None:
        image = Image(np.zeros((10, 20, 20)), name="scan")
        slices = row_of(image, painted(), LabelsConfig(zero="annotated_slices"))
        assert slices.facts == "2 classes, 2 of 10 slices annotated (z), 20 % of voxels"
        assert slices.background
        scribbles = row_of(image, painted(), LabelsConfig(zero="unlabeled"))
        assert not scribbles.background
        named = row_of(image, painted(), LabelsConfig(zero="unlabeled", background=2))
        assert (named.values, named.background) == ({1: 32}, True)
        ignored = row_of(image, painted(), LabelsConfig(zero="unlabeled", ignore=2))
        assert (ignored.values, ignored.background) == ({1: 32}, False)

    @given(data=st.data())
    def test_counts_are_those_of_numpy(self, data: st.DataObject) -> None:
        shape = (3, 4, 5)
        values = np.array(data.draw(st.lists(st.integers(0, 3), min_size=60, max_size=60))).reshape(shape)
        row = row_of(Image(np.zeros(shape)), Labels(values))
        assert row.values == {v: int((values == v).sum()) for v in (1, 2, 3) if (values == v).any()}
        assert row.problem == ""
        assert ("no object" in row.facts) == (not values.any())

    def test_colors_and_names_are_those_of_the_layer(self, classes: tuple[ClassInfo, ...]) -> None:
        image = Image(np.zeros((10, 20, 20)), name="scan")
        labels = painted()
        plain = row_of(image, labels).classes
        assert [c.name for c in plain] == ["class 1", "class 2"]
        red, green, blue, _ = labels.colormap.map(2)
        assert plain[1].color == f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
        ours = labels_layer(read(image), labels.data.astype(np.uint8), classes, "r", {})
        assert row_of(image, ours).classes[:2] == classes[:2]

    def test_time_points_and_channels_are_said(self) -> None:
        film = Image(np.zeros((3, 10, 20, 20)), name="film")
        assert row_of(film, painted((3, 10, 20, 20))).facts.endswith("0.9 % of voxels, 3 time points")
        read_as = Pair(layer_source(film, "czyx"), layer_source(painted()))
        assert check(read_as, LabelsConfig()).facts.endswith("0.9 % of voxels, 3 channels")

    def test_time_stays_time_and_unpainted_time_points_are_not_annotated(self) -> None:
        film = Image(np.zeros((3, 10, 20, 20)), name="film")
        for labeled in (film, Image(np.zeros((3, 10, 20, 20)), axis_labels=tuple("tzyx"))):
            row = row_of(labeled, painted())
            assert "a time series (3 time points), the labels are for one" in row.problem
            assert row.fixes == ("channels",)
        one = painted((3, 10, 20, 20))
        one.data[[0, 2]] = 0
        row = row_of(film, one)
        assert row.problem == ""
        assert "1 of 3 time points annotated" in row.facts


class TestProblems:
    image = staticmethod(lambda **placed: Image(np.zeros((10, 20, 20)), name="scan", **placed))

    def test_nothing_painted(self) -> None:
        empty = Labels(np.zeros((10, 20, 20), int))
        row = row_of(self.image(), empty, LabelsConfig(zero="annotated_slices"))
        assert "No class is painted" in row.problem
        assert row.fixes == ()
        negative = row_of(self.image(), empty)
        assert (negative.problem, negative.facts, negative.values) == ("", "no object", {})

    def test_gray_masks_and_images_as_labels(self, rng: np.random.Generator) -> None:
        mask = np.zeros((96, 112), np.uint8)
        mask[30:70, 20:80] = 255
        gray = ndimage.gaussian_filter(mask.astype(float), 1.5).astype(np.uint8)
        photo = rng.integers(0, 255, (96, 112)).astype(np.uint8)
        row = row_of(Image(photo), Labels(gray))
        assert "gray edges" in row.problem
        assert "--" not in row.problem
        assert row.fixes == ("threshold", "classes")
        assert row.values == {}  # no classes before a choice was made
        fixed = row_of(Image(photo), Labels(gray), LabelsConfig(gray="threshold"))
        assert (fixed.problem, fixed.values) == ("", {1: int((gray > 127).sum())})
        assert fixed.facts.startswith("1 class (values above 127)")
        other = row_of(Image(photo), Labels(photo[::-1].copy()))
        assert "an image, not class numbers" in other.problem
        assert other.fixes == ("threshold", "classes")
        for labels in (Labels(photo), Labels(photo.astype(int))):
            itself = row_of(Image(photo), labels, LabelsConfig(one_class=True))
            assert "the image itself" in itself.problem
            assert itself.fixes == ()

    def test_a_picture_painted_for_a_volume(self) -> None:
        row = row_of(self.image(), Labels(np.ones((20, 20), int)))
        assert "One picture of (20, 20) is painted" in row.problem
        assert row.fixes == ()

    def test_numbered_objects(self) -> None:
        labels = Labels(np.arange(10 * 20 * 20).reshape(10, 20, 20))
        row = row_of(self.image(), labels)
        assert "3999 values: they number objects" in row.problem
        assert (row.fixes, row.classes) == (("one_class",), ())
        fixed = row_of(self.image(), labels, LabelsConfig(one_class=True))
        assert (fixed.problem, fixed.values) == ("", {1: 3999})

    def test_values_that_no_class_can_have(self) -> None:
        labels = painted()
        labels.data[labels.data == 2] = 65_536
        row = row_of(self.image(), labels)
        assert "the value 65536; those of classes end at 65535" in row.problem
        assert row.fixes == ("one_class",)
        assert [c.value for c in row.classes] == [1]
        labels.data[labels.data == 65_536] = 65_535
        assert row_of(self.image(), labels).problem == ""

    @pytest.mark.parametrize(
        "placed", [{"translate": (0, 1, 0)}, {"scale": (1, 1, 1.1)}, {"scale": (-1, 1, 1), "translate": (9, 0, 0)}]
    )
    def test_labels_drawn_beside_the_voxels_are_seen_although_the_size_is_the_same(self, placed: Any) -> None:
        row = row_of(self.image(), painted(**placed))
        assert "do not lie on the image's voxels" in row.problem
        assert row.fixes == ("resample",)

    def test_the_same_labels_in_place_are_no_problem_whatever_the_unit_is_called(self) -> None:
        image = self.image(scale=(0.002, 0.001, 0.001), units="mm")
        assert row_of(image, painted(scale=(2, 1, 1), units="um")).problem == ""
        assert row_of(image, painted(scale=(0.002, 0.001, 0.001))).problem == ""
        assert row_of(image, painted(scale=(2, 1, 1), units="mm")).problem != ""

    def test_other_time_points(self) -> None:
        row = row_of(Image(np.zeros((4, 10, 20, 20))), painted((2, 10, 20, 20)))
        assert row.problem == "The image has 4 time points, the labels have 2."

    def test_negative_labels(self) -> None:
        row = row_of(self.image(), Labels(np.full((10, 20, 20), -3)))
        assert "contain -3; class numbers start at 0" in row.problem

    def test_axes_that_cannot_be(self) -> None:
        assert "'qyx'" in row_of(self.image(), painted(), axes="qyx").problem

    def test_channels_painted_differently(self) -> None:
        image = Image(np.zeros((2, 6, 6)), axis_labels=tuple("cyx"), name="scan")
        data = np.zeros((2, 6, 6), int)
        data[0, 0, 0], data[1, 1, 1] = 1, 2
        assert row_of(image, Labels(data)).values == {1: 1, 2: 1}
        data[1, 0, 0] = 2
        assert "painted differently at its 2 channels" in row_of(image, Labels(data)).problem

    def test_a_source_that_fails_is_a_problem_of_its_row(self) -> None:
        gone = []

        def read(block: Any) -> Any:
            if gone:
                raise OSError("the share is gone")
            return block

        lazy = da.map_blocks(read, da.ones((10, 20, 20), dtype=np.uint8), dtype=np.uint8, meta=np.zeros((0,), "u1"))
        labels = Labels(lazy)
        gone.append(True)
        row = row_of(self.image(), labels)
        assert row.problem == "The values cannot be read: OSError: the share is gone"

    def test_a_flipped_patients_scan_and_labels_painted_upright(
        self, tmp_path: Path, open_layer: Callable[[Path], Any]
    ) -> None:
        nib.Nifti1Image(np.zeros((20, 20, 10), np.int16), np.diag([-1, -1, 2, 1])).to_filename(tmp_path / "i.nii")
        image = open_layer(tmp_path / "i.nii")
        upright = painted(scale=(2, 1, 1), translate=(0, -19, -19))
        row = row_of(image, upright)
        assert row.fixes == ("resample",)
        assert "100 % of them" in row.problem
        below = painted(scale=image.scale, translate=image.translate, affine=image.affine)
        assert row_of(image, below).problem == ""


def test_an_image_file_and_a_labels_layer_are_a_pair(tmp_path: Path, open_layer: Callable[[Path], Any]) -> None:
    (image,) = files(tmp_path, "i.nii")
    labels = tmp_path / "l.nii"
    write_labels(labels, np.ones((5, 6, 7), np.uint8), SPEC, provenance=file_notes({}, (), "labels"))
    drawn = open_layer(labels)
    assert isinstance(drawn, Labels)
    assert check(Pair(Source(path=image, title="i"), layer_source(drawn)), LabelsConfig()).problem == ""
    drawn.translate = (0, 3, 0)
    assert "50 % of them" in check(Pair(Source(path=image, title="i"), layer_source(drawn)), LabelsConfig()).problem
    other = Pair(layer_source(open_layer(image)), Source(path=labels, title="l"))
    assert check(other, LabelsConfig()).problem == ""
