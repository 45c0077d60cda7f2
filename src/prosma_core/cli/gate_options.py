"""How levels, maps and changes of gates are written on the command line."""

from __future__ import annotations

import re
from typing import Any, get_args

from prosma_core.config.inspection import InspectConfig, LevelEdit, MapKind, Variant
from prosma_core.errors import ConfigError

ALLOWED = (
    "level=L:tau*K (K from 0 to 4), level=L:open, level=L:closed, level=L:nochannelgate, level=L:channel=C:open or "
    "level=L:channel=C:closed; several with commas in between"
)
_PART = re.compile(r"level=(\d+):(?:tau\*(?P<factor>\d+\.?\d*|\.\d+)|(?P<word>open|closed|nochannelgate)|"
                   r"channel=(?P<channel>\d+):(?P<state>open|closed))")  # fmt: skip


def parse_what_if(text: str) -> Variant:
    """Changes of gates from ``level=2:tau*0,level=0:open``; raises `ConfigError` where the text is not of this form."""
    changes: dict[int, dict[str, Any]] = {}
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            msg = f"--what-if {text!r}: {part.strip()!r} is not a change of a gate. Allowed are {ALLOWED}."
            raise ConfigError(msg)
        level = int(match[1])
        edit = changes.setdefault(level, {"level": level})
        if match["factor"] is not None:
            edit["threshold"] = float(match["factor"])
        elif match["channel"] is not None:
            key = f"{match['state']}_channels"
            edit[key] = (*edit.get(key, ()), int(match["channel"]))
        elif match["word"] == "nochannelgate":
            edit["channel_gate"] = False
        else:
            edit["state"] = match["word"]
    what = f"--what-if {text!r}"
    return Variant(name=text, edits=tuple(LevelEdit.parse(edit, what) for edit in changes.values()))


def parse_levels(text: str | None) -> tuple[int, ...] | None:
    """Levels from ``0,1``; raises `ConfigError` where the text is not of this form."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        msg = f"--levels {text!r}: give numbers of levels, 0 for the finest, with commas in between: 0,1,2."
        raise ConfigError(msg)
    return tuple(int(word) for word in words)


def parse_maps(text: str | None) -> tuple[MapKind, ...]:
    """Maps from ``removed,field`` or ``all``, the usual ones for None; raises `ConfigError` where one is unknown."""
    kinds: tuple[MapKind, ...] = get_args(MapKind)
    if text is None:
        usual: tuple[MapKind, ...] = InspectConfig.model_fields["maps"].default
        return usual
    words = [word.strip() for word in text.split(",")]
    if words == ["all"]:
        return kinds
    unknown = next((word for word in words if word not in kinds), None)
    if unknown is not None:
        msg = f"--maps {text!r}: there is no map {unknown!r}. Allowed are {', '.join(kinds)}, or all."
        raise ConfigError(msg)
    return tuple(kind for kind in kinds if kind in words)
