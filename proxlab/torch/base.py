"""The optimizer that all methods share: it forms each prox by the rules, solves it, and keeps the state."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributed

from proxlab.arguments import check_root_finder, compiles
from proxlab.groups import Groups
from proxlab.inexactness import Criterion, Schedule
from proxlab.optim import bregman
from proxlab.optim.inexact import Tolerance, alone, settled, solve_certified
from proxlab.optim.problem import Watch
from proxlab.optim.rules import Proposal, Rule, check_settings, check_start
from proxlab.optim.sparsity import Resting, TargetSparsity, check_sparsity
from proxlab.optim.updates import Slot
from proxlab.penalties import Penalty
from proxlab.rootfinders import RootFinder
from proxlab.torch.cut import dual_starts, solve
from proxlab.torch.everyone import all_moving
from proxlab.torch.exchange import Share, prox_problem
from proxlab.torch.loading import adapted, check_entry, check_noted
from proxlab.torch.memory import check_apart, check_tensors, order_of, overlap, spans_of
from proxlab.torch.problems import (
    HALF,
    Block,
    BlockProblem,
    CutProblem,
    as_tensor,
    check_group,
    check_kind,
    name_parameter,
    on_host,
    uses_of,
    wide,
)
from proxlab.torch.ranks import Ranks, agreed, failure_of
from proxlab.torch.shards import aligned, counts_here, lies_alike, like, local, local_part
from proxlab.torch.sparsity import living
from proxlab.torch.strength import DrivenStrength
from proxlab.torch.vanishing import Vanishing
from proxlab.untraced import untraced
from proxlab.values import check_count, check_number

if TYPE_CHECKING:
    from proxlab.torch.together import Kept, Member

__all__ = ["ProxOptimizer"]

P = TypeVar("P", BlockProblem, CutProblem)

# Objects, which a state dict does not hold: it has to load without pickle.
_OBJECTS = ("penalty", "joint")
# Arguments that hold for all param groups.
_WHOLE = ("start", "root_finder", "certify_every", "sparsity")
_PICKLED = (
    "root_finder",
    "fused",
    "certify_every",
    "start",
    "history",
    "_strength",
    "_tolerance",
    "_vanishing",
)
#: What every param group has besides its settings: the count of steps, the iterations that were enough for a
#: tolerance, the strength that was set, and what a driven strength goes on from.
NOTED: dict[str, Any] = {"steps": 0, "iterations": 1, "strength": None, "sparsity": None}


class ProxOptimizer(torch.optim.Optimizer):
    """Base of the proximal optimizers: an update rule, and the prox of a penalty in its metric.

    Parameters
    ----------
    params : iterable
        Tensors, named tensors or param groups, as all optimizers of PyTorch take them.
    settings : dict
        The settings of the update rule.
    penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        As the methods document them.
    """

    #: The update rule (:mod:`proxlab.optim.rules`).
    rule: Rule
    # What the last step has found out about parameters that compiled passes take.
    _kept: Kept | None = None
    # Who looks at the proxes of the steps, if anybody does.
    _watch: Watch | None = None

    def __init__(
        self,
        params: Iterable[Any],
        settings: dict[str, Any],
        penalty: Penalty | None,
        start: int,
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
        self.start = check_start(start, self.rule)
        self.root_finder = check_root_finder(root_finder)
        self.fused = fused
        self._tolerance = None if inexactness is None else Tolerance(inexactness)
        # Without a word on it, a tolerance is proved in every step.
        self.certify_every = 1 if certify_every is None and inexactness is not None else certify_every
        self.history: list[dict[str, Any]] = []
        target = check_sparsity(sparsity)
        self._strength = None if target is None else DrivenStrength(target)
        self._vanishing = Vanishing()
        # Parameters whose state somebody else may hold: it is not changed in place.
        self._lent: set[Tensor] = set()
        self._check_settings(settings)
        super().__init__(params, {**settings, "penalty": penalty})

    @property
    def _steps(self) -> int:
        """How many steps there were: kept in the param groups, as all that has to last."""
        return int(self.param_groups[0]["steps"])

    def _note(self, **numbers: Any) -> None:
        for group in self.param_groups:
            group.update(numbers)

    def _check_settings(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return check_settings(self.rule, {name: _plain(name, group[name]) for name in self.rule.settings})

    def _settings_of(self, number: int) -> dict[str, Any]:
        """Return the settings of a param group as they are now, or raise an error that names it."""
        with _naming(number):
            return self._check_settings(self.param_groups[number])

    @untraced
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a param group, with its ``penalty`` and its ``joint`` groups if it has them.

        Parameters
        ----------
        param_group : dict
            ``params`` and what differs from the defaults. The optimizer keeps a copy: what it changes later,
            as a strength that is driven, does not show in the dict.

        Raises
        ------
        TypeError, ValueError
            If a setting is not admissible, or the penalty does not fit the parameters. The message names the
            param group.
        """
        super().add_param_group(param_group)
        number = len(self.param_groups) - 1
        group = self.param_groups[number] = dict(param_group)
        whole = {name: group.get(name) for name in _WHOLE}
        noted = self.param_groups[0] if number else NOTED
        group.update({name: noted[name] for name in NOTED} | {"strength": None})
        try:
            check_group(group, f"param group {number}", self.rule.convex)
            with _naming(number):
                self._check_whole(whole)
                self._check_settings(group)
            if self._strength is not None:
                self._strength.read(self.param_groups)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        self._vanishing.open(self.param_groups[0]["steps"])

    def _check_whole(self, given: Mapping[str, Any]) -> None:
        """Raise an error if a param group has an argument of its own that holds for the whole optimizer."""
        target = None if self._strength is None else self._strength.target
        own = {"start": self.start, "root_finder": self.root_finder, "certify_every": self.certify_every}
        for name, value in own.items():
            if given[name] is not None and given[name] != value:
                raise ValueError(f"{name}: holds for all param groups; give it to {type(self).__name__}")
        if not isinstance(given["sparsity"], TargetSparsity):
            return
        if given["sparsity"] != target:
            raise ValueError(f"sparsity: holds for all param groups; give it to {type(self).__name__}")
        # An optimizer that shards others has put it there.
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            raise ValueError(
                "sparsity: drives one strength for the groups of all processes, but an optimizer that shards "
                "gives each process its own; use one optimizer of all parameters"
            )

    def set_strength(self, strength: float, group: int | None = None) -> None:
        """Set the strength λ of the penalties, as a schedule of one's own does between steps.

        Parameters
        ----------
        strength : float
            The new strength: that of :meth:`proxlab.Penalty.with_strength`, which leaves the shape of a
            penalty as it is.
        group : int, optional
            The param group whose penalty it is; by default all that have one.

        Raises
        ------
        TypeError, ValueError
            If the strength is not a number >= 0, there is no such penalty, or ``sparsity`` drives it.
        """
        if self._strength is not None:
            raise ValueError("strength: is driven by sparsity=, so it cannot be set")
        strength = check_number("strength", strength, 0.0)
        count = len(self.param_groups)
        if group is not None and (isinstance(group, bool) or group not in range(count)):
            raise ValueError(
                f"group: must be the number of a param group, below {count}, or None, got {group!r}"
            )
        chosen = range(count) if group is None else [group]
        found = [g for g in (self.param_groups[k] for k in chosen) if g["penalty"] is not None]
        if not found:
            raise ValueError("group: there is no penalty, so there is no strength to set")
        for g in found:
            g.update(penalty=g["penalty"].with_strength(strength), strength=strength)
        self._vanishing.open(self._steps)

    @untraced
    def state_dict(self) -> dict[str, Any]:
        """Return the state as numbers, strings and tensors.

        Of penalties and joint groups it has a description; they themselves, and root finders, are not in it.
        The tensors are those of the optimizer until its next step, which makes new ones.
        """
        saved = super().state_dict()
        # Steps replace what is in an entry.
        saved["state"] = {key: copy(entry) for key, entry in saved["state"].items()}
        for group in saved["param_groups"]:
            # A checkpoint that is flattened has to have every key of the optimizer's param groups.
            group.update({key: repr(group[key]) for key in _OBJECTS if key in group})
        self._lent = set(self.state)
        return saved

    @untraced
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state: of this optimizer, or of the optimizer of PyTorch that has the same state.

        The parameters may be divided into other param groups than they were: they are found by names, where
        both sides have some (``model.named_parameters()``, :func:`~proxlab.torch.param_groups`); of a single
        param group of all parameters of the model by their places there; otherwise by order. Penalties, joint
        groups and root finders stay as they are, and so do the tensors that are loaded.

        Parameters
        ----------
        state_dict : dict
            What ``state_dict`` returned.

        Raises
        ------
        TypeError, ValueError
            If the state is of other parameters or of another method, or a setting is not admissible. The
            message names the param group and the parameter; nothing has changed.
        """
        given: dict[str, Any] = {}
        before = self.param_groups

        def admit(_: Any, state: dict[str, Any]) -> dict[str, Any]:
            given.update(self._admitted(state))
            return given

        # Hooks of the user may change what is loaded; this one runs after them.
        handle = self.register_load_state_dict_pre_hook(admit)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        for old, new, saved in zip(before, self.param_groups, given["param_groups"], strict=True):
            for key, value in old.items():
                new.setdefault(key, value)
            for p, k in zip(new["params"], saved["params"], strict=True):
                if k in given["state"]:
                    # PyTorch rounds to the parameter's precision, and takes the tensors themselves.
                    self.state[p] = _copied(given["state"][k], p)
            if self._strength is None and new["strength"] is not None and new["penalty"] is not None:
                new["penalty"] = new["penalty"].with_strength(new["strength"])
        if self._strength is not None:
            self._strength.read(self.param_groups)

    def _admitted(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Return a saved state in the order of the param groups, or raise an error if it is not of them."""
        new = adapted(state_dict, self.param_groups, tuple(self.rule.settings))
        for number, (group, saved) in enumerate(zip(self.param_groups, new["param_groups"], strict=True)):
            with _naming(number):
                settings = self._check_settings({**group, **saved})
                check_noted({**group, **saved})
            for index, k in enumerate(saved["params"]):
                if k in new["state"]:
                    where = f"param group {number}"
                    new["state"][k] = check_entry(self.rule, settings, new["state"][k], group, index, where)
        return new

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {name: self.__dict__[name] for name in _PICKLED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("_lent", set())

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
        if self._strength is not None:
            self._strength.read(self.param_groups)
        if self._tolerance is not None:
            self._tolerance.iterations = self.param_groups[0]["iterations"]
        steps = self._steps + 1
        watch = self._watch if self._watch is not None and self._watch.due(steps) else None
        kept, self._kept = self._kept, None
        blocks = None if kept is None or watch is not None else self._others(kept, steps)
        ranks = None
        if blocks is None:
            kept = None
            ranks = Ranks.of(p for group in self.param_groups for p in group["params"])
            blocks = self._checked_blocks() if ranks is None else self._agreed_blocks(ranks, watch)
            if ranks is not None:
                self._start_together(blocks, ranks)
            if self._asks_for_state(blocks, ranks):
                self._make_state(blocks)
                return loss
        seen = self._vanishing.look(blocks, steps, kept) if self._strength is None else None
        record = self._take(blocks, steps, ranks, watch, kept)
        self._note(steps=steps)
        if record:
            self.history.append({"step": steps, **record})
        if seen is not None:
            self._vanishing.compare(seen, steps, self.state)
        return loss

    def _others(self, kept: Kept, steps: int) -> list[Block] | None:
        """Return the blocks of the step beside what is kept of the last one; None if that does not hold."""
        if self._lent or self._is_due(steps) or self._needs_problems(steps):
            return None
        conditions, given = self._conditions(), self._given_penalties()
        if not kept.holds(self.param_groups, given, self.state, conditions, self._settings_of):
            return None
        blocks = list(self._blocks(kept.rest))
        if blocks:
            states, slots = self._checked(blocks)
            apart = kept.is_apart_from(*spans_of(blocks, states, slots))
            # A step that changes who takes part is a long one.
            if not apart or any(self._is_fused(block) for block in blocks):
                return None
        return blocks

    def _conditions(self) -> tuple[Any, ...]:
        """Return what a step depends on beside param groups and state."""
        return self._steps + 1 >= self.start, self.fused, compiles()

    def _given_penalties(self) -> list[Penalty | None]:
        """Return the penalty of each param group, without the strength that it is driven to."""
        if self._strength is not None:
            return self._strength.given
        return [group["penalty"] for group in self.param_groups]

    def _needs_problems(self, steps: int) -> bool:
        """Say whether the points of all proxes of a step may decide on its strength."""
        count = steps - self.start + 1
        return self._strength is not None and count > 0 and self._strength.target.needs_problems(count)

    def _is_due(self, steps: int) -> bool:
        """Say whether a step is certified."""
        return self.certify_every is not None and steps % self.certify_every == 0

    def _take(
        self, blocks: list[Block], steps: int, ranks: Ranks | None, watch: Watch | None, kept: Kept | None
    ) -> dict[str, Any]:
        """Take a step; returns what the history says of it."""
        due = self._is_due(steps)
        record: dict[str, Any] = {}
        # Steps with the penalty.
        count = steps - self.start + 1
        target = None if self._strength is None or count < 1 else self._strength.target
        drive = target is not None and target.due(count)
        late = self._needs_problems(steps)
        lam = self._lam
        if drive and not late:
            record |= self._drive([], count, ranks)[0]
        driven = late or self._lam != lam

        def following(blocks: list[Block]) -> list[Block]:
            return [replace(b, follows=b.penalty is not None) for b in blocks] if driven else blocks

        blocks = following(blocks)
        if kept is not None and (not kept.follow() or any(self._is_fused(block) for block in blocks)):
            # A step that changes who takes part is a long one.
            kept, blocks = None, following(self._checked_blocks())
        whole = [block for block in blocks if not block.is_cut]
        starting = [block for block in whole if self._wants_dual(block)]
        before = {p: dict(self.state.get(p, {})) for block in starting for p in block.params}
        for block in starting:
            self._start_duals(block)
        try:
            # Where processes agree on a step, they have looked already.
            if ranks is None and (late or starting):
                self._check_finite(whole)
        except ValueError:
            for p, held in before.items():
                del self.state[p]["dual"]
                self.state[p].update(held)
                if not held:
                    del self.state[p]
            raise
        # Formed before the step, since a fused one does not tell.
        watched: list[BlockProblem] = []
        if watch is not None:
            watched = [self._problem(block) for block in blocks if not block.is_cut]
        cut = [
            CutProblem(block, [self._propose(p, block) for p in block.params])
            for block in blocks
            if block.is_cut
        ]
        fused: list[Block] = []
        others: list[Block] = []
        for block in whole:
            some = all(local(p).numel() > 0 for p in block.params)
            compiled = not (due or late) and self._is_fused(block) and some
            (fused if compiled else others).append(block)
        # One after the other, unless all are needed at once.
        problems: Iterable[BlockProblem] = (self._problem(block) for block in others)
        if late:
            problems = list(problems) if ranks is None else ranks.attempt(partial(list, problems))
            told, own = self._drive([*problems, *cut], count, ranks)
            record |= told if drive else {}
            follows = self._lam != lam

            def decided(p: P) -> P:
                block, penalty = p.block, own.get(p.block.key)
                if block.own is penalty and (follows or not block.follows):
                    return p
                return replace(p, block=replace(block, follows=block.follows and follows, own=penalty))

            problems, watched, cut = (
                [decided(p) for p in problems], [decided(p) for p in watched], [decided(p) for p in cut],
            )  # fmt: skip
        seen = {p.block.name: p.asked() for p in watched if p.is_open}
        if watch is not None and ranks is not None:
            found = {p.block.name: prox_problem(p, ranks) for p in cut if p.is_open}
            seen |= {name: asked for name, (share, asked) in found.items() if share.n_groups}
        if due:
            record |= self._certified(list(problems), cut, steps, ranks)
        elif ranks is None:
            self._take_own(others if not late else [], problems, fused, kept)
        else:
            # What fails here is told with the first of the sums, or by itself where there are none.
            ranks.bring(failure_of(lambda: self._take_own(others if not late else [], problems, fused, kept)))
            for part, new in zip(cut, solve(cut, ranks, self._finder()), strict=True):
                self._write(part, new)
            ranks.conclude()
        if seen and watch is not None:
            # The penalties are those of this step, whose strength may have been driven meanwhile.
            watch.see(steps, seen)
        return record

    def _take_own(
        self,
        checked: Sequence[Block],
        problems: Iterable[BlockProblem],
        fused: list[Block],
        kept: Kept | None,
    ) -> None:
        """Take the step of the groups that lie here whole."""
        self._check_finite(checked)
        if kept is not None:
            kept.step(self.root_finder)
            self._kept = kept
        elif fused:
            self._fused_steps(fused)
        for problem in problems:
            self._write(problem, problem.block.split(self._solve(problem, self._finder())))

    @property
    def _lam(self) -> float | None:
        """The strength that is driven to."""
        state = self.param_groups[0]["sparsity"]
        return None if state is None else float(state["lam"])

    def _problem(self, block: Block) -> BlockProblem:
        """Form the prox of a block."""
        # No prox would find it, and the moments would keep it.
        if block.rests and block.penalty is not None and any(map(_is_spoilt, block.params)):
            raise ValueError(f"{block.where}: its gradient must be finite")
        return BlockProblem.of(block, [self._propose(p, block) for p in block.params])

    def _check_finite(self, blocks: Sequence[Block]) -> None:
        """Raise the error of a prox whose gradient or state is not finite, before anything is written."""
        held: list[list[Tensor]] = []
        penalised = [block for block in blocks if block.penalty is not None]
        for block in penalised:
            slots = [slot.name for slot in self.rule.select(block.settings).slots]
            own = (self.state.get(p, {}).get(name) for p in block.params for name in slots)
            every = (*own, *(p.grad for p in block.params))
            held.append([local(a) for a in every if a is not None and local(a).numel()])
        # A norm is one pass, and finite only where all is; it may overflow.
        norms = torch._foreach_norm([a for own in held for a in own]) if any(held) else []
        finite = list(map(math.isfinite, map(Tensor.item, norms)))
        ends = accumulate(map(len, held))
        for block, tensors, end in zip(penalised, held, ends, strict=True):
            if not all(finite[end - len(tensors) : end]):
                self._solve(self._problem(block), self._finder())

    def _asks_for_state(self, blocks: list[Block], ranks: Ranks | None) -> bool:
        """Say whether a step is there to make the state exist, and not to be taken.

        So :mod:`torch.distributed.checkpoint` calls it: before the first step, at learning rate 0 and with
        gradients that are zero.
        """
        if not blocks or any(self.state.values()) or not all(block.rests for block in blocks):
            return False
        moves = any(
            p.grad is not None and bool(local(p.grad).any()) for block in blocks for p in block.params
        )
        return not any(any(told) for told in (alone if ranks is None else ranks.tell)([moves]))

    def _make_state(self, blocks: list[Block]) -> None:
        """Make the state from which the first step goes on."""
        for block in blocks:
            if self._wants_dual(block):
                self._start_duals(block)
            for p in block.params:
                self._save(p, self._slots(p, wide(p), block.settings), 0, 0.0)

    def _drive(
        self, problems: Sequence[BlockProblem | CutProblem], count: int, ranks: Ranks | None
    ) -> tuple[dict[str, float], dict[tuple[int, int | None], Penalty]]:
        """Decide on the strength of all penalties.

        Returns what the history says of it, and the penalties of the blocks whose strength is their own.
        """
        assert self._strength is not None
        asked: dict[tuple[int, int | None], tuple[BlockProblem | CutProblem, Penalty]] = {}
        for p in problems:
            given = self._strength.given[p.block.number]
            if p.is_asked and given is not None:
                asked[p.block.key] = p, given
        groups = all_moving(list(asked.values()), ranks) if asked else []
        resting = self._resting(asked) if asked else []
        told, strengths = self._strength.update(self.param_groups, count, groups, resting, self._sparsity)
        if strengths is None:
            return told, {}
        unit = self.param_groups[0]["sparsity"]["unit"]
        return told, {
            key: given.with_strength(given.strength * (lam / unit))
            for (key, (_, given)), lam in zip(asked.items(), strengths, strict=True)
        }

    def _resting(self, moving: Container[tuple[int, int | None]]) -> list[Resting]:
        """Return the penalised groups of all blocks but those that move, which are given by their keys."""
        layers: list[tuple[list[Tensor], list[Groups]]] = []
        uses = []
        for number, group in enumerate(self.param_groups):
            params, penalty, joint = group["params"], group["penalty"], group.get("joint")
            if penalty is None:
                continue
            if joint is not None:
                if (number, None) not in moving:
                    layers.append((params, list(joint)))
                    uses.append(uses_of(group, None))
            else:
                resting = [k for k in range(len(params)) if (number, k) not in moving]
                layers += [([params[k]], [penalty.groups]) for k in resting]
                uses += [uses_of(group, k) for k in resting]
        return [found._replace(uses=use) for found, use in zip(living(layers), uses, strict=True)]

    def _sparsity(self) -> float:
        assert self._strength is not None
        return self._strength.target.share(self._resting(()))

    def _blocks(self, chosen: Iterable[tuple[int, Iterable[int]]]) -> Iterator[Block]:
        """Go through those of some parameters, given by param groups, that have a gradient."""
        active = self._steps + 1 >= self.start
        for number, places in chosen:
            group, settings = self.param_groups[number], self._settings_of(number)
            check_kind(group["penalty"], f"param group {number}")
            live = [k for k in places if group["params"][k].grad is not None]
            for k in live:
                if group["params"][k].grad.is_sparse:
                    where = f"param group {number}, {name_parameter(group, k)}"
                    raise RuntimeError(f"{type(self).__name__} does not support sparse gradients; {where}")
            if "joint" in group:
                if live:
                    yield Block(number, group, settings, None, active)
            else:
                for k in live:
                    yield Block(number, group, settings, k, active)

    def _checked_blocks(self) -> list[Block]:
        """Return the blocks of a step, whose tensors fit and are apart."""
        whole = [(number, range(len(group["params"]))) for number, group in enumerate(self.param_groups)]
        blocks = list(self._blocks(whole))
        check_apart(blocks, *self._checked(blocks))
        return blocks

    def _checked(self, blocks: list[Block]) -> tuple[list[list[Any]], list[list[str]]]:
        """Return the states of the parameters of blocks and the names of what is used of them; all fit."""
        states = [[self.state.get(p, {}) for p in block.params] for block in blocks]
        slots = [[slot.name for slot in self.rule.select(block.settings).slots] for block in blocks]
        for block, own, names in zip(blocks, states, slots, strict=True):
            check_tensors(block, own, names, self.rule.averages)
        return states, slots

    def _agreed_blocks(self, ranks: Ranks, watch: Watch | None) -> list[Block]:
        """Return the blocks of a step that all processes are about to take; an error in one is one in all."""
        target = None if self._strength is None else self._strength.target
        tolerance = None if self._tolerance is None else self._tolerance.name
        does = (
            f"{type(self).__name__}, {self._steps}, {self.start}, {self.root_finder!r}, {target!r}, "
            f"{self._lam}, {self.certify_every}, {tolerance}"
        )

        def checked() -> list[Block]:
            blocks = self._checked_blocks()
            for block in blocks if self.fused else ():
                _ = block.is_cut or self._is_fused(block)
            return blocks

        blocks = agreed(
            ranks, self.param_groups, checked, _is_spoilt, "its gradient must be finite", does,
            watch is not None,
        )  # fmt: skip
        _align_gradients(blocks, ranks)
        return blocks

    def _start_duals(self, block: Block) -> None:
        """Give a block the dual variables that it starts from, a joint group as a whole."""
        joined = bregman.dual_start(
            block.penalty, block.join([wide(p) for p in block.params]), block.settings["delta"]
        )
        self._set_duals(block, block.split(joined))

    def _start_together(self, blocks: list[Block], ranks: Ranks) -> None:
        """Give blocks whose groups lie across processes the dual variables that they start from."""
        starting = [block for block in blocks if self._wants_dual(block) and block.is_cut]
        if starting:
            for block, duals in zip(starting, dual_starts(starting, ranks), strict=True):
                self._set_duals(block, duals)

    def _wants_dual(self, block: Block) -> bool:
        return self.rule.convex and not all("dual" in self.state.get(p, {}) for p in block.params)

    def _set_duals(self, block: Block, duals: list[Tensor]) -> None:
        for p, v in zip(block.params, duals, strict=True):
            self.state[p]["dual"] = like(torch.empty_like(wide(p)).copy_(v), p)

    def _propose(self, p: Tensor, block: Block) -> Proposal:
        w, state = wide(p), self.state.get(p, {})
        grad = torch.zeros_like(w) if p.grad is None else wide(p.grad)
        slots = tuple(self._slots(p, w, block.settings).values())
        t, carry = _count(state), float(state.get("weight_sum", 0.0))
        if self.fused is not False and compiles():
            from proxlab.torch.together import proposed

            found = proposed(self.rule, block.settings, w, grad, slots, t, carry)
            if found is not None:
                return found
        return self.rule.propose(block.settings, w, grad, slots, t, carry)

    def _slots(self, p: Tensor, w: Tensor, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the arrays of state of a parameter, new ones where there are none yet."""
        state = self.state.get(p, {})
        return {
            slot.name: local(state[slot.name]) if slot.name in state else _start(slot, w, settings)
            for slot in self.rule.select(settings).slots
        }

    def _is_fused(self, block: Block) -> bool:
        """Say whether the step of a block is one compiled pass; an error where it has to be and cannot."""
        if self.fused is False or block.rests:
            return False
        obstacle = self._obstacle(block)
        if obstacle and self.fused:
            raise RuntimeError(f"fused=True: {block.where} {obstacle}")
        return not obstacle

    def _fused_steps(self, blocks: list[Block]) -> None:
        """Do the step of blocks in compiled passes, and keep what was found out about them."""
        from proxlab.torch.together import Kept, Together

        members = [
            self._member(block, k if block.index is None else block.index, p)
            for block in blocks
            for k, p in enumerate(block.params)
        ]
        together = Together(self.rule, members)
        # Of a compiled pass it is the pass that costs, and not its iterations.
        together.step(self.root_finder, lambda m, carry: self._save(m.parameter, m.slots, m.t, carry))
        if Kept.can_be(together, self.state):
            given, conditions = self._given_penalties(), self._conditions()
            self._kept = Kept(together, self.param_groups, given, self.state, conditions)

    def _member(self, block: Block, place: int, p: Tensor) -> Member:
        """Return a parameter as compiled passes take it."""
        from proxlab.torch.together import Member

        assert p.grad is not None
        w, g, state = local(p).detach(), local(p.grad).detach(), self.state.get(p, {})
        slots = self._slots(p, wide(p), block.settings)
        if p in self._lent:
            slots = {name: a.clone() for name, a in slots.items()}
        if any(overlap(g, a) for a in (w, *slots.values())):
            g = g.clone()
        return Member(block, place, w, g, slots, _count(state), float(state.get("weight_sum", 0.0)))

    def _obstacle(self, block: Block) -> str:
        """Say why there is no compiled pass for a block; "" if there is one."""
        obstacles = [self._obstacle_of(p, block) for p in block.params]
        if any(obstacles):
            return next(filter(None, obstacles))
        if not compiles():
            return "cannot be compiled, since NUMBA_DISABLE_JIT is set"
        from proxlab.optim import fused_cpu, fused_layout

        params = [local(p).detach() for p in block.params]
        orders = [None if p.is_contiguous() else order_of(p) for p in params]
        shapes = [tuple(p.shape) for p in params]
        if block.index is not None:
            found = fused_layout.plan_of(block.penalty, shapes[0], orders[0]) is not None
            return "" if found else f"has a penalty without a compiled pass, {block.penalty!r}"
        counted = {
            (_count(state), float(state.get("weight_sum", 0.0)))
            for state in (self.state.get(p, {}) for p in block.params)
        }
        if len(counted) > 1:
            return "has parameters whose steps are counted differently"
        if not fused_cpu.applies_jointly(block.penalty, block.groups, shapes, orders):
            return f"has joint groups without a compiled pass, {block.penalty!r}"
        return ""

    def _obstacle_of(self, p: Tensor, block: Block) -> str:
        """Say why no compiled pass takes a parameter; "" if one may."""
        if not on_host(p):
            return f"is on {p.device}, not on the CPU"
        if p.grad is None:
            return "has a part without a gradient"
        order, state = order_of(local(p)), self.state.get(p, {})
        names = [slot.name for slot in self.rule.select(block.settings).slots]
        tensors = (p.grad, *(state[name] for name in names if name in state))
        if order is None or not all(local(a).permute(order).is_contiguous() for a in tensors):
            return "has gaps in memory, or its gradient or state lies in another order"
        if any(local(a).is_neg() for a in (p, *tensors)):
            return "is lazily negative, or its gradient or state is"
        if p.grad.dtype != p.dtype and p.dtype not in HALF:
            return f"has a gradient of {p.grad.dtype}"
        return ""

    def _finder(self) -> RootFinder:
        return self.root_finder if self._tolerance is None else self._tolerance.finder(self.root_finder)

    def _solve(self, problem: BlockProblem, finder: RootFinder) -> Tensor:
        """Solve the prox of a block; where there is none to solve, this is its point."""
        return as_tensor(problem.asked().prox(finder)) if problem.is_open else problem.x

    def _certified(
        self, problems: list[BlockProblem], cut: list[CutProblem], steps: int, ranks: Ranks | None
    ) -> dict[str, float]:
        """Solve and certify all proxes of a step before anything is written; returns the bounds."""
        asked = [p.asked(previous=True) for p in problems if p.is_open]
        counts = [ranks is None or counts_here(p.block.params[0], ranks.first) for p in problems if p.is_open]
        shares: list[Share] = []
        if ranks is not None:
            for share, own in (prox_problem(p, ranks, previous=True) for p in cut if p.is_open):
                shares.append(share)
                if share.n_groups:
                    asked.append(own)
                    counts.append(True)
        found, record = solve_certified(
            asked, steps, self.root_finder, self._tolerance, counts,
            *((alone, settled) if ranks is None else (ranks.tell, ranks.settle)),
        )  # fmt: skip
        if self._tolerance is not None:
            self._note(iterations=self._tolerance.iterations)
        solutions = iter(found)
        for problem in problems:
            z = as_tensor(next(solutions)) if problem.is_open else problem.x
            self._write(problem, problem.block.split(z))
        given = iter(shares)
        for part in cut:
            new = [q.x for q in part.proposals]
            if part.is_open:
                share = next(given)
                new = share.give(as_tensor(next(solutions)) if share.n_groups else share.rows[0])
            self._write(part, new)
        return record

    def _write(self, problem: BlockProblem | CutProblem, z: list[Tensor]) -> None:
        """Write the new weights of each parameter of a block, and its state."""
        block = problem.block
        keep = block.settings["momentum"] if self.rule.averages else 0.0
        names = [slot.name for slot in self.rule.select(block.settings).slots]
        for p, proposal, new in zip(block.params, problem.proposals, z, strict=True):
            if not block.rests:
                local(p).copy_(keep * wide(p) + (1.0 - keep) * new if keep else new)
            t = _count(self.state.get(p, {}))
            self._save(p, dict(zip(names, proposal.slots, strict=True)), t, proposal.carry)

    def _save(self, p: Tensor, slots: dict[str, Tensor], t: int, carry: float) -> None:
        """Keep the state after step ``t`` of a parameter: new tensors, or such that nobody else holds."""
        state = self.state[p]
        state["step"] = torch.tensor(float(t))
        if self.rule.averages:
            state["weight_sum"] = torch.tensor(carry, dtype=torch.float64)
        state.update({name: like(a, p) for name, a in slots.items()})
        self._lent.discard(p)


def _align_gradients(blocks: Sequence[Block], ranks: Ranks) -> None:
    """Divide gradients as their parameters are: a sum over processes, perhaps, so all do it in one order."""
    failure: Exception | None = None
    moved = False
    for block in blocks:
        for p in block.params:
            if p.grad is not None and not lies_alike(p.grad, p):
                # What comes of it may lie in any order.
                p.grad, moved = like(local(aligned(p.grad, p)).contiguous(), p), True
                if _is_spoilt(p):
                    failure = ValueError(f"{block.where}: its gradient must be finite, summed over processes")
    if moved:
        ranks.settle(failure)


def _is_spoilt(p: Tensor) -> bool:
    """Return whether the gradient of what of a parameter lies here is not finite."""
    return p.grad is not None and not bool(torch.isfinite(local(p.grad)).all())


def _count(state: Mapping[str, Any]) -> int:
    """Return the count of the next step of a parameter."""
    if "step" in state:
        return int(state["step"]) + 1
    # torch.optim.SGD keeps no count: its first step is the one without a buffer.
    return 2 if "momentum_buffer" in state else 1


def _copied(saved: Mapping[str, Any], p: Tensor) -> dict[str, Tensor]:
    """Copy a saved state of a parameter: arrays as its own are, numbers as exactly as they were."""
    new = {}
    for name, value in saved.items():
        if name == "step":
            new[name] = torch.tensor(float(value))
        elif name == "weight_sum":
            new[name] = torch.tensor(float(value), dtype=torch.float64)
        else:
            new[name] = like(torch.empty_like(wide(p)).copy_(local_part(value, p)), p)
    return new


@contextmanager
def _naming(number: int) -> Iterator[None]:
    """Let an error name the param group."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"param group {number}: {error}") from error


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
