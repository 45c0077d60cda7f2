"""NIfTI: what nibabel alone finds in a result is the geometry of the scan, to the last bit."""

from __future__ import annotations

import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from prosma_core.data.geometry import ImageSpec
from prosma_core.errors import FileFormatError, GeometryError, LabelError, ProsmaError
from prosma_core.io.images import preflight, read_image, read_labels, write_image, write_labels
from prosma_core.io.nifti import create_nifti, read_nifti, write_nifti


@dataclass(frozen=True)
class Header:
    """One way to say in a NIfTI header where the voxels lie."""

    angles: tuple[float, float, float]
    zooms: tuple[float, float, float]
    offset: tuple[float, float, float]
    flip: bool
    qform_code: int
    sform_code: int
    shear: float
    units: str
    shape: tuple[int, ...]
    dtype: str
    version: int

    def affine(self) -> np.ndarray:
        matrix = np.eye(3)
        for axis, angle in enumerate(self.angles):
            c, s = np.cos(angle), np.sin(angle)
            turn = np.eye(3)
            i, j = [k for k in range(3) if k != axis]
            turn[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
            matrix = turn @ matrix
        affine = np.eye(4)
        affine[:3, :3] = matrix * np.array(self.zooms) * ([-1, 1, 1] if self.flip else 1)
        affine[:3, 3] = self.offset
        return affine

    def image(self) -> Any:
        cls = nib.Nifti1Image if self.version == 1 else nib.Nifti2Image
        data = np.arange(np.prod(self.shape)).reshape(self.shape).astype(self.dtype)
        image = cls(data, self.affine())
        image.set_qform(self.affine(), self.qform_code)
        sheared = self.affine()
        sheared[0, 1] += self.shear
        image.set_sform(sheared, self.sform_code)
        image.header.set_xyzt_units(self.units, "sec")
        try:
            image.header.get_qform()
        except ValueError:  # nibabel cannot read back some turns that it rounded itself
            reject()
        return image


angle = st.floats(-3.1, 3.1)
headers = st.builds(
    Header,
    angles=st.tuples(angle, angle, angle),
    zooms=st.tuples(*[st.floats(0.05, 12)] * 3),
    offset=st.tuples(*[st.floats(-500, 500)] * 3),
    flip=st.booleans(),
    qform_code=st.sampled_from([0, 1, 2]),
    sform_code=st.sampled_from([0, 1, 2, 3, 4]),
    shear=st.sampled_from([0.0, 0.01]),
    units=st.sampled_from(["mm", "micron", "unknown"]),
    shape=st.lists(st.integers(1, 4), min_size=3, max_size=4).map(tuple),
    dtype=st.sampled_from(["<i2", ">i2", "<u1", ">f4", "<f8", ">u2"]),
    version=st.sampled_from([1, 2]),
)


@given(headers, st.sampled_from(["case.nii.gz", "case.nii"]))
def test_labels_carry_class_affine_forms_codes_units_and_zooms(header: Header, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, name), Path(folder, f"labels-{name}")
        header.image().to_filename(source)
        scan = read_image(source)
        labels = np.arange(np.prod(scan.spec.shape)).reshape(scan.spec.shape)
        write_labels(result, labels, scan.spec)
        before, after = nib.load(source), nib.load(result)
        assert type(after) is type(before)
        assert np.array_equal(after.affine, before.affine)
        for form in ("get_qform", "get_sform"):
            assert np.array_equal(getattr(after.header, form)(), getattr(before.header, form)())
        for field in ("qform_code", "sform_code", "xyzt_units"):
            assert after.header[field] == before.header[field]
        assert after.header.get_zooms()[:3] == before.header.get_zooms()[:3]
        assert np.array_equal(np.asarray(after.dataobj), labels.T)
        assert after.get_data_dtype() == np.uint8
        again = read_labels(result)
        assert np.array_equal(again.data, labels)
        assert np.array_equal(again.spec.affine, scan.spec.affine)


@given(headers)
def test_voxels_are_those_nibabel_reads_in_reversed_axis_order(header: Header) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "case.nii.gz")
        header.image().to_filename(path)
        scan, image = read_image(path), nib.load(path)
        voxels = np.asarray(image.dataobj)
        voxels = voxels[..., 0] if voxels.ndim == 4 and voxels.shape[3] == 1 else voxels
        assert np.array_equal(scan.data, voxels.T)
        assert scan.data.dtype.isnative
        assert scan.data.dtype == voxels.dtype.newbyteorder("=")
        assert np.array_equal(scan.spec.affine[::-1, ::-1][1:, 1:], image.affine[:3, :3])
        assert scan.spec.unit == ("um" if header.units == "micron" else "mm")


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.Nifti1Image(data, np.eye(4) if affine is None else affine).to_filename(path)
    return path


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 4), "yx"),
        ((3, 4, 1), "zyx"),
        ((3, 4, 5, 1), "zyx"),
        ((3, 4, 5, 2), "tzyx"),
        ((3, 4, 5, 1, 2), "czyx"),
        ((3, 4, 5, 6, 2), "tczyx"),
        ((3, 4, 1, 6), "tzyx"),
    ],
)
def test_dimensions_become_axes(tmp_path: Path, shape: tuple[int, ...], axes: str) -> None:
    spec = read_image(save(tmp_path / "a.nii.gz", np.zeros(shape, np.uint8))).spec
    assert spec.axes == axes
    sizes = dict(zip("xyztc", shape, strict=False))
    assert spec.shape == tuple(sizes[letter] for letter in axes)


def test_named_axes_replace_the_guess(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.arange(120).reshape(2, 3, 4, 5).astype(np.uint8))
    assert read_image(path, axes="xyzc").spec.axes == "czyx"
    with pytest.raises(GeometryError, match="t, c, z, y, x"):
        read_image(path, axes="xyzq")
    with pytest.raises(GeometryError, match="4"):
        read_image(path, axes="xyz")


def test_named_axes_in_another_order_turn_the_affine_along(tmp_path: Path) -> None:
    affine = np.diag([2.0, 3.0, 5.0, 1.0])
    path = save(tmp_path / "a.nii.gz", np.zeros((2, 3, 4), np.uint8), affine)
    spec = read_image(path, axes="zyx").spec
    assert spec.shape == (2, 3, 4)
    assert spec.spacing == (2.0, 3.0, 5.0)
    assert spec.orientation == "SAR"


def test_a_plane_and_time_can_be_named(tmp_path: Path) -> None:
    affine = np.diag([2.0, 3.0, 5.0, 1.0])
    spec = read_image(save(tmp_path / "a.nii", np.zeros((2, 3, 4), np.uint8), affine), axes="xyt").spec
    assert (spec.axes, spec.shape, spec.spacing) == ("tyx", (4, 3, 2), (3.0, 2.0))


def test_scaled_integers_become_physical_float32(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    image = nib.Nifti1Image(np.linspace(-1, 1, 24).reshape(2, 3, 4), np.eye(4), header)
    image.to_filename(tmp_path / "a.nii.gz")
    scan = read_image(tmp_path / "a.nii.gz")
    assert scan.data.dtype == np.float32
    assert np.allclose(scan.data, nib.load(tmp_path / "a.nii.gz").get_fdata().T, atol=1e-6)
    write_labels(tmp_path / "b.nii.gz", np.ones(scan.spec.shape, np.uint8), scan.spec)
    assert nib.load(tmp_path / "b.nii.gz").get_fdata().max() == 1


def test_rgb_voxels_become_channels(tmp_path: Path) -> None:
    rgb = np.zeros((2, 3, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    rgb["G"] = 7
    rgb["B"][1, 2, 3] = 9
    scan = read_image(save(tmp_path / "a.nii.gz", rgb))
    assert (scan.spec.axes, scan.spec.shape) == ("czyx", (3, 4, 3, 2))
    assert scan.data[:, 3, 2, 1].tolist() == [0, 7, 9]
    assert scan.data[:, 0, 0, 0].tolist() == [0, 7, 0]


@pytest.mark.parametrize("axes_shape", [("yx", (3, 4)), ("czyx", (2, 3, 4, 5)), ("tczyx", (2, 3, 4, 5, 6))])
def test_images_with_channels_and_frames_come_back(tmp_path: Path, axes_shape: tuple[str, tuple[int, ...]]) -> None:
    axes, shape = axes_shape
    source = read_image(save(tmp_path / "a.nii.gz", np.zeros(tuple(reversed(shape[-3:])), np.uint8))).spec
    spec = source if axes == "yx" else source.with_channels(tuple("abcdef"[: shape[axes.index("c")]]))
    if "t" in axes:
        spec = read_image(save(tmp_path / "t.nii", np.zeros((6, 5, 4, 2, 3), np.uint8))).spec
    data = np.random.default_rng(0).random(spec.shape, np.float32)
    write_image(tmp_path / "p.nii.gz", data, spec)
    again = read_image(tmp_path / "p.nii.gz")
    assert again.spec.axes == axes
    assert np.array_equal(again.data, data)


def test_provenance_is_in_the_header_and_whole_in_an_extension(tmp_path: Path) -> None:
    spec = read_image(save(tmp_path / "a.nii.gz", np.zeros((2, 3, 4), np.uint8))).spec
    write_labels(tmp_path / "b.nii.gz", np.zeros(spec.shape, int), spec, provenance={"model": "µ" * 100})
    header = nib.load(tmp_path / "b.nii.gz").header
    assert header["descrip"].item().startswith(b"model=")
    assert header.extensions[0].get_code() == 6
    assert b"model" in header.extensions[0].get_content()


def test_float_labels_with_whole_values_are_taken(tmp_path: Path) -> None:
    labels = read_labels(save(tmp_path / "a.nii.gz", np.full((2, 3, 4), 3.0)))
    assert labels.data.dtype == np.uint8
    assert labels.data.max() == 3


@pytest.mark.parametrize(("value", "text"), [(0.5, "0.5"), (-1.0, "-1"), (np.nan, "nan"), (np.inf, "inf")])
def test_fractions_and_negatives_are_no_labels(tmp_path: Path, value: float, text: str) -> None:
    data = np.zeros((2, 3, 4))
    data[1, 1, 1] = value
    with pytest.raises(LabelError, match=text):
        read_labels(save(tmp_path / "a.nii.gz", data))


def patched(path: Path, offset: int, content: bytes) -> Path:
    whole = bytearray(path.read_bytes())
    whole[offset : offset + len(content)] = content
    path.write_bytes(bytes(whole))
    return path


def test_a_header_that_declares_gigabytes_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.zeros((2, 3, 4), np.uint8))
    path.write_bytes(path.read_bytes()[:352])
    patched(path, 40, np.array([3, 1300, 1300, 1300], "<i2").tobytes())
    with pytest.raises(FileFormatError, match="2197000000 bytes"):
        read_image(path)


def test_an_axis_of_no_voxels_is_refused(tmp_path: Path) -> None:
    path = patched(save(tmp_path / "a.nii", np.zeros((2, 3, 4), np.uint8)), 42, b"\0\0")
    with pytest.raises(GeometryError, match="without voxels"):
        read_image(path)


@pytest.mark.parametrize("check", [preflight, read_image])
@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_an_affine_that_cannot_be_inverted_is_refused(tmp_path: Path, check: Any, value: float) -> None:
    path = save(tmp_path / "a.nii", np.zeros((2, 3, 4), np.uint8))
    patched(path, 280, np.array([value, 0, 0, 0], "<f4").tobytes())
    with pytest.raises(GeometryError, match=r"affine|Spacing"):
        check(path)


@pytest.mark.parametrize("check", [preflight, read_image])
def test_every_flipped_bit_of_a_packed_file_is_seen(tmp_path: Path, rng: np.random.Generator, check: Any) -> None:
    path = save(tmp_path / "a.nii.gz", rng.integers(0, 9, (9, 8, 7)).astype(np.uint8))
    whole = path.read_bytes()
    for offset in range(10, len(whole), 7):  # the first ten bytes only say when and where it was packed
        path.write_bytes(whole)
        patched(path, offset, bytes([whole[offset] ^ 4]))
        with pytest.raises((FileFormatError, GeometryError)):
            check(path)


def test_one_half_of_a_pair_is_refused(tmp_path: Path) -> None:
    nib.Nifti1Pair(np.zeros((2, 3, 4), np.uint8), np.eye(4)).to_filename(tmp_path / "a.hdr")
    (tmp_path / "a.hdr").rename(tmp_path / "a.nii")
    with pytest.raises(FileFormatError, match=r"half of a \.hdr/\.img pair"):
        read_image(tmp_path / "a.nii")


def test_complex_voxels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="complex"):
        read_image(save(tmp_path / "a.nii", np.zeros((2, 3, 4), np.complex64)))


@pytest.mark.parametrize(("codes", "said"), [((0, 0), True), ((1, 0), False), ((0, 1), False)])
def test_a_header_without_orientation_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, codes: tuple[int, int], said: bool
) -> None:
    affine = np.diag([2.0, 3, 4, 1])
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    image.to_filename(tmp_path / "a.nii")
    spec = read_image(tmp_path / "a.nii").spec
    assert ("gives no orientation (qform and sform codes are 0)" in caplog.text) == said
    assert np.array_equal(spec.affine[::-1, ::-1][1:, 1:], nib.load(tmp_path / "a.nii").affine[:3, :3])
    write_labels(tmp_path / "b.nii", np.zeros(spec.shape, int), spec)
    header = nib.load(tmp_path / "b.nii").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == codes


FIELDS = {"scl_slope": 112, "scl_inter": 116, "pixdim": 80, "srow_x": 280, "sform_code": 254, "bitpix": 72, "dim": 40}


@pytest.mark.parametrize(
    ("field", "code", "values", "problem"),
    [
        ("scl_slope", "f", [np.nan], None),
        ("scl_slope", "f", [np.inf], None),
        ("scl_slope", "f", [0.0], None),
        ("scl_inter", "f", [np.inf], "damaged"),
        ("srow_x", "4f", [np.nan] * 4, "not finite"),
        ("srow_x", "12f", [0.0] * 12, "not invertible"),
        ("sform_code", "h", [99], None),
        ("bitpix", "h", [7], None),
        ("dim", "8h", [0, 2, 3, 4, 1, 1, 1, 1], "without voxels"),
        ("dim", "8h", [3, 0, 3, 4, 1, 1, 1, 1], "without voxels"),
        ("dim", "8h", [3, -4, 3, 4, 1, 1, 1, 1], "damaged"),
        ("dim", "8h", [8, 2, 3, 4, 1, 1, 1, 1], "damaged"),
    ],
)
def test_header_values_are_accepted_or_refused(
    tmp_path: Path, field: str, code: str, values: list[float], problem: str | None
) -> None:
    path = save(tmp_path / "a.nii", np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    content = bytearray(path.read_bytes())
    struct.pack_into(f"<{code}", content, FIELDS[field], *values)
    path.write_bytes(content)
    if problem is None:
        scan = read_image(path)
        assert np.array_equal(scan.data, np.arange(24).reshape(2, 3, 4).T)
        assert np.isfinite(scan.spec.affine).all()
    else:
        with pytest.raises(ProsmaError, match=problem):
            read_image(path)


def save_scaled(path: Path, value: float, slope: float) -> Path:
    """A file of one value, stored as a whole number times a slope."""
    image = nib.Nifti1Image(np.full((4, 5, 6), round(value / slope), np.uint16), np.eye(4))
    image.header.set_slope_inter(slope, 0)
    image.to_filename(path)
    return path


@pytest.mark.parametrize(
    ("value", "slope", "label"),
    [(1 / 256, 1 / 256, 0), (254 / 255, 1 / 255, 1), (0.996, 0.003984, 1), (1.0, 3 / 65535, 1), (1.9, 0.1, 2)],
)
def test_labels_of_scaled_files_are_rounded_within_the_step_of_their_slope(
    tmp_path: Path, value: float, slope: float, label: int
) -> None:
    assert (read_labels(save_scaled(tmp_path / "l.nii", value, slope)).data == label).all()


def test_a_scaled_value_that_is_no_class_number_names_the_slope(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"contain 0\.92 \(stored as whole numbers times 0\.04, the slope"):
        read_labels(save_scaled(tmp_path / "l.nii", 0.92, 0.04))


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_voxels_start_behind_the_header_or_the_file_is_damaged(tmp_path: Path, kind: type) -> None:
    data = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
    nib.save(kind(data, np.eye(4)), tmp_path / "a.nii")
    whole = (tmp_path / "a.nii").read_bytes()
    at, form = (108, "<f") if kind is nib.Nifti1Image else (168, "<q")
    for offset in (0, 1, 351, -8):
        packed = struct.pack(form, offset)
        (tmp_path / "b.nii").write_bytes(whole[:at] + packed + whole[at + len(packed) :])
        if offset == 0:  # as some programs write it: nothing stands between header and voxels
            assert np.array_equal(read_image(tmp_path / "b.nii").data, data.T)
        else:
            with pytest.raises(FileFormatError, match="damaged"):
                read_image(tmp_path / "b.nii")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("axes", "shape"), [("zyx", (4, 5, 6)), ("tczyx", (2, 3, 4, 5, 6)), ("czyx", (3, 4, 5, 6)), ("zyx", (2, 3, 40_000))]
)
def test_a_file_that_is_filled_part_by_part_is_that_written_at_once(
    axes: str, shape: tuple[int, ...], order: str, tmp_path: Path
) -> None:
    affine = np.array([[0, 0, -2, 30.0], [-1, 0, 0, 5], [0, 1.5, 0, -70], [0, 0, 0, 1]])
    spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist())
    spec = ImageSpec(axes, shape, spacing, "mm", affine, "ras", header=nib.Nifti1Header(endianness=order))
    data = np.random.default_rng(0).integers(-999, 999, shape).astype(np.int16)
    write_nifti(tmp_path / "whole.nii", data, spec, {})
    made = create_nifti(tmp_path / "parts.nii", data.dtype, spec)
    for start in range(0, shape[-2], 2):
        at = (*[slice(0, n) for n in shape[:-2]], slice(start, start + 2), slice(0, shape[-1]))
        made[at] = data[at]
    parts, whole = (nib.load(tmp_path / name) for name in ("parts.nii", "whole.nii"))
    for each in (parts, whole):
        assert each.header.get_slope_inter() == (None, None)
        each.header["scl_slope"] = each.header["scl_inter"] = 0  # none, however it is written
    assert parts.header == whole.header
    offset = parts.dataobj.offset
    assert (tmp_path / "parts.nii").read_bytes()[offset:] == (tmp_path / "whole.nii").read_bytes()[offset:]
    np.testing.assert_array_equal(read_nifti(tmp_path / "parts.nii", None).data, data)
