"""Compiled certificates for groups of NumPy arrays: rows where they lie, others in copies that stay in cache.

The centred form of :mod:`proxlab.backends.array_certify`: with a bracket of the exact radius ``r*`` and
``z(r)`` at one point ``r`` of it, ``‖z - z*‖ ≤ ‖z - z(r)‖ + ‖z(r) - z(r*)‖``, and the second term is at most
``‖z'(r)‖`` times the distance to the far end of the bracket (docs: the mathematics, §5). Two passes over a
group are enough where the candidate is close. Rows that leave a question open are marked, and left to the
array form.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from proxlab import bounds
from proxlab.arguments import Problem, as_host, as_tensor, check_finite, check_values
from proxlab.backends import arrays, threads
from proxlab.backends.build import Target
from proxlab.backends.numba_cpu import COMPILATION, group_rows, made, outermost
from proxlab.backends.records import Bounds
from proxlab.bounds import bracket, newton, rounding, steepest
from proxlab.groups import AxisLayout, Layout
from proxlab.penalties import Penalty
from proxlab.scalar import any_order, fabs, fmax, fmin, sqrt

__all__ = ["applies", "certify"]

# Squares in this range have lost nothing to overflow or underflow.
SAFE_LOW, SAFE_HIGH = 1e-100, 1e100
MAX_EVALUATIONS = 12
# As numbers of one type, for the compiler.
ROUNDING_FLAT, ROUNDING_CURVED = (tuple(float(v) for v in bounds.ROUNDING[c]) for c in (False, True))
INF = np.inf
#: Groups copied together, and elements of an array that are.
TILE, CACHED = 32, 1 << 17


def start_terms(x: Any, z: Any, d: Any) -> Any:
    """Return an element's ``b²``, ``b² d``, ``x²``, ``d x²``, ``z²``, ``b z``, ``d z²``."""
    b = d * x
    s = b * b
    dz = d * z
    return s, s * d, x * x, x * b, z * z, b * z, z * dz


@any_order
def sum_start(x: Any, z: Any, d: Any) -> Any:
    """Sum what is needed at zero over a few neighbouring elements; count invalid metrics."""
    bb, bbd, xx, xb, zz, bz, dzz, bad = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0
    for i in range(len(x)):
        t0, t1, t2, t3, t4, t5, t6 = start_terms(np.float64(x[i]), np.float64(z[i]), np.float64(d[i]))
        bb += t0
        bbd += t1
        xx += t2
        xb += t3
        zz += t4
        bz += t5
        dzz += t6
        bad |= not (d[i] > 0.0)
    return bb, bbd, xx, xb, zz, bz, dzz, bad


def candidate_terms(
    x: Any, z: Any, d: Any, r: float, tau: float, shift: float, pull: float, unit: float
) -> Any:
    """Return an element's terms at the radius ``r``.

    Of ``S``, ``S₁``, ``B₁``; of the squares of ``z - z(r)`` and ``z'(r)``, without and with the metric; of
    ``d u²``; of the squares of ``d (z - x) + pull z`` and of its first part; and of ``unit z - u``.
    """
    w = 1.0 / (d * r + tau)
    u = d * x * w
    s = u * u
    t = s * w
    off = z - r * u
    off2 = off * off
    turn = u * w
    turn2 = turn * turn
    first = d * (z - x)
    second = first + pull * z
    aside = unit * z - u
    return (
        s, t * (d - shift), t * (d + fabs(shift)), off2, turn2, d * off2, d * turn2, d * s, second * second,
        first * first, aside * aside,
    )  # fmt: skip


@any_order
def sum_candidate(
    x: Any, z: Any, d: Any, r: float, tau: float, shift: float, pull: float, unit: float
) -> Any:
    """Sum :func:`candidate_terms` over a few neighbouring elements."""
    s0, s1, s2, s3, s4, s5, s6, s7, s8, s9 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    s10 = 0.0
    for i in range(len(x)):
        t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10 = candidate_terms(
            np.float64(x[i]), np.float64(z[i]), np.float64(d[i]), r, tau, shift, pull, unit
        )
        s0 += t0
        s1 += t1
        s2 += t2
        s3 += t3
        s4 += t4
        s5 += t5
        s6 += t6
        s7 += t7
        s8 += t8
        s9 += t9
        s10 += t10
    return s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10


@any_order
def sum_apart(x: Any, z: Any, d: Any, shift: float) -> Any:
    """Sum the squares of ``z - x``, without and with the metric; of ``d (z - x)``; and ``S₁``, ``B₁`` where
    ``tau = 0``.
    """
    s0, s1, s2, s3, s4 = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(len(x)):
        xi, di = np.float64(x[i]), np.float64(d[i])
        off = np.float64(z[i]) - xi
        pulled = di * off
        s0 += off * off
        s1 += pulled * off
        s2 += pulled * pulled
        t = xi * xi / di
        s3 += t * (di - shift)
        s4 += t * (di + shift)
    return s0, s1, s2, s3, s4


@any_order
def sum_moved(x: Any, d: Any, r: float, tau: float) -> Any:
    """Sum ``d (x - z)²`` and ``z²`` at the point ``z`` of radius ``r`` on the path."""
    s0, s1 = 0.0, 0.0
    for i in range(len(x)):
        xi, di = np.float64(x[i]), np.float64(d[i])
        y = fmin(di * r, 1e300)  # of an element that is zero, or next to nothing
        w = xi / (y + tau)
        moved = w * tau
        kept = w * y
        s0 += di * (moved * moved)
        s1 += kept * kept
    return s0, s1


def piece_at(pieces: Any, r: float) -> int:
    """Return the number of the piece of the slope that holds at ``r``."""
    k = 0
    for j in range(1, pieces.shape[0]):
        if r >= pieces[j, 0]:
            k = j
    return k


def value_at(pieces: Any, r: float) -> float:
    """Return ``p(r)``."""
    k = piece_at(pieces, r)
    return pieces[k, 1] + (r - pieces[k, 0]) * (pieces[k, 2] - 0.5 * pieces[k, 3] * (r + pieces[k, 0]))


def certify_rows(
    x: Any, z: Any, d: Any, least: Any, most: Any, steps: Any, weights: Any, pieces: Any, begin: int,
    finish: int, out: Any, decided: Any, hard: Any, total: Any,
) -> int:  # fmt: skip
    """Certify rows ``begin … finish - 1``; returns the first row with an invalid metric, or -1.

    ``least`` and ``most`` bound the metric of each row; they are read for a positive shift only. ``out``
    receives distance, metric distance, stationarity, gap, and the bracket, a row each; ``total`` is room for
    eleven sums.
    """
    n = x.shape[1]
    width = 64 if n <= 4096 else int(sqrt(float(n)))
    height = width + n // width + 4.0
    count = pieces.shape[0]
    end = pieces[count - 1, 0] if count > 1 else INF
    jumps = end == 0.0
    curved = False
    for j in range(count):
        curved = curved or pieces[j, 3] > 0.0
    k = ROUNDING_CURVED if curved else ROUNDING_FLAT
    fuzz = rounding(height + 16.0)
    up = 1.0 + fuzz
    for g in range(begin, finish):
        step = steps[g if len(steps) > 1 else 0]
        eta = step * weights[g if len(weights) > 1 else 0]
        alpha, shift = eta * pieces[0, 2], eta * pieces[0, 3]
        top = eta * pieces[count - 1, 1]
        row, spot, metric = x[g], z[g], d[g]
        hard[g] = True
        # What is needed at zero.
        bb, bbd, xx, xb, zz, bz, dzz, bad = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0
        for o in range(0, n, width):
            p = min(o + width, n)
            t0, t1, t2, t3, t4, t5, t6, t7 = sum_start(row[o:p], spot[o:p], metric[o:p])
            bb += t0
            bbd += t1
            xx += t2
            xb += t3
            zz += t4
            bz += t5
            dzz += t6
            bad |= t7
        if bad:
            return g
        if xx == 0.0 and zz == 0.0 and dzz == 0.0 and not (row.any() or spot.any()):
            # Both zero: nothing to solve, and common where inputs or units are dead.
            for j in range(6):
                out[j, g] = 0.0
            decided[g], hard[g] = True, False
            continue
        safe = SAFE_LOW < bb < SAFE_HIGH and SAFE_LOW < bbd < SAFE_HIGH and SAFE_LOW < xx < SAFE_HIGH
        safe = safe and SAFE_LOW < xb < SAFE_HIGH and 1e-40 < step < 1e40
        # Whether the candidate is zero is read off itself: its squares may vanish.
        if zz == 0.0:
            safe = safe and not spot.any()
        else:
            safe = safe and SAFE_LOW < zz < SAFE_HIGH and SAFE_LOW < dzz < SAFE_HIGH
        for j in range(count):
            safe = safe and (pieces[j, 2] == 0.0 or 1e-40 < eta * pieces[j, 2] < 1e40)
            safe = safe and (pieces[j, 3] == 0.0 or 1e-40 < fabs(eta * pieces[j, 3]) < 1e40)
            safe = safe and (j == 0 or jumps or 1e-40 < pieces[j, 0] < 1e40)
            safe = safe and eta * pieces[j, 1] < SAFE_HIGH
        if not safe:
            continue
        norm, reach, size = sqrt(bb), sqrt(xx), sqrt(zz)
        # The zero test, and where the candidate and x lie among the pieces.
        zero = jumps or bb * (1.0 + fuzz) < alpha * alpha * (1.0 - fuzz)
        nonzero = bb * (1.0 - fuzz) > alpha * alpha * (1.0 + fuzz)
        clear = zero or nonzero
        for j in range(1, count):
            clear = clear and (size == 0.0 or fabs(size - pieces[j, 0]) > 4.0 * fuzz * pieces[j, 0])
        if not clear or fabs(reach - end) <= 4.0 * fuzz * reach:
            continue
        value = eta * value_at(pieces, size) if size > 0.0 else 0.0
        at_zero = 0.0 if jumps else fmax(norm * (1.0 + fuzz) - alpha * (1.0 - fuzz), 0.0)
        here = piece_at(pieces, size)
        alpha_here, shift_here = eta * pieces[here, 2], eta * pieces[here, 3]
        pull = (alpha_here - shift_here * size) / size if size > 0.0 else 0.0
        unit = 1.0 / size if size > 0.0 else 0.0
        pull_error = rounding(3.0 * height + 60.0) * (alpha_here + fabs(shift_here) * size)
        # Where the penalty is flat at x, x itself is a candidate for z*.
        outer = reach > end
        contested = False
        apart, apart_metric, apart_pull = 0.0, 0.0, 0.0
        if outer:
            rise, scale = 0.0, 0.0
            last_alpha, last_shift = eta * pieces[count - 2, 2], eta * pieces[count - 2, 3]
            for o in range(0, n, width):
                p = min(o + width, n)
                t0, t1, t2, t3, t4 = sum_apart(row[o:p], spot[o:p], metric[o:p], last_shift)
                apart += t0
                apart_metric += t1
                apart_pull += t2
                rise += t3
                scale += t4
            if zero:
                if fabs(0.5 * xb - top) <= rounding(height + 40.0) * (0.5 * xb + top):
                    continue
                outer = 0.5 * xb > top
            else:
                # Below 1 and increasing where it ends, the concave g has not reached 1 before.
                joined = last_shift > 0.0 and fabs(last_alpha - last_shift * end) <= 1e-12 * last_alpha
                contested = not (joined and scale < SAFE_HIGH and rise > rounding(height + 60.0) * scale)
                # Nor later where it falls from zero on.
                if bbd - shift * bb + rounding(height + 40.0) * (bbd + shift * bb) <= 0.0:
                    contested = False
        if zero and not outer and size == 0.0:
            for j in range(6):
                out[j, g] = 0.0
            decided[g], hard[g] = True, False
            continue
        # The inner candidate: zero, or a root on one of the pieces.
        lower, upper = 0.0, 0.0
        distance, metric_distance, gap, residual = INF, INF, INF, 0.0
        solved, none = False, False
        if not outer or contested:
            start, stop = 0.0, pieces[1, 0] if count > 1 else INF
            at = (norm - alpha) * bb / fmax(bbd - shift * bb, 1e-300) if nonzero else fmin(reach, stop)
            if count == 3 and nonzero and reach > stop:
                # On which piece?
                next_alpha, next_shift = eta * pieces[1, 2], eta * pieces[1, 3]
                tau = next_alpha - next_shift * stop
                s, s1 = 0.0, 0.0
                for o in range(0, n, width):
                    p = min(o + width, n)
                    t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10 = sum_candidate(
                        row[o:p], spot[o:p], metric[o:p], stop, tau, next_shift, pull, unit
                    )
                    s += t0
                    s1 += t1
                noise = rounding(height + k[0]) * s
                if fabs(s - 1.0) <= noise:
                    continue
                if s > 1.0:
                    start, stop = stop, pieces[2, 0]
                    at = newton(start, s, s1) if s1 > 0.0 else stop
                    alpha, shift = next_alpha, next_shift
            bent = shift > 0.0
            limit = fmin(reach, stop)
            lower, upper = start * (1.0 - 1e-15), limit * (1.0 + 1e-14 + fuzz)
            r = size
            if contested or not (r > start and r > 0.5 * at and r < limit):
                r = fmin(at, limit) if at > start else limit
            if bent and alpha - shift * r <= 0.0:
                r = 0.5 * (start + limit)
            for e in range(MAX_EVALUATIONS):
                tau = alpha - shift * r
                if not (tau > 1e-60 and r > 1e-60):
                    break
                for j in range(11):
                    total[j] = 0.0
                for o in range(0, n, width):
                    p = min(o + width, n)
                    t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10 = sum_candidate(
                        row[o:p], spot[o:p], metric[o:p], r, tau, shift, pull, unit
                    )
                    total[0] += t0
                    total[1] += t1
                    total[2] += t2
                    total[3] += t3
                    total[4] += t4
                    total[5] += t5
                    total[6] += t6
                    total[7] += t7
                    total[8] += t8
                    total[9] += t9
                    total[10] += t10
                s, s1, b1 = total[0], total[1], total[2]
                if e == 0:
                    residual = (sqrt(total[8]) + rounding(8.0) * sqrt(total[9]) + pull_error) * up
                if zero:
                    solved = True
                    break
                if not (SAFE_LOW < s < SAFE_HIGH and b1 > SAFE_LOW):
                    break
                m = 1.0 / r
                if bent:
                    m = fmax(steepest(least[g], r, tau, shift), steepest(most[g], r, tau, shift))
                noise = rounding(height + k[0]) * s
                slack = rounding(height + k[1]) * b1
                low, high = bracket(
                    r, s - 1.0 - noise, s - 1.0 + noise, s1, slack, m, b1 + slack, shift, upper
                )
                lower, upper = fmax(lower, low), fmin(upper, high)
                if not lower <= upper:
                    none = lower > upper
                    break
                blur = 5e-15 * r if bent else 0.0
                ahead, behind = fmax(upper - r, 0.0) + blur, fmax(r - lower, 0.0) + blur
                if bent:
                    give = m * fmax(ahead, behind)
                    span = fmax(ahead, behind) / (1.0 - give) if give < 0.5 else INF
                else:
                    span = fmax(ahead, behind * r / lower) if lower > 0.0 else INF
                if span < INF:
                    own = r * sqrt(s)
                    known = sqrt(total[3])
                    spread = alpha * sqrt(total[4]) * span
                    # Good enough against what is known, or as good as the rounding of the sums allows.
                    limited = s1 > 0.0 and fmax(ahead, behind) <= 4.0 * (noise + slack * r) / s1
                    if spread <= 0.125 * known or limited:
                        solved = True
                        near = rounding(k[2] + 2.0)
                        distance = (known + spread + near * own) * up
                        metric_distance = sqrt(total[5]) + alpha * sqrt(total[6]) * span
                        metric_distance = (metric_distance + near * r * sqrt(total[7])) * up + 1e-120
                        # What turns away from z*, and how far the concave p stays below its tangent there.
                        radial = fmax(fmax(size * (1.0 - fuzz) - upper, lower - size * (1.0 + fuzz)), 0.0)
                        across = fmax(distance * distance * (1.0 + 1e-15) - radial * radial, 0.0)
                        turn = sqrt(total[10]) + rounding(k[2] + 4.0 + height) * (sqrt(s) + 1.0)
                        turn = (turn + sqrt(m * b1) * span) * up
                        if size > 0.0:
                            across = fmin(across, size * upper * (turn * turn) * (up * up * up))
                        room = fmin(radial, fmax(stop - upper if size > upper else lower - start, 0.0))
                        sag = 0.5 * fmax(shift, 0.0) * room * room * (1.0 - 1e-14)
                        if size > upper and count > 1:
                            slope = fmax(alpha - shift * upper, 0.0)
                            below = eta * value_at(pieces, upper) + slope * (size - upper) - value
                            sag = fmax(sag, below - rounding(height + 64.0) * (top + alpha * size))
                        tau_low = fmax(alpha - fmax(shift, 0.0) * lower, 0.0) + 1e-14 * alpha
                        gap = 0.5 * tau_low / lower * across - 0.5 * fmin(shift, 0.0) * distance * distance
                        gap = (gap + 0.5 * metric_distance * metric_distance) * (1.0 + rounding(24.0))
                        gap = fmax(gap - sag, 0.0) * (1.0 + 1e-15) + 1e-200
                        break
                best = newton(r, s, s1) if s1 > 0.0 else lower
                if not lower < best < upper:
                    best = 0.5 * (lower + upper)
                if best == r:
                    break
                r = best
            if contested and solved:
                # Compare Q at the root with Q(x): p(‖z‖) - p(∞) + ‖z - x‖²_D/2η.
                tau = fmax(alpha - shift * upper, 0.0)
                moved, kept = 0.0, 0.0
                for o in range(0, n, width):
                    p = min(o + width, n)
                    t0, t1 = sum_moved(row[o:p], metric[o:p], upper, tau)
                    moved += 0.5 * t0
                    kept += t1
                close = rounding(height + 120.0)
                doubt = rounding(64.0) * top
                loss = top - eta * value_at(pieces, lower)
                gain = top - eta * value_at(pieces, fmin(sqrt(kept) * (1.0 + close), end))
                if moved * (1.0 - close) > loss + doubt:
                    none = True
                elif not moved * (1.0 + close) < gain - doubt:
                    continue
            if contested:
                outer = none
            if not outer and not solved:
                continue
        if outer:
            # z* = x.
            if apart > 0.0 and not (
                SAFE_LOW < apart < SAFE_HIGH and apart_metric > SAFE_LOW and apart_pull > SAFE_LOW
            ):
                continue
            if size > 0.0 and size < end:
                # The slope at the candidate is that of another piece.
                for j in range(11):
                    total[j] = 0.0
                for o in range(0, n, width):
                    p = min(o + width, n)
                    t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10 = sum_candidate(
                        row[o:p], spot[o:p], metric[o:p], size, alpha, 0.0, pull, unit
                    )
                    total[8] += t8
                    total[9] += t9
                residual = (sqrt(total[8]) + rounding(8.0) * sqrt(total[9]) + pull_error) * up
            elif size > 0.0:
                residual = sqrt(apart_pull) * up
            distance, metric_distance = sqrt(apart) * up, sqrt(apart_metric) * up
            gain = fmax((top - value) - rounding(64.0) * top, 0.0)
            gap = fmax(0.5 * metric_distance * metric_distance * up - gain, 0.0)
            lower, upper = reach * (1.0 - fuzz), reach * (1.0 + fuzz)
        elif zero:
            distance, metric_distance = size * up, sqrt(dzz) * up
            lower, upper = 0.0, 0.0
            lost = rounding(height + 64.0) * (top + alpha * size + fabs(shift) * zz + norm * size + dzz)
            gap = fmax(value - bz + 0.5 * dzz, 0.0) + lost
        if size == 0.0:
            residual = at_zero
        if count == 1:
            gap = fmin(gap, residual * distance * up)
        out[0, g], out[1, g], out[2, g] = distance, metric_distance, residual / step * up
        out[3, g] = gap / step * up
        out[4, g], out[5, g] = lower, upper
        decided[g], hard[g] = True, False
    return -1


def certify_elements(
    x: Any, z: Any, d: Any, steps: Any, lam: float, nonnegative: bool, begin: int, finish: int, out: Any,
    decided: Any, hard: Any,
) -> int:  # fmt: skip
    """Certify elements ``begin … finish - 1`` for the ℓ1 norm; as :func:`certify_rows`."""
    unit = rounding(8.0)
    for i in range(begin, finish):
        xi, zi, di = np.float64(x[i]), np.float64(z[i]), np.float64(d[i])
        step = steps[i if len(steps) > 1 else 0]
        if not di > 0.0:
            return i
        hard[i] = True
        cut = step * lam / di
        size = fabs(xi)
        safe = 1e-100 < di < 1e100 and 1e-100 < step < 1e100 and 1e-100 < cut < 1e100 and 1e-100 < lam < 1e100
        if not (safe and (xi == 0.0 or 1e-100 < size < 1e100) and (zi == 0.0 or 1e-100 < fabs(zi) < 1e100)):
            continue
        if nonnegative and zi < 0.0:
            continue
        blocked = nonnegative and xi < 0.0
        left = size - cut
        noise = unit * (cut + fabs(left))
        if blocked:
            if zi != 0.0:
                continue
            left = -cut
        elif fabs(left) <= noise:
            continue
        if left < 0.0:
            left, noise = 0.0, 0.0
        z_signed = zi if xi > 0.0 else -zi
        if left > 0.0 and z_signed < 0.0:
            continue
        distance = (fabs((fabs(zi) if left == 0.0 else z_signed) - left) + noise) * (1.0 + unit)
        pulled = di * (zi - xi) / step
        if zi == 0.0:
            excess = -pulled if nonnegative else fabs(pulled)
            stationarity = fmax(excess - lam + unit * (fabs(pulled) + lam), 0.0)
            if left == 0.0:
                stationarity = 0.0
        else:
            residual = pulled + (lam if zi > 0.0 else -lam)
            stationarity = fabs(residual) + unit * (fabs(pulled) + lam)
        gap = 0.5 * di * (distance * distance) / step
        if left == 0.0 and zi != 0.0:
            linear = di * xi * zi / step
            gap = fmax(lam * fabs(zi) - linear + gap, 0.0) + unit * (lam * fabs(zi) + fabs(linear) + gap)
        out[0, i], out[1, i] = distance, sqrt(di) * distance * (1.0 + unit)
        out[2, i], out[3, i] = stationarity * (1.0 + unit), gap * (1.0 + unit)
        out[4, i], out[5, i] = fmax(left - noise, 0.0), (left + noise) * (1.0 + unit)
        decided[i], hard[i] = True, False
    return -1


def collect(source: Any, out: Any, shape: Any, begin: int, finish: int) -> None:
    """Copy the tiles ``begin … finish - 1`` of ``TILE`` neighbouring groups to the first rows of ``out``.

    Square tiles use every cache line that they fetch, whatever the stride. ``shape`` is (outer kept, outer
    reduced, inner kept, inner reduced).
    """
    rows, inner, run = shape[1], shape[2], shape[3]
    stride, n = inner * run, rows * run
    tiles = (inner + TILE - 1) // TILE
    target = 0
    for tile in range(begin, finish):
        outer, first = tile // tiles, (tile % tiles) * TILE
        width = min(TILE, inner - first)
        base = outer * rows * stride + first * run
        for top in range(0, rows, TILE):
            height = min(TILE, rows - top)
            for k in range(width):
                row = out[target + k * n + top * run : target + k * n + (top + height) * run]
                place = base + top * stride + k * run
                if run == 1:
                    column = source[place : place + (height - 1) * stride + 1]
                    for i in range(height):
                        row[i] = column[i * stride]
                else:
                    for i in range(height):
                        segment = source[place + i * stride : place + i * stride + run]
                        for t in range(run):
                            row[i * run + t] = segment[t]
        target += width * n


def applies(penalty: Penalty, layout: Layout) -> bool:
    """Return whether a kernel knows the penalty.

    That is an elementwise part alone on groups of one element, and radial penalties without elementwise part
    that jump at zero and are flat from there, or have one or two sloped pieces and perhaps a flat end.
    """
    equation = penalty.equation
    if equation.flat:
        return penalty.threshold > 0 and isinstance(layout, AxisLayout) and not layout.reduced
    if equation.kernel != "radial" or not equation.compiled or penalty.threshold > 0 or penalty.nonnegative:
        return False
    pieces = equation.rows
    return len(pieces) <= 3 and bool(pieces[0, 1] > 0 or pieces[0, 2] > 0)


TARGET = Target(made, COMPILATION)


@lru_cache(maxsize=3)
def kernel(main: Callable[..., Any]) -> Any:
    """Compile a kernel, cached on disk."""
    return outermost(TARGET, main, {})


def _pieces(penalty: Penalty) -> Any:
    """Return the pieces as the kernel takes them."""
    pieces = penalty.equation.rows
    if pieces[0, 1] > 0.0:  # a jump at zero: a piece without extent before it
        pieces = np.concatenate([np.zeros((1, 4)), pieces])
    return pieces


def _extremes(d: Any, pieces: Any) -> tuple[Any, Any]:
    """Return the least and the greatest metric of each row, where the kernel needs them."""
    if not (pieces[:, 3] > 0.0).any():
        return np.zeros(1), np.zeros(1)
    return np.min(d, axis=1, initial=INF).astype(np.float64), np.max(d, axis=1, initial=0.0).astype(
        np.float64
    )


def _joined(out: Any, decided: Any) -> Bounds:
    distance, metric_distance, stationarity, gap, lower, upper = out
    return Bounds(distance, metric_distance, stationarity, gap, decided, lower, upper, None, None)


def _strided_bounds(
    z: Any, x: Any, d: Any, shape: tuple[int, int, int, int], steps: Any, weights: Any, penalty: Penalty
) -> tuple[Bounds, Any] | None:
    """Certify groups that are not rows, in copies of some at a time that stay in cache.

    Parameters
    ----------
    z, x, d : array
        Candidate, point and metric: contiguous, of one dtype.
    shape : tuple of int
        Sizes of outer kept, outer reduced, inner kept and inner reduced axes.
    steps, weights : array
        One per group.
    penalty : Penalty

    Returns
    -------
    tuple of Bounds and array of bool, or None
        As from :func:`_row_bounds`.
    """
    outer, rows, inner, run = shape
    count, n, tiles = outer * inner, rows * run, -(-inner // TILE)
    out = np.zeros((6, count))
    decided, hard = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    certify, copy, pieces = kernel(certify_rows), kernel(collect), _pieces(penalty)
    geometry = np.array(shape, dtype=np.int64)
    sources = [a.reshape(-1) for a in (x, z, d)]
    together = max(1, CACHED // (TILE * n))

    def group(tile: int) -> int:
        return (tile // tiles) * inner + (tile % tiles) * TILE

    def task(begin: int, finish: int) -> int:
        copies = [np.empty((together * TILE, n), a.dtype) for a in sources]
        for tile in range(begin, finish, together):
            last = min(tile + together, finish)
            low, high = group(tile), group(last)
            for source, target in zip(sources, copies, strict=True):
                copy(source, target.reshape(-1), geometry, tile, last)
            k = high - low
            xs, zs, ds = (target[:k] for target in copies)
            found, known, open_ = np.zeros((6, k)), np.zeros(k, np.bool_), np.zeros(k, np.bool_)
            bad: int = certify(
                xs, zs, ds, *_extremes(ds, pieces), steps[low:high], weights[low:high], pieces, 0, k, found,
                known, open_, np.empty(11),
            )  # fmt: skip
            if bad >= 0:
                return low + bad
            out[:, low:high], decided[low:high], hard[low:high] = found, known, open_
        return -1

    return None if threads.run(task, outer * tiles, x.size) >= 0 else (_joined(out, decided), hard)


def _row_bounds(
    z: Any, x: Any, d: Any, steps: Any, weights: Any, penalty: Penalty
) -> tuple[Bounds, Any] | None:
    """Certify contiguous rows of one dtype; returns the bounds and the rows left open, or None if invalid."""
    rows, n = x.shape
    out = np.zeros((6, rows))
    decided, hard = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
    if penalty.equation.flat:
        lam, nonnegative = penalty.threshold, penalty.nonnegative
        elements = kernel(certify_elements)
        xf, zf, df = x.reshape(-1), z.reshape(-1), d.reshape(-1)

        def task(begin: int, finish: int) -> int:
            found: int = elements(xf, zf, df, steps, lam, nonnegative, begin, finish, out, decided, hard)
            return found
    else:
        pieces = _pieces(penalty)
        least, most = _extremes(d, pieces)
        certify = kernel(certify_rows)

        def task(begin: int, finish: int) -> int:
            found: int = certify(
                x, z, d, least, most, steps, weights, pieces, begin, finish, out, decided, hard, np.empty(11)
            )
            return found

    if threads.run(task, rows, rows * n) >= 0:
        return None
    return _joined(out, decided), hard


def certify(p: Problem, z: Any) -> Bounds:
    """Certify a candidate for a problem; by the array form what kernels do not know or leave open."""
    host, candidate = as_host(p), as_host(z)
    if host.layout.n_groups == 0 or not applies(host.penalty, host.layout):
        return arrays.certify(p, z)
    bounds = _certify(host, candidate)
    if host is not p:
        bounds = Bounds(**{name: as_tensor(getattr(bounds, name)) for name in arrays.GROUPWISE})
    return bounds


def _certify(p: Problem, z: Any) -> Bounds:
    penalty, layout = p.penalty, p.layout
    metric = np.asarray(1.0 if p.metric is None else p.metric)
    kinds = [p.x.dtype, np.asarray(z).dtype]
    if metric.ndim or metric.astype(p.x.dtype) != metric:
        kinds.append(metric.dtype)
    dtype = np.float32 if all(kind == np.float32 for kind in kinds) else np.float64
    full = np.broadcast_to(metric.astype(dtype, copy=False), p.x.shape)
    shape = layout.canonical_shape() if isinstance(layout, AxisLayout) else None
    if shape is not None and shape[1] == 1:
        shape = None  # rows
    sources = [np.asarray(a, dtype=dtype) for a in (z, p.x, full)]
    if shape is not None:
        copies = [[np.ascontiguousarray(a)] for a in sources]
    else:
        fills = (0.0, 0.0, 2.0**-100)
        copies = [
            [np.ascontiguousarray(m) for m in layout.split(a, fill)]
            for a, fill in zip(sources, fills, strict=True)
        ]
    steps, weights = layout.split_groups(p.group_steps()), layout.split_groups(p.group_weights())
    parts = []
    for zs, xs, ds, step, weight in zip(*copies, steps, weights, strict=True):
        if shape is not None:
            found = _strided_bounds(zs, xs, ds, shape, step, weight, penalty)
        else:
            found = _row_bounds(zs, xs, ds, step, weight, penalty)
        if found is None or found[1].any():
            check_finite("z", z, np)
            check_values(p)
        assert found is not None, "the kernel found an invalid value that the check did not"
        bounds, open_rows = found[0], np.flatnonzero(found[1])
        if len(open_rows):
            rows = (a[open_rows] if shape is None else group_rows(a, shape, open_rows) for a in (zs, xs, ds))
            zw, xw, dw = (a.astype(np.float64) for a in rows)
            with np.errstate(all="ignore"):
                other = arrays.array_form(penalty).certify(
                    p.xp, zw, xw, dw, step[open_rows], weight[open_rows], penalty
                )
            for name in arrays.GROUPWISE:
                getattr(bounds, name)[open_rows] = getattr(other, name)
        parts.append(bounds)
    return Bounds(
        **{name: layout.join_groups([getattr(b, name) for b in parts]) for name in arrays.GROUPWISE}
    )
