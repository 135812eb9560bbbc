"""Groups that are cut over processes: the proxes of a step, all at once, from sums that processes complete.

Each process has some elements of each group. It adds up their terms, one reduction completes the sums of all
groups, and every process goes on with the same numbers to the same radii, with which it writes its elements.
Where sums are not enough, since the penalty has no kernels or a group spreads too far, groups are exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from proxlab.arguments import float_bits
from proxlab.backends.array_api import choose, shrink, shrunk
from proxlab.backends.members import Fragment, Fragments, exponents, lost, units
from proxlab.groups import AxisLayout
from proxlab.namespaces import namespace
from proxlab.optim.bregman import dual_start
from proxlab.optim.problem import ProxProblem
from proxlab.optim.sparsity import Sums, vanishing_of_sums
from proxlab.penalties import Penalty
from proxlab.penalties.base import radial_slopes
from proxlab.penalties.equations import Radial
from proxlab.penalties.tables import Table
from proxlab.powers import times_power
from proxlab.rootfinders import RootFinder
from proxlab.torch.exchange import Share, prox_problem
from proxlab.torch.problems import Block, CutProblem, as_tensor, wide
from proxlab.torch.ranks import Ranks
from proxlab.torch.shards import Part as Place
from proxlab.torch.shards import counts_here, part_of
from proxlab.types import Array

__all__ = ["dual_starts", "solve", "vanishing"]


@dataclass(frozen=True, eq=False)
class _Matrix:
    """Some rows of a parameter's part: elements of groups, a group a row."""

    x: Tensor
    d: Tensor
    ids: Tensor
    counts: bool


class _Places:
    """Where the groups of blocks that are solved together lie in one array of groups."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.places: list[list[Place]] = [
            [part_of(g, p) for g, p in zip(block.groups, block.params, strict=True)] for block in blocks
        ]
        self.counts = [places[0].n_groups for places in self.places]
        self.offsets = np.concatenate([[0], np.cumsum(self.counts)]).tolist()
        self.size = max(sum(place.size for place in places) for places in self.places)
        self.blocks = blocks

    def rows(self, k: int, index: int, a: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Arrange what lies here of a parameter of block ``k``: matrices, and the groups of their rows."""
        place = self.places[k][index]
        ids = np.arange(place.n_groups) if place.ids is None else place.ids
        numbers = torch.from_numpy(ids + self.offsets[k]).to(a.device)
        matrices = place.layout.split(a.double(), 0.0)
        return list(zip(matrices, place.layout.split_groups(numbers), strict=True))

    def weights(self, device: torch.device) -> Tensor:
        """Return the weights of all groups."""
        found = []
        for block, places, count in zip(self.blocks, self.places, self.counts, strict=True):
            penalty = block.penalty
            assert penalty is not None
            shape = (count, sum(place.size for place in places))
            given = penalty.group_weights(AxisLayout(shape, (1,), (0,)))
            found.append(np.broadcast_to(given, (count,)))
        return torch.from_numpy(np.concatenate(found)).to(device)


def solve(problems: Sequence[CutProblem], ranks: Ranks, finder: RootFinder) -> list[list[Tensor]]:
    """Solve the proxes of a step; all processes must call it.

    Returns
    -------
    list of list of Tensor
        For each problem and parameter, the new values of what lies here.
    """
    found: list[list[Tensor]] = [[q.x for q in problem.proposals] for problem in problems]
    alike: dict[Any, list[int]] = {}
    exchanged: list[int] = []
    for k, problem in enumerate(problems):
        if problem.is_open:
            penalty, x = problem.block.penalty, problem.proposals[0].x
            assert penalty is not None
            if not _by_sums(penalty):
                exchanged.append(k)
                continue
            key = (penalty.equation, penalty.threshold, penalty.nonnegative, float_bits(x), x.device)
            alike.setdefault(key, []).append(k)
    for some in alike.values():
        solved = _solve([problems[k] for k in some], ranks, finder)
        if solved is None:
            exchanged += some
            continue
        for k, z in zip(some, solved, strict=True):
            found[k] = z
    for k in exchanged:
        # One after the other: memory is that of the largest.
        share, asked = prox_problem(problems[k], ranks)
        found[k] = share.give(ranks.tried(partial(_rows, share, asked, finder), share.rows[0]))
    ranks.conclude()
    return found


def _rows(share: Share, asked: ProxProblem, finder: RootFinder) -> Tensor:
    """Return the prox of the groups that a process got, which may be none."""
    return as_tensor(asked.prox(finder)) if share.n_groups else share.rows[0]


def _by_sums(penalty: Penalty) -> bool:
    """Whether sums over a group are enough for its prox."""
    return isinstance(penalty.equation, Radial) and penalty.equation.compiled


class _Summed(NamedTuple):
    """Problems whose groups are summed together.

    Attributes
    ----------
    places : _Places
    matrices : list of list of list of _Matrix
        What lies here of each problem and parameter.
    members : Fragments
    step : Tensor, shape (n_groups,)
    """

    places: _Places
    matrices: list[list[list[_Matrix]]]
    members: Fragments
    step: Tensor


def _summed(problems: Sequence[CutProblem], ranks: Ranks) -> _Summed | None:
    """Put problems together that have one elementwise part, on one device.

    Returns None, in every process, where a group spreads too far.
    """
    places = _Places([problem.block for problem in problems])
    first = problems[0].proposals[0].x
    xp, penalty = namespace(first), problems[0].block.penalty
    assert penalty is not None
    steps = np.repeat([problem.step for problem in problems], places.counts)
    step = torch.from_numpy(steps).to(first.device)
    matrices: list[list[list[_Matrix]]] = []
    for k, problem in enumerate(problems):
        own = []
        for index, (p, q) in enumerate(zip(problem.block.params, problem.proposals, strict=True)):
            metric = torch.ones_like(q.x) if q.metric is None else q.metric
            rows = zip(places.rows(k, index, q.x), places.rows(k, index, metric), strict=True)
            counts = counts_here(p, ranks.first)
            own.append(
                [
                    _Matrix(
                        shrink(xp, x, step[ids], d, penalty.threshold, penalty.nonnegative), d, ids, counts
                    )
                    for (x, ids), (d, _) in rows
                ]
            )
        matrices.append(own)
    every = [m for own in matrices for some in own for m in some]
    parts = [Fragment(m.x, m.d, m.ids) for m in every if m.counts]
    ex = ed = torch.zeros_like(step)
    members = Fragments(xp, parts, ex, ed, places.size, ranks.add, ranks.gather)
    if not members.in_range:
        known = [Fragment(m.x, m.d, m.ids) for m in every]
        ex, ed = units(xp, ranks.largest(exponents(xp, known, step)))
        # Whoever has the whole group says what is wrong with it.
        if bool((ranks.largest(lost(xp, known, ed)) > 0).any()):
            return None
        members = Fragments(xp, parts, ex, ed, places.size, ranks.add, ranks.gather)
    return _Summed(places, matrices, members, step)


def _solve(problems: Sequence[CutProblem], ranks: Ranks, finder: RootFinder) -> list[list[Tensor]] | None:
    """Solve proxes that have one equation, of numbers of one precision on one device.

    Returns None, in every process, where a group spreads too far.
    """
    summed = _summed(problems, ranks)
    if summed is None:
        return None
    places, matrices, members, step = summed
    first, penalty, xp = problems[0].proposals[0].x, problems[0].block.penalty, members.xp
    assert penalty is not None
    rtol = finder.relative_tolerance(float_bits(first))
    choice = choose(xp, members, step, places.weights(first.device), _table(penalty), finder, rtol)

    def written(m: _Matrix) -> Tensor:
        d = times_power(xp, m.d, -members.ed[m.ids][:, None])
        z: Tensor = shrunk(xp, m.x, d, choice.radius[m.ids], choice.tau[m.ids])
        return z

    solved = []
    for k, (problem, own) in enumerate(zip(problems, matrices, strict=True)):
        solved.append(
            [
                place.layout.join([written(m) for m in some], q.x.double()).to(q.x.dtype)
                for place, some, q in zip(places.places[k], own, problem.proposals, strict=True)
            ]
        )
    return solved


def vanishing(problems: Sequence[CutProblem], ranks: Ranks) -> list[Array | None]:
    """Return from which strength on each group vanishes, of all groups; all processes must call it.

    For each problem an array of NumPy, which is the same in every process; None where sums are not enough.
    """
    found: list[Array | None] = [None] * len(problems)
    alike: dict[Any, list[int]] = {}
    for k, problem in enumerate(problems):
        penalty = problem.block.penalty
        if penalty is not None and _by_sums(penalty) and penalty.threshold == 0:
            alike.setdefault((penalty.nonnegative, problem.proposals[0].x.device), []).append(k)
    for some in alike.values():
        summed = _summed([problems[k] for k in some], ranks)
        if summed is None:
            continue
        places, _, members, step = summed
        weights = places.weights(step.device)
        for k, begin, end in zip(some, places.offsets, places.offsets[1:], strict=False):
            own = slice(begin, end)
            bb, _, xx, xb, _ = (v[own] for v in members.begin())
            penalty = problems[k].block.penalty
            assert penalty is not None
            strengths = vanishing_of_sums(
                members.xp, penalty, Sums(bb.sqrt(), xx.sqrt(), 0.5 * xb, members.ex[own], members.ed[own]),
                step[own], weights[own],
            )  # fmt: skip
            found[k] = strengths.cpu().numpy()
    return found


def _table(penalty: Penalty) -> Table:
    equation = penalty.equation
    assert isinstance(equation, Radial)
    return equation.table


def dual_starts(blocks: Sequence[Block], ranks: Ranks) -> list[list[Tensor]]:
    """Return dual variables ``w/δ + s``, ``s ∈ ∂ψ(w)``, from which Bregman iterations start.

    See :func:`proxlab.optim.bregman.dual_start`; all processes must call it.
    """
    summed = [k for k, block in enumerate(blocks) if block.penalty is not None and _by_sums(block.penalty)]
    found: list[list[Tensor]] = [[] for _ in blocks]
    if summed:
        for k, starts in zip(summed, _dual_starts([blocks[k] for k in summed], ranks), strict=True):
            found[k] = starts
    for k, block in enumerate(blocks):
        if k not in summed:
            share = Share(block, [[wide(p) for p in block.params]], ranks)
            found[k] = share.give(ranks.tried(partial(_start, share, block), share.rows[0]))
    ranks.conclude()
    return found


def _start(share: Share, block: Block) -> Tensor:
    """Return the dual variables of the groups that a process got."""
    assert block.penalty is not None
    with block.named():
        start: Tensor = dual_start(share.penalty(block.penalty), share.rows[0], block.settings["delta"])
    return start


def _dual_starts(blocks: Sequence[Block], ranks: Ranks) -> list[list[Tensor]]:
    places = _Places(blocks)
    device = blocks[0].params[0].device
    weights = places.weights(device)
    squares = torch.zeros_like(weights)
    xp = namespace(weights)
    for k, block in enumerate(blocks):
        for index, p in enumerate(block.params):
            for rows, ids in places.rows(k, index, wide(p)) if counts_here(p, ranks.first) else ():
                squares[ids] += (rows * rows).sum(dim=1)
    r = ranks.add(squares).sqrt()
    found = []
    for k, block in enumerate(blocks):
        penalty, delta = block.penalty, block.settings["delta"]
        assert penalty is not None
        slope, _ = radial_slopes(xp, _table(penalty), r, weights)
        share = slope / torch.where(r > 0, r, 1.0)
        starts = []
        for index, p in enumerate(block.params):
            place, w = places.places[k][index], wide(p)
            parts = [
                share[ids][:, None] * rows + penalty.threshold * rows.sign()
                for rows, ids in places.rows(k, index, w)
            ]
            starts.append((w.double() / delta + place.layout.join(parts, w.double())).to(w.dtype))
        found.append(starts)
    return found
