"""Arrays as people have them: byte orders, masks, subclasses, memory maps; and states that do not belong."""

import numpy as np
import pytest

import proxlab as pl
from proxlab import optim
from tests.optim.methods import METHODS
from tests.table import BACKENDS, GROUPS, PENALTIES, ids

X = np.array([[1.0, -2.0, 3.0], [0.1, 0.2, 0.05], [4.0, 5.0, -6.0]])
D = np.array([[1.0, 0.5, 2.0], [3.0, 1.0, 1.0], [0.2, 4.0, 1.0]])
STEP = np.array([0.5, 1.0, 2.0])
LASSO = pl.GroupLasso(0.7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_other_byte_orders_give_the_same_numbers_in_their_order(row, kind, backend):
    h = row.build()
    there, here = np.dtype(kind).newbyteorder("S"), np.dtype(kind)
    step = 0.5 if row.name == "L1" else STEP
    x, d = X.astype(here), D.astype(here)
    expected = pl.solve(h, x, step, metric=d, backend=backend)
    for xt, dt in ((there, there), (there, here), (here, there)):
        s = pl.solve(h, x.astype(xt), step, metric=d.astype(dt), backend=backend)
        assert s.z.dtype == xt
        np.testing.assert_array_equal(s.z, expected.z)
        np.testing.assert_array_equal(s.radius, expected.radius)
    mine = x.astype(there)
    assert pl.prox(h, mine, step, metric=d, backend=backend, out=mine) is mine
    np.testing.assert_array_equal(mine, expected.z)
    c = pl.certify(h, mine, x.astype(there), step, metric=d.astype(there), backend=backend)
    e = pl.certify(h, expected.z, x, step, metric=d, backend=backend)
    np.testing.assert_allclose(c.distance, e.distance, rtol=1e-3)
    g, f = (pl.prox_vjp(h, a, step, metric=d)[1](X.astype(a.dtype)) for a in (x.astype(there), x))
    assert g.x.dtype == there
    np.testing.assert_array_equal(g.x, f.x)
    np.testing.assert_array_equal(h.value(mine), h.value(expected.z))


def test_steps_and_weights_in_another_byte_order():
    order = np.dtype("f8").newbyteorder("S")
    h = pl.GroupLasso(0.7, weights=STEP.astype(order))
    np.testing.assert_array_equal(
        pl.prox(h, X, STEP.astype(order)), pl.prox(pl.GroupLasso(0.7, weights=STEP), X, STEP)
    )
    labels = np.array([[0, 0, 1], [1, 0, 1], [2, 2, 2]])
    swapped = pl.Groups.labels(labels.astype(labels.dtype.newbyteorder("S")))
    np.testing.assert_array_equal(
        pl.prox(pl.GroupLasso(0.7, groups=swapped), X),
        pl.prox(pl.GroupLasso(0.7, groups=pl.Groups.labels(labels)), X),
    )


@pytest.mark.parametrize("name", METHODS)
def test_optimizers_keep_the_byte_order(name):
    swapped = X.dtype.newbyteorder("S")
    runs = []
    for dtype in (X.dtype, swapped):
        optimizer, w = METHODS[name](), X.astype(dtype)
        state = optimizer.init(w, LASSO)
        for g in (D, X, D[::-1]):
            w, state = optimizer.step(w, g.astype(dtype), state)
            assert w.dtype == dtype
        runs.append(w)
    np.testing.assert_array_equal(*runs)


class Quantity(np.ndarray):
    """Stands for arrays with units."""


FOREIGN = {
    "masked": np.ma.masked_greater(X, 3.0),
    "unmasked": np.ma.masked_array(X),
    "matrix": np.asmatrix(X),
    "quantity": X.view(Quantity),
}


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("kind", FOREIGN)
def test_arrays_that_mean_more_are_refused_wherever_they_come(kind):
    a = FOREIGN[kind]
    criterion = pl.inexactness.RelativeDistance(0.5)
    row = a[0] if a[0].ndim == 1 else a
    optimizer = optim.ProxAdam()
    state = optimizer.init(X, LASSO)
    calls = {
        "x": [
            lambda: pl.prox(LASSO, a),
            lambda: pl.solve(LASSO, a),
            lambda: pl.envelope(LASSO, a),
            lambda: pl.certify(LASSO, X, a),
            lambda: pl.prox_vjp(LASSO, a),
            lambda: optim.vanishing_strength(LASSO, a),
        ],
        "metric": [lambda: pl.prox(LASSO, X, metric=a), lambda: pl.certify(LASSO, X, X, metric=a)],
        "step": [lambda: pl.prox(LASSO, X, row)],
        "out": [lambda: pl.prox(LASSO, X, out=a)],
        "z": [lambda: pl.certify(LASSO, a, X), lambda: LASSO.value(a), lambda: LASSO(a)],
        "grad": [lambda: LASSO.subdiff_distance(a, X)],
        "v": [lambda: pl.prox_vjp(LASSO, X)[1](a)],
        "weights": [lambda: pl.GroupLasso(1.0, weights=row)],
        "labels": [lambda: pl.Groups.labels(a)],
        "indptr": [lambda: pl.Groups.csr(row)],
        "previous": [lambda: criterion.holds(pl.certify(LASSO, X, X), previous=a)],
        "params": [lambda: optimizer.init(a, LASSO), lambda: optimizer.step(a, X, state)],
        "grads": [lambda: optimizer.step(X, a, state)],
        "w": [lambda: optim.sparse_start(a, 0.5)],
    }
    told = "masked array" if "masked" in kind else type(a).__name__
    for argument, several in calls.items():
        for call in several:
            with pytest.raises(TypeError, match=rf"^{argument}: .*{told}"):
                call()


def test_a_masked_number_is_no_step():
    with pytest.raises(TypeError, match=r"^step: must not be a masked array"):
        pl.prox(LASSO, X, np.ma.masked)


def test_memory_maps_and_views_work(tmp_path):
    file = np.memmap(tmp_path / "x", dtype=np.float64, shape=X.shape, mode="w+")
    file[...] = X
    expected = pl.prox(LASSO, X)
    np.testing.assert_array_equal(pl.prox(LASSO, file), expected)
    np.testing.assert_array_equal(pl.prox(LASSO, X[::-1, ::-1])[::-1, ::-1], pl.prox(LASSO, X))
    assert pl.prox(LASSO, file, out=file) is file
    np.testing.assert_array_equal(file, expected)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X.astype(np.longdouble), "real floating-point dtype of at most 64 bits"),
        (np.zeros((2, 2), dtype=[("a", "f8")]), "real floating-point dtype, got void"),
        (X.astype(object), "real floating-point dtype, got object"),
        (X.astype("datetime64[s]"), "real floating-point dtype, got datetime64"),
    ],
)
def test_other_dtypes_are_refused(x, message):
    for backend in (None, "array_api"):
        with pytest.raises(TypeError, match=rf"^x: must have a {message}"):
            pl.prox(LASSO, x, backend=backend)
        with pytest.raises(TypeError, match=rf"^metric: must have a {message}"):
            pl.prox(LASSO, np.ones(x.shape), metric=x, backend=backend)


def test_frames_say_how():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match=r"^x: must be an array .* got DataFrame; use its to_numpy\(\)"):
        pl.prox(LASSO, pandas.DataFrame(X))


# States that do not belong


def other(state, **slots):
    import dataclasses

    held = {place: {**arrays, **slots} for place, arrays in state.slots.items()}
    return dataclasses.replace(state, slots=held)


@pytest.mark.parametrize(
    ("slots", "error", "message"),
    [
        (
            {"exp_avg": np.zeros(3)},
            ValueError,
            r"state: exp_avg of params\['w'\]: must have its shape, \(3, 3\)",
        ),
        ({"exp_avg_sq": np.zeros((1, 3))}, ValueError, r"exp_avg_sq of .*: must have its shape.*\(1, 3\)"),
        ({"exp_avg": np.float64(0.0)}, TypeError, r"exp_avg of .*: must be an array"),
        ({"exp_avg": X.astype(np.float32)}, TypeError, "must be of its dtype, float64, got float32"),
        ({"exp_avg": np.ma.masked_array(X)}, TypeError, "must not be a masked array"),
        ({"more": X}, ValueError, r"must have the arrays \['exp_avg', 'exp_avg_sq'\] for params\['w'\]"),
    ],
)
def test_a_state_of_another_kind_is_refused_by_name(slots, error, message):
    optimizer, params = optim.ProxAdam(), {"w": X}
    state = optimizer.init(params, LASSO)
    with pytest.raises(error, match=message):
        optimizer.step(params, {"w": D}, other(state, **slots))


def test_parameters_that_changed_are_refused_by_name():
    optimizer = optim.ProxAdam()
    state = optimizer.init({"w": X}, LASSO)
    for new, error in ((X[:2], ValueError), (X.astype(np.float32), TypeError), (X.astype(int), TypeError)):
        with pytest.raises(error, match=r"params\['w'\]"):
            optimizer.step({"w": new}, {"w": np.ones_like(new)}, state)


def test_a_state_without_a_strength_to_drive_is_refused():
    state = optim.ProxAdam().init(X, LASSO)
    with pytest.raises(ValueError, match=r"^state: has no strength to drive"):
        optim.ProxAdam(sparsity=optim.TargetSparsity(0.5)).step(X, D, state)


def test_layouts_in_another_byte_order():
    for make, shape in GROUPS.values():
        h, x = pl.GroupMCP(0.5, 3.0, groups=make()), np.random.default_rng(0).normal(size=shape)
        swapped = x.astype(x.dtype.newbyteorder("S"))
        np.testing.assert_array_equal(pl.prox(h, swapped), pl.prox(h, x))
