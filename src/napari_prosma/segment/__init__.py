"""The Segment widget."""

from napari_prosma.segment.widget import SegmentWidget

__all__ = ["SegmentWidget"]
