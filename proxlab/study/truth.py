"""The exact prox of a problem in ball arithmetic, and the true errors of any candidate."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from flint import arb

from proxlab.groups import Layout
from proxlab.study import exact
from proxlab.study.balls import Ball, float_below, pack, precision, unpack
from proxlab.study.exact import ExactGroup, ExactSolution
from proxlab.study.problems import Problem

__all__ = ["ERRORS", "Errors", "Truth", "truth"]

Array = npt.NDArray[Any]

#: The errors that a bound can be of: those of a :class:`~proxlab.Certificate`.
ERRORS = exact.ExactErrors._fields
_KEPT = 16


class ErrorBalls(NamedTuple):
    """True errors of a candidate as balls: object arrays of shape (n_groups,)."""

    distance: Array
    metric_distance: Array
    stationarity: Array
    gap: Array


@dataclass(frozen=True, eq=False)
class Errors:
    """True errors of a candidate, group by group: arrays of shape (n_groups,).

    The floats are not above the truth, so that a bound below one of them is proved to be false.

    Attributes
    ----------
    distance, metric_distance : ndarray of float64
        Euclidean and metric distance to the prox.
    stationarity : ndarray of float64
        ``dist(0, ∂Q_g(z_g))``; infinite outside the penalty's domain.
    gap : ndarray of float64
        ``Q_g(z_g) - min Q_g``; infinite outside the penalty's domain.
    balls : ErrorBalls
        The same as balls of python-flint.
    """

    distance: Array
    metric_distance: Array
    stationarity: Array
    gap: Array
    balls: ErrorBalls = field(repr=False)


@dataclass(frozen=True, eq=False)
class Truth:
    """The exact prox of a problem, as balls of python-flint; ``float(ball)`` is the nearest float.

    Attributes
    ----------
    problem : Problem
        What was solved.
    digits : int
        Decimal digits to which each radius is known.
    z : ndarray of object, of the shape of ``x``
        The prox; ``z.astype(float)`` rounds it. Where two minimisers tie, the sparser.
    radius, value : ndarray of object, shape (n_groups,)
        The radius of each group (for :class:`~proxlab.GroupLinf` its largest modulus), and its penalty.
    tied, decided : ndarray of bool, shape (n_groups,)
        Whether another point is as good; False where no precision settled which point is the minimiser: the
        balls then enclose all that it may be.
    """

    problem: Problem
    digits: int
    z: Array
    radius: Array
    value: Array
    tied: Array
    decided: Array
    _solved: tuple[ExactSolution, ...] = field(repr=False)
    _rows: ExactRows = field(repr=False)

    def errors(self, z: Any) -> Errors:
        """Return the true errors of a candidate.

        Parameters
        ----------
        z : array_like
            Finite, of the shape of ``x``, whoever computed it.

        Returns
        -------
        Errors

        Raises
        ------
        ValueError
            If the candidate is of another shape, or not finite.
        """
        candidate = np.asarray(z, dtype=np.float64)
        if candidate.shape != self.problem.x.shape:
            raise ValueError(f"z: must have the shape of x, {self.problem.x.shape}, got {candidate.shape}")
        if not np.isfinite(candidate).all():
            raise ValueError("z: must be finite")
        flat = candidate.reshape(-1)
        found = [
            group.errors(flat[members], solved)
            for (members, group), solved in zip(self._rows.groups(self._solved), self._solved, strict=True)
        ]
        columns = {name: objects(getattr(e, name) for e in found) for name in ERRORS}
        floats = {name: np.array([float_below(b) for b in balls]) for name, balls in columns.items()}
        return Errors(**floats, balls=ErrorBalls(**columns))

    def outside(self, lower: Any, upper: Any) -> Array:
        """Count the coordinates of ``|z|`` that certainly lie outside a componentwise enclosure.

        Parameters
        ----------
        lower, upper : array_like
            Of the shape of ``x``.

        Returns
        -------
        ndarray of int, shape (n_groups,)
        """
        low, high = (np.asarray(a, dtype=np.float64).reshape(-1) for a in (lower, upper))
        counts = []
        for (members, _), solved in zip(self._rows.groups(None), self._solved, strict=True):
            pairs = zip(solved.z, low[members], high[members], strict=True)
            counts.append(sum(_is_outside(abs(v), a, b) for v, a, b in pairs))
        return np.array(counts, dtype=np.int64)

    def radius_outside(self, lower: Any, upper: Any) -> Array:
        """Tell which radii certainly lie outside a bracket.

        Parameters
        ----------
        lower, upper : array_like, shape (n_groups,)

        Returns
        -------
        ndarray of bool, shape (n_groups,)
        """
        rows = zip(self.radius, np.asarray(lower), np.asarray(upper), strict=True)
        return np.array([_is_outside(r, a, b) for r, a, b in rows], dtype=bool)


def _is_outside(ball: Ball, low: float, high: float) -> bool:
    return bool(ball < arb(float(low)) or (np.isfinite(high) and ball > arb(float(high))))


@dataclass(frozen=True, eq=False)
class ExactRows:
    """The groups of a problem, one after the other; picklable."""

    problem: Problem
    digits: int

    @property
    def layout(self) -> Layout:
        """The groups bound to the shape."""
        return self.problem.penalty.groups.layout(self.problem.x.shape)

    def each(self) -> Iterator[tuple[Array, Array, Array, float, float]]:
        """Yield members, point, metric, step and weight of each group."""
        p, layout = self.problem, self.layout
        indptr, indices = layout.csr()
        x, d = p.x.astype(np.float64).reshape(-1), p.full_metric().reshape(-1)
        steps = np.broadcast_to(np.asarray(p.step, dtype=np.float64), (layout.n_groups,))
        weights = np.broadcast_to(p.penalty.group_weights(layout), (layout.n_groups,))
        for g in range(layout.n_groups):
            members = indices[indptr[g] : indptr[g + 1]]
            yield members, x[members], d[members], float(steps[g]), float(weights[g])

    def groups(self, solved: tuple[ExactSolution, ...] | None) -> Iterator[tuple[Array, ExactGroup]]:
        """Yield members and exact problem of each group, in the precision in which it was solved."""
        least = exact.bits_of(self.digits)
        for k, (members, x, d, step, weight) in enumerate(self.each()):
            bits = least if solved is None else solved[k].bits
            with precision(bits):
                yield members, ExactGroup(x, d, step, weight, self.problem.penalty, bits)

    def solve(self, begin: int, end: int) -> tuple[ExactSolution, ...]:
        """Solve some of the groups."""
        return tuple(
            exact.solve_group(x, d, step, weight, self.problem.penalty, self.digits)
            for k, (_, x, d, step, weight) in enumerate(self.each())
            if begin <= k < end
        )


def objects(values: Any) -> Array:
    """Return an array of objects of one axis."""
    values = list(values)
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def assemble(rows: ExactRows, solved: tuple[ExactSolution, ...]) -> Truth:
    """Put the groups of a problem together."""
    p = rows.problem
    z = objects(arb(float(v)) for v in p.x.reshape(-1))
    values = []
    for (members, group), one in zip(rows.groups(solved), solved, strict=True):
        for k, v in zip(members, one.z, strict=True):
            z[k] = v
        values.append(group.penalty_value(one.z, one.radius) if one.decided else arb(0).union(arb("inf")))
    return Truth(
        problem=p,
        digits=rows.digits,
        z=z.reshape(p.x.shape),
        radius=objects(one.radius for one in solved),
        value=objects(values),
        tied=np.array([one.tied for one in solved], dtype=bool),
        decided=np.array([one.decided for one in solved], dtype=bool),
        _solved=solved,
        _rows=rows,
    )


def to_arrays(solved: tuple[ExactSolution, ...]) -> dict[str, Array]:
    """Write solved groups as arrays that need no pickle."""
    return {
        "z": np.array([pack(v) for one in solved for v in one.z], dtype=np.bytes_),
        "sizes": np.array([len(one.z) for one in solved], dtype=np.int64),
        "radius": np.array([pack(one.radius) for one in solved], dtype=np.bytes_),
        "tied": np.array([one.tied for one in solved], dtype=bool),
        "decided": np.array([one.decided for one in solved], dtype=bool),
        "bits": np.array([one.bits for one in solved], dtype=np.int64),
    }


def from_arrays(arrays: Mapping[str, Array]) -> tuple[ExactSolution, ...]:
    """Read what :func:`to_arrays` has written."""
    ends = np.cumsum(arrays["sizes"])
    with precision(2 * int(arrays["bits"].max(initial=64))):
        z, radius = ([unpack(bytes(v)) for v in arrays[name].tolist()] for name in ("z", "radius"))
    return tuple(
        ExactSolution(z[end - n : end], r, bool(t), bool(d), int(b))
        for n, end, r, t, d, b in zip(
            arrays["sizes"].tolist(),
            ends.tolist(),
            radius,
            arrays["tied"],
            arrays["decided"],
            arrays["bits"],
            strict=True,
        )
    )


# The last problems that were solved here, by content.
_cache: OrderedDict[tuple[str, int], tuple[ExactSolution, ...]] = OrderedDict()


def remember(
    problem: Problem, digits: int, solve: Callable[[], tuple[ExactSolution, ...]]
) -> tuple[ExactSolution, ...]:
    """Return the solved groups of a problem, from before where its content is the same."""
    key = problem.digest, digits
    if key not in _cache:
        _cache[key] = solve()
        while len(_cache) > _KEPT:
            _cache.popitem(last=False)
    _cache.move_to_end(key)
    return _cache[key]


def truth(problem: Problem, digits: int = 50) -> Truth:
    """Solve a problem exactly, in ball arithmetic.

    Nothing of proxlab's solvers is used. Each radius is proved by a change of sign of the secular function;
    all stationary points are compared, so that the prox is the global one. Precision is doubled where two
    points are hard to tell apart, and covers at last all exponents of the group, however far its elements and
    its metric spread. The same content is solved once.

    Parameters
    ----------
    problem : Problem
        Its penalty is one that proxlab has, or one's own with its ``pieces``.
    digits : int, optional
        Decimal digits of the radius of each group, at least 20.

    Returns
    -------
    Truth

    Raises
    ------
    TypeError
        If the penalty is of another kind.
    ValueError
        If ``digits`` is not admissible.

    References
    ----------
    Johansson (2017), "Arb: efficient arbitrary-precision midpoint-radius interval arithmetic", IEEE
    Transactions on Computers 66.

    Examples
    --------
    >>> import numpy as np, proxlab as pl
    >>> from proxlab import study
    >>> problem = study.Problem(
    ...     "one row", np.array([[3.0, 4.0]]), 1.0, np.array([1.0, 4.0]), pl.GroupLasso(1.0)
    ... )
    >>> t = study.truth(problem)
    >>> print(t.radius[0].str(30, radius=False))
    4.51645952275664636738025522533
    >>> e = t.errors(pl.prox(problem.penalty, problem.x, metric=problem.metric))
    >>> float(e.distance[0]) < 1e-15
    True
    """
    if not isinstance(problem, Problem):
        raise TypeError(f"problem: must be a proxlab.study.Problem, got {type(problem).__name__}")
    digits = check_digits(digits)
    rows = ExactRows(problem, digits)
    solved = remember(problem, digits, lambda: rows.solve(0, rows.layout.n_groups))
    return assemble(rows, solved)


def check_digits(digits: object) -> int:
    """Return a number of digits, or raise an error."""
    if isinstance(digits, bool) or not isinstance(digits, (int, np.integer)):
        raise TypeError(f"digits: must be an integer, got {digits!r}")
    if not 20 <= digits <= 1000:
        raise ValueError(f"digits: must be between 20 and 1000, got {digits}")
    return int(digits)
