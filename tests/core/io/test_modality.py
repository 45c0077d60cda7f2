"""The modality of a scan, from its file or its values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prosma_core.data.intensities import looks_ct
from prosma_core.io.dicom import dicom_modality

pydicom_data = pytest.importorskip("pydicom.data")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MR_small.dcm", "MR"),
        ("MR_small_implicit.dcm", "MR"),
        ("MR_small_bigendian.dcm", "MR"),
        ("CT_small.dcm", "CT"),
        ("examples_ybr_color.dcm", "US"),
    ],
)
def test_the_header_says_it(name: str, expected: str, tmp_path: Path) -> None:
    path = Path(pydicom_data.get_testdata_file(name, download=False))
    assert dicom_modality(path) == expected
    (tmp_path / "1.2.3").write_bytes(path.read_bytes())
    (tmp_path / "notes.txt").touch()
    assert dicom_modality(tmp_path) == expected


def test_what_says_none_has_none(tmp_path: Path) -> None:
    assert dicom_modality(tmp_path) == ""
    assert dicom_modality(tmp_path / "missing.dcm") == ""
    for rest in (
        b"",
        b"\x08\x00\x60\x00",
        b"\x08\x00\x60\x00CS\xff\xff" + b"\x1b" * 20,
        b"\x08\x00\x60\x00CS\x02\x00mr",
    ):
        (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + rest)
        assert dicom_modality(tmp_path / "a.dcm") == ""


def test_hounsfield_units_are_whole_numbers_with_air_among_them() -> None:
    values = np.full((4, 90, 90), 40, np.int16)
    assert not looks_ct(values)
    values[:, :20] = -1000
    assert looks_ct(values)
    assert looks_ct(values.astype(np.float32))
    assert not looks_ct(values + np.float32(0.5))
    assert not looks_ct(np.where(values < 0, np.nan, values))
    assert not looks_ct(values.astype(np.uint16))
    assert not looks_ct(values * 30)  # of no scanner
    assert not looks_ct([values])
    big = np.zeros((300, 300, 300), np.int16)
    big[:150] = -1000
    assert looks_ct(big)
