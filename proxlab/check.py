"""A penalty of one's own against brute force: does its prox minimise, and are its certificates true?

Nothing but the penalty's value is believed: the minimiser is looked for on grids in two and three dimensions,
and subdifferentials are compared with slopes of the objective in many directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from proxlab.certificate import Certificate, certify
from proxlab.penalties import Penalty
from proxlab.prox import prox

__all__ = ["Findings", "check_penalty"]

Array = npt.NDArray[np.float64]

#: Problems in each number of dimensions; points of the first grid along an axis, and of those that zoom in.
_PROBLEMS = {2: 16, 3: 6}
_GRID = {2: 121, 3: 31}
_ZOOM = {2: 13, 3: 9}
_ROUNDS = 20
_KEPT = 4
#: What brute force leaves open, relative to the size of the problem.
_OBJECTIVE, _DISTANCE, _SLOPE = 1e-9, 1e-5, 1e-4


class Findings(tuple[str, ...]):
    """Sentences, one for each thing that was found; empty where nothing was."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "\n".join(self) if self else "nothing found"


@dataclass(frozen=True, eq=False)
class _Case:
    """A problem of one group, with what grids say of it."""

    h: Penalty
    x: Array
    d: Array
    step: float
    weight: float

    def values(self, z: Array) -> Array:
        """``h`` at many points, a row each."""
        h = self.h
        if self.weight != 1.0:
            h = replace(h, weights=np.full(len(z), self.weight))
        return _row_values(h, z)

    def objective(self, z: Array) -> Array:
        """``h(z) + ‖z - x‖²_D / (2 step)`` at many points."""
        quadratic: Array = np.sum(self.d * (z - self.x) ** 2, axis=1)
        return self.values(z) + quadratic / (2 * self.step)

    @property
    def penalty(self) -> Penalty:
        """The penalty for an array of one row."""
        return self.h if self.weight == 1.0 else replace(self.h, weights=np.array([self.weight]))

    def minimum(self) -> tuple[Array, float, float]:
        """The best point of grids that zoom in, its objective, and how far another is that is as good."""
        n = self.x.size
        reach = 1.1 * float(np.abs(self.x).max())
        boxes = [(np.full(n, -reach), np.full(n, reach))]
        points, ends = _GRID[n], np.stack([np.zeros(n), self.x])
        kept = ends
        for _ in range(_ROUNDS):
            meshes = [kept]
            for low, high in boxes:
                axes = [np.linspace(a, b, points) for a, b in zip(low, high, strict=True)]
                meshes.append(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, n))
            z = self._with_spheres(np.concatenate(meshes))
            q = self.objective(z)
            # Cells that are apart, so that all good places are looked at.
            cell = (boxes[0][1] - boxes[0][0]) / (points - 1)
            kept = _apart(z[np.argsort(q, kind="stable")[: 40 * _KEPT]], 2.0 * float(cell.max()))
            boxes = [(v - 1.5 * cell, v + 1.5 * cell) for v in kept]
            points = _ZOOM[n]
        q = self.objective(kept)
        best = int(np.argmin(q))
        near = q <= q[best] + 10 * _OBJECTIVE * self.scale
        spread = float(np.linalg.norm(kept[near] - kept[best], axis=1).max())
        return kept[best], float(q[best]), spread

    def _with_spheres(self, z: Array) -> Array:
        """Points, and where their rays meet the nearest sphere of a knot: grids miss kinks there."""
        r = np.linalg.norm(z, axis=1)
        knots = np.array(_knots(self.h))
        if not knots.size:
            return z
        nearest = knots[np.argmin(np.abs(r[:, None] - knots), axis=1)]
        off = r > 0
        return np.concatenate([z, z[off] * (nearest[off] / r[off])[:, None]])

    @property
    def scale(self) -> float:
        """The size of the objective."""
        ends = self.objective(np.stack([np.zeros(self.x.size), self.x]))
        return float(ends[np.isfinite(ends)].sum()) or 1.0

    def steepest(self, z: Array) -> float:
        """The steepest slope downwards of the objective at a point, over many directions."""
        base, h = _directions(z.size), 1e-7 * float(np.abs(self.x).max())
        here, steepest, u = float(self.objective(z[None])[0]), 0.0, base
        for width in (0.1, 0.02, 0.004, 0.0):
            slopes = (here - self.objective(z + h * u)) / h
            steepest = max(steepest, float(slopes.max()))
            near = u[int(np.argmax(slopes))] + width * base[:500]
            u = near / np.linalg.norm(near, axis=1, keepdims=True)
        return steepest

    def __str__(self) -> str:
        weight = "" if self.weight == 1.0 else f", weight = {self.weight:g}"
        return f"x = {_shown(self.x)}, metric = {_shown(self.d)}, step = {self.step:.4g}{weight}"


def _row_values(h: Penalty, z: Array) -> Array:
    """``h`` of each row."""
    values: Array = np.asarray(h.value(z), dtype=np.float64).reshape(len(z), -1).sum(axis=1)
    return values


def _apart(z: Array, distance: float) -> Array:
    """The first few points, without those too near to one before."""
    kept: list[Array] = []
    for v in z:
        if all(np.linalg.norm(v - w) > distance for w in kept):
            kept.append(v)
            if len(kept) == _KEPT:
                break
    return np.array(kept)


def _directions(n: int) -> Array:
    """Unit vectors, the axes among them."""
    u = np.random.default_rng(1).standard_normal((4000, n))
    u = np.concatenate([u, np.eye(n), -np.eye(n)])
    return np.asarray(u / np.linalg.norm(u, axis=1, keepdims=True))


def _shown(v: Array) -> str:
    return "[" + ", ".join(f"{a:.6g}" for a in np.asarray(v).reshape(-1)) + "]"


class _Notes:
    """Findings in the making: the first of a kind is told, and how often there were others."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._count: dict[str, int] = {}

    def add(self, kind: str, sentence: str) -> None:
        self._first.setdefault(kind, sentence)
        self._count[kind] = self._count.get(kind, 0) + 1

    def findings(self) -> Findings:
        times = {kind: f" ({n} times)" if n > 1 else "" for kind, n in self._count.items()}
        return Findings(f"{kind}: {text}{times[kind]}." for kind, text in self._first.items())


def check_penalty(h: Penalty, *, seed: int = 0) -> Findings:
    """Check a penalty of one's own against brute force, in seconds.

    Its groups do not matter: single groups of two and three elements are looked at, with group weights and
    metrics, at radii on both sides of its knots. Compared are its value with itself (zero at zero, growing
    with the radius, multiplied by weights, convex where it says so), its prox with the best point on grids,
    its distance to the subdifferential with slopes of the objective, and its certificates with all of these.

    Parameters
    ----------
    h : Penalty
        The penalty.
    seed : int, optional
        Seed of the problems.

    Returns
    -------
    Findings
        A tuple with a sentence for each kind of thing that was found: what was asked, what came out, what it
        should be. Empty, printed as "nothing found", where all is well.

    Raises
    ------
    TypeError
        If ``h`` is no penalty.

    Examples
    --------
    >>> import proxlab as pl
    >>> pl.check_penalty(pl.GroupMCP(0.8, gamma=1.5))
    nothing found
    """
    if not isinstance(h, Penalty):
        raise TypeError(f"h: must be a proxlab penalty such as GroupLasso(0.1), got {h!r}")
    notes = _Notes()
    h = h._on_rows()
    with np.errstate(all="ignore"):
        if _guarded(notes, "value", lambda: _check_value(h, notes)):
            for case in _cases(h, seed):
                _check_case(case, notes)
    return notes.findings()


def _guarded(notes: _Notes, kind: str, check: Callable[[], object]) -> bool:
    """Run a check; what it raises is a finding."""
    try:
        check()
    except Exception as error:
        notes.add(kind, f"raised {type(error).__name__}: {error}")
        return False
    return True


def _knots(h: Penalty) -> list[float]:
    """Radii at which the slope may jump."""
    return [knot for knot in h._knots if knot > 0]


def _radii(h: Penalty) -> list[float]:
    """Radii at which something may change."""
    return _knots(h) or [1.0]


def _check_value(h: Penalty, notes: _Notes) -> None:
    knots = _radii(h)
    u = np.array([0.6, 0.8])
    zero = h.value(np.zeros((1, 2)))
    if float(np.sum(zero)) != 0:
        notes.add("value", f"must be 0 at zero, is {float(np.sum(zero)):.6g}")
    r = np.unique(np.concatenate([k * np.geomspace(1e-3, 1e3, 61) for k in knots]))
    rows = r[:, None] * u
    p = np.asarray(h.value(rows), dtype=np.float64).reshape(len(r), -1).sum(axis=1)
    if not np.isfinite(p).all() or (p < 0).any():
        k = int(np.argmin(np.isfinite(p) & (p >= 0)))
        notes.add("value", f"must be finite and >= 0, is {p[k]:.6g} at {_shown(rows[k])}")
        return
    if (np.diff(p) < -1e-12 * p.max()).any():
        k = int(np.argmin(np.diff(p)))
        notes.add(
            "value",
            f"must not fall with the radius, is {p[k]:.6g} at {_shown(rows[k])} and {p[k + 1]:.6g} at "
            f"{_shown(rows[k + 1])}",
        )
    one, total = h(rows), float(p.sum())
    if abs(one - total) > 1e-12 * total:
        notes.add("value", f"h(z) must be the sum over the groups, {total:.6g}, is {one:.6g}")
    if type(h).__dataclass_fields__["weights"].init and h.threshold == 0:
        weighted = replace(h, weights=np.full(len(r), 2.5)).value(rows)
        if not np.allclose(weighted, 2.5 * p, rtol=1e-12):
            k = int(np.argmax(np.abs(weighted - 2.5 * p)))
            notes.add(
                "weights",
                f"must multiply the value: with weight 2.5 it is {float(weighted[k]):.6g} at "
                f"{_shown(rows[k])}, {p[k]:.6g} without",
            )
    if h.is_convex:
        rng = np.random.default_rng(2)
        a, b = (rng.standard_normal((400, 2)) * rng.choice(knots, 400)[:, None] * 3 for _ in range(2))
        if h.nonnegative:
            a, b = np.abs(a), np.abs(b)
        va, vb, vm = (np.asarray(h.value(v)).reshape(400, -1).sum(axis=1) for v in (a, b, (a + b) / 2))
        excess = vm - (va + vb) / 2
        if (excess > 1e-9 * (va + vb)).any():
            k = int(np.argmax(excess))
            notes.add(
                "is_convex",
                f"says True, but the value between {_shown(a[k])} and {_shown(b[k])} is {vm[k]:.6g}, above "
                f"the mean {(va[k] + vb[k]) / 2:.6g} of the two",
            )


def _cases(h: Penalty, seed: int) -> Iterator[_Case]:
    """Problems whose answers lie on all sides of the knots and of the zero threshold."""
    rng = np.random.default_rng(seed)
    knots = _radii(h)
    weighted = type(h).__dataclass_fields__["weights"].init
    for n, count in _PROBLEMS.items():
        for k in range(count):
            knot = knots[k % len(knots)]
            direction = rng.standard_normal(n)
            direction /= np.linalg.norm(direction)
            d = 10 ** rng.uniform(-0.7, 0.7, n) if k % 3 else np.ones(n)
            small = 1e-6 * knot
            slope = float(np.sum(np.asarray(h.value(small * np.abs(direction)[None])))) / small
            # The length is a multiple of a knot, the step shrinks it by something like a part of itself.
            length = knot * 10 ** rng.uniform(-0.5, 0.8)
            reach = min(slope, 10.0 * _mean_slope(h, knot)) if slope > 0 else 1.0
            step = length / (reach or 1.0) * 10 ** rng.uniform(-1.0, 0.3)
            weight = float(rng.choice([0.5, 2.0])) if weighted and k % 4 == 3 else 1.0
            x = length * direction
            yield _Case(h, np.abs(x) if h.nonnegative and k % 2 else x, d, step, weight)


def _mean_slope(h: Penalty, r: float) -> float:
    """The mean slope up to a radius."""
    u = np.array([[0.6, 0.8]])
    return float(np.sum(np.asarray(h.value(r * u)))) / r


def _check_case(case: _Case, notes: _Notes) -> None:
    best, least, spread = case.minimum()
    size = float(np.linalg.norm(case.x))
    x, d = case.x[None], case.d[None]
    for backend in ("array_api", "numba"):
        kind = f"prox ({backend})"
        try:
            z = np.asarray(prox(case.penalty, x, case.step, metric=d, backend=backend))[0]
        except Exception as error:
            notes.add(kind, f"raised {type(error).__name__}: {error}")
            continue
        value = float(case.objective(z[None])[0])
        if not value <= least + _OBJECTIVE * case.scale:
            notes.add(
                kind,
                f"for {case} it returns {_shown(z)} with the objective {value:.8g}, but "
                f"{_shown(best)} has {least:.8g}",
            )
    rng = np.random.default_rng(3)
    near = best + 0.1 * size * rng.standard_normal(case.x.size)
    for z in (best, case.x, 0 * case.x, near):
        if case.h.nonnegative and (z < 0).any():
            continue
        if z is not best:
            # Grids miss a kink by a little, where slopes jump.
            _guarded(notes, "subdiff_distance", partial(_check_slope, case, z, notes))
        _guarded(notes, "certify", partial(_check_certificate, case, z, best, least, spread, notes))


def _check_slope(case: _Case, z: Array, notes: _Notes) -> None:
    """Compare the distance to the subdifferential with the steepest slope, where the two are the same."""
    grad = case.d * (z - case.x) / case.step
    distance = float(np.linalg.norm(np.asarray(case.penalty.subdiff_distance(grad[None], z[None]))))
    steepest = case.steepest(z)
    if not z.any() and distance == 0:
        # A slope may be steep at zero alone, nearer than differences see.
        near = 1e-250 * float(np.abs(case.x).max())
        if float(case.values(near * np.eye(z.size)[:1])[0]) / near >= float(np.linalg.norm(grad)):
            return
    size = float(np.linalg.norm(case.d * case.x)) / case.step
    # Where the objective is not convex, a point without a way down need not be stationary, nor near to it.
    # Differences see the slope of a penalty that is smooth at a point a little off it.
    slack = 10 * _SLOPE * max(size, steepest) + 1e-6 * _mean_slope(case.h, float(np.abs(case.x).max()))
    below = distance < steepest - slack
    above = case.h.is_convex and steepest + slack < distance < math.inf
    if below or above:
        notes.add(
            "subdiff_distance",
            f"at z = {_shown(z)} for {case} it is {distance:.6g}, but the objective's steepest slope is "
            f"{steepest:.6g}",
        )


def _check_certificate(
    case: _Case, z: Array, best: Array, least: float, spread: float, notes: _Notes
) -> None:
    c: Certificate = certify(case.penalty, z[None], case.x[None], case.step, metric=case.d[None])
    size = float(np.linalg.norm(case.x))
    gap = float(case.objective(z[None])[0]) - least
    far = float(np.linalg.norm(z - best))
    facts = [("gap", c.total.gap, gap, _OBJECTIVE * case.scale)]
    if spread < _DISTANCE * size:
        weighted = float(np.linalg.norm(np.sqrt(case.d) * (z - best)))
        slack = _DISTANCE * size
        facts.append(("distance", c.total.distance, far, slack))
        facts.append(
            ("metric_distance", c.total.metric_distance, weighted, slack * float(np.sqrt(case.d).max()))
        )
        # The enclosure is the same for every candidate.
        low, high = (np.asarray(a)[0] for a in (c.lower, c.upper)) if z is best else (abs(best), abs(best))
        if ((np.abs(best) < low - slack) | (np.abs(best) > high + slack)).any():
            notes.add(
                "certify",
                f"for {case} the enclosure of |z*| is {_shown(low)} to {_shown(high)}, but the minimiser is "
                f"{_shown(best)}",
            )
    if case.h.is_convex:
        slack = 10 * _SLOPE * float(np.linalg.norm(case.d * case.x)) / case.step
        facts.append(("stationarity", c.total.stationarity, case.steepest(z), slack))
    for name, bound, truth, slack in facts:
        if not bound >= truth - slack:
            notes.add(
                f"certify, {name}",
                f"at z = {_shown(z)} for {case} the bound is {bound:.6g}, but it is {truth:.6g}",
            )
