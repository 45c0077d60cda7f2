"""Saves to a real file system without room: what was there stays, the message tells which disk, the next save works."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.writers import MORE, WRITERS
from zarr.storage import LocalStore

from prosma_core.errors import ProsmaError

PAGE = 4096
_MOST = 200
"""Pages that the largest of these saves takes."""


def refused(save: Callable[[int], object], number: int) -> str | None:
    """Save; why that was refused, None where it was not."""
    try:
        kept = save(number)
    except ProsmaError as error:
        return str(error)
    return "" if kept is False else None  # what is remembered of a machine need not be kept


@pytest.mark.parametrize("kind", [*WRITERS, *(kind for kind in MORE if kind != "zarr in two steps")])
def test_a_save_to_a_full_disk(kind: str, small_disk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small_disk.path / "out"
    folder.mkdir()
    monkeypatch.setenv("PROSMA_CACHE", str(folder))
    save, found = {**WRITERS, **MORE}[kind](folder)
    save(0)
    names = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    pages, now = 0, 0
    while True:
        small_disk.fill(pages * PAGE)
        reason = refused(save, now + 1)
        if reason is None:
            break
        if kind != "machine":
            assert "No space left on device" in reason
            assert f"nothing of 4 MiB is free on the disk of {small_disk.path}. Free some space" in reason
        assert found() in (now, now + 1)
        now, pages = int(found() or 0), pages + 1
        assert pages < _MOST
    assert pages
    assert found() == now + 1
    small_disk.clear()
    save(now + 2)
    assert found() == now + 2
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == names


def test_a_write_that_goes_on_beside_one_that_failed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, late = LocalStore.set, list[str]()

    async def one_fails(store: LocalStore, key: str, value: Any) -> None:
        if key.endswith(".zattrs"):
            raise OSError(errno.ENOSPC, "No space left on device")
        await asyncio.sleep(0.3)
        late.append(key)
        await put(store, key, value)

    monkeypatch.setattr(LocalStore, "set", one_fails)
    save, _ = WRITERS["zarr 2"](tmp_path)
    assert "No space left on device" in (refused(save, 1) or "")
    time.sleep(0.5)
    assert late
    assert list(tmp_path.iterdir()) == []
