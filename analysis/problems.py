"""Proximal problems as they arise in training: captured inputs ``x``, Adam metrics ``d`` and steps.

Each problem is one proximal step of an adaptive proximal method at work on real data, ``prox_h^{D,η}(x)``
with ``x = w − η m̂ / d`` and ``d = sqrt(v̂) + ε``. `captured_problems` trains and returns them, the same for
the same seed; the study ``problems`` stores them beside the other results.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from threadpoolctl import threadpool_limits

import proxlab as pl
from analysis import data, models
from analysis.data import Array
from analysis.models import Adam, Linear, Perceptron
from analysis.results import Profile, Progress, Record, ResultsDir

BATCH = 64


@dataclass(frozen=True, eq=False)
class Problem:
    """One weighted prox, captured in training.

    Attributes
    ----------
    name : str
        Source, groups and iteration, such as ``digits-mlp-units-t100``.
    x : array
        The point, float64.
    d : array
        The metric, of the shape of `x`.
    step : float
        η.
    lam : float
        Strength of the group lasso.
    groups : proxlab.Groups
        The groups.
    weights : str or None
        Group weights, as `proxlab.GroupLasso` takes them.
    description : str
        What was trained.
    """

    name: str
    x: Array
    d: Array
    step: float
    lam: float
    groups: pl.Groups
    weights: str | None
    description: str

    def penalty(self) -> pl.GroupLasso:
        """The penalty that was trained with."""
        return pl.GroupLasso(self.lam, groups=self.groups, weights=self.weights)


@dataclass(frozen=True)
class _Source:
    """One training run to capture from."""

    name: str
    description: str
    lam: float
    step: float
    groups: pl.Groups
    captures: tuple[int, ...]
    loss: Linear | None = None
    hidden: int = 0
    weights: str | None = None


def _sources(profile: str) -> list[_Source]:
    full = profile == "full"
    captures = (1, 10, 100, 1000, 5000) if full else (1, 10, 100, 1000)
    hidden = 256 if full else 64
    mlp = f"perceptron 64–{hidden}–10 on digits"
    by_predictor = pl.Groups.csr(data.birthwt().indptr)
    return [
        _Source(
            "digits-multinomial-pixels",
            "multinomial logistic regression on digits, a group per pixel over the classes",
            lam=2e-3,
            step=1e-2,
            groups=pl.Groups.over(-1),
            captures=captures,
            loss=models.digits_multinomial(),
        ),
        _Source(
            "digits-mlp-units",
            f"{mlp}, a group per hidden unit",
            lam=8e-3,
            step=3e-3,
            groups=pl.Groups.over(1),
            captures=captures,
            hidden=hidden,
        ),
        _Source(
            "digits-mlp-inputs",
            f"{mlp}, a group per pixel over the hidden units",
            lam=3e-3,
            step=3e-3,
            groups=pl.Groups.over(0),
            captures=captures,
            hidden=hidden,
        ),
        _Source(
            "birthwt-linear",
            "least squares of the birth weight, a group per predictor",
            lam=0.1,
            step=3e-3,
            groups=by_predictor,
            captures=captures,
            loss=models.birthwt_linear(),
            weights="sqrt_size",
        ),
        _Source(
            "birthwt-logistic",
            "logistic regression of low birth weight, a group per predictor",
            lam=4e-2,
            step=1e-2,
            groups=by_predictor,
            captures=captures,
            loss=models.birthwt_logistic(),
            weights="sqrt_size",
        ),
    ]


def _train_linear(source: _Source, loss: Linear, rng: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    h = pl.GroupLasso(source.lam, groups=source.groups, weights=source.weights)
    adam, w = Adam(), 0.05 * rng.normal(size=loss.shape)
    while True:
        rows = rng.choice(loss.n_samples, size=min(BATCH, loss.n_samples), replace=False)
        direction, metric = adam.step({"w": loss.gradient(w, rows)})["w"]
        x = w - source.step * direction / metric
        yield x, metric
        w = pl.prox(h, x, source.step, metric=metric)


def _train_perceptron(source: _Source, rng: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    h = pl.GroupLasso(source.lam, groups=source.groups, weights=source.weights)
    network, adam = Perceptron(source.hidden, rng), Adam()
    while True:
        directions = adam.step(network.gradient(rng.integers(len(network.inputs), size=BATCH)))
        for name, (direction, metric) in directions.items():
            network.parameters[name] = network.parameters[name] - source.step * direction / metric
        x, metric = network.parameters["hidden"], directions["hidden"][1]
        yield x, metric
        network.parameters["hidden"] = pl.prox(h, x, source.step, metric=metric)


def _capture(source: _Source, seed: int) -> list[Problem]:
    # Independent of the other sources: none is reordered or dropped without changing only its own draws.
    rng = np.random.default_rng([seed, *source.name.encode()])
    steps = _train_perceptron(source, rng) if source.loss is None else _train_linear(source, source.loss, rng)
    captured = []
    for t, (x, d) in enumerate(steps, start=1):
        if t in source.captures:
            name = f"{source.name}-t{t}"
            place = f"{source.description}, iteration {t}"
            captured.append(
                Problem(
                    name, x.copy(), d.copy(), source.step, source.lam, source.groups, source.weights, place
                )
            )
        if t == source.captures[-1]:
            break
    return captured


@lru_cache(maxsize=2)
def captured_problems(profile: str = "quick", seed: int = 0) -> tuple[Problem, ...]:
    """Train on the real data and return the proximal steps captured on the way.

    Parameters
    ----------
    profile : {"quick", "full"}
        ``full`` has a wider network and goes on for longer.
    seed : int

    Returns
    -------
    problems : tuple of Problem
        The same for the same arguments; trained once a process.
    """
    # One thread: BLAS may sum in another order with more, and these products are small.
    with threadpool_limits(1):
        return tuple(problem for source in _sources(profile) for problem in _capture(source, seed))


def captured_problem(name: str, profile: str = "quick", seed: int = 0) -> Problem:
    """The captured problem of that name."""
    for problem in captured_problems(profile, seed):
        if problem.name == name:
            return problem
    raise KeyError(f"no captured problem is named {name!r}")


# --------------------------------------------------------------------------------------------------------
# The study


def _describe(name: str, profile: str, seed: int) -> Record:
    problem = captured_problem(name, profile, seed)
    penalty = problem.penalty()
    z = pl.prox(penalty, problem.x, problem.step, metric=problem.d)
    indptr, indices = problem.groups.indices(problem.x.shape)
    norms = [float(np.linalg.norm(z.flat[indices[a:b]])) for a, b in pairwise(indptr)]
    spread = [
        float(problem.d.flat[indices[a:b]].max() / problem.d.flat[indices[a:b]].min())
        for a, b in pairwise(indptr)
    ]
    values = {
        "description": problem.description,
        "shape": list(problem.x.shape),
        "n_groups": len(norms),
        "zero_groups": sum(norm == 0.0 for norm in norms),
        "step": problem.step,
        "lam": problem.lam,
    }
    return Record(values, {"x": problem.x, "d": problem.d, "z": z, "spread": np.array(spread)})


def run(profile: Profile, results: ResultsDir, progress: Progress) -> None:
    """Capture the problems and store them."""
    with results.study("problems", profile, sys.modules[__name__], models, data) as study:
        problems = captured_problems(profile.name, profile.seed)
        units = {p.name: {"name": p.name, "profile": profile.name, "seed": profile.seed} for p in problems}
        study.run(_describe, units, progress, "problems: capture in training")
