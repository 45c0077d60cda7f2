"""Memory in large pages, for processes that compute.

Every tensor of more than 32 MiB is fresh memory on Linux, and the system clears it page by page: for an addition that
takes longer than the addition. PyTorch asks for pages of 2 MiB where this variable is set before it first allocates;
elsewhere it does nothing.
"""

from __future__ import annotations

LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
"""Environment of a process that computes; what a person has set stays."""
