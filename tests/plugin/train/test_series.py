"""Which scans a series holds, how far they are, and that nothing of it is lost; no Qt."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

import pytest

from napari_prosma.train import series as module
from napari_prosma.train.pairs import splits_of
from napari_prosma.train.series import Series, find_scans
from prosma_core.data.slices import SliceStates
from prosma_core.errors import DatasetError, OutputError
from prosma_core.io.names import stem


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(root: Path) -> dict[str, int]:
    """Names of the scans, and how many files each has."""
    return {scan.name: len(scan.images) for scan in find_scans(root)}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("b.nii.gz", "a.png", "notes.txt", "._a.png"), {"a.png": 1, "b.nii.gz": 1}),
        (("p1/scan.nii.gz", "p2/scan.nii.gz"), {"p1/scan.nii.gz": 1, "p2/scan.nii.gz": 1}),
        (("x_0000.nii.gz", "x_0001.nii.gz", "y_0000.nii.gz", "y_0001.nii.gz"), {"x": 2, "y": 2}),
        (("f_0000.png", "f_0001.png"), {"f_0000.png": 1, "f_0001.png": 1}),
        (("f_0001.nii.gz", "f_0002.nii.gz"), {"f_0001.nii.gz": 1, "f_0002.nii.gz": 1}),
        (("x_0000.nii.gz", "other.nii.gz"), {"x_0000.nii.gz": 1, "other.nii.gz": 1}),
        (("images/a.png", "images/b.png", "labels/a.png"), {"images/a.png": 1, "images/b.png": 1}),
        (("imagesTr/a_0000.png", "imagesTr/a_0001.png", "labelsTr/a.png"), {"imagesTr/a": 2}),
        (
            ("imagesTr/f_0000.png", "imagesTr/f_0001.png", "labelsTr/f_0001.png"),
            {"imagesTr/f_0000.png": 1, "imagesTr/f_0001.png": 1},
        ),
        (
            tuple(f"imagesTr/f_{i:04d}.png" for i in range(9)),
            {f"imagesTr/f_{i:04d}.png": 1 for i in range(9)},
        ),
        (
            ("imagesTr/f_0000.png", "imagesTr/f_0000.nii.gz"),
            {"imagesTr/f_0000.nii.gz": 1, "imagesTr/f_0000.png": 1},
        ),
        (
            ("imagesTr/a_0000.png", "imagesTr/a_0001.png", "imagesTr/b.png", "labelsTr/a.png", "labelsTr/b.png"),
            {"imagesTr/a": 2, "imagesTr/b.png": 1},
        ),
        (("dicom/1.dcm", "dicom/2.dcm", "a.nii"), {"dicom": 1, "a.nii": 1}),
        (("exp.zarr/zarr.json", "exp.zarr/0/zarr.json"), {"exp.zarr": 1}),
    ],
)
def test_scans_of_a_folder(tmp_path: Path, names: tuple[str, ...], expected: dict[str, int]) -> None:
    assert found(touch(tmp_path, *names)) == expected


def test_a_folder_that_is_one_dicom_series_is_one_scan(tmp_path: Path) -> None:
    root = touch(tmp_path / "ct", "1.dcm", "2.dcm")
    assert found(root) == {"ct": 1}


@pytest.mark.parametrize("names", [(), ("notes.txt",), ("labels/a.png",)])
def test_a_folder_without_images_is_said(tmp_path: Path, names: tuple[str, ...]) -> None:
    root = touch(tmp_path, *names)
    if names[:1] == ("labels/a.png",):
        (root / "images").mkdir()
    with pytest.raises(DatasetError, match="no image"):
        find_scans(root)
    with pytest.raises(DatasetError, match="not there"):
        find_scans(root / "gone")


def test_labels_of_the_folder_are_given_and_count_as_done(tmp_path: Path) -> None:
    root = touch(tmp_path / "set", "images/a.png", "images/b.png", "labels/a.png")
    series = Series(root, tmp_path / "models")
    a, b = series.scans
    assert (a.step, a.given, a.words) == ("done", root / "labels" / "a.png", "done: own labels")
    assert (b.step, b.given) == ("untouched", None)
    pair = series.pair(a)
    assert pair is not None
    assert pair.labels.paths == (a.given,)
    assert series.pair(b) is None
    assert series.next_after(None) == b


@pytest.mark.parametrize(
    ("names", "given"),
    [
        (("imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/a.nii.gz"), ["a", None]),
        (("images/a_0000.nii.gz", "images/b_0000.nii.gz", "labels/a.nii.gz"), ["a", None]),
        (("images/a_0000.png", "images/b.png", "labels/a.png", "labels/b.png"), ["a", "b"]),
        (("imagesTr/a_0000.png", "imagesTr/a_0001.png", "labelsTr/a.png"), ["a"]),
        (("imagesTr/f_0000.png", "imagesTr/f_0001.png", "labelsTr/f_0001.png"), [None, "f_0001"]),
        (("images/f_0000.png", "images/f_0001.png", "labels/f.png"), [None, None]),  # of which frame?
        (("images/a.png", "images/a_0000.png", "labels/a.png"), ["a", None]),
    ],
)
def test_labels_are_found_by_the_name_of_the_file_or_of_the_case(
    tmp_path: Path, names: tuple[str, ...], given: list[str | None]
) -> None:
    scans = find_scans(touch(tmp_path, *names))
    assert [stem(scan.given) if scan.given else None for scan in scans] == given


def states(annotated: int, count: int = 8) -> SliceStates:
    return SliceStates("z", count, edited=tuple(range(annotated)))


def save(series: Series, name: str, annotated: int) -> None:
    """Save labels as the widget does."""
    path = series.file_of(series.scans[series.number(name)])
    path = path.with_name(f"{path.name}.nii.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    series.saved(name, path, states(annotated))


def save_opened(series: Series, name: str, annotated: int) -> tuple[Path, str]:
    """Save labels of a scan that was opened, as the widget does; return the file and the message."""
    path, words = series.place(name)
    path = path.with_name(f"{path.name}.nii.gz")
    path.write_bytes(b"1" * annotated)
    series.saved(name, path, states(annotated))
    return path, words


def test_what_was_saved_is_found_again_and_steps_follow_from_it(tmp_path: Path) -> None:
    root = touch(tmp_path / "set", "a.nii", "b.nii", "c.nii", "sub/a.nii")
    first = Series(root, tmp_path / "models")
    for name, count in (("a.nii", 3), ("sub/a.nii", 2), ("c.nii", 0)):
        save(first, name, count)
    first.keep("a.nii", finished=True)
    first.keep("b.nii", "sub/a.nii", validation=True)

    again = Series(root, tmp_path / "models")
    assert [scan.words for scan in again.scans] == ["done: 3 of 8", "untouched", "untouched", "in work: 2 of 8"]
    assert [scan.validation for scan in again.scans] == [False, True, False, True]
    assert again.words == "set: 4 scans, 1 done, 1 in work"
    pairs = [pair for scan in again.scans if (pair := again.pair(scan)) is not None]
    assert [pair.image.name for pair in pairs] == ["a.nii", "sub/a.nii"]
    assert len({pair.labels.paths for pair in pairs}) == 2
    assert splits_of(pairs) == ((1,), "Validation: 1 of 2 pairs, as the series set says.")
    assert Series(touch(tmp_path / "other" / "set", "a.nii"), tmp_path / "models").scans[0].saved is None
    assert sorted(path.name for path in root.rglob("*")) == ["a.nii", "a.nii", "b.nii", "c.nii", "sub"]


def test_next_goes_around_and_leaves_out_what_is_done_or_broken(tmp_path: Path) -> None:
    series = Series(touch(tmp_path / "set", "a.nii", "b.nii", "c.nii", "d.nii"), tmp_path / "models")
    series.update("b.nii", problem="broken")
    save(series, "c.nii", 1)
    series.keep("c.nii", finished=True)
    order, name = [], None
    for _ in range(3):
        scan = series.next_after(name)
        assert scan is not None
        order.append(name := scan.name)
    assert order == ["a.nii", "d.nii", "a.nii"]
    series.update("d.nii", problem="broken")
    assert series.next_after("a.nii") is None


def test_a_done_scan_whose_marks_were_all_taken_away_is_opened_again(tmp_path: Path) -> None:
    root, home = touch(tmp_path / "set", "a.nii", "b.nii"), tmp_path / "models"
    series = Series(root, home)
    save(series, "a.nii", 2)
    series.keep("a.nii", finished=True)
    save(series, "a.nii", 0)
    for now in (series, Series(root, home)):
        scan = now.scans[0]
        assert (scan.step, scan.words, scan.trained_on) == ("untouched", "untouched", False)
        assert now.next_after("b.nii") == scan
    save(series, "a.nii", 1)
    assert series.scans[0].words == "in work: 1 of 8"
    series.keep("a.nii", annotated=0, finished=True)  # as written by earlier versions
    assert Series(root, home).scans[0].step == "untouched"


def test_labels_that_were_put_aside_are_found_again_with_their_own_counts(tmp_path: Path) -> None:
    root, home = touch(tmp_path / "set", "a.nii", "b.nii"), tmp_path / "models"
    ours, theirs = Series(root, home), Series(root, home)
    for each in (ours, theirs):
        assert each.opened("a.nii").others == ()
    their_file, words = save_opened(theirs, "a.nii", 1)
    assert words == ""
    our_file, words = save_opened(ours, "a.nii", 5)
    assert stem(our_file) in words
    again = Series(root, home)
    for scan in (again.scans[0], again.opened("a.nii"), theirs.opened("a.nii"), ours.scans[0]):
        assert (scan.saved, scan.words, scan.others) == (our_file, "in work: 5 of 8", (stem(their_file),))
    pair = again.pair(again.scans[0])
    assert pair is not None
    assert pair.labels.paths == (our_file,)
    assert save_opened(again, "a.nii", 6) == (our_file, "")

    assert Series(root, home).scans[0].words == "in work: 6 of 8"
    again.keep("a.nii", finished=True, validation=True)
    our_file.unlink()  # by the user: what is known of it is not said of the other
    scan = Series(root, home).opened("a.nii")
    assert (scan.saved, scan.words, scan.others, scan.validation) == (their_file, "in work", (), True)


def test_labels_that_are_saved_last_are_the_ones_whatever_was_put_aside(tmp_path: Path) -> None:
    root, home = touch(tmp_path / "set", "a.nii"), tmp_path / "models"
    ours, theirs = Series(root, home), Series(root, home)
    for each in (ours, theirs):
        each.opened("a.nii")
    save_opened(theirs, "a.nii", 1)
    our_file, _ = save_opened(ours, "a.nii", 5)
    their_file, words = save_opened(theirs, "a.nii", 2)  # it is open there still
    assert words == ""
    (scan,) = Series(root, home).scans
    assert (scan.saved, scan.words, scan.others) == (their_file, "in work: 2 of 8", (stem(our_file),))


def test_a_window_writes_down_only_what_it_changed(tmp_path: Path) -> None:
    root, home = touch(tmp_path / "set", "a.nii", "b.nii"), tmp_path / "models"
    ours, theirs = Series(root, home), Series(root, home)
    ours.opened("a.nii")
    theirs.keep("a.nii", "b.nii", validation=True)
    save_opened(ours, "a.nii", 3)
    ours.keep("a.nii", finished=True)
    assert Series(root, home).scans[0].validation
    theirs.keep("b.nii", validation=False)
    theirs.keep("a.nii", validation=True)
    for each in (ours, theirs, Series(root, home)):
        scan = each.scans[0]
        assert (scan.words, scan.validation) == ("done: 3 of 8", True)
        pair = each.pair(scan)
        assert pair is not None
        assert pair.part == "val"
    assert not Series(root, home).scans[1].validation


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"scans": 3}', b'{"scans": {"a.nii": {"slices": "many"}}}'])
def test_damaged_notes_lose_no_labels(tmp_path: Path, content: bytes) -> None:
    root, home = touch(tmp_path / "set", "a.nii"), tmp_path / "models"
    series = Series(root, home)
    save(series, "a.nii", 2)
    (series.root / "series.json").write_bytes(content)
    (scan,) = Series(root, home).scans
    assert (scan.step, scan.words, scan.trained_on) == ("in work", "in work", True)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series = Series(touch(tmp_path / "set", "a.nii"), tmp_path / "models")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_bytes_atomic", full)
    with pytest.raises(OutputError, match="No space left"):
        series.keep("a.nii", finished=True)


def test_five_hundred_files_are_listed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = touch(tmp_path / "set", *(f"p{i}/scan.nii.gz" for i in range(500)))
    began = time.perf_counter()
    series = Series(root, tmp_path / "models")
    assert time.perf_counter() - began < 3
    assert len({series.file_of(scan) for scan in series.scans}) == 500
    monkeypatch.setattr(module, "MOST_SCANS", 400)
    with pytest.raises(DatasetError, match="more than 400"):
        Series(root, tmp_path / "models")
