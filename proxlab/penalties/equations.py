"""The equations of a group's radius that penalties name, as data (docs: the mathematics, §2, §3 and §7).

What solves, certifies and differentiates the groups of a penalty is looked up by the class of its equation,
in :mod:`proxlab.backends.arrays`; nothing asks for the class of the penalty.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from proxlab.namespaces import namespace
from proxlab.penalties.tables import Table, exactly_convex, form

__all__ = ["Clipped", "Curved", "GroupEquation", "Radial"]

FloatArray = npt.NDArray[np.float64]


class GroupEquation(ABC):
    """What is common to all equations.

    Attributes
    ----------
    kernel : str
        The name under which kernels know it.
    shape : str
        What they have to know of the penalty, in a word.
    solvers : tuple of str
        The backends that solve it otherwise, where kernels do not know it, and leave the rest to arrays.
    """

    kernel: ClassVar[str]
    shape: ClassVar[str] = "pieces"
    solvers: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def compiled(self) -> bool:
        """Whether kernels know it; others are solved by the array form."""

    @property
    @abstractmethod
    def rows(self) -> FloatArray:
        """The numbers that kernels take, shape (k, 4): start, value, slope and curvature of each piece."""

    @property
    @abstractmethod
    def proved_convex(self) -> bool:
        """Whether it is that of a convex function, rounding or not: what a proof may rely on."""

    @property
    def flat(self) -> bool:
        """Whether nothing but the elementwise part of the penalty is there."""
        return False

    @property
    def slope_at_zero(self) -> float | None:
        """The slope of a radial penalty at zero, infinite where it jumps; None for others."""
        return None

    def slope_lines(self, radius: float) -> tuple[Any, Any] | None:
        """Return the slope up to a radius as lines to draw, with NaN between them, if there are any."""
        return None


@dataclass(frozen=True)
class Radial(GroupEquation):
    """``G(r, η p'(r)) = 1`` for a penalty ``p(‖z‖₂)`` whose slope is affine on each piece of a table."""

    table: Table
    kernel: ClassVar[str] = "radial"

    @property
    def compiled(self) -> bool:
        """Whether the table has a form that kernels know."""
        return form(self.table).has_kernels

    @property
    def rows(self) -> FloatArray:
        """The table."""
        return np.array(self.table)

    @property
    def proved_convex(self) -> bool:
        """Whether the slope never falls, by the pieces and not by what the penalty says of itself."""
        return exactly_convex(self.table)

    @property
    def slope_at_zero(self) -> float:
        """That of the first piece."""
        return math.inf if self.table[0].value > 0 else self.table[0].a

    @property
    def flat(self) -> bool:
        """Whether there is no radial part."""
        return len(self.table) == 1 and not any(self.table[0])

    def slope_lines(self, radius: float) -> tuple[Any, Any]:
        """Return a line for each piece."""
        xs, ys = [], []
        for piece, end in zip(self.table, [*(q.start for q in self.table[1:]), radius], strict=True):
            part = np.array([piece.start, max(min(end, radius), piece.start)])
            xs += [*part, np.nan]
            ys += [*(piece.a - piece.c * part), np.nan]
        return np.array(xs), np.array(ys)


@dataclass(frozen=True)
class Clipped(GroupEquation):
    """``Σ d (|x| - t)₊ = η λ w`` for ``λ‖z‖_∞``: all elements are clipped at the level ``t``."""

    lam: float
    kernel: ClassVar[str] = "clipped"

    @property
    def compiled(self) -> bool:
        """Always true."""
        return True

    @property
    def rows(self) -> FloatArray:
        """The strength as the slope of one piece."""
        return np.array([[0.0, 0.0, self.lam, 0.0]])

    @property
    def proved_convex(self) -> bool:
        """Always true: a norm."""
        return True


@dataclass(frozen=True)
class Curved(GroupEquation):
    """``G(r, η p'(r)) = 1`` for a penalty ``p(‖z‖₂)`` whose slope is a curve: functions of the penalty."""

    penalty: Any
    kernel: ClassVar[str] = "curved"
    shape: ClassVar[str] = "slope"
    solvers: ClassVar[tuple[str, ...]] = ("numba",)

    @property
    def compiled(self) -> bool:
        """Always false: it has a search of its own."""
        return False

    @property
    def rows(self) -> FloatArray:
        """No numbers say what the functions are."""
        raise TypeError("penalty: a curved slope has no table")

    @property
    def proved_convex(self) -> bool:
        """Always false: what a penalty says of itself is no proof."""
        return False

    @property
    def slope_at_zero(self) -> float:
        """The limit of the slope."""
        none = np.zeros(1)
        return float(self.penalty.curve(namespace(none)).slope(none)[0])

    def slope_lines(self, radius: float) -> tuple[Any, Any]:
        """Return one line, from a little above zero."""
        r = np.geomspace(2e-3 * radius, radius, 601)
        return r, self.penalty.curve(namespace(r)).slope(r)
