"""The optimizer that all methods share: it forms each prox by the rules, solves it, and keeps the state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from proxlab.arguments import check_root_finder
from proxlab.certificate import Certificate, certify
from proxlab.inexactness import Criterion, Schedule
from proxlab.optim.rules import RULES, Proposal, Rule, Slot, check_settings
from proxlab.penalties import Penalty
from proxlab.penalties.base import check_number
from proxlab.prox import prox
from proxlab.rootfinders import RootFinder
from proxlab.torch import dual
from proxlab.torch.inexact import Tolerance, together, worst_group
from proxlab.torch.problems import Block, Problem, check_group, name_parameter
from proxlab.torch.sparsity import group_sparsity
from proxlab.torch.strength import DrivenStrength

__all__ = ["ProxOptimizer"]

# Iterations after which more of them prove nothing more.
_ENOUGH = 200
_HALF = (torch.float16, torch.bfloat16)
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

    # Whether the state of a parameter has the count of its steps.
    _counts = True

    def __init__(
        self,
        params: Iterable[Any],
        settings: dict[str, Any],
        penalty: Penalty | None,
        root_finder: RootFinder,
        sparsity: Any,
        certify_every: int | None,
        inexactness: tuple[type[Criterion], Schedule] | None,
        fused: bool | None,
    ) -> None:
        if not isinstance(fused, (bool, type(None))):
            raise TypeError(f"fused: must be True, False or None, got {fused!r}")
        if certify_every is not None and check_number("certify_every", certify_every, 1.0) % 1:
            raise ValueError(f"certify_every: must be a whole number, got {certify_every!r}")
        self.root_finder = check_root_finder(root_finder)
        self.fused = fused
        self._tolerance = None if inexactness is None else Tolerance(inexactness)
        # Without a word on it, a tolerance is proved in every step.
        self.certify_every = 1 if certify_every is None and inexactness is not None else certify_every
        self.history: list[dict[str, Any]] = []
        self._strength = None if sparsity is None else DrivenStrength(sparsity)
        self._steps = 0
        self._check_settings(settings)
        super().__init__(params, {**settings, "penalty": penalty})

    @property
    def rule(self) -> Rule:
        """The update rule (:mod:`proxlab.optim.rules`)."""
        return RULES[type(self).__name__]

    def _check_settings(self, group: dict[str, Any]) -> dict[str, Any]:
        return check_settings(self.rule, {name: _plain(name, group[name]) for name in self.rule.settings})

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
            except (TypeError, ValueError) as error:
                raise type(error)(f"{where}: {error}") from error
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        if self._strength is not None:
            self._strength.admit(param_group)

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
                if p.dtype in _HALF:
                    # PyTorch has rounded the state to the parameter's precision.
                    self.state[p].update(_widened(given["state"].get(k, {}), p))
        if self._tolerance is not None:
            self._tolerance.iterations = int(given.get("iterations", 1))
        if self._strength is not None and "strength" in given:
            self._strength.load_state_dict(given["strength"], self.param_groups)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {name: self.__dict__[name] for name in _PICKLED}

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
        # The strength comes before the update where the state belongs to it (a dual variable), and otherwise
        # after it, since the points of all proxes may decide on it.
        early = self._strength is not None and self.rule.convex
        late = self._strength is not None and not early
        if early:
            record |= self._drive([])
        problems: Iterable[Problem] = self._problems(fuse=not due and not late)
        if late:
            problems = list(problems)
            record |= self._drive(problems)
        if due:
            record |= self._certified(list(problems))
        else:
            for problem in problems:
                self._write(problem, self._solve(problem, self._finder()))
        if record:
            self.history.append({"step": self._steps, **record})
        return loss

    def _problems(self, fuse: bool) -> Iterator[Problem]:
        """Form the problems of a step one after the other; blocks that are fused are done on the way."""
        for block in self._blocks():
            self._start_duals(block)
            if not (fuse and self._fused_step(block)):
                yield Problem.of(block, [self._propose(p, block) for p in block.params])

    def _drive(self, problems: list[Problem]) -> dict[str, Any]:
        """Set the strength of all penalties; returns what the history says of it."""
        assert self._strength is not None
        points = [
            (p.block.penalty, _numpy(p.x), _numpy(p.metric), p.step)
            for p in problems
            if p.block.penalty is not None and p.step > 0
        ]
        before = [group["penalty"] for group in self.param_groups]
        record = self._strength.update(self.param_groups, self._steps, points, self._sparsity)
        if self.rule.convex:
            for group, penalty in zip(self.param_groups, before, strict=True):
                self._reanchor(group, penalty)
        return record

    def _sparsity(self) -> float:
        assert self._strength is not None
        total = group_sparsity(self).total
        return total.weighted if self._strength.target.weighted else total.sparsity

    def _reanchor(self, group: dict[str, Any], before: Penalty | None) -> None:
        """Let the dual variables follow the strength of their penalty, with the weights as they are."""
        if before is None or before is group["penalty"] or before.strength == 0:
            return
        ratio, delta = group["penalty"].strength / before.strength, self._check_settings(group)["delta"]
        for p in group["params"]:
            state = self.state.get(p, {})
            if "dual" in state:
                state["dual"] = dual.reanchored(state["dual"], _wide(p), delta, ratio)

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

    def _start_duals(self, block: Block) -> None:
        """Give a block the dual variables that it starts from, a joint group as a whole."""
        if not self.rule.convex or all("dual" in self.state.get(p, {}) for p in block.params):
            return
        joined = dual.start(
            block.penalty, block.join([_wide(p) for p in block.params]), block.settings["delta"]
        )
        for p, v in zip(block.params, block.split(joined), strict=True):
            self.state[p]["dual"] = torch.empty_like(_wide(p)).copy_(v)

    def _propose(self, p: Tensor, block: Block) -> Proposal:
        w, state = _wide(p), self.state.get(p, {})
        grad = torch.zeros_like(w) if p.grad is None else _wide(p.grad)
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

    def _fused_step(self, block: Block) -> bool:
        """Do the step of a block in one compiled pass; returns whether that was possible."""
        if self.fused is False:
            return False
        obstacle = self._obstacle(block)
        if obstacle:
            if self.fused:
                raise RuntimeError(f"fused=True: {block.where} {obstacle}")
            return False
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
        return True

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
        try:  # TODO remove the guard when fused_cpu is there
            from proxlab.optim import fused_cpu
        except ImportError:
            return "has no compiled pass yet"
        if not fused_cpu.applies(self.rule, block.penalty, p.detach().numpy()):
            return f"has a penalty without a compiled pass, {block.penalty!r}"
        return ""

    def _finder(self) -> RootFinder:
        return self.root_finder if self._tolerance is None else self._tolerance.finder(self.root_finder)

    def _solve(self, problem: Problem, finder: RootFinder) -> Tensor:
        """Solve the prox of a block; where there is none to solve, this is its point."""
        x = problem.x
        if not problem.is_open:
            return x
        penalty, d = problem.block.penalty, problem.metric
        assert penalty is not None
        try:
            z = prox(penalty, _numpy(x), problem.step, metric=_numpy(d), root_finder=finder)
        except ValueError as error:
            raise ValueError(f"{problem.block.where}: {error}") from error
        return torch.from_numpy(z) if on_host(x) else z

    def _certified(self, problems: list[Problem]) -> dict[str, float]:
        """Solve and certify all proxes of a step before anything is written; returns the bounds."""
        tolerance, open_ones = self._tolerance, [p for p in problems if p.is_open]
        if tolerance is not None:
            tolerance.iterations = max(1, tolerance.iterations - 1)
        solved = {id(p): self._certify(p, len(open_ones)) for p in open_ones}
        for problem in problems:
            self._write(problem, solved[id(problem)][0] if problem.is_open else problem.x)
        record = together(certificate.total for _, certificate in solved.values())
        if tolerance is not None:
            record |= {"tolerance": tolerance.at(self._steps), "iterations": tolerance.iterations}
        return record

    def _certify(self, problem: Problem, parts: int) -> tuple[Tensor, Certificate]:
        """Solve a prox, with more iterations until its criterion is proved."""
        penalty, block, tolerance = problem.block.penalty, problem.block, self._tolerance
        assert penalty is not None
        x, d, step = _numpy(problem.x), _numpy(problem.metric), problem.step
        while True:
            finder = self._finder()
            z = self._solve(problem, finder)
            certificate = certify(penalty, _numpy(z), x, step, metric=d)
            if tolerance is None:
                return z, certificate
            eps = tolerance.at(self._steps)
            last = block.join([_wide(p) for p in block.params])
            if tolerance.criterion(eps, parts).holds(certificate, _numpy(last)):
                return z, certificate
            if finder.max_iterations == self.root_finder.max_iterations or tolerance.iterations > _ENOUGH:
                raise ValueError(
                    f"inexactness: step {self._steps}, {block.where}: the tolerance {eps:.3g} is not proved; "
                    f"least is known of group {worst_group(certificate)}. Ask for less, or raise "
                    "max_iterations of the root finder"
                )
            tolerance.iterations += 1

    def _write(self, problem: Problem, z: Tensor) -> None:
        """Write the new weights and the state of a block."""
        block = problem.block
        keep = block.settings["momentum"] if self.rule.averages else 0.0
        names = [slot.name for slot in self.rule.select(block.settings).slots]
        for p, proposal, new in zip(block.params, problem.proposals, block.split(z), strict=True):
            p.copy_(keep * _wide(p) + (1.0 - keep) * new if keep else new)
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


def _numpy(a: Tensor | None) -> Any:
    """Return an array that compiled kernels take, where the tensor is on the host."""
    return a if a is None or not on_host(a) else a.numpy()


def on_host(a: Tensor) -> bool:
    """Return whether NumPy can view a tensor: compiled kernels are for these."""
    return bool(a.device.type == "cpu")


def _count(state: Mapping[str, Any]) -> int:
    """Return the count of the next step of a parameter."""
    if "step" in state:
        return int(state["step"]) + 1
    # torch.optim.SGD keeps no count: its first step is the one without a buffer.
    return 2 if "momentum_buffer" in state else 1


def _wide(a: Tensor) -> Tensor:
    """Return a tensor in the precision of state and arithmetic."""
    a = a.detach()
    return a.float() if a.dtype in _HALF else a


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
