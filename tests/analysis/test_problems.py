"""Captured problems are the same for the same seed, and look like what training hands to a prox."""

import dataclasses

import numpy as np
import pytest

import proxlab as pl
from analysis import problems


@pytest.fixture(scope="module")
def sources():
    return {source.name: source for source in problems._sources("quick")}


def test_every_data_set_and_grouping_is_there(sources):
    assert set(sources) == {
        "digits-multinomial-pixels",
        "digits-mlp-units",
        "digits-mlp-inputs",
        "birthwt-linear",
        "birthwt-logistic",
    }
    assert sources["digits-mlp-units"].groups != sources["digits-mlp-inputs"].groups


@pytest.mark.parametrize("name", ["birthwt-logistic", "digits-mlp-inputs"])
def test_captures_repeat_and_depend_on_the_seed(sources, name):
    short = dataclasses.replace(sources[name], captures=(1, 5))
    first, again, other = (problems._capture(short, seed) for seed in (0, 0, 1))
    assert [problem.name for problem in first] == [f"{name}-t1", f"{name}-t5"]
    np.testing.assert_array_equal(first[1].x, again[1].x)
    assert not np.array_equal(first[1].x, other[1].x)
    for problem in first:
        assert problem.metric.shape == problem.x.shape
        assert problem.metric.min() > 0.0
        z = pl.prox(problem.penalty, problem.x, problem.step, metric=problem.metric)
        assert np.isfinite(z).all()


def test_an_unknown_name_is_an_error(monkeypatch):
    monkeypatch.setattr(problems, "captured_problems", lambda profile, seed: ())
    with pytest.raises(KeyError, match="no captured problem is named 'nothing'"):
        problems.captured_problem("nothing")


def test_every_shipped_penalty_is_drawn():
    shipped = {
        cls
        for name in pl.__all__
        if isinstance(cls := getattr(pl, name), type)
        and issubclass(cls, pl.Penalty)
        and cls is not pl.Penalty
    }
    assert {type(penalty) for penalty in problems.PENALTIES} == shipped - {pl.CurvedPenalty}
