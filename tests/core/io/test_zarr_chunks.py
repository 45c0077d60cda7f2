"""Chunks of zarr arrays: cut, swollen or missing at every place of a chain of codecs; members and links."""

from __future__ import annotations

import json
import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import pytest
import zarr
import zarr.codecs

from prosma_core.errors import FileFormatError, GeometryError
from prosma_core.io import zarr_chunks
from prosma_core.io.images import is_image_path, preflight, read_image, read_labels, result_name
from prosma_core.io.scan_files import collect_scans
from prosma_core.io.zarr_images import open_zarr

pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")  # zarr, on writing

COMPRESSORS: dict[str, dict[str, Any]] = {
    "blosc": {"typesize": 1, "cname": "lz4", "clevel": 5, "shuffle": "shuffle", "blocksize": 0},
    "gzip": {"level": 5},
    "zstd": {"level": 3, "checksum": False},
    "numcodecs.zlib": {"level": 5},
    "numcodecs.lz4": {"acceleration": 1},
    "numcodecs.bz2": {"level": 1},
    "numcodecs.lzma": {"preset": 1},
    "numcodecs.blosc": {"cname": "zstd"},
}
LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
CRC = {"name": "crc32c"}


def values(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Numbers that can be packed, but not to nothing."""
    return rng.integers(0, 16, shape).astype(np.uint8)


def write(path: Path, data: np.ndarray, codecs: list[dict[str, Any]], chunk: tuple[int, ...] | None = None) -> Path:
    """An array of version 3 whose metadata has these codecs."""
    path.mkdir()
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(data.shape),
        "data_type": data.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk or data.shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": codecs,
        "attributes": {},
    }
    (path / "zarr.json").write_text(json.dumps(metadata))
    zarr.open_array(str(path), mode="r+", config={"write_empty_chunks": True})[...] = data
    return path


def shard(chunk: tuple[int, ...], codecs: list[dict[str, Any]]) -> dict[str, Any]:
    index = {"index_codecs": [LITTLE, CRC], "index_location": "end"}
    return {"name": "sharding_indexed", "configuration": {"chunk_shape": list(chunk), "codecs": codecs, **index}}


def packed(name: str) -> dict[str, Any]:
    return {"name": name, "configuration": COMPRESSORS[name]}


def with_crc(content: bytes) -> bytes:
    return content + struct.pack("<I", google_crc32c.value(content))


def cut_in_shard(file: Path, count: int, keep: float) -> None:
    """Shorten the first chunk of a shard of `count`, and write the index anew."""
    content = file.read_bytes()
    length = 16 * count
    index = np.frombuffer(content[-length - 4 : -4], "<u8").reshape(count, 2).copy()
    index[0, 1] = int(index[0, 1] * keep)
    file.write_bytes(content[: -length - 4] + with_crc(index.tobytes()))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("place", ["plain", "checksum", "shard", "shard and checksum", "shard of shards"])
def test_a_cut_chunk_is_refused_at_every_place(tmp_path: Path, rng: np.random.Generator, name: str, place: str) -> None:
    data, half = values(rng, 8, 16, 16), (4, 16, 16)
    inner = [LITTLE, packed(name), *([CRC] if "checksum" in place else [])]
    if place == "shard of shards":
        inner = [shard(half, inner)]
    path = write(tmp_path / "a.zarr", data, [shard(half, inner)] if "shard" in place else inner)
    assert np.array_equal(read_image(path).data, data)
    file = path / "c/0/0/0"
    whole = file.read_bytes()
    for keep in (0.02, 0.5, 0.99):
        if "shard" in place and "of" not in place:
            file.write_bytes(whole)
            cut_in_shard(file, 2, keep)
        else:
            part = whole[: int(len(whole) * keep)]
            if place == "checksum":
                part = with_crc(whole[: int((len(whole) - 4) * keep)])
            file.write_bytes(part)
        with pytest.raises(FileFormatError):
            read_image(path)


@pytest.mark.parametrize("name", ["blosc", "zlib", "gzip", "bz2", "lzma", "zstd", "lz4"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.99])
def test_a_cut_chunk_of_version_2_is_refused(tmp_path: Path, rng: np.random.Generator, name: str, keep: float) -> None:
    data = values(rng, 4, 16, 16)
    compressor = numcodecs.get_codec({"id": name})
    path = tmp_path / "a.zarr"
    zarr.create_array(str(path), data=data, zarr_format=2, chunks=data.shape, compressors=compressor)
    assert np.array_equal(read_image(path).data, data)
    file = path / "0.0.0"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])
    with pytest.raises(FileFormatError):
        read_image(path)


def bomb(name: str, size: int) -> bytes:
    """Few bytes that unpack, or say that they unpack, to `size` zeros."""
    if name.endswith("blosc"):
        header = bytearray(numcodecs.Blosc().encode(bytes(1000)))
        header[4:8] = struct.pack("<I", size)
        return bytes(header)
    if name == "zstd":
        return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", size) + b"\x01\x00\x00"
    if name == "unsized zstd":  # blocks of 128 KiB of the same byte
        return b"\x28\xb5\x2f\xfd\x00\x58" + b"\x02\x00\x10\x00" * (size >> 17) + b"\x03\x00\x10\x00"
    if name == "numcodecs.lz4":
        return struct.pack("<I", size) + bytes(50)
    if name in {"numcodecs.bz2", "numcodecs.lzma"}:
        return bytes(numcodecs.get_codec({"id": name.removeprefix("numcodecs.")}).encode(bytes(size)))
    packer = zlib.compressobj(6, zlib.DEFLATED, 31 if name == "gzip" else 15)
    return packer.compress(bytes(size)) + packer.flush()


@pytest.mark.parametrize(
    "name",
    ["blosc", "zstd", "unsized zstd", "gzip", "numcodecs.zlib", "numcodecs.lz4", "numcodecs.bz2", "numcodecs.lzma"],
)
@pytest.mark.parametrize("checked", [False, True])
def test_a_chunk_never_unpacks_to_more_than_its_share(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, name: str, checked: bool
) -> None:
    monkeypatch.setattr(zarr_chunks, "_UNCHECKED", 1 << 20)
    path = write(
        tmp_path / "a.zarr",
        values(rng, 2, 16, 16),
        [LITTLE, packed(name.removeprefix("unsized ")), *([CRC] if checked else [])],
    )
    content = bomb(name, 4 << 20)
    (path / "c/0/0/0").write_bytes(with_crc(content) if checked else content)
    for check in (preflight, read_image, open_zarr):
        with pytest.raises(FileFormatError, match="far more than its share"):
            check(path)


def test_a_frame_that_does_not_say_its_size_is_read(tmp_path: Path) -> None:
    data = np.zeros((2, 256, 256), np.uint8)
    path = write(tmp_path / "a.zarr", data, [LITTLE, packed("zstd")])
    (path / "c/0/0").mkdir(parents=True)
    (path / "c/0/0/0").write_bytes(bomb("unsized zstd", 0))
    assert np.array_equal(read_image(path).data, data)


def test_the_bound_of_a_shard_is_that_of_the_chunks_in_it(tmp_path: Path, rng: np.random.Generator) -> None:
    data = values(rng, 3, 20, 20)
    path = write(tmp_path / "a.zarr", data, [shard((64, 64, 64), [LITTLE, packed("zstd")])], (2048, 2048, 2048))
    assert np.array_equal(read_image(path).data, data)
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["codecs"][0]["configuration"]["chunk_shape"] = [2048, 2048, 2048]
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(FileFormatError, match="8589934592 bytes"):
        read_image(path)


def test_a_chunk_far_larger_than_the_array_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write(tmp_path / "a.zarr", values(rng, 2, 16, 16), [LITTLE, packed("gzip")])
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = [1024, 1024, 1024]
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(FileFormatError, match="chunks of 1024 MB for an array of 512 bytes"):
        read_image(path)


@pytest.mark.parametrize(
    "codecs",
    [
        [LITTLE, {"name": "sharding_indexed", "configuration": {}}],
        [shard((3, 16, 16), [LITTLE])],
        [shard((0, 16, 16), [LITTLE])],
        [shard((2, 16, 16), [])],
        [{"configuration": {}}],
        [7],
        [],
        "bytes",
    ],
)
def test_codecs_that_are_none_are_refused(tmp_path: Path, rng: np.random.Generator, codecs: Any) -> None:
    path = write(tmp_path / "a.zarr", values(rng, 4, 16, 16), [LITTLE])
    metadata = json.loads((path / "zarr.json").read_text())
    (path / "zarr.json").write_text(json.dumps({**metadata, "codecs": codecs}))
    with pytest.raises(FileFormatError):
        read_image(path)


def test_a_compressed_index_of_a_shard_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write(tmp_path / "a.zarr", values(rng, 4, 16, 16), [shard((2, 16, 16), [LITTLE])])
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["codecs"][0]["configuration"]["index_codecs"] = [LITTLE, packed("gzip")]
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(FileFormatError, match="index of the shard"):
        read_image(path)


def ome(group: Any, data: np.ndarray, **more: Any) -> None:
    """An OME-Zarr image of one level whose voxels are 3 x 1 x 1 mm."""
    group.create_array("0", shape=data.shape, dtype=data.dtype, chunks=(2, 8, 8))[...] = data
    axes = [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]
    scale = {"type": "scale", "scale": [3, 1, 1]}
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}]
    group.attrs.update(more)


def test_members_that_the_message_names_can_be_given(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "exp.zarr"
    root = zarr.create_group(str(path), zarr_format=2)
    data = [values(rng, 4, 16, 16) for _ in range(2)]
    for number, array in enumerate(data):
        ome(root.create_group(str(number)), array)
    root.create_group("OME")
    with pytest.raises(FileFormatError, match=r"2 images.*exp\.zarr/0, exp\.zarr/1"):
        read_image(path)
    for number, array in enumerate(data):
        scan = read_image(path / str(number))
        assert np.array_equal(scan.data, array)
        assert (scan.spec.spacing, scan.spec.unit) == ((3, 1, 1), "mm")
        assert is_image_path(path / str(number))
        assert result_name(path / str(number), scan.spec) == f"exp_{number}.zarr"
    assert [job.name for job in collect_scans([path / "0", path / "1"], ("a",))] == ["exp_0", "exp_1"]
    level = read_image(path / "0/0").spec  # the array of an image has its voxel size
    assert (level.spacing, level.unit) == ((3, 1, 1), "mm")


def test_images_of_a_plate_are_found_in_its_wells(tmp_path: Path, rng: np.random.Generator) -> None:
    root = zarr.create_group(str(tmp_path / "plate.zarr"), zarr_format=2)
    data = values(rng, 4, 16, 16)
    for well in ("A/1", "B/2"):
        ome(root.create_group(f"{well}/0"), data)
    with pytest.raises(FileFormatError, match=r"2 images.*plate\.zarr/A/1/0, plate\.zarr/B/2/0"):
        read_image(tmp_path / "plate.zarr")
    assert np.array_equal(read_image(tmp_path / "plate.zarr/B/2/0").data, data)
    assert np.array_equal(read_image(tmp_path / "plate.zarr/B").data, data)


@pytest.mark.parametrize("empty", [True, False])
def test_empty_chunks_of_labels_are_not_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rng: np.random.Generator, empty: bool
) -> None:
    root = zarr.create_group(str(tmp_path / "a.zarr"), zarr_format=2)
    ome(root, values(rng, 4, 16, 16) + 1)
    labels = np.zeros((4, 16, 16), np.uint8)
    labels[0, 0, 0] = not empty
    ome(root.create_group("labels/cells"), labels, **{"image-label": {"version": "0.4"}})
    path = tmp_path / "a.zarr/labels/cells"
    with caplog.at_level(logging.INFO):
        assert np.array_equal(read_labels(path).data, labels)
        assert np.array_equal(read_labels(tmp_path / "a.zarr/labels").data, labels)
        assert np.array_equal(read_image(path).data, labels)  # they say themselves that they are labels
        preflight(path)
    assert not caplog.records


def test_an_image_without_any_chunk_is_refused(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(4, 16, 16), dtype="u1", zarr_format=2)
    for check in (preflight, read_image):
        with pytest.raises(FileFormatError, match="its only chunk is missing"):
            check(tmp_path / "a.zarr")
    assert not read_labels(tmp_path / "a.zarr").data.any()


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("fill", [0, 7])
def test_labels_in_few_of_many_chunks_are_those_that_zarr_reads(
    tmp_path: Path, rng: np.random.Generator, version: Any, fill: int
) -> None:
    shape = (30, 33, 47)
    options = {"shape": shape, "dtype": "u1", "chunks": (4, 5, 6), "fill_value": fill, "zarr_format": version}
    shards = {"shards": (8, 10, 12)} if version == 3 else {}
    array = zarr.create_array(str(tmp_path / "a.zarr"), **options, **shards)
    array[28:, 30:, 40:] = values(rng, 2, 3, 7)
    array[9:11, 5:9, 6:9] = values(rng, 2, 4, 3)
    assert np.array_equal(read_labels(tmp_path / "a.zarr").data, array[...])
    with pytest.raises(FileFormatError, match="chunks are missing"):
        read_image(tmp_path / "a.zarr")


@pytest.mark.parametrize("target", ["../secret", "/tmp", "link", ""])
def test_levels_outside_the_folder_are_never_read(tmp_path: Path, rng: np.random.Generator, target: str) -> None:
    zarr.create_array(str(tmp_path / "secret"), data=values(rng, 4, 16, 16), zarr_format=2)
    root = zarr.create_group(str(tmp_path / "a.zarr"), zarr_format=2)
    ome(root, values(rng, 4, 16, 16))
    (tmp_path / "a.zarr/link").symlink_to(tmp_path / "secret", target_is_directory=True)
    multiscale = dict(root.attrs["multiscales"][0])
    multiscale["datasets"] = [{**multiscale["datasets"][0], "path": target}]
    root.attrs["multiscales"] = [multiscale]
    with pytest.raises(FileFormatError):
        read_image(tmp_path / "a.zarr")


def test_links_out_of_a_group_are_no_members(tmp_path: Path, rng: np.random.Generator) -> None:
    zarr.create_array(str(tmp_path / "secret"), data=values(rng, 4, 16, 16), zarr_format=2)
    zarr.create_group(str(tmp_path / "a.zarr"), zarr_format=2)
    (tmp_path / "a.zarr/link").symlink_to(tmp_path / "secret", target_is_directory=True)
    with pytest.raises(FileFormatError, match="0 images"):
        read_image(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    "attributes",
    [
        '{"axes": "zyx", "axes": "tyx"}',
        '{"spacing": [1' + "0" * 5000 + ", 1, 1]}",
        '{"multiscales": []',
        '{"multiscales": [{}]}',
        '{"multiscales": [{"datasets": []}]}',
        '{"multiscales": [{"datasets": [{"path": 3}]}]}',
        '{"multiscales": 7}',
        *(
            f'{{"multiscales": [{{"datasets": [{{"path": "0", "coordinateTransformations": {steps}}}]}}]}}'
            for steps in (
                '[{"type": "scale", "scale": [0, 1, 1]}]',
                '[{"type": "scale", "scale": [NaN, 1, 1]}]',
                '[{"type": "translation", "translation": [1e999, 1, 1]}]',
                '[{"type": "scale", "scale": "abc"}]',
                "5",
            )
        ),
    ],
)
def test_metadata_that_cannot_be_used_is_refused_in_a_sentence(
    tmp_path: Path, rng: np.random.Generator, attributes: str
) -> None:
    root = zarr.create_group(str(tmp_path / "a.zarr"), zarr_format=2)
    ome(root, values(rng, 4, 16, 16))
    (tmp_path / "a.zarr/.zattrs").write_text(attributes)
    with pytest.raises((FileFormatError, GeometryError)) as caught:
        read_image(tmp_path / "a.zarr")
    assert len(str(caught.value)) <= 400


def test_attributes_of_others_may_hold_nan(tmp_path: Path, rng: np.random.Generator) -> None:
    data = values(rng, 4, 16, 16)
    zarr.create_array(str(tmp_path / "a.zarr"), data=data, zarr_format=2)
    (tmp_path / "a.zarr/.zattrs").write_text('{"_FillValue": NaN, "_ARRAY_DIMENSIONS": ["z", "y", "x"]}')
    np.testing.assert_array_equal(read_image(tmp_path / "a.zarr").data, data)


def test_a_voxel_size_that_is_none_is_reported(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    attributes = {"spacing": [0, 1, 1], "unit": "mm"}
    zarr.create_array(str(tmp_path / "a.zarr"), data=values(rng, 4, 16, 16), zarr_format=2, attributes=attributes)
    assert read_image(tmp_path / "a.zarr").spec.unit == "pixel"
    assert "is not used" in caplog.text
