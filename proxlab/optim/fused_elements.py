"""Scalar source of the fused pass: what a step does to an element, before its group's radius is known.

Plain Python, rebuilt and compiled by :mod:`proxlab.optim.fused_cpu`. Elements are computed in the data's
precision, and so are the terms of the sums: the result is the exact prox of data that are perturbed by their
own rounding. Sums go over to float64 every so many terms. State, point and metric are rounded as they are
written, in every loop and wherever arrays lie: a look ahead sees the point of the step, and copies in several
processes stay the same. Only sums may be reordered.

Indices are unsigned, which lets the compiler vectorise, and so are the numbers that are added to them. Loops
contain no floating literals: they would make float32 loops compute in float64.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from proxlab.optim import updates
from proxlab.scalar import any_order, fabs

#: Makes an index; a plain name, since the compiler and the type checker see it differently.
UINT: Any = np.uint64


class Step(NamedTuple):
    """The numbers of a step, in the data's precision.

    Attributes
    ----------
    c : named tuple
        Those of the rule (:mod:`proxlab.optim.updates`).
    cut, minus : float
        Strength of the elementwise part times the step; 0 where negative results are to be zero, else 1.
    keep : float
        What stays of the old weight where the new one is an average.
    one : float
        1.
    """

    c: Any
    cut: float
    minus: float
    keep: float
    one: float


class Tensor(NamedTuple):
    """Weights, gradient and state of a tensor, flat, and its shape.

    ``shape`` is (outer kept, outer reduced, inner kept, inner reduced, cuts): a group has a row of
    ``inner reduced / cuts`` elements for each outer reduced element and cut.
    """

    w: Any
    g: Any
    slots: Any
    shape: Any


def read0(slots: Any, i: int) -> Any:
    """Return the elements ``i`` of all slots."""
    return ()


def read1(slots: Any, i: int) -> Any:
    """As :func:`read0`, of one slot."""
    return (slots[0][i],)


def read2(slots: Any, i: int) -> Any:
    """As :func:`read0`, of two slots."""
    return slots[0][i], slots[1][i]


def read3(slots: Any, i: int) -> Any:
    """As :func:`read0`, of three slots."""
    return slots[0][i], slots[1][i], slots[2][i]


def write0(slots: Any, i: int, new: Any) -> None:
    """Write the elements ``i`` of all slots."""


def write1(slots: Any, i: int, new: Any) -> None:
    """As :func:`write0`, of one slot."""
    slots[0][i] = new[0]


def write2(slots: Any, i: int, new: Any) -> None:
    """As :func:`write0`, of two slots."""
    slots[0][i] = new[0]
    slots[1][i] = new[1]


def write3(slots: Any, i: int, new: Any) -> None:
    """As :func:`write0`, of three slots."""
    slots[0][i] = new[0]
    slots[1][i] = new[1]
    slots[2][i] = new[2]


def metric_own(s: Any, c: Any, one: float) -> float:
    """Return the metric that the rule forms from its new state."""
    return form(s, c)


def metric_unit(s: Any, c: Any, one: float) -> float:
    """Return the identity's metric."""
    return one


def blend_new(old: float, new: float, keep: float, one: float) -> float:
    """Return the new weight where it is the prox."""
    return new


def blend_average(old: float, new: float, keep: float, one: float) -> float:
    """Return the new weight where it is an average."""
    return keep * old + (one - keep) * new


# Set by the target; here for gradient descent: the rule's formulas, how its slots are read and written, how
# the new weight is made of the old one and the prox, and whether there is an elementwise part.
state: Any = updates.SGD.state
point: Any = updates.SGD.point
form: Any = updates.ADAM.metric
read: Any = read0
write: Any = write0
metric: Any = metric_unit
blend: Any = blend_new
SHRINKS = False


def soft(x: float, d: float, cut: float, minus: float, zero: float) -> float:
    """Apply the soft threshold ``cut/d``; ``minus`` is 0 where negative results are to be zero, else 1."""
    size = fabs(x) - cut / d
    size = zero if size <= zero else size  # NaN stays
    return size if x > zero else zero - minus * size


def formed_of(v: float, u: float, s: Any, step: Step) -> Any:
    """Return new state, point and metric of an element, from its weight, gradient and state."""
    c = step.c
    s = state(v, u, s, c)
    d = metric(s, c, step.one)
    return s, point(v, u, d, s, c), d


def formed(t: Tensor, k: int, step: Step) -> Any:
    """Return the new state of an element, and the prox's point and metric; nothing changes."""
    return formed_of(t.w[k], t.g[k], read(t.slots, k), step)


def propose(t: Tensor, k: int, step: Step) -> Any:
    """Update the state of an element; returns the prox's point and metric, after the elementwise part."""
    s, x, d = formed(t, k, step)
    write(t.slots, k, s)
    if SHRINKS:
        x = soft(x, d, step.cut, step.minus, step.one - step.one)
    return x, d


def terms_at_zero(x: float, d: float) -> Any:
    """Return an element's ``b²``, ``b² d``, ``x²``, ``x b``: ``b = d x``."""
    b = x * d
    s = b * b
    return s, s * d, x * x, x * b


def terms(x: float, d: float, ratio: float, above: float, one: float) -> Any:
    """Return an element's ``z²``, ``z² h``, ``z² h²``: ``q = d ratio``, ``h = q/(q + 1)``, ``z = h x``.

    What is summed beyond a second level is only where groups are clipped.
    """
    q = d * ratio
    h = q / (q + one)
    z = x * h
    a = z * z
    b = a * h
    return a, b, b * h


def shrunk(x: float, d: float, ratio: float, rest: float) -> float:
    """Return ``z = x q/(q + rest)`` for ``q = d ratio``: the point itself where there is no rest."""
    q = d * ratio
    return x * (q / (q + rest))


@any_order
def sum_flow(t: Tensor, step: Step, o: int, n: int) -> float:
    """Step where no groups are; returns 0, or NaN if a weight is not finite."""
    zero = step.one - step.one
    total = zero
    for i in range(n):
        k = o + i
        x, _ = propose(t, k, step)
        z = blend(t.w[k], x, step.keep, step.one)
        t.w[k] = z
        total += zero * z
    return total


def flow(t: Tensor, step: Step, begin: int, finish: int) -> float:
    """Step with the elements ``begin … finish - 1``; returns 0, or NaN if a weight is not finite."""
    return sum_flow(t, step, UINT(begin), UINT(finish - begin))


@any_order
def sum_invalid(g: Any, o: int, n: int, one: float) -> float:
    """Return 0, or NaN if the square of an element of ``4 n`` is not finite; four streams are faster."""
    zero = one - one
    total = zero
    p, q, r = o + n, o + n + n, o + n + n + n
    for i in range(n):
        a, b, c, d = g[o + i], g[p + i], g[q + i], g[r + i]
        total += zero * ((a * a + b * b) + (c * c + d * d))
    return total


def invalid(g: Any, begin: int, finish: int, one: float) -> float:
    """Return 0, or NaN if the square of an element is not finite."""
    quarter = (finish - begin) // 4
    total = sum_invalid(g, UINT(begin), UINT(quarter), one)
    for i in range(begin + 4 * quarter, finish):
        total += (one - one) * (g[i] * g[i])
    return total
