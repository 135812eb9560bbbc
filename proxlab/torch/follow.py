"""A prox behind any optimizer of PyTorch, in the metric that the optimizer's state implies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from proxlab.arguments import check_root_finder
from proxlab.optim.problem import ProxProblem, Watch
from proxlab.optim.rules import Proposal
from proxlab.rootfinders import Newton, RootFinder
from proxlab.torch.base import ProxOptimizer
from proxlab.torch.cut import solve
from proxlab.torch.division import described
from proxlab.torch.exchange import prox_problem
from proxlab.torch.problems import (
    Block,
    BlockProblem,
    CutProblem,
    Proposals,
    as_tensor,
    check_group,
    given_groups,
    name_parameter,
    not_finite,
    wide,
)
from proxlab.torch.ranks import Agreement, Ranks, agreed, failure_of, tried
from proxlab.torch.shards import like, local, part_of
from proxlab.torch.sparsity import living
from proxlab.untraced import untraced
from proxlab.values import shown

__all__ = ["ProxWrapper"]

IDENTITY = "identity"


class ProxWrapper(torch.optim.Optimizer):
    """Any optimizer of PyTorch, each step of which is followed by the prox of a penalty.

    The weights ``w`` that the optimizer's step leaves become ``argmin_z h(z) + ‖z - w‖²_D / (2 lr)``. ``D``
    is the diagonal by which the optimizer divides, where its state says so: of Adam's kind (``exp_avg_sq``,
    or ``max_exp_avg_sq`` under ``amsgrad``) ``sqrt(v / (1 - β₂ᵗ)) + eps``, of RMSprop
    ``sqrt(square_avg) + eps`` (less the squared mean where centred), of Adagrad ``sqrt(sum) + eps`` with its
    decayed learning rate.
    Elsewhere it is the identity: Muon, Lion, SGD, factored moments (Adafactor). ``repr`` says which it was.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        What makes the steps. Parameters, state, schedulers and checkpoints are its own.
    groups : iterable of dict
        Param groups with penalties, as :func:`param_groups` returns them. Parameters that occur in none of
        them are not penalised.
    root_finder : RootFinder, optional
        What solves the prox.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another kind, a penalised parameter is not among the optimizer's or occurs twice,
        or parameters of a joint group have different learning rates. The message names the param group.

    Notes
    -----
    Attributes that this class does not have are the optimizer's (``train`` and ``eval`` of schedule-free
    ones, for example). A state dict is the optimizer's, in which :meth:`freeze` leaves a mask for each
    penalised parameter. Penalties are not in it.

    Examples
    --------
    >>> import torch, proxlab as pl
    >>> from proxlab.torch import ProxWrapper, group_sparsity, param_groups
    >>> model = torch.nn.Linear(8, 4)
    >>> groups = param_groups(model, pl.GroupLasso(0.5))
    >>> optimizer = ProxWrapper(torch.optim.NAdam(model.parameters(), lr=0.1), groups)
    >>> for _ in range(20):
    ...     optimizer.zero_grad()
    ...     (model(torch.eye(8)[:2]) - 1).square().sum().backward()
    ...     optimizer.step()
    >>> group_sparsity(optimizer).total.zero_groups
    6
    >>> print(repr(optimizer).partition(" in ")[2])
    the metric sqrt(exp_avg_sq / (1 - beta2^t)) + eps)
    """

    # Who looks at the proxes of the steps, if anybody does.
    _watch: Watch | None = None

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        groups: Iterable[Mapping[str, Any]],
        *,
        root_finder: RootFinder = Newton(),  # noqa: B008 (frozen)
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer: must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        if isinstance(optimizer, (ProxOptimizer, ProxWrapper)):
            raise TypeError(
                f"optimizer: {type(optimizer).__name__} has a prox of its own; give it the penalty itself"
            )
        self.optimizer = optimizer
        self.root_finder = check_root_finder(root_finder)
        self.penalised = _penalised(groups, {id(p) for g in optimizer.param_groups for p in g["params"]})
        self._metrics: dict[int, str] = {}
        self._frozen: dict[Tensor, Tensor] = {}
        # Hooks and the profiler's wrapper, as PyTorch's own unpickling makes them.
        super().__setstate__({})

    # What PyTorch keeps in an optimizer is that of the optimizer within.
    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The optimizer's param groups."""
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The optimizer's state."""
        return self.optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The optimizer's defaults."""
        return self.optimizer.defaults

    def __getattr__(self, name: str) -> Any:
        if name in ("optimizer", "penalised") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __repr__(self) -> str:
        lines = []
        for number, group in enumerate(self.penalised):
            count = len(group["params"])
            metric = self._metrics.get(number, "that its first step will tell")
            lines.append(
                f"{described(group['penalty'])} on {count} {'joint ' if 'joint' in group else ''}"
                f"parameter{'s' if count > 1 else ''} in the metric {metric}"
            )
        return f"ProxWrapper({type(self.optimizer).__name__}, {'; '.join(lines)})"

    def __getstate__(self) -> dict[str, Any]:
        names = ("optimizer", "root_finder", "penalised", "_metrics", "_frozen")
        return {name: self.__dict__[name] for name in names}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a param group to the optimizer; one with a ``penalty`` is penalised from now on."""
        inner = {k: v for k, v in param_group.items() if k not in ("penalty", "joint", "names")}
        if param_group.get("penalty") is None:
            self.optimizer.add_param_group(inner)
            return
        params = param_group["params"]
        listed = [params] if isinstance(params, Tensor) else list(params)
        known = {id(p) for g in self.param_groups for p in g["params"]} | {id(p) for p in listed}
        both = _penalised([*self.penalised, {**param_group, "params": listed}], known)
        self.optimizer.add_param_group(inner | {"params": listed})
        self.penalised = both

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state dict, with the masks of what is frozen."""
        saved = self.optimizer.state_dict()
        # Of parameters that have no state the optimizer has no mask either.
        places = {p: k for k, p in enumerate(self._params())}
        masks = {places[p]: {"frozen": mask} for p, mask in self._frozen.items() if not self.state.get(p)}
        return {**saved, "state": saved["state"] | masks} if masks else saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of the optimizer, or of this class around one."""
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: must be a dict, got {shown(state_dict)}")
        given: Any = state_dict.get("state")
        masks: dict[Any, Tensor] = {}
        if isinstance(given, Mapping) and all(isinstance(entry, Mapping) for entry in given.values()):
            # Optimizers take an entry for a state that has begun.
            masks = {k: entry["frozen"] for k, entry in given.items() if "frozen" in entry}
            state = {k: {n: a for n, a in entry.items() if n != "frozen"} for k, entry in given.items()}
            state_dict = {**state_dict, "state": {k: entry for k, entry in state.items() if entry}}
        self.optimizer.load_state_dict(state_dict)
        keys = [k for group in state_dict["param_groups"] for k in group["params"]]
        of_key = dict(zip(keys, self._params(), strict=True))
        self.take_frozen({of_key[k]: mask.to(of_key[k].device).bool() for k, mask in masks.items()})

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    @property
    def frozen(self) -> dict[Tensor, Tensor]:
        """What is kept at zero: a mask for each penalised parameter, after :meth:`freeze`."""
        return dict(self._frozen)

    def take_frozen(self, masks: Mapping[Tensor, Tensor]) -> None:
        """Keep what masks say at zero, and nothing else; they join the state where there is one."""
        self._frozen = dict(masks)
        for p, mask in masks.items():
            if self.state.get(p):
                self.state[p]["frozen"] = mask

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients."""
        self.optimizer.zero_grad(set_to_none)

    def freeze(self) -> None:
        """Keep the groups that are zero at zero from now on, and train the rest without penalty.

        Which ones is saved with the optimizer's state, as a mask for each penalised parameter.
        """
        ranks = Ranks.of(p for group in self.penalised for p in group["params"])

        def every() -> list[Block]:
            groups = enumerate(self.penalised)
            return [b for number, group in groups for b in self._blocks(number, group, everything=True)]

        masks = dict(self._frozen)
        for block in every() if ranks is None else ranks.attempt(every):
            masks |= {p: like(mask, p) for p, mask in zip(block.params, dead(block), strict=True)}
        self.take_frozen(masks)

    @untraced
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform the optimizer's step, and the prox of every penalised parameter that has a gradient.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model again and returns the loss.

        Returns
        -------
        float or Tensor
            What the optimizer's step returned.
        """
        ranks = Ranks.of(p for group in self.penalised for p in group["params"])
        loss: Any = None
        if closure is None and ranks is None:
            # The optimizer would keep them, and leave weights that no prox takes.
            self._check_gradients()

        def inner() -> None:
            nonlocal loss
            loss = self.optimizer.step() if closure is None else self.optimizer.step(closure)

        failure: Exception | None = None
        if ranks is None:
            inner()
        else:
            failure = failure_of(inner)
        count = max((int(state.get("step", 0)) for state in self.state.values()), default=0)
        watch = self._watch if self._watch is not None and self._watch.due(count) else None
        with torch.no_grad():
            blocks, proposals, _ = self._agreement(ranks, watch, failure)
            cut = [CutProblem(b, proposals[b.key]) for b in blocks if proposals and b.key in proposals]
            seen: dict[str, ProxProblem] = {}
            for problem in cut if watch is not None else ():
                if problem.is_open and ranks is not None:
                    share, asked = prox_problem(problem, ranks)
                    seen |= {problem.block.name: asked} if share.n_groups else {}
            # What fails here is told with the first of the sums, or by itself where there are none.
            whole = [b for b in blocks if not b.is_cut or self._is_held(b)]
            tried(ranks, lambda: self._take_own(whole, seen, watch, count), None)
            if ranks is not None:
                for problem, z in zip(cut, solve(cut, ranks, self.root_finder), strict=True):
                    if problem.is_open:
                        _put(problem.block, z)
        return loss

    def _check_gradients(self) -> None:
        """Raise an error that names a penalised parameter whose gradient is not finite."""
        placed = [
            (number, k, local(p.grad))
            for number, group in enumerate(self.penalised)
            for k, p in enumerate(group["params"])
            if p.grad is not None and p.grad.layout is torch.strided
        ]
        for number, k, _ in (placed[i] for i in not_finite([grad for *_, grad in placed])):
            where = f"groups[{number}], {name_parameter(self.penalised[number], k)}"
            raise ValueError(f"{where}: its gradient must be finite")

    def _take_own(
        self, blocks: Sequence[Block], seen: Mapping[str, ProxProblem], watch: Watch | None, count: int
    ) -> None:
        """Hold what is frozen, shrink what lies here whole, and show that and ``seen`` to who watches."""
        if watch is not None and seen:
            watch.see(count, seen)
        for block in blocks:
            if self._is_held(block):
                self._hold(block)
            else:
                self._shrink(BlockProblem.of(block, self._asked(block)), watch, count)

    def _is_held(self, block: Block) -> bool:
        return all(p in self._frozen for p in block.params)

    def _hold(self, block: Block) -> None:
        """Keep frozen weights at zero. The mask joins the state once there is one, which optimizers start."""
        for p in block.params:
            local(p).masked_fill_(local(self._frozen[p]), 0.0)
            if self.state.get(p):
                self.state[p]["frozen"] = self._frozen[p]

    def _blocks(self, number: int, group: dict[str, Any], everything: bool = False) -> list[Block]:
        settings = {id(p): g for g in self.param_groups for p in g["params"]}
        params = group["params"]
        live = [k for k, p in enumerate(params) if everything or p.grad is not None]
        if group.get("joint") is None:
            return [Block(number, group, settings[id(params[k])], k) for k in live]
        rates = {float(settings[id(p)]["lr"]) for p in params}
        if len(rates) > 1:
            raise ValueError(
                f"groups[{number}]: joint: the parameters must have one learning rate, got {sorted(rates)}"
            )
        return [Block(number, group, settings[id(params[0])], None)] if live else []

    def _agreement(self, ranks: Ranks | None, watch: Watch | None, failure: Exception | None) -> Agreement:
        """Return what all processes are about to do; an error in one is one in all that share parameters.

        ``failure`` is the error of the optimizer's own step, if it has raised one.
        """

        def make() -> tuple[list[Block], Proposals]:
            if failure is not None:
                raise failure
            found = [b for number, group in enumerate(self.penalised) for b in self._blocks(number, group)]
            return found, {b.key: self._asked(b) for b in found if b.is_cut and not self._is_held(b)}

        def holds(block: Block) -> str:
            own = block.params if block.is_cut else []
            return f"{[(sorted(self.state.get(p, {})), p in self._frozen) for p in own]}"

        if ranks is None:
            return Agreement(*make(), watch is not None)
        told, says = "its weights must be finite", f"{type(self.optimizer).__name__}, {self.root_finder!r}"
        return agreed(ranks, self.penalised, make, _is_spoilt, told, says, holds, watch is not None)

    def _asked(self, block: Block) -> list[Proposal]:
        """Return the point, which is the weights, and the metric of each parameter of a block."""
        proposals = []
        for p in block.params:
            with block.named():
                metric, step, name = implied_metric(self.state.get(p, {}), block.settings, p)
            self._metrics[block.number] = name
            proposals.append(Proposal(wide(p), metric, step, (), 0.0))
        steps = sorted({q.step for q in proposals})
        if len(steps) > 1:
            raise ValueError(
                f"{block.where}: the parameters must have made as many steps, got proxes with steps {steps}"
            )
        if any(q.metric is None for q in proposals):
            proposals = [q._replace(metric=None) for q in proposals]
            self._metrics[block.number] = IDENTITY
        return proposals

    def _shrink(self, problem: BlockProblem, watch: Watch | None, count: int) -> None:
        """Replace the weights of a block by their prox, and show it to who watches."""
        if not problem.is_open:
            return
        block, asked = problem.block, problem.asked()
        if watch is not None:
            # Before the weights, which are the point, are written.
            watch.see(count, {block.name: asked})
        _put(block, block.split(as_tensor(asked.prox(self.root_finder))))


def _put(block: Block, z: list[Tensor]) -> None:
    for p, new in zip(block.params, z, strict=True):
        local(p).copy_(new)


def _is_spoilt(p: Tensor) -> bool:
    return not bool(torch.isfinite(local(p)).all())


def _penalised(groups: Iterable[Any], known: set[int]) -> list[dict[str, Any]]:
    """Return the param groups that have a penalty, checked."""
    found: list[dict[str, Any]] = []
    seen: set[int] = set()
    for number, group in enumerate(given_groups(groups, "groups")):
        where = f"groups[{number}]"
        if group["penalty"] is None:
            continue
        check_group(group, where, convex_only=False)
        for k, p in enumerate(group["params"]):
            if id(p) not in known:
                raise ValueError(
                    f"{where}: {name_parameter(group, k)} is not one of the optimizer's parameters"
                )
            if id(p) in seen:
                raise ValueError(f"{where}: {name_parameter(group, k)} is penalised twice")
            seen.add(id(p))
        found.append(group)
    if not found:
        raise ValueError("groups: none of them has a penalty")
    return found


def implied_metric(
    state: Mapping[str, Any], group: Mapping[str, Any], p: Tensor
) -> tuple[Tensor | None, float, str]:
    """Return the diagonal by which an optimizer has divided, the step size that goes with it, and a name."""
    step, eps = float(group["lr"]), group.get("eps", 0.0)

    def has(name: str) -> bool:
        return isinstance(state.get(name), Tensor) and state[name].shape == p.shape

    t = float(state.get("step", 0))
    if has("exp_avg_sq") and "betas" in group:
        name = "max_exp_avg_sq" if group.get("amsgrad") and has("max_exp_avg_sq") else "exp_avg_sq"
        corrected = 1.0 - float(group["betas"][1]) ** t if t > 0 else 1.0
        metric = (wide(state[name]).sqrt() / corrected**0.5).add_(eps)
        return metric, step, f"sqrt({name} / (1 - beta2^t)) + eps"
    if has("square_avg") and "acc_delta" not in state:
        if group.get("centered") and has("grad_avg"):
            variance = (wide(state["square_avg"]) - wide(state["grad_avg"]).square()).abs()
            return variance.sqrt().add_(eps), step, "sqrt(square_avg - grad_avg^2) + eps"
        return wide(state["square_avg"]).sqrt().add_(eps), step, "sqrt(square_avg) + eps"
    if has("sum"):
        decayed = step / (1.0 + max(t - 1.0, 0.0) * float(group.get("lr_decay", 0.0)))
        return wide(state["sum"]).sqrt().add_(eps), decayed, "sqrt(sum) + eps"
    return None, step, IDENTITY


def dead(block: Block) -> list[Tensor]:
    """Return for each parameter of a block which of its elements are in groups that are zero."""
    alive: npt.NDArray[np.bool_] = living([(block.params, block.groups)])[0].alive
    masks = []
    for groups, p in zip(block.groups, block.params, strict=True):
        place, here = part_of(groups, p), local(p).detach()
        own = alive if place.ids is None else alive[place.ids]
        flags = place.layout.split_groups(torch.from_numpy(own.copy()).to(here.device))
        rows = [
            flag[:, None].expand_as(row)
            for flag, row in zip(flags, place.layout.split(here, 0.0), strict=True)
        ]
        masks.append(~place.layout.join(rows, torch.ones_like(here, dtype=torch.bool)))
    return masks
