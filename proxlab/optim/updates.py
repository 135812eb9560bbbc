"""The elementwise formulas of the adaptive methods: the new state, its metric, and the prox's point.

Each in plain arithmetic of numbers, without literals (a compiled float32 loop would compute in float64 with
them) and without branches. One source runs over arrays of any namespace, and compiled for one element, where
it rounds as it is written: whatever looks at a step before it is taken sees the same numbers.

    state(w, g, s, c) -> s      the new state, from weight, gradient and the state before
    metric(s, c) -> d           the metric, from the new state
    point(w, g, d, s, c) -> x   what the prox is taken of, from metric and new state

``s`` is a tuple of the numbers of state, and ``c`` is a named tuple of this file, the numbers of the step:
``sign`` is -1 where the objective is maximised, ``l2`` a coupled weight decay, ``keep`` and ``new`` are the
weights of what was and of what comes in a mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from proxlab.scalar import fabs, filled, fmax, sqrt, where
from proxlab.types import Array

__all__ = [
    "ADABREG",
    "ADAGRAD",
    "ADAM",
    "AMSGRAD",
    "LINBREG",
    "LINBREG_MOMENTUM",
    "RAMDA",
    "RMDA",
    "RMSPROP",
    "RMSPROP_CENTERED",
    "RMSPROP_CENTERED_MOMENTUM",
    "RMSPROP_MOMENTUM",
    "SGD",
    "SGD_MOMENTUM",
    "Slot",
    "Update",
]


class Slot(NamedTuple):
    """One array of state per parameter.

    ``start`` says what it is before the first step: "zeros", "parameter" (a copy of it), "dual" (a point
    whose prox is the parameter) or the name of a setting that holds the value. One that ``is_square`` sums up
    squares.
    """

    name: str
    start: str = "zeros"
    is_square: bool = False


class Update(NamedTuple):
    """The formulas of a method, as this file describes them, and its state.

    ``metric`` is None where it is the identity; ``point`` does not read it then.
    """

    state: Callable[..., Any]
    point: Callable[..., Any]
    metric: Callable[..., Any] | None = None
    slots: tuple[Slot, ...] = ()


class Descent(NamedTuple):
    """Numbers of a step of gradient descent; of Adagrad with its ``eps``."""

    sign: Array
    l2: Array
    lr: Array
    eps: Array


class HeavyBall(NamedTuple):
    """Numbers of a step with momentum: the direction is ``of_g·g + of_buf·buf``."""

    sign: Array
    l2: Array
    lr: Array
    mu: Array
    damp: Array
    of_g: Array
    of_buf: Array


class MeanSquare(NamedTuple):
    """Numbers of a step of RMSprop."""

    sign: Array
    l2: Array
    lr: Array
    eps: Array
    keep: Array
    new: Array
    mu: Array


class Moments(NamedTuple):
    """Numbers of a step of Adam and its kin.

    ``keep_m`` and ``new_m`` are ``beta1`` and ``1 - beta1``. ``unbias`` is ``1/sqrt(1 - beta2^t)`` and
    ``size`` is ``lr/(1 - beta1^t)``: the metric is corrected for its bias, as the step is. ``scale`` is what
    the point is multiplied by: what decoupled weight decay leaves of the weight, or ``delta`` of the dual
    variable.
    """

    sign: Array
    l2: Array
    scale: Array
    keep_m: Array
    new_m: Array
    keep_v: Array
    new_v: Array
    unbias: Array
    eps: Array
    size: Array


class Averages(NamedTuple):
    """Numbers of a step of dual averaging: ``scale`` is ``1/√t`` (RMDA), ``third`` is 1/3 (RAMDA)."""

    weight: Array
    scale: Array
    size: Array
    eps: Array
    third: Array


class Bregman(NamedTuple):
    """Numbers of a linearised Bregman iteration; ``scale`` is its ``delta``."""

    sign: Array
    lr: Array
    scale: Array
    mu: Array
    damp: Array


def descend(w: Array, g: Array, c: Any) -> Array:
    """Return the gradient with coupled weight decay."""
    return c.sign * g + c.l2 * w


def stateless(w: Array, g: Array, s: Any, c: Any) -> Any:
    """Return the state of a method that has none."""
    return ()


def sgd_point(w: Array, g: Array, d: Array, s: Any, c: Any) -> Array:
    """Stochastic gradient descent."""
    return w - c.lr * descend(w, g, c)


def heavy_ball_state(w: Array, g: Array, s: Any, c: Any) -> Any:
    """Momentum of the gradient."""
    return (c.mu * s[0] + c.damp * descend(w, g, c),)


def heavy_ball_point(w: Array, g: Array, d: Array, s: Any, c: Any) -> Array:
    """Heavy ball and Nesterov (Sutskever et al. 2013)."""
    return w - c.lr * (c.of_g * descend(w, g, c) + c.of_buf * s[0])


def scaled_point(w: Array, g: Array, d: Array, s: Any, c: Any) -> Array:
    """Descend along the gradient in the metric."""
    return w - c.lr * descend(w, g, c) / d


def buffer_point(w: Array, g: Array, d: Array, s: Any, c: Any) -> Array:
    """Descend along a buffer, the last of the state."""
    return w - c.lr * s[-1]


def root_metric(s: Any, c: Any) -> Array:
    """Root of a sum or mean of squares, the first of the state."""
    return sqrt(s[0]) + c.eps


def adagrad_state(w: Array, g: Array, s: Any, c: Any) -> Any:
    """Adagrad (Duchi, Hazan & Singer 2011), diagonal."""
    g = descend(w, g, c)
    return (s[0] + g * g,)


def rmsprop_state(w: Array, g: Array, s: Any, c: Any) -> Any:
    """RMSprop (Tieleman & Hinton 2012)."""
    g = descend(w, g, c)
    return (c.keep * s[0] + c.new * (g * g),)


def rmsprop_momentum_state(w: Array, g: Array, s: Any, c: Any) -> Any:
    """RMSprop with momentum of the preconditioned gradient, as PyTorch has it."""
    square = rmsprop_state(w, g, s, c)
    return square[0], c.mu * s[1] + descend(w, g, c) / root_metric(square, c)


def centered_state(w: Array, g: Array, s: Any, c: Any) -> Any:
    """RMSprop by the variance of the gradient (Graves 2013)."""
    square = rmsprop_state(w, g, s, c)
    return square[0], s[1] + c.new * (descend(w, g, c) - s[1])


def centered_metric(s: Any, c: Any) -> Array:
    """Root of the variance, which is nonnegative but for rounding."""
    return sqrt(fabs(s[0] - s[1] * s[1])) + c.eps


def centered_momentum_state(w: Array, g: Array, s: Any, c: Any) -> Any:
    """Centered RMSprop with momentum."""
    means = centered_state(w, g, s, c)
    return means[0], means[1], c.mu * s[2] + descend(w, g, c) / centered_metric(means, c)


def adam_state(w: Array, g: Array, s: Any, c: Any) -> Any:
    """First and second moment of Adam (Kingma & Ba 2015)."""
    g = descend(w, g, c)
    # From the nearer end: where beta1 is small, what was may be far greater than what comes.
    off = g - s[0]
    late = filled(off, c.new_m) > c.keep_m
    mean = where(late, g - c.keep_m * off, s[0] + c.new_m * off)
    return mean, c.keep_v * s[1] + c.new_v * (g * g)


def adam_metric(s: Any, c: Any) -> Array:
    """Root of the second moment, corrected for its bias."""
    return sqrt(s[1]) * c.unbias + c.eps


def adam_point(w: Array, g: Array, d: Array, s: Any, c: Any) -> Array:
    """Adam, and AdamW (Loshchilov & Hutter 2019) by ``scale``."""
    return w * c.scale - c.size * s[0] / d


def amsgrad_state(w: Array, g: Array, s: Any, c: Any) -> Any:
    """AMSGrad (Reddi, Kale & Kumar 2018): Adam with the largest second moment so far."""
    moments = adam_state(w, g, s, c)
    return moments[0], moments[1], fmax(s[2], moments[1])


def amsgrad_metric(s: Any, c: Any) -> Array:
    """Root of the largest second moment."""
    return sqrt(s[2]) * c.unbias + c.eps


def rmda_state(w: Array, g: Array, s: Any, c: Any) -> Any:
    """Regularised modernised dual averaging (Huang & Lee 2022)."""
    return s[0], s[1] + c.weight * g


def rmda_point(w: Array, g: Array, d: Array, s: Any, c: Any) -> Array:
    """From the origin, along the sum of gradients."""
    return s[0] - c.scale * s[1]


def ramda_state(w: Array, g: Array, s: Any, c: Any) -> Any:
    """Regularised adaptive momentumised dual averaging (Huang, Lee et al. 2024)."""
    return s[0], s[1] + c.weight * g, s[2] + c.size * (g * g)


def ramda_metric(s: Any, c: Any) -> Array:
    """Cube root of the sum of squares."""
    return cube_root(s[2], c.third) + c.eps


def cube_root(a: Array, third: Array) -> Array:
    """Return the cube root, as a power; a target may have one of its own."""
    return a**third


def ramda_point(w: Array, g: Array, d: Array, s: Any, c: Any) -> Array:
    """From the origin, along the sum of gradients in the metric."""
    return s[0] - s[1] / d


def dual_point(w: Array, g: Array, d: Array, s: Any, c: Any) -> Array:
    """Read the point off the dual variable, the first of the state."""
    return c.scale * s[0]


def linbreg_state(w: Array, g: Array, s: Any, c: Any) -> Any:
    """Linearised Bregman iterations (Bungert, Roith, Tenbrinck & Burger 2022)."""
    return (s[0] - c.lr * (c.sign * g),)


def linbreg_momentum_state(w: Array, g: Array, s: Any, c: Any) -> Any:
    """Linearised Bregman iterations with momentum."""
    buf = c.mu * s[1] + c.damp * (c.sign * g)
    return s[0] - c.lr * buf, buf


def adabreg_state(w: Array, g: Array, s: Any, c: Any) -> Any:
    """AdaBreg (Bungert et al. 2022): Adam's direction moves the dual variable; the prox has unit metric.

    A second moment that leaves the range makes it no number, for which there is no prox: with steps of zero
    the element would rest for ever.
    """
    moments = adam_state(w, g, s[1:], c)
    beyond = moments[1] - moments[1]
    dual = s[0] - (c.size * moments[0] / adam_metric(moments, c) + beyond)
    return dual, moments[0], moments[1]


_SQUARE, _BUFFER, _MEAN = Slot("square_avg", is_square=True), Slot("momentum_buffer"), Slot("grad_avg")
_SUM = Slot("sum", "initial_accumulator_value", is_square=True)
_MOMENTS = Slot("exp_avg"), Slot("exp_avg_sq", is_square=True)
_MOST, _SQUARES = Slot("max_exp_avg_sq", is_square=True), Slot("square_sum", is_square=True)
_ORIGIN = Slot("origin", "parameter"), Slot("grad_sum")
_DUAL = Slot("dual", "dual")

SGD = Update(stateless, sgd_point)
SGD_MOMENTUM = Update(heavy_ball_state, heavy_ball_point, None, (_BUFFER,))
ADAGRAD = Update(
    adagrad_state, scaled_point, root_metric, (Slot("sum", "initial_accumulator_value", is_square=True),)
)
RMSPROP = Update(rmsprop_state, scaled_point, root_metric, (_SQUARE,))
RMSPROP_MOMENTUM = Update(rmsprop_momentum_state, buffer_point, root_metric, (_SQUARE, _BUFFER))
RMSPROP_CENTERED = Update(centered_state, scaled_point, centered_metric, (_SQUARE, _MEAN))
RMSPROP_CENTERED_MOMENTUM = Update(
    centered_momentum_state, buffer_point, centered_metric, (_SQUARE, _MEAN, _BUFFER)
)
ADAM = Update(adam_state, adam_point, adam_metric, _MOMENTS)
AMSGRAD = Update(
    amsgrad_state, adam_point, amsgrad_metric, (*_MOMENTS, Slot("max_exp_avg_sq", is_square=True))
)
RMDA = Update(rmda_state, rmda_point, None, _ORIGIN)
RAMDA = Update(ramda_state, ramda_point, ramda_metric, (*_ORIGIN, Slot("square_sum", is_square=True)))
LINBREG = Update(linbreg_state, dual_point, None, (_DUAL,))
LINBREG_MOMENTUM = Update(linbreg_momentum_state, dual_point, None, (_DUAL, _BUFFER))
ADABREG = Update(adabreg_state, dual_point, None, (_DUAL, *_MOMENTS))
