"""`prosma doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from prosma_core.cli.terminal import say

PACKAGES = ("numpy", "monai", "nibabel", "tifffile", "zarr", "safetensors", "pydantic", "SimpleITK", "napari")


def doctor(
    probe: Annotated[
        bool, typer.Option("--probe", help="Find out again how this CPU computes fastest; close other programs before.")
    ] = False,
) -> None:
    """Print versions, devices, memory and threads, and what would be used."""
    import os
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import psutil
    import torch

    import prosma_core
    from prosma_core.inference.cpu_tuning import SWITCH, known_way, probe_cpu
    from prosma_core.inference.device import choose_device, cuda_missing, gib
    from prosma_core.io.bundle import shipped_models
    from prosma_core.io.hardware import cpu_name, usable_cores

    rows = {
        "prosma": prosma_core.__version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__}, CUDA build: {torch.version.cuda or 'no'}",
    }
    for name in PACKAGES:
        try:
            rows[name] = version(name)
        except PackageNotFoundError:
            rows[name] = "not installed"
    memory = psutil.virtual_memory()
    rows["memory"] = f"{gib(memory.available)} free of {gib(memory.total)}"
    rows["threads"] = (
        f"{torch.get_num_threads()} of {psutil.cpu_count()} logical, {psutil.cpu_count(logical=False)} physical "
        f"cores; {usable_cores()} for this process"
    )
    found = probe_cpu() if probe else None
    way = found.way if found else known_way()
    rows["cpu"] = f"{cpu_name()}, {way.words if way else 'probed when it is used first'}"
    if os.environ.get(SWITCH) == "0":
        rows["cpu"] += f" ({SWITCH}=0)"
    for other, ratio in found.ratios if found else ():
        rows[f"  {other.words}"] = f"{ratio:.2f} of the time"
    rows["cuda"] = cuda_missing() or ""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        rows["cuda"] = f"{torch.cuda.get_device_name()}, {gib(free)} free of {gib(total)}"
    rows["mps"] = "available" if torch.backends.mps.is_available() else "not available"
    rows["models"] = ", ".join(shipped_models()) or "none shipped"
    rows["would use"] = choose_device("auto").inferring
    for key, value in rows.items():
        say(f"{key + ':':12} {value}")
