"""What fine-tuning on nine slices gains on scans of the same kind, and what it loses: ways not to forget, compared.

    python3 run.py bench fine_tuning DIR/msd_hippocampus [--device cuda --workers 12] [--before before.safetensors] \
        [--tasks scanner inverted] [--settings chosen base "distilled 3"] [--draws 0 1 2] [--out results.jsonl]

`hippocampus-mri` goes on learning from three annotated slices of each of three training scans, 60 steps of 2 patches
unless a setting says otherwise (three minutes on 2 cores). A task is a start model and a kind of scan; Dice is that of
all validation scans of this kind, which are none of those three, and of the same scans as they are. Draw 0 takes the
first three scans and evenly spaced slices, other draws take other scans and slices at random.

`--before` names the model as it was before it was trained with bias fields:

    git show c90c43c^:src/prosma_core/pretrained/hippocampus-mri.safetensors > before.safetensors
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _measured_training import in_parallel, write_line
from numpy.typing import NDArray
from other_scanner import MODEL, other_scanner
from sparse_training import keep_slices
from torch import Tensor, nn

from prosma_core.config.model import ModelHeader
from prosma_core.config.training import AugmentConfig, LabelsConfig, TrainingConfig
from prosma_core.data.augment import augment_intensities
from prosma_core.data.frames import frames
from prosma_core.data.geometry import Scan, whole
from prosma_core.data.grid import gaussian_weight, padding_to
from prosma_core.data.labels import IGNORED, class_indices, read_annotation
from prosma_core.events import drain
from prosma_core.inference.grid_restore import RegionOfInterest, argmax_part
from prosma_core.inference.prepare import network_image, plan_scan
from prosma_core.inference.tiled import wanted_tiles
from prosma_core.io.bundle import find_model, load_bundle
from prosma_core.io.dataset_folder import DatasetFolder, open_dataset, read_case
from prosma_core.model.unet import UNet, model_from
from prosma_core.training.cases import PatchSampler, TrainingCase, prepare_case
from prosma_core.training.optimization import MovingAverage, SegmentationLoss, build_optimizer, learning_rate
from prosma_core.training.validate import dice_per_class

Pair = tuple[Scan, Scan]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Tuning:
    """How a model goes on learning."""

    steps: int = 60
    batch: int = 2
    rate: float = 3e-4
    distilled: float = 0.0
    """Weight of the cross-entropy to the start model's probabilities where nothing is annotated."""
    unlabeled: int = 0
    """Further scans of the same kind without annotation; a patch of one of them joins each step."""
    pull: float = 0.0
    """Share of the rate by which weights return to those of the start model at each step (L2-SP, decoupled)."""
    learns: str = "all"
    """What changes: all, norms (norms, biases and thresholds), or decoder (all but the encoder)."""
    bias: float = 0.0
    """Share of patches with a bias field."""
    dice: float = 1.0
    """Weight of the Dice loss beside the cross-entropy."""
    batch_dice: bool = True
    mixes: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    """Shares of the new weights in the mean with those of the start model that are measured."""


SETTINGS: dict[str, Tuning] = {
    "base": Tuning(),
    "rate 1e-3": Tuning(rate=1e-3),
    "rate 1e-4": Tuning(rate=1e-4),
    "rate 3e-5": Tuning(rate=3e-5),
    "20 steps": Tuning(steps=20),
    "120 steps": Tuning(steps=120),
    "240 steps, rate 1e-3": Tuning(steps=240, rate=1e-3),
    "distilled 0.3": Tuning(distilled=0.3),
    "distilled 1": Tuning(distilled=1.0),
    "distilled 3": Tuning(distilled=3.0),
    "distilled 10": Tuning(distilled=10.0),
    "distilled 1, 10 unlabeled scans": Tuning(distilled=1.0, unlabeled=10),
    "distilled 1, rate 1e-3": Tuning(distilled=1.0, rate=1e-3),
    "pull 30": Tuning(pull=30.0),
    "pull 100": Tuning(pull=100.0),
    "pull 300": Tuning(pull=300.0),
    "distilled 1, pull 100": Tuning(distilled=1.0, pull=100.0),
    "norms, rate 3e-3": Tuning(learns="norms", rate=3e-3),
    "norms, rate 1e-2": Tuning(learns="norms", rate=1e-2),
    "decoder": Tuning(learns="decoder"),
    "bias fields": Tuning(bias=0.3),
    "no Dice": Tuning(dice=0.0),
    "Dice patch by patch": Tuning(batch_dice=False),
    "rate 2e-3": Tuning(rate=2e-3),
    "rate 1e-3, bias fields": Tuning(rate=1e-3, bias=0.3),
    "distilled 1, rate 1e-3, bias fields": Tuning(distilled=1.0, rate=1e-3, bias=0.3),
    "distilled 3, rate 1e-3": Tuning(distilled=3.0, rate=1e-3),
    "distilled 3, rate 1e-3, bias fields": Tuning(distilled=3.0, rate=1e-3, bias=0.3),
    "distilled 10, rate 1e-3, bias fields": Tuning(distilled=10.0, rate=1e-3, bias=0.3),
}


def chosen(known: float) -> Tuning:
    """What the start model's Dice on the annotated slices asks for: the poorer it is, the more of it may go."""
    mix = 0.25 if known >= 0.85 else 0.5 if known >= 0.5 else 0.75
    return Tuning(rate=1e-3, bias=0.3, distilled=1.0 if known >= 0.5 else 0.0, mixes=(mix,))


def inverted(image: Scan, labels: Scan, rng: np.random.Generator) -> Pair:
    """A scan in which bright is dark, with some noise: another contrast altogether."""
    values = 1 - _unit_range(image) + rng.normal(0, 0.02, image.data.shape)
    return Scan(values.astype(np.float32), image.spec), labels


def folded(image: Scan, labels: Scan, rng: np.random.Generator) -> Pair:
    """A scan whose middle gray is dark, and what was darker or brighter is bright, with some noise."""
    values = np.abs(_unit_range(image) - 0.45) + rng.normal(0, 0.04, image.data.shape)
    return Scan(values.astype(np.float32), image.spec), labels


def _unit_range(image: Scan) -> NDArray[np.float64]:
    values = np.asarray(image.data, np.float64)
    low, high = np.percentile(values, [0.5, 99.5])
    clipped: NDArray[np.float64] = np.clip((values - low) / (high - low), 0, 1)
    return clipped


def unchanged(image: Scan, labels: Scan, rng: np.random.Generator) -> Pair:
    """A scan as it is."""
    return image, labels


TASKS: dict[str, tuple[str, Callable[[Scan, Scan, np.random.Generator], Pair]]] = {
    "scanner": ("shipped", other_scanner),
    "same": ("shipped", unchanged),
    "folded": ("shipped", folded),
    "scanner, before": ("before", other_scanner),
    "inverted": ("shipped", inverted),
}
"""Start model, and what happens to each scan."""


class Prepared:
    """Scans on the network's grid, cut into tiles once, to be segmented many times."""

    def __init__(self, pairs: Sequence[Pair], header: ModelHeader, device: torch.device) -> None:
        self.header, self.device = header, device
        self.tile = header.preprocess.tile
        self.weight = torch.from_numpy(gaussian_weight(self.tile)).to(device)
        self.parts: list[RegionOfInterest] = []
        self.labels, self.places, tiles = list[Tensor](), list[Any](), list[Tensor]()
        for image, labels in pairs:
            plan = plan_scan(image, header, None, None)
            values, _ = network_image(
                next(iter(frames(plan.scan, header.model.dims))), plan.part.grid, header.preprocess
            )
            grid = tuple(values.shape[1:])
            padding = padding_to(grid, self.tile)
            padded = F.pad(values, [p for pair in reversed(padding) for p in pair])
            wanted, _ = wanted_tiles(grid, self.tile, 0.5, whole(grid))
            tiles += [padded[(slice(None), *tile.slices)] for tile in wanted]
            inner = tuple(slice(before, before + n) for (before, _), n in zip(padding, grid, strict=True))
            self.places.append((tuple(padded.shape[1:]), [tile.slices for tile in wanted], inner))
            self.parts.append(plan.part)
            indices = class_indices(labels.data, header.classes, "a scan")
            self.labels.append(torch.from_numpy(np.ascontiguousarray(plan.part.grid.orient(indices))).to(device))
        self.tiles = torch.stack(tiles).to(device)

    @torch.no_grad()
    def logits(self, model: UNet) -> list[Tensor]:
        """Logits of each scan, shape (K, *network grid)."""
        amp = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=amp):
            found = iter(torch.cat([model(part) for part in self.tiles.split(32 if amp else 2)]).float())
        result = []
        for shape, places, inner in self.places:
            total = torch.zeros(self.header.model.num_classes, *shape, device=self.device)
            weights = torch.zeros(shape, device=self.device)
            for place in places:
                total[(slice(None), *place)] += next(found) * self.weight
                weights[place] += self.weight
            result.append((total / weights)[(slice(None), *inner)])
        return result

    def dice(self, model: UNet) -> float:
        """Mean Dice of scans and classes, on the scans' own grids."""
        classes = len(self.header.classes)
        scores = []
        for logits, part, labels in zip(self.logits(model), self.parts, self.labels, strict=True):
            found = torch.from_numpy(argmax_part(logits, part)).to(self.device)
            scores.append(dice_per_class(found, labels, classes))
        return float(np.mean(scores))


def annotated(
    pairs: Sequence[Pair], slices: Sequence[Sequence[int] | None], start: UNet, header: ModelHeader
) -> tuple[list[TrainingCase], float]:
    """Cases with annotated slices and the start model's probabilities as further channels; its Dice on these slices.

    Parameters
    ----------
    pairs : sequence of (Scan, Scan)
    slices : sequence
        Of each scan: numbers of its annotated slices; None for three that are evenly spaced, () for none.
    """
    device = next(start.parameters()).device
    cases, found = [], []
    config = LabelsConfig(zero="annotated_slices", slice_axis="z")
    for i, (logits, (image, labels), kept) in enumerate(
        zip(Prepared(pairs, header, device).logits(start), pairs, slices, strict=True)
    ):
        data = keep_slices(labels.data, 3) if kept is None else np.zeros_like(labels.data)
        for number in kept or ():
            data[number] = labels.data[number]
        shown = Scan(data if data.any() else labels.data, labels.spec)
        annotation = read_annotation(shown, config)
        preparing = prepare_case(f"scan {i}", image, annotation, header.preprocess, header.classes, seed=i)
        (case,) = drain(preparing, lambda _: None)
        soft = torch.cat([case.image.to(device), logits.softmax(0)])
        target = case.labels if data.any() else torch.full_like(case.labels, IGNORED)
        points = case.points if data.any() else []
        cases.append(replace(case, image=soft, labels=target.to(device), points=points))
        found.append((logits.argmax(0).flatten(), cases[-1].labels.flatten()))
    one, other = (torch.cat(parts) for parts in zip(*found, strict=True))
    return cases, float(np.mean(dice_per_class(one, other, len(header.classes))))


def tuned(
    start: UNet,
    cases: Sequence[TrainingCase],
    others: Sequence[TrainingCase],
    header: ModelHeader,
    how: Tuning,
    seed: int,
) -> dict[str, Tensor]:
    """Weights after fine-tuning.

    Parameters
    ----------
    start : UNet
    cases, others : sequence of TrainingCase
        Annotated scans, and those without annotation; as of `annotated`.
    header : ModelHeader
    how : Tuning
    seed : int
    """
    device = next(start.parameters()).device
    config = TrainingConfig(
        learning_rate=how.rate,
        ema_decay=0.98,
        dice_weight=how.dice,
        batch_dice=how.batch_dice,
        augment=AugmentConfig(mirror=header.mirror_axes, p_bias=how.bias),
    )
    model = copy.deepcopy(start).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(
            how.learns == "all"
            or (how.learns == "norms" and parameter.ndim <= 1)
            or (how.learns == "decoder" and not name.startswith("encoder."))
        )
    optimizer, average = build_optimizer(model, config), MovingAverage(model, config.ema_decay)
    loss_of = SegmentationLoss(config, masked=True)
    spacing = header.preprocess.spacing or (1.0,) * header.model.dims
    samplers = [
        PatchSampler(scans, header.preprocess.tile, spacing, config.foreground, config.augment)
        for scans in (cases, others)
        if scans
    ]
    rng, channels = torch.Generator().manual_seed(seed), header.model.in_channels
    for step in range(how.steps):
        share = step / how.steps
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, share)
        drawn = [s.draw(how.batch if i == 0 else 1, rng) for i, s in enumerate(samplers)]
        both, labels = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        images = augment_intensities(both[:, :channels], config.augment, rng)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model.forward_deep(images)
        loss = loss_of([z[: how.batch] for z in logits], labels[: how.batch])
        if how.distilled:
            loss = loss + how.distilled * distillation(logits[0].float(), both[:, channels:], labels)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        if how.pull:
            _pull(model, start, min(1.0, how.pull * learning_rate(config, share)))
        average.update(model)
    return average.weights


def distillation(logits: Tensor, probabilities: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy to probabilities, shape (B, K, *grid), where nothing is annotated; they are 0 outside of a scan."""
    counted = (labels[:, 0] == IGNORED) & (probabilities.sum(1) > 0.5)
    entropy = -(probabilities * logits.log_softmax(1)).sum(1)
    return (entropy * counted).sum() / counted.sum().clamp_min(1)


@torch.no_grad()
def _pull(model: nn.Module, start: nn.Module, share: float) -> None:
    torch._foreach_lerp_(list(model.parameters()), list(start.parameters()), share)


def mixed(start: Weights, after: Weights, share: float) -> dict[str, Tensor]:
    """Mean of two sets of weights, of the second the given share."""
    return {name: torch.lerp(value, after[name], share) for name, value in start.items()}


class Bench:
    """Data of one task and draw, and what is measured on them."""

    def __init__(
        self, folder: DatasetFolder, task: str, draw: int, models: Mapping[str, Path], device: str, part: int = 1
    ) -> None:
        which, change = TASKS[task]
        self.task, self.draw = task, draw
        self.header, weights = load_bundle(models[which])
        self.start = model_from(self.header.model, weights).to(device).eval()
        rng = np.random.default_rng(0)
        clean = [read_case(folder.cases[name]) for name in folder.splits["val"]]
        kind = torch.device(device)
        self.others = Prepared([change(*pair, rng) for pair in clean][::part], self.header, kind)
        self.clean = Prepared(clean[::part], self.header, kind)
        names = folder.splits["train"]
        pairs = [change(*read_case(folder.cases[name]), rng) for name in names[3 * draw : 3 * draw + 3]]
        slices = [None if draw == 0 else _some_slices(labels, rng) for _, labels in pairs]
        self.cases, self.known = annotated(pairs, slices, self.start, self.header)
        self.rng, self.change = rng, change
        self.spare = [folder.cases[name] for name in names[30:40]]
        self.before = self.others.dice(self.start), self.clean.dice(self.start)

    def run(self, name: str, how: Tuning) -> dict[str, Any]:
        """Fine-tune and measure: Dice before and after on annotated slices, other scans, and scans as they are."""
        began = time.monotonic()
        spare = [self.change(*read_case(case), self.rng) for case in self.spare[: how.unlabeled]]
        others = annotated(spare, [()] * len(spare), self.start, self.header)[0] if spare else []
        after = tuned(self.start, self.cases, others, self.header, how, self.draw)
        seconds = time.monotonic() - began
        model, start = copy.deepcopy(self.start), self.start.state_dict()
        measured = {}
        for share in how.mixes:
            model.load_state_dict(mixed(start, after, share))
            both = self.others, self.clean
            measured[f"{share:g}"] = [
                round(scans.dice(model), 4) for scans in both[: 2 if share in (0.5, 1) or len(how.mixes) == 1 else 1]
            ]
        return {
            "task": self.task,
            "draw": self.draw,
            "setting": name,
            "annotated_before": round(self.known, 4),
            "before": [round(value, 4) for value in self.before],
            "after": measured,
            "seconds": round(seconds, 1),
            "how": asdict(how),
        }


def _some_slices(labels: Scan, rng: np.random.Generator) -> list[int]:
    full = np.flatnonzero((labels.data > 0).any(axis=(1, 2)))
    return [int(i) for i in sorted(rng.choice(full, 3, replace=False))]


def work(options: argparse.Namespace, job: tuple[str, int, tuple[str, ...]]) -> None:
    """Measure some settings of one task and draw, each on a line of its own."""
    task, draw, names = job
    models = {"shipped": find_model(MODEL)} | ({"before": options.before} if options.before else {})
    bench = Bench(open_dataset(options.data), task, draw, models, options.device, options.part)
    for name in names:
        write_line(bench.run(name, SETTINGS.get(name) or chosen(bench.known)), options.out)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--before", type=Path, help="Model for the task that starts from it.")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, metavar="TASK", help=f"Of {', '.join(TASKS)}.")
    parser.add_argument("--settings", nargs="+", default=["chosen"], metavar="SETTING", choices=[*SETTINGS, "chosen"])
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--part", type=int, default=1, help="Measure only every n-th validation scan.")
    parser.add_argument("--per-job", type=int, default=6, help="Settings that one process measures on the same data.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="File that results are added to, one line each.")
    options = parser.parse_args()
    tasks = options.tasks or [task for task, (which, _) in TASKS.items() if which != "before" or options.before]
    count = -(-len(options.settings) // options.per_job)
    groups = [tuple(options.settings[i::count]) for i in range(count)]
    jobs = [(task, draw, group) for draw in options.draws for group in groups for task in tasks]
    in_parallel(work, options, jobs)


if __name__ == "__main__":
    main()
