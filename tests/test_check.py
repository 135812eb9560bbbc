"""check_penalty finds planted faults, each of its kind, and nothing in what is right."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import proxlab as pl
from proxlab.penalties.base import Piece, RadialPenalty
from tests.table import PENALTIES, ids


@dataclass(frozen=True, eq=False)
class BerHu(RadialPenalty):
    """A norm, then quadratic: right as it is."""

    lam: float = 1.0
    delta: float = 2.0

    @property
    def pieces(self):
        lam, delta = self.lam, self.delta
        return (Piece(0.0, 0.0, lam, 0.0), Piece(delta, lam * delta, 0.0, -lam / delta))


@dataclass(frozen=True, eq=False)
class TwiceTheValue(BerHu):
    """Its value and its prox belong to different functions."""

    def _row_value(self, xp, z, weight):
        return 2.0 * super()._row_value(xp, z, weight)


@dataclass(frozen=True, eq=False)
class OnePercentMore(BerHu):
    """The same, by one percent."""

    def _row_value(self, xp, z, weight):
        return 1.01 * super()._row_value(xp, z, weight)


@dataclass(frozen=True, eq=False)
class NotZeroAtZero(BerHu):
    """A constant that nobody needs."""

    def _row_value(self, xp, z, weight):
        return 0.5 + super()._row_value(xp, z, weight)


@dataclass(frozen=True, eq=False)
class IgnoresWeights(BerHu):
    """Its value does not know the weights."""

    def _row_value(self, xp, z, weight):
        return super()._row_value(xp, z, xp.ones_like(weight))


@dataclass(frozen=True, eq=False)
class SaysConvex(pl.GroupMCP):
    """Claims what is not so, and gets false certificates."""

    @property
    def is_convex(self):
        return True


@dataclass(frozen=True, eq=False)
class HalfTheSubdifferential(BerHu):
    """A distance to something else than the subdifferential."""

    def subdiff_distance(self, grad, z):
        return 0.5 * super().subdiff_distance(grad, z)


@dataclass(frozen=True, eq=False)
class Raises(BerHu):
    """Cannot say where it is."""

    def subdiff_distance(self, grad, z):
        raise ZeroDivisionError("somewhere")


@dataclass(frozen=True, eq=False)
class Falls(BerHu):
    """Its value falls beyond a radius."""

    def _row_value(self, xp, z, weight):
        value = super()._row_value(xp, z, weight)
        return xp.where(value > 3.0, value * 0.0 + 1.0, value)


@dataclass(frozen=True, eq=False)
class NoSolver(pl.Penalty):
    """Neither radial nor anything that is known."""

    lam: float = 1.0
    is_convex = True

    def _row_value(self, xp, z, weight):
        return weight * xp.sum(xp.abs(z), axis=1)

    def _row_distance(self, xp, grad, z, weight):
        return xp.sum(xp.abs(grad), axis=1)


PLANTED = {
    TwiceTheValue(): "prox",
    OnePercentMore(): "prox",
    NotZeroAtZero(): "value: must be 0 at zero, is 0.5",
    IgnoresWeights(): "weights: must multiply the value",
    SaysConvex(0.8, 1.5): "is_convex: says True, but",
    HalfTheSubdifferential(): "subdiff_distance: at z = ",
    Raises(): "subdiff_distance: raised ZeroDivisionError: somewhere",
    Falls(): "value: must not fall with the radius",
    NoSolver(): "prox (array_api): raised TypeError",
}


@pytest.mark.parametrize("penalty", PLANTED, ids=lambda h: type(h).__name__)
def test_a_planted_fault_is_found(penalty):
    found = pl.check_penalty(penalty)
    assert any(sentence.startswith(PLANTED[penalty]) for sentence in found), found
    assert all(sentence.endswith(".") for sentence in found)


SOME = [
    row for row in PENALTIES if row.id in ("L1-nonnegative", "SparseGroupLasso", "GroupSCAD", "GroupLinf")
]


@pytest.mark.parametrize("row", SOME, ids=ids(SOME))
def test_nothing_is_found_in_what_is_right(row):
    found = pl.check_penalty(row.build())
    assert found == (), found
    assert repr(found) == "nothing found"


def test_an_own_penalty_that_is_right_whatever_its_groups():
    penalty = replace(BerHu(), groups=pl.Groups.csr([0, 2, 5]), weights=np.array([1.0, 2.0]))
    assert pl.check_penalty(penalty) == ()


@dataclass(frozen=True, eq=False)
class Table(RadialPenalty):
    """Pieces as they are given."""

    table: tuple = ()

    @property
    def pieces(self):
        return self.table


def kinked(rng):
    """Linear and quadratic pieces whose slopes may jump upwards."""
    starts = np.concatenate([[0.0], np.cumsum(10 ** rng.uniform(-0.5, 0.5, rng.integers(1, 4)))])
    pieces, value, slope = [], 0.0, 10 ** rng.uniform(-1.0, 1.0) * (rng.random() < 0.8)
    for start, width in zip(starts, [*np.diff(starts), np.inf], strict=True):
        c = float(rng.choice([0.0, -0.15, -0.5])) * slope if width < np.inf else 0.0
        pieces.append(Piece(float(start), float(value), float(slope + c * start), c))
        if width < np.inf:
            value += (slope - 0.5 * c * width) * width
            slope += rng.uniform(0.0, 2.0) * (rng.random() < 0.8) - c * width
    return tuple(pieces)


def test_a_minimiser_on_a_kink_is_met():
    assert pl.check_penalty(Table((Piece(0.0, 0.0, 1.0, 0.0), Piece(1.0, 1.0, 3.0, 0.0)))) == ()


@settings(max_examples=3)
@given(st.integers(0, 2**32 - 1))
def test_nothing_is_found_in_tables_with_kinks(seed):
    penalty = Table(kinked(np.random.default_rng(seed)))
    assert pl.check_penalty(penalty, seed=seed) == ()


def test_what_is_no_penalty():
    with pytest.raises(TypeError, match="h: must be a proxlab penalty"):
        pl.check_penalty("lasso")
