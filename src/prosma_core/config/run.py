"""One training run: everything `prosma train` can be told, as one YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from prosma_core.config.base import Config
from prosma_core.config.documents import load_yaml
from prosma_core.config.labels import LabelsConfig, LabelValue
from prosma_core.config.model import MAX_STAGES, MAX_WIDTH, Axes, Color, GateConfig
from prosma_core.config.preprocess import ChannelIntensity, Positive, Resample, Size, VoxelSize
from prosma_core.config.training import TrainingConfig
from prosma_core.errors import ConfigError

Preset = Literal["quick", "balanced", "best"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]


class NetworkOptions(Config):
    """The network as far as it is chosen by hand; None is planned from the data."""

    width: int = Field(default=24, ge=1, le=MAX_WIDTH)
    """Channels of the finest stage; doubled at each coarser one."""
    max_width: int = Field(default=256, ge=1, le=MAX_WIDTH)
    """Largest number of channels."""
    max_stages: int = Field(default=6, ge=2, le=MAX_STAGES)
    """Most resolutions, counting the finest."""
    blocks: int = Field(default=1, ge=1, le=8)
    """Residual blocks per encoder stage."""
    strides: tuple[Axes, ...] | None = None
    """Downsampling per stage and axis."""
    kernels: tuple[Axes, ...] | None = None
    """Kernel size per stage and axis."""


class PlanOptions(Config):
    """The preprocessing as far as it is chosen by hand; None is planned from the data."""

    dims: Literal[2, 3] | None = None
    """Spatial axes."""
    orientation: Literal["RAS", "keep"] | None = None
    """Turn scans to RAS, or keep each file's orientation."""
    resample: Resample | None = None
    """How the network's grid is found."""
    spacing: tuple[Positive, ...] | None = None
    """Target voxel size (z, y, x)."""
    longest_side: int | None = Field(default=None, ge=8, le=16384)
    """Target of ``resample: longest_side``."""
    intensities: tuple[ChannelIntensity, ...] | Literal["zscore", "ct"] | None = None
    """Normalisation: of all channels, or channel by channel."""
    tile: tuple[Size, ...] | None = None
    """Training patch = tile."""
    tile_voxels: int | None = Field(default=None, ge=64)
    """Largest planned tile, in voxels; None is 128³ in 3D, 512² in 2D. Memory lowers it further."""


class RunConfig(Config):
    """What `prosma train` does."""

    data: Path | None = None
    """Folder with images/ and labels/, or an nnU-Net raw data set."""
    pairs: tuple[tuple[Path, Path], ...] = ()
    """Scans and their labels, beside the folder or instead of it."""
    validation: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Numbers of the pairs, from 0, that are validated on and not trained on; where there are none, some are drawn."""
    out: Path
    """Model file to write; its run folder lies beside it."""
    preset: Preset = "balanced"
    """Named set of defaults (see `PRESETS`); explicit values win."""
    device: DeviceName = "auto"
    """Where to compute."""
    init: str | None = None
    """Model to start from: a shipped model's name or a file."""
    name: str | None = Field(default=None, min_length=1, max_length=200)
    """Name in the model file; the stem of `out` unless given."""
    description: str = Field(default="", max_length=10_000)
    """One sentence for people who choose a model."""
    licence: str = Field(default="", max_length=1000)
    """Licence of the model (SPDX or words)."""
    attribution: str = Field(default="", max_length=10_000)
    """Whom to credit for the training data."""
    class_names: dict[LabelValue, Annotated[str, Field(min_length=1, max_length=200)]] = Field(default_factory=dict)
    """Names of label values; ``class N`` unless given here or by the data set."""
    class_colors: dict[LabelValue, Color] = Field(default_factory=dict)
    """Colors of label values for display, ``#rrggbb``; those of a fixed list unless given here."""
    gate: GateConfig = GateConfig()
    """The skip connections."""
    network: NetworkOptions = NetworkOptions()
    """The network."""
    preprocess: PlanOptions = PlanOptions()
    """The preprocessing."""
    voxel_size: VoxelSize | None = None
    """Size of the voxels of scans that state none."""
    labels: LabelsConfig = LabelsConfig()
    """What label values mean."""
    training: TrainingConfig = TrainingConfig()
    """The loop."""


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "network": {"width": 12, "max_width": 96, "max_stages": 4},
        "preprocess": {"tile_voxels": 48**3},
        "training": {"epochs": 40, "steps": 40, "batch_size": 2, "ema_decay": 0.98, "validation_cases": 8},
    },
    "balanced": {},
    "best": {
        "network": {"width": 32, "max_width": 320},
        "training": {"epochs": 400, "steps": 200},
    },
}
"""What each preset changes against the defaults of the config classes. `quick` is sized for a laptop's CPU."""


def load_run_yaml(path: Path) -> dict[str, Any]:
    """Values of a run YAML, unchecked.

    Raises
    ------
    ConfigError
        The file is missing or not a YAML mapping.
    """
    try:
        values = load_yaml(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        msg = f"Cannot read settings from {path}: {reason}. Give a YAML file such as a run folder's run.yaml."
        raise ConfigError(msg) from error
    if not isinstance(values, dict):
        msg = f"{path} holds no settings: a YAML mapping such as 'training: {{epochs: 50}}' is needed."
        raise ConfigError(msg)
    return values


def resolve_run(explicit: dict[str, Any], what: str = "The run's settings") -> RunConfig:
    """A full run from explicit values, with the preset's values underneath.

    Parameters
    ----------
    explicit : dict
        Nested values as in `RunConfig`; from a YAML and the command line, merged with `merge`.
    what : str
        Where they come from, for error texts.

    Raises
    ------
    ConfigError
        A name is unknown or a value out of bounds.
    """
    preset = explicit.get("preset", RunConfig.model_fields["preset"].default)
    if not isinstance(preset, str) or preset not in PRESETS:
        msg = f"Preset {preset!r} does not exist; use one of {', '.join(PRESETS)}."
        raise ConfigError(msg)
    return RunConfig.parse(merge(PRESETS[preset], explicit), what)


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Nested union of two trees of values; `over` wins."""
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result
