"""Fine-tuning that does not forget: the mean with the start model's weights, and its own predictions as targets."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import ModelHeader
from prosma_core.config.training import TrainingConfig
from prosma_core.data.geometry import Box, box_slices
from prosma_core.data.labels import IGNORED
from prosma_core.errors import DivergedError, TrainingError
from prosma_core.events import Event, StageStarted, Working
from prosma_core.inference.tiled import TiledPredictor
from prosma_core.io.bundle import Weights, load_bundle, save_bundle
from prosma_core.model.unet import UNet, model_from
from prosma_core.model.weights import fitting
from prosma_core.printable import gib
from prosma_core.runs.run_folder import RunFolder
from prosma_core.training.case_logits import predict_case
from prosma_core.training.cases import TrainingCase
from prosma_core.training.prepare import Setup
from prosma_core.training.processes import ALONE, Processes
from prosma_core.training.stored_cases import StoredLabels
from prosma_core.training.validate import common_classes, in_words

GOOD, FAIR = 0.85, 0.5
"""Dice of the start model on the annotated voxels from which on it is corrected, and adapted."""


@dataclass(frozen=True, eq=False)
class Kept:
    """What fine-tuning keeps of the model that it starts from.

    Attributes
    ----------
    header, arrays
        The start model, as it is written into the run folder for a resume.
    weights : dict of str to Tensor
        Those that the new network has, too, on the CPU: they take part in the mean.
    classes : tuple of int
        New class of each of the start model's probabilities, the background first.
    """

    header: ModelHeader
    arrays: Weights
    weights: dict[str, Tensor]
    classes: tuple[int, ...]

    def write(self, folder: RunFolder) -> None:
        """Write the start model into a run folder; raises `OutputError` where that fails."""
        save_bundle(folder.start, self.header, self.arrays)


def choose_by(dice: float) -> tuple[float, float]:
    """Share of the trained weights, and weight of the distillation, for a start model of a Dice on annotated voxels."""
    if dice >= GOOD:
        return 0.25, 1.0
    return (0.5, 1.0) if dice >= FAIR else (0.75, 0.0)


def mean_weights(start: Mapping[str, Tensor], trained: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Mean of the trained weights, which have the given share, and the start's; those not of the start are as trained.

    Parameters
    ----------
    start, trained : mapping of str to Tensor
        On one device.
    share : float
        From 0, the start's weights to the bit, to 1, the trained ones.
    """
    return {name: torch.lerp(start[name], value, share) if name in start else value for name, value in trained.items()}


def keep_start(
    setup: Setup, device: torch.device, *, resume: bool, group: Processes = ALONE
) -> Generator[Event, None, tuple[Setup, Kept | None]]:
    """Choose what fine-tuning keeps of its start model, and compute its probabilities; yields after each tile.

    Parameters
    ----------
    setup : Setup
    device : torch.device
    resume : bool
        Take the start model of the run folder, and what was chosen.
    group : Processes
        Those that do this at the same time, and choose the same.

    Returns
    -------
    setup : Setup
        With what was chosen, and with probabilities in the training cases where they are wanted.
    kept : Kept or None
        None for a new model, and where nothing is kept.

    Raises
    ------
    ProsmaError
        The run folder has no start model any more, it gives NaN or infinity, or memory ended.
    """
    training = setup.run.training
    start = _stored(setup) if resume else setup.start
    if start is None or (training.trained_share == 1 and training.distillation == 0):
        return setup, None
    header, arrays = start
    common = {0: 0, **common_classes(header.classes, setup.header.classes)}
    classes = tuple(sorted(set(common.values())))
    comparable = header.model.in_channels == setup.header.model.in_channels and len(common) > 1
    same = (
        comparable
        and len(header.classes) == len(setup.header.classes) == len(common)
        and all(i == j for i, j in common.items())
    )
    dice, cases, words, edited = None, setup.train, "", False
    if comparable:
        if training.distillation != 0 and not resume:
            training, words = _fitting_memory(training, setup.train, len(classes), group)
        network = model_from(header.model, arrays).to(device)
        dice, edited, cases = yield from _predicted(setup, training, network, common, classes, device)
        if dice is not None:  # on GPUs it may differ in the last bits
            (dice,) = group.agreed(dice)
    chosen = _chosen(training, dice, same=same)
    if not chosen.distillation:
        cases = setup.train
    if not resume:
        soft = any(case.probabilities is not None for case in cases)
        where = "edited slices" if edited else "the annotated voxels"
        said = _words(setup.run.training, chosen, dice, where, soft=soft, same=same)
        yield StageStarted(f"{said} {words}".strip())
    with torch.device("meta"):
        network = UNet(setup.header.model)
    weights = fitting(network, arrays)
    if not same:  # the outputs are of other classes
        weights = {name: value for name, value in weights.items() if not name.startswith("heads.")}
    setup = replace(setup, run=setup.run.replace(training=chosen), train=cases)
    nothing = chosen.trained_share == 1 and not chosen.distillation
    return setup, None if nothing else Kept(header, arrays, weights, classes)


def _stored(setup: Setup) -> tuple[ModelHeader, Weights] | None:
    """Start model of a run that is resumed; None where nothing of it is kept."""
    training, folder = setup.run.training, RunFolder.beside(setup.run.out)
    if not setup.run.init or training.trained_share is None or training.distillation is None:
        return None  # a new model, or a run of an older version
    if training.trained_share == 1 and not training.distillation:
        return None
    if not folder.start.is_file():
        msg = (
            f"{folder.start} is missing: the model that this fine-tuning started from, a part of its result. Start "
            "a new training (without --resume)."
        )
        raise TrainingError(msg)
    return load_bundle(folder.start)


def _fitting_memory(
    training: TrainingConfig, cases: Sequence[TrainingCase], classes: int, group: Processes
) -> tuple[TrainingConfig, str]:
    """The settings without distillation where its probabilities take more than half of the free memory, and why."""
    if any(case.stored is not None and case.unknown for case in cases):
        return training.replace(distillation=0.0), (
            "The start model's predictions are not used where nothing is annotated: the scans are read by parts."
        )
    size = sum(2 * classes * case.labels.numel() for case in cases if case.unknown)
    free = group.free_memory(torch.device("cpu"))
    if size <= free // 2:
        return training, ""
    words = (
        f"The start model's predictions would take {gib(size)} of the {gib(free)} RAM that are free, so they are not "
        "used."
    )
    return training.replace(distillation=0.0), words


def _predicted(
    setup: Setup,
    training: TrainingConfig,
    network: UNet,
    common: Mapping[int, int],
    classes: Sequence[int],
    device: torch.device,
) -> Generator[Event, None, tuple[float | None, bool, list[TrainingCase]]]:
    """Dice of the start model on the annotated voxels, all cases together, and the cases with its probabilities.

    Slices of a model's result that were checked and not edited are its own output: they have no part in the Dice,
    unless no others hold a class. Cases without an ignored voxel, such as the annotated slices that a 2D model learns,
    need no probabilities; of them, as many are segmented as are validated after an epoch, and only where something is
    to be chosen by Dice and no other case is there.

    Returns
    -------
    dice : float or None
        None where nothing annotated holds a class that both models have.
    edited : bool
        Whether annotated voxels were left out of it.
    cases : list of TrainingCase
    """
    choose = training.trained_share is None or training.distillation is None
    cases = list(setup.train)
    wanted = [i for i, case in enumerate(cases) if case.unknown]
    if training.distillation == 0 or not wanted:
        most = training.validation_cases if choose else 0
        of = wanted or list(range(len(cases)))
        of = [i for i in of if _judges(cases[i])] or of
        wanted = [of[i * len(of) // most] for i in range(most)] if len(of) > most else list(of)
    if not wanted:
        return None, False, cases
    yield StageStarted("Segmenting the training cases with the start model.")
    predictor = _predictor(setup, network, device)
    # of all that is annotated, and of what may judge: twice the overlap, and both sizes
    counts = torch.zeros(2, 2, len(setup.header.classes), dtype=torch.int64)
    here = torch.zeros(2, len(setup.header.classes), dtype=torch.bool)
    for i in wanted:
        case, kept = cases[i], list[Tensor]()

        def take(box: Box, logits: Tensor, case: TrainingCase = case, kept: list[Tensor] = kept) -> None:
            if not bool(torch.isfinite(logits).all()):
                msg = f"The start model gives NaN or infinity on {case.name}. Start from another model."
                raise DivergedError(msg)
            meant = torch.tensor([common.get(k, 0) for k in range(len(logits))], device=logits.device)
            found, labels = meant[logits.argmax(0)], case.labels[box_slices(box)].to(logits.device).long()
            own = labels
            if case.judged is not None:
                judged = case.judged[box_slices(box)].to(labels.device)
                own = torch.where(judged if judged.dtype == torch.bool else judged != IGNORED, labels, IGNORED)
            for which, known in enumerate((labels, own)):
                for k in classes[1:]:
                    p, r = (found == k) & (known != IGNORED), known == k
                    counts[which, :, k] += torch.tensor([2 * int((p & r).sum()), int(p.sum()) + int(r.sum())])
                    here[which, k] |= bool(r.any())
            kept.append(logits)
            del kept[:-1]

        yield from in_words(predict_case(case, predictor, device, take), f"Segmenting {case.name}")
        if cases[i].unknown and training.distillation != 0:
            cases[i] = replace(case, probabilities=_known(kept[0], common, classes))
        yield Working(f"Segmented {case.name}")
    edited = any(cases[i].judged is not None for i in wanted) and bool(here[1].any())
    twice, sizes = counts[int(edited)]
    scores = (twice / sizes.clamp_min(1))[here[int(edited)]]
    return (float(scores.mean()) if len(scores) else None), edited, cases


def _judges(case: TrainingCase) -> bool:
    """Whether a start model may be judged by any voxel of a case."""
    return case.judged is None or isinstance(case.judged, StoredLabels) or bool(case.judged.any())


def start_probabilities(
    setup: Setup, kept: Kept, cases: Sequence[TrainingCase], device: torch.device
) -> Generator[Event, None, list[TrainingCase]]:
    """Cases with the start model's probabilities, as far as they need and lack them; yields after each tile."""
    common = {0: 0, **common_classes(kept.header.classes, setup.header.classes)}
    predictor, found = None, list(cases)
    for i, case in enumerate(cases):
        if not case.unknown or case.probabilities is not None:
            continue
        if predictor is None:
            predictor = _predictor(setup, model_from(kept.header.model, kept.arrays).to(device), device)
        logits = yield from predictor.predict(case.image_in_memory, device)
        found[i] = replace(case, probabilities=_known(logits, common, kept.classes))
    return found


def _predictor(setup: Setup, network: UNet, device: torch.device) -> TiledPredictor:
    cuda = device.type == "cuda"
    return TiledPredictor(
        network,
        setup.header.preprocess.tile,
        device,
        overlap=InferenceConfig().overlap,
        batch_size=4 if cuda else 1,
        amp=setup.run.training.amp and cuda,
    )


def _known(logits: Tensor, common: Mapping[int, int], classes: Sequence[int]) -> Tensor:
    """Probabilities of the new classes, from logits of the start model's."""
    soft, sources = logits.softmax(0), list(common)
    to = torch.tensor([classes.index(common[k]) for k in sources], device=soft.device)
    return soft.new_zeros(len(classes), *soft.shape[1:]).index_add_(0, to, soft[sources]).half().cpu()


def _chosen(training: TrainingConfig, dice: float | None, *, same: bool) -> TrainingConfig:
    """The settings with what was left to the Dice of the start model."""
    share, weight = (1.0, 0.0) if dice is None else choose_by(dice)
    return training.replace(
        trained_share=(share if same else 1.0) if training.trained_share is None else training.trained_share,
        distillation=weight if training.distillation is None else training.distillation,
    )


def _words(
    given: TrainingConfig, chosen: TrainingConfig, dice: float | None, where: str, *, soft: bool, same: bool
) -> str:
    """What is kept of the start model, and why."""
    assert chosen.trained_share is not None
    what = _kept_words(chosen.trained_share, soft=soft)
    if given.trained_share is not None and (dice is None or given.distillation is not None):
        return f"As set, the model has {what}."
    if dice is None:
        return f"The start model has no Dice on {where}: {what}."
    found = f"The start model has Dice {dice:.2f} on {where}"
    if given.trained_share is not None:
        return f"{found}; as set, the model has {what}."
    if not same:
        return f"{found}, and other classes: {what}."
    how = "corrected carefully" if dice >= GOOD else "adapted" if dice >= FAIR else "retrained"
    return f"{found}: it is {how} ({what})."


def _kept_words(share: float, *, soft: bool) -> str:
    names = {0.25: "a quarter", 0.5: "half", 0.75: "three quarters", 1.0: "all", 0.0: "none"}
    part = f"{names.get(share, f'{share:.0%}')} of the trained weights"
    return f"{part}, and its own predictions where nothing is annotated" if soft else part
