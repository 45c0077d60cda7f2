"""Whether a model was trained on scans like a given one: how scans are described, and compared."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from prosma_core.config.model import ModelHeader, Purpose, ScanFacts, VoxelSize
from prosma_core.data.fit import compare, misfit, warn_unfit
from prosma_core.data.geometry import Scan, array_spec, with_voxel_size
from prosma_core.data.intensities import COLOR
from prosma_core.data.look import ScanLook, describe, facts_of
from prosma_core.data.phantom import phantom_3d
from prosma_core.errors import ConfigError
from prosma_core.io.bundle import description_text, missed_text, read_header, shipped_models
from prosma_core.io.images import is_image_path, read_image
from prosma_core.io.notes import known_of

HEADERS = {name: read_header(path) for name, path in shipped_models().items()}
MRI = {"dark": 0.02, "lower": 0.33, "middle": 0.55, "upper": 0.78, "entropy": 0.98, "smoothness": 0.9}


def look(sides: tuple[float, ...] = (36, 50, 35), values: dict[str, float] | None = None, **kind: Any) -> ScanLook:
    """A crop of MRI as `hippocampus-mri` was trained on, but for what is given."""
    spec = replace(array_spec((8,) * len(sides), "zyx"[-len(sides) :], (1.0,) * len(sides), "mm"), world="ras")
    made = describe(spec)
    own = {"sides": sides, "spacing": (1.0,) * len(sides), "look": MRI | (values or {})}
    return replace(made, kind=replace(made.kind, **kind), **own)


@pytest.mark.parametrize(
    ("scan", "verdict", "said"),
    [
        (look(), "fits", ""),
        (look(modality="MR"), "fits", ""),
        (look((48, 59, 43)), "fits", ""),  # a little larger than any of 155
        (look((60, 63, 73)), "doubtful", "this scan is 2.1 times larger (60 × 63 × 73 mm)."),
        (look((12, 50, 35)), "doubtful", "this scan is 3 times smaller (12 × 50 × 35 mm)."),
        (look((0.08, 0.032, 0.0325)), "doubtful", "this scan is 1562 times smaller (80 × 32 × 32.5 µm)."),
        (look(modality="CT", guessed=True), "unfit", "this scan looks like CT."),
        (look(modality="PT"), "unfit", "this scan is PT."),
        (look((144, 200, 140), modality="CT", guessed=True), "unfit", "4 times larger (144 × 200 × 140 mm) and looks"),
        (look(values={"dark": 0.5}), "doubtful", "has more dark background than nearly all of these"),
        (look(values={"smoothness": 0.3}), "doubtful", "has a finer texture"),
        (look(values={"dark": 0.5}, world="sized"), "unfit", "has no patient geometry and has more dark background"),
        (look(color=True, channels=3), "unfit", "is in color"),
        (replace(look(), look={}), "unknown", ""),  # voxels that are not in memory
        (replace(look(), spacing=(5.0, 1.0, 1.0)), "doubtful", "has voxels of 5 × 1 × 1 mm instead of 1 × 1 × 1 mm"),
    ],
)  # fmt: skip
def test_a_scan_is_compared_with_the_training_scans(scan: ScanLook, verdict: str, said: str) -> None:
    fit = compare(scan, HEADERS["hippocampus-mri"])
    assert fit.verdict == verdict
    assert said in fit.text
    assert bool(fit.text) == (verdict in {"doubtful", "unfit"})
    if fit.text:
        begin = "hippocampus-mri was trained on T1-weighted MRI cropped around one hippocampus; this scan "
        assert fit.text.startswith(begin)


def test_a_model_of_phantoms_is_for_phantoms_alone() -> None:
    fit = compare(look(), HEADERS["phantom-3d"])
    assert fit.verdict == "unfit"
    assert "on real scans its labels mean nothing" in fit.text
    assert compare(look(synthetic=True), HEADERS["phantom-3d"]).verdict == "fits"


def test_a_picture_that_says_nothing_of_itself_is_neither_meant_nor_warned_of() -> None:
    header = HEADERS["breast-lesion-us"]
    assert header.facts is not None
    usual: Any = {name: middle for name, (_, middle, _) in header.facts.look.items()}
    picture = replace(look((60, 70), world="pixels"), look=usual, unit="pixel")
    assert compare(picture, header).verdict == "unknown"
    assert compare(replace(picture, kind=replace(picture.kind, modality="US")), header).verdict == "fits"
    assert compare(replace(picture, kind=replace(picture.kind, modality="MR")), header).verdict == "unfit"
    assert compare(replace(picture, look=usual | {"smoothness": 0.1}), header).verdict == "doubtful"


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        ((32, 32), "is 6 times smaller (32 × 32 pixels)."),
        ((20_000, 500), "is 57 times larger (20000 × 500 pixels)."),
        ((80, 120), ""),
        ((1000, 1400), ""),  # ultrasound as machines store it
    ],
)
def test_a_picture_of_far_other_size_is_told(sides: tuple[int, int], said: str) -> None:
    header = HEADERS["breast-lesion-us"]
    assert header.facts is not None
    usual: Any = {name: middle for name, (_, middle, _) in header.facts.look.items()}
    fit = compare(replace(look(sides, world="pixels", modality="US"), look=usual, unit="pixel"), header)
    assert fit.verdict == ("doubtful" if said else "fits")
    assert fit.text.endswith(said)


def test_a_model_of_gray_pictures_that_are_stored_as_colors_is_for_gray_ones() -> None:
    old = HEADERS["breast-lesion-us"]
    pre = old.preprocess.replace(channels=COLOR, intensities=old.preprocess.intensities * 3)
    model = old.model.replace(in_channels=3)
    gray, photo = look((60, 70), world="pixels"), look((60, 70), world="pixels", color=True, channels=3)
    for own, other, said in ((gray, photo, "is in color"), (photo, gray, "is gray")):
        header = old.replace(preprocess=pre, model=model, facts=facts_of([own] * 9), purpose=Purpose())
        assert compare(own, header).verdict == "unknown"
        assert said in compare(other, header).text
        assert ("color scans; " in compare(other, header).text) == own.kind.color
    assert "is gray" in compare(gray, old.replace(preprocess=pre, model=model, facts=None)).text


def test_a_model_of_pictures_in_color_and_gray_is_for_both() -> None:
    old = HEADERS["breast-lesion-us"]
    pre = old.preprocess.replace(channels=COLOR, intensities=old.preprocess.intensities * 3)
    model = old.model.replace(in_channels=3)
    gray, photo = look((60, 70), world="pixels"), look((60, 70), world="pixels", color=True, channels=3)
    header = old.replace(preprocess=pre, model=model, facts=facts_of([photo] * 9 + [gray]), purpose=Purpose())
    assert {compare(scan, header).verdict for scan in (gray, photo)} == {"unknown"}
    rare = header.replace(facts=facts_of([photo] * 39 + [gray]))  # a few that are stored wrongly
    assert "is gray" in compare(gray, rare).text


def test_small_voxels_are_given_in_micrometers() -> None:
    small = replace(look((1801, 1901), world="sized"), spacing=(0.00013, 0.00013))
    header = HEADERS["hippocampus-mri"].replace(facts=facts_of([small]), purpose=Purpose())
    other = replace(small, spacing=(0.001, 0.001))
    assert "has voxels of 1 × 1 µm instead of 0.13 × 0.13 µm" in compare(other, header).text


def test_the_texture_of_a_crop_of_known_pixel_size_is_not_compared_with_that_of_whole_images() -> None:
    whole = replace(look((2.0, 2.0), world="sized"), spacing=(0.001, 0.001))
    header = HEADERS["hippocampus-mri"].replace(facts=facts_of([whole] * 9), purpose=Purpose())
    smooth: Any = MRI | {"smoothness": 0.3}
    assert "has a finer texture" in compare(replace(whole, look=smooth), header).text
    assert not compare(replace(whole, look=smooth, sides=(0.5, 0.6)), header).text
    assert "has more dark" in compare(replace(whole, look=smooth | {"dark": 0.9}, sides=(0.5, 0.6)), header).text


def test_few_training_scans_leave_more_room() -> None:
    header = HEADERS["hippocampus-mri"].replace(facts=facts_of([look()]))
    assert compare(look((50, 70, 50)), header).verdict == "fits"
    many = HEADERS["hippocampus-mri"].replace(facts=facts_of([look()] * 100))
    assert compare(look((50, 70, 50)), many).verdict == "doubtful"
    assert compare(look(values={"dark": 0.15}), header).verdict == "fits"
    assert compare(look(values={"dark": 0.15}), many).verdict == "doubtful"


def test_a_model_without_facts_is_compared_by_its_preprocessing() -> None:
    old = HEADERS["hippocampus-mri"].replace(facts=None, purpose=Purpose())
    assert compare(look((144, 200, 140)), old).verdict == "unknown"
    assert "has no patient geometry" in compare(look(world="pixels"), old).text
    assert compare(look(modality="CT"), old).verdict == "unknown"


def test_a_2d_network_may_have_learned_the_slices_of_scans() -> None:
    header = HEADERS["breast-lesion-us"].replace(facts=facts_of([look((80, 200, 200))]), purpose=Purpose())
    assert compare(look((80, 200, 200)), header).verdict == "fits"
    assert "is a single 2D image" in compare(look((200, 200), world="pixels"), header).text


@pytest.mark.parametrize("scale", [1, 1000])
def test_numbers_of_a_look_do_not_depend_on_the_scale_of_the_values(scale: int, rng: np.random.Generator) -> None:
    spec = array_spec((20, 30, 40), "zyx")
    values = rng.integers(0, 200, (20, 30, 40)).cumsum(axis=2).astype(np.float32)
    plain = describe(spec, values).look
    assert describe(spec, values * scale + 5 * scale).look == pytest.approx(plain)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((20, 30), np.uint8),
        np.full((20, 30), np.nan),
        np.where(np.eye(20, 30), np.inf, 1.0),
        np.full((20, 30), 1e300) * np.linspace(-1, 1, 30),
        np.ones((20, 30), bool),
        np.array([["a"] * 30] * 20),
        np.arange(600, dtype=np.uint64).reshape(20, 30) * 2**54,
    ],
    ids=["equal", "nan", "infinite", "huge", "bool", "text", "uint64"],
)
def test_values_that_cannot_be_described_are_left_out(values: np.ndarray) -> None:
    scan = describe(array_spec((20, 30), "yx"), values)
    assert scan.sides == (20, 30)
    assert all(np.isfinite(v) for v in (scan.look or {}).values())
    assert compare(scan, HEADERS["breast-lesion-us"]).verdict in {"unknown", "doubtful"}


def test_a_large_scan_is_sampled_and_one_that_is_not_in_memory_is_left_alone(rng: np.random.Generator) -> None:
    small = rng.integers(0, 200, (8, 128, 128)).cumsum(axis=2).astype(np.float32)
    large = np.broadcast_to(small[:, None], (8, 500, 128, 128)).reshape(-1, 128, 128)
    spec = array_spec(large.shape, "zyx")
    assert describe(spec, large).look == pytest.approx(describe(array_spec(small.shape, "zyx"), small).look, abs=0.05)

    class Lazy:
        shape, dtype, ndim = large.shape, large.dtype, 3

        def __getitem__(self, _: object) -> None:
            raise AssertionError

        __array__ = __getitem__

    assert not describe(spec, Lazy()).look


def test_a_picture_of_equal_colors_but_for_a_few_marks_is_gray(rng: np.random.Generator) -> None:
    spec = replace(array_spec((3, 60, 70), "cyx"), channel_names=COLOR)
    pixels = np.repeat(rng.integers(0, 255, (1, 60, 70), np.uint8), 3, axis=0)
    pixels[0, :3, :3] = 255
    assert not describe(spec, pixels).kind.color
    assert not describe(spec, np.moveaxis(pixels, 0, -1), "yxc").kind.color
    assert describe(spec, rng.integers(0, 255, (3, 60, 70), np.uint8)).kind.color


def test_facts_are_those_of_most_scans() -> None:
    facts = facts_of([look(), look((40, 40, 40)), look((30, 60, 35), modality="MR")])
    assert (facts.scans, facts.dims, facts.world, facts.modality) == (3, 3, "patient", "")
    assert facts.sides == ((30, 36, 40), (40, 50, 60), (35, 35, 40))
    assert facts_of([look(modality="MR")] * 2).modality == "MR"


@pytest.mark.parametrize(
    "wrong",
    [{"sides": [[1, 2, 3]]}, {"spacing": [[0, 1, 1]] * 3}, {"look": {"taste": [0, 1, 2]}}, {"scans": 0}, {"dims": 4}],
)
def test_facts_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ScanFacts.parse(facts_of([look()]).model_dump() | wrong, "the facts")


def test_shipped_models_say_what_they_are_for_and_not_for() -> None:
    said = {name: description_text(header) for name, header in HEADERS.items()}
    assert said["hippocampus-mri"].endswith("Not for: whole heads, CT, other contrasts.")
    assert said["breast-lesion-us"].endswith("Not for: other organs, other modalities, diagnosis.")
    assert said["phantom-3d"].endswith("Not for: real scans.")
    counts = {name: header.facts.scans for name, header in HEADERS.items() if header.facts}
    assert counts.keys() == HEADERS.keys()
    assert counts.items() >= {"breast-lesion-us": 677, "hippocampus-mri": 155, "phantom-3d": 40}.items()


@pytest.mark.parametrize(
    ("training", "modality", "said"),
    [
        ({"start": "a", "train_cases": 3}, "MR", "Fine-tuned from a on 3 scans (MRI). Not for: CT."),
        ({"start": "a", "train_cases": 1}, "", "Fine-tuned from a on 1 scan. Not for: CT."),
        ({"start": "a", "train_cases": 1}, "XA", "Fine-tuned from a on 1 scan (XA). Not for: CT."),
        ({"start": "a"}, "MR", "Fine-tuned from a. Not for: CT."),
        ({"start": "a" * 500, "train_cases": True}, "MR", f"Fine-tuned from {'a' * 80}…. Not for: CT."),
        ({"start": 3, "train_cases": 3}, "MR", "Not for: CT."),
    ],
)
def test_a_tuned_model_says_what_it_was_tuned_from_and_on(training: dict[str, Any], modality: str, said: str) -> None:
    facts = facts_of([look(modality=modality)])
    base = HEADERS["hippocampus-mri"].replace(description="", training=training, facts=facts)
    assert description_text(base.replace(purpose=Purpose(not_for="CT"))) == said


MISSED_OWN = "No lesion found. This model missed (Dice below 0.1) lesion in 2 of 9 held-out images that show it."
NOT_FOUND = "No lesion found. This model found nothing of the lesion in 2 of 9 held-out images that show it."


@pytest.mark.parametrize(
    ("voxels", "training", "said"),
    [
        ({"lesion": 3}, {}, ""),
        (
            {"lesion": 0},
            {},
            "No lesion found. This model missed (Dice below 0.1) lesion in 2 of 30 held-out images that show it.",
        ),
        ({}, {"missed": {"lesion": [2, 9]}}, MISSED_OWN),
        ({}, {"validation_missed": {"lesion": [2, 9]}}, NOT_FOUND),  # in files of earlier versions
        ({}, {"missed": {"lesion": [2, 9]}, "validation_missed": {"lesion": [1, 9]}}, MISSED_OWN),
        ({}, {"validation": "none held out"}, "No lesion found."),
        *[({}, {key: "x"}, "No lesion found.") for key in ("missed", "validation_missed")],
        *[({}, {key: {"lesion": ["a", 3]}}, "No lesion found.") for key in ("missed", "validation_missed")],
    ],
)
def test_an_empty_result_is_said_with_the_known_misses(
    voxels: dict[str, int], training: dict[str, Any], said: str
) -> None:
    header = HEADERS["breast-lesion-us"]
    if training:  # as of a model that a user trained
        known = {key: value for key, value in header.training.items() if key != "not_found"}
        header = header.replace(training=known | training, evaluation=None)
    assert missed_text(header, voxels) == said


@pytest.mark.parametrize(("dims", "shown"), [(2, "slices"), (3, "scans")])
def test_held_out_slices_are_counted_as_slices_of_a_2d_model_and_as_scans_of_a_3d_one(dims: int, shown: str) -> None:
    header = HEADERS["hippocampus-mri"]
    model = header.model.model_copy(update={"dims": dims})
    missed = {c.name: [1, 3] for c in header.classes[1:]}
    header = header.model_copy(
        update={
            "model": model,
            "training": {**header.training, "validation": "slices", "missed": missed},
            "evaluation": None,
        }
    )
    assert f"in 1 of 3 held-out {shown} that show it" in missed_text(header, {})


def test_an_empty_result_of_several_classes_names_them() -> None:
    header: ModelHeader = HEADERS["phantom-3d"]
    known = "This model missed (Dice below 0.1) organ in 0 of 10, lesion in 0 of 10 held-out scans that show it."
    assert missed_text(header, {"organ": 0, "lesion": 0}) == f"No organ or lesion found. {known}"
    assert not missed_text(header, {"organ": 5, "lesion": 0})


Seen = tuple[Scan, dict[str, Any]]
"""A scan, and what its file says of it."""


@pytest.fixture(scope="module")
def scans(data_root: Path) -> dict[str, dict[str, Seen]]:
    """Return the first two validation images of each data set, and all samples, by folder and name."""
    found: dict[str, dict[str, Seen]] = {SAMPLES: {}}
    for folder in sorted(data_root.iterdir()):
        if (folder / "images").is_dir():
            found[folder.name] = {path.name: seen(path) for path in _validation(folder)[:2]}
    for folder in sorted(path for path in (data_root / SAMPLES).iterdir() if path.is_dir()):
        series = any(folder.glob("*.dcm"))
        paths = [folder] if series else [path for path in sorted(folder.iterdir()) if is_image_path(path)]
        found[SAMPLES] |= {f"{folder.name}/{p.name}": seen(p) for p in paths if not p.name.startswith("label")}
    assert len(found[SAMPLES]) > 15
    return found


def seen(path: Path) -> Seen:
    return read_image(path), known_of(path)


def verdict_of(scan: Scan, known: dict[str, Any], header: ModelHeader) -> str:
    """Verdict of a model that can take a scan."""
    assert not misfit(scan, header)
    return compare(describe(scan.spec, scan.data, **known), header).verdict


@pytest.mark.parametrize("name", HEADERS)
def test_no_validation_scan_of_a_shipped_model_is_warned_of(name: str, data_root: Path) -> None:
    header, folder = HEADERS[name], data_root / SETS[name]["data"]
    if header.synthetic:
        assert verdict_of(phantom_3d(7)[0], {"synthetic": True}, header) == "fits"
        return
    sizes = _pixel_sizes(folder) if header.preprocess.resample == "spacing" else {}
    verdicts = set()
    for path in _validation(folder):
        scan, known = seen(path)
        size = sizes.get(path.name.partition(".")[0])
        given = VoxelSize(sizes=(size,), unit="um") if size else None
        verdicts.add(verdict_of(Scan(scan.data, with_voxel_size(scan.spec, given)), known, header))
    assert verdicts == ({"fits"} if header.model.dims == 3 else {"unknown"})  # a picture does not say what it shows


@pytest.mark.parametrize("name", HEADERS)
def test_a_shipped_model_is_silent_on_no_scan_of_another_set_and_warned_of_where_that_can_be_told(
    name: str, scans: dict[str, dict[str, Seen]], caplog: pytest.LogCaptureFixture
) -> None:
    header = HEADERS[name]
    for folder in scans.keys() - {SETS[name]["data"]}:
        for case, (scan, known) in scans[folder].items():
            caplog.clear()
            refused, unknown = misfit(scan, header), warn_unfit(scan, header, case, **known)
            said = "".join(record.getMessage() for record in caplog.records)
            if (name, case) in LIKE_THEIRS:
                assert not refused + said
                continue
            assert bool(refused) or bool(said) != bool(unknown), case
            if unknown and not refused:
                assert (scan.spec.spatial_ndim, scan.spec.unit) == (2, "pixel"), case
                assert unknown.startswith(f"{case}: Nothing tells what this scan shows: check that it is what {name} ")
                assert unknown.endswith(f" ({header.purpose.shows}).")
            for text in filter(None, (refused, said)):
                assert 40 < len(text) < 400


SAMPLES = "ui_samples"
SETS = yaml.safe_load(Path(__file__).parents[3].joinpath("benchmarks", "shipped_models.yaml").read_text("utf-8"))
LIKE_THEIRS = {
    ("hippocampus-mri", "dicom_hippocrop/dicom_hippocrop"),  # a hippocampus of another set
    ("nuclei-fluorescence", "nuclei2d_instances/image.tif"),
}
"""Samples that show what a model was trained on."""


def _validation(folder: Path) -> list[Path]:
    names = json.loads((folder / "splits.json").read_text(encoding="utf-8"))["val"]
    files = {path.name.partition(".")[0]: path for path in (folder / "images").iterdir()}
    return [files[name] for name in names]


def _pixel_sizes(folder: Path) -> dict[str, float]:
    """Pixel sizes in micrometers by case, where the images do not state them and a table does."""
    table = folder / "cases.csv"
    if not table.is_file():
        return {}
    with table.open(encoding="utf-8", newline="") as file:
        return {row["name"]: float(row["pixel_size_um"]) for row in csv.DictReader(file)}
