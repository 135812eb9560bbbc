"""Arrays in blocks: certificates put together, and the prox of Dask arrays."""

import subprocess
import sys
import textwrap
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxlab as pl

pytest.importorskip("flint")
pytest.importorskip("dask")
import dask.array as da

from proxlab import study

RNG = np.random.default_rng(5)


@given(data=st.data())
def test_blocks_together_bound_what_the_whole_does(data):
    n, size = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    x, d = rng.standard_normal((n, size)), 10 ** rng.uniform(-2, 2, (n, size))
    h = data.draw(st.sampled_from([pl.GroupLasso(0.5), pl.GroupMCP(0.5, 1.0), pl.GroupLinf(0.5)]))
    z = pl.prox(h, x, 0.7, metric=d) + data.draw(st.sampled_from([0.0, 1e-9, 1e-2]))
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, n), max_size=4))), n]
    blocks = [(h, z[a:b], x[a:b], 0.7, d[a:b]) for a, b in pairwise(cuts)]
    found = study.certify_blocks(blocks)
    whole = pl.certify(h, z, x, 0.7, metric=d)
    assert (found.groups, found.undecided) == (n, int((~whole.decided).sum()))
    for name in ("distance", "metric_distance", "stationarity", "gap"):
        parts = getattr(whole, name)
        exact = parts.sum() if name == "gap" else np.sqrt((parts**2).sum())
        if np.isfinite(exact):
            assert exact * (1 - 1e-14) <= getattr(found.total, name) <= exact * (1 + 1e-12) + 1e-150
        else:
            assert np.isinf(getattr(found.total, name))


def test_arguments_of_blocks():
    h, x = pl.GroupLasso(1.0), np.ones((2, 2))
    assert study.certify_blocks([]).total == (0.0, 0.0, 0.0, 0.0)
    assert study.certify_blocks([(h, 0 * x, x)]).groups == 2
    assert study.certify_blocks([(pl.GroupLasso(9.0), 0 * x, x, 2.0)]).total.gap == 0
    with pytest.raises(TypeError, match=r"block 1 must be \(penalty, z, x, step, metric\)"):
        study.certify_blocks([(h, x, x), (x, x)])
    with pytest.raises(ValueError, match="blocks: block 1: z: must have the shape"):
        study.certify_blocks([(h, x, x), (h, x[:1], x)])


SHAPES = {
    "rows": (lambda: pl.Groups.over(-1), (12, 6), (5, 6)),
    "columns": (lambda: pl.Groups.over(0), (6, 12), (6, 5)),
    "middle axis": (lambda: pl.Groups.over(1), (6, 5, 7), (4, 5, 3)),
    "elements": (lambda: pl.Groups.over(()), (5, 7), (2, 3)),
    "filters": (lambda: pl.Groups.conv("filter"), (6, 3, 2, 2), (4, 3, 2, 2)),
    "kernels": (lambda: pl.Groups.conv("kernel"), (6, 5, 2, 2), (4, 2, 2, 2)),
    "ragged": (lambda: pl.Groups.csr([0, 3, 3, 5, 8, 11]), (12,), ((5, 3, 4),)),
    "permuted": (lambda: pl.Groups.csr([0, 2, 5, 6], [3, 0, 2, 5, 1, 9]), (12,), ((6, 6),)),
    "labels": (lambda: pl.Groups.labels(np.arange(24).reshape(6, 4) // 8 - 1), (6, 4), (2, 4)),
    "view": (lambda: pl.Groups.over((1, 2), shape=(3, 2, -1)), (6, 4), (2, 4)),
}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_prox_of_a_dask_array_is_that_of_the_array(kind, dtype):
    make, shape, chunks = SHAPES[kind]
    x = RNG.standard_normal(shape).astype(dtype)
    d = RNG.uniform(0.5, 2.0, shape).astype(dtype)
    n = make().n_groups(shape)
    h = pl.GroupLasso(0.7, groups=make(), weights=RNG.uniform(0.5, 2.0, n))
    steps = RNG.uniform(0.2, 1.0, n)
    lazy = da.from_array(x, chunks=chunks)
    whole = pl.prox(h, x, steps, metric=d)
    for metric in (d, da.from_array(d, chunks=shape)):
        z = pl.prox(h, lazy, steps, metric=metric)
        assert isinstance(z, da.Array)
        assert (z.chunks, z.dtype) == (lazy.chunks, x.dtype)
        np.testing.assert_allclose(
            z.compute(scheduler="sync"), whole, rtol=1e-6 if dtype == np.float32 else 1e-14
        )
    row = d.reshape(-1)[: shape[-1]]
    z = pl.prox(pl.GroupLasso(0.7, groups=make(), weights="sqrt_size"), lazy, 0.3, metric=row)
    expected = pl.prox(pl.GroupLasso(0.7, groups=make(), weights="sqrt_size"), x, 0.3, metric=row)
    np.testing.assert_allclose(z.compute(scheduler="sync"), expected, rtol=1e-6, atol=1e-7)


def test_nothing_is_computed_before_it_is_asked_for():
    def block(block_info=None):
        raise AssertionError("computed")

    x = da.map_blocks(block, chunks=((4, 4), (3,)), dtype=np.float64, meta=np.empty((0, 0)))
    assert pl.prox(pl.GroupLasso(1.0), x).shape == (8, 3)


@pytest.mark.parametrize(
    ("groups", "shape", "chunks", "match"),
    [
        (
            pl.Groups.over(-1),
            (4, 6),
            (2, 3),
            r"groups reach across blocks along axis 1 .* x.rechunk\(\{1: -1\}\)",
        ),
        (pl.Groups.over((0, 1)), (4, 6), (2, 3), r"axis 0, 1 .* x.rechunk\(\{0: -1, 1: -1\}\)"),
        (pl.Groups.conv("channel"), (4, 2, 3, 3), (2, 1, 3, 3), r"x.rechunk\(\{0: -1\}\)"),
        (pl.Groups.csr([0, 3, 8]), (8,), (4,), r"group 1 reaches across blocks 0 and 1 .* x.rechunk\(-1\)"),
        (pl.Groups.labels(np.zeros((4, 4), int)), (4, 4), (4, 2), r"need blocks along the first axis alone"),
    ],
)
def test_groups_that_are_cut_are_refused_with_what_to_do(groups, shape, chunks, match):
    x = da.ones(shape, chunks=chunks)
    with pytest.raises(ValueError, match=match):
        pl.prox(pl.GroupLasso(1.0, groups=groups), x)


def test_what_dask_arrays_are_not_for():
    h, x = pl.GroupLasso(1.0), da.ones((4, 4), chunks=(2, 4))
    with pytest.raises(TypeError, match="prox alone takes arrays of Dask"):
        pl.solve(h, x)
    with pytest.raises(TypeError, match=r"prox alone takes arrays of Dask.*certify_blocks"):
        pl.certify(h, x, x)
    with pytest.raises(TypeError, match="out: "):
        pl.prox(h, x, out=x)
    with pytest.raises(ValueError, match="metric: must be broadcastable"):
        pl.prox(h, x, metric=np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"step: must be a number or have shape \(n_groups,\) = \(4,\)"):
        pl.prox(h, x, np.ones(3))


@pytest.mark.slow
def test_a_hundred_million_elements_in_memory_maps(tmp_path):
    """Prox and certificate of 10⁸ elements in float32, in a process that never holds 1 GB."""
    code = """
        import resource, sys
        import dask, dask.array as da, numpy as np, proxlab as pl
        from proxlab import study

        folder, rows, size = sys.argv[1], 10**6, 100
        shape, block = (rows, size), 20_000

        def opened(name, mode):
            return np.memmap(f"{folder}/{name}", np.float32, mode, shape=shape)

        rng = np.random.default_rng(0)
        opened("x", "w+"), opened("z", "w+")
        for k in range(0, rows, block):  # maps are opened anew, so that pages read before may go
            opened("x", "r+")[k : k + block] = rng.standard_normal((block, size), dtype=np.float32)

        def read(name, k):
            return np.array(opened(name, "r")[k : k + block])

        h = pl.GroupLasso(5.0)
        chunks = ((block,) * (rows // block), (size,))
        load = lambda block_id=None: read("x", block_id[0] * block)
        x = da.map_blocks(load, chunks=chunks, dtype=np.float32, meta=np.empty((0, 0), np.float32))

        class Target:
            def __setitem__(self, where, value):
                opened("z", "r+")[where] = value

        with dask.config.set(scheduler="sync"):
            da.store(pl.prox(h, x, 1.0), Target())
        found = study.certify_blocks((h, read("z", k), read("x", k), 1.0) for k in range(0, rows, block))
        assert (found.groups, found.decided) == (rows, True)
        assert 0 < found.total.distance < 1e-2, found
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"{peak:.2f} GB", found.total)
        assert peak < 1.0, peak
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
