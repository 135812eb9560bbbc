"""The elements of groups over arrays: what is summed over a group, and what a group's numbers give each.

An equation's terms are functions ``f(x, d, b, *values)`` of elements, in which ``b = d x``, and of numbers of
their group. :class:`Rows` has a group per row of a matrix. :class:`Fragments` has some elements of each
group, as matrices, and the rest is elsewhere: sums are completed by whoever has the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import array_api_compat

from proxlab.backends.ranges import APART_HIGH, APART_LOW, METRIC_CAP, SAFE_HIGH, SAFE_LOW
from proxlab.double_double import add_doubles, square, two_product
from proxlab.namespaces import namespace
from proxlab.powers import exponent, times_power
from proxlab.types import Array

__all__ = [
    "Cut",
    "Fragment",
    "Fragments",
    "Members",
    "Pieces",
    "Rows",
    "all_first_terms",
    "exponents",
    "lost",
    "units",
]

Terms = Callable[..., tuple[Array, ...]]


class Members(Protocol):
    """The elements of groups, in units of ``2^ex`` for ``x`` and ``2^ed`` for ``d`` of each group."""

    @property
    def size(self) -> int:
        """Elements of a group."""

    @property
    def ex(self) -> Array:
        """The units of ``x``."""

    @property
    def ed(self) -> Array:
        """The units of ``d``."""

    def sum(self, terms: Terms, *values: Array) -> tuple[Array, ...]:
        """Add up the terms of each group, at the numbers of each group."""

    def begin(self) -> tuple[Array, Array, Array, Array, Array]:
        """Return ``Σ b²``, ``Σ b² d``, ``Σ x²``, ``Σ x b`` and an upper bound of the metric of each group."""

    def exact_square(self) -> tuple[Array, Array]:
        """Return ``‖b‖²`` as a double-double."""


@dataclass
class Rows:
    """Groups as rows of matrices."""

    xp: Any
    x: Array
    d: Array
    b: Array
    ex: Array
    ed: Array

    @property
    def size(self) -> int:
        """Elements of a group."""
        return int(self.x.shape[1])

    def sum(self, terms: Terms, *values: Array) -> tuple[Array, ...]:
        """Add up the terms of each group, at the numbers of each group."""
        spread = (v[:, None] for v in values)
        return tuple(self.xp.sum(t, axis=1) for t in terms(self.x, self.d, self.b, *spread))

    def begin(self) -> tuple[Array, Array, Array, Array, Array]:
        """Return the sums of :func:`first_terms`, and the largest element of the metric of each group."""
        bb, bbd, xx, xb = self.sum(first_terms)
        return bb, bbd, xx, xb, self.xp.max(self.d, axis=1)

    def exact_square(self) -> tuple[Array, Array]:
        """Return ``‖b‖²`` as a double-double."""
        return added(*square(*two_product(self.x, self.d)))


class Fragment(NamedTuple):
    """Some elements of groups.

    Attributes
    ----------
    x, d : array of shape (rows, n), float64
        The elements of a group per row; the rows are of different groups.
    ids : array of int64, shape (rows,)
        The groups.
    """

    x: Array
    d: Array
    ids: Array


class Pieces:
    """Elements of groups that are here, in units of the groups.

    Parameters
    ----------
    xp : module
    parts : sequence of Fragment
    ex, ed : array of shape (n_groups,)
        The units.
    """

    def __init__(self, xp: Any, parts: Sequence[Fragment], ex: Array, ed: Array) -> None:
        self.xp, self._like = xp, ex
        self._parts = []
        for part in (p for p in parts if p.x.shape[1]):
            x = times_power(xp, part.x, -xp.take(ex, part.ids, axis=0)[:, None])
            d = times_power(xp, part.d, -xp.take(ed, part.ids, axis=0)[:, None])
            d = xp.minimum(d, xp.full_like(d, METRIC_CAP))
            self._parts.append((x, d, x * d, part.ids))

    def sum(self, terms: Terms, *values: Array) -> Array:
        """Add up the terms of each group, at the numbers of each group: shape (terms, n_groups)."""
        # Without elements here, a matrix without any says how many terms there are.
        total = self._zeros(len(terms(*(self._zeros(0),) * 3, *(self._zeros(0) for _ in values))))
        for x, d, b, ids in self._parts:
            spread = (v[ids][:, None] for v in values)
            for row, t in zip(total, terms(x, d, b, *spread), strict=True):
                row[ids] += self.xp.sum(t, axis=1)
        return total

    def exact_square(self) -> Array:
        """Return ``‖b‖²`` as a double-double: shape (2, n_groups)."""
        total = self._zeros(2)
        for x, d, _, ids in self._parts:
            h, e = added(*square(*two_product(x, d)))
            total[:, ids] = self.xp.stack(add_doubles(total[:, ids], (h, e)))
        return total

    def _zeros(self, rows: int) -> Array:
        return self.xp.zeros(
            (rows, *self._like.shape), dtype=self._like.dtype, device=array_api_compat.device(self._like)
        )


class Cut:
    """Groups of which nobody has all elements: sums are completed by whoever has the others.

    Parameters
    ----------
    xp : module
    ex, ed : array of shape (n_groups,)
        The units.
    size : int
        Elements of the largest group.
    """

    def __init__(self, xp: Any, ex: Array, ed: Array, size: int) -> None:
        self.xp, self.size, self.ex, self.ed = xp, size, ex, ed
        bb, bbd, xx, xb, dd, nonzero = self.sum(all_first_terms)
        self._first = bb, bbd, xx, xb, xp.sqrt(dd), nonzero

    def sum(self, terms: Terms, *values: Array) -> tuple[Array, ...]:
        """Add up the terms of each group, at the numbers of each group."""
        raise NotImplementedError

    def exact_square(self) -> tuple[Array, Array]:
        """Return ``‖b‖²`` as a double-double."""
        raise NotImplementedError

    def begin(self) -> tuple[Array, Array, Array, Array, Array]:
        """Return the sums of :func:`first_terms`, and as a bound of the metric its 2-norm."""
        return self._first[:5]

    @property
    def in_range(self) -> bool:
        """Whether the first sums have lost nothing to overflow or underflow; everyone says the same."""
        xp, (bb, _, xx, _, bound, nonzero) = self.xp, self._first
        sums = xp.stack([bb, xx, bound * bound])
        least, most = xp.min(sums, axis=0), xp.max(sums, axis=0)
        return bool(xp.all(((least > SAFE_LOW) | (nonzero == 0)) & (most < SAFE_HIGH)))


class Fragments(Cut):
    """Groups of which some elements are here.

    Parameters
    ----------
    xp : module
    parts : sequence of Fragment
    ex, ed : array of shape (n_groups,)
        The units.
    size : int
        Elements of the largest group, those that are not here too.
    add, gather : callable
        ``add(a)`` completes an array of sums, whose last axis are the groups; ``gather(a)`` returns such an
        array of everyone, along a new first axis.
    """

    def __init__(
        self, xp: Any, parts: Sequence[Fragment], ex: Array, ed: Array, size: int,
        add: Callable[[Array], Array], gather: Callable[[Array], Array],
    ) -> None:  # fmt: skip
        self._add, self._gather = add, gather
        self._pieces = Pieces(xp, parts, ex, ed)
        super().__init__(xp, ex, ed, size)

    def sum(self, terms: Terms, *values: Array) -> tuple[Array, ...]:
        """Add up the terms of each group, at the numbers of each group."""
        return tuple(self._add(self._pieces.sum(terms, *values)))

    def exact_square(self) -> tuple[Array, Array]:
        """Return ``‖b‖²`` as a double-double."""
        total, *others = self._gather(self._pieces.exact_square())
        for more in others:
            total = add_doubles(total, more)
        return total[0], total[1]


def exponents(xp: Any, parts: Sequence[Fragment], like: Array) -> Array:
    """Return exponents of the largest ``x``, product and metric of each group, shape (3, n_groups).

    Below all where there is none.
    """
    found = xp.stack([xp.full_like(like, -math.inf)] * 3)
    for part in (p for p in parts if p.x.shape[1]):
        size, none = xp.abs(part.x), xp.full_like(part.x, -math.inf)
        e, f = exponent(xp, size), exponent(xp, part.d)
        some = size > 0
        for row, values in zip(found, (xp.where(some, e, none), xp.where(some, e + f, none), f), strict=True):
            row[part.ids] = xp.maximum(row[part.ids], xp.max(values, axis=1))
    return found


def units(xp: Any, largest: Array) -> tuple[Array, Array]:
    """Return the units of ``x`` and of the metric, as those of rows, from :func:`exponents` of all."""
    ex, eb, ed = largest
    zero, nothing = xp.zeros_like(ex), xp.isinf(ex)
    none = xp.where(xp.isinf(ed), zero, ed)
    return xp.where(nothing, zero, ex), xp.where(nothing, none, eb - xp.where(nothing, zero, ex))


def lost(xp: Any, parts: Sequence[Fragment], ed: Array) -> Array:
    """Return how often elements of each group are lost that may count, or are no numbers; 0 for never."""
    found = xp.zeros_like(ed)
    for part in (p for p in parts if p.x.shape[1]):
        off = exponent(xp, part.d) - ed[part.ids][:, None]
        apart = (part.x != 0) & ((off <= APART_LOW) | (off >= APART_HIGH))
        apart = apart | ~(xp.isfinite(part.x) & xp.isfinite(part.d))
        found[part.ids] += xp.astype(xp.any(apart, axis=1), ed.dtype)
    return found


def first_terms(x: Array, d: Array, b: Array) -> tuple[Array, Array, Array, Array]:
    """Return an element's terms of ``Σ b²``, ``Σ b² d``, ``Σ x²`` and ``Σ x b``."""
    bb = b * b
    return bb, bb * d, x * x, x * b


def all_first_terms(x: Array, d: Array, b: Array) -> tuple[Array, ...]:
    """Return those of :func:`first_terms`, of ``Σ d²``, and 1 where ``x`` is not zero."""
    return (*first_terms(x, d, b), d * d, abs(x) / (abs(x) + (x == 0)))


def added(h: Array, e: Array) -> tuple[Array, Array]:
    """Add the double-doubles of each row, in pairs."""
    xp = namespace(h)
    while h.shape[1] > 1:
        if h.shape[1] % 2:
            zero = xp.zeros_like(h[:, :1])
            h, e = xp.concat([h, zero], axis=1), xp.concat([e, zero], axis=1)
        half = h.shape[1] // 2
        h, e = add_doubles((h[:, :half], e[:, :half]), (h[:, half:], e[:, half:]))
    return h[:, 0], e[:, 0]
