"""Groups that lie across processes, made whole: each process gets some of them from all, and gives back.

Sums are enough for the prox of most penalties (:mod:`proxlab.torch.cut`). What takes the elements of a group
together has them here: certificates, the other penalties, problems that are captured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from proxlab.groups import Groups
from proxlab.optim.problem import ProxProblem
from proxlab.penalties import Penalty
from proxlab.torch.problems import Block, CutProblem, as_array, rounding_to, uses_of, wide
from proxlab.torch.ranks import Ranks
from proxlab.torch.shards import counts_here, places

__all__ = ["Share", "prox_problem"]


class Share:
    """The groups of a block that this process has whole; all processes must make it.

    Parameters
    ----------
    block : Block
        Whose groups lie across processes.
    arrays : sequence of sequence of Tensor
        Arrays of which the elements are wanted: of each, what lies here of every parameter.
    ranks : Ranks

    Attributes
    ----------
    first : int
        The number of the first group.
    rows : list of Tensor, shape (n_groups, size)
        The arrays, a group per row, as one process would arrange them.
    """

    def __init__(self, block: Block, arrays: Sequence[Sequence[Tensor]], ranks: Ranks) -> None:
        layouts = [g.layout(tuple(p.shape)) for g, p in zip(block.groups, block.params, strict=True)]
        n = layouts[0].n_groups
        width = sum(p.numel() for p in block.params) // max(1, n)
        bounds = [n * k // ranks.count for k in range(ranks.count + 1)]
        self.first, count = bounds[ranks.rank], bounds[ranks.rank + 1] - bounds[ranks.rank]
        self._ranks, self._like, device = ranks, arrays[0], arrays[0][0].device
        # Where every element here has to go: whose group it is of, and its place among those.
        owners, slots, before = [], [], 0
        ends, starts = (torch.tensor(b) for b in (bounds[1:], bounds[:-1]))
        for g, p in zip(block.groups, block.params, strict=True):
            group, place = (torch.from_numpy(a) for a in places(g, p))
            owner = torch.bucketize(group, ends, right=True)
            slot = (group - starts[owner]) * width + place + before
            owners.append(owner)
            # Of copies one counts, and the others get what becomes of it.
            slots.append(slot if counts_here(p, ranks.first) else -1 - slot)
            before += p.numel() // max(1, n)
        owner = torch.cat(owners)
        self._order = torch.argsort(owner, stable=True).to(device)
        self._sent = torch.bincount(owner, minlength=ranks.count).tolist()
        values = [torch.cat([a.reshape(-1) for a in some]).double() for some in arrays]
        table = torch.stack([*values, torch.cat(slots).to(device).double()], dim=1)[self._order]
        got, self._received = ranks.swap(table, self._sent)
        slot = got[:, -1].long()
        counted = slot >= 0
        self._slots = torch.where(counted, slot, -1 - slot)
        self.rows: list[Tensor] = []
        for k, some in enumerate(arrays):
            flat = torch.zeros(count * width, dtype=torch.float64, device=device)
            flat[slot[counted]] = got[counted, k]
            self.rows.append(flat.reshape(count, width).to(some[0].dtype))

    @property
    def n_groups(self) -> int:
        """How many groups this process has."""
        return len(self.rows[0])

    def penalty(self, penalty: Penalty) -> Penalty:
        """Return the penalty of the block as one of these rows."""
        weights = penalty.weights
        if weights is not None and not isinstance(weights, str):
            weights = weights[self.first : self.first + self.n_groups]
        return replace(penalty, groups=Groups.over(-1), weights=weights)

    def give(self, rows: Tensor) -> list[Tensor]:
        """Give new rows to whoever has the elements; returns what lies here of every parameter.

        All processes must call it.
        """
        got, _ = self._ranks.swap(rows.reshape(-1)[self._slots], self._received)
        flat = torch.empty_like(got)
        flat[self._order] = got
        parts = flat.split([a.numel() for a in self._like])
        return [part.reshape(a.shape) for part, a in zip(parts, self._like, strict=True)]


def prox_problem(
    problem: CutProblem, ranks: Ranks, previous: bool = False, rounds: bool = False
) -> tuple[Share, ProxProblem]:
    """Return the groups of a problem that this process gets, and their prox; all processes must call it.

    What fails is told with their next sum. ``previous`` and ``rounds`` are those of
    :meth:`~proxlab.torch.problems.BlockProblem.asked`.
    """
    block, proposals = problem.block, problem.proposals
    penalty, metric = block.penalty, proposals[0].metric is not None
    assert penalty is not None
    arrays = [[q.x for q in proposals]]
    if metric:
        arrays.append([q.metric for q in proposals])
    if previous:
        arrays.append([wide(p) for p in block.params])
    share = Share(block, arrays, ranks)
    rows = [as_array(a) for a in share.rows]
    where = f"{block.where}, groups {share.first} to {share.first + share.n_groups - 1}"
    own = ranks.tried(lambda: share.penalty(penalty), penalty)
    return share, ProxProblem(
        own, rows[0], rows[1] if metric else None, proposals[0].step, where,
        rows[-1] if previous else None, uses_of(block.group, block.index),
        rounding_to(block.params[0].dtype) if rounds else None,
    )  # fmt: skip
