"""Slices of a label map that a person checked or edited; the others may be a model's own result."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosma_core.data.frames import planes_of, slice_axis
from prosma_core.data.geometry import ImageSpec, Scan
from prosma_core.errors import GeometryError
from prosma_core.printable import counted


@dataclass(frozen=True)
class SliceStates:
    """Which slices of a label map a person checked or edited.

    Slices are numbered along `axis`, time point by time point: slice 3 of time point 2 of 10 slices is number 23.

    Attributes
    ----------
    axis : str
        Letter of the slices' axis; empty for a picture, which is one slice.
    size, frames : int
        Slices along it, and time points; 0 slices where the label map was not looked at yet (see `on`).
    checked : tuple of int
        Slices that a person called right, also where nothing is painted on them; ascending.
    edited : tuple of int
        Slices that differ from what the label map was made from, checked or not; ascending.
    only : bool
        Whether nothing but checked and edited slices is annotated: the rest is a model's result.
    strokes : tuple of (int, tuple of int)
        Slices that were changed from the side, or together with others, so that nobody looked at them as a whole: only
        the voxels that were changed are annotated. Of each its number and runs of them, as first voxel and length of
        each run, one after the other, in the order of the slice's voxels (see `runs_of`); ascending.
    """

    axis: str
    size: int
    frames: int = 1
    checked: tuple[int, ...] = ()
    edited: tuple[int, ...] = ()
    only: bool = False
    strokes: tuple[tuple[int, tuple[int, ...]], ...] = ()

    @property
    def count(self) -> int:
        """Number of slices, of all time points."""
        return self.size * self.frames

    @property
    def whole(self) -> tuple[int, ...]:
        """Slices that are checked or edited, and annotated as a whole."""
        return tuple(sorted({*self.checked, *self.edited}))

    @property
    def partly(self) -> tuple[int, ...]:
        """Slices of which only changed voxels are annotated."""
        return tuple(sorted({index for index, _ in self.strokes} - {*self.checked, *self.edited}))

    @property
    def annotated(self) -> tuple[int, ...]:
        """Slices of which anything is annotated."""
        return tuple(sorted({*self.whole, *self.partly}))

    @property
    def untouched(self) -> tuple[int, ...]:
        """Slices of which nothing is annotated."""
        return tuple(sorted(set(range(self.count)) - set(self.annotated)))

    def state(self, index: int) -> str:
        """``checked``, ``edited``, ``partly edited`` or ``untouched``: the first that it is."""
        states = {"checked": self.checked, "edited": self.edited, "partly edited": self.partly}
        return next((name for name, those in states.items() if index in those), "untouched")

    def words(self) -> str:
        """Counts, as in ``3 checked (1 of them edited), 2 edited, 26 untouched``; of a picture its state.

        Partly edited slices are named where there are some.
        """
        if not self.axis and self.frames == 1:
            return "checked and edited" if self.checked and self.edited else self.state(0)
        edited, both = len(set(self.edited) - set(self.checked)), len(set(self.edited) & set(self.checked))
        parts = [f"{len(self.checked)} checked{f' ({both} of them edited)' if both else ''}"]
        parts += [f"{edited} edited"] if edited or not both else []
        parts += [f"{len(self.partly)} partly edited"] if self.partly else []
        return ", ".join([*parts, f"{len(self.untouched)} untouched"])

    def name(self, index: int) -> str:
        """A slice in words, as in ``slice 7 (z)`` or ``time point 2, slice 7 (z)``; ``picture`` where it is all."""
        if not self.axis:
            return f"time point {index}" if self.frames > 1 else "picture"
        frame, at = divmod(index, self.size)
        return f"{f'time point {frame}, ' if self.frames > 1 else ''}slice {at} ({self.axis})"

    def marked(self, index: int, *, checked: bool) -> SliceStates:
        """The same with a slice checked, or not checked any more."""
        kept, edited = set(self.checked) - {index}, {*self.edited, *({index} & set(self.partly) if checked else ())}
        return replace(self, checked=tuple(sorted(kept | {index} if checked else kept)), edited=tuple(sorted(edited)))

    def mask(self, which: Collection[int], spec: ImageSpec) -> NDArray[np.bool_]:
        """Voxels of some slices.

        Parameters
        ----------
        which : collection of int
        spec : ImageSpec
            Of the label map, without channels.

        Returns
        -------
        ndarray, bool, as many axes as the label map
            To be broadcast to its shape.
        """
        flags = np.zeros(self.count, bool)
        flags[list(which)] = True
        wanted = {"t": self.frames, self.axis: self.size}
        return flags.reshape([wanted.get(letter, 1) for letter in spec.axes])

    def known(self, spec: ImageSpec) -> NDArray[np.bool_]:
        """Voxels that are annotated: whole slices, and those that were changed of others; as of `mask`."""
        found = self.mask(self.whole, spec)
        partly = set(self.partly)
        if not partly:
            return found
        found = np.broadcast_to(found, spec.shape).copy()
        planes = list(planes_of(Scan(found, spec), self.axis))
        for index, runs in self.strokes:
            if index in partly:
                changed = np.zeros(planes[index].size, bool)
                for first, length in zip(runs[::2], runs[1::2], strict=True):
                    changed[first : first + length] = True
                planes[index][...] = changed.reshape(planes[index].shape)
        return found

    def part(self, labels: Scan) -> Scan:
        """The label map with 0 wherever nothing of it is annotated; as it is where all of it may be."""
        if not self.only:
            return labels
        data = np.asarray(labels.data)
        return Scan(np.where(self.known(labels.spec), data, data.dtype.type(0)), labels.spec)

    @property
    def validated(self) -> tuple[int, ...]:
        """Slices along the axis that may be validated on: edited ones, with none of a time point that is only checked.

        A slice that was checked and not edited is a model's own result: a model is not judged by it.
        """
        own = {index % self.size for index in self.edited}
        return tuple(sorted(own - {index % self.size for index in set(self.checked) - set(self.edited)}))

    @property
    def judges(self) -> bool:
        """Whether anything may be validated on; where the label map was not looked at yet, any edited slice may."""
        return bool(self.validated if self.size else self.edited)

    def evenly(self, holds: Callable[[int], bool]) -> int | None:
        """The slice that spreads annotated ones most evenly: the middle of the longest run of untouched slices.

        Parameters
        ----------
        holds : callable
            Whether a slice, by its number, holds something; one that does not is left out as long as another does.

        Returns
        -------
        int or None
            None where no slice is untouched.
        """
        runs: list[list[int]] = []
        for index in self.untouched:
            if runs and runs[-1][-1] == index - 1 and index % self.size:
                runs[-1].append(index)
            else:
                runs.append([index])
        spread: list[int] = []
        for run in sorted(runs, key=len, reverse=True):
            middle = (run[0] + run[-1]) / 2
            spread += sorted(run, key=partial(_away, middle))
        return next((index for index in spread if holds(index)), spread[0] if spread else None)

    def fits(self, spec: ImageSpec) -> bool:
        """Whether a label map has these slices."""
        size = spec.size(self.axis) if self.axis and self.axis in spec.spatial_axes else 1
        known = self.axis in spec.spatial_axes if self.axis else spec.spatial_ndim == 2
        return known and (self.size, self.frames) == (size, spec.num_frames)

    def on(self, spec: ImageSpec, axis: str | None, name: str) -> SliceStates | None:
        """The same for a label map that was read; None where a note of its file does not fit it any more.

        Parameters
        ----------
        spec : ImageSpec
            Of the label map.
        axis : str or None
            Letter of the axis of slices whose `size` is not known; None is the one that a 2D network walks along.
        name : str
            Whose slices they are, for the error text.

        Raises
        ------
        GeometryError
            Slices that were given are not there.
        """
        if self.size:
            return self if self.fits(spec) else None
        letter = "" if spec.spatial_ndim == 2 else spec.spatial_axes[slice_axis(spec, axis)]
        found = replace(self, axis=letter, size=spec.size(letter) if letter else 1, frames=spec.num_frames)
        if wrong := [index for index in self.annotated if index >= found.count]:
            along = f" along {letter}" if letter else ""
            msg = (
                f"Slice {wrong[0]} of {name} is given as annotated, but it has {counted(found.count, 'slice')}{along}, "
                "numbered from 0. Correct annotated_slices."
            )
            raise GeometryError(msg)
        return found

    def as_json(self) -> dict[str, Any]:
        """Content of a note, see `from_json`."""
        return {
            "axis": self.axis,
            "size": self.size,
            "frames": self.frames,
            "checked": list(self.checked),
            "edited": list(self.edited),
            "only": self.only,
            **({"strokes": {str(index): list(runs) for index, runs in self.strokes}} if self.strokes else {}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SliceStates:
        """States of a note.

        Raises
        ------
        ValueError
            It is damaged.
        """
        size, frames = (int(values[key]) for key in ("size", "frames"))
        checked, edited = (tuple(sorted({int(i) for i in values[key]})) for key in ("checked", "edited"))
        axis, only = values["axis"], values["only"]
        if axis not in ("", "z", "y", "x") or not isinstance(only, bool) or size < 1 or frames < 1:
            msg = f"axis {axis!r}, {size} slices"
            raise ValueError(msg)
        given = {int(index): tuple(int(n) for n in runs) for index, runs in values.get("strokes", {}).items()}
        if any(not 0 <= index < size * frames for index in (*checked, *edited, *given)):
            msg = f"a slice beyond {size * frames}"
            raise ValueError(msg)
        if any(len(runs) % 2 or min(runs, default=0) < 0 for runs in given.values()):
            msg = "runs of voxels that are none"
            raise ValueError(msg)
        return cls(axis, size, frames, checked, edited, only, tuple(sorted(given.items())))


def runs_of(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    """First voxel and length of each run of a mask, one after the other."""
    edges = np.flatnonzero(np.diff(mask.reshape(-1).astype(np.int8), prepend=0, append=0))
    return tuple(np.stack([edges[::2], edges[1::2] - edges[::2]], 1).reshape(-1).tolist())


def _away(middle: float, index: int) -> float:
    return abs(index - middle)
