"""The engine: a child process that owns torch, the model and the device, and the client that talks to it."""
