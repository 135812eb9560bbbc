"""The array backend: any array namespace, on the array's device, and all equations that penalties name.

``FORMS`` is the table of equations: a new one is a file with the functions of an :class:`ArrayForm`, and a
line here. What other backends do not know comes here too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import array_api_compat
import numpy as np

from proxlab.arguments import Problem, check_finite, check_values
from proxlab.backends import (
    array_api,
    array_curved,
    array_derivative,
    array_tables,
    clipped_certify,
    curved_certify,
    radial_certify,
)
from proxlab.backends.array_api import RowSolution
from proxlab.backends.array_derivative import CotangentRows, CurvedRates, Rates, RowGradients
from proxlab.backends.records import Bounds, GroupResults, Options, Solved
from proxlab.bounds import rounding
from proxlab.penalties import Penalty
from proxlab.penalties.base import row_norm
from proxlab.penalties.equations import Clipped, Curved, GroupEquation, Radial
from proxlab.powers import TINIEST, quotient
from proxlab.rootfinders import RootFinder, Status
from proxlab.types import Array

__all__ = [
    "GROUPWISE",
    "ArrayForm",
    "array_form",
    "certify",
    "enclose_shrunk",
    "row_bounds",
    "rows_of",
    "solve",
]

#: Elements that are certified together on the CPU: what stays in cache.
_BLOCK = 2**17


class _Solve(Protocol):
    def __call__(
        self, xp: Any, x: Array, d: Array, step: Array, weight: Array, penalty: Any, finder: RootFinder,
        rtol: float, /,
    ) -> RowSolution: ...  # fmt: skip


class _Certify(Protocol):
    def __call__(
        self, xp: Any, z: Array, x: Array, d: Array, step: Array, weight: Array, penalty: Any, /
    ) -> Bounds: ...


class _PullBack(Protocol):
    def __call__(
        self, xp: Any, rows: CotangentRows, penalty: Any, rates: Any, limit: float, /
    ) -> RowGradients: ...


class _RatesOf(Protocol):
    def __call__(self, penalty: Any, /) -> Rates | CurvedRates | None: ...


class ArrayForm(NamedTuple):
    """What the array backend does for one equation, on rows: matrices in float64 with a group each.

    Attributes
    ----------
    solve : callable
        ``solve(xp, x, d, step, weight, penalty, finder, rtol)``: the prox, its radius and its status.
    certify : callable
        ``certify(xp, z, x, d, step, weight, penalty)``: bounds of the errors of any candidate ``z``.
    pull_back : callable
        ``pull_back(xp, rows, penalty, rates, limit)``: the derivative.
    rates : callable
        ``rates(penalty)``: how fast the data of the equation grow with the strength.
    """

    solve: _Solve
    certify: _Certify
    pull_back: _PullBack
    rates: _RatesOf


def _solve_radial(
    xp: Any, x: Array, d: Array, step: Array, weight: Array, penalty: Any, finder: RootFinder, rtol: float
) -> RowSolution:
    shrunk = array_api.shrink(xp, x, step, d, penalty.threshold, penalty.nonnegative)
    equation: Radial = penalty.equation
    solve_rows = array_api.radial_rows if equation.compiled else array_tables.table_rows
    part = solve_rows(xp, shrunk, d, step, weight, equation.table, finder, rtol)
    if shrunk is not x:
        kept = (part.status == int(Status.UNSHRUNK)) & xp.any(shrunk != x, axis=1)
        part.status = xp.where(kept, xp.zeros_like(part.status), part.status)
    return part


FORMS: Mapping[type[GroupEquation], ArrayForm] = {
    Radial: ArrayForm(
        _solve_radial, radial_certify.radial_bounds, array_derivative.pull_radial,
        array_derivative.radial_rates,
    ),
    Clipped: ArrayForm(
        array_api.linf_rows, clipped_certify.linf_bounds, array_derivative.pull_clipped,
        array_derivative.clipped_rates,
    ),
    Curved: ArrayForm(
        array_curved.curved_rows, curved_certify.curved_bounds, array_derivative.pull_curved,
        array_derivative.curved_rates,
    ),
}  # fmt: skip


def array_form(penalty: Penalty) -> ArrayForm:
    """Return what is done for the equation that a penalty names."""
    return FORMS[type(penalty.equation)]


def solve(p: Problem, options: Options, solve_rows: _Solve | None = None) -> Solved:
    """Solve a validated problem; by ``solve_rows``, if given, in place of the array form's."""
    if options.check is not False:
        check_values(p)
    # Overflow and division by zero in branches that are not selected are expected.
    with np.errstate(all="ignore"):
        z, groups = _solve(p, options, solve_rows or array_form(p.penalty).solve)
    z = p.xp.astype(z, p.x.dtype)
    if options.out is not None:
        options.out[...] = z
        z = options.out
    return Solved(z, groups if options.explain else None)


def rows_of(p: Problem, *arrays: Array, padding: float = 1.0) -> Iterator[tuple[Array, ...]]:
    """Yield groups as the rows of matrices: those of arrays, the metric, steps and weights.

    Where rows are longer than groups arrays are 0, and the metric is ``padding``.
    """
    layout, xp = p.layout, p.xp
    split = [layout.split(xp.astype(a, xp.float64), 0.0) for a in arrays]
    each = (layout.split_groups(a) for a in (p.group_steps(), p.group_weights()))
    return zip(*split, layout.split(p.full_metric(), padding), *each, strict=True)


def _solve(p: Problem, options: Options, solve_rows: _Solve) -> tuple[Array, GroupResults]:
    xp, layout, penalty = p.xp, p.layout, p.penalty
    parts = [
        solve_rows(xp, x, d, step, weight, penalty, options.finder, options.rtol)
        for x, d, step, weight in rows_of(p, p.x)
    ]
    z = layout.join([part.z for part in parts], xp.astype(p.x, xp.float64))
    groups = [layout.join_groups([getattr(part, name) for part in parts]) for name in GroupResults._fields]
    apart = layout.join_groups([part.apart for part in parts])
    if bool(xp.any(apart)):
        from proxlab.backends import decimal_rows

        z, *groups = decimal_rows.replaced(p, apart, (z, *groups))
    return z, GroupResults(*groups)


GROUPWISE = ("distance", "metric_distance", "stationarity", "gap", "decided", "lower", "upper")


def certify(p: Problem, z: Array) -> Bounds:
    """Certify a candidate for a validated problem, group by group."""
    check_finite("z", z, p.xp)
    check_values(p)
    parts = row_bounds(p, z)
    return Bounds(**{name: p.layout.join_groups([getattr(b, name) for b in parts]) for name in GROUPWISE})


def row_bounds(p: Problem, z: Array) -> list[Bounds]:
    """Certify the groups, as lists of matrices with a group per row, and the elements of each."""
    xp, penalty = p.xp, p.penalty
    form, parts = array_form(penalty), []
    for rows in rows_of(p, z, p.x):
        count = rows[0].shape[0]
        # On the CPU in blocks of rows that stay in cache.
        block = max(1, _BLOCK // max(1, rows[0].shape[1])) if array_api_compat.is_numpy_array(p.x) else count
        blocks = []
        # Overflow and division by zero in branches that are not selected are expected.
        with np.errstate(all="ignore"):
            for begin in range(0, max(count, 1), max(block, 1)):
                zs, xs, ds, step, weight = (a[begin : begin + block, ...] for a in rows)
                blocks.append(form.certify(xp, zs, xs, ds, step, weight, penalty))
        names = (*GROUPWISE, "low", "high")
        parts.append(Bounds(**{name: xp.concat([getattr(b, name) for b in blocks]) for name in names}))
    return parts


def enclose_shrunk(p: Problem, z: Array, radius: Array) -> tuple[Array, Array]:
    """Enclose the radii of a solution where a soft threshold comes first, whose rounding moves them."""
    with np.errstate(all="ignore"):
        return _enclose_shrunk(p, z, radius)


def _enclose_shrunk(p: Problem, z: Array, radius: Array) -> tuple[Array, Array]:
    xp, layout, penalty = p.xp, p.layout, p.penalty
    form = array_form(penalty)
    low, high = [], []
    for x, v, d, s, w in rows_of(p, p.x, z):
        if penalty.equation.flat:
            # The radius is the length of what the threshold leaves, known to a few units of its parts.
            size = xp.where(x > 0, x, xp.zeros_like(x)) if penalty.nonnegative else xp.abs(x)
            cut = quotient(xp, s, penalty.threshold, d)
            left, noise = size - cut, rounding(4) * (cut + size) + TINIEST
            kept = xp.where(size > 0, xp.minimum(left + noise, size), size)
            zero, length = xp.zeros_like(x), rounding(x.shape[1] + 16)
            least = row_norm(xp, xp.maximum(left - noise, zero)) * (1.0 - length) - TINIEST
            most = row_norm(xp, xp.maximum(kept, zero)) * (1.0 + length)
            low.append(xp.where(least > 0, least, xp.zeros_like(least)))
            high.append(xp.where(most > 0, most + TINIEST, most))
        else:
            found = form.certify(xp, v, x, d, s, w, penalty)
            low.append(found.lower)
            high.append(found.upper)
    return (
        xp.minimum(layout.join_groups(low), radius),
        xp.maximum(layout.join_groups(high), radius),
    )
