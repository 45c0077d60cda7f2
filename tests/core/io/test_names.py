"""Names of files that are made of texts, such as those of models and layers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prosma_core.io.names import safe_name


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("liver", "liver"),
        ("a/b\\c:d", "a_b_c_d"),
        ("  dots... ", "dots"),
        ("CON", "CON_"),
        ("com1.v2", "com1.v2_"),
        ("", "model"),
        ("...", "model"),
        ("Überlauf ß µm", "Überlauf ß µm"),
        ("tab\tline\n", "tab_line_"),
        ("CT/MR liver", "CT_MR liver"),
        ("nul .x", "nul .x_"),
        ("a\u202egnp.exe", "a_gnp.exe"),
        ("\x1b[31mred", "_[31mred"),
        ("e\u0301", "é"),
        ("כבד", "כבד"),
        ("\ud800", "_"),
        ("肝" * 200, "肝" * 50),
    ],
)
def test_names_are_made_safe(given: str, expected: str) -> None:
    assert safe_name(given) == expected


@given(text=st.text(st.characters(), max_size=300))
@example(text="con.")
def test_a_safe_name_is_safe_and_stays(text: str) -> None:
    name = safe_name(text)
    assert name
    assert len(name) <= 101
    assert len(name.encode()) <= 151
    assert not set(name) & set('<>:"/\\|?*\n\0')
    assert safe_name(name) == name
    assert Path(name).name == name
