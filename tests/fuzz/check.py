"""Reads one damaged file as the product would, and says whether what came out is acceptable."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from prosma_core.errors import ProsmaError

LONGEST_MESSAGE = 400
_MOST_EVENTS = 60
_LARGEST_COMPARED = 4_000_000


class Finding(Exception):
    """What came out is not acceptable; the first word is the kind: silent, long."""


def read_image_file(path: Path) -> list[np.ndarray]:
    """Read a scan, then the same file as labels; return the voxels of the scan."""
    from prosma_core.io.images import read_image, read_labels

    voxels: list[np.ndarray] = []
    refused: ProsmaError | None = None
    try:
        voxels = [read_image(path).data]
    except ProsmaError as error:
        refused = error
        check_message(error)
    try:
        read_labels(path)
    except ProsmaError as error:
        check_message(error)
    if refused is not None:
        raise refused
    return voxels


def read_model(path: Path) -> list[np.ndarray]:
    """Load a model file to be computed with; return its weights in the order of their names."""
    import torch

    from prosma_core.inference.segment import Segmenter
    from prosma_core.io.bundle import load_bundle

    Segmenter.load(path, torch.device("cpu"))
    weights = load_bundle(path)[1]
    return [weights[name] for name in sorted(weights)]


def read_run(path: Path) -> list[np.ndarray]:
    """Ask a run folder for everything that is shown of it, and resume it."""
    from prosma_core.config.training import RunConfig
    from prosma_core.runs.run_folder import RunFolder, resumed_settings
    from prosma_core.runs.run_state import keep_stopped, read_history, run_state
    from prosma_core.training.loop import train

    folder = RunFolder(path)

    def resume() -> None:
        values = resumed_settings(folder, {"out": str(folder.model)})
        work = train(RunConfig.parse(values, "run.yaml"), resume=True)
        for _, _event in zip(range(_MOST_EVENTS), work, strict=False):
            pass
        work.close()

    last: ProsmaError | None = None
    asked: list[Callable[[], object]] = [
        lambda: run_state(folder),
        lambda: read_history(folder),
        folder.read_splits,
        folder.epochs_done,
        folder.read_before,
        lambda: keep_stopped(folder),
        resume,
    ]
    for question in asked:
        try:
            question()
        except ProsmaError as error:
            check_message(error)
            last = error
    if last is not None:
        raise last
    return []


def read_settings(path: Path) -> list[np.ndarray]:
    """Read settings of a run as ``prosma train --config`` does."""
    from prosma_core.config.training import load_run_yaml, resolve_run

    resolve_run(load_run_yaml(path), str(path))
    return []


def read_dataset(path: Path) -> list[np.ndarray]:
    """Open a data folder and read all its cases."""
    from prosma_core.io.dataset_folder import open_dataset, read_case

    return [scan.data for case in open_dataset(path).cases.values() for scan in read_case(case)]


def _broken(kind: str) -> Callable[[Path], list[np.ndarray]]:
    """Return a reader with one fault, which shows on damaged files only."""

    def read(path: Path) -> list[np.ndarray]:
        if path.read_bytes() == b"abcdefgh" * 64:
            return [np.zeros(1)]
        if kind == "crash":
            os.abort()
        if kind == "hang":
            time.sleep(60)
        if kind == "memory":
            np.ones(300 << 20, np.uint8)
        if kind == "long":
            check_length("x" * 401)
        if kind == "traceback":
            raise KeyError(path)
        return [np.ones(1)] if kind == "silent" else [np.zeros(1)]

    return read


READERS: dict[str, Callable[[Path], list[np.ndarray]]] = {
    "image": read_image_file,
    "model": read_model,
    "run": read_run,
    "settings": read_settings,
    "dataset": read_dataset,
    **{f"broken-{kind}": _broken(kind) for kind in ("traceback", "long", "silent", "memory", "hang", "crash")},
}


def check_message(error: ProsmaError) -> None:
    """Raise `Finding` where the text of an error is too long to be read in a window."""
    check_length(str(error))


def check_length(text: str) -> None:
    """Raise `Finding` where a text is longer than 400 characters."""
    if len(text) > LONGEST_MESSAGE:
        raise Finding(f"long: {len(text)} characters: {text[:200]}")


def digest(arrays: list[np.ndarray]) -> str:
    """Hash of shapes, types and bytes of arrays."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def check_against_peer(path: Path, voxels: np.ndarray) -> None:
    """Raise `Finding` where the format's own library reads other values from the same file."""
    for peer in _peer(path):
        if peer.size != voxels.size or peer.dtype.kind not in "buif" or voxels.size > _LARGEST_COMPARED:
            return
        inverted = (
            [np.iinfo(peer.dtype).max - peer] if peer.dtype.kind == "u" else []
        )  # where white is 0, with a warning
        if not any(_same_values(voxels, values) for values in (peer, *inverted)):
            raise Finding(f"silent: values differ from those of the format's own reader ({path.name})")


def _same_values(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays hold the same values, in whatever order."""
    with np.errstate(all="ignore"):
        ours, theirs = (np.sort(a.astype(np.float64), axis=None) for a in (one, other))
    return bool(np.allclose(ours, theirs, rtol=1e-5, atol=1e-6, equal_nan=True))


def _peer(path: Path) -> Iterator[np.ndarray]:
    """Yield the voxels as read by another library, where it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = _read_by_library(path)
    except Exception:  # noqa: BLE001  (what a library raises on a damaged file is not in question here)
        return
    if array is not None:
        yield array


def _read_by_library(path: Path) -> np.ndarray | None:
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        import nibabel as nib

        image = nib.load(path)
        header, voxels = image.header, image.dataobj
        if header["vox_offset"] == 0:  # behind the header; of a NIfTI-2 nibabel would read the header as voxels
            layout = (header.get_data_shape(), header.get_data_dtype(), header.single_vox_offset)
            voxels = nib.arrayproxy.ArrayProxy(path, (*layout, *header.get_slope_inter()))
        return np.asarray(voxels) if image.get_data_dtype().names is None else None
    if name.endswith((".tif", ".tiff")):
        import tifffile

        return np.asarray(tifffile.imread(path))
    return None


def read_and_compare(read: str, path: Path) -> tuple[str, list[Any]]:
    """Read a file; return what happened (read, refused) and the arrays."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return "read", READERS[read](path)
    except ProsmaError as error:
        check_message(error)
        return "refused", []
