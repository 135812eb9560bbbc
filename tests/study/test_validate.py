"""False bounds and wrong solvers are found: planted ones, each of its kind."""

import functools
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxlab as pl
from tests.table import PENALTIES, ids

pytest.importorskip("flint")
pytest.importorskip("distributed")
pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

from proxlab import study

quiet = {"workers": 1, "progress": False}
validate = functools.partial(study.validate, **quiet)
compare = functools.partial(study.compare, **quiet)


def problem(n=12, size=4, penalty=None, name="rows"):
    rng, shape = np.random.default_rng(7), (n, size)
    return study.Problem(
        name, rng.standard_normal(shape), 0.5, rng.uniform(0.2, 2.0, shape), penalty or pl.GroupLasso(1.0)
    )


MIXED = [
    problem(9, 3, name="small"),
    problem(5, 8, pl.GroupMCP(0.8, 2.0), "large"),
    study.Problem(
        "ragged",
        np.random.default_rng(8).standard_normal(20),
        0.4,
        None,
        pl.GroupSCAD(0.5, 3.0, groups=pl.Groups.csr([0, 2, 2, 9, 17])),
    ),
    problem(4, 3, pl.GroupLinf(0.7), "clipped"),
]


# ------------------------------------------------------------------------------------------------- solvers


def raises(h, x, step, metric=None):
    raise ZeroDivisionError("by zero")


def exits(h, x, step, metric=None):
    raise SystemExit(3)


def nan(h, x, step, metric=None):
    z = pl.prox(h, x, step, metric=metric)
    z[1, 0] = np.nan
    return z


def infinite(h, x, step, metric=None):
    return np.full_like(x, np.inf)


def other_shape(h, x, step, metric=None):
    return x[:, :1]


def other_dtype(h, x, step, metric=None):
    return x.astype(np.float32)


def a_list(h, x, step, metric=None):
    return x.tolist()


def nothing(h, x, step, metric=None):
    return None


def changes_x(h, x, step, metric=None):
    x *= 0.5
    return x


def changes_metric(h, x, step, metric=None):
    metric[0, 0] += 1
    return x


def three(h, x, step, metric=None):
    return x, 1, 2


def bad_count(h, x, step, metric=None):
    return x, "many"


def no_metric(h, x, step):
    return x


WRONG = {
    raises: ("raised ZeroDivisionError: by zero", 12),
    exits: ("raised SystemExit: 3", 12),
    nan: ("returned NaN", 1),
    infinite: ("returned an infinite element", 12),
    other_shape: (r"returned shape (12, 1), must be (12, 4)", 12),
    other_dtype: ("returned dtype float32, must be float64", 12),
    a_list: ("returned list, must be an array", 12),
    nothing: ("returned NoneType, must be an array", 12),
    changes_x: ("changed its input x", 12),
    changes_metric: ("changed its input metric", 12),
    three: ("returned a tuple of 3, must be z or (z, evaluations)", 12),
    bad_count: ("returned evaluations of str, must be numbers", 12),
    no_metric: ("raised TypeError", 12),
}


@pytest.mark.parametrize("solver", WRONG, ids=lambda f: f.__name__)
def test_a_wrong_solver_is_a_failure_with_its_reason(solver):
    reason, groups = WRONG[solver]
    p = problem()
    before = p.x.copy(), p.metric.copy()
    v, c = validate(p, {"wrong": solver, "right": pl.prox}), compare(p, {"wrong": solver, "right": pl.prox})
    for found in (v.failures, c.failures):
        assert found["solver"].tolist() == ["wrong"]
        assert found["groups"].tolist() == [groups]
        assert reason in found["reason"].iloc[0]
    assert not v.ok
    assert not c.ok
    assert v.violations.empty
    assert int(c.frame.loc[c.frame["solver"] == "wrong", "failed"].sum()) == groups
    assert np.isinf(c.frame.loc[c.frame["failed"], "error"]).all()
    np.testing.assert_array_equal(p.x, before[0])
    np.testing.assert_array_equal(p.metric, before[1])


def test_what_solvers_may_be():
    def counted(h, x, step, metric=None):
        return pl.prox(h, x, step, metric=metric), np.arange(12)

    def seeded(h, x, step, metric=None, seed=None):
        return x * np.random.random() if seed == 1 else pl.prox(h, x, step, metric=metric)  # noqa: NPY002

    solvers = {"prox": pl.prox, "solve": pl.solve, "counted": counted, "seeded": seeded, "Brent": pl.Brent()}
    c = compare(problem(), solvers, seeds=[0, 1])
    assert c.failures.empty
    by = c.frame.groupby("solver")["evaluations"].sum()
    assert by["counted"] == 2 * 66
    assert by["Brent"] > by["solve"] > 0
    assert c.frame.loc[c.frame["solver"] == "prox", "evaluations"].isna().all()
    errors = c.frame[c.frame["solver"] == "seeded"].groupby("seed")["error"].max()
    assert errors[0] < 1e-12 < 1e-3 < errors[1]


# ------------------------------------------------------------------------------------------------- bounds


def one_percent_low(h, z, x, step, metric=None, groups=(417,)):
    """A bound that is exact, but for one group in a thousand."""
    t = study.truth(study.Problem("again", x, step, metric, h))
    found = t.errors(z).distance * (1 + 1e-12)
    found[list(groups)] *= 0.99
    return found


def rough(h, x, step, metric=None):
    """A prox that is off by a thousandth, more or less."""
    wave = np.cos(np.arange(x.size).reshape(x.shape))
    return pl.prox(h, x, step, metric=metric) * (1 + 1e-3 * wave).astype(x.dtype)


def test_one_percent_on_one_group_in_a_thousand_is_found():
    p = problem(1000, 3, pl.GroupLasso(0.2))
    v = validate(p, {"rough": rough}, {"mine": one_percent_low})
    assert v.violations[["group", "bound", "error"]].to_numpy().tolist() == [[417, "mine", "distance"]]
    assert v.violations["ratio"].iloc[0] == pytest.approx(0.99, rel=1e-6)
    assert "1 bound of 1,000 below the truth" in str(v)


@pytest.mark.parametrize("error", ["distance", "metric_distance", "stationarity", "gap"])
@pytest.mark.parametrize(
    "row",
    [r for r in PENALTIES if r.name in ("GroupSCAD", "SparseGroupLasso", "GroupLinf")],
    ids=ids([r for r in PENALTIES if r.name in ("GroupSCAD", "SparseGroupLasso", "GroupLinf")]),
)
def test_a_bound_of_any_error_that_is_too_small_is_found(row, error):
    def low(h, z, x, step, metric=None):
        return 0.999 * getattr(study.truth(study.Problem("again", x, step, metric, h)).errors(z), error)

    def high(h, z, x, step, metric=None):
        return low(h, z, x, step, metric) * 1.002

    v = validate(problem(8, 3, row.build()), {"rough": rough}, {"low": (error, low), "high": (error, high)})
    alive = v.frame[(v.frame["bound"] == "low") & (v.frame["true"] > 0)]
    assert len(alive) >= 3
    assert v.violations["bound"].tolist() == ["low"] * len(alive)


@pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))
@given(data=st.data())
def test_no_certificate_is_below_the_truth(row, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    shape = (4, 3)
    x, d = rng.standard_normal(shape), 10 ** rng.uniform(-2, 2, shape)
    p = study.Problem("drawn", x, float(10 ** rng.uniform(-2, 1)), d, row.build())
    noise = data.draw(st.sampled_from([0.0, 1e-12, 1e-3]))

    def noisy(h, x, step, metric=None):
        return pl.prox(h, x, step, metric=metric) * (1 + noise * rng.random(x.shape)).astype(x.dtype)

    v = validate(
        p, {"noisy": noisy, "x": lambda h, x, step, metric=None: x.copy()}, dtypes=["float32", "float64"]
    )
    assert v.ok, str(v)


@pytest.mark.parametrize(
    ("bound", "reason"),
    [
        (lambda h, z, x, step, metric=None: np.full(len(x), np.nan), "returned NaN"),
        (lambda h, z, x, step, metric=None: 1.0, r"returned bounds of shape ()"),
        (lambda h, z, x, step, metric=None: np.zeros((2, 2)), "returned bounds of shape (2, 2)"),
        (lambda h, z, x, step, metric=None: 1 / 0, "raised ZeroDivisionError"),
        (lambda h, z, x, step, metric=None: "tight", "returned bounds of str"),
    ],
)
def test_a_bound_that_gives_nothing_is_a_failure(bound, reason):
    v = validate(problem(), None, {"mine": bound, "distance": "distance"})
    assert reason in v.failures["reason"].iloc[0]
    assert v.failures["bound"].tolist() == ["mine"]
    assert v.violations.empty
    assert not v.ok
    assert (v.frame.loc[v.frame["bound"] == "distance", "value"] < 1e-12).all()


# ------------------------------------------------------------------------------------------------ results


def test_problems_of_all_kinds_in_one_call():
    v = validate(MIXED, {"rough": rough, "Newton": pl.Newton()}, dtypes=["float32", "float64"])
    assert v.ok, str(v)
    assert len(v.frame) == 4 * 2 * 2 * (9 + 5 + 4 + 4)
    sizes = v.frame[v.frame["problem"] == "ragged"].groupby("group")["size"].first()
    assert sizes.tolist() == [2, 0, 7, 8]
    assert list(v.frame.columns) == [
        *("problem", "solver", "dtype", "seed", "group", "size", "bound", "error", "value", "true", "scale"),
        *("violated", "ratio", "judged", "zero", "decided"),
    ]
    tight = v.tightness.set_index(["solver", "bound"])
    assert (tight["violations"] == 0).all()
    assert 1.0 <= tight.loc[("rough", "distance"), "median"] <= 2.0


@pytest.mark.parametrize("digits", [None, 30])
def test_the_error_is_absolute(digits):
    c = compare(MIXED, {"rough": rough, "Newton": pl.Newton()}, digits=digits)
    assert c.kind == ("certified" if digits is None else "truth")
    assert list(c.frame.columns) == [
        *("problem", "solver", "tolerance", "dtype", "seed", "group", "size", "error", "kind", "scale"),
        *("evaluations", "seconds", "zero", "failed"),
    ]
    for p in MIXED:
        true = study.truth(p).errors(rough(p.penalty, p.x, p.step, metric=p.metric)).distance
        part = c.frame[(c.frame["problem"] == p.name) & (c.frame["solver"] == "rough")]
        if digits is None:
            assert (part["error"] >= true).all()
            assert (part["error"] <= 3 * true + 1e-12).all()
        else:
            np.testing.assert_allclose(part["error"], true, rtol=1e-14, atol=1e-300)
    words = c.accuracy(Figure().subplots()).get_ylabel()
    assert ("certified" in words) == (digits is None)
    assert "absolute" in words


def test_tolerances_are_those_of_root_finders():
    c = compare(problem(200), {"Brent": pl.Brent(), "prox": pl.prox}, tolerances=[1e-1, 1e-4, 1e-12])
    assert c.table["tolerance"].fillna(0).tolist() == [1e-1, 1e-4, 1e-12, 0]
    brent = c.table[c.table["solver"] == "Brent"]
    assert brent["error, p99"].is_monotonic_decreasing
    assert brent["evaluations, mean"].is_monotonic_increasing


def test_figures_are_drawn_into_the_axes_they_are_given():
    v = validate(MIXED, {"rough": rough}, {"low": one_low, "distance": "distance"})
    c = compare(problem(), {"rough": rough, "Brent": pl.Brent(), "raises": raises}, tolerances=[1e-2, 1e-8])
    figure = Figure()
    axes = figure.subplots(1, 3)
    assert v.plot(axes[0]) is axes[0]
    assert c.profile(axes[1]) is axes[1]
    assert c.accuracy(axes[2]) is axes[2]
    figure.canvas.draw()
    assert {t.get_text() for t in axes[1].texts} == {"rough", "Brent, 0.01", "Brent, 1e-08", "raises"}
    for result in (v, c):
        assert "<table" in result._repr_html_()
    with pytest.raises(ValueError, match="by: must be"):
        c.profile(by="hours")


def one_low(h, z, x, step, metric=None):
    found = np.full(h.groups.n_groups(x.shape), 1.0)
    found[0] = 1e-9
    return found


def test_the_profile_is_dolan_and_mores():
    from proxlab.study.profiles import performance_profile, performance_ratios

    cost = np.array([[1.0, 4.0, np.inf, np.inf], [2.0, 2.0, 8.0, np.inf]])
    ratios = performance_ratios(cost)
    assert ratios.tolist() == [[1.0, 2.0, np.inf, np.inf], [2.0, 1.0, 1.0, np.inf]]
    assert performance_profile(ratios, np.array([1.0, 2.0])).tolist() == [[0.25, 0.5], [0.5, 0.75]]


def test_results_come_back_from_their_folder(tmp_path):
    v = validate(MIXED, {"rough": rough, "raises": raises}, folder=tmp_path / "v")
    c = compare(MIXED, {"rough": rough, "raises": raises}, digits=30, folder=tmp_path / "c")
    again = study.Validation.read(tmp_path / "v")
    pd.testing.assert_frame_equal(v.frame, again.frame)
    pd.testing.assert_frame_equal(v.failures, again.failures)
    found = study.Comparison.read(tmp_path / "c")
    pd.testing.assert_frame_equal(c.frame, found.frame)
    c.save(tmp_path / "saved")
    pd.testing.assert_frame_equal(c.frame, study.Comparison.read(tmp_path / "saved").frame)
    with pytest.raises(study.FolderError, match="holds the study 'compare', not 'validate'"):
        study.Validation.read(tmp_path / "c")
    with pytest.raises(study.MissingResultsError):
        study.Comparison.read(tmp_path / "nothing")


@pytest.mark.parametrize("verb", [validate, compare])
def test_seeds_may_come_from_an_iterator_and_are_checked(verb):
    two = [problem(3, 2, name="a"), problem(3, 2, name="b")]
    found = verb(two, {"rough": rough}, seeds=iter([0, 1]))
    assert found.frame.groupby("problem")["seed"].nunique().tolist() == [2, 2]
    for seeds in ([], [0, 0], [-1]):
        with pytest.raises(ValueError, match="seeds: must"):
            verb(two, {"rough": rough}, seeds=seeds)


def test_the_truth_is_computed_once_for_the_same_content(monkeypatch, tmp_path):
    from proxlab.study import exact

    p = problem(6, 3, name="a")
    twin = study.Problem("b", p.x, p.step, p.metric, p.penalty)
    solved = []
    whole = exact.solve_group
    monkeypatch.setattr(exact, "solve_group", lambda *a: solved.append(1) or whole(*a))
    validate([p, twin], {"x": rough, "y": rough, "z": pl.prox}, folder=tmp_path)
    assert len(solved) == 6
    validate([p, twin], {"more": rough}, folder=tmp_path)
    assert len(solved) == 6


def test_what_does_not_fit_a_dtype_is_a_failure():
    big = study.Problem("big", np.full((2, 2), 1e200), 1.0, None, pl.GroupLasso(1.0))
    c = compare(big, {"Newton": pl.Newton()}, dtypes=["float64", "float32"])
    assert "does not fit into float32" in c.failures["reason"].iloc[0]
    assert len(c.frame) == 2
    assert len(validate(big, dtypes="float32").failures) == 1


def test_problems_of_one_name_are_told_apart():
    c = compare([problem(name="p"), problem(name="p")], {"Newton": pl.Newton()})
    assert c.frame["problem"].unique().tolist() == ["p", "p (2)"]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: validate([]), "problems: must hold at least one"),
        (lambda: validate(["p"]), "problems: must hold proxlab.study.Problem"),
        (lambda: validate(problem(), [pl.prox]), "solvers: must be a dict"),
        (lambda: validate(problem(), {"Newton": pl.Newton}), "solvers: 'Newton' must be a root finder"),
        (lambda: validate(problem(), None, {"mine": 3}), "bounds: 'mine' must be one of"),
        (lambda: validate(problem(), None, ["nearness"]), "bounds: 'nearness' must be one of"),
        (lambda: validate(problem(), digits=3), "digits: must be between"),
        (lambda: compare(problem(), dtypes=["int64"]), "dtypes: must be float16"),
        (
            lambda: compare(problem(), dtypes=["foo"]),
            "dtypes: must be float16, float32 or float64, got 'foo'",
        ),
        (lambda: compare(problem(), dtypes=3), "dtypes: must hold dtypes, such as 'float32', got 3"),
        (lambda: compare(problem(), tolerances=[0.0]), "tolerances: must be finite and > 0, got 0.0"),
        (lambda: compare(problem(), tolerances=[1.0]), "tolerances: must be numbers between 0 and 1"),
        (lambda: compare(problem(), tolerances=["a"]), "tolerances: must be a real number, got 'a'"),
        (lambda: compare(problem(), tolerances=1e-2), "tolerances: must hold numbers between 0 and 1, got"),
        (lambda: compare(problem(), tolerances=[]), "tolerances: must hold at least one"),
        (lambda: compare(problem(), seeds=[1.9]), "seeds: must be different integers"),
        (lambda: compare(problem(), workers="a"), "workers: must be a real number, got 'a'"),
        (lambda: compare(problem(), folder=""), "folder: must be a path, got ''"),
    ],
)
def test_wrong_arguments_are_errors(call, match):
    with pytest.raises((TypeError, ValueError), match=match):
        call()


def test_where_every_solver_fails_the_failures_are_the_result():
    def raises(penalty, x, step, metric=None):
        raise RuntimeError("no")

    v = validate(problem(), {"raises": raises, "nan": lambda penalty, x, step, metric=None: x * np.nan})
    assert len(v.frame) == len(v.violations) == len(v.tightness) == 0
    assert set(v.failures["reason"]) == {"raised RuntimeError: no", "returned NaN"}
    v.summary()
    assert "returned NaN" in v._repr_html_()
    assert v.plot() is not None


def test_a_certificate_without_a_number_is_a_failure(monkeypatch):
    def certify(*args, **kwargs):
        c = pl.certify(*args, **kwargs)
        return replace(c, gap=np.where(np.arange(len(c.gap)) == 1, np.nan, c.gap))

    monkeypatch.setattr(sys.modules["proxlab.study.solvers"], "certify", certify)
    v = validate(problem())
    assert v.failures[["bound", "groups", "reason"]].to_numpy().tolist() == [["gap", 1, "returned NaN"]]
