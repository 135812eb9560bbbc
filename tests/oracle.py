"""Independent ground truth for the tests: imports nothing of proxlab and shares no algorithm with it.

The prox of one group, ``argmin_z h(z) + ||z - x||_D^2 / (2 step)``, is computed

* `solve`: in ball arithmetic (Arb, at least 96 decimal digits; inputs are converted exactly). For a radial
  penalty every stationary point lies on the path ``z_i = b_i / (d_i + mu)``, ``b = d x``; the path is scanned
  densely in ``mu``, each sign change of the objective's slope is bisected to the last bit, and all candidates
  are compared by their objectives. Neither the secular function nor its concavity is used. A pair of
  stationary points within one cell of the scan is missed, harmlessly: such a pair is a dimple on a slope,
  which never holds the global minimum.
* `conic`: by CVXPY and Clarabel, the convex penalties, to four or five digits of z;
* `brute_force`: by grids over ``z`` itself, in one to three dimensions, with nothing assumed but that each
  ``z_i`` lies between 0 and ``x_i``;
* `dual`: the prox of the conjugate ``h*``, coded from the dual problem alone, for the metric Moreau identity.

Penalties are named as proxlab names them, with the same parameters; a group's weight multiplies the penalty
(for the sparse group lasso: its group part; for L1: not used).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import cvxpy as cp
import flint
import mpmath
import numpy as np
from flint import arb

RADIAL = {
    # name: parameters -> (value p, slope p') for any ordered field, r > 0
    "GroupLasso": lambda lam: (lambda r: lam * r, lambda r: lam),
    "GroupElasticNet": lambda lam, kappa: (lambda r: lam * r + kappa * r * r / 2, lambda r: lam + kappa * r),
    "GroupMCP": lambda lam, gamma: (
        lambda r: lam * r - r * r / (2 * gamma) if r < gamma * lam else gamma * lam * lam / 2,
        lambda r: lam - r / gamma if r < gamma * lam else 0 * r,
    ),
    "GroupSCAD": lambda lam, a: (
        lambda r: (
            lam * r
            if r < lam
            else (2 * a * lam * r - r * r - lam * lam) / (2 * (a - 1))
            if r < a * lam
            else lam * lam * (a + 1) / 2
        ),
        lambda r: lam if r < lam else (a * lam - r) / (a - 1) if r < a * lam else 0 * r,
    ),
    "GroupCapped": lambda lam, theta: (
        lambda r: lam * r if r < theta else lam * theta,
        lambda r: lam if r < theta else 0 * r,
    ),
    "GroupL0": lambda lam: (lambda r: lam, lambda r: 0 * r),
    "GroupLog": lambda lam, eps: (lambda r: lam * (1 + r / eps).log(), lambda r: lam / (r + eps)),
    "GroupLq": lambda lam, q: (lambda r: lam * r**q, lambda r: lam * q * r ** (q - 1)),
}
CONVEX = ("L1", "GroupLasso", "GroupElasticNet", "SparseGroupLasso", "GroupLinf")


@dataclass(frozen=True)
class Answer:
    """The minimisers found for one group, best first.

    `objectives` are the values of ``step h(z) + ||z - x||_D^2 / 2``, sorted; `candidates` the points (balls);
    `conditions` say by how much each candidate's radius amplifies a relative error of the penalty's slope
    (of the terms of its tangent).
    """

    candidates: list[list[arb]]
    objectives: list[arb]
    conditions: list[float]

    @property
    def z(self) -> np.ndarray:
        """The global minimiser, rounded to float64."""
        return np.array([to_float(v) for v in self.candidates[0]])

    @property
    def radius(self) -> arb:
        """The Euclidean norm of the global minimiser."""
        return norm(self.candidates[0])

    @property
    def gap(self) -> float:
        """How much worse the second-best candidate is, relative to the best (inf: there is none)."""
        if len(self.objectives) == 1:
            return math.inf
        best, second = self.objectives[:2]
        return to_float((second - best) / best) if best > 0 else math.inf if second > 0 else 0.0

    def distance(self, z: Sequence[float], which: int = 0) -> float:
        """Euclidean distance of `z` to a candidate (the global minimiser)."""
        with digits_for(z):
            return to_float(norm([arb(float(a)) - b for a, b in zip(z, self.candidates[which], strict=True)]))


def to_float(v: arb) -> float:
    """The float64 nearest to the middle of a ball."""
    return float(v.mid())


def norm(v: Sequence[arb]) -> arb:
    """The Euclidean norm."""
    # The product of a ball around zero with itself has negative numbers in it.
    return sum((a * a for a in v), arb(0)).nonnegative_part().sqrt()


class digits_for:
    """Context with enough bits that the spread of `data` still leaves 96 digits."""

    def __init__(self, *data: object) -> None:
        spread = 0.0
        for values in data:
            a = np.abs(np.asarray(values, dtype=np.float64).ravel())
            a = a[a > 0]
            if a.size:
                spread += float(np.log2(a.max()) - np.log2(a.min()))
        self.precision = 320 + int(2 * spread)

    def __enter__(self) -> None:
        self.saved, flint.ctx.prec = flint.ctx.prec, self.precision

    def __exit__(self, *exc: object) -> None:
        flint.ctx.prec = self.saved


def _exact(values: object) -> list[arb]:
    return [arb(float(v)) for v in np.asarray(values).ravel()]


def _arb_parameters(parameters: dict[str, object]) -> dict[str, arb]:
    return {k: arb(float(v)) for k, v in parameters.items() if k != "nonnegative"}  # type: ignore[arg-type]


def value(
    name: str, parameters: dict[str, object], z: Sequence[float] | Sequence[arb], weight: float = 1.0
) -> arb:
    """The penalty of one group."""
    z = [v if isinstance(v, arb) else arb(float(v)) for v in z]
    w = arb(float(weight))
    p = _arb_parameters(parameters)
    if parameters.get("nonnegative") and any(v < 0 for v in z):
        return arb("inf")
    one, r = sum((abs(v) for v in z), arb(0)), norm(z)
    if name == "L1":
        return p["lam"] * one
    if name == "SparseGroupLasso":
        return p["lam1"] * one + w * p["lam2"] * r
    if name == "GroupLinf":
        return w * p["lam"] * _largest([abs(v) for v in z])
    return w * RADIAL[name](**p)[0](r) if r > 0 else arb(0)


def _largest(v: Sequence[arb]) -> arb:
    best = arb(0)
    for a in v:
        best = best.max(a)
    return best


def objective(
    name: str,
    parameters: dict[str, object],
    z: Sequence[float] | Sequence[arb],
    x: object,
    d: object,
    step: float,
    weight: float = 1.0,
) -> arb:
    """``step h(z) + ||z - x||_D^2 / 2`` of one group."""
    z = [v if isinstance(v, arb) else arb(float(v)) for v in z]
    squares = (di * (zi - xi) ** 2 for zi, xi, di in zip(z, _exact(x), _exact(d), strict=True))
    return arb(float(step)) * value(name, parameters, z, weight) + sum(squares, arb(0)) / 2


def solve(
    name: str, parameters: dict[str, object], x: object, d: object, step: float, weight: float = 1.0
) -> Answer:
    """All candidates for the prox of one group, best first."""
    with digits_for(x, d):
        xs, ds = _exact(x), _exact(d)
        if parameters.get("nonnegative"):
            xs = [v if v > 0 else arb(0) for v in xs]
        eta = arb(float(step))
        p = _arb_parameters(parameters)
        if name == "L1":
            points = [(_soft(xs, [eta * p["lam"] / di for di in ds]), 0.0)]
        elif name == "GroupLinf":
            points = [(_clip_at_level(xs, ds, eta * arb(float(weight)) * p["lam"]), 0.0)]
        elif name == "SparseGroupLasso":
            # the subgradient of the absolute values keeps the sign of each kept element, whatever the radius
            xs = _soft(xs, [eta * p["lam1"] / di for di in ds])
            points = _path_candidates(xs, ds, eta * arb(float(weight)), RADIAL["GroupLasso"](p["lam2"])[1])
        else:
            points = _path_candidates(xs, ds, eta * arb(float(weight)), RADIAL[name](**p)[1])
        scored = [(objective(name, parameters, z, x, d, step, weight), norm(z), z, c) for z, c in points]
        # equal objectives: the sparser (shorter) first
        scored.sort(key=lambda s: (_Ball(s[0]), _Ball(s[1])))
        return Answer([s[2] for s in scored], [s[0] for s in scored], [s[3] for s in scored])


class _Ball:
    """Sort key: overlapping balls are equal."""

    def __init__(self, v: arb) -> None:
        self.v = v

    def __lt__(self, other: _Ball) -> bool:
        return bool(self.v < other.v)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Ball) and bool(self.v.overlaps(other.v))


def _soft(x: Sequence[arb], thresholds: Sequence[arb]) -> list[arb]:
    return [v - t if v > t else v + t if v < -t else arb(0) for v, t in zip(x, thresholds, strict=True)]


def _clip_at_level(x: Sequence[arb], d: Sequence[arb], mass: arb) -> list[arb]:
    """The prox of the max norm: clip at the level that cuts off the weighted mass `mass`."""
    order = sorted(range(len(x)), key=lambda i: -to_float(abs(x[i])))
    total, slope = arb(0), arb(0)
    level = arb(0)
    for k, i in enumerate(order):
        total, slope = total + d[i] * abs(x[i]), slope + d[i]
        below = abs(x[order[k + 1]]) if k + 1 < len(order) else arb(0)
        level = (total - mass) / slope
        if level >= below:
            break
    else:
        level = arb(0)
    return [v if abs(v) <= level else level if v > 0 else -level for v in x]


def _path_candidates(
    x: list[arb], d: list[arb], eta: arb, slope: Callable[[arb], arb]
) -> list[tuple[list[arb], float]]:
    """0, x, and the local minima on the path ``z_i = d_i x_i / (d_i + mu)`` that a dense scan finds."""
    zero = [arb(0) for _ in x]
    live = [(xi, di) for xi, di in zip(x, d, strict=True) if xi != 0]
    if not live or eta == 0:
        return [(list(x), 0.0)]
    pairs = [((di * xi) ** 2, di) for xi, di in live]

    def radius(mu: arb) -> arb:
        return sum((b2 / (di + mu) ** 2 for b2, di in pairs), arb(0)).sqrt()

    def climb(mu: arb) -> arb:
        """The slope of the objective along the radius at this point of the path."""
        r = radius(mu)
        return eta * slope(r) - mu * r

    def uphill(mu: arb) -> bool:
        return bool(climb(mu).mid() > 0)

    def condition(mu: arb) -> float:
        """d log r / d log(step p') at a stationary point, by central differences.

        A slope that has fallen is a difference, as uncertain as the terms of its tangent.
        """
        h = mu * arb(2) ** -100
        d_radius, d_climb = radius(mu + h) - radius(mu - h), climb(mu + h) - climb(mu - h)
        r, h = radius(mu), arb(2) ** -100
        terms = eta * abs((slope(r) - slope(r * (1 - h))) / h)
        return abs(to_float((mu + terms / r) * d_radius / d_climb))

    low, high = min(to_float(arb.log(di)) for _, di in live), max(to_float(arb.log(di)) for _, di in live)
    spans = (low - 45, low - 3, 0.15), (low - 3, high + 3, 0.05), (high + 3, high + 45, 0.15)
    logs = np.concatenate([np.arange(*span) for span in spans])
    grid = [arb(float(t)).exp().mid() for t in logs]
    # Extend the scan until the slope has its limiting sign at both ends.
    r_x = norm(x)
    norm_b = sum((b2 for b2, _ in pairs), arb(0)).sqrt()
    while uphill(grid[0]) != bool(slope(r_x) > 0) and grid[0] > arb(2) ** -8000:
        grid.insert(0, grid[0] / 2**20)
    near_zero = r_x * arb(2) ** -100000
    threshold = eta * slope(near_zero)
    while uphill(grid[-1]) != bool(threshold >= norm_b) and grid[-1] < arb(2) ** 8000:
        grid.append(grid[-1] * 2**20)

    # Where the flat part begins just below x, rounding may put x before it.
    near_x = arb(2) ** -44 * min((di for _, di in live), key=to_float)
    points = [(zero, 0.0), (list(x), condition(near_x) if slope(radius(near_x)) > 0 else 0.0)]
    signs = [uphill(mu) for mu in grid]
    for k in range(len(grid) - 1):
        if signs[k] and not signs[k + 1]:  # r falls as mu grows: uphill beyond, downhill before, so a minimum
            lo, hi = grid[k], grid[k + 1]
            for step in range(flint.ctx.prec + 64):
                mid = ((lo * hi).sqrt() if step < 16 else (lo + hi) / 2).mid()
                if uphill(mid):
                    lo = mid
                else:
                    hi = mid
            mu = lo.union(hi)
            points.append(([di * xi / (di + mu) for xi, di in zip(x, d, strict=True)], condition(mu.mid())))
    return points


def stationary_radius(name: str, parameters: dict[str, object], x: object, d: object, step: float) -> float:
    """The radius of the stationary point of a convex radial penalty, by mpmath at 60 digits."""
    with mpmath.workdps(60):
        xs, ds = ([mpmath.mpf(float(v)) for v in np.asarray(a).ravel()] for a in (x, d))
        p = {k: mpmath.mpf(float(v)) for k, v in parameters.items()}  # type: ignore[arg-type]
        slope = RADIAL[name](**p)[1]
        b = [u * v for u, v in zip(xs, ds, strict=True)]

        def excess(t: mpmath.mpf) -> mpmath.mpf:
            r = mpmath.exp(t)
            tau = mpmath.mpf(float(step)) * slope(r)
            return mpmath.log(mpmath.fsum((bi / (di * r + tau)) ** 2 for bi, di in zip(b, ds, strict=True)))

        top = mpmath.log(mpmath.norm(xs))
        bottom = top - 1
        while excess(bottom) < 0:
            bottom -= 2 * (top - bottom)
        tolerance = mpmath.mpf(10) ** -90  # of the squared residual
        root = mpmath.findroot(excess, (bottom, top), solver="anderson", tol=tolerance, maxsteps=2000)
        return float(mpmath.exp(root))


def zero_margin(x: object, d: object, level: float | Fraction) -> float:
    """``||D x||² / level² - 1``, computed in rational arithmetic: the prox is zero where it is at most 0."""
    total = sum(
        (Fraction(float(u)) * Fraction(float(v))) ** 2
        for u, v in zip(np.ravel(x), np.ravel(d), strict=True)  # type: ignore[arg-type]
    )
    return float(total / Fraction(level) ** 2 - 1)


def values(name: str, parameters: dict[str, float], z: np.ndarray, weight: float = 1.0) -> np.ndarray:
    """The penalty of many points in float64, reduced over the last axis; written apart from `value`."""
    r = np.sqrt(np.sum(z * z, axis=-1))
    p = {k: float(v) for k, v in parameters.items()}
    lam = p.get("lam", 0.0)
    if name == "L1":
        out, weight = lam * np.abs(z).sum(-1), 1.0
    elif name == "GroupLasso":
        out = lam * r
    elif name == "GroupElasticNet":
        out = lam * r + 0.5 * p["kappa"] * r**2
    elif name == "SparseGroupLasso":
        return p["lam1"] * np.abs(z).sum(-1) + weight * p["lam2"] * r
    elif name == "GroupMCP":
        t = np.minimum(r, p["gamma"] * lam)
        out = lam * t - t**2 / (2 * p["gamma"])
    elif name == "GroupSCAD":
        # the integral of lam min(1, (a lam - s)_+ / ((a - 1) lam)) over [0, r]
        bend = np.clip(r, lam, p["a"] * lam) - lam
        out = lam * np.minimum(r, lam) + lam * bend - bend**2 / (2 * (p["a"] - 1))
    elif name == "GroupCapped":
        out = lam * np.minimum(r, p["theta"])
    elif name == "GroupL0":
        out = lam * (r > 0)
    elif name == "GroupLinf":
        out = lam * np.abs(z).max(-1)
    elif name == "GroupLog":
        out = lam * np.log((r + p["eps"]) / p["eps"])
    elif name == "GroupLq":
        out = lam * r ** p["q"]
    else:
        raise ValueError(name)
    if p.get("nonnegative"):
        out = np.where((z < 0).any(-1), np.inf, out)
    return weight * out


def brute_force(
    name: str, parameters: dict[str, float], x: np.ndarray, d: np.ndarray, step: float, weight: float = 1.0
) -> tuple[np.ndarray, float]:
    """The global minimiser and its objective, by grids over a box that zoom in on the best cells."""
    n = x.size
    per_axis = {1: 2001, 2: 161, 3: 33}[n]
    keep = 6

    def q(z: np.ndarray) -> np.ndarray:
        return step * values(name, parameters, z, weight) + 0.5 * np.sum(d * (z - x) ** 2, axis=-1)

    boxes = [(np.minimum(x, 0.0), np.maximum(x, 0.0))]
    best = np.zeros(n)
    for _ in range(60):
        points = [best[None], x[None], np.zeros((1, n))]
        widths = [np.zeros((1, n))] * 3
        for lower, upper in boxes:
            axes = [np.linspace(a, b, per_axis) for a, b in zip(lower, upper, strict=True)]
            mesh = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, n)
            points.append(mesh)
            widths.append(np.broadcast_to((upper - lower) / (per_axis - 1), mesh.shape))
        z, width = np.concatenate(points), np.concatenate(widths)
        order = np.argsort(q(z), kind="stable")[:keep]
        best = z[order[0]]
        cell = width.max(axis=0)
        if np.all(cell <= 1e-13 * np.abs(x)):
            break
        lower, upper = np.minimum(x, 0.0), np.maximum(x, 0.0)
        boxes = [(np.maximum(z[k] - 2 * cell, lower), np.minimum(z[k] + 2 * cell, upper)) for k in order]
        per_axis, keep = {1: 41, 2: 13, 3: 9}[n], 6
    return best, float(q(best[None])[0])


def conic(
    name: str, parameters: dict[str, float], x: np.ndarray, d: np.ndarray, step: float, weight: float = 1.0
) -> np.ndarray:
    """The prox of a convex penalty for one group, by CVXPY and Clarabel."""
    z = cp.Variable(x.size)
    p = {k: float(v) for k, v in parameters.items()}
    lam = p.get("lam", 0.0)
    h = {
        "L1": lambda: lam * cp.norm1(z),
        "GroupLasso": lambda: weight * lam * cp.norm2(z),
        "GroupElasticNet": lambda: weight * (lam * cp.norm2(z) + p["kappa"] / 2 * cp.sum_squares(z)),
        "SparseGroupLasso": lambda: p["lam1"] * cp.norm1(z) + weight * p["lam2"] * cp.norm2(z),
        "GroupLinf": lambda: weight * lam * cp.norm_inf(z),
    }[name]()
    constraints = [z >= 0] if p.get("nonnegative") else []
    quadratic = cp.sum_squares(cp.multiply(np.sqrt(d), z - x)) / 2
    problem = cp.Problem(cp.Minimize(step * h + quadratic), constraints)
    problem.solve(solver=cp.CLARABEL)
    return np.asarray(z.value)


def dual(
    name: str, parameters: dict[str, float], v: np.ndarray, w: np.ndarray, step: float, weight: float = 1.0
) -> np.ndarray:
    """``argmin_u h*(u) + ||u - v||_W^2 / (2 step)``, from the conjugate of the penalty of one group.

    For a norm, ``h*`` is the indicator of the dual ball and the answer a projection in the metric W.
    """
    p = {k: float(u) for k, u in parameters.items()}
    lam = p.get("lam", 0.0) * (1.0 if name == "L1" else weight)
    if name == "L1":
        return np.minimum(v, lam) if p.get("nonnegative") else np.clip(v, -lam, lam)
    if name == "GroupLasso":
        if p.get("nonnegative"):  # the polar ball of the cone: only the positive part is bounded
            return np.where(v > 0, _project_ball(np.maximum(v, 0.0), w, lam), v)
        return _project_ball(v, w, lam)
    if name == "GroupElasticNet":
        # h*(u) = (||u|| - lam)_+^2 / (2 kappa) is smooth and radial: bisect on nu, where u = w v / (w + nu)
        kappa = p["kappa"] * weight
        if np.linalg.norm(v) <= lam:
            return v.copy()
        lo, hi = 0.0, step / kappa
        for _ in range(200):
            nu = (lo + hi) / 2
            s = np.linalg.norm(w * v / (w + nu))
            lo, hi = (nu, hi) if step * max(s - lam, 0.0) / kappa > nu * s else (lo, nu)
        return w * v / (w + hi)
    if name == "GroupLinf":
        if np.abs(v).sum() <= lam:
            return v.copy()
        # projection on the l1 ball: u = soft(v, nu / w); nu is linear between the sorted breakpoints |v| w
        order = np.argsort(-np.abs(v) * w)
        sums, inverse = np.cumsum(np.abs(v)[order]), np.cumsum(1 / w[order])
        levels = (sums - lam) / inverse
        k = np.flatnonzero((np.abs(v) * w)[order] > levels)[-1]
        return np.sign(v) * np.maximum(np.abs(v) - levels[k] / w, 0.0)
    if name == "SparseGroupLasso":
        # the dual ball is a box plus a Euclidean ball, and only the excess over the box loads the latter
        box = np.clip(v, -p["lam1"], p["lam1"])
        ball = _project_ball(v - box, w, weight * p["lam2"])
        return ball + np.clip(v - ball, -p["lam1"], p["lam1"])
    raise ValueError(f"no dual for {name}")


def _project_ball(v: np.ndarray, w: np.ndarray, radius: float) -> np.ndarray:
    """Projection on the Euclidean ball in the metric W, by bisection on the multiplier."""
    if np.linalg.norm(v) <= radius:
        return v.copy()
    if radius == 0:
        return np.zeros_like(v)
    lo, hi = 0.0, float(np.linalg.norm(w * v)) / radius
    for _ in range(200):
        nu = (lo + hi) / 2
        lo, hi = (nu, hi) if np.linalg.norm(w * v / (w + nu)) > radius else (lo, nu)
    return w * v / (w + hi)
