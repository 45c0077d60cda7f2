"""What the training cases are, as far as a plan needs to know."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from prosma_core.config.run import RunConfig
from prosma_core.data.annotation import Annotation, read_annotation
from prosma_core.data.fingerprint import Fingerprint, fingerprint
from prosma_core.data.geometry import ImageSpec, Scan
from prosma_core.data.voxel_size import with_voxel_size
from prosma_core.errors import DatasetError
from prosma_core.events import Event, StageStarted, Working
from prosma_core.io.dataset_folder import Case, DatasetFolder, read_case
from prosma_core.training.split import Split

SAID_ONCE = 3
"""Cases whose annotated slices are said; those of further cases only pass by."""


@dataclass
class Facts:
    """What reading the training cases told.

    Attributes
    ----------
    prints : list of Fingerprint
        Of each case that holds an annotation.
    slices : dict of tuple of int
        Annotated slices of each of them.
    background : bool
        Whether one has an annotated background voxel.
    said : int
        Cases of whose slices something was said.
    """

    prints: list[Fingerprint]
    slices: dict[str, tuple[int, ...]]
    background: bool = False
    said: int = 0


def read_cases(
    folder: DatasetFolder, split: Split, run: RunConfig, dims: int | None
) -> Generator[Event, None, tuple[int, Facts]]:
    """Look at every training case; those without any annotation are left out, and said.

    Parameters
    ----------
    folder : DatasetFolder
    split : Split
    run : RunConfig
    dims : int or None
        Spatial axes of the network; None is told by the first case.

    Returns
    -------
    dims : int
    facts : Facts

    Raises
    ------
    DatasetError
        No case holds an annotation.
    """
    facts = Facts([], {})
    for i, name in enumerate(split.train):
        image, labels = read_annotated(folder.cases[name], run)
        if not labels.known:
            yield StageStarted(f"{name} holds no annotation and is left out.")
            continue
        dims = dims or usual_dims(image.spec)
        known = Scan(labels.values, labels.spec)
        facts.prints.append(fingerprint(image, known, dims, np.random.default_rng([run.training.seed, i])))
        facts.slices[name] = labels.slices
        background = labels.values == 0 if labels.ignored is None else (labels.values == 0) & ~labels.ignored
        facts.background = facts.background or bool(background.any())
        if words := _slices_words(name, labels, run):
            yield StageStarted(words) if facts.said < SAID_ONCE else Working(words)
            facts.said += 1
        yield Working(f"Reading {name}")
    if dims is None:
        msg = f"No case of {folder.root} holds an annotation. Paint at least one object in one slice, and save."
        raise DatasetError(msg)
    return dims, facts


def usual_dims(spec: ImageSpec) -> int:
    """Spatial axes of a network for such a scan."""
    return 2 if spec.spatial_ndim == 2 or min(spec.spatial_shape) == 1 else 3


def read_annotated(case: Case, run: RunConfig) -> tuple[Scan, Annotation]:
    """A case's image, and what its labels say; errors as in `read_case`, `with_voxel_size` and `read_annotation`."""
    image, labels = read_case(case)
    image = Scan(image.data, with_voxel_size(image.spec, run.voxel_size))
    return image, read_annotation(labels, run.labels)


def _slices_words(name: str, labels: Annotation, run: RunConfig) -> str:
    """Which slices are taken to be annotated, where a person should check that; else empty."""
    slices = labels.slices
    if run.labels.zero == "annotated_slices" and labels.axis is not None:
        listed = ", ".join(map(str, labels.marked[:12])) + (", …" if len(labels.marked) > 12 else "")
        return f"{name}: annotated slices {labels.axis_name} {listed}."
    if labels.sparse or len(slices) < 2 or slices[-1] - slices[0] + 1 < 2 * len(slices):
        return ""
    return (
        f"{name}: {len(slices)} slices between {labels.axis_name} {slices[0]} and {slices[-1]} hold labels; the others "
        "count as background. If they are not annotated, stop and give --annotated-slices."
    )
