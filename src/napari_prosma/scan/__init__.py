"""Shared by Segment and Gates: choice of scan, model and region."""
