"""`python3 run.py demo`: a phantom scan, segmented by the shipped model, with its Dice and a picture."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from prosma_core.cli.options import Device, drain

SEED = 7
SLICES = 4


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for scan, labels, result and picture.")] = Path("demo"),
    device: Device = "auto",
) -> None:
    """Make a phantom scan, segment it, print the Dice and write a picture."""
    import numpy as np

    from prosma_core.config.inference import InferenceConfig
    from prosma_core.data.geometry import array_spec
    from prosma_core.data.phantom import phantom_3d
    from prosma_core.inference.device import choose_device
    from prosma_core.inference.measure import measure_case
    from prosma_core.inference.picture import contact_sheet, overlay
    from prosma_core.inference.segment import Segmenter
    from prosma_core.io.images import write_image, write_labels
    from prosma_core.io.models import find_model

    out.mkdir(parents=True, exist_ok=True)
    image, truth = phantom_3d(SEED)
    write_image(out / "phantom.nii.gz", image.data, image.spec, overwrite=True)
    write_labels(out / "phantom_truth.nii.gz", truth.data, truth.spec, overwrite=True)
    choice = choose_device(device)
    segmenter = Segmenter.load(find_model("phantom-3d"), choice.device)
    began = time.monotonic()
    result = drain(segmenter.segment(image, InferenceConfig()), lambda event: None)
    seconds = time.monotonic() - began
    write_labels(out / "phantom_segmented.nii.gz", result.labels.data, result.labels.spec, overwrite=True)

    classes = segmenter.header.classes
    names = {c.value: c.name for c in classes if c.value}
    measures = measure_case(result.labels.data, truth.data, image.spec.spacing, names, 1.0)
    shape = "x".join(map(str, image.spec.shape))
    typer.echo(f"Segmented a phantom scan of {shape} voxels in {seconds:.1f} s on {choice.reason}.")
    for name, m in measures.items():
        typer.echo(f"Dice {name}: {m.dice:.3f}")
    typer.echo(f"Mean Dice: {np.mean([m.dice for m in measures.values()]):.3f}")

    tissue = np.flatnonzero((truth.data > 0).any(axis=(1, 2)))
    chosen = tissue[np.linspace(0, len(tissue) - 1, SLICES + 2).round().astype(int)[1:-1]]
    nothing = np.zeros_like(truth.data)
    maps = (nothing, truth.data, result.labels.data)
    sheet = contact_sheet([[overlay(image.data[z], labels[z], classes) for z in chosen] for labels in maps], 160)
    picture = out / "demo.png"
    write_image(picture, np.moveaxis(sheet, 2, 0), array_spec((3, *sheet.shape[:2]), "cyx"), overwrite=True)
    typer.echo(f"Scan, truth and result (from top to bottom): {picture}")


if __name__ == "__main__":
    typer.run(demo)
