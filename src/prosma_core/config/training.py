"""Settings of training: what label values mean, optimization and augmentation, and a whole run as one YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from prosma_core.config.base import Config
from prosma_core.config.documents import load_yaml
from prosma_core.config.model import (
    MAX_STAGES,
    MAX_WIDTH,
    Axes,
    ChannelIntensity,
    Color,
    EncoderKind,
    GateConfig,
    Positive,
    Purpose,
    Resample,
    Size,
    VoxelSize,
)
from prosma_core.errors import ConfigError

LabelValue = Annotated[int, Field(ge=0, le=65535)]


def _zero_of_earlier(value: Any) -> Any:
    """What 0 means, also where it was saved with its earlier spelling."""
    return "unlabeled" if value == "unlabelled" else value


class LabelsConfig(Config):
    """What the label values of a training set mean; a model's own background is always 0."""

    zero: Annotated[Literal["background", "unlabeled", "annotated_slices"], BeforeValidator(_zero_of_earlier)] = (
        "background"
    )
    """0 is background; or not annotated; or background on slices that hold any label, and not annotated elsewhere."""
    slice_axis: Literal["z", "y", "x"] | None = None
    """Axis of the annotated slices; None is the axis along which labels continue least from one slice to the next."""
    ignore: LabelValue | None = None
    """Value of voxels that take no part in loss and measures."""
    background: LabelValue | None = None
    """Painted value that means background, needed where 0 does not."""
    one_class: bool = False
    """Take all other labels above 0 as one class (of value 1), such as numbered cells."""
    separate: bool = False
    """With `one_class`, of labels that number objects: what lies between touching ones is background, so that a model
    keeps them apart."""

    gray: Literal["refuse", "threshold", "classes"] = "refuse"
    """Labels with gray edges (JPEG, resized masks) and images given as labels: refuse them; threshold them at half of
    their largest value, as one class of value 1; or take each value as a class."""

    geometry: Literal["own", "image"] = "own"
    """Where label files lie: as they say themselves; or on the voxels of the image wherever the shapes are equal."""

    @property
    def sparse(self) -> bool:
        """Whether unpainted voxels may be unknown."""
        return self.zero != "background"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.ignore is not None and self.ignore == self.background:
            msg = f"ignore and background cannot both be {self.ignore}"
            raise ValueError(msg)
        if self.ignore == 0:
            msg = "to ignore the value 0, set zero: unlabeled"
            raise ValueError(msg)
        if self.separate and not self.one_class:
            msg = "separate keeps objects of one class apart: set one_class as well"
            raise ValueError(msg)
        return self


FINE_TUNING_RATE = 1e-3
"""Peak learning rate of fine-tuning, unless one is given; `trained_share` keeps what the model knows."""


class AugmentConfig(Config):
    """Random changes of a training patch; each `p_` is the probability per patch."""

    p_rotate: float = Field(default=0.3, ge=0, le=1)
    """Rotation; about the thick axis only where voxels are strongly anisotropic."""
    rotate_degrees: float = Field(default=30.0, ge=0, le=180)
    """Largest rotation."""
    p_scale: float = Field(default=0.3, ge=0, le=1)
    """Zoom."""
    scale: tuple[Annotated[float, Field(ge=0.1, le=10)], Annotated[float, Field(ge=0.1, le=10)]] = (0.7, 1.4)
    """Smallest and largest zoom factor."""
    shift: float = Field(default=0.0, ge=0, le=0.5)
    """Largest shift of a patch, as a share of its size, also beyond the edge of the scan."""
    mirror: str = Field(default="zyx", pattern="^z?y?x?$")
    """Axes to mirror, each with probability 0.5; segmentation's mirroring uses the same. Unless given, fine-tuning
    mirrors those of the model it starts from."""
    p_gamma: float = Field(default=0.3, ge=0, le=1)
    """Gamma curve, 0.7 to 1.5."""
    p_contrast: float = Field(default=0.2, ge=0, le=1)
    """Contrast 0.7 to 1.35 about the mean, and brightness of 0.75 to 1.25."""
    p_noise: float = Field(default=0.15, ge=0, le=1)
    """Gaussian noise, deviation up to 0.3 of the scan's."""
    p_blur: float = Field(default=0.15, ge=0, le=1)
    """Gaussian blur, sigma 0.5 to 1 voxel."""
    p_low_resolution: float = Field(default=0.15, ge=0, le=1)
    """Down by 0.5 to 1 and up again."""
    p_bias: float = Field(default=0.0, ge=0, le=1)
    """Smooth gain, as of an MRI coil: its logarithm has a deviation of 0.1 to 0.4."""


MOST_EPOCHS = 100_000
"""Epochs of a run that is ended by minutes alone."""


class TrainingConfig(Config):
    """Training loop: budget, optimizer, loss, validation and averaging of weights."""

    epochs: int = Field(default=150, ge=1, le=MOST_EPOCHS)
    """Epochs of `steps` steps; the learning rate falls to zero over them."""
    steps: int = Field(default=100, ge=1, le=100_000)
    """Steps per epoch."""
    minutes: float | None = Field(default=None, gt=0)
    """Stop after this time, all sessions of the run together; the learning rate falls over it."""
    batch_size: int | None = Field(default=None, ge=1, le=4096)
    """Patches per step, of all processes together; unless given, planned from the tile."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with Nesterov momentum 0.99."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Peak learning rate; unless one is given, fine-tuning takes 1e-3, whatever the preset."""
    trained_share: float | None = Field(default=None, ge=0, le=1)
    """Fine-tuning: share of the trained weights in the model; the rest are those of the start model (1: none of them).
    Unless given, it follows from the start model's Dice on the annotated voxels: the better, the less changes."""
    distillation: float | None = Field(default=None, ge=0, le=100)
    """Fine-tuning: weight of the cross-entropy to the start model's own probabilities where nothing is annotated in the
    cases that are learned: in 3D, and in slices that are annotated in part. Unless given, as the trained share."""
    encoder_rate: float = Field(default=1.0, gt=0, le=1)
    """Share of the learning rate that pretrained weights of an encoder take."""
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    """Weight decay; norms, biases and thresholds are left out."""
    schedule: Literal["cosine", "poly"] = "cosine"
    """Cosine, or (1 - t)^0.9."""
    warmup: float = Field(default=0.02, ge=0, le=0.5)
    """Share of the run over which the learning rate rises."""
    grad_clip: float = Field(default=5.0, gt=0)
    """Largest gradient norm."""
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the averaged weights that are validated and saved; 0 turns averaging off."""
    deep_supervision: bool = True
    """Loss at coarser levels as well, weights 1, 1/2, 1/4, …"""
    dice_weight: float = Field(default=1.0, ge=0)
    """Weight of the Dice loss."""
    ce_weight: float = Field(default=1.0, ge=0)
    """Weight of the cross-entropy."""
    batch_dice: bool = True
    """Dice over all patches of a batch together, so that empty patches count, too; else patch by patch."""
    foreground: float = Field(default=0.4, ge=0, le=1)
    """Share of patches centered on a foreground voxel."""
    removed_target: float | None = Field(default=None, ge=0, lt=1)
    """Fraction of skip activations to remove at every level; unless given, the loss alone sets the thresholds."""
    removed_weight: float = Field(default=1.0, ge=0)
    """Weight of the squared distance to `removed_target`."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after this many epochs (at least those between two validations) without a better validation Dice."""
    validation_cases: int = Field(default=16, ge=1)
    """Cases validated after each epoch (the whole validation set at the end)."""
    validation_every: int = Field(default=1, ge=1)
    """Epochs between validations."""
    keep: Literal["auto", "best", "last"] = "auto"
    """Which weights become the model: of the best validation, or the last (nothing is chosen on the validation);
    auto: the last where fewer than 5 scans or slices are held out, too few to choose by."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of weights, patches and augmentation."""
    amp: bool = True
    """bf16 autocast on CUDA (never on the CPU)."""
    compile: bool = False
    """Compile the network before the first step, which takes a minute; a step of the preset `best` then takes about two
    thirds of the time on an NVIDIA GPU. Needs Triton; CPUs gain nothing."""
    graph: bool = True
    """Run forward, loss and backward as one CUDA graph on an NVIDIA GPU, which then does not wait for Python; takes
    about a sixth more GPU memory."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation."""

    def share(self, epochs: float, seconds: float) -> float:
        """Share of the run that is done after so many epochs and seconds, whichever is further."""
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        return max(epochs / self.epochs, by_time)

    def finished(self, epochs: int, seconds: float, best_epoch: int) -> bool:
        """Whether epochs, time or patience are used up; `best_epoch` is that of the best validation, 0 without one."""
        if self.share(epochs, seconds) >= 1:
            return True
        return bool(self.patience and best_epoch and epochs - best_epoch >= max(self.patience, self.validation_every))


Preset = Literal["quick", "balanced", "best", "fine-tune"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]


class NetworkOptions(Config):
    """The network as far as it is chosen by hand; None is planned from the data."""

    encoder: EncoderKind | None = None
    """``efficientnet-lite0`` (pretrained on ImageNet, for 2D images of 1 or 3 channels) or ``residual``; planned, the
    first where it can be and no other setting of the network is chosen."""
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
    """Normalization: of all channels, or channel by channel."""
    tile: tuple[Size, ...] | None = None
    """Training patch = tile."""
    tile_voxels: int | None = Field(default=None, ge=64)
    """Largest planned tile, in voxels; None is 128³ in 3D, 512² in 2D. Memory lowers it further."""


class RunConfig(Config):
    """One training run: data, preset, plan, network, gate and training settings."""

    data: Path | None = None
    """Folder with images/ and labels/, or an nnU-Net raw data set."""
    pairs: tuple[tuple[Path, Path], ...] = ()
    """Scans and their labels, beside the folder or instead of it."""
    validation: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Numbers of the pairs, from 0, that are validated on and not trained on; where there are none, some are drawn."""
    annotated_slices: dict[str, tuple[Annotated[int, Field(ge=0)], ...]] = Field(default_factory=dict)
    """Slices, from 0, that are annotated as a whole, by case name (of a pair: that of its image); nothing else of these
    cases is trained or validated on. Along `labels.slice_axis`, else the axis of the thickest voxels."""
    out: Path
    """Model file to write; its run folder lies beside it."""
    preset: Preset = "balanced"
    """Named set of defaults (see `PRESETS`); explicit values win. With `init` it is ``fine-tune`` unless given."""
    device: DeviceName = "auto"
    """Where to compute."""
    init: str | None = None
    """Model to start from: a shipped model's name or a file."""
    name: str | None = Field(default=None, min_length=1, max_length=200)
    """Name in the model file; the stem of `out` unless given."""
    description: str = Field(default="", max_length=10_000)
    """One sentence for people who choose a model."""
    purpose: Purpose = Purpose()
    """Scans that the model is meant for; compared with each scan that it is to segment."""
    licence: str = Field(default="", max_length=1000)
    """License of the model (SPDX or words)."""
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


Settings = TypeVar("Settings", bound=Config)

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
    "fine-tune": {
        "training": {"epochs": 3, "steps": 20, "batch_size": 2, "ema_decay": 0.98, "validation_cases": 8},
    },
}
"""What each preset changes against the defaults of the config classes. `quick` is sized for a laptop's CPU; `fine-tune`
goes on from a model: a few slices are learned by heart in more steps (measured)."""


def presets_for(*, fine_tuning: bool) -> tuple[Preset, ...]:
    """Presets that fit a new model, or one that is fine-tuned; of these the usual one stands first."""
    new: tuple[Preset, ...] = ("quick", "balanced", "best")
    return ("fine-tune", *new) if fine_tuning else new


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


_STRONG = {
    "p_rotate": 1.0,
    "p_scale": 1.0,
    "scale": (0.65, 1.55),
    "shift": 0.2,
    "p_contrast": 1.0,
    "p_noise": 0.5,
}
_LONG = {"batch_size": 16, "encoder_rate": 0.3, "batch_dice": False}
PRETRAINED: dict[str, dict[str, Any]] = {
    "quick": {
        "preprocess": {"tile_voxels": 192**2},
        "training": {"batch_size": 4, "learning_rate": 3e-3, "encoder_rate": 0.1, "ema_decay": 0.99},
    },
    "balanced": {
        "preprocess": {"tile_voxels": 256**2},
        "training": {"epochs": 40, "steps": 40, "ema_decay": 0.99, **_LONG},
    },
    "best": {
        "preprocess": {"tile_voxels": 352**2},
        "training": {"epochs": 60, "steps": 60, "ema_decay": 0.995, **_LONG},
    },
    "fine-tune": {"training": {"batch_size": 4, "encoder_rate": 0.1}},
}
"""What each preset is instead for the encoder ``efficientnet-lite0``."""
for _values in PRETRAINED.values():
    _values["training"]["augment"] = _STRONG


def few_slices(dims: int, preset: Preset) -> dict[str, Any]:
    """What a preset is instead for a new model from few annotated slices of scans of a body, nested as in `PRESETS`.

    Slices are not mirrored (the left ventricle is no right one), volumes from left to right only; these are also
    turned and zoomed less, and `quick`, whose few steps are all that there is, learns faster.
    """
    if dims == 2:
        return {"training": {"augment": {"mirror": ""}}}
    turned = {"p_rotate": 1.0, "rotate_degrees": 15.0, "p_scale": 1.0, "scale": (0.8, 1.25), "shift": 0.1}
    rate = {"learning_rate": 4e-3} if preset == "quick" else {}
    return {"training": {"augment": {"mirror": "x", **turned}, **rate}}


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
    usual = "fine-tune" if explicit.get("init") else RunConfig.model_fields["preset"].default
    preset = explicit.get("preset", usual)
    if not isinstance(preset, str) or preset not in PRESETS:
        msg = f"Preset {preset!r} does not exist; use one of {', '.join(PRESETS)}."
        raise ConfigError(msg)
    if preset == "fine-tune" and not explicit.get("init"):
        names = ", ".join(presets_for(fine_tuning=False))
        msg = f"The preset fine-tune starts from a model: give one to start from (init), or use {names}."
        raise ConfigError(msg)
    full = merge({"preset": preset, **PRESETS[preset]}, explicit)
    return mark_chosen(RunConfig.parse(full, what), RunConfig.parse(explicit, what))


def mark_chosen(full: Settings, chosen: Config) -> Settings:
    """The same settings; as set (`model_fields_set`) count those that were chosen, not those of the preset."""
    values = {
        name: mark_chosen(value, getattr(chosen, name)) if isinstance(value, Config) else value for name, value in full
    }
    return full.model_construct(_fields_set=set(chosen.model_fields_set), **values)


def with_defaults(settings: Settings, values: dict[str, Any]) -> Settings:
    """Settings with other values for what was not chosen; these still count as not chosen.

    Parameters
    ----------
    settings : Config
    values : dict
        Nested, as in `PRESETS`.
    """
    changed = {}
    for name, value in settings:
        other = values.get(name)
        if isinstance(value, Config):
            changed[name] = with_defaults(value, other or {})
        else:
            changed[name] = value if other is None or name in settings.model_fields_set else other
    return settings.model_construct(_fields_set=set(settings.model_fields_set), **changed)


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Nested union of two trees of values; `over` wins."""
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result
