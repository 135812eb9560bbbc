"""Under ``torch.compile`` everything runs as it does without: the tracer breaks its graph and stays out."""

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab import torch as pt  # noqa: E402
from proxlab.optim import TargetSparsity  # noqa: E402
from tests.torch.methods import ONE_EACH  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    # PyTorch's own, where it compiles any training step.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

X = torch.linspace(-1.0, 1.0, 60).reshape(10, 6)


def network():
    """One whose first layers have gradients that are exactly zero, so that their metric is ``eps``."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3))
    nn.init.zeros_(model[4].weight)
    return model


def trained(make, how, backend, steps=3):
    torch._dynamo.reset()
    model = network()
    optimizer = make(pt.param_groups(model, pl.GroupLasso(1e-9)))

    def backward():
        optimizer.zero_grad()
        loss = (model(X) - 1.0).square().mean()
        loss.backward()
        return loss

    def whole():
        backward()
        optimizer.step()

    if how == "scheduled":
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0 / (1 + t))
        optimizer.register_step_post_hook(lambda *_: scheduler.step())
    compiled = torch.compile(optimizer.step, backend=backend)
    step = {
        "step": lambda: (backward(), compiled()),
        "scheduled": lambda: (backward(), (compiled if backend else optimizer.step)()),
        "whole": torch.compile(whole, backend=backend),
        "closure": lambda: compiled(backward),
        "eager": whole,
    }[how if backend else ("scheduled" if how == "scheduled" else "eager")]
    for _ in range(steps):
        step()
    return torch.cat([p.detach().flatten() for p in model.parameters()]), optimizer


HOWS = [*((how, "aot_eager") for how in ("step", "whole", "closure", "scheduled")), ("whole", "eager")]


@pytest.mark.parametrize(("how", "backend"), HOWS)
def test_a_compiled_step_is_the_step(how, backend):
    def make(groups):
        return pt.ProxAdamW(groups, lr=1e-2)

    assert torch.equal(trained(make, how, backend)[0], trained(make, how, None)[0])


PATHS = [
    ("RAMDA", {"fused": False}),
    ("LinBreg", {}),
    ("ProxAdamW", {"sparsity": TargetSparsity(0.3), "certify_every": 2}),
]


@pytest.mark.parametrize(("name", "options"), PATHS)
def test_other_methods_and_paths(name, options):
    def make(groups):
        return ONE_EACH[name](groups, **options)

    compiled, first = trained(make, "step", "aot_eager", steps=2)
    plain, second = trained(make, "step", None, steps=2)
    assert torch.equal(compiled, plain)
    assert first.history == second.history


VERBS = {
    "prox": lambda h, x, d: pl.prox(h, x, 0.7, metric=d),
    "certify": lambda h, x, d: pl.certify(h, 0.9 * x, x, 0.7, metric=d).distance,
    "value": lambda h, x, d: h.value(x),
}


@pytest.mark.parametrize("verb", VERBS)
def test_functions_of_the_package_are_what_they_are(verb):
    torch.manual_seed(1)
    x, d = torch.randn(6, 5, dtype=torch.float64), torch.rand(6, 5, dtype=torch.float64) + 1e-6
    d[0] = 1e-10
    h = pl.GroupMCP(0.5, gamma=3.0, weights="sqrt_size")

    def inside(x):
        return VERBS[verb](h, 2.0 * x, d) + 1.0

    torch._dynamo.reset()
    assert torch.equal(torch.compile(inside, backend="aot_eager")(x), inside(x))


FIRST = """
import torch, proxlab as pl, proxlab.torch as plt
def run(compiled):
    torch.manual_seed(0)
    p, q = torch.nn.Parameter(torch.randn(6, 6)), torch.nn.Parameter(torch.randn(4, 100))
    p.grad, q.grad = torch.randn(6, 6), torch.zeros(4, 100)
    optimizer = plt.ProxAdamW([p, q], lr=1e-2, penalty=pl.GroupLasso(1e-9))
    step = torch.compile(optimizer.step, backend="aot_eager") if compiled else optimizer.step
    step()
    step()
    return torch.cat([p.detach().flatten(), q.detach().flatten()])
a, b = run(True), run(False)
assert torch.equal(a, b), (a - b).abs().max()
"""


@pytest.mark.kernels
def test_a_compiled_step_may_be_the_first_of_a_process():
    run = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
