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


@any_order
def sum_of(total: Any, o: int, n: int) -> float:
    """Return the sum of ``n`` columns."""
    t = total[o] - total[o]
    for i in range(n):
        t += total[o + i]
    return t


def clear(sums: Any, n: int, count: int) -> None:
    """Set ``count`` sums of ``n`` columns to zero."""
    for k in range(UINT(count)):
        sums[k * PITCH : k * PITCH + n] = 0.0


def fold(total: Any, s: int, beside: int, width: int, sums: Any, k: int) -> None:
    """Add the columns of each of the groups that lie side by side to its sum, that of the first at ``k``."""
    base = s * np.int64(PITCH)
    for j in range(beside):
        sums[k + j] += sum_of(total, UINT(base + j * width), UINT(width))


def spread(numbers: Any, k: int, beside: int, width: int, part: Any, o: Any) -> None:
    """Give each column the number of its group."""
    for j in range(beside):
        for i in range(UINT(j * width), UINT(j * width + width)):
            part[i + o] = numbers[k + j]


def side_by_side(shape: Any, group: int, most: int) -> int:
    """Return how many groups, from one on, are taken at once: their rows lie side by side."""
    if shape[4] > 1:
        return 1
    return min(most, shape[2] - group % shape[2], BLOCK // shape[3])


def place(shape: Any, group: int) -> Any:
    """Return where a group begins."""
    stride = shape[2] * shape[3]
    return UINT((group // shape[2]) * shape[1] * stride + (group % shape[2]) * shape[3])


def row(shape: Any, i: int) -> Any:
    """Return how far behind the beginning of a group its row ``i`` begins."""
    return UINT((i // shape[4]) * shape[2] * shape[3] + (i % shape[4]) * (shape[3] // shape[4]))


class Block(NamedTuple):
    """Neighbouring groups that are solved at once.

    Attributes
    ----------
    first, n : int
        The first of them, and how many they are.
    r, a, curve, far, floor, state : array of float
        What :func:`open_group` says of each.
    ratio, rest : array of float
        Its metric times ``ratio`` is ``q``, and ``z = x q/(q + rest)``.
    sums : array of float
        Seven of each: of the squares at zero, and at the ratio.
    """

    first: int
    n: int
    r: Any
    a: Any
    curve: Any
    far: Any
    floor: Any
    state: Any
    ratio: Any
    rest: Any
    sums: Any


def block_in(values: Any, first: int, count: int) -> Block:
    """Return a block whose numbers are kept in ``values``."""
    return Block(
        first, count, values[0], values[1], values[2], values[3], values[4], values[5], values[6], values[7],
        values[8:],
    )  # fmt: skip


def scan_groups(
    w: Any, g: Any, shape: Any, first: int, count: int, one: float, part: Any, total: Any, squares: Any
) -> None:
    """Add to the squares of groups what those of the weights are; NaN if one of the gradient is not finite.

    ``shape`` is (outer kept, outer reduced, inner kept, inner reduced, cuts): a group has a row of
    ``inner reduced / cuts`` elements for each outer reduced element and cut.
    """
    width, k = shape[3] // shape[4], 0
    while k < count:
        m = side_by_side(shape, first + k, count - k)
        n, base = UINT(m * width), place(shape, first + k)
        clear(part, n, 1)
        clear(total, n, 1)
        for i in range(shape[1] * shape[4]):
            add_squares(w, g, base + row(shape, i), n, one, part)
            if i % ROWS == ROWS - 1:
                add_part(part, total, n, 1)
        add_part(part, total, n, 1)
        fold(total, 0, m, width, squares, first + k)
        k += m


def update_groups(
    w: Any, g: Any, slots: Any, c: Any, shape: Any, block: Block, cut: float, minus: float, one: float,
    part: Any, total: Any,
) -> None:  # fmt: skip
    """Update what a tensor has of the groups of a block, and add to their sums.

    The point goes to ``w``, the metric is formed anew for each pass: nothing is kept for each element.
    """
    rows, width, k = shape[1] * shape[4], shape[3] // shape[4], 0
    pairs = rows - rows % 2
    while k < block.n:
        m = side_by_side(shape, block.first + k, block.n - k)
        n, base = UINT(m * width), place(shape, block.first + k)
        clear(part, n, 7)
        clear(total, n, 7)
        spread(block.ratio, k, m, width, part, PITCH7)
        for i in range(0, pairs, 2):
            o = row(shape, i)
            stride = row(shape, i + 1) - o
            add_update(w, g, slots, c, base + o, stride, n, cut, minus, one, part)
            if i % (2 * ROWS) == 2 * ROWS - 2:
                add_part(part, total, n, 7)
        if pairs < rows:
            add_update_row(w, g, slots, c, base + row(shape, pairs), n, cut, minus, one, part)
        add_part(part, total, n, 7)
        for s in range(7):
            fold(total, s, m, width, block.sums[s], k)
        k += m


def terms_of_groups(
    w: Any, slots: Any, c: Any, shape: Any, block: Block, one: float, part: Any, total: Any
) -> None:
    """Add what a tensor has of the terms of the groups of a block, at their ratios."""
    rows, width, k = shape[1] * shape[4], shape[3] // shape[4], 0
    pairs = rows - rows % 2
    while k < block.n:
        m = side_by_side(shape, block.first + k, block.n - k)
        n, base = UINT(m * width), place(shape, block.first + k)
        clear(total, n, 3)
        spread(block.ratio, k, m, width, part, PITCH3)
        for i in range(0, pairs, 2):
            o = row(shape, i)
            stride = row(shape, i + 1) - o
            add_terms(w, slots, c, base + o, stride, n, one, part)
            if i % (2 * ROWS) == 2 * ROWS - 2:
                add_part(part, total, n, 3)
        if pairs < rows:
            add_terms_row(w, slots, c, base + row(shape, pairs), n, one, part)
        add_part(part, total, n, 3)
        for s in range(3):
            fold(total, s, m, width, block.sums[s], k)
        k += m


def write_groups(w: Any, slots: Any, c: Any, shape: Any, block: Block, one: float, part: Any) -> None:
    """Write what a tensor has of the groups of a block."""
    width, k = shape[3] // shape[4], 0
    while k < block.n:
        m = side_by_side(shape, block.first + k, block.n - k)
        n, base = UINT(m * width), place(shape, block.first + k)
        spread(block.ratio, k, m, width, part, FIRST)
        spread(block.rest, k, m, width, part, PITCH)
        for i in range(shape[1] * shape[4]):
            write_row(w, slots, c, base + row(shape, i), n, one, part)
        k += m


def first_ratios(block: Block, squares: Any, weights: Any, numbers: Numbers) -> None:
    """Set the radii at which groups are first looked at, -1 where there is none."""
    for k in range(block.n):
        group = block.first + k
        eta = numbers.step * weights[group if len(weights) > 1 else 0]
        r = first_radius(squares[group], numbers.end)
        ratio = r / (eta * (numbers.a - numbers.c * r))
        usable = RATIO_LOW < ratio < RATIO_HIGH
        block.r[k], block.ratio[k] = (r, ratio) if usable else (-1.0, 0.0)
        for s in range(7):
            block.sums[s, k] = 0.0


def open_groups(block: Block, squares: Any, weights: Any, numbers: Numbers) -> int:
    """Decide from the sums at zero, and go on from those at the radius; returns how many are open."""
    active, sums = 0, block.sums
    for k in range(block.n):
        group = block.first + k
        eta = numbers.step * weights[group if len(weights) > 1 else 0]
        guess = block.r[k]
        code, r, a, curve, far, floor = open_group(
            sums[0, k], sums[1, k], sums[2, k], sums[3, k], squares[group], eta, numbers
        )
        if code == OPEN and r == guess:
            code, r, a = advance(sums[4, k], sums[5, k], sums[6, k], guess, a, curve, far, floor, numbers)
        block.state[k], block.r[k], block.a[k] = code, r, a
        block.curve[k], block.far[k], block.floor[k] = curve, far, floor
        active += code == OPEN
    return active


def next_ratios(block: Block) -> int:
    """Set the ratios of the groups that are open; returns how many are left to the general solver."""
    left = 0
    for k in range(block.n):
        ratio = 0.0
        if block.state[k] == OPEN:
            ratio = block.r[k] / (block.a[k] - block.curve[k] * block.r[k])
            if not (RATIO_LOW < ratio < RATIO_HIGH):
                block.state[k] = HARD
                left += 1
                ratio = 0.0
        block.ratio[k] = ratio
        for s in range(3):
            block.sums[s, k] = 0.0
    return left


def advance_groups(block: Block, numbers: Numbers) -> int:
    """Go on from the sums; returns how many groups are still open."""
    active, sums = 0, block.sums
    for k in range(block.n):
        if block.state[k] == OPEN:
            block.state[k], block.r[k], block.a[k] = advance(
                sums[0, k], sums[1, k], sums[2, k], block.r[k], block.a[k], block.curve[k], block.far[k],
                block.floor[k], numbers,
            )  # fmt: skip
            active += block.state[k] == OPEN
    return active


def close_groups(block: Block, hard: Any) -> int:
    """Set the last ratios; returns how many groups keep their point, with their numbers in ``hard``."""
    count = 0
    for k in range(block.n):
        ratio, rest, code = quotient(block.state[k], block.r[k], block.a[k], block.curve[k])
        if code != DONE:
            ratio, rest = 1.0, 0.0
            hard[count] = block.first + k
            count += 1
        block.ratio[k], block.rest[k] = ratio, rest
    return count
