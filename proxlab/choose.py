"""A group's answer, once for every target: the zero test, the candidates of the pieces, and which one wins.

The local minimisers of a group's objective are zero, one root at most on each piece of the slope, the radius
where a flat piece begins, and the point itself where the penalty is flat (docs: the mathematics, §3). They
are met in this order::

    choice = at_zero(group, …)
    for part in …                                  # those that begin within the group's reach
        candidate = whole(group, part)             # of a flat one; of the others
        knot, search, task = plan(choice, group, part, beginning, limits)
        candidate = met(knot, find_root(task), part)
        choice = offer(choice, candidate, part, …)
    answer = settle(choice)

Written in the operations of :mod:`proxlab.scalar`, without ``if`` on what differs between groups. The loop,
the sums and the objectives, where two candidates are compared, are the target's.
"""

from __future__ import annotations

from typing import NamedTuple

from proxlab.bounds import UNIT, rounding
from proxlab.double_double import MARGIN_UNIT
from proxlab.equations import Task
from proxlab.equations.radial import roundings
from proxlab.rootfinders import Status
from proxlab.scalar import INF, fabs, filled, fmax, fmin, no, where
from proxlab.search import Root
from proxlab.types import Array

__all__ = [
    "RIVAL_RTOL",
    "Answer",
    "Beginning",
    "Candidate",
    "Choice",
    "Group",
    "Limits",
    "Plan",
    "Segment",
    "at_zero",
    "clipped_at_zero",
    "clipped_sharpened",
    "clipped_task",
    "is_close",
    "met",
    "offer",
    "plan",
    "residual_at_zero",
    "settle",
    "sharpened",
    "whole",
]

CONVERGED, ZERO, UNSHRUNK, TIE, MAX_ITERATIONS = (int(status) for status in Status)
#: Relative tolerance of a root that will be compared with other minimisers.
RIVAL_RTOL = 1e-8
#: Objectives that differ by less than this share of their sum are the same.
SAME = 8.0 * UNIT
#: How far off a radius that is read off the group or the table is, in units.
GIVEN = 8.0
#: Roundings of the sums at zero, beside one for each element.
AT_ZERO = 24.0
#: A strength that is worth a zero test beyond rounding.
TINY = 1e-100


class Limits(NamedTuple):
    """How exactly to solve, as a root finder says, with ``atol`` in a group's units; whether to explain."""

    rtol: float
    atol: Array
    most: int
    explain: bool


class Group(NamedTuple):
    """What the sums at zero say about a group.

    Attributes
    ----------
    size, noise : float
        Its elements, and below what a residual of so many is rounding.
    norm, reach : array
        ``‖b‖`` and ``‖x‖``.
    f0, trust : array
        ``f`` at zero, whose sign is exact, and the relative error of the zero of the tangent there.
    """

    size: float
    noise: float
    norm: Array
    reach: Array
    f0: Array
    trust: Array


class Segment(NamedTuple):
    """A piece of the slope, times the step, in the group's units: ``a - c r`` from ``start`` to ``end``.

    ``height`` is the penalty where it begins.
    """

    start: Array
    end: Array
    a: Array
    c: Array
    height: Array


class Beginning(NamedTuple):
    """Where a piece that is not flat begins.

    Attributes
    ----------
    f, slope : array
        The residual there.
    first : bool
        Whether it is the first piece.
    below : array of bool
        Whether ``f < 0`` where the piece before ended.
    dmax : array
        The largest element of the metric, where it is read.
    """

    f: Array
    slope: Array
    first: bool
    below: Array
    dmax: Array


class Plan(NamedTuple):
    """What to do about a piece: take its beginning (``knot``), or search for a root; or neither."""

    knot: Array
    search: Array
    task: Task


class Candidate(NamedTuple):
    """A local minimiser, where it ``exists``: its radius and multiplier, an enclosure, and how it ended.

    Where it is ``unknown`` whether it exists, ``lower`` and ``upper`` enclose it if it does.
    """

    exists: Array
    unknown: Array
    r: Array
    tau: Array
    lower: Array
    upper: Array
    converged: Array
    kind: int


class Choice(NamedTuple):
    """The best candidate so far.

    Attributes
    ----------
    found : array of bool
    r, tau, lower, upper, converged, kind : array
        As in :class:`Candidate`.
    part : Segment
        The piece on which it lies.
    objective : array
        NaN in targets that compute it when it is needed.
    tie, settled : array of bool
        Whether another one is as good; whether the choice does not hang on a root that was not found well
        enough.
    least, most : array
        Bounds of the radii of all that may be the best, in a tie or unsettled.
    """

    found: Array
    r: Array
    tau: Array
    lower: Array
    upper: Array
    converged: Array
    kind: Array
    part: Segment
    objective: Array
    tie: Array
    settled: Array
    least: Array
    most: Array


class Answer(NamedTuple):
    """A group's radius and multiplier, the enclosure of the radius, and the status."""

    r: Array
    tau: Array
    lower: Array
    upper: Array
    status: Array


def residual_at_zero(strength: Array, norm: Array, size: float) -> tuple[Array, Array]:
    """Return ``f`` at zero for ``‖b‖ > 0``, and the relative error of the zero of the tangent there."""
    f0 = (strength - norm) / norm
    return f0, 2.0 * rounding(size + AT_ZERO) / fmax(fabs(f0), filled(f0, UNIT))


def is_close(f0: Array, strength: Array, size: float) -> Array:
    """Return whether the sign of ``f`` at zero is to be found beyond rounding, by the margin."""
    return (fabs(f0) <= 4.0 * rounding(size + AT_ZERO)) & (strength > TINY)


def clipped_at_zero(s: Array, size: float) -> tuple[Array, Array]:
    """Return ``-f`` at zero for the ℓ∞ norm, from the clipped sum, and how far the tangent there is off."""
    over = s - 1.0
    one = filled(over, 1.0)
    return over, 2.0 * rounding(size + AT_ZERO) * fmax(one, 1.0 / fmax(fabs(over), UNIT * one))


def clipped_sharpened(margin: Array, strength: Array, size: float) -> tuple[Array, Array]:
    """Return what :func:`clipped_at_zero` does, from ``‖D x‖₁ - strength`` to twice the working precision."""
    over = margin / strength
    over = where(fabs(over) > (size + 16.0) * MARGIN_UNIT, over, over * 0.0)
    return over, filled(over, 4.0 * rounding(size + AT_ZERO))


def sharpened(margin: Array, strength: Array, bb: Array, norm: Array, size: float) -> tuple[Array, Array]:
    """Return what :func:`residual_at_zero` does, from ``‖b‖² - strength²`` to twice the working precision."""
    f0 = where(
        fabs(margin) > (size + 16.0) * MARGIN_UNIT * bb, -margin / (norm * (norm + strength)), bb * 0.0
    )
    return f0, filled(f0, 4.0 * rounding(size + AT_ZERO))


def at_zero(group: Group, objective: Array, none: Array) -> Choice:
    """Return the choice before any piece: zero, where it is a local minimiser; ``none`` is a zero count."""
    zero, one = group.norm * 0.0, filled(group.norm, 1.0)
    yes, inf = group.norm >= 0, filled(group.norm, INF)
    part = Segment(zero, inf, zero, zero, zero)
    return Choice(
        group.f0 >= 0, zero, one, zero, zero, yes, filled(none, ZERO), part, objective, group.norm < 0, yes,
        inf, zero,
    )  # fmt: skip


def plan(choice: Choice, group: Group, part: Segment, here: Beginning, limits: Limits) -> Plan:
    """Say what to do about a piece that is not flat."""
    f, slope, dmax = here.f, here.slope, here.dmax
    inside = part.end <= group.reach  # the piece ends before the group's own radius
    limit = fmin(part.end, group.reach) * (1.0 + (group.size + GIVEN) * UNIT)
    doubtful = inside | (part.a - part.c * group.reach < 0)
    rising = slope > 0
    at = part.start - f / where(rising, slope, filled(f, 1.0))
    floor = part.start
    if here.first:
        floor = fmin(at * fmax(1.0 - group.trust, f * 0.0), limit)
    search = (f < 0) & rising & ((at <= limit) | no(doubtful))
    # Where candidates will be compared, the root must be good enough to compare.
    cap = where(choice.found | inside, filled(f, RIVAL_RTOL), filled(f, 1.0))
    delta = rounding(group.size + roundings(part.c, 0))
    task = Task(
        part.a, part.c, floor, fmin(at, limit), limit, doubtful, limits.rtol, limits.atol, cap, group.size,
        group.noise, delta, dmax, dmax, limits.most,
    )  # fmt: skip
    return Plan((f >= 0) & here.below, search, task)


def met(knot: Array, root: Root, part: Segment) -> Candidate:
    """Return the candidate of a piece: its beginning, where ``f`` crosses zero before it, or the root."""
    r = where(knot, part.start, root.r)
    return Candidate(
        root.exists | knot,
        root.unknown,
        r,
        fmax(part.a - part.c * r, r * 0.0),
        where(knot, part.start * (1.0 - GIVEN * UNIT), root.lower),
        where(knot, part.start * (1.0 + GIVEN * UNIT), root.upper),
        root.converged | knot,
        CONVERGED,
    )


def whole(group: Group, part: Segment) -> Candidate:
    """Return the candidate of a flat piece: the point itself, where it lies on it."""
    reach, off = group.reach, GIVEN * group.size * UNIT
    here, never = part.end > group.reach, group.reach < 0
    tau = reach * 0.0
    return Candidate(here, never, reach, tau, reach * (1.0 - off), reach * (1.0 + off), no(never), UNSHRUNK)


def offer(choice: Choice, c: Candidate, part: Segment, objective: Array, value: Array) -> Choice:
    """Compare a candidate, where there are two, with the best so far, which is shorter, by the objectives."""
    both = c.exists & choice.found
    same = both & (fabs(value - objective) <= SAME * (value + objective))
    wins = c.exists & (no(choice.found) | ((value < objective) & no(same)))
    # The loser's objective is an upper bound of that at its exact root.
    unsure = both & no(where(wins, choice.converged, c.converged))
    rivals = same | unsure
    least = where(rivals, fmin(choice.least, fmin(c.lower, choice.lower)), choice.least)
    most = where(rivals, fmax(choice.most, fmax(c.upper, choice.upper)), choice.most)
    best = choice.part
    return Choice(
        choice.found | c.exists,
        where(wins, c.r, choice.r),
        where(wins, c.tau, choice.tau),
        where(wins, c.lower, choice.lower),
        where(wins, c.upper, choice.upper),
        where(wins, c.converged, choice.converged),
        where(wins, filled(choice.kind, c.kind), choice.kind),
        Segment(
            where(wins, part.start, best.start),
            where(wins, part.end, best.end),
            where(wins, part.a, best.a),
            where(wins, part.c, best.c),
            where(wins, part.height, best.height),
        ),
        where(wins, value, objective),
        (choice.tie & no(wins)) | same,
        choice.settled & no(unsure | c.unknown),
        where(c.unknown, fmin(least, c.lower), least),
        where(c.unknown, fmax(most, c.upper), most),
    )


def clipped_task(group: Group, slope: Array, strength: Array, limits: Limits) -> Task:
    """Return the task of the ℓ∞ norm, whose root exists where ``f0 < 0``; ``reach`` is ``max|x|``."""
    zero, one, top = group.f0 * 0.0, filled(group.f0, 1.0), group.reach
    at = -group.f0 / where(slope > 0, slope, one)
    floor = at * fmax(1.0 - group.trust, zero)
    return Task(
        strength, zero, floor, fmin(at, top), top, zero > 0, limits.rtol, limits.atol, one, group.size,
        group.noise, rounding(group.size + AT_ZERO), zero, zero, limits.most,
    )  # fmt: skip


def settle(choice: Choice) -> Answer:
    """Return the answer: in a tie, or where roots were not found well enough, the bounds are those of all."""
    kind = choice.kind
    unshrunk = (kind == CONVERGED) & (choice.tau == 0)
    status = where(unshrunk, filled(kind, UNSHRUNK), kind)
    status = where(choice.tie, filled(kind, TIE), status)
    status = where(choice.converged & choice.settled, status, filled(kind, MAX_ITERATIONS))
    rivals = choice.tie | no(choice.settled)
    lower = where(rivals, fmin(choice.lower, choice.least), choice.lower)
    upper = where(rivals, fmax(choice.upper, choice.most), choice.upper)
    return Answer(choice.r, choice.tau, lower, upper, status)
