"""ProSMA-UNet; the same class is the plain and the attention U-Net."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from prosma_core.config.model import GateKind, ModelConfig
from prosma_core.errors import ConfigError, GeometryError, ModelFileError
from prosma_core.model.blocks import CONV, TRANSPOSED, ResidualBlock
from prosma_core.model.encoders import EfficientNetLite0, build_encoder
from prosma_core.model.gate import SkipGate, build_gate
from prosma_core.printable import counted


class UNetArguments(TypedDict, total=False):
    """Fields of `ModelConfig` as plain values."""

    dims: Literal[2, 3]
    in_channels: int
    num_classes: int
    widths: Sequence[int]
    strides: Sequence[Sequence[int]]
    kernels: Sequence[Sequence[int]]
    blocks: int
    gate: GateKind | Mapping[str, Any]


class UNet(nn.Module):
    """Encoder, and residual decoder with gated skips and a segmentation head at every level.

    Each level has a head, also without deep supervision, so that weights fit either way.

    Parameters
    ----------
    config : ModelConfig, optional
        Settings of the network; or their fields as keyword arguments.
    **settings
        Fields of `ModelConfig`: ``dims`` (spatial axes, 2 or 3), ``in_channels``, ``num_classes`` (the background among
        them), ``widths`` (channels of each stage, finest first); optionally ``strides`` and ``kernels`` (of each stage
        per spatial axis; 2, of the first stage 1, and 3 unless given), ``blocks`` (residual blocks per encoder stage),
        and ``gate``: its kind (``"prosma"``, ``"none"``, ``"attention"``) or a mapping of fields of `GateConfig`.

    Attributes
    ----------
    config : ModelConfig
    skip_gates : list of SkipGate
        Gate of each level, finest first.

    Raises
    ------
    ConfigError
        A value is missing or out of its bounds; the text lists each.

    Examples
    --------
    >>> import torch
    >>> network = UNet(dims=2, in_channels=1, num_classes=3, widths=(8, 16, 32), gate={"threshold": 0.3})
    >>> network(torch.randn(1, 1, 64, 48)).shape
    torch.Size([1, 3, 64, 48])
    """

    def __init__(self, config: ModelConfig | None = None, **settings: Unpack[UNetArguments]) -> None:
        super().__init__()
        self.config = config = _network(config, settings)
        dims, widths = config.dims, config.widths
        self.encoder = build_encoder(config)
        levels = range(len(widths) - 1)  # 0 is the finest
        self.upsample = nn.ModuleList(
            TRANSPOSED[dims](widths[i + 1], widths[i], config.strides[i + 1], config.strides[i + 1]) for i in levels
        )
        self.gates = nn.ModuleList(build_gate(widths[i], config.kernels[i], config.gate) for i in levels)
        self.decoder = nn.ModuleList(
            ResidualBlock(dims, 2 * widths[i], widths[i], config.kernels[i], (1,) * dims) for i in levels
        )
        self.heads = nn.ModuleList(CONV[dims](widths[i], config.num_classes, 1) for i in levels)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits at full resolution.

        Parameters
        ----------
        x : Tensor, float, shape (B, in_channels, *grid)
            Normalized image; each grid axis a multiple of ``config.divisor``.

        Returns
        -------
        Tensor, shape (B, num_classes, *grid)

        Raises
        ------
        GeometryError
            The number of channels or a grid axis does not fit; the text names the legal sizes.
        """
        logits: Tensor = self.heads[0](self.decode(self.encode(x))[0])
        if logits.shape[2:] != x.shape[2:]:  # the finest level is coarser than the scan
            logits = F.interpolate(logits, x.shape[2:], mode="bilinear")
        return logits

    def forward_deep(self, x: Tensor) -> list[Tensor]:
        """Logits of every level, finest first, for deep supervision; shapes (B, num_classes, *grid / stride)."""
        return [head(f) for head, f in zip(self.heads, self.decode(self.encode(x)), strict=True)]

    def encode(self, x: Tensor) -> list[Tensor]:
        """Features of every stage, finest first; parameters and errors as of `forward`."""
        if not torch.compiler.is_compiling():  # compiled for one shape; older torch cannot trace the check whole
            if not isinstance(x, Tensor) or not x.is_floating_point():
                kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
                msg = f"Input of type {kind}: this network takes a tensor of floating-point numbers."
                raise TypeError(msg)
            check_input(x.shape, self.config)
        skips: list[Tensor] = self.encoder(x)  # (B, widths[i], *grid / strides)
        return skips

    def decode(self, skips: list[Tensor]) -> list[Tensor]:
        """Decoder features of every level, finest first, from what `encode` gives."""
        features: list[Tensor] = []
        x = skips[-1]
        for i in reversed(range(len(self.decoder))):
            x = self.decoder[i](self._joined(i, x, skips))  # (B, widths[i], *grid of level i)
            features.append(x)
        return features[::-1]

    def forward_to_gate(self, x: Tensor, finest: int) -> Iterator[int]:
        """Run the network down to the gate of a level, and no further; yields each level when its gate has run.

        Parameters
        ----------
        x : Tensor
            As of `forward`.
        finest : int
            Last level, 0 for the finest.
        """
        skips = self.encode(x)
        x = skips[-1]
        for i in reversed(range(finest, len(self.decoder))):
            joined = self._joined(i, x, skips)
            yield i
            if i > finest:
                x = self.decoder[i](joined)

    def _joined(self, level: int, x: Tensor, skips: list[Tensor]) -> Tensor:
        """Input of a level's decoder: its gated skip, and the coarser features x upsampled to its grid."""
        g = self.upsample[level](x)  # (B, widths[i], *grid of level i)
        return torch.cat([self.gates[level](skips[level], g), g], dim=1)  # (B, 2 widths[i], *grid of level i)

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the encoder that can be pretrained; none of a residual one."""
        if isinstance(self.encoder, EfficientNetLite0):
            yield from self.encoder.pretrained_parameters()

    def load_pretrained(self, published: Mapping[str, Tensor]) -> None:
        """Fill the encoder with published weights, see `prosma_core.model.pretrained.imagenet_weights`."""
        assert isinstance(self.encoder, EfficientNetLite0)
        self.encoder.load_pretrained(published)

    @property
    def skip_gates(self) -> list[SkipGate]:
        """Gate of each level, finest first."""
        return [gate for gate in self.gates if isinstance(gate, SkipGate)]


def _network(config: object, settings: UNetArguments) -> ModelConfig:
    """Settings of a network from its config or its fields."""
    if config is not None:
        if settings:
            msg = f"A network by its config takes nothing else, but {', '.join(settings)} was given. Leave out one."
            raise ConfigError(msg)
        if not isinstance(config, ModelConfig):
            msg = f"A network by {config!r:.60}: give a ModelConfig, or its fields by name, such as dims=2."
            raise ConfigError(msg)
        return config
    values: dict[str, Any] = dict(settings)
    dims, widths = values.get("dims"), values.get("widths")
    if dims in tuple(CONV) and isinstance(widths, Sequence):  # otherwise the check below reports it
        values.setdefault("strides", [(1 if stage == 0 else 2,) * dims for stage in range(len(widths))])
        values.setdefault("kernels", [(3,) * dims] * len(widths))
    if isinstance(values.get("gate"), str):
        values["gate"] = {"kind": values["gate"]}
    return ModelConfig.parse(values, "The network")


def check_input(shape: torch.Size | tuple[int, ...], config: ModelConfig) -> None:
    """Raise `GeometryError` unless the network takes a tensor of this shape (B, C, *grid)."""
    if len(shape) != config.dims + 2 or shape[1] != config.in_channels:
        msg = (
            f"Input of shape {tuple(shape)}: this network takes (batch, "
            f"{config.in_channels}, then {config.dims} spatial axes)."
        )
        raise GeometryError(msg)
    if not shape[0]:
        msg = f"Input of shape {tuple(shape)} holds no image: give a batch of one or more."
        raise GeometryError(msg)
    for axis, (size, divisor) in enumerate(zip(shape[2:], config.divisor, strict=True)):
        if size % divisor or size < divisor:
            below, above = size // divisor * divisor, -(-size // divisor) * divisor
            legal = f"{below} or {above}" if below else str(max(above, divisor))
            msg = f"Spatial axis {axis} has {size} voxels, not a multiple of {divisor} (network stride); use {legal}."
            raise GeometryError(msg)


def build_model(config: ModelConfig, seed: int | None = None) -> UNet:
    """Network with new random weights; the same seed gives the same weights, torch's own generator is unchanged."""
    if seed is None:
        return UNet(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(config)


def count_parameters(model: nn.Module) -> int:
    """Number of learned values."""
    return sum(p.numel() for p in model.parameters())


def model_from(config: ModelConfig, weights: Mapping[str, NDArray[Any]]) -> UNet:
    """Network with exactly these weights, on the CPU, in evaluation mode.

    Raises
    ------
    ModelFileError
        A weight is missing, unexpected, or of another shape.
    """
    with torch.device("meta"):
        model = UNet(config)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
    if wrong:
        first = wrong[0]
        msg = (
            f"{counted(len(wrong), 'weight does', 'weights do')} not fit the header's network, for example {first}: "
            f"needed {expected.get(first, 'none')}, given {given.get(first, 'none')}. The file is not usable."
        )
        raise ModelFileError(msg)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, assign=True)
    return model.eval()
