"""Scalar source of the GPU kernels: the words of a *team* of threads, and the kernels around the driver.

A team is some neighbouring lanes of a warp, a block, or the whole grid. Its threads share the loops of
:mod:`proxlab.backends.sums` (thread ``t`` of ``w`` takes the elements ``t, t + w, …``) and add up; every
thread gets the same sums, bit for bit, and runs the driver of :mod:`proxlab.backends.one_group` on them, so
that no thread ever waits for another one's decision. The driver hands ``x, d, o, n`` on unread: here ``o`` is
a :class:`Spot`.

Plain Python, rebuilt by :mod:`proxlab.backends.cuda.build`. Sums may be contracted to fused multiply-adds and
are taken in any order: their error bounds hold for both. Double-double arithmetic is neither: its products
carry explicit rounding.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from proxlab.backends.kernel_records import Data, Elements, Found, Lying, Request, Shrink, Steps
from proxlab.backends.kernels import locate
from proxlab.backends.one_group import APART, BAD, explained, solve_one, write
from proxlab.backends.ranges import METRIC_CAP, METRIC_FLOOR
from proxlab.backends.records import GroupResults
from proxlab.backends.sums import UINT
from proxlab.choose import CONVERGED, MAX_ITERATIONS, UNSHRUNK, Limits
from proxlab.double_double import add_doubles
from proxlab.scalar import INF, NAN, fabs, fmax, fmin

# Set by the build.
cuda: Any = None
math: Any = None
libdevice: Any = None
# Lanes of a team (of a warp, for a block), of a warp; warps of a block; elements of a tile.
WIDTH, WARP, WARPS, TILE = 32, 32, 8, 1
# Elements of a tile that a thread reads before it writes one.
AHEAD = 4
# Whether there is a metric per element, a soft threshold or sign constraint, data whose squares may leave the
# range, groups by index, an explained result; the number of pieces of the slope.
DENSE, SHRINKS, RESCALES, RAGGED, EXPLAIN, COUNT = True, False, False, False, False, 1
float64: Any = None
X_DTYPE: Any = None
D_DTYPE: Any = None
# The types of point, metric and indices, as numbers know them; the array of a type that lies at an address.
number_x: Any = np.float32
number_d: Any = np.float32
number_i: Any = np.int32
elements: Any = None
# A group is solved once: twice would take more registers. What other targets copy a group to.
ATTEMPTS = 1
NO_ROOM: Any = 0


class Spot(NamedTuple):
    """Where a group is, and in what units it is read.

    Attributes
    ----------
    begin, run, stride, indices : int, int, int, array of int
        Where it begins, the length of its runs and their distance; its elements, where it goes by index.
    cut, nonnegative : float, bool
        What is done to its elements: the soft threshold in the metric, and whether negative ones become zero.
    scratch, grid : array
        Where the warps of a block, and the blocks of a grid, tell each other their sums.
    per_x, per_x2, per_d, per_d2 : float
        What elements are multiplied by: two numbers, whose product need not be one.
    most : float
        The metric counts as no more than this.
    """

    begin: int
    run: int
    stride: int
    indices: Any
    cut: float
    nonnegative: bool
    scratch: Any
    grid: Any
    per_x: float
    per_x2: float
    per_d: float
    per_d2: float
    most: float


# What a launch hands over, as numba takes it fastest: a tuple of whole numbers, with arrays as addresses (0
# for what there is none of), and one of real numbers, which ends with the table of pieces.
GROUPS, SIZE, X, D, Z, INVALID, SHAPE = range(7)
STEPS, WEIGHTS, INDPTR, INDICES, CHOSEN, PARTIAL, OUT = range(SHAPE + 4, SHAPE + 11)
MOST, NONNEGATIVE, WHOLE = range(OUT + 6, OUT + 9)
METRIC, STEP, WEIGHT, THRESHOLD, RTOL, ATOL, PIECES = range(7)


class Values(NamedTuple):
    """A number of each group, where there are ``many``, or the ``one`` of all."""

    one: float
    each: Any
    many: bool


# ----------------------------------------------------------------------------------------------------
# Teams. Each kind defines its lane, its width, the first group and the distance to the next, and two
# reductions, from which the others are made.


def lane_lanes() -> int:
    """Return the number of this thread in its team."""
    return cuda.threadIdx.x & (WIDTH - 1)


def width_lanes() -> int:
    """Return the threads of a team."""
    return WIDTH


def first_lanes() -> int:
    """Return the first group of this team."""
    return (cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x) // WIDTH


def stride_lanes() -> int:
    """Return the distance to its next group."""
    return cuda.gridDim.x * cuda.blockDim.x // WIDTH


def exchange(v: float, k: int) -> float:
    """Return the value of the lane whose number differs in the bit ``k``."""
    here = cuda.threadIdx.x & (WARP - 1) & ~(WIDTH - 1)
    return cuda.shfl_xor_sync(((1 << WIDTH) - 1) << here, v, k)


def combine_lanes(e: Elements, a: float, b: float, c: float) -> Any:
    """Add up over the lanes of a team. Both partners add the same two numbers: all get the same result."""
    k = WIDTH >> 1
    while k > 0:
        a += exchange(a, k)
        b += exchange(b, k)
        c += exchange(c, k)
        k >>= 1
    return a, b, c


def greatest_lanes(e: Elements, v: float) -> float:
    """Return the greatest over a team."""
    k = WIDTH >> 1
    while k > 0:
        v = fmax(v, exchange(v, k))
        k >>= 1
    return v


def precise_lanes(e: Elements, high: float, low: float) -> Any:
    """Add up double-doubles over the lanes of a team."""
    k = WIDTH >> 1
    while k > 0:
        high, low = add_doubles((high, low), (exchange(high, k), exchange(low, k)))
        k >>= 1
    return high, low


def lane_block() -> int:
    """Return the number of this thread in its team."""
    return cuda.threadIdx.x


def width_block() -> int:
    """Return the threads of a team."""
    return cuda.blockDim.x


def first_block() -> int:
    """Return the first group of this team."""
    return cuda.blockIdx.x


def stride_block() -> int:
    """Return the distance to its next group."""
    return cuda.gridDim.x


def combine_block(e: Elements, a: float, b: float, c: float) -> Any:
    """Add up over a block: each warp by shuffles, then the warps' sums by every thread, in one order."""
    a, b, c = combine_lanes(e, a, b, c)
    part, warp = e.o.scratch, cuda.threadIdx.x // WIDTH
    if cuda.threadIdx.x % WIDTH == 0:
        part[0, warp] = a
        part[1, warp] = b
        part[2, warp] = c
    cuda.syncthreads()
    a, b, c = 0.0, 0.0, 0.0
    for k in range(WARPS):
        a += part[0, k]
        b += part[1, k]
        c += part[2, k]
    cuda.syncthreads()
    return a, b, c


def greatest_block(e: Elements, v: float) -> float:
    """Return the greatest over a team."""
    v = greatest_lanes(e, v)
    part = e.o.scratch
    if cuda.threadIdx.x % WIDTH == 0:
        part[0, cuda.threadIdx.x // WIDTH] = v
    cuda.syncthreads()
    for k in range(WARPS):
        v = fmax(v, part[0, k])
    cuda.syncthreads()
    return v


def precise_block(e: Elements, high: float, low: float) -> Any:
    """Add up double-doubles over a team."""
    high, low = precise_lanes(e, high, low)
    part = e.o.scratch
    if cuda.threadIdx.x % WIDTH == 0:
        part[0, cuda.threadIdx.x // WIDTH] = high
        part[1, cuda.threadIdx.x // WIDTH] = low
    cuda.syncthreads()
    high, low = 0.0, 0.0
    for k in range(WARPS):
        high, low = add_doubles((high, low), (part[0, k], part[1, k]))
    cuda.syncthreads()
    return high, low


def lane_grid() -> int:
    """Return the number of this thread in its team."""
    return cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x


def width_grid() -> int:
    """Return the threads of a team."""
    return cuda.gridDim.x * cuda.blockDim.x


def first_grid() -> int:
    """Return the first group of this team."""
    return 0


def stride_grid() -> int:
    """Return the distance to its next group."""
    return 1


def combine_grid(e: Elements, a: float, b: float, c: float) -> Any:
    """Add up over all blocks of a cooperative launch: every block adds the blocks' sums in one order."""
    a, b, c = combine_block(e, a, b, c)
    part, blocks = e.o.grid, cuda.gridDim.x
    if cuda.threadIdx.x == 0:
        part[cuda.blockIdx.x] = a
        part[blocks + cuda.blockIdx.x] = b
        part[2 * blocks + cuda.blockIdx.x] = c
    cuda.cg.this_grid().sync()
    a, b, c = 0.0, 0.0, 0.0
    for k in range(cuda.threadIdx.x, blocks, cuda.blockDim.x):
        a += part[k]
        b += part[blocks + k]
        c += part[2 * blocks + k]
    a, b, c = combine_block(e, a, b, c)
    cuda.cg.this_grid().sync()
    return a, b, c


def greatest_grid(e: Elements, v: float) -> float:
    """Return the greatest over a team."""
    v = greatest_block(e, v)
    part = e.o.grid
    if cuda.threadIdx.x == 0:
        part[cuda.blockIdx.x] = v
    cuda.cg.this_grid().sync()
    for k in range(cuda.threadIdx.x, cuda.gridDim.x, cuda.blockDim.x):
        v = fmax(v, part[k])
    v = greatest_block(e, v)
    cuda.cg.this_grid().sync()
    return v


def precise_grid(e: Elements, high: float, low: float) -> Any:
    """Add up double-doubles over a team."""
    high, low = precise_block(e, high, low)
    part, blocks = e.o.grid, cuda.gridDim.x
    if cuda.threadIdx.x == 0:
        part[cuda.blockIdx.x] = high
        part[blocks + cuda.blockIdx.x] = low
    cuda.cg.this_grid().sync()
    high, low = 0.0, 0.0
    for k in range(cuda.threadIdx.x, blocks, cuda.blockDim.x):
        high, low = add_doubles((high, low), (part[k], part[blocks + k]))
    high, low = precise_block(e, high, low)
    cuda.cg.this_grid().sync()
    return high, low


# The team of a kernel, chosen by the build from those above.
lane: Any = None
width: Any = None
first: Any = None
stride: Any = None
combine: Any = None
greatest: Any = None
precise: Any = None


def two_product_fused(a: float, b: float) -> Any:
    """Multiply: the rounded product, which the compiler must not fuse with a sum, and its error."""
    p = libdevice.dmul_rn(a, b)
    return p, cuda.fma(a, b, -p)


# ----------------------------------------------------------------------------------------------------
# Elements of a group.


def span(e: Elements, begin: int, end: int) -> Any:
    """Return which of the elements ``begin … end - 1`` this thread goes over."""
    return range(begin + lane(), end, width())


def index_contiguous(o: Spot, i: int) -> int:
    """Return where element ``i`` of a group lies."""
    return UINT(o.begin + i)


def runs_before(i: int, run: int) -> int:
    """Return how many runs lie before element ``i``; divided in 32 bits, which the device does by itself."""
    over: Any = np.int64(np.uint32(i) // np.uint32(run))
    return over


def index_strided(o: Spot, i: int) -> int:
    """Return where element ``i`` of a group lies."""
    over = runs_before(i, o.run)
    return UINT(o.begin + over * o.stride + i - over * o.run)


def index_gathered(o: Spot, i: int) -> int:
    """Return where element ``i`` of a group lies."""
    return UINT(o.indices[UINT(o.begin + i)])


# Where element i of a group lies; chosen by the build.
index: Any = None


def soft(v: float, cut: float, nonnegative: bool) -> float:
    """Move ``v`` towards zero by ``cut``, and to zero where it is negative and may not be; NaN stays."""
    size = fmax(0.0, fabs(v) - cut)
    least = 0.0 if nonnegative and v < 0.0 else 0.0 - size
    return size if v > 0.0 else least


def load(e: Elements, i: int) -> Any:
    """Return an element of ``x`` and of the metric: after the elementwise part, in the group's units."""
    x, d = given(e, i)
    return x * e.o.per_x * e.o.per_x2 if RESCALES else x, d


def load_narrow(e: Elements, i: int) -> Any:
    """Return an element of the point and of the metric in single precision."""
    k = index(e.o, i)
    return np.float32(e.x[k]), np.float32(e.d[k] if DENSE else e.d)


def given(e: Elements, i: int) -> Any:
    """Return an element of ``x`` after the elementwise part, in the caller's units, and of the metric."""
    o, k = e.o, index(e.o, i)
    x, d = np.float64(e.x[k]), np.float64(e.d[k]) if DENSE else e.d
    if SHRINKS:
        x = np.float64(soft(x, o.cut / d, o.nonnegative))
    if RESCALES:
        least = METRIC_FLOOR if o.most < INF else 0.0  # what is no metric stays none
        d = np.float64(fmax(fmin(d * o.per_d * o.per_d2, o.most), least))
    return x, d


def store(e: Elements, z: Any, i: int, value: float) -> None:
    """Write an element of the result."""
    z[index(e.o, i)] = value


def in_units(e: Elements, ex: int, ed: int, room: Any) -> Elements:
    """Read ``x`` in units of ``2^ex`` and ``d`` of ``2^ed`` from here on."""
    o = e.o
    per_x, per_d = -ex // 2, -ed // 2
    units = Spot(
        o.begin, o.run, o.stride, o.indices, o.cut, o.nonnegative, o.scratch, o.grid, math.ldexp(1.0, per_x),
        math.ldexp(1.0, -ex - per_x), math.ldexp(1.0, per_d), math.ldexp(1.0, -ed - per_d), METRIC_CAP,
    )  # fmt: skip
    return Elements(e.x, e.d, units, e.n)


def any_shrunk(e: Elements) -> bool:
    """Tell whether the elementwise part changed an element."""
    changed = 0.0
    for i in span(e, 0, e.n):
        changed = 1.0 if given(e, i)[0] != np.float64(e.x[index(e.o, i)]) else changed
    return greatest(e, changed) > 0.0


# ----------------------------------------------------------------------------------------------------
# Kernels.


def one_of(numbers: Values, g: int) -> float:
    """Return the number of group ``g``, or the one for all."""
    return numbers.each[g] if numbers.many else numbers.one


class Wanted(NamedTuple):
    """What is asked for of a group: its step and weight, the table of pieces, and how exactly."""

    step: float
    weight: float
    pieces: Any
    limits: Limits


def solve_here(e: Elements, z: Any, g: int, asked: Wanted, bad: Any, out: GroupResults) -> None:
    """Solve group ``g``; where its input is invalid, write NaN and say so in ``bad``.

    The same where it spreads further than these kernels follow.
    """
    solved = solve_one(e, asked.step, asked.weight, asked.pieces, asked.limits, NO_ROOM)
    found, status = solved.found, solved.found.status
    if status in (BAD, APART):
        found, status = Found(NAN, 0.0, 0.0, INF, MAX_ITERATIONS, 0, 0), MAX_ITERATIONS
        for i in span(e, 0, e.n):
            store(e, z, i, NAN)
        if lane() == 0:
            cuda.atomic.max(bad, 0, 1)
    else:
        if EXPLAIN and SHRINKS:  # noqa: SIM102 (constants)
            if status == UNSHRUNK and any_shrunk(e):
                status = CONVERGED
        write(solved.e, z, found.r, found.tau, math.ldexp(1.0, solved.ex))
    if EXPLAIN:  # noqa: SIM102 (a constant)
        if lane() == 0:
            explained(out, g, found, status, solved.ex)


def data_of(whole: Any, real: Any) -> Data:
    """Return point, metric and result."""
    n = whole[SIZE]
    x, z = elements(whole[X], n, number_x(0.0)), elements(whole[Z], n, number_x(0.0))
    d = real[METRIC]
    if DENSE:
        d = elements(whole[D], n, number_d(0.0))
    return Data(x, d, z, DENSE)


def lying_of(whole: Any) -> Lying:
    """Return where groups lie."""
    shape = whole[SHAPE], whole[SHAPE + 1], whole[SHAPE + 2], whole[SHAPE + 3]
    indptr, indices, chosen, n = 0, 0, 0, whole[SIZE]
    if RAGGED:
        indptr, indices = elements(whole[INDPTR], n, number_i(0)), elements(whole[INDICES], n, number_i(0))
        chosen = elements(whole[CHOSEN], n, number_i(0))
    return Lying(shape, indptr, indices, chosen)


def values_at(address: int, n: int, one: float) -> Values:
    """Return the numbers of groups at an address, or one where there is none."""
    return Values(one, elements(address, n, 0.0), address != 0)


def request_of(whole: Any, real: Any) -> Request:
    """Return what is asked for; the table of pieces is what ends the real numbers."""
    n = whole[SIZE]
    steps = Steps(values_at(whole[STEPS], n, real[STEP]), values_at(whole[WEIGHTS], n, real[WEIGHT]))
    limits = Limits(real[RTOL], real[ATOL], whole[MOST], EXPLAIN)
    return Request(steps, Shrink(real[THRESHOLD], whole[NONNEGATIVE] != 0), real, limits)


def results_of(whole: Any) -> GroupResults:
    """Return where to put what is known of groups."""
    n, one = whole[SIZE], np.int64(0)
    return GroupResults(
        elements(whole[OUT], n, 0.0), elements(whole[OUT + 1], n, 0.0), elements(whole[OUT + 2], n, 0.0),
        elements(whole[OUT + 3], n, one), elements(whole[OUT + 4], n, one), elements(whole[OUT + 5], n, one),
    )  # fmt: skip


def share_table(real: Any, pieces: Any) -> None:
    """Copy the table of pieces to shared memory."""
    if cuda.threadIdx.x == 0:
        for k in range(4 * COUNT):
            pieces[k // 4, k % 4] = real[PIECES + k]
    cuda.syncthreads()


def solve_groups(whole: Any, real: Any) -> None:
    """Solve groups, a team each: contiguous or strided ones of one shape, or ``chosen`` ragged ones."""
    data, layout, request = data_of(whole, real), lying_of(whole), request_of(whole, real)
    bad, out = elements(whole[INVALID], 1, np.int32(0)), results_of(whole)
    partial, count = elements(whole[PARTIAL], whole[SIZE], 0.0), whole[GROUPS]
    pieces = cuda.shared.array((COUNT, 4), float64)
    share_table(request.pieces, pieces)
    own, shape = request.limits, layout.shape
    scratch = cuda.shared.array((3, WARPS), float64)
    n = shape[1] * shape[3]
    for k in range(first(), count, stride()):
        g = k
        if RAGGED:
            g = layout.chosen[k]
            begin = layout.indptr[g]
            n = layout.indptr[g + 1] - begin
        else:
            begin = locate(g, shape)
        step, weight = one_of(request.steps.steps, g), one_of(request.steps.weights, g)
        spot = Spot(
            begin, shape[3], shape[2] * shape[3], layout.indices, step * request.shrink.threshold,
            request.shrink.nonnegative, scratch, partial, 1.0, 1.0, 1.0, 1.0, INF,
        )  # fmt: skip
        solve_here(Elements(data.x, data.d, spot, n), data.z, g, Wanted(step, weight, pieces, own), bad, out)


class Place(NamedTuple):
    """An element of a tile: ``within`` a run of the group ``over`` of a row; or a distance of two."""

    row: int
    over: int
    within: int


def place_of(t: int, here: int, run: int) -> Place:
    """Return element ``t`` of a tile of ``here`` groups, in the order of memory."""
    over = t // run
    return Place(UINT(over // here), UINT(over % here), UINT(t % run))


def beyond(p: Place, by: Place, here: int, run: int) -> Place:
    """Return the element that lies so far behind another one: divisions take longer than carries."""
    row, over, within = p.row + by.row, p.over + by.over, p.within + by.within
    if within >= UINT(run):
        within, over = within - UINT(run), over + UINT(1)
    if over >= UINT(here):
        over, row = over - UINT(here), row + UINT(1)
    return Place(row, over, within)


def solve_tile(whole: Any, real: Any) -> None:
    """Solve neighbouring strided groups, ``groups`` to a block: whole segments of rows are read and written.

    A tile in shared memory holds them one after the other, an odd number of elements apart.
    """
    data, layout, request = data_of(whole, real), lying_of(whole), request_of(whole, real)
    bad, out = elements(whole[INVALID], 1, np.int32(0)), results_of(whole)
    partial, groups = elements(whole[PARTIAL], whole[SIZE], 0.0), whole[GROUPS]
    pieces = cuda.shared.array((COUNT, 4), float64)
    share_table(request.pieces, pieces)
    own, shape = request.limits, layout.shape
    scratch = cuda.shared.array((3, WARPS), float64)
    xs = cuda.shared.array(TILE, X_DTYPE)
    ds = data.d
    if DENSE:
        ds = cuda.shared.array(TILE, D_DTYPE)
    rows, run = shape[1], shape[3]
    blocks = (shape[2] + groups - 1) // groups
    outer, start = cuda.blockIdx.x // blocks, cuda.blockIdx.x % blocks * groups
    here = min(groups, shape[2] - start)
    n, length, jump = rows * run, here * run, shape[2] * run
    base = outer * rows * jump + start * run
    pitch = n | 1
    total, mine = rows * length, place_of(cuda.threadIdx.x, here, run)
    by, p, q = place_of(cuda.blockDim.x, here, run), mine, mine
    ahead_x, ahead_d = cuda.local.array(AHEAD, X_DTYPE), cuda.local.array(AHEAD, D_DTYPE)
    for first in range(cuda.threadIdx.x, total, AHEAD * cuda.blockDim.x):
        for k in range(AHEAD):
            if first + k * cuda.blockDim.x < total:
                there = UINT(base) + p.row * UINT(jump) + p.over * UINT(run) + p.within
                ahead_x[k] = data.x[there]
                if DENSE:
                    ahead_d[k] = data.d[there]
                p = beyond(p, by, here, run)
        for k in range(AHEAD):
            if first + k * cuda.blockDim.x < total:
                inside = q.over * UINT(pitch) + q.row * UINT(run) + q.within
                xs[inside] = ahead_x[k]
                if DENSE:
                    ds[inside] = ahead_d[k]
                q = beyond(q, by, here, run)
    cuda.syncthreads()
    for k in range(cuda.threadIdx.x // WIDTH, here, cuda.blockDim.x // WIDTH):
        g = outer * shape[2] + start + k
        step, weight = one_of(request.steps.steps, g), one_of(request.steps.weights, g)
        spot = Spot(
            k * pitch, n, n, layout.indices, step * request.shrink.threshold,
            request.shrink.nonnegative, scratch, partial, 1.0, 1.0, 1.0, 1.0, INF,
        )  # fmt: skip
        solve_here(Elements(xs, ds, spot, n), xs, g, Wanted(step, weight, pieces, own), bad, out)
    cuda.syncthreads()
    p = mine
    for _ in range(cuda.threadIdx.x, total, cuda.blockDim.x):
        inside = p.over * UINT(pitch) + p.row * UINT(run) + p.within
        data.z[UINT(base) + p.row * UINT(jump) + p.over * UINT(run) + p.within] = xs[inside]
        p = beyond(p, by, here, run)


def shrink_elements(whole: Any, real: Any) -> None:
    """Apply the elementwise part alone, a thread an element."""
    data, request, bad = (
        data_of(whole, real),
        request_of(whole, real),
        elements(whole[INVALID], 1, np.int32(0)),
    )
    steps, shrink = request.steps.steps, request.shrink
    for i in range(cuda.grid(1), whole[SIZE], cuda.gridsize(1)):
        v = np.float64(data.x[i])
        d = np.float64(data.d[i]) if DENSE else data.d
        step = one_of(steps, i)
        if fabs(v) < INF and 0.0 < d < INF and 0.0 < step < INF:
            data.z[i] = soft(v, step * shrink.threshold / d, shrink.nonnegative)
        else:
            data.z[i] = NAN
            cuda.atomic.max(bad, 0, 1)
