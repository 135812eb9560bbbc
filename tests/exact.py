"""Exact answers by the thousand: the theory of the piecewise-affine slope in ball arithmetic.

`tests.oracle` assumes nothing and takes some ten milliseconds a group. This module uses what the mathematics
proves (the secular function is concave on each piece, so Newton from the left) and takes about one; it is
tested against the oracle. Like the oracle it imports nothing of proxlab. The problem of a group is

    min Q(z),    Q(z) = h(z) + ||z - x||_D^2 / (2 step),    with the weight in h.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flint import arb

from tests import oracle

Point = list[arb]


@dataclass(frozen=True)
class Case:
    """The problem of one group."""

    name: str
    parameters: dict[str, float]
    x: Sequence[float]
    d: Sequence[float]
    step: float
    weight: float = 1.0

    def digits(self) -> oracle.digits_for:
        """Context with bits enough for this problem, in whatever units its numbers come."""
        context = oracle.digits_for(self.x, self.d)
        scales = [*self.x, *self.d, self.step, self.weight, *self.parameters.values()]
        logs = [abs(math.log2(abs(v))) for v in scales if v]
        context.precision += 4 * int(max(logs))
        return context

    @property
    def nonnegative(self) -> bool:
        return bool(self.parameters.get("nonnegative"))

    def parameter(self, key: str) -> arb:
        return arb(float(self.parameters[key]))

    def objective(self, z: Sequence[float] | Point) -> arb:
        """``Q(z)``."""
        scaled = oracle.objective(self.name, self.parameters, z, self.x, self.d, self.step, self.weight)
        return scaled / arb(float(self.step))


@dataclass(frozen=True)
class Truth:
    """The global minimiser (of several, the shortest), its objective, and how much worse the next one is."""

    z: Point
    objective: arb
    lead: arb


def balls(values: Sequence[float]) -> Point:
    """Convert floats exactly."""
    return [arb(float(v)) for v in values]


def solve(case: Case, step: arb | None = None) -> Truth:
    """The prox of one group; `step` replaces the case's by any number."""
    x, d = balls(case.x), balls(case.d)
    eta = arb(float(case.step)) if step is None else step
    strong = eta * arb(float(case.weight))
    if case.nonnegative:
        x = [v if v > 0 else arb(0) for v in x]
    if case.name == "L1":
        points = [_soft(x, [eta * case.parameter("lam") / v for v in d])]
    elif case.name == "GroupLinf":
        points = [_clip(x, d, strong * case.parameter("lam"))]
    elif case.name == "SparseGroupLasso":
        points = _radial(_soft(x, [eta * case.parameter("lam1") / v for v in d]), d, strong, _pieces(case))
    else:
        points = _radial(x, d, strong, _pieces(case))
    # Candidates come sorted by length, so a tie goes to the shorter.
    values = [case.objective(z) for z in points]
    best = 0
    for k in range(1, len(points)):
        if values[k] < values[best]:
            best = k
    others = [v - values[best] for k, v in enumerate(values) if k != best]
    lead = arb("inf")
    for v in others:
        lead = v if v < lead else lead
    return Truth(points[best], values[best], lead)


def sensitivity(case: Case, truth: Truth) -> float:
    """Its condition: how far the prox moves, to first order, by a relative change of the step."""
    h = arb(2) ** -80
    moved = solve(case, arb(float(case.step)) * (1 + h)).z
    return oracle.to_float(oracle.norm([a - b for a, b in zip(moved, truth.z, strict=True)]) / h)


def _pieces(case: Case) -> list[tuple[arb, arb, arb]]:
    """``(start, a, c)`` with ``p'(r) = a - c r`` from the start on."""
    zero = arb(0)
    name, p = case.name, case.parameter
    if name == "GroupLasso":
        return [(zero, p("lam"), zero)]
    if name == "SparseGroupLasso":
        return [(zero, p("lam2"), zero)]
    if name == "GroupElasticNet":
        return [(zero, p("lam"), -p("kappa"))]
    if name == "GroupMCP":
        return [(zero, p("lam"), 1 / p("gamma")), (p("gamma") * p("lam"), zero, zero)]
    if name == "GroupSCAD":
        lam, a = p("lam"), p("a")
        return [(zero, lam, zero), (lam, a * lam / (a - 1), 1 / (a - 1)), (a * lam, zero, zero)]
    if name == "GroupCapped":
        return [(zero, p("lam"), zero), (p("theta"), zero, zero)]
    return [(zero, zero, zero)]


def _radial(x: Point, d: Point, eta: arb, pieces: list[tuple[arb, arb, arb]]) -> list[Point]:
    """Candidates for the global minimum, by length: 0, a root for each piece, x."""
    points = [[arb(0) for _ in x]]
    live = [(u, v) for u, v in zip(x, d, strict=True) if u != 0]
    if not live:
        return points
    reach = oracle.norm(x)
    for k, (start, a, c) in enumerate(pieces):
        end = pieces[k + 1][0] if k + 1 < len(pieces) else reach
        alpha, kappa = eta * a, eta * c
        if alpha == 0:
            if reach >= start:
                points.append(list(x))
        elif start < reach:
            r = _up_crossing(live, alpha, kappa, start, end if end < reach else reach)
            if r is not None:
                tau = alpha - kappa * r
                points.append([u * v * r / (v * r + tau) for u, v in zip(x, d, strict=True)])
    return points


def _up_crossing(live: list[tuple[arb, arb]], alpha: arb, kappa: arb, start: arb, end: arb) -> arb | None:
    """Where ``S`` falls through 1, by Newton on the concave ``S^(-1/2)`` from the left end of the piece."""

    def sums(r: arb) -> tuple[arb, arb]:
        tau = alpha - kappa * r
        s = s1 = arb(0)
        for u, v in live:
            w = 1 / (v * r + tau)
            term = (u * v * w) ** 2
            s += term
            s1 += term * (v - kappa) * w
        return s.mid(), s1.mid()

    r = start.mid()
    tolerance = arb(2) ** -200
    for _ in range(3000):
        s, s1 = sums(r)
        if s <= 1:
            # left of the start g is at least 1 already, or Newton has arrived within rounding
            return None if r == start.mid() else r
        if s1 <= 0:
            return None
        move = (s * (s.sqrt() - 1) / s1).mid()
        r = (r + move).mid()
        if r > end * (1 + tolerance):
            return None
        if move <= r * tolerance:
            return r
    return None  # a double root: a dimple on a slope, never the global minimum


def _soft(x: Point, thresholds: Point) -> Point:
    return [v - t if v > t else v + t if v < -t else arb(0) for v, t in zip(x, thresholds, strict=True)]


def _clip(x: Point, d: Point, mass: arb) -> Point:
    """Newton on the convex, decreasing, piecewise-linear mass above a level: finite."""
    level = arb(0)
    if sum((u * abs(v) for u, v in zip(d, x, strict=True)), arb(0)) <= mass:
        return [arb(0) for _ in x]
    for _ in range(len(x) + 1):
        above = [(u, abs(v)) for u, v in zip(d, x, strict=True) if abs(v) > level]
        new = (sum((u * v for u, v in above), arb(0)) - mass) / sum((u for u, _ in above), arb(0))
        if new <= level:
            break
        level = new.mid()
    return [v if abs(v) <= level else level if v > 0 else -level for v in x]


def stationarity(case: Case, z: Sequence[float]) -> arb:
    """``dist(0, ∂Q(z))``, Euclidean; at a kink of a nonconvex penalty both one-sided slopes count."""
    zs, x, d = balls(z), balls(case.x), balls(case.d)
    eta, w = arb(float(case.step)), arb(float(case.weight))
    grad = [v * (a - b) / eta for a, b, v in zip(zs, x, d, strict=True)]
    if case.name == "GroupLinf":
        return _linf_stationarity(zs, grad, w * case.parameter("lam"))
    if case.nonnegative and any(a < 0 for a in zs):
        return arb("inf")
    t = (
        case.parameter({"L1": "lam", "SparseGroupLasso": "lam1"}[case.name])
        if case.name in _ELEMENTWISE
        else arb(0)
    )

    def at_rest(g: arb) -> arb:
        """What the elementwise part leaves of the gradient at an element that is zero."""
        if case.nonnegative:
            return -g - t if -g > t else arb(0)
        return abs(g) - t if abs(g) > t else arb(0)

    if case.name == "L1":
        rest = [g + (t if a > 0 else -t) if a != 0 else at_rest(g) for g, a in zip(grad, zs, strict=True)]
        return oracle.norm(rest)
    r = oracle.norm(zs)
    if all(a == 0 for a in zs):
        if case.name == "GroupL0":
            return arb(0)
        excess = oracle.norm([at_rest(g) for g in grad]) - w * _pieces(case)[0][1]
        return excess if excess > 0 else arb(0)
    slopes = []
    pieces = _pieces(case)
    for k, (start, a, c) in enumerate(pieces):
        end = pieces[k + 1][0] if k + 1 < len(pieces) else arb("inf")
        if not r < start and not r > end:
            slopes.append(w * (a - c * r))
    found = []
    for slope in slopes:
        rest = []
        for g, a in zip(grad, zs, strict=True):
            sign = arb(1) if a > 0 else arb(-1)
            rest.append(g + t * sign + slope * a / r if a != 0 else at_rest(g))
        found.append(oracle.norm(rest))
    return found[0] if len(found) == 1 or found[0] < found[1] else found[1]


_ELEMENTWISE = ("L1", "SparseGroupLasso")


def _linf_stationarity(z: Point, grad: Point, strength: arb) -> arb:
    top = arb(0)
    for a in z:
        top = abs(a) if abs(a) > top else top
    if top == 0:
        wanted = [abs(g) for g in grad]
        if sum(wanted, arb(0)) <= strength:
            return arb(0)
        return oracle.norm([_capped(v, wanted, strength) for v in wanted])
    face = [k for k, a in enumerate(z) if abs(a) == top]
    wanted = [-grad[k] if z[k] > 0 else grad[k] for k in face]
    off = [g for k, g in enumerate(grad) if k not in face]
    return oracle.norm([_capped(v, wanted, strength) for v in wanted] + off)


def _capped(v: arb, values: Point, total: arb) -> arb:
    """``v`` less its projection on the simplex ``{u >= 0, Σ u = total}``, that is ``min(v, θ)``."""
    theta = None
    ordered = sorted(values, key=lambda a: -oracle.to_float(a))
    running = arb(0)
    for k, a in enumerate(ordered):
        running += a
        level = (running - total) / (k + 1)
        if theta is not None and not a > theta:
            break
        theta = level
    assert theta is not None
    return theta if v > theta else v
