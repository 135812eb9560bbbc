"""Scalar source of the GPU kernels: the loops of a *team* of threads, and the kernels around the driver.

A team is some neighbouring lanes of a warp, a block, or the whole grid. Its threads share the loops over a
group (thread ``t`` of ``w`` takes the elements ``t, t + w, …``) and add up; every thread gets the same sums,
bit for bit, and runs the driver of :mod:`proxlab.backends.kernels` on them, so that no thread ever waits for
another one's decision. The driver hands ``x, d, o, n`` on unread: here ``o`` is a tuple, the *place* of a
group, which says where its elements are and in what units they are read.

Plain Python, rebuilt by :mod:`proxlab.backends.cuda.build`. Sums may be contracted to fused multiply-adds and
are taken in any order: their error bounds hold for both. Double-double arithmetic is neither: its products
carry explicit rounding.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from proxlab.backends.kernel_records import Elements, Found, Scale, Start
from proxlab.backends.kernels import (
    APART,
    APART_HIGH,
    APART_LOW,
    CONVERGED,
    INF,
    MAX_ITERATIONS,
    METRIC_CAP,
    NAN,
    TOGETHER,
    UNSHRUNK,
    explained,
    exponent,
    is_faint,
    is_tame,
    locate,
    narrow_fraction,
    precise_strength,
    starts_apart,
)
from proxlab.backends.records import GroupResults
from proxlab.choose import Limits
from proxlab.double_double import square, two_product, two_sum
from proxlab.equations import Sums
from proxlab.equations.radial import shrunk_fraction, terms
from proxlab.scalar import fabs, fmax, fmin, sqrt

# Set by the build.
cuda: Any = None
math: Any = None
libdevice: Any = None
solve_group: Any = None  # the driver: a radial penalty, or the ℓ∞ norm
# Lanes of a team (of a warp, for a block), of a warp; warps of a block; elements of a tile.
WIDTH, WARP, WARPS, TILE = 32, 32, 8, 1
# Whether there is a metric per element, a soft threshold or sign constraint, data whose squares may leave the
# range, groups by index, an explained result; the number of pieces of the slope.
DENSE, SHRINKS, RESCALES, RAGGED, EXPLAIN, COUNT = True, False, False, False, False, 1
# Whether single precision finds where to start.
NARROW = False
float64: Any = None
X_DTYPE: Any = None
D_DTYPE: Any = None

# Entries of a place: where the group begins, the length of its runs and their distance; what is done to its
# elements; scratch; units.
BEGIN, RUN, STRIDE, METRIC, CUT, NONNEGATIVE, INDICES, SCRATCH, GRID = range(9)
PER_X, PER_X2, PER_D, PER_D2, MOST = range(9, 14)
# An exponent that says that elements are lost.
LOST = -10000


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


def combine_lanes(a: float, b: float, c: float, o: Any) -> Any:
    """Add up over the lanes of a team. Both partners add the same two numbers: all get the same result."""
    k = WIDTH >> 1
    while k > 0:
        a += exchange(a, k)
        b += exchange(b, k)
        c += exchange(c, k)
        k >>= 1
    return a, b, c


def greatest_lanes(v: float, o: Any) -> float:
    """Return the greatest over a team."""
    k = WIDTH >> 1
    while k > 0:
        v = fmax(v, exchange(v, k))
        k >>= 1
    return v


def precise_lanes(high: float, low: float, o: Any) -> Any:
    """Add up double-doubles over the lanes of a team."""
    k = WIDTH >> 1
    while k > 0:
        high, low = add_precise(high, low, exchange(high, k), exchange(low, k))
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


def combine_block(a: float, b: float, c: float, o: Any) -> Any:
    """Add up over a block: each warp by shuffles, then the warps' sums by every thread, in one order."""
    a, b, c = combine_lanes(a, b, c, o)
    part, warp = o[SCRATCH], cuda.threadIdx.x // WIDTH
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


def greatest_block(v: float, o: Any) -> float:
    """Return the greatest over a team."""
    v = greatest_lanes(v, o)
    part = o[SCRATCH]
    if cuda.threadIdx.x % WIDTH == 0:
        part[0, cuda.threadIdx.x // WIDTH] = v
    cuda.syncthreads()
    for k in range(WARPS):
        v = fmax(v, part[0, k])
    cuda.syncthreads()
    return v


def precise_block(high: float, low: float, o: Any) -> Any:
    """Add up double-doubles over a team."""
    high, low = precise_lanes(high, low, o)
    part = o[SCRATCH]
    if cuda.threadIdx.x % WIDTH == 0:
        part[0, cuda.threadIdx.x // WIDTH] = high
        part[1, cuda.threadIdx.x // WIDTH] = low
    cuda.syncthreads()
    high, low = 0.0, 0.0
    for k in range(WARPS):
        high, low = add_precise(high, low, part[0, k], part[1, k])
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


def combine_grid(a: float, b: float, c: float, o: Any) -> Any:
    """Add up over all blocks of a cooperative launch: every block adds the blocks' sums in one order."""
    a, b, c = combine_block(a, b, c, o)
    part = o[GRID]
    if cuda.threadIdx.x == 0:
        part[0, cuda.blockIdx.x] = a
        part[1, cuda.blockIdx.x] = b
        part[2, cuda.blockIdx.x] = c
    cuda.cg.this_grid().sync()
    a, b, c = 0.0, 0.0, 0.0
    for k in range(cuda.threadIdx.x, cuda.gridDim.x, cuda.blockDim.x):
        a += part[0, k]
        b += part[1, k]
        c += part[2, k]
    a, b, c = combine_block(a, b, c, o)
    cuda.cg.this_grid().sync()
    return a, b, c


def greatest_grid(v: float, o: Any) -> float:
    """Return the greatest over a team."""
    v = greatest_block(v, o)
    part = o[GRID]
    if cuda.threadIdx.x == 0:
        part[0, cuda.blockIdx.x] = v
    cuda.cg.this_grid().sync()
    for k in range(cuda.threadIdx.x, cuda.gridDim.x, cuda.blockDim.x):
        v = fmax(v, part[0, k])
    v = greatest_block(v, o)
    cuda.cg.this_grid().sync()
    return v


def precise_grid(high: float, low: float, o: Any) -> Any:
    """Add up double-doubles over a team."""
    high, low = precise_block(high, low, o)
    part = o[GRID]
    if cuda.threadIdx.x == 0:
        part[0, cuda.blockIdx.x] = high
        part[1, cuda.blockIdx.x] = low
    cuda.cg.this_grid().sync()
    high, low = 0.0, 0.0
    for k in range(cuda.threadIdx.x, cuda.gridDim.x, cuda.blockDim.x):
        high, low = add_precise(high, low, part[0, k], part[1, k])
    high, low = precise_block(high, low, o)
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


def add_precise(a: float, b: float, c: float, d: float) -> Any:
    """Add the double-doubles ``a + b`` and ``c + d``; either order gives the same bits."""
    s, t = two_sum(a, c)
    return two_sum(s, t + (b + d))


def two_product_fused(a: float, b: float) -> Any:
    """Multiply: the rounded product, which the compiler must not fuse with a sum, and its error."""
    p = libdevice.dmul_rn(a, b)
    return p, cuda.fma(a, b, -p)


# ----------------------------------------------------------------------------------------------------
# Elements of a group.


def index_contiguous(o: Any, i: int) -> int:
    """Return where element ``i`` of a group lies."""
    return o[BEGIN] + i


def index_strided(o: Any, i: int) -> int:
    """Return where element ``i`` of a group lies."""
    return o[BEGIN] + i // o[RUN] * o[STRIDE] + i % o[RUN]


def index_gathered(o: Any, i: int) -> int:
    """Return where element ``i`` of a group lies."""
    return o[INDICES][o[BEGIN] + i]


# Where element i of a group lies; chosen by the build.
index: Any = None


def soft(v: float, cut: float, nonnegative: bool) -> float:
    """Move ``v`` towards zero by ``cut``, and to zero where it is negative and may not be."""
    size = fmax(fabs(v) - cut, 0.0)
    return size if v > 0.0 else (0.0 if nonnegative else 0.0 - size)


def load(e: Elements, i: int) -> Any:
    """Return an element of ``x`` and of the metric: after the elementwise part, in the group's units."""
    o = e.o
    k = index(o, i)
    v = load_point(e, k)
    return v * o[PER_X] * o[PER_X2] if RESCALES else v, load_metric(e, k)


def load_point(e: Elements, k: int) -> float:
    """Return element ``k`` of the point's array after the elementwise part, in the caller's units."""
    v = np.float64(e.x[k])
    if SHRINKS:
        cut = e.o[CUT] / (np.float64(e.d[k]) if DENSE else e.o[METRIC])
        v = np.float64(soft(v, cut, e.o[NONNEGATIVE]))
    return v


def load_metric(e: Elements, k: int) -> float:
    """Return element ``k`` of the metric's array in the group's units."""
    o = e.o
    v = np.float64(e.d[k]) if DENSE else o[METRIC]
    return fmin(v * o[PER_D] * o[PER_D2], o[MOST]) if RESCALES else v


def sum_start(e: Elements) -> Start:
    """Sum ``b²``, ``b² d``, ``x²`` for the zero test and the tangent at zero; NaN if input is invalid."""
    bb, bbd, xx = 0.0, 0.0, 0.0
    for i in range(lane(), e.n, width()):
        k = index(e.o, i)
        m = np.float64(e.d[k]) if DENSE else e.o[METRIC]
        if not (fabs(np.float64(e.x[k])) < INF and 0.0 < m < INF):
            bb = NAN
        xi, di = load(e, i)
        b = di * xi
        s = b * b
        bb += s
        bbd += s * di
        xx += xi * xi
    bb, bbd, xx = combine(bb, bbd, xx, e.o)
    return Start(bb, bbd, xx, 0)


def sum_secular(e: Elements, r: float, tau: float, shift: float) -> Sums:
    """Sum the secular terms at one radius."""
    s, s1, s2 = 0.0, 0.0, 0.0
    for i in range(lane(), e.n, width()):
        xi, di = load(e, i)
        t, t1, t2 = terms(xi * di, di, r, tau, shift)
        s += t
        s1 += t1
        s2 += t2
    s, s1, s2 = combine(s, s1, s2, e.o)
    return Sums(s, s1, s2)


def sum_ratio(e: Elements, ratio: float, unit: float) -> Any:
    """Sum ``u²``, ``u² e``, ``u² e²`` in single precision: ``u = x unit e``, with ``e`` of the ratio."""
    one, rho, scale = np.float32(1.0), np.float32(ratio), np.float32(unit)
    s, s1, s2 = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for i in range(lane(), e.n, width()):
        k = index(e.o, i)
        y = np.float32(e.d[k] if DENSE else e.o[METRIC]) * rho
        share = y / (y + one)
        u = np.float32(e.x[k]) * scale * share
        a = u * u
        b = a * share
        s += a
        s1 += b
        s2 += b * share
    return combine(np.float64(s), np.float64(s1), np.float64(s2), e.o)


def sum_clipped(e: Elements, t: float, strength: float, _: float) -> Sums:
    """Sum ``d (|x| - t)₊`` and its slope, in units of ``strength``."""
    s, s1 = 0.0, 0.0
    for i in range(lane(), e.n, width()):
        xi, di = load(e, i)
        over = fabs(xi) - t
        if over > 0.0:
            s += di * over
            s1 += di
    s, s1, _ = combine(s, s1, 0.0, e.o)
    return Sums(s / strength, s1 / strength, 0.0)


def sum_moved(e: Elements, r: float, tau: float) -> Any:
    """Sum ``d (x - z)²`` and ``z²`` at the point ``z = x d r/(d r + tau)``; ``d x²`` and 0 for ``r = 0``."""
    moved, kept = 0.0, 0.0
    for i in range(lane(), e.n, width()):
        xi, di = load(e, i)
        y = di * r
        w = xi / (y + tau)
        v, z = w * tau, w * y
        moved += di * (v * v)
        kept += z * z
    moved, kept, _ = combine(moved, kept, 0.0, e.o)
    return moved, kept


def largest_metric(e: Elements) -> float:
    """Return the largest element of the metric."""
    m = 0.0
    for i in range(lane(), e.n, width()):
        m = fmax(m, load_metric(e, index(e.o, i)))
    return greatest(m, e.o)


def largest_point(e: Elements) -> float:
    """Return the largest magnitude of the point; for the ℓ∞ norm, which has no elementwise part."""
    m = 0.0
    for i in range(lane(), e.n, width()):
        m = fmax(m, fabs(np.float64(e.x[index(e.o, i)]) * (e.o[PER_X] * e.o[PER_X2] if RESCALES else 1.0)))
    return greatest(m, e.o)


def zero_margin(e: Elements, strength: float, scale: Scale) -> float:
    """Return ``‖D x‖² - strength²`` to about twice the working precision, in the group's units."""
    high, low = 0.0, 0.0
    for i in range(lane(), e.n, width()):
        xi, di = load(e, i)
        p, q = two_product(xi, di)
        p, q = square(p, q)
        high, low = add_precise(high, low, p, q)
    high, low = precise(high, low, e.o)
    ph, pl = precise_strength(strength, scale)
    ph, pl = square(ph, pl)
    s, t = two_sum(high, -ph)
    return s + (t + (low - pl))


def linf_margin(e: Elements, strength: float, scale: Scale) -> float:
    """Return ``‖D x‖₁ - strength`` to about twice the working precision, in the group's units."""
    high, low = 0.0, 0.0
    for i in range(lane(), e.n, width()):
        xi, di = load(e, i)
        p, q = two_product(fabs(xi), di)
        high, low = add_precise(high, low, p, q)
    high, low = precise(high, low, e.o)
    ph, pl = precise_strength(strength, scale)
    s, t = two_sum(high, -ph)
    return s + (t + (low - pl))


def write_shrunk(e: Elements, z: Any, r: float, tau: float, unit: float) -> None:
    """Write ``z = x d r / (d r + tau)``: of ``x`` as given, of which scaling may have lost elements."""
    ratio = r / tau if tau != 0.0 else 0.0
    for i in range(lane(), e.n, width()):
        k = index(e.o, i)
        v, m = load_point(e, k), load_metric(e, k)
        if r == 0.0:
            v = 0.0
        elif tau != 0.0:
            v *= narrow_fraction(m * ratio) if NARROW else shrunk_fraction(m, r, tau)
        z[k] = v


def write_clipped(e: Elements, z: Any, r: float, tau: float, unit: float) -> None:
    """Write ``z = sign(x) min(|x|, unit r)``."""
    most = r * unit
    for i in range(lane(), e.n, width()):
        k = index(e.o, i)
        z[k] = fmin(fmax(load_point(e, k), -most), most)


write: Any = None  # one of the two


def any_shrunk(e: Elements) -> bool:
    """Tell whether the elementwise part changed an element."""
    changed = 0.0
    for i in range(lane(), e.n, width()):
        v = np.float64(e.x[index(e.o, i)]) * (e.o[PER_X] * e.o[PER_X2] if RESCALES else 1.0)
        changed = 1.0 if load(e, i)[0] != v else changed
    return greatest(changed, e.o) > 0.0


# ----------------------------------------------------------------------------------------------------
# Kernels.


def units(e: Elements) -> Any:
    """Return the group with ``max|x|`` and ``max|b|`` about 1, and the exponents of ``x`` and ``d``.

    The last result is the exponent of the least metric of an element that is not zero; -10000 where elements
    are lost that may count.
    """
    mx, md, mb, low, high = 0.0, 0.0, -5000.0, 5000.0, -5000.0
    for i in range(lane(), e.n, width()):
        xi, di = load(e, i)
        mx = fmax(mx, fabs(xi))
        md = fmax(md, di)
        if xi != 0.0:
            k = float64(exponent(di))
            mb, low, high = fmax(mb, float64(exponent(xi)) + k), fmin(low, k), fmax(high, k)
    ex, eb = exponent(greatest(mx, e.o)), int(greatest(mb, e.o))
    ed = eb - ex if eb > -5000 else exponent(greatest(md, e.o))
    least, most = int(-greatest(-low, e.o)) - ed, int(greatest(high, e.o)) - ed
    if eb > -5000 and (least <= APART_LOW or most >= APART_HIGH):
        least = LOST
    # Each a number, though their product need not be one, nor the inverse of the least.
    per_x = math.ldexp(1.0, -ex // 2), math.ldexp(1.0, -ex - (-ex // 2))
    per_d = math.ldexp(1.0, -ed // 2), math.ldexp(1.0, -ed - (-ed // 2))
    o = e.o[:PER_X] + (per_x[0], per_x[1], per_d[0], per_d[1], METRIC_CAP)  # noqa: RUF005 (compiled)
    return Elements(e.x, e.d, o, e.n), ex, ed, least


def solve_one(
    e: Elements, z: Any, g: int, step: float, weight: float, pieces: Any, limits: Limits, bad: Any,
    out: GroupResults,
) -> None:  # fmt: skip
    """Solve group ``g``; where its input is invalid, write NaN and say so in ``bad``.

    The same where it spreads further than these kernels follow.
    """
    start = sum_start(e)
    ex, ed, least, scaled = 0, 0, 0, False
    if RESCALES:  # noqa: SIM102 (a constant)
        if start.bb == start.bb and not is_tame(start, step, weight, pieces):
            scaled = True
            e, ex, ed, least = units(e)
            start = sum_start(e)
            if starts_apart(pieces, ex):
                least = LOST
    found = Found(NAN, 0.0, 0.0, INF, APART, 0, 0)
    if start.bb == start.bb and 0.0 < step < INF and least > LOST:
        atol = math.ldexp(limits.atol, -ex) if RESCALES else limits.atol
        own = Limits(limits.rtol, atol, limits.most, EXPLAIN)
        found = solve_group(e, start, Scale(step, weight, ex, ed), pieces, own)
    status = found.status
    if RESCALES:  # noqa: SIM102
        if found.r > 0.0 and found.tau > 0.0:
            unit = ex
            if not scaled and found.tau * found.r < TOGETHER * sqrt(start.xx):
                _, unit, _, least = units(e)
            status = APART if is_faint(math.ldexp(found.r, ex - unit), found.tau, least) else status
    if status != APART:
        if EXPLAIN and SHRINKS:  # noqa: SIM102
            if status == UNSHRUNK and any_shrunk(e):
                status = CONVERGED
        write(e, z, found.r, found.tau, math.ldexp(1.0, ex))
    else:
        found, status = Found(NAN, 0.0, 0.0, INF, MAX_ITERATIONS, 0, 0), MAX_ITERATIONS
        for i in range(lane(), e.n, width()):
            z[index(e.o, i)] = NAN
        if lane() == 0:
            cuda.atomic.max(bad, 0, 1)
    if EXPLAIN:  # noqa: SIM102
        if lane() == 0:
            explained(out, g, found, status, ex)


def share(table: Any, pieces: Any) -> None:
    """Copy the table of pieces, a tuple, to shared memory."""
    if cuda.threadIdx.x == 0:
        for k in range(4 * COUNT):
            pieces[k // 4, k % 4] = table[k]
    cuda.syncthreads()


def solve_groups(
    x: Any, d: Any, z: Any, shape: Any, indptr: Any, indices: Any, chosen: Any, count: int, metric: float,
    steps: Any, step: float, many_steps: bool, weights: Any, weight: float, many_weights: bool,
    threshold: float, nonnegative: bool, table: Any, rtol: float, atol: float, max_iterations: int,
    partial: Any, bad: Any, radius: Any, lower: Any, upper: Any, status: Any, iterations: Any,
    evaluations: Any,
) -> None:  # fmt: skip
    """Solve groups, a team each: contiguous or strided ones of one shape, or ``chosen`` ragged ones.

    ``shape`` is (outer kept, outer reduced, inner kept, inner reduced). Arrays that a variant does not use
    may be anything.
    """
    pieces = cuda.shared.array((COUNT, 4), float64)
    share(table, pieces)
    limits = Limits(rtol, atol, max_iterations, EXPLAIN)
    out = GroupResults(radius, lower, upper, status, iterations, evaluations)
    scratch = cuda.shared.array((3, WARPS), float64)
    n = shape[1] * shape[3]
    for k in range(first(), count, stride()):
        g = k
        if RAGGED:
            g = chosen[k]
            begin = indptr[g]
            n = indptr[g + 1] - begin
        else:
            begin = locate(g, shape)
        eta = steps[g] if many_steps else step
        o = (
            begin, shape[3], shape[2] * shape[3], metric, eta * threshold, nonnegative, indices, scratch,
            partial, 1.0, 1.0, 1.0, 1.0, INF,
        )  # fmt: skip
        weight_here = weights[g] if many_weights else weight
        solve_one(Elements(x, d, o, n), z, g, eta, weight_here, pieces, limits, bad, out)


def solve_tile(
    x: Any, d: Any, z: Any, shape: Any, groups: int, metric: float, steps: Any, step: float,
    many_steps: bool, weights: Any, weight: float, many_weights: bool, threshold: float, nonnegative: bool,
    table: Any, rtol: float, atol: float, max_iterations: int, bad: Any, radius: Any, lower: Any, upper: Any,
    status: Any, iterations: Any, evaluations: Any,
) -> None:  # fmt: skip
    """Solve neighbouring strided groups, ``groups`` to a block: whole segments of rows are read and written.

    A tile in shared memory holds them one after the other, an odd number of elements apart.
    """
    pieces = cuda.shared.array((COUNT, 4), float64)
    share(table, pieces)
    limits = Limits(rtol, atol, max_iterations, EXPLAIN)
    out = GroupResults(radius, lower, upper, status, iterations, evaluations)
    scratch = cuda.shared.array((3, WARPS), float64)
    xs = cuda.shared.array(TILE, X_DTYPE)
    ds = cuda.shared.array(TILE if DENSE else 1, D_DTYPE)
    rows, run = shape[1], shape[3]
    blocks = (shape[2] + groups - 1) // groups
    outer, start = cuda.blockIdx.x // blocks, cuda.blockIdx.x % blocks * groups
    here = min(groups, shape[2] - start)
    n, length, stride = rows * run, here * run, shape[2] * run
    pitch = n | 1
    base = outer * rows * stride + start * run
    for t in range(cuda.threadIdx.x, rows * length, cuda.blockDim.x):
        row, column = t // length, t % length
        k = column // run * pitch + row * run + column % run
        xs[k] = x[base + row * stride + column]
        if DENSE:
            ds[k] = d[base + row * stride + column]
    cuda.syncthreads()
    for k in range(cuda.threadIdx.x // WIDTH, here, cuda.blockDim.x // WIDTH):
        g = outer * shape[2] + start + k
        eta = steps[g] if many_steps else step
        o = (k * pitch, n, n, metric, eta * threshold, nonnegative, 0, scratch, 0, 1.0, 1.0, 1.0, 1.0, INF)
        weight_here = weights[g] if many_weights else weight
        solve_one(Elements(xs, ds, o, n), xs, g, eta, weight_here, pieces, limits, bad, out)
    cuda.syncthreads()
    for t in range(cuda.threadIdx.x, rows * length, cuda.blockDim.x):
        row, column = t // length, t % length
        z[base + row * stride + column] = xs[column // run * pitch + row * run + column % run]


def shrink_elements(
    x: Any, d: Any, z: Any, metric: float, steps: Any, step: float, many_steps: bool, threshold: float,
    nonnegative: bool, bad: Any,
) -> None:  # fmt: skip
    """Apply the elementwise part alone, a thread an element."""
    for i in range(cuda.grid(1), len(x), cuda.gridsize(1)):
        v = np.float64(x[i])
        e = np.float64(d[i]) if DENSE else metric
        eta = steps[i] if many_steps else step
        if fabs(v) < INF and 0.0 < e < INF and 0.0 < eta < INF:
            z[i] = soft(v, eta * threshold / e, nonnegative)
        else:
            z[i] = NAN
            cuda.atomic.max(bad, 0, 1)
