"""The studies on networks: their groups, the baselines against a few lines of PyTorch, a small study."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from torch import nn

import proxlab as pl
from analysis import report, vision
from analysis.deep import catalogue, fetch, loop, networks, readout, section, study, training
from analysis.deep.blocks import blocks, sparsity
from analysis.deep.catalogue import Plan
from analysis.deep.course import start
from analysis.deep.methods import METHODS, ramda
from analysis.deep.methods.lasso import LASSO
from analysis.deep.methods.magnitude import MagnitudePruning
from analysis.deep.methods.proxssi import ProxSSI
from analysis.deep.methods.sgd import SGD
from analysis.deep.methods.solvers import SOLVERS
from analysis.deep.methods.unweighted import UnweightedProxAdamW
from analysis.deep.probes import CONVEXITY_EDGES, ConvexityProbe, ErrorProbe
from analysis.deep.runs import Runs
from analysis.deep.samples import Samples, Split
from analysis.deep.tasks import ENCODER, RESNET, VGG, Budget, Task, base
from analysis.results import DeepProfile, ResultsDir
from proxlab.study import run, style
from proxlab.torch import ProxAdamW, param_groups

pytestmark = pytest.mark.torch


def mlp(_=None):
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def gradients(model, seed=0):
    """Gradients that are the same for every model of a shape, small in half of the columns."""
    draw = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=draw)
        if p.ndim == 2:
            p.grad[:, ::2] *= 1e-2


def made(method, lam=1e-2, **settings):
    """An optimizer over the columns of two layers, its network, and the network's penalised weights."""
    torch.manual_seed(0)
    model = mlp()
    groups = param_groups(model, pl.GroupLasso(lam, weights="sqrt_size"), exclude="0")
    return method(groups, **settings), model, [model[2].weight, model[4].weight]


@pytest.mark.parametrize(
    ("task", "groups"),
    [
        # input channels of four convolutions, columns of two linear layers
        (VGG, {"4": 16, "8": 32, "12": 64, "15": 128, "19": 9 * 128, "21": 256}),
        # the shortcut has its own groups; the stem is left out
        (RESNET, {"1.conv1": 16, "1.conv2": 32, "1.shortcut.0": 16, "3.conv2": 128, "6": 128}),
        # heads, neurons, and dimensions of the embedding
        (ENCODER, {"layers.0.attention": 8, "layers.1": 512, "widen": 32}),
    ],
)
def test_groups_are_those_of_the_layers(task, groups):
    classes = tuple(str(k) for k in range(10))
    x = np.zeros((2, 24), np.int64)
    loaded = Samples(*[Split(x, np.zeros(2, np.int64))] * 2, classes, ("", "?", "a"))
    model = task.build(loaded)
    found = blocks(task.param_groups(model, pl.GroupLasso(1.0)))
    counted = {b.name: b for b in found}
    assert {name: counted[name].n_groups for name in groups} == groups
    for b in found:
        assert b.n_groups * b.size == sum(p.numel() for p in b.params)
        assert b.weights().shape == (b.n_groups, b.size)


@pytest.mark.parametrize("attention", [None, "heads"])
def test_rows_of_a_block_are_written_back(attention):
    torch.manual_seed(0)
    model = networks.Encoder(9, 3, 5, embedding=4, width=8, hidden=6, heads=2, layers=1)
    groups = param_groups(model, pl.GroupLasso(1.0), attention=attention)
    (block, *_) = blocks(groups)
    rows = torch.arange(block.n_groups * block.size, dtype=torch.float32).reshape(block.n_groups, -1)
    block.write(rows)
    assert torch.equal(block.weights(), rows)
    rows[0] = 0.0
    block.write(rows)
    assert list(block.alive()) == [False] + [True] * (block.n_groups - 1)
    if attention == "heads":
        # the first head is the first half of queries and of what the output layer reads
        first = model.layers[0].attention
        assert not first.q_proj.weight[:4].any()
        assert first.q_proj.weight[4:].all()
        assert not first.out_proj.weight[:, :4].any()


def test_sparsity_is_counted_by_groups_and_by_weights():
    _, _, (hidden, last) = made(ProxAdamW)
    with torch.no_grad():
        hidden[:, :4] = 0.0
        last[:, 0] = 0.0
    groups = [
        {"params": [w], "names": ["w"], "penalty": pl.GroupLasso(1.0, groups=pl.Groups.over(0))}
        for w in (hidden, last)
    ]
    of = blocks(groups)
    found = sparsity(of, [b.alive() for b in of])
    assert found.plain == 5 / 32
    assert found.weighted == (4 * 16 + 3) / (256 + 48)


def test_magnitude_pruning_takes_the_least_and_keeps_them_zero():
    optimizer, model, weights = made(MagnitudePruning, share=0.5, at=3, lr=1e-2)
    reference = mlp()
    reference.load_state_dict(model.state_dict())
    plain = torch.optim.AdamW(reference.parameters(), lr=1e-2)
    for step in range(5):
        for network, o in ((model, optimizer), (reference, plain)):
            gradients(network, step)
            o.step()
        if step == 2:
            columns = [
                (float(w.detach().square().mean(0)[j]), k, j)
                for k, w in enumerate((reference[2].weight, reference[4].weight))
                for j in range(16)
            ]
            sizes, expected, taken = (16, 3), set(), 0
            for _, k, j in sorted(columns):
                taken += sizes[k]
                if taken > 0.5 * (256 + 48):
                    break
                expected.add((k, j))
        if step >= 2:
            zero = {(k, j) for k, w in enumerate(weights) for j in range(16) if not w[:, j].any()}
            assert zero == expected
    assert len(expected) > 8


def test_the_unweighted_prox_shrinks_columns_by_their_norm():
    optimizer, model, weights = made(UnweightedProxAdamW, lam=0.5, lr=1e-2)
    gradients(model)
    reference = mlp()
    reference.load_state_dict(model.state_dict())
    plain = torch.optim.AdamW(reference.parameters(), lr=1e-2)
    gradients(reference)
    plain.step()
    optimizer.step()
    for w, y in zip(weights, (reference[2].weight, reference[4].weight), strict=True):
        norm = y.norm(dim=0)
        factor = (1.0 - 1e-2 * 0.5 * math.sqrt(len(y)) / norm).clamp_min(0.0)
        torch.testing.assert_close(w, factor * y)


def test_proxssi_is_as_published():
    """Adam's corrected step; the prox with the plain rate and the uncorrected metric, by bisection."""
    lr, lam, (beta1, beta2), eps = 1e-2, 2e-3, (0.9, 0.999), 1e-8
    optimizer, model, weights = made(ProxSSI, lam=lam, lr=lr, weight_decay=0.1)
    w = [p.detach().double().clone() for p in weights]
    m, v = [torch.zeros_like(a) for a in w], [torch.zeros_like(a) for a in w]
    for step in range(1, 4):
        gradients(model, step)
        g = [p.grad.double() for p in weights]
        optimizer.step()
        for k, a in enumerate(w):
            m[k] = beta1 * m[k] + (1 - beta1) * g[k]
            v[k] = beta2 * v[k] + (1 - beta2) * g[k] ** 2
            corrected = m[k] / (1 - beta1**step) / ((v[k] / (1 - beta2**step)).sqrt() + eps)
            x, d = (a - lr * corrected) * (1 - lr * 0.1), v[k].sqrt() + eps
            threshold = lr * lam * math.sqrt(len(a))
            low, high = torch.zeros(a.shape[1], dtype=a.dtype), x.norm(dim=0)
            for _ in range(100):
                r = (low + high) / 2
                above = ((d * x / (d * r + threshold)) ** 2).sum(0) > 1
                low, high = torch.where(above, r, low), torch.where(above, high, r)
            zero = (d * x).norm(dim=0) <= threshold
            w[k] = torch.where(zero, 0.0, d * r * x / (d * r + threshold))
        for p, a in zip(weights, w, strict=True):
            torch.testing.assert_close(p.detach().double(), a, atol=1e-5, rtol=1e-4)
    assert any(not p[:, j].any() for p in weights for j in range(16))
    assert any(p[:, j].any() for p in weights for j in range(16))


@pytest.mark.parametrize("penalty", [pl.GroupLasso(1e-3, weights="sqrt_size"), pl.GroupMCP(1e-3, 30.0)])
def test_probes_form_the_problems_that_were_solved(penalty):
    torch.manual_seed(0)
    model = mlp()
    optimizer = ProxAdamW(param_groups(model, penalty), lr=1e-2)
    probe = ErrorProbe(blocks(optimizer.param_groups), optimizer)
    for step in range(1, 4):
        gradients(model, step)
        probe.before()
        optimizer.step()
        probe.after(step)
    found = probe.arrays()
    assert list(found["probe-step"]) == [1, 2, 3]
    assert found["probe-error"].max() < 1e-5
    with torch.no_grad():
        model[0].weight[0, 0] += 0.25
    probe.after(3)
    assert probe.arrays()["probe-error"][-1] == pytest.approx(0.25, rel=1e-3)


def test_the_convexity_probe_counts_and_compares():
    torch.manual_seed(0)
    model, lam, gamma, lr = mlp(), 2e-2, 3.0, 1e-2
    optimizer = ProxAdamW(
        param_groups(model, pl.GroupMCP(lam, gamma), exclude=["0", "2"]), lr=lr, weight_decay=0.0
    )
    probe = ConvexityProbe(blocks(optimizer.param_groups), optimizer)
    before = model[4].weight.detach().double().clone()
    gradients(model)
    # by hand: in the first step the metric is |g| + eps, the point w − lr sign(g)
    g = model[4].weight.grad.double()
    d, x = g.abs() + 1e-8, before - lr * g / (g.abs() + 1e-8)
    probe.before()
    optimizer.step()
    probe.after(1)
    found = probe.arrays()
    assert found["convexity"].sum() == g.numel()
    assert found["convexity"][: len(CONVEXITY_EDGES) // 2].sum() == int((gamma * d < lr).sum())
    convex = (gamma * d >= lr).all(dim=0)
    assert 0 < int(convex.sum()) < len(convex)
    np.testing.assert_array_equal(found["probe-convex"] > 0, convex.numpy())
    np.testing.assert_array_equal(found["probe-zero"] > 0, ~(model[4].weight != 0).any(dim=0).numpy())

    def objective(z):
        r = z.norm(dim=0).clamp_max(gamma * lam)
        return lam * r - r**2 / (2 * gamma) + (d * (z - x) ** 2).sum(0) / (2 * lr)

    # nothing on a ray through the answer, or near it, is better
    z = model[4].weight.detach().double()
    draw = torch.Generator().manual_seed(0)
    for scale in torch.linspace(0.0, 2.0, 41):
        shift = 1e-2 * torch.randn(z.shape, generator=draw, dtype=z.dtype)
        for other in (scale * z, scale * x, z + shift):
            assert (objective(other) >= objective(z) - 1e-9).all()


def test_the_rate_rises_and_falls():
    rates = [loop.factor(k, 100) for k in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(1 / 90)
    assert np.argmax(rates) == 9


def test_dual_averaging_has_stages():
    torch.manual_seed(0)
    model = mlp()
    run = start(TOY, ramda.RAMDA, 1e-6, model, 20)
    seen = []
    for step in range(20):
        gradients(model, step)
        run.step()
        group = run.optimizer.param_groups[0]
        steps = {int(state["step"]) for state in run.optimizer.state.values()}
        seen.append((round(group["lr"] / seen[0][0], 6) if seen else group["lr"], group["momentum"], *steps))
    assert [s[2] for s in seen] == [*range(1, 13), *range(1, 6), *range(1, 4)]
    assert {s[:2] for s in seen[1:]} == {(1.0, 0.9), (0.3, 0.9), (0.1, 0.0)}


def test_batches_hold_every_sample_once_and_texts_of_a_length():
    x = np.zeros((6400, 8), np.int64)
    lengths = 1 + np.arange(6400) % 8
    x[np.arange(8) < lengths[:, None]] = 5
    split = Split(x, np.arange(6400))
    found = list(loop.batches(split, np.random.default_rng(0), bucketed=True))
    assert sorted(torch.cat([y for _, y in found]).tolist()) == list(range(6400))
    assert [b.shape[1] for b, _ in found] == [int((b != 0).sum(1).max()) for b, _ in found]
    assert len({b.shape[1] for b, _ in found}) == 8


# --------------------------------------------------------------------------------------------------------
# A small study: three classes of points, a network of three layers


def points(_=None):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((3, 12))
    y = rng.integers(0, 3, 1400)
    x = (centres[y] + 0.5 * rng.standard_normal((1400, 12))).astype(np.float32)
    return Samples(Split(x[:1280], y[:1280]), Split(x[1280:], y[1280:]), ("a", "b", "c"))


#: A task is all that is needed: no method knows it. SGD diverges with this rate.
ADAM = {name: Runs(2e-3, (1e-2,)) for name in ("unweighted", "proxssi", "adabreg", "pat", "dgating")}
ROWS = {method.name: Runs(2e-3, (1e-2,)) for method in SOLVERS}
TOY = Task(
    "toy",
    "Toy network",
    (fetch.Package("toy", ("points",), "none", "none", "", ""),),
    points,
    mlp,
    {"tiny": Budget(1280, 4), "quick": Budget(1280, 1)},
    groups={"exclude": "0"},
    pictured=("2.weight", "4.weight"),
    runs={
        "dense": Runs(2e-3, (0.0,)),
        "magnitude": Runs(2e-3, (0.7,)),
        "lasso": Runs(2e-3, (1e-2,)),
        "mcp": Runs(2e-3, (1e-2,), probed=1e-2, settings={"gamma": 300.0}),
        "target": Runs(2e-3, (0.75,)),
        "inexact": Runs(2e-3, (1e-2,), probed=1e-2),
        "sgd": Runs(1e12, (1e-3,)),
        "rmda": Runs(1e-1, (1e-3,)),
        "ramda": Runs(1e-2, (1e-4,)),
        "linbreg": Runs(5e-2, (3e-3,)),
        **ADAM,
        **ROWS,
    },
)
PLAN = Plan("vision", "Toy", (TOY,), 1.0, "columns")


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The data of the toy task."""
    (tmp_path / "points").write_text("")
    monkeypatch.setenv(fetch.VARIABLE, str(tmp_path))
    base._LOADED.clear()
    monkeypatch.setattr(loop, "tensor", torch.from_numpy)
    monkeypatch.setattr(training, "tensor", torch.from_numpy)


def trained(method, strength, **given):
    settings = {"seed": 0, "samples": 1280, "epochs": 1, "data": ""} | given
    return training.trainer(TOY, method)(strength=strength, **settings)


def test_a_run_that_diverges_is_a_record(small):
    record = trained(SGD, 1e-3, epochs=2)
    assert list(record.values) == ["failed"]
    assert "finite" in record.values["failed"]


def test_a_run_depends_on_its_parameters_alone(small):
    first, second = (trained(LASSO, 1e-3) for _ in range(2))
    assert first.values["accuracy"] == second.values["accuracy"]
    np.testing.assert_array_equal(first.arrays["pattern-2.weight"], second.arrays["pattern-2.weight"])


def test_a_pair_that_nobody_knows_is_refused():
    with pytest.raises(LookupError, match="neither 'lasso' nor 'new' says what the one is run with"):
        start(dataclasses.replace(TOY, name="new", runs={}), LASSO, 1e-3, mlp(), 10)


def test_a_unit_depends_on_its_own_method_alone(small, monkeypatch):
    """So that a new method, or another's new numbers, make no stored run invalid; nor that data were read."""

    def digests():
        units = study.units(PLAN, DeepProfile("tiny"), {"toy": "0"})
        return {unit.arguments["method"]: unit.digest for unit in units if unit.arguments["method"] != "sgd"}

    before = digests()
    TOY.load("")
    for method in (*METHODS, *SOLVERS):
        start(TOY, method, 0.5, mlp(), 10)
    assert digests() == before
    monkeypatch.setattr(UnweightedProxAdamW, "step", lambda self, closure=None: None)
    after = digests()
    assert {name for name in before if before[name] != after[name]} == {"unweighted"}


@dataclasses.dataclass(frozen=True)
class Part:
    """A folder in which some units are not there yet."""

    stored: object

    def read(self, name):
        return self.stored


@pytest.mark.kernels
def test_a_small_study_goes_on_and_reports_what_it_ran(small, monkeypatch, tmp_path):
    profile, results, counted = DeepProfile("tiny"), ResultsDir(tmp_path / "results"), []
    compute = run._here

    def here(unit):
        counted.append(unit.name)
        if counted == ["toy-dense-0-0-tiny", "toy-magnitude-0.7-0-tiny", "toy-unweighted-0.01-0-tiny"]:
            raise KeyboardInterrupt
        return compute(unit)

    monkeypatch.setattr(run, "_here", here)
    said = []
    with pytest.raises(KeyboardInterrupt):
        study.run(PLAN, profile, results, said.append)
    assert len(results.read("vision").units) == 2
    # as another process
    base._LOADED.clear()
    study.run(PLAN, profile, results, said.append)
    count = len(METHODS) + 2 * len(SOLVERS)
    # both timings besides, and the third run once more
    assert len(counted) == count + 2 + 1
    assert [line.split(":")[0] for line in said] == [
        f"{n} of {count} training runs to do" for n in (count, count - 2)
    ]
    stored = results.read("vision")
    assert stored.complete
    reached = stored.unit("toy-target-0.75-0-tiny").values["weighted"]
    assert abs(reached - 0.75) < 0.06
    frame = readout.runs(stored, PLAN)
    (row,) = readout.targets(stored, readout.means(frame), PLAN).to_dict("records")
    # columns of 16 and of 3 weights, 16 of each
    assert row["one group each"] == pytest.approx(100.0 * (1.0 - 19 / 304))
    assert (row["layers"], row["empty layers"]) == (2, 0)
    assert row["gap"] == pytest.approx(100.0 * (reached - 0.75))
    assert 0.0 <= row["gap"] <= row["largest group"] == pytest.approx(100.0 * 16 / 304)
    pruned = stored.unit("toy-magnitude-0.7-0-tiny").values
    assert pruned["compact"]["parameters"][1] < pruned["compact"]["parameters"][0]
    assert pruned["compact"]["accuracy"] == pytest.approx(pruned["accuracy"], abs=0.01)
    inexact = stored.unit("toy-inexact-0.01-0-tiny").arrays
    assert (inexact["history-distance"] <= inexact["history-tolerance"]).all()
    assert (
        inexact["probe-error"] <= 1.01 * inexact["history-tolerance"][: len(inexact["probe-error"])]
    ).all()
    # the page: everything of the section, the failure marked
    monkeypatch.setattr(vision, "VISION", PLAN)
    page = report.build(results, {"vision": "analysis.vision"}).read_text()
    for text in (
        "Accuracy against sparsity",
        "What is left",
        "Time of a step",
        "Target and reached sparsity",
        "Tolerance, proof and error",
        "is not convex",
        "Exact against inexact solvers of the prox",
        '<td class="number bad">1</td>',
    ):
        assert text in page
    table = (tmp_path / "results" / "tables" / "vision-runs.csv").read_text()
    assert len(table.splitlines()) == 1 + len(METHODS)
    # and of whatever is there
    rng = np.random.default_rng(0)
    for keep in ([0], [5], [count - 1], [count], list(rng.permutation(count)[:6])):
        part = dataclasses.replace(stored, complete=False, units=tuple(stored.units[k] for k in keep))
        with style.style():
            assert section.section(PLAN, Part(part)).items


def judged(*rows):
    """Findings on runs of the group lasso, beside a dense network and a pruned one."""
    given = [
        ("dense", 90.0, 0.0, 1.0, 1.0),
        ("magnitude", 90.0, 99.0, 9.0, 9.0),
        *[("lasso", *r) for r in rows],
    ]
    names = ["method", "accuracy", "weighted sparsity", "parameters ×", "latency ×"]
    frame = pd.DataFrame(given, columns=names).assign(**{"task": "toy", "FLOPs ×": 2.0, "difference": 1e-6})
    frame["against dense"] = frame["accuracy"] - 90.0
    return [(f.figure, f.verdict, "not reached" in f.text) for f in section.goals(frame, TOY, PLAN)]


def test_goals_are_judged_by_the_runs():
    sparse, dense = (89.5, 72.0, 2.5, 1.2), (90.2, 30.0, 1.5, 1.1)
    lost = (88.9, 95.0, 20.0, 3.0)
    assert judged(dense, sparse, lost) == [("72 %", "good", False), ("2.5×", "good", False)]
    assert judged(dense, lost) == [("30 %", "bad", True), ("1.5×", "bad", True)]
    assert judged((*sparse[:3], 0.9)) == [("72 %", "good", False), ("2.5×", "bad", True)]
    assert judged(lost) == [("−1.10", "bad", True)]
    assert judged() == []


@pytest.mark.parametrize("plan", [catalogue.VISION, catalogue.LANGUAGE])
@pytest.mark.parametrize("name", DeepProfile.NAMES)
def test_every_strength_is_a_unit(plan, name):
    profile, scale = DeepProfile(name), catalogue.SCALES[name]
    budgets = plan.budgets(name)
    units = study.units(plan, profile, dict.fromkeys((task.name for task in plan.tasks), "0"))
    assert len({unit.name for unit in units}) == len(units)
    for of, draws in ((plan.methods, scale.draws), (plan.solvers, scale.solver_draws)):
        names = {method.name for method in of}
        found = [unit.arguments for unit in units if unit.arguments["method"] in names]
        assert len(found) == draws * sum(
            len(v) for task in budgets for v in plan.strengths(task, name, of).values()
        )
        # every method the same seeds
        assert {u["seed"] for u in found} == set(range(draws))
    assert ("minilm" in {task.name for task in budgets}) == (plan is catalogue.LANGUAGE and name == "full")
    main = plan.tasks[-1]
    probed = {(u.arguments["method"], u.arguments["strength"]) for u in units if u.arguments["probe"]}
    if name != "tiny":
        assert probed == {
            (m.name, m.runs_on(main).probed) for m in plan.methods if m.runs_on(main).probed is not None
        }
    # all methods and all solvers on the main task; fine-tuning is for those built on Adam, and takes hours
    for of in (plan.methods, plan.solvers):
        assert set(plan.strengths(main, "full", of)) == set(of)
    assert set(plan.strengths(plan.tasks[0], "full", plan.methods)) <= set(plan.methods)


def test_profiles_take_no_places_of_each_other():
    """One profile's runs in a folder neither pass for another's nor replace them, which took hours."""
    for plan in (catalogue.VISION, catalogue.LANGUAGE):
        digests = dict.fromkeys((task.name for task in plan.tasks), "0")
        names = [
            {unit.name for unit in study.units(plan, DeepProfile(name), digests)}
            | {unit.name for unit in study._timed(plan, DeepProfile(name), digests)}
            for name in DeepProfile.NAMES
        ]
        assert sum(map(len, names)) == len(set.union(*names))
    assert catalogue.suffix("paper") == ""  # as runs are stored


def test_names_are_told_apart():
    for named in ((*METHODS, *SOLVERS), (*catalogue.VISION.tasks, *catalogue.LANGUAGE.tasks)):
        assert len({thing.name for thing in named}) == len({thing.title for thing in named}) == len(named)
    # no pair stands both in a method's file and in a task's
    for plan in (catalogue.VISION, catalogue.LANGUAGE):
        for task in plan.tasks:
            assert not [m.name for m in (*METHODS, *SOLVERS) if m.name in task.runs and task.name in m.runs]
