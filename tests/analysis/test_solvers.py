import numpy as np
import pytest

from analysis import ensembles, methods, reference, solvers, solvers_plots
from analysis.results import Profile, ResultsDir


def test_performance_profile_of_a_hand_example():
    # A is best on problems 1 and 2, B on 3; A fails on 3, both fail on 4
    cost = np.array([[1.0, 2.0, np.inf, np.inf], [2.0, 8.0, 5.0, np.inf]])
    ratios = solvers_plots.performance_ratios(cost)
    np.testing.assert_array_equal(ratios, [[1, 1, np.inf, np.inf], [2, 4, 1, np.inf]])
    shares = solvers_plots.performance_profile(ratios, np.array([1.0, 2.0, 4.0, 100.0]))
    np.testing.assert_array_equal(shares, [[0.5, 0.5, 0.5, 0.5], [0.25, 0.5, 0.75, 0.75]])


def test_relative_errors():
    x, d = np.array([[3.0, 4.0], [0.3, 0.4]]), np.ones((2, 2))
    exact = [reference.Reference(x[g], d[g], 1.0, reference.group_lasso(1.0)) for g in range(2)]
    z = np.array([[2.4, 3.2], [0.03, 0.04]])  # exact; then not zero, by a tenth of x
    np.testing.assert_allclose(solvers.relative_errors(exact, z), [0, 0.1], atol=1e-15)
    assert solvers.relative_errors(exact, z * np.nan).tolist() == [np.inf, np.inf]


@pytest.mark.parametrize("dtype", solvers.DTYPES)
def test_every_method_solves_a_benign_ensemble(dtype):
    rng = np.random.default_rng(0)
    x, d = 2 * rng.standard_normal((6, 4)), rng.uniform(0.5, 2, (6, 4))
    problem = ensembles.Ensemble(x.astype(dtype), d.astype(dtype), 0.5, 0.4)
    exact = ensembles.references(problem, reference.group_lasso(problem.lam))
    for name, method in methods.available(dtype).items():
        outcome = method(problem)
        assert outcome.iterations.shape == outcome.evaluations.shape == (6,), name
        assert solvers.relative_errors(exact, outcome.z).max() < solvers.FAILURE, name


def test_runs_and_reports(tmp_path, monkeypatch):
    small = {"ensemble": "adam", "seed": 0, "n_groups": 6}
    units = {
        "compare-adam-float64": (solvers.compare, small | {"dtype": "float64", "n_timed": 6}),
        "compare-adam-float32": (solvers.compare, small | {"dtype": "float32", "n_timed": 6}),
        "compare-captured-units-float64": (
            solvers.compare,
            small | {"ensemble": "captured-units", "dtype": "float64", "n_timed": 6},
        ),
        "mcp-adam": (solvers.compare_mcp, small),
        "sweep-adam": (solvers.sweep, small | {"dtype": "float64"}),
    }
    monkeypatch.setattr(solvers, "SWEPT", ("adam",))
    # no training for the sake of a report
    monkeypatch.setattr(ensembles, "make", lambda name, *rest: ensembles.adversarial("adam", *rest))
    monkeypatch.setattr(solvers, "units", lambda profile: units)
    results = ResultsDir(tmp_path)
    solvers.run(Profile(), results, print)
    section = solvers.section(results)
    summary = next(item for item in section.items if item.name == "summary").frame
    newton = summary[summary["method"].isin(["Newton", methods.COMPILED])]
    assert (newton["failures"] == 0).all()
    assert {item.name for item in section.items} == {"summary", "profiles", "accuracy", "iterations", "mcp"}
