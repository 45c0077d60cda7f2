"""The door to image files: every writer gives back what it got, names are kept, nothing is half-written."""

from __future__ import annotations

import errno
import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prosma_core.data.geometry import AXIS_ORDER, ImageSpec, array_spec
from prosma_core.errors import FileFormatError, GeometryError, LabelError, OutputError, ProsmaError
from prosma_core.io.images import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    is_image_path,
    preflight,
    read_image,
    read_labels,
    result_name,
    stem,
    write_image,
    write_labels,
)
from prosma_core.io.zarr_parts import write_parts

EXACT = [".tif", ".ome.tif", ".tiff", ".zarr", ".ome.zarr"]


@st.composite
def specs(draw: st.DrawFn) -> ImageSpec:
    axes = "".join(a for a in AXIS_ORDER if a in "yx" or draw(st.booleans()))
    shape = tuple(draw(st.integers(1, 4)) for _ in axes)
    spacing = tuple(draw(st.floats(1e-3, 1e3)) for a in axes if a in "zyx")
    return array_spec(shape, axes, spacing, draw(st.sampled_from(["um", "mm", "nm", "m", "angstrom", "inch", "pixel"])))


@given(specs(), st.sampled_from(EXACT))
def test_microscopy_formats_give_back_axes_spacing_unit_and_voxels(spec: ImageSpec, suffix: str) -> None:
    data = np.random.default_rng(0).random(spec.shape, np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a{suffix}")
        write_image(path, data, spec)
        preflight(path)
        again = read_image(path)
    assert np.array_equal(again.data, data)
    assert (again.spec.axes, again.spec.spacing, again.spec.unit) == (spec.axes, spec.spacing, spec.unit)


@given(specs(), st.sampled_from([1, 255, 256, 65535, 65536, 2**32 - 1]), st.sampled_from(EXACT))
def test_labels_come_back_in_the_smallest_type(spec: ImageSpec, most: int, suffix: str) -> None:
    labels = np.zeros(spec.labels_spec().shape, np.int64)
    labels.flat[-1] = most
    with tempfile.TemporaryDirectory() as folder:
        write_labels(Path(folder, f"a{suffix}"), labels, spec)
        again = read_labels(Path(folder, f"a{suffix}"))
    assert np.array_equal(again.data, labels)
    assert again.data.dtype == np.min_scalar_type(most)
    assert again.spec.axes == spec.labels_spec().axes


@pytest.mark.parametrize("suffix", LABEL_SUFFIXES)
def test_every_format_holds_2d_labels(tmp_path: Path, suffix: str) -> None:
    labels = np.arange(12).reshape(3, 4)
    path = tmp_path / f"a{suffix}"
    write_labels(path, labels, array_spec((3, 4), "yx"), provenance={"model": "x"})
    preflight(path)
    again = read_labels(path)
    assert np.array_equal(again.data, labels)
    assert again.spec.axes == "yx"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_micrometres_survive_nifti(tmp_path: Path) -> None:
    spec = array_spec((3, 4, 5), "zyx", (2.0, 0.5, 0.25), "um")
    write_labels(tmp_path / "a.nii.gz", np.zeros(spec.shape, int), spec)
    again = read_labels(tmp_path / "a.nii.gz").spec
    assert (again.spacing, again.unit) == (spec.spacing, "um")


@pytest.mark.parametrize("suffix", [s for s in LABEL_SUFFIXES if s != ".png"])
def test_an_orientation_is_kept_or_its_loss_is_said(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flat = array_spec((3, 4, 5), "zyx", (1.5, 1.0, 1.0), "mm")
    turned = np.eye(4)
    turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    spec = replace(flat, affine=turned @ flat.affine, world="ras", format="dicom")
    with caplog.at_level(logging.WARNING):
        write_labels(tmp_path / f"a{suffix}", np.zeros(spec.shape, int), spec)
    again = read_labels(tmp_path / f"a{suffix}").spec
    kept = again.world == "ras" and np.allclose(again.affine, spec.affine, atol=1e-5)
    assert kept == ("not the orientation" not in caplog.text)
    assert again.spacing == pytest.approx(spec.spacing)
    if suffix.endswith(".zarr"):
        caplog.clear()
        parts = [((slice(None),) * 3, np.zeros(spec.shape, np.uint8))]
        write_parts(tmp_path / f"parts{suffix}", parts, np.dtype(np.uint8), spec, provenance={})
        assert kept == ("not the orientation" not in caplog.text)


@pytest.mark.parametrize(
    ("name", "kept", "result"),
    [
        ("case.nii.gz", "case", "case.nii.gz"),
        ("case.1.nii", "case.1", "case.1.nii"),
        ("x.png", "x", "x.png"),
        ("x.jpg", "x", "x.png"),
        ("x.JPEG", "x", "x.png"),
        ("x.tif", "x", "x.tif"),
        ("x.OME.TIF", "x", "x.OME.TIF"),
        ("x.ome.tiff", "x", "x.ome.tiff"),
        ("x.zarr", "x", "x.zarr"),
        ("x.ome.zarr", "x", "x.ome.zarr"),
        ("x.nrrd", "x", "x.nrrd"),
        ("x.mha", "x", "x.mha"),
    ],
)
def test_results_keep_the_stem(name: str, kept: str, result: str) -> None:
    assert stem(Path(name)) == kept
    assert result_name(Path(name), array_spec((2, 2), "yx")) == result
    assert is_image_path(Path(name))


def test_other_names_and_folders_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert not is_image_path(tmp_path)
    assert not is_image_path(tmp_path / "notes.txt")
    assert not is_image_path(Path(".png"))


@pytest.mark.parametrize("suffix", LABEL_SUFFIXES)
def test_existing_results_are_only_replaced_on_request(tmp_path: Path, suffix: str) -> None:
    path, spec = tmp_path / f"a{suffix}", array_spec((3, 4), "yx")
    write_labels(path, np.zeros((3, 4), int), spec, provenance={"program": "prosma"})
    with pytest.raises(OutputError, match="--overwrite"):
        write_labels(path, np.ones((3, 4), int), spec)
    assert not read_labels(path).data.any()
    write_labels(path, np.ones((3, 4), int), spec, overwrite=True)
    assert read_labels(path).data.all()


@pytest.mark.parametrize("name", ["a.jpg", "a.txt", "a"])
def test_a_suffix_that_holds_no_labels_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=name):
        write_labels(tmp_path / name, np.zeros((3, 4), int), array_spec((3, 4), "yx"))
    assert not list(tmp_path.iterdir())


def test_labels_of_another_shape_or_kind_are_refused(tmp_path: Path) -> None:
    spec = array_spec((2, 3, 4), "cyx")
    with pytest.raises(GeometryError, match=r"\(3, 5\)"):
        write_labels(tmp_path / "a.tif", np.zeros((3, 5), int), spec)
    with pytest.raises(LabelError, match="float64"):
        write_labels(tmp_path / "a.tif", np.zeros((3, 4)), spec)
    with pytest.raises(LabelError, match="-1"):
        write_labels(tmp_path / "a.tif", np.full((3, 4), -1), spec)
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_when_a_format_cannot_hold_the_array(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_labels(tmp_path / "a.png", np.zeros((2, 3, 4), int), array_spec((2, 3, 4), "zyx"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "library"), [("a.tif", "tifffile.imwrite"), ("a.zarr", "zarr.create_array")])
def test_nothing_is_left_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str
) -> None:
    def fill_the_disk(place: Path | str, *_: object, **__: object) -> None:
        Path(place).parent.mkdir(exist_ok=True)
        Path(place).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(library, fill_the_disk)
    with pytest.raises(OutputError, match="No space left"):
        write_labels(tmp_path / name, np.zeros((3, 4), int), array_spec((3, 4), "yx"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [s for s in IMAGE_SUFFIXES if "zarr" not in s])
@pytest.mark.parametrize("check", [preflight, read_image, read_labels])
def test_missing_empty_and_random_files_are_refused(
    tmp_path: Path, rng: np.random.Generator, suffix: str, check: Any
) -> None:
    path = tmp_path / f"a{suffix}"
    with pytest.raises(FileFormatError, match="does not exist"):
        check(path)
    path.write_bytes(b"")
    with pytest.raises(FileFormatError, match="is empty"):
        check(path)
    path.write_bytes(rng.bytes(1000))
    for beside in (".rec", ".img", ".brik"):
        (tmp_path / f"a{beside}").write_bytes(rng.bytes(1000))
    with pytest.raises(FileFormatError, match="damaged"):
        check(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(FileFormatError, match="is a folder"):
        check(path)


@pytest.mark.parametrize(("name", "text"), [("a.txt", ".nii.gz"), ("a.img", "pair"), ("a", ".png")])
def test_unknown_formats_say_what_is_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(FileFormatError, match=text):
        read_image(tmp_path / name)


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut, flip or overwrite some bytes."""
    broken = bytearray(content)
    match rng.integers(3):
        case 0:
            return bytes(broken[: rng.integers(len(broken))])
        case 1:
            for _ in range(3):
                broken[rng.integers(len(broken))] ^= 1 << rng.integers(8)
        case _:
            for _ in range(3):
                broken[rng.integers(min(len(broken), 400))] = rng.integers(256)
    return bytes(broken)


@pytest.mark.parametrize("suffix", LABEL_SUFFIXES)
def test_damage_gives_our_error_or_an_array(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    path, spec = tmp_path / f"a{suffix}", array_spec((4, 16, 17), "zyx", (2.0, 0.5, 0.5), "um")
    labels = rng.integers(0, 300, spec.shape)
    if suffix == ".png":
        spec, labels = array_spec((16, 17), "yx"), labels[0]
    write_labels(path, labels, spec)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    refused = 0
    for _ in range(60):
        file = files[rng.integers(len(files))]
        whole = file.read_bytes()
        file.write_bytes(damage(whole, rng))
        try:
            read_image(path)
        except ProsmaError:
            refused += 1
        file.write_bytes(whole)
    assert refused > 10
    assert np.array_equal(read_labels(path).data, labels)
