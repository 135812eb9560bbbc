"""Scalar source of the compiled kernels: loops over a group's elements, and what their sums decide.

Plain Python, rebuilt for a target by :mod:`proxlab.backends.numba_cpu`. A group is ``x[o:o + n]``; slices
keep indices nonnegative, which is what lets the compiler vectorise.
The vectorised form in :mod:`proxlab.backends.array_api` is the specification.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import math
from typing import Any

import numpy as np

from proxlab.backends.kernel_records import (
    Data,
    Elements,
    Found,
    Layout,
    Scale,
    Scratch,
    Shrink,
    Start,
    Steps,
)
from proxlab.backends.records import GroupResults
from proxlab.bounds import UNIT
from proxlab.choose import (
    GIVEN,
    Group,
    Limits,
    Part,
    at_zero,
    clipped_at_zero,
    clipped_sharpened,
    clipped_task,
    is_close,
    met,
    offer,
    plan,
    residual_at_zero,
    settle,
    sharpened,
    whole,
)
from proxlab.double_double import square, two_product, two_sum
from proxlab.equations import Sums, Task
from proxlab.equations.clipped import NEGLIGIBLE
from proxlab.equations.radial import BEYOND, pace, residual, rise, shrunk_fraction, terms
from proxlab.rootfinders import Newton, Status
from proxlab.scalar import any_order, fabs, fmax, fmin, sqrt
from proxlab.search import (
    OPEN,
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

# Set by the target, beside what the search leaves to it: whether sums may leave float64's range.
NEEDS_BRACKET = Newton.needs_bracket
RESCALES = True
# Set by the target: whether single precision finds where to start; its chunks of a sum, the most passes it
# takes, and the relative error at which it is good enough.
NARROW = False
CHUNK = 4096
NARROW_PASSES = 4
NARROW_ERROR = 2.0**-6
# The range in which single precision is trusted.
NARROW_LOW, NARROW_HIGH = 1e-30, 1e30
# Set by the target: the kernel that Python calls, and what makes its arguments of their parts.
kernel: Any = None
grouped: Any = None


def call_grouped(*parts: Any) -> Any:
    """Call the kernel with the parts of its records."""
    return kernel(*grouped(parts))


@any_order
def sum_start(e: Elements) -> Start:
    """Sum what the zero test and the tangent at zero need: ``b²``, ``b² d``, ``x²``; find invalid metrics."""
    n = e.n
    x, d = e.x[e.o : e.o + n], e.d[e.o : e.o + n]
    bb, bbd, xx, bad = 0.0, 0.0, 0.0, 0
    for i in range(n):
        di, xi = np.float64(d[i]), np.float64(x[i])
        b = di * xi
        s = b * b
        bb += s
        bbd += s * di
        xx += xi * xi
        bad |= not (di > 0.0)
    return Start(bb, bbd, xx, bad)


@any_order
def sum_secular(e: Elements, r: float, tau: float, shift: float) -> Sums:
    """Sum the secular terms at one radius."""
    n = e.n
    x, d = e.x[e.o : e.o + n], e.d[e.o : e.o + n]
    s, s1, s2 = 0.0, 0.0, 0.0
    for i in range(n):
        di = np.float64(d[i])
        t, t1, t2 = terms(np.float64(x[i]) * di, di, r, tau, shift)
        s += t
        s1 += t1
        s2 += t2
    return Sums(s, s1, s2)


def radial_sums(e: Elements, r: float, a: float, c: float) -> Sums:
    """Return the secular sums at one radius, on the piece with slope ``a - c r``."""
    return sum_secular(e, r, fmax(a - c * r, 0.0), c)


@any_order
def sum_ratio(e: Elements, ratio: float, unit: float) -> Any:
    """Sum ``u²``, ``u² e``, ``u² e²`` in single precision: ``u = x unit e``, with ``e`` of the ratio."""
    n = e.n
    x, d = e.x[e.o : e.o + n], e.d[e.o : e.o + n]
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


@any_order
def narrow_fraction(y: float) -> float:
    """Return ``y/(y + 1)`` to 45 bits: a reciprocal in single precision and a step of Newton's method."""
    y = fmin(y, 1e30)
    w = np.float64(np.float32(1.0) / np.float32(y + 1.0))
    return y * (w * (2.0 - (y + 1.0) * w))


@any_order
def sum_moved(e: Elements, r: float, tau: float) -> Any:
    """Sum ``d (x - z)²`` and ``z²`` at the point ``z = x d r/(d r + tau)``; ``d x²`` and 0 for ``r = 0``."""
    n = e.n
    x, d = e.x[e.o : e.o + n], e.d[e.o : e.o + n]
    moved, kept = 0.0, 0.0
    for i in range(n):
        di = np.float64(d[i])
        y = fmin(di * r, 1e300)
        w = np.float64(x[i]) / (y + tau)
        v, z = w * tau, w * y
        moved += di * (v * v)
        kept += z * z
    return moved, kept


def largest_metric(e: Elements) -> float:
    """Return the largest element of the metric."""
    return largest(e.d, e.o, e.n)


def largest_point(e: Elements) -> float:
    """Return the largest magnitude of the point."""
    return largest(e.x, e.o, e.n)


def largest(d: Any, o: int, n: int) -> float:
    """Return the largest magnitude."""
    d = d[o : o + n]
    m = 0.0
    for i in range(n):
        v = fabs(np.float64(d[i]))
        m = v if v > m else m
    return m


def is_valid(e: Elements) -> bool:
    """Check every element: finite ``x``, finite ``d > 0``."""
    for i in range(e.o, e.o + e.n):  # noqa: SIM110 (compiled)
        if not (e.d[i] > 0.0 and e.d[i] < INF and fabs(e.x[i]) < INF):
            return False
    return True


def write_group(e: Elements, z: Any, zo: int, r: float, tau: float, unit: float) -> None:
    """Write ``z = x d r / (d r + tau)``: of ``x`` as given, whatever the unit of ``r``, ``d`` and ``tau``."""
    n = e.n
    x, d, z = e.x[e.o : e.o + n], e.d[e.o : e.o + n], z[zo : zo + n]
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


def precise_strength(strength: float, scale: Scale) -> Any:
    """Return a strength in the group's units as a double-double, where its parts can hold it."""
    f, i = math.frexp(strength)
    g, j = math.frexp(scale.weight)
    h, k = math.frexp(scale.step)
    p, low = two_product(f, g)
    q, rest = two_product(p, h)
    shift = min(max(i + j + k - scale.ed - scale.ex, -2000), 2000)
    return math.ldexp(q, shift), math.ldexp(rest + low * h, shift)


def zero_margin(e: Elements, strength: float, scale: Scale) -> float:
    """Return ``‖D x‖² - strength²`` to about twice the working precision, in the group's units."""
    high, low = 0.0, 0.0
    for i in range(e.o, e.o + e.n):
        p, q = precise_product(np.float64(e.x[i]), np.float64(e.d[i]))
        p, q = square(p, q)
        s, t = two_sum(high, p)
        high, low = two_sum(s, t + low + q)
    ph, pl = precise_strength(strength, scale)
    ph, pl = square(ph, pl)
    s, t = two_sum(high, -ph)
    return s + (t + (low - pl))


def linf_margin(e: Elements, strength: float, scale: Scale) -> float:
    """Return ``‖D x‖₁ - strength`` to about twice the working precision, in the group's units."""
    high, low = 0.0, 0.0
    for i in range(e.o, e.o + e.n):
        p, q = precise_product(fabs(np.float64(e.x[i])), np.float64(e.d[i]))
        s, t = two_sum(high, p)
        high, low = two_sum(s, t + low + q)
    ph, pl = precise_strength(strength, scale)
    s, t = two_sum(high, -ph)
    return s + (t + (low - pl))


def third_order(r: float, f: float, slope: float, final: float) -> float:
    """Return where to evaluate next: the third-order step, unless it is more than twice Newton's."""
    step = f / slope
    low, high = fmin(r - 2.0 * step, r), fmax(r - 2.0 * step, r)
    return final if low < final < high else r - step


def approach(e: Elements, reach: float, task: Task) -> Any:
    """Go towards the root in single precision; returns where, and how many passes it took.

    ``reach`` is ``‖x‖``. Nothing is proved here, and where anything is out of range the root is left to the
    careful search.
    """
    r = task.at
    for passes in range(min(NARROW_PASSES, task.most - 1)):
        tau = task.a - task.c * r
        unit = 1.0 / reach
        ratio = r / tau
        if not (NARROW_LOW < reach < NARROW_HIGH and NARROW_LOW < ratio < NARROW_HIGH and tau > 0.0):
            return task.at, passes
        v, ve, vee = sum_ratio(e, ratio, unit)
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


def find_root(e: Elements, reach: float, task: Task, explain: bool) -> Root:
    """Find the up-crossing of ``f`` in one group; ``reach`` is ``‖x‖``."""
    r, spent = task.at, 0
    if NARROW:
        r, spent = approach(e, reach, task)
    sums = sums_at(e, r, task.a, task.c)
    if NARROW:
        f, slope, _ = residual(sums.s, sums.s1, sums.s2)
        if r > task.at and not (f >= 0.0 or slope > 0.0):
            # Beyond the maximum of f.
            r = task.at
            sums = sums_at(e, r, task.a, task.c)
            spent += 1
    known = begin(task, r, sums, spent)
    if NEEDS_BRACKET:
        known = bracketed(known, sums_at(e, task.far, task.a, task.c), task)
        while known.code == SEEKING:
            known = seek(known, sums_at(e, known.r, task.a, task.c), task)
    while known.code == OPEN:
        known = ask(known, task)
        known = advance(known, sums_at(e, known.r, task.a, task.c), task)
    return finish(known, task, explain)


def solve_radial(e: Elements, start: Start, scale: Scale, pieces: Any, limits: Limits) -> Found:
    """Solve one group for a radial penalty, given its sums at zero: the global minimiser."""
    if start.bb == 0.0:
        return Found(0.0, 1.0, 0.0, 0.0, ZERO, 0, 0)
    size, norm, reach = float(e.n), sqrt(start.bb), sqrt(start.xx)
    strength = coefficient(scale, pieces[0, 2], 1)
    f0, trust = residual_at_zero(strength, norm, size)
    if pieces[0, 1] > 0.0:
        f0 = 1.0
    elif is_close(f0, strength, size):
        f0, trust = sharpened(zero_margin(e, pieces[0, 2], scale), strength, start.bb, norm, size)
    group = Group(size, noise(size), norm, reach, f0, trust)
    choice = at_zero(group, NAN, 0)
    part = choice.part
    below, iterations, evaluations = False, 0, 0
    for k in range(pieces.shape[0]):
        part = next_part(part, pieces, k, scale)
        if part.start > reach:
            break
        candidate = whole(group, part)
        if pieces[k, 2] == 0.0 and pieces[k, 3] == 0.0:
            below = True
        else:
            f, slope = f0, (start.bbd - part.c * start.bb) / (start.bb * norm)
            if k > 0:
                sums = sums_at(e, part.start, part.a, part.c)
                f, slope, _ = residual(sums.s, sums.s1, sums.s2)
                evaluations += 1
            # Read at r = 0 only.
            at_zero_too = f < 0.0 and slope > 0.0 and part.start - f / slope <= 0.0
            dmax = largest_metric(e) if limits.explain and at_zero_too else BEYOND
            todo = plan(choice, group, part, f, slope, k == 0, below, limits, dmax)
            root = Root(False, 0.0, 0.0, 0.0, False, False, 0, 0)
            if todo.search:
                root = find_root(e, reach, todo.task, limits.explain)
            iterations += root.iterations
            evaluations += root.evaluations
            candidate, below = met(todo.knot, root, part), f < 0.0 and not root.exists
        if not (candidate.exists or candidate.unknown):
            continue
        if not choice.found:
            choice = offer(choice, candidate, part, NAN, NAN)
        else:
            objective = choice.objective
            if objective != objective:
                objective = objective_at(e, choice.r, choice.tau, choice.part, start.xx)
            value = objective_at(e, candidate.r, candidate.tau, part, start.xx)
            choice = offer(choice, candidate, part, objective, value)
    answer = settle(choice)
    return Found(answer.r, answer.tau, answer.lower, answer.upper, answer.status, iterations, evaluations)


def next_part(before: Part, pieces: Any, k: int, scale: Scale) -> Part:
    """Return piece ``k`` of the slope in the group's units, after the one before."""
    start = math.ldexp(pieces[k, 0], -scale.ex)
    end = math.ldexp(pieces[k + 1, 0], -scale.ex) if k + 1 < pieces.shape[0] else INF
    # p where the piece begins; where that is no number, what the pieces before add up to.
    height = before.height + rise(start, before.start, start, before.a, before.c)
    if (k == 0 and pieces[k, 1] > 0.0) or (k > 0 and PRODUCT_LOW < pieces[k, 1] < PRODUCT_HIGH):
        height = coefficient(scale, pieces[k, 1], 2)
    return Part(start, end, coefficient(scale, pieces[k, 2], 1), coefficient(scale, pieces[k, 3], 0), height)


def objective_at(e: Elements, r: float, tau: float, part: Part, xx: float) -> float:
    """Return ``η p(‖z‖) + ½‖z - x‖²_D`` at the point of the path with radius ``r`` and multiplier ``tau``."""
    moved, kept = 0.0, xx
    if tau > 0.0:
        moved, kept = sum_moved(e, r, tau)
    return part.height + rise(sqrt(kept), part.start, part.end, part.a, part.c) + 0.5 * moved


def exponent(v: float) -> int:
    """Return ``e`` with ``2^e <= |v| < 2^(e + 1)``; -1 for zero."""
    return math.frexp(v)[1] - 1


def coefficient(scale: Scale, value: float, powers: int) -> float:
    """Return ``step·weight·value`` in units of ``2^(ed + powers·ex)`` to two roundings, at most the cap.

    Parts of it may leave the range.
    """
    e = -(scale.ed + powers * scale.ex)
    p = scale.step * scale.weight
    q = p * value
    if not (e == 0 and PRODUCT_LOW < p < PRODUCT_HIGH and PRODUCT_LOW < fabs(q) < PRODUCT_HIGH):
        f, i = math.frexp(scale.step)
        g, j = math.frexp(scale.weight)
        h, k = math.frexp(value)
        q = math.ldexp(f * g * h, min(max(i + j + k + e, -2000), 900))  # beyond the cap, not of the range
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


def rescale(e: Elements, xs: Any, ds: Any) -> Any:
    """Copy a group in units in which ``max|x|`` and ``max|b|`` are about 1.

    The metric's unit is that of the products: elements of it that meet no ``x`` may be beyond all bounds.

    Returns
    -------
    ex, ed, least, apart
        The exponents of the units and, in them, of the least metric of an element that is not zero; and
        whether elements are lost that may count.
    """
    x, d, o, n = e
    ex, eb = exponent(largest_point(e)), -5000
    for i in range(n):
        if x[o + i] != 0.0:
            eb = max(eb, exponent(np.float64(x[o + i])) + exponent(np.float64(d[o + i])))
    ed = eb - ex if eb > -5000 else exponent(largest_metric(e))
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


def starts_apart(pieces: Any, ex: int) -> bool:
    """Return whether a piece begins where squares leave the range, in units of ``2^ex``."""
    found = False
    for k in range(1, pieces.shape[0]):
        found |= exponent(pieces[k, 0]) - ex < START_LOW
    return found


def underflows(step: float, weight: float, pieces: Any, reach: float) -> bool:
    """Return whether a value, slope or curvature is too small to be exact, as it is given, or a start."""
    eta, found = step * weight, False
    for k in range(pieces.shape[0]):
        found |= k > 0 and pieces[k, 0] < reach * 2.0**START_LOW
        for j in range(1, 4):
            found |= pieces[k, j] != 0.0 and fabs(eta * pieces[k, j]) < PRODUCT_LOW
    return found and weight > 0.0


def is_tame(start: Start, step: float, weight: float, pieces: Any) -> bool:
    """Return whether sums at zero, the slope of the equation there and its numbers are in range."""
    safe = is_safe(start.bb) and is_safe(start.bbd) and is_safe(start.xx)
    steep = start.bbd < STEEPEST * start.bb * sqrt(start.bb)
    return safe and steep and not underflows(step, weight, pieces, sqrt(start.xx))


def scaled_metric(d: float, ed: int) -> float:
    """Return an element of the metric in units of ``2^ed``, at most the cap."""
    return fmin(math.ldexp(d, -ed), METRIC_CAP)


def shrink_group(x: Any, d: Any, n: int, step: float, shrink: Shrink) -> bool:
    """Apply the elementwise part in place; returns whether any element changed."""
    changed = False
    for i in range(n):
        v = x[i]
        if shrink.threshold > 0.0:
            size = fabs(v) - quotient(step, shrink.threshold, d[i])
            v = 0.0 if size <= 0.0 else (size if v > 0.0 else -size)
        v = 0.0 if shrink.nonnegative and v < 0.0 else v
        changed |= v != x[i]
        x[i] = v
    return changed


def locate(g: int, shape: Any) -> int:
    """Return where group ``g`` begins; ``shape`` as in :class:`Layout`."""
    return (g // shape[2]) * shape[1] * shape[2] * shape[3] + (g % shape[2]) * shape[3]


def gather(source: Any, scratch: Any, g: int, layout: Layout, n: int) -> None:
    """Copy a group to ``scratch``: by index where there are offsets, else the segments of a regular group."""
    shape = layout.shape
    if len(layout.indptr):
        first = layout.indptr[g]
        for j in range(n):
            scratch[j] = source[layout.indices[first + j]]
        return
    begin, stride, run = locate(g, shape), shape[2] * shape[3], shape[3]
    for k in range(shape[1]):
        segment = source[begin + k * stride : begin + k * stride + run]
        for j in range(run):
            scratch[k * run + j] = segment[j]


def scatter(scratch: Any, out: Any, g: int, layout: Layout, n: int) -> None:
    """Undo :func:`gather`."""
    shape = layout.shape
    if len(layout.indptr):
        first = layout.indptr[g]
        for j in range(n):
            out[layout.indices[first + j]] = scratch[j]
        return
    begin, stride, run = locate(g, shape), shape[2] * shape[3], shape[3]
    for k in range(shape[1]):
        segment = out[begin + k * stride : begin + k * stride + run]
        for j in range(run):
            segment[j] = scratch[k * run + j]


def gather_metric(data: Data, scratch: Scratch, g: int, layout: Layout, n: int) -> None:
    """Copy a group's metric to the scratch."""
    if data.dense:
        gather(data.d, scratch.d, g, layout, n)
    else:
        for j in range(n):
            scratch.d[j] = data.d[0]


def solve_one(e: Elements, step: float, weight: float, pieces: Any, limits: Limits, scratch: Scratch) -> Any:
    """Solve one group.

    Returns
    -------
    found, scaled, ex, ed
        Where ``scaled``, the scratch holds the group with ``x`` in units of ``2^ex`` and ``d`` in units of
        ``2^ed``, and those are the units of what is found.
    """
    start = sum_start(e)
    in_range = is_safe(start.bb) and is_safe(start.bbd) and is_safe(start.xx)
    if start.bad or not (in_range or is_valid(e)):
        return Found(0.0, 0.0, 0.0, 0.0, BAD, 0, 0), False, 0, 0
    found = Found(0.0, 0.0, 0.0, 0.0, APART, 0, 0)
    if not RESCALES or is_tame(start, step, weight, pieces):
        found = solve_group(e, start, Scale(step, weight, 0, 0), pieces, limits)
        lost = found.r > 0.0 and found.tau > 0.0 and found.tau * found.r < TOGETHER * sqrt(start.xx)
        if not (RESCALES and lost):
            return found, False, 0, 0
    ex, ed = 0, 0
    if RESCALES:  # a constant: the branch is not compiled where it is false
        ex, ed, least, apart = rescale(e, scratch.x, scratch.d)
        found = Found(0.0, 0.0, 0.0, 0.0, APART, 0, 0)
        if not (apart or starts_apart(pieces, ex)):
            copy = Elements(scratch.read_x, scratch.read_d, FIRST, e.n)
            own = Limits(limits.rtol, math.ldexp(limits.atol, -ex), limits.most, limits.explain)
            solved = solve_group(copy, sum_start(copy), Scale(step, weight, ex, ed), pieces, own)
            if not is_faint(solved.r, solved.tau, least):
                found = solved
    return found, True, ex, ed


def is_safe(v: float) -> bool:
    """Return whether a sum of squares has lost nothing to overflow or underflow."""
    return SAFE_LOW < v < SAFE_HIGH


def downwards(v: float, e: int) -> float:
    """Return a lower bound of ``v 2^e`` for ``v >= 0``, its rounding below the normal numbers included."""
    w = math.ldexp(v, e)
    return w if math.ldexp(w, -e) <= v else w - TINIEST


def upwards(v: float, e: int) -> float:
    """Return an upper bound of ``v 2^e`` for ``v >= 0``, its rounding below the normal numbers included."""
    w = math.ldexp(v, e)
    return w if math.ldexp(w, -e) >= v else w + TINIEST


def explained(out: GroupResults, g: int, s: Found, status: int, ex: int) -> None:
    """Write what explains the result of group ``g``."""
    out.radius[g] = math.ldexp(s.r, ex)
    out.lower[g], out.upper[g] = downwards(s.lower, ex), upwards(s.upper, ex)
    out.status[g], out.iterations[g], out.evaluations[g] = status, s.iterations, s.evaluations


def solve_rows(
    data: Data, n: int, begin: int, finish: int, steps: Steps, pieces: Any, limits: Limits, out: GroupResults,
    apart: Any, scratch: Scratch,
) -> int:  # fmt: skip
    """Solve the contiguous groups ``begin … finish - 1`` of ``n`` elements, one after the other.

    Those that spread too far are marked in ``apart`` and left alone. Returns the first invalid group, or -1.
    """
    for g in range(begin, finish):
        o = g * n
        e = Elements(data.x, data.d, o, n)
        step, weight = one_of(steps.steps, g), one_of(steps.weights, g)
        solved, scaled, ex, _ = solve_one(e, step, weight, pieces, limits, scratch)
        if solved.status == BAD:
            return g
        if solved.status == APART:
            apart[g] = True
            continue
        if scaled:
            # Of x itself: scaling may have lost elements far below the largest.
            for i in range(n):
                scratch.x[i] = data.x[o + i]
            e = Elements(scratch.read_x, scratch.read_d, FIRST, n)
            write_group(e, data.z, o, solved.r, solved.tau, math.ldexp(1.0, ex))
        else:
            write_group(e, data.z, o, solved.r, solved.tau, 1.0)
        if limits.explain:
            explained(out, g, solved, solved.status, ex)
    return -1


def one_of(numbers: Any, g: int) -> float:
    """Return the number of group ``g``, or the one for all."""
    return numbers[g if len(numbers) > 1 else 0]


def solve_gathered(
    data: Data, layout: Layout, begin: int, finish: int, steps: Steps, shrink: Shrink, pieces: Any,
    limits: Limits, out: GroupResults, apart: Any, scratch: Scratch,
) -> int:  # fmt: skip
    """Solve the groups ``begin … finish - 1`` (of ``chosen``, if there are any) on copies in float64.

    Groups that spread too far are marked in ``apart`` and left alone. The scratch is that of the largest
    group. Returns the first invalid group, or -1.
    """
    shrinks = shrink.threshold > 0.0 or shrink.nonnegative
    n = layout.shape[1] * layout.shape[3]
    shrunk = False
    for k in range(begin, finish):
        g = layout.chosen[k] if len(layout.chosen) else k
        if len(layout.indptr):
            n = layout.indptr[g + 1] - layout.indptr[g]
        solved, status, ex = Found(0.0, 0.0, 0.0, 0.0, ZERO, 0, 0), ZERO, 0
        if n > 0:
            step, weight = one_of(steps.steps, g), one_of(steps.weights, g)
            gather(data.x, scratch.x, g, layout, n)
            gather_metric(data, scratch, g, layout, n)
            e = Elements(scratch.read_x, scratch.read_d, FIRST, n)
            if shrinks:
                if not is_valid(e):
                    return g
                shrunk = shrink_group(scratch.x, scratch.d, n, step, shrink)
            solved, scaled, ex, ed = solve_one(e, step, weight, pieces, limits, scratch)
            status = solved.status
            if status == BAD:
                return g
            if status == APART:
                apart[g] = True
                continue
            if RESCALES:  # noqa: SIM102 (a constant: the branch is not compiled where it is false)
                if scaled:
                    # The point itself once more: scaling may have lost elements far below the largest.
                    gather(data.x, scratch.x, g, layout, n)
                    if shrinks:
                        gather_metric(data, scratch, g, layout, n)
                        shrink_group(scratch.x, scratch.d, n, step, shrink)
                        for i in range(n):
                            scratch.d[i] = scaled_metric(scratch.d[i], ed)
            write_group(e, scratch.x, FIRST, solved.r, solved.tau, math.ldexp(1.0, ex))
            scatter(scratch.x, data.z, g, layout, n)
            if shrunk and status == UNSHRUNK:
                status = CONVERGED
        if limits.explain:
            explained(out, g, solved, status, ex)
    return -1


def shrink_all(data: Data, begin: int, finish: int, steps: Any, shrink: Shrink) -> int:
    """Apply the elementwise part to ``begin … finish - 1``; returns the first invalid element, or -1."""
    for i in range(begin, finish):
        v = np.float64(data.x[i])
        di = np.float64(data.d[i if data.dense else 0])
        if not (di > 0.0 and di < INF and fabs(v) < INF):
            return i
        size = fabs(v)
        if shrink.threshold > 0.0:
            size -= quotient(one_of(steps, i), shrink.threshold, di)
        size = 0.0 if size < 0.0 else size
        data.z[i] = size if v > 0.0 else (0.0 if shrink.nonnegative else 0.0 - size)
    return -1


# ----------------------------------------------------------------------------------------------------
# The ℓ∞ norm: the same driver with another equation.


@any_order
def sum_clipped(e: Elements, t: float, strength: float, _: float) -> Sums:
    """Sum ``d (|x| - t)₊`` and its slope, in units of ``strength``."""
    n = e.n
    x, d = e.x[e.o : e.o + n], e.d[e.o : e.o + n]
    s, s1 = 0.0, 0.0
    for i in range(n):
        over = fabs(np.float64(x[i])) - t
        di = np.float64(d[i]) if over > 0.0 else 0.0
        s += di * over
        s1 += di
    return Sums(s / strength, s1 / strength, 0.0)


def solve_linf(e: Elements, _: Start, scale: Scale, pieces: Any, limits: Limits) -> Found:
    """Solve one group for the ℓ∞ norm of strength ``pieces[0, 2]``."""
    size = float(e.n)
    strength = coefficient(scale, pieces[0, 2], 1)
    top = largest_point(e)
    if top == 0.0:
        return Found(0.0, 1.0, 0.0, 0.0, ZERO, 0, 0)
    if strength < NEGLIGIBLE:
        low = top if scale.weight == 0.0 or pieces[0, 2] == 0.0 else top * (1.0 - GIVEN * UNIT)
        return Found(top, 0.0, low, top, UNSHRUNK, 0, 0)
    start = sums_at(e, 0.0, strength, 0.0)
    if not start.s1 < INF:
        return Found(0.0, 1.0, 0.0, 0.0, APART, 0, 0)
    over, trust = clipped_at_zero(start.s, size)
    if is_close(over, strength, size):
        over, trust = clipped_sharpened(linf_margin(e, pieces[0, 2], scale), strength, size)
    if over <= 0.0:
        return Found(0.0, 1.0, 0.0, 0.0, ZERO, 0, 0)
    task = clipped_task(Group(size, noise(size), top, top, -over, trust), start.s1, strength, limits)
    root = find_root(e, top, task, limits.explain)
    status = CONVERGED if root.converged else MAX_ITERATIONS
    return Found(root.r, 1.0, root.lower, root.upper, status, root.iterations, root.evaluations)


def clip_group(e: Elements, z: Any, zo: int, r: float, tau: float, unit: float) -> None:
    """Write ``z = sign(x) min(|x|, unit r)``."""
    most = r * unit
    for i in range(e.n):
        z[zo + i] = fmin(fmax(np.float64(e.x[e.o + i]), -most), most)


# Set by the target, for the equation: its sums at a radius, and how one group is solved.
sums_at: Any = radial_sums
solve_group: Any = solve_radial
