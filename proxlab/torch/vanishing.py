"""A warning where a penalty erases most of a network in a single step, since its gradients are zero."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from proxlab.torch.problems import Block, name_parameter
from proxlab.torch.shards import local

__all__ = ["Vanishing"]

#: Steps that are looked at: it is at the start that gradients have always been zero.
STEPS = 100
#: Elements of a parameter that are looked at, about.
SAMPLE = 8192
# What the metrics of the methods are made of.
_SQUARES = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "square_sum"}
#: Parameters that the warning names.
NAMED = 5


class _Seen(NamedTuple):
    """A parameter, whose it is, and how many of its weights were not zero before a step."""

    block: Block
    place: int
    parameter: Tensor
    alive: Tensor


class Vanishing:
    """Counts the penalised weights that a step makes zero, and warns once."""

    def __init__(self) -> None:
        self._until = STEPS
        self._warned = False

    def open(self, steps: int) -> None:
        """Look at the next steps: something about penalties or parameters is new."""
        self._until = steps + STEPS

    def look(self, blocks: Sequence[Block], step: int) -> list[_Seen] | None:
        """Count before a step; None where it is not looked at."""
        if self._warned or step > self._until:
            return None
        return [
            _Seen(block, k if block.index is None else block.index, p, _alive(p))
            for block in blocks
            if block.penalty is not None and not block.rests
            for k, p in enumerate(block.params)
            if local(p).numel() > 0
        ]

    def compare(self, seen: Sequence[_Seen], step: int, state: Mapping[Tensor, Any]) -> None:
        """Count again, and warn where more than half of what was there is gone for want of gradients."""
        gone = [_stride(s.parameter) * max(0, int(s.alive - _alive(s.parameter))) for s in seen]
        before = [_stride(s.parameter) * int(s.alive) for s in seen]
        if 2 * sum(gone) <= sum(before):
            return
        # A large strength does so too; whoever chose it knows.
        lost = {k for k, s in enumerate(seen) if 2 * gone[k] > before[k] and _is_still(s.parameter, state)}
        share = sum(gone[k] for k in lost) / sum(before)
        if share <= 0.5:
            return
        self._warned = True
        named = [
            f"param group {s.block.number}, {name_parameter(s.block.group, s.place)}"
            for k, s in enumerate(seen)
            if k in lost
        ]
        more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
        warnings.warn(
            f"step {step}: {share:.0%} of the penalised weights became zero in one step, in "
            f"{'; '.join(named[:NAMED])}{more}. All gradients there were exactly zero so far, so that the "
            "metric is eps and a small strength is large: let the penalty start later (start=)",
            UserWarning,
            stacklevel=2,
        )


def _stride(p: Tensor) -> int:
    # Odd, so that it does not keep to the same columns.
    return (local(p).numel() // SAMPLE) | 1


def _alive(p: Tensor) -> Tensor:
    return local(p).detach().reshape(-1)[:: _stride(p)].count_nonzero()


def _is_still(p: Tensor, state: Mapping[Tensor, Any]) -> bool:
    """Return whether of more than half of a parameter the metric is still eps, no gradient having come."""
    for name in _SQUARES & set(state.get(p, {})):
        sample = local(state[p][name]).reshape(-1)[:: _stride(p)]
        if 2 * int(sample.count_nonzero()) < sample.numel():
            return True
    return False
