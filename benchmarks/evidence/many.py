"""Many runs, each in a process of its own, some side by side; what is measured already is left out."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evidence.experiment import Experiment
from evidence.runs import Result, Run, count_left, read_results, ready

STOPPED = 3
"""Exit code of a run that has to go on another time."""
LEAST_SECONDS = 30.0
"""With less time left, no further run is started."""
GRACE_SECONDS = 60.0
"""After its time a run is waited for this long; then it is ended, and loses its last epoch."""

Command = Callable[[Run, float | None], list[str]]
"""Command line of a run that has to stop at a time, if at one."""


@dataclass
class Many:
    """Runs under way.

    Attributes
    ----------
    experiments : sequence of Experiment
    rows : sequence of str
        Only these; all unless given.
    out, work : Path
        Folders of the JSON files; of models and logs.
    command : callable
    parallel : int
        Runs side by side.
    until : float or None
        When to stop, by `time.time`.
    gpus : sequence of str
        Names of GPUs, as of ``CUDA_VISIBLE_DEVICES``; a run gets the one that fewest have. None: torch's own choice.
    whole : bool
        Start no run that would not end in time, as far as runs like it tell: where a stopped run cannot go on.
    """

    experiments: Sequence[Experiment]
    rows: Sequence[str]
    out: Path
    work: Path
    command: Command
    parallel: int = 1
    until: float | None = None
    gpus: Sequence[str] = ()
    whole: bool = False
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    gpu_of: dict[str, str] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)

    def run(self) -> int:
        """Start what can be started, until all is measured or time is up; the number of runs that are left."""
        self.work.mkdir(parents=True, exist_ok=True)
        try:
            while self._start() or self.running:
                self._wait_for_one()
        finally:
            for process in self.running.values():
                process.terminate()
            for process in self.running.values():
                process.wait()
        results = read_results(self.out)
        return sum(count_left(experiment, results, self.rows) for experiment in self.experiments)

    def _start(self) -> bool:
        """Start runs as long as there is room; whether one was started."""
        started = False
        if self.until is not None and time.time() > self.until - LEAST_SECONDS:
            return started
        results = read_results(self.out)
        for run in (run for experiment in self.experiments for run in ready(experiment, results, self.rows)):
            if len(self.running) >= self.parallel:
                break
            if run.key in self.tried or (self.whole and self._too_long(run, results)):
                continue
            self.tried.add(run.key)
            with (self.work / f"{run.key}.log").open("ab") as log:
                self.running[run.key] = subprocess.Popen(
                    self.command(run, self.until), stdout=log, stderr=subprocess.STDOUT, env=self._environment(run.key)
                )
            started = True
        return started

    def _too_long(self, run: Run, results: Sequence[Result]) -> bool:
        """Whether the slowest run of the same row, or of any row if there is none, would not end in time from now."""
        alike = [r for r in results if (r["data"], r["phase"]) == (run.experiment.data, run.phase)]
        alike = [r for r in alike if r["row"] == run.row] or alike
        seconds = max((r["seconds"].get("this_session", 0.0) for r in alike), default=0.0)
        return self.until is not None and time.time() + seconds > self.until

    def _environment(self, key: str) -> dict[str, str]:
        """Environment of a run: it sees one GPU only, where some were named."""
        if not self.gpus:
            return dict(os.environ)
        taken = [self.gpu_of[other] for other in self.running]
        self.gpu_of[key] = min(self.gpus, key=taken.count)
        return os.environ | {"CUDA_VISIBLE_DEVICES": self.gpu_of[key]}

    def _wait_for_one(self) -> None:
        """Wait until a run has ended, and say how."""
        while not (ended := [key for key, process in self.running.items() if process.poll() is not None]):
            if self.until is not None and time.time() > self.until + GRACE_SECONDS:
                for process in self.running.values():
                    process.kill()
            time.sleep(0.1)
        for key in ended:
            code = self.running.pop(key).returncode
            words = {0: "measured", STOPPED: "stopped, goes on next time"}.get(code, f"FAILED ({code})")
            if code not in (0, STOPPED):
                self.failed.append(key)
                words += f": {self._last_line(key)}"
            print(f"{time.strftime('%H:%M:%S')} {key}: {words}", flush=True)

    def _last_line(self, key: str) -> str:
        lines = (self.work / f"{key}.log").read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "no output")
