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
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from proxlab.arguments import Problem
from proxlab.backends import array_curved, arrays, curved_group, threads
from proxlab.backends.array_api import RowSolution
from proxlab.backends.compiling import TARGET, made, outermost, read_only
from proxlab.backends.copies import CACHED, over_copies
from proxlab.backends.curved_group import (
    COLUMNS,
    CurvedRequest,
    CurvedRows,
    Functions,
    KnownCurve,
    Precision,
)
from proxlab.backends.kernel_records import Data
from proxlab.backends.numba_cpu import solve_host
from proxlab.backends.records import GroupResults, Options, Solved
from proxlab.bounds import rounding
from proxlab.choose import Limits
from proxlab.curves import errors, most_passes, same_share
from proxlab.groups import AxisLayout
from proxlab.linker import Given, described, state
from proxlab.namespaces import namespace
from proxlab.rootfinders import RootFinder
from proxlab.types import Array

__all__ = ["CALLED", "Compiled", "called", "compiled_functions", "own_numbers", "solve"]

_NUMPY = namespace(np.zeros(0))
#: Of a function of a penalty: where its own numbers are, and the radius.
SIGNATURE = numba.float64(numba.int64, numba.float64)
METHODS = ("value_at", "slope_at", "curvature_at")
#: Elements that are added up before sums are, at least; longer groups in as many strips as a strip is long.
STRIP = 128


def solve(p: Problem, options: Options) -> Solved:
    """Solve a validated problem of NumPy arrays whose penalty has a curved slope."""
    penalty: Any = p.penalty
    shape = p.layout.canonical_shape() if isinstance(p.layout, AxisLayout) else None
    compiled = compiled_functions(penalty._split()[1]) if p.x.size else None
    if shape is None or compiled is None:
        return arrays.solve(p, options, curved_rows)
    return solve_host(p, options, partial(solve_axes, compiled, shape))


def solve_axes(
    compiled: Compiled, shape: tuple[int, int, int, int], p: Problem, options: Options, flat: Data,
    results: GroupResults,
) -> int:  # fmt: skip
    """Solve groups of axes, rows where they lie and others in copies; returns an invalid one, or -1."""
    outer, height, inner, run = shape
    n = height * run
    solver = RowSolver(compiled, p.penalty, options.finder, options.rtol, options.explain, n)
    steps, weights, dense = p.group_steps(), p.group_weights(), flat.dense

    def on_rows(low: int, high: int, x: Any, *others: Any) -> int:
        # A scalar metric is spread over some rows at a time.
        d, z = others if dense else (np.full_like(x, flat.d[0]), others[0])
        own = GroupResults(*(a[low:high] for a in results))
        return solver(x, d, z, steps[low:high], weights[low:high], own)

    read = (flat.x, flat.d) if dense else (flat.x,)
    if height > 1:
        return over_copies(shape, read, (flat.z,), on_rows)
    rows = [a.reshape(outer * inner, n) for a in (*read, flat.z)]

    def task(begin: int, finish: int) -> int:
        step = finish - begin if dense else max(1, CACHED // n)
        for low in range(begin, finish, step):
            high = min(low + step, finish)
            bad = on_rows(low, high, *(a[low:high] for a in rows))
            if bad >= 0:
                return low + bad
        return -1

    return threads.run(task, outer * inner, flat.x.size)


def curved_rows(
    xp: Any, x: Array, d: Array, step: Array, weight: Array, penalty: Any, finder: RootFinder, rtol: float
) -> RowSolution:
    """Solve rows as :func:`proxlab.backends.array_curved.curved_rows` does."""
    compiled = compiled_functions(penalty._split()[1]) if x.size else None
    if compiled is None:
        return array_curved.curved_rows(xp, x, d, step, weight, penalty, finder, rtol)
    x, d = np.ascontiguousarray(x), np.ascontiguousarray(d)
    rows, n = x.shape
    solver = RowSolver(compiled, penalty, finder, rtol, True, n)
    z, out = np.empty((rows, n)), GroupResults(*np.zeros((3, rows)), *np.zeros((3, rows), np.int64))

    def task(begin: int, finish: int) -> int:
        xs, ds, zs, steps, weights = (a[begin:finish] for a in (x, d, z, step, weight))
        return solver(xs, ds, zs, steps, weights, GroupResults(*(a[begin:finish] for a in out)))

    if threads.run(task, rows, x.size) >= 0:  # where nobody has looked at the values
        return array_curved.curved_rows(xp, x, d, step, weight, penalty, finder, rtol)
    return RowSolution(z, *out, np.zeros(rows, np.bool_))


class RowSolver:
    """Solves rows of ``n`` elements: compiled, and those that spread too far by the array form."""

    def __init__(
        self, compiled: Compiled, penalty: Any, finder: RootFinder, rtol: float, explain: bool, n: int
    ) -> None:
        strength, unit = penalty._split()
        # Kept, as are the functions: the kernel has their addresses.
        self._own = own_numbers(compiled, unit)
        self._compiled = compiled
        value, slope, curvature = compiled.addresses
        functions = Functions(value, slope, curvature, self._own.ctypes.data)
        falls, bends = penalty.slope_falls, penalty.slope_falls and penalty.slope_is_convex
        first = strength * float(compiled.functions[1](functions.own, 0.0))
        self._known = KnownCurve(functions, falls, bends, bool(penalty.nonnegative), float(strength), first)
        most = most_passes(falls, bends, finder.max_iterations)
        self._limits = Limits(rtol, float(finder.atol), most, explain)
        self._precision, self._kernel = precision(n), kernel()
        self._by_arrays = partial(array_curved.curved_rows, penalty=penalty, finder=finder, rtol=rtol)

    def __call__(self, x: Any, d: Any, z: Any, steps: Any, weights: Any, results: GroupResults) -> int:
        """Solve rows into ``z``; returns the first invalid one, or -1."""
        count = x.shape[0]
        left, table = np.zeros(count, np.bool_), np.empty((self._limits.most + 2, COLUMNS))
        request = CurvedRequest(
            read_only(steps), read_only(weights), self._known, self._precision, self._limits
        )
        data = curved_data(x, d, z)
        bad: int = self._kernel(*parts((data, 0, count, request, results, left, table)))
        if bad < 0 and left.any():
            some = (a[left].astype(np.float64) for a in (x, d, steps, weights))
            with np.errstate(all="ignore"):
                found = self._by_arrays(_NUMPY, *some)
            z[left] = found.z
            if self._limits.explain:
                for name, array in results._asdict().items():
                    array[left] = getattr(found, name)
        return bad


def curved_data(x: Any, d: Any, z: Any) -> CurvedRows:
    """Return rows as the kernel takes them."""
    bits = np.int32 if x.dtype == np.float32 else np.int64
    info = np.finfo(x.dtype)
    infinity = int(np.array(np.inf, x.dtype).view(bits))
    xs, ds = (read_only(a.reshape(-1)) for a in (x, d))
    magnitude, bias = int(np.iinfo(bits).max), 1 - int(info.minexp)
    return CurvedRows(
        xs, ds, z.reshape(-1), xs.view(bits), ds.view(bits), magnitude, infinity, int(info.nmant), bias,
        x.shape[1],
    )  # fmt: skip


def precision(n: int) -> Precision:
    """Return what rounding is for groups of ``n`` elements."""
    strip = min(n, max(math.isqrt(n), STRIP))
    height = strip + -(-n // strip)
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


def own_numbers(compiled: Compiled, penalty: Any) -> Array:
    """Return the numbers that a penalty's functions read of it, to be kept where they are."""
    return np.array([float(getattr(penalty, name)) for name in compiled.names])


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
    words = {name: getattr(curved_group, name) for name in ("load", "slope", "turn", "value")}
    return outermost(TARGET, curved_group.solve_curves, words | {"call": Given(called, CALLED)})
