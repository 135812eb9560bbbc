"""Compacting odd networks: what cannot be cut stays and is named, and the rest goes."""

import copy
import importlib

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from proxlab.torch import compact  # noqa: E402
from proxlab.torch.tracing import operations  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def without_dropout(model):
    model = copy.deepcopy(model).double()
    for m in model.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    return model


def agree(model, small, *inputs):
    """Compare the outputs in evaluation and in training mode, dropout apart."""
    for training in (False, True):
        a, b = (without_dropout(m).train(training) for m in (model, small))
        with torch.no_grad():
            expected, found = a(*inputs), b(*inputs)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def fresh(*shape):
    return 3.0 * torch.randn(*shape, dtype=torch.float64) - 0.5


# Operations that compute a channel together with others, along axis 1.
MIXERS = {
    "softmax": lambda y: y.softmax(1),
    "log_softmax": lambda y: y.log_softmax(1),
    "cumsum": lambda y: y.cumsum(1),
    "sort": lambda y: y.sort(1).values,
    "argmax": lambda y: y + y.argmax(1, keepdim=True),
    "topk": lambda y: y * (y >= y.topk(2, 1).values[:, -1:]),
    "fft": lambda y: torch.fft.fft(y, dim=1).real,
    "mean": lambda y: y - y.mean(1, keepdim=True),
    "max": lambda y: y - y.amax(1, keepdim=True),
    "normalize": lambda y: F.normalize(y, dim=1),
    "layer_norm": lambda y: F.layer_norm(y, y.shape[1:]),
    "group_norm": lambda y: F.group_norm(y, 2),
    "flip": lambda y: y + y.flip(1),
    "roll": lambda y: y + y.roll(1, 1),
    "differences": lambda y: y[:, 1:] - y[:, :-1],
    "matmul": lambda y: y @ torch.arange(36.0, dtype=y.dtype).reshape(6, 6)[: y.shape[1], : y.shape[1]],
    "einsum": lambda y: torch.einsum("ni,nj->nij", y, y).flatten(1),
    "outer": lambda y: (y[:, :, None] * y[:, None]).flatten(1),
    "sum": lambda y: y * y.sum(1, keepdim=True).sigmoid(),
    "gather": lambda y: y.gather(1, y.argsort(1)),
    "local_response": lambda y: F.local_response_norm(y[:, :, None], 3)[:, :, 0],
    "unfold": lambda y: y.unfold(1, 3, 1).flatten(1),
    "cdist": lambda y: torch.cdist(y, y.flip(1)).mean(1, keepdim=True) + y,
    "quantile": lambda y: y - y.quantile(0.3, 1, keepdim=True),
    "index": lambda y: y[:, torch.arange(y.shape[1] - 1, -1, -1)] + y,
}


class Mixed(nn.Module):
    """A mixer between two linear layers, and a feed-forward block that can always be cut."""

    def __init__(self, mixer):
        super().__init__()
        self.mixer = mixer
        self.a = nn.Linear(4, 6)
        with torch.no_grad():
            width = self.mixer(torch.ones(3, 6)).shape[1]
        self.b = nn.Linear(width, 5)
        self.up, self.down = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.down(F.relu(self.up(self.b(self.mixer(self.a(x))))))


@pytest.mark.parametrize("kind", MIXERS)
def test_a_unit_behind_a_mixer_stays_and_the_rest_goes(kind):
    model = Mixed(MIXERS[kind])
    with torch.no_grad():
        model.b.weight[:, :2] = 0
        model.a.weight[3] = 0
        model.down.weight[:, :3] = 0
    small, report = compact(model, torch.randn(4, 4))
    agree(model, small, fresh(4, 4))
    assert small.up.out_features == 5
    # Here what is planted may go only where it provably does not matter: flips and outer products.
    if small.a.out_features == 6:
        assert {k.layer for k in report.kept} >= {"a"}


def blind():
    """A network whose outputs are all zero on ordinary inputs, so that comparing them shows nothing."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Softmax(1), nn.Linear(3, 1), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.05, 0.0], [0.0, 0.05], [0.05, 0.05]]))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.tensor([[10.0, 0.1, 0.0]]))
        model[2].bias.fill_(-6.0)
    return model, torch.tensor([[30.0, -20.0], [20.0, -10.0]]).double()


def test_a_softmax_is_kept_where_outputs_show_nothing():
    model, x = blind()
    small, report = compact(model, torch.randn(8, 2))
    agree(model, small, x)
    assert small[0].out_features == 3
    assert [(k.layer, k.what) for k in report.kept] == [("2", "inputs")]


def test_a_softmax_taken_for_elementwise_is_found(monkeypatch):
    model, x = blind()
    monkeypatch.setattr(operations, "ALONG", operations.ALONG - {"_softmax"})
    monkeypatch.setattr(operations, "POINTWISE", operations.POINTWISE | {"_softmax"})
    small, _ = compact(model, torch.randn(8, 2))
    with pytest.raises(AssertionError):
        agree(model, small, x)


class Counting(nn.Module):
    """Its code counts on six channels."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(3, 2), nn.Linear(2, 2)
        self.d = nn.Linear(2, 2)
        with torch.no_grad():
            self.b.weight[:, 0] = 0
            self.d.weight[:, 1] = 0

    def forward(self, x):
        return self.d(F.relu(self.c(self.b(self.a(x)[:, 1:4]))))


def test_a_removal_that_fails_leaves_no_trace():
    model = Counting()
    before = copy.deepcopy(model.state_dict())
    small, report = compact(model, torch.randn(5, 4))
    agree(model, small, fresh(5, 4))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (small.a.out_features, small.c.out_features) == (6, 1)
    assert torch.equal(small.a.weight, model.a.weight)
    assert [(k.layer, k.what, k.count) for k in report.kept] == [("b", "inputs", 1)]


class Branches(nn.Module):
    """A head that runs in training only, one that runs in another method only, and an early exit."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.aux = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 3)
        self.other, self.deep = nn.Linear(9, 2), nn.Linear(4, 9)

    def forward(self, x):
        y = self.body(x).relu()
        return (self.head(y), self.aux(y)) if self.training else self.head(y)

    def embed(self, x):
        return self.other(self.deep(x))


def test_branches_that_evaluation_does_not_run():
    model = Branches()
    with torch.no_grad():
        model.head.weight[:, :3] = 0
        model.aux.weight[:, :2] = 0
    small, report = compact(model.eval(), torch.randn(5, 4))
    agree(model, small, fresh(5, 4))
    assert small.body.out_features == 6
    assert report.idle == ("other", "deep")
    assert "did not run" in str(report)


def test_what_a_module_that_did_not_run_may_read_is_kept():
    model = Branches()
    model.forward = lambda x: model.head(model.body(x))
    with torch.no_grad():
        model.head.weight[:, :3] = 0
    small = copy.deepcopy(model)
    del model.forward, small.forward

    class Evaluated(Branches):
        def forward(self, x):
            return self.head(self.body(x))

    model.__class__ = Evaluated
    small, report = compact(model, torch.randn(5, 4))
    assert small.body.out_features == 8
    assert any("'aux', which did not run in the trace, may read it" in k.reason for k in report.kept)


class Masked(nn.Module):
    """A parameter that is used under conditions only."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(8))
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x, mask=None):
        y = F.relu(self.body(x))
        return self.head(y if mask is None else torch.where(mask, self.token, y))


def test_a_parameter_that_was_not_used_is_named():
    model = Masked()
    with torch.no_grad():
        model.head.weight[:, :5] = 0
    small, report = compact(model.eval(), torch.randn(4, 6))
    agree(model, small, fresh(4, 6))
    assert small.body.out_features == 8
    assert report.idle == ("token",)
    (kept,) = report.kept
    assert kept.reason == "'token', which was not used in the trace, may go with it"


class Experts(nn.Module):
    """The weights of some layers in one parameter, of which an operation takes those that it needs."""

    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 8, 6))
        self.down = nn.Parameter(torch.randn(3, 6, 8))
        self.plain = nn.Parameter(torch.zeros(3, 6))

    def forward(self, x):
        return torch.einsum("eij,ejk,bk->bi", self.down, F.relu(self.up), x) + self.plain.sum(0)


class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.both = nn.Linear(6, 8), nn.Bilinear(8, 8, 4)

    def forward(self, x):
        return self.both(self.body(x), self.body(x))


def test_what_is_zero_elsewhere_is_counted():
    model = nn.Sequential(Experts(), Bilinear())
    with torch.no_grad():
        model[0].up[:, :5] = 0
        model[0].down[:, :, :5] = 0
        model[1].both.weight[:, :3] = 0
    small, report = compact(model.eval(), torch.randn(4, 6))
    agree(model, small, fresh(4, 6))
    removed = report.parameters[0] - report.parameters[1]
    said = {(k.layer, k.what): k.count for k in report.kept}
    # The zeros of a layer of which nothing is said are gone.
    assert (
        removed > 0 or said["0", "slices of up along axis 1"] == said["0", "slices of down along axis 2"] == 5
    )
    assert said["1.both", "slices of weight along axis 1"] == 3
    assert not any("plain" in what for _, what in said)


@pytest.mark.parametrize("affine", [True, False])
def test_instance_norms_pass_channels_on(affine):
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=affine), nn.ReLU(), nn.Conv2d(6, 2, 1)
    )
    with torch.no_grad():
        model[3].weight[:, 1:3] = 0
    small, report = compact(model, torch.randn(2, 3, 7, 7))
    assert small[0].out_channels == small[1].num_features == 4
    assert not report.kept
    agree(model, small, fresh(2, 3, 7, 7))


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.g, self.o = nn.Linear(3, 4), nn.Linear(3, 1), nn.Linear(4, 2)

    def forward(self, x):
        return self.o(self.q(x) * self.g(x))


def test_a_gate_of_one_channel():
    model = Gate()
    with torch.no_grad():
        model.o.weight[:, 1] = 0
        model.q.weight[2] = model.q.bias[2] = 0
    small, _ = compact(model, torch.randn(5, 3))
    assert small.q.out_features == 2
    assert small.g.out_features == 1
    agree(model, small, fresh(5, 3))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_compiled_and_scripted_modules():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[2].weight[:, 1] = 0
    small, _ = compact(torch.compile(model, backend="eager"), torch.randn(2, 3))
    assert small[0].out_features == 3
    traced = torch.jit.trace(model, torch.randn(2, 3))
    with pytest.raises(ValueError, match="model: the model is compiled by TorchScript"):
        compact(traced, torch.randn(2, 3))


class Cross(nn.Module):
    """PyTorch's attention as it is often called: it returns weights too, which nobody looks at."""

    def __init__(self):
        super().__init__()
        self.q, self.attention = nn.Linear(4, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        with torch.no_grad():
            self.attention.out_proj.weight[:, :4] = 0

    def forward(self, x):
        return self.attention(self.q(x), self.q(x), self.q(x))[0]


def test_attention_whose_weights_nobody_looks_at():
    model = Cross()
    small, report = compact(model, torch.randn(2, 5, 4))
    assert [(r.layer, r.what, r.before, r.after) for r in report.removed] == [("attention", "heads", 2, 1)]
    assert not report.kept
    agree(model, small, fresh(2, 5, 4))


def test_weights_of_attention_that_are_an_output_keep_its_heads():
    class Shown(Cross):
        def forward(self, x):
            return self.attention(self.q(x), self.q(x), self.q(x))

    small, report = compact(Shown(), torch.randn(2, 5, 4))
    assert isinstance(small.attention, nn.MultiheadAttention)
    assert [(k.layer, k.what, k.count) for k in report.kept] == [("attention.out_proj", "inputs", 4)]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 6)
        with torch.no_grad():
            self.a.weight[:2] = 0

    def forward(self, x):
        return F.linear(F.relu(self.a(x)), self.a.weight.t())


def test_a_weight_that_is_read_and_transposed():
    model = Tied()
    small, report = compact(model, torch.randn(5, 4))
    agree(model, small, fresh(5, 4))
    assert [(r.layer, r.before, r.after) for r in report.removed] == [("a", 6, 4)]


def test_a_lazy_layer_is_refused_by_name():
    with pytest.raises(ValueError, match=r"model: '0\.weight' is not initialised yet"):
        compact(nn.Sequential(nn.LazyLinear(3)), torch.randn(2, 3))


def test_a_dead_network_is_called_dead():
    model = nn.Sequential(nn.Linear(3, 9), nn.ReLU(), nn.Linear(9, 2))
    with torch.no_grad():
        model[2].weight.zero_()
    _, report = compact(model, torch.randn(2, 3))
    assert report.dead
    assert str(report).startswith("The network is dead")
    assert not compact(nn.Linear(3, 2), torch.randn(2, 3))[1].dead


def test_a_limit_of_attempts_is_named(monkeypatch):
    monkeypatch.setattr(importlib.import_module("proxlab.torch.compaction"), "LIMIT_ATTEMPTS", 1)
    small, report = compact(Counting(), torch.randn(2, 4))
    assert small.c.out_features == 2
    assert {k.reason for k in report.kept} == {"the limit of 1 attempts or 120 seconds was reached"}


def test_a_limit_of_operations_is_named(monkeypatch):
    from proxlab.torch.tracing import tracer

    monkeypatch.setattr(tracer, "LIMIT_OPERATIONS", 3)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[2].weight[:, 1] = 0
    small, report = compact(model, torch.randn(2, 3))
    assert small[0].out_features == 4
    assert "more than 3 operations" in report.notes[0]
    assert [(k.layer, k.what, k.count) for k in report.kept] == [("2", "inputs", 1)]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("ends", ["last", "state"])
@pytest.mark.parametrize(("levels", "both"), [(2, False), (1, True), (2, True)])
def test_every_level_and_direction_of_a_recurrent_layer_loses_its_own_units(kind, ends, levels, both):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = kind(3, 6, num_layers=levels, bidirectional=both, batch_first=True)
            self.out = nn.Linear(6 * (1 + both) if ends == "last" else 6, 2)

        def forward(self, x):
            y, state = self.rnn(x)
            state = state[0] if isinstance(state, tuple) else state
            return self.out(y[:, -1] if ends == "last" else state[-1])

    torch.manual_seed(0)
    model, x = Reader(), torch.randn(3, 5, 3)
    for number, (weight, _, *rest) in enumerate(model.rnn._all_weights):
        # Other units in each.
        units = torch.tensor([number % 6, (number + 2) % 6, (number + 3) % 6])
        with torch.no_grad():
            for name in (weight, model.rnn._all_weights[number][1], *rest):
                p = getattr(model.rnn, name)
                p.view(-1, 6, *p.shape[1:])[:, units] = 0
    small, report = compact(model, x)
    assert [(r.layer, r.before, r.after) for r in report.removed] == [("rnn", 6, 3)]
    x = torch.randn(4, 7, 3)
    assert torch.allclose(small(x), model(x), atol=1e-5)
