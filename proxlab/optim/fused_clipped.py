"""Scalar source of the fused pass under the maximum norm: what becomes of a group, and of its elements.

These take the places of the functions of those names in :mod:`proxlab.optim.fused_elements` and the modules
that use it. The *radius* is the level ``t`` at which elements are clipped, where ``S(t) = Σ d (|x| - t)₊`` is
the step times the group's weight (docs: the mathematics, §7). ``S`` is convex and piecewise linear: a step of
Newton's method from below ends below the level, or on it if it passes no element. Whether it passes one, the
least of the elements above says, which is kept beside the sums. Contiguous groups, of which a minimum is not
vectorised, have the metric of the elements above a second level summed, behind the one that is looked for.
Where groups are not contiguous, the first look is at the level of the last step: that is the largest weight.

Of the sums at zero (:class:`~proxlab.backends.column_kernels.Zero`) ``bb`` is here ``Σ d |x|`` and ``bbd`` is
``Σ d``; ``xx`` is the largest size of an element, and ``xb`` the metric there. Of a group ``r`` is the level
at which sums are asked for, ``hi`` the second, or 0 where there was none, and ``lo`` one that is not above
the level that is looked for. Of the sums there the third is the least size above it.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from proxlab.backends.column_kernels import Zero
from proxlab.optim.fused_blocks import Block
from proxlab.optim.fused_columns import PITCH, PITCH2, PITCH3, PITCH4, PITCH5, PITCH6, fold
from proxlab.optim.fused_elements import UINT
from proxlab.optim.fused_groups import DONE, HARD, OPEN, RATIO_HIGH, RATIO_LOW, Group, Numbers
from proxlab.optim.fused_rows import sum_row
from proxlab.scalar import INF, any_order, fabs, fmax, fmin, power

#: From so many times the wanted sum on, a step of Newton's method is too short.
FAR = 4.0
FOUR: Any = np.uint64(4)
#: Of the sums of a pass with the update: the largest size, and its metric.
SIZE, METRIC = 2, 3


def terms_at_zero(x: float, d: float) -> Any:
    """Return an element's ``d |x|``, ``d``, ``|x|`` and ``d``."""
    size = fabs(x)
    return size * d, d, size, d


def terms(x: float, d: float, ratio: float, above: float, one: float) -> Any:
    """Return an element's ``d (|x| - t)₊`` at the level ``ratio``, and ``d`` above that and a second one."""
    zero, size = one - one, fabs(x)
    over = size - ratio
    a = d if over > zero else zero
    return a * over, a, d if size > above else zero


def column_terms(x: float, d: float, ratio: float, one: float) -> Any:
    """Return an element's ``d (|x| - t)₊`` at the level ``t``, and ``d`` and ``|x|`` where that is above."""
    zero, size = one - one, fabs(x)
    over = size - ratio
    is_above = over > zero
    a = d if is_above else zero
    return a * over, a, size if is_above else one / zero


def shrunk(x: float, d: float, ratio: float, rest: float) -> float:
    """Return an element clipped at the level ``ratio``, or as it is where there is no rest."""
    z = fmin(fmax(x, -ratio), ratio)
    return stored(z if rest > rest - rest else x, rest)


def stored(chosen: float, any_number: float) -> float:
    """Return one of two numbers such that it is stored even where it lies there already.

    Else the compiler stores what changes alone, under a mask, for which some processors take long.
    """
    return chosen - (any_number - any_number)


def measured(v: float) -> float:
    """Return the size of a weight."""
    return fabs(v)


def joined(a: float, b: float) -> float:
    """Return the greater of two sizes, or NaN if one is not finite."""
    # Nothing is greater than NaN, which stays.
    return fmax(b, a) + (b - b)


@any_order
def largest(x: Any, p: int, n: int, one: float) -> float:
    """Return the largest size of ``n`` elements from ``p`` on; four streams are faster."""
    a, b, c, d = one - one, one - one, one - one, one - one
    q = n // FOUR
    for i in range(q):
        k = p + i
        a, b = fmax(fabs(x[k]), a), fmax(fabs(x[k + q]), b)
        c, d = fmax(fabs(x[k + q + q]), c), fmax(fabs(x[k + q + q + q]), d)
    for i in range(q * FOUR, n):
        a = fmax(fabs(x[p + i]), a)
    return fmax(fmax(a, b), fmax(c, d))


def row_radius(ww: float, table: Any) -> float:
    """Return where the level of a contiguous group is first looked for: nowhere, another pass costs less."""
    return 0.0


def topped(
    zero: Zero, eta: float, x: Any, d: Any, p: int, n: int, numbers: Numbers, part: Any, one: float
) -> Zero:
    """Return the sums at zero with the largest of ``n`` elements from ``p`` on, and its metric."""
    if not eta < zero.bb < INF:
        return zero
    top = np.float64(largest(x, p, n, one))
    _, metric, _ = sum_row(x, d, p, n, (1.0 - 4.0 * numbers.unit) * top, 0.0, part, one)
    return Zero(zero.bb, zero.bbd, top, metric)


def last_of(ve: float, vee: float, above: float) -> float:
    """Return the second level if no element is between the two, as their metrics say, and else 0."""
    return above if vee == ve else 0.0


def first_radius(ww: float, table: Any) -> float:
    """Return where the level is first looked for: at the largest weight."""
    return ww


def is_single(table: Any) -> bool:
    """Return whether groups are decided together: a power is no part of a vector."""
    return False


def rounded(r: float, numbers: Numbers) -> float:
    """Return a level in the data's precision (Dekker 1971), as elements are held against it."""
    a = r * (1.0 + numbers.unit * 2.0**53)
    return a - (a - r)


def ratio_of(group: Group, eta: float, numbers: Numbers) -> float:
    """Return the level at which sums are asked for; zero if it is out of range."""
    return group.r if RATIO_LOW < group.r < RATIO_HIGH else 0.0


def open_group(zero: Zero, guess: float, eta: float, numbers: Numbers) -> Group:
    """Decide from the sums at zero; ``guess`` is where the level is first looked for."""
    low, doubt, total = numbers.low, numbers.doubt, zero.bb
    if not (total < 1.0 / low and zero.bbd < 1.0 / low):
        return Group(HARD, 0.0, 0, 0.0, 0.0)
    if eta == 0.0:
        return Group(DONE, 1.0, 0, 0.0, 0.0)
    if total <= low < 0.5 * eta:
        # Products may have vanished, but none that weighs as much.
        return Group(DONE, 0.0, 0, 0.0, 0.0)
    over = total - eta
    if not (low < eta and fabs(over) > 4.0 * doubt * total):
        return Group(HARD, 0.0, 0, 0.0, 0.0)
    if over < 0.0:
        return Group(DONE, 0.0, 0, 0.0, 0.0)
    # By the tangent at zero, and by the largest element alone.
    lo = fmax((over - 4.0 * doubt * total) / zero.bbd, zero.xx - eta / zero.xb)
    if guess > 0.0:
        return Group(OPEN, guess, 0, lo, 0.0)
    return aimed(0.0, total, zero.bbd, lo, zero, eta, numbers)


def aimed(t: float, v: float, ve: float, lo: float, zero: Zero, eta: float, numbers: Numbers) -> Group:
    """Return where to go on from the sums at a level.

    Where the level is, as if the sum were a power of the distance from the largest element: elements are few
    below that, and so the next sums are asked for at ``lo`` unless it is far.
    """
    top = zero.xx
    share = power(eta / v, v / (ve * (top - t))) if t < top else 0.0
    r = fmax(top - (top - t) * share, lo)
    beyond = fmin(r + r - lo, top) * (1.0 + 2.0 * numbers.rtol)
    return Group(OPEN, rounded(lo if v < FAR * eta else r, numbers), 0, lo, rounded(beyond, numbers))


def advance(group: Group, v: float, ve: float, far: float, zero: Zero, eta: float, numbers: Numbers) -> Group:
    """Go on from ``S`` and the metric of what is above the level; up to ``far`` there is no other element."""
    _, t, _, lo, _ = group
    if not (v < INF and ve < INF):
        return Group(HARD, 0.0, 0, 0.0, 0.0)
    if not (v > 0.0 and ve > 0.0):
        # All elements are below.
        return aimed(0.0, zero.bb, zero.bbd, lo, zero, eta, numbers)
    if ve <= zero.xb * (1.0 + numbers.rtol):
        # The level is below the largest element, and that alone is above.
        far = INF
    over = v - eta
    step = over / ve
    r = t + step
    if (over >= 0.0 and r <= far) or fabs(over) <= 16.0 * numbers.unit * eta:
        return Group(DONE if r > 0.0 else HARD, r, 0, 0.0, 0.0)
    if over < 0.0 and -step <= 2.0 * numbers.rtol * t:
        # The level is in between.
        return Group(DONE, t + 0.5 * step, 0, 0.0, 0.0)
    new = aimed(t, v, ve, fmax(lo, r), zero, eta, numbers)
    if over > 0.0 and new.r <= t:
        return Group(OPEN, rounded(t * (1.0 + 2.0 * numbers.unit), numbers), 0, new.lo, new.hi)
    return new


def quotient(group: Group, eta: float, numbers: Numbers) -> Any:
    """Return the level and whether there is one, and the state."""
    if group.state != DONE or group.r == 0.0:
        return 0.0, 1.0, group.state
    if eta == 0.0:
        return 1.0, 0.0, group.state
    ratio = ratio_of(group, eta, numbers)
    return ratio, 1.0, DONE if ratio > 0.0 else HARD


# ----------------------------------------------------------------------------------------------------
# Columns: of two of the sums only the greater is kept, and so it is in the look at the weights.


def third(a: float, s: Any) -> float:
    """Return the least of the sizes above a level, with that of an element's terms."""
    return stored(fmin(s[2], a), s[1])


def plus7(a: Any, b: Any) -> Any:
    """Return the sums of seven terms, and the greater of the sizes with its metric."""
    more = b[2] > a[2]
    return (
        a[0] + b[0], a[1] + b[1], b[2] if more else a[2], b[3] if more else a[3], a[4] + b[4], a[5] + b[5],
        fmin(b[6], a[6]),
    )  # fmt: skip


def add7(part: Any, i: int, s: Any) -> None:
    """Add to the sums, and keep the greatest size with its metric, and the least above the level."""
    size, metric = part[i + PITCH2], part[i + PITCH3]
    more = s[2] > size
    part[i] += s[0]
    part[i + PITCH] += s[1]
    part[i + PITCH2] = stored(s[2] if more else size, s[3])
    part[i + PITCH3] = stored(s[3] if more else metric, s[3])
    part[i + PITCH4] += s[4]
    part[i + PITCH5] += s[5]
    part[i + PITCH6] = stored(fmin(s[6], part[i + PITCH6]), s[3])


def is_least(count: int, k: int) -> bool:
    """Return whether one of so many sums is the least size above a level."""
    return count > 1 and k == count - 1


def clear(sums: Any, n: int, count: int) -> None:
    """Set sums to what is nothing to them."""
    for k in range(UINT(count)):
        sums[k * PITCH : k * PITCH + n] = INF if is_least(count, k) else 0.0


def forget_sums(block: Block, first: int) -> None:
    """Clear the sums from the row ``first`` on."""
    for s in range(first, 7):
        for j in range(block.begin, block.end):
            block.sums[s, j] = INF if is_least(7, s) else 0.0


def add_part(part: Any, total: Any, n: int, count: int) -> None:
    """Move sums over to float64."""
    for k in range(UINT(count)):
        base = k * PITCH
        if is_least(count, k):
            for i in range(n):
                total[base + i] = fmin(part[base + i], total[base + i])
                part[base + i] = INF
            continue
        if count == 7 and k == SIZE:
            for i in range(n):
                more = part[base + i] > total[base + i]
                total[base + i] = part[base + i] if more else total[base + i]
                total[base + PITCH + i] = part[base + PITCH + i] if more else total[base + PITCH + i]
        elif not (count == 7 and k == METRIC):
            for i in range(n):
                total[base + i] += part[base + i]
        for i in range(n):
            part[base + i] = part[base + i] - part[base + i]


def fold_all(total: Any, count: int, block: Block, first: int, beside: int, width: int, k: int) -> None:
    """As elsewhere, and keep a group's greatest size with its metric, and the least above the level."""
    for s in range(count):
        if is_least(count, s):
            least, base = block.sums[first + s], UINT(s) * PITCH
            for j in range(beside):
                for i in range(UINT(j * width), UINT(j * width + width)):
                    least[k + j] = fmin(total[base + i], least[k + j])
        elif not (count == 7 and SIZE <= s <= METRIC):
            fold(total, s, beside, width, block.sums[first + s], k)
    if count == 7:
        for j in range(beside):
            for i in range(UINT(j * width), UINT(j * width + width)):
                if total[i + PITCH2] > block.sums[SIZE, k + j]:
                    block.sums[SIZE, k + j], block.sums[METRIC, k + j] = total[i + PITCH2], total[i + PITCH3]


def keep_part(part: Any, total: Any, n: int, count: int) -> None:
    """Move what is kept over to float64; there is one."""
    for i in range(n):
        total[i] = joined(total[i], part[i])
        part[i] = part[i] - part[i]


def keep_folded(total: Any, count: int, block: Block, first: int, beside: int, width: int, k: int) -> None:
    """Keep, for each of the groups that lie side by side, the greatest of its columns."""
    for j in range(beside):
        for i in range(UINT(j * width), UINT(j * width + width)):
            block.sums[first, k + j] = joined(block.sums[first, k + j], total[i])
