"""What kind of scan a layer is, as far as file and voxels tell: models are chosen and remembered by it. No Qt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from napari_prosma.layers.access import LayerScan
from prosma_core.data.geometry import ImageSpec
from prosma_core.data.intensities import COLOR, looks_ct
from prosma_core.io.dicom import dicom_modality
from prosma_core.printable import counted

World = Literal["patient", "sized", "pixels"]
_SAMPLE = 1 << 18


@dataclass(frozen=True)
class ScanKind:
    """What a model has to be made for.

    Attributes
    ----------
    dims : int
        Spatial axes.
    channels : int
        3 for a picture in color; a picture of three equal channels is gray and has 1.
    color : bool
        Whether the channels are red, green and blue.
    world : {"patient", "sized", "pixels"}
        Whether the file knows the patient's axes, only a voxel size, or neither.
    modality : str
        As DICOM abbreviates it; empty where nothing tells it.
    synthetic : bool
        Whether it is a phantom of this program.
    """

    dims: int
    channels: int
    color: bool
    world: World
    modality: str = ""
    synthetic: bool = False

    @property
    def text(self) -> str:
        """In a few words, such as ``3D, 1 channel, CT``; equal kinds have equal texts."""
        channels = "color" if self.color else counted(self.channels, "channel")
        world = {"patient": "patient geometry", "sized": "voxel size", "pixels": "no voxel size"}[self.world]
        kind = self.modality + " phantom" * self.synthetic
        return ", ".join(part for part in (f"{self.dims}D", channels, world, kind.strip()) if part)


def kind_of(scan: LayerScan) -> ScanKind:
    """The kind of a layer's scan; of voxels in memory some are looked at."""
    modality = str(scan.metadata.get("modality", ""))
    if not modality and scan.path is not None and scan.spec.format == "dicom":
        modality = dicom_modality(scan.path)
    gray = scan.rgb and _is_gray(scan.data)
    return kind_from(scan.spec, scan.data, modality, synthetic=bool(scan.metadata.get("synthetic")), gray=gray)


def kind_from(
    spec: ImageSpec, data: Any = None, modality: str = "", *, synthetic: bool = False, gray: bool = False
) -> ScanKind:
    """The kind of a scan of this geometry.

    Parameters
    ----------
    spec : ImageSpec
    data : array-like, optional
        Its voxels, to tell CT by; ``None`` does not.
    modality : str
        Where it is known.
    synthetic : bool
    gray : bool
        Whether its colors are known to be equal.
    """
    world: World = "patient" if spec.world == "ras" else "pixels" if spec.unit == "pixel" else "sized"
    color = spec.num_channels == 3 and spec.channel_names == COLOR and not gray
    if not modality and world != "pixels" and spec.num_channels == 1 and looks_ct(data):
        modality = "CT"
    channels = 1 if gray else spec.num_channels
    return ScanKind(spec.spatial_ndim, channels, color, world, modality, synthetic)


def differ(a: LayerScan, b: LayerScan) -> bool:
    """Whether two readings of a layer need other models."""
    return (a.spec.spatial_ndim, a.spec.num_channels) != (b.spec.spatial_ndim, b.spec.num_channels)


def _is_gray(data: Any) -> bool:
    """Whether the colors of a picture are equal everywhere, as far as some of its pixels tell."""
    if not isinstance(data, np.ndarray):
        return False
    step = max(1, math.isqrt(data.size // _SAMPLE))
    some = data[..., ::step, ::step, :]
    return bool((some[..., 0] == some[..., 1]).all() and (some[..., 0] == some[..., 2]).all())
