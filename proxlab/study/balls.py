"""Ball arithmetic (Arb, by python-flint): precision, comparisons that are certain, and exact conversions."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from flint import arb, ctx

__all__ = [
    "Ball",
    "UndecidedError",
    "clip",
    "compare",
    "exponent",
    "float_below",
    "norm",
    "pack",
    "precision",
    "root",
    "squares",
    "unpack",
]

Ball = Any
"""A ball of python-flint, which has no types."""

# The precision is a global of python-flint.
_LOCK = threading.RLock()


class UndecidedError(ArithmeticError):
    """Balls overlap, so that more digits are needed."""


@contextmanager
def precision(bits: int) -> Iterator[None]:
    """Compute with so many bits; one thread at a time."""
    with _LOCK:
        before = ctx.prec
        ctx.prec = bits
        try:
            yield
        finally:
            ctx.prec = before


def compare(a: Ball, b: Ball) -> int:
    """Return the sign of ``a - b``: 0 where both are exact and equal.

    Raises
    ------
    UndecidedError
        If the balls overlap.
    """
    difference = a - b
    if difference > 0:
        return 1
    if difference < 0:
        return -1
    if difference == 0:
        return 0
    raise UndecidedError("balls overlap")


def clip(a: Ball, low: Ball, high: Ball) -> Ball:
    """Return ``a``, not below ``low`` and not above ``high``."""
    return a.max(low).min(high)


def exponent(ball: Ball) -> int:
    """Return the least ``e`` with the middle, which is not zero, below ``2**e`` in modulus."""
    mantissa, power = (int(n) for n in ball.mid().man_exp())
    return power + mantissa.bit_length()


def squares(values: Iterable[Ball]) -> Ball:
    """Return the sum of squares."""
    return sum((v * v for v in values), arb(0))


def root(ball: Ball) -> Ball:
    """Return the square root of what is nonnegative, also where its ball reaches below zero."""
    return ball.sqrt() if ball.lower() >= 0 else arb(0).union(ball.upper().sqrt())


def norm(values: Iterable[Ball]) -> Ball:
    """Return the Euclidean length."""
    return root(squares(values))


def float_below(ball: Ball) -> float:
    """Return a float that is not above a nonnegative ball, one below the nearest where there is one."""
    if not ball.is_finite():
        return math.inf if ball == arb("inf") else 0.0
    return max(0.0, math.nextafter(float(ball.lower()), -math.inf))


def pack(ball: Ball) -> bytes:
    """Write a finite ball down exactly."""
    numbers = (int(n) for part in (ball.mid(), ball.rad()) for n in part.man_exp())
    return " ".join(f"{n:x}" for n in numbers).encode()


def unpack(text: bytes) -> Ball:
    """Read what :func:`pack` has written."""
    middle, exponent, radius, radius_exponent = (int(n, 16) for n in text.split())
    return arb((middle, exponent), (radius, radius_exponent))
