"""Radial penalties whose slope is a curve: value, slope and curvature as functions of the radius."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import cache, cached_property, partial, partialmethod
from inspect import getattr_static
from typing import Any, ClassVar, NamedTuple

import numpy as np

from proxlab import scalar
from proxlab.linker import array_target, names_in
from proxlab.namespaces import namespace
from proxlab.penalties.base import Checked, Penalty, VanishingRows, row_norm
from proxlab.penalties.equations import Curved
from proxlab.powers import product, times_power
from proxlab.types import Array

__all__ = ["Curve", "CurvedPenalty", "of_strength_one"]

#: Radii, in units of the penalty's own, at which a new penalty is looked at.
_LOOKED_AT = np.geomspace(1e-3, 1e3, 13)
#: What may be called, and is not called as it was written: linked, or the same for numbers and arrays.
_LINKED = (types.FunctionType, types.BuiltinFunctionType, staticmethod, type, np.ufunc)
#: What is no function, and may return or hold one.
_HOLDERS = (classmethod, partialmethod)
#: Steps of Dinkelbach's method, which needs fewer than ten.
_STEPS = 100
#: Strengths that differ by less are the same.
_CLOSE = 1e-13


class Curve(NamedTuple):
    """A penalty's functions of the radius, over arrays of one namespace."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    curvature: Callable[[Array], Array]


@dataclass(frozen=True, eq=False, kw_only=True)
class CurvedPenalty(Penalty, metaclass=Checked):
    """Penalties ``h(z) = Σ_g w_g p(‖z_g‖₂)`` whose slope ``p'`` is a curve (docs: the mathematics, §9).

    A penalty of one's own gives :meth:`value_at`, :meth:`slope_at` and :meth:`curvature_at`, written without
    ``if`` in arithmetic and the operations of :mod:`proxlab.scalar`, each to within 16 units of rounding,
    also next to zero (``expm1(r)`` and not ``exp(r) - 1``), and says two things about the slope. The prox is
    then the *global* minimiser in every metric, and certified.

    Attributes
    ----------
    slope_falls : bool
        Whether the slope never rises with the radius: the penalty is concave on each ray. If not, it must
        never fall: the penalty is convex.
    slope_is_convex : bool
        Whether a slope that falls is a convex function of the radius. One that is not takes many more
        evaluations.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np, proxlab as pl
    >>> from proxlab.scalar import exp, expm1
    >>> @dataclass(frozen=True, eq=False)
    ... class Laplace(pl.CurvedPenalty):  # λ (1 - exp(-r/θ)), Trzasko & Manduca (2009)
    ...     lam: float
    ...     theta: float
    ...
    ...     def value_at(self, r):
    ...         return -self.lam * expm1(-r / self.theta)
    ...
    ...     def slope_at(self, r):
    ...         return self.lam / self.theta * exp(-r / self.theta)
    ...
    ...     def curvature_at(self, r):
    ...         return -self.lam / self.theta**2 * exp(-r / self.theta)
    >>> pl.prox(Laplace(1.0, 0.5), np.array([[3.0, 4.0], [0.3, 0.4]])).round(3)
    array([[3., 4.],
           [0., 0.]])
    """

    slope_falls: ClassVar[bool] = True
    slope_is_convex: ClassVar[bool] = True

    def value_at(self, r: Array) -> Array:
        """Return ``p(r)`` for radii ``r >= 0``, a number or an array: 0 at 0, and never falling."""
        raise NotImplementedError(f"value_at: {type(self).__name__} must say what p(r) is")

    def slope_at(self, r: Array) -> Array:
        """Return ``p'(r)``, at least 0; at ``r = 0`` the limit, which may be infinite."""
        raise NotImplementedError(f"slope_at: {type(self).__name__} must say what p'(r) is")

    def curvature_at(self, r: Array) -> Array:
        """Return ``p''(r)`` for ``r > 0``."""
        raise NotImplementedError(f"curvature_at: {type(self).__name__} must say what p''(r) is")

    @property
    def is_convex(self) -> bool:
        """Whether the penalty is a convex function: its slope never falls."""
        return not self.slope_falls

    @property
    def equation(self) -> Curved:
        """The secular equation, with the functions of the radius."""
        return Curved(self)

    def curve(self, xp: Any) -> Curve:
        """Return the functions of the radius over the arrays of a namespace.

        Parameters
        ----------
        xp : namespace
        """
        linked = _Linked(self, xp).copy
        return Curve(linked.value_at, linked.slope_at, linked.curvature_at)

    @property
    def _unit(self) -> float:
        """A radius at which the slope has done much of what it does."""
        return 1.0

    def _split(self) -> tuple[float, CurvedPenalty]:
        """Return a factor and the penalty without it, whose functions keep within the range."""
        return 1.0, self

    def _check(self) -> None:
        """Raise an error that names what is wrong with the functions at a few radii."""
        kind = type(self).__name__
        for name in ("slope_falls", "slope_is_convex"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: must be True or False, got {getattr(self, name)!r}")
        if self.threshold != 0:
            raise ValueError(f"threshold: must be 0 for a CurvedPenalty, and {kind} has {self.threshold!r}")
        r = self._unit * _LOOKED_AT
        with np.errstate(all="ignore"):
            curve = self.curve(_numpy())
            value, slope, curvature = (self._looked_at(name, f, r) for name, f in zip(
                ("value_at", "slope_at", "curvature_at"), curve, strict=True
            ))  # fmt: skip
            start = self._looked_at("value_at", curve.value, np.zeros(1))
        if start[0] != 0:
            raise ValueError(f"value_at: p(0) must be 0, and {kind} has {start[0]!r}")
        for name, values in (("value_at", value), ("slope_at", slope)):
            if not (values >= 0).all():
                k = int(np.argmin(values >= 0))
                raise ValueError(
                    f"{name}: must be at least 0, and {kind} has {float(values[k])!r} at {float(r[k])!r}"
                )
        turn = curvature if self.slope_falls else -curvature
        if (turn > 1e-12 * np.abs(curvature).max(initial=0.0)).any():
            k = int(np.argmax(turn))
            told = "must never rise where slope_falls" if self.slope_falls else "must never fall without it"
            raise ValueError(
                f"slope_falls: the slope {told}, and the curvature of {kind} is {float(curvature[k])!r} at "
                f"{float(r[k])!r}"
            )

        finite = np.clip(curvature, -1e300, 1e300)
        bends = np.diff(finite) < -1e-9 * np.maximum(np.abs(finite[1:]), np.abs(finite[:-1]))
        if self.slope_falls and self.slope_is_convex and bends.any():
            k = int(np.argmax(bends))
            raise ValueError(
                f"slope_is_convex: must be False where the slope is not convex, and the curvature of {kind} "
                f"falls from {float(curvature[k])!r} at {float(r[k])!r} to {float(curvature[k + 1])!r} at "
                f"{float(r[k + 1])!r}"
            )

    def _looked_at(self, name: str, function: Callable[[Array], Array], r: Array) -> Array:
        told = (
            f"{name}: {type(self).__name__} must give a float64 for each radius; write it without if, in "
            "arithmetic and the operations of proxlab.scalar, which are imported outside of it, with other "
            "methods as self.name(r)"
        )
        try:
            found = np.asarray(function(r)) + 0.0 * r
        except (TypeError, ValueError) as error:
            raise TypeError(f"{told}{_left_of(self, name)}: {error}") from error
        if found.dtype != np.float64 or found.shape != r.shape or np.isnan(found).any():
            raise TypeError(f"{told}, got {found!r}")
        return found

    def _row_value(self, xp: Any, z: Array, weight: Array) -> Array:
        r, (factor, unit) = row_norm(xp, z), self._split()
        value = unit.curve(xp).value(xp.where(r > 0, r, xp.ones_like(r)))
        return xp.where(r > 0, product(xp, weight, factor, value), xp.zeros_like(r))

    def _row_distance(self, xp: Any, grad: Array, z: Array, weight: Array, e: Array) -> Array:
        r, (factor, unit) = row_norm(xp, z), self._split()
        curve = unit.curve(xp)
        safe = xp.where(r > 0, r, xp.ones_like(r))
        off = xp.where(grad < 0, grad, xp.zeros_like(grad)) if self.nonnegative else grad
        slope = product(xp, weight, factor, curve.slope(safe), e=e)
        residual = xp.where(z == 0, off, grad + slope[:, None] * (z / safe[:, None]))
        first = curve.slope(xp.zeros_like(r))
        at_zero = xp.where(weight > 0, product(xp, weight, factor, first, e=e), xp.zeros_like(r))
        zero = row_norm(xp, off) - at_zero
        return xp.where(r > 0, row_norm(xp, residual), xp.where(zero > 0, zero, xp.zeros_like(zero)))

    def _row_subgradient(self, xp: Any, z: Array, weight: Array) -> Array:
        r = row_norm(xp, z)
        safe = xp.where(r > 0, r, xp.ones_like(r))
        slope = weight * self.curve(xp).slope(safe)
        return xp.where((r > 0)[:, None], slope[:, None] * (z / safe[:, None]), xp.zeros_like(z))

    def _check_vanishing(self) -> None:
        r = self._unit * _LOOKED_AT
        one, two = (h.curve(_numpy()).value(r) for h in (self, self.with_strength(2.0)))
        if not np.allclose(two, 2.0 * one, rtol=1e-12):
            raise ValueError(
                f"penalty: the strength of {type(self).__name__} must be a factor of it, and at the "
                f"strengths 1 and 2 its values at {float(r[6])!r} are {float(one[6])!r} and {float(two[6])!r}"
            )

    def _row_vanishing(self, xp: Any, group: VanishingRows) -> Array:
        """Return ``max_r (q(0) - q(r))/(η w p(r))``, ``q`` the least ``‖z - x‖²_D/2`` at a radius.

        By Dinkelbach's method: a group that is not zero at a strength names a greater one (docs: the theory
        of the optimizers).
        """
        none, (value_at, slope_at, _) = xp.zeros_like(group.reach), self.curve(xp)
        weight = xp.where(group.weight > 0, group.weight, xp.ones_like(none))
        z, going = group.solve(0.0 * weight), group.reach > 0
        # The limit at zero, where a group goes that shrinks to nothing.
        first = slope_at(none)
        strength = times_power(xp, row_norm(xp, group.b) / (group.price * first), group.power)
        for k in range(_STEPS):
            # q(0) - q(r) = ⟨D x, z⟩ - ‖z‖²_D/2, and 0 ≤ z/x ≤ 1 in every element.
            size, whole = xp.abs(times_power(xp, z, -group.ex)), xp.abs(group.x)
            share = size / xp.where(whole > 0, whole, xp.ones_like(whole))
            saved = xp.sum(group.b * size * (1.0 - 0.5 * share), axis=1)
            r = row_norm(xp, z)
            alive = going & (r > 0)
            value = value_at(xp.where(r > 0, r, xp.ones_like(r)))
            new = saved / group.price / xp.where(value > 0, value, none + 1.0)
            new = times_power(xp, new, group.power + group.ex)
            # The first is at the point itself, and says nothing of what is between.
            going = alive & ((new > strength * (1.0 + _CLOSE)) | (k == 0))
            strength = xp.where(alive & (new > strength), new, strength)
            if not bool(xp.any(going)):
                break
            z = group.solve(weight * strength)
        # From below; what is returned is enough.
        strength = strength * (1.0 + 2.0 * _CLOSE)
        return xp.where(group.weight > 0, strength, xp.full_like(strength, math.inf))


def _numpy() -> Any:
    return namespace(_LOOKED_AT)


def of_strength_one(penalty: CurvedPenalty) -> CurvedPenalty:
    """Return a penalty with ``lam = 1``; each prox asks for it, and what was checked is not checked again."""
    one = copy(penalty)
    one.__dict__["lam"] = 1.0
    return one


class _Linked:
    """A copy of a penalty whose methods, and what they call, have the operations of an array namespace.

    A method is linked when it is first called, and anew for each copy: what it reads may have changed.
    """

    def __init__(self, penalty: CurvedPenalty, xp: Any) -> None:
        self.xp, self.copy = xp, copy(penalty)
        for kind in reversed([c for c in type(penalty).__mro__ if not issubclass(CurvedPenalty, c)]):
            for name, f in vars(kind).items():
                if _is_method(f) and not name.startswith("__"):
                    self.copy.__dict__[name] = self.bound(kind, f)
        # What an instance has is not bound to it: a function that is a parameter.
        for name, f in vars(penalty).items():
            held = _is_method(f)
            self.copy.__dict__[name] = self.bound(type(penalty), staticmethod(f)) if held else f

    def bound(self, kind: type, method: Any) -> Callable[..., Any]:
        """Return a method of a class, bound to the copy."""
        own = () if isinstance(method, staticmethod) else (self.copy,)

        @cache
        def linked() -> Callable[..., Any]:
            operations = {super: partial(_Above, self, kind)}
            target = array_target(self.xp, operations, strict=False, argument="penalty")
            function: Callable[..., Any] = target.link(getattr(method, "__func__", method))
            return function

        return lambda *given, **named: linked()(*own, *given, **named)


class _Above:
    """What ``super()`` is in a method of a class: what the classes behind it say, linked."""

    def __init__(self, linked: _Linked, kind: type, *given: Any) -> None:
        self._linked, self._kind = linked, given[0] if given else kind

    def __getattr__(self, name: str) -> Any:
        behind = type(self._linked.copy).__mro__
        for kind in behind[behind.index(self._kind) + 1 :]:
            if name in vars(kind) and _is_method(vars(kind)[name]) and not issubclass(CurvedPenalty, kind):
                return self._linked.bound(kind, vars(kind)[name])
        return getattr(super(self._kind, self._linked.copy), name)


def _is_method(value: Any) -> bool:
    return isinstance(value, (types.FunctionType, staticmethod))


def _is_kept(value: Any) -> bool:
    """Whether a value is, or holds, what is called as it was written."""
    if isinstance(value, (tuple, list, dict)):
        return any(map(callable, value.values() if isinstance(value, dict) else value))
    linked = isinstance(value, _LINKED) or hasattr(value, "py_func")
    return isinstance(value, _HOLDERS) or (callable(value) and not linked)


def _left_of(penalty: CurvedPenalty, name: str) -> str:
    """Say what a method, or one that it calls, uses that is called but keeps the operations of numbers."""
    left: list[Any] = [getattr_static(penalty, name)]
    seen: set[Any] = set()
    found: dict[str, str] = {}
    while left:
        value = left.pop()
        f = getattr(value, "__func__", value)
        if not isinstance(f, types.FunctionType):
            found.setdefault(name, f"{name}, a {type(value).__name__}")
        elif f not in seen and f.__module__ != scalar.__name__:
            seen.add(f)
            cells = dict(zip(f.__code__.co_freevars, f.__closure__ or (), strict=True))
            for used in sorted(names_in(f) | set(cells)):
                own = getattr_static(penalty, used, None)
                known = f.__globals__.get(used) if own is None else own
                if used in cells and used != "__class__":
                    known = cells[used].cell_contents
                if _is_method(known):
                    left.append(known)
                elif used in ("type", "__class__") and used not in cells:
                    found[used] = f"what {used} of self has"
                elif isinstance(known, (property, cached_property)):
                    if callable(getattr(penalty, used)):
                        found[used] = f"{used}, a {type(known).__name__}"
                elif _is_kept(known):
                    found[used] = f"{used}, a {type(known).__name__}"
    if not found:
        return ""
    return f"; {', '.join(found.values())}, stays as it is: let it be a method, a static one or a function"
