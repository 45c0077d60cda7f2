"""What the engine reads of a layer, of its file or a copy, are the voxels that the layer shows, at the same places."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import dask.array as da
import nibabel as nib
import numpy as np
import pytest
import tifffile
import zarr
from napari.layers import Image, Labels, Layer
from numpy.typing import NDArray

from napari_prosma import _reader
from napari_prosma.jobs.spec import ScanSpec
from napari_prosma.layers import source
from napari_prosma.layers.placement import Placement
from napari_prosma.layers.scan import METADATA, LayerScan, guess_axes, read
from napari_prosma.layers.stored import FileArray
from napari_prosma.layers.zarr_slices import ZarrArray
from napari_prosma.train.export_pairs import write_pairs
from napari_prosma.train.pairs import Pair
from napari_prosma.train.sources import layer_source
from prosma_core.data.geometry import AXIS_ORDER, ImageSpec, array_spec
from prosma_core.engine.client import Engine
from prosma_core.engine.handlers import open_scan
from prosma_core.engine.messages import SegmentRequest
from prosma_core.io import images
from prosma_core.io.dataset_folder import open_case, open_cases, read_case
from prosma_core.io.zarr_images import write_zarr

N = 8
"""Voxels along each axis of space: axes in the wrong order have the same shape."""
SIZE = 0.5
PERMUTED = np.array([[0, 0, -SIZE, 30.0], [-SIZE, 0, 0, 5], [0, SIZE, 0, -70], [0, 0, 0, 1]])
OBLIQUE = np.array([[0.48, -0.14, 0, 1.0], [0.14, 0.48, 0, 2], [0, 0, SIZE, 3], [0, 0, 0, 1]])


@pytest.fixture(autouse=True)
def _all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "IN_CORE", 0)
    monkeypatch.setattr(_reader, "IN_CORE", 0)
    monkeypatch.setattr(_reader, "SMALL", 0)
    monkeypatch.setattr(images, "SMALL", 0)
    monkeypatch.setitem(images.open_image.__kwdefaults__, "least", 0)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.close()


def values(*shape: int, dtype: Any = np.uint16) -> NDArray[Any]:
    return np.random.default_rng(len(shape)).permutation(np.prod(shape)).reshape(shape).astype(dtype)


def opened(path: Path) -> Any:
    ((data, arguments, kind),) = _reader.read_paths(str(path))
    return Layer.create(data, arguments, kind)


def zarr_of(path: Path, data: NDArray[Any], version: int = 2, **attributes: Any) -> Path:
    chunks = tuple(min(4, n) for n in data.shape)
    made = zarr.create_array(str(path), shape=data.shape, dtype=data.dtype, chunks=chunks, zarr_format=version)
    made[...] = data
    made.attrs.update(attributes)
    return path


def plain(folder: Path) -> Any:
    return opened(zarr_of(folder / "a.zarr", values(N, N, N)))


def named(folder: Path) -> Any:
    return opened(zarr_of(folder / "a.zarr", values(N, N, N), 3, axes=["x", "z", "y"], spacing=[SIZE] * 3, unit="um"))


def with_channels(folder: Path) -> Any:
    return opened(zarr_of(folder / "a.zarr", values(N, 2, N, N), axes=["z", "c", "y", "x"]))


def with_frames(folder: Path) -> Any:
    return opened(zarr_of(folder / "a.zarr", values(3, 2, N, N, N), axes=["t", "c", "z", "y", "x"]))


def not_of_the_reader(folder: Path) -> Any:
    return Image(zarr.open_array(str(zarr_of(folder / "a.zarr", values(N, N, N))), mode="r"), contrast_limits=(0, 1))


def colors(folder: Path) -> Any:
    notes = {"axes": ["z", "y", "x", "c"], "channel_names": ["red", "green", "blue"]}
    layer = opened(zarr_of(folder / "a.zarr", values(N, N, N, 3, dtype=np.uint8), **notes))
    assert layer.rgb
    return layer


def big_endian(folder: Path) -> Any:
    return opened(zarr_of(folder / "a.zarr", values(N, N, N).astype(">u2")))


def thin(folder: Path) -> Any:
    return opened(zarr_of(folder / "a.zarr", values(1, N, N), axes=["x", "y", "z"]))


def of_halves(folder: Path) -> Any:
    data = da.from_array(values(N, N, N, dtype=np.float16), chunks=4) + 0
    return Image(data, contrast_limits=(0, 1), axis_labels="zyx")


def ome(folder: Path) -> Any:
    write_zarr(folder / "a.ome.zarr", values(N, N, N), array_spec((N,) * 3, "zyx", (SIZE,) * 3, "um"), {})
    return opened(folder / "a.ome.zarr")


def levels(folder: Path) -> Any:
    group, scales = zarr.create_group(str(folder / "a.ome.zarr"), zarr_format=2), (1.0, 2.0)
    for number, factor in enumerate((1, 2)):
        zarr_of(folder / "a.ome.zarr" / str(number), values(2 * N // factor, 2 * N // factor, 2 * N // factor))
    places = [[{"type": "scale", "scale": [SIZE * scale] * 3}] for scale in scales]
    sets = [{"path": str(i), "coordinateTransformations": place} for i, place in enumerate(places)]
    axes = [{"name": letter, "type": "space", "unit": "micrometer"} for letter in "zyx"]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": sets}]
    return opened(folder / "a.ome.zarr")


def of_dask(folder: Path) -> Any:
    return Image(da.from_zarr(str(zarr_of(folder / "a.zarr", values(N, N, N)))), contrast_limits=(0, 1))


def part_of_dask(folder: Path) -> Any:
    stored = da.from_zarr(str(zarr_of(folder / "a.zarr", values(3, N, N, N), axes=["c", "z", "y", "x"])))
    return Image(stored[1], contrast_limits=(0, 1))


def mirrored(folder: Path) -> Any:
    stored = da.from_zarr(str(zarr_of(folder / "a.zarr", values(N, N, N))))
    return Image(stored[:, ::-1], contrast_limits=(0, 1))


def turned_zarr(folder: Path) -> Any:
    path = zarr_of(folder / "a.zarr", values(N, N, N))
    return Image(ZarrArray(zarr.open_array(str(path), mode="r")).transpose((2, 0, 1)), contrast_limits=(0, 1))


def computed(folder: Path) -> Any:
    return Image(da.from_array(values(N, N, N), chunks=5) + 1, contrast_limits=(0, 1), scale=(SIZE,) * 3, units="um")


def tiff(folder: Path) -> Any:
    tifffile.imwrite(folder / "a.tif", values(N, N, N), metadata={"axes": "ZYX"})
    return opened(folder / "a.tif")


def film(folder: Path) -> Any:
    tifffile.imwrite(folder / "a.tif", values(N, N, N), imagej=True, metadata={"axes": "TYX"})
    return opened(folder / "a.tif")


def dask_of_a_tiff(folder: Path) -> Any:
    data = values(N, N, N)
    tifffile.imwrite(folder / "a.tif", data, metadata={"axes": "ZYX"})
    lazy = da.map_blocks(lambda block_info=None: data, dtype=data.dtype, chunks=((N,),) * 3)
    return Image(lazy, contrast_limits=(0, 1), metadata={METADATA: {"path": str(folder / "a.tif")}})


def nifti(folder: Path, affine: NDArray[Any], *shape: int) -> Any:
    nib.Nifti1Image(values(*(shape or (N, N, N)), dtype=np.int16), affine).to_filename(folder / "a.nii")
    layer = opened(folder / "a.nii")
    assert isinstance(layer.data, FileArray)
    return layer


def cut(layer: Any) -> Any:
    """The layer of a patient without a file that holds its voxels: computed by dask."""
    own = {**layer.metadata[METADATA], "path": None}
    data = da.from_array(np.asarray(layer.data), chunks=5) + 0
    return Image(data, contrast_limits=(0, 1), **Placement.of(layer).arguments(), metadata={METADATA: own})


LPS = np.diag([-SIZE, -SIZE, SIZE, 1])
KINDS: dict[str, Callable[[Path], Any]] = {
    "zarr": plain,
    "zarr with axes": named,
    "zarr with channels": with_channels,
    "zarr with frames": with_frames,
    "zarr of another reader": not_of_the_reader,
    "zarr in color": colors,
    "zarr of the other byte order": big_endian,
    "zarr of a plane": thin,
    "computed of float16": of_halves,
    "zarr in another order": turned_zarr,
    "OME-Zarr": ome,
    "levels": levels,
    "dask of a zarr": of_dask,
    "channel of a dask of a zarr": part_of_dask,
    "mirrored dask of a zarr": mirrored,
    "computed": computed,
    "TIFF": tiff,
    "film": film,
    "dask of a TIFF": dask_of_a_tiff,
    "NIfTI": lambda folder: nifti(folder, np.diag([SIZE, SIZE, SIZE, 1])),
    "NIfTI with frames": lambda folder: nifti(folder, LPS, N, N, N, 3),
    "NIfTI of LPS": lambda folder: nifti(folder, LPS),
    "NIfTI in another order": lambda folder: nifti(folder, PERMUTED),
    "oblique NIfTI": lambda folder: nifti(folder, OBLIQUE),
    "computed of LPS": lambda folder: cut(nifti(folder, LPS)),
    "computed in another order": lambda folder: cut(nifti(folder, PERMUTED)),
    "computed oblique": lambda folder: cut(nifti(folder, OBLIQUE)),
    "computed with frames": lambda folder: cut(nifti(folder, LPS, N, N, N, 3)),
}


def turn(layer: Any) -> None:
    matrix = np.eye(layer.ndim)
    matrix[-2:, -2:] = [[0, 1], [-1, 0]]
    layer.rotate = matrix


def bend(layer: Any) -> None:
    matrix = np.eye(layer.ndim + 1)
    matrix[-3, -2] = 0.25
    layer.affine = matrix @ layer.affine.affine_matrix


def resize(layer: Any) -> None:
    layer.scale = (*layer.scale[:-1], 3 * layer.scale[-1])


def shift(layer: Any) -> None:
    layer.translate = (*layer.translate[:-1], 7.25)


def stay(_: Any) -> None:
    """Leave a layer where it was opened."""


MOVES = [stay, resize, shift, turn, bend]


def orders(layer: Any, move: Any) -> list[str]:
    """The guessed axes of a layer; where it was not moved, also other orders and letters."""
    usual = guess_axes(layer)
    if move is not stay:
        return [usual]
    at = [i for i, letter in enumerate(usual) if letter in "zyx"]
    found = [usual]
    for order in permutations("".join(usual[i] for i in at)):
        letters = list(usual)
        for i, letter in zip(at, order, strict=True):
            letters[i] = letter
        found.append("".join(letters))
    others = ("zt", "zc", "tz", "tc", "ct", "cz")
    found += [usual.replace(a, b) for a, b in others if a in usual and b not in usual and not layer.rgb]
    return list(dict.fromkeys(found))


def scans(layer: Any, move: Any) -> Iterator[tuple[LayerScan, NDArray[Any]]]:
    """The layer as each scan that can be read of it, with the voxels that are shown, in canonical order."""
    arrays = list(layer.data) if layer.multiscale else [layer.data]
    for level, array in enumerate(arrays):
        for axes in orders(layer, move):
            yield read(layer, axes, level), canonical(np.asarray(array), axes)


def canonical(array: NDArray[Any], axes: str) -> NDArray[Any]:
    return array.transpose([axes.index(letter) for letter in AXIS_ORDER if letter in axes])


def end_of(work: Generator[Any, None, Any]) -> Any:
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing is being requested:UserWarning")
@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_reads_what_the_layer_shows(kind: str, move: Any, engine: Engine, tmp_path: Path) -> None:
    layer = KINDS[kind](tmp_path)
    move(layer)
    for scan, shown in scans(layer, move):
        asked = end_of(ScanSpec(SegmentRequest(model="m"), scan).prepare(engine))
        found = end_of(open_scan(SegmentRequest.model_validate_json(asked.model_dump_json()).scan))
        assert np.array_equal(np.asarray(found.data), shown), (scan.axes, scan.level)
        same_place(found.spec, scan.spec)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing is being requested:UserWarning")
@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_reads_what_the_layer_shows(kind: str, move: Any, tmp_path: Path) -> None:
    layer = KINDS[kind](tmp_path)
    move(layer)
    for number, axes in enumerate(orders(layer, move)):
        array = np.asarray(layer.data[0] if layer.multiscale else layer.data)
        letters = axes[: layer.ndim]  # without that of colors
        drawn = np.zeros(array.shape[: layer.ndim], np.uint8)
        drawn[tuple(slice(i if size > 1 else 0, 6) for i, size in enumerate(drawn.shape))] = 1
        labels = Labels(drawn, **Placement.of(layer).arguments())
        pair = Pair(layer_source(layer, axes), layer_source(labels))
        files = end_of(write_pairs([pair], tmp_path / str(number)))
        (case,) = open_cases(None, files).cases.values()
        by_parts = open_case(case)
        assert by_parts is not None
        scan = read(layer, axes)
        for image, found in (by_parts, read_case(case)):
            assert np.array_equal(np.asarray(image.data), canonical(array, axes)), axes
            wanted = canonical(drawn, letters)
            wanted = wanted.max(scan.spec.axes.index("c")) if "c" in letters else wanted
            assert np.array_equal(np.asarray(found.data).reshape(wanted.shape), wanted), axes
            for spec, own in ((image.spec, scan.spec), (found.spec, scan.spec.labels_spec())):
                assert (spec.axes, spec.unit, spec.world) == (own.axes, own.unit, own.world)
                np.testing.assert_allclose(spec.spacing, own.spacing, rtol=1e-6)
                if own.world == "ras":  # elsewhere a training looks at voxel sizes only
                    np.testing.assert_allclose(spec.affine, own.affine, rtol=1e-6, atol=1e-5)


LINKED = ["zarr", "zarr with axes", "zarr with frames", "OME-Zarr", "levels", "dask of a zarr", "TIFF", "NIfTI of LPS"]


@pytest.mark.parametrize("kind", LINKED)
def test_a_file_that_says_the_same_is_linked_unless_its_axes_are_read_in_another_order(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    layer = KINDS[kind](Path() if kind in {"TIFF", "NIfTI of LPS"} else tmp_path)
    linked = {axes: source.own_file(read(layer, axes)) for axes in orders(layer, stay)}
    usual = guess_axes(layer)
    assert [axes for axes, file in linked.items() if file is not None] == [usual]
    file = linked[usual]
    assert file is not None
    assert file.is_absolute()
    assert file in set(tmp_path.iterdir()), "what a link to it needs lies beside it"


def same_place(found: ImageSpec, expected: ImageSpec) -> None:
    assert (found.axes, found.shape, found.unit) == (expected.axes, expected.shape, expected.unit)
    assert (found.world, found.channel_names) == (expected.world, expected.channel_names)
    np.testing.assert_allclose(found.affine, expected.affine)
