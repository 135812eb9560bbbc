"""What every penalty offers: its value, its subdifferential, and its data for the solvers.

A penalty is a frozen description. The solvers read two things from it: an elementwise part (soft threshold,
sign constraint) and, for radial penalties, the table of pieces on which the slope of ``p`` is affine
(:mod:`proxlab.penalties.tables`).
"""

from __future__ import annotations

import inspect
import math
from abc import ABCMeta
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import array_api_compat
import numpy as np

from proxlab.bounds import rounding
from proxlab.groups import Groups, Layout
from proxlab.namespaces import namespace
from proxlab.penalties.equations import FloatArray, GroupEquation, Radial
from proxlab.penalties.tables import Piece, Table, check_pieces, convex, flat_after, form, joined
from proxlab.powers import exponent, product, sum_of_products, times_power
from proxlab.types import Array
from proxlab.untraced import untraced
from proxlab.values import check_number, check_plain

__all__ = [
    "Penalty",
    "Piece",
    "RadialPenalty",
    "check_number",
    "flat_after",
    "joined",
    "radial_slopes",
    "radial_value",
    "table_of",
]

# Within so much of a radius, relatively, a computed norm may lie at it.
_BLUR = 2.0**-49
#: Sums of numbers below this stay in the range.
HUGE = 2.0**960
Weights = None | Literal["sqrt_size"] | FloatArray


def _check_groups(groups: object) -> Groups:
    if groups is None:
        return Groups.over(-1)
    if not isinstance(groups, Groups):
        raise TypeError(
            f"groups: must be a proxlab.Groups (for example Groups.over(0)) or None, got {groups!r}"
        )
    return groups


def _check_weights(weights: object) -> Weights:
    if weights is None:
        return None
    if isinstance(weights, str):
        if weights != "sqrt_size":
            raise ValueError(f'weights: must be None, "sqrt_size" or an array, got {weights!r}')
        return "sqrt_size"
    check_plain("weights", weights)
    given = np.asarray(weights)
    if given.dtype.kind not in "fiu":
        raise TypeError(f"weights: must hold real numbers, got dtype {given.dtype}")
    a = np.array(given, dtype=np.float64)
    if a.ndim != 1:
        raise ValueError(f"weights: must be one-dimensional, one per group, got shape {a.shape}")
    if a.size and not (np.all(np.isfinite(a)) and a.min() >= 0):
        raise ValueError(f"weights: must be finite and >= 0, got {a[~(np.isfinite(a) & (a >= 0))][0]}")
    a.flags.writeable = False
    return a


@dataclass(frozen=True, eq=False, kw_only=True)
class Penalty:
    """Base of all penalties ``h(z) = Σ_g w_g p(z_g)`` (+ an elementwise part).

    Parameters
    ----------
    groups : Groups, optional
        The groups; rows by default (the last axis is reduced).
    weights : None, "sqrt_size" or array_like of shape (n_groups,), optional
        The factor of each group's penalty: 1 by default, or the square root of the group's size (Deleu &
        Bengio 2021).
    """

    groups: Groups = None  # type: ignore[assignment]
    weights: Weights = None

    # The parameters that are factors of the penalty.
    _factors: ClassVar[tuple[str, ...]] = ("lam",)

    def __post_init__(self) -> None:
        """Validate what all penalties share."""
        object.__setattr__(self, "groups", _check_groups(self.groups))
        object.__setattr__(self, "weights", _check_weights(self.weights))
        if not isinstance(self.nonnegative, bool):
            raise TypeError(f"nonnegative: must be True or False, got {self.nonnegative!r}")

    @property
    def is_convex(self) -> bool:
        """Whether the penalty is a convex function."""
        raise NotImplementedError

    @property
    def _knots(self) -> tuple[float, ...]:
        """The positive radii at which the slope may jump."""
        return ()

    @property
    def is_elementwise(self) -> bool:
        """Whether every element is a group, whatever the shape."""
        return not type(self).__dataclass_fields__["groups"].init

    @property
    def equation(self) -> GroupEquation:
        """The equation of a group's radius, by which solvers, certificates and derivatives are looked up."""
        raise TypeError(f"penalty: {type(self).__name__} is neither radial nor GroupLinf: it has no equation")

    @property
    def strength(self) -> float:
        """The factor λ of the penalty; for several parts the sum of theirs."""
        for name in self._factors:
            if not hasattr(self, name):
                raise TypeError(
                    f"strength: {type(self).__name__} has no {name!r}; call its strength so, or name its "
                    "factors in _factors"
                )
        return math.fsum(getattr(self, name) for name in self._factors)

    def with_strength(self, strength: float) -> Self:
        """Return the same penalty with another strength.

        Parameters
        ----------
        strength : float
            The new :attr:`strength`, at least 0. Several parts keep their proportion.

        Returns
        -------
        Penalty
            With the same groups, weights and shape.

        Raises
        ------
        ValueError
            If all of several parts are 0: they have no proportion.
        """
        strength, here = check_number("strength", strength, 0.0), self.strength
        changes: dict[str, Any] = {self._factors[0]: strength}
        if len(self._factors) > 1:
            if here == 0:
                raise ValueError(f"strength: {self._factors} must not all be 0 to be scaled, got {self!r}")
            changes = {name: strength * (getattr(self, name) / here) for name in self._factors}
        return replace(self, **changes)

    def _on_rows(self) -> Self:
        """Return the same penalty with a group per row, all of weight 1; of single elements, as it is."""
        fields = type(self).__dataclass_fields__
        changes: dict[str, Any] = {"groups": Groups.over(-1)} if fields["groups"].init else {}
        if fields["weights"].init:
            changes["weights"] = None
        return replace(self, **changes)

    @property
    def threshold(self) -> float:
        """Strength of the elementwise ℓ1 part; 0 where there is none."""
        return 0.0

    @property
    def nonnegative(self) -> bool:
        """Whether the penalty is infinite at negative elements."""
        return False

    def group_weights(self, layout: Layout) -> FloatArray:
        """Return the weight of each group, shape (n_groups,) or (1,) where all are equal.

        Parameters
        ----------
        layout : Layout
            The groups bound to a shape.
        """
        if self.weights is None:
            return np.ones(1)
        if isinstance(self.weights, str):
            return np.sqrt(layout.sizes().astype(np.float64))
        if len(self.weights) != layout.n_groups:
            raise ValueError(
                f"weights: must have one entry per group, but there are {layout.n_groups} groups and "
                f"{len(self.weights)} weights"
            )
        return self.weights

    @untraced
    def __call__(self, z: Array) -> float:
        """Return the penalty's value at ``z``, a float: the sum of :meth:`value`."""
        values = self.value(z)
        xp = namespace(values)
        return float(xp.sum(values))

    @untraced
    def value(self, z: Array) -> Array:
        """Return the penalty of each group, in float64.

        Parameters
        ----------
        z : array
            Any point.

        Returns
        -------
        array of shape (n_groups,)

        Raises
        ------
        OverflowError
            If a value is beyond the range of float64.
        """
        return self._values(z, strict=True)

    def _values(self, z: Array, *, strict: bool = False) -> Array:
        """Return the penalty of each group; beyond the range of float64 it is infinite, or an error."""
        layout, xp = self._bind(z)
        weights = layout.split_groups(self._weights_like(layout, z))
        rows = layout.split(xp.astype(z, xp.float64), 0.0)
        with np.errstate(all="ignore"):
            parts = [self._row_value(xp, z, w) for z, w in zip(rows, weights, strict=True)]
        if strict and any(
            bool(xp.any(xp.isinf(v) & xp.isfinite(row_max(xp, xp.abs(r)))))
            for r, v in zip(rows, parts, strict=True)
        ):
            raise OverflowError("z: the penalty at it is beyond the range of float64")
        if self.nonnegative:
            parts = [
                xp.where(xp.any(r < 0, axis=1), xp.full_like(v, math.inf), v)
                for r, v in zip(rows, parts, strict=True)
            ]
        return layout.join_groups(parts)

    @untraced
    def subdiff_distance(self, grad: Array, z: Array) -> Array:
        """Return the Euclidean distance of ``-grad`` to the subdifferential at ``z``, group by group.

        Zero in every group means that ``z`` is a stationary point of ``f + h`` where ``grad = ∇f(z)``. At a
        kink of a nonconvex penalty both one-sided slopes count.

        Parameters
        ----------
        grad : array
            Gradient of the smooth part, of the shape of ``z``.
        z : array
            Any point.

        Returns
        -------
        array of shape (n_groups,)
            In float64; infinite where ``z`` lies outside the penalty's domain.

        Raises
        ------
        OverflowError
            If a distance is beyond the range of float64.
        """
        layout, xp = self._bind(z)
        check_plain("grad", grad)
        if grad.shape != z.shape:
            raise ValueError(f"grad: must have the shape of z, {tuple(z.shape)}, got {tuple(grad.shape)}")
        weights = layout.split_groups(self._weights_like(layout, z))
        z_rows = layout.split(xp.astype(z, xp.float64), 0.0)
        g_rows = layout.split(xp.astype(grad, xp.float64), 0.0)
        parts = []
        with np.errstate(all="ignore"):
            for g, z_row, w in zip(g_rows, z_rows, weights, strict=True):
                # Where sums of such numbers may leave the range, in a greater unit.
                e = xp.zeros_like(w)
                part = self._row_distance(xp, g, z_row, w, e)
                large = ~xp.isfinite(part) | (row_max(xp, xp.abs(g)) > HUGE)
                if bool(xp.any(large)):
                    e = xp.where(large, e - 64.0, e)
                    part = times_power(xp, self._row_distance(xp, times_power(xp, g, e), z_row, w, e), -e)
                lost = ~xp.isfinite(part) & xp.isfinite(row_max(xp, xp.abs(g)) + row_max(xp, xp.abs(z_row)))
                if bool(xp.any(lost)):
                    raise OverflowError("grad: the distance is beyond the range of float64")
                if self.nonnegative:
                    part = xp.where(xp.any(z_row < 0, axis=1), xp.full_like(part, math.inf), part)
                parts.append(part)
        return layout.join_groups(parts)

    def _bind(self, z: Array) -> tuple[Layout, Any]:
        check_plain("z", z)
        return self.groups.layout(tuple(z.shape)), namespace(z)

    def _weights_like(self, layout: Layout, z: Array) -> Array:
        xp = namespace(z)
        weights = np.broadcast_to(self.group_weights(layout), (layout.n_groups,)).copy()
        return xp.asarray(weights, dtype=xp.float64, device=array_api_compat.device(z))

    def _row_value(self, xp: Any, z: Array, weight: Array) -> Array:
        raise NotImplementedError

    def _row_distance(self, xp: Any, grad: Array, z: Array, weight: Array, e: Array) -> Array:
        """Return the distances of rows, where gradient and distance are in units of ``2^-e``."""
        raise NotImplementedError

    def _row_subgradient(self, xp: Any, z: Array, weight: Array) -> Array:
        """Return a subgradient of each row; 0 where it is zero."""
        raise NotImplementedError

    @property
    def _has_conjugate(self) -> bool:
        """Whether :meth:`_row_conjugate` is known."""
        return False

    def _row_conjugate(self, xp: Any, s: Array, weight: Array) -> Array:
        """Return an upper bound of the conjugate ``h*`` at each row of ``s``, itself known to a few units."""
        raise NotImplementedError

    def _check_vanishing(self) -> None:
        """Raise an error unless it is known from which strength on a group vanishes."""

    def _row_vanishing(self, xp: Any, group: VanishingRows) -> Array:
        """Return the strength from which on each row vanishes, of the penalty whose strength is 1."""
        raise NotImplementedError


class VanishingRows(NamedTuple):
    """Rows that are to vanish, in units in which no product leaves the range.

    Attributes
    ----------
    x, b : array of shape (rows, n)
        The point in units of ``2^ex``, and ``|D x|`` in units of ``2^(ex + ed)``, whatever they spread over.
    energy, lift : array
        ``‖x‖²_D/2`` in units of ``2^(2 ex + ed + lift)``.
    ex, ed : array of shape (rows,)
    reach, step, weight : array
        ``‖x‖``, the step and the weight of the group, in the caller's units.
    step_part, price, power : array
        The step and ``step·weight`` in units of their own; what is divided by that product, in units of
        ``2^(ex + ed)``, is in the caller's times ``2^power``.
    solve : callable
        Returns the prox of the rows, in the caller's units, under other weights of the groups.
    """

    x: Array
    b: Array
    energy: Array
    lift: Array
    ex: Array
    ed: Array
    reach: Array
    step: Array
    weight: Array
    step_part: Array
    price: Array
    power: Array
    solve: Callable[[Array], Array]


def row_max(xp: Any, rows: Array) -> Array:
    """Return the largest element of each row; 0 for rows without elements."""
    return xp.max(rows, axis=1) if rows.shape[1] else xp.sum(rows, axis=1)


def row_norm(xp: Any, rows: Array) -> Array:
    """Return the Euclidean norm of each row, scaled so that squares neither overflow nor underflow."""
    if rows.shape[1] == 0:
        return xp.sum(rows, axis=1)
    if rows.shape[1] == 1:
        return xp.abs(rows[:, 0])
    largest = xp.max(xp.abs(rows), axis=1)
    scale = xp.where(largest > 0, largest, xp.ones_like(largest))
    ratio = rows / scale[:, None]
    total = xp.sum(ratio * ratio, axis=1)
    # No root of zero, whose gradient is none.
    norm = scale * xp.where(total > 0, xp.sqrt(xp.where(total > 0, total, xp.ones_like(total))), total)
    return xp.where(xp.isinf(largest), largest, norm)


def radial_value(xp: Any, pieces: tuple[Piece, ...], r: Array, weight: Array) -> Array:
    """Evaluate ``weight·p(r)`` from the slopes of its pieces; ``p(0) = 0``.

    Neither ``p`` nor a part of it need be in the range of float64 for the product to be.
    """
    terms: list[tuple[Array | float, ...]] = [(weight, pieces[0].value)]
    for k, piece in enumerate(pieces):
        on = r > piece.start
        h = xp.where(on, r - piece.start, xp.zeros_like(r))
        middle = 0.5 * r + 0.5 * piece.start
        if k + 1 < len(pieces):
            end = pieces[k + 1].start
            h = xp.where(r > end, xp.full_like(r, end - piece.start), h)
            middle = xp.where(r > end, xp.full_like(r, 0.5 * end + 0.5 * piece.start), middle)
        terms += [(weight, piece.a, h), (weight, -piece.c, h, middle)]
    terms = [term for term in terms if term[1] != 0.0]
    value = sum_of_products(xp, terms) if terms else xp.zeros_like(r)
    return xp.where(r > 0, value, xp.zeros_like(r))


def radial_slopes(
    xp: Any, pieces: tuple[Piece, ...], r: Array, weight: Array, e: Array | float = 0.0
) -> tuple[Array, Array]:
    """Evaluate the left and right slopes of ``weight·p·2^e`` at ``r > 0``; they differ at kinks only.

    A norm is known up to rounding: where the slope jumps up, a few units count as the kink itself, for there
    a minimiser lies as a rule.
    """
    left, right = xp.zeros_like(r), xp.zeros_like(r)
    before = 0.0
    for k, piece in enumerate(pieces):
        start, slope = piece.start, weight * (piece.a - piece.c * r)
        size = xp.abs(slope)
        careful = sum_of_products(xp, ((weight, piece.a), (weight, -piece.c, r)), e)
        slope = xp.where((size > 1e-290) & (size < HUGE) & (e + 0.0 * r == 0), slope, careful)
        blur = _BLUR if k and before < piece.a - piece.c * start else 0.0
        left = xp.where(r > start * (1.0 + blur), slope, left)
        right = xp.where(r >= start * (1.0 - blur), slope, right)
        before = piece.a - piece.c * pieces[k + 1].start if k + 1 < len(pieces) else 0.0
    return left, right


class Checked(ABCMeta):
    """Checks a penalty once it is made, whatever its class does in ``__post_init__``."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        penalty = super().__call__(*args, **kwargs)
        penalty._check()
        return penalty

    @property
    def __signature__(cls) -> inspect.Signature:
        # Of what is made, not of the call above: what help() and completion show.
        _, *parameters = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
        return inspect.Signature(parameters)


def table_of(penalty: RadialPenalty) -> Table:
    """Return a penalty's pieces as all computations take them, checked and as floats, or raise an error."""
    return check_pieces(penalty.pieces)


@dataclass(frozen=True, eq=False, kw_only=True)
class RadialPenalty(Penalty, metaclass=Checked):
    """Penalties ``h(z) = Σ_g w_g p(‖z_g‖₂)`` with a piecewise-affine slope (docs: the mathematics, §3)."""

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The affine pieces of the slope ``p'``, from ``r = 0`` outwards."""
        raise NotImplementedError(f"pieces: {type(self).__name__} must say what they are")

    def _check(self) -> None:
        table_of(self)
        check_number("threshold", self.threshold, 0.0)

    def _exact_pieces(self, number: Callable[[float], Any]) -> list[tuple[Any, ...]]:
        """Return the pieces as rows of numbers of another kind, computed in it from the parameters.

        Parameters
        ----------
        number : callable
            Makes such a number of a float, exactly.
        """
        return [tuple(number(v) for v in piece) for piece in self.pieces]

    def _strength_at(self, xp: Any, r: Array, share: Array) -> Array:
        """Return the strength at which ``p(r)`` is ``share·r``, for penalties that are not convex.

        What asks for it relies on a slope that is concave up to where it vanishes (docs: the theory of the
        optimizers).

        Parameters
        ----------
        xp : namespace
        r, share : array
            Positive radii, and values of ``p`` there as shares of them, which keep within the range.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say at which strength p(r) is a given share of r (_strength_at)"
        )

    @property
    def is_convex(self) -> bool:
        """Whether the penalty is a convex function: no jump, and a slope that never decreases."""
        return convex(table_of(self))

    @property
    def _knots(self) -> tuple[float, ...]:
        return tuple(piece.start for piece in self.pieces[1:])

    @property
    def equation(self) -> Radial:
        """The secular equation, with the pieces of the slope."""
        return Radial(table_of(self))

    def _row_value(self, xp: Any, z: Array, weight: Array) -> Array:
        value = radial_value(xp, table_of(self), row_norm(xp, z), weight)
        if self.threshold > 0:
            e = exponent(xp, xp.max(xp.abs(z), axis=1)) if z.shape[1] else xp.zeros_like(value)
            total = xp.sum(xp.abs(times_power(xp, z, -e)), axis=1)
            value = value + product(xp, total, self.threshold, e=e)
        return value

    def _row_distance(self, xp: Any, grad: Array, z: Array, weight: Array, e: Array) -> Array:
        r = row_norm(xp, z)
        unit = z / xp.where(r > 0, r, xp.ones_like(r))[:, None]
        first = table_of(self)[0]
        at_zero = product(xp, weight, first.a, e=e)
        if first.value > 0:
            at_zero = xp.where(weight > 0, xp.full_like(r, math.inf), at_zero)
        # Elements at zero absorb what the elementwise part allows.
        threshold = times_power(xp, xp.full_like(r, self.threshold), e)[:, None]
        off = self._shrink_residual(xp, grad, threshold)
        signed = grad + threshold * xp.sign(z)

        def off_by(slope: Array) -> Array:
            residual = xp.where(z == 0, off, signed + slope[:, None] * unit)
            return row_norm(xp, residual)

        # Where the slope jumps up, all that lies between counts; where it jumps down, either.
        left, right = radial_slopes(xp, table_of(self), r, weight, e)
        pull = -xp.sum(xp.where(z == 0, xp.zeros_like(z), signed * unit), axis=1)
        between = xp.where(left < right, xp.minimum(xp.maximum(pull, left), right), right)
        distance = xp.minimum(xp.minimum(off_by(left), off_by(right)), off_by(between))
        zero = row_norm(xp, off) - at_zero
        return xp.where(r > 0, distance, xp.where(zero > 0, zero, xp.zeros_like(zero)))

    def _shrink_residual(self, xp: Any, grad: Array, threshold: Array) -> Array:
        down = xp.where(-grad > threshold, grad + threshold, xp.zeros_like(grad))
        if self.nonnegative:
            return down
        return xp.where(grad > threshold, grad - threshold, down)

    def _row_subgradient(self, xp: Any, z: Array, weight: Array) -> Array:
        r = row_norm(xp, z)
        slope, _ = radial_slopes(xp, table_of(self), r, weight)
        unit = z / xp.where(r > 0, r, xp.ones_like(r))[:, None]
        return slope[:, None] * unit + self.threshold * xp.sign(z)

    @property
    def _has_conjugate(self) -> bool:
        return len(table_of(self)) == 1 and self.equation.proved_convex

    def _row_conjugate(self, xp: Any, s: Array, weight: Array) -> Array:
        # h = t‖z‖₁ + w (λr + ½κr²), perhaps on z ≥ 0:  h* = (‖v‖ - wλ)₊² / 2wκ,  v = (|s| - t)₊ or (s - t)₊.
        n, (piece,) = s.shape[1], table_of(self)
        v = (s if self.nonnegative else xp.abs(s)) * (1.0 + rounding(8)) - self.threshold
        v = xp.where(v > 0, v, xp.zeros_like(v))
        norm = xp.sqrt(xp.sum(v * v, axis=1)) * (1.0 + rounding(n + 8))
        if n:  # squares may vanish
            norm = xp.maximum(norm, xp.max(v, axis=1))
        excess = norm - weight * piece.a * (1.0 - rounding(4))
        curvature = -2.0 * piece.c * weight
        divisor = xp.where(curvature > 0, curvature, xp.ones_like(curvature))
        finite = excess**2 / divisor * (1.0 + rounding(12)) + 2.0**-1020
        infinite = xp.full_like(excess, math.inf)
        return xp.where(excess > 0, xp.where(curvature > 0, finite, infinite), xp.zeros_like(excess))

    def _check_vanishing(self) -> None:
        name, table, double = type(self).__name__, table_of(self), self.with_strength(2.0)
        factors = (
            (table[0].a, table_of(double)[0].a),
            (self.threshold, double.threshold),
        )
        if not all(math.isclose(b, 2.0 * a, rel_tol=1e-12) for a, b in factors):
            raise ValueError(
                f"penalty: the strength of {name} must be a factor of the slope of its pieces at zero, and "
                f"of its threshold; at the strengths 1 and 2 they are {factors}"
            )
        if not convex(table) and (self.threshold > 0 or not form(table).has_kernels):
            raise ValueError(
                f"penalty: from which strength on a group vanishes is not known for the pieces of {name}: "
                "they must be convex, or have no threshold and a concave slope up to a flat end, or a jump "
                'and then nothing; use method="multiplicative"'
            )

    def _row_vanishing(self, xp: Any, group: VanishingRows) -> Array:
        first, weight, price = table_of(self)[0], group.weight, group.price
        if self.threshold > 0:
            cut = xp.full_like(weight, self.threshold)
            total = sum_of_products(xp, ((cut,), (weight, first.a)))
            e = exponent(xp, total)
            root = _soft_threshold_root(
                xp, group.b, times_power(xp, cut, -e), product(xp, weight, first.a, e=-e)
            )
            return times_power(xp, root / group.step_part, group.ed + group.ex - e - exponent(xp, group.step))
        if first.a > 0:
            strength = times_power(xp, row_norm(xp, group.b) / (price * first.a), group.power)
        else:
            strength = xp.full_like(price, 0.0 if first.value > 0 else math.inf)
        if not convex(table_of(self)):
            # From the strength above on the objective climbs first, and then falls at most once before ‖x‖:
            # its least value is that at 0 or at x.
            r, own = group.reach, row_norm(xp, group.x)
            safe, own = (xp.where(r > 0, v, xp.ones_like(r)) for v in (r, own))
            saved = times_power(xp, group.energy / own / price, group.power + group.lift)
            strength = xp.maximum(strength, self._strength_at(xp, safe, saved))
        return xp.where(weight > 0, strength, xp.full_like(strength, math.inf))


# Newton's method needs fewer than ten steps on anything but made-up data.
_STEPS = 200


def _soft_threshold_root(xp: Any, b: Array, cut: Array, price: Array) -> Array:
    """Return the ``s`` with ``‖(b - cut s)₊‖ = price s`` for each row of ``b ≥ 0``.

    The difference of the two sides is convex and decreases: Newton's method climbs from a lower bound.
    """
    n = b.shape[1]
    zero = xp.zeros_like(price)
    if n == 0:
        return zero
    largest = xp.max(b, axis=1)
    unit, total = xp.where(largest > 0, largest, xp.ones_like(largest)), cut + price
    b, cut, price = b / unit[:, None], cut / total, price / total
    s = xp.sqrt(xp.sum(b * b, axis=1)) / (cut * math.sqrt(n) + price)
    for _ in range(_STEPS):
        v = b - (cut * s)[:, None]
        v = xp.where(v > 0, v, xp.zeros_like(v))
        norm = xp.sqrt(xp.sum(v * v, axis=1))
        excess = norm - price * s
        rising = (norm > 0) & (excess > 1e-16 * s)
        slope = cut * xp.sum(v, axis=1) / xp.where(norm > 0, norm, xp.ones_like(norm)) + price
        new = xp.where(rising, s + excess / slope, s)
        if not bool(xp.any(new > s)):
            break
        s = new
    return s * unit / total
