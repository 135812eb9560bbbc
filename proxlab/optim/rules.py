"""The update rules of the adaptive methods: the one place where the prox's point and metric are formed.

A method is a setting of one loop, ProxGen (Yun, Lozano & Yang 2021): a momentum rule, a preconditioner rule
and the prox in the preconditioner's metric. :class:`Rule` holds what makes a method: an elementwise function
in plain arithmetic, which runs over arrays of any namespace and compiled; the arrays of state that it needs
(:class:`Slot`); and the numbers that depend on the count of steps (:class:`Schedule`).

The functions contain no literals, since a compiled float32 loop would compute in float64 with them, and no
branches. They return the prox's point, the metric where the rule has one, and the new state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from proxlab.backends.build import over_arrays
from proxlab.groups import Array
from proxlab.optim.sparsity import check_count
from proxlab.penalties.base import check_number
from proxlab.scalar import any_order, fabs, fmax, sqrt

__all__ = [
    "RULES",
    "Proposal",
    "Rule",
    "Schedule",
    "Setting",
    "Slot",
    "Update",
    "check_settings",
    "check_start",
    "rests",
    "rule_of",
]

Settings = Mapping[str, Any]

# ----------------------------------------------------------------------------------------------------
# Elementwise updates. ``sign`` is -1 where the objective is maximised, ``l2`` a coupled weight decay.


@any_order
def sgd(w: Array, g: Array, sign: Array, l2: Array, lr: Array) -> tuple[Array, ...]:
    """Stochastic gradient descent."""
    return (w - lr * (sign * g + l2 * w),)


@any_order
def sgd_momentum(
    w: Array,
    g: Array,
    buf: Array,
    sign: Array,
    l2: Array,
    lr: Array,
    mu: Array,
    damp: Array,
    of_g: Array,
    of_buf: Array,
) -> tuple[Array, ...]:
    """Heavy ball and Nesterov (Sutskever et al. 2013): the direction is ``of_g·g + of_buf·buf``."""
    g = sign * g + l2 * w
    buf = mu * buf + damp * g
    return w - lr * (of_g * g + of_buf * buf), buf


@any_order
def adagrad(w: Array, g: Array, total: Array, sign: Array, l2: Array, lr: Array, eps: Array) -> Any:
    """Adagrad (Duchi, Hazan & Singer 2011), diagonal."""
    g = sign * g + l2 * w
    total = total + g * g
    d = sqrt(total) + eps
    return w - lr * g / d, d, total


@any_order
def rmsprop(
    w: Array,
    g: Array,
    square: Array,
    sign: Array,
    l2: Array,
    lr: Array,
    eps: Array,
    keep: Array,
    new: Array,
) -> Any:
    """RMSprop (Tieleman & Hinton 2012)."""
    g = sign * g + l2 * w
    square = keep * square + new * (g * g)
    d = sqrt(square) + eps
    return w - lr * g / d, d, square


@any_order
def rmsprop_momentum(
    w: Array,
    g: Array,
    square: Array,
    buf: Array,
    sign: Array,
    l2: Array,
    lr: Array,
    eps: Array,
    keep: Array,
    new: Array,
    mu: Array,
) -> Any:
    """RMSprop with momentum of the preconditioned gradient, as PyTorch has it."""
    g = sign * g + l2 * w
    square = keep * square + new * (g * g)
    d = sqrt(square) + eps
    buf = mu * buf + g / d
    return w - lr * buf, d, square, buf


@any_order
def rmsprop_centered(
    w: Array,
    g: Array,
    square: Array,
    mean: Array,
    sign: Array,
    l2: Array,
    lr: Array,
    eps: Array,
    keep: Array,
    new: Array,
) -> Any:
    """RMSprop by the variance of the gradient (Graves 2013)."""
    g = sign * g + l2 * w
    square = keep * square + new * (g * g)
    mean = mean + new * (g - mean)
    # nonnegative but for rounding
    d = sqrt(fabs(square - mean * mean)) + eps
    return w - lr * g / d, d, square, mean


@any_order
def rmsprop_centered_momentum(
    w: Array,
    g: Array,
    square: Array,
    mean: Array,
    buf: Array,
    sign: Array,
    l2: Array,
    lr: Array,
    eps: Array,
    keep: Array,
    new: Array,
    mu: Array,
) -> Any:
    """Centered RMSprop with momentum."""
    g = sign * g + l2 * w
    square = keep * square + new * (g * g)
    mean = mean + new * (g - mean)
    d = sqrt(fabs(square - mean * mean)) + eps
    buf = mu * buf + g / d
    return w - lr * buf, d, square, mean, buf


@any_order
def adam(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    sign: Array,
    l2: Array,
    shrink: Array,
    new_m: Array,
    keep_v: Array,
    new_v: Array,
    unbias: Array,
    eps: Array,
    size: Array,
) -> Any:
    """Adam (Kingma & Ba 2015), and AdamW (Loshchilov & Hutter 2019) by ``shrink``.

    ``unbias`` is ``1/sqrt(1 - beta2^t)`` and ``size`` is ``lr/(1 - beta1^t)``: the metric is corrected for
    its bias, as the step is.
    """
    g = sign * g + l2 * w
    m = m + new_m * (g - m)
    v = keep_v * v + new_v * (g * g)
    d = sqrt(v) * unbias + eps
    return w * shrink - size * m / d, d, m, v


@any_order
def amsgrad(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    largest: Array,
    sign: Array,
    l2: Array,
    shrink: Array,
    new_m: Array,
    keep_v: Array,
    new_v: Array,
    unbias: Array,
    eps: Array,
    size: Array,
) -> Any:
    """AMSGrad (Reddi, Kale & Kumar 2018): Adam with the largest second moment so far."""
    g = sign * g + l2 * w
    m = m + new_m * (g - m)
    v = keep_v * v + new_v * (g * g)
    largest = fmax(largest, v)
    d = sqrt(largest) * unbias + eps
    return w * shrink - size * m / d, d, m, v, largest


@any_order
def rmda(w: Array, g: Array, origin: Array, total: Array, weight: Array, scale: Array) -> tuple[Array, ...]:
    """Regularised modernised dual averaging (Huang & Lee 2022); ``scale`` is ``1/√t``."""
    total = total + weight * g
    return origin - scale * total, origin, total


@any_order
def ramda(
    w: Array,
    g: Array,
    origin: Array,
    total: Array,
    square: Array,
    weight: Array,
    size: Array,
    eps: Array,
    third: Array,
) -> Any:
    """Regularised adaptive momentumised dual averaging (Huang, Lee et al. 2024), metric ``U^(1/3) + eps``."""
    total = total + weight * g
    square = square + size * (g * g)
    d = square**third + eps
    return origin - total / d, d, origin, total, square


@any_order
def linbreg(w: Array, g: Array, dual: Array, sign: Array, lr: Array, delta: Array) -> tuple[Array, ...]:
    """Linearised Bregman iterations (Bungert, Roith, Tenbrinck & Burger 2022)."""
    dual = dual - lr * (sign * g)
    return delta * dual, dual


@any_order
def linbreg_momentum(
    w: Array,
    g: Array,
    dual: Array,
    buf: Array,
    sign: Array,
    lr: Array,
    delta: Array,
    mu: Array,
    damp: Array,
) -> tuple[Array, ...]:
    """Linearised Bregman iterations with momentum."""
    buf = mu * buf + damp * (sign * g)
    dual = dual - lr * buf
    return delta * dual, dual, buf


@any_order
def adabreg(
    w: Array,
    g: Array,
    dual: Array,
    m: Array,
    v: Array,
    sign: Array,
    delta: Array,
    new_m: Array,
    keep_v: Array,
    new_v: Array,
    unbias: Array,
    eps: Array,
    size: Array,
) -> tuple[Array, ...]:
    """AdaBreg (Bungert et al. 2022): Adam's direction moves the dual variable; the prox has unit metric."""
    g = sign * g
    m = m + new_m * (g - m)
    v = keep_v * v + new_v * (g * g)
    dual = dual - size * m / (sqrt(v) * unbias + eps)
    return delta * dual, dual, m, v


# ----------------------------------------------------------------------------------------------------
# The metrics again, from the new state: a pass that keeps nothing for each element forms them anew.


@any_order
def adagrad_metric(total: Array, sign: Array, l2: Array, lr: Array, eps: Array) -> Array:
    """Form the metric of :func:`adagrad`."""
    return sqrt(total) + eps


@any_order
def rmsprop_metric(
    square: Array, sign: Array, l2: Array, lr: Array, eps: Array, keep: Array, new: Array
) -> Array:
    """Form the metric of :func:`rmsprop`."""
    return sqrt(square) + eps


@any_order
def rmsprop_momentum_metric(
    square: Array, buf: Array, sign: Array, l2: Array, lr: Array, eps: Array, keep: Array, new: Array,
    mu: Array,
) -> Array:  # fmt: skip
    """Form the metric of :func:`rmsprop_momentum`."""
    return sqrt(square) + eps


@any_order
def rmsprop_centered_metric(
    square: Array, mean: Array, sign: Array, l2: Array, lr: Array, eps: Array, keep: Array, new: Array
) -> Array:
    """Form the metric of :func:`rmsprop_centered`."""
    return sqrt(fabs(square - mean * mean)) + eps


@any_order
def rmsprop_centered_momentum_metric(
    square: Array, mean: Array, buf: Array, sign: Array, l2: Array, lr: Array, eps: Array, keep: Array,
    new: Array, mu: Array,
) -> Array:  # fmt: skip
    """Form the metric of :func:`rmsprop_centered_momentum`."""
    return sqrt(fabs(square - mean * mean)) + eps


@any_order
def adam_metric(
    m: Array, v: Array, sign: Array, l2: Array, shrink: Array, new_m: Array, keep_v: Array, new_v: Array,
    unbias: Array, eps: Array, size: Array,
) -> Array:  # fmt: skip
    """Form the metric of :func:`adam`."""
    return sqrt(v) * unbias + eps


@any_order
def amsgrad_metric(
    m: Array, v: Array, largest: Array, sign: Array, l2: Array, shrink: Array, new_m: Array, keep_v: Array,
    new_v: Array, unbias: Array, eps: Array, size: Array,
) -> Array:  # fmt: skip
    """Form the metric of :func:`amsgrad`."""
    return sqrt(largest) * unbias + eps


@any_order
def ramda_metric(
    origin: Array, total: Array, square: Array, weight: Array, size: Array, eps: Array, third: Array
) -> Array:
    """Form the metric of :func:`ramda`."""
    return square**third + eps


# ----------------------------------------------------------------------------------------------------
# What a method is made of.


class Slot(NamedTuple):
    """One array of state per parameter.

    ``start`` says what it is before the first step: "zeros", "parameter" (a copy of it), "dual" (a point
    whose prox is the parameter) or the name of a setting that holds the value.
    """

    name: str
    start: str = "zeros"


class Update(NamedTuple):
    """An elementwise function ``(w, g, *slots, *coefficients) -> (x, [d], *slots)`` and its slots.

    ``metric(*slots, *coefficients)`` forms the same ``d`` again from the new state.
    """

    function: Callable[..., Any]
    slots: tuple[Slot, ...] = ()
    metric: Callable[..., Any] | None = None


class Proposal(NamedTuple):
    """What the rule asks of the prox in one step: its point, metric and step, and the state after it.

    ``metric`` is None where it is the identity; ``step`` is 0 where there is nothing to shrink yet.
    """

    x: Array
    metric: Array | None
    step: float
    slots: tuple[Array, ...]
    carry: float


class Schedule(NamedTuple):
    """The numbers of one step: the update's coefficients, the prox's step, and the new carry."""

    coefficients: tuple[float, ...]
    step: float
    carry: float


@dataclass(frozen=True)
class Setting:
    """A hyperparameter: its default and its admissible values.

    Attributes
    ----------
    default : float, bool or tuple of float
    low, high : float
        ``low <= value < high``; not used for booleans.
    positive : bool
        Whether ``low`` itself is excluded.
    """

    default: Any
    low: float = 0.0
    high: float = math.inf
    positive: bool = False

    def check(self, name: str, value: Any) -> Any:
        """Return the value as a float, bool or tuple of floats, or raise an error that names it."""
        if isinstance(self.default, tuple):
            if not isinstance(value, (tuple, list)) or len(value) != len(self.default):
                raise TypeError(f"{name}: must be {len(self.default)} numbers, got {value!r}")
            return tuple(self._number(f"{name}[{k}]", v) for k, v in enumerate(value))
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise TypeError(f"{name}: must be True or False, got {value!r}")
            return value
        return self._number(name, value)

    def _number(self, name: str, value: Any) -> float:
        number = check_number(name, value, self.low, strict=self.positive)
        if number >= self.high:
            raise ValueError(f"{name}: must be < {self.high:g}, got {value!r}")
        return number


@dataclass(frozen=True)
class Rule:
    """A method as a setting of the generic loop.

    Attributes
    ----------
    name : str
    settings : mapping of str to Setting
        The hyperparameters, by the names of PyTorch's own optimizers where those have them.
    select : callable
        ``select(settings)`` returns the :class:`Update`.
    schedule : callable
        ``schedule(settings, t, carry)`` returns the :class:`Schedule` of step ``t = 1, 2, …``. ``carry`` is a
        number that the method keeps between steps, 0 at first (the sum of weights of dual averaging).
    diagonal : bool
        Whether the prox has the metric that the update returns; otherwise the identity.
    averages : bool
        Whether the new point is averaged: ``w ← momentum·w + (1 - momentum)·prox``.
    convex : bool
        Whether the method is defined for convex penalties only (its state is a subgradient).
    """

    name: str
    settings: Mapping[str, Setting]
    select: Callable[[Settings], Update]
    schedule: Callable[[Settings, int, float], Schedule]
    diagonal: bool = True
    averages: bool = False
    convex: bool = False

    def propose(
        self, settings: Settings, w: Array, grad: Array, slots: tuple[Array, ...], t: int, carry: float
    ) -> Proposal:
        """Apply the update to arrays: what the prox is then asked for.

        Parameters
        ----------
        settings : mapping
            Validated settings; ``lr`` may differ from step to step.
        w, grad : array
            The parameter and its gradient, of one shape and dtype.
        slots : tuple of array
            The state, in the order of ``select(settings).slots``.
        t : int
            The count of this step, from 1.
        carry : float
            As the step before left it; 0 at first.
        """
        update = over_arrays(self.select(settings).function, array_api_compat.array_namespace(w))
        numbers = self.schedule(settings, t, carry)
        x, *rest = update(w, grad, *slots, *numbers.coefficients)
        if array_api_compat.is_numpy_array(w) and w.ndim == 0:
            # NumPy's arithmetic makes numbers of arrays without axes.
            x, *rest = (np.asarray(a) for a in (x, *rest))
        metric = rest.pop(0) if self.diagonal else None
        return Proposal(x, metric, numbers.step, tuple(rest), numbers.carry)


def check_settings(rule: Rule, settings: Settings) -> dict[str, Any]:
    """Return all settings of a rule, validated, with defaults for those not given.

    Raises
    ------
    TypeError, ValueError
        If a setting is unknown or not admissible; the message names it.
    """
    unknown = sorted(set(settings) - set(rule.settings))
    if unknown:
        raise TypeError(f"{unknown[0]}: {rule.name} has no such setting; it has {', '.join(rule.settings)}")
    checked = {
        name: setting.check(name, settings.get(name, setting.default))
        for name, setting in rule.settings.items()
    }
    if checked.get("nesterov") and not (checked["momentum"] > 0 and checked["dampening"] == 0):
        raise ValueError("nesterov: needs momentum > 0 and dampening = 0")
    return checked


def check_start(start: object, rule: Rule) -> int:
    """Return the step from which on there is a penalty, or raise an error that names it."""
    count = check_count("start", start)
    if count > 1 and rule.convex:
        raise ValueError(
            f"start: must be 1, since the state of {rule.name} holds a subgradient of the penalty from the "
            f"first step on, got {start!r}"
        )
    return count


def rests(settings: Settings) -> bool:
    """Say whether a step leaves the weights as they are, to the last bit: the learning rate is 0.

    Weights that are read off a dual variable, or off averages, follow the strength of the penalty all the
    same: where that is driven and has changed, they are read anew.
    """
    return bool(settings["lr"] == 0.0)


def _sign(s: Settings) -> float:
    return -1.0 if s["maximize"] else 1.0


def _select_sgd(s: Settings) -> Update:
    return Update(sgd_momentum, (Slot("momentum_buffer"),)) if s["momentum"] else Update(sgd)


def _schedule_sgd(s: Settings, t: int, carry: float) -> Schedule:
    common = (_sign(s), s["weight_decay"], s["lr"])
    mu = s["momentum"]
    if not mu:
        return Schedule(common, s["lr"], carry)
    damp = 1.0 if t == 1 else 1.0 - s["dampening"]
    of_g, of_buf = (1.0, mu) if s["nesterov"] else (0.0, 1.0)
    return Schedule((*common, mu, damp, of_g, of_buf), s["lr"], carry)


_UPDATE_ADAGRAD = Update(adagrad, (Slot("sum", "initial_accumulator_value"),), adagrad_metric)


def _schedule_adagrad(s: Settings, t: int, carry: float) -> Schedule:
    lr = s["lr"] / (1.0 + (t - 1) * s["lr_decay"])
    return Schedule((_sign(s), s["weight_decay"], lr, s["eps"]), lr, carry)


_RMSPROP = {
    (False, False): Update(rmsprop, (Slot("square_avg"),), rmsprop_metric),
    (False, True): Update(
        rmsprop_momentum, (Slot("square_avg"), Slot("momentum_buffer")), rmsprop_momentum_metric
    ),
    (True, False): Update(rmsprop_centered, (Slot("square_avg"), Slot("grad_avg")), rmsprop_centered_metric),
    (True, True): Update(
        rmsprop_centered_momentum,
        (Slot("square_avg"), Slot("grad_avg"), Slot("momentum_buffer")),
        rmsprop_centered_momentum_metric,
    ),
}


def _select_rmsprop(s: Settings) -> Update:
    return _RMSPROP[s["centered"], s["momentum"] > 0]


def _schedule_rmsprop(s: Settings, t: int, carry: float) -> Schedule:
    common = (_sign(s), s["weight_decay"], s["lr"], s["eps"], s["alpha"], 1.0 - s["alpha"])
    return Schedule((*common, s["momentum"]) if s["momentum"] > 0 else common, s["lr"], carry)


def _moments(s: Settings, t: int) -> tuple[float, ...]:
    """Return ``new_m, keep_v, new_v, unbias, eps, size``."""
    beta1, beta2 = s["betas"]
    unbias = 1.0 / math.sqrt(1.0 - beta2**t)
    return 1.0 - beta1, beta2, 1.0 - beta2, unbias, s["eps"], s["lr"] / (1.0 - beta1**t)


_MOMENTS = Slot("exp_avg"), Slot("exp_avg_sq")
_UPDATE_ADAM = Update(adam, _MOMENTS, adam_metric)
_UPDATE_AMSGRAD = Update(amsgrad, (*_MOMENTS, Slot("max_exp_avg_sq")), amsgrad_metric)


def _select_adam(s: Settings) -> Update:
    return _UPDATE_AMSGRAD if s["amsgrad"] else _UPDATE_ADAM


def _schedule_adam(s: Settings, t: int, carry: float) -> Schedule:
    return Schedule((_sign(s), s["weight_decay"], 1.0, *_moments(s, t)), s["lr"], carry)


def _schedule_adamw(s: Settings, t: int, carry: float) -> Schedule:
    shrink = 1.0 - s["lr"] * s["weight_decay"]
    return Schedule((_sign(s), 0.0, shrink, *_moments(s, t)), s["lr"], carry)


_ORIGIN = Slot("origin", "parameter"), Slot("grad_sum")
_UPDATE_RAMDA = Update(ramda, (*_ORIGIN, Slot("square_sum")), ramda_metric)


def _schedule_rmda(s: Settings, t: int, carry: float) -> Schedule:
    weight = s["lr"] * math.sqrt(t)
    total = carry + weight
    return Schedule((_sign(s) * weight, 1.0 / math.sqrt(t)), total / math.sqrt(t), total)


def _schedule_ramda(s: Settings, t: int, carry: float) -> Schedule:
    weight = s["lr"] * math.sqrt(t)
    total = carry + weight
    return Schedule((_sign(s) * weight, weight, s["eps"], 1.0 / 3.0), total, total)


def _select_linbreg(s: Settings) -> Update:
    dual = Slot("dual", "dual")
    if s["momentum"]:
        return Update(linbreg_momentum, (dual, Slot("momentum_buffer")))
    return Update(linbreg, (dual,))


def _schedule_linbreg(s: Settings, t: int, carry: float) -> Schedule:
    common = (_sign(s), s["lr"], s["delta"])
    mu = s["momentum"]
    return Schedule((*common, mu, 1.0 - mu) if mu else common, s["delta"], carry)


def _schedule_adabreg(s: Settings, t: int, carry: float) -> Schedule:
    return Schedule((_sign(s), s["delta"], *_moments(s, t)), s["delta"], carry)


_EPS = Setting(1e-8, positive=True)
_MAXIMIZE = {"maximize": Setting(False)}
_DECAY = {"weight_decay": Setting(0.0)}
_BETAS = {"betas": Setting((0.9, 0.999), high=1.0), "eps": _EPS}
_MOMENTUM = {"momentum": Setting(0.0)}
_SHARE = {"momentum": Setting(0.0, high=1.0)}
_DELTA = {"delta": Setting(1.0, positive=True)}
_AMSGRAD = {"lr": Setting(1e-3), **_BETAS, **_DECAY, **_MAXIMIZE}
_ADAM = {**_AMSGRAD, "amsgrad": Setting(False)}

RULES: Mapping[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            "ProxSGD",
            {
                "lr": Setting(1e-3),
                **_MOMENTUM,
                "dampening": Setting(0.0, high=1.0),
                **_DECAY,
                "nesterov": Setting(False),
                **_MAXIMIZE,
            },
            _select_sgd,
            _schedule_sgd,
            diagonal=False,
        ),
        Rule(
            "ProxAdagrad",
            {
                "lr": Setting(1e-2),
                "lr_decay": Setting(0.0),
                **_DECAY,
                "initial_accumulator_value": Setting(0.0),
                "eps": Setting(1e-10, positive=True),
                **_MAXIMIZE,
            },
            lambda s: _UPDATE_ADAGRAD,
            _schedule_adagrad,
        ),
        Rule(
            "ProxRMSprop",
            {
                "lr": Setting(1e-2),
                "alpha": Setting(0.99),
                "eps": _EPS,
                **_DECAY,
                **_MOMENTUM,
                "centered": Setting(False),
                **_MAXIMIZE,
            },
            _select_rmsprop,
            _schedule_rmsprop,
        ),
        Rule("ProxAdam", _ADAM, _select_adam, _schedule_adam),
        Rule("ProxAdamW", {**_ADAM, "weight_decay": Setting(1e-2)}, _select_adam, _schedule_adamw),
        Rule("ProxAMSGrad", _AMSGRAD, lambda s: _UPDATE_AMSGRAD, _schedule_adam),
        Rule(
            "RMDA",
            {"lr": Setting(1e-1), **_SHARE, **_MAXIMIZE},
            lambda s: Update(rmda, _ORIGIN),
            _schedule_rmda,
            diagonal=False,
            averages=True,
        ),
        Rule(
            "RAMDA",
            {"lr": Setting(1e-2), **_SHARE, "eps": _EPS, **_MAXIMIZE},
            lambda s: _UPDATE_RAMDA,
            _schedule_ramda,
            averages=True,
        ),
        Rule(
            "LinBreg",
            {"lr": Setting(1e-3), **_SHARE, **_DELTA, **_MAXIMIZE},
            _select_linbreg,
            _schedule_linbreg,
            diagonal=False,
            convex=True,
        ),
        Rule(
            "AdaBreg",
            {"lr": Setting(1e-3), **_BETAS, **_DELTA, **_MAXIMIZE},
            lambda s: Update(adabreg, (Slot("dual", "dual"), *_MOMENTS)),
            _schedule_adabreg,
            diagonal=False,
            convex=True,
        ),
    )
}
"""Every method, by its name."""


def rule_of(cls: type) -> Rule:
    """Return the rule of a class: that of its name, or of the class that it is derived from."""
    for base in cls.__mro__:
        if base.__name__ in RULES:
            return RULES[base.__name__]
    raise TypeError(f"{cls.__name__}: has no update rule; use one of {', '.join(RULES)}")
