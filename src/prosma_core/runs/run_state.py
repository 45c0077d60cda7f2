"""State of a training run as its folder says, its lock, and the model of a run that was stopped. No torch."""

from __future__ import annotations

import contextlib
import csv
import errno
import getpass
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from prosma_core.config.documents import load_json
from prosma_core.config.training import RunConfig, load_run_yaml
from prosma_core.errors import RunLockedError, TrainingError
from prosma_core.io.atomic import cannot_write, write_bytes_atomic
from prosma_core.io.bundle import read_header
from prosma_core.runs.run_folder import RunFolder

LOCK_NAME = "in-use.lock"
_PLACE = 1 << 30
"""Byte of the file that is locked on Windows, where a locked byte cannot be read by others: one behind the content."""
_UNSUPPORTED = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}
_TRIES = 20
_SETTLE = 0.1
"""Seconds after which two processes that wrote at once, where the file system has no locks, see who was last."""


@dataclass(frozen=True)
class Holder:
    """The process that trains into a folder.

    Attributes
    ----------
    pid : int
    host : str
    boot : str
        Names this start of the machine, so that containers on one machine know each other; empty where unknown.
    created : float
        When the process began, as the system counts it: another process may have its id later.
    user : str
    began : str
        When the training began, local time.
    key : str
        Of this training alone.
    """

    pid: int
    host: str
    boot: str
    created: float
    user: str
    began: str
    key: str

    def words(self) -> str:
        """Who it is."""
        return f"process {self.pid} of {self.user} on {self.host}, since {self.began}"


@contextmanager
def run_lock(folder: RunFolder) -> Iterator[None]:
    """Hold a run folder, which is made where it is not there; a lock of a process that has ended is replaced.

    The operating system's lock decides where the file system has one, else what the file says.

    Raises
    ------
    RunLockedError
        Another process holds it; the text says which.
    OutputError
        The folder cannot be written.
    """
    path = folder.root / LOCK_NAME
    new = not folder.root.exists()
    try:
        file = _take(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                file.close()  # an open file cannot be removed there
            path.unlink(missing_ok=True)
            if new:
                folder.root.rmdir()  # only where the run has written nothing
        file.close()


def holder(folder: RunFolder) -> Holder | None:
    """The process that trains into a folder now, None where none does. Only reads."""
    path = folder.root / LOCK_NAME
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            found = _read(path)
            if found is not None and _lock(file, shared=True) is True:
                return found if _on_another_machine(found) else None
            return found if found is not None and not _has_ended(found) else None
    except OSError:
        return None


def _take(path: Path) -> IO[bytes]:
    """The lock file, locked and with our name in it."""
    ours = _ourselves()
    for _ in range(_TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file, taken = _open(path), False
        except FileNotFoundError:  # the folder was removed by another that has written nothing
            continue
        try:
            locked = _lock(file)
            if _is_free(path, file, locked):
                file.truncate(0)
                file.write(json.dumps(asdict(ours)).encode())
                file.flush()
                if not locked:
                    time.sleep(_SETTLE)
                taken = _read(path) == ours
            if taken:
                return file
        finally:
            if not taken:
                file.close()
        time.sleep(0.02)
    msg = f"{path.parent} cannot be locked. Check whether another process trains into it."
    raise RunLockedError(msg)


def _open(path: Path) -> IO[bytes]:
    """The lock file itself: what a link in its place leads to is never written to."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    return open(path, "a+b", opener=opener)


def _is_free(path: Path, file: IO[bytes], locked: bool | None) -> bool:
    """Whether the lock file is there still and nobody else's; raises where another process is known to hold it."""
    found = _read(path)
    if locked is False:
        if found is None or _has_ended(found):  # somebody is about to write a name, or looks at an old lock
            return False
        raise _refusal(path, found)
    # The lock of a network's file system may be seen by one machine alone.
    if found is not None and (_on_another_machine(found) if locked else not _has_ended(found)):
        raise _refusal(path, found)
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:  # removed by whoever held it, between our two looks
        return False


def _refusal(path: Path, found: Holder | None) -> RunLockedError:
    who = found.words() if found else "another process"
    hint = f" If it has ended, delete {path}." if found is None or _on_another_machine(found) else ""
    msg = f"Another training writes to {path.parent}: {who}. Wait for it or stop it, or choose another name.{hint}"
    return RunLockedError(msg)


def _lock(file: IO[bytes], *, shared: bool = False) -> bool | None:
    """Lock a file until it is closed; False where another process has it, None where the file system has no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(_PLACE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            return True
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return None if sys.platform != "win32" and error.errno in _UNSUPPORTED else False
    return True


def _read(path: Path) -> Holder | None:
    try:
        values = load_json(path.read_bytes())
        return Holder(
            pid=int(values["pid"]),
            host=str(values["host"])[:100],
            boot=str(values["boot"]),
            created=float(values["created"]),
            user=str(values["user"])[:100],
            began=str(values["began"])[:40],
            key=str(values["key"]),
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _ourselves() -> Holder:
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # an id without a name, as in containers
        user = "an unknown user"
    began = time.strftime("%Y-%m-%d %H:%M")
    created, key = psutil.Process().create_time(), secrets.token_hex(8)
    return Holder(os.getpid(), socket.gethostname(), _boot(), created, user, began, key)


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _on_another_machine(found: Holder) -> bool:
    return found.host != socket.gethostname() and (not found.boot or found.boot != _boot())


def _has_ended(found: Holder) -> bool:
    """Whether a process is known to be gone: one of this machine whose id is free, or another's by now."""
    if found.host != socket.gethostname():
        return False
    if found.boot and found.boot != _boot():
        return True
    try:
        return bool(abs(psutil.Process(found.pid).create_time() - found.created) > 1)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


@dataclass(frozen=True)
class KeptModel:
    """The model of a run that did not come to its end.

    Attributes
    ----------
    path : Path
    epoch : int
        The epoch it is of.
    dice : dict of str to float
        Its validation Dice, by class.
    before : dict of str to float, or None
        Of fine-tuning: Dice of the start model.
    words : str
        Of fine-tuning: before and after in words; and how much of what is held out the Dice was measured on, where
        that is not all of it.
    held_out : str
        What the figures mean, in words; empty where whole cases were held out.
    """

    path: Path
    epoch: int
    dice: dict[str, float]
    before: dict[str, float] | None
    words: str
    held_out: str


@dataclass(frozen=True)
class RunState:
    """Where a run is, as its folder says.

    Attributes
    ----------
    name : str
        Name in the model file.
    out : Path
        Model file.
    epochs_done, epochs : int
    minutes_spent : float
        Of training, all sessions together.
    minutes : float or None
        Limit, where there is one.
    dice : float or None
        Mean validation Dice of the weights that are kept: the best so far, or the last.
    finished : bool
        Whether nothing is left to train, and the model is written.
    start : str or None
        Model that the training started from.
    model_written : bool
        Whether the model file is there: of a finished run, or of a stopped one that was kept.
    held_out : str
        What the validation figures mean, in words; empty where whole cases were held out.
    in_use : str
        The process that trains it now, in words; empty where none does.
    """

    name: str
    out: Path
    epochs_done: int
    epochs: int
    minutes_spent: float
    minutes: float | None
    dice: float | None
    finished: bool
    start: str | None
    model_written: bool
    held_out: str
    in_use: str = ""


def keep_stopped(folder: RunFolder) -> KeptModel:
    """Make what a stopped or killed run has reached its model file: of the best or the last validation, as it was told.

    The run can still be resumed.

    Parameters
    ----------
    folder : RunFolder
        Of a run that is not training any more.

    Raises
    ------
    TrainingError
        No epoch was validated yet, or the folder holds no run.
    ModelFileError
        The model in the folder is damaged.
    OutputError
        The model file cannot be written.
    RunLockedError
        Another process trains into the folder.
    """
    if not folder.root.is_dir():
        _settings(folder)
    with run_lock(folder):
        return _keep(folder)


def _keep(folder: RunFolder) -> KeptModel:
    kept = folder.last if _settings(folder).training.keep == "last" or not folder.best.is_file() else folder.best
    if not kept.is_file():
        msg = f"{folder.root} holds no model yet: no epoch was validated. Resume the run, or start it again."
        raise TrainingError(msg)
    training = read_header(kept).training
    dice = {str(name): float(value) for name, value in training["validation_dice"].items()}
    before = folder.read_before()
    words, held_out = [], ""
    with contextlib.suppress(TrainingError):  # the model can be kept all the same
        held_out = _held_out(folder)
    if before is not None:
        words.append(format_before_after(before, dice, held_out))
    measured, held = training.get("validated_frames"), training.get("validation_frames")
    if measured != held:
        words.append(f"Measured on {measured} of the {held} scans or slices that are held out.")
    write_bytes_atomic(folder.model, kept.read_bytes())
    if before is not None:
        folder.write_before_after(before, dice, " ".join(words))
    return KeptModel(folder.model, int(training["epochs"]), dice, before, " ".join(words), held_out)


def run_state(folder: RunFolder) -> RunState:
    """Where a run is.

    Raises
    ------
    TrainingError
        The folder holds no run, or its state is damaged.
    ConfigError
        Its settings are damaged.
    """
    run = _settings(folder)
    progress = folder.progress() if folder.states() else {}
    epoch, seconds = int(progress.get("epoch", 0)), float(progress.get("elapsed", 0.0))
    best_epoch = int(progress.get("best_epoch", 0))
    before, earlier = int(progress.get("budget_epoch", 0)), float(progress.get("budget_seconds", 0.0))
    since = best_epoch and max(best_epoch - before, 1)  # as the training itself counts
    written, by = folder.model.is_file(), holder(folder)
    validated: list[float] = []
    with contextlib.suppress(TrainingError):  # the run can go on without it
        validated = [row["mean_dice"] for row in read_history(folder) if row.get("mean_dice") is not None]
    # epochs before labels changed may have a higher Dice, on other labels
    best = float(progress["best_dice"]) if best_epoch else max(validated, default=None)
    return RunState(
        name=run.name or folder.root.stem,
        out=folder.model,
        epochs_done=epoch,
        epochs=before + run.training.epochs,
        minutes_spent=seconds / 60,
        minutes=run.training.minutes,
        dice=validated[-1] if run.training.keep == "last" and validated else best,
        finished=written and run.training.finished(epoch - before, seconds - earlier, since),
        start=run.init,
        model_written=written,
        held_out=_held_out(folder),
        in_use=by.words() if by is not None else "",
    )


def read_history(folder: RunFolder) -> list[dict[str, Any]]:
    """Rows of history.csv with their numbers; None where an epoch was not validated, no rows where there is no file.

    Raises
    ------
    TrainingError
        The file is damaged.
    """
    if not folder.history.is_file():
        return []
    try:
        with folder.history.open(encoding="utf-8", newline="") as file:
            rows = [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file, strict=True)]
        return [{**row, "epoch": int(row["epoch"] or 0)} for row in rows]
    except (OSError, ValueError, OverflowError, KeyError, TypeError, csv.Error) as error:
        msg = f"{folder.history} cannot be read ({error!r}). Remove it; the next epoch of the run writes it anew."
        raise TrainingError(msg) from error


def _settings(folder: RunFolder) -> RunConfig:
    if not folder.run_yaml.is_file():
        msg = f"{folder.root} holds no run: there is no {folder.run_yaml.name} in it."
        raise TrainingError(msg)
    return RunConfig.parse(load_run_yaml(folder.run_yaml), str(folder.run_yaml))


def _held_out(folder: RunFolder) -> str:
    try:
        return str(load_json(folder.splits.read_bytes()).get("words", ""))
    except (OSError, ValueError, AttributeError) as error:
        msg = f"{folder.splits} cannot be read ({error})."
        raise TrainingError(msg) from error


SMALLEST_CHANGE = 0.005
"""Dice that two models must differ by for one to be called worse."""
NO_VALIDATION = "No independent validation"
"""How a text begins that says that the Dice is that of what was trained on."""
FAVORS_START = (
    "These labels began as a model's result and agree with it wherever it was left, which favors the model before."
)
"""Says that a small fall of Dice is no verdict: an improvement is one, since it had to be won against this."""
EXPLAINED = 0.2
"""Fall of Dice that labels which favor the start model may explain: where corrected labels agree with the truth by a
Dice of 0.9, as two persons do, the start model looks better by up to 0.1, and the new one worse by as much."""


def format_before_after(before: Mapping[str, float], after: Mapping[str, float], held_out: str = "") -> str:
    """Dice before and after fine-tuning, as in ``liver 0.81 -> 0.88; spleen got worse: 0.90 -> 0.86.``, and advice.

    Parameters
    ----------
    before, after : mapping of str to float
    held_out : str
        What the figures mean; where it says that the labels favor the start model, a small fall is no verdict.
    """
    parts, least = [], _least_change(held_out)
    for name, old, new in _both(before, after):
        worse = new < old - least
        parts.append(f"{name}{' got worse:' if worse else ''} {old:.2f} -> {new:.2f}")
    words = "; ".join(parts) + "."
    if got_worse(before, after) and "got worse" not in words:
        words += " Lower on labels that favor the model before: no verdict."
    elif got_worse(before, after, held_out):
        words += (
            " Fine-tuning made the model worse: keep the one it started from, or annotate more, train for longer, or "
            "choose a lower learning rate."
        )
    return words


def got_worse(before: Mapping[str, float], after: Mapping[str, float], held_out: str = "") -> bool:
    """Whether the mean Dice of the classes before fell by more than chance would have it; as `format_before_after`."""
    changes = [new - old for _, old, new in _both(before, after)]
    return sum(changes) < -_least_change(held_out) * len(changes)


def _least_change(held_out: str) -> float:
    return EXPLAINED if FAVORS_START in held_out else SMALLEST_CHANGE


def _both(before: Mapping[str, float], after: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """Classes that both have a Dice of."""
    return [(name, old, after[name]) for name, old in before.items() if name in after]
