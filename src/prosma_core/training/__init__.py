"""Training: from a folder of annotated scans to a model file, resumable at any time."""
