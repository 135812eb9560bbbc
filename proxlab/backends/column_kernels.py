"""Scalar source of the compiled kernel for groups across the rows of a matrix, such as its columns.

Whole rows are streamed, with accumulators for each column. As in :mod:`proxlab.backends.kernels`, whose rules
for the compiler hold here too.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from proxlab.backends.one_group import (
    CONVERGED,
    NARROW_ERROR,
    NARROW_HIGH,
    NARROW_LOW,
    NARROW_PASSES,
    SAFE_HIGH,
    SAFE_LOW,
    UNSHRUNK,
    ZERO,
    from_ratio,
    third_order,
)
from proxlab.backends.sums import INF, NARROW, NARROW_MOST, narrow_fraction
from proxlab.bounds import UNIT, bracket, rounding
from proxlab.choose import AT_ZERO, GIVEN
from proxlab.equations.radial import BEYOND, CURVED, FLAT, residual, rise
from proxlab.scalar import any_order, fabs, fmax, fmin, sqrt
from proxlab.search import OUTWARDS, RESOLVED, final_step, noise

# Columns of a block, and the distance of their accumulators: constant, and no power of two.
BLOCK, PITCH = 1024, 1040
# Numbers that a block's sums and ratios take, and the sums of strips and their errors.
SCRATCH = 13 * PITCH
# Rows that are summed one after the other: rounding grows with their number, not with that of the strips.
STRIP = 256
# While more than one group of so many is open, another pass is worth it.
MANY = 32
# Roundings of two objectives, beside those of the sums.
CLOSE = 120.0


@any_order
def start_terms(x: Any, d: Any) -> Any:
    """Return an element's terms of ``Σ b²``, ``Σ b² d``, ``Σ x²``, ``Σ d x²``."""
    b = d * x
    s = b * b
    return s, s * d, x * x, x * b


@any_order
def ratio_terms(x: Any, d: Any, ratio: Any, one: Any) -> Any:
    """Return the terms of ``Σ z²``, ``Σ z² e``, ``Σ z² e²``; ``e = d ratio/(d ratio + 1)``, ``z = x e``."""
    y = d * ratio
    e = y / (y + one)
    z = x * e
    s = z * z
    t = s * e
    return s, t, t * e


def fraction(y: float) -> float:
    """Return ``y/(y + 1)``, to 45 bits where that is narrow; 1 for infinity."""
    if NARROW:
        return narrow_fraction(y)
    y = fmin(y, NARROW_MOST)
    return y / (y + 1.0)


@any_order
def exact_terms(x: float, d: float, ratio: float) -> Any:
    """Return what :func:`ratio_terms` does, and the term of ``Σ z (x - z) = ratio Σ d (x - z)²``."""
    y = fmin(d * ratio, NARROW_MOST)
    e = y / (y + 1.0)
    z = x * e
    s = z * z
    t = s * e
    return s, t, t * e, z * (x - z)


@any_order
def add_start(x: Any, d: Any, o: int, stride: int, w: int, acc: Any) -> bool:
    """Add four rows' terms of the sums at zero to the columns'; tells whether a metric is invalid.

    In the precision of ``acc``.
    """
    number = acc.dtype.type
    t, u, v = o + stride, o + 2 * stride, o + 3 * stride
    x0, x1, x2, x3 = x[o : o + w], x[t : t + w], x[u : u + w], x[v : v + w]
    d0, d1, d2, d3 = d[o : o + w], d[t : t + w], d[u : u + w], d[v : v + w]
    bad = False
    for j in range(w):
        p0, q0, u0, v0 = start_terms(number(x0[j]), number(d0[j]))
        p1, q1, u1, v1 = start_terms(number(x1[j]), number(d1[j]))
        p2, q2, u2, v2 = start_terms(number(x2[j]), number(d2[j]))
        p3, q3, u3, v3 = start_terms(number(x3[j]), number(d3[j]))
        acc[j] += (p0 + p1) + (p2 + p3)
        acc[j + PITCH] += (q0 + q1) + (q2 + q3)
        acc[j + 2 * PITCH] += (u0 + u1) + (u2 + u3)
        acc[j + 3 * PITCH] += (v0 + v1) + (v2 + v3)
        bad |= not ((d0[j] > 0.0) & (d1[j] > 0.0) & (d2[j] > 0.0) & (d3[j] > 0.0))
    return bad


@any_order
def add_start_row(x: Any, d: Any, o: int, w: int, acc: Any) -> bool:
    """Add one row's terms, as :func:`add_start`."""
    number = acc.dtype.type
    x, d = x[o : o + w], d[o : o + w]
    bad = False
    for j in range(w):
        p, q, u, v = start_terms(number(x[j]), number(d[j]))
        acc[j] += p
        acc[j + PITCH] += q
        acc[j + 2 * PITCH] += u
        acc[j + 3 * PITCH] += v
        bad |= not (d[j] > 0.0)
    return bad


@any_order
def add_ratio(x: Any, d: Any, o: int, stride: int, w: int, acc: Any) -> None:
    """Add four rows' terms to the columns', in the precision of ``acc``; the columns' ratios stand behind
    four sums.
    """
    number = acc.dtype.type
    one = number(1.0)
    t, u, v = o + stride, o + 2 * stride, o + 3 * stride
    x0, x1, x2, x3 = x[o : o + w], x[t : t + w], x[u : u + w], x[v : v + w]
    d0, d1, d2, d3 = d[o : o + w], d[t : t + w], d[u : u + w], d[v : v + w]
    for j in range(w):
        ratio = acc[j + 4 * PITCH]
        p0, q0, t0 = ratio_terms(number(x0[j]), number(d0[j]), ratio, one)
        p1, q1, t1 = ratio_terms(number(x1[j]), number(d1[j]), ratio, one)
        p2, q2, t2 = ratio_terms(number(x2[j]), number(d2[j]), ratio, one)
        p3, q3, t3 = ratio_terms(number(x3[j]), number(d3[j]), ratio, one)
        acc[j] += (p0 + p1) + (p2 + p3)
        acc[j + PITCH] += (q0 + q1) + (q2 + q3)
        acc[j + 2 * PITCH] += (t0 + t1) + (t2 + t3)


@any_order
def add_ratio_row(x: Any, d: Any, o: int, w: int, acc: Any) -> None:
    """Add one row's terms, as :func:`add_ratio`."""
    number = acc.dtype.type
    one = number(1.0)
    x, d = x[o : o + w], d[o : o + w]
    for j in range(w):
        p, q, t = ratio_terms(number(x[j]), number(d[j]), acc[j + 4 * PITCH], one)
        acc[j] += p
        acc[j + PITCH] += q
        acc[j + 2 * PITCH] += t


@any_order
def add_exact(x: Any, d: Any, o: int, stride: int, w: int, acc: Any) -> None:
    """Add four rows' exact terms to the columns'; the columns' ratios stand behind the four sums."""
    t, u, v = o + stride, o + 2 * stride, o + 3 * stride
    x0, x1, x2, x3 = x[o : o + w], x[t : t + w], x[u : u + w], x[v : v + w]
    d0, d1, d2, d3 = d[o : o + w], d[t : t + w], d[u : u + w], d[v : v + w]
    for j in range(w):
        ratio = acc[j + 4 * PITCH]
        p0, q0, t0, h0 = exact_terms(np.float64(x0[j]), np.float64(d0[j]), ratio)
        p1, q1, t1, h1 = exact_terms(np.float64(x1[j]), np.float64(d1[j]), ratio)
        p2, q2, t2, h2 = exact_terms(np.float64(x2[j]), np.float64(d2[j]), ratio)
        p3, q3, t3, h3 = exact_terms(np.float64(x3[j]), np.float64(d3[j]), ratio)
        acc[j] += (p0 + p1) + (p2 + p3)
        acc[j + PITCH] += (q0 + q1) + (q2 + q3)
        acc[j + 2 * PITCH] += (t0 + t1) + (t2 + t3)
        acc[j + 3 * PITCH] += (h0 + h1) + (h2 + h3)


@any_order
def add_exact_row(x: Any, d: Any, o: int, w: int, acc: Any) -> None:
    """Add one row's exact terms, as :func:`add_exact`."""
    x, d = x[o : o + w], d[o : o + w]
    for j in range(w):
        p, q, t, h = exact_terms(np.float64(x[j]), np.float64(d[j]), acc[j + 4 * PITCH])
        acc[j] += p
        acc[j + PITCH] += q
        acc[j + 2 * PITCH] += t
        acc[j + 3 * PITCH] += h


@any_order
def add_size_row(x: Any, o: int, w: int, acc: Any) -> None:
    """Add the magnitudes of one row to the columns'."""
    x = x[o : o + w]
    for j in range(w):
        acc[j] += fabs(np.float64(x[j]))


def write_row(x: Any, d: Any, z: Any, o: int, w: int, acc: Any) -> None:
    """Write one row of ``z = x d ratio / (d ratio + 1)``."""
    x, d, z = x[o : o + w], d[o : o + w], z[o : o + w]
    for j in range(w):
        z[j] = np.float64(x[j]) * fraction(np.float64(d[j]) * acc[j + 4 * PITCH])


def fold(columns: Any, groups: int, run: int) -> None:
    """Add the columns of each group, in each of the four sums; that of group ``g`` lands in column ``g``."""
    if run == 1:
        return
    for k in range(4):
        for g in range(groups):
            total = 0.0
            for t in range(run):
                total += columns[k * PITCH + g * run + t]
            columns[k * PITCH + g] = total


def clear(acc: Any, rows: int, w: int) -> None:
    """Set the sums of ``w`` columns to zero, and those of the strips where there are several."""
    if rows > STRIP:
        acc[: 4 * PITCH] = 0.0
        acc[5 * PITCH :] = 0.0
    else:
        for k in range(4):
            acc[k * PITCH : k * PITCH + w] = 0.0


def end_strip(acc: Any, rows: int, last: bool) -> None:
    """Add a strip's sums to those of the strips (Kahan 1965), and take these after the last one."""
    if rows > STRIP:
        strips, errors = acc[5 * PITCH : 9 * PITCH], acc[9 * PITCH :]
        for j in range(4 * PITCH):
            part = acc[j] - errors[j]
            total = strips[j] + part
            errors[j] = (total - strips[j]) - part
            strips[j] = total
            acc[j] = total if last else total - total


def pass_start(x: Any, d: Any, base: int, rows: int, stride: int, groups: int, run: int, acc: Any) -> bool:
    """Sum what is needed at zero; tells whether a metric is invalid."""
    bad, w = False, groups * run
    clear(acc, rows, w)
    for begin in range(0, rows, STRIP):
        finish = min(begin + STRIP, rows)
        whole = finish - (finish - begin) % 4
        for i in range(begin, whole, 4):
            bad |= add_start(x, d, base + i * stride, stride, w, acc)
        for i in range(whole, finish):
            bad |= add_start_row(x, d, base + i * stride, w, acc)
        end_strip(acc, rows, finish == rows)
    fold(acc, groups, run)
    return bad


def pass_ratio(
    x: Any, d: Any, base: int, rows: int, stride: int, groups: int, run: int, ratios: Any, acc: Any
) -> None:
    """Sum at the groups' ratios, in single precision."""
    w = groups * run
    clear(acc, rows, w)
    spread(ratios, groups, run, acc)
    for begin in range(0, rows, STRIP):
        finish = min(begin + STRIP, rows)
        whole = finish - (finish - begin) % 4
        for i in range(begin, whole, 4):
            add_ratio(x, d, base + i * stride, stride, w, acc)
        for i in range(whole, finish):
            add_ratio_row(x, d, base + i * stride, w, acc)
        end_strip(acc, rows, finish == rows)
    fold(acc, groups, run)


def pass_exact(
    x: Any, d: Any, base: int, rows: int, stride: int, groups: int, run: int, ratios: Any, acc: Any
) -> None:
    """Sum at the groups' ratios."""
    w = groups * run
    clear(acc, rows, w)
    spread(ratios, groups, run, acc)
    for begin in range(0, rows, STRIP):
        finish = min(begin + STRIP, rows)
        whole = finish - (finish - begin) % 4
        for i in range(begin, whole, 4):
            add_exact(x, d, base + i * stride, stride, w, acc)
        for i in range(whole, finish):
            add_exact_row(x, d, base + i * stride, w, acc)
        end_strip(acc, rows, finish == rows)
    fold(acc, groups, run)


def spread(ratios: Any, groups: int, run: int, acc: Any) -> None:
    """Put each group's ratio behind the sums of its columns."""
    for k in range(groups):
        for t in range(run):
            acc[4 * PITCH + k * run + t] = ratios[k]


def pace_at(r: float, a: float, c: float) -> float:
    """Bound how fast a term of the sums can change at ``r > 0`` on the piece with slope ``a - c r``."""
    tau = fmax(a - c * r, 0.0)
    m = 1.0 / r
    if c > 0.0:
        m = fmax(m, c / tau if tau > 0.0 else BEYOND)
    return m


def enclose_ratio(
    r: float, s: float, s1: float, s2: float, a: float, c: float, size: float, far: float
) -> Any:
    """Enclose the root, as :func:`enclose_at`, from sums that :func:`from_ratio` made.

    The terms of its differences are at most thrice ``B₁``.
    """
    m = pace_at(r, a, c)
    b1 = (sqrt(s * fmax(s2, 0.0)) + 2.0 * m * s) * (1.0 + 1e-9) if c > 0.0 else s1
    k = CURVED if c > 0.0 else FLAT
    noise, slack = rounding(size + k[0]) * s, 3.0 * rounding(size + k[1]) * b1
    limit = far * (1.0 + (size + 8.0) * UNIT)
    return bracket(r, s - 1.0 - noise, s - 1.0 + noise, s1, slack, m, b1 + slack, c, limit)


def solve_columns(
    x: Any, d: Any, z: Any, shape: Any, per_block: int, begin: int, finish: int, steps: Any, weights: Any,
    pieces: Any, rtol: float, max_passes: int, hard: Any, explain: bool, radius: Any, lower: Any, upper: Any,
    status: Any, iterations: Any, evaluations: Any, acc: Any, early: Any, state: Any, spent: Any, values: Any,
) -> int:  # fmt: skip
    """Solve the blocks ``begin … finish - 1`` of neighbouring groups, a block at once, by Newton's method.

    Groups that need more than the first piece of the slope and a flat end, or more than ``max_passes``
    passes, or that are out of the range of plain sums, are marked in ``hard`` and left alone. A pass sums in
    the ratio ``r/tau``, one number a column; for float32 data, the first passes do so in single precision,
    which decides nothing that is closer than its rounding. ``acc`` and ``early`` (four sums and the ratios,
    ``PITCH`` apart; ``early`` of the data's precision), ``state``, ``spent`` and ``values`` are scratch.
    Returns the first invalid block, or -1.
    """
    rows, run = shape[1], shape[3]
    stride = shape[2] * run
    blocks = (shape[2] + per_block - 1) // per_block
    a0, c0 = pieces[0, 2], pieces[0, 3]
    count = pieces.shape[0]
    flat_end = count == 2 and pieces[1, 2] == 0.0 and pieces[1, 3] == 0.0
    only_flat = a0 == 0.0 and c0 == 0.0
    end0 = pieces[1, 0] if count > 1 else INF
    size = float(rows * run)
    quiet = noise(size)
    close = rounding(size + CLOSE)
    r, a, c, far, start = values[0], values[1], values[2], values[3], values[4]
    norms, flats, reaches, ratios = values[5], values[6], values[7], values[8]
    for block in range(begin, finish):
        first = (block % blocks) * per_block
        groups = min(per_block, shape[2] - first)
        outer = block // blocks
        offset = outer * shape[2] + first
        base = outer * rows * stride + first * run
        narrow = NARROW and not explain
        while True:
            # The sums at zero: in single precision first, where that is enough.
            error0, low, high = rounding(size + AT_ZERO), SAFE_LOW, SAFE_HIGH
            if narrow:
                error0, low, high = (0.25 * rows + run + 32.0) * 2.0**-23, NARROW_LOW, NARROW_HIGH
                if pass_start(x, d, base, rows, stride, groups, run, early):
                    return block
                for j in range(4 * PITCH):
                    acc[j] = early[j]
            elif pass_start(x, d, base, rows, stride, groups, run, acc):
                return block
            doubt = 4.0 * error0
            active, unsafe, empty = 0, 0, 0
            for k in range(groups):
                g = offset + k
                eta = steps[g if len(steps) > 1 else 0] * weights[g if len(weights) > 1 else 0]
                bb, bbd, xx, xb = acc[k], acc[k + PITCH], acc[k + 2 * PITCH], acc[k + 3 * PITCH]
                norm, reach = sqrt(bb), sqrt(xx)
                r[k], a[k], c[k], far[k] = 0.0, eta * a0, eta * c0, 0.0
                norms[k], flats[k], reaches[k] = norm, eta * pieces[0, 1], reach
                if flat_end:
                    flats[k] = rise(end0, 0.0, end0, a[k], c[k])
                state[k], spent[k] = 0, 0
                if xx == 0.0:
                    state[k] = 4
                    empty += 1
                    continue
                beyond = reach > end0
                f0 = 1.0 if pieces[0, 1] > 0.0 else (a[k] - norm) / norm
                safe = low < bb < high and low < bbd < high and low < xx < high
                safe = safe and low < xb < high and (1e-100 < a[k] < 1e100 or only_flat)
                safe = safe and fabs(c[k]) < 1e100
                if not safe:
                    state[k] = 2
                    unsafe += 1
                    continue
                if fabs(f0) <= doubt or (beyond and not flat_end) or fabs(reach - end0) <= doubt * reach:
                    state[k] = 2
                    continue
                if only_flat and f0 < 0.0:
                    # No penalty at all.
                    r[k], a[k], c[k] = reach, 0.0, 0.0
                    continue
                if f0 >= 0.0:
                    if beyond or only_flat:
                        # Zero against the point itself.
                        keep, drop = flats[k], 0.5 * xb
                        if not fabs(keep - drop) > doubt * (keep + drop):
                            state[k] = 2
                        elif keep < drop:
                            r[k], a[k], c[k] = reach, 0.0, 0.0
                    continue
                limit = fmin(reach, end0)
                slope = (bbd - c[k] * bb) / (bb * norm)
                steep = slope + doubt * (bbd + fabs(c[k]) * bb) / (bb * norm)
                if steep <= 0.0 or (-f0 - doubt) > limit * steep:
                    # No minimiser inside: the point itself, or too close to tell.
                    if beyond:
                        r[k], a[k], c[k] = reach, 0.0, 0.0
                    else:
                        state[k] = 2
                    continue
                r[k] = fmin((-f0 - doubt) / steep, limit)
                start[k], far[k], state[k] = r[k], limit, 1
                active += 1
            if not (narrow and unsafe > 0):
                break
            narrow = False
        if empty > 0:
            # Zero throughout, or too small to be squared?
            acc[:PITCH] = 0.0
            for i in range(rows):
                add_size_row(x, base + i * stride, groups * run, acc)
            fold(acc, groups, run)
            for k in range(groups):
                if state[k] == 4:
                    state[k] = 0 if acc[k] == 0.0 else 2
        if NARROW:
            ahead = active
            for _ in range(NARROW_PASSES):
                if ahead <= groups // MANY:
                    break
                for k in range(groups):
                    ratio = r[k] / (a[k] - c[k] * r[k]) if state[k] == 1 else 0.0
                    if state[k] == 1 and not NARROW_LOW < ratio < NARROW_HIGH:
                        ratio, state[k] = 0.0, 3
                        ahead -= 1
                    ratios[k] = ratio
                pass_ratio(x, d, base, rows, stride, groups, run, ratios, early)
                for k in range(groups):
                    if state[k] != 1:
                        continue
                    spent[k] += 1
                    tau = a[k] - c[k] * r[k]
                    v, ve, vee = np.float64(early[k]), early[k + PITCH], early[k + 2 * PITCH]
                    s, s1, s2 = from_ratio(v, np.float64(ve), np.float64(vee), r[k], tau, c[k])
                    if NARROW_LOW < v < NARROW_HIGH and s1 > 0.0:
                        f, slope, bend = residual(s, s1, s2)
                        final, error = final_step(r[k], f, slope, bend, pace_at(r[k], a[k], c[k]))
                        new = third_order(r[k], f, slope, final)
                        if start[k] <= new <= far[k]:
                            r[k] = new
                            if error <= NARROW_ERROR * new:
                                state[k] = 3
                                ahead -= 1
                            continue
                    # Left to the exact passes.
                    r[k], state[k] = start[k], 3
                    ahead -= 1
            for k in range(groups):
                if state[k] == 3:
                    state[k] = 1
        passes = 0
        # A pass costs as much for a few groups as for all; the last few are cheaper one by one.
        while active > (groups // MANY if passes > 0 else 0) and passes < max_passes:
            passes += 1
            for k in range(groups):
                ratios[k] = r[k] / (a[k] - c[k] * r[k]) if state[k] == 1 else 0.0
            pass_exact(x, d, base, rows, stride, groups, run, ratios, acc)
            for k in range(groups):
                if state[k] != 1:
                    continue
                spent[k] += 1
                tau = a[k] - c[k] * r[k]
                s, s1, s2 = from_ratio(acc[k], acc[k + PITCH], acc[k + 2 * PITCH], r[k], tau, c[k])
                f, slope, bend = residual(s, s1, s2)
                step = f / slope if slope > 0.0 else INF
                if slope <= 0.0 or r[k] - step > far[k]:
                    # Below zero with a tangent that ends beyond the piece, or falling already at the start
                    # (a lower bound): no root on the piece, and z = x where the rest is flat.
                    below = f < -quiet and (slope > 0.0 or r[k] == start[k])
                    if below and far[k] == end0:
                        r[k], a[k], c[k], state[k] = reaches[k], 0.0, 0.0, 0
                        active -= 1
                    elif slope <= 0.0 and r[k] > start[k]:
                        r[k] = start[k]
                    else:
                        state[k] = 2
                        active -= 1
                    continue
                final, error = final_step(r[k], f, slope, bend, pace_at(r[k], a[k], c[k]))
                if not (error <= fmax(rtol, RESOLVED) * r[k] or fabs(f) <= quiet):
                    # A pass is dear: third-order steps, at most twice Newton's.
                    r[k] = fmin(third_order(r[k], f, slope, final), far[k])
                    continue
                at = r[k]
                r[k] = fmin(fmax(final, 0.0), far[k])
                if far[k] == end0:
                    # The root against the point itself. At the point z of the path, whose length is not
                    # ``at``, the objective is an upper bound of that at the root; its dual, at the same
                    # multiplier, is a lower bound at ``at``, from which the objective falls to the root at a
                    # rate between those of its two parts.
                    moved = 0.5 * acc[k + 3 * PITCH] / ratios[k]
                    value = rise(at * sqrt(s), 0.0, end0, a[k], c[k]) + moved
                    least = rise(at, 0.0, end0, a[k], c[k]) + moved + 0.5 * tau * at * (s - 1.0)
                    gain = fmax(a[k], norms[k]) * (fabs(r[k] - at) + error)
                    blur = close * (value + flats[k] + 0.5 * acc[k] / ratios[k])
                    if least - gain - blur > flats[k]:
                        r[k], a[k], c[k], state[k] = reaches[k], 0.0, 0.0, 0
                        active -= 1
                        continue
                    if not value + blur < flats[k]:
                        if gain <= blur:
                            state[k] = 2
                            active -= 1
                        continue
                state[k] = 0
                active -= 1
                if explain:
                    g = offset + k
                    near, beyond_root = enclose_ratio(at, s, s1, s2, a[k], c[k], size, far[k])
                    lower[g] = fmin(near * (1.0 - OUTWARDS), r[k])
                    upper[g] = fmax(beyond_root * (1.0 + OUTWARDS), r[k])
        for k in range(groups):
            g = offset + k
            if state[k] != 0:
                hard[g] = True
                r[k], a[k], c[k] = 1.0, 0.0, 0.0  # leaves z = x, which may be the same array
            tau = fmax(a[k] - c[k] * r[k], 0.0) if r[k] > 0.0 else 1.0
            ratios[k] = r[k] / tau
            if explain and state[k] == 0:
                radius[g] = r[k]
                evaluations[g] = spent[k]
                iterations[g] = max(spent[k] - 1, 0)
                status[g] = ZERO if r[k] == 0.0 else (CONVERGED if tau > 0.0 else UNSHRUNK)
                if status[g] != CONVERGED:
                    off = GIVEN * size * UNIT
                    lower[g], upper[g] = r[k] * (1.0 - off), r[k] * (1.0 + off)
        spread(ratios, groups, run, acc)
        for i in range(rows):
            write_row(x, d, z, base + i * stride, groups * run, acc)
    return -1
