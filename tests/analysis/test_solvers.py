import numpy as np
import pytest

import proxlab as pl
from analysis import ensembles, methods, solvers
from analysis.results import Profile, ResultsDir


def test_relative_errors():
    x, d = np.array([[3.0, 4.0], [0.3, 0.4]]), np.ones((2, 2))
    exact = ensembles.truth(ensembles.Ensemble(x, d, 1.0, 1.0), pl.GroupLasso(1.0))
    z = np.array([[2.4, 3.2], [0.03, 0.04]])  # exact; then not zero, by a tenth of x
    np.testing.assert_allclose(solvers.relative_errors(exact, z), [0, 0.1], atol=1e-15)
    assert solvers.relative_errors(exact, z * np.nan).tolist() == [np.inf, np.inf]


@pytest.mark.parametrize("dtype", solvers.DTYPES)
def test_every_method_solves_a_benign_ensemble(dtype):
    rng = np.random.default_rng(0)
    x, d = 2 * rng.standard_normal((6, 4)), rng.uniform(0.5, 2, (6, 4))
    problem = ensembles.Ensemble(x.astype(dtype), d.astype(dtype), 0.5, 0.4)
    exact = ensembles.truth(problem, pl.GroupLasso(problem.lam))
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
