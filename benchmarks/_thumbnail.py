"""The small picture of a shipped model: a training image, cropped to its objects, with the outline of its labels."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy.ndimage import binary_erosion

from prosma_core.config.model import ModelHeader
from prosma_core.data.geometry import Scan
from prosma_core.data.labels import class_indices
from prosma_core.io.dataset_folder import DatasetFolder, read_case

SIDE = 64
"""Pixels."""
MARGIN = 1.6
"""Side of the picture, as a multiple of the longer side of the objects."""
MOST_LOOKED_AT = 60
"""Cases among which one with objects of a usual size is taken."""


def usual_case(folder: DatasetFolder, cases: list[str], header: ModelHeader) -> str:
    """The case of the median share of labeled voxels, of those that have any."""
    shares = {}
    for name in cases[:MOST_LOOKED_AT]:
        values = class_indices(read_case(folder.cases[name])[1].data, header.classes, name)
        if values.any():
            shares[name] = float((values > 0).mean())
    return sorted(shares, key=lambda name: (shares[name], name))[len(shares) // 2]


def thumbnail(image: Scan, labels: Scan, header: ModelHeader, source: str) -> bytes:
    """A PNG of 64 by 64 pixels in 256 colors; `source` is written into it, with the licence."""
    classes = class_indices(labels.data, header.classes, source)
    data = np.asarray(image.data, np.float32)
    if "c" in image.spec.axes:
        data = np.moveaxis(data, image.spec.axes.index("c"), -1)
    spacing = image.spec.spacing
    if classes.ndim == 3:
        best = int((classes > 0).sum((1, 2)).argmax())
        data, classes, spacing = data[best], classes[best], spacing[1:]
    low, high = np.percentile(data, (1, 99))
    gray = (255 * np.clip((data - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)
    if gray.ndim == 2:
        gray = gray[..., None].repeat(3, axis=-1)
    box = _square(classes > 0, spacing)
    picture = np.asarray(Image.fromarray(gray).resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)).copy()
    for number, info in enumerate(header.classes[1:], 1):
        mask = Image.fromarray((255 * (classes == number)).astype(np.uint8))
        inside = np.asarray(mask.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)) > 127
        picture[inside & ~binary_erosion(inside, border_value=1)] = _rgb(info.color)
    notes = PngInfo()
    notes.add_text("Source", source)
    notes.add_text("Copyright", header.licence)
    out = io.BytesIO()
    Image.fromarray(picture).quantize(256).save(out, "PNG", optimize=True, pnginfo=notes)
    return out.getvalue()


def _square(mask: NDArray[np.bool_], spacing: tuple[float, ...]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a square of the scene around the objects, within the image as far as it can be."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    height, width = (found[-1] - found[0] + 1 for found in (rows, columns))
    shape = np.array(mask.shape) * spacing
    side = min(max(height * spacing[0], width * spacing[1]) * MARGIN, *shape)
    centers = (rows[0] + rows[-1] + 1) / 2 * spacing[0], (columns[0] + columns[-1] + 1) / 2 * spacing[1]
    top, left = (float(np.clip(c - side / 2, 0, n - side)) for c, n in zip(centers, shape, strict=True))
    return left / spacing[1], top / spacing[0], (left + side) / spacing[1], (top + side) / spacing[0]


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
