from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

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
    done = recipe.train(recipe.build(settings, 1, 2, None), images, settings)
    assert done.steps == 2
    assert np.isfinite(done.loss)
    case = data.as_case(pair, settings)
    assert recipe.predict(done.model, case[0], settings).shape == (1, 2, 40, 50)
    assert recipe.score(done.model, [case], settings, 2).shape == (1, 1)


def test_touching_nuclei_are_separated_and_counted(script: Any) -> None:
    nuclei = script("_nuclei")
    instances = np.zeros((20, 30), np.uint16)
    instances[4:16, 3:15], instances[4:16, 15:27] = 7, 9
    classes = nuclei.touching_classes(instances)
    assert (classes[4:16, 13:17] == 2).all()
    assert (classes[4:16, 3:13] == 1).all()
    found = nuclei.objects(classes)
    assert nuclei.matches(found, np.array([0, 1, 2])[np.searchsorted([0, 7, 9], instances)]) == (2, 2, 2)
