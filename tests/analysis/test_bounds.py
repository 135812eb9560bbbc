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
    """Bounds made of the truth, the distances multiplied by `factor`."""

    def bound(name):
        # one part in 1e12 above the truth, which is rounded down
        more = factor if name == "distance" else 1.0
        return lambda penalty, z, x, step, *, metric: (
            more * (getattr(exact.errors(z), name) * (1 + 1e-12) + 1e-300)
        )

    return {name: (name, bound(name)) for name in bounds.BOUNDS}


def candidate(ensemble, penalty):
    z = pl.prox(penalty, ensemble.x, ensemble.step, metric=ensemble.metric)
    return bounds.Candidate("perturbed", "", z * 1.001)


def test_honest_bounds_are_no_violations(problem):
    ensemble, penalty, exact = problem
    found = bounds.judge(exact.problem, [candidate(ensemble, penalty)], honest(exact))
    for bound in bounds.BOUNDS:
        assert not found[f"violated_{bound}"].any()
        assert (found[f"true_{bound}"] <= found[bound]).all()


def test_a_planted_violation_is_reported(problem):
    ensemble, penalty, exact = problem
    made = [bounds.Candidate("zero", "", 0 * ensemble.x), candidate(ensemble, penalty)]
    found = bounds.judge(exact.problem, made, honest(exact, 0.999))
    nonzero = exact.radius.astype(float) != 0
    assert nonzero.any()
    np.testing.assert_array_equal(found["violated_distance"], [nonzero, nonzero])
    assert not found["violated_gap"].any()


def test_a_bound_that_is_no_number_ends_the_study(problem):
    ensemble, penalty, exact = problem
    nothing = {"gap": ("gap", lambda penalty, z, x, step, *, metric: np.full(len(x), np.nan))}
    with pytest.raises(ValueError, match="returned NaN"):
        bounds.judge(exact.problem, [candidate(ensemble, penalty)], honest(exact) | nothing)


def test_enclosures_without_the_truth_are_reported(problem):
    ensemble, penalty, exact = problem
    radius, size = exact.radius.astype(float), np.abs(exact.z.astype(float))
    points = candidate(ensemble, penalty).z
    tight = SimpleNamespace(lower=size * (1 - 1e-12), upper=size * (1 + 1e-12))
    above = SimpleNamespace(lower=size * 1.1, upper=size * 1.2)
    wrong = bounds.Candidate("Newton", "", points, (radius * 1.1, radius * 1.2))
    no_bracket = candidate(ensemble, penalty)
    assert not bounds.outside(exact, tight, no_bracket).any()
    np.testing.assert_array_equal(bounds.outside(exact, tight, wrong), radius > 0)
    np.testing.assert_array_equal(bounds.outside(exact, above, no_bracket), (size > 0).sum(axis=1))


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
