"""A voxel size as people write it, such as ``0.5,0.2,0.2um``."""

from __future__ import annotations

import re

from prosma_core.config.voxel_size import VoxelSize
from prosma_core.errors import ConfigError
from prosma_core.io.layout import unit_name

_UNIT = re.compile(r"[^\d.,;×\s]+$")


def parse_voxel_size(text: str, unit: str | None = None) -> VoxelSize:
    """A voxel size from text: one, two or three numbers in the order z, y, x, and perhaps a unit.

    Parameters
    ----------
    text : str
        ``"3,1,1"``, ``"0.5 x 0.2 x 0.2 µm"``, ``"0.5mm"``; millimetres unless a unit is given.
    unit : str, optional
        Unit of the numbers; wins over one in the text.

    Raises
    ------
    ConfigError
        The text is none of this, or a size is not above 0.
    """
    numbers, named = text.strip(), ""
    found = _UNIT.search(numbers)
    if found is not None:
        numbers, named = numbers[: found.start()], found.group()
    known = unit_name(unit or named or "mm")
    try:
        sizes = tuple(float(part) for part in re.split(r"\s*[,;x×]\s*|\s+", numbers.strip().rstrip(",;")))
    except ValueError:
        sizes = ()
    if not 1 <= len(sizes) <= 3 or known == "pixel" or not all(0 < size < float("inf") for size in sizes):
        msg = (
            f"{text[:80]!r}{f' {unit[:40]}' if unit else ''} is not a voxel size: give numbers above 0 in the order "
            "z,y,x and a unit of length, such as 3,1,1mm or 0.5,0.2,0.2um; one number is for all axes."
        )
        raise ConfigError(msg)
    return VoxelSize.parse({"sizes": sizes, "unit": known}, "The voxel size")
