"""Seeded damage to files: bits, numbers at their bounds, lost, doubled and foreign parts, and lines of text."""

from __future__ import annotations

import random
import re
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

HEADER = 600
"""Bytes at the start of a file where most damage goes: declared sizes, types and offsets stand there."""
_INTEGERS = (0, 1, -1, 2, 7, 255, 4096, 2**15 - 1, -(2**15), 2**31 - 1, -(2**31), 2**32 - 1, 10**9, 2**62, 2**63 - 1)
_FLOATS = (0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e38, 1e-38, 1e300)
_TEXTS = (
    b"0", b"-1", b"1", b"65536", b"2147483648", b"99999999999999999999", b"1e999", b"NaN", b"null", b'""', b"[]", b"{}",
    b"true", b"9" * 5000, b"[" * 300, "\u202eevil\u0007".encode(), b"../../x", b"!!python/object:os.system", b"&a *a",
)  # fmt: skip

Change = Callable[[bytes, random.Random, Sequence[bytes]], bytes]


def mutate(data: bytes, rng: random.Random, others: Sequence[bytes], *, text: bool) -> bytes:
    """Return `data` with one to three kinds of damage.

    Parameters
    ----------
    data : bytes
    rng : random.Random
    others : sequence of bytes
        Whole files of the same format, whose parts may be put in.
    text : bool
        Whether most of the file is text.
    """
    changes = _ON_TEXT + _ON_BYTES[:4] if text else _ON_BYTES + _ON_TEXT[:1]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(changes)(data, rng, others)
    return data


def mutate_folder(folder: Path, rng: random.Random) -> None:
    """Damage one file of a folder, remove it, empty it, or put another file of the folder in its place."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    file = rng.choice([f for f in files if _is_text(f)] or files) if rng.random() < 0.6 else rng.choice(files)
    action = rng.random()
    if action < 0.06:
        file.unlink()
    elif action < 0.1:
        file.write_bytes(b"")
    elif action < 0.15:
        shutil.copyfile(rng.choice(files), file.with_name("copy")) if rng.random() < 0.5 else file.write_bytes(
            rng.choice(files).read_bytes()
        )
    else:
        others = [other.read_bytes() for other in rng.sample(files, min(2, len(files)))]
        file.write_bytes(mutate(file.read_bytes(), rng, others, text=_is_text(file)))


def _is_text(file: Path) -> bool:
    return file.suffix in {".json", ".yaml", ".csv", ".txt"} or file.name.startswith(".z")


def _where(data: bytes, rng: random.Random) -> int:
    """Return a place in the file, most often in its header or at its end."""
    size = max(1, len(data))
    part = rng.random()
    if part < 0.6:
        return rng.randrange(min(size, HEADER))
    return max(0, size - 1 - rng.randrange(min(size, 256))) if part < 0.7 else rng.randrange(size)


def _flip_bit(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    at = _where(data, rng)
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :] if data else data


def _set_bytes(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    at, count = _where(data, rng), rng.randint(1, 4)
    return data[:at] + rng.randbytes(count) + data[at + count :]


def _set_integer(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice(_INTEGERS) % (1 << 8 * size)
    at = _where(data, rng) // size * size
    return data[:at] + value.to_bytes(size, rng.choice(("little", "big"))) + data[at + size :]


def _truncate(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    return data[: _where(data, rng)]


def _set_float(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    form = rng.choice(("<f", ">f", "<d", ">d"))
    size, at = struct.calcsize(form), _where(data, rng) // 4 * 4
    value = rng.choice(_FLOATS[:-1] if size == 4 else _FLOATS)
    return data[:at] + struct.pack(form, value) + data[at + size :]


def _append(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    return data + rng.randbytes(rng.randint(1, 64))


def _delete(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    at = _where(data, rng)
    return data[:at] + data[at + rng.randint(1, 64) :]


def _double(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    at, count = _where(data, rng), rng.randint(1, 256)
    return data[: at + count] + data[at:]


def _blank(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    at, count = _where(data, rng), rng.randint(1, 128)
    return data[:at] + bytes(len(data[at : at + count])) + data[at + count :]


def _splice(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others) if others else data
    return data[: _where(data, rng)] + other[_where(other, rng) :]


def _replace_number(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    found = list(re.finditer(rb"-?\d+(\.\d+)?(e-?\d+)?", data[: 1 << 16]))
    if not found:
        return data
    one = rng.choice(found)
    return data[: one.start()] + rng.choice(_TEXTS) + data[one.end() :]


def _replace_word(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    found = list(re.finditer(rb"[A-Za-z_]{2,}", data[: 1 << 16]))
    if not found:
        return data
    one = rng.choice(found)
    return data[: one.start()] + rng.choice((*_TEXTS, rng.choice(found).group())) + data[one.end() :]


def _drop_line(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    lines = data.splitlines(keepends=True)
    if len(lines) > 1:
        del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def _double_line(data: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    lines = data.splitlines(keepends=True)
    if lines:
        lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    return b"".join(lines)


_ON_BYTES: list[Change] = [
    _flip_bit, _set_bytes, _truncate, _delete,
    _set_integer, _set_integer, _set_integer, _set_float, _append, _double, _blank, _splice,
]  # fmt: skip
_ON_TEXT: list[Change] = [_replace_number, _replace_number, _replace_word, _drop_line, _double_line]
