"""Values and subdifferentials of the penalties, against the oracle and against finite differences."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxlab as pl
from tests import oracle
from tests.cases import numbers, vectors
from tests.table import CONVEX, GROUPED, PENALTIES, ids

every_penalty = pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))


@every_penalty
@given(data=st.data(), scale=st.sampled_from([0.1, 1.0, 10.0]))
def test_value(row, data, scale):
    z = data.draw(vectors(4, numbers)) * scale
    if row.parameters.get("nonnegative"):
        z = np.abs(z)
    penalty = row.build()
    expected = oracle.to_float(oracle.value(row.name, row.parameters, z))
    assert abs(penalty(z[None]) - expected) <= 1e-14 * expected
    assert penalty(z[None]) == penalty.value(z[None]).sum()


@pytest.mark.parametrize("row", GROUPED, ids=ids(GROUPED))
def test_weights_multiply_the_value(row):
    z = np.random.default_rng(0).normal(size=(3, 4))
    if row.parameters.get("nonnegative"):
        z = np.abs(z)
    for weights, numbers_ in [(np.array([0.0, 1.0, 2.5]), [0.0, 1.0, 2.5]), ("sqrt_size", [2.0] * 3)]:
        value = row.build(weights=weights).value(z)
        expected = [
            oracle.to_float(oracle.value(row.name, row.parameters, z[g], numbers_[g])) for g in range(3)
        ]
        np.testing.assert_allclose(value, expected, rtol=1e-14)


@every_penalty
def test_outside_the_domain(row):
    value = row.build()(np.array([[1.0, -1.0]]))
    assert np.isinf(value) == bool(row.parameters.get("nonnegative"))


@every_penalty
def test_convexity_is_declared(row):
    assert row.build().is_convex == row.convex


@every_penalty
def test_strength(row):
    factors = [name for name in row.parameters if name.startswith("lam")]
    options = {} if row.name == "L1" else {"groups": pl.Groups.over(0), "weights": [1.0, 2.0]}
    penalty = row.build(**options)
    assert penalty.strength == pytest.approx(sum(row.parameters[name] for name in factors), rel=1e-15)
    z = np.array([[0.1, 3.0], [0.7, 0.02]])
    for ratio in (0.0, 0.3, 2.0):
        scaled = {name: v * ratio if name in factors else v for name, v in row.parameters.items()}
        expected = row.build(scaled, **options)
        found = penalty.with_strength(ratio * penalty.strength)
        assert type(found) is type(penalty)
        np.testing.assert_allclose(found.value(z), expected.value(z), rtol=1e-14)
    with pytest.raises(ValueError, match=r"strength: must be finite and >= 0, got -1"):
        penalty.with_strength(-1.0)


def test_strength_without_a_proportion():
    with pytest.raises(ValueError, match=r"strength: .*lam1.*lam2.* must not all be 0"):
        pl.SparseGroupLasso(0.0, 0.0).with_strength(1.0)


def test_degenerate_parameters_are_convex():
    assert pl.GroupMCP(0.0, 2.0)(np.ones((1, 3))) == 0.0
    for penalty in (pl.GroupMCP(0.0, 2.0), pl.GroupSCAD(0.0, 3.0), pl.GroupCapped(0.0, 1.0), pl.GroupL0(0.0)):
        np.testing.assert_array_equal(pl.prox(penalty, np.array([[1.0, -2.0]])), [[1.0, -2.0]])


@every_penalty
@given(data=st.data())
def test_subgradients_support_convex_penalties(row, data):
    """Where the distance of g is zero, g is a subgradient; the nearest one is at that distance."""
    if not row.convex:
        pytest.skip("not convex")
    penalty = row.build()
    z, g = data.draw(vectors(3, numbers)), data.draw(vectors(3, st.floats(-2, 2)))
    if row.parameters.get("nonnegative"):
        z = np.abs(z)
    distance = float(np.linalg.norm(penalty.subdiff_distance(g[None], z[None])))
    nearest = nearest_subgradient(row, z, -g)
    assert distance == pytest.approx(np.linalg.norm(nearest + g), rel=1e-6, abs=1e-6)


def nearest_subgradient(row, z, v):
    """Project `v` onto the subdifferential of a convex penalty, coded from its definition."""
    p, r = row.parameters, np.linalg.norm(z)
    low, high = np.zeros(3), np.zeros(3)
    lam1 = (
        p.get("lam1", p["lam"] if row.name == "L1" else 0.0)
        if row.name in ("L1", "SparseGroupLasso")
        else 0.0
    )
    if row.name == "GroupLinf":
        lam, size = p["lam"], np.abs(z)
        face = size == size.max()
        if not z.any():
            return oracle.dual("GroupLinf", p, v, np.ones(3), 1.0)
        u = np.where(face, v * np.sign(z), 0.0)
        # weights on the simplex of the face: bisect on the threshold
        low, high = u[face].min() - lam, u[face].max()
        for _ in range(200):
            t = (low + high) / 2
            low, high = (t, high) if np.maximum(u[face] - t, 0).sum() > lam else (low, t)
        return np.where(face, np.maximum(u - high, 0.0), 0.0) * np.sign(z)
    lam1 = {"L1": p.get("lam"), "SparseGroupLasso": p.get("lam1")}.get(row.name, 0.0)
    low, high = np.where(z > 0, lam1, -lam1), np.where(z < 0, -lam1, lam1)
    if p.get("nonnegative"):
        low = np.where(z == 0, -np.inf, low)
    radial = {"GroupLasso": p.get("lam", 0.0), "SparseGroupLasso": p.get("lam2", 0.0)}.get(row.name, 0.0)
    if row.name == "GroupElasticNet":
        radial = p["lam"] + p["kappa"] * r
    if r > 0:
        smooth = radial * z / r
        return smooth + np.clip(v - smooth, low, high)
    box = np.clip(v, low, high)
    rest = v - box
    length = np.linalg.norm(rest)
    return box + rest * min(1.0, radial / length) if length else box


@pytest.mark.parametrize("row", [r for r in PENALTIES if r not in CONVEX], ids=lambda r: r.id)
def test_gradients_of_nonconvex_penalties(row):
    """Away from kinks the subdifferential is the gradient, here by central differences."""
    penalty = row.build()
    rng = np.random.default_rng(0)
    for scale in (0.3, 1.0, 3.0):
        z, h = scale * rng.normal(size=4), 1e-6
        gradient = np.array(
            [(penalty((z + h * e)[None]) - penalty((z - h * e)[None])) / (2 * h) for e in np.eye(4)]
        )
        assert float(penalty.subdiff_distance(-gradient[None], z[None])[0]) <= 1e-8


def test_zero_subdifferential_is_the_ball():
    z = np.zeros((1, 2))
    for penalty in (
        pl.GroupLasso(2.0),
        pl.GroupMCP(2.0, 3.0),
        pl.GroupSCAD(2.0, 3.0),
        pl.GroupCapped(2.0, 1.0),
    ):
        assert penalty.subdiff_distance(np.array([[1.2, 1.6]]), z)[0] == pytest.approx(0.0, abs=1e-15)
        assert penalty.subdiff_distance(np.array([[3.0, 4.0]]), z)[0] == pytest.approx(3.0)
    assert pl.GroupL0(2.0).subdiff_distance(np.array([[3.0, 4.0]]), z)[0] == 0.0


def test_a_signature_has_the_parameters():
    assert list(inspect.signature(pl.GroupMCP).parameters) == ["lam", "gamma", "groups", "weights"]
    assert list(inspect.signature(pl.GroupLinf).parameters) == ["lam", "groups", "weights"]
