"""What processes have to know of all groups to decide alike: from which strength on each of them vanishes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from proxlab.groups import IntArray
from proxlab.optim import sparsity
from proxlab.optim.problem import ProxProblem
from proxlab.optim.sparsity import Moving, moving, multiples
from proxlab.penalties import Penalty
from proxlab.torch.cut import vanishing
from proxlab.torch.exchange import prox_problem
from proxlab.torch.problems import BlockProblem, CutProblem, uses_of
from proxlab.torch.ranks import Ranks
from proxlab.torch.shards import counts_here, part_of
from proxlab.types import Array

__all__ = ["all_moving"]


def all_moving(
    problems: Sequence[tuple[BlockProblem | CutProblem, Penalty]], ranks: Ranks | None
) -> list[Moving]:
    """Return the groups of problems, those of other processes too, in the order of the whole parameters.

    Parameters
    ----------
    problems : sequence of (BlockProblem or CutProblem, Penalty)
        Each with what stands for its penalty. All processes have them in the same order.
    ranks : Ranks or None
        None for a single process.
    """
    if ranks is None:
        whole = [(p, penalty) for p, penalty in problems if isinstance(p, BlockProblem)]
        return sparsity.all_moving([p.asked()._replace(penalty=penalty) for p, penalty in whole])
    asked = [replace(p, block=replace(p.block, own=penalty)) for p, penalty in problems]
    sizes = [
        np.sum([g.sizes(tuple(p.shape)) for g, p in zip(q.block.groups, q.block.params, strict=True)], axis=0)
        for q in asked
    ]
    ends = np.cumsum([0, *(len(n) for n in sizes)])
    strengths = np.zeros(ends[-1])
    cut = [p for p in asked if isinstance(p, CutProblem)]
    known = dict(zip((p.block.key for p in cut), vanishing(cut, ranks), strict=True))
    for p, begin, end in zip(asked, ends, ends[1:], strict=False):
        summed = known.get(p.block.key)
        if summed is not None:
            # The same in every process: of these, one counts.
            strengths[begin:end] = multiples(summed, _penalty_of(p)) if ranks.rank == 0 else 0.0
            continue
        if isinstance(p, CutProblem):
            share, problem = prox_problem(p, ranks)
            ids = np.arange(share.first, share.first + share.n_groups)
            found = ranks.tried(partial(_strengths, problem), None)
        else:
            ids, found = ranks.tried(partial(_whole, p, ranks), (np.arange(0), None))
        if found is not None:
            strengths[begin:end][ids] = found
    device = asked[0].block.params[0].device
    summed_up = ranks.add(torch.from_numpy(strengths).to(device)).cpu().numpy()
    return [
        Moving(summed_up[begin:end], size, uses_of(p.block.group, p.block.index))
        for p, size, begin, end in zip(asked, sizes, ends, ends[1:], strict=False)
    ]


def _penalty_of(p: BlockProblem | CutProblem) -> Penalty:
    """Return the penalty of a problem, which has one."""
    penalty = p.block.penalty
    assert penalty is not None
    return penalty


def _whole(p: BlockProblem, ranks: Ranks) -> tuple[IntArray, Array | None]:
    """Return which groups this process has whole, and their strengths; None where they do not count."""
    part = part_of(p.block.groups[0], p.block.params[0])
    ids = np.arange(part.n_groups) if part.ids is None else part.ids
    return ids, _strengths(p.asked()) if counts_here(p.block.params[0], ranks.first) else None


def _strengths(problem: ProxProblem) -> Array | None:
    return None if 0 in problem.x.shape else moving(problem).strengths
