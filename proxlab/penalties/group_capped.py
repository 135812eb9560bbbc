"""The capped group norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxlab.penalties.base import Piece, RadialPenalty
from proxlab.types import Array
from proxlab.values import check_number

__all__ = ["GroupCapped"]


@dataclass(frozen=True, eq=False)
class GroupCapped(RadialPenalty):
    """The capped group norm (Zhang 2010), ``h(z) = Σ_g w_g λ min(‖z_g‖₂, θ)``.

    The prox is the *global* minimiser.

    Parameters
    ----------
    lam : float
        Strength λ, at least 0.
    theta : float
        Cap θ > 0: groups of larger norm pay no more.
    groups : Groups, optional
        The groups; rows by default (the last axis is reduced).
    weights : None, "sqrt_size" or array_like of shape (n_groups,), optional
        Group weights ``w``, 1 by default.
    """

    lam: float
    theta: float

    def __post_init__(self) -> None:
        """Validate the parameters."""
        super().__post_init__()
        object.__setattr__(self, "lam", check_number("lam", self.lam, 0.0))
        object.__setattr__(self, "theta", check_number("theta", self.theta, 0.0, strict=True))

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """``p'(r) = λ``, then 0."""
        return (Piece(0.0, 0.0, self.lam, 0.0), Piece(self.theta, self.lam * self.theta, 0.0, 0.0))

    def _exact_pieces(self, number: Callable[[float], Any]) -> list[tuple[Any, ...]]:
        none, lam, theta = number(0.0), number(self.lam), number(self.theta)
        return [(none, none, lam, none), (theta, lam * theta, none, none)]

    def _strength_at(self, xp: Any, r: Array, share: Array) -> Array:
        """Divide ``share·r`` by ``min(r, θ)``."""
        ratio = r / self.theta
        return share * xp.maximum(ratio, xp.ones_like(ratio))
