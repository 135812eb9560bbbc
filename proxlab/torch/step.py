"""A step: the proxes that the rule asks for are formed, decided on, solved or certified, and written.

Where it may, a compiled pass does all that at once for the parameters that it takes; what it has found out
about them is kept for the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from proxlab.arguments import compiles
from proxlab.optim import bregman
from proxlab.optim.inexact import Tolerance, alone, solve_certified, thrown
from proxlab.optim.problem import ProxProblem, Watch
from proxlab.optim.rules import Proposal, Rule, rests
from proxlab.optim.sparsity import is_told_by_sums
from proxlab.penalties import Penalty
from proxlab.rootfinders import RootFinder
from proxlab.torch.cut import dual_starts, solve
from proxlab.torch.everyone import all_moving
from proxlab.torch.exchange import Share, prox_problem
from proxlab.torch.fitting import Fitting
from proxlab.torch.memory import check_apart, check_tensors, overlap, spans_of
from proxlab.torch.obstacles import obstacle
from proxlab.torch.problems import (
    Block,
    BlockProblem,
    CutProblem,
    Key,
    Proposals,
    as_tensor,
    check_range,
    name_parameter,
    not_finite,
    on_host,
    wide,
)
from proxlab.torch.ranks import Agreement, Ranks, agreed, failure_of, tried
from proxlab.torch.shards import aligned, counts_here, is_memory_of, lies_alike, like, local
from proxlab.torch.states import count, counted, slots_of
from proxlab.torch.strength import DrivenStrength
from proxlab.torch.vanishing import Vanishing
from proxlab.untraced import untraced

if TYPE_CHECKING:
    from proxlab.torch.together import Kept, Member, Moved, Together

__all__ = ["Stepper"]

P = TypeVar("P", BlockProblem, CutProblem)


class _Step(NamedTuple):
    """What is known of a step before it is taken.

    Attributes
    ----------
    steps : int
        Its count.
    penalised : int
        Its count among those with the penalty; below 1 before them.
    due : bool
        Whether it is certified.
    drives, late : bool
        Whether it decides on the strength, and whether that takes the points of its proxes.
    ranks : Ranks or None
        The processes that take it together.
    watch : Watch or None
        Who looks at its proxes.
    watched : bool
        Whether anybody does, perhaps in another process.
    proposals : dict
        What the update rule asks for, by the keys of the blocks whose groups are cut over processes.
    """

    steps: int
    penalised: int
    due: bool
    drives: bool
    late: bool
    ranks: Ranks | None
    watch: Watch | None
    watched: bool
    proposals: Proposals


class _Own(NamedTuple):
    """What of a step does not lie across processes.

    Attributes
    ----------
    fused, others : list of Block
        The blocks that a compiled pass takes, and those that have a prox each.
    watched : list of BlockProblem
        The proxes, where they are looked at: formed before the step, since a compiled pass does not tell.
    """

    fused: list[Block]
    others: list[Block]
    watched: list[BlockProblem]


class Stepper(torch.optim.Optimizer):
    """An optimizer that takes steps; what settings and states may be is checked by who makes it."""

    #: The update rule (:mod:`proxlab.optim.rules`).
    rule: Rule
    start: int
    root_finder: RootFinder
    fused: bool | None
    certify_every: int | None
    history: list[dict[str, Any]]
    # What the last step has found out about parameters that compiled passes take.
    _kept: Kept | None = None
    # Who looks at the proxes of the steps, if anybody does.
    _watch: Watch | None = None
    # What the last step has raised in this process when it was done.
    _failure: Exception | None = None
    _strength: DrivenStrength | None
    _tolerance: Tolerance | None
    _vanishing: Vanishing
    _fitting: Fitting
    # Parameters whose state somebody else may hold: it is not changed in place.
    _lent: set[Tensor]

    def _settings_of(self, number: int) -> dict[str, Any]:
        """Return the settings of a param group as they are now, or raise an error that names it."""
        raise NotImplementedError

    @property
    def _steps(self) -> int:
        """How many steps there were: kept in the param groups, as all that has to last."""
        return int(self.param_groups[0]["steps"])

    def _note(self, **numbers: Any) -> None:
        for group in self.param_groups:
            group.update(numbers)

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
            try:
                with torch.enable_grad():
                    loss = closure()
            except Exception as error:
                if Ranks.of(p for group in self.param_groups for p in group["params"]) is None:
                    raise
                # All are told when they agree on the step, for which the others wait.
                self._failure, self._kept = error, None
        if self._tolerance is not None:
            self._tolerance.iterations = self.param_groups[0]["iterations"]
        steps = self._steps + 1
        watch = self._watch if self._watch is not None and self._watch.due(steps) else None
        kept, self._kept = self._kept, None
        if kept is not None:
            self._read_strength()
        blocks = None if kept is None or watch is not None else self._others(kept, steps)
        ranks, agreement = None, Agreement(blocks or [], {}, watch is not None)
        if blocks is None:
            if kept is not None:
                kept.conclude()
            kept = None
            ranks = Ranks.of(p for group in self.param_groups for p in group["params"])
            agreement = self._agreement(ranks, watch)
        blocks = agreement.blocks
        with self._undone(blocks):
            if kept is None and self._asks_for_state(blocks, ranks):
                self._make_state(blocks, ranks)
                return loss
            how, lam = self._step_of(steps, ranks, watch, agreement), self._lam
            record: dict[str, Any] = {}
            if how.drives and not how.late:
                # Dual variables start from the strength of this step.
                record |= self._drive([], how.penalised, ranks)[0]
            driven = how.late or self._lam != lam
            if ranks is not None:
                how = how._replace(proposals=self._completed(agreement, ranks).proposals or {})
            seen = self._vanishing.look(blocks, steps, kept) if self._strength is None else None
            record |= self._take(how, _following(blocks, driven), kept, driven)
        self._note(steps=steps)
        if record:
            self.history.append({"step": steps, **record})
        if seen is not None:
            compare = partial(self._vanishing.compare, seen, steps, self.state)
            if ranks is None:
                compare()
            else:
                # Where warnings are errors, it is one in all processes: in the next step, this one is done.
                self._failure = failure_of(compare)
        return loss

    def _read_strength(self) -> None:
        """Take penalties that were set since the last step as given, where a strength is driven."""
        if self._strength is not None:
            self._strength.read(self.param_groups)

    def _step_of(self, steps: int, ranks: Ranks | None, watch: Watch | None, agreement: Agreement) -> _Step:
        count, target = steps - self.start + 1, None if self._strength is None else self._strength.target
        drives = target is not None and count > 0 and target.due(count)
        return _Step(
            steps, count, self._is_due(steps), drives, self._needs_problems(steps), ranks, watch,
            agreement.watched, agreement.proposals or {},
        )  # fmt: skip

    def _others(self, kept: Kept, steps: int) -> list[Block] | None:
        """Return the blocks of the step beside what is kept of the last one; None if that does not hold."""
        if self._lent or self._is_due(steps):
            return None
        conditions, given = self._conditions(), self._given_penalties()
        if not kept.holds(self.param_groups, given, self.state, conditions, self._settings_of):
            return None
        blocks = list(self._blocks(kept.rest))
        if blocks:
            states, slots = self._checked(blocks)
            apart = kept.is_apart_from(*spans_of(blocks, states, slots))
            # A step that changes who takes part is a long one.
            if not apart or any(self._fits(block) for block in blocks):
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

    def _take(self, how: _Step, blocks: list[Block], kept: Kept | None, driven: bool) -> dict[str, Any]:
        """Take a step, whose strength is ``driven`` or may be yet; returns what the history says of it."""
        ranks, lam = how.ranks, self._lam
        record: dict[str, Any] = {}
        told: list[Moved] | None = None
        if kept is not None:
            # A step that changes who takes part is a long one.
            holds = not any(self._fits(block) for block in blocks)
            if holds and how.late:
                told = self._told(kept)
            if not holds or (told is None if how.late else not kept.follow()):
                kept.conclude()
                kept, blocks = None, _following(self._checked_blocks(), driven)
        whole = [block for block in blocks if not block.is_cut]
        # What fails here is told with the first of the sums, or by itself where there are none.
        fused, others, watched = tried(ranks, lambda: self._own(whole, how), _Own([], [], []))
        cut = [CutProblem(b, how.proposals[b.key]) for b in blocks if b.is_cut]
        together = None
        if how.late and fused:
            together = self._together(fused)
            told = self._told(together)
            if told is None:
                together, fused, others = None, [], whole
        # One after the other, unless all are needed at once.
        problems: Iterable[BlockProblem] = (self._problem(block) for block in others)
        if how.late:
            problems = list(problems) if ranks is None else ranks.attempt(partial(list, problems))
            said, own = self._drive([*problems, *cut], how.penalised, ranks, told or [])
            record |= said if how.drives else {}
            moved = self._lam != lam
            passes = together if kept is None else kept
            if passes is not None and not passes.decide(own):
                # They have groups, and a strength of zero makes them none.
                known, fused, together, kept = {p.block.key for p in problems}, [], None, None
                left = [b for b in _following(self._checked_blocks(), driven) if b.key not in known]
                problems = [*problems, *map(self._problem, left)]
            problems, watched, cut = (
                _decided(problems, own, moved), _decided(watched, own, moved), _decided(cut, own, moved),
            )  # fmt: skip
        if how.watched:
            self._show(watched, cut, how)
        if how.due:
            record |= self._certified(tried(ranks, partial(list, problems), []), cut, how.steps, ranks)
            return record
        checked = [] if how.late else others
        tried(ranks, lambda: self._take_own(checked, problems, fused, kept, together), None)
        if ranks is not None:
            for part, new in zip(cut, solve(cut, ranks, self._finder()), strict=True):
                self._write(part, new)
        return record

    @contextmanager
    def _undone(self, blocks: list[Block]) -> Iterator[None]:
        """Where a step fails, forget the dual variables that it started and the strength that it chose."""
        before = {p: dict(self.state.get(p, {})) for b in blocks if self._wants_dual(b) for p in b.params}
        strength = self.param_groups[0]["sparsity"]
        try:
            yield
        except Exception:
            for p, held in before.items():
                # A step that is taken counts in a new tensor.
                if p in self.state and self.state[p].get("step") is held.get("step"):
                    self.state[p].pop("dual", None)
                    self.state[p].update(held)
                    if not held:
                        del self.state[p]
            if self._strength is not None:
                self._strength.restore(self.param_groups, strength)
            raise

    def _own(self, whole: list[Block], how: _Step) -> _Own:
        """Prepare the step of the groups that lie here whole."""
        starting = [block for block in whole if self._wants_dual(block)]
        for block in starting:
            self._start_duals(block)
        # Where processes agree on a step, they have looked at gradients already.
        if how.watch is not None or (how.ranks is None and (how.late or starting)):
            self._check_finite(whole)
        fused: list[Block] = []
        others: list[Block] = []
        # Who decides or looks together with others takes all proxes.
        alone = how.ranks is None and not how.watched
        for block in whole:
            some = all(local(p).numel() > 0 for p in block.params)
            takes = alone and self._may_tell(block) if how.late else not how.due and self._is_fused(block)
            (fused if takes and some and not how.due else others).append(block)
        return _Own(fused, others, [] if how.watch is None else [self._problem(block) for block in whole])

    def _told(self, passes: Kept | Together) -> list[Moved] | None:
        """Return what passes tell of the groups of a step that decides on the strength."""
        assert self._strength is not None
        by_use = self._strength.target.budget == "flops"
        return passes.tell(self.root_finder, self._strength.given, by_use)

    def _may_tell(self, block: Block) -> bool:
        """Say whether the compiled pass of a block tells of its groups before it is taken."""
        given = self._given_penalties()[block.number]
        told = given is None or is_told_by_sums(given)
        here = all(on_host(p) for p in block.params)
        return told and here and not rests(block.settings) and self._fits(block)

    def _show(self, watched: list[BlockProblem], cut: list[CutProblem], how: _Step) -> None:
        """Show the proxes of a step to who watches, before anything is written.

        The penalties are those of this step, whose strength may have been driven meanwhile.
        """
        nothing: dict[str, ProxProblem] = {}
        seen = tried(how.ranks, lambda: {p.block.name: p.asked() for p in watched if p.is_open}, nothing)
        watch = how.watch
        if watch is not None and how.ranks is not None:
            for p in cut:
                if p.is_open:
                    share, asked = prox_problem(p, how.ranks)
                    seen |= {p.block.name: asked} if share.n_groups else {}
        tried(how.ranks, lambda: watch.see(how.steps, seen) if seen and watch is not None else None, None)
        if how.ranks is not None:
            how.ranks.conclude()

    def _take_own(
        self,
        checked: Sequence[Block],
        problems: Iterable[BlockProblem],
        fused: list[Block],
        kept: Kept | None,
        together: Together | None = None,
    ) -> None:
        """Take the step of the groups that lie here whole."""
        self._check_finite(checked)
        if kept is not None:
            kept.step(self.root_finder)
            self._kept = kept
        elif fused:
            self._fused_steps(self._together(fused) if together is None else together)
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
        if rests(block.settings) and block.penalty is not None and any(map(_is_spoilt, block.params)):
            raise ValueError(f"{block.where}: its gradient must be finite")
        with block.named():
            return BlockProblem.of(block, [self._propose(p, block) for p in block.params])

    def _check_finite(self, blocks: Sequence[Block]) -> None:
        """Raise the error of a prox whose gradient or state is not finite, before anything is written."""
        if not blocks:
            return
        held: list[tuple[Block, Tensor]] = []
        for block in blocks:
            if block.penalty is not None:
                slots = [slot.name for slot in self.rule.select(block.settings).slots]
                own = (self.state.get(p, {}).get(name) for p in block.params for name in slots)
                every = (*own, *(p.grad for p in block.params))
                held += [(block, local(a)) for a in every if a is not None]
        # On a GPU values are not checked unless one asks.
        for block in {held[k][0]: None for k in not_finite([a for _, a in held])}:
            problem = self._problem(block)
            if problem.is_open:
                problem.asked().prox(self._finder(), check=True)

    def _asks_for_state(self, blocks: list[Block], ranks: Ranks | None) -> bool:
        """Say whether a step is there to make the state exist, and not to be taken.

        So :mod:`torch.distributed.checkpoint` calls it: before the first step, at learning rate 0 and with
        gradients that are zero.
        """
        if not blocks or not all(block.rests for block in blocks):
            return False
        moves = any(self.state.values()) or any(
            p.grad is not None and bool(local(p.grad).any()) for block in blocks for p in block.params
        )
        return not any(any(told) for told in (alone if ranks is None else ranks.tell)([moves]))

    def _make_state(self, blocks: list[Block], ranks: Ranks | None) -> None:
        """Make the state from which the first step goes on."""

        def make() -> None:
            for block in blocks:
                if self._wants_dual(block):
                    self._start_duals(block)
            for block in blocks:
                for p in block.params:
                    self._save(p, slots_of(self.rule, self.state, p, wide(p), block.settings), 0, 0.0)

        if ranks is None:
            make()
        else:
            self._start_together(blocks, ranks)
            ranks.attempt(make)

    def _drive(
        self,
        problems: Sequence[BlockProblem | CutProblem],
        count: int,
        ranks: Ranks | None,
        told: Sequence[Moved] = (),
    ) -> tuple[dict[str, float], dict[Key, Penalty]]:
        """Decide on the strength of all penalties, from proxes and from what passes have ``told`` of others.

        Returns what the history says of it, and the penalties of the blocks whose strength is their own.
        """
        assert self._strength is not None
        asked: list[tuple[BlockProblem | CutProblem, Penalty]] = []
        for p in problems:
            given = self._strength.given[p.block.number]
            if p.is_asked and given is not None:
                asked.append((p, given))
        groups = [*(all_moving(asked, ranks) if asked else []), *[moved.groups for moved in told]]
        penalties = {p.block.key: given for p, given in asked} | {m.key: m.given for m in told}
        return self._strength.update(self.param_groups, count, groups, penalties)

    def _blocks(self, chosen: Iterable[tuple[int, Iterable[int]]]) -> Iterator[Block]:
        """Go through those of some parameters, given by param groups, that have a gradient."""
        active = self._steps + 1 >= self.start
        for number, places in chosen:
            group, settings = self.param_groups[number], self._settings_of(number)
            self._fitting.check(number, group, self._given_penalties()[number], self.rule.convex)
            live = [k for k in places if group["params"][k].grad is not None]
            for k in live:
                if group["params"][k].grad.is_sparse:
                    where = f"param group {number}, {name_parameter(group, k)}"
                    raise RuntimeError(f"{type(self).__name__} does not support sparse gradients; {where}")
            if group.get("joint") is not None:
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
            self._check_steps(block, own)
        return states, slots

    def _check_steps(self, block: Block, states: Sequence[Mapping[str, Any]]) -> None:
        """Raise an error if the parameters of a block, which have one prox, ask for it with other steps."""
        counts = list(map(counted, states))
        if len(set(counts)) > 1:
            steps = {self.rule.coefficients(block.settings, t, carry).step for t, carry in counts}
            if len(steps) > 1:
                raise ValueError(
                    f"{block.where}: the parameters must have made as many steps, got "
                    f"{[t - 1 for t, _ in counts]}: the step of their prox is not the same"
                )

    def _agreement(self, ranks: Ranks | None, watch: Watch | None) -> Agreement:
        """Return what all processes are about to do; an error in one is one in all."""
        if ranks is None:
            self._read_strength()
            return Agreement(self._checked_blocks(), {}, watch is not None)

        def checked() -> tuple[list[Block], Proposals | None]:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
            self._read_strength()
            blocks = self._checked_blocks()
            for block in blocks if self.fused else ():
                _ = block.is_cut or self._is_fused(block)
            return blocks, self._proposals(blocks) if self._is_ready(blocks) else None

        return agreed(
            ranks, self.param_groups, checked, _is_spoilt, "its gradient must be finite", self._says(),
            self._holds, watch is not None,
        )  # fmt: skip

    def _says(self) -> str:
        """Return what all processes have to be about to do alike."""
        target = None if self._strength is None else self._strength.target
        tolerance = None if self._tolerance is None else self._tolerance.name
        return (
            f"{type(self).__name__}, {self._steps}, {self.start}, {self.root_finder!r}, {target!r}, "
            f"{self._lam}, {self.certify_every}, {tolerance}"
        )

    def _holds(self, block: Block) -> str:
        """Return what all processes have to hold alike of a block whose groups are cut."""
        states = [self.state.get(p, {}) for p in block.params] if block.is_cut else []
        return f"{[(sorted(state), counted(state)) for state in states]}"

    def _is_ready(self, blocks: list[Block]) -> bool:
        """Say whether processes have nothing to do together before update rules can ask for proxes."""
        return not any(
            (block.is_cut and self._wants_dual(block))
            or any(p.grad is not None and not lies_alike(p.grad, p) for p in block.params)
            for block in blocks
        )

    def _proposals(self, blocks: list[Block]) -> Proposals:
        """Return what the update rule asks for, for the blocks whose groups are cut over processes."""
        found = {}
        for block in blocks:
            if block.is_cut:
                with block.named():
                    found[block.key] = [self._propose(p, block) for p in block.params]
        return found

    def _completed(self, agreement: Agreement, ranks: Ranks) -> Agreement:
        """Return an agreement with what update rules ask for; what that needs is done together."""
        if agreement.proposals is not None:
            return agreement
        _align_gradients(agreement.blocks, ranks)
        self._start_together(agreement.blocks, ranks)
        return agreement._replace(proposals=ranks.attempt(lambda: self._proposals(agreement.blocks)))

    def _start_duals(self, block: Block) -> None:
        """Give a block the dual variables that it starts from, a joint group as a whole."""
        with block.named():
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
        slots = tuple(slots_of(self.rule, self.state, p, w, block.settings).values())
        t, carry = counted(state)
        if self.fused is not False and compiles():
            from proxlab.torch.together import proposed

            found = proposed(self.rule, block.settings, w, grad, slots, t, carry)
            if found is not None:
                return found
        return self.rule.propose(block.settings, w, grad, slots, t, carry)

    def _fits(self, block: Block) -> bool:
        """Say whether a compiled pass takes the step of a block."""
        return self.fused is not False and not block.rests and not self._obstacle(block)

    def _obstacle(self, block: Block) -> str:
        return obstacle(self.rule, self.state, block, self.root_finder)

    def _is_fused(self, block: Block) -> bool:
        """As :meth:`_fits`; an error where one has to and cannot."""
        fits = self._fits(block)
        if self.fused and not fits and not block.rests:
            raise RuntimeError(f"fused=True: {block.where} {self._obstacle(block)}")
        return fits

    def _together(self, blocks: list[Block]) -> Together:
        """Put blocks together as compiled passes take them."""
        from proxlab.torch.together import Together

        members = [
            self._member(block, k if block.index is None else block.index, p)
            for block in blocks
            for k, p in enumerate(block.params)
        ]
        return Together(self.rule, members)

    def _fused_steps(self, together: Together) -> None:
        """Do the step of blocks in compiled passes, and keep what was found out about them."""
        from proxlab.torch.together import Kept

        # Of a compiled pass it is the pass that costs, and not its iterations.
        together.step(self.root_finder, lambda m, carry: self._save(m.parameter, m.slots, m.t, carry))
        if Kept.can_be(together, self.state):
            given, conditions = self._given_penalties(), self._conditions()
            self._kept = Kept(together, self.param_groups, given, self.state, conditions)
        else:
            together.conclude()

    def _member(self, block: Block, place: int, p: Tensor) -> Member:
        """Return a parameter as compiled passes take it."""
        from proxlab.torch.together import Member

        w, state = local(p).detach(), self.state.get(p, {})
        # A part of a joint group without one.
        g = torch.zeros_like(w) if p.grad is None else local(p.grad).detach()
        slots = slots_of(self.rule, self.state, p, wide(p), block.settings)
        if p in self._lent:
            slots = {name: a.clone() for name, a in slots.items()}
        if any(overlap(g, a) for a in (w, *slots.values())):
            g = g.clone()
        return Member(block, place, w, g, slots, *counted(state))

    def _finder(self) -> RootFinder:
        return self.root_finder if self._tolerance is None else self._tolerance.finder(self.root_finder)

    def _solve(self, problem: BlockProblem, finder: RootFinder) -> Tensor:
        """Solve the prox of a block; where there is none to solve, this is its point."""
        return as_tensor(problem.asked().prox(finder)) if problem.is_open else problem.x

    def _certified(
        self, problems: list[BlockProblem], cut: list[CutProblem], steps: int, ranks: Ranks | None
    ) -> dict[str, float]:
        """Solve and certify all proxes of a step before anything is written; returns the bounds."""
        some = [p for p in problems if p.is_open]

        def rounds(p: BlockProblem | CutProblem) -> bool:
            # An average is not the prox.
            return not (self.rule.averages and p.block.settings["momentum"] > 0.0)

        def ask() -> list[ProxProblem]:
            return [p.asked(previous=True, rounds=rounds(p)) for p in some]

        asked = tried(ranks, ask, list[ProxProblem]())
        counts = [ranks is None or counts_here(p.block.params[0], ranks.first) for p in some[: len(asked)]]
        shares: list[Share] = []
        if ranks is not None:
            for part in filter(attrgetter("is_open"), cut):
                share, own = prox_problem(part, ranks, previous=True, rounds=rounds(part))
                shares.append(share)
                if share.n_groups:
                    asked.append(own)
                    counts.append(True)
        found, record = solve_certified(
            asked, steps, self.root_finder, self._tolerance, counts,
            *((alone, thrown) if ranks is None else (ranks.tell, ranks.bring)),
        )  # fmt: skip
        solutions = iter(found)
        whole = [as_tensor(next(solutions)) if p.is_open else p.x for p in problems]
        given = [
            share.give(as_tensor(next(solutions)) if share.n_groups else share.rows[0]) for share in shares
        ]
        if self._tolerance is not None:
            self._note(iterations=self._tolerance.iterations)
        for problem, z in zip(problems, whole, strict=True):
            self._write(problem, problem.block.split(z))
        rows = iter(given)
        for part in cut:
            self._write(part, next(rows) if part.is_open else [q.x for q in part.proposals])
        return record

    def _write(self, problem: BlockProblem | CutProblem, z: list[Tensor]) -> None:
        """Write the new weights of each parameter of a block, and its state."""
        block = problem.block
        keep = block.settings["momentum"] if self.rule.averages else 0.0
        names = [slot.name for slot in self.rule.select(block.settings).slots]
        for p, proposal, new in zip(block.params, problem.proposals, z, strict=True):
            if not block.rests:
                new = keep * wide(p) + (1.0 - keep) * new if keep else new
                if block.penalty is not None:
                    check_range([new], p.dtype, lambda _: f"{block.where}: ")
                local(p).copy_(new)
            t = count(self.state.get(p, {}))
            self._save(p, dict(zip(names, proposal.slots, strict=True)), t, proposal.carry)

    def _save(self, p: Tensor, slots: dict[str, Tensor], t: int, carry: float) -> None:
        """Keep the state after step ``t`` of a parameter: new tensors, or such that nobody else holds."""
        state = self.state[p]
        state["step"] = torch.tensor(float(t))
        if self.rule.averages:
            state["weight_sum"] = torch.tensor(carry, dtype=torch.float64)
        # What was written in place is there.
        state.update({name: like(a, p) for name, a in slots.items() if not is_memory_of(a, state.get(name))})
        self._lent.discard(p)


def _following(blocks: list[Block], driven: bool) -> list[Block]:
    """Return blocks as they are where a step has decided on the strength."""
    return [replace(b, follows=b.penalty is not None) for b in blocks] if driven else blocks


def _decided(problems: Iterable[P], own: Mapping[Key, Penalty], moved: bool) -> list[P]:
    """Return problems with the penalties of their own; blocks follow a strength only if it has moved."""
    decided = []
    for p in problems:
        block, penalty = p.block, own.get(p.block.key)
        if block.own is not penalty or (block.follows and not moved):
            p = replace(p, block=replace(block, follows=block.follows and moved, own=penalty))
        decided.append(p)
    return decided


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
