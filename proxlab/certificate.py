"""Certificates: how far any candidate is from the exact weighted prox, rigorously, rounding included.

The exact radius of a group is enclosed from a few evaluations of the secular equation with bounds of their
rounding errors; a bracket of the radius is a box around the exact prox, and the candidate's distance to the
farthest corner of the box bounds its error (docs: the mathematics, §5). For convex penalties the least
subgradient at the candidate gives further bounds; the smaller one counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from proxlab.arguments import Problem, check_finite, check_same, check_values, problem
from proxlab.autograd import detached
from proxlab.backends import backend_of
from proxlab.bounds import rounding
from proxlab.namespaces import namespace
from proxlab.penalties import Penalty
from proxlab.powers import TINIEST
from proxlab.types import Array
from proxlab.untraced import untraced

__all__ = ["Certificate", "Total", "certify"]


class Total(NamedTuple):
    """Bounds for the whole array: 2-norms over the groups of the distances and the stationarity, and the sum
    of the gaps.
    """

    distance: float
    metric_distance: float
    stationarity: float
    gap: float


@dataclass(frozen=True, eq=False)
class Certificate:
    """Rigorous bounds of the error of a candidate ``z`` for the weighted prox ``z*``, the minimiser of ``Q``.

    ``Q(z) = h(z) + ‖z - x‖²_D / (2 step)``; arrays have shape (n_groups,) and dtype float64 unless said
    otherwise. All bounds count rounding and are infinite where nothing is known. For a nonconvex penalty
    ``z*`` is the *global* minimiser; where rounding leaves open which one that is, the bounds hold for each
    of them.

    Attributes
    ----------
    penalty, z, x, step, metric
        What was certified.
    distance : array
        Upper bound of ``‖z_g - z*_g‖₂``.
    metric_distance : array
        Upper bound of ``‖z_g - z*_g‖_D``.
    stationarity : array
        Upper bound of ``dist(0, ∂Q_g(z_g))`` in the Euclidean norm.
    gap : array
        Upper bound of ``Q_g(z_g) - min Q_g``.
    decided : array of bool
        False where rounding leaves open whether the group is zero, or which of two minimisers is the global
        one.
    bracket : tuple of two arrays
        Lower and upper bound of the radius of ``z*_g``: its 2-norm, or its largest modulus for
        :class:`~proxlab.GroupLinf`.
    """

    penalty: Penalty
    z: Array
    x: Array
    step: float | Array
    metric: float | Array | None
    distance: Array
    metric_distance: Array
    stationarity: Array
    gap: Array
    decided: Array
    bracket: tuple[Array, Array]
    _free: Total = field(repr=False)

    def __repr__(self) -> str:
        xp, n = namespace(self.distance), self.gap.shape[0]
        decided = int(xp.sum(xp.astype(self.decided, xp.int64))) if n else 0
        # Three digits, rounded up.
        bounds = ", ".join(f"{name} <= {1.006 * value:.3g}" for name, value in self.total._asdict().items())
        return (
            f"<Certificate: {type(self.penalty).__name__}, shape {tuple(self.x.shape)}, {n} groups, "
            f"{decided} decided; together {bounds}>"
        )

    @cached_property
    def total(self) -> Total:
        """Bounds for the whole array; elements in no group count too: their prox is ``x``.

        With a step per group, elements in no group have no step: unless ``z`` equals ``x`` there, the
        stationarity and the gap are infinite.
        """
        xp = namespace(self.distance)
        n = self.gap.shape[0]
        gap = (float(xp.sum(self.gap)) if n else 0.0) + self._free.gap
        return Total(
            _norm(xp, self.distance, self._free.distance),
            _norm(xp, self.metric_distance, self._free.metric_distance),
            _norm(xp, self.stationarity, self._free.stationarity),
            gap * (1.0 + rounding(n + 2)),
        )

    @property
    def lower(self) -> Array:
        """Lower bound of ``|z*|`` in every element, of the shape of ``x``; computed on first use."""
        return self._box[0]

    @property
    def upper(self) -> Array:
        """Upper bound of ``|z*|`` in every element, of the shape of ``x``; computed on first use."""
        return self._box[1]

    @cached_property
    def _box(self) -> tuple[Array, Array]:
        p = problem(self.penalty, self.x, self.step, self.metric, "array_api")
        from proxlab.backends import arrays

        parts = arrays.row_bounds(p, self.z)
        free = p.xp.abs(p.xp.astype(self.x, p.xp.float64))
        low, high = (p.layout.join([getattr(part, k) for part in parts], free) for k in ("low", "high"))
        # |z*_i| ≤ |x_i| always; the bounds may be coarser where elements are far below the largest.
        return low, p.xp.minimum(high, free)


@untraced
def certify(
    penalty: Penalty,
    z: Array,
    x: Array,
    step: float | Array = 1.0,
    *,
    metric: float | Array | None = None,
    backend: str | None = None,
) -> Certificate:
    """Bound the error of any candidate for the weighted prox ``argmin_z h(z) + ‖z - x‖²_D / (2 step)``.

    Parameters
    ----------
    penalty : Penalty
        The function ``h``.
    z : array
        The candidate, whoever computed it: of the kind and shape of ``x``, finite.
    x, step, metric, backend
        As in :func:`prox`.

    Returns
    -------
    Certificate

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, shape, dtype or value; the message names it.

    Notes
    -----
    Data of any precision are certified in float64: an exact result rounded to float32 has a distance of the
    size of that rounding. Below ``2**-300`` of the largest element, and for metrics that spread further than
    ``2**200`` in the scale of the problem, the bounds hold but are no longer tight.

    Examples
    --------
    >>> import numpy as np, proxlab as pl
    >>> h, x = pl.GroupLasso(1.0), np.array([[3.0, 4.0]])
    >>> c = pl.certify(h, np.array([[2.4, 3.3]]), x)  # the prox is (2.4, 3.2)
    >>> 0.1 <= c.total.distance < 0.11, bool(c.decided[0])
    (True, True)
    """
    z, x, step, metric = detached(z), detached(x), detached(step), detached(metric)
    p = problem(penalty, x, step, metric, backend)
    check_same("z", z, x, p.xp)
    if len(p.layout.free):
        # The kernels see the groups only.
        check_finite("z", z, p.xp)
        check_values(p)
    b = backend_of(p).certify(p, z)
    # Overflow and division by zero in branches that are not selected are expected.
    with np.errstate(all="ignore"):
        free = _free_bounds(p, z)
    return Certificate(
        penalty=p.penalty,
        z=z,
        x=p.x,
        step=p.step,
        metric=p.metric,
        distance=b.distance,
        metric_distance=b.metric_distance,
        stationarity=b.stationarity,
        gap=b.gap,
        decided=b.decided,
        bracket=(b.lower, b.upper),
        _free=free,
    )


def _free_bounds(p: Problem, z: Array) -> Total:
    """Bound distance, metric distance, stationarity and gap over the elements in no group."""
    xp = p.xp
    if not len(p.layout.free):
        return Total(0.0, 0.0, 0.0, 0.0)
    from proxlab.backends import array_certify

    where = xp.asarray(p.layout.free, device=array_api_compat.device(p.x))

    def row(a: Array) -> Array:
        return xp.take(xp.reshape(xp.astype(a, xp.float64), (1, -1)), where, axis=1)

    one = xp.ones((1,), dtype=xp.float64, device=array_api_compat.device(p.x))
    uniform = isinstance(p.step, float)
    found = array_certify.free_bounds(
        xp, row(z), row(p.x), row(p.full_metric()), one * p.step if uniform else one
    )
    distance, metric_distance, stationarity, gap = (float(b[0]) for b in found)
    known = uniform or distance == 0
    return Total(distance, metric_distance, stationarity if known else math.inf, gap if known else math.inf)


def _norm(xp: Any, values: Array, free: float) -> float:
    """Return an upper bound of the norm of nonnegative values and one more."""
    n = values.shape[0]
    largest = max(float(xp.max(values)) if n else 0.0, free)
    if largest == 0 or math.isinf(largest):
        return largest
    unit = math.ldexp(1.0, math.frexp(largest)[1] - 1)
    ratio = values / unit
    square = (float(xp.sum(ratio * ratio)) if n else 0.0) + (free / unit) ** 2
    return math.sqrt(square) * unit * (1.0 + rounding(n + 8)) + TINIEST
