"""A form for some fields of a settings class: types, bounds, defaults and explanations come from the class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from magicgui.widgets import CheckBox, Container, FloatSlider, Widget, create_widget
from psygnal import Signal
from pydantic.fields import FieldInfo

from prosma_core.config.base import Config


class ConfigForm:
    """Form whose value is an instance of a settings class; fields that are not shown keep their default.

    Parameters
    ----------
    config : type of Config
        The settings.
    labels : mapping of str to str
        Fields to show, in this order, and what stands beside each.
    """

    changed = Signal(object)

    def __init__(self, config: type[Config], labels: Mapping[str, str]) -> None:
        self._config = config
        self._widgets = {
            name: _widget(config.model_fields[name], name, text, config.explanations().get(name, ""))
            for name, text in labels.items()
        }
        self._container = Container(widgets=list(self._widgets.values()), labels=True)
        self._container.margins = (0, 0, 0, 0)
        self._container.changed.connect(lambda: self.changed.emit(self.value))

    @property
    def native(self) -> Any:
        """The Qt widget."""
        return self._container.native

    @property
    def value(self) -> Config:
        """What the form says."""
        return self._config(**{name: widget.value for name, widget in self._widgets.items()})

    def set(self, config: Config) -> None:
        """Show these settings; `changed` is not emitted."""
        with self._container.changed.blocked():
            for name, widget in self._widgets.items():
                widget.value = getattr(config, name)


def _widget(field: FieldInfo, name: str, text: str, tooltip: str) -> Any:
    """Input for one field."""
    if field.annotation is bool:
        return CheckBox(value=field.default, name=name, text=text, tooltip=tooltip, label="")
    if field.annotation is float:
        bounds = {type(m).__name__: m for m in field.metadata}
        low, high = getattr(bounds.get("Ge"), "ge", 0.0), getattr(bounds.get("Le"), "le", 1.0)
        return FloatSlider(value=field.default, min=low, max=high, step=0.05, name=name, label=text, tooltip=tooltip)
    widget: Widget = create_widget(
        value=field.default, annotation=field.annotation, name=name, label=text, options={"tooltip": tooltip}
    )
    return widget
