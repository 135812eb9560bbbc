"""What the compiled kernels take and return: records of arrays and numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

from proxlab.choose import Limits
from proxlab.types import Array

__all__ = [
    "Data",
    "Elements",
    "Found",
    "Kept",
    "Lying",
    "Request",
    "Scale",
    "Scratch",
    "Shrink",
    "SolvedGroup",
    "Start",
    "Steps",
]


class Data(NamedTuple):
    """Point, metric and result; without ``dense`` the metric is the one number ``d[0]``."""

    x: Array
    d: Array
    z: Array
    dense: bool


class Lying(NamedTuple):
    """Where groups lie.

    Attributes
    ----------
    shape : array of int
        Sizes of outer kept, outer reduced, inner kept and inner reduced axes.
    indptr, indices : array of int
        Where not empty, the elements of each group by index, instead.
    chosen : array of int
        The groups to solve, where not empty; else all.
    """

    shape: Array
    indptr: Array
    indices: Array
    chosen: Array


class Steps(NamedTuple):
    """Steps and weights: one for each group, or one for all."""

    steps: Array
    weights: Array


class Shrink(NamedTuple):
    """The elementwise part: a soft threshold, times the step, and whether negative elements become zero."""

    threshold: float
    nonnegative: bool


class Request(NamedTuple):
    """What is asked for: steps and weights, the elementwise part, the table of pieces, and how exactly."""

    steps: Steps
    shrink: Shrink
    pieces: Array
    limits: Limits


class Scratch(NamedTuple):
    """Room for a copy of a group's point and metric, the same memory read-only, and room for a number."""

    x: Array
    d: Array
    read_x: Array
    read_d: Array
    ratio: Array


class Elements(NamedTuple):
    """The ``n`` elements of a group: ``x[o:o + n]``, and ``d`` likewise; ``o`` is whatever a target reads."""

    x: Array
    d: Array
    o: Any
    n: int


class Kept(NamedTuple):
    """As :class:`Elements`, with room for what an exact pass keeps.

    Attributes
    ----------
    fractions : array
        ``z/x`` of each element.
    ratio : array
        One number: ``r/tau``, at which it is so.
    """

    x: Array
    d: Array
    o: Any
    n: int
    fractions: Array
    ratio: Array


class Start(NamedTuple):
    """Sums at zero: ``Σ b²``, ``Σ b² d``, ``Σ x²``."""

    bb: float
    bbd: float
    xx: float


class Scale(NamedTuple):
    """Step, weight, and the exponents of the units in which a group's ``x`` and ``d`` are read."""

    step: float
    weight: float
    ex: int
    ed: int


class Found(NamedTuple):
    """A group's radius and multiplier in its units, the enclosure of the radius, and how it came about."""

    r: float
    tau: float
    lower: float
    upper: float
    status: int
    iterations: int
    evaluations: int


class SolvedGroup(NamedTuple):
    """What is found of a group, and its elements; where ``scaled``, both in units ``2^ex`` and ``2^ed``."""

    found: Found
    e: Elements
    scaled: bool
    ex: int
    ed: int
