"""The compiled backend: kernels for contiguous, strided and ragged groups of NumPy arrays.

Kernels are built on first use and cached on disk by Numba; a log message says so once, since a build takes
seconds.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import dis
import logging
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from inspect import signature
from numbers import Real
from typing import Any, get_type_hints

import numba
import numpy as np
from numba.core import cgutils
from numba.core.errors import NumbaError, UnsupportedBytecodeError
from numba.core.event import Listener, register
from numba.extending import intrinsic

from proxlab import autograd
from proxlab.arguments import Problem, as_host, as_tensor, check_values, native
from proxlab.backends import column_kernels, column_sums, kernels, threads
from proxlab.backends.closed import ClosedCompiler, PartCompiler
from proxlab.backends.disk_cache import KernelCache, folder
from proxlab.backends.kernel_records import Data, Lying, Scratch, Shrink, Steps
from proxlab.backends.one_group import EQUATION_NAMES
from proxlab.backends.records import GroupResults, Options, Solved
from proxlab.choose import Limits
from proxlab.equations import EQUATIONS
from proxlab.groups import AxisLayout
from proxlab.linker import Given, Target, described, state
from proxlab.rootfinders import Newton

__all__ = ["solve"]

logger = logging.getLogger("proxlab")

#: Nothing compiled owns an array: callers hold them, and references are not counted.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True, "_nrt": False}
#: Sums and elementwise loops may be reordered and contracted; their error bounds hold for any order.
FAST_MATH = {"reassoc", "contract", "nsz"}
#: What tells compiled code from that of other options.
COMPILATION = f"{OPTIONS} {sorted(FAST_MATH)} straight code inlined, own names, parts as written, as marked"
#: Runs of neighbouring elements of a group that are longer are copied together instead.
MAX_RUN = 64
#: Passes after which a block's stragglers are solved one by one.
MAX_PASSES = 8
# Every other byte of code says what it does.
_BACKWARD = dis.opmap["JUMP_BACKWARD"]
NO_INDEX = np.zeros(0, np.int64)
NO_INDEX.flags.writeable = False
#: What a proposal is made of, in words.
_RETURNED = ("the point", *(f"number {k} of its memory" for k in range(5)))


def made(function: Callable[..., Any], loose: bool, *, cache: bool = False, native: bool = False) -> Any:
    """Compile a linked function; only what is called from outside is cached, and has wrappers.

    Parameters
    ----------
    function : callable
    loose : bool
        Whether its sums may be reordered.
    cache : bool, optional
        Whether Python calls it, or what other compiled code does by its address.
    native : bool, optional
        Whether the latter.
    """
    options = OPTIONS | {"no_cpython_wrapper": not cache, "no_cfunc_wrapper": not native}
    # Always said: what says nothing has the options of who happens to call it first in this process.
    options["fastmath"] = FAST_MATH if loose else False
    if not cache:
        # Records are free only where the compiler sees both sides of a call.
        straight = _BACKWARD not in function.__code__.co_code[::2]
        options["forceinline"] = straight or hasattr(function, "inlined")
    options["pipeline_class"] = ClosedCompiler if cache else PartCompiler
    compiled = numba.njit(**options)(function)
    place = folder() if cache else None
    if place is not None:
        compiled._cache = KernelCache(compiled.py_func, place)
    return compiled


TARGET = Target(made, COMPILATION)


def outermost(target: Target, kernel: Callable[..., Any], names: Mapping[str, Any]) -> Any:
    """Compile what Python calls, cached on disk under the kernel's name.

    It takes Numba microseconds to find the type of a record: Python hands the parts of records over one by
    one, and compiled code puts them together again.
    """
    hints = get_type_hints(kernel)
    kinds = tuple(parts_of(hints[name]) for name in signature(kernel).parameters)
    given = {**names, "kernel": kernel, "grouped": Given(intrinsic(grouped(kinds)), f"{RECORDS} {kinds}")}
    return made(target.linked(kernels.call_grouped, given, kernel.__name__), False, cache=True)


def parts_of(kind: Any) -> Any:
    """Return a type of records, with what this returns for the types of its parts; of other types, None."""
    if not hasattr(kind, "_fields"):
        return None
    return kind, tuple(parts_of(part) for part in get_type_hints(kind).values())


def grouped(kinds: tuple[Any, ...]) -> Callable[..., Any]:
    """Return what makes a kernel's arguments of their parts; ``kinds`` are from :func:`parts_of`."""

    def typed(_: Any, parts: Any) -> Any:
        left = iter(parts)

        def typed_as(kind: Any) -> Any:
            if kind is None:
                return next(left)
            return numba.types.BaseTuple.from_types([typed_as(part) for part in kind[1]], kind[0])

        whole = numba.types.Tuple([typed_as(kind) for kind in kinds])

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            left = iter(cgutils.unpack_tuple(builder, values[0]))

            def made_of(kind: Any, record: Any) -> Any:
                if kind is None:
                    return next(left)
                return context.make_tuple(builder, record, list(map(made_of, kind[1], record.types)))

            return context.make_tuple(builder, whole, list(map(made_of, kinds, whole.types)))

        return whole(parts), codegen

    return typed


#: What tells how records are made from other ways.
RECORDS = described(grouped.__code__)


@lru_cache(maxsize=64)
def group_solver(
    propose: Callable[..., Any],
    _: str,
    needs_bracket: bool,
    narrow: bool,
    equation: str,
    direct: bool,
    wide: bool,
) -> Any:
    """Build the kernel that solves groups one after the other.

    Parameters
    ----------
    propose : callable
        The root finder's proposal; the next argument is its state, which tells it from what it was before.
    needs_bracket : bool
        Whether the root finder takes values at both ends of a bracket.
    narrow : bool
        Whether single precision finds where to start.
    equation : {"radial", "clipped"}
        The name of the equation.
    direct : bool
        For contiguous groups, solved where they lie.
    wide : bool
        For data that may leave the range in which sums of squares are safe: float64.
    """
    names = EQUATION_NAMES[equation] | EQUATIONS[equation].names() | {
        "propose": propose, "NEEDS_BRACKET": needs_bracket, "RESCALES": wide or not direct, "NARROW": narrow,
        "KEEPS": narrow and direct,
    }  # fmt: skip
    return outermost(TARGET, kernels.solve_rows if direct else kernels.solve_gathered, names)


@lru_cache(maxsize=2)
def column_solver(narrow: bool) -> Any:
    """Build the kernel for groups across the rows of a matrix (Newton's method on the first piece).

    Parameters
    ----------
    narrow : bool
        For float32.
    """
    names = column_kernels.RATIO.names() | {"propose": column_kernels.propose_third, "NEEDS_BRACKET": False}
    return outermost(TARGET, column_kernels.solve_columns, names | {"NARROW": narrow})


@lru_cache(maxsize=1)
def elementwise() -> Any:
    """Build the kernel of the elementwise part alone."""
    return outermost(TARGET, kernels.shrink_all, {})


def group_rows(a: Any, shape: tuple[int, int, int, int], groups: Any) -> Any:
    """Return some groups of a contiguous array as rows; ``shape`` is its canonical one."""
    inner = shape[2]
    return a.reshape(shape)[groups // inner, :, groups % inner, :].reshape(len(groups), -1)


def solve(p: Problem, options: Options) -> Solved:
    """Solve a validated problem of NumPy arrays, or of tensors whose memory NumPy shares."""
    host, out = as_host(p), options.out
    solve_host = _solve
    if p.penalty.equation.kernel == "curved":
        from proxlab.backends import numba_curved

        solve_host = numba_curved.solve
    solved = solve_host(host, options._replace(out=as_host(out)))
    if host is p:
        return solved
    if out is not None:
        autograd.written(out)
    groups = solved.groups and GroupResults(*(as_tensor(a) for a in solved.groups))
    return Solved(as_tensor(solved.z) if out is None else out, groups)


def _solve(p: Problem, options: Options) -> Solved:
    out: Any = options.out
    # In this machine's byte order; the result has that of x.
    x = np.asarray(native(p.x), order="C")
    dense = p.metric is not None and not isinstance(p.metric, float)
    if dense:
        d = p.metric if p.metric.shape == x.shape else np.broadcast_to(p.metric, x.shape)
        d = np.asarray(native(d), order="C")
        if d.dtype != x.dtype:
            # Mixed precision: solve in the wider of the two.
            wide = np.result_type(x, d)
            x, d = x.astype(wide), d.astype(wide)
    else:
        d = np.full(1, 1.0 if p.metric is None else p.metric, dtype=np.float64)
        if d.astype(x.dtype)[0] != d[0]:
            x = x.astype(np.float64)
        d = d.astype(x.dtype)
    # The kernels may write where they read the same element, and nowhere else that is still to be read.
    in_place = out is not None and _same_memory(out, p.x)
    overlaps = out is not None and (
        (np.may_share_memory(out, p.x) and not in_place) or (dense and np.may_share_memory(out, p.metric))
    )
    if in_place:
        # Nothing is overwritten before everything is known to be valid.
        check_values(p)
    reuse = out is not None and out.flags.c_contiguous and out.dtype == x.dtype and not overlaps
    z = out if reuse else np.empty_like(x)
    groups = _results(p.layout.n_groups) if options.explain else _NO_RESULTS
    if _run(p, options, Data(x.reshape(-1), d.reshape(-1), z.reshape(-1), dense), groups) >= 0:
        check_values(p)
        raise AssertionError("the kernel found an invalid value that the check did not")
    if z is not out:
        if out is not None:
            out[...] = z
            z = out
        elif z.dtype != p.x.dtype:
            z = z.astype(p.x.dtype)
    return Solved(z, groups if options.explain else None)


def _results(n: int) -> GroupResults:
    """Return where kernels put what they know of ``n`` groups."""
    return GroupResults(*(np.zeros(n) for _ in range(3)), *(np.zeros(n, np.int64) for _ in range(3)))


# What kernels get that are not asked for any.
_NO_RESULTS = _results(0)


def _same_memory(a: Any, b: Any) -> bool:
    here, there = a.__array_interface__, b.__array_interface__
    return bool(here["data"][0] == there["data"][0] and a.shape == b.shape and a.strides == b.strides)


def _run(p: Problem, options: Options, flat: Data, results: GroupResults) -> int:
    """Run the kernels; returns a group with an invalid value, or -1."""
    penalty, layout, equation = p.penalty, p.layout, p.equation
    finder, explain, dense = options.finder, options.explain, flat.dense
    steps = read_only(np.full(1, p.step) if isinstance(p.step, float) else np.ascontiguousarray(p.step))
    weights = read_only(p.weights)
    xf, df, zf = flat.x, flat.d, flat.z
    data = flat._replace(x=read_only(xf), d=read_only(df))
    shrink, each = Shrink(float(penalty.threshold), penalty.nonnegative), Steps(steps, weights)
    count, pieces = layout.n_groups, equation.rows
    # Without a group penalty, and with what is left of it the same for all elements of a group.
    uniform = len(steps) == 1 or penalty.threshold == 0.0
    if equation.flat and isinstance(layout, AxisLayout) and not explain and (uniform or not layout.reduced):
        kernel, steps = elementwise(), steps[:1] if uniform else steps

        def elements(begin: int, finish: int) -> int:
            found: int = kernel(*data, begin, finish, steps, *shrink)
            return found

        return threads.run(elements, xf.size, xf.size)

    shape = layout.canonical_shape() if isinstance(layout, AxisLayout) else None
    if shape is not None:
        indptr, indices, longest = NO_INDEX, NO_INDEX, shape[1] * shape[3]
    else:
        indptr, indices = map(read_only, layout.csr())
        longest = int(np.diff(indptr).max(initial=0))
        if len(indices) != xf.size:
            check_values(p)
            zf[...] = xf
    apart = np.zeros(count, np.bool_)
    geometry = np.array(shape or (1, 1, 1, 1), dtype=np.int64)
    shrinks = penalty.threshold > 0 or penalty.nonnegative
    chosen, total = NO_INDEX, count
    if (
        shape is not None and shape[1] > 1 and shape[2] > 1 and shape[3] <= MAX_RUN
        and dense and equation.kernel == "radial" and not shrinks
        and type(finder) is Newton and not finder.atol and finder.max_iterations >= MAX_PASSES
    ):  # fmt: skip
        most = Limits(options.rtol, 0.0, MAX_PASSES, explain)
        hard, bad = _columns(data, shape, (*each, *shrink, pieces, *most), results)
        if bad >= 0:
            return bad
        chosen = read_only(np.flatnonzero(hard))
        total = len(chosen)
        if total == 0:
            return -1
    kind, wide = type(finder), xf.dtype == np.float64
    direct = dense and shape is not None and shape[1] == 1 and shape[3] > 0 and not shrinks
    narrow = direct and kind is Newton and not wide and equation.kernel == "radial"
    known = state(kind.propose)
    kernel = group_solver(
        kind.propose, known, needs_bracket=kind.needs_bracket, narrow=narrow, equation=equation.kernel,
        direct=direct, wide=wide,
    )  # fmt: skip
    limits = Limits(options.rtol, float(finder.atol), finder.max_iterations, explain)
    request = (*each, *shrink, pieces, *limits)
    place = Lying(geometry, indptr, indices, chosen)

    def task(begin: int, finish: int) -> int:
        xw, dw = np.empty(longest), np.empty(longest)
        scratch = Scratch(xw, dw, read_only(xw), read_only(dw), np.empty(1))
        found: int
        if direct:
            found = kernel(*data, longest, begin, finish, *request, *results, apart, *scratch)
        else:
            found = kernel(*data, *place, begin, finish, *request, *results, apart, *scratch)
        return found

    try:
        bad = threads.run(task, total, longest * total)
    except (NumbaError, UnsupportedBytecodeError) as error:
        if not known:
            raise
        raise TypeError(
            f"root_finder: {kind.__name__}.propose cannot be compiled: {_reason(kind.propose, error)}; write "
            "it with the operations of proxlab.scalar, import and define what it uses outside of it, and let "
            'it return six numbers, or use backend="array_api"'
        ) from error
    if bad < 0 and apart.any():
        from proxlab.backends import decimal_rows

        for group, where, found in decimal_rows.solve_groups(p, np.flatnonzero(apart)):
            zf[where] = found.z
            if explain:
                for array, value in zip(results, found[1:], strict=True):
                    array[group] = value
    return bad


def _reason(propose: Callable[..., Any], error: Exception) -> str:
    """Say in a few words why a proposal cannot be compiled."""
    try:
        # The point, the bracket and what is known there, of a concave function.
        found: Any = propose(1.0, -0.5, 0.5, 0.1, 1.0, -0.5, 3.0, 0.4, *[math.nan] * 5)
    except Exception as own:
        return f"it raises {type(own).__name__}: {own}"
    if not isinstance(found, tuple):
        return f"it returns {found!r}"
    if len(found) != len(_RETURNED):
        return f"it returns {len(found)} numbers"
    for name, value in zip(_RETURNED, found, strict=True):
        if not isinstance(value, (Real, np.bool_)):
            return f"{name} that it returns is {value!r}"
    if "IMPORT_NAME" in str(error):
        return "it has an import"
    lines = [line for line in str(error).splitlines() if line.strip() and "nopython" not in line]
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


def _columns(
    data: Data, shape: tuple[int, int, int, int], request: tuple[Any, ...], results: GroupResults
) -> tuple[Any, int]:
    """Solve groups across rows; returns which groups are left to solve, and the first invalid block or -1."""
    outer, _, inner, run = shape
    share = -(-inner // threads.get_num_threads())
    per_block = min(share, max(1, column_sums.BLOCK // max(1, run)))
    blocks = outer * -(-inner // per_block)
    hard = np.zeros(outer * inner, np.bool_)
    kernel = column_solver(data.x.dtype == np.float32)
    geometry = np.array(shape, dtype=np.int64)

    def task(begin: int, finish: int) -> int:
        acc, early = np.empty(column_sums.SCRATCH), np.empty(column_sums.SCRATCH, data.x.dtype)
        columns = column_kernels.Columns(*np.empty((9, per_block)), *np.empty((2, per_block), np.int64))
        found: int = kernel(
            *data, geometry, per_block, begin, finish, *request, hard, *results, acc, early, *columns
        )
        return found

    return hard, threads.run(task, blocks, data.x.size)


def read_only(a: Any) -> Any:
    """Return a view that may not be written: kernels are compiled for what may and what may not."""
    view = a.view()
    view.flags.writeable = False
    return view


class _Announcer(Listener):
    """Says once that kernels are being compiled: the only slow thing that the package does on its own."""

    said = False

    def on_start(self, event: Any) -> None:
        if not self.said and (event.data["dispatcher"].py_func.__module__ or "").startswith("proxlab"):
            self.said = True
            kept = "; they are cached on disk" if folder() else ""
            logger.warning("compiling kernels on first use, which takes some seconds%s", kept)

    def on_end(self, event: Any) -> None:
        pass


register("numba:compile", _Announcer())
