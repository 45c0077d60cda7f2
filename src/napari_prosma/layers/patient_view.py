"""Patient scans as radiologists look at them: orientation of the camera and of the planes, letters at the edges. No Qt.

Scans of a patient are drawn in one world, whichever way their files store them: its last three axes run to the
patient's superior, anterior and right (see `napari_prosma.layers.placement`). What is set here is the view alone:
layers, their transforms and their voxels stay unchanged.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from napari.components.overlays import TextOverlay
from napari.layers import Image
from napari.utils.camera_orientations import DEFAULT_ORIENTATION
from numpy.typing import NDArray

from napari_prosma.layers.contours import one_per_viewer
from napari_prosma.layers.results import LOOKS
from napari_prosma.layers.scan import METADATA, RANGE
from prosma_core.io.names import FORMATS, image_suffix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari.components import ViewerModel

    from prosma_core.data.geometry import ImageSpec

Orientation = tuple[str, str, str]
"""Where depth, vertical and horizontal axis of a view point, as napari's camera says it."""
Edge = Literal["top", "bottom", "left", "right"]

SUPERIOR, ANTERIOR, RIGHT = -3, -2, -1
"""Axes of the world of a patient, counted from the viewer's last."""
LETTERS = {SUPERIOR: ("I", "S"), ANTERIOR: ("P", "A"), RIGHT: ("L", "R")}
"""Where each of them begins, and where it ends."""
SIZE = 15
"""Font size of the letters."""
CLEAR = 0.8
"""A direction has a letter in 3D where its cosine with a patient's axis is at least this."""
_PLACES: dict[Edge, str] = {
    "top": "top_center",
    "bottom": "bottom_center",
    "left": "middle_left",
    "right": "middle_right",
}


def standing_orientation(displayed: Sequence[int], ndim: int) -> Orientation:
    """Orientation of the camera for a patient: superior and anterior up, the patient's right at the left.

    Parameters
    ----------
    displayed : sequence of int
        Axes of the viewer that are displayed, or all in their order: the last three decide on the depth.
    ndim : int
        Axes of the viewer.

    Returns
    -------
    tuple of (str, str, str)
        In 3D, never a mirror image of the patient.
    """
    shown = [axis - ndim for axis in displayed][-3:]
    turned = [shown.index(axis) for axis in (SUPERIOR, ANTERIOR, RIGHT) if axis in shown]
    even = len(turned) < 3 or np.linalg.det(np.eye(3)[turned]) > 0
    return ("away" if even else "towards", "up", "left")


def standing_order(order: Sequence[int], before: Sequence[int]) -> tuple[int, ...]:
    """Order of the viewer's axes in which a plane of a patient stands: superior up where it is in the plane.

    Parameters
    ----------
    order : sequence of int
        As napari has it now.
    before : sequence of int
        As it was. Where the patient's three axes were rolled, with time or without, the next of axial, sagittal and
        coronal plane follows; a plane that was transposed stays so.
    """
    n, now, was = len(order), tuple(order), tuple(before)
    if n < 3 or len(was) != n:
        return now
    superior, anterior, right = n + SUPERIOR, n + ANTERIOR, n + RIGHT
    planes = [(superior, anterior, right), (right, superior, anterior), (anterior, superior, right)]
    rolled = [place for place in range(n) if now[place] != was[place]]  # napari rolls not every axis
    turning = tuple(was[place] for place in rolled)
    if {superior, anterior, right} <= set(turning) and tuple(now[p] for p in rolled) == (turning[-1], *turning[:-1]):
        for plane, following in zip(planes, planes[1:] + planes[:1], strict=True):
            if set(was[-2:]) == set(plane[1:]):
                return (*(axis for axis in was if axis not in plane), *following)
    if set(now[-2:]) != set(was[-2:]):
        for _, vertical, horizontal in planes:
            if now[-2:] == (horizontal, vertical):
                return (*now[:-2], vertical, horizontal)
    return now


def edge_letters(displayed: Sequence[int], ndim: int, orientation: Sequence[str]) -> dict[Edge, str]:
    """Letter of the patient's direction at each edge of a canvas in 2D; none along axes that are not the patient's.

    Parameters
    ----------
    displayed : sequence of int
        The viewer's vertical and horizontal axis.
    ndim : int
        Axes of the viewer.
    orientation : sequence of str
        Of the camera.
    """
    vertical, horizontal = (LETTERS.get(axis - ndim, ("", "")) for axis in displayed[-2:])
    down, right = str(orientation[1]) == "down", str(orientation[2]) == "right"
    return {
        "top": vertical[not down],
        "bottom": vertical[down],
        "left": horizontal[not right],
        "right": horizontal[right],
    }


def turned_letters(displayed: Sequence[int], ndim: int, camera: Any) -> dict[Edge, str]:
    """Letters at the edges of a canvas in 3D, where the camera looks nearly along the patient's axes."""
    view, up = np.array(camera.view_direction), np.array(camera.up_direction)
    right = np.cross(view, up) * (1 if str(camera.handedness) == "right" else -1)
    sides: dict[Edge, NDArray[Any]] = {"top": up, "bottom": -up, "left": -right, "right": right}
    return {edge: _nearest(direction, displayed, ndim) for edge, direction in sides.items()}


def _nearest(direction: NDArray[Any], displayed: Sequence[int], ndim: int) -> str:
    largest = int(np.abs(direction).argmax())
    if abs(direction[largest]) < CLEAR:
        return ""
    return LETTERS.get(displayed[largest] - ndim, ("", ""))[int(direction[largest] > 0)]


def is_patient(layer: Any) -> bool:
    """Whether a layer is a 3D scan, or a result on one, whose file knows the patient's axes."""
    spec: ImageSpec | None = (layer.metadata.get(METADATA) or {}).get("spec")
    if spec is None or spec.world != "ras" or spec.spatial_ndim != 3:
        return False
    known = spec.format != "nifti" or spec.header is None  # a NIfTI file may say that it does not know
    return known or bool(int(spec.header["qform_code"]) or int(spec.header["sform_code"]))


def is_picture(layer: Any) -> bool:
    """Whether a layer is an image of no patient: read as such, in color, or from a file of pictures."""
    spec: ImageSpec | None = (layer.metadata.get(METADATA) or {}).get("spec")
    if spec is not None:
        return spec.world != "ras" or spec.spatial_ndim != 3
    path = layer.source.path
    raster = path and FORMATS.get(image_suffix(Path(path)).lower(), "raster") == "raster"
    return bool(getattr(layer, "rgb", False) or raster)


class PatientView:
    """Lets a viewer stand as radiologists expect while a patient's scan is worked on, with letters at its edges.

    The layer that is selected decides: of a picture napari's own orientation is taken, and layers of which nothing is
    known change nothing. Where the user has set another orientation of the camera, before or meanwhile, it stays.

    Parameters
    ----------
    viewer : napari.Viewer or ViewerModel

    Attributes
    ----------
    patient : bool
        Whether a patient's scan is looked at.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self.patient = False
        self._viewer = weakref.ref(viewer)
        self._before = tuple(viewer.dims.order)
        self._own = False  # the user's orientation
        self._setting = False
        self._standing = False
        self._angles: tuple[float, ...] | None = None  # of the camera, as set here
        camera, dims = viewer.scene.camera.events, viewer.dims.events
        viewer.layers.selection.events.active.connect(self._on_active)
        viewer.layers.events.removed.connect(self._on_active)
        camera.orientation.connect(self._on_orientation)
        camera.angles.connect(self._on_angles)
        dims.order.connect(self._on_dims)
        dims.ndisplay.connect(self._on_dims)
        viewer.events.reset_view.connect(self._on_reset)
        LOOKS.changed.connect(self._show_letters)
        self._on_active()

    def look_at(self, layer: Any) -> None:
        """Look at this layer: it is chosen to work on."""
        viewer = self._viewer()
        if viewer is None:
            return
        if layer is not None:
            _widen(layer)
        gone = self.patient and not any(is_patient(each) for each in viewer.layers)
        if layer is not None and is_patient(layer):
            self._decide(viewer, patient=True)
        elif gone or (layer is not None and is_picture(layer)):
            self._decide(viewer, patient=False)

    # --- Inside -----------------------------------------------------------------------------------------------------

    def _decide(self, viewer: ViewerModel, *, patient: bool) -> None:
        changed, self.patient = patient != self.patient, patient
        if changed:
            self._before = tuple(viewer.dims.order)
            self._orient(viewer)
            if patient:
                self._turn(viewer)
            else:
                self._turn_back(viewer)
        if changed or patient:
            self._show_letters()

    def _orient(self, viewer: ViewerModel) -> None:
        """Set the camera, unless the user did."""
        camera = viewer.scene.camera
        if not self._standing and _text(camera.orientation) != DEFAULT_ORIENTATION:
            self._own = True
        if self._own or not (self.patient or self._standing):
            return
        wanted = standing_orientation(viewer.dims.order, viewer.dims.ndim) if self.patient else DEFAULT_ORIENTATION
        self._standing = self.patient
        if _text(camera.orientation) != wanted:
            with self._ours():
                camera.orientation = wanted

    def _turn(self, viewer: ViewerModel) -> None:
        """In 3D, look at the patient from the front where nobody has turned the camera."""
        camera, dims = viewer.scene.camera, viewer.dims
        if dims.ndisplay != 3 or self._own or not self._standing or any(camera.angles):
            return
        axes = [axis - dims.ndim for axis in dims.displayed]
        if set(axes) == set(LETTERS):
            forward, up = np.zeros(3), np.zeros(3)
            forward[axes.index(ANTERIOR)], up[axes.index(SUPERIOR)] = -1, 1
            camera.set_view_direction(tuple(forward), tuple(up))
            self._angles = tuple(camera.angles)

    def _turn_back(self, viewer: ViewerModel) -> None:
        """Take back the angles that were set for a patient, unless somebody has turned the camera since."""
        camera = viewer.scene.camera
        if self._angles is not None and tuple(camera.angles) == self._angles:
            camera.angles = (0, 0, 0)
        self._angles = None

    @contextmanager
    def _ours(self) -> Iterator[None]:
        """Around what is set here."""
        before, self._setting = self._setting, True
        try:
            yield
        finally:
            self._setting = before

    def _on_active(self, _event: Any = None) -> None:
        viewer = self._viewer()
        if viewer is not None:
            self.look_at(viewer.layers.selection.active)

    def _on_orientation(self, _event: Any) -> None:
        if not self._setting:
            self._own = True
        self._show_letters()

    def _on_angles(self, _event: Any) -> None:
        self._show_letters()

    def _on_reset(self, _event: Any) -> None:
        viewer = self._viewer()
        if viewer is not None:
            self._turn(viewer)

    def _on_dims(self, _event: Any) -> None:
        viewer = self._viewer()
        if viewer is None or self._setting:
            return
        if self._standing and not self._own:
            wanted = standing_order(viewer.dims.order, self._before)
            if wanted != tuple(viewer.dims.order):
                with self._ours():
                    viewer.dims.order = wanted
            self._orient(viewer)
            self._turn(viewer)
        self._before = tuple(viewer.dims.order)
        self._show_letters()

    def _show_letters(self) -> None:
        viewer = self._viewer()
        if viewer is None:
            return
        letters: dict[Edge, str] = dict.fromkeys(_PLACES, "")
        dims, camera = viewer.dims, viewer.scene.camera
        if self.patient and LOOKS.letters:
            if dims.ndisplay == 2:
                letters = edge_letters(dims.displayed, dims.ndim, camera.orientation)
            else:
                letters = turned_letters(dims.displayed, dims.ndim, camera)
        overlays = viewer.canvas.overlays
        for edge, letter in letters.items():
            name = f"prosma_{edge}"
            if name not in overlays:
                if not letter:
                    continue
                overlays[name] = TextOverlay(position=_PLACES[edge], font_size=SIZE, box=True, gridded=True)
            overlay = overlays[name]
            if overlay.text != letter:
                overlay.text = letter
            if overlay.visible != bool(letter):
                overlay.visible = bool(letter)


def _widen(layer: Any) -> None:
    """Let the sliders of an image that was opened with an intensity window reach all of its values; once."""
    values = (layer.metadata.get(METADATA) or {}).pop(RANGE, None)
    if values is not None and isinstance(layer, Image):
        low, high = layer.contrast_limits
        layer.contrast_limits_range = (min(low, values[0]), max(high, values[1]))


def _text(orientation: Sequence[Any]) -> Orientation:
    depth, vertical, horizontal = map(str, orientation)
    return depth, vertical, horizontal


patient_view = one_per_viewer(PatientView)
"""The one of a viewer."""


def open_viewers() -> list[ViewerModel]:
    """Viewers of all windows: into which of them a file is dropped is not told to who reads it."""
    module = sys.modules.get("napari.viewer")  # it is not imported for this
    return [] if module is None else list(module.Viewer._instances)
