"""The elementwise updates of the methods."""

import inspect

import numpy as np
import pytest

from proxlab.optim import rules

METRICS = [name for name in vars(rules) if name.endswith("_metric")]


@pytest.mark.parametrize("name", METRICS)
def test_the_metric_again_from_the_new_state(name):
    """A pass that keeps nothing for each element forms the same metric, however large its parts are."""
    update, metric = getattr(rules, name.removesuffix("_metric")), getattr(rules, name)
    rng = np.random.default_rng(0)
    first = next(iter(inspect.signature(metric).parameters))
    arguments = list(inspect.signature(update).parameters)
    assert arguments[2] == first
    for _ in range(20):
        given = dict(zip(arguments, 10.0 ** rng.uniform(-3, 1, size=len(arguments)), strict=True))
        _, d, *slots = update(**given)
        coefficients = [given[k] for k in arguments[2 + len(slots) :]]
        assert metric(*slots, *coefficients) == pytest.approx(d, rel=1e-15)


def test_there_are_metrics_to_compare():
    assert len(METRICS) >= 8
