"""What will happen to a scan, said before it happens."""

from __future__ import annotations

from collections.abc import Iterator

from prosma_core.config.header import ModelHeader
from prosma_core.config.inference import InferenceConfig
from prosma_core.data.geometry import ImageSpec
from prosma_core.data.grid import NetworkGrid
from prosma_core.data.region import check_region, region_words
from prosma_core.data.voxel_size import size_note, size_unknown
from prosma_core.printable import counted


def plan_words(
    spec: ImageSpec,
    header: ModelHeader,
    config: InferenceConfig,
    grid: NetworkGrid,
    *,
    frames: tuple[int, int],
    tiles: tuple[int, int],
) -> Iterator[str]:
    """Sentences on what is resampled, turned, left out, and what of the settings does not apply.

    Parameters
    ----------
    spec : ImageSpec
        Of the scan.
    header : ModelHeader
    config : InferenceConfig
    grid : NetworkGrid
    frames, tiles : tuple of int
        Frames, and tiles of each frame: to compute, and there are.
    """
    what = f"{frames[0]} frames of the scan" if frames[0] > 1 else "The scan"
    if note := size_note(spec, header.preprocess):
        yield f"{note} Give the true size if it differs (--spacing)." if size_unknown(spec) else note
    if grid.shape != grid.oriented:
        shape, target = ("x".join(map(str, s)) for s in (spec.spatial_shape, grid.shape))
        yield f"{what} ({shape}) will be resampled for the model to {target}."
    if grid.order != tuple(sorted(grid.order)) or grid.flips:
        yield f"{what} will be turned from {spec.orientation} to {header.preprocess.orientation}."
    if config.mirror and not header.mirror_axes:
        yield "The model's training mirrored no axis: mirroring is left out."
    if config.slice_axis is not None and header.model.dims == spec.spatial_ndim:
        yield f"The model takes the {spec.spatial_ndim}D scan as a whole: it is not sliced along {config.slice_axis}."
    part = region_words(check_region(config.region, spec), spec)
    if part:
        count = f"{tiles[0]} of {counted(tiles[1], 'tile')}"
        if frames[1] > 1:
            slices = "frames" if header.model.dims == spec.spatial_ndim else "slices"
            count = f"{frames[0]} of {frames[1]} {slices}, {count} of each"
        yield f"Only {part} gets labels; computed for it: {count}."
