"""Scalar source of the compiled kernels: loops over a group's elements, and what their sums decide.

Plain Python, rebuilt for a target by :mod:`proxlab.backends.numba_cpu`. A group is ``x[o:o + n]``; slices
keep indices nonnegative, which is what lets the compiler vectorise. Loops named ``sum_*`` and
``add_*`` may be reassociated (their error bounds hold for any order); everything else is compiled strictly.
The vectorised form in :mod:`proxlab.backends.array_api` is the specification.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import math
from typing import Any

import numpy as np

from proxlab.bounds import UNIT, rounding
from proxlab.double_double import MARGIN_UNIT, square, two_product, two_sum
from proxlab.equations import Sums, Task
from proxlab.equations.clipped import NEGLIGIBLE, ROUNDINGS
from proxlab.equations.radial import BEYOND, pace, residual, rise, roundings, shrunk_fraction, terms
from proxlab.rootfinders import Newton, Status
from proxlab.scalar import fabs, fmax, fmin, sqrt
from proxlab.search import (
    OPEN,
    RIVAL_RTOL,
    SEEKING,
    Root,
    advance,
    ask,
    begin,
    bracketed,
    final_step,
    finish,
    noise,
    seek,
)

CONVERGED, ZERO, UNSHRUNK, TIE, MAX_ITERATIONS = (int(status) for status in Status)
BAD, APART = len(Status), len(Status) + 1  # a group with invalid input; one that spreads too far
# An offset of a plain integer type: a literal would make the compiler specialise once more.
FIRST: Any = np.int64(0)
# Sums of squares in this range have lost nothing to overflow or underflow.
SAFE_LOW, SAFE_HIGH = 1e-200, 1e200
# In this range a product of two numbers has lost nothing, nor will its quotient by a third; coefficients of
# an equation of scale 1 beyond the cap mean what the cap does; so do metrics, where the element is zero.
PRODUCT_LOW, PRODUCT_HIGH, CAP, METRIC_CAP = 1e-290, 1e290, 1e270, 2.0**900
# Exponents of the metric, in units of the group, between which every element counts as it should.
APART_LOW, APART_HIGH = -900, 800
# The exponent of a product d r at a root that loses nothing is greater. Whatever it is, it loses nothing that
# counts if r tau is no less than this share of ‖x‖.
FAINT, TOGETHER = -900, 1e-200
# The exponent of where a piece begins, in units of the group, that squares stay in range at is greater.
START_LOW = -400
# Slopes of the equation at zero that are in range are less.
STEEPEST = 1e250
INF = np.inf
NAN = np.nan
TINIEST = 2.0**-1074

# Set by the target: the equation's sums at a radius.
sums_at: Any = None
# Set by the target, beside what the search leaves to it: whether sums may leave float64's range.
NEEDS_BRACKET = Newton.needs_bracket
RESCALES = True
# Set by the target: whether single precision finds where to start; its chunks of a sum, the most passes it
# takes, and the relative error at which it is good enough.
NARROW = False
CHUNK = 4096
NARROW_PASSES = 4
NARROW_ERROR = 2.0**-6
# Set by the target: how one group is solved (a radial penalty, or the ℓ∞ norm).
solve_group: Any = None
# Set by the target: the kernel that Python calls, and views of arrays that do not count references.
kernel: Any = None
borrowed: Any = None


def call_borrowed(*arguments: Any) -> Any:
    """Call the kernel on arrays that the caller holds."""
    return kernel(*borrowed(arguments))


def sum_start(x: Any, d: Any, o: int, n: int) -> Any:
    """Sum what the zero test and the tangent at zero need: ``b²``, ``b² d``, ``x²``; find invalid metrics."""
    x, d = x[o : o + n], d[o : o + n]
    bb, bbd, xx, bad = 0.0, 0.0, 0.0, 0
    for i in range(n):
        di, xi = np.float64(d[i]), np.float64(x[i])
        b = di * xi
        s = b * b
        bb += s
        bbd += s * di
        xx += xi * xi
        bad |= not (di > 0.0)
    return bb, bbd, xx, bad


def sum_secular(x: Any, d: Any, o: int, n: int, r: float, tau: float, shift: float) -> Sums:
    """Sum the secular terms at one radius."""
    x, d = x[o : o + n], d[o : o + n]
    s, s1, s2 = 0.0, 0.0, 0.0
    for i in range(n):
        di = np.float64(d[i])
        t, t1, t2 = terms(np.float64(x[i]) * di, di, r, tau, shift)
        s += t
        s1 += t1
        s2 += t2
    return Sums(s, s1, s2)


def radial_sums(x: Any, d: Any, o: int, n: int, r: float, a: float, c: float) -> Sums:
    """Return the secular sums at one radius, on the piece with slope ``a - c r``."""
    return sum_secular(x, d, o, n, r, fmax(a - c * r, 0.0), c)


def sum_ratio(x: Any, d: Any, o: int, n: int, ratio: float, unit: float) -> Any:
    """Sum ``u²``, ``u² e``, ``u² e²`` in single precision: ``u = x unit e``, with ``e`` of the ratio."""
    x, d = x[o : o + n], d[o : o + n]
    one, rho, scale = np.float32(1.0), np.float32(ratio), np.float32(unit)
    v, ve, vee = 0.0, 0.0, 0.0
    for first in range(0, n, CHUNK):
        p, q = x[first : first + CHUNK], d[first : first + CHUNK]
        s, t, w = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for i in range(len(p)):
            y = q[i] * rho
            e = y / (y + one)
            u = p[i] * scale * e
            a = u * u
            b = a * e
            s += a
            t += b
            w += b * e
        v += np.float64(s)
        ve += np.float64(t)
        vee += np.float64(w)
    return v, ve, vee


def from_ratio(v: float, ve: float, vee: float, r: float, tau: float, c: float) -> Any:
    """Return ``S``, ``S₁``, ``S₂`` at ``r`` from the sums of ``z²``, ``z² e``, ``z² e²`` at ``r/tau``.

    For ``e = d r/(d r + tau) = z/x``: ``u = z/r`` and ``(d - c)/(d r + tau) = e (1/r + c/tau) - c/tau``.
    """
    p, q = 1.0 / r + c / tau, c / tau
    rr = r * r
    return v / rr, (p * ve - q * v) / rr, (p * (p * vee - 2.0 * q * ve) + q * q * v) / rr


def narrow_fraction(y: float) -> float:
    """Return ``y/(y + 1)`` to 45 bits: a reciprocal in single precision and a step of Newton's method."""
    y = fmin(y, 1e30)
    w = np.float64(np.float32(1.0) / np.float32(y + 1.0))
    return y * (w * (2.0 - (y + 1.0) * w))


def sum_moved(x: Any, d: Any, o: int, n: int, r: float, tau: float) -> Any:
    """Sum ``d (x - z)²`` and ``z²`` at the point ``z = x d r/(d r + tau)``; ``d x²`` and 0 for ``r = 0``."""
    x, d = x[o : o + n], d[o : o + n]
    moved, kept = 0.0, 0.0
    for i in range(n):
        di = np.float64(d[i])
        y = fmin(di * r, 1e300)
        w = np.float64(x[i]) / (y + tau)
        v, z = w * tau, w * y
        moved += di * (v * v)
        kept += z * z
    return moved, kept


def largest(d: Any, o: int, n: int) -> float:
    """Return the largest magnitude."""
    d = d[o : o + n]
    m = 0.0
    for i in range(n):
        v = fabs(np.float64(d[i]))
        m = v if v > m else m
    return m


def is_valid(x: Any, d: Any, o: int, n: int) -> bool:
    """Check every element: finite ``x``, finite ``d > 0``."""
    for i in range(o, o + n):  # noqa: SIM110 (compiled)
        if not (d[i] > 0.0 and d[i] < INF and fabs(x[i]) < INF):
            return False
    return True


def write_group(
    x: Any, xo: int, d: Any, do: int, z: Any, zo: int, n: int, r: float, tau: float, unit: float
) -> None:
    """Write ``z = x d r / (d r + tau)``: of ``x`` as given, whatever the unit of ``r``, ``d`` and ``tau``."""
    x, d, z = x[xo : xo + n], d[do : do + n], z[zo : zo + n]
    if r == 0.0:
        for i in range(n):
            z[i] = 0.0
    elif tau == 0.0:
        for i in range(n):
            z[i] = x[i]
    elif NARROW:
        ratio = r / tau
        for i in range(n):
            z[i] = np.float64(x[i]) * narrow_fraction(np.float64(d[i]) * ratio)
    else:
        for i in range(n):
            z[i] = np.float64(x[i]) * shrunk_fraction(np.float64(d[i]), r, tau)


def precise_product(x: float, d: float) -> Any:
    """Return ``x d`` as a double-double; splitting a metric near the end of the range would overflow."""
    if d > METRIC_CAP:
        x, d = x * 2.0**600, d * 2.0**-600
    return two_product(x, d)


def precise_strength(strength: float, weight: float, step: float, e: int) -> Any:
    """Return ``strength·weight·step·2^e`` as a double-double, where that is within the range of its parts."""
    f, i = math.frexp(strength)
    g, j = math.frexp(weight)
    h, k = math.frexp(step)
    p, low = two_product(f, g)
    q, rest = two_product(p, h)
    shift = min(max(i + j + k + e, -2000), 2000)
    return math.ldexp(q, shift), math.ldexp(rest + low * h, shift)


def zero_margin(x: Any, d: Any, o: int, n: int, strength: float, weight: float, step: float, e: int) -> float:
    """Return ``‖D x‖² - (strength·weight·step·2^e)²`` to about twice the working precision."""
    high, low = 0.0, 0.0
    for i in range(o, o + n):
        p, q = precise_product(np.float64(x[i]), np.float64(d[i]))
        p, q = square(p, q)
        s, t = two_sum(high, p)
        high, low = two_sum(s, t + low + q)
    ph, pl = precise_strength(strength, weight, step, e)
    ph, pl = square(ph, pl)
    s, t = two_sum(high, -ph)
    return s + (t + (low - pl))


def linf_margin(x: Any, d: Any, o: int, n: int, strength: float, weight: float, step: float, e: int) -> float:
    """Return ``‖D x‖₁ - strength·weight·step·2^e`` to about twice the working precision."""
    high, low = 0.0, 0.0
    for i in range(o, o + n):
        p, q = precise_product(fabs(np.float64(x[i])), np.float64(d[i]))
        s, t = two_sum(high, p)
        high, low = two_sum(s, t + low + q)
    ph, pl = precise_strength(strength, weight, step, e)
    s, t = two_sum(high, -ph)
    return s + (t + (low - pl))


def third_order(r: float, f: float, slope: float, final: float) -> float:
    """Return where to evaluate next: the third-order step, unless it is more than twice Newton's."""
    step = f / slope
    low, high = fmin(r - 2.0 * step, r), fmax(r - 2.0 * step, r)
    return final if low < final < high else r - step


def approach(x: Any, d: Any, o: int, n: int, reach: float, task: Task) -> Any:
    """Go towards the root in single precision; returns where, and how many passes it took.

    ``reach`` is ``‖x‖``. Nothing is proved here, and where anything is out of range the root is left to the
    careful search.
    """
    r = task.at
    for passes in range(min(NARROW_PASSES, task.most - 1)):
        tau = task.a - task.c * r
        unit = 1.0 / reach
        ratio = r / tau
        if not (1e-30 < reach < 1e30 and 1e-30 < ratio < 1e30 and tau > 0.0):
            return task.at, passes
        v, ve, vee = sum_ratio(x, d, o, n, ratio, unit)
        scale = reach * reach
        s, s1, s2 = from_ratio(v * scale, ve * scale, vee * scale, r, tau, task.c)
        if not (s > 0.0 and s1 > 0.0 and s2 < INF):
            return task.at, passes + 1
        f, slope, bend = residual(s, s1, s2)
        final, error = final_step(r, f, slope, bend, pace(r, task))
        r = third_order(r, f, slope, final)
        if not task.at <= r <= task.far:
            return task.at, passes + 1
        if error <= NARROW_ERROR * r:
            return r, passes + 1
    return r, min(NARROW_PASSES, task.most - 1)


def find_root(x: Any, d: Any, o: int, n: int, reach: float, task: Task, explain: bool) -> Root:
    """Find the up-crossing of ``f`` in one group; ``reach`` is ``‖x‖``."""
    r, spent = task.at, 0
    if NARROW:
        r, spent = approach(x, d, o, n, reach, task)
    sums = sums_at(x, d, o, n, r, task.a, task.c)
    if NARROW:
        f, slope, _ = residual(sums.s, sums.s1, sums.s2)
        if r > task.at and not (f >= 0.0 or slope > 0.0):
            # Beyond the maximum of f.
            r = task.at
            sums = sums_at(x, d, o, n, r, task.a, task.c)
            spent += 1
    known = begin(task, r, sums, spent)
    if NEEDS_BRACKET:
        known = bracketed(known, sums_at(x, d, o, n, task.far, task.a, task.c), task)
        while known.code == SEEKING:
            known = seek(known, sums_at(x, d, o, n, known.r, task.a, task.c), task)
    while known.code == OPEN:
        known = ask(known, task)
        known = advance(known, sums_at(x, d, o, n, known.r, task.a, task.c), task)
    return finish(known, task, explain)


def solve_radial(
    x: Any, d: Any, o: int, n: int, bb: float, bbd: float, xx: float, step: float, weight: float, ex: int,
    ed: int, pieces: Any, rtol: float, atol: float, max_iterations: int, explain: bool,
) -> Any:  # fmt: skip
    """Solve one group for a radial penalty; as ``radial_rows`` of the array form.

    Data may be scaled: ``x`` in units of ``2^ex``, ``d`` in units of ``2^ed``.

    Returns
    -------
    r, tau, lower, upper, status, iterations, evaluations
        ``r`` and ``tau`` in scaled units.
    """
    iterations, evaluations = 0, 0
    if bb == 0.0:
        return 0.0, 1.0, 0.0, 0.0, ZERO, iterations, evaluations
    norm, reach = sqrt(bb), sqrt(xx)
    count = pieces.shape[0]
    delta = rounding(n + 24.0)
    tau0 = coefficient(step, weight, pieces[0, 2], -(ed + ex))
    f0 = (tau0 - norm) / norm
    trust = 2.0 * delta / fabs(f0) if f0 != 0.0 else 1.0  # relative error of the tangent at zero
    if pieces[0, 1] > 0.0:
        f0 = 1.0
    elif fabs(f0) <= 4.0 * delta and tau0 > 1e-100:
        margin = zero_margin(x, d, o, n, pieces[0, 2], weight, step, -(ed + ex))
        f0 = -margin / (norm * (norm + tau0)) if fabs(margin) > (n + 16.0) * MARGIN_UNIT * bb else 0.0
        trust = 4.0 * delta

    found = f0 >= 0.0
    best_r, best_tau, lower, upper = 0.0, 1.0, 0.0, 0.0
    status = ZERO
    objective = NAN  # of the best so far, once it is needed
    best = 0.0, 0.0, INF, 0.0, 0.0  # p(start), start, end, slope and curvature of the piece of the best
    converged, tie, previous_low = True, False, False
    # Whether the choice does not hang on a root that was not found well enough; else, or in a tie, where the
    # radii of those that were not chosen may be.
    settled, least, most = True, INF, 0.0
    # p where the piece begins; where that is no number, what the pieces before add up to.
    base, a, c = 0.0, 0.0, 0.0
    if pieces[0, 1] > 0.0:
        base = coefficient(step, weight, pieces[0, 1], -(ed + 2 * ex))
    for k in range(count):
        rho = math.ldexp(pieces[k, 0], -ex)
        if rho > reach:
            break
        if k > 0:
            before = math.ldexp(pieces[k - 1, 0], -ex)
            base += rise(rho, before, rho, a, c)
            if PRODUCT_LOW < pieces[k, 1] < PRODUCT_HIGH:
                base = coefficient(step, weight, pieces[k, 1], -(ed + 2 * ex))
        end = math.ldexp(pieces[k + 1, 0], -ex) if k + 1 < count else INF
        here = end > reach
        a = coefficient(step, weight, pieces[k, 2], -(ed + ex))
        c = coefficient(step, weight, pieces[k, 3], -ed)
        r, tau, low, high, ok, kind = 0.0, 0.0, 0.0, 0.0, True, UNSHRUNK
        if pieces[k, 2] == 0.0 and pieces[k, 3] == 0.0:
            previous_low = True
            if not here:
                continue
            r, low, high = reach, reach * (1.0 - 8.0 * n * UNIT), reach * (1.0 + 8.0 * n * UNIT)
        else:
            kind = CONVERGED
            if k == 0:
                f_at, slope = f0, (bbd - c * bb) / (bb * norm)
            else:
                start = sums_at(x, d, o, n, rho, a, c)
                f_at, slope, _ = residual(start.s, start.s1, start.s2)
                evaluations += 1
            knot = k > 0 and f_at >= 0.0 and previous_low
            if knot:
                r, low, high = rho, rho * (1.0 - 8.0 * UNIT), rho * (1.0 + 8.0 * UNIT)
            elif f_at >= 0.0:
                previous_low = False
                continue
            else:
                previous_low = True
                limit = fmin(end, reach) * (1.0 + (n + 8.0) * UNIT)
                sure = here and a - c * reach >= 0.0
                if slope <= 0.0:
                    continue
                at = rho - f_at / slope
                floor = rho if k > 0 else fmin(at * fmax(1.0 - trust, 0.0), limit)
                if at > limit and not sure:
                    continue
                # Where candidates will be compared, the root must be good enough to compare.
                contested = found or not here
                # Read at r = 0 only.
                dmax = largest(d, o, n) if explain and at <= 0.0 else BEYOND
                task = Task(
                    a, c, floor, fmin(at, limit), limit, not sure, rtol, math.ldexp(atol, -ex),
                    RIVAL_RTOL if contested else 1.0, float(n), noise(n), rounding(n + roundings(c, 0)),
                    dmax, dmax, max_iterations,
                )  # fmt: skip
                root = find_root(x, d, o, n, reach, task, explain)
                iterations += root.iterations
                evaluations += root.evaluations
                if not root.exists:
                    if root.unknown:
                        settled, least, most = False, fmin(least, root.lower), fmax(most, root.upper)
                    continue
                r, low, high, ok = root.r, root.lower, root.upper, root.converged
                previous_low = False
            tau = fmax(a - c * r, 0.0)
        if not found:
            wins = True
            objective = NAN
        else:
            if objective != objective:
                moved, kept = sum_moved(x, d, o, n, best_r, best_tau)
                objective = best[0] + rise(sqrt(kept), best[1], best[2], best[3], best[4]) + 0.5 * moved
            moved, kept = 0.0, xx
            if tau > 0.0:
                moved, kept = sum_moved(x, d, o, n, r, tau)
            value = base + rise(sqrt(kept), rho, end, a, c) + 0.5 * moved
            same = fabs(value - objective) <= 8.0 * UNIT * (value + objective)
            wins = value < objective and not same
            tie = (tie and not wins) or same
            # The loser's objective is an upper bound of that at its exact root.
            unsure = not (converged if wins else ok)
            settled = settled and not unsure
            if same or unsure:
                least, most = fmin(least, fmin(low, lower)), fmax(most, fmax(high, upper))
            if wins:
                objective = value
        if wins:
            best_r, best_tau, lower, upper, status, converged = r, tau, low, high, kind, ok
            best = base, rho, end, a, c
            found = True
    if status == CONVERGED and best_tau == 0.0:
        status = UNSHRUNK
    if tie:
        status = TIE
    if not (converged and settled):
        status = MAX_ITERATIONS
    if tie or not settled:
        lower, upper = fmin(lower, least), fmax(upper, most)
    return best_r, best_tau, lower, upper, status, iterations, evaluations


def exponent(v: float) -> int:
    """Return ``e`` with ``2^e <= |v| < 2^(e + 1)``; -1 for zero."""
    return math.frexp(v)[1] - 1


def coefficient(step: float, weight: float, value: float, e: int) -> float:
    """Return ``step·weight·value·2^e`` to two roundings, at most the cap; parts of it may leave the range."""
    p = step * weight
    q = p * value
    if not (e == 0 and PRODUCT_LOW < p < PRODUCT_HIGH and PRODUCT_LOW < fabs(q) < PRODUCT_HIGH):
        f, i = math.frexp(step)
        g, j = math.frexp(weight)
        h, k = math.frexp(value)
        q = math.ldexp(f * g * h, min(max(i + j + k + e, -2000), 2000))
    return fmax(fmin(q, CAP), -CAP)


def quotient(first: float, second: float, d: float) -> float:
    """Return ``first·second/d``, whose product may leave the range."""
    p = first * second
    if PRODUCT_LOW < p < PRODUCT_HIGH:
        return p / d
    f, i = math.frexp(first)
    g, j = math.frexp(second)
    h, k = math.frexp(d)
    return math.ldexp(f * g / h, min(max(i + j - k, -4000), 4000))


def rescale(x: Any, d: Any, o: int, n: int, xs: Any, ds: Any) -> Any:
    """Copy a group in units in which ``max|x|`` and ``max|b|`` are about 1.

    The metric's unit is that of the products: elements of it that meet no ``x`` may be beyond all bounds.

    Returns
    -------
    ex, ed, least, apart
        The exponents of the units and, in them, of the least metric of an element that is not zero; and
        whether elements are lost that may count.
    """
    ex, eb = exponent(largest(x, o, n)), -5000
    for i in range(n):
        if x[o + i] != 0.0:
            eb = max(eb, exponent(np.float64(x[o + i])) + exponent(np.float64(d[o + i])))
    ed = eb - ex if eb > -5000 else exponent(largest(d, o, n))
    least, most = 5000, -5000
    for i in range(n):
        if x[o + i] != 0.0:
            off = exponent(np.float64(d[o + i])) - ed
            least, most = min(least, off), max(most, off)
        xs[i] = math.ldexp(np.float64(x[o + i]), -ex)
        ds[i] = scaled_metric(np.float64(d[o + i]), ed)
    return ex, ed, least, least <= APART_LOW or most >= APART_HIGH


def is_faint(r: float, tau: float, least: int) -> bool:
    """Return whether at a root some ``d r`` may be lost, for ``d`` of no less than about ``2^least``."""
    return r > 0.0 and tau > 0.0 and exponent(r) + least < FAINT


def underflows(step: float, weight: float, pieces: Any, reach: float) -> bool:
    """Return whether a value, slope or curvature is too small to be exact, as it is given, or a start."""
    eta, found = step * weight, False
    for k in range(pieces.shape[0]):
        found |= k > 0 and exponent(pieces[k, 0]) < exponent(reach) + START_LOW
        for j in range(1, 4):
            found |= pieces[k, j] != 0.0 and fabs(eta * pieces[k, j]) < PRODUCT_LOW
    return found and weight > 0.0


def scaled_metric(d: float, ed: int) -> float:
    """Return an element of the metric in units of ``2^ed``, at most the cap."""
    return fmin(math.ldexp(d, -ed), METRIC_CAP)


def shrink_group(x: Any, d: Any, n: int, step: float, threshold: float, nonnegative: bool) -> bool:
    """Apply the elementwise part in place: soft threshold, negative elements to zero if asked.

    Returns whether any element changed.
    """
    changed = False
    for i in range(n):
        v = x[i]
        if threshold > 0.0:
            size = fabs(v) - quotient(step, threshold, d[i])
            v = 0.0 if size <= 0.0 else (size if v > 0.0 else -size)
        v = 0.0 if nonnegative and v < 0.0 else v
        changed |= v != x[i]
        x[i] = v
    return changed


def locate(g: int, shape: Any) -> int:
    """Return where group ``g`` begins; ``shape`` as in :func:`solve_gathered`."""
    return (g // shape[2]) * shape[1] * shape[2] * shape[3] + (g % shape[2]) * shape[3]


def gather(source: Any, scratch: Any, g: int, shape: Any, indptr: Any, indices: Any, n: int) -> None:
    """Copy a group to ``scratch``: by index where there are offsets, else the segments of a regular group."""
    if len(indptr):
        first = indptr[g]
        for j in range(n):
            scratch[j] = source[indices[first + j]]
        return
    begin, stride, run = locate(g, shape), shape[2] * shape[3], shape[3]
    for k in range(shape[1]):
        segment = source[begin + k * stride : begin + k * stride + run]
        for j in range(run):
            scratch[k * run + j] = segment[j]


def scatter(scratch: Any, out: Any, g: int, shape: Any, indptr: Any, indices: Any, n: int) -> None:
    """Undo :func:`gather`."""
    if len(indptr):
        first = indptr[g]
        for j in range(n):
            out[indices[first + j]] = scratch[j]
        return
    begin, stride, run = locate(g, shape), shape[2] * shape[3], shape[3]
    for k in range(shape[1]):
        segment = out[begin + k * stride : begin + k * stride + run]
        for j in range(run):
            segment[j] = scratch[k * run + j]


def solve_one(
    x: Any, d: Any, o: int, n: int, step: float, weight: float, pieces: Any, rtol: float, atol: float,
    max_iterations: int, explain: bool, xw: Any, dw: Any, xv: Any, dv: Any,
) -> Any:  # fmt: skip
    """Solve one group; ``xw, dw`` are scratch and ``xv, dv`` the same memory, read-only.

    Returns
    -------
    r, tau, lower, upper, status, iterations, evaluations, scaled, ex, ed
        Where ``scaled``, ``r`` and ``tau`` and the bracket hold for the scratch: for ``x`` in units of
        ``2^ex`` and ``d`` in units of ``2^ed``.
    """
    bb, bbd, xx, bad = sum_start(x, d, o, n)
    in_range = SAFE_LOW < bb < SAFE_HIGH and SAFE_LOW < bbd < SAFE_HIGH and SAFE_LOW < xx < SAFE_HIGH
    if bad or not (in_range or is_valid(x, d, o, n)):
        return 0.0, 0.0, 0.0, 0.0, BAD, 0, 0, False, 0, 0
    r, tau, low, high, code, its, evs = 0.0, 0.0, 0.0, 0.0, APART, 0, 0
    # The slope of the equation at zero is in range too.
    in_range = in_range and bbd < STEEPEST * bb * sqrt(bb)
    if not RESCALES or (in_range and not underflows(step, weight, pieces, sqrt(xx))):
        r, tau, low, high, code, its, evs = solve_group(
            x, d, o, n, bb, bbd, xx, step, weight, 0, 0, pieces, rtol, atol, max_iterations, explain
        )
        if RESCALES and r > 0.0 and tau > 0.0 and tau * r < TOGETHER * sqrt(xx):
            code = APART
    if RESCALES:  # noqa: SIM102 (a constant: the branch is not compiled where it is false)
        if code == APART:
            ex, ed, least, apart = rescale(x, d, o, n, xw, dw)
            for k in range(1, pieces.shape[0]):
                apart |= exponent(pieces[k, 0]) - ex < START_LOW
            if not apart:
                bb, bbd, xx, bad = sum_start(xv, dv, FIRST, n)
                r, tau, low, high, code, its, evs = solve_group(
                    xv, dv, FIRST, n, bb, bbd, xx, step, weight, ex, ed, pieces, rtol, atol, max_iterations,
                    explain,
                )  # fmt: skip
                code = APART if is_faint(r, tau, least) else code
            return r, tau, low, high, code, its, evs, True, ex, ed
    return r, tau, low, high, code, its, evs, False, 0, 0


def downwards(v: float, e: int) -> float:
    """Return a lower bound of ``v 2^e`` for ``v >= 0``, its rounding below the normal numbers included."""
    w = math.ldexp(v, e)
    return w if math.ldexp(w, -e) <= v else w - TINIEST


def upwards(v: float, e: int) -> float:
    """Return an upper bound of ``v 2^e`` for ``v >= 0``, its rounding below the normal numbers included."""
    w = math.ldexp(v, e)
    return w if math.ldexp(w, -e) >= v else w + TINIEST


def solve_rows(
    x: Any, d: Any, z: Any, n: int, begin: int, finish: int, steps: Any, weights: Any, pieces: Any,
    rtol: float, atol: float, max_iterations: int, explain: bool, radius: Any, lower: Any, upper: Any,
    status: Any, iterations: Any, evaluations: Any, apart: Any, xw: Any, dw: Any, xv: Any, dv: Any,
) -> int:  # fmt: skip
    """Solve the contiguous groups ``begin … finish - 1`` of ``n`` elements, one after the other.

    Those that spread too far are marked in ``apart`` and left alone. ``xw, dw`` are scratch for a group,
    ``xv, dv`` the same memory. Returns the first invalid group, or -1.
    """
    for g in range(begin, finish):
        o = g * n
        r, tau, low, high, code, its, evs, scaled, ex, _ = solve_one(
            x, d, o, n, steps[g if len(steps) > 1 else 0], weights[g if len(weights) > 1 else 0], pieces,
            rtol, atol, max_iterations, explain, xw, dw, xv, dv,
        )  # fmt: skip
        if code == BAD:
            return g
        if code == APART:
            apart[g] = True
            continue
        if scaled:
            # Of x itself: scaling may have lost elements far below the largest.
            write_group(x, o, dv, FIRST, z, o, n, r, tau, math.ldexp(1.0, ex))
        else:
            write_group(x, o, d, o, z, o, n, r, tau, 1.0)
        if explain:
            radius[g], lower[g], upper[g] = math.ldexp(r, ex), downwards(low, ex), upwards(high, ex)
            status[g], iterations[g], evaluations[g] = code, its, evs
    return -1


def solve_gathered(
    x: Any, d: Any, z: Any, dense: bool, shape: Any, indptr: Any, indices: Any, chosen: Any, begin: int,
    finish: int, steps: Any, weights: Any, threshold: float, nonnegative: bool, pieces: Any, rtol: float,
    atol: float, max_iterations: int, explain: bool, radius: Any, lower: Any, upper: Any, status: Any,
    iterations: Any, evaluations: Any, apart: Any, xw: Any, dw: Any, xv: Any, dv: Any,
) -> int:  # fmt: skip
    """Solve the groups ``begin … finish - 1`` (of ``chosen``, if there are any) on copies in float64.

    ``shape`` is (outer kept, outer reduced, inner kept, inner reduced); ``indptr`` and ``indices``, where not
    empty, replace it. Without ``dense`` the metric is the one number ``d[0]``. Groups that spread too far are
    marked in ``apart`` and left alone. ``xw, dw`` are scratch for the largest group, ``xv, dv`` the same
    memory. Returns the first invalid group, or -1.
    """
    shrinks = threshold > 0.0 or nonnegative
    n = shape[1] * shape[3]
    shrunk = False
    for k in range(begin, finish):
        g = chosen[k] if len(chosen) else k
        if len(indptr):
            n = indptr[g + 1] - indptr[g]
        r, low, high, code, its, evs, ex = 0.0, 0.0, 0.0, ZERO, 0, 0, 0
        if n > 0:
            step = steps[g if len(steps) > 1 else 0]
            weight = weights[g if len(weights) > 1 else 0]
            gather(x, xw, g, shape, indptr, indices, n)
            if dense:
                gather(d, dw, g, shape, indptr, indices, n)
            else:
                dw[:n] = d[0]
            if shrinks:
                if not is_valid(xv, dv, FIRST, n):
                    return g
                shrunk = shrink_group(xw, dw, n, step, threshold, nonnegative)
            r, tau, low, high, code, its, evs, scaled, ex, ed = solve_one(
                xv, dv, FIRST, n, step, weight, pieces, rtol, atol, max_iterations, explain, xw, dw, xv, dv
            )
            if code == BAD:
                return g
            if code == APART:
                apart[g] = True
                continue
            if RESCALES:  # noqa: SIM102 (a constant: the branch is not compiled where it is false)
                if scaled:
                    # The point itself once more: scaling may have lost elements far below the largest.
                    gather(x, xw, g, shape, indptr, indices, n)
                    if shrinks:
                        if dense:
                            gather(d, dw, g, shape, indptr, indices, n)
                        else:
                            dw[:n] = d[0]
                        shrink_group(xw, dw, n, step, threshold, nonnegative)
                        for i in range(n):
                            dw[i] = scaled_metric(dw[i], ed)
            write_group(xv, FIRST, dv, FIRST, xw, FIRST, n, r, tau, math.ldexp(1.0, ex))
            scatter(xw, z, g, shape, indptr, indices, n)
            if shrunk and code == UNSHRUNK:
                code = CONVERGED
        if explain:
            radius[g], lower[g], upper[g] = math.ldexp(r, ex), downwards(low, ex), upwards(high, ex)
            status[g], iterations[g], evaluations[g] = code, its, evs
    return -1


def shrink_all(
    x: Any,
    d: Any,
    z: Any,
    dense: bool,
    begin: int,
    finish: int,
    steps: Any,
    threshold: float,
    nonnegative: bool,
) -> int:
    """Apply the elementwise part to ``begin … finish - 1``; returns the first invalid element, or -1."""
    for i in range(begin, finish):
        v = np.float64(x[i])
        di = np.float64(d[i if dense else 0])
        if not (di > 0.0 and di < INF and fabs(v) < INF):
            return i
        size = fabs(v)
        if threshold > 0.0:
            size -= quotient(steps[i if len(steps) > 1 else 0], threshold, di)
        size = 0.0 if size < 0.0 else size
        z[i] = size if v > 0.0 else (0.0 if nonnegative else 0.0 - size)
    return -1


# ----------------------------------------------------------------------------------------------------
# The ℓ∞ norm: the same driver with another equation.


def sum_clipped(x: Any, d: Any, o: int, n: int, t: float, strength: float, _: float) -> Sums:
    """Sum ``d (|x| - t)₊`` and its slope, in units of ``strength``."""
    x, d = x[o : o + n], d[o : o + n]
    s, s1 = 0.0, 0.0
    for i in range(n):
        over = fabs(np.float64(x[i])) - t
        di = np.float64(d[i]) if over > 0.0 else 0.0
        s += di * over
        s1 += di
    return Sums(s / strength, s1 / strength, 0.0)


def clipped_sums(x: Any, d: Any, o: int, n: int, t: float, a: float, _: float) -> Sums:
    """Return the clipped sums at one radius, in units of the strength ``a``."""
    return sum_clipped(x, d, o, n, t, a, 0.0)


def solve_linf(
    x: Any, d: Any, o: int, n: int, bb: float, bbd: float, xx: float, step: float, weight: float, ex: int,
    ed: int, pieces: Any, rtol: float, atol: float, max_iterations: int, explain: bool,
) -> Any:  # fmt: skip
    """Solve one group for the ℓ∞ norm of strength ``pieces[0, 2]``; returns as ``solve_radial``."""
    strength = coefficient(step, weight, pieces[0, 2], -(ed + ex))
    top = largest(x, o, n)
    if top == 0.0:
        return 0.0, 1.0, 0.0, 0.0, ZERO, 0, 0
    if strength < NEGLIGIBLE:
        low = top if weight == 0.0 or pieces[0, 2] == 0.0 else top * (1.0 - 8.0 * UNIT)
        return top, 0.0, low, top, UNSHRUNK, 0, 0
    start = sums_at(x, d, o, n, 0.0, strength, 0.0)
    if not start.s1 < INF:
        return 0.0, 1.0, 0.0, 0.0, APART, 0, 0
    over = start.s - 1.0
    delta = rounding(n + ROUNDINGS)
    trust = 2.0 * delta * fmax(1.0, 1.0 / fabs(over)) if over != 0.0 else 1.0
    if fabs(over) <= 4.0 * delta and strength > 1e-100:
        over = linf_margin(x, d, o, n, pieces[0, 2], weight, step, -(ed + ex)) / strength
        over = over if fabs(over) > (n + 16.0) * MARGIN_UNIT else 0.0
        trust = 4.0 * delta
    if over <= 0.0:
        return 0.0, 1.0, 0.0, 0.0, ZERO, 0, 0
    at = over / start.s1
    task = Task(
        strength, 0.0, at * fmax(1.0 - trust, 0.0), fmin(at, top), top, False, rtol, math.ldexp(atol, -ex),
        1.0, float(n), noise(n), delta, 0.0, 0.0, max_iterations,
    )  # fmt: skip
    root = find_root(x, d, o, n, top, task, explain)
    status = CONVERGED if root.converged else MAX_ITERATIONS
    return root.r, 1.0, root.lower, root.upper, status, root.iterations, root.evaluations


def clip_group(
    x: Any, xo: int, d: Any, do: int, z: Any, zo: int, n: int, r: float, tau: float, unit: float
) -> None:
    """Write ``z = sign(x) min(|x|, unit r)``."""
    most = r * unit
    for i in range(n):
        v = np.float64(x[xo + i])
        z[zo + i] = fmin(fmax(v, -most), most)
