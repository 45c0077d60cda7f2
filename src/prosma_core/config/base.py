"""Base class of all settings: frozen pydantic models that refuse unknown names and values out of bounds."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from prosma_core.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_MOST_PROBLEMS = 3  # listed of one set of settings


class Config(BaseModel):
    """A frozen set of settings; unknown names and values out of bounds are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    @cache
    def explanations(cls) -> dict[str, str]:
        """What each setting does: the text that stands below it in the class, for those of this class itself.

        Read from the source when it is wanted: pydantic's own reading costs every import 0.1 s in a napari process.
        """
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
        return {
            field.target.id: inspect.cleandoc(text.value.value)
            for field, text in pairwise(body)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
        }

    @classmethod
    def parse(cls, values: Any, what: str) -> Self:
        """Settings from plain values (a parsed YAML or JSON tree).

        Parameters
        ----------
        values
            Nested dictionaries, lists, numbers and strings.
        what : str
            Where the values come from, for the error text.

        Raises
        ------
        ConfigError
            A name is unknown or a value is out of its bounds; the text lists each.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = _causes(error.errors())
            lines = [
                f"{'.'.join(map(str, e['loc']))[:60] or 'all'}: {_text(e)} (given: {repr(e['input'])[:40]})"
                for e in problems[:_MOST_PROBLEMS]
            ]
            more = [f"and {len(problems) - len(lines)} more"] if len(problems) > len(lines) else []
            msg = f"{what} does not hold valid settings:"
            raise ConfigError(msg, *lines, *more) from error

    def replace(self, **changes: Any) -> Self:
        """The same settings with some changed, validated again.

        Raises
        ------
        ConfigError
            As in `parse`.
        """
        return self.parse({**self.model_dump(), **changes}, type(self).__name__)


_TEXTS = {
    "missing": "is missing",
    "extra_forbidden": "there is no such setting",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "literal_error": "must be one of {expected}",
    "too_short": "has {actual_length} values, needs at least {min_length}",
    "too_long": "has more than {max_length} values",
    "string_too_short": "must not be empty",
    "string_too_long": "is longer than {max_length} characters",
    "string_pattern_mismatch": "is not of the form {pattern}",
    "finite_number": "must be finite",
    "value_error": "{error}",
    "none_required": "must be left out",
}
"""Text for a problem, by the name that pydantic has for it."""
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "tuple": "a list",
    "list": "a list",
    "dict": "names with values",
    "model": "names with values",
    "path": "a path",
}


def _text(problem: ErrorDetails) -> str:
    """What is wrong with a value, and what is allowed."""
    name = problem["type"]
    if name in _TEXTS:
        return _TEXTS[name].format(**problem.get("ctx", {}))
    kind = _KINDS.get(name.partition("_")[0])
    return f"must be {kind}" if kind else problem["msg"]


def _causes(problems: list[ErrorDetails]) -> list[ErrorDetails]:
    """Problems without those that follow from others: a sequence is too short only as its items are wrong."""
    wrong = {p["loc"][:-1] for p in problems if p["loc"]}
    return [p for p in problems if p["type"] != "too_short" or p["loc"] not in wrong]
