"""Inference: tiles, blending, the way back to the scan's grid, measures."""
