"""The fused pass of the optimizers over NumPy arrays: state, weights and prox without arrays in between.

Contiguous groups are solved one after the other while they are in the cache. Groups along other axes are
solved in blocks of neighbouring columns, whose point is written to the weights and whose metric is formed
anew from the state: nothing is kept for each element, and every pass streams through whole rows. A thread
keeps a scratch of about a megabyte; a contiguous group that does not fit gets its own for the step.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from proxlab.arguments import check_group_weights, compiles, float_bits
from proxlab.backends import threads
from proxlab.backends.build import Target, over_arrays
from proxlab.backends.numba_cpu import COMPILATION, group_rows, made, outermost
from proxlab.groups import AxisLayout
from proxlab.optim import fused_kernels as kernels
from proxlab.optim.rules import Rule, Settings
from proxlab.optim.updates import SGD, Update
from proxlab.penalties import Penalty, RadialPenalty
from proxlab.penalties.base import Piece
from proxlab.prox import prox
from proxlab.rootfinders import Newton, RootFinder

__all__ = ["applies", "step"]

Array = np.ndarray[Any, Any]

#: Elements of a thread's scratch.
SCRATCH = 1 << 16
#: Columns that a block has a multiple of: what is fetched together.
COLUMNS = 16
#: Contiguous groups that are shorter are columns of a matrix with one row.
SHORT = 64

TARGET = Target(made, COMPILATION)
_local = threading.local()


@lru_cache(maxsize=256)
def _kernel(name: str, update: Update, averages: bool, shrinks: bool) -> Any:
    """Compile a function of :mod:`proxlab.optim.fused_kernels` for a rule; it is cached on disk."""
    count = len(update.slots)
    chosen = {
        "read": f"read{count}",
        "write": f"write{count}",
        "metric": "metric_unit" if update.metric is None else "metric_own",
        "blend": "blend_average" if averages else "blend_new",
    }
    names = {key: getattr(kernels, target) for key, target in chosen.items()}
    names |= {"state": update.state, "point": update.point, "SHRINKS": shrinks}
    if update.metric is not None:
        names["form"] = update.metric
    return outermost(TARGET, getattr(kernels, name), names)


@dataclass(frozen=True, eq=False)
class _Radial(RadialPenalty):
    """The radial part of a penalty, over rows: what is left of groups after the elementwise part."""

    table: tuple[Piece, ...]

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """As the penalty has them."""
        return self.table


@dataclass(frozen=True, eq=False)
class _Plan:
    """How the groups of a penalty lie in an array of a shape, and what the kernels need of the penalty.

    Attributes
    ----------
    name : str
        The kernel: "flow" where there are no groups, else "rows" or "columns".
    shape : tuple of int
        Sizes of outer kept, outer reduced, inner kept and inner reduced axes.
    weights : array
        One per group, or one for all.
    pieces : tuple of Piece
    cut : float
        Strength of the elementwise part.
    minus : float
        0 where negative weights are to be zero, else 1.
    """

    name: str
    shape: tuple[int, int, int, int] = (1, 1, 1, 1)
    weights: Array = field(default_factory=lambda: np.ones(1))
    pieces: tuple[Piece, ...] = ()
    cut: float = 0.0
    minus: float = 1.0

    @property
    def shrinks(self) -> bool:
        """Whether there is an elementwise part."""
        return self.cut > 0.0 or self.minus == 0.0

    @property
    def size(self) -> int:
        """Elements of a group."""
        return self.shape[1] * self.shape[3]

    def __len__(self) -> int:
        """Return the number of groups."""
        return self.shape[0] * self.shape[2]

    def blocks(self, per_block: int) -> int:
        """Return the number of blocks of so many groups."""
        return self.shape[0] * -(-self.shape[2] // per_block)

    def per_block(self, parts: int) -> int:
        """Groups of a block of columns, where there are to be at least so many blocks."""
        _, _, kept, run = self.shape
        blocks = max(parts, -(-kept * run // kernels.BLOCK))
        # Whole cache lines, and no columns beside the vectors.
        whole = COLUMNS // math.gcd(COLUMNS, run)
        wanted = -(-kept // blocks)
        wanted += -wanted % whole
        return max(1, min(wanted, kernels.BLOCK // run, kept))

    def numbers(self, step: float, rtol: float, dtype: Any) -> kernels.Numbers:
        """Return what the kernels read of penalty, step and precision."""
        first, last = self.pieces[0], self.pieces[-1]
        unit, low = (2.0**-24, 1e-30) if dtype == np.float32 else (2.0**-53, 1e-200)
        # What a sum of as many terms may be wrong by.
        terms = kernels.ROWS if self.name == "columns" else min(self.size, int(kernels.STRIP))
        end = last.start if len(self.pieces) > 1 else math.inf
        doubt = (terms + 32.0) * unit
        return kernels.Numbers(
            first.a, first.c, end, first.value, last.value, max(rtol, 2.0 * unit), unit, low, step, doubt
        )


_FREE = _Plan("flow")


@lru_cache(maxsize=256)
def _plan(penalty: Penalty | None, shape: tuple[int, ...]) -> _Plan | None:
    """Return the plan, or None if there is no fused pass."""
    if penalty is None:
        return _FREE
    layout = penalty.groups.layout(shape)
    geometry = layout.canonical_shape() if isinstance(layout, AxisLayout) else None
    equation = penalty.equation
    if geometry is None or equation.kernel != "radial" or not equation.compiled:
        return None
    pieces = tuple(Piece(*row) for row in equation.rows.tolist())
    cut, minus = penalty.threshold, 0.0 if penalty.nonnegative else 1.0
    if equation.flat:
        return _Plan("flow", cut=cut, minus=minus)
    if len(pieces) > 2:
        return None
    outer, length, kept, run = geometry
    name = "columns"
    if length == 1 and kept == 1:
        if run >= SHORT:
            name = "rows"
        else:
            outer, kept = 1, outer
    if name == "columns" and run > kernels.BLOCK:
        return None
    return _Plan(name, (outer, length, kept, run), check_group_weights(penalty, layout), pieces, cut, minus)


def applies(penalty: Penalty | None, w: Array) -> bool:
    """Return whether there is a fused pass for a penalty and a parameter; there is one for every rule.

    There is one for arrays of float32 and float64 in C order and for radial penalties whose slope has one
    piece, or one and a flat end, and whose groups are axes.
    """
    native = w.dtype in (np.float32, np.float64) and w.flags.c_contiguous
    return bool(native) and compiles() and _plan(penalty, w.shape) is not None


def step(
    rule: Rule,
    settings: Settings,
    penalty: Penalty | None,
    w: Array,
    grad: Array,
    slots: tuple[Array, ...],
    t: int,
    carry: float,
    finder: RootFinder,
) -> float:
    """Take a step of a method in place.

    Parameters
    ----------
    rule, settings, t, carry
        As in :meth:`proxlab.optim.rules.Rule.propose`.
    penalty : Penalty or None
    w, grad : array
        The parameter, which becomes the new one, and its gradient: in C order, of one shape and dtype.
    slots : tuple of array
        The state, which becomes the new one.
    finder : RootFinder
        Solves the prox. With other options than the defaults of Newton's method, and where an average is
        taken of groups that are not contiguous, the step is not fused.

    Returns
    -------
    float
        The new carry.

    Raises
    ------
    TypeError, ValueError
        If an array is not as above, or the parameter and the state share memory, or there is no fused pass
        for the penalty; nothing has changed then.
    ValueError
        If the gradient of a penalised parameter is not finite: nothing has changed then. Or if the prox's
        point or metric is not, though the gradient is: parameter and state are undefined then.
    """
    update, found = rule.select(settings), rule.coefficients(settings, t, carry)
    _check_arrays(update, w, grad, slots)
    if any(np.may_share_memory(grad, a) for a in (w, *slots)):
        grad = grad.copy()
    if w.size == 0:
        return found.carry
    plan = _plan(penalty if found.step > 0.0 else None, w.shape)
    if plan is None:
        raise ValueError(f"penalty: has no fused pass over an array of shape {w.shape}, {penalty!r}")
    keep = settings["momentum"] if rule.averages else 0.0
    number = w.dtype.type
    one, g = number(1.0), grad.reshape(-1)
    # Of the groups' lengths, where they come with the check of the gradient.
    squares = np.empty(len(plan)) if plan.name == "columns" else None
    if plan is not _FREE:
        fused = finder == Newton() and not (keep and plan.name == "columns")
        if not (fused and _is_finite(plan, w.reshape(-1), g, squares, one)):
            return _unfused(rule, settings, penalty, w, grad, slots, t, carry, finder)
    kernel = _kernel(plan.name, update, keep > 0.0, plan.shrinks)
    flat = w.reshape(-1)
    formulas = found.formulas
    c = type(formulas)(*[number(a) for a in formulas])
    data = (flat, g, tuple([a.reshape(-1) for a in slots]), c)
    elementwise = number(found.step * plan.cut), number(plan.minus)
    if plan.name == "flow":

        def flow(begin: int, finish: int) -> int:
            total = kernel(*data, begin, finish, *elementwise, number(keep), one)
            return -1 if total == 0.0 or plan is _FREE else begin

        if threads.run(flow, w.size, w.size) >= 0:
            raise ValueError("the prox's point must be finite")
        return found.carry

    rtol = finder.relative_tolerance(float_bits(w))
    numbers = plan.numbers(found.step, rtol, w.dtype)

    def rows(begin: int, finish: int) -> int:
        x, d, hard, part, _, _ = _scratch(plan.size, w.dtype)
        capacity = len(x) // plan.size
        while begin < finish:
            begin, count = kernel(
                *data, plan.shape, begin, finish, plan.weights, *numbers, *elementwise, number(keep), one, x,
                d, hard[:capacity], part,
            )  # fmt: skip
            if count:
                left = hard[:count]
                point, metric = (a[: count * plan.size].reshape(count, -1) for a in (x, d))
                z = _solve(plan, left, point, metric, found.step, finder)
                view = flat.reshape(-1, plan.size)
                view[left] = keep * view[left] + (1.0 - keep) * z if keep else z
        return -1

    def columns(begin: int, finish: int) -> int:
        _, _, hard, part, total, values = _scratch(1, w.dtype)
        while begin < finish:
            begin, count = kernel(
                *data, plan.shape, begin, finish, plan.weights, *numbers, *elementwise, one, hard, part,
                total, values, per_block, squares,
            )  # fmt: skip
            if count:
                _finish_columns(plan, update, data, hard[:count], found.step, finder)
        return -1

    if plan.name == "rows":
        threads.run(rows, len(plan), w.size)
    else:
        per_block = plan.per_block(threads.available())
        threads.run(columns, plan.blocks(per_block), w.size)
    return found.carry


def _check_arrays(update: Update, w: Array, grad: Array, slots: tuple[Array, ...]) -> None:
    """Raise an error if compiled code would read or write beside an array, or read what it has written."""
    names = [slot.name for slot in update.slots]
    if len(slots) != len(names):
        raise ValueError(f"slots: must be {', '.join(names) or 'none'}, got {len(slots)} arrays")
    arrays: list[tuple[str, Any]] = [("w", w), ("grad", grad), *zip(names, slots, strict=True)]
    for name, a in arrays:
        if not isinstance(a, np.ndarray) or a.dtype not in (np.float32, np.float64) or a.dtype != w.dtype:
            kind = f"an array of {a.dtype}" if isinstance(a, np.ndarray) else type(a).__name__
            raise TypeError(f"{name}: must be an array of float32 or float64 as the others, got {kind}")
        if a.shape != w.shape:
            raise ValueError(f"{name}: must have the shape of w, {w.shape}, got {a.shape}")
        flags = a.flags
        if not (flags.c_contiguous and flags.aligned and (flags.writeable or a is grad)):
            raise ValueError(f"{name}: must be in C order, aligned and writeable")
    for k, (name, a) in enumerate(zip(names, slots, strict=True)):
        if any(np.may_share_memory(a, b) for b in (w, *slots[:k])):
            raise ValueError(f"{name}: must not share memory with w or another array of the state")


def _finish_columns(
    plan: _Plan, update: Update, data: tuple[Any, ...], left: Array, step: float, finder: RootFinder
) -> None:
    """Solve the groups of a block whose point the kernel left in the weights."""
    w, _, slots, c = data
    _, _, kept, _ = plan.shape
    outer, column = left[0] // kept, left % kept
    point, *state = (group_rows(a, plan.shape, left) for a in (w, *slots))
    metric = None if update.metric is None else over_arrays(update.metric, np)(state, c)
    z = _solve(plan, left, point, metric, step, finder)
    w.reshape(plan.shape)[outer][:, column] = z.reshape(len(left), plan.shape[1], -1).transpose(1, 0, 2)


def _solve(
    plan: _Plan, left: Array, point: Array, metric: Array | None, step: float, finder: RootFinder
) -> Array:
    """Solve groups, given as rows, that a kernel left."""
    usable = np.isfinite(point).all(axis=1)
    if metric is not None:
        usable &= ((metric > 0) & np.isfinite(metric)).all(axis=1)
    if not usable.all():
        group = int(left[np.argmin(usable)])
        raise ValueError(f"group {group}: the prox's point must be finite and its metric finite and > 0")
    weights = plan.weights[left] if len(plan.weights) > 1 else np.full(len(left), plan.weights[0])
    z: Array = prox(_Radial(plan.pieces, weights=weights), point, step, metric=metric, root_finder=finder)
    return z


def _is_finite(plan: _Plan, w: Array, g: Array, squares: Array | None, one: Any) -> bool:
    """Return whether the squares of the gradient are finite.

    Those of the weights come along for groups of columns: their sum goes to ``squares``.
    """
    if squares is None:
        kernel = _kernel("invalid", SGD, False, False)
        return threads.run(lambda b, f: -1 if kernel(g, b, f, one) == 0.0 else b, g.size, g.size) < 0
    scan, per_block = _kernel("scan", SGD, False, False), plan.per_block(threads.available())

    def task(begin: int, finish: int) -> int:
        _, _, _, part, total, _ = _scratch(1, w.dtype)
        finite = scan(w, g, plan.shape, begin, finish, per_block, one, part, total, squares)
        return -1 if finite else begin

    return threads.run(task, plan.blocks(per_block), g.size) < 0


def _unfused(
    rule: Rule, settings: Settings, penalty: Penalty | None, w: Array, grad: Array, slots: tuple[Array, ...],
    t: int, carry: float, finder: RootFinder,
) -> float:  # fmt: skip
    """Take the step as the arrays' form of the rule and :func:`proxlab.prox.prox` do."""
    assert penalty is not None
    # What overflows is found by the prox.
    with np.errstate(all="ignore"):
        proposal = rule.propose(settings, w, grad, slots, t, carry)
    z = prox(penalty, proposal.x, proposal.step, metric=proposal.metric, root_finder=finder)
    keep = settings["momentum"] if rule.averages else 0.0
    w[...] = keep * w + (1.0 - keep) * z if keep else z
    for a, new in zip(slots, proposal.slots, strict=True):
        a[...] = new
    return proposal.carry


def _scratch(size: int, dtype: Any) -> tuple[Array, ...]:
    """Return the thread's arrays: point, metric, numbers of groups, sums and data of groups.

    Point and metric have at least ``size`` elements, and are kept unless they are large.
    """
    held: dict[str, tuple[Array, ...]] = _local.__dict__
    found = held.get(dtype.char)
    if found is None or len(found[0]) < size:
        n = max(size, SCRATCH)
        sums = 8 * int(kernels.PITCH)
        found = (
            np.empty(n, dtype), np.empty(n, dtype), np.empty(max(kernels.BLOCK, n // SHORT), np.int64),
            np.empty(sums, dtype), np.empty(sums), np.empty((6, kernels.BLOCK)),
        )  # fmt: skip
        if n == SCRATCH:
            held[dtype.char] = found
    return found
