"""What is made of a shipped model: figures, tables of card and docs, and a small picture with the outline of labels."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy.ndimage import binary_erosion

from prosma_core.config.model import MISSED, Evaluation, Figure, ModelHeader
from prosma_core.data.geometry import Scan
from prosma_core.io.bundle import worse_name

DRAWS, PERCENTILES = 10_000, (2.5, 97.5)

Scores = Mapping[str, tuple[float, float]]
"""Dice and IoU by class, of one image; of a class that neither the reference nor the result shows, (nan, nan)."""


def scores(found: NDArray[np.integer], reference: NDArray[np.integer], names: Sequence[str]) -> Scores:
    """Dice and IoU of each class of one image; class 1 has the first name."""
    result = {}
    for number, name in enumerate(names, 1):
        a, b = found == number, reference == number
        both, one = int((a & b).sum()), int((a | b).sum())
        result[name] = (2 * both / (one + both), both / one) if one else (math.nan, math.nan)
    return result


def mean_figure(values: Sequence[float]) -> Figure:
    """Mean with its percentile interval from images drawn anew, the same draws for as many images."""
    data = np.asarray(values, float)
    drawn = data[np.random.default_rng(0).integers(0, len(data), (DRAWS, len(data)))].mean(axis=1)
    low, high = np.percentile(drawn, PERCENTILES)
    return _figure(float(data.mean()), low, high, len(data))


def share_figure(count: int, images: int) -> Figure:
    """Share with Wilson's interval, which says something of 0 of n as well."""
    z, share = 1.959964, count / images
    middle, scale = share + z * z / (2 * images), 1 + z * z / images
    half = z * math.sqrt(share * (1 - share) / images + (z / (2 * images)) ** 2)
    return _figure(share, min(share, (middle - half) / scale), max(share, (middle + half) / scale), images)


def _figure(value: float, low: float, high: float, images: int) -> Figure:
    value, low, high = (round(float(v), 4) + 0.0 for v in (value, low, high))  # no -0.0
    return Figure(value=value, low=min(low, value), high=max(high, value), images=images)


def evaluation(
    data: str,
    shown: Sequence[set[str]],
    measured: Sequence[Scores],
    worse: Mapping[str, tuple[Sequence[set[str]], Sequence[Scores]]],
    f1: Sequence[float] = (),
) -> Evaluation:
    """Figures from the scores of images.

    Parameters
    ----------
    data : str
        Which images they are.
    shown : sequence of set of str
        Classes that each image shows.
    measured : sequence
        Scores of each.
    worse : mapping
        The same two of the corrupted images, which may be fewer, by corruption.
    f1 : sequence of float
        F1 of the objects of the first class in each image that shows it, where they are counted.
    """
    names = list(measured[0])
    showing = {name: [s[name] for s, there in zip(measured, shown, strict=True) if name in there] for name in names}
    without = {name: [s[name] for s, there in zip(measured, shown, strict=True) if name not in there] for name in names}
    return Evaluation(
        data=data,
        mean_dice=_mean_dice(shown, measured),
        dice={name: mean_figure([d for d, _ in each]) for name, each in showing.items() if each},
        iou={name: mean_figure([i for _, i in each]) for name, each in showing.items() if each},
        missed={name: share_figure(sum(d < MISSED for d, _ in e), len(e)) for name, e in showing.items() if e},
        false_positives={name: share_figure(sum(d == 0 for d, _ in e), len(e)) for name, e in without.items() if e},
        object_f1={names[0]: mean_figure(f1)} if f1 else {},
        worse={kind: _mean_dice(*each) for kind, each in worse.items()},
    )


def _mean_dice(shown: Sequence[set[str]], measured: Sequence[Scores]) -> Figure:
    return mean_figure(
        [float(np.mean([s[name][0] for name in there])) for s, there in zip(measured, shown, strict=True) if there]
    )


# --- Tables ---------------------------------------------------------------------------------------------------------

START, END = "<!-- figures: written by benchmarks/shipped_facts.py -->", "<!-- end of figures -->"


def with_figures(text: str, table: str) -> str:
    """A page with the table between its two marks."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        msg = f"The page has no place for the figures, between {START} and {END}."
        raise ValueError(msg)
    return f"{before}{START}\n\n{table}\n{END}{after}"


def card_table(header: ModelHeader) -> str:
    """Figures of one model, for its card."""
    found, training = header.evaluation, header.training
    assert found is not None
    kind = "scans" if header.model.dims == 3 else "images"
    rows = [("Measured on", f"{found.data}: {found.mean_dice.images} {kind}; 95 % intervals over {kind}")]
    if len(found.dice) > 1:
        rows.append(("Mean Dice", _mean(found.mean_dice)))
    for name, dice in found.dice.items():
        rows.append((f"Dice, IoU: {name}", f"{_mean(dice)}; {_mean(found.iou[name])}"))
    rows += [(f"F1 of objects (IoU above 0.5): {name}", _mean(figure)) for name, figure in found.object_f1.items()]
    rows.append((f"Missed (Dice below {MISSED:g})", _shares(found.missed, kind, "that show it")))
    if found.false_positives:
        rows.append(("Found where there is none", _shares(found.false_positives, kind, "without it")))
    rows += [(f"Mean Dice, {worse_name(name)}", _mean(figure)) for name, figure in found.worse.items()]
    if "folds" in training:
        rows.append(("Folds of the training images, Dice", str(training["folds"])))
    rows.append(("Trained with", "<br>".join(f"`{command}`" for command in training.get("commands", ()))))
    rows.append(("Cost of the training", str(training.get("cost", ""))))
    return _table(("", ""), rows)


def models_table(headers: Iterable[ModelHeader]) -> str:
    """All models, for docs/models.md."""
    rows = []
    for header in headers:
        found = header.evaluation
        assert found is not None
        weakest = min(found.worse, key=lambda kind: found.worse[kind].value)
        others = [f"found in {_count(f)} without it" for f in found.false_positives.values()]
        rows.append(
            (
                f"[{header.name}](../src/prosma_core/pretrained/{header.name}.md)",
                f"{header.model.dims}D. {header.description.rstrip('.')}. Not for: {header.purpose.not_for}",
                "; ".join([_mean(found.mean_dice), *(f"F1 {_mean(figure)}" for figure in found.object_f1.values())]),
                "; ".join([*(f"{n} {_count(f)}" for n, f in found.missed.items()), *others]),
                f"{found.worse[weakest].value:.3f} ({worse_name(weakest)})",
                header.licence.replace("CC-BY", "CC BY").replace("-4.0", " 4.0").replace("CC0-1.0", "CC0 1.0"),
            )
        )
    titles = ("name", "what", "mean Dice, F1 of objects (95 %)", "missed", "worst, corrupted", "license")
    return _table(titles, rows)


def _mean(figure: Figure) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def _count(figure: Figure) -> str:
    return f"{figure.count} of {figure.images}"


def _shares(figures: Mapping[str, Figure], kind: str, which: str) -> str:
    return "; ".join(
        f"{name}: {_count(f)} {kind} {which} ({100 * f.low:.0f} to {100 * f.high:.0f} %)" for name, f in figures.items()
    )


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# --- Thumbnail ------------------------------------------------------------------------------------------------------

SIDE = 64
"""Pixels."""
MARGIN = 1.6
"""Side of the picture, as a multiple of the longer side of the objects."""
MOST_LOOKED_AT = 60
"""Cases among which one with objects of a usual size is taken."""


def usual_case(classes: Mapping[str, NDArray[np.integer]]) -> str:
    """The case of the median share of labeled voxels, of those that have any."""
    shares = {name: float((values > 0).mean()) for name, values in classes.items() if values.any()}
    return sorted(shares, key=lambda name: (shares[name], name))[len(shares) // 2]


def thumbnail(image: Scan, classes: NDArray[np.integer], header: ModelHeader, source: str) -> bytes:
    """A PNG of 64 by 64 pixels in 256 colors; `source` is written into it, with the license."""
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


def strip(thumbnails: Iterable[bytes]) -> Image.Image:
    """Thumbnails side by side, twice as large."""
    parts = [Image.open(io.BytesIO(each)).convert("RGB").resize((2 * SIDE, 2 * SIDE)) for each in thumbnails]
    made = Image.new("RGB", (sum(part.width + 8 for part in parts) - 8, 2 * SIDE), "white")
    for i, part in enumerate(parts):
        made.paste(part, (i * (2 * SIDE + 8), 0))
    return made.quantize(256)


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
