"""Evidence that the gate earns its place: experiments, their runs, and the page made of their results."""
