"""The parameters that compiled passes take, together: found once, and held to be the same in later steps.

Parameter by parameter, Python would cost more than the pass itself. So what a step has found out (which
tensors there are, that they fit and are apart, how their groups lie) is kept, and the next one only compares:
objects by identity, and addresses, shapes, strides and types as lists, each made in one call. Where anything
differs, the step is taken the long way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter, is_, itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from proxlab.optim import fused_arrays, fused_cpu
from proxlab.optim.rules import Proposal, Rule, rests
from proxlab.optim.sparsity import Moving
from proxlab.penalties import Penalty
from proxlab.rootfinders import RootFinder
from proxlab.torch.launched import Launched
from proxlab.torch.memory import Spans, is_apart, order_of
from proxlab.torch.problems import Block, Key, check_range, norms, on_host, read_all, uses_of
from proxlab.torch.vanishing import Looked
from proxlab.torch.widened import Widened, batches, is_half, scratch_of

__all__ = ["Kept", "Member", "Moved", "Together", "proposed"]

_gradient = attrgetter("grad")
_dtype = attrgetter("dtype")
_kind = attrgetter("dtype", "device", "layout")
# Parameters of other classes may mean something by their memory.
_PLAIN = (Tensor, nn.Parameter)
# What compiled passes take.
_NUMBERS = {torch.float32: np.float32, torch.float64: np.float64}
_FLOATS = tuple(_NUMBERS)


class Member(NamedTuple):
    """A parameter in a step.

    Attributes
    ----------
    block : Block
        It alone, or all that it shares its groups with.
    place : int
        Its place in the param group.
    weights, gradient : Tensor
        What of them lies in this process; not empty. Of weights in half precision the gradient may be so too.
    slots : dict of str to Tensor
        Its state, in single precision then. All lie in memory in the same order without gaps.
    t : int
        The count of this step.
    carry : float
        As :meth:`proxlab.optim.rules.Rule.propose` takes it.
    """

    block: Block
    place: int
    weights: Tensor
    gradient: Tensor
    slots: dict[str, Tensor]
    t: int
    carry: float

    @property
    def parameter(self) -> Tensor:
        """The parameter."""
        found: Tensor = self.block.group["params"][self.place]
        return found


class _Share(NamedTuple):
    """The members that one batch takes, by their numbers, and the copies that it takes for them, if any."""

    batch: fused_cpu.Batch | Launched
    chosen: list[int]
    widened: Widened | None


class _How(NamedTuple):
    """The arguments of a batch's step."""

    settings: Mapping[str, Any]
    t: int
    carry: float
    finder: RootFinder
    where: Callable[[int], str]


class _Members(NamedTuple):
    """What of the weights and gradients of all members lies here."""

    weights: Sequence[Tensor]
    gradients: Sequence[Tensor]

    def read(self, share: _Share) -> None:
        """Copy those of a batch, where it takes copies."""
        if share.widened is not None:
            chosen = share.chosen
            share.widened.read([self.weights[k] for k in chosen], [self.gradients[k] for k in chosen])


class Moved(NamedTuple):
    """A block that a pass takes, the penalty that it was given, and its groups."""

    key: Key
    given: Penalty
    groups: Moving


def _look(shares: Sequence[_Share], hows: Sequence[_How], members: _Members) -> None:
    """Look at the gradients of all batches; nothing changes."""
    there: list[tuple[Launched, _Share, _How]] = []
    for share, how in zip(shares, hows, strict=True):
        if isinstance(share.batch, Launched):
            if share.batch.penalty is not None:
                there.append((share.batch, share, how))
        else:
            members.read(share)
            share.batch.look(*how)
    if there:
        _look_there(there, members.gradients)


def _look_there(there: Sequence[tuple[Launched, _Share, _How]], gradients: Sequence[Tensor]) -> None:
    """Look at the gradients of batches on a GPU, and at what their last step has said, with one wait."""
    some = [gradients[k] for _, share, _ in there for k in share.chosen]
    values = read_all([*(batch.bad for batch, _, _ in there), *norms(some)])
    for (batch, _, how), bad in zip(there, values, strict=False):
        _check_last(batch, how.where(0) if bad else "", bad)
    if all(map(math.isfinite, values)):
        return
    whose = [(how, j) for _, share, how in there for j in range(len(share.chosen))]
    for (how, j), g, norm in zip(whose, some, values[len(there) :], strict=True):
        if not math.isfinite(norm) and not bool(torch.isfinite(g).all()):
            raise ValueError(f"{how.where(j)}its gradient must be finite")


def _check_last(batch: Launched, where: str, bad: float) -> None:
    """Raise an error if the last step of a batch on a GPU met what no prox has."""
    if bad:
        batch.bad.zero_()
        raise ValueError(
            f"{where}in the step before, of this parameter or one that was stepped with it, the prox's point "
            "was not finite, or its metric not finite and > 0"
        )


def _conclude(shares: Sequence[_Share], blocks: Sequence[Block]) -> None:
    """Raise the error of the last step of batches on a GPU, waiting for it."""
    for share in shares:
        if isinstance(share.batch, Launched) and share.batch.penalty is not None:
            _check_last(share.batch, f"{blocks[share.chosen[0]].where}: ", float(share.batch.bad))


def _tell(
    shares: Sequence[_Share],
    hows: Sequence[_How],
    members: _Members,
    blocks: Sequence[Block],
    given: Sequence[Penalty | None],
    by_use: bool,
) -> list[Moved] | None:
    """Look at the gradients of all batches, and at the groups of the points of the step.

    Nothing changes. None where sums over the groups do not tell of all of them.
    """
    told: list[Moved] = []
    here = [share.batch for share in shares if not isinstance(share.batch, Launched)]
    if len(here) < len(shares):
        # On a GPU no pass looks at groups before a step.
        return None
    for share, batch, how in zip(shares, here, hows, strict=True):
        some = [blocks[k] for k in share.chosen[: len(batch)]]
        penalty = None if some[0].penalty is None else given[some[0].number]
        members.read(share)
        if penalty is None:
            batch.look(*how)
            continue
        strengths = batch.tell(penalty, *how)
        if strengths is None:
            return None
        places, sizes = batch.places.tolist(), batch.group_sizes
        # Of most targets nobody asks.
        uses = [uses_of(b.group, b.index) for b in some] if by_use else [None] * len(some)
        told += [
            Moved(block.key, penalty, Moving(strengths[a:b], sizes[a:b], use))
            for block, a, b, use in zip(some, places, places[1:], uses, strict=False)
        ]
    return told


def _decide(shares: Sequence[_Share], blocks: Sequence[Block], own: Mapping[Key, Penalty]) -> bool:
    """Take the strengths that penalties have now, or blocks for themselves; returns whether passes do."""
    for share in shares:
        some = [blocks[k] for k in share.chosen] if own else []
        apart = {j: own[block.key] for j, block in enumerate(some) if block.key in own}
        if not share.batch.follow(blocks[share.chosen[0]].penalty, apart):
            return False
    return True


def _passes(shares: Sequence[_Share], hows: Sequence[_How], members: _Members, looked: bool) -> list[float]:
    """Take the steps of all batches, at whose gradients has been looked or not; returns the carry of each."""
    if not looked:
        _look(shares, hows, members)
    # No gradient is an error any more. None of the weights may pass for what a forward pass has seen.
    torch.autograd.graph.increment_version(members.weights)
    again = sum(share.widened is not None for share in shares) > 1
    carries = []
    for share, how in zip(shares, hows, strict=True):
        if again or isinstance(share.batch, Launched):
            # The scratch is that of all, and a look at gradients on a GPU takes no copies.
            members.read(share)
        if isinstance(share.batch, Launched):
            carries.append(share.batch.step(*how[:4]))
        else:
            carries.append(share.batch.step(*how))
        if share.widened is not None:
            weights = [members.weights[k] for k in share.chosen]
            if share.batch.penalty is not None:
                check_range(share.widened.weights, weights[0].dtype, how.where)
            share.widened.write(weights)
    return carries


class Together:
    """The parameters of a step that compiled passes take.

    Parameters
    ----------
    rule : Rule
    members : sequence of Member
        Those that share their groups one after the other, all of them.

    Attributes
    ----------
    rule, members
        As given.
    shares : list of _Share
        The batches, and who is in each: of one param group, penalty, dtype, kernel and count of steps; or all
        that share their groups.
    """

    def __init__(self, rule: Rule, members: Sequence[Member]) -> None:
        self.rule, self.members = rule, members
        self._looked = False
        alike: dict[tuple[Any, ...], list[int]] = {}
        # Of a parameter that is cut over processes it is made anew whenever it is asked for.
        own = {id(member.block): member.block.penalty for member in self.members}
        penalties = [own[id(member.block)] for member in self.members]
        for k, (member, penalty) in enumerate(zip(self.members, penalties, strict=True)):
            kernel = str(member.weights.device)
            if on_host(member.weights) and member.block.index is not None:
                how = tuple(member.weights.shape), _order(member.weights)
                kernel = fused_cpu.checked_plan(penalty, *how).name
            key = member.block.number, id(penalty), member.weights.dtype, kernel, member.t, member.carry
            alike.setdefault(key, []).append(k)
        self.shares: list[_Share] = []
        sizes = [member.weights.numel() for member in self.members]
        divided = [part for chosen in alike.values() for part in self._divided(chosen, sizes)]
        scratch = self._scratch(divided, sizes)
        for chosen in divided:
            some = [self.members[k] for k in chosen]
            weights, gradients = ([m.weights for m in some], [m.gradient for m in some])
            widened = None
            if is_half(weights[0]):
                widened = Widened(weights, scratch[weights[0].device])
                weights, gradients = widened.weights, widened.gradients
            shapes = [tuple(a.shape) for a in weights]
            settings, orders = some[0].block.settings, [_order(a) for a in weights]
            given = rule, settings, penalties[chosen[0]], shapes, _NUMBERS[weights[0].dtype], orders
            batch: fused_cpu.Batch | Launched
            if on_host(weights[0]):
                joint = some[0].block.group["joint"] if some[0].block.index is None else None
                batch = fused_cpu.Batch(*given, joint)
            else:
                batch = Launched(*given, weights[0])
            batch.addresses[...] = [
                [a.data_ptr() for a in (w, g, *member.slots.values())]
                for member, w, g in zip(some, weights, gradients, strict=True)
            ]
            self.shares.append(_Share(batch, chosen, widened))

    def _divided(self, chosen: list[int], sizes: Sequence[int]) -> list[list[int]]:
        """Divide the members of a batch where copies of all of them would be many."""
        first = self.members[chosen[0]]
        if first.block.index is None or not is_half(first.weights):
            return [chosen]
        parts = batches([sizes[k] for k in chosen], on_host(first.weights))
        return [[chosen[k] for k in part] for part in parts]

    def _scratch(self, divided: Sequence[Sequence[int]], sizes: Sequence[int]) -> dict[torch.device, Tensor]:
        """Return room for the copies of the largest batch on each device."""
        totals: dict[torch.device, list[int]] = {}
        for chosen in divided:
            first = self.members[chosen[0]].weights
            if is_half(first):
                totals.setdefault(first.device, []).append(sum(sizes[k] for k in chosen))
        return {device: scratch_of(some, device) for device, some in totals.items()}

    @property
    def _lying(self) -> _Members:
        return _Members([m.weights for m in self.members], [m.gradient for m in self.members])

    @property
    def _blocks(self) -> list[Block]:
        return [member.block for member in self.members]

    def _hows(self, finder: RootFinder) -> list[_How]:
        hows = []
        for share in self.shares:
            first = self.members[share.chosen[0]]
            where = _naming([self.members[k].block for k in share.chosen])
            hows.append(_How(first.block.settings, first.t, first.carry, finder, where))
        return hows

    def tell(self, finder: RootFinder, given: Sequence[Penalty | None], by_use: bool) -> list[Moved] | None:
        """Return the groups of the step, or None where a pass does not tell of all; nothing changes.

        ``given`` is the penalty of each param group as it was given; ``by_use`` says whether it matters how
        often a call of the network uses an element.
        """
        self._looked = True
        return _tell(self.shares, self._hows(finder), self._lying, self._blocks, given, by_use)

    def decide(self, own: Mapping[Key, Penalty]) -> bool:
        """Take the strengths that penalties have now, but ``own`` by keys; returns whether passes do."""
        return _decide(self.shares, self._blocks, own)

    def step(self, finder: RootFinder, save: Callable[[Member, float], None]) -> None:
        """Take the step; ``save(member, carry)`` keeps what it leaves behind."""
        carries = _passes(self.shares, self._hows(finder), self._lying, self._looked)
        for share, carry in zip(self.shares, carries, strict=True):
            for k in share.chosen:
                save(self.members[k], carry)

    def conclude(self) -> None:
        """Raise the error of the step where it was taken on a GPU, which the next one would look for."""
        _conclude(self.shares, self._blocks)


class Kept:
    """What a step has found out, for the next.

    Parameters
    ----------
    together : Together
        Of that step, which has been taken.
    groups : sequence of dict
        The param groups.
    penalties : sequence of Penalty or None
        Theirs, as they were given: what drives them changes their strengths alone.
    state : mapping
        The state of all parameters after the step.
    conditions : tuple
        What else has to be as it was.

    Attributes
    ----------
    rest : list of tuple
        The numbers of the param groups and of their parameters that are not among the members.
    looked : list of Looked
        The members whose zeros may be counted.
    """

    def __init__(
        self,
        together: Together,
        groups: Sequence[dict[str, Any]],
        penalties: Sequence[Penalty | None],
        state: Mapping[Tensor, Any],
        conditions: tuple[Any, ...],
    ) -> None:
        # Not the members, which would keep gradients alive.
        self._rule, self._shares, self._conditions = together.rule, together.shares, conditions
        self._blocks = blocks = [member.block for member in together.members]
        self._params = [member.parameter for member in together.members]
        entries = [state[p] for p in self._params]
        names: dict[str, list[Any]] = {"step": entries}
        for member, entry in zip(together.members, entries, strict=True):
            for name in member.slots:
                names.setdefault(name, []).append(entry)
        held = [
            *self._params,
            *(entry[name] for name, some in names.items() if name != "step" for entry in some),
        ]
        self._counts = [entry["step"] for entry in entries]
        self._carries: list[Tensor] = []
        if together.rule.averages:
            names["weight_sum"] = entries
            self._carries = [entry["weight_sum"] for entry in entries]
        self._names = list(names.items())
        self._objects = self._found(groups, penalties, state)
        self._tensors, self._facts = held, _facts(held)
        n = len(blocks)
        # What the next gradients have to be like.
        grads = list(map(_gradient, self._params))
        self._sizes, self._kinds = list(map(Tensor.size, held[:n])), list(map(_kind, grads))
        self._strides = list(map(Tensor.stride, held[:n]))
        self._plain = all(map(Tensor.is_contiguous, self._params))
        self._bytes = np.array([g.nbytes for g in grads], np.int64)
        starts = np.array(list(map(Tensor.data_ptr, held)), np.int64)
        self._written = starts, starts + np.array([a.nbytes for a in held], np.int64)
        order = np.argsort(starts)
        self._sorted = Spans(self._written[0][order], self._written[1][order])
        self._reads = Spans(starts[:0], starts[:0])
        self._numbers = [(0, 0.0)] * len(together.shares)
        self._looked = False
        taken = {(member.block.number, member.place) for member in together.members}
        left = {
            number: [k for k in range(len(group["params"])) if (number, k) not in taken]
            for number, group in enumerate(groups)
        }
        self.rest = [(number, places) for number, places in left.items() if places]
        self._settings = {block.number: block.settings for block in blocks}
        self.looked = [
            Looked(member.block, member.place, member.parameter)
            for member in together.members
            if member.block.penalty is not None
        ]

    @staticmethod
    def can_be(together: Together, state: Mapping[Tensor, Any]) -> bool:
        """Return whether a comparison would tell whether the members of a step have changed."""
        params = [member.parameter for member in together.members]
        counts = [state[p].get("step") for p in params]
        return (
            all(type(p) in _PLAIN and p.grad is not None for p in params)
            and not any(rests(member.block.settings) for member in together.members)
            and all(isinstance(a, Tensor) and a.dim() == 0 and a.dtype in _FLOATS for a in counts)
            and not any(a.is_inference() for a in counts)
            and len({a.data_ptr() for a in counts}) == len(counts) > 0
        )

    def _found(
        self,
        groups: Sequence[dict[str, Any]],
        penalties: Sequence[Penalty | None],
        state: Mapping[Tensor, Any],
    ) -> list[Any]:
        """Return all objects that have to be the same."""
        found: list[Any] = [*groups, *penalties]
        for group in groups:
            found += group["params"]
            joint = group.get("joint")
            found.append(joint)
            # A list may have been changed in place.
            found += joint if isinstance(joint, (list, tuple)) else ()
        found += state
        found += state.values()
        for name, entries in self._names:
            found += map(itemgetter(name), entries)
        return found

    def holds(
        self,
        groups: Sequence[dict[str, Any]],
        penalties: Sequence[Penalty | None],
        state: Mapping[Tensor, Any],
        conditions: tuple[Any, ...],
        check: Callable[[int], Mapping[str, Any]],
    ) -> bool:
        """Return whether everything is as it was, but for learning rates and the like, and the gradients.

        Parameters
        ----------
        groups, penalties, state, conditions
            As they are now.
        check : callable
            Returns the settings of a param group, by its number, validated; the same as long as they are.
        """
        try:
            found = self._found(groups, penalties, state)
        except KeyError:
            return False
        return (
            conditions == self._conditions
            and len(found) == len(self._objects)
            and all(map(is_, found, self._objects))
            and _facts(self._tensors) == self._facts
            and self._settings_fit(check)
            and self._gradients_fit()
            and self._read_numbers()
        )

    def _settings_fit(self, check: Callable[[int], Mapping[str, Any]]) -> bool:
        for number, before in self._settings.items():
            settings = check(number)
            if settings is not before:
                if rests(settings) or self._rule.select(settings) != self._rule.select(before):
                    return False
                self._settings[number] = settings
        return True

    def _gradients_fit(self) -> bool:
        """Look at the gradients, and take their addresses."""
        grads = list(map(_gradient, self._params))
        if set(map(type, grads)) != {Tensor}:
            return False
        if list(map(Tensor.size, grads)) != self._sizes or list(map(_kind, grads)) != self._kinds:
            return False
        # Strides of axes of one element may be any.
        alike = self._plain and all(map(Tensor.is_contiguous, grads))
        if not (alike or list(map(Tensor.stride, grads)) == self._strides) or any(map(Tensor.is_neg, grads)):
            return False
        starts = np.array(list(map(Tensor.data_ptr, grads)), np.int64)
        self._reads = Spans(starts, starts + self._bytes)
        for batch, chosen, widened in self._shares:
            if widened is None:
                batch.addresses[:, 1] = starts[chosen]
        return is_apart(self._sorted, self._reads)

    def _read_numbers(self) -> bool:
        """Read the counts of steps and the sums of weights: one for each batch."""
        counts = list(map(Tensor.item, self._counts))
        carries = list(map(Tensor.item, self._carries)) or [0.0] * len(counts)
        for j, (_, chosen, _) in enumerate(self._shares):
            t, carry = counts[chosen[0]], carries[chosen[0]]
            # Written so that NaN is none.
            if not (0.0 <= t < math.inf and t % 1.0 == 0.0 and 0.0 <= carry < math.inf):
                return False
            if [counts[k] for k in chosen] != [t] * len(chosen):
                return False
            if [carries[k] for k in chosen] != [carry] * len(chosen):
                return False
            self._numbers[j] = int(t) + 1, carry
        return True

    def is_apart_from(self, written: Spans, reads: Spans) -> bool:
        """Return whether the members, as they were last seen, share no memory with others."""
        starts = np.concatenate([self._written[0], written.starts])
        stops = np.concatenate([self._written[1], written.stops])
        order = np.argsort(starts)
        both = Spans(starts[order], stops[order])
        if (both.starts[1:] < both.stops[:-1]).any():
            return False
        return is_apart(both, reads) and is_apart(both, self._reads)

    def tell(self, finder: RootFinder, given: Sequence[Penalty | None], by_use: bool) -> list[Moved] | None:
        """As :meth:`Together.tell`, of the next step, for which this has been found to hold."""
        self._looked = True
        return _tell(self._shares, self._hows(finder), self._members, self._blocks, given, by_use)

    def conclude(self) -> None:
        """As :meth:`Together.conclude`, before what is kept is forgotten."""
        _conclude(self._shares, self._blocks)

    def follow(self) -> bool:
        """Take the strengths that the penalties have now; returns whether the same passes do."""
        return self.decide({})

    def decide(self, own: Mapping[Key, Penalty]) -> bool:
        """As :meth:`Together.decide`."""
        return _decide(self._shares, self._blocks, own)

    @property
    def _members(self) -> _Members:
        return _Members(self._params, list(map(_gradient, self._params)))

    def _hows(self, finder: RootFinder) -> list[_How]:
        hows = []
        for share, (t, carry) in zip(self._shares, self._numbers, strict=True):
            blocks = [self._blocks[k] for k in share.chosen]
            hows.append(_How(self._settings[blocks[0].number], t, carry, finder, _naming(blocks)))
        return hows

    def step(self, finder: RootFinder) -> None:
        """Take the next step, for which this has been found to hold."""
        hows, looked, self._looked = self._hows(finder), self._looked, False
        carries = _passes(self._shares, hows, self._members, looked)
        for share, how, carry in zip(self._shares, hows, carries, strict=True):
            # Not one more than they were: two of them may have become one.
            counts = [self._counts[k] for k in share.chosen]
            torch._foreach_copy_(counts, [torch.tensor(float(how.t))] * len(counts))
            for k in share.chosen if self._carries else ():
                self._carries[k].fill_(carry)


def _order(a: Tensor) -> tuple[int, ...] | None:
    """Return the order of the axes as the passes take it."""
    return None if a.is_contiguous() else order_of(a)


def _naming(blocks: Sequence[Block]) -> Callable[[int], str]:
    """Return what an error says before its message of a member of a batch."""
    return lambda k: f"{blocks[k].where}: "


def _facts(tensors: Sequence[Tensor]) -> tuple[list[Any], ...]:
    """Return address, shape, strides, type and sign of tensors."""
    return (
        list(map(Tensor.data_ptr, tensors)), list(map(Tensor.size, tensors)),
        list(map(Tensor.stride, tensors)), list(map(_dtype, tensors)), list(map(Tensor.is_neg, tensors)),
    )  # fmt: skip


def proposed(
    rule: Rule,
    settings: Mapping[str, Any],
    w: Tensor,
    grad: Tensor,
    slots: tuple[Tensor, ...],
    t: int,
    carry: float,
) -> Proposal | None:
    """Form what a rule asks of the prox in one compiled pass, or None where none takes these tensors."""
    tensors = (w, grad, *slots)
    if w.numel() == 0 or w.dtype not in _FLOATS or not all(map(on_host, tensors)):
        return None
    order = order_of(w)
    if order is None or any(a.dtype != w.dtype or a.is_neg() for a in tensors):
        return None
    lying = [a.detach().permute(order) for a in tensors]
    if not all(a.is_contiguous() for a in lying):
        return None
    arrays = [a.numpy() for a in lying]

    def empty() -> Any:
        return torch.empty_like(lying[0]).numpy()

    found = fused_arrays.propose(rule, settings, arrays[0], arrays[1], tuple(arrays[2:]), t, carry, empty)
    back = tuple(np.argsort(order).tolist())

    def tensor(a: Any) -> Tensor:
        return torch.from_numpy(a).permute(back)

    metric = None if found.metric is None else tensor(found.metric)
    return Proposal(tensor(found.x), metric, found.step, tuple(map(tensor, found.slots)), found.carry)
