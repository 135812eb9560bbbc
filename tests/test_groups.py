"""Groups: which elements belong together, for arrays of any shape."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxlab as pl
from proxlab.groups import AxisLayout
from tests.table import GROUPS, LABELS


def members(groups, shape):
    """Every group as the flat indices of its elements."""
    indptr, indices = groups.indices(shape)
    return [indices[a:b].tolist() for a, b in itertools.pairwise(indptr)]


@pytest.mark.parametrize("kind", GROUPS)
def test_counts_agree_with_members(kind):
    make, shape = GROUPS[kind]
    groups = make()
    found = members(groups, shape)
    assert groups.n_groups(shape) == len(found)
    np.testing.assert_array_equal(groups.sizes(shape), [len(g) for g in found])
    flat = [i for g in found for i in g]
    assert len(set(flat)) == len(flat)
    assert set(flat) <= set(range(int(np.prod(shape))))


@given(shape=st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), data=st.data())
def test_over_numbers_groups_in_c_order_of_the_kept_axes(shape, data):
    axes = tuple(data.draw(st.sets(st.integers(0, len(shape) - 1))))
    kept = tuple(a for a in range(len(shape)) if a not in axes)
    flat = np.arange(int(np.prod(shape))).reshape(shape)
    rows = np.moveaxis(flat, kept, range(len(kept))).reshape(
        int(np.prod([shape[a] for a in kept])), int(np.prod([shape[a] for a in axes]))
    )
    found = members(pl.Groups.over(axes), shape)
    assert [sorted(g) for g in found] == [sorted(r) for r in rows.tolist()]
    negative = tuple(a - len(shape) for a in axes)
    assert members(pl.Groups.over(negative), shape) == found


def test_over_matches_the_axis_of_numpy_norms():
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    for axis in (0, 1, 2, -1, (0, 2)):
        value = pl.GroupLasso(1.0, groups=pl.Groups.over(axis)).value(x)
        expected = np.sqrt((x**2).sum(axis=axis))
        np.testing.assert_allclose(value, expected.ravel(), rtol=1e-14)


@pytest.mark.parametrize(
    ("shape", "view", "axes"),
    [
        ((12, 5), (3, 2, 2, 5), (0, 2, 3)),
        ((12, 5), (3, 2, 2, -1), (0, 2, 3)),
        ((12,), (3, 2, -1), (0, -1)),
        ((4, 6), (-1, 2, 3), (0, 2)),
        ((2, 3, 4), (-1,), ()),
        ((2, 3, 4), [6, -1], [0]),
        ((0, 4), (-1, 2, 2), 1),
    ],
)
@pytest.mark.parametrize("backend", ["numba", "array_api"])
def test_over_a_view_is_over_the_reshaped_array(shape, view, axes, backend):
    groups, plain = pl.Groups.over(axes, shape=view), pl.Groups.over(axes)
    x = np.random.default_rng(0).normal(size=shape)
    viewed = x.reshape(view)
    assert groups.n_groups(shape) == plain.n_groups(viewed.shape)
    assert members(groups, shape) == members(plain, viewed.shape)
    penalty, by_hand = pl.GroupLasso(0.5, groups=groups), pl.GroupLasso(0.5, groups=plain)
    metric = 1.0 + x**2
    z = pl.prox(penalty, x, metric=metric, backend=backend)
    assert z.shape == shape
    expected = pl.prox(by_hand, viewed, metric=metric.reshape(view), backend=backend)
    np.testing.assert_array_equal(z, expected.reshape(shape))
    np.testing.assert_array_equal(penalty.value(x), by_hand.value(viewed))
    certificate = pl.certify(penalty, z, x, metric=metric)
    assert certificate.lower.shape == certificate.upper.shape == shape


def test_heads_take_the_path_of_axes_and_split_views():
    groups = pl.Groups.over((0, 2, 3), shape=(3, 4, 8, -1))
    layout = groups.layout((96, 16))
    assert isinstance(layout, AxisLayout)
    assert layout.canonical_shape() == (1, 3, 4, 128)
    x = np.arange(96.0 * 16).reshape(96, 16)
    (row,) = pl.Groups.over((1, 2), shape=(4, 24, 16)).layout(x.shape).split(x, 0.0)
    assert np.shares_memory(row, x)
    assert repr(groups) == "Groups.over((0, 2, 3), shape=(3, 4, 8, -1))"


def test_conv():
    weight = np.random.default_rng(0).normal(size=(4, 3, 2, 2))
    norms = {"filter": (1, 2, 3), "channel": (0, 2, 3), "kernel": (2, 3)}
    for kind, axes in norms.items():
        value = pl.GroupLasso(1.0, groups=pl.Groups.conv(kind)).value(weight)
        np.testing.assert_allclose(value, np.sqrt((weight**2).sum(axis=axes)).ravel(), rtol=1e-14)
    for shape in [(4, 3, 5), (4, 3, 2, 2, 2)]:
        assert pl.Groups.conv("filter").n_groups(shape) == 4
        assert pl.Groups.conv("channel").n_groups(shape) == 3
        assert pl.Groups.conv("kernel").n_groups(shape) == 12


def test_labels_leave_free_elements_and_empty_groups():
    found = members(pl.Groups.labels(LABELS), LABELS.shape)
    assert [sorted(g) for g in found] == [np.flatnonzero(LABELS.ravel() == k).tolist() for k in range(5)]
    assert found[2] == []


def test_csr():
    assert members(pl.Groups.csr([0, 2, 2, 5]), (5,)) == [[0, 1], [], [2, 3, 4]]
    assert members(pl.Groups.csr([0, 2, 3], [4, 1, 0]), (2, 3)) == [[4, 1], [0]]


def test_free_elements_are_not_penalised():
    groups = pl.Groups.labels(LABELS)
    x = np.random.default_rng(0).normal(size=LABELS.shape)
    free = LABELS == -1
    for penalty in (pl.GroupLasso(5.0, groups=groups), pl.SparseGroupLasso(1.0, 5.0, groups=groups)):
        z = pl.prox(penalty, x)
        np.testing.assert_array_equal(z[free], x[free])
        assert penalty(np.where(free, x, 0.0)) == 0.0


def test_one_object_serves_many_shapes():
    penalty = pl.GroupLasso(1.0, weights="sqrt_size")
    for shape in [(3,), (2, 5), (2, 3, 4)]:
        assert penalty.value(np.ones(shape)).shape == shape[:-1] or len(shape) != 2
        np.testing.assert_allclose(penalty(np.ones(shape)), np.prod(shape), rtol=1e-14)
