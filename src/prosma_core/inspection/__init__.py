"""A look into the gates: what they did to a scan, and what becomes of it when they are changed."""
