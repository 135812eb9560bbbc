"""What users change between steps, bring in a state, or push out of range: taken, or refused by name."""

import copy
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab import torch as pt  # noqa: E402
from proxlab.inexactness import Constant, Distance  # noqa: E402
from proxlab.optim import TargetSparsity  # noqa: E402
from tests.optim.methods import FEW  # noqa: E402
from tests.torch.methods import METHODS  # noqa: E402

pytestmark = pytest.mark.torch

OVER = pl.Groups.over
#: A method and ``fused``: compiled that which takes least.
WAYS = st.one_of(
    st.tuples(st.just("sgd"), st.none()),
    st.tuples(st.sampled_from(sorted(METHODS)), st.just(False)),
)


def everything(optimizer, *others):
    """Copies of all weights and states."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    states = [(k, a) for p in params for k, a in sorted(optimizer.state.get(p, {}).items())]
    return [a.detach().clone() for a in (*params, *others)], [(k, a.clone()) for k, a in states]


def assert_unchanged(optimizer, before, *others):
    weights, states = everything(optimizer, *others)
    assert all(map(torch.equal, weights, before[0]))
    assert [k for k, _ in states] == [k for k, _ in before[1]]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(states, before[1], strict=True))


def push(optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


@given(
    way=WAYS, steps=st.integers(0, 3), seed=st.integers(0, 99),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)  # fmt: skip
def test_members_of_joint_groups_never_step_outside_of_their_memory(way, steps, seed, sizes):
    """Where a part gets another shape, the groups may not be as many any more."""
    name, fused = way
    torch.manual_seed(seed)
    guard, gradients = torch.full((1000,), 7.0), torch.full((1000,), 0.5)
    a, b = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(5))
    group = {"params": [a, b], "joint": [OVER(1), OVER(())], "penalty": pl.GroupLasso(0.1)}
    optimizer = METHODS[name]([group], fused=fused)
    for k in range(steps):
        push(optimizer, k)
        optimizer.step()
    for p, n, begin, shape in ((a, sizes[0], 100, (-1, 3)), (b, sizes[1], 600, (-1,))):
        length = 3 * n if p is a else n
        p.data = guard[begin : begin + length].view(shape)
        p.grad = gradients[begin : begin + length].view(shape)
    arrays = any(v.dim() for p in (a, b) for v in optimizer.state.get(p, {}).values())
    if sizes[0] != sizes[1] or (arrays and sizes[0] != 5):
        before = everything(optimizer, guard)
        with pytest.raises(ValueError, match=r"^param group 0"):
            optimizer.step()
        assert_unchanged(optimizer, before, guard)
        return
    optimizer.step()
    outside = torch.ones(1000, dtype=torch.bool)
    outside[100 : 100 + 3 * sizes[0]] = outside[600 : 600 + sizes[1]] = False
    assert (guard[outside] == 7.0).all()
    assert (guard[~outside] != 7.0).all()


#: What is set between steps and fits no more, and what the error says.
UNFIT = {
    "weights": ({"penalty": pl.GroupLasso(0.1, weights=[1.0, 2.0])}, "weights: must have one entry"),
    "axis": ({"penalty": pl.GroupLasso(0.1, groups=OVER(5))}, "axis 5 is out of range"),
    "no penalty": ({"penalty": 3.0}, "penalty: must be a proxlab penalty"),
    "too few": ({"joint": [OVER(1)]}, "joint: must hold groups for each"),
    "none": ({"joint": []}, "joint: must hold groups for each"),
    "counts": ({"joint": [OVER(0), OVER(())]}, "joint: every parameter must have as many groups"),
    "labels": ({"joint": [pl.Groups.labels(np.zeros((5, 3), int)), OVER(())]}, "must be groups by axes"),
    "no list": ({"joint": OVER(1)}, "joint: must be a list"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNFIT)
@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_what_does_not_fit_any_more_is_an_error_before_anything_changes(what, fused, name):
    change, told = UNFIT[what]
    joint = "joint" in change
    params = [nn.Parameter(torch.randn(s)) for s in ((4, 4), (5, 3), (5,))]
    second = {"params": params[1:], "joint": [OVER(1), OVER(())]} if joint else {"params": params[1:2]}
    optimizer = METHODS[name]([{"params": params[:1]}, second], penalty=pl.GroupLasso(0.1), fused=fused)
    for k in range(3):
        push(optimizer, k)
        optimizer.step()
    optimizer.param_groups[1].update(change)
    push(optimizer, 3)
    before = everything(optimizer)
    with pytest.raises((ValueError, TypeError), match=rf"^param group 1.*{told}"):
        optimizer.step()
    assert_unchanged(optimizer, before)


@pytest.mark.parametrize("name", ["linbreg", "adabreg"])
def test_a_penalty_that_is_set_later_is_of_the_kind_that_a_method_takes(name):
    params = [nn.Parameter(torch.randn(4, 3))]
    optimizer = METHODS[name](params, penalty=pl.GroupLasso(0.1), fused=False)
    push(optimizer, 0)
    optimizer.step()
    optimizer.param_groups[0]["penalty"] = pl.GroupMCP(0.1, gamma=3.0)
    before = everything(optimizer)
    with pytest.raises(ValueError, match="param group 0: penalty: must be convex"):
        optimizer.step()
    assert_unchanged(optimizer, before)


@pytest.mark.parametrize("in_place", [True, False])
def test_other_joint_groups_are_those_of_the_next_step(in_place):
    found = []
    for fused in (None, False):
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))]
        group = {"params": params, "joint": [OVER(1), OVER(())], "penalty": pl.GroupLasso(0.5)}
        optimizer = METHODS["adamw"]([group], fused=fused)
        for k in range(5):
            if k == 3 and in_place:
                optimizer.param_groups[0]["joint"][0] = OVER(0)
            elif k == 3:
                optimizer.param_groups[0]["joint"] = [OVER(0), OVER(())]
            push(optimizer, k)
            optimizer.step()
        found.append(params)
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fused", [None, False])
def test_a_member_that_becomes_half_is_refused(fused):
    params = [nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(4))]
    group = {"params": params, "joint": [OVER(1), OVER(())], "penalty": pl.GroupLasso(0.1)}
    optimizer = pt.ProxAdamW([group], fused=fused)
    params[1].data = params[1].data.half()
    push(optimizer, 0)
    with pytest.raises(ValueError, match=r"param group 0: joint: .* of one dtype"):
        optimizer.step()


@pytest.mark.parametrize("name", ["rmda", "ramda", "adagrad", "adamw"])
@pytest.mark.parametrize("fused", [None, False])
def test_members_that_count_otherwise_have_one_prox_only_if_its_step_is_one(name, fused):
    """Dual averaging and a decay of Adagrad's make it depend on the count."""
    params = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))]
    first = METHODS[name](params, fused=False)
    for k in range(9):
        push(first, k)
        if k < 6:
            params[1].grad = None
        first.step()
    group = {"params": params, "joint": [OVER(1), OVER(())], "penalty": pl.GroupLasso(0.1)}
    optimizer = METHODS[name]([group], fused=fused)
    optimizer.load_state_dict(first.state_dict())
    push(optimizer, 9)
    if name == "adamw":
        optimizer.step()
        return
    before = everything(optimizer)
    with pytest.raises(ValueError, match=r"param group 0 \(joint\): .* as many steps, got \[9, 3\]"):
        optimizer.step()
    assert_unchanged(optimizer, before)


@given(
    way=WAYS, bad=st.sampled_from([math.nan, math.inf]),
    method=st.sampled_from([None, "quantile", "multiplicative"]), axis=st.sampled_from([0, 1]),
    steps=st.integers(1, 3), dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_bad_gradients_are_errors_at_rate_0(way, bad, method, axis, steps, dtype):
    """A warm-up begins there: no prox would find them, and what is kept would stay so."""
    name, fused = way
    params = [nn.Parameter(torch.randn(6, 5).to(dtype)) for _ in range(2)]
    target = None if method is None else TargetSparsity(0.5, method=method)
    options = {} if target is None else {"sparsity": target}
    penalty = pl.GroupLasso(0.01, groups=OVER(axis))
    optimizer = METHODS[name](params, penalty=penalty, fused=fused, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k in range(steps):
            push(optimizer, k)
            optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.0
        push(optimizer, steps)
        params[1].grad[2, 3] = bad
        before = everything(optimizer)
        with pytest.raises(ValueError, match=r"param group 0, parameter 1 .* must be finite"):
            optimizer.step()
    assert_unchanged(optimizer, before)


#: Arrays that no step leaves, and the error.
BROUGHT = {
    "sparse": (lambda a: a.to_sparse(), TypeError, "must be dense"),
    "complex": (lambda a: a + 1j, TypeError, "must be dense, of a real"),
    "int": (lambda a: a.long(), TypeError, "must be dense, of a real"),
    "bool": (lambda a: a > 0, TypeError, "must be dense, of a real"),
    "meta": (lambda a: a.to("meta"), TypeError, "must be dense, .* on meta"),
    "nan": (lambda a: torch.full_like(a, math.nan), ValueError, "must be finite"),
    "inf": (lambda a: torch.full_like(a, -math.inf), ValueError, "must be finite"),
    "negative": (lambda a: a.abs().neg() - 1e-9, ValueError, "must be at least 0"),
}
SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "square_sum")


@given(st.data(), st.sampled_from(sorted(METHODS)), st.sampled_from(sorted(BROUGHT)))
def test_a_state_that_no_step_leaves_is_not_loaded(data, name, what):
    make, error, told = BROUGHT[what]
    params = [nn.Parameter(torch.randn(4, 3)) for _ in range(2)]
    optimizer = METHODS[name](params, penalty=pl.GroupLasso(0.01), fused=False)
    for k in range(2):
        push(optimizer, k)
        optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    slots = [k for k, a in saved["state"].get(1, {}).items() if a.dim()]
    slots = [k for k in slots if what != "negative" or k in SQUARES]
    if not slots:
        return
    slot = data.draw(st.sampled_from(slots))
    saved["state"][1][slot] = make(saved["state"][1][slot])
    saved["param_groups"][0]["lr"] = 0.3
    before, rate = everything(optimizer), optimizer.param_groups[0]["lr"]
    with pytest.raises(error, match=rf"param group 0, parameter 1 .* its state '{slot}' {told}"):
        optimizer.load_state_dict(saved)
    assert_unchanged(optimizer, before)
    assert optimizer.param_groups[0]["lr"] == rate


@pytest.mark.parametrize(
    ("name", "fused"),
    [
        pytest.param(name, fused, marks=[] if name in FEW or fused is False else [pytest.mark.kernels])
        for name in sorted(METHODS)
        for fused in (None, False)
    ],
)
@pytest.mark.parametrize("size", [1e18, 1e20, 1e30, 3e38])
def test_finite_gradients_leave_finite_states_or_nothing(name, fused, size):
    """Their squares may leave the range: an infinite second moment would stop an element for ever."""
    torch.manual_seed(0)
    optimizer = METHODS[name]([nn.Parameter(torch.randn(4, 3))], penalty=pl.GroupLasso(1e-3), fused=fused)
    push(optimizer, 0)
    optimizer.step()
    push(optimizer, 1)
    optimizer.param_groups[0]["params"][0].grad[1, 1] = size
    before = everything(optimizer)
    try:
        optimizer.step()
    except ValueError as error:
        assert "param group 0, parameter 0" in str(error)  # noqa: PT017
        assert_unchanged(optimizer, before)
    weights, states = everything(optimizer)
    assert all(bool(torch.isfinite(a).all()) for a in (*weights, *(a for _, a in states)))


@given(
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), st.integers(0, 99),
    st.integers(1, 40), st.booleans(),
)  # fmt: skip
def test_certificates_are_of_the_weights_that_a_step_leaves(dtype, seed, n, joint):
    """In half precision, where it is rounded last; in the identity metric the prox has a closed form."""
    generator = torch.Generator().manual_seed(seed)
    params = [nn.Parameter(torch.randn(6, n, generator=generator).to(dtype)) for _ in range(2)]
    groups = {"params": params, "joint": [OVER(1)] * 2} if joint else {"params": params}
    optimizer = pt.ProxSGD([groups], lr=0.125, penalty=pl.GroupLasso(0.5), certify_every=1)
    push(optimizer, seed)
    # In single precision, as the step forms it.
    points = [(p.detach().float() - 0.125 * p.grad.float()).double() for p in params]
    parts = [torch.cat(points, 1)] if joint else points
    truth = [x * (1 - 0.125 * 0.5 / x.norm(dim=1, keepdim=True)).clamp(min=0) for x in parts]
    optimizer.step()
    found = [p.detach().double() for p in params]
    found = [torch.cat(found, 1)] if joint else found
    off = math.hypot(*(float((a - b).norm()) for a, b in zip(found, truth, strict=True)))
    assert off <= optimizer.history[-1]["distance"] * (1 + 1e-12)
    assert optimizer.history[-1]["distance"] <= 1.01 * off + 1e-5


def test_a_tolerance_below_the_rounding_of_the_weights_is_not_proved():
    w = nn.Parameter(torch.randn(20, 30).bfloat16())
    tolerance = (Distance, Constant(1e-4))
    optimizer = pt.ProxSGD([w], lr=0.1, penalty=pl.GroupLasso(0.5), inexactness=tolerance)
    push(optimizer, 0)
    before = everything(optimizer)
    with pytest.raises(ValueError, match=r"inexactness: step 1, .*the weights are rounded"):
        optimizer.step()
    assert_unchanged(optimizer, before)


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("certify_every", [None, 1])
def test_weights_that_leave_the_range_of_float16_are_an_error(fused, certify_every):
    w = nn.Parameter(torch.full((2, 3), 6e4, dtype=torch.float16))
    options = {"fused": fused, "certify_every": certify_every}
    optimizer = pt.ProxSGD([w], lr=1e4, penalty=pl.GroupLasso(1e-9), **options)
    w.grad = -torch.ones_like(w)
    told = "(in the range of float16|z: must be finite.* rounded to the precision of the weights)"
    with pytest.raises(ValueError, match=rf"param group 0, parameter 0 .*{told}"):
        optimizer.step()
    assert (w == 6e4).all()


@given(st.sampled_from([0.0, 0.1, 0.4999, 0.5, 0.9]), st.integers(0, 99), st.booleans())
def test_adam_without_a_penalty_is_that_of_torch_for_any_betas(beta, seed, fused):
    """Gradients of all sizes: what comes is not lost beside what was."""
    rng = np.random.default_rng(seed)
    a, b = (nn.Parameter(torch.zeros(3, 2, dtype=torch.float64)) for _ in range(2))
    betas = (beta, 0.3)
    mine = pt.ProxAdam([a], lr=0.1, betas=betas, fused=None if fused else False)
    other = torch.optim.Adam([b], lr=0.1, betas=betas)
    size = torch.zeros_like(a)
    for _ in range(6):
        g = torch.from_numpy(rng.normal(size=(3, 2)) * 10.0 ** rng.uniform(-9, 9))
        a.grad, b.grad = g.clone(), g.clone()
        size = g.abs() + beta * size
        mine.step()
        other.step()
        off = mine.state[a]["exp_avg"] - other.state[b]["exp_avg"]
        assert (off.abs() <= 1e-14 * size).all()
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("inner", [torch.optim.NAdam, torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("lr", [0.1, 0.0])
def test_a_wrapper_looks_at_gradients_before_the_step_within(inner, lr):
    w, free = (nn.Parameter(torch.randn(4, 3)) for _ in range(2))
    optimizer = pt.ProxWrapper(inner([w, free], lr=lr), [{"params": [w], "penalty": pl.GroupLasso(0.01)}])
    push(optimizer, 0)
    optimizer.step()
    push(optimizer, 1)
    w.grad[0, 0] = math.nan
    before = everything(optimizer)
    with pytest.raises(ValueError, match=r"groups\[0\], parameter 0 .*: its gradient must be finite"):
        optimizer.step()
    assert_unchanged(optimizer, before)


def test_a_wrapper_refuses_joint_groups_whose_parts_have_other_steps():
    params = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))]
    group = {"params": params, "joint": [OVER(1), OVER(())], "penalty": pl.GroupLasso(0.1)}
    optimizer = pt.ProxWrapper(torch.optim.Adagrad(params, lr=0.1, lr_decay=0.1), [group])
    push(optimizer, 0)
    optimizer.step()
    push(optimizer, 1)
    params[1].grad = None
    with pytest.raises(ValueError, match="as many steps, got proxes with steps"):
        optimizer.step()
