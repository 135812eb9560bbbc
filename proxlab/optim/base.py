"""The loop that the methods on arrays share, with an explicit state: a prox by the rule, and its answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import array_api_compat
import numpy as np

from proxlab.arguments import check_array, check_finite, check_root_finder, dtype_name, native
from proxlab.inexactness import Criterion, Schedule
from proxlab.namespaces import namespace
from proxlab.optim import bregman, tree
from proxlab.optim.inexact import Tolerance, solve_certified
from proxlab.optim.living import living_groups
from proxlab.optim.problem import ProxProblem, Watch
from proxlab.optim.rules import RULES, Proposal, Rule, check_settings, check_start, rests
from proxlab.optim.sparsity import (
    Resting,
    TargetSparsity,
    check_sparsity,
    driven,
    record,
    warn_of,
)
from proxlab.optim.state import State
from proxlab.optim.updates import Slot
from proxlab.penalties import Penalty
from proxlab.rootfinders import Newton, RootFinder
from proxlab.types import Array
from proxlab.untraced import untraced
from proxlab.values import check_count, check_number

__all__ = ["LearningRate", "Optimizer", "squared_distance"]

Tree = TypeVar("Tree")
LearningRate = float | Callable[[int], float]


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Base of all: forms the point and the metric of each prox by the update rule, and solves it.

    Parameters
    ----------
    root_finder : RootFinder, optional
        What solves the secular equation of each group; by default exact to rounding.
    inexactness : tuple of (type of Criterion, Schedule), optional
        Solve each prox just well enough, for example to ``(Stationarity, SquareSummable(1e-2))`` of
        :mod:`proxlab.inexactness`. The tolerance holds for all parameters together. It is proved in the steps
        of ``certify_every``, with as many iterations as that takes, and the steps between take as many; a
        tolerance that cannot be proved is an error. For ``Adaptive`` the progress is what the weights before
        the step, taken for the solution, would be wrong by.
    certify_every : int, optional
        Certify the proxes of every so many steps; by default of all where there is a tolerance, else of none.
    sparsity : TargetSparsity, optional
        Drives the strength of all penalties, in proportion, towards a wanted sparsity.
    start : int, optional
        The step from which on penalties are applied, and a ramp of ``sparsity`` begins. An element whose
        gradients were all exactly zero so far has the metric ``eps``, in which a small strength is large.
    """

    root_finder: RootFinder = Newton()  # noqa: RUF009 (frozen)
    inexactness: tuple[type[Criterion], Schedule] | None = None
    certify_every: int | None = None
    sparsity: TargetSparsity | None = None
    start: int = 1

    #: The update rule (:mod:`proxlab.optim.rules`).
    rule: ClassVar[Rule]
    # Set while somebody watches; no setting.
    _watch: ClassVar[Watch | None] = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        if not hasattr(self, "rule"):
            raise TypeError(f"{type(self).__name__}: has no update rule; use one of {', '.join(RULES)}")
        check_root_finder(self.root_finder)
        check_sparsity(self.sparsity)
        if self.inexactness is not None:
            Tolerance(self.inexactness)
        if self.certify_every is not None:
            object.__setattr__(self, "certify_every", check_count("certify_every", self.certify_every))
        elif self.inexactness is not None:
            object.__setattr__(self, "certify_every", 1)
        object.__setattr__(self, "start", check_start(self.start, self.rule))
        self._settings(1)

    def _settings(self, t: int) -> dict[str, Any]:
        """Return the settings of step ``t``, validated."""
        given = {name: getattr(self, name) for name in self.rule.settings}
        if callable(given["lr"]):
            given["lr"] = given["lr"](t)
        return check_settings(self.rule, given)

    @untraced
    def init(self, params: Any, penalty: Any = None) -> State:
        """Return the state before the first step.

        Parameters
        ----------
        params : tree of array
            One array or a nested dict, list or tuple of arrays, real, of float32 or float64.
        penalty : Penalty, tree of Penalty, or None
            A penalty holds for all parameters below its place in the tree; None is no penalty.

        Returns
        -------
        State

        Raises
        ------
        TypeError, ValueError
            If a parameter or its penalty is not admissible; the message names it by its path.
        """
        found = tree.leaves(params, "params")
        for place, w in found.items():
            _check_parameter(place, w)
        penalties = dict(zip(found, tree.spread(penalty, params, "penalty"), strict=True))
        for place, p in penalties.items():
            self._check_penalty(place, p, found[place])
        given = [p for p in penalties.values() if p is not None]
        sparsity = None
        if self.sparsity is not None:
            if not given:
                raise ValueError("sparsity: needs a penalty to drive, but no parameter has one")
            sparsity = self.sparsity.init(given[0].strength)
        state = State(self.rule.name, 0, (), penalties, {}, sparsity)
        return replace(state, slots=self._start(found, penalties))

    @untraced
    def step(
        self,
        params: Tree,
        grads: Any,
        state: State,
        *,
        loss: float | None = None,
        full_gradient: Any = None,
    ) -> tuple[Tree, State]:
        """Perform a step.

        Parameters
        ----------
        params : tree of array
            The parameters.
        grads : tree of array
            A gradient of the loss at ``params``, stochastic or not, of the same structure.
        state : State
            As :meth:`init` or the step before returned it.
        loss : float, optional
            The loss at ``params``; with it, ``history`` has the objective there.
        full_gradient : tree of array, optional
            The full gradient of the loss at ``params``; with it, ``history`` has ``dist(0, ∂F)`` there, for
            the objective ``F``.

        Returns
        -------
        params : tree of array
            The new parameters.
        state : State
            The new state; the old one stays as it was.

        Raises
        ------
        TypeError, ValueError
            If an argument is not admissible, or a tolerance is not proved; the message names the parameter by
            its path.
        """
        if (method := getattr(state, "method", type(state).__name__)) != self.rule.name:
            raise TypeError(f"state: must be one that {self.rule.name}.init has made, got one of {method}")
        given = tree.leaves(params, "params")
        for place, w in given.items():
            _check_parameter(place, w)
        found = {place: native(w) for place, w in given.items()}
        if list(found) != list(state.slots):
            raise TypeError(
                f"params: must have the parameters of the state, {list(state.slots)}, got {list(found)}"
            )
        gradients = _gradients(found, grads, params, "grads")
        t = state.step + 1
        settings = self._settings(t)
        self._check_state(state, found, settings)
        if rests(settings):
            # No prox would find it, and the state would keep it.
            for place, penalty in state.penalties.items():
                if penalty is not None:
                    gradient = gradients[place]
                    check_finite(place.replace("params", "grads", 1), gradient, namespace(gradient))
        # What leaves the range is an error of the prox.
        with np.errstate(over="ignore", invalid="ignore"):
            proposals = {
                place: self.rule.propose(
                    settings,
                    w,
                    gradients[place],
                    tuple(state.slots[place].values()),
                    state.stage_step + 1,
                    state.weight_sum,
                )
                for place, w in found.items()
            }
        sign = -1.0 if settings["maximize"] else 1.0
        entry = _measured(found, params, state, loss, full_gradient, sign)
        sparsity = state.sparsity
        # Steps with a penalty.
        count = t - self.start + 1
        own: dict[str, float] = {}
        target = self.sparsity
        if target is not None and sparsity is not None and count > 0:
            due = target.due(count)
            if due or target.needs_problems(count):
                asked = _problems(found, state.penalties, proposals)
                _, decided = target.update(
                    sparsity,
                    count,
                    list(asked.values()),
                    _resting(found, state.penalties, asked),
                    lambda: target.share(_resting(found, state.penalties, ())),
                )
                own = dict(zip(asked, decided.pop("strengths", ()), strict=False))
                told = (
                    e
                    for e in state.history
                    if "reachable" in e and "rounded" not in e and target.ends(e["step"] - self.start + 1)
                )
                if target.ends(count) and "reachable" in decided and not any(told):
                    warn_of(decided, target.target)
                sparsity = decided
                entry |= record(sparsity) if due else {}
        driven_anew = sparsity is not None and sparsity["lam"] != (state.sparsity or {}).get("lam")
        held = {
            place
            for place, p in state.penalties.items()
            if rests(settings) and not (p is not None and driven_anew)
        }
        penalties = dict(_driven(state.penalties, sparsity)) if count > 0 else {}
        for place, lam in own.items():
            given_one = state.penalties[place]
            assert given_one is not None
            assert sparsity is not None
            penalties[place] = driven(given_one, {**sparsity, "lam": lam})
        problems = _problems(found, penalties, proposals, held)
        solutions, bounds, iterations = self._solve(problems, t, state.iterations)
        entry |= bounds
        if self._watch is not None and self._watch.due(t):
            self._watch.see(t, problems)
        keep = settings["momentum"] if self.rule.averages else 0.0
        new = {}
        for place, w in found.items():
            z = solutions[place] if place in solutions else proposals[place].x
            if place in held:
                z = w
            elif keep:
                z = keep * w + (1.0 - keep) * z
            # NumPy's arithmetic makes arrays in this machine's order.
            z = _array(z)
            new[place] = z.astype(given[place].dtype) if native(given[place]) is not given[place] else z
        if entry:
            entry = {"step": t, **entry, "support": self._support(new, state.penalties)}
        slots = {
            place: dict(zip(state.slots[place], map(_array, proposal.slots), strict=True))
            for place, proposal in proposals.items()
        }
        carries = [proposal.carry for proposal in proposals.values()]
        after = replace(
            state,
            step=t,
            stage_step=state.stage_step + 1,
            weight_sum=carries[0] if carries else state.weight_sum,
            slots=slots,
            sparsity=sparsity,
            iterations=iterations,
            history=(*state.history, entry) if entry else state.history,
        )
        return tree.rebuild(params, iter(new.values())), after

    def _solve(
        self, problems: Mapping[str, ProxProblem], t: int, iterations: int
    ) -> tuple[dict[str, Array], dict[str, float], int]:
        """Solve the proxes of a step; returns also what is proved, and how many iterations were enough."""
        tolerance = None if self.inexactness is None else Tolerance(self.inexactness, iterations)
        if self.certify_every is not None and t % self.certify_every == 0:
            found, bounds = solve_certified(list(problems.values()), t, self.root_finder, tolerance)
            enough = iterations if tolerance is None else tolerance.iterations
            return dict(zip(problems, found, strict=True)), bounds, enough
        finder = self.root_finder if tolerance is None else tolerance.finder(self.root_finder)
        return {place: p.prox(finder) for place, p in problems.items()}, {}, iterations

    def _start(
        self, found: Mapping[str, Array], penalties: Mapping[str, Penalty | None]
    ) -> dict[str, dict[str, Array]]:
        """Return the arrays of state as they start."""
        settings = self._settings(1)
        slots = self.rule.select(settings).slots
        return {
            place: {slot.name: _start(slot, native(w), penalties[place], settings) for slot in slots}
            for place, w in found.items()
        }

    def _check_state(self, state: State, found: Mapping[str, Array], settings: Mapping[str, Any]) -> None:
        """Raise an error if the state is not one of these parameters."""
        names = [slot.name for slot in self.rule.select(settings).slots]
        if set(state.penalties) != set(found):
            raise ValueError(f"state: must have a penalty or None for each of {list(found)}")
        if self.sparsity is not None and state.sparsity is None:
            raise ValueError("state: has no strength to drive; make it by init of this optimizer")
        for name, least in (("step", 0), ("stage_step", 0), ("weight_sum", 0), ("iterations", 1)):
            check_number(f"state: {name}", getattr(state, name), least)
        for place, w in found.items():
            held = state.slots[place]
            if list(held) != names:
                raise ValueError(
                    f"state: must have the arrays {names} for {place}, which {self.rule.name} with these "
                    f"settings keeps, got {list(held)}"
                )
            for name, a in held.items():
                where = f"state: {name} of {place}"
                if check_array(where, a) is not namespace(w):
                    raise TypeError(f"{where}: must be {type(w).__name__} as it, got {type(a).__name__}")
                if dtype_name(a.dtype) != dtype_name(w.dtype):
                    raise TypeError(f"{where}: must be of its dtype, {w.dtype}, got {a.dtype}")
                if tuple(a.shape) != tuple(w.shape):
                    raise ValueError(f"{where}: must have its shape, {tuple(w.shape)}, got {tuple(a.shape)}")
                if array_api_compat.device(a) != array_api_compat.device(w):
                    raise ValueError(f"{where}: must be on its device, {w.device}, got {a.device}")
                if getattr(a, "requires_grad", False):
                    raise ValueError(f"{where}: must not require a gradient: detach it")

    def _check_penalty(self, place: str, penalty: Any, w: Array) -> None:
        if penalty is None:
            return
        where = place.replace("params", "penalty", 1)
        if not isinstance(penalty, Penalty):
            raise TypeError(
                f"{where}: must be a proxlab penalty such as GroupLasso(0.1) or None, got {penalty!r}"
            )
        if self.rule.convex and not penalty.is_convex:
            raise ValueError(
                f"{where}: must be convex, since the state of {self.rule.name} is a subgradient, got "
                f"{type(penalty).__name__}"
            )
        if self.sparsity is not None and penalty.strength == 0:
            raise ValueError(f"{where}: must have a strength > 0 to be driven, got {penalty!r}")
        try:
            penalty.group_weights(penalty.groups.layout(tuple(w.shape)))
        except ValueError as error:
            raise ValueError(f"{where}: does not fit {place}: {error}") from error

    @staticmethod
    def _support(found: Mapping[str, Array], penalties: Mapping[str, Penalty | None]) -> int:
        """Return the number of groups that are not zero."""
        pairs = [(p.groups, found[place]) for place, p in penalties.items() if p is not None]
        return sum(int(alive.sum()) for alive in living_groups(pairs))


def _array(a: Any) -> Array:
    """Return an array: NumPy's arithmetic makes numbers of those without axes."""
    return np.asarray(a) if isinstance(a, np.generic) else a


def _check_parameter(place: str, w: Any) -> None:
    check_array(place, w)
    if dtype_name(w.dtype) not in ("float32", "float64"):
        raise TypeError(f"{place}: must be of float32 or float64, which its state is kept in, got {w.dtype}")
    if getattr(w, "requires_grad", False):
        raise ValueError(f"{place}: must not require a gradient: detach it, or use proxlab.torch")


def _gradients(found: Mapping[str, Array], grads: Any, params: Any, name: str) -> dict[str, Array]:
    """Return the leaves of a tree of gradients, checked."""
    gradients = dict(zip(found, tree.like(grads, params, name), strict=True))
    for place, w in found.items():
        g, where = gradients[place], place.replace("params", name, 1)
        xp = check_array(where, g)
        if xp is not namespace(w) or dtype_name(g.dtype) != dtype_name(w.dtype):
            raise TypeError(
                f"{where}: must be an array of the kind and dtype of its parameter, {type(w).__name__} of "
                f"{w.dtype}, got {type(g).__name__} of {g.dtype}"
            )
        if tuple(g.shape) != tuple(w.shape):
            raise ValueError(
                f"{where}: must have the shape of its parameter, {tuple(w.shape)}, got {tuple(g.shape)}"
            )
        if getattr(g, "requires_grad", False):
            raise ValueError(f"{where}: must not require a gradient: detach it")
        gradients[place] = native(g)
    return gradients


def _problems(
    found: Mapping[str, Array],
    penalties: Mapping[str, Penalty | None],
    proposals: Mapping[str, Proposal],
    held: Container[str] = (),
) -> dict[str, ProxProblem]:
    """Return the proxes that there are to solve."""
    problems = {}
    for place, p in penalties.items():
        x, metric, step, *_ = proposals[place]
        if p is not None and step > 0 and 0 not in x.shape and place not in held:
            problems[place] = ProxProblem(p, x, metric, step, place, found[place])
    return problems


def _resting(
    found: Mapping[str, Array], penalties: Mapping[str, Penalty | None], asked: Container[str]
) -> list[Resting]:
    """Return the groups that this step leaves as they are."""
    pairs = [
        (p.groups, found[place]) for place, p in penalties.items() if p is not None and place not in asked
    ]
    return [
        Resting(alive, groups.sizes(tuple(w.shape)))
        for alive, (groups, w) in zip(living_groups(pairs), pairs, strict=True)
    ]


def _driven(
    penalties: Mapping[str, Penalty | None], state: Mapping[str, float] | None
) -> Mapping[str, Penalty | None]:
    """Return the penalties with the strength that they are driven to."""
    if state is None:
        return penalties
    return {place: None if p is None else driven(p, state) for place, p in penalties.items()}


def _measured(
    found: Mapping[str, Array], params: Any, state: State, loss: float | None, full_gradient: Any, sign: float
) -> dict[str, Any]:
    """Return what can be said of the objective at the point where a step starts."""
    measured: dict[str, Any] = {}
    if loss is None and full_gradient is None:
        return measured
    penalties = _driven(state.penalties, state.sparsity)
    if loss is not None:
        value = sign * check_number("loss", loss, -math.inf)
        measured["objective"] = value + sum(p(found[k]) for k, p in penalties.items() if p is not None)
    if full_gradient is not None:
        full = _gradients(found, full_gradient, params, "full_gradient")
        squares = (squared_distance(penalties[k], sign * full[k], w) for k, w in found.items())
        measured["dist"] = math.sqrt(sum(squares))
    return measured


def squared_distance(penalty: Penalty | None, grad: Array, w: Array) -> float:
    """Return ``dist(0, ∂F)²`` over one parameter."""
    xp = namespace(w)
    grad = xp.astype(grad, xp.float64)
    if penalty is None or 0 in w.shape:
        return float(xp.sum(grad * grad))
    layout = penalty.groups.layout(tuple(w.shape))
    free = layout.join([rows * 0.0 for rows in layout.split(grad, 0.0)], grad)
    distance = penalty.subdiff_distance(grad, w)
    return float(xp.sum(distance * distance)) + float(xp.sum(free * free))


def _start(slot: Slot, w: Array, penalty: Penalty | None, settings: Mapping[str, Any]) -> Array:
    xp = namespace(w)
    if slot.start == "parameter":
        return xp.asarray(w, copy=True)
    if slot.start == "dual":
        return _array(bregman.dual_start(penalty, w, settings["delta"]))
    return xp.full_like(w, 0.0 if slot.start == "zeros" else settings[slot.start])
