"""Memory and time of a training from scans that do not fit into memory, against one from memory.

    python3 run.py bench training_by_parts [--scans 2] [--mib 512] [--steps 20] [--compare]

Synthetic zarr of uint16 (chunks of 64 x 256 x 256) with labels of uint8 are trained from by the command line as if no
memory were free for them. Memory is the largest sum of the resident sets (RSS) of the command and all its children,
sampled every 50 ms. With `--compare` the same training reads the scans into memory as well: the models must be equal.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml
import zarr
from out_of_core import CHUNKS, make_scan, measured
from safetensors.numpy import load_file

START = (
    "from prosma_core.training import reading; reading.SHARE, reading.LEAST = {}, 0; "
    "from prosma_core.cli.main import main; main()"
)


def make_labels(path: Path, scan: Path) -> None:
    """Labels of a corner of a scan of `make_scan`: its balls in two classes, 3 around them; 0 is not annotated."""
    image = zarr.open_array(str(scan), mode="r")
    array = zarr.create_array(str(path), shape=image.shape, dtype="uint8", chunks=CHUNKS, zarr_format=2)
    array.attrs.update(image.attrs.asdict())
    z, y, x = np.ogrid[: CHUNKS[0], : CHUNKS[1], : CHUNKS[2]]
    inside = ((z - 32) * 3) ** 2 + (y % 200 - 100) ** 2 + (x % 200 - 100) ** 2 < 60**2
    array[: CHUNKS[0], : CHUNKS[1], : CHUNKS[2]] = np.where(inside, 1 + (x > CHUNKS[2] // 2), 3).astype(np.uint8)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=2)
    parser.add_argument("--mib", type=int, default=512, help="Of each scan.")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder, size = Path(name), 0
        for kind in ("images", "labels"):
            (folder / "data" / kind).mkdir(parents=True)
        for number in range(given.scans):
            scan = folder / "data" / "images" / f"scan{number}.zarr"
            shape = make_scan(scan, given.mib, 1.0)
            make_labels(folder / "data" / "labels" / scan.name, scan)
            size += 2 * int(np.prod(shape))
        print(f"{given.scans} x {' x '.join(map(str, shape))} voxels, {size / 2**30:.2f} GiB of uint16", flush=True)
        models = {}
        for way, share in {"by parts": 0.0, **({"in memory": 1e9} if given.compare else {})}.items():
            out = folder / f"{way.replace(' ', '-')}.safetensors"
            values = {
                "data": str(folder / "data"),
                "out": str(out),
                "device": "cpu",
                "network": {"width": 4, "max_width": 8, "max_stages": 3},
                "preprocess": {"dims": 3, "tile": [32, 64, 64], "resample": "none"},
                "labels": {"zero": "unlabeled", "slice_axis": "z", "background": 3},
                "training": {"epochs": 1, "steps": given.steps, "batch_size": 2},
            }
            config = folder / "run.yaml"
            config.write_text(yaml.safe_dump(values))
            command = [sys.executable, "-c", START.format(share), "train", "--config", str(config)]
            most, seconds, work = measured(command)
            print(
                f"{way}: peak {sum(most) / 2**30:.2f} GiB, {seconds:.0f} s, {work:.0f} s of processor time", flush=True
            )
            models[way] = load_file(out)
        if given.compare:
            one, other = models.values()
            same = one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
            print("models are equal" if same else "models DIFFER", flush=True)


if __name__ == "__main__":
    main()
