"""Random tables of pieces and the truth about them in ball arithmetic; imports nothing of proxlab.

A table is a tuple of ``(start, value, a, c)``: ``p'(r) = a - c r`` from the start on. Here ``p`` is
integrated from its slopes, exactly: the values that a table gives are this up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import flint
import numpy as np
from flint import arb
from hypothesis import strategies as st

from tests import exact, oracle
from tests.exact import Point, balls

Table = tuple[tuple[float, float, float, float], ...]


def complete(first: float, rows: Sequence[tuple[float, float, float]]) -> Table:
    """Add the values to ``(start, a, c)``, and correct slopes that rounding took below zero."""
    table, value = [], first
    for k, (start, a, c) in enumerate(rows):
        end = rows[k + 1][0] if k + 1 < len(rows) else start
        low = min(a - c * start, a - c * end)
        a += 2 * abs(low) if low < 0 else 0.0
        table.append((start, value, a, c))
        value += (end - start) * (a - c * (start + end) / 2)
    return tuple(table)


slopes = st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(0.01, 2.0))


@st.composite
def tables(draw: Any, pieces: tuple[int, int] = (1, 5), jumps: bool = True, kinks: bool = True) -> Table:
    """Draw a table in units of length and slope of 1: kinks down and up, curved pieces, flat ends, jumps."""
    count = draw(st.integers(*pieces))
    starts = [0.0, *np.cumsum(draw(st.lists(st.floats(0.05, 0.6), min_size=count - 1, max_size=count - 1)))]
    rows, before = [], None
    for k, start in enumerate(starts):
        first = before if before is not None and draw(st.booleans()) else draw(slopes)
        if not kinks and before is not None:
            first = min(first, before)
        if k + 1 == count:
            c = 0.0 if draw(st.booleans()) else -draw(slopes)
            first = 0.0 if c == 0.0 and draw(st.booleans()) else first
            rows.append((float(start), first + c * start, c))
            break
        end = starts[k + 1]
        before = first if draw(st.booleans()) else draw(slopes)
        c = (first - before) / (end - start)
        rows.append((float(start), float(first + c * start), float(c)))
    jump = draw(st.floats(0.01, 0.6)) if jumps and draw(st.booleans()) else 0.0
    return complete(jump, rows)


def scaled(table: Table, length: float, slope: float) -> Table:
    """The table in other units."""
    rows = [(start * length, a * slope, c * slope / length) for start, _, a, c in table]
    return complete(table[0][1] * length * slope, rows)


@dataclass(frozen=True)
class Group:
    """The problem of one group."""

    table: Table
    x: np.ndarray
    d: np.ndarray
    step: float
    weight: float = 1.0
    threshold: float = 0.0
    nonnegative: bool = False

    @property
    def size(self) -> float:
        """The scale of the objective: ``‖x‖²_D / (2 step)``."""
        return float(np.sum(self.d * self.x**2)) / (2 * self.step)

    def digits(self) -> oracle.digits_for:
        """Context with bits enough for this problem: its table may be far smaller than its point."""
        return oracle.digits_for([*self.x, *(v for row in self.table for v in row)], self.d)

    def shrunk(self) -> Point:
        """The point after the elementwise part."""
        x = balls(self.x)
        if self.nonnegative:
            x = [v if v > 0 else arb(0) for v in x]
        t = arb(float(self.step)) * arb(float(self.threshold))
        return exact._soft(x, [t / v for v in balls(self.d)]) if self.threshold else x

    def starts(self) -> list[arb]:
        """``p`` where each piece starts."""
        values = [arb(float(self.table[0][1]))]
        for (start, _, a, c), after in pairwise(self.table):
            start, end, a, c = (arb(float(v)) for v in (start, after[0], a, c))
            values.append(values[-1] + (end - start) * (a - c * (start + end) / 2))
        return values

    def penalty(self, r: arb) -> arb:
        """``p(r)``."""
        if not r > 0:
            return arb(0)
        k = max(k for k, piece in enumerate(self.table) if not r < arb(float(piece[0])))
        start, _, a, c = (arb(float(v)) for v in self.table[k])
        return self.starts()[k] + (r - start) * (a - c * (r + start) / 2)

    def value(self, z: Sequence[float] | Point) -> arb:
        """The penalty with its weight and its elementwise part."""
        z = [v if isinstance(v, arb) else arb(float(v)) for v in z]
        if self.nonnegative and any(v < 0 for v in z):
            return arb("inf")
        one = sum((abs(v) for v in z), arb(0))
        return arb(float(self.weight)) * self.penalty(oracle.norm(z)) + arb(float(self.threshold)) * one

    def objective(self, z: Sequence[float] | Point) -> arb:
        """``Q(z)``."""
        z = [v if isinstance(v, arb) else arb(float(v)) for v in z]
        squares = (v * (a - b) ** 2 for a, b, v in zip(z, balls(self.x), balls(self.d), strict=True))
        return self.value(z) + sum(squares, arb(0)) / (2 * arb(float(self.step)))


def solve(g: Group) -> exact.Truth:
    """The global minimiser (of several, the shortest): 0, x, a root for each piece, kinks upwards."""
    x, d = g.shrunk(), balls(g.d)
    points = [[arb(0) for _ in x]]
    live = [(u, v) for u, v in zip(x, d, strict=True) if u != 0]
    strong = arb(float(g.step)) * arb(float(g.weight))
    if live and strong == 0:
        points = [list(x)]
    elif live:
        reach = oracle.norm(x)
        pieces = [(arb(float(s)), strong * arb(float(a)), strong * arb(float(c))) for s, _, a, c in g.table]
        for k, (start, alpha, kappa) in enumerate(pieces):
            if start > reach:
                break
            end = pieces[k + 1][0] if k + 1 < len(pieces) and pieces[k + 1][0] < reach else reach
            if k:
                mu = _kink(live, start, pieces[k - 1], pieces[k])
                if mu is not None:
                    points.append([u * v / (v + mu) for u, v in zip(x, d, strict=True)])
            if alpha == 0 and kappa == 0:
                if k + 1 == len(pieces) or reach <= pieces[k + 1][0]:
                    points.append(list(x))
                continue
            if k == 0 and alpha == 0:  # a ray through the origin
                r = oracle.norm([u * v / (v - kappa) for u, v in live])
                r = r if r <= end * (1 + arb(2) ** -200) else None
            else:
                r = exact._up_crossing(live, alpha, kappa, start, end)
            if r is not None:
                mu = (alpha - kappa * r) / r
                points.append([u * v / (v + mu) for u, v in zip(x, d, strict=True)])
    values = [g.objective(z) for z in points]
    best = 0
    for k in range(1, len(points)):
        if values[k] < values[best]:
            best = k
    lead = arb("inf")
    for k, v in enumerate(values):
        if k != best and v - values[best] < lead:
            lead = v - values[best]
    return exact.Truth(points[best], values[best], lead)


def _kink(live: Any, r: arb, before: Any, after: Any) -> arb | None:
    """``T(r)/r`` where it lies between the slopes on both sides."""

    def above(tau: arb) -> bool:
        return bool(sum(((u * v / (v * r + tau)) ** 2 for u, v in live), arb(0)).mid() > 1)

    low, high = (alpha - kappa * r for _, alpha, kappa in (before, after))
    if not (low < high and above(low) and not above(high)):
        return None
    low, high = low.mid(), high.mid()
    for _ in range(flint.ctx.prec + 64):
        mid = ((low + high) / 2).mid()
        low, high = (mid, high) if above(mid) else (low, mid)
    return low.union(high) / r


def stationarity(g: Group, z: Sequence[float], blur: float = 0.0) -> arb:
    """``dist(0, ∂Q(z))``; within ``blur`` of a kink upwards, relatively, as at the kink."""
    zs = balls(z)
    eta, w, t = (arb(float(v)) for v in (g.step, g.weight, g.threshold))
    grad = [v * (a - b) / eta for a, b, v in zip(zs, balls(g.x), balls(g.d), strict=True)]
    return distance_to(g, zs, grad, w, t, blur)


def distance_to(g: Group, zs: Point, grad: Point, w: arb, t: arb, blur: float) -> arb:
    """The distance of ``-grad`` to the subdifferential of the penalty."""
    if g.nonnegative and any(a < 0 for a in zs):
        return arb("inf")

    def at_rest(v: arb) -> arb:
        if g.nonnegative:
            return -v - t if -v > t else arb(0)
        return abs(v) - t if abs(v) > t else arb(0)

    if all(a == 0 for a in zs):
        if g.table[0][1] > 0 and w > 0:
            return arb(0)
        excess = oracle.norm([at_rest(v) for v in grad]) - w * arb(float(g.table[0][2]))
        return excess if excess > 0 else arb(0)
    r = oracle.norm(zs)
    signed = [v + t * (1 if a > 0 else -1) for v, a in zip(grad, zs, strict=True)]

    def off(slope: arb) -> arb:
        rest = [v + slope * a / r if a != 0 else at_rest(u) for u, v, a in zip(grad, signed, zs, strict=True)]
        return oracle.norm(rest)

    found = []
    for k, (start, _, a, c) in enumerate(g.table):
        start, slope = arb(float(start)), w * (arb(float(a)) - arb(float(c)) * r)
        end = arb(float(g.table[k + 1][0])) if k + 1 < len(g.table) else arb("inf")
        if not r < start and not r > end:
            found.append(off(slope))
        if k and not abs(r - start) > blur * start:
            before = w * (arb(float(g.table[k - 1][2])) - arb(float(g.table[k - 1][3])) * r)
            if before < slope:
                pull = -sum((v * a / r for v, a in zip(signed, zs, strict=True) if a != 0), arb(0))
                between = before if pull < before else slope if pull > slope else pull
                found.append(off(between))
    least = found[0]
    for v in found[1:]:
        least = v if v < least else least
    return least


def values(table: Table, r: np.ndarray) -> np.ndarray:
    """``p`` in float64, from the values that the table gives."""
    out = np.zeros_like(r)
    for start, value, a, c in table:
        out = np.where(r >= start, value + (r - start) * (a - c * (r + start) / 2), out)
    return np.where(r > 0, out, 0.0)


def brute_force(g: Group) -> float:
    """The least objective on the curve ``z(μ) = d x/(d + μ)``, by grids that zoom in; with 0 and x."""
    x = np.maximum(g.x, 0.0) if g.nonnegative else g.x
    x = np.sign(x) * np.maximum(np.abs(x) - g.step * g.threshold / g.d, 0.0)

    def cost(z: np.ndarray) -> np.ndarray:
        r = np.sqrt(np.sum(z * z, axis=-1))
        extra = g.threshold * np.abs(z).sum(-1) + np.sum(g.d * (z - g.x) ** 2, axis=-1) / (2 * g.step)
        return g.weight * values(g.table, r) + extra

    best = float(np.min(cost(np.stack([0 * x, x]))))
    logs = np.linspace(math.log(g.d.min()) - 25, math.log(g.d.max()) + 25, 2000)
    costs = cost(g.d * x / (g.d + np.exp(logs)[:, None]))
    for k in np.argsort(costs)[:4]:
        low, high = logs[max(k - 1, 0)], logs[min(k + 1, len(logs) - 1)]
        for _ in range(6):
            fine = np.linspace(low, high, 40)
            at = cost(g.d * x / (g.d + np.exp(fine)[:, None]))
            i = int(np.argmin(at))
            best = min(best, float(at[i]))
            low, high = fine[max(i - 1, 0)], fine[min(i + 1, 39)]
    return best
