"""Certificates by elimination: boxes that hold all points that may be the minimiser, and what holds for all.

A box is dropped where what it costs at least is more than some point is known to cost; bounds hold for every
point of all that is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from proxlab.backends.scaled_rows import LOST_DROP, ScaledRows, corner, metric_norm, norm_above
from proxlab.bounds import rounding
from proxlab.types import Array

__all__ = ["Box", "Gap", "Left", "gap_of", "left_of"]


#: What bounds a gap, from upper bounds of the distance without and with the metric.
Gap = Callable[[Array, Array], Array]


@dataclass
class Box:
    """Where a candidate is, in the rows in which it is ``possible``.

    ``low, high`` enclose ``|z|``, ``lower, upper`` the radius; ``least`` is a lower bound of ``ηQ`` in the
    box, ``most`` an upper bound of ``ηQ`` at some point. ``gap``, if there is one, bounds what ``ηQ`` is more
    at the candidate than in the box, from bounds of how far it is, without and with the metric.
    """

    possible: Array
    lower: Array
    upper: Array
    low: Array
    high: Array
    least: Array
    most: Array
    gap: Gap | None = None


class Left(NamedTuple):
    """What is left.

    Attributes
    ----------
    alive : list of array of bool
        In which rows, of each box.
    lost : array of bool
        The rows in which no box is: all that is known there is ``0 ≤ z*_i/x_i ≤ 1``.
    count : array
        Boxes that are left.
    floor : array
        What the minimiser costs at least.
    distance, metric_distance, gap : array
        How far the candidate is from it at most, and what it costs more.
    low, high, lower, upper : array
        Bounds of its elements, and of its radius.
    """

    alive: list[Array]
    lost: Array
    count: Array
    floor: Array
    distance: Array
    metric_distance: Array
    gap: Array
    low: Array
    high: Array
    lower: Array
    upper: Array


def left_of(xp: Any, p: ScaledRows, boxes: Iterable[Box], price: Array, reach: Array, known: Array) -> Left:
    """Return what is left of boxes.

    Parameters
    ----------
    boxes : iterable of Box
        Taken one after the other.
    price : array
        What some point costs at most.
    reach : array
        An upper bound of the radius.
    known : array of bool
        The rows whose metric is what it was.
    """
    none, far = xp.zeros_like(p.x), xp.full_like(reach, math.inf)
    zero, alive = xp.zeros_like(reach), []
    count, floor, distance, metric_distance, gap = zero, far, zero, zero, zero
    low, high, lower, upper = p.size_high, none, reach, zero
    for box in boxes:
        on = box.possible & ~(box.least > price * (1.0 + rounding(4)))
        alive.append(on)
        if not bool(xp.any(on)):
            continue

        def with_box(pick: Callable[..., Array], old: Array, new: Array, on: Array = on) -> Array:
            return xp.where(on if old.ndim == 1 else on[:, None], pick(old, new), old)

        off = corner(xp, p, box.low, box.high)
        count = count + xp.astype(on, xp.float64)
        floor = with_box(xp.minimum, floor, box.least)
        apart = norm_above(xp, off), metric_norm(xp, off, p.d)
        distance = with_box(xp.maximum, distance, apart[0])
        metric_distance = with_box(xp.maximum, metric_distance, apart[1])
        gap = with_box(xp.maximum, gap, far if box.gap is None else box.gap(*apart))
        low, high = with_box(xp.minimum, low, box.low), with_box(xp.maximum, high, box.high)
        lower, upper = with_box(xp.minimum, lower, box.lower), with_box(xp.maximum, upper, box.upper)
    lost = count == 0
    if bool(xp.any(lost)):
        low, high = xp.where(lost[:, None], none, low), xp.where(lost[:, None], p.size_high, high)
        lower, upper = xp.where(lost, zero, lower), xp.where(lost, reach, upper)
        off = corner(xp, p, low, high)
        distance = xp.where(lost, norm_above(xp, off), distance)
        metric_distance = xp.where(lost, xp.where(known, metric_norm(xp, off, p.d), far), metric_distance)
    return Left(alive, lost, count, floor, distance, metric_distance, gap, low, high, lower, upper)


def gap_of(xp: Any, p: ScaledRows, left: Left, value: Array) -> Array:
    """Return an upper bound of ``ηQ`` at the candidate, where its penalty is at most ``value``, less that at
    the minimiser.
    """
    apart = metric_norm(xp, corner(xp, p, p.size_low, p.size_high), p.d)
    cost = value + 0.5 * apart * apart * (1.0 + rounding(4))
    gap = cost * (1.0 + rounding(4)) - left.floor * (1.0 - rounding(4))
    gap = xp.where(gap > 0, gap, 0.0 * gap) + LOST_DROP
    gap = xp.minimum(xp.where(xp.isnan(gap), xp.full_like(gap, math.inf), gap), left.gap)
    gap = xp.where(left.distance == 0, xp.zeros_like(gap), gap)  # the minimiser itself
    return xp.where(left.lost | xp.isnan(gap), xp.full_like(gap, math.inf), gap)
