"""Where a result is saved, and the command that repeats it."""

from __future__ import annotations

import shlex
from pathlib import Path

from napari.layers import Labels

from napari_prosma._writer import write_labels_layer
from napari_prosma.segment.state import Plan
from prosma_core.config.inference import InferenceConfig
from prosma_core.io.names import image_suffix, result_name, stem


def save_path(plan: Plan) -> Path | None:
    """File beside the scan for its labels, such as ``case_hippocampus-mri.nii.gz``; None for a scan without a file."""
    path = plan.scan.path
    if path is None or not path.exists():
        return None
    name = result_name(path, plan.scan.spec)
    return path.with_name(f"{stem(Path(name))}_{plan.model.header.name}{image_suffix(Path(name))}")


def save(labels: Labels, path: Path) -> None:
    """Write a result with the geometry and header of its scan; raises `OutputError` where it cannot be written."""
    data, meta, _ = labels.as_layer_data_tuple()
    write_labels_layer(str(path), data, meta)


def run_command(plan: Plan) -> str:
    """The ``prosma segment`` line that gives the same labels; a scan without a file is named SCAN."""
    config, scan = plan.request.config, plan.scan
    out = save_path(plan)
    parts = ["prosma", "segment", str(scan.path or "SCAN"), "--model", plan.model.argument]
    parts += ["--out", str(out or "LABELS.nii.gz"), *_flags(config)]
    if plan.request.device != "auto":
        parts += ["--device", plan.request.device]
    line = shlex.join(parts)
    if scan.path is None:
        return f"{line}\n\nThe layer has no file: save it (File > Save Selected Layers) and put its name for SCAN."
    return line


def _flags(config: InferenceConfig) -> list[str]:
    default = InferenceConfig()
    flags = ["--" + name.replace("_", "-") for name in ("mirror", "probabilities", "entropy") if getattr(config, name)]
    flags += ["--" + name.replace("_", "-") for name in ("keep_largest", "fill_holes") if getattr(config, name)]
    if config.overlap != default.overlap:
        flags += ["--overlap", f"{config.overlap:g}"]
    if config.region is not None:
        flags += ["--region", ",".join(f"{a}:{b}" for a, b in config.region)]
    if config.slice_axis is not None:
        flags += ["--slice-axis", config.slice_axis]
    return flags
