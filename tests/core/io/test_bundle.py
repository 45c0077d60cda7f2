"""The model file: what is saved comes back, and nothing else is taken for a model."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load, save

from prosma_core.config import ChannelIntensity, ClassInfo, ModelConfig, ModelHeader, PreprocessConfig
from prosma_core.config.model import GateForm
from prosma_core.errors import ModelFileError
from prosma_core.io.bundle import find_model, load_bundle, read_header, read_thumbnail, save_bundle, weights_sha256
from prosma_core.model.unet import build_model, model_from
from prosma_core.model.weights import weights_of

MakeModel = Callable[..., Path]
MakeHeader = Callable[..., ModelHeader]

text = st.text(st.characters(codec="utf-8"), max_size=20)
name = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@st.composite
def headers(draw: st.DrawFn) -> ModelHeader:
    dims = draw(st.sampled_from([2, 3]))
    channels = tuple(draw(st.lists(name, min_size=1, max_size=3)))
    values = draw(st.lists(st.integers(0, 65535), min_size=2, max_size=4, unique=True))
    names = draw(st.lists(name, min_size=len(values), max_size=len(values), unique=True))
    stages = draw(st.integers(2, 3))
    stride = st.lists(st.integers(1, 2), min_size=dims, max_size=dims)
    kernel = st.lists(st.sampled_from([1, 3]), min_size=dims, max_size=dims)
    model = {
        "dims": dims,
        "in_channels": len(channels),
        "num_classes": len(values),
        "widths": draw(st.lists(st.integers(1, 6), min_size=stages, max_size=stages)),
        "strides": [[1] * dims, *(draw(stride) for _ in range(stages - 1))],
        "kernels": [draw(kernel) for _ in range(stages)],
        "blocks": draw(st.integers(1, 2)),
        "gate": {
            "kind": draw(st.sampled_from(["prosma", "none", "attention"])),
            "form": draw(st.sampled_from(get_args(GateForm))),
            "threshold": draw(st.floats(0.01, 2)),
        },
    }
    preprocess = {
        "dims": dims,
        "channels": channels,
        "resample": "spacing",
        "spacing": draw(st.lists(st.floats(0.01, 20), min_size=dims, max_size=dims)),
        "unit": draw(st.sampled_from(["mm", "um", "pixel"])),
        "intensities": [ChannelIntensity(mean=draw(st.floats(-1e3, 1e3)), std=draw(st.floats(1e-3, 1e3)))]
        * len(channels),
        "tile": [16] * dims,
    }
    return ModelHeader(
        name=draw(name),
        description=draw(text),
        licence=draw(text),
        model=ModelConfig.parse(model, "model"),
        preprocess=PreprocessConfig.parse(preprocess, "preprocess"),
        classes=tuple(ClassInfo(value=v, name=n) for v, n in zip(values, names, strict=True)),
        training=draw(st.dictionaries(text, st.floats(-1, 1) | text | st.integers(-5, 5), max_size=3)),
    )


@given(headers(), st.integers(0, 2**31 - 1))
@settings(max_examples=10)
def test_a_saved_model_comes_back(header: ModelHeader, seed: int) -> None:
    weights = weights_of(build_model(header.model, seed).state_dict())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.safetensors"
        saved = save_bundle(path, header, weights)
        assert read_header(path) == saved
        loaded, again = load_bundle(path)
    assert loaded == saved == header.replace(sha256=saved.sha256)
    assert again.keys() == weights.keys()
    for key, value in weights.items():
        exact = value.ndim <= 1
        np.testing.assert_allclose(again[key], value, rtol=0 if exact else 2**-11, atol=0 if exact else 2**-25)
    state = model_from(loaded.model, again).state_dict()
    assert all(np.array_equal(state[key].numpy(), again[key]) for key in again)


@pytest.fixture
def model(tmp_path: Path, make_model: MakeModel) -> Path:
    return make_model(tmp_path / "m.safetensors")


def refused(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        load_bundle(path)
    assert path.name in str(caught.value)  # of a long path the middle may be left out
    return str(caught.value)


def test_a_missing_model_is_named_with_the_way_to_find_others(tmp_path: Path) -> None:
    assert "prosma models list" in refused(tmp_path / "none.safetensors")
    with pytest.raises(ModelFileError, match=r"no model 'none'.*shipped models are"):
        find_model("none")


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.touch()
    assert "is empty" in refused(path)


def test_a_truncated_file_is_refused_wherever_it_ends(model: Path) -> None:
    whole = model.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for size in {1, 7, 8, 9, 100, header - 1, header, header + 1, len(whole) // 2, len(whole) - 1}:
        model.write_bytes(whole[:size])
        assert any(word in refused(model) for word in ("truncated", "damaged"))


def test_a_file_with_bytes_added_is_refused(model: Path) -> None:
    model.write_bytes(model.read_bytes() + b"\0")
    assert "damaged" in refused(model)


def test_a_flipped_bit_of_the_weights_is_seen_by_the_hash(model: Path, rng: np.random.Generator) -> None:
    whole = model.read_bytes()
    first = 8 + struct.unpack("<Q", whole[:8])[0]
    for at in {first, len(whole) - 1, *rng.integers(first, len(whole), 30).tolist()}:
        altered = bytearray(whole)
        altered[at] ^= 1 << int(rng.integers(8))
        model.write_bytes(altered)
        assert "was altered" in refused(model)


def test_a_flipped_bit_of_the_header_is_seen_wherever_it_is(model: Path, rng: np.random.Generator) -> None:
    whole = model.read_bytes()
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    for at in {*range(20), *range(end - 20, end), *rng.integers(0, end, 200).tolist()}:
        altered = bytearray(whole)
        altered[at] ^= 1 << int(rng.integers(8))
        model.write_bytes(altered)
        refused(model)


def test_a_changed_class_name_is_seen(model: Path) -> None:
    model.write_bytes(model.read_bytes().replace(b"class 1", b"class 2"))
    assert "header does not match the hash" in refused(model)


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Return the file with its header changed by somebody who knows how to renew the hash."""
    blob = path.read_bytes()
    header = json.loads(blob[8 : 8 + struct.unpack("<Q", blob[:8])[0]])["__metadata__"]
    values = json.loads(header["prosma"])
    change(values)
    changed = json.dumps(values)
    digest = hashlib.sha256(changed.encode()).hexdigest()
    path.write_bytes(save(load(blob), {"prosma": changed, "prosma_sha256": digest}))
    return path


@pytest.mark.parametrize("version", [2, 99])
def test_a_newer_schema_asks_for_a_newer_program(model: Path, version: int) -> None:
    said = refused(rewritten(model, lambda values: values.update(schema_version=version, new_thing=1)))
    assert f"schema {version}" in said
    assert "Install a newer" in said


@pytest.mark.parametrize("version", [2.0, "2", None, 0, -1])
def test_a_schema_that_is_no_version_is_refused(model: Path, version: object) -> None:
    assert "schema_version" in refused(rewritten(model, lambda values: values.update(schema_version=version)))


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("model", "widths", [10**9, 10**9]),
        ("model", "widths", [4] * 50),
        ("model", "in_channels", 10**6),
        ("model", "num_classes", 10**7),
        ("model", "blocks", 10**6),
        ("model", "kernels", [[1001, 1001], [3, 3]]),
        ("model", "strides", [[1, 1], [0, 0]]),
        ("preprocess", "tile", [10**6, 10**6]),
        ("preprocess", "tile", [15, 15]),
        ("preprocess", "tile", [16]),
    ],
)
def test_an_absurd_setting_is_named(model: Path, part: str, key: str, value: object) -> None:
    said = refused(rewritten(model, lambda values: values[part].update({key: value})))
    assert key in said.replace("channels", "in_channels").replace("classes", "num_classes")


@pytest.mark.parametrize(("key", "value"), [("value", 0), ("name", "background")])
def test_two_classes_that_cannot_be_told_apart_are_refused(model: Path, key: str, value: object) -> None:
    said = refused(rewritten(model, lambda values: values["classes"][1].update({key: value})))
    assert f"two classes have the same {key}" in said


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_never_read(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(pickle.dumps({"weights": list(range(1000))}, protocol))
    said = refused(path)
    assert "pickle" in said if protocol >= 2 else "not a safetensors file" in said


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_is_never_read(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "m.pt"
    torch.save({"weight": torch.zeros(100)}, path, _use_new_zipfile_serialization=zipped)
    assert "pickle" in refused(path)


@pytest.mark.parametrize("magic", [b"PK", b"\x80\x02", b"\x80\x04"])
def test_a_model_is_not_taken_for_a_pickle_by_the_length_of_its_header(
    tmp_path: Path, magic: bytes, make_header: MakeHeader
) -> None:
    """The first bytes of a model are the length of its header, any multiple of 8."""
    length = struct.unpack("<H", magic)[0] + (0 if magic == b"PK" else 0x10000)
    path = tmp_path / "m.safetensors"
    header = make_header(gate="none")
    weights = weights_of(build_model(header.model, 0).state_dict())
    save_bundle(path, header, weights)
    missing = length - struct.unpack("<Q", path.read_bytes()[:8])[0]
    save_bundle(path, header.replace(training={"x": "x" * (missing - len(r"\"x\":\"\""))}), weights)
    assert path.read_bytes().startswith(magic)
    assert load_bundle(path)[0].name == "tiny"


def test_weights_without_our_header_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for metadata in (None, {"format": "pt"}, {"prosma": "{}"}, {"prosma": "[" * 9999, "prosma_sha256": ""}):
        path.write_bytes(save({"weight": np.zeros((2, 2), np.float32)}, metadata))
        assert "without a ProSMA header" in refused(path)


@pytest.mark.parametrize(
    "raw",
    [
        b"[]",
        b"{}",
        b'"text"',
        b"null",
        b"\xff\xfe",
        b'{"__metadata__": 3}',
        b'{"__metadata__": {"prosma": "\\ud800", "prosma_sha256": ""}}',
    ],
)
def test_a_header_that_is_no_header_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw)
    assert "without a ProSMA header" in refused(path)


def test_a_header_above_one_megabyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", 2_000_000) + b" " * 2_000_010)
    assert "at most 1000000" in refused(path)


def test_a_header_above_one_megabyte_is_not_written(tmp_path: Path, make_header: MakeHeader) -> None:
    path = tmp_path / "m.safetensors"
    header = make_header(gate="none").replace(training={"note": "x" * 1_100_000})
    with pytest.raises(ModelFileError, match="1000000"):
        save_bundle(path, header, {"weight": np.zeros(3, np.float32)})
    assert not list(tmp_path.iterdir())


def test_weights_of_another_network_are_refused(tmp_path: Path, make_header: MakeHeader) -> None:
    path = tmp_path / "m.safetensors"
    other = weights_of(build_model(make_header(values=(0, 1, 2)).model, 0).state_dict())
    save_bundle(path, make_header(), other)
    header, weights = load_bundle(path)
    with pytest.raises(ModelFileError, match=r"heads\.0.*needed \(2,.*given \(3,"):
        model_from(header.model, weights)


@pytest.mark.parametrize("change", ["missing", "superfluous"])
def test_a_missing_or_superfluous_weight_is_named(make_header: MakeHeader, change: str) -> None:
    config = make_header().model
    weights = weights_of(build_model(config, 0).state_dict())
    if change == "missing":
        del weights["heads.0.bias"]
    else:
        weights["more"] = np.zeros(3, np.float32)
    with pytest.raises(ModelFileError, match=r"heads\.0\.bias" if change == "missing" else "more"):
        model_from(config, weights)


def test_weights_that_are_not_finite_are_refused_on_reading(tmp_path: Path, model: Path) -> None:
    weights = load(model.read_bytes())
    weights["heads.0.bias"][0] = np.nan
    blob = model.read_bytes()
    metadata = json.loads(blob[8 : 8 + struct.unpack("<Q", blob[:8])[0]])["__metadata__"]
    model.write_bytes(save(weights, metadata))
    rewritten(model, lambda values: values.update(sha256=weights_sha256(weights)))
    assert "not finite (heads.0.bias)" in refused(model)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_weights_that_are_not_finite_are_not_written(
    tmp_path: Path, make_model: MakeModel, make_header: MakeHeader, value: float
) -> None:
    path = make_model(tmp_path / "m.safetensors", gate="none")
    before = path.read_bytes()
    weights = weights_of(build_model(make_header(gate="none").model, 1).state_dict())
    weights["heads.0.weight"][0] = value
    with pytest.raises(ModelFileError, match=r"heads\.0\.weight are not finite"):
        save_bundle(path, make_header(gate="none"), weights)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def png(side: int, padding: int = 0) -> bytes:
    out = io.BytesIO()
    Image.new("L", (side, side)).save(out, "PNG")
    return out.getvalue() + bytes(padding)


@pytest.mark.parametrize(
    ("thumbnail", "shown"),
    [(png(64), True), (b"", False), (b"no picture", False), (png(300), False), (png(64, 40_000), False)],
)
def test_a_thumbnail_comes_back_where_it_is_a_small_png(
    thumbnail: bytes, shown: bool, make_model: MakeModel, tmp_path: Path
) -> None:
    path = make_model(tmp_path / "m.safetensors")
    before = load_bundle(path)
    save_bundle(path, *before, thumbnail)
    assert read_thumbnail(path) == (thumbnail if shown else b"")
    assert load_bundle(path)[0] == before[0]
    broken = path.read_bytes().replace(b"iVBORw0KGgo", b"*VBORw0KGgo")
    path.write_bytes(broken)
    assert read_thumbnail(path) == b""
