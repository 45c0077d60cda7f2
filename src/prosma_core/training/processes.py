"""The processes of one training that torchrun starts: their shares of a batch, sums over all, and ending together."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from prosma_core.errors import BELOW, ConfigError, DatasetError, DeviceError, ProsmaError, Signaled, TrainingError
from prosma_core.inference.device import free_memory, memory_ended

LONGEST_WAIT = timedelta(days=7)
"""How long the others wait for the first process, which validates; one that has ended is noticed at once."""
SPREAD = 2_654_435_761
"""Distance of two processes' seeds, modulo 2**32, of which torch uses no more bits: no epoch's seed is another's."""
_REPORT = timedelta(seconds=10)
"""How long the others wait for the first process to report an error of theirs: its step may be slow."""
_STOPPED = "stopped by signal "
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Those by which a training is asked to stop: Ctrl+C, the end of a job, a closed terminal."""


class StopAsked(Signaled, KeyboardInterrupt):
    """A process of this training was asked to stop."""


class EndedElsewhereError(ProsmaError):
    """The training has ended, and another process says why."""


class Processes:
    """The processes that train one model together; this class is one process by itself.

    All of them hold the same weights. Each draws its share of a batch; sums of the loss, and gradients, are those of
    the whole batch. The first validates, writes and reports. Methods that say "all" are called by all at once.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and how many there are.
    """

    rank = 0
    size = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that validates, writes and reports."""
        return self.rank == 0

    def part(self, batch_size: int) -> int:
        """Patches of a batch that this process draws: where it cannot be divided equally, one more for the first."""
        return batch_size // self.size + (self.rank < batch_size % self.size)

    def seed(self, seed: int) -> int:
        """Seed of this process; the first has the one that is given."""
        return seed + self.rank * SPREAD

    def check_batch(self, batch_size: int) -> None:
        """Raise `ConfigError` unless each process has a patch of every batch."""
        if batch_size < self.size:
            msg = (
                f"A batch of {batch_size} cannot be divided among {self.size} processes. Start {batch_size} at most "
                "(--nproc-per-node), or train a new model with a larger training.batch_size."
            )
            raise ConfigError(msg)

    def summed(self, *parts: Sequence[Tensor]) -> list[list[Tensor]]:
        """Sums of tensors over all processes, with a gradient: that of this process's tensors."""
        return [list(part) for part in parts]

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Give parameters the sum of their gradients in all processes."""

    def agreed(self, *values: float) -> list[float]:
        """Values of the first process, for all; raises `StopAsked` in all where any was asked to stop."""
        return list(values)

    def shared(self, text: str) -> str:
        """Text of the first process, for all."""
        return text

    def free_memory(self, device: torch.device) -> int:
        """Bytes that each process can take on its device: the same number for all."""
        return free_memory(device)

    def check_same(self, text: str) -> None:
        """Raise `DatasetError` unless all have the same text, which describes what they are going to learn."""

    def check_stop(self) -> None:
        """Raise `StopAsked` where this process was asked to stop."""

    def choose_gpu(self) -> None:
        """Let ``cuda`` mean this process's own GPU."""

    def use(self, device: torch.device) -> None:
        """Exchange tensors of a device from here on; raises `DeviceError` where the processes cannot share it."""

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """What is done within is done by the first process before the others."""
        if not self.first:
            self.agreed()
        yield
        if self.first:
            self.agreed()


ALONE = Processes()
"""One process by itself."""


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes of this training: those that torchrun started, else this one by itself.

    Within, Ctrl+C, SIGTERM and SIGHUP end all of them in the same step. An error of one ends the others with the same
    words.

    Raises
    ------
    EndedElsewhereError
        In place of an error that the first process reports.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        yield ALONE
        return
    group = _Torchrun()
    with group.taking_signals():
        try:
            yield group
        except KeyboardInterrupt as stop:
            group.leave(f"{_STOPPED}{stop.number if isinstance(stop, StopAsked) else int(signal.SIGINT)}")
            if group.first:
                raise
            raise EndedElsewhereError("Stopped.") from None
        except Exception as error:
            if group.leave(str(error) or type(error).__name__):
                raise EndedElsewhereError(str(error)) from error
            raise
        group.close()


class _Torchrun(Processes):
    """The processes that torchrun started: gloo for words and waiting, gloo or NCCL for tensors."""

    def __init__(self) -> None:
        import torch.distributed as dist
        from torch.distributed.rendezvous import rendezvous

        self._dist = dist
        self._store, self.rank, self.size = next(rendezvous("env://", timeout=LONGEST_WAIT))
        self._local = int(os.environ.get("LOCAL_RANK", self.rank))
        self._here = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        self._asked: int | None = None  # the signal
        dist.init_process_group("gloo", store=self._store, rank=self.rank, world_size=self.size, timeout=LONGEST_WAIT)
        self._tensors: Any = None  # the group of NCCL, else that of gloo

    @contextmanager
    def taking_signals(self) -> Iterator[None]:
        """Remember within that a signal came, instead of ending at once."""

        def ask(number: int, _frame: object) -> None:
            self._asked = number

        main = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, ask) for number in SIGNALS if main}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def summed(self, *parts: Sequence[Tensor]) -> list[list[Tensor]]:
        flat = [value for part in parts for value in part]
        values = torch.cat([value.float().reshape(-1) for value in flat])
        total: Tensor = _Sum.apply(values, self)  # type: ignore[no-untyped-call]
        sums = iter(torch.split(total, [value.numel() for value in flat]))
        return [[next(sums).view(value.shape) for value in part] for part in parts]

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        values = torch.cat([g.reshape(-1) for g in gradients])
        self.add(values)
        sums = torch.split(values, [g.numel() for g in gradients])
        torch._foreach_copy_(gradients, [total.view_as(g) for total, g in zip(sums, gradients, strict=True)])

    def add(self, values: Tensor) -> None:
        """Put the sum over all processes into a tensor."""
        with self._talking():
            self._dist.all_reduce(values, group=self._tensors)

    def agreed(self, *values: float) -> list[float]:
        own = values if self.first else [0.0] * len(values)
        told = torch.tensor([*own, *(number == self._asked for number in SIGNALS)], dtype=torch.float64)
        with self._talking():
            self._dist.all_reduce(told)
        result: list[float] = told.tolist()
        for number, asked in zip(SIGNALS, result[len(values) :], strict=True):
            if asked:
                raise StopAsked(number)
        return result[: len(values)]

    def shared(self, text: str) -> str:
        content = bytearray(text.encode())
        (size,) = self.agreed(len(content))
        told = torch.frombuffer(content, dtype=torch.uint8) if self.first else torch.empty(int(size), dtype=torch.uint8)
        with self._talking():
            self._dist.broadcast(told, src=0)
        return told.numpy().tobytes().decode()

    def free_memory(self, device: torch.device) -> int:
        own = free_memory(device) // (1 if device.type == "cuda" else self._here)
        least = torch.tensor(own)
        with self._talking():
            self._dist.all_reduce(least, op=self._dist.ReduceOp.MIN)
        return int(least)

    def check_same(self, text: str) -> None:
        own = hashlib.sha256(text.encode()).hexdigest()
        if self.shared(own) != own:
            msg = (
                f"Process {self.rank} of this training found other data or settings than process 0. All need the same "
                "files, under the same paths, and the same packages."
            )
            raise DatasetError(msg)

    def check_stop(self) -> None:
        if self._asked is not None:
            raise StopAsked(self._asked)

    def choose_gpu(self) -> None:
        if self._local < torch.cuda.device_count():
            torch.cuda.set_device(self._local)

    def use(self, device: torch.device) -> None:
        if device.type == "cpu":
            return
        if device.type != "cuda":
            msg = f"Several processes cannot train on {device.type}. Choose --device cpu, or start without torchrun."
            raise DeviceError(msg)
        gpus = torch.cuda.device_count()
        if self._here > gpus:
            msg = (
                f"torchrun started {self._here} processes on this computer, where PyTorch finds {gpus} GPU"
                f"{'s' if gpus > 1 else ''}. Start one process for each (--nproc-per-node {gpus})."
            )
            raise DeviceError(msg)
        with self._talking():
            self._tensors = self._dist.new_group(backend="nccl")

    def leave(self, why: str) -> bool:
        """Tell the others why this process ends; whether the first one says the same."""
        with suppress(RuntimeError, ValueError):  # the others, or the store of torchrun, may be gone
            self._store.set(_key(self.rank), why)
            if self._tensors is None:  # whoever waits for this process goes on; NCCL might block
                self._dist.destroy_process_group()
            if not self.first and not why.startswith(_STOPPED):
                self._store.wait([_key(0)], _REPORT)
                return bool(self._store.get(_key(0)).decode() == why)
        return False

    def close(self) -> None:
        """End the exchange when all is done."""
        self._dist.destroy_process_group()

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Turn what is raised within, when another process has ended, into an error that says why it did."""
        try:
            yield
        except RuntimeError as error:
            if memory_ended(error):
                raise
            why = self._why()
            if why.startswith(_STOPPED):
                raise StopAsked(int(why.removeprefix(_STOPPED))) from error
            msg = why or (
                "Another process of this training has ended without a message: it was killed, or the system ran out "
                "of memory. Start again with --resume to continue after the last finished epoch."
            )
            raise TrainingError(*msg.split(BELOW)) from error

    def _why(self) -> str:
        """What another process said that has ended; empty where none did."""
        with suppress(RuntimeError):
            for rank in range(self.size):
                if rank != self.rank and self._store.check([_key(rank)]):
                    return str(self._store.get(_key(rank)).decode())
        return ""


def _key(rank: int) -> str:
    return f"prosma/{rank}/ended"


class _Sum(torch.autograd.Function):
    """Sum over all processes. Each has the same function of it: its gradient, in each, is that of the own values."""

    @staticmethod
    def forward(_ctx: Any, values: Tensor, group: _Torchrun) -> Tensor:
        total = values.clone()
        group.add(total)
        return total

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
