"""How many groups vanish in each layer: quantiles of strengths, with widths that a layer may have.

For each group the strength is known from which on it vanishes. One strength for all layers is then a number
of zero groups in each; where a layer may not have that many, since it has to keep some or its width has to be
a multiple, it gets a lower strength of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Layer", "Reached", "for_each", "for_strength", "for_total"]

# A share such as 0.7 of ten groups is seven groups, whatever its last digit.
_DIGITS = 1e-12

Floats = npt.NDArray[np.float64]


class Reached(NamedTuple):
    """What a decision comes to.

    Attributes
    ----------
    lam : float
        The strength of all layers that have none of their own.
    strengths : tuple of float
        The strength of each layer.
    share : float
        The share that is zero.
    reachable : float
        The largest share that could be: in all layers together, or in each of them. Where the share must not
        be more than the wanted one, the largest that is not.
    rounded : bool
        Whether more could be, and only widths that are multiples leave ``reachable`` below the wanted share.
    """

    lam: float
    strengths: tuple[float, ...]
    share: float
    reachable: float
    rounded: bool = False


class Layer:
    """The groups of a layer, in the order in which they vanish.

    Parameters
    ----------
    strengths : ndarray of float, shape (n_groups,)
        From which strength on each vanishes: 0 for one that is zero anyway, infinite for one that never does.
    counts : ndarray of float, shape (n_groups,)
        What each counts.
    keep : int
        How many have to be left.
    multiple : int
        What the number that is left is a multiple of, unless nothing vanishes.
    rounding : float
        The relative error of a strength.

    Attributes
    ----------
    strengths : ndarray of float, shape (n_groups,)
        In ascending order.
    mass : ndarray of float, shape (n_groups + 1,)
        What the first ``k`` count together.
    allowed : ndarray of bool, shape (n_groups + 1,)
        Whether the first ``k``, and no others, may and can vanish.
    most : ndarray of int, shape (n_groups + 1,)
        Of at most ``k`` that would vanish, how many may.
    """

    def __init__(self, strengths: Floats, counts: Floats, keep: int, multiple: int, rounding: float) -> None:
        order = np.argsort(strengths, kind="stable")
        n = len(order)
        self.strengths = s = strengths[order]
        self.mass = np.concatenate([[0.0], np.cumsum(counts[order])])
        self._above = 1.0 + rounding
        # A strength that makes one vanish has to leave the next, whatever was rounded.
        after = np.concatenate([s, [math.inf]])
        before = np.concatenate([[0.0], s * (1.0 + 4.0 * rounding)])
        possible = before < after
        possible[n] = n == 0 or bool(np.isfinite(s[-1]))
        k = np.arange(n + 1)
        least = int(np.argmax(possible))
        self.allowed: npt.NDArray[np.bool_] = possible & (n - k >= keep) & ((n - k) % multiple == 0)
        # What is zero anyway is.
        self.allowed[least] = True
        self.most: npt.NDArray[np.int64] = np.maximum.accumulate(np.where(self.allowed, k, least))

    def strength(self, k: int) -> float:
        """Return the least strength at which ``k`` vanish."""
        return 0.0 if k == 0 else float(self.strengths[k - 1]) * self._above

    def at(self, lam: float) -> int:
        """Return how many would vanish at a strength."""
        return int(np.searchsorted(self.strengths, lam, side="right"))


def for_total(layers: Sequence[Layer], wanted: float, strict: bool) -> Reached | None:
    """Find one strength for all layers.

    Parameters
    ----------
    layers : sequence of Layer
    wanted : float
        The share, between 0 and 1.
    strict : bool
        Whether the share that vanishes must not be more than the wanted one: the largest strength at which it
        is not, in place of the least at which it is reached.

    Returns
    -------
    Reached or None
        None if nothing can vanish at any strength.
    """
    total = sum(float(layer.mass[-1]) for layer in layers)
    strengths = np.concatenate([layer.strengths for layer in layers])
    # What each group adds when the strength passes it, nothing until its layer may have a smaller width.
    gains = np.concatenate([np.diff(layer.mass[layer.most]) for layer in layers])
    finite = np.isfinite(strengths)
    if total == 0 or not finite.any():
        return None
    order = np.argsort(strengths[finite], kind="stable")
    s = strengths[finite][order]
    base = sum(float(layer.mass[layer.most[0]]) for layer in layers)
    share = (base + np.cumsum(gains[finite][order])) / total
    above = max(layer._above for layer in layers)
    if strict:
        # Those that vanish at the same strength do so together.
        last = np.concatenate([s[:-1] * above < s[1:], [True]])
        fits = np.flatnonzero(last & (share <= wanted * (1.0 + _DIGITS)))
        outcome = for_strength(layers, float(s[fits[-1]]) * above if len(fits) else 0.0)
        return _rounded(outcome, outcome.share, outcome.reachable, wanted)
    # What is out of reach is left at the least strength at which all that can vanish does.
    reached = min(wanted, float(share[-1]))
    return for_strength(layers, float(s[int(np.searchsorted(share, reached * (1.0 - _DIGITS)))]) * above)


def for_strength(layers: Sequence[Layer], lam: float) -> Reached:
    """Return what a strength comes to, where a layer that may not have so many zeros has its own."""
    asked = [layer.at(lam) for layer in layers]
    found = [int(layer.most[k]) for layer, k in zip(layers, asked, strict=True)]
    strengths = [
        lam if k == have else layer.strength(have)
        for layer, k, have in zip(layers, asked, found, strict=True)
    ]
    return _outcome(layers, lam, strengths, found)


def for_each(layers: Sequence[Layer], wanted: float, strict: bool) -> Reached:
    """Find a strength for each layer by itself; the arguments are those of :func:`for_total`."""
    found = []
    for layer in layers:
        ks = np.flatnonzero(layer.allowed)
        share = layer.mass[ks] / max(float(layer.mass[-1]), math.ulp(0.0))
        if strict:
            fits = np.flatnonzero(share <= wanted * (1.0 + _DIGITS))
            found.append(int(ks[fits[-1]] if len(fits) else ks[0]))
        else:
            found.append(int(ks[min(int(np.searchsorted(share, wanted * (1.0 - _DIGITS))), len(ks) - 1)]))
    strengths = [layer.strength(k) for layer, k in zip(layers, found, strict=True)]
    # Every layer has to reach it.
    most = [float(layer.mass[layer.most[-1]] / layer.mass[-1]) for layer in layers if layer.mass[-1] > 0]
    outcome = _outcome(layers, max(strengths, default=0.0), strengths, found)
    if not strict:
        return outcome._replace(reachable=min(most, default=0.0))
    shares = [float(x.mass[k] / x.mass[-1]) for x, k in zip(layers, found, strict=True) if x.mass[-1] > 0]
    return _rounded(outcome, min(shares, default=0.0), min(most, default=0.0), wanted)


def _rounded(outcome: Reached, reached: float, most: float, wanted: float) -> Reached:
    """Say of the strict rule what it reaches, and whether that is less because of multiples alone."""
    below = reached < wanted * (1.0 - _DIGITS)
    return outcome._replace(reachable=reached, rounded=below and most >= wanted * (1.0 - _DIGITS))


def _outcome(layers: Sequence[Layer], lam: float, strengths: list[float], found: list[int]) -> Reached:
    total: Any = sum(layer.mass[-1] for layer in layers)
    if total == 0:
        return Reached(lam, tuple(strengths), 0.0, 0.0)
    zero = sum(layer.mass[k] for layer, k in zip(layers, found, strict=True))
    most = sum(layer.mass[layer.most[-1]] for layer in layers)
    return Reached(lam, tuple(strengths), float(zero / total), float(most / total))
