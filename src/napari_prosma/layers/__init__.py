"""Layers of the viewer: the only place that touches their data and transforms."""
