"""ProxGen is what the theorem asks for, and its runs come back from the folder of the study."""

import numpy as np
import pytest

import proxlab as pl
from analysis import convergence, models, proxgen
from analysis.results import Profile, ResultsDir
from proxlab.study import Folder


@pytest.mark.parametrize("kind", ["least-squares", "logistic", "multinomial"])
def test_losses_have_their_gradient(kind):
    rng = np.random.default_rng(0)
    classes = (4,) if kind == "multinomial" else ()
    target = np.eye(4)[rng.integers(4, size=30)] if classes else rng.integers(2, size=30).astype(float)
    loss = models.Linear(kind, rng.normal(size=(30, 3)), target)
    w, v = rng.normal(size=(2, *loss.shape))
    for batch in (None, rng.choice(30, size=7, replace=False)):
        ahead, behind = (loss.value_and_grad(w + s * 1e-6 * v, batch)[0] for s in (1, -1))
        slope = float(np.vdot(loss.value_and_grad(w, batch)[1], v))
        assert (ahead - behind) / 2e-6 == pytest.approx(slope, rel=1e-6)


def test_steps_obey_the_theorem():
    given = proxgen.setting("birthwt", 0)
    assert given.method.lr * 3.0 * given.loss.lipschitz == pytest.approx(given.method.eps)
    assert given.method.betas[0] == 0.0  # no momentum
    metric = np.sqrt(given.loss.value_and_grad(given.start)[1] ** 2) + given.method.eps
    assert metric.min() >= given.method.eps  # P ⪰ δI


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Newton and the adversary on the small problem, and batches, stored and read back."""
    folder = Folder(tmp_path_factory.mktemp("results") / "convergence")
    cases = [("birthwt", solver, ["constant:0.1"], "all", 150, 1) for solver in ("newton", "adversary")]
    cases.append(("digits", "adversary", [], "growing", 4, 2))
    with folder.lock():
        for problem, solver, schedules, batch, iterations, draws in cases:
            given = {"problem": problem, "solver": solver, "schedules": schedules, "batch": batch}
            given |= {"iterations": iterations, "draws": draws, "seed": 0}
            folder.store(f"{problem}-{solver}-{batch}", proxgen.proxgen(**given), parameters=given)
        folder.write_index([f"{case[0]}-{case[1]}-{case[3]}" for case in cases], complete=True)
    return convergence.Runs(ResultsDir(folder.path.parent).read("convergence"))


def test_exact_steps_find_the_group_lasso(runs):
    exact = runs.one("birthwt", "newton", "exact")
    assert len(exact) == 150
    assert exact["square"].iloc[-1] < 1e-12
    assert exact["proved"].all()
    assert exact["support"].iloc[-1] < 8


def test_constant_tolerances_stay_below_their_size_and_above_exact(runs):
    (floor,) = convergence._floors(runs).to_dict("records")  # Newton is so exact that it has none to show
    assert floor["inner solver"] == "adversary"
    assert floor["at its floor"]
    assert 1e-2 * floor["ε"] ** 2 < floor["dist² at the end"] < floor["ε"] ** 2


def test_the_adversary_alone_is_not_held_to_the_decrease(runs):
    summary = convergence._summary(runs).set_index(["inner solver", "schedule"])
    assert (summary["tolerance unproved"] == 0).all()
    assert summary.loc[("newton", "constant:0.1"), "decrease unproved"] == 0
    assert summary.loc[("adversary", "constant:0.1"), "decrease unproved"] > 0


def test_batches_differ_from_run_to_run(runs):
    squares = [run["square"].to_numpy() for key, run in runs._runs.items() if key[2] == "growing"]
    assert len(squares) == 2
    assert not np.array_equal(*squares)
    assert runs.mean("growing", "exact") == pytest.approx((squares[0] + squares[1]) / 2)


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_batches_are_of_samples_that_there_are(profile):
    for given in convergence._units(Profile(profile)).values():
        samples = proxgen.setting(given["problem"], 0).loss.n_samples
        size = proxgen.batch_size(given["batch"], samples)
        sizes = [size(t) if callable(size) else size for t in range(1, given["iterations"] + 1)]
        assert all(k is None or 1 <= k <= samples for k in sizes)
        assert given["batch"] != "growing" or sizes[0] < sizes[-1]


def test_every_schedule_and_solver_of_the_study_has_a_name_that_the_page_draws():
    assert set(convergence.LOOKS) == set(proxgen.SCHEDULES)
    assert isinstance(proxgen.SOLVERS["bisection"], pl.Bisection)
