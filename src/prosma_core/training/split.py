"""Training and validation split: whole cases, or slices where there are few cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from prosma_core.config.training import RunConfig
from prosma_core.data.labels import Annotation
from prosma_core.data.slices import SliceStates
from prosma_core.data.stored_annotation import StoredAnnotation
from prosma_core.errors import ConfigError, DatasetError, TrainingError
from prosma_core.io.dataset_folder import Case, DatasetFolder
from prosma_core.io.notes import NO_INDEPENDENT_LABELS, made_by_model, noted_slices, read_notes
from prosma_core.printable import counted
from prosma_core.runs.run_state import FAVORS_START, NO_VALIDATION

VALIDATION_SHARE = 0.2
FEW_CASES = 4
"""With fewer cases, slices are held out instead of whole cases."""
FEW_SLICES = 4
"""With fewer annotated slices in all, nothing is held out."""

FEW_HELD_OUT = 5
"""With fewer scans or slices held out, the last weights are kept: the best ones on so few are best by chance."""

Kind = Literal["cases", "slices", "none held out"]
Part = Literal["train", "val"]


@dataclass(frozen=True)
class HeldOut:
    """Slices of one case: those validated on, and their neighbors, used for nothing because they look alike."""

    slices: tuple[int, ...]
    left_out: tuple[int, ...] = ()


@dataclass(frozen=True)
class Split:
    """Cases trained and validated on.

    Attributes
    ----------
    train, val : tuple of str
        Case names; where slices are held out, and where nothing is, a case is in both.
    kind : str
        What is held out.
    held : dict of HeldOut
        By case, where slices are held out.
    derived : tuple of str
        Validation cases whose labels are a model's result, corrected or not: no independent labels.
    corrected : tuple of str
        Validation cases whose labels were a model's result, of which edited slices alone are validated on.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    kind: Kind = "cases"
    held: dict[str, HeldOut] = field(default_factory=dict)
    derived: tuple[str, ...] = ()
    corrected: tuple[str, ...] = ()

    @property
    def held_out(self) -> int:
        """How many scans, or slices, are validated on and never trained on."""
        if self.kind == "cases":
            return len(self.val)
        return sum(len(held.slices) for held in self.held.values())

    @property
    def unit(self) -> Literal["case", "slice"]:
        """What is held out, or would be, in one word."""
        return "case" if self.kind == "cases" else "slice"

    @property
    def measured_on(self) -> str:
        """What is validated on, in words."""
        return {"cases": "validation scans", "slices": "held-out slices"}.get(self.kind, "training slices")

    def keep(self, validation_cases: int) -> Literal["best", "last"]:
        """Weights to keep: the last where each validation sees too little to choose any by.

        Parameters
        ----------
        validation_cases : int
            Most cases of a validation.
        """
        seen = min(self.held_out, validation_cases) if self.kind == "cases" else self.held_out
        return "last" if seen < FEW_HELD_OUT else "best"

    def part(self, key: Part, name: str, labels: Annotation | StoredAnnotation) -> Annotation | StoredAnnotation:
        """The labels of a case that may be seen in training, or those that are validated on."""
        if name not in self.held:
            own = labels.edited is not None and key == "val" and self.kind == "cases"
            return labels.only(labels.edited or ()) if own else labels
        held = self.held[name]
        shown = [i for i in held.slices if labels.edited is None or i in labels.edited]
        return labels.only(shown) if key == "val" else labels.without({*held.slices, *held.left_out})

    def as_json(self) -> dict[str, Any]:
        """Content of splits.json."""
        held = {n: {"slices": list(h.slices), "left_out": list(h.left_out)} for n, h in self.held.items()}
        plain: dict[str, Any] = {"train": list(self.train), "val": list(self.val)}
        if self.derived:
            plain |= {"derived": list(self.derived)}
        if self.corrected:
            plain |= {"corrected": list(self.corrected)}
        if self.words():
            plain |= {"words": self.words()}
        few = {"validation": self.kind, "held_out": held, "words": self.words()}
        return plain if self.kind == "cases" else {**plain, **few}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Split:
        """Split of a run folder's splits.json.

        Raises
        ------
        TrainingError
            It is not one.
        """
        try:
            held = {n: HeldOut(tuple(h["slices"]), tuple(h["left_out"])) for n, h in values.get("held_out", {}).items()}
            kind, derived = values.get("validation", "cases"), tuple(values.get("derived", ()))
            corrected = tuple(values.get("corrected", ()))
            return cls(tuple(values["train"]), tuple(values["val"]), kind, held, derived, corrected)
        except (KeyError, TypeError, AttributeError) as error:
            msg = f"The run folder's splits.json cannot be read ({error!r}). Start a new training (without --resume)."
            raise TrainingError(msg) from error

    def words(self) -> str:
        """What validation figures of this split mean; empty for whole cases with labels of their own."""
        return " ".join(filter(None, (self._kind_text(), self._derived_text(), self._corrected_text())))

    def _corrected_text(self) -> str:
        if not self.corrected or self.kind == "none held out":
            return ""
        return f"Of a model's result, edited slices alone are validated on. {FAVORS_START}"

    def _derived_text(self) -> str:
        if not self.derived or self.kind == "none held out":
            return ""
        which = "the" if len(self.derived) == len(self.val) else f"{len(self.derived)} of the {len(self.val)}"
        return (
            f"{NO_INDEPENDENT_LABELS}: in {which} validation cases they are a model's result, corrected or not. Dice "
            "measures agreement with that result; before and after are not compared."
        )

    def _kind_text(self) -> str:
        if self.kind == "cases":
            return ""
        if self.kind == "slices":
            count = self.held_out
            return (
                f"Validation: {counted(count, 'annotated slice')} of the same scans "
                f"{'is' if count == 1 else 'are'} held out; expect lower Dice on new scans."
            )
        return (
            f"{NO_VALIDATION}: the Dice shown is training Dice; expect lower Dice on new scans. Validation needs "
            f"{FEW_SLICES} annotated slices or {FEW_CASES} scans (of a model's result, edited ones)."
        )


def case_slices(case: Case, run: RunConfig) -> SliceStates | None:
    """Annotated slices of a case that the run gives, or that its label file notes; None where the labels alone say it.

    Of slices that the run gives, the number along the axis is not known yet (see `SliceStates.on`). Of a model's result
    they count as checked: what was edited in it cannot be told.
    """
    notes = read_notes(case.label)
    given = run.annotated_slices.get(case.name)
    if given is None:
        return noted_slices(notes)
    kept = tuple(sorted(set(given)))
    made = bool(made_by_model(notes))
    return SliceStates("", 0, checked=kept if made else (), edited=() if made else kept, only=True)


def all_slices(folder: DatasetFolder, run: RunConfig) -> dict[str, SliceStates]:
    """`case_slices` of the cases that have any.

    Raises
    ------
    ConfigError
        The run gives slices of a case that is not there.
    """
    if unknown := sorted(run.annotated_slices.keys() - folder.cases.keys()):
        there = ", ".join(sorted(folder.cases)[:5]) + (", …" if len(folder.cases) > 5 else "")
        msg = f"annotated_slices names {unknown[0]!r}, which is no case; the cases are {there}."
        raise ConfigError(msg)
    found = {name: case_slices(case, run) for name, case in folder.cases.items()}
    return {name: states for name, states in found.items() if states is not None}


def choose_cases(folder: DatasetFolder, seed: int, states: Mapping[str, SliceStates] | None = None) -> Split:
    """Training and validation cases: the folder's own, else a seeded draw of a fifth; all in both where there are few.

    Parameters
    ----------
    folder : DatasetFolder
    seed : int
    states : mapping, optional
        As of `draw_cases`. Of the folder's own validation cases, those that hold nothing to validate on are left out
        (see `leave_unjudged`).

    Raises
    ------
    DatasetError
        The folder's splits have no training or validation cases.
    """
    if folder.splits:
        train, val = folder.splits["train"], folder.splits.get("val", ())
        if not train or not val:
            msg = f"{folder.root / folder.splits_file} needs at least one case in 'train' and one in 'val'."
            raise DatasetError(msg)
        return leave_unjudged(check_split(folder, Split(tuple(train), tuple(val))), seed, states)
    return draw_cases(folder.cases, seed, states)


def draw_cases(cases: Iterable[str], seed: int, states: Mapping[str, SliceStates] | None = None) -> Split:
    """A seeded draw of a fifth of the cases that can be validated on; all in both parts where these are few.

    Parameters
    ----------
    cases : iterable of str
    seed : int
    states : mapping, optional
        Checked and edited slices of cases. Of models' results, those without any are left out, and only those with
        edited slices can be validated on: they are what a person corrected, so that most of them are trained on.
    """
    results = {name: each for name, each in (states or {}).items() if each.only}
    names = sorted(name for name in cases if name not in results or results[name].annotated) or sorted(cases)
    order = np.random.default_rng(seed).permutation(len(names))
    judged = [names[i] for i in order if names[i] not in unvalidated(states)]
    if len(judged) < FEW_CASES:
        return Split(tuple(names), tuple(names), "none held out")
    val = judged[: held_out_cases(len(judged))]
    return Split(tuple(sorted(set(names) - set(val))), tuple(sorted(val)))


def leave_unjudged(split: Split, seed: int, states: Mapping[str, SliceStates] | None = None) -> Split:
    """A split of whole cases without the validation cases that hold nothing to validate on; where none is left, a draw.

    Parameters
    ----------
    split : Split
    seed : int
        Of the draw, among the training cases.
    states : mapping, optional
        As of `draw_cases`.
    """
    val = tuple(name for name in split.val if name not in unvalidated(states))
    return replace(split, val=val) if val else draw_cases(split.train, seed, states)


def unjudged_words(given: Sequence[str], split: Split) -> str:
    """Message on validation cases that `leave_unjudged` took out of a split; empty where there are none."""
    left = [name for name in given if name not in split.val]
    if not left:
        return ""
    listed = ", ".join(left[:5]) + (", …" if len(left) > 5 else "")
    other = "" if len(left) < len(given) else " What is validated on is drawn from the other cases."
    return (
        f"Left out of validation, since no slice of a model's result was edited there: {listed}. They are not trained "
        f"on.{other}"
    )


def unvalidated(states: Mapping[str, SliceStates] | None) -> frozenset[str]:
    """Cases that hold nothing to validate on: a model's results without an edited slice that may be."""
    return frozenset(name for name, each in (states or {}).items() if each.only and not each.judges)


def keep_classes(
    split: Split,
    train: Mapping[str, Collection[int]],
    val: Mapping[str, Collection[int]],
    barred: Collection[str] = (),
) -> tuple[Split, tuple[str, ...]]:
    """A split of whole cases in which each class is in a training case, where that can be.

    Validation cases that alone hold a class are exchanged for training cases that hold none alone; where there is no
    such training case, they are trained on while another validation case is left.

    Parameters
    ----------
    split : Split
    train, val : mapping of str to collection of int
        Values of the classes that each case holds.
    barred : collection of str
        Training cases that cannot be validated on.

    Returns
    -------
    split : Split
    moved : tuple of str
        Cases that are trained on now.
    """
    values = {**train, **val}
    trained, validated, moved = list(split.train), list(split.val), []
    holding = Counter(value for name in trained for value in values.get(name, ()))  # training cases with each class
    for name in split.val:
        own = list(values.get(name, ()))
        if all(holding[value] for value in own):
            continue
        with_it = holding + Counter(own)
        free = sorted((t for t in trained if t not in barred), key=lambda t: not values.get(t))  # empty ones last
        spare = next((t for t in free if all(with_it[value] > 1 for value in values.get(t, ()))), None)
        if spare is None and len(validated) == 1:
            continue
        trained, holding = [*trained, name], with_it
        validated.remove(name)
        moved.append(name)
        if spare is not None:
            trained.remove(spare)
            validated.append(spare)
            holding = holding - Counter(list(values.get(spare, ())))
    if not moved:
        return split, ()
    return replace(split, train=tuple(sorted(trained)), val=tuple(sorted(validated))), tuple(moved)


def class_counts(
    split: Split, values: Mapping[str, Mapping[int, Sequence[int]]], validation: Mapping[str, Collection[int]]
) -> tuple[dict[int, int], dict[int, int]]:
    """Training and validation cases (slices where these are held out) that hold each class, by its value.

    Parameters
    ----------
    split : Split
    values : mapping
        Of each training case, the slices that hold each class, by its value.
    validation : mapping of str to collection of int
        Values of the classes that each validation case holds, where whole cases are held out.
    """
    train: Counter[int] = Counter()
    val: Counter[int] = Counter()
    for name, found in values.items():
        held = split.held.get(name, HeldOut(()))
        gone = {*held.slices, *held.left_out}
        for value, slices in found.items():
            train[value] += 1 if split.kind == "cases" else len(set(slices) - gone)
            val[value] += len(slices) if split.kind == "none held out" else len(set(slices) & set(held.slices))
    for each in validation.values():
        val.update(each)
    return dict(train), dict(val)


def held_out_cases(count: int) -> int:
    """Of so many cases, how many are validated on: all of them where whole cases are too few to hold one out."""
    return count if count < FEW_CASES else max(1, round(VALIDATION_SHARE * count))


def check_split(folder: DatasetFolder, split: Split) -> Split:
    """Check a split against its folder, and return it.

    Raises
    ------
    DatasetError
        A case is not in the folder, or in both training and validation although whole cases are held out.
    """
    missing = sorted({*split.train, *split.val} - folder.cases.keys())
    both = sorted(set(split.train) & set(split.val)) if split.kind == "cases" else []
    if missing or both:
        problem = f"{missing[0]!r} is not there" if missing else f"{both[0]!r} is in both train and val"
        msg = f"The splits of {folder.root} cannot be used: {problem}. Correct splits.json."
        raise DatasetError(msg)
    return split


def hold_out_slices(
    slices: Mapping[str, Sequence[int]],
    seed: int,
    values: Mapping[str, Mapping[int, Sequence[int]]] | None = None,
    beside: Mapping[str, Collection[int]] | None = None,
) -> Split:
    """Split of few cases by slices: about a fifth of each case's, side by side and away from its ends.

    Slices that alone hold a class are held out only where there is no other choice.

    Parameters
    ----------
    slices : mapping of str to sequence of int
        Annotated slices of each case that may be held out, ascending.
    seed : int
    values : mapping, optional
        Of each case, the slices that hold each class, by its value.
    beside : mapping, optional
        All annotated slices of cases of which not all may be held out.
    """
    names = tuple(slices)
    counts = {name: round(VALIDATION_SHARE * len(each)) for name, each in slices.items()}
    if sum(map(len, slices.values())) < FEW_SLICES:
        return Split(names, names, "none held out")
    if not any(counts.values()):
        counts[max(names, key=lambda name: len(slices[name]))] = 1
    rng = np.random.default_rng(seed)
    left: dict[int, set[tuple[str, int]]] = {}  # where each class can still be learned
    for name, each in (values or {}).items():
        for value, there in each.items():
            left.setdefault(value, set()).update((name, i) for i in there)
    held: dict[str, HeldOut] = {}
    for name, count in counts.items():
        if count:
            known = {*slices[name], *(beside or {}).get(name, ())}
            held[name] = _hold_out(slices[name], known, count, rng, partial(_loses_none, name, left))
            for learned in left.values():
                learned -= {(name, i) for i in (*held[name].slices, *held[name].left_out)}
    return Split(names, tuple(held), "slices", held)


def _hold_out(
    slices: Sequence[int], known: Collection[int], count: int, rng: np.random.Generator, fits: Callable[[HeldOut], bool]
) -> HeldOut:
    """So many slices side by side, at a drawn place; where that does not fit, at the nearest that does."""
    spare = len(slices) - count
    start = int(rng.integers(1, spare)) if spare > 1 else 0
    drawn = _held_from(slices, known, start, count)
    if fits(drawn):
        return drawn
    others = (_held_from(slices, known, i, count) for i in sorted(range(spare + 1), key=lambda i: abs(i - start)))
    return next((held for held in others if fits(held)), drawn)


def _held_from(slices: Sequence[int], known: Collection[int], start: int, count: int) -> HeldOut:
    chosen = tuple(slices[start : start + count])
    beside = tuple(sorted({i + step for i in chosen for step in (-1, 1)} & (set(known) - set(chosen))))
    enough = 3 * (len(known) - count - len(beside)) >= 2 * len(known)
    return HeldOut(chosen, beside if enough else ())


def _loses_none(name: str, left: Mapping[int, set[tuple[str, int]]], held: HeldOut) -> bool:
    """Whether each class that can be learned so far still can be without these slices of a case."""
    gone = {(name, i) for i in (*held.slices, *held.left_out)}
    return all(there - gone for there in left.values() if there)
