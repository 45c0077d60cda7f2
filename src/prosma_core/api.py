"""The library: each job as a plain function, and the gate and the network as modules.

The functions run the same code as `prosma` and the plugin. Each takes ``progress``, which is called with the
events of `prosma_core.events`; an exception that it raises ends the job and is passed on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.inspection import InspectConfig, LevelEdit, Variant, opened_one_at_a_time
from prosma_core.config.model import provenance
from prosma_core.config.training import LabelsConfig, resolve_run
from prosma_core.data.fit import warn_unfit
from prosma_core.data.geometry import Scan, with_voxel_size
from prosma_core.errors import ConfigError, GeometryError
from prosma_core.events import Event, StageStarted, drain
from prosma_core.inference.device import prepare_device
from prosma_core.inference.evaluate import evaluate_cases
from prosma_core.inference.results import Segmentation
from prosma_core.inference.segment import Segmenter
from prosma_core.inspection.inspect import Inspected, inspect_scan
from prosma_core.inspection.whatif import WhatIf
from prosma_core.inspection.whatif import what_if as changed_scan
from prosma_core.io import images
from prosma_core.io.bundle import find_model
from prosma_core.io.dataset_folder import open_cases
from prosma_core.io.inputs import (
    Image,
    Pair,
    Spacing,
    array_axes,
    array_scan,
    as_array,
    canonical,
    in_axes,
    labels_on,
    pair_files,
    read_input,
    voxel_size_of,
)
from prosma_core.io.notes import known_of
from prosma_core.io.remote import input_path, local_path
from prosma_core.model.gate import ProximalGate
from prosma_core.model.unet import UNet
from prosma_core.runs.run_folder import RunFolder, check_new_run, run_to_train
from prosma_core.training.loop import TrainingResult
from prosma_core.training.loop import train as run_training

__all__ = [
    "ProximalGate",
    "UNet",
    "evaluate",
    "inspect",
    "load_model",
    "read_image",
    "segment",
    "train",
    "what_if",
    "write_labels",
]

OF_ARRAYS = "Axes and affine are those of arrays: the files of a data folder have their own. Leave them out."
Progress = Callable[[Event], None]
Model = Segmenter | str | Path
"""A model that was loaded, a shipped model's name, or a file."""
Edit = Mapping[str, Any]
"""How the gate of one level is changed: fields of `LevelEdit`."""


def load_model(name_or_path: str | Path, *, device: str = "auto", progress: Progress | None = None) -> Segmenter:
    """Load a model, for any number of images.

    Parameters
    ----------
    name_or_path : str or Path
        A shipped model's name (``prosma models list``), or a ``.safetensors`` file that `train` wrote.
    device : {"auto", "cpu", "cuda", "mps"}
        Where to compute; ``"auto"`` takes a GPU where there is one.
    progress : callable, optional
        Called with each `Event`.

    Returns
    -------
    Segmenter
        Its ``header`` says what the model is for, its ``model`` is the network, a `UNet` in evaluation mode.

    Raises
    ------
    ModelFileError
        There is no such model, or its file is damaged or of a newer version.
    DeviceError
        The device cannot be used here.

    Examples
    --------
    >>> model = load_model("phantom-3d", device="cpu")
    >>> [each.name for each in model.header.classes]
    ['background', 'organ', 'lesion']
    """
    path = find_model(str(name_or_path))
    choice = drain(prepare_device(device), progress or _ignore)
    return Segmenter.load(path, choice.device)


def read_image(
    path: str | Path,
    *,
    axes: str | None = None,
    spacing: Spacing | None = None,
    unit: str | None = None,
) -> Scan:
    """Read an image or a label map, with its geometry.

    Parameters
    ----------
    path : str or Path
        A file of any format that is read, a zarr folder, a folder with one DICOM series, or the URL of a scan.
    axes : str, optional
        Letters of ``"tczyx"``, one per dimension of the file: for NIfTI in the order of its header (``"xyz…"``), for
        all others in the order of the array (``"…yx"``).
    spacing : float or sequence of float, optional
        Voxel size along z, y and x, in `unit`, for files that state none.
    unit : str, optional
        Unit of `spacing`, such as ``"mm"`` or ``"um"``; mm unless given.

    Returns
    -------
    Scan
        ``data``, an array of the file's dtype whose axes are a subset of ``"tczyx"`` in that order; and ``spec``, its
        axes, spacing, unit and affine.

    Raises
    ------
    FileFormatError
        The file is missing, empty, damaged, of an unknown format, or not what its header declares.
    GeometryError
        Axes cannot be told or do not fit, or the affine is not invertible.
    ConfigError
        The spacing is not a positive number, or the unit is unknown.
    MissingExtraError
        The format needs a library that is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> write_labels("cells.tif", np.eye(32, dtype=np.uint8))
    >>> scan = read_image("cells.tif", spacing=0.5, unit="um")
    >>> scan.spec.axes, scan.data.shape, scan.spec.spacing, scan.spec.unit
    ('yx', (32, 32), (0.5, 0.5), 'um')
    """
    _require(axes, str | None, "The string of axes", "give one letter for each axis, such as 'zyx'")
    scan = images.read_image(input_path(path), axes=axes)
    return Scan(scan.data, with_voxel_size(scan.spec, voxel_size_of(spacing, unit)))


def write_labels(
    path: str | Path,
    labels: ArrayLike,
    like: Scan | str | Path | None = None,
    *,
    axes: str | None = None,
    model: Segmenter | None = None,
    overwrite: bool = False,
) -> None:
    """Write a label map on the grid of an image, atomically.

    Parameters
    ----------
    path : str or Path
        The suffix is the format: ``.nii.gz``, ``.tif``, ``.ome.tif``, ``.zarr``, ``.ome.zarr``, ``.nrrd``, ``.mha``,
        and ``.png`` for 2D.
    labels : array_like, integer or bool, shape of `like` without channels
        Class values from 0.
    like : Scan or path, optional
        The image that was segmented: the file gets its affine, voxel size and unit. Without it, the voxel size is 1.
    axes : str, optional
        Letters of the axes of `labels`; those of `like` without channels, or ``"yx"`` and ``"zyx"``, unless given.
    model : Segmenter, optional
        The model whose prediction this is, named in the file: training tells such labels from annotations.
    overwrite : bool
        Replace an earlier result.

    Raises
    ------
    OutputError
        The file exists, cannot be written, or its format cannot hold labels.
    LabelError
        Labels are not whole numbers from 0.
    GeometryError
        The labels are not on the grid of `like`.

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.zeros((8, 32, 32), np.uint8)
    >>> labels[2:4, 8:16, 8:16] = 1
    >>> write_labels("lesion.nii.gz", labels)
    >>> int(read_image("lesion.nii.gz").data.sum())
    128
    """
    _require(like, Scan | str | Path | None, "The image given as like", "give the scan, or the path of its file")
    _require(model, Segmenter | None, "The model", "give the one that load_model gave")
    source = read_image(like) if isinstance(like, str | Path) else like
    array = as_array(labels, "The labels")
    if source is None:
        scan = array_scan(array, axes)
        spec, data = scan.spec, scan.data
    else:
        spec, order = source.spec, source.spec.labels_spec().axes
        data = array if axes is None else in_axes(array, array_axes(array.shape, axes), canonical(axes))
        if data.shape != spec.labels_spec().shape:
            msg = f"Labels of shape {data.shape} are not on the image's grid {spec.labels_spec().shape} (axes {order})."
            raise GeometryError(msg)
    notes = None
    if model is not None:
        source_name = input_path(like).name if isinstance(like, str | Path) else "array"
        notes = provenance(model.header, InferenceConfig(), source_name)
        del notes["settings"]  # which are not known here
    images.write_labels(local_path(path), data, spec, overwrite=overwrite, provenance=notes)


@overload
def segment(
    image: Image,
    model: Model,
    *,
    axes: str | None = ...,
    spacing: Spacing | None = ...,
    unit: str | None = ...,
    affine: ArrayLike | None = ...,
    full: Literal[False] = ...,
    progress: Progress | None = ...,
    **settings: Any,
) -> NDArray[np.unsignedinteger[Any]]: ...


@overload
def segment(
    image: Image,
    model: Model,
    *,
    axes: str | None = ...,
    spacing: Spacing | None = ...,
    unit: str | None = ...,
    affine: ArrayLike | None = ...,
    full: Literal[True],
    progress: Progress | None = ...,
    **settings: Any,
) -> Segmentation: ...


def segment(
    image: Image,
    model: Model,
    *,
    axes: str | None = None,
    spacing: Spacing | None = None,
    unit: str | None = None,
    affine: ArrayLike | None = None,
    full: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> NDArray[np.unsignedinteger[Any]] | Segmentation:
    """Segment an image; a warning is logged where the model was trained on other scans than this one.

    Parameters
    ----------
    image : array_like, Scan or path
        An array, integer or floating point, of any shape with the axes of `axes`; a scan of `read_image`; or a file.
    model : Segmenter, str or Path
        A model of `load_model`; or a name or file, which is loaded for this call.
    axes : str, optional
        Of an array: letters of ``"tczyx"`` in the array's order, such as ``"yxc"`` for a color picture or ``"xyz"`` for
        an array of nibabel; ``"yx"`` and ``"zyx"`` unless given. Of a file: as in `read_image`.
    spacing : float or sequence of float, optional
        Voxel size in `unit`: of an array in the order of its own spatial axes, of a file that states none along z, y
        and x.
    unit : str, optional
        Unit of spacing and affine; mm unless given.
    affine : array_like, shape (n + 1, n + 1), optional
        Of an array, instead of `spacing`: maps a voxel index to world coordinates in `unit`, rows and columns in the
        order of the array's n spatial axes. In 3D and mm, the world is RAS+ (right, anterior, superior): with
        ``axes="xyz"``, the affine of nibabel.
    full : bool
        Return all results, not the labels alone.
    progress : callable, optional
        Called with each `Event`: `TileDone` counts the tiles.
    **settings
        Fields of `InferenceConfig`, such as ``overlap``, ``threshold`` and ``keep_largest``; ``probabilities``,
        ``entropy`` and ``objects`` with `full` alone.

    Returns
    -------
    ndarray, uint8 or uint16, shape of the image without channels
        Class values. The axes are those of the array, or (t)(z)yx for a file or scan.
    Segmentation
        With `full`: labels and the results asked for, as scans with axes in the order (t)(c)(z)yx.

    Raises
    ------
    ModelFileError, FileFormatError
        Model or image cannot be read.
    GeometryError, ChannelError, IntensityError
        The image does not fit the model, or holds no usable values.
    ConfigError
        A setting is unknown or out of bounds.
    DeviceError
        Memory does not suffice, even on the CPU.

    Examples
    --------
    >>> from prosma_core.data.phantom import phantom_3d
    >>> scan, _ = phantom_3d(seed=1, shape=(16, 48, 48))
    >>> labels = segment(scan.data, "phantom-3d", spacing=(3, 1, 1))
    >>> labels.shape, labels.dtype
    ((16, 48, 48), dtype('uint8'))
    """
    config = InferenceConfig.parse(settings, "segment()")
    if not full and (config.probabilities or config.entropy or config.objects):
        msg = "Probabilities, entropy and objects are given with the labels: add full=True."
        raise ConfigError(msg)
    show = progress or _ignore
    scan, own = drain(read_input(image, (axes, spacing, unit, affine)), show)
    loaded = _loaded(model, show)
    if unknown := warn_unfit(
        scan, loaded.header, **(known_of(input_path(image)) if isinstance(image, str | Path) else {})
    ):
        show(StageStarted(unknown))
    result = drain(loaded.segment(scan, config), show)
    if full:
        return result
    labels, order = result.labels.data, result.labels.spec.axes
    own = "".join(a for a in own if a in order)
    return np.ascontiguousarray(in_axes(labels, order, own))


def evaluate(
    model: Model,
    data: str | Path | Iterable[Pair],
    *,
    split: str | None = None,
    tolerance: float = 1.0,
    labels: Mapping[str, Any] | None = None,
    axes: str | None = None,
    spacing: Spacing | None = None,
    unit: str | None = None,
    affine: ArrayLike | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Measure a model on annotated images: Dice, IoU, 95th percentile of the surface distance, surface Dice.

    Parameters
    ----------
    model : Segmenter, str or Path
        As in `segment`.
    data : path, or iterable of (image, labels)
        A folder with images/ and labels/, an nnU-Net raw data set, or pairs of arrays, scans or files.
    split : str, optional
        Of a folder: a key of its splits.json, or the path of another one; ``"val"`` where it has one.
    tolerance : float
        Tolerance of surface Dice, in the unit of the images.
    labels : mapping, optional
        Meaning of label values: fields of `LabelsConfig`.
    axes : str, optional
        Of arrays, as in `segment`; labels have the axes of their image without channels.
    spacing : float or sequence of float, optional
        Voxel size of arrays, as in `segment`; of files in a folder that state none.
    unit : str, optional
        Unit of spacing and affine; mm unless given.
    affine : array_like, optional
        Of arrays, as in `segment`.
    progress : callable, optional
        Called with each `Event`: `CaseDone` after each case.
    **settings
        As in `segment`.

    Returns
    -------
    dict
        ``"cases"`` holds the measures per case and class, ``"summary"`` their means, ``"failed"`` the reason for each
        case that could not be measured. Distances are in the unit of the images.

    Raises
    ------
    DatasetError
        Folder, split or pairs cannot be used, or no case could be measured.
    ModelFileError, ConfigError, DeviceError
        As in `segment`.

    Examples
    --------
    >>> from prosma_core.data.phantom import phantom_3d
    >>> report = evaluate("phantom-3d", [phantom_3d(seed=2, shape=(16, 48, 48))])
    >>> report["summary"]["classes"]["organ"]["dice"] > 0.5
    True
    """
    config = InferenceConfig.parse(settings, "evaluate()")
    meaning = LabelsConfig.parse(labels or {}, "evaluate()")
    show = progress or _ignore
    loaded = _loaded(model, show)
    if isinstance(data, str | Path):
        if axes is not None or affine is not None:
            raise ConfigError(OF_ARRAYS)
        size = voxel_size_of(spacing, unit)
        return drain(evaluate_cases(loaded, local_path(data), split, config, tolerance, meaning, size), show)
    with tempfile.TemporaryDirectory(prefix="prosma-") as folder:
        files = drain(pair_files(data, Path(folder), (axes, spacing, unit, affine)), show)
        cases = open_cases(None, files)
        return drain(evaluate_cases(loaded, cases, split, config, tolerance, meaning), show)


def train(
    data: str | Path | Iterable[Pair] | None,
    out: str | Path,
    *,
    axes: str | None = None,
    spacing: Spacing | None = None,
    unit: str | None = None,
    affine: ArrayLike | None = None,
    resume: bool = False,
    more_epochs: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> TrainingResult:
    """Train a model, or fine-tune one.

    Parameters
    ----------
    data : path, or iterable of (image, labels)
        A folder with images/ and labels/, an nnU-Net raw data set, or pairs of arrays, scans or files. Arrays and scans
        are written into the run folder. None with `resume`: the run's own data.
    out : str or Path
        Model file to write, MODEL.safetensors; the run folder MODEL.prosma lies beside it.
    axes : str, optional
        Of arrays, as in `segment`; labels have the axes of their image without channels.
    spacing : float or sequence of float, optional
        Voxel size of arrays, as in `segment`; of files in a folder that state none.
    unit : str, optional
        Unit of spacing and affine; mm unless given.
    affine : array_like, optional
        Of arrays, as in `segment`.
    resume : bool
        Continue the run beside `out`.
    more_epochs : int, optional
        With `resume`: train for so many epochs more.
    overwrite : bool
        Replace an existing model and its run.
    progress : callable, optional
        Called with each `Event`: `StepDone` after each step, `EpochDone` after each epoch. If it raises, training
        stops, and `resume` continues from the last finished epoch.
    **settings
        Fields of `RunConfig`, nested: ``preset="quick"``, ``init="phantom-3d"``, ``device="cpu"``,
        ``training={"epochs": 20}``, ``gate={"kind": "none"}``, ``class_names={1: "lesion"}``, …

    Returns
    -------
    TrainingResult
        ``path`` of the model, ``validation`` with the Dice of each class on the validation cases, ``before`` with that
        of the start model when fine-tuning, and ``held_out``: what the Dice was measured on.

    Raises
    ------
    ConfigError
        A setting is unknown or out of bounds.
    DatasetError, LabelError, GeometryError, IntensityError
        The data cannot be used; the text names the case.
    OutputError
        The model or its run exists already, or the path cannot be written.
    TrainingError, RunLockedError, DeviceError
        The loss is not finite, there is nothing to resume, another process trains this run, or memory is too small.

    Examples
    --------
    >>> from prosma_core.data.phantom import phantom_2d
    >>> pairs = [phantom_2d(seed, (32, 32)) for seed in (0, 1, 2, 3)]
    >>> result = train(pairs, "lesion.safetensors", preset="quick", training={"epochs": 1, "steps": 2}, device="cpu")
    >>> result.path.name, list(result.validation.dice)
    ('lesion.safetensors', ['class 1'])
    """
    show = progress or _ignore
    out = local_path(out)
    given = {**settings, "out": out}
    if isinstance(data, str | Path):
        if axes is not None or affine is not None:
            raise ConfigError(OF_ARRAYS)
        size = voxel_size_of(spacing, unit)
        given |= {"data": local_path(data)} | ({"voxel_size": size.model_dump(mode="json")} if size else {})
    elif data is not None:
        if resume:
            msg = "A run that is resumed continues with its own copies of the arrays: give None as data."
            raise ConfigError(msg)
        folder = RunFolder.beside(out)
        check_new_run(out, folder, overwrite=overwrite)
        resolve_run(given | {"pairs": [(out, out)]}, "train()")  # before anything is written
        given["pairs"] = drain(pair_files(data, folder.root, (axes, spacing, unit, affine)), show)
    run = run_to_train(given, "train()", resume=resume, more_epochs=more_epochs, overwrite=overwrite)
    return drain(run_training(run, resume=resume), show)


def inspect(
    image: Image,
    model: Model,
    *,
    axes: str | None = None,
    spacing: Spacing | None = None,
    unit: str | None = None,
    affine: ArrayLike | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Inspected:
    """Inspect what the gates of a model removed from an image, level by level.

    Parameters
    ----------
    image : array_like, Scan or path
        As in `segment`.
    model : Segmenter, str or Path
        As in `segment`.
    axes : str, optional
        As in `segment`.
    spacing : float or sequence of float, optional
        As in `segment`.
    unit : str, optional
        As in `segment`.
    affine : array_like, optional
        As in `segment`.
    progress : callable, optional
        Called with each `Event`.
    **settings
        Fields of `InspectConfig`: ``levels``, ``maps`` (such as ``("removed", "energy")``), ``region``, ``overlap``,
        ``slice_axis``.

    Returns
    -------
    Inspected
        ``inspection.levels`` has the statistics of each level, finest first; ``maps`` the arrays, named such as
        ``"level0/removed"``: float16 (``kept``: uint8), axes (t)(c)(z)yx, each on its level's grid, whose position in
        the image is in ``inspection.maps``.

    Raises
    ------
    ConfigError
        A level or map does not exist.
    ModelFileError, FileFormatError, GeometryError, ChannelError, IntensityError, DeviceError
        As in `segment`.

    Examples
    --------
    >>> from prosma_core.data.phantom import phantom_3d
    >>> scan, _ = phantom_3d(seed=1, shape=(16, 48, 48))
    >>> found = inspect(scan, "phantom-3d", maps=("removed",), levels=(1,))
    >>> 0 < found.inspection.levels[0].removed < 1
    True
    >>> list(found.maps)
    ['level1/removed']
    """
    config = InspectConfig.parse(settings, "inspect()")
    show = progress or _ignore
    scan, _ = drain(read_input(image, (axes, spacing, unit, affine)), show)
    return drain(inspect_scan(_loaded(model, show), scan, config), show)


def what_if(
    image: Image,
    model: Model,
    changes: Mapping[str, Edit | Sequence[Edit]] | None = None,
    *,
    truth: Image | None = None,
    axes: str | None = None,
    spacing: Spacing | None = None,
    unit: str | None = None,
    affine: ArrayLike | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> WhatIf:
    """Segment an image with edited gates, and compare with the learned gates.

    Parameters
    ----------
    image : array_like, Scan or path
        As in `segment`.
    model : Segmenter, str or Path
        As in `segment`.
    changes : mapping, optional
        By name, the edit of one level or of several: fields of `LevelEdit`, such as
        ``{"no threshold": {"level": 0, "threshold": 0}}``. Unless given, the gate of each level is opened, one at a
        time.
    truth : array_like, Scan or path, optional
        Reference labels of the image, integer, to measure both results against.
    axes : str, optional
        As in `segment`.
    spacing : float or sequence of float, optional
        As in `segment`.
    unit : str, optional
        As in `segment`.
    affine : array_like, optional
        As in `segment`.
    progress : callable, optional
        Called with each `Event`.
    **settings
        ``overlap``, ``region`` and ``slice_axis``, as in `segment`.

    Returns
    -------
    WhatIf
        ``variants`` has the differences of each class under each edit, ``unchanged`` the labels without edits,
        ``labels`` and ``changes`` the labels and changed voxels of the first edit.

    Raises
    ------
    ConfigError
        A level, channel or part of a gate that is to be edited does not exist.
    LabelError
        The truth holds values that are not classes of the model.
    ModelFileError, FileFormatError, GeometryError, ChannelError, IntensityError, DeviceError
        As in `segment`.

    Examples
    --------
    >>> from prosma_core.data.phantom import phantom_3d
    >>> scan, labels = phantom_3d(seed=1, shape=(16, 48, 48))
    >>> found = what_if(scan, "phantom-3d", {"level 0 open": {"level": 0, "state": "open"}}, truth=labels)
    >>> [change.name for change in found.variants[0].classes]
    ['organ', 'lesion']
    """
    config = InspectConfig.parse(settings, "what_if()")
    show = progress or _ignore
    loaded = _loaded(model, show)
    if changes is None:
        variants = opened_one_at_a_time(loaded.header.model)
    else:
        _require(
            changes,
            Mapping,
            "The changes",
            "give edits by name, such as {'gate 0 open': {'level': 0, 'state': 'open'}}",
        )
        variants = tuple(_variant(name, change) for name, change in changes.items())
    scan, own = drain(read_input(image, (axes, spacing, unit, affine)), show)
    reference = None if truth is None else labels_on(truth, scan, own, "the reference labels")
    return drain(changed_scan(loaded, scan, variants, config, truth=reference), show)


def _ignore(_: Event) -> None:
    """Show nothing."""


def _require(value: object, kinds: Any, what: str, legal: str) -> None:
    """Raise `TypeError` unless a value is of these types."""
    if not isinstance(value, kinds):
        msg = f"{what} is of type {type(value).__name__}: {legal}."
        raise TypeError(msg)


def _loaded(model: Model, show: Progress) -> Segmenter:
    if isinstance(model, Segmenter):
        return model
    _require(model, str | Path, "The model", "give what load_model gave, a shipped model's name, or a file")
    return load_model(model, progress=show)


def _variant(name: str, change: Edit | Sequence[Edit]) -> Variant:
    what = f"The change {name!r}"
    given = [change] if isinstance(change, Mapping) else change
    _require(given, Sequence, what, "give the edit of a level, such as {'level': 0, 'state': 'open'}, or several")
    edits = [LevelEdit.parse(edit, what) for edit in given]
    return Variant.parse({"name": name, "edits": edits}, what)
