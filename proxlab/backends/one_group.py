"""One group's answer, once for every target that compiles: the search on its sums, candidates, scaling.

Plain Python, rebuilt for a target (:mod:`proxlab.linker`): with the loops of
:mod:`proxlab.backends.sums`, whose words are the target's. The vectorised form in
:mod:`proxlab.backends.array_api` is the specification.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from proxlab.backends.kernel_records import Elements, Found, Scale, Scratch, SolvedGroup, Start
from proxlab.backends.ranges import (
    CAP,
    FAINT,
    NARROW_HIGH,
    NARROW_LOW,
    SAFE_HIGH,
    SAFE_LOW,
    START_LOW,
    STEEPEST,
    TOGETHER,
)
from proxlab.backends.records import GroupResults
from proxlab.backends.sums import (
    FIRST,
    KEEPS,
    STRIP,
    clip_group,
    exponent,
    is_valid,
    largest_metric,
    largest_point,
    linf_margin,
    radial_sums,
    scaled_metric,
    sum_clipped,
    sum_moved,
    sum_narrow,
    sum_ratio,
    sum_start,
    units,
    write_group,
    zero_margin,
)
from proxlab.bounds import UNIT
from proxlab.choose import (
    CONVERGED,
    GIVEN,
    MAX_ITERATIONS,
    UNSHRUNK,
    ZERO,
    Beginning,
    Group,
    Limits,
    Segment,
    at_zero,
    clipped_at_zero,
    clipped_sharpened,
    clipped_task,
    is_close,
    met,
    offer,
    plan,
    residual_at_zero,
    settle,
    sharpened,
    whole,
)
from proxlab.equations import Sums, Task
from proxlab.equations.clipped import NEGLIGIBLE
from proxlab.equations.radial import ANY_PACE, residual, rise
from proxlab.powers import PRODUCT_HIGH, PRODUCT_LOW, TINIEST
from proxlab.rootfinders import Newton, Status
from proxlab.scalar import INF, NAN, fabs, fmax, fmin, inlined, sqrt
from proxlab.search import (
    OPEN,
    SEEKING,
    Root,
    advance,
    ask,
    begin,
    bracketed,
    finish,
    noise,
    seek,
)

BAD, APART = len(Status), len(Status) + 1  # a group with invalid input; one that spreads too far

# Set by the target, beside what the search leaves to it: whether sums may leave float64's range.
NEEDS_BRACKET = Newton.needs_bracket
RESCALES = True
# Set by the target: how often a group is solved: once more in units of its own, where something was lost, or
# that is only looked into.
ATTEMPTS = 2
# Set by the target: whether single precision finds where to start; the most passes it takes, and the
# relative error at which it is good enough.
NARROW = False
NARROW_PASSES = 4
NARROW_ERROR = 2.0**-6
#: The unit of single precision, twice: of a sum and of its terms; and roundings of these, beside those of a
#: sum's own.
NARROW_UNIT, NARROW_ROUNDINGS = 2.0**-23, 32.0


class Near(NamedTuple):
    """What sums next to a root tell: the residual and its slope, Newton's step, where the root is, and the
    error of that.
    """

    f: float
    slope: float
    step: float
    final: float
    error: float


def in_units(e: Elements, ex: int, ed: int, room: Scratch) -> Elements:
    """Copy a group to the scratch, where it may be already, in units of ``2^ex`` and ``2^ed``."""
    for i in range(e.n):
        room.x[i] = math.ldexp(np.float64(e.x[e.o + i]), -ex)
        room.d[i] = scaled_metric(np.float64(e.d[e.o + i]), ed)
    return Elements(room.read_x, room.read_d, FIRST, e.n)


def from_ratio(v: float, ve: float, vee: float, r: float, tau: float, c: float) -> Sums:
    """Return ``S``, ``S₁``, ``S₂`` at ``r`` from the sums of ``z²``, ``z² e``, ``z² e²`` at ``r/tau``.

    For ``e = d r/(d r + tau) = z/x``: ``u = z/r`` and ``(d - c)/(d r + tau) = e (1/r + c/tau) - c/tau``.
    """
    p, q = 1.0 / r + c / tau, c / tau
    rr = r * r
    return Sums(v / rr, (p * ve - q * v) / rr, (p * (p * vee - 2.0 * q * ve) + q * q * v) / rr)


def near_root(v: float, ve: float, vee: float, r: float, tau: float, c: float) -> Near:
    """Return what :func:`~proxlab.search.final_step` does, from the sums at ``r/tau``: in four divisions.

    A group of few elements costs little but these, one after the other.
    """
    root, u = sqrt(v), 1.0 / (r * tau)
    k = 1.0 / (v * root)
    p, q = (tau + c * r) * u, c * r * u
    s1 = p * ve - q * v
    s2 = p * (p * vee - 2.0 * q * ve) + q * q * v
    f, slope = r * v * k - 1.0, s1 * r * k
    bend = 3.0 * fmax(v * s2 - s1 * s1, 0.0) * r * k * k * root
    inverse = 1.0 / slope
    step = f * inverse
    turn, h = bend * inverse, fabs(step)
    bent, paced = turn * h, (tau + fabs(c) * r) * u * h
    usable = bend < 1e300 and paced <= 0.25
    error = 2.0 * bent * h * fmin(bent + 4.0 * paced, 1.0) if usable else h
    final = r - (step / (1.0 + 0.5 * step * turn) if bend < 1e300 else step)
    return Near(f, slope, step, final, error)


def third_order(r: float, step: float, final: float) -> float:
    """Return where to evaluate next: the third-order step, unless it is more than twice Newton's."""
    low, high = fmin(r - 2.0 * step, r), fmax(r - 2.0 * step, r)
    return final if low < final < high else r - step


def narrow_step(v: float, ve: float, vee: float, r: float, task: Task) -> Any:
    """Return where to go from sums in single precision, and whether to leave it to the exact ones.

    From where the root cannot be seen that is ``task.at``.
    """
    near = near_root(v, ve, vee, r, task.a - task.c * r, task.c)
    new = third_order(r, near.step, near.final)
    if not (v > 0.0 and near.slope > 0.0 and vee < INF and task.at <= new <= task.far):
        return task.at, True
    return new, near.error <= NARROW_ERROR * new


def look_narrow(e: Elements, strength: float) -> Any:
    """Return the sign of the residual at zero, 0 for unknown, and, if known, bounds of the sums there.

    From sums in single precision; the bounds put the zero of the tangent before where it is, and the far end
    behind.
    """
    start = sum_narrow(e)
    off = 2.0 * (float(min(e.n, STRIP)) + NARROW_ROUNDINGS) * NARROW_UNIT
    low, high = 1.0 - off, 1.0 + off
    known = NARROW_LOW < start.bb < NARROW_HIGH and NARROW_LOW < start.bbd < NARROW_HIGH
    known = known and NARROW_LOW < start.xx < NARROW_HIGH and strength > NARROW_LOW
    square, sign = strength * strength, 0.0
    if known and square > start.bb * high:
        sign = 1.0
    if known and square < start.bb * low:
        sign = -1.0
    return sign, Start(start.bb * low, start.bbd * high, start.xx * high)


def approach_narrow(e: Elements, reach: float, task: Task) -> Any:
    """Go towards the root in single precision; returns where, and how many passes it took.

    ``reach`` is ``‖x‖``. Nothing is proved here, and where anything is out of range the root is left to the
    careful search.
    """
    r, most = task.at, min(NARROW_PASSES, task.most - 1)
    for passes in range(most):
        tau = task.a - task.c * r
        unit = 1.0 / reach
        ratio = r / tau
        if not (NARROW_LOW < reach < NARROW_HIGH and NARROW_LOW < ratio < NARROW_HIGH and tau > 0.0):
            return task.at, passes
        v, ve, vee = sum_ratio(e, ratio, unit)
        scale = reach * reach
        r, enough = narrow_step(v * scale, ve * scale, vee * scale, r, task)
        if enough:
            return r, passes + 1
    return r, most


def find_root(e: Elements, reach: float, task: Task, explain: bool) -> Root:
    """Find the up-crossing of ``f`` in one group; ``reach`` is ``‖x‖``."""
    r, spent = task.at, 0
    if NARROW:
        r, spent = approach_narrow(e, reach, task)
    sums = sums_at(e, r, task.a, task.c)
    if NARROW:
        f, slope, _ = residual(sums.s, sums.s1, sums.s2)
        if r > task.at and not (f >= 0.0 or slope > 0.0):
            # Beyond the maximum of f.
            r = task.at
            sums = sums_at(e, r, task.a, task.c)
            spent += 1
    known = begin(task, r, sums, spent)
    if NEEDS_BRACKET:
        known = bracketed(known, sums_at(e, task.far, task.a, task.c), task)
        while known.code == SEEKING:
            known = seek(known, sums_at(e, known.r, task.a, task.c), task)
    while known.code == OPEN:
        known = ask(known, task)
        known = advance(known, sums_at(e, known.r, task.a, task.c), task)
    return finish(known, task, explain)


def solve_radial(e: Elements, start: Start, scale: Scale, pieces: Any, limits: Limits) -> Found:
    """Solve one group for a radial penalty, given its sums at zero: the global minimiser."""
    if start.bb == 0.0:
        return Found(0.0, 1.0, 0.0, 0.0, ZERO, 0, 0)
    size, norm, reach = float(e.n), sqrt(start.bb), sqrt(start.xx)
    strength = coefficient(scale, pieces[0, 2], 1)
    f0, trust = residual_at_zero(strength, norm, size)
    if pieces[0, 1] > 0.0:
        f0 = 1.0
    elif is_close(f0, strength, size):
        f0, trust = sharpened(zero_margin(e, pieces[0, 2], scale), strength, start.bb, norm, size)
    group = Group(size, noise(size), norm, reach, f0, trust)
    choice = at_zero(group, NAN, 0)
    part = choice.part
    below, iterations, evaluations = False, 0, 0
    for k in range(pieces.shape[0]):
        part = next_part(part, pieces, k, scale)
        if part.start > reach:
            break
        candidate = whole(group, part)
        if pieces[k, 2] == 0.0 and pieces[k, 3] == 0.0:
            below = True
        else:
            f, slope = f0, (start.bbd - part.c * start.bb) / (start.bb * norm)
            if k > 0:
                sums = sums_at(e, part.start, part.a, part.c)
                f, slope, _ = residual(sums.s, sums.s1, sums.s2)
                evaluations += 1
            # Read at r = 0 only.
            at_zero_too = f < 0.0 and slope > 0.0 and part.start - f / slope <= 0.0
            dmax = largest_metric(e) if limits.explain and at_zero_too else ANY_PACE
            todo = plan(choice, group, part, Beginning(f, slope, k == 0, below, dmax), limits)
            root = Root(False, 0.0, 0.0, 0.0, False, False, 0, 0)
            if todo.search:
                root = find_root(e, reach, todo.task, limits.explain)
            iterations += root.iterations
            evaluations += root.evaluations
            candidate, below = met(todo.knot, root, part), f < 0.0 and not root.exists
        if not (candidate.exists or candidate.unknown):
            continue
        if not choice.found:
            choice = offer(choice, candidate, part, NAN, NAN)
        else:
            objective = choice.objective
            if objective != objective:
                objective = objective_at(e, choice.r, choice.tau, choice.part, start.xx)
            value = objective_at(e, candidate.r, candidate.tau, part, start.xx)
            choice = offer(choice, candidate, part, objective, value)
    answer = settle(choice)
    return Found(answer.r, answer.tau, answer.lower, answer.upper, answer.status, iterations, evaluations)


def solve_linf(e: Elements, _: Start, scale: Scale, pieces: Any, limits: Limits) -> Found:
    """Solve one group for the ℓ∞ norm of strength ``pieces[0, 2]``."""
    size = float(e.n)
    strength = coefficient(scale, pieces[0, 2], 1)
    top = largest_point(e)
    if top == 0.0:
        return Found(0.0, 1.0, 0.0, 0.0, ZERO, 0, 0)
    if strength < NEGLIGIBLE:
        low = top if scale.weight == 0.0 or pieces[0, 2] == 0.0 else top * (1.0 - GIVEN * UNIT)
        return Found(top, 0.0, low, top, UNSHRUNK, 0, 0)
    start = sums_at(e, 0.0, strength, 0.0)
    if not start.s1 < INF:
        return Found(0.0, 1.0, 0.0, 0.0, APART, 0, 0)
    over, trust = clipped_at_zero(start.s, size)
    if is_close(over, strength, size):
        over, trust = clipped_sharpened(linf_margin(e, pieces[0, 2], scale), strength, size)
    if over <= 0.0:
        return Found(0.0, 1.0, 0.0, 0.0, ZERO, 0, 0)
    task = clipped_task(Group(size, noise(size), top, top, -over, trust), start.s1, strength, limits)
    root = find_root(e, top, task, limits.explain)
    status = CONVERGED if root.converged else MAX_ITERATIONS
    return Found(root.r, 1.0, root.lower, root.upper, status, root.iterations, root.evaluations)


def in_unit(v: float, e: int) -> float:
    """Return a length in units of ``2^e``; the call costs as much as a division."""
    return v if e == 0 else math.ldexp(v, -e)


def next_part(before: Segment, pieces: Any, k: int, scale: Scale) -> Segment:
    """Return piece ``k`` of the slope in the group's units, after the one before."""
    start = in_unit(pieces[k, 0], scale.ex)
    end = in_unit(pieces[k + 1, 0], scale.ex) if k + 1 < pieces.shape[0] else INF
    # p where the piece begins; where that is no number, what the pieces before add up to.
    height = before.height + rise(start, before.start, start, before.a, before.c)
    if (k == 0 and pieces[k, 1] > 0.0) or (k > 0 and PRODUCT_LOW < pieces[k, 1] < PRODUCT_HIGH):
        height = coefficient(scale, pieces[k, 1], 2)
    return Segment(
        start, end, coefficient(scale, pieces[k, 2], 1), coefficient(scale, pieces[k, 3], 0), height
    )


def objective_at(e: Elements, r: float, tau: float, part: Segment, xx: float) -> float:
    """Return ``η p(‖z‖) + ½‖z - x‖²_D`` at the point of the path with radius ``r`` and multiplier ``tau``."""
    moved, kept = 0.0, xx
    if tau > 0.0:
        moved, kept = sum_moved(e, r, tau)
    return part.height + rise(sqrt(kept), part.start, part.end, part.a, part.c) + 0.5 * moved


def coefficient(scale: Scale, value: float, powers: int) -> float:
    """Return ``step·weight·value`` in units of ``2^(ed + powers·ex)`` to two roundings, at most the cap.

    Parts of it may leave the range.
    """
    e = -(scale.ed + powers * scale.ex)
    p = scale.step * scale.weight
    q = p * value
    if not (e == 0 and PRODUCT_LOW < p < PRODUCT_HIGH and PRODUCT_LOW < fabs(q) < PRODUCT_HIGH):
        f, i = math.frexp(scale.step)
        g, j = math.frexp(scale.weight)
        h, k = math.frexp(value)
        q = math.ldexp(f * g * h, min(max(i + j + k + e, -2000), 900))  # beyond the cap, not of the range
    return fmax(fmin(q, CAP), -CAP)


def is_faint(r: float, tau: float, least: int) -> bool:
    """Return whether at a root some ``d r`` may be lost, for ``d`` of no less than about ``2^least``."""
    return r > 0.0 and tau > 0.0 and exponent(r) + least < FAINT


def starts_apart(pieces: Any, ex: int) -> bool:
    """Return whether a piece begins where squares leave the range, in units of ``2^ex``."""
    found = False
    for k in range(1, pieces.shape[0]):
        found |= exponent(pieces[k, 0]) - ex < START_LOW
    return found


def underflows(step: float, weight: float, pieces: Any, reach: float) -> bool:
    """Return whether a value, slope or curvature is too small to be exact, as it is given, or a start."""
    eta, found = step * weight, False
    for k in range(pieces.shape[0]):
        found |= k > 0 and pieces[k, 0] < reach * 2.0**START_LOW
        for j in range(1, 4):
            found |= pieces[k, j] != 0.0 and fabs(eta * pieces[k, j]) < PRODUCT_LOW
    return found and weight > 0.0


def is_tame(start: Start, step: float, weight: float, pieces: Any) -> bool:
    """Return whether sums at zero, the slope of the equation there and its numbers are in range."""
    safe = is_safe(start.bb) and is_safe(start.bbd) and is_safe(start.xx)
    steep = start.bbd < STEEPEST * start.bb * sqrt(start.bb)
    return safe and steep and not underflows(step, weight, pieces, sqrt(start.xx))


def is_single(pieces: Any) -> bool:
    """Return whether the slope has one piece, before which the penalty does not jump: one minimiser."""
    return pieces.shape[0] == 1 and pieces[0, 1] == 0.0


def is_safe(v: float) -> bool:
    """Return whether a sum of squares has lost nothing to overflow or underflow."""
    return SAFE_LOW < v < SAFE_HIGH


@inlined
def solve_one(
    e: Elements, step: float, weight: float, pieces: Any, limits: Limits, room: Scratch
) -> SolvedGroup:
    """Solve one group: as it is, where nothing leaves the range, else in units of its own."""
    found = Found(0.0, 0.0, 0.0, 0.0, BAD, 0, 0)
    if KEEPS and is_single(pieces) and not limits.explain and 0.0 < step < INF:
        scale = Scale(step, weight, 0, 0)
        sign, bounds = look_narrow(e, coefficient(scale, pieces[0, 2], 1))
        if sign > 0.0:
            return SolvedGroup(Found(0.0, 1.0, 0.0, 0.0, ZERO, 0, 0), e, False, 0, 0)
        if sign < 0.0:
            return SolvedGroup(solve_group(e, bounds, scale, pieces, limits), e, False, 0, 0)
    start = sum_start(e)
    finite = start.bb < INF and start.bbd < INF and start.xx < INF
    if not (0.0 < step < INF and (finite or (RESCALES and is_valid(e)))):
        return SolvedGroup(found, e, False, 0, 0)
    if not RESCALES:  # a constant: what follows is not compiled where it is false
        return SolvedGroup(solve_group(e, start, Scale(step, weight, 0, 0), pieces, limits), e, False, 0, 0)
    scaled = not is_tame(start, step, weight, pieces)
    lost, apart, ex, ed, least, away, own = False, False, 0, 0, 0, 0, limits
    for _ in range(ATTEMPTS):
        if scaled:
            found = Found(0.0, 0.0, 0.0, 0.0, APART, 0, 0)
            ex, ed, least, apart = units(e)
            if apart or starts_apart(pieces, ex):
                break
            e = in_units(e, ex, ed, room)
            start = sum_start(e)
            own = Limits(limits.rtol, math.ldexp(limits.atol, -ex), limits.most, limits.explain)
        found = solve_group(e, start, Scale(step, weight, ex, ed), pieces, own)
        lost = found.r > 0.0 and found.tau > 0.0 and found.tau * found.r < TOGETHER * sqrt(start.xx)
        if scaled or not lost:
            break
        scaled = ATTEMPTS > 1
    if ATTEMPTS == 1 and lost and not scaled:
        away, _, least, apart = units(e)
    if (scaled or lost) and (apart or is_faint(math.ldexp(found.r, -away), found.tau, least)):
        found = Found(0.0, 0.0, 0.0, 0.0, APART, 0, 0)
    return SolvedGroup(found, e, scaled, ex, ed)


def downwards(v: float, e: int) -> float:
    """Return a lower bound of ``v 2^e`` for ``v >= 0``, its rounding below the normal numbers included."""
    w = math.ldexp(v, e)
    return w if math.ldexp(w, -e) <= v else w - TINIEST


def upwards(v: float, e: int) -> float:
    """Return an upper bound of ``v 2^e`` for ``v >= 0``, its rounding below the normal numbers included."""
    w = math.ldexp(v, e)
    return w if math.ldexp(w, -e) >= v else w + TINIEST


def explained(out: GroupResults, g: int, s: Found, status: int, ex: int) -> None:
    """Write what explains the result of group ``g``."""
    out.radius[g] = math.ldexp(s.r, ex)
    out.lower[g], out.upper[g] = downwards(s.lower, ex), upwards(s.upper, ex)
    out.status[g], out.iterations[g], out.evaluations[g] = status, s.iterations, s.evaluations


# Set by the target, for the equation: its sums at a radius, how one group is solved, and how it is written.
sums_at: Any = radial_sums
solve_group: Any = solve_radial
write: Any = write_group
#: What these names mean, for each equation.
EQUATION_NAMES: dict[str, dict[str, Any]] = {
    "radial": {"sums_at": radial_sums, "solve_group": solve_radial, "write": write_group},
    "clipped": {"sums_at": sum_clipped, "solve_group": solve_linf, "write": clip_group},
}
