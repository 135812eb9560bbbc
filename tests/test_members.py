"""Groups of which everyone has a part: the same choice for all, and that of whole groups."""

import threading

import numpy as np
import pytest
from array_api_compat import array_namespace
from hypothesis import given
from hypothesis import strategies as st

import proxlab as pl
from proxlab.backends.array_api import choose, radial_rows, shrunk
from proxlab.backends.members import Fragment, Fragments
from proxlab.penalties.equations import Radial
from tests.table import GROUPED, ids

XP = array_namespace(np.zeros(1))
ROWS = [row for row in GROUPED if isinstance(row.build().equation, Radial) and row.build().equation.compiled]


class Everyone:
    """Threads in the place of processes: what they put together, and how often."""

    def __init__(self, count):
        self.barrier = threading.Barrier(count, timeout=30)
        self.given = [None] * count
        self.times = 0

    def gather(self, k, a):
        """Return what all have given."""
        self.given[k] = a.copy()
        if self.barrier.wait() == 0:
            self.times += 1
        found = np.stack(self.given)
        self.barrier.wait()
        return found


def solve_in_parts(everyone, cuts, x, d, step, weight, table):
    """Give each thread some columns, in two matrices of other orders of the groups."""
    n_groups, size = x.shape
    z, found = np.zeros_like(x), [None] * (len(cuts) - 1)

    def work(k):
        order = np.random.default_rng(k).permutation(n_groups)
        middle = (cuts[k] + cuts[k + 1]) // 2
        spans = [slice(cuts[k], middle), slice(middle, cuts[k + 1])]
        parts = [Fragment(x[order, span], d[order, span], order) for span in spans]
        units = np.zeros(n_groups)
        members = Fragments(
            XP, parts, units, units, size, lambda a: everyone.gather(k, a).sum(axis=0),
            lambda a: everyone.gather(k, a),
        )  # fmt: skip
        with np.errstate(all="ignore"):
            choice = choose(XP, members, step, weight, table, pl.Newton(), 1e-14)
        for span, part in zip(spans, parts, strict=True):
            z[order, span] = shrunk(XP, part.x, part.d, choice.radius[order], choice.tau[order])
        found[k] = choice

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(cuts) - 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return z, found


@pytest.mark.parametrize("row", ROWS, ids=ids(ROWS))
@given(seed=st.integers(0, 10**6))
def test_parts_are_solved_as_the_whole(row, seed):
    draw = np.random.default_rng(seed)
    n_groups, size, ranks = draw.integers(1, 30), int(draw.integers(1, 12)), int(draw.integers(1, 4))
    table = row.build().equation.table
    x = draw.standard_normal((n_groups, size)) * np.exp(draw.uniform(-2, 2, (n_groups, 1)))
    d = np.exp(draw.normal(0, 1.5, (n_groups, size)))
    step, weight = draw.uniform(0.1, 2, n_groups), draw.uniform(0.5, 2, n_groups)
    if draw.random() < 0.3:
        # At the threshold, as nearly as numbers are.
        norms = np.sqrt(((d * x) ** 2).sum(axis=1))
        x *= (step * weight * max(table[0].a, 1e-3) / norms)[:, None]
    cuts = [0, *np.sort(draw.integers(0, size + 1, ranks - 1)).tolist(), size]
    with np.errstate(all="ignore"):
        whole = radial_rows(XP, x, d, step, weight, table, pl.Newton(), 1e-14)
    everyone = Everyone(ranks)
    z, found = solve_in_parts(everyone, cuts, x, d, step, weight, table)
    for choice in found:
        for a, b in zip(choice, found[0], strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(choice.status, whole.status)
    np.testing.assert_allclose(z, whole.z, rtol=1e-12, atol=1e-15)
    # One sum to begin with, one for each evaluation, and for pieces the slope and the objective at each.
    assert everyone.times <= 2 + int(whole.evaluations.max()) + 4 * len(table)
