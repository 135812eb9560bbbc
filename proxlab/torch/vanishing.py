"""A warning where a penalty erases most of a network in a single step, since its gradients are zero."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from proxlab.torch.problems import Block, name_parameter, read_all
from proxlab.torch.shards import local

if TYPE_CHECKING:
    from proxlab.torch.together import Kept

__all__ = ["Looked", "Vanishing"]

#: Steps that are looked at: it is at the start that gradients have always been zero.
STEPS = 100
# What the metrics of the methods are made of.
_SQUARES = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "square_sum"}
#: Parameters that the warning names.
NAMED = 5
#: Elements of a tensor that are counted at most; a prime, and a polynomial whose remainders look random.
SAMPLE, PRIME, CUBIC = 256, 65521, (17389, 40503, 30011, 12345)


class Looked(NamedTuple):
    """A parameter that is looked at, and whose it is."""

    block: Block
    place: int
    parameter: Tensor


class _Seen(NamedTuple):
    """Parameters without gradients so far, and how many weights each had before a step, and all had."""

    looked: list[Looked]
    before: Any
    total: float


class Vanishing:
    """Counts the penalised weights that a step makes zero, and warns once.

    Only parameters whose gradients have all been zero so far are counted: as a rule, those of the first step.
    """

    def __init__(self) -> None:
        self._until = STEPS
        self._warned = False
        # Elements that were not zero when a parameter was last counted, of those that have had gradients.
        self._moved: dict[Tensor, float] = {}

    def open(self, steps: int) -> None:
        """Look at the next steps: something about penalties or parameters is new."""
        self._until = steps + STEPS
        self.forget()

    def forget(self) -> None:
        """Forget which parameters have had gradients: the state is another one."""
        self._moved.clear()

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
        if kept is not None:
            looked += kept.looked
        still = [one for one in looked if one.parameter not in self._moved]
        if not still:
            return None
        before = _alive(still)
        moved = (self._moved.get(one.parameter, 0.0) for one in looked)
        return _Seen(still, before, before.sum() + sum(moved))

    def compare(self, seen: _Seen, step: int, state: Mapping[Tensor, Any]) -> None:
        """Count again, and warn where more than half of what was there is gone for want of gradients."""
        looked, before, total = seen
        after, still = _alive(looked), _are_still([one.parameter for one in looked], state)
        for one, count, rests in zip(looked, after.tolist(), still, strict=True):
            if not rests:
                self._moved[one.parameter] = count
        gone = before - after
        # A large strength does so too; whoever chose it knows.
        lost = np.flatnonzero(still & (2 * gone > before))
        if 2 * gone[lost].sum() <= total:
            return
        self._warned = True
        share = gone[lost].sum() / total
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


def sampled(i: Any, n: int) -> Any:
    """Return where sample ``i`` lies among ``n`` elements: in an equal share of them, as if at random there.

    Any regular distance keeps to some of the columns of some shape.
    """
    a, b, c, d = CUBIC
    return (PRIME * i + (((a * i + b) * i + c) * i + d) % PRIME) * n // (SAMPLE * PRIME)


def _sample(a: Tensor) -> Tensor:
    """Return the elements of a tensor that are counted."""
    flat = local(a).detach().reshape(-1)
    if flat.numel() <= SAMPLE:
        return flat
    return flat[sampled(torch.arange(SAMPLE, device=flat.device), flat.numel())]


def _alive(looked: Sequence[Looked]) -> Any:
    """Return how many elements of parameters are not zero, as a sample says."""
    params = [one.parameter for one in looked]
    shares = np.array([max(local(p).numel() / SAMPLE, 1.0) for p in params])
    return shares * np.array(read_all([_sample(p).count_nonzero() for p in params]))


def _are_still(params: Sequence[Tensor], state: Mapping[Tensor, Any]) -> Any:
    """Return of which parameters the metric is still eps for more than half, no gradient having come."""
    names = [sorted(_SQUARES & set(state.get(p, {}))) for p in params]
    owners = [k for k, some in enumerate(names) for _ in some]
    samples = [_sample(state[p][name]) for p, some in zip(params, names, strict=True) for name in some]
    counts = read_all([a.count_nonzero() for a in samples])
    still = np.zeros(len(params), np.bool_)
    for k, sample, count in zip(owners, samples, counts, strict=True):
        still[k] |= 2 * count < sample.numel()
    return still
