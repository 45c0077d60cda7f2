"""Segmenting a scan: tiles, blending, the way back to the scan's grid, and how good the result is."""
