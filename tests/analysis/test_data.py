"""The data are the published ones."""

import numpy as np
import pytest

from analysis import data


def test_birthwt_has_the_published_margins():
    raw = data.read_birthwt()
    assert {len(column) for column in raw.values()} == {189}
    # Hosmer & Lemeshow (1989); summary(MASS::birthwt).
    assert raw["low"].sum() == 59
    assert np.array_equal(raw["low"], raw["bwt"] < 2500)
    assert [int((raw["race"] == r).sum()) for r in (1, 2, 3)] == [96, 26, 67]
    assert (raw["smoke"].sum(), raw["ht"].sum(), raw["ui"].sum()) == (74, 12, 28)
    assert (raw["bwt"].min(), np.median(raw["bwt"]), raw["bwt"].max()) == (709, 2977, 4990)
    assert raw["bwt"].mean() == pytest.approx(2944.587, abs=5e-4)
    assert raw["age"].mean() == pytest.approx(23.24, abs=5e-3)
    assert raw["lwt"].mean() == pytest.approx(129.8, abs=5e-2)


def test_birthwt_gives_the_published_logistic_regression():
    raw = data.read_birthwt()
    columns = [raw["age"], raw["lwt"], raw["race"] == 2, raw["race"] == 3]
    columns += [raw[name] for name in ("smoke", "ptl", "ht", "ui", "ftv")]
    design = np.column_stack([np.ones(189), *columns])
    w = np.zeros(10)
    for _ in range(12):
        p = 1.0 / (1.0 + np.exp(-design @ w))
        w += np.linalg.solve((design.T * (p * (1.0 - p))) @ design, design.T @ (raw["low"] - p))
    # R: glm(low ~ ., binomial) with race as a factor and everything else linear.
    published = [0.480623, -0.029549, -0.015424, 1.272260, 0.880496, 0.938846, 0.543337, 1.863303, 0.767648]
    np.testing.assert_allclose(w, [*published, 0.065302], atol=6e-7)


def test_design_has_sixteen_columns_in_eight_groups():
    birthwt = data.birthwt()
    assert birthwt.design.shape == (189, 16)
    assert len(birthwt.columns) == 16
    np.testing.assert_array_equal(np.diff(birthwt.indptr), [3, 3, 2, 1, 2, 1, 1, 3])
    polynomials = birthwt.design[:, :3]
    np.testing.assert_allclose(polynomials.T @ polynomials, np.eye(3), atol=1e-13)
    np.testing.assert_allclose(polynomials.sum(axis=0), 0.0, atol=1e-13)
    # The first column is age itself, centred and scaled.
    age = data.read_birthwt()["age"]
    assert np.corrcoef(polynomials[:, 0], age)[0, 1] == pytest.approx(1.0)


def test_digits_are_scaled():
    digits = data.digits()
    assert digits.pixels.shape == (1797, 64)
    assert (digits.pixels.min(), digits.pixels.max()) == (0.0, 1.0)
    assert sorted(set(digits.labels)) == list(range(10))
