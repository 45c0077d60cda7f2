"""Colors of DICOM files as RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.io.failures import damaged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prosma_core.io.dicom_header import DicomFile


def rgb_of_ybr(values: NDArray[Any]) -> NDArray[np.uint8]:
    """YBR_FULL of 8 bits as RGB (PS3.3 C.7.6.3.1.2)."""
    bright, blue, red = (values[..., i].astype(np.float32) - (128 if i else 0) for i in range(3))
    rgb = np.stack([bright + 1.402 * red, bright - 0.344136 * blue - 0.714136 * red, bright + 1.772 * blue], axis=-1)
    return np.clip(np.floor(rgb + 0.5), 0, 255).astype(np.uint8)


def rgb_of_palette(values: NDArray[Any], file: DicomFile) -> NDArray[Any]:
    """Colors of a palette, as RGB of 8 or 16 bits."""
    channels = []
    for offset in range(3):
        described = file.data.numbers(0x00281101 + offset)
        element = file.data.elements.get(0x00281201 + offset)
        if len(described) != 3 or element is None or described[2] not in {8, 16}:
            raise damaged(file.path, "its palette of colors is missing or segmented")
        count, first, bits = int(described[0]) or 65536, int(described[1]), int(described[2])
        order = ">" if file.data.big else "<"
        wide = bits == 16 or len(element.value) >= 2 * count
        table = np.frombuffer(element.value[: len(element.value) // 2 * 2 if wide else None], f"{order}u{1 + wide}")
        if len(table) < count:
            raise damaged(file.path, f"its palette declares {count} colors, {len(table)} are there")
        table = table[:count].astype(np.uint16 if bits == 16 else np.uint8)
        channels.append(table[np.clip(values.astype(np.int64) - first, 0, count - 1)])
    return np.stack(channels, axis=-1)
