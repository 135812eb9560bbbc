"""Steps that decide on a strength: compiled passes tell of all groups, and go on to the same zeros."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab.optim import TargetSparsity  # noqa: E402
from proxlab.torch import group_sparsity  # noqa: E402
from tests.optim.methods import FEW  # noqa: E402
from tests.torch.methods import METHODS  # noqa: E402
from tests.torch.test_together import assert_same, forget, parameters, push  # noqa: E402

pytestmark = pytest.mark.torch

over = pl.Groups.over
KINDS = [
    lambda lam, **o: pl.GroupLasso(lam, **o),
    lambda lam, **o: pl.GroupLasso(lam, weights="sqrt_size", **o),
    lambda lam, **o: pl.GroupElasticNet(lam, 0.1, **o),
    lambda lam, **o: pl.GroupMCP(lam, gamma=2.5, **o),
    lambda lam, **o: pl.GroupL0(lam, **o),
]
TARGETS = [
    {}, {"keep_at_least": 0}, {"budget": "parameters"}, {"per": "layer"}, {"multiple_of": 2}, {"every": 2},
    {"every": 2, "keep_at_least": 2}, {"method": "multiplicative", "keep_at_least": 2, "rate": 2.0},
]  # fmt: skip
# Two ways of the same arithmetic, of several steps of which each goes on from the last.
NEAR = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2}


def network(kind, dtype, seed):
    """Rows, columns and channels, a free vector and joint groups; some groups are equal."""
    rng = np.random.default_rng(seed)
    shapes = [(6, 70), (4, 5), (9,), (70, 6), (5, 3, 3, 3), (6, 4), (6, 5)]
    params = [nn.Parameter(torch.tensor(rng.normal(size=shape), dtype=dtype)) for shape in shapes]
    rows, few, free, columns, channels, *both = params
    few.data[1] = few.data[0]
    return [
        {"params": [rows, few], "penalty": kind(0.3)},
        {"params": [free]},
        {"params": [columns], "penalty": kind(0.2, groups=over(0))},
        {"params": [channels], "penalty": kind(0.1, groups=over(1))},
        {"params": both, "penalty": kind(0.3), "joint": [over(1), over(1)]},
    ]


def check_decisions(name, kind, dtype, target, share, seed):
    """Compare with the steps that form all points first; what the history says is what is there."""
    ours, theirs = (
        METHODS[name](network(kind, dtype, seed), fused=fused, sparsity=TargetSparsity(share, **target))
        for fused in (None, False)
    )
    near = NEAR[dtype]
    for step in range(4):
        for optimizer in (ours, theirs):
            push(optimizer, step)
        assert len(ours.history) == len(theirs.history)
        for a, b in zip(ours.history, theirs.history, strict=True):
            assert a.keys() == b.keys()
            assert list(a.values()) == pytest.approx(list(b.values()), rel=near, abs=1e-12)
        pairs = [(p, q) for g, h in zip(ours.param_groups, theirs.param_groups, strict=True)
                 for p, q in zip(g["params"], h["params"], strict=True)]  # fmt: skip
        for p, q in pairs:
            assert torch.equal(p == 0, q == 0)
            torch.testing.assert_close(p, q, rtol=10 * near, atol=near)
        exact = not {"every", "method"} & target.keys() and "momentum" not in name
        if exact:
            total = group_sparsity(ours).total
            found = total.weighted if "budget" in target else total.sparsity
            assert ours.history[-1]["sparsity"] == pytest.approx(found, abs=1e-12)
    return ours


kinds, targets, shares = st.sampled_from(KINDS), st.sampled_from(TARGETS), st.sampled_from([0.2, 0.5, 0.7])


@settings(max_examples=25)
@given(kinds, st.sampled_from([torch.float32, torch.bfloat16]), targets, shares, st.integers(0, 10**6))
def test_what_passes_tell_is_what_points_would(kind, dtype, target, share, seed):
    check_decisions("adamw", kind, dtype, target, share, seed)


@pytest.mark.kernels
@pytest.mark.parametrize("name", FEW)
@settings(max_examples=25)
@given(kinds, st.sampled_from([*NEAR]), targets, shares, st.integers(0, 10**6))
def test_what_passes_of_each_method_tell(name, kind, dtype, target, share, seed):
    if not METHODS[name].make.rule.convex or kind(1.0).is_convex:
        check_decisions(name, kind, dtype, target, share, seed)


@pytest.mark.parametrize("target", [TARGETS[0], TARGETS[4]])
def test_what_is_kept_decides_as_a_first_step_does(target):
    made = [
        METHODS["adamw"](network(KINDS[0], torch.float32, 3), sparsity=TargetSparsity(0.5, **target))
        for _ in range(2)
    ]
    for step in range(5):
        for optimizer in made:
            push(optimizer, step)
        assert made[0]._kept is not None
        assert made[0].history == made[1].history
        assert_same(*made)
        forget(made[1])


@pytest.mark.parametrize("bad", range(6))
def test_an_error_comes_before_a_strength_is_decided(bad):
    """Of a gradient or a state that is not finite, while something is kept."""
    optimizer = METHODS["adamw"](network(KINDS[0], torch.float32, 1), sparsity=TargetSparsity(0.5))
    for step in range(2):
        push(optimizer, step)
    params = [p for group in optimizer.param_groups for p in group["params"] if group["penalty"] is not None]
    p = params[bad]
    (p.grad if bad % 2 else optimizer.state[p]["exp_avg"])[-1, 0] = torch.inf
    every = [p for group in optimizer.param_groups for p in group["params"]]
    before = [[a.clone() for a in (p.detach(), *optimizer.state[p].values())] for p in every]
    driven, said = dict(optimizer.param_groups[0]["sparsity"]), len(optimizer.history)
    with pytest.raises(ValueError, match=r"param group \d+.* must be finite"):
        optimizer.step()
    assert optimizer.param_groups[0]["sparsity"] == driven
    assert len(optimizer.history) == said
    for p, old in zip(every, before, strict=True):
        for new, was in zip((p.detach(), *optimizer.state[p].values()), old, strict=True):
            torch.testing.assert_close(new, was, rtol=0, atol=0, equal_nan=True)


def test_what_sums_do_not_tell_goes_the_long_way():
    """An elementwise part, and squares that leave the range of float64."""
    for penalty, scale, dtype in (
        (pl.SparseGroupLasso(0.1, 0.1), 1.0, torch.float32),
        (pl.GroupLasso(0.1), 1e-170, torch.float64),
    ):
        (p,) = parameters([(6, 7)])
        p.data = scale * p.data.to(dtype)
        optimizer = METHODS["adamw"](
            [{"params": [p]}], penalty=penalty, lr=scale, sparsity=TargetSparsity(0.5, keep_at_least=0)
        )
        for _ in range(3):
            p.grad = torch.zeros_like(p)
            optimizer.step()
            assert int((~p.detach().any(1)).sum()) == 3


@pytest.mark.parametrize("fused", [None, False])
def test_a_strength_that_leaves_the_range_is_out_of_reach(fused):
    """As a multiple of one that is given as 1e-300; nothing but a warning says so."""
    p = nn.Parameter(torch.randn(12, 12, dtype=torch.float64))
    p.grad = torch.randn(12, 12, dtype=torch.float64)
    optimizer = METHODS["adamw"](
        [{"params": [p], "penalty": pl.GroupLasso(1e-300)}],
        lr=1e-10,
        fused=fused,
        sparsity=TargetSparsity(0.5),
    )
    with pytest.warns(UserWarning, match="cannot be reached"):
        optimizer.step()
    assert optimizer.history[-1]["reachable"] == 0.0
    assert bool((p != 0).all())
