"""Settings of training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from prosma_core.config.base import Config

FINE_TUNING_RATE = 3e-4
"""Peak learning rate of fine-tuning, unless one is given: a higher one destroys what the model knows."""


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


class TrainingConfig(Config):
    """The loop."""

    epochs: int = Field(default=150, ge=1, le=100_000)
    """Epochs of `steps` steps; the learning rate falls to zero over them."""
    steps: int = Field(default=100, ge=1, le=100_000)
    """Steps per epoch."""
    minutes: float | None = Field(default=None, gt=0)
    """Stop after this time, all sessions of the run together; the learning rate falls over it."""
    batch_size: int | None = Field(default=None, ge=1, le=4096)
    """Patches per step; None is planned from the tile."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with Nesterov momentum 0.99."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Peak learning rate; unless one is given, fine-tuning takes 3e-4."""
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
    """Share of patches centred on a foreground voxel."""
    removed_target: float | None = Field(default=None, ge=0, lt=1)
    """Fraction of skip activations to remove at every level; None leaves the thresholds to the loss."""
    removed_weight: float = Field(default=1.0, ge=0)
    """Weight of the squared distance to `removed_target`."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after this many epochs (at least `validation_every`) without a better validation Dice."""
    validation_cases: int = Field(default=16, ge=1)
    """Cases validated after each epoch (the whole validation set at the end)."""
    validation_every: int = Field(default=1, ge=1)
    """Epochs between validations."""
    keep: Literal["auto", "best", "last"] = "auto"
    """Which weights become the model: of the best validation, or the last (nothing is chosen on the validation);
    ``auto``: the last where fewer than 5 scans or slices are held out, too few to choose by."""
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
