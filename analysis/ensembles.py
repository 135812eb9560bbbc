"""Ensembles of groups that make a weighted prox hard, and the penalties the studies solve on them.

A group is a row. One step and one strength serve a whole ensemble: how far a row lies from its zero
threshold is set by scaling the row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

import proxlab as pl
from analysis.problems import captured_problems
from proxlab import study

Array = NDArray[Any]

#: Digits of the truth.
DIGITS = 60


@dataclass(frozen=True)
class Ensemble:
    """Groups of one size, with a step and a strength.

    Attributes
    ----------
    x, metric : ndarray, shape (n_groups, size)
        Points and diagonal metrics, of one dtype.
    step, lam : float
        Step size and strength.
    """

    x: Array
    metric: Array
    step: float
    lam: float

    @property
    def radius(self) -> float:
        """Median length of a row."""
        return float(np.median(np.linalg.norm(self.x.astype(np.float64), axis=1)))


def _unit_scale(dtype: DTypeLike) -> tuple[float, float]:
    """Tiny and huge magnitudes of a dtype."""
    return (1e-30, 1e30) if np.dtype(dtype) == np.float32 else (1e-150, 1e150)


def _adam_metric(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Like ``sqrt(v) + eps`` of a network under Adam, some inputs dead."""
    metric = 1e-3 * np.exp(2 * rng.standard_normal(shape)) + 1e-8
    metric[:, rng.random(shape[1]) < 0.1] = 1e-8
    return metric


def _ratios(rng: np.random.Generator, count: int) -> Array:
    return 10 ** rng.uniform(-0.5, 3, count)


def _adam(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    return 0.02 * rng.standard_normal(shape), _adam_metric(rng, shape), _ratios(rng, shape[0])


def _spread(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    metric = 10 ** rng.uniform(-20, 20, shape)
    exponent = rng.uniform(-1, 0, (shape[0], 1))
    return rng.standard_normal(shape) * metric**exponent, metric, _ratios(rng, shape[0])


def _above(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    return rng.standard_normal(shape), _adam_metric(rng, shape), 1 + 10 ** -rng.uniform(1, 9, shape[0])


def _below(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    return rng.standard_normal(shape), _adam_metric(rng, shape), 1 - 10 ** -rng.uniform(1, 9, shape[0])


def _touching(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    sign = rng.choice((-1.0, 1.0), shape[0])
    return (
        rng.standard_normal(shape),
        _adam_metric(rng, shape),
        1 + sign * 10 ** -rng.uniform(9, 16, shape[0]),
    )


def _dominant(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    metric = np.full(shape, 1e-8)
    metric[:, 0] = 10 ** rng.uniform(-4, 6, shape[0])
    x = rng.standard_normal(shape)
    x[:, 0] *= 1e-8 / metric[:, 0] * 10 ** rng.uniform(-3, 3, shape[0])
    return x, metric, 1 + 10 ** rng.uniform(-4, 3, shape[0])


def _equal(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    metric = np.broadcast_to(10 ** rng.uniform(-6, 2, (shape[0], 1)), shape).copy()
    return rng.standard_normal(shape), metric, _ratios(rng, shape[0])


_Maker = Callable[[np.random.Generator, tuple[int, int]], tuple[Array, Array, Array]]

#: Title and construction of each adversarial ensemble, and the size of its groups.
ADVERSARIAL: dict[str, tuple[str, _Maker, int]] = {
    "adam": ("synthetic Adam metrics, dead inputs", _adam, 24),
    "spread": ("40 orders of magnitude in d", _spread, 24),
    "above": ("1e-9 to 1e-1 above the zero threshold", _above, 24),
    "below": ("1e-9 to 1e-1 below the zero threshold", _below, 24),
    "touching": ("within 1e-16 to 1e-9 of the zero threshold", _touching, 24),
    "tiny": ("tiny x", _adam, 24),
    "huge": ("huge x", _adam, 24),
    "dominant": ("one dominant coordinate", _dominant, 24),
    "equal": ("equal d", _equal, 24),
    "single": ("groups of size one", _adam, 1),
    "wide": ("groups of size 600", _adam, 600),
}


#: Title and source of each ensemble captured in training.
CAPTURED: dict[str, tuple[str, str]] = {
    "captured-pixels": ("captured: multinomial regression, digits", "digits-multinomial-pixels"),
    "captured-units": ("captured: perceptron, groups per unit", "digits-mlp-units"),
    "captured-inputs": ("captured: perceptron, groups per pixel", "digits-mlp-inputs"),
    "captured-birthwt": ("captured: birth weight, groups of three", "birthwt-linear"),
}


def adversarial(name: str, n_groups: int, dtype: DTypeLike, seed: int) -> Ensemble:
    """Make an ensemble of `ADVERSARIAL`.

    Parameters
    ----------
    name : str
        Its key.
    n_groups : int
        Rows.
    dtype : dtype
        float32 or float64; the exact problem is the one with the values after this conversion.
    seed : int
        Seed of the random numbers.
    """
    _, make, size = ADVERSARIAL[name]
    rng = np.random.default_rng([seed, list(ADVERSARIAL).index(name)])
    x, metric, ratio = make(rng, (n_groups, size))
    scale = dict(zip(("tiny", "huge"), _unit_scale(dtype), strict=True)).get(name, 1.0)
    norm = np.linalg.norm(metric * x, axis=1, keepdims=True)
    # A step of the size of the metric, as adaptive optimizers have it; then ‖Dx‖ = ratio · step · lam.
    step = float(np.median(metric))
    threshold = float(np.median(norm)) * scale
    x *= ratio[:, None] * (threshold / norm)
    return Ensemble(x.astype(dtype), metric.astype(dtype), step, threshold / step)


@lru_cache(maxsize=4)
def _captured_rows(source: str, seed: int) -> tuple[Array, Array, float, float]:
    """Every captured group of a source, of the largest group size it has: x, metric, step and strength."""
    captured = [p for p in captured_problems("quick", seed) if p.name.startswith(f"{source}-t")]
    first = captured[0]
    penalty = first.penalty
    assert isinstance(penalty, pl.GroupLasso)
    indptr, indices = penalty.groups.indices(first.x.shape)
    sizes = np.diff(indptr)
    size = int(sizes.max())
    members = np.stack([indices[a : a + size] for a in indptr[:-1][sizes == size]])
    x = np.concatenate([p.x.reshape(-1)[members] for p in captured])
    metric = np.concatenate([p.metric.reshape(-1)[members] for p in captured])
    weight = math.sqrt(size) if penalty.weights == "sqrt_size" else 1.0
    return x, metric, first.step, penalty.lam * weight


def captured(name: str, n_groups: int, dtype: DTypeLike, seed: int) -> Ensemble:
    """Make an ensemble of `CAPTURED`: up to `n_groups` groups, spread evenly over the training run.

    Parameters
    ----------
    name, n_groups, dtype, seed
        As for `adversarial`.
    """
    x, metric, step, lam = _captured_rows(CAPTURED[name][1], seed)
    rows = np.linspace(0, len(x) - 1, min(n_groups, len(x))).astype(int)
    return Ensemble(x[rows].astype(dtype), metric[rows].astype(dtype), step, lam)


def names() -> list[str]:
    """Every ensemble."""
    return [*CAPTURED, *ADVERSARIAL]


def title(name: str) -> str:
    """What an ensemble is, in a few words."""
    return CAPTURED[name][0] if name in CAPTURED else ADVERSARIAL[name][0]


def make(name: str, n_groups: int, dtype: DTypeLike, seed: int) -> Ensemble:
    """An ensemble by name; see `adversarial` and `captured`."""
    return (captured if name in CAPTURED else adversarial)(name, n_groups, dtype, seed)


def _elastic_net(e: Ensemble) -> pl.Penalty:
    return pl.GroupElasticNet(e.lam, float(np.median(e.metric)) / e.step)


PENALTIES: dict[str, Callable[[Ensemble], pl.Penalty]] = {
    "GroupLasso": lambda e: pl.GroupLasso(e.lam),
    "GroupElasticNet": _elastic_net,
    "GroupMCP": lambda e: pl.GroupMCP(e.lam, e.radius / e.lam),
    "GroupSCAD": lambda e: pl.GroupSCAD(e.lam, 3.7),
    "GroupCapped": lambda e: pl.GroupCapped(e.lam, e.radius),
    "GroupL0": lambda e: pl.GroupL0(e.lam * e.radius),
}


def stated(ensemble: Ensemble, penalty: pl.Penalty) -> study.Problem:
    """The problem that `proxlab.study` takes."""
    return study.Problem("ensemble", ensemble.x, ensemble.step, ensemble.metric, penalty)


def truth(ensemble: Ensemble, penalty: pl.Penalty) -> study.Truth:
    """The exact prox of each row."""
    return study.truth(stated(ensemble, penalty), DIGITS)
