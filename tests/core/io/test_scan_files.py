"""Which scans are meant: lists, trees of folders, parts of them, and where their results lie."""

from __future__ import annotations

import io
import os
import random
import sys
from pathlib import Path

import pytest

from prosma_core.errors import ConfigError, DatasetError
from prosma_core.io.scan_files import ScanChoice, collect_scans, of_part, parse_part, read_list, target_name


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a BIDS tree of three subjects, whose files are empty."""
    for subject in ("01", "02", "10"):
        for name in ("anat/T1w.nii.gz", "anat/._T1w.nii.gz", "func/bold.nii.gz"):
            path = tmp_path / "bids" / f"sub-{subject}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    for name in ("derivatives/old/T1w.nii.gz", ".git/T1w.nii.gz"):
        path = tmp_path / "bids" / name
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / "bids" / "dataset_description.json").write_text("{}")
    return tmp_path / "bids"


def found(choice: ScanChoice, out: Path | None = None) -> list[str]:
    return [target_name(scan).as_posix() for scan in collect_scans(choice, ("a",), out)]


T1 = [f"sub-{n}/anat/T1w.nii.gz" for n in ("01", "02", "10")]


def test_results_of_a_tree_lie_as_its_scans_do(tree: Path) -> None:
    assert found(ScanChoice((tree,), recursive=True, match="*T1w.nii.gz")) == T1
    assert len(found(ScanChoice((tree,), recursive=True))) == 6
    subjects = tuple(sorted(tree.glob("sub-*")))
    assert found(ScanChoice(subjects, recursive=True, match="T1w*")) == T1
    files = tuple(sorted(tree.glob("sub-*/anat/T1w.nii.gz")))
    assert found(ScanChoice(files)) == ["T1w.nii.gz"] * 3
    assert found(ScanChoice(files, root=tree)) == T1
    with pytest.raises(ConfigError, match="does not lie below --root"):
        found(ScanChoice(files, root=subjects[0]))
    with pytest.raises(DatasetError, match=r"bids holds no scan of a known format\. .* --recursive for folders in it"):
        found(ScanChoice((tree,)))


def test_results_of_an_earlier_run_in_the_tree_are_no_scans(tree: Path) -> None:
    out = tree / "results"
    (out / "sub-01" / "anat").mkdir(parents=True)
    (out / "sub-01" / "anat" / "T1w.nii.gz").touch()
    assert found(ScanChoice((tree,), recursive=True, match="T1w*"), out) == T1


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_folder_that_is_linked_in_circles_is_gone_through_once(tree: Path) -> None:
    (tree / "sub-01" / "again").symlink_to(tree, target_is_directory=True)
    assert found(ScanChoice((tree,), recursive=True, match="T1w*")) == T1


def test_series_below_a_dicomdir_are_found(tmp_path: Path) -> None:
    for name in ("DICOMDIR", "p/s1/1.dcm", "p/s2/1.dcm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0" * 128 + b"DICM")
    assert found(ScanChoice((tmp_path,), recursive=True)) == ["p/s1.nii.gz", "p/s2.nii.gz"]


def test_parts_are_disjoint_and_complete_in_whatever_order_scans_are_found(tree: Path) -> None:
    files = [path for path in tree.rglob("*.nii.gz") if not path.name.startswith(".")]
    whole: list[tuple[Path, ...]] = []
    for number in (1, 2, 3):
        parts = []
        for seed in range(3):
            random.Random(seed).shuffle(files)
            scans = collect_scans(ScanChoice(tuple(files), root=tree), ("a",))
            parts.append({scan.files for scan, ours in zip(scans, of_part(scans, (number, 3)), strict=True) if ours})
        assert parts[0] == parts[1] == parts[2]
        assert len(parts[0]) in (2, 3)
        whole += parts[0]
    assert len(whole) == len(set(whole)) == len(files)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "1", "1/", "a/b", "-1/2", "1/2/3", ""])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="give NUMBER/PARTS, counted from 1"):
        parse_part(text)
    assert parse_part(" 2/8 ") == (2, 8)


def test_lists_in_each_form_name_the_same_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    for name in ("a b.tif", "#1.tif"):
        (tmp_path / "data" / name).touch()
    monkeypatch.chdir(tmp_path)
    wanted = (Path("data/a b.tif"), tmp_path / "x.tif")
    texts = {
        "list.txt": f"# scans\r\n\r\ndata/a b.tif\r\n  {tmp_path / 'x.tif'}\r\ndata/a b.tif\r\n",
        "list.csv": f'\ufeffid,path,age\n1,data/a b.tif,30\n2,"{tmp_path / "x.tif"}",40\n',
        "bare.csv": f"data/a b.tif,30\n{tmp_path / 'x.tif'},40\n",
        "list.tsv": f"scan\tage\ndata/a b.tif\t30\n{tmp_path / 'x.tif'}\t40\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        assert read_list(Path(name)) == wanted, name
    (tmp_path / "data" / "beside.txt").write_text("a b.tif\n./#1.tif\n")
    assert read_list(Path("data/beside.txt")) == (Path("data/a b.tif"), Path("data/#1.tif"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"data/a b.tif\n")))
    assert read_list(Path("-")) == wanted[:1]


def test_lists_that_cannot_be_used_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists").mkdir()
    for name in ("a.tif", "lists/a.tif"):
        (tmp_path / name).write_text(name)
    contents = {"lists/two.txt": (b"a.tif\n", "could be"), "scan.nii": (b"n+1\0", "is no list of scans"),
                "empty.txt": (b"# none\n\n", "holds no path")}  # fmt: skip
    for name, (content, reason) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=reason):
            read_list(Path(name))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_list(Path("absent.txt"))
