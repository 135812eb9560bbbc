"""Scalar source of the fused pass over many tensors: one call goes from tensor to tensor.

Linked as :mod:`proxlab.optim.fused_kernels` is, whose functions do a part of one tensor. Tensors are given by
their addresses, which :func:`elements` makes arrays of; a target has its own.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np

from proxlab.optim.fused_kernels import (
    UINT,
    Numbers,
    columns,
    flow,
    invalid,
    metric,
    point,
    read,
    rows,
    scan,
    state,
    write,
)
from proxlab.scalar import any_order


class Tensors(NamedTuple):
    """Where tensors lie, and what differs from one to the other.

    Attributes
    ----------
    addresses : array of int
        Of weights, gradient and each array of state: a row per tensor.
    shapes : array of int
        Sizes of outer kept, outer reduced, inner kept and inner reduced axes.
    units : array of int
        How many parts each has: groups, blocks of columns or elements.
    per_block : array of int
        Groups of a block of columns.
    strengths, squares : array of float
        The groups' weights, and what :func:`~proxlab.optim.fused_kernels.scan` finds, one tensor's after
        those of another.
    starts : array of int
        Where a tensor's part of each begins, and where that of the last ends.
    doubts : array of float
        What a sum may be wrong by, relative to itself.
    """

    addresses: Any
    shapes: Any
    units: Any
    per_block: Any
    strengths: Any
    squares: Any
    starts: Any
    doubts: Any


class Span(NamedTuple):
    """From part ``unit`` of tensor ``first`` to before part ``stop`` of tensor ``last``."""

    first: int
    unit: int
    last: int
    stop: int


def elements(address: int, n: int, one: Any) -> Any:
    """Return the ``n`` elements at an address as an array of the type of ``one``."""
    kind: Any = ctypes.c_float if one.dtype == np.float32 else ctypes.c_double
    return np.frombuffer((kind * n).from_address(address), one.dtype)


def held0(addresses: Any, n: int, one: float) -> Any:
    """Return the arrays of state of a tensor."""
    return ()


def held1(addresses: Any, n: int, one: float) -> Any:
    """As :func:`held0`, of one array."""
    return (elements(addresses[2], n, one),)


def held2(addresses: Any, n: int, one: float) -> Any:
    """As :func:`held0`, of two arrays."""
    return elements(addresses[2], n, one), elements(addresses[3], n, one)


def held3(addresses: Any, n: int, one: float) -> Any:
    """As :func:`held0`, of three arrays."""
    return elements(addresses[2], n, one), elements(addresses[3], n, one), elements(addresses[4], n, one)


# Set by the target: the arrays of state of the rule at their addresses.
held: Any = held0


def length_of(shape: Any) -> int:
    """Return how many elements a tensor has."""
    return shape[0] * shape[1] * shape[2] * shape[3]


def doubted(numbers: Numbers, doubt: float) -> Numbers:
    """Return the numbers of a tensor."""
    return Numbers(
        numbers.a, numbers.c, numbers.end, numbers.jump, numbers.last, numbers.rtol, numbers.unit,
        numbers.low, numbers.step, doubt,
    )  # fmt: skip


def flow_of(tensors: Tensors, span: Span, c: Any, cut: float, minus: float, keep: float, one: float) -> int:
    """Step where no groups are; returns a tensor with a weight that is not finite, or -1."""
    found = -1
    for k in range(span.first, span.last + 1):
        begin = span.unit if k == span.first else 0
        finish = span.stop if k == span.last else tensors.units[k]
        at, n = tensors.addresses[k], length_of(tensors.shapes[k])
        w, g = elements(at[0], n, one), elements(at[1], n, one)
        total = flow(w, g, held(at, n, one), c, begin, finish, cut, minus, keep, one)
        if total != 0.0 and found < 0:
            found = k
    return found


def invalid_of(tensors: Tensors, span: Span, one: float, spoilt: Any) -> None:
    """Mark the tensors whose gradient has an element of which the square is not finite."""
    for k in range(span.first, span.last + 1):
        n = length_of(tensors.shapes[k])
        size = n // tensors.units[k]
        begin = (span.unit if k == span.first else 0) * size
        finish = (span.stop if k == span.last else tensors.units[k]) * size
        if invalid(elements(tensors.addresses[k, 1], n, one), begin, finish, one) != 0.0:
            spoilt[k] = True


def scan_of(tensors: Tensors, span: Span, one: float, part: Any, total: Any, spoilt: Any) -> None:
    """As :func:`invalid_of`, and sum the squares of the weights of each group."""
    for k in range(span.first, span.last + 1):
        begin = span.unit if k == span.first else 0
        finish = span.stop if k == span.last else tensors.units[k]
        shape = tensors.shapes[k]
        n = length_of(shape)
        w, g = elements(tensors.addresses[k, 0], n, one), elements(tensors.addresses[k, 1], n, one)
        squares = tensors.squares[tensors.starts[k, 1] : tensors.starts[k + 1, 1]]
        if not scan(w, g, shape, begin, finish, tensors.per_block[k], one, part, total, squares):
            spoilt[k] = True


def rows_of(
    tensors: Tensors, span: Span, c: Any, numbers: Numbers, cut: float, minus: float, keep: float, one: float,
    x: Any, d: Any, hard: Any, part: Any,
) -> Any:  # fmt: skip
    """Step with contiguous groups, up to the first tensor that has some for the general solver.

    Returns where to go on, as tensor and part, and how many groups of that tensor were left.
    """
    for k in range(span.first, span.last + 1):
        begin = span.unit if k == span.first else 0
        finish = span.stop if k == span.last else tensors.units[k]
        at, shape = tensors.addresses[k], tensors.shapes[k]
        n = length_of(shape)
        w, g = elements(at[0], n, one), elements(at[1], n, one)
        weights = tensors.strengths[tensors.starts[k, 0] : tensors.starts[k + 1, 0]]
        room = min(len(hard), len(x) // shape[3])
        unit, count = rows(
            w, g, held(at, n, one), c, shape, begin, finish, weights, doubted(numbers, tensors.doubts[k]),
            cut, minus, keep, one, x, d, hard[:room], part,
        )  # fmt: skip
        if count > 0:
            return k, unit, count
    return span.last, span.stop, 0


def columns_of(
    tensors: Tensors, span: Span, c: Any, numbers: Numbers, cut: float, minus: float, one: float, hard: Any,
    part: Any, total: Any, values: Any,
) -> Any:  # fmt: skip
    """As :func:`rows_of`, with blocks of neighbouring groups."""
    for k in range(span.first, span.last + 1):
        begin = span.unit if k == span.first else 0
        finish = span.stop if k == span.last else tensors.units[k]
        at, shape = tensors.addresses[k], tensors.shapes[k]
        n = length_of(shape)
        w, g = elements(at[0], n, one), elements(at[1], n, one)
        weights = tensors.strengths[tensors.starts[k, 0] : tensors.starts[k + 1, 0]]
        squares = tensors.squares[tensors.starts[k, 1] : tensors.starts[k + 1, 1]]
        unit, count = columns(
            w, g, held(at, n, one), c, shape, begin, finish, weights, doubted(numbers, tensors.doubts[k]),
            cut, minus, one, hard, part, total, values, tensors.per_block[k], squares,
        )  # fmt: skip
        if count > 0:
            return k, unit, count
    return span.last, span.stop, 0


@any_order
def count_all(w: Any, n: Any, one: float) -> int:
    """Count the elements that are not zero."""
    zero, total = one - one, 0
    for i in range(n):
        total += w[i] != zero
    return total


def count_alive(addresses: Any, sizes: Any, strides: Any, one: float, counts: Any) -> None:
    """Count the elements of tensors that are not zero, with a stride for each."""
    zero = one - one
    for k in range(len(sizes)):
        w = elements(addresses[k], sizes[k], one)
        if strides[k] == 1:
            counts[k] = count_all(w, UINT(sizes[k]), one)
        else:
            total = 0
            for i in range(0, sizes[k], strides[k]):
                total += w[i] != zero
            counts[k] = total


@any_order
def keep_metric(d: Any, i: int, m: float) -> None:
    """Write the metric of an element."""
    d[i] = m


@any_order
def drop_metric(d: Any, i: int, m: float) -> None:
    """Write nothing: the metric is the identity."""


# Set by the target: one of these.
note_metric: Any = drop_metric


@any_order
def form_points(
    w: Any, g: Any, slots: Any, new: Any, c: Any, x: Any, d: Any, o: int, n: int, one: float
) -> None:
    """Form new state, point and metric of ``n`` elements, and change nothing."""
    for i in range(n):
        k = o + i
        s = state(w[k], g[k], read(slots, k), c)
        write(new, k, s)
        m = metric(s, c, one)
        note_metric(d, k, m)
        x[k] = point(w[k], g[k], m, s, c)


def points(
    w: Any, g: Any, slots: Any, new: Any, c: Any, x: Any, d: Any, begin: int, finish: int, one: float
) -> None:
    """Form what the prox is asked for of the elements ``begin … finish - 1``."""
    form_points(w, g, slots, new, c, x, d, UINT(begin), UINT(finish - begin), one)
