"""JSON and YAML documents, loaded within bounds: size, depth, finite numbers, no duplicate keys."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable
from typing import Any

import yaml

MOST_BYTES = 16 << 20
"""Of a JSON document: the splits of a data set of 100,000 cases stay far below."""
MOST_YAML_BYTES = 1 << 20
"""Of a YAML document, which takes PyYAML a second for each 50 kB."""
MOST_DEPTH = 64
"""Of a YAML document; PyYAML takes the square of the depth in time."""
MOST_NODES = 1_000_000
"""Of a YAML with all its aliases followed; ten lines of aliases can stand for a billion nodes."""


def load_json(text: str | bytes, *, finite: bool = True) -> Any:
    """Values of a JSON document.

    Parameters
    ----------
    text : str or bytes
        UTF-8 where bytes.
    finite : bool
        Refuse NaN and infinity. The attributes of zarr folders hold them (xarray writes ``_FillValue: NaN``).

    Raises
    ------
    ValueError
        It is no JSON, longer than 16 MiB, nested too deeply, holds a number out of range, or names something twice in
        one object. The text says which.

    Examples
    --------
    >>> load_json('{"train": ["a"], "val": []}')
    {'train': ['a'], 'val': []}
    """
    _check_size(text, MOST_BYTES)
    try:
        if not finite:
            return json.loads(text, object_pairs_hook=_unique, parse_int=_integer)
        return json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_integer
        )
    except RecursionError:
        msg = "it is nested too deeply"
        raise ValueError(msg) from None


def load_yaml(text: str | bytes) -> Any:
    """Values of a YAML document, without any of YAML's ways to name a Python object.

    Parameters
    ----------
    text : str or bytes

    Raises
    ------
    ValueError
        As in `load_json`, from 1 MiB and a depth of 64 on; or its aliases stand for more than a million values.
    """
    _check_size(text, MOST_YAML_BYTES)
    try:
        values = yaml.load(text, _Loader)
        if _count(values, {}) > MOST_NODES:
            msg = f"with its aliases it stands for more than {MOST_NODES} values"
            raise ValueError(msg)
    except RecursionError:
        msg = "it is nested too deeply"
        raise ValueError(msg) from None
    except yaml.YAMLError as error:
        msg = " ".join(str(error).split())[:160]
        raise ValueError(msg) from error
    return values


def _check_size(text: str | bytes, most: int) -> None:
    if len(text) > most:
        msg = f"it is longer than {most >> 20} MiB"
        raise ValueError(msg)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        msg = f"it names {next(n for n in names if names.count(n) > 1)!r:.60} twice"
        raise ValueError(msg)
    return values


def _refuse_constant(name: str) -> float:
    msg = f"it holds {name}, which is no JSON"
    raise ValueError(msg)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        msg = f"the number {text:.20} is out of range"
        raise ValueError(msg)
    return value


def _integer(text: str) -> int:
    if len(text) > 40:
        msg = f"it holds a whole number of {len(text)} digits"
        raise ValueError(msg)
    return int(text)


class _Loader(yaml.SafeLoader):
    """A SafeLoader that refuses a name given twice, deep nesting, and numbers of thousands of digits."""

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        self._check_depth(self.flow_level)
        super().fetch_flow_collection_start(token)

    def add_indent(self, column: int) -> bool:
        self._check_depth(len(self.indents))
        return super().add_indent(column)

    def _check_depth(self, depth: int) -> None:
        if depth >= MOST_DEPTH:
            msg = f"it is nested too deeply, more than {MOST_DEPTH} levels"
            raise ValueError(msg)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(keys) != len(set(keys)):
            msg = f"it names {next(k for k in keys if keys.count(k) > 1)!r:.60} twice"
            raise ValueError(msg)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > 40:
            msg = f"it holds a whole number of {len(node.value)} digits"
            raise ValueError(msg)
        return int(super().construct_yaml_int(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _count(values: Any, known: dict[int, int]) -> int:
    """Number of values with every alias followed; each object is looked at once."""
    if not isinstance(values, dict | list):
        return 1
    if id(values) not in known:
        known[id(values)] = MOST_NODES + 1  # of a list that holds itself
        parts = values.values() if isinstance(values, dict) else values
        known[id(values)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(values)]
