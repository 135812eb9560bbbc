import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import proxlab as pl
from analysis import ensembles, roofline, speed, speed_against, speed_cases, speed_cuda, speed_targets
from analysis.cli import app
from analysis.results import Profile, ResultsDir


def test_interleaved_ratio_finds_a_known_factor():
    seconds = speed.interleave({"a": lambda: time.sleep(0.004), "b": lambda: time.sleep(0.012)}, repeats=3)
    assert [len(times) for times in seconds.values()] == [3, 3]
    assert speed.ratio(seconds, "b", "a") == pytest.approx(3, rel=0.4)


def test_ratio_is_the_median_of_rounds():
    assert speed.ratio({"a": [1.0, 2.0, 1.0], "b": [2.0, 8.0, 3.0]}, "b", "a") == 3.0


@pytest.mark.parametrize(("at_least", "below", "above"), [(False, True, False), (True, False, True)])
def test_targets(at_least, below, above):
    target = speed_targets.Target("x", 2.0, at_least)
    assert target.met(1.9) == below
    assert target.met(2.1) == above
    assert target.met(2.0)


def test_half_of_the_groups_vanish():
    x, d, lam = speed.make((40, 30), 0, "float32", seed=0)
    norms = np.linalg.norm((x * d).astype(float), axis=0)
    assert (norms > speed.STEP * lam).sum() == 15


def test_layouts_give_the_published_code_the_groups_of_prox():
    for shape, axis, view in speed.LAYOUTS.values():
        a = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
        np.testing.assert_allclose(view(a).sum(axis=(0, 1)), a.sum(axis=axis))
        assert np.shares_memory(view(a), a)


def test_units_can_be_selected():
    profile = Profile()
    names = speed.units(profile, [1], 9, ["strided", "import"])
    assert {name.split("-")[0] for name in names} == {"strided", "import"}
    assert len(speed.units(profile, [1], 9)) > len(names)


def test_measures_and_reports(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "SHAPES", ((16, 12), (8, 6)))
    layout = {"columns": ((16, 12), 0, lambda a: a[None])}
    monkeypatch.setattr(speed, "LAYOUTS", layout)
    monkeypatch.setattr(speed, "SIZES", (10**5, 10**5, 2 * 10**5))
    monkeypatch.setattr(ensembles, "CAPTURED", {})
    results = ResultsDir(tmp_path)
    only = ["contiguous", "strided", "passes", "published", "flatness", "iterations"]
    speed.run(Profile(), results, print, threads=(1,), repeats=2, only=only)
    frame = speed.table(results.read("speed"))
    rows = {
        "contiguous",
        "contiguous-roofline",
        "strided",
        "strided-roofline",
        "mcp",
        "solve",
        "certify",
        "flat",
        "iterations-any",
        "proxssi8",
        "ramda-error",
    }
    assert rows <= set(frame["row"])
    assert np.isfinite(frame["measured"]).all()
    section = speed.section(results)
    names = {"targets", "multiply", "published", "passes", "flatness"}
    assert {item.name for item in section.items} == names
    evaluations = [
        unit.values["evaluations"] for unit in results.read("speed").units if "passes" in unit.name
    ]
    assert all(counts["all zero"] < counts["half zero"] < counts["none zero"] for counts in evaluations)


def test_steps_are_compared_over_half_zero_networks(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from analysis import speed_steps

    network = [(10, 8), (10,), (6, 4, 3, 3), (700, 90)]
    monkeypatch.setattr(speed_steps, "NETWORKS", {"tiny": lambda: network})
    results = ResultsDir(tmp_path)
    only = ["step-tiny", "proxssi"]
    speed.run(Profile("full"), results, print, threads=(1,), repeats=3, only=only)
    stored = results.read("speed")
    # Half of the groups are zero in each, also after the steps.
    assert all(set(np.atleast_1d(unit.values["zero"])) == {0.5} for unit in stored.units)
    frame = speed.table(stored)
    fused = {"step-fused-rows", "step-fused-columns"}
    assert set(frame["row"]) == fused | {"step-roofline", "step-default", "step-proxssi"}
    assert set(frame["case"]) == {f"tiny {name}" for name in speed_steps.GROUPINGS}
    assert (frame["measured"] > 0).all()


def test_networks_have_their_published_sizes():
    pytest.importorskip("torch")
    from analysis.speed_steps import NETWORKS

    # of torchvision 0.20 and transformers 4.46
    sizes = {name: sum(int(np.prod(shape)) for shape in make()) for name, make in NETWORKS.items()}
    assert sizes == {"VGG16": 138_357_544, "ResNet50": 25_557_032, "BERT-base": 109_482_240}


def test_a_word_that_names_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="begins with nonsense: there are contiguous"):
        speed.run(Profile(), ResultsDir(tmp_path), print, only=["nonsense"])
    assert not (tmp_path / "speed").exists()


def test_an_interval_of_the_median_by_the_order_of_the_values():
    assert speed_against.interval(list(range(6))) == (0.0, 5.0)
    # Of nine values, two on each side of these are outside with 2 (1 + 9)/512.
    assert speed_against.interval([5, 1, 4, 2, 3, 9, 7, 8, 6]) == (2.0, 8.0)


def test_a_checkout_against_itself():
    said = []
    only = ["prox small"]
    found = speed_against.run(speed_against.HERE, said.append, only=only, rounds=4)
    names = [name for name in speed_cases.available() if name.startswith(tuple(only))]
    assert [row.case for row in found] == names
    for row in found:
        assert not row.failure
        assert row.low <= row.ratio <= row.high
        assert 0.05 < row.ratio < 20
    assert len(said) == 1 + len(found)


def test_a_case_that_a_checkout_does_not_know_is_no_end(monkeypatch):
    monkeypatch.setitem(speed_cases.CASES, "prox nowhere", lambda: int)
    (row,) = speed_against.run(speed_against.HERE, print, only=["prox nowhere"], rounds=2)
    assert row.failure.startswith("not here: KeyError")


def test_what_is_no_checkout_is_refused(tmp_path):
    done = CliRunner().invoke(app, ["speed", "--against", str(tmp_path)])
    assert done.exit_code == 1
    assert "is no checkout of proxlab" in done.stdout
    done = CliRunner().invoke(app, ["speed", "--against", str(speed_against.HERE), "--only", "nothing"])
    assert done.exit_code == 2


def test_the_roofline_is_measured():
    for dtype in ("float32", "float64"):
        found = roofline.throughput(dtype)
        assert 0 < found.division < 100
        assert 0 < found.root < 100
    assert roofline.Operations(2.0, 1.0).nanoseconds("float64", 2) == found.division + found.root / 2
    x, d = np.arange(10.0), np.full(10, 3.0)
    for threads in (1, 3):
        z = np.zeros(10)
        roofline.memory_pass(x, d, z, threads)()
        np.testing.assert_array_equal(z, 3 * x)


def test_kinds_of_steps_are_compared(monkeypatch):
    pytest.importorskip("torch")
    from analysis import speed_steps

    small = {name: speed_cases.STEPS[name] for name in ("step columns", "step kernels", "step 200 of 64x64")}
    monkeypatch.setattr(speed_cases, "STEPS", small)
    monkeypatch.setattr(speed_cases, "SIZES", {name: speed_cases.SIZES[name] for name in small})
    values = speed_steps.measure_kinds(2).values
    assert set(values["rows"]) == {"step-many|1", "step-kinds|1"}
    assert values["cases"]["step-kinds|1"].startswith("the slowest, ")


@pytest.mark.torch
def test_steps_are_measured_for_each_network(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(speed_cuda, "networks", lambda: {"small": lambda: torch.nn.Linear(5, 4)})
    lines = []
    speed_cuda.steps(lines.append, "cpu")
    name, *times = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    assert name == "small"
    assert len(times) == 4
    assert all(0.0 <= float(t) < 1e3 for t in times)


class Event:
    """An event of a device that does all at once."""

    at = 0.0

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass


def test_proxes_are_measured_for_each_case(monkeypatch):
    """The record of a device, of one that is NumPy."""
    runtime = SimpleNamespace(
        getDeviceProperties=lambda _: {"name": b"none"},
        runtimeGetVersion=lambda: 0,
        driverGetVersion=lambda: 0,
    )
    cuda = SimpleNamespace(
        Event=Event, Device=lambda: SimpleNamespace(id=0), runtime=runtime,
        get_elapsed_time=lambda a, b: 1e3 * (b.at - a.at),
    )  # fmt: skip
    names = ("asarray", "exp", "median", "sqrt", "sum", "empty_like", "empty", "copyto")
    cupy = SimpleNamespace(cuda=cuda, __version__="none", **{name: getattr(np, name) for name in names})
    monkeypatch.setattr(speed_cuda, "_cupy", lambda: cupy)
    monkeypatch.setattr(speed_cuda, "version", lambda name: "none")
    monkeypatch.setattr(speed_cuda, "find_spec", lambda name: None)
    monkeypatch.setattr(speed_cuda, "CASES", {"small": ((6, 4), "float32", (1,))})
    plain = {name: partial(on_the_cpu, getattr(pl, name)) for name in ("prox", "solve")}
    monkeypatch.setattr(speed_cuda, "pl", SimpleNamespace(**(vars(pl) | plain)))
    lines = []
    speed_cuda.run(lines.append)
    rows = [
        line.strip().strip("|").split("|") for line in lines if line.strip().startswith(("| case", "| small"))
    ]
    cells = {name.strip(): cell.strip() for name, cell in zip(*rows, strict=True)}
    assert cells.pop("case") == "small"
    assert cells.pop("shape") == "6×4"
    assert cells.pop("AdamW") == "no torch"
    assert set(cells) == {"copy", "fused", "on the device", "in copies", "checked", "explained", "array form"}
    assert all(0.0 <= float(t) < np.inf for t in cells.values())
    assert float(cells["array form"]) > float(cells["copy"])


def on_the_cpu(call, *args, backend, **options):
    return call(*args, **options)
