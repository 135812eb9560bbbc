"""Which backend takes an array, and what is said where none can: none of this needs a device."""

import contextlib
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import array_api_strict
import numpy as np
import pytest

import proxlab as pl
from proxlab import optim
from proxlab.backends.cuda import launch
from tests import table

rng = np.random.default_rng(4)
X, D = rng.normal(size=(3, 4)), np.exp(rng.normal(size=(3, 4)))
INSTALLED = find_spec("numba_cuda") is not None and find_spec("cupy") is not None


def has_device():
    try:
        launch.check_device()
    except (ImportError, RuntimeError):
        return False
    return True


@pytest.fixture(autouse=True)
def _fresh():
    launch.check_device.cache_clear()
    yield
    launch.check_device.cache_clear()


def run(code):
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_the_extra(monkeypatch):
    monkeypatch.setattr(launch, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"^backend: .*numba-cuda.*proxlab\[cuda13\].*proxlab\[cuda12\]"):
        pl.prox(pl.GroupLasso(1.0), X, metric=D, backend="cuda")


@pytest.mark.skipif(not INSTALLED or has_device(), reason="needs proxlab[cuda13], and no device")
def test_without_a_device():
    for verb in (pl.prox, pl.solve):
        with pytest.raises(RuntimeError, match=r"^backend: .*no device.*driver.*CUDA_VISIBLE_DEVICES.*NumPy"):
            verb(pl.GroupLasso(1.0), X, metric=D, backend="cuda")


@pytest.mark.skipif(not INSTALLED or has_device(), reason="needs proxlab[cuda13], and no device")
def test_cupy_that_finds_no_device_is_no_obstacle_on_the_cpu():
    code = """
import cupy, numpy as np, proxlab as pl
try:
    cupy.zeros(1)
    raise SystemExit("there is a device")
except cupy.cuda.runtime.CUDARuntimeError:
    pass
x = np.arange(1.0, 7.0).reshape(2, 3)
s = pl.solve(pl.GroupLasso(1.0), x)
c = pl.certify(pl.GroupLasso(1.0), s.z, x)
print(bool(s.ok), float(c.total.distance) < 1e-12)
"""
    assert run(code) == "True True"


def test_a_numpy_array_is_not_on_a_device(monkeypatch):
    monkeypatch.setattr(launch, "check_device", lambda: None)
    with pytest.raises(TypeError, match=r"^backend: .*CuPy.*ndarray of float64.*cupy\.asarray"):
        pl.prox(pl.GroupLasso(1.0), X, metric=D, backend="cuda")


def test_a_context_that_is_not_the_device_s_own():
    class Gpus:
        def __getitem__(self, number):
            raise RuntimeError("Numba cannot operate on non-primary CUDA context 1f")

    device = object.__new__(launch.Device)
    device._cuda, device._library, device.number = SimpleNamespace(gpus=Gpus()), contextlib.nullcontext(), 1
    with pytest.raises(RuntimeError, match=r"^backend: .*device 1: .*non-primary.*primary context current"):
        device.__enter__()


def test_nothing_of_cuda_is_imported_on_the_cpu():
    code = """
import sys, numpy as np, array_api_strict, proxlab as pl
x = np.arange(1.0, 7.0).reshape(2, 3)
for a in (x, array_api_strict.asarray(x)):
    pl.certify(pl.GroupLasso(1.0), pl.prox(pl.GroupLasso(1.0), a), a)
print([m for m in ("cupy", "numba.cuda", "numba_cuda", "proxlab.backends.cuda") if m in sys.modules])
"""
    assert run(code) == "[]"


@pytest.fixture
def away():
    """Move arrays to a device that is not the default one."""
    device = array_api_strict.Device("device1")

    def move(a):
        return array_api_strict.asarray(a, device=device)

    move.device = device
    return move


def near(a, b):
    a = array_api_strict.asarray(a, device=array_api_strict.Device("CPU_DEVICE"))
    return np.allclose(np.asarray(a._array), b, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", table.GROUPS)
def test_the_array_form_stays_on_the_device(name, away):
    make, shape = table.GROUPS[name]
    x, d = rng.normal(size=shape), np.exp(rng.normal(size=shape))
    xa, da = away(x), away(d)
    penalties = (
        (pl.GroupLasso, 0.7),
        (pl.SparseGroupLasso, 0.2, 0.5),
        (pl.GroupMCP, 0.8, 1.3),
        (pl.GroupLinf, 0.8),
    )
    for kind, *parameters in penalties:
        penalty = kind(*parameters, groups=make())
        s, t = pl.solve(penalty, xa, 0.5, metric=da), pl.solve(penalty, x, 0.5, metric=d)
        c = pl.certify(penalty, s.z, xa, 0.5, metric=da)
        e = pl.envelope(penalty, xa, 0.5, metric=da)
        for a in (s.z, s.radius, s.status, s.value, *s.bracket, c.distance, c.gap, c.lower, e):
            assert a.device == away.device
        assert s.ok == t.ok
        assert near(s.z, t.z)
        assert near(e, pl.envelope(penalty, x, 0.5, metric=d))


@pytest.mark.parametrize("finder", table.ROOT_FINDERS, ids=table.ids(table.ROOT_FINDERS))
def test_every_root_finder_stays_on_the_device(finder, away):
    z = pl.prox(pl.GroupSCAD(0.7, a=2.4), away(X), 0.5, metric=away(D), root_finder=finder)
    assert z.device == away.device


OPTIMIZERS = [n for n in optim.__all__ if hasattr(getattr(optim, n), "step") and n != "Optimizer"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_stay_on_the_device(name, away):
    results = []
    for move in (away, np.asarray):
        optimizer = getattr(optim, name)()
        w = move(X)
        state = optimizer.init(w, pl.GroupLasso(0.1))
        for _ in range(3):
            w, state = optimizer.step(w, move(D - 1.0), state)
        results.append(w)
    assert results[0].device == away.device
    assert near(*results)


@pytest.mark.skipif(find_spec("cupy") is None, reason="CuPy is not installed")
def test_cupy_has_every_function_that_the_array_form_calls():
    code = """
import re, pathlib, proxlab, array_api_compat.cupy as xp
texts = [p.read_text() for p in pathlib.Path(proxlab.__file__).parent.rglob("*.py") if "torch" not in p.parts]
names = {name for text in texts for name in re.findall(r"\\bxp\\.([a-z_0-9.]+)", text)}
assert {"where", "astype", "linalg.vector_norm"} & names and len(names) > 30, names
def has(name):
    module = xp
    for part in name.rstrip(".").split("."):
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True
print([name for name in sorted(names) if not has(name)])
"""
    assert run(code) == "[]"


def test_arrays_on_two_devices(away):
    x, d = array_api_strict.asarray(X), array_api_strict.asarray(D)
    for arguments, name in (
        ({"metric": away(D)}, "metric"),
        ({"step": away(np.ones(3))}, "step"),
        ({"metric": d, "out": away(X)}, "out"),
    ):
        with pytest.raises(ValueError, match=rf"^{name}: must be on the device of x.*CPU.*device1"):
            pl.prox(pl.GroupLasso(1.0), x, **arguments)


def test_unchecked_values_are_the_caller_s(monkeypatch):
    x = array_api_strict.asarray(np.where(np.arange(12).reshape(3, 4) == 5, np.nan, X))
    with pytest.raises(ValueError, match=r"^x: must be finite"):
        pl.prox(pl.GroupLasso(1.0), x)
    z = np.asarray(pl.prox(pl.GroupLasso(1.0), x, check=False)._array)
    assert np.array_equal(z[[0, 2]], pl.prox(pl.GroupLasso(1.0), X[[0, 2]], backend="array_api"))
