"""A warning where a penalty erases most of a network in a single step, since its gradients are zero."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from proxlab.optim.fused_many import SAMPLE, sampled
from proxlab.torch.problems import Block, name_parameter, read_all
from proxlab.torch.shards import local

if TYPE_CHECKING:
    from proxlab.torch.together import Kept

__all__ = ["Looked", "Vanishing", "counted", "shares_of"]

#: Steps that are looked at: it is at the start that gradients have always been zero.
STEPS = 100
# What the metrics of the methods are made of.
_SQUARES = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "square_sum"}
#: Parameters that the warning names.
NAMED = 5


class Looked(NamedTuple):
    """A parameter that is looked at, and whose it is."""

    block: Block
    place: int
    parameter: Tensor


class _Seen(NamedTuple):
    """Parameters, how many elements a counted one stands for, and how many were not zero before a step."""

    looked: list[Looked]
    shares: Any
    before: Any
    kept: Kept | None


class Vanishing:
    """Counts the penalised weights that a step makes zero, and warns once."""

    def __init__(self) -> None:
        self._until = STEPS
        self._warned = False

    def open(self, steps: int) -> None:
        """Look at the next steps: something about penalties or parameters is new."""
        self._until = steps + STEPS

    def look(self, blocks: Sequence[Block], step: int, kept: Kept | None) -> _Seen | None:
        """Count before a step, of blocks and what is kept of others; None where it is not looked at."""
        if self._warned or step > self._until:
            return None
        looked = [
            Looked(block, k if block.index is None else block.index, p)
            for block in blocks
            if block.penalty is not None and not block.rests
            for k, p in enumerate(block.params)
            if local(p).numel() > 0
        ]
        params = [p for _, _, p in looked]
        shares, before = shares_of(params), counted(params)
        if kept is not None:
            shares = np.concatenate([shares, kept.shares])
            before = np.concatenate([before, kept.alive()])
            looked += kept.looked
        return _Seen(looked, shares, before, kept)

    def compare(self, seen: _Seen, step: int, state: Mapping[Tensor, Any]) -> None:
        """Count again, and warn where more than half of what was there is gone for want of gradients."""
        looked, kept = seen.looked, seen.kept
        if kept is None:
            after = counted([p for _, _, p in looked])
        else:
            own = len(looked) - len(kept.looked)
            after = np.concatenate([counted([p for _, _, p in looked[:own]]), kept.alive()])
        gone = seen.shares * np.maximum(0, seen.before - after)
        before = seen.shares * seen.before
        if 2 * gone.sum() <= before.sum():
            return
        # A large strength does so too; whoever chose it knows.
        lost = [k for k, s in enumerate(looked) if 2 * gone[k] > before[k] and _is_still(s.parameter, state)]
        share = gone[lost].sum() / before.sum()
        if share <= 0.5:
            return
        self._warned = True
        named = [
            f"param group {block.number}, {name_parameter(block.group, place)}"
            for block, place, _ in (looked[k] for k in lost)
        ]
        more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
        warnings.warn(
            f"step {step}: {share:.0%} of the penalised weights became zero in one step, in "
            f"{'; '.join(named[:NAMED])}{more}. All gradients there were exactly zero so far, so that the "
            "metric is eps and a small strength is large: let the penalty start later (start=)",
            UserWarning,
            stacklevel=2,
        )


def shares_of(params: Sequence[Tensor]) -> Any:
    """Return of how many elements one is counted."""
    return np.array([max(local(p).numel() / SAMPLE, 1.0) for p in params])


def _sample(a: Tensor) -> Tensor:
    """Return the elements of a tensor that are counted."""
    flat = local(a).detach().reshape(-1)
    if flat.numel() <= SAMPLE:
        return flat
    return flat[sampled(torch.arange(SAMPLE, device=flat.device), flat.numel())]


def counted(params: Sequence[Tensor]) -> Any:
    """Count which of the elements of parameters that are looked at are not zero."""
    return np.array(read_all([_sample(p).count_nonzero() for p in params]), np.int64)


def _is_still(p: Tensor, state: Mapping[Tensor, Any]) -> bool:
    """Return whether of more than half of a parameter the metric is still eps, no gradient having come."""
    for name in _SQUARES & set(state.get(p, {})):
        sample = _sample(state[p][name])
        if 2 * int(sample.count_nonzero()) < sample.numel():
            return True
    return False
