"""Scalar source of the fused pass: groups that are solved side by side, from their sums.

Where the penalty is a single smooth piece, as a rule, neighbours are computed at once: nothing inside a loop
over them is a loop. What that does not decide is looked at group by group, by the same formulas.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, NamedTuple

from proxlab.backends.column_kernels import Zero
from proxlab.optim.fused_elements import UINT
from proxlab.optim.fused_groups import (
    DONE,
    HARD,
    OPEN,
    UNSURE,
    Group,
    Numbers,
    advance,
    advance_single,
    first_radius,
    is_single,
    open_group,
    open_single,
    piece_at,
    quotient,
    ratio_of,
)
from proxlab.scalar import sqrt

#: Rows of the numbers that a block keeps; the last are the squares, where no tensor keeps them.
SQUARES, ROWS_OF_BLOCK = 15, 16


class Block(NamedTuple):
    """Neighbouring groups that are solved at once.

    Attributes
    ----------
    first : int
        The number of the first of them.
    begin, end : int
        Those that are looked at, counted from the first.
    squares : array of float
        The squares of the weights of each of them.
    gone : array of bool
        Which of them are zero for certain.
    eta : array of float
        The step times the weight of each of them.
    state, r, k, lo, hi : array of float
        The :class:`~proxlab.optim.fused_groups.Group` of each of them.
    ratio, rest : array of float
        Its metric times ``ratio`` is ``q``, and ``z = x q/(q + rest)``.
    sums : array of float
        Seven of each: four at zero, and three at the ratio.
    """

    first: int
    begin: int
    end: int
    squares: Any
    gone: Any
    eta: Any
    state: Any
    r: Any
    k: Any
    lo: Any
    hi: Any
    ratio: Any
    rest: Any
    sums: Any


def block_in(values: Any, first: int, count: int, squares: Any, gone: Any) -> Block:
    """Return a block whose numbers are kept in ``values``."""
    return Block(
        first, 0, count, squares, gone, values[0], values[1], values[2], values[3], values[4], values[5],
        values[6], values[7], values[8:SQUARES],
    )  # fmt: skip


def only(block: Block, j: int) -> Block:
    """Return the block with one of its groups to be looked at."""
    return Block(
        block.first, j, j + 1, block.squares, block.gone, block.eta, block.state, block.r, block.k, block.lo,
        block.hi, block.ratio, block.rest, block.sums,
    )  # fmt: skip


def zero_of(block: Block, j: Any) -> Zero:
    """Return the sums of a group at zero."""
    sums = block.sums
    return Zero(sums[0, j], sums[1, j], sums[2, j], sums[3, j])


def group_of(block: Block, j: Any) -> Group:
    """Return where the search of a group stands."""
    return Group(int(block.state[j]), block.r[j], int(block.k[j]), block.lo[j], block.hi[j])


def keep(block: Block, j: Any, group: Group) -> None:
    """Keep where the search of a group stands."""
    block.state[j], block.r[j], block.k[j], block.lo[j], block.hi[j] = group


def forget_sums(block: Block, first: int) -> None:
    """Clear the sums from the row ``first`` on."""
    for s in range(first, 7):
        for j in range(block.begin, block.end):
            block.sums[s, j] = 0.0


def set_steps(block: Block, weights: Any, numbers: Numbers) -> None:
    """Set the step times the weight of each group; ``weights`` are those of all groups, or one of all."""
    for j in range(UINT(block.begin), UINT(block.end)):
        block.eta[j] = numbers.step * weights[0]
    if len(weights) > 1:
        for j in range(block.begin, block.end):
            block.eta[j] = numbers.step * weights[block.first + j]


def begin_groups(block: Block, weights: Any, numbers: Numbers) -> None:
    """Set where groups are first looked at, and clear their sums."""
    set_steps(block, weights, numbers)
    if is_single(numbers.table):
        begin_singles(block, numbers)
    else:
        for j in range(block.begin, block.end):
            r = first_radius(block.squares[j], numbers.table)
            group = Group(OPEN, r, piece_at(numbers.table, r, 0, len(numbers.table)), 0.0, r)
            keep(block, j, group)
            block.ratio[j] = ratio_of(group, block.eta[j], numbers)
    forget_sums(block, 0)


def begin_singles(block: Block, numbers: Numbers) -> None:
    """As :func:`begin_groups` where :func:`~proxlab.optim.fused_groups.is_single`."""
    for j in range(UINT(block.begin), UINT(block.end)):
        r = sqrt(block.squares[j])
        block.r[j] = r
        block.ratio[j] = ratio_of(Group(OPEN, r, 0, 0.0, r), block.eta[j], numbers)
        block.k[j] = 0.0


def open_groups(block: Block, numbers: Numbers) -> int:
    """Decide from the sums at zero, and go on from those at the radius; returns how many are open."""
    single = is_single(numbers.table)
    unsure = open_singles(block, numbers) if single else 0
    if unsure > 0 or not single:
        for j in range(block.begin, block.end):
            if block.state[j] == UNSURE or not single:
                guess, k = block.r[j], block.k[j]
                group = open_group(zero_of(block, j), guess, block.eta[j], numbers)
                if group.r != guess or group.k != k:
                    block.ratio[j] = 0.0
                keep(block, j, group)
    return advance_groups(block, numbers)


def open_singles(block: Block, numbers: Numbers) -> int:
    """As :func:`open_groups` where :func:`~proxlab.optim.fused_groups.is_single`; returns what is left."""
    unsure = 0
    for j in range(UINT(block.begin), UINT(block.end)):
        guess, ratio = block.r[j], block.ratio[j]
        state, r, _, lo, hi = open_single(zero_of(block, j), guess, block.eta[j], numbers)
        left = state == UNSURE
        block.state[j], block.r[j] = state, guess if left else r
        block.lo[j], block.hi[j] = lo, hi
        block.ratio[j] = ratio if left or r == guess else 0.0
        unsure += left
    return unsure


def aim_groups(block: Block, numbers: Numbers) -> int:
    """Set the ratios of the groups that are open; returns how many of them have one."""
    count = 0
    if is_single(numbers.table):
        for j in range(UINT(block.begin), UINT(block.end)):
            aim(block, j, 0, numbers)
    else:
        for j in range(block.begin, block.end):
            aim(block, j, int(block.k[j]), numbers)
    for j in range(UINT(block.begin), UINT(block.end)):
        state, goes = block.state[j], block.ratio[j] > 0.0
        block.state[j] = HARD if state == OPEN and not goes else state
        count += goes
    forget_sums(block, 4)
    return count


def aim(block: Block, j: Any, k: int, numbers: Numbers) -> None:
    """Set the ratio of a group, of whose piece the number is ``k``."""
    r = block.r[j]
    ratio = ratio_of(Group(OPEN, r, k, 0.0, r), block.eta[j], numbers)
    block.ratio[j] = ratio if block.state[j] == OPEN else 0.0


def advance_groups(block: Block, numbers: Numbers) -> int:
    """Go on from the sums, where there are any; returns how many groups are still open."""
    single, sums = is_single(numbers.table), block.sums
    unsure = advance_singles(block, numbers) if single else 0
    if unsure > 0 or not single:
        for j in range(block.begin, block.end):
            group = group_of(block, j)
            if group.state == UNSURE or (not single and group.state == OPEN and block.ratio[j] > 0.0):
                zero, eta = zero_of(block, j), block.eta[j]
                keep(block, j, advance(group, sums[4, j], sums[5, j], sums[6, j], zero, eta, numbers))
    active = 0
    for j in range(UINT(block.begin), UINT(block.end)):
        active += block.state[j] == OPEN
    return active


def advance_singles(block: Block, numbers: Numbers) -> int:
    """As :func:`advance_groups` where :func:`~proxlab.optim.fused_groups.is_single`; returns what is left."""
    unsure, sums = 0, block.sums
    for j in range(UINT(block.begin), UINT(block.end)):
        state, r = block.state[j], block.r[j]
        group = Group(OPEN, r, 0, block.lo[j], block.hi[j])
        new = advance_single(group, sums[4, j], sums[5, j], sums[6, j], block.eta[j], numbers)
        goes = state == OPEN and block.ratio[j] > 0.0
        left = goes and new.state == UNSURE
        block.state[j] = new.state if goes else state
        block.r[j] = new.r if goes and not left else r
        unsure += left
    return unsure


def close_groups(block: Block, numbers: Numbers, hard: Any) -> int:
    """Set the last ratios; returns how many groups keep their point, with their numbers in ``hard``."""
    count = 0
    if is_single(numbers.table):
        for j in range(UINT(block.begin), UINT(block.end)):
            close(block, j, Group(int(block.state[j]), block.r[j], 0, 0.0, 0.0), numbers)
    else:
        for j in range(block.begin, block.end):
            close(block, j, group_of(block, j), numbers)
    for j in range(block.begin, block.end):
        if block.state[j] != DONE:
            if block.gone[j]:
                block.ratio[j], block.rest[j] = 0.0, 1.0
                continue
            block.ratio[j], block.rest[j] = 1.0, 0.0
            hard[count] = block.first + j
            count += 1
    return count


def close(block: Block, j: Any, group: Group, numbers: Numbers) -> None:
    """Set the last ratio of a group, and whether there is one."""
    block.ratio[j], block.rest[j], block.state[j] = quotient(group, block.eta[j], numbers)
