"""Arrays and their geometry: nothing here opens a file or knows a network."""
