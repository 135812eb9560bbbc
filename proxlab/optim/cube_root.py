"""The cube root in a compiled pass on the CPU: arithmetic that vectorises; a power is a call for each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
from llvmlite import ir
from numba.extending import intrinsic

__all__ = ["cube_root"]


class _Format(NamedTuple):
    """Numbers of a type: its own and the integers of its size; and how a cube root of them is found.

    A third of the bits of a number are those of its cube root but for ``bits``, within 6 %. Halley's method
    triples the digits in each of some ``steps``. Below ``small``, where bits are other ones, the root is that
    of ``great`` times the number, times ``back``. Only the upper ``high`` bits are divided.
    """

    number: Any
    integer: Any
    high: int
    bits: int
    steps: int
    small: float
    great: float
    back: float


_SINGLE = _Format(ir.FloatType(), ir.IntType(32), 32, 709965728, 2, 2.0**-100, 2.0**72, 2.0**-24)
_DOUBLE = _Format(ir.DoubleType(), ir.IntType(64), 32, 715094163, 3, 2.0**-1000, 2.0**300, 2.0**-100)


@intrinsic
def cube_root(_: Any, a: Any, third: Any) -> Any:
    """Return the cube root of a number that is at least 0, to four units in the last place.

    ``third`` is that of the power that stands for it elsewhere.
    """
    of = _SINGLE if a == numba.float32 else _DOUBLE

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        given, half, quarter = values[0], of.number(0.5), of.number(0.25)
        small = builder.fcmp_ordered("<", given, of.number(of.small))
        x = builder.select(small, builder.fmul(given, of.number(of.great)), given)
        y = builder.bitcast(_third(builder, of, builder.bitcast(x, of.integer)), of.number)
        for _ in range(of.steps):
            # In quarters, which stay in range.
            cube = builder.fmul(builder.fmul(y, y), builder.fmul(quarter, y))
            over = builder.fadd(cube, builder.fmul(half, x))
            under = builder.fadd(builder.fadd(cube, cube), builder.fmul(quarter, x))
            y = builder.fmul(y, builder.fdiv(over, under))
        y = builder.select(small, builder.fmul(y, of.number(of.back)), y)
        # Zero, and what is no number.
        return builder.select(builder.fcmp_ordered(">", given, of.number(0.0)), y, given)

    return a(a, third), codegen


def _third(builder: Any, of: _Format, bits: Any) -> Any:
    half, below = ir.IntType(of.high), of.integer.width - of.high
    if below:
        bits = builder.trunc(builder.lshr(bits, of.integer(below)), half)
    bits = builder.add(builder.udiv(bits, half(3)), half(of.bits))
    return builder.shl(builder.zext(bits, of.integer), of.integer(below)) if below else bits
