"""How exact a proximal point must be: the criteria and tolerance schedules of the convergence theorems.

A criterion is a frozen object whose ``holds`` asks a :class:`~proxlab.Certificate`. Its answer is on the safe
side: True means proved, rounding included; False means not proved, which is not the same as violated. All are
conditions on the whole array. In what follows ``ẑ`` is the candidate, ``z*`` the exact weighted prox, which
minimises ``Q(z) = h(z) + ‖z - x‖²_D / 2η``, and ``w`` the last iterate (docs: the mathematics, §6).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import array_api_compat
import numpy as np

from proxlab.arguments import Problem, check_same, problem
from proxlab.bounds import UNIT, rounding
from proxlab.penalties import Penalty
from proxlab.types import Array
from proxlab.values import check_number

if TYPE_CHECKING:
    from proxlab.certificate import Certificate

__all__ = [
    "Adaptive",
    "Constant",
    "Criterion",
    "Distance",
    "EpsSubgradient",
    "Exact",
    "Gap",
    "RelativeDistance",
    "RelativeStationarity",
    "Schedule",
    "SquareSummable",
    "Stationarity",
    "Summable",
    "decreases",
]


# --------------------------------------------------------------------------------------------------------
# Criteria


class Criterion(ABC):
    """Base of all criteria."""

    @abstractmethod
    def holds(self, certificate: Certificate, previous: Array | None = None) -> bool:
        """Return whether the certificate proves the condition.

        Parameters
        ----------
        certificate : Certificate
            What :func:`~proxlab.certify` says about the candidate.
        previous : array, optional
            The last iterate ``w``, of the kind and shape of ``x``. Relative criteria need it.

        Returns
        -------
        bool
            True only if the condition is proved.
        """


@dataclass(frozen=True)
class Distance(Criterion):
    """``‖ẑ - z*‖₂ ≤ ε``.

    Asked by Deleu & Bengio (2021), and by Rockafellar (1976), criterion (A), with ``Σ ε_t < ∞``.

    Parameters
    ----------
    eps : float
        Tolerance ε, at least 0.
    """

    eps: float

    def __post_init__(self) -> None:
        """Validate the tolerance."""
        object.__setattr__(self, "eps", check_number("eps", self.eps, 0.0))

    def holds(self, certificate: Certificate, previous: Array | None = None) -> bool:
        """Return whether the distance is proved to be at most ε; ``previous`` is not used."""
        return bool(certificate.total.distance <= self.eps)


@dataclass(frozen=True)
class RelativeDistance(Criterion):
    """``‖ẑ - z*‖₂ ≤ ε ‖ẑ - w‖₂``.

    Asked by Rockafellar (1976), criterion (B), with ``Σ ε_t < ∞``.

    Parameters
    ----------
    eps : float
        Tolerance ε, at least 0.
    """

    eps: float

    def __post_init__(self) -> None:
        """Validate the tolerance."""
        object.__setattr__(self, "eps", check_number("eps", self.eps, 0.0))

    def holds(self, certificate: Certificate, previous: Array | None = None) -> bool:
        """Return whether the distance is proved to be at most ε times the step from ``previous``."""
        p, w = _problem(certificate), _previous(certificate, previous, "RelativeDistance")
        allowed = self.eps * _length_below(p, certificate.z, w) * (1.0 - 2 * UNIT)
        return bool(certificate.total.distance <= allowed)


@dataclass(frozen=True)
class Stationarity(Criterion):
    """``dist(0, ∂Q(ẑ)) ≤ ε``, and ``Q(ẑ) ≤ Q(w)`` where ``w`` is given.

    Asked, both together, by Huang & Lee (2024), eq. (7) and (8), with ``Σ ε_t² < ∞`` in Theorem 4. The second
    is proved through the gap and the quadratic growth of a convex ``Q`` at ``z*``, or by comparing the two
    objectives; it holds at once where ``ẑ = w``.

    Parameters
    ----------
    eps : float
        Tolerance ε, at least 0.
    """

    eps: float

    def __post_init__(self) -> None:
        """Validate the tolerance."""
        object.__setattr__(self, "eps", check_number("eps", self.eps, 0.0))

    def holds(self, certificate: Certificate, previous: Array | None = None) -> bool:
        """Return whether ẑ is proved stationary to ε, and no worse than ``previous`` if that is given."""
        if not certificate.total.stationarity <= self.eps:
            return False
        return previous is None or decreases(certificate, previous)


def decreases(certificate: Certificate, previous: Array | None) -> bool:
    """Return whether ``Q(ẑ) ≤ Q(w)`` is proved: Huang & Lee (2024), eq. (8), alone.

    Parameters
    ----------
    certificate : Certificate
        What :func:`~proxlab.certify` says about the candidate ``ẑ``.
    previous : array
        The last iterate ``w``, of the kind and shape of ``x``.

    Returns
    -------
    bool
        True only if it is proved.
    """
    return _decreases(certificate, _previous(certificate, previous, "the decrease"))


@dataclass(frozen=True)
class RelativeStationarity(Criterion):
    """``‖s‖ ≤ (σ/η) ‖ẑ - w‖_D`` for some ``s ∈ ∂Q(ẑ)``, in the norm ``‖s‖² = Σ s_i²/d_i`` dual to the metric.

    The relative error of hybrid proximal extragradient methods (Solodov & Svaiter). With a step per group the
    condition is the same in the metric ``D/η``. Since a certificate bounds ``‖s‖₂``, this is tested through
    ``‖s_g‖₂² / min d_g`` of each group, which asks too much where the metric varies a lot within a group.
    Elements in no group count with their own residual ``D(ẑ - x)/η``; with a step per group they have none,
    and must equal ``x``.

    Parameters
    ----------
    sigma : float
        Relative tolerance σ, ``0 ≤ σ < 1``.
    """

    sigma: float

    def __post_init__(self) -> None:
        """Validate the tolerance."""
        object.__setattr__(self, "sigma", check_number("sigma", self.sigma, 0.0))
        if self.sigma >= 1.0:
            raise ValueError(f"sigma: must be < 1, got {self.sigma!r}")

    def holds(self, certificate: Certificate, previous: Array | None = None) -> bool:
        """Return whether the residual is proved small against the step from ``previous``."""
        p, w = _problem(certificate), _previous(certificate, previous, "RelativeStationarity")
        xp, n_groups = p.xp, p.layout.n_groups
        at_rest = _free_at_rest(p, certificate.z)
        if not (_known_steps(p) or at_rest):
            return False
        if at_rest and not bool(xp.any(certificate.stationarity > 0)):
            return True
        with _quiet():
            eta = p.group_steps()
            scaled = certificate.stationarity * xp.sqrt(eta / _group_minimum(p, p.full_metric()))
            left = _sum(xp, scaled**2) * (1.0 + rounding(_height(n_groups) + 12)) + n_groups * _TINY
            if not at_rest:
                left += _free_square_above(p, certificate.z) / p.step * (1.0 + rounding(8))
            moved = _squares_below(p, certificate.z, w) / _steps(p)
            right = _sum(xp, moved) * (1.0 - rounding(_height(n_groups + 1) + 4))
        return math.isfinite(right) and left <= self.sigma**2 * right * (1.0 - 4 * UNIT)


@dataclass(frozen=True)
class Gap(Criterion):
    """``Q(ẑ) - min Q ≤ ε``.

    Asked by Schmidt, Le Roux & Bach (2011) and by Salzo & Villa (2012) for approximations of type 1.

    Parameters
    ----------
    eps : float
        Tolerance ε, at least 0.
    """

    eps: float

    def __post_init__(self) -> None:
        """Validate the tolerance."""
        object.__setattr__(self, "eps", check_number("eps", self.eps, 0.0))

    def holds(self, certificate: Certificate, previous: Array | None = None) -> bool:
        """Return whether the gap is proved to be at most ε; ``previous`` is not used."""
        return bool(certificate.total.gap <= self.eps)


@dataclass(frozen=True)
class EpsSubgradient(Criterion):
    """``s = D(x - ẑ)/η ∈ ∂_ε h(ẑ)``, that is ``h(ẑ) + h*(s) - ⟨s, ẑ⟩ ≤ ε``, for convex ``h``.

    Asked by Salzo & Villa (2012) for approximations of type 2, and by Villa et al. (2013).

    A norm's conjugate is infinite outside its dual ball, and a nonzero prox has its ``s`` *on* that ball's
    surface. So for the norms (L1, group lasso, sparse group lasso, ℓ1/ℓ∞) rounding alone keeps most nonzero
    candidates from being proved inside: there the condition fails for every ε, although the distance to the
    prox is tiny. It can hold at zero groups, where ``ẑ`` errs towards ``x``, and for
    :class:`~proxlab.GroupElasticNet`, whose conjugate is finite everywhere. Elsewhere prefer :class:`Gap`.

    Parameters
    ----------
    eps : float
        Tolerance ε, at least 0.
    """

    eps: float

    def __post_init__(self) -> None:
        """Validate the tolerance."""
        object.__setattr__(self, "eps", check_number("eps", self.eps, 0.0))

    def holds(self, certificate: Certificate, previous: Array | None = None) -> bool:
        """Return whether ``s`` is proved to be an ε-subgradient; ``previous`` is not used.

        Raises
        ------
        TypeError
            If the penalty is not convex.
        """
        return _fenchel_gap(certificate) <= self.eps


# --------------------------------------------------------------------------------------------------------
# What the criteria need to know about the last iterate and the objective, each on its safe side. Float64
# throughout; error terms carry a slack of one per cent (in `rounding`) that covers their own rounding, and an
# absolute term (`_TINY`) for products below the range of float64. Overflow ends in an infinity: not proved.

_TINY = 2.0**-1020
# Relative error of a penalty's value, in units, beyond one per element of the group: its terms have one sign,
# and its p is well conditioned (|r p'/p| ≤ 2).
_VALUE = 64


def _quiet() -> np.errstate:
    return np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")


def _problem(c: Certificate) -> Problem:
    return problem(c.penalty, c.x, c.step, c.metric, "array_api")


def _previous(c: Certificate, previous: Array | None, criterion: str) -> Array:
    if previous is None:
        raise ValueError(f"previous: {criterion} compares with the last iterate and needs it, got None")
    return check_same("previous", previous, c.x, _problem(c).xp)


def _known_steps(p: Problem) -> bool:
    """Whether elements in no group have a step: that of all groups."""
    return isinstance(p.step, float)


def _steps(p: Problem) -> Array:
    """Return the steps of :func:`_sums`: infinite for elements in no group if there is one per group.

    Their quadratic part then counts nothing, which is safe where ``ẑ = x``, its least value.
    """
    own = p.step if _known_steps(p) else math.inf
    steps = p.group_steps()
    device = array_api_compat.device(steps)
    return p.xp.concat([steps, p.xp.full((1,), own, dtype=p.xp.float64, device=device)])


def _free(p: Problem, elements: Array) -> Array:
    """Return the elements in no group, as a vector."""
    where = p.xp.asarray(p.layout.free, device=array_api_compat.device(elements))
    return p.xp.take(p.xp.reshape(elements, (-1,)), where, axis=0)


def _free_at_rest(p: Problem, z: Array) -> bool:
    """Whether ``z`` is the exact prox, ``x``, in all elements in no group."""
    return bool(p.xp.all(_free(p, z) == _free(p, p.x)))


def _free_square_above(p: Problem, z: Array) -> float:
    """Upper bound of ``‖z - x‖²_D`` over the elements in no group."""
    moved = _free(p, p.xp.sqrt(p.full_metric()) * _difference(p, z, p.x))
    n = moved.shape[0]
    return float(_sum(p.xp, moved**2) * (1.0 + rounding(_height(n) + 8)) + n * _TINY)


def _height(n: int) -> int:
    """Depth of the summation tree of :func:`_sum`."""
    return 2 * math.isqrt(n) + 4


def _sum(xp: Any, values: Array) -> float:
    """Sum a vector in about √n blocks: in whatever order these are summed, the depth is `_height` at most."""
    width = math.isqrt(values.shape[0])
    if width < 2:
        return float(xp.sum(values))
    whole = width * (values.shape[0] // width)
    blocks = xp.sum(xp.reshape(values[:whole], (-1, width)), axis=1)
    return float(xp.sum(blocks)) + float(xp.sum(values[whole:]))


def _sums(p: Problem, elements: Array) -> Array:
    """Sum the elements of each group, and of those in no group; shape (n_groups + 1,)."""
    groups = [p.xp.sum(rows, axis=1) for rows in p.layout.split(elements, 0.0)]
    free = p.xp.reshape(p.xp.sum(_free(p, elements)), (1,))
    return p.xp.concat([p.layout.join_groups(groups), free])


def _group_minimum(p: Problem, elements: Array) -> Array:
    """Return the least element of each group; 1 where a group is empty."""
    xp = p.xp
    rows = p.layout.split(elements, math.inf)
    return p.layout.join_groups([xp.min(r, axis=1) if r.shape[1] else xp.sum(r, axis=1) + 1.0 for r in rows])


def _longest_sum(p: Problem) -> int:
    """Terms of the longest sum of :func:`_sums`."""
    return max(int(p.layout.sizes().max(initial=0)), len(p.layout.free))


def _difference(p: Problem, a: Array, b: Array) -> Array:
    return p.xp.astype(a, p.xp.float64) - p.xp.astype(b, p.xp.float64)


def _length_below(p: Problem, a: Array, b: Array) -> float:
    """Lower bound of ``‖a - b‖₂``: 0 where squares leave the range of float64."""
    with _quiet():
        square = _sum(p.xp, p.xp.reshape(_difference(p, a, b) ** 2, (-1,)))
    n = math.prod(a.shape)
    below = square * (1.0 - rounding(_height(n) + 4)) - n * _TINY
    return math.sqrt(below) * (1.0 - 2 * UNIT) if 0.0 < below < math.inf else 0.0


def _squares_below(p: Problem, a: Array, b: Array) -> Array:
    """Lower bound of ``‖a - b‖²_D`` as by :func:`_sums`: 0 where squares leave the range of float64."""
    xp = p.xp
    squares = _sums(p, (xp.sqrt(p.full_metric()) * _difference(p, a, b)) ** 2)
    n = _longest_sum(p)
    below = squares * (1.0 - rounding(n + 8)) - n * _TINY
    return xp.where((below > 0) & xp.isfinite(below), below, xp.zeros_like(below))


def _decreases(c: Certificate, w: Array) -> bool:
    """Return whether ``Q(ẑ) ≤ Q(w)`` is proved."""
    p = _problem(c)
    if bool(p.xp.all(c.z == w)):
        return True
    if not (_known_steps(p) or _free_at_rest(p, c.z)):
        return False
    with _quiet():
        return (c.penalty.equation.proved_convex and _decreases_by_growth(c, w, p)) or _decreases_by_value(
            c, w, p
        )


def _decreases_by_growth(c: Certificate, w: Array, p: Problem) -> bool:
    """Prove the decrease from the gap and ``Q(w) - Q(z*) ≥ (‖w - ẑ‖_D - ‖ẑ - z*‖_D)² / 2η``.

    Nothing cancels: this decides long after the objectives agree in all their digits.
    """
    xp, n = p.xp, p.layout.n_groups + 1
    # Of elements in no group the prox is x.
    off = xp.full((1,), math.sqrt(_free_square_above(p, c.z)) * (1.0 + 2 * UNIT), dtype=xp.float64)
    off = xp.concat([c.metric_distance, xp.asarray(off, device=array_api_compat.device(c.metric_distance))])
    away = xp.sqrt(_squares_below(p, c.z, w)) * (1.0 - 2 * UNIT) - off
    away = xp.where(away > 0, away, xp.zeros_like(away))
    growth = _sum(xp, away**2 / (2.0 * _steps(p))) * (1.0 - rounding(_height(n) + 8))
    return math.isfinite(growth) and bool(c.total.gap <= growth - n * _TINY)


def _decreases_by_value(c: Certificate, w: Array, p: Problem) -> bool:
    """Prove the decrease from ``Q(ẑ) - Q(w) = h(ẑ) - h(w) + Σ d (ẑ - w)(ẑ - x + w - x) / 2η``."""
    xp, n = p.xp, p.layout.n_groups + 1
    eta, root = _steps(p), xp.sqrt(p.full_metric())
    at_z, at_w = (xp.concat([c.penalty._values(a), xp.zeros_like(eta[:1])]) for a in (c.z, w))
    moved = root * _difference(p, c.z, w)
    from_x, last_from_x = root * _difference(p, c.z, c.x), root * _difference(p, w, c.x)
    reach = xp.abs(from_x) + xp.abs(last_from_x)
    change = at_z - at_w + _sums(p, moved * (from_x + last_from_x)) / (2.0 * eta)
    size = _sum(xp, at_z + at_w + _sums(p, xp.abs(moved) * reach) / (2.0 * eta))
    error = rounding(_longest_sum(p) + _height(n) + _VALUE) * size
    lost = math.prod(c.x.shape) * _TINY * (1.0 + float(xp.max(reach))) * (1.0 + 1.0 / float(xp.min(eta)))
    return math.isfinite(size) and _sum(xp, change) + error + lost <= 0.0


def _fenchel_gap(c: Certificate) -> float:
    """Upper bound of ``h(ẑ) + h*(s) - ⟨s, ẑ⟩``, ``s = D(x - ẑ)/η``; infinite where none is proved."""
    p = _problem(c)
    xp, n_groups = p.xp, p.layout.n_groups
    _check_conjugate(c.penalty)
    if not _free_at_rest(p, c.z):
        # The conjugate is infinite wherever elements in no group have a slope.
        return math.inf
    if math.prod(c.x.shape) == 0 or n_groups == 0:
        return 0.0
    with _quiet():
        z_rows = p.layout.split(xp.astype(c.z, xp.float64), 0.0)
        pull_rows = p.layout.split(p.full_metric() * _difference(p, c.x, c.z), 0.0)
        steps, weights = (p.layout.split_groups(v) for v in (p.group_steps(), p.group_weights()))
        conjugates, inners, sizes = [], [], []
        for z, pull, eta, weight in zip(z_rows, pull_rows, steps, weights, strict=True):
            s = pull / eta[:, None]
            conjugates.append(c.penalty._row_conjugate(xp, s, weight))
            inners.append(xp.sum(s * z, axis=1))
            sizes.append(xp.sum(xp.abs(s * z), axis=1))
        value = c.penalty._values(c.z)
        conjugate, inner, size = (p.layout.join_groups(parts) for parts in (conjugates, inners, sizes))
        total = _sum(xp, value + conjugate - inner)
        total += rounding(_longest_sum(p) + _height(n_groups) + _VALUE) * _sum(xp, value + conjugate + size)
        smallest_step, largest = float(xp.min(p.group_steps())), float(xp.max(xp.abs(c.z)))
        total += math.prod(c.x.shape) * _TINY * (1.0 + largest) * (1.0 + 1.0 / smallest_step)
    return total if math.isfinite(total) else math.inf


def _check_conjugate(penalty: Penalty) -> None:
    if not penalty._has_conjugate:
        raise TypeError(
            "EpsSubgradient: the penalty must be convex with a known conjugate (L1, GroupLasso, GroupLinf, "
            f"GroupElasticNet, SparseGroupLasso), got {type(penalty).__name__}; use Gap"
        )


# --------------------------------------------------------------------------------------------------------
# Schedules


class Schedule(ABC):
    """A sequence of tolerances: ``schedule(t)`` is ε_t, t = 1, 2, …

    All are called alike, ``schedule(t, progress)``; only :class:`Adaptive` looks at the progress.
    """

    def __call__(self, t: int, progress: float | None = None) -> float:
        """Return the tolerance of iteration ``t``.

        Parameters
        ----------
        t : int
            The iteration, from 1.
        progress : float, optional
            What is left to gain in this iteration, in the unit of the tolerance: what the last iterate
            ``w``, taken for the solution, would be wrong by. That is ``‖w - z*‖`` for a distance,
            ``dist(0, ∂Q(w))`` for a stationarity and ``Q(w) - min Q`` for a gap.
        """
        check_number("t", t, 1.0)
        if progress is not None:
            # An infinite bound of the progress is none.
            progress = None if progress == math.inf else check_number("progress", progress, 0.0)
        return self._tolerance(int(t), progress)

    @abstractmethod
    def _tolerance(self, t: int, progress: float | None) -> float: ...

    @property
    @abstractmethod
    def is_summable(self) -> bool:
        """Whether ``Σ ε_t < ∞``."""

    @property
    @abstractmethod
    def is_square_summable(self) -> bool:
        """Whether ``Σ ε_t² < ∞``."""


@dataclass(frozen=True)
class Exact(Schedule):
    """``ε_t = 0``: as exact as the arithmetic allows.

    No certificate proves an error of 0 for a nonzero group: solve with the default root finder, do not ask.
    """

    def _tolerance(self, t: int, progress: float | None) -> float:
        return 0.0

    @property
    def is_summable(self) -> bool:
        """Always true."""
        return True

    @property
    def is_square_summable(self) -> bool:
        """Always true."""
        return True


@dataclass(frozen=True)
class Constant(Schedule):
    """``ε_t = ε``. Not even square-summable: expect a floor of order ε² in the squared stationarity.

    Parameters
    ----------
    eps : float
        The tolerance, above 0.
    """

    eps: float

    def __post_init__(self) -> None:
        """Validate the tolerance."""
        object.__setattr__(self, "eps", check_number("eps", self.eps, 0.0, strict=True))

    def _tolerance(self, t: int, progress: float | None) -> float:
        return self.eps

    @property
    def is_summable(self) -> bool:
        """Always false."""
        return False

    @property
    def is_square_summable(self) -> bool:
        """Always false."""
        return False


@dataclass(frozen=True)
class Summable(Schedule):
    """``ε_t = ε / t^power`` with ``power > 1``, so that ``Σ ε_t < ∞``.

    Parameters
    ----------
    eps : float
        The first tolerance, above 0.
    power : float, optional
        How fast the tolerances fall, above 1.
    """

    eps: float
    power: float = 2.0

    def __post_init__(self) -> None:
        """Validate the parameters."""
        object.__setattr__(self, "eps", check_number("eps", self.eps, 0.0, strict=True))
        object.__setattr__(self, "power", check_number("power", self.power, 1.0, strict=True))

    def _tolerance(self, t: int, progress: float | None) -> float:
        return _fall(self.eps, t, self.power)

    @property
    def is_summable(self) -> bool:
        """Always true."""
        return True

    @property
    def is_square_summable(self) -> bool:
        """Always true."""
        return True


@dataclass(frozen=True)
class SquareSummable(Schedule):
    """``ε_t = ε / t^power`` with ``power > 1/2``, so that ``Σ ε_t² < ∞`` (Huang & Lee 2024, Theorem 4).

    Parameters
    ----------
    eps : float
        The first tolerance, above 0.
    power : float, optional
        How fast the tolerances fall, above 1/2.
    """

    eps: float
    power: float = 1.0

    def __post_init__(self) -> None:
        """Validate the parameters."""
        object.__setattr__(self, "eps", check_number("eps", self.eps, 0.0, strict=True))
        object.__setattr__(self, "power", check_number("power", self.power, 0.5, strict=True))

    def _tolerance(self, t: int, progress: float | None) -> float:
        return _fall(self.eps, t, self.power)

    @property
    def is_summable(self) -> bool:
        """Whether ``power > 1``."""
        return self.power > 1.0

    @property
    def is_square_summable(self) -> bool:
        """Always true."""
        return True


@dataclass(frozen=True)
class Adaptive(Schedule):
    """``ε_t = min(ε / t^power, σ · progress)``: a share of what is left to gain, under a square-summable cap.

    Without a progress the cap alone is used. The optimizers of :mod:`proxlab.optim` and of ``proxlab.torch``
    take the bounds of a certificate of the last iterate for the progress; relative criteria, whose
    tolerance has no unit, have none. Where rounding keeps a share of a tiny progress from being proved, they
    ask for the cap.

    Parameters
    ----------
    eps : float
        The first cap, above 0.
    sigma : float, optional
        The share σ, above 0.
    power : float, optional
        How fast the cap falls, above 1/2.
    """

    eps: float
    sigma: float = 0.1
    power: float = 1.0

    def __post_init__(self) -> None:
        """Validate the parameters."""
        object.__setattr__(self, "eps", check_number("eps", self.eps, 0.0, strict=True))
        object.__setattr__(self, "sigma", check_number("sigma", self.sigma, 0.0, strict=True))
        object.__setattr__(self, "power", check_number("power", self.power, 0.5, strict=True))

    def _tolerance(self, t: int, progress: float | None) -> float:
        cap = _fall(self.eps, t, self.power)
        return cap if progress is None else min(cap, self.sigma * progress)

    @property
    def is_summable(self) -> bool:
        """Whether the cap is: ``power > 1``."""
        return self.power > 1.0

    @property
    def is_square_summable(self) -> bool:
        """Always true, by the cap."""
        return True


def _fall(eps: float, t: int, power: float) -> float:
    """``eps / t**power``, also where the power overflows."""
    return eps * math.exp(-power * math.log(t))
