"""How groups lie in an array and what their penalty is: which kernel of the fused pass takes them, and what
it is told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from proxlab.arguments import check_group_weights
from proxlab.groups import AxisLayout, Groups
from proxlab.optim.fused_columns import BLOCK, ROWS
from proxlab.optim.fused_groups import Numbers
from proxlab.optim.fused_rows import STRIP
from proxlab.optim.fused_side import SHORT
from proxlab.penalties import Penalty
from proxlab.penalties.equations import Clipped
from proxlab.penalties.tables import SLOPE_ROUNDING, Piece, Table, jumps

__all__ = ["FREE", "Plan", "Slope", "joint_plan", "plan_of", "slope_of"]

Array = np.ndarray[Any, Any]

#: Columns that a block has a multiple of: what is fetched together.
COLUMNS = 16
#: Elements of a group side by side from which on they are cut into rows of about half as many.
RUN = 256
#: Short contiguous groups of which another kernel is worth being compiled: fewer take a few microseconds.
FEWEST = 256
#: Elements of a block whose groups are contiguous, so that it stays in the cache.
NEAR = 1 << 15

Shape = tuple[int, int, int, int, int]


@dataclass(frozen=True, eq=False)
class Plan:
    """How the groups of a penalty lie in an array of a shape, or in several that they all have a part in.

    Attributes
    ----------
    name : str
        The kernel: "flow" where there are no groups; "rows" of contiguous ones, "side" where these are short
        and many; else "columns".
    spans : tuple of tuple of int
        Of each array: sizes of outer kept, outer reduced, inner kept and inner reduced axes, and into how
        many rows the last is cut.
    weights : array
        One per group, or one for all.
    """

    name: str
    spans: tuple[Shape, ...] = ((1, 1, 1, 1, 1),)
    weights: Array = field(default_factory=lambda: np.ones(1))

    @property
    def size(self) -> int:
        """Elements of a group."""
        return sum(shape[1] * shape[3] for shape in self.spans)

    def __len__(self) -> int:
        """Return the number of groups."""
        outer, _, kept, _, _ = self.spans[0]
        return outer * kept

    def per_block(self, parts: int) -> int:
        """Groups of a block of columns, where there are to be at least so many blocks."""
        across = [_across(shape, parts) for shape in self.spans if shape[1] > 1 and shape[4] == 1]
        near = min(NEAR // self.size, -(-len(self) // parts), BLOCK)
        return max(1, min(across, default=near))

    def doubt(self, dtype: Any) -> float:
        """Return what a sum may be wrong by, relative to itself."""
        terms = ROWS if self.name == "columns" else min(self.size, int(STRIP))
        return (terms + 32.0) * _unit(dtype)


def _across(shape: Shape, parts: int) -> int:
    """Return how many groups of a block suit an array across whose rows they lie."""
    _, _, kept, run, _ = shape
    blocks = max(parts, -(-kept * run // BLOCK))
    # Whole cache lines, and no columns beside the vectors.
    whole = COLUMNS // math.gcd(COLUMNS, run)
    wanted = -(-kept // blocks)
    wanted += -wanted % whole
    return min(wanted, BLOCK // run, kept)


class Curve(NamedTuple):
    """A curve whose slope falls and is convex: its strength, and the addresses of its functions.

    Attributes
    ----------
    strength : float
    table : array of int of shape (1, 4)
        As :mod:`proxlab.optim.fused_curves` takes it.
    held : tuple
        What has to live as long as the addresses.
    """

    strength: float
    table: Array
    held: tuple[Any, ...]


class Slope(NamedTuple):
    """What the kernels need of a penalty beside its groups: what its strength decides on.

    Attributes
    ----------
    pieces : tuple of Piece
        Of the radial part; empty where there is none.
    curve : Curve or None
        Its curve, where it is no table of pieces.
    cut : float
        Strength of the elementwise part.
    minus : float
        0 where negative weights are to be zero, else 1.
    clip : float
        Strength of the maximum norm, where it is that.
    """

    pieces: tuple[Piece, ...] = ()
    cut: float = 0.0
    minus: float = 1.0
    curve: Curve | None = None
    clip: float = 0.0

    @property
    def kind(self) -> str:
        """Which functions decide on a group: "table", "curve" or "clipped"."""
        return "clipped" if self.clip > 0.0 else "table" if self.curve is None else "curve"

    @property
    def has_groups(self) -> bool:
        """Whether there is more than an elementwise part."""
        return bool(self.pieces) or self.kind != "table"

    def is_like(self, other: Slope) -> bool:
        """Return whether the same kernel takes both."""
        return (self.has_groups, self.kind) == (other.has_groups, other.kind)

    @property
    def shrinks(self) -> bool:
        """Whether there is an elementwise part."""
        return self.cut > 0.0 or self.minus == 0.0

    def numbers(self, step: float, rtol: float, dtype: Any) -> Numbers:
        """Return what the kernels read of penalty, step and precision; the doubt is that of each tensor."""
        unit, low = _unit(dtype), 1e-30 if dtype == np.float32 else 1e-200
        if self.curve is not None:
            strength, table, _ = self.curve
            return Numbers(table, True, math.inf, max(rtol, 2.0 * unit), unit, low, step * strength, 0.0)
        if self.clip > 0.0:
            nothing, _ = _table(())
            return Numbers(nothing, True, math.inf, max(rtol, 2.0 * unit), unit, low, step * self.clip, 0.0)
        finest = self.pieces[1].start if len(self.pieces) > 1 else math.inf
        table, alone = _table(self.pieces)
        return Numbers(table, alone, finest, max(rtol, 2.0 * unit), unit, low, step, 0.0)


@lru_cache(maxsize=256)
def _table(pieces: Table) -> tuple[Array, bool]:
    """Return the pieces with their ends and runs, and whether all runs but the first are flat."""
    if not pieces:
        return np.zeros((0, 7)), True
    joins = [abs(up) <= SLOPE_ROUNDING * size for up, size in jumps(pieces)]
    begins = [
        0, *(k for k, joint in enumerate(joins, 1) if not joint or pieces[k].c < pieces[k - 1].c), len(pieces)
    ]  # fmt: skip
    runs = [(first, after) for first, after in pairwise(begins) for _ in range(first, after)]
    ends = [*(piece.start for piece in pieces[1:]), math.inf]
    rows = [(*piece, end, *run) for piece, end, run in zip(pieces, ends, runs, strict=True)]
    return np.array(rows), not any(piece.a or piece.c for piece in pieces[begins[1] :])


def _unit(dtype: Any) -> float:
    return 2.0**-24 if dtype == np.float32 else 2.0**-53


FREE = Plan("flow")


def slope_of(penalty: Penalty | None) -> Slope | None:
    """Return the slope of a penalty, or None if there is no fused pass."""
    if penalty is None:
        return Slope()
    equation = penalty.equation
    if equation.kernel == "curved":
        return _curved(penalty)
    if isinstance(equation, Clipped):
        return Slope(clip=equation.lam)
    if equation.kernel != "radial":
        return None
    pieces = () if equation.flat else tuple(Piece(*row) for row in equation.rows.tolist())
    # Where the slope jumps up minimisers gather, and each of them would be left to the general solver.
    if any(up > SLOPE_ROUNDING * size for up, size in jumps(pieces)):
        return None
    return Slope(pieces, penalty.threshold, 0.0 if penalty.nonnegative else 1.0)


def _curved(penalty: Any) -> Slope | None:
    """Return the slope of a curve, if it falls and is convex, and its functions can be compiled."""
    from proxlab.backends.numba_curved import compiled_functions, own_numbers

    strength, unit = penalty._split()
    compiled = compiled_functions(unit) if penalty.slope_falls and penalty.slope_is_convex else None
    if compiled is None:
        return None
    own = own_numbers(compiled, unit)
    table = np.array([[*compiled.addresses, own.ctypes.data]], np.int64)
    # A slope that falls from zero is none.
    first = float(strength) * float(compiled.functions[1](own.ctypes.data, 0.0))
    curve = Curve(float(strength), table, (compiled, own)) if first > 0.0 else None
    return Slope((), 0.0, 0.0 if penalty.nonnegative else 1.0, curve)


@lru_cache(maxsize=256)
def plan_of(
    penalty: Penalty | None, shape: tuple[int, ...], order: tuple[int, ...] | None = None
) -> Plan | None:
    """Return the plan of an array, or None if there is no fused pass.

    ``order`` are its axes in the order in which they lie in memory, where that is not C order.
    """
    if penalty is None:
        return FREE
    layout = penalty.groups.layout(shape)
    if not isinstance(layout, AxisLayout):
        return None
    weights = check_group_weights(penalty, layout)
    if order is not None:
        if layout.shape != shape:
            return None
        weights = _reordered(weights, layout, order)
        layout = _lying(layout, order)
    geometry, slope = layout.canonical_shape(), slope_of(penalty)
    if geometry is None or slope is None:
        return None
    if not slope.has_groups:
        return FREE
    _, length, between, _ = geometry
    if length == 1 and between == 1:
        short = geometry[3] <= SHORT and layout.n_groups >= FEWEST
        return Plan("side" if short else "rows", ((*geometry, 1),), weights)
    span = _span(geometry)
    return None if span is None else Plan("columns", (span,), weights)


def joint_plan(
    penalty: Penalty,
    groups: Sequence[Groups],
    shapes: Sequence[tuple[int, ...]],
    orders: Sequence[tuple[int, ...] | None],
) -> Plan | None:
    """Return the plan of groups that have a part in each of some arrays, or None if there is no fused pass.

    ``penalty`` is that of rows in which the parts stand one after the other.
    """
    slope = slope_of(penalty)
    if slope is None or not slope.has_groups:
        return None
    spans: list[Shape] = []
    n_groups, size = 1, 0
    for own, shape, order in zip(groups, shapes, orders, strict=True):
        layout = own.layout(shape)
        if not isinstance(layout, AxisLayout):
            return None
        if order is not None:
            # Groups of several axes might be counted in another order than in the other arrays.
            if layout.shape != shape or len(layout.kept) > 1:
                return None
            layout = _lying(layout, order)
        geometry = layout.canonical_shape()
        span = None if geometry is None else _span(geometry)
        if span is None:
            return None
        if spans and layout.n_groups != n_groups:
            raise ValueError(f"every array must have as many groups, got {n_groups} and {layout.n_groups}")
        spans.append(span)
        n_groups, size = layout.n_groups, size + layout.group_size
    weights = check_group_weights(penalty, penalty.groups.layout((n_groups, size)))
    return Plan("columns", tuple(spans), weights)


def _span(shape: tuple[int, int, int, int]) -> Shape | None:
    """Return how an array is gone through in columns, or None if that is not possible."""
    outer, length, kept, run = shape
    if length == 1 and kept == 1 and run < RUN:
        # Short contiguous groups are rows of one array.
        outer, kept = 1, outer
    cuts = 1
    if run >= RUN:
        half = RUN // 2
        widths = [n for n in range(COLUMNS, min(run, BLOCK) + 1) if run % n == 0]
        if not widths:
            return None
        cuts = run // min(widths, key=lambda n: max(n / half, half / n))
    return outer, length, kept, run, cuts


def _lying(layout: AxisLayout, order: tuple[int, ...]) -> AxisLayout:
    """Return a layout with the axes in the order in which they lie in memory."""
    reduced, kept = (
        tuple(i for i, k in enumerate(order) if k in axes) for axes in (layout.reduced, layout.kept)
    )
    return AxisLayout(tuple(layout.shape[k] for k in order), reduced, kept)


def _reordered(weights: Array, layout: AxisLayout, order: tuple[int, ...]) -> Array:
    """Return one weight per group in the order in which the groups lie in memory."""
    if len(weights) == 1:
        return weights
    kept = [k for k in order if k in layout.kept]
    axes = [layout.kept.index(k) for k in kept]
    return weights.reshape([layout.shape[k] for k in layout.kept]).transpose(axes).reshape(-1)
