"""Scans over a network and in zip files: URLs, downloads, zarr on real servers, and what goes wrong there."""

from __future__ import annotations

import pickle
import socket
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from tests.servers import Served, serving

from prosma_core.data.geometry import Scan, array_spec
from prosma_core.data.lazy import LazyArray
from prosma_core.errors import ConfigError, FileFormatError, MissingExtraError, OutputError
from prosma_core.events import Working, drain
from prosma_core.io import downloads, remote_objects
from prosma_core.io.downloads import Downloads
from prosma_core.io.images import open_image, preflight, read_image, read_labels, write_image, write_labels
from prosma_core.io.names import result_name, stem
from prosma_core.io.notes import read_notes
from prosma_core.io.output_plan import OutputPlan
from prosma_core.io.remote import RemotePath, input_path, local_path
from prosma_core.io.zarr_images import open_zarr


@pytest.fixture
def scan(rng: np.random.Generator) -> Scan:
    data = rng.normal(100, 20, (20, 40, 36)).astype(np.float32)
    return Scan(data, array_spec((20, 40, 36), "zyx", (3, 1, 1), "mm"))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(remote_objects, "PATIENCE_S", 1)
    monkeypatch.setattr(downloads, "PAUSE_S", 0.01)
    folder = tmp_path / "served"
    folder.mkdir()
    with serving(folder) as served:
        yield served


@pytest.fixture
def s3(server: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Served:
    (server.folder / "bucket").mkdir()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return server


def zipped(folder: Path, name: str, start: str = "", how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(folder.with_name(name), "w", how) as file:
        for each in sorted(folder.rglob("*")):
            if each.is_file():
                file.write(each, start + each.relative_to(folder).as_posix())
    return folder.with_name(name)


def equal(found: Scan, scan: Scan) -> bool:
    return np.array_equal(np.asarray(found.data), scan.data) and found.spec.spacing == scan.spec.spacing


# --- What is a URL -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "url", "name"),
    [
        ("https://host:81/a%20b/x.nii.gz?download=1", "https://host:81/a%20b/x.nii.gz?download=1", "x.nii.gz"),
        ("s3://bucket/some%20key/x.zarr", "s3://bucket/some%20key/x.zarr", "x.zarr"),
        ("HTTP://host/x.tif", "http://host/x.tif", "x.tif"),
        (Path("https://host/a/x.tif"), "https://host/a/x.tif", "x.tif"),
        ("https://host/a/x.zarr/#top", "https://host/a/x.zarr/", "x.zarr"),
    ],
)
def test_urls_are_remote(given: str | Path, url: str, name: str) -> None:
    path = input_path(given)
    assert isinstance(path, RemotePath)
    assert (path.url, path.name) == (url, name)
    assert not path.exists()
    assert not path.is_dir()
    assert input_path(path) is path
    again = pickle.loads(pickle.dumps(path))
    assert (again.url, again.name, again) == (url, name, path)
    with pytest.raises(FileNotFoundError):
        path.stat()


@pytest.mark.parametrize(
    "given",
    ["C:\\scans\\x.nii", "C:/scans/x.nii", "~/x.nii", "100%25/x.nii", "a:b/x.nii", "s3", "D:/x.zarr"],
)
def test_paths_stay_paths(given: str) -> None:
    assert type(input_path(given)) is type(Path())
    assert input_path(given) == Path(given)


def test_a_file_url_is_a_local_path(tmp_path: Path) -> None:
    place = tmp_path / "some folder" / "é.nii"
    assert input_path(place.as_uri()) == local_path(place.as_uri()) == place
    assert input_path(Path(place.as_uri())) == place
    assert input_path("file://localhost" + place.as_uri().removeprefix("file://")) == place


def test_a_local_folder_named_like_a_scheme_stays_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:").mkdir()
    (tmp_path / "s3:" / "x.nii").touch()
    assert type(input_path(Path("s3:/x.nii"))) is type(Path())


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("gs://bucket/x.zarr", "URLs of gs are not read"),
        ("https://host", "it names no file"),
        ("https://me:secret@host/x.nii", "a name or password"),
        ("file://elsewhere/x.nii", "names the computer elsewhere"),
    ],
)
def test_other_urls_are_refused(given: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        input_path(given)
    assert "secret" not in str(caught.value)


def test_a_result_is_never_remote() -> None:
    with pytest.raises(ConfigError, match="only scans are read over a network"):
        local_path("s3://bucket/labels.zarr")


def test_what_may_be_secret_is_not_in_texts() -> None:
    assert str(input_path("https://host/x.nii.gz?X-Amz-Signature=abc")) == "https://host/x.nii.gz"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/a/x.nii.gz?download=1", "x.nii.gz"),
        ("https://h/a/x.jpg", "x.png"),
        ("s3://b/x.ome.zarr", "x.ome.zarr"),
        ("s3://b/x.ome.zarr/1", "x_1.zarr"),
        ("s3://b/x.ome.zarr.zip", "x.ome.zarr"),
        ("https://h/x.ozx", "x.ome.zarr"),
    ],
)
def test_results_are_named_after_the_url(url: str, name: str) -> None:
    assert result_name(input_path(url)) == name


def test_a_url_is_no_source_that_could_be_replaced(tmp_path: Path) -> None:
    OutputPlan([input_path("https://host/x.ome.zarr/0")]).add(tmp_path / "x.zarr")


# --- Files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii", "x.ome.tif", "x.nrrd", "x.mha", "a b.nii.gz"])
def test_a_file_is_downloaded_and_removed(
    server: Served, scan: Scan, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    write_image(server.folder / name, scan.data, scan.spec)
    path = input_path(f"{server.url}/{name.replace(' ', '%20')}?download=1")
    assert equal(read_image(path), scan)
    assert equal(open_image(path), scan)
    preflight(path)
    assert not list(scratch.iterdir())


def test_labels_are_read(server: Served, scan: Scan) -> None:
    labels = (scan.data > 100).astype(np.uint8)
    write_labels(server.folder / "l.nii.gz", labels, scan.spec)
    assert np.array_equal(read_labels(input_path(f"{server.url}/l.nii.gz")).data, labels)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_lost_connection_is_made_again(server: Served, scan: Scan, ranges: bool) -> None:
    write_image(server.folder / "x.nii", scan.data, scan.spec)
    server.break_after, server.breaks, server.ranges = 30_000, 2, ranges
    assert equal(read_image(input_path(f"{server.url}/x.nii")), scan)
    assert server.breaks == 0


def test_a_lost_connection_is_made_again_where_a_window_waits(server: Served, scan: Scan) -> None:
    write_image(server.folder / "x.nii", scan.data, scan.spec)
    server.break_after, server.breaks = 30_000, 2
    with remote_objects.hurried():
        assert equal(read_image(input_path(f"{server.url}/x.nii")), scan)
    assert server.breaks == 0


def test_a_download_tells_how_far_it_is(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    (server.folder / "x.nii").write_bytes(bytes(3_000_000))
    monkeypatch.setattr(downloads, "_REPORT_S", 0.0)
    said: list[Any] = []
    with Downloads() as files:
        copy = drain(files.fetch(input_path(f"{server.url}/x.nii")), said.append)
        assert copy.stat().st_size == 3_000_000
        assert copy.stat().st_mtime == 1793613600
    assert said[-1] == Working("Downloading x.nii: 3.0 MB of 3.0 MB")
    assert not copy.exists()


def test_a_file_larger_than_the_disk_is_refused(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    (server.folder / "x.nii").write_bytes(bytes(3_000_000))
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match=r"has 3\.0 MB; 0\.0 MB are free in the temporary folder"):
        read_image(input_path(f"{server.url}/x.nii"))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("scans/", "Folders on a server are not gone through"),
        ("x.czi", "does not end with a format that is read"),
        ("x.mhd", "voxels are in a second file"),
        ("missing.nii.gz", r"missing\.nii\.gz cannot be read: the server has no such file \(404\)\. Check the URL"),
        ("missing.zarr", "the server has no zarr there"),
    ],
)
def test_what_cannot_be_read_is_named(server: Served, name: str, why: str) -> None:
    with pytest.raises(FileFormatError, match=why) as caught:
        open_image(input_path(f"{server.url}/{name}"))
    assert server.url in str(caught.value)


@pytest.mark.parametrize("name", ["x.nii", "x.zarr"])
@pytest.mark.parametrize(
    ("status", "why"), [(401, "access is denied"), (403, "access is denied"), (503, "answers with status 503")]
)
def test_what_a_server_refuses_is_named(server: Served, name: str, status: int, why: str) -> None:
    server.status = status
    with pytest.raises(FileFormatError, match=why):
        read_image(input_path(f"{server.url}/{name}"))
    assert len(server.asked) <= 9


@pytest.mark.parametrize("name", ["x.nii", "x.zarr"])
def test_a_missing_server_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PAUSE_S", 0.01)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/{name}"
        with pytest.raises(FileFormatError, match=r"refuses the connection|cannot be reached") as caught:
            read_image(input_path(url))
    assert url in str(caught.value)
    with pytest.raises(FileFormatError, match=r"no such host, or no network|cannot be reached"):
        read_image(input_path(f"http://no-such-host.invalid/{name}"))


@pytest.mark.parametrize("name", ["x.nii", "x.zarr"])
def test_a_server_that_does_not_answer_is_given_up(server: Served, scan: Scan, name: str) -> None:
    write_image(server.folder / name, scan.data, scan.spec)
    server.stall = "x.nii" if name == "x.nii" else "zarr.json"
    with pytest.raises(FileFormatError, match="no byte came for 1 s, 3 times"):
        read_image(input_path(f"{server.url}/{name}"))
    with remote_objects.hurried(), pytest.raises(FileFormatError, match=r"no byte came for 1 s\. The server is slow"):
        read_image(input_path(f"{server.url}/{name}"))


def test_a_damaged_file_is_named_by_its_url(server: Served) -> None:
    (server.folder / "x.nii").write_bytes(bytes(400))
    with pytest.raises(FileFormatError, match=f"^{server.url}/x.nii is damaged"):
        read_image(input_path(f"{server.url}/x.nii"))


def test_a_web_page_is_no_scan(server: Served) -> None:
    (server.folder / "x.nii").write_bytes(b"<html>")
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(FileFormatError, match="gives a web page"):
        read_image(input_path(f"{server.url}/x.nii"))


# --- Zarr --------------------------------------------------------------------------------------------------------


def make_zarr(path: Path, scan: Scan, **how: Any) -> None:
    shape = scan.data.shape
    array = zarr.create_array(str(path), shape=shape, dtype=scan.data.dtype, chunks=(5, 16, 18), **how)
    array[...] = scan.data
    array.attrs.update({"axes": list("zyx"), "spacing": [3, 1, 1], "unit": "mm"})


KINDS: dict[str, dict[str, Any]] = {
    "v2.zarr": {"zarr_format": 2},
    "v3.zarr": {},
    "shards.zarr": {"shards": (10, 32, 36)},
    "first.zarr": {
        "shards": (10, 32, 36),
        "compressors": None,
    },
}


@pytest.mark.parametrize("name", KINDS)
def test_zarr_is_read_by_parts(server: Served, scan: Scan, name: str) -> None:
    make_zarr(server.folder / name, scan, **KINDS[name])
    path = input_path(f"{server.url}/{name}")
    found = open_image(path)
    assert isinstance(found.data, LazyArray)
    before = len(server.asked)
    assert np.array_equal(found.data.read(((0, 5), (0, 16), (0, 18))), scan.data[:5, :16, :18])
    assert len(server.asked) - before <= 2  # of a shard its index and one chunk
    assert equal(found, scan)
    assert equal(read_image(path), scan)


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr_and_its_members_are_read(server: Served, scan: Scan, version: int) -> None:
    place = server.folder / "a b.ome.zarr"
    group = zarr.create_group(str(place), zarr_format=version)
    make_zarr(place / "0", scan, zarr_format=version)
    half = Scan(scan.data[:, ::2, ::2], scan.spec)
    make_zarr(place / "1", half, zarr_format=version)
    sets = [
        {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": [3, n + 1, n + 1]}]} for n in (0, 1)
    ]
    axes = [{"name": letter, "type": "space", "unit": "millimeter"} for letter in "zyx"]
    images = {"multiscales": [{"axes": axes, "datasets": sets, "version": "0.4"}]}
    group.attrs.update(images if version == 2 else {"ome": {"version": "0.5", **images}})
    path = input_path(f"{server.url}/a%20b.ome.zarr/")
    assert equal(open_image(path), scan)
    assert [level.shape for level in open_zarr(path).levels] == [scan.data.shape, half.data.shape]
    member = open_image(path / "1")
    assert np.array_equal(np.asarray(member.data), half.data)
    assert member.spec.spacing == (3, 2, 2)
    assert stem(path / "1") == "a b_1"


def test_missing_chunks_have_the_fill_value(server: Served, scan: Scan) -> None:
    make_zarr(server.folder / "x.zarr", scan)
    (server.folder / "x.zarr" / "c" / "0" / "0" / "0").unlink()
    found = np.asarray(open_image(input_path(f"{server.url}/x.zarr")).data)
    assert (found[:5, :16, :18] == 0).all()
    assert np.array_equal(found[5:], scan.data[5:])


def test_a_zarr_that_vanishes_is_no_scan_of_zeros(server: Served, scan: Scan) -> None:
    make_zarr(server.folder / "x.zarr", scan)
    found = open_image(input_path(f"{server.url}/x.zarr"))
    server.folder = server.folder / "elsewhere"
    with pytest.raises(FileFormatError, match=r"x\.zarr cannot be read: it is gone from the server"):
        found.data.read(((0, 5), (0, 16), (0, 18)))


def test_a_server_that_ends_midway_is_named(server: Served, scan: Scan) -> None:
    make_zarr(server.folder / "x.zarr", scan)
    found = open_image(input_path(f"{server.url}/x.zarr"))
    server.stop.set()
    server.ended.wait(10)
    with pytest.raises(FileFormatError, match=r"x\.zarr/c/0/0/0 cannot be read: .*(refuse|reached|lost)"):
        found.data.read(((0, 5), (0, 16), (0, 18)))


def test_a_chunk_that_cannot_be_unpacked_is_named(server: Served, scan: Scan) -> None:
    make_zarr(server.folder / "x.zarr", scan)
    (server.folder / "x.zarr" / "c" / "1" / "0" / "0").write_bytes(b"nonsense, no Zstandard at all")
    found = open_image(input_path(f"{server.url}/x.zarr"))
    with pytest.raises(FileFormatError, match=r"x\.zarr/c/1/0/0 is damaged"):
        np.asarray(found.data)


def test_a_chunk_that_declares_too_much_is_not_unpacked(server: Served) -> None:
    array = zarr.create_array(
        str(server.folder / "x.zarr"), shape=(64, 64), chunks=(32, 32), dtype="uint8", zarr_format=2,
        compressors=numcodecs.Blosc(),
    )  # fmt: skip
    array[...] = 1
    chunk = server.folder / "x.zarr" / "0.0"
    content = bytearray(chunk.read_bytes())
    content[4:8] = (1 << 30).to_bytes(4, "little")
    chunk.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"0\.0 is damaged .* unpacks to 1024 MB"):
        read_image(input_path(f"{server.url}/x.zarr"))


def test_a_group_on_a_web_server_is_not_listed(server: Served, scan: Scan) -> None:
    zarr.create_group(str(server.folder / "g.zarr"))
    make_zarr(server.folder / "g.zarr" / "raw", scan)
    with pytest.raises(FileFormatError, match="Give the URL of an image in it"):
        open_image(input_path(f"{server.url}/g.zarr"))
    assert equal(open_image(input_path(f"{server.url}/g.zarr/raw")), scan)


def test_notes_are_read(server: Served, scan: Scan) -> None:
    write_image(
        server.folder / "x.ome.zarr", scan.data, scan.spec, provenance={"program": "prosma 1", "synthetic": "1"}
    )
    assert read_notes(input_path(f"{server.url}/x.ome.zarr"))["synthetic"] == "1"


def test_without_obstore_the_extra_is_named(server: Served, monkeypatch: pytest.MonkeyPatch, scan: Scan) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    for url in (f"{server.url}/x.zarr", "s3://bucket/x.nii", "s3://bucket/x.ome.zarr.zip"):
        with pytest.raises(MissingExtraError, match=r"pip install 'napari-prosma\[remote\]'"):
            read_image(input_path(url))
    write_image(server.folder / "x.nii", scan.data, scan.spec)
    assert equal(read_image(input_path(f"{server.url}/x.nii")), scan)  # which takes none


# --- Zip files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["", "x.zarr/"])
@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zipped_zarr_is_read(server: Served, scan: Scan, start: str, how: int) -> None:
    make_zarr(server.folder / "x.zarr", scan, shards=(10, 32, 36))
    path = zipped(server.folder / "x.zarr", "x.zarr.zip", start, how)
    assert equal(read_image(path), scan)
    found = open_image(path, least=0)
    assert isinstance(found.data, LazyArray)
    assert equal(found, scan)
    preflight(path)
    assert equal(open_image(input_path(f"{server.url}/x.zarr.zip")), scan)
    assert not any("/x.zarr/" in each for each in server.asked)


@pytest.mark.parametrize("name", ["x.ome.zarr.zip", "x.ozx"])
def test_a_zipped_ome_zarr_has_its_levels_and_notes(tmp_path: Path, scan: Scan, name: str) -> None:
    write_image(tmp_path / "x.ome.zarr", scan.data, scan.spec, provenance={"program": "prosma 1"})
    path = zipped(tmp_path / "x.ome.zarr", name)
    assert equal(read_image(path), scan)
    assert read_notes(path)["program"] == "prosma 1"
    opened = open_zarr(path)
    assert np.array_equal(opened.levels[0][3], scan.data[3])


@pytest.mark.parametrize("cut", [0, 10, 2000])
def test_a_cut_zip_file_is_damaged(tmp_path: Path, scan: Scan, cut: int) -> None:
    write_image(tmp_path / "x.ome.zarr", scan.data, scan.spec)
    path = zipped(tmp_path / "x.ome.zarr", "x.zarr.zip")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(FileFormatError, match=r"empty|cannot be read as a zip file"):
        read_image(path)


def test_a_zip_file_that_holds_no_zarr_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.txt").write_text("a", encoding="utf-8")
    with pytest.raises(FileFormatError, match="no zarr metadata"):
        read_image(zipped(tmp_path / "x", "x.zarr.zip"))


def test_a_chunk_in_a_zip_file_that_declares_too_much_is_refused(tmp_path: Path, scan: Scan) -> None:
    make_zarr(tmp_path / "x.zarr", scan, compressors=None)
    (tmp_path / "x.zarr" / "c" / "0" / "0" / "0").write_bytes(bytes(64 << 20))
    path = zipped(tmp_path / "x.zarr", "x.zarr.zip", how=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(FileFormatError, match="declares 64 MB, more than its share"):
        read_image(path)


def test_a_zip_file_is_not_written(tmp_path: Path, scan: Scan) -> None:
    with pytest.raises(OutputError, match="names no format that can be written"):
        write_image(tmp_path / "x.zarr.zip", scan.data, scan.spec)


# --- S3 ------------------------------------------------------------------------------------------------------------


def test_scans_are_read_from_s3(s3: Served, scan: Scan) -> None:
    bucket = s3.folder / "bucket"
    make_zarr(bucket / "some key" / "x.zarr", scan)
    write_image(bucket / "x.nii.gz", scan.data, scan.spec)
    zipped(bucket / "some key" / "x.zarr", "x.zarr.zip")
    for name in ("some key/x.zarr", "x.nii.gz", "some key/x.zarr.zip"):
        assert equal(open_image(input_path(f"s3://bucket/{name}")), scan)


def test_a_group_in_s3_is_listed(s3: Served, scan: Scan) -> None:
    zarr.create_group(str(s3.folder / "bucket" / "g.zarr"))
    make_zarr(s3.folder / "bucket" / "g.zarr" / "raw", scan)
    assert equal(open_image(input_path("s3://bucket/g.zarr")), scan)


@pytest.mark.parametrize("where", ["environment", "default", "profile"])
def test_credentials_are_those_of_the_environment_or_the_profile(
    s3: Served, scan: Scan, where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_zarr(s3.folder / "bucket" / "x.zarr", scan)
    s3.keys = "MYKEY"
    path = input_path("s3://bucket/x.zarr")
    with pytest.raises(FileFormatError, match=r"access is denied.*AWS_PROFILE"):
        open_image(path)
    if where == "environment":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "MYKEY")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    else:
        name = "default" if where == "default" else "lab"
        (tmp_path / "credentials").write_text(
            f"[{name}]\naws_access_key_id = MYKEY\naws_secret_access_key = secret\n", encoding="utf-8"
        )
        monkeypatch.setenv("AWS_PROFILE", name)
    assert equal(open_image(path), scan)


def test_the_region_of_a_bucket_is_asked_for(server: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(remote_objects, "AWS", server.url)
    server.region = "eu-central-1"
    remote_objects._bucket_region.cache_clear()
    assert remote_objects._s3_settings("bucket") == {"skip_signature": True, "region": "eu-central-1"}
    assert server.asked == ["HEAD /bucket"]
    server.region = ""
    remote_objects._bucket_region.cache_clear()
    assert remote_objects._s3_settings("bucket")["region"] == "us-east-1"
