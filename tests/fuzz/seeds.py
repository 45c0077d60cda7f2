"""Valid small files of every format that is read, made anew from a seed; each is damaged many times."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SHAPE = (6, 10, 12)
_LARGEST_FOREIGN = 60_000


@dataclass(frozen=True)
class Seed:
    """A format under test.

    Attributes
    ----------
    make : callable
        Given an empty folder, makes valid files or folders there and returns them.
    read : str
        Which check of `tests/fuzz/check.py` reads them: image, model, run, settings, dataset.
    protected : callable, optional
        Given the bytes of a file, the range that checksums protect: damage there is refused, or changes no voxel.
    text : bool
        Whether most of the file is text.
    """

    make: Callable[[Path], list[Path]]
    read: str = "image"
    protected: Callable[[bytes], range] | None = None
    text: bool = False


def _volume(seed: int = 0, dtype: Any = np.int16) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(SHAPE)
    ball = ((z - 3) ** 2 * 4 + (y - 5) ** 2 + (x - 6) ** 2 < 16) * 60
    return (ball + rng.integers(0, 30, SHAPE)).astype(dtype)


def _whole(data: bytes) -> range:
    return range(len(data))


def _after(mark: bytes) -> Callable[[bytes], range]:
    """Return the range after the first `mark`, which ends a header of text."""
    return lambda data: range(data.find(mark) + len(mark), len(data))


# --- Images ---------------------------------------------------------------------------------------------------------


def _nifti(suffix: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        import nibabel as nib

        affine = np.array([[0.9, 0.1, 0, -3], [-0.1, 0.9, 0, 5], [0, 0, 2.5, 7], [0, 0, 0, 1]])
        files = []
        for number, dtype in enumerate((np.int16, np.float32, np.uint8)):
            image = nib.Nifti1Image(_volume(number, dtype), affine, dtype=dtype)
            if number == 0:
                image.header.set_slope_inter(0.5, -10)
            files.append(folder / f"n{number}{suffix}")
            nib.save(image, files[-1])
        files.append(folder / f"two{suffix}")
        nib.save(nib.Nifti2Image(_volume(3), affine), files[-1])
        return files

    return make


def _tiff(**options: Any) -> Callable[[Path], list[Path]]:
    suffix = options.pop("suffix", ".tif")

    def make(folder: Path) -> list[Path]:
        import tifffile

        files = []
        for number, dtype in enumerate((np.uint8, np.uint16)):
            files.append(folder / f"t{number}{suffix}")
            tifffile.imwrite(files[-1], _volume(number, dtype), **options)
        return files

    return make


def _pictures(folder: Path) -> list[Path]:
    from PIL import Image

    gray = _volume(dtype=np.uint8)[3]
    palette = Image.fromarray(gray // 60).convert("P")
    made = {
        "gray": Image.fromarray(gray),
        "deep": Image.fromarray(gray.astype(np.uint16) * 257),
        "color": Image.fromarray(np.stack([gray, gray // 2, 255 - gray], -1)),
        "palette": palette,
        "bits": Image.fromarray(gray > 60),
    }
    for name, picture in made.items():
        picture.save(folder / f"{name}.png")
    return sorted(folder.glob("*.png"))


def _jpeg(folder: Path) -> list[Path]:
    from PIL import Image

    gray = _volume(dtype=np.uint8)[3]
    Image.fromarray(gray).save(folder / "gray.jpg")
    Image.fromarray(np.stack([gray] * 3, -1)).save(folder / "color.jpg", exif=_turned())
    return sorted(folder.glob("*.jpg"))


def _turned() -> Any:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _medical(suffix: str, *, packed: bool) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(_volume())
        image.SetSpacing((0.8, 0.9, 2.0))
        image.SetOrigin((1.0, -2.0, 3.0))
        sitk.WriteImage(image, str(folder / f"m{suffix}"), useCompression=packed)
        return [folder / f"m{suffix}"]

    return make


def _detached(suffix: str) -> Callable[[Path], list[Path]]:
    """Return a maker of a header whose voxels are in a file beside it."""

    def make(folder: Path) -> list[Path]:
        _medical(suffix, packed=False)(folder)
        return [folder / f"m{suffix}"]

    return make


def _bitmaps(folder: Path) -> list[Path]:
    from PIL import Image

    for file in _pictures(folder):
        if file.stem != "deep":
            with Image.open(file) as picture:
                picture.save(folder / f"{file.stem}.bmp")
    return sorted(folder.glob("*.bmp"))


def _slicer_segments(folder: Path) -> list[Path]:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(_volume(dtype=np.uint8) // 60)
    image.SetSpacing((0.8, 0.9, 2.0))
    for key, value in {
        "Segment0_ID": "Segment_1", "Segment0_Name": "organ", "Segment0_LabelValue": "1", "Segment0_Layer": "0",
        "Segment0_Color": "0.5 0.2 0.1", "Segment0_Extent": "0 11 0 9 0 5",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }.items():  # fmt: skip
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(folder / "s.seg.nrrd"), useCompression=False)
    return [folder / "s.seg.nrrd"]


def _zarr(version: int, **options: Any) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        import zarr

        path = folder / "a.zarr"
        array = zarr.create_array(
            str(path), shape=SHAPE, chunks=(3, 5, 12), dtype="int16", zarr_format=version, **options
        )
        array[...] = _volume()
        return [path]

    return make


def _ome_zarr(folder: Path) -> list[Path]:
    from prosma_core.data.geometry import array_spec
    from prosma_core.io.images import write_labels

    path = folder / "o.ome.zarr"
    write_labels(path, _volume(dtype=np.uint8) // 60, array_spec(SHAPE, "zyx", (2.0, 0.5, 0.5), "um"))
    return [path]


def _zipped_zarr(folder: Path) -> list[Path]:
    import shutil
    import zipfile

    (made,) = _zarr(3)(folder)
    path = folder / "a.zarr.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(each for each in made.rglob("*") if each.is_file()):
            packed.writestr(zipfile.ZipInfo(file.relative_to(made).as_posix()), file.read_bytes())
    shutil.rmtree(made)
    return [path]


def _zarr_codecs(name: str) -> dict[str, Any]:
    from numcodecs import GZip, Zlib
    from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec

    return {
        "v2-zlib": {"compressors": Zlib()},
        "v2-gzip": {"compressors": GZip()},
        "v3-blosc-crc": {"compressors": [BloscCodec(cname="zstd"), Crc32cCodec()]},
        "v3-gzip": {"compressors": [GzipCodec()]},
        "v3-shard": {"shards": (6, 10, 12), "compressors": [GzipCodec(), Crc32cCodec()]},
    }[name]


def _lazy_zarr(version: int, codecs: str) -> Callable[[Path], list[Path]]:
    return lambda folder: _zarr(version, **_zarr_codecs(codecs))(folder)


def _dicom_series(folder: Path) -> list[Path]:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    series = folder / "series"
    series.mkdir()
    study, uid = generate_uid(entropy_srcs=["study"]), generate_uid(entropy_srcs=["series"])
    for number, voxels in enumerate(_volume()):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(number)])
        file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        file.SOPClassUID, file.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        file.StudyInstanceUID, file.SeriesInstanceUID, file.Modality = study, uid, "CT"
        file.FrameOfReferenceUID, file.InstanceNumber = study, number + 1
        file.ImagePositionPatient, file.ImageOrientationPatient = [0, 0, 2.5 * number], [1, 0, 0, 0, 1, 0]
        file.PixelSpacing, file.SliceThickness = [0.8, 0.8], 2.5
        file.Rows, file.Columns, file.SamplesPerPixel = *voxels.shape, 1
        file.PhotometricInterpretation, file.PixelRepresentation = "MONOCHROME2", 1
        file.BitsAllocated, file.BitsStored, file.HighBit = 16, 16, 15
        file.RescaleSlope, file.RescaleIntercept = 1, -1024
        file.PixelData = voxels.astype("<i2").tobytes()
        file.save_as(series / f"{number}.dcm", enforce_file_format=True)
    return [series]


def _foreign(package: str, folder: str, *suffixes: str) -> Callable[[Path], list[Path]]:
    """Return a maker that copies the small test files which another project ships with its reader."""

    def make(target: Path) -> list[Path]:
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            return []
        root = Path(found.submodule_search_locations[0]) / folder
        files = sorted(f for f in root.rglob("*") if f.is_file() and f.name.lower().endswith(suffixes))
        made = []
        for file in files:
            parts = [f for f in file.parent.glob(f"{file.stem}.*") if f.stat().st_size <= _LARGEST_FOREIGN]
            if file in parts:  # a header goes with its voxels
                beside = target / str(len(made))
                beside.mkdir()
                made.append(beside / file.name)
                for part in parts:
                    shutil.copyfile(part, beside / part.name)
        return made

    return make


# --- Models, runs, settings, data folders ---------------------------------------------------------------------------


def _train(root: Path) -> Path:
    """Train a tiny network for an epoch, once; return its model file (its run folder lies beside it)."""
    from prosma_core.config.training import resolve_run
    from prosma_core.data.geometry import array_spec
    from prosma_core.io.images import write_image, write_labels
    from prosma_core.training.loop import train

    model = root / "tiny.safetensors"
    if model.is_file():
        return model
    data = root / "data"
    for name in ("images", "labels"):
        (data / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(4):
        labels = np.zeros((32, 32), np.uint8)
        labels[8 + number : 20, 10:22] = 1
        image = (labels * 90 + rng.integers(0, 60, labels.shape)).astype(np.uint8)
        write_image(data / "images" / f"c{number}.png", image, array_spec(image.shape, "yx"))
        write_labels(data / "labels" / f"c{number}.png", labels, array_spec(image.shape, "yx"))
    run = resolve_run(
        {
            "data": str(data),
            "out": str(model),
            "device": "cpu",
            "network": {"width": 4, "max_width": 8, "max_stages": 2},
            "preprocess": {"tile": [32, 32]},
            "training": {"epochs": 1, "steps": 1, "batch_size": 2, "validation_cases": 1},
        }
    )
    for _ in train(run):
        pass
    return model


def _model(folder: Path) -> list[Path]:
    return [Path(shutil.copyfile(_train(folder.parent / "trained"), folder / "tiny.safetensors"))]


def _run_folder(folder: Path) -> list[Path]:
    model = _train(folder.parent / "trained")
    return [Path(shutil.copytree(model.with_suffix(".prosma"), folder / "tiny.prosma"))]


def _settings(folder: Path) -> list[Path]:
    model = _train(folder.parent / "trained")
    short = folder / "short.yaml"
    short.write_text("data: x\nout: y.safetensors\ntraining:\n  epochs: 3\n  lr: 0.001\nnetwork: {width: 16}\n")
    return [Path(shutil.copyfile(model.with_suffix(".prosma") / "run.yaml", folder / "run.yaml")), short]


def _dataset(folder: Path) -> list[Path]:
    root = folder / "set"
    shutil.copytree(_train(folder.parent / "trained").parent / "data", root)
    (root / "images").rename(root / "imagesTr")
    (root / "labels").rename(root / "labelsTr")
    for image in sorted((root / "imagesTr").iterdir()):
        image.rename(image.with_name(f"{image.stem}_0000.png"))
    names = {"channel_names": {"0": "gray"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".png"}
    (root / "dataset.json").write_text(json.dumps({**names, "numTraining": 4}, indent=1))
    (root / "splits.json").write_text(json.dumps({"train": ["c0", "c1", "c2"], "val": ["c3"]}))
    return [root]


def _letters(folder: Path) -> list[Path]:
    (folder / "letters.txt").write_bytes(b"abcdefgh" * 64)
    return [folder / "letters.txt"]


SEEDS: dict[str, Seed] = {
    "nii": Seed(_nifti(".nii")),
    "nii.gz": Seed(_nifti(".nii.gz"), protected=_whole),
    "tif": Seed(_tiff()),
    "tif-deflate": Seed(_tiff(compression="zlib", rowsperstrip=4)),
    "tif-tiled-lzw": Seed(_tiff(compression="lzw", tile=(16, 16))),
    "tif-imagej": Seed(_tiff(imagej=True, metadata={"spacing": 2.0, "unit": "um", "axes": "ZYX"})),
    "ome.tif": Seed(_tiff(ome=True, suffix=".ome.tif", metadata={"axes": "ZYX", "PhysicalSizeX": 0.5})),
    "png": Seed(_pictures, protected=_whole),
    "jpg": Seed(_jpeg),
    "nrrd": Seed(_medical(".nrrd", packed=False), text=True),
    "nrrd-gzip": Seed(_medical(".nrrd", packed=True), protected=_after(b"\n\n"), text=True),
    "mha": Seed(_medical(".mha", packed=False), text=True),
    "mha-zlib": Seed(_medical(".mha", packed=True), protected=_after(b"LOCAL\n"), text=True),
    "mhd": Seed(_detached(".mhd"), text=True),
    "nhdr": Seed(_detached(".nhdr"), text=True),
    "seg.nrrd": Seed(_slicer_segments, text=True),
    "bmp": Seed(_bitmaps),
    "zarr2-zlib": Seed(_lazy_zarr(2, "v2-zlib"), protected=_whole),
    "zarr2-gzip": Seed(_lazy_zarr(2, "v2-gzip"), protected=_whole),
    "zarr3-gzip": Seed(_lazy_zarr(3, "v3-gzip"), protected=_whole),
    "zarr3-blosc-crc32c": Seed(_lazy_zarr(3, "v3-blosc-crc"), protected=_whole),
    "zarr3-shard": Seed(_lazy_zarr(3, "v3-shard")),
    "ome-zarr": Seed(_ome_zarr),
    "zipped-zarr": Seed(_zipped_zarr),
    "dicom-series": Seed(_dicom_series),
    "dicom-foreign": Seed(_foreign("pydicom", "data/test_files", ".dcm")),
    "nifti-foreign": Seed(_foreign("nibabel", "tests/data", ".nii", ".nii.gz")),
    "mgh-foreign": Seed(_foreign("nibabel", "tests/data", ".mgz", ".mgh")),
    "minc-foreign": Seed(_foreign("nibabel", "tests/data", ".mnc")),
    "analyze-foreign": Seed(_foreign("nibabel", "tests/data", ".hdr")),
    "par-foreign": Seed(_foreign("nibabel", "tests/data", ".par"), text=True),
    "afni-foreign": Seed(_foreign("nibabel", "tests/data", ".head"), text=True),
    "model": Seed(_model, read="model", protected=_whole),
    "run-folder": Seed(_run_folder, read="run"),
    "yaml": Seed(_settings, read="settings", text=True),
    "data-folder": Seed(_dataset, read="dataset"),
}
"""Formats by name."""

BROKEN: dict[str, Seed] = {
    f"broken-{kind}": Seed(_letters, read=f"broken-{kind}", protected=_whole)
    for kind in ("traceback", "long", "silent", "memory", "hang", "crash")
}
"""Readers with one fault each, for the test that every kind of fault is found."""


def seed_of(name: str) -> Seed:
    """Return the format of this name."""
    return SEEDS.get(name) or BROKEN[name]


def make_seeds(root: Path, names: list[str]) -> dict[str, list[Path]]:
    """Make the valid files of formats in a folder of each; a format whose library is missing has none."""
    made = {}
    for name in names:
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            made[name] = seed_of(name).make(folder)
        except ImportError:
            made[name] = []
    return made


def case_rng(name: str, seed: int, index: int) -> random.Random:
    """Return the random numbers of one case, the same in every process."""
    return random.Random(zlib.crc32(f"{name}/{seed}/{index}".encode()))


def chunk_files(path: Path) -> Iterator[Path]:
    """Yield the files of a zarr folder that hold voxels."""
    for file in sorted(path.rglob("*")):
        if file.is_file() and not file.name.startswith(".z") and file.name != "zarr.json":
            yield file
