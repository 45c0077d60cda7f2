from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import ModelHeader
from prosma_core.config.training import load_run_yaml, resolve_run
from prosma_core.data.geometry import Scan, array_spec
from prosma_core.events import drain
from prosma_core.inference.segment import Segmenter
from prosma_core.model.unet import build_model
from prosma_core.training.validate import dice_per_class

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "benchmarks" / "recipes").iterdir())


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_its_patches_fit_the_network(script: Any, path: Path) -> None:
    recipe = script("pretrained_encoder").read_recipe(path, ["augment.zoom=[0.5, 2]"], None, None)
    divisor = 32 if recipe.network == "lite0" else 2 ** (len(recipe.widths) - 1)
    assert recipe.augment.zoom == (0.5, 2)
    assert len(recipe.size) == len(recipe.canvas) == recipe.dims
    assert not any(side % divisor for side in recipe.size)
    assert recipe.fit or recipe.covers == pytest.approx(max(recipe.size) / max(recipe.canvas), abs=1e-6)


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "shipped").iterdir()), ids=lambda path: path.stem)
def test_settings_of_a_shipped_model_are_valid_and_say_what_it_is_for(path: Path) -> None:
    run = resolve_run({**load_run_yaml(path), "data": "data", "out": "model.safetensors"}, path.name)
    assert run.name == path.stem.removesuffix("-bias")
    assert run.purpose.shows
    assert run.purpose.not_for
    assert run.class_names
    assert run.licence in {"CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0", "MIT"}
    assert run.attribution
    assert f"--config benchmarks/shipped/{path.name}" in path.read_text(encoding="utf-8")


def test_folding_batch_norms_leaves_the_features_as_they_are(script: Any) -> None:
    lite0 = script("_lite0")
    torch.manual_seed(0)
    encoder = lite0.Lite0(None, "frozen").eval()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = encoder(x)
        for module in encoder.modules():
            if isinstance(module, lite0.Convolution):
                module.fold()
        after = encoder(x)
    assert [(f.shape[1], f.shape[2]) for f in before] == [(16, 32), (24, 16), (40, 8), (112, 4), (320, 2)]
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_two_training_steps_and_a_prediction_on_the_images_own_grid(script: Any) -> None:
    recipe, data = script("_recipe"), script("_recipe_data")
    settings = recipe.Recipe(
        steps=2, batch=2, size=(64, 64), canvas=(64, 64), widths=(8, 8, 8, 8, 8), network="scratch"
    )
    rng = np.random.default_rng(0)
    pair = rng.integers(0, 256, (1, 40, 50), dtype=np.uint8), np.ones((40, 50), np.uint8)
    images = data.training_images([pair, pair], settings)
    training = recipe.Training(recipe.build(settings, 1, 2, None), images, settings)
    first = training.run()
    (done,) = recipe.train_together([training])
    assert done.steps == 2
    assert np.isfinite(done.loss)
    assert done.loss == first.loss  # again from the same weights
    case = data.as_case(pair, settings)
    assert recipe.predict(done.model, case[0], settings).shape == (1, 2, 40, 50)
    assert recipe.score(done.model, [case], settings, 2).shape == (1, 1)


def test_each_way_to_choose_the_next_slice_comes_to_every_slice(script: Any) -> None:
    bench = script("next_slice")
    place = np.array([(scan, z) for scan in range(2) for z in range(5)])
    full = place[:, 1] > 0
    for name, way in bench.WAYS.items():
        pool = bench.Pool(place, np.array([5, 5]), full, np.random.default_rng(0))
        pool.entropy = np.random.default_rng(1).random((10, 3))
        while pool.left.any():
            pool.annotated.append(way(pool))
        assert sorted(pool.annotated) == list(range(10)), name
        if "object" in name:
            assert not full[pool.annotated[-2:]].any(), name
        if name == "even":
            assert pool.annotated[:4] == [2, 7, 1, 6]
        if name == "entropy":
            later = pool.entropy.sum(1)[pool.annotated[1:]]
            assert (later[:-1] >= later[1:]).all()


def test_fine_tuning_keeps_what_a_setting_keeps_and_measures_what_segmentation_gives(
    script: Any, make_header: Callable[..., ModelHeader]
) -> None:
    bench, header = script("fine_tuning"), make_header(3)
    start, rng = build_model(header.model, 0).eval(), np.random.default_rng(0)
    shape = (20, 18, 24)
    scan = Scan(rng.normal(size=shape).astype(np.float32), array_spec(shape, "zyx"))
    labels = Scan(rng.integers(0, 2, shape, dtype=np.uint8), array_spec(shape, "zyx"))
    found = drain(Segmenter(header, start, torch.device("cpu")).segment(scan, InferenceConfig()), lambda _: None)
    pair = [torch.from_numpy(np.asarray(each.data)) for each in (found.labels, labels)]
    prepared = bench.Prepared([(scan, labels)], header, torch.device("cpu"))
    assert prepared.dice(start) == pytest.approx(dice_per_class(*pair, 2)[0], abs=1e-3)
    cases, known = bench.annotated([(scan, labels)], [[3, 9]], start, header)
    others, _ = bench.annotated([(scan, labels)], [()], start, header)
    assert 0 <= known <= 1
    before = {name: value.clone() for name, value in start.state_dict().items()}

    def changed(**settings: Any) -> set[str]:
        after = bench.tuned(start, cases, others, header, bench.Tuning(steps=2, distilled=1.0, **settings), 0)
        return {name for name, value in after.items() if not torch.equal(value, before[name])}

    assert changed() > changed(learns="decoder") > set()
    assert all(before[name].ndim <= 1 for name in changed(learns="norms"))
    half = bench.mixed({"w": torch.zeros(2)}, {"w": torch.ones(2)}, 0.5)
    assert half["w"].tolist() == [0.5, 0.5]


def test_touching_nuclei_are_separated_and_counted(script: Any) -> None:
    nuclei = script("_nuclei")
    instances = np.zeros((20, 30), np.uint16)
    instances[4:16, 3:15], instances[4:16, 15:27] = 7, 9
    classes = nuclei.touching_classes(instances)
    assert (classes[4:16, 13:17] == 2).all()
    assert (classes[4:16, 3:13] == 1).all()
    found = nuclei.objects(classes)
    assert nuclei.matches(found, np.array([0, 1, 2])[np.searchsorted([0, 7, 9], instances)]) == (2, 2, 2)
