"""How groups lie in an array and what their penalty is: which kernel of the fused pass takes them, and what
it is told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from proxlab.arguments import check_group_weights
from proxlab.groups import AxisLayout
from proxlab.optim import fused_kernels as kernels
from proxlab.penalties import Penalty
from proxlab.penalties.base import Piece

__all__ = ["FREE", "Plan", "Slope", "plan_of", "slope_of"]

Array = np.ndarray[Any, Any]

#: Columns that a block has a multiple of: what is fetched together.
COLUMNS = 16


@dataclass(frozen=True, eq=False)
class Plan:
    """How the groups of a penalty lie in an array of a shape.

    Attributes
    ----------
    name : str
        The kernel: "flow" where there are no groups, else "rows" or "columns".
    shape : tuple of int
        Sizes of outer kept, outer reduced, inner kept and inner reduced axes.
    weights : array
        One per group, or one for all.
    """

    name: str
    shape: tuple[int, int, int, int] = (1, 1, 1, 1)
    weights: Array = field(default_factory=lambda: np.ones(1))

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

    def doubt(self, dtype: Any) -> float:
        """Return what a sum may be wrong by, relative to itself."""
        terms = kernels.ROWS if self.name == "columns" else min(self.size, int(kernels.STRIP))
        return (terms + 32.0) * _unit(dtype)


class Slope(NamedTuple):
    """What the kernels need of a penalty beside its groups: what its strength decides on.

    Attributes
    ----------
    pieces : tuple of Piece
        Of the radial part; empty where there is none.
    cut : float
        Strength of the elementwise part.
    minus : float
        0 where negative weights are to be zero, else 1.
    """

    pieces: tuple[Piece, ...] = ()
    cut: float = 0.0
    minus: float = 1.0

    @property
    def shrinks(self) -> bool:
        """Whether there is an elementwise part."""
        return self.cut > 0.0 or self.minus == 0.0

    def numbers(self, step: float, rtol: float, dtype: Any) -> kernels.Numbers:
        """Return what the kernels read of penalty, step and precision; the doubt is that of each tensor."""
        first, last = self.pieces[0], self.pieces[-1]
        unit, low = _unit(dtype), 1e-30 if dtype == np.float32 else 1e-200
        end = last.start if len(self.pieces) > 1 else math.inf
        rtol = max(rtol, 2.0 * unit)
        return kernels.Numbers(first.a, first.c, end, first.value, last.value, rtol, unit, low, step, 0.0)


def _unit(dtype: Any) -> float:
    return 2.0**-24 if dtype == np.float32 else 2.0**-53


FREE = Plan("flow")


def slope_of(penalty: Penalty | None) -> Slope | None:
    """Return the slope of a penalty, or None if there is no fused pass."""
    if penalty is None:
        return Slope()
    equation = penalty.equation
    if equation.kernel != "radial" or not equation.compiled:
        return None
    pieces = () if equation.flat else tuple(Piece(*row) for row in equation.rows.tolist())
    return None if len(pieces) > 2 else Slope(pieces, penalty.threshold, 0.0 if penalty.nonnegative else 1.0)


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
        lying = tuple(shape[k] for k in order)
        reduced, kept = (
            tuple(i for i, k in enumerate(order) if k in axes) for axes in (layout.reduced, layout.kept)
        )
        layout = AxisLayout(lying, reduced, kept)
    geometry, slope = layout.canonical_shape(), slope_of(penalty)
    if geometry is None or slope is None:
        return None
    if not slope.pieces:
        return FREE
    _, length, between, run = geometry
    name = "rows" if length == 1 and between == 1 else "columns"
    if name == "columns" and run > kernels.BLOCK:
        return None
    return Plan(name, geometry, weights)


def _reordered(weights: Array, layout: AxisLayout, order: tuple[int, ...]) -> Array:
    """Return one weight per group in the order in which the groups lie in memory."""
    if len(weights) == 1:
        return weights
    kept = [k for k in order if k in layout.kept]
    axes = [layout.kept.index(k) for k in kept]
    return weights.reshape([layout.shape[k] for k in layout.kept]).transpose(axes).reshape(-1)
