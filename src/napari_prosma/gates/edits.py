"""Edits of the gates: threshold, state and channels of each level. No Qt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from prosma_core.config.inspection import Edits, LevelEdit

ChannelState = Literal["learned", "open", "closed"]


@dataclass(frozen=True)
class GateEdits:
    """Changes by level; a level that is not named is as learned."""

    levels: Mapping[int, LevelEdit] = field(default_factory=dict)

    def of(self, level: int) -> LevelEdit:
        """What is changed at a level."""
        return self.levels.get(level, LevelEdit(level=level))

    def change(self, level: int, **values: Any) -> GateEdits:
        """With other values of a level's `LevelEdit`."""
        edit = self.of(level).replace(**values)
        others = {i: e for i, e in self.levels.items() if i != level}
        return GateEdits(others if edit == LevelEdit(level=level) else others | {level: edit})

    def channel(self, level: int, channel: int) -> ChannelState:
        """What is done to one channel."""
        edit = self.of(level)
        if channel in edit.open_channels:
            return "open"
        return "closed" if channel in edit.closed_channels else "learned"

    def change_channel(self, level: int, channel: int, state: ChannelState) -> GateEdits:
        """With another state of one channel."""
        edit = self.of(level)
        opened, closed = set(edit.open_channels) - {channel}, set(edit.closed_channels) - {channel}
        if state != "learned":
            (opened if state == "open" else closed).add(channel)
        return self.change(level, open_channels=tuple(sorted(opened)), closed_channels=tuple(sorted(closed)))

    @property
    def as_asked(self) -> Edits:
        """All changes, finest level first."""
        return tuple(self.levels[i] for i in sorted(self.levels))

    def words(self) -> str:
        """All changes as text, empty where there are none."""
        return "; ".join(f"level {edit.level}: {_words(edit)}" for edit in self.as_asked)


def _words(edit: LevelEdit) -> str:
    parts: list[str] = [edit.state] if edit.state != "learned" else []
    parts += [f"threshold × {edit.threshold:g}"] if edit.threshold != 1 else []
    parts += [] if edit.channel_gate else ["no channel gate"]
    for state, channels in (("open", edit.open_channels), ("closed", edit.closed_channels)):
        if channels:
            parts.append(f"channel{'s' * (len(channels) > 1)} {', '.join(map(str, channels))} {state}")
    return ", ".join(parts)
