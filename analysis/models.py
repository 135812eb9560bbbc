"""Smooth losses on the real data, in NumPy: value, gradient (of all samples or some), Lipschitz constant."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.data import Array, birthwt, digits

Rows = NDArray[np.int64]


def _softmax(scores: Array) -> Array:
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def _standardised(design: Array) -> Array:
    centred = design - design.mean(axis=0)
    return np.asarray(centred / centred.std(axis=0))


@dataclass(frozen=True)
class Linear:
    """A loss of the scores ``design @ w``: least squares, logistic or multinomial logistic.

    Parameters
    ----------
    kind : {"least-squares", "logistic", "multinomial"}
        The loss.
    design : (n_samples, n_features) array
        Centred, so there is no intercept.
    target : (n_samples,) or (n_samples, n_classes) array
        Responses, 0/1 labels, or one-hot labels.
    """

    kind: str
    design: Array
    target: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """One parameter a feature, or one a feature and class."""
        return (self.design.shape[1], *self.target.shape[1:])

    @property
    def n_samples(self) -> int:
        """Rows of the design."""
        return len(self.design)

    def value_and_grad(self, w: Array, batch: Rows | None = None) -> tuple[float, Array]:
        """The mean loss over the samples `batch`, or over all, and its gradient
        ``designᵀ (prediction − target) / n``.
        """
        design, target = (
            (self.design, self.target) if batch is None else (self.design[batch], self.target[batch])
        )
        scores = design @ w
        if self.kind == "least-squares":
            residual = scores - target
            losses = 0.5 * residual**2
        elif self.kind == "logistic":
            residual = 1.0 / (1.0 + np.exp(-scores)) - target
            losses = np.logaddexp(0.0, scores) - target * scores
        else:
            residual = _softmax(scores) - target
            losses = np.logaddexp.reduce(scores, axis=1) - (target * scores).sum(axis=1)
        return float(losses.mean()), np.asarray(design.T @ residual / len(design))

    @cached_property
    def lipschitz(self) -> float:
        """A Lipschitz constant of the gradient: the curvature in the scores times ``‖design‖² / n``."""
        curvature = {"least-squares": 1.0, "logistic": 0.25, "multinomial": 0.5}[self.kind]
        return float(curvature * np.linalg.norm(self.design, 2) ** 2 / self.n_samples)


class Perceptron:
    """Digits through one hidden layer of ReLU units: the gradient of all its layers at once.

    Parameters
    ----------
    hidden : int
        Hidden units.
    rng : numpy.random.Generator
        Draws the initial weights (He).
    """

    def __init__(self, hidden: int, rng: np.random.Generator) -> None:
        data = digits()
        self.inputs = data.pixels - data.pixels.mean(axis=0)
        self.onehot = np.eye(10)[data.labels]
        n_inputs = self.inputs.shape[1]
        self.parameters: dict[str, Array] = {
            "hidden": rng.normal(0.0, np.sqrt(2.0 / n_inputs), (hidden, n_inputs)),
            "hidden_bias": np.zeros(hidden),
            "output": rng.normal(0.0, np.sqrt(2.0 / hidden), (10, hidden)),
            "output_bias": np.zeros(10),
        }

    def gradient(self, rows: Rows) -> dict[str, Array]:
        """Gradient at the present parameters over the samples `rows`."""
        p = self.parameters
        x = self.inputs[rows]
        a = x @ p["hidden"].T + p["hidden_bias"]
        active = np.maximum(a, 0.0)
        error = (_softmax(active @ p["output"].T + p["output_bias"]) - self.onehot[rows]) / len(rows)
        back = (error @ p["output"]) * (a > 0.0)
        return {
            "hidden": back.T @ x,
            "hidden_bias": back.sum(axis=0),
            "output": error.T @ active,
            "output_bias": error.sum(axis=0),
        }


def digits_multinomial() -> Linear:
    """Multinomial logistic regression on the digits: parameters (61 pixels, 10 classes).

    Pixels that are blank in every image are left out.
    """
    data = digits()
    pixels = data.pixels[:, data.pixels.max(axis=0) > 0.0]
    return Linear("multinomial", pixels - pixels.mean(axis=0), np.eye(10)[data.labels])


def birthwt_linear() -> Linear:
    """Least squares of the birth weight (kg, centred) on the 16 standardised columns."""
    data = birthwt()
    return Linear("least-squares", _standardised(data.design), data.weight - data.weight.mean())


def birthwt_logistic() -> Linear:
    """Logistic regression of low birth weight on the 16 standardised columns."""
    data = birthwt()
    return Linear("logistic", _standardised(data.design), data.low)


class Adam:
    """Adam's moments, bias-corrected, of arrays by name.

    Parameters
    ----------
    beta1, beta2 : float
        Decay of the first and of the second moment.
    eps : float
        Added to the root of the second moment.
    """

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> None:
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.t = 0
        self._first: dict[str, Any] = {}
        self._second: dict[str, Any] = {}

    def step(self, gradients: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
        """Take the gradients in; return the direction ``m̂`` and the metric ``sqrt(v̂) + eps`` of each."""
        self.t += 1
        directions = {}
        for name, g in gradients.items():
            first = self.beta1 * self._first.get(name, 0.0) + (1.0 - self.beta1) * g
            second = self.beta2 * self._second.get(name, 0.0) + (1.0 - self.beta2) * g * g
            self._first[name], self._second[name] = first, second
            metric = np.sqrt(second / (1.0 - self.beta2**self.t)) + self.eps
            directions[name] = (first / (1.0 - self.beta1**self.t), metric)
        return directions
