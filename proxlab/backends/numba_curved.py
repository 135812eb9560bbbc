"""Curved slopes on the CPU, compiled: one kernel for all penalties, and the functions of each.

The kernel takes the addresses of a penalty's functions, so that it is compiled once; those of a penalty of
one's own take a part of a second. Their ``self`` is a record of the numbers that they read of the penalty.
What cannot be compiled, and groups that spread too far, are left to the array form.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
import types
from collections import namedtuple
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from proxlab.backends import array_curved, arrays, curved_group, threads
from proxlab.backends.array_api import RowSolution
from proxlab.backends.compiling import TARGET, made, outermost, read_only
from proxlab.backends.curved_group import (
    COLUMNS,
    CurvedRequest,
    CurvedRoom,
    CurvedRows,
    Functions,
    KnownCurve,
    Precision,
)
from proxlab.backends.records import GroupResults, Options, Solved
from proxlab.backends.scaled_rows import sum_height
from proxlab.bounds import rounding
from proxlab.choose import Limits
from proxlab.curves import errors, most_passes, same_share
from proxlab.linker import Given, described, state
from proxlab.rootfinders import RootFinder
from proxlab.types import Array

__all__ = ["solve"]

#: Of a function of a penalty: where its own numbers are, and the radius.
SIGNATURE = numba.float64(numba.int64, numba.float64)
METHODS = ("value_at", "slope_at", "curvature_at")


def solve(p: Any, options: Options) -> Solved:
    """Solve a validated problem of NumPy arrays whose penalty has a curved slope."""
    return arrays.solve(p, options, curved_rows)


def curved_rows(
    xp: Any, x: Array, d: Array, step: Array, weight: Array, penalty: Any, finder: RootFinder, rtol: float
) -> RowSolution:
    """Solve rows as :func:`proxlab.backends.array_curved.curved_rows` does."""
    strength, unit = penalty._split()
    compiled = compiled_functions(unit) if x.size else None
    if compiled is None:
        return array_curved.curved_rows(xp, x, d, step, weight, penalty, finder, rtol)
    x, d, step, weight = (read_only(np.ascontiguousarray(a)) for a in (x, d, step, weight))
    rows, n = x.shape
    z, left = np.empty((rows, n)), np.zeros(rows, np.bool_)
    out = GroupResults(*np.zeros((3, rows)), *np.zeros((3, rows), np.int64))
    own = np.array([float(getattr(unit, name)) for name in compiled.names])
    value, slope, curvature = compiled.addresses
    functions = Functions(value, slope, curvature, own.ctypes.data)
    falls, bends = penalty.slope_falls, penalty.slope_falls and penalty.slope_is_convex
    first = strength * float(unit.curve(xp).slope(np.zeros(1))[0])
    known = KnownCurve(functions, falls, bends, bool(penalty.nonnegative), float(strength), first)
    most = most_passes(falls, bends, finder.max_iterations)
    request = CurvedRequest(step, weight, known, precision(n), Limits(rtol, float(finder.atol), most, True))
    solver = kernel()

    def task(begin: int, finish: int) -> int:
        xs, ds, table = np.empty(n), np.empty(n), np.empty((most + 1, COLUMNS))
        data = CurvedRows(x.reshape(-1), d.reshape(-1), z.reshape(-1), n)
        room = CurvedRoom(xs, ds, read_only(xs), read_only(ds), table)
        found: int = solver(*parts((data, begin, finish, request, out, left, room)))
        return found

    threads.run(task, rows, x.size)
    if left.any():
        others = (x[left], d[left], step[left], weight[left])
        part = array_curved.curved_rows(xp, *others, penalty, finder, rtol)
        z[left] = part.z
        for name, array in out._asdict().items():
            array[left] = getattr(part, name)
    return RowSolution(z, *out, np.zeros(rows, np.bool_))


def precision(n: int) -> Precision:
    """Return what rounding is for groups of ``n`` elements."""
    height = sum_height(n)
    strip = n if height == n else math.isqrt(n)
    return Precision(*errors(height), same_share(height), 1.0 + rounding(n + 16), strip)


def parts(record: Any) -> Iterator[Any]:
    """Yield the parts of records, and theirs."""
    for part in record:
        if isinstance(part, tuple):
            yield from parts(part)
        else:
            yield part


class Compiled(NamedTuple):
    """The functions of a penalty: the numbers that they read of it, and addresses, good while they live."""

    names: tuple[str, ...]
    addresses: list[int]
    functions: list[Any]


def compiled_functions(penalty: Any) -> Compiled | None:
    """Return a penalty's functions, compiled, or None where one cannot be."""
    methods = tuple(getattr(type(penalty), name) for name in METHODS)
    if not all(isinstance(method, types.FunctionType) for method in methods):
        return None
    names = sorted({name for method in methods for name in method.__code__.co_names})
    numbers = tuple(name for name in names if _is_number(getattr(penalty, name, None)))
    try:
        keys = tuple(state(method) for method in methods)
    except TypeError:  # of what is not compiled
        return None
    return _compiled(methods, keys, numbers)


def _is_number(value: Any) -> bool:
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return number and float(value) == value


@lru_cache(maxsize=64)
def _compiled(methods: tuple[Any, ...], _: tuple[str, ...], names: tuple[str, ...]) -> Compiled | None:
    try:
        given = {"record": Given(intrinsic(recorded(names)), f"{RECORDED} {names}")}
        linked = [TARGET.linked(curved_group.call_method, given | {"method": f}, f.__name__) for f in methods]
        functions = [made(f, False, cache=True, native=True) for f in linked]
        return Compiled(names, [address(f) for f in functions], functions)
    except Exception:
        # A name that no record has, or what cannot be compiled: Numba says so by errors of any kind.
        return None


def address(function: Any) -> int:
    """Compile a function, and return the address by which C calls it."""
    function.compile(SIGNATURE)
    code = function.overloads[SIGNATURE.args]._asdict()
    return int(code["library"].get_pointer_to_function(code["fndesc"].llvm_cfunc_wrapper_name))


def recorded(names: tuple[str, ...]) -> Callable[..., Any]:
    """Return what makes a record of the numbers at an address."""
    record = namedtuple("Penalty", names)  # type: ignore[misc]
    kind = numba.types.NamedUniTuple(numba.float64, len(names), record)

    def typed(_: Any, own: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            place = builder.inttoptr(values[0], ir.DoubleType().as_pointer())
            parts = [builder.load(builder.gep(place, [ir.IntType(64)(k)])) for k in range(len(names))]
            return context.make_tuple(builder, kind, parts)

        return kind(own), codegen

    return typed


@intrinsic
def called(_: Any, function: Any, own: Any, r: Any) -> Any:
    """Call a function at an address."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        double = ir.DoubleType()
        kind = ir.FunctionType(double, [ir.IntType(64), double])
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])

    return numba.float64(function, own, r), codegen


#: What tells how functions are called, and records made, from other ways.
CALLED, RECORDED = described(called._defn.__code__), described(recorded.__code__)


@lru_cache(maxsize=1)
def kernel() -> Any:
    """Compile the kernel, cached on disk."""
    words = {name: getattr(curved_group, name) for name in ("slope", "turn", "value")}
    return outermost(TARGET, curved_group.solve_curves, words | {"call": Given(called, CALLED)})
