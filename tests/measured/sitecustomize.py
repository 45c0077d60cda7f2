"""Coverage without the code of others: Python reports each of its lines to the tracer, which takes half of the time.

Where coverage is measured, ``tests/conftest.py`` loads this file and puts its folder into PYTHONPATH, so that every
Python process that a test starts does as well.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

OURS = ("prosma_core", "napari_prosma")


def untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of others that runs without the tracer; what it calls must not be ours."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        tracer = sys.gettrace()
        if tracer is None:
            return function(*args, **kwargs)
        sys.settrace(None)
        try:
            return function(*args, **kwargs)
        finally:
            sys.settrace(tracer)
            sys._getframe().f_trace = tracer  # it heard of this call, and hears of its end

    return call


def leave_imports_out() -> None:
    """Let modules of others be imported untraced."""
    traced = SourceFileLoader.exec_module
    others = untraced(traced)

    def exec_module(self: SourceFileLoader, module: ModuleType) -> None:
        (traced if self.name.partition(".")[0] in OURS else others)(self, module)

    SourceFileLoader.exec_module = exec_module  # type: ignore[method-assign]


if sys.gettrace() is not None:
    leave_imports_out()
