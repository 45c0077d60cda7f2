"""Jobs of the engine, and all else that runs beside the GUI thread."""
