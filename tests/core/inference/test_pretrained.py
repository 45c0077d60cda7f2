"""The shipped models: small, licensed, credited, and as good as their cards say."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load
from scipy.ndimage import label

from prosma_core.config import InferenceConfig
from prosma_core.config.inference import CpuSettings
from prosma_core.config.model import Figure, ModelHeader
from prosma_core.config.training import LabelsConfig, load_run_yaml, resolve_run
from prosma_core.data.fit import compare
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.data.intensities import COLOR
from prosma_core.data.labels import class_indices, read_annotation
from prosma_core.data.look import describe
from prosma_core.data.phantom import phantom_2d, phantom_3d
from prosma_core.errors import ConfigError
from prosma_core.events import CaseFailed, StageStarted, drain
from prosma_core.inference import cpu_tuning, tiled
from prosma_core.inference.evaluate import measure_case
from prosma_core.inference.files import FileOptions, segment_files
from prosma_core.inference.postprocess import count_objects
from prosma_core.inference.segment import Segmenter
from prosma_core.io.bundle import dice_text, figures_text, load_bundle, read_header, read_thumbnail, shipped_models
from prosma_core.io.dataset_folder import open_dataset, read_case
from prosma_core.io.images import read_image, read_labels, write_image
from prosma_core.model import kernels
from prosma_core.model.gate import ProximalGate
from prosma_core.model.pretrained import ATTRIBUTION

ROOT = Path(__file__).resolve().parents[3]
MODELS = shipped_models()
CORRUPTED = ("speckle", "noise", "contrast", "blur", "bias", "resolution")
SAME = 0.999
"""Least share of voxels with the same label: in half precision those between two classes may go either way."""


def segment(segmenter: Segmenter, image: Scan) -> NDArray[Any]:
    work = segmenter.segment(image, InferenceConfig())
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value.labels.data


def dice(name: str, image, labels) -> dict[str, float]:
    segmenter = Segmenter.load(MODELS[name], torch.device("cpu"))
    classes = segmenter.header.classes
    prediction = segment(segmenter, image)
    reference = class_indices(labels.data, classes, name)
    names = {c.value: c.name for c in classes[1:]}
    return {k: m.dice for k, m in measure_case(prediction, reference, image.spec.spacing, names, 1.0).items()}


def test_the_promised_models_are_there() -> None:
    assert list(MODELS) == [
        "axon-myelin-sem",
        "breast-lesion-us",
        "fetal-brain-mri",
        "hippocampus-mri",
        "nerve-us",
        "nuclei-fluorescence",
        "nuclei-stained",
        "phantom-3d",
    ]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_each_is_small_whole_licensed_and_has_a_card(name: str) -> None:
    path = MODELS[name]
    header, weights = load_bundle(path)
    assert path.stat().st_size < 12_000_000
    assert header.name == name
    assert header.licence
    assert header.attribution
    assert header.model.gate.kind == "prosma"
    assert sum(w.size for w in weights.values()) > 1_000_000
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert card.startswith(f"# {name}\n")
    assert {"CC-BY-SA-4.0": "CC-BY-SA 4.0", "CC-BY-4.0": "CC BY 4.0", "CC0-1.0": "CC0 1.0", "MIT": "MIT"}[
        header.licence
    ] in card


@pytest.mark.parametrize("name", sorted(MODELS))
def test_each_is_stored_in_half_precision_and_computed_in_single(name: str) -> None:
    stored = load(MODELS[name].read_bytes())
    matrices = {key for key, value in stored.items() if value.ndim > 1}
    assert {stored[key].dtype for key in matrices} == {np.dtype(np.float16)}
    assert {stored[key].dtype for key in stored.keys() - matrices} == {np.dtype(np.float32)}
    assert sum(stored[key].size for key in matrices) > 0.99 * sum(value.size for value in stored.values())
    assert {value.dtype for value in load_bundle(MODELS[name])[1].values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_each_has_a_thumbnail_with_its_source(name: str) -> None:
    found = read_thumbnail(MODELS[name])
    assert 0 < len(found) < 8000
    with Image.open(io.BytesIO(found)) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "P", (64, 64))
        assert picture.info["Copyright"] == read_header(MODELS[name]).licence
        assert picture.info["Source"]


@pytest.fixture(scope="module")
def shipping() -> Any:
    """Return what makes figures and tables of the shipped models."""
    path = ROOT / "benchmarks" / "_shipped.py"
    spec = importlib.util.spec_from_file_location("prosma_test_shipped", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_all_models_has_the_figures_of_their_headers(shipping: Any) -> None:
    headers = [read_header(path) for path in MODELS.values()]
    assert shipping.models_table(headers) in (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(MODELS))
def test_each_says_what_it_reaches_how_it_was_made_and_what_that_cost(name: str, shipping: Any) -> None:
    header = read_header(MODELS[name])
    found, shown = header.evaluation, header.training["not_found"]
    assert found is not None
    assert set(found.dice) == set(found.iou) == set(found.missed) == set(shown)
    assert set(shown) == {c.name for c in header.classes[1 : 2 if found.object_f1 else None]}  # a border is no object
    assert found.mean_dice.images >= max(images for _, images in shown.values())
    assert found.mean_dice.value == header.training["validation_mean_dice"]
    assert all(found.missed[name].count >= count for name, (count, _) in shown.items())
    assert found.worse
    assert header.purpose.shows
    assert header.purpose.not_for
    assert all(name in command for command in header.training["commands"][-1:])
    assert re.search("minutes|hours", header.training["cost"])
    card = MODELS[name].with_suffix(".md").read_text(encoding="utf-8")
    assert shipping.with_figures(card, shipping.card_table(header)) == card
    dice, figures = f"Dice {found.mean_dice.value:.3f}", figures_text(header)
    assert f"{dice} (95 % interval" in figures
    assert dice_text(header) == f"validation {dice}{' on phantoms' if header.synthetic else ''}"
    assert "missed (Dice below 0.1) in" in figures


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("bias", "bias field"),
        ("contrast", "low contrast"),
        ("resolution", "half the resolution"),
        ("thick slices", "thick slices"),
    ],
)
def test_how_images_were_made_worse_is_said_in_the_words_of_cards_and_docs(kind: str, said: str, shipping: Any) -> None:
    header = read_header(MODELS["phantom-3d"])
    assert header.evaluation is not None
    worse = {kind: header.evaluation.worse["bias"]}
    header = header.replace(evaluation=header.evaluation.replace(worse=worse))
    assert f"where they are corrupted ({said})" in figures_text(header)
    assert f"| Mean Dice, {said} |" in shipping.card_table(header)


def test_the_page_of_the_models_shows_what_their_headers_say(shipping: Any) -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    headers = [read_header(path) for path in MODELS.values()]
    table = shipping.models_table(headers)
    assert shipping.with_figures(page, table) == page
    with pytest.raises(ValueError, match="no place for the figures"):
        shipping.with_figures("# A page", table)


def test_figures_are_means_over_the_images_that_show_a_class(shipping: Any) -> None:
    reference = np.zeros((3, 8, 8), np.uint8)
    reference[0, :4], reference[1, 4:] = 1, 1  # the third image shows nothing
    results = reference.copy()
    results[0, :2] = 0
    results[1] = 0
    results[2, :1] = 1
    measured = [shipping.scores(a, b, ["organ"]) for a, b in zip(results, reference, strict=True)]
    shown = [{"organ"}, {"organ"}, set()]
    found = shipping.evaluation("made-up images", shown, measured, {"noise": (shown, measured)})
    assert found.dice["organ"].value == pytest.approx((2 / 3 + 0) / 2, abs=1e-4)
    assert found.iou["organ"].value == 0.25
    assert found.mean_dice == found.worse["noise"] == found.dice["organ"]
    assert (found.mean_dice.low, found.mean_dice.high, found.mean_dice.images) == (0, 0.6667, 2)
    assert (found.missed["organ"].count, found.missed["organ"].images) == (1, 2)
    assert (found.false_positives["organ"].count, found.false_positives["organ"].images) == (1, 1)
    none = shipping.share_figure(0, 35)
    assert (none.value, none.low, round(none.high, 3)) == (0, 0, 0.099)
    values = np.random.default_rng(1).normal(0.8, 0.1, 100)
    figure = shipping.mean_figure(values)
    assert figure == shipping.mean_figure(values)
    assert figure.high - figure.low == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.05)


def test_numbered_objects_are_counted_and_every_planned_model_has_its_facts(
    shipping: Any, make_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import shipped_facts

    said = yaml.safe_load(shipped_facts.SAID.read_text(encoding="utf-8"))
    settings = {path.stem for path in shipped_facts.SETTINGS.iterdir()}
    assert set(said) == settings >= set(MODELS)
    assert {kind for each in said.values() for kind in each["worse"]} <= {*CORRUPTED, *shipped_facts.OTHERS}
    numbers = np.zeros((48, 48), np.uint16)
    for number, (y, x) in enumerate([(4, 4), (4, 26), (26, 4)], 1):
        numbers[y : y + 14, x : x + 14] = number
    image = Scan((40 + 160 * (numbers > 0)).astype(np.uint8), array_spec((48, 48), "yx"))
    labels = Scan(numbers, array_spec((48, 48), "yx"))
    header = read_header(make_model(tmp_path / "m.safetensors"))
    meaning = LabelsConfig(one_class=True, separate=True)
    result = (numbers > 1).astype(np.uint8)
    shown, scores, f1 = shipped_facts.measured(result, labels, header, meaning, "a")
    assert shown == {header.classes[1].name} == set(scores)
    assert f1 == pytest.approx(2 * 2 / (2 + 3))
    found = shipping.evaluation("x", [shown], [scores], {}, [f1])
    assert found.object_f1[header.classes[1].name].value == pytest.approx(0.8)
    assert "F1 of objects" in shipping.card_table(header.replace(evaluation=found))
    assert "F1 of objects 0.800" in figures_text(header.replace(evaluation=found))
    classes = shipped_facts.of_classes(labels, header, meaning, "a")
    assert shipping.usual_case({"a": classes, "b": 0 * classes}) == "a"
    color = Scan(np.stack([image.data] * 3), array_spec((3, 48, 48), "cyx"))
    for each in (image, color):
        with Image.open(io.BytesIO(shipping.thumbnail(each, classes, header, "a"))) as picture:
            assert picture.size == (64, 64)


@pytest.mark.parametrize(
    ("ignore", "given", "cut", "f1"),
    [
        (None, (1, 2, 3), True, 2 * 1 / (3 + 3)),  # half of 1 and of 2 is given: neither counts as found
        (None, (1, 3), False, 2 * 2 / (2 + 3)),
        (3, (1, 3), False, 2 * 1 / (1 + 2)),
    ],
)
def test_found_objects_are_those_of_the_labels_not_of_what_the_gap_leaves_of_them(
    ignore: int | None, given: tuple[int, ...], cut: bool, f1: float, make_model: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import shipped_facts

    numbers = np.zeros((48, 48), np.uint16)
    numbers[8:20, 8:12], numbers[8:20, 12:16], numbers[30:40, 30:40] = 1, 2, 3
    labels = Scan(numbers, array_spec((48, 48), "yx"))
    meaning = LabelsConfig(one_class=True, separate=True, ignore=ignore)
    header = read_header(make_model(tmp_path / "m.safetensors"))
    learned = read_annotation(labels, LabelsConfig(one_class=True, separate=True)).values
    result = np.where(np.isin(numbers, given), learned if cut else 1, 0)
    assert set(np.unique(numbers[result > 0])) == set(given)
    assert shipped_facts.measured(result, labels, header, meaning, "a")[2] == pytest.approx(f1)


def test_a_header_without_figures_opens_and_a_figure_lies_within_its_interval() -> None:
    values = read_header(MODELS["phantom-3d"]).model_dump(mode="json")
    del values["evaluation"], values["facts"], values["purpose"]
    header = ModelHeader.parse(values, "a header of an earlier version")
    assert header.evaluation is None
    assert figures_text(header) == ""
    with pytest.raises(ConfigError, match="not within its interval"):
        Figure.parse({"value": 0.5, "low": 0.6, "high": 0.7, "images": 3}, "a figure")


@pytest.mark.parametrize("settings", sorted((ROOT / "benchmarks" / "shipped").iterdir()), ids=lambda path: path.stem)
def test_the_settings_that_made_a_model_can_be_used(settings: Path) -> None:
    run = resolve_run({**load_run_yaml(settings), "data": "DIR", "out": "model.safetensors"})
    assert run.name == settings.stem
    assert run.licence
    assert run.attribution
    if run.name not in MODELS:  # not trained yet
        return
    header = read_header(MODELS[run.name])
    encoder = [ATTRIBUTION] if header.model.encoder == "efficientnet-lite0" else []
    assert (header.licence, header.attribution) == (run.licence, "\n".join([run.attribution, *encoder]))
    assert {c.value: c.name for c in header.classes[1:]} == run.class_names


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["mr", "ct"])
def test_the_phantom_model_finds_organ_and_lesion_of_new_phantoms(modality: str) -> None:
    scores = [dice("phantom-3d", *phantom_3d(seed, modality=modality)) for seed in (7, 8)]
    assert np.mean([s["organ"] for s in scores]) > 0.85
    assert np.mean([s["lesion"] for s in scores]) > 0.75


SAMPLES = {
    "axon-myelin-sem": "axons_rat7.tif",
    "breast-lesion-us": "breast_386.png",
    "fetal-brain-mri": "fetal_brain_ga22.nii.gz",
    "hippocampus-mri": "hippocampus_095.nii.gz",
    "nerve-us": "nerve_0178.png",
    "nuclei-fluorescence": "nuclei_4e1c889d.png",
    "nuclei-stained": "tissue_ad473063.png",
}


def small_scan(name: str) -> Scan:
    """The middle of a model's sample scan; for the model of phantoms, one of them."""
    if name not in SAMPLES:
        return phantom_3d(1)[0]
    image = read_image(ROOT / "src" / "napari_prosma" / "samples" / SAMPLES[name])
    shape = image.spec.shape[-image.spec.spatial_ndim :]
    most = (256, 256) if len(shape) == 2 else (48, 64, 48)
    box = [slice((n - min(n, m)) // 2, (n + min(n, m)) // 2) for n, m in zip(shape, most, strict=True)]
    data = np.asarray(image.data)[(..., *box)]
    return Scan(data, replace(image.spec, shape=data.shape, header=None))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_path_gives_the_same_labels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LEAST_VALUES", 0)
    image = small_scan(name)
    cpu = segment(Segmenter.load(MODELS[name], torch.device("cpu")), image)
    gpu = Segmenter.load(MODELS[name], torch.device("cuda"))
    gates = [gate for gate in gpu.model.skip_gates if isinstance(gate, ProximalGate)]
    assert all(gate.fused for gate in gates)
    assert tiled.inference_dtype(gpu.device) is torch.float16
    assert cpu.any()
    for dtype in (torch.float16, torch.float32):
        monkeypatch.setattr(tiled, "inference_dtype", lambda device, dtype=dtype: dtype)
        for path in (True, False):
            for gate in gates:
                gate.fused = path
            assert np.mean(segment(gpu, image) == cpu) > SAME, (dtype, path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_layout_of_a_cpu_gives_the_same_labels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = small_scan(name)
    segmenter = Segmenter.load(MODELS[name], torch.device("cpu"))
    plain = segment(segmenter, image)
    assert plain.any()
    chosen = CpuSettings(threads=1, channels_last=True)  # bf16 is taken where it is asked for only
    with monkeypatch.context() as patch:
        patch.setattr(cpu_tuning, "cpu_settings", lambda: chosen)
        found = segment(segmenter, image)
    assert np.mean(found == plain) > 0.9999
    assert np.array_equal(segment(segmenter, image), plain)  # nothing of it stays in the model


def phantom_for(header: ModelHeader) -> NDArray[Any]:
    """8-bit gray values for a model of this many dimensions."""
    image = (phantom_2d(1, (96, 112)) if header.model.dims == 2 else phantom_3d(1, (16, 48, 48)))[0]
    values = image.data.astype(np.float64)
    return np.clip(255 * (values - values.min()) / (values.max() - values.min()), 0, 255).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_odd_pictures_are_read_as_usual_ones_or_refused_in_words(name: str, tmp_path: Path) -> None:
    segmenter = Segmenter.load(MODELS[name], torch.device("cpu"))
    header = segmenter.header
    gray = phantom_for(header)
    axes, lead = "zyx"[-header.model.dims :], gray.shape[:-2]

    def run(values: NDArray[Any], axes: str = axes) -> tuple[NDArray[Any] | None, str]:
        path = tmp_path / "a.tif"
        names = COLOR if "c" in axes else None
        write_image(path, values, replace(array_spec(values.shape, axes), channel_names=names), overwrite=True)
        events = list(
            segment_files([path], tmp_path / "out", segmenter, InferenceConfig(), FileOptions(overwrite=True))
        )
        said = [e.message if isinstance(e, StageStarted) else getattr(e, "error", "") for e in events]
        labels = (
            None if any(isinstance(e, CaseFailed) for e in events) else read_labels(tmp_path / "out" / "a.tif").data
        )
        return labels, " ".join(said)

    plain, said = run(gray)
    assert plain is not None
    colors = "gray channel was used for red, green and blue"
    assert (colors in said) == (len(header.preprocess.channels) == 3)
    deep, _ = run(gray.astype(np.uint16) * 257)
    assert np.mean(deep == plain) > SAME
    if header.model.dims == 2:
        colored, said = run(np.stack([gray] * 3), "cyx")
        assert np.mean(colored == plain) > SAME
        assert ("three color channels were turned to gray" in said) == (len(header.preprocess.channels) == 1)
    tiny, _ = run(gray[..., 8:40, 8:40])
    assert tiny is not None
    assert tiny.shape == (*lead, 32, 32)
    for value in (0, 255, np.nan):
        labels, said = run(np.full(gray.shape, value, np.float32 if np.isnan(value) else np.uint8))
        assert labels is None
        assert "there is nothing to see in" in said


def test_fluorescent_nuclei_are_found_at_half_and_twice_their_size_and_dark_ones_are_warned_of() -> None:
    segmenter = Segmenter.load(MODELS["nuclei-fluorescence"], torch.device("cpu"))
    folder = ROOT / "src" / "napari_prosma" / "samples"
    pictures = [Image.open(folder / f"nuclei_4e1c889d{part}.png") for part in ("", "_labels")]
    for factor, side in ((0.5, 256), (1, 256), (2, 128)):
        values, drawn = (
            np.asarray(picture.crop((40, 40, 40 + side, 40 + side)).resize((int(factor * side),) * 2, kind))
            for picture, kind in zip(pictures, (Image.Resampling.BILINEAR, Image.Resampling.NEAREST), strict=True)
        )
        deep = Scan(values.astype(np.uint16) * 200, array_spec(values.shape, "yx"))
        found = drain(segmenter.segment(deep, InferenceConfig()), lambda _: None).labels.data > 0
        assert 2 * (found & (drawn > 0)).sum() / (found.sum() + (drawn > 0).sum()) > 0.93, factor
        objects = count_objects(found, label(drawn > 0)[0])
        assert objects.matched >= 0.9 * objects.wanted, factor
    dark = 255 - np.asarray(pictures[0])
    fit = compare(describe(array_spec(dark.shape, "yx"), dark), segmenter.header)
    assert fit.verdict == "doubtful"
    assert "bright on dark" in fit.text
    assert "this scan is brighter than nearly all of these" in fit.text


def val_cases(folder: Path, count: int, prefix: str = "") -> list[tuple]:
    dataset = open_dataset(folder)
    names = [n for n in json.loads((folder / "splits.json").read_text())["val"] if n.startswith(prefix)]
    return [read_case(dataset.cases[n]) for n in names[:count]]


@pytest.mark.slow
def test_hippocampus_on_real_validation_scans(data_root: Path) -> None:
    scores = [dice("hippocampus-mri", *case) for case in val_cases(data_root / "msd_hippocampus", 6)]
    assert np.mean([list(s.values()) for s in scores]) == pytest.approx(
        0.869, abs=0.005
    )  # measured when it was shipped


@pytest.mark.slow
def test_breast_lesions_on_real_validation_images(data_root: Path) -> None:
    scores = [dice("breast-lesion-us", *case)["lesion"] for case in val_cases(data_root / "busi", 10, "benign")]
    assert np.mean(scores) == pytest.approx(0.824, abs=0.01)  # measured when it was shipped


@pytest.mark.slow
def test_a_model_is_loaded_and_trained_on_without_the_compiler_of_torch() -> None:
    code = (
        "import sys, torch\n"
        "from prosma_core.config.training import TrainingConfig\n"
        "from prosma_core.inference.segment import Segmenter\n"
        "from prosma_core.io.bundle import find_model\n"
        "from prosma_core.training.optimization import build_optimizer\n"
        "model = Segmenter.load(find_model('hippocampus-mri'), torch.device('cpu')).model\n"
        "for name in ('adamw', 'sgd'):\n"
        "    optimizer = build_optimizer(model, TrainingConfig(optimizer=name))\n"
        "    model.requires_grad_()(torch.ones(1, 1, 32, 32, 32)).sum().backward()\n"
        "    optimizer.step()\n"
        "    optimizer.load_state_dict(optimizer.state_dict())\n"
        "    optimizer.zero_grad()\n"
        "assert 'torch._dynamo' not in sys.modules"  # importing it takes 2 seconds
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert done.returncode == 0, done.stderr
