"""The group minimax concave penalty."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxlab.penalties.base import Piece, RadialPenalty, flat_after, joined
from proxlab.types import Array
from proxlab.values import check_number

__all__ = ["GroupMCP"]


@dataclass(frozen=True, eq=False)
class GroupMCP(RadialPenalty):
    """The group minimax concave penalty (Zhang 2010; Breheny & Huang 2015), ``h(z) = Σ_g w_g p(‖z_g‖₂)``.

    ``p(r) = λ r - r²/2γ`` up to ``γλ`` and the constant ``γλ²/2`` from there. The prox is the *global*
    minimiser for every metric, also where the subproblem is nonconvex (``γ d_i < η w_g`` for some i; docs:
    the mathematics, §3).

    Parameters
    ----------
    lam : float
        Strength λ, at least 0.
    gamma : float
        Shape γ > 0: the penalty is flat beyond ``γλ``.
    groups : Groups, optional
        The groups; rows by default (the last axis is reduced).
    weights : None, "sqrt_size" or array_like of shape (n_groups,), optional
        Group weights ``w``, 1 by default.
    """

    lam: float
    gamma: float

    def __post_init__(self) -> None:
        """Validate the parameters."""
        super().__post_init__()
        object.__setattr__(self, "lam", check_number("lam", self.lam, 0.0))
        object.__setattr__(self, "gamma", check_number("gamma", self.gamma, 0.0, strict=True))
        if math.isinf(1.0 / self.gamma):
            raise ValueError(f"gamma: 1/gamma must be within the range of float64, got {self.gamma!r}")

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """``p'(r) = λ - r/γ``, then 0."""
        steep = Piece(0.0, 0.0, self.lam, 1.0 / self.gamma)
        return joined(steep, flat_after(steep, self.gamma * self.lam, 0.5 * self.gamma * self.lam * self.lam))

    def _exact_pieces(self, number: Callable[[float], Any]) -> list[tuple[Any, ...]]:
        none, lam, gamma = number(0.0), number(self.lam), number(self.gamma)
        flat = (gamma * lam, gamma * lam * lam / 2, none, none)
        return [(none, none, lam, 1 / gamma), flat]

    def _strength_at(self, xp: Any, r: Array, share: Array) -> Array:
        """Solve ``λ - r/2γ``, or ``γλ²/2r`` where ``r`` lies beyond ``γλ``, for λ."""
        half = 0.5 * r / self.gamma
        return xp.where(share >= half, share + half, 2.0 * (xp.sqrt(share) * xp.sqrt(half)))
