"""A run that is saved and resumed equals one that was never interrupted, to the last bit."""

import os

import numpy as np
import pytest

import proxlab as pl
from proxlab import optim
from tests.optim.methods import METHODS

SHAPES = {"w": (6, 4), "v": (3, 5)}


def start(xp=None, seed=0):
    rng = np.random.default_rng(seed)
    asarray = np.asarray if xp is None else xp.asarray
    return {k: [asarray(rng.normal(size=shape))] for k, shape in SHAPES.items()}


def steps(optimizer, params, state, seed, count, xp=None):
    rng = np.random.default_rng(seed)
    asarray = np.asarray if xp is None else xp.asarray
    for _ in range(count):
        grads = {k: [asarray(rng.normal(size=shape))] for k, shape in SHAPES.items()}
        params, state = optimizer.step(params, grads, state, loss=float(rng.normal()))
    return params, state


OPTIONS = {
    "plain": {},
    "driven": {"sparsity": optim.TargetSparsity(0.5, method="multiplicative", every=2)},
    "inexact": {
        "inexactness": (pl.inexactness.Distance, pl.inexactness.SquareSummable(1e-2)),
        "certify_every": 2,
        "root_finder": pl.Bisection(),
    },
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("options", OPTIONS)
def test_a_resumed_run_equals_an_uninterrupted_one(name, options, tmp_path):
    optimizer, penalty = METHODS[name](**OPTIONS[options]), pl.GroupLasso(0.3)
    params = start()
    params, state = steps(optimizer, params, optimizer.init(params, penalty), 1, 5)
    optim.save(tmp_path / "run.npz", params, state)
    whole, end = steps(optimizer, params, state, 2, 5)
    fresh = start(seed=9)
    again, state = optim.load(tmp_path / "run.npz", fresh, optimizer.init(fresh, penalty))
    assert state.step == 5
    again, resumed = steps(optimizer, again, state, 2, 5)
    for k in SHAPES:
        np.testing.assert_array_equal(again[k][0], whole[k][0])
    assert resumed.history == end.history
    assert resumed.sparsity == end.sparsity
    assert (resumed.iterations, resumed.weight_sum) == (end.iterations, end.weight_sum)
    for place, slots in end.slots.items():
        for slot, a in slots.items():
            np.testing.assert_array_equal(resumed.slots[place][slot], a)


def test_arrays_come_back_as_what_they_were(xp, tmp_path):
    optimizer, params = optim.ProxAdamW(), start(xp)
    params, state = steps(optimizer, params, optimizer.init(params, pl.GroupLasso(0.1)), 1, 2, xp)
    optim.save(tmp_path / "run.npz", params, state)
    again, _ = optim.load(tmp_path / "run.npz", start(xp), optimizer.init(start(xp), pl.GroupLasso(0.1)))
    np.testing.assert_array_equal(xp.to_numpy(again["w"][0]), xp.to_numpy(params["w"][0]))


def test_a_file_is_complete_or_what_it_was(tmp_path, monkeypatch):
    optimizer, path = optim.ProxSGD(), tmp_path / "run.npz"
    params = start()
    state = optimizer.init(params, pl.GroupLasso(0.1))
    optim.save(path, params, state)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    later = steps(optimizer, params, state, 1, 1)
    with pytest.raises(OSError, match="no space left"):
        optim.save(path, *later)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run.npz"]


def saved(tmp_path):
    optimizer, params = optim.ProxAdam(), start()
    optim.save(tmp_path / "run.npz", params, optimizer.init(params))
    return tmp_path / "run.npz"


def test_what_does_not_fit_is_refused(tmp_path):
    path, params = saved(tmp_path), start()
    with pytest.raises(ValueError, match="holds the state of another optimizer than ProxSGD"):
        optim.load(path, params, optim.ProxSGD().init(params))
    more = params | {"u": np.ones(2)}
    with pytest.raises(ValueError, match=r"does not hold the exp_avg of params\['u'\], unlike"):
        optim.load(path, more, optim.ProxAdam().init(more))
    less = {"w": params["w"]}
    with pytest.raises(ValueError, match=r"holds the exp_avg of params\['v'\]\[0\], unlike"):
        optim.load(path, less, optim.ProxAdam().init(less))
    single = {k: [v[0].astype(np.float32)] for k, v in params.items()}
    with pytest.raises(ValueError, match=r"holds the .*params\['w'\]\[0\] in shape .* float64, not in"):
        optim.load(path, single, optim.ProxAdam().init(single))


@pytest.mark.parametrize("content", [b"", b"not a file of arrays", "npy", "npz"])
def test_another_file_is_refused(content, tmp_path):
    path = tmp_path / "run.npz"
    if content == "npy":
        with open(path, "wb") as file:
            np.save(file, np.ones(3))
    elif content == "npz":
        np.savez(path, a=np.ones(3))
    else:
        path.write_bytes(content)
    params = start()
    with pytest.raises(ValueError, match=r"is not a file that proxlab\.optim\.save has written"):
        optim.load(path, params, optim.ProxAdam().init(params))


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    params = start()
    with pytest.raises(FileNotFoundError):
        optim.load(tmp_path / "none.npz", params, optim.ProxAdam().init(params))
