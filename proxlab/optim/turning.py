"""Squares of eight by eight numbers turned in registers, which the compiler would move one by one."""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.extending import intrinsic

__all__ = ["turn"]

_INT = ir.IntType(32)
_WIDE = 8


def _mask(places: tuple[int, ...]) -> Any:
    return ir.Constant(ir.VectorType(_INT, _WIDE), [_INT(place) for place in places])


#: What of two vectors becomes a new one, in three rounds: of neighbours, of pairs, of halves. Until the last,
#: numbers stay in their half, as in registers that are made of two.
_ROUNDS = (
    (1, (0, 8, 1, 9, 4, 12, 5, 13), (2, 10, 3, 11, 6, 14, 7, 15)),
    (2, (0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15)),
    (4, (0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15)),
)
#: Which column the rounds leave in each place.
_ORDER = (0, 2, 1, 3, 4, 6, 5, 7)


@intrinsic
def turn(_: Any, source: Any, o: Any, apart: Any, target: Any, p: Any, far: Any) -> Any:
    """As :func:`proxlab.optim.fused_side.turn`."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kinds = signature.args
        read, written = (context.make_array(kinds[k])(context, builder, values[k]).data for k in (0, 3))
        vector, number = ir.VectorType(context.get_data_type(kinds[0].dtype), _WIDE), values[1].type

        def place(begin: Any, first: Any, step: Any, j: int) -> Any:
            at = builder.add(first, builder.mul(step, number(j)))
            return builder.bitcast(builder.gep(begin, [at]), vector.as_pointer())

        align = context.get_abi_sizeof(vector.element)
        rows = [builder.load(place(read, values[1], values[2], j), align=align) for j in range(_WIDE)]
        for apart_by, low, high in _ROUNDS:
            rows = _round(builder, rows, apart_by, _mask(low), _mask(high))
        for k, row in zip(_ORDER, rows, strict=True):
            builder.store(row, place(written, values[4], values[5], k), align=align)
        return context.get_dummy_value()

    return numba.none(source, o, apart, target, p, far), codegen


def _round(builder: Any, rows: list[Any], apart: int, low: Any, high: Any) -> list[Any]:
    """Combine each row with the one ``apart`` places behind."""
    new = list(rows)
    for k in range(_WIDE):
        if not k & apart:
            a, b = rows[k], rows[k + apart]
            new[k], new[k + apart] = builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high)
    return new
