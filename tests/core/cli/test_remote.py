"""Commands over scans of a URL: the same results as from local files, and what becomes of a server that fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tests.servers import Served, serving

from prosma_core.data import lazy
from prosma_core.data.geometry import array_spec
from prosma_core.data.phantom import phantom_3d
from prosma_core.errors import FileFormatError
from prosma_core.inference import files, memory, segment
from prosma_core.inference.stored_results import StoredResults
from prosma_core.io import downloads, images, remote_objects, zarr_images
from prosma_core.io.images import read_labels, write_image
from prosma_core.io.notes import read_notes

Make = Callable[..., Path]
Prosma = Callable[..., tuple[int, str, str]]
SHAPE = (24, 64, 64)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(remote_objects, "PATIENCE_S", 2)
    monkeypatch.setattr(downloads, "PAUSE_S", 0.01)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "served"
    folder.mkdir()
    scan, _ = phantom_3d(seed=3, shape=SHAPE)
    for name in ("scan.nii.gz", "scan.ome.zarr"):
        write_image(folder / name, scan.data, scan.spec)
    with serving(folder) as served:
        yield served


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.ome.zarr"])
def test_labels_of_a_url_are_those_of_the_file(prosma: Prosma, server: Served, tmp_path: Path, name: str) -> None:
    model = ("--model", "phantom-3d", "--table", "t.csv")
    assert prosma("segment", server.folder / name, *model, "--out", "local")[0] == 0
    code, _, err = prosma("segment", f"{server.url}/{name}?download=1", *model, "--out", "remote")
    assert code == 0, err
    local, remote = read_labels(tmp_path / "local" / name), read_labels(tmp_path / "remote" / name)
    assert local.data.any()
    assert np.array_equal(local.data, remote.data)
    assert np.array_equal(local.spec.affine, remote.spec.affine)
    assert read_notes(tmp_path / "remote" / name)["source"] == name
    table = (tmp_path / "t.csv").read_text(encoding="utf-8")
    assert f"{server.url}/{name}," in table
    assert "download=1" not in table


def test_a_list_of_urls_keeps_their_folders(prosma: Prosma, server: Served, tmp_path: Path) -> None:
    scan = (server.folder / "scan.nii.gz").read_bytes()
    for name in ("one", "two"):
        (server.folder / "data" / name).mkdir(parents=True)
        (server.folder / "data" / name / "scan.nii.gz").write_bytes(scan)
    urls = [f"{server.url}/data/{name}/scan.nii.gz" for name in ("one", "two")]
    (tmp_path / "list.txt").write_text("\n".join(urls), encoding="utf-8")
    command = ["segment", "--list", "list.txt", "--root", f"{server.url}/data", "--model", "phantom-3d", "--out", "out"]
    assert prosma(*command)[0] == 0
    assert (tmp_path / "out" / "one" / "scan.nii.gz").is_file()
    assert (tmp_path / "out" / "two" / "scan.nii.gz").is_file()
    asked = len(server.asked)
    assert prosma(*command, "--skip-existing")[0] == 0
    assert len(server.asked) == asked  # what is finished is not asked for
    code, _, err = prosma(*command[:4], f"{server.url}/other", *command[5:])
    assert code == 2
    assert f"{urls[0]} does not lie below --root {server.url}/other" in err


def test_a_local_file_url_is_a_local_scan(prosma: Prosma, server: Served, tmp_path: Path) -> None:
    place = tmp_path / "some scans" / "scan.nii.gz"
    place.parent.mkdir()
    place.write_bytes((server.folder / "scan.nii.gz").read_bytes())
    out = (tmp_path / "a result").as_uri()
    assert prosma("segment", place.as_uri(), "--model", "phantom-3d", "--out", out)[0] == 0
    assert (tmp_path / "a result" / "scan.nii.gz").is_file()
    code, _, err = prosma(
        "inspect", place.as_uri(), "--model", "phantom-3d", "--out", "maps", "--levels", "2", "--no-noise-gain"
    )
    assert code == 0, err
    assert (tmp_path / "maps" / "summary.json").is_file()
    assert prosma("models", "list", "--for", place.as_uri())[0] == 0


def test_gates_of_a_url_are_inspected(prosma: Prosma, server: Served, tmp_path: Path) -> None:
    url = f"{server.url}/scan.ome.zarr"
    command = ("inspect", url, "--model", "phantom-3d", "--out", "maps", "--no-noise-gain", "--levels", "2")
    code, _, err = prosma(*command, "--region", "0:8,0:16,0:16")
    assert code == 0, err
    assert (tmp_path / "maps" / "summary.json").is_file()


@pytest.mark.parametrize(
    "command",
    [
        ("segment", "URL", "--model", "phantom-3d", "--out", "s3://bucket/x.zarr"),
        ("segment", "URL", "--model", "phantom-3d", "--out", "out", "--table", "https://host/t.csv"),
        ("segment", "URL", "--model", "https://host/m.safetensors", "--out", "out"),
        ("evaluate", "--model", "phantom-3d", "--data", "https://host/data"),
        ("train", "--data", "s3://bucket/data", "--out", "m.safetensors"),
        ("train", "--pair", "https://host/x.nii", "https://host/y.nii", "--out", "m.safetensors"),
    ],
)
def test_only_scans_are_read_over_a_network(prosma: Prosma, server: Served, command: tuple[str, ...]) -> None:
    words = [f"{server.url}/scan.nii.gz" if word == "URL" else word for word in command]
    code, _, err = prosma(*words)
    assert code == 2
    assert "only scans are read over a network. Give a local path here." in err
    assert not server.asked


def test_a_missing_scan_is_named_and_the_others_are_done(prosma: Prosma, server: Served, tmp_path: Path) -> None:
    urls = [f"{server.url}/{name}" for name in ("missing.nii.gz", "scan.nii.gz", "missing.zarr")]
    code, _, err = prosma("segment", *urls, "--model", "phantom-3d", "--out", "out")
    assert code == 3
    assert f"{urls[0]} cannot be read: the server has no such file (404). Check the URL." in err
    assert f"{urls[2]} cannot be read: the server has no zarr there" in err
    assert (tmp_path / "out" / "scan.nii.gz").is_file()


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("name", "stall"), [("scan.ome.zarr", ".zarray"), ("scan.ome.zarr", "0"), ("scan.nii.gz", "gz")]
)
def test_a_command_that_waits_for_a_server_stops_at_once(server: Served, tmp_path: Path, name: str, stall: str) -> None:
    server.stall = stall
    command = ["segment", f"{server.url}/{name}", "--model", "phantom-3d", "--out", str(tmp_path / "out")]
    run = subprocess.Popen([sys.executable, "-m", "prosma_core.cli", *command], stderr=subprocess.PIPE)
    until = time.monotonic() + 60
    while not any(each.endswith(stall) for each in server.asked) and time.monotonic() < until:
        time.sleep(0.05)
    began = time.monotonic()
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert run.returncode == -signal.SIGTERM
    assert b"Stopped by SIGTERM." in said
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("kind", ["nii", "zarr"])
def test_what_was_done_before_a_server_ended_stays(
    prosma: Prosma, make_model: Make, server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for name, value in {"IN_CORE": 0, "WORKING": 0, "KEPT": 0, "WORTH": 99.0}.items():
        monkeypatch.setattr(memory, name, value)
    monkeypatch.setattr(lazy, "KEPT", 0)
    monkeypatch.setattr(segment, "_CHUNK", 8)
    monkeypatch.setattr(zarr_images, "_CHUNK", {"t": 1, "c": 1, "z": 4, "y": 8, "x": 8})
    monkeypatch.setattr(files, "open_image", partial(images.open_image, least=0))
    data = np.random.default_rng(0).normal(size=(15, 13, 11)).astype(np.float32)
    name, stopped = f"large.{kind}", []
    if kind == "zarr":
        array = zarr.create_array(str(server.folder / name), shape=data.shape, dtype=data.dtype, chunks=(4, 8, 8))
        array[...] = data
    else:
        write_image(server.folder / name, data, array_spec(data.shape, "zyx"))
    model = make_model(tmp_path / "m.safetensors", dims=3, tile=(8, 8, 8))
    command = ("segment", f"{server.url}/{name}", "--model", model, "--overlap", "0.25")
    assert prosma(*command, "--out", "whole.zarr")[0] == 0
    mark = StoredResults._mark

    def end_after_two(self: StoredResults, box: Any) -> None:
        mark(self, box)
        stopped.append(box)
        if len(stopped) == 2:
            server.closed = True
            if kind == "nii":
                raise FileFormatError("stopped")

    monkeypatch.setattr(StoredResults, "_mark", end_after_two)
    code, _, err = prosma(*command, "--out", "out.zarr")
    assert (code, len(stopped)) == (4, 2)
    assert kind == "nii" or f"{server.url}/large.zarr/" in err
    assert kind == "nii" or "Check the network and run it again" in err
    assert not (tmp_path / "out.zarr").exists()
    server.closed = False
    code, _, err = prosma(*command, "--out", "out.zarr")
    assert code == 0
    assert "2 blocks of an earlier run stay." in err
    assert np.array_equal(read_labels(tmp_path / "out.zarr").data, read_labels(tmp_path / "whole.zarr").data)
