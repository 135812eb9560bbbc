"""Which groups are not zero, against a look at each element."""

from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxlab as pl
from proxlab.backends import threads
from proxlab.optim import living
from proxlab.optim.living import living_groups

# Every sign of life: the least numbers, and what is no number.
ALIVE = (1.0, -2.5, np.inf, -np.inf, np.nan, 6e-8, -6e-8)
DTYPES = ("float16", "float32", "float64", "longdouble", ">f4")
SIZES = (0, 1, 1, 2, 3, 5, 33, 70, 300)


def one_by_one(groups, w):
    """Look at each element of each group."""
    indptr, indices = groups.indices(w.shape)
    flat = [float(v) != 0 for v in w.reshape(-1)]
    return [any(flat[i] for i in indices[a:b]) for a, b in pairwise(indptr)]


def zeros_but_some(rng, groups, shape):
    """Zeros of both signs; half of the groups have one element that is not."""
    w = np.where(rng.random(shape) < 0.5, -0.0, 0.0)
    indptr, indices = groups.indices(shape)
    for a, b in pairwise(indptr):
        if b > a and rng.random() < 0.5:
            w.reshape(-1)[rng.choice(indices[a:b])] = rng.choice(ALIVE)
    return w


def lying(rng, a):
    """The same values in another order of memory, with gaps and backwards; in gaps there is life."""
    order, steps = rng.permutation(a.ndim), rng.choice([1, 1, 1, 2, -1], a.ndim)
    room = np.ones([abs(steps[k]) * a.shape[k] for k in order], a.dtype)
    view = room[tuple(slice(None, None, steps[k]) for k in order)].transpose(np.argsort(order))
    view[...] = a
    return view


@st.composite
def arrays(draw):
    """Groups and an array of them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=4))
    while np.prod(shape) > 20_000:
        shape[np.argmax(shape)] //= 2
    kind = draw(st.sampled_from(["axes", "axes", "axes", "view", "labels"]))
    if kind == "labels":
        groups = pl.Groups.labels(rng.integers(-1, 4, shape))
    else:
        view = None if kind == "axes" else (1, *shape[::-1], 1)
        axes = draw(st.lists(st.integers(0, len(view or shape) - 1), unique=True))
        groups = pl.Groups.over(tuple(axes), shape=view)
    w = zeros_but_some(rng, groups, tuple(shape)).astype(draw(st.sampled_from(DTYPES)))
    return groups, lying(rng, w) if draw(st.booleans()) else w


@given(st.lists(arrays(), min_size=1, max_size=4))
def test_every_layout_and_type(pairs):
    for (groups, w), alive in zip(pairs, living_groups(pairs), strict=True):
        assert alive.dtype == np.bool_
        assert alive.tolist() == one_by_one(groups, w)


@pytest.mark.parametrize("steps", [(1, 1, 1, 1), (2, 1, -1, 1), (1, 1, 1, -1), (1, 3, 2, 1)])
def test_all_axes_in_all_orders_of_memory(steps):
    shape = (2, 3, 4, 5)
    for n in range(5):
        for axes in combinations(range(4), n):
            for view in (None, (4, 2, 5, 3)):
                groups = pl.Groups.over(axes, shape=view)
                indptr, indices = groups.indices(shape)
                for order in permutations(range(4)):
                    room = np.ones([abs(steps[k]) * shape[k] for k in order], np.float32)
                    w = room[tuple(slice(None, None, steps[k]) for k in order)].transpose(np.argsort(order))
                    # The last element of every other group, wherever it lies.
                    flat = np.zeros(120, np.float32)
                    flat[indices[indptr[1::2] - 1]] = 1.0
                    w[...] = flat.reshape(shape)
                    (alive,) = living_groups([(groups, w)])
                    assert alive.tolist() == [k % 2 == 0 for k in range(len(alive))], (axes, view, order)


@pytest.mark.parametrize("least", [np.int64(-(2**63)), np.complex64(1j), np.True_])
def test_what_is_no_float_is_looked_at_by_itself(least):
    w = np.zeros((3, 4), least.dtype)
    w[1, 2] = least
    (alive,) = living_groups([(pl.Groups.over(1), w)])
    assert alive.tolist() == [False, True, False]


@pytest.mark.parametrize("axes", [0, 1, (0, 2), (1, 2), 2, (0, 1), ()])
@pytest.mark.parametrize("shape", [(40, 300, 3), (300, 40, 3), (3, 40, 600), (1, 1, 5000)])
def test_last_and_first_elements_of_large_groups(axes, shape):
    groups = pl.Groups.over(axes)
    indptr, indices = groups.indices(shape)
    for place in (indptr[:-1], indptr[1:] - 1):
        for dtype in ("float16", "float32", "float64"):
            w = np.zeros(shape, dtype)
            w.reshape(-1)[indices[place[::2]]] = 6e-8
            (alive,) = living_groups([(groups, w)])
            assert alive.tolist() == [k % 2 == 0 for k in range(len(place))]


def test_groups_that_live_are_hardly_read():
    w = np.ones((2000, 300), np.float32)
    w[living.AHEAD :] = 0.0
    lie = living._lie(pl.Groups.over(0).layout(w.shape), w.shape, (300, 1))
    bits = np.zeros(300, np.uint32)
    words = Counted(w.view(np.uint32).reshape(-1))
    living.unite_rows(words, 0, lie, 300, np.uint32(2**31 - 1), bits)
    assert words.reads == living.AHEAD * 300
    words.reads = 0
    rows = living._lie(pl.Groups.over(1).layout((300, 2000)), (300, 2000), (2000, 1))
    assert living.lives(words, 0, rows, np.uint32(2**31 - 1))
    assert words.reads == living.AHEAD + 2  # the first is read for its type


class Counted:
    """An array that counts how many of its elements are read."""

    def __init__(self, words):
        self.words, self.reads = words, 0

    def __getitem__(self, k):
        self.reads += 1
        return self.words[int(k)]


def test_threads_share_the_work(monkeypatch):
    monkeypatch.setattr(threads, "SMALL", 100)
    before = pl.get_num_threads()
    rng = np.random.default_rng(0)
    pairs = []
    for k, shape in enumerate([(7, 900), (900, 7), (3, 5, 40), (2, 300, 3), (1, 1), (600, 3)]):
        groups = pl.Groups.over(k % 2)
        pairs.append((groups, zeros_but_some(rng, groups, shape).astype(np.float32)))
    try:
        for workers in (1, 2, 5):
            pl.set_num_threads(workers)
            for (groups, w), alive in zip(pairs, living_groups(pairs), strict=True):
                assert alive.tolist() == one_by_one(groups, w)
    finally:
        pl.set_num_threads(before)
