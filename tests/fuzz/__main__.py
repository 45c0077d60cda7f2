"""Damage files of every format, read them in a process of their own, and print a table of what came out.

``python3 run.py fuzz`` (5,000 cases), ``python3 run.py fuzz --count 500 --seed 3``, ``--only png,nii.gz``; one case
again with ``--only png --case 17``. Exit code 1 where a case is not acceptable: an error that is none of ours
(traceback), a process that died (crash) or took longer than 20 s (hang), voxels that changed without an error although
a checksum protects them or the format's own library reads others (silent), more than 256 MiB for a file under 1 MB
(memory), a message of more than 400 characters (long). The damaged files of these stay in the folder that is printed.

``--kills`` does something else, see `kills`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from check import Finding, check_against_peer, digest, read_and_compare
from mutate import mutate, mutate_folder
from seeds import BROKEN, SEEDS, case_rng, chunk_files, make_seeds, seed_of

LIMIT_SECONDS = 20.0
LIMIT_MEMORY = 256 << 20
SMALL_FILE = 1_000_000
FINDINGS = ("traceback", "crash", "hang", "silent", "memory", "long")


# --- The process that reads -----------------------------------------------------------------------------------------


class Worker:
    """Makes and reads one case after the other; lives in a process of its own."""

    def __init__(self, root: Path, seed: int) -> None:
        self.seed = seed
        self.originals: dict[str, list[Path]] = {}
        self.digests: dict[str, set[str]] = {}
        self.seeds_at, self.place = root / "seeds", root / f"case-{os.getpid()}"

    def prepare(self, name: str) -> int:
        """Find or make the valid files of a format and read each once; return how many there are."""
        if name not in self.originals:
            self.originals[name] = make_seeds(self.seeds_at / str(os.getpid()), [name])[name]
            read = seed_of(name).read
            self.digests[name] = {digest(read_and_compare(read, self._copy(p))[1]) for p in self.originals[name]}
        return len(self.originals[name])

    def run(self, name: str, index: int) -> dict[str, Any]:
        """Run one case; the answer has a verdict, and details where it is a finding."""
        if not self.prepare(name):
            return {"verdict": "skipped"}
        rng = case_rng(name, self.seed, index)
        chosen = self.originals[name][index % len(self.originals[name])]
        path = self._copy(chosen)
        if path.is_dir():
            mutate_folder(path, rng)
        else:
            others = [p.read_bytes() for p in rng.sample(self.originals[name], min(2, len(self.originals[name])))]
            path.write_bytes(mutate(path.read_bytes(), rng, others, text=seed_of(name).text))
        before, began = _peak_memory(reset=True), time.monotonic()
        try:
            verdict, arrays = read_and_compare(seed_of(name).read, path)
            answer: dict[str, Any] = {"verdict": verdict}
            if verdict == "read":
                self._compare(name, chosen, path, arrays)
        except Finding as finding:
            kind, _, detail = str(finding).partition(": ")
            answer = {"verdict": kind, "detail": detail}
        except Exception:  # noqa: BLE001  (the very thing that is looked for)
            answer = {"verdict": "traceback", "detail": traceback.format_exc()}
        answer |= {"seconds": time.monotonic() - began, "memory": max(0, _peak_memory() - before)}
        if answer["memory"] > LIMIT_MEMORY and _size(path) < SMALL_FILE and answer["verdict"] in {"read", "refused"}:
            answer |= {"verdict": "memory", "detail": f"{answer['memory'] >> 20} MiB for {_size(path)} bytes"}
        return answer

    def _compare(self, name: str, chosen: Path, path: Path, arrays: list[np.ndarray]) -> None:
        if digest(arrays) in self.digests[name]:
            return
        if self._only_protected_damage(name, chosen, path):
            raise Finding("silent: voxels changed although their checksum protects them")
        if seed_of(name).read == "image" and path.is_file():
            check_against_peer(path, arrays[0])

    def _only_protected_damage(self, name: str, chosen: Path, path: Path) -> bool:
        protected = seed_of(name).protected
        if protected is None:
            return False
        if path.is_dir():  # a chunk in another's place, or none at all, is legal zarr
            old = {f.relative_to(chosen): f.read_bytes() for f in chosen.rglob("*") if f.is_file()}
            new = {f.relative_to(path): f.read_bytes() for f in path.rglob("*") if f.is_file()}
            chunks = {f.relative_to(chosen) for f in chunk_files(chosen)}
            changed = {f for f in old if new.get(f) != old[f]}
            return (
                bool(changed)
                and changed <= chunks
                and changed <= set(new)
                and not any(new[f] in old.values() for f in changed)
            )
        old_bytes, new_bytes = chosen.read_bytes(), path.read_bytes()
        same = min(len(old_bytes), len(new_bytes))
        first = next((i for i in range(same) if old_bytes[i] != new_bytes[i]), same)
        return first in protected(old_bytes)

    def _copy(self, path: Path) -> Path:
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        target = self.place / path.name
        if path.is_dir():
            shutil.copytree(path, target)
        else:
            for beside in path.parent.glob(f"{path.stem}.*"):  # a header and its voxels
                shutil.copyfile(beside, self.place / beside.name)
        return target


def _size(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size


def _peak_memory(*, reset: bool = False) -> int:
    """Return the largest resident size since the last reset in bytes; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(text for text in status.read_text().splitlines() if text.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def serve(root: Path, seed: int) -> None:
    """Answer cases read from standard input, one JSON line each."""
    logging.disable(logging.CRITICAL)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a native library prints is no answer
    worker = Worker(root, seed)
    for line in sys.stdin:
        ask = json.loads(line)
        answer = {"count": worker.prepare(ask["name"])} if "index" not in ask else worker.run(ask["name"], ask["index"])
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


# --- The process that asks ------------------------------------------------------------------------------------------


@dataclass
class Row:
    """Sums of a format."""

    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    slowest: float = 0.0
    memory: int = 0


class Reader:
    """A worker process, started again whenever it died."""

    def __init__(self, root: Path, seed: int, log: TextIO) -> None:
        self._root, self._seed, self._log = root, seed, log
        self._process: subprocess.Popen[str] | None = None

    def ask(self, limit: float, **question: Any) -> dict[str, Any]:
        """Ask for one case; a process that died or takes too long is a finding."""
        if self._process is None:
            command = [
                sys.executable,
                str(Path(__file__).parent),
                "--worker",
                str(self._root),
                "--seed",
                str(self._seed),
            ]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        began = time.monotonic()
        late = threading.Timer(limit, process.kill)
        late.start()
        line = process.stdout.readline()
        late.cancel()
        if line:
            return dict(json.loads(line))
        code, self._process = process.wait(), None
        seconds = time.monotonic() - began
        verdict = "hang" if seconds >= limit else "crash"
        return {"verdict": verdict, "detail": f"exit code {code} after {seconds:.1f} s", "seconds": seconds}

    @property
    def case(self) -> Path:
        """Folder of the case that is read now."""
        return self._root / f"case-{self._process.pid}" if self._process else self._root

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def fuzz(names: list[str], given: argparse.Namespace) -> int:
    """Run cases of all formats in turn, print the table, and return how many are not acceptable."""
    count, seed, case, keep = given.count, given.seed, given.case, given.keep
    rows = {name: Row() for name in names}
    found: list[str] = []
    with tempfile.TemporaryDirectory(prefix="pf-") as folder, Path(folder, "log").open("w") as log:
        reader = Reader(Path(folder), seed, log)
        for number in range(count if case is None else len(names)):
            name = names[number % len(names)]
            index = number // len(names) if case is None else case
            answer = reader.ask(120.0, name=name)  # making the valid files may take longer than reading one
            place = reader.case
            if "count" in answer:
                answer = reader.ask(given.limit, name=name, index=index)
            _add(rows[name], answer)
            if answer["verdict"] in FINDINGS:
                kept = keep / f"{name}-{index}"
                shutil.rmtree(kept, ignore_errors=True)
                if place.is_dir():
                    shutil.copytree(place, kept)
                found.append(f"{name} --case {index}: {answer['verdict']}: {answer.get('detail', '').strip()}")
        reader.close()
    _print(rows, seed)
    for text in found:
        print(f"\n{text}")
    if found:
        print(f"\n{len(found)} of {count} cases are not acceptable; their files are in {keep}")
    return len(found)


def _add(row: Row, answer: dict[str, Any]) -> None:
    row.counts[answer["verdict"]] = row.counts.get(answer["verdict"], 0) + 1
    row.seconds += answer.get("seconds", 0.0)
    row.slowest = max(row.slowest, answer.get("seconds", 0.0))
    row.memory = max(row.memory, answer.get("memory", 0))


def _print(rows: dict[str, Row], seed: int) -> None:
    columns = ("read", "refused", *FINDINGS)
    print(f"{'format':<20}{'cases':>7}" + "".join(f"{c:>10}" for c in columns) + f"{'slowest':>10}{'memory':>10}")
    total = Row()
    for name, row in [*rows.items(), (f"all (seed {seed})", total)]:
        if row is not total:
            for verdict, number in row.counts.items():
                total.counts[verdict] = total.counts.get(verdict, 0) + number
            total.slowest, total.memory = max(total.slowest, row.slowest), max(total.memory, row.memory)
        counts = "".join(f"{row.counts.get(c, 0):>10}" for c in columns)
        print(f"{name:<20}{sum(row.counts.values()):>7}{counts}{row.slowest:>8.2f} s{row.memory >> 20:>6} MiB")


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="run.py fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=5000, help="how many damaged files, all formats together")
    parser.add_argument("--seed", type=int, default=0, help="another seed damages files in other ways")
    parser.add_argument("--only", default="", help=f"formats, separated by commas: {', '.join(SEEDS)}")
    parser.add_argument("--case", type=int, help="only this case of each format")
    keep = Path(tempfile.gettempdir()) / "prosma-fuzz"
    parser.add_argument("--keep", type=Path, default=keep, help=f"folder for the damaged files of findings ({keep})")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds that one file may take")
    kinds = "instead, kill a process at each file operation of each save; --only takes writers"
    parser.add_argument("--kills", action="store_true", help=kinds)
    parser.add_argument("--every", type=int, default=1, help="with --kills: a sample, every n-th operation")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        serve(given.worker, given.seed)
        return 0
    names = [name for name in given.only.split(",") if name]
    if given.kills:
        if not hasattr(os, "fork"):
            parser.error("--kills needs the signals and forks of POSIX")
        from kills import kills

        return 1 if kills(names, max(1, given.every)) else 0
    names = names or list(SEEDS)
    unknown = [name for name in names if name not in {*SEEDS, *BROKEN}]
    if unknown:
        parser.error(f"there is no format {', '.join(unknown)}; there are {', '.join(SEEDS)}")
    return 1 if fuzz(names, given) else 0


if __name__ == "__main__":
    sys.exit(main())
