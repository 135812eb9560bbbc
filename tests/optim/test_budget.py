"""Targets with constraints on widths: against brute force over all strengths, and in steps of optimizers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxlab as pl
from proxlab.optim import ProxAdam, TargetSparsity
from proxlab.optim.budget import Candidates, Layers, by_selection, for_each, for_strength, for_total
from proxlab.optim.problem import ProxProblem
from proxlab.optim.sparsity import Resting

ROUNDING = 1e-13
# Few values, so that groups tie; some are zero already, and some never vanish.
STRENGTH = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, math.inf])


@st.composite
def networks(draw):
    """Strengths and counts of each layer, and the constraints."""
    layers = draw(
        st.lists(
            st.lists(st.tuples(STRENGTH, st.sampled_from([1.0, 2.0, 7.0])), min_size=1, max_size=9),
            min_size=1,
            max_size=4,
        )
    )
    keep, multiple = draw(st.integers(0, 3)), draw(st.sampled_from([1, 2, 3, 8]))
    found = [tuple(map(np.array, zip(*groups, strict=True))) for groups in layers]
    return found, keep, multiple, draw(st.sampled_from([0.01, 0.25, 0.5, 0.7, 0.99]))


def allowed(strengths, keep, multiple):
    """The numbers of zero groups that some strength makes and the constraints let be, in ascending order."""
    n = len(strengths)
    possible = sorted({int((strengths <= lam).sum()) for lam in {0.0, *strengths} if lam < math.inf})
    good = [k for k in possible if n - k >= min(keep, n) and ((n - k) % multiple == 0)]
    return sorted({possible[0], *good})


def mass(strengths, counts, k):
    return counts[np.argsort(strengths, kind="stable")[:k]].sum()


def by_force(network, keep, multiple, lam):
    """The number of zeros of each layer at a common strength."""
    found = []
    for strengths, _ in network:
        options = allowed(strengths, keep, multiple)
        below = [k for k in options if k <= (strengths <= lam).sum()]
        found.append(below[-1] if below else options[0])
    return found


def made(network, keep, multiple):
    sizes = np.array([len(counts) for _, counts in network])
    strengths, counts = (np.concatenate(arrays) for arrays in zip(*network, strict=True))
    # Units of a half, so that what a group counts is not what its layer's sums are made of.
    twice = (2.0 * counts).astype(np.int64)
    units = np.full(len(sizes), 0.5)
    return Layers(Candidates(strengths, twice, sizes, units, np.minimum(keep, sizes), multiple, ROUNDING))


def zeros(network, outcome):
    return [int((s <= lam).sum()) for (s, _), lam in zip(network, outcome.strengths, strict=True)]


@given(networks())
def test_one_strength_for_all_layers_against_brute_force(drawn):
    network, keep, multiple, wanted = drawn
    layers, total = made(network, keep, multiple), sum(c.sum() for _, c in network)

    def share(ks):
        return sum(mass(s, c, k) for (s, c), k in zip(network, ks, strict=True)) / total

    candidates = sorted({0.0, *(x for s, _ in network for x in s if x < math.inf)})
    shares = {lam: share(by_force(network, keep, multiple, lam)) for lam in candidates}
    most = max(shares.values())
    outcome = for_total(layers, wanted, multiple > 1)
    if outcome is None:
        assert all((s == math.inf).all() for s, _ in network)
        return
    if multiple > 1:
        good = [lam for lam in candidates if shares[lam] <= wanted + 1e-12]
        expected = max((shares[lam] for lam in good), default=shares[0.0])
        assert outcome.share <= max(wanted, shares[0.0]) + 1e-12
    else:
        good = [lam for lam in candidates if shares[lam] >= wanted - 1e-12]
        expected = shares[min(good)] if good else most
        least = min(good) if good else min(lam for lam in candidates if shares[lam] >= most - 1e-12)
        assert outcome.lam == pytest.approx(least, rel=1e-12)
    assert outcome.share == pytest.approx(expected, abs=1e-12)
    # By the strict rule the largest share that is not above the wanted one.
    assert outcome.reachable == pytest.approx(expected if multiple > 1 else most, abs=1e-12)
    short = multiple > 1 and expected < wanted * (1 - 1e-9)
    assert outcome.rounded == (short and most >= wanted * (1 - 1e-9))
    assert share(zeros(network, outcome)) == pytest.approx(outcome.share, abs=1e-12)
    for (s, _), k in zip(network, zeros(network, outcome), strict=True):
        assert k in allowed(s, keep, multiple)


@given(networks(), st.sampled_from([1, 3]))
def test_a_strength_that_is_selected_is_that_of_all_sorted(drawn, count):
    """Where one is, and that is wherever groups count alike and no constraint or tie is in the way."""
    network, keep, _, wanted = drawn
    sizes = np.array([len(s) for s, _ in network])
    strengths, keep = np.concatenate([s for s, _ in network]), np.minimum(keep, sizes)
    n, alike = len(strengths), np.full(len(strengths), count)
    groups = Candidates(strengths, alike, sizes, np.ones(len(sizes)), keep, 1, ROUNDING)
    found, outcome = by_selection(groups, wanted), for_total(Layers(groups), wanted, False)
    if found is not None:
        assert outcome is not None
        assert found[:3:2] == outcome[:3:2]
        assert (found.strengths == outcome.strengths).all()
        assert found.reachable >= wanted * (1 - 1e-12)
    k = math.ceil(wanted * n * (1 - 1e-12))
    ranked = np.sort(strengths)
    apart = 0 < ranked[k - 1] < math.inf and (k == n or ranked[k - 1] < ranked[k])
    lost = [(s <= ranked[k - 1]).sum() for s, _ in network]
    assert (found is not None) == (apart and bool((sizes - lost >= keep).all()))


def test_shares_at_the_edge_of_a_group_are_rounded_alike():
    """As many groups as sorting all of them would say, whatever the last digit."""
    for n in range(1, 40):
        given = Candidates(
            np.arange(1.0, n + 1), np.ones(n, int), np.array([n]), np.ones(1), np.zeros(1, int), 1, ROUNDING
        )
        for k in range(1, n):
            for edge in (k / n, k / n / (1 - 1e-12), k / n * (1 + 1e-12)):
                for wanted in (math.nextafter(edge, 0), edge, math.nextafter(edge, 1)):
                    assert by_selection(given, wanted)[:3:2] == for_total(Layers(given), wanted, False)[:3:2]


def test_what_is_not_alike_is_not_selected():
    one, two = np.ones(2), np.array([2, 2])
    given = Candidates(np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4, int), two, one, np.zeros(2, int), 1, 0.0)
    assert by_selection(given, 0.5).lam == 2.0
    for other in (
        {"counts": np.array([1, 1, 1, 2])}, {"counts": np.zeros(4, int)}, {"units": 2 * one}, {"multiple": 2},
        {"strengths": np.array([1.0, 2.0, 2.0 + 1e-14, 4.0]), "rounding": 1e-14}, {"keep": np.array([1, 0])},
    ):  # fmt: skip
        assert by_selection(given._replace(**other), 0.5) is None


@given(networks())
def test_a_strength_for_each_layer_against_brute_force(drawn):
    network, keep, multiple, wanted = drawn
    outcome = for_each(made(network, keep, multiple), wanted, multiple > 1)
    for (s, c), k in zip(network, zeros(network, outcome), strict=True):
        options = allowed(s, keep, multiple)
        shares = [mass(s, c, option) / c.sum() for option in options]
        if multiple > 1:
            below = [option for option, x in zip(options, shares, strict=True) if x <= wanted + 1e-12]
            assert k == (below[-1] if below else options[0])
            assert outcome.reachable <= mass(s, c, k) / c.sum() + 1e-12
        else:
            above = [option for option, x in zip(options, shares, strict=True) if x >= wanted - 1e-12]
            assert k == (above[0] if above else options[-1])


@given(networks(), st.sampled_from([0.0, 0.7, 2.0, 100.0]))
def test_a_strength_that_is_given_against_brute_force(drawn, lam):
    network, keep, multiple, _ = drawn
    outcome = for_strength(made(network, keep, multiple), lam)
    assert zeros(network, outcome) == by_force(network, keep, multiple, lam)
    assert all(strength <= lam for strength in outcome.strengths)


# In steps of optimizers on arrays


def drawn_problem(rng):
    """Parameters and gradients of a few layers, with penalties of which some are not convex."""
    penalties = [
        pl.GroupLasso(0.3),
        pl.GroupMCP(0.5, gamma=3.0, groups=pl.Groups.over(0)),
        pl.SparseGroupLasso(0.1, 0.4),
        pl.GroupL0(0.2, weights="sqrt_size"),
    ]
    shapes = [(int(n), int(m)) for n, m in rng.integers(2, 20, size=(len(penalties), 2))]
    params = {f"w{k}": rng.normal(size=shape) * 2.0 ** rng.integers(-4, 5) for k, shape in enumerate(shapes)}
    grads = {name: rng.normal(size=w.shape) for name, w in params.items()}
    return params, grads, dict(zip(params, penalties, strict=True))


def alive(params, penalties):
    """Of each layer which groups are not zero, and their sizes."""
    found = {}
    for name, w in params.items():
        rows = w.T if penalties[name].groups == pl.Groups.over(0) else w
        found[name] = (rows != 0).any(axis=1), rows.shape[1]
    return found


@given(
    seed=st.integers(0, 2**32 - 1),
    target=st.sampled_from([0.2, 0.5, 0.9, 0.99]),
    keep=st.integers(0, 4),
    multiple=st.sampled_from([1, 4]),
    per=st.sampled_from(["network", "layer"]),
    budget=st.sampled_from(["groups", "parameters"]),
    steps=st.integers(1, 3),
)
@pytest.mark.filterwarnings("ignore:target")
def test_steps_keep_to_the_budget(seed, target, keep, multiple, per, budget, steps):
    rng = np.random.default_rng(seed)
    params, grads, penalties = drawn_problem(rng)
    options = {"keep_at_least": keep, "multiple_of": multiple, "per": per, "budget": budget}
    optimizer = ProxAdam(lr=0.01, sparsity=TargetSparsity(target, **options))
    state = optimizer.init(params, penalties)
    for _ in range(steps):
        params, state = optimizer.step(params, grads, state)
    found = alive(params, penalties)
    counts = {name: (size if budget == "parameters" else 1) for name, (_, size) in found.items()}
    total = sum(len(living) * counts[name] for name, (living, _) in found.items())
    zero = {name: int((~living).sum()) * counts[name] for name, (living, _) in found.items()}
    assert state.history[-1]["sparsity"] == pytest.approx(sum(zero.values()) / total)
    for name, (living, _) in found.items():
        n, left = len(living), int(living.sum())
        assert left >= min(keep, n)
        assert left % multiple == 0 or left == n or steps > 1
        if per == "layer" and multiple == 1:
            wanted = min(math.ceil(target * n - 1e-9), n - min(keep, n))
            assert zero[name] == wanted * counts[name]
        if per == "layer" and multiple > 1 and steps == 1:
            assert zero[name] <= target * n * counts[name] + 1e-9
    if per == "network" and multiple == 1 and "reachable" not in state.history[-1]:
        assert sum(zero.values()) >= target * total - 1e-9
        assert sum(zero.values()) < target * total + max(counts.values())
    if multiple > 1 and steps == 1:
        assert sum(zero.values()) <= target * total + 1e-9


def test_ninety_nine_percent_do_not_empty_a_layer():
    rng = np.random.default_rng(0)
    params = {"small": rng.normal(size=(10, 4)) * 1e-3, "large": rng.normal(size=(500, 4))}
    grads = {name: rng.normal(size=w.shape) for name, w in params.items()}
    optimizer = ProxAdam(lr=1e-4, sparsity=TargetSparsity(0.99))
    state = optimizer.init(params, pl.GroupLasso(0.1))
    new, state = optimizer.step(params, grads, state)
    assert (new["small"] != 0).any(axis=1).sum() == 1
    assert sum((w != 0).any(axis=1).sum() for w in new.values()) == 5
    # What others would have given is made up for by those that may.
    optimizer = ProxAdam(lr=1e-4, sparsity=TargetSparsity(0.99, keep_at_least=0))
    new, _ = optimizer.step(params, grads, optimizer.init(params, pl.GroupLasso(0.1)))
    assert not new["small"].any()


def test_a_target_out_of_reach_is_said():
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=(4, 3)) for name in "ab"}
    grads = {name: rng.normal(size=w.shape) for name, w in params.items()}
    target = TargetSparsity(0.9, keep_at_least=2, ramp="linear", ramp_steps=3)
    optimizer = ProxAdam(lr=1e-3, sparsity=target)
    state = optimizer.init(params, pl.GroupLasso(0.1))
    for _ in range(2):
        params, state = optimizer.step(params, grads, state)
    with pytest.warns(
        UserWarning, match=r"target: a sparsity of 0.9 cannot be reached, only 0.5.*keep_at_least"
    ):
        params, state = optimizer.step(params, grads, state)
    # Errors otherwise: it is said once.
    params, state = optimizer.step(params, grads, state)
    assert [entry.get("reachable") for entry in state.history] == [None, 0.5, 0.5, 0.5]
    assert state.history[-1]["sparsity"] == 0.5


def test_rounding_of_widths_is_said_in_the_history_alone():
    """Of layers of 20 groups with widths of 8 or 16 a fifth or three fifths vanish; a half is wanted."""
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=(20, 3)) for name in "ab"}
    grads = {name: rng.normal(size=w.shape) for name, w in params.items()}
    for per in ("network", "layer"):
        optimizer = ProxAdam(lr=1e-3, sparsity=TargetSparsity(0.5, multiple_of=8, per=per))
        state = optimizer.init(params, pl.GroupLasso(0.1))
        _, state = optimizer.step(params, grads, state)
        entry = state.history[-1]
        assert entry["sparsity"] == entry["reachable"]
        assert entry["sparsity"] == pytest.approx(0.2 if per == "layer" else 0.4)
        assert entry["rounded"]
    # Out of reach for another reason: 20 groups that are kept leave no other width.
    optimizer = ProxAdam(lr=1e-3, sparsity=TargetSparsity(0.5, multiple_of=8, keep_at_least=20))
    state = optimizer.init(params, pl.GroupLasso(0.1))
    with pytest.warns(UserWarning, match=r"a sparsity of 0.5 cannot be reached, only 0:"):
        _, state = optimizer.step(params, grads, state)
    assert "rounded" not in state.history[-1]


@pytest.mark.parametrize("method", ["quantile", "multiplicative"])
def test_constraints_hold_between_decisions(method):
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=(12, 3)) * scale for name, scale in (("a", 1.0), ("b", 0.01))}
    penalty = pl.GroupLasso(0.5)
    target = TargetSparsity(0.7, method, every=5, keep_at_least=3, multiple_of=3, rate=2.0)
    optimizer = ProxAdam(lr=0.05, sparsity=target)
    state = optimizer.init(params, penalty)
    for _ in range(12):
        grads = {name: rng.normal(size=w.shape) for name, w in params.items()}
        params, state = optimizer.step(params, grads, state)
        assert all((w != 0).any(axis=1).sum() >= 3 for w in params.values())
    assert [entry["step"] for entry in state.history if "lam" in entry] == [1, 6, 11]


def test_operations_need_to_be_known():
    x = np.ones((4, 2)) * np.arange(1.0, 5.0)[:, None]
    target = TargetSparsity(0.5, budget="flops", keep_at_least=0)
    with pytest.raises(ValueError, match=r"budget: \"flops\" needs to know.*example_inputs="):
        target.update(target.init(1.0), 1, [ProxProblem(pl.GroupLasso(1.0), x, None, 1.0)], [], None)
    # One layer of two has ten times the operations: four groups of it and none of the other are half.
    problems = [
        ProxProblem(pl.GroupLasso(1.0), x * s, None, 1.0, uses=u) for s, u in ((1.0, 1.0), (2.0, 10.0))
    ]
    resting = [Resting(np.array([False, True]), np.array([2, 2]), 3.0)]
    _, state = target.update(target.init(1.0), 1, problems, resting, None)
    zeros = [~pl.prox(pl.GroupLasso(state["lam"]), p.x, 1.0).any(axis=1) for p in problems]
    costs = [2.0, 20.0]
    share = (sum(c * z.sum() for c, z in zip(costs, zeros, strict=True)) + 6.0) / (4 * 22.0 + 12.0)
    assert state["sparsity"] == pytest.approx(share)
    assert share >= 0.5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"per": "channel"}, ValueError, "per: must be one of 'network', 'layer', got 'channel'"),
        (
            {"budget": "time"},
            ValueError,
            "budget: must be one of 'groups', 'parameters', 'flops', got 'time'",
        ),
        ({"budget": "flops", "weighted": True}, ValueError, 'weighted: is budget="parameters"'),
        ({"keep_at_least": -1}, ValueError, "keep_at_least: must be"),
        ({"keep_at_least": 1.5}, ValueError, "keep_at_least: must be a whole number"),
        ({"multiple_of": 0}, ValueError, "multiple_of: must be"),
        ({"multiple_of": "8"}, TypeError, "multiple_of: must be"),
        ({"per": "layer", "method": "multiplicative"}, ValueError, 'per: "layer" goes with'),
        ({"per": "layer", "every": 2}, ValueError, 'per: "layer" goes with'),
    ],
)
def test_options_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        TargetSparsity(0.5, **options)


def test_each_layer_has_to_reach_the_target():
    network = [(np.arange(1.0, n + 1.0), np.ones(n)) for n in (8, 100)]
    assert for_each(made(network, 8, 1), 0.5, False).reachable == 0.0
    assert for_each(made(network[1:], 8, 1), 0.5, False).reachable == 0.92
