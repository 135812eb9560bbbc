"""Sparsity as the user thinks of it: a strength λ that is driven towards a wanted share of zero groups.

Raising the strength of a penalty, with its shape as it is, makes more groups of a prox vanish, one after the
other. The strength from which on a group vanishes is known in closed form (:func:`vanishing_strength`), so
that the strength for a wanted share is a quantile.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import array_api_compat
import numpy as np
import numpy.typing as npt

from proxlab.arguments import Problem, check_finite, check_group_weights, check_metric_values, compiles
from proxlab.arguments import problem as check_problem
from proxlab.backends.array_api import scale
from proxlab.backends.arrays import array_form
from proxlab.bounds import rounding
from proxlab.groups import AxisLayout
from proxlab.namespaces import to_numpy
from proxlab.optim.budget import (
    Candidates,
    Layers,
    Reached,
    by_selection,
    for_each,
    for_strength,
    for_total,
)
from proxlab.optim.problem import ProxProblem
from proxlab.penalties import Penalty
from proxlab.penalties.base import VanishingRows, row_norm
from proxlab.penalties.equations import Radial
from proxlab.powers import factors, row_products, times_power
from proxlab.rootfinders import Newton
from proxlab.types import Array
from proxlab.untraced import untraced
from proxlab.values import check_count, check_number

if TYPE_CHECKING:
    from proxlab.optim.group_sums import GroupSums

__all__ = [
    "Moving",
    "Resting",
    "Sums",
    "TargetSparsity",
    "all_moving",
    "check_sparsity",
    "driven",
    "is_told_by_sums",
    "moving",
    "multiples",
    "record",
    "strengths_of_sums",
    "vanishing_of_sums",
    "vanishing_strength",
    "warn_of",
]

# Tolerance of radii that are compared with zero.
_RTOL = 1e-12
# Range in which the multiplicative method keeps the strength.
_LEAST, _LARGEST = 1e-150, 1e150
_COMPILED = (np.dtype(np.float32), np.dtype(np.float64))


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
    found = _compiled(p, penalty)
    if found is not None:
        return found
    check_finite("x", p.x, p.xp)
    if p.metric is not None and not isinstance(p.metric, float):
        check_metric_values(p.metric, p.xp)
    xp, layout, unit = p.xp, p.layout, penalty.with_strength(1.0)
    unit._check_vanishing()
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


def _compiled(p: Problem, penalty: Penalty) -> Array | None:
    """Return the strengths from sums over the groups of arrays in memory, or None where those do not tell.

    Where nothing acts on single elements, norms are all that there is to know of a group.
    """
    if not is_told_by_sums(penalty) or not isinstance(p.layout, AxisLayout):
        return None
    if p.metric is not None and not isinstance(p.metric, np.ndarray):
        return None
    total = _sums(p.layout, p.x, p.metric)
    if total is None:
        return None
    return strengths_of_sums(penalty.with_strength(1.0), total, p.group_steps(), p.group_weights())


def is_told_by_sums(penalty: Penalty) -> bool:
    """Say whether norms are all that there is to know of the groups of a penalty."""
    equation = penalty.equation
    if not (isinstance(equation, Radial) and equation.compiled and compiles() and penalty.strength > 0):
        return False
    if penalty.threshold > 0 or penalty.nonnegative:
        return False
    penalty.with_strength(1.0)._check_vanishing()
    return True


def _sums(layout: AxisLayout, x: Array, d: Array | None) -> GroupSums | None:
    """Return sums over groups, or None where they cannot be had of these arrays, or say too little."""
    shape = layout.canonical_shape()
    if shape is None or 0 in x.shape or not _is_plain(x):
        return None
    if d is not None and not (_is_plain(d) and d.shape == x.shape and d.dtype == x.dtype):
        return None
    from proxlab.optim.group_sums import sums

    return sums(x, d, shape)


def _is_plain(a: Any) -> bool:
    return isinstance(a, np.ndarray) and a.dtype in _COMPILED and a.flags.c_contiguous


def strengths_of_sums(unit: Penalty, total: GroupSums, step: Array | float, weights: Array) -> Array:
    """Return from which strength on each group vanishes under a penalty that sums tell of.

    Parameters
    ----------
    unit : Penalty
        With the strength 1 (:func:`is_told_by_sums`).
    total : GroupSums
    step, weights : array
        Of each group; the step may be a number. Of a convex penalty ``Σ b²`` are enough.
    """
    norm, step, none = np.sqrt(total.bb), np.atleast_1d(step), np.zeros(1)
    with np.errstate(over="ignore", under="ignore"):
        price = step * weights
    # As a rule no product of some of these leaves the range.
    if price.min(initial=1.0) > 1e-50 and price.max(initial=1.0) < 1e50:
        step_part, power = step, none
    else:
        step_part, weight_part, _, power = factors(np, step, weights, 1.0)
        price, power = step_part * weight_part, -(power - 1.0)
    reach = norm if total.xx is None else np.sqrt(total.xx)
    energy = none if total.xb is None else 0.5 * total.xb
    with np.errstate(all="ignore"):
        group = VanishingRows(
            reach[:, None], norm[:, None], energy, none, none, none, reach, step, weights, step_part, price,
            power, _none,
        )  # fmt: skip
        strength = unit._row_vanishing(np, group)
    return np.where(reach > 0, strength, 0.0)


def multiples(strengths: Array, penalty: Penalty) -> npt.NDArray[np.float64]:
    """Return strengths as multiples of that of a penalty; what leaves the range is infinite."""
    with np.errstate(over="ignore"):
        found: npt.NDArray[np.float64] = strengths / penalty.strength
    return found


def _none(weights: Array) -> Array:
    raise AssertionError("norms tell of no prox")


class Sums(NamedTuple):
    """What of each group is enough for the vanishing strength of a radial penalty.

    Attributes
    ----------
    norm, reach, energy : array of shape (n_groups,)
        ``‖D x‖``, ``‖x‖`` and ``‖x‖²_D/2``, in the units.
    ex, ed : array of shape (n_groups,)
        The units of ``x`` and of the metric are ``2^ex`` and ``2^ed``.
    """

    norm: Array
    reach: Array
    energy: Array
    ex: Array
    ed: Array


def vanishing_of_sums(xp: Any, penalty: Penalty, sums: Sums, step: Array, weight: Array) -> Array:
    """Return what :func:`vanishing_strength` does, for a radial penalty without an elementwise part.

    ``step`` and ``weight`` are arrays with an element for each group.
    """
    unit, ex, ed = penalty.with_strength(1.0), sums.ex, sums.ed
    unit._check_vanishing()
    step_part, weight_part, _, power = factors(xp, step, weight, 1.0)
    reach = times_power(xp, sums.reach, ex)

    def solve(_: Array) -> Array:
        raise NotImplementedError("sums are not enough")

    with np.errstate(all="ignore"):
        group = VanishingRows(
            sums.reach[:, None], sums.norm[:, None], sums.energy, xp.zeros_like(ex), ex, ed, reach, step,
            weight, step_part, step_part * weight_part, ed + ex - (power - 1.0), solve,
        )  # fmt: skip
        strength = unit._row_vanishing(xp, group)
    return xp.where(reach > 0, strength, xp.zeros_like(strength))


def _vanishing(xp: Any, unit: Penalty, x: Array, d: Array, step: Array, weight: Array) -> Array:
    if unit.nonnegative:
        x = xp.where(x > 0, x, xp.zeros_like(x))
    # In units of the group: no product leaves the range.
    p, size = scale(xp, x, d), xp.abs(x)
    (b, eb), (squares, es) = row_products(xp, size, d), row_products(xp, size, size, d)
    b = times_power(xp, b, eb - p.ex - p.ed)
    energy, lift = 0.5 * xp.sum(squares, axis=1), es - 2.0 * p.ex - p.ed
    step_part, weight_part, _, power = factors(xp, step, weight, 1.0)
    power = p.ed + p.ex - (power - 1.0)  # 1.0 is 2 times a half

    def solve(weights: Array) -> Array:
        return array_form(unit).solve(xp, x, d, step, weights, unit, Newton(), _RTOL).z

    reach = row_norm(xp, x)
    group = VanishingRows(
        p.x,
        b,
        energy,
        lift,
        p.ex,
        p.ed,
        reach,
        step,
        weight,
        step_part,
        step_part * weight_part,
        power,
        solve,
    )
    strength = unit._row_vanishing(xp, group)
    return xp.where(reach > 0, strength, xp.zeros_like(strength))


class Resting(NamedTuple):
    """Groups that have a penalty and no prox in this step: they stay as they are.

    Attributes
    ----------
    alive : ndarray of bool, shape (n_groups,)
        Which of them are not zero.
    sizes : ndarray of int, shape (n_groups,)
        Their numbers of elements.
    uses : float or None
        How often a call of the network uses an element, where that is known.
    """

    alive: npt.NDArray[np.bool_]
    sizes: npt.NDArray[np.int64]
    uses: float | None = None


class Moving(NamedTuple):
    """Groups that a prox of this step may make zero.

    Attributes
    ----------
    strengths : ndarray of float, shape (n_groups,)
        From which multiple of its strength on a penalty makes each of them zero.
    sizes : ndarray of int, shape (n_groups,)
        Their numbers of elements.
    uses : float or None
        How often a call of the network uses an element, where that is known.
    """

    strengths: npt.NDArray[np.float64]
    sizes: npt.NDArray[np.int64]
    uses: float | None = None


def moving(p: ProxProblem) -> Moving:
    """Return the groups of a prox problem; an error says where."""
    with p.named():
        strengths = to_numpy(vanishing_strength(p.penalty, p.x, p.step, metric=p.metric))
    return Moving(multiples(strengths, p.penalty), p.penalty.groups.sizes(tuple(p.x.shape)), p.uses)


class _Summed(NamedTuple):
    """A prox problem of whose groups sums are known."""

    place: int
    sums: GroupSums
    weights: Array


def all_moving(problems: Sequence[ProxProblem]) -> list[Moving]:
    """As :func:`moving`, of several problems: the groups of a penalty and step size all at once."""
    found: list[Moving | None] = [None] * len(problems)
    told: dict[int, bool] = {}
    alike: dict[tuple[int, float], list[_Summed]] = {}
    for k, p in enumerate(problems):
        key = id(p.penalty)
        if key not in told:
            told[key] = is_told_by_sums(p.penalty)
        layout = p.penalty.groups.layout(tuple(p.x.shape)) if told[key] else None
        total = _sums(layout, p.x, p.metric) if isinstance(layout, AxisLayout) else None
        if layout is None or total is None:
            found[k] = moving(p)
            continue
        weights = np.broadcast_to(check_group_weights(p.penalty, layout), len(total.bb))
        alike.setdefault((key, p.step), []).append(_Summed(k, total, weights))
    for (_, step), some in alike.items():
        penalty = problems[some[0].place].penalty
        first = some[0].sums
        names = first._fields
        total = first._replace(**{n: np.concatenate([getattr(s.sums, n) for s in some]) for n in names})
        weights = np.concatenate([s.weights for s in some])
        strengths = multiples(strengths_of_sums(penalty.with_strength(1.0), total, step, weights), penalty)
        ends = np.cumsum([len(s.weights) for s in some])[:-1]
        for s, own in zip(some, np.split(strengths, ends), strict=True):
            p = problems[s.place]
            found[s.place] = Moving(own, penalty.groups.sizes(tuple(p.x.shape)), p.uses)
    return [groups for groups in found if groups is not None]


@dataclass(frozen=True)
class TargetSparsity:
    """Drives the strength of all penalties of an optimizer, in proportion, towards a wanted sparsity.

    The sparsity is the share of zero groups among *all* groups that have a penalty: also of parameters that
    are frozen or have no gradient in a step, which stay as they are, and whose groups that are not zero
    cannot vanish in it. So both methods count, and ``proxlab.torch.group_sparsity(optimizer)``.

    A layer is a parameter, or what is penalised jointly. There is one strength for all, but a layer that may
    not have as many zeros as that makes (``keep_at_least``, ``multiple_of``) has a lower one in that step:
    the least that makes as many as it may have.

    A target that cannot be reached, since other groups have weight 0, rest in this step, or have to be kept,
    is no error: what can vanish does, ``history`` has the share that could be as ``reachable`` (with
    ``per="layer"`` that of the layer where it is least), and a warning says so once the whole target is asked
    for. Of ``multiple_of``, which never makes more zeros than wanted, it is the largest share that does not;
    where more could vanish, and only widths are rounded, ``history`` says ``rounded``, without a warning.

    Parameters
    ----------
    target : float
        The wanted share of what ``budget`` counts in groups that are zero, between 0 and 1.
    method : {"quantile", "multiplicative"}, optional
        How the strength is found. ``"quantile"`` takes the least strength at which the wanted share vanishes
        in the step that is about to be done; it is exact. ``"multiplicative"`` compares the sparsity of the
        weights with the target, and multiplies the strength by ``1 + rate·|gap|`` while too few groups are
        zero and divides by it while too many are; each change of direction but the first multiplies the rate
        by ``decay`` (Aloradi, Tenbrinck, Habets & Roith 2026).
    weighted : bool, optional
        Count a group by its number of elements: the same as ``budget="parameters"``.
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
    per : {"network", "layer"}, optional
        Whether the target is that of all layers together, with one strength, or of each layer by itself, with
        a strength of its own; the latter with ``"quantile"`` in every step.
    budget : {"groups", "parameters", "flops"}, optional
        What counts: groups, their elements, or the floating-point operations of their elements, for which
        :func:`proxlab.torch.param_groups` needs example inputs. Both are of the penalised weights alone: with
        a unit that is gone, :func:`proxlab.torch.compact` also removes what makes it, so that a network loses
        more than the share.
    keep_at_least : int, optional
        How many groups of a layer are kept, all of a layer that has fewer. By default 1 where the method is
        ``"quantile"`` in every step and the layer has more than one group, and otherwise none.
    multiple_of : int, optional
        The number of groups that are left in a layer is a multiple of this, unless all are. The strength is
        then the largest at which no more than the target is zero; with 1, the least at which it is reached.

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
    per: str = "network"
    budget: str = "groups"
    keep_at_least: int | None = None
    multiple_of: int = 1

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
        if self.weighted:
            if self.budget not in ("groups", "parameters"):
                raise ValueError(f'weighted: is budget="parameters", got budget {self.budget!r} too')
            object.__setattr__(self, "budget", "parameters")
        object.__setattr__(self, "every", check_count("every", self.every))
        for name, options in (("per", ("network", "layer")), ("budget", ("groups", "parameters", "flops"))):
            if getattr(self, name) not in options:
                raise ValueError(
                    f"{name}: must be one of {', '.join(map(repr, options))}, got {getattr(self, name)!r}"
                )
        if self.keep_at_least is not None:
            object.__setattr__(self, "keep_at_least", check_count("keep_at_least", self.keep_at_least, 0))
        object.__setattr__(self, "multiple_of", check_count("multiple_of", self.multiple_of))
        if self.per == "layer" and (self.method != "quantile" or self.every > 1):
            raise ValueError('per: "layer" goes with method="quantile" and every=1')
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
    def constrained(self) -> bool:
        """Whether layers may have strengths of their own in every step."""
        return self.per == "layer" or bool(self.keep_at_least) or self.multiple_of > 1

    def needs_problems(self, t: int) -> bool:
        """Return whether the strengths of step ``t`` depend on its prox problems."""
        return self.constrained or (self.method == "quantile" and self.due(t))

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
        problems: Sequence[ProxProblem | Moving],
        resting: Sequence[Resting],
        sparsity: Callable[[], float],
    ) -> tuple[float, dict[str, Any]]:
        """Decide on the strength of step ``t``; returns it, and the state with what it was based on.

        Parameters
        ----------
        state : mapping
            As :meth:`init` or this method returned it.
        t : int
            The count of this step, from 1.
        problems : sequence of ProxProblem or Moving
            The prox problems of this step, with the penalties as they were given, or their groups, where the
            step needs them.
        resting : sequence of Resting
            The groups of the parameters that have a penalty and no problem in this step, where it needs them.
        sparsity : callable
            Returns the sparsity of the weights as they are; for ``"multiplicative"``, and where there are no
            problems.

        Returns
        -------
        lam : float
            The strength.
        state : dict
            With the sparsity and its gap to the target; with ``reachable`` where it is out of reach, and
            ``rounded`` where that is by widths that are multiples alone; with ``strengths``, one for each
            problem, where they are not all ``lam``.
        """
        new: dict[str, Any] = {
            k: v for k, v in state.items() if k not in ("reachable", "rounded", "strengths")
        }
        drives_by_share = self.method == "multiplicative"
        # Where nothing moves, what is zero already is all that there is to say.
        if self.due(t) and (drives_by_share or not problems):
            new["sparsity"] = sparsity()
            new["gap"] = self.at(t) - new["sparsity"]
            if drives_by_share:
                self._multiply(new, new["gap"])
        if not self.needs_problems(t) or not problems:
            return new["lam"], new
        wanted = self.at(t)
        outcome = self._outcome(self._candidates(problems, resting, new["unit"]), wanted, t, new["lam"])
        new["lam"] = outcome.lam
        strengths = outcome.strengths[: len(problems)]
        if bool((strengths != outcome.lam).any()):
            new["strengths"] = tuple(strengths.tolist())
        if self.method == "quantile":
            new["sparsity"], new["gap"] = outcome.share, wanted - outcome.share
            if outcome.reachable < wanted * (1.0 - 1e-12):
                new["reachable"] = outcome.reachable
                new |= {"rounded": True} if outcome.rounded else {}
        return new["lam"], new

    def _multiply(self, new: dict[str, Any], gap: float) -> None:
        """Move the strength against a gap."""
        direction = math.copysign(1.0, gap) if gap else 0.0
        if direction and direction == -new["direction"]:
            new["changes"] += 1.0
            if new["changes"] > 1.0:
                new["rate"] *= self.decay
        new["direction"] = direction or new["direction"]
        factor = 1.0 + new["rate"] * abs(gap)
        lam = new["lam"] * factor if direction > 0 else new["lam"] / factor
        new["lam"] = min(max(lam, _LEAST), _LARGEST)

    def _candidates(
        self, problems: Sequence[ProxProblem | Moving], resting: Sequence[Resting], unit: float
    ) -> Candidates:
        """Return the groups of all layers, those of the problems first."""
        given = iter(all_moving([p for p in problems if not isinstance(p, Moving)]))
        groups = [p if isinstance(p, Moving) else next(given) for p in problems]
        strengths = np.concatenate([g.strengths for g in groups]) * unit
        sizes = np.concatenate([g.sizes for g in groups])
        # Beyond the rounding of the strengths, so that the prox agrees.
        unsure = rounding(4.0 * max(1, int(sizes.max(initial=0))) + 64.0)
        if resting:
            alive = np.concatenate([r.alive for r in resting])
            strengths = np.concatenate([strengths, np.where(alive, math.inf, 0.0)])
            sizes = np.concatenate([sizes, *[r.sizes for r in resting]])
        # How many groups a layer has.
        n = np.array([*map(len, [g.sizes for g in groups]), *map(len, [r.sizes for r in resting])], np.int64)
        units = self._units([*[g.uses for g in groups], *[r.uses for r in resting]])
        return Candidates(strengths, self._counts(sizes), n, units, self._least(n), self.multiple_of, unsure)

    def _outcome(self, groups: Candidates, wanted: float, t: int, lam: float) -> Reached:
        drives = self.method == "quantile" and self.due(t)
        if drives and self.per == "network" and wanted > 0:
            found = by_selection(groups, wanted)
            if found is not None:
                return found
        layers = Layers(groups)
        if not drives:
            return for_strength(layers, lam)
        if wanted <= 0:
            return for_strength(layers, 0.0)
        strict = self.multiple_of > 1
        if self.per == "layer":
            return for_each(layers, wanted, strict)
        return for_total(layers, wanted, strict) or for_strength(layers, lam)

    def _least(self, groups: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return how many groups of each layer are kept."""
        if self.keep_at_least is not None:
            return np.minimum(self.keep_at_least, groups)
        return ((groups > 1) & (self.method == "quantile" and self.every == 1)).astype(np.int64)

    def ends(self, t: int) -> bool:
        """Return whether step ``t`` asks for the whole target."""
        return self.ramp_steps is None or t >= self.ramp_steps

    def share(self, groups: Sequence[Resting]) -> float:
        """Return the share of groups that are zero, as the target counts them."""
        if not groups:
            return 0.0
        counts = self._counts(np.concatenate([r.sizes for r in groups]))
        zeros = np.where(np.concatenate([r.alive for r in groups]), 0, counts)
        ends, units = np.cumsum([len(r.sizes) for r in groups]), self._units([r.uses for r in groups])
        # Exact in integers, layer by layer.
        zero, total = (float(np.sum(units * _within(a, ends))) for a in (zeros, counts))
        return zero / total if total else 0.0

    def _counts(self, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return what groups count, in the units of their layers."""
        return np.ones(len(sizes), np.int64) if self.budget == "groups" else np.asarray(sizes, np.int64)

    def _units(self, uses: Sequence[float | None]) -> npt.NDArray[np.float64]:
        """Return what the counts of each layer are multiples of."""
        if self.budget != "flops":
            return np.ones(len(uses))
        if None in uses:
            raise ValueError(
                'budget: "flops" needs to know how often a call of the network uses each weight; make the '
                "param groups by proxlab.torch.param_groups(model, penalty, example_inputs=…)"
            )
        return np.array(uses, np.float64)


def _within(counts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the sum of the counts of each layer, given where layers end."""
    sums = np.concatenate([[0], np.cumsum(counts)])[ends]
    return np.diff(sums, prepend=0)


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
    names = {
        "lam": "lam",
        "sparsity": "sparsity",
        "gap": "sparsity_gap",
        "reachable": "reachable",
        "rounded": "rounded",
    }
    return {new: state[name] for name, new in names.items() if name in state}


def warn_of(state: Mapping[str, float], target: float) -> bool:
    """Warn where a target is out of reach, other than by rounding of widths; returns whether it is."""
    reachable = state.get("reachable", math.inf)
    if reachable >= target or state.get("rounded", False):
        return False
    warnings.warn(
        f"target: a sparsity of {target:.4g} cannot be reached, only {reachable:.4g}: the other groups have "
        "weight 0 or a penalty without slope at zero, are of parameters that rest, or are kept "
        "(keep_at_least, multiple_of)",
        UserWarning,
        stacklevel=2,
    )
    return True
