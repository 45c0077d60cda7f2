"""Errors meant for people: each message says what was given, what is allowed and what to do."""

from __future__ import annotations

from collections.abc import Iterable

from prosma_core.printable import visible

LONGEST_TEXT = 400
"""Characters of an error's text: what fits into a widget and can be read at once."""
BELOW = "\n  "
"""What separates the lines of a text."""
_END = 150


class ProsmaError(Exception):
    """Base of every error this project raises on purpose; its text is shown to the user.

    Of a text that is longer than `LONGEST_TEXT` (names from files can be) the middle is left out: a text begins with
    what was given and ends with what to do.

    Parameters
    ----------
    *lines : str
        The text, and further lines below it. Names from files may be part of them: their line ends, controls and
        bidirectional marks become visible.
    """

    def __init__(self, *lines: str) -> None:
        shown = [visible(str(line)) for line in lines]
        while (over := len(BELOW.join(shown)) - LONGEST_TEXT) > 0:
            at = max(range(len(shown)), key=lambda i: len(shown[i]))
            most = max(len(shown[at]) - over, LONGEST_TEXT // len(shown) - len(BELOW))
            shown[at] = _shortened(shown[at], most)
        super().__init__(*shown)

    def __str__(self) -> str:
        return BELOW.join(self.args)


def _shortened(text: str, most: int) -> str:
    """A text without its middle."""
    end = min(_END, most // 2)
    return f"{text[: most - end - 3]} … {text[len(text) - end :]}"


class ConfigError(ProsmaError):
    """A setting, or a combination of settings, that cannot work."""


class FileFormatError(ProsmaError):
    """A file that is missing, empty, truncated, of an unknown format, or not what its header declares."""


class PartUnreadableError(FileFormatError):
    """A part of a file cannot be read; all others may be.

    Parameters
    ----------
    *lines : str
    files : iterable of str
        The files that hold these parts.
    """

    def __init__(self, *lines: str, files: Iterable[str] = ()) -> None:
        super().__init__(*lines)
        self.files = tuple(files)


class GeometryError(ProsmaError):
    """Axes, shapes, spacings or affines that are unusable or do not agree."""


class ChannelError(ProsmaError):
    """A number of channels the model does not take."""


class IntensityError(ProsmaError):
    """Voxel values nothing can be computed from: NaN, infinity, or one constant value."""


class LabelError(ProsmaError):
    """Label values that are not classes: fractions, negatives, or numbers outside the model's classes."""


class DatasetError(ProsmaError):
    """A training folder that lacks images, labels, pairs or a usable split."""


class NothingDoneError(DatasetError):
    """Every scan of several failed."""


class ModelFileError(ProsmaError):
    """A model file that is truncated, altered, of a newer schema, or not a model file at all."""


class OutputError(ProsmaError):
    """A result that cannot be written: it exists already, or its place or format is not usable."""


class DeviceError(ProsmaError):
    """A compute device that is not there, or that ran out of memory with nothing left to fall back to."""


class TrainingError(ProsmaError):
    """Training that cannot go on: NaN or infinity in the loss, a resume that does not fit the run."""


class DivergedError(TrainingError):
    """NaN or infinity in the loss, the gradients or what the network gives."""


class RunLockedError(ProsmaError):
    """A run folder that another process trains into; the text says which."""


class MissingExtraError(ProsmaError):
    """An optional dependency that is not installed; the text names the extra to install."""


class ClusterError(ProsmaError):
    """A Dask cluster that does not answer, has no workers, or whose workers do not fit this computer."""


class EngineError(ProsmaError):
    """The engine process could not be started, died, or could not be understood."""


class EngineBusyError(EngineError):
    """The engine has a job already; one at a time."""


class Signaled(BaseException):
    """The process was told to end.

    Parameters
    ----------
    number : int
        Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
