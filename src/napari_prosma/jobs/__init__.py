"""Jobs of the engine, and other work outside the GUI thread."""
