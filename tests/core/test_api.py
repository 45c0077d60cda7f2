"""The library's functions: arrays, scans and files in; what the command line gives out."""

from __future__ import annotations

import doctest
import inspect as python_inspect
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import prosma_core
from prosma_core import api
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.data.phantom import phantom_2d, phantom_3d
from prosma_core.errors import (
    ConfigError,
    DatasetError,
    DeviceError,
    FileFormatError,
    GeometryError,
    IntensityError,
    LabelError,
    ModelFileError,
    OutputError,
    ProsmaError,
    TrainingError,
)
from prosma_core.events import EpochDone, Event, StepDone, TileDone
from prosma_core.inference.segment import Segmenter
from prosma_core.io.images import write_image
from prosma_core.io.notes import made_by_model, read_notes

TINY = {
    "preset": "quick",
    "device": "cpu",
    "network": {"width": 4, "max_stages": 2},
    "training": {"epochs": 2, "steps": 2, "batch_size": 1},
}


@pytest.fixture
def flat(make_model: Callable[..., Path], tmp_path: Path) -> Segmenter:
    return api.load_model(make_model(tmp_path / "flat.safetensors"), device="cpu")


@pytest.fixture
def colors(make_model: Callable[..., Path], tmp_path: Path) -> Segmenter:
    return api.load_model(make_model(tmp_path / "colors.safetensors", 2, ("r", "g", "b")), device="cpu")


@pytest.fixture
def volume(make_model: Callable[..., Path], tmp_path: Path) -> Segmenter:
    """A model that turns scans to RAS and resamples them."""
    settings = {"orientation": "RAS", "resample": "spacing", "spacing": (2.0, 1.0, 1.0), "unit": "mm"}
    return api.load_model(make_model(tmp_path / "volume.safetensors", 3, **settings), device="cpu")


# --- Names and docstrings ---------------------------------------------------------------------------------------------


def test_every_name_can_be_imported_from_the_package() -> None:
    assert set(prosma_core.__all__) == {*api.__all__, "__version__"}
    for name in api.__all__:
        assert getattr(prosma_core, name) is getattr(api, name)
        assert name in dir(prosma_core)
    stub = Path(prosma_core.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    assert set(re.findall(r" as (\w+)$", stub, re.MULTILINE)) == set(api.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'segmentation'"):
        prosma_core.segmentation  # noqa: B018


@pytest.mark.parametrize("name", api.__all__)
def test_every_name_has_a_whole_docstring_whose_examples_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    thing = getattr(api, name)
    text = python_inspect.getdoc(thing) or ""
    sections = re.findall(r"^(\w+)\n-{3,}$", text, re.MULTILINE)
    nothing = not isinstance(thing, type) and python_inspect.signature(thing).return_annotation == "None"
    wanted = ["Parameters", *([] if isinstance(thing, type) or nothing else ["Returns"]), "Raises", "Examples"]
    assert [section for section in sections if section in wanted] == wanted
    described = text.partition("Parameters\n")[2].partition("\nRaises\n")[0]
    target = thing.__init__ if isinstance(thing, type) else thing
    for parameter in python_inspect.signature(target).parameters:
        if parameter not in ("self", "settings"):
            assert re.search(rf"^[\w, ]*\b{parameter}\b", described, re.MULTILINE), parameter
    finder = doctest.DocTestFinder(recurse=False)
    tests = finder.find(thing, name, globs={each: getattr(api, each) for each in api.__all__})
    assert tests
    for test in tests:
        assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test).failed == 0


# --- Arrays -----------------------------------------------------------------------------------------------------------


def test_labels_of_an_array_are_those_of_its_file_and_of_the_command_line(
    flat: Segmenter, tmp_path: Path, prosma: Callable[..., tuple[int, str, str]]
) -> None:
    image, _ = phantom_2d(3, (40, 56))
    write_image(tmp_path / "image.tif", image.data, image.spec)
    expected = api.segment(tmp_path / "image.tif", flat)
    assert expected.dtype == np.uint8
    assert expected.any()
    for same in (image.data, image, image.data.astype(np.float64), image.data.tolist()):
        assert np.array_equal(api.segment(same, flat), expected)
    assert np.array_equal(api.segment(str(tmp_path / "image.tif"), flat), expected)
    code, _, _ = prosma(
        "segment", tmp_path / "image.tif", "--model", tmp_path / "flat.safetensors", "--out", tmp_path / "out"
    )
    assert code == 0
    assert np.array_equal(api.read_image(tmp_path / "out" / "image.tif").data, expected)


def test_a_model_of_other_scans_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    scan, _ = phantom_3d(1, (8, 32, 32))
    assert api.segment(scan, "phantom-3d").any()
    (record,) = [record for record in caplog.records if record.name.startswith("prosma_core")]
    assert record.getMessage() == "phantom-3d was trained on synthetic phantoms: on real scans its labels mean nothing."


def test_axes_of_an_array_are_given_back(colors: Segmenter, rng: np.random.Generator) -> None:
    picture = rng.normal(size=(24, 32, 3)).astype(np.float32)
    labels = api.segment(picture, colors, axes="yxc")
    assert labels.shape == (24, 32)
    assert np.array_equal(api.segment(picture.transpose(2, 0, 1), colors, axes="cyx"), labels)
    assert np.array_equal(api.segment(picture.transpose(1, 2, 0), colors, axes="xcy"), labels.T)
    movie = np.stack([picture, picture[::-1]])
    assert np.array_equal(api.segment(movie, colors, axes="tyxc")[0], labels)


def test_affine_and_spacing_are_in_the_order_of_the_array(volume: Segmenter, rng: np.random.Generator) -> None:
    array = rng.normal(size=(12, 20, 22)).astype(np.float32)  # z, y, x
    affine = np.diag([-1.5, 1.25, 3.0, 1.0])  # x runs to the left
    affine[:3, 3] = 10, 20, 30
    own = api.segment(array.T, volume, axes="xyz", affine=affine)
    assert own.shape == array.T.shape
    order = [2, 1, 0, 3]
    turned = api.segment(array, volume, axes="zyx", affine=affine[np.ix_(order, order)])
    assert np.array_equal(own, turned.T)
    mirrored = api.segment(array[:, :, ::-1], volume, spacing=(3.0, 1.25, 1.5))
    assert np.array_equal(mirrored[:, :, ::-1], turned)
    assert np.array_equal(api.segment(array[:, :, ::-1].T, volume, axes="xyz", spacing=(1.5, 1.25, 3.0)), mirrored.T)
    microns = api.segment(array[:, :, ::-1], volume, spacing=(3000, 1250, 1500), unit="µm")
    assert np.array_equal(microns, mirrored)
    assert not np.array_equal(api.segment(array[:, :, ::-1], volume), mirrored)  # unknown size: not resampled


@pytest.mark.parametrize(
    ("shape", "given", "kind", "words"),
    [
        ((4, 5, 6, 7), {}, GeometryError, "give them, such as axes='czyx'"),
        ((32, 32, 3), {}, GeometryError, "axes='yxc' for a picture"),
        ((32, 32), {"axes": "zy"}, GeometryError, "y and x among them"),
        ((32, 32), {"axes": "yxc"}, GeometryError, "one letter"),
        ((32, 32), {"spacing": (1, 1, 1)}, GeometryError, "give one, or 2 of them"),
        ((32, 32), {"spacing": 0}, ConfigError, "more than 0"),
        ((32, 32), {"spacing": 1, "unit": "parsec"}, ConfigError, "unit"),
        ((32, 32), {"unit": "um"}, ConfigError, "Give it as well"),
        ((32, 32), {"affine": np.eye(4)}, GeometryError, "needs (3, 3)"),
        ((32, 32), {"affine": np.diag([0, 0, 1])}, GeometryError, "Spacing"),
        ((32, 32), {"affine": np.eye(3), "spacing": 1}, ConfigError, "Leave out the spacing"),
        ((32, 32), {"overlap": 2}, ConfigError, "overlap"),
        ((32, 32), {"overlaps": 0.5}, ConfigError, "overlaps"),
        ((32, 32), {"entropy": True}, ConfigError, "full=True"),
    ],
)
def test_what_does_not_fit_an_array_is_refused(
    flat: Segmenter, shape: tuple[int, ...], given: dict[str, object], kind: type[ProsmaError], words: str
) -> None:
    with pytest.raises(kind) as raised:
        api.segment(np.ones(shape, np.float32), flat, **given)  # type: ignore[call-overload]
    assert words in str(raised.value)


def test_arrays_that_hold_no_numbers_are_refused(flat: Segmenter) -> None:
    for array in (np.full((32, 32), "a"), np.ones((32, 32), complex), np.full((32, 32), None)):
        with pytest.raises(IntensityError, match="holds no gray values"):
            api.segment(array, flat)
    with pytest.raises(GeometryError):
        api.segment(np.float32(1), flat)


def test_axes_and_affine_of_files_and_scans_are_their_own(flat: Segmenter) -> None:
    image, _ = phantom_2d(3, (40, 56))
    for given in ({"axes": "yx"}, {"affine": np.eye(3)}):
        with pytest.raises(ConfigError, match="has its own"):
            api.segment(image, flat, **given)  # type: ignore[call-overload]


def test_all_results_are_given_when_asked_for(flat: Segmenter) -> None:
    image, _ = phantom_2d(3, (40, 56))
    result = api.segment(image, flat, full=True, probabilities=True, objects=True)
    assert np.array_equal(result.labels.data, api.segment(image, flat))
    assert result.probabilities is not None
    assert result.probabilities.spec.axes == "cyx"
    assert result.objects is not None


# --- Models and files -------------------------------------------------------------------------------------------------


def test_a_model_or_device_that_is_not_there() -> None:
    with pytest.raises(ModelFileError, match="no model 'nothing'"):
        api.load_model("nothing")
    with pytest.raises(DeviceError, match="does not exist"):
        api.load_model("phantom-3d", device="abacus")


def test_labels_are_written_on_the_grid_of_their_image(flat: Segmenter, tmp_path: Path) -> None:
    scan, labels = phantom_3d(0, (8, 32, 40))
    api.write_labels(tmp_path / "a.nii.gz", labels.data, scan, model=flat)
    back = api.read_image(tmp_path / "a.nii.gz")
    assert np.array_equal(back.data, labels.data)
    np.testing.assert_allclose(back.spec.affine, scan.spec.affine)
    assert made_by_model(read_notes(tmp_path / "a.nii.gz"))
    api.write_labels(tmp_path / "b.nii.gz", labels.data.T.astype(int), tmp_path / "a.nii.gz", axes="xyz")
    assert np.array_equal(api.read_image(str(tmp_path / "b.nii.gz")).data, labels.data)
    assert not made_by_model(read_notes(tmp_path / "b.nii.gz"))
    with pytest.raises(OutputError, match="exists already"):
        api.write_labels(tmp_path / "a.nii.gz", labels.data, scan)
    api.write_labels(tmp_path / "a.nii.gz", labels.data * 0, scan, overwrite=True)
    assert not api.read_image(tmp_path / "a.nii.gz").data.any()
    with pytest.raises(GeometryError, match="not on the image's grid"):
        api.write_labels(tmp_path / "c.nii.gz", labels.data[1:], scan)
    with pytest.raises(LabelError, match="integers are needed"):
        api.write_labels(tmp_path / "c.nii.gz", labels.data / 2, scan)
    assert not (tmp_path / "c.nii.gz").exists()


# --- Progress ---------------------------------------------------------------------------------------------------------


def test_progress_hears_every_event_and_may_end_the_job(flat: Segmenter) -> None:
    image, _ = phantom_2d(3, (40, 56))
    events: list[Event] = []
    api.segment(image, flat, progress=events.append)
    tiles = [event for event in events if isinstance(event, TileDone)]
    assert tiles[-1].done == tiles[-1].total == len(tiles)

    def stop(event: Event) -> None:
        if isinstance(event, TileDone):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.segment(image, flat, progress=stop)
    assert api.segment(image, flat).any()


# --- Training and evaluation ------------------------------------------------------------------------------------------


def test_training_from_arrays_stopped_and_resumed(tmp_path: Path) -> None:
    scans = [phantom_2d(seed, (32, 32)) for seed in range(4)]
    pairs = [(image.data.T, labels.data.T) for image, labels in scans]
    out = tmp_path / "model.safetensors"

    def stop(event: Event) -> None:
        if isinstance(event, EpochDone):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.train(iter(pairs), out, axes="xy", spacing=0.3, progress=stop, **TINY)
    assert not out.exists()
    with pytest.raises(OutputError, match="exists already"):
        api.train(pairs, out, axes="xy", spacing=0.3, **TINY)
    with pytest.raises(ConfigError, match="give None as data"):
        api.train(pairs, out, resume=True, **TINY)
    events: list[Event] = []
    result = api.train(None, out, resume=True, progress=events.append)
    assert result.path == out.absolute()
    assert [event.epoch for event in events if isinstance(event, EpochDone)] == [2]
    assert sum(isinstance(event, StepDone) for event in events) == 2
    assert result.header.preprocess.unit == "mm"
    assert result.header.preprocess.spacing == (0.3, 0.3)
    report = api.evaluate(out, pairs, axes="xy", spacing=0.3)
    assert sorted(report["cases"]) == ["pair-1", "pair-2", "pair-3", "pair-4"]
    as_scans = api.evaluate(str(out), scans)
    assert as_scans["cases"] == report["cases"]


def test_training_and_evaluation_of_files_are_those_of_their_folder(
    make_data: Callable[..., Path], tmp_path: Path
) -> None:
    data = make_data(tmp_path / "data")
    result = api.train(data, str(tmp_path / "model.safetensors"), **TINY)
    names = [f"case_{number}.png" for number in range(4)]
    pairs = [(data / "images" / name, str(data / "labels" / name)) for name in names]
    folder, files = api.evaluate(result.path, data), api.evaluate(result.path, pairs)
    assert folder["cases"] == files["cases"]
    assert len(folder["cases"]) == 4


@pytest.mark.parametrize(
    ("pairs", "kind", "words"),
    [
        ([], DatasetError, "No pairs"),
        ([np.zeros((8, 8))], DatasetError, "No pairs"),
        ([(np.zeros((32, 32)), np.zeros((32, 31), int))], GeometryError, "pair 1"),
        ([(np.zeros((32, 32)), np.full((32, 32), 0.5))], LabelError, "integers are needed"),
        ([(np.zeros((32, 32)), np.full((32, 32), -1))], LabelError, "negative"),
    ],
)
def test_pairs_that_cannot_be_trained_on(pairs: list, kind: type[ProsmaError], words: str, tmp_path: Path) -> None:
    with pytest.raises(kind) as raised:
        api.train(pairs, tmp_path / "model.safetensors", **TINY)
    assert words in str(raised.value)


def test_settings_of_a_training_that_cannot_be(tmp_path: Path) -> None:
    pairs = [phantom_2d(seed, (32, 32)) for seed in range(2)]
    with pytest.raises(ConfigError, match=r"training\.epoch"):
        api.train(pairs, tmp_path / "model.safetensors", training={"epoch": 3})
    with pytest.raises(OutputError, match=r"ends in \.safetensors"):
        api.train(pairs, tmp_path / "model.pt")
    with pytest.raises(TrainingError, match="no training to resume"):
        api.train(None, tmp_path / "model.safetensors", resume=True)
    with pytest.raises(ConfigError, match="data folder have their own"):
        api.train(tmp_path, tmp_path / "model.safetensors", axes="yx")
    with pytest.raises(ConfigError, match="data folder have their own"):
        api.evaluate("phantom-3d", tmp_path, affine=np.eye(3))


# --- Inspection -------------------------------------------------------------------------------------------------------


def test_inspection_and_changes_of_an_array(flat: Segmenter) -> None:
    image, labels = phantom_2d(3, (40, 56))
    found = api.inspect(image.data, flat, maps=("removed", "kept"))
    assert [level.level for level in found.inspection.levels] == [0]
    assert sorted(found.maps) == ["level0/kept", "level0/removed"]
    opened = api.what_if(image.data.T, flat, axes="xy", truth=labels.data.T)
    assert [variant.name for variant in opened.variants] == ["level 0 open"]
    assert opened.variants[0].classes[0].truth_before is not None
    assert np.array_equal(opened.unchanged.data, api.segment(image, flat))
    changes = {"low": {"level": 0, "threshold": 0.5}, "closed": [{"level": 0, "state": "closed"}]}
    assert [variant.name for variant in api.what_if(image, flat, changes).variants] == ["low", "closed"]
    for change, words in (({"level": 3}, "no level 3"), ({"levels": 0}, "levels"), ({"level": 0, "threshold": 9}, "9")):
        with pytest.raises(ConfigError, match=words):
            api.what_if(image, flat, {"wrong": change})
    with pytest.raises(ConfigError, match="maps"):
        api.inspect(image, flat, maps=("all",))
    with pytest.raises(GeometryError, match="the reference labels"):
        api.what_if(image, flat, truth=labels.data[1:])


def test_a_scan_without_a_size_takes_the_one_given(volume: Segmenter, rng: np.random.Generator) -> None:
    data = rng.normal(size=(12, 20, 22)).astype(np.float32)
    plain = Scan(data, array_spec(data.shape, "zyx"))
    expected = api.segment(data, volume, spacing=(3, 1.25, 1.5))
    assert np.array_equal(api.segment(plain, volume, spacing=(3, 1.25, 1.5)), expected)
    events: list[Event] = []
    sized = Scan(data, array_spec(data.shape, "zyx", (3.0, 1.25, 1.5), "mm"))
    assert np.array_equal(api.segment(sized, volume, spacing=1, progress=events.append), expected)
    assert any("states a voxel size of its own" in getattr(event, "message", "") for event in events)


# --- Wrong use --------------------------------------------------------------------------------------------------------

RAGGED = [[1.0], [1.0, 2.0]]
PERSPECTIVE = [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


@pytest.mark.parametrize(
    ("image", "given", "kind", "words"),
    [
        (None, {}, GeometryError, "of type NoneType: give an array"),
        (RAGGED, {}, GeometryError, "rows of different lengths"),
        ("x" * 5000, {}, FileFormatError, "does not exist"),
        (np.ones((32, 32)), {"axes": 5}, GeometryError, "Axes 5 do not describe"),
        (np.ones((32, 32)), {"affine": "a"}, GeometryError, "affine is of type str"),
        (np.ones((32, 32)), {"affine": RAGGED}, GeometryError, "affine has rows"),
        (np.ones((32, 32)), {"affine": np.eye(3) * 1j}, GeometryError, "no real numbers"),
        (np.ones((32, 32)), {"affine": PERSPECTIVE}, GeometryError, "last row of the affine"),
    ],
)
def test_what_is_no_image_is_refused(
    flat: Segmenter, image: object, given: dict[str, object], kind: type[ProsmaError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        api.segment(image, flat, **given)  # type: ignore[call-overload]


def test_a_wrong_item_is_named_once(flat: Segmenter) -> None:
    with pytest.raises(ConfigError) as raised:
        api.segment(np.ones((32, 32)), flat, spacing=0)
    assert str(raised.value).count("\n") == 1


def test_models_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"There is no model .*the shipped models are "):
        api.load_model("x" * 5000)
    with pytest.raises(TypeError, match="of type int: give what load_model gave"):
        api.segment(np.ones((32, 32)), 5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="type str: give the one that load_model gave"):
        api.write_labels(tmp_path / "a.tif", np.eye(32, dtype=int), model="phantom-3d")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="The image given as like is of type ndarray"):
        api.write_labels(tmp_path / "a.tif", np.eye(32, dtype=int), np.eye(32))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="axes is of type int"):
        api.read_image(tmp_path / "a.tif", axes=5)  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="not a data folder"):
        api.evaluate("phantom-3d", "x" * 5000)
    with pytest.raises(DatasetError, match="No pairs"):
        api.evaluate("phantom-3d", None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ([1], TypeError, "edits by name"),
        ({5: {"level": 0}}, ConfigError, "must be a text"),
        ({"a": None}, TypeError, "The change 'a'"),
        ({"a": "open"}, ConfigError, "The change 'a'"),
    ],
)
def test_changes_that_are_none_are_refused(flat: Segmenter, changes: object, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        api.what_if(phantom_2d(3, (40, 56))[0], flat, changes)  # type: ignore[arg-type]


def test_the_overlap_of_an_inspection_has_the_bounds_of_a_segmentation(flat: Segmenter) -> None:
    for job in (api.segment, api.inspect, api.what_if):
        with pytest.raises(ConfigError, match="overlap"):
            job(phantom_2d(3, (40, 56))[0], flat, overlap=1)


def test_settings_are_checked_before_arrays_are_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="epochs"):
        api.train([phantom_2d(0, (32, 32))], tmp_path / "model.safetensors", training={"epochs": 0})
    assert list(tmp_path.iterdir()) == []
