"""The group smoothly clipped absolute deviation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxlab.penalties.base import Piece, RadialPenalty, flat_after, joined
from proxlab.types import Array
from proxlab.values import check_number

__all__ = ["GroupSCAD"]


@dataclass(frozen=True, eq=False)
class GroupSCAD(RadialPenalty):
    """Group SCAD (Fan & Li 2001), ``h(z) = Σ_g w_g p(‖z_g‖₂)``.

    ``p'(r) = λ`` up to ``λ``, then ``(aλ - r)/(a - 1)`` up to ``aλ``, then 0. The prox is the *global*
    minimiser.

    Parameters
    ----------
    lam : float
        Strength λ, at least 0.
    a : float
        Shape, more than 2: the penalty is flat beyond ``aλ``.
    groups : Groups, optional
        The groups; rows by default (the last axis is reduced).
    weights : None, "sqrt_size" or array_like of shape (n_groups,), optional
        Group weights ``w``, 1 by default.
    """

    lam: float
    a: float

    def __post_init__(self) -> None:
        """Validate the parameters."""
        super().__post_init__()
        object.__setattr__(self, "lam", check_number("lam", self.lam, 0.0))
        object.__setattr__(self, "a", check_number("a", self.a, 2.0, strict=True))

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """``p'(r) = λ``, then ``(aλ - r)/(a - 1)``, then 0."""
        lam, a = self.lam, self.a
        steep = Piece(lam, lam * lam, lam * (a / (a - 1.0)), 1.0 / (a - 1.0))
        flat = flat_after(steep, a * lam, 0.5 * (a + 1.0) * lam * lam)
        return joined(Piece(0.0, 0.0, lam, 0.0), steep, flat)

    def _exact_pieces(self, number: Callable[[float], Any]) -> list[tuple[Any, ...]]:
        none, lam, a = number(0.0), number(self.lam), number(self.a)
        middle = (lam, lam * lam, a * lam / (a - 1), 1 / (a - 1))
        return [(none, none, lam, none), middle, (a * lam, lam * lam * (a + 1) / 2, none, none)]

    def _strength_at(self, xp: Any, r: Array, share: Array) -> Array:
        """Solve each of the three pieces for λ."""
        # In units of r.
        a, share = self.a, share / r
        root = xp.sqrt(a - 1.0 + 0.0 * r) * xp.sqrt(xp.maximum(a + 1.0 - 2.0 * share, xp.zeros_like(r)))
        bend = (1.0 + 2.0 * (a - 1.0) * share) / (a + root)
        flat = xp.sqrt(2.0 * (share / (a + 1.0)))
        return r * xp.where(share >= 1.0, share, xp.where(a * flat <= 1.0, flat, bend))
