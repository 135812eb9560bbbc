"""Scalar source of the fused step on a GPU: a block of threads takes some groups, whose elements they hold.

A thread reads its elements of a group once, and keeps point and metric in registers until the radius is
known. Some neighbouring lanes of a warp share a short contiguous group, several warps a long one; groups that
lie side by side, such as columns, share their warps, so that what is read together is used together. All
threads of a group get the same sums, bit for bit, and take the same decisions
(:mod:`proxlab.optim.fused_groups`); those that share warps across groups keep step until the last is done.

Groups that are left to the general solver keep their point as the weights, and a mark. :func:`finish_groups`
looks for marks, so that the host need not ask: it forms the metric anew from the state. Where new weights are
averages the old ones stay, and the point is formed anew too: methods that average read it off the state.

Plain Python, rebuilt by :mod:`proxlab.optim.fused_cuda`, with the words of
:mod:`proxlab.backends.cuda.source` for the general solver.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from proxlab.backends.column_kernels import Zero
from proxlab.backends.cuda.source import Spot, Wanted, exchange, index, runs_before, solve_here
from proxlab.backends.kernel_records import Elements
from proxlab.backends.kernels import locate
from proxlab.backends.ranges import METRIC_CAP, METRIC_FLOOR
from proxlab.choose import Limits
from proxlab.optim.fused_elements import (
    SHRINKS,
    Step,
    Tensor,
    blend,
    formed_of,
    metric,
    point,
    read,
    shrunk,
    soft,
    terms,
    write,
)
from proxlab.optim.fused_groups import (
    DONE,
    OPEN,
    PASSES,
    Numbers,
    advance,
    first_radius,
    open_group,
    quotient,
    ratio_of,
)
from proxlab.optim.fused_many import elements, held
from proxlab.scalar import INF, fmax, fmin

#: Columns of the table of tensors: after the addresses of weights, gradient and at most three arrays of state
#: the four sizes of a shape, the first block, the first group, and where the weights of its groups begin and
#: whether there is one for each.
SHAPE, BLOCK, GROUP, STRENGTH, MANY, COLUMNS = 5, 9, 10, 11, 12, 13
#: The numbers of a step, before the coefficients of the rule: those of :class:`Step` and :class:`Numbers`.
CUT, MINUS, KEEP, ALONE, FINEST, RTOL, UNIT, LOW_SQUARE, ETA, OF_RULE = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
#: Elements that a thread reads before it goes on: what it writes might be what it reads next.
AHEAD = 4

# Set by the build.
cuda: Any = None
#: Groups of a block; threads of a group; elements of a thread at most; threads of a block.
GROUPS, ROWS, HELD, THREADS = 1, 32, 1, 128
#: Whether groups lie side by side, so that neighbouring threads belong to different ones.
SIDE_BY_SIDE = False
#: Lanes that are added up, from the lowest bit to before the highest; warps that a group has a part in.
LOW, HIGH, WARPS = 1, 32, 1
#: Warps of a block.
ALL_WARPS = 4
#: Places of a warp's sums: one, or one for each of the groups that share it.
PLACES = 1
#: What a sum may be wrong by, in units of rounding; pieces of the penalty's slope; iterations at most.
DOUBT, COUNT, MOST = 37.0, 1, 100
#: The type of the data, as arrays and as numbers know it.
KIND: Any = np.dtype(np.float32)
number: Any = np.float32
#: Whether new weights are averages.
AVERAGES = False
# Elements of a thread in :func:`step_elements`.
STRIDE = 8
float64: Any = None


def coefficients4(v: Any) -> Any:
    """Return the numbers of a step for a rule that has four."""
    return Formulas(number(v[9]), number(v[10]), number(v[11]), number(v[12]))


def coefficients5(v: Any) -> Any:
    """As :func:`coefficients4`, of five."""
    return Formulas(number(v[9]), number(v[10]), number(v[11]), number(v[12]), number(v[13]))


def coefficients7(v: Any) -> Any:
    """As :func:`coefficients4`, of seven."""
    return Formulas(
        number(v[9]), number(v[10]), number(v[11]), number(v[12]), number(v[13]), number(v[14]), number(v[15])
    )


def coefficients10(v: Any) -> Any:
    """As :func:`coefficients4`, of ten."""
    return Formulas(
        number(v[9]), number(v[10]), number(v[11]), number(v[12]), number(v[13]), number(v[14]),
        number(v[15]), number(v[16]), number(v[17]), number(v[18]),
    )  # fmt: skip


def hold0(held: Any, q: int, s: Any) -> None:
    """Keep the state of an element, beside weight and gradient."""


def hold1(held: Any, q: int, s: Any) -> None:
    """As :func:`hold0`, of one array."""
    held[q, 2] = s[0]


def hold2(held: Any, q: int, s: Any) -> None:
    """As :func:`hold0`, of two arrays."""
    held[q, 2] = s[0]
    held[q, 3] = s[1]


def hold3(held: Any, q: int, s: Any) -> None:
    """As :func:`hold0`, of three arrays."""
    held[q, 2] = s[0]
    held[q, 3] = s[1]
    held[q, 4] = s[2]


def take0(held: Any, q: int) -> Any:
    """Return what :func:`hold0` keeps."""
    return ()


def take1(held: Any, q: int) -> Any:
    """As :func:`take0`, of one array."""
    return (held[q, 2],)


def take2(held: Any, q: int) -> Any:
    """As :func:`take0`, of two arrays."""
    return held[q, 2], held[q, 3]


def take3(held: Any, q: int) -> Any:
    """As :func:`take0`, of three arrays."""
    return held[q, 2], held[q, 3], held[q, 4]


# Set by the build, for the rule.
Formulas: Any = None
coefficients: Any = coefficients4
hold: Any = hold0
take: Any = take0


def step_of(v: Any) -> Step:
    """Return the numbers of a step in the data's precision."""
    return Step(coefficients(v), number(v[CUT]), number(v[MINUS]), number(v[KEEP]), number(1.0))


def tensor_of(table: Any, column: int, value: int) -> int:
    """Return the tensor to which a block or a group belongs; the last row of the table is none's."""
    low, high = 0, len(table) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if table[middle, column] <= value:
            low = middle
        else:
            high = middle
    return low


def tensor_at(table: Any, k: int, one: float) -> Tensor:
    """Return a tensor of the table; its shape is left there."""
    at = table[k]
    n = at[SHAPE] * at[SHAPE + 1] * at[SHAPE + 2] * at[SHAPE + 3]
    return Tensor(elements(at[0], n, one), elements(at[1], n, one), held(at, n, one), 0)


def team_of(t: int) -> int:
    """Return which of its block's groups a thread belongs to."""
    return t % GROUPS if SIDE_BY_SIDE else t // ROWS


def row_of(t: int) -> int:
    """Return a thread's number in its group."""
    return t // GROUPS if SIDE_BY_SIDE else t % ROWS


def combine(part: Any, a: float, b: float, c: float) -> Any:
    """Add up over the threads of a group, those of a warp in the data's precision."""
    k = HIGH >> 1
    while k >= LOW:
        a += exchange(a, k)
        b += exchange(b, k)
        c += exchange(c, k)
        k >>= 1
    a, b, c = np.float64(a), np.float64(b), np.float64(c)
    if WARPS > 1:
        warp, lane = cuda.threadIdx.x // 32, cuda.threadIdx.x % 32
        if lane < PLACES:
            part[0, warp, lane] = a
            part[1, warp, lane] = b
            part[2, warp, lane] = c
        cuda.syncthreads()
        a, b, c = 0.0, 0.0, 0.0
        first, place = warp // WARPS * WARPS, lane % PLACES
        for k in range(WARPS):
            a += part[0, first + k, place]
            b += part[1, first + k, place]
            c += part[2, first + k, place]
        cuda.syncthreads()
    return a, b, c


def any_going(going: bool) -> bool:
    """Return whether this group goes on, or one that shares barriers with it."""
    return cuda.syncthreads_or(np.int32(going)) != 0 if WARPS > 1 else going


def place_whole(begin: int, i: int, run: int, jump: int) -> int:
    """Return where element ``i`` of a contiguous group lies."""
    return begin + i


def place_column(begin: int, i: int, run: int, jump: int) -> int:
    """Return where element ``i`` of a column lies."""
    return begin + i * jump


def place_runs(begin: int, i: int, run: int, jump: int) -> int:
    """Return where element ``i`` of a group in runs lies."""
    over = runs_before(i, run)
    return begin + over * jump + (i - over * run)


# Set by the build: one of these.
place: Any = place_runs


def read_ahead(ahead: Any, q: int, t: Tensor, p: int) -> None:
    """Read an element of weights, gradient and state."""
    ahead[q, 0] = t.w[p]
    ahead[q, 1] = t.g[p]
    hold(ahead, q, read(t.slots, p))


def formed_ahead(ahead: Any, q: int, t: Tensor, p: int, step: Step) -> Any:
    """Write the new state of an element that was read; returns point and metric as :func:`propose` does."""
    s, x, d = formed_of(ahead[q, 0], ahead[q, 1], take(ahead, q), step)
    write(t.slots, p, s)
    if SHRINKS:
        x = soft(x, d, step.cut, step.minus, step.one - step.one)
    return x, d


def step_groups(table: Any, strengths: Any, marks: Any, values: Any, pieces: Any) -> None:
    """Step with the groups of all tensors of a table; those left to the general solver are marked."""
    step = step_of(values)
    numbers = Numbers(
        pieces, values[ALONE] != 0.0, values[FINEST], values[RTOL], values[UNIT], values[LOW_SQUARE],
        values[ETA], DOUBT * values[UNIT],
    )  # fmt: skip
    one = step.one
    zero = one - one
    part = cuda.shared.array((3, ALL_WARPS, PLACES), float64)
    xs, ds = cuda.local.array(HELD, KIND), cuda.local.array(HELD, KIND)
    ahead = cuda.local.array((AHEAD, 5), KIND)
    k = tensor_of(table, BLOCK, cuda.blockIdx.x)
    at, t = table[k], tensor_at(table, k, one)
    shape = at[SHAPE:BLOCK]
    row = row_of(cuda.threadIdx.x)
    g = (cuda.blockIdx.x - at[BLOCK]) * GROUPS + team_of(cuda.threadIdx.x)
    live = g < shape[0] * shape[2]
    n, run, jump, begin = shape[1] * shape[3], shape[3], shape[2] * shape[3], locate(g, shape)

    bb, bbd, xx, xb, ww = zero, zero, zero, zero, zero
    for f in range(0, HELD, AHEAD):
        for q in range(AHEAD):
            i = row + (f + q) * ROWS
            if live and i < n:
                p = place(begin, i, run, jump)
                read_ahead(ahead, q, t, p)
        for q in range(AHEAD):
            i = row + (f + q) * ROWS
            x, d, v = zero, one, zero
            if live and i < n:
                v = ahead[q, 0]
                x, d = formed_ahead(ahead, q, t, place(begin, i, run, jump), step)
            xs[f + q] = x
            ds[f + q] = d
            b = x * d
            e = b * b
            bb += e
            bbd += e * d
            xx += x * x
            xb += x * b
            ww += v * v
    v0, v1, v2 = combine(part, bb, bbd, xx)
    v3, v4, _ = combine(part, xb, ww, zero)
    at_zero = Zero(v0, v1, v2, v3)
    eta = 0.0
    if live:
        eta = numbers.step * strengths[at[STRENGTH] + (g if at[MANY] else 0)]
    group = open_group(at_zero, first_radius(v4, numbers.table), eta, numbers)
    for _ in range(PASSES):
        ratio = 0.0
        if live and group.state == OPEN:
            ratio = ratio_of(group, eta, numbers)
        if not any_going(ratio > 0.0):
            break
        q = number(ratio)
        s0, s1, s2 = zero, zero, zero
        for j in range(HELD):
            a, b, c = terms(xs[j], ds[j], q, one, one)
            s0 += a
            s1 += b
            s2 += c
        v0, v1, v2 = combine(part, s0, s1, s2)
        if ratio > 0.0:
            group = advance(group, v0, v1, v2, at_zero, eta, numbers)
    ratio, rest, state = quotient(group, eta, numbers)
    if not live:
        return
    q, left = number(ratio), number(rest)
    for j in range(HELD):
        i = row + j * ROWS
        if i < n:
            p = place(begin, i, run, jump)
            x = xs[j]
            if state == DONE:
                x = shrunk(x, ds[j], q, left)
            if AVERAGES:
                x = blend(t.w[p], x, step.keep, one) if state == DONE else t.w[p]
            t.w[p] = x
    if state != DONE and row == 0:
        marks[at[GROUP] + g] = 1


def step_elements(table: Any, bad: Any, values: Any) -> None:
    """Step where no groups are, with all tensors of a table; what is not finite is told in ``bad``."""
    step = step_of(values)
    zero = step.one - step.one
    total = zero
    k = tensor_of(table, BLOCK, cuda.blockIdx.x)
    at, t = table[k], tensor_at(table, k, step.one)
    begin = (cuda.blockIdx.x - at[BLOCK]) * (THREADS * STRIDE) + cuda.threadIdx.x
    n = at[SHAPE] * at[SHAPE + 1] * at[SHAPE + 2] * at[SHAPE + 3]
    ahead = cuda.local.array((AHEAD, 5), KIND)
    for f in range(0, STRIDE, AHEAD):
        for q in range(AHEAD):
            p = begin + (f + q) * THREADS
            if p < n:
                read_ahead(ahead, q, t, p)
        for q in range(AHEAD):
            p = begin + (f + q) * THREADS
            if p < n:
                x, _ = formed_ahead(ahead, q, t, p, step)
                z = blend(ahead[q, 0], x, step.keep, step.one)
                t.w[p] = z
                total += zero * z
    if total != zero:
        cuda.atomic.max(bad, 0, 1)


def given_anew(e: Elements, i: int) -> Any:
    """Return an element of the point, which the weights hold, and of the metric, formed from the state."""
    k = index(e.o, i)
    slots, step = e.d
    return np.float64(e.x[k]), in_range(e.o, metric(read(slots, k), step.c, step.one))


def given_by_state(e: Elements, i: int) -> Any:
    """Return an element of point and metric, both formed from the state, after the elementwise part."""
    slots, step = e.d
    c, one = step.c, step.one
    zero, s = one - one, read(slots, index(e.o, i))
    d = metric(s, c, one)
    x = point(zero, zero, d, s, c)
    if SHRINKS:
        x = soft(x, d, step.cut, step.minus, zero)
    return np.float64(x), in_range(e.o, d)


def in_range(o: Spot, d: float) -> float:
    """Return an element of the metric in a group's units."""
    d = np.float64(d)
    return fmax(fmin(d * o.per_d * o.per_d2, METRIC_CAP), METRIC_FLOOR) if o.most < INF else d


def store_average(e: Elements, z: Any, i: int, value: float) -> None:
    """Write an element of a new weight that is an average."""
    k, step = index(e.o, i), e.d[1]
    z[k] = blend(z[k], number(value), step.keep, step.one)


def finish_groups(table: Any, strengths: Any, marks: Any, bad: Any, values: Any, rows: Any) -> None:
    """Solve the groups that are marked, a block each, and remove the marks."""
    step = step_of(values)
    limits = Limits(values[RTOL], 0.0, MOST, False)
    nothing: Any = 0
    pieces = cuda.shared.array((COUNT, 4), float64)
    if cuda.threadIdx.x == 0:
        for k in range(COUNT):
            for j in range(4):
                pieces[k, j] = rows[k, j]
    scratch = cuda.shared.array((3, WARPS), float64)
    total = table[len(table) - 1, GROUP]
    for first in range(cuda.blockIdx.x * cuda.blockDim.x, total, cuda.gridDim.x * cuda.blockDim.x):
        own = first + cuda.threadIdx.x
        marked = own < total and marks[own] != 0
        if cuda.syncthreads_or(np.int32(marked)) != 0:
            for g in range(first, min(first + cuda.blockDim.x, total)):
                if marks[g] != 0:
                    k = tensor_of(table, GROUP, g)
                    at, t = table[k], tensor_at(table, k, step.one)
                    shape, here = at[SHAPE:BLOCK], g - at[GROUP]
                    spot = Spot(
                        locate(here, shape), shape[3], shape[2] * shape[3], 0, 0.0, False, scratch, 0,
                        1.0, 1.0, 1.0, 1.0, INF,
                    )  # fmt: skip
                    e = Elements(t.w, (t.slots, step), spot, shape[1] * shape[3])
                    weight = strengths[at[STRENGTH] + (here if at[MANY] else 0)]
                    asked = Wanted(values[ETA], weight, pieces, limits)
                    solve_here(e, t.w, 0, asked, bad, nothing)
                    cuda.syncthreads()
                    if cuda.threadIdx.x == 0:
                        marks[g] = 0
