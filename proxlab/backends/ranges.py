"""Ranges in which the backends trust numbers, once for all; beyond, a group is scaled or left alone."""

from __future__ import annotations

__all__ = [
    "APART_HIGH",
    "APART_LOW",
    "CAP",
    "FAINT",
    "METRIC_CAP",
    "METRIC_FLOOR",
    "NARROW_HIGH",
    "NARROW_LOW",
    "SAFE_HIGH",
    "SAFE_LOW",
    "START_LOW",
    "STEEPEST",
    "TOGETHER",
]

#: Sums of squares in this range have lost nothing to overflow or underflow.
SAFE_LOW, SAFE_HIGH = 1e-200, 1e200
#: Coefficients of an equation of scale 1 mean the same beyond the first; so do metrics beyond the second,
#: where the element is zero.
CAP, METRIC_CAP = 1e270, 2.0**900
#: Smaller metrics mean what this does: that of an element that is not zero is greater, or its group is left
#: alone.
METRIC_FLOOR = 2.0**-1000
#: Exponents of the metric, in units of the group, between which every element counts as it should.
APART_LOW, APART_HIGH = -900, 800
#: The exponent of a product d r at a root that loses nothing is greater. Whatever it is, it loses nothing
#: that counts if r tau is no less than this share of ‖x‖.
FAINT, TOGETHER = -900, 1e-200
#: The exponent of where a piece begins, in units of the group, that squares stay in range at is greater.
START_LOW = -400
#: Slopes of the equation at zero that are in range are less.
STEEPEST = 1e250
#: The range in which single precision is trusted.
NARROW_LOW, NARROW_HIGH = 1e-30, 1e30
