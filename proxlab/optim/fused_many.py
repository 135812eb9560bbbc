"""Scalar source of the fused pass over many tensors: one call goes from tensor to tensor.

Linked as :mod:`proxlab.optim.fused_elements` is. Tensors are given by their addresses, which :func:`elements`
makes arrays of; a target has its own.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from proxlab.optim.fused_blocks import (
    Block,
    advance_groups,
    aim_groups,
    begin_groups,
    block_in,
    close_groups,
    forget_sums,
    only,
    open_groups,
)
from proxlab.optim.fused_columns import (
    MANY,
    ColumnRoom,
    pass_ratio,
    pass_squares,
    pass_tell,
    pass_update,
    pass_write,
)
from proxlab.optim.fused_elements import UINT, Step, Tensor, flow, formed, invalid, write
from proxlab.optim.fused_groups import OPEN, PASSES, Numbers
from proxlab.optim.fused_rows import RowRoom, rows, tell_rows
from proxlab.optim.fused_side import SIDE, solve_side
from proxlab.scalar import INF


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
        The groups' weights, and the squares of the tensors' weights in columns, whose root is where the
        radius is first looked for: those of one prox after those of another.
    starts : array of int
        Where the part of a prox of each begins, and where that of the last ends.
    doubts : array of float
        What a sum may be wrong by, relative to itself.
    gone : array of bool
        Which groups are zero for certain, those of one prox after those of another.
    places : array of int
        Where the groups of a prox begin among those, and where those of the last end.
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
    gone: Any
    places: Any


class Span(NamedTuple):
    """From part ``unit`` of prox ``first`` to before part ``stop`` of prox ``last``."""

    first: int
    unit: int
    last: int
    stop: int


def elements(address: int, n: int, one: Any) -> Any:
    """Return the ``n`` elements at an address as an array of the type of ``one``."""
    kind: Any = np.ctypeslib.as_ctypes_type(one.dtype)
    return np.frombuffer((kind * int(n)).from_address(int(address)), one.dtype)


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


def tensor_at(tensors: Tensors, k: int, one: float) -> Tensor:
    """Return tensor ``k``."""
    at, shape = tensors.addresses[k], tensors.shapes[k]
    n = length_of(shape)
    return Tensor(elements(at[0], n, one), elements(at[1], n, one), held(at, n, one), shape)


def part_of(tensors: Tensors, span: Span, k: int) -> Any:
    """Return where the span's part of a prox begins and ends."""
    return span.unit if k == span.first else 0, span.stop if k == span.last else tensors.units[k]


def doubted(numbers: Numbers, doubt: float) -> Numbers:
    """Return the numbers of a tensor."""
    return Numbers(
        numbers.table,
        numbers.alone,
        numbers.finest,
        numbers.rtol,
        numbers.unit,
        numbers.low,
        numbers.step,
        doubt,
    )


def flow_of(tensors: Tensors, span: Span, step: Step) -> int:
    """Step where no groups are; returns a tensor with a weight that is not finite, or -1."""
    found = -1
    for k in range(span.first, span.last + 1):
        begin, finish = part_of(tensors, span, k)
        if flow(tensor_at(tensors, k, step.one), step, begin, finish) != 0.0 and found < 0:
            found = k
    return found


def invalid_of(tensors: Tensors, span: Span, one: float, spoilt: Any) -> None:
    """Mark the tensors whose gradient has an element of which the square is not finite."""
    for k in range(span.first, span.last + 1):
        n = length_of(tensors.shapes[k])
        size = n // tensors.units[k]
        begin, finish = part_of(tensors, span, k)
        if invalid(elements(tensors.addresses[k, 1], n, one), begin * size, finish * size, one) != 0.0:
            spoilt[k] = True


def count_of(tensors: Tensors, k: int, block: int) -> int:
    """Return how many groups a block of a prox has."""
    shape = tensors.shapes[tensors.spans[k]]
    return min(tensors.per_block[k], shape[0] * shape[2] - block * tensors.per_block[k])


def block_of(tensors: Tensors, k: int, first: int, count: int, room: ColumnRoom) -> Block:
    """Return a block of groups of a prox."""
    begin, here = tensors.starts[k, 1] + first, tensors.places[k] + first
    gone = tensors.gone[here : here + count]
    return block_in(room.values, first, count, tensors.squares[begin : begin + count], gone)


def scan_of(tensors: Tensors, span: Span, step: Step, room: ColumnRoom, spoilt: Any) -> None:
    """As :func:`invalid_of`, and sum the squares of the weights of each group."""
    for k in range(span.first, span.last + 1):
        begin, finish = part_of(tensors, span, k)
        for unit in range(begin, finish):
            block = cleared(tensors, k, unit, room)
            for s in range(tensors.spans[k], tensors.spans[k + 1]):
                pass_squares(tensor_at(tensors, s, step.one), step, block, room)
            keep_squares(block, k, spoilt)


def cleared(tensors: Tensors, k: int, unit: int, room: ColumnRoom) -> Block:
    """Return a block of a prox whose sums are zero, and that asks for none at a ratio."""
    first, count = unit * tensors.per_block[k], count_of(tensors, k, unit)
    block = block_of(tensors, k, first, count, room)
    block.ratio[:count] = 0.0
    forget_sums(block, 0)
    return block


def keep_squares(block: Block, k: int, spoilt: Any) -> None:
    """Keep what the weights of each group measure, the first of its sums; NaN tells of its gradient."""
    for j in range(block.end):
        block.squares[j] = block.sums[0, j]
        if not block.sums[0, j] < INF:
            spoilt[k] = True


def tell_of(tensors: Tensors, span: Span, step: Step, room: ColumnRoom, found: Any, spoilt: Any) -> None:
    """As :func:`scan_of`, and sum over the groups of the point that the next step takes; nothing changes.

    ``found`` has a column for each group: what is counted, and the sums of
    :func:`proxlab.optim.group_sums.sum_terms`.
    """
    for k in range(span.first, span.last + 1):
        begin, finish = part_of(tensors, span, k)
        for unit in range(begin, finish):
            block = cleared(tensors, k, unit, room)
            for s in range(tensors.spans[k], tensors.spans[k + 1]):
                pass_tell(tensor_at(tensors, s, step.one), step, block, room)
            keep_squares(block, k, spoilt)
            for s in range(len(found)):
                for j in range(block.end):
                    found[s, tensors.places[k] + block.first + j] = block.sums[s + 1, j]


def tell_rows_of(tensors: Tensors, span: Span, step: Step, room: RowRoom, found: Any, spoilt: Any) -> None:
    """As :func:`tell_of`, of contiguous groups."""
    for k in range(span.first, span.last + 1):
        begin, finish = part_of(tensors, span, k)
        if not tell_rows(
            tensor_at(tensors, k, step.one), step, begin, finish, tensors.places[k], room, found
        ):
            spoilt[k] = True


def rows_of(tensors: Tensors, span: Span, step: Step, numbers: Numbers, room: RowRoom) -> Any:
    """Step with contiguous groups, up to the first tensor that has some for the general solver.

    Returns where to go on, as tensor and part, and how many groups of that tensor were left.
    """
    for k in range(span.first, span.last + 1):
        begin, finish = part_of(tensors, span, k)
        weights = tensors.strengths[tensors.starts[k, 0] : tensors.starts[k + 1, 0]]
        most = min(len(room.hard), len(room.x) // tensors.shapes[k, 3])
        unit, count = rows(
            tensor_at(tensors, k, step.one), step, doubted(numbers, tensors.doubts[k]),
            weights, tensors.gone[tensors.places[k] : tensors.places[k + 1]], begin, finish,
            RowRoom(room.x, room.d, room.hard[:most], room.part),
        )  # fmt: skip
        if count > 0:
            return k, unit, count
    return span.last, span.stop, 0


def side_of(tensors: Tensors, span: Span, step: Step, numbers: Numbers, room: ColumnRoom) -> Any:
    """As :func:`rows_of`, with short groups side by side, up to the first that have some left."""
    for k in range(span.first, span.last + 1):
        begin, finish = part_of(tensors, span, k)
        t, own = tensor_at(tensors, k, step.one), doubted(numbers, tensors.doubts[k])
        weights = tensors.strengths[tensors.starts[k, 0] : tensors.starts[k + 1, 0]]
        for first in range(begin, finish, SIDE):
            last = min(first + SIDE, finish)
            here = tensors.places[k] + first
            gone = tensors.gone[here : here + last - first]
            count = solve_side(t, step, own, weights, gone, first, last - first, room)
            if count > 0:
                return k, last, count
    return span.last, span.stop, 0


def columns_of(tensors: Tensors, span: Span, step: Step, numbers: Numbers, room: ColumnRoom) -> Any:
    """As :func:`rows_of`, with blocks of neighbouring groups, up to the first block that has some left."""
    for k in range(span.first, span.last + 1):
        begin, finish = part_of(tensors, span, k)
        own = doubted(numbers, tensors.doubts[k])
        for unit in range(begin, finish):
            count = solve_block(tensors, k, unit, step, own, room)
            if count > 0:
                return k, unit + 1, count
    return span.last, span.stop, 0


def search_on(tensors: Tensors, k: int, step: Step, numbers: Numbers, block: Block, room: ColumnRoom) -> int:
    """Go on with the open groups of a block by a pass; returns how many are open still."""
    if aim_groups(block, numbers) > 0:
        for s in range(tensors.spans[k], tensors.spans[k + 1]):
            pass_ratio(tensor_at(tensors, s, step.one), step, block, room)
    return advance_groups(block, numbers)


def solve_block(tensors: Tensors, k: int, unit: int, step: Step, numbers: Numbers, room: ColumnRoom) -> int:
    """Step with a block of groups; returns how many are left to the general solver, with their point."""
    begin, finish = tensors.spans[k], tensors.spans[k + 1]
    block = block_of(tensors, k, unit * tensors.per_block[k], count_of(tensors, k, unit), room)
    begin_groups(block, tensors.strengths[tensors.starts[k, 0] : tensors.starts[k + 1, 0]], numbers)
    for s in range(begin, finish):
        pass_update(tensor_at(tensors, s, step.one), step, block, room)
    active, passes = open_groups(block, numbers), 0
    while passes < PASSES and active > block.end // MANY:
        active = search_on(tensors, k, step, numbers, block, room)
        passes += 1
    if active > 0:
        # Each has as many passes as with all others: its result does not depend on them.
        for j in range(block.end):
            for _ in range(passes, PASSES):
                if block.state[j] == OPEN:
                    search_on(tensors, k, step, numbers, only(block, j), room)
    left = close_groups(block, numbers, room.hard)
    for s in range(begin, finish):
        pass_write(tensor_at(tensors, s, step.one), step, block, room)
    return left


class Asked(NamedTuple):
    """What a rule asks of the prox: point, metric and new state, flat."""

    x: Any
    d: Any
    slots: Any


def keep_metric(d: Any, i: int, m: float) -> None:
    """Write the metric of an element."""
    d[i] = m


def drop_metric(d: Any, i: int, m: float) -> None:
    """Write nothing: the metric is the identity."""


# Set by the target: one of these.
note_metric: Any = drop_metric


def form_points(t: Tensor, asked: Asked, step: Step, o: int, n: int) -> None:
    """Form new state, point and metric of ``n`` elements, and change nothing."""
    for i in range(n):
        k = o + i
        s, x, m = formed(t, k, step)
        write(asked.slots, k, s)
        note_metric(asked.d, k, m)
        asked.x[k] = x


def points(t: Tensor, asked: Asked, step: Step, begin: int, finish: int) -> None:
    """Form what the prox is asked for of the elements ``begin … finish - 1``."""
    form_points(t, asked, step, UINT(begin), UINT(finish - begin))
