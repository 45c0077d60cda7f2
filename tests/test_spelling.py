"""What people read is spelled the American way: documentation, texts of window and commands, docstrings, comments."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BRITISH = re.compile(
    r"(?:un|mis|re)?(?:label|model|cancel|travel|signal|channel|level|dial|panel|pixel|equal|total|fuel)l(?:ed|ing|ers?)"
    r"|\w*(?:col|neighb|behavi|fav|tum|harb|hon|lab|vap|flav|hum|rum|endeav)our\w*"
    r"|(?:\w*met|lit|cent|fib|calib)re[sd]?|centring"
    r"|\w+is(?:e[ds]?|ing|ations?)|\w+ys(?:e[ds]?|ing)"
    r"|gre(?:y|ys|yscale|yish)|licences?|artefacts?|judgement|learnt|whilst|defences?|programmes?|catalogues?",
    re.IGNORECASE,
)
"""A word of British spelling."""
RIGHT = {
    *("advise", "advised", "arise", "arising", "concise", "denoise", "denoised", "denoising", "elementwise"),
    *(
        "depthwise",
        "exercise",
        "likewise",
        "noise",
        "noises",
        "otherwise",
        "pairwise",
        "precise",
        "promise",
        "promised",
    ),
    *("promises", "raise", "raised", "raises", "raising", "revised", "rise", "rises", "supervised", "surprise", "wise"),
}
"""Words that have the ending of a British one."""
NAMES = re.compile(r"`[^`]*`|\w*_\w+|\w+\.\w+|\b[A-Z]+\b|\blicence(?=[:=])")
"""Of the program: code, constants, attributes, and a setting that keeps its name as model files hold it."""
KEYS = {
    *("licence", "unlabelled", "cancelled"),
    *("kilometre", "metre", "decimetre", "centimetre", "millimetre", "micrometre", "nanometre", "picometre"),
}
"""Texts of files and other programs: a key of model headers, an earlier value of a setting, a state of dask, units."""
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.yaml"), *ROOT.glob("src/**/*.md")]
MODULES = [*ROOT.glob("src/**/*.py"), *ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("docs/*.py"), ROOT / "run.py"]


def british(text: str) -> list[str]:
    words = re.findall(r"[^\W\d_]+", NAMES.sub(" ", text))
    return [word for word in words if BRITISH.fullmatch(word) and word.lower() not in RIGHT]


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Return strings, docstrings and comments of a module with their lines."""
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type in kinds and token.string.strip("\"'") not in KEYS:
            yield token.start[0], token.string


@pytest.mark.parametrize("path", sorted(PAGES), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pages_are_spelled_the_american_way(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [f"{number}: {word}" for number, line in enumerate(lines, 1) for word in british(line)] == []


def test_texts_of_modules_are_spelled_the_american_way() -> None:
    read = [(path, line, text) for path in MODULES for line, text in texts(path)]
    assert len(read) > 10_000
    found = [f"{path.relative_to(ROOT)}:{line}: {word}" for path, line, text in read for word in british(text)]
    assert found == []


def test_the_rule_knows_both_spellings() -> None:
    wrong = "unlabelled colours neighbouring normalised centre millimetres analysed grey cancelling behaviour licence"
    assert british(wrong) == wrong.split()
    assert british("unlabeled colors four hours contour centers installed controlled cancellation license: raise") == []
    assert british("see `normalise`, spec.labelled and slice_centre") == []
