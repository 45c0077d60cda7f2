"""Connection to a Dask cluster: workers on this computer or those of a scheduler, checked before work begins."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import queue
import secrets
import time
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prosma_core.cluster.checks import Answer, Probe, answer, difference, marks, unreadable, versions_here
from prosma_core.cluster.jobs import THREADS, Job, Outcome, Sent, decode
from prosma_core.cluster.place import Place
from prosma_core.errors import ClusterError, MissingExtraError
from prosma_core.events import Event, StageStarted, Working
from prosma_core.io.atomic import make_folder, scratch_folder
from prosma_core.io.hardware import COMPUTING, usable_cores
from prosma_core.io.remote import RemotePath
from prosma_core.printable import counted

if TYPE_CHECKING:
    from distributed import Client, Future

PATIENCE = 10.0
"""Seconds in which a scheduler has to answer."""
WORKERS = 3
"""How often as long workers may take, which may just be starting."""
POLL_S = 0.3
"""Seconds between two events at most while jobs run, so that there is always a place to stop."""
STOP_S = 10.0
"""Seconds that workers get to leave what they compute, when it is stopped."""
ALONE_S = 10.0
"""Seconds without a worker after which this is told: one that was killed may be started again."""
MOST_PROBED = 200
"""Scans that each worker is asked to read a little of before work begins."""
K = TypeVar("K")


@contextmanager
def connect(place: Place, patience: float = PATIENCE) -> Iterator[Cluster]:
    """Connect to a scheduler, or start workers on this computer, which end with the statement.

    Raises
    ------
    MissingExtraError
        Dask distributed is not installed.
    ClusterError
        Nothing answers, or there is no worker.
    """
    try:
        import dask
        import distributed
    except ImportError as error:
        msg = "Computing on several workers needs Dask distributed: pip install 'napari-prosma[cluster]'"
        raise MissingExtraError(msg) from error
    for name in ("distributed", "tornado", "asyncio"):  # what goes wrong is told by our own errors
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.comm.timeouts.connect": f"{patience:g}s"}))
        address = place.address or stack.enter_context(_started(place.workers)).scheduler_address
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", distributed.versions.VersionMismatchWarning)  # told by `Cluster.check`
                client = distributed.Client(address, timeout=patience, set_as_default=False, name="prosma")
        except (OSError, ValueError, RuntimeError, TypeError, ImportError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            msg = f"No Dask scheduler answers at {address} ({reason}). Check the address, or start one: dask scheduler"
            raise ClusterError(msg) from error
        stack.callback(_close, client)
        try:
            client.wait_for_workers(1, timeout=WORKERS * patience)
        except TimeoutError as error:
            msg = f"The Dask scheduler at {address} has no workers. Start some: dask worker {address}"
            raise ClusterError(msg) from error
        yield Cluster(client, place)


@contextmanager
def _started(workers: int) -> Iterator[Any]:
    """Workers of our own, reached from this computer only."""
    import dask
    import psutil
    from distributed import LocalCluster

    cores = _cores_each(workers)
    threads = {f"{name}_NUM_THREADS": str(cores) for name in ("OMP", "MKL", "OPENBLAS")}
    with (
        dask.config.set(
            {
                "logging.distributed": "critical",
                "distributed.worker.profile.enabled": False,
                "distributed.worker.memory.pause": False,  # our jobs plan their memory; a pause would only hold them up
            }
        ),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # with None, the scheduler's pages are served to all computers
            scheduler_kwargs={"dashboard": False},
            memory_limit=psutil.virtual_memory().total // workers,
            env={**COMPUTING, **threads, THREADS: str(cores)},
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):
        yield cluster


def _cores_each(workers: int) -> int:
    return max(1, usable_cores() // workers)


def _close(client: Client) -> None:
    with suppress(Exception):  # of a scheduler that is gone
        client.close(timeout=2)


class Cluster:
    """Workers that compute jobs; see `connect`.

    Parameters
    ----------
    client : distributed.Client
    place : Place
    """

    def __init__(self, client: Client, place: Place) -> None:
        self.client, self.place = client, place
        self._workers, self._counted = 1, 0.0

    def count_workers(self) -> int:
        """How many workers there are now."""
        if time.monotonic() - self._counted > 1:
            with self._connected():
                self._workers = len(self.client.nthreads())
            self._counted = time.monotonic()
        return self._workers

    def check(self, folder: Path | None = None, scans: Sequence[Path] = ()) -> list[Answer]:
        """Ask each worker for its versions, and whether it sees the same files.

        Parameters
        ----------
        folder, scans
            As of `ask`.

        Raises
        ------
        ClusterError
            As of `ask`; or a worker does not see a scan, or does not see or cannot write the folder.
        """
        answers = self.ask(folder, scans)
        for said in answers:
            if said.problem:
                msg = (
                    f"The worker {said.place} {said.problem}. All computers need the scans and the folder for results "
                    "under the same paths, such as on a shared file system."
                )
                raise ClusterError(msg)
        return answers

    def ask(self, folder: Path | None = None, scans: Sequence[Path] = ()) -> list[Answer]:
        """What each worker says of its versions, and of files that it does not see.

        Parameters
        ----------
        folder : Path, optional
            For results; made where it is not there.
        scans : sequence of Path
            Each worker reads a little of them, of very many some.

        Raises
        ------
        ClusterError
            A worker has another version.
        """
        readable = [path for path in scans[:: max(1, len(scans) // MOST_PROBED)] if not unreadable((path,))]
        some = tuple(map(absolute, readable))  # what cannot be read here fails by itself
        with ExitStack() as stack:
            probe = Probe(scans=some, marks=marks(some))
            if folder is not None:
                make_folder(folder)
                token = secrets.token_hex(16)
                own = stack.enter_context(scratch_folder(folder))
                (own / "client").write_text(token, encoding="ascii")
                probe = replace(probe, folder=absolute(own), token=token)
            with self._connected():
                found: dict[str, Any] = self.client.run(answer, probe, on_error="return")
        ours, answers = versions_here(), []
        for address, said in sorted(found.items()):
            if not isinstance(said, Answer):
                msg = f"The worker {address} cannot run this program ({said}). Install the same there as here."
                raise ClusterError(msg)
            if differing := difference(ours, said.versions):
                msg = f"The worker {address} has other versions: {differing}. Install the same there as here."
                raise ClusterError(msg)
            answers.append(replace(said, place=f"{address} ({said.place})"))
        return answers

    def count_threads(self) -> int:
        """How many threads all workers compute with together."""
        if self.place.workers:
            return self.place.workers * _cores_each(self.place.workers)
        with self._connected():
            return sum(self.client.nthreads().values())

    def begin(self, folder: Path | None = None, files: Sequence[Path] = ()) -> Generator[Event, None, None]:
        """Check all workers, see `check`, and say how many there are."""
        yield Working("Checking the workers")
        answers = self.check(folder, files)
        how_many = f": {counted(len(answers), 'worker')}" if self.place.address else ""
        yield StageStarted(f"Computing on {self.place.text}{how_many}.")

    @contextmanager
    def with_model(self, path: Path, device: str) -> Iterator[Sent]:
        """Send a model file to all workers, those that come later included, for as long as the statement runs."""
        from prosma_core.cluster.worker import ModelFile

        content = path.read_bytes()
        sha256, topic = hashlib.sha256(content).hexdigest(), f"prosma-{secrets.token_hex(8)}"
        with self._connected():
            self.client.register_plugin(ModelFile(topic, content, own=not self.place.address))
        try:
            yield Sent(topic, sha256, device, versions_here())
        finally:
            with suppress(Exception):  # of a scheduler that is gone
                self.client.unregister_worker_plugin(topic)

    def work(
        self, jobs: Iterable[tuple[K, Job] | None], sent: Sent
    ) -> Generator[tuple[K, Event | Outcome] | None, None, None]:
        """Let workers do jobs, one at a time each; yields what they report and what becomes of them.

        Yields None now and then. A job is begun when a worker is free for it. One whose worker ended is begun again on
        another; where several ended with it, it has failed. What is running is stopped where this is closed.

        Parameters
        ----------
        jobs : iterable of (object, Job) or None
            What the job is called in what is yielded, and the job; None where one comes when another has ended.
        sent : Sent

        Raises
        ------
        ClusterError
            The connection to the scheduler was lost.
        """
        run = _Run(self, sent)
        try:
            yield from run.all(iter(jobs))
        finally:
            run.stop()

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except (OSError, TimeoutError) as error:
            raise self.lost() from error

    def lost(self) -> ClusterError:
        """Error of a connection that was lost."""
        where = self.place.address or "on this computer"
        return ClusterError(
            f"The connection to the Dask scheduler ({where}) was lost. Start it where it has ended, and run again."
        )


class _Run:
    """Jobs under way."""

    def __init__(self, cluster: Cluster, sent: Sent) -> None:
        self._cluster, self._sent = cluster, sent
        self._said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._running: dict[int, tuple[Any, Future[Any]]] = {}
        self._begun: set[int] = set()
        self._numbers = count()
        cluster.client.subscribe_topic(sent.topic, lambda event: self._said.put(event[1]))

    def all(self, jobs: Iterator[tuple[K, Job] | None]) -> Generator[tuple[K, Event | Outcome] | None, None, None]:
        """Do jobs; see `Cluster.work`."""
        more, had_workers = True, time.monotonic()
        while True:
            if self._cluster.count_workers():
                had_workers = time.monotonic()
            elif self._running and time.monotonic() - had_workers > ALONE_S:
                had_workers = math.inf  # said once
                name, _ = next(iter(self._running.values()))
                yield name, StageStarted("No worker is left; the work continues when one starts, or can be stopped.")
            while more and len(self._running) < max(1, self._cluster.count_workers()):
                try:
                    following = next(jobs)
                except StopIteration:
                    more = False
                    break
                if following is None:
                    break
                self._start(*following)
            if not self._running:
                return
            yield self._next()

    def _start(self, name: object, job: Job) -> None:
        from prosma_core.cluster.worker import run

        number = next(self._numbers)
        key = f"{self._sent.topic}-{number}"
        future = self._cluster.client.submit(run, job, number, self._sent, key=key, pure=False)
        self._running[number] = name, future
        future.add_done_callback(lambda _: self._said.put({"number": number, "kind": "done"}))

    def _next(self) -> tuple[Any, Event | Outcome] | None:
        try:
            said = self._said.get(timeout=POLL_S)
        except queue.Empty:
            return None
        number, kind = said.pop("number"), said["kind"]
        if kind == "began":
            self._begun.add(number)
        elif kind == "ended":
            self._begun.discard(number)
        elif number in self._running:
            name, future = self._running[number]
            if kind != "done":
                return name, decode(said)
            del self._running[number]
            return name, self._outcome(future)
        return None

    def _outcome(self, future: Future[Any]) -> Outcome:
        from distributed import KilledWorker

        if future.status != "finished":
            error = future.exception() if future.status == "error" else None
            if error is None:
                raise self._cluster.lost()
            if isinstance(error, KilledWorker):
                msg = (
                    f"{error.allowed_failures + 1} workers ended while they computed it, possibly as memory ran out. "
                    "Give workers more memory, or fewer of them to a computer."
                )
                return Outcome(error=ClusterError(msg))
            raise error
        with self._cluster._connected():
            outcome: Outcome | None = future.result()
        if outcome is None:  # the worker was told to close
            raise self._cluster.lost()
        return outcome

    def stop(self) -> None:
        """Stop what is running, and wait for workers to leave it."""
        client = self._cluster.client
        with suppress(Exception):  # of a scheduler that is gone
            if self._running and client.status == "running":
                client.cancel([future for _, future in self._running.values()])
                until = time.monotonic() + STOP_S
                while self._begun and time.monotonic() < until and client.status == "running":
                    self._next()
                if self._cluster.place.workers:  # which end with us: also what began just now is to end first
                    from prosma_core.cluster.worker import idle

                    client.run(idle, max(0.0, until - time.monotonic()))
            client.unsubscribe_topic(self._sent.topic)
        self._running.clear()


def absolute(path: Path) -> Path:
    """A path that means the same on other computers; links are kept."""
    if isinstance(path, RemotePath):
        return path
    return Path(os.path.abspath(path))  # noqa: PTH100


def working_text(running: dict[str, str]) -> Working:
    """What is under way, with how far it is."""
    return Working("Under way: " + ", ".join(f"{name} {how}".strip() for name, how in running.items()))
