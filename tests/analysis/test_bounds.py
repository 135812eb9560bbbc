from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import proxlab as pl
from analysis import bounds, ensembles
from analysis.results import Profile, ResultsDir


@pytest.fixture(scope="module")
def problem():
    ensemble = ensembles.adversarial("adam", 12, "float64", seed=1)
    penalty = ensembles.PENALTIES["GroupLasso"](ensemble)
    return ensemble, penalty, ensembles.truth(ensemble, penalty)


def honest(exact, factor=1.0):
    """A certificate made of the truth, its distances multiplied by `factor`."""

    def certify(penalty, z, x, step, *, metric):
        errors = exact.errors(z)
        # one part in 1e12 above the truth, which is rounded down
        found = {name: getattr(errors, name) * (1 + 1e-12) + 1e-300 for name in bounds.BOUNDS}
        found["distance"] = found["distance"] * factor
        size = np.abs(exact.z.astype(float))
        return SimpleNamespace(
            **found, lower=size * (1 - 1e-12), upper=size * (1 + 1e-12), decided=np.ones(len(z), dtype=bool)
        )

    return certify


def candidate(ensemble, penalty):
    z = pl.prox(penalty, ensemble.x, ensemble.step, metric=ensemble.metric)
    return bounds.Candidate("perturbed", "", z * 1.001)


def test_honest_bounds_are_no_violations(problem):
    ensemble, penalty, exact = problem
    found = bounds.judge(honest(exact), ensemble, penalty, exact, candidate(ensemble, penalty))
    for bound in (*bounds.BOUNDS, "enclosure"):
        assert not bounds.violations(found, bound).any()


def test_a_planted_violation_is_reported(problem):
    ensemble, penalty, exact = problem
    found = bounds.judge(honest(exact, 0.999), ensemble, penalty, exact, candidate(ensemble, penalty))
    nonzero = exact.radius.astype(float) != 0
    assert nonzero.any()
    np.testing.assert_array_equal(bounds.violations(found, "distance"), nonzero)
    assert not bounds.violations(found, "gap").any()


def test_a_bound_that_is_no_number_is_a_violation():
    found = {"gap": np.array([np.nan, np.inf, 1.0]), "true_gap": np.array([0.0, 1.0, 1.0])}
    assert bounds.violations(found, "gap").tolist() == [True, False, False]


def test_a_bracket_without_the_radius_is_reported(problem):
    ensemble, penalty, exact = problem
    radius = exact.radius.astype(float)
    points = candidate(ensemble, penalty).z
    wrong = bounds.Candidate("Newton", "", points, (radius * 1.1, radius * 1.2))
    found = bounds.judge(honest(exact), ensemble, penalty, exact, wrong)
    np.testing.assert_array_equal(bounds.violations(found, "enclosure"), radius > 0)


def test_tightness_looks_at_errors_above_the_rounding_only():
    frame = pd.DataFrame({"ensemble": "a", "judged": [True, True, False]})
    for bound in bounds.BOUNDS:
        frame[f"true_{bound}"] = [1.0, 2.0, 1e-300]
        frame[f"ratio_{bound}"] = [1.5, 3.0, 1e9]
    table = bounds.tightness(frame, ["ensemble"])
    assert table["distance, median"].item() == pytest.approx(2.25)
    assert table["distance, p99"].item() == 3.0


def test_every_ensemble_is_a_valid_problem_in_both_dtypes():
    for name in ensembles.ADVERSARIAL:
        for dtype in bounds.DTYPES:
            made = ensembles.adversarial(name, 5, dtype, seed=3)
            assert made.x.dtype == made.metric.dtype == dtype
            assert np.isfinite(made.x).all()
            assert np.isfinite(made.metric).all()
            assert (made.metric > 0).all()


def test_runs_and_reports(tmp_path, monkeypatch):
    units = {
        "one": {"ensemble": "above", "penalty": "GroupMCP", "dtype": "float64", "n_groups": 3, "seed": 0}
    }
    monkeypatch.setattr(bounds, "units", lambda profile: units)
    results = ResultsDir(tmp_path)
    bounds.run(Profile(), results, print)
    section = bounds.section(results)
    assert section.findings[0].figure == "0"
    assert {item.name for item in section.items} >= {"violations", "tightness", "scatter"}
