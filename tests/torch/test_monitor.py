"""What a monitor collects, against counting by hand in the loop."""

import copy
import csv
import sys
import types

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab.optim import TargetSparsity  # noqa: E402
from proxlab.torch import Monitor, ProxAdamW, ProxWrapper, group_sparsity, param_groups  # noqa: E402

pytestmark = pytest.mark.torch

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))


class Scalars:
    def __init__(self):
        self.seen = []

    def add_scalar(self, tag, value, step):
        self.seen.append((tag, value, step))


def made(kind="ProxAdamW", **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    groups = param_groups(model, pl.GroupLasso(0.2))
    if kind == "ProxWrapper":
        return model, ProxWrapper(torch.optim.NAdam(model.parameters(), lr=0.05), groups)
    return model, ProxAdamW(groups, lr=0.05, **options)


def run(model, optimizer, steps):
    """Train; returns what is counted by hand after each step."""
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        (model(X) - 1.0).square().mean().backward()
        optimizer.step()
        seen.append(group_sparsity(optimizer))
    return seen


@pytest.mark.parametrize("kind", ["ProxAdamW", "ProxWrapper"])
@pytest.mark.parametrize("every", [1, 3])
def test_records_are_what_is_counted_by_hand(kind, every, tmp_path):
    model, optimizer = made(kind)
    writer = Scalars()
    monitor = Monitor(optimizer, every=every, writer=writer)
    seen = run(model, optimizer, 9)
    monitor.close()
    run(model, optimizer, 3)
    assert [record["step"] for record in monitor.records] == list(range(every, 10, every))
    for record in monitor.records:
        counted = seen[record["step"] - 1]
        assert (record["sparsity"], record["weighted"]) == (counted.total.sparsity, counted.total.weighted)
        assert record["layers"] == {layer.name: layer.sparsity for layer in counted.layers}
        assert record["strength"] == 0.2
    assert monitor.records[-1]["sparsity"] > 0
    monitor.to_csv(tmp_path / "run.csv")
    with (tmp_path / "run.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "strength", "sparsity", "weighted", "0.weight", "2.weight"]
    assert [float(row["2.weight"]) for row in rows] == [r["layers"]["2.weight"] for r in monitor.records]
    tags = {tag for tag, _, _ in writer.seen}
    assert tags == {f"proxlab/{name}" for name in rows[0] if name != "step"}
    assert [(v, s) for tag, v, s in writer.seen if tag == "proxlab/sparsity"] == [
        (r["sparsity"], r["step"]) for r in monitor.records
    ]
    lines = str(monitor).splitlines()
    assert lines[0].split() == list(rows[0])
    assert len(lines) == 1 + len(rows)


def test_steps_are_the_same_and_bounds_come_along():
    model, optimizer = made(certify_every=2, sparsity=TargetSparsity(0.5, ramp="linear", ramp_steps=6))
    other = copy.deepcopy(model)
    twin = ProxAdamW(
        param_groups(other, pl.GroupLasso(0.2)), lr=0.05, certify_every=2,
        sparsity=TargetSparsity(0.5, ramp="linear", ramp_steps=6),
    )  # fmt: skip
    monitor = Monitor(optimizer, every=4)
    run(model, optimizer, 8)
    run(other, twin, 8)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    for record in monitor.records:
        entry = next(e for e in optimizer.history if e["step"] == record["step"])
        assert record["distance"] == entry["distance"]
        assert record["gap"] == entry["gap"]
        assert record["strength"] == pytest.approx(entry["lam"])
    assert monitor.records[-1]["sparsity"] == entry["sparsity"]
    # A copy of the optimizer is not looked at, and its state has nothing of the monitor.
    copied = copy.deepcopy(optimizer)
    copied.load_state_dict(optimizer.state_dict())
    copied.step()
    assert len(monitor.records) == 2


def test_long_trainings_are_shown_in_a_few_rows_and_drawn():
    model, optimizer = made(certify_every=1)
    monitor = Monitor(optimizer, every=1)
    run(model, optimizer, 30)
    lines = str(monitor).splitlines()
    assert len(lines) == 13
    assert (lines[1].split()[0], lines[-1].split()[0]) == ("1", "30")
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    figure = monitor.plot()
    above, below = figure.axes
    assert [line.get_label() for line in above.lines] == ["0.weight", "2.weight", "all groups"]
    assert list(above.lines[-1].get_ydata()) == [record["sparsity"] for record in monitor.records]
    assert {line.get_label() for line in below.lines} >= {"strength", "distance"}
    import matplotlib.pyplot as plt

    plt.close(figure)


def test_a_notebook_shows_one_table_that_is_refreshed(monkeypatch):
    shown = []

    class Handle:
        def update(self, thing):
            shown.append(("update", str(thing).count("\n")))

    def display(thing, display_id):
        shown.append(("display", str(thing).count("\n")))
        return Handle()

    module = types.ModuleType("IPython")
    module.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    screen = types.ModuleType("IPython.display")
    screen.display = display
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", screen)
    monkeypatch.setattr("proxlab.torch.monitor.SECONDS", 0.0)
    model, optimizer = made()
    monitor = Monitor(optimizer, every=2)
    run(model, optimizer, 4)
    monitor.close()
    assert shown == [("display", 1), ("update", 2), ("update", 2)]
    assert monitor._repr_html_() == f"<pre>{monitor}</pre>"


def test_what_does_not_fit_is_refused(monkeypatch):
    model, optimizer = made()
    with pytest.raises(TypeError, match="optimizer: must be"):
        Monitor(model)
    with pytest.raises(ValueError, match="no param group has a penalty"):
        Monitor(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="every: must be"):
        Monitor(optimizer, every=0)
    with pytest.raises(TypeError, match=r"writer: must have add_scalar"):
        Monitor(optimizer, writer=3)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="writer: a folder needs TensorBoard"):
        Monitor(optimizer, writer="runs")
