"""Every bad argument is refused with a sentence: its name, what it was, what it must be."""

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxlab as pl
from tests.table import BACKENDS, PENALTIES, TABLED, ids

X = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
LASSO = pl.GroupLasso(0.5)
nan, inf = np.nan, np.inf


def with_element(value, where=(1, 2)):
    a = X.copy()
    a[where] = value
    return a


# argument, bad value, error, what the message says besides the argument's name
BAD = [
    ("penalty", 0.5, TypeError, ["proxlab penalty", "0.5"]),
    ("penalty", pl.GroupLasso, TypeError, ["proxlab penalty", "GroupLasso"]),
    ("x", [[1.0, 2.0]], TypeError, ["array", "list"]),
    ("x", 3.0, TypeError, ["array", "float"]),
    ("x", np.float64(3.0), TypeError, ["array", "float64"]),
    ("x", None, TypeError, ["array", "NoneType"]),
    ("x", X.astype(int), TypeError, ["floating-point", "int64"]),
    ("x", X.astype(complex), TypeError, ["floating-point", "complex128"]),
    ("x", X > 2, TypeError, ["floating-point", "bool"]),
    ("x", X.astype(object), TypeError, ["floating-point", "object"]),
    ("x", with_element(nan), ValueError, ["finite", "(1, 2)", "nan"]),
    ("x", with_element(inf, (0, 1)), ValueError, ["finite", "(0, 1)", "inf"]),
    ("x", with_element(-inf, (0, 0)), ValueError, ["finite", "(0, 0)", "-inf"]),
    ("step", 0.0, ValueError, ["> 0", "0.0"]),
    ("step", -1.5, ValueError, ["> 0", "-1.5"]),
    ("step", nan, ValueError, ["finite", "nan"]),
    ("step", inf, ValueError, ["finite", "inf"]),
    ("step", True, TypeError, ["positive number", "True"]),
    ("step", "fast", TypeError, ["positive number", "fast"]),
    ("step", None, TypeError, ["positive number", "None"]),
    ("step", [1.0, 2.0], TypeError, ["positive number", "[1.0, 2.0]"]),
    ("step", 10**400, ValueError, ["finite", "integer of 1329 bits"]),
    ("step", np.ones(3), ValueError, ["(n_groups,)", "(2,)", "(3,)"]),
    ("step", np.ones((2, 1)), ValueError, ["(n_groups,)", "(2, 1)"]),
    ("step", np.array([1, 2]), TypeError, ["floating-point", "int64"]),
    ("step", np.array([1.0, -2.0]), ValueError, ["> 0", "(1,)", "-2.0"]),
    ("step", np.array([nan, 1.0]), ValueError, ["finite", "(0,)", "nan"]),
    ("metric", 0.0, ValueError, ["> 0", "0.0"]),
    ("metric", -1.0, ValueError, ["> 0", "-1.0"]),
    ("metric", inf, ValueError, ["finite", "inf"]),
    ("metric", "unit", TypeError, ["array", "unit"]),
    ("metric", [[1.0, 2.0, 3.0]], TypeError, ["array", "[[1.0"]),
    ("metric", 10**400, ValueError, ["finite", "integer of 1329 bits"]),
    ("metric", np.ones((2, 2)), ValueError, ["broadcast", "(2, 3)", "(2, 2)"]),
    ("metric", np.ones((1, 2, 3)), ValueError, ["broadcast", "(2, 3)", "(1, 2, 3)"]),
    ("metric", X.astype(int), TypeError, ["floating-point", "int64"]),
    ("metric", with_element(0.0), ValueError, ["> 0", "(1, 2)", "0.0"]),
    ("metric", with_element(-2.0, (0, 1)), ValueError, ["> 0", "(0, 1)", "-2.0"]),
    ("metric", with_element(nan), ValueError, ["finite", "(1, 2)", "nan"]),
    ("metric", with_element(inf), ValueError, ["finite", "(1, 2)", "inf"]),
    ("metric", array_api_strict.asarray(X), TypeError, ["ndarray", "Array"]),
]


def names(case):
    return f"{case[0]}-{str(case[1])[:20]}".replace("\n", "")


def check_message(info, argument, parts):
    message = str(info.value)
    assert message.startswith(f"{argument}: "), message
    for part in parts:
        assert part in message, message


def arguments(argument, value):
    given = {"penalty": LASSO, "x": X, "step": 1.0, "metric": None} | {argument: value}
    return (given["penalty"], given["x"], given["step"]), {"metric": given["metric"]}


@pytest.mark.parametrize("backend", [None, "array_api"])
@pytest.mark.parametrize("verb", [pl.prox, pl.solve, pl.envelope])
@pytest.mark.parametrize(("argument", "value", "error", "parts"), BAD, ids=[names(b) for b in BAD])
def test_arguments_of_the_verbs(verb, argument, value, error, parts, backend):
    positional, keywords = arguments(argument, value)
    with pytest.raises(error) as info:
        verb(*positional, **keywords, backend=backend)
    check_message(info, argument, parts)


@pytest.mark.parametrize(("argument", "value", "error", "parts"), BAD, ids=[names(b) for b in BAD])
def test_arguments_of_certify(argument, value, error, parts):
    (penalty, x, step), keywords = arguments(argument, value)
    with pytest.raises(error) as info:
        pl.certify(penalty, X, x, step, **keywords)
    check_message(info, argument, parts)


@pytest.mark.parametrize(
    ("z", "error", "parts"),
    [
        ([[1.0]], TypeError, ["array", "list"]),
        (np.ones((2, 2)), ValueError, ["shape of x", "(2, 3)", "(2, 2)"]),
        (X.astype(int), TypeError, ["floating-point", "int64"]),
        (with_element(nan), ValueError, ["finite", "(1, 2)", "nan"]),
    ],
)
def test_candidate_of_certify(z, error, parts):
    with pytest.raises(error) as info:
        pl.certify(LASSO, z, X)
    check_message(info, "z", parts)


@pytest.mark.parametrize("verb", [pl.prox, pl.solve])
@pytest.mark.parametrize(
    ("argument", "value", "error", "parts"),
    [
        ("root_finder", "newton", TypeError, ["proxlab.Newton()", "newton"]),
        ("root_finder", pl.Newton, TypeError, ["proxlab.Newton()", "Newton"]),
        ("root_finder", pl.RootFinder(), TypeError, ["proxlab.Newton()"]),
        ("check", "no", TypeError, ["True, False or None", "'no'"]),
        ("check", 1, TypeError, ["True, False or None", "1"]),
        ("backend", "gpu", ValueError, ['"numba"', "'gpu'"]),
        ("out", [0.0], TypeError, ["array", "list"]),
        ("out", np.zeros((2, 2)), ValueError, ["shape of x", "(2, 3)", "(2, 2)"]),
        ("out", np.zeros((2, 3), np.float32), TypeError, ["dtype of x", "float64", "float32"]),
        ("out", array_api_strict.zeros((2, 3)), TypeError, ["ndarray", "Array"]),
    ],
)
def test_options(verb, argument, value, error, parts):
    with pytest.raises(error) as info:
        verb(LASSO, X, **{argument: value})
    check_message(info, argument, parts)


@pytest.mark.parametrize("backend", BACKENDS)
def test_read_only_out(backend):
    out = np.zeros_like(X)
    out.flags.writeable = False
    with pytest.raises(ValueError, match=r"^out: .*read-only|^out: .*writ"):
        pl.prox(LASSO, X, out=out, backend=backend)


def test_numba_backend_needs_numpy_arrays():
    for x in (array_api_strict.asarray(X), X.astype(np.float16)):
        with pytest.raises(TypeError, match=r"^backend: .*float32 or float64, got .*; use backend=None"):
            pl.prox(LASSO, x, backend="numba")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [nan, inf])
@pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))
def test_every_penalty_refuses_what_is_not_finite(row, bad, backend):
    """Wherever it stands: nothing is skipped because a group vanishes or lies outside the groups."""
    big = {k: 1e6 if k.startswith("lam") else v for k, v in row.parameters.items()}
    for where in [(0, 0), (1, 2)]:
        with pytest.raises(ValueError, match=r"^x: must be finite"):
            pl.prox(row.build(big), with_element(bad, where), backend=backend)
        with pytest.raises(ValueError, match=r"^metric: must be finite and > 0"):
            pl.prox(row.build(big), X, metric=with_element(bad, where), backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))
@given(data=st.data())
def test_what_is_invalid_is_named_wherever_it_stands(row, backend, data):
    """In groups that lie anyhow, of zeros too, whose answer would be known without a look at the metric."""
    shape = data.draw(st.sampled_from([(9,), (9, 1), (1, 9), (70, 3), (3, 70), (5, 6, 3), (4, 4, 3, 3)]))
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1)), label="axes")
    rng = np.random.default_rng(data.draw(st.integers(0, 99), label="seed"))
    dtype = data.draw(st.sampled_from((np.float32, np.float64)))
    z, x, d = (f(size=shape).astype(dtype) for f in (rng.normal, rng.normal, rng.lognormal))
    alive = data.draw(st.sampled_from((0.0, 0.0, 0.3, 1.0)), label="share of x that is not zero")
    x[rng.random(shape) >= alive] = 0.0
    z *= data.draw(st.sampled_from((0, 1)))
    ragged = pl.Groups.labels(rng.integers(-1, 4, size=shape))
    groups = pl.Groups.over(tuple(axes)) if data.draw(st.booleans()) else ragged
    penalty = row.build(**({} if row.name == "L1" else {"groups": groups}))
    place = tuple(int(rng.integers(n)) for n in shape)
    name = data.draw(st.sampled_from(("x", "z", "metric", "metric")))
    array = {"x": x, "z": z, "metric": d}[name]
    array[place] = data.draw(st.sampled_from([inf, inf, nan, -inf] + [0.0, -1.0] * (name == "metric")))
    verbs = {"certify": lambda: pl.certify(penalty, z, x, 0.7, metric=d, backend=backend)}
    if name != "z":
        verbs["prox"] = lambda: pl.prox(penalty, x, 0.7, metric=d, backend=backend)
        verbs["solve"] = lambda: pl.solve(penalty, x, 0.7, metric=d, backend=backend)
    for verb in verbs.values():
        with pytest.raises(ValueError) as info:  # noqa: PT011 (check_message looks)
            verb()
        check_message(info, name, ["must be finite", f"element {place} is {array[place]}"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("row", TABLED, ids=ids(TABLED))
def test_an_infinite_metric_of_zeros(row, axis, backend):
    """Sums that find no x and no z of a group are not all there is to look at."""
    penalty = row.build(**({} if row.name == "L1" else {"groups": pl.Groups.over(axis)}))
    x, d = np.zeros((5, 4)), np.ones((5, 4))
    d[2, 3] = inf
    for verb in (pl.prox, pl.solve, lambda h, x, **given: pl.certify(h, x, x, **given)):
        with pytest.raises(ValueError, match=r"^metric: must be finite and > 0, but element \(2, 3\) is inf"):
            verb(penalty, x, metric=d, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_free_elements_are_checked_too(backend):
    penalty = pl.GroupLasso(0.5, groups=pl.Groups.labels([[0, 0, 1], [1, 0, -1]]))
    with pytest.raises(ValueError, match=r"^x: must be finite, but element \(1, 2\) is nan"):
        pl.prox(penalty, with_element(nan), backend=backend)
    with pytest.raises(ValueError, match=r"^metric: must be finite and > 0, but element \(1, 2\) is 0\.0"):
        pl.prox(penalty, X, metric=with_element(0.0), backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("axis", [0, 1])
def test_large_arrays_name_the_element(axis, backend):
    """The check is fused into kernels and split among threads; the first bad element is named anyway."""
    x = np.ones((300, 500))
    x[123, 456] = nan
    x[299, 499] = inf
    with pytest.raises(ValueError, match=r"element \(123, 456\) is nan"):
        pl.prox(pl.GroupLasso(0.1, groups=pl.Groups.over(axis)), x, backend=backend)


@pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))
def test_parameters_of_penalties(row):
    strict = {"gamma": "> 0", "theta": "> 0", "a": "> 2", "eps": "> 0", "q": "> 0"}
    for name in row.parameters:
        if name == "nonnegative":
            continue
        bound = strict.get(name, ">= 0")
        bad = [-1.0, nan, inf, *([0.0] if name in strict else []), *([2.0] if name == "a" else [])]
        for value in bad:
            with pytest.raises(ValueError, match=rf"^{name}: ") as info:
                row.build(row.parameters | {name: value})
            check_message(info, name, [bound, str(value)])
        for value in ("1", None, [1.0], True):
            with pytest.raises(TypeError) as info:
                row.build(row.parameters | {name: value})
            check_message(info, name, ["real number", repr(value)])
        if name != "q":  # which is between 0 and 1
            assert getattr(row.build(row.parameters | {name: 3}), name) == 3.0


def test_a_nonnegative_option_is_a_bool():
    for make in (pl.L1, pl.GroupLasso):
        with pytest.raises(TypeError, match=r"^nonnegative: must be True or False, got 'yes'"):
            make(1.0, nonnegative="yes")


@pytest.mark.parametrize(
    ("weights", "error", "parts"),
    [
        ("size", ValueError, ["sqrt_size", "'size'"]),
        (np.array([1.0, -1.0]), ValueError, [">= 0", "-1"]),
        (np.array([1.0, nan]), ValueError, ["finite", "nan"]),
        (np.ones((2, 1)), ValueError, ["one-dimensional", "(2, 1)"]),
        (np.array([1 + 1j, 2]), TypeError, ["complex128"]),
        (["a", "b"], TypeError, ["real numbers"]),
    ],
)
def test_weights(weights, error, parts):
    with pytest.raises(error) as info:
        pl.GroupLasso(1.0, weights=weights)
    check_message(info, "weights", parts)


def test_weights_fit_the_groups():
    penalty = pl.GroupLasso(1.0, weights=[1.0, 2.0, 3.0])
    for call in (penalty, penalty.value, lambda x: pl.prox(penalty, x), lambda x: pl.solve(penalty, x)):
        with pytest.raises(ValueError, match=r"^weights: .* 2 groups and 3 weights"):
            call(X)


def test_groups_of_penalties():
    for groups in (0, "rows", [[0, 1], [2]]):
        with pytest.raises(TypeError, match=r"^groups: must be a proxlab\.Groups"):
            pl.GroupLasso(1.0, groups=groups)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: pl.Groups.over("rows"), TypeError, r"axis: .*integer.*'rows'"),
        (lambda: pl.Groups.over(1.0), TypeError, r"axis: .*integer.*1\.0"),
        (lambda: pl.Groups.over((0, True)), TypeError, r"axis: .*integer"),
        (lambda: pl.Groups.over(0, shape=6), TypeError, r"shape: .*tuple.*6"),
        (lambda: pl.Groups.over(0, shape=(2, 3.0)), TypeError, r"shape: .*integer.*3\.0"),
        (lambda: pl.Groups.over(0, shape=(-1, -1)), ValueError, r"shape: .*one of them -1.*\(-1, -1\)"),
        (lambda: pl.Groups.over(0, shape=(2, -3)), ValueError, r"shape: .*nonnegative.*\(2, -3\)"),
        (lambda: pl.Groups.over(2, shape=(2, 3)), ValueError, "groups: axis 2.*2 dimensions"),
        (lambda: pl.Groups.over(2, shape=(2, -1)).layout((6,)), ValueError, "groups: axis 2.*2 dimensions"),
        (
            lambda: pl.Groups.over(0, shape=(2, 3)).layout((7,)),
            ValueError,
            r"groups: .*\(7,\) with 7 .*\(2, 3\)",
        ),
        (lambda: pl.Groups.over(0, shape=(2, -1)).layout((7,)), ValueError, r"groups: .*7 .*\(2, -1\)"),
        (lambda: pl.Groups.over(0, shape=(0, -1)).layout((7,)), ValueError, r"groups: .*7 .*\(0, -1\)"),
        (lambda: pl.Groups.csr([1, 2]), ValueError, r"indptr: must start with 0, got \[1, 2\]"),
        (lambda: pl.Groups.csr([]), ValueError, r"indptr: must start with 0"),
        (lambda: pl.Groups.csr([0, 3, 2]), ValueError, r"indptr: must be sorted, but indptr\[1\] = 3"),
        (lambda: pl.Groups.csr([0.0, 2.0]), TypeError, r"indptr: must hold integers, got dtype float64"),
        (lambda: pl.Groups.csr([[0, 2]]), ValueError, r"indptr: must be one-dimensional, got shape \(1, 2\)"),
        (
            lambda: pl.Groups.csr([0, 2], [0, 0]),
            ValueError,
            r"indices: groups must not overlap, but .*0",
        ),
        (
            lambda: pl.Groups.csr([0, 2], [0]),
            ValueError,
            r"indices: must have .* = 2 entries, got 1",
        ),
        (lambda: pl.Groups.csr([0, 2], [0, -1]), ValueError, r"indices: must be nonnegative, got -1"),
        (lambda: pl.Groups.csr([0, 2], [0.0, 1.0]), TypeError, r"indices: must hold integers"),
        (lambda: pl.Groups.labels([0, -2]), ValueError, r"labels: must be at least -1 \(free\), got -2"),
        (lambda: pl.Groups.labels([0.0, 1.0]), TypeError, r"labels: must hold integers, got dtype float64"),
        (
            lambda: pl.Groups.conv("row"),
            ValueError,
            r'conv: kind must be "filter", .*, got .row.',
        ),
    ],
)
def test_constructors_of_groups(make, error, message):
    with pytest.raises(error, match=f"^{message}"):
        make()


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (pl.Groups.over(2), r"axis 2 is out of range for an array of 2 dimensions, shape \(2, 3\)"),
        (pl.Groups.over(-3), r"axis -3 is out of range"),
        (pl.Groups.over((1, -1)), r"axes \(1, -1\) name the same axis twice"),
        (pl.Groups.csr([0, 7]), r"index 6 is out of range for an array of 6 elements, shape \(2, 3\)"),
        (
            pl.Groups.labels([[0, 1], [0, 1]]),
            r"the labels have shape \(2, 2\), but .* shape \(2, 3\)",
        ),
        (pl.Groups.conv("filter"), r"needs a weight of shape \(out, in, \*kernel\) .* got shape \(2, 3\)"),
    ],
)
def test_groups_fit_the_array(groups, message):
    penalty = pl.GroupLasso(1.0, groups=groups)
    for call in (penalty, lambda x: pl.prox(penalty, x)):
        with pytest.raises(ValueError, match=rf"^groups: .*{message}"):
            call(X)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rtol": -1.0}, ValueError, r"rtol: must be finite and >= 0, got -1\.0"),
        ({"rtol": "tight"}, TypeError, r"rtol: must be a real number, got 'tight'"),
        ({"atol": nan}, ValueError, r"atol: must be finite and >= 0, got nan"),
        ({"max_iterations": 0}, ValueError, r"max_iterations: must be at least 1, got 0"),
        ({"max_iterations": 1.5}, TypeError, r"max_iterations: must be an integer, got 1\.5"),
    ],
)
def test_options_of_root_finders(options, error, message):
    for finder in (pl.Newton, pl.Brent):
        with pytest.raises(error, match=f"^{message}"):
            finder(**options)


def test_threads():
    for value, error in [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]:
        with pytest.raises(error, match=rf"^n: .*got {value}"):
            pl.set_num_threads(value)


def test_subdiff_distance_needs_one_shape():
    with pytest.raises(ValueError, match=r"^grad: must have the shape of z, \(2, 3\), got \(3,\)"):
        LASSO.subdiff_distance(np.ones(3), X)


def test_after_an_error_x_is_as_it_was():
    x = with_element(nan)
    before = x.copy()
    with pytest.raises(ValueError, match=r"^x:"):
        pl.prox(LASSO, x, out=x)
    np.testing.assert_array_equal(x, before)


class OwnWeights(pl.GroupLasso):
    """A penalty of a user's own whose weights are what it is told."""

    def group_weights(self, layout):
        return self.own


@pytest.mark.parametrize("verb", [pl.prox, pl.solve])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(3), r"one or one per group, of which there are 2, got shape \(3,\)"),
        (np.ones((2, 1)), r"got shape \(2, 1\)"),
        (np.ones(2, np.float32), "must return an array of float64"),
        ([1.0, 1.0], "must return an array of float64"),
    ],
)
def test_group_weights_of_a_user_are_checked_before_compiled_code_indexes_them(verb, weights, message):
    penalty = OwnWeights(0.5)
    object.__setattr__(penalty, "own", weights)
    with pytest.raises((TypeError, ValueError), match=f"penalty: its group_weights .*{message}"):
        verb(penalty, X)


@pytest.mark.parametrize("value", [[[1.0] * 1000] * 1000, {1: [2.0] * 10**6}, "x" * 10**6])
@pytest.mark.parametrize("argument", ["step", "metric"])
def test_a_message_is_short(argument, value):
    with pytest.raises(TypeError) as info:
        pl.prox(LASSO, X, **{argument: value})
    check_message(info, argument, ["got"])
    assert len(str(info.value)) < 400


def test_numbers_beyond_all_floats():
    for value in (10**400, -(10**400), 10**5000):
        with pytest.raises(ValueError, match=r"^lam: must be finite .* an integer of"):
            pl.GroupLasso(value)


@pytest.mark.torch
def test_tensors_that_hold_no_dense_numbers():
    torch = pytest.importorskip("torch")
    dense = torch.ones(2, 3)
    for x, told in (
        (dense.to_sparse(), "dense tensor, got one of layout sparse_coo"),
        (torch.ones(2, 3, device="meta"), "must hold values, got a tensor on the meta device"),
    ):
        for name, call in (
            ("x", lambda x=x: pl.prox(LASSO, x)),
            ("metric", lambda x=x: pl.prox(LASSO, dense, metric=x)),
            ("z", lambda x=x: pl.certify(LASSO, x, dense)),
        ):
            with pytest.raises(TypeError, match=f"^{name}: must .*{told.split('must ')[-1]}"):
                call()
