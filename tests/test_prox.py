"""prox and solve on whole arrays: groups, layouts in memory, dtypes, array libraries, magnitudes."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxlab as pl
from tests.cases import Case
from tests.checks import check_close
from tests.table import BACKENDS, DTYPES, GROUPED, GROUPS, PENALTIES, ids

backends = pytest.mark.parametrize("backend", BACKENDS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)
every_penalty = pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))
ROUNDING = {np.dtype(np.float32): 2e-7, np.dtype(np.float64): 1e-14}


def data(shape, dtype=np.float64, seed=0):
    """A point and a metric over two decades."""
    rng = np.random.default_rng(seed)
    x, d = rng.normal(size=shape), 10 ** rng.uniform(-1, 1, size=shape)
    return x.astype(dtype), d.astype(dtype)


def check_groups(row, groups, weights, z, x, d, step):
    """Every group of an array has its true prox; what is in no group is left alone."""
    indptr, indices = groups.indices(x.shape)
    steps = np.broadcast_to(step, len(indptr) - 1)
    for g in range(len(indptr) - 1):
        member = indices[indptr[g] : indptr[g + 1]]
        weight = 1.0 if weights is None else np.sqrt(len(member)) if isinstance(weights, str) else weights[g]
        if len(member):
            points = (a.ravel()[member].astype(np.float64) for a in (x, d))
            case = Case(row.name, row.parameters, *points, float(steps[g]), float(weight))
            check_close(z.ravel()[member], case, ROUNDING[z.dtype])
    free = np.setdiff1d(np.arange(x.size), indices)
    np.testing.assert_array_equal(z.ravel()[free], x.ravel()[free])


#: Groups for which the CPU's kernels are compiled in every run, in float64; make test-kernels has all.
COMPILED = {"rows", "elements", "ragged", "permuted", "labels"}


def left_to_test_kernels(kind, dtype, backend):
    return backend == "numba" and (dtype is np.float32 or kind not in COMPILED)


@pytest.mark.parametrize(
    ("kind", "dtype", "backend"),
    [
        pytest.param(*case, marks=[pytest.mark.kernels] if left_to_test_kernels(*case) else [])
        for case in itertools.product(GROUPS, DTYPES, BACKENDS)
    ],
)
def test_groups_of_every_kind(kind, dtype, backend):
    make, shape = GROUPS[kind]
    groups = make()
    n_groups = groups.n_groups(shape)
    x, d = data(shape, dtype)
    step = np.linspace(0.3, 1.2, n_groups)
    for row, weights in zip(
        GROUPED, [None, "sqrt_size", np.linspace(0.5, 2.0, n_groups)] * len(GROUPED), strict=False
    ):
        penalty = row.build(groups=groups, weights=weights)
        z = pl.prox(penalty, x, step, metric=d, backend=backend)
        assert z.dtype == dtype
        assert z.shape == shape
        check_groups(row, groups, weights, z, x, d, step)


@every_penalty
def test_array_libraries(row, xp):
    """The array form over each library gives what it gives over NumPy, in arrays of that library."""
    x, d = data((3, 4))
    penalty = row.build()
    expected = pl.solve(penalty, x, 0.7, metric=d, backend="array_api")
    given_x, given_d = xp.asarray(x), xp.asarray(d)
    solution = pl.solve(penalty, given_x, 0.7, metric=given_d, backend="array_api")
    for name in ("z", "radius", "value"):
        found = xp.to_numpy(getattr(solution, name))
        np.testing.assert_allclose(found, getattr(expected, name), rtol=1e-14, atol=1e-15, err_msg=name)
    np.testing.assert_array_equal(xp.to_numpy(solution.status), expected.status)
    np.testing.assert_array_equal(xp.to_numpy(given_x), x)
    envelope = xp.to_numpy(pl.envelope(penalty, given_x, 0.7, metric=given_d))
    np.testing.assert_allclose(envelope, pl.envelope(penalty, x, 0.7, metric=d), rtol=1e-13)
    distance = xp.to_numpy(penalty.subdiff_distance(xp.asarray(d * (expected.z - x) / 0.7), solution.z))
    np.testing.assert_allclose(distance, 0, atol=1e-13)


@pytest.mark.parametrize("kind", GROUPS)
def test_groups_over_array_libraries(kind, xp):
    make, shape = GROUPS[kind]
    x, d = data(shape)
    penalty = pl.GroupLasso(0.5, groups=make(), weights="sqrt_size")
    z = pl.prox(penalty, xp.asarray(x), metric=xp.asarray(d))
    np.testing.assert_allclose(xp.to_numpy(z), pl.prox(penalty, x, metric=d), rtol=1e-13, atol=1e-15)


@every_penalty
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtype_in_is_dtype_out(row, dtype, xp):
    if not hasattr(xp.module, dtype):
        pytest.skip(f"{xp.name} has no {dtype}")
    x, d = data((2, 5), np.dtype(dtype))
    z = pl.prox(row.build(), xp.asarray(x), 0.5, metric=xp.asarray(d))
    assert z.dtype == xp.asarray(x).dtype
    exact = pl.prox(row.build(), x.astype(np.float64), 0.5, metric=d.astype(np.float64))
    eps = 4 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(xp.to_numpy(z).astype(np.float64), exact, rtol=eps, atol=eps * 1e-3)


@pytest.mark.torch
def test_bfloat16():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = torch.linspace(-1, 1, 12, dtype=torch.bfloat16).reshape(3, 4)
    z = pl.prox(pl.GroupLasso(0.3), x, metric=torch.full_like(x, 0.5))
    assert z.dtype == torch.bfloat16
    exact = pl.prox(pl.GroupLasso(0.3), x.double(), metric=0.5)
    torch.testing.assert_close(z.double(), exact, rtol=2**-7, atol=0)


LAYOUTS = {
    "fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(np.repeat(a, 2, 0), 3, 1)[::2, ::3],
    "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "offset": lambda a: np.pad(a, 1)[1:-1, 1:-1],
    "read-only": lambda a: np.lib.stride_tricks.as_strided(a, writeable=False),
    "unaligned": lambda a: (
        np.frombuffer(b"\0" + a.tobytes(), dtype=np.uint8)[1:].view(a.dtype).reshape(a.shape)
    ),
}


@backends
@dtypes
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_in_memory(layout, axis, dtype, backend):
    x, d = data((6, 7), dtype)
    penalty = pl.GroupLasso(0.5, groups=pl.Groups.over(axis))
    expected = pl.prox(penalty, x, metric=d, backend=backend)
    laid_x, laid_d = LAYOUTS[layout](x), LAYOUTS[layout](d)
    z = pl.prox(penalty, laid_x, metric=laid_d, backend=backend)
    # a strided group is summed in another order
    np.testing.assert_allclose(z, expected, rtol=ROUNDING[z.dtype])
    np.testing.assert_array_equal(laid_x, x)
    out = LAYOUTS[layout](np.zeros_like(x)) if layout not in ("read-only", "unaligned") else np.zeros_like(x)
    assert pl.prox(penalty, laid_x, metric=laid_d, backend=backend, out=out) is out
    np.testing.assert_array_equal(out, z)


@backends
@every_penalty
@pytest.mark.parametrize("axis", [0, 1])
def test_out_may_be_x(row, axis, backend):
    x, d = data((5, 6))
    penalty = row.build() if row.name == "L1" else row.build(groups=pl.Groups.over(axis))
    expected = pl.prox(penalty, x, metric=d, backend=backend)
    assert pl.prox(penalty, x, metric=d, backend=backend, out=x) is x
    # strided groups are solved in another way where they cannot be streamed
    np.testing.assert_allclose(x, expected, rtol=1e-14)


@backends
@pytest.mark.parametrize("axis", [0, 1])
def test_out_may_be_the_metric_or_overlap_x(axis, backend):
    x, d = data((5, 6))
    penalty = pl.GroupMCP(0.8, 1.3, groups=pl.Groups.over(axis))
    expected = pl.prox(penalty, x, metric=d, backend=backend)
    metric = d.copy()
    assert pl.prox(penalty, x, metric=metric, backend=backend, out=metric) is metric
    np.testing.assert_allclose(metric, expected, rtol=1e-14)
    memory = np.concatenate([x, x[:1]])
    pl.prox(penalty, memory[:-1], metric=d, backend=backend, out=memory[1:])
    np.testing.assert_allclose(memory[1:], expected, rtol=1e-14)
    point = x.copy()
    pl.prox(penalty, point, metric=d, backend=backend, out=point[::-1])
    np.testing.assert_allclose(point[::-1], expected, rtol=1e-14)


@backends
@every_penalty
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_arrays_without_elements(row, backend, data, dtype):
    """No groups, or groups of nothing: everything has an answer, which is as empty as the question."""
    # Groups of nothing are as many as the other axes say: two long ones at most.
    sizes = (
        st.lists(st.sampled_from((1, 2, 70, 200)), max_size=2),
        st.lists(st.sampled_from((0, 1, 2)), max_size=2),
    )
    shape = tuple(data.draw(st.permutations([0, *data.draw(sizes[0]), *data.draw(sizes[1])]), label="shape"))
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1)), label="axes")
    weights = data.draw(st.sampled_from((None, "sqrt_size")), label="weights")
    grouped = row.name != "L1"
    penalty = row.build(**({"groups": pl.Groups.over(tuple(axes)), "weights": weights} if grouped else {}))
    x = np.zeros(shape, dtype)
    metric = data.draw(st.sampled_from((None, 2.0, x)), label="metric")
    count = int(np.prod([n for k, n in enumerate(shape) if k not in axes])) if grouped else 0
    given = {"metric": metric, "backend": backend}
    for z in (pl.prox(penalty, x, **given), pl.prox(penalty, x, out=x.copy(), **given)):
        assert (z.shape, z.dtype) == (shape, dtype)
    s, certificate = pl.solve(penalty, x, **given), pl.certify(penalty, x, x, **given)
    for a in (s.radius, *s.bracket, s.status, s.iterations, s.evaluations, s.value, certificate.distance):
        assert a.shape == (count,)
    assert not s.radius.any()
    assert certificate.decided.all()
    assert set(certificate.total) == {0.0}
    assert penalty(s.z) == 0.0


@backends
@pytest.mark.parametrize("shape", [(3, 4), (4,), (1, 4), (3, 1), (1, 1), (1,), ()])
def test_metric_broadcasts(shape, backend):
    x, _ = data((3, 4))
    metric = data(shape)[1]
    z = pl.prox(pl.GroupLasso(0.4), x, 0.5, metric=metric, backend=backend)
    full = np.ascontiguousarray(np.broadcast_to(metric, x.shape))
    np.testing.assert_array_equal(z, pl.prox(pl.GroupLasso(0.4), x, 0.5, metric=full, backend=backend))


@backends
def test_an_array_without_dimensions(backend):
    z = pl.prox(pl.L1(0.5), np.array(2.0), metric=np.array(2.0), backend=backend)
    assert isinstance(z, np.ndarray)
    assert z.shape == ()
    assert z == 1.75


@backends
def test_metric_defaults_to_the_identity(backend):
    x, _ = data((3, 4))
    expected = pl.prox(pl.GroupLasso(0.4), x, metric=np.ones_like(x), backend=backend)
    np.testing.assert_array_equal(pl.prox(pl.GroupLasso(0.4), x, backend=backend), expected)
    np.testing.assert_array_equal(pl.prox(pl.GroupLasso(0.4), x, metric=1, backend=backend), expected)


EXPONENTS = st.one_of(st.sampled_from([-322, -308, -160, 0, 150, 307]), st.integers(-322, 307))


@backends
@every_penalty
@given(
    seed=st.integers(0, 99),
    x_scale=EXPONENTS,
    d_scale=EXPONENTS,
    step=st.integers(-300, 300),
    ratio=st.floats(-3, 1),
)
def test_any_magnitude(row, backend, seed, x_scale, d_scale, step, ratio):
    """No NaN, no infinity and no warning (they are errors) comes out of finite input, however large."""
    rng = np.random.default_rng(seed)
    with np.errstate(under="ignore"):
        x = rng.normal(size=(2, 3)) * 10.0**x_scale
        d = np.maximum(rng.uniform(0.1, 10, size=(2, 3)) * 10.0**d_scale, 5e-324)
    step = 10.0**step
    # A strength near the threshold where that is in range; otherwise an extreme one, which has to work too.
    exponent = np.clip(x_scale + d_scale + ratio - np.log10(step), -323, 307)
    parameters = {k: 10.0**exponent if k.startswith("lam") else v for k, v in row.parameters.items()}
    if row.name == "GroupCapped":
        parameters["theta"] = 10.0 ** float(np.clip(x_scale, -300, 300))
    s = pl.solve(row.build(parameters), x, step, metric=d, backend=backend)
    for a in (s.z, s.radius, *s.bracket):
        assert np.isfinite(a).all()
    assert (np.abs(s.z) * (1 - 2**-52) <= np.abs(x) + 5e-324).all()
    assert (s.z * np.sign(x) >= 0).all()
    lower, upper = s.bracket
    assert (lower <= s.radius).all()
    assert (s.radius <= upper).all()


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e-160, 1e160, 1e300])
@every_penalty
@backends
def test_extreme_points_are_solved_accurately(row, scale, backend):
    """The problem scales: x and lengths by c, strengths by c (the metric is fixed)."""
    x, d = data((1, 4))
    with np.errstate(under="ignore"):
        x = x * scale
    lengths = {"lam": scale, "lam1": scale, "lam2": scale, "theta": scale, "eps": scale}
    if row.name in ("GroupL0", "GroupLog") and not 1e-150 < scale < 1e150:
        pytest.skip("the strength, of the size of x², is out of range")
    parameters = {k: v * lengths[k] if k in lengths else v for k, v in row.parameters.items()}
    case = Case(row.name, parameters, x[0], d[0], 1.0)
    z = pl.prox(row.build(parameters), x, metric=d, backend=backend)
    assert (np.abs(z[0] - case.answer.z) <= case.tolerance() + 2e-323).all()


def test_a_million_groups():
    rng = np.random.default_rng(0)
    x = rng.normal(size=1_000_000)
    z = pl.prox(pl.GroupLasso(0.5, groups=pl.Groups.over(())), x)
    np.testing.assert_allclose(z, np.sign(x) * np.maximum(np.abs(x) - 0.5, 0), atol=1e-15)
    s = pl.solve(pl.GroupLasso(10.0, groups=pl.Groups.over(0)), x)
    np.testing.assert_allclose(s.radius, np.linalg.norm(x) - 10.0, rtol=1e-13)


def test_solution_is_frozen_and_complete():
    x, d = data((3, 4))
    s = pl.solve(pl.GroupLasso(0.8), x, metric=d)
    with pytest.raises(AttributeError):
        s.z = x
    np.testing.assert_allclose(s.radius, np.linalg.norm(s.z, axis=1), rtol=1e-14)
    np.testing.assert_allclose(s.value, 0.8 * np.linalg.norm(s.z, axis=1), rtol=1e-14)
    assert s.ok
