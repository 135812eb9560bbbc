"""The formulas of the methods: of numbers and of arrays they are the same."""

import inspect

import numpy as np
import pytest

from proxlab.linker import over_arrays
from proxlab.optim import updates

UPDATES = [name for name in updates.__all__ if name.isupper()]


@pytest.mark.parametrize("name", UPDATES)
def test_formulas_of_numbers_are_those_of_arrays(name):
    update = getattr(updates, name)
    kinds = [kind for kind in vars(updates).values() if inspect.isclass(kind)]
    rng = np.random.default_rng(0)
    w, g = rng.normal(size=(2, 20))
    slots = tuple(10.0 ** rng.uniform(-3, 1, size=(len(update.slots), 20)))
    # Those that the formulas read: kinds of numbers share names.
    fields = sorted({field for kind in kinds for field in getattr(kind, "_fields", ())})
    c = type("All", (), dict(zip(fields, rng.uniform(0.1, 0.9, size=len(fields)).tolist(), strict=True)))
    state, point = (over_arrays(f, np) for f in (update.state, update.point))
    new = state(w, g, slots, c)
    d = None if update.metric is None else over_arrays(update.metric, np)(new, c)
    x = point(w, g, d, new, c)
    assert len(new) == len(update.slots)
    for k in range(w.size):
        one = update.state(w[k], g[k], tuple(a[k] for a in slots), c)
        assert one == tuple(a[k] for a in new)
        if d is not None:
            # NumPy may take the power of an array by another function than that of a number.
            assert abs(update.metric(one, c) - d[k]) <= np.spacing(d[k])
        assert update.point(w[k], g[k], None if d is None else d[k], one, c) == x[k]


def test_a_metric_is_read_off_the_new_state_alone():
    """A pass that keeps nothing for each element forms it again."""
    formed = [name for name in UPDATES if getattr(updates, name).metric is not None]
    assert len(formed) == 8
    for name in formed:
        assert list(inspect.signature(getattr(updates, name).metric).parameters) == ["s", "c"]
