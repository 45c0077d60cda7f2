"""The whole command `prosma segment` against nnU-Net v2's `nnUNetv2_predict`: one scan file in, one label file out.

    python3 run.py bench command_speed --nnunet PYTHON [--device cuda] [--scan FILE] [--size 96] [--out FILE.json]

PYTHON is one that has nnunetv2 (``pip install nnunetv2`` into an environment of its own, with the same torch). Every
run is a fresh process, starting Python and importing included; sides alternate, and the medians are of --repeats runs
after one round of warming up. Both have a 3D U-Net of random weights with the same widths, classes and tile, overlap
0.5, Gaussian weights, no mirroring, and the scan's own voxel size, so that neither resamples. Scans are phantoms of
--size voxels along each axis, and the files of --scan (.nii.gz).

prosma computes as it was found to be fastest on this CPU (`prosma doctor`), prosma-fp32 in float32, as nnU-Net does
there. nnunet is its command as it is by default: processes of its own for reading and for writing (up to three each),
on a GPU half precision with everything on it. nnunet-one is the same without such processes (-npp 0 -nps 0), which
suits one scan better. Threads are each program's own choice: on a CPU both take as many as there are cores. Processor
time is printed beside the clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from evidence.networks import cost

from prosma_core.config.model import ChannelIntensity, ClassInfo, GateConfig, ModelConfig, ModelHeader, PreprocessConfig
from prosma_core.data.phantom import phantom_3d
from prosma_core.io.bundle import save_bundle
from prosma_core.io.images import read_image, write_image
from prosma_core.model.unet import build_model
from prosma_core.model.weights import weights_of

CLASSES = 3
DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {"size": [96], "tile": [40, 56, 40], "widths": [32, 64, 128, 192]},  # as the shipped hippocampus-mri
    "cuda": {"size": [192], "tile": [128, 128, 128], "widths": [32, 64, 128, 256, 320, 320]},
}
PREDICT = """\
import sys
from nnunetv2.inference.predict_from_raw_data import predict_entry_point
if __name__ == "__main__":
    sys.exit(predict_entry_point())
"""
"""What pip makes of nnU-Net's command."""


def call(command: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a process to its end; leaves where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", env={**os.environ, **(environment or {})})
    except OSError as error:
        sys.exit(f"{command[0]} cannot be started: {error.strerror}.")
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done


def processor_seconds() -> float:
    """Processor time of all processes that have ended below this one."""
    times = os.times()
    return times.children_user + times.children_system


def write_model(path: Path, spacing: tuple[float, ...], unit: str, options: argparse.Namespace) -> ModelConfig:
    """Write our model file of random weights for scans of this voxel size."""
    stages = len(options.widths)
    config = ModelConfig(
        dims=3,
        in_channels=1,
        num_classes=CLASSES,
        widths=tuple(options.widths),
        strides=((1, 1, 1), *((2, 2, 2),) * (stages - 1)),
        kernels=((3, 3, 3),) * stages,
        gate=GateConfig(kind=options.gate),
    )
    header = ModelHeader(
        name="benchmark",
        model=config,
        preprocess=PreprocessConfig(
            dims=3,
            channels=("scan",),
            resample="spacing",
            spacing=spacing,
            unit=unit,
            intensities=(ChannelIntensity(),),
            tile=tuple(options.tile),
        ),
        classes=tuple(ClassInfo(value=i, name=f"class {i}") for i in range(CLASSES)),
    )
    save_bundle(path, header, weights_of(build_model(config, seed=0).state_dict()))
    return config


class Commands:
    """The commands for one scan, in a folder that holds the models.

    Parameters
    ----------
    folder : Path
    scan : Path
        A .nii.gz file.
    options : argparse.Namespace
    """

    def __init__(self, folder: Path, scan: Path, options: argparse.Namespace) -> None:
        spec = read_image(scan).spec
        self.shape, self.out, self.scan = spec.shape, folder / "labels", scan
        inputs, results, script = folder / "inputs", folder / "results", folder / "nnUNetv2_predict"
        inputs.mkdir()
        self.out.mkdir()
        (inputs / "scan_0000.nii.gz").symlink_to(scan.resolve())
        script.write_text(PREDICT, encoding="utf-8")
        model = folder / "benchmark.safetensors"
        config = write_model(model, spec.spacing, spec.unit, options)
        asked = {"widths": options.widths, "tile": options.tile, "spacing": spec.spacing, "classes": CLASSES}
        self.environment = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
        helper = str(Path(__file__).with_name("_nnunet_model.py"))
        made = call([options.nnunet, helper, str(results), json.dumps(asked)], self.environment).stdout
        self.networks = {"prosma": cost(config, "own", tuple(options.tile)), "nnunet": json.loads(made)}
        predict = [options.nnunet, str(script), "-i", str(inputs), "-o", str(self.out), "-d", "1", "-c", "3d_fullres"]
        predict += ["-f", "0", "-device", options.device, "--disable_tta"]
        ours = [sys.executable, "-m", "prosma_core.cli.main", "segment", str(scan), "--model", str(model)]
        ours += ["--out", str(self.out / "prosma.nii.gz"), "--device", options.device, "--overwrite"]
        self.sides = {"prosma": ours, "nnunet": predict, "nnunet-one": [*predict, "-npp", "0", "-nps", "0"]}
        if options.device == "cpu":
            self.sides["prosma-fp32"] = ours

    def run(self, side: str) -> tuple[float, float, int]:
        """Seconds of a command on the clock and of the processor, and how many tiles it says it did."""
        ours = side.startswith("prosma")
        result = self.out / ("prosma.nii.gz" if ours else "scan.nii.gz")
        result.unlink(missing_ok=True)
        busy, began = processor_seconds(), time.perf_counter()
        said = call(self.sides[side], self.environment | {"PROSMA_PROBE": "0" if side == "prosma-fp32" else "1"}).stderr
        took, busy = time.perf_counter() - began, processor_seconds() - busy
        tiles = re.search(r"(\d+) tiles? of" if ours else r"(\d+)/\1 ", said)
        if tiles is None or read_image(result).spec.shape != self.shape:
            sys.exit(f"{side} left no labels of the scan's size:\n{said[-4000:]}")
        return took, busy, int(tiles[1])


def compare(commands: Commands, repeats: int) -> dict[str, Any]:
    """Median seconds of each side, their range, and the ratios to ours."""
    times: dict[str, list[float]] = {side: [] for side in commands.sides}
    busy: dict[str, list[float]] = {side: [] for side in commands.sides}
    tiles: dict[str, int] = {}
    for repeat in range(repeats + 1):
        for side in list(times)[:: 1 if repeat % 2 else -1]:
            took, processor, tiles[side] = commands.run(side)
            print(f"    round {repeat} of {repeats}, {side}: {took:.2f} s", flush=True)
            if repeat:  # the first round warms up
                times[side].append(took)
                busy[side].append(processor)
    pairs = {s: median(a / b for a, b in zip(values, times["prosma"], strict=True)) for s, values in times.items()}
    return {
        "shape": commands.shape,
        "tiles": tiles,
        "seconds": {side: round(median(values), 3) for side, values in times.items()},
        "range": {side: (round(min(values), 3), round(max(values), 3)) for side, values in times.items()},
        "processor": {side: round(median(values), 3) for side, values in busy.items()},
        "x prosma, median of pairs": {side: round(ratio, 3) for side, ratio in pairs.items()},
        "networks": commands.networks,
    }


def arguments() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet", required=True, metavar="PYTHON", help="A Python that has nnunetv2.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--scan", type=Path, nargs="+", default=[], help="Files to segment as well.")
    parser.add_argument("--size", type=int, nargs="*", help="Voxels along each axis of the phantoms.")
    parser.add_argument("--tile", type=int, nargs=3)
    parser.add_argument("--widths", type=int, nargs="+")
    parser.add_argument("--gate", default="prosma", choices=["prosma", "none"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    for name, value in DEFAULTS[options.device].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    results |= {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "repeats": options.repeats}
    results |= {"widths": options.widths, "tile": options.tile, "gate": options.gate}
    print(results, flush=True)
    with tempfile.TemporaryDirectory() as place:
        scans = list(options.scan)
        for size in options.size:
            image, _ = phantom_3d(0, (size,) * 3)
            scans.append(Path(place) / f"phantom_{size}.nii.gz")
            write_image(scans[-1], image.data, image.spec)
        for number, scan in enumerate(scans):
            folder = Path(place) / str(number)
            folder.mkdir()
            measured = results[scan.name] = compare(Commands(folder, scan, options), options.repeats)
            print(f"{scan.name}:", json.dumps(measured), flush=True)
            if options.out:
                options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
