"""`prosma doctor`."""

from __future__ import annotations

import typer

PACKAGES = ("numpy", "monai", "nibabel", "tifffile", "zarr", "safetensors", "pydantic", "SimpleITK", "napari")


def doctor() -> None:
    """Print versions, devices, memory and threads, and what would be used."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import psutil
    import torch

    import prosma_core
    from prosma_core.inference.device import choose_device, cuda_missing, gib
    from prosma_core.io.models import shipped_models

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
        f"{torch.get_num_threads()} of {psutil.cpu_count()} logical, {psutil.cpu_count(logical=False)} physical cores"
    )
    rows["cuda"] = cuda_missing() or ""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        rows["cuda"] = f"{torch.cuda.get_device_name()}, {gib(free)} free of {gib(total)}"
    rows["mps"] = "available" if torch.backends.mps.is_available() else "not available"
    rows["models"] = ", ".join(shipped_models()) or "none shipped"
    rows["would use"] = choose_device("auto").reason
    for key, value in rows.items():
        typer.echo(f"{key + ':':12} {value}")
