"""The ℓ1 norm."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxlab.groups import Groups
from proxlab.penalties.base import Piece, RadialPenalty, Weights
from proxlab.values import check_number

__all__ = ["L1"]


@dataclass(frozen=True, eq=False)
class L1(RadialPenalty):
    """The ℓ1 norm, ``h(z) = λ ‖z‖₁``.

    Separable: every element is a group of size one. The weighted proximal operator is the closed form
    ``sign(x_i) max(|x_i| - ηλ/d_i, 0)`` (docs: the mathematics, §7).

    Parameters
    ----------
    lam : float
        Strength λ, at least 0.
    nonnegative : bool, optional
        Add the constraint ``z ≥ 0``.
    """

    lam: float
    groups: Groups = field(default=Groups.over(()), init=False)
    weights: Weights = field(default=None, init=False)
    nonnegative: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Validate the parameters."""
        super().__post_init__()
        object.__setattr__(self, "lam", check_number("lam", self.lam, 0.0))

    @property
    def threshold(self) -> float:
        """Strength of the elementwise ℓ1 part."""
        return self.lam

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """No radial part."""
        return (Piece(0.0, 0.0, 0.0, 0.0),)
