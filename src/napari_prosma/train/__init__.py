"""The Train widget."""
