"""Sample scans: phantoms at once, MSD Hippocampus from an archive on the web."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from napari.layers import Layer
from napari.utils import cancelable_progress as Bar
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QTimer

from napari_prosma import _sample_data
from napari_prosma.jobs import download
from napari_prosma.jobs import download as download_module
from napari_prosma.jobs.download import Archive, DownloadError, download_shown
from prosma_core.io.hardware import cache_folder


class Site:
    """A web site on this computer."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests = 0
        self.go_on = threading.Event()  # answers wait for this after their first bytes
        self.go_on.set()
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.requests += 1
                content = site.files.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[:1000])
                site.go_on.wait(20)
                try:
                    self.wfile.write(content[1000:])
                except OSError:  # cancelled
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever)
    thread.start()
    yield site
    site.go_on.set()
    site.server.shutdown()
    site.server.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROSMA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def nifti_bytes(values: np.ndarray) -> bytes:
    return bytes(nib.Nifti1Image(values, np.diag([1, 1, 1, 1])).to_bytes())


@pytest.fixture
def archive(site: Site, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """Put a small archive in the place of the real one."""
    import gzip

    voxels = np.random.default_rng(0).integers(0, 3, (30, 40, 20)).astype(np.uint8)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for member, content in (
            ("../escape.txt", b"x"),
            (_sample_data.HIPPOCAMPUS.members[0][0], gzip.compress(nifti_bytes(voxels.astype(np.float32)))),
            (_sample_data.HIPPOCAMPUS.members[1][0], gzip.compress(nifti_bytes(voxels))),
        ):
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    site.files["/Task04_Hippocampus.tar"] = packed.getvalue()
    digest = hashlib.md5(packed.getvalue(), usedforsecurity=False).hexdigest()
    fake = replace(_sample_data.HIPPOCAMPUS, url=f"{site.url}/Task04_Hippocampus.tar", md5=digest)
    monkeypatch.setattr(_sample_data, "HIPPOCAMPUS", fake)
    return fake


def drain(archive: Archive, folder: Path) -> list[tuple[int, int]]:
    return list(download.fetch(archive, folder))


@pytest.mark.parametrize(
    ("make", "ndim", "names"),
    [
        (_sample_data.phantom_2d_layers, 2, ["background", "lesion"]),
        (_sample_data.phantom_3d_layers, 3, ["background", "organ", "lesion"]),
    ],
)
def test_a_phantom_comes_with_its_labels_on_top(make: Callable[[], list], ndim: int, names: list[str]) -> None:
    image, labels = (Layer.create(*layer) for layer in make())
    assert (type(image).__name__, type(labels).__name__) == ("Image", "Labels")
    assert image.ndim == ndim
    assert labels.features["name"].tolist() == names
    assert np.unique(labels.data).tolist() == list(range(len(names)))
    last = np.array(image.data.shape) - 1
    np.testing.assert_allclose(labels.data_to_world(last), image.data_to_world(last))
    assert {str(unit) for unit in image.units} == {"millimeter"}


@pytest.mark.usefixtures("qapp")
def test_the_hippocampus_is_downloaded_once(archive: Archive, site: Site, cache: Path) -> None:
    for _ in range(2):
        image, labels = (Layer.create(*layer) for layer in _sample_data.hippocampus_layers())
        assert image.data.shape == labels.data.shape == (20, 40, 30)
        assert labels.features["name"].tolist() == ["background", "anterior", "posterior"]
    assert site.requests == 1
    assert sorted(file.name for file in cache.iterdir()) == sorted(name for _, name in archive.members)
    assert not (cache.parent / "escape.txt").exists()


def test_a_download_tells_how_far_it_is(archive: Archive, site: Site, tmp_path: Path) -> None:
    steps = drain(archive, tmp_path)
    size = len(site.files["/Task04_Hippocampus.tar"])
    assert steps[-1] == (size, size)


def test_a_changed_archive_is_refused_and_nothing_is_left(archive: Archive, site: Site, tmp_path: Path) -> None:
    site.files["/Task04_Hippocampus.tar"] += b"more"
    with pytest.raises(DownloadError, match="checksum"):
        drain(archive, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_offline_the_message_says_what_to_do(site: Site, tmp_path: Path) -> None:
    nobody = Archive("http://127.0.0.1:9/Task04_Hippocampus.tar", "0" * 32, (("a", "a"),))
    with pytest.raises(DownloadError) as error:
        drain(nobody, tmp_path)
    text = str(error.value)
    assert "could not be downloaded" in text
    assert nobody.url in text
    assert str(tmp_path / "Task04_Hippocampus.tar") in text
    with pytest.raises(DownloadError, match="Not Found"):
        drain(replace(nobody, url=f"{site.url}/none.tar"), tmp_path)


def test_an_archive_that_a_person_put_there_is_used(archive: Archive, site: Site, tmp_path: Path) -> None:
    own = tmp_path / archive.name
    own.write_bytes(site.files["/Task04_Hippocampus.tar"])
    assert drain(archive, tmp_path) == []
    assert download.unpacked(archive, tmp_path) is not None
    assert own.is_file()
    assert site.requests == 0
    own.write_bytes(b"cut off")
    with pytest.raises(DownloadError, match="Remove"):
        drain(archive, tmp_path)


def test_an_archive_without_the_files_is_refused(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"does not hold other\.nii"):
        drain(replace(archive, members=(("other.nii", "other.nii"),)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_window_stays_alive_and_can_cancel(
    qtbot: QtBot, archive: Archive, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[Bar] = []
    monkeypatch.setattr(
        download_module, "cancelable_progress", lambda **options: bars.append(Bar(**options)) or bars[-1]
    )
    site.go_on.clear()

    def press_cancel() -> None:
        with pytest.raises(DownloadError, match="already"):
            download_shown(archive, tmp_path)
        bars[0].cancel()

    QTimer.singleShot(300, press_cancel)
    with pytest.raises(DownloadError, match="cancelled"):
        download_shown(archive, tmp_path)  # the server still holds its answer back
    assert bars[0].desc.startswith("Downloading Task04_Hippocampus.tar")
    assert (bars[0].n, bars[0].total) == (1000, len(site.files["/Task04_Hippocampus.tar"]))
    site.go_on.set()
    qtbot.waitUntil(lambda: list(tmp_path.iterdir()) == [], timeout=20_000)
    download_shown(archive, tmp_path)
    assert download.unpacked(archive, tmp_path) is not None


def test_the_cache_is_the_users_unless_it_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROSMA_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("PROSMA_CACHE")
    assert "napari-prosma" in str(cache_folder())
