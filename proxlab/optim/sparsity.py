"""Sparsity as the user thinks of it: a strength λ that is driven towards a wanted share of zero groups.

Raising the strength of a penalty, with its shape as it is, makes more groups of a prox vanish, one after the
other. The strength from which on a group vanishes is known in closed form (:func:`vanishing_strength`), so
that the strength for a wanted share is a quantile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import array_api_compat
import numpy as np
import numpy.typing as npt

from proxlab.arguments import check_finite, check_metric_values
from proxlab.arguments import problem as check_problem
from proxlab.bounds import rounding
from proxlab.groups import Array, Groups
from proxlab.optim.problem import ProxProblem
from proxlab.penalties import GroupLinf, Penalty, RadialPenalty
from proxlab.penalties.base import check_number, row_norm, table_of
from proxlab.penalties.tables import convex, form
from proxlab.powers import exponent, factors, product, row_products, sum_of_products, times_power
from proxlab.untraced import untraced

__all__ = [
    "Resting",
    "TargetSparsity",
    "check_count",
    "check_sparsity",
    "driven",
    "living_groups",
    "record",
    "to_numpy",
    "vanishing_strength",
]

# Newton's method needs fewer than ten steps on anything but made-up data.
_STEPS = 200
# Range in which the multiplicative method keeps the strength.
_LEAST, _LARGEST = 1e-150, 1e150


@untraced
def vanishing_strength(
    penalty: Penalty, x: Array, step: float | Array = 1.0, *, metric: float | Array | None = None
) -> Array:
    """Return, for each group, the strength from which on the group is zero in ``prox(penalty, x, step)``.

    The strength is that of ``penalty.with_strength``: the shape of the penalty stays, and the parts of a
    :class:`~proxlab.SparseGroupLasso` keep their proportion. With ``b = D x`` and the group's weight ``w``,
    a group vanishes from ``‖b‖/(ηw)`` on for the group lasso; for penalties that are not convex also the
    flat part must cost more than it saves, ``η w p(‖x‖) ≥ ½ ‖x‖²_D`` (docs: the theory of the optimizers).

    Parameters
    ----------
    penalty : Penalty
        Its own strength does not matter, but must be positive where it consists of several parts.
    x, step, metric
        As in :func:`proxlab.prox`.

    Returns
    -------
    array of shape (n_groups,)
        In float64: 0 for a group that is zero in ``x``, infinite for one that never vanishes (its weight is
        0, or the slope of the penalty at zero).

    Raises
    ------
    ValueError
        For a penalty of one's own where nothing is proved: its strength is no factor of the slope at zero
        and of the elementwise part, or it is not convex and its slope is not concave up to a flat end.

    Examples
    --------
    >>> import numpy as np, proxlab as pl
    >>> x = np.array([[3.0, 4.0], [0.3, 0.4]])
    >>> pl.optim.vanishing_strength(pl.GroupLasso(1.0), x, 0.5)
    array([10.,  1.])
    """
    p = check_problem(penalty, x, step, metric, "array_api")
    check_finite("x", p.x, p.xp)
    if p.metric is not None and not isinstance(p.metric, float):
        check_metric_values(p.metric, p.xp)
    xp, layout, unit = p.xp, p.layout, penalty.with_strength(1.0)
    if isinstance(unit, RadialPenalty):
        _check_vanishing(unit)
    rows = layout.split(xp.astype(p.x, xp.float64), 0.0)
    metrics = layout.split(p.full_metric(), 1.0)
    steps, weights = layout.split_groups(p.group_steps()), layout.split_groups(p.group_weights())
    # Division by a weight of zero, and branches that are not selected.
    with np.errstate(all="ignore"):
        parts = [
            _vanishing(xp, unit, r, d, s, w) for r, d, s, w in zip(rows, metrics, steps, weights, strict=True)
        ]
    if not parts:
        return xp.zeros((0,), dtype=xp.float64, device=array_api_compat.device(x))
    return layout.join_groups(parts)


def _check_vanishing(unit: RadialPenalty) -> None:
    """Raise an error that names the pieces, unless what is known of vanishing holds for the penalty."""
    name, table, double = type(unit).__name__, table_of(unit), unit.with_strength(2.0)
    factors = (
        (table[0].a, table_of(double)[0].a),
        (unit.threshold, double.threshold),
    )
    if not all(math.isclose(b, 2.0 * a, rel_tol=1e-12) for a, b in factors):
        raise ValueError(
            f"penalty: the strength of {name} must be a factor of the slope of its pieces at zero, and of "
            f"its threshold; at the strengths 1 and 2 they are {factors}"
        )
    if not convex(table) and (unit.threshold > 0 or not form(table).has_kernels):
        raise ValueError(
            f"penalty: from which strength on a group vanishes is not known for the pieces of {name}: they "
            "must be convex, or have no threshold and a concave slope up to a flat end, or a jump and then "
            'nothing; use method="multiplicative"'
        )


def _vanishing(xp: Any, unit: Penalty, x: Array, d: Array, step: Array, weight: Array) -> Array:
    if unit.nonnegative:
        x = xp.where(x > 0, x, xp.zeros_like(x))
    # In units of the group: no product leaves the range.
    size = xp.abs(x)
    b, eb = row_products(xp, size, d)
    first_step, first_weight, _, power = factors(xp, step, weight, 1.0)
    price = first_step * first_weight
    own = power - 1.0  # 1.0 is 2 times a half
    power = eb - own
    if isinstance(unit, GroupLinf):
        strength = times_power(xp, xp.sum(b, axis=1) / price, power)
    else:
        assert isinstance(unit, RadialPenalty)
        first = table_of(unit)[0]
        if unit.threshold > 0:
            cut = xp.full_like(step, unit.threshold)
            total = sum_of_products(xp, ((cut,), (weight, first.a)))
            e = exponent(xp, total)
            root = _soft_threshold_root(xp, b, times_power(xp, cut, -e), product(xp, weight, first.a, e=-e))
            strength = times_power(xp, root / first_step, eb - e - exponent(xp, step))
        elif first.a > 0:
            strength = times_power(xp, row_norm(xp, b) / (price * first.a), power)
        else:
            strength = xp.full_like(price, 0.0 if first.value > 0 else math.inf)
        if not convex(table_of(unit)):
            # From the strength above on the objective climbs first, and then falls at most once before ‖x‖:
            # its least value is that at 0 or at x.
            (scaled, ex), (moved, e) = row_products(xp, size), row_products(xp, size, size, d)
            r, own_r = row_norm(xp, x), row_norm(xp, scaled)
            safe, own_r = (xp.where(r > 0, v, xp.ones_like(r)) for v in (r, own_r))
            saved = times_power(xp, 0.5 * xp.sum(moved, axis=1) / own_r / price, e - ex - own)
            flat = unit._strength_at(xp, safe, saved)
            strength = xp.maximum(strength, flat)
    if unit.threshold == 0:
        strength = xp.where(weight > 0, strength, xp.full_like(strength, math.inf))
    zero = xp.all(x == 0, axis=1)
    return xp.where(zero, xp.zeros_like(strength), strength)


def _soft_threshold_root(xp: Any, b: Array, cut: Array, price: Array) -> Array:
    """Return the ``s`` with ``‖(b - cut s)₊‖ = price s`` for each row of ``b ≥ 0``.

    The difference of the two sides is convex and decreases: Newton's method climbs from a lower bound.
    """
    n = b.shape[1]
    zero = xp.zeros_like(price)
    if n == 0:
        return zero
    largest = xp.max(b, axis=1)
    unit, total = xp.where(largest > 0, largest, xp.ones_like(largest)), cut + price
    b, cut, price = b / unit[:, None], cut / total, price / total
    s = xp.sqrt(xp.sum(b * b, axis=1)) / (cut * math.sqrt(n) + price)
    for _ in range(_STEPS):
        v = b - (cut * s)[:, None]
        v = xp.where(v > 0, v, xp.zeros_like(v))
        norm = xp.sqrt(xp.sum(v * v, axis=1))
        excess = norm - price * s
        rising = (norm > 0) & (excess > 1e-16 * s)
        slope = cut * xp.sum(v, axis=1) / xp.where(norm > 0, norm, xp.ones_like(norm)) + price
        new = xp.where(rising, s + excess / slope, s)
        if not bool(xp.any(new > s)):
            break
        s = new
    return s * unit / total


class Resting(NamedTuple):
    """Groups that have a penalty and no prox in this step: they stay as they are.

    Attributes
    ----------
    alive : ndarray of bool, shape (n_groups,)
        Which of them are not zero.
    sizes : ndarray of int, shape (n_groups,)
        Their numbers of elements.
    """

    alive: npt.NDArray[np.bool_]
    sizes: npt.NDArray[np.int64]


@dataclass(frozen=True)
class TargetSparsity:
    """Drives the strength of all penalties of an optimizer, in proportion, towards a wanted sparsity.

    The sparsity is the share of zero groups among *all* groups that have a penalty: also of parameters that
    are frozen or have no gradient in a step, which stay as they are, and whose groups that are not zero
    cannot vanish in it. So both methods count, and ``proxlab.torch.group_sparsity(optimizer)``.

    Parameters
    ----------
    target : float
        The wanted share of groups that are zero, between 0 and 1.
    method : {"quantile", "multiplicative"}, optional
        How the strength is found. ``"quantile"`` takes the least strength at which the wanted share vanishes
        in the step that is about to be done; it is exact. ``"multiplicative"`` compares the sparsity of the
        weights with the target, and multiplies the strength by ``1 + rate·|gap|`` while too few groups are
        zero and divides by it while too many are; each change of direction but the first multiplies the rate
        by ``decay`` (Aloradi, Tenbrinck, Habets & Roith 2026).
    weighted : bool, optional
        Count a group by its number of elements.
    every : int, optional
        Decide in every so many steps, and keep the strength between.
    ramp : {None, "linear", "cubic"}, optional
        Raise the target from ``start`` over the first ``ramp_steps`` steps, linearly or as Zhu & Gupta (2017)
        do: fast first, slower towards the end.
    ramp_steps : int, optional
        Length of the ramp.
    start : float, optional
        The target at the beginning of the ramp.
    rate, decay : float, optional
        Constants of the multiplicative method.

    References
    ----------
    Aloradi, Tenbrinck, Habets & Roith (2026), arXiv:2605.07892.

    Zhu & Gupta (2017), "To prune, or not to prune", arXiv:1710.01878.

    Examples
    --------
    >>> import proxlab as pl
    >>> target = pl.optim.TargetSparsity(0.9, ramp="cubic", ramp_steps=100)
    >>> [round(target.at(t), 3) for t in (1, 25, 50, 100, 200)]
    [0.027, 0.52, 0.787, 0.9, 0.9]
    """

    target: float
    method: str = "quantile"
    weighted: bool = False
    every: int = 1
    ramp: str | None = None
    ramp_steps: int | None = None
    start: float = 0.0
    rate: float = 0.1
    decay: float = 0.95

    def __post_init__(self) -> None:
        """Validate the parameters."""
        for name, strict in (("target", True), ("start", False), ("rate", True), ("decay", True)):
            object.__setattr__(self, name, check_number(name, getattr(self, name), 0.0, strict=strict))
        if self.target >= 1.0:
            raise ValueError(f"target: must be < 1, got {self.target!r}")
        if self.decay > 1.0:
            raise ValueError(f"decay: must be <= 1, got {self.decay!r}")
        if self.method not in ("quantile", "multiplicative"):
            raise ValueError(f'method: must be "quantile" or "multiplicative", got {self.method!r}')
        if not isinstance(self.weighted, bool):
            raise TypeError(f"weighted: must be True or False, got {self.weighted!r}")
        object.__setattr__(self, "every", check_count("every", self.every))
        if self.ramp not in (None, "linear", "cubic"):
            raise ValueError(f'ramp: must be None, "linear" or "cubic", got {self.ramp!r}')
        if (self.ramp is None) != (self.ramp_steps is None):
            raise ValueError(f"ramp_steps: goes with ramp, got {self.ramp_steps!r} with ramp {self.ramp!r}")
        if self.ramp_steps is None:
            if self.start != 0.0:
                raise ValueError(f"start: goes with ramp, got {self.start!r} without one")
            return
        object.__setattr__(self, "ramp_steps", check_count("ramp_steps", self.ramp_steps))
        if self.start >= 1.0:
            raise ValueError(f"start: must be < 1, got {self.start!r}")

    def at(self, t: int) -> float:
        """Return the target of step ``t = 1, 2, …``."""
        if self.ramp_steps is None or t >= self.ramp_steps:
            return self.target
        left = 1.0 - t / self.ramp_steps
        return self.target + (self.start - self.target) * (left if self.ramp == "linear" else left**3)

    def due(self, t: int) -> bool:
        """Return whether the strength is decided on in step ``t``."""
        return (t - 1) % self.every == 0

    @property
    def needs_problems(self) -> bool:
        """Whether the decision depends on the prox problems of the step."""
        return self.method == "quantile"

    def init(self, lam0: float) -> dict[str, float]:
        """Return the state before the first step, as numbers.

        Parameters
        ----------
        lam0 : float
            The strength of the first penalty, in whose unit ``lam`` is. The strength of every penalty is
            what it was given as, times ``lam/lam0``.
        """
        lam0 = check_number("lam0", lam0, 0.0, strict=True)
        return {"unit": lam0, "lam": lam0, "rate": self.rate, "direction": 0.0, "changes": 0.0}

    def update(
        self,
        state: Mapping[str, float],
        t: int,
        problems: Sequence[ProxProblem],
        resting: Sequence[Resting],
        sparsity: Callable[[], float],
    ) -> tuple[float, dict[str, float]]:
        """Decide on the strength of step ``t``; returns it, and the state with the gap that it was based on.

        Parameters
        ----------
        state : mapping
            As :meth:`init` or this method returned it.
        t : int
            The count of this step, from 1.
        problems : sequence of ProxProblem
            The prox problems of this step, with the penalties as they were given; for ``"quantile"``.
        resting : sequence of Resting
            The groups of the parameters that have a penalty and no problem in this step; for ``"quantile"``.
        sparsity : callable
            Returns the sparsity of the weights as they are; for ``"multiplicative"``.

        Raises
        ------
        ValueError
            If the share of groups that can vanish in this step is less than the target: the others have
            weight 0, or rest.
        """
        wanted, new = self.at(t), dict(state)
        if self.needs_problems:
            if not problems:
                return new["lam"], new
            new["lam"], new["sparsity"] = self._quantile(problems, resting, wanted, new["unit"])
            new["gap"] = wanted - new["sparsity"]
            return new["lam"], new
        new["sparsity"] = sparsity()
        new["gap"] = gap = wanted - new["sparsity"]
        direction = math.copysign(1.0, gap) if gap else 0.0
        if direction and direction == -new["direction"]:
            new["changes"] += 1.0
            if new["changes"] > 1.0:
                new["rate"] *= self.decay
        new["direction"] = direction or new["direction"]
        factor = 1.0 + new["rate"] * abs(gap)
        lam = new["lam"] * factor if direction > 0 else new["lam"] / factor
        new["lam"] = min(max(lam, _LEAST), _LARGEST)
        return new["lam"], new

    def _quantile(
        self, problems: Sequence[ProxProblem], resting: Sequence[Resting], wanted: float, unit: float
    ) -> tuple[float, float]:
        """Return the least strength at which the wanted share vanishes, and the share that does."""
        found, counted, largest = [], [], 1
        for p in problems:
            vanishing = to_numpy(vanishing_strength(p.penalty, p.x, p.step, metric=p.metric))
            found.append(vanishing * (unit / p.penalty.strength))
            sizes = p.penalty.groups.sizes(tuple(p.x.shape))
            counted.append(self._count(sizes))
            largest = max(largest, int(sizes.max(initial=0)))
        for alive, sizes in resting:
            found.append(np.where(alive, math.inf, 0.0))
            counted.append(self._count(sizes))
        strengths, counts = np.concatenate(found), np.concatenate(counted)
        if wanted <= 0 or counts.sum() == 0:
            return 0.0, 0.0
        order = np.argsort(strengths, kind="stable")
        share = np.cumsum(counts[order]) / counts.sum()
        # A share such as 0.7 of ten groups is seven groups, whatever its last digit.
        k = min(int(np.searchsorted(share, wanted * (1.0 - 1e-12))), len(share) - 1)
        lam = float(strengths[order[k]])
        if lam == math.inf:
            finite = float(counts[np.isfinite(strengths)].sum() / counts.sum())
            raise ValueError(
                f"target: a share of {wanted:.4g} of the groups cannot vanish, only {finite:.4g}: the other "
                "groups have weight 0 or a penalty without slope at zero, or are of parameters that are not "
                "updated in this step"
            )
        # Beyond the rounding of the strengths, so that the prox agrees.
        lam *= 1.0 + rounding(4.0 * largest + 64.0)
        return lam, float(counts[strengths <= lam].sum() / counts.sum())

    def _count(self, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return what each group counts."""
        return sizes.astype(np.float64) if self.weighted else np.ones(len(sizes))


def check_count(name: str, value: object) -> int:
    """Return a whole number of at least 1, or raise an error that names it."""
    number = check_number(name, value, 1.0)
    if number % 1:
        raise ValueError(f"{name}: must be a whole number, got {value!r}")
    return int(number)


def check_sparsity(sparsity: object) -> TargetSparsity | None:
    """Return a TargetSparsity or None, or raise an error."""
    if sparsity is not None and not isinstance(sparsity, TargetSparsity):
        raise TypeError(
            f"sparsity: must be a TargetSparsity such as TargetSparsity(0.9), or None, got {sparsity!r}"
        )
    return sparsity


def driven(penalty: Penalty, state: Mapping[str, float]) -> Penalty:
    """Return a penalty, as it was given, with the strength that it is driven to."""
    return penalty.with_strength(penalty.strength * (state["lam"] / state["unit"]))


def record(state: Mapping[str, float]) -> dict[str, float]:
    """Return what a history says of the driven strength."""
    names = {"lam": "lam", "sparsity": "sparsity", "gap": "sparsity_gap"}
    return {new: state[name] for name, new in names.items() if name in state}


def living_groups(groups: Groups, w: Array) -> npt.NDArray[np.bool_]:
    """Return which groups of an array are not zero, shape (n_groups,), in NumPy."""
    layout, xp = groups.layout(tuple(w.shape)), array_api_compat.array_namespace(w)
    rows = layout.split(w, 0.0)
    if not rows:
        return np.zeros(0, dtype=np.bool_)
    return to_numpy(layout.join_groups([xp.any(matrix != 0, axis=1) for matrix in rows]))


def to_numpy(a: Array) -> npt.NDArray[Any]:
    """Copy an array of any namespace and device to NumPy."""
    if array_api_compat.is_cupy_array(a):
        return np.asarray(a.get())
    return np.asarray(array_api_compat.to_device(a, "cpu") if array_api_compat.is_torch_array(a) else a)
