"""Inspection of the gates: what they remove from a scan, and what changes when they are edited."""
