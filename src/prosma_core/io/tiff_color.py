"""What the samples of a TIFF stand for: gray, inverted gray, colors of a palette, red, green, blue, and alpha."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from prosma_core.errors import FileFormatError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from tifffile import TiffPage

_LOG = logging.getLogger(__name__)

_ALPHA = {1, 2}  # EXTRASAMPLE values: associated and unassociated alpha
_WHITE_IS_ZERO, _PALETTE, _CMYK, _YCBCR = 0, 3, 5, 6
_REFUSED = {8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "the raw mosaic of a camera", 32844: "LogL", 32845: "LogLuv"}
_DECODED_AS_RGB = {6, 7, 33003, 33005, 33007, 34712}  # JPEG and JPEG 2000


def plain_samples(
    path: Path, data: NDArray[Any], letters: str, page: TiffPage, *, labels: bool, stored: bool
) -> tuple[NDArray[Any], str]:
    """Values as gray or as red, green, blue: without alpha, palette and inversion.

    Parameters
    ----------
    path : Path
    data : ndarray
        Axes `letters`, ``S`` for the samples of a pixel.
    letters : str
    page : TiffPage
        The first of the image.
    labels : bool
        Whether the values are class numbers: those of a palette are its indices.
    stored : bool
        Whether the file keeps measured values, whatever colors it shows them in (ImageJ, OME-TIFF).

    Returns
    -------
    ndarray, str
        The values and their axes.

    Raises
    ------
    FileFormatError
        The colors are of a kind that is not converted.
    """
    kind = int(page.photometric) if "PhotometricInterpretation" in page.tags else None  # the library guesses white is 0
    if kind in _REFUSED:
        msg = f"{path} stores its colors as {_REFUSED[kind]}, which is not read. Save it as gray or RGB."
        raise FileFormatError(msg)
    data, letters = _without_alpha(path, data, letters, page)
    if data.dtype == bool:
        data = data.astype(np.uint8)
    if kind == _WHITE_IS_ZERO:
        return _brighter_is_larger(path, data, page, labels=labels, stored=stored), letters
    if kind == _PALETTE and not (labels or stored):
        return _through_palette(path, data, letters, page)
    if kind == _CMYK:
        return _as_rgb(path, data, letters, "CMYK"), letters
    if kind == _YCBCR and int(page.compression) not in _DECODED_AS_RGB:
        return _as_rgb(path, data, letters, "YCbCr"), letters
    return data, letters


def warn_orientation(path: Path, number: int) -> None:
    """Report that a picture is to be turned for display; its pixels are read as they are stored."""
    if number in range(2, 9):
        _LOG.warning(
            "%s has EXIF orientation %d: viewers turn or mirror it. Its pixels are read as stored; labels drawn on the "
            "turned picture do not fit them. Save it without the orientation to avoid this.",
            path,
            number,
        )


def _without_alpha(path: Path, data: NDArray[Any], letters: str, page: TiffPage) -> tuple[NDArray[Any], str]:
    if "S" not in letters:
        return data, letters
    at = letters.index("S")
    extra = [int(kind) for kind in page.extrasamples or ()]
    first = data.shape[at] - len(extra)
    alpha = [first + i for i, kind in enumerate(extra) if kind in _ALPHA]
    if not alpha or first < 1:
        return data, letters
    top = np.iinfo(data.dtype).max if data.dtype.kind in "ui" else 1
    log = _LOG.info if (data.take(alpha, axis=at) == top).all() else _LOG.warning
    log("%s: the alpha channel is left out.", path)
    data = data.take([i for i in range(data.shape[at]) if i not in alpha], axis=at)
    if data.shape[at] == 1:
        return data.take(0, axis=at), letters.replace("S", "")
    return data, letters


def _brighter_is_larger(path: Path, data: NDArray[Any], page: TiffPage, *, labels: bool, stored: bool) -> NDArray[Any]:
    """Values of which 0 is white, turned round; class numbers and measured values are kept."""
    bits = int(page.bitspersample)
    if data.dtype.kind != "u" or stored or bits > 8 * data.dtype.itemsize:
        _LOG.warning("%s shows 0 as white (photometric MinIsWhite); its values are kept as stored.", path)
        return data
    top = (1 << bits) - 1
    if labels and not np.isin(data, (0, top)).all():
        _LOG.warning("%s shows 0 as white (photometric MinIsWhite); its class numbers are kept as stored.", path)
        return data
    what = "white is taken as the object" if labels else "its values are inverted, so that brighter is larger"
    _LOG.warning("%s shows 0 as white (photometric MinIsWhite); %s.", path, what)
    turned: NDArray[Any] = data.dtype.type(top) - data
    return turned


def _through_palette(path: Path, data: NDArray[Any], letters: str, page: TiffPage) -> tuple[NDArray[Any], str]:
    colors = page.colormap
    if colors is None:
        return data, letters
    if not (colors & 255).any() or (colors >> 8 == colors & 255).all():
        colors = (colors >> 8).astype(np.uint8)
    if (colors == colors[:1]).all():
        return colors[0][data], letters
    _LOG.info("%s: colors of its palette are read as red, green, blue.", path)
    return np.moveaxis(colors[:, data], 0, -1), letters + "S"


def _as_rgb(path: Path, data: NDArray[Any], letters: str, mode: str) -> NDArray[Any]:
    from PIL import Image

    samples = 4 if mode == "CMYK" else 3
    if letters != "YXS" or data.dtype != np.uint8 or data.shape[-1] != samples:
        msg = f"{path} stores its colors as {mode}, {data.dtype}, axes {letters}; that is not read. Save it as RGB."
        raise FileFormatError(msg)
    _LOG.warning("%s: colors are converted from %s to red, green, blue.", path, mode)
    picture = Image.frombuffer(mode, data.shape[1::-1], np.ascontiguousarray(data), "raw", mode, 0, 1)
    return np.asarray(picture.convert("RGB"))
