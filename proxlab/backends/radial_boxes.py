"""The points that may be the minimiser under a table of pieces, each enclosed in a box of its own.

Those are zero, x, an up-crossing on a piece and a kink where the slope jumps up (see
:mod:`proxlab.backends.array_tables`). Rows are those of :mod:`proxlab.backends.scaled_rows`; bounds are of
``η Q``, rounding included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from proxlab.backends.array_tables import heights
from proxlab.backends.boxes import Box
from proxlab.backends.enclosed_root import (
    FLOOR,
    MAX_EVALUATIONS,
    Enclosed,
    RowEquation,
    Slopes,
    scaled_pieces,
    tau_at,
)
from proxlab.backends.path_boxes import Path, PathBoxes
from proxlab.backends.scaled_rows import (
    BEYOND,
    LARGEST,
    LOST_DROP,
    LOST_PULL,
    ScaledRows,
    row_sum,
)
from proxlab.bounds import ROUNDING, UNIT, rounding
from proxlab.penalties.tables import Table, doubts, kinks
from proxlab.powers import times_power
from proxlab.types import Array

__all__ = ["STEEP", "TableProblem", "ZeroTest"]

#: By how much a bracket of a radius is widened where the slope is a difference that begins below zero: tau is
#: exact at a radius that differs by less.
WIDER = 1e-14
#: A bracket that is narrower is not halved where Newton's method no longer shrinks it.
NARROW = 1e-7
#: A slope beyond this leaves zero alone, whatever the rounding.
STEEP = 2.0**100


class ZeroTest(NamedTuple):
    """What is known of zero.

    Attributes
    ----------
    low, high : array
        Bounds of ``‖b‖² - tau²``; minus infinity for a slope that leaves zero alone.
    strength : array
        ``tau`` at zero, or 1 where it is not ``tame``.
    tame : array of bool
        Where the sums at zero say something of the root.
    bb : array
        ``‖b‖²`` as computed.
    """

    low: Array
    high: Array
    strength: Array
    tame: Array
    bb: Array


class TableProblem(PathBoxes):
    """Rows in scaled units with the table that holds for them, and bounds of what it costs."""

    def __init__(self, xp: Any, p: ScaledRows, table: Table) -> None:
        bent = any(q.a < 0.0 or q.c > 0.0 for q in table)
        super().__init__(xp, p, ROUNDING[bent][2])
        self.table, self.eq = table, RowEquation(xp, p, curved=bent)
        self.pieces = scaled_pieces(xp, p, table)
        self.heights = heights(xp, p, table, self.pieces)
        # What these are computed from, and so the size of their rounding.
        self.sums = [self.heights[0]]
        for q in self.pieces[:-1]:
            most = (q.end - q.start) * (xp.abs(q.alpha) + xp.abs(q.shift) * (q.start + q.end))
            self.sums.append(self.sums[-1] + most)
        k = 1.0 + rounding(8)
        self.doubts = [
            (times_power(xp, self.zero + r, -p.ex), p.coefficient(xp, amount, 1, 2) * k)
            for r, amount in doubts(table)
        ]
        self.kinks = [p.coefficient(xp, amount, 1, 1) * k for amount in kinks(table)]
        self.spare = self.doubted(self.far)
        # With this ridge taken from it, and but for what its kinks add to the slope, p is concave.
        self.ridge = self.zero
        for q in self.pieces:
            self.ridge = xp.maximum(self.ridge, -q.shift * k)
        largest = xp.maximum(self.ridge, self.spare)
        for q, height in zip(self.pieces, self.heights, strict=True):
            for v in (xp.abs(q.alpha), xp.abs(q.shift), height):
                largest = xp.maximum(largest, xp.where(q.start <= self.reach, v, self.zero))
        self.capped = ~(largest < BEYOND)

    def doubted(self, r: Array) -> Array:
        """Return what rounding leaves open of ``p`` up to a radius."""
        total = self.zero
        for start, amount in self.doubts:
            total = total + self.xp.where(r >= start, amount, self.zero)
        return total

    def value(self, r: Array) -> tuple[Array, Array]:
        """Bound ``η p`` at a radius from above, and from there on from below."""
        xp = self.xp
        low, high, k = self.zero, self.zero, rounding(16 + len(self.table))
        for q, height, total in zip(self.pieces, self.heights, self.sums, strict=True):
            on = r >= q.start
            start = xp.where(on, q.start, self.zero)
            length = r - start
            middle = height + length * (q.alpha - 0.5 * q.shift * (r + start))
            error = k * (total + length * (xp.abs(q.alpha) + xp.abs(q.shift) * (r + start)))
            low, high = xp.where(on, middle - error, low), xp.where(on, middle + error, high)
        low = xp.maximum(low - self.spare - LOST_PULL, self.zero)
        high = high + self.doubted(r) + LOST_PULL
        return xp.where(r > 0, low, self.zero), xp.where(r > 0, high, self.zero)

    def rise(self, start: Array, end: Array) -> tuple[Array, Array]:
        """Bound ``η (p(end) - p(start))`` for ``0 < start <= end``, without what cancels."""
        xp, total, error = self.xp, self.zero, self.zero
        for q in self.pieces:
            begin, stop = xp.maximum(start, q.start), xp.minimum(end, q.end)
            length = xp.maximum(stop - begin, self.zero)
            slope = xp.where(length > 0, q.alpha - 0.5 * q.shift * (begin + stop), self.zero)
            steepest = xp.where(length > 0, xp.abs(q.alpha) + xp.abs(q.shift) * stop, self.zero)
            total = total + length * slope
            error = error + rounding(20) * (xp.where(length > 0, stop, length) * xp.abs(slope))
            error = error + rounding(20) * steepest * length
        error = error + rounding(len(self.pieces)) * xp.abs(total) + self.spare + LOST_PULL
        return total - error, total + error

    def zero_test(self, usable: Array) -> ZeroTest:
        """Compare ``‖b‖`` with the slope at zero."""
        xp, alpha = self.xp, self.pieces[0].alpha
        slight = alpha < STEEP
        strength = xp.where(usable & slight, alpha, self.one)
        tame = usable & slight & (alpha > FLOOR)
        margin = self.eq.margin(strength, self.table[0].a, tame)
        low, high = (xp.where(slight, v, -self.far) for v in (margin.low, margin.high))
        return ZeroTest(low, high, xp.where(tame, strength, self.one), tame, margin.bb)

    def whole_box(self, k: int, possible: Array) -> Box:
        """The point itself, after the elementwise part, on a piece of slope zero."""
        xp, p, q = self.xp, self.p, self.pieces[k]
        least, most = self.value(self.reach_low)[0], self.value(self.reach)[1]

        def gap(_: Array, metric_distance: Array) -> Array:
            # What p is less at the candidate than on the piece.
            gain = self.rise(self.size, xp.maximum(self.size, q.start))[0]
            gain = xp.where(self.size < q.start, gain, self.zero)
            loss = self.rise(xp.minimum(self.size, q.end), self.size)[1]
            gain = xp.where(self.size > q.end, -loss, gain)
            jump = self.heights[0] * (1.0 - rounding(6))
            gain = xp.where(self.size > 0, gain, jump + self.rise(self.zero, q.start)[0])
            moved = 0.5 * metric_distance * metric_distance * (1.0 + rounding(4))
            return xp.maximum(moved - gain, self.zero) * (1.0 + rounding(4)) + LOST_DROP

        most = xp.where(self.capped, self.far, most)
        return Box(possible, self.reach_low, self.reach, p.size_low, p.size_high, least, most, gap)

    def gap_on_table(
        self, path: Path, slope: Array, sag: Array, distance: Array, metric_distance: Array
    ) -> Array:
        """Bound ``η (Q(z) - Q(z*))`` from above by the tangent of ``p`` without its ridge.

        Of a ridge ``κ`` it is ``κ‖δ‖²/2`` more, and of kinks what they add to the slope, times ``|ρ|``.
        """
        xp, lower, upper = self.xp, path.lower, path.upper
        more = 0.5 * self.ridge * (distance * distance)
        between = xp.maximum(self.size - lower, upper - self.size_low)
        for q, jump in zip(self.pieces[1:], self.kinks, strict=True):
            # One that may lie between the two.
            on = (q.start <= xp.maximum(upper, self.size)) & (q.start >= xp.minimum(lower, self.size_low))
            more = more + xp.where(on, jump * between, self.zero)
        less = sag - more * (1.0 + rounding(12))
        return self.gap_by_tangent(path, slope, less, distance, metric_distance)

    def narrowed(
        self, enclose: Callable[[Array, Array], Enclosed], resolved: Callable[[Array], Array],
        lower: Array, upper: Array, at: Array, on: Array,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Narrow a bracket until it no longer shrinks.

        Parameters
        ----------
        enclose : callable
            Evaluates at points, given the upper end.
        resolved : callable
            Whether numbers at points are in range.
        lower, upper, at : array
            The bracket, and where to begin.
        on : array of bool
        """
        xp, stalled = self.xp, self.zero
        for _ in range(MAX_EVALUATIONS):
            most = xp.where(upper - lower <= NARROW * upper, self.one, 16.0 * self.one)
            on = on & (upper - lower > 4.0 * UNIT * upper) & (upper > FLOOR) & (stalled < most)
            if not bool(xp.any(on)):
                break
            at = xp.maximum(at, xp.full_like(at, FLOOR))
            can = on & resolved(at)
            spot = xp.where(can, at, self.one)
            _, _, ahead, known = near = enclose(spot, upper)
            lower = xp.where(can, xp.maximum(lower, near.lower), lower)
            upper = xp.where(can, xp.minimum(upper, near.upper), upper)
            # Within rounding of the root, or nowhere to go: halve what is left a few times.
            lost = ((known.below <= 0) & (known.above >= 0)) | ~can
            stalled = xp.where(lost, stalled + 1.0, stalled)
            inside = ~lost & (ahead > lower) & (ahead < upper)
            back = ~lost & (ahead > 0) & (ahead <= lower) & (spot > lower * (1.0 + 1e-12) + 4.0 * FLOOR)
            at = xp.where(inside, ahead, xp.where(back, lower, 0.5 * (lower + upper)))
        return lower, upper

    def seen_from_zero(self, test: ZeroTest, lower: Array, upper: Array) -> tuple[Array, Array, Array]:
        """Narrow a bracket on the first piece by the sums at zero; return also where they resolve a root."""
        xp, q, eq, one = self.xp, self.pieces[0], self.eq, self.one
        square = test.strength * test.strength
        low, high = test.low / (square * (1.0 + rounding(8))), test.high / square * (1.0 + rounding(8))
        low = xp.where(low < 0, low * (1.0 + rounding(20)), low)
        first = Slopes(q.start, q.end, test.strength, q.shift)
        near = eq.enclose(self.zero, first, upper, (low, high))
        tame = test.tame & ~(test.high <= 0)
        bbd = row_sum(xp, eq.b * eq.b * (self.p.d + xp.abs(q.shift)[:, None]))
        least = 4.0 * rounding(eq.height + eq.k[0]) * test.bb * xp.sqrt(test.bb)
        return (
            xp.where(tame & (test.low > 0), xp.minimum(near.lower, q.end), lower),
            xp.where(tame & (near.upper < q.end), xp.minimum(near.upper, upper), upper),
            least / xp.where(bbd > 0, bbd, one),
        )

    def root_box(self, k: int, possible: Array, test: ZeroTest) -> Box:
        """Enclose the up-crossing on a piece where there may be one."""
        xp, q, piece = self.xp, self.pieces[k], self.table[k]
        lower = xp.where(possible, q.start * (1.0 - 1e-15), self.zero)
        upper = xp.where(possible, xp.minimum(q.end * (1.0 + 1e-15), self.reach), self.one)
        at = self.size
        if k == 0:
            lower, upper, least = self.seen_from_zero(test, lower, upper)
            at = xp.maximum(xp.where(at > 0, at, lower), least)
        lower, upper = self.narrowed(
            lambda r, far: self.eq.enclose(r, q, far),
            lambda r: tau_at(xp, r, q) + self.eq.dmax * r > FLOOR,
            lower, upper, xp.minimum(xp.maximum(at, lower), upper), possible,
        )  # fmt: skip
        possible = possible & (lower <= upper)
        if piece.c > 0.0:
            # Below 1 and falling, concave as it is, where the root begins to be possible, it is nowhere.
            spot = xp.where(possible & (lower > FLOOR), lower, self.one)
            known = self.eq.enclose(spot, q, spot).known
            falls = (known.s1 + known.slack <= 0) & (known.above < LARGEST)
            possible = possible & ~((lower > FLOOR) & (known.below > 0) & falls)
        if piece.a < 0.0:
            lower, upper = lower * (1.0 - WIDER), upper * (1.0 + WIDER)
        middle = 0.5 * (lower + upper)
        path = Path(lower, tau_at(xp, lower, q), upper, tau_at(xp, upper, q), middle, tau_at(xp, middle, q))
        bend, steep = q.shift + self.ridge, xp.abs(q.shift) + self.ridge
        slope = xp.maximum(q.alpha - bend * lower, self.zero)
        slope = slope + rounding(40) * (xp.abs(q.alpha) + steep * lower)
        # On the piece of the root only.
        room = xp.where(self.size > upper, q.end - upper, lower - q.start) * (1.0 - rounding(8))
        room = xp.maximum(xp.minimum(self.off_radius(lower, upper), room), self.zero)
        sag = 0.5 * xp.maximum(bend - rounding(8) * steep, self.zero) * room * room * (1.0 - rounding(12))

        def gap(distance: Array, metric_distance: Array) -> Array:
            found = self.gap_on_table(path, slope, sag, distance, metric_distance)
            if k > 0:
                return found
            falls = xp.maximum(q.shift, self.zero) * upper
            least = q.alpha * (1.0 - rounding(8)) - falls * (1.0 + rounding(8))
            return xp.minimum(found, self.gap_near_zero(least, upper))

        return self.path_box(possible, path, gap)

    def kink_box(self, k: int, possible: Array) -> Box:
        """Enclose the point of the path whose radius is that of a kink: ``G(r, tau) = 1``, in ``tau``."""
        xp, eq = self.xp, self.eq
        before, after = self.pieces[k - 1], self.pieces[k]
        r = xp.where(possible, after.start, self.one)
        error = rounding(16) * sum(xp.abs(q.alpha) + xp.abs(q.shift) * r for q in (before, after))
        lower = xp.maximum(tau_at(xp, r, before) - error, self.zero)
        upper = tau_at(xp, r, after) + error
        lower, upper = self.narrowed(
            lambda tau, far: eq.enclose_slope(tau, r, far), lambda tau: tau + eq.dmax * r > FLOOR,
            lower, upper, lower, possible,
        )  # fmt: skip
        path = Path(r, lower, r, upper, r, 0.5 * (lower + upper))
        slope = xp.maximum(upper - self.ridge * r * (1.0 - rounding(4)), self.zero) + error
        return self.path_box(
            possible & (lower <= upper), path,
            lambda *off: self.gap_on_table(path, slope, self.zero, *off),
        )  # fmt: skip
