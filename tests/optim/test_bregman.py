"""Where Bregman iterations start."""

import math

import numpy as np
import pytest

import proxlab as pl
from proxlab.optim import sparse_start
from proxlab.optim.bregman import dual_start
from tests.table import GROUPS

CONVEX = [
    pl.L1(0.3),
    pl.GroupLasso(0.3),
    pl.GroupLasso(0.3, groups=pl.Groups.over(0), weights="sqrt_size"),
    pl.GroupLasso(0.3, groups=pl.Groups.csr([0, 3, 5, 12], list(range(12)))),
    pl.GroupElasticNet(0.3, kappa=0.5),
    pl.SparseGroupLasso(0.2, 0.3),
    pl.GroupLinf(0.3),
]


@pytest.mark.parametrize("penalty", CONVEX, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("delta", [0.5, 3.0])
def test_the_prox_of_the_first_dual_variable_is_the_start(xp, penalty, delta):
    w = np.random.default_rng(0).normal(size=(6, 4))
    w[[1, 3]] = 0.0
    w[:, 2] = 0.0
    v = dual_start(penalty, xp.asarray(w), delta)
    z = xp.to_numpy(pl.prox(penalty, delta * v, delta))
    np.testing.assert_allclose(z, w, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(z == 0, w == 0)


def test_without_a_penalty_it_is_the_point(xp):
    w = xp.asarray(np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(xp.to_numpy(dual_start(None, w, 4.0)), np.full((2, 3), 0.25, np.float32))
    assert dual_start(pl.L1(1.0), xp.asarray(np.ones((0, 3))), 1.0).shape == (0, 3)


@pytest.mark.parametrize("grouping", ["rows", "columns", "channels", "ragged", "labels"])
def test_a_sparse_start_keeps_groups_whole_and_the_mean_square(grouping):
    make, shape = GROUPS[grouping]
    rng = np.random.default_rng(0)
    w = rng.choice([-1.0, 1.0], size=shape)  # of one magnitude: the mean square is then kept exactly
    z = sparse_start(w, 0.4, groups=make(), rng=1)
    indptr, indices = make().indices(shape)
    parts = [part for part in np.split(indices, indptr[1:-1]) if len(part)]
    alive = [z.ravel()[part].all() for part in parts]
    assert all(a or not z.ravel()[part].any() for a, part in zip(alive, parts, strict=True))
    assert abs(sum(alive) - round(0.4 * (len(indptr) - 1))) <= 1  # an empty group may be drawn
    grouped = np.concatenate(parts)
    assert math.isclose(np.mean(z.ravel()[grouped] ** 2), 1.0, rel_tol=1e-12)
    free = np.setdiff1d(np.arange(w.size), grouped)
    np.testing.assert_array_equal(z.ravel()[free], w.ravel()[free])
    assert np.all(np.sign(z) * w >= 0)


def test_a_sparse_start_is_of_the_kind_of_the_weights(xp):
    w = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    z = xp.to_numpy(sparse_start(xp.asarray(w), 0.3, rng=np.random.default_rng(5)))
    assert z.dtype == np.float32
    assert z.any(axis=1).sum() == 3
    np.testing.assert_array_equal(z, sparse_start(w, 0.3, rng=np.random.default_rng(5)))
    assert np.any(z != sparse_start(w, 0.3, rng=6))
    assert sparse_start(w, 1e-9).any(axis=1).sum() == 1
    np.testing.assert_array_equal(sparse_start(w, 1.0), w)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"density": 0.0}, ValueError, "density: must be finite and > 0"),
        ({"density": 1.5}, ValueError, "density: must be <= 1, got 1.5"),
        ({"groups": 0}, TypeError, r"groups: must be a proxlab.Groups or None, got 0"),
        ({"w": [[1.0]]}, TypeError, "w: must be an array"),
    ],
)
def test_bad_input_is_an_error(arguments, error, message):
    given = {"w": np.ones((2, 2)), "density": 0.5} | arguments
    with pytest.raises(error, match=message):
        sparse_start(**given)
