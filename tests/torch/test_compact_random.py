"""Compacting random networks with random zeros: the same outputs in both modes, and every zero is named."""

import copy
import random

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd  # noqa: E402

from proxlab.torch import compact  # noqa: E402
from tests.torch import random_networks  # noqa: E402

pytestmark = pytest.mark.torch


def outputs(model, training, *inputs):
    model = copy.deepcopy(model).double().train(training)
    for m in model.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    with torch.no_grad():
        return model(*inputs)


def agree(model, small, *inputs):
    for training in (False, True):
        expected, found = (outputs(m, training, *inputs) for m in (model, small))
        size = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * size + 1e-12)


def unexplained(model, small, report):
    """Zero slices of weights that are still there, and that the report does not name."""
    named = {}
    for k in report.kept:
        named[k.layer, k.what] = named.get((k.layer, k.what), 0) + k.count
    for path, m in model.named_modules():
        if isinstance(m, (nn.Linear, _ConvNd)):
            after = small.get_submodule(path).weight
            axis = 1 if isinstance(m, _ConvTransposeNd) else 0
            sides = (
                {"outputs": axis}
                if isinstance(m, _ConvNd) and m.groups > 1
                else {"outputs": axis, "inputs": 1 - axis}
            )
            for what, d in sides.items():
                zero = int((m.weight == 0).movedim(d, 0).flatten(1).all(1).sum())
                gone = m.weight.shape[d] - after.shape[d]
                if zero > gone + named.get((path, what), 0):
                    yield path, what


@pytest.mark.parametrize("seed", range(30))
def test_convolutional_networks(seed):
    r = random.Random(seed)
    torch.manual_seed(seed)
    model = random_networks.plant(random_networks.Convolutional(r), r)
    small, report = compact(model, torch.randn(2, 3, 6, 6))
    agree(model, small, 3.0 * torch.randn(4, 3, 6, 6, dtype=torch.float64) + 0.5)
    assert not report.notes
    assert not report.idle
    assert not list(unexplained(model, small, report))


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("seed", range(12))
def test_recurrent_networks(seed):
    r = random.Random(seed)
    torch.manual_seed(seed)
    model = random_networks.plant(random_networks.Recurrent(r), r)
    small, report = compact(model, torch.randn(3, 4, 4))
    agree(model, small, 3.0 * torch.randn(2, 7, 4, dtype=torch.float64))
    assert not report.notes
    assert not list(unexplained(model, small, report))
    # A unit without weights is gone or named.
    rnn, after = model.rnn, small.rnn
    for end in random_networks.parts(rnn):
        rows = [p for n, p in rnn.named_parameters() if n.endswith(end) and "hr" not in n]
        rows = torch.cat([p.reshape(len(p), -1) for p in rows], 1).unflatten(0, (-1, rnn.hidden_size))
        zero = int((rows == 0).all(2).all(0).sum())
        kept = sum(k.count for k in report.kept if (k.layer, k.what) == ("rnn", "outputs"))
        assert zero <= rnn.hidden_size - after.hidden_size + kept
