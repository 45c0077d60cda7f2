"""Session that all widgets share: engine, known models, remembered settings."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from platformdirs import user_config_path, user_data_path
from psygnal import Signal

from napari_prosma.jobs.boundary import Jobs
from napari_prosma.jobs.run import ViewSignal
from napari_prosma.layers.contours import contour_view
from napari_prosma.layers.pointer import pointer_view
from napari_prosma.layers.results import LOOKS
from prosma_core.config.documents import load_json
from prosma_core.config.model import ModelHeader
from prosma_core.engine.messages import Ready
from prosma_core.errors import ProsmaError
from prosma_core.io.atomic import sweep, write_bytes_atomic
from prosma_core.io.bundle import SUFFIX as MODEL_SUFFIX
from prosma_core.io.bundle import ModelEntry, read_header, shipped_models
from prosma_core.printable import show_visibly

if TYPE_CHECKING:
    from napari.components import ViewerModel

_LOG = logging.getLogger(__name__)

MOST_CHOICES = 100
"""Folders of scans for which a model is remembered."""
ALIKE = 0.15
"""Scans look alike whose numbers (`LOOKS` of the core, each from 0 to 1) differ by this at most."""
SAME = 0.002
"""The same, of one scan that is opened again."""
SETTINGS = "settings.json"
_LOOKS = {"contours": False, "letters": True}
"""What of `LOOKS` is remembered, and what it is at first."""
EARLY = 0.5
"""Seconds after a widget opened when the imports of its first result begin."""


@dataclass(frozen=True)
class ScanMark:
    """What a choice of model is remembered by: the scan that it was made for.

    Attributes
    ----------
    kind : str
        Text of its `ScanKind`.
    folder : str
        Folder of its file; empty where it has none.
    look : dict of str to float
        Of its `ScanLook`; empty where its voxels are not in memory.
    """

    kind: str
    folder: str = ""
    look: Mapping[str, float] = field(default_factory=dict)

    def is_like(self, other: ScanMark) -> bool:
        """Whether the values of two scans of one kind look alike."""
        return self._differs(other) <= ALIKE

    def is_near(self, other: ScanMark) -> bool:
        """Whether two scans of one kind lie in one folder; without files, whether they are the same scan."""
        return self.folder == other.folder and (bool(self.folder) or self._differs(other) <= SAME)

    def _differs(self, other: ScanMark) -> float:
        both = self.look.keys() & other.look.keys()
        return max((abs(self.look[name] - other.look[name]) for name in both), default=inf)


@dataclass(frozen=True)
class ModelChoice:
    """A choice of model that is remembered, as it concerns another scan of the same kind.

    Attributes
    ----------
    model : ModelEntry
    trained : bool
        Whether it was trained on such scans, and nobody's choice.
    near : bool
        Whether it was made for a scan of the same folder, or without a file for the same scan.
    like : bool
        Whether it was made for a scan that looks like this one.
    """

    model: ModelEntry
    trained: bool
    near: bool
    like: bool


class LooksView(Protocol):
    """Protocol of a view with switches for how results and scans look in the viewer."""

    @property
    def contours_toggled(self) -> ViewSignal:
        """Whether results and previews are drawn as contours (bool)."""

    @property
    def letters_toggled(self) -> ViewSignal:
        """Whether letters tell the patient's directions (bool)."""

    def show_looks(self, *, contours: bool, letters: bool) -> None:
        """Show both."""


class Session:
    """Shared state of all widgets, one per napari process.

    Parameters
    ----------
    folder : Path or None
        Where settings and trained models are kept; None: the user's own folders.
    jobs : Jobs
        The boundary to the engine.

    Attributes
    ----------
    models_folder : Path
        Where models go that are trained here; it may not exist yet.
    scan_left : Signal
        Emitted with the image layer of a series' scan when it is closed: what is shown of it goes as well.
    """

    models_changed = Signal()
    model_preferred = Signal(ModelEntry)
    scan_left = Signal(object)

    def __init__(self, folder: Path | None, jobs: Jobs) -> None:
        self._file = (folder or user_config_path("napari-prosma")) / SETTINGS
        self.models_folder = (folder or user_data_path("napari-prosma")) / "models"
        if logging.lastResort is not None:  # what shows warnings where nobody set up logging
            logging.lastResort.addFilter(show_visibly)
        sweep(self._file.parent)
        self._settings: dict[str, Any] = {}
        self._unsaved: dict[str, Any] = {}
        self._stamp: tuple[int, ...] | None = None
        _take_looks(self._now())
        self._looks = {name: getattr(LOOKS, name) for name in _LOOKS}
        LOOKS.changed.connect(self._remember_looks)
        self.jobs = jobs
        self._widgets = 0

    def widget_opened(self) -> None:
        """A widget was opened: start the engine, so that it is warm when needed."""
        self._widgets += 1
        self.jobs.warm_up()
        early = threading.Timer(EARLY, _import_early)
        early.daemon = True
        early.start()

    def widget_closed(self) -> None:
        """A widget was closed: after the last one the engine ends and frees its memory."""
        self._widgets -= 1
        if self._widgets == 0:
            self.jobs.free()

    def follow_looks(self, viewer: ViewerModel, view: LooksView) -> Callable[[], None]:
        """Show in a view how results and scans look, and let it choose; gives what ends that."""

        def show() -> None:
            view.show_looks(contours=LOOKS.contours, letters=LOOKS.letters)

        contour_view(viewer)
        pointer_view(viewer)
        view.contours_toggled.connect(lambda on: LOOKS.choose(contours=on))
        view.letters_toggled.connect(lambda on: LOOKS.choose(letters=on))
        LOOKS.changed.connect(show)
        show()
        return lambda: LOOKS.changed.disconnect(show)

    def _remember_looks(self) -> None:
        for name, before in list(self._looks.items()):
            self._looks[name] = getattr(LOOKS, name)
            if self._looks[name] != before:  # else another napari may have switched it
                self.remember(name, self._looks[name])

    def models(self) -> list[ModelEntry]:
        """Shipped models, then the user's own, as far as their files are there and whole."""
        entries = [ModelEntry(path, _header(path), shipped=True) for path in shipped_models().values()]
        for path in self._own_models():
            try:
                entries.append(ModelEntry(path, _header(path), shipped=False))
            except ProsmaError as error:
                _LOG.info("A model is left out: %s", error)
        return entries

    def _own_models(self) -> list[Path]:
        """Model files that were added, then the others in the folder of those that were trained here."""
        added = [Path(name) for name in self.recall("models", [])]
        try:
            found = sorted(self.models_folder.resolve().glob(f"[!.]*{MODEL_SUFFIX}"))
        except OSError:
            found = []
        return [*added, *(path for path in found if path not in added)]

    def add_model(self, path: Path) -> ModelEntry:
        """Remember a model file and return its entry; raises `ModelFileError` where it is none."""
        entry = ModelEntry(path.resolve(), read_header(path), shipped=False)
        known = next((e for e in self.models() if e.path == entry.path), None)
        added = self.recall("models", [])
        if str(entry.path) not in added and not (known is not None and known.shipped):
            self.remember("models", [*added, str(entry.path)])
            self.models_changed.emit()
        return known or entry

    def prefer(self, entry: ModelEntry, mark: ScanMark | None = None) -> None:
        """Prefer this model for scans like the one of `mark` from now on, if it is validated; see `remember_model`."""
        if mark is not None and entry.header.validated:
            self.remember_model(mark, entry, trained=True)
        self.model_preferred.emit(entry)

    def remember_model(self, mark: ScanMark, entry: ModelEntry, *, trained: bool = False) -> None:
        """Keep which model is for scans like this one: a user's choice, or what was trained."""
        kept = [known for known in self._choices() if (known["kind"], known["folder"]) != (mark.kind, mark.folder)]
        made = {"kind": mark.kind, "folder": mark.folder, "look": dict(mark.look)}
        kept.append(made | {"model": str(entry.path), "trained": trained})
        self.remember("chosen_models", kept[-MOST_CHOICES:])

    def model_for(self, mark: ScanMark) -> ModelChoice | None:
        """The last choice for scans of this kind whose model is still there: of this folder, of such a look, of any."""
        models = {str(model.path): model for model in self.models()}
        found: list[ModelChoice] = []
        for known in reversed(self._choices()):
            if known["kind"] == mark.kind and known["model"] in models:
                of = ScanMark(mark.kind, known["folder"], known["look"])
                near, like = mark.is_near(of), mark.is_like(of)
                found.append(ModelChoice(models[known["model"]], known["trained"], near, like))
        return max(found, key=lambda choice: (choice.near, choice.like), default=None)

    def _choices(self) -> list[dict[str, Any]]:
        """What is remembered, as far as it can be read."""
        kept = self.recall("chosen_models", [])
        known = [each for each in kept if _is_choice(each)] if isinstance(kept, list) else []
        return [each | {"kind": _present_kind(each["kind"])} for each in known]

    def recall(self, key: str, default: Any = None) -> Any:
        """A remembered setting (plain JSON values), also one that another napari has changed since."""
        return self._now().get(key, default)

    def remember(self, key: str, value: Any) -> None:
        """Keep a setting for the next time; what another napari has changed in others stays."""
        now = self._now()
        if now.get(key) == value and not self._unsaved:
            return
        settings = now | {key: value}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomic(self._file, json.dumps(settings, indent=1).encode())
        except (OSError, ProsmaError) as error:
            _LOG.warning("Settings could not be saved: %s", error)
            self._unsaved[key] = value
        else:
            self._settings, self._unsaved, self._stamp = settings, {}, _stamp(self._file)

    def _now(self) -> dict[str, Any]:
        """The settings in the file, which is read again where it is another, and those that could not be saved."""
        stamp = _stamp(self._file)
        if stamp is not None and stamp != self._stamp:
            self._settings, self._stamp = _read_settings(self._file), stamp
        return self._settings | self._unsaved


def _present_kind(kind: str) -> str:
    """A kind of scans by its present text: earlier versions called the pixels of pictures voxels."""
    return kind.replace("voxel", "pixel") if kind.startswith("2D") else kind


def recall_looks() -> None:
    """Let scans that are opened before any widget look as the user chose."""
    if not LOOKS.recalled:
        _take_looks(_read_settings(user_config_path("napari-prosma") / SETTINGS))


def _take_looks(settings: Mapping[str, Any]) -> None:
    LOOKS.choose(**{name: bool(settings.get(name, default)) for name, default in _LOOKS.items()})


def _header(path: Path) -> ModelHeader:
    """Header of a model file, read anew only where the file is another one than the last time."""
    stamp = _stamp(path)
    return read_header(path) if stamp is None else _header_of(path, stamp)  # the first says what is missing


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What tells a file from another one, or from an earlier state of it; None where it cannot be read."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


@lru_cache(maxsize=256)
def _header_of(path: Path, _file: tuple[int, ...]) -> ModelHeader:
    return read_header(path)


def _is_choice(known: Any) -> bool:
    """Whether an entry of the settings is a choice that can be used."""
    if not isinstance(known, dict) or not isinstance(known.get("look"), dict):
        return False
    texts = all(isinstance(known.get(name), str) for name in ("kind", "folder", "model"))
    numbers = all(isinstance(value, (int, float)) for value in known["look"].values())
    return texts and numbers and isinstance(known.get("trained"), bool)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        values = load_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _LOG.warning("Settings in %s cannot be read and are left out: %s", path, error)
        return {}
    return values if isinstance(values, dict) else {}


def _import_early() -> None:
    """Do, in this thread, what comes once with napari's first Labels layer or curve: there it would hold up all."""
    for name in ("pandas", "scipy.ndimage", "skimage.color.colorconv", "pyqtgraph"):
        importlib.import_module(name)
    with contextlib.suppress(ImportError, AttributeError):  # vispy computes its dashes once; only time is lost if not
        importlib.import_module("vispy.visuals.line.dash_atlas").DashAtlas()


def format_devices(chosen: str, ready: Ready | None, *, alive: bool) -> tuple[list[tuple[str, str]], str]:
    """Devices to choose from, as (text, name), and facts about the chosen one.

    Parameters
    ----------
    chosen : str
    ready : Ready or None
        What the engine found; None while it is not there.
    alive : bool
        Whether it is on its way.
    """
    facts = "Looking for a GPU…" if alive else "The devices are listed when the next run starts."
    names = ["auto"]
    if ready is not None:
        names = list(ready.devices)
        facts = ready.devices.get(chosen, "")
    if chosen not in names:
        names.append(chosen)
    return [("Auto" if n == "auto" else n.upper(), n) for n in names], facts
