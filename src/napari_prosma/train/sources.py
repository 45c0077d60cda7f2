"""One side of a training pair, an image or its labels: a layer, or files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari.layers import Layer
from numpy.typing import NDArray

from napari_prosma._reader import image_layer_data
from napari_prosma.layers.labels import known_classes, lies_on, read_on
from napari_prosma.layers.proxies import unwrapped
from napari_prosma.layers.results import noted_provenance
from napari_prosma.layers.scan import METADATA, LayerScan, class_numbers, read
from napari_prosma.layers.scan import read_channels as read_channel_layers
from napari_prosma.layers.slices import marks_of, states_of
from prosma_core.config.model import COLORS, ClassInfo
from prosma_core.data.frames import time_as_channels
from prosma_core.data.geometry import ImageSpec, Scan
from prosma_core.data.intensities import COLOR
from prosma_core.data.slices import SliceStates
from prosma_core.engine.decoder import DECODER
from prosma_core.errors import GeometryError
from prosma_core.io.class_notes import noted_classes
from prosma_core.io.dataset_folder import Case, file_classes
from prosma_core.io.names import image_suffix
from prosma_core.io.notes import noted_slices


@dataclass(frozen=True, eq=False)
class Source:
    """An image or labels.

    Attributes
    ----------
    layer : napari.layers.Image, Labels or None
    others : tuple of napari.layers.Image
        Further layers, each a channel of the scan of which `layer` is the first.
    path : Path or None
        File (or folder) where it is no layer; the first of `channels` where there are some.
    title : str
        Name of what is no layer.
    axes : str or None
        Letters of an image layer's axes, where a user named them.
    channels : tuple of Path
        A file for each channel, where the channels are apart.
    classes : tuple of ClassInfo
        Names that a data set gives its label values.
    copied : bool
        Whether a training takes a copy of the file: one that is written anew as the work goes on.
    """

    layer: Any = None
    path: Path | None = None
    title: str = ""
    axes: str | None = None
    channels: tuple[Path, ...] = ()
    classes: tuple[ClassInfo, ...] = ()
    others: tuple[Any, ...] = ()
    copied: bool = False

    def __post_init__(self) -> None:
        """Take the layers themselves: to plugins, napari hands proxies of them, a new one each time."""
        object.__setattr__(self, "layer", unwrapped(self.layer))
        object.__setattr__(self, "others", tuple(map(unwrapped, self.others)))

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layer, or the layers of the channels; empty for files."""
        return () if self.layer is None else (self.layer, *self.others)

    @property
    def key(self) -> tuple[int, ...]:
        """The same for sources of the same layers."""
        return tuple(map(id, self.layers)) or (id(self),)

    @property
    def name(self) -> str:
        """Shown to the user: the names the layers have now, or the title."""
        return " + ".join(str(layer.name) for layer in self.layers) or self.title

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files of the channels, or the one file; empty for a layer."""
        return self.channels or ((self.path,) if self.path is not None else ())


def layer_source(layer: Any, axes: str | None = None) -> Source:
    """A layer as a source."""
    return Source(layer=layer, axes=axes)


def read_pair(image: Source, labels: Source) -> tuple[ImageSpec, Scan]:
    """Geometry of an image, and its labels, to be compared and trained on; voxels of an image layer are not read.

    Several frames of a file with one label map are channels, as on the command line; a layer with an axis of time
    keeps it unless a user named its axes otherwise.

    Raises
    ------
    ProsmaError
        A file or a layer cannot be read, or the labels are no class numbers.
    """
    if image.layer is None and labels.layer is None:
        return _read_files(image, labels)
    spec, found = _read_each(image, labels)
    if found.spec.num_frames == 1 and image.layer is None:
        spec = time_as_channels(Scan(found.data, spec), spec.num_frames).spec  # voxels of the image are not looked at
    return spec, found


def image_scan(source: Source) -> LayerScan:
    """An image as a layer's scan; a file is read as napari shows it.

    Raises
    ------
    ProsmaError
        As in `read_pair`.
    """
    if source.others:
        return read_channel_layers(source.layers)
    if source.layer is not None:
        return read(source.layer, source.axes)
    scan = DECODER.read_channels(source.paths)
    return read(Layer.create(*image_layer_data(scan.data, scan.spec, source.name, source.path)))


def labels_scan(source: Source, image: LayerScan | None) -> Scan:
    """Labels and where they lie; those of a layer on the grid of `image` have its exact geometry.

    Parameters
    ----------
    source : Source
    image : LayerScan or None
        The image layer they are drawn over; None where the image is a file.

    Raises
    ------
    ProsmaError
        As in `read_pair`.
    """
    if source.layer is None:
        return DECODER.read_labels(source.paths[0])
    scan = read(source.layer) if image is None else read_on(source.layer, image)
    numbers, spec = class_numbers(scan), scan.spec.labels_spec()
    if image is not None and spec.spatial_ndim == image.spec.spatial_ndim and lies_on(scan, image):
        spec = replace(image.spec.labels_spec(), axes=spec.axes, shape=spec.shape)
    return Scan(numbers, spec)


def classes_known(source: Source, values: tuple[int, ...]) -> tuple[ClassInfo, ...]:
    """Names and colors that labels come with: those of the layer, of the file's notes, or of the data set."""
    if source.layer is not None:
        return known_classes(source.layer, values)
    if source.classes or source.path is None:
        return source.classes
    if image_suffix(source.path).lower() == ".seg.nrrd":
        found = sorted(file_classes(DECODER.read_labels(source.path).spec).items())
        return tuple(
            ClassInfo(value=v, name=n, color=COLORS[1 + i % (len(COLORS) - 1)]) for i, (v, n) in enumerate(found)
        )
    return noted_classes(DECODER.read_notes(source.path))


def unnamed(info: ClassInfo | None) -> bool:
    """Whether a class has no name of its own."""
    return info is None or info.name == f"class {info.value}"


def voxels(image: Source) -> NDArray[Any]:
    """Values of an image, in canonical axis order.

    Raises
    ------
    ProsmaError
        As in `read_pair`.
    """
    return image_scan(image).load() if image.layer is not None else DECODER.read_channels(image.paths).data


def provenance_of(source: Source) -> dict[str, str]:
    """How labels were made: the notes of the layer or file; empty for what was painted by hand."""
    if source.layer is not None:
        return dict((source.layer.metadata.get(METADATA) or {}).get("provenance", {}))
    return noted_provenance(DECODER.read_notes(source.path)) if source.path is not None else {}


def states_of_labels(source: Source, labels: Scan, axis: str | None = None) -> SliceStates | None:
    """Checked and edited slices of labels; of a file, as its notes say, None where they do not.

    Parameters
    ----------
    source : Source
    labels : Scan
        As they were read.
    axis : str, optional
        Letter of the slices' axis, for a layer without marks.
    """
    if source.layer is not None:
        return states_of(marks_of(source.layer), labels, axis)
    noted = noted_slices(DECODER.read_notes(source.path)) if source.path is not None else None
    return noted if noted is not None and noted.fits(labels.spec) else None


def _read_each(image: Source, labels: Source) -> tuple[ImageSpec, Scan]:
    if image.layer is None:
        scan = DECODER.read_channels(image.paths)
        return _colored(scan.spec, scan.data.dtype), labels_scan(labels, None)
    drawn = image_scan(image)
    return _colored(drawn.spec, drawn.dtype), labels_scan(labels, drawn)


def _read_files(image: Source, labels: Source) -> tuple[ImageSpec, Scan]:
    try:
        scan, found = DECODER.read_case(Case(image.name, image.paths, labels.paths[0]))
    except GeometryError:  # of different grids: to be said in the row, from the specs
        scan, found = DECODER.read_channels(image.paths), DECODER.read_labels(labels.paths[0])
    return _colored(scan.spec, scan.data.dtype), found


def _colored(spec: ImageSpec, dtype: Any) -> ImageSpec:
    """The spec with the names of red, green and blue where three channels of bytes have none, as in training."""
    if spec.num_channels == 3 and dtype == "uint8" and not spec.channel_names:
        return replace(spec, channel_names=COLOR)
    return spec
