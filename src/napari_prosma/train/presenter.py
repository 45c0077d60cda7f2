"""What the Train widget shows of the choices: texts and lists, nothing that happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from napari_prosma.jobs.session import Session
from napari_prosma.train.state import Choices, Plan, Problem
from napari_prosma.widgets import device_text as format_devices
from prosma_core.config.training import FINE_TUNING_RATE, PRESETS, Preset, TrainingConfig
from prosma_core.engine.messages import Ready

if TYPE_CHECKING:
    from napari_prosma.train.view import TrainView


NEW = {None: "New model", 2: "New 2D model", 3: "New 3D model"}
NEW_FACTS = "Size, voxel size and tile are planned from the pairs."


class TrainPresenter:
    """Puts choices into words on the view.

    Parameters
    ----------
    view : TrainView
    session : Session
    """

    def __init__(self, view: TrainView, session: Session) -> None:
        self._view, self._session = view, session

    def starts(self, choices: Choices) -> None:
        """What to start from, and the facts of the one chosen."""
        models = self._session.models()
        items: list[tuple[str, Any]] = [(text, dims) for dims, text in NEW.items()]
        items += [(m.header.name, m) for m in models]
        start = choices.start
        current = next((m for m in models if start is not None and m.path == start.path), choices.dims)
        self._view.show_starts(items, current, f"Fine-tuning: {start.facts}" if start else NEW_FACTS)

    def preset(self, choices: Choices, times: Mapping[str, str], otherwise: str) -> None:
        """The preset, and the time each takes as far as it is known; where none is, other words."""
        known = " · ".join(f"{name}: {times[name]}" for name in get_args(Preset) if name in times)
        self._view.show_preset(choices.preset, known or otherwise)

    def options(self, choices: Choices) -> None:
        """Advanced settings: the preset's, and over them what the person changed."""
        usual = preset_training(choices.preset, fine_tuning=choices.start is not None)
        self._view.show_options(usual.replace(**choices.training))

    def devices(self, chosen: str, ready: Ready | None) -> None:
        """Devices that the engine found, and what the chosen one means here."""
        items, facts = format_devices.devices(chosen, ready, alive=self._session.jobs.alive)
        self._view.show_devices(items, chosen, facts)

    def plan(self, plan: Plan | Problem | None, *, running: bool, estimating: bool) -> None:
        """Why Train is disabled, or what it will do (a running one says it itself); None while pairs are read."""
        problem = plan if isinstance(plan, Problem) else None
        self._view.show_problem(problem.field if problem else None, problem.text if problem else "")
        self._view.show_notes("\n".join(plan.notes) if isinstance(plan, Plan) and not running else "")
        if estimating:
            self._view.show_run("Cancel", enabled=True, tooltip="Stop estimating.")
        elif not running:
            reason = problem.text if problem else "" if plan else "The pairs are being read."
            self._view.show_run("Train", enabled=not reason, tooltip=reason or "Train on these pairs")
            self._view.show_estimate(reason)


def preset_training(preset: str, *, fine_tuning: bool = False) -> TrainingConfig:
    """Settings of the loop as a preset has them, for a new model or for one that goes on learning."""
    given = {"learning_rate": FINE_TUNING_RATE} if fine_tuning else {}
    return TrainingConfig.parse(given | PRESETS[preset].get("training", {}), f"The preset {preset}")
