"""The environment of processes that compute."""

from __future__ import annotations

COMPUTING = {"THP_MEM_ALLOC_ENABLE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""What is set before torch is imported; what a person has set stays.

Memory in large pages: every tensor of more than 32 MiB is fresh memory on Linux, and the system clears it page by page,
which for an addition takes longer than the addition. PyTorch asks for pages of 2 MiB with this.

Threads that wait sleep: otherwise they spin, and where another program, or the viewer, takes part of a core, they hold
up the very thread that they wait for (a training step of 2 s takes 12 s instead of 4; alone, 2.1 and 2.2 s).
"""
