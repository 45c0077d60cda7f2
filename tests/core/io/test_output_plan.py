"""No target is, holds or lies in what a command reads, and only what was written here is replaced."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from prosma_core.config.training import resolve_run
from prosma_core.data.geometry import array_spec
from prosma_core.errors import OutputError
from prosma_core.io import atomic
from prosma_core.io.atomic import write_bytes_atomic
from prosma_core.io.images import read_labels, write_image, write_labels
from prosma_core.io.output_plan import OutputPlan, check_replace
from prosma_core.runs.run_folder import RunFolder, check_run_targets

SPEC = array_spec((4, 5), "yx")
ZEROS = np.zeros((4, 5), np.uint8)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a zarr folder in a folder."""
    (tmp_path / "exp.zarr").mkdir()
    write_image(tmp_path / "exp.zarr" / "raw.zarr", ZEROS, SPEC)
    return tmp_path / "exp.zarr" / "raw.zarr"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("exp.zarr/raw.zarr", "would replace the input"),
        ("exp.zarr", "holds the input"),
        (".", "holds the input"),
        ("exp.zarr/raw.zarr/0", "lies inside the input"),
        ("exp.zarr/raw.zarr/new/labels.zarr", "lies inside the input"),
        ("exp.zarr/../exp.zarr/raw.zarr", "would replace the input"),
        ("link.zarr", "would replace the input"),
        ("link.zarr/labels.tif", "lies inside the input"),
        ("folder_link", "holds the input"),
    ],
)
def test_a_target_that_is_holds_or_lies_in_a_source_is_refused(
    target: str, reason: str, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "link.zarr").symlink_to(source)
    (tmp_path / "folder_link").symlink_to(source.parent)
    with pytest.raises(OutputError, match=reason):
        OutputPlan([source]).add(tmp_path / target)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("a" * 260 + ".tif", r"name a{40}…a{36}\.tif has 264 bytes; .* takes at most 255. Choose a shorter name"),
        ("ö" * 130, "has 260 bytes"),
        ("a" * 300 + "/labels.tif", "has 300 bytes"),
        ("a" * 200 + "/" + "b" * 256 + "/labels.tif", "has 256 bytes"),
        ("/".join(["a" * 200] * 20) + "/labels.tif", r"path of labels\.tif has 4\d{3} bytes; at most 4095"),
    ],
)
def test_names_that_are_too_long_are_refused_before_the_work(target: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=said):
        OutputPlan([]).add(tmp_path / target)
    with pytest.raises(OutputError, match=said):
        write_bytes_atomic(tmp_path / target, b"")
    with pytest.raises(OutputError, match=r"has \d+ bytes"):
        check_run_targets(resolve_run({"out": tmp_path / f"{target}.safetensors", "data": tmp_path}))


def test_the_longest_name_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 251 + ".tif")
    OutputPlan([]).add(path)
    write_labels(path, ZEROS, SPEC)
    assert read_labels(path).spec.shape == SPEC.shape


def test_links_are_followed_on_both_sides(tmp_path: Path) -> None:
    scan = tmp_path / "scan.tif"
    write_image(scan, ZEROS, SPEC)
    os.link(scan, tmp_path / "hard.tif")
    (tmp_path / "soft.tif").symlink_to(scan)
    (tmp_path / "store").mkdir()
    write_image(tmp_path / "store" / "b.zarr", ZEROS, SPEC)
    (tmp_path / "b.zarr").symlink_to(tmp_path / "store" / "b.zarr")
    for read, written in [("scan", "hard"), ("hard", "scan"), ("scan", "soft"), ("soft", "scan"), ("soft", "hard")]:
        with pytest.raises(OutputError, match="would replace the input"):
            OutputPlan([tmp_path / f"{read}.tif"]).add(tmp_path / f"{written}.tif")
    with pytest.raises(OutputError, match="holds the input"):
        OutputPlan([tmp_path / "b.zarr"]).add(tmp_path / "store")
    with pytest.raises(OutputError, match="holds the input"):
        OutputPlan([tmp_path / "store" / "b.zarr"]).add(tmp_path / "store")


def test_a_file_system_that_ignores_case_is_asked_for_the_file_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "Scan.tif", ZEROS, SPEC)
    real = Path.stat

    def stat(path: Path, **more: Any) -> os.stat_result:
        return real(path.with_name("Scan.tif") if path.name.lower() == "scan.tif" else path, **more)

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(OutputError, match="would replace the input"):
        OutputPlan([tmp_path / "Scan.tif"]).add(tmp_path / "SCAN.TIF")


@pytest.mark.parametrize("target", ["loop/case.nii.gz", "case.nii.gz"])
def test_links_that_go_in_circles_are_targets_like_others(target: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "case.nii.gz").symlink_to("case.nii.gz")
    plan = OutputPlan([tmp_path / "loop", tmp_path])
    with pytest.raises(OutputError, match="lies inside the input"):
        plan.check(tmp_path / target)
    plan = OutputPlan([tmp_path / "loop"])
    plan.add(tmp_path / target, "one")
    with pytest.raises(OutputError, match="two and one would both be written to"):
        plan.add(tmp_path / target, "two")


@pytest.mark.parametrize(
    ("name", "field"), [("scan.mha", "ElementDataFile = scan.mha"), ("scan.nrrd", "data file: scan.nrrd")]
)
def test_a_header_protects_the_file_of_its_voxels(name: str, field: str, tmp_path: Path) -> None:
    write_image(tmp_path / name, ZEROS, SPEC)
    lines = (tmp_path / name).read_bytes().decode("latin1").partition("\n\n")[0].splitlines()
    header = tmp_path / ("scan.mhd" if name == "scan.mha" else "scan.nhdr")
    local = [line.startswith("ElementDataFile") for line in lines]
    header.write_text("\n".join([*(lines[: local.index(True)] if any(local) else lines), field, ""]))
    with pytest.raises(OutputError, match=f"would replace the input .*{name}"):
        OutputPlan([header]).add(tmp_path / name)


def test_nothing_is_written_into_the_zarr_of_a_member(tmp_path: Path) -> None:
    write_image(tmp_path / "scan.zarr", ZEROS, SPEC)
    member = next(path.parent for path in (tmp_path / "scan.zarr").rglob(".zarray"))
    for target in ("scan.zarr/labels.zarr", f"{member.relative_to(tmp_path)}/x.tif"):
        with pytest.raises(OutputError, match="lies inside the input"):
            OutputPlan([member]).add(tmp_path / target)
    OutputPlan([member]).add(tmp_path / "labels.zarr")


def test_two_targets_are_never_one_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for other in ("out/case.nii.gz", "out/Case.NII.gz", "link/out/case.nii.gz", "out/../out/case.nii.gz"):
        plan = OutputPlan([])
        plan.add(tmp_path / "out" / "case.nii.gz", "one")
        plan.add(tmp_path / "out" / "case_entropy.nii.gz", "one")
        with pytest.raises(OutputError, match="two and one would both be written to"):
            plan.add(tmp_path / other, "two")


def test_only_a_folder_that_was_written_here_is_replaced(source: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "thesis.zarr"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    other = tmp_path / "other.zarr"  # a zarr of another program
    write_labels(other, ZEROS, SPEC, provenance={"program": "x"})
    (other / ".zattrs").write_text((other / ".zattrs").read_text().replace('"prosma"', '"omero2"'))
    mixed = tmp_path / "mixed.zarr"
    write_labels(mixed, ZEROS, SPEC)
    (mixed / "labels").mkdir()
    for path, reason in (
        (foreign, "not written by this program"),
        (other, "not written by this program"),
        (mixed, "holds other things, such as labels"),
        (source.parent, "not written by this program"),
    ):
        before = sorted(path.rglob("*"))
        for overwrite in (False, True):
            with pytest.raises(OutputError, match=reason) as refused:
                write_labels(path, ZEROS, SPEC, overwrite=overwrite)
            assert "--overwrite" not in str(refused.value)
        assert sorted(path.rglob("*")) == before
    for version in (2, 3):
        ours = tmp_path / f"ours{version}.zarr"
        write_labels(ours, ZEROS, SPEC)
        (ours / ".DS_Store").write_bytes(b"x")
        with pytest.raises(OutputError, match="--overwrite"):
            write_labels(ours, ZEROS + 1, SPEC)
        write_labels(ours, ZEROS + 1, SPEC, overwrite=True)
        assert read_labels(ours).data.all()


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.ome.tif", "a.tiff", "a.png", "a.nrrd", "a.mha", "a.zarr"])
def test_a_file_of_another_kind_is_never_replaced(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write_labels(path, ZEROS, SPEC)
    write_labels(path, ZEROS + 1, SPEC, overwrite=True)
    assert read_labels(path).data.all()
    if path.is_file():
        for content in (b"notes of a year\n", gzip.compress(b"notes of a year\n"), b"\x1f\x8b\x08cut"):
            path.write_bytes(content)
            with pytest.raises(OutputError, match="is never replaced"):
                write_labels(path, ZEROS, SPEC, overwrite=True)
            assert path.read_bytes() == content
        path.write_bytes(b"")  # what a script reserved
        write_labels(path, ZEROS + 1, SPEC, overwrite=True)
        assert read_labels(path).data.all()


def test_overwriting_is_advised_for_results_alone(tmp_path: Path) -> None:
    write_labels(tmp_path / "ours.nii.gz", ZEROS, SPEC, provenance={"program": "prosma 1"})
    with pytest.raises(OutputError, match="add --overwrite"):
        check_replace(tmp_path / "ours.nii.gz", overwrite=False)
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.eye(4)), tmp_path / "scan.nii.gz")
    with pytest.raises(OutputError, match="no note of this program") as refused:
        check_replace(tmp_path / "scan.nii.gz", overwrite=False)
    assert "--overwrite" not in str(refused.value)


@pytest.mark.skipif(os.name == "nt", reason="where there are no locks, a process lives as long as its id")
def test_a_result_that_a_killed_process_had_moved_aside_is_not_replaced_without_asking(tmp_path: Path) -> None:
    path, spec = tmp_path / "labels.zarr", array_spec((4, 5), "yx")
    write_labels(path, np.ones((4, 5), np.uint8), spec, provenance={"program": "prosma"})
    part = atomic.take(path)
    path.rename(part.aside)
    os.close(part.descriptor)  # as the system does when a process ends
    with pytest.raises(OutputError, match="add --overwrite"):
        write_labels(path, np.zeros((4, 5), np.uint8), spec)
    assert read_labels(path).data.all()


def test_documents_are_replaced_by_those_of_their_kind(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"cases": {}, "summary": {}, "settings": {}}')
    (tmp_path / "b.json").write_text('{"train": ["a"]}')
    (tmp_path / "c.json").write_text("[" * 100_000)
    (tmp_path / "a.csv").write_text("level,channel,threshold\n")
    (tmp_path / "b.csv").write_text("patient,age\n")
    for name, keys, ours in (
        ("a.json", ("cases", "summary"), True),
        ("b.json", ("cases", "summary"), False),
        ("c.json", ("cases",), False),
        ("a.csv", ("level", "channel"), True),
        ("b.csv", ("level", "channel"), False),
        ("none.csv", ("level", "channel"), True),
    ):
        if ours:
            check_replace(tmp_path / name, overwrite=True, keys=keys)
        else:
            with pytest.raises(OutputError, match="is never replaced"):
                check_replace(tmp_path / name, overwrite=True, keys=keys)


# ---------------------------------------------------------------- trainings


def test_a_training_replaces_nothing_it_reads(tmp_path: Path, make_data: Any, make_model: Any) -> None:
    data = make_data(tmp_path / "data", count=2)
    start = make_model(tmp_path / "start.safetensors")
    run = RunFolder.beside(start)
    for given, reason in (
        ({"data": data, "init": str(start), "out": start}, "would replace the input .*start.safetensors"),
        ({"data": data, "init": str(run.best), "out": start}, "would replace the input .*best.safetensors"),
    ):
        if given["init"] == str(run.best):
            run.root.mkdir()
            make_model(run.best)
        with pytest.raises(OutputError, match=reason):
            check_run_targets(resolve_run(given))
    inside = data.rename(tmp_path / "liver.prosma")
    (inside / "splits.json").write_text('{"train": ["case_0"], "val": ["case_1"]}')
    with pytest.raises(OutputError, match=r"would replace the input .*splits\.json"):
        check_run_targets(resolve_run({"data": inside, "out": tmp_path / "liver.safetensors"}))
    pair = (inside / "images" / "case_0.png", inside / "labels" / "case_0.png")
    (inside / "preview").mkdir()
    moved = pair[0].rename(inside / "preview" / "epoch-0001.png")
    with pytest.raises(OutputError, match="holds the input"):
        check_run_targets(resolve_run({"pairs": [(moved, pair[1])], "out": tmp_path / "liver.safetensors"}))


def test_a_training_replaces_only_models_and_run_folders(tmp_path: Path, make_data: Any, make_model: Any) -> None:
    data, out = make_data(tmp_path / "data", count=2), tmp_path / "m.safetensors"
    run = resolve_run({"data": data, "out": out})
    out.write_bytes(b"weights of somebody else")
    with pytest.raises(OutputError, match="is never replaced"):
        check_run_targets(run)
    make_model(out)
    check_run_targets(run)
    folder = RunFolder.beside(out)
    folder.root.mkdir()
    make_model(folder.best)
    with pytest.raises(OutputError, match="not the folder of a training run"):
        check_run_targets(run)
    folder.write_settings(run, {"train": ["a"], "val": []})
    check_run_targets(run)
