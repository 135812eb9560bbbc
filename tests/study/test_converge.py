"""Convergence with inexact steps: known rates and floors, proved tolerances, failures with reasons."""

import math
import sys

import matplotlib as mpl
import mpmath
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxlab as pl
from proxlab import study
from proxlab.optim.problem import ProxProblem
from proxlab.study import inner
from proxlab.study.convergence import fit_rate

mpl.use("agg")


class Squares:
    """½‖A w − b‖² / n; strongly convex, so that the sum of dist² is finite and its mean falls as 1/T."""

    n_samples = 40

    def __init__(self, curvature=1.0):
        rng = np.random.default_rng(1)
        self.a = rng.standard_normal((40, 6))
        self.b = rng.standard_normal(40)
        self.curvature = curvature

    def value_and_grad(self, w, batch=None):
        a, b = (self.a, self.b) if batch is None else (self.a[batch], self.b[batch])
        r = a @ w.ravel() - b
        return float(r @ r) / (2 * len(b)), (a.T @ r).reshape(w.shape) / len(b)


PENALTY = pl.GroupLasso(0.05)
SGD = pl.optim.ProxSGD(lr=0.3)
ADAM = pl.optim.ProxAdam(lr=0.05)


def run(loss=None, penalty=PENALTY, w0=None, **options):
    options = {"method": ADAM, "iterations": 80, "seeds": [0, 1], "workers": 1, "progress": False} | options
    start = (lambda rng: rng.standard_normal((3, 2))) if w0 is None else w0
    return study.converge(loss or Squares(), penalty, start, **options)


@pytest.fixture(scope="module")
def adversarial():
    tolerances = ["square-summable", "constant:0.1", "constant:0.01"]
    return run(schedules=tolerances, solver="adversary", iterations=250, seeds=range(2))


@given(power=st.floats(-3.0, 0.5), count=st.integers(8, 300))
def test_a_power_law_has_its_exponent(power, count):
    assert fit_rate(3.0 * np.arange(1.0, count + 1) ** power) == pytest.approx(power, abs=1e-9)


def test_the_mean_falls_as_one_over_t_where_the_theorem_says_so(adversarial):
    rates = adversarial.rates().set_index("schedule")
    for schedule in ("exact", "square-summable"):
        row = rates.loc[schedule]
        assert row["promised"] == -1.0
        assert row["rate"] == pytest.approx(-1.0, abs=0.1)
        assert row["low"] <= row["rate"] <= row["high"]
    assert rates.loc["constant:0.1", "promised"] == 0.0


def test_constant_tolerances_end_at_a_floor_of_their_square(adversarial):
    floors = adversarial.floors().set_index("schedule")
    assert list(floors.index) == ["constant:0.1", "constant:0.01"]
    assert floors["at_floor"].all()
    ratio = floors["floor"].iloc[0] / floors["floor"].iloc[1]
    assert 10 < ratio < 1000  # 100, the square of the ratio of tolerances
    assert (floors["floor / eps²"] < 10).all()


@pytest.mark.parametrize("solver", ["adversary", "proximal gradient", pl.Newton(), pl.Bisection()])
def test_what_is_recorded_is_proved_and_true(solver):
    r = run(schedules=["adaptive"], solver=solver, seeds=[0], iterations=25)
    frame = r.frame
    assert list(frame.columns[:4]) == ["schedule", "solver", "seed", "iteration"]
    assert r.failures.empty
    assert r.ok
    asked = frame[frame["schedule"] == "adaptive"]
    assert (asked["bound"] <= asked["tolerance"]).all()
    exact = frame[frame["schedule"] == "exact"]
    assert (exact["bound"] < 1e-6 * asked["tolerance"].iloc[0]).all()
    # Proximal gradient begins at the last iterate, which may do.
    assert (frame["evaluations"] >= (0 if solver == "proximal gradient" else 0.1)).all()
    assert (frame["certificates"] >= 1).all()
    runs = frame.groupby("schedule")["stationarity"]
    mean = runs.transform(lambda s: (s**2).cumsum() / np.arange(1, len(s) + 1))
    assert frame["mean"].to_numpy() == pytest.approx(mean.to_numpy())
    assert (frame.groupby("schedule")["seconds"].diff().dropna() >= 0).all()
    assert frame["support"].between(0, 3).all()
    assert (frame["objective"] > 0).all()


def test_exact_runs_are_those_of_the_optimizer():
    loss, w = Squares(), np.ones((3, 2))
    found = run(loss, w0=w, schedules=[], seeds=[0], iterations=12).frame
    state = ADAM.init(w, PENALTY)
    for row in found.to_dict("records"):
        w, state = ADAM.step(w, loss.value_and_grad(w)[1], state)
        value, gradient = loss.value_and_grad(w)
        assert row["objective"] == pytest.approx(value + float(PENALTY(w)), rel=1e-12)
        assert row["stationarity"] == pytest.approx(
            float(np.linalg.norm(PENALTY.subdiff_distance(gradient, w))), rel=1e-9, abs=1e-14
        )


def objective(problem, z):
    """Q(z) to 40 digits."""
    with mpmath.workdps(40):
        z, x, d = (np.vectorize(mpmath.mpf, otypes=[object])(a) for a in (z, problem.x, problem.metric))
        norms = [mpmath.sqrt(sum(row**2)) for row in z]
        return PENALTY.lam * sum(norms) + (d * (z - x) ** 2).sum() / (2 * mpmath.mpf(problem.step))


@pytest.mark.parametrize("solver", ["adversary", "proximal gradient", pl.Bisection()])
@pytest.mark.parametrize("decrease", [False, True])
def test_a_decrease_that_is_recorded_is_one(solver, decrease, monkeypatch):
    seen, plain = [], inner.solve_inner

    def watched(solver, problem, asked, rng):
        found = plain(solver, problem, asked, rng)
        seen.append((asked, found, objective(problem, found.z) <= objective(problem, problem.previous)))
        return found

    # The package's attribute of this name is the function.
    monkeypatch.setattr(sys.modules["proxlab.study.converge"], "solve_inner", watched)
    r = run(schedules=["constant:0.3"], solver=solver, seeds=[0], iterations=40, decrease=decrease)
    assert all(asked.decrease == decrease for asked, *_ in seen if asked.eps > 0)
    assert all(true for _, found, true in seen if found.decreased)
    assert r.frame["decreased"].tolist() == [found.decreased for _, found, _ in seen]
    rates = r.rates().set_index("schedule")
    unproved = int((~r.frame[r.frame["schedule"] != "exact"]["decreased"]).sum())
    assert rates.loc["constant:0.3", "decrease unproved"] == unproved
    if solver == "adversary":
        # It goes too far where nothing holds it.
        assert (unproved > 0) == (not decrease)
        assert all(true for _, _, true in seen) == decrease


def test_an_own_solver_is_stopped_by_the_certificate():
    seen = []

    def halving(penalty, x, step, metric=None, start=None, tolerance=None):
        seen.append(tolerance)
        exact, z = pl.prox(penalty, x, step, metric=metric), start
        for passes in range(1, 61):
            z = np.where(exact == 0, 0.0, (z + exact) / 2)
            yield z, passes

    r = run(
        schedules=["constant:0.1", "constant:0.001"], solver={"halving": halving}, seeds=[0], iterations=10
    )
    assert r.ok
    mean = r.frame.groupby("schedule")["evaluations"].mean()
    assert mean["constant:0.1"] + 3 < mean["constant:0.001"] < 60
    assert min(seen) > 0


def test_a_solver_that_stays_short_is_not_proved():
    r = run(schedules=["constant:0.01"], solver={"lazy": lambda h, x, step, metric=None: 0.9 * x}, seeds=[0])
    lazy = r.frame[r.frame["schedule"] == "constant:0.01"]
    assert not lazy["proved"].any()
    assert not r.ok


def overwrites(name):
    """Return a solver that changes an argument, and gives what that would make exact."""

    def solver(penalty, x, step, metric=None, start=None, tolerance=None):
        given = {"x": x, "metric": metric}[name]
        given *= 1.5
        for _ in range(3):
            yield pl.prox(penalty, x, step, metric=metric)

    return solver


@pytest.mark.parametrize("name", ["x", "metric"])
def test_a_solver_that_changes_what_it_is_asked_is_a_failure(name):
    r = run(schedules=["constant:100"], solver=overwrites(name), seeds=[0])
    (reason,) = r.failures["reason"]
    assert reason == f"changed its input {name}"
    assert set(r.frame["schedule"]) == {"exact"}


def test_a_solver_may_work_in_where_it_begins_and_in_one_array():
    """It was told that Q fell where it rose: the last iterate had been written over."""

    def moves(penalty, x, step, metric=None, start=None, tolerance=None):
        start += 0.3
        yield start

    def moves_a_copy(penalty, x, step, metric=None, start=None, tolerance=None):
        yield start + 0.3

    def reuses(penalty, x, step, metric=None, start=None, tolerance=None):
        # Proved at the first candidate, and none after it: what is used must be what was proved.
        exact = pl.prox(penalty, x, step, metric=metric)
        z = start
        for share in (0.5, 0.9, 1.0):
            z[...] = share * exact
            yield z
        z[...] = 7.0

    for decrease in (False, True):
        mine, other = (
            run(schedules=["constant:100"], solver={"mine": one}, seeds=[0], decrease=decrease, iterations=5)
            for one in (moves, moves_a_copy)
        )
        columns = ["objective", "bound", "proved", "decreased", "support"]
        pd.testing.assert_frame_equal(mine.frame[columns], other.frame[columns])
        assert not mine.frame[mine.frame["schedule"] != "exact"]["decreased"].all()

    r = run(schedules=["constant:0.01"], solver=reuses, seeds=[0], iterations=20)
    same = run(schedules=[], seeds=[0], iterations=20)
    at = r.frame[r.frame["schedule"] != "exact"].set_index("iteration")["objective"]
    exact = same.frame.set_index("iteration")["objective"]
    assert r.ok
    np.testing.assert_allclose(at, exact, rtol=0.2)


class Breaks(Squares):
    def __init__(self, how):
        super().__init__()
        self.calls, self.how = 0, how

    def value_and_grad(self, w, batch=None):
        self.calls += 1
        value, gradient = super().value_and_grad(w)
        if self.calls > 5:
            match self.how:
                case "nan":
                    return math.nan, gradient
                case "raises":
                    raise RuntimeError("out of data")
                case "shape":
                    return value, gradient[:1]
                case "gradient":
                    return value, gradient * np.inf
        return value, gradient


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("nan", "the loss is nan"),
        ("raises", "RuntimeError: out of data"),
        ("shape", r"the gradient must have the shape \(3, 2\), it has \(1, 2\)"),
        ("gradient", "the gradient is not finite"),
    ],
)
def test_what_breaks_is_a_failure_with_its_reason(how, reason):
    r = run(Breaks(how), schedules=[], seeds=[0])
    assert r.failures["reason"].str.contains(reason).all()
    assert r.failures["iteration"].tolist() == [5]
    assert len(r.frame) == 4
    assert "1 stopped" in str(r)


def test_batches_and_seeds_draw(tmp_path):
    r = run(schedules=["square-summable"], batch_size=8, w0=np.ones((3, 2)), iterations=20, folder=tmp_path)
    ends = r.frame[r.frame["iteration"] == 20]
    assert ends.groupby("schedule")["objective"].nunique().tolist() == [2, 2]
    again = run(
        schedules=["square-summable"], batch_size=8, w0=np.ones((3, 2)), iterations=20, folder=tmp_path
    )
    assert again.frame.equals(r.frame)  # with the seconds of the first run: nothing was computed


def test_batches_may_grow():
    sizes = []

    class Counts(Squares):
        def value_and_grad(self, w, batch=None):
            if batch is not None:
                assert len(set(batch)) == len(batch)
                sizes.append(len(batch))
            return super().value_and_grad(w, batch)

    run(Counts(), schedules=[], batch_size=lambda t: 2 * t, seeds=[0], iterations=4)
    assert sizes == [2, 4, 6, 8]
    sizes.clear()
    with pytest.raises(ValueError, match=r"batch_size: must be from 1 to loss.n_samples, got 41"):
        run(Counts(), schedules=[], batch_size=lambda t: 30 + t, seeds=[0], iterations=12)
    assert not sizes  # before anything is run


def test_proximal_gradient_converges_to_the_prox_of_ragged_groups():
    rng = np.random.default_rng(0)
    h = pl.GroupLasso(0.3, groups=pl.Groups.csr([0, 3, 3, 4, 8]), weights="sqrt_size")
    x, start = rng.normal(size=(2, 9))
    x[3] *= 1e-3  # a group that becomes zero; the last element is in none
    d = np.exp(rng.normal(size=9))
    problem = ProxProblem(h, x, d, 0.1, previous=start)
    exact = pl.prox(h, x, 0.1, metric=d)
    assert inner.residual(problem, exact) < 1e-12
    *_, (z, passes) = inner.proximal_gradient(h, x, 0.1, metric=d, start=start)
    np.testing.assert_allclose(z, exact, atol=1e-13)
    counts = []
    for eps in (1.0, 1e-3, 1e-9):
        found = inner.solve_inner(inner.proximal_gradient, problem, inner.Asked(eps), rng)
        assert found.proved
        assert inner.residual(problem, found.z) <= found.bound <= eps
        counts.append(found.evaluations)
    assert counts == sorted(set(counts))
    assert counts[-1] < passes


@pytest.mark.parametrize("x", ["iterations", "evaluations", "seconds"])
def test_figures_are_drawn_into_the_axes_that_are_given(adversarial, x):
    ax = mpl.figure.Figure().subplots()
    assert adversarial.plot(x=x, ax=ax) is ax
    assert {line.get_label() for line in ax.get_lines()} == {
        "exact",
        "square-summable",
        "constant:0.1",
        "constant:0.01",
    }
    assert "<table" in adversarial._repr_html_()
    with pytest.raises(ValueError, match=r"x: must be one of 'iterations'"):
        adversarial.plot(x="epochs")


def test_a_saved_run_is_a_page(adversarial, tmp_path):
    adversarial.save(tmp_path)
    page = study.report(tmp_path).read_text()
    assert "T^−1" in page
    assert (tmp_path / "tables" / "converge-rates.csv").read_text().count("\n") == 5
    assert (tmp_path / "figures" / "converge-iterations.pdf").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": object()}, r"loss: must have value_and_grad\(w, batch=None\), got object"),
        ({"penalty": 0.1}, r"penalty: must be a proxlab penalty"),
        ({"method": "adam"}, r"method: must be an optimizer of proxlab.optim"),
        (
            {"method": pl.optim.ProxAdam(certify_every=1, sparsity=pl.optim.TargetSparsity(0.5))},
            r"no sparsity",
        ),
        ({"schedules": ["often"]}, r"schedules: must be one of exact, constant"),
        ({"schedules": ["constant:-1"]}, r"eps: must be finite and > 0"),
        ({"schedules": ["constant:1,2"]}, r"constant has the parameters \['share'\]"),
        ({"schedules": [0.1]}, r"schedules: must be schedules or their names"),
        ({"solver": "guess"}, r"solver: must be a root finder"),
        ({"seeds": []}, r"seeds: must hold at least one"),
        ({"iterations": 0}, r"iterations: must be"),
        ({"seeds": [1, 1]}, r"seeds: must be different integers from 0"),
        ({"seeds": [0.5]}, r"seeds: must be different integers from 0 to 2\*\*32 - 1, got \[0.5\]"),
        ({"seeds": [True]}, r"seeds: must be different integers"),
        ({"seeds": ["1"]}, r"seeds: must be different integers"),
        ({"seeds": 3}, r"seeds: must hold integers, such as range\(3\), got 3"),
        ({"workers": 1.5}, r"workers: must be a whole number, got 1.5"),
        ({"workers": True}, r"workers: must be a real number, got True"),
        ({"folder": ""}, r"folder: must be a path, got ''"),
        ({"w0": {}}, r"w0: must be an array of float32 or float64, got dict"),
        ({"w0": np.ones((3, 2), int)}, r"w0: must be an array of float32 or float64, got int64"),
        ({"w0": np.full((3, 2), np.nan)}, r"w0: must be finite"),
        ({"w0": np.ma.ones((3, 2))}, r"w0: must not be a masked array"),
        ({"batch_size": 41}, r"batch_size: must be from 1 to loss.n_samples"),
        ({"batch_size": 2.5}, r"batch_size: must be an integer, or a function"),
        ({"batch_size": lambda t: 0}, r"batch_size: must be from 1 to loss.n_samples, got 0"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        run(**options)
