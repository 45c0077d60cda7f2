"""What no image is: a few bytes that unpack to hundreds of megabytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prosma_core.io.failures import damaged

if TYPE_CHECKING:
    from pathlib import Path

_SMALL = 1 << 20
_MOST = 240 << 20


def check_unpacked(path: Path, packed: int, declared: int) -> None:
    """Refuse an image, but not a label map, that is nearly nothing but one value.

    Parameters
    ----------
    path : Path
    packed : int
        Bytes of its pixels as they are stored.
    declared : int
        Bytes they unpack to.

    Raises
    ------
    FileFormatError
        Less than 1 MB is stored and more than 240 MB are declared.
    """
    if packed < _SMALL and declared > _MOST:
        raise damaged(path, f"it declares {declared >> 20} MB of voxels in {packed >> 10} kB, which no scan fits into")
