"""Zarr: arrays and OME-Zarr of both versions, codecs from an allow-list, missing chunks counted."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

from prosma_core.data.geometry import ImageSpec, array_spec, spacing_affine
from prosma_core.errors import FileFormatError, GeometryError
from prosma_core.io.images import preflight, read_image, read_labels, write_image, write_labels


def save(path: Path, data: np.ndarray, version: Any = 2, **options: Any) -> Path:
    options.setdefault("chunks", (2, *data.shape[1:]))
    config = {"write_empty_chunks": True}
    array = zarr.create_array(
        str(path), shape=data.shape, dtype=data.dtype, zarr_format=version, config=config, **options
    )
    array[...] = data
    return path


def ome(path: Path, version: int, multiscale: dict[str, Any], data: np.ndarray) -> Path:
    zarr.create_group(str(path), zarr_format=version)  # type: ignore[arg-type]
    save(path / "0", data, version)
    group = zarr.open_group(str(path), mode="r+")
    content = {"multiscales": [{"datasets": [{"path": "0"}], **multiscale}]}
    group.attrs.update({"ome": {"version": "0.5", **content}} if version == 3 else content)
    return path


AXES = [
    {"name": "c", "type": "channel"},
    {"name": "z", "type": "space", "unit": "micrometer"},
    {"name": "y", "type": "space", "unit": "micrometer"},
    {"name": "x", "type": "space", "unit": "nanometer"},
]


@pytest.mark.parametrize("version", [2, 3])
def test_ome_axes_scale_translation_and_units(tmp_path: Path, version: int) -> None:
    own = [{"type": "scale", "scale": [1, 2, 0.5, 500]}, {"type": "translation", "translation": [0, 4, 1, 2000]}]
    multiscale = {
        "axes": AXES,
        "datasets": [{"path": "0", "coordinateTransformations": own}],
        "coordinateTransformations": [{"type": "scale", "scale": [1, 3, 1, 1]}],
    }
    spec = read_image(ome(tmp_path / "a.zarr", version, multiscale, np.zeros((2, 3, 4, 5), np.uint8))).spec
    assert (spec.axes, spec.unit, spec.format) == ("czyx", "nm", "ome-zarr")
    assert spec.spacing == pytest.approx((6000, 500, 500))
    assert spec.affine[:3, 3] == pytest.approx([12000, 1000, 2000])


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("plain", [True, False])
def test_a_result_is_of_the_version_and_kind_of_its_source(tmp_path: Path, version: int, plain: bool) -> None:
    data = np.zeros((2, 3, 4, 5), np.uint8)
    source = (
        save(tmp_path / "a.zarr", data, version) if plain else ome(tmp_path / "a.zarr", version, {"axes": AXES}, data)
    )
    spec = read_image(source, axes="czyx").spec
    write_labels(tmp_path / "b.zarr", np.ones((3, 4, 5), int), spec, provenance={"model": "x"})
    result = zarr.open(str(tmp_path / "b.zarr"), mode="r")
    assert isinstance(result, zarr.Array if plain else zarr.Group)
    assert result.metadata.zarr_format == version
    assert dict(result.attrs)["prosma"] == {"model": "x"}
    assert read_labels(tmp_path / "b.zarr").spec.axes == "zyx"


@pytest.mark.parametrize(
    ("attributes", "axes"),
    [
        ({}, "zyx"),
        ({"axes": "tyx"}, "tyx"),
        ({"_ARRAY_DIMENSIONS": ["channel", "Y", "X"]}, "cyx"),
        ({"_ARRAY_DIMENSIONS": ["dim_0", "dim_1", "dim_2"]}, "zyx"),
    ],
)
def test_axes_of_a_plain_array(tmp_path: Path, attributes: dict[str, Any], axes: str) -> None:
    path = save(tmp_path / "a.zarr", np.zeros((2, 3, 4), np.uint8), attributes=attributes)
    assert read_image(path).spec.axes == axes


def test_dimension_names_of_version_3(tmp_path: Path) -> None:
    path = save(tmp_path / "a.zarr", np.zeros((2, 3, 4), np.uint8), 3, dimension_names=["x", "y", "z"])
    assert read_image(path).spec.shape == (4, 3, 2)


def test_unknown_axes_must_be_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.zarr", np.zeros((2, 3, 4, 5), np.uint8))
    with pytest.raises(GeometryError, match="axes="):
        read_image(path)
    named = save(tmp_path / "b.zarr", np.zeros((2, 3, 4), np.uint8), attributes={"axes": ["angle", "y", "x"]})
    with pytest.raises(GeometryError, match="angle"):
        read_image(named)
    assert read_image(named, axes="cyx").spec.axes == "cyx"


def test_a_group_of_one_array_is_that_array_and_of_two_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_group(str(path), zarr_format=2)
    save(path / "raw", np.ones((2, 3, 4), np.uint8))
    assert read_image(path).data.all()
    save(path / "other", np.ones((2, 3, 4), np.uint8))
    with pytest.raises(FileFormatError, match=r"a\.zarr/other, a\.zarr/raw"):
        read_image(path)


def test_missing_chunks_are_counted_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "a.zarr", np.ones((6, 3, 4), np.uint8))
    (path / "1.0.0").unlink()
    with caplog.at_level(logging.WARNING):
        assert not read_image(path).data[2:4].any()
    assert "1 of 3 chunks are missing" in caplog.text


def test_results_have_all_chunks_even_if_empty(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = array_spec((3, 4, 5), "zyx")
    write_labels(tmp_path / "a.zarr", np.zeros(spec.shape, int), spec)
    with caplog.at_level(logging.WARNING):
        assert not read_labels(tmp_path / "a.zarr").data.any()
    assert not caplog.records


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"filters": [{"id": "pickle"}]}, "pickle"),
        ({"compressor": {"id": "evil"}}, "evil"),
        ({"dtype": "|O", "filters": [{"id": "pickle"}]}, "type"),
        ({"dtype": [["a", "<i4"]]}, "type"),
        ({"shape": [100000, 100000, 100000]}, "chunks"),
        ({"chunks": [100000, 100000, 10]}, "chunks of"),
        ({"chunks": [0, 3, 4]}, "chunk shape"),
        ({"shape": [-1, 3, 4]}, "shape"),
    ],
)
@pytest.mark.parametrize("check", [preflight, read_image])
def test_dangerous_or_absurd_metadata_is_refused(
    tmp_path: Path, changes: dict[str, Any], text: str, check: Any
) -> None:
    path = save(tmp_path / "a.zarr", np.ones((6, 3, 4), np.uint8))
    edit(path / ".zarray", **changes)
    with pytest.raises(FileFormatError, match=text):
        check(path)


def test_a_codec_inside_a_shard_is_checked_too(tmp_path: Path) -> None:
    path = save(tmp_path / "a.zarr", np.ones((4, 4, 4), np.uint8), 3, shards=(4, 4, 4))
    assert read_image(path).data.all()
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["codecs"][0]["configuration"]["codecs"].append({"name": "vlen-utf8"})
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(FileFormatError, match="vlen-utf8"):
        read_image(path)


def test_a_huge_blank_array_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.zarr", np.ones((2, 3, 4), np.uint8))
    edit(path / ".zarray", shape=[2000, 2000, 2000], chunks=[100, 100, 100])
    with pytest.raises(FileFormatError, match="7999 of its 8000 chunks are missing"):
        preflight(path)


def test_an_axis_of_no_voxels_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.zarr", np.ones((2, 3, 4), np.uint8))
    edit(path / ".zarray", shape=[0, 3, 4])
    with pytest.raises(GeometryError, match="without voxels"):
        read_image(path)


@pytest.mark.parametrize("codec", ["zlib", "gzip", "bz2", "blosc", "zstd"])
def test_a_cut_chunk_is_refused(tmp_path: Path, codec: str, rng: np.random.Generator) -> None:
    data = rng.integers(0, 255, (2, 16, 16)).astype(np.uint8)
    path = save(tmp_path / "a.zarr", data, compressors=numcodecs.get_codec({"id": codec}))
    chunk = path / "0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-40])
    with pytest.raises(FileFormatError):
        read_image(path)


def test_metadata_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.zarr", np.ones((2, 3, 4), np.uint8))
    (path / ".zarray").write_text("[" * 100_000)
    with pytest.raises(FileFormatError, match="JSON"):
        read_image(path)
    (path / ".zarray").unlink()
    with pytest.raises(FileFormatError, match="no zarr metadata"):
        read_image(path)


def test_a_level_outside_the_folder_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "secret", np.ones((2, 3, 4, 5), np.uint8))
    path = ome(
        tmp_path / "a.zarr", 2, {"axes": AXES, "datasets": [{"path": "../secret"}]}, np.ones((2, 3, 4, 5), np.uint8)
    )
    with pytest.raises(FileFormatError, match="outside"):
        read_image(path)


def spec_with_origin() -> ImageSpec:
    spec = array_spec((2, 3, 4, 5), "czyx", (2.5, 0.1, 1 / 3), "mm")
    affine = spacing_affine(spec.spacing, (7.0, -1 / 7, 0.0))
    return replace(spec, affine=affine, channel_names=("a", "b"))


def test_origin_and_channel_names_come_back(tmp_path: Path) -> None:
    spec = spec_with_origin()
    write_image(tmp_path / "a.zarr", np.zeros(spec.shape, np.float32), spec)
    again = read_image(tmp_path / "a.zarr").spec
    assert np.array_equal(again.affine, spec.affine)
    assert again.channel_names == ("a", "b")
