"""Memory and time of a segmentation that does not fit in memory, against one in memory.

    python3 run.py bench out_of_core [--mib 256] [--filled 1] [--model phantom-3d] [--compare] [--working MIB]

A synthetic zarr of uint16 (chunks of 64 x 256 x 256) is segmented by the command line, read and written by parts.
Memory is the largest sum of the resident sets (RSS) of the command and all its children, sampled every 50 ms. With
`--compare` the same scan is segmented in memory as well: labels must be equal in every voxel, and the time is the
processor time of both, so that other programs on the machine do not count. `--filled` is the share of the scan, from
its first corner on, that holds anything: tiles of one value are computed once, so that a large scan takes less time,
and no less memory.

With `--window opened` the scan is opened in a napari window with the plugin's reader instead, with `--window zarr` or
`--window dask` added as an array of that kind, and segmented there while a timer steps through its slices twice a
second; memory is that of napari and the engine. A timer in the GUI thread that should fire every millisecond tells how
long the event loop was busy: while nothing but the stepping goes on, and during the job. `--asynchronous` turns on
napari's reading of slices in a thread; `--dask-cache` sets the size of its cache of dask blocks.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import zarr

from prosma_core.io.images import read_labels

CHUNKS = (64, 256, 256)
START = "from prosma_core.inference import memory; {}; from prosma_core.cli.main import main; main()"


def make_scan(path: Path, mib: int, filled: float) -> tuple[int, ...]:
    """A scan of noise and bright balls, so that every class is somewhere; behind the filled share all is 100."""
    side = round((mib * 2**20 / 2 / 0.7) ** (1 / 3))
    shape = (round(0.7 * side), side, side)
    array = zarr.create_array(str(path), shape=shape, dtype="uint16", chunks=CHUNKS, zarr_format=2)
    ends = [round(filled ** (1 / 3) * n) for n in shape]
    array.attrs.update({"axes": ["z", "y", "x"], "spacing": [3.0, 1.0, 1.0], "unit": "mm"})
    rng = np.random.default_rng(0)
    for start in range(0, shape[0], CHUNKS[0]):
        if start >= ends[0]:
            array[start : start + CHUNKS[0]] = 100
            continue
        planes = rng.integers(80, 220, (min(CHUNKS[0], shape[0] - start), *shape[1:]), np.uint16)
        z, y, x = np.ogrid[: len(planes), :side, :side]
        planes[((z - 32) * 3) ** 2 + (y % 200 - 100) ** 2 + (x % 200 - 100) ** 2 < 60**2] += 150
        held = planes[: max(0, ends[0] - start), : ends[1], : ends[2]].copy()
        planes[...] = 100
        planes[: held.shape[0], : held.shape[1], : held.shape[2]] = held
        array[start : start + len(planes)] = planes
    return shape


def tree_rss(process: psutil.Process) -> list[int]:
    """Bytes that a process holds, and each of its children."""
    found = []
    for one in [process, *process.children(recursive=True)]:
        try:
            found.append(one.memory_info().rss)
        except psutil.Error:
            continue
    return found


def measured(command: list[str]) -> tuple[list[int], float, float]:
    """RSS of each process of the tree in bytes, when their sum was largest; seconds, and processor seconds."""
    began, before = time.monotonic(), os.times()
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    most, process = [[0]], psutil.Process(child.pid)

    def watch() -> None:
        while child.poll() is None:
            try:
                most[0] = max(most[0], tree_rss(process), key=sum)
            except psutil.Error:
                return
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    assert child.stderr is not None
    for line in child.stderr:
        if "it/s]" not in line:  # napari's own progress
            print(" ", line.rstrip()[:200], flush=True)
    thread.join()
    if child.wait():
        sys.exit(f"The command failed: {' '.join(command)}")
    used = os.times()
    return (
        most[0],
        time.monotonic() - began,
        used.children_user + used.children_system - before.children_user - before.children_system,
    )


def segment_in_window(
    path: Path, kind: str, model: str, overlap: float, minutes: float, dask_cache: int | None, asynchronous: bool
) -> None:
    """Open a scan in a window, segment it, and print the gaps of the event loop; runs in a process of its own."""
    import dask.array as da
    import napari
    from napari.settings import get_settings
    from napari.utils import resize_dask_cache
    from qtpy.QtCore import QTimer
    from viewer_smoothness import Pulse, wait

    from napari_prosma.jobs.qt_loop import make_session
    from napari_prosma.segment import SegmentWidget

    get_settings().experimental.async_ = asynchronous
    with tempfile.TemporaryDirectory() as folder:
        viewer = napari.Viewer()
        viewer.window.resize(1400, 860)
        if dask_cache is not None:
            resize_dask_cache(dask_cache << 20)
        size = {"scale": (3, 1, 1), "units": ("mm",) * 3}
        if kind == "opened":
            layer = viewer.open(str(path), plugin="napari-prosma")[0]
            layer.contrast_limits = (0, 400)
        else:
            data = zarr.open_array(str(path), mode="r") if kind == "zarr" else da.from_zarr(str(path))
            layer = viewer.add_image(data, name="scan", contrast_limits=(0, 400), **size)
        session = make_session(Path(folder))
        widget = SegmentWidget(viewer, session)
        viewer.window.add_dock_widget(widget)
        control = widget.controller
        control.choose_image(layer)
        control.choose_model(next(m for m in session.models() if m.header.name == model))
        control.choose_options(control._choices.options.replace(overlap=overlap))
        wait(lambda: session.jobs.ready is not None)
        steps, took = [0], []

        def step() -> None:
            steps[0] += 1
            began = time.perf_counter()
            viewer.dims.set_current_step(
                0, (steps[0] % 64 if steps[0] // 64 % 2 else 63 - steps[0] % 64) % layer.data.shape[0]
            )
            took.append(1000 * (time.perf_counter() - began))

        timer = QTimer(interval=500)
        timer.timeout.connect(step)
        timer.start()

        def tell(what: str, pulse: Pulse) -> None:
            print(f"{what}: {pulse.stop()}\n  a step: median {np.median(took):.0f} ms, longest {max(took):.0f} ms")
            took.clear()
            own, kept = psutil.Process().memory_info().rss, resize_dask_cache().cache.total_bytes
            print(f"  napari holds {own / 2**30:.2f} GiB, {kept / 2**30:.2f} GiB of it dask's cache", flush=True)

        wait(lambda: False, 5)
        took.clear()
        pulse = Pulse()
        wait(lambda: False, 20)
        tell("stepping", pulse)
        pulse = Pulse()
        control.start_or_cancel()
        wait(lambda: control.run is None, 60 * minutes)
        timer.stop()
        if control.run is not None:
            print(f"stopped after {minutes:g} minutes: {widget.progress_text()}", flush=True)
            control.start_or_cancel()
            wait(lambda: control.run is None, 60)
        wait(lambda: False, 1)
        tell("stepping while it segments", pulse)
        print(f"{widget.progress_text()} {widget.error_text()}", flush=True)
        if control.last is not None:
            counts = control.last.labels.features.get("voxels")
            print(f"result: {type(control.last.labels.data).__name__}, voxels {list(counts)}", flush=True)
        session.jobs.close()
        viewer.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--filled", type=float, default=1.0)
    parser.add_argument("--model", default="phantom-3d")
    parser.add_argument("--overlap", default="0.5")
    parser.add_argument("--working", type=int, default=0, help="MiB that a block may take, also of a small scan")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--window", choices=("opened", "zarr", "dask"), help="segment in a window, a scan of this kind")
    parser.add_argument("--minutes", type=float, default=600, help="after which the job in a window is canceled")
    parser.add_argument("--dask-cache", type=int, help="MiB of napari's cache of dask blocks")
    parser.add_argument("--asynchronous", action="store_true", help="let napari read slices in a thread")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside is not None:
        how = given.minutes, given.dask_cache, given.asynchronous
        segment_in_window(given.inside, given.window, given.model, float(given.overlap), *how)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        shape = make_scan(folder / "scan.zarr", given.mib, given.filled)
        print(f"{' x '.join(map(str, shape))} voxels, {np.prod(shape) * 2 / 2**30:.2f} GiB of uint16", flush=True)
        if given.window:
            inside = [sys.executable, __file__, "--inside", str(folder / "scan.zarr"), "--window", given.window]
            inside += ["--model", given.model, "--overlap", given.overlap, "--minutes", str(given.minutes)]
            inside += ["--asynchronous"] * given.asynchronous
            inside += [] if given.dask_cache is None else ["--dask-cache", str(given.dask_cache)]
            most, seconds, work = measured(inside)
            each = " + ".join(f"{one / 2**30:.2f}" for one in most)
            print(
                f"{given.window} in a window: peak {sum(most) / 2**30:.2f} GiB ({each}), {seconds:.0f} s, {work:.0f} s"
            )
            return
        rest = ["segment", str(folder / "scan.zarr"), "--model", given.model, "--device", "cpu"]
        rest += ["--overlap", given.overlap]
        forced = f"memory.IN_CORE, memory.WORKING, memory.WORTH = 0, {given.working} << 20, 99"
        ways = {"by parts": ["-c", START.format(forced)] if given.working else ["-m", "prosma_core.cli.main"]}
        ways |= {"in memory": ["-c", START.format("memory.IN_CORE = 1 << 60")]} if given.compare else {}
        found = {}
        for way, start in ways.items():
            out = folder / f"{way.replace(' ', '-')}.zarr"
            found[way] = measured([sys.executable, *start, *rest, "--out", str(out)])
            most, seconds, work = found[way]
            print(
                f"{way}: peak {sum(most) / 2**30:.2f} GiB, {seconds:.0f} s, {work:.0f} s of processor time", flush=True
            )
        if given.compare:
            labels = [read_labels(folder / f"{way.replace(' ', '-')}.zarr").data for way in ways]
            same = np.array_equal(*labels)
            classes = np.bincount(labels[0].reshape(-1)).tolist()
            print(f"labels equal: {same}, voxels of each class {classes}")
            print(f"processor time by parts / in memory: {found['by parts'][2] / found['in memory'][2]:.3f}")
            if not same:
                sys.exit(1)


if __name__ == "__main__":
    main()
