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
    INF,
    MANY,
    PASSES,
    UINT,
    Numbers,
    advance_groups,
    block_in,
    close_groups,
    first_ratios,
    flow,
    invalid,
    metric,
    next_ratios,
    open_groups,
    point,
    read,
    rows,
    scan_groups,
    state,
    terms_of_groups,
    update_groups,
    write,
    write_groups,
)
from proxlab.scalar import any_order


class Tensors(NamedTuple):
    """Where tensors lie, and what differs from one prox to the other.

    A prox is of one tensor, or of groups of columns that have a part in each of several.

    Attributes
    ----------
    addresses : array of int
        Of weights, gradient and each array of state: a row per tensor.
    shapes : array of int
        Sizes of outer kept, outer reduced, inner kept and inner reduced axes, and into how many rows the last
        is cut.
    spans : array of int
        Where the tensors of a prox begin, and where those of the last end.
    units : array of int
        How many parts each prox has: groups, blocks of columns or elements.
    per_block : array of int
        Groups of a block of columns.
    strengths, squares : array of float
        The groups' weights, and what :func:`~proxlab.optim.fused_kernels.scan_groups` finds, those of one
        prox after those of another.
    starts : array of int
        Where the part of a prox of each begins, and where that of the last ends.
    doubts : array of float
        What a sum may be wrong by, relative to itself.
    """

    addresses: Any
    shapes: Any
    spans: Any
    units: Any
    per_block: Any
    strengths: Any
    squares: Any
    starts: Any
    doubts: Any


class Span(NamedTuple):
    """From part ``unit`` of prox ``first`` to before part ``stop`` of prox ``last``."""

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


def count_of(tensors: Tensors, k: int, block: int) -> int:
    """Return how many groups a block of a prox has."""
    shape = tensors.shapes[tensors.spans[k]]
    return min(tensors.per_block[k], shape[0] * shape[2] - block * tensors.per_block[k])


def scan_of(tensors: Tensors, span: Span, one: float, part: Any, total: Any, spoilt: Any) -> None:
    """As :func:`invalid_of`, and sum the squares of the weights of each group."""
    for k in range(span.first, span.last + 1):
        begin = span.unit if k == span.first else 0
        finish = span.stop if k == span.last else tensors.units[k]
        squares = tensors.squares[tensors.starts[k, 1] : tensors.starts[k + 1, 1]]
        for block in range(begin, finish):
            first, count = block * tensors.per_block[k], count_of(tensors, k, block)
            squares[first : first + count] = 0.0
            for s in range(tensors.spans[k], tensors.spans[k + 1]):
                at, n = tensors.addresses[s], length_of(tensors.shapes[s])
                w, g = elements(at[0], n, one), elements(at[1], n, one)
                scan_groups(w, g, tensors.shapes[s], first, count, one, part, total, squares)
            for j in range(first, first + count):
                if not squares[j] < INF:
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
    """As :func:`rows_of`, with blocks of neighbouring groups, up to the first block that has some left."""
    for k in range(span.first, span.last + 1):
        begin = span.unit if k == span.first else 0
        finish = span.stop if k == span.last else tensors.units[k]
        own = doubted(numbers, tensors.doubts[k])
        for unit in range(begin, finish):
            count = block_of(tensors, k, unit, c, own, cut, minus, one, hard, part, total, values)
            if count > 0:
                return k, unit + 1, count
    return span.last, span.stop, 0


def block_of(
    tensors: Tensors, k: int, unit: int, c: Any, numbers: Numbers, cut: float, minus: float, one: float,
    hard: Any, part: Any, total: Any, values: Any,
) -> int:  # fmt: skip
    """Step with a block of groups; returns how many are left to the general solver, with their point."""
    begin, finish = tensors.spans[k], tensors.spans[k + 1]
    weights = tensors.strengths[tensors.starts[k, 0] : tensors.starts[k + 1, 0]]
    squares = tensors.squares[tensors.starts[k, 1] : tensors.starts[k + 1, 1]]
    block = block_in(values, unit * tensors.per_block[k], count_of(tensors, k, unit))
    first_ratios(block, squares, weights, numbers)
    for s in range(begin, finish):
        at, shape = tensors.addresses[s], tensors.shapes[s]
        n = length_of(shape)
        w, g = elements(at[0], n, one), elements(at[1], n, one)
        update_groups(w, g, held(at, n, one), c, shape, block, cut, minus, one, part, total)
    active = open_groups(block, squares, weights, numbers)
    for _ in range(PASSES):
        # A pass costs as much for a few groups as for all; the last few are cheaper one by one.
        if active <= block.n // MANY:
            break
        if next_ratios(block) < active:
            for s in range(begin, finish):
                at, shape = tensors.addresses[s], tensors.shapes[s]
                n = length_of(shape)
                slots = held(at, n, one)
                terms_of_groups(elements(at[0], n, one), slots, c, shape, block, one, part, total)
        active = advance_groups(block, numbers)
    left = close_groups(block, hard)
    for s in range(begin, finish):
        at, shape = tensors.addresses[s], tensors.shapes[s]
        n = length_of(shape)
        write_groups(elements(at[0], n, one), held(at, n, one), c, shape, block, one, part)
    return left


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
