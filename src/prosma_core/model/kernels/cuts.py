"""Whole numbers for cutting tensors into blocks; Triton's own are slow when called from Python."""

from __future__ import annotations


def ceil_div(a: int, b: int) -> int:
    """Quotient rounded up."""
    return -(-a // b)


def power_of_2(n: int) -> int:
    """Least power of two that is not below n >= 1."""
    return 1 << (n - 1).bit_length()
