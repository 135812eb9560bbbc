"""How many groups vanish in each layer: quantiles of strengths, with widths that a layer may have.

For each group the strength is known from which on it vanishes. One strength for all layers is then a number
of zero groups in each; where a layer may not have that many, since it has to keep some or its width has to be
a multiple, it gets a lower strength of its own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Candidates", "Layers", "Reached", "by_selection", "for_each", "for_strength", "for_total"]

# A share such as 0.7 of ten groups is seven groups, whatever its last digit.
_DIGITS = 1e-12

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Reached(NamedTuple):
    """What a decision comes to.

    Attributes
    ----------
    lam : float
        The strength of all layers that have none of their own.
    strengths : ndarray of float, shape (n_layers,)
        The strength of each layer.
    share : float
        The share that is zero.
    reachable : float
        The largest share that could be: in all layers together, or in each of them. Where the share must not
        be more than the wanted one, the largest that is not. Where the wanted share is reached, it may be the
        share itself.
    rounded : bool
        Whether more could be, and only widths that are multiples leave ``reachable`` below the wanted share.
    """

    lam: float
    strengths: Floats
    share: float
    reachable: float
    rounded: bool = False


class Candidates(NamedTuple):
    """The groups of layers, those of one layer after those of another.

    Attributes
    ----------
    strengths : ndarray of float, shape (n_groups,)
        From which strength on each group vanishes: 0 for one that is zero anyway, infinite for one that never
        does.
    counts : ndarray of int, shape (n_groups,)
        What each counts.
    sizes : ndarray of int, shape (n_layers,)
        How many groups each layer has.
    units : ndarray of float, shape (n_layers,)
        What the counts of a layer are multiples of.
    keep : ndarray of int, shape (n_layers,)
        How many groups of a layer have to be left.
    multiple : int
        What the number that is left is a multiple of, unless nothing vanishes.
    rounding : float
        The relative error of a strength.
    """

    strengths: Floats
    counts: Integers
    sizes: Integers
    units: Floats
    keep: Integers
    multiple: int
    rounding: float

    @property
    def above(self) -> float:
        """What the strength at which a group vanishes is multiplied by to be sure."""
        return 1.0 + self.rounding

    @property
    def apart(self) -> float:
        """What it is multiplied by to be less than any at which a group is left for certain."""
        return 1.0 + 4.0 * self.rounding


class Layers:
    """The groups of layers, those of each in the order in which they vanish, in arrays of all of them.

    A layer of ``n`` groups has ``n + 1`` places, one for each number of its groups that may vanish.

    Parameters
    ----------
    groups : Candidates

    Attributes
    ----------
    strengths : ndarray of float, shape (n_groups,)
        In ascending order in each layer.
    layer : ndarray of int, shape (n_groups,)
        The layer of each.
    begin, end : ndarray of int, shape (n_layers,)
        The first place of each layer, and its last.
    mass : ndarray of float, shape (n_places,)
        What the first groups count together.
    allowed : ndarray of bool, shape (n_places,)
        Whether so many, and no others, may and can vanish.
    most : ndarray of int, shape (n_places,)
        Of at most so many that would vanish, the place of how many may.
    above : float
        What the strength at which a group vanishes is multiplied by to be sure.
    """

    def __init__(self, groups: Candidates) -> None:
        strengths, counts, sizes, units, keep, multiple, _ = groups
        layers = np.arange(len(sizes))
        self.layer: Integers = np.repeat(layers, sizes)
        order = np.lexsort((strengths, self.layer))
        self.strengths = s = strengths[order]
        self.end: Integers = np.cumsum(sizes + 1) - 1
        self.begin: Integers = self.end - sizes
        of = np.repeat(layers, sizes + 1)
        places = np.arange(len(of))
        k, n = places - self.begin[of], sizes[of]
        # Which group is the next to vanish at a place; sums of integers are exact.
        group = places - of
        total = np.concatenate([[0], np.cumsum(counts[order])])
        self.mass: Floats = (total[group] - total[group[self.begin]][of]) * units[of]
        self.above = groups.above
        # A strength that makes one vanish has to leave the next, whatever was rounded.
        known = np.concatenate([s, [math.inf]])
        after = np.where(k < n, known[group], math.inf)
        before = np.where(k > 0, known[group - 1] * groups.apart, 0.0)
        possible = before < after
        possible[self.end] = (sizes == 0) | np.isfinite(known[group[self.end] - 1])
        least = self._first(possible, self.begin)
        self.allowed: Flags = possible & (n - k >= keep[of]) & ((n - k) % multiple == 0)
        # What is zero anyway is.
        self.allowed[least] = True
        self.most: Integers = np.maximum.accumulate(np.where(self.allowed, places, least[of]))

    def _first(self, where: Flags, otherwise: Integers) -> Integers:
        """Return the first place of each layer where something holds."""
        found = np.minimum.reduceat(np.where(where, np.arange(len(where)), len(where)), self.begin)
        return np.where(found < len(where), found, otherwise)

    def _last(self, where: Flags, otherwise: Integers) -> Integers:
        """As :meth:`_first`, the last."""
        found = np.maximum.reduceat(np.where(where, np.arange(len(where)), -1), self.begin)
        return np.where(found >= 0, found, otherwise)

    def strength(self, places: Integers) -> Floats:
        """Return the least strength of each layer at which so many vanish."""
        # The group before a place; of a layer's first place there is none.
        known = np.concatenate([self.strengths, [0.0]])[places - np.arange(len(places)) - 1]
        return np.where(places == self.begin, 0.0, known * self.above)

    def at(self, lam: float) -> Integers:
        """Return the place of how many of each layer would vanish at a strength."""
        asked: Integers = self.begin + np.bincount(self.layer[self.strengths <= lam], minlength=len(self.end))
        return asked


def by_selection(groups: Candidates, wanted: float) -> Reached | None:
    """As :func:`for_total` where one strength is that of all layers, without sorting.

    None where groups do not count alike, where rounding may have exchanged their strengths, or where some
    must be kept: what that comes to, :class:`Layers` say.
    """
    strengths, counts, sizes, units, keep, multiple, _ = groups
    n = len(strengths)
    if n == 0 or multiple > 1 or (units != 1.0).any() or counts.min() != counts.max() or counts[0] == 0:
        return None
    # The share is compared as for_total does.
    goal = wanted * (1.0 - _DIGITS)
    k = math.ceil(goal * n)
    k += (k / n < goal) - ((k - 1) / n >= goal)
    if k > n:
        return None
    least = float(np.partition(strengths, k - 1)[k - 1])
    gone = strengths <= least * groups.apart
    # Those of each layer that vanish; it may have no groups.
    lost = np.bincount(np.repeat(np.arange(len(sizes)), sizes)[gone], minlength=len(sizes))
    if not 0.0 < least < math.inf or lost.sum() != k or (sizes - lost < keep).any():
        return None
    lam = least * groups.above
    return Reached(lam, np.full(len(sizes), lam), k / n, k / n)


def for_total(layers: Layers, wanted: float, strict: bool) -> Reached | None:
    """Find one strength for all layers.

    Parameters
    ----------
    layers : Layers
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
    total = float(layers.mass[layers.end].sum())
    # What each group adds when the strength passes it, nothing until its layer may have a smaller width.
    place = np.arange(len(layers.strengths)) + layers.layer
    have = layers.mass[layers.most]
    gains = have[place + 1] - have[place]
    finite = np.isfinite(layers.strengths)
    if total == 0 or not finite.any():
        return None
    order = np.argsort(layers.strengths[finite], kind="stable")
    s = layers.strengths[finite][order]
    base = float(have[layers.begin].sum())
    share = (base + np.cumsum(gains[finite][order])) / total
    if strict:
        # Those that vanish at the same strength do so together.
        last = np.concatenate([s[:-1] * layers.above < s[1:], [True]])
        fits = np.flatnonzero(last & (share <= wanted * (1.0 + _DIGITS)))
        outcome = for_strength(layers, float(s[fits[-1]]) * layers.above if len(fits) else 0.0)
        return _rounded(outcome, outcome.share, outcome.reachable, wanted)
    # What is out of reach is left at the least strength at which all that can vanish does.
    reached = min(wanted, float(share[-1]))
    first = int(np.searchsorted(share, reached * (1.0 - _DIGITS)))
    return for_strength(layers, float(s[first]) * layers.above)


def for_strength(layers: Layers, lam: float) -> Reached:
    """Return what a strength comes to, where a layer that may not have so many zeros has its own."""
    asked = layers.at(lam)
    found = layers.most[asked]
    return _outcome(layers, lam, np.where(found == asked, lam, layers.strength(found)), found)


def for_each(layers: Layers, wanted: float, strict: bool) -> Reached:
    """Find a strength for each layer by itself; the arguments are those of :func:`for_total`."""
    whole = layers.mass[layers.end]
    share = layers.mass / np.repeat(np.maximum(whole, math.ulp(0.0)), layers.end - layers.begin + 1)
    first = layers._first(layers.allowed, layers.begin)
    last = layers._last(layers.allowed, layers.begin)
    if strict:
        found = layers._last(layers.allowed & (share <= wanted * (1.0 + _DIGITS)), first)
    else:
        found = layers._first(layers.allowed & (share >= wanted * (1.0 - _DIGITS)), last)
    strengths = layers.strength(found)
    outcome = _outcome(layers, float(strengths.max(initial=0.0)), strengths, found)
    # Every layer has to reach it.
    counts = whole > 0
    most = _least_of(layers.mass[layers.most[layers.end]][counts] / whole[counts])
    if not strict:
        return outcome._replace(reachable=most)
    return _rounded(outcome, _least_of(layers.mass[found][counts] / whole[counts]), most, wanted)


def _least_of(shares: Floats) -> float:
    return float(shares.min()) if len(shares) else 0.0


def _rounded(outcome: Reached, reached: float, most: float, wanted: float) -> Reached:
    """Say of the strict rule what it reaches, and whether that is less because of multiples alone."""
    below = reached < wanted * (1.0 - _DIGITS)
    return outcome._replace(reachable=reached, rounded=below and most >= wanted * (1.0 - _DIGITS))


def _outcome(layers: Layers, lam: float, strengths: Floats, found: Integers) -> Reached:
    total = float(layers.mass[layers.end].sum())
    if total == 0:
        return Reached(lam, strengths, 0.0, 0.0)
    zero, most = float(layers.mass[found].sum()), float(layers.mass[layers.most[layers.end]].sum())
    return Reached(lam, strengths, zero / total, most / total)
