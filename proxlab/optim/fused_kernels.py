"""Scalar source of the fused pass: update the state, form the prox's point and metric, solve, write.

Plain Python, rebuilt and compiled by :mod:`proxlab.optim.fused_cpu`. Elements are computed in the data's
precision, and so are the terms of the sums: the result is the exact prox of data that are perturbed by their
own rounding. Sums go over to float64 every so many terms. What single precision cannot decide (a group at the
threshold, two minimisers, sums out of range) is left to the solver of :mod:`proxlab.prox`.

With ``q = d r/tau`` and ``h = q/(q + 1)`` the prox is ``z = h x``; ``Σ z²``, ``Σ z² h``, ``Σ z² h²`` give the
secular function and its derivatives (docs: the mathematics, §2 to §4), and nothing leaves the range of single
precision before the weights do. The radius is first looked for at that of the weights as they are: a step
changes it little.

Indices are unsigned, which lets the compiler vectorise, and so are the numbers that are added to them. Loops
contain no floating literals: they would make float32 loops compute in float64.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from proxlab.equations.radial import residual
from proxlab.optim import updates
from proxlab.scalar import any_order, fabs, fmax, fmin, sqrt
from proxlab.search import final_step

#: States of a group: solved; to be solved; left to the general solver.
DONE, OPEN, HARD = 0, 1, 2
#: Makes an index; a plain name, since the compiler and the type checker see it differently.
UINT: Any = np.uint64
#: Terms that are summed in the data's precision before the sum goes over to float64.
STRIP = np.uint64(1024)
#: Rows of a block that are: as many terms of each column, or pairs of terms.
ROWS = 16
#: Columns of a block at most, and the distance of their accumulators: constant, and no power of two.
BLOCK = 4096
PITCH = np.uint64(4112)
PITCH2, PITCH3, PITCH4, PITCH5, PITCH6, PITCH7 = (np.uint64(k * 4112) for k in range(2, 8))
#: Evaluations after which a group is left to the general solver.
PASSES = 8
#: While more than one group of so many is open, another pass over a block is worth it.
MANY = 32
#: The ratio ``r/tau`` stays far within single precision.
RATIO_LOW, RATIO_HIGH = 1e-20, 1e20
INF = np.inf
FIRST: Any = np.uint64(0)


def read0(slots: Any, i: int) -> Any:
    """Return the elements ``i`` of all slots."""
    return ()


def read1(slots: Any, i: int) -> Any:
    """As :func:`read0`, of one slot."""
    return (slots[0][i],)


def read2(slots: Any, i: int) -> Any:
    """As :func:`read0`, of two slots."""
    return slots[0][i], slots[1][i]


def read3(slots: Any, i: int) -> Any:
    """As :func:`read0`, of three slots."""
    return slots[0][i], slots[1][i], slots[2][i]


@any_order
def write0(slots: Any, i: int, new: Any) -> None:
    """Write the elements ``i`` of all slots."""


@any_order
def write1(slots: Any, i: int, new: Any) -> None:
    """As :func:`write0`, of one slot."""
    slots[0][i] = new[0]


@any_order
def write2(slots: Any, i: int, new: Any) -> None:
    """As :func:`write0`, of two slots."""
    slots[0][i] = new[0]
    slots[1][i] = new[1]


@any_order
def write3(slots: Any, i: int, new: Any) -> None:
    """As :func:`write0`, of three slots."""
    slots[0][i] = new[0]
    slots[1][i] = new[1]
    slots[2][i] = new[2]


@any_order
def metric_own(s: Any, c: Any, one: float) -> float:
    """Return the metric that the rule forms from its new state."""
    return form(s, c)


@any_order
def metric_unit(s: Any, c: Any, one: float) -> float:
    """Return the identity's metric."""
    return one


@any_order
def blend_new(old: float, new: float, keep: float, one: float) -> float:
    """Return the new weight where it is the prox."""
    return new


@any_order
def blend_average(old: float, new: float, keep: float, one: float) -> float:
    """Return the new weight where it is an average."""
    return keep * old + (one - keep) * new


class Numbers(NamedTuple):
    """What the kernels read of penalty, step and precision.

    Attributes
    ----------
    a, c, end : float
        The first piece of the slope, ``a - c r`` up to ``end``.
    jump, last : float
        The penalty next to zero, and where the last piece begins.
    rtol, unit, low : float
        The tolerance of a radius, the unit roundoff, and below what squares may have vanished.
    step : float
    doubt : float
        What a sum may be wrong by, relative to itself.
    """

    a: float
    c: float
    end: float
    jump: float
    last: float
    rtol: float
    unit: float
    low: float
    step: float
    doubt: float


# Set by the target; here for gradient descent: the rule's formulas, how its slots are read and written, how
# the new weight is made of the old one and the prox, and whether there is an elementwise part.
state: Any = updates.SGD.state
point: Any = updates.SGD.point
form: Any = updates.ADAM.metric
read: Any = read0
write: Any = write0
metric: Any = metric_unit
blend: Any = blend_new
SHRINKS = False


@any_order
def soft(x: float, d: float, cut: float, minus: float, zero: float) -> float:
    """Apply the soft threshold ``cut/d``; ``minus`` is 0 where negative results are to be zero, else 1."""
    size = fabs(x) - cut / d
    size = zero if size <= zero else size  # NaN stays
    return size if x > zero else zero - minus * size


@any_order
def propose(w: Any, g: Any, slots: Any, c: Any, k: int, cut: float, minus: float, one: float) -> Any:
    """Update the state of an element; returns the prox's point and metric, after the elementwise part."""
    v, u = w[k], g[k]
    s = state(v, u, read(slots, k), c)
    write(slots, k, s)
    d = metric(s, c, one)
    x = point(v, u, d, s, c)
    if SHRINKS:
        x = soft(x, d, cut, minus, one - one)
    return x, d


@any_order
def sum_invalid(g: Any, o: int, n: int, one: float) -> float:
    """Return 0, or NaN if the square of an element of ``4 n`` is not finite; four streams are faster."""
    zero = one - one
    total = zero
    p, q, r = o + n, o + n + n, o + n + n + n
    for i in range(n):
        a, b, c, d = g[o + i], g[p + i], g[q + i], g[r + i]
        total += zero * ((a * a + b * b) + (c * c + d * d))
    return total


@any_order
def sum_flow(
    w: Any, g: Any, slots: Any, c: Any, o: int, n: int, cut: float, minus: float, keep: float, one: float
) -> float:
    """Step where no groups are; returns 0, or NaN if a weight is not finite."""
    zero = one - one
    total = zero
    for i in range(n):
        k = o + i
        x, _ = propose(w, g, slots, c, k, cut, minus, one)
        z = blend(w[k], x, keep, one)
        w[k] = z
        total += zero * z
    return total


@any_order
def sum_update(
    w: Any, g: Any, slots: Any, c: Any, o: int, n: int, x: Any, d: Any, p: int, cut: float, minus: float,
    one: float,
) -> Any:  # fmt: skip
    """Update state, form point and metric at ``p``, and sum ``b²``, ``b² d``, ``x²``, ``d x²``, ``w²``."""
    zero = one - one
    bb, bbd, xx, xb, ww = zero, zero, zero, zero, zero
    for i in range(n):
        k = o + i
        v = w[k]
        xi, di = propose(w, g, slots, c, k, cut, minus, one)
        x[p + i] = xi
        d[p + i] = di
        b = xi * di
        s = b * b
        bb += s
        bbd += s * di
        xx += xi * xi
        xb += xi * b
        ww += v * v
    return bb, bbd, xx, xb, ww


@any_order
def sum_terms(x: Any, d: Any, p: int, n: int, ratio: float, one: float) -> Any:
    """Sum ``z²``, ``z² h``, ``z² h²``."""
    zero = one - one
    s, s1, s2 = zero, zero, zero
    for i in range(n):
        q = d[p + i] * ratio
        h = q / (q + one)
        z = x[p + i] * h
        a = z * z
        b = a * h
        s += a
        s1 += b
        s2 += b * h
    return s, s1, s2


@any_order
def write_group(
    w: Any, o: int, n: int, x: Any, d: Any, p: int, ratio: float, rest: float, keep: float, one: float
) -> None:
    """Write ``z = x q/(q + rest)``."""
    for i in range(n):
        q = d[p + i] * ratio
        w[o + i] = blend(w[o + i], x[p + i] * (q / (q + rest)), keep, one)


def cast(value: float, buffer: Any) -> float:
    """Return a number in the data's precision."""
    buffer[0] = value
    return buffer[0]


def first_radius(ww: float, end: float) -> float:
    """Return where the radius is first looked for: at that of the weights as they are."""
    return fmin(sqrt(ww), 0.999 * end)


def open_group(bb: float, bbd: float, xx: float, xb: float, ww: float, eta: float, numbers: Numbers) -> Any:
    """Decide from the sums at zero; returns state, radius, strength, curvature, far end, lower bound."""
    a0, c0, end, jump, last = numbers.a, numbers.c, numbers.end, numbers.jump, numbers.last
    low, doubt = numbers.low, numbers.doubt
    a, c = eta * a0, eta * c0
    norm, reach = sqrt(bb), sqrt(xx)
    if not (bb < 1.0 / low and xx < 1.0 / low and end * end > 1e3 * low):
        return HARD, 0.0, a, c, 0.0, 0.0
    if bb <= low:
        # Squares may have vanished, but not those of anything that could pass a greater threshold.
        if (jump == 0.0 and a * a > 1e3 * low and reach < end) or (jump > 0.0 and xb <= low < eta * last):
            return DONE, 0.0, a, c, 0.0, 0.0
        return HARD, 0.0, a, c, 0.0, 0.0
    f0 = 1.0 if jump > 0.0 else (a - norm) / norm
    if fabs(f0) <= 4.0 * doubt or fabs(reach - end) <= 4.0 * doubt * reach:
        return HARD, 0.0, a, c, 0.0, 0.0
    beyond = reach > end
    if f0 >= 0.0:
        if beyond or (a0 == 0.0 and c0 == 0.0):
            # Zero against the point itself.
            keep, drop = eta * last, 0.5 * xb
            if not fabs(keep - drop) > 4.0 * doubt * (keep + drop):
                return HARD, 0.0, a, c, 0.0, 0.0
            if keep < drop:
                return DONE, 1.0, 0.0, 0.0, 0.0, 0.0
        return DONE, 0.0, a, c, 0.0, 0.0
    if not (1e-5 * low < bbd < INF and xx > low):
        return HARD, 0.0, a, c, 0.0, 0.0
    slope = (bbd - c * bb) / (bb * norm)
    limit = end if beyond else reach * (1.0 + doubt)
    at = INF
    if slope > 0.0:
        at = -f0 / slope * (1.0 - fmin(4.0 * doubt / fabs(f0), 1.0))
    if at > limit:
        if beyond:
            # No minimiser on the first piece: the point itself.
            return DONE, 1.0, 0.0, 0.0, 0.0, 0.0
        if slope <= 0.0:
            return HARD, 0.0, a, c, 0.0, 0.0
        at = limit
    r = fmax(fmin(first_radius(ww, end), 2.0 * limit), at)
    return OPEN, r, a, c, limit, at


def advance(
    v: float, v1: float, v2: float, r: float, a: float, c: float, far: float, at: float, numbers: Numbers
) -> Any:
    """Go on from the sums at ``r``; returns the new state and radius, and with ``z = x`` strength 0."""
    end, rtol, unit = numbers.end, numbers.rtol, numbers.unit
    tau = a - c * r
    up, down = 1.0 / r + c / tau, c / tau
    inverse = 1.0 / (r * r)
    s = v * inverse
    s1 = (up * v1 - down * v) * inverse
    s2 = (up * up * v2 - 2.0 * up * down * v1 + down * down * v) * inverse
    f, slope, bend = residual(s, s1, s2)
    noise = 16.0 * unit
    if not (f > -INF and f < INF):
        return HARD, r, a
    if slope <= 0.0 or (f < -noise and r - f / slope > far):
        if r > at:
            # Not from here: from the lower bound.
            return OPEN, at, a
        # Below zero, and the tangent ends beyond the piece: no root on it, and z = x where the rest is flat.
        if f < -noise and far == end:
            return DONE, 1.0, 0.0
        return HARD, r, a
    step = f / slope
    rate = 1.0 / r + (fmax(c, 0.0) / tau)
    final, error = final_step(r, f, slope, bend, rate)
    # To leading order the estimate is eight times too large at least, and a pass is dear.
    if 0.125 * error <= rtol * r or fabs(f) <= noise:
        # Where the point lies beyond the piece, it is a rival.
        return HARD if far == end else DONE, fmin(fmax(final, at), far), a
    low, high = fmin(r - 2.0 * step, r), fmax(r - 2.0 * step, r)
    new = final if low < final < high else r - step
    return OPEN, fmax(fmin(new, far), at), a


def quotient(state: int, r: float, a: float, c: float) -> Any:
    """Return ratio and rest of ``z = x q/(q + rest)``, and the state."""
    if state != DONE or r == 0.0:
        return 0.0, 1.0, state
    if a == 0.0 and c >= 0.0:
        return 1.0, 0.0, state
    ratio = r / (a - c * r)
    if RATIO_LOW < ratio < RATIO_HIGH:
        return ratio, 1.0, state
    return 0.0, 1.0, HARD


def flow(
    w: Any, g: Any, slots: Any, c: Any, begin: int, finish: int, cut: float, minus: float, keep: float,
    one: float,
) -> float:  # fmt: skip
    """Step with the elements ``begin … finish - 1``; returns 0, or NaN if a weight is not finite."""
    return sum_flow(w, g, slots, c, UINT(begin), UINT(finish - begin), cut, minus, keep, one)


def invalid(g: Any, begin: int, finish: int, one: float) -> float:
    """Return 0, or NaN if the square of an element is not finite."""
    quarter = (finish - begin) // 4
    total = sum_invalid(g, UINT(begin), UINT(quarter), one)
    for i in range(begin + 4 * quarter, finish):
        total += (one - one) * (g[i] * g[i])
    return total


def rows(
    w: Any, g: Any, slots: Any, c: Any, shape: Any, begin: int, finish: int, weights: Any, numbers: Numbers,
    cut: float, minus: float, keep: float, one: float, x: Any, d: Any, hard: Any, part: Any,
) -> Any:  # fmt: skip
    """Step with the contiguous groups ``begin … finish - 1``.

    Point and metric of groups that are left to the general solver stay in ``x`` and ``d``, one after the
    other, and their numbers in ``hard``; their weights stay. Returns the next group, which is ``finish``
    unless these are full, and how many were left.
    """
    n = UINT(shape[3])
    count = 0
    for group in range(begin, finish):
        o, p = UINT(group) * n, UINT(count) * n
        bb, bbd, xx, xb, ww = 0.0, 0.0, 0.0, 0.0, 0.0
        for at in range(FIRST, n, STRIP):
            m = min(STRIP, n - at)
            t0, t1, t2, t3, t4 = sum_update(w, g, slots, c, o + at, m, x, d, p + at, cut, minus, one)
            bb, bbd, xx, xb, ww = bb + t0, bbd + t1, xx + t2, xb + t3, ww + t4
        eta = numbers.step * weights[group if len(weights) > 1 else 0]
        state, r, a, curve, far, floor = open_group(bb, bbd, xx, xb, ww, eta, numbers)
        for _ in range(PASSES):
            if state != OPEN:
                break
            ratio = r / (a - curve * r)
            if not (RATIO_LOW < ratio < RATIO_HIGH):
                break
            v, v1, v2 = 0.0, 0.0, 0.0
            for at in range(FIRST, n, STRIP):
                m = min(STRIP, n - at)
                t0, t1, t2 = sum_terms(x, d, p + at, m, cast(ratio, part), one)
                v, v1, v2 = v + t0, v1 + t1, v2 + t2
            state, r, a = advance(v, v1, v2, r, a, curve, far, floor, numbers)
        ratio, rest, state = quotient(state, r, a, curve)
        if state == DONE:
            write_group(w, o, n, x, d, p, cast(ratio, part), cast(rest, part), keep, one)
        else:
            hard[count] = group
            count += 1
            if count == len(hard):
                return group + 1, count
    return finish, count


@any_order
def write_point(w: Any, g: Any, slots: Any, c: Any, k: int, cut: float, minus: float, one: float) -> Any:
    """Update an element, whose point goes to ``w``; returns point and metric."""
    x, d = propose(w, g, slots, c, k, cut, minus, one)
    w[k] = x
    return x, d


@any_order
def terms(x: float, d: float, ratio: float, one: float) -> Any:
    """Return an element's ``z²``, ``z² h``, ``z² h²``."""
    q = d * ratio
    h = q / (q + one)
    z = x * h
    a = z * z
    b = a * h
    return a, b, b * h


@any_order
def add_update(
    w: Any, g: Any, slots: Any, c: Any, o: int, stride: int, n: int, cut: float, minus: float, one: float,
    part: Any,
) -> None:  # fmt: skip
    """Update two rows of a block, and add the sums at zero and the terms at the columns' ratios."""
    for i in range(n):
        k = o + i
        ratio = part[i + PITCH7]
        x, d = write_point(w, g, slots, c, k, cut, minus, one)
        y, e = write_point(w, g, slots, c, k + stride, cut, minus, one)
        b, f = x * d, y * e
        s, t = b * b, f * f
        s0, s1, s2 = terms(x, d, ratio, one)
        t0, t1, t2 = terms(y, e, ratio, one)
        part[i] += s + t
        part[i + PITCH] += s * d + t * e
        part[i + PITCH2] += x * x + y * y
        part[i + PITCH3] += x * b + y * f
        part[i + PITCH4] += s0 + t0
        part[i + PITCH5] += s1 + t1
        part[i + PITCH6] += s2 + t2


@any_order
def add_update_row(
    w: Any, g: Any, slots: Any, c: Any, o: int, n: int, cut: float, minus: float, one: float, part: Any
) -> None:
    """Do as :func:`add_update`, for one row."""
    for i in range(n):
        x, d = write_point(w, g, slots, c, o + i, cut, minus, one)
        b = x * d
        s = b * b
        s0, s1, s2 = terms(x, d, part[i + PITCH7], one)
        part[i] += s
        part[i + PITCH] += s * d
        part[i + PITCH2] += x * x
        part[i + PITCH3] += x * b
        part[i + PITCH4] += s0
        part[i + PITCH5] += s1
        part[i + PITCH6] += s2


@any_order
def add_squares(w: Any, g: Any, o: int, n: int, one: float, part: Any) -> None:
    """Add a row's ``w²`` to the columns, and 0 or NaN if the square of a gradient is not finite."""
    zero = one - one
    for i in range(n):
        k = o + i
        part[i] += w[k] * w[k] + zero * (g[k] * g[k])


@any_order
def add_terms(w: Any, slots: Any, c: Any, o: int, stride: int, n: int, one: float, part: Any) -> None:
    """Add two rows' terms to the columns' sums; the columns' ratios stand behind the three sums."""
    for i in range(n):
        k = o + i
        j = k + stride
        ratio = part[i + PITCH3]
        a0, b0, c0 = terms(w[k], metric(read(slots, k), c, one), ratio, one)
        a1, b1, c1 = terms(w[j], metric(read(slots, j), c, one), ratio, one)
        part[i] += a0 + a1
        part[i + PITCH] += b0 + b1
        part[i + PITCH2] += c0 + c1


@any_order
def add_terms_row(w: Any, slots: Any, c: Any, o: int, n: int, one: float, part: Any) -> None:
    """Add one row's terms, as :func:`add_terms`."""
    for i in range(n):
        k = o + i
        s, s1, s2 = terms(w[k], metric(read(slots, k), c, one), part[i + PITCH3], one)
        part[i] += s
        part[i + PITCH] += s1
        part[i + PITCH2] += s2


@any_order
def write_row(w: Any, slots: Any, c: Any, o: int, n: int, one: float, part: Any) -> None:
    """Write a row of ``z = x q/(q + rest)``; ratios and rests are the first two rows of ``part``."""
    for i in range(n):
        k = o + i
        q = metric(read(slots, k), c, one) * part[i]
        w[k] = w[k] * (q / (q + part[i + PITCH]))


@any_order
def add_part(part: Any, total: Any, n: int, sums: int) -> None:
    """Move sums over to float64."""
    for k in range(UINT(sums)):
        base = k * PITCH
        for i in range(n):
            total[base + i] += part[base + i]
            part[base + i] = part[base + i] - part[base + i]


def clear(sums: Any, n: int, count: int) -> None:
    """Set ``count`` sums of ``n`` columns to zero."""
    for k in range(UINT(count)):
        sums[k * PITCH : k * PITCH + n] = 0.0


def fold(total: Any, groups: int, run: int, sums: int) -> None:
    """Add the columns of each group; the sum of group ``k`` lands in column ``k``."""
    if run == 1:
        return
    for s in range(sums):
        base = s * np.int64(PITCH)
        for k in range(groups):
            t = 0.0
            for j in range(run):
                t += total[base + k * run + j]
            total[base + k] = t


def scan(
    w: Any, g: Any, shape: Any, begin: int, finish: int, per_block: int, one: float, part: Any, total: Any,
    squares: Any,
) -> bool:  # fmt: skip
    """Sum the squares of the weights of each group; returns whether those of the gradient are finite.

    Blocks and shape are those of :func:`columns`.
    """
    length, kept, run = shape[1], shape[2], shape[3]
    blocks = (kept + per_block - 1) // per_block
    finite = True
    for block in range(begin, finish):
        outer, first = block // blocks, (block % blocks) * per_block
        groups = min(per_block, kept - first)
        n = UINT(groups * run)
        base = UINT(outer * length * kept * run + first * run)
        clear(part, n, 1)
        clear(total, n, 1)
        for i in range(length):
            add_squares(w, g, base + UINT(i * kept * run), n, one, part)
            if i % ROWS == ROWS - 1:
                add_part(part, total, n, 1)
        add_part(part, total, n, 1)
        fold(total, groups, run, 1)
        for k in range(groups):
            squares[outer * kept + first + k] = total[k]
            finite &= total[k] < INF
    return finite


def columns(
    w: Any, g: Any, slots: Any, c: Any, shape: Any, begin: int, finish: int, weights: Any, numbers: Numbers,
    cut: float, minus: float, one: float, hard: Any, part: Any, total: Any, values: Any, per_block: int,
    squares: Any,
) -> Any:  # fmt: skip
    """Step with the blocks ``begin … finish - 1`` of neighbouring groups, a block at once.

    ``shape`` is (outer kept, outer reduced, inner kept, inner reduced). The point goes to ``w``, the metric
    is formed anew for each pass: nothing is kept for each element. ``squares`` are those of the groups'
    lengths before the step. Groups that are left to the general solver keep their point, and after a block
    with such groups the kernel returns, with their numbers in ``hard``. Returns the next block and how many
    groups were left.
    """
    length, kept, run = shape[1], shape[2], shape[3]
    blocks = (kept + per_block - 1) // per_block
    stride = UINT(kept * run)
    r, a, curve, far, floor, state = values[0], values[1], values[2], values[3], values[4], values[5]
    for block in range(begin, finish):
        outer, first = block // blocks, (block % blocks) * per_block
        groups = min(per_block, kept - first)
        n = UINT(groups * run)
        base = UINT(outer * length * kept * run + first * run)
        clear(part, n, 7)
        clear(total, n, 7)
        for k in range(groups):
            group = outer * kept + first + k
            eta = numbers.step * weights[group if len(weights) > 1 else 0]
            r[k] = first_radius(squares[group], numbers.end)
            ratio = r[k] / (eta * (numbers.a - numbers.c * r[k]))
            if not (RATIO_LOW < ratio < RATIO_HIGH):
                ratio, r[k] = 0.0, -1.0
            for j in range(UINT(k * run), UINT(k * run + run)):
                part[j + PITCH7] = ratio
        pairs = length - length % 2
        for i in range(0, pairs, 2):
            add_update(w, g, slots, c, base + UINT(i) * stride, stride, n, cut, minus, one, part)
            if i % (2 * ROWS) == 2 * ROWS - 2:
                add_part(part, total, n, 7)
        if pairs < length:
            add_update_row(w, g, slots, c, base + UINT(pairs) * stride, n, cut, minus, one, part)
        add_part(part, total, n, 7)
        fold(total, groups, run, 7)
        active = 0
        for k in range(groups):
            group = outer * kept + first + k
            eta = numbers.step * weights[group if len(weights) > 1 else 0]
            j = UINT(k)
            guess = r[k]
            code, r[k], a[k], curve[k], far[k], floor[k] = open_group(
                total[j], total[j + PITCH], total[j + PITCH2], total[j + PITCH3], squares[group], eta, numbers
            )
            if code == OPEN and r[k] == guess:
                code, r[k], a[k] = advance(
                    total[j + PITCH4], total[j + PITCH5], total[j + PITCH6], guess, a[k], curve[k], far[k],
                    floor[k], numbers,
                )  # fmt: skip
            state[k] = code
            active += code == OPEN
        for _ in range(PASSES):
            # A pass costs as much for a few groups as for all; the last few are cheaper one by one.
            if active <= groups // MANY:
                break
            for k in range(groups):
                ratio = 0.0
                if state[k] == OPEN:
                    ratio = r[k] / (a[k] - curve[k] * r[k])
                    if not (RATIO_LOW < ratio < RATIO_HIGH):
                        state[k] = HARD
                        active -= 1
                        ratio = 0.0
                for j in range(UINT(k * run), UINT(k * run + run)):
                    part[j + PITCH3] = ratio
            clear(total, n, 3)
            for i in range(0, pairs, 2):
                add_terms(w, slots, c, base + UINT(i) * stride, stride, n, one, part)
                if i % (2 * ROWS) == 2 * ROWS - 2:
                    add_part(part, total, n, 3)
            if pairs < length:
                add_terms_row(w, slots, c, base + UINT(pairs) * stride, n, one, part)
            add_part(part, total, n, 3)
            fold(total, groups, run, 3)
            for k in range(groups):
                if state[k] == OPEN:
                    j = UINT(k)
                    code, r[k], a[k] = advance(
                        total[j], total[j + PITCH], total[j + PITCH2], r[k], a[k], curve[k], far[k],
                        floor[k], numbers,
                    )  # fmt: skip
                    state[k] = code
                    active -= code != OPEN
        count = 0
        for k in range(groups):
            ratio, rest, code = quotient(state[k], r[k], a[k], curve[k])
            if code != DONE:
                # Leaves the point.
                ratio, rest = 1.0, 0.0
                hard[count] = outer * kept + first + k
                count += 1
            for j in range(UINT(k * run), UINT(k * run + run)):
                part[j] = ratio
                part[j + PITCH] = rest
        for i in range(length):
            write_row(w, slots, c, base + UINT(i) * stride, n, one, part)
        if count > 0:
            return block + 1, count
    return finish, count
