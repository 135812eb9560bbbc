"""Scalar source of compiled certificates: what is proved of a row, from two or three passes over it.

Plain Python, compiled by :mod:`proxlab.backends.numba_certify`. With a bracket of the exact radius ``r*`` and
``z(r)`` at one point ``r`` of it, ``‖z - z*‖ ≤ ‖z - z(r)‖ + ‖z(r) - z(r*)‖``, and the second term is at most
``‖z'(r)‖`` times the distance to the far end of the bracket (docs: the mathematics, §5). The array form in
:mod:`proxlab.backends.radial_certify` is the specification; a row that leaves a question open is left to it.

What is done for each row is compiled into one function, loops included: small groups would spend a third of
their time on handing records over.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, NamedTuple

from proxlab.backends.certify_sums import (
    SOUND_HIGH,
    SOUND_LOW,
    Allowances,
    AtCandidate,
    AtPoint,
    AtRadius,
    AtZero,
    Row,
    errors_of,
    is_sound,
    sum_at,
    sum_at_point,
    sum_at_zero,
    sum_moved,
)
from proxlab.bounds import BLUR, bracket, evaluation, newton, rounding, steepest
from proxlab.scalar import INF, fabs, fmax, fmin, inlined, sqrt

__all__ = ["Out", "RowBatch", "certify_rows"]

#: Numbers in this range have squares that have lost nothing.
TAME_LOW, TAME_HIGH = 1e-40, 1e40
#: Radii and slopes below this are left to the array form.
SMALL = 1e-60
MAX_EVALUATIONS = 12


class RowBatch(NamedTuple):
    """Points, candidates and metrics, a group a row; bounds of each row's metric; steps and weights.

    The bounds are read for a positive shift only. Of these and of steps and weights there may be one for all.
    """

    x: Any
    z: Any
    d: Any
    least: Any
    most: Any
    steps: Any
    weights: Any


class Out(NamedTuple):
    """Where results go: the bounds, six rows, and of each group whether it is decided, and left open."""

    bounds: Any
    decided: Any
    hard: Any


class TableSlope(NamedTuple):
    """Pieces of a slope, where the last one begins (infinite for a single piece), and whether ``p`` jumps."""

    pieces: Any
    n_pieces: int
    end: float
    jumps: bool


class Posed(NamedTuple):
    """A row and its candidate, the table of its penalty, and what rounding does to its sums."""

    row: Row
    candidate: AtCandidate
    table: TableSlope
    errors: Allowances


class RootPiece(NamedTuple):
    """The piece that the root lies on, if known: its ends, a first point, its slope ``alpha - shift r``."""

    known: bool
    start: float
    stop: float
    at: float
    alpha: float
    shift: float


class Around(NamedTuple):
    """A bracket of the root, how far away along the path it may be, in radii, and the steepest term."""

    lower: float
    upper: float
    span: float
    steepest: float


class Proved(NamedTuple):
    """What is proved of a row; stationarity and gap times the step."""

    distance: float
    metric_distance: float
    residual: float
    gap: float
    lower: float
    upper: float


class RootProof(NamedTuple):
    """What is known of the root: whether it is enclosed well enough, or there is none, and what is proved."""

    solved: bool
    none: bool
    proved: Proved


def zero_proved() -> Proved:
    """Return what is proved where candidate and prox are zero."""
    return Proved(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@inlined
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


@inlined
def is_plain(row: Row, at: AtZero, table: TableSlope) -> bool:
    """Say whether nothing of a row leaves the range in which rounding is small."""
    pieces, eta = table.pieces, row.eta
    safe = is_sound(at.bb) and is_sound(at.bbd) and is_sound(at.xx)
    safe = safe and is_sound(at.xb) and TAME_LOW < row.step < TAME_HIGH
    # Whether the candidate is zero is read off itself: its squares may vanish.
    safe = safe and (not at.live or (is_sound(at.zz) and is_sound(at.dzz)))
    for j in range(table.n_pieces):
        safe = safe and (pieces[j, 2] == 0.0 or TAME_LOW < eta * pieces[j, 2] < TAME_HIGH)
        safe = safe and (pieces[j, 3] == 0.0 or TAME_LOW < fabs(eta * pieces[j, 3]) < TAME_HIGH)
        safe = safe and (j == 0 or table.jumps or TAME_LOW < pieces[j, 0] < TAME_HIGH)
        safe = safe and eta * pieces[j, 1] < SOUND_HIGH
    return safe


def candidate_of(row: Row, size: float, table: TableSlope, errors: Allowances) -> AtCandidate:
    """Find the candidate among the pieces."""
    pieces = table.pieces
    value = row.eta * value_at(pieces, size) if size > 0.0 else 0.0
    here = piece_at(pieces, size)
    alpha, shift = row.eta * pieces[here, 2], row.eta * pieces[here, 3]
    pull = (alpha - shift * size) / size if size > 0.0 else 0.0
    unit = 1.0 / size if size > 0.0 else 0.0
    error = rounding(3.0 * errors.height + 60.0) * (alpha + fabs(shift) * size)
    return AtCandidate(size, value, alpha, shift, pull, unit, error)


def residual_of(sums: AtRadius, candidate: AtCandidate, errors: Allowances) -> float:
    """Bound the residual of the candidate, from sums at any radius."""
    return (sqrt(sums.residual) + rounding(8.0) * sqrt(sums.pulled) + candidate.error) * errors.up


def part_of_root(posed: Posed, at: AtZero, nonzero: bool) -> RootPiece:
    """Return the piece that the root lies on, of two sloped ones at most."""
    row, candidate, table, errors = posed
    pieces, eta = table.pieces, row.eta
    norm, reach = sqrt(at.bb), sqrt(at.xx)
    alpha, shift = eta * pieces[0, 2], eta * pieces[0, 3]
    start, stop = 0.0, pieces[1, 0] if table.n_pieces > 1 else INF
    first = (norm - alpha) * at.bb / fmax(at.bbd - shift * at.bb, 1e-300) if nonzero else fmin(reach, stop)
    if table.n_pieces < 3 or not nonzero or reach <= stop:
        return RootPiece(True, start, stop, first, alpha, shift)
    next_alpha, next_shift = eta * pieces[1, 2], eta * pieces[1, 3]
    sums = sum_at(row, errors.width, stop, next_alpha - next_shift * stop, next_shift, candidate)
    noise = rounding(errors.height + errors.s) * sums.s
    if sums.s > 1.0:
        first = newton(stop, sums.s, sums.s1) if sums.s1 > 0.0 else pieces[2, 0]
        start, stop, alpha, shift = stop, pieces[2, 0], next_alpha, next_shift
    return RootPiece(fabs(sums.s - 1.0) > noise, start, stop, first, alpha, shift)


@inlined
def enclose_root(posed: Posed, reach: float, part: RootPiece, zero: bool, contested: bool) -> RootProof:
    """Enclose the root on a piece, or zero, and prove what follows for the candidate.

    For a prox that is zero, this is but the residual of the candidate.
    """
    row, candidate, _, errors = posed
    alpha, shift, start = part.alpha, part.shift, part.start
    size, bent = candidate.size, shift > 0.0
    limit = fmin(reach, part.stop)
    lower, upper = start * (1.0 - 1e-15), limit * (1.0 + 1e-14 + errors.fuzz)
    residual = 0.0
    r = size
    if contested or not (r > start and r > 0.5 * part.at and r < limit):
        r = fmin(part.at, limit) if part.at > start else limit
    if bent and alpha - shift * r <= 0.0:
        r = 0.5 * (start + limit)
    for e in range(MAX_EVALUATIONS):
        tau = alpha - shift * r
        if not (tau > SMALL and r > SMALL):
            break
        sums = sum_at(row, errors.width, r, tau, shift, candidate)
        if e == 0:
            residual = residual_of(sums, candidate, errors)
        if zero:
            return RootProof(True, False, Proved(INF, INF, residual, INF, lower, upper))
        if not (is_sound(sums.s) and sums.b1 > SOUND_LOW):
            break
        m = 1.0 / r
        if bent:
            m = fmax(steepest(row.least, r, tau, shift), steepest(row.most, r, tau, shift))
        noise = rounding(errors.height + errors.s) * sums.s
        slack = rounding(errors.height + errors.s1) * sums.b1
        low, high = bracket(evaluation(r, sums.s, sums.s1, sums.b1, noise, slack, m), shift, upper)
        lower, upper = fmax(lower, low), fmin(upper, high)
        if not lower <= upper:
            return RootProof(False, lower > upper, Proved(INF, INF, residual, INF, lower, upper))
        blur = BLUR * r if bent else 0.0
        ahead, behind = fmax(upper - r, 0.0) + blur, fmax(r - lower, 0.0) + blur
        if bent:
            give = m * fmax(ahead, behind)
            span = fmax(ahead, behind) / (1.0 - give) if give < 0.5 else INF
        else:
            span = fmax(ahead, behind * r / lower) if lower > 0.0 else INF
        if span < INF:
            # Good enough against what is known, or as good as the rounding of the sums allows.
            limited = sums.s1 > 0.0 and fmax(ahead, behind) <= 4.0 * (noise + slack * r) / sums.s1
            if alpha * sqrt(sums.turn) * span <= 0.125 * sqrt(sums.off) or limited:
                around = Around(lower, upper, span, m)
                proved = prove(posed, r, sums, around, residual, part)
                return RootProof(True, False, proved)
        best = newton(r, sums.s, sums.s1) if sums.s1 > 0.0 else lower
        if not lower < best < upper:
            best = 0.5 * (lower + upper)
        if best == r:
            break
        r = best
    return RootProof(False, False, Proved(INF, INF, residual, INF, lower, upper))


def prove(posed: Posed, r: float, sums: AtRadius, around: Around, residual: float, part: RootPiece) -> Proved:
    """Prove what follows from a bracket of the root and the sums at a point of it."""
    row, candidate, table, errors = posed
    eta = row.eta
    alpha, shift, size = part.alpha, part.shift, candidate.size
    lower, upper, span, up, fuzz = around.lower, around.upper, around.span, errors.up, errors.fuzz
    near = rounding(errors.z + 2.0)
    distance = (sqrt(sums.off) + alpha * sqrt(sums.turn) * span + near * (r * sqrt(sums.s))) * up
    metric_distance = sqrt(sums.off_d) + alpha * sqrt(sums.turn_d) * span
    metric_distance = (metric_distance + near * r * sqrt(sums.own_d)) * up + 1e-120
    # What turns away from z*, and how far the concave p stays below its tangent there.
    radial = fmax(fmax(size * (1.0 - fuzz) - upper, lower - size * (1.0 + fuzz)), 0.0)
    across = fmax(distance * distance * (1.0 + 1e-15) - radial * radial, 0.0)
    turn = sqrt(sums.aside) + rounding(errors.z + 4.0 + errors.height) * (sqrt(sums.s) + 1.0)
    turn = (turn + sqrt(around.steepest * sums.b1) * span) * up
    if size > 0.0:
        across = fmin(across, size * upper * (turn * turn) * (up * up * up))
    room = fmin(radial, fmax(part.stop - upper if size > upper else lower - part.start, 0.0))
    sag = 0.5 * fmax(shift, 0.0) * room * room * (1.0 - 1e-14)
    if size > upper and table.n_pieces > 1:
        top = eta * table.pieces[table.n_pieces - 1, 1]
        slope = fmax(alpha - shift * upper, 0.0)
        below = eta * value_at(table.pieces, upper) + slope * (size - upper) - candidate.value
        sag = fmax(sag, below - rounding(errors.height + 64.0) * (top + alpha * size))
    tau_low = fmax(alpha - fmax(shift, 0.0) * lower, 0.0) + 1e-14 * alpha
    gap = 0.5 * tau_low / lower * across - 0.5 * fmin(shift, 0.0) * distance * distance
    gap = (gap + 0.5 * metric_distance * metric_distance) * (1.0 + rounding(24.0))
    gap = fmax(gap - sag, 0.0) * (1.0 + 1e-15) + 1e-200
    return Proved(distance, metric_distance, residual, gap, lower, upper)


def rival(posed: Posed, inner: RootProof, part: RootPiece) -> int:
    """Say which costs less, the root (-1) or the point itself (1); 0 where rounding hides it."""
    row, _, table, errors = posed
    lower, upper = inner.proved.lower, inner.proved.upper
    top = row.eta * table.pieces[table.n_pieces - 1, 1]
    # Q at the root against Q(x): p(‖z‖) - p(∞) + ‖z - x‖²_D/2η.
    moved, kept = sum_moved(row, errors.width, upper, fmax(part.alpha - part.shift * upper, 0.0))
    close, doubt = rounding(errors.height + 120.0), rounding(64.0) * top
    loss = top - row.eta * value_at(table.pieces, lower)
    gain = top - row.eta * value_at(table.pieces, fmin(sqrt(kept) * (1.0 + close), table.end))
    if moved * (1.0 - close) > loss + doubt:
        return 1
    return -1 if moved * (1.0 + close) < gain - doubt else 0


def prove_at_zero(posed: Posed, at: AtZero, residual: float) -> Proved:
    """Prove what follows from a prox that is zero."""
    row, candidate, table, errors = posed
    size, eta, pieces = candidate.size, row.eta, table.pieces
    alpha, shift, top = eta * pieces[0, 2], eta * pieces[0, 3], eta * pieces[table.n_pieces - 1, 1]
    parts = top + alpha * size + fabs(shift) * at.zz + sqrt(at.bb) * size + at.dzz
    gap = fmax(candidate.value - at.bz + 0.5 * at.dzz, 0.0) + rounding(errors.height + 64.0) * parts
    return Proved(size * errors.up, sqrt(at.dzz) * errors.up, residual, gap, 0.0, 0.0)


def prove_at_point(posed: Posed, reach: float, sums: AtPoint, alpha: float) -> Proved:
    """Prove what follows from a prox that is the point itself; ``alpha`` is a slope of the table."""
    row, candidate, table, errors = posed
    size, up, fuzz = candidate.size, errors.up, errors.fuzz
    top, residual = row.eta * table.pieces[table.n_pieces - 1, 1], 0.0
    if size > 0.0 and size < table.end:
        # The slope at the candidate is that of another piece.
        residual = residual_of(sum_at(row, errors.width, size, alpha, 0.0, candidate), candidate, errors)
    elif size > 0.0:
        residual = sqrt(sums.pulled) * up
    distance, metric_distance = sqrt(sums.off) * up, sqrt(sums.off_d) * up
    gain = fmax((top - candidate.value) - rounding(64.0) * top, 0.0)
    gap = fmax(0.5 * metric_distance * metric_distance * up - gain, 0.0)
    return Proved(distance, metric_distance, residual, gap, reach * (1.0 - fuzz), reach * (1.0 + fuzz))


@inlined
def certify_row(row: Row, at: AtZero, table: TableSlope, errors: Allowances) -> Any:
    """Return whether a row is decided, and what is proved of it then."""
    pieces, count, eta = table.pieces, table.n_pieces, row.eta
    left_open = False, zero_proved()
    if at.xx == 0.0 and at.bb == 0.0 and not at.live and not row.x.any():
        # Both zero: nothing to solve, and common where inputs or units are dead. An infinite metric is none.
        return True, zero_proved()
    if not is_plain(row, at, table):
        return left_open
    fuzz, height = errors.fuzz, errors.height
    norm, reach, size = sqrt(at.bb), sqrt(at.xx), sqrt(at.zz)
    alpha, shift = eta * pieces[0, 2], eta * pieces[0, 3]
    # The zero test, and where the candidate and x lie among the pieces.
    zero = table.jumps or at.bb * (1.0 + fuzz) < alpha * alpha * (1.0 - fuzz)
    nonzero = at.bb * (1.0 - fuzz) > alpha * alpha * (1.0 + fuzz)
    clear = zero or nonzero
    for j in range(1, count):
        clear = clear and (size == 0.0 or fabs(size - pieces[j, 0]) > 4.0 * fuzz * pieces[j, 0])
    if not clear or fabs(reach - table.end) <= 4.0 * fuzz * reach:
        return left_open
    posed = Posed(row, candidate_of(row, size, table, errors), table, errors)
    # Where the penalty is flat at x, x itself is a candidate for z*.
    outer, contested = reach > table.end, False
    apart = AtPoint(0.0, 0.0, 0.0, 0.0, 0.0)
    if outer:
        last_alpha, last_shift = eta * pieces[count - 2, 2], eta * pieces[count - 2, 3]
        top = eta * pieces[count - 1, 1]
        apart = sum_at_point(row, errors.width, last_shift)
        if zero:
            if fabs(0.5 * at.xb - top) <= rounding(height + 40.0) * (0.5 * at.xb + top):
                return left_open
            outer = 0.5 * at.xb > top
        else:
            # Below 1 and increasing where it ends, the concave g has not reached 1 before.
            joined = last_shift > 0.0 and fabs(last_alpha - last_shift * table.end) <= 1e-12 * last_alpha
            rises = apart.scale < SOUND_HIGH and apart.rise > rounding(height + 60.0) * apart.scale
            # Nor later where it falls from zero on.
            bend = at.bbd + shift * at.bb
            falls = at.bbd - shift * at.bb + rounding(height + 40.0) * bend <= 0.0
            contested = not (joined and rises) and not falls
    if zero and not outer and size == 0.0:
        return True, zero_proved()
    proved = zero_proved()
    if not outer or contested:
        part = part_of_root(posed, at, nonzero)
        if not part.known:
            return left_open
        inner = enclose_root(posed, reach, part, zero, contested)
        none = inner.none
        if contested and inner.solved:
            winner = rival(posed, inner, part)
            if winner == 0:
                return left_open
            none = winner > 0
        if contested:
            outer = none
        if not outer and not inner.solved:
            return left_open
        proved, alpha = inner.proved, part.alpha
    if outer:
        lost = not (is_sound(apart.off) and apart.off_d > SOUND_LOW and apart.pulled > SOUND_LOW)
        if apart.off > 0.0 and lost:
            return left_open
        proved = prove_at_point(posed, reach, apart, alpha)
    elif zero:
        proved = prove_at_zero(posed, at, proved.residual)
    residual, gap = proved.residual, proved.gap
    if size == 0.0:
        residual = fmax(norm * (1.0 + fuzz) - eta * pieces[0, 2] * (1.0 - fuzz), 0.0)
        if table.jumps and eta > 0.0:
            residual = 0.0
    if count == 1:
        gap = fmin(gap, residual * proved.distance * errors.up)
    return True, Proved(proved.distance, proved.metric_distance, residual, gap, proved.lower, proved.upper)


def certify_rows(batch: RowBatch, pieces: Any, begin: int, finish: int, out: Out) -> int:
    """Certify rows ``begin … finish - 1``; returns the first row with an invalid metric, or -1."""
    x, z, d, least, most, steps, weights = batch
    count = pieces.shape[0]
    end = pieces[count - 1, 0] if count > 1 else INF
    table, errors = TableSlope(pieces, count, end, end == 0.0), errors_of(x.shape[1], pieces)
    for g in range(begin, finish):
        step = steps[g if len(steps) > 1 else 0]
        eta = step * weights[g if len(weights) > 1 else 0]
        k = g if len(least) > 1 else 0
        row = Row(x[g], z[g], d[g], step, eta, least[k], most[k])
        at = sum_at_zero(row, errors.width)
        if at.bad:
            return g
        known, proved = certify_row(row, at, table, errors)
        out.hard[g] = not known
        if known:
            out.bounds[0, g], out.bounds[1, g] = proved.distance, proved.metric_distance
            out.bounds[2, g] = proved.residual / step * errors.up
            out.bounds[3, g] = proved.gap / step * errors.up
            out.bounds[4, g], out.bounds[5, g] = proved.lower, proved.upper
            out.decided[g] = True
    return -1
