"""Labels that change while a model is trained are learned at once and kept in the run; without any nothing changes."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from prosma_core.config.training import RunConfig
from prosma_core.data.geometry import array_spec
from prosma_core.data.slices import SliceStates
from prosma_core.engine import watching
from prosma_core.engine.client import Engine
from prosma_core.engine.handlers import serve_training
from prosma_core.engine.messages import Cancelled, LiveLabels, ScanRef, TrainRequest
from prosma_core.engine.serving import Inbox
from prosma_core.events import EpochDone, InterimDone, LabelsTaken, PreviewDone, StageStarted, StepDone, Working
from prosma_core.io.bundle import read_header
from prosma_core.io.images import read_labels, write_image, write_labels
from prosma_core.io.notes import slices_note
from prosma_core.runs.run_folder import RunFolder, resumed_settings
from prosma_core.runs.run_state import run_state
from prosma_core.training import live as live_training
from prosma_core.training import trainer
from prosma_core.training.live import PAUSED, PreviewClock
from prosma_core.training.loop import train

Begin = Callable[..., Any]
MakeRun = Callable[..., RunConfig]
Pairs = list[tuple[Path, Path]]


def new_labels(folder: RunFolder, number: int, values: np.ndarray) -> dict[Path, Path]:
    """Labels of a pair as they were painted by now, in a file beside those that the run has."""
    new = folder.root / "data" / f"new-{number}.tif"
    write_labels(new, values, array_spec(values.shape, "yx"), overwrite=True)
    return {folder.root / "data" / f"labels{number}.tif": new}


@pytest.fixture
def copied(make_run: MakeRun, pairs: Pairs) -> Callable[..., tuple[RunConfig, RunFolder, list[np.ndarray]]]:
    """Return a maker of runs with their own copies of the labels, in which all voxels are noise if wanted."""

    def make(name: str = "m", training: dict[str, Any] | None = None, *, noise: bool = False, count: int = 2) -> Any:
        out = make_run(name).out
        data = RunFolder.beside(out).root / "data"
        data.mkdir(parents=True)
        rng, true, own = np.random.default_rng(0), [], []
        for image, labels in pairs[:count]:
            true.append(np.asarray(read_labels(labels).data))
            own.append((image, data / labels.name))
            if noise:
                spec = array_spec((48, 48), "yx")
                write_labels(own[-1][1], rng.integers(0, 2, (48, 48)).astype(np.uint8), spec)
            else:
                shutil.copyfile(labels, own[-1][1])
        return make_run(name, training, pairs=own), RunFolder.beside(out), true

    return make


def events_of(run: RunConfig, live: Inbox, **how: Any) -> Iterator[Any]:
    return train(run, live=live, **how)


def test_true_labels_after_noise_are_learned_and_are_those_of_the_run(copied: Callable[..., Any]) -> None:
    run, folder, true = copied(training={"epochs": 8, "steps": 6}, noise=True)
    live, losses, taken = Inbox(lambda: None), {}, None
    for event in (work := events_of(run, live)):
        if isinstance(event, StepDone):
            losses.setdefault(event.epoch, []).append(event.loss)
            if (event.epoch, event.step) == (3, 3):
                changed = {k: v for i in (0, 1) for k, v in new_labels(folder, i, true[i]).items()}
                live.put(LiveLabels(live=1, changed={str(k): str(v) for k, v in changed.items()}, wait=False))
        elif isinstance(event, LabelsTaken):
            taken = event
    work.close()
    assert taken == LabelsTaken(3, ("scan0", "scan1"))
    assert max(losses) > 8  # the budget counts anew
    before, after = np.mean(losses[2]), np.mean(losses[max(losses)])
    assert before > 1.2  # noise cannot be learned
    assert after < 0.6 * before
    for i in (0, 1):
        np.testing.assert_array_equal(read_labels(folder.root / "data" / f"labels{i}.tif").data, true[i])
    assert sorted(path.name for path in (folder.root / "data").iterdir()) == ["labels0.tif", "labels1.tif"]
    assert run_state(folder).finished
    again = RunConfig.parse(resumed_settings(folder, {"out": str(run.out)}, more_epochs=1), "again")
    more = [event.epoch for event in train(again, resume=True) if isinstance(event, EpochDone)]
    assert more == [max(losses) + 1]


def test_labels_that_cannot_be_learned_are_left_out_in_words(copied: Callable[..., Any], pairs: Pairs) -> None:
    run, folder, true = copied(training={"epochs": 2, "steps": 2})
    own = folder.root / "data" / "labels0.tif"
    before = own.read_bytes()
    third = np.where(true[0] > 0, 3, 0).astype(np.uint8)  # a class that was painted meanwhile
    shutil.copyfile(pairs[0][1], folder.root / "data" / "foreign.tif")
    foreign = {pairs[3][1]: folder.root / "data" / "foreign.tif"}
    live, said, epochs = Inbox(lambda: None), [], []
    for event in events_of(run, live):
        if isinstance(event, StepDone) and (event.epoch, event.step) in {(1, 1), (2, 1)}:
            values = third if event.epoch == 1 else np.zeros((8, 8), np.uint8)
            for changed in (new_labels(folder, 0, values), foreign if event.epoch == 1 else {}):
                live.put(LiveLabels(live=1, changed={str(k): str(v) for k, v in changed.items()}, wait=False))
        elif isinstance(event, StageStarted) and "not learned" in event.message:
            said.append(event.message)
        elif isinstance(event, EpochDone):
            epochs.append(event.epoch)
    assert epochs == [1, 2]
    assert [message.partition(" are")[0] for message in said] == [
        "The new labels of scan0",
        "The new labels of labels3.tif",
        "The new labels of scan0",
    ]
    assert "hold [3], which are none of the classes [0, 1]" in said[0]
    assert "needs a new training" in said[0]
    assert "not a copy" in said[1]
    assert "grid" in said[2]
    assert own.read_bytes() == before
    np.testing.assert_array_equal(read_labels(pairs[3][1]).data.shape, (48, 48))
    assert sorted(path.name for path in (folder.root / "data").iterdir()) == ["labels0.tif", "labels1.tif"]


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (2, [(1, 2), (2, 2), (3, 3)]),  # one epoch of the two is spared: the network is warm
        (1, [(1, 1), (2, 2)]),  # never the only one
    ],
)
def test_a_training_that_waits_goes_on_with_new_labels_and_ends_when_nobody_waits(
    length: int, expected: list[tuple[int, int]], copied: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_training, "_LOOK", 0.01)
    run, folder, true = copied(training={"epochs": length, "steps": 2})
    live, paused, epochs = Inbox(lambda: None), 0, []
    live.put(LiveLabels(live=1, wait=True))
    for event in events_of(run, live):
        if isinstance(event, EpochDone):
            epochs.append((event.epoch, event.epochs))
        if event == Working(PAUSED):
            paused += 1
            changed = {str(k): str(v) for k, v in new_labels(folder, 0, true[1]).items()} if paused == 3 else {}
            live.put(LiveLabels(live=1, changed=changed, wait=paused < 8))
    assert epochs == expected
    assert paused == 8
    state = run_state(folder)
    assert (state.epochs_done, state.epochs, state.finished) == (*expected[-1], True)
    monkeypatch.setattr(live_training, "PATIENCE", 0.05)
    live.put(LiveLabels(live=1, wait=True))
    assert any(event == Working(PAUSED) for event in events_of(run, live, resume=True))  # and it ends


def test_files_that_are_gone_meanwhile_end_no_training(copied: Callable[..., Any], tmp_path: Path) -> None:
    run, folder, true = copied(training={"epochs": 2, "steps": 2})
    image = tmp_path / "scan1.tif"
    shutil.copyfile(run.pairs[1][0], image)
    run = run.replace(pairs=(run.pairs[0], (image, run.pairs[1][1])))
    live, said, taken = Inbox(lambda: None), [], []
    for event in events_of(run, live):
        if isinstance(event, StepDone) and (event.epoch, event.step) == (1, 1):
            image.rename(tmp_path / "elsewhere.tif")
            changed = {k: v for i in (0, 1) for k, v in new_labels(folder, i, np.roll(true[i], 1)).items()}
            live.put(LiveLabels(live=1, changed={str(k): str(v) for k, v in changed.items()}, wait=False))
        elif isinstance(event, StageStarted) and "not learned" in event.message:
            said.append(event.message)
        elif isinstance(event, LabelsTaken):
            taken.append(event.cases)
    assert taken == [("scan0",)]
    assert len(said) == 1
    assert "new labels of scan1 are not learned" in said[0]


def test_the_time_that_new_labels_take_to_prepare_is_no_training_time(
    copied: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder, true = copied(training={"epochs": 3, "steps": 2})
    live, seconds, slept = Inbox(lambda: None), {}, 0.0

    def slow(*given: Any) -> Any:
        nonlocal slept
        slept += 1000
        return (yield from take_labels(*given))

    take_labels = trainer.take_labels
    monkeypatch.setattr(trainer, "take_labels", slow)
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + slept))
    for event in events_of(run, live):
        if isinstance(event, EpochDone):
            seconds[event.epoch] = event.seconds
        if (isinstance(event, EpochDone) and event.epoch == 1) or (isinstance(event, StepDone) and event.epoch == 3):
            changed = {str(k): str(v) for k, v in new_labels(folder, 0, true[1]).items()}
            live.put(LiveLabels(live=1, changed=changed, wait=False))
    assert max(seconds.values()) < 1000
    assert slept >= 2000


def test_previews_count_among_the_minutes_and_come_seldom_where_they_would_hold_up_training(
    copied: Callable[..., Any], pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preview takes 2 seconds, a step one, and nothing else any."""
    run, _, _ = copied(training={"epochs": 1000, "steps": 2, "minutes": 0.5})
    spent, shown, epochs, percent = [0.0], [], [], 100
    clock = SimpleNamespace(monotonic=lambda: spent[0])
    for module in (trainer, live_training, watching):
        monkeypatch.setattr(module, "time", clock)
    live = Inbox(lambda: ScanRef(file=str(pairs[0][0])))
    for event in serve_training(TrainRequest(run=run), lambda _, shape, dtype: np.zeros(shape, dtype), live):
        if isinstance(event, Working) and (done := re.fullmatch(r"Preview of epoch \d+: (\d+) %", event.message)):
            spent[0] += 2.0 * (int(done[1]) <= percent)  # the first tile
            percent = int(done[1])
        elif isinstance(event, StepDone):
            spent[0] += 1.0
        elif isinstance(event, EpochDone):
            epochs.append(event)
        elif isinstance(event, PreviewDone):
            shown.append((event.epoch, spent[0]))
    assert spent[0] < 30 + 4  # with the last preview
    assert epochs[-1].seconds_left == 0
    assert shown[-1][0] == epochs[-1].epoch
    assert 2 <= len(shown) <= len(epochs) / 3
    assert sum(event.seconds for event in epochs) >= 0.75 * 30


def test_previews_in_the_middle_of_an_epoch_change_nothing(
    copied: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _, _ = copied("plain")
    expected = [event.loss for event in train(plain) if isinstance(event, StepDone)]
    monkeypatch.setattr(PreviewClock, "FIRST", 0.0)
    monkeypatch.setattr(PreviewClock, "ASKED", 0.0)
    run, folder, _ = copied("watched")
    watched = Inbox(lambda: ScanRef(file="scan.tif"))
    losses, interim = [], []
    for event in events_of(run, watched):
        if isinstance(event, StepDone):
            losses.append(event.loss)
        elif isinstance(event, InterimDone):
            interim.append((event.epoch, event.step, event.dice_on))
            assert event.mean_dice is not None
            assert read_header(Path(event.model)).training["validation"] == "none held out"
    assert interim == [(1, 1, "training slices")]  # the next one comes later
    assert losses == expected
    assert read_header(run.out).sha256 == read_header(plain.out).sha256
    assert not folder.interim.exists()


def test_a_light_model_answers_first_and_after_new_labels_until_the_network_is_ahead(
    copied: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _, _ = copied("plain")
    expected = [event.loss for event in train(plain) if isinstance(event, StepDone)]
    monkeypatch.setattr(live_training, "LONG", 0)
    run, folder, true = copied("watched")
    live, losses, answers, limits = Inbox(lambda: ScanRef(file="scan.tif")), [], [], []
    for event in events_of(run, live):
        if isinstance(event, StepDone):
            losses.append(event.loss)
            if len(losses) == 7:
                changed = {str(k): str(v) for k, v in new_labels(folder, 0, true[0][::-1].copy()).items()}
                live.put(LiveLabels(live=1, changed=changed, wait=False))
        elif isinstance(event, InterimDone):
            answers.append((event.model, live.answer.dice))
            limits.append(live.answer.until)
    assert [model for model, _ in answers] == ["", ""]
    assert limits[0] == limits[1]  # a person who goes on painting does not put off the network
    assert answers[0][1] > 0.8
    assert losses[:7] == expected[:7]
    assert live.answer.is_behind(0.95 * live.answer.dice)
    assert not live.answer.is_behind(0.5 * live.answer.dice)


def test_the_engine_shows_soon_what_becomes_of_new_labels(
    engine: Engine, begin: Begin, copied: Callable[..., Any], pairs: Pairs
) -> None:
    run, folder, true = copied(training={"epochs": 1000, "steps": 20}, noise=True)
    heard = begin(engine, TrainRequest(run=run, preview=ScanRef(file=str(pairs[0][0]))))
    first = heard.wait_for(PreviewDone)
    assert (first.epoch, first.dice_on) == (1, "training slices")
    assert first.mean_dice is not None
    changed = {k: v for i in (0, 1) for k, v in new_labels(folder, i, true[i]).items()}
    heard.job.learn(changed, wait=True)
    taken = heard.wait_for(LabelsTaken)
    assert taken.cases == ("scan0", "scan1")
    shown = heard.wait_for(PreviewDone, so=lambda event: event.epoch >= taken.epoch)
    assert shown.epoch <= taken.epoch + 1
    heard.job.learn(new_labels(folder, 0, true[1]), wait=True)
    heard.job.cancel()
    assert isinstance(heard.end(), Cancelled)
    heard.job.learn(new_labels(folder, 1, true[1]), wait=True)  # too late: nobody is there to take it


def test_a_scan_of_which_nothing_was_annotated_at_first_is_not_said_to_be_learned(copied: Callable[..., Any]) -> None:
    run, folder, true = copied(training={"epochs": 1, "steps": 2})
    own, notes = folder.root / "data" / "labels1.tif", {"program": "prosma", "model": "start"}
    spec, none = array_spec((48, 48), "yx"), SliceStates("", 1, only=True)
    write_labels(own, true[1], spec, overwrite=True, provenance=notes | slices_note(none))
    live, said = Inbox(lambda: None), []
    for event in events_of(run, live):
        if isinstance(event, StepDone) and event.step == 1:
            new = new_labels(folder, 1, true[1])
            edited = slices_note(SliceStates("", 1, edited=(0,), only=True))
            write_labels(new[own], true[1], spec, overwrite=True, provenance=notes | edited)
            live.put(LiveLabels(live=1, changed={str(k): str(v) for k, v in new.items()}, wait=False))
        elif isinstance(event, StageStarted) and "not learned" in event.message:
            said.append(event.message)
        assert not isinstance(event, LabelsTaken)
    assert "Train anew to use them" in "".join(said)


@pytest.mark.parametrize("part", ["train", "val"])
def test_new_labels_reach_a_model_that_is_the_best_and_those_of_a_held_out_scan_are_measured_on(
    part: str, copied: Callable[..., Any]
) -> None:
    still = {"epochs": 4, "steps": 2, "learning_rate": 1e-12, "keep": "best"}  # no epoch is better than the one before
    run, folder, true = copied(training=still, count=4)
    live, said, best, taken = Inbox(lambda: None), [], {}, []
    for event in events_of(run, live):
        if isinstance(event, StepDone) and (event.epoch, event.step) == (3, 1):
            name = folder.read_splits()[part][0]
            number = int(name.removeprefix("scan"))
            changed = new_labels(folder, number, np.roll(true[number], 3))
            live.put(LiveLabels(live=1, changed={str(k): str(v) for k, v in changed.items()}, wait=False))
        elif isinstance(event, StageStarted) and "held out" in event.message:
            said.append(event.message)
        elif isinstance(event, EpochDone):
            best[event.epoch] = event.best
        elif isinstance(event, LabelsTaken):
            taken.append(event.cases)
    assert [best[epoch] for epoch in (1, 2, 3)] == [True, False, True]
    np.testing.assert_array_equal(
        read_labels(folder.root / "data" / f"labels{number}.tif").data, np.roll(true[number], 3)
    )
    words = f"{name} is held out: its new labels are measured on, not learned."
    assert (taken, said) == (([(name,)], []) if part == "train" else ([], [words]))
    assert max(best) == (4 if part == "val" else 5)  # the budget counts anew where something is learned
    assert folder.progress()["best_epoch"] == 3
    assert run_state(folder).dice == folder.progress()["best_dice"]
    assert run_state(folder).finished


@pytest.mark.parametrize("count", [1, 2])
def test_a_held_out_slice_that_is_taken_back_keeps_no_other_paint_from_being_learned(
    count: int, make_run: MakeRun, tmp_path: Path
) -> None:
    out = make_run("m").out
    folder, spec = RunFolder.beside(out), array_spec((24, 32, 32), "zyx", (1.0, 1.0, 1.0), "mm")
    (data := folder.root / "data").mkdir(parents=True)
    values, pairs = np.zeros((24, 32, 32), np.uint8), []
    values[:, 8:20, 8:20] = 1
    slices = (4, 8, 12, 16, 20)
    some = np.where(np.isin(np.arange(24), slices)[:, None, None], values, 0).astype(np.uint8)
    for i in range(count):
        pairs.append((tmp_path / f"scan{i}.nii.gz", data / f"labels{i}.nii.gz"))
        write_image(pairs[i][0], values + np.random.default_rng(i).random(values.shape).astype(np.float32), spec)
        write_labels(pairs[i][1], some, spec)
    labels = {"zero": "annotated_slices"}
    run = make_run("m", {"epochs": 2, "steps": 2}, pairs=pairs, labels=labels, preprocess={"dims": 3, "tile": [16] * 3})
    live, said, taken = Inbox(lambda: None), [], []
    for event in events_of(run, live):
        if isinstance(event, StepDone) and (event.epoch, event.step) == (2, 1):
            (held,) = folder.read_splits()["held_out"]["scan0"]["slices"]
            changed = some.copy()
            changed[held], changed[22] = 0, values[22]
            write_labels(data / "new.nii.gz", changed, spec)
            new = {str(pairs[0][1]): str(data / "new.nii.gz")}
            live.put(LiveLabels(live=1, changed=new, wait=False))
        elif isinstance(event, StageStarted) and "held out (z" in event.message:
            said.append(event.message)
        elif isinstance(event, LabelsTaken):
            taken.append(event.cases)
    assert taken == [("scan0",)]
    what = "It is not measured on" if count == 2 else "It is measured on as it was"
    assert said == [
        f"scan0: nothing is annotated any more on what is held out (z {held}). {what}, the other slices are learned; "
        "paint there again to measure on it."
    ]
    assert read_header(out).training["validation"] == "slices"
    if count == 2:
        return
    again = RunConfig.parse(resumed_settings(folder, {"out": str(out)}, more_epochs=1), "again")
    said = [event.message for event in train(again, resume=True) if isinstance(event, StageStarted)]
    assert any("On the held-out slices nothing is annotated any more" in words for words in said)
    assert read_header(out).training["validation"] == "none held out"


def test_the_comparison_is_removed_where_nothing_is_compared_any_more(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_before_after({})
    assert folder.read_before() is None
    folder.remove_before()
    assert not folder.before_after.exists()


def test_a_scan_that_is_watched_while_a_training_waits_has_the_classes_of_its_last_epoch(
    copied: Callable[..., Any], pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_training, "_LOOK", 0.01)
    monkeypatch.setattr(PreviewClock, "SHARE", 1e9)  # previews hold up the training: but for new labels one is enough
    run, folder, true = copied(training={"epochs": 2, "steps": 2})
    watched = [ScanRef(file=str(image)) for image, _ in pairs[:2]]
    scan, paused, shown = watched[0], 0, []
    live = Inbox(lambda: scan)
    live.put(LiveLabels(live=1, wait=True))
    for event in serve_training(TrainRequest(run=run), lambda _, shape, dtype: np.zeros(shape, dtype), live):
        if isinstance(event, PreviewDone):
            shown.append((paused, event.epoch))
        elif event == Working(PAUSED):
            paused += 1
            scan = watched[4 <= paused < 7]  # another one
            live.put(LiveLabels(live=1, wait=paused < 10))
        elif paused == 4 and event == Working("Preview of epoch 2"):
            changed = {str(k): str(v) for k, v in new_labels(folder, 0, true[1]).items()}
            live.put(LiveLabels(live=1, changed=changed, wait=True))
    assert shown == [(0, 1), (1, 2), (4, 3), (7, 3)]  # once each; new labels go before a preview, and ask for theirs
