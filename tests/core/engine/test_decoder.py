"""Foreign files are decoded by another process: the same scan as here, and its end is an error that names the file."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from prosma_core.data.geometry import array_spec
from prosma_core.engine import decoder as module
from prosma_core.engine.decoder import Decoder
from prosma_core.engine.messages import header_from, header_message
from prosma_core.errors import FileFormatError, LabelError, ProsmaError
from prosma_core.io.dataset_folder import Case, read_case, read_channels
from prosma_core.io.images import read_image, read_labels, write_image, write_labels
from prosma_core.io.notes import read_notes


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    """Return a decoder whose processes are gone at the end."""
    made = Decoder()
    yield made
    made.close()
    assert made.pids == []


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Return the path of a picture."""
    Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize("name", ["a.ome.tif", "a.tif", "a.ome.zarr", "a.nrrd", "a.mha", "a.nii.gz"])
def test_a_scan_is_the_same_as_read_here(name: str, tmp_path: Path, decoder: Decoder, rng: np.random.Generator) -> None:
    spec = array_spec((2, 3, 4, 5), "czyx", (3.0, 0.1, 1 / 3), "mm")
    write_image(tmp_path / name, rng.normal(size=spec.shape).astype(np.float32), spec)
    here, found = read_image(tmp_path / name), decoder.read_file(tmp_path / name)
    np.testing.assert_array_equal(found.scan.data, here.data)
    assert found.scan.data.dtype == here.data.dtype
    assert repr(found.scan.spec) == repr(here.spec)
    np.testing.assert_array_equal(found.scan.spec.affine, here.spec.affine)
    assert found.notes == read_notes(tmp_path / name)
    labels = (rng.random((3, 4, 5)) > 0.5).astype(np.uint8)
    write_labels(tmp_path / f"l{name}", labels, spec, provenance={"program": "x", "model": "m"})
    np.testing.assert_array_equal(decoder.read_labels(tmp_path / f"l{name}").data, labels)
    assert decoder.read_notes(tmp_path / f"l{name}")["model"] == "m"


def test_pairs_and_channels_are_the_same_as_read_here(tmp_path: Path, decoder: Decoder) -> None:
    spec = array_spec((6, 7), "yx")
    for n in range(2):
        write_image(tmp_path / f"x_{n:04d}.png", np.full((6, 7), n, np.uint8), spec)
    write_labels(tmp_path / "x.png", np.eye(6, 7, dtype=np.uint8), spec)
    case = Case("x", (tmp_path / "x_0000.png", tmp_path / "x_0001.png"), tmp_path / "x.png")
    for here, there in zip(read_case(case), decoder.read_case(case), strict=True):
        np.testing.assert_array_equal(here.data, there.data)
        assert repr(here.spec) == repr(there.spec)
    assert decoder.read_channels(case.images).spec.channel_names == read_channels(case.images).spec.channel_names


def test_formats_read_by_code_of_our_own_start_no_process(tmp_path: Path) -> None:
    alone = Decoder()
    for name in ("a.nii", "a.nrrd", "a.mha"):
        write_image(tmp_path / name, np.zeros((3, 4, 5), np.uint8), array_spec((3, 4, 5), "zyx", (1, 1, 1), "mm"))
        alone.read_file(tmp_path / name)
    assert alone.pids == []


def test_errors_keep_their_class_and_text(tmp_path: Path, picture: Path, decoder: Decoder) -> None:
    picture.write_bytes(picture.read_bytes()[:60])
    write_image(tmp_path / "rgb.png", np.arange(48, dtype=np.uint8).reshape(3, 4, 4), array_spec((3, 4, 4), "cyx"))
    for path, kind in ((picture, FileFormatError), (tmp_path / "rgb.png", LabelError)):
        with pytest.raises(kind) as here:
            read_labels(path)
        with pytest.raises(kind) as there:
            decoder.read_labels(path)
        assert str(there.value) == str(here.value)
    with pytest.raises(FileFormatError, match="does not exist"):
        decoder.read_file(tmp_path / "none.png")
    assert decoder.read_notes(tmp_path / "none.png") == {}


def _read_while_stopped(decoder: Decoder, path: Path, then: signal.Signals | Callable[[], None] | None) -> str:
    """Error of a file whose decoder is stopped, and then gets this signal, or this is called."""
    decoder.read_file(path)
    (pid,) = decoder.pids
    os.kill(pid, signal.SIGSTOP)
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:  # a busy machine takes a moment
        time.sleep(0.01)
    said: list[str] = []

    def read() -> None:
        with pytest.raises(FileFormatError) as caught:
            decoder.read_file(path)
        said.append(str(caught.value))

    thread = threading.Thread(target=read)
    thread.start()
    if then is not None:
        time.sleep(0.2)
        if callable(then):
            then()
        else:
            os.kill(pid, then)
            os.kill(pid, signal.SIGCONT)
    thread.join(20)
    return said[0]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("then", "cause"),
    [
        ("SIGSEGV", "its decoder crashed"),
        ("SIGKILL", "killed, most often because memory ran out. Close other programs, then open it again."),
        ("SIGTERM", "ended by another program. Open it again."),
        (None, "it was not decoded within 1 s"),
    ],
)
def test_a_decoder_that_ends_is_an_error_that_names_the_file_and_the_next_one_works(
    then: str | None, cause: str, picture: Path, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    if then is None:
        monkeypatch.setattr(module, "PATIENCE", 0.5)
    said = _read_while_stopped(decoder, picture, getattr(signal, then) if then else None)
    assert said.startswith(f"{picture} cannot be read: ")
    assert cause in said
    monkeypatch.undo()
    np.testing.assert_array_equal(decoder.read_file(picture).scan.data, read_image(picture).data)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_what_is_read_while_all_is_closed_is_neither_damaged_nor_out_of_memory(picture: Path) -> None:
    alone = Decoder()
    assert _read_while_stopped(alone, picture, alone.close) == f"{picture} was not read: the program is being closed."


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_decoder_that_ended_meanwhile_is_no_fault_of_the_file(picture: Path, decoder: Decoder) -> None:
    decoder.read_file(picture)
    (pid,) = decoder.pids
    os.kill(pid, signal.SIGKILL)
    while decoder.pids:
        time.sleep(0.01)
    assert decoder.read_file(picture).scan.spec.shape == (20, 20)


def test_several_threads_read_at_the_same_time_and_one_process_is_kept(tmp_path: Path, decoder: Decoder) -> None:
    paths = [tmp_path / f"{n}.png" for n in range(2)]
    for n, path in enumerate(paths):
        Image.fromarray(np.full((30, 40), n, np.uint8)).save(path)
    found: dict[int, int] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: int(decoder.read_file(paths[n]).scan.data.max())}))
        for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {n: n for n in range(2)}
    assert len(decoder.pids) == 1


def test_a_decoder_without_a_viewer_ends(picture: Path) -> None:
    alone = Decoder()
    alone.read_file(picture)
    (child,) = alone._idle
    assert child.process.stdin is not None
    child.process.stdin.close()
    assert child.process.wait(10) == 0
    folders = list(alone._folders)
    alone.close()
    assert not any(folder.exists() for folder in folders)


def test_headers_of_our_own_cross_and_those_of_libraries_stay_behind(tmp_path: Path) -> None:
    spec = array_spec((3, 4, 5), "zyx", (3, 1, 1), "mm")
    for name in ("a.nrrd", "a.mha"):
        write_image(tmp_path / name, np.zeros((3, 4, 5), np.uint8), spec)
        header = read_image(tmp_path / name).spec.header
        assert repr(header_from(header_message(header))) == repr(header)
    write_image(tmp_path / "a.nii", np.zeros((3, 4, 5), np.uint8), spec)
    assert header_message(read_image(tmp_path / "a.nii").spec.header) is None
    for name in ("os.system", "prosma_core.io.images.read_image", "prosma_core.io.nothing"):
        with pytest.raises((TypeError, ProsmaError, ImportError)):
            header_from({"class": name, "values": {}})
