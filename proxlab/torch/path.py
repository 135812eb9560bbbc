"""The path of strengths of a network: from which strength on nothing of it is left, and a grid below."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from proxlab.groups import AxisLayout
from proxlab.optim.rules import Proposal
from proxlab.optim.sparsity import vanishing_strength
from proxlab.penalties import GroupLasso, Penalty, SparseGroupLasso
from proxlab.torch.everyone import all_moving
from proxlab.torch.exchange import Share
from proxlab.torch.problems import (
    Block,
    BlockProblem,
    CutProblem,
    check_group,
    given_groups,
    name_parameter,
    on_host,
    wide,
)
from proxlab.torch.ranks import Ranks, words_of
from proxlab.torch.shards import aligned, counts_here, is_distributed, local, places
from proxlab.untraced import untraced
from proxlab.values import check_count, check_number, shown

__all__ = ["Strengths", "strengths"]

#: Batches that are used at most: each is gone through once for every group that is looked at alone.
BATCHES = 64
# What a loss function calls its first argument where that is the model.
_MODEL = ("model", "module", "net", "network")


class Strengths(NamedTuple):
    """The result of :func:`strengths`.

    Attributes
    ----------
    lam_max : float
        From this strength on each of the groups is zero where it was looked at.
    grid : ndarray of float, shape (count,)
        Strengths from ``lam_max`` downwards, in equal ratios.
    """

    lam_max: float
    grid: npt.NDArray[np.float64]


@untraced
def strengths(
    model: nn.Module,
    groups: Iterable[Any] | torch.optim.Optimizer,
    loss_fn: Callable[..., Tensor],
    batches: Iterable[Any],
    *,
    at: str | None = None,
    count: int = 20,
    ratio: float = 1e-3,
    samples: int = 32,
) -> Strengths:
    """Return the strength from which on groups vanish, and a grid of strengths below it to try.

    A group of zeros stays at zero in training where the gradient of the loss by it is not stronger than the
    penalty's slope there: ``‖g‖ ≤ λ w`` for the group lasso with a weight ``w``. So there is a least strength
    for each group, and the greatest of them is ``lam_max``, the ``lambda_max`` of glmnet and the
    ``alpha_max`` of skglm. It depends on the other weights: those are zero (``at="zero"``), or as they are
    (``at="weights"``), where every group is looked at alone. A joint group has no gradient where all of it is
    zero: there it is the slope by which the loss rises on the way to zero, in two halves, by the penalty that
    is saved.

    Parameters
    ----------
    model : torch.nn.Module
        The network, trained or not, in the mode in which the loss is meant. It is left as it is.
    groups : iterable of dict, or Optimizer
        Param groups with penalties, as :func:`param_groups` returns them, or an optimizer of them.
    loss_fn : callable
        ``loss_fn(outputs, targets)`` for batches that are pairs, of which the model is called with the first;
        or ``loss_fn(model, batch)``, if its first parameter is called ``model``.
    batches : iterable
        The batches, of which the first 64 are used; the loss is the mean over them.
    at : {"weights", "zero"}, optional
        Where the other groups are. By default at zero where a single layer is penalised, so that for a linear
        model and a convex loss all is zero exactly from ``lam_max`` on; as they are in deep networks and for
        joint groups, where all gradients at zero vanish.
    count : int, optional
        Length of the grid.
    ratio : float, optional
        The least strength of the grid, by the largest.
    samples : int, optional
        How many groups of each layer are looked at one by one, evenly spread, with ``at="weights"``.

    Returns
    -------
    Strengths
        ``lam_max`` and ``grid``; of several penalties the strength of the first, the others in proportion.
        Where the model is sharded, all processes call it, each with as many batches of its own, and get the
        same: the loss is the mean over all.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of the above, there is no penalty or no batch, a penalty has no slope at zero
        (:class:`~proxlab.GroupL0`, with which zeros are never left), no gradient comes to any group, or the
        loss or a gradient is not finite; the message names the parameter.

    References
    ----------
    Friedman, Hastie & Tibshirani (2010), "Regularization paths for generalized linear models via coordinate
    descent", Journal of Statistical Software 33(1), §2.5.

    Examples
    --------
    >>> import torch, proxlab as pl
    >>> from proxlab.torch import param_groups, strengths
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0], [1.0]])
    >>> groups = param_groups(model, pl.GroupLasso(1.0))
    >>> lam_max, grid = strengths(model, groups, torch.nn.functional.mse_loss, [(x, y)], count=3, ratio=0.01)
    >>> lam_max, grid.round(3)
    (3.0, array([3.  , 0.3 , 0.03]))
    """
    listed: Iterable[Any] = (
        getattr(groups, "penalised", groups.param_groups)
        if isinstance(groups, torch.optim.Optimizer)
        else groups
    )
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: must be a torch.nn.Module, got {type(model).__name__}")
    ranks = Ranks.of(model.parameters())

    def prepare() -> tuple[list[Block], list[Penalty], _Loss]:
        nonlocal count, samples, ratio
        blocks = list(_blocks(listed))
        if at not in (None, "weights", "zero"):
            raise ValueError(f'at: must be "weights", "zero" or None, got {at!r}')
        count, samples = check_count("count", count), check_count("samples", samples)
        ratio = check_number("ratio", ratio, 0.0, strict=True)
        if ratio >= 1.0:
            raise ValueError(f"ratio: must be < 1, got {ratio!r}")
        if not callable(loss_fn):
            raise TypeError(
                "loss_fn: must be a function of outputs and targets, or of model and batch, got "
                f"{shown(loss_fn)}"
            )
        # What has numbered items is gone through as well.
        if not (hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")):
            raise TypeError(f"batches: must be pairs of inputs and targets, got {shown(batches)}")
        loss = _Loss(model, loss_fn, list(islice(batches, BATCHES)), ranks)
        return blocks, [_at_zero(block) for block in blocks], loss

    blocks, units, loss = prepare() if ranks is None else ranks.attempt(prepare)
    if ranks is not None:
        _agree(ranks, blocks, f"{at}, {samples}, {len(loss.batches)}")
    scales = [block.group["penalty"].strength for block in blocks]
    found = []
    alone = at == "weights" or (at is None and (len(blocks) > 1 or blocks[0].index is None))
    with _kept(model, [p for block in blocks for p in block.params]):
        if not alone:
            for block in blocks:
                for p in block.params:
                    local(p).detach()[_members(block, p) >= 0] = 0.0
            loss.differentiate([p for block in blocks for p in block.params])
            _check_finite(blocks, "the groups are zero", ranks)
        for block, unit, scale in zip(blocks, units, scales, strict=True):
            asked = scales[0] / scale
            if not alone:
                found.append(float(_needed(block, unit, ranks).max(initial=0.0)) * asked)
                continue
            found += [need * asked for need in _alone(block, unit, loss, samples)]
    lam_max = max(found)
    if not 0.0 < lam_max < np.inf:
        raise ValueError(
            f"model: the gradients give {lam_max:g} as the strength from which on its groups stay zero; look "
            'at them where the weights are, with at="weights", or after some training'
        )
    return Strengths(lam_max, np.geomspace(lam_max, lam_max * ratio, count))


def _alone(block: Block, unit: Penalty, loss: _Loss, samples: int) -> Iterator[float]:
    """Look at some groups of a block one by one, the others as they are."""
    labels = [_members(block, p) for p in block.params]
    count = block.groups[0].n_groups(tuple(block.params[0].shape))
    for k in np.unique(np.linspace(0, count - 1, min(samples, count)).astype(int)):
        saved = [part.clone() for part in block.parts]
        if block.index is None:
            yield _slope(block, loss, [label == k for label in labels])
        else:
            block.parts[0][labels[0] == k] = 0.0
            loss.differentiate(block.params)
            _check_finite([block], "the weights are, one group at zero", loss.ranks)
            yield float(_needed(block, unit, loss.ranks)[k])
        for part, old in zip(block.parts, saved, strict=True):
            part.copy_(old)


def _slope(block: Block, loss: _Loss, members: Sequence[Tensor]) -> float:
    """The steepest rise of the loss by the penalty that is saved, while a group goes to zero in halves."""
    assert block.penalty is not None
    unit = block.penalty.with_strength(1.0)
    values = []
    for left in (1.0, 0.5, 0.0):
        for part, own in zip(block.parts, members, strict=True):
            part[own] *= left
        value = loss.value()
        if not math.isfinite(value):
            raise ValueError(
                f"loss_fn: must be finite, got {value:g} with a group of {_named(block, 0)} times {left:g}; "
                f"{_ADVICE}"
            )
        values.append((value, _price(block, unit, loss.ranks)))
    pairs = pairwise(values)
    return max(
        ((new - old) / (price - less) for (old, price), (new, less) in pairs if price > less), default=0.0
    )


def _price(block: Block, unit: Penalty, ranks: Ranks | None) -> float:
    """Return a penalty of a block, of what of it lies in all processes."""
    weights = [wide(p) for p in block.params]
    if ranks is None:
        return float(unit(block.join(weights)))
    share = Share(block, [weights], ranks) if block.is_cut else None

    def own() -> float:
        if share is not None:
            return float(share.penalty(unit)(share.rows[0])) if share.n_groups else 0.0
        counts = counts_here(block.params[0], ranks.first) and all(w.numel() for w in weights)
        return float(unit(block.join(weights))) if counts else 0.0

    return sum(price for (price,) in ranks.tell([ranks.tried(own, 0.0)]))


#: What to do where a loss or its gradient is not finite.
_ADVICE = "look for values that are not finite in the batches and the weights, and for a loss that overflows"


def _check_finite(blocks: Sequence[Block], where: str, ranks: Ranks | None) -> None:
    """Raise an error where a gradient is not finite; in one process, all raise one."""
    spoilt = [
        _named(block, k)
        for block in blocks
        for k, p in enumerate(block.params)
        if p.grad is not None and not bool(torch.isfinite(local(p.grad)).all())
    ]
    failure = None
    if spoilt:
        instead = ', or take at="weights"' if where == "the groups are zero" else ""
        failure = ValueError(
            f"model: the gradient of the loss by {spoilt[0]} must be finite, but is not where {where}; "
            f"{_ADVICE}{instead}"
        )
    if ranks is not None:
        ranks.settle(failure)
    elif failure is not None:
        raise failure


def _named(block: Block, k: int) -> str:
    return name_parameter(block.group, k if block.index is None else block.index)


class _Loss:
    """The mean loss over some batches, and over all processes that share the model."""

    def __init__(
        self, model: nn.Module, loss_fn: Callable[..., Any], batches: Sequence[Any], ranks: Ranks | None
    ) -> None:
        if not batches:
            raise ValueError("batches: must hold at least one batch")
        self.model, self.loss_fn, self.batches, self.ranks = model, loss_fn, batches, ranks
        try:
            first = next(iter(inspect.signature(loss_fn).parameters), "")
        except (TypeError, ValueError):
            first = ""
        self.takes_model = first in _MODEL

    def differentiate(self, params: Sequence[Tensor]) -> None:
        """Put the gradients of some parameters where an optimizer finds them."""
        if self.ranks is not None:
            self._differentiate_together(params)
            return
        total = [torch.zeros_like(p) for p in params]
        live = [k for k, p in enumerate(params) if p.requires_grad]
        for batch in self.batches:
            with torch.enable_grad():
                value = self._of(batch)
            asked = [params[k] for k in live]
            grads = torch.autograd.grad(value, asked, allow_unused=True) if asked else ()
            for k, g in zip(live, grads, strict=True):
                if g is not None:
                    total[k] += g / len(self.batches)
        for p, g in zip(params, total, strict=True):
            p.grad = g

    def _differentiate_together(self, params: Sequence[Tensor]) -> None:
        # Hooks of a backward pass complete the gradients of sharded parameters.
        every = dict.fromkeys([*self.model.parameters(), *params])
        for p in every:
            p.grad = None
        for batch in self.batches:
            with torch.enable_grad():
                value = self._together(batch) / len(self.batches)
            if value.requires_grad:
                value.backward()  # type: ignore[no-untyped-call]
            self._shard()
        for p in params:
            p.grad = torch.zeros_like(p) if p.grad is None else aligned(p.grad, p)

    def _shard(self) -> None:
        """Forget weights that were gathered, since the shards are about to change."""
        fsdp: Any = sys.modules.get("torch.distributed.fsdp")
        for module in self.model.modules() if fsdp is not None else ():
            if isinstance(module, fsdp.FSDPModule):
                module.reshard()

    def value(self) -> float:
        """Return the mean loss."""
        found = sum(float(self._together(batch)) for batch in self.batches) / len(self.batches)
        if self.ranks is None:
            return found
        self._shard()
        return sum(own for (own,) in self.ranks.tell([found])) / self.ranks.count

    def _together(self, batch: Any) -> Tensor:
        """Return the loss of a batch; an error in one process is one in all, before any goes on."""
        return self._of(batch) if self.ranks is None else self.ranks.attempt(lambda: self._of(batch))

    def _of(self, batch: Any) -> Tensor:
        value: Any
        if self.takes_model:
            value = self.loss_fn(self.model, batch)
        elif isinstance(batch, (tuple, list)) and len(batch) == 2:
            value = self.loss_fn(self.model(batch[0]), batch[1])
        else:
            raise TypeError(
                "batches: must be pairs of inputs and targets, or loss_fn a function whose first parameter "
                f"is called model, got {type(batch).__name__}"
            )
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise TypeError(f"loss_fn: must return a tensor of one element, got {value!r}")
        return value


def _blocks(groups: Iterable[Any]) -> Iterator[Block]:
    """Go through what is penalised."""
    none = True
    for number, group in enumerate(given_groups(groups, "groups")):
        if group["penalty"] is None:
            continue
        check_group(group, f"groups[{number}]", convex_only=False)
        none = False
        places = [None] if group.get("joint") is not None else range(len(group["params"]))
        yield from (Block(number, group, {}, k) for k in places)
    if none:
        raise ValueError("groups: none of them has a penalty")


def _at_zero(block: Block) -> Penalty:
    """Return the convex penalty of strength 1 that has the same slopes at zero."""
    penalty: Penalty = block.group["penalty"]
    if penalty.strength == 0:
        raise ValueError(f"{block.where}: penalty: must have a strength > 0, got {penalty!r}")
    unit = penalty.with_strength(1.0)
    slope = unit.equation.slope_at_zero
    if slope is None:
        return unit
    if math.isinf(slope) or not (slope > 0 or unit.threshold > 0):
        raise ValueError(
            f"{block.where}: penalty: {type(unit).__name__} has no slope at zero, so that any strength keeps "
            "a group there; use a TargetSparsity"
        )
    if unit.threshold > 0:
        return SparseGroupLasso(unit.threshold, slope, groups=unit.groups, weights=unit.weights)
    return GroupLasso(slope, groups=unit.groups, weights=unit.weights, nonnegative=unit.nonnegative)


def _agree(ranks: Ranks, blocks: Sequence[Block], asked: str) -> None:
    """Raise an error, in all processes, where they have not been asked for the same."""
    others = ranks.compare(0, "; ".join([asked, *map(words_of, blocks)])).others
    if others:
        raise ValueError(
            f"ranks {others}: groups, at, samples and the number of batches must be the same on all"
        )


def _needed(block: Block, unit: Penalty, ranks: Ranks | None) -> npt.NDArray[np.float64]:
    """Return for each group of a block, which is zero, from which strength on its gradients leave it so."""
    if ranks is not None:
        asked = [Proposal(-wide(p.grad), None, 1.0, (), 0.0) for p in block.params if p.grad is not None]
        problem = CutProblem(block, asked) if block.is_cut else BlockProblem.of(block, asked)
        return all_moving([(problem, unit)], ranks)[0].strengths
    grads = block.join([wide(p.grad) for p in block.params if p.grad is not None])
    point = -grads if not on_host(grads) else (-grads).numpy()
    found: Any = vanishing_strength(unit, point)
    # That is the strength of the unit, which need not be 1 where that of the penalty is.
    return np.asarray(found.cpu() if isinstance(found, Tensor) else found) / unit.strength


def _members(block: Block, p: Tensor) -> Tensor:
    """The group of each element of what of a parameter of a block lies here, -1 where it is in none."""
    division = block.groups[next(k for k, q in enumerate(block.params) if q is p)]
    if is_distributed(p) and isinstance(division.layout(tuple(p.shape)), AxisLayout):
        return torch.from_numpy(places(division, p)[0]).reshape(local(p).shape)
    start, members = division.indices(tuple(p.shape))
    labels = np.full(p.numel(), -1)
    labels[members] = np.repeat(np.arange(len(start) - 1), np.diff(start))
    return torch.from_numpy(labels.reshape(tuple(p.shape)))


@contextmanager
def _kept(model: nn.Module, params: Sequence[Tensor]) -> Iterator[None]:
    """Leave weights, gradients, buffers and random numbers as they were."""
    weights = [(local(p).detach(), local(p).detach().clone()) for p in params]
    grads = [(p, p.grad) for p in dict.fromkeys([*params, *model.parameters()])]
    buffers = [(b, b.clone()) for b in model.buffers()]
    devices = {p.device for p in params if p.device.type == "cuda"}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        with torch.no_grad():
            for part, old in weights:
                part.copy_(old)
            for p, grad in grads:
                p.grad = grad
            for b, before in buffers:
                b.copy_(before)
