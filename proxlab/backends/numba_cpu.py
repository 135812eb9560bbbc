"""The compiled backend: kernels for contiguous, strided and ragged groups of NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from numbers import Real
from typing import Any

import numpy as np
from numba.core.errors import NumbaError, UnsupportedBytecodeError

from proxlab import autograd
from proxlab.arguments import Problem, as_host, as_tensor, check_values, native
from proxlab.backends import column_kernels, column_sums, kernels, threads
from proxlab.backends.compiling import TARGET, alone, outermost, read_only
from proxlab.backends.kernel_records import Data, Lying, Scratch, Shrink, Steps
from proxlab.backends.one_group import EQUATION_NAMES
from proxlab.backends.records import GroupResults, Options, Solved
from proxlab.choose import Limits
from proxlab.equations import EQUATIONS
from proxlab.groups import AxisLayout
from proxlab.linker import state
from proxlab.penalties import Penalty
from proxlab.rootfinders import Newton, RootFinder

__all__ = ["solve", "solve_host"]

#: Runs of neighbouring elements of a group that are longer are copied together instead.
MAX_RUN = 64
#: Elements of arrays that stay in cache however groups are read, so that tiles cost more than they save.
FEW = 1 << 13
#: Passes after which a block's stragglers are solved one by one.
MAX_PASSES = 8
NO_INDEX = np.zeros(0, np.int64)
NO_INDEX.flags.writeable = False
#: What a proposal is made of, in words.
_RETURNED = ("the point", *(f"number {k} of its memory" for k in range(5)))


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


def solve(p: Problem, options: Options) -> Solved:
    """Solve a validated problem of NumPy arrays, or of tensors whose memory NumPy shares."""
    host, out = as_host(p), options.out
    own = options._replace(out=as_host(out))
    if p.penalty.equation.kernel == "curved":
        from proxlab.backends import numba_curved

        solved = numba_curved.solve(host, own)
    else:
        solved = solve_host(host, own, _run)
    if host is p:
        return solved
    if out is not None:
        autograd.written(out)
    groups = solved.groups and GroupResults(*(as_tensor(a) for a in solved.groups))
    return Solved(as_tensor(solved.z) if out is None else out, groups)


def solve_host(
    p: Problem, options: Options, run: Callable[[Problem, Options, Data, GroupResults], int]
) -> Solved:
    """Solve a validated problem of NumPy arrays by ``run``, which returns an invalid group or -1."""
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
    if run(p, options, Data(x.reshape(-1), d.reshape(-1), z.reshape(-1), dense), groups) >= 0:
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
    steps = read_only(np.full(1, p.step) if isinstance(p.step, float) else np.ascontiguousarray(p.step))
    data, each = flat._replace(x=read_only(flat.x), d=read_only(flat.d)), Steps(steps, read_only(p.weights))
    # Without a group penalty, and with what is left of it the same for all elements of a group.
    uniform = len(steps) == 1 or penalty.threshold == 0.0
    alone = equation.flat and not options.explain
    if alone and isinstance(layout, AxisLayout) and (uniform or not layout.reduced):
        return _run_elements(data, steps[:1] if uniform else steps, _shrink(penalty))

    shape = layout.canonical_shape() if isinstance(layout, AxisLayout) else None
    if shape is not None:
        indptr, indices, longest = NO_INDEX, NO_INDEX, shape[1] * shape[3]
    else:
        indptr, indices = map(read_only, layout.csr())
        longest = int(np.diff(indptr).max(initial=0))
        if len(indices) != flat.x.size:
            check_values(p)
            flat.z[...] = flat.x
    place = Lying(np.array(shape or (1, 1, 1, 1), dtype=np.int64), indptr, indices, NO_INDEX)
    total, apart = layout.n_groups, np.zeros(layout.n_groups, np.bool_)
    across = shape
    if shape is None or not (flat.x.size and shape[1] > 1 and shape[2] > 1 and shape[3] <= MAX_RUN):
        across = None
    if across is not None and flat.dense and _by_columns(penalty, options.finder):
        most = Limits(options.rtol, 0.0, MAX_PASSES, options.explain)
        request = (*each, *_shrink(penalty), equation.rows, *most)
        hard, bad = _columns(data, across, request, results)
        if bad >= 0 or not hard.any():
            return bad
        place, across = place._replace(chosen=read_only(np.flatnonzero(hard))), None
        total = len(place.chosen)
    elif flat.x.size <= FEW:
        across = None
    is_rows = across is not None or (shape is not None and shape[1] == 1 and shape[3] > 0)
    solver = _GroupSolver(p, options, flat, is_rows, longest)
    if across is not None:
        bad = _run_copies(solver, across, data, place, each, results, apart)
    else:
        bad = threads.run(
            lambda begin, finish: solver(data, place, begin, finish, each, results, apart),
            total, longest * total,
        )  # fmt: skip
    if bad < 0 and apart.any():
        from proxlab.backends import decimal_rows

        for group, where, found in decimal_rows.solve_groups(p, np.flatnonzero(apart)):
            flat.z[where] = found.z
            if options.explain:
                for array, value in zip(results, found[1:], strict=True):
                    array[group] = value
    return bad


def _shrink(penalty: Penalty) -> Shrink:
    return Shrink(float(penalty.threshold), penalty.nonnegative)


def _shrinks(penalty: Penalty) -> bool:
    return penalty.threshold > 0 or penalty.nonnegative


def _by_columns(penalty: Penalty, finder: RootFinder) -> bool:
    """Return whether there is a kernel that solves groups across rows many at a time."""
    plain = type(finder) is Newton and not finder.atol and finder.max_iterations >= MAX_PASSES
    return plain and penalty.equation.kernel == "radial" and not _shrinks(penalty)


def _run_elements(data: Data, steps: Any, shrink: Shrink) -> int:
    """Apply the elementwise part alone."""
    kernel = alone(kernels.shrink_all)

    def elements(begin: int, finish: int) -> int:
        found: int = kernel(*data, begin, finish, steps, *shrink)
        return found

    return threads.run(elements, data.x.size, data.x.size)


class _GroupSolver:
    """The kernel that solves groups one after the other, and what it takes of a problem.

    ``is_rows`` says whether groups follow one another, ``longest`` how many elements the largest has.
    """

    def __init__(self, p: Problem, options: Options, flat: Data, is_rows: bool, longest: int) -> None:
        finder, kind, wide = options.finder, type(options.finder), flat.x.dtype == np.float64
        equation = p.equation.kernel
        self._direct = flat.dense and is_rows and not _shrinks(p.penalty)
        self.longest, self._kind, self._known = longest, kind, state(kind.propose)
        self._kernel = group_solver(
            kind.propose, self._known, needs_bracket=kind.needs_bracket,
            narrow=self._direct and kind is Newton and not wide and equation == "radial",
            equation=equation, direct=self._direct, wide=wide,
        )  # fmt: skip
        limits = Limits(options.rtol, float(finder.atol), finder.max_iterations, options.explain)
        self._request = (*_shrink(p.penalty), p.equation.rows, *limits)

    def __call__(
        self, data: Data, place: Lying, begin: int, finish: int, each: Steps, results: GroupResults,
        apart: Any,
    ) -> int:  # fmt: skip
        """Solve the groups ``begin … finish - 1``; returns an invalid one, or -1."""
        xw, dw = np.empty(self.longest), np.empty(self.longest)
        scratch = Scratch(xw, dw, read_only(xw), read_only(dw), np.empty(1))
        lying = (self.longest,) if self._direct else place
        try:
            found: int = self._kernel(
                *data, *lying, begin, finish, *each, *self._request, *results, apart, *scratch
            )
        except (NumbaError, UnsupportedBytecodeError) as error:
            if not self._known:
                raise
            raise TypeError(
                f"root_finder: {self._kind.__name__}.propose cannot be compiled: "
                f"{_reason(self._kind.propose, error)}; write it with the operations of proxlab.scalar, "
                "import and define what it uses outside of it, and let it return six numbers, or use "
                'backend="array_api"'
            ) from error
        return found


def _run_copies(
    solver: _GroupSolver, shape: tuple[int, int, int, int], data: Data, place: Lying, each: Steps,
    results: GroupResults, apart: Any,
) -> int:  # fmt: skip
    """Solve groups that are no rows in copies that are."""
    from proxlab.backends.copies import over_copies

    def on_copies(low: int, high: int, *rows: Any) -> int:
        x, z = rows[0].reshape(-1), rows[-1].reshape(-1)
        copy = Data(x, rows[1].reshape(-1) if data.dense else data.d, z, data.dense)
        some, left = slice(low, high), np.zeros(high - low, np.bool_)
        lying = place._replace(shape=np.array((high - low, 1, 1, solver.longest)))
        parts = Steps(*(a[some] if len(a) > 1 else a for a in each))
        bad = solver(copy, lying, 0, high - low, parts, GroupResults(*(a[some] for a in results)), left)
        # What is left alone stays, and may be where the point is.
        rows[-1][left], apart[some] = rows[0][left], left
        return bad

    return over_copies(shape, (data.x, data.d) if data.dense else (data.x,), (data.z,), on_copies)


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
