"""Copies of groups that are no rows, against NumPy's transposition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxlab.backends import copies, threads
from proxlab.backends.copies import group_rows, over_copies

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70), st.integers(1, 4))


def arrays_of(shape, count, dtype="f8"):
    """Return arrays whose elements all differ."""
    size = int(np.prod(shape))
    return [k * size + np.arange(size, dtype=dtype).reshape(shape) for k in range(count)]


def rows_of(a):
    """Return each group as a row."""
    outer, height, inner, run = a.shape
    return a.transpose(0, 2, 1, 3).reshape(outer * inner, height * run)


@pytest.fixture(params=[1, 3])
def shared(request, monkeypatch):
    """Share work among so many threads, however small it is."""
    monkeypatch.setattr(threads, "SMALL", 1)
    monkeypatch.setattr(threads, "get_num_threads", lambda: request.param)


@given(SIZES, st.integers(0, 2), st.sampled_from(["f4", "f8"]), st.sampled_from([1, 2000, copies.CACHED]))
@pytest.mark.usefixtures("shared")
def test_work_gets_groups_as_rows_and_what_it_fills_goes_back(shape, results, dtype, cached):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "CACHED", cached)
        sources, filled = arrays_of(shape, 2, dtype), [np.zeros(shape, dtype) for _ in range(results)]
        expected, seen = [rows_of(a) for a in sources], np.zeros(shape[0] * shape[2], int)

        def work(low, high, *rows):
            seen[low:high] += 1
            assert len(rows) == 2 + results
            assert max(high - low, 1) * expected[0].shape[1] <= max(
                cached, copies.TILE * expected[0].shape[1]
            )
            for given_rows, true in zip(rows[:2], expected, strict=True):
                assert not given_rows.flags.writeable
                np.testing.assert_array_equal(given_rows, true[low:high])
            for k, row in enumerate(rows[2:]):
                row[...] = rows[k] + 0.5
            return -1

        assert over_copies(shape, sources, filled, work) == -1
        assert (seen == 1).all()
        for source, result in zip(sources, filled, strict=False):
            np.testing.assert_array_equal(result, source + source.dtype.type(0.5))


@given(SIZES, st.integers(0, 2**32 - 1))
@pytest.mark.usefixtures("shared")
def test_the_first_invalid_group_is_told(shape, seed):
    bad = np.random.default_rng(seed).random(shape[0] * shape[2]) < 0.1

    def work(low, high, rows):
        found = np.flatnonzero(bad[low:high])
        return int(found[0]) if len(found) else -1

    expected = int(np.argmax(bad)) if bad.any() else -1
    assert over_copies(shape, arrays_of(shape, 1), (), work) == expected


@given(SIZES, st.integers(0, 2**32 - 1))
def test_some_groups_as_rows(shape, seed):
    (a,) = arrays_of(shape, 1)
    chosen = np.flatnonzero(np.random.default_rng(seed).random(shape[0] * shape[2]) < 0.5)
    np.testing.assert_array_equal(group_rows(a, shape, chosen), rows_of(a)[chosen])
