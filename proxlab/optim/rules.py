"""The adaptive methods as settings of one loop.

A method is a setting of one loop, ProxGen (Yun, Lozano & Yang 2021): a momentum rule, a preconditioner rule
and the prox in the preconditioner's metric. :class:`Rule` holds what makes a method: its settings, the
formulas that they choose (:mod:`proxlab.optim.updates`), and the numbers that depend on the count of steps
(:class:`Coefficients`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from proxlab.linker import over_arrays
from proxlab.namespaces import namespace
from proxlab.optim import updates
from proxlab.optim.updates import Averages, Bregman, Descent, HeavyBall, MeanSquare, Moments, Update
from proxlab.types import Array
from proxlab.values import check_count, check_number

__all__ = [
    "RULES",
    "Coefficients",
    "Proposal",
    "Rule",
    "Setting",
    "check_settings",
    "check_start",
    "rests",
]

Settings = Mapping[str, Any]


class Proposal(NamedTuple):
    """What the rule asks of the prox in one step: its point, metric and step, and the state after it.

    ``metric`` is None where it is the identity; ``step`` is 0 where there is nothing to shrink yet.
    """

    x: Array
    metric: Array | None
    step: float
    slots: tuple[Array, ...]
    carry: float


class Coefficients(NamedTuple):
    """The numbers of one step: those of the formulas, the prox's step, and the new carry."""

    formulas: Any
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
        ``select(settings)`` returns the :class:`~proxlab.optim.updates.Update`.
    coefficients : callable
        ``coefficients(settings, t, carry)`` returns the :class:`Coefficients` of step ``t = 1, 2, …``.
        ``carry`` is a number that the method keeps between steps, 0 at first (the sum of weights of dual
        averaging).
    averages : bool
        Whether the new point is averaged: ``w ← momentum·w + (1 - momentum)·prox``.
    convex : bool
        Whether the method is defined for convex penalties only (its state is a subgradient).
    """

    name: str
    settings: Mapping[str, Setting]
    select: Callable[[Settings], Update]
    coefficients: Callable[[Settings, int, float], Coefficients]
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
        update, found = self.select(settings), self.coefficients(settings, t, carry)
        xp, c = namespace(w), found.formulas
        new = over_arrays(update.state, xp)(w, grad, slots, c)
        metric = None if update.metric is None else over_arrays(update.metric, xp)(new, c)
        x = over_arrays(update.point, xp)(w, grad, metric, new, c)
        if array_api_compat.is_numpy_array(w) and w.ndim == 0:
            # NumPy's arithmetic makes numbers of arrays without axes.
            x, new = np.asarray(x), tuple(np.asarray(a) for a in new)
            metric = None if metric is None else np.asarray(metric)
        return Proposal(x, metric, found.step, new, found.carry)


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
    return updates.SGD_MOMENTUM if s["momentum"] else updates.SGD


def _coefficients_sgd(s: Settings, t: int, carry: float) -> Coefficients:
    sign, l2, lr, mu = _sign(s), s["weight_decay"], s["lr"], s["momentum"]
    if not mu:
        return Coefficients(Descent(sign, l2, lr, 0.0), lr, carry)
    damp = 1.0 if t == 1 else 1.0 - s["dampening"]
    of_g, of_buf = (1.0, mu) if s["nesterov"] else (0.0, 1.0)
    return Coefficients(HeavyBall(sign, l2, lr, mu, damp, of_g, of_buf), lr, carry)


def _coefficients_adagrad(s: Settings, t: int, carry: float) -> Coefficients:
    lr = s["lr"] / (1.0 + (t - 1) * s["lr_decay"])
    return Coefficients(Descent(_sign(s), s["weight_decay"], lr, s["eps"]), lr, carry)


def _select_rmsprop(s: Settings) -> Update:
    if s["centered"]:
        return updates.RMSPROP_CENTERED_MOMENTUM if s["momentum"] else updates.RMSPROP_CENTERED
    return updates.RMSPROP_MOMENTUM if s["momentum"] else updates.RMSPROP


def _coefficients_rmsprop(s: Settings, t: int, carry: float) -> Coefficients:
    keep, lr = s["alpha"], s["lr"]
    return Coefficients(
        MeanSquare(_sign(s), s["weight_decay"], lr, s["eps"], keep, 1.0 - keep, s["momentum"]), lr, carry
    )


def _moments(s: Settings, t: int, l2: float, scale: float) -> Moments:
    beta1, beta2 = s["betas"]
    unbias = 1.0 / math.sqrt(1.0 - beta2**t)
    size = s["lr"] / (1.0 - beta1**t)
    return Moments(_sign(s), l2, scale, beta1, 1.0 - beta1, beta2, 1.0 - beta2, unbias, s["eps"], size)


def _select_adam(s: Settings) -> Update:
    return updates.AMSGRAD if s["amsgrad"] else updates.ADAM


def _coefficients_adam(s: Settings, t: int, carry: float) -> Coefficients:
    return Coefficients(_moments(s, t, s["weight_decay"], 1.0), s["lr"], carry)


def _coefficients_adamw(s: Settings, t: int, carry: float) -> Coefficients:
    return Coefficients(_moments(s, t, 0.0, 1.0 - s["lr"] * s["weight_decay"]), s["lr"], carry)


def _coefficients_rmda(s: Settings, t: int, carry: float) -> Coefficients:
    weight, scale = s["lr"] * math.sqrt(t), 1.0 / math.sqrt(t)
    total = carry + weight
    return Coefficients(Averages(_sign(s) * weight, scale, 0.0, 0.0, 0.0), total / math.sqrt(t), total)


def _coefficients_ramda(s: Settings, t: int, carry: float) -> Coefficients:
    weight = s["lr"] * math.sqrt(t)
    total = carry + weight
    return Coefficients(Averages(_sign(s) * weight, 0.0, weight, s["eps"], 1.0 / 3.0), total, total)


def _select_linbreg(s: Settings) -> Update:
    return updates.LINBREG_MOMENTUM if s["momentum"] else updates.LINBREG


def _coefficients_linbreg(s: Settings, t: int, carry: float) -> Coefficients:
    mu, delta = s["momentum"], s["delta"]
    return Coefficients(Bregman(_sign(s), s["lr"], delta, mu, 1.0 - mu), delta, carry)


def _coefficients_adabreg(s: Settings, t: int, carry: float) -> Coefficients:
    return Coefficients(_moments(s, t, 0.0, s["delta"]), s["delta"], carry)


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
            _coefficients_sgd,
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
            lambda s: updates.ADAGRAD,
            _coefficients_adagrad,
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
            _coefficients_rmsprop,
        ),
        Rule("ProxAdam", _ADAM, _select_adam, _coefficients_adam),
        Rule("ProxAdamW", {**_ADAM, "weight_decay": Setting(1e-2)}, _select_adam, _coefficients_adamw),
        Rule("ProxAMSGrad", _AMSGRAD, lambda s: updates.AMSGRAD, _coefficients_adam),
        Rule(
            "RMDA",
            {"lr": Setting(1e-1), **_SHARE, **_MAXIMIZE},
            lambda s: updates.RMDA,
            _coefficients_rmda,
            averages=True,
        ),
        Rule(
            "RAMDA",
            {"lr": Setting(1e-2), **_SHARE, "eps": _EPS, **_MAXIMIZE},
            lambda s: updates.RAMDA,
            _coefficients_ramda,
            averages=True,
        ),
        Rule(
            "LinBreg",
            {"lr": Setting(1e-3), **_SHARE, **_DELTA, **_MAXIMIZE},
            _select_linbreg,
            _coefficients_linbreg,
            convex=True,
        ),
        Rule(
            "AdaBreg",
            {"lr": Setting(1e-3), **_BETAS, **_DELTA, **_MAXIMIZE},
            lambda s: updates.ADABREG,
            _coefficients_adabreg,
            convex=True,
        ),
    )
}
"""Every method, by its name."""
