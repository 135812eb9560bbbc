"""Scalar source of the fused pass under a curve whose slope falls and is convex: what becomes of a group.

These take the places of the functions of those names in :mod:`proxlab.optim.fused_groups`; a table has the
addresses of the penalty's functions. With ``μ`` for ``1/ratio`` the path ``z = d x/(d + μ)`` has the length
``n`` and the multiplier ``M = μ n``, which is ``-Q'(n)`` of the least ``Q(r) = ½‖z - x‖²_D`` at ``‖z‖ = r``,
and the sums at a ratio give ``n`` as a function of ``M`` up to third order. ``M`` is convex as a function of
``n`` (docs: the mathematics, §9), as the slope ``τ`` is: that a crossing of the two is the least of all
follows from tangents and chords of both. What they do not decide is left to the solver of
:mod:`proxlab.prox`.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

from proxlab.backends.column_kernels import Zero
from proxlab.optim.fused_groups import DONE, HARD, OPEN, Group, Numbers, blur_of, ratio_of
from proxlab.scalar import INF, fabs, fmax, fmin, sqrt

#: Columns of the table: where the functions of the radius are, and the numbers that they read.
VALUE, SLOPE, TURN, OWN = 0, 1, 2, 3
#: Steps towards where the slope meets the path, each of which asks for no sums.
STEPS = 8
#: A share of the multiplier within which rounding of the sums does not count.
NEAR = 2.0**-5
#: The share of the path's slope that the penalty's must leave; below it, single precision says too little.
STEEP = 0.125

# Set by the build: calls a function at an address.
call: Any = None


def tau_at(table: Any, k: int, r: float, eta: float) -> float:
    """Return the slope times the step."""
    return eta * call(table[0, SLOPE], table[0, OWN], r)


def price_at(table: Any, r: float, eta: float) -> float:
    """Return the penalty times the step."""
    return eta * call(table[0, VALUE], table[0, OWN], r)


def turn_at(table: Any, r: float, eta: float) -> float:
    """Return the slope's own slope, at most zero, times the step."""
    return eta * call(table[0, TURN], table[0, OWN], r)


def is_single(table: Any) -> bool:
    """Return whether groups are decided together: a function that is called is no part of a vector."""
    return False


def first_radius(ww: float, table: Any) -> float:
    """Return where the radius is first looked for: at that of the weights as they are."""
    return sqrt(ww)


def open_group(zero: Zero, guess: float, eta: float, numbers: Numbers) -> Group:
    """Decide from the sums at zero; ``guess`` is where the radius is first looked for."""
    table, low, doubt = numbers.table, numbers.low, numbers.doubt
    bb, bbd, xx, xb = zero
    if not (bb < 1.0 / low and bbd < 1.0 / low and xx < 1.0 / low):
        return Group(HARD, 0.0, 0, 0.0, 0.0)
    if eta == 0.0:
        return Group(DONE, 1.0, 0, 0.0, 0.0)
    if not (bb > low and xx > low and xb > low and bbd > 1e-5 * low):
        # Squares may have vanished, but not those of anything that could be worth more than its price.
        norm, reach = sqrt(bb + low), sqrt(xx + low)
        clear = price_at(table, reach, eta) > 2.0 * norm * reach
        return Group(DONE if clear else HARD, 0.0, 0, 0.0, 0.0)
    norm, reach, half = sqrt(bb), sqrt(xx), 0.5 * xb
    # Q is above its tangent at zero and above nothing: the price need only be dear enough where these meet.
    if price_at(table, half / norm, eta) * (1.0 - 8.0 * doubt) >= half:
        return Group(DONE, 0.0, 0, 0.0, 0.0)
    top = reach * (1.0 + doubt)
    return Group(OPEN, guess if 0.0 < guess < top else reach, 0, 0.0, top)


def advance(group: Group, v: float, ve: float, vee: float, zero: Zero, eta: float, numbers: Numbers) -> Group:
    """Go on from the sums of ``z²``, ``z² h`` and ``z² h²`` at the ratio."""
    table, hi, ratio = numbers.table, group.hi, ratio_of(group, eta, numbers)
    if not (v > numbers.low and ve > numbers.low and v < INF and ratio > 0.0):
        return Group(HARD, 0.0, 0, 0.0, 0.0)
    # n(M) is n - a (M - m) + ½ b (M - m)² up to third order.
    n, share = sqrt(v), ratio / ve
    m, a = n / ratio, share * fmax(v - ve, 0.0)
    b = 3.0 * n * share * share * (fmax(v * vee - ve * ve, 0.0) / ve)
    r, y, far, step = n, 0.0, a, INF
    for _ in range(STEPS):
        y = m - tau_at(table, 0, r, eta)
        far = a + b * y
        slope = 1.0 + far * turn_at(table, r, eta)
        if not slope > STEEP:
            return Group(HARD, 0.0, 0, 0.0, 0.0)
        step = (r - n - y * (a + 0.5 * b * y)) / slope
        r = fmin(fmax(r - step, 0.25 * r), hi)
        if fabs(step) <= 0.25 * numbers.rtol * r:
            break
    met, bent = fabs(step) <= 0.25 * numbers.rtol * r, fabs(b * y)
    if met and fabs(y) <= NEAR * m and bent * bent * fabs(y) <= numbers.rtol * r * a:
        # By as much as rounding may make of v - ve.
        return settle(r, 1.0 / (far + 4.0 * numbers.doubt * share * v), zero, eta, numbers)
    return Group(OPEN, r, 0, 0.0, hi)


def settle(r: float, kappa: float, zero: Zero, eta: float, numbers: Numbers) -> Group:
    """Decide whether a crossing is the least of all; the multiplier falls there by ``kappa`` at least."""
    table, doubt = numbers.table, numbers.doubt
    tau, price, turn = tau_at(table, 0, r, eta), price_at(table, r, eta), turn_at(table, r, eta)
    norm, reach, blur = sqrt(zero.bb), sqrt(zero.xx), blur_of(zero, numbers)
    # From there on the multiplier is below its chord to the point itself, and the slope above its tangent.
    if tau * (1.0 - 8.0 * doubt) < -turn * (reach * (1.0 + doubt) - r):
        return Group(HARD, 0.0, 0, 0.0, 0.0)
    # Before it, the multiplier is above its tangent: the gain over the price is least there or at zero.
    if (tau + 0.5 * kappa * r) * r - price > blur:
        return Group(DONE, r, 0, 0.0, 0.0)
    # And above that at zero.
    sharp = zero.bbd / zero.bb * (1.0 + 4.0 * doubt)
    s = (norm - tau - kappa * r) / (sharp - kappa)
    if not (sharp > kappa and 0.0 < s < r and tau_at(table, 0, s, eta) <= norm - sharp * s):
        return Group(HARD, 0.0, 0, 0.0, 0.0)
    left = r - s
    gain = (norm - 0.5 * sharp * s) * s + (tau + 0.5 * kappa * left) * left
    return Group(DONE if gain - price > blur else HARD, r, 0, 0.0, 0.0)
