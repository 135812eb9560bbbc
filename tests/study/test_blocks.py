"""Arrays in blocks: certificates put together, and the prox of Dask arrays."""

import subprocess
import sys
import textwrap
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import proxlab as pl

pytest.importorskip("flint")
pytest.importorskip("dask")
import dask
import dask.array as da

from proxlab import study
from tests.table import GROUPED

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


#: Penalties that take a group whole.
WHOLE = ("GroupLinf", "GroupLog", "GroupLq")
SUMMED = [row for row in GROUPED if row.name not in WHOLE]


@st.composite
def cut_problems(draw):
    """A penalty, arrays, and random chunks, which cut groups more often than not."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    size, axes = int(np.prod(shape)), range(len(shape))
    kind = draw(st.sampled_from(["axes", "view", "labels"]))
    if kind == "axes":
        groups = pl.Groups.over(tuple(a for a in axes if draw(st.booleans())))
    elif kind == "view":
        rows = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
        groups = pl.Groups.over(draw(st.sampled_from([0, 1])), shape=(rows, -1))
    else:
        labels = draw(st.lists(st.integers(-1, 3), min_size=size, max_size=size))
        groups = pl.Groups.labels(np.reshape(labels, shape))
    chunks = []
    for n in shape:
        ends = sorted({*draw(st.lists(st.integers(1, n), max_size=3)), n})
        chunks.append(tuple(int(k) for k in np.diff([0, *ends])))
    row = draw(st.sampled_from(GROUPED if kind == "axes" else SUMMED))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    h = row.build(groups=groups, weights=rng.uniform(0.3, 2.0, groups.n_groups(shape)))
    x = rng.standard_normal(shape) * np.exp(rng.normal(0.0, 1.0, shape)) * (rng.random(shape) < 0.9)
    scale = draw(st.sampled_from([1.0, 1.0, 1e200, 1e-200]))
    if scale != 1.0:
        h = pl.GroupLasso(scale, groups=groups)
    return h, x * scale, np.exp(rng.normal(0.0, 1.0, shape)), tuple(chunks)


@given(
    cut_problems(),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from(["array", "lazy", "number"]),
    st.integers(1, 20),
)
@settings(max_examples=60)
def test_chunks_cut_groups_as_they_like(problem, dtype, metric, slab):
    h, x, d, chunks = problem
    if np.abs(x).max() > 1e38 or (0 < np.abs(x).max() < 1e-38):
        dtype = np.float64
    x, d = x.astype(dtype), d.astype(dtype)
    lazy = da.from_array(x, chunks=chunks)
    d = 0.7 if metric == "one" else d
    given_metric = da.from_array(d, chunks=-1) if metric == "lazy" else d
    steps = np.linspace(0.5, 1.0, h.groups.n_groups(x.shape))
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("proxlab.chunks.SLAB", slab)
        warnings.simplefilter("ignore")
        z = pl.prox(h, lazy, steps, metric=given_metric)
        assert isinstance(z, da.Array)
        assert (z.chunks, z.dtype, z._meta.shape) == (lazy.chunks, x.dtype, (0,) * x.ndim)
        found = z.compute(scheduler="sync")
    expected = pl.prox(h, x, steps, metric=d)
    rtol = 1e-6 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(found, expected, rtol=rtol)
    assert found.dtype == dtype


def test_sums_close_to_the_zero_test_are_as_exact_as_in_one_array():
    rng = np.random.default_rng(5)
    x, d = rng.standard_normal((40, 6)), rng.uniform(0.5, 2.0, (40, 6))
    lazy = da.from_array(x, chunks=(7, 4))
    for k in range(6):
        lam = float(np.linalg.norm((d * x)[:, k]))
        for near in (np.nextafter(lam, 0), lam, np.nextafter(lam, np.inf)):
            h = pl.GroupLasso(float(near), groups=pl.Groups.over(0))
            found = pl.prox(h, lazy, metric=d).compute(scheduler="sync")
            assert np.array_equal(found == 0, pl.prox(h, x, metric=d) == 0)


@contextmanager
def cluster():
    """A worker in a thread of this process."""
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options) as own, distributed.Client(own) as client:
        yield client


class Chunks:
    """Chunks that are counted: how many were read, and how many were there at once."""

    alive = peak = read = 0

    @classmethod
    def load(cls, block_id=None):
        found = np.random.default_rng(block_id).standard_normal((10, 10))
        cls.alive, cls.read = cls.alive + 1, cls.read + 1
        cls.peak = max(cls.peak, cls.alive)
        weakref.finalize(found, cls.gone)
        return found

    @classmethod
    def gone(cls):
        cls.alive -= 1


@pytest.mark.parametrize("scheduler", ["sync", "threads", "cluster"])
def test_passes_over_chunks_keep_none_of_them(scheduler, monkeypatch):
    """A chunk is read anew in every pass; at most those that are worked on are there at once."""
    for name in ("alive", "peak", "read"):
        monkeypatch.setattr(Chunks, name, 0)
    x = da.map_blocks(Chunks.load, chunks=((10,) * 20, (10,) * 2), dtype=float, meta=np.empty((0, 0)))
    (x,) = dask.optimize(x)  # nothing that loads is put together with what waits for the radii
    z = pl.prox(pl.GroupLasso(3.0, groups=pl.Groups.over(0)), 2.0 * x, metric=abs(x) + 1.0)
    assert Chunks.read == 0
    total = abs(z).sum(split_every=2)
    if scheduler == "cluster":
        with cluster():
            assert total.compute() > 0
    else:
        with dask.config.set(num_workers=2):
            assert total.compute(scheduler=scheduler) > 0
    assert 3 * 40 <= Chunks.read <= 10 * 40
    assert Chunks.peak <= 6, (Chunks.peak, Chunks.read)


def _sources():
    """Dask arrays of shape (40, 10) in chunks of (10, 5), whose tasks are of all kinds."""
    base = np.random.default_rng(3).standard_normal((40, 10))
    here = da.from_array(base, chunks=(10, 5))
    drawn = da.random.default_rng(0).standard_normal((40, 10), chunks=(7, 3))
    parts = [da.from_delayed(dask.delayed(np.full)((10, 10), k + 1.0), (10, 10), float) for k in range(4)]
    columns = pl.GroupLasso(0.5, groups=pl.Groups.over(0))
    changed = here.copy()
    changed[changed > 1.0] = 1.0
    return {
        "from_array": here,
        "inline": da.from_array(base, chunks=(10, 5), inline_array=True),
        "from_delayed": da.concatenate(parts),
        "random": da.random.default_rng(0).standard_normal((40, 10), chunks=(10, 5)),
        "old random": da.random.RandomState(0).standard_normal((40, 10), chunks=(10, 5)),
        "rechunk": drawn.rechunk((10, 5)),
        "optimized": dask.optimize(drawn.rechunk((10, 5)))[0],
        "without means": here - here.mean(axis=0),
        "product": here @ da.from_array(base[:10], chunks=5),
        "overlap": here.map_overlap(lambda b: 2.0 * b, depth=1, boundary="reflect"),
        "cumsum": da.cumsum(here, axis=0),
        "indices": here[np.random.default_rng(0).permutation(40)],
        "assigned": changed,
        "prox": pl.prox(columns, here),
        "persisted": here.persist(),
        "of persisted": 2.0 * here.persist(),
    }


def _agrees(x, **options):
    """Compute a prox beside what it is the prox of, and with more behind it; compare with NumPy's."""
    h = pl.GroupLasso(3.0, groups=pl.Groups.over(0))
    z = pl.prox(h, x, metric=abs(x) + 1.0)
    found, read, more = dask.compute(z, x, (abs(z) - 1.0).rechunk((20, 10)), **options)
    expected = pl.prox(h, read, metric=abs(read) + 1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(more, abs(expected) - 1.0, rtol=1e-12)


def test_arrays_are_read_again_however_they_are_made():
    for x in _sources().values():
        _agrees(x, scheduler="sync")


def test_clusters_read_again_what_they_hold_and_what_they_shuffle():
    with cluster() as client:
        sources = _sources()
        for name in ("random", "of persisted"):
            _agrees(sources[name])
        future = client.submit(np.full, (40, 10), 2.0)
        _agrees(da.from_delayed(future, (40, 10), float).rechunk((10, 5)) * sources["persisted"])
        drawn = da.random.default_rng(0).standard_normal((40, 10), chunks=(7, 3))
        _agrees(drawn.rechunk((10, 5), method="p2p"))


@pytest.mark.parametrize("scheduler", ["threads", "own pool", "cluster"])
def test_who_computes_the_result_computes_the_passes(scheduler):
    x = np.random.default_rng(0).standard_normal((60, 4))
    h = pl.GroupMCP(3.0, 3.0, groups=pl.Groups.over(0))
    z = pl.prox(h, da.from_array(x, chunks=(7, 3)))
    if scheduler == "threads":
        found = z.compute(scheduler="threads")
    elif scheduler == "own pool":
        with ThreadPoolExecutor(1) as pool, dask.config.set(pool=pool):
            found = z.compute(scheduler="threads")
    else:
        with cluster():
            found = z.compute()
    np.testing.assert_allclose(found, pl.prox(h, x), rtol=1e-13)


def test_what_is_wrong_where_chunks_cut_groups():
    columns, x = pl.GroupLasso(1.0, groups=pl.Groups.over(0)), np.ones((4, 3))
    lazy = da.from_array(x, chunks=(2, 3))
    for options, match in (
        ({"step": 0.0}, "step: "), ({"step": np.ones(2)}, "step: "), ({"metric": -1.0}, "metric: "),
        ({"backend": "numba"}, 'backend: must be None or "array_api"'), ({"backend": "other"}, "backend: "),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            pl.prox(columns, lazy, **options)
    with pytest.raises(TypeError, match="x: must have a real floating-point dtype"):
        pl.prox(columns, da.ones((4, 3), chunks=(2, 3), dtype=int))
    for where, match in (("x", "x: must be finite"), ("metric", "metric: must be finite and > 0")):
        given = {"x": x, "metric": np.ones((4, 3))}
        given[where] = np.where(np.arange(12).reshape(4, 3) == 10, np.nan, given[where])
        d = da.from_array(given["metric"], chunks=2)
        z = pl.prox(columns, da.from_array(given["x"], chunks=(2, 3)), metric=d)
        with pytest.raises(ValueError, match=match):
            z.compute(scheduler="sync")
    wide = np.array([[1e-200, 1.0], [1e200, 1.0]])
    d = np.array([[1e300, 1.0], [1e-100, 1.0]])
    z = pl.prox(columns, da.from_array(wide, chunks=(1, 2)), metric=d)
    with pytest.raises(ValueError, match=r"of group 0 spread too far .* rechunk"):
        z.compute(scheduler="sync")
    h = pl.GroupLinf(1.0, groups=pl.Groups.csr([0, 3, 8]))
    with pytest.raises(ValueError, match=r"which GroupLinf takes whole; rechunk first .* x.rechunk\(-1\)"):
        pl.prox(h, da.ones(8, chunks=4))


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
