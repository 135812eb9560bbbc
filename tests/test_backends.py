"""The compiled backend against the array form, under threads, forks and a cold disk cache."""

import gc
import itertools
import math
import os
import re
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.core.registry import CPUDispatcher

import proxlab as pl
from proxlab.backends import numba_certify, numba_cpu
from proxlab.backends import threads as workers
from proxlab.backends.disk_cache import KernelCache
from tests.cases import cases
from tests.table import DTYPES, GROUPED, ROOT_FINDERS, TABLED, ids

every_penalty = pytest.mark.parametrize("row", TABLED, ids=ids(TABLED))


@every_penalty
@given(data=st.data())
def test_backends_agree(row, data):
    case = data.draw(cases(row))
    if not case.unique:
        return
    penalty = row.build(case.parameters)
    for finder in (pl.Newton(), pl.Brent()):
        options = {"metric": case.d[None], "root_finder": finder}
        fast = pl.solve(penalty, case.x[None], case.step, backend="numba", **options)
        plain = pl.solve(penalty, case.x[None], case.step, backend="array_api", **options)
        assert (np.abs(fast.z - plain.z) <= 2 * case.tolerance()).all()
        np.testing.assert_array_equal(fast.status, plain.status)
        # each bracket contains the truth, so they meet
        assert (
            np.maximum(fast.bracket[0], plain.bracket[0]) <= np.minimum(fast.bracket[1], plain.bracket[1])
        ).all()


def large(axis=1, seed=0):
    rng = np.random.default_rng(seed)
    penalty = pl.GroupLasso(2.0, groups=pl.Groups.over(axis))
    return penalty, rng.normal(size=(600, 700)), np.exp(rng.normal(size=(600, 700)))


@pytest.fixture
def threads():
    """Restores the number of threads."""
    before = pl.get_num_threads()
    yield
    pl.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("axis", [0, 1])
def test_the_number_of_threads_changes_nothing(axis):
    penalty, x, d = large(axis)
    results = []
    for n in (1, 2, 5):
        pl.set_num_threads(n)
        assert pl.get_num_threads() == n
        results.append(pl.prox(penalty, x, metric=d))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    np.testing.assert_allclose(results[0], pl.prox(penalty, x, metric=d, backend="array_api"), rtol=1e-12)


def is_certified_compiled(penalty):
    return numba_certify.applies(penalty, penalty.groups.layout((2, 3)))


#: Penalties that have kernels for columns, with :class:`~proxlab.Newton`.
BY_COLUMNS = ("GroupLasso", "GroupElasticNet", "GroupMCP", "GroupSCAD", "GroupCapped", "GroupL0")
SIZES = st.one_of(st.integers(1, 12), st.integers(60, 68), st.integers(124, 132))


@pytest.mark.usefixtures("threads")
@given(
    row=st.sampled_from([row for row in GROUPED if is_certified_compiled(row.build())]),
    outer=st.integers(1, 3), rows=SIZES, inner=SIZES, run=st.sampled_from((1, 1, 2, 9)),
    dtype=st.sampled_from((np.float32, np.float64)), threads=st.sampled_from((1, 2, 5)),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_groups_are_certified_the_same_however_they_lie(row, outer, rows, inner, run, dtype, threads, seed):
    """Those that are no rows are copied, so that what is proved of them is that of rows, to the bit."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(outer, rows, inner, run)).astype(dtype)
    d = np.exp(rng.normal(size=x.shape)).astype(dtype)
    across, within = (row.build(groups=pl.Groups.over(axes)) for axes in ((1, 3), (2, 3)))
    # Near the threshold of a group.
    x *= dtype(across.strength / math.sqrt(rows * run) * 10.0 ** rng.uniform(-1, 1))
    z = pl.prox(across, x, metric=d)
    z *= (1.0 + 0.01 * rng.normal(size=x.shape) * (rng.random(size=(outer, 1, inner, 1)) < 0.5)).astype(dtype)
    pl.set_num_threads(threads)
    lying = pl.certify(across, z, x, metric=d)
    laid = [np.ascontiguousarray(a.swapaxes(1, 2)) for a in (z, x, d)]
    plain = pl.certify(within, laid[0], laid[1], metric=laid[2])
    for name in ("distance", "metric_distance", "stationarity", "gap", "decided"):
        np.testing.assert_array_equal(
            np.ravel(getattr(lying, name)), np.ravel(getattr(plain, name)), err_msg=name
        )


@pytest.mark.usefixtures("threads")
@given(
    row=st.sampled_from(GROUPED), outer=st.sampled_from((1, 3)), rows=SIZES, inner=SIZES,
    run=st.sampled_from((1, 1, 2, 9)), dtype=st.sampled_from(DTYPES), threads=st.sampled_from((1, 2, 5)),
    finder=st.sampled_from((pl.Newton(), pl.Newton(atol=1e-9))),
    metric=st.sampled_from(("dense", "scalar")), seed=st.integers(0, 99),
)  # fmt: skip
def test_groups_are_solved_the_same_however_they_lie(
    row, outer, rows, inner, run, dtype, threads, finder, metric, seed
):
    """Groups that are zero and groups that spread too far among them, and in place."""
    rng = np.random.default_rng(seed)
    count, size = outer * inner, rows * run
    x = rng.normal(size=(outer, rows, inner, run)).astype(dtype)
    x *= rng.choice([0.0, 0.3, 3.0], (outer, 1, inner, 1)).astype(dtype)
    d = np.exp(rng.normal(size=x.shape)).astype(dtype) if metric == "dense" else 0.7
    if dtype == np.float64 and metric == "dense":
        x[0, 0, 0, 0], d[0, 0, 0, 0], d[0, -1, 0, -1] = 1e-250, 1e250, 1e-200
    step, weights = rng.uniform(0.1, 1.0, count), rng.uniform(0.5, 2.0, count)
    across, within = (row.build(groups=pl.Groups.over(axes), weights=weights) for axes in ((1, 3), -1))

    def laid(a):
        return a.swapaxes(1, 2).reshape(count, size) if np.ndim(a) else a

    plain = pl.solve(within, laid(x), step, metric=laid(d), root_finder=finder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "SMALL", 1)
        patch.setattr(numba_cpu, "FEW", 0)
        pl.set_num_threads(threads)
        lying = pl.solve(across, x, step, metric=d, root_finder=finder)
        found = pl.prox(across, x, step, metric=d, root_finder=finder, out=x)
    np.testing.assert_array_equal(found, lying.z)
    # Newton's method over columns begins elsewhere.
    by_columns = metric == "dense" and finder == pl.Newton() and row.name in BY_COLUMNS
    near = 64 * np.finfo(dtype).eps if by_columns else 0.0
    for mine, other in ((laid(lying.z), plain.z), (lying.radius, plain.radius)):
        np.testing.assert_allclose(mine, other, rtol=near, atol=near * np.abs(other).max())
    np.testing.assert_array_equal(lying.status, plain.status)


def test_calls_from_many_threads_at_once():
    problems = [large(axis, seed) for axis in (0, 1) for seed in range(4)]
    expected = [pl.prox(penalty, x, metric=d) for penalty, x, d in problems]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            found = list(pool.map(lambda p: pl.prox(p[0], p[1], metric=p[2]), problems))
            for z, truth in zip(found, expected, strict=True):
                np.testing.assert_array_equal(z, truth)


def run(code, timeout=300, **environment):
    """Run Python code in a fresh process; returns what it printed."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=root,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_fork_after_a_first_call():
    """The pool's threads do not exist in the child, which has to make its own."""
    code = """
        import multiprocessing, warnings
        import numpy as np, proxlab as pl
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what is tested
        pl.set_num_threads(2)
        x = np.random.default_rng(0).normal(size=(600, 700))
        penalty = pl.GroupLasso(2.0)
        expected = pl.prox(penalty, x)

        def child(queue):
            queue.put(bool((pl.prox(penalty, x) == expected).all()))

        context = multiprocessing.get_context("fork")
        for _ in range(2):
            queue = context.Queue()
            process = context.Process(target=child, args=(queue,))
            process.start()
            print(queue.get(timeout=60))
            process.join()
            assert (pl.prox(penalty, x) == expected).all()
    """
    assert run(code, timeout=200).split() == ["True", "True"]


@pytest.mark.parametrize("setting", ["²", "٢", "0", "-1", "1.5", "two", " "])
def test_a_number_of_threads_that_is_none(setting, monkeypatch):
    monkeypatch.setattr("proxlab.backends.threads._wanted", None)
    monkeypatch.setenv("PROXLAB_NUM_THREADS", setting)
    with pytest.raises(ValueError, match="PROXLAB_NUM_THREADS: must be a positive integer"):
        pl.prox(pl.GroupLasso(1.0), np.ones((2, 3)))


EVERY_KERNEL = """
    import numpy as np, proxlab as pl
    from tests.table import ROOT_FINDERS, TABLED
    rng = np.random.default_rng(0)
    x, d = rng.normal(size=(40, 5)), np.exp(rng.normal(size=(40, 5)))
    counts = set()
    finders = [f for f in ROOT_FINDERS if type(f).__name__ in {names}]
    for finder in finders:
        spent = []
        for row in TABLED:
            s = pl.solve(row.build(), x, 0.7, metric=d, root_finder=finder, backend="numba")
            t = pl.solve(row.build(), x, 0.7, metric=d, root_finder=finder, backend="array_api")
            np.testing.assert_allclose(s.z, t.z, rtol=1e-12, atol=1e-14, err_msg=f"{{row.id}} {{finder}}")
            spent.append(int(s.iterations.sum()))
        print(finder, spent)
        counts.add(tuple(spent))
    # a root finder taken for another converges too: only its iterations tell
    assert len(counts) == len(finders), counts
"""


def test_kernels_are_compiled_once_whatever_may_be_written():
    """Read-only arrays are of another type to Numba, and another kernel takes seconds."""
    rng = np.random.default_rng(0)
    x, d = rng.normal(size=(8, 5)), np.exp(rng.normal(size=(8, 5)))
    arrays = [x, d, np.ones(8), np.linspace(0.5, 2.0, 8), np.array([0, 3, 8, 40]), np.arange(40)]
    for locked in itertools.product([False, True], repeat=3):
        one, two, three = locked
        made = [a.copy() for a in arrays]
        for a, lock in zip(made, (one, two, three, one, two, three), strict=True):
            a.flags.writeable = not lock
        point, metric, step, weights, indptr, indices = made
        for penalty in (
            pl.GroupLasso(0.5),
            pl.GroupLasso(0.5, weights=weights),
            pl.GroupLasso(0.5, groups=pl.Groups.over(0)),
            pl.GroupLasso(0.5, groups=pl.Groups.csr(indptr, indices)),
            pl.GroupLasso(0.5, groups=pl.Groups.csr(indptr, indices), weights=weights[:3]),
            pl.GroupLog(0.5, eps=1.0, weights=weights),
            pl.L1(0.5),
        ):
            steps = step if penalty.groups == pl.Groups.over(-1) else 1.0
            z = pl.prox(penalty, point, steps, metric=metric)
            z.flags.writeable = not three
            pl.certify(penalty, z, point, steps, metric=metric)
            pl.optim.vanishing_strength(penalty, point, metric=metric)
    # Of others' objects the type alone may be asked for.
    kernels = [k for k in gc.get_objects() if issubclass(type(k), CPUDispatcher)]
    kernels = [k for k in kernels if isinstance(k._cache, KernelCache)]
    assert len(kernels) >= 5
    for kernel in kernels:
        kinds = [re.sub(r"readonly |(True|False), (?=aligned)", "", str(kind)) for kind in kernel.signatures]
        assert len(kinds) == len(set(kinds)), (kernel.py_func.__name__, kernel.signatures)


@pytest.mark.kernels
def test_every_penalty_and_root_finder_from_the_disk_cache():
    """In a process that finds the kernels that this suite has built."""
    names = [type(f).__name__ for f in ROOT_FINDERS]
    x = np.ones((1, 5))
    for finder in ROOT_FINDERS:
        for penalty in (pl.GroupLasso(0.5), pl.GroupLinf(0.5)):
            pl.solve(penalty, x, root_finder=finder)
    assert len(run(EVERY_KERNEL.format(names=names)).splitlines()) == len(ROOT_FINDERS)


@pytest.mark.kernels
def test_cold_and_warm_disk_cache(tmp_path):
    """Numba keys its cache on file, name and line: kernels built from one source must not share an entry."""
    code = EVERY_KERNEL.format(names=["Newton", "Bisection"])
    cold = run(code, NUMBA_CACHE_DIR=str(tmp_path))
    assert len(cold.splitlines()) == 2
    built = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nbc")}
    assert built
    assert run(code, NUMBA_CACHE_DIR=str(tmp_path)) == cold
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nbc")} == built


def test_the_first_build_is_said_once(tmp_path):
    code = """
        import logging, numpy as np, proxlab as pl
        logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s", filename="{log}")
        for _ in range(2):
            pl.prox(pl.L1(0.5), np.ones((2, 3)))
        print(open("{log}").read().count("compiling kernels"))
    """
    code = code.format(log=tmp_path / "log")
    assert run(code, NUMBA_CACHE_DIR=str(tmp_path)) == "1"


@pytest.mark.parametrize("row", TABLED[2:], ids=ids(TABLED[2:]))
def test_float32_is_solved_in_float64(row):
    """A float32 result is the float64 one, rounded once."""
    rng = np.random.default_rng(3)
    x, d = (rng.normal(size=(6, 5)).astype(np.float32), np.exp(rng.normal(size=(6, 5))).astype(np.float32))
    exact = pl.prox(row.build(), x.astype(np.float64), 0.5, metric=d.astype(np.float64))
    for backend in ("numba", "array_api"):
        z = pl.prox(row.build(), x, 0.5, metric=d, backend=backend)
        np.testing.assert_allclose(z, exact, rtol=2.0**-23)
