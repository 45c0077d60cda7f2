"""A scan as the frames a network takes one at a time: time points, and slices where the network is 2D."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.data.geometry import (
    SPATIAL_AXES,
    Box,
    ImageSpec,
    Scan,
    box_slices,
    check_region,
    first_voxel,
    is_repeated,
    spacing_affine,
)
from prosma_core.data.intensities import COLOR
from prosma_core.data.lazy import LazyArray
from prosma_core.errors import GeometryError

UNNAMED_AXES = ("nifti", "nrrd", "mha")
"""Formats whose fourth axis may be time or channels."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One image for the network.

    Attributes
    ----------
    image : ndarray, float32 or a wider integer or float, shape (C, *grid), or LazyArray
        Values of the file: float32 where that holds any value of the file's type, else of the file's own type. Of a
        scan that is not in memory: as the file has them, still unread.
    index : tuple
        Where its labels go in a label map of the whole scan (axes of ``spec.labels_spec()``).
    spec : ImageSpec
        Geometry of one frame, without time and channels.
    name : str
        ``"frame 3"``, ``"slice 12"``, or empty where there is only one.
    region : tuple of (int, int)
        Box of the frame that is wanted.
    channels : bool
        Whether the scan has a channel axis.
    """

    image: Any
    index: tuple[int | slice | EllipsisType, ...]
    spec: ImageSpec
    name: str
    region: Box
    channels: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """Shape of the grid."""
        shape: tuple[int, ...] = self.image.shape[1:]
        return shape

    @property
    def chunks(self) -> tuple[int, ...]:
        """What is unpacked at once along each axis."""
        return self.image.chunks[1:] if isinstance(self.image, LazyArray) else (1,) * (self.image.ndim - 1)

    def read(self, box: Box) -> NDArray[Any]:
        """Values of a box of the grid, shape (C, *box); types as of an `image` in memory."""
        if isinstance(self.image, LazyArray):
            return _numbers(self.image.read(((0, self.image.shape[0]), *box)))
        return _numbers(self.image[(slice(None), *box_slices(box))])

    def where(self, voxel: tuple[Any, ...]) -> str:
        """Where a voxel of `image` lies in the scan, such as ``"z 3, y 10, x 12"``."""
        channel, *rest = (int(i) for i in voxel)
        spatial = iter(rest)
        fixed = [i for i in self.index if i is not Ellipsis]
        time = len(fixed) in {1, 4}  # of a label map t, or t z y x
        numbers = [i if isinstance(i, int) else next(spatial) for i in fixed]
        numbers += list(spatial)
        letters = ("t" if time else "") + SPATIAL_AXES[len(numbers) - time == 2 :]
        named = list(zip(letters, numbers, strict=True))
        if self.channels:
            named.insert(int(time), ("c", channel))
        return ", ".join(f"{letter} {number}" for letter, number in named)

    def place(self, box: Box) -> Box:
        """Box of the whole label map where a box of this frame lies."""
        axes = iter(box)
        fixed = tuple(i for i in self.index if i is not Ellipsis)
        placed = [(i, i + 1) if isinstance(i, int) else next(axes) for i in fixed]
        return (*placed, *axes)

    def holds(self, box: Box) -> bool:
        """Whether a box of the whole label map that lies in one frame lies in this one."""
        fixed = (i for i in self.index if i is not Ellipsis)
        return all(not isinstance(i, int) or start == i for i, (start, _) in zip(fixed, box, strict=False))


def planes_of(labels: Scan, axis: str) -> Iterator[NDArray[Any]]:
    """Slices of a label map as views, time point by time point.

    Parameters
    ----------
    labels : Scan, without channels
    axis : str
        Letter of the slices' axis; empty for a picture.
    """
    spec, data = labels.spec, np.asarray(labels.data)
    for frame in data if "t" in spec.axes else data[None]:
        if axis:
            yield from np.moveaxis(frame, spec.spatial_axes.index(axis), 0)
        else:
            yield frame


def slice_axis(spec: ImageSpec, chosen: str | None = None) -> int:
    """Spatial axis a 2D network walks along: the only one of size 1, else the thickest voxels, the first of equals.

    Parameters
    ----------
    spec : ImageSpec
    chosen : str, optional
        Letter of the axis to walk along instead.

    Raises
    ------
    GeometryError
        The scan has no such spatial axis.
    """
    if chosen is not None:
        if chosen not in spec.spatial_axes:
            msg = (
                f"The scan cannot be sliced along {chosen!r}: its spatial axes are {', '.join(spec.spatial_axes)} "
                f"(axes {spec.axes}, shape {spec.shape}). Choose one of them, or none."
            )
            raise GeometryError(msg)
        return spec.spatial_axes.index(chosen)
    flat = [axis for axis, size in enumerate(spec.spatial_shape) if size == 1]
    return flat[0] if len(flat) == 1 else int(np.argmax(spec.spacing))


def frame_spec(spec: ImageSpec, dims: int, along: str | None = None) -> ImageSpec:
    """Geometry of one frame of a scan for a network of `dims` spatial axes.

    Parameters
    ----------
    spec : ImageSpec
    dims : int
    along : str, optional
        Letter of the axis a 2D network walks along, where a person chose it (see `slice_axis`).

    Raises
    ------
    GeometryError
        A 3D network is asked to take a 2D image, or the scan has no axis `along`.
    """
    axes = spec.spatial_axes
    walk = slice_axis(spec, along)
    if dims > len(axes):
        msg = (
            f"The model is 3D, the image 2D (axes {spec.axes}, shape "
            f"{spec.shape}). Use a 2D model, or give the whole stack."
        )
        raise GeometryError(msg)
    plain = replace(spec, axes=axes, shape=spec.spatial_shape, channel_names=(), header=None)
    if dims == len(axes):
        return plain
    keep = [a for a in range(3) if a != walk]
    spacing = tuple(spec.spacing[a] for a in keep)
    shape = tuple(plain.shape[a] for a in keep)
    return replace(plain, axes="yx", shape=shape, spacing=spacing, affine=spacing_affine(spacing), world="image")


def frames(scan: Scan, dims: int, along: str | None = None, region: Box | None = None) -> Iterator[Frame]:
    """Frames of a scan for a network of `dims` spatial axes, in order; each is converted when asked for.

    Parameters
    ----------
    scan : Scan
    dims : int
    along : str, optional
        As in `frame_spec`.
    region : tuple of (int, int), optional
        Box of the scan that is wanted, per spatial axis: slices outside it are left out.

    Raises
    ------
    GeometryError
        As in `frame_spec` and `check_region`.
    """
    spec = scan.spec
    one = frame_spec(spec, dims, along)
    box = check_region(region, spec)
    walk = slice_axis(spec, along) if dims < spec.spatial_ndim else None
    channels = "c" in spec.axes
    for t in range(spec.num_frames):
        data = scan.data[t] if "t" in spec.axes else scan.data
        data = data if channels else data[None]
        head: tuple[int | slice | EllipsisType, ...] = (t,) if "t" in spec.axes else ()
        time = f"frame {t}" if spec.num_frames > 1 else ""
        if walk is None:
            yield Frame(_converted(data), (*head, ...), one, time, box, channels)
            continue
        inside = frame_region(spec, dims, along, box)
        for k in range(*box[walk]):
            at: list[int | slice] = [slice(None)] * 3
            at[walk] = k
            name = f"{time} slice {k}".strip()
            yield Frame(_converted(data[(slice(None), *at)]), (*head, *at), one, name, inside, channels)


def frame_axes(spec: ImageSpec, dims: int, along: str | None = None) -> str:
    """Letters of the axes of a frame, in the scan's order."""
    axes = spec.spatial_axes
    return axes if dims == len(axes) else axes.replace(axes[slice_axis(spec, along)], "")


def frame_region(spec: ImageSpec, dims: int, along: str | None, region: Box) -> Box:
    """Box of each frame that a box of the scan holds: without the axis a 2D network walks along."""
    if dims == spec.spatial_ndim:
        return region
    walk = slice_axis(spec, along)
    return tuple(box for axis, box in enumerate(region) if axis != walk)


def _converted(data: NDArray[Any] | LazyArray) -> NDArray[Any] | LazyArray:
    return data if isinstance(data, LazyArray) else _numbers(data)


def _numbers(data: NDArray[Any]) -> NDArray[Any]:
    """Values as float32 where that is exact; wider types stay until they are normalized, which knows their range."""
    if is_repeated(data):
        return np.broadcast_to(_numbers(first_voxel(data)), data.shape)
    return np.asarray(data, np.float32) if data.dtype.itemsize <= 2 or data.dtype == np.float32 else np.asarray(data)


def count_frames(spec: ImageSpec, dims: int, along: str | None = None, region: Box | None = None) -> int:
    """Number of frames `frames` gives; raises `GeometryError` as it does."""
    box = check_region(region, spec)
    start, stop = box[slice_axis(spec, along)] if dims < spec.spatial_ndim else (0, 1)
    return spec.num_frames * (stop - start)


def time_means_channels(spec: ImageSpec, channels: tuple[str, ...]) -> bool:
    """Whether a scan's time axis is taken for the model's channels.

    Files of several contrasts keep them in the fourth axis, which otherwise is time: in formats that do not name
    their axes, where its length is the model's number of channels. Frames are never taken for colors.
    """
    return (
        spec.format in UNNAMED_AXES
        and "c" not in spec.axes
        and spec.num_frames == len(channels) > 1
        and tuple(name.lower() for name in channels) != COLOR
    )


def time_as_channels(scan: Scan, channels: int) -> Scan:
    """The scan with its time axis read as channels, where it has no channels and its length is this number."""
    spec = scan.spec
    if "c" in spec.axes or channels == 1 or spec.num_frames != channels:
        return scan
    axes = "c" + "".join(a for a in spec.axes if a in SPATIAL_AXES)
    return Scan(scan.data, replace(spec, axes=axes))
