"""Proximal problems as they arise in training: captured inputs ``x``, Adam metrics ``d`` and steps.

Each problem is one proximal step of an adaptive proximal method at work on real data, ``prox_h^{D,η}(x)``
with ``x = w − η m̂ / d`` and ``d = sqrt(v̂) + ε``. `captured_problems` trains and returns them, the same for
the same seed; the study ``problems`` stores them beside the other results.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

import proxlab as pl
from analysis import data, models
from analysis.data import Array
from analysis.models import Adam, Linear, Perceptron
from analysis.results import Profile, ResultsDir, Say
from proxlab.study import Problem, Result, StoredStudy, Unit, draw, style
from proxlab.study.page import Plot, Section, Table

BATCH = 64


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
    weights: Literal["sqrt_size"] | None = None

    @property
    def penalty(self) -> pl.GroupLasso:
        """The penalty that is trained with."""
        return pl.GroupLasso(self.lam, groups=self.groups, weights=self.weights)


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
    adam, w = Adam(), 0.05 * rng.normal(size=loss.shape)
    while True:
        rows = rng.choice(loss.n_samples, size=min(BATCH, loss.n_samples), replace=False)
        direction, metric = adam.step({"w": loss.value_and_grad(w, rows)[1]})["w"]
        x = w - source.step * direction / metric
        yield x, metric
        w = pl.prox(source.penalty, x, source.step, metric=metric)


def _train_perceptron(source: _Source, rng: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    network, adam = Perceptron(source.hidden, rng), Adam()
    while True:
        directions = adam.step(network.gradient(rng.integers(len(network.inputs), size=BATCH)))
        for name, (direction, metric) in directions.items():
            network.parameters[name] = network.parameters[name] - source.step * direction / metric
        x, metric = network.parameters["hidden"], directions["hidden"][1]
        yield x, metric
        network.parameters["hidden"] = pl.prox(source.penalty, x, source.step, metric=metric)


def _capture(source: _Source, seed: int) -> list[Problem]:
    # Independent of the other sources: none is reordered or dropped without changing only its own draws.
    rng = np.random.default_rng([seed, *source.name.encode()])
    steps = _train_perceptron(source, rng) if source.loss is None else _train_linear(source, source.loss, rng)
    captured = []
    for t, (x, d) in enumerate(steps, start=1):
        if t in source.captures:
            name = f"{source.name}-t{t}"
            about = {"description": f"{source.description}, iteration {t}"}
            captured.append(Problem(name, x.copy(), source.step, d.copy(), source.penalty, about))
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


def _describe(name: str, profile: str, seed: int) -> Result:
    problem = captured_problem(name, profile, seed)
    solution = pl.solve(problem.penalty, problem.x, problem.step, metric=problem.metric)
    indptr, indices = problem.penalty.groups.indices(problem.x.shape)
    d = problem.metric.ravel()[indices]
    spread = np.maximum.reduceat(d, indptr[:-1]) / np.minimum.reduceat(d, indptr[:-1])
    values = {
        "description": problem.metadata["description"],
        "shape": list(problem.x.shape),
        "step": problem.step,
        "lam": problem.penalty.strength,
    }
    arrays = {"x": problem.x, "d": problem.metric, "radius": solution.radius, "spread": spread}
    return Result(values, arrays)


def run(profile: Profile, results: ResultsDir, say: Say) -> None:
    """Capture the problems and store them."""
    names = [problem.name for problem in captured_problems(profile.name, profile.seed)]
    common = {"profile": profile.name, "seed": profile.seed}
    # One process, which trains once.
    units = [Unit(name, _describe, {"name": name} | common) for name in names]
    results.run("problems", profile, units, timed=True)


def _table(stored: StoredStudy) -> pd.DataFrame:
    rows = []
    for unit in stored.units:
        zero = int((unit.arrays["radius"] == 0.0).sum())
        rows.append(
            {
                "problem": unit.name,
                "shape": " × ".join(str(n) for n in unit.values["shape"]),
                "groups": unit.arrays["radius"].size,
                "zero after the prox": zero,
                "step η": unit.values["step"],
                "strength λ": unit.values["lam"],
                "smallest d": float(unit.arrays["d"].min()),
                "largest d": float(unit.arrays["d"].max()),
                "median spread of d in a group": float(np.median(unit.arrays["spread"])),
                "largest spread of d in a group": float(unit.arrays["spread"].max()),
                "trained": unit.values["description"].rpartition(", iteration")[0],
            }
        )
    return pd.DataFrame(rows)


def _plot(stored: StoredStudy) -> Figure:
    """Metrics of the last capture of each training run, sorted."""
    last = {unit.name.rpartition("-t")[0]: unit for unit in stored.units}
    figure = style.new_figure(height=3.3)
    metric, spread = figure.subplots(1, 2)
    for index, (source, unit) in enumerate(last.items()):
        colour, dash = style.PALETTE[index], style.DASHES[index]
        for ax, values in ((metric, unit.arrays["d"].ravel()), (spread, unit.arrays["spread"])):
            share = (np.arange(values.size) + 0.5) / values.size
            ax.plot(np.sort(values), 100.0 * share, color=colour, linestyle=dash, label=source)
    metric.set(title="Adam's metric d", xscale="log", xlabel="d", ylabel="% of elements below")
    spread.set(
        title="Spread within a group", xscale="log", xlabel="max d / min d", ylabel="% of groups below"
    )
    handles, labels = metric.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


#: Every penalty that proxlab ships, at shapes that show what it is.
PENALTIES: tuple[pl.Penalty, ...] = (
    pl.L1(1.0),
    pl.GroupLasso(1.0),
    pl.GroupElasticNet(1.0, 0.5),
    pl.SparseGroupLasso(0.5, 0.5),
    pl.GroupMCP(1.0, gamma=3.0),
    pl.GroupSCAD(1.0, a=3.7),
    pl.GroupCapped(1.0, theta=2.0),
    pl.GroupL0(1.0),
    pl.GroupLog(1.0, eps=1.0),
    pl.GroupLq(1.0, q=0.5),
    pl.GroupLinf(1.0),
)


def _plot_penalties() -> Figure:
    """A row for each penalty: its value, its slope, and its prox in two metrics."""
    figure = style.new_figure(height=1.75 * len(PENALTIES))
    rows = figure.subplots(len(PENALTIES), 3)
    for penalty, axes in zip(PENALTIES, rows, strict=True):
        draw(penalty, axes)
    for value, slope, prox in rows:
        value.set_ylabel("h")
        # A slope that is constant but for rounding is a level line.
        low, high = slope.get_ylim()
        slope.set(ylabel="slope", ylim=(min(low, -0.05), max(1.1 * high, 0.2)))
        prox.set_title("")
    for ax in rows[:-1].ravel():
        ax.set_xlabel("")
    for ax in rows[1:, 2]:
        ax.get_legend().remove()
    return figure


def section(results: ResultsDir) -> Section:
    """What the studies work on."""
    stored = results.read("problems")
    table = _table(stored)
    return Section(
        title="The problems",
        lead=(
            "Proximal steps captured while an adaptive proximal method trained on two real data sets: "
            "scikit-learn’s handwritten digits, and <i>birthwt</i>, risk factors of low birth weight (Hosmer "
            "&amp; Lemeshow 1989). Each is a point x = w − η m̂/d, a metric d = √v̂ + ε and a step η, as the "
            "optimizer hands them to its prox."
        ),
        findings=[],
        items=[
            Plot(
                "metrics",
                "What an adaptive metric looks like",
                "Distribution of the metric d over elements (left) and of its spread within groups (right), "
                "at the last capture of each training run. Pixels that are always blank have no gradient, so "
                "their d is Adam’s ε.",
                _plot(stored),
            ),
            Table(
                "captured",
                "Captured problems",
                "The number after t is the iteration.",
                table,
                {name: "{:.1e}" for name in table.columns if name.endswith((" d", "group"))},
            ),
            Plot(
                "penalties",
                "The penalties, their slopes and their proxes",
                "For a point of two coordinates in the direction (0.6, 0.8). The prox is drawn by its "
                "length, with the identity for a metric and in one that differs within the group: there the "
                "prox is no longer along the point. A gap is a jump.",
                _plot_penalties(),
            ),
        ],
    )
