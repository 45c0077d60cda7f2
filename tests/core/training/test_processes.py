"""Training with several processes: the step of the whole batch, and no process that waits for one that has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from prosma_core.config.training import TrainingConfig, load_run_yaml, resolve_run
from prosma_core.data.augment import augment_intensities
from prosma_core.data.labels import IGNORED
from prosma_core.errors import ConfigError
from prosma_core.runs.run_folder import RunFolder, resumed_settings
from prosma_core.training.cases import PatchSampler
from prosma_core.training.loop import train
from prosma_core.training.optimization import (
    SegmentationLoss,
    distillation_loss,
    distillation_sums,
    learning_rate,
    set_rate,
    sparsity_loss,
)
from prosma_core.training.prepare import prepare_run
from prosma_core.training.processes import ALONE, SPREAD, Processes
from prosma_core.training.split import Split
from prosma_core.training.trainer import Trainer

STEPS, BATCH, TARGET = 10, 3, 0.5
CPU = torch.device("cpu")
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="several GPUs are for Linux, which has NCCL")


def finished(job):
    """Result of a generator."""
    while True:
        try:
            next(job)
        except StopIteration as end:
            return end.value


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    for seed in range(3):
        image = np.random.default_rng(seed).integers(0, 100, (48, 48), np.uint8)
        labels = np.zeros_like(image)
        labels[10 : 30 + seed, 12:30] = 1
        Image.fromarray(image + 80 * labels).save(root / "images" / f"case{seed}.png")
        Image.fromarray(labels).save(root / "labels" / f"case{seed}.png")
    return root


def settings(data: Path, out: Path, **training):
    values = {
        "data": data,
        "out": out,
        "device": "cpu",
        "network": {"width": 4, "max_width": 8, "max_stages": 3},
        "preprocess": {"tile": [32, 32]},
        "training": {"epochs": 1, "steps": STEPS, "batch_size": BATCH, "ema_decay": 0.9, "removed_target": TARGET},
    }
    values["training"] |= training
    return values


@contextmanager
def torchrun(*arguments: object, log: Path, program: tuple[object, ...] = ("-m", "prosma_core.cli")):
    """A training by two processes; whatever is left of it is ended."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [*map(str, program), "train", *map(str, arguments)]
    with log.open("wb") as file:
        running = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=file, stderr=file)
        try:
            yield running
        finally:
            if running.poll() is None:
                for process in [*psutil.Process(running.pid).children(recursive=True), running]:
                    process.kill()
                running.wait()


def accumulated(run, state_of: RunFolder, epochs: range) -> Trainer:
    """One process that goes on from a state, and adds up the gradients of what two processes draw."""
    setup = finished(prepare_run(run, CPU, Split.from_json(state_of.read_splits())))
    trainer = Trainer(setup, CPU)
    trainer.resume()
    trainer.model.train()
    config, model = trainer.config, trainer.model
    for number in epochs:
        seed = config.seed * 1_000_003 + number
        rngs = [torch.Generator().manual_seed(seed + rank * SPREAD) for rank in range(2)]
        for step in range(config.steps):
            set_rate(trainer.optimizer, learning_rate(config, trainer.share(step)))
            trainer.optimizer.zero_grad()
            parts = []
            for rng, patches in zip(rngs, (2, 1), strict=True):
                images, labels = trainer.sampler.draw(patches, rng)
                share = patches / BATCH
                logits = model.forward_deep(augment_intensities(images, config.augment, rng))
                removed = [gate.estimate * share for gate in model.skip_gates]
                parts.append([*trainer.loss.sums(logits, labels, share), *removed])
            sums = [sum(values).detach().requires_grad_() for values in zip(*parts, strict=True)]
            split = len(sums) - len(model.skip_gates)
            (trainer.loss.of(sums[:split]) + sparsity_loss(sums[split:], TARGET)).backward()
            for own in parts:
                learned = [(value, total.grad) for value, total in zip(own, sums, strict=True) if value.requires_grad]
                torch.autograd.backward(*zip(*learned, strict=True))
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
            trainer.optimizer.step()
            trainer.average.update(model)
        trainer.progress.epoch = number
    return trainer


@pytest.mark.slow
@ON_LINUX
def test_two_processes_go_on_after_one_and_have_the_weights_of_one_that_accumulates(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    finished(train(resolve_run(settings(data, out))))
    folder, threads = RunFolder.beside(out), torch.get_num_threads()
    run = resolve_run(resumed_settings(folder, {}, more_epochs=2))
    torch.set_num_threads(1)
    try:
        one = accumulated(run, folder, range(2, 4))
    finally:
        torch.set_num_threads(threads)
    with torchrun("--resume", "--out", out, "--more-epochs", 2, log=tmp_path / "log") as running:
        assert running.wait(300) == 0, (tmp_path / "log").read_text()
    two = load_file(folder.state)
    for kind, weights in (("model", one.model.state_dict()), ("average", one.average.weights)):
        assert [name for name, value in weights.items() if not torch.equal(value, two[f"{kind}.{name}"])] == []
    said = (tmp_path / "log").read_text()
    assert "with 2 processes that divide each batch" in said
    assert said.count("epoch 3/3") == said.count("Run folder:") == 1  # the first process alone reports
    assert load_run_yaml(folder.run_yaml)["training"]["batch_size"] == BATCH


@pytest.mark.slow
@ON_LINUX
def test_a_killed_process_ends_the_other_and_one_process_goes_on(data: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "m.safetensors", tmp_path / "log"
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({**settings(data, out, epochs=1000, steps=2), "data": str(data), "out": str(out)}))
    folder = RunFolder.beside(out)
    with torchrun("--config", config, log=log) as running:
        end = time.monotonic() + 300
        while not folder.previous_state.is_file():
            assert running.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        workers = psutil.Process(running.pid).children(recursive=True)
        first = next(process for process in workers if process.environ().get("RANK") == "0")
        first.kill()
        assert running.wait(60) != 0
        assert psutil.wait_procs(workers, timeout=10)[1] == []
    assert "Another process of this training has ended without a message" in log.read_text()
    done = folder.epochs_done()
    result = finished(train(resolve_run(resumed_settings(folder, {}, more_epochs=1)), resume=True))
    assert result.header.training["epochs"] == done + 1


BROKEN = """
import os, time, torch
from prosma_core.cli.main import program
from prosma_core.training.cases import PatchSampler

draw, calls = PatchSampler.draw, []

def broken(sampler, *given):
    images, labels = draw(sampler, *given)
    calls.append(1)
    if os.environ["RANK"] == "1" and len(calls) == 3:
        {what}
    if os.environ["RANK"] == "0" and len(calls) == 3:
        time.sleep({slow})
    return images, labels

PatchSampler.draw = broken
program()
"""


@pytest.mark.slow
@ON_LINUX
@pytest.mark.parametrize(
    ("what", "slow", "words"),
    [
        ("raise torch.OutOfMemoryError('out of memory')", 0, "Memory of cpu ran out"),
        ("raise torch.OutOfMemoryError('out of memory')", 5, "Memory of cpu ran out"),
        ("images *= float('nan')", 0, "gradient norm nan in epoch 1, step 3"),
    ],
    ids=["memory", "memory while the first is slow", "nan"],
)
def test_what_goes_wrong_in_one_process_ends_all_with_one_message(
    data: Path, tmp_path: Path, what: str, slow: float, words: str
) -> None:
    config, log, script = tmp_path / "run.yaml", tmp_path / "log", tmp_path / "broken.py"
    values = settings(data, tmp_path / "m.safetensors", epochs=1000)
    config.write_text(yaml.safe_dump({**values, "data": str(data), "out": str(values["out"])}))
    script.write_text(BROKEN.format(what=what, slow=slow))
    with torchrun("--config", config, log=log, program=(script,)) as running:
        assert running.wait(300) != 0
    said = log.read_text()
    assert said.count(words) == 1, said
    assert "without a message" not in said
    assert "timed out" not in said


@pytest.mark.slow
@ON_LINUX
@pytest.mark.parametrize(("name", "words"), [("SIGTERM", "Stopped by SIGTERM."), ("SIGINT", "Stopped.")])
def test_a_signal_to_one_process_is_reported_by_its_name_with_how_to_continue(
    data: Path, tmp_path: Path, name: str, words: str
) -> None:
    config, log, out = tmp_path / "run.yaml", tmp_path / "log", tmp_path / "m.safetensors"
    config.write_text(yaml.safe_dump({**settings(data, out, epochs=1000), "data": str(data), "out": str(out)}))
    with torchrun("--config", config, log=log) as running:
        end = time.monotonic() + 300
        while not RunFolder.beside(out).state.is_file():
            assert running.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        workers = psutil.Process(running.pid).children(recursive=True)
        second = next(process for process in workers if process.environ().get("RANK") == "1")
        second.send_signal(getattr(signal, name))
        assert running.wait(120) != 0
    said = log.read_text().splitlines()
    assert words in said
    done = RunFolder.beside(out).epochs_done()
    (how,) = [line for line in said if "prosma train --resume" in line]
    assert how.startswith(f"Epoch {done} is kept.")


class Rank(Processes):
    """A process of two, which gets the sums of the other one."""

    def __init__(self, rank: int, others: list[torch.Tensor]) -> None:
        self.rank, self.size, self.others = rank, 2, others

    def summed(self, *parts):
        rest = iter(self.others)
        return [[value + next(rest).detach() for value in part] for part in parts]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_the_parts_of_a_batch_have_the_gradient_of_the_whole(masked: bool, batch_dice: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    levels = [torch.randn(BATCH, 3, n, n, generator=rng).requires_grad_() for n in (8, 4)]
    labels = torch.randint(3, (BATCH, 1, 8, 8), generator=rng)
    labels[:, :, :3] = IGNORED if masked else 0
    soft = torch.rand(BATCH, 3, 8, 8, generator=rng).softmax(1)
    loss_of = SegmentationLoss(TrainingConfig(batch_dice=batch_dice), masked=masked)

    def objective(rows: slice, group: Processes, share: float):
        logits = [level[rows] for level in levels]
        known = distillation_sums(logits[0], soft[rows], labels[rows], (0, 1, 2))
        own = loss_of.sums(logits, labels[rows], share), known
        sums, known = group.summed(*own)
        return [value for part in own for value in part], loss_of.of(sums) + distillation_loss(*known)

    _, whole = objective(slice(None), ALONE, 1)
    wanted = torch.autograd.grad(whole, levels)
    rows = [slice(0, 2), slice(2, 3)]
    sums = [objective(rows[rank], ALONE, share)[0] for rank, share in enumerate((2 / 3, 1 / 3))]
    found = []
    for rank, share in enumerate((2 / 3, 1 / 3)):
        _, part = objective(rows[rank], Rank(rank, sums[1 - rank]), share)
        torch.testing.assert_close(part, whole)
        found.append(torch.autograd.grad(part, levels))
    for a, b, both in zip(*found, wanted, strict=True):
        torch.testing.assert_close(a + b, both)


def test_each_process_has_its_share_and_patches_of_its_own(data: Path, tmp_path: Path) -> None:
    group = [Rank(rank, []) for rank in range(2)]
    assert [rank.part(BATCH) for rank in group] == [2, 1]
    assert (ALONE.part(BATCH), ALONE.seed(7), group[0].seed(7)) == (BATCH, 7, 7)
    run = resolve_run(settings(data, tmp_path / "m.safetensors", batch_size=None))
    setup = finished(prepare_run(run, CPU, None, group[0]))
    spacing, config = (1.0, 1.0), setup.run.training
    sampler = PatchSampler(setup.train, (32, 32), spacing, config.foreground, config.augment)
    drawn = [sampler.draw(1, torch.Generator().manual_seed(rank.seed(2**40)))[0] for rank in group]
    assert not torch.equal(*drawn)
    one = run.replace(training=run.training.replace(batch_size=1))
    with pytest.raises(ConfigError, match="A batch of 1 cannot be divided among 2 processes"):
        finished(prepare_run(one, CPU, None, group[0]))
