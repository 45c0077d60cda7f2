"""A form for some fields of a settings class: types, bounds, defaults and explanations come from the class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from magicgui.widgets import CheckBox, ComboBox, FloatSlider, FloatSpinBox
from psygnal import Signal
from pydantic.fields import FieldInfo
from qtpy.QtWidgets import QAbstractSpinBox, QFormLayout, QWidget

from napari_prosma.widgets.fields import call_it
from prosma_core.config.base import Config

LARGEST = 2**31 - 1
"""Of a number without a bound."""
WIDE = 0.6
"""Width of a letter in a box of numbers, in heights of its font; the box's buttons share the width."""
SLIDER = 170
"""Least width of a slider with its number, in pixels."""
SHORT = 8
"""Letters that any box of numbers has room for."""
FINE = 0.05
"""Step of a share; numbers whose default is smaller are written instead."""


class ConfigForm:
    """Form whose value is an instance of a settings class; fields that are not shown stay as they were set.

    Parameters
    ----------
    config : type of Config
        The settings: bool, int, float and Literal fields, also with None.
    labels : mapping of str to str
        Fields to show, in this order, and what stands beside each.
    none : mapping of str to str
        What None means, for fields that may be None.

    Attributes
    ----------
    native : QWidget
    """

    changed = Signal(object)

    def __init__(self, config: type[Config], labels: Mapping[str, str], none: Mapping[str, str] | None = None) -> None:
        self._base = config()
        self._inputs: dict[str, _Input] = {}
        for name, text in labels.items():
            options = {"name": name, "tooltip": config.explanations().get(name, "")}
            self._inputs[name] = _Input(config.model_fields[name], text, (none or {}).get(name, "none"), options)
        self.native = QWidget()
        layout = QFormLayout(self.native)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        layout.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)  # what None means may be long
        for name, entry in self._inputs.items():
            widget = entry.widget
            widget.native.setObjectName(f"option_{name}")
            call_it(widget.native, labels[name], config.explanations().get(name, ""))
            if isinstance(widget, CheckBox):
                layout.addRow(widget.native)
            else:
                layout.addRow(labels[name], widget.native)
            widget.changed.connect(self._changed)

    @property
    def value(self) -> Config:
        """Settings as entered."""
        return self._base.replace(**{name: entry.get() for name, entry in self._inputs.items()})

    def set(self, config: Config) -> None:
        """Show these settings; `changed` is not emitted."""
        self._base = config
        for name, entry in self._inputs.items():
            with entry.widget.changed.blocked():
                entry.set(getattr(config, name))

    def _changed(self) -> None:
        self.changed.emit(self.value)


class _Input:
    """Input for one field."""

    def __init__(self, field: FieldInfo, text: str, none: str, options: dict[str, Any]) -> None:
        self._least: float | None = None
        kinds = get_args(field.annotation) or (field.annotation,)
        self._whole = int in kinds
        self.widget: Any
        if get_origin(field.annotation) is Literal:
            self.widget = ComboBox(choices=kinds, **options)
        elif bool in kinds:
            self.widget = CheckBox(text=text, **options)
        elif self._whole:
            self.widget = _box(field, 1, 0, options)
        else:
            self.widget = _real(field, options, slider=NoneType not in kinds)
        if NoneType in kinds:
            bound = next((m.gt for m in field.metadata if hasattr(m, "gt")), None)
            self._allow_none(none, self.widget.min - self.widget.step if bound is None else bound)
        self.set(field.default)

    def _allow_none(self, words: str, value: float) -> None:
        """Let a value below the least one stand for None."""
        self._least = self.widget.min
        self.widget.min = value
        self.widget.native.setSpecialValueText(words)
        if len(words) > SHORT:
            self.widget.native.setStyleSheet(f"QDoubleSpinBox {{ min-width: {WIDE * len(words):.1f}em; }}")

    def get(self) -> Any:
        value = self.widget.value
        if self._least is not None and value < self._least:
            return None
        return int(value) if self._whole else value

    def set(self, value: Any) -> None:
        self.widget.value = self.widget.min if value is None else value


def _real(field: FieldInfo, options: dict[str, Any], *, slider: bool) -> Any:
    """A slider for a share where one is wanted, a box for other numbers."""
    default = field.default or 1.0
    decimals = max(2, 2 - math.floor(math.log10(abs(default))))
    low, high = _bounds(field, 10.0**-decimals)
    share = high <= 1 and math.isclose(default, FINE * round(default / FINE))
    if share and slider:
        made = FloatSlider(min=low, max=high, step=FINE, **options)
        made.native.setMinimumWidth(SLIDER)
        return made
    return _box(field, FINE if share else 10.0 ** (1 - decimals), decimals, options)


def _box(field: FieldInfo, step: float, decimals: int, options: dict[str, Any]) -> Any:
    """A box for a number within the field's bounds."""
    low, high = _bounds(field, 10.0**-decimals)
    box = FloatSpinBox(min=max(low, -LARGEST), max=min(high, LARGEST), step=step, **options)
    box.native.setDecimals(decimals)
    box.native.setKeyboardTracking(False)
    box.native.setButtonSymbols(QAbstractSpinBox.ButtonSymbols.NoButtons)  # they would take the room of the text
    box.native.setMinimumWidth(80)  # the largest number it could hold would widen the dock
    return box


def _bounds(field: FieldInfo, smallest: float) -> tuple[Any, Any]:
    """Least and largest value of a field; `smallest` is the least difference between two values."""
    found = {name: getattr(m, name) for m in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(m, name)}
    low = found["gt"] + smallest if "gt" in found else found.get("ge", -math.inf)
    high = found["lt"] - smallest if "lt" in found else found.get("le", math.inf)
    return low, high
