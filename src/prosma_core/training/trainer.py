"""Trainer of one run: network, average of weights, optimizer and progress, epoch by epoch."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from prosma_core.config.model import ModelHeader
from prosma_core.config.training import MOST_EPOCHS
from prosma_core.data.augment import augment_intensities
from prosma_core.errors import DivergedError
from prosma_core.events import CheckpointSaved, EpochDone, Event, InterimDone, StepDone, Working
from prosma_core.inference.device import free_memory
from prosma_core.io.bundle import save_bundle
from prosma_core.model.gate_hooks import estimate_removed
from prosma_core.model.unet import build_model
from prosma_core.model.weights import weights_of
from prosma_core.runs.run_folder import RunFolder, history_row
from prosma_core.training.cases import PatchSampler, TrainingCase
from prosma_core.training.checkpoint import Progress, check_finite_state, load_state, save_state
from prosma_core.training.cuda_graph import Graphed, compiled, graphed
from prosma_core.training.fine_tuning import Kept, mean_weights, start_probabilities
from prosma_core.training.live import LiveInput, PreviewClock, discard, first_answer, take_labels
from prosma_core.training.optimization import (
    MovingAverage,
    SegmentationLoss,
    build_optimizer,
    distillation_loss,
    distillation_sums,
    learning_rate,
    removed_fractions,
    set_rate,
    sparsity_loss,
)
from prosma_core.training.prepare import Setup
from prosma_core.training.processes import ALONE, Processes
from prosma_core.training.split import Part
from prosma_core.training.validate import (
    CasePicture,
    OnCase,
    Validation,
    in_words,
    training_summary,
    validate,
    validate_start,
)

FEW_VOXELS = 1_000_000
"""Voxels that are validated in the middle of an epoch."""
FIRST_EPOCH = 60.0
"""Seconds after which the first epoch of a run with a limit of minutes ends."""
FEW_STEPS = 5
"""Steps of the first epoch after which the time of a run by epochs is told."""
IN_FLIGHT = 3
"""Steps whose loss is not read yet: reading at once would make a GPU wait for every step."""


class Trainer:
    """State of one run: network, average, optimizer and progress."""

    def __init__(
        self,
        setup: Setup,
        device: torch.device,
        kept: Kept | None = None,
        live: LiveInput | None = None,
        group: Processes = ALONE,
    ) -> None:
        self.setup, self.device, self.kept, self.live, self.group = setup, device, kept, live, group
        self._clock: PreviewClock | None = None
        self.config = setup.run.training
        self.folder = RunFolder.beside(setup.run.out)
        self.model = build_model(setup.header.model, self.config.seed)
        if setup.pretrained is not None:
            self.model.load_pretrained(setup.pretrained)
        self.model.to(device)
        self.forward = compiled(self.model) if self.config.compile else self.model.forward_deep
        self.average = MovingAverage(self.model, self.config.ema_decay)
        self.start = {name: value.to(device) for name, value in kept.weights.items()} if kept else {}
        self.evaluated = build_model(setup.header.model).to(device)
        self.optimizer = build_optimizer(self.model, self.config)
        self.gradients = graphed(self.eager_gradients, self.config, device)
        self.progress = Progress()
        self._marks: deque[tuple[float, float]] = deque(maxlen=self.config.steps + 2)  # share, seconds, of an epoch
        self.before: dict[str, float] | None = None
        self.steps_done: int | None = None  # of the last epoch; None before one was trained here
        self.channels = setup.header.model.in_channels
        self._use_cases()
        if self.config.removed_target is not None:
            estimate_removed(self.model.skip_gates)

    def _use_cases(self) -> None:
        """Draw patches from the training cases, and validate on the validation cases, as they are now."""
        train, self.val = self.setup.train, self.setup.val
        pre = self.setup.header.preprocess
        spacing = pre.spacing or (1.0,) * pre.dims
        self.loss = SegmentationLoss(self.config, masked=any(case.masked for case in train))
        in_memory = all(case.stored is None for case in train)  # a batch comes from one device
        if self.device.type == "cuda" and in_memory and _size(train) < free_memory(self.device) // 3:
            train = [case.to(self.device) for case in train]
        self.picture = CasePicture(self.validation_subset(), spacing, self.setup.header.classes)
        self.sampler = PatchSampler(train, pre.tile, spacing, self.config.foreground, self.config.augment)

    def cases_of(self, part: Part, scan: str) -> list[TrainingCase]:
        """Frames of a scan that are trained or validated on."""
        return [case for case in (self.setup.train if part == "train" else self.setup.val) if case.scan == scan]

    def with_probabilities(self, cases: Sequence[TrainingCase]) -> Generator[Event, None, list[TrainingCase]]:
        """Frames with what the start model says of them, where that is learned, too."""
        known = {c.name: c.probabilities for c in self.setup.train if c.probabilities is not None}
        cases = [replace(c, probabilities=known.get(c.name)) if c.unknown else c for c in cases]
        if self.kept is None or not self.config.distillation:
            return cases
        return (yield from start_probabilities(self.setup, self.kept, cases, self.device))

    def take(self, scan: str, parts: Mapping[Part, Sequence[TrainingCase]]) -> Generator[Event, None, None]:
        """Put other frames of a scan, which have other labels, into the places of those before."""
        split = self.setup.split
        if "train" in parts:
            of = {name: parts["train"] if name == scan else self.cases_of("train", name) for name in split.train}
            self.setup = replace(self.setup, train=[case for cases in of.values() for case in cases])
        if "val" in parts:
            of = {name: parts["val"] if name == scan else self.cases_of("val", name) for name in split.val}
            self.setup = replace(self.setup, val=[case for cases in of.values() for case in cases])
        self._release_graph()  # it holds the loss of what is annotated, or not
        self._use_cases()
        self.progress.best_dice, self.progress.best_epoch = -1.0, 0  # of other labels: new ones reach the model
        if "val" not in parts:
            return
        start = (self.kept.header, self.kept.arrays) if self.kept is not None else self.setup.start
        if self.before is not None and start is not None:
            self.before = yield from validate_start(replace(self.setup, start=start), self.device)
            if self.before is None:
                self.folder.remove_before()
            else:
                self.folder.write_before_after(self.before)

    def learn_new_labels(self, step: int = 0, seconds: float = 0.0) -> Generator[Event, None, None]:
        """Learn labels that have changed, if any: the budget counts anew, and the learning rate is high again.

        Parameters
        ----------
        step, seconds
            Of the running epoch, as of `share`.
        """
        if self.live is None or not self.live.pending:
            return
        if not (yield from take_labels(self, self.live, self.progress.epoch + 1)):
            return
        p, config = self.progress, self.config
        kept = min(math.ceil(config.warmup * config.epochs), config.epochs - 1)  # what is warm is not warmed up again
        if self.share(step, seconds) > kept / config.epochs:
            each = 60 * config.minutes / config.epochs if config.minutes else p.elapsed / max(1, p.epoch)
            p.budget_epoch = max(p.budget_epoch, p.epoch - kept)
            p.budget_seconds = max(p.budget_seconds, p.elapsed + seconds - kept * each)
        if self._clock is not None:
            self._clock.new_labels()

    def resume(self) -> str:
        """Restore the run folder's state; what it continues, in words."""
        self.progress, note = load_state(self.folder, self.model, self.average, self.optimizer)
        spent = f", {self.progress.elapsed / 60:.1f} of {self.config.minutes:g} minutes" if self.config.minutes else ""
        done = "; nothing is left to train" if self.finished else ""
        of = f" of {self.epochs}" if self.config.epochs < MOST_EPOCHS else ""
        words = f"Resuming after epoch {self.progress.epoch}{of}{spent}{done}."
        return f"{words} {note}".strip()

    def share(self, step: int = 0, seconds: float = 0.0) -> float:
        """Share of the run that is done, by epochs or by time, whichever is further.

        Parameters
        ----------
        step : int
            Steps of the running epoch.
        seconds : float
            Time since it began.
        """
        p = self.progress
        epochs = p.epoch - p.budget_epoch + step / self.config.steps
        return self.config.share(epochs, p.elapsed - p.budget_seconds + seconds)

    @property
    def epochs(self) -> int:
        """The last epoch, as things are now."""
        return self.progress.budget_epoch + self.config.epochs

    @property
    def finished(self) -> bool:
        """Whether epochs, time or patience are used up."""
        p = self.progress
        done, best = p.epoch - p.budget_epoch, p.best_epoch and max(p.best_epoch - p.budget_epoch, 1)
        return self.config.finished(done, p.elapsed - p.budget_seconds, best)

    def epoch(self) -> Generator[Event, None, None]:
        """One epoch, its validation, and the state on disk."""
        number = self.progress.epoch + 1
        rng = torch.Generator().manual_seed(self.group.seed(self.config.seed * 1_000_003 + number))
        rate, losses = 0.0, []
        waiting: deque[tuple[int, torch.Tensor]] = deque()
        if self.live is not None and self._clock is None:
            self._clock = PreviewClock(self.live.asked)
        yield from self.learn_new_labels()
        self._seconds_left(0, 0.0)
        began = time.monotonic()  # what it takes to prepare new labels counts for nothing
        if self.live is not None and self.progress.epoch == 0 and self.live.wants_preview:
            yield from self._answer_first(self.live)
        self.model.train()
        yield Working(f"Training epoch {number}")
        for step in range(self.config.steps):
            share = self.share(step, time.monotonic() - began)
            enough = step > 0 and (share >= 1 or self._ends_early(number, time.monotonic() - began))
            share, ends = self.group.agreed(share, enough)  # clocks differ
            if ends:
                break
            rate = learning_rate(self.config, share)
            set_rate(self.optimizer, rate)
            waiting.append((step, self.step(rng)))
            if len(waiting) > (IN_FLIGHT if self.device.type == "cuda" else 0):
                losses.append(self._read(number, *waiting.popleft()))
                left = self._seconds_left(step + 1, time.monotonic() - began)
                yield StepDone(number, step + 1, self.config.steps, losses[-1], left, self.epochs)
            if self.live is not None:
                began += yield from self._between_steps(self.live, step + 1, time.monotonic() - began)
        losses += [self._read(number, *late) for late in waiting]
        self.steps_done = len(losses)
        self._check(number)  # before anything of this epoch takes the place of the one before
        self.progress.epoch = number
        if not self.group.first:
            self.progress = Progress.from_json(self.group.shared(""))
            return
        validation = None
        if number % self.config.validation_every == 0 or number == self.epochs:
            cases = self.validation_subset()
            validation = yield from in_words(
                self.validate(self.weights(), cases, self.picture.take), "Validating", len(cases)
            )
        event = self._close_epoch(began, sum(losses) / len(losses), rate, validation)
        if validation is not None:
            self.picture.write(self.folder.picture(number))
        self.group.shared(self.progress.as_json())
        shown = time.monotonic()
        yield event  # whoever stops here has everything of this epoch
        took = time.monotonic() - shown
        if self._clock is not None and validation is not None:
            self.progress.elapsed += took  # a preview counts: ten minutes are ten minutes
            self._clock.shown(took)
        yield CheckpointSaved(str(self.folder.state))

    def _ends_early(self, epoch: int, seconds: float) -> bool:
        """Whether the first epoch of a run by the clock takes long: whoever stops it soon has a model even so."""
        return epoch == 1 and self.config.minutes is not None and seconds >= FIRST_EPOCH

    def _seconds_left(self, step: int, seconds: float) -> float | None:
        """Time to the end of the run, as of `share`, at the pace of the last epoch; None while that is not known."""
        share, p, marks = self.share(step, seconds), self.progress, self._marks
        if marks and share < marks[-1][0]:  # the budget counts anew
            marks.clear()
        marks.append((share, p.elapsed + seconds))
        done, spent = share, p.elapsed - p.budget_seconds + seconds
        if len(marks) > FEW_STEPS and share > marks[0][0]:
            done, spent = share - marks[0][0], p.elapsed + seconds - marks[0][1]
        elif not share or not (self.config.minutes or p.epoch):
            return None
        return spent / done * max(0.0, 1 - share)

    def _between_steps(self, live: LiveInput, step: int, seconds: float) -> Generator[Event, None, float]:
        """Learn new labels, and show what was learned where it is time for that; seconds that count for nothing.

        These are the ones that it took to prepare new labels; previews count.
        """
        began, new = time.monotonic(), live.pending
        yield from self.learn_new_labels(step, seconds)
        prepared = time.monotonic() - began
        if new and live.answer is not None:
            yield from self._answer_first(live, step)
        if self._clock is not None and self._clock.due and live.wants_preview and step < self.config.steps:
            began_preview = time.monotonic()
            cases = self._few_cases()
            validation = yield from in_words(self.validate(self.weights(), cases), "Validating", len(cases))
            self.save_model(self.folder.interim, validation)
            words = self.setup.split.measured_on
            try:
                yield InterimDone(self.progress.epoch + 1, step, str(self.folder.interim), validation.mean, words)
            finally:
                discard([self.folder.interim])
            self._clock.shown(time.monotonic() - began_preview)
            new = True
        if new:
            yield Working(f"Training epoch {self.progress.epoch + 1}")
        return prepared

    def _answer_first(self, live: LiveInput, step: int = 0) -> Generator[Event, None, None]:
        """Fit the light model to the present labels, and show what it gives."""
        h = self.setup.header
        yield Working("Fitting a light model for a first answer")
        assert self.config.batch_size is not None
        voxels = self.config.steps * self.config.batch_size * math.prod(h.preprocess.tile)
        before = live.answer
        live.answer = first_answer(self.setup, self.device, epoch_voxels=voxels)
        if live.answer is not None:
            live.answer.until = before.until if before is not None else live.answer.until  # strokes prolong nothing
            light, tile, cases = live.answer.model, h.preprocess.tile, self._few_cases()
            work = validate(light, cases, tile, h.classes, self.device, amp=False)
            found = yield from in_words(work, "Validating the light model", len(cases))
            live.answer.dice = found.mean
            yield InterimDone(self.progress.epoch + 1, step, "", found.mean, self.setup.split.measured_on)

    def _few_cases(self) -> Sequence[TrainingCase]:
        """Cases that are validated in the middle of an epoch: as many as take a moment, at least one."""
        sizes = itertools.accumulate(case.labels.numel() for case in self.validation_subset())
        return self.validation_subset()[: max(1, sum(size <= FEW_VOXELS for size in sizes))]

    def step(self, rng: torch.Generator) -> torch.Tensor:
        """One optimizer step; gives [loss, gradient norm] without waiting for them."""
        assert self.config.batch_size is not None
        images, labels = self.sampler.draw(self.group.part(self.config.batch_size), rng)
        images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        images, probabilities = images[:, : self.channels], images[:, self.channels :]
        images = augment_intensities(images, self.config.augment, rng)
        loss = self.gradients(torch.cat([images, probabilities], 1) if probabilities.shape[1] else images, labels)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.average.update(self.model)
        return torch.stack([loss, norm])

    def eager_gradients(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Put the gradients of a batch into the parameters; gives the loss on what is annotated.

        Of several processes, each has its share of the batch; gradients and loss are those of all of it.
        """
        share = len(images) / self.config.batch_size if self.group.size > 1 and self.config.batch_size else 1.0
        images, probabilities = images[:, : self.channels], images[:, self.channels :]
        amp = self.config.amp and self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=amp):
            logits = self.forward(images)
        sums, removed, known = self.loss.sums(logits, labels, share), list[torch.Tensor](), list[torch.Tensor]()
        if self.config.removed_target is not None:
            removed = [value * share for value in removed_fractions(self.model.skip_gates)]
        if self.kept is not None and probabilities.shape[1] and self.config.distillation:
            known = distillation_sums(logits[0], probabilities, labels, self.kept.classes)
        sums, removed, known = self.group.summed(sums, removed, known)
        objective = loss = self.loss.of(sums)
        if removed and self.config.removed_target is not None:
            objective = loss + self.config.removed_weight * sparsity_loss(removed, self.config.removed_target)
        if known and self.config.distillation:
            objective = objective + self.config.distillation * distillation_loss(*known)
        self.optimizer.zero_grad(set_to_none=True)
        objective.backward()  # type: ignore[no-untyped-call]
        self.group.sum_gradients(self.model.parameters())
        return loss.detach()

    def _read(self, epoch: int, step: int, values: torch.Tensor) -> float:
        loss, norm = values.tolist()
        if loss - loss != 0 or norm - norm != 0:
            msg = (
                f"Loss {loss:g}, gradient norm {norm:g} in epoch {epoch}, step {step + 1}: training stopped. "
                f"{self._kept(epoch)}"
            )
            raise DivergedError(msg)
        return float(loss)

    def _check(self, epoch: int) -> None:
        """Raise `DivergedError` where the steps of an epoch left anything that is not finite."""
        try:
            check_finite_state(self.model, self.average, self.optimizer, self.progress)
        except DivergedError as error:
            msg = f"{error} at the end of epoch {epoch}: training stopped. {self._kept(epoch)}"
            raise DivergedError(msg) from error

    def _kept(self, epoch: int) -> str:
        """What to do after numbers that are not finite, and which epoch is kept."""
        words = "The learning rate is most likely too high. Start again with a lower one."
        if epoch == 1:
            return words
        kept = self.folder.progress()["epoch"]
        return (
            f"{words} Epoch {kept} is kept in {self.folder.root}: resume to continue from it (prosma train --resume)."
        )

    def validation_subset(self) -> Sequence[TrainingCase]:
        """Cases that are validated after an epoch."""
        count = self.config.validation_cases
        if len(self.val) <= count:
            return self.val
        return [self.val[i * len(self.val) // count] for i in range(count)]

    def weights(self) -> Mapping[str, torch.Tensor]:
        """The weights that count: their average, where there is one; of fine-tuning, the mean with the start's."""
        trained = self.average.weights if self.config.ema_decay else self.model.state_dict()
        share = self.config.trained_share
        return trained if share is None or not self.start else mean_weights(self.start, trained, share)

    def validate(
        self,
        weights: Mapping[str, torch.Tensor],
        cases: Sequence[TrainingCase],
        on_case: OnCase | None = None,
    ) -> Generator[Event, None, Validation]:
        """Validate weights on cases, as `validate` does; they stay loaded for `save_model`."""
        self._release_graph()
        self.evaluated.load_state_dict(weights)
        h = self.setup.header
        tile, amp = h.preprocess.tile, self.config.amp
        return (yield from validate(self.evaluated, cases, tile, h.classes, self.device, amp=amp, on_case=on_case))

    def _release_graph(self) -> None:
        """Give the memory of the CUDA graph back, where there is one: nothing else can use it."""
        if isinstance(self.gradients, Graphed):
            self.optimizer.zero_grad(set_to_none=True)
            self.gradients.release()

    def _close_epoch(self, began: float, loss: float, rate: float, validation: Validation | None) -> EpochDone:
        p = self.progress
        mean = validation.mean if validation is not None else None
        best = mean is not None and mean > p.best_dice
        if validation is not None and mean is not None and best:
            p.best_dice, p.best_epoch = mean, p.epoch
            self.save_model(self.folder.best, validation)
        if validation is not None:
            self.save_model(self.folder.last, validation)
        seconds = time.monotonic() - began
        p.elapsed += seconds
        event = EpochDone(
            epoch=p.epoch,
            epochs=self.epochs,
            loss=loss,
            learning_rate=rate,
            dice=validation.dice if validation else None,
            mean_dice=mean,
            levels=validation.levels if validation else (),
            best=best,
            seconds=seconds,
            seconds_left=self._seconds_left(0, 0.0),
            dice_on=self.setup.split.measured_on,
        )
        p.history.append(history_row(event))
        save_state(self.folder, self.model, self.average, self.optimizer, p)
        self.folder.write_history(p.history)
        return event

    def save_model(self, path: Path, validation: Validation) -> ModelHeader:
        """Write the weights that were validated last as a model file."""
        summary = training_summary(self.setup, self.progress.epoch, validation, self.before)
        header = self.setup.header.replace(training=summary)
        return save_bundle(path, header, weights_of(self.evaluated.state_dict()))


def _size(cases: Sequence[TrainingCase]) -> int:
    soft = sum(c.probabilities.nbytes for c in cases if c.probabilities is not None)
    return soft + sum(c.image_in_memory.nbytes + c.labels_in_memory.nbytes for c in cases)
