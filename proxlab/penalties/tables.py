"""Tables of pieces: radial penalties whose slope is piecewise affine, and what is proved about each table.

A penalty may bring any table that :func:`check_pieces` admits. What solves and certifies it relies on what
:func:`form` says is proved, and on nothing else (docs: adding a penalty).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from enum import Enum
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

__all__ = [
    "Form",
    "Piece",
    "Table",
    "check_pieces",
    "convex",
    "doubts",
    "exactly_convex",
    "flat_after",
    "form",
    "joined",
    "jumps",
    "kinks",
]

#: How far a slope may fall below zero, and a value be off where two pieces meet, relative to what they are
#: computed from: rounding.
SLOPE_ROUNDING, VALUE_ROUNDING, UNDERFLOW = 1e-14, 1e-12, 2.0**-1060


class Piece(NamedTuple):
    """An affine piece of a radial penalty's slope: ``p'(r) = a - c r`` from ``start`` to the next piece.

    ``value`` is ``p(start)``; on the first piece it is ``p(0+)``, which is positive where ``p`` jumps at
    zero.
    """

    start: float
    value: float
    a: float
    c: float


Table = tuple[Piece, ...]


class Form(Enum):
    """What is proved about a table; the value says it in words."""

    RIDGE = "one piece without a jump, whose slope does not fall: one local minimiser"
    CONCAVE = "no jump, and a concave slope that falls to a flat end: one local minimiser before it, and x"
    JUMP = "a jump at zero, and flat from there: zero and x"
    GENERAL = "one local minimiser at most on each piece, and at each kink where the slope jumps up"

    @property
    def has_kernels(self) -> bool:
        """Whether compiled kernels, which look for one inner minimiser, know the form."""
        return self is not Form.GENERAL


def flat_after(steep: Piece, start: float, value: float) -> Piece:
    """Return the flat piece that begins at ``start``; where that is no number, at the greatest."""
    if start < math.inf:
        return Piece(start, value, 0.0, 0.0)
    start = sys.float_info.max
    length = start - steep.start
    return Piece(start, steep.value + length * (steep.a - steep.c * (steep.start + 0.5 * length)), 0.0, 0.0)


def joined(*pieces: Piece) -> Table:
    """Return the pieces but those without extent, and those that begin beyond all numbers.

    For tables that degenerate with their parameters: at λ = 0 the first piece of MCP has no extent.
    """
    kept = [p for p, q in pairwise(pieces) if q.start > p.start]
    return tuple(p for p in (*kept, pieces[-1]) if p.start < math.inf)


def check_pieces(pieces: object) -> Table:
    """Return a table with all entries as floats, or raise an error that names what is wrong.

    Parameters
    ----------
    pieces : iterable of Piece
        At least one. The first starts at 0, and starts increase; ``a - c r`` is at least 0 on the whole
        piece, the last one without end; ``value`` is what the pieces before add up to, and at least 0 on the
        first: all up to rounding.

    Raises
    ------
    TypeError
        If an entry is not a real number.
    ValueError
        If the table is not admissible.
    """
    try:
        return _checked(pieces)
    except TypeError:  # not hashable, or not of numbers
        if not isinstance(pieces, Iterable):
            raise TypeError(f"pieces: must be a tuple of Piece, got {pieces!r}") from None
        return _check(tuple(pieces))


def _check(pieces: tuple[object, ...]) -> Table:
    if not pieces:
        raise ValueError("pieces: must hold at least one Piece, got none")
    table = tuple(_check_piece(k, piece) for k, piece in enumerate(pieces))
    first, last = table[0], table[-1]
    if first.start != 0.0:
        raise ValueError(f"pieces: the first must start at 0, got {first}")
    if first.value < 0.0:
        raise ValueError(f"pieces: the first has the value p(0+), at least 0, got {first}")
    for k, (piece, after) in enumerate(pairwise(table)):
        if not after.start > piece.start:
            raise ValueError(f"pieces: starts must increase, but pieces[{k + 1}] is {after} after {piece}")
        length = after.start - piece.start
        middle = piece.start + 0.5 * length
        reached = piece.value + length * (piece.a - piece.c * middle)
        scale = abs(piece.value) + length * (abs(piece.a) + abs(piece.c) * after.start) + abs(after.value)
        # What overflows is equal.
        if after.value != reached and not abs(after.value - reached) <= VALUE_ROUNDING * scale + UNDERFLOW:
            raise ValueError(
                f"pieces: p must be continuous, but pieces[{k + 1}] has the value {after.value!r} where "
                f"pieces[{k}] arrives at {reached!r}"
            )
        _check_slope(k, piece, piece.start)
        _check_slope(k, piece, after.start)
    _check_slope(len(table) - 1, last, last.start)
    if last.c > 0.0:
        raise ValueError(
            f"pieces: the slope a - c r must be at least 0, also on the last piece, which has no end: its c "
            f"must be at most 0, got {last}"
        )
    # What goes on as before is no piece of its own: at λ = 0 all that the capped norm has is flat.
    return (first, *(q for p, q in pairwise(table) if (q.a, q.c) != (p.a, p.c)))


_checked = lru_cache(maxsize=1024)(_check)


def _check_piece(k: int, piece: object) -> Piece:
    if isinstance(piece, str) or not isinstance(piece, Iterable):
        raise TypeError(f"pieces: pieces[{k}] must be a Piece(start, value, a, c), got {piece!r}")
    entries = tuple(piece)
    if len(entries) != len(Piece._fields):
        raise ValueError(f"pieces: pieces[{k}] must be a Piece(start, value, a, c), got {piece!r}")
    for name, v in zip(Piece._fields, entries, strict=True):
        if isinstance(v, (bool, np.bool_)) or not isinstance(v, (int, float, np.integer, np.floating)):
            raise TypeError(f"pieces: {name} of pieces[{k}] must be a real number, got {v!r}")
        # A value beyond all numbers is as good as one of them: no group reaches it.
        if not math.isfinite(v) and not (name == "value" and k > 0 and v > 0):
            raise ValueError(f"pieces: {name} of pieces[{k}] must be finite, got {v!r}")
    return Piece(*(float(v) for v in entries))


def _check_slope(k: int, piece: Piece, r: float) -> None:
    slope = piece.a - piece.c * r
    if not slope >= -SLOPE_ROUNDING * (abs(piece.a) + abs(piece.c) * r) - UNDERFLOW:
        raise ValueError(
            f"pieces: the slope a - c r must be at least 0, but that of pieces[{k}], {piece}, is {slope:g} "
            f"at r = {r!r}"
        )


@lru_cache(maxsize=1024)
def form(table: Table) -> Form:
    """Return what is proved about an admissible table: the one place that says it.

    Where the slope is concave and does not increase, the secular function ``g(r) = G(r, η p'(r))`` is
    concave up to the flat end as a whole, so that it crosses 1 upwards at most once there (docs: the
    mathematics, §3). A slope that falls and is convex, or jumps, has no such bound.
    """
    first, steep, last = table[0], table[:-1], table[-1]
    flat_end = last.a == 0.0 and last.c == 0.0
    if len(table) == 1:
        if first.value > 0.0:
            return Form.JUMP if flat_end else Form.GENERAL
        return Form.RIDGE if first.a >= 0.0 >= first.c else Form.GENERAL
    joins = all(
        math.isclose(p.a - p.c * q.start, q.a - q.c * q.start, rel_tol=1e-14, abs_tol=1e-14 * first.a)
        for p, q in pairwise(steep)
    )
    bends = first.c >= 0.0 and all(p.c <= q.c for p, q in pairwise(steep))
    falls = flat_end and first.value == 0.0 and first.a > 0.0
    return Form.CONCAVE if falls and joins and bends else Form.GENERAL


def jumps(table: Table) -> list[tuple[float, float]]:
    """Return by how much the slope jumps where pieces meet, and the size of what it is computed from."""
    return [
        (
            (q.a - q.c * q.start) - (p.a - p.c * q.start),
            abs(p.a) + abs(q.a) + (abs(p.c) + abs(q.c)) * q.start,
        )
        for p, q in pairwise(table)
    ]


def convex(table: Table) -> bool:
    """Return whether the table is that of a convex function, up to rounding: no jump, no falling slope."""
    if table[0].value > 0.0 or any(piece.c > 0.0 for piece in table):
        return False
    return all(jump >= -SLOPE_ROUNDING * scale for jump, scale in jumps(table))


def _jumps_exactly(table: Table) -> list[Fraction]:
    jumps = []
    for p, q in pairwise(table):
        start = Fraction(q.start)
        jumps.append(Fraction(q.a) - Fraction(p.a) - (Fraction(q.c) - Fraction(p.c)) * start)
    return jumps


@lru_cache(maxsize=1024)
def exactly_convex(table: Table) -> bool:
    """Return whether the table is that of a convex function, rounding or not: what a proof may rely on."""
    return (
        table[0].value == 0.0
        and all(piece.c <= 0.0 for piece in table)
        and all(jump >= 0 for jump in _jumps_exactly(table))
    )


@lru_cache(maxsize=1024)
def kinks(table: Table) -> tuple[float, ...]:
    """Return an upper bound of how much the slope jumps up where each piece but the first starts.

    That is 0 only where it does not, not even by rounding.
    """
    return tuple(_above(max(Fraction(0), jump)) for jump in _jumps_exactly(table))


@lru_cache(maxsize=1024)
def doubts(table: Table) -> tuple[tuple[float, float], ...]:
    """Return radii from which on rounding leaves open what ``p`` is, and upper bounds of how much.

    That is how far the values are from what the pieces before add up to, and what ``p`` loses where a slope
    falls below zero by rounding.
    """
    found = []
    for p, q in pairwise(table):
        if math.isinf(q.value):  # beyond all numbers
            break
        value, a, c = (Fraction(v) for v in p[1:])
        start, end = Fraction(p.start), Fraction(q.start)
        found.append((q.start, abs(value + (end - start) * (a - c * (start + end) / 2) - Fraction(q.value))))
        ends = a - c * start, a - c * end
        lost = max(Fraction(0), -ends[0], -ends[1]) * (end - start)
        # A slope that is positive at the start falls below zero in the half where it is less.
        late = ends[0] >= -ends[1]
        found.append((p.start + 0.5 * (q.start - p.start) if late else p.start, lost))
    return tuple((radius, _above(amount)) for radius, amount in found if amount > 0)


def _above(v: Fraction) -> float:
    """Return a number that is not below one that is at least 0, and not 0 unless that is."""
    try:
        return max(float(v) * (1.0 + 2.0**-50), 2.0**-1074 if v > 0 else 0.0)
    except OverflowError:
        return math.inf
