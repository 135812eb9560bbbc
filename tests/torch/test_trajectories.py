"""What the optimizers compute: against PyTorch's own without a penalty, and against NumPy with one."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import proxlab as pl  # noqa: E402
from tests.torch.methods import METHODS, prox_rows  # noqa: E402

pytestmark = pytest.mark.torch

LAM = 0.3
RNG = np.random.default_rng(0)
START = RNG.normal(size=(6, 4))
DATA = RNG.normal(size=(30, 6))
TARGET = DATA @ np.diag([1.0, 0.5, 0.0, 0.0, 0.02, 0.0]) @ RNG.normal(size=(6, 4))


def gradient(w):
    """Of a least-squares problem with some rows that do not matter."""
    return DATA.T @ (DATA @ w - TARGET) / len(DATA)


def run(optimizer, w, steps=25, sign=1.0):
    path = []
    for _ in range(steps):
        w.grad = torch.from_numpy(sign * gradient(w.detach().double().numpy())).to(w.dtype)
        optimizer.step()
        path.append(w.detach().double().numpy().copy())
    return np.array(path)


def parameter(dtype=torch.float64):
    return torch.nn.Parameter(torch.tensor(START, dtype=dtype))


def by_numpy(reference, settings, steps=25, **mutation):
    """Run a method as its authors write it, on the rows of a group lasso."""
    w, state, path = START.copy(), {}, []
    keep = settings.get("momentum", 0.0) if reference.__name__ in ("rmda", "ramda") else 0.0
    for t in range(1, steps + 1):
        state["t"] = t
        x, d, eta = reference(w, gradient(w), state, settings | {"lam": LAM})
        z = prox_rows(x, mutation.get("metric", lambda d: d)(d), mutation.get("step", lambda e: e)(eta), LAM)
        w = keep * w + (1 - keep) * z
        path.append(w)
    return np.array(path)


@pytest.mark.parametrize("name", [name for name, m in METHODS.items() if m.torch])
@pytest.mark.parametrize("maximize", [False, True])
def test_without_a_penalty_it_is_the_optimizer_of_pytorch(name, maximize):
    method, sign = METHODS[name], -1.0 if maximize else 1.0
    ours, theirs = parameter(), parameter()
    a = run(method([ours], maximize=maximize), ours, sign=sign)
    b = run(method.plain([theirs], maximize=maximize), theirs, sign=sign)
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("fused", [None, False])
def test_with_a_penalty_it_is_the_method_of_the_paper(name, fused):
    method, w = METHODS[name], parameter()
    path = run(method([w], penalty=pl.GroupLasso(LAM), fused=fused), w)
    expected = by_numpy(method.reference, method.settings)
    np.testing.assert_allclose(path, expected, rtol=0, atol=1e-11)
    if "momentum" not in name or "sgd" in name or "rmsprop" in name:
        np.testing.assert_array_equal(path == 0, expected == 0)


@pytest.mark.parametrize("name", METHODS)
def test_float32_stays_near(name):
    method, w = METHODS[name], parameter(torch.float32)
    path = run(method([w], penalty=pl.GroupLasso(LAM)), w, steps=10)
    np.testing.assert_allclose(path, by_numpy(method.reference, method.settings, 10), rtol=0, atol=2e-5)


MUTANTS = {
    "the metric of the second moment without its bias corrected": {"metric": lambda d: d * 0.05},
    "the identity in place of the metric": {"metric": np.ones_like},
    "a step of 1": {"step": lambda eta: 1.0},
    "half the strength": {"step": lambda eta: 0.5 * eta},
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_scaling_is_told_apart(mutant):
    method, w = METHODS["adamw"], parameter()
    path = run(method([w], penalty=pl.GroupLasso(LAM)), w)
    wrong = by_numpy(method.reference, method.settings, **MUTANTS[mutant])
    assert np.abs(path - wrong).max() > 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_zeros_are_exact_and_can_come_back(name):
    method, w = METHODS[name], parameter()
    optimizer = method([w], penalty=pl.GroupLasso(30.0))
    run(optimizer, w, 60)
    averaged = "momentum" in name and ("rmda" in name or "ramda" in name)
    dual = "breg" in name
    if not (averaged or dual):
        assert not w.detach().numpy().any(axis=1).all()
    for group in optimizer.param_groups:
        group["penalty"] = pl.GroupLasso(1e-3)
    run(optimizer, w, 200)
    assert w.detach().numpy().any(axis=1)[:2].all()


def test_the_loss_of_a_closure_is_returned_and_its_gradient_used():
    a, b = parameter(), parameter()
    one, two = (METHODS["adamw"]([p], penalty=pl.GroupLasso(LAM)) for p in (a, b))
    data, target = torch.from_numpy(DATA), torch.from_numpy(TARGET)

    def loss(w):
        return 0.5 * ((data @ w - target) ** 2).sum() / len(data)

    def closure():
        one.zero_grad()
        value = loss(a)
        value.backward()
        return value

    for _ in range(3):
        expected = loss(b)
        returned = one.step(closure)
        assert float(returned.detach()) == pytest.approx(float(expected.detach()), rel=1e-14)
        run(two, b, 1)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-14)
    assert one.step() is None


def test_a_copy_takes_the_same_steps():
    w = parameter()
    optimizer = METHODS["adamw"]([w], penalty=pl.GroupMCP(LAM, gamma=2.0))
    run(optimizer, w, 3)
    twin_w, twin = copy.deepcopy((w, optimizer))
    assert twin.param_groups[0]["params"][0] is twin_w
    np.testing.assert_array_equal(run(optimizer, w, 5), run(twin, twin_w, 5))
