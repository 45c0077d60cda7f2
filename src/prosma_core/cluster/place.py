"""Where scans are computed: this computer, or a Dask scheduler. No torch, no Dask."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from prosma_core.errors import ConfigError
from prosma_core.io.hardware import usable_cores
from prosma_core.printable import counted

_SCHEMES = ("tcp", "tls", "ws", "wss", "ucx")
_ADDRESS = re.compile(rf"({'|'.join(_SCHEMES)})://.+:(\d+)")
_NEARLY = re.compile(r"(?:(?P<scheme>[a-z]+)://)?(?P<host>\[[^\s/]+\]|[^\s/:\[\]]+)(?::(?P<port>\d+))?/*")
_LAST_PORT = 65535
_LOCAL = re.compile(r"local(?::(\d+))?")
_FEWEST = 4  # workers that any computer is allowed
_ALLOWED = "local, local:2 (workers on this computer), tcp://HOST:8786 (a Dask scheduler), or its scheduler.json"


@dataclass(frozen=True)
class Place:
    """Where is computed.

    Attributes
    ----------
    address : str
        Of a scheduler; empty: on this computer.
    workers : int
        Processes on this computer.
    """

    address: str = ""
    workers: int = 0

    @property
    def text(self) -> str:
        """In a sentence, behind "on"."""
        return self.address or f"{counted(self.workers, 'worker')} of this computer"


def parse_place(text: str) -> Place:
    """Place from ``local:2``, a scheduler's address or its file; raises `ConfigError` where it is none of these."""
    text = text.strip()
    check_place(text)
    if found := _LOCAL.fullmatch(text):
        return Place(workers=int(found[1]) if found[1] else max(1, usable_cores() // 2))
    return Place(text if _ADDRESS.fullmatch(text) else _address_in(_path(text)))


def check_place(text: str) -> None:
    """Raise `ConfigError` unless a text has the form of a place; nothing is read or connected to."""
    local, address = _LOCAL.fullmatch(text), _ADDRESS.fullmatch(text)
    workers = int(local[1]) if local and local[1] else None
    if workers == 0 or not (local or address or text.endswith(".json")):
        msg = f"{text!r} is no place to compute on: {_meant(text) or f'give {_ALLOWED}'}."
        raise ConfigError(msg)
    most = max(_FEWEST, 2 * usable_cores())
    if workers is not None and workers > most:
        msg = (
            f"{text!r} asks for {workers} workers on this computer, each a process with the model; it has "
            f"{counted(usable_cores(), 'core')}. Give {most} at most, or the address of a scheduler: "
            f"tcp://HOST:{workers}."
        )
        raise ConfigError(msg)
    if address and int(address[2]) > _LAST_PORT:
        msg = f"{text!r} has no port that exists: they go to {_LAST_PORT}. A Dask scheduler's is 8786 as a rule."
        raise ConfigError(msg)


def _meant(text: str) -> str:
    """What is missing in what is nearly the address of a scheduler, and its right form; empty for other texts."""
    found = _NEARLY.fullmatch(text)
    if not found or found["host"] == "local":
        return ""
    scheme, host, port = found["scheme"], found["host"], found["port"]
    if scheme in {"http", "https"}:
        return f"a web page is a scheduler's dashboard at best, which has another port; give tcp://{host}:8786"
    if scheme is None and port is not None:
        return f"an address begins with its protocol; give tcp://{host}:{port}"
    if scheme in _SCHEMES:
        usual = "" if port else ", where the scheduler uses the usual one"
        return f"an address ends with its port; give {scheme}://{host}:{port or 8786}{usual}"
    return ""


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # a user whom this computer does not know
        msg = f"{text!r} names no file: {error}. Give its whole path."
        raise ConfigError(msg) from error


def _address_in(path: Path) -> str:
    """Address in the file that a scheduler writes."""
    try:
        address = json.loads(path.read_bytes())["address"]
        if _ADDRESS.fullmatch(address):
            return str(address)
        reason = "it has no address"
    except OSError as error:
        reason = error.strerror or str(error)
    except (ValueError, KeyError, TypeError, RecursionError):
        reason = "it has no address"
    msg = f"{path} is not the file of a Dask scheduler ({reason}). Start one: dask scheduler --scheduler-file {path}"
    raise ConfigError(msg)
