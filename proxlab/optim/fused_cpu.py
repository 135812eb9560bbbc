"""The fused pass of the optimizers over arrays in memory: state, weights and prox without arrays in between.

Contiguous groups are solved one after the other while they are in the cache. Groups along other axes are
solved in blocks of neighbouring columns, whose point is written to the weights and whose metric is formed
anew from the state: nothing is kept for each element, and every pass streams through whole rows. A thread
keeps a scratch of about two megabytes; a contiguous group that does not fit gets its own for the step.

One compiled call takes all tensors of a :class:`Batch`, which is made once and holds as long as shapes,
penalty and method do; what changes from step to step are addresses and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress, pairwise
from typing import Any, NamedTuple, cast

import numpy as np

from proxlab.arguments import compiles, float_bits
from proxlab.backends import threads
from proxlab.backends.copies import group_rows
from proxlab.bounds import rounding
from proxlab.groups import Groups
from proxlab.linker import over_arrays
from proxlab.optim import fused_many as many
from proxlab.optim.fused_elements import Step
from proxlab.optim.fused_kernels import column_room, kernel_of, plain_kernel, row_room
from proxlab.optim.fused_layout import Plan, Slope, joint_plan, plan_of, slope_of
from proxlab.optim.fused_rows import RowRoom
from proxlab.optim.group_sums import GroupSums, suffice
from proxlab.optim.problem import told
from proxlab.optim.rules import Coefficients, Rule, Settings
from proxlab.optim.sparsity import is_told_by_sums, multiples, strengths_of_sums
from proxlab.penalties import Penalty, RadialPenalty
from proxlab.penalties.base import Piece
from proxlab.prox import prox
from proxlab.rootfinders import Newton, RootFinder

__all__ = [
    "Batch",
    "applies_jointly",
    "checked_joint_plan",
    "checked_plan",
]

Array = np.ndarray[Any, Any]

#: The root finder of the compiled passes.
NEWTON = Newton()


@dataclass(frozen=True, eq=False)
class _Radial(RadialPenalty):
    """The radial part of a penalty, over rows: what is left of groups after the elementwise part."""

    table: tuple[Piece, ...]

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """As the penalty has them."""
        return self.table


def applies_jointly(
    penalty: Penalty | None,
    groups: Sequence[Groups],
    shapes: Sequence[tuple[int, ...]],
    orders: Sequence[tuple[int, ...] | None],
) -> bool:
    """Return whether there is a fused pass for arrays whose groups are joint; there is one for every rule.

    Of each array the shape is given, and the axes in the order in which they lie, None for C order.
    """
    return compiles() and (penalty is None or joint_plan(penalty, groups, shapes, orders) is not None)


class _Run(NamedTuple):
    """Neighbouring proxes of one penalty, from the first to the last."""

    first: int
    last: int
    penalty: Penalty
    slope: Slope


class Batch:
    """Tensors whose steps one compiled call takes.

    Parameters
    ----------
    rule, settings
        As in :meth:`proxlab.optim.rules.Rule.propose`.
    penalty : Penalty or None
        The penalty of all of them, under which all take the same kernel (:func:`checked_plan`).
    shapes : sequence of tuple of int
        Their shapes; none is empty.
    dtype : dtype
        float32 or float64, of weights, gradients and states.
    orders : sequence of tuple of int or None
        The axes of each in the order in which they lie in memory, None for C order.
    joint : sequence of Groups, optional
        Where all tensors share one prox, the groups of each: a group has a part in each of them, and the
        penalty is that of rows in which these stand one after the other (:func:`checked_joint_plan`).

    Attributes
    ----------
    addresses : array of int
        Of weights, gradient and each array of state, a row per tensor, to be set before a step. What lies
        there is in that order without gaps, aligned, and apart from everything else that is written.
    penalty : Penalty or None
        As given, or as :meth:`follow` has taken it since.
    """

    def __init__(
        self,
        rule: Rule,
        settings: Settings,
        penalty: Penalty | None,
        shapes: Sequence[tuple[int, ...]],
        dtype: Any,
        orders: Sequence[tuple[int, ...] | None],
        joint: Sequence[Groups] | None = None,
    ) -> None:
        self.rule, self.penalty, self.shapes, self.dtype = rule, penalty, list(shapes), np.dtype(dtype)
        self.orders, self.update = list(orders), rule.select(settings)
        if joint is not None and penalty is not None:
            self.plans = [checked_joint_plan(penalty, joint, shapes, orders)]
        else:
            self.plans = [checked_plan(penalty, *how) for how in zip(shapes, orders, strict=True)]
        self.slope = slope_of(penalty) or Slope()
        n = len(self.plans)
        sizes = [int(np.prod(shape)) for shape in shapes]
        self._is_joint = joint is not None
        # Of each tensor, and of each prox.
        self._lengths = sizes
        self._sizes = np.array([sum(sizes)] if n < len(sizes) else sizes, np.int64)
        self.addresses = np.zeros((len(sizes), 2 + len(self.update.slots)), np.int64)
        flows, columns = self.name == "flow", self.name == "columns"
        laid = [
            shape
            for p, size in zip(self.plans, self._sizes.tolist(), strict=True)
            for shape in ([(1, 1, 1, size, 1)] if flows else p.spans)
        ]
        ends = [(len(p.weights), len(p) if columns else 0) for p in self.plans]
        self._tensors = many.Tensors(
            addresses=self.addresses,
            shapes=np.array(laid, np.int64),
            spans=np.cumsum([0, *(len(p.spans) for p in self.plans)], dtype=np.int64),
            units=self._sizes if flows else np.array([len(p) for p in self.plans], np.int64),
            per_block=np.zeros(n, np.int64),
            strengths=np.concatenate([np.asarray(p.weights, float) for p in self.plans]),
            squares=np.zeros(sum(end[1] for end in ends)),
            starts=np.cumsum([(0, 0), *ends], axis=0, dtype=np.int64),
            doubts=np.array([0.0 if flows else p.doubt(self.dtype) for p in self.plans]),
            gone=np.zeros(0 if flows else sum(map(len, self.plans)), np.bool_),
            places=np.cumsum([0, *map(len, self.plans)], dtype=np.int64),
        )
        self._largest = max(p.size for p in self.plans)
        self._divided: tuple[int, list[many.Span]] = 0, []
        # What look has found: which proxes take several passes.
        self._left: list[int] | None = None
        self._own: dict[int, Penalty] = {}
        # What tell has found: from which strength on groups vanish.
        self._vanish: Array | None = None
        # For which penalty, and that with the strength 1 if sums over groups tell of it.
        self._given: Penalty | None = None
        self._unit: Penalty | None = None

    @property
    def name(self) -> str:
        """Which kernel it takes."""
        return self.plans[0].name

    @cached_property
    def size(self) -> int:
        """Elements of all tensors."""
        return int(self._sizes.sum())

    def __len__(self) -> int:
        """Return the number of proxes."""
        return len(self.plans)

    @property
    def places(self) -> Array:
        """Where the groups of a prox begin among those of all, and where those of the last end."""
        places: Array = self._tensors.places
        return places

    @cached_property
    def _group_weights(self) -> Array:
        """The weight of each group."""
        return np.concatenate([np.broadcast_to(np.asarray(p.weights, float), len(p)) for p in self.plans])

    @cached_property
    def group_sizes(self) -> Array:
        """The number of elements of each group."""
        return np.repeat([p.size for p in self.plans], [len(p) for p in self.plans])

    def follow(self, penalty: Penalty | None, own: Mapping[int, Penalty] | None = None) -> bool:
        """Take a penalty that differs in its strength alone; returns whether the same kernel takes it.

        ``own`` are those of single proxes, for the next step alone.
        """
        self._own = dict(own or {})
        if self._is_joint and self._own:
            penalty, self._own = self._own[0], {}
        if penalty is self.penalty:
            return True
        slope = slope_of(penalty)
        if slope is None or not self.slope.is_like(slope):
            return False
        self.penalty, self.slope = penalty, slope
        return True

    def look(
        self, settings: Settings, t: int, carry: float, finder: RootFinder, where: Callable[[int], str]
    ) -> None:
        """Look at the gradients of the step that :meth:`step` takes next, whose arguments these are.

        Raises
        ------
        ValueError
            As :meth:`step` does for gradients that are not finite: nothing has changed in this batch or any.
        """
        self._left = self._vanish = None
        if self.penalty is None:
            return
        if not self.rule.coefficients(settings, t, carry).step > 0.0:
            # No prox would find it, and the state would keep it.
            for k in np.flatnonzero(self._spoilt()).tolist():
                if not self._is_finite(k):
                    raise ValueError(f"{where(k)}its gradient must be finite")
            return
        spoilt = self._spoilt() if self._sees(settings, finder) else np.ones(len(self), np.bool_)
        self._left = self._answered(spoilt, settings, t, carry, finder, where)

    def _sees(self, settings: Settings, finder: RootFinder) -> bool:
        """Return whether a compiled pass takes the step, if gradients and weights are in range."""
        averages = self.rule.averages and settings["momentum"] > 0.0
        return finder == NEWTON and not (self.name == "columns" and averages)

    def _answered(
        self, spoilt: Array, settings: Settings, t: int, carry: float, finder: RootFinder,
        where: Callable[[int], str],
    ) -> list[int]:  # fmt: skip
        """Return the proxes that no pass takes, which have an answer though a gradient is not finite."""
        left: list[int] = np.flatnonzero(spoilt).tolist() if spoilt.any() else []
        assert self.penalty is not None
        for k in left:
            if not self._is_finite(k):
                self._answer(k, self.penalty, settings, t, carry, finder, where)
        return left

    def tell(
        self, given: Penalty, settings: Settings, t: int, carry: float, finder: RootFinder,
        where: Callable[[int], str],
    ) -> Array | None:  # fmt: skip
        """Do what :meth:`look` does, and return at which strengths groups vanish in the next step.

        Nothing changes.

        Parameters
        ----------
        given : Penalty
            What the penalty is but for its strength.
        settings, t, carry, finder, where
            As in :meth:`step`.

        Returns
        -------
        array of shape (n_groups,) or None
            From which multiple of the given strength on each group is zero, those of one prox after those of
            another. None where the step has no groups in one pass, or sums over groups do not tell.
        """
        self._vanish = None
        found, unit = self.rule.coefficients(settings, t, carry), self._unit_of(given)
        if unit is None or self.name == "flow" or not (found.step > 0.0 and self._sees(settings, finder)):
            self.look(settings, t, carry, finder, where)
            return None
        sums, spoilt = np.empty((5, int(self.places[-1]))), np.zeros(len(self), np.bool_)
        step, in_blocks = self._numbers(found, 0.0, self.slope), self.name == "columns"
        # Groups vanish under a convex penalty by the norm of their b alone.
        by_norms = unit.equation.proved_convex
        kind, name = "norms" if by_norms else "table", "tell_of" if in_blocks else "tell_rows_of"
        kernel = kernel_of(name, self.update, False, False, kind)

        def task(span: many.Span) -> None:
            room = column_room(self.dtype) if in_blocks else row_room(0, self.dtype)
            kernel(*self._tensors, *span, *step, *room, sums, spoilt)

        self._run(task)
        self._left = self._answered(spoilt, settings, t, carry, finder, where)
        values = sums[2:3] if by_norms else sums[2:]
        if self._left or not suffice(values, sums[0], sums[1]):
            return None
        self._vanish = strengths_of_sums(unit, GroupSums(*values), found.step, self._group_weights)
        return multiples(self._vanish, given)

    def _unit_of(self, given: Penalty) -> Penalty | None:
        """Return a penalty with the strength 1; None if sums over groups do not tell when these vanish."""
        if self._given is not given:
            self._given, self._unit = given, given.with_strength(1.0) if is_told_by_sums(given) else None
        return self._unit

    def step(
        self, settings: Settings, t: int, carry: float, finder: RootFinder, where: Callable[[int], str]
    ) -> float:
        """Take a step of all tensors in place.

        Parameters
        ----------
        settings, t, carry
            As in :meth:`proxlab.optim.rules.Rule.propose`, and the same for all tensors; the settings ask for
            the update that the batch was made for.
        finder : RootFinder
            Solves the prox. With other options than the defaults of Newton's method, and where an average is
            taken of groups that are not contiguous, the step is not fused.
        where : callable
            ``where(k)`` is what an error says before its message of prox ``k``.

        Returns
        -------
        float
            The new carry.

        Raises
        ------
        ValueError
            If the gradient of a penalised parameter is not finite: nothing has changed then. Or if the prox's
            point or metric is not, though the gradients are: that tensor and its state are undefined then.
        """
        found = self.rule.coefficients(settings, t, carry)
        if self.penalty is not None and not found.step > 0.0:
            self.look(settings, t, carry, finder, where)
            free = Batch(self.rule, settings, None, self.shapes, self.dtype, self.orders)
            free.addresses[...] = self.addresses
            return free.step(settings, t, carry, finder, where)
        keep = settings["momentum"] if self.rule.averages else 0.0
        if self.penalty is None:
            self._flow(found, keep, where)
            return found.carry
        if self._left is None:
            self.look(settings, t, carry, finder, where)
        left, self._left = self._left, None
        assert left is not None
        own, self._own = self._own, {}
        for k in left:
            self._unfused(k, own.get(k, self.penalty), settings, t, carry, finder, where)
        if not own and not left:
            self._solve(found, keep, finder, where)
            return found.carry
        runs: list[_Run] = []
        for k in sorted(set(range(len(self))).difference(left)):
            penalty = own.get(k, self.penalty)
            before = runs[-1] if runs else None
            if before is not None and before.last == k - 1 and before.penalty is penalty:
                runs[-1] = before._replace(last=k)
            else:
                runs.append(_Run(k, k, penalty, slope_of(penalty) or Slope()))
        fits = [self.name != "flow" and self.slope.is_like(run.slope) for run in runs]
        self._groups(found, keep, finder, where, list(compress(runs, fits)))
        for run, fit in zip(runs, fits, strict=True):
            if not fit:
                # A strength of zero takes another pass.
                part = self._part(range(run.first, run.last + 1), settings, run.penalty)
                part.step(settings, t, carry, finder, _naming(where, run.first))
        return found.carry

    def _is_finite(self, k: int) -> bool:
        """Return whether the gradients of a prox are finite."""
        return all(bool(np.isfinite(grad).all()) for _, grad, *_ in self._arrays(k))

    def _part(self, chosen: range, settings: Settings, penalty: Penalty) -> Batch:
        """Return a batch of some of several proxes."""
        shapes, orders = [self.shapes[k] for k in chosen], [self.orders[k] for k in chosen]
        part = Batch(self.rule, settings, penalty, shapes, self.dtype, orders)
        part.addresses[...] = self.addresses[chosen]
        return part

    def _solve(
        self, found: Coefficients, keep: float, finder: RootFinder, where: Callable[[int], str]
    ) -> None:
        if self.name == "flow":
            self._flow(found, keep, where)
        else:
            assert self.penalty is not None
            self._groups(found, keep, finder, where, [_Run(0, len(self) - 1, self.penalty, self.slope)])

    def _numbers(self, found: Coefficients, keep: float, slope: Slope) -> Step:
        """Return the numbers of a step in the data's precision."""
        number = self.dtype.type
        c = type(found.formulas)(*[number(a) for a in found.formulas])
        return Step(c, *map(number, (found.step * slope.cut, slope.minus, keep, 1.0)))

    def _spans(self) -> list[many.Span]:
        """Divide the tensors among the threads, by elements."""
        n = min(threads.get_num_threads(), max(1, self.size // threads.SMALL))
        if self._divided[0] != n:
            self._divided = n, self._divide(n)
        return self._divided[1]

    def _divide(self, n: int) -> list[many.Span]:
        sizes, units = self._sizes, self._tensors.units
        total = self.size
        if self.name == "columns":
            for k, plan in enumerate(self.plans):
                # A tensor that is no small part of the whole is divided.
                parts = min(n, -(-2 * n * int(sizes[k]) // total)) if sizes[k] >= threads.SMALL else 1
                self._tensors.per_block[k] = plan.per_block(parts)
                units[k] = -(-len(plan) // int(self._tensors.per_block[k]))
        ends = np.cumsum(sizes)
        places = [(0, 0)]
        for j in range(1, n):
            at = total * j // n
            k = int(np.searchsorted(ends, at, side="right"))
            inside = at - int(ends[k] - sizes[k])
            places.append((k, inside * int(units[k]) // int(sizes[k])))
        places.append((len(self) - 1, int(units[-1])))
        spans = []
        for (first, unit), (last, stop) in pairwise(places):
            if stop == 0 and last > first:
                last, stop = last - 1, int(units[last - 1])
            spans.append(many.Span(first, unit, last, stop))
        return spans

    def _run(self, task: Callable[[many.Span], None]) -> None:
        """Do what is to be done with the share of each thread."""
        spans = self._spans()

        def some(begin: int, finish: int) -> int:
            for span in spans[begin:finish]:
                task(span)
            return -1

        threads.run(some, len(spans), self.size)

    def _spoilt(self) -> Array:
        """Return of each prox whether it has a gradient whose squares are not finite.

        Those of the weights come along for groups of columns.
        """
        spoilt, one = np.zeros(len(self), np.bool_), self.dtype.type(1.0)
        if self.name == "columns":
            scan, step = plain_kernel("scan_of", self.slope.kind), Step((), one, one, one, one)

            def look(span: many.Span) -> None:
                scan(*self._tensors, *span, *step, *column_room(self.dtype), spoilt)

        else:
            invalid = plain_kernel("invalid_of")

            def look(span: many.Span) -> None:
                invalid(*self._tensors, *span, one, spoilt)

        self._run(look)
        return spoilt

    def _flow(self, found: Coefficients, keep: float, where: Callable[[int], str]) -> None:
        kernel = kernel_of("flow_of", self.update, keep > 0.0, self.slope.shrinks)
        step = self._numbers(found, keep, self.slope)
        ends: list[int] = []

        def task(span: many.Span) -> None:
            ends.append(kernel(*self._tensors, *span, *step))

        self._run(task)
        bad = [k for k in ends if k >= 0]
        if bad and self.penalty is not None:
            raise ValueError(f"{where(min(bad))}the prox's point must be finite")

    def _groups(
        self, found: Coefficients, keep: float, finder: RootFinder, where: Callable[[int], str],
        runs: Sequence[_Run],
    ) -> None:  # fmt: skip
        """Step with groups; those that the kernel leaves are solved in between."""
        # Side by side, the new weights take the place of the old ones, of which an average needs both.
        name = "rows" if self.name == "side" and keep > 0.0 else self.name
        rtol = finder.relative_tolerance(float_bits(self.dtype.type(1.0)))
        solved = [
            (
                run,
                kernel_of(f"{name}_of", self.update, keep > 0.0, run.slope.shrinks, run.slope.kind),
                self._numbers(found, keep, run.slope),
                run.slope.numbers(found.step, rtol, self.dtype),
            )
            for run in runs
        ]

        self._mark_gone(runs)

        def task(span: many.Span) -> None:
            room = row_room(self._largest, self.dtype) if name == "rows" else column_room(self.dtype)
            for run, kernel, step, numbers in solved:
                part = self._shared(span, run)
                while part is not None:
                    k, unit, count = kernel(*self._tensors, *part, *step, *numbers, *room)
                    if not count:
                        break
                    left = room.hard[:count]
                    if isinstance(room, RowRoom):
                        self._finish_rows(k, run, room, left, found.step, keep, finder, where(k))
                    else:
                        self._finish_columns(k, run, step.c, left, found.step, finder, where(k))
                    part = part._replace(first=k, unit=unit)

        self._run(task)

    def _shared(self, span: many.Span, run: _Run) -> many.Span | None:
        """Return what a thread has of a run, if anything."""
        first, last = max(span.first, run.first), min(span.last, run.last)
        if first > last:
            return None
        unit = span.unit if first == span.first else 0
        return many.Span(
            first, unit, last, span.stop if last == span.last else int(self._tensors.units[last])
        )

    def _arrays(self, k: int) -> list[list[Array]]:
        """Return weights, gradient and state of each tensor of a prox, flat."""
        one, spans = self.dtype.type(1.0), self._tensors.spans
        return [
            [many.elements(address, self._lengths[s], one) for address in self.addresses[s].tolist()]
            for s in range(spans[k], spans[k + 1])
        ]

    def _rows(self, k: int, arrays: Sequence[Array], groups: Array) -> Array:
        """Return some groups of a prox as rows, of an array for each of its tensors."""
        parts = (group_rows(a, span[:4], groups) for a, span in zip(arrays, self.plans[k].spans, strict=True))
        return np.concatenate(list(parts), axis=1)

    def _write_rows(self, k: int, arrays: Sequence[Array], groups: Array, rows: Array) -> None:
        """Undo :meth:`_rows`."""
        begin = 0
        for a, (outer, length, kept, run, _) in zip(arrays, self.plans[k].spans, strict=True):
            part = rows[:, begin : begin + length * run].reshape(len(groups), length, run)
            a.reshape(outer, length, kept, run)[groups // kept, :, groups % kept] = part
            begin += length * run

    def _finish_rows(
        self, k: int, run: _Run, room: RowRoom, left: Array, step: float, keep: float, finder: RootFinder,
        where: str,
    ) -> None:  # fmt: skip
        """Solve groups whose point and metric the kernel left one after the other."""
        size = self.plans[k].size
        point, metric = (a[: len(left) * size].reshape(len(left), -1) for a in (room.x, room.d))
        z = self._solve_left(k, left, run, point, metric, step, finder, where)
        view = self._arrays(k)[0][0].reshape(-1, size)
        view[left] = keep * view[left] + (1.0 - keep) * z if keep else z

    def _finish_columns(
        self, k: int, run: _Run, coefficients: Any, left: Array, step: float, finder: RootFinder, where: str
    ) -> None:
        """Solve the groups of a block whose point the kernel left in the weights."""
        weights, _, *slots = zip(*self._arrays(k), strict=True)
        point, *state = (self._rows(k, some, left) for some in (weights, *slots))
        again = self.update.metric
        metric = None if again is None else over_arrays(again, np)(state, coefficients)
        self._write_rows(k, weights, left, self._solve_left(k, left, run, point, metric, step, finder, where))

    def _solve_left(
        self, k: int, left: Array, run: _Run, point: Array, metric: Array | None, step: float,
        finder: RootFinder, where: str,
    ) -> Array:  # fmt: skip
        """Solve groups of a tensor, given as rows, that a kernel left."""
        usable = np.isfinite(point).all(axis=1)
        if metric is not None:
            usable &= ((metric > 0) & np.isfinite(metric)).all(axis=1)
        if not usable.all():
            group = int(left[np.argmin(usable)])
            raise ValueError(
                f"{where}group {group}: the prox's point must be finite and its metric finite and > 0"
            )
        own = self.plans[k].weights
        weights = own[left] if len(own) > 1 else np.full(len(left), own[0])
        rows: Penalty
        if run.slope.kind == "table":
            rows = _Radial(run.slope.pieces, weights=weights)
        else:
            rows = replace(cast("Any", run.penalty), groups=Groups.over(1), weights=weights)
        z: Array = prox(rows, point, step, metric=metric, root_finder=finder)
        return z

    def _mark_gone(self, runs: Sequence[_Run]) -> None:
        """Say which groups are zero for certain, by the strengths from which on they are.

        Where a strength is driven, one of them is at its threshold in every step.
        """
        gone, vanish = self._tensors.gone, self._vanish
        if vanish is None:
            gone[...] = False
            return
        above = 1.0 + rounding(2.0 * self._largest + 32.0)
        for run in runs:
            part = slice(self.places[run.first], self.places[run.last + 1])
            gone[part] = vanish[part] * above <= run.penalty.strength

    def _unfused(
        self, k: int, penalty: Penalty, settings: Settings, t: int, carry: float, finder: RootFinder,
        where: Callable[[int], str],
    ) -> None:  # fmt: skip
        """Take the step of a prox as the arrays' form of the rule and :func:`proxlab.prox.prox` do."""
        keep = settings["momentum"] if self.rule.averages else 0.0
        for (w, _, *slots), z, new in self._answer(k, penalty, settings, t, carry, finder, where):
            w[...] = keep * w + (1.0 - keep) * z if keep else z
            for a, b in zip(slots, new, strict=True):
                a[...] = b

    def _answer(
        self, k: int, penalty: Penalty, settings: Settings, t: int, carry: float, finder: RootFinder,
        where: Callable[[int], str],
    ) -> list[tuple[list[Array], Array, tuple[Array, ...]]]:  # fmt: skip
        """Return the arrays of each tensor of a prox, their solution and their new state; changes nothing."""
        tensors = self._arrays(k)
        if not self._is_joint:
            shape, order = self.shapes[k], self.orders[k] or tuple(range(len(self.shapes[k])))
            lying, back = [shape[axis] for axis in order], np.argsort(order)
            tensors = [[a.reshape(lying).transpose(back) for a in tensors[0]]]
        # What overflows is found by the prox.
        with np.errstate(all="ignore"):
            proposals = [self.rule.propose(settings, w, g, tuple(s), t, carry) for w, g, *s in tensors]
        step, every = proposals[0].step, np.arange(len(self.plans[k]))
        point, metric = [p.x for p in proposals], [p.metric for p in proposals]

        def whole(arrays: list[Any]) -> Array:
            return self._rows(k, arrays, every) if self._is_joint else arrays[0]

        d = None if self.update.metric is None else whole(metric)
        try:
            z = prox(penalty, whole(point), step, metric=d, root_finder=finder)
        except ValueError as error:
            raise ValueError(f"{where(k)}{told(error)}") from error
        if self._is_joint:
            self._write_rows(k, point, every, z)
        else:
            point = [z]
        return [
            (arrays, solution, proposal.slots)
            for arrays, solution, proposal in zip(tensors, point, proposals, strict=True)
        ]


def checked_plan(penalty: Penalty | None, shape: tuple[int, ...], order: tuple[int, ...] | None) -> Plan:
    """Return how groups lie in an array, or raise an error if there is no fused pass."""
    plan = plan_of(penalty, shape, order)
    if plan is None:
        raise ValueError(f"penalty: has no fused pass over an array of shape {shape}, {penalty!r}")
    return plan


def checked_joint_plan(
    penalty: Penalty,
    joint: Sequence[Groups],
    shapes: Sequence[tuple[int, ...]],
    orders: Sequence[tuple[int, ...] | None],
) -> Plan:
    """Return how groups lie in several arrays, or raise an error if there is no fused pass."""
    plan = joint_plan(penalty, joint, shapes, orders)
    if plan is None:
        raise ValueError(f"penalty: has no fused pass over joint groups of shapes {shapes}, {penalty!r}")
    return plan


def _naming(where: Callable[[int], str], first: int) -> Callable[[int], str]:
    """Return what an error says of the proxes of a part."""
    return lambda k: where(first + k)
