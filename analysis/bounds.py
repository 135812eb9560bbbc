"""The study of certified bounds: is one ever below the true error, and how far above it are they?

Every candidate is a prox computed with some root finder, tolerance and dtype, or a point from elsewhere.
`proxlab.study.validate` judges the bounds of `proxlab.certify`; beside these, enclosures of the elements and
brackets of the radius are looked at here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import proxlab as pl
from analysis import baselines, bounds_plots, ensembles
from analysis.ensembles import Ensemble
from analysis.methods import FINDERS
from analysis.results import Profile, ResultsDir, Say
from proxlab import study
from proxlab.study import Result, StoredStudy, Unit
from proxlab.study.page import Finding, Plot, Section, Table, Text

Array = NDArray[Any]

NAME = "bounds"

#: Relative tolerances of the radius; None is the finder's own.
TOLERANCES = (1e-1, 1e-4, 1e-8, None)
#: True errors and the bounds that claim to be above them.
BOUNDS = ("distance", "metric_distance", "stationarity", "gap")
#: From how many units of rounding of the point on `validate` judges the tightness of a bound.
UNITS = 100
#: Largest ratio of certified to true distance that is hoped for, by quantile.
TARGETS = {0.5: 2.0, 0.99: 10.0}

DTYPES = ("float32", "float64")
#: Relative sizes of random changes made to the prox.
PERTURBATIONS = (1e-2, 1e-6, 1e-12)
#: Penalties of every ensemble, and the ensembles that try all.
MAIN_PENALTIES = ("GroupLasso", "GroupMCP")
EVERY_PENALTY = ("adam", "spread", "captured-units")


@dataclass(frozen=True)
class Candidate:
    """Points to certify.

    Attributes
    ----------
    maker, tolerance : str
        What computed them, and how exactly.
    z : ndarray, shape (n_groups, size)
        The points.
    bracket : tuple of two ndarray, optional
        What a root finder claims to enclose the exact radius.
    """

    maker: str
    tolerance: str
    z: Array
    bracket: tuple[Array, Array] | None = None


def candidates(ensemble: Ensemble, penalty: pl.Penalty, seed: int) -> Iterator[Candidate]:
    """Every candidate of an ensemble."""
    x, d, step = ensemble.x, ensemble.metric, ensemble.step

    def solve(label: str, tolerance: float | None, finder: pl.RootFinder, backend: str | None) -> Candidate:
        found = pl.solve(penalty, x, step, metric=d, root_finder=finder, backend=backend)
        # where two minimisers tie within rounding, the bracket is that of the one returned
        tie = found.status == pl.Status.TIE
        bracket = np.where(tie, 0.0, found.bracket[0]), np.where(tie, np.inf, found.bracket[1])
        return Candidate(label, "default" if tolerance is None else f"{tolerance:g}", found.z, bracket)

    for name, finder in FINDERS.items():
        for tolerance in TOLERANCES:
            yield solve(name, tolerance, finder(rtol=tolerance), "array_api")
    yield solve("Newton, compiled", None, pl.Newton(), None)
    rng = np.random.default_rng(seed)
    exact = pl.prox(penalty, x, step, metric=d, backend="array_api")
    for size in PERTURBATIONS:
        yield Candidate(
            "perturbed", f"{size:g}", (exact * (1 + size * rng.standard_normal(x.shape))).astype(x.dtype)
        )
    yield Candidate("the point x", "", x)
    yield Candidate("zero", "", np.zeros_like(x))
    if isinstance(penalty, pl.GroupLasso):
        yield Candidate("RAMDA", "", _finite(baselines.ramda_group_lasso(x, d, step, ensemble.lam).z))
        columns = x.T[None], d.T[None]
        yield Candidate(
            "ProxSSI", "", _finite(baselines.proxssi_group_lasso(*columns, step, ensemble.lam).z[0].T)
        )


def _finite(z: Array) -> Array:
    """A baseline's points, with zero where it failed: a candidate must be finite."""
    return np.nan_to_num(z, nan=0.0, posinf=0.0, neginf=0.0)


def judge(problem: study.Problem, made: list[Candidate], bounds: Any = None) -> dict[str, Array]:
    """What `proxlab.study.validate` says of bounds at candidates.

    Parameters
    ----------
    problem : Problem
    made : list of Candidate
    bounds : dict, optional
        Other bounds of the errors in `BOUNDS`; by default those of a certificate.

    Returns
    -------
    dict of ndarray, shape (n_candidates, n_groups)
        For each of `BOUNDS`: ``<bound>``, ``true_<bound>``, ``scale_<bound>``, ``ratio_<bound>`` and
        ``violated_<bound>``; ``judged``, whether the distance is above the rounding; ``decided``.

    Raises
    ------
    ValueError
        If a bound gave nothing, or no number.
    """
    names = [str(k) for k in range(len(made))]
    solvers = {name: partial(_given, c.z) for name, c in zip(names, made, strict=True)}
    v = study.validate(problem, solvers, bounds, digits=ensembles.DIGITS, workers=1, progress=False)
    if not v.failures.empty:
        raise ValueError(str(v))
    found = {}
    columns = {"value": "", "true": "true_", "scale": "scale_", "ratio": "ratio_", "violated": "violated_"}
    for bound, part in v.frame.groupby("bound"):
        tables = part.pivot(index="solver", columns="group")
        for column, prefix in columns.items():
            found[f"{prefix}{bound}"] = tables[column].loc[names].to_numpy(dtype=np.float64)
        if bound == "distance":
            for column in ("judged", "decided"):
                found[column] = tables[column].loc[names].to_numpy(dtype=bool)
    return found


def _given(z: Array, *_: Any, **__: Any) -> Array:
    return z


def outside(exact: study.Truth, certificate: pl.Certificate, candidate: Candidate) -> Array:
    """How many coordinates of each group, and radii, certainly lie outside their enclosures."""
    found = exact.outside(certificate.lower, certificate.upper)
    return found if candidate.bracket is None else found + exact.radius_outside(*candidate.bracket)


def compute(ensemble: str, penalty: str, dtype: str, n_groups: int, seed: int) -> Result:
    """All candidates of one ensemble."""
    given = ensembles.make(ensemble, n_groups, dtype, seed)
    h = ensembles.PENALTIES[penalty](given)
    problem = ensembles.stated(given, h)
    made = list(candidates(given, h, seed))
    arrays = judge(problem, made)
    exact = study.truth(problem, ensembles.DIGITS)
    certificates = [pl.certify(h, c.z, given.x, given.step, metric=given.metric) for c in made]
    arrays["outside"] = np.stack(
        [outside(exact, found, c) for found, c in zip(certificates, made, strict=True)]
    )
    return Result({"candidates": [(c.maker, c.tolerance) for c in made]}, arrays)


def units(profile: Profile) -> dict[str, dict[str, Any]]:
    """Parameters of every unit of the study."""
    n_groups = profile.pick(32, 400)
    found = {}
    for ensemble in ensembles.names():
        for penalty in ensembles.PENALTIES if ensemble in EVERY_PENALTY else MAIN_PENALTIES:
            for dtype in DTYPES:
                found[f"{ensemble}-{penalty}-{dtype}"] = {
                    "ensemble": ensemble,
                    "penalty": penalty,
                    "dtype": dtype,
                    "n_groups": n_groups // 8 if ensemble == "wide" else n_groups,
                    "seed": profile.seed,
                }
    return found


def run(profile: Profile, results: ResultsDir, say: Say) -> None:
    """Compute the study."""
    results.run(NAME, profile, [Unit(name, compute, given) for name, given in units(profile).items()])


def read(stored: StoredStudy) -> pd.DataFrame:
    """Every certified group as a row: candidate, problem, true errors, bounds."""
    frames = []
    for unit in stored.units:
        n_groups = unit.arrays["distance"].shape[1]
        columns: dict[str, Any] = {key: a.ravel() for key, a in unit.arrays.items()}
        for k, key in enumerate(("maker", "tolerance")):
            columns[key] = np.repeat([c[k] for c in unit.values["candidates"]], n_groups)
        parameters = {key: unit.parameters[key] for key in ("ensemble", "penalty", "dtype")}
        frames.append(pd.DataFrame(columns).assign(**parameters))
    return pd.concat(frames, ignore_index=True)


def count_violations(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Table of violations of every bound, and of undecided groups, by some columns."""
    marks = frame[by].copy()
    for bound in BOUNDS:
        marks[bound] = frame[f"violated_{bound}"] > 0
    marks["enclosure"] = frame["outside"] > 0
    marks["undecided"] = ~frame["decided"]
    table = marks.groupby(by, sort=False).sum()
    table["certificates"] = marks.groupby(by, sort=False).size()
    counts = [*BOUNDS, "enclosure", "undecided"]
    return table.reset_index()[[*by[:1], *counts, *by[1:], "certificates"]]


def tightness(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Quantiles of bound/true for candidates whose error is above `UNITS` units of rounding, by some
    columns.
    """
    rows = []
    for key, part in frame[frame["judged"]].groupby(by, sort=False):
        row = dict(zip(by, key, strict=True)) | {"certificates": len(part)}
        for bound in BOUNDS:
            ratio = part[f"ratio_{bound}"][part[f"true_{bound}"] > 0]
            if len(ratio):
                row |= {f"{bound}, median": ratio.median(), f"{bound}, p99": ratio.quantile(0.99, "higher")}
        rows.append(row)
    return pd.DataFrame(rows)


def section(results: ResultsDir) -> Section:
    """What the study found."""
    frame = read(results.read(NAME))
    by_maker = count_violations(frame, ["maker", "tolerance"])
    by_problem = count_violations(frame, ["ensemble", "penalty", "dtype"])
    found = int(by_maker[[*BOUNDS, "enclosure"]].to_numpy().sum())
    judged = frame["ratio_distance"][frame["judged"]]
    median, p99 = judged.median(), judged.quantile(0.99, "higher")
    undecided = float((~frame["decided"]).mean())
    kinds = len(BOUNDS) + 1
    ratios = {f"{b}, {q}": "{:.3g}" for b in BOUNDS for q in ("median", "p99")}
    bad_ratio = {"distance, median": lambda v: v > TARGETS[0.5], "distance, p99": lambda v: v > TARGETS[0.99]}
    bad_count = {name: lambda v: v > 0 for name in (*BOUNDS, "enclosure")}
    lead = (
        f"Can a certificate be trusted, and is it of use? {len(frame):,} candidates (every root finder at "
        f"{len(TOLERANCES)} tolerances, published solvers, perturbed and trivial points) on "
        f"{len(by_problem)} problems were certified and compared with references of 70 digits in ball "
        f"arithmetic. A violation is a bound that is certainly below the truth: there were {found:,} among "
        f"{kinds * len(frame):,} bounds. Where the error exceeds {UNITS} units of rounding of the point, "
        f"the certified distance is at the median {median:.3g} times the true one."
    )
    findings = [
        Finding(
            f"{found:,}",
            f"of {kinds * len(frame):,} certified bounds were below the true error.",
            _verdict(found == 0),
            "0",
        ),
        Finding(
            f"{median:.2f}×",
            f"the true distance is what the certified one is at the median, {p99:.2f}× at the 99th "
            "percentile.",
            _verdict(bool(median <= TARGETS[0.5] and p99 <= TARGETS[0.99])),
            f"≤ {TARGETS[0.5]:g}×, 99 %: ≤ {TARGETS[0.99]:g}×",
        ),
        Finding(f"{100 * undecided:.2g} %", "of the groups are left undecided within rounding."),
    ]
    items: list[Plot | Table | Text] = [
        Table(
            "violations",
            "Violations by candidate",
            "How often each certified bound was below the truth, and in how many groups the certificate "
            "says that rounding leaves open which point is the minimiser. The enclosure counts groups "
            "with a coordinate of the exact prox outside its interval, or the radius outside a root "
            "finder's bracket.",
            by_maker,
            bad=bad_count,
            zeros=f"None of {kinds * len(frame):,} bounds, of {len(by_maker)} kinds of candidates, was below "
            "the truth, and no enclosure missed it.",
        ),
        Plot(
            "scatter",
            "Certified bounds against true errors",
            "A point is a group; below the line would be a violation. Errors are divided by the size of "
            "the problem: ‖x‖, ‖x‖_D, ‖Dx‖/η and ‖x‖²_D/2η. True errors below 1e−20 are not shown.",
            bounds_plots.plot_scatter(frame),
        ),
        Plot(
            "ratios",
            "How tight the bounds are",
            "Share of the candidates with a larger ratio, among those whose true distance exceeds "
            f"{UNITS} units of rounding of the point. The curve of the distance is to pass below both "
            "targets.",
            bounds_plots.plot_ratios(frame, TARGETS),
        ),
        Plot(
            "ensembles",
            "Tightness of the distance by ensemble",
            "Median (marker) and 99th percentile (bar) of certified over true distance; dotted lines are "
            f"the targets {TARGETS[0.5]:g} and {TARGETS[0.99]:g}.",
            bounds_plots.plot_by_ensemble(frame, TARGETS),
        ),
        Table(
            "tightness",
            "Tightness by problem",
            f"Certified over true error for candidates whose distance exceeds {UNITS} units of rounding of "
            "the point.",
            tightness(frame, ["ensemble", "penalty", "dtype"]),
            formats=ratios,
            bad=bad_ratio,
            max_rows=60,
        ),
        Table(
            "problems",
            "Violations by problem",
            "The same counts by problem.",
            by_problem,
            bad=bad_count,
            max_rows=60,
            zeros=f"None of {kinds * len(frame):,} bounds on {len(by_problem)} problems was below the truth.",
        ),
    ]
    return Section("Certified bounds against the truth", lead, findings, items)


def _verdict(good: bool) -> Literal["good", "bad"]:
    return "good" if good else "bad"
