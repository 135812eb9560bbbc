"""The optimizer that all methods share: it forms each prox by the rules, solves it, and keeps the state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from proxlab.arguments import check_root_finder, compiles
from proxlab.backends import threads
from proxlab.inexactness import Criterion, Schedule
from proxlab.optim import bregman
from proxlab.optim.inexact import Tolerance, solve_certified
from proxlab.optim.problem import Watch
from proxlab.optim.rules import Proposal, Rule, Slot, check_settings, rests, rule_of
from proxlab.optim.sparsity import Resting, TargetSparsity, check_count, check_sparsity
from proxlab.penalties import Penalty
from proxlab.rootfinders import RootFinder
from proxlab.torch.memory import check_apart, check_tensors
from proxlab.torch.problems import HALF, Block, Problem, check_group, name_parameter, on_host, wide
from proxlab.torch.sparsity import group_sparsity, living
from proxlab.torch.strength import DrivenStrength
from proxlab.untraced import untraced

__all__ = ["ProxOptimizer"]

# Objects, which a state dict does not hold: it has to load without pickle.
_OBJECTS = ("penalty", "joint")
# Keys of the param groups of PyTorch's optimizers that say how to compute, not what.
_PICKLED = ("root_finder", "fused", "certify_every", "history", "_strength", "_tolerance", "_steps")
_FLAGS = ("foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay")


class ProxOptimizer(torch.optim.Optimizer):
    """Base of the proximal optimizers: an update rule, and the prox of a penalty in its metric.

    Parameters
    ----------
    params : iterable
        Tensors, named tensors or param groups, as all optimizers of PyTorch take them.
    settings : dict
        The settings of the update rule.
    penalty, root_finder, sparsity, certify_every, inexactness, fused
        As the methods document them.
    """

    # Who looks at the proxes of the steps, if anybody does.
    _watch: Watch | None = None
    # Whether the state of a parameter has the count of its steps.
    _counts = True

    def __init__(
        self,
        params: Iterable[Any],
        settings: dict[str, Any],
        penalty: Penalty | None,
        root_finder: RootFinder,
        sparsity: TargetSparsity | None,
        certify_every: int | None,
        inexactness: tuple[type[Criterion], Schedule] | None,
        fused: bool | None,
    ) -> None:
        if not isinstance(fused, (bool, type(None))):
            raise TypeError(f"fused: must be True, False or None, got {fused!r}")
        if certify_every is not None:
            certify_every = check_count("certify_every", certify_every)
        self.root_finder = check_root_finder(root_finder)
        self.fused = fused
        self._tolerance = None if inexactness is None else Tolerance(inexactness)
        # Without a word on it, a tolerance is proved in every step.
        self.certify_every = 1 if certify_every is None and inexactness is not None else certify_every
        self.history: list[dict[str, Any]] = []
        target = check_sparsity(sparsity)
        self._strength = None if target is None else DrivenStrength(target)
        self._steps = 0
        self._check_settings(settings)
        super().__init__(params, {**settings, "penalty": penalty})

    @property
    def rule(self) -> Rule:
        """The update rule (:mod:`proxlab.optim.rules`)."""
        return rule_of(type(self))

    def _check_settings(self, group: dict[str, Any]) -> dict[str, Any]:
        return check_settings(self.rule, {name: _plain(name, group[name]) for name in self.rule.settings})

    @untraced
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a param group, with its ``penalty`` and its ``joint`` groups if it has them.

        Parameters
        ----------
        param_group : dict
            ``params`` and what differs from the defaults.

        Raises
        ------
        TypeError, ValueError
            If a setting is not admissible, or the penalty does not fit the parameters. The message names the
            param group.
        """
        super().add_param_group(param_group)
        where = f"param group {len(self.param_groups) - 1}"
        try:
            check_group(param_group, where, self.rule.convex)
            try:
                self._check_settings(param_group)
                if self._strength is not None:
                    param_group["penalty"] = self._strength.admit(param_group["penalty"])
            except (TypeError, ValueError) as error:
                raise type(error)(f"{where}: {error}") from error
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    @untraced
    def state_dict(self) -> dict[str, Any]:
        """Return the state as numbers, strings and tensors.

        Penalties, joint groups and root finders are not in it.
        """
        saved = super().state_dict()
        for group in saved["param_groups"]:
            for key in _OBJECTS:
                group.pop(key, None)
        if self.certify_every is not None or self._strength is not None:
            saved["steps"] = self._steps
        if self._tolerance is not None:
            saved["iterations"] = self._tolerance.iterations
        if self._strength is not None:
            saved["strength"] = self._strength.state_dict()
        return saved

    @untraced
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state: of this optimizer, or of the optimizer of PyTorch that has the same state.

        Penalties, joint groups and root finders stay as they are.

        Parameters
        ----------
        state_dict : dict
            What :meth:`state_dict` returned.
        """
        given: dict[str, Any] = {}
        before = self.param_groups
        # Hooks of the user may change what is loaded; this one runs after them.
        handle = self.register_load_state_dict_pre_hook(lambda _, state: given.update(state))
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        self._steps = int(given.get("steps", 0))
        for old, new, saved in zip(before, self.param_groups, given["param_groups"], strict=True):
            for flag in _FLAGS:
                new.pop(flag, None)
            for key, value in old.items():
                new.setdefault(key, value)
            for p, k in zip(new["params"], saved["params"], strict=True):
                if p.dtype in HALF:
                    # PyTorch has rounded the state to the parameter's precision.
                    self.state[p].update(_widened(given["state"].get(k, {}), p))
        if self._tolerance is not None:
            self._tolerance.iterations = int(given.get("iterations", 1))
        if self._strength is not None and "strength" in given:
            self._strength.load_state_dict(given["strength"])
            self._set_penalties()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {name: self.__dict__[name] for name in _PICKLED}

    @untraced
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform a step.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model again and returns the loss.

        Returns
        -------
        float or Tensor
            What the closure returned, if there is one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._steps += 1
        due = self.certify_every is not None and self._steps % self.certify_every == 0
        record: dict[str, Any] = {}
        target = None if self._strength is None else self._strength.target
        drive = target is not None and target.due(self._steps)
        # The points of all proxes may decide on the strength of this step.
        late = drive and target is not None and target.needs_problems
        lam = None if self._strength is None else self._strength.lam
        if drive and not late:
            record |= self._drive([])
        holds = not late and (self._strength is None or self._strength.lam == lam)
        # Formed before the step, since a fused one does not tell.
        watched: list[Problem] = []
        if self._watch is not None and self._watch.due(self._steps):
            watched = [self._form(block, still) for block, still in self._resting_blocks(holds)]
        problems: Iterable[Problem] = self._problems(fuse=not due and not late, holds=holds)
        if late:
            problems = list(problems)
            record |= self._drive(problems)
            if self._strength is not None and self._strength.lam == lam:
                problems = [replace(p, rests=rests(p.block.settings)) for p in problems]
        if due:
            record |= self._certified(list(problems))
        else:
            for problem in problems:
                self._write(problem, self._solve(problem, self._finder()))
        if record:
            self.history.append({"step": self._steps, **record})
        if watched and self._watch is not None:
            # The penalties are those of this step, whose strength may have been driven meanwhile.
            self._watch.see(self._steps, {p.block.name: p.asked() for p in watched if p.is_open})
        return loss

    def _problems(self, fuse: bool, holds: bool) -> Iterator[Problem]:
        """Do the steps of blocks that are fused, and form the problems of the others one after the other.

        ``holds`` says whether weights whose learning rate is 0 stay, since their penalty is what it was.
        """
        fused: list[Block] = []
        others: list[tuple[Block, bool]] = []
        for block, still in self._resting_blocks(holds):
            if fuse and not still and self._is_fused(block):
                fused.append(block)
            else:
                others.append((block, still))
        threads.each(lambda k: self._fused_step(fused[k]), [block.params[0].numel() for block in fused])
        for block, still in others:
            yield self._form(block, still)

    def _resting_blocks(self, holds: bool) -> Iterator[tuple[Block, bool]]:
        """Go through the blocks, and say of each whether its weights stay as they are."""
        for block in self._checked_blocks():
            self._start_duals(block)
            yield block, rests(block.settings) and (holds or block.penalty is None)

    def _form(self, block: Block, still: bool) -> Problem:
        return Problem.of(block, [self._propose(p, block) for p in block.params], still)

    def _drive(self, problems: list[Problem]) -> dict[str, float]:
        """Decide on the strength of all penalties; returns what the history says of it."""
        assert self._strength is not None
        asked, moving = [], set()
        for p in problems:
            given = self._strength.given[p.block.number]
            if p.is_open and given is not None:
                asked.append(p.asked()._replace(penalty=given))
                moving.add((p.block.number, p.block.index))
        resting = self._resting(moving) if asked else []
        record = self._strength.update(self._steps, asked, resting, self._sparsity)
        self._set_penalties()
        return record

    def _resting(self, moving: set[tuple[int, int | None]]) -> list[Resting]:
        """Return the penalised groups of all blocks but those that move, which are given by their places."""
        found = []
        for number, group in enumerate(self.param_groups):
            params, penalty, joint = group["params"], group["penalty"], group.get("joint")
            if penalty is None:
                continue
            if joint is not None:
                if (number, None) not in moving:
                    found.append(living(params, list(joint)))
            else:
                found += [
                    living([p], [penalty.groups]) for k, p in enumerate(params) if (number, k) not in moving
                ]
        return found

    def _set_penalties(self) -> None:
        assert self._strength is not None
        for group, penalty in zip(self.param_groups, self._strength.penalties(), strict=True):
            group["penalty"] = penalty

    def _sparsity(self) -> float:
        assert self._strength is not None
        total = group_sparsity(self).total
        return total.weighted if self._strength.target.weighted else total.sparsity

    def _blocks(self) -> Iterator[Block]:
        """Go through the parameters that have a gradient."""
        for number, group in enumerate(self.param_groups):
            settings = self._check_settings(group)
            live = [k for k, p in enumerate(group["params"]) if p.grad is not None]
            for k in live:
                if group["params"][k].grad.is_sparse:
                    where = f"param group {number}, {name_parameter(group, k)}"
                    raise RuntimeError(f"{type(self).__name__} does not support sparse gradients; {where}")
            if "joint" in group:
                if live:
                    yield Block(number, group, settings, None)
            else:
                for k in live:
                    yield Block(number, group, settings, k)

    def _checked_blocks(self) -> list[Block]:
        """Return the blocks of a step, whose tensors fit and are apart."""
        blocks = list(self._blocks())
        states = [[self.state.get(p, {}) for p in block.params] for block in blocks]
        slots = [[slot.name for slot in self.rule.select(block.settings).slots] for block in blocks]
        for block, own, names in zip(blocks, states, slots, strict=True):
            check_tensors(block, own, names)
        check_apart(blocks, states, slots)
        return blocks

    def _start_duals(self, block: Block) -> None:
        """Give a block the dual variables that it starts from, a joint group as a whole."""
        if not self.rule.convex or all("dual" in self.state.get(p, {}) for p in block.params):
            return
        joined = bregman.dual_start(
            block.penalty, block.join([wide(p) for p in block.params]), block.settings["delta"]
        )
        for p, v in zip(block.params, block.split(joined), strict=True):
            self.state[p]["dual"] = torch.empty_like(wide(p)).copy_(v)

    def _propose(self, p: Tensor, block: Block) -> Proposal:
        w, state = wide(p), self.state.get(p, {})
        grad = torch.zeros_like(w) if p.grad is None else wide(p.grad)
        slots = tuple(self._slots(p, w, block.settings).values())
        t, carry = _count(state), state.get("weight_sum", 0.0)
        return self.rule.propose(block.settings, w, grad, slots, t, carry)

    def _slots(self, p: Tensor, w: Tensor, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the arrays of state of a parameter, new ones where there are none yet."""
        state = self.state.get(p, {})
        return {
            slot.name: state[slot.name] if slot.name in state else _start(slot, w, settings)
            for slot in self.rule.select(settings).slots
        }

    def _is_fused(self, block: Block) -> bool:
        """Say whether the step of a block is one compiled pass; an error where it has to be and cannot."""
        if self.fused is False:
            return False
        obstacle = self._obstacle(block)
        if obstacle and self.fused:
            raise RuntimeError(f"fused=True: {block.where} {obstacle}")
        return not obstacle

    @torch.no_grad()
    def _fused_step(self, block: Block) -> None:
        """Do the step of a block in one compiled pass."""
        from proxlab.optim import fused_cpu

        (p,) = block.params
        assert p.grad is not None
        w, state = p.detach(), self.state.get(p, {})
        slots = self._slots(p, w, block.settings)
        arrays = tuple(a.numpy() for a in slots.values())
        t, carry, finder = _count(state), state.get("weight_sum", 0.0), self._finder()
        try:
            carry = fused_cpu.step(
                self.rule, block.settings, block.penalty, w.numpy(), p.grad.numpy(), arrays, t, carry, finder
            )
        except ValueError as error:
            raise ValueError(f"{block.where}: {error}") from error
        self._save(p, slots, carry)

    def _obstacle(self, block: Block) -> str:
        """Say why there is no compiled pass for a block; "" if there is one."""
        if block.index is None:
            return "has joint groups"
        (p,) = block.params
        if not on_host(p) or p.dtype not in (torch.float32, torch.float64):
            return f"is of {p.dtype} on {p.device}, not of float32 or float64 on the CPU"
        assert p.grad is not None
        state = self.state.get(p, {}).values()
        tensors = (p, p.grad, *(a for a in state if isinstance(a, Tensor)))
        if not all(a.is_contiguous() for a in tensors):
            return "is not contiguous, or its gradient or state is not"
        from proxlab.optim import fused_cpu

        if not fused_cpu.applies(block.penalty, p.detach().numpy()):
            if not compiles():
                return "cannot be compiled, since NUMBA_DISABLE_JIT is set"
            return f"has a penalty without a compiled pass, {block.penalty!r}"
        return ""

    def _finder(self) -> RootFinder:
        return self.root_finder if self._tolerance is None else self._tolerance.finder(self.root_finder)

    def _solve(self, problem: Problem, finder: RootFinder) -> Tensor:
        """Solve the prox of a block; where there is none to solve, this is its point."""
        return problem.tensor(problem.asked().prox(finder)) if problem.is_open else problem.x

    def _certified(self, problems: list[Problem]) -> dict[str, float]:
        """Solve and certify all proxes of a step before anything is written; returns the bounds."""
        asked = [p.asked(previous=True) for p in problems if p.is_open]
        found, record = solve_certified(asked, self._steps, self.root_finder, self._tolerance)
        solutions = iter(found)
        for problem in problems:
            self._write(problem, problem.tensor(next(solutions)) if problem.is_open else problem.x)
        return record

    def _write(self, problem: Problem, z: Tensor) -> None:
        """Write the new weights and the state of a block."""
        block = problem.block
        keep = block.settings["momentum"] if self.rule.averages else 0.0
        names = [slot.name for slot in self.rule.select(block.settings).slots]
        for p, proposal, new in zip(block.params, problem.proposals, block.split(z), strict=True):
            if not problem.rests:
                p.copy_(keep * wide(p) + (1.0 - keep) * new if keep else new)
            self._save(p, dict(zip(names, proposal.slots, strict=True)), proposal.carry)

    def _save(self, p: Tensor, slots: dict[str, Tensor], carry: float) -> None:
        if not slots and not self._counts:
            return
        state = self.state[p]
        if self._counts:
            # A new tensor: whoever holds the state dict keeps what it was.
            state["step"] = state["step"] + 1 if "step" in state else torch.ones(())
        if carry:
            state["weight_sum"] = carry
        state.update(slots)


def _count(state: Mapping[str, Any]) -> int:
    """Return the count of the next step of a parameter."""
    if "step" in state:
        return int(state["step"]) + 1
    # torch.optim.SGD keeps no count: its first step is the one without a buffer.
    return 2 if "momentum_buffer" in state else 1


def _widened(saved: Mapping[str, Any], p: Tensor) -> dict[str, Tensor]:
    """Copy the tensors of a saved state in the precision that state has."""
    return {
        name: value.to(p.device, torch.float32, copy=True)
        for name, value in saved.items()
        if isinstance(value, Tensor) and name != "step"
    }


def _start(slot: Slot, w: Tensor, settings: Mapping[str, Any]) -> Tensor:
    if slot.start == "parameter":
        return w.clone()
    return torch.full_like(w, 0.0 if slot.start == "zeros" else settings[slot.start])


def _plain(name: str, value: Any) -> Any:
    """Return a setting as Python numbers: PyTorch takes tensors of one element too."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{name}: must have one element, got a tensor of shape {tuple(value.shape)}")
        return value.item()
    if isinstance(value, (tuple, list)):
        return tuple(_plain(f"{name}[{k}]", v) for k, v in enumerate(value))
    return value
