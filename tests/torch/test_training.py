"""Short real training runs have to reach a stated accuracy and sparsity: handwritten digits, some seconds."""

import pytest

torch = pytest.importorskip("torch")
datasets = pytest.importorskip("sklearn.datasets")

from torch import nn  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab import torch as pt  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def digits():
    data = datasets.load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    test = torch.arange(len(y)) % 4 == 0
    return x[~test], y[~test], x[test], y[test]


def perceptron():
    layers = nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    return nn.Sequential(nn.Flatten(), *layers)


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def accuracy(model, x, y):
    with torch.no_grad():
        return float((model.eval()(x).argmax(dim=1) == y).float().mean())


def train(model, optimizer, digits, epochs):
    """Return the share of right answers to what was not trained on."""
    x, y, test_x, test_y = digits
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=epochs)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
        scheduler.step()
    return accuracy(model, test_x, test_y)


RUNS = {
    # network, optimizer, penalty and epochs; accuracy and weighted group sparsity that the run has to reach
    "ProxAdamW": (convolutional, pt.ProxAdamW, pl.GroupMCP(2e-2, gamma=100.0), 10, 0.97, 0.6),
    "RAMDA": (perceptron, pt.RAMDA, pl.GroupLasso(1e-2), 30, 0.93, 0.5),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_sparse_network_reads_digits(digits, name):
    make_network, make_optimizer, penalty, epochs, least_accuracy, least_sparsity = RUNS[name]
    torch.manual_seed(0)
    model = make_network()
    optimizer = make_optimizer(pt.param_groups(model, penalty), lr=1e-2)
    assert train(model, optimizer, digits, epochs) >= least_accuracy
    assert pt.group_sparsity(optimizer).total.weighted >= least_sparsity
